"""Who makes a request, and whether they may do what its route needs.

Each route declares its need in the table of routes; what stands behind it is never reached by anybody else. The answer is an
`Actor`, which handlers find by `actor_of`. Nothing is remembered between two requests: what was revoked holds for the next one.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal, get_args

from itsdangerous import BadSignature, TimestampSigner

from errors import AccountRequired, MayflyError, MetricsTokenRequired, NotSignedIn, ScopeRequired, StoreFailed
from keyfile import KeyFile
from records import Actor, Scope
from settings import Settings
from web.cookies import read_cookie, require_own_page
from web.handlers import Environ
from web.limits import Limits
from web.paths import vault_of

Need = Literal["anyone", "account", "password", "create", "admin page", "admin token", "metrics token"] | Scope
"""What a route needs of who asks for it.

`anyone`: nothing. `account`: anybody who is signed in, in whatever way. `password`: the same by password or on the page, so not by
a key that was given to a program. `create`: nothing, or the scope messages:create, by MAYFLY_CREATE. `admin page`: the session of
that page, or one of an account with messages:purge. `admin token`: that token, or what signs an account with messages:purge in, in
the header. A scope: somebody who has it.
"""
NEEDS: frozenset[str] = frozenset(name for part in get_args(Need) for name in (get_args(part) or (part,)))

ACTOR = "mayfly.actor"
ADMIN_COOKIE = "mayfly-admin"
ADMIN_SESSION_SECONDS = 30 * 60


def actor_of(environ: Environ) -> Actor:
    """Who makes this request: an account, or nobody of whom more than the address is known."""
    actor: Actor | None = environ.get(ACTOR)
    return actor or Actor(address=environ["REMOTE_ADDR"])


class Authentication:
    """The door of every route of one server."""

    def __init__(self, settings: Settings, keys: KeyFile, limits: Limits) -> None:
        self.limits = limits
        self.keys = keys
        self.public_url = settings.public_url
        self._anyone_creates = settings.create == "anyone"
        self._audit_open = settings.audit_open
        self._metrics_token = settings.metrics_token

    def admit(self, need: Need, environ: Environ) -> Actor:
        """Return who asks, if they may have what needs `need`.

        Raises AccountRequired, WrongCredentials, ScopeRequired, SecureRequired, ForgedRequest, TooManySignIns, NotSignedIn,
        MetricsTokenRequired, StoreFailed.
        """
        if need == "create":
            need = "anyone" if self._anyone_creates else "messages:create"
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
        if need == "password":
            if actor.way not in ("session", "password"):
                raise ScopeRequired
        elif need != "account" and need not in actor.scopes:
            raise ScopeRequired
        return actor

    def is_https(self, environ: Environ) -> bool:
        """Whether browsers reach this server by https."""
        return environ["wsgi.url_scheme"] == "https" or (self.public_url or "").startswith("https:")

    def require_own_page(self, environ: Environ) -> None:
        """Raise ForgedRequest for an unsafe request that another site sent."""
        require_own_page(environ, self.public_url)

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
        except StoreFailed:
            raise
        except MayflyError:
            return nobody

    def _identify(self, environ: Environ) -> Actor | None:
        """Who asks, by what they show; None if they show nothing. Raises WrongCredentials for what does not hold."""
        return None

    # The operator, by the tokens of the key file and the settings

    def _operator_on_page(self, environ: Environ) -> Actor:
        session = self.admin_session(environ)
        return Actor(way="admin token", credential=session, address=environ["REMOTE_ADDR"])

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
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            raise NotSignedIn
        self.require_admin_token(environ, token.strip())
        return Actor(way="admin token", address=environ["REMOTE_ADDR"])

    def require_admin_token(self, environ: Environ, token: str) -> None:
        """Raise NotSignedIn, or TooManySignIns: after too many wrong ones not even the right one is looked at."""
        client = environ["REMOTE_ADDR"]
        self.limits.require_sign_in(client)
        if not self.keys.ring().is_admin_token(token):
            self.limits.count_wrong_sign_in(client)
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
