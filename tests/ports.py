"""Ports on loopback for what tests start."""

from __future__ import annotations

import random
import socket

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
