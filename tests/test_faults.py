"""A database that is down, silent, slow, resetting or dripping: clear answers in time, nothing mixed up, well again soon after."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.engines.proxy import FAULTS, Fault, FaultyProxy
from tests.racing import Line, connections, request
from tests.serving import CreatedMessage, Served
from tests.stores import new_place, postgresql

NETWORK_STORES = ("postgresql", "mariadb", "valkey")
SECONDS = 2.0
"""Within which a request is answered whatever the database does, and within which a store serves after its return."""
MOST_CONNECTIONS = 64
KEY = {"Idempotency-Key": "the-reader-that-asks-again"}


@dataclass
class Faulty:
    """A node whose open vault is behind the proxy; its guarded one is in memory."""

    served: Served
    proxy: FaultyProxy

    def create(self, vault: str = "") -> httpx.Response:
        return self.served.http.post(f"/{vault}", json={"message": f"kept in {vault or 'open'}"})

    def await_return(self) -> float:
        """How long it takes until the open vault answers; until then it answers 503."""
        started = time.monotonic()
        while (answer := self.create()).status_code != 201:
            assert answer.status_code == 503, answer.text
            assert time.monotonic() - started < 30
            time.sleep(0.02)
        return time.monotonic() - started


@pytest.fixture(scope="module", params=NETWORK_STORES)
def faulty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    folder = tmp_path_factory.mktemp("faulty")
    place = new_place(request.param, folder)
    at = urlsplit(place.url)
    with (
        FaultyProxy((str(at.hostname), int(at.port or 0))) as proxy,
        Served(folder, MAYFLY_DATABASE_URL=proxy.url_of(place.url)) as served,
    ):
        yield Faulty(served, proxy)
    place.close()


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest, faulty: Faulty) -> Iterator[Fault]:
    yield request.param
    faulty.proxy.fault = None
    faulty.await_return()


def timed(url: str, method: str, path: str, **options: object) -> tuple[httpx.Response, float]:
    with httpx.Client(base_url=url, timeout=30) as http:
        started = time.monotonic()
        return http.request(method, path, **options), time.monotonic() - started  # type: ignore[arg-type]


def test_every_request_is_answered_in_time_and_the_other_vault_never_notices(faulty: Faulty, fault: Fault) -> None:
    served, proxy = faulty.served, faulty.proxy
    messages = [served.create(f"message {number}", views=1) for number in range(8)]
    asked = [
        ("POST", "/", {"json": {"message": "new"}}),
        ("POST", "/", {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
    ]
    asked += [("POST", message.path, {"headers": KEY}) for message in messages]
    asked += [(method, messages[0].receipt_path, {}) for method in ("GET", "DELETE")]
    asked += [("GET", message.path, {}) for message in messages]

    proxy.fault = fault
    with ThreadPoolExecutor(len(asked) + 1) as pool:
        under_way = [pool.submit(timed, served.url, method, path, **options) for method, path, options in asked]
        other = [timed(served.url, "POST", "/guarded", json={"message": "elsewhere"}) for _ in range(20)]
        alive = timed(served.url, "GET", "/healthz")
        answers = [future.result() for future in under_way]
    assert {answer.status_code for answer, _ in answers} == {503}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer, _ in answers)
    assert max(seconds for _, seconds in answers) < SECONDS
    assert {answer.status_code for answer, _ in other} == {201}
    assert alive[0].status_code == 200
    assert max(seconds for _, seconds in (*other, alive)) < SECONDS / 2

    ready, seconds = timed(served.url, "GET", "/readyz")
    assert (ready.status_code, ready.text) == (200, "open: down\nguarded: ready\nsealed: ready\n")
    assert seconds < SECONDS

    proxy.fault = None
    assert faulty.await_return() < SECONDS
    assert proxy.connections <= MOST_CONNECTIONS
    burned = served.http.get(messages[0].receipt_path, headers={"Accept": "application/json"}).json()["state"] == "burned"
    for message in messages[1 if burned else 0 :]:
        assert served.http.post(message.path, headers=KEY).status_code == 200
        assert served.http.post(message.path).status_code == 404


def test_slow_database_costs_no_view_and_no_request_more_than_two_seconds(faulty: Faulty) -> None:
    """Each answer of the database comes 0.9 s late: a claim is not begun that could not be awaited."""
    served, proxy = faulty.served, faulty.proxy
    message = served.create("slowly", views=1)
    locked = served.create("slowly, with a passphrase", views=1, passphrase="right")
    proxy.slow_seconds = 0.9
    proxy.fault = "slow"
    try:
        opened, seconds = timed(served.url, "POST", message.path)
        with_passphrase, seconds_too = timed(served.url, "POST", locked.path, json={"passphrase": "right"})
    finally:
        proxy.slow_seconds = 5.0
        proxy.fault = None
    assert (opened.status_code, with_passphrase.status_code) == (503, 503)
    assert max(seconds, seconds_too) < SECONDS
    faulty.await_return()
    assert served.http.post(message.path).text == "slowly"
    served.clock.advance(60)  # the try that could not be given back
    assert served.http.post(locked.path, json={"passphrase": "right"}).status_code == 200


def test_vault_that_hangs_takes_no_time_from_another_on_the_network(tmp_path: Path) -> None:
    """And /readyz, the admin's page and the metrics name the right one."""
    hanging, well = new_place("valkey", tmp_path), new_place("postgresql", tmp_path)
    at, socket = urlsplit(hanging.url), urlsplit(well.url)
    server = postgresql()
    with FaultyProxy((str(at.hostname), int(at.port or 0))) as proxy:
        guarded = f"postgresql://mayfly@:{server.port}{socket.path}?socket={server.folder}"
        token = "t" * 32
        urls = {"MAYFLY_DATABASE_URL": proxy.url_of(hanging.url), "MAYFLY_GUARDED_DATABASE_URL": guarded}
        with Served(tmp_path, **urls, MAYFLY_METRICS_TOKEN=token) as served:
            proxy.fault = "silent"
            for _ in range(4):
                ready, seconds = timed(served.url, "GET", "/readyz")
                assert ready.text == "open: down\nguarded: ready\nsealed: ready\n"
                created, also = timed(served.url, "POST", "/guarded", json={"message": "elsewhere"})
                assert created.status_code == 201
                assert max(seconds, also) < SECONDS
            told = served.http.get("/metrics", headers={"Authorization": f"Bearer {token}"}).text
            assert 'mayfly_store_up{vault="open"} 0.0' in told
            assert 'mayfly_store_up{vault="guarded"} 1.0' in told
            link = f"{served.url}/guarded/{created.json()['id']}"
            bearer = {"Authorization": f"Bearer {served.admin_token}"}
            assert served.http.post("/delete", data={"link": link}, headers=bearer).json() == {"deleted": 1}
            assert served.http.post("/delete", headers=bearer).status_code == 503
    hanging.close()
    well.close()


def test_claim_whose_answer_was_lost_is_repeated_for_its_reader_alone(faulty: Faulty) -> None:
    """The database took the view, and its answer did not arrive: who has the key gets the message, nobody else does."""
    served, proxy = faulty.served, faulty.proxy
    for number in range(10):
        message = served.create(f"message {number}", views=1)
        proxy.fault = "resetting"
        assert served.http.post(message.path, headers=KEY).status_code == 503
        proxy.fault = None
        faulty.await_return()
        assert served.http.post(message.path, headers=KEY).text == f"message {number}"
        assert served.http.post(message.path, headers={"Idempotency-Key": "somebody-else-entirely"}).status_code == 404


@pytest.mark.parametrize("requests", [3000, pytest.param(100_000, marks=pytest.mark.long)])
def test_no_answer_is_meant_for_somebody_else(faulty: Faulty, requests: int) -> None:
    """Answers arrive just after their call was given up, or are cut in the middle: a connection so left is never used again."""
    served, proxy = faulty.served, faulty.proxy
    proxy.slow_seconds = 1.6
    messages = [served.create(f"message {number} " + "x" * random.choice((10, 20_000))) for number in range(200)]
    contents = [served.http.get(message.path).content for message in messages]
    stopped = threading.Event()

    def disturb() -> None:
        chance = random.Random(requests)
        while not stopped.wait(chance.uniform(0.3, 1.5)):
            proxy.fault = chance.choice(("slow", "resetting", "silent"))
            stopped.wait(chance.uniform(0.02, 0.2))
            proxy.fault = None

    def ask(reader: int, line: Line) -> Counter[int]:
        chance, seen = random.Random(reader), Counter[int]()
        for _ in range(requests // 12):
            number = chance.randrange(len(messages))
            answer = line.ask(request("GET", messages[number].path, Accept="text/plain"))
            assert answer.status in (200, 503)
            assert answer.status == 503 or answer.body == contents[number]
            seen[answer.status] += 1
            if answer.status == 503:
                time.sleep(0.05)
        return seen

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        with connections(served, 12) as lines, ThreadPoolExecutor(12) as pool:
            seen = sum(pool.map(ask, range(12), lines), Counter[int]())
    finally:
        stopped.set()
        disturber.join()
        proxy.fault = None
        proxy.slow_seconds = 5.0
    assert seen[503] > 20
    assert seen[200] > requests / 10
    faulty.await_return()
    assert proxy.connections <= MOST_CONNECTIONS


def test_stopped_node_leaves_no_connection_behind(tmp_path: Path) -> None:
    place = new_place("postgresql", tmp_path)
    at = urlsplit(place.url)
    with FaultyProxy((str(at.hostname), int(at.port or 0))) as proxy:
        with Served(tmp_path, MAYFLY_DATABASE_URL=proxy.url_of(place.url)) as served:
            with ThreadPoolExecutor(8) as pool:
                created: list[CreatedMessage] = list(pool.map(served.create, map(str, range(40))))
            assert len(created) == 40
            assert 0 < proxy.connections <= MOST_CONNECTIONS
            served.stop()
        deadline = time.monotonic() + 5
        while proxy.connections and time.monotonic() < deadline:
            time.sleep(0.02)
        assert proxy.connections == 0
    place.close()
