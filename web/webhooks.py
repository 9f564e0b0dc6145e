"""Webhooks, as those look after them who look after certificates: for programs, and on pages. No Flask here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from access.delivery import LEASE
from access.webhooks import MAX_DELIVERIES, Webhooks
from errors import FieldRefused, NothingThere, WrongState
from fields import Choice, Field, Model, Whole
from records import DELIVERY_STATES, Delivery, Hook
from web import pages
from web.answers import HTML, TEXT, Answer, as_json, iso
from web.authentication import actor_of
from web.bodies import Fields, read_query
from web.errors import answer_on_form
from web.gate import Environ
from web.handlers import body_of
from web.languages import N_
from web.negotiation import wanted_by
from web.sign_in import done_at, done_in

DELIVERIES = Model(
    Field("state", Choice(DELIVERY_STATES), "How they stand."),
    Field("before", Whole(1, 999_999_999), "Only those of lower numbers: for the next page, the last number of this one."),
    Field("most", Whole(1, MAX_DELIVERIES), "How many.", 100),
)
"""The query."""

_DONE = {
    "change": N_("The changes are saved."),
    "enable": N_("It is told again, also what has waited for it."),
    "disable": N_("It is told nothing for now. What it was to be told already waits."),
    "deleted": N_("The webhook was removed, with all that it was to be told."),
    "replay": N_("It is being sent again."),
}
"""What a page says once it is done."""


class WebhookPages:
    """The handlers of `/webhooks`."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    def webhooks(self, environ: Environ) -> Answer:
        """`GET /webhooks`"""
        found, wanted = self._webhooks.all(), wanted_by(environ)
        if wanted.kind == "html":
            return Answer(200, HTML, pages.webhooks(wanted, found, _done(environ)))
        return as_json(200, {"webhooks": [hook_document(hook) for hook in found]})

    def add_webhook(self, environ: Environ) -> Answer:
        """`POST /webhooks`"""
        given, wanted = body_of(environ).fields, wanted_by(environ)
        try:
            hook, secret = self._webhooks.add(actor_of(environ), given)
        except (FieldRefused, WrongState) as refusal:
            if wanted.kind != "html":
                raise
            found = self._webhooks.all()
            return answer_on_form(
                refusal,
                environ,
                lambda problem: pages.webhooks(wanted, found, problem=problem, given=_texts_of(given)),
            )
        if wanted.kind == "html":
            return Answer(201, HTML, pages.webhook(wanted, hook, (), secret=secret))
        return as_json(201, {**hook_document(hook), "secret": secret}, (("Location", f"/webhooks/{hook.id}"),))

    def webhook(self, environ: Environ, hook_id: str) -> Answer:
        """`GET /webhooks/<hook_id>`"""
        return self._one(environ, self._webhooks.get(hook_id), _done(environ))

    def change_webhook(self, environ: Environ, hook_id: str) -> Answer:
        """`PATCH /webhooks/<hook_id>`"""
        return self._one(environ, self._webhooks.change(actor_of(environ), hook_id, body_of(environ).fields))

    def delete_webhook(self, environ: Environ, hook_id: str) -> Answer:
        """`DELETE /webhooks/<hook_id>`"""
        self._webhooks.delete(actor_of(environ), hook_id)
        return Answer(204, TEXT, b"")

    def act_on_webhook(self, environ: Environ, hook_id: str) -> Answer:
        """`POST /webhooks/<hook_id>`, for forms, which know neither PATCH nor DELETE: `do` says what."""
        fields = dict(body_of(environ).fields)
        match fields.pop("do", None):
            case "change":
                return self._change(environ, hook_id, "change", fields)
            case "enable" | "disable" as do if not fields:
                return self._change(environ, hook_id, do, {"enabled": do == "enable"})
            case "delete" if not fields:
                self._webhooks.delete(actor_of(environ), hook_id)
                return Answer(303, TEXT, b"", (("Location", done_at("/webhooks", "deleted", wanted_by(environ))),))
        raise FieldRefused("do", "do is change (with what to change), enable, disable or delete.")

    def deliveries(self, environ: Environ, hook_id: str) -> Answer:
        """`GET /webhooks/<hook_id>/deliveries`"""
        query = DELIVERIES.read(read_query(environ.get("QUERY_STRING", "")))
        found = self._webhooks.deliveries(hook_id, query["state"], query["before"], query["most"])
        return as_json(200, {"deliveries": [delivery_document(one) for one in found]})

    def replay(self, environ: Environ, hook_id: str, number: str) -> Answer:
        """`POST /webhooks/<hook_id>/deliveries/<number>`"""
        if not re.fullmatch("[0-9]{1,15}", number):
            raise NothingThere
        if body_of(environ).fields not in ({}, {"do": "replay"}):
            raise FieldRefused("do", "To have it sent again, send do=replay.")
        delivery = self._webhooks.replay(actor_of(environ), hook_id, int(number), LEASE)
        wanted = wanted_by(environ)
        if wanted.kind == "html":
            return Answer(303, TEXT, b"", (("Location", done_at(f"/webhooks/{hook_id}", "replay", wanted)),))
        return as_json(202, delivery_document(delivery))

    def _change(self, environ: Environ, hook_id: str, do: str, changes: Fields) -> Answer:
        wanted = wanted_by(environ)
        try:
            changed = self._webhooks.change(actor_of(environ), hook_id, changes)
        except FieldRefused as refusal:
            if wanted.kind != "html":
                raise
            was, found = self._webhooks.get(hook_id), self._webhooks.deliveries(hook_id)
            given = _texts_of(changes)
            return answer_on_form(refusal, environ, lambda problem: pages.webhook(wanted, was, found, problem=problem, given=given))
        return self._one(environ, changed, wanted.language.say(_DONE[do]))

    def _one(self, environ: Environ, hook: Hook, done: str | None = None) -> Answer:
        wanted = wanted_by(environ)
        if wanted.kind == "html":
            return Answer(200, HTML, pages.webhook(wanted, hook, self._webhooks.deliveries(hook.id), done))
        return as_json(200, hook_document(hook))


def hook_document(hook: Hook) -> dict[str, Any]:
    """A webhook as it is told: without its secret."""
    return {
        "id": hook.id,
        "url": hook.url,
        "events": sorted(hook.events),
        "enabled": hook.enabled,
        "created_at": iso(hook.created_at),
    }


def delivery_document(one: Delivery) -> dict[str, Any]:
    """What a webhook is told, and how that stands. `next_at` is when it is tried next."""
    return {
        "number": one.number,
        "id": one.notice.id,
        "type": one.notice.type,
        "subject": one.notice.subject,
        "created_at": iso(one.created_at),
        "state": one.state,
        "attempts": one.attempts,
        "answer": one.answer or None,
        "answered_at": None if one.answered_at is None else iso(one.answered_at),
        "next_at": iso(one.not_before) if one.state == "waiting" else None,
    }


def _done(environ: Environ) -> str | None:
    """What the page that leads here has done, to be said."""
    what = done_in(environ.get("QUERY_STRING", ""))
    return wanted_by(environ).language.say(_DONE[what]) if what in ("deleted", "replay") else None


def _texts_of(given: Fields) -> Mapping[str, str]:
    """What stood in the fields of a form, to stand there again."""
    return {name: value for name, value in given.items() if isinstance(value, str)}
