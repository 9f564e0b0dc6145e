"""The certificate stores under test, by engine, and what a test puts in.

place = new_certificate_place("mariadb", tmp_path)
store = place.open(SetClock())
store.add_certificate(new_certificate(), [])

A place is empty when it is made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from database import CertificateStore, Clock, open_certificates
from records import AccountId, Certificate, CertificateChange, CertificateId, Hook, Issuer, Millis, Notice, NoticeType
from settings import OFF, Settings
from storage.access_sql import AccessNetwork
from storage.address import parse_address
from storage.certificates import CertificateTables
from storage.certificates_schema import CERTIFICATES
from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL
from tests.stores import HOUR, NOW, mariadb, postgresql

TABLES = (
    "mayfly_issuers",
    "mayfly_certificate_secrets",
    "mayfly_certificates",
    "mayfly_hooks",
    "mayfly_deliveries",
)
DAY = 24 * HOUR


def new_issuer(number: int = 1, **changes: Any) -> Issuer:
    issuer = Issuer(f"issuer-{number}", b"\x30certificate\x00", b"-----BEGIN\n", NOW, Millis(NOW + 1000 * DAY))
    return replace(issuer, **changes)


def new_certificate(number: int = 1, **changes: Any) -> Certificate:
    """One that is active, and ends 90 days from NOW."""
    certificate = Certificate(
        id=CertificateId(f"certificate-{number}"),
        account=AccountId("account-1"),
        email="zoë@example.org",
        serial=f"{number:040x}",
        issuer="issuer-1",
        digest=number.to_bytes(32, "big"),
        der=b"\x30\x00 der %d" % number,
        created_at=NOW,
        begins_at=NOW,
        expires_at=Millis(NOW + 90 * DAY),
        state="active",
        changed_at=NOW,
    )
    return replace(certificate, **changes)


def new_hook(number: int = 1, events: tuple[NoticeType, ...] = ("certificate.created",), **changes: Any) -> Hook:
    return replace(Hook(f"hook-{number}", f"https://example.org/{number}", frozenset(events), True, NOW), **changes)


def new_notice(number: int = 1, **changes: Any) -> Notice:
    return replace(Notice(f"notice-{number}", "certificate-1", "certificate.created", '{"ö": "%s :now"}'), **changes)


def becoming(*notices: Notice, follower: Certificate | None = None, **changes: Any) -> Callable[[Certificate], CertificateChange]:
    return lambda was: CertificateChange(replace(was, **changes), notices, follower)


class CertificatePlace(Protocol):
    """Somewhere to keep certificates."""

    url: str

    def open(self, now: Clock | None) -> CertificateStore:
        """A store on this place with connections of its own; `now` is its clock, or it goes by the database's."""

    def run(self, statement: str) -> list[Any]:
        """Run SQL past the store; what it answers."""

    def close(self) -> None:
        """Close all stores that were opened here."""


class CertificatesFile:
    """A SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "certificates.db"
        self.url = f"sqlite:///{self.path}"
        self._opened: list[CertificateStore] = []

    def open(self, now: Clock | None) -> CertificateStore:
        settings = Settings(certificates_database_url=self.url, accounts_database_url=OFF)
        store = open_certificates(settings, Path("/nowhere/key.json"), now)
        assert store
        self._opened.append(store)
        return store

    def run(self, statement: str) -> list[Any]:
        db = sqlite3.connect(self.path, isolation_level=None)
        try:
            return db.execute(statement).fetchall()
        finally:
            db.close()

    def close(self) -> None:
        for store in self._opened:
            store.close()


class CertificatesDatabase:
    """A database on a server that all tests share, emptied for each. It is reached without TLS, which servers refuse."""

    name = "mayfly_certificates_shared"

    def __init__(self, server: PostgreSQL | MariaDB) -> None:
        self.server = server
        self._opened: list[CertificateStore] = []
        databases = (
            "pg_database WHERE datname" if isinstance(server, PostgreSQL) else "information_schema.schemata WHERE schema_name"
        )
        if not server.run(f"SELECT 1 FROM {databases} = '{self.name}'"):
            server.new_database(self.name)
        self.url = server.url(self.name)
        self.open(None)  # makes the tables
        connection: Any = server.connect(self.name)
        for table in TABLES:
            connection.cursor().execute(f"DELETE FROM {table}")
        connection.close()

    def open(self, now: Clock | None) -> CertificateStore:
        self._opened.append(CertificateTables(AccessNetwork(parse_address(self.url), now, CERTIFICATES)))
        return self._opened[-1]

    def run(self, statement: str) -> list[Any]:
        return self.server.run(statement, self.name)

    def close(self) -> None:
        for store in self._opened:
            store.close()


_PLACES: dict[str, Callable[[Path], CertificatePlace]] = {
    "file": CertificatesFile,
    "postgresql": lambda folder: CertificatesDatabase(postgresql()),
    "mariadb": lambda folder: CertificatesDatabase(mariadb()),
}
CERTIFICATE_STORES = tuple(_PLACES)


def new_certificate_place(name: str, folder: Path) -> CertificatePlace:
    """An empty place of this kind; one that is a file is in `folder`."""
    return _PLACES[name](folder)
