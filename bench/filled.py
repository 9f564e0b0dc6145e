"""Mayfly as users start it, but for messages that its open vault holds from the start: `python -m bench.filled ROWS SECONDS`.

They live for SECONDS; with 0 they have expired. MAYFLY_… variables work as ever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import database
import server
from bench.load import ENVELOPE_BYTES
from records import SECOND, Millis, VaultName
from settings import Settings
from storage import sqlite


def fill(store: sqlite.SqliteStore, rows: int, created_at: Millis, seconds: int) -> None:
    """Put `rows` envelopes of random bytes into an empty store, as fast as SQLite can. They live for `seconds`."""
    body = os.urandom(ENVELOPE_BYTES)
    expires_at = created_at + seconds * SECOND

    def states() -> Iterator[tuple[object, ...]]:
        for _ in range(rows):
            yield os.urandom(32), os.urandom(32), created_at, expires_at, None, None, None, expires_at

    db = store._db
    db.execute("BEGIN")
    db.executemany(sqlite._INSERT, states())
    db.executemany("INSERT INTO bodies VALUES (?, x'', ?)", ((n, body) for n in range(1, rows + 1)))
    db.execute("COMMIT")


def main(rows: int, seconds: int) -> None:
    def open_filled(settings: Settings, vault: VaultName, now: database.Clock | None) -> database.MessageStore:
        store = database.open_database(settings, vault, now)
        if vault == "open":
            assert isinstance(store, sqlite.SqliteStore)
            fill(store, rows, store.now(), seconds)
        return store

    vars(server)["open_database"] = open_filled
    server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
