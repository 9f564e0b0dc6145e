"""/metrics tells what happened, in numbers alone, to whoever has its token; and costs the stores little."""

from __future__ import annotations

import itertools
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

import keyfile
from errors import StoreFailed
from keyfile import KeyFile
from messages import Vault
from metrics import REASONS, Metrics
from records import CIRCUITS, VAULT_NAMES, Counts
from scheduler import PurgeScheduler
from settings import Settings
from storage.sqlite import SqliteStore
from tests import raw
from tests.racing import connections, request
from tests.serving import PROJECT, Served, Server
from tests.stores import SetClock, put
from web.rsgi import lane_of
from web.scrape import Scrape

TOKEN = "prometheus-shows-this-to-read-the-figures"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HTML = {"Accept": "text/html"}
OPERATIONS_PAGE = (PROJECT / "docs" / "operations.md").read_text()


class Figures:
    """What one scrape told: `figures("mayfly_store_up", vault="open")`, 0 for what is not there."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        found = [sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()]
        return sum(found)

    def told(self, name: str, **labels: str) -> bool:
        return any(sample.name == name and labels.items() <= sample.labels.items() for sample in self.samples)


def scrape(served: Served) -> Figures:
    answer = httpx.get(f"{served.url}/metrics", headers=BEARER, timeout=30)
    assert answer.status_code == 200, answer.text
    return Figures(answer.text)


def stores_until(served: Served, **expected: float) -> Figures:
    """Scrape until the gauges of the open vault's store are these: they are asked for now and then only."""
    deadline = time.monotonic() + 20
    while True:
        figures = scrape(served)
        found = {name: figures(f"mayfly_store_{name}", vault="open") for name in expected}
        if found == expected:
            return figures
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.fixture
def served(tmp_path: Path, server: Server) -> Iterator[Served]:
    with Served(tmp_path, server, MAYFLY_METRICS_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture
def own_served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, MAYFLY_METRICS_TOKEN=TOKEN) as running:
        yield running


# What is counted


def test_life_of_messages_is_counted_by_vault(served: Served) -> None:
    first, again = served.create("opened", views=1), {"Idempotency-Key": "the-same-reader-twice"}
    assert [served.http.post(first.path, headers=again).status_code for _ in range(3)] == [200] * 3
    second = served.create("opened twice", views=2)
    assert [served.http.post(second.path).status_code for _ in range(3)] == [200, 200, 404]
    free = served.create("read")
    assert [served.http.get(free.path).status_code for _ in range(4)] == [200] * 4
    served.http.post(free.path)
    burned = served.create("burned", views=1)
    for _ in range(2):
        served.http.delete(burned.receipt_path)
    taken, admin = served.create("taken down"), {"Authorization": f"Bearer {served.admin_token}"}
    for _ in range(2):
        served.http.post("/delete", data={"link": taken.link}, headers=admin)
    locked = served.create("locked", passphrase="right", views=1)
    for _ in range(6):
        served.http.post(locked.path, json={"passphrase": "wrong"})
    served.create("expires", expires_in=60)
    assert served.http.post("/sealed", json={"message": "sealed"}).status_code == 201
    served.clock.advance(60)
    assert served.purge() == 2  # the leased one waited for the end of its lease

    figures = scrape(served)
    for vault, created in (("open", 7), ("guarded", 0), ("sealed", 1)):
        assert figures("mayfly_messages_created_total", vault=vault) == created
    opened = {kind: figures("mayfly_messages_opened_total", vault="open", kind=kind) for kind in ("opening", "repeat", "reading")}
    assert opened == {"opening": 4, "repeat": 2, "reading": 4}
    by = {who: figures("mayfly_messages_burned_total", vault="open", by=who) for who in ("sender", "admin", "passphrases")}
    assert by == {"sender": 1, "admin": 1, "passphrases": 1}
    assert figures("mayfly_messages_burned_total") == 3
    assert figures("mayfly_messages_purged_total", vault="open") == figures("mayfly_messages_purged_total") == 2


def test_refusals_are_counted_by_their_reason_however_they_are_told(served: Served) -> None:
    """Those told by a page of ours, and those of the gate, of Flask and of the admin's page, like all others."""
    message = served.create("hi", passphrase="right", views=1)
    served.http.post(message.path, json={"passphrase": "wrong"})
    served.http.post(message.path, data={"open": "yes", "passphrase": "wrong"}, headers=HTML)
    served.http.post(message.path, data={"open": "yes"}, headers=HTML)
    served.http.post(message.path, data={"passphrase": "right"}, headers=HTML)
    served.http.get(message.path)
    served.http.get(message.path, headers=HTML)  # the page to open it: no refusal
    served.http.put("/")
    served.http.get("/nothing")
    served.http.get("/", headers={"Host": "elsewhere.example"})
    served.http.post("/", content=b"\xff", headers={"Content-Type": "text/plain"})
    served.http.post("/admin", data={"token": "wrong"}, headers=HTML)
    served.http.post("/guarded/00000000-0000-4000-8000-000000000000")
    figures = scrape(served)
    counted = {sample.labels.get("reason"): sample.value for sample in figures.samples if "requests_refused" in sample.name}
    assert counted.keys() == set(REASONS), "those that did not happen are there too"
    counted = {reason: count for reason, count in counted.items() if count}
    assert counted == {
        "WrongPassphrase": 2,
        "PassphraseRequired": 1,
        "TickRequired": 1,
        "OpeningRequired": 1,
        "MethodRefused": 1,
        "NotFound": 1,
        "UnknownHost": 1,
        "BodyRefused": 1,
        "NotSignedIn": 1,
        "AccountRequired": 1,
    }


def test_requests_are_timed_by_route_method_and_status(served: Served) -> None:
    message = served.create("hi")
    for _ in range(3):
        served.http.get(message.path)
    served.http.head(message.path)
    served.http.get(message.receipt_path)
    served.http.get("/guarded/receipt/x")
    served.http.request("PUT", "/sealed")
    served.http.get("/message")
    figures = scrape(served)
    for route, method, status, count in (
        ("/", "POST", "2xx", 1),
        ("/message/…", "GET", "2xx", 3),
        ("/message/…", "HEAD", "2xx", 1),
        ("/receipt/…", "GET", "2xx", 1),
        ("/guarded/receipt/…", "GET", "4xx", 1),
        ("/sealed", "other", "4xx", 1),
        ("/message/…", "GET", "4xx", 1),
    ):
        labels = {"route": route, "method": method, "status": status}
        assert figures("mayfly_request_duration_seconds_count", **labels) == count, labels
        assert figures("mayfly_request_duration_seconds_bucket", le="+Inf", **labels) == count
        assert 0 < figures("mayfly_request_duration_seconds_sum", **labels) < 60


def test_store_is_told_as_it_is(own_served: Served) -> None:
    for number in range(5):
        own_served.create("x" * 1000, expires_in=60 if number < 2 else 3600)
    figures = stores_until(own_served, messages=5, messages_due=0, overdue_seconds=0)
    assert figures("mayfly_store_up") == 3
    assert figures("mayfly_store_quota_bytes", vault="open") == Settings().store_bytes
    assert 5000 < figures("mayfly_store_used_bytes", vault="open") < 1_000_000
    assert [figures("mayfly_store_circuit", vault="open", state=state) for state in CIRCUITS] == [1, 0, 0]
    own_served.clock.advance(160)
    figures = stores_until(own_served, messages=3, messages_due=2)
    assert 99 <= figures("mayfly_store_overdue_seconds", vault="open") < 130
    own_served.purge()
    stores_until(own_served, messages=3, messages_due=0, overdue_seconds=0)


def test_purge_that_fails_is_counted() -> None:
    store, metrics = SqliteStore(None, 1 << 24, SetClock()), Metrics()
    store.close()
    purge = PurgeScheduler([store], 0.05, [metrics.vaults["open"]])
    purge.start()
    try:
        deadline = time.monotonic() + 20
        while not Figures(metrics.text({}).decode())("mayfly_purges_failed_total", vault="open"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        purge.stop()


def test_every_figure_is_documented_and_no_other(own_served: Served) -> None:
    """The table of operations.md names them; what the library tells of the process it leaves to the library."""
    part = OPERATIONS_PAGE.split("\n## Metrics\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1:3] for line in part.splitlines() if line.startswith("| `mayfly_")]
    documented = {name: set(re.findall(r"`([a-z]+)`", labels)) for names, labels in rows for name in re.findall(r"`(\w+)`", names)}
    text = httpx.get(f"{own_served.url}/metrics", headers=BEARER).text
    text = httpx.get(f"{own_served.url}/metrics", headers=BEARER).text  # with the first among the requests
    exposed: dict[str, set[str]] = {}
    for sample in Figures(text).samples:
        name = re.sub("(duration_seconds)_(bucket|sum|count)$", r"\1", sample.name)
        if name.startswith("mayfly_"):
            exposed.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert documented == exposed


# Who may read it


def test_without_a_token_there_is_no_such_address(tmp_path: Path, server: Server) -> None:
    with Served(tmp_path, server) as served:
        for accept in ("text/html", "application/json", "text/plain"):
            for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
                for headers in ({}, BEARER, {"Host": "elsewhere.example"}):
                    answers = [
                        served.http.request(method, path, headers={"Accept": accept, **headers})
                        for path in ("/metrics", "/nothing")
                    ]
                    told = [(answer.status_code, answer.content, _without_date(answer)) for answer in answers]
                    assert told[0] == told[1]
                    assert answers[0].status_code == (400 if "Host" in headers else 404)


def _without_date(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.headers.multi_items() if name.lower() != "date"]


def test_right_token_reads_the_figures_in_prometheus_format(served: Served) -> None:
    """By whatever name Prometheus calls the server."""
    for headers in (BEARER, {"Authorization": f"bearer  {TOKEN}"}, {**BEARER, "Host": "10.0.0.11:8000"}):
        answer = served.http.get("/metrics", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        assert TOKEN not in answer.text
        assert Figures(answer.text).samples
    assert served.http.head("/metrics", headers=BEARER).content == b""


def test_wrong_token_tells_nothing(served: Served) -> None:
    for authorization in ("", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x"):
        answer = served.http.get("/metrics", headers={"Authorization": authorization})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "mayfly_" not in answer.text
    (answer_,) = raw.send(served, raw.request("GET", "/metrics", [("Authorization", b"Bearer \xff" + TOKEN.encode())]))
    assert answer_.status == 401
    assert served.http.get("/metrics", headers={"Authorization": f"Bearer {served.admin_token}"}).status_code == 401
    assert served.http.post("/delete", headers=BEARER).status_code == 401


def test_wrong_tokens_are_counted_with_those_of_the_admin(own_served: Served) -> None:
    statuses = [
        own_served.http.get("/metrics", headers={"Authorization": f"Bearer wrong{number}"}).status_code for number in range(14)
    ]
    assert 10 <= statuses.count(401) <= 12  # the sliding window may move on between two of them
    assert statuses[-2:] == [429] * 2
    assert own_served.http.get("/metrics", headers=BEARER).status_code == 429, "the right one must not tell"
    assert own_served.http.post("/admin", data={"token": own_served.admin_token}).status_code == 429


def test_right_token_is_not_limited(own_served: Served) -> None:
    assert {own_served.http.get("/metrics", headers=BEARER).status_code for _ in range(25)} == {200}


def test_token_stands_in_no_description_of_the_settings() -> None:
    assert TOKEN not in repr(Settings.from_environ({"MAYFLY_METRICS_TOKEN": TOKEN}))


# What a scrape costs


def test_scrape_waits_in_a_lane_of_its_own() -> None:
    """On granian's loop everybody would wait for it."""
    assert lane_of({"PATH_INFO": "/metrics", "REQUEST_METHOD": "GET"}, b"") == "long"


class Reluctant(SqliteStore):
    """A store whose counts can be made to wait or to fail; it counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__(None, 1 << 24, SetClock())
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()
        self.fails = False

    def counts(self) -> Counts:
        self.asked += 1
        self.answers.wait(60)
        if self.fails:
            raise StoreFailed
        return super().counts()


def scraping(folder: Path, **stores: SqliteStore) -> Scrape:
    if not (folder / "key.json").exists():
        keyfile.create(folder / "key.json")
    keys = KeyFile(folder / "key.json")
    vaults = [Vault(stores[name], keys, 30, 1024, name) for name in VAULT_NAMES if name in stores]
    return Scrape(vaults, Metrics())


def ask(asked: Scrape) -> Figures:
    environ = {"wsgi.multiprocess": False}
    return Figures(asked.metrics(environ).body.decode())


def test_scrapes_in_a_row_ask_a_store_once(tmp_path: Path) -> None:
    store = Reluctant()
    asked = scraping(tmp_path, open=store)
    for _ in range(20):
        assert ask(asked)("mayfly_store_up", vault="open") == 1
    assert store.asked == 1


def test_store_that_does_not_answer_takes_nothing_from_the_scrape_but_its_own_figures(tmp_path: Path) -> None:
    """It is told as it was while it takes its time, and as down once it failed."""
    slow, well = Reluctant(), Reluctant()
    put(slow)
    put(well)
    slow.answers.clear()
    asked = scraping(tmp_path, open=well, guarded=slow)
    try:
        for _ in range(2):
            began = time.monotonic()
            figures = ask(asked)
            assert time.monotonic() - began < 10, "a scrape does not wait for the store"
            assert [figures("mayfly_store_up", vault=vault) for vault in ("open", "guarded")] == [1, 0]
            assert figures("mayfly_store_messages", vault="open") == 1
            assert not figures.told("mayfly_store_messages", vault="guarded")
        slow.fails = True
        slow.answers.set()
        figures = ask(asked)
        assert [figures("mayfly_store_up", vault=vault) for vault in ("open", "guarded")] == [1, 0]
        assert not figures.told("mayfly_store_used_bytes", vault="guarded")
        assert slow.asked == 1, "nobody asks behind the one that waits"
    finally:
        slow.answers.set()


def test_store_that_fails_after_it_answered_is_told_as_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the figures of before."""
    monkeypatch.setattr("web.scrape.GOOD_SECONDS", 0)
    store = Reluctant()
    asked = scraping(tmp_path, open=store)
    assert ask(asked)("mayfly_store_up", vault="open") == 1
    store.fails = True
    deadline = time.monotonic() + 30
    while (figures := ask(asked))("mayfly_store_up", vault="open"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not figures.told("mayfly_store_messages", vault="open")


def test_counting_many_messages_keeps_nobody_waiting_for_all_of_it() -> None:
    """Others get the store in between: they are served many times while one count is under way."""
    clock = SetClock()
    store = SqliteStore(None, 1 << 28, clock)
    with store._transaction() as db:
        db.executemany(
            "INSERT INTO messages (id, receipt, created_at, expires_at, purge_at) VALUES (?, x'00', 0, ?, ?)",
            ((number.to_bytes(32, "big"), clock() + 1, clock() + number % 2) for number in range(60_000)),
        )
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    counted: list[Counts] = []
    counting = threading.Thread(target=lambda: counted.append(store.counts()))
    counting.start()
    while counting.is_alive():
        store.health()
        time.sleep(0.0001)
    store._db.set_trace_callback(None)
    slices = [number for number, statement in enumerate(asked) if "total" in statement]
    interrupted = sum(later - earlier > 1 for earlier, later in itertools.pairwise(slices))
    assert interrupted > 5
    assert (counted[0].stored, counted[0].expired) == (30_000, 30_000)


def test_vault_whose_database_is_down_is_told_as_such_and_the_others_as_they_are(tmp_path: Path) -> None:
    """Nothing listens there at first; then somebody does who never says a word."""
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"valkey://127.0.0.1:{silent.getsockname()[1]}"
        with Served(tmp_path, MAYFLY_DATABASE_URL=url, MAYFLY_METRICS_TOKEN=TOKEN) as served:

            def scrape_and_see() -> Figures:
                began = time.monotonic()
                figures = scrape(served)
                assert time.monotonic() - began < 10
                assert [figures("mayfly_store_up", vault=vault) for vault in VAULT_NAMES] == [0, 1, 1]
                assert not figures.told("mayfly_store_messages", vault="open")
                assert figures.told("mayfly_store_messages", vault="sealed")
                return figures

            for _ in range(4):
                assert served.http.post("/", json={"message": "x"}).status_code == 503
                figures = scrape_and_see()
            assert figures("mayfly_store_circuit", vault="open", state="closed") == 0
            assert figures("mayfly_store_circuit", vault="open") == 1
            assert figures("mayfly_store_circuit", vault="sealed", state="closed") == 1
            assert figures("mayfly_requests_refused_total", reason="StoreFailed") == 4
            assert figures("mayfly_requests_refused_total") == 4
            silent.listen(64)
            deadline = time.monotonic() + 20
            while not select.select([silent], [], [], 0)[0]:
                served.http.get("/readyz")
                scrape_and_see()
                assert time.monotonic() < deadline
            for _ in range(3):
                scrape_and_see()


# Several processes


def test_workers_are_counted_together_even_those_that_have_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of them is asked. The folder through which they count is theirs alone, and goes with them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Served(tmp_path, "gunicorn", "file", workers=2, MAYFLY_METRICS_TOKEN=TOKEN) as served:
        (folder,) = tmp_path.glob("mayfly-metrics-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        created = 0
        for workers in (2, 3):
            while len(shares := created_by_worker(folder)) < workers or not all(shares.values()):
                created += create_by_many_connections(served)
                assert created < 10_000, "one of them is given nothing to do"
            for _ in range(20):
                figures = scrape(served)
                assert figures("mayfly_messages_created_total", vault="open") == created
                assert figures("mayfly_request_duration_seconds_count", route="/", method="POST", status="2xx") == created
            assert sum(shares.values()) == created
            if workers == 2:
                victim = next(iter(shares))
                os.kill(victim, signal.SIGKILL)
                while Path(f"/proc/{victim}").exists():
                    time.sleep(0.01)
        assert not figures.told("process_resident_memory_bytes"), "whose would it be?"
        assert served.stop() == 0
        assert not folder.exists()


def created_by_worker(folder: Path) -> dict[int, float]:
    """How many messages each process has made, by its process id."""
    found = {}
    for file in (file for file in folder.glob("counter_*.db") if file.stat().st_size):
        families = MultiProcessCollector.merge([str(file)])
        found[int(file.stem.partition("_")[2])] = sum(
            sample.value for family in families for sample in family.samples if sample.name == "mayfly_messages_created_total"
        )
    return found


def create_by_many_connections(served: Served) -> int:
    """Returns how many messages were made."""
    create = request("POST", "/", b'{"message": "hi"}', Content_Type="application/json")
    with connections(served, 20) as lines:
        for line in lines:
            line.send(create)
        return [line.answer().status for line in lines].count(201)


def test_processes_that_count_each_for_themselves_tell_so(tmp_path: Path) -> None:
    """Without our gunicorn.conf.py a scrape would tell of one of them, and of another at the next."""
    (tmp_path / "empty.py").touch()
    served = Served(tmp_path, "gunicorn", "file", workers=2, MAYFLY_METRICS_TOKEN=TOKEN)
    served.command = lambda: [  # type: ignore[method-assign]
        *(sys.executable, "-m", "gunicorn", "-c", str(tmp_path / "empty.py")),
        *("-b", f"127.0.0.1:{served.port}", "-w", "2", "tests.clocked:app()"),
    ]
    with served:
        answer = served.http.get("/metrics", headers=BEARER)
        assert answer.status_code == 503
        assert "gunicorn.conf.py" in answer.text
