"""What somebody signs in with: a password, a session, an API key. Each is looked up anew for each request.

Of sessions, keys and links only a hash is stored: each is 256 random bits, which need no stretching.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass, replace

import crypto
from access.passwords import Passwords
from audit import Audit
from database import AccessStore
from errors import FieldRefused, NothingThere, WrongCredentials
from records import SECOND, Account, Actor, ApiKey, Event, Millis, Scope, Session

SESSION_SECONDS = 12 * 3600
MAX_KEY_SECONDS = 366 * 24 * 3600
DEFAULT_KEY_SECONDS = 90 * 24 * 3600
KEY_PREFIX = "mayfly_"
"""What API keys begin with, so that programs which look for leaked secrets know them."""
_SECRET_BYTES = 32
_USE_NOTED = 60 * SECOND


def new_secret() -> str:
    """256 random bits, as 43 characters of base64url."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(kind: str, secret: str) -> bytes:
    """What is stored of a secret: 32 bytes. One kind of secret never stands in for another."""
    return hashlib.sha256(b"mayfly " + kind.encode() + b" v1\x00" + secret.encode(errors="replace")).digest()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whose a credential is, and making and ending them."""

    store: AccessStore
    audit: Audit
    passwords: Passwords

    # Passwords and sessions

    def by_password(self, email: str, password: str, address: str) -> Actor:
        """Raises WrongCredentials, after the same work whether there is such an account or not, AuditFailed."""
        account = self.store.account_by_email(email.lower())
        if not self.passwords.check(account, password) or account is None:
            self.audit.write(Event("sign-in", "refused", Actor(address=address), target=account.id if account else ""))
            raise WrongCredentials
        if crypto.is_outdated(account.password or ""):
            account = self._hash_anew(account, password)
        return Actor(account, account.scopes, "password", address=address)

    def sign_in(self, actor: Actor, old_session: str) -> str:
        """Begin a session of somebody who has shown their password, and end `old_session` if there is one.

        Returns the secret that its cookie holds. Raises WrongCredentials, AuditFailed.
        """
        self.audit.write(Event("sign-in", "done", actor))
        return self.begin_session(actor, old_session)

    def begin_session(self, actor: Actor, old_session: str) -> str:
        """A session of the actor's account in the place of `old_session`: its secret. Raises WrongCredentials."""
        assert actor.account
        secret, now = new_secret(), self.store.now()
        session = Session(digest_of("session", secret), actor.account.id, now, Millis(now + SESSION_SECONDS * SECOND))
        if not self.store.add_session(session, actor.account):
            raise WrongCredentials
        if old_session:
            self.store.end_session(digest_of("session", old_session))
        return secret

    def by_session(self, secret: str, address: str) -> Actor:
        """Raises WrongCredentials."""
        digest = digest_of("session", secret)
        found = self.store.session(digest)
        if found is None:
            raise WrongCredentials
        _, account = found
        # Enough of the hash to tell sessions apart in the audit, and nothing that anybody could sign in with.
        return Actor(account, account.scopes, "session", digest[:8].hex(), address)

    def end_session(self, actor: Actor, secret: str) -> None:
        """Sign out. Raises AuditFailed."""
        self.audit.write(Event("sign-out", "done", actor))
        self.store.end_session(digest_of("session", secret))

    def _hash_anew(self, account: Account, password: str) -> Account:
        """The password was right, and its hash is of old parameters."""
        fresh, old = crypto.password_hash(password), account.password
        changed = self.store.change_account(
            account.id, lambda now: replace(now, password=fresh if now.password == old else now.password), end_sessions=False
        )
        if changed is None or changed.password != fresh:
            raise WrongCredentials
        return changed

    # Keys

    def by_key(self, text: str, address: str) -> Actor:
        """Raises WrongCredentials."""
        found = self.store.key(digest_of("key", text))
        if found is None:
            raise WrongCredentials
        key, account = found
        self.note_use(key)
        return Actor(account, key.scopes & account.scopes, "key", key.id, address)

    def note_use(self, key: ApiKey) -> None:
        """Keep when a key was used, to the minute."""
        if key.used_at is None or self.store.now() - key.used_at >= _USE_NOTED:
            self.store.key_used(key.id)

    def make_key(self, actor: Actor, name: str, scopes: frozenset[Scope], seconds: int) -> tuple[ApiKey, str]:
        """A key of the actor's own, and what it is: nobody can have that a second time.

        Raises FieldRefused for a scope that the account has not, AuditFailed.
        """
        assert actor.account
        if not scopes <= actor.scopes:
            raise FieldRefused("scopes", "A key can be given no more than its account may do.")
        text, now = KEY_PREFIX + new_secret(), self.store.now()
        key = ApiKey(
            str(uuid.uuid4()),
            digest_of("key", text),
            actor.account.id,
            name,
            scopes,
            now,
            Millis(now - now % SECOND + seconds * SECOND),
        )
        self.audit.write(Event("key", "made", actor, target=key.id, detail=" ".join(sorted(scopes))))
        self.store.add_key(key)
        return key, text

    def revoke_key(self, actor: Actor, key_id: str) -> None:
        """End a key: one's own, or with accounts:manage any. Raises NothingThere, AuditFailed."""
        assert actor.account
        may_all = "accounts:manage" in actor.scopes
        if key_id not in {key.id for key in self.store.keys(None if may_all else actor.account.id)}:
            raise NothingThere
        self.audit.write(Event("key", "ended", actor, target=key_id))
        if not self.store.revoke_key(key_id):
            raise NothingThere
