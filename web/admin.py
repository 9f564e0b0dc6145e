"""The operator's page and its scripted twin: counts, the purge, taking one message down.

The page signs in with the admin token and then carries a signed cookie for half an hour; its forms are checked by where they come
from (Sec-Fetch-Site, Origin) and by a token bound to the session. Scripts send the admin token as Bearer with each request and need
neither.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from flask import Blueprint, Response, request
from itsdangerous import BadSignature, TimestampSigner

from errors import BodyRefused, FieldRefused, ForgedRequest, NotSignedIn
from keyfile import KeyFile
from messages import Vault, ask_each, purge_all, take_down
from web import answers, pages
from web.answers import HTML, Answer
from web.errors import REASON, reason_of
from web.handlers import body_of, own_origin
from web.limits import Limits
from web.negotiation import wanted_by
from web.routes import respond

SESSION_SECONDS = 30 * 60


def blueprint(vaults: Sequence[Vault], limits: Limits) -> Blueprint:
    """`/admin` and `/delete`, for all vaults."""
    keys = vaults[0].keys
    routes = Blueprint("admin", __name__)

    def page(session: str, done: str | None = None) -> Response:
        form_token = _form_token(keys, session)
        return respond(Answer(200, HTML, pages.admin(wanted_by(request.environ), _stores(vaults), form_token, done)))

    def require_token(token: str) -> None:
        client = request.environ["REMOTE_ADDR"]
        limits.require_sign_in(client)
        if not keys.ring().is_admin_token(token):
            limits.count_wrong_sign_in(client)
            raise NotSignedIn

    @routes.get("/admin")
    def show() -> Response:
        try:
            return page(_session(keys))
        except NotSignedIn:
            return respond(Answer(200, HTML, pages.sign_in(wanted_by(request.environ))))

    @routes.post("/admin")
    def act() -> Response:
        fields = _form()
        _require_own_page()
        if set(fields) == {"token"}:
            try:
                require_token(fields["token"])
            except NotSignedIn as refusal:
                request.environ[REASON] = reason_of(refusal)
                wanted = wanted_by(request.environ)
                problem = wanted.language.say("That is not the admin token.")
                return respond(Answer(401, HTML, pages.sign_in(wanted, problem), _CHALLENGE))
            return _back_with_cookie(_signer(keys).sign(secrets.token_urlsafe(16)).decode(), SESSION_SECONDS)
        session = _session(keys)
        if not hmac.compare_digest(fields.pop("form_token", "").encode(), _form_token(keys, session).encode()):
            raise ForgedRequest
        language = wanted_by(request.environ).language
        match fields:
            case {"do": "purge", **rest} if not rest:
                return page(session, language.count("Purged %(num)s message.", "Purged %(num)s messages.", purge_all(vaults)))
            case {"do": "take-down", "link": link, **rest} if not rest:
                if take_down(vaults, link):
                    return page(session, language.say("The message was taken down."))
                return page(session, language.say("There is no message at that link."))
            case {"do": "sign-out", **rest} if not rest:
                return _back_with_cookie("", 0)
        raise FieldRefused("", "The form has fields that this page does not have.")

    @routes.post("/delete")
    def delete() -> Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise NotSignedIn
        require_token(token.strip())
        if request.query_string:
            raise BodyRefused("Send link=… in the body: nothing was purged or taken down.")
        fields = body_of(request.environ).fields
        if not fields:
            return respond(answers.deleted(purge_all(vaults)))
        link = fields.get("link")
        if set(fields) != {"link"} or not isinstance(link, str):
            raise FieldRefused("link", "Send link=… to take one message down, or nothing to purge what has expired.")
        return respond(answers.deleted(int(take_down(vaults, link))))

    return routes


def _stores(vaults: Sequence[Vault]) -> list[pages.Store]:
    """What each vault holds; one whose database does not answer takes nothing from the page but its figures."""
    counts = ask_each(vaults, lambda vault: vault.counts())
    return [pages.Store(vault.name, vault.store.durability, told) for vault, told in zip(vaults, counts, strict=True)]


_CHALLENGE = (("WWW-Authenticate", 'Bearer realm="mayfly"'),)


def _form() -> dict[str, str]:
    body = body_of(request.environ)
    if body.kind != "form":
        raise FieldRefused("", "This page takes its own forms. Scripts use POST /delete.")
    return {name: str(value) for name, value in body.fields.items()}


def _require_own_page() -> None:
    """Raise ForgedRequest for a form that another site sent. Both headers are set by the browser, not by the page.

    Under our `Referrer-Policy: no-referrer` browsers send `Origin: null` with our own forms too (Fetch, "append a request Origin
    header"): then Sec-Fetch-Site alone tells them from others'.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = (None, own_origin(request.environ)) if site is None else (None, own_origin(request.environ), "null")
    if site not in (None, "same-origin", "none") or origin not in own:
        raise ForgedRequest


def _cookie_name() -> str:
    return "__Host-mayfly-admin" if request.environ["wsgi.url_scheme"] == "https" else "mayfly-admin"


def _back_with_cookie(value: str, seconds: int) -> Response:
    secure = request.environ["wsgi.url_scheme"] == "https"
    answer = Response(status=303, headers={"Location": f"/admin{wanted_by(request.environ).lang_query}"})
    answer.set_cookie(_cookie_name(), value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="Strict")
    return answer


def _signer(keys: KeyFile) -> TimestampSigner:
    return TimestampSigner(keys.ring().session_secret(), salt=b"mayfly admin", digest_method=hashlib.sha256)


def _session(keys: KeyFile) -> str:
    """The id of the session that the cookie names. Raises NotSignedIn if there is none, or none any more."""
    try:
        return _signer(keys).unsign(request.cookies.get(_cookie_name(), ""), max_age=SESSION_SECONDS).decode()
    except BadSignature:
        raise NotSignedIn from None


def _form_token(keys: KeyFile, session: str) -> str:
    return hmac.new(keys.ring().session_secret(), b"form\x00" + session.encode(), "sha256").hexdigest()
