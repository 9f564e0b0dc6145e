"""Who may do what: each route's declared need, and that what is declared is what holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

import keyfile
from metrics import Metrics
from server import open_accounts, open_vaults
from settings import Settings
from web.app import build_app
from web.authentication import NEEDS, Authentication
from web.handlers import Handlers
from web.limits import Limits
from web.routes import Routes
from web.scrape import Scrape


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
            *(("GET", "", "create") for _ in ["there is no page to write what is sealed"] if vault == "guarded"),
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
    "POST /accounts/<account_id>/password-link": "accounts:manage",
    "GET /keys": "password",
    "POST /keys": "password",
    "POST /keys/<key_id>": "password",
    "DELETE /keys/<key_id>": "password",
    "POST /oauth/token": "anyone",
    "GET /.well-known/jwks.json": "anyone",
    "GET /.well-known/oauth-authorization-server": "anyone",
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
