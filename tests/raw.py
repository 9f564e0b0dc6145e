"""Requests as bytes on a socket, for what no HTTP client would send.

send(served, b"POST / HTTP/1.1\r\nHost: …", half_close=True) -> the responses until the server closed the connection.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from tests.serving import Served


@dataclass(frozen=True)
class Response:
    """One response. Header names are in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name.lower())


def request(
    method: str | bytes,
    target: str | bytes,
    headers: Iterable[tuple[str | bytes, str | bytes]] = (),
    body: bytes = b"",
    *,
    host: str | bytes = "localhost",
    length: int | str | None = None,
) -> bytes:
    """A request that asks the server to close afterwards. `length` replaces the true Content-Length."""
    length = len(body) if length is None else length
    lines: list[tuple[str | bytes, str | bytes]] = [("Host", host), ("Connection", "close"), *headers]
    if body or length:
        lines.append(("Content-Length", str(length)))
    head = b"".join(_bytes(name) + b": " + _bytes(value) + b"\r\n" for name, value in lines)
    return _bytes(method) + b" " + _bytes(target) + b" HTTP/1.1\r\n" + head + b"\r\n" + body


def send(served: Served, data: bytes, *, half_close: bool = False, timeout: float = 30) -> list[Response]:
    """Send `data`, end the sending side if `half_close`, and return what came until the server closed the connection.

    Raises TimeoutError if it neither closes nor sends for `timeout` seconds: a server must not leave a client hanging.
    """
    return parse(receive(served, data, half_close=half_close, timeout=timeout), head=data.startswith(b"HEAD "))


def receive(served: Served, data: bytes, *, half_close: bool = False, timeout: float = 30) -> bytes:
    """The bytes that came back; empty if the server closed without a word."""
    received = b""
    with socket.create_connection(("127.0.0.1", served.port), timeout) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # the server has refused and closed before everything was sent
            pass
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    return received


def parse(data: bytes, *, head: bool = False) -> list[Response]:
    """Take a stream of responses apart; raises AssertionError where it is not one. `head`: their bodies were not sent."""
    responses = []
    while data:
        match = re.match(rb"HTTP/1\.[01] ([0-9]{3})[^\r\n]*\r\n", data)
        assert match, f"not a response: {data[:200]!r}"
        header_block, separator, rest = data[match.end() :].partition(b"\r\n\r\n")
        if data[match.end() :].startswith(b"\r\n"):
            header_block, separator, rest = b"", b"\r\n", data[match.end() + 2 :]
        assert separator, f"headers cut short: {data[:200]!r}"
        headers = []
        for line in header_block.decode("latin-1").split("\r\n"):
            if line:
                name, _, value = line.partition(":")
                headers.append((name.lower(), value.strip()))
        status = int(match[1])
        bodiless = head or status in (204, 304) or 100 <= status < 200
        length = 0 if bodiless else int(dict(headers).get("content-length", len(rest)))
        assert len(rest) >= length, "body cut short"
        if status >= 200:
            responses.append(Response(status, tuple(headers), rest[:length]))
        data = rest[length:]
    return responses


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
