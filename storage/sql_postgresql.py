"""PostgreSQL, by psycopg 3: what its errors mean, its schema, and acts that are one statement each.

READ COMMITTED is what these statements are written for. An UPDATE that had to wait for another asks its WHERE again of the row as
that left it; but what it reads of other rows is as it was when it began. So a message decides by its own row: `lease_until` is no
less than the end of any lease of it, and only a statement that begins later looks whether one is still there. Times of a WHERE
go on while the statement waits: whoever had to wait may have come too late.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from sqlalchemy.exc import DBAPIError, IntegrityError

from records import MAX_TRIES, RECEIPT_LIFETIME, Claim, NewRow, Purged, RowId
from storage.address import Address, Tls
from storage.sql_libpq import Connection, connect
from storage.sql_session import OPENINGS_CHARS, ROW_BYTES, SLICE_BYTES, SLOTS, Session, Sql

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE mayfly_messages (
            n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            id BYTEA NOT NULL UNIQUE,
            receipt BYTEA NOT NULL,
            created_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL,
            views_left INTEGER,
            tries_free INTEGER,
            proof BYTEA,
            tries_wrong INTEGER NOT NULL DEFAULT 0,
            tried_at BIGINT NOT NULL DEFAULT 0,
            openings TEXT NOT NULL DEFAULT '',
            ended TEXT,
            lease_until BIGINT NOT NULL DEFAULT 0,
            body_bytes BIGINT NOT NULL,
            purge_at BIGINT NOT NULL
        ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02)
        """,
        "CREATE INDEX mayfly_messages_purge_at ON mayfly_messages (purge_at)",
        """
        CREATE TABLE mayfly_bodies (n BIGINT PRIMARY KEY, body BYTEA NOT NULL)
        WITH (autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_scale_factor = 0.02)
        """,
        # Ciphertext does not get smaller by compressing it.
        "ALTER TABLE mayfly_bodies ALTER COLUMN body SET STORAGE EXTERNAL",
        """
        CREATE TABLE mayfly_claims (
            n BIGINT NOT NULL, lease BYTEA NOT NULL, until BIGINT NOT NULL, views_left INTEGER NOT NULL, PRIMARY KEY (n, lease)
        )
        """,
        "CREATE INDEX mayfly_claims_until ON mayfly_claims (until)",
        "CREATE TABLE mayfly_keys (id BYTEA PRIMARY KEY, verifier BYTEA NOT NULL)",
        "CREATE TABLE mayfly_totals (slot INTEGER PRIMARY KEY, bodies BIGINT NOT NULL, bytes BIGINT NOT NULL)",
        f"INSERT INTO mayfly_totals SELECT slot, 0, 0 FROM generate_series(0, {SLOTS - 1}) AS slot",
        "CREATE TABLE mayfly_turns (name TEXT PRIMARY KEY, holder BYTEA NOT NULL, until BIGINT NOT NULL)",
        "INSERT INTO mayfly_turns VALUES ('purge', '', 0)",
    ),
)

_PUT = """
    WITH room AS (SELECT 1 FROM (SELECT sum(bytes) AS used FROM mayfly_totals) AS total WHERE used + :charge <= :quota),
    message AS (
        INSERT INTO mayfly_messages (id, receipt, created_at, expires_at, views_left, tries_free, proof, body_bytes, purge_at)
        SELECT :id, :receipt, :created_at, :expires_at, :views, :tries, :proof, :body_bytes, :expires_at FROM room
        RETURNING n
    ),
    body AS (INSERT INTO mayfly_bodies (n, body) SELECT n, :body FROM message RETURNING n)
    UPDATE mayfly_totals SET bodies = bodies + 1, bytes = bytes + :charge FROM body WHERE slot = :slot
"""
# Follows a CTE `gone` (n, body_bytes), the messages that ended: what else goes with them, and their part of the quota.
_WITH_ALL_THEIRS = """
    bodies_gone AS (DELETE FROM mayfly_bodies b USING gone WHERE b.n = gone.n),
    claims_gone AS (DELETE FROM mayfly_claims c USING gone WHERE c.n = gone.n),
    counted AS (
        UPDATE mayfly_totals t SET bodies = t.bodies - g.bodies, bytes = t.bytes - g.bytes
        FROM (SELECT count(*) AS bodies, coalesce(sum(body_bytes), 0) AS bytes FROM gone) AS g
        WHERE t.slot = :slot AND g.bodies > 0
    )
"""
_REPEATED = """
    SELECT c.views_left FROM mayfly_claims c JOIN mayfly_messages m ON m.n = c.n
    WHERE m.id = :id AND m.expires_at > {now} AND m.ended IS NULL AND c.lease = :lease AND c.until > {now}
"""
# What is written goes by one moment, `clock`; whether there was still something to have, by the one after any wait.
_LEASE_ENDS = "CASE WHEN :lease IS NULL OR m.views_left IS NULL THEN 0 ELSE least(clock.at + :lease_ms, m.expires_at) END"
_LEASED_UNTIL = f"greatest(m.lease_until, {_LEASE_ENDS})"
_SPENT = f"m.views_left = 1 AND {_LEASED_UNTIL} <= clock.at"
_CLAIM = f"""
    WITH clock AS (SELECT {{now}} AS at),
    repeated AS ({_REPEATED}),
    taken AS (
        UPDATE mayfly_messages m SET
            views_left = m.views_left - 1,
            openings = right(concat(m.openings, clock.at, ','), {OPENINGS_CHARS}),
            lease_until = {_LEASED_UNTIL},
            ended = CASE WHEN {_SPENT} THEN 'spent' END,
            proof = CASE WHEN {_SPENT} THEN NULL ELSE m.proof END,
            purge_at = CASE
                WHEN {_SPENT} THEN m.created_at + {RECEIPT_LIFETIME}
                WHEN m.views_left = 1 THEN {_LEASED_UNTIL}
                ELSE m.purge_at
            END
        FROM clock
        WHERE m.id = :id AND m.expires_at > {{now}} AND m.ended IS NULL AND (m.views_left IS NULL OR m.views_left > 0)
            AND NOT EXISTS (SELECT 1 FROM repeated)
        RETURNING m.n, m.views_left, m.expires_at, m.ended, m.body_bytes, m.expires_at > {{now}} AS in_time
    ),
    held AS (
        INSERT INTO mayfly_claims (n, lease, until, views_left)
        SELECT taken.n, :lease, least(clock.at + :lease_ms, taken.expires_at), taken.views_left FROM taken, clock
        WHERE :lease IS NOT NULL AND taken.views_left IS NOT NULL
    ),
    gone AS (SELECT n, body_bytes FROM taken WHERE ended IS NOT NULL),
    {_WITH_ALL_THEIRS}
    SELECT n, views_left, ended, in_time FROM taken UNION ALL SELECT NULL, views_left, NULL, TRUE FROM repeated
"""
_FORGET_LAPSED = """
    DELETE FROM mayfly_claims c USING mayfly_messages m WHERE m.n = c.n AND m.id = :id AND c.lease = :lease AND c.until <= {now}
"""
_CONFIRM = """
    DELETE FROM mayfly_claims c USING mayfly_messages m
    WHERE m.n = c.n AND m.id = :id AND m.expires_at > {now} AND m.ended IS NULL AND c.lease = :lease AND c.until > {now}
    RETURNING c.n
"""
# With no view left there will be no new lease, so those this statement sees are all.
_RETIRE = f"""
    WITH live AS (SELECT max(until) AS until FROM mayfly_claims WHERE n = :n AND until > {{now}}),
    retired AS (
        UPDATE mayfly_messages m SET
            ended = CASE WHEN live.until IS NULL THEN 'spent' END,
            proof = CASE WHEN live.until IS NULL THEN NULL ELSE m.proof END,
            purge_at = coalesce(live.until, m.created_at + {RECEIPT_LIFETIME})
        FROM live WHERE m.n = :n AND m.ended IS NULL AND m.views_left = 0
        RETURNING m.n, m.ended, m.body_bytes
    ),
    gone AS (SELECT n, body_bytes FROM retired WHERE ended IS NOT NULL),
    {_WITH_ALL_THEIRS}
    SELECT 1
"""
_BURN = f"""
    WITH gone AS (
        UPDATE mayfly_messages SET ended = 'burned', proof = NULL, purge_at = created_at + {RECEIPT_LIFETIME}
        WHERE id = :id AND expires_at > {{now}} AND ended IS NULL AND (CAST(:receipt AS BYTEA) IS NULL OR receipt = :receipt)
        RETURNING n, body_bytes
    ),
    {_WITH_ALL_THEIRS}
    SELECT n FROM gone
"""
_WRONG = f"""
    WITH tried AS (
        UPDATE mayfly_messages SET
            tries_wrong = tries_wrong + 1,
            ended = CASE WHEN tries_wrong + 1 >= {MAX_TRIES} THEN 'locked' END,
            proof = CASE WHEN tries_wrong + 1 >= {MAX_TRIES} THEN NULL ELSE proof END,
            purge_at = CASE WHEN tries_wrong + 1 >= {MAX_TRIES} THEN created_at + {RECEIPT_LIFETIME} ELSE purge_at END
        WHERE id = :id AND ended IS NULL
        RETURNING n, tries_wrong, ended, body_bytes
    ),
    gone AS (SELECT n, body_bytes FROM tried WHERE ended IS NOT NULL),
    {_WITH_ALL_THEIRS}
    SELECT tries_wrong FROM tried
"""
# SKIP LOCKED: what somebody reads at this moment is left for the next run, and nobody waits. One row more than the slice is
# locked, to know whether there is more.
_PURGE = f"""
    WITH due AS (
        SELECT n, ended, body_bytes, purge_at FROM mayfly_messages WHERE purge_at <= {{began}}
        ORDER BY purge_at LIMIT :slice_rows + 1 FOR UPDATE SKIP LOCKED
    ),
    counted_up AS (
        SELECT n, ended, row_number() OVER first AS place,
            sum(CASE WHEN ended IS NULL THEN body_bytes ELSE 0 END) OVER first AS bytes_so_far
        FROM due WINDOW first AS (ORDER BY purge_at, n)
    ),
    slice AS (
        SELECT n, ended FROM counted_up WHERE place <= :slice_rows AND (place = 1 OR bytes_so_far <= {SLICE_BYTES})
    ),
    receipts AS (
        DELETE FROM mayfly_messages m USING slice WHERE m.n = slice.n AND slice.ended IS NOT NULL RETURNING m.n
    ),
    gone AS (
        UPDATE mayfly_messages m SET
            ended = CASE WHEN m.views_left = 0 THEN 'spent' ELSE 'expired' END,
            proof = NULL,
            purge_at = m.created_at + {RECEIPT_LIFETIME}
        FROM slice WHERE m.n = slice.n AND slice.ended IS NULL
        RETURNING m.n, m.body_bytes
    ),
    bodies_gone AS (DELETE FROM mayfly_bodies b USING gone WHERE b.n = gone.n),
    claims_gone AS (DELETE FROM mayfly_claims c USING gone WHERE c.n = gone.n),
    totals AS (
        SELECT (SELECT count(*) FROM gone) AS bodies, (SELECT coalesce(sum(body_bytes), 0) FROM gone) AS bytes,
            (SELECT count(*) FROM receipts) AS receipts, (SELECT count(*) FROM due) AS due
    ),
    counted AS (
        UPDATE mayfly_totals t SET bodies = t.bodies - g.bodies, bytes = t.bytes - g.bytes - g.receipts * {ROW_BYTES}
        FROM totals g WHERE t.slot = :slot AND g.due > 0
    )
    SELECT bodies, receipts, due > bodies + receipts AS more FROM totals
"""
_PURGE_CLAIMS = """
    DELETE FROM mayfly_claims WHERE (n, lease) IN (
        SELECT n, lease FROM mayfly_claims WHERE until <= {began} ORDER BY until LIMIT :slice_rows FOR UPDATE SKIP LOCKED
    )
"""


class PostgreSQL:
    """A PostgreSQL database. Its statements go by its own clock, or else by the parameter `now`."""

    url = "postgresql+psycopg://"

    def __init__(self, own_clock: bool) -> None:
        self.sql = Sql(_millis("clock_timestamp()"), _millis("statement_timestamp()")) if own_clock else Sql(":now", ":now")

    # The way to it

    def connect(self, address: Address) -> Connection:
        return connect(address)

    def weaker(self, address: Address) -> tuple[Address, ...]:
        # By TLS with the password, as what it shows is seen by the verified server alone; and in the clear without one, as there
        # anybody may ask for it: that it is asked for tells enough.
        assert address.tls
        return replace(address, tls=Tls(address.tls.ca)), replace(address, tls=None, password=None)

    def descriptor(self, connection: Connection) -> int:
        return -1 if connection.closed else connection.pgconn.socket

    def why_unfit(self, session: Session) -> str | None:
        return None

    @contextmanager
    def schema_lock(self, session: Session) -> Iterator[None]:
        with session.transaction():
            session.connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            session.connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            session.connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('mayfly_schema'))")
            yield

    # What its errors mean

    def is_answer(self, error: DBAPIError) -> bool:
        # Without those about connections, operators, the system and bugs, and without "read only": that is a former primary.
        code = _code(error)
        return code is not None and (code == "57014" or (code != "25006" and code[:2] not in ("08", "57", "58", "XX")))

    def is_again(self, error: DBAPIError) -> bool:
        return _code(error) in ("40001", "40P01")

    def is_full(self, error: DBAPIError) -> bool:
        return _code(error) == "53100"

    def reason(self, error: DBAPIError) -> str:
        message = error.orig.diag.message_primary if isinstance(error.orig, psycopg.Error) else None
        return f"{_code(error)} {message}" if message else type(error.orig).__name__


class PostgreSQLMessages:
    """The messages in a PostgreSQL database."""

    migrations = MIGRATIONS

    def __init__(self, sql: Sql) -> None:
        self._put = sql(_PUT)
        self._claim = sql(_CLAIM)
        self._repeated = sql(_REPEATED)
        self._forget_lapsed = sql(_FORGET_LAPSED)
        self._confirm = sql(_CONFIRM)
        self._retire = sql(_RETIRE)
        self._burn = sql(_BURN)
        self._wrong = sql(_WRONG)
        self._purge = sql(_PURGE)
        self._purge_claims = sql(_PURGE_CLAIMS)

    def put(self, session: Session, row: NewRow, quota_bytes: int) -> bool:
        stored = session.changed(
            self._put,
            id=row.id,
            receipt=row.receipt,
            created_at=row.created_at,
            expires_at=row.expires_at,
            views=row.views,
            tries=row.tries,
            proof=row.proof,
            body=row.body,
            body_bytes=len(row.body),
            charge=len(row.body) + ROW_BYTES,
            quota=quota_bytes,
        )
        return stored == 1

    def claim(self, session: Session, row_id: RowId, lease: bytes | None, lease_ms: int) -> Claim | None:
        values = {"id": row_id, "lease": lease, "lease_ms": lease_ms}
        try:
            taken = session.one(self._claim, **values)
        except IntegrityError:
            # Nothing was taken, as this lease is there already: it lapsed, or its holder asks twice at the same moment.
            session.changed(self._forget_lapsed, id=row_id, lease=lease)
            taken = session.one(self._claim, **values)
        if taken is None and lease is not None:
            # The last view may have been taken under this very lease while the statement waited.
            taken = session.one(self._repeated, id=row_id, lease=lease)
            return Claim(taken.views_left, repeated=True) if taken else None
        # The WHERE is not asked again after waiting for somebody who then changed nothing.
        if taken is None or not taken.in_time:
            return None
        if taken.n is not None and lease is None and taken.views_left == 0 and taken.ended is None:
            self._retire_later_if_not_now(session, taken.n)
        return Claim(taken.views_left, repeated=taken.n is None)

    def confirm(self, session: Session, row_id: RowId, lease: bytes) -> bool:
        confirmed = session.one(self._confirm, id=row_id, lease=lease)
        if confirmed is None:
            return False
        self._retire_later_if_not_now(session, confirmed.n)
        return True

    def _retire_later_if_not_now(self, session: Session, n: int) -> None:
        """With the last view taken, remove the body, or leave it to the purge for when the last lease ends.

        What went before stands, whatever happens here: the purge finds the message when the last lease would have ended.
        """
        try:
            session.one(self._retire, n=n)
        except DBAPIError:
            session.connection.invalidate()

    def wrong_try(self, session: Session, row_id: RowId) -> int | None:
        tried = session.one(self._wrong, id=row_id)
        return tried.tries_wrong if tried else None

    def burn(self, session: Session, row_id: RowId, receipt: bytes | None) -> bool:
        return session.one(self._burn, id=row_id, receipt=receipt) is not None

    def purge(self, session: Session, slice_rows: int) -> Purged:
        lapsed = session.changed(self._purge_claims, slice_rows=slice_rows)
        purged = session.one(self._purge, slice_rows=slice_rows)
        assert purged
        return Purged(purged.bodies, purged.receipts, purged.more or lapsed == slice_rows)


def _millis(moment: str) -> str:
    return f"CAST(floor(extract(epoch FROM {moment}) * 1000) AS BIGINT)"


def _code(error: DBAPIError) -> str | None:
    return error.orig.sqlstate if isinstance(error.orig, psycopg.Error) else None
