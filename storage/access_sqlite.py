"""The access store's database in a SQLite file, which several processes may share: one connection and one lock in each.

What was deleted is overwritten (`secure_delete`), and hourly in the write-ahead log too. Reading waits for nobody but this
process's own calls; of those that write, in whichever process, one writes at a time.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from errors import StartRefused, StoreFailed
from records import Millis
from storage.access_schema import ACCESS, SQLITE, Schema
from storage.access_session import text_of
from storage.sqlite_file import configure, turn_to_open

_T = TypeVar("_T")

# FULL: an entry of the audit, or that a key was revoked, must not be undone by a power cut.
_PRAGMAS: dict[str, int | str] = {
    "secure_delete": 1,
    "temp_store": 2,
    "journal_mode": "wal",
    "synchronous": 2,
    "wal_autocheckpoint": 100,
}

_LOCK_SECONDS = 0.9
_BUSY_SECONDS = 0.9
"""How long a call waits for those of its own process, and for other processes: with its own work less than 2 s."""

_CALL_SECONDS = 1.9
_LOOK_STEPS = 10_000
"""After so many steps of SQLite's machine, about a millisecond, it looks whether the time is up."""


class AccessFile:
    """An `AccessDatabase` in the file `path`."""

    def __init__(self, path: Path, now: Callable[[], Millis], schema: Schema = ACCESS) -> None:
        """Open the file, or make it, readable by its owner alone. Raises StartRefused, also for the file of another schema."""
        self.now = now
        self._path = path
        self._application_id = schema.application_id  # a file of messages has none
        self._migrations = schema.migrations(SQLITE)
        self._lock = threading.Lock()
        self._ends = float("inf")
        try:
            with turn_to_open(path):
                self._db = self._open()
            self._file = _file_at(path)
        except (sqlite3.Error, OSError) as error:
            raise StartRefused(f"{path} cannot be opened as a database ({error})") from None
        self._db.set_progress_handler(lambda: time.monotonic() > self._ends, _LOOK_STEPS)

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        db.text_factory = text_of
        try:
            (owner,) = db.execute("PRAGMA application_id").fetchone()
            (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if tables and owner != self._application_id:
                raise StartRefused(f"{self._path} is a database of something else")
            configure(db, _PRAGMAS)
            self._migrate(db)
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(self._migrations):
            raise StartRefused(
                f"{self._path} is of a newer version of Mayfly (schema {version}; this one knows {len(self._migrations)})"
            )
        if version < len(self._migrations):
            for steps in self._migrations[version:]:
                for step in steps:
                    db.execute(step)
            db.execute(f"PRAGMA application_id = {self._application_id}")
            db.execute(f"PRAGMA user_version = {len(self._migrations)}")
        db.execute("COMMIT")

    def sql(self, text: str) -> str:
        return text.replace("{now}", ":now").replace("{lock}", "")  # who begins to write has locked all of the file

    def do(self, act: Callable[[_Session], _T]) -> _T:
        with self._turn() as db:
            return act(_Session(db, self.now))

    def overwrite(self) -> None:
        """Empty the write-ahead log, unless another process reads or writes at this moment: then another time."""
        with self._turn() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _turn(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone.

        Raises StoreFailed, also when the file was removed or another is in its place: what is written into one that has no name any
        more ends with the process, and of an audit nobody would know.
        """
        ends = time.monotonic() + _CALL_SECONDS
        if not self._lock.acquire(timeout=_LOCK_SECONDS):
            raise StoreFailed
        try:
            if _file_at(self._path) != self._file:
                raise FileNotFoundError(self._path)
            self._ends = ends
            yield self._db
        except (sqlite3.Error, OSError, UnicodeError, OverflowError) as error:
            raise StoreFailed from error
        finally:
            self._lock.release()


def _file_at(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


class _Session:
    """The connection, for one call."""

    def __init__(self, db: sqlite3.Connection, now: Callable[[], Millis]) -> None:
        self._db = db
        self._now = now

    def one(self, statement: str, **values: Any) -> Any:
        return self._run(statement, values).fetchone()

    def all(self, statement: str, **values: Any) -> Sequence[Any]:
        return self._run(statement, values).fetchall()

    def changed(self, statement: str, **values: Any) -> int:
        return self._run(statement, values).rowcount

    def unless_there(self, statement: str, **values: Any) -> bool:
        try:
            self._run(statement, values)
        except sqlite3.IntegrityError:
            return False
        return True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has it rolled back already
                self._db.execute("ROLLBACK")
            raise

    def _run(self, statement: str, values: dict[str, Any]) -> sqlite3.Cursor:
        return self._db.execute(statement, {**values, "now": self._now()})
