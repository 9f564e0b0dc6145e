"""What the SQLite store promises beyond the contract: how SQLite is set, what stays in its files, whom it refuses."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from errors import StartRefused, StoreFailed
from records import Claim, Millis, Sealed
from storage import sqlite
from storage.sqlite import SqliteStore
from tests.stores import HOUR, NOW, SetClock, claim, new_row, open_url, put, race


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    store = opened(tmp_path / "mayfly.db" if request.param == "file" else None)
    yield store
    store.close()


def opened(path: Path | None, clock: Callable[[], Millis] | None = None) -> SqliteStore:
    store = open_url(f"sqlite:///{path}" if path else "sqlite://", clock or SetClock())
    assert isinstance(store, SqliteStore)
    return store


def test_message_is_stored_whole_or_not_at_all(store: SqliteStore) -> None:
    """A body that cannot be written leaves no state behind."""
    store._db.execute("CREATE TRIGGER no_body BEFORE INSERT ON bodies BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(StoreFailed):
        put(store)
    assert store.history(new_row().id) is None


def test_purge_finds_what_is_due_by_an_index(store: SqliteStore) -> None:
    """Its cost is by what it removes, not by what is stored."""
    for statement, values in ((sqlite._DUE, (NOW, 200)), ("SELECT rowid FROM claims WHERE until <= ? LIMIT ?", (NOW, 200))):
        plan = " ".join(row[3] for row in store._db.execute(f"EXPLAIN QUERY PLAN {statement}", values))
        assert "USING" in plan and "INDEX" in plan and "SCAN" not in plan, plan


def test_nothing_of_a_deleted_body_stays_in_the_files(tmp_path: Path) -> None:
    """Overwritten in the file at once, and in the write-ahead log by `tidy`."""
    clock, path = SetClock(), tmp_path / "mayfly.db"
    store = opened(path, clock)
    canary, proof = b"canary in the coal mine", b"the proof that opened the cage !"
    for number in range(20):
        put(store, number, proof=proof, body=Sealed(canary * 500))
    for number in range(10):
        claim(store, new_row(number).id)
    clock.advance(HOUR)
    store.purge(200)
    assert canary in path.with_name("mayfly.db-wal").read_bytes()
    store.tidy()
    files = list(tmp_path.iterdir())
    assert len(files) >= 2
    assert not [file.name for file in files if canary in file.read_bytes() or proof[:8] in file.read_bytes()]
    store.close()


def test_memory_store_purges_itself() -> None:
    assert opened(None).may_purge()


def test_pragmas_are_in_force(store: SqliteStore) -> None:
    """Read back from the connection that is used."""
    expected = {"secure_delete": 1, "temp_store": 2, "journal_mode": "memory"}
    if store.durability == "disk":
        expected |= {"journal_mode": "wal", "synchronous": 2, "wal_autocheckpoint": 400}
    assert {name: store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in expected} == expected


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        store = opened(tmp_path / "mayfly.db")
        put(store)
        store.may_purge()
    finally:
        os.umask(mask)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("mayfly.db", "mayfly.db-wal", "mayfly.db-shm", "mayfly.db-purge"), 0o600)
    store.close()


def test_what_is_not_our_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but somebody's file " * 30)
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    (tmp_path / "folder.db").mkdir()
    for name in ("text.db", "newer.db", "folder.db", "none/a.db"):
        with pytest.raises(StartRefused, match=r"^MAYFLY_DATABASE_URL: [^\n]+$"):
            opened(tmp_path / name)
    assert (tmp_path / "text.db").read_text().startswith("not a database, but")


def test_store_that_does_not_answer_in_time_is_a_failure_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else holds the file: StoreFailed, and afterwards everything is as before."""
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.05)
    store = opened(tmp_path / "mayfly.db")
    row_id = put(store)
    other = sqlite3.connect(tmp_path / "mayfly.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for act in (lambda: put(store, 1), lambda: claim(store, row_id), lambda: store.burn(row_id, None), lambda: store.purge(10)):
        with pytest.raises(StoreFailed):
            act()
    assert store.peek(row_id), "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    assert claim(store, row_id) == Claim(0)
    store.close()


def test_foreign_faults_become_failures_of_the_store(tmp_path: Path) -> None:
    store = opened(tmp_path / "mayfly.db")
    (tmp_path / "mayfly.db").rename(tmp_path / "moved.db")
    with pytest.raises(StoreFailed):
        put(store)
    store.close()
    with pytest.raises(StoreFailed):
        store.peek(new_row().id)


class OpenedAlone(SqliteStore):
    """Notes when two are in the middle of opening a file at the same moment."""

    under_way: list[object] = []  # noqa: RUF012  shared on purpose
    overlapped = False

    def _open(self) -> sqlite3.Connection:
        self.under_way.append(self)
        OpenedAlone.overlapped |= len(self.under_way) > 1
        try:
            return super()._open()
        finally:
            self.under_way.remove(self)


def test_stores_that_open_a_new_file_at_once_all_get_it(tmp_path: Path) -> None:
    """Workers start together; SQLite refuses one of two that switch to WAL at the same moment, so they take turns."""
    for number in range(10):
        path = tmp_path / f"{number}.db"
        stores: Any = race(*[lambda path=path: OpenedAlone(path, 64 << 20, SetClock())] * 5)
        assert all(isinstance(store, SqliteStore) for store in stores)
        for store in stores:
            store.close()
    assert not OpenedAlone.overlapped


def test_who_reads_a_file_does_not_wait_for_who_writes(tmp_path: Path) -> None:
    """A purge holds the store while the disk takes what it wrote; messages can be read all the while."""
    store = opened(tmp_path / "mayfly.db")
    put(store)
    with ThreadPoolExecutor(1) as thread, store._transaction() as db:
        db.execute("UPDATE messages SET views_left = 0")
        assert thread.submit(store.peek, new_row().id).result(timeout=10)
        assert thread.submit(store.fetch, new_row().id, None).result(timeout=10)
    assert store.peek(new_row().id) is None
    store.close()


def test_log_that_grew_while_somebody_read_is_emptied_in_the_middle_of_a_purge(tmp_path: Path) -> None:
    """SQLite writes a log on as long as somebody reads; on a full disk there would be no room for it."""
    clock, path = SetClock(), tmp_path / "mayfly.db"
    store = opened(path, clock)
    for number in range(5000):
        put(store, number)
    store.tidy()
    clock.advance(HOUR)
    log = path.with_name("mayfly.db-wal")
    reading = store._reader.execute("SELECT n FROM messages")
    reading.fetchone()
    most = 2 * sqlite._WAL_BYTES
    while log.stat().st_size <= most:
        assert store.purge(100).more
    reading.close()
    assert store.purge(100).more
    assert log.stat().st_size < most
    store.close()
