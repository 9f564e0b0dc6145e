"""Accounts and API keys: who may change what, nothing that the audit cannot be told, and all nodes at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

import keyfile
from access.credentials import MAX_KEY_SECONDS, digest_of
from access.services import Access
from errors import AuditFailed, FieldRefused, LastAdmin, NothingThere, ScopeRequired, Taken, WrongCredentials
from keyfile import KeyFile
from records import Account, Actor, Millis, Session, Way
from server import open_accounts
from settings import Settings
from tests.access_stores import new_access_place
from tests.serving import PASSWORD, Served
from tests.stores import SetClock, postgresql, race

OPERATOR = Actor(way="command")
JSON = {"Accept": "application/json"}
ANA = "ana@example.com"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a key file; passwords take 1 ms."""
    monkeypatch.setattr("crypto.RFC_9106_LOW_MEMORY", (64, 1))
    keyfile.create(tmp_path / "key.json")
    return tmp_path


def opened(folder: Path) -> Access:
    access = open_accounts(Settings(key_file=folder / "key.json"), KeyFile(folder / "key.json"), SetClock())
    assert access
    return access


@pytest.fixture
def access(folder: Path) -> Iterator[Access]:
    made = opened(folder)
    yield made
    made.store.close()


def add(access: Access, email: str = ANA, *roles: str, **given: Any) -> Account:
    fields = {"email": email, "first_name": "Ana", "last_name": "Silva", "roles": list(roles), "password": PASSWORD, **given}
    return access.accounts.add(OPERATOR, fields)[0]


# The last admin


@pytest.mark.parametrize(
    "away",
    [
        lambda accounts, admin: accounts.change(OPERATOR, admin.id, {"enabled": False}),
        lambda accounts, admin: accounts.change(OPERATOR, admin.id, {"roles": ["auditor"]}),
        lambda accounts, admin: accounts.delete(OPERATOR, admin.id),
    ],
    ids=["disabled", "stripped of the role", "removed"],
)
def test_last_admin_who_can_sign_in_stays(access: Access, away: Callable[[Any, Account], object]) -> None:
    admin, other = add(access, ANA, "admin"), add(access, "bruno@example.com", "admin")
    access.accounts.change(OPERATOR, other.id, {"enabled": False})
    session = access.credentials.begin_session(Actor(admin), "")
    with pytest.raises(LastAdmin):
        away(access.accounts, admin)
    assert access.accounts.get(admin.id) == admin
    assert access.credentials.by_session(session, "").account == admin
    access.accounts.change(OPERATOR, other.id, {"enabled": True})
    away(access.accounts, admin)


def disabled(node: Access, account: Account) -> bool:
    try:
        node.accounts.change(OPERATOR, account.id, {"enabled": False})
    except LastAdmin:
        return False
    return True


def test_of_two_admins_who_disable_each_other_at_once_one_stays(folder: Path) -> None:
    one, two = opened(folder), opened(folder)
    ana, bruno = add(one, ANA, "admin"), add(one, "bruno@example.com", "admin")
    for _ in range(20):
        race(lambda: disabled(one, bruno), lambda: disabled(two, ana))
        left = [account for account in one.accounts.all() if account.enabled]
        assert left
        for account in (ana, bruno):
            one.accounts.change(OPERATOR, account.id, {"enabled": True})
    one.store.close()
    two.store.close()


# The audit comes first


def test_nothing_is_done_that_the_audit_cannot_be_told(folder: Path, access: Access) -> None:
    """Its table takes no entries: neither is an account or key made, changed or ended, nor does anybody sign in."""
    ana, bruno = add(access, ANA, "admin"), add(access, "bruno@example.com", "admin")
    me = Actor(ana, ana.scopes)
    key, _ = access.credentials.make_key(me, "key", ana.scopes, 3600)
    link = access.accounts.new_link(OPERATOR, ana.id)
    session = access.credentials.begin_session(me, "")
    before = (access.accounts.all(), access.store.keys())
    with closing(sqlite3.connect(folder / "accounts.db")) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON mayfly_entries BEGIN SELECT RAISE(ABORT, 'full'); END")
        database.commit()
    acts: list[Callable[[], object]] = [
        lambda: add(access, "eve@example.com"),
        lambda: access.accounts.change(OPERATOR, bruno.id, {"roles": []}),
        lambda: access.accounts.delete(OPERATOR, bruno.id),
        lambda: access.accounts.new_link(OPERATOR, bruno.id),
        lambda: access.accounts.set_password(me, ana.id, "another password, as long"),
        lambda: access.accounts.set_by_link(link, "another password, as long", ""),
        lambda: access.accounts.ask_reset(ANA, ""),
        lambda: access.credentials.make_key(me, "key", ana.scopes, 3600),
        lambda: access.credentials.revoke_key(me, key.id),
        lambda: access.credentials.sign_in(me, session),
        lambda: access.credentials.end_session(me, session),
        lambda: access.credentials.by_password(ANA, "wrong", ""),
    ]
    for act in acts:
        with pytest.raises(AuditFailed):
            act()
    assert (access.accounts.all(), access.store.keys()) == before
    assert access.credentials.by_session(session, "").account == ana
    assert access.accounts.link(link) == ana


def test_everything_that_is_done_is_in_the_audit(access: Access) -> None:
    admin = add(access, ANA, "admin")
    me = Actor(admin, admin.scopes, "session", "s", "192.0.2.7")
    other = add(access, "bruno@example.com")
    access.accounts.change(me, other.id, {"enabled": False})
    key, _ = access.credentials.make_key(me, "key", admin.scopes, 3600)
    access.credentials.revoke_key(me, key.id)
    access.accounts.delete(me, other.id)
    told = [(entry.email, entry.way, entry.action, entry.outcome, entry.target) for entry in access.store.entries()]
    assert told[2:] == [
        (ANA, "session", "account", "disabled", other.id),
        (ANA, "session", "key", "made", key.id),
        (ANA, "session", "key", "ended", key.id),
        (ANA, "session", "account", "deleted", other.id),
    ]


# What is taken and what is not


def test_audit_tells_what_of_an_account_changed_and_which_roles(access: Access) -> None:
    """Names and never values; what a role means to this server is told first, and so never among what is cut off."""
    ana = add(access, ANA, "support", "auditor")
    many = [f"{letter * 31}" for letter in "abcdefghijklmnopq"]
    for given in (
        {"roles": ["admin", "support"], "first_name": "Anna"},
        {"enabled": False},
        {"enabled": True, "email": "anna@example.com", "last_name": "Silva"},
        {"roles": [*many, "auditor"]},
    ):
        access.accounts.change(OPERATOR, ana.id, given)
        add(access, "zoe@example.com", "admin") if "first_name" in given else None
    made, changed, _, disabled, enabled, cut = [entry.detail for entry in access.store.entries()]
    assert made == "roles: +auditor +support"
    assert changed == "first_name, roles: +admin -auditor"
    assert (disabled, enabled) == ("disabled", "email, enabled")
    assert cut.startswith("roles: -admin +auditor +aaa")
    assert (len(cut), cut[-1]) == (255, "…")


def test_audit_tells_the_scopes_of_a_key(access: Access) -> None:
    ana = add(access)
    scopes = frozenset(("messages:read", "messages:create"))
    access.credentials.make_key(Actor(ana, ana.scopes, "session"), "for a program", scopes, 60)
    assert access.store.entries()[-1].detail == "messages:create messages:read"


@pytest.mark.parametrize("way", ["key", "token"])
def test_program_gets_nobody_s_account_and_gives_nobody_power(access: Access, way: Way) -> None:
    """By a link or a password it would be an admin, and stay that when its key is revoked."""
    admin, ana = add(access, "admin@example.com", "admin"), add(access)
    auditor = add(access, "auditor@example.com", "auditor")
    program, accounts = Actor(admin, admin.scopes, way), access.accounts
    before, told = access.store.accounts(), len(access.store.entries())
    new = {"email": "eve@example.com", "first_name": "Eve", "last_name": "Melo"}
    for refused in (
        lambda: accounts.new_link(program, ana.id),
        lambda: accounts.new_link(program, admin.id),
        lambda: accounts.set_password(program, ana.id, PASSWORD),
        lambda: accounts.change(program, ana.id, {"roles": ["admin"]}),
        lambda: accounts.change(program, ana.id, {"roles": ["auditor"]}),
        lambda: accounts.change(program, admin.id, {"roles": []}),
        lambda: accounts.change(program, auditor.id, {"roles": ["admin", "auditor"]}),
        lambda: accounts.add(program, {**new, "roles": ["support", "admin"]}),
    ):
        with pytest.raises(ScopeRequired):
            refused()
    assert access.store.accounts() == before
    assert len(access.store.entries()) == told
    accounts.add(program, {**new, "roles": ["support"]})
    assert accounts.change(program, auditor.id, {"roles": ["auditor", "support"], "enabled": False}).enabled is False


def test_address_is_one_accounts_whatever_its_case(access: Access) -> None:
    account = add(access, "Ana@Example.com")
    assert account.email == ANA
    assert access.credentials.by_password("ANA@example.COM", PASSWORD, "").account == account
    other = add(access, "bruno@example.com")
    with pytest.raises(Taken):
        add(access, "aNA@example.com")
    with pytest.raises(Taken):
        access.accounts.change(OPERATOR, other.id, {"email": ANA})


@pytest.mark.parametrize(
    "given",
    [
        {"email": "ana"},
        {"email": "ana@example..com"},
        {"email": ""},
        {"email": None},
        {"first_name": ""},
        {"first_name": "a\nb"},
        {"roles": ["Admin"]},
        {"roles": [""]},
        {"roles": [None]},
        {"roles": "admin,,x y!"},
        {"password": "short"},
        {"enabled": True},
        {"x": "y"},
    ],
    ids=str,
)
def test_account_that_is_not_right_is_not_made(access: Access, given: dict[str, Any]) -> None:
    with pytest.raises(FieldRefused):
        add(access, **given)
    assert access.accounts.all() == []
    assert access.store.entries() == []


@pytest.mark.parametrize("nothing", ["", "None", "0", "null", "\x00", "%", "' OR 1=1 --", "\ud800", "A" * 10_000])
def test_nothing_never_owns_anything(access: Access, nothing: str) -> None:
    add(access, ANA, "admin")
    without, _ = access.accounts.add(OPERATOR, {"email": "b@example.com", "first_name": "B", "last_name": "C", "roles": []})
    assert without.password is None
    doors: list[Callable[[], object]] = [
        lambda: access.credentials.by_password(nothing, nothing, ""),
        lambda: access.credentials.by_password(ANA, nothing, ""),
        lambda: access.credentials.by_password("b@example.com", nothing, ""),
        lambda: access.credentials.by_session(nothing, ""),
        lambda: access.credentials.by_key(nothing, ""),
        lambda: access.tokens.by_token(nothing, "http://127.0.0.1", ""),
    ]
    for door in doors:
        with pytest.raises(WrongCredentials):
            door()
    for lookup in (access.accounts.get, access.accounts.link, access.accounts.of_email):
        with pytest.raises(NothingThere):
            lookup(nothing)


# Keys


def test_key_is_given_no_more_than_its_account_may_and_loses_what_that_loses(access: Access) -> None:
    add(access, "other@example.com", "admin")
    admin = add(access, ANA, "admin")
    me = Actor(admin, admin.scopes)
    _, text = access.credentials.make_key(me, "key", frozenset({"accounts:manage", "messages:read"}), 3600)
    with pytest.raises(FieldRefused):
        plain = add(access, "plain@example.com")
        access.credentials.make_key(Actor(plain, plain.scopes), "key", frozenset({"audit:read"}), 3600)
    assert access.credentials.by_key(text, "").scopes == {"accounts:manage", "messages:read"}
    access.accounts.change(OPERATOR, admin.id, {"roles": []})
    assert access.credentials.by_key(text, "").scopes == {"messages:read"}


def test_key_of_somebody_else_is_not_there_to_revoke_but_for_admins(access: Access) -> None:
    ana, bruno, admin = add(access), add(access, "bruno@example.com"), add(access, "admin@example.com", "admin")
    key, text = access.credentials.make_key(Actor(ana, ana.scopes), "key", ana.scopes, 3600)
    with pytest.raises(NothingThere):
        access.credentials.revoke_key(Actor(bruno, bruno.scopes), key.id)
    assert access.credentials.by_key(text, "").account == ana
    access.credentials.revoke_key(Actor(admin, admin.scopes), key.id)
    with pytest.raises(WrongCredentials):
        access.credentials.by_key(text, "")


def test_hash_of_one_kind_of_secret_opens_no_other(access: Access) -> None:
    """Whoever could have a secret stored as a session's, say, has no key by it."""
    ana = add(access)
    _, text = access.credentials.make_key(Actor(ana, ana.scopes), "key", ana.scopes, 3600)
    with pytest.raises(WrongCredentials):
        access.credentials.by_session(text, "")
    access.store.add_session(Session(digest_of("session", "x"), ana.id, ana.created_at, Millis(ana.created_at + 1000)), ana)
    with pytest.raises(WrongCredentials):
        access.credentials.by_key("x", "")


# Over HTTP, on all nodes


def _shared_accounts(engine: str, folder: Path) -> str:
    """The URL of an empty database of accounts that several nodes can share; PostgreSQL by its own socket."""
    place = new_access_place(engine, folder)
    place.close()
    if engine == "file":
        return place.url
    server = postgresql()
    user, _, name = place.url.partition("127.0.0.1")
    return f"{user}{name}?socket={server.folder}"


@pytest.mark.parametrize("engine", ["file", "postgresql"])
def test_what_is_revoked_ended_or_changed_holds_at_once_on_the_other_node(engine: str, tmp_path: Path) -> None:
    """Each change by one node is asked of the other in the next request."""
    url = _shared_accounts(engine, tmp_path)
    with (
        Served(tmp_path, database="file", MAYFLY_ACCOUNTS_DATABASE_URL=url, **ONE_NAME) as one,
        one.node(tmp_path / "two", **ONE_NAME) as two,
    ):
        one.add_account("admin@example.com", "admin")
        ana = one.add_account(ANA, "auditor")
        key = one.make_key(ANA, "messages:read", "audit:read")
        token = one.token_of(key)
        admin = httpx.Client(base_url=one.url, auth=httpx.BasicAuth("admin@example.com", PASSWORD), headers=JSON, timeout=30)
        with one.signed_in(ANA) as browser:
            session = browser.cookies["mayfly-session"]
        shown: dict[str, dict[str, str]] = {
            "session": {"Cookie": f"mayfly-session={session}"},
            "key": {"Authorization": f"Bearer {key['key']}"},
            "token": {"Authorization": f"Bearer {token}"},
        }

        def statuses(path: str = "/account") -> dict[str, int]:
            return {way: two.http.get(path, headers={**JSON, **headers}).status_code for way, headers in shown.items()}

        def scopes(way: str) -> list[str]:
            return list(two.http.get("/account", headers={**JSON, **shown[way]}).json()["scopes"])

        assert statuses() == {"session": 200, "key": 200, "token": 200}
        assert "audit:read" in scopes("key")
        assert "audit:read" in scopes("token")
        assert admin.patch(f"/accounts/{ana}", json={"roles": []}).status_code == 200
        assert statuses() == {"session": 401, "key": 200, "token": 200}
        assert scopes("key") == scopes("token") == ["messages:read"]
        assert admin.patch(f"/accounts/{ana}", json={"enabled": False}).status_code == 200
        assert statuses() == {"session": 401, "key": 401, "token": 401}
        assert admin.patch(f"/accounts/{ana}", json={"enabled": True}).status_code == 200
        assert statuses() == {"session": 401, "key": 200, "token": 200}
        assert admin.delete(f"/keys/{key['id']}").status_code == 204
        assert statuses() == {"session": 401, "key": 401, "token": 401}
        with one.signed_in(ANA) as browser:
            shown["session"] = {"Cookie": f"mayfly-session={browser.cookies['mayfly-session']}"}
            assert statuses()["session"] == 200
            assert browser.post("/sign-out").status_code == 204
            assert statuses()["session"] == 401
        assert admin.delete(f"/accounts/{ana}").status_code == 204
        assert two.http.get("/account", auth=httpx.BasicAuth(ANA, PASSWORD)).status_code == 401
        admin.close()


ONE_NAME = {"MAYFLY_PUBLIC_URL": "http://127.0.0.1:8000"}
"""What tokens call the server, whichever node is asked."""


def test_forged_header_never_changes_the_audited_address(tmp_path: Path) -> None:
    """Neither for who signs in nor for who is refused, as long as no proxy is trusted."""
    forged = dict.fromkeys(("X-Forwarded-For", "X_Forwarded_For", "X-Real-IP", "True-Client-IP"), "203.0.113.9")
    with Served(tmp_path, MAYFLY_AUDIT_ADDRESSES="full") as served:
        served.add_account(ANA, "admin")
        for headers in ({"Forwarded": "for=203.0.113.9"}, *({name: value} for name, value in forged.items()), forged):
            for password in ("wrong", PASSWORD):
                served.http.post("/sign-in", json={"email": ANA, "password": password}, headers=headers)
        with closing(sqlite3.connect(tmp_path / "accounts.db")) as database:
            found = database.execute("SELECT address FROM mayfly_entries WHERE action = 'sign-in'").fetchall()
        assert found == [("127.0.0.1",)] * 12


def test_key_lasts_no_longer_than_it_was_given(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.add_account(ANA)
        auth = httpx.BasicAuth(ANA, PASSWORD)
        for seconds in (59, MAX_KEY_SECONDS + 1):
            wanted = {"name": "x", "scopes": ["messages:read"], "expires_in": seconds}
            assert served.http.post("/keys", json=wanted, auth=auth).status_code == 400
        with served.with_key(ANA, "messages:read", expires_in=3600) as program:
            assert program.get("/account").status_code == 200
            served.clock.advance(3601)
            assert program.get("/account").status_code == 401
