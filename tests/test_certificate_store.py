"""What every certificate store promises, on SQLite, PostgreSQL and MariaDB: issuers, certificates, webhooks and the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from database import CertificateStore, open_access, open_certificates
from errors import NothingThere, StartRefused, WrongCredentials
from records import AccountId, Certificate, CertificateChange, CertificateId, Delivery, Millis, NoticeType
from settings import OFF, Settings
from storage.certificates_outbox import DELIVERED_KEPT, FAILED_KEPT
from tests.certificate_stores import (
    CERTIFICATE_STORES,
    DAY,
    TABLES,
    CertificatePlace,
    becoming,
    new_certificate,
    new_certificate_place,
    new_hook,
    new_issuer,
    new_notice,
)
from tests.stores import HOUR, NOW, SetClock, race

NOBODYS: list[Any] = [None, "", 0, b"", "\0", "\ud800", "' OR ''='"]
"""What names nothing, whatever it is taken for."""


@pytest.fixture(params=CERTIFICATE_STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CertificatePlace]:
    place = new_certificate_place(request.param, tmp_path)
    yield place
    place.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(place: CertificatePlace, clock: SetClock) -> CertificateStore:
    return place.open(clock)


@pytest.fixture
def certificate(store: CertificateStore) -> Certificate:
    """One that is there, active, of an issuer who is."""
    store.add_issuer(new_issuer(), "issuer issuer-1", b"sealed")
    store.add_certificate(new_certificate(), [])
    return new_certificate()


def counts(place: CertificatePlace) -> dict[str, int]:
    (found,) = place.run("SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES))
    return dict(zip(TABLES, found, strict=True))


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [delivery.number for delivery in deliveries]


# Those who issue


def test_issuer_is_kept_with_its_key_or_not_at_all(place: CertificatePlace, store: CertificateStore) -> None:
    store.add_issuer(new_issuer(1), "issuer 1", b"key 1")
    store.add_issuer(new_issuer(2, created_at=Millis(NOW + 1)), "issuer 2", b"key 2")
    assert store.issuers() == [new_issuer(2, created_at=Millis(NOW + 1)), new_issuer(1)], "the newest first"
    assert place.open(None).issuer("issuer-1") == new_issuer(1)
    assert {name: sealed for name, (_, sealed) in store.secrets("issuer ").items()} == {"issuer 1": b"key 1", "issuer 2": b"key 2"}
    with pytest.raises(Exception):  # noqa: B017 - a name that is taken is a fault
        store.add_issuer(new_issuer(3), "issuer 1", b"other")
    assert store.issuer("issuer-3") is None


def test_secret_is_replaced_only_from_what_it_was(store: CertificateStore) -> None:
    assert store.add_secret("a", b"1")
    assert not store.add_secret("a", b"2")
    assert not store.replace_secret("a", b"2", b"3")
    assert store.replace_secret("a", b"1", b"3")
    assert store.secrets("a")["a"][1] == b"3"
    store.remove_secret("a")
    assert store.secrets("") == {}


def test_list_of_revoked_is_kept_by_whoever_signed_it_first(store: CertificateStore, certificate: Certificate) -> None:
    issuer = store.issuer("issuer-1")
    assert issuer
    large = bytes(range(256)) * 1024
    assert store.keep_crl(issuer, large, Millis(NOW + 5))
    assert not store.keep_crl(issuer, b"another", Millis(NOW + 6))
    assert store.issuer("issuer-1") == replace(issuer, crl=large, crl_number=1, crl_at=Millis(NOW + 5))


def test_change_of_state_is_counted_so_that_the_list_is_signed_anew(store: CertificateStore, certificate: Certificate) -> None:
    """Also when it happens between the reading of the certificates and the keeping of the list."""
    read = store.issuer("issuer-1")
    assert read and read.changes == 0
    listed = store.listed_certificates("issuer-1")
    store.change_certificate(certificate.id, becoming(state="revoked", reason="superseded"))
    assert listed == []
    assert store.keep_crl(read, b"without it", NOW)
    now = store.issuer("issuer-1")
    assert now and (now.changes, now.crl_changes) == (1, 0)
    store.change_certificate(certificate.id, becoming(warned_days=7))
    assert store.issuer("issuer-1") == now, "nothing of that stands in the list"


def test_list_holds_what_does_not_count_and_has_not_ended(
    store: CertificateStore, clock: SetClock, certificate: Certificate
) -> None:
    for number, changes in enumerate(
        [
            {"state": "inactive"},
            {"state": "revoked", "reason": "keyCompromise"},
            {"state": "revoked", "expires_at": Millis(NOW + HOUR)},
            {"state": "revoked", "issuer": "issuer-2"},
        ],
        start=2,
    ):
        store.add_certificate(new_certificate(number, **changes), [])
    clock.advance(HOUR)
    assert {one.id for one in store.listed_certificates("issuer-1")} == {"certificate-2", "certificate-3"}


# Certificates


def test_certificate_is_kept_as_it_is(place: CertificatePlace, store: CertificateStore) -> None:
    least = new_certificate(1)
    most = new_certificate(
        2,
        email="o'%_:now@example.org",
        account=AccountId("account-2"),
        der=bytes(range(256)) * 8,
        created_at=Millis(NOW + 1),
        state="revoked",
        reason="keyCompromise",
        replaces=CertificateId("certificate-1"),
        superseded_at=Millis(NOW + DAY),
        warned_days=30,
    )
    for one in (least, most):
        store.add_certificate(one, [])
    for another in (store, place.open(None)):
        assert another.certificate(least.id) == another.certificate_by_digest(least.digest) == least
        assert another.certificate(most.id) == another.certificate_by_digest(most.digest) == most
        assert another.certificates() == [most, least], "the newest first"
        assert another.certificates(AccountId("account-1")) == [least]
        assert another.certificates(AccountId("account-2")) == [most]


def test_what_names_nothing_finds_nothing(store: CertificateStore, certificate: Certificate) -> None:
    for nobodys in NOBODYS:
        assert store.certificate(nobodys) is None
        assert nobodys is None or store.certificates(nobodys) == []
        assert store.issuer(nobodys) is None
        assert store.hook(nobodys) is None
        assert store.change_certificate(nobodys, becoming(state="revoked")) is None
        assert not store.delete_hook(nobodys, "")
    assert store.certificate(certificate.id) == certificate


def test_change_is_of_state_and_times_alone(store: CertificateStore, certificate: Certificate) -> None:
    wished = new_certificate(
        7,
        account=AccountId("thief"),
        state="inactive",
        reason="superseded",
        changed_at=Millis(NOW + 1),
        superseded_at=Millis(NOW + 2),
        warned_days=1,
    )
    changed = store.change_certificate(certificate.id, lambda was: CertificateChange(wished))
    assert changed == store.certificate(certificate.id)
    assert changed == replace(
        certificate, state="inactive", reason="superseded", changed_at=NOW + 1, superseded_at=NOW + 2, warned_days=1
    )


def test_change_that_is_refused_changes_and_tells_nothing(place: CertificatePlace, store: CertificateStore) -> None:
    store.add_hook(new_hook(), "hook 1", b"")
    store.add_certificate(new_certificate(), [])

    def refuse(was: Certificate) -> CertificateChange:
        raise WrongCredentials

    with pytest.raises(WrongCredentials):
        store.change_certificate(new_certificate().id, refuse)
    with pytest.raises(Exception):  # noqa: B017 - its serial number is taken
        store.change_certificate(new_certificate().id, becoming(new_notice(), follower=new_certificate(), state="revoked"))
    assert store.certificate(new_certificate().id) == new_certificate()
    assert counts(place)["mayfly_deliveries"] == 0


def test_of_nodes_that_change_one_certificate_at_once_each_sees_the_other(place: CertificatePlace) -> None:
    """A certificate that one node revokes for good is activated by no other, whichever comes first; each change is told once."""
    nodes = [place.open(SetClock()) for _ in range(2)]
    nodes[0].add_issuer(new_issuer(), "issuer issuer-1", b"")
    nodes[0].add_hook(new_hook(events=("certificate.revoked", "certificate.activated")), "hook 1", b"")

    def act(node: CertificateStore, state: str, type_: NoticeType, number: int) -> None:
        def change(was: Certificate) -> CertificateChange:
            if was.state == "revoked":
                raise WrongCredentials
            notice = new_notice(subject=was.id, type=type_)
            return CertificateChange(replace(was, state=state), (notice,))  # type: ignore[arg-type]

        with suppress(WrongCredentials):
            node.change_certificate(new_certificate(number).id, change)

    for number in range(5):
        nodes[0].add_certificate(new_certificate(number, state="inactive"), [])
        race(
            partial(act, nodes[0], "revoked", "certificate.revoked", number),
            partial(act, nodes[1], "active", "certificate.activated", number),
            partial(act, nodes[1], "revoked", "certificate.revoked", number),
            partial(act, nodes[0], "active", "certificate.activated", number),
        )
        found = nodes[1].certificate(new_certificate(number).id)
        assert found and found.state == "revoked"
        told = [one.notice.type for one in nodes[0].deliveries(most=1000) if one.notice.subject == found.id]
        assert told[0] == "certificate.revoked" and told.count("certificate.revoked") == 1, "the last thing that is told of it"
    issuer = nodes[0].issuer("issuer-1")
    assert issuer and issuer.changes >= 5
    made = numbers(nodes[0].deliveries(most=1000))
    assert made == list(range(made[0], made[0] - len(made), -1)), "no number is missing or there twice"


def test_follower_and_what_it_follows_are_one_change(store: CertificateStore, certificate: Certificate) -> None:
    store.add_hook(new_hook(events=("certificate.renewed",)), "hook 1", b"")
    follower = new_certificate(2, replaces=certificate.id)
    notice = new_notice(type="certificate.renewed")
    assert store.change_certificate(certificate.id, becoming(notice, follower=follower, superseded_at=Millis(NOW + DAY)))
    assert store.certificate(follower.id) == follower
    assert [delivery.notice for delivery in store.deliveries()] == [notice]


def test_due_are_those_that_end_soon_or_were_followed(store: CertificateStore, clock: SetClock) -> None:
    for number, changes in enumerate(
        [
            {},
            {"expires_at": Millis(NOW + 30 * DAY)},
            {"expires_at": Millis(NOW + DAY), "state": "inactive"},
            {"expires_at": NOW},
            {"expires_at": Millis(NOW + DAY), "state": "revoked"},
            {"superseded_at": NOW},
            {"superseded_at": Millis(NOW + 1)},
        ]
    ):
        store.add_certificate(new_certificate(number, **changes), [])
    assert [one.id for one in store.due_certificates(30 * DAY)] == ["certificate-2", "certificate-1", "certificate-5"]


# Webhooks and the outbox


def test_webhook_is_kept_with_its_secret_changed_and_removed(place: CertificatePlace, store: CertificateStore) -> None:
    hook = new_hook(events=("certificate.created", "message.burned"), url="https://example.org/?a=%41&ö")
    store.add_hook(hook, "hook 1", b"secret")
    store.add_hook(new_hook(2), "hook 2", b"other")
    assert store.hooks() == [hook, new_hook(2)]
    assert store.hook(hook.id) == hook
    assert store.secrets("hook 1")["hook 1"][1] == b"secret"
    changed = store.change_hook(hook.id, lambda was: replace(was, enabled=False, url="https://b", events=frozenset(), id="x"))
    assert changed == replace(hook, enabled=False, url="https://b", events=frozenset()) == store.hook(hook.id)
    store.queue([new_notice()])
    assert store.delete_hook("hook-2", "hook 2")
    assert not store.delete_hook("hook-2", "hook 2")
    assert counts(place) == dict.fromkeys(TABLES, 0) | {"mayfly_hooks": 1, "mayfly_certificate_secrets": 1}


def test_notice_is_queued_for_those_that_ask_for_it(store: CertificateStore, clock: SetClock) -> None:
    store.add_hook(new_hook(1, ("certificate.created", "certificate.revoked")), "hook 1", b"")
    store.add_hook(new_hook(2, ("certificate.revoked",)), "hook 2", b"")
    store.add_hook(new_hook(3, ("certificate.created",), enabled=False), "hook 3", b"")
    created, revoked = new_notice(1), new_notice(2, type="certificate.revoked", payload="é" * 10_000)
    clock.advance(5)
    store.add_certificate(new_certificate(), [created])
    assert store.queue([revoked]) == 2
    first, second, third = reversed(store.deliveries())
    assert [(one.hook, one.notice) for one in (first, second, third)] == [
        ("hook-1", created),
        ("hook-1", revoked),
        ("hook-2", revoked),
    ]
    assert first.number < second.number < third.number
    assert (first.created_at, first.not_before, first.attempts, first.state, first.answered_at) == (
        NOW + 5,
        NOW + 5,
        0,
        "waiting",
        None,
    )


def test_of_one_certificate_and_webhook_only_the_first_is_due(store: CertificateStore, clock: SetClock) -> None:
    store.add_hook(new_hook(1), "hook 1", b"")
    store.add_hook(new_hook(2), "hook 2", b"")
    store.queue([new_notice(1), new_notice(2), new_notice(3, subject="certificate-2")])
    due = store.due_deliveries(10)
    assert [(one.hook, one.notice.id) for one in due] == [
        ("hook-1", "notice-1"),
        ("hook-2", "notice-1"),
        ("hook-1", "notice-3"),
        ("hook-2", "notice-3"),
    ]
    assert store.due_deliveries(1) == due[:1]
    taken = store.take_delivery(due[0], HOUR)
    assert taken and taken.attempts == 1
    assert ("hook-1", "notice-2") not in [(one.hook, one.notice.id) for one in store.due_deliveries(10)]
    assert store.settle_delivery(taken, "waiting", 2 * HOUR, "500")
    assert ("hook-1", "notice-1") not in [(one.hook, one.notice.id) for one in store.due_deliveries(10)]
    clock.advance(2 * HOUR)
    again = store.take_delivery(next(one for one in store.due_deliveries(10) if one.number == taken.number), HOUR)
    assert again and (again.attempts, again.answer, again.answered_at) == (2, "500", NOW)
    assert store.settle_delivery(again, "delivered", 0, "204")
    assert ("hook-1", "notice-2") in [(one.hook, one.notice.id) for one in store.due_deliveries(10)]


def test_delivery_given_up_keeps_no_later_one(store: CertificateStore) -> None:
    store.add_hook(new_hook(), "hook 1", b"")
    store.queue([new_notice(1), new_notice(2)])
    (first,) = store.due_deliveries(10)
    taken = store.take_delivery(first, HOUR)
    assert taken and store.settle_delivery(taken, "failed", 0, "gone")
    assert [one.notice.id for one in store.due_deliveries(10)] == ["notice-2"]
    assert [one.notice.id for one in store.deliveries(state="failed")] == ["notice-1"]


def test_disabled_webhook_is_told_nothing_until_it_is_enabled(store: CertificateStore) -> None:
    store.add_hook(new_hook(), "hook 1", b"")
    store.queue([new_notice()])
    store.change_hook("hook-1", lambda was: replace(was, enabled=False))
    assert store.due_deliveries(10) == []
    store.change_hook("hook-1", lambda was: replace(was, enabled=True))
    assert len(store.due_deliveries(10)) == 1


def test_of_nodes_that_take_a_delivery_exactly_one_has_it(place: CertificatePlace) -> None:
    clock = SetClock()
    nodes = [place.open(clock) for _ in range(2)]
    nodes[0].add_hook(new_hook(), "hook 1", b"")
    for number in range(5):
        nodes[0].queue([new_notice(subject=f"certificate-{number}")])
        (due,) = nodes[0].due_deliveries(10)
        taken = race(*(partial(nodes[at % 2].take_delivery, due, HOUR) for at in range(4)))
        assert taken.count(None) == 3


def test_try_whose_time_was_over_settles_nothing_once_another_has_it(store: CertificateStore, clock: SetClock) -> None:
    store.add_hook(new_hook(), "hook 1", b"")
    store.queue([new_notice()])
    slow = store.take_delivery(store.due_deliveries(1)[0], HOUR)
    assert slow and store.due_deliveries(1) == []
    clock.advance(HOUR)
    other = store.take_delivery(store.due_deliveries(1)[0], HOUR)
    assert other and other.attempts == 2
    assert not store.settle_delivery(slow, "failed", 0, "too late")
    assert store.settle_delivery(other, "delivered", 0, "200")
    assert not store.settle_delivery(other, "failed", 0, "twice")
    assert store.deliveries()[0].state == "delivered"


def test_what_is_taken_back_is_of_that_subject_untouched_and_not_due(store: CertificateStore, clock: SetClock) -> None:
    """At every webhook, whether it is told of anything at this moment or not."""
    store.add_hook(new_hook(1), "hook 1", b"")
    store.add_hook(new_hook(2), "hook 2", b"")
    later = Millis(NOW + HOUR)
    store.queue([new_notice(1), new_notice(2, not_before=later), new_notice(3, not_before=later, subject="certificate-2")])
    store.change_hook("hook-2", lambda was: replace(was, enabled=False))
    tried = store.take_delivery(store.due_deliveries(1)[0], 2 * HOUR)
    assert tried
    assert store.withdraw(["nothing's", "certificate-1"]) == 2
    left = {(one.hook, one.notice.id) for one in store.deliveries()}
    assert left == {(hook, notice) for hook in ("hook-1", "hook-2") for notice in ("notice-1", "notice-3")}
    clock.advance(HOUR)
    assert store.withdraw(["certificate-1", "certificate-2"]) == 0
    assert store.withdraw([]) == 0


def test_taking_back_costs_the_same_however_much_waits(tmp_path: Path) -> None:
    """In steps of SQLite's machine: each message that ends before its time is taken back, while those of a week wait."""
    place = new_certificate_place("file", tmp_path)
    store: Any = place.open(SetClock())
    store.add_hook(new_hook(), "hook 1", b"")
    costs, steps = [], [0]

    def count() -> int:
        steps[0] += 1
        return 0

    for batch in range(2):
        wait = [new_notice(n, subject=f"message {n}", not_before=Millis(NOW + HOUR)) for n in range(batch, 2 + batch * 2000)]
        store.queue(wait)
        store._database._db.set_progress_handler(count, 1)
        steps[0] = 0
        assert store.withdraw([wait[0].subject])
        costs.append(steps[0])
        store._database._db.set_progress_handler(None, 1)
    assert 0 < costs[1] < 3 * costs[0]
    place.close()


def test_delivery_can_be_made_anew(store: CertificateStore, clock: SetClock) -> None:
    store.add_hook(new_hook(), "hook 1", b"")
    store.queue([new_notice()])
    taken = store.take_delivery(store.due_deliveries(1)[0], HOUR)
    assert taken and store.replay(taken.number) == taken, "one that waits goes on waiting"
    assert store.settle_delivery(taken, "failed", 0, "no")
    clock.advance(HOUR)
    replayed = store.replay(taken.number)
    assert (replayed.state, replayed.attempts, replayed.not_before, replayed.created_at) == ("waiting", 0, NOW + HOUR, NOW + HOUR)
    assert store.due_deliveries(1) == [replayed]
    with pytest.raises(NothingThere):
        store.replay(taken.number + 1)


def test_deliveries_are_found_by_webhook_state_and_page(store: CertificateStore) -> None:
    for number in (1, 2):
        store.add_hook(new_hook(number), f"hook {number}", b"")
    store.queue([new_notice(number) for number in range(3)])
    everything = store.deliveries()
    assert [one.hook for one in store.deliveries("hook-1")] == ["hook-1"] * 3
    assert numbers(store.deliveries(most=2)) == numbers(everything)[:2]
    assert store.deliveries(before=everything[1].number) == everything[2:]
    taken = store.take_delivery(store.due_deliveries(1)[0], HOUR)
    assert taken and store.settle_delivery(taken, "delivered", 0, "")
    assert numbers(store.deliveries(state="delivered")) == [taken.number]
    assert store.deliveries("hook-2", "delivered") == []
    assert store.delivery_states() == {"waiting": (5, NOW), "delivered": (1, NOW)}
    assert store.deliveries("\ud800") == []


def test_tidying_drops_what_was_settled_long_ago_and_nothing_that_waits(store: CertificateStore, clock: SetClock) -> None:
    store.add_hook(new_hook(), "hook 1", b"")
    store.queue([new_notice(number, subject=f"certificate-{number}") for number in range(3)])
    for due, state in zip(store.due_deliveries(2), ("delivered", "failed"), strict=True):
        taken = store.take_delivery(due, HOUR)
        assert taken and store.settle_delivery(taken, state, 0, "")  # type: ignore[arg-type]
    for age, left in (
        (DELIVERED_KEPT - 1, {"waiting", "delivered", "failed"}),
        (DELIVERED_KEPT, {"waiting", "failed"}),
        (FAILED_KEPT, {"waiting"}),
    ):
        clock.at = Millis(NOW + age)
        store.tidy()
        assert set(store.delivery_states()) == left


def test_delivery_of_a_webhook_that_is_gone_goes_too(place: CertificatePlace, store: CertificateStore) -> None:
    """It may be queued at the moment at which the webhook is removed."""
    store.add_hook(new_hook(), "hook 1", b"")
    store.queue([new_notice()])
    place.run("DELETE FROM mayfly_hooks")
    assert store.due_deliveries(10) == []
    store.tidy()
    assert store.deliveries() == []


# Where they are kept


def test_file_stands_beside_the_key_file_and_is_its_owners_alone(tmp_path: Path) -> None:
    store = open_certificates(Settings(), tmp_path / "key.json")
    assert store
    store.health()
    store.close()
    assert (tmp_path / "certificates.db").stat().st_mode & 0o777 == 0o600


def test_there_is_none_where_it_is_off(tmp_path: Path) -> None:
    assert open_certificates(Settings(certificates_database_url=OFF), tmp_path / "key.json") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"accounts_database_url": "sqlite:////{0}/c.db"}, "it is the same database as MAYFLY_ACCOUNTS_DATABASE_URL"),
        ({"sealed_database_url": "sqlite:////{0}/c.db"}, "it is the same database as MAYFLY_SEALED_DATABASE_URL"),
        ({"certificates_database_url": "postgresql://mayfly@db.invalid/c"}, "must be reached by TLS with the server verified"),
        ({"certificates_database_url": "sqlite:////nowhere/at/all/c.db"}, "cannot be opened"),
    ],
)
def test_wrong_place_is_refused_by_the_name_of_its_setting(tmp_path: Path, settings: dict[str, str], why: str) -> None:
    given = {name: url.format(str(tmp_path)[1:]) for name, url in settings.items()}
    url = given.pop("certificates_database_url", f"sqlite:////{str(tmp_path)[1:]}/c.db")
    with pytest.raises(StartRefused, match=f"MAYFLY_CERTIFICATES_DATABASE_URL: .*{why}"):
        open_certificates(Settings(certificates_database_url=url, **given), tmp_path / "key.json")


def test_file_of_accounts_is_not_taken_for_one_of_certificates(tmp_path: Path) -> None:
    accounts = open_access(Settings(), tmp_path / "key.json")
    assert accounts
    accounts.close()
    settings = Settings(certificates_database_url=f"sqlite:///{tmp_path}/accounts.db", accounts_database_url=OFF)
    with pytest.raises(StartRefused, match="is a database of something else"):
        open_certificates(settings, tmp_path / "key.json")
