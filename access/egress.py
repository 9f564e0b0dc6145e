"""One request to another system, at an address that somebody typed: never to a place that only this server can reach.

A name is looked up once, each address that it has is judged, and what was judged is what is connected to: a name that answers
otherwise when it is asked again (DNS rebinding) is not asked again. Redirects are not followed, no proxy is asked, and of the
answer only the status is read. All of it together takes no longer than it was given, however slowly the other side drips.

http.client does this with no dependency: httpx would bring six packages, its limits of time hold for each read alone, and where to
connect to would be ours to say all the same.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

MAX_URL_CHARACTERS = 1000
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\.?")
"""What makes a name's last part an address of an older spelling (`0177.1`, `2130706433`, `0x7f000001`)."""
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_GLOBAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # for protocols
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # what Azure's machines ask for their keys, by an address like any other
        "2001::/23",  # for protocols, Teredo's tunnels among them
        "2001:db8::/32",
        "2002::/16",  # 6to4's tunnels, to any IPv4 address
        "3fff::/20",
    )
)
"""What not every version of `ipaddress` knows for what it is."""

Failure = Literal["no such name", "address refused", "no connection", "TLS failed", "no answer in time", "no HTTP"]
FAILURES: tuple[Failure, ...] = get_args(Failure)

Resolve = Callable[..., list[Any]]
"""`socket.getaddrinfo`."""


class NotAnswered(Exception):
    """There was no answer. `failure` is from a closed set: nothing that the other side chose is told."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. `host` is a name or an address as it stands in a URL; `path` has its query."""

    https: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The field Host."""
        return self.host if self.port == (443 if self.https else 80) else f"{self.host}:{self.port}"


def target_of(url: str, private: bool = False) -> Target:
    """Take a URL apart that begins with https, or with http if `private`. Raises ValueError for what is not of the form.

    What can be told without asking for a name is refused here already, unless `private`: the rest is judged at the connection.
    """
    if len(url) > MAX_URL_CHARACTERS or not re.fullmatch(r"[!-~]+", url) or "\\" in url or "#" in url:
        raise ValueError
    parts = urlsplit(url)
    if parts.scheme not in (("https", "http") if private else ("https",)) or "@" in parts.netloc:
        raise ValueError
    https, host = parts.scheme == "https", parts.hostname or ""
    port = parts.port if parts.port is not None else 443 if https else 80
    if port == 0:
        raise ValueError
    address = _address(host)
    if address is None:
        if not _NAME.fullmatch(host) or len(host) > 253 or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise ValueError
        if not private and host.rstrip(".").rpartition(".")[2] == "localhost":
            raise ValueError
    elif not private and not is_global(address):
        raise ValueError
    host = f"[{host}]" if ":" in host else host
    return Target(https, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the whole Internet's, and not one that means something to this machine or network alone."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:  # as a network gives out that has no IPv4 of its own
            return is_global(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST or address.scope_id:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_GLOBAL)


def post(
    target: Target,
    headers: Mapping[str, str],
    body: bytes,
    ends: float,
    private: bool = False,
    resolve: Resolve = socket.getaddrinfo,
) -> int:
    """Send a body and return the status of the answer. `ends` is when it is over, by `time.monotonic`. Raises NotAnswered."""
    addresses = _judged(target, private, resolve)
    try:
        with _connected(target, addresses, ends) as connection:
            return _exchange(connection, target, headers, body, ends)
    except TimeoutError:
        raise NotAnswered("no answer in time") from None


def _judged(target: Target, private: bool, resolve: Resolve) -> list[Any]:
    """What the name stands for, as `getaddrinfo` tells it, without what must not be connected to."""
    try:
        found = resolve(target.host.strip("[]"), target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotAnswered("no such name") from None
    judged = [one for one in found if private or _is_global(one[4])]
    if not judged:
        raise NotAnswered("address refused")
    return judged


def _is_global(socket_address: tuple[Any, ...]) -> bool:
    address = _address(socket_address[0])
    return address is not None and is_global(address) and not (len(socket_address) == 4 and socket_address[3])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _connected(target: Target, addresses: list[Any], ends: float) -> socket.socket:
    """A connection to the first of the addresses that takes one, each with its share of the time."""
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_left(ends) / (len(addresses) - number))
            connection.connect(address)
            connection.settimeout(_left(ends))
            if not target.https:
                return connection
            return ssl.create_default_context().wrap_socket(connection, server_hostname=target.host.strip("[]"))
        except BaseException as error:
            connection.close()
            if isinstance(error, ssl.SSLError) and not isinstance(error, TimeoutError):
                raise NotAnswered("TLS failed") from None
            if not isinstance(error, OSError):
                raise
    if time.monotonic() >= ends:
        raise TimeoutError
    raise NotAnswered("no connection")


def _exchange(connection: socket.socket, target: Target, headers: Mapping[str, str], body: bytes, ends: float) -> int:
    sender = http.client.HTTPConnection(target.host, target.port)
    sender.sock = connection
    try:
        connection.settimeout(_left(ends))
        sender.request("POST", target.path, body, {"Host": target.authority, "Connection": "close", **headers})
        answer = http.client.HTTPResponse(_Timed(connection, ends), method="POST")  # type: ignore[arg-type]
        try:
            answer.begin()
            return answer.status
        finally:
            answer.close()
    except TimeoutError:
        raise
    except OSError:
        raise NotAnswered("no connection") from None
    except (http.client.HTTPException, ValueError):
        raise NotAnswered("no HTTP") from None


class _Timed(io.RawIOBase):
    """What a connection sends, each read no longer than until the end of all."""

    def __init__(self, connection: socket.socket, ends: float) -> None:
        self._connection = connection
        self._ends = ends

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client reads from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._ends))
        return self._connection.recv_into(buffer)


def _left(ends: float) -> float:
    """The seconds that are left. Raises TimeoutError if none are."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
