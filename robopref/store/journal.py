"""The journal of a running episode: checksummed records in an append-only file, valid up to its last whole record.

A file is the magic bytes, then records of ``<length u32> <crc32 u32> <kind u8> <payload>``, the checksum covering kind
and payload. In order: INFO (the ``EpisodeInfo``; again whenever it is amended), SCHEMA before the first step, then
STEPs (the raw values of all columns), and END when the episode was finished in order.

Each record is one unbuffered write, so whatever a killed process had written is in the file. The checksum covers images
as well: crc32 runs at several GB/s, which is a sixth of a millisecond for a 480 x 480 colour image.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from time import monotonic
from typing import Any

from robopref.errors import RoboprefError
from robopref.store.encoding import ColumnSpec, Schema, info_from_json, schema_from_json
from robopref.trajectory import EpisodeInfo, Outcome

MAGIC = b"robopref journal 1\n"
_FRAME = struct.Struct("<II")
_SYNC_SECONDS = 1.0
_MAX_HEAD = 4096  # of the JSON in an INFO, SCHEMA or END record, as far as telling damage from a torn tail goes

Buffer = bytes | memoryview


class Kind(IntEnum):
    """What a record holds."""

    INFO = 1
    SCHEMA = 2
    STEP = 3
    END = 4


class JournalWriter:
    """Appends records to a new journal and holds its lock, which tells other processes that the writer lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        # flock, not lockf: a POSIX lock would be lost when this process opens the file a second time to look at it.
        # Who looks whether it is abandoned may hold it for a moment.
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        # Syncing may take long on a slow disk; a thread keeps it out of the control loop.
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="journal-sync")
        self._sync: Future[None] | None = None
        self._synced_at = monotonic()
        try:
            self._write([MAGIC])
        except OSError:
            self.close()
            path.unlink()
            raise

    def append(self, kind: Kind, parts: Sequence[Buffer]) -> None:
        """Append one record.

        Raises:
            OSError: it could not be written whole (a full disk), or what was written before did not reach the disk;
                the journal is as it was before.
        """
        self._sync_now_and_then()
        crc = zlib.crc32(bytes([kind]))
        for part in parts:
            crc = zlib.crc32(part, crc)
        self._write([_FRAME.pack(sum(len(part) for part in parts), crc) + bytes([kind]), *parts])

    def close(self) -> None:
        """Release the journal; it stays on the disk."""
        self._syncer.shutdown(wait=True)
        os.close(self._fd)

    def _sync_now_and_then(self) -> None:
        if monotonic() - self._synced_at >= _SYNC_SECONDS and (self._sync is None or self._sync.done()):
            sync, self._sync = self._sync, None
            if sync is not None:
                sync.result()  # raises what the last sync met, once: there may be room again
            self._synced_at = monotonic()
            self._sync = self._syncer.submit(os.fdatasync, self._fd)

    def _write(self, parts: Sequence[Buffer]) -> None:
        before = os.fstat(self._fd).st_size
        total = sum(len(part) for part in parts)
        try:
            written = os.writev(self._fd, parts)
            if written < total:
                rest = memoryview(b"".join(parts))[written:]
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
        except BaseException:  # Ctrl-C as well: half a record must not stay in the middle
            os.ftruncate(self._fd, before)
            raise


@dataclass(frozen=True)
class JournalContent:
    """What the valid part of a journal holds.

    ``steps`` are the offsets in the file of the steps' payloads; ``final_observation`` is the offset of its bytes, or
    None when it was lost or never seen. ``damaged`` says that the cut tail is more than a record left unfinished.
    """

    info: EpisodeInfo | None = None
    schema: dict[str, ColumnSpec] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    final_observation: int | None = None
    discarded: bool = False
    damaged: bool = False


def end_payload(outcome: Outcome, final_observation: Iterable[Buffer] | None, *, discarded: bool) -> list[Buffer]:
    """The parts of an END record."""
    head = {"outcome": outcome, "discarded": discarded, "final_observation": final_observation is not None}
    text = json_bytes(head)
    return [struct.pack("<I", len(text)), text, *(final_observation or ())]


def read_journal(data: mmap.mmap | bytes) -> JournalContent:
    """Scan a journal up to its last whole record.

    Raises:
        RoboprefError: a whole, undamaged record that this version cannot understand.
    """
    if data[: len(MAGIC)] != MAGIC:
        return JournalContent(damaged=len(data) >= len(MAGIC))
    content: dict[str, Any] = {"steps": []}
    offset = len(MAGIC)
    damaged = False
    with memoryview(data) as view:
        while offset < len(view):
            body = offset + _FRAME.size + 1
            if body > len(view):
                break
            length, crc = _FRAME.unpack_from(view, offset)
            if body + length > len(view):
                break
            with view[body - 1 : body + length] as checked:
                if zlib.crc32(checked) != crc:
                    damaged = True
                    break
            _read_record(view[body - 1], view, body, length, content)
            offset = body + length
    content.setdefault("schema", {})
    damaged = damaged or len(data) - offset > _longest_record(content["schema"])
    return JournalContent(**content, damaged=damaged)


def _longest_record(schema: Schema) -> int:
    """Bytes that a STEP or END record can have: a longer tail holds more than one record, the first one broken."""
    return _FRAME.size + 1 + _MAX_HEAD + sum(spec.nbytes for spec in schema.values())


def _read_record(kind: int, view: memoryview, body: int, length: int, content: dict[str, Any]) -> None:
    if kind == Kind.STEP:
        content["steps"].append(body)
    elif kind == Kind.INFO:
        content["info"] = info_from_json(bytes(view[body : body + length]))
    elif kind == Kind.SCHEMA:
        content["schema"] = schema_from_json(json.loads(bytes(view[body : body + length])))
    elif kind == Kind.END:
        (text_length,) = struct.unpack_from("<I", view, body)
        text_end = body + 4 + text_length
        head = json.loads(bytes(view[body + 4 : text_end]))
        content["info"] = replace(content["info"], outcome=Outcome(head["outcome"]))
        content["discarded"] = head["discarded"]
        content["final_observation"] = text_end if head["final_observation"] else None
    else:
        raise RoboprefError(f"the journal holds a record of unknown kind {kind}: upgrade robopref to read it.")


def open_abandoned(path: Path) -> int | None:
    """Open and lock a journal whose writer is gone -> its file descriptor; None while the writer lives or is done."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its writer may have finished and removed it between our opening and our locking it.
        if os.fstat(fd).st_nlink > 0:
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def is_abandoned(path: Path) -> bool:
    """Whether a journal is there and its writer is gone, found out without writing anything.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # As in ``open_abandoned``: it may have been finished and removed meanwhile.
            return os.fstat(file.fileno()).st_nlink > 0
    except (FileNotFoundError, BlockingIOError):
        return False


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a file, memory-mapped (``bytes`` when it is empty, which cannot be mapped)."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def json_bytes(value: Any) -> bytes:
    """A JSON value as a record's payload."""
    return json.dumps(value).encode()


def disk_full(error: OSError) -> bool:
    """Whether writing failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_error(error: OSError, path: Path, safe: str) -> RoboprefError:
    """The user's version of a failed write; ``safe`` says what is not lost."""
    if disk_full(error):
        return RoboprefError(f"the disk is full: cannot write {path}. {safe}; free some space and go on.")
    return RoboprefError(f"cannot write {path}: {error.strerror}. {safe}.")
