"""Clients that drip or stall take nobody's place, nor do passphrases; a body that does not arrive is refused after ten seconds."""

from __future__ import annotations

import select
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.engines.authority import Authority
from tests.racing import Answer, Line, request
from tests.serving import SERVERS, CreatedMessage, Served

DRIPPERS = 64
OPEN_SECONDS = 1.0
BODY_SECONDS = 10
JSON = "application/json"
SLOW_BODY = request("POST", "/", b'{"message": "%s"}' % (b"x" * 500), Content_Type=JSON)
CLIENT_HELLO = bytes.fromhex("160301020001000001fc0303aabbccdd")
"""How one begins."""
SLOW_HEADERS = request("POST", "/", b'{"message": "never"}', Content_Type=JSON, X_Slow="y" * 500)


@dataclass
class Dripper:
    """A connection that sends `head` at once and then a byte a second of `rest`, or nothing more."""

    line: Line
    rest: bytes
    drips: bool = True
    answer: Answer | None = None
    answered_after: float = 0
    closed: bool = False


@dataclass
class Outcome:
    """What became of the slow clients, and how long the others waited for their messages."""

    by_headers: list[Dripper]
    by_body: list[Dripper]
    stalled: list[Dripper]
    handshakes: list[socket.socket] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    log: str = ""

    @property
    def everyone(self) -> list[Dripper]:
        return [*self.by_headers, *self.by_body, *self.stalled]


@pytest.fixture(scope="module", params=[*SERVERS, "https"])
def outcome(request: pytest.FixtureRequest, express: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Twelve seconds of 64 clients that drip headers, 64 that drip bodies and 8 that stall, while others create and open."""
    folder = tmp_path_factory.mktemp("slow")
    https = Authority(folder / "authority") if request.param == "https" else None
    with Served(folder, "granian" if https else request.param, https=https) as served:
        header_end = SLOW_BODY.index(b"\r\n\r\n") + 4
        found = Outcome(
            [start(served, SLOW_HEADERS, 20) for _ in range(DRIPPERS)],
            [start(served, SLOW_BODY, header_end) for _ in range(DRIPPERS)],
            [start(served, SLOW_BODY, header_end + stop, drips=False) for stop in (0, 1, 2, 3, 100, 200, 300, 500)],
        )
        if https:
            found.handshakes += [socket.create_connection(("127.0.0.1", served.port), timeout=5) for _ in range(8)]
            for number, handshake in enumerate(found.handshakes):
                handshake.sendall(CLIENT_HELLO[: 1 + 2 * number])
        drip_while_others_open(served, found)
        found.log = served.log()
        yield found
        for connection in [*(dripper.line for dripper in found.everyone), *found.handshakes]:
            connection.close()


def start(served: Served, data: bytes, at_once: int, drips: bool = True) -> Dripper:
    line = Line(served)
    line.send(data[:at_once])
    return Dripper(line, data[at_once:], drips)


def drip_while_others_open(served: Served, found: Outcome) -> None:
    """Each second a byte from each dripper; in between, messages are created and opened on new connections and old."""
    started = time.monotonic()
    selector = selectors.DefaultSelector()
    for dripper in found.everyone:
        selector.register(dripper.line.socket, selectors.EVENT_READ, dripper)
    kept = Line(served)
    for second in range(1, BODY_SECONDS + 3):
        for dripper in found.everyone:
            drip(dripper)
        while time.monotonic() < started + second:
            for line in (kept, Line(served)):
                found.waits.append(open_one(line))
                if line is not kept:
                    line.close()
            for key, _ in selector.select(timeout=0.05):
                take_answer(key.data, time.monotonic() - started)
                selector.unregister(key.fileobj)
    kept.close()
    selector.close()


def drip(dripper: Dripper) -> None:
    if dripper.drips and dripper.rest and not dripper.answer and not dripper.closed:
        try:
            dripper.line.send(dripper.rest[:1])
        except OSError:
            dripper.closed = True
        dripper.rest = dripper.rest[1:]


def take_answer(dripper: Dripper, after: float) -> None:
    dripper.answered_after = after
    try:
        dripper.answer = dripper.line.answer()
    except OSError:
        dripper.closed = True


def open_one(line: Line) -> float:
    """Create a message and open it; return how long the opening took."""
    created = line.ask(request("POST", "/", b'{"message": "quick", "views": 1}', Content_Type=JSON))
    assert created.status == 201
    began = time.monotonic()
    answer = line.ask(request("POST", f"/message/{created.json()['id']}", Accept="text/plain"))
    assert (answer.status, answer.body) == (200, b"quick")
    return time.monotonic() - began


def test_opens_by_others_stay_under_a_second(outcome: Outcome) -> None:
    """The one test that measures."""
    assert len(outcome.waits) > 50
    assert max(outcome.waits) < OPEN_SECONDS


def test_body_that_drips_is_refused_after_ten_seconds(outcome: Outcome) -> None:
    assert [dripper.answer.status if dripper.answer else None for dripper in outcome.by_body] == [408] * DRIPPERS
    assert min(dripper.answered_after for dripper in outcome.by_body) > BODY_SECONDS - 1


def test_body_that_stalls_is_refused_after_ten_seconds(outcome: Outcome) -> None:
    assert [dripper.answer.status if dripper.answer else None for dripper in outcome.stalled] == [408] * len(outcome.stalled)
    assert min(dripper.answered_after for dripper in outcome.stalled) > BODY_SECONDS - 1


def test_refusal_says_what_to_do(outcome: Outcome) -> None:
    answer = outcome.by_body[0].answer
    assert answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Send it again" in answer.json()["detail"]


def test_headers_that_drip_end_the_connection_after_ten_seconds(outcome: Outcome) -> None:
    assert {dripper.answer.status for dripper in outcome.by_headers if dripper.answer} <= {400, 408}
    assert all(dripper.closed or dripper.answer for dripper in outcome.by_headers)
    assert "Traceback" not in outcome.log


def test_tls_handshake_that_stalls_ends_the_connection(outcome: Outcome) -> None:
    """Of https only. An alert may come first."""
    for handshake in outcome.handshakes:
        with suppress(ConnectionResetError):
            assert len(handshake.recv(100)) in (0, 7)


# Passphrases, which take 0.2 s each


FORM = "application/x-www-form-urlencoded"
PASSPHRASES = {
    "plain": (JSON, b'{"passphrase":"pw"}'),
    "spaced": (JSON, b'{ "passphrase" \n : "pw"}'),
    "escaped": (JSON, b'{"p\\u0061ssphrase":"pw"}'),
    "escaped form": (FORM, b"open=yes&p%61ssphrase=pw"),
    "multipart": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="open"\r\n\r\nyes\r\n'
        b"--b\r\nContent-Disposition: form-data; name=passphrase\r\n\r\npw\r\n--b--\r\n",
    ),
}


def with_passphrase(message: CreatedMessage, spelled: str) -> bytes:
    content_type, body = PASSPHRASES[spelled]
    return request("POST", message.path, body, Content_Type=content_type, Accept=JSON)


def waits_of_others(served: Served, until: threading.Event) -> list[float]:
    """How long each GET of a message took, one after another."""
    line, waits = Line(served, timeout=10), []
    look = request("GET", served.create("for all").path, Accept="text/plain")
    while not until.is_set():
        began = time.monotonic()
        assert line.ask(look).body == b"for all"
        waits.append(time.monotonic() - began)
        time.sleep(0.01)
    line.close()
    return waits


@pytest.mark.parametrize("spelled", PASSPHRASES)
def test_passphrase_however_it_is_spelled_keeps_nobody_waiting(served: Served, spelled: str) -> None:
    """Eight readers at once, twice each."""
    messages = [served.create("canary", passphrase="pw", views=2) for _ in range(8)]
    statuses: list[int] = []
    done = threading.Event()

    def read(message: CreatedMessage) -> None:
        line = Line(served)
        for _ in range(2):
            statuses.append(line.ask(with_passphrase(message, spelled)).status)
        line.close()

    def read_all() -> None:
        readers = [threading.Thread(target=read, args=[message]) for message in messages]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        done.set()

    threading.Thread(target=read_all).start()
    waits = waits_of_others(served, done)
    assert statuses == [200] * 16
    assert len(waits) > 5
    assert max(waits, default=0) < OPEN_SECONDS


def test_crowd_of_passphrases_is_told_at_once_to_come_again_and_loses_nothing(served: Served) -> None:
    """While the first are served, everything else goes on."""
    messages = [served.create("canary", passphrase="pw", views=1) for _ in range(40)]
    lines = [Line(served) for _ in messages]
    began = time.monotonic()
    for line, message in zip(lines, messages, strict=True):
        line.send(with_passphrase(message, "plain"))
    for act in (
        lambda: served.http.get("/admin", headers={"Accept": "text/html"}).status_code == 200,
        lambda: served.create("quick"),
        lambda: served.create("*quick*", format="markdown"),
    ):
        before = time.monotonic()
        assert act()
        assert time.monotonic() - before < OPEN_SECONDS
    early = select.select([line.socket for line in lines], [], [], 0)[0]
    assert len(early) >= 15, f"of 40 readers these had their answers after {time.monotonic() - began:.1f} s"
    answers = [line.answer() for line in lines]
    for line in lines:
        line.close()
    refused = [message for message, answer in zip(messages, answers, strict=True) if answer.status == 503]
    assert 15 <= len(refused) <= 24
    assert [answer.status for answer in answers].count(200) == 40 - len(refused)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status == 503)
    for message in refused:
        assert served.http.get(message.receipt_path, headers={"Accept": JSON}).json()["opened"] == []
    assert served.http.post(refused[0].path, json={"passphrase": "wrong"}).json()["tries_left"] == 4
    assert served.http.post(refused[0].path, json={"passphrase": "pw"}).json()["message"] == "canary"


@pytest.mark.parametrize(
    "body",
    [
        b'{"message":"' + b"\\u0061" * 1_000_000 + b'"}',
        b'{"message":"' + b"\\u0061" * 1_000_000,
        b'{"message":"' + b',\\"' * 1_000_000 + b'"}',
        b'{"message":' + b" " * 5_000_000 + b'"x"}',
        b'{"passphrase" ' + b" " * 5_000_000 + b'"x"}',
        b"{" + b'"format" ' * 500_000,
    ],
    ids=["escapes", "escapes without end", "quotes", "spaces", "spaces after a key", "keys"],
)
def test_body_however_it_is_made_keeps_nobody_waiting(own_served: Served, body: bytes) -> None:
    done = threading.Event()
    answers = []

    def create() -> None:
        line = Line(own_served, timeout=15)
        try:
            answers.append(line.ask(request("POST", "/", body, Content_Type=JSON)).status)
        finally:
            line.close()
            done.set()

    creating = threading.Thread(target=create)
    creating.start()
    waits = waits_of_others(own_served, done)
    creating.join()
    assert answers in ([201], [400], [413])
    assert max(waits, default=0) < OPEN_SECONDS
