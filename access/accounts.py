"""Accounts: made, changed, removed, and how their passwords are set. What is done is written to the audit first."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import crypto
from access.credentials import digest_of, new_secret
from access.passwords import require_good
from audit import Audit
from database import AccessStore
from errors import FieldRefused, LastAdmin, NothingThere, ScopeRequired, Taken
from fields import Each, Email, Field, Flag, Line, Model, RoleName, Text
from keyfile import KeyFile
from records import ADMIN, BUILT_IN_ROLES, SECOND, Account, AccountId, Actor, Event, Millis, Role

LINK_SECONDS = 24 * 3600
_DECOY = "decoy"
"""A row among the secrets, which is written where there is no account to leave a note with: both reach the disk."""
_MAX_ROLES = 20

_EMAIL = Email()
_NAME = Line(100)
_ROLES = Each(RoleName(), _MAX_ROLES)
NEW_ACCOUNT = Model(
    Field("email", _EMAIL, "Signs in with it; nobody else's.", required=True),
    Field("first_name", _NAME, "For people who look at lists.", required=True),
    Field("last_name", _NAME, "The same.", required=True),
    Field("roles", _ROLES, "What it may be: admin, auditor, or any name that senders give messages to.", ()),
    Field("password", Text(), "Its password; without it the answer holds a link to set one."),
)
CHANGED_ACCOUNT = Model(
    Field("email", _EMAIL, "Signs in with it; nobody else's."),
    Field("first_name", _NAME, "For people who look at lists."),
    Field("last_name", _NAME, "The same."),
    Field("roles", _ROLES, "All that it is from now on."),
    Field("enabled", Flag(), "Whether it can sign in."),
)


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts of one server."""

    store: AccessStore
    audit: Audit
    keys: KeyFile

    def all(self) -> list[Account]:
        """By e-mail address."""
        return self.store.accounts()

    def get(self, account_id: str) -> Account:
        """Raises NothingThere."""
        account = self.store.account(AccountId(account_id))
        if account is None:
            raise NothingThere
        return account

    def of_email(self, email: str) -> Account:
        """Raises NothingThere."""
        account = self.store.account_by_email(email.lower())
        if account is None:
            raise NothingThere
        return account

    def add(self, actor: Actor, given: Mapping[str, Any]) -> tuple[Account, str | None]:
        """Make an account of the fields of NEW_ACCOUNT, and, without a password, the secret of a link to set one.

        Raises FieldRefused, ScopeRequired, Taken, AuditFailed.
        """
        values = NEW_ACCOUNT.read(given)
        _require_person(actor, frozenset(map(Role, values["roles"])))
        password = values["password"]
        if password is not None:
            password = crypto.password_hash(require_good("password", password, values["email"]))
        now = self.store.now()
        account = Account(
            id=AccountId(str(uuid.uuid4())),
            email=values["email"],
            first_name=values["first_name"],
            last_name=values["last_name"],
            roles=frozenset(map(Role, values["roles"])),
            enabled=True,
            created_at=now,
            changed_at=now,
            password=password,
        )
        if self.store.account_by_email(account.email):
            raise Taken
        self.audit.write(Event("account", "made", actor, target=account.id, detail=_told_of_roles(frozenset(), account.roles)))
        self.store.add_account(account)
        return account, None if password else self._new_link(account)

    def change(self, actor: Actor, account_id: str, given: Mapping[str, Any]) -> Account:
        """Change fields of CHANGED_ACCOUNT. Sessions end with a change of the roles, or when it is disabled.

        Raises NothingThere, FieldRefused, ScopeRequired, Taken, LastAdmin, AuditFailed.
        """
        values = {name: value for name, value in CHANGED_ACCOUNT.read(given).items() if value is not None}
        if not values:
            raise FieldRefused("", "Say what to change: email, first_name, last_name, roles or enabled.")
        if "roles" in values:
            values["roles"] = frozenset(map(Role, values["roles"]))
        was = self.get(account_id)
        becomes = replace(was, **values)
        taken = self.store.account_by_email(becomes.email)
        if taken and taken.id != was.id:
            raise Taken
        _require_person(actor, was.roles ^ becomes.roles)
        self._require_admin_beside(was, becomes)
        disabled = was.enabled and not becomes.enabled
        outcome = "disabled" if disabled else "changed"
        self.audit.write(Event("account", outcome, actor, target=was.id, detail=_told_of_change(was, becomes)))
        return self._change(was, lambda now: replace(now, **values), disabled or becomes.roles != was.roles)

    def delete(self, actor: Actor, account_id: str) -> None:
        """Remove an account, with all that it signs in with. Raises NothingThere, LastAdmin, AuditFailed."""
        was = self.get(account_id)
        self._require_admin_beside(was, None)
        self.audit.write(Event("account", "deleted", actor, target=was.id))
        # Disabled first: that can be taken back, should another node have removed the other admins at this moment.
        self._change(was, lambda now: replace(now, enabled=False), True)
        if not self.store.delete_account(was.id):
            raise NothingThere

    # Passwords

    def new_link(self, actor: Actor, account_id: str) -> str:
        """The secret of a link by which the account's password can be set once, for 24 hours.

        Raises ScopeRequired, NothingThere, AuditFailed.
        """
        if _is_program(actor):
            raise ScopeRequired
        account = self.get(account_id)
        self.audit.write(Event("reset", "made", actor, target=account.id))
        return self._new_link(account)

    def link(self, secret: str) -> Account:
        """The account that a link is for. Raises NothingThere."""
        account = self.store.link(digest_of("link", secret))
        if account is None:
            raise NothingThere
        return account

    def set_by_link(self, secret: str, password: object, address: str) -> None:
        """Set the password of a link's account, and end the link and its sessions.

        Raises NothingThere, FieldRefused, AuditFailed.
        """
        account = self.link(secret)
        fresh = crypto.password_hash(require_good("password", password, account.email))
        self.audit.write(Event("password", "changed", Actor(account, address=address), target=account.id))
        if self.store.use_link(digest_of("link", secret), fresh) is None:
            raise NothingThere

    def set_password(self, actor: Actor, account_id: str, new: object) -> Account:
        """Set a password; all sessions end. Raises ScopeRequired, NothingThere, FieldRefused, AuditFailed."""
        if _is_program(actor):
            raise ScopeRequired
        was = self.get(account_id)
        fresh = crypto.password_hash(require_good("new", new, was.email))
        self.audit.write(Event("password", "changed", actor, target=was.id))
        return self._change(was, lambda now: replace(now, password=fresh, reset_asked_at=None), True)

    def ask_reset(self, email: str, address: str) -> None:
        """Leave a note for the admins that somebody asked for a new password, if there is such an account.

        It is the same work if there is none. Raises AuditFailed.
        """
        account = self.store.account_by_email(email.lower())
        self.audit.write(Event("reset", "done", Actor(address=address), target=account.id if account else ""))
        noted = self.store.secrets(_DECOY).get(_DECOY)
        fresh = crypto.seal_secret(self.keys.ring(), _DECOY, b"")
        if account:
            self.store.ask_reset(account.id)
        elif noted is None:
            self.store.add_secret(_DECOY, fresh)
        else:
            self.store.replace_secret(_DECOY, noted[1], fresh)

    def _new_link(self, account: Account) -> str:
        secret = new_secret()
        self.store.add_link(digest_of("link", secret), account.id, Millis(self.store.now() + LINK_SECONDS * SECOND))
        return secret

    # The last admin

    def _change(self, was: Account, change: Callable[[Account], Account], end_sessions: bool) -> Account:
        """Change an account. Raises LastAdmin, with nothing changed, if no admin were left that could sign in.

        It is looked at again behind the change: of two admins who disable each other at one moment at least one stays.
        """
        now = self.store.now()
        changed = self.store.change_account(was.id, lambda account: replace(change(account), changed_at=now), end_sessions)
        if changed is None:
            raise NothingThere
        if _is_admin(was) and not _is_admin(changed) and not any(map(_is_admin, self.store.accounts())):
            self.store.change_account(was.id, lambda account: replace(account, enabled=was.enabled, roles=was.roles), False)
            raise LastAdmin
        return changed

    def _require_admin_beside(self, was: Account, becomes: Account | None) -> None:
        """Raise LastAdmin if this were the last one."""
        if not _is_admin(was) or (becomes and _is_admin(becomes)):
            return
        if not any(_is_admin(other) for other in self.store.accounts() if other.id != was.id):
            raise LastAdmin


def _is_admin(account: Account) -> bool:
    return account.enabled and ADMIN in account.roles


# What programs may not do: whoever has one of their keys would have every account, and keep it when the key is revoked


def _is_program(actor: Actor) -> bool:
    return actor.way in ("key", "token")


def _require_person(actor: Actor, roles: frozenset[Role]) -> None:
    """Raise ScopeRequired if a program gives or takes one of the roles that mean something to this server."""
    if _is_program(actor) and not roles.isdisjoint(BUILT_IN_ROLES):
        raise ScopeRequired


# What the audit is told, in words: names, never values


def _told_of_change(was: Account, becomes: Account) -> str:
    """Roles stand last: there may be many, and what is cut off must not be what else changed."""
    changed = [name for name in ("email", "first_name", "last_name") if getattr(was, name) != getattr(becomes, name)]
    if was.enabled != becomes.enabled:
        changed.append("enabled" if becomes.enabled else "disabled")
    if roles := _told_of_roles(was.roles, becomes.roles):
        changed.append(roles)
    return ", ".join(changed)


def _told_of_roles(was: frozenset[Role], becomes: frozenset[Role]) -> str:
    """Such as `roles: +admin -support`; those that mean something to this server first, so that they are never cut off."""
    changed = sorted(was ^ becomes, key=lambda role: (role not in BUILT_IN_ROLES, role))
    signs = " ".join(f"{'+' if role in becomes else '-'}{role}" for role in changed)
    return f"roles: {signs}" if signs else ""
