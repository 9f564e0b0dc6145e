"""What each route of a vault does: from a request, as WSGI's environ, to an answer. No Flask here.

Each handler reads the request, calls `messages`, and answers: nothing else. Flask's views (`routes`) and the express lane call the
same ones, behind the gate, which has checked the body and tells the errors that they raise.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from drafts import FIELDS, GUARDED_FIELDS, read_draft, read_passphrase, read_proof
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
from messages.vaults import ask_each
from records import MAX_LIFETIME_SECONDS, Preview, VaultName
from settings import Settings
from web import answers, pages
from web.answers import HTML, TEXT, Answer
from web.authentication import actor_of
from web.bodies import Body, read_body
from web.errors import REASON, reason_of
from web.errors import answer as answer_error
from web.gate import own_origin
from web.languages import without_language
from web.negotiation import Wanted, wanted_by

Environ = dict[str, Any]
Handler = Callable[..., Answer]

_MAY_BE_EMPTY = FIELDS - {"message"} | GUARDED_FIELDS
"""What an empty field of a form leaves at its default. Any other empty field may be a piece of a message that was not encoded."""


class Handlers:
    """The handlers of one vault."""

    def __init__(self, vault: Vault, settings: Settings) -> None:
        self.vault = vault
        self._max_message_bytes = settings.max_message_bytes
        self._public_url = settings.public_url
        self._most_seconds = settings.sealed_seconds if vault.name == "sealed" else MAX_LIFETIME_SECONDS
        self._elsewhere = _elsewhere(vault.name, settings)

    def write(self, environ: Environ) -> Answer:
        """`GET /`"""
        page = pages.write(
            wanted_by(environ),
            self.vault.name,
            self._elsewhere,
            self._max_message_bytes,
            self.vault.store.durability,
            self._most_seconds,
        )
        return Answer(200, HTML, page)

    def create(self, environ: Environ) -> Answer:
        """`POST /`"""
        body = body_of(environ, without_language(environ.get("QUERY_STRING", "")))
        fields = body.fields
        if body.kind == "form":
            fields = {name: value for name, value in fields.items() if value != "" or name not in _MAY_BE_EMPTY}
        message = self.vault.create(read_draft(fields, self.vault.name, self._most_seconds), actor_of(environ))
        return answers.created(wanted_by(environ), self._public_url or own_origin(environ), message)

    def look(self, environ: Environ, link_id: str) -> Answer:
        """`GET /message/<link_id>`"""
        wanted = wanted_by(environ)
        try:
            return answers.opened(wanted, self.vault.read(link_id, actor_of(environ)))
        except OpeningRequired as waiting:
            if wanted.kind != "html":
                raise
            return Answer(200, HTML, _reveal(wanted, self.vault, waiting.preview))

    def open(self, environ: Environ, link_id: str) -> Answer:
        """`POST /message/<link_id>`"""
        wanted = wanted_by(environ)
        try:
            opening = _opening(environ, self.vault, link_id)
            lease_seconds = self.vault.lease_seconds if opening.idempotency_key else None
            return answers.opened(wanted, self.vault.open(link_id, *opening, actor_of(environ)), lease_seconds)
        except (TickRequired, PassphraseRequired, ProofRequired, WrongPassphrase, TriesInUse) as problem:
            if wanted.kind != "html":
                raise
            environ[REASON] = reason_of(problem)
            return _reveal_again(environ, wanted, self.vault, link_id, problem)

    def confirm(self, environ: Environ, link_id: str) -> Answer:
        """`DELETE /message/<link_id>`"""
        self.vault.confirm(link_id, environ.get("HTTP_IDEMPOTENCY_KEY"), actor_of(environ))
        return Answer(204, TEXT, b"")

    def receipt(self, environ: Environ, token: str) -> Answer:
        """`GET /receipt/<token>`"""
        return answers.receipt(wanted_by(environ), token, self.vault.receipt(token))

    def burn(self, environ: Environ, token: str) -> Answer:
        """`DELETE /receipt/<token>`"""
        return answers.receipt(wanted_by(environ), token, self.vault.burn(token, actor_of(environ)))

    def burn_by_form(self, environ: Environ, token: str) -> Answer:
        """`POST /receipt/<token>`"""
        if body_of(environ).fields != {"burn": "yes"}:
            raise FieldRefused("burn", "To burn the message, send burn=yes.")
        return self.burn(environ, token)


def _elsewhere(vault: VaultName, settings: Settings) -> list[VaultName]:
    """The other vaults that the page of one leads to. What is sealed is for few: they come there by the guarded one's."""
    return [name for name in settings.databases if name != vault and (name != "sealed" or vault == "guarded")]


class Probes:
    """What orchestrators and load balancers ask."""

    def __init__(self, vaults: Sequence[Vault]) -> None:
        self._vaults = vaults

    def alive(self, environ: Environ) -> Answer:
        """`GET /healthz`"""
        return Answer(200, TEXT, b"ok\n")

    def ready(self, environ: Environ) -> Answer:
        """`GET /readyz`: which vaults answer.

        As long as one does, requests should come here: a database that is down is so for the other nodes as well.
        """
        up = ask_each(self._vaults, _is_up)
        lines = [f"{vault.name}: {'ready' if is_up else 'down'}\n" for vault, is_up in zip(self._vaults, up, strict=True)]
        text = "".join(lines).encode()
        return Answer(200, TEXT, text) if any(up) else Answer(503, TEXT, text, (("Retry-After", "2"),))


def _is_up(vault: Vault) -> bool:
    vault.store.health()
    return True


def body_of(environ: Environ, query: str = "") -> Body:
    """The fields of a request, from the body that the gate has checked.

    The query counts only where it is handed in: services append parameters of their own to links that are passed around.
    """
    return read_body(environ["mayfly.body"], environ.get("CONTENT_TYPE", ""), query)


class Opening(NamedTuple):
    """What a request to open a message brings."""

    passphrase: str | None
    idempotency_key: str | None
    proof: str | None


def _opening(environ: Environ, vault: Vault, link_id: str) -> Opening:
    """Check a request to open a message.

    Whether the message exists is told before what is wrong with the form, so that a link that is gone answers alike to all.
    """
    body = body_of(environ)
    fields = dict(body.fields)
    header_key = environ.get("HTTP_IDEMPOTENCY_KEY")
    if body.kind == "text":
        raise BodyRefused("Open with an empty body, a form or JSON.")
    form_key, ticked = fields.pop("idempotency_key", None), fields.pop("open", None)
    # An empty field is a form's way to say none.
    passphrase, proof = (None if value == "" else value for value in (fields.pop("passphrase", None), fields.pop("proof", None)))
    if fields or not isinstance(form_key, str | None) or (header_key is not None and form_key):
        raise FieldRefused(
            "", "Opening takes the fields open, passphrase, proof and idempotency_key, or the header Idempotency-Key."
        )
    # An empty header was sent and cannot be kept: `Vault` refuses it.
    key = header_key if header_key is not None else form_key or None
    if ticked != "yes" and (body.kind == "form" or ticked is not None):
        vault.preview(link_id, key, actor_of(environ))
        raise TickRequired
    return Opening(read_passphrase(passphrase), key, read_proof(proof))


def _reveal(wanted: Wanted, vault: Vault, preview: Preview, problem: str | None = None) -> bytes:
    """The page to open a message, with a lease key of its own."""
    return pages.reveal(wanted, preview, secrets.token_urlsafe(24), vault.lease_seconds, vault.max_message_bytes, problem)


def _reveal_again(environ: Environ, wanted: Wanted, vault: Vault, link_id: str, problem: MayflyError) -> Answer:
    refusal = answer_error(problem, wanted)
    try:
        page = _reveal(
            wanted, vault, vault.preview(link_id, actor=actor_of(environ)), wanted.language.say(problem.text, **problem.values)
        )
    except NotFound:
        return refusal
    return replace(refusal, body=page)
