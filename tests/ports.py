"""Ports on loopback for what tests start."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_RANGE = range(15_000, 32_000)
"""Below those that the system gives to outgoing connections: one of them could take the port before its server does."""


def free_port() -> int:
    while True:
        port = random.SystemRandom().choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def deaf_port(port: int) -> Iterator[str]:
    """An address of this machine whose `port` takes no connection and refuses none: its queue is full, and nobody looks."""
    address = "127.0.0.2"
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            caller = sockets.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex((address, port))
        yield address
