"""Where the station listens, and that nobody else on the network hears it by accident."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from robopref.errors import RoboprefError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Listening:
    """Where the page is served.

    Args:
        host: name or address of the interface.
        port: 0 takes a free one.
        tls_cert: PEM file of the certificate chain; with it the page is served over TLS.
        tls_key: PEM file of its key.
        insist: serve other machines without TLS all the same: whoever listens in can then watch and drive.
        names: further host names under which browsers may ask for the page, e.g. of a proxy.

    Raises:
        RoboprefError: a certificate without a key or the reverse, files that cannot be used, a port out of range, or
            an interface that other machines reach, without TLS and without insisting.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insist: bool = False
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise RoboprefError(f"port {self.port} does not exist: give 1 to 65535, or 0 for a free one.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise RoboprefError("TLS needs a certificate and its key: give both files, or neither.")
        if not (self.local or self.tls or self.insist):
            raise RoboprefError(
                f"on {self.host} other machines could reach the page, and anyone on the way could read its token and "
                f"drive: give a TLS certificate and key, or stay on 127.0.0.1 and use an SSH tunnel, or insist."
            )
        self.tls_context()

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    @property
    def tls(self) -> bool:
        """Whether it is served over TLS."""
        return self.tls_cert is not None

    @property
    def scheme(self) -> str:
        """Of the page's address."""
        return "https" if self.tls else "http"

    def tls_context(self) -> ssl.SSLContext | None:
        """The server's side of TLS 1.2 or later; None without TLS.

        Raises:
            RoboprefError: the files cannot be used.
        """
        if self.tls_cert is None or self.tls_key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # A key that wants a password is an error: nobody may be there to type it.
            context.load_cert_chain(self.tls_cert, self.tls_key, password=lambda: b"")
        except (OSError, ssl.SSLError) as error:
            raise RoboprefError(
                f"TLS cannot be set up with {self.tls_cert} and {self.tls_key}: {error}; give a PEM certificate and "
                f"its key, without a password."
            ) from error
        return context

    def answers_to(self, hostname: str) -> bool:
        """Whether a browser may ask for the page under this host name (without the port).

        A name that an attacker's DNS server could point here is refused (DNS rebinding), which no loopback name and
        no literal address can be.
        """
        hostname = hostname.lower().rstrip(".")
        if is_loopback(hostname) or hostname in {name.lower() for name in self.names}:
            return True
        if self.local:
            return False
        own = {self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return hostname in own or _address(hostname) is not None

    def url(self, port: int) -> str:
        """The page's address, as far as this machine can name it."""
        host = "127.0.0.1" if self.local and self.host == "localhost" else self.host
        address = _address(host)
        if address is not None and address.is_unspecified:
            host = socket.gethostname()
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, which the network cannot reach."""
    address = _address(host)
    return address.is_loopback if address is not None else host.lower() in _LOOPBACK_NAMES


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
