"""Signing in and out, and one's own password: what people do at the door. No Flask here."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from access.accounts import Accounts
from access.credentials import SESSION_SECONDS, Credentials
from errors import FieldRefused, MayflyError, WrongCredentials
from records import Account
from web import pages
from web.answers import HTML, TEXT, Answer, as_json, iso
from web.authentication import Authentication, actor_of
from web.cookies import cookie
from web.errors import REASON, answer_on_form, reason_of
from web.errors import answer as answer_error
from web.gate import Environ
from web.handlers import body_of
from web.languages import N_
from web.negotiation import Wanted, wanted_by
from web.paths import vault_of
from web.visitor import SESSION_COOKIE

_OWN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]{0,2000}")
_RESET = N_(
    "If there is an account with that address, the administrators of this server see that you asked, and can send you a link."
)

_NOT_BOTH = N_("Nobody signs in with that e-mail address and that password. Look at both.")
_DONE = {
    "signed-out": N_("You are signed out."),
    "password": N_("The password is set. Sign in with it."),
}


class SignIn:
    """The handlers of `/sign-in`, `/sign-out`, `/account`, `/reset` and `/password`."""

    def __init__(self, authentication: Authentication, accounts: Accounts, credentials: Credentials) -> None:
        self._authentication = authentication
        self._accounts = accounts
        self._credentials = credentials

    def show(self, environ: Environ) -> Answer:
        """`GET /sign-in`"""
        query, wanted = environ.get("QUERY_STRING", ""), wanted_by(environ)
        done = wanted.language.say(_DONE[what]) if (what := done_in(query)) in _DONE else None
        return Answer(200, HTML, pages.account_sign_in(wanted, next_in(query), done=done))

    def enter(self, environ: Environ) -> Answer:
        """`POST /sign-in`"""
        self._authentication.require_own_page(environ)
        self._authentication.require_secure(environ)
        wanted = wanted_by(environ)
        fields = _texts(environ, {"email", "password"}, {"next"})
        next_ = own_path(fields.get("next", ""))
        try:
            actor = self._authentication.by_password(environ, fields["email"], fields["password"])
            session = self._credentials.sign_in(actor, self._authentication.session_of(environ))
        except WrongCredentials as refusal:
            if wanted.kind != "html":
                raise
            return _form_again(environ, refusal, next_, fields["email"])
        header = self._cookie(environ, session, SESSION_SECONDS)
        if wanted.kind == "html":
            return Answer(
                303, TEXT, b"", (("Location", (next_ or "/account") + ("" if "?" in next_ else wanted.lang_query)), header)
            )
        assert actor.account
        return as_json(200, account_document(actor.account), (header,))

    def leave(self, environ: Environ) -> Answer:
        """`POST /sign-out`"""
        session = self._authentication.session_of(environ)
        if session:
            self._authentication.require_own_page(environ)
            try:
                actor = self._credentials.by_session(session, environ["REMOTE_ADDR"])
            except WrongCredentials:
                pass
            else:
                self._credentials.end_session(actor, session)
        header = self._cookie(environ, "", 0)
        wanted = wanted_by(environ)
        if wanted.kind == "html":
            return Answer(303, TEXT, b"", (("Location", done_at("/sign-in", "signed-out", wanted)), header))
        return Answer(204, TEXT, b"", (header,))

    def account(self, environ: Environ) -> Answer:
        """`GET /account`"""
        actor, wanted = actor_of(environ), wanted_by(environ)
        assert actor.account
        if wanted.kind == "html":
            return Answer(200, HTML, pages.own_account(wanted, actor))
        document = account_document(actor.account)
        return as_json(200, {**document, "scopes": sorted(actor.scopes), "signed_in_by": actor.way})

    def change_password(self, environ: Environ) -> Answer:
        """`POST /account/password`"""
        actor, wanted = actor_of(environ), wanted_by(environ)
        assert actor.account
        self._authentication.require_secure(environ)
        fields = _texts(environ, {"old", "new"})
        try:
            self._authentication.by_password(environ, actor.account.email, fields["old"])
            changed = self._accounts.set_password(actor, actor.account.id, fields["new"])
        except (WrongCredentials, FieldRefused) as refusal:
            if wanted.kind != "html":
                raise
            return answer_on_form(refusal, environ, lambda problem: pages.own_account(wanted, actor, problem))
        if actor.way != "session":
            return Answer(204, TEXT, b"")
        session = self._credentials.begin_session(replace(actor, account=changed), "")
        header = self._cookie(environ, session, SESSION_SECONDS)
        if wanted.kind == "html":
            done = wanted.language.say("Your password was changed. You are signed out everywhere else.")
            return Answer(200, HTML, pages.own_account(wanted, actor, done=done), (header,))
        return Answer(204, TEXT, b"", (header,))

    # Without a password

    def ask_reset(self, environ: Environ) -> Answer:
        """`POST /reset`: the same answer, and the same work, whoever's address it is."""
        self._authentication.require_own_page(environ)
        fields = _texts(environ, {"email"})
        client = environ["REMOTE_ADDR"]
        self._authentication.limits.count_reset(client)
        self._accounts.ask_reset(fields["email"], client)
        wanted = wanted_by(environ)
        if wanted.kind == "html":
            return Answer(202, HTML, pages.account_sign_in(wanted, "", done=wanted.language.say(_RESET)))
        if wanted.kind == "text":
            return Answer(202, TEXT, f"{_RESET}\n".encode())
        return as_json(202, {"detail": _RESET})

    def show_link(self, environ: Environ, token: str) -> Answer:
        """`GET /password/<token>`"""
        account = self._accounts.link(token)
        return Answer(200, HTML, pages.password(wanted_by(environ), account.email))

    def use_link(self, environ: Environ, token: str) -> Answer:
        """`POST /password/<token>`"""
        self._authentication.require_own_page(environ)
        self._authentication.require_secure(environ)
        wanted = wanted_by(environ)
        fields = _texts(environ, {"password"})
        try:
            self._accounts.set_by_link(token, fields["password"], environ["REMOTE_ADDR"])
        except FieldRefused as refusal:
            if wanted.kind != "html":
                raise
            email = self._accounts.link(token).email
            return answer_on_form(refusal, environ, lambda problem: pages.password(wanted, email, problem))
        if wanted.kind == "html":
            return Answer(303, TEXT, b"", (("Location", done_at("/sign-in", "password", wanted)),))
        return Answer(204, TEXT, b"")

    def _cookie(self, environ: Environ, value: str, seconds: int) -> tuple[str, str]:
        return cookie(SESSION_COOKIE, value, seconds, self._authentication.is_https(environ))


def ask_to_sign_in(environ: Environ, refusal: MayflyError) -> Answer:
    """401 with the form to sign in, which leads back to the page that was asked for.

    Who follows another site's link comes without the cookie of their session (SameSite=Strict), signed in or not. They get a page
    of ours that asks for the same address again, and with that request the cookie comes along.
    """
    path, wanted = environ["PATH_INFO"], wanted_by(environ)
    if environ["REQUEST_METHOD"] == "GET" and environ.get("HTTP_SEC_FETCH_SITE") == "cross-site":
        environ[REASON] = reason_of(refusal)
        return replace(answer_error(refusal, wanted), body=pages.come_back(wanted, path))
    has_page = environ["REQUEST_METHOD"] == "GET" or vault_of(path)
    return _form_again(environ, refusal, own_path(path) if has_page else "")


def _form_again(environ: Environ, refusal: MayflyError, next_: str, email: str = "") -> Answer:
    environ[REASON] = reason_of(refusal)
    wanted = wanted_by(environ)
    text = _NOT_BOTH if email else refusal.text
    problem = wanted.language.say(text, **refusal.values)
    return replace(answer_error(refusal, wanted), body=pages.account_sign_in(wanted, next_, problem, email=email))


def own_path(path: str) -> str:
    """A path of our own, to go on to after signing in; empty for anything that a browser might take for another site's."""
    return path if _OWN_PATH.fullmatch(path) else ""


def next_in(query: str) -> str:
    """The path that `next=` in a query names; empty if it is none of our own."""
    return own_path(_in_query(query, "next"))


def done_at(path: str, what: str, wanted: Wanted) -> str:
    """Where a form leads that has done something: to a page that says so."""
    return f"{path}?done={what}" + wanted.lang_query.replace("?", "&")


def done_in(query: str) -> str:
    """What `done_at` put into a query."""
    return _in_query(query, "done")


def _in_query(query: str, name: str) -> str:
    found = parse_qs(query, max_num_fields=20) if query.count("&") < 20 else {}
    return found.get(name, [""])[0]


def account_document(account: Account) -> dict[str, Any]:
    """An account as it is told. Nothing of its password but whether it has one."""
    return {
        "id": account.id,
        "email": account.email,
        "first_name": account.first_name,
        "last_name": account.last_name,
        "roles": sorted(account.roles),
        "enabled": account.enabled,
        "has_password": account.password is not None,
        "created_at": iso(account.created_at),
        "changed_at": iso(account.changed_at),
        "reset_asked_at": None if account.reset_asked_at is None else iso(account.reset_asked_at),
    }


def _texts(environ: Environ, needed: set[str], more: frozenset[str] | set[str] = frozenset()) -> dict[str, str]:
    """The fields of a form or JSON, all of them text. Raises FieldRefused."""
    fields = body_of(environ).fields
    if not needed <= set(fields) <= needed | more or not all(isinstance(value, str) for value in fields.values()):
        raise FieldRefused("", "This takes the fields %(known)s, as a form or JSON.", known=", ".join(sorted(needed | more)))
    return {name: str(value) for name, value in fields.items()}
