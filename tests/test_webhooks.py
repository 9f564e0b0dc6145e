"""Webhooks: real receivers on loopback that fail, hang, drip, lie and are away, and what reaches them all the same.

Time is the store's, and is set. A turn of the deliverer is taken by hand, and waited for, but where two nodes go on by themselves.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook

import keyfile
from access import delivery, egress, message_notices
from access.delivery import GIVEN_UP_AFTER, LANES, LEASE, PAUSES, Deliverer
from access.egress import NotAnswered, is_global, post, target_of
from access.message_notices import MessageNotices
from access.webhooks import MAX_HOOKS, Webhooks
from audit import Audit
from database import open_access
from errors import FieldRefused, NothingThere, StoreFailed, WrongState
from keyfile import KeyFile
from records import NOTICE_TYPES, SECOND, Actor, Delivery, Hook, Millis, NoticeType, RowId
from settings import Settings
from tests.certificate_stores import CertificatesFile, new_notice
from tests.ports import free_port
from tests.receivers import Receiver, Told, documented_check, sends, status, without_end
from tests.stores import NOW, SetClock

EVERY = list(NOTICE_TYPES)
CREATED: NoticeType = "certificate.created"
ADMIN = Actor(way="command")
is_from_mayfly = documented_check()


class World:
    """One store with its clock, and what a node has on it."""

    def __init__(self, folder: Path, private: bool = True) -> None:
        keyfile.create(folder / "key.json")
        self.clock = SetClock()
        self.place = CertificatesFile(folder)
        self.store = self.place.open(self.clock)
        self.keys = KeyFile(folder / "key.json")
        access = open_access(Settings(accounts_database_url=f"sqlite:///{folder}/accounts.db"), folder / "key.json", self.clock)
        assert access
        self._access = access
        self.audit = Audit(access, self.keys)
        self.webhooks = Webhooks(self.store, self.keys, self.audit, private)
        self.notices = MessageNotices(self.store, self.audit, self.clock)
        self.deliverer = self.node()
        self._number = 0

    def node(self, resolve: Any = socket.getaddrinfo, seconds: float = 1.0) -> Deliverer:
        """Another node, with a connection of its own to the store."""
        webhooks = Webhooks(self.place.open(self.clock), self.keys, self.audit, self.webhooks.private)
        return Deliverer(webhooks, MessageNotices(webhooks.store, self.audit, self.clock), seconds, resolve)

    def hook(self, url: str, events: list[str] = EVERY) -> tuple[Hook, str]:
        return self.webhooks.add(ADMIN, {"url": url, "events": events})

    def happens(self, subject: str = "certificate-1", type_: NoticeType = CREATED) -> str:
        """Something happens to a certificate; the id of its notice."""
        self._number += 1
        payload = json.dumps({"type": type_, "timestamp": "2027-01-15T08:00:00Z", "data": {"id": subject, "n": self._number}})
        notice = new_notice(id=f"notice-{self._number}", subject=subject, type=type_, payload=payload)
        self.store.queue([notice])
        return notice.id

    def turn(self, deliverer: Deliverer | None = None) -> int:
        """Begin what is due, and wait until it has ended; how many that was."""
        begun = (deliverer or self.deliverer).begin_due()
        for thread in threading.enumerate():
            if thread.name.startswith("mayfly-webhook-"):
                thread.join(30)
        return begun

    def turns(self) -> None:
        """Until nothing is due."""
        while self.turn():
            pass

    def later(self, millis: int) -> None:
        self.clock.advance(millis)
        self.turns()

    def delivery(self, notice_id: str) -> Delivery:
        return next(one for one in self.store.deliveries() if one.notice.id == notice_id)

    def states(self) -> list[tuple[str, str, str]]:
        """Notice, state and answer of all deliveries, in their order."""
        return [(one.notice.id, one.state, one.answer) for one in reversed(self.store.deliveries())]

    def close(self) -> None:
        self.place.close()
        self._access.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


# What arrives


def test_event_arrives_once_as_it_was_queued(world: World, receiver: Receiver) -> None:
    world.hook(receiver.url)
    notice = world.happens()
    world.turns()
    (told,) = receiver.got
    assert told.line == "POST /told?by=mayfly HTTP/1.1"
    assert told.headers["content-type"] == "application/json"
    assert told.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert told.id == notice
    assert told.body.decode() == world.delivery(notice).notice.payload
    assert world.states() == [(notice, "delivered", "204")]
    world.later(LEASE + 1)
    assert len(receiver.got) == 1


def test_receiver_can_tell_what_is_forged(world: World, receiver: Receiver) -> None:
    """By the check of the documentation, and by the package that other receivers use."""
    _, secret = world.hook(receiver.url)
    world.happens()
    world.turns()
    (told,) = receiver.got
    now = NOW / SECOND
    assert is_from_mayfly(secret, told.headers, told.body, now)
    assert not is_from_mayfly(secret, told.headers, told.body.replace(b"1", b"2"), now)
    assert not is_from_mayfly(secret, {**told.headers, "webhook-id": "notice-2"}, told.body, now)
    later = {**told.headers, "webhook-timestamp": str(int(now) + 301)}
    assert not is_from_mayfly(secret, later, told.body, now + 301)
    assert not is_from_mayfly(secret, told.headers, told.body, now + 301)
    assert not is_from_mayfly(world.hook(receiver.url)[1], told.headers, told.body, now)
    at = datetime.fromtimestamp(now, UTC)
    assert Webhook(secret).sign(told.id, at, told.body.decode()) == told.headers["webhook-signature"]


def test_try_that_is_repeated_is_signed_anew_under_the_same_id(world: World, receiver: Receiver) -> None:
    _, secret = world.hook(receiver.url)
    receiver.behave = status(500)
    world.happens()
    world.turns()
    world.later(2 * PAUSES[0] * SECOND)
    first, second = receiver.got
    assert first.id == second.id
    assert first.body == second.body
    assert is_from_mayfly(secret, second.headers, second.body, world.clock() / SECOND)
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]


def test_only_what_is_asked_for_is_told(world: World, receiver: Receiver) -> None:
    hook, _ = world.hook(receiver.url, ["certificate.revoked"])
    world.happens(type_="certificate.created")
    world.happens(type_="certificate.revoked")
    world.turns()
    assert receiver.told() == ["certificate.revoked"]
    world.webhooks.change(ADMIN, hook.id, {"enabled": False})
    world.happens(type_="certificate.revoked")
    world.turns()
    assert len(receiver.got) == 1


# A receiver that fails


@pytest.mark.parametrize("code", [500, 503, 404, 410, 400, 199, 300, 304])
def test_what_is_not_taken_is_tried_again_until_it_is(world: World, receiver: Receiver, code: int) -> None:
    receiver.behave = status(code)
    world.hook(receiver.url)
    notice = world.happens()
    for count, pause in enumerate(PAUSES[:3], 1):
        world.turns()
        assert len(receiver.got) == count
        assert world.delivery(notice).state == "waiting"
        assert world.delivery(notice).answer == str(code)
        world.later(pause * SECOND - 1)
        assert len(receiver.got) == count
        world.clock.advance(pause * SECOND // 5 + 1)  # the longest that chance makes of it
    receiver.behave = status(200)
    world.turns()
    assert world.states() == [(notice, "delivered", "200")]


def test_later_event_of_a_certificate_waits_for_the_earlier_one_and_no_other_does(world: World, receiver: Receiver) -> None:
    def not_of_one(told: Told, connection: socket.socket) -> None:
        status(500 if told.event["data"]["id"] == "one" and away else 204)(told, connection)

    away, receiver.behave = True, not_of_one
    world.hook(receiver.url)
    first, second = world.happens("one"), world.happens("one", "certificate.revoked")
    others = [world.happens("two"), world.happens("three"), world.happens("two", "certificate.revoked")]
    world.turns()
    came = [told.id for told in receiver.got]
    assert set(came) == {first, *others}
    assert came.index(others[0]) < came.index(others[2])
    away = False
    world.later(6 * SECOND)
    assert [told.id for told in receiver.got][len(came) :] == [first, second]


def test_receiver_that_is_away_for_an_hour_gets_everything_in_order(world: World) -> None:
    port = free_port()
    _, secret = world.hook(f"http://127.0.0.1:{port}/")
    expected: dict[str, list[str]] = {}
    for minute in range(60):
        subject = f"certificate-{minute % 7}"
        expected.setdefault(subject, []).append(world.happens(subject))
        world.later(60 * SECOND)
    assert {state for _, state, _ in world.states()} == {"waiting"}
    assert {answer for _, _, answer in world.states()} == {"no connection", ""}
    with Receiver(port=port) as receiver:
        world.later(3 * 3600 * SECOND)  # the next try of those that failed longest
        came: dict[str, list[str]] = {}
        for told in receiver.got:
            assert is_from_mayfly(secret, told.headers, told.body, world.clock() / SECOND)
            came.setdefault(told.event["data"]["id"], []).append(told.id)
        assert came == expected
    assert {state for _, state, _ in world.states()} == {"delivered"}


def test_what_nobody_takes_is_given_up_after_three_days_and_an_admin_has_it_made_anew(world: World, receiver: Receiver) -> None:
    receiver.behave = status(500)
    hook, _ = world.hook(receiver.url)
    first, second = world.happens(), world.happens()
    for _ in range(120):
        world.later(3600 * SECOND)
    assert world.states() == [(first, "failed", "500"), (second, "failed", "500")]
    assert {told.id for told in receiver.got} == {first, second}
    assert 8 <= len(receiver.got) <= len(PAUSES) + 2
    receiver.behave = status(200)
    world.webhooks.replay(ADMIN, hook.id, world.delivery(first).number, LEASE)
    world.turns()
    assert receiver.got[-1].id == first
    assert world.delivery(first).state == "delivered"
    assert world.delivery(second).state == "failed"
    assert [one.notice.id for one in world.webhooks.deliveries(hook.id, "failed")] == [second]


def test_tries_go_on_for_three_days_with_pauses_that_grow() -> None:
    """All together they last as long as tries are made, within the last of them."""
    assert list(PAUSES) == sorted(PAUSES)
    assert sum(PAUSES[:-1]) * SECOND < GIVEN_UP_AFTER <= sum(PAUSES) * SECOND


def test_replay_of_what_waits_is_made_now_but_not_beside_a_try(world: World, receiver: Receiver) -> None:
    receiver.behave = status(500)
    hook, _ = world.hook(receiver.url)
    number = world.delivery(world.happens()).number
    world.turns()
    world.later(2 * PAUSES[0] * SECOND)
    assert len(receiver.got) == 2  # and the next in five minutes
    receiver.behave = status(200)
    world.webhooks.replay(ADMIN, hook.id, number, LEASE)
    world.turns()
    assert len(receiver.got) == 3
    world.happens("two")
    (due,) = world.store.due_deliveries(1, hook.id)
    assert world.store.take_delivery(due, LEASE)
    world.webhooks.replay(ADMIN, hook.id, due.number, LEASE)
    assert world.turn() == 0


# A receiver that takes its time, or lies


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> float:
    """A try takes this many seconds at most."""
    monkeypatch.setattr(delivery, "TRY_SECONDS", 0.5)
    return 0.5


@pytest.mark.parametrize(
    ("behave", "answer"),
    [
        (sends(b"", pause=5), "no answer in time"),
        (sends(*(b"HTTP/1.1 200 O" + b"K" * 100)[:60].hex().encode().split(b"3"), pause=0.1), "no answer in time"),
        (sends(*[b"H", b"T", b"T", b"P", b"/", b"1", b".", b"1", b" ", b"2", b"0", b"0", b"\r"], pause=0.1), "no answer in time"),
        (sends(b"HTTP/1.1 200 OK\r\n", *[b"x: y\r\n"] * 20, pause=0.1), "no answer in time"),
        (sends(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 20, pause=0.1), "no answer in time"),
        (sends(b"SSH-2.0-OpenSSH_9.2\r\n"), "no HTTP"),
        (sends(b"\x00\xff" * 1000), "no HTTP"),
        (sends(b"HTTP/1.1 twohundred OK\r\n\r\n"), "no HTTP"),
        (sends(b"HTTP/1.1 200000 OK\r\n\r\n"), "no HTTP"),
        (sends(b""), "no connection"),
        (without_end(b"", b"2" * 65536), "no HTTP"),
        (without_end(b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 60_000 + b"\r\n"), "no HTTP"),
        (without_end(b"HTTP/1.1 200 " + b"O" * 70_000, b"K" * 65536), "no HTTP"),
    ],
    ids=(
        "hangs drips-bytes drips-status drips-headers drips-continue ssh bytes words long-number nothing endless-line headers long"
    ).split(),
)
def test_answer_that_is_none_is_a_try_that_failed_in_time(
    world: World, receiver: Receiver, hasty: float, behave: Any, answer: str
) -> None:
    receiver.behave = behave
    world.hook(receiver.url)
    notice = world.happens()
    began = time.monotonic()
    assert world.turn() == 1
    assert time.monotonic() - began < 10 * hasty
    assert world.states() == [(notice, "waiting", answer)]
    receiver.behave = status(200)
    world.later(6 * SECOND)
    assert world.delivery(notice).state == "delivered"


@pytest.mark.parametrize(
    "length", [b"", b"Content-Length: 1073741824\r\n", b"Content-Length: -5\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_body_of_an_answer_is_not_read(world: World, receiver: Receiver, length: bytes) -> None:
    """Of a gigabyte no more than fits between the two is ever sent."""
    receiver.behave = without_end(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n", b"x" * 65536)
    world.hook(receiver.url)
    notice = world.happens()
    world.turns()
    assert world.states() == [(notice, "delivered", "200")]


def test_webhook_that_hangs_holds_no_other_up(world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With far more waiting for it than it has lanes, and with no more threads than these."""
    monkeypatch.setattr(delivery, "TRY_SECONDS", 30)
    release = threading.Event()
    with Receiver(behave=lambda told, connection: [release.wait(30), None][1]) as hanging:  # type: ignore[func-returns-value]
        slow, _ = world.hook(hanging.url)
        world.hook(receiver.url)
        for number in range(300):
            world.happens(f"certificate-{number}")
        while world.deliverer.begin_due() or len(receiver.got) < 300:
            assert len([one for one in threading.enumerate() if one.name.startswith("mayfly-webhook-")]) <= 2 * LANES
            time.sleep(0.01)
        assert len(hanging.got) == hanging.at_once == LANES
        assert {one.state for one in world.store.deliveries(slow.id, most=500)} == {"waiting"}
        release.set()
        world.turn()


def test_redirect_is_not_followed(world: World, receiver: Receiver) -> None:
    for code in (301, 302, 303, 307, 308):
        with Receiver() as private:
            receiver.behave = status(code, f"Location: {private.url}")
            hook, _ = world.hook(receiver.url)
            world.happens()
            world.turn()
            assert world.store.deliveries(hook.id)[0].answer == str(code)
            assert private.got == []
            world.webhooks.delete(ADMIN, hook.id)


# Where a webhook may be

REFUSED = """
http://example.org/ https://localhost/ https://LOCALHOST:8443/x https://a.localhost/ https://localhost./ https://127.0.0.1/
https://127.1/ https://0.0.0.0/ https://0/ https://2130706433/ https://0177.0.0.1/ https://0x7f.0.0.1/ https://0x7f000001/
https://127.0.0.1./ https://10.0.0.1/ https://010.0.0.1/ https://8.8.8.010/ https://172.16.0.1/ https://192.168.1.1/
https://100.64.0.1/ https://169.254.169.254/latest/meta-data/ https://168.63.129.16/ https://224.0.0.1/ https://240.0.0.1/
https://255.255.255.255/ https://192.0.2.1/ https://198.18.0.1/ https://[::1]/ https://[::]/ https://[fe80::1]/
https://[fe80::1%25eth0]/ https://[fe80::1%eth0]/ https://[2606:4700::1%25eth0]/ https://[fc00::1]/ https://[fd00:ec2::254]/
https://[fec0::1]/ https://[ff02::1]/ https://[::ffff:127.0.0.1]/ https://[::ffff:8.8.8.8]/ https://[::127.0.0.1]/
https://[64:ff9b::7f00:1]/ https://[64:ff9b::10.0.0.1]/ https://[64:ff9b:1::808:808]/ https://[2002:7f00:1::1]/
https://[2002:808:808::1]/ https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/ https://[2001:db8::1]/ https://[3fff::1]/
ftp://example.org/ file:///etc/passwd gopher://example.org/ //example.org/ example.org javascript:alert(1) https:// https:///
https://user:secret@example.org/ https://user@example.org/ https://example.org:0/ https://example.org:65536/
https://example.org:x/ https://example.org\\@127.0.0.1/ https://example.org/#x https://ex%61mple.org/ https://exämple.org/
https://[::1/ https://[x]/ https://a..b/ https://-a.org/ https://example.org:443:443/ https://1.2.3/ https://a.0x7f/
""".split()


def test_place_that_is_not_for_all_is_refused_when_it_is_registered(world: World) -> None:
    webhooks = Webhooks(world.store, world.keys, world.audit)
    long = "https://" + "a" * 1000
    for url in (
        *REFUSED,
        "",
        " https://example.org/",
        "https://example.org/\n",
        "https://example.org/a b",
        long,
        None,
        1,
        ["https://a.org"],
    ):
        with pytest.raises(FieldRefused) as refusal:
            pytest.fail(f"{url} was taken: {webhooks.add(ADMIN, {'url': url, 'events': EVERY})}")
        assert refusal.value.field == "url"
    assert world.store.hooks() == []


@pytest.mark.parametrize(
    "url",
    "https://example.org https://example.org:8443/a?b=c https://xn--exmple-cua.org/ https://8.8.8.8/ https://[2606:4700::1111]/ "
    "https://[64:ff9b::808:808]/ https://EXAMPLE.org/ https://1.example.org/ https://a_b.example.org/".split(),
)
def test_place_of_the_whole_internet_is_taken(url: str) -> None:
    assert target_of(url).https


@pytest.mark.parametrize(
    "host", "localhost 127.0.0.1 127.1 2130706433 0177.0.0.1 0x7f000001 0 0.0.0.0 [::1] [::ffff:127.0.0.1] [::]".split()
)
def test_private_address_is_refused_at_the_connection(receiver: Receiver, host: str) -> None:
    """However it is spelt, by what this machine makes of it; whatever was looked at before is not asked."""
    target = egress.Target(False, host, receiver.port, "/")
    with pytest.raises(NotAnswered, match=r"address refused|no such name"):
        post(target, {}, b"{}", time.monotonic() + 5)
    assert receiver.got == []


@pytest.mark.parametrize(
    "address",
    (
        "127.0.0.1 10.1.2.3 169.254.169.254 0.0.0.0 100.64.0.1 ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 fe80::1%1 "
        "fd00::1 2002:7f00:1::1"
    ).split(),
)
def test_name_that_leads_to_a_private_address_is_not_connected_to(world: World, tmp_path: Path, address: str) -> None:
    """It was taken when it was registered: nobody had asked for it."""
    webhooks = Webhooks(world.store, world.keys, world.audit)
    webhooks.add(ADMIN, {"url": "https://rebinding.example.org/", "events": EVERY})
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bare, _, scope = address.partition("%")
    found = (bare, 443, 0, int(scope or 0)) if ":" in address else (address, 443)

    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(family, socket.SOCK_STREAM, 6, "", found)]

    notice = world.happens()
    world.turn(Deliverer(webhooks, world.notices, resolve=resolve))
    assert world.states() == [(notice, "waiting", "address refused")]


def test_address_of_an_interface_is_refused_though_it_is_global() -> None:
    assert is_global(ip_address("2606:4700::1111"))
    assert not is_global(ip_address("2606:4700::1111%1"))
    assert not egress._is_global(("2606:4700::1111", 443, 0, 1))


def test_name_that_answers_otherwise_at_the_second_look_is_not_asked_twice(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding. On this machine 127.0.0.2 stands for an address of the whole Internet, and 127.0.0.1 for a private one."""
    monkeypatch.setattr(egress, "is_global", lambda address: str(address) == "127.0.0.2")
    looks: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        looks.append(host)
        address = "127.0.0.2" if len(looks) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    target = egress.Target(False, "rebinding.example.org", receiver.port, "/")
    with Receiver("127.0.0.2", receiver.port) as public:
        assert post(target, {}, b"{}", time.monotonic() + 5, resolve=resolve) == 204
        assert looks == ["rebinding.example.org"]
        with pytest.raises(NotAnswered, match="address refused"):
            post(target, {}, b"{}", time.monotonic() + 5, resolve=resolve)
        assert len(public.got) == 1
        assert public.got[0].headers["host"] == f"rebinding.example.org:{receiver.port}"
    assert receiver.got == []


def test_of_several_addresses_only_those_that_are_global_are_tried(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "is_global", lambda address: str(address) != "127.0.0.1")

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in ("127.0.0.1", "127.0.0.3", "127.0.0.2")]

    with Receiver("127.0.0.2", receiver.port) as public:
        assert (
            post(egress.Target(False, "a.example.org", receiver.port, "/"), {}, b"{}", time.monotonic() + 5, resolve=resolve) == 204
        )
        assert len(public.got) == 1
    assert receiver.got == []


def test_resolving_that_takes_too_long_leads_to_no_connection(receiver: Receiver) -> None:
    """The lease may be over by then: another node may be at it."""

    def slow(host: str, port: int, **_: Any) -> list[Any]:
        time.sleep(0.2)
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    with pytest.raises(NotAnswered, match="no answer in time"):
        post(target_of(receiver.url, True), {}, b"{}", time.monotonic() + 0.1, private=True, resolve=slow)
    assert receiver.got == []


def test_webhook_that_is_private_is_not_told_when_that_is_allowed_no_more(world: World, receiver: Receiver) -> None:
    world.hook(receiver.url)
    notice = world.happens()
    webhooks = Webhooks(world.store, world.keys, world.audit, private=False)
    world.turn(Deliverer(webhooks, world.notices))
    assert world.states() == [(notice, "waiting", "address refused")]
    assert receiver.got == []


# TLS


def certificate_of(folder: Path, name: str) -> ssl.SSLContext:
    """A context for a server that is called so; its certificate, which is its own authority, is in `folder`."""
    key = generate_private_key(SECP256R1())
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a receiver")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    (folder / "tls.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    return context


@pytest.mark.parametrize(
    ("name", "trusted", "answer"),
    [("localhost", True, 204), ("localhost", False, "TLS failed"), ("other.example.org", True, "TLS failed")],
)
def test_https_is_spoken_with_who_has_the_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, answer: int | str
) -> None:
    context = certificate_of(tmp_path, name)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.pem"))
    with Receiver(wrap=lambda connection: context.wrap_socket(connection, server_side=True)) as receiver:
        target = target_of(f"https://localhost:{receiver.port}/", private=True)
        try:
            came: int | str = post(target, {}, b"{}", time.monotonic() + 5, private=True)
        except NotAnswered as error:
            came = error.failure
        assert came == answer
        assert len(receiver.got) == (answer == 204)


def test_who_speaks_no_tls_or_never_ends_to_begin_it_fails_in_time(receiver: Receiver) -> None:
    target = target_of(f"https://127.0.0.1:{receiver.port}/", private=True)
    began = time.monotonic()
    with pytest.raises(NotAnswered, match="no answer in time"):
        post(target, {}, b"{}", time.monotonic() + 0.3, private=True)
    assert time.monotonic() - began < 3
    assert receiver.got == []


# Several nodes


def test_two_nodes_on_one_store_tell_everything_once_and_in_order(world: World, receiver: Receiver) -> None:
    receiver.behave = sends(b"", b"HTTP/1.1 200 OK\r\n\r\n", pause=0.02)
    world.hook(receiver.url)
    nodes = [world.node(seconds=0.02) for _ in range(2)]
    for node in nodes:
        node.start()
    expected: dict[str, list[str]] = {}
    for number in range(60):
        subject = f"certificate-{number % 5}"
        expected.setdefault(subject, []).append(world.happens(subject))
    receiver.wait_for(60)
    for node in nodes:
        node.stop()
    came: dict[str, list[str]] = {}
    for told in receiver.got:
        came.setdefault(told.event["data"]["id"], []).append(told.id)
    assert came == expected


def test_what_a_node_died_over_is_made_by_another_when_its_time_is_over(world: World, receiver: Receiver) -> None:
    world.hook(receiver.url)
    notice = world.happens()
    (due,) = world.store.due_deliveries(1)
    assert world.store.take_delivery(due, LEASE)  # and then nothing more is heard of it
    later = world.happens()
    world.later(LEASE - 1)
    assert receiver.got == []
    world.later(1)
    assert [told.id for told in receiver.got] == [notice, later]


def test_node_that_comes_back_too_late_says_nothing_of_the_try_of_another(world: World, receiver: Receiver) -> None:
    hook, _ = world.hook(receiver.url)
    notice = world.happens()
    (due,) = world.store.due_deliveries(1)
    late = world.store.take_delivery(due, LEASE)
    assert late
    world.later(LEASE)
    world.deliverer._settle(hook, late, "no answer in time")
    assert world.states() == [(notice, "delivered", "204")]


def test_database_that_is_away_keeps_no_webhook_from_its_time(world: World, receiver: Receiver) -> None:
    world.hook(receiver.url)
    notice = world.happens()
    node = world.node(seconds=0.02)
    store, asked = node._store, threading.Event()

    class Away:
        def hooks(self) -> list[Hook]:
            asked.set()
            raise StoreFailed

    node._store = Away()  # type: ignore[assignment]
    node.start()
    assert asked.wait(5)
    node._store = store
    receiver.wait_for(1)
    node.stop()
    assert [told.id for told in receiver.got] == [notice]


# Registering


def test_secret_is_told_once_and_sealed(world: World, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.behave = status(500)
    _, secret = world.hook(receiver.url)
    world.happens()
    world.turns()
    assert secret.startswith("whsec_")
    assert secret not in repr(world.webhooks.all()) + repr(world.store.deliveries()) + caplog.text
    assert "told?by=mayfly" not in caplog.text
    raw = b"".join(path.read_bytes() for path in world.place.path.parent.glob("certificates.db*"))
    assert secret.removeprefix("whsec_").encode() not in raw
    assert "500" in caplog.text


def test_secrets_hold_after_the_key_file_was_rotated(world: World, receiver: Receiver) -> None:
    _, secret = world.hook(receiver.url)
    keyfile.rotate(world.keys.path, datetime.now(UTC))
    world.happens()
    world.turns()
    assert is_from_mayfly(secret, receiver.got[0].headers, receiver.got[0].body, NOW / SECOND)


def test_webhook_whose_secret_is_gone_is_told_nothing(world: World, receiver: Receiver) -> None:
    hook, _ = world.hook(receiver.url)
    world.store.remove_secret(f"webhook {hook.id}")
    notice = world.happens()
    world.turns()
    assert world.states() == [(notice, "waiting", "no secret")]
    assert receiver.got == []


def test_what_an_admin_does_is_in_the_audit_first(world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, str, int]] = []
    monkeypatch.setattr(Audit, "write", lambda _, event: written.append((event.action, event.outcome, len(world.store.hooks()))))
    hook, _ = world.hook(receiver.url)
    world.happens()
    world.turns()
    world.webhooks.change(ADMIN, hook.id, {"events": [CREATED]})
    world.webhooks.replay(ADMIN, hook.id, 1, LEASE)
    world.webhooks.delete(ADMIN, hook.id)
    assert written == [("webhook", "made", 0), ("webhook", "changed", 1), ("webhook", "done", 1), ("webhook", "deleted", 1)]


def test_there_are_no_more_webhooks_than_have_lanes(world: World, receiver: Receiver) -> None:
    for _ in range(MAX_HOOKS):
        world.hook(receiver.url)
    with pytest.raises(WrongState):
        world.hook(receiver.url)


@pytest.mark.parametrize(
    "act",
    [
        lambda webhooks: webhooks.get("none"),
        lambda webhooks: webhooks.change(ADMIN, "none", {"enabled": False}),
        lambda webhooks: webhooks.delete(ADMIN, "none"),
        lambda webhooks: webhooks.deliveries("none"),
        lambda webhooks: webhooks.replay(ADMIN, "none", 1, LEASE),
        lambda webhooks: webhooks.replay(ADMIN, webhooks.all()[1].id, 1, LEASE),
        lambda webhooks: webhooks.replay(ADMIN, webhooks.all()[0].id, 99, LEASE),
    ],
)
def test_what_is_not_there_is_told_so(world: World, receiver: Receiver, act: Callable[[Webhooks], object]) -> None:
    """The first delivery is the first webhook's alone."""
    world.hook(receiver.url)
    world.happens()
    world.clock.advance(1000)
    world.hook(receiver.url)
    with pytest.raises(NothingThere):
        act(world.webhooks)


def test_change_that_changes_nothing_is_refused(world: World, receiver: Receiver) -> None:
    world.hook(receiver.url)
    with pytest.raises(FieldRefused, match="Say what to change"):
        world.webhooks.change(ADMIN, world.webhooks.all()[0].id, {})


# What happens to messages


def test_messages_are_told_of_by_their_short_hash_alone(world: World, receiver: Receiver) -> None:
    world.hook(receiver.url, ["message.opened"])
    world.deliverer._messages = world.notices
    world.turn()
    row_id = RowId(b"r" * 32)
    world.notices.tell("message.opened", "guarded", row_id)
    world.notices.tell("message.burned", "guarded", row_id)
    world.clock.advance(5000)
    world.turns()
    (told,) = receiver.got
    data = {"message": world.audit.name_of(row_id), "vault": "guarded"}
    assert told.event == {"type": "message.opened", "timestamp": "2027-01-15T08:00:00Z", "data": data}
    assert row_id.hex().encode() not in told.body


@pytest.mark.parametrize("end", [None, "message.opened", "message.burned"])
def test_message_is_told_to_have_expired_at_its_time_unless_it_was_over_before(
    world: World, receiver: Receiver, end: NoticeType | None
) -> None:
    """Queued when it is made, so that the purge need not say which it removed; what happens meanwhile does not wait for it."""
    world.hook(receiver.url, ["message.expired", "message.opened"])
    world.deliverer._messages = world.notices
    world.turn()
    row_id = RowId(b"r" * 32)
    expires_at = Millis(world.clock.at + 60_000)
    world.notices.tell("message.expired", "guarded", row_id, expires_at)
    world.notices.tell("message.opened", "guarded", row_id)
    world.clock.advance(30_000)
    world.turns()
    assert [told.event["type"] for told in receiver.got] == ["message.opened"]
    if end:
        world.notices.tell(end, "guarded", row_id, over=True)
    world.clock.advance(29_000)
    world.turns()
    assert "message.expired" not in [told.event["type"] for told in receiver.got]
    world.clock.advance(2000)
    world.turns()
    told_so = [told.event for told in receiver.got if told.event["type"] == "message.expired"]
    if end:
        assert told_so == []
    else:
        data = {"message": world.audit.name_of(row_id), "vault": "guarded"}
        assert told_so == [{"type": "message.expired", "timestamp": "2027-01-15T08:01:00Z", "data": data}]


def test_messages_that_no_webhook_asks_for_are_not_even_noted_down(world: World, receiver: Receiver) -> None:
    world.deliverer._messages = world.notices
    world.notices.tell("message.opened", "open", RowId(b"r" * 32))
    world.hook(receiver.url, [CREATED])
    world.turn()
    world.notices.tell("message.opened", "open", RowId(b"r" * 32))
    assert not world.notices._happened
    assert world.store.deliveries() == []


def test_database_is_told_of_no_more_at_once_than_a_call_has_time_for(world: World) -> None:
    """A call that never ends in its time would be made again for ever, and nothing be delivered any more."""
    told: dict[str, list[int]] = {"queue": [], "withdraw": []}

    class Slow:
        def queue(self, notices: Sequence[object]) -> None:
            told["queue"].append(len(notices))

        def withdraw(self, subjects: Sequence[str]) -> None:
            told["withdraw"].append(len(subjects))

    world.notices.wanted = frozenset(("message.opened", "message.expired"))
    world.notices._store = Slow()  # type: ignore[assignment]
    for number in range(170):
        world.notices.tell("message.opened", "open", RowId(bytes([number]) * 32), over=True)
    world.notices.flush()
    for sizes in told.values():
        assert sum(sizes) == 170
        assert max(sizes) <= 50


def test_what_the_database_does_not_take_stays_and_no_more_than_is_kept(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(message_notices, "MOST_WAITING", 3)
    world.notices.wanted = frozenset(("message.opened",))
    world.hook(receiver.url)

    class Away:
        def queue(self, notices: object) -> int:
            raise StoreFailed

    world.notices._store = Away()  # type: ignore[assignment]
    for number in range(5):
        world.notices.tell("message.opened", "open", RowId(bytes([number]) * 32))
    with pytest.raises(StoreFailed):
        world.notices.flush()
    world.notices._store = world.store
    world.notices.flush()
    assert [one.notice.subject for one in reversed(world.store.deliveries())] == [
        world.audit.name_of(RowId(bytes([number]) * 32)) for number in range(3)
    ]
    assert "2 events of messages were lost" in caplog.text
