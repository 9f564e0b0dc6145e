"""Webhooks of whole servers: what is killed, hangs, or is two of them, and whom nobody waits for."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from access.delivery import LANES, LEASE
from records import SECOND
from tests.receivers import HTTP_MD, Receiver, register, settled, status
from tests.serving import PASSWORD, Served

ADMIN = "ana@example.com"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, database="file", MAYFLY_WEBHOOK_PRIVATE="on") as running:
        running.add_account(ADMIN, "admin")
        yield running


@pytest.fixture
def admin(served: Served) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {served.make_key(ADMIN, 'certificates:manage')['key']}", "Accept": "application/json"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def test_private_addresses_are_refused_unless_allowed(tmp_path: Path, receiver: Receiver) -> None:
    with Served(tmp_path) as served:
        served.add_account(ADMIN, "admin")
        with httpx.Client(base_url=served.url, auth=(ADMIN, PASSWORD), timeout=30) as admin:
            for url in (receiver.url, "https://localhost/", "https://127.0.0.1/", "http://example.org/"):
                answer = admin.post("/webhooks", json={"url": url, "events": ["message.opened"]})
                assert answer.status_code == 400
                assert "private network" in answer.text


def test_killed_in_the_middle_of_a_delivery_nothing_is_lost(served: Served, admin: httpx.Client, receiver: Receiver) -> None:
    hang = threading.Event()
    receiver.behave = lambda told, connection: [hang.wait(20), None][1]  # type: ignore[func-returns-value]
    hook = register(admin, receiver.url)
    messages = [served.create("hello", views=1) for _ in range(3)]
    for message in messages:
        served.http.post(message.path)
    receiver.wait_for(3)
    served.kill()
    hang.set()
    receiver.behave = status(200)
    before = {told.id for told in receiver.got}
    served.start()
    served.clock.advance(LEASE / SECOND)
    assert {told.id for told in receiver.wait_for(6)[3:]} == before
    settled(admin, hook, 3)


def test_requests_are_answered_while_webhooks_hang(served: Served, admin: httpx.Client, receiver: Receiver) -> None:
    """With far more waiting than there are lanes, nobody waits for a lane, and there are no more threads than these."""
    receiver.behave = lambda told, connection: time.sleep(8)
    register(admin, receiver.url)
    threads = threads_of(served)
    messages = [served.create("hello", views=1) for _ in range(60)]
    began = time.monotonic()
    for message in messages:
        assert served.http.post(message.path).status_code == 200
    receiver.wait_for(LANES, 5)
    assert served.http.get("/healthz").status_code == 200
    assert admin.get("/webhooks").status_code == 200
    assert time.monotonic() - began < 8  # before the first of them was let go
    assert receiver.most_at_once <= LANES
    assert threads_of(served) <= threads + LANES + 2
    stopping = time.monotonic()
    served.stop()
    assert time.monotonic() - stopping < 7  # and nobody who stops the server waits for them


def threads_of(served: Served) -> int:
    return len(list(Path(f"/proc/{served.pid}/task").iterdir()))


def test_two_nodes_tell_each_event_once(served: Served, admin: httpx.Client, receiver: Receiver, tmp_path: Path) -> None:
    other = served.node(tmp_path / "other", MAYFLY_WEBHOOK_PRIVATE="on")
    other.settings |= {
        "MAYFLY_ACCOUNTS_DATABASE_URL": f"sqlite:///{served.folder}/accounts.db",
        "MAYFLY_CERTIFICATES_DATABASE_URL": f"sqlite:///{served.folder}/certificates.db",
    }
    other.start()
    try:
        hook = register(admin, receiver.url)
        messages = [served.create("hello", views=1) for _ in range(20)]
        for number, message in enumerate(messages):
            assert (served, other)[number % 2].http.post(message.path).status_code == 200
        settled(admin, hook, 20)
        assert len(receiver.got) == len({told.id for told in receiver.got}) == 20
    finally:
        other.stop()
        other.http.close()


def test_check_of_the_documentation_needs_nothing_but_python() -> None:
    """It runs by itself, in ten lines."""
    (text,) = re.findall(r"```python\n(import base64.+?)```", HTTP_MD.read_text(), re.DOTALL)
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    subprocess.run(["python3", "-I", "-c", text], check=True, timeout=30)
