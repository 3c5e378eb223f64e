"""The station's web server: the page, its control socket and its video sockets, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from robopref.errors import RoboprefError
from robopref.human_io.frames import FrameSlot
from robopref.human_io.readings import StationStatus
from robopref.human_io.station.inbox import Inbox
from robopref.human_io.station.lease import FREE, Lease
from robopref.human_io.station.listening import Listening
from robopref.human_io.station.messages import (
    Alive,
    Ask,
    Click,
    Defaults,
    Grant,
    Invert,
    Invite,
    MalformedMessageError,
    Message,
    Rebind,
    Refuse,
    Release,
    State,
    Withdraw,
    parse_control,
)
from robopref.human_io.station.remapping import MappingDesk
from robopref.human_io.station.security import (
    HEADERS,
    MAX_MESSAGE,
    Admission,
    RateLimit,
    host_refusal,
    origin_refusal,
)
from robopref.human_io.station.video import CameraFeed, stream
from robopref.human_io.station.visitors import Visitor

_PROTOCOL = "robopref-station-1"
_PUBLIC = ("/", "/static/{name}")  # what a browser may fetch before it has a session, from a bookmark as well
_MESSAGES_PER_SECOND, _MESSAGE_BURST = 150, 300  # a gamepad read at 60 Hz, 20 heartbeats and fast fingers
_WISHES_PER_SECOND, _WISH_BURST = 10, 40  # what is neither heartbeat nor movement; some of it is told to everybody
_GUESSES_PER_SECOND, _GUESS_BURST = 2, 20  # of tokens
_MAX_VISITORS = 16
_VIDEOS_PER_FEED = 3  # of one visitor: a page that was reloaded a moment ago still counts
_TICK = 0.25  # seconds between looks at the lease
_START_TIMEOUT = 15.0
_REPLACED = 4001  # close codes of our own: the page was opened elsewhere
_ELSEWHERE = "this session has been opened in another tab"
_OVER = 4002  # ... the session is over
_CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class StationServer:
    """Serves the page to one operator and to visitors who watch.

    Nothing that a page does reaches past its own socket but what an operator may do. All of it runs in one thread
    with an event loop; what the control loop calls (``publish``, ``inbox.read``) never waits for it.

    Args:
        cameras: pictures by name, in the order in which they are shown.
        listening: where.
        mappings: the mapping that the page may change; None offers no such thing.
        announce: told of every new address with a one-time token: at the start, and whenever one has been used, for
            the next visitor or for a browser that was closed. Called on the server's thread.
    """

    def __init__(
        self,
        cameras: Mapping[str, FrameSlot],
        listening: Listening,
        *,
        mappings: MappingDesk | None = None,
        announce: Callable[[str], None] = lambda address: None,
    ) -> None:
        self.inbox = Inbox()
        self.lease = Lease()
        self.port = listening.port
        self.closed_for_cause = 0  # sockets that were hung up on: malformed messages, floods
        self.refused = 0  # requests that were refused: host, origin, token, session
        self._cameras, self._listening, self._mappings = dict(cameras), listening, mappings
        self._announce = announce
        self._admission = Admission()
        self._guesses = RateLimit(_GUESSES_PER_SECOND, _GUESS_BURST)
        self._visitors: dict[int, Visitor] = {}
        self._feeds: list[CameraFeed] = []
        self._videos: dict[web.WebSocketResponse, int] = {}  # and whose they are
        self._status: StationStatus | None = None
        self._publishing = False
        self._jobs: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="station-server", daemon=True)
        self._runner: web.AppRunner | None = None

    def start(self) -> str:
        """Begin to serve -> an address with a one-time token.

        Raises:
            RoboprefError: the port cannot be had.
        """
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_START_TIMEOUT)
        except OSError as error:
            self.stop()
            raise RoboprefError(
                f"the page cannot be served on {self._listening.host} port {self._listening.port}: "
                f"{error.strerror or error}; choose another port, or 0 for any."
            ) from error
        address = self._new_address()
        self._announce(address)
        return address

    def stop(self) -> None:
        """Tell the pages that the session is over, and end the thread."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_START_TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_TIMEOUT)
        self._loop.close()

    def publish(self, status: StationStatus) -> None:
        """Have every page told. Only notes it, so that the control loop loses no time; the newest one counts."""
        self._status = status
        if not self._publishing:
            self._publishing = True
            self._loop.call_soon_threadsafe(self._spread)

    def shown_ms(self) -> list[float]:
        """Ages in milliseconds at which the pages showed their pictures, as they reckon; for benchmarks."""
        return [age for feed in self._feeds for age in tuple(feed.shown_ms)]

    # Everything below runs on the server's thread.

    async def _start(self) -> None:
        app = web.Application(client_max_size=MAX_MESSAGE, middlewares=[self._guard])
        for path in _PUBLIC:
            app.router.add_get(path, self._page)
        app.router.add_post("/session", self._session)
        app.router.add_get("/control", self._control)
        app.router.add_get("/video/{camera}", self._video)
        self._files = _static_files()
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            self._listening.host,
            self._listening.port,
            ssl_context=self._listening.tls_context(),
        )
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._feeds = [CameraFeed(slot, self._loop) for slot in self._cameras.values()]
        self._run(self._watch_lease())

    async def _stop(self) -> None:
        sockets = [visitor.socket for visitor in self._visitors.values()] + list(self._videos)
        await asyncio.gather(*(_close(socket, _OVER, "the session is over") for socket in sockets))
        if self._runner is not None:
            await self._runner.cleanup()
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await asyncio.gather(*(self._loop.run_in_executor(None, feed.close) for feed in self._feeds))
        await self._loop.shutdown_default_executor()

    def _run(self, job: Any) -> None:
        task = self._loop.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    def _new_address(self) -> str:
        # Behind the #, a token is never sent, nor logged, nor passed on as a referrer; the page redeems it.
        return f"{self._listening.url(self.port)}#token={self._admission.mint()}"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        refusal = host_refusal(request.headers.get("Host"), self._listening)
        resource = request.match_info.route.resource
        if not refusal and (resource is None or resource.canonical not in _PUBLIC):
            refusal = origin_refusal(request.headers.get("Origin"), request.headers.get("Host"), self._listening)
        if refusal:
            return self._refuse(refusal)
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _refuse(self, why: str, status: int = 403) -> web.Response:
        self.refused += 1
        return web.Response(status=status, text=why, headers=HEADERS)

    async def _page(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info.get("name", "index.html"))
        if found is None:
            raise web.HTTPNotFound
        body, content_type = found
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    async def _session(self, request: web.Request) -> web.Response:
        try:
            values = json.loads(await request.text())
            token = values["token"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return self._refuse("that is no request for a session", 400)
        key = self._admission.redeem(token, self._visitors) if isinstance(token, str) else None
        if key is None and not self._guesses.take():  # which keeps nobody out who has a token
            return self._refuse("too many attempts: wait a moment", 429)
        if key is None:
            return self._refuse("this address has been used or is not from this session")
        self._announce(self._new_address())
        return web.json_response({"key": key, "cameras": list(self._cameras)})

    def _number(self, request: web.Request) -> int | None:
        """Which visitor's session a socket is opened with; the key travels as a subprotocol, which no log keeps."""
        offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if len(offered) != 2 or offered[0] != _PROTOCOL:
            return None
        return self._admission.visitor(offered[1])

    async def _control(self, request: web.Request) -> web.StreamResponse:
        number = self._number(request)
        if number is None:
            return self._refuse("no session: open the address with a one-time token")
        if number not in self._visitors and len(self._visitors) >= _MAX_VISITORS:
            return self._refuse("too many visitors", 503)
        socket = _socket()
        await socket.prepare(request)
        visitor = Visitor(number, socket, self._status_json)
        self._join(visitor)
        sender = self._loop.create_task(visitor.send_forever())
        try:
            await self._listen(visitor)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            newer = self._visitors.get(number)
            if newer is not None and newer is not visitor:
                # Before the request ends: that closes the socket as well, and a page that is not told why it was closed
                # connects again and fights for its place.
                await _close(socket, _REPLACED, _ELSEWHERE)
            self._leave(visitor)
        return socket

    async def _listen(self, visitor: Visitor) -> None:
        limit = RateLimit(_MESSAGES_PER_SECOND, _MESSAGE_BURST)
        wish_limit = RateLimit(_WISHES_PER_SECOND, _WISH_BURST)
        async for message in visitor.socket:
            try:
                if not limit.take():
                    raise MalformedMessageError("too many messages")
                if message.type is not WSMsgType.TEXT:
                    raise MalformedMessageError("not text")
                said = parse_control(message.data)
                if not isinstance(said, State | Alive) and not wish_limit.take():
                    raise MalformedMessageError("too many wishes")
                self._handle(visitor, said)
            except MalformedMessageError as error:
                # At once, and not only when the closing handshake is done: whoever floods does not answer it.
                self._leave(visitor)
                self.closed_for_cause += 1
                await _close(visitor.socket, WSCloseCode.POLICY_VIOLATION, str(error))
                return
        if visitor.socket.close_code == WSCloseCode.MESSAGE_TOO_BIG:
            self.closed_for_cause += 1

    def _join(self, visitor: Visitor) -> None:
        before = self._visitors.get(visitor.number)
        self._visitors[visitor.number] = visitor
        self.lease.join(visitor.number)
        visitor.tell(
            "welcome",
            you=visitor.number,
            cameras=list(self._cameras),
            remappable=self._mappings is not None,
        )
        if self._mappings is not None:
            visitor.tell("mapping", rows=self._mappings.rows(), dead_zone=self._mappings.mapping.dead_zone)
        visitor.status_changed()
        self._lease_changed(visitor.number == self.lease.holder, "waiting for the page")
        if before is not None:
            self._run(_close(before.socket, _REPLACED, _ELSEWHERE))

    def _leave(self, visitor: Visitor) -> None:
        if self._visitors.get(visitor.number) is not visitor:
            return  # it has left before, or a newer page of the same visitor has taken its place
        del self._visitors[visitor.number]
        self.lease.leave(visitor.number)
        if visitor.number == self.lease.holder:
            self.inbox.lose("the page is closed or its connection is lost")
        self._lease_changed(False, "")

    def _handle(self, visitor: Visitor, message: Message) -> None:
        now = time.monotonic_ns()
        if self._visitors.get(visitor.number) is not visitor:
            return  # the same visitor has connected anew, and this is the old line
        if isinstance(message, State | Click | Alive):
            visitor.heard(message.sent_ms)
        if isinstance(message, State | Click):
            if visitor.number == self.lease.holder:
                self._obey(visitor.number, message, now)
        elif isinstance(message, Ask | Withdraw | Grant | Refuse | Release):
            self._change_lease(visitor.number, message)
        elif visitor.number == self.lease.holder:
            if isinstance(message, Invite):
                visitor.tell("invitation", address=self._new_address())
            elif isinstance(message, Rebind | Invert | Defaults) and self._mappings is not None:
                self._run(self._remap(visitor, self._mappings, message))

    def _obey(self, number: int, message: State | Click, now_ns: int) -> None:
        counted = self.inbox.state(message, now_ns) if isinstance(message, State) else self.inbox.click(message, now_ns)
        if counted:
            self.lease.heard(number)

    def _change_lease(self, number: int, message: Ask | Withdraw | Grant | Refuse | Release) -> None:
        epoch = self.lease.epoch
        if isinstance(message, Ask):
            self.lease.ask(number)
        elif isinstance(message, Withdraw):
            self.lease.withdraw(number)
        elif isinstance(message, Grant):
            self.lease.grant(number, message.visitor)
        elif isinstance(message, Refuse):
            if (
                number == self.lease.holder
                and message.visitor in self.lease.asking
                and message.visitor in self._visitors
            ):
                self._visitors[message.visitor].tell("notice", text="The operator keeps the controls.")
            self.lease.refuse(number, message.visitor)
        else:
            self.lease.release(number)
        self._lease_changed(self.lease.epoch != epoch, "the controls have been handed to another page")

    def _lease_changed(self, hands: bool, detail: str) -> None:
        """Tell everybody; ``hands`` when somebody else holds it now, or the same page anew."""
        if hands:
            self.inbox.open(self.lease.epoch, "nobody has the controls" if self.lease.holder == FREE else detail)
        self._tell_lease()

    def _tell_lease(self) -> None:
        for visitor in self._visitors.values():
            visitor.tell(
                "lease",
                epoch=self.lease.epoch,
                holder=self.lease.holder,
                connected=self.lease.connected,
                asking=list(self.lease.asking),
                visitors=len(self._visitors),
            )

    async def _watch_lease(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            if self.lease.tick():
                self._lease_changed(True, "the controls have been handed to another page")

    async def _remap(self, visitor: Visitor, mappings: MappingDesk, message: Rebind | Invert | Defaults) -> None:
        try:
            await self._loop.run_in_executor(None, mappings.change, message)  # it writes to the disk
        except RoboprefError as error:
            visitor.tell("remap_error", text=str(error))
            return
        for other in self._visitors.values():
            other.tell("mapping", rows=mappings.rows(), dead_zone=mappings.mapping.dead_zone)

    def _status_json(self) -> dict[str, Any] | None:
        return None if self._status is None else self._status.to_json()

    def _spread(self) -> None:
        self._publishing = False
        for visitor in self._visitors.values():
            visitor.status_changed()

    async def _video(self, request: web.Request) -> web.StreamResponse:
        number = self._number(request)
        if number is None:
            return self._refuse("no session: open the address with a one-time token")
        camera = request.match_info["camera"]
        if camera not in [str(i) for i in range(len(self._feeds))]:
            raise web.HTTPNotFound
        if len(self._videos) >= _MAX_VISITORS * len(self._feeds):
            return self._refuse("too many visitors", 503)
        if list(self._videos.values()).count(number) >= _VIDEOS_PER_FEED * len(self._feeds):
            return self._refuse("too many pictures for one visitor", 503)
        socket = _socket()
        await socket.prepare(request)
        self._videos[socket] = number
        try:
            await stream(socket, self._feeds[int(camera)])
        except MalformedMessageError as error:
            self.closed_for_cause += 1
            await _close(socket, WSCloseCode.POLICY_VIOLATION, str(error))
        finally:
            self._videos.pop(socket, None)
        return socket


def _socket() -> web.WebSocketResponse:
    return web.WebSocketResponse(
        protocols=(_PROTOCOL,),
        max_msg_size=MAX_MESSAGE,
        compress=False,  # it would cost time, and let a small message grow to a large one
        heartbeat=5.0,
        timeout=1.0,
        writer_limit=1024,  # wait for a slow line early: what waits here can be replaced by something newer
    )


async def _close(socket: web.WebSocketResponse, code: int, why: str) -> None:
    with contextlib.suppress(ConnectionError):  # it is gone already, which is what was wanted
        await socket.close(code=code, message=why.encode()[:120])


def _static_files() -> dict[str, tuple[bytes, str]]:
    """The page's files by name, in memory: no request ever reaches the file system."""
    folder = resources.files("robopref.human_io.station").joinpath("static")
    return {
        file.name: (file.read_bytes(), _CONTENT_TYPES[PurePosixPath(file.name).suffix])
        for file in folder.iterdir()
        if PurePosixPath(file.name).suffix in _CONTENT_TYPES
    }
