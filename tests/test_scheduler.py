"""The purge goes on: whatever the wall clock does, when the store fails, when the process that did it dies.

The clock itself is under test here, so these tests wait for real, by looking again and again until a deadline.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

import keyfile
from records import Millis, NewRow, RowId, Sealed
from scheduler import PurgeScheduler
from storage import sqlite
from storage.sqlite import SqliteStore
from tests.requirements import require
from tests.serving import DATABASES, PROJECT, Database, Served, free_port

LIBRARIES = tuple(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
LONG_AGO = Millis(1_000_000_000_000)
HOUR_BACK, TWO_YEARS_AHEAD = "-3600", "+2y"


def eventually(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class WallClock:
    """The wall clock of processes that were started with `environ`; the monotonic clock goes on as it is."""

    def __init__(self, folder: Path) -> None:
        require(LIBRARIES, "libfaketime (apt-get install faketime)")
        self._path = folder / "wall clock"
        self.jump("+0")
        self.environ = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, to: str) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(to)
        fresh.replace(self._path)


# The purge of a store that holds nothing; each run says when it was by both clocks.
PURGE = """
import sys, threading, time
from apscheduler.triggers.interval import IntervalTrigger
import scheduler
from storage.sqlite import SqliteStore

class Telling(SqliteStore):
    def may_purge(self):
        print(time.monotonic(), time.time(), flush=True)
        return True

if "interval" in sys.argv:
    scheduler.EveryFromNow = lambda seconds: IntervalTrigger(seconds=seconds)
purge = scheduler.PurgeScheduler([Telling(None, 1 << 24, lambda: 0)], 0.5)
if "unwatched" in sys.argv:
    purge._watchdog = threading.Thread(target=lambda: None)
purge.start()
threading.Event().wait()
"""


class Purging:
    """The purge in a process of its own, every half second; `runs` are the moments it ran at, monotonic and wall."""

    def __init__(self, clock: WallClock, *variant: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PURGE, *variant],
            cwd=PROJECT,
            env={**os.environ, **clock.environ},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.runs: list[tuple[float, float]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            monotonic, wall = map(float, line.split())
            self.runs.append((monotonic, wall))

    def runs_again(self, times: int) -> None:
        enough = len(self.runs) + times
        eventually(lambda: len(self.runs) >= enough, f"{times} more runs of the purge")

    def end(self) -> None:
        self.process.kill()
        self._reader.join()
        assert self.process.stdout
        self.process.stdout.close()
        self.process.wait()


@contextmanager
def purging(clock: WallClock, *variant: str) -> Iterator[Purging]:
    process = Purging(clock, *variant)
    try:
        process.runs_again(2)
        yield process
    finally:
        process.end()


@pytest.mark.parametrize("jump", [HOUR_BACK, TWO_YEARS_AHEAD])
def test_purge_goes_on_and_does_not_spin_after_the_wall_clock_jumps(tmp_path: Path, jump: str) -> None:
    clock = WallClock(tmp_path)
    with purging(clock) as purge:
        clock.jump(jump)
        already = len(purge.runs)
        purge.runs_again(7)
        monotonic, wall = zip(*purge.runs[already - 1 :], strict=True)
        assert abs(wall[-1] - wall[0]) > 3500, "the clock did jump"
        # Runs are half a second apart; three of them may stand closer, around the jump.
        assert monotonic[-1] - monotonic[0] > 0.4 * (len(monotonic) - 4)


@pytest.mark.long
def test_purge_goes_on_through_jumps_back_and_forth(tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    with purging(clock) as purge:
        for jump in (HOUR_BACK, TWO_YEARS_AHEAD, "+0", "+1", HOUR_BACK):
            clock.jump(jump)
            purge.runs_again(2)


def test_without_the_watchdog_an_hour_back_stops_the_purge(tmp_path: Path) -> None:
    """So the tests above can fail, and the watchdog is what they need."""
    clock = WallClock(tmp_path)
    with purging(clock, "unwatched") as purge:
        clock.jump(HOUR_BACK)
        time.sleep(0.6)  # a run that was under way
        before = len(purge.runs)
        time.sleep(1.9)
        assert len(purge.runs) == before


def test_with_the_interval_trigger_of_apscheduler_two_years_ahead_spin(tmp_path: Path) -> None:
    """So the trigger is what they need as well: APScheduler works through every run it believes to have missed."""
    clock = WallClock(tmp_path)
    with purging(clock, "interval") as purge:
        clock.jump(TWO_YEARS_AHEAD)
        time.sleep(0.6)
        before = len(purge.runs)
        time.sleep(1.9)
        assert len(purge.runs) == before


def due_row(store: SqliteStore, number: int) -> RowId:
    """Put a message whose time is over, whatever year it is."""
    row_id = RowId(number.to_bytes(32, "big"))
    store.put(NewRow(row_id, bytes(32), LONG_AGO, Millis(LONG_AGO + 60_000), None, None, None, Sealed(b"body")))
    return row_id


def bodies_in(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=10)) as db:
        return int(db.execute("SELECT count(*) FROM bodies").fetchone()[0])


@contextmanager
def server_by(clock: WallClock, folder: Path, **settings: str) -> Iterator[str]:
    """`python server.py` under that clock; its address."""
    port = free_port()
    keyfile.create(folder / "key.json")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environ |= {"MAYFLY_PORT": str(port), "MAYFLY_KEY_FILE": str(folder / "key.json"), **settings, **clock.environ}
    process = subprocess.Popen([sys.executable, "server.py"], cwd=PROJECT, env=environ, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(url), "the server answers")
        yield url
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_server_purges_its_file_through_jumps_of_the_wall_clock(tmp_path: Path) -> None:
    clock, path = WallClock(tmp_path), tmp_path / "mayfly.db"
    with server_by(clock, tmp_path, MAYFLY_DATABASE_URL=f"sqlite:///{path}", MAYFLY_PURGE_SECONDS="1") as url:
        link = httpx.post(url, content=b"hello", headers={"Content-Type": "text/plain"}).text.strip()
        store = SqliteStore(path, 64 << 20, lambda: LONG_AGO)
        try:
            for number, jump in enumerate(("+0", HOUR_BACK, "+0")):
                clock.jump(jump)
                due_row(store, number)
                eventually(lambda: bodies_in(path) == 1, "the due message is gone and the other stays")
            assert httpx.get(link).text == "hello"
            clock.jump(TWO_YEARS_AHEAD)
            assert httpx.get(link).status_code == 404
            eventually(lambda: bodies_in(path) == 0, "the message is gone")
            for number in (10, 11):
                due_row(store, number)
                eventually(lambda: bodies_in(path) == 0, "the purge goes on")
        finally:
            store.close()


def test_memory_store_lives_by_the_monotonic_clock(tmp_path: Path) -> None:
    """No jump of the wall clock ends a message early or keeps it longer."""
    clock = WallClock(tmp_path)
    with server_by(clock, tmp_path, MAYFLY_PURGE_SECONDS="1") as url:
        link = httpx.post(url, content=b"hello", headers={"Content-Type": "text/plain"}).text.strip()
        expires_at = httpx.get(link, headers={"Accept": "application/json"}).json()["expires_at"]
        for jump in (TWO_YEARS_AHEAD, HOUR_BACK, "+0"):
            clock.jump(jump)
            assert httpx.get(link, headers={"Accept": "application/json"}).json()["expires_at"] == expires_at
            later = httpx.post(url, json={"message": "m", "expires_in": 604_800}, headers={"Accept": "application/json"}).json()
            assert later["expires_at"][:4] <= str(int(expires_at[:4]) + 1)


# Expiry, with and without


@pytest.mark.parametrize("database", DATABASES)
def test_message_is_unreadable_at_expires_at_with_the_scheduler_stopped(tmp_path: Path, database: Database) -> None:
    with Served(tmp_path, database=database) as served:
        message = served.create("hello", expires_in=60)
        limited = served.create("hello", views=1, expires_in=60)
        served.http.post(limited.path, headers={"Idempotency-Key": "k" * 16})
        served.clock.advance(61)
        assert served.http.get(message.path).status_code == 404
        assert served.http.post(message.path).status_code == 404
        assert served.http.post(limited.path, headers={"Idempotency-Key": "k" * 16}).status_code == 404
        assert served.http.get(message.receipt_path, headers={"Accept": "application/json"}).json()["state"] == "expired"
        if database == "file":
            assert bodies_in(served.database_file) == 2, "nothing purged: the statement itself refuses"


def test_row_is_gone_with_the_scheduler_running(tmp_path: Path) -> None:
    with Served(tmp_path, database="file", MAYFLY_PURGE_SECONDS="1") as served:
        served.create("hello", expires_in=60)
        kept = served.create("kept")
        assert bodies_in(served.database_file) == 2
        served.clock.advance(61)
        eventually(lambda: bodies_in(served.database_file) == 1, "the expired body is gone")
        assert served.http.get(kept.path).text == "kept"
        served.clock.advance(8 * 24 * 3600)
        eventually(lambda: rows_in(served.database_file) == 0, "the receipts are gone")


def rows_in(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=10)) as db:
        return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])


def test_memory_store_is_purged_as_well(tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_PURGE_SECONDS="1", MAYFLY_LOG_LEVEL="info") as served:
        served.create("hello", expires_in=60)
        served.clock.advance(61)
        eventually(lambda: "purged 1 messages" in served.log(), "the purge has said so")


# One scheduler however many processes


def purgers(pids: list[int]) -> list[int]:
    """Which of these processes hold the purge's lock: the others, which open the file for a moment, close it again."""
    for _ in range(5):
        pids = [pid for pid in pids if any(file.path.endswith("-purge") for file in psutil.Process(pid).open_files())]
        time.sleep(0.02)
    return pids


def test_of_two_processes_one_purges_and_the_other_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    with (
        Served(tmp_path, database="file", MAYFLY_PURGE_SECONDS="1") as first,
        Served(tmp_path, database="file", MAYFLY_PURGE_SECONDS="1") as second,
    ):
        eventually(lambda: purgers([first.pid, second.pid]), "one of them purges")
        (holder,) = purgers([first.pid, second.pid])
        dies, lives = (first, second) if holder == first.pid else (second, first)
        dies.kill()
        eventually(lambda: purgers([lives.pid]), "the other takes over")
        lives.create("hello", expires_in=60)
        lives.clock.advance(61)
        eventually(lambda: bodies_in(tmp_path / "mayfly.db") == 0, "and purges")


def test_one_of_several_workers_purges(tmp_path: Path) -> None:
    """gunicorn replaces a worker that was killed, and whoever is left purges on."""
    with Served(tmp_path, "gunicorn", "file", workers=3, MAYFLY_PURGE_SECONDS="1") as served:
        arbiter = psutil.Process(served.pid)

        def workers() -> list[int]:
            return [child.pid for child in arbiter.children()]

        eventually(lambda: len(workers()) == 3 and purgers(workers()), "one of three purges")
        (holder,) = purgers(workers())
        os.kill(holder, signal.SIGKILL)
        eventually(lambda: holder not in workers() and len(purgers(workers())) == 1, "another takes over")
        served.create("hello", expires_in=60)
        served.clock.advance(61)
        eventually(lambda: bodies_in(served.database_file) == 0, "and purges")


# Faults


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.05)
    store = SqliteStore(tmp_path / "mayfly.db", 64 << 20, lambda: Millis(LONG_AGO + 3_600_000))
    yield store
    store.close()


def test_purge_goes_on_after_the_store_failed(tmp_path: Path, store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    due_row(store, 1)
    other = sqlite3.connect(tmp_path / "mayfly.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    purge = PurgeScheduler([store], 0.1)
    purge.start()
    try:
        eventually(lambda: sum("the purge failed" in message for message in caplog.messages) >= 2, "it failed twice")
        assert bodies_in(tmp_path / "mayfly.db") == 1
        other.execute("ROLLBACK")
        eventually(lambda: bodies_in(tmp_path / "mayfly.db") == 0, "it goes on")
    finally:
        other.close()
        purge.stop()
    assert {record.levelno for record in caplog.records if "the purge failed" in record.getMessage()} == {logging.ERROR}


def test_stopped_purge_has_no_threads_and_runs_no_more(tmp_path: Path, store: SqliteStore) -> None:
    before = set(threading.enumerate())
    purge = PurgeScheduler([store], 0.1)
    purge.start()
    due_row(store, 1)
    eventually(lambda: bodies_in(tmp_path / "mayfly.db") == 0, "it runs")
    purge.stop()
    eventually(lambda: set(threading.enumerate()) <= before, "its threads have ended")
    due_row(store, 2)
    assert bodies_in(tmp_path / "mayfly.db") == 1
