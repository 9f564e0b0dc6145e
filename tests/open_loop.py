"""Load at a fixed rate, whatever the answers take: writers, readers, openers, and an account of what they were told.

load = OpenLoop(caddy.client, rate=200)
load.run(stopped)                               until this event is set
load.sweep()
assert load.faults() == [] and load.failures == []

A reader opens with an Idempotency-Key and, if no answer came, asks again with the same one, as an honest client does.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

_THREADS = 48
_TRIES = 50


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without the answer it should have had. Times are of time.monotonic()."""

    request: str
    has_body: bool
    why: str
    sent_at: float
    failed_at: float


@dataclass(slots=True)
class _Message:
    path: str
    content: str
    opened: int = 0


class OpenLoop:
    """`rate` requests a second through `client()`, which makes a client for each thread."""

    def __init__(self, client: Callable[[], httpx.Client], rate: int) -> None:
        self.failures: list[Failure] = []
        self.answered: Counter[str] = Counter()
        self._client = client
        self._rate = rate
        self._local = threading.local()
        self._lock = threading.Lock()
        self._clients: list[httpx.Client] = []
        self._created: list[_Message] = []
        self._waiting: list[_Message] = []
        self._wrong: list[str] = []
        self._readable = ""

    def run(self, stopped: threading.Event) -> None:
        """Send until told to stop, and wait for the last answers. A request leaves at its time unless all threads are waiting."""
        self._readable = self._create(views=None).path
        started = time.monotonic()
        with ThreadPoolExecutor(_THREADS) as pool:
            jobs = []
            for number in itertools.count():
                if stopped.is_set():
                    break
                due = started + number / self._rate
                time.sleep(max(0.0, due - time.monotonic()))
                jobs.append(pool.submit((self.create, self.open_one, self.read, self.look)[number % 4]))
            for job in jobs:
                job.result()

    def sweep(self) -> None:
        """Ask for every message that was acknowledged: whoever comes second gets the 404, whoever comes first the message."""
        for message in self._created:
            answer = self._ask("sweep", "POST", message.path)
            if answer is not None and answer.status_code == 200:
                self._deliver(message, answer.text)
        for client in self._clients:
            client.close()

    def faults(self) -> list[str]:
        """What must never happen. To be asked after the sweep."""
        lost = [f"lost: {message.path}" for message in self._created if not message.opened]
        doubled = [f"delivered {message.opened} times: {message.path}" for message in self._created if message.opened > 1]
        return lost + doubled + self._wrong

    def create(self) -> None:
        message = self._create(views=1)
        if message.path:
            with self._lock:
                self._created.append(message)
                self._waiting.append(message)

    def open_one(self) -> None:
        with self._lock:
            message = self._waiting.pop(0) if self._waiting else None
        if message is None:
            return self.read()
        headers = {"Idempotency-Key": secrets.token_urlsafe(16)}
        for _ in range(_TRIES):
            answer = self._ask("open", "POST", message.path, headers=headers)
            if answer is not None:
                if answer.status_code == 200:
                    self._deliver(message, answer.text)
                else:
                    self._wrong.append(f"{message.path} was refused with {answer.status_code}")
                return None
            time.sleep(0.1)
        return None

    def read(self) -> None:
        answer = self._ask("read", "GET", self._readable)
        if answer is not None and (answer.status_code, answer.text) != (200, "for all"):
            self._wrong.append(f"a message for all was answered with {answer.status_code}")

    def look(self) -> None:
        answer = self._ask("look", "GET", "/", headers={"Accept": "text/html"})
        if answer is not None and answer.status_code != 200:
            self._wrong.append(f"the page was answered with {answer.status_code}")

    def _create(self, views: int | None) -> _Message:
        content = "for all" if views is None else secrets.token_hex(20)
        answer = self._ask("create", "POST", "/", json={"message": content, "views": views})
        if answer is None:
            return _Message("", content)
        if answer.status_code != 201:
            self._wrong.append(f"a create was answered with {answer.status_code}")
            return _Message("", content)
        return _Message(f"/message/{answer.json()['id']}", content)

    def _deliver(self, message: _Message, text: str) -> None:
        with self._lock:
            message.opened += 1
        if text != message.content:
            self._wrong.append(f"{message.path} was delivered with another content")

    def _ask(self, name: str, method: str, path: str, **how: object) -> httpx.Response | None:
        """The answer; None if there was none, or only a proxy's, which is a failure."""
        sent_at = time.monotonic()
        try:
            answer = self._own_client().request(method, path, **how)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            why = repr(error)
        else:
            if answer.status_code < 500:
                self.answered[name] += 1
                return answer
            why = f"{answer.status_code} {answer.text}"
        self.failures.append(Failure(name, "json" in how, why, sent_at, time.monotonic()))
        return None

    def _own_client(self) -> httpx.Client:
        if not hasattr(self._local, "client"):
            self._local.client = self._client()
            self._clients.append(self._local.client)
        return self._local.client  # type: ignore[no-any-return]
