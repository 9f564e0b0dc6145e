"""The routes of the vaults, as Flask knows them: which method of which address is which handler."""

from __future__ import annotations

from flask import Blueprint, Response, request

from web.answers import Answer
from web.gate import headers_of
from web.handlers import Handler, Handlers, Probes
from web.paths import CREATE, MESSAGE, RECEIPT
from web.scrape import Scrape


def vault_blueprint(handlers: Handlers) -> Blueprint:
    """All routes of the messages and receipts of one vault. The page to write is the open one's."""
    name = handlers.vault.name
    create, message, receipt = CREATE[name], f"{MESSAGE[name]}<link_id>", f"{RECEIPT[name]}<token>"
    routes = Blueprint(name, __name__)
    if name == "open":
        _add(routes, create, "GET", handlers.write)
    for rule, method, handler in (
        (create, "POST", handlers.create),
        (message, "GET", handlers.look),
        (message, "POST", handlers.open),
        (message, "DELETE", handlers.confirm),
        (receipt, "GET", handlers.receipt),
        (receipt, "DELETE", handlers.burn),
        (receipt, "POST", handlers.burn_by_form),
    ):
        _add(routes, rule, method, handler)
    return routes


def probes_blueprint(probes: Probes) -> Blueprint:
    """`/healthz` and `/readyz`."""
    routes = Blueprint("probes", __name__)
    _add(routes, "/healthz", "GET", probes.alive)
    _add(routes, "/readyz", "GET", probes.ready)
    return routes


def scrape_blueprint(scrape: Scrape) -> Blueprint:
    """`/metrics`."""
    routes = Blueprint("scrape", __name__)
    _add(routes, "/metrics", "GET", scrape.metrics)
    return routes


def _add(routes: Blueprint, rule: str, method: str, handler: Handler) -> None:
    def view(**parts: str) -> Response:
        return respond(handler(request.environ, **parts))

    routes.add_url_rule(rule, handler.__name__, view, methods=[method])


def respond(answer: Answer) -> Response:
    """An answer as Flask's response."""
    return Response(answer.body, answer.status, headers_of(answer))
