"""Who gets into the station: tokens that are good once, the sessions that they open, and how guessing is slowed."""

import asyncio
import json

import aiohttp
import pytest
from station_clients import Client, with_server

from robopref.human_io.station.listening import Listening
from robopref.human_io.station.security import Admission, RateLimit
from robopref.human_io.station.server import StationServer

pytestmark = pytest.mark.alone


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


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
