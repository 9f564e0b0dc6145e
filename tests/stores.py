"""The stores under test, by name: where each is opened, how a test looks at what is really kept there, and what it puts in.

for name in STORES:
    place = new_place(name, tmp_path)
    store = place.open(SetClock())
    row_id = put(store, views=2)

A place is empty when it is made. To put a store under test, add a `Place` here.
"""

from __future__ import annotations

import atexit
import functools
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from database import Clock, MessageStore, open_database
from records import Claim, Millis, NewRow, RowId, Sealed
from settings import Settings
from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL
from tests.engines.valkey import ValkeyCluster, ValkeyServer

NOW = Millis(1_800_000_000_000)
HOUR = 3_600_000
LEASE, OTHER_LEASE = b"l" * 32, b"o" * 32
LEASE_SECONDS = 30
QUOTA_BYTES = 64 << 20
_Server = TypeVar("_Server", PostgreSQL, MariaDB)


class SetClock:
    """The time, as a test sets it."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> Millis:
        return self.at

    def advance(self, millis: int) -> None:
        self.at = Millis(self.at + millis)


def new_row(number: int = 0, **changes: Any) -> NewRow:
    """A message that lives an hour from NOW."""
    row = NewRow(
        id=RowId(number.to_bytes(32, "big")),
        receipt=bytes([number % 256]) * 32,
        created_at=NOW,
        expires_at=Millis(NOW + HOUR),
        views=1,
        tries=None,
        proof=None,
        body=Sealed(b"body %d" % number),
    )
    return replace(row, **changes)


def put(store: MessageStore, number: int = 0, **changes: Any) -> RowId:
    row = new_row(number, **changes)
    store.put(row)
    return row.id


def claim(store: MessageStore, row_id: RowId, lease: bytes | None = None) -> Claim | None:
    return store.claim(row_id, lease, LEASE_SECONDS)


def race(*acts: Callable[[], object]) -> list[object]:
    """Run all at once from a barrier; what each returned."""
    barrier = threading.Barrier(len(acts), timeout=60)
    results: list[object] = [None] * len(acts)

    def run(number: int) -> None:
        barrier.wait()
        results[number] = acts[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class Place(Protocol):
    """Somewhere to keep messages."""

    url: str
    empty_bytes: int
    """What counts as used although nothing is stored, beyond a few pages."""
    grain_bytes: int
    """How inexactly the place knows what it uses."""

    def open(self, now: Clock, quota_bytes: int = QUOTA_BYTES) -> MessageStore:
        """A store on this place; `now` is its clock. On memory always the same one, elsewhere one with connections of its own."""

    def bodies(self) -> int:
        """How many bodies are kept."""

    def states(self) -> int:
        """How many messages are kept, those with the lives behind them included."""

    def leases(self) -> list[Millis]:
        """When each lease that is kept ends."""

    def close(self) -> None:
        """Close all stores that were opened here."""


def open_url(url: str, now: Clock, quota_bytes: int = QUOTA_BYTES) -> MessageStore:
    return open_database(Settings(database_url=url, store_bytes=quota_bytes, max_message_bytes=64 * 1024), now=now)


class Memory:
    """The memory store: there is only the one, and it is looked at from within."""

    url = "sqlite://"
    empty_bytes = 0
    grain_bytes = 0

    def __init__(self, folder: Path) -> None:
        self._store: Any = None

    def open(self, now: Clock, quota_bytes: int = QUOTA_BYTES) -> MessageStore:
        self._store = self._store or open_url(self.url, now, quota_bytes)
        return self._store  # type: ignore[no-any-return]

    def bodies(self) -> int:
        return int(self._rows("SELECT count(*) FROM bodies")[0][0])

    def states(self) -> int:
        return int(self._rows("SELECT count(*) FROM messages")[0][0])

    def leases(self) -> list[Millis]:
        return [until for (until,) in self._rows("SELECT until FROM claims ORDER BY until")]

    def close(self) -> None:
        if self._store:
            self._store.close()

    def _rows(self, statement: str) -> list[Any]:
        return self._store._db.execute(statement).fetchall()  # type: ignore[no-any-return]


class File(Memory):
    """A SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mayfly.db"
        self.url = f"sqlite:///{self.path}"
        self._opened: list[MessageStore] = []

    def open(self, now: Clock, quota_bytes: int = QUOTA_BYTES) -> MessageStore:
        self._opened.append(open_url(self.url, now, quota_bytes))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def _rows(self, statement: str) -> list[Any]:
        db = sqlite3.connect(self.path)
        try:
            return db.execute(statement).fetchall()
        finally:
            db.close()


class Valkey:
    """A server that all tests share, emptied for each."""

    grain_bytes = 100_000  # tables that grow by doubling, buffers of connections

    def __init__(self, folder: Path) -> None:
        self.servers = self._start()
        self._opened: list[MessageStore] = []
        for server in self.servers:
            server.tell("FLUSHALL")
        self.empty_bytes = self.open(SetClock()).counts().used_bytes

    def _start(self) -> list[ValkeyServer]:
        server = valkey_server()
        self.url = server.url
        return [server]

    def open(self, now: Clock, quota_bytes: int = QUOTA_BYTES) -> MessageStore:
        self._opened.append(open_url(self.url, now, quota_bytes))
        return self._opened[-1]

    def bodies(self) -> int:
        return len(self._keys("b"))

    def states(self) -> int:
        return len(self._keys("s"))

    def leases(self) -> list[Millis]:
        ends = [server.tell("ZRANGE", key, 0, -1, "WITHSCORES")[1::2] for server in self.servers for key in server.keys("leases")]
        return sorted(Millis(int(end)) for of_key in ends for end in of_key)

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def _keys(self, kind: str) -> list[bytes]:
        return [key for server in self.servers for key in server.keys(kind)]


class ValkeyClustered(Valkey):
    """A Cluster of three that all tests share."""

    grain_bytes = 3 * Valkey.grain_bytes

    def _start(self) -> list[ValkeyServer]:
        cluster = valkey_cluster()
        self.url = cluster.url
        return cluster.servers


class SqlDatabase:
    """A database on a server that all tests share, emptied for each."""

    name = "mayfly_shared"
    empty_bytes = 0
    grain_bytes = 0
    _emptied = (
        "DELETE FROM mayfly_messages",
        "DELETE FROM mayfly_bodies",
        "DELETE FROM mayfly_claims",
        "DELETE FROM mayfly_keys",
        "UPDATE mayfly_totals SET bodies = 0, bytes = 0",
        "UPDATE mayfly_turns SET until = 0",
    )

    def __init__(self, server: PostgreSQL | MariaDB) -> None:
        self.server = server
        self.url = server.url(self.name)
        self._opened: list[MessageStore] = []
        open_url(self.url, SetClock()).close()  # makes the tables
        for statement in self._emptied:
            self.run(statement)

    def open(self, now: Clock, quota_bytes: int = QUOTA_BYTES) -> MessageStore:
        self._opened.append(open_url(self.url, now, quota_bytes))
        return self._opened[-1]

    def bodies(self) -> int:
        return int(self.run("SELECT count(*) FROM mayfly_bodies")[0][0])

    def states(self) -> int:
        return int(self.run("SELECT count(*) FROM mayfly_messages")[0][0])

    def leases(self) -> list[Millis]:
        return [until for (until,) in self.run("SELECT until FROM mayfly_claims ORDER BY until")]

    def run(self, statement: str) -> list[Any]:
        """Run SQL past the store; what it answers."""
        return self.server.run(statement, self.name)

    def close(self) -> None:
        for store in self._opened:
            store.close()


@functools.cache
def postgresql() -> PostgreSQL:
    """The PostgreSQL server that tests share, started for the first of them."""
    return _for_all_tests(PostgreSQL())


@functools.cache
def mariadb() -> MariaDB:
    """The MariaDB server that tests share, started for the first of them."""
    return _for_all_tests(MariaDB())


@functools.cache
def valkey_server() -> ValkeyServer:
    """The Valkey server that tests share, started for the first of them."""
    server = ValkeyServer()
    atexit.register(server.remove)
    return server


@functools.cache
def valkey_cluster() -> ValkeyCluster:
    """The Cluster that tests share, started for the first of them; nobody may break it."""
    cluster = ValkeyCluster()
    atexit.register(cluster.remove)
    return cluster


def _for_all_tests(server: _Server) -> _Server:
    atexit.register(server.remove)
    server.new_database(SqlDatabase.name)
    return server


_PLACES: dict[str, Callable[[Path], Place]] = {
    "memory": Memory,
    "file": File,
    "postgresql": lambda folder: SqlDatabase(postgresql()),
    "mariadb": lambda folder: SqlDatabase(mariadb()),
    "valkey": Valkey,
    "valkey-cluster": ValkeyClustered,
}

STORES = tuple(_PLACES)
SHARED_STORES = tuple(name for name in STORES if name != "memory")
"""Those that several processes can open, and that outlive each of them."""


def new_place(name: str, folder: Path) -> Place:
    """An empty place of this kind; those that are files are in `folder`."""
    return _PLACES[name](folder)
