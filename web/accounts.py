"""Accounts, as admins look after them, and API keys, as everybody looks after their own. No Flask here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import keyfile
from access.accounts import Accounts
from access.credentials import DEFAULT_KEY_SECONDS, MAX_KEY_SECONDS, Credentials
from errors import FieldRefused, KeyFileRefused, LastAdmin, Taken
from fields import Choice, Each, Field, Line, Model, Whole
from records import SCOPES, Account, ApiKey, Millis
from web import pages
from web.answers import HTML, TEXT, Answer, as_json, iso
from web.authentication import actor_of
from web.bodies import Fields
from web.errors import answer_on_form
from web.gate import Environ, own_origin
from web.handlers import body_of
from web.languages import N_
from web.negotiation import wanted_by
from web.sign_in import account_document, done_at, done_in

NEW_KEY = Model(
    Field("name", Line(100), "What it is for.", required=True),
    Field("scopes", Each(Choice(SCOPES), len(SCOPES)), "What it may be used for: no more than the account may.", required=True),
    Field("expires_in", Whole(60, MAX_KEY_SECONDS), "Seconds until it ends.", DEFAULT_KEY_SECONDS),
)

_MADE = N_("The account was made.")
_DONE = {
    "change": N_("The changes are saved."),
    "enable": N_("The account can sign in again."),
    "disable": N_("The account can no longer sign in. What it was signed in by has ended."),
    "deleted": N_("The account was deleted, with its keys."),
    "revoked": N_("The key was revoked. It holds no longer, from this moment on."),
}
"""What a page says once it is done."""


class AccountPages:
    """The handlers of `/accounts`, `/keys` and `/admin/keys`."""

    def __init__(self, public_url: str | None, accounts: Accounts, credentials: Credentials) -> None:
        self._public_url = public_url
        self._accounts = accounts
        self._credentials = credentials

    # Accounts

    def accounts(self, environ: Environ) -> Answer:
        """`GET /accounts`"""
        found, wanted = self._accounts.all(), wanted_by(environ)
        if wanted.kind == "html":
            return Answer(200, HTML, pages.accounts(wanted, found, _done(environ)))
        return as_json(200, {"accounts": [account_document(account) for account in found]})

    def add_account(self, environ: Environ) -> Answer:
        """`POST /accounts`"""
        body = body_of(environ)
        given, wanted = _without_empty(body.fields) if body.kind == "form" else body.fields, wanted_by(environ)
        try:
            account, secret = self._accounts.add(actor_of(environ), given)
        except (FieldRefused, Taken) as refusal:
            if wanted.kind != "html":
                raise
            found = self._accounts.all()
            return answer_on_form(
                refusal, environ, lambda problem: pages.accounts(wanted, found, problem=problem, given=_texts_of(given))
            )
        link = self._link(environ, secret) if secret else None
        if wanted.kind == "html":
            return Answer(201, HTML, pages.account(wanted, account, link, wanted.language.say(_MADE)))
        document = {**account_document(account), **({"password_link": link} if link else {})}
        return as_json(201, document, (("Location", f"/accounts/{account.id}"),))

    def account(self, environ: Environ, account_id: str) -> Answer:
        """`GET /accounts/<account_id>`"""
        return self._one(environ, self._accounts.get(account_id))

    def change_account(self, environ: Environ, account_id: str) -> Answer:
        """`PATCH /accounts/<account_id>`"""
        return self._one(environ, self._accounts.change(actor_of(environ), account_id, body_of(environ).fields))

    def delete_account(self, environ: Environ, account_id: str) -> Answer:
        """`DELETE /accounts/<account_id>`"""
        self._accounts.delete(actor_of(environ), account_id)
        return Answer(204, TEXT, b"")

    def act_on_account(self, environ: Environ, account_id: str) -> Answer:
        """`POST /accounts/<account_id>`, for forms, which know neither PATCH nor DELETE: `do` says what."""
        fields = dict(body_of(environ).fields)
        match fields.pop("do", None):
            case "change":
                return self._do(environ, account_id, "change", fields)
            case "enable" | "disable" as do if not fields:
                return self._do(environ, account_id, do, {"enabled": do == "enable"})
            case "delete" if not fields:
                return self._do(environ, account_id, "delete", {})
        raise FieldRefused("do", "do is change (with what to change), enable, disable or delete.")

    def password_link(self, environ: Environ, account_id: str) -> Answer:
        """`POST /accounts/<account_id>/password-link`"""
        link = self._link(environ, self._accounts.new_link(actor_of(environ), account_id))
        if wanted_by(environ).kind == "html":
            return self._one(environ, self._accounts.get(account_id), link)
        return as_json(201, {"password_link": link})

    def _do(self, environ: Environ, account_id: str, do: str, changes: Fields) -> Answer:
        wanted = wanted_by(environ)
        try:
            if do == "delete":
                self._accounts.delete(actor_of(environ), account_id)
                return Answer(303, TEXT, b"", (("Location", done_at("/accounts", "deleted", wanted)),))
            changed = self._accounts.change(actor_of(environ), account_id, changes)
        except (FieldRefused, Taken, LastAdmin) as refusal:
            if wanted.kind != "html":
                raise
            was, given = self._accounts.get(account_id), _texts_of(changes)
            return answer_on_form(refusal, environ, lambda problem: pages.account(wanted, was, problem=problem, given=given))
        return self._one(environ, changed, done=_DONE[do])

    def _one(self, environ: Environ, account: Account, link: str | None = None, done: str | None = None) -> Answer:
        wanted = wanted_by(environ)
        if wanted.kind == "html":
            return Answer(200, HTML, pages.account(wanted, account, link, done and wanted.language.say(done)))
        return as_json(200, account_document(account))

    def _link(self, environ: Environ, secret: str) -> str:
        return f"{self._public_url or own_origin(environ)}/password/{secret}"

    # Keys

    def keys(self, environ: Environ) -> Answer:
        """`GET /keys`"""
        if wanted_by(environ).kind == "html":
            return Answer(200, HTML, self._keys_page(environ))
        return as_json(200, {"keys": [key_document(key) for key in self._own_keys(environ)]})

    def add_key(self, environ: Environ) -> Answer:
        """`POST /keys`"""
        given = body_of(environ).fields
        try:
            key, text = self._make_key(environ, given)
        except FieldRefused as refusal:
            if wanted_by(environ).kind != "html":
                raise
            return answer_on_form(
                refusal, environ, lambda problem: self._keys_page(environ, problem=problem, given=_texts_of(given))
            )
        if wanted_by(environ).kind == "html":
            return Answer(201, HTML, self._keys_page(environ, text))
        return as_json(201, {**key_document(key), "key": text}, (("Location", f"/keys/{key.id}"),))

    def revoke_key(self, environ: Environ, key_id: str) -> Answer:
        """`DELETE /keys/<key_id>`"""
        self._credentials.revoke_key(actor_of(environ), key_id)
        return Answer(204, TEXT, b"")

    def revoke_key_by_form(self, environ: Environ, key_id: str) -> Answer:
        """`POST /keys/<key_id>`"""
        if body_of(environ).fields != {"do": "revoke"}:
            raise FieldRefused("do", "To revoke the key, send do=revoke.")
        is_own = key_id in {key.id for key in self._own_keys(environ)}
        self._credentials.revoke_key(actor_of(environ), key_id)
        page = done_at("/keys" if is_own else "/admin/keys", "revoked", wanted_by(environ))
        return Answer(303, TEXT, b"", (("Location", page),))

    def keys_in_use(self, environ: Environ) -> Answer:
        """`GET /admin/keys`"""
        wanted = wanted_by(environ)
        accounts = {account.id: account for account in self._accounts.all()}
        every = self._credentials.store.keys()
        found = [(key, accounts[key.account]) for key in every if key.account in accounts]
        try:
            encryption = keyfile.describe(self._accounts.keys.path)
        except KeyFileRefused:
            encryption = []  # changed by a slip: what was read before is in use, and the log says why
        if wanted.kind == "html":
            told = [(name, None if state == "current" else _millis(state)) for name, state in encryption]
            return Answer(200, HTML, pages.keys_in_use(wanted, found, told, self._credentials.store.now(), _done(environ)))
        document = {
            "keys": [{**key_document(key), "email": account.email} for key, account in found],
            "encryption_keys": [
                {"id": name, "retired_at": None if state == "current" else iso(_millis(state))} for name, state in encryption
            ],
        }
        return as_json(200, document)

    def _make_key(self, environ: Environ, given: Fields) -> tuple[ApiKey, str]:
        values = NEW_KEY.read(given)
        scopes = frozenset(values["scopes"])
        if not scopes:
            raise FieldRefused("scopes", "A key without a scope is good for nothing.")
        return self._credentials.make_key(actor_of(environ), values["name"], scopes, values["expires_in"])

    def _own_keys(self, environ: Environ) -> list[ApiKey]:
        account = actor_of(environ).account
        assert account
        return self._credentials.store.keys(account.id)

    def _keys_page(
        self, environ: Environ, new: str | None = None, problem: pages.Problem | None = None, given: Mapping[str, str] | None = None
    ) -> bytes:
        found, now = self._own_keys(environ), self._credentials.store.now()
        return pages.keys(wanted_by(environ), found, actor_of(environ), now, new, _done(environ), problem, given or {})


def key_document(key: ApiKey) -> dict[str, Any]:
    """A key as it is told: not what it is."""
    return {
        "id": key.id,
        "name": key.name,
        "account": key.account,
        "scopes": sorted(key.scopes),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "used_at": None if key.used_at is None else iso(key.used_at),
    }


def _millis(text: str) -> Millis:
    return Millis(int(datetime.fromisoformat(text).timestamp() * 1000))


def _done(environ: Environ) -> str | None:
    """What the page that leads here has done, to be said."""
    what = done_in(environ.get("QUERY_STRING", ""))
    return wanted_by(environ).language.say(_DONE[what]) if what in ("deleted", "revoked") else None


def _texts_of(given: Fields) -> dict[str, str]:
    """What stood in the fields of a form, to stand there again."""
    return {name: value for name, value in given.items() if isinstance(value, str)}


def _without_empty(fields: Fields) -> Fields:
    """What an empty field of a form leaves out."""
    return {name: value for name, value in fields.items() if value != ""}
