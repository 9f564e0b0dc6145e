"""Messages in PostgreSQL, MySQL or MariaDB, for servers of several processes and several machines.

The same tables and the same meaning as in `storage.sqlite`. What an engine does in its own way stands in its own module; here
are the acts that are one plain statement on each. What surrounds every call is `storage.sql_database`.

The quota counts the bytes of bodies and `ROW_BYTES` for each message, in `mayfly_totals`, in the transactions that change them. So
it is exact, but for what creates under way at the same moment are about to add, and costs nothing that grows with the store.
What the database needs beside that is not in it: indexes with room, and rows that are deleted but not yet vacuumed or purged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from errors import StoreFailed, StoreFull
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
from storage.sql_database import SqlDatabase, engine_of
from storage.sql_session import Engine, Messages, Session, Sql

_TURN_RENEWAL_SECONDS = 10.0
"""How often a purge that takes long renews its turn."""

_MOST_COUNTED = 100_000
"""Of the messages that wait for the purge; where more do, the others count as stored. To count a million takes a second."""

_STATE = "m.id, m.receipt, m.created_at, m.expires_at, m.views_left, m.tries_free, m.proof, m.openings, m.ended"
_LIVE = "m.expires_at > {now} AND m.ended IS NULL"


class _Statements:
    """What is the same on every engine."""

    def __init__(self, sql: Sql) -> None:
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
        engine = engine_of(address, now is None, largest_bytes)
        self._quota_bytes = quota_bytes
        self._statements = _Statements(engine.sql)
        self._messages = _messages_of(engine)
        self._holder = os.urandom(16)
        self._turn_kept_at = 0.0
        self._closed = False
        self._database = SqlDatabase(address, engine, self._messages.migrations, "mayfly_schema", now)
        self._do = self._database.do

    def close(self) -> None:
        if self._turn_kept_at and not self._closed:
            with suppress(StoreFailed):
                self._do(lambda session: session.changed(self._statements.end_turn, holder=self._holder))
        self._closed = True
        self._database.close()

    @property
    def circuit(self) -> Circuit:
        return self._database.circuit

    # Time

    def now(self) -> Millis:
        return self._database.now()

    # The life of a message

    def put(self, row: NewRow) -> None:
        if not self._do(lambda session: self._messages.put(session, row, self._quota_bytes)):
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
        return self._do(lambda session: self._messages.claim(session, row_id, lease, lease_seconds * SECOND))

    def confirm(self, row_id: RowId, lease: bytes) -> bool:
        return self._do(lambda session: self._messages.confirm(session, row_id, lease))

    def burn(self, row_id: RowId, receipt: bytes | None) -> bool:
        return self._do(lambda session: self._messages.burn(session, row_id, receipt))

    # Tries of a passphrase

    def reserve_try(self, row_id: RowId) -> bool:
        return self._do(lambda session: session.changed(self._statements.reserve, id=row_id)) == 1

    def return_try(self, row_id: RowId) -> None:
        self._do(lambda session: session.changed(self._statements.give_back, id=row_id))

    def wrong_try(self, row_id: RowId) -> int:
        wrong = self._do(lambda session: self._messages.wrong_try(session, row_id))
        return 0 if wrong is None else max(0, MAX_TRIES - wrong)

    # The purge

    def purge(self, slice_rows: int) -> Purged:
        if self._turn_kept_at and time.monotonic() - self._turn_kept_at > _TURN_RENEWAL_SECONDS:
            self._turn_kept_at = time.monotonic()
            self._do(lambda session: session.changed(self._statements.keep_turn, holder=self._holder, turn_ms=PURGE_TURN))
        return self._do(lambda session: self._messages.purge(session, slice_rows))

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
                session.unless_there(self._statements.new_verifier, key=key_id.encode(), verifier=verifier)
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


def _messages_of(engine: Engine) -> Messages:
    if engine.url.startswith("postgresql"):
        from storage.sql_postgresql import PostgreSQLMessages

        return PostgreSQLMessages(engine.sql)
    from storage.sql_mysql import MySQLMessages

    return MySQLMessages(engine.sql)


def _row(found: Any) -> Row:
    row_id, receipt, created_at, expires_at, views_left, tries_free, proof, openings, ended = found[:9]
    times = tuple(Millis(int(at)) for at in openings.split(",")[:-1])
    return Row(row_id, receipt, created_at, expires_at, views_left, tries_free, proof, times, ended)
