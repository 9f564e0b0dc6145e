"""`kill -9` in the middle of everything, of a server on a file, of nodes and of their database: nothing acknowledged is lost,
nothing is delivered twice.

Writers and readers record what they were answered; `faults` judges the whole history afterwards.
"""

from __future__ import annotations

import random
import secrets
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import pytest

from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL
from tests.engines.process import EngineProcess
from tests.engines.valkey import ValkeyServer
from tests.racing import connections, request
from tests.serving import Served

WRITERS, READERS = 4, 6
RESTART_SECONDS = 2.0
BUSY = 5
"""How many times longer a single restart may take, on a machine that is busy with other things."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a client was answered: content for `created` and `delivered`; `reader` is an Idempotency-Key."""

    kind: str  # created, delivered, refused
    message: str
    content: str = ""
    reader: str = ""


def faults(history: Iterable[Event]) -> list[str]:
    """What must never happen, found in a history of one-time messages that were all asked for in the end."""
    created: dict[str, str] = {}
    readers: dict[str, set[str]] = defaultdict(set)
    found = []
    for event in history:
        if event.kind == "created":
            created[event.message] = event.content
        elif event.kind == "delivered":
            readers[event.message].add(event.reader)
            if created[event.message] != event.content:
                found.append(f"{event.message} was delivered with another content")
        elif event.reader in readers[event.message]:
            found.append(f"{event.message} was refused to the reader who holds its lease")
    found += [f"{message} was delivered to {len(who)} readers" for message, who in readers.items() if len(who) > 1]
    found += [f"{message} was acknowledged and is lost" for message in created if not readers[message]]
    return found


CREATED = Event("created", "m", "hello")
READ = Event("delivered", "m", "hello", "one")


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ([CREATED], "m was acknowledged and is lost"),
        ([CREATED, Event("refused", "m", reader="one")], "m was acknowledged and is lost"),
        ([CREATED, READ, Event("delivered", "m", "hello", "two")], "m was delivered to 2 readers"),
        ([CREATED, Event("delivered", "m", "hell", "one")], "m was delivered with another content"),
        ([CREATED, READ, Event("refused", "m", reader="one")], "m was refused to the reader who holds its lease"),
    ],
)
def test_checker_finds_the_fault_of_a_forged_history(history: list[Event], fault: str) -> None:
    assert faults(history) == [fault]


def test_checker_has_nothing_against_a_good_history() -> None:
    assert faults([CREATED, Event("refused", "m", reader="two"), READ, READ]) == []


class Clients:
    """Writers and readers that go on, through every death of a node or its database, until told to stop."""

    def __init__(self, nodes: Sequence[Served]) -> None:
        self.history: list[Event] = []
        self._nodes = nodes
        self._links: list[tuple[str, str]] = []
        self._stopped = threading.Event()
        self._broken: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(work,)) for work in [self._write] * WRITERS + [self._read] * READERS
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the clients; each finishes what it is at. Raises what broke one of them."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for error in self._broken:
            raise error

    def sweep(self) -> None:
        """Ask once for every message that was acknowledged."""
        with httpx.Client(timeout=10) as http:
            for message, path in self._links:
                self._open(http, message, path, "the-last-reader-of-all")

    def _run(self, work: object) -> None:
        try:
            with httpx.Client(timeout=10) as http:
                while not self._stopped.is_set():
                    work(http)  # type: ignore[operator]
        except BaseException as error:
            self._broken.append(error)

    def _write(self, http: httpx.Client) -> None:
        content = secrets.token_hex(random.choice((20, 500, 5000)))
        try:
            answer = http.post(f"{random.choice(self._nodes).url}/", json={"message": content, "views": 1})
        except httpx.TransportError:
            answer = None
        if answer is None or answer.status_code == 503:
            time.sleep(0.01)  # not acknowledged: nobody knows the link, so nothing is promised
            return
        assert answer.status_code == 201, answer.text
        created = answer.json()
        self.history.append(Event("created", created["id"], content))
        self._links.append((created["id"], f"/message/{created['id']}"))

    def _read(self, http: httpx.Client) -> None:
        """Several readers go for the same new messages; a winner asks twice, as after a reload."""
        if not self._links:
            return
        message, path = random.choice(self._links[-20:])
        reader = secrets.token_urlsafe(16)
        if self._open(http, message, path, reader):
            self._open(http, message, path, reader)

    def _open(self, http: httpx.Client, message: str, path: str, reader: str) -> bool:
        """Ask with the same key until there is an answer, as a client does whose connection broke."""
        while True:
            try:
                answer = http.post(f"{random.choice(self._nodes).url}{path}", headers={"Idempotency-Key": reader})
                if answer.status_code != 503:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.01)
        assert answer.status_code in (200, 404), answer.text
        if answer.status_code == 200:
            self.history.append(Event("delivered", message, answer.text, reader))
        else:
            self.history.append(Event("refused", message, reader=reader))
        return answer.status_code == 200


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.long)])
def test_kill_loses_nothing_acknowledged_and_delivers_nothing_twice(tmp_path: Path, kills: int) -> None:
    """The one test that measures: after a restart it serves within two seconds."""
    chance = random.Random(kills)
    restarts = []
    with Served(tmp_path, database="file") as served:
        clients = Clients([served])
        clients.start()
        try:
            for _ in range(kills):
                time.sleep(chance.uniform(0.1, 0.5))
                served.kill()
                started = time.monotonic()
                served.start()
                restarts.append(time.monotonic() - started)
        finally:
            clients.stop()
        clients.sweep()
        assert "Traceback" not in served.log()
    assert faults(clients.history) == []
    assert sum(event.kind == "delivered" for event in clients.history) > 10 * kills
    assert median(restarts) < RESTART_SECONDS
    assert max(restarts) < BUSY * RESTART_SECONDS


@contextmanager
def durable(store: str, folder: Path) -> Iterator[tuple[EngineProcess | ValkeyServer, str]]:
    """A database server that writes to the disk before it answers, and the URL of an empty database on it."""
    if store == "valkey":
        with ValkeyServer(appendonly="yes", appendfsync="always") as valkey:
            yield valkey, valkey.url
    else:
        with (PostgreSQL if store == "postgresql" else MariaDB)(durable=True) as server:
            yield server, server.new_database("mayfly_kills")


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("store", ["postgresql", "mariadb", "valkey"])
def test_kill_of_nodes_and_database_loses_nothing_and_delivers_nothing_twice(tmp_path: Path, store: str, kills: int) -> None:
    """Readers hold leases, and ask another node when one is gone."""
    chance = random.Random(kills)
    with (
        durable(store, tmp_path) as (database, url),
        Served(tmp_path, MAYFLY_DATABASE_URL=url, MAYFLY_LEASE_SECONDS="300") as first,
        first.node(tmp_path / "second", MAYFLY_LEASE_SECONDS="300") as second,
    ):
        clients = Clients([first, second])
        clients.start()
        try:
            for _ in range(kills):
                time.sleep(chance.uniform(0.2, 0.6))
                victim = chance.choice((database, first, second))
                victim.kill()
                time.sleep(chance.uniform(0, 0.3))
                victim.start()
        finally:
            clients.stop()
        clients.sweep()
        assert "Traceback" not in first.log() + second.log()
    assert faults(clients.history) == []
    assert sum(event.kind == "delivered" for event in clients.history) > 10 * kills


def test_passphrase_tries_under_way_at_a_kill_are_given_back(tmp_path: Path) -> None:
    """A kill while all five tries are being checked must not lock the message for whoever knows the passphrase."""
    with Served(tmp_path, database="file") as served:
        message = served.create("behind a passphrase", views=1, passphrase="right")
        guess = request("POST", message.path, b'{"passphrase":"wrong"}', Content_Type="application/json")
        with connections(served, 5) as lines:
            for line in lines:
                line.send(guess)
            await_tries_in_use(served)
            served.kill()
        served.start()
        served.clock.advance(60)
        answer = served.http.post(message.path, json={"passphrase": "right"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["message"] == "behind a passphrase"


def await_tries_in_use(served: Served) -> None:
    """Until all five tries of the one message are reserved."""
    with closing(sqlite3.connect(f"file:{served.database_file}?mode=ro", uri=True)) as db:
        while db.execute("SELECT tries_free FROM messages").fetchone()[0] > 0:
            time.sleep(0.001)
