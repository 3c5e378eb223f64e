"""The real server of the station, and clients that are no browsers."""

import asyncio
import contextlib
import json
import time

import aiohttp
from yarl import URL

from robopref.human_io.frames import FrameSlot
from robopref.human_io.station.listening import Listening
from robopref.human_io.station.server import StationServer

PROTOCOL = "robopref-station-1"


class Client:
    """A page that knows no manners: it says what the test tells it to."""

    def __init__(self, server: StationServer, address: str, http: aiohttp.ClientSession) -> None:
        self.server, self.http = server, http
        self.url = URL(address).with_fragment(None)
        self.token = URL(address).fragment.removeprefix("token=")
        self.origin = str(self.url).rstrip("/")

    async def enter(self) -> str:
        async with self.http.post(
            self.url / "session", data=json.dumps({"token": self.token}), headers={"Origin": self.origin}
        ) as answer:
            assert answer.status == 200, await answer.text()
            self.key = (await answer.json())["key"]
        return self.key

    async def open(
        self, path: str = "control", key: str | None = None, **headers: str
    ) -> aiohttp.ClientWebSocketResponse:
        return await self.http.ws_connect(
            self.url / path,
            protocols=(PROTOCOL, key or self.key),
            headers={"Origin": self.origin} | headers,
        )


async def news(socket: aiohttp.ClientWebSocketResponse, kind: str) -> dict:
    """The next message of a kind."""
    while True:
        message = await asyncio.wait_for(socket.receive(), 5)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        values = json.loads(message.data)
        if values["type"] == kind:
            return values


async def end(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    """Reads until the server hangs up -> the close code."""
    with contextlib.suppress(asyncio.TimeoutError):
        while True:
            message = await asyncio.wait_for(socket.receive(), 5)
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                return socket.close_code
            if message.type is aiohttp.WSMsgType.ERROR:
                return socket.close_code
    raise AssertionError("the server did not hang up")


def state(epoch: int, seq: int, **values: object) -> str:
    message = {"type": "state", "epoch": epoch, "seq": seq, "sent_ms": time.monotonic() * 1e3}
    return json.dumps(message | {"keys": [], "axes": [], "buttons": [], "device": "", "away": ""} | values)


def with_server(scenario, listening: Listening | None = None, slots: int = 0, ssl: object = True) -> StationServer:
    """Plays an async scenario (server, address, http) against a server."""
    server = StationServer({f"camera {i}": FrameSlot() for i in range(slots)}, listening or Listening())
    address = server.start()

    async def play() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl)) as http:
            await scenario(server, address, http)

    try:
        asyncio.run(play())
    finally:
        server.stop()
    return server
