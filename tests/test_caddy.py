"""Caddy in front of Mayfly, with the Caddyfile as it is shipped: what it lets through, repeats, keeps to itself, and survives."""

from __future__ import annotations

import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import raw
from tests.engines.caddy import Caddy
from tests.open_loop import OpenLoop
from tests.ports import free_port
from tests.requirements import require_program
from tests.serving import Database, Served
from tests.test_canaries import Canaries

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Behaviour = Callable[[bytes], bytes | None]
"""What a recorder answers to a request; None: it closes the connection without a word."""


class Recorder:
    """A node that is none: it writes down each request as it came, and answers as it is told. Probes are answered by themselves."""

    def __init__(self, behave: Behaviour = lambda request: OK, port: int = 0) -> None:
        self.behave = behave
        self.requests: list[bytes] = []
        self.probes = 0
        self.ready = True
        self._socket = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def await_probes(self, count: int = 2) -> None:
        """Until Caddy has asked so many more times, and so knows how this node is."""
        awaited = self.probes + count
        deadline = time.monotonic() + 30
        while self.probes < awaited:
            assert time.monotonic() < deadline, "Caddy does not ask for /readyz"
            time.sleep(0.02)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            stream = connection.makefile("rb")
            while request := _read_request(stream):
                if request.startswith(b"GET /readyz "):
                    self.probes += 1
                    answer = OK if self.ready else b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"
                else:
                    self.requests.append(request)
                    answer = self.behave(request) or b""
                if not answer:
                    return
                connection.sendall(answer)
                if b"Connection: close" in answer:
                    return


def _read_request(stream: object) -> bytes:
    """One request from a stream, whole; empty at its end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()  # type: ignore[attr-defined]
        if not line:
            return b""
        head += line
    length = header(head, "Content-Length")
    return head + (stream.read(int(length)) if length else b"")  # type: ignore[attr-defined, no-any-return]


def header(request: bytes, name: str) -> str | None:
    """The value of a header in a request as it came; None if it is not there."""
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    found = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].lower() == name.lower()]
    assert len(found) < 2, found
    return found[0] if found else None


def exchange(caddy: Caddy, data: bytes) -> list[raw.Response]:
    """Send bytes and return the responses until Caddy closes."""
    received = b""
    with caddy.connect() as connection:
        connection.sendall(data)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, ssl.SSLEOFError):
            pass
    return raw.parse(received)


def break_off(caddy: Caddy, data: bytes) -> None:
    """Send the beginning of a request, and hang up."""
    with caddy.connect() as connection, suppress(OSError):
        connection.sendall(data)
        connection.unwrap()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Caddy, Recorder]]:
    """Caddy in front of one recorder. Tests tell it how to behave and look at its last request."""
    with Recorder() as recorder, Caddy(tmp_path_factory.mktemp("recorded"), [recorder.address]) as caddy:
        yield caddy, recorder


@contextmanager
def two_nodes(folder: Path, database: Database = "file", **settings: str) -> Iterator[tuple[Caddy, list[Served]]]:
    """Caddy in front of two nodes that share a store and a key file, as in docker-compose.yml."""
    caddy = Caddy(folder / "caddy")
    settings |= {
        "MAYFLY_GUARDED_DATABASE_URL": "off",
        "MAYFLY_SEALED_DATABASE_URL": "off",
        "MAYFLY_PUBLIC_URL": caddy.url,
        "MAYFLY_TRUSTED_PROXIES": "127.0.0.1",
        "MAYFLY_LOG_LEVEL": "info",
    }
    (folder / "first").mkdir()
    with Served(folder / "first", database=database, **settings) as first, first.node(folder / "second", **settings) as second:
        caddy.nodes = [f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"]
        with caddy:
            yield caddy, [first, second]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Caddy, list[Served]]]:
    """Two nodes behind Caddy, for tests that leave them running."""
    with two_nodes(tmp_path_factory.mktemp("cluster")) as running:
        yield running


# What reaches a node


def test_what_only_a_proxy_may_say_is_said_by_caddy_alone(recorded: tuple[Caddy, Recorder]) -> None:
    """A client's certificate, its address and its scheme cannot be claimed in a header, nor in one that looks like it."""
    caddy, recorder = recorded
    forged = [
        *("Client-Cert", "Client-Cert-Chain", "Client_Cert", "client_cert_chain", "CLIENT-CERT", "Client_Cert-Chain"),
        *("X-Forwarded-For", "X_Forwarded_For", "X-Forwarded_For", "X-Forwarded-Proto", "X_Forwarded_Proto", "X-Forwarded-Host"),
        *("Forwarded", "X-Real-IP", "X_Real_IP", "Idempotency_Key", "Content_Length", "X-Idempotency-Key"),
    ]
    headers = [(name, f"forged-{number}") for number, name in enumerate(forged)]
    (answer,) = exchange(caddy, raw.request("GET", "/", [*headers, ("X-Kept", "kept")], host=f"localhost:{caddy.port}"))
    assert answer.status == 200
    request = recorder.requests[-1]
    assert b"forged" not in request
    names = {line.partition(b":")[0] for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
    assert not any(b"_" in name for name in names)
    assert header(request, "X-Kept") == "kept"
    assert header(request, "X-Forwarded-For") == "127.0.0.1"
    assert header(request, "X-Forwarded-Proto") == "https"
    assert header(request, "Host") == f"localhost:{caddy.port}"


def test_header_is_not_lost_to_a_client_that_calls_it_hop_by_hop(recorded: tuple[Caddy, Recorder]) -> None:
    """`Connection: X-Forwarded-For` would have a careless proxy remove what it set itself."""
    caddy, recorder = recorded
    names = "X-Forwarded-For, X-Forwarded-Proto, close"
    request = f"GET / HTTP/1.1\r\nHost: localhost:{caddy.port}\r\nConnection: {names}\r\n\r\n"
    (answer,) = exchange(caddy, request.encode())
    assert answer.status == 200
    assert header(recorder.requests[-1], "X-Forwarded-For") == "127.0.0.1"
    assert header(recorder.requests[-1], "X-Forwarded-Proto") == "https"


CHUNKED = b"Transfer-Encoding: chunked\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


def test_chunked_body_is_refused_loudly(cluster: tuple[Caddy, list[Served]]) -> None:
    """No version of Caddy gives it a length: as without Caddy, the client is told what to do, and nothing is stored."""
    caddy, nodes = cluster
    before = _stored(nodes[0])
    (answer,) = exchange(caddy, f"POST / HTTP/1.1\r\nHost: localhost:{caddy.port}\r\nAccept: text/plain\r\n".encode() + CHUNKED)
    assert answer.status == 411
    assert b"Content-Length" in answer.body
    assert _stored(nodes[0]) == before


def test_body_without_a_length_over_http2_gets_one(cluster: tuple[Caddy, list[Served]]) -> None:
    """From Caddy 2.7 on, which can hold bodies back. An older one makes chunks of it, which are refused."""
    caddy, _ = cluster
    command = [require_program("curl"), "-s", "--http2", "--cacert", str(caddy.authority), "-w", "%{http_version} %{http_code} "]
    command += ["-o", str(caddy.folder / "answer"), "-X", "POST", "-H", "Content-Type: text/plain", "-T", "-", f"{caddy.url}/"]
    told = subprocess.run(command, input=b"hello world", capture_output=True, timeout=30).stdout.split()
    if caddy.buffers:
        assert told == [b"2", b"201"]
        with caddy.client() as http:
            assert http.get((caddy.folder / "answer").read_text().strip()).text == "hello world"
    else:
        assert told == [b"2", b"411"]


def test_body_that_is_cut_short_is_not_stored(cluster: tuple[Caddy, list[Served]]) -> None:
    """The client announces 100 bytes, or a last chunk, and hangs up."""
    caddy, nodes = cluster
    host = f"Host: localhost:{caddy.port}\r\n".encode()
    before = _stored(nodes[0])
    for framing, body in ((b"Content-Length: 100\r\n", b"hello"), (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n")):
        break_off(caddy, b"POST / HTTP/1.1\r\n" + host + framing + b"Content-Type: text/plain\r\n\r\n" + body)
    with caddy.client() as http:
        assert http.post("/", json={"message": "whole"}).status_code == 201
    assert _stored(nodes[0]) == before + 1


def _stored(node: Served) -> int:
    with closing(sqlite3.connect(node.settings["MAYFLY_DATABASE_URL"].removeprefix("sqlite:///"))) as database:
        return int(database.execute("SELECT count(*) FROM messages").fetchone()[0])


# What is repeated


OPEN = "POST /message/6f0c2a52-8d3c-4c0e-9d53-0a3a4f6a7b11 HTTP/1.1\r\nHost: localhost:{port}\r\n"


@pytest.mark.parametrize("reused", [False, True], ids=["first use", "reused connection"])
@pytest.mark.parametrize("more", ["", "X-Idempotency-Key: looks-like-one\r\n", "Content-Type: text/plain\r\n"])
def test_opening_that_a_node_may_have_heard_is_never_repeated(tmp_path: Path, reused: bool, more: str) -> None:
    """Two nodes read the request and close: one of them has it, once; the reader is told, and what to do."""
    body = "hello" if "Content-Type" in more else ""
    with Recorder() as first, Recorder() as second, Caddy(tmp_path, [first.address, second.address]) as caddy:
        head = OPEN.format(port=caddy.port) + f"{more}Content-Length: {len(body)}\r\n"
        request = f"{head}Connection: close\r\n\r\n{body}".encode()
        if reused:
            for _ in range(16):
                assert [answer.status for answer in exchange(caddy, request)] == [200]
        first.requests.clear()
        second.requests.clear()
        first.behave = second.behave = lambda request: None
        (answer,) = exchange(caddy, request)
        assert answer.status == 502
        assert answer.header("Retry-After")
        assert b"Idempotency-Key" in answer.body
        assert len(first.requests) + len(second.requests) == 1


def test_get_that_a_node_left_unanswered_is_answered_by_the_other(tmp_path: Path) -> None:
    """Nothing is used up by it."""
    with Recorder(lambda request: None) as first, Recorder() as second, Caddy(tmp_path, [first.address, second.address]) as caddy:
        with caddy.client() as http:
            for _ in range(16):
                assert http.get("/message/6f0c2a52-8d3c-4c0e-9d53-0a3a4f6a7b11").text == "ok"
        assert first.requests


@pytest.mark.parametrize("body", [b"", b"hello"], ids=["without body", "with body"])
def test_request_that_found_no_connection_goes_to_the_other_node(tmp_path: Path, body: bytes) -> None:
    """Caddy from 2.11 on can do so with a body too. An older one answers 502; no node has heard it."""
    with Recorder() as up:
        with Recorder() as down:
            nodes = [down.address, up.address]
        with Caddy(tmp_path, nodes) as caddy, caddy.client() as http:
            statuses = {http.post("/", content=body).status_code for _ in range(16)}
            if body and not caddy.repeats_bodies:
                assert statuses <= {200, 502}
            else:
                assert statuses == {200}
            assert all(request.endswith(b"\r\n\r\n" + body) for request in up.requests)


# Which node gets requests


def test_node_that_is_not_ready_gets_no_requests(tmp_path: Path) -> None:
    with (
        Recorder() as first,
        Recorder() as second,
        Caddy(tmp_path, [first.address, second.address]) as caddy,
        caddy.client() as http,
    ):
        first.ready = False
        first.await_probes()
        first.requests.clear()
        for _ in range(10):
            assert http.post("/").status_code == 200
        assert not first.requests
        first.ready, second.ready = True, False
        first.await_probes()
        second.await_probes()
        second.requests.clear()
        for _ in range(10):
            assert http.post("/").status_code == 200
        assert not second.requests


def test_client_that_breaks_off_does_not_turn_the_nodes_away(cluster: tuple[Caddy, list[Served]]) -> None:
    """Cut bodies and chunks that are none look to a proxy like faults of the node: everybody else is still served, at once."""
    caddy, _ = cluster
    head = f"POST / HTTP/1.1\r\nHost: localhost:{caddy.port}\r\nContent-Type: text/plain\r\n".encode()
    with caddy.client() as http:
        for _ in range(5):
            for rest in (
                b"Content-Length: 100\r\n\r\nhel",
                b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n",
                b"Content-Length: 9\r\n\r\n",
            ):
                break_off(caddy, head + rest)
            for _ in range(2):
                assert http.post("/", json={"message": "served"}).status_code == 201


def test_answer_of_caddy_itself_is_as_strict_as_ours(tmp_path: Path) -> None:
    """No node is there: 502 or 503, not kept by any cache, no script, and no name of the software."""
    with Caddy(tmp_path, [f"127.0.0.1:{free_port()}"]) as caddy, caddy.client() as http:
        answer = http.post("/message/6f0c2a52-8d3c-4c0e-9d53-0a3a4f6a7b11")
        assert answer.status_code in (502, 503)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert int(answer.headers["Retry-After"]) > 0
        assert "caddy" not in str(answer.headers).lower()


# What stays private


def test_message_goes_through_whole(cluster: tuple[Caddy, list[Served]]) -> None:
    """Links begin with the public address; whichever node creates, the other opens; the answer carries Mayfly's headers alone."""
    caddy, nodes = cluster
    with caddy.client() as http:
        for content in ["x" * 300_000 + "é", *["hello"] * 16]:
            created = http.post("/", json={"message": content, "views": 1}).json()
            assert created["link"].startswith(f"{caddy.url}/message/")
            opened = http.post(created["link"], headers={"Accept": "text/plain"})
            assert opened.text == content
            assert opened.headers["Strict-Transport-Security"]
            assert "caddy" not in str(opened.headers).lower()
            assert http.post(created["link"]).status_code == 404
            assert http.get(created["receipt"]).text.startswith("state: opened")
        large = http.post("/", content=b"x" * 7_000_000, headers={"Content-Type": "text/plain"})
        # Before 2.7 it is a race between the answer and the rest of the body.
        assert large.status_code == 413 or (large.status_code == 502 and not caddy.buffers)
    assert all("POST / 201" in node.log() and "POST /message/… 200" in node.log() for node in nodes)


def test_plain_http_is_only_sent_to_https(cluster: tuple[Caddy, list[Served]]) -> None:
    caddy, _ = cluster
    answer = httpx.get(f"http://127.0.0.1:{caddy.http_port}/healthz", headers={"Host": "localhost"})
    assert answer.status_code == 308
    assert answer.headers["Location"].startswith("https://localhost")


def test_create_limit_counts_the_client_and_not_caddy(tmp_path: Path) -> None:
    """X-Forwarded-For is Caddy's word, and Mayfly believes it: what a client claims there changes nothing."""
    with two_nodes(tmp_path, MAYFLY_CREATE_RATE="2") as (caddy, _), caddy.client() as http:
        claims = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(32)]
        statuses = [http.post("/", json={"message": "x"}, headers=claim).status_code for claim in claims]
        assert set(statuses) == {201, 429}
        assert statuses.count(201) == 4, "two a minute on each of two nodes"


def test_caddy_listens_where_its_clients_come_in_and_nowhere_else(cluster: tuple[Caddy, list[Served]]) -> None:
    """No admin API, which would tell addresses in its metrics and take another configuration; no UDP."""
    caddy, _ = cluster
    assert caddy.process
    sockets = {str(path.readlink()) for path in Path(f"/proc/{caddy.process.pid}/fd").iterdir()}
    listening, bound = set(), set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in sockets:
                port = int(fields[1].rpartition(":")[2], 16)
                if protocol.startswith("udp"):
                    bound.add(port)
                elif fields[3] == "0A":  # LISTEN
                    listening.add(port)
    assert listening == {caddy.port, caddy.http_port}
    assert not bound


def test_nothing_of_a_request_is_in_the_log(tmp_path: Path) -> None:
    """Not of one that is answered, refused, malformed, or that finds no node; the log still says which node is down."""
    canaries = Canaries()
    with two_nodes(tmp_path) as (caddy, nodes):
        with caddy.client() as http:
            message = http.post("/", json={"message": canaries("message"), "views": 9, "passphrase": canaries("passphrase")}).json()
            canaries.add("link id", message["id"])
            token = canaries.add("receipt token", message["receipt"].rpartition("/")[2])
            _ask_in_many_ways(caddy, canaries, http, f"/message/{message['id']}", f"/receipt/{token}")
            for node in nodes:
                node.kill()
            statuses = _ask_in_many_ways(caddy, canaries, http, f"/message/{message['id']}", f"/receipt/{token}")
            assert statuses & {502, 503}
        deadline = time.monotonic() + 30
        while not all(f"127.0.0.1:{node.port}" in caddy.log() for node in nodes):
            assert time.monotonic() < deadline, caddy.log()
            time.sleep(0.05)
        assert caddy.stop() == 0
        assert not canaries.found_in(caddy.log())


def test_answer_that_breaks_off_leaves_nothing_in_the_log(tmp_path: Path) -> None:
    """A node dies in the middle of a message. Caddy would tell which one, headers included."""
    canaries = Canaries()
    cut = f"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-Told: {canaries('header of the answer')}\r\nConnection: close\r\n\r\nhello"
    with Recorder(lambda request: cut.encode()) as recorder, Caddy(tmp_path, [recorder.address]) as caddy:
        with caddy.client() as http, pytest.raises(httpx.RemoteProtocolError):
            http.get(f"/message/{canaries('path')}?{canaries('query')}", headers={"User-Agent": canaries("agent")})
        assert caddy.stop() == 0
        assert recorder.requests
        assert not canaries.found_in(caddy.log())


def _ask_in_many_ways(caddy: Caddy, canaries: Canaries, http: httpx.Client, link: str, receipt: str) -> set[int]:
    """Requests with canaries everywhere, good and malformed ones; returns the statuses of the good."""
    headers = {name: canaries(name) for name in ("Idempotency-Key", "Cookie", "Referer", "User-Agent", "Authorization")}
    good: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", link, {}),
        ("POST", link, {"headers": headers, "json": {"passphrase": canaries("wrong passphrase")}}),
        ("GET", receipt, {"headers": headers}),
        ("GET", f"/{canaries('path')}?{canaries('query')}={canaries('value')}", {"headers": headers}),
        (
            "POST",
            f"/?{canaries('query of a post')}",
            {"content": canaries("body").encode(), "headers": {"Content-Type": "text/plain"}},
        ),
        (canaries("method")[:20], f"/{canaries('path of a method')}", {}),
    ]
    with ThreadPoolExecutor(len(good)) as pool:  # without a node, each GET is tried for five seconds
        answers = list(pool.map(lambda asked: http.request(asked[0], asked[1], **asked[2]), good))
    host = f"Host: localhost:{caddy.port}\r\n"
    for request in (
        f"GET /message/{canaries('path of a bad version')} HTTP/9.9\r\n{host}\r\n",
        f"GET /{canaries('path with a space')} x HTTP/1.1\r\n{host}\r\n",
        f"GET /%zz{canaries('path of a bad escape')} HTTP/1.1\r\n{host}\r\n",
        f"GET / HTTP/1.1\r\n{host}{canaries('header name')} : x\r\n\r\n",
        f"GET /{canaries('long path')}{'a' * 100_000} HTTP/1.1\r\n{host}\r\n",
        f"POST /{canaries('path of a cut body')} HTTP/1.1\r\n{host}Content-Length: 500\r\n\r\n{canaries('cut body')}",
        f"POST /{canaries('path of no chunk')} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n{canaries('chunk')}\r\n",
        f"GET /{canaries('path for another host')} HTTP/1.1\r\nHost: {canaries('host')}\r\nConnection: close\r\n\r\n",
    ):
        with caddy.connect() as connection, suppress(OSError):
            connection.sendall(request.encode())
            connection.settimeout(2)
            connection.recv(65536)
    with suppress(OSError), socket.create_connection(("127.0.0.1", caddy.http_port), 5) as plain:
        plain.sendall(f"GET /{canaries('path in plain HTTP')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        plain.recv(65536)
    with suppress(OSError), socket.create_connection(("127.0.0.1", caddy.port), 5) as plain:
        plain.sendall(f"GET /{canaries('path without TLS')} HTTP/1.1\r\n{host}\r\n".encode())
        plain.recv(65536)
    return {answer.status_code for answer in answers}


# Nodes that come and go


def _load(caddy: Caddy, meanwhile: Callable[[], object]) -> OpenLoop:
    """200 requests a second, while something happens in this thread."""
    load, stopped = OpenLoop(caddy.client, rate=200), threading.Event()
    thread = threading.Thread(target=load.run, args=(stopped,))
    thread.start()
    try:
        meanwhile()
    finally:
        stopped.set()
        thread.join()
    load.sweep()
    return load


def _rolling_restarts(nodes: list[Served], rounds: int) -> None:
    for _ in range(rounds):
        for node in nodes:
            assert node.stop() == 0
            node.start()
            time.sleep(NOTICED_SECONDS)


NOTICED_SECONDS = 2.5
"""Until Caddy surely knows what a node's /readyz says: it asks every second."""


def test_rolling_restart_fails_no_request_and_loses_no_message(tmp_path: Path) -> None:
    with two_nodes(tmp_path, "postgresql", MAYFLY_DRAIN_SECONDS="3") as (caddy, nodes):
        load = _load(caddy, lambda: _rolling_restarts(nodes, 1))
    assert load.failures == []
    assert load.faults() == []
    assert all(load.answered[name] > 300 for name in ("create", "open", "read", "look"))


@pytest.mark.long
def test_ten_rolling_restarts_fail_no_request_and_lose_no_message(tmp_path: Path) -> None:
    with two_nodes(tmp_path, "postgresql", MAYFLY_DRAIN_SECONDS="3") as (caddy, nodes):
        load = _load(caddy, lambda: _rolling_restarts(nodes, 10))
    assert load.failures == []
    assert load.faults() == []


def _deaths(nodes: list[Served], times: int) -> list[tuple[float, float]]:
    """Kill one node after the other; returns for each when the signal was sent, and when the kernel had closed its connections."""
    died = []
    for number in range(times):
        node = nodes[number % len(nodes)]
        time.sleep(NOTICED_SECONDS)
        killed_at = time.monotonic()
        node.kill()
        died.append((killed_at, time.monotonic()))
        time.sleep(NOTICED_SECONDS)
        node.start()
    time.sleep(NOTICED_SECONDS)
    return died


@pytest.mark.parametrize("deaths", [pytest.param(1, id="once"), pytest.param(20, id="twenty times", marks=pytest.mark.long)])
def test_sigkill_of_a_node_fails_only_what_it_was_at(tmp_path: Path, deaths: int) -> None:
    """Nothing is lost, nothing is delivered twice. Caddy before 2.11 also fails creates until it knows: it offers no body twice."""
    died: list[tuple[float, float]] = []
    with two_nodes(tmp_path, "postgresql") as (caddy, nodes):
        load = _load(caddy, lambda: died.extend(_deaths(nodes, deaths)))
    for failure in load.failures:
        noticed = NOTICED_SECONDS if failure.has_body and not caddy.repeats_bodies else 0.0
        assert any(failure.sent_at <= closed_at + noticed and failure.failed_at >= killed_at for killed_at, closed_at in died), (
            failure
        )
    assert load.faults() == []
