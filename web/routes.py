"""The routes of the open vault, as Flask views. Each reads the request, calls `messages`, and answers: nothing else."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import NamedTuple

from flask import Blueprint, Response, request

from drafts import FIELDS, read_draft, read_passphrase, read_proof
from errors import (
    BodyRefused,
    FieldRefused,
    MayflyError,
    NotFound,
    OpeningRequired,
    PassphraseRequired,
    ProofRequired,
    TickRequired,
    TriesInUse,
    WrongPassphrase,
)
from messages import Vault
from records import Preview
from settings import Settings
from web import answers, pages
from web.answers import HTML, TEXT, Answer
from web.bodies import Body, read_body
from web.errors import answer as answer_error
from web.gate import headers_of
from web.languages import without_language
from web.negotiation import Wanted, wanted_by

_MAY_BE_EMPTY = FIELDS - {"message"}
"""What an empty field of a form leaves at its default. Any other empty field may be a piece of a message that was not encoded."""


def blueprint(vault: Vault, settings: Settings) -> Blueprint:
    """All routes of messages and receipts, and the probes."""
    routes = Blueprint("messages", __name__)

    @routes.get("/")
    def write() -> Response:
        return respond(
            Answer(200, HTML, pages.write(wanted_by(request.environ), settings.max_message_bytes, vault.store.durability))
        )

    @routes.post("/")
    def create() -> Response:
        body = body_of_request(without_language(request.environ.get("QUERY_STRING", "")))
        fields = {
            name: value
            for name, value in body.fields.items()
            if not (body.kind == "form" and value == "" and name in _MAY_BE_EMPTY)
        }
        message = vault.create(read_draft(fields))
        return respond(answers.created(wanted_by(request.environ), settings.public_url or own_origin(), message))

    @routes.get("/message/<link_id>")
    def look(link_id: str) -> Response:
        wanted = wanted_by(request.environ)
        try:
            return respond(answers.opened(wanted, vault.read(link_id)))
        except OpeningRequired as waiting:
            if wanted.kind != "html":
                raise
            return respond(Answer(200, HTML, _reveal(wanted, vault, waiting.preview)))

    @routes.post("/message/<link_id>")
    def open_(link_id: str) -> Response:
        wanted = wanted_by(request.environ)
        try:
            opening = _opening(body_of_request(), vault, link_id)
            lease_seconds = vault.lease_seconds if opening.idempotency_key else None
            return respond(answers.opened(wanted, vault.open(link_id, *opening), lease_seconds))
        except (TickRequired, PassphraseRequired, ProofRequired, WrongPassphrase, TriesInUse) as problem:
            if wanted.kind != "html":
                raise
            return respond(_reveal_again(wanted, vault, link_id, problem))

    @routes.delete("/message/<link_id>")
    def confirm(link_id: str) -> Response:
        vault.confirm(link_id, request.headers.get("Idempotency-Key"))
        return Response(status=204)

    @routes.get("/receipt/<token>")
    def receipt(token: str) -> Response:
        return respond(answers.receipt(wanted_by(request.environ), token, vault.receipt(token)))

    @routes.delete("/receipt/<token>")
    def burn(token: str) -> Response:
        return respond(answers.receipt(wanted_by(request.environ), token, vault.burn(token)))

    @routes.post("/receipt/<token>")
    def burn_by_form(token: str) -> Response:
        if body_of_request().fields != {"burn": "yes"}:
            raise FieldRefused("burn", "To burn the message, send burn=yes.")
        return respond(answers.receipt(wanted_by(request.environ), token, vault.burn(token)))

    @routes.get("/healthz")
    def alive() -> Response:
        return respond(Answer(200, TEXT, b"ok\n"))

    @routes.get("/readyz")
    def ready() -> Response:
        vault.store.health()
        return respond(Answer(200, TEXT, b"ready\n"))

    return routes


def respond(answer: Answer) -> Response:
    """An answer as Flask's response."""
    return Response(answer.body, answer.status, headers_of(answer))


def body_of_request(query: str = "") -> Body:
    """The fields of the request at hand, from the body that the gate has checked.

    The query counts only where it is handed in: services append parameters of their own to links that are passed around.
    """
    return read_body(request.environ["mayfly.body"], request.environ.get("CONTENT_TYPE", ""), query)


def own_origin() -> str:
    """What the request called this server; the gate has checked the host."""
    return f"{request.environ['wsgi.url_scheme']}://{request.environ['HTTP_HOST']}"


class Opening(NamedTuple):
    """What a request to open a message brings."""

    passphrase: str | None
    idempotency_key: str | None
    proof: str | None


def _opening(body: Body, vault: Vault, link_id: str) -> Opening:
    """Check a request to open a message.

    Whether the message exists is told before what is wrong with the form, so that a link that is gone answers alike to all.
    """
    fields = dict(body.fields)
    header_key = request.headers.get("Idempotency-Key")
    if body.kind == "text":
        raise BodyRefused("Open with an empty body, a form or JSON.")
    form_key, ticked = fields.pop("idempotency_key", None), fields.pop("open", None)
    passphrase, proof = fields.pop("passphrase", None) or None, fields.pop("proof", None) or None
    if fields or not isinstance(form_key, str | None) or (header_key is not None and form_key):
        raise FieldRefused(
            "", "Opening takes the fields open, passphrase, proof and idempotency_key, or the header Idempotency-Key."
        )
    # An empty header was sent and cannot be kept: `Vault` refuses it. An empty field is a form's way to say none.
    key = header_key if header_key is not None else form_key or None
    if body.kind == "form" and ticked != "yes":
        vault.preview(link_id, key)
        raise TickRequired
    return Opening(read_passphrase(passphrase), key, read_proof(proof))


def _reveal(wanted: Wanted, vault: Vault, preview: Preview, problem: str | None = None) -> bytes:
    """The page to open a message, with a lease key of its own."""
    return pages.reveal(wanted, preview, secrets.token_urlsafe(24), vault.lease_seconds, vault.max_message_bytes, problem)


def _reveal_again(wanted: Wanted, vault: Vault, link_id: str, problem: MayflyError) -> Answer:
    refusal = answer_error(problem, wanted)
    try:
        page = _reveal(wanted, vault, vault.preview(link_id), wanted.language.say(problem.text, **problem.values))
    except NotFound:
        return refusal
    return replace(refusal, body=page)
