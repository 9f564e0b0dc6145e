"""How a socket to a database is had: to one address of its host after the other, by TLS, and never slower than its call may be.

What the drivers wait for, they wait for here: their own timeouts begin anew with every byte. (libpq has its own sockets; of this
it needs `by_address` alone.)
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from errors import StartRefused
from storage.address import Tls
from storage.deadline import addresses_of, seconds_left, within

_T = TypeVar("_T")


class _Timed(socket.socket):
    """Each wait ends with the call that it serves. What a driver sets as its timeout is not taken."""

    def recv(self, *arguments: Any) -> bytes:
        self.settimeout(seconds_left())
        return super().recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(seconds_left())
        return super().recv_into(*arguments)


class TimedSocket(_Timed):
    """A plain socket."""

    def sendall(self, *arguments: Any) -> None:
        self.settimeout(seconds_left())
        super().sendall(*arguments)


class _TimedTlsSocket(_Timed, ssl.SSLSocket):
    """The same by TLS, where `sendall` is made of `send`."""

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(seconds_left())
        super().do_handshake(block)

    def send(self, *arguments: Any) -> int:
        self.settimeout(seconds_left())
        return super().send(*arguments)


def connected(host: str, port: int, path: Path | None) -> TimedSocket:
    """A socket that is connected to `host`, or to the Unix socket at `path`. Raises OSError, and so TimeoutError."""
    if path:
        return _connected(socket.AF_UNIX, str(path))
    return by_address(
        host, port, lambda address: _connected(socket.AF_INET6 if ":" in address else socket.AF_INET, (address, port)), OSError
    )


def by_address(host: str, port: int, connect: Callable[[str], _T], fault: type[Exception]) -> _T:
    """What `connect` has of the first IP address of `host` where it does not raise `fault`; the last one's fault is raised.

    Each has an equal share of the time that is left: one that hangs takes none from the others. Raises OSError too.
    """
    addresses = addresses_of(host, port)
    for left in range(len(addresses), 0, -1):
        try:
            with within(seconds_left() / left):
                return connect(addresses[-left])
        except fault:
            if left == 1:
                raise
    raise OSError(f"{host} has no address")


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Verifies the server by the authority that the operator named, not by those that the system knows. Raises StartRefused.

    To be made anew for every connection, so that a renewed certificate is taken from its file.
    """
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        if tls.certificate:
            context.load_cert_chain(str(tls.certificate), str(tls.key))
    except (OSError, ssl.SSLError) as error:
        raise StartRefused(f"its TLS files cannot be used ({error})") from None
    context.sslsocket_class = _TimedTlsSocket
    return context


def _connected(family: socket.AddressFamily, place: str | tuple[str, int]) -> TimedSocket:
    connection = TimedSocket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            _keep_alive(connection)
        connection.settimeout(seconds_left())
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 5000)):
        if hasattr(socket, name):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
