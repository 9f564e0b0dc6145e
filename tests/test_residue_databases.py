"""What is left of ended messages in the files and the memory of a database server, as docs/threat-model.md tells it.

`tests/test_residue.py` shows that SQLite keeps nothing. The others keep what they deleted until they write over it. What must be
left is looked for here like what must not, so that the text stays true.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from records import MAX_TRIES, Millis, RowId, Sealed
from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL
from tests.engines.process import EngineProcess
from tests.engines.valkey import ValkeyServer
from tests.requirements import require
from tests.stores import HOUR, NOW, SetClock, claim, open_url, put
from tests.test_documents import pieces_of

SIZES = (128, 1200, 12_000, 100_000)
ENDS = ("opened", "lease over", "confirmed", "burned", "locked", "expired")
TABLES = ("mayfly_messages", "mayfly_bodies", "mayfly_claims")

MARK = b"\xa7\x5c"
PIECE = 16
EVERY = 256  # rare enough for a dump not to get smaller by compressing them
SOME, MOST, ALL = 0.1, 0.5, 0.97  # of all pieces; a few are cut in two, where a database cuts a body


class Lives:
    """Messages of all sizes that come to every end, with others among them that live on.

    What is stored of them is random but for marks, by which it is found again: `envelopes` and `hashes` (of proofs and leases)
    are the pieces of those that end, `living` of those that do not.
    """

    def __init__(self, url: str) -> None:
        self.clock = SetClock()
        self.store = open_url(url, self.clock)
        self.envelopes: set[bytes] = set()
        self.hashes: set[bytes] = set()
        self.living: set[bytes] = set()
        self._ending: list[tuple[RowId, str]] = []
        for size in SIZES:
            for how in ENDS:
                self._ending.append((self._put(size, self.envelopes, 60_000 if how == "expired" else HOUR), how))
            self._put(size, self.living, HOUR)

    def _put(self, size: int, pieces: set[bytes], expires_in_ms: int) -> RowId:
        body, proof = Sealed(_marked(size, pieces)), _marked(32, self.hashes if pieces is self.envelopes else pieces)
        number = random.getrandbits(250)
        return put(self.store, number, body=body, proof=proof, tries=MAX_TRIES, expires_at=Millis(NOW + expires_in_ms))

    def end(self) -> None:
        """Bring them to their ends, and purge as the scheduler does."""
        for row_id, how in self._ending:
            self._end(row_id, how)
        self.clock.advance(60_000)
        while self.store.purge(100).more:
            pass
        self.store.tidy()
        assert self.store.counts().stored == len(SIZES)

    def _end(self, row_id: RowId, how: str) -> None:
        match how:
            case "opened":
                assert claim(self.store, row_id)
            case "lease over":
                assert claim(self.store, row_id, _marked(32, self.hashes))
            case "confirmed":
                lease = _marked(32, self.hashes)
                assert claim(self.store, row_id, lease)
                assert self.store.confirm(row_id, lease)
            case "burned":
                assert self.store.burn(row_id, None)
            case "locked":
                for _ in range(MAX_TRIES):
                    assert self.store.reserve_try(row_id)
                    self.store.wrong_try(row_id)


def _marked(size: int, pieces: set[bytes]) -> bytes:
    parts = [MARK + random.randbytes(EVERY - len(MARK)) for _ in range(0, size, EVERY)]
    data = b"".join(parts)[:size]
    pieces.update(data[at : at + PIECE] for at in range(0, size - PIECE + 1, EVERY))
    return data


@pytest.fixture
def lives() -> Iterator[Callable[[str], Lives]]:
    """Makes `Lives` at a URL."""
    made: list[Lives] = []

    def make(url: str) -> Lives:
        made.append(Lives(url))
        return made[-1]

    yield make
    for of_one in made:
        of_one.store.close()


def share(pieces: set[bytes], places: Iterable[bytes]) -> float:
    """How much of `pieces` is found in `places`, from 0 to 1."""
    found = {data[hit.start() : hit.start() + PIECE] for data in places for hit in re.finditer(re.escape(MARK), data)}
    return len(pieces & found) / len(pieces)


def files(server: EngineProcess, *patterns: str) -> Iterator[bytes]:
    """What the files in the server's folder hold whose paths in it match one of `patterns`."""
    paths = {path for pattern in patterns or ("**/*",) for path in server.folder.glob(pattern)}
    assert any(path.is_file() for path in paths)
    return (path.read_bytes() for path in paths if path.is_file())


def assert_sql_gives_nothing_back(server: PostgreSQL | MariaDB, database: str) -> None:
    bodies, proofs, claims = (
        server.run(f"SELECT {what}", database)[0][0]
        for what in (
            "count(*) FROM mayfly_bodies",
            "count(*) FROM mayfly_messages WHERE ended IS NOT NULL AND proof IS NOT NULL",
            "count(*) FROM mayfly_claims",
        )
    )
    assert (bodies, proofs, claims) == (len(SIZES), 0, 0)


# PostgreSQL


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    with PostgreSQL(durable=True) as server:
        yield server


TABLE_FILES, WAL_FILES = "data/base/**/*", "data/pg_wal/*"


def test_postgresql_keeps_ended_messages_in_its_tables_and_wal_beyond_a_vacuum(
    postgresql: PostgreSQL, lives: Callable[[str], Lives]
) -> None:
    """Not where SQL finds them, but in the files."""
    of_all = lives(postgresql.new_database("mayfly_vacuum"))
    of_all.end()
    assert_sql_gives_nothing_back(postgresql, "mayfly_vacuum")
    for pieces in (of_all.envelopes, of_all.hashes):
        assert share(pieces, files(postgresql, WAL_FILES)) > ALL
    for table in TABLES:
        postgresql.run(f"VACUUM {table}", "mayfly_vacuum")
    postgresql.run("CHECKPOINT")
    assert share(of_all.envelopes, files(postgresql, TABLE_FILES)) > MOST


@pytest.mark.parametrize("recycle", ["on", "off"])
def test_postgresql_keeps_nothing_after_a_vacuum_full_where_its_wal_is_not_recycled(
    postgresql: PostgreSQL, lives: Callable[[str], Lives], recycle: str
) -> None:
    """By default segments of the WAL are kept, as they are, to be used again."""
    postgresql.run(f"ALTER SYSTEM SET wal_recycle = {recycle}")
    postgresql.run("SELECT pg_reload_conf()")
    name = f"mayfly_recycle_{recycle}"
    of_all = lives(postgresql.new_database(name))
    of_all.end()
    for table in TABLES:
        postgresql.run(f"VACUUM FULL {table}", name)
    postgresql.run("SELECT pg_switch_wal()")
    postgresql.run("CHECKPOINT")
    assert share(of_all.envelopes | of_all.hashes, files(postgresql, TABLE_FILES)) == 0
    assert share(of_all.living, files(postgresql, TABLE_FILES)) > ALL, "the check must see what is there"
    if recycle == "on":
        assert share(of_all.envelopes | of_all.hashes, files(postgresql, WAL_FILES)) > MOST
    else:
        assert share(of_all.envelopes | of_all.hashes, files(postgresql)) == 0


# MariaDB


class MariaDBWithBinlog(MariaDB):
    """MariaDB has none by default, MySQL has."""

    def command(self) -> list[str]:
        return [*super().command(), "--log-bin=binlog"]


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    with MariaDBWithBinlog(durable=True) as server:
        yield server


REDO_LOG, BINARY_LOGS = "data/ib_logfile*", "data/binlog.0*"


def test_mariadb_keeps_ended_messages_in_tables_and_logs_until_they_are_made_anew(
    mariadb: MariaDB, lives: Callable[[str], Lives]
) -> None:
    of_all = lives(mariadb.new_database("mayfly_kept"))
    _settle(mariadb, "mayfly_kept")
    of_all.end()
    assert_sql_gives_nothing_back(mariadb, "mayfly_kept")
    _settle(mariadb, "mayfly_kept")
    assert share(of_all.envelopes, files(mariadb, "data/mayfly_kept/*")) > MOST
    for log in (REDO_LOG, BINARY_LOGS):
        assert share(of_all.envelopes, files(mariadb, log)) > ALL
        assert share(of_all.hashes, files(mariadb, log)) > ALL

    for table in TABLES:
        mariadb.run(f"OPTIMIZE TABLE {table}", "mayfly_kept")
    _settle(mariadb, "mayfly_kept")
    assert share(of_all.envelopes | of_all.hashes, files(mariadb, "data/mayfly_kept/*")) == 0
    assert share(of_all.living, files(mariadb, "data/mayfly_kept/*")) > ALL, "the check must see what is there"

    _drop_binary_logs(mariadb)
    assert share(of_all.envelopes | of_all.hashes, files(mariadb, BINARY_LOGS)) == 0


def test_mariadb_with_scrubbing_keeps_nothing_in_its_tables(mariadb: MariaDB, lives: Callable[[str], Lives]) -> None:
    """And a redo log that is made anew, which takes a change of its size, keeps nothing either."""
    mariadb.run("SET GLOBAL innodb_immediate_scrub_data_uncompressed = ON")
    of_all = lives(mariadb.new_database("mayfly_scrubbed"))
    _settle(mariadb, "mayfly_scrubbed")
    of_all.end()
    _settle(mariadb, "mayfly_scrubbed")
    assert share(of_all.envelopes | of_all.hashes, files(mariadb, "data/mayfly_scrubbed/*")) == 0
    assert share(of_all.living, files(mariadb, "data/mayfly_scrubbed/*")) > ALL, "the check must see what is there"
    assert share(of_all.envelopes, files(mariadb, REDO_LOG)) > ALL

    (version,) = mariadb.run("SELECT version()")[0]
    require([int(part) for part in version.split(".")[:2]] >= [10, 9], "MariaDB 10.9 or newer, which can change its redo log")
    mariadb.run("SET GLOBAL innodb_log_file_size = 32 << 20")
    assert share(of_all.envelopes | of_all.hashes, files(mariadb, REDO_LOG)) == 0


def _settle(mariadb: MariaDB, database: str) -> None:
    """Wait until the purge threads are done, and have the tables written to their files."""
    deadline = time.monotonic() + 60
    while "History list length 0\n" not in mariadb.run("SHOW ENGINE INNODB STATUS")[0][2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    mariadb.run(f"FLUSH TABLES {', '.join(TABLES)} FOR EXPORT", database)


def _drop_binary_logs(mariadb: MariaDB) -> None:
    mariadb.run("FLUSH BINARY LOGS")
    deadline = time.monotonic() + 60
    while len(logs := mariadb.run("SHOW BINARY LOGS")) > 1:  # one is kept for a moment, for recovery after a crash
        assert time.monotonic() < deadline
        mariadb.run(f"PURGE BINARY LOGS TO '{logs[-1][0]}'")
        time.sleep(0.05)


# Valkey


def test_valkey_that_keeps_nothing_on_disk_has_nothing_there(lives: Callable[[str], Lives]) -> None:
    """Not of those that live either. Its memory is given free without being overwritten."""
    with ValkeyServer() as server:
        of_all = lives(server.url)
        assert server.process
        assert share(of_all.living, pieces_of(server.process.pid)) > ALL, "the check must see what is there"
        of_all.end()
        assert_valkey_gives_nothing_back(server)
        assert share(of_all.envelopes, pieces_of(server.process.pid)) > SOME
        assert share(of_all.envelopes | of_all.hashes | of_all.living, files(server)) == 0


@pytest.mark.parametrize(
    ("settings", "rewrite"),
    [({"appendonly": "yes", "appendfsync": "always"}, "BGREWRITEAOF"), ({}, "BGSAVE")],
    ids=["append-only file", "snapshots"],
)
def test_valkey_keeps_ended_messages_on_disk_until_it_writes_anew(
    settings: dict[str, str], rewrite: str, lives: Callable[[str], Lives]
) -> None:
    with ValkeyServer(**settings) as server:
        of_all = lives(server.url)
        if rewrite == "BGSAVE":
            _write_anew(server, rewrite)
        of_all.end()
        assert_valkey_gives_nothing_back(server)
        assert share(of_all.envelopes, files(server)) > ALL
        _write_anew(server, rewrite)
        assert share(of_all.envelopes | of_all.hashes, files(server)) == 0
        assert share(of_all.living, files(server)) > ALL, "the check must see what is there"


def assert_valkey_gives_nothing_back(server: ValkeyServer) -> None:
    assert len(server.keys("b")) == len(SIZES)
    assert server.keys("leases") == []
    proofs = [server.tell("HEXISTS", state, "proof") for state in server.keys("s")]
    assert sum(proofs) == len(SIZES)


def _write_anew(server: ValkeyServer, how: str) -> None:
    server.tell(how)
    deadline = time.monotonic() + 60
    while any(server.tell("INFO", "persistence")[name] for name in ("rdb_bgsave_in_progress", "aof_rewrite_in_progress")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
