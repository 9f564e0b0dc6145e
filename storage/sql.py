"""Messages in PostgreSQL, MySQL or MariaDB, for servers of several processes and several machines.

The same tables and the same meaning as in `storage.sqlite`. What an engine does in its own way stands in its own module; here
are the acts that are one plain statement on each, and what surrounds every call: a pool of connections, a breaker, a deadline.

The quota counts the bytes of bodies and `ROW_BYTES` for each message, in `mayfly_totals`, in the transactions that change them. So
it is exact, but for what creates under way at the same moment are about to add, and costs nothing that grows with the store.
What the database needs beside that is not in it: indexes with room, and rows that are deleted but not yet vacuumed or purged.

What was asked and not answered in time may have been done or not: nothing is asked twice unless the database said that it had not
been done.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from errors import StartRefused, StoreBusy, StoreFailed, StoreFull
from records import (
    MAX_TRIES,
    PURGE_TURN,
    RECEIPT_LIFETIME,
    SECOND,
    TRY_LAPSES,
    Circuit,
    Claim,
    Counts,
    KeyId,
    Millis,
    NewRow,
    Purged,
    Row,
    RowId,
    Sealed,
)
from storage.address import Address
from storage.breaker import Breaker
from storage.clocks import CLOCK_SECONDS, since_boot_ms
from storage.deadline import CALL_SECONDS, has_spoken, seconds_left, within
from storage.sql_session import Dialect, Lost, PasswordWanted, Session, Sql, Unreachable

CONNECTIONS = 10
"""To one store from one process; who finds none free waits for `_POOL_SECONDS`."""

_POOL_SECONDS = 1.0
_ATTEMPTS = 4
"""Of what a deadlock or a serialization failure undid."""

_START_SECONDS = 60
"""What making the schema may take at the start, with other nodes before it."""

_TURN_RENEWAL_SECONDS = 10.0
"""How often a purge that takes long renews its turn."""

_MOST_COUNTED = 100_000
"""Of the messages that wait for the purge; where more do, the others count as stored. To count a million takes a second."""

_STATE = "m.id, m.receipt, m.created_at, m.expires_at, m.views_left, m.tries_free, m.proof, m.openings, m.ended"
_LIVE = "m.expires_at > {now} AND m.ended IS NULL"

_FAILURES = (SQLAlchemyError, Unreachable, StartRefused, OSError, ValueError, IndexError, AssertionError, struct.error)
"""The last four are what a driver raises over an answer that cannot be one."""

_log = logging.getLogger("mayfly.storage")
_T = TypeVar("_T")


class _Statements:
    """What is the same on every engine."""

    def __init__(self, sql: Sql) -> None:
        self.time = sql("SELECT {now} AS now")
        self.version = sql("SELECT max(version) AS version FROM mayfly_schema")
        self.new_version = sql("INSERT INTO mayfly_schema VALUES (:version)")
        self.peek = sql(
            f"SELECT {_STATE} FROM mayfly_messages m WHERE m.id = :id AND {_LIVE} AND (m.views_left IS NULL OR m.views_left > 0)"
        )
        self.fetch = sql(
            f"SELECT {_STATE}, b.body FROM mayfly_messages m JOIN mayfly_bodies b ON b.n = m.n WHERE m.id = :id AND {_LIVE} "
            "AND (m.views_left IS NULL OR m.views_left > 0 OR EXISTS "
            "(SELECT 1 FROM mayfly_claims c WHERE c.n = m.n AND c.lease = :lease AND c.until > {now}))"
        )
        self.history = sql(
            f"SELECT {_STATE} FROM mayfly_messages m WHERE m.id = :id AND m.created_at > {{now}} - {RECEIPT_LIFETIME}"
        )
        self.reserve = sql(
            "UPDATE mayfly_messages SET "
            f"tries_free = CASE WHEN tries_free > 0 THEN tries_free ELSE {MAX_TRIES} - tries_wrong END - 1, tried_at = {{now}} "
            "WHERE id = :id AND expires_at > {now} AND ended IS NULL AND (tries_free > 0 "
            f"OR (tries_free = 0 AND tries_wrong < {MAX_TRIES} AND tried_at <= {{now}} - {TRY_LAPSES}))"
        )
        self.give_back = sql(
            "UPDATE mayfly_messages SET tries_free = tries_free + 1 "
            f"WHERE id = :id AND ended IS NULL AND tries_free + tries_wrong < {MAX_TRIES}"
        )
        self.take_turn = sql(
            "UPDATE mayfly_turns SET holder = :holder, until = {now} + :turn_ms "
            "WHERE name = 'purge' AND (holder = :holder OR until <= {now})"
        )
        self.keep_turn = sql("UPDATE mayfly_turns SET until = {now} + :turn_ms WHERE name = 'purge' AND holder = :holder")
        self.end_turn = sql("UPDATE mayfly_turns SET until = 0 WHERE name = 'purge' AND holder = :holder")
        self.verifier = sql("SELECT verifier FROM mayfly_keys WHERE id = :key")
        self.new_verifier = sql("INSERT INTO mayfly_keys VALUES (:key, :verifier)")
        self.health = sql("SELECT slot FROM mayfly_totals WHERE slot = 0")
        self.totals = sql("SELECT sum(bodies) AS bodies, sum(bytes) AS bytes FROM mayfly_totals")
        self.due = sql(
            "SELECT count(*) AS due FROM "
            f"(SELECT 1 AS one FROM mayfly_messages WHERE purge_at <= {{began}} AND ended IS NULL LIMIT {_MOST_COUNTED}) AS waiting"
        )
        self.overdue = sql("SELECT {began} - min(purge_at) AS overdue FROM mayfly_messages")


class SqlStore:
    """A store on PostgreSQL, MySQL or MariaDB. Every call ends within two seconds."""

    durability: Literal["memory", "disk"] = "disk"

    def __init__(self, address: Address, quota_bytes: int, now: Callable[[], Millis] | None = None, largest_bytes: int = 0) -> None:
        """Reach the database at `address` and make its schema; creating stops at `quota_bytes`.

        `now` replaces the database's clock; `largest_bytes` is the size of the largest body there will be. If nobody is there, the
        store starts all the same, and serves as soon as somebody is. Raises StartRefused when somebody is there who does not let
        us in, or cannot serve, or (where the address has a client certificate) lets in others without one.
        """
        self._address = address
        self._quota_bytes = quota_bytes
        self._clock = now
        self._name = str(address.socket or f"{address.host}:{address.port}")
        self._dialect = _dialect(address, now is None, largest_bytes)
        self._statements = _Statements(self._dialect.sql)
        self._breaker = Breaker(self._name)
        self._holder = os.urandom(16)
        self._turn_kept_at = 0.0
        self._offset_ms: float | None = None
        self._measured_at = 0.0
        self._preparing = threading.Lock()
        self._prepared = False
        self._closed = False
        self._told: str | None = None  # the last reason of a failure in the log: an outage is not one line a call
        self._engine = create_engine(
            self._dialect.url,
            creator=lambda: self._dialect.connect(address),
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=_POOL_SECONDS,
            pool_use_lifo=True,
            hide_parameters=True,
        )
        event.listen(self._engine, "checkout", self._refuse_dead)
        try:
            with within(_START_SECONDS):
                self._prepare()
        except Unreachable as error:
            _log.warning("the store at %s cannot be reached (%s); its messages can be had as soon as it can", self._name, error)
        except StartRefused:
            self._engine.dispose()
            raise

    def close(self) -> None:
        if self._turn_kept_at and not self._closed:
            with suppress(StoreFailed):
                self._do(lambda session: session.changed(self._statements.end_turn, holder=self._holder))
        self._closed = True
        self._engine.dispose()

    @property
    def circuit(self) -> Circuit:
        return self._breaker.state

    # Time

    def now(self) -> Millis:
        if self._clock:
            return self._clock()
        if self._offset_ms is None or time.monotonic() - self._measured_at > CLOCK_SECONDS:
            self._do(self._measure_clock)
        assert self._offset_ms is not None
        return Millis(int(since_boot_ms() + self._offset_ms))

    def _measure_clock(self, session: Session) -> None:
        asked = since_boot_ms()
        found = session.one(self._statements.time)
        assert found
        self._offset_ms = found.now - (asked + since_boot_ms()) / 2
        self._measured_at = time.monotonic()

    # The life of a message

    def put(self, row: NewRow) -> None:
        if not self._do(lambda session: self._dialect.put(session, row, self._quota_bytes)):
            raise StoreFull

    def peek(self, row_id: RowId) -> Row | None:
        found = self._do(lambda session: session.one(self._statements.peek, id=row_id))
        return _row(found) if found else None

    def fetch(self, row_id: RowId, lease: bytes | None) -> tuple[Row, Sealed] | None:
        found = self._do(lambda session: session.one(self._statements.fetch, id=row_id, lease=lease))
        return (_row(found), Sealed(found.body)) if found else None

    def history(self, row_id: RowId) -> Row | None:
        found = self._do(lambda session: session.one(self._statements.history, id=row_id))
        return _row(found) if found else None

    def claim(self, row_id: RowId, lease: bytes | None, lease_seconds: int) -> Claim | None:
        return self._do(lambda session: self._dialect.claim(session, row_id, lease, lease_seconds * SECOND))

    def confirm(self, row_id: RowId, lease: bytes) -> bool:
        return self._do(lambda session: self._dialect.confirm(session, row_id, lease))

    def burn(self, row_id: RowId, receipt: bytes | None) -> bool:
        return self._do(lambda session: self._dialect.burn(session, row_id, receipt))

    # Tries of a passphrase

    def reserve_try(self, row_id: RowId) -> bool:
        return self._do(lambda session: session.changed(self._statements.reserve, id=row_id)) == 1

    def return_try(self, row_id: RowId) -> None:
        self._do(lambda session: session.changed(self._statements.give_back, id=row_id))

    def wrong_try(self, row_id: RowId) -> int:
        wrong = self._do(lambda session: self._dialect.wrong_try(session, row_id))
        return 0 if wrong is None else max(0, MAX_TRIES - wrong)

    # The purge

    def purge(self, slice_rows: int) -> Purged:
        if self._turn_kept_at and time.monotonic() - self._turn_kept_at > _TURN_RENEWAL_SECONDS:
            self._turn_kept_at = time.monotonic()
            self._do(lambda session: session.changed(self._statements.keep_turn, holder=self._holder, turn_ms=PURGE_TURN))
        return self._do(lambda session: self._dialect.purge(session, slice_rows))

    def tidy(self) -> None:
        """Nothing: no statement overwrites what a database's files and logs keep of deleted rows (docs/threat-model.md)."""

    def may_purge(self) -> bool:
        mine = self._do(lambda session: session.changed(self._statements.take_turn, holder=self._holder, turn_ms=PURGE_TURN)) == 1
        self._turn_kept_at = time.monotonic() if mine else 0.0
        return mine

    # Keys, counts, faults

    def same_key(self, key_id: KeyId, verifier: bytes) -> bool:
        def act(session: Session) -> bool:
            known = session.one(self._statements.verifier, key=key_id.encode())
            if known is None:
                with suppress(IntegrityError):  # another node was quicker
                    session.changed(self._statements.new_verifier, key=key_id.encode(), verifier=verifier)
                known = session.one(self._statements.verifier, key=key_id.encode())
            return known is not None and bytes(known.verifier) == verifier

        return self._do(act)

    def health(self) -> None:
        self._do(lambda session: session.one(self._statements.health))

    def counts(self) -> Counts:
        def act(session: Session) -> Counts:
            totals, due = session.one(self._statements.totals), session.one(self._statements.due)
            oldest = session.one(self._statements.overdue)
            assert totals
            assert due
            assert oldest
            overdue = Millis(max(0, int(oldest.overdue or 0)))
            return Counts(max(0, int(totals.bodies) - due.due), due.due, int(totals.bytes), self._quota_bytes, overdue)

        return self._do(act)

    # One call

    def _do(self, act: Callable[[Session], _T]) -> _T:
        """Do something within the time a call may take. Raises StoreFull, StoreFailed."""
        with self._breaker.call() as seconds, within(seconds):
            try:
                self._prepare()
                for _ in range(_ATTEMPTS - 1):
                    with suppress(_Again):
                        return self._attempt(act)
                return self._attempt(act)
            except PoolTimeout:
                raise StoreBusy from None
            except _FAILURES as error:
                raise self._as_ours(error) from None

    def _attempt(self, act: Callable[[Session], _T]) -> _T:
        with self._session() as session:
            return act(session)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """A connection of the pool. One that was not answered, or not as it should be, is closed."""
        if self._closed:
            raise Unreachable("closed")
        with self._engine.connect() as connection:
            try:
                yield Session(connection, self._clock)
            except DBAPIError as error:
                if not self._dialect.is_answer(error):
                    connection.invalidate()
                if self._dialect.is_again(error):
                    raise _Again from error
                raise
            except BaseException:
                connection.invalidate()
                raise

    def _refuse_dead(self, connection: Any, record: object, proxy: object) -> None:
        """Take no connection from the pool whose other end has gone: its first call would fail."""
        descriptor = self._dialect.descriptor(connection)
        if descriptor < 0 or has_spoken(descriptor):
            raise InvalidatePoolError

    def _as_ours(self, error: Exception) -> StoreFailed | StoreFull:
        if isinstance(error, DBAPIError) and self._dialect.is_full(error):
            return StoreFull()
        if isinstance(error, DBAPIError):
            reason = self._dialect.reason(error)
        else:
            reason = str(error) if isinstance(error, (Unreachable, StartRefused)) else type(error).__name__
        if reason != self._told:
            self._told = reason
            _log.error("the store at %s failed: %s", self._name, reason)
        return StoreFailed()

    # Making ready

    def _prepare(self) -> None:
        """Before the first call: see that the database is what it must be, and make its tables.

        Raises Unreachable, StartRefused.
        """
        if self._prepared:
            return
        if not self._preparing.acquire(timeout=seconds_left()):
            raise Unreachable("another call is connecting")
        try:
            if not self._prepared:
                self._make_ready()
                self._prepared = True
        except DBAPIError as error:
            reason = self._dialect.reason(error)
            if self._dialect.is_answer(error):
                raise StartRefused(f"the database refuses what the store needs ({reason})") from None
            raise Unreachable(reason) from None
        finally:
            self._preparing.release()

    def _make_ready(self) -> None:
        with within(CALL_SECONDS):
            self._let_in(self._address)
            self._require_closed_door()
        with self._session() as session:
            if why := self._dialect.why_unfit(session):
                raise StartRefused(f"the database cannot be used: {why}")
            self._migrate(session)

    def _let_in(self, address: Address) -> None:
        """Connect once. Raises StartRefused also when the database ends the connection without a word, twice in a row."""
        try:
            try:
                connection = self._dialect.connect(address)
            except Lost:
                connection = self._dialect.connect(address)
        except Lost as error:
            raise StartRefused(f"the database ends the connection before it lets us in ({error})") from None
        connection.close()

    def _require_closed_door(self) -> None:
        if self._address.tls is None or self._address.tls.certificate is None:
            return
        for weaker in self._dialect.weaker(self._address):
            try:
                self._let_in(weaker)
            except PasswordWanted:
                pass
            except StartRefused:
                continue
            raise StartRefused(
                "the database lets in clients that show no certificate; demand one of every connection of this user "
                "(PostgreSQL: only hostssl with clientcert=verify-full; MySQL: REQUIRE X509)"
            )

    def _migrate(self, session: Session) -> None:
        migrations = self._dialect.migrations
        with suppress(ProgrammingError):  # no such table yet
            if self._version(session) == len(migrations):
                return
        with self._dialect.schema_lock(session):
            session.connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS mayfly_schema (version INTEGER NOT NULL PRIMARY KEY)")
            version = self._version(session)
            if version > len(migrations):
                raise StartRefused(
                    f"its tables are of a newer version of Mayfly (schema {version}; this one knows {len(migrations)})"
                )
            for number, steps in enumerate(migrations[version:], version + 1):
                for step in steps:
                    session.connection.exec_driver_sql(step)
                session.changed(self._statements.new_version, version=number)
        session.connection.invalidate()  # it has been given more time than others

    def _version(self, session: Session) -> int:
        found = session.one(self._statements.version)
        return int(found.version or 0) if found else 0


class _Again(Unreachable):
    """Nothing was done, because others were in the way."""


def _dialect(address: Address, own_clock: bool, largest_bytes: int) -> Dialect:
    # Each imports a driver that whoever uses the other need not have.
    if address.engine == "postgresql":
        from storage.sql_postgresql import PostgreSQL

        return PostgreSQL(own_clock)
    from storage.sql_mysql import MySQL

    return MySQL(own_clock, largest_bytes)


def _row(found: Any) -> Row:
    row_id, receipt, created_at, expires_at, views_left, tries_free, proof, openings, ended = found[:9]
    times = tuple(Millis(int(at)) for at in openings.split(",")[:-1])
    return Row(row_id, receipt, created_at, expires_at, views_left, tries_free, proof, times, ended)
