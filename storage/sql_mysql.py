"""MySQL and MariaDB, by PyMySQL: how they are reached, what their errors mean, their schema, and acts behind a row's lock.

There is no UPDATE … RETURNING in MySQL, so an act locks the row of its message first (`SELECT … FOR UPDATE`), and decides by
what it then sees. READ COMMITTED, as the default takes locks between rows too. The time of a WHERE is SYSDATE, which goes on
while a statement waits for a lock: whoever had to wait may have come too late. (NOW is when the statement began.)
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pymysql
from pymysql.constants import CLIENT
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError

from errors import StartRefused
from records import MAX_TRIES, RECEIPT_LIFETIME, Claim, NewRow, Purged, RowId
from storage.address import Address, Tls
from storage.sockets import connected, tls_context
from storage.sql_session import OPENINGS_CHARS, ROW_BYTES, SLOTS, Lost, Session, Sql, Unreachable, first_of

_SETTINGS = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    # `wait_timeout`: a node that vanished in the middle of a transaction must not keep its locks. What stands in M! is MariaDB's.
    "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', innodb_lock_wait_timeout = 1, "
    "lock_wait_timeout = 1, net_read_timeout = 5, net_write_timeout = 5, wait_timeout = 30 "
    "/*M! , max_statement_time = 1.3, idle_transaction_timeout = 5 */ /*!80000 , max_execution_time = 1300 */",
)
_OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0)}
"""The first with SKIP LOCKED."""

# Too many connections, shutting down, network faults, killed, read-only (a former primary).
_NO_ANSWERS = {1040, 1042, 1043, 1053, *range(1152, 1162), 1290, 1836, 1927}
_LATER = {1040, 1053, 1203, 1226, 4031}

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE IF NOT EXISTS mayfly_messages (
            n BIGINT AUTO_INCREMENT PRIMARY KEY,
            id VARBINARY(32) NOT NULL UNIQUE,
            receipt VARBINARY(32) NOT NULL,
            created_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL,
            views_left INTEGER,
            tries_free INTEGER,
            proof VARBINARY(32),
            tries_wrong INTEGER NOT NULL DEFAULT 0,
            tried_at BIGINT NOT NULL DEFAULT 0,
            openings VARCHAR({OPENINGS_CHARS}) CHARACTER SET ascii NOT NULL DEFAULT '',
            ended VARCHAR(7) CHARACTER SET ascii,
            lease_until BIGINT NOT NULL DEFAULT 0,
            body_bytes BIGINT NOT NULL,
            purge_at BIGINT NOT NULL,
            INDEX mayfly_messages_purge_at (purge_at)
        ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC
        """.replace("{OPENINGS_CHARS}", str(OPENINGS_CHARS)),
        """
        CREATE TABLE IF NOT EXISTS mayfly_bodies (n BIGINT PRIMARY KEY, body LONGBLOB NOT NULL)
        ENGINE = InnoDB ROW_FORMAT = DYNAMIC
        """,
        """
        CREATE TABLE IF NOT EXISTS mayfly_claims (
            n BIGINT NOT NULL, lease VARBINARY(32) NOT NULL, until BIGINT NOT NULL, views_left INTEGER NOT NULL,
            PRIMARY KEY (n, lease), INDEX mayfly_claims_until (until)
        ) ENGINE = InnoDB
        """,
        "CREATE TABLE IF NOT EXISTS mayfly_keys (id VARBINARY(255) PRIMARY KEY, verifier VARBINARY(255) NOT NULL) ENGINE = InnoDB",
        """
        CREATE TABLE IF NOT EXISTS mayfly_totals (slot INTEGER PRIMARY KEY, bodies BIGINT NOT NULL, bytes BIGINT NOT NULL)
        ENGINE = InnoDB
        """,
        f"INSERT IGNORE INTO mayfly_totals VALUES {', '.join(f'({slot}, 0, 0)' for slot in range(SLOTS))}",
        """
        CREATE TABLE IF NOT EXISTS mayfly_turns (
            name VARBINARY(16) PRIMARY KEY, holder VARBINARY(16) NOT NULL, until BIGINT NOT NULL
        ) ENGINE = InnoDB
        """,
        "INSERT IGNORE INTO mayfly_turns VALUES ('purge', '', 0)",
    ),
)

_USED = "SELECT sum(bytes) AS bytes FROM mayfly_totals"
_PUT = """
    INSERT INTO mayfly_messages (id, receipt, created_at, expires_at, views_left, tries_free, proof, body_bytes, purge_at)
    VALUES (:id, :receipt, :created_at, :expires_at, :views, :tries, :proof, :body_bytes, :expires_at)
"""
_PUT_BODY = "INSERT INTO mayfly_bodies VALUES (last_insert_id(), :body)"
_COUNT = "UPDATE mayfly_totals SET bodies = bodies + :bodies, bytes = bytes + :bytes WHERE slot = :slot"
_LOCK = """
    SELECT n, views_left, expires_at, lease_until, body_bytes, receipt, {now} AS now FROM mayfly_messages
    WHERE id = :id AND expires_at > {now} AND ended IS NULL FOR UPDATE
"""
_REPEATED = "SELECT views_left FROM mayfly_claims WHERE n = :n AND lease = :lease AND until > :at"
_TAKE = f"""
    UPDATE mayfly_messages SET views_left = views_left - 1, openings = right(concat(openings, :at, ','), {OPENINGS_CHARS}),
        lease_until = greatest(lease_until, :until), purge_at = CASE WHEN views_left = 0 THEN lease_until ELSE purge_at END
    WHERE n = :n
"""
_LEASE = """
    INSERT INTO mayfly_claims VALUES (:n, :lease, :until, :views)
    ON DUPLICATE KEY UPDATE until = :until, views_left = :views
"""
_CONFIRM = "DELETE FROM mayfly_claims WHERE n = :n AND lease = :lease AND until > :at"
_LAST_LEASE = "SELECT max(until) AS until FROM mayfly_claims WHERE n = :n AND until > :at"
_WAIT_FOR_LEASE = "UPDATE mayfly_messages SET purge_at = :until WHERE n = :n"
_EMPTY = "DELETE b, c FROM mayfly_bodies b LEFT JOIN mayfly_claims c ON c.n = b.n WHERE b.n IN :n_in"
_END = f"""
    UPDATE mayfly_messages SET ended = {{ended}}, proof = NULL, purge_at = created_at + {RECEIPT_LIFETIME} WHERE n IN :n_in
"""
_WRONG = "UPDATE mayfly_messages SET tries_wrong = tries_wrong + 1 WHERE id = :id AND ended IS NULL"
_TRIED = "SELECT n, tries_wrong, body_bytes FROM mayfly_messages WHERE id = :id"
_DUE = """
    SELECT n, ended, body_bytes FROM mayfly_messages WHERE purge_at <= {began}
    ORDER BY purge_at LIMIT :most_rows FOR UPDATE SKIP LOCKED
"""
_FORGET = "DELETE FROM mayfly_messages WHERE n IN :n_in"
_PURGE_CLAIMS = "DELETE FROM mayfly_claims WHERE until <= {began} ORDER BY until LIMIT :slice_rows"


class MySQL:
    """A MySQL or MariaDB database. Its statements go by its own clock, or else by the parameter `now`."""

    url = "mysql+pymysql://"

    def __init__(self, own_clock: bool, largest_bytes: int) -> None:
        self._largest_bytes = largest_bytes
        self.sql = Sql(_millis("SYSDATE(3)"), _millis("NOW(3)")) if own_clock else Sql(":now", ":now")
        self._limits = self.sql("SELECT version() AS version, @@max_allowed_packet AS packet_bytes")

    # The way to it

    def connect(self, address: Address) -> pymysql.Connection[Any]:
        connection = pymysql.Connection(
            host=address.host or "localhost",
            port=address.port,
            user=address.user,
            password=address.password or "",
            database=address.database,
            charset="utf8mb4",
            autocommit=True,
            client_flag=CLIENT.FOUND_ROWS,
            program_name="mayfly",
            ssl=tls_context(address.tls) if address.tls else None,
            ssl_disabled=address.tls is None,
            defer_connect=True,
        )
        try:
            sock = connected(address.host, address.port, address.socket)
        except OSError as error:
            raise Unreachable(str(error)) from None
        try:
            connection.connect(sock)
            with connection.cursor() as cursor:
                for setting in _SETTINGS:
                    cursor.execute(setting)
        except Exception as error:  # what is not a greeting of MySQL's may be anything to the driver
            with suppress(pymysql.Error):
                connection.close()
            raise _why_not_connected(error) from None
        return connection

    def weaker(self, address: Address) -> tuple[Address, ...]:
        # What MySQL demands, it demands of an account, whatever the connection; so there is no need to try one in the clear.
        assert address.tls
        return (replace(address, tls=Tls(address.tls.ca)),)

    def descriptor(self, connection: Any) -> int:
        return int(connection._sock.fileno()) if connection.open else -1

    def why_unfit(self, session: Session) -> str | None:
        limits = session.one(self._limits)
        assert limits
        kind = "MariaDB" if "MariaDB" in limits.version else "MySQL"
        version = limits.version.removeprefix("5.5.5-")
        if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < _OLDEST[kind]:
            return f"{kind} {version} is too old: it must be {'.'.join(map(str, _OLDEST[kind]))} or newer"
        needed = 2 * self._largest_bytes + 4096  # the driver writes bytes as hexadecimal digits
        if limits.packet_bytes < needed:
            return f"its max_allowed_packet is {limits.packet_bytes}: for the largest message it must be {needed} or more"
        return None

    @contextmanager
    def schema_lock(self, session: Session) -> Iterator[None]:
        run = session.connection.exec_driver_sql
        run("SET lock_wait_timeout = 60 /*M! , max_statement_time = 0 */")
        # Names of locks are the whole server's.
        run("DO get_lock(concat('mayfly_schema.', md5(database())), 60)")
        try:
            yield
        finally:
            run("DO release_lock(concat('mayfly_schema.', md5(database())))")

    # What its errors mean

    def is_answer(self, error: DBAPIError) -> bool:
        code = _code(error)
        return (1000 <= code < 2000 or code >= 3000) and code not in _NO_ANSWERS

    def is_again(self, error: DBAPIError) -> bool:
        return _code(error) == 1213  # and not 1205: after a second of waiting for a lock there is no time for another

    def is_full(self, error: DBAPIError) -> bool:
        # 1026 and 1030 tell a fault of the file system by its number: 28 is "no space left".
        code = _code(error)
        return code in (1021, 1114) or (code in (1026, 1030) and "28" in str(error.orig))

    def reason(self, error: DBAPIError) -> str:
        return f"{type(error.orig).__name__} {_code(error)}"


class MySQLMessages:
    """The messages in a MySQL or MariaDB database."""

    migrations = MIGRATIONS

    def __init__(self, sql: Sql) -> None:
        self._used = sql(_USED)
        self._put = sql(_PUT)
        self._put_body = sql(_PUT_BODY)
        self._count = sql(_COUNT)
        self._lock = sql(_LOCK)
        self._repeated = sql(_REPEATED)
        self._take = sql(_TAKE)
        self._lease = sql(_LEASE)
        self._confirm = sql(_CONFIRM)
        self._last_lease = sql(_LAST_LEASE)
        self._wait_for_lease = sql(_WAIT_FOR_LEASE)
        self._empty = sql(_EMPTY)
        self._end = {ended: sql(_END.replace("{ended}", f"'{ended}'")) for ended in ("spent", "burned", "locked")}
        self._expire = sql(_END.replace("{ended}", "CASE WHEN views_left = 0 THEN 'spent' ELSE 'expired' END"))
        self._wrong = sql(_WRONG)
        self._tried = sql(_TRIED)
        self._due = sql(_DUE)
        self._forget = sql(_FORGET)
        self._purge_claims = sql(_PURGE_CLAIMS)

    def put(self, session: Session, row: NewRow, quota_bytes: int) -> bool:
        charge = len(row.body) + ROW_BYTES
        used = session.one(self._used)
        if used is None or used.bytes + charge > quota_bytes:
            return False
        with session.transaction():
            session.changed(
                self._put,
                id=row.id,
                receipt=row.receipt,
                created_at=row.created_at,
                expires_at=row.expires_at,
                views=row.views,
                tries=row.tries,
                proof=row.proof,
                body_bytes=len(row.body),
            )
            session.changed(self._put_body, body=row.body)
            session.changed(self._count, bodies=1, bytes=charge)
        return True

    def claim(self, session: Session, row_id: RowId, lease: bytes | None, lease_ms: int) -> Claim | None:
        with session.transaction():
            row = session.one(self._lock, id=row_id)
            if row is None:
                return None
            if lease and (repeated := session.one(self._repeated, n=row.n, lease=lease, at=row.now)):
                return Claim(repeated.views_left, repeated=True)
            if row.views_left == 0:
                return None
            left = None if row.views_left is None else row.views_left - 1
            until = min(row.now + lease_ms, row.expires_at) if lease and left is not None else 0
            session.changed(self._take, n=row.n, at=row.now, until=until)
            if until:
                session.changed(self._lease, n=row.n, lease=lease, until=until, views=left)
            elif left == 0:
                self._retire(session, row)
            return Claim(left)

    def confirm(self, session: Session, row_id: RowId, lease: bytes) -> bool:
        with session.transaction():
            row = session.one(self._lock, id=row_id)
            if row is None or not session.changed(self._confirm, n=row.n, lease=lease, at=row.now):
                return False
            if row.views_left == 0:
                self._retire(session, row)
            return True

    def _retire(self, session: Session, row: Row[Any]) -> None:
        """With the last view taken, remove the body, or leave it to the purge for when the last lease ends."""
        last = session.one(self._last_lease, n=row.n, at=row.now) if row.lease_until > row.now else None
        if last is None or last.until is None:
            self._destroy(session, row, "spent")
        else:
            session.changed(self._wait_for_lease, n=row.n, until=last.until)

    def _destroy(self, session: Session, row: Row[Any], ended: str) -> None:
        session.changed(self._empty, n_in=[row.n])
        session.changed(self._end[ended], n_in=[row.n])
        session.changed(self._count, bodies=-1, bytes=-row.body_bytes)

    def wrong_try(self, session: Session, row_id: RowId) -> int | None:
        with session.transaction():
            if not session.changed(self._wrong, id=row_id):
                return None
            row = session.one(self._tried, id=row_id)
            assert row
            if row.tries_wrong >= MAX_TRIES:
                self._destroy(session, row, "locked")
            return int(row.tries_wrong)

    def burn(self, session: Session, row_id: RowId, receipt: bytes | None) -> bool:
        with session.transaction():
            row = session.one(self._lock, id=row_id)
            if row is None or receipt not in (None, row.receipt):
                return False
            self._destroy(session, row, "burned")
            return True

    def purge(self, session: Session, slice_rows: int) -> Purged:
        lapsed = session.changed(self._purge_claims, slice_rows=slice_rows)
        with session.transaction():
            # One more than the slice, to know whether there is more. What somebody reads at this moment is left for the next run.
            due = session.all(self._due, most_rows=slice_rows + 1)
            taken = first_of(due, slice_rows)
            bodies = [row for row in taken if not row.ended]
            receipts = [row.n for row in taken if row.ended]
            if bodies:
                session.changed(self._empty, n_in=[row.n for row in bodies])
                session.changed(self._expire, n_in=[row.n for row in bodies])
            if receipts:
                session.changed(self._forget, n_in=receipts)
            if taken:
                gone_bytes = sum(row.body_bytes for row in bodies) + len(receipts) * ROW_BYTES
                session.changed(self._count, bodies=-len(bodies), bytes=-gone_bytes)
        return Purged(len(bodies), len(receipts), len(due) > len(taken) or lapsed == slice_rows)


def _millis(moment: str) -> str:
    return f"CAST(floor(unix_timestamp({moment}) * 1000) AS SIGNED)"


def _why_not_connected(error: Exception) -> Exception:
    code = error.args[0] if isinstance(error, pymysql.Error) and error.args else 0
    causes = [error, getattr(error, "original_exception", None), error.__context__]
    if any(isinstance(cause, TimeoutError) for cause in causes) or code in _LATER:
        return Unreachable(str(error))
    refused = any(isinstance(cause, ssl.SSLError) and "EOF" not in str(cause) for cause in causes)
    if not refused and (code in (2003, 2006, 2013) or isinstance(error, OSError)):
        return Lost(str(error))
    return StartRefused(f"the database does not let us in ({' '.join(str(error).split())})")


def _code(error: DBAPIError) -> int:
    arguments = error.orig.args if isinstance(error.orig, pymysql.Error) else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0
