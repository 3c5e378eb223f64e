"""The station's end of a page's control socket: what it is told, and in which order."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from aiohttp import web

_MAX_NEWS = 64


class Visitor:
    """One connected page.

    News (who drives, the mapping, notices) arrive all and in order; of the status only the newest is ever sent, so
    that a page behind a slow line is late but not ever later.

    Args:
        number: which visitor, as its session says.
        socket: the control socket.
        status: the newest status as JSON values, None before the first.
    """

    def __init__(self, number: int, socket: web.WebSocketResponse, status: Callable[[], dict[str, Any] | None]) -> None:
        self.number = number
        self.socket = socket
        self._status = status
        self._news: deque[dict[str, Any]] = deque(maxlen=_MAX_NEWS)
        self._wake = asyncio.Event()
        self._status_due = False
        self._sent_ms: float | None = None
        self._received = 0.0

    def tell(self, kind: str, **values: Any) -> None:
        """Send news."""
        self._news.append({"type": kind, **values})
        self._wake.set()

    def status_changed(self) -> None:
        """There is a newer status to be sent."""
        self._status_due = True
        self._wake.set()

    def heard(self, sent_ms: float) -> None:
        """The page's clock said so just now; it is echoed, for the page to reckon the server's clock from."""
        self._sent_ms, self._received = sent_ms, time.monotonic()

    async def send_forever(self) -> None:
        """Send what there is as it comes, until cancelled or the socket is gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._news:
                await self.socket.send_str(json.dumps(self._news.popleft()))
            if self._status_due and (status := self._status()) is not None:
                self._status_due = False
                await self.socket.send_str(json.dumps({"type": "status", "status": status, "clock": self._clock()}))

    def _clock(self) -> dict[str, float | None]:
        now = time.monotonic()
        held = (now - self._received) * 1e3
        return {"server_ms": now * 1e3, "echo_ms": self._sent_ms, "held_ms": held}
