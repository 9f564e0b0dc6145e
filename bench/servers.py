"""What is measured: each server with all its processes, on a free port of 127.0.0.1, ended by its own process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 300
"""How long a start may take; one that first fills its store with a million messages takes most of a minute."""
STOP_SECONDS = 20

SETTINGS = {
    "mayfly": "python server.py, MAYFLY_CREATE_RATE=0 (one client makes all messages), else defaults: granian, memory store",
    "snappass": (
        "gunicorn snappass.main:app, gunicorn's defaults: one sync worker, which measured the least CPU per request; "
        "redis-server with its and Debian's defaults (no AOF, snapshots after 60 s and 10,000 changes or later), TCP"
    ),
    "flask hello": "granian --interface wsgi --blocking-threads 1, the cheapest way to serve a Flask hello-world",
    "flask hello rsgi": "the same hello-world behind the RSGI adapter that serves Mayfly",
}


class BenchFailed(Exception):
    """The run says nothing: a server did not start, or something was not answered as it must be."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes resident of a process tree. RSS counts pages that processes share once a process, PSS once."""

    rss: int
    pss: int


class Server:
    """A started server: where it answers, and what its process trees use."""

    def __init__(self, name: str, port: int, processes: list[subprocess.Popen[bytes]]) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self._roots = [psutil.Process(process.pid) for process in processes]

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far."""
        times = [process.cpu_times() for process in self._tree()]
        return float(sum(used.user + used.system for used in times))

    def peak_bytes(self) -> int:
        """The most that was resident at one time since the last `forget_peak`."""
        status = Path(f"/proc/{self._roots[0].pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def forget_peak(self) -> None:
        Path(f"/proc/{self._roots[0].pid}/clear_refs").write_text("5")

    def memory(self) -> Memory:
        found = [process.memory_full_info() for process in self._tree()]
        return Memory(sum(info.rss for info in found), sum(info.pss for info in found))

    def _tree(self) -> list[psutil.Process]:
        return [process for root in self._roots for process in (root, *root.children(recursive=True))]


@contextmanager
def start(name: str, folder: Path, commands: Callable[[int, Path], Commands] | None = None) -> Iterator[Server]:
    """Start the server `name`, or the one that `commands` start, with its files in `folder`; wait until it answers, and end it
    after the block.

    Raises BenchFailed with its log if it does not answer.
    """
    folder.mkdir()
    port = free_port()
    log = folder / "server.log"
    with ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        for command, environ in (commands or STARTS[name])(port, folder):
            processes.append(stack.enter_context(_process(command, environ, log)))
        _wait_for(f"http://127.0.0.1:{port}/", processes, log)
        yield Server(name, port, processes)


Commands = list[tuple[list[str], dict[str, str]]]


def _mayfly(port: int, folder: Path) -> Commands:
    environ = {"MAYFLY_PORT": str(port), "MAYFLY_CREATE_RATE": "0", "XDG_CONFIG_HOME": str(folder)}
    return [([sys.executable, "server.py"], environ)]


def filled(rows: int, seconds: int, **settings: str) -> Callable[[int, Path], Commands]:
    """Mayfly with `rows` messages in its store that live for `seconds` from its start on, as commands to `start`."""

    def commands(port: int, folder: Path) -> Commands:
        (_, environ), *_ = _mayfly(port, folder)
        return [([sys.executable, "-m", "bench.filled", str(rows), str(seconds)], environ | settings)]

    return commands


def stocked(rows: int, paths: Path, **settings: str) -> Callable[[int, Path], Commands]:
    """Mayfly with `rows` messages that have expired and as many that have not, as commands to `start`; `paths`: a file for those
    that can be read."""

    def commands(port: int, folder: Path) -> Commands:
        (_, environ), *_ = _mayfly(port, folder)
        return [([sys.executable, "-m", "bench.stocked", str(rows), str(paths)], environ | settings)]

    return commands


def _snappass(port: int, folder: Path) -> Commands:
    redis_port = free_port()
    redis = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(folder)]
    gunicorn = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "snappass.main:app"]
    environ = {"REDIS_URL": f"redis://127.0.0.1:{redis_port}", "NO_SSL": "True", "SECRET_KEY": os.urandom(16).hex()}
    # In an empty folder: Mayfly's gunicorn.conf.py is not meant for it.
    return [(redis, {}), (["env", "-C", str(folder), *gunicorn], environ)]


def _hello(port: int, folder: Path) -> Commands:
    options = ["--host", "127.0.0.1", "--port", str(port), "--interface", "wsgi", "--blocking-threads", "1", "--http", "1"]
    return [([sys.executable, "-m", "granian", *options, "--no-ws", "--no-log", "bench.hello:app"], {})]


def _hello_rsgi(port: int, folder: Path) -> Commands:
    return [([sys.executable, "-m", "bench.hello", str(port)], {})]


STARTS: dict[str, Callable[[int, Path], Commands]] = {
    "mayfly": _mayfly,
    "snappass": _snappass,
    "flask hello": _hello,
    "flask hello rsgi": _hello_rsgi,
}


@contextmanager
def _process(command: list[str], extra: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAYFLY_", "GUNICORN_", "REDIS_"))}
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=environ | extra, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, processes: list[subprocess.Popen[bytes]], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise BenchFailed(f"it did not start:\n{log.read_text(errors='replace')}")
