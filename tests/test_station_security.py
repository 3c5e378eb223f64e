import asyncio
import contextlib
import json
import subprocess
import time

import aiohttp
import cv2
import numpy as np
import pytest
from yarl import URL

from robopref.errors import RoboprefError
from robopref.human_io.frames import FrameSlot
from robopref.human_io.readings import StationStatus
from robopref.human_io.station.listening import Listening
from robopref.human_io.station.security import Admission, RateLimit, host_refusal, origin_refusal
from robopref.human_io.station.server import StationServer
from robopref.human_io.station.video import HEADER

pytestmark = pytest.mark.alone

PROTOCOL = "robopref-station-1"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# Where it listens


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_on_this_machine_alone_no_tls_is_needed(host):
    listening = Listening(host)
    assert listening.local
    assert listening.scheme == "http"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "robot.example"])
def test_other_machines_are_refused_without_tls_unless_one_insists(host):
    with pytest.raises(RoboprefError, match="SSH tunnel"):
        Listening(host)
    assert not Listening(host, insist=True).local


def test_tls_needs_both_files_and_usable_ones(tmp_path, certificate):
    cert, key = certificate
    with pytest.raises(RoboprefError, match="both files"):
        Listening(tls_cert=cert)
    with pytest.raises(RoboprefError, match="cannot be set up"):
        Listening(tls_cert=cert, tls_key=tmp_path / "missing.pem")
    with pytest.raises(RoboprefError, match="cannot be set up"):
        Listening(tls_cert=key, tls_key=key)
    assert Listening("0.0.0.0", tls_cert=cert, tls_key=key).scheme == "https"


def test_ports_exist():
    with pytest.raises(RoboprefError, match="port 70000"):
        Listening(port=70000)


@pytest.mark.parametrize(
    ("host", "listening", "let_in"),
    [
        ("127.0.0.1:8765", Listening(), True),
        ("localhost:9000", Listening(), True),  # the near end of an SSH tunnel
        ("[::1]:8765", Listening("::1"), True),
        ("attacker.example:8765", Listening(), False),  # a name whose DNS was turned to 127.0.0.1
        ("127.0.0.1.attacker.example", Listening(), False),
        ("192.168.1.7:8765", Listening(), False),
        ("192.168.1.7:8765", Listening("0.0.0.0", insist=True), True),
        ("attacker.example", Listening("0.0.0.0", insist=True), False),
        ("robot.example", Listening("0.0.0.0", insist=True, names=("Robot.example",)), True),
        ("[::1", Listening(), False),
        ("", Listening(), False),
        (None, Listening(), False),
    ],
)
def test_host_header(host, listening, let_in):
    assert (host_refusal(host, listening) == "") is let_in


@pytest.mark.parametrize(
    ("origin", "let_in"),
    [
        ("http://127.0.0.1:8765", True),
        ("http://127.0.0.1:3000", False),  # another server on this machine
        ("http://localhost:8765", False),
        ("https://attacker.example", False),
        ("null", False),
        ("", False),
        (None, False),
    ],
)
def test_origin_header(origin, let_in):
    assert (origin_refusal(origin, "127.0.0.1:8765", Listening()) == "") is let_in


# Tokens


def test_a_token_is_good_once_and_a_session_for_long():
    admission = Admission()
    token, other = admission.mint(), admission.mint()
    assert token != other
    assert len(token) >= 43  # 256 bits
    key = admission.redeem(token)
    assert key is not None
    assert admission.redeem(token) is None
    assert admission.redeem("x" * 43) is None
    assert admission.redeem("") is None
    second = admission.redeem(other)
    assert [admission.visitor(key), admission.visitor(second), admission.visitor(key)] == [1, 2, 1]
    assert admission.visitor(token) is None
    assert admission.visitor("ключ") is None


def test_old_tokens_make_room():
    admission = Admission()
    first = admission.mint()
    tokens = [admission.mint() for _ in range(16)]
    assert admission.redeem(first) is None
    assert admission.redeem(tokens[0]) is not None


def test_old_sessions_make_room_but_not_those_of_pages_that_are_open():
    admission = Admission()
    keys = [admission.redeem(admission.mint(), connected={1}) for _ in range(65)]
    assert admission.visitor(keys[0]) == 1
    assert admission.visitor(keys[1]) is None
    assert all(admission.visitor(key) for key in keys[2:])


def test_rate_limit_is_a_bucket_that_refills():
    clock = Clock()
    limit = RateLimit(10, 5, clock=clock)
    assert [limit.take() for _ in range(6)] == [True] * 5 + [False]
    clock.now += 0.2
    assert [limit.take() for _ in range(3)] == [True, True, False]
    clock.now += 1000
    assert sum(limit.take() for _ in range(100)) == 5


# The real server, and clients that are no browsers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


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


def test_the_page_comes_from_the_package_alone_and_may_load_nothing_else():
    async def scenario(server, address, http):
        url = URL(address).with_fragment(None)
        async with http.get(url) as answer:
            page = await answer.text()
            assert answer.status == 200
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["Cache-Control"] == "no-store"
        assert "//" not in page.replace("http://www.w3.org", "").split("<body>")[0].replace("<!doctype html>", "")
        for path in ("static/station.js", "static/station.css", "static/heartbeat.js"):
            async with http.get(url / path) as answer:
                assert answer.status == 200
                assert "https://" not in await answer.text()
        for path in ("static/server.py", "static/..%2fserver.py", "static/%2e%2e/server.py", "static/", "etc/passwd"):
            async with http.get(URL(f"{url}{path}", encoded=True), headers={"Origin": str(url).rstrip("/")}) as answer:
                assert answer.status == 404, path
                assert "Content-Security-Policy" in answer.headers

    with_server(scenario)


def test_a_bad_token_a_used_token_and_a_guessed_session_do_not_get_in():
    async def scenario(server, address, http):
        client = Client(server, address, http)

        async def redeem(body: str) -> int:
            headers = {"Origin": client.origin}
            async with http.post(client.url / "session", data=body, headers=headers) as answer:
                return answer.status

        assert await redeem(json.dumps({"token": "guess"})) == 403
        for nonsense in ("", "[", "[1]", '{"token": 7}', '{"toke": "x"}', "[" * 4000):
            assert await redeem(nonsense) in (400, 403)
        assert await redeem("x" * 100_000) == 413
        key = await client.enter()
        assert await redeem(json.dumps({"token": client.token})) == 403
        for wrong in ("guess", key[:-1], key + "x"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.open(key=wrong)
            assert refused.value.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(client.url / "control", headers={"Origin": client.origin})
        await (await client.open()).close()

    with_server(scenario)


def test_guessing_tokens_is_slowed_down():
    async def scenario(server, address, http):
        client = Client(server, address, http)
        statuses = []
        for _ in range(40):
            headers = {"Origin": client.origin}
            async with http.post(client.url / "session", data='{"token": "a"}', headers=headers) as answer:
                statuses.append(answer.status)
        assert statuses[0] == 403
        assert statuses[-1] == 429
        await client.enter()  # guessing keeps nobody out who has a token

    with_server(scenario)


@pytest.mark.parametrize("path", ["control", "video/0"])
def test_foreign_origin_and_foreign_host_are_refused_even_with_a_session(path):
    async def scenario(server, address, http):
        client = Client(server, address, http)
        await client.enter()
        for headers in (
            {"Origin": "https://attacker.example"},
            {"Origin": "null"},
            {"Host": "attacker.example"},
            {"Host": "attacker.example", "Origin": "http://attacker.example"},
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.open(path, **headers)
            assert refused.value.status == 403
        async with http.get(client.url, headers={"Host": "attacker.example"}) as answer:
            assert answer.status == 403
        async with http.post(client.url / "session", data="{}", headers={"Origin": "http://x.example"}) as answer:
            assert answer.status == 403
        assert server.refused == 6

    with_server(scenario, slots=1)


MALFORMED = [
    "",
    "7",
    "[]",
    "{",
    "[" * 4000,
    '{"type": "state"}',
    '{"type": "explode"}',
    '{"type": ["state"]}',
    '{"type": "ask", "more": 1}',
    '{"type": "alive", "sent_ms": NaN}',
    '{"type": "alive", "sent_ms": 1e400}',
    '{"type": "alive", "sent_ms": "1"}',
    '{"type": "alive", "sent_ms": true}',
    '{"type": "alive", "type": "alive", "sent_ms": 1}',
    state(1, 1, keys="KeyW"),
    state(1, 1, keys=["<script>"]),
    state(1, 1, keys=["KeyW"] * 40),
    state(1, 1, axes=[1.5]),
    state(1, 1, axes=[0.0] * 40),
    state(1, 1, buttons=[-1]),
    state(1, 1, buttons=[True]),
    state(1, 1, device="a\nb"),
    state(1, 1, device="x" * 200),
    state(-1, 1),
    state(1, 2**60),
    '{"type": "click", "epoch": 1, "seq": 1, "sent_ms": 1, "control": "self_destruct"}',
    '{"type": "shown", "frame": 1, "age_ms": 1}',
    b"binary",
    "x" * 5000,
]


def test_a_malformed_message_closes_that_socket_and_nothing_else():
    async def scenario(server, address, http):
        first = Client(server, address, http)
        await first.enter()
        operator = await first.open()
        epoch = (await news(operator, "lease"))["epoch"]
        seq = 0
        for message in MALFORMED:
            other = Client(server, server._new_address(), http)
            await other.enter()
            socket = await other.open()
            await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(message))
            # 1006: what is too large is not read to its end, so that the hanging up may overtake the reason for it.
            assert await end(socket) in ((1009, 1006) if len(message) > 4096 else (1008,)), message[:40]
            seq += 1
            await operator.send_str(state(epoch, seq, keys=["KeyW"]))
            while not server.inbox.read().keys:
                await asyncio.sleep(0.005)
            await operator.send_str(state(epoch, seq := seq + 1))
        assert not operator.closed
        assert server.closed_for_cause == len(MALFORMED)
        await operator.close()

    with_server(scenario)


def test_a_flood_is_hung_up_on_while_the_operator_drives_on():
    async def scenario(server, address, http):
        first = Client(server, address, http)
        await first.enter()
        operator = await first.open()
        epoch = (await news(operator, "lease"))["epoch"]
        other = Client(server, server._new_address(), http)
        await other.enter()
        flooder = await other.open()

        async def flood() -> None:
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                for _ in range(2000):  # ten times what a page with a gamepad sends in its busiest second
                    await flooder.send_str('{"type": "alive", "sent_ms": 1}')

        flooding = asyncio.create_task(flood())
        for seq in range(1, 30):
            await operator.send_str(state(epoch, seq))
            await asyncio.sleep(0.01)
        assert await end(flooder) == 1008
        await flooding
        assert server.inbox.counts.accepted == 29
        assert not operator.closed
        await operator.close()

    assert with_server(scenario).closed_for_cause == 1


def test_one_visitor_cannot_take_all_the_pictures():
    async def scenario(server, address, http):
        client = Client(server, address, http)
        await client.enter()
        sockets = [await client.open("video/0") for _ in range(3)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.open("video/0")
        assert refused.value.status == 503
        await sockets[0].close()
        await client.open("video/0")

    with_server(scenario, slots=1)


def test_a_picture_that_was_never_sent_cannot_be_acknowledged():
    async def scenario(server, address, http):
        client = Client(server, address, http)
        await client.enter()
        for nonsense in ('{"type": "shown", "frame": 9, "age_ms": 1}', "{}", '{"type": "ask"}'):
            socket = await client.open("video/0")
            await socket.send_str(nonsense)
            assert await end(socket) == 1008
        with pytest.raises(aiohttp.WSServerHandshakeError) as missing:
            await client.open("video/1")
        assert missing.value.status == 404

    with_server(scenario, slots=1)


def test_over_tls(certificate):
    cert, key = certificate

    async def scenario(server, address, http):
        assert address.startswith("https://")
        client = Client(server, address, http)
        await client.enter()
        socket = await client.open()
        assert (await news(socket, "welcome"))["you"] == 1
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.open(Origin=client.origin.replace("https", "http"))
        await socket.close()

    with_server(scenario, Listening(tls_cert=cert, tls_key=key), ssl=False)


def test_a_port_in_use_is_said():
    server = StationServer({}, Listening())
    server.start()
    try:
        with pytest.raises(RoboprefError, match="choose another port"):
            StationServer({}, Listening(port=server.port)).start()
    finally:
        server.stop()


def test_every_used_token_makes_way_for_a_new_address():
    addresses: list[str] = []

    async def enter(server, address, http):
        await Client(server, address, http).enter()

    server = StationServer({}, Listening(), announce=addresses.append)
    first = server.start()

    async def play():
        async with aiohttp.ClientSession() as http:
            await enter(server, addresses[0], http)
            await enter(server, addresses[1], http)

    try:
        assert addresses == [first]
        asyncio.run(play())
        assert len(set(addresses)) == 3
    finally:
        server.stop()


def test_a_status_is_sent_to_everybody_and_only_the_newest():
    async def scenario(server, address, http):
        client = Client(server, address, http)
        await client.enter()
        socket = await client.open()
        await news(socket, "lease")
        for step in range(500):
            server.publish(StationStatus("AUTONOMOUS", step=step))
        seen = []
        while not seen or seen[-1] < 499:
            seen.append((await news(socket, "status"))["status"]["step"])
        assert seen == sorted(set(seen))
        assert len(seen) < 100
        await socket.close()

    with_server(scenario)


def test_a_page_that_does_not_acknowledge_gets_no_further_pictures_and_then_the_newest():
    slot = FrameSlot()
    server = StationServer({"camera": slot}, Listening())
    address = server.start()

    def put(number):
        slot.put(np.full((8, 8, 3), number, np.uint8), captured_ns=number * 1_000_000)

    async def play():
        async with aiohttp.ClientSession() as http:
            client = Client(server, address, http)
            await client.enter()
            socket = await client.open("video/0")

            async def picture():
                message = await asyncio.wait_for(socket.receive(), 5)
                assert message.type is aiohttp.WSMsgType.BINARY
                number, captured_ms = HEADER.unpack_from(message.data)
                shown = cv2.imdecode(np.frombuffer(message.data[HEADER.size :], np.uint8), cv2.IMREAD_COLOR)
                assert shown.shape == (8, 8, 3)
                assert abs(int(shown[4, 4, 0]) - number) <= 3
                assert captured_ms == number
                return number

            for n in (1, 2):
                put(n)
                assert await picture() == n
            for n in range(3, 100):
                put(n)
            with pytest.raises(asyncio.TimeoutError):  # two are under way and none was acknowledged
                await asyncio.wait_for(socket.receive(), 0.4)
            await client.http.close()

    async def play_on():
        async with aiohttp.ClientSession() as http:
            client = Client(server, server._new_address(), http)
            await client.enter()
            socket = await client.open("video/0")
            message = await asyncio.wait_for(socket.receive(), 5)
            number, _ = HEADER.unpack_from(message.data)
            assert number == 99  # 3 to 98 are gone: there is no queue
            await socket.send_str(json.dumps({"type": "shown", "frame": number, "age_ms": 12.5}))
            while not server.shown_ms():
                await asyncio.sleep(0.01)
            await socket.close()

    try:
        asyncio.run(play())
        asyncio.run(play_on())
        assert server.shown_ms() == [12.5]
    finally:
        server.stop()


def test_a_page_that_reads_nothing_is_not_written_to_without_end():
    async def scenario(server, address, http):
        client = Client(server, address, http)
        await client.enter()
        socket = await client.open()
        await news(socket, "welcome")  # the server knows the visitor from then on
        socket._conn.transport.pause_reading()  # the socket of the test's own side stands still
        transport = server._visitors[1].socket._writer.transport
        for step in range(400):  # 80 MB, which no socket's buffers hold
            server.publish(StationStatus("AUTONOMOUS", step=step, instruction="x" * 200_000))
            await asyncio.sleep(0.002)
        assert 0 < transport.get_write_buffer_size() < 600_000
        socket._conn.transport.abort()  # no farewell: it could not be sent

    with_server(scenario)
