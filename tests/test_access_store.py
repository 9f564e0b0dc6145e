"""What every access store promises, on SQLite, PostgreSQL and MariaDB: accounts, what they sign in with, secrets, the audit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from database import AccessStore
from errors import MayflyError, NothingThere, ScopeRequired, Taken
from records import Account, AccountId, ApiKey, AuditEntry, Millis, Role, Session
from tests.access_stores import (
    ACCESS_STORES,
    TABLES,
    AccessPlace,
    digest,
    following,
    new_access_place,
    new_account,
    new_key,
    new_session,
)
from tests.stores import HOUR, NOW, SetClock, race

NOBODYS: list[Any] = [None, "", 0, b"", b"\0", bytes(32), b"x" * 33, "x" * 32, "\0", "\ud800", "' OR ''='"]
"""What owns nothing, whatever it is taken for."""


@pytest.fixture(params=ACCESS_STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AccessPlace]:
    place = new_access_place(request.param, tmp_path)
    yield place
    place.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(place: AccessPlace, clock: SetClock) -> AccessStore:
    return place.open(clock)


@pytest.fixture
def account(store: AccessStore) -> Account:
    """One that is there, with a session, a key and a link, each of digest 1."""
    account = new_account()
    store.add_account(account)
    give_credentials(store, account)
    return account


def give_credentials(store: AccessStore, account: Account, number: int = 1) -> None:
    assert store.add_session(new_session(account, number), account)
    store.add_key(new_key(account, number))
    store.add_link(digest(number), account.id, Millis(NOW + HOUR))


def signs_in(store: AccessStore, number: int = 1) -> list[bool]:
    """Whether what has this digest is a session, a key, a key by its id, a link."""
    found = store.session(digest(number)), store.key(digest(number)), store.key_by_id(f"key-{number}"), store.link(digest(number))
    return [one is not None for one in found]


def rows(place: AccessPlace) -> dict[str, int]:
    (counts,) = place.run("SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES))
    return dict(zip(TABLES, counts, strict=True))


# Accounts


def test_account_is_kept_as_it_is(place: AccessPlace, store: AccessStore) -> None:
    least = new_account(1, first_name="", last_name="", roles=frozenset(), password=None, enabled=False)
    most = new_account(
        2,
        email="o'%_:now@example.org",
        last_name="\\'\"😀 :now {now} %s",
        roles=frozenset(Role(f"role-{n}") for n in range(200)),
        reset_asked_at=Millis(NOW + 1),
        created_at=Millis(NOW - HOUR),
    )
    for account in (least, most):
        store.add_account(account)
    for another in (store, place.open(None)):
        assert another.account(least.id) == another.account_by_email(least.email) == least
        assert another.account(most.id) == another.account_by_email(most.email) == most
        assert another.accounts() == [most, least], "by e-mail address"


def test_email_address_is_one_accounts_alone(store: AccessStore, account: Account) -> None:
    with pytest.raises(Taken):
        store.add_account(new_account(1, email=account.email))
    assert store.account(new_account(1).id) is None
    store.add_account(new_account(1))
    with pytest.raises(Taken):
        store.change_account(new_account(1).id, lambda now: replace(now, email=account.email, last_name="X"), end_sessions=True)
    assert store.account(new_account(1).id) == new_account(1)
    store.add_account(new_account(2, email=f"{account.email} "))  # a collation may take the two for one
    assert store.account_by_email(account.email) == account
    assert store.account_by_email(account.email.upper()) is None


def test_of_nodes_that_add_one_email_address_at_once_one_does(place: AccessPlace) -> None:
    nodes = [place.open(SetClock()) for _ in range(2)]

    def add(number: int) -> str:
        try:
            nodes[number % 2].add_account(new_account(number, email="same@example.org"))
        except Taken:
            return "taken"
        return "added"

    for _ in range(5):
        assert sorted(race(*(partial(add, number) for number in range(4)))) == ["added", "taken", "taken", "taken"]
        (account,) = nodes[0].accounts()
        assert nodes[1].delete_account(account.id)


def test_change_is_all_but_id_and_creation(store: AccessStore, account: Account) -> None:
    wished = new_account(
        7,
        email="new@example.org",
        first_name="New",
        roles=frozenset((Role("admin"),)),
        enabled=False,
        password=None,
        changed_at=Millis(NOW + 5),
        created_at=Millis(NOW + 5),
    )
    changed = store.change_account(account.id, lambda now: wished, end_sessions=False)
    assert changed == replace(wished, id=account.id, created_at=account.created_at) == store.account(account.id)
    assert store.account(wished.id) is None
    assert store.change_account(wished.id, lambda now: wished, end_sessions=False) is None


def test_changes_of_an_account_at_once_are_made_one_of_the_other(place: AccessPlace, account: Account) -> None:
    """What an admin takes away is not brought back by a change that was read before."""
    nodes = [place.open(SetClock()) for _ in range(2)]

    def add_role(number: int) -> Account | None:
        return nodes[number % 2].change_account(
            account.id, lambda now: replace(now, roles=now.roles | {Role(f"r{number}")}), end_sessions=False
        )

    assert all(race(*(partial(add_role, number) for number in range(8))))
    found = nodes[0].account(account.id)
    assert found and found.roles == account.roles | {f"r{number}" for number in range(8)}


def test_change_that_is_refused_changes_nothing(store: AccessStore, account: Account) -> None:
    def refuse(now: Account) -> Account:
        raise ScopeRequired

    for _ in range(5):  # and breaks nothing: the circuit stays closed
        with pytest.raises(ScopeRequired):
            store.change_account(account.id, refuse, end_sessions=True)
    assert store.account(account.id) == account
    assert all(signs_in(store))


def test_change_ends_sessions_and_link_only_where_it_shall(place: AccessPlace, store: AccessStore, account: Account) -> None:
    other = new_account(1)
    store.add_account(other)
    give_credentials(store, other, 2)
    assert store.add_session(new_session(account, 3), account)
    store.change_account(account.id, lambda now: replace(now, first_name="A"), end_sessions=False)
    assert all(signs_in(store))
    store.change_account(account.id, lambda now: replace(now, first_name="B"), end_sessions=True)
    assert signs_in(store) == signs_in(place.open(SetClock())) == [False, True, True, False]
    assert store.session(digest(3)) is None
    assert all(signs_in(store, 2))


def test_disabled_account_signs_in_with_nothing(place: AccessPlace, store: AccessStore, account: Account) -> None:
    other = place.open(SetClock())
    other.change_account(account.id, lambda now: replace(now, enabled=False), end_sessions=False)
    assert signs_in(store) == [False] * 4
    assert store.use_link(digest(1), "new") is None
    assert not store.add_session(new_session(account, 2), account)
    other.change_account(account.id, lambda now: replace(now, enabled=True), end_sessions=False)
    assert all(signs_in(store))


def test_deletion_removes_all_that_an_account_signs_in_with(place: AccessPlace, store: AccessStore, account: Account) -> None:
    other = new_account(1)
    store.add_account(other)
    give_credentials(store, other, 2)
    assert store.delete_account(account.id)
    assert signs_in(store) == [False] * 4
    assert not store.delete_account(account.id)
    tables = rows(place)
    assert [tables[f"mayfly_{name}"] for name in ("accounts", "sessions", "api_keys", "links")] == [1] * 4
    assert all(signs_in(store, 2))
    for add in (
        lambda: store.add_key(new_key(account, 3)),
        lambda: store.add_link(digest(3), account.id, Millis(NOW + HOUR)),
    ):
        with pytest.raises(NothingThere):
            add()
    assert not store.add_session(new_session(account, 3), account)
    assert rows(place) == tables


def test_reset_that_was_asked_for_is_told_until_the_password_is_set(store: AccessStore, account: Account, clock: SetClock) -> None:
    clock.advance(5)
    store.ask_reset(account.id)
    assert store.account(account.id) == replace(account, reset_asked_at=clock.at)
    store.ask_reset(AccountId("nobody"))
    store.use_link(digest(1), "new")
    found = store.account(account.id)
    assert found and found.reset_asked_at is None


def test_nothing_is_owned_by_nothing(place: AccessPlace, store: AccessStore, account: Account) -> None:
    before = rows(place)
    for nobodys in NOBODYS:
        assert store.account(nobodys) is None, nobodys
        assert store.account_by_email(nobodys) is None, nobodys
        assert store.change_account(nobodys, lambda now: now, end_sessions=True) is None, nobodys
        assert not store.delete_account(nobodys), nobodys
        assert store.session(nobodys) is None, nobodys
        assert not store.end_session(nobodys), nobodys
        assert store.end_sessions(nobodys) == 0, nobodys
        assert store.key(nobodys) is None, nobodys
        assert store.key_by_id(nobodys) is None, nobodys
        assert not store.revoke_key(nobodys), nobodys
        assert store.link(nobodys) is None, nobodys
        assert store.use_link(nobodys, "new") is None, nobodys
        assert nobodys is None or store.keys(nobodys) == [], nobodys
    assert rows(place) == before
    store.health()


# What they sign in with


def test_session_is_found_with_its_account_until_it_ends(store: AccessStore, account: Account, clock: SetClock) -> None:
    session = new_session(account)
    assert store.session(digest(1)) == (session, account)
    assert store.session(digest(2)) is None
    clock.at = Millis(session.expires_at - 1)
    assert store.session(digest(1)) == (session, account)
    clock.at = session.expires_at
    assert store.session(digest(1)) is None, "at the very moment of its end"


def test_sessions_end_one_by_one_and_all_at_once(place: AccessPlace, store: AccessStore, account: Account) -> None:
    for number in (2, 3):
        assert store.add_session(new_session(account, number), account)
    assert store.end_session(digest(2))
    assert not store.end_session(digest(2))
    assert place.open(SetClock()).end_sessions(account.id) == 2
    assert [store.session(digest(number)) for number in (1, 2, 3)] == [None] * 3
    assert store.end_sessions(account.id) == 0


def test_no_session_begins_by_a_password_that_was_changed_meanwhile(store: AccessStore, account: Account) -> None:
    """Somebody who signs in with the old password at the moment of the change has no session after it."""
    store.change_account(account.id, lambda now: replace(now, password="another"), end_sessions=True)
    assert not store.add_session(new_session(account, 2), account)
    changed = store.account(account.id)
    assert changed and store.add_session(new_session(account, 2), changed)
    assert store.session(digest(1)) is None
    assert store.session(digest(2)) == (new_session(account, 2), changed)


def test_sign_in_and_change_of_password_at_once_leave_no_session(place: AccessPlace, account: Account) -> None:
    nodes = [place.open(SetClock()) for _ in range(2)]
    for number in range(10, 30):
        before = nodes[0].account(account.id)
        assert before

        def change(password: str = f"password {number}") -> object:
            return nodes[1].change_account(account.id, lambda now: replace(now, password=password), end_sessions=True)

        race(partial(nodes[0].add_session, new_session(before, number), before), change)
        assert nodes[0].session(digest(number)) is None


def test_key_is_found_with_its_account_until_it_ends(store: AccessStore, account: Account, clock: SetClock) -> None:
    key = new_key(account)
    assert store.key(digest(1)) == store.key_by_id(key.id) == (key, account)
    assert store.key(digest(2)) is store.key_by_id("key-2") is None
    assert store.key_by_id("KEY-1") is store.key_by_id("key-1 ") is None
    clock.at = Millis(key.expires_at - 1)
    assert store.key(digest(1)) == store.key_by_id(key.id) == (key, account)
    clock.at = key.expires_at
    assert store.key(digest(1)) is store.key_by_id(key.id) is None


def test_keys_are_listed_the_newest_first_until_tidied(store: AccessStore, account: Account, clock: SetClock) -> None:
    other = new_account(1)
    store.add_account(other)
    newest = new_key(other, 2, created_at=Millis(NOW + 2))
    empty = ApiKey("key-3", digest(3), account.id, "", frozenset(), Millis(NOW + 1), Millis(NOW + 2 * HOUR))
    for key in (newest, empty):
        store.add_key(key)
    assert store.keys() == [newest, empty, new_key(account)]
    assert store.keys(account.id) == [empty, new_key(account)]
    clock.advance(HOUR)
    assert store.keys() == [newest, empty, new_key(account)]
    store.tidy()
    assert store.keys() == [empty]


def test_revoked_key_is_found_no_more_on_any_node(place: AccessPlace, store: AccessStore, account: Account) -> None:
    assert place.open(SetClock()).revoke_key("key-1")
    assert store.key(digest(1)) is store.key_by_id("key-1") is None
    assert store.keys() == []
    assert not store.revoke_key("key-1")


def test_use_of_a_key_is_remembered_to_the_minute(store: AccessStore, account: Account, clock: SetClock) -> None:
    def used() -> Millis | None:
        return store.keys()[0].used_at

    store.key_used("key-1")
    assert used() == NOW
    clock.advance(59_999)
    store.key_used("key-1")
    assert used() == NOW
    clock.advance(1)
    store.key_used("key-1")
    assert used() == NOW + 60_000
    store.key_used("key-9")


def test_link_sets_a_password_once_and_ends_what_the_old_one_began(store: AccessStore, account: Account, clock: SetClock) -> None:
    assert store.link(digest(1)) == account
    clock.advance(HOUR - 1)
    changed = store.use_link(digest(1), "new")
    assert changed == replace(account, password="new", changed_at=clock.at) == store.account(account.id)
    assert signs_in(store) == [False, True, True, False]
    assert store.use_link(digest(1), "newer") is None
    assert store.account(account.id) == changed


def test_link_has_ended_at_the_moment_of_its_end(store: AccessStore, account: Account, clock: SetClock) -> None:
    clock.advance(HOUR)
    assert store.link(digest(1)) is None
    assert store.use_link(digest(1), "new") is None
    assert store.account(account.id) == account


def test_link_takes_the_place_of_the_one_before(store: AccessStore, account: Account) -> None:
    store.add_link(digest(2), account.id, Millis(NOW + HOUR))
    assert store.link(digest(1)) is None
    assert store.use_link(digest(1), "new") is None
    assert store.link(digest(2)) == account


def test_of_readers_who_use_a_link_at_once_exactly_one_sets_the_password(place: AccessPlace, account: Account) -> None:
    nodes = [place.open(SetClock()) for _ in range(2)]
    for number in range(10, 15):
        nodes[0].add_link(digest(number), account.id, Millis(NOW + HOUR))

        def use(reader: int, number: int = number) -> Account | None:
            return nodes[reader % 2].use_link(digest(number), f"of reader {reader}")

        winners = [found for found in race(*(partial(use, reader) for reader in range(4))) if found]
        assert winners == [nodes[0].account(account.id)]


def test_tidy_removes_what_has_ended_and_nothing_else(
    place: AccessPlace, store: AccessStore, account: Account, clock: SetClock
) -> None:
    other = new_account(1)
    store.add_account(other)
    assert store.add_session(new_session(other, 2, expires_at=Millis(NOW + HOUR + 1)), other)
    store.add_key(new_key(other, 2, expires_at=Millis(NOW + HOUR + 1)))
    store.add_link(digest(2), other.id, Millis(NOW + HOUR + 1))
    store.add_secret("token/1", b"sealed")
    clock.advance(HOUR)
    store.tidy()
    tables = rows(place)
    assert [tables[f"mayfly_{name}"] for name in ("accounts", "sessions", "api_keys", "links", "secrets")] == [2, 1, 1, 1, 1]
    assert all(signs_in(store, 2))


# Secrets


def test_secret_is_the_first_nodes_and_is_replaced_only_where_it_is_known(store: AccessStore, clock: SetClock) -> None:
    every = bytes(range(256))
    assert store.add_secret("token/a", every)
    clock.advance(1)
    assert not store.add_secret("token/a", b"another node's")
    assert store.add_secret("token/b", b"b")
    assert store.add_secret("audit", b"c")
    assert store.secrets("token/") == {"token/a": (NOW, every), "token/b": (NOW + 1, b"b")}
    assert set(store.secrets("")) == {"token/a", "token/b", "audit"}
    assert store.secrets("token/%") == store.secrets("TOKEN/") == {}

    assert not store.replace_secret("token/a", b"not this", b"new")
    assert not store.replace_secret("token/none", every, b"new")
    assert store.replace_secret("token/a", every, b"new")
    assert not store.replace_secret("token/a", every, b"newer")
    assert store.secrets("token/a") == {"token/a": (NOW, b"new")}, "when it was made stays"
    store.remove_secret("token/a")
    store.remove_secret("token/a")
    assert set(store.secrets("")) == {"token/b", "audit"}


def test_of_nodes_that_add_or_replace_a_secret_at_once_one_does(place: AccessPlace) -> None:
    nodes = [place.open(SetClock()) for _ in range(2)]
    for number in range(5):
        name = f"token/{number}"
        added = race(*(partial(nodes[node % 2].add_secret, name, b"%d" % node) for node in range(4)))
        assert sorted(map(str, added)) == ["False"] * 3 + ["True"]
        assert nodes[0].secrets(name)[name][1] == b"%d" % added.index(True)
        old = nodes[0].secrets(name)[name][1]
        replaced = race(*(partial(nodes[node % 2].replace_secret, name, old, b"new %d" % node) for node in range(4)))
        assert sorted(map(str, replaced)) == ["False"] * 3 + ["True"]
        assert nodes[1].secrets(name)[name][1] == b"new %d" % replaced.index(True)


# The audit


def test_entry_is_kept_as_it_is(place: AccessPlace, store: AccessStore) -> None:
    first = store.append(
        following(
            account="", email="", way="nobody", credential="", vault="", target="", address="", action="sign in", outcome="refused"
        )
    )
    second = store.append(
        following(email="o'%_:now@example.org", target="😀" * 255, mac=bytes(range(256))[::-8], at=Millis(NOW - 5))
    )
    assert (first.number, second.number) == (1, 2)
    assert store.entries() == place.open(None).entries() == [first, second]


def test_entries_added_at_once_on_two_nodes_are_each_made_of_the_one_before(place: AccessPlace) -> None:
    """Eight threads: the numbers are without a gap, and no two have the same before them."""
    nodes = [place.open(SetClock()) for _ in range(2)]
    each = 25

    def append(number: int) -> list[int]:
        return [nodes[number % 2].append(following()).number for _ in range(each)]

    told: list[Any] = race(*(partial(append, number) for number in range(8)))
    assert sorted(number for numbers in told for number in numbers) == list(range(1, 8 * each + 1))
    entries = nodes[0].entries()
    assert [entry.number for entry in entries] == list(range(1, 8 * each + 1))
    assert [entry.mac[16:] for entry in entries] == [bytes(16), *(entry.mac[:16] for entry in entries[:-1])]


def test_entry_that_cannot_be_made_is_not_there(store: AccessStore) -> None:
    def refuse(last: AuditEntry | None) -> AuditEntry:
        raise MayflyError("no key")

    store.append(following())
    for _ in range(5):
        with pytest.raises(MayflyError, match="no key"):
            store.append(refuse)
    assert len(store.entries()) == 1
    assert store.append(following()).number == 2


def test_entries_are_read_in_order_by_pages(store: AccessStore) -> None:
    for _ in range(5):
        store.append(following())
    assert [entry.number for entry in store.entries(after=1, most=2)] == [2, 3]
    assert [entry.number for entry in store.entries(after=3)] == [4, 5]
    assert store.entries(after=5) == []


def test_entries_are_found_by_what_they_say_the_newest_first(store: AccessStore) -> None:
    for number in range(1, 7):
        store.append(
            following(
                at=Millis(NOW + number),
                account=f"account {number % 2}",
                email=f"{number % 3}@example.org",
                action="open" if number < 4 else "burn",
                outcome="answered" if number < 3 else "gone",
                vault="" if number == 6 else "guarded",
                target="t" * 64 if number == 2 else "",
            )
        )

    def numbers(since: int = 0, until: int = 99, before: int | None = None, most: int = 99, **filters: str) -> list[int]:
        found = store.find_entries(filters, Millis(NOW + since), Millis(NOW + until), before, most)
        return [entry.number for entry in found]

    assert numbers() == [6, 5, 4, 3, 2, 1]
    assert numbers(since=2, until=5) == [4, 3, 2]
    assert numbers(before=4, most=2) == [3, 2]
    assert numbers(account="account 1") == [5, 3, 1]
    assert numbers(email="0@example.org") == [6, 3]
    assert numbers(email="0@example.org", action="open", outcome="gone", vault="guarded", account="account 1") == [3]
    assert numbers(target="t" * 64) == [2]
    assert numbers(vault="") == [6]
    for nobodys in ("' OR ''='", "%", "\0", "\ud800", "ACCOUNT 1", "account 1 "):
        assert numbers(account=nobodys) == []
    with pytest.raises(ValueError, match="mac"):
        numbers(mac="")


def test_last_access_is_the_newest_answered_opening_of_each_account_and_vault(store: AccessStore) -> None:
    for account, vault, action, outcome in (
        ("a", "guarded", "open", "answered"),
        ("a", "guarded", "open", "answered"),
        ("a", "guarded", "open", "gone"),
        ("a", "sealed", "read", "answered"),
        ("b", "guarded", "read", "answered"),
        ("", "open", "open", "answered"),
        ("a", "guarded", "burn", "answered"),
    ):
        store.append(following(account=account, vault=vault, action=action, outcome=outcome))
    assert [entry.number for entry in store.last_accesses()] == [6, 5, 4, 2]


def test_heads_are_kept_in_order_and_the_first_of_an_entry_stays(store: AccessStore, clock: SetClock) -> None:
    assert store.heads() == []
    store.add_head(9, b"nine")
    clock.advance(1)
    store.add_head(4, bytes(range(256)))
    store.add_head(9, b"another node's")
    assert store.heads() == [(4, NOW + 1, bytes(range(256))), (9, NOW, b"nine")]


def test_old_entries_are_dropped_with_their_heads_and_the_rest_has_a_signed_beginning(store: AccessStore) -> None:
    assert store.drop_entries(Millis(NOW + HOUR), lambda last: b"none") == 0
    assert store.beginning() is None
    entries = [store.append(following(at=Millis(NOW + number), account=f"{number}")) for number in range(1, 7)]
    for number in (2, 3, 4):
        store.add_head(number, b"%d" % number)

    def sign(last: AuditEntry) -> bytes:
        return b"after %d " % last.number + last.mac

    assert store.drop_entries(Millis(NOW + 1), sign) == 0
    assert store.beginning() is None
    assert store.drop_entries(Millis(NOW + 4), sign) == 3
    assert store.entries() == entries[3:]
    assert store.beginning() == b"after 3 " + entries[2].mac
    assert [number for number, _, _ in store.heads()] == [4]
    assert [entry.number for entry in store.last_accesses()] == [6, 5, 4]
    assert store.append(following()).mac[16:] == entries[5].mac[:16]
    assert store.drop_entries(Millis(NOW + HOUR), sign) == 3, "all but the last of all"
    assert [entry.number for entry in store.entries()] == [7]
    assert store.append(following()).number == 8


def test_entries_before_a_younger_one_are_dropped_by_number_alone(store: AccessStore) -> None:
    """Where a clock went back, what is left is without a gap, and none is dropped before its time."""
    for at in (1, 5, 2, 6):
        store.append(following(at=Millis(NOW + at)))
    assert store.drop_entries(Millis(NOW + 4), lambda last: b"%d" % last.number) == 1
    assert [entry.number for entry in store.entries()] == [2, 3, 4]
    assert store.beginning() == b"1"


def test_many_entries_are_dropped_in_slices(store: AccessStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.access_audit._SLICE_ROWS", 4)
    for _ in range(11):
        store.append(following())
    signed: list[int] = []

    def sign(last: AuditEntry) -> bytes:
        signed.append(last.number)
        return b"%d" % last.number

    assert store.drop_entries(Millis(NOW + 1), sign) == 10
    assert signed == [4, 8, 10]
    assert [entry.number for entry in store.entries()] == [11]
    assert store.beginning() == b"10"


def test_drop_that_cannot_be_signed_drops_nothing(store: AccessStore) -> None:
    for _ in range(3):
        store.append(following())

    def refuse(last: AuditEntry) -> bytes:
        raise MayflyError("no key")

    with pytest.raises(MayflyError, match="no key"):
        store.drop_entries(Millis(NOW + 1), refuse)
    assert len(store.entries()) == 3
    assert store.beginning() is None


def test_time_is_the_stores_and_ends_sessions(place: AccessPlace) -> None:
    """Without a clock of its own, a node goes by the one that all nodes share."""
    store = place.open(None)
    now, account = store.now(), new_account()
    store.add_account(account)
    for number, expires_at in ((1, now + HOUR), (2, now - 1)):
        assert store.add_session(Session(digest(number), account.id, now, Millis(expires_at)), account)
    assert store.session(digest(1))
    assert store.session(digest(2)) is None
    store.tidy()
    assert rows(place)["mayfly_sessions"] == 1
