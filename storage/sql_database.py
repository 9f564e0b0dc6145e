"""A database on the network as its stores see it: a pool of connections, a breaker, a deadline for each call, its schema.

What is not asked for by name belongs to a store. What an engine does in its own way stands in its own module.

What was asked and not answered in time may have been done or not: nothing is asked twice unless the database said that it had not
been done.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from errors import StartRefused, StoreBusy, StoreFailed, StoreFull
from records import Circuit, Millis
from storage.address import Address
from storage.breaker import Breaker
from storage.clocks import CLOCK_SECONDS, since_boot_ms
from storage.deadline import CALL_SECONDS, has_spoken, seconds_left, within
from storage.sql_session import Engine, Lost, PasswordWanted, Session, Unreachable

CONNECTIONS = 10
"""To one store from one process; who finds none free waits for `_POOL_SECONDS`."""

_POOL_SECONDS = 1.0
_ATTEMPTS = 4
"""Of what a deadlock or a serialization failure undid."""

_START_SECONDS = 60
"""What making the schema may take at the start, with other nodes before it."""

_FAILURES = (SQLAlchemyError, Unreachable, StartRefused, OSError, ValueError, IndexError, AssertionError, struct.error)
"""The last four are what a driver raises over an answer that cannot be one."""

_log = logging.getLogger("mayfly.storage")
_T = TypeVar("_T")


class SqlDatabase:
    """A PostgreSQL, MySQL or MariaDB database. Every call ends within two seconds."""

    def __init__(
        self,
        address: Address,
        engine: Engine,
        migrations: tuple[tuple[str, ...], ...],
        versions: str,
        now: Callable[[], Millis] | None,
    ) -> None:
        """Reach the database at `address`, and make its schema by `migrations`, of which the table `versions` knows those done.

        They are numbered from 1. Each is done once, under `schema_lock`; where the database cannot take a schema change back, what
        was done of it before is done again. `now` replaces the database's clock.

        If nobody is there, it goes on all the same, and serves as soon as somebody is. Raises StartRefused when somebody is there
        who does not let us in, or cannot serve, or (where the address has a client certificate) lets in others without one.
        """
        self._address = address
        self._engine = engine
        self._migrations = migrations
        self._versions = versions
        self._clock = now
        self._name = str(address.socket or f"{address.host}:{address.port}")
        self._version_done = engine.sql(f"SELECT max(version) AS version FROM {versions}")
        self._new_version = engine.sql(f"INSERT INTO {versions} VALUES (:version)")
        self._time = engine.sql("SELECT {now} AS now")
        self._breaker = Breaker(self._name)
        self._offset_ms: float | None = None
        self._measured_at = 0.0
        self._preparing = threading.Lock()
        self._prepared = False
        self._closed = False
        self._told: str | None = None  # the last reason of a failure in the log: an outage is not one line a call
        self.pool = create_engine(
            engine.url,
            creator=lambda: engine.connect(address),
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_reset_on_return=None,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=_POOL_SECONDS,
            pool_use_lifo=True,
            hide_parameters=True,
        )
        event.listen(self.pool, "checkout", self._refuse_dead)
        try:
            with within(_START_SECONDS):
                self._prepare()
        except Unreachable as error:
            _log.warning("the store at %s cannot be reached (%s); it serves as soon as it can", self._name, error)
        except StartRefused:
            self.pool.dispose()
            raise

    def close(self) -> None:
        self._closed = True
        self.pool.dispose()

    @property
    def circuit(self) -> Circuit:
        return self._breaker.state

    def now(self) -> Millis:
        if self._clock:
            return self._clock()
        if self._offset_ms is None or time.monotonic() - self._measured_at > CLOCK_SECONDS:
            self.do(self._measure_clock)
        assert self._offset_ms is not None
        return Millis(int(since_boot_ms() + self._offset_ms))

    def _measure_clock(self, session: Session) -> None:
        asked = since_boot_ms()
        found = session.one(self._time)
        assert found
        self._offset_ms = found.now - (asked + since_boot_ms()) / 2
        self._measured_at = time.monotonic()

    # One call

    def do(self, act: Callable[[Session], _T]) -> _T:
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
        with self.pool.connect() as connection:
            try:
                yield Session(connection, self._clock)
            except DBAPIError as error:
                if not self._engine.is_answer(error):
                    connection.invalidate()
                if self._engine.is_again(error):
                    raise _Again from error
                raise
            except BaseException:
                connection.invalidate()
                raise

    def _refuse_dead(self, connection: Any, record: object, proxy: object) -> None:
        """Take no connection from the pool whose other end has gone: its first call would fail."""
        descriptor = self._engine.descriptor(connection)
        if descriptor < 0 or has_spoken(descriptor):
            raise InvalidatePoolError

    def _as_ours(self, error: Exception) -> StoreFailed | StoreFull:
        if isinstance(error, DBAPIError) and self._engine.is_full(error):
            return StoreFull()
        if isinstance(error, DBAPIError):
            reason = self._engine.reason(error)
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
            reason = self._engine.reason(error)
            if self._engine.is_answer(error):
                raise StartRefused(f"the database refuses what the store needs ({reason})") from None
            raise Unreachable(reason) from None
        finally:
            self._preparing.release()

    def _make_ready(self) -> None:
        with within(CALL_SECONDS):
            self._let_in(self._address)
            self._require_closed_door()
        with self._session() as session:
            if why := self._engine.why_unfit(session):
                raise StartRefused(f"the database cannot be used: {why}")
            self._migrate(session)

    def _let_in(self, address: Address) -> None:
        """Connect once. Raises StartRefused also when the database ends the connection without a word, twice in a row."""
        try:
            try:
                connection = self._engine.connect(address)
            except Lost:
                connection = self._engine.connect(address)
        except Lost as error:
            raise StartRefused(f"the database ends the connection before it lets us in ({error})") from None
        connection.close()

    def _require_closed_door(self) -> None:
        if self._address.tls is None or self._address.tls.certificate is None:
            return
        for weaker in self._engine.weaker(self._address):
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
        migrations = self._migrations
        with suppress(ProgrammingError):  # no such table yet
            if self._version(session) == len(migrations):
                return
        with self._engine.schema_lock(session):
            session.connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS {self._versions} (version INTEGER NOT NULL PRIMARY KEY)"
            )
            version = self._version(session)
            if version > len(migrations):
                raise StartRefused(
                    f"its tables are of a newer version of Mayfly (schema {version}; this one knows {len(migrations)})"
                )
            for number, steps in enumerate(migrations[version:], version + 1):
                for step in steps:
                    session.connection.exec_driver_sql(step)
                session.changed(self._new_version, version=number)
        session.connection.invalidate()  # it has been given more time than others

    def _version(self, session: Session) -> int:
        found = session.one(self._version_done)
        return int(found.version or 0) if found else 0


class _Again(Unreachable):
    """Nothing was done, because others were in the way."""


def engine_of(address: Address, own_clock: bool, largest_bytes: int = 0) -> Engine:
    """The engine at `address`, going by its own clock or by the parameter `now`; its largest value will have `largest_bytes`."""
    # Each imports a driver that whoever uses the other need not have.
    if address.engine == "postgresql":
        from storage.sql_postgresql import PostgreSQL

        return PostgreSQL(own_clock)
    from storage.sql_mysql import MySQL

    return MySQL(own_clock, largest_bytes)
