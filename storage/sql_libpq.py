"""How PostgreSQL is reached: by libpq, which goes by the address alone, and waits no longer than the call may take."""

from __future__ import annotations

import os
import socket
from typing import Any

import psycopg
from psycopg import waiting
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.generators import connect as connecting

from errors import StartRefused
from storage.address import Address
from storage.deadline import seconds_left
from storage.sockets import by_address
from storage.sql_session import Lost, PasswordWanted, Unreachable

_INTERVAL_SECONDS = 0.1
_SETTINGS = {
    "statement_timeout": "1300",
    "lock_timeout": "1000",
    # A node that vanished in the middle of a transaction must not keep its locks.
    "idle_in_transaction_session_timeout": "5000",
    "tcp_user_timeout": "5000",
    "default_transaction_isolation": r"read\ committed",
    "default_transaction_read_only": "off",
}
# libpq gives no codes for what went wrong with a connection.
_LATER = ("starting up", "shutting down", "recovery", "not yet accepting", "too many", "connection slots", "administrator command")
_LOST = ("closed the connection", "reset by peer", "Broken pipe", "unexpected eof", "EOF detected", "not receive data", "not send")
_NOBODY = ("Connection refused", "No such file", "No route", "unreachable", "timeout expired", "timed out")


def connect(address: Address) -> Connection:
    """A connection as `Dialect.connect` promises it. Raises Unreachable, StartRefused."""
    _refuse_environment(address)
    try:
        if address.socket:
            connection = _connect(_conninfo(address, host=str(address.socket), hostaddr=""))
        else:
            connection = by_address(
                address.host,
                address.port,
                lambda found: _connect(_conninfo(address, host=address.host, hostaddr=found)),
                Unreachable,
            )
    except OSError as error:  # its name was not resolved, or not in time
        raise Unreachable(str(error)) from None
    if address.socket and not _is_unix(connection.pgconn.socket):  # libpq takes a comma for another host
        connection.close()
        raise StartRefused(f"{address.socket} is no path of a Unix socket to libpq")
    return connection


def _connect(conninfo: str) -> Connection:
    try:
        pgconn = waiting.wait_conn(connecting(conninfo), interval=_INTERVAL_SECONDS, timeout=seconds_left())
    except OSError as error:
        raise Unreachable(str(error)) from None
    except psycopg.Error as error:
        raise _why_not_connected(error) from None
    connection = Connection(pgconn)
    connection.cursor_factory = _Cursor
    connection.autocommit = True
    return connection


class Connection(psycopg.Connection[Any]):
    """Waits no longer than the call may take. What was not answered in time is closed: the answer would meet the next question."""

    def wait(self, gen: Any, interval: float = _INTERVAL_SECONDS, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, seconds_left())
        except (TimeoutError, psycopg.errors._WaitTimeout):
            self.pgconn.finish()
            raise psycopg.OperationalError("no answer within the time a call may take") from None


class _Cursor(psycopg.Cursor[Any]):
    """Takes its results in binary: as text, bytes come as twice as many hexadecimal digits."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.format = psycopg.pq.Format.BINARY


def _refuse_environment(address: Address) -> None:
    """Raise StartRefused where libpq would take from the environment what the address does not say: another way, less TLS.

    A variable whose place is taken by the conninfo is none of those.
    """
    said = conninfo_to_dict(_conninfo(address, host="", hostaddr=""))
    named = {option.envvar.decode(): option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.envvar}
    if taken := sorted(name for name, keyword in named.items() if name in os.environ and keyword not in said):
        raise StartRefused(f"libpq would take from the environment what the address does not say: unset {', '.join(taken)}")


def _conninfo(address: Address, host: str, hostaddr: str) -> str:
    tls = address.tls
    certificate = tls and tls.certificate
    parts: dict[str, Any] = {
        "host": host,
        "hostaddr": hostaddr,
        "port": address.port,
        "dbname": address.database,
        "user": address.user,
        # An empty one keeps libpq from looking for another, in a variable or in the user's home.
        "password": address.password or "",
        "passfile": "/dev/null/none",
        "application_name": "mayfly",
        "client_encoding": "UTF8",
        "options": " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items()),
        "gssencmode": "disable",
        "sslmode": "verify-full" if tls else "disable",
        "sslrootcert": tls.ca if tls else "",
        "sslcert": certificate or "",
        "sslkey": (tls and tls.key) or "",
        "sslcertmode": "allow" if certificate else "disable",  # else libpq would show the one it finds in the user's home
        "tcp_user_timeout": 5000,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
    }
    return make_conninfo("", **{name: str(value) for name, value in parts.items() if value is not None})


def _is_unix(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as same:
        return same.family == socket.AF_UNIX


def _why_not_connected(error: psycopg.Error) -> Exception:
    said = " ".join(str(error).split())
    if isinstance(error, psycopg.errors._WaitTimeout) or any(sign in said for sign in _LATER + _NOBODY):
        return Unreachable(said)
    if any(sign in said for sign in _LOST):
        return Lost(said)
    refused = PasswordWanted if "no password supplied" in said else StartRefused
    return refused(f"the database does not let us in ({said})")
