"""Mayfly as users start it, but for messages in its open vault: `python -m bench.stocked EXPIRED FILE`.

For each that has expired there is another that has not, made in turn over the last five days. Of those that live some can be
read, spread evenly: FILE gets their paths. The others are random bytes: so is an envelope without its key. They are put in by the
store's own tables, as quickly as these take them. MAYFLY_… variables work as ever.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import crypto
import database
import keyfile
import server
from bench.load import ENVELOPE_BYTES, MESSAGE
from crypto import KeyRing
from records import Millis, NewRow, RowId, Sealed, VaultName
from settings import Settings
from storage import sqlite

READABLE = 10_000
_DAY = 24 * 3600 * 1000
_WEEK = 7 * _DAY
_HOUR = 3600 * 1000
_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class _Message:
    row: NewRow
    path: str | None


def _messages(ring: KeyRing, expired: int, now: Millis) -> Iterator[_Message]:
    content = b'{"format":"text"}\n' + MESSAGE.encode()
    noise = os.urandom(2 * ENVELOPE_BYTES)
    step = max(1, expired // READABLE)
    for number in range(expired):
        created = now - 6 * _DAY + 5 * _DAY * number // expired
        ids = os.urandom(128)
        yield _Message(_row(ids[:32], ids[32:64], created, created + _HOUR, noise[:ENVELOPE_BYTES]), None)
        if number % step:
            yield _Message(_row(ids[64:96], ids[96:], created, created + _WEEK, noise[ENVELOPE_BYTES:]), None)
        else:
            link = uuid.UUID(bytes=ids[64:80], version=4)
            body = crypto.seal(ring, link.bytes, content)
            yield _Message(_row(crypto.row_id(link.bytes), ids[96:], created, created + _WEEK, body), f"/message/{link}")


def _row(row_id: bytes, receipt: bytes, created_at: int, expires_at: int, body: bytes) -> NewRow:
    return NewRow(RowId(row_id), receipt, Millis(created_at), Millis(expires_at), None, None, None, Sealed(body))


def _fill_sqlite(store: sqlite.SqliteStore, messages: Iterator[_Message]) -> Iterator[str]:
    db = store._db
    db.execute("PRAGMA synchronous = 0")
    db.execute("PRAGMA cache_size = -1000000")
    n = 0
    while batch := list(islice(messages, _BATCH)):
        db.execute("BEGIN IMMEDIATE")
        for message in batch:
            row, n = message.row, n + 1
            db.execute(sqlite._INSERT, (row.id, row.receipt, row.created_at, row.expires_at, None, None, None, row.expires_at))
            db.execute("INSERT INTO bodies VALUES (?, zeroblob(?), ?)", (n, store._shield_bytes, row.body))
            if message.path:
                yield message.path
        db.execute("COMMIT")
    if store.durability == "disk":
        db.execute("PRAGMA synchronous = 2")
    db.execute("PRAGMA cache_size = -2000")
    store.tidy()


_STATES = "COPY mayfly_messages (id, receipt, created_at, expires_at, body_bytes, purge_at) FROM STDIN (FORMAT binary)"
_BODIES = "COPY mayfly_bodies (n, body) FROM STDIN (FORMAT binary)"


def _fill_postgresql(url: str, messages: Iterator[_Message]) -> Iterator[str]:
    import psycopg

    from storage.sql_session import ROW_BYTES

    n, total = 0, 0
    with psycopg.connect(url, autocommit=True) as connection:
        while batch := list(islice(messages, _BATCH)):
            with connection.cursor().copy(_STATES) as copy:
                copy.set_types(["bytea", "bytea", "int8", "int8", "int8", "int8"])
                for message in batch:
                    row = message.row
                    copy.write_row((row.id, row.receipt, row.created_at, row.expires_at, len(row.body), row.expires_at))
            with connection.cursor().copy(_BODIES) as copy:
                copy.set_types(["int8", "bytea"])
                for message in batch:
                    n, total = n + 1, total + len(message.row.body) + ROW_BYTES
                    copy.write_row((n, message.row.body))
            yield from (message.path for message in batch if message.path)
        connection.execute("UPDATE mayfly_totals SET bodies = %s, bytes = %s WHERE slot = 0", (n, total))
        for statement in ("VACUUM ANALYZE", "CHECKPOINT"):  # at rest, as after days
            connection.execute(statement)


def main(expired: int, paths: Path) -> None:
    def open_filled(settings: Settings, vault: VaultName, now: database.Clock | None) -> database.MessageStore:
        store = database.open_database(settings, vault, now)
        if vault == "open":
            ring = keyfile.read(keyfile.default_path())
            messages = _messages(ring, expired, store.now())
            if isinstance(store, sqlite.SqliteStore):
                found = _fill_sqlite(store, messages)
            else:
                found = _fill_postgresql(settings.databases[vault], messages)
            paths.write_text("".join(f"{path}\n" for path in found))
        return store

    if not keyfile.default_path().exists():  # without the embedded default nobody makes one
        keyfile.create(keyfile.default_path())
    vars(server)["open_database"] = open_filled
    server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
