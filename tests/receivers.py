"""Receivers of webhooks on loopback, real ones: what they answer is a test's, and so is whether they answer at all.

with Receiver() as receiver:
    receiver.behave = status(500)
    ...
    assert receiver.told() == ["certificate.created"]
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from records import NOTICE_TYPES

HTTP_MD = Path(__file__).resolve().parent.parent / "docs" / "http.md"


@dataclass(frozen=True)
class Told:
    """One request, as it came. Names of headers are in lower case."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


Behaviour = Callable[[Told, socket.socket], None]


def status(code: int, *headers: str) -> Behaviour:
    """Answer a status."""
    head = "".join(f"{header}\r\n" for header in headers)
    return lambda told, connection: connection.sendall(f"HTTP/1.1 {code} So\r\n{head}Content-Length: 0\r\n\r\n".encode())


def sends(*pieces: bytes, pause: float = 0.0) -> Behaviour:
    """Answer these bytes."""

    def behave(told: Told, connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    return behave


def without_end(beginning: bytes, piece: bytes) -> Behaviour:
    """Answer until nobody takes it any more, or a gigabyte is sent."""

    def behave(told: Told, connection: socket.socket) -> None:
        connection.sendall(beginning)
        for _ in range((1 << 30) // len(piece)):
            connection.sendall(piece)

    return behave


class Receiver:
    """A server on loopback that keeps what it was told. `behave` may be set at any time."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, behave: Behaviour | None = None, wrap: Any = None) -> None:
        self.behave = behave or status(204)
        self.got: list[Told] = []
        self.at_once = 0
        self.most_at_once = 0
        self._wrap = wrap
        self._lock = threading.Lock()
        self._socket = socket.create_server((host, port), backlog=64)
        self.port = self._socket.getsockname()[1]
        self.url = f"http{'s' if wrap else ''}://{host}:{self.port}/told?by=mayfly"
        threading.Thread(target=self._accept, daemon=True).start()

    def told(self) -> list[str]:
        """The types of the events that came, in the order in which they came."""
        return [told.event["type"] for told in self.got]

    def wait_for(self, count: int, seconds: float = 20) -> list[Told]:
        """Wait until so many requests came."""
        ends = time.monotonic() + seconds
        while len(self.got) < count:
            assert time.monotonic() < ends, f"{len(self.got)} of {count} came"
            time.sleep(0.01)
        return list(self.got)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with self._wrap(connection) if self._wrap else connection as ours:
                told = _read(ours)
                with self._lock:
                    self.got.append(told)
                    self.at_once += 1
                    self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    self.behave(told, ours)
                finally:
                    with self._lock:
                        self.at_once -= 1
        except OSError:
            return  # the other side had enough, or came without TLS


def _read(connection: socket.socket) -> Told:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    line, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (header.partition(": ") for header in rest)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return Told(line, headers, body)


def documented_check() -> Callable[[str, Mapping[str, str], bytes, float], bool]:
    """`is_from_mayfly` as docs/http.md gives it to those who write receivers."""
    (text,) = re.findall(r"```python\n(import base64.+?)```", HTTP_MD.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(text, names)
    return names["is_from_mayfly"]  # type: ignore[no-any-return]


def register(admin: httpx.Client, url: str, *events: str) -> dict[str, Any]:
    answer = admin.post("/webhooks", json={"url": url, "events": list(events or NOTICE_TYPES)})
    assert answer.status_code == 201, answer.text
    time.sleep(1.5)  # until the thread that delivers has looked who wants what
    return dict(answer.json())


def settled(admin: httpx.Client, hook: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The deliveries of a webhook, once so many were made."""
    ends = time.monotonic() + 20
    while True:
        found = admin.get(f"/webhooks/{hook['id']}/deliveries").json()["deliveries"]
        if len([one for one in found if one["state"] == "delivered"]) >= count:
            return list(found)
        assert time.monotonic() < ends, found
        time.sleep(0.05)
