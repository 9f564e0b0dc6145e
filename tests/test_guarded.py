"""Guarded messages over HTTP: whoever is not meant finds nothing, and a record is told to each reader as they may see it."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.base import AXE_FILE_PATH

from access.credentials import KEY_PREFIX, digest_of
from database import open_access
from records import EVERY_ACCOUNT, Account, AccountId, ApiKey, Millis, Role, Scope
from settings import Settings
from tests.browser import chromium
from tests.serving import CreatedMessage, Served
from tests.test_canaries import Canaries, log_with

CARD = "4111111111111111"
POLICY = {"payments": {"name": "show", "card": "show"}, "support": {"name": "show", "card": "mask", "pin": "mask"}}
RECORD = {"name": "Ada Lovelace", "card": CARD, "pin": "0000"}
NEVER = "/guarded/00000000-0000-4000-8000-000000000000"
ACCEPTS = ("application/json", "text/plain", "text/html")


def key_of(served: Served, name: str, *roles: str, scopes: Iterable[Scope] = EVERY_ACCOUNT) -> dict[str, str]:
    """The header of somebody with these roles: an account and an API key, made behind the server's back."""
    store = open_access(Settings(), served.key_file)
    assert store
    with closing(store):
        now, key, account = store.now(), KEY_PREFIX + secrets.token_urlsafe(32), AccountId(f"{secrets.token_hex(4)}-id")
        store.add_account(Account(account, f"{name}@example.com", name, "", frozenset(map(Role, roles)), True, now, now))
        ends = Millis(now + 3_600_000)
        store.add_key(ApiKey(secrets.token_hex(8), digest_of("key", key), account, "test", frozenset(scopes), now, ends))
    return {"Authorization": f"Bearer {key}"}


class People:
    """A server with people in it."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.payer, self.supporter = key_of(served, "payer", "payments"), key_of(served, "supporter", "support")
        self.cook = key_of(served, "cook", "kitchen")

    def create(self, **fields: Any) -> CreatedMessage:
        answer = self.served.http.post("/guarded", json=fields)
        assert answer.status_code == 201, answer.text
        return CreatedMessage(**answer.json())

    def record(self, **fields: Any) -> CreatedMessage:
        return self.create(**{"format": "record", "message": RECORD, "policy": POLICY, **fields})

    def ask(self, who: dict[str, str], method: str, path: str, accept: str = "application/json", **how: Any) -> httpx.Response:
        headers = {**who, "Accept": accept, **how.pop("headers", {})}
        return self.served.http.request(method, path, headers=headers, **how)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    with Served(tmp_path_factory.mktemp("records")) as served:
        yield People(served)


ATTEMPTS: list[tuple[str, dict[str, Any]]] = [
    ("GET", {}),
    ("POST", {}),
    ("POST", {"json": {"passphrase": "right"}}),
    ("POST", {"json": {"passphrase": "wrong"}}),
    ("POST", {"data": {"open": "yes"}}),
    ("POST", {"data": {"open": "no"}}),
    ("POST", {"headers": {"Idempotency-Key": "k" * 16}}),
    ("DELETE", {"headers": {"Idempotency-Key": "k" * 16}}),
]


@pytest.mark.parametrize("accept", ACCEPTS)
def test_outside_the_audience_a_message_answers_as_one_that_never_was(people: People, accept: str) -> None:
    """The same status, body and headers, whatever is tried; and nothing is used up."""
    fields: list[dict[str, Any]] = [{"views": 1}, {}, {"views": 1, "passphrase": "right"}]
    messages = [people.create(message="m", audience="role:payments", **more) for more in fields]
    messages += [people.record(audience=["account:payer@example.com"], views=1)]
    for message in messages:
        for method, how in ATTEMPTS:
            answer, never = (people.ask(people.supporter, method, path, accept, **how) for path in (message.path, NEVER))
            assert (answer.status_code, answer.content) == (404, never.content), (method, how)
            assert _headers(answer) == _headers(never)
        receipt = people.ask({}, "GET", message.receipt_path).json()
        assert (receipt["state"], receipt["views_left"]) == ("waiting", message.views)
    with_passphrase = people.ask(people.payer, "POST", messages[2].path, json={"passphrase": "wrong"})
    assert with_passphrase.json()["tries_left"] == 4, "no try of theirs was counted"


def test_audit_is_told_of_links_that_are_none_as_of_messages_for_others(people: People) -> None:
    """What is written before the answer takes milliseconds: for one of the two alone it would tell them apart."""
    message = people.create(message="m", audience="role:payments", views=1)
    auditor = key_of(people.served, f"auditor{secrets.token_hex(4)}", "auditor", scopes={"audit:read"})
    for method, how in ATTEMPTS:
        told = []
        for path in (message.path, NEVER):
            people.ask(people.supporter, method, path, **how)
            newest = people.ask(auditor, "GET", "/audit?vault=guarded&most=1").json()["entries"][0]
            told.append({name: newest[name] for name in ("number", "who", "action", "outcome")})
        assert told[1].pop("number") > told[0].pop("number"), (method, how)
        assert told[0] == told[1]
    accounts = people.served.folder / "accounts.db"
    _run(accounts, "ALTER TABLE mayfly_entries RENAME TO away")
    answers = {people.ask(people.supporter, "POST", path).status_code for path in (message.path, NEVER)}
    _run(accounts, "ALTER TABLE away RENAME TO mayfly_entries")
    assert answers == {503}


def _headers(answer: httpx.Response) -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in answer.headers.multi_items() if name != "date")


def test_record_in_json_is_what_the_reader_may_see(people: People) -> None:
    message = people.record()
    seen = {
        "payer": {"record": {"name": "Ada Lovelace", "card": CARD}, "masked": []},
        "supporter": {"record": {"name": "Ada Lovelace", "card": "••••1111", "pin": "••••"}, "masked": ["card", "pin"]},
        "cook": {"record": {}, "masked": []},
    }
    for method in ("GET", "POST"):
        for name, expected in seen.items():
            answer = people.ask(getattr(people, name), method, message.path).json()
            assert answer == {**expected, "format": "record", "expires_at": message.expires_at, "views_left": None}


def test_record_in_text_is_lines(people: People) -> None:
    """None of which can be taken for another field: what goes on is indented."""
    message = people.record(message={**RECORD, "name": "Ada\ncard: 1\n\nx "})
    assert people.ask(people.supporter, "GET", message.path, "text/plain").text == (
        "name: Ada\n  card: 1\n  \n  x \ncard: ••••1111\npin: ••••\n"
    )
    assert people.ask(people.cook, "GET", message.path, "text/plain").text == ""


def test_record_on_a_page_marks_what_is_masked(people: People) -> None:
    """For eyes and for screen readers, which do not read the dots; what is hidden is nowhere in the page."""
    page = people.ask(people.supporter, "GET", people.record().path, "text/html").text
    rows = re.findall(r"<dt><bdi>(.*?)</bdi></dt><dd[^>]*>(.*?)</dd>", page)
    assert rows == [
        ("name", "Ada Lovelace"),
        ("card", '<span aria-hidden="true">••••</span>1111 <small>the rest is hidden</small>'),
        ("pin", '<span aria-hidden="true">••••</span> <small>hidden</small>'),
    ]
    assert CARD[:-4] not in page
    assert "0000" not in page
    nothing = people.ask(people.cook, "GET", people.record().path, "text/html").text
    assert "Nothing in it is meant for you" in nothing
    assert "card" not in nothing


def test_axe_finds_nothing_on_the_page_of_a_record(people: People) -> None:
    """For who sees part of it, and for who sees none, in a browser."""
    path = people.record().path
    with chromium() as browser:
        for who in (people.supporter, people.cook):
            context = browser.new_context(base_url=people.served.url, extra_http_headers=who, bypass_csp=True)
            page = context.new_page()
            page.goto(path)
            page.add_script_tag(path=AXE_FILE_PATH)
            assert page.evaluate("axe.run().then(found => found.violations.map(one => one.id))") == []
            context.close()


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "%(x)s &amp; &lt;", "javascript:alert(1)"]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_values_make_no_markup(people: People, text: str) -> None:
    name = text[:64]
    message = people.record(message={name: text, "card": text + CARD}, policy={"support": {name: "show", "card": "mask"}})
    page = people.ask(people.supporter, "GET", message.path, "text/html").text
    ((shown_name, shown), _) = re.findall(r"<dt><bdi>(.*?)</bdi></dt><dd[^>]*>(.*?)</dd>", page)
    assert (unescape(shown_name), unescape(shown)) == (name, text)
    assert not re.search(r"[<>]", shown_name + shown)


def test_form_sends_a_record_as_text_and_empty_fields_are_none(people: People) -> None:
    fields = {"message": json.dumps(RECORD), "format": "record", "policy": json.dumps(POLICY), "audience": "", "passphrase": ""}
    answer = people.ask({}, "POST", "/guarded", data=fields)
    assert answer.status_code == 201
    path = answer.headers["Location"].removeprefix(people.served.url)
    assert people.ask(people.payer, "GET", path).json()["record"]["card"] == CARD
    plain = people.ask({}, "POST", "/guarded", data={"message": "m", "audience": "role:payments", "policy": "", "format": "text"})
    path = plain.headers["Location"].removeprefix(people.served.url)
    assert people.ask(people.payer, "GET", path, "text/plain").text == "m"
    assert people.ask(people.cook, "GET", path).status_code == 404


def test_reader_who_sees_nothing_leaves_it_to_others(people: People) -> None:
    message = people.record(views=1)
    for _ in range(3):
        answer = people.ask(people.cook, "POST", message.path, headers={"Idempotency-Key": "k" * 16}).json()
        assert (answer["record"], answer["views_left"]) == ({}, 1)
    page = people.ask(people.cook, "POST", message.path, "text/html", data={"open": "yes"}).text
    assert "nothing was used up" in page
    assert people.ask(people.payer, "POST", message.path).json()["views_left"] == 0
    assert people.ask(people.cook, "POST", message.path).status_code == 404


def test_lease_is_no_good_to_another_account(people: People) -> None:
    """One view is one reader's: who is in the audience too and sends the same key gets nothing, and ends nothing."""
    message = people.record(views=1)
    key = {"Idempotency-Key": "k" * 16}
    first = people.ask(people.supporter, "POST", message.path, headers=key)
    assert first.json()["record"]["card"] == "••••1111"
    for method in ("POST", "DELETE", "GET"):
        assert people.ask(people.payer, method, message.path, headers=key).status_code == 404
    assert people.ask(people.supporter, "POST", message.path, headers=key).json() == first.json()
    assert people.ask(people.supporter, "DELETE", message.path, headers=key).status_code == 204


def test_open_vault_takes_neither_audience_nor_record(people: People) -> None:
    for more in ({"audience": "role:payments"}, {"format": "record", "message": RECORD, "policy": POLICY}):
        answer = people.served.http.post("/", json={"message": "m", **more})
        assert answer.status_code == 400
        assert "whose readers sign in" in answer.json()["detail"]
        assert answer.json()["field"] in more


@pytest.mark.parametrize("lane", ["on", "off"])
def test_creating_can_be_for_accounts_alone(tmp_path: Path, lane: str) -> None:
    """In every vault and lane, while reading by link stays anonymous in the open one."""
    with Served(tmp_path, MAYFLY_CREATE="accounts", MAYFLY_EXPRESS=lane) as served:
        somebody = key_of(served, "somebody")
        for path in ("/", "/guarded", "/sealed"):
            assert served.http.post(path, json={"message": "m"}).status_code == 401
            assert served.http.post(path, json={"message": "m"}, headers=somebody).status_code == 201
        link = served.http.post("/", json={"message": "m"}, headers=somebody).headers["Location"]
        assert served.http.get(link, headers={"Accept": "text/plain"}).text == "m"


# What is kept of it elsewhere


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[People]:
    """With everything logged, and the messages in a file."""
    database = f"sqlite:///{tmp_path / 'guarded.db'}"
    with Served(tmp_path, MAYFLY_LOG_LEVEL="debug", MAYFLY_GUARDED_DATABASE_URL=database) as served:
        yield People(served)


def test_nothing_of_a_record_is_logged_at_any_level_not_on_faults_either(watched: People) -> None:
    """Nor is the audience, or the policy. Masked answers hold no more than the ends. Then the audit fails, the store, the code."""
    served, canaries = watched.served, Canaries()
    fields = {"card": canaries("card"), "name": canaries("name"), canaries("field"): canaries("value")}
    rules = dict.fromkeys(fields, "mask")
    message = watched.record(message=fields, policy={"support": rules, "payments": rules}, passphrase=canaries("passphrase"))
    canaries.add("link id", message.id)
    canaries.add("audience", "canary.reader@example.com")
    opening = {"passphrase": canaries.all["passphrase"]}
    answers = [watched.ask(watched.supporter, "POST", message.path, accept, json=opening) for accept in ACCEPTS]
    for answer in answers:
        assert answer.status_code == 200
        assert set(canaries.found_in(answer.text)) <= {"field"}, "its name is shown, and of the values their ends"
    refused: list[httpx.Response] = []
    for accept in ACCEPTS:
        for wrong in (
            {"policy": {"a": {canaries("rule"): "show"}}},
            {"message": {canaries("odd"): 7}},
            {"audience": canaries("who")},
        ):
            bad = {"format": "record", "message": fields, "policy": POLICY, **wrong}
            refused.append(served.http.post("/guarded", json=bad, headers={"Accept": accept}))
        refused.append(watched.ask(watched.supporter, "POST", message.path, accept, json={"passphrase": canaries("wrong")}))
    assert {answer.status_code for answer in refused} == {400, 403}

    def fail(path: Path, breaking: str, mending: str, sign: str, status: int) -> None:
        _run(path, breaking)
        for accept in ACCEPTS:
            refused.append(watched.ask(watched.supporter, "POST", message.path, accept, json=opening))
            assert refused[-1].status_code == status
        log_with(served, sign)
        _run(path, mending)

    rename = "ALTER TABLE {} RENAME TO {}"
    accounts, guarded = served.folder / "accounts.db", served.folder / "guarded.db"
    fail(accounts, rename.format("mayfly_entries", "away"), rename.format("away", "mayfly_entries"), "audit cannot be written", 503)
    fail(guarded, rename.format("bodies", "away"), rename.format("away", "bodies"), r"StoreFailed at .*sqlite", 503)
    fail(guarded, "UPDATE messages SET openings = 'x,'", "UPDATE messages SET openings = ''", "ValueError at", 500)
    assert watched.ask(watched.supporter, "POST", message.path, json=opening).status_code == 200
    for answer in refused:
        assert not canaries.found_in(answer.text + str(answer.headers.multi_items()))
    assert served.stop() == 0
    log = served.log()
    assert "POST /guarded/… 200" in log, "the log is at debug level"
    assert not canaries.found_in(log)
    with closing(sqlite3.connect(accounts)) as db:
        kept = canaries.found_in("\n".join(db.iterdump()))
    assert kept == ["field"], "the audit names the fields that were seen, and keeps nothing of what was in them"


def _run(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as db:
        db.execute(statement)
        db.commit()


def test_open_vault_does_not_wait_for_who_waits_for_the_audit(tmp_path: Path) -> None:
    """Another process has the file of accounts and audit for itself, as a command may for a moment."""
    with Served(tmp_path) as served, ThreadPoolExecutor(1) as threads:
        payer, path = key_of(served, "payer", "payments"), served.http.post("/guarded", json={"message": "m"}).headers["Location"]
        with closing(sqlite3.connect(tmp_path / "accounts.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            guarded = threads.submit(httpx.get, path, headers=payer, timeout=10)
            waits = []
            while not guarded.done():
                waits.append(served.http.post("/", json={"message": "m"}).elapsed)
        assert guarded.result().status_code == 503
        assert max(waits) < guarded.result().elapsed / 2, "nearly a second"


@pytest.mark.parametrize("other", [False, True], ids=["removed", "exchanged"])
def test_nothing_is_revealed_when_the_audits_file_is_not_there_any_more(tmp_path: Path, other: bool) -> None:
    """What is written into a file without a name ends with the process: the audit that is found then would know nothing of it."""
    with Served(tmp_path) as served:
        payer, path = key_of(served, "payer", "payments"), served.http.post("/guarded", json={"message": "m"}).headers["Location"]
        assert served.http.get(path, headers=payer).status_code == 200
        accounts = tmp_path / "accounts.db"
        accounts.rename(tmp_path / "away.db")
        if other:
            (tmp_path / "accounts.db").write_bytes((tmp_path / "away.db").read_bytes())
        assert served.http.get(path, headers=payer).status_code == 503
        assert served.http.post("/", json={"message": "m"}).status_code == 201, "the open vault does not notice"
        (tmp_path / "away.db").rename(accounts)
        assert served.http.get(path, headers=payer).status_code == 200


def test_guarded_message_survives_an_audit_that_cannot_be_written(people: People) -> None:
    message = people.record(views=1)
    accounts = people.served.folder / "accounts.db"
    _run(accounts, "ALTER TABLE mayfly_entries RENAME TO away")
    for accept in ACCEPTS:
        answer = people.ask(people.payer, "POST", message.path, accept)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert CARD not in answer.text
    assert people.served.http.post("/", json={"message": "m"}).status_code == 201, "the open vault does not notice"
    _run(accounts, "ALTER TABLE away RENAME TO mayfly_entries")
    assert people.ask(people.payer, "POST", message.path).json()["record"]["card"] == CARD
