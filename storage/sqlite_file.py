"""How a SQLite file is opened so that others may open it at the same moment, and nobody else can read it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from errors import StartRefused


@contextmanager
def turn_to_open(path: Path) -> Iterator[None]:
    """Within here the file at `path` is there, and nobody else opens one in its folder. Raises OSError.

    One at a time: of two that switch a new file to WAL at once, one fails as `locked` without waiting.
    """
    turn = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        # A file that is there is not opened: to close it would drop the locks of this process's other connections to it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield
    finally:
        os.close(turn)


def configure(db: sqlite3.Connection, pragmas: Mapping[str, int | str]) -> None:
    """Set each pragma and read it back. Raises StartRefused if SQLite does not take it."""
    for name, value in pragmas.items():
        db.execute(f"PRAGMA {name} = {value}").fetchall()
        (got,) = db.execute(f"PRAGMA {name}").fetchone()
        if got != value:
            raise StartRefused(f"SQLite does not take {name} = {value}, only {got}")
