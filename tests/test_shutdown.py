"""Starting and stopping: requests in flight are finished, a taken address is refused in one line, nothing leaks in between."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.racing import Answer, Line, connections, request
from tests.serving import Database, Served, Server

JSON = "application/json"
SLOW_CREATE = b'{"message": "slow", "views": 1, "passphrase": "takes a fifth of a second"}'


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_before_the_server_stops(
    tmp_path: Path, server: Server, database: Database, number: signal.Signals
) -> None:
    """Six passphrases are being stretched, and one message opened, when the signal comes."""
    with Served(tmp_path, server, database) as served, connections(served, 7) as lines:
        message = served.create("slow", views=1, passphrase="right")
        idle = resident_bytes(served)
        for line in lines[:6]:
            line.send(request("POST", "/", SLOW_CREATE, Content_Type=JSON))
        lines[6].send(request("POST", message.path, b'{"passphrase": "right"}', Content_Type=JSON))
        await_busy(served, idle + 100 * 1024 * 1024)
        os.kill(served.pid, number)
        answers = [line.answer() for line in lines]
        assert [answer.status for answer in answers] == [201] * 6 + [200]
        assert served.process and served.process.wait(timeout=60) == 0
        assert "Traceback" not in served.log()
        with pytest.raises(ConnectionError):
            Line(served)


def await_busy(served: Served, busy_bytes: int) -> None:
    """Until the server computes: Argon2 takes 64 MiB for each of the requests under way."""
    for _ in range(100_000):
        if resident_bytes(served) > busy_bytes:
            return
    raise AssertionError("the server does not compute")


def processes(pid: int) -> list[int]:
    """A server and its workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def resident_bytes(served: Served) -> int:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in processes(served.pid))
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_message_survives_a_restart_on_a_file(tmp_path: Path, server: Server) -> None:
    with Served(tmp_path, server, "file") as served:
        message = served.create("still here", views=1)
        assert served.stop() == 0
        served.start()
        assert served.http.post(message.path).text == "still here"


def test_hangup_does_not_lose_the_messages_in_memory(tmp_path: Path) -> None:
    """A terminal that closes sends SIGHUP, for which granian by itself would replace its worker."""
    with Served(tmp_path) as served:
        message = served.create("still here", views=1)
        os.kill(served.pid, signal.SIGHUP)
        os.kill(served.pid, signal.SIGHUP)
        assert served.http.get("/healthz").status_code == 200
        assert served.http.post(message.path).text == "still here"
        assert served.stop() == 0


def refused_start(port: int, key_file: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environ |= {"MAYFLY_PORT": str(port), "MAYFLY_KEY_FILE": str(key_file)}
    project = Path(__file__).resolve().parent.parent
    return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, timeout=30)


def test_taken_port_is_refused_in_one_line(served: Served) -> None:
    """By whoever listens there: SO_REUSEPORT would have let a second Mayfly in, and each answer 404 for half of the links."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for port in (listener.getsockname()[1], served.port):
            start = refused_start(port, served.key_file, [sys.executable, "server.py"])
            assert start.returncode == 1
            assert start.stdout == ""
            assert (
                start.stderr
                == f"mayfly: MAYFLY_HOST, MAYFLY_PORT: cannot listen on 127.0.0.1 port {port} (Address already in use)\n"
            )


def test_gunicorn_refuses_a_taken_port_without_a_traceback(served: Served) -> None:
    start = refused_start(served.port, served.key_file, [sys.executable, "-m", "gunicorn", "server:create_app()"])
    assert start.returncode == 1
    assert "Address already in use" in start.stderr or "Connection in use" in start.stderr
    assert "Traceback" not in start.stderr


def test_port_is_free_again_as_soon_as_the_server_stopped(tmp_path: Path) -> None:
    """Connections that linger in TIME_WAIT do not keep a restart from its address."""
    with Served(tmp_path) as served:
        with connections(served, 5) as lines:
            for line in lines:
                assert line.ask(request("GET", "/healthz")).status == 200
            assert served.stop() == 0
        served.start()


def test_nothing_leaks_over_2000_requests(tmp_path: Path, server: Server, database: Database) -> None:
    """Descriptors and threads, over all kinds of requests, answered, broken off, and on connections that close."""
    with Served(tmp_path, server, database) as served, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: churn(served), range(40)))
        before = descriptors_and_threads(served)
        list(pool.map(lambda _: churn(served), range(220)))
        after = descriptors_and_threads(served)
        assert after[0] <= before[0] + 8
        assert after[1] <= before[1] + 8


def churn(served: Served) -> None:
    """Nine requests, then a connection that breaks off in the middle of a tenth."""
    with connections(served, 1) as (line,):
        created = line.ask(request("POST", "/", b'{"message": "x", "views": 1}', Content_Type=JSON)).json()
        path = f"/message/{created['id']}"
        asked: list[Answer] = [
            line.ask(request("GET", path)),
            line.ask(request("POST", path, b'{"passphrase": ""}', Content_Type=JSON, Idempotency_Key="a-key-of-16-chars")),
            line.ask(request("DELETE", path, Idempotency_Key="a-key-of-16-chars")),
            line.ask(request("GET", path)),
            line.ask(request("GET", "/", Accept="text/html")),
            line.ask(request("GET", "/static/mayfly.css")),
            line.ask(request("POST", "/", b"{}", Content_Type=JSON)),
            line.ask(request("GET", "/nowhere")),
        ]
        assert [answer.status for answer in asked] == [405, 200, 204, 404, 200, 200, 400, 404]
        line.send(request("POST", "/", b'{"message": "cut"}', Content_Type=JSON)[:-3])


def descriptors_and_threads(served: Served) -> tuple[int, int]:
    """Open descriptors and threads of the server and its workers, once all connections are closed."""
    counts: tuple[int, int] = (0, 0)
    for _ in range(400):  # the server sees each end of a connection in its own time
        now = (
            sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in processes(served.pid)),
            sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in processes(served.pid)),
        )
        served.http.get("/healthz")
        if now == counts:
            return now
        counts = now
    return counts


@pytest.mark.long
def test_client_that_stalls_cannot_keep_the_server_from_stopping(tmp_path: Path, server: Server) -> None:
    """Its request ends with the time a body has, and the server after it."""
    with Served(tmp_path, server) as served, connections(served, 1) as (line,):
        line.send(request("POST", "/", b'{"message": "stalls"}', Content_Type=JSON)[:-5])
        assert served.http.get("/healthz").status_code == 200
        assert served.stop() == 0
        assert line.answer().status == 408


def test_node_that_drains_serves_on_while_it_says_it_is_not_ready(tmp_path: Path) -> None:
    """A load balancer asks /readyz every second or so: until it has noticed, nobody it sends here may be turned down."""
    with Served(tmp_path, MAYFLY_DRAIN_SECONDS="2") as served:
        assert served.http.get("/readyz").status_code == 200
        os.kill(served.pid, signal.SIGTERM)
        deadline = time.monotonic() + 2
        while served.http.get("/readyz").status_code != 503:
            assert time.monotonic() < deadline
        assert served.http.get("/readyz").text == "stopping\n"
        assert served.http.get("/healthz").status_code == 200
        message = served.create("made meanwhile", views=1)
        with connections(served, 1) as (line,):
            assert line.ask(request("POST", message.path)).status == 200
        assert served.process and served.process.wait(timeout=30) == 0
        assert "Traceback" not in served.log()


def test_interrupt_from_the_keyboard_does_not_drain(tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_DRAIN_SECONDS="60") as served:
        os.kill(served.pid, signal.SIGINT)
        assert served.process and served.process.wait(timeout=30) == 0
