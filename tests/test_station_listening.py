"""Where the station listens and whom it answers there: hosts, origins, ports and TLS."""

import subprocess

import aiohttp
import pytest
from station_clients import Client, news, with_server

from robopref.errors import RoboprefError
from robopref.human_io.station.listening import Listening
from robopref.human_io.station.security import host_refusal, origin_refusal
from robopref.human_io.station.server import StationServer

pytestmark = pytest.mark.alone


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
