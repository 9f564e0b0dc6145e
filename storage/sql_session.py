"""What the SQL engines share: statements made once, a connection that runs them, and the numbers that stand in them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from sqlalchemy import BigInteger, Connection, LargeBinary, Row, Text, TextClause, bindparam, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from errors import StartRefused
from records import MAX_OPENINGS, Claim, Millis, NewRow, Purged, RowId
from storage.address import Address

OPENINGS_CHARS = 14 * MAX_OPENINGS  # 13 digits of milliseconds, until the year 2286, and a comma

ROW_BYTES = 512
"""What a message takes of the quota beside its body, and keeps until its receipt goes: a row, its places in three indexes."""

SLICE_BYTES = 4 * 1024 * 1024
"""How much one slice of the purge deletes, but for a message that is larger by itself: large bodies take long to delete."""

SLOTS = 16
"""The totals are kept in so many rows, and changes take turns with them, so that they need not wait for one another."""

_slots = itertools.cycle(range(SLOTS))
_BINARY = {"id", "receipt", "proof", "body", "lease", "key", "verifier", "holder"}
_BINARY |= {"digest", "sealed", "old", "mac", "signed", "beginning"}
_BINARY |= {"der", "chain", "crl"}
_TEXT = {"account", "email", "first_name", "last_name", "roles", "password", "key_id", "name", "scopes"}
_TEXT |= {"way", "credential", "action", "outcome", "vault", "target", "address", "detail"}
_TEXT |= {"certificate_id", "serial", "issuer", "state", "reason", "replaces"}
_TEXT |= {"hook_id", "url", "events", "notice_id", "subject", "type", "payload", "answer"}


class Unreachable(Exception):
    """The database cannot be reached at this moment, or says that it will serve later."""


class Lost(Unreachable):
    """The database ended the connection before it had let us in."""


class PasswordWanted(StartRefused):
    """The database would have let us in with a password."""


class Sql:
    """Makes statements of SQL in which `{now}` and `{began}` stand for the time: as it passes, and when the statement began.

    Parameters named `…_in` are lists.
    """

    def __init__(self, now: str, began: str) -> None:
        self._times = {"{now}": now, "{began}": began}

    def __call__(self, sql: str) -> TextClause:
        for name, expression in self._times.items():
            sql = sql.replace(name, expression)
        return text(sql).bindparams(
            *(bindparam(name, type_=_type_of(name), expanding=name.endswith("_in")) for name in set(re.findall(r":(\w+)", sql)))
        )


def _type_of(name: str) -> LargeBinary | Text | BigInteger:
    return LargeBinary() if name in _BINARY else Text() if name in _TEXT else BigInteger()


class Session:
    """A connection for one call. Each statement is a transaction of its own, but within `transaction`."""

    def __init__(self, connection: Connection, clock: Callable[[], Millis] | None) -> None:
        self.connection = connection
        self._clock = clock

    def one(self, statement: TextClause, **values: Any) -> Row[Any] | None:
        """The first row of the answer."""
        return self._run(statement, values).fetchone()  # type: ignore[no-any-return]

    def all(self, statement: TextClause, **values: Any) -> Sequence[Row[Any]]:
        """All rows of the answer."""
        return self._run(statement, values).fetchall()  # type: ignore[no-any-return]

    def changed(self, statement: TextClause, **values: Any) -> int:
        """How many rows the statement changed."""
        return int(self._run(statement, values).rowcount)

    def unless_there(self, statement: TextClause, **values: Any) -> bool:
        """Run a statement; False if it was to write what may be there once only, and is."""
        try:
            self._run(statement, values)
        except IntegrityError:
            return False
        return True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What happens in here happens whole or not at all."""
        self.connection.exec_driver_sql("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(SQLAlchemyError):  # the connection may be lost, and the transaction with it
                self.connection.exec_driver_sql("ROLLBACK")
            raise
        self.connection.exec_driver_sql("COMMIT")

    def _run(self, statement: TextClause, values: dict[str, Any]) -> Any:
        values["slot"] = next(_slots)
        if self._clock:
            values["now"] = self._clock()
        return self.connection.execute(statement, values)


class Engine(Protocol):
    """What is particular to a database: how it is reached, and what its errors mean."""

    url: str
    """How SQLAlchemy calls the database and its driver."""

    sql: Sql

    def connect(self, address: Address) -> Any:
        """A connection of the driver that commits each statement, had within this thread's call.

        Raises Unreachable; StartRefused when somebody is there and this is not the way in.
        """

    def weaker(self, address: Address) -> tuple[Address, ...]:
        """The same address without its client certificate, in each way in which that may get in. None of them shows a password to
        anybody but the server that is verified."""

    def descriptor(self, connection: Any) -> int:
        """The file descriptor of a driver's connection."""

    def why_unfit(self, session: Session) -> str | None:
        """What keeps this server from serving, for the operator."""

    def schema_lock(self, session: Session) -> Any:
        """A context in which no other node changes the schema, and this one may take its time for it."""

    def is_answer(self, error: DBAPIError) -> bool:
        """Whether the server answered with this error, and the connection is as good as before."""

    def is_again(self, error: DBAPIError) -> bool:
        """Whether nothing was done because others were in the way, so that the same may be tried again."""

    def is_full(self, error: DBAPIError) -> bool:
        """Whether the database has no room left."""

    def reason(self, error: DBAPIError) -> str:
        """The error in a line that holds no values."""


class Messages(Protocol):
    """Messages in an engine's own way: their schema, and the acts of several steps."""

    migrations: tuple[tuple[str, ...], ...]

    def put(self, session: Session, row: NewRow, quota_bytes: int) -> bool:
        """Store a message; False when the quota has no room for it."""

    def claim(self, session: Session, row_id: RowId, lease: bytes | None, lease_ms: int) -> Claim | None: ...
    def confirm(self, session: Session, row_id: RowId, lease: bytes) -> bool: ...
    def wrong_try(self, session: Session, row_id: RowId) -> int | None:
        """Count a wrong try; how many there were, or None if there is no such message. The last destroys it."""

    def burn(self, session: Session, row_id: RowId, receipt: bytes | None) -> bool: ...
    def purge(self, session: Session, slice_rows: int) -> Purged: ...


def first_of(due: Iterable[Row[Any]], most_rows: int) -> list[Row[Any]]:
    """The first rows that are due, up to `most_rows` and `SLICE_BYTES` of `body_bytes`, but one at least."""
    taken: list[Row[Any]] = []
    total = 0
    for row in itertools.islice(due, most_rows):
        total += 0 if row.ended else row.body_bytes
        if taken and total > SLICE_BYTES:
            break
        taken.append(row)
    return taken
