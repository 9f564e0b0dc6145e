"""Who may do what: each route's declared need, and that what is declared is what holds."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

import keyfile
from access.credentials import digest_of
from database import wall_clock
from keyfile import KeyFile
from metrics import Metrics
from records import SCOPES, Account, Actor, ApiKey, Millis, Scope
from server import open_accounts, open_vaults
from settings import Settings
from web.app import build_app
from web.authentication import NEEDS, Authentication
from web.gate import Gate
from web.handlers import Handlers
from web.limits import Limits
from web.routes import Routes
from web.scrape import Scrape

URL = "http://127.0.0.1:8000"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    """All routes of a server that has all vaults and everything turned on."""
    key_file = tmp_path / "key.json"
    keyfile.create(key_file)
    settings = Settings(key_file=key_file, metrics_token="t" * 32)
    vaults = open_vaults(settings)
    access = open_accounts(settings, vaults[0].keys)
    assert access
    authentication = Authentication(settings, vaults[0].keys, Limits(0), access)
    yield build_app([Handlers(vault, settings) for vault in vaults], authentication, Scrape(vaults, Metrics()))
    access.store.close()
    for vault in vaults:
        vault.store.close()


def declared(app: Flask) -> dict[str, str]:
    """`METHOD /rule` and its need, for the whole URL map."""
    return {
        f"{method} {rule.rule}": getattr(app.view_functions[rule.endpoint], "needs", "NOTHING SAID")
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


NEED_OF = {
    "GET /": "create",
    "GET /guarded": "create",
    "POST /": "create",
    "GET /message/<link_id>": "anyone",
    "POST /message/<link_id>": "anyone",
    "DELETE /message/<link_id>": "anyone",
    "GET /receipt/<token>": "anyone",
    "POST /receipt/<token>": "anyone",
    "DELETE /receipt/<token>": "anyone",
    **{
        f"{method} /{vault}{rest}": need
        for vault in ("guarded", "sealed")
        for method, rest, need in (
            ("GET", "", "create"),
            ("POST", "", "create"),
            ("GET", "/<link_id>", "messages:read"),
            ("POST", "/<link_id>", "messages:read"),
            ("DELETE", "/<link_id>", "messages:read"),
            ("GET", "/receipt/<token>", "anyone"),
            ("POST", "/receipt/<token>", "anyone"),
            ("DELETE", "/receipt/<token>", "anyone"),
        )
    },
    "GET /admin": "admin page",
    "POST /admin": "admin page",
    "POST /delete": "admin token",
    "GET /sign-in": "anyone",
    "POST /sign-in": "anyone",
    "POST /sign-out": "anyone",
    "POST /reset": "anyone",
    "GET /password/<token>": "anyone",
    "POST /password/<token>": "anyone",
    "GET /account": "account",
    "POST /account/password": "password",
    "GET /accounts": "accounts:manage",
    "POST /accounts": "accounts:manage",
    "GET /accounts/<account_id>": "accounts:manage",
    "PATCH /accounts/<account_id>": "accounts:manage",
    "POST /accounts/<account_id>": "accounts:manage",
    "DELETE /accounts/<account_id>": "accounts:manage",
    "POST /accounts/<account_id>/password-link": "accounts:manage by password",
    "GET /audit": "audit:read",
    **{
        f"{method} /webhooks{rest}": "certificates:manage"
        for method, rest in (
            *(("GET", ""), ("POST", ""), ("GET", "/<hook_id>"), ("PATCH", "/<hook_id>"), ("POST", "/<hook_id>")),
            *(("DELETE", "/<hook_id>"), ("GET", "/<hook_id>/deliveries"), ("POST", "/<hook_id>/deliveries/<number>")),
        )
    },
    "GET /admin/keys": "accounts:manage",
    "GET /keys": "password",
    "POST /keys": "password",
    "POST /keys/<key_id>": "password",
    "DELETE /keys/<key_id>": "password",
    "POST /oauth/token": "anyone",
    "GET /.well-known/jwks.json": "anyone",
    "GET /.well-known/oauth-authorization-server": "anyone",
    "GET /certificates": "account",
    "POST /certificates": "certificates:manage",
    "GET /certificates/<certificate_id>": "account",
    "PATCH /certificates/<certificate_id>": "account",
    "POST /certificates/<certificate_id>": "account",
    "GET /certificates/<certificate_id>/pem": "account",
    "POST /certificates/<certificate_id>/renew": "account",
    "GET /ca.pem": "anyone",
    "GET /ca.crl": "anyone",
    "GET /ca/<issuer_file>": "anyone",
    "GET /openapi.json": "anyone",
    "GET /docs": "anyone",
    "GET /static/<path:name>": "anyone",
    "GET /healthz": "anyone",
    "GET /readyz": "anyone",
    "GET /metrics": "metrics token",
}
"""The need of every route, written down a second time: whoever changes one must mean it."""


def test_every_route_of_the_url_map_declares_the_need_that_is_meant(app: Flask) -> None:
    assert declared(app) == NEED_OF
    assert set(NEED_OF.values()) <= NEEDS


def test_route_that_does_not_say_what_it_needs_does_not_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that is added past the table, nor one with a need that nobody knows."""
    key_file = tmp_path / "key.json"
    keyfile.create(key_file)
    settings = Settings(key_file=key_file)
    vault = open_vaults(settings)[0]
    authentication = Authentication(settings, vault.keys, Limits(0))

    def silent(probes: object, authentication: Authentication) -> object:
        routes = Routes("probes", authentication)
        routes.blueprint.add_url_rule("/silent", "silent", lambda: "hello")
        return routes.blueprint

    def misspelt(probes: object, authentication: Authentication) -> object:
        routes = Routes("probes", authentication)
        routes.add("/silent", "GET", lambda environ: None, "anybody")  # type: ignore
        return routes.blueprint

    for blueprint in (silent, misspelt):
        monkeypatch.setattr("web.routes.probes_blueprint", blueprint)
        with pytest.raises(LookupError, match="/silent"):
            build_app([Handlers(vault, settings)], authentication)


# The table: every route, by everybody, with everything they might show

ROLES: dict[str, tuple[str, ...]] = {"plain": (), "payments": ("payments",), "auditor": ("auditor",), "admin": ("admin",)}
PASSWORD = "correct horse battery staple"
METRICS_TOKEN = "t" * 32


@dataclass(frozen=True)
class Shown:
    """What somebody shows, and what it ought to be good for: nothing, unless `scopes` says so."""

    headers: Callable[[], dict[str, str]]
    way: str = "nobody"
    scopes: frozenset[Scope] | None = None


class Table:
    """One server in this process, whose clock can be set, with an account for each role."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.late_ms = 0
        keyfile.create(folder / "key.json")
        self.settings = Settings(key_file=folder / "key.json", metrics_token=METRICS_TOKEN, create_rate=0, **settings)
        self.keys = KeyFile(folder / "key.json")
        access = open_accounts(self.settings, self.keys, lambda: Millis(wall_clock() + self.late_ms))
        assert access
        self.access = access
        self.vaults = open_vaults(self.settings, keys=self.keys, audit=access.audit)
        limits = Limits(0)
        metrics = Metrics()
        authentication = Authentication(self.settings, self.keys, limits, access)
        handlers = [Handlers(vault, self.settings) for vault in self.vaults]
        self.app = build_app(handlers, authentication, Scrape(self.vaults, metrics))
        self.http = httpx.Client(transport=httpx.WSGITransport(Gate(self.app, self.settings, limits, metrics)), base_url=URL)
        self.accounts = {name: self.add(name, roles) for name, roles in {**ROLES, "disabled": ("admin",)}.items()}

    def add(self, name: str, roles: tuple[str, ...]) -> Account:
        given = {"email": f"{name}@example.com", "first_name": "A", "last_name": "B", "roles": list(roles), "password": PASSWORD}
        return self.access.accounts.add(Actor(way="command"), given)[0]

    def session(self, account: Account) -> dict[str, str]:
        """The cookie of a new session: what one request does to it is nothing to the next."""
        return {"Cookie": f"mayfly-session={self.access.credentials.begin_session(Actor(account), '')}"}

    def key(self, account: Account, *scopes: Scope, seconds: int = 3600) -> tuple[ApiKey, str]:
        return self.access.credentials.make_key(Actor(account, account.scopes), "key", frozenset(scopes), seconds)

    def token(self, account: Account, key: ApiKey) -> str:
        return self.access.tokens.sign(URL, key, account, " ".join(key.scopes))

    def close(self) -> None:
        self.http.close()
        self.access.store.close()
        for vault in self.vaults:
            vault.store.close()


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def basic(email: str, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{email}:{password}".encode()).decode()}


def good(table: Table) -> Iterator[tuple[str, Shown]]:
    """Each role in each way of signing in, and an admin with a key for each scope alone."""
    for name in ROLES:
        account = table.accounts[name]
        key, text = table.key(account, *account.scopes)
        token = table.token(account, key)
        yield f"{name}, session", Shown(lambda account=account: table.session(account), "session", account.scopes)
        yield f"{name}, password", Shown(lambda account=account: basic(account.email), "password", account.scopes)
        yield f"{name}, key", Shown(lambda text=text: bearer(text), "key", account.scopes)
        yield f"{name}, token", Shown(lambda token=token: bearer(token), "token", account.scopes)
    for scope in SCOPES:
        key, text = table.key(table.accounts["admin"], scope)
        token = table.token(table.accounts["admin"], key)
        yield f"key for {scope}", Shown(lambda text=text: bearer(text), "key", frozenset((scope,)))
        yield f"token for {scope}", Shown(lambda token=token: bearer(token), "token", frozenset((scope,)))
    yield "admin token", Shown(lambda: bearer(table.keys.ring().admin_token), "admin token")
    yield "metrics token", Shown(lambda: bearer(METRICS_TOKEN), "metrics token")


def good_for_nothing(table: Table) -> Iterator[tuple[str, Shown]]:
    """Nobody, and what has expired, was revoked, or never was."""
    admin, disabled, store = table.accounts["admin"], table.accounts["disabled"], table.access.store
    operator = Actor(admin, admin.scopes)
    ended = table.session(admin)
    store.end_session(digest_of("session", ended["Cookie"].partition("=")[2]))
    revoked, revoked_text = table.key(admin, *admin.scopes)
    revoked_token = table.token(admin, revoked)
    table.access.credentials.revoke_key(operator, revoked.id)
    of_disabled, of_disabled_text = table.key(disabled, *disabled.scopes)
    disabled_token, disabled_session = table.token(disabled, of_disabled), table.session(disabled)
    table.access.accounts.change(operator, disabled.id, {"enabled": False})
    table.late_ms = -13 * 3600 * 1000
    expired_session, (expired_key, expired_text) = table.session(admin), table.key(admin, *admin.scopes)
    expired_token = table.token(admin, expired_key)
    lasting, _ = table.key(admin, *admin.scopes, seconds=24 * 3600)
    old_token = table.token(admin, lasting)
    table.late_ms = 0
    without = {"email": "without@example.com", "first_name": "A", "last_name": "B", "roles": ["admin"]}
    table.access.accounts.add(operator, without)
    for name, headers in {
        "nobody": {},
        "session that was ended": ended,
        "session that has expired": expired_session,
        "session of a disabled account": disabled_session,
        "made-up session": {"Cookie": "mayfly-session=" + "A" * 43},
        "empty session": {"Cookie": "mayfly-session="},
        "session under another name": {"Cookie": table.session(admin)["Cookie"].replace("mayfly-session", "__Host-mayfly")},
        "wrong password": basic(admin.email, "correct horse battery stapl"),
        "empty password": basic(admin.email, ""),
        "nobody's password": basic("nobody@example.com"),
        "password of a disabled account": basic(disabled.email),
        "account without a password": basic("without@example.com", ""),
        "empty Basic": {"Authorization": "Basic"},
        "Basic that is no text": {"Authorization": "Basic /////w=="},
        "revoked key": bearer(revoked_text),
        "expired key": bearer(expired_text),
        "key of a disabled account": bearer(of_disabled_text),
        "made-up key": bearer("mayfly_" + "A" * 43),
        "id of a key": bearer(lasting.id),
        "expired token": bearer(old_token),
        "token of a revoked key": bearer(revoked_token),
        "token of an expired key": bearer(expired_token),
        "token of a disabled account": bearer(disabled_token),
        "None": bearer("None"),
        "empty Bearer": {"Authorization": "Bearer "},
        "another scheme": {"Authorization": "Digest x"},
    }.items():
        yield name, Shown(lambda headers=headers: headers)


def expected(need: str, shown: Shown, anyone_creates: bool) -> str:
    """`yes`, or the status of the refusal, as the need says."""
    if need == "create":
        need = "anyone" if anyone_creates else "messages:create"
    if need == "anyone":
        return "yes"
    if need == "metrics token":
        return "yes" if shown.way == need else "401"
    if need == "admin page":
        return "yes" if shown.way == "session" and "messages:purge" in (shown.scopes or ()) else "door"
    if need == "admin token" and (shown.scopes is None or shown.way == "session"):
        return "yes" if shown.way == need else "401"
    if shown.scopes is None:
        return "401"
    if need == "account":
        return "yes"
    if need == "password":
        return "yes" if shown.way in ("session", "password") else "403"
    if need == "accounts:manage by password":
        return "yes" if shown.way in ("session", "password") and "accounts:manage" in shown.scopes else "403"
    return "yes" if ("messages:purge" if need == "admin token" else need) in shown.scopes else "403"


def happened(table: Table, route: str, shown: Shown) -> str:
    method, rule = route.split(" ")
    path = re.sub("<[^>]+>", "00000000-0000-4000-8000-000000000000", rule)
    headers = {"Accept": "application/json", **shown.headers()}
    if rule == "/admin":
        return on_admin_page(table, method, headers)
    answer = table.http.request(method, path, headers=headers, **({"data": {"x": "y"}} if method in ("POST", "PATCH") else {}))
    assert answer.status_code < 500, (route, answer.text)
    if rule == "/oauth/token":
        return "yes" if "error" in answer.json() else "?"
    if rule.startswith("/sealed/") and answer.status_code == 403 and answer.json()["title"] == "A certificate is needed":
        return "yes"  # to all that the route needs; the vault itself asks for more
    return str(answer.status_code) if answer.status_code in (401, 403) else "yes"


def on_admin_page(table: Table, method: str, headers: dict[str, str]) -> str:
    """Strangers see its door, or are refused if they send one of its forms."""
    page = table.http.get("/admin", headers=headers)
    found = re.search(r'name="form_token" value="([^"]+)"', page.text)
    token = found[1] if found else "x"
    if method == "GET":
        return "yes" if found else "door"
    answer = table.http.post("/admin", headers=headers, data={"do": "purge", "form_token": token})
    return {200: "yes", 401: "door"}[answer.status_code]


@pytest.mark.parametrize("create", ["anyone", "accounts"])
def test_table_of_every_route_and_everything_that_somebody_might_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: str
) -> None:
    """The allowed cell answers, all others are 401 or 403, as declared."""
    monkeypatch.setattr("web.limits.SIGN_INS_A_MINUTE", 10**9)
    monkeypatch.setattr("crypto.RFC_9106_LOW_MEMORY", (64, 1))  # 1 ms
    table = Table(tmp_path, create=create)
    needs = declared(table.app)
    # Those that depend on the setting, once more; the whole table once.
    routes = [route for route, need in needs.items() if create == "anyone" or need == "create"]
    rows = dict([*good(table), *good_for_nothing(table)])
    assert len(rows) > 50
    wrong = []
    for route in routes:
        for name, shown in rows.items():
            wanted, got = expected(needs[route], shown, create == "anyone"), happened(table, route, shown)
            if got != wanted:
                wrong.append(f"{route}, {name}: {got} instead of {wanted}")
    table.close()
    assert not wrong, "\n".join(wrong[:40])
