"""Where a database is and how it is reached: a URL, taken apart, and the rule that its vault makes for the connection.

    postgresql://user:password@host:5432/name?tls_ca=/etc/mayfly/ca.pem
    mysql://… and mariadb://…, by the same parameters
    valkey://:password@host:6379/0 and valkey+cluster://host:6379 (or redis://, redis+cluster://)
    postgresql:///name?socket=/run/postgresql and mysql:///name?socket=/run/mysqld/mysqld.sock

TLS is on when `tls_ca` names the authority (a PEM file), and then the server's certificate and name are verified; there is no
way to write a weaker one. `tls_certificate` and `tls_key` make it mutual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

Engine = Literal["postgresql", "mysql", "valkey", "valkey+cluster"]
Rule = Literal["anything", "tls", "mutual tls"]
"""What a vault demands of the connection to its database."""

_ENGINES: dict[str, tuple[Engine, int]] = {
    "postgresql": ("postgresql", 5432),
    "mysql": ("mysql", 3306),
    "mariadb": ("mysql", 3306),
    "valkey": ("valkey", 6379),
    "redis": ("valkey", 6379),
    "valkey+cluster": ("valkey+cluster", 6379),
    "redis+cluster": ("valkey+cluster", 6379),
}
NETWORK_SCHEMES = tuple(_ENGINES)
_SPECIAL = "in user and password each of / ? # [ ] @ : and % is written as %2F %3F %23 %5B %5D %40 %3A %25"
_PARAMETERS = {"tls_ca", "tls_certificate", "tls_key", "socket"}


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS with the server verified against `ca`; with `certificate` and `key` the client proves itself as well. PEM files."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """A database on the network, or behind a Unix socket. `database` is a name, for Valkey a number."""

    engine: Engine
    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    database: str
    socket: Path | None
    tls: Tls | None

    def meets(self, rule: Rule) -> bool:
        """Whether this connection is what `rule` demands. Any TCP is the network, loopback too: it may be a tunnel's end."""
        if rule == "anything":
            return True
        if rule == "tls":
            return self.socket is not None or self.tls is not None
        return self.tls is not None and self.tls.certificate is not None


def parse_address(url: str) -> Address:
    """Take a database URL apart. Raises ValueError, with a text that says what is wrong and holds no part of user or password."""
    try:
        parts = urlsplit(url)
    except ValueError:  # which quotes what it could not read
        raise ValueError(_SPECIAL) from None
    if parts.scheme not in _ENGINES:
        raise ValueError(f"it must begin with sqlite, {', '.join(NETWORK_SCHEMES)}")
    engine, default_port = _ENGINES[parts.scheme]
    if parts.fragment or "@" in parts.path:  # a password was cut in two, and its beginning taken for a host
        raise ValueError(_SPECIAL)
    parameters = _parameters(parts.query)
    socket = parameters.get("socket")
    database = unquote(parts.path.removeprefix("/"))
    if engine.startswith("valkey"):
        database = database or "0"
        if not (database.isascii() and database.isdecimal()) or (engine == "valkey+cluster" and database != "0"):
            raise ValueError("after the host stands the number of a database (0 for a cluster)")
    elif not database or "/" in database:
        raise ValueError("after the host stands the name of a database")
    host, port = _host_and_port(parts, default_port)
    if bool(host) == bool(socket):
        raise ValueError("it names either a host or a socket")
    if socket and len(parameters) > 1:
        raise ValueError("a socket takes no tls_…: nothing of it passes through a network")
    return Address(
        engine,
        host,
        port,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        database,
        socket,
        _tls(parameters),
    )


def _host_and_port(parts: SplitResult, default_port: int) -> tuple[str, int]:
    try:
        port = parts.port
    except ValueError:
        raise ValueError("its port is no number from 1 to 65535") from None
    if port == 0:
        raise ValueError("its port is no number from 1 to 65535")
    return parts.hostname or "", port or default_port


def _parameters(query: str) -> dict[str, Path]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("what stands after ? is not of the form name=value&…") from None
    found = {name: Path(value) for name, value in pairs}
    if len(found) != len(pairs) or not set(found) <= _PARAMETERS:
        raise ValueError(f"after ? it takes {', '.join(sorted(_PARAMETERS))}, each once")
    for name, path in found.items():
        if not path.is_absolute() or not path.exists():
            raise ValueError(f"{name} must be the absolute path of something that exists")
    return found


def _tls(parameters: dict[str, Path]) -> Tls | None:
    ca, certificate, key = (parameters.get(name) for name in ("tls_ca", "tls_certificate", "tls_key"))
    if (certificate is None) != (key is None):
        raise ValueError("tls_certificate and tls_key go together")
    if ca is None and certificate is not None:
        raise ValueError("tls_certificate needs tls_ca, by which the server is verified")
    return Tls(ca, certificate, key) if ca else None
