"""The newest message between two processes, in shared memory: writing never waits, reading never waits."""

from __future__ import annotations

import struct
import zlib
from multiprocessing.context import SpawnContext
from typing import Any

from robopref.errors import RoboprefError

_HEAD = struct.Struct("<QIIQ")  # number before writing, length, checksum of number and message, number after writing
_NUMBER = struct.Struct("<Q")
_EXTENT = struct.Struct("<II")
_ATTEMPTS = 3


class SharedSlot:
    """Holds one message of bytes; putting replaces it. One process puts, one gets.

    A reader that meets a writer at work tries again, and then makes do with the message before, which it keeps: no lock
    is there for a killed process to take along. The checksum, not the order in which a processor writes, is what
    tells a whole message from a torn one.

    Made in one process, and handed to the other as an argument of its ``Process``.

    Args:
        context: the multiprocessing context of that process.
        size: bytes of the longest message.
    """

    def __init__(self, context: SpawnContext, size: int) -> None:
        self.size = size
        self._memory: Any = context.RawArray("B", _HEAD.size + size)
        self._put_number = 0
        self._got_number, self._kept = 0, b""

    def put(self, message: bytes | bytearray | memoryview) -> int:
        """Replace the message -> its number, counting from 1.

        Raises:
            RoboprefError: it is longer than the slot.
        """
        if len(message) > self.size:
            raise RoboprefError(f"a message of {len(message)} bytes does not fit into {self.size}.")
        view = memoryview(self._memory).cast("B")
        self._put_number += 1
        number = _NUMBER.pack(self._put_number)
        # Copied from packed bytes: struct.pack_into clears the memory before it writes, and a reader would see that.
        view[: _NUMBER.size] = number
        view[_HEAD.size : _HEAD.size + len(message)] = message
        end = _NUMBER.size + _EXTENT.size
        view[_NUMBER.size : end] = _EXTENT.pack(len(message), _checksum(number, message))
        view[end : _HEAD.size] = number
        return self._put_number

    def get(self) -> tuple[int, bytes]:
        """The newest whole message with its number; number 0 and no bytes before the first."""
        view = memoryview(self._memory).cast("B")
        for _ in range(_ATTEMPTS):
            begun, length, checksum, done = head = _HEAD.unpack_from(view, 0)
            if begun == self._got_number:
                break
            if begun != done or length > self.size:
                continue
            message = bytes(view[_HEAD.size : _HEAD.size + length])
            if _checksum(_NUMBER.pack(begun), message) == checksum and _HEAD.unpack_from(view, 0) == head:
                self._got_number, self._kept = begun, message
                break
        return self._got_number, self._kept


def _checksum(number: bytes, message: bytes | bytearray | memoryview) -> int:
    return zlib.crc32(message, zlib.crc32(number))
