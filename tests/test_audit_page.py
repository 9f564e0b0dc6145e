"""The handler of `GET /audit`: what auditors see, how it is filtered and paged, and that they looked is in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import keyfile
from audit import ACTIONS, OUTCOMES, Audit
from audit.chain import read_statements
from database import AccessStore, open_access
from errors import AuditFailed, BadRequest
from keyfile import KeyFile
from records import Account, AccountId, Actor, Event, Role
from settings import Settings
from tests.stores import NOW, SetClock
from web.answers import Answer
from web.audit import LOOK, AuditPage

HTML, JSON, LINES = "text/html", "application/json", "application/x-ndjson"
HOUR = 3_600_000


def account(email: str, *roles: str) -> Account:
    account_id = AccountId(f"00000000-0000-4000-8000-{sum(email.encode()):012}")
    return Account(account_id, email, "Some", "Body", frozenset(map(Role, roles)), True, NOW, NOW)


AUDITOR = Actor(account("auditor@example.org", "auditor"), way="session", credential="5e551047", address="198.51.100.9")
ANA, BEN = (Actor(account(f"{name}@example.org"), way="key", address="203.0.113.5") for name in ("ana", "ben"))


class Kept:
    """An audit with a page over it, and a clock that goes on by an hour with each entry."""

    def __init__(self, folder: Path) -> None:
        keyfile.create(folder / "key.json")
        self.clock = SetClock()
        store = open_access(Settings(), folder / "key.json", self.clock)
        assert store
        self.store: AccessStore = store
        self.audit = Audit(store, KeyFile(folder / "key.json"))
        self.page = AuditPage(self.audit)

    def write(self, action: str, outcome: str, actor: Actor, vault: Any = None, target: str = "") -> None:
        self.audit.write(Event(action, outcome, actor, vault, target))
        self.clock.advance(HOUR)

    def get(self, query: str = "", accept: str = JSON, actor: Actor = AUDITOR) -> Answer:
        return self.page.audit({"QUERY_STRING": query, "HTTP_ACCEPT": accept, "REMOTE_ADDR": actor.address, "mayfly.actor": actor})

    def numbers(self, query: str) -> list[int]:
        """Which entries were found, beside those of looking."""
        entries = json.loads(self.get(query).body)["entries"]
        return [entry["number"] for entry in entries if entry["action"] != "audit"]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Six entries, an hour apart from 2027-01-15T08:00:00Z."""
    kept = Kept(tmp_path)
    kept.write("create", "done", ANA, "guarded", "aa" * 8)
    kept.write("open", "answered", ANA, "guarded", "aa" * 8)
    kept.write("open", "gone", BEN, "guarded", "aa" * 8)
    kept.write("open", "answered", Actor(address="2001:db8:5:6::7"), "open", "bb" * 8)
    kept.write("open", "answered", ANA, "guarded", "cc" * 8)
    kept.write("key", "made", Actor(way="command"), None, "k1")
    return kept


# What is told


def test_an_entry_is_told_whole_and_without_the_rest_of_its_address(kept: Kept) -> None:
    document = json.loads(kept.get().body)
    assert set(document) == {"entries", "before", "last_accesses", "head"}
    (entry,) = [entry for entry in document["entries"] if entry["number"] == 2]
    assert len(bytes.fromhex(entry.pop("mac"))) == 32
    assert entry == {
        "number": 2,
        "at": "2027-01-15T09:00:00Z",
        "who": "ana@example.org",
        "account": ANA.account and ANA.account.id,
        "email": "ana@example.org",
        "way": "key",
        "credential": None,
        "action": "open",
        "outcome": "answered",
        "vault": "guarded",
        "target": "aa" * 8,
        "address": "203.0.113.0/24",
        "detail": None,
    }


def test_whoever_has_no_account_is_told_by_what_is_known(kept: Kept) -> None:
    kept.write("sign-in", "refused", Actor(address="203.0.113.5"))
    kept.write("purge", "done", Actor(way="admin token"))
    who = {entry["number"]: entry["who"] for entry in json.loads(kept.get().body)["entries"]}
    assert (who[4], who[6], who[7], who[8]) == ("link holder", "operator", "nobody", "admin token")


def test_last_accesses_are_those_that_were_answered_by_account_and_vault(kept: Kept) -> None:
    last = json.loads(kept.get().body)["last_accesses"]
    assert {(entry["who"], entry["vault"], entry["number"]) for entry in last} == {
        ("ana@example.org", "guarded", 5),
        ("link holder", "open", 4),
    }


def test_who_looked_is_the_newest_entry_of_what_they_see_and_head_is_over_it(kept: Kept) -> None:
    document = json.loads(kept.get().body)
    looked = document["entries"][0]
    assert (looked["number"], looked["who"], looked["action"], looked["outcome"]) == (7, "auditor@example.org", "audit", "answered")
    assert (looked["way"], looked["credential"], looked["address"]) == ("session", "5e551047", "198.51.100.0/24")
    (head,) = read_statements(document["head"])
    assert (head.number, head.mac.hex()) == (7, looked["mac"])
    assert kept.audit.verify([head]).faults == ()


@pytest.mark.parametrize("accept", [HTML, JSON, LINES, "*/*"])
def test_looking_is_written_once_a_request(kept: Kept, accept: str) -> None:
    kept.get("most=2", accept)
    assert [entry.action for entry in kept.store.entries(5)] == ["key", "audit"]


def test_nothing_is_shown_when_it_cannot_be_written_that_somebody_looked(kept: Kept) -> None:
    kept.store.remove_secret("audit")
    kept.audit._known_keys = None
    for accept in (HTML, JSON, LINES):
        with pytest.raises(AuditFailed):
            kept.get("", accept)


# How it is told


def test_json_lines_are_for_all_who_ask_for_neither_a_page_nor_a_document(kept: Kept) -> None:
    for accept in (LINES, "*/*", "", "text/plain"):
        answer = kept.get("action=open", accept)
        assert (answer.status, answer.content_type) == (200, LINES)
        lines = answer.body.decode().splitlines()
        assert [json.loads(line)["number"] for line in lines] == [5, 4, 3, 2]
        assert answer.body.endswith(b"}\n")
    assert kept.get("as=lines", HTML).content_type == LINES
    assert kept.get("action=burn", LINES).body == b""


def test_lines_and_document_tell_the_same(kept: Kept) -> None:
    lines = [json.loads(line) for line in kept.get("action=open", LINES).body.splitlines()]
    assert lines == json.loads(kept.get("action=open").body)["entries"]


# Filters and pages


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [6, 5, 4, 3, 2, 1]),
        ("account=ana@example.org", [5, 2, 1]),
        ("account=Ana%40Example.ORG", [5, 2, 1]),
        (f"account={BEN.account and BEN.account.id}", [3]),
        (f"account={BEN.account and BEN.account.id.upper()}", [3]),
        ("account=%25", []),
        ("action=open", [5, 4, 3, 2]),
        ("action=open&outcome=gone", [3]),
        ("vault=open", [4]),
        (f"target={'aa' * 8}", [3, 2, 1]),
        ("since=2027-01-15T10:00:00Z", [6, 5, 4, 3]),
        ("until=2027-01-15T10:00:00Z", [2, 1]),
        ("since=2027-01-15T09:00:00Z&until=2027-01-15T10:00:00Z", [2]),
        ("since=2027-01-16", []),
        ("until=2027-01-14", []),
        ("since=2027-01-15&until=2027-01-15", [6, 5, 4, 3, 2, 1]),
        ("before=4", [3, 2, 1]),
        ("before=4&most=2", [3, 2]),
        ("account=&action=&outcome=&vault=open&target=&since=&until=&before=", [4]),
        ("vault=open&lang=pt-BR", [4]),
    ],
)
def test_filters_find_what_they_say(kept: Kept, query: str, found: list[int]) -> None:
    """What a form leaves empty filters nothing."""
    assert kept.numbers(query) == found


@pytest.mark.parametrize(
    "query",
    [
        "unknown=1",
        "action=opened",
        "outcome=ok",
        "vault=none",
        "since=yesterday",
        "since=2027-13-01",
        "since=2027-01-15T10:00:00",
        "since=2027-01-15T10:00:00%2B01:00",
        "until=9999-12-31",
        "before=0",
        "before=-1",
        "most=0",
        "most=1001",
        "as=csv",
        "action=open&action=open",
        "account=%00",
        "account=" + "a" * 255,
        "target=%ED%A0%80",
    ],
)
def test_what_is_wrong_in_a_query_is_refused_and_nothing_was_looked_at(kept: Kept, query: str) -> None:
    with pytest.raises(BadRequest):
        kept.get(query)
    assert len(kept.store.entries()) == 6


def test_pages_lead_through_all_entries_once(kept: Kept) -> None:
    seen: list[int] = []
    document = json.loads(kept.get("most=2&until=2027-01-15T13:30:00Z").body)
    while True:
        seen += [entry["number"] for entry in document["entries"]]
        if document["before"] is None:
            break
        document = json.loads(kept.get(f"most=2&until=2027-01-15T13:30:00Z&before={document['before']}").body)
        assert document["last_accesses"] == []
    assert seen == [6, 5, 4, 3, 2, 1]


def test_page_leads_to_older_entries_and_to_lines_with_its_filters(kept: Kept) -> None:
    page = kept.get("action=open&most=2&lang=pt-BR", HTML).body.decode()
    assert 'href="/audit?action=open&amp;most=2&amp;before=4&amp;lang=pt-BR"' in page
    assert 'href="/audit?action=open&amp;most=2&amp;as=lines"' in page
    assert "<option selected>open</option>" in page
    assert 'rel="next"' not in kept.get("action=open", HTML).body.decode()


def test_page_shows_what_people_chose_as_text(kept: Kept) -> None:
    hostile = '"><script>alert(1)</script>'
    kept.write("account", "made", Actor(replace(account("x@example.org"), email=hostile), way="session"), None, hostile)
    page = kept.get("", HTML).body.decode() + kept.get(f"account={hostile.replace('>', '%3E')}", HTML).body.decode()
    assert "<script" not in page
    assert page.count("&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;") >= 3


def test_page_knows_every_action_and_outcome(kept: Kept) -> None:
    page = kept.get("", HTML).body.decode()
    assert set(re.findall("<option[^>]*>([a-z-]+)</option>", page)) >= {*ACTIONS, *OUTCOMES}
    for name in LOOK.names - {"before", "most", "as"}:
        assert f'name="{name}"' in page
