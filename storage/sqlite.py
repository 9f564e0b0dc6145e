"""Messages in SQLite: in this process's memory, or in a file that several processes may share.

One connection, one lock; in a file, reading has a connection of its own, so that nobody who reads waits for one who waits for the
disk. A message is a small state row beside an immutable body row, so that counting a view or a try does not rewrite a megabyte, and
works when creating has stopped. Statements are raw: the memory store is the hot path.

`messages.purge_at` is the next moment at which the purge has something to do with a row: when the message expires, when the
last lease of a used-up message ends, or, with the body gone, when the receipt ends. A body is there if and only if `ended` is null.

Deleted content is overwritten (`secure_delete`), in the file at once and in its write-ahead log by `tidy`. In a file every body
stands behind a shield of zeros as long as what SQLite keeps of a row in its b-tree, so that the body itself fills pages of its own:
rows in the b-tree are copied when it is balanced, and leave pieces behind that nothing overwrites (decision record 0009).
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from errors import StartRefused, StoreFailed, StoreFull
from records import (
    MAX_OPENINGS,
    MAX_TRIES,
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
from storage.sqlite_file import configure, turn_to_open

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE messages (
    n INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    receipt BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    views_left INTEGER,
    tries_free INTEGER,
    proof BLOB,
    tries_wrong INTEGER NOT NULL DEFAULT 0,
    tried_at INTEGER NOT NULL DEFAULT 0,
    openings TEXT NOT NULL DEFAULT '',
    ended TEXT,
    purge_at INTEGER NOT NULL
);
CREATE INDEX messages_purge_at ON messages (purge_at, ended);
CREATE TABLE bodies (n INTEGER PRIMARY KEY, shield BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE claims (n INTEGER NOT NULL, lease BLOB NOT NULL, until INTEGER NOT NULL, views_left INTEGER, PRIMARY KEY (n, lease));
CREATE INDEX claims_until ON claims (until);
CREATE TABLE keys (id TEXT PRIMARY KEY, verifier BLOB NOT NULL);
"""

# Pages of 8 KiB: in one of 4 KiB half of the last quarter stays empty beside three envelopes of 1 KB (275 bytes a message).
_MEMORY_PRAGMAS: dict[str, int | str] = {"page_size": 8192, "secure_delete": 1, "temp_store": 2, "journal_mode": "memory"}
# FULL: an opening that was answered must not come back after a power cut, so every commit reaches the disk.
# Small pages, because each body has its own.
_FILE_PRAGMAS: dict[str, int | str] = {
    "page_size": 1024,
    "secure_delete": 1,
    "temp_store": 2,
    "journal_mode": "wal",
    "synchronous": 2,
    "wal_autocheckpoint": 400,
}
_BUSY_SECONDS = 2.0
_WAL_BYTES = 512 * 1024
"""What the write-ahead log takes between checkpoints of 400 pages, with room."""

_CHANGE_PAGES = 16
"""More pages than a transaction adds beside those of a body: each of four trees may split at each of four levels."""
_PURGE_BYTES = 512 * 1024
"""How much one slice of the purge deletes, but for a message that is larger by itself."""

_STATE = "m.id, m.receipt, m.created_at, m.expires_at, m.views_left, m.tries_free, m.proof, m.openings, m.ended"
_OPENING_CHARS = 14  # 13 digits of milliseconds, until the year 2286, and a comma

_INSERT = (
    "INSERT INTO messages (id, receipt, created_at, expires_at, views_left, tries_free, proof, purge_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_PEEK = (
    f"SELECT {_STATE} FROM messages m WHERE m.id = ? AND m.expires_at > ? AND m.ended IS NULL "
    "AND (m.views_left IS NULL OR m.views_left > 0)"
)
_FETCH = (
    f"SELECT {_STATE}, b.body FROM messages m JOIN bodies b ON b.n = m.n "
    "WHERE m.id = :id AND m.expires_at > :now AND m.ended IS NULL AND (m.views_left IS NULL OR m.views_left > 0 "
    "OR EXISTS (SELECT 1 FROM claims c WHERE c.n = m.n AND c.lease = :lease AND c.until > :now))"
)
_HISTORY = f"SELECT {_STATE} FROM messages m WHERE m.id = ? AND m.created_at > ?"
_LEASED = (
    "SELECT c.views_left FROM claims c JOIN messages m ON m.n = c.n "
    "WHERE m.id = ? AND c.lease = ? AND c.until > ? AND m.expires_at > ? AND m.ended IS NULL"
)
_CLAIM = (
    "UPDATE messages SET views_left = views_left - 1, "
    f"openings = substr(openings || :now || ',', -{_OPENING_CHARS * MAX_OPENINGS}) "
    "WHERE id = :id AND expires_at > :now AND ended IS NULL AND (views_left IS NULL OR views_left > 0) "
    "RETURNING n, views_left, expires_at"
)
_KEEP = (
    "UPDATE messages SET purge_at = (SELECT max(until) FROM claims c WHERE c.n = :n) "
    "WHERE n = :n AND EXISTS (SELECT 1 FROM claims c WHERE c.n = :n AND c.until > :now)"
)
_END = f"UPDATE messages SET ended = ?, proof = NULL, purge_at = created_at + {RECEIPT_LIFETIME} WHERE n = ?"
_RESERVE = (
    f"UPDATE messages SET tried_at = :now, tries_free = iif(tries_free > 0, tries_free, {MAX_TRIES} - tries_wrong) - 1 "
    "WHERE id = :id AND expires_at > :now AND ended IS NULL "
    f"AND (tries_free > 0 OR (tries_free = 0 AND tries_wrong < {MAX_TRIES} AND tried_at <= :now - {TRY_LAPSES}))"
)
_RETURN = (
    f"UPDATE messages SET tries_free = tries_free + 1 WHERE id = ? AND ended IS NULL AND tries_free + tries_wrong < {MAX_TRIES}"
)
_WRONG = "UPDATE messages SET tries_wrong = tries_wrong + 1 WHERE id = ? AND ended IS NULL RETURNING n, tries_wrong"
_DUE = (
    "SELECT m.n, m.ended, coalesce(length(b.body), 0) AS body_bytes FROM messages m LEFT JOIN bodies b ON b.n = m.n "
    "WHERE m.purge_at <= ? ORDER BY m.purge_at LIMIT ?"
)
_DUE_AT_ONCE = f"SELECT json_group_array(json_array(n, ended, body_bytes)) FROM ({_DUE})"
"""All in one row: each row that is fetched gives Python's lock away and waits for it, while others wait for the store."""
_OVER = (
    "DELETE FROM bodies WHERE n IN (SELECT value FROM json_each(?))",
    "DELETE FROM claims WHERE n IN (SELECT value FROM json_each(?))",
    "UPDATE messages SET ended = iif(views_left = 0, 'spent', 'expired'), proof = NULL, "
    f"purge_at = created_at + {RECEIPT_LIFETIME} WHERE n IN (SELECT value FROM json_each(?))",
)
"""What ends messages whose time is over, by a JSON list of their numbers."""


_COUNT = (
    "SELECT total(ended IS NULL), total(ended IS NULL AND purge_at <= :now), max(n) "
    "FROM (SELECT n, ended, purge_at FROM messages WHERE n > :after ORDER BY n LIMIT 2000)"
)
"""A slice holds the store for 0.5 ms; a million rows at once held it for 65 ms (measured)."""

_COUNT_PAUSE_SECONDS = 0.0001
"""Between slices: a lock is not fair to those who wait."""


class SqliteStore:
    """A store on the standard library's `sqlite3`."""

    circuit: Circuit = "closed"

    def __init__(self, path: Path | None, quota_bytes: int, now: Callable[[], Millis], spare_bytes: int = 0) -> None:
        """Open the file `path`, or memory if None.

        Creating stops at `quota_bytes`, and on a file also when the disk has less than `spare_bytes` and what claims, deletions and
        the write-ahead log need left. Raises StartRefused.
        """
        self.durability: Literal["memory", "disk"] = "disk" if path else "memory"
        self.now = now
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._quota_bytes = quota_bytes
        self._spare_bytes = spare_bytes + _WAL_BYTES
        self._sure_bytes = 0
        """What is certainly left of the quota in memory, where nobody else writes: to measure it costs a fifth of a put."""
        self._lock = threading.Lock()
        self._reading = threading.Lock() if path else self._lock
        self._purge_lock: int | None = None
        try:
            self._db = self._open_file(path) if path else self._open()
            self._reader = self._open_reader() if path else self._db
        except (sqlite3.Error, OSError) as error:
            raise StartRefused(f"{path or 'memory'} cannot be opened as a database ({error})") from None

    def _open_file(self, path: Path) -> sqlite3.Connection:
        with turn_to_open(path):
            return self._open()

    def _open(self) -> sqlite3.Connection:
        db = self._connect()
        configure(db, _FILE_PRAGMAS if self._path else _MEMORY_PRAGMAS)
        self._page_bytes: int = db.execute("PRAGMA page_size").fetchone()[0]
        # The most that stays in a leaf is the page less 35 bytes (SQLite file format, section 1.6).
        self._shield_bytes = self._page_bytes - 35 if self._path else 0
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise StartRefused(f"{self._path} was written by another version of Mayfly (schema {version})")
        db.execute("COMMIT")
        return db

    def _open_reader(self) -> sqlite3.Connection:
        """A connection that sees what is committed, whatever the other is about to write."""
        db = self._connect()
        db.execute("PRAGMA query_only = 1")
        return db

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )

    def close(self) -> None:
        with self._reading:
            self._reader.close()
        with self._lock:
            self._db.close()  # the last one empties the log
            if self._purge_lock is not None:
                os.close(self._purge_lock)
                self._purge_lock = None

    # The life of a message

    def put(self, row: NewRow) -> None:
        with self._transaction() as db:
            self._check_room(db, len(row.body))
            n = db.execute(
                _INSERT, (row.id, row.receipt, row.created_at, row.expires_at, row.views, row.tries, row.proof, row.expires_at)
            ).lastrowid
            db.execute("INSERT INTO bodies VALUES (?, zeroblob(?), ?)", (n, self._shield_bytes, row.body))

    def peek(self, row_id: RowId) -> Row | None:
        found = self._one(_PEEK, (row_id, self.now()))
        return found and _row(found)

    def fetch(self, row_id: RowId, lease: bytes | None) -> tuple[Row, Sealed] | None:
        found = self._one(_FETCH, {"id": row_id, "now": self.now(), "lease": lease})
        return found and (_row(found), Sealed(found[9]))

    def history(self, row_id: RowId) -> Row | None:
        found = self._one(_HISTORY, (row_id, self.now() - RECEIPT_LIFETIME))
        return found and _row(found)

    def claim(self, row_id: RowId, lease: bytes | None, lease_seconds: int) -> Claim | None:
        with self._transaction() as db:
            now = self.now()  # within: whoever had to wait may have come too late
            if lease and (repeated := db.execute(_LEASED, (row_id, lease, now, now)).fetchone()):
                return Claim(repeated[0], repeated=True)
            taken = db.execute(_CLAIM, {"id": row_id, "now": now}).fetchone()
            if taken is None:
                return None
            n, views_left, expires_at = taken
            if lease and views_left is not None:
                until = min(now + lease_seconds * SECOND, expires_at)
                db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", (n, lease, until, views_left))
            if views_left == 0:
                self._retire(db, n, now)
            return Claim(views_left)

    def confirm(self, row_id: RowId, lease: bytes) -> bool:
        with self._transaction() as db:
            now = self.now()
            found = db.execute(
                "SELECT n, views_left FROM messages WHERE id = ? AND expires_at > ? AND ended IS NULL", (row_id, now)
            ).fetchone()
            if found is None:
                return False
            n, views_left = found
            ended = db.execute("DELETE FROM claims WHERE n = ? AND lease = ? AND until > ?", (n, lease, now)).rowcount
            if ended and views_left == 0:
                self._retire(db, n, now)
            return bool(ended)

    def _retire(self, db: sqlite3.Connection, n: int, now: Millis) -> None:
        """With the last view taken, remove the body, or leave it to the purge for when the last lease ends."""
        if not db.execute(_KEEP, {"n": n, "now": now}).rowcount:
            _destroy(db, n, "spent")

    def burn(self, row_id: RowId, receipt: bytes | None) -> bool:
        with self._transaction() as db:
            found = db.execute(
                "SELECT n FROM messages WHERE id = ? AND expires_at > ? AND ended IS NULL AND (? IS NULL OR receipt = ?)",
                (row_id, self.now(), receipt, receipt),
            ).fetchone()
            if found:
                _destroy(db, found[0], "burned")
            return found is not None

    # Tries of a passphrase

    def reserve_try(self, row_id: RowId) -> bool:
        with self._transaction() as db:
            return bool(db.execute(_RESERVE, {"id": row_id, "now": self.now()}).rowcount)

    def return_try(self, row_id: RowId) -> None:
        with self._transaction() as db:
            db.execute(_RETURN, (row_id,))

    def wrong_try(self, row_id: RowId) -> int:
        with self._transaction() as db:
            found = db.execute(_WRONG, (row_id,)).fetchone()
            if found is None:
                return 0
            n, wrong = found
            if wrong >= MAX_TRIES:
                _destroy(db, n, "locked")
            return max(0, MAX_TRIES - int(wrong))

    # The purge

    def purge(self, slice_rows: int) -> Purged:
        with self._transaction() as db:
            now = self.now()
            due = _slice(json.loads(db.execute(_DUE_AT_ONCE, (now, slice_rows)).fetchone()[0]))
            lapsed = db.execute(
                "DELETE FROM claims WHERE rowid IN (SELECT rowid FROM claims WHERE until <= ? LIMIT ?)", (now, slice_rows)
            ).rowcount
            receipts = [n for n, ended, _ in due if ended]
            # One statement for a whole slice: a purge by statements for each row takes twice as long.
            over = json.dumps([n for n, ended, _ in due if not ended])
            for statement in _OVER:
                db.execute(statement, (over,))
            db.execute("DELETE FROM messages WHERE n IN (SELECT value FROM json_each(?))", (json.dumps(receipts),))
            more = lapsed == slice_rows or db.execute(_DUE, (now, 1)).fetchone() is not None
        # SQLite begins the log anew only in a moment when nobody reads; as long as there is none, it grows.
        if self._path and _size(self._wal) > 2 * _WAL_BYTES:
            self._empty_log()
        return Purged(len(due) - len(receipts), len(receipts), more)

    def tidy(self) -> None:
        if self._path and _size(self._wal) and not self._empty_log():
            raise StoreFailed  # another process reads or writes: what was deleted still stands in the log

    def _empty_log(self) -> bool:
        """Bring what stands in the write-ahead log into the file; False if another process is in the way."""
        with self._lock, self._reading, _faults():
            busy: int = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    def may_purge(self) -> bool:
        if self._path is None or self._purge_lock is not None:
            return True
        with _faults():
            handle = os.open(f"{self._path}-purge", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._purge_lock = handle
        return True

    # Keys, counts, faults

    def same_key(self, key_id: KeyId, verifier: bytes) -> bool:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (key_id, verifier))
            (known,) = db.execute("SELECT verifier FROM keys WHERE id = ?", (key_id,)).fetchone()
            return bool(known == verifier)

    def health(self) -> None:
        self._one("SELECT n FROM messages LIMIT 1", ())

    def counts(self) -> Counts:
        with self._lock, _faults():
            now, used = self.now(), self._used_bytes(self._db)
            (oldest,) = self._db.execute("SELECT min(purge_at) FROM messages").fetchone()
        bodies, due, after = 0, 0, 0
        while after is not None:
            found, found_due, after = self._one(_COUNT, {"now": now, "after": after})
            bodies, due = bodies + int(found), due + int(found_due)
            time.sleep(_COUNT_PAUSE_SECONDS)
        overdue = Millis(max(0, now - oldest) if oldest else 0)
        return Counts(bodies - due, due, used, self._quota_bytes, overdue)

    def _check_room(self, db: sqlite3.Connection, body_bytes: int) -> None:
        needed = self._shield_bytes + body_bytes + 2 * self._page_bytes
        if self._path is None and needed < self._sure_bytes:
            self._sure_bytes -= needed
            return
        used = self._used_bytes(db)
        if used + needed > self._quota_bytes:
            raise StoreFull
        self._sure_bytes = self._quota_bytes - used - needed
        if self._path:
            # A quarter of what is stored, for leases and times of opening when everybody comes at once. Pages that are free within
            # the file serve for that, but not for the write-ahead log, which is written anew from its start after each checkpoint.
            disk = os.statvfs(self._path)
            room = disk.f_bavail * disk.f_frsize + _size(self._wal)
            needed = self._spare_bytes + used // 4 + 2 * body_bytes
            if room < self._spare_bytes // 2 or room + self._free_bytes(db) < needed:
                raise StoreFull

    def _used_bytes(self, db: sqlite3.Connection) -> int:
        pages: int = db.execute("PRAGMA page_count").fetchone()[0]
        return pages * self._page_bytes - self._free_bytes(db)

    def _free_bytes(self, db: sqlite3.Connection) -> int:
        pages: int = db.execute("PRAGMA freelist_count").fetchone()[0]
        return pages * self._page_bytes

    def _one(self, statement: str, values: Any) -> Any:
        with self._reading:
            try:
                return self._reader.execute(statement, values).fetchone()
            except sqlite3.Error as error:
                raise _as_ours(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        with self._lock:
            try:
                db.execute("BEGIN IMMEDIATE")
                self._sure_bytes -= _CHANGE_PAGES * self._page_bytes
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.ProgrammingError):  # closed meanwhile
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                if isinstance(error, (sqlite3.Error, OSError)):
                    raise _as_ours(error) from error
                raise


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _as_ours(error) from error


def _as_ours(error: Exception) -> StoreFull | StoreFailed:
    full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return StoreFull() if full else StoreFailed()


_Due = tuple[int, str | None, int]


def _slice(due: Iterable[_Due]) -> list[_Due]:
    """The first rows that are due, of `_PURGE_BYTES` at most.

    What is deleted is overwritten by way of the write-ahead log, which on a full disk has room for no more.
    """
    taken: list[_Due] = []
    body_bytes = 0
    for row in due:
        body_bytes += row[2]
        if taken and body_bytes > _PURGE_BYTES:
            break
        taken.append(row)
    return taken


def _destroy(db: sqlite3.Connection, n: int, ended: str) -> None:
    db.execute("DELETE FROM bodies WHERE n = ?", (n,))
    db.execute("DELETE FROM claims WHERE n = ?", (n,))
    db.execute(_END, (ended, n))


def _row(found: tuple[Any, ...]) -> Row:
    row_id, receipt, created_at, expires_at, views_left, tries_free, proof, openings, ended = found[:9]
    times = tuple(Millis(int(at)) for at in openings.split(",")[:-1])
    return Row(row_id, receipt, created_at, expires_at, views_left, tries_free, proof, times, ended)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
