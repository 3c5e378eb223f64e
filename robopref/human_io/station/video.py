"""Pictures for the pages: the newest frame only, as JPEG, as fast as each page acknowledges and no faster."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import deque
from dataclasses import dataclass

import cv2
from aiohttp import WSMsgType, web

from robopref.human_io.frames import Frame, FrameSlot
from robopref.human_io.station.messages import MalformedMessageError, parse_video
from robopref.human_io.station.security import MAX_MESSAGE, RateLimit

HEADER = struct.Struct("<Id")
"""What precedes the JPEG in a message: the frame's number, and the server's milliseconds at its capture."""

_IN_FLIGHT = 2  # one being decoded while the next is on its way
_QUALITY = 82
_WAIT = 0.5  # seconds between looks at whether the feed is to end
_ACKS_PER_SECOND, _ACK_BURST = 120, 240
_SHOWN_KEPT = 100_000


@dataclass(frozen=True)
class Picture:
    """A frame as JPEG."""

    number: int
    message: bytes


class CameraFeed:
    """Encodes the frames of one camera in a thread of its own, and only while somebody waits for one.

    Args:
        slot: where the frames are.
        loop: on which pages wait.
    """

    def __init__(self, slot: FrameSlot, loop: asyncio.AbstractEventLoop) -> None:
        self.shown_ms: deque[float] = deque(maxlen=_SHOWN_KEPT)  # ages at which pages showed frames, for benchmarks
        self._slot, self._loop = slot, loop
        self._picture: Picture | None = None
        self._arrived = asyncio.Event()
        self._waiting = 0
        self._wanted = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._encode, name="station-camera", daemon=True)
        self._thread.start()

    async def next(self, after: int) -> Picture:
        """The newest picture with a number above ``after``, as soon as there is one."""
        picture, newest = self._picture, self._slot.get()
        # What was encoded before the last visitor left may be old: it is sent only while it is the newest.
        if picture is not None and newest is not None and picture.number == newest.number > after:
            return picture
        self._waiting += 1
        self._wanted.set()
        try:
            while True:
                self._arrived.clear()
                await self._arrived.wait()
                if self._picture is not None and self._picture.number > after:
                    return self._picture
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wanted.set()
        self._thread.join(timeout=5)

    def _encode(self) -> None:
        number = 0
        while not self._closed:
            if not self._wanted.wait(_WAIT):
                continue
            frame = self._slot.wait(number, _WAIT)
            if frame is None or self._closed:
                continue
            number = frame.number
            picture = Picture(number, HEADER.pack(number & 0xFFFFFFFF, frame.captured_ns / 1e6) + _jpeg(frame))
            try:
                self._loop.call_soon_threadsafe(self._publish, picture)
            except RuntimeError:  # the loop is closed: the station has ended
                return

    def _publish(self, picture: Picture) -> None:
        self._picture = picture
        self._arrived.set()


async def stream(socket: web.WebSocketResponse, feed: CameraFeed) -> None:
    """Show a feed on a page until the page is gone; a page that acknowledges late skips frames."""
    room = asyncio.Semaphore(_IN_FLIGHT)
    unacknowledged: set[int] = set()

    async def send() -> None:
        number = 0
        while True:
            await room.acquire()
            picture = await feed.next(number)
            number = picture.number
            unacknowledged.add(number)
            await socket.send_bytes(picture.message)

    sender = asyncio.create_task(send())
    limit = RateLimit(_ACKS_PER_SECOND, _ACK_BURST)
    try:
        async for message in socket:
            if message.type is not WSMsgType.TEXT or len(message.data) > MAX_MESSAGE or not limit.take():
                raise MalformedMessageError("not an acknowledgement")
            shown = parse_video(message.data)
            if shown.frame not in unacknowledged:
                raise MalformedMessageError("that picture was not sent")
            unacknowledged.remove(shown.frame)
            feed.shown_ms.append(shown.age_ms)
            room.release()
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


def _jpeg(frame: Frame) -> bytes:
    blue_first = cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, "a frame of the right type can always be encoded"
    return data.tobytes()
