"""The access stores under test, by engine: where each is opened, and how a test looks past it.

place = new_access_place("mariadb", tmp_path)
store = place.open(SetClock())
store.add_account(new_account())

A place is empty when it is made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from database import AccessStore, Clock, open_access
from records import Account, AccountId, ApiKey, AuditEntry, Millis, Role, Session
from settings import Settings
from storage.access import AccessTables
from storage.access_sql import AccessNetwork
from storage.address import parse_address
from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL
from tests.stores import HOUR, NOW, mariadb, postgresql

TABLES = (
    "mayfly_accounts",
    "mayfly_sessions",
    "mayfly_api_keys",
    "mayfly_links",
    "mayfly_secrets",
    "mayfly_entries",
    "mayfly_last_accesses",
    "mayfly_heads",
)


def new_account(number: int = 0, **changes: Any) -> Account:
    account = Account(
        id=AccountId(f"00000000-0000-4000-8000-{number:012}"),
        email=f"person-{number}@example.org",
        first_name="Zoë",
        last_name=f"Muñoz {number}",
        roles=frozenset((Role("support"), Role("payments"))),
        enabled=True,
        created_at=NOW,
        changed_at=NOW,
        password=f"$argon2id$v=19$m=65536,t=3,p=1$salt$hash {number}",
    )
    return replace(account, **changes)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def new_session(account: Account, number: int = 1, **changes: Any) -> Session:
    """It ends an hour from NOW."""
    return replace(Session(digest(number), account.id, NOW, Millis(NOW + HOUR)), **changes)


def new_key(account: Account, number: int = 1, **changes: Any) -> ApiKey:
    """It ends an hour from NOW."""
    scopes = frozenset(("messages:read", "messages:create"))
    key = ApiKey(f"key-{number}", digest(number), account.id, f"for the böt {number}", scopes, NOW, Millis(NOW + HOUR))
    return replace(key, **changes)


def following(**changes: Any) -> Callable[[AuditEntry | None], AuditEntry]:
    """Makes the entry that follows the last; its `mac` holds the number and the beginning of the one before."""

    def make(last: AuditEntry | None) -> AuditEntry:
        number = last.number + 1 if last else 1
        mac = number.to_bytes(16, "big") + (last.mac[:16] if last else bytes(16))
        entry = AuditEntry(
            number,
            NOW,
            "account",
            "person@example.org",
            "session",
            "",
            "open",
            "answered",
            "guarded",
            "t" * 64,
            "192.0.2.0/24",
            "roles: +admin",
            mac,
        )
        return replace(entry, **changes)

    return make


def open_url(url: str, now: Clock | None = None) -> AccessStore:
    """The store at `url`, also over a network without TLS, which servers refuse."""
    if url.startswith("sqlite:"):
        store = open_access(Settings(accounts_database_url=url), Path("/nowhere/key.json"), now)
        assert store
        return store
    return AccessTables(AccessNetwork(parse_address(url), now))


class AccessPlace(Protocol):
    """Somewhere to keep accounts and the audit."""

    url: str

    def open(self, now: Clock | None) -> AccessStore:
        """A store on this place with connections of its own; `now` is its clock, or it goes by the database's."""

    def run(self, statement: str) -> list[Any]:
        """Run SQL past the store; what it answers."""

    def close(self) -> None:
        """Close all stores that were opened here."""


class AccountsFile:
    """A SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "accounts.db"
        self.url = f"sqlite:///{self.path}"
        self._opened: list[AccessStore] = []

    def open(self, now: Clock | None) -> AccessStore:
        self._opened.append(open_url(self.url, now))
        return self._opened[-1]

    def run(self, statement: str) -> list[Any]:
        db = sqlite3.connect(self.path, isolation_level=None)
        try:
            return db.execute(statement).fetchall()
        finally:
            db.close()

    def close(self) -> None:
        for store in self._opened:
            store.close()


class AccountsDatabase:
    """A database on a server that all tests share, emptied for each."""

    name = "mayfly_accounts_shared"

    def __init__(self, server: PostgreSQL | MariaDB) -> None:
        self.server = server
        self._opened: list[AccessStore] = []
        if not server.run(f"SELECT 1 FROM {self._databases} = '{self.name}'"):
            server.new_database(self.name)
        self.url = server.url(self.name)
        self.open(None)  # makes the tables
        connection: Any = server.connect(self.name)
        for statement in (*(f"DELETE FROM {table}" for table in TABLES), "UPDATE mayfly_audit SET beginning = NULL"):
            connection.cursor().execute(statement)
        connection.close()

    @property
    def _databases(self) -> str:
        return (
            "pg_database WHERE datname" if isinstance(self.server, PostgreSQL) else "information_schema.schemata WHERE schema_name"
        )

    def open(self, now: Clock | None) -> AccessStore:
        self._opened.append(open_url(self.url, now))
        return self._opened[-1]

    def run(self, statement: str) -> list[Any]:
        return self.server.run(statement, self.name)

    def close(self) -> None:
        for store in self._opened:
            store.close()


_PLACES: dict[str, Callable[[Path], AccessPlace]] = {
    "file": AccountsFile,
    "postgresql": lambda folder: AccountsDatabase(postgresql()),
    "mariadb": lambda folder: AccountsDatabase(mariadb()),
}
ACCESS_STORES = tuple(_PLACES)


def new_access_place(name: str, folder: Path) -> AccessPlace:
    """An empty place of this kind; one that is a file is in `folder`."""
    return _PLACES[name](folder)
