"""Accounts, what they sign in with, and the secrets of this server: one text of SQL for SQLite, PostgreSQL, MySQL and MariaDB.

Whatever changes what an account has locks the account's row first, so that what is decided by an account (a session begun, a
password set) is decided by what it is at that moment, and nobody waits in a ring. Sessions and keys are found together with
their account, in one statement, by the time of the database: what is ended or disabled holds for the next request of every node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from errors import NothingThere, Taken
from records import Account, AccountId, ApiKey, Millis, Role, Scope, Session
from storage.access_audit import AuditTables
from storage.access_session import AccessDatabase, AccessSession, is_text, text_of
from storage.secret_table import SecretTable

_ACCOUNT = "a.id, a.email, a.first_name, a.last_name, a.roles, a.enabled, a.created_at, a.changed_at, a.password, a.reset_asked_at"
_ACCOUNT_COLUMNS = 10
_SESSION = "s.digest, s.account, s.created_at, s.expires_at"
_KEY = "k.id, k.digest, k.account, k.name, k.scopes, k.created_at, k.expires_at, k.used_at"
_LIVE_KEY = (
    f"SELECT {_ACCOUNT}, {_KEY} FROM mayfly_api_keys k JOIN mayfly_accounts a ON a.id = k.account "
    "WHERE k.expires_at > {now} AND a.enabled = 1 AND "
)
_USE_MS = 60_000
"""How exactly it is known when a key was used last."""


class AccessTables(AuditTables, SecretTable):
    """An access store on `database`."""

    def __init__(self, database: AccessDatabase) -> None:
        AuditTables.__init__(self, database)
        SecretTable.__init__(self, database, "mayfly_secrets")
        self.now = database.now
        sql = database.sql
        self._add_account = sql(
            "INSERT INTO mayfly_accounts "
            "(id, email, first_name, last_name, roles, enabled, created_at, changed_at, password, reset_asked_at) VALUES "
            "(:account, :email, :first_name, :last_name, :roles, :enabled, :created_at, :changed_at, :password, :reset_asked_at)"
        )
        self._account = sql(f"SELECT {_ACCOUNT} FROM mayfly_accounts a WHERE a.id = :account")
        self._account_locked = sql(f"SELECT {_ACCOUNT} FROM mayfly_accounts a WHERE a.id = :account {{lock}}")
        self._by_email = sql(f"SELECT {_ACCOUNT} FROM mayfly_accounts a WHERE a.email = :email")
        self._accounts = sql(f"SELECT {_ACCOUNT} FROM mayfly_accounts a")
        self._change_account = sql(
            "UPDATE mayfly_accounts SET email = :email, first_name = :first_name, last_name = :last_name, roles = :roles, "
            "enabled = :enabled, changed_at = :changed_at, password = :password, reset_asked_at = :reset_asked_at "
            "WHERE id = :account"
        )
        self._ask_reset = sql("UPDATE mayfly_accounts SET reset_asked_at = {now} WHERE id = :account")
        self._delete_account = sql("DELETE FROM mayfly_accounts WHERE id = :account")
        self._end_sessions = sql("DELETE FROM mayfly_sessions WHERE account = :account")
        self._end_keys = sql("DELETE FROM mayfly_api_keys WHERE account = :account")
        self._end_link = sql("DELETE FROM mayfly_links WHERE account = :account")

        self._add_session = sql(
            "INSERT INTO mayfly_sessions (digest, account, created_at, expires_at) "
            "VALUES (:digest, :account, :created_at, :expires_at)"
        )
        self._session = sql(
            f"SELECT {_ACCOUNT}, {_SESSION} FROM mayfly_sessions s JOIN mayfly_accounts a ON a.id = s.account "
            "WHERE s.digest = :digest AND s.expires_at > {now} AND a.enabled = 1"
        )
        self._end_session = sql("DELETE FROM mayfly_sessions WHERE digest = :digest")
        self._add_key = sql(
            "INSERT INTO mayfly_api_keys (id, digest, account, name, scopes, created_at, expires_at, used_at) "
            "VALUES (:key_id, :digest, :account, :name, :scopes, :created_at, :expires_at, :used_at)"
        )
        self._key = sql(f"{_LIVE_KEY} k.digest = :digest")
        self._key_by_id = sql(f"{_LIVE_KEY} k.id = :key_id")
        self._keys = sql(f"SELECT {_KEY} FROM mayfly_api_keys k ORDER BY k.created_at DESC, k.id")
        self._keys_of = sql(f"SELECT {_KEY} FROM mayfly_api_keys k WHERE k.account = :account ORDER BY k.created_at DESC, k.id")
        stale = f"id = :key_id AND (used_at IS NULL OR used_at <= {{now}} - {_USE_MS})"
        self._long_unused = sql(f"SELECT id FROM mayfly_api_keys WHERE {stale}")
        self._key_used = sql(f"UPDATE mayfly_api_keys SET used_at = {{now}} WHERE {stale}")
        self._revoke_key = sql("DELETE FROM mayfly_api_keys WHERE id = :key_id")

        self._add_link = sql("INSERT INTO mayfly_links (account, digest, expires_at) VALUES (:account, :digest, :expires_at)")
        self._link = sql(
            f"SELECT {_ACCOUNT} FROM mayfly_links l JOIN mayfly_accounts a ON a.id = l.account "
            "WHERE l.digest = :digest AND l.expires_at > {now} AND a.enabled = 1"
        )
        self._use_link = sql("DELETE FROM mayfly_links WHERE digest = :digest AND expires_at > {now}")
        self._set_password = sql(
            "UPDATE mayfly_accounts SET password = :password, changed_at = {now}, reset_asked_at = NULL WHERE id = :account"
        )
        self._tidy = tuple(
            sql(f"DELETE FROM {table} WHERE expires_at <= {{now}}")
            for table in ("mayfly_sessions", "mayfly_api_keys", "mayfly_links")
        )

    # Accounts

    def add_account(self, account: Account) -> None:
        values = {**_values(account), "created_at": account.created_at}
        if not self._database.do(lambda session: session.unless_there(self._add_account, **values)):
            raise Taken

    def account(self, account_id: AccountId) -> Account | None:
        return self._find_account(self._account, "account", account_id)

    def account_by_email(self, email: str) -> Account | None:
        return self._find_account(self._by_email, "email", email)

    def _find_account(self, statement: Any, parameter: str, value: object) -> Account | None:
        if not is_text(value):
            return None
        return _account_or_none(self._database.do(lambda session: session.one(statement, **{parameter: value})))

    def accounts(self) -> list[Account]:
        found = self._database.do(lambda session: session.all(self._accounts))
        return sorted(map(_account, found), key=lambda account: account.email)  # each engine has an order of its own

    def change_account(self, account_id: AccountId, change: Callable[[Account], Account], end_sessions: bool) -> Account | None:
        def act(session: AccessSession) -> Account | None:
            with session.transaction():
                was = self._locked(session, account_id)
                if was is None:
                    return None
                values = _values(change(was)) | {"account": was.id}
                if not session.unless_there(self._change_account, **values):
                    raise Taken
                if end_sessions:
                    session.changed(self._end_sessions, account=was.id)
                    session.changed(self._end_link, account=was.id)
                return _account_or_none(session.one(self._account, account=was.id))

        return self._database.do(act) if is_text(account_id) else None

    def _locked(self, session: AccessSession, account_id: str) -> Account | None:
        return _account_or_none(session.one(self._account_locked, account=account_id))

    def ask_reset(self, account_id: AccountId) -> None:
        self._database.do(lambda session: session.changed(self._ask_reset, account=account_id))

    def delete_account(self, account_id: AccountId) -> bool:
        def act(session: AccessSession) -> bool:
            with session.transaction():
                if not session.changed(self._delete_account, account=account_id):
                    return False
                for statement in (self._end_sessions, self._end_keys, self._end_link):
                    session.changed(statement, account=account_id)
                return True

        return is_text(account_id) and self._database.do(act)

    # Sessions

    def add_session(self, session: Session, account: Account) -> bool:
        values = {
            "digest": session.digest,
            "account": account.id,
            "created_at": session.created_at,
            "expires_at": session.expires_at,
        }

        def act(connection: AccessSession) -> bool:
            with connection.transaction():
                now = self._locked(connection, account.id)
                if now is None or not now.enabled or now.password != account.password:
                    return False
                connection.changed(self._add_session, **values)
                return True

        return self._database.do(act)

    def session(self, digest: bytes) -> tuple[Session, Account] | None:
        if not _is_digest(digest):
            return None
        found = self._database.do(lambda session: session.one(self._session, digest=digest))
        if found is None:
            return None
        its_digest, account, created_at, expires_at = found[_ACCOUNT_COLUMNS:]
        return Session(bytes(its_digest), AccountId(text_of(account)), Millis(created_at), Millis(expires_at)), _account(found)

    def end_session(self, digest: bytes) -> bool:
        return _is_digest(digest) and self._database.do(lambda session: session.changed(self._end_session, digest=digest)) > 0

    def end_sessions(self, account_id: AccountId) -> int:
        return (
            self._database.do(lambda session: session.changed(self._end_sessions, account=account_id)) if is_text(account_id) else 0
        )

    # API keys

    def add_key(self, key: ApiKey) -> None:
        values = {
            "key_id": key.id,
            "digest": key.digest,
            "account": key.account,
            "name": key.name,
            "scopes": " ".join(sorted(key.scopes)),
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "used_at": key.used_at,
        }

        def act(session: AccessSession) -> None:
            with session.transaction():
                if self._locked(session, key.account) is None:
                    raise NothingThere
                session.changed(self._add_key, **values)

        self._database.do(act)

    def key(self, digest: bytes) -> tuple[ApiKey, Account] | None:
        return self._find_key(self._key, digest=digest) if _is_digest(digest) else None

    def key_by_id(self, key_id: str) -> tuple[ApiKey, Account] | None:
        return self._find_key(self._key_by_id, key_id=key_id) if is_text(key_id) else None

    def _find_key(self, statement: Any, **values: object) -> tuple[ApiKey, Account] | None:
        found = self._database.do(lambda session: session.one(statement, **values))
        return (_key(found[_ACCOUNT_COLUMNS:]), _account(found)) if found else None

    def keys(self, account_id: AccountId | None = None) -> list[ApiKey]:
        if account_id is None:
            return [_key(row) for row in self._database.do(lambda session: session.all(self._keys))]
        if not is_text(account_id):
            return []
        return [_key(row) for row in self._database.do(lambda session: session.all(self._keys_of, account=account_id))]

    def key_used(self, key_id: str) -> None:
        def act(session: AccessSession) -> None:
            if session.one(self._long_unused, key_id=key_id):
                session.changed(self._key_used, key_id=key_id)

        self._database.do(act)

    def revoke_key(self, key_id: str) -> bool:
        return is_text(key_id) and self._database.do(lambda session: session.changed(self._revoke_key, key_id=key_id)) > 0

    # Links to set a password

    def add_link(self, digest: bytes, account_id: AccountId, expires_at: Millis) -> None:
        def act(session: AccessSession) -> None:
            with session.transaction():
                if self._locked(session, account_id) is None:
                    raise NothingThere
                session.changed(self._end_link, account=account_id)
                session.changed(self._add_link, account=account_id, digest=digest, expires_at=expires_at)

        self._database.do(act)

    def link(self, digest: bytes) -> Account | None:
        return self._database.do(lambda session: self._account_of_link(session, digest)) if _is_digest(digest) else None

    def _account_of_link(self, session: AccessSession, digest: bytes) -> Account | None:
        return _account_or_none(session.one(self._link, digest=digest))

    def use_link(self, digest: bytes, password: str) -> Account | None:
        def act(session: AccessSession) -> Account | None:
            with session.transaction():
                account = self._account_of_link(session, digest)
                account = account and self._locked(session, account.id)
                if account is None or not account.enabled or not session.changed(self._use_link, digest=digest):
                    return None
                session.changed(self._set_password, account=account.id, password=password)
                session.changed(self._end_sessions, account=account.id)
                return _account_or_none(session.one(self._account, account=account.id))

        return self._database.do(act) if _is_digest(digest) else None

    # All

    def tidy(self) -> None:
        for statement in self._tidy:
            self._database.do(lambda session, statement=statement: session.changed(statement))  # type: ignore[misc]
        self._database.overwrite()

    def health(self) -> None:
        self._database.do(lambda session: session.one(self._beginning))

    def close(self) -> None:
        self._database.close()


def _is_digest(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def _values(account: Account) -> dict[str, Any]:
    return {
        "account": account.id,
        "email": account.email,
        "first_name": account.first_name,
        "last_name": account.last_name,
        "roles": " ".join(sorted(account.roles)),
        "enabled": int(account.enabled),
        "changed_at": account.changed_at,
        "password": account.password,
        "reset_asked_at": account.reset_asked_at,
    }


def _account_or_none(row: Any) -> Account | None:
    return _account(row) if row else None


def _account(row: Any) -> Account:
    account_id, email, first_name, last_name, roles, enabled, created_at, changed_at, password, reset_asked_at = row[
        :_ACCOUNT_COLUMNS
    ]
    return Account(
        AccountId(text_of(account_id)),
        text_of(email),
        text_of(first_name),
        text_of(last_name),
        frozenset(Role(role) for role in text_of(roles).split()),
        bool(enabled),
        Millis(created_at),
        Millis(changed_at),
        None if password is None else text_of(password),
        reset_asked_at,
    )


def _key(row: Any) -> ApiKey:
    key_id, digest, account, name, scopes, created_at, expires_at, used_at = row
    return ApiKey(
        text_of(key_id),
        bytes(digest),
        AccountId(text_of(account)),
        text_of(name),
        frozenset(cast(Scope, scope) for scope in text_of(scopes).split()),
        Millis(created_at),
        Millis(expires_at),
        used_at,
    )
