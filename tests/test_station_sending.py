"""What the station sends to its pages: the newest status and the newest picture, and nothing without end."""

import asyncio
import json

import aiohttp
import cv2
import numpy as np
import pytest
from station_clients import Client, news, with_server

from robopref.human_io.frames import FrameSlot
from robopref.human_io.readings import StationStatus
from robopref.human_io.station.listening import Listening
from robopref.human_io.station.server import StationServer
from robopref.human_io.station.video import HEADER

pytestmark = pytest.mark.alone


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
