"""Mayfly as users start it, but for messages that its open vault holds from the start: `python -m bench.filled ROWS SECONDS`.

They live for SECONDS; with 0 they have expired. MAYFLY_… variables work as ever.
"""

from __future__ import annotations

import os
import sys

import database
import server
from bench.load import ENVELOPE_BYTES
from records import Millis, NewRow, RowId, Sealed, VaultName
from settings import Settings


def fill(store: database.MessageStore, rows: int, seconds: int) -> None:
    """Store `rows` envelopes of random bytes."""
    body = Sealed(os.urandom(ENVELOPE_BYTES))
    now = store.now()
    for _ in range(rows):
        ids = os.urandom(64)
        store.put(NewRow(RowId(ids[:32]), ids[32:], now, Millis(now + 1000 * seconds), None, None, None, body))


def main(rows: int, seconds: int) -> None:
    def open_filled(settings: Settings, vault: VaultName, now: database.Clock | None) -> database.MessageStore:
        store = database.open_database(settings, vault, now)
        if vault == "open":
            fill(store, rows, seconds)
        return store

    vars(server)["open_database"] = open_filled
    server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
