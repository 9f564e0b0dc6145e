"""A full store, a full disk: creating stops with 503, everything stored still opens, and nothing is evicted or half stored."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.racing import Answer, Line, connections, request
from tests.requirements import require
from tests.serving import Database, Served

DISK_BYTES = 4 * 1024 * 1024
SIZES = (200, 1024, 10 * 1024)
JSON = "application/json"


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, or of the bytes the test asks for."""
    require(os.geteuid() == 0 and shutil.which("mount"), "root, to mount a small file system (sudo, or docker run --user root)")
    folder = tmp_path / "disk"
    folder.mkdir()
    size = getattr(request, "param", DISK_BYTES)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    require(mounted.returncode == 0, "the right to mount (docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def served_on(disk: Path) -> Served:
    """A server whose store alone is on the small disk."""
    return Served(disk.parent, database="file", MAYFLY_DATABASE_URL=f"sqlite:///{disk}/mayfly.db")


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that was acknowledged."""

    path: str
    receipt_path: str
    content: str


def fill(line: Line, size: int, most: int = 100_000) -> list[Stored]:
    """Create messages of `size` bytes until the store refuses, as it must: with 503 and when to come back."""
    stored: list[Stored] = []
    while len(stored) < most:
        content = f"{len(stored):08}".ljust(size, "x")
        answer = line.ask(request("POST", "/", f'{{"message": "{content}", "views": 1}}'.encode(), Content_Type=JSON))
        if answer.status != 201:
            refused(answer)
            break
        created = answer.json()
        stored.append(Stored(f"/message/{created['id']}", f"/receipt/{created['receipt'].rsplit('/', 1)[1]}", content))
    return stored


def refused(answer: Answer) -> None:
    assert answer.status == 503, answer
    assert int(answer.headers["retry-after"]) > 0


def open_all(line: Line, stored: list[Stored], lease: bool = True) -> None:
    """Each opens, all under leases that live at the same time, and once more under the same lease."""
    for number, message in enumerate(stored):
        opening = request("POST", message.path, **({"Idempotency_Key": f"reader-{number:016}"} if lease else {}))
        for _ in range(2 if lease else 1):
            answer = line.ask(opening)
            assert (answer.status, answer.body) == (200, message.content.encode())


def check_full_store(served: Served, line: Line, size: int) -> None:
    """The promises of a store that is full of messages of one size."""
    stored = fill(line, size)
    assert len(stored) * size > 100_000
    refused(line.ask(request("POST", "/", f'{{"message": "{"x" * size}"}}'.encode(), Content_Type=JSON)))
    assert served.http.get("/readyz").status_code == 200
    burned, opened = stored[: len(stored) // 10], stored[len(stored) // 10 :]
    open_all(line, opened)
    for message in burned:
        assert line.ask(request("DELETE", message.receipt_path)).status == 200
    served.clock.advance(30)
    assert served.purge() == len(opened)
    again = fill(line, size)
    assert len(again) > len(stored) // 2
    open_all(line, again, lease=False)


@pytest.mark.parametrize("size", SIZES)
def test_full_disk_of_4_mb_refuses_creates_and_opens_everything(disk: Path, size: int) -> None:
    with served_on(disk) as served, connections(served, 1) as (line,):
        check_full_store(served, line, size)


@pytest.mark.parametrize("disk", [16 * 1024 * 1024], indirect=True)
def test_purge_of_large_messages_needs_no_more_room_than_a_full_disk_has(disk: Path) -> None:
    """The purge writes zeros over what it deletes, by way of the write-ahead log: not all messages at once."""
    with served_on(disk) as served, connections(served, 1) as (line,):
        check_full_store(served, line, 100_000)


@pytest.mark.parametrize("size", [10 * 1024, *(pytest.param(size, marks=pytest.mark.long) for size in SIZES[:2])])
def test_quota_refuses_creates_and_opens_everything(tmp_path: Path, database: Database, size: int) -> None:
    with Served(tmp_path, database=database, MAYFLY_STORE_BYTES="1048576") as served, connections(served, 1) as (line,):
        check_full_store(served, line, size)
        if database == "file":
            assert served.database_file.stat().st_size < 1.3 * 1048576


def test_message_larger_than_the_room_that_is_left_is_refused_and_a_smaller_one_taken(tmp_path: Path, database: Database) -> None:
    with Served(tmp_path, database=database, MAYFLY_STORE_BYTES="1048576") as served:
        refused_answer = served.http.post("/", content="x" * 1024 * 1024, headers={"Content-Type": "text/plain"})
        assert refused_answer.status_code == 503
        message = served.create("y" * 500_000, views=1)
        assert served.http.post(message.path).text == "y" * 500_000


def test_passphrases_are_checked_and_counted_in_a_full_store(disk: Path) -> None:
    with served_on(disk) as served, connections(served, 1) as (line,):
        locked = [served.create("behind a passphrase", views=1, passphrase="right") for _ in range(2)]
        fill(line, 200)
        for message, tries in zip(locked, (4, 5), strict=True):
            wrong = [served.http.post(message.path, json={"passphrase": "wrong"}).status_code for _ in range(tries)]
            assert wrong == [403] * tries
        assert served.http.post(locked[0].path, json={"passphrase": "right"}).json()["message"] == "behind a passphrase"
        assert served.http.post(locked[1].path, json={"passphrase": "right"}).status_code == 404


def test_disk_filled_to_the_last_byte_by_others_loses_nothing(disk: Path) -> None:
    """Every answer is the message or a 503; when there is room again the refused ones open, by the same key, each once."""
    with served_on(disk) as served, connections(served, 1) as (line,):
        stored = fill(line, 1024, most=300)
        hog = disk / "hog"
        subprocess.run(["dd", "if=/dev/zero", f"of={hog}", "bs=4096"], stderr=subprocess.DEVNULL, check=False)
        assert os.statvfs(disk).f_bavail == 0

        refused(line.ask(request("POST", "/", b'{"message": "no room"}', Content_Type=JSON)))
        opened = []
        for number, message in enumerate(stored[:250]):
            answer = line.ask(request("POST", message.path, Idempotency_Key=f"reader-{number:016}"))
            if answer.status == 200:
                assert answer.body == message.content.encode()
                opened.append(message)
            else:
                refused(answer)
        for message in stored[250:]:
            answer = line.ask(request("DELETE", message.receipt_path))
            assert answer.status in (200, 503)
        assert line.ask(request("GET", "/healthz")).status == 200
        purge = line.ask(request("POST", "/delete", Authorization=f"Bearer {served.admin_token}"))
        assert purge.status in (200, 503)

        hog.unlink()
        open_all(line, stored[:250])
        for message in stored[:250]:
            assert line.ask(request("POST", message.path, Idempotency_Key="somebody-else-entirely")).status == 404
            assert len(line.ask(request("GET", message.receipt_path, Accept=JSON)).json()["opened"]) == 1
        with closing(sqlite3.connect(f"file:{disk}/mayfly.db?mode=ro", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute(
                "SELECT count(*) FROM messages WHERE (ended IS NULL) != (n IN (SELECT n FROM bodies))"
            ).fetchone() == (0,)
            assert db.execute("SELECT count(*) FROM messages").fetchone() == (300,)
        assert "Traceback" not in served.log()
        assert len(fill(line, 1024)) > 100


def test_server_killed_on_a_full_disk_loses_nothing(disk: Path) -> None:
    """It may refuse to start while there is no room, in one line; afterwards everything is there."""
    with served_on(disk) as served:
        with connections(served, 1) as (line,):
            stored = fill(line, 1024, most=100)
        hog = disk / "hog"
        subprocess.run(["dd", "if=/dev/zero", f"of={hog}", "bs=4096"], stderr=subprocess.DEVNULL, check=False)
        served.kill()
        try:
            served.start()
            served.kill()
        except AssertionError:
            assert "mayfly: MAYFLY_DATABASE_URL" in served.log()
        assert "Traceback" not in served.log()
        hog.unlink()
        served.start()
        with connections(served, 1) as (line,):
            open_all(line, stored)
