"""A PostgreSQL server to measure with: its own defaults, fsync and all, in a folder that is gone with it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from bench.servers import BenchFailed, free_port

_START_SECONDS = 30
_SAFE_USER = "nobody"
"""PostgreSQL refuses to run as root; whoever is root runs it as this user."""


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server; the URL of an empty database."""
    port = free_port()
    url = f"postgresql://mayfly@127.0.0.1:{port}/postgres"
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-postgresql-") as folder:
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_SAFE_USER)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
            user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        data, log = Path(folder) / "data", Path(folder) / "server.log"
        with log.open("ab") as said:
            streams: dict[str, Any] = {"stdout": said, "stderr": said, "cwd": folder}
            subprocess.run(
                [_program("initdb"), "-D", data, "-U", "mayfly", "-A", "trust", "-E", "UTF8"], check=True, **streams, **user
            )
            command = [_program("postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", folder]
            process: subprocess.Popen[bytes] = subprocess.Popen(command, **streams, **user)
        try:
            _wait_for(url, process, log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def database_bytes(url: str) -> int:
    """What the database takes on disk, dead rows and all."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert found
    return int(found[0])


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise BenchFailed(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    path = shutil.which(name) or (str(found[-1]) if found else None)
    if path is None:
        raise BenchFailed(f"needs {name}: apt-get install postgresql")
    return path
