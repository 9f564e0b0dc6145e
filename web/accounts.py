"""Accounts, as admins look after them, and API keys, as everybody looks after their own. No Flask here."""

from __future__ import annotations

from typing import Any

from access.accounts import Accounts
from access.credentials import DEFAULT_KEY_SECONDS, MAX_KEY_SECONDS, Credentials
from errors import FieldRefused
from fields import Choice, Each, Field, Line, Model, Whole
from records import SCOPES, Account, ApiKey
from web import pages
from web.answers import HTML, TEXT, Answer, as_json, iso
from web.authentication import actor_of
from web.bodies import Fields
from web.gate import Environ, own_origin
from web.handlers import body_of
from web.negotiation import wanted_by
from web.sign_in import account_document

NEW_KEY = Model(
    Field("name", Line(100), "What it is for.", required=True),
    Field("scopes", Each(Choice(SCOPES), len(SCOPES)), "What it may be used for: no more than the account may.", required=True),
    Field("expires_in", Whole(60, MAX_KEY_SECONDS), "Seconds until it ends.", DEFAULT_KEY_SECONDS),
)


class AccountPages:
    """The handlers of `/accounts` and `/keys`."""

    def __init__(self, public_url: str | None, accounts: Accounts, credentials: Credentials) -> None:
        self._public_url = public_url
        self._accounts = accounts
        self._credentials = credentials

    # Accounts

    def accounts(self, environ: Environ) -> Answer:
        """`GET /accounts`"""
        return self._list(environ)

    def add_account(self, environ: Environ) -> Answer:
        """`POST /accounts`"""
        body = body_of(environ)
        account, secret = self._accounts.add(actor_of(environ), _without_empty(body.fields) if body.kind == "form" else body.fields)
        link = self._link(environ, secret) if secret else None
        if wanted_by(environ).kind == "html":
            return self._list(environ, 201, link)
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
                return self._one(environ, self._accounts.change(actor_of(environ), account_id, fields))
            case "enable" | "disable" as do if not fields:
                changed = self._accounts.change(actor_of(environ), account_id, {"enabled": do == "enable"})
                return self._one(environ, changed)
            case "delete" if not fields:
                self._accounts.delete(actor_of(environ), account_id)
                return Answer(303, TEXT, b"", (("Location", f"/accounts{wanted_by(environ).lang_query}"),))
        raise FieldRefused("do", "do is change (with what to change), enable, disable or delete.")

    def password_link(self, environ: Environ, account_id: str) -> Answer:
        """`POST /accounts/<account_id>/password-link`"""
        link = self._link(environ, self._accounts.new_link(actor_of(environ), account_id))
        if wanted_by(environ).kind == "html":
            return self._one(environ, self._accounts.get(account_id), link)
        return as_json(201, {"password_link": link})

    def _list(self, environ: Environ, status: int = 200, link: str | None = None) -> Answer:
        found, wanted = self._accounts.all(), wanted_by(environ)
        if wanted.kind == "html":
            return Answer(status, HTML, pages.accounts(wanted, found, link))
        return as_json(status, {"accounts": [account_document(account) for account in found]})

    def _one(self, environ: Environ, account: Account, link: str | None = None) -> Answer:
        wanted = wanted_by(environ)
        if wanted.kind == "html":
            return Answer(200, HTML, pages.account(wanted, account, link))
        return as_json(200, account_document(account))

    def _link(self, environ: Environ, secret: str) -> str:
        return f"{self._public_url or own_origin(environ)}/password/{secret}"

    # Keys

    def keys(self, environ: Environ) -> Answer:
        """`GET /keys`"""
        return self._keys(environ)

    def add_key(self, environ: Environ) -> Answer:
        """`POST /keys`"""
        values = NEW_KEY.read(body_of(environ).fields)
        scopes = frozenset(values["scopes"])
        if not scopes:
            raise FieldRefused("scopes", "A key without a scope is good for nothing.")
        key, text = self._credentials.make_key(actor_of(environ), values["name"], scopes, values["expires_in"])
        if wanted_by(environ).kind == "html":
            return self._keys(environ, 201, text)
        return as_json(201, {**key_document(key), "key": text}, (("Location", f"/keys/{key.id}"),))

    def revoke_key(self, environ: Environ, key_id: str) -> Answer:
        """`DELETE /keys/<key_id>`"""
        self._credentials.revoke_key(actor_of(environ), key_id)
        return Answer(204, TEXT, b"")

    def revoke_key_by_form(self, environ: Environ, key_id: str) -> Answer:
        """`POST /keys/<key_id>`"""
        if body_of(environ).fields != {"do": "revoke"}:
            raise FieldRefused("do", "To revoke the key, send do=revoke.")
        self._credentials.revoke_key(actor_of(environ), key_id)
        return Answer(303, TEXT, b"", (("Location", f"/keys{wanted_by(environ).lang_query}"),))

    def _keys(self, environ: Environ, status: int = 200, new: str | None = None) -> Answer:
        actor, wanted = actor_of(environ), wanted_by(environ)
        assert actor.account
        found = self._credentials.store.keys(actor.account.id)
        if wanted.kind == "html":
            return Answer(status, HTML, pages.keys(wanted, found, actor, new))
        return as_json(status, {"keys": [key_document(key) for key in found]})


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


def _without_empty(fields: Fields) -> Fields:
    """What an empty field of a form leaves out."""
    return {name: value for name, value in fields.items() if value != ""}
