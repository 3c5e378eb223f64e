"""Who may talk to the station: one-time tokens, sessions, Host and Origin, and how much may be said."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from urllib.parse import urlsplit

from robopref.human_io.station.listening import Listening

MAX_MESSAGE = 4096
"""Bytes of the longest message that a page may send."""

_MAX_TOKENS = 16
_MAX_SESSIONS = 64

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "gamepad=(self), camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer carries: no other site may embed the page, and the page may load nothing from elsewhere."""


class Admission:
    """One-time tokens, and the sessions that they are exchanged for.

    A token is good once; whoever redeems it gets a session, which a reload or a new connection of the same page goes
    on with. Neither ever travels in an address that the server, a proxy or a log sees. Old ones make room for new, but
    for the session of whoever is connected.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, None] = OrderedDict()
        self._sessions: OrderedDict[str, int] = OrderedDict()
        self._visitors = 0

    def mint(self) -> str:
        """A new one-time token of 256 random bits."""
        token = secrets.token_urlsafe(32)
        self._tokens[token] = None
        while len(self._tokens) > _MAX_TOKENS:
            self._tokens.popitem(last=False)
        return token

    def redeem(self, token: str, connected: Container[int] = ()) -> str | None:
        """The key of a new session, for a token that was never used; else None.

        Args:
            token: what was given.
            connected: visitors whose sessions must not make room.
        """
        found = _equal_in_constant_time(token, self._tokens)
        if found is None:
            return None
        del self._tokens[found]
        key = secrets.token_urlsafe(32)
        self._visitors += 1
        self._sessions[key] = self._visitors
        if len(self._sessions) > _MAX_SESSIONS:
            old = [k for k, visitor in self._sessions.items() if visitor not in connected and k != key]
            del self._sessions[old[0]]  # there is one: fewer are ever connected
        return key

    def visitor(self, key: str) -> int | None:
        """The number of the visitor whose session it is, from 1; None for a key that was never given out."""
        found = _equal_in_constant_time(key, self._sessions)
        return None if found is None else self._sessions[found]


def _equal_in_constant_time(word: str, known: Mapping[str, object]) -> str | None:
    given = word.encode("utf-8", "replace")
    matches = [entry for entry in known if hmac.compare_digest(given, entry.encode())]
    return matches[0] if matches else None


def host_refusal(host: str | None, listening: Listening) -> str:
    """Why a request with this Host header is refused; empty when it is not."""
    try:
        hostname = urlsplit(f"//{host}").hostname if host else None
    except ValueError:
        hostname = None
    if hostname is None or not listening.answers_to(hostname):
        return "this station does not answer to that host name"
    return ""


def origin_refusal(origin: str | None, host: str | None, listening: Listening) -> str:
    """Why a request with this Origin header is refused: only the page itself may send one; empty when it is not.

    A browser states the origin of every WebSocket and every POST, and no page of another site can change it. Behind
    a proxy that ends TLS, the page's scheme is https while the station's is http, which is let through.
    """
    allowed = {f"{listening.scheme}://{host}", f"https://{host}"}
    return "" if origin in allowed else "only the station's own page may connect"


class RateLimit:
    """At most ``per_second`` in the long run and ``burst`` at once (a token bucket).

    Args:
        per_second: how fast it refills.
        burst: how much it holds.
        clock: monotonic seconds.
    """

    def __init__(self, per_second: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._left, self._at = float(burst), clock()

    def take(self) -> bool:
        """Whether one more is within the limit."""
        now = self._clock()
        self._left = min(float(self._burst), self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
