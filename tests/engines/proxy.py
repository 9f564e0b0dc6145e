"""A TCP proxy that can go wrong in the ways that networks do. It stands between a store and its database.

with FaultyProxy(("127.0.0.1", 5432)) as proxy:
    proxy.fault = "silent"      takes connections and bytes, and answers nothing, on open connections as well
    proxy.fault = None          all is well again
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Literal, get_args

Fault = Literal["down", "silent", "slow", "resetting", "dripping"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
DRIP_SECONDS = 0.5


class FaultyProxy:
    """Forwards each connection to `target`; `url_of(url)` is a database URL by way of it.

    down: nobody listens, and what is connected ends. silent: half-open, answers are swallowed. slow: answers come
    `slow_seconds` late. resetting: each answer is cut in its middle by a reset. dripping: answers come byte by byte.
    """

    def __init__(self, target: tuple[str, int], slow_seconds: float = 5.0) -> None:
        self.slow_seconds = slow_seconds
        self._target = target
        self._fault: Fault | None = None
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = False
        self._accepting = self._start_accepting()

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        before, self._fault = self._fault, fault
        if fault == "down":
            self._stop_listening()
            self.cut_all()
        elif before == "down":
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._accepting = self._start_accepting()

    @property
    def connections(self) -> int:
        """How many connections of clients are open at this moment."""
        with self._lock:
            self._pairs = [pair for pair in self._pairs if not pair.closed]
            return len(self._pairs)

    def url_of(self, url: str) -> str:
        """`url`, which names the target, by way of the proxy."""
        host, port = self._target
        assert f"{host}:{port}" in url
        return url.replace(f"{host}:{port}", f"127.0.0.1:{self.port}")

    def cut_all(self) -> None:
        """End all connections with a reset."""
        with self._lock:
            for pair in self._pairs:
                pair.reset()
            self._pairs = []

    def close(self) -> None:
        self._closed = True
        self._stop_listening()
        self.cut_all()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_accepting(self) -> threading.Thread:
        thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        thread.start()
        return thread

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            pair = _Pair(self, client, server)
            with self._lock:
                self._pairs.append(pair)
            threading.Thread(target=pair.run, daemon=True).start()


class _Pair:
    """One connection, forwarded both ways until an end."""

    def __init__(self, proxy: FaultyProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self.closed = False
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        with suppress(OSError), selectors.DefaultSelector() as selector:
            selector.register(self._client, selectors.EVENT_READ)
            selector.register(self._server, selectors.EVENT_READ)
            while not self.closed:
                for key, _ in selector.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        return self._close()
                    if source is self._client:
                        self._server.sendall(data)
                    else:
                        self._answer(data)
        self._close()

    def _answer(self, data: bytes) -> None:
        """Pass on what the database said, in the way that is wrong at this moment."""
        fault = self._proxy.fault
        if fault == "silent":
            return
        if fault == "slow":
            time.sleep(self._proxy.slow_seconds)
        if fault == "resetting":
            self._client.sendall(data[: len(data) // 2])
            return self.reset()
        if fault == "dripping":
            for position in range(len(data)):
                self._client.sendall(data[position : position + 1])
                time.sleep(DRIP_SECONDS)
            return
        self._client.sendall(data)

    def reset(self) -> None:
        with suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def _close(self) -> None:
        self.closed = True
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
