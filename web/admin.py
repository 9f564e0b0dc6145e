"""The operator's page and its scripted twin: counts, the purge, taking one message down.

The page signs in with the admin token and then carries a signed cookie for half an hour; its forms are checked by where they come
from (Sec-Fetch-Site, Origin) and by a token bound to the session. Scripts send the admin token as Bearer with each request and need
neither.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence

from errors import BodyRefused, FieldRefused, ForgedRequest, NotSignedIn
from messages import Vault
from messages.vaults import ask_each, purge_all, take_down
from records import Actor
from web import answers, pages
from web.answers import HTML, TEXT, Answer
from web.authentication import ADMIN_COOKIE, ADMIN_SESSION_SECONDS, Authentication, actor_of
from web.cookies import cookie
from web.errors import REASON, reason_of
from web.handlers import Environ, body_of
from web.negotiation import wanted_by


class Admin:
    """`/admin` and `/delete`, for all vaults."""

    def __init__(self, vaults: Sequence[Vault], authentication: Authentication) -> None:
        self._vaults = vaults
        self._authentication = authentication

    def door(self, environ: Environ) -> Answer:
        """`GET /admin`, for who is not signed in."""
        return Answer(200, HTML, pages.sign_in(wanted_by(environ)))

    def show(self, environ: Environ) -> Answer:
        """`GET /admin`"""
        return self._page(environ)

    def sign_in(self, environ: Environ) -> Answer:
        """`POST /admin`, for who is not signed in. Raises NotSignedIn unless it is the form with the admin token."""
        fields = self._form(environ)
        if set(fields) != {"token"}:
            raise NotSignedIn
        try:
            self._authentication.require_admin_token(environ, fields["token"])
        except NotSignedIn as refusal:
            environ[REASON] = reason_of(refusal)
            wanted = wanted_by(environ)
            problem = wanted.language.say("That is not the admin token.")
            return Answer(401, HTML, pages.sign_in(wanted, problem), _CHALLENGE)
        self._authentication.tell("sign-in", "done", Actor(way="admin token", address=environ["REMOTE_ADDR"]))
        session = self._authentication.admin_signer().sign(secrets.token_urlsafe(16)).decode()
        return self._back_with_cookie(environ, session, ADMIN_SESSION_SECONDS)

    def act(self, environ: Environ) -> Answer:
        """`POST /admin`"""
        fields = self._form(environ)
        if set(fields) == {"token"}:
            return self.sign_in(environ)
        if not hmac.compare_digest(fields.pop("form_token", "").encode(), self._form_token(environ).encode()):
            raise ForgedRequest
        language = wanted_by(environ).language
        match fields:
            case {"do": "purge", **rest} if not rest:
                purged = self._purge(environ)
                return self._page(environ, language.count("Purged %(num)s message.", "Purged %(num)s messages.", purged))
            case {"do": "take-down", "link": link, **rest} if not rest:
                if take_down(self._vaults, link, actor_of(environ)):
                    return self._page(environ, language.say("The message was taken down."))
                return self._page(environ, language.say("There is no message at that link."))
            case {"do": "sign-out", **rest} if not rest:
                return self._back_with_cookie(environ, "", 0)
        raise FieldRefused("", "The form has fields that this page does not have.")

    def delete(self, environ: Environ) -> Answer:
        """`POST /delete`"""
        if environ.get("QUERY_STRING"):
            raise BodyRefused("Send link=… in the body: nothing was purged or taken down.")
        fields = body_of(environ).fields
        if not fields:
            return answers.deleted(self._purge(environ))
        link = fields.get("link")
        if set(fields) != {"link"} or not isinstance(link, str):
            raise FieldRefused("link", "Send link=… to take one message down, or nothing to purge what has expired.")
        return answers.deleted(int(take_down(self._vaults, link, actor_of(environ))))

    def _purge(self, environ: Environ) -> int:
        """What somebody asks for is told first, unlike what the scheduler does by itself. Raises AuditFailed, StoreFailed."""
        self._authentication.tell("purge", "done", actor_of(environ))
        return purge_all(self._vaults)

    def _page(self, environ: Environ, done: str | None = None) -> Answer:
        by_token = actor_of(environ).way == "admin token"
        page = pages.admin(wanted_by(environ), _stores(self._vaults), self._form_token(environ), by_token, done)
        return Answer(200, HTML, page)

    def _form(self, environ: Environ) -> dict[str, str]:
        body = body_of(environ)
        if body.kind != "form":
            raise FieldRefused("", "This page takes its own forms. Scripts use POST /delete.")
        self._authentication.require_own_page(environ)
        return {name: str(value) for name, value in body.fields.items()}

    def _form_token(self, environ: Environ) -> str:
        """What the forms of this session's page carry, and no other page can know."""
        session = actor_of(environ).credential or ""
        secret = self._authentication.keys.ring().session_secret()
        return hmac.new(secret, b"form\x00" + session.encode(), "sha256").hexdigest()

    def _back_with_cookie(self, environ: Environ, value: str, seconds: int) -> Answer:
        header = cookie(ADMIN_COOKIE, value, seconds, self._authentication.is_https(environ))
        return Answer(303, TEXT, b"", (("Location", f"/admin{wanted_by(environ).lang_query}"), header))


def _stores(vaults: Sequence[Vault]) -> list[pages.Store]:
    """What each vault holds; one whose database does not answer takes nothing from the page but its figures."""
    counts = ask_each(vaults, lambda vault: vault.counts())
    return [pages.Store(vault.name, vault.store.durability, told) for vault, told in zip(vaults, counts, strict=True)]


_CHALLENGE = (("WWW-Authenticate", 'Bearer realm="mayfly"'),)
