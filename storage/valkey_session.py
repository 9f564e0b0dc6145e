"""One connection of the Valkey store to one server.

The client library (redis-py) packs commands, parses answers and signs in. Whatever waits stands in `sockets` and in
`valkey_nodes`, because every call must end by its deadline, whatever the peer does: the library's timeouts begin anew with every
byte, its pools and its map of a Cluster wait for locks, and it repeats commands of its own accord, a claim whose answer was lost
too.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.connection import Connection
from redis.exceptions import ResponseError

from storage.address import Address, Tls
from storage.deadline import has_spoken
from storage.sockets import connected, tls_context

Value = bytes | int | str
Command = tuple[Value, ...]


class Endpoint(NamedTuple):
    host: str
    port: int


class Session(Connection):
    """One connection to one server. `reached` says whether anything listened."""

    def __init__(self, endpoint: Endpoint, address: Address, tls: Tls | None) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            host=endpoint.host,
            port=endpoint.port,
            db=int(address.database),
            username=address.user,
            password=address.password,
            protocol=2,
            driver_info=None,
        )
        self._address = address
        self._tls = tls
        self.reached = False

    def open(self) -> None:
        self.connect()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        self.disconnect()  # type: ignore[no-untyped-call]

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send all `commands` and return the answer to each; what the server refused stands there as a ResponseError."""
        packed = self.pack_commands(commands)  # type: ignore[no-untyped-call]
        self.send_packed_command(packed)  # type: ignore[no-untyped-call]
        return [self._answer() for _ in commands]

    def is_over(self) -> bool:
        """Whether the server ended it, or sent what nobody asked for."""
        return self._sock is None or has_spoken(self._sock.fileno())

    def _answer(self) -> Any:
        try:
            return self.read_response()
        except ResponseError as refusal:
            return refusal

    def _connect(self) -> socket.socket:
        plain = connected(self.host, self.port, self._address.socket)
        self.reached = True
        if self._tls is None:
            return plain
        try:
            return tls_context(self._tls).wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
