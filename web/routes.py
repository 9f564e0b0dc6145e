"""The routes of the open vault, as Flask knows them: which method of which address is which handler."""

from __future__ import annotations

from flask import Blueprint, Response, request

from web.answers import Answer
from web.gate import headers_of
from web.handlers import Handler, Handlers


def blueprint(handlers: Handlers) -> Blueprint:
    """All routes of messages and receipts, and the probes."""
    routes = Blueprint("messages", __name__)
    for rule, method, handler in (
        ("/", "GET", handlers.write),
        ("/", "POST", handlers.create),
        ("/message/<link_id>", "GET", handlers.look),
        ("/message/<link_id>", "POST", handlers.open),
        ("/message/<link_id>", "DELETE", handlers.confirm),
        ("/receipt/<token>", "GET", handlers.receipt),
        ("/receipt/<token>", "DELETE", handlers.burn),
        ("/receipt/<token>", "POST", handlers.burn_by_form),
        ("/healthz", "GET", handlers.alive),
        ("/readyz", "GET", handlers.ready),
    ):
        _add(routes, rule, method, handler)
    return routes


def _add(routes: Blueprint, rule: str, method: str, handler: Handler) -> None:
    def view(**parts: str) -> Response:
        return respond(handler(request.environ, **parts))

    routes.add_url_rule(rule, handler.__name__, view, methods=[method])


def respond(answer: Answer) -> Response:
    """An answer as Flask's response."""
    return Response(answer.body, answer.status, headers_of(answer))
