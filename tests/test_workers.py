"""Several processes: any number on a file, one on memory, however gunicorn is asked for more."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

import crypto
import keyfile
from records import Sealed
from tests.racing import connections, opening, request
from tests.serving import PROJECT, Served, free_port

REFUSED = "mayfly: a memory store lives in one process; run gunicorn with one worker, or set all MAYFLY_…DATABASE_URL\n"


@pytest.mark.parametrize("way", ["--workers=2", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"])
def test_memory_store_refuses_a_second_worker_in_one_line(tmp_path: Path, way: str) -> None:
    environ = {"WEB_CONCURRENCY": {"WEB_CONCURRENCY": "2"}, "GUNICORN_CMD_ARGS": {"GUNICORN_CMD_ARGS": "--workers=2"}}.get(way, {})
    process = gunicorn(tmp_path, free_port(), *([way] if way.startswith("--") else []), **environ)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert told == REFUSED


def gunicorn(folder: Path, port: int, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """gunicorn as a user starts it, with the embedded default."""
    key_file = folder / "key.json"
    keyfile.create(key_file)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environ = clean | environ | {"MAYFLY_KEY_FILE": str(key_file), "MAYFLY_PORT": str(port)}
    command = [sys.executable, "-m", "gunicorn", *arguments, "server:create_app()"]
    return subprocess.Popen(command, cwd=PROJECT, env=environ, stderr=subprocess.PIPE, text=True)


def test_memory_store_does_not_let_a_signal_add_a_worker(tmp_path: Path) -> None:
    """SIGTTIN asks gunicorn for one more; each message must still be found by each reader."""
    with Served(tmp_path, "gunicorn") as served:
        message = served.create("in one place", views=100)
        os.kill(served.pid, signal.SIGTTIN)
        for _ in range(500):
            if "not adding a worker" in served.log():
                break
            served.http.get("/healthz")
        with connections(served, 50) as lines:
            assert [line.ask(opening(message)).status for line in lines] == [200] * 50
        assert len(workers_of(served)) == 1


def test_memory_store_answers_503_to_all_where_our_configuration_was_left_out(tmp_path: Path) -> None:
    """Two memories would each know half of the messages: nothing is taken, nothing looks healthy."""
    (tmp_path / "empty.py").touch()
    port = free_port()
    process = gunicorn(tmp_path, port, "-c", str(tmp_path / "empty.py"), "-b", f"127.0.0.1:{port}", "-w", "2")
    try:
        for path in ("/healthz", "/", "/message/6f0c2a52-3f9b-4d0a-9a51-0d5c2f6f9a11", "/static/mayfly.css") * 2:
            refused(await_answer("GET", port, path))
        for path, fields in (("/", {"message": "hello"}), ("/delete", {})):
            refused(await_answer("POST", port, path, data=fields))
    finally:
        process.terminate()
        process.communicate(timeout=60)


def await_answer(method: str, port: int, path: str, **options: object) -> httpx.Response:
    for _ in range(1000):
        try:
            return httpx.request(method, f"http://127.0.0.1:{port}{path}", **options)  # type: ignore[arg-type]
        except httpx.ConnectError:
            time.sleep(0.02)
    raise AssertionError("no answer")


def refused(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "several workers" in answer.text


def test_two_workers_share_a_file(tmp_path: Path) -> None:
    """What one process stored the others find, and what one delivered the others refuse."""
    with Served(tmp_path, "gunicorn", "file", workers=2) as served, connections(served, 40) as lines:
        for number, creator in enumerate(lines):
            created = creator.ask(request("POST", "/", b'{"message": "shared", "views": 1}', Content_Type="application/json"))
            path = f"/message/{created.json()['id']}"
            readers = [lines[(number + step) % 40] for step in range(1, 5)]
            assert [reader.ask(request("POST", path)).status for reader in readers] == [200, 404, 404, 404]


def test_only_one_of_several_processes_purges(tmp_path: Path) -> None:
    """And another takes over when that one dies."""
    with Served(tmp_path, "gunicorn", "file", workers=2, MAYFLY_PURGE_SECONDS="1") as served:
        for _ in range(2):
            create = request("POST", "/", b'{"message": "expires", "expires_in": 60}', Content_Type="application/json")
            with connections(served, 1) as (line,):
                assert line.ask(create).status == 201
            served.clock.advance(60)
            await_purge(served)
            os.kill(purging_worker(served), signal.SIGKILL)


def await_purge(served: Served) -> None:
    """Until no body is left in the file."""
    with closing(sqlite3.connect(f"file:{served.database_file}?mode=ro", uri=True)) as db:
        for _ in range(1000):
            if db.execute("SELECT count(*) FROM bodies").fetchone() == (0,):
                return
            time.sleep(0.02)
    raise AssertionError("nobody purges")


def workers_of(served: Served) -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{served.pid}/task/{served.pid}/children").read_text().split()}


def purging_worker(served: Served) -> int:
    """The one worker that holds the lock; two would be a fault."""
    lock = Path(f"{served.database_file}-purge").stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    (holder,) = workers_of(served) & {int(fields[4]) for fields in locks if fields[5].endswith(f":{lock}")}
    return holder


def test_key_rotated_on_one_node_is_missing_on_the_others_until_they_have_the_file(tmp_path: Path) -> None:
    """Two nodes on one store, each with a copy of the key file of its own: until then they answer 503 and use nothing up."""
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    keyfile.create(folders[0] / "key.json")
    shutil.copy(folders[0] / "key.json", folders[1] / "key.json")
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    off = dict.fromkeys(("MAYFLY_GUARDED_DATABASE_URL", "MAYFLY_SEALED_DATABASE_URL"), "off")
    with Served(folders[0], MAYFLY_DATABASE_URL=url, **off) as one, Served(folders[1], MAYFLY_DATABASE_URL=url, **off) as other:
        before = one.create("before", views=2)
        current = keyfile.rotate(one.key_file, datetime.now(UTC))
        wait_until_sealed_under(tmp_path / "shared.db", one, current)
        after = one.create("after", views=1, passphrase="right")
        for _ in range(8):
            refused_answer = other.http.post(after.path, json={"passphrase": "right"})
            assert refused_answer.status_code == 503
            assert refused_answer.headers["Retry-After"]
            assert other.http.get(after.path).status_code == 405, "that it waits needs no key"
        assert other.http.post(before.path).text == "before", "the old key still opens, there"
        assert one.http.post(before.path).text == "before", "and here"
        assert one.http.get(after.receipt_path, headers={"Accept": "application/json"}).json()["views_left"] == 1
        fresh = other.key_file.with_suffix(".new")
        shutil.copy(one.key_file, fresh)
        os.replace(fresh, other.key_file)
        opened = other.http.post(after.path, json={"passphrase": "right"})
        assert opened.status_code == 200, "an unknown key id is looked for at once"
        assert opened.json()["message"] == "after"


def wait_until_sealed_under(database: Path, served: Served, key_id: str) -> None:
    """Until what is created names that key: a server looks at its key file within a second."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        for _ in range(1000):
            served.create("which key?")
            (body,) = db.execute("SELECT body FROM bodies ORDER BY n DESC LIMIT 1").fetchone()
            if crypto.key_id_of(Sealed(body)) == key_id:
                return
            time.sleep(0.02)
    raise AssertionError("the rotation was not picked up")
