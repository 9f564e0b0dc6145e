"""Who makes a request, and whether they may do what its route needs.

Each route declares its need in the table of routes; what stands behind it is never reached by anybody else. The answer is an
`Actor`, which handlers find by `actor_of`. Nothing is remembered between two requests: what was revoked holds for the next one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

from itsdangerous import BadSignature, TimestampSigner

from access.credentials import KEY_PREFIX
from access.services import Access
from errors import (
    AccountRequired,
    MayflyError,
    MetricsTokenRequired,
    NotSignedIn,
    ScopeRequired,
    SecureRequired,
    Unavailable,
    WrongCredentials,
)
from keyfile import KeyFile
from records import Actor, Event, Scope, Way
from settings import LOOPBACK_HOSTS, Settings
from web.client_certificates import presented_certificate
from web.cookies import read_cookie, require_own_page
from web.gate import Environ, host_name, own_origin
from web.limits import Limits
from web.paths import vault_of
from web.visitor import ACTOR, SESSION_COOKIE

Need = (
    Literal["anyone", "account", "password", "create", "admin page", "admin token", "metrics token"]
    | Literal["accounts:manage by password"]
    | Scope
)
"""What a route needs of who asks for it.

`anyone`: nothing. `account`: anybody who is signed in, in whatever way. `password`: the same by password or on the page, so not by
a key that was given to a program. `create`: nothing, or the scope messages:create, by MAYFLY_CREATE. `admin page`: the session of
that page, or one of an account with messages:purge. `admin token`: that token, or what signs an account with messages:purge in, in
the header. A scope: somebody who has it; `accounts:manage by password`: who has that scope, and not by a key or token.
"""
NEEDS: frozenset[str] = frozenset(name for part in get_args(Need) for name in (get_args(part) or (part,)))

ADMIN_COOKIE = ("mayfly-admin", "__Host-mayfly-admin")
"""The names of the admin page's cookie where browsers come by http, and by https."""
ADMIN_SESSION_SECONDS = 30 * 60


def actor_of(environ: Environ) -> Actor:
    """Who makes this request: an account, or nobody of whom more than the address is known."""
    actor: Actor | None = environ.get(ACTOR)
    return actor or Actor(address=environ["REMOTE_ADDR"])


class Authentication:
    """The door of every route of one server."""

    def __init__(self, settings: Settings, keys: KeyFile, limits: Limits, access: Access | None = None) -> None:
        """Without `access` there are no accounts, and nobody can sign in."""
        self.access = access
        self.limits = limits
        self.keys = keys
        self.public_url = settings.public_url
        self.anyone_creates = settings.create == "anyone"
        self._audit_open = settings.audit_open
        self._metrics_token = settings.metrics_token

    def admit(self, need: Need, environ: Environ) -> Actor:
        """Return who asks, if they may have what needs `need`.

        Raises AccountRequired, WrongCredentials, ScopeRequired, SecureRequired, ForgedRequest, TooManySignIns, NotSignedIn,
        MetricsTokenRequired, Unavailable.
        """
        if need == "create":
            need = "anyone" if self.anyone_creates else "messages:create"
        if need == "anyone":
            return self._whoever(environ)
        if need == "metrics token":
            return self._scraper(environ)
        if need == "admin page":
            return self._operator_on_page(environ)
        if need == "admin token":
            return self._operator(environ)
        actor = self._identify(environ)
        if actor is None:
            raise AccountRequired
        scope, _, by_password = need.partition(" by ")
        if (need == "password" or by_password) and actor.way not in ("session", "password"):
            raise ScopeRequired
        if need not in ("account", "password") and scope not in actor.scopes:
            raise ScopeRequired
        return self._with_certificate(actor, environ)

    def _with_certificate(self, actor: Actor, environ: Environ) -> Actor:
        """The same, with the certificate of theirs that the client has shown, where that matters: nobody is asked elsewhere."""
        path = environ["PATH_INFO"]
        if self.access is None or self.access.certificates is None or actor.account is None:
            return actor
        if vault_of(path) != "sealed" and not path.startswith("/certificates"):
            return actor
        shown = presented_certificate(environ)
        return replace(actor, certificate=self.access.certificates.shown_by(actor.account, shown)) if shown else actor

    def is_https(self, environ: Environ) -> bool:
        """Whether browsers reach this server by https."""
        return environ["wsgi.url_scheme"] == "https" or (self.public_url or "").startswith("https:")

    def require_secure(self, environ: Environ) -> None:
        """Raise SecureRequired if what is shown could have been read on its way."""
        if not self.is_https(environ) and host_name(environ.get("HTTP_HOST", "")) not in LOOPBACK_HOSTS:
            raise SecureRequired

    def require_own_page(self, environ: Environ) -> None:
        """Raise ForgedRequest for an unsafe request that another site sent."""
        require_own_page(environ, self.public_url)

    def issuer(self, environ: Environ) -> str:
        """What access tokens call this server."""
        return self.public_url or own_origin(environ)

    def session_of(self, environ: Environ) -> str:
        """The secret of the session whose cookie came along; empty if none did."""
        return read_cookie(environ, SESSION_COOKIE, self.is_https(environ))

    def _whoever(self, environ: Environ) -> Actor:
        """Where anyone may pass: what is shown and does not hold is as if it were not shown.

        Where nobody asks who it was, neither is the accounts' database: the open vault does not notice when that is down.
        """
        nobody = Actor(address=environ["REMOTE_ADDR"])
        vault = vault_of(environ["PATH_INFO"])
        if vault is None or (vault == "open" and not self._audit_open):
            return nobody
        try:
            return self._identify(environ) or nobody
        except Unavailable:
            raise
        except MayflyError:
            return nobody

    def _identify(self, environ: Environ) -> Actor | None:
        """Who asks, by what they show; None if they show nothing. Raises WrongCredentials for what does not hold."""
        if environ.get("HTTP_AUTHORIZATION"):
            return self._by_header(environ)
        session = self.session_of(environ)
        if not session:
            return None
        if self.access is None:
            raise WrongCredentials
        self.require_own_page(environ)
        return self.access.credentials.by_session(session, environ["REMOTE_ADDR"])

    def _by_header(self, environ: Environ) -> Actor:
        if self.access is None:
            raise WrongCredentials
        self.require_secure(environ)
        scheme, _, shown = environ["HTTP_AUTHORIZATION"].partition(" ")
        scheme, shown, address = scheme.lower(), shown.strip(), environ["REMOTE_ADDR"]
        if scheme == "basic":
            self.require_own_page(environ)  # a browser that was told a password shows it unasked, as it does cookies
            email, password = _basic(shown)
            return self.by_password(environ, email, password)
        if scheme == "bearer" and shown.startswith(KEY_PREFIX):
            with self._wrong_ones_told("key", address):
                return self.access.credentials.by_key(shown, address)
        if scheme == "bearer":
            with self._wrong_ones_told("token", address):
                return self.access.tokens.by_token(shown, self.issuer(environ), address)
        raise WrongCredentials

    @contextmanager
    def _wrong_ones_told(self, way: Way, client: str) -> Iterator[None]:
        """Tell the audit of a key or token that does not hold, of one client as often as it may try: beyond that TooManySignIns.

        One that holds is taken however many did not: 256 bits are not guessed.
        """
        try:
            yield
        except WrongCredentials:
            self.limits.require_sign_in(client)
            self.limits.count_wrong_sign_in(client)
            self.tell("sign-in", "refused", Actor(way=way, address=client))
            raise

    def tell(self, action: str, outcome: str, actor: Actor) -> None:
        """Write to the audit, where there is one. Raises AuditFailed, and then it must not be done."""
        if self.access:
            self.access.audit.write(Event(action, outcome, actor))

    def by_password(self, environ: Environ, email: str, password: str) -> Actor:
        """Raises WrongCredentials, TooManySignIns; the right password is refused as well after too many wrong ones."""
        assert self.access
        client = environ["REMOTE_ADDR"]
        self.limits.require_sign_in(client)
        self.limits.require_email(email)
        try:
            return self.access.credentials.by_password(email, password, client)
        except WrongCredentials:
            self.limits.count_wrong_sign_in(client)
            self.limits.count_wrong_email(email)
            raise

    # The operator, by the tokens of the key file and the settings

    def _operator_on_page(self, environ: Environ) -> Actor:
        address = environ["REMOTE_ADDR"]
        try:
            return Actor(way="admin token", credential=self.admin_session(environ), address=address)
        except NotSignedIn:
            session = self.session_of(environ)
            if self.access is None or not session:
                raise
        self.require_own_page(environ)
        try:
            actor = self.access.credentials.by_session(session, address)
        except WrongCredentials:
            raise NotSignedIn from None
        if "messages:purge" not in actor.scopes:
            raise NotSignedIn
        return actor

    def admin_session(self, environ: Environ) -> str:
        """The id of the session that the admin page's cookie names. Raises NotSignedIn if there is none, or none any more."""
        value = read_cookie(environ, ADMIN_COOKIE, self.is_https(environ))
        try:
            return self.admin_signer().unsign(value, max_age=ADMIN_SESSION_SECONDS).decode()
        except BadSignature:
            raise NotSignedIn from None

    def admin_signer(self) -> TimestampSigner:
        """What signs the admin page's cookie: another admin token ends every session."""
        return TimestampSigner(self.keys.ring().session_secret(), salt=b"mayfly admin", digest_method=hashlib.sha256)

    def _operator(self, environ: Environ) -> Actor:
        scheme, _, shown = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        shown = shown.strip()
        if self.access and (scheme.lower() == "basic" or shown.startswith(KEY_PREFIX) or shown.count(".") == 2):
            actor = self._by_header(environ)
            if "messages:purge" not in actor.scopes:
                raise ScopeRequired
            return actor
        if scheme.lower() != "bearer":
            raise NotSignedIn
        self.require_admin_token(environ, shown)
        return Actor(way="admin token", address=environ["REMOTE_ADDR"])

    def require_admin_token(self, environ: Environ, token: str) -> None:
        """Raise NotSignedIn, or TooManySignIns: after too many wrong ones not even the right one is looked at."""
        client = environ["REMOTE_ADDR"]
        self.limits.require_sign_in(client)
        if not self.keys.ring().is_admin_token(token):
            self.limits.count_wrong_sign_in(client)
            self.tell("sign-in", "refused", Actor(way="admin token", address=client))
            raise NotSignedIn

    def _scraper(self, environ: Environ) -> Actor:
        """Raise MetricsTokenRequired, or TooManySignIns: wrong tokens are counted with those of the admin."""
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer" or self._metrics_token is None:
            raise MetricsTokenRequired
        client = environ["REMOTE_ADDR"]
        self.limits.require_sign_in(client)
        if not hmac.compare_digest(token.strip().encode(), self._metrics_token.encode()):
            self.limits.count_wrong_sign_in(client)
            raise MetricsTokenRequired
        return Actor(address=client)


def _basic(shown: str) -> tuple[str, str]:
    """E-mail address and password (RFC 7617, in UTF-8). Raises WrongCredentials."""
    try:
        email, colon, password = base64.b64decode(shown, validate=True).decode().partition(":")
    except ValueError:
        raise WrongCredentials from None
    if not colon:
        raise WrongCredentials
    return email, password
