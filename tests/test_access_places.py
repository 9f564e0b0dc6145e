"""Where accounts and the audit are kept: what may be such a place, how nodes start on it, and what its faults leave behind."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from database import AccessStore, open_access, open_database
from errors import StartRefused, StoreFailed
from records import Account, AuditEntry, Millis
from settings import OFF, Settings
from storage import access_sqlite
from tests.access_stores import (
    ACCESS_STORES,
    AccessPlace,
    AccountsDatabase,
    AccountsFile,
    digest,
    following,
    new_access_place,
    new_account,
    new_key,
    new_session,
    open_url,
)
from tests.engines.authority import Authority
from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PASSWORD, USER, PostgreSQL
from tests.engines.proxy import FaultyProxy
from tests.requirements import require
from tests.serving import PROJECT
from tests.stores import NOW, SetClock

SLACK_SECONDS = 1.0
"""What a busy machine may add to a time that is bounded."""

NETWORK = tuple(name for name in ACCESS_STORES if name != "file")


@pytest.fixture(params=ACCESS_STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AccessPlace]:
    place = new_access_place(request.param, tmp_path)
    yield place
    place.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[AccountsFile]:
    file = AccountsFile(tmp_path)
    yield file
    file.close()


@pytest.fixture(params=NETWORK)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AccountsDatabase]:
    database = new_access_place(request.param, tmp_path)
    assert isinstance(database, AccountsDatabase)
    yield database
    database.close()


def refusal(settings: Settings, key_path: Path = Path("/nowhere/key.json")) -> str:
    """The one line with which the start is refused; it names the setting, and holds no password."""
    with pytest.raises(StartRefused) as refused:
        open_access(settings, key_path)
    line = str(refused.value)
    assert line.startswith("MAYFLY_ACCOUNTS_DATABASE_URL: ")
    assert "\n" not in line
    assert PASSWORD not in line
    assert PASSWORD.replace(" ", "%20") not in line
    return line


def chained(entries: list[AuditEntry]) -> bool:
    """Whether they are numbered from 1 without a gap, each made of the one before."""
    before = [bytes(16), *(entry.mac[:16] for entry in entries)]
    return all(entry.number == number and entry.mac[16:] == before[number - 1] for number, entry in enumerate(entries, 1))


@contextmanager
def failing_in_time() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(StoreFailed):
        yield
    assert time.monotonic() - began < 2 + SLACK_SECONDS


# What may be such a place


def test_default_is_a_file_beside_the_key_file_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_access(Settings(), tmp_path / "key.json", SetClock())
        assert store
        store.add_account(new_account())
    finally:
        os.umask(before)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["accounts.db", "accounts.db-shm", "accounts.db-wal"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    store.close()
    again = open_access(Settings(), tmp_path / "key.json", SetClock())
    assert again
    with closing(again):
        assert again.accounts() == [new_account()]


def test_off_is_no_store(tmp_path: Path) -> None:
    assert open_access(Settings(accounts_database_url=OFF), tmp_path / "key.json") is None
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"no database at all" * 100)
    for path in (tmp_path / "missing" / "accounts.db", tmp_path, noise):
        assert "cannot be opened" in refusal(Settings(accounts_database_url=f"sqlite:///{path}"))
    assert "cannot be opened" in refusal(Settings(), tmp_path / "missing" / "key.json")
    assert noise.read_bytes() == b"no database at all" * 100


def test_database_of_a_vault_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    url = f"sqlite:///{path}"
    open_database(Settings(database_url=url)).close()
    (tmp_path / "link.db").symlink_to(path)
    os.link(path, tmp_path / "hard.db")
    for same in (url, f"sqlite:///{tmp_path}/link.db", f"sqlite:///{tmp_path}/../{tmp_path.name}/messages.db"):
        assert "same database as MAYFLY_DATABASE_URL" in refusal(Settings(database_url=url, accounts_database_url=same))
    assert "same database as MAYFLY_SEALED_DATABASE_URL" in refusal(
        Settings(sealed_database_url=f"sqlite:///{tmp_path}/accounts.db"), tmp_path / "key.json"
    )
    assert "database of something else" in refusal(Settings(accounts_database_url=f"sqlite:///{tmp_path}/hard.db"))
    mine = "postgresql://mayfly:x@127.0.0.1:1/mine?tls_ca=/etc/passwd"
    assert "same database as MAYFLY_GUARDED_DATABASE_URL" in refusal(
        Settings(guarded_database_url=mine.replace("mayfly:x@", ""), accounts_database_url=mine)
    )


def test_network_without_verified_tls_is_refused() -> None:
    for url in ("postgresql://mayfly:x@127.0.0.1/accounts", "mysql://mayfly:x@127.0.0.1/accounts"):
        assert "TLS with the server verified" in refusal(Settings(accounts_database_url=url))


@pytest.mark.parametrize("kind", [PostgreSQL, MariaDB])
def test_server_must_be_the_one_that_the_authority_vouches_for(kind: type[PostgreSQL | MariaDB], tmp_path: Path) -> None:
    """By TLS; and a Unix socket needs none."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    with kind(authority.server("127.0.0.1"), authority.certificate) as server:
        url = server.new_database("mayfly_accounts")
        names = server.url("mayfly_accounts", "localhost")
        assert "does not let us in" in refusal(Settings(accounts_database_url=f"{url}?tls_ca={stranger.certificate}"))
        assert "does not let us in" in refusal(Settings(accounts_database_url=f"{names}?tls_ca={authority.certificate}"))
        assert "must be reached by TLS" in refusal(Settings(accounts_database_url=url))
        by_tls = open_access(Settings(accounts_database_url=f"{url}?tls_ca={authority.certificate}"), tmp_path / "key.json")
        assert by_tls
        with closing(by_tls):
            by_tls.add_account(new_account())
            assert by_tls.accounts() == [new_account()]
        socket = server.folder if isinstance(server, PostgreSQL) else server.folder / "socket"
        if isinstance(server, MariaDB):
            server.run(f"CREATE USER {USER}@localhost IDENTIFIED BY '{PASSWORD}'")
            server.run(f"GRANT ALL ON mayfly_accounts.* TO {USER}@localhost")
        path = url.partition("127.0.0.1")[0] + (f":{server.port}" if isinstance(server, PostgreSQL) else "")
        local = open_access(Settings(accounts_database_url=f"{path}/mayfly_accounts?socket={socket}"), tmp_path / "key.json")
        assert local
        with closing(local):
            assert local.accounts() == [new_account()]


# How nodes start

START_AND_APPEND = """
import sys
from pathlib import Path
from database import open_access
from records import AuditEntry
from settings import Settings
from storage.access import AccessTables
from storage.address import parse_address

def make(last):
    number = last.number + 1 if last else 1
    mac = number.to_bytes(16, "big") + (last.mac[:16] if last else bytes(16))
    return AuditEntry(number, 0, "", "", "nobody", "", "open", "answered", "guarded", "", "", "", mac)

url = sys.argv[1]
if url.startswith("sqlite:"):
    sys.stdin.read(1)
    store = open_access(Settings(accounts_database_url=url), Path("/nowhere/key.json"))
else:
    from storage.access_sql import AccessNetwork
    sys.stdin.read(1)
    store = AccessTables(AccessNetwork(parse_address(url), None))
for _ in range(10):
    store.append(make)
store.close()
print("done")
"""


def empty_url(place: AccessPlace, name: str) -> str:
    """Where there are no tables yet."""
    return place.server.new_database(name) if isinstance(place, AccountsDatabase) else place.url


def test_processes_that_start_at_once_on_an_empty_place_all_serve(place: AccessPlace) -> None:
    """And what they add to the audit is one chain."""
    url = empty_url(place, "mayfly_accounts_together")
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", START_AND_APPEND, url], cwd=PROJECT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for node in nodes:
        assert node.stdin
        node.stdin.write("g")
        node.stdin.flush()
    assert [node.communicate(timeout=90)[0].strip() for node in nodes] == ["done"] * 3
    with closing(open_url(url)) as store:
        entries = store.entries()
    assert len(entries) == 30
    assert chained(entries)


def test_tables_of_a_newer_version_are_refused_and_left_alone(file: AccountsFile, database: AccountsDatabase) -> None:
    with closing(file.open(SetClock())) as store:
        store.add_account(new_account())
    file.run("PRAGMA user_version = 99")
    assert "newer version" in refusal(Settings(accounts_database_url=file.url))
    file.run("PRAGMA user_version = 1")
    assert file.open(SetClock()).accounts() == [new_account()]

    database.run("INSERT INTO mayfly_access_schema VALUES (99)")
    try:
        with pytest.raises(StartRefused, match=r"^[^\n]*newer version[^\n]*$"):
            database.open(SetClock())
    finally:
        database.run("DELETE FROM mayfly_access_schema WHERE version = 99")
    assert database.open(SetClock()).accounts() == []


def test_start_goes_on_where_another_was_cut_off(database: AccountsDatabase) -> None:
    """MySQL commits each table by itself; PostgreSQL takes all back."""
    url = database.server.new_database("mayfly_accounts_cut_off")

    def run(*statements: str) -> None:
        for statement in statements:
            database.server.run(statement, "mayfly_accounts_cut_off")

    open_url(url).close()
    run("DROP TABLE mayfly_heads", "DROP TABLE mayfly_entries", "DELETE FROM mayfly_access_schema")
    with closing(open_url(url)) as store:
        assert [store.append(following()).number for _ in range(2)] == [1, 2]
        assert store.heads() == []
    run("DELETE FROM mayfly_audit", "DELETE FROM mayfly_access_schema")
    with closing(open_url(url)) as store:
        assert store.append(following()).number == 3


# Faults


def test_while_another_process_writes_reading_goes_on_and_writing_fails_in_time(file: AccountsFile) -> None:
    store, account = file.open(SetClock()), new_account()
    store.add_account(account)
    store.add_session(new_session(account), account)
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with failing_in_time():
            store.append(following())
        assert store.session(digest(1)) == (new_session(account), account)
        assert store.entries() == []
        store.key_used("nobodys")
        other.execute("ROLLBACK")
    assert store.append(following()).number == 1


def test_question_that_takes_too_long_is_given_up(file: AccountsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file.open(SetClock())
    store.append(following())
    columns = "at, account, email, way, credential, action, outcome, vault, target, address, detail, mac"
    for power in range(12):
        file.run(f"INSERT INTO mayfly_entries (number, {columns}) SELECT number + {1 << power}, {columns} FROM mayfly_entries")
    with monkeypatch.context() as patch:
        patch.setattr(access_sqlite, "_CALL_SECONDS", -1.0)
        with failing_in_time():
            store.find_entries({}, Millis(NOW - 1), NOW, None, 10)
    assert store.find_entries({}, Millis(NOW - 1), NOW, None, 10) == []
    assert store.append(following()).number == 4097


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    require(os.geteuid() == 0 and shutil.which("mount"), "root, to mount a small file system (sudo, or docker run --user root)")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False)
    require(mounted.returncode == 0, "the right to mount (docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def served(store: AccessStore, account: Account) -> None:
    """What needs no writing goes on."""
    assert store.session(digest(1)) == (new_session(account), account)
    assert store.accounts() == [account]
    assert chained(store.entries(most=100_000))
    store.health()


def test_full_disk_keeps_all_that_was_acknowledged_and_nothing_half_written(disk: Path) -> None:
    file, account = AccountsFile(disk), new_account()
    store = file.open(SetClock())
    store.add_account(account)
    store.add_session(new_session(account), account)
    told = [store.append(following()) for _ in range(20)]
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as full:
        for size in (4096, 1):
            try:
                while full.write(bytes(size)):
                    pass
            except OSError:
                pass
        with failing_in_time():
            for _ in range(10_000):
                told.append(store.append(following()))
        for _ in range(3):
            with failing_in_time():
                store.append(following())
            with failing_in_time():
                store.add_key(new_key(account, name="x" * 200_000))
        served(store, account)
        assert store.entries(most=100_000) == told
        assert store.keys() == []
    filler.unlink()
    told.append(store.append(following()))
    file.close()
    again = AccountsFile(disk)
    assert again.open(SetClock()).entries(most=100_000) == told
    again.close()


def test_disk_that_has_become_read_only_fails_what_writes_and_serves_what_reads(disk: Path) -> None:
    file, account = AccountsFile(disk), new_account()
    store = file.open(SetClock())
    store.add_account(account)
    store.add_session(new_session(account), account)
    store.append(following())
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "cannot be opened" in refusal(Settings(accounts_database_url=file.url))
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    store = file.open(SetClock())
    store._database._db.execute("PRAGMA query_only = 1")  # type: ignore[attr-defined] # a mount with open files does not change
    for _ in range(3):
        with failing_in_time():
            store.append(following())
    with failing_in_time():
        store.end_session(digest(1))
    served(store, account)
    file.close()


def test_entry_is_written_whole_or_not_at_all(file: AccountsFile) -> None:
    store = file.open(SetClock())
    file.run("CREATE TRIGGER refusing BEFORE INSERT ON mayfly_last_accesses BEGIN SELECT RAISE(FAIL, 'refused'); END")
    for _ in range(2):
        with failing_in_time():
            store.append(following())
        assert store.entries() == []
    file.run("DROP TRIGGER refusing")
    assert store.append(following()).number == 1


@contextmanager
def refusing(database: AccountsDatabase, state: str, number: int, times: int) -> Iterator[None]:
    """The database answers the last of what an entry writes with this error, so many times. A rollback counts none of them less."""
    fails = (
        f"nextval({'mayfly_refused' if isinstance(database.server, MariaDB) else chr(39) + 'mayfly_refused' + chr(39)}) <= {times}"
    )
    database.run("CREATE SEQUENCE mayfly_refused")
    if isinstance(database.server, PostgreSQL):
        database.run(
            "CREATE FUNCTION mayfly_refuse() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {fails} THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$"
        )
        database.run(
            "CREATE TRIGGER mayfly_refusing BEFORE INSERT ON mayfly_last_accesses FOR EACH ROW EXECUTE FUNCTION mayfly_refuse()"
        )
    else:
        database.run(
            "CREATE TRIGGER mayfly_refusing BEFORE INSERT ON mayfly_last_accesses FOR EACH ROW BEGIN "
            f"IF {fails} THEN SIGNAL SQLSTATE '{'40001' if state == '40001' else 'HY000'}' SET MYSQL_ERRNO = {number}; END IF; END"
        )
    try:
        yield
    finally:
        if isinstance(database.server, PostgreSQL):
            database.run("DROP FUNCTION mayfly_refuse CASCADE")
        else:
            database.run("DROP TRIGGER mayfly_refusing")
        database.run("DROP SEQUENCE mayfly_refused")


def test_entry_that_a_deadlock_undid_is_made_again_and_is_there_once(database: AccountsDatabase) -> None:
    store = database.open(SetClock())
    made: list[AuditEntry] = []

    def make(last: AuditEntry | None) -> AuditEntry:
        made.append(following()(last))
        return made[-1]

    with refusing(database, "40001", 1213, times=2):
        assert store.append(make) == made[2]
    assert len(made) == 3
    assert store.entries() == made[:1] == made[2:]
    with refusing(database, "40001", 1213, times=100), failing_in_time():
        store.append(following(account="another"))
    assert len(store.entries()) == 1


@pytest.mark.parametrize(("state", "number"), [("53100", 1021), ("25006", 1290)], ids=["full", "read-only"])
def test_full_or_read_only_database_fails_and_holds_nothing_half_written(
    database: AccountsDatabase, state: str, number: int
) -> None:
    store = database.open(SetClock())
    with refusing(database, state, number, times=2):
        for _ in range(2):
            with failing_in_time():
                store.append(following())
            assert store.entries() == []
        assert store.append(following()).number == 1
    assert len(store.last_accesses()) == 1


def test_entry_whose_answer_was_lost_is_not_written_twice(database: AccountsDatabase) -> None:
    """The database commits, its answer is lost, and there is time enough to ask again."""
    with FaultyProxy(("127.0.0.1", database.server.port)) as proxy:
        store: Any = open_url(proxy.url_of(database.url), SetClock())
        assert store.append(following()).number == 1

        def lose_answer() -> None:
            proxy.cut_all()
            proxy.fault = None

        cut = threading.Timer(0.3, lose_answer)

        def commits(connection: object, cursor: object, statement: str, *rest: object) -> None:
            if statement == "COMMIT" and cut.ident is None:
                proxy.fault = "silent"
                cut.start()

        event.listen(store._database._database.pool, "before_cursor_execute", commits)
        with failing_in_time():
            store.append(following(account="another"))
        cut.join()
        assert [entry.account for entry in store.entries()] == ["account", "another"]
        assert store.append(following()).number == 3
        assert chained(store.entries())
        store.close()


def test_file_holds_nothing_of_what_was_deleted_after_it_was_tidied(file: AccountsFile) -> None:
    store = file.open(SetClock())
    accounts = [new_account(number, password=f"$argon2id$canary-{number}$") for number in range(50)]
    for account in accounts:
        store.add_account(account)
    assert any(b"canary" in path.read_bytes() for path in file.path.parent.iterdir())
    for account in accounts[::2]:
        store.delete_account(account.id)
    for account in accounts[1::2]:
        store.change_account(account.id, lambda now: new_account(0, email=now.email, password="another"), end_sessions=True)
    store.tidy()
    assert not any(b"canary" in path.read_bytes() for path in file.path.parent.iterdir())


def test_entries_are_found_without_going_through_or_sorting_them_all(file: AccountsFile) -> None:
    """Millions are in it, and the newest are looked at most."""
    store: Any = file.open(SetClock())
    asked: list[str] = []
    store._database._db.set_trace_callback(asked.append)
    filters = ("account", "email", "action", "outcome", "vault", "target")
    for named in ({}, *({name: "x"} for name in filters), {"account": "x", "outcome": "x"}):
        store.find_entries(named, NOW, Millis(NOW + 1), 10, 10)
    store.entries(5)
    store.append(following())
    plans = {statement: file.run(f"EXPLAIN QUERY PLAN {statement}") for statement in asked if statement.startswith("SELECT")}
    assert len(plans) == 8 + 1 + 2
    for statement, plan in plans.items():
        told = " ".join(str(row[3]) for row in plan)
        assert "TEMP B-TREE" not in told, statement
        assert told.startswith("SEARCH") or "LIMIT 1" in statement, (statement, told)
