"""Readers that act at the same moment: raw keep-alive connections that hold back the last byte of a request until all are ready.

with connections(served, 16) as lines:
    answers = race(lines, [opening(message)] * 16)
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.serving import CreatedMessage, Served

PLACES_IN_THREADS = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request on a connection that stays open. Underscores in header names stand for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def opening(message: CreatedMessage, key: str | None = None, accept: str = "text/plain", in_thread: bool = False) -> bytes:
    """A request to open `message`. `in_thread`: in a way that granian's adapter hands to a thread, beside those on its loop.

    It takes PLACES_IN_THREADS of these at one time, and refuses more.
    """
    headers = {"Accept": accept}
    if key:
        headers["Idempotency_Key"] = key
    if in_thread:
        return request("POST", message.path, b'{"passphrase":""}', Content_Type="application/json", **headers)
    return request("POST", message.path, **headers)


class Line:
    """One keep-alive connection. `source` is the loopback address it comes from: rate limits count by it."""

    def __init__(self, served: Served, source: str = "127.0.0.1", timeout: float = 60) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", served.port), timeout, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if served.https:
            trust = served.trust()
            trust.maximum_version = ssl.TLSVersion.TLSv1_2  # after whose handshake a server says nothing but its answers
            self.socket = trust.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self._received = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> Answer:
        """The next response. Raises ConnectionError if the server closed before it was whole."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(status_line.split()[1]), headers, body)

    def ask(self, data: bytes) -> Answer:
        self.send(data)
        return self.answer()

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> None:
        chunk = self.socket.recv(65536)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        self._received += chunk


@contextmanager
def connections(served: Served, count: int, source: str = "127.0.0.1") -> Iterator[list[Line]]:
    lines = [Line(served, source) for _ in range(count)]
    try:
        yield lines
    finally:
        for line in lines:
            line.close()


def race(lines: Sequence[Line], requests: Sequence[bytes]) -> list[Answer]:
    """Send each line's request so that the last bytes leave within microseconds of one another, and collect the answers."""
    for line, data in zip(lines, requests, strict=True):
        line.send(data[:-1])
    for line, data in zip(lines, requests, strict=True):
        line.send(data[-1:])
    return [line.answer() for line in lines]


def deliveries(answers: Sequence[Answer], content: str) -> int:
    """How many readers got `content`; every other one must have got the 404, and nobody anything else."""
    for answer in answers:
        assert answer.status in (200, 404), answer
        assert answer.status == 404 or answer.body == content.encode()
    return sum(answer.status == 200 for answer in answers)


def race_for_each(nodes: Sequence[Served], messages: int, readers: int, views: int = 1) -> list[int]:
    """Create `messages` messages and let `readers` race for each, on all nodes; return how often each was delivered."""
    delivered = []
    with ExitStack() as stack:
        of_each = [stack.enter_context(connections(node, readers // len(nodes))) for node in nodes]
        lines = [line for turn in zip(*of_each, strict=True) for line in turn]
        for number in range(messages):
            content = f"message {number} of {messages}"
            message = nodes[number % len(nodes)].create(content, views=views)
            in_threads = range(1, min(readers, 2 * PLACES_IN_THREADS), 2)
            requests = [opening(message, in_thread=reader in in_threads) for reader in range(readers)]
            delivered.append(deliveries(race(lines, requests), content))
    return delivered
