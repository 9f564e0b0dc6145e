"""Whoever only looks uses nothing up: every route, every safe method, bots, prefetching, and scanners that submit forms."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import keyfile
import server as mayfly
from settings import Settings
from tests.serving import CreatedMessage, Served
from web.app import build_app
from web.authentication import Authentication
from web.handlers import Handlers
from web.limits import Limits

AGENTS = [
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "facebookexternalhit/1.1",
    "TelegramBot (like TwitterBot)",
    "WhatsApp/2.23.20.0",
    "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) SkypeUriPreview Preview/0.5",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; ms-office) SafeLinks",
    "Mozilla/5.0 (compatible; Googlebot/2.1)",
    "curl/8.14.1",
]
AHEAD: list[dict[str, str]] = [
    {},
    {"Sec-Purpose": "prefetch"},
    {"Sec-Purpose": "prefetch;prerender"},
    {"Sec-Purpose": "prefetch;anonymous-client-ip"},
    {"Purpose": "prefetch"},
    {"X-Moz": "prefetch"},
    {"X-Purpose": "preview"},
]
ACCEPTS = ["text/html", "application/json", "*/*"]
SAFE = ["GET", "HEAD", "OPTIONS", "TRACE"]


def all_rules(folder: Path) -> list[str]:
    """The URL map of the application, as its rules are written."""
    key_file = folder / "key.json"
    keyfile.create(key_file)
    settings = Settings(key_file=key_file)
    vaults = mayfly.open_vaults(settings)
    authentication = Authentication(settings, vaults[0].keys, Limits(0))
    app = build_app([Handlers(vault, settings) for vault in vaults], authentication)
    return sorted({rule.rule for rule in app.url_map.iter_rules()})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), database="file") as running:
        yield running


@pytest.fixture(scope="module")
def messages(served: Served) -> list[CreatedMessage]:
    return [
        served.create("canary 1", views=1),
        served.create("canary 2", views=1, passphrase="right"),
        served.create("canary 3", passphrase="right"),
        served.create("freely read"),
    ]


def rows(served: Served) -> dict[str, list[tuple[Any, ...]]]:
    """Everything the store holds of messages, byte for byte."""
    with closing(sqlite3.connect(f"file:{served.database_file}?mode=ro", uri=True)) as database:
        return {
            table: database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in ("messages", "bodies", "claims")
        }


def paths_of(rule: str, message: CreatedMessage) -> str:
    """A rule with a live message in it. A rule with an argument that is not known here must be added."""
    token = message.receipt_path.rpartition("/")[2]
    return rule.replace("<link_id>", message.id).replace("<token>", token).replace("<path:name>", "mayfly.css")


def test_no_safe_method_changes_a_row(served: Served, messages: list[CreatedMessage], tmp_path: Path) -> None:
    before = rows(served)
    assert len(before["bodies"]) == 4
    rules = all_rules(tmp_path)
    assert {"/", "/message/<link_id>", "/receipt/<token>", "/admin", "/delete", "/healthz", "/readyz"} <= set(rules)
    for rule, message in product(rules, messages):
        path = paths_of(rule, message)
        assert "<" not in path, f"say what stands for the argument of {rule}"
        for method, agent, ahead in product(SAFE, AGENTS[:3], AHEAD[:2]):
            assert (
                served.http.request(method, path, headers={"User-Agent": agent, "Accept": "text/html", **ahead}).status_code < 500
            )
        for query in ("?open=yes", "?open=yes&passphrase=right", "?burn=yes", "?do=purge", "?_method=POST", "?fbclid=x"):
            served.http.get(
                path + query, headers={"Accept": "text/html", "X-HTTP-Method-Override": "POST", "Idempotency-Key": "k" * 16}
            )
        assert rows(served) == before, f"{rule} for {message}"


def test_no_bot_changes_a_row_of_a_message(served: Served, messages: list[CreatedMessage]) -> None:
    before = rows(served)
    for message, method in product(messages, SAFE):
        for agent, ahead, path in product(AGENTS, AHEAD, (message.path, message.receipt_path)):
            answer = served.http.request(method, path, headers={"User-Agent": agent, "Accept": "text/html", **ahead})
            assert "canary" not in answer.text
        assert rows(served) == before, f"{method} {message}"


@pytest.mark.parametrize("ahead", AHEAD[1:6], ids=str)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_prefetching_is_refused_alike_for_links_dead_or_alive(
    served: Served, messages: list[CreatedMessage], ahead: dict[str, str], method: str
) -> None:
    before = rows(served)
    for accept in ACCEPTS:
        answers = [
            served.http.request(method, path, headers={"Accept": accept, **ahead})
            for path in (*(message.path for message in messages), messages[0].receipt_path, f"/message/{uuid4()}")
        ]
        assert {answer.status_code for answer in answers} == {403}
        assert len({answer.content for answer in answers}) == 1
    assert rows(served) == before


def test_scanner_that_submits_the_form_uses_nothing_up(served: Served, messages: list[CreatedMessage]) -> None:
    """As it stands in the page, without the tick: with each button, as form and multipart, with and without a query."""
    before = rows(served)
    forms: list[dict[str, str]] = [{}, {"idempotency_key": "k" * 24}, {"idempotency_key": "k" * 24, "open": ""}, {"passphrase": ""}]
    for message, form, agent, query in product(messages, forms, AGENTS[:3], ("", "?open=yes")):
        headers = {"User-Agent": agent, "Accept": "text/html"}
        as_form = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        body = "&".join(f"{name}={value}" for name, value in form.items()).encode()
        assert served.http.post(message.path + query, content=body, headers=as_form).status_code == 400
        files = {name: (None, value) for name, value in (form or {"x": ""}).items()}
        assert served.http.post(message.path + query, files=files, headers=headers).status_code == 400
        assert served.http.post(message.receipt_path + query, content=body, headers=as_form).status_code == 400
    assert rows(served) == before


def test_what_does_use_a_view_up_changes_its_row(served: Served) -> None:
    """The comparison of rows can fail."""
    message = served.create("hello", views=2)
    before = rows(served)
    assert served.http.post(message.path).status_code == 200
    assert rows(served) != before
