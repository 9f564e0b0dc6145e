"""What the stores on PostgreSQL and MariaDB promise beyond the contract: whom they let in, how they start, fail and come back."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from database import open_database
from errors import StartRefused, StoreFailed, StoreFull
from records import SECOND, Claim, KeyId, Millis, RowId, Sealed, VaultName
from settings import Settings
from storage import sockets, sql, sql_database
from storage.address import parse_address
from storage.deadline import CALL_SECONDS
from storage.sql import SqlStore
from tests.engines.authority import Authority, Certificate
from tests.engines.mariadb import MariaDB
from tests.engines.postgresql import PostgreSQL
from tests.ports import deaf_port
from tests.serving import PROJECT
from tests.stores import HOUR, LEASE, NOW, SetClock, SqlDatabase, claim, mariadb, new_place, new_row, postgresql, put, race

ENGINES = ("postgresql", "mariadb")
_KINDS: dict[str, type[PostgreSQL] | type[MariaDB]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}
SLACK_SECONDS = 1.0
"""What a busy machine may add to a time that is bounded."""


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlDatabase]:
    """An empty database of the servers that all tests share."""
    place = new_place(request.param, tmp_path)
    assert isinstance(place, SqlDatabase)
    yield place
    place.close()


@pytest.fixture
def store(place: SqlDatabase) -> SqlStore:
    return opened(place)


def opened(place: SqlDatabase, clock: Callable[[], Millis] | None = None) -> SqlStore:
    store = place.open(clock or SetClock())
    assert isinstance(store, SqlStore)
    return store


@contextmanager
def by_url(url: str, clock: Callable[[], Millis] | None = None, **options: Any) -> Iterator[SqlStore]:
    store = SqlStore(parse_address(url), 64 << 20, clock, **options)
    try:
        yield store
    finally:
        store.close()


# Who is let in

GUARDED, SEALED = "MAYFLY_GUARDED_DATABASE_URL", "MAYFLY_SEALED_DATABASE_URL"


@dataclass
class Guard:
    """A server with TLS whose certificate and demands a test changes, and the authorities that certificates come from."""

    server: PostgreSQL | MariaDB
    authority: Authority
    stranger: Authority
    shown: Certificate | None = None

    def show(self, certificate: Certificate) -> None:
        """Let the server show this certificate."""
        if self.shown != certificate:
            self.shown = certificate
            self.server.use_certificate(certificate)
            self.server.restart()

    def demand(self, what: str) -> None:
        """A client's certificate (`certificate`), one where TLS is used at all (`certificate of tls`), or nothing (`nothing`)."""
        if isinstance(self.server, MariaDB):
            self.server.demand("X509" if what == "certificate" else "NONE")
        else:
            with_certificate = "hostssl all mayfly 127.0.0.1/32 scram-sha-256 clientcert=verify-full"
            anyhow = "host all mayfly 127.0.0.1/32 scram-sha-256"
            lines = {
                "certificate": [with_certificate],
                "certificate of tls": [with_certificate, anyhow],
                "certificate of tls, clear password": [with_certificate, anyhow.replace("scram-sha-256", "password")],
                "nothing": [anyhow],
            }
            self.server.admit(*lines[what])

    def url(self, ca: Authority, client: Certificate | None = None, host: str = "127.0.0.1") -> str:
        parameters = f"tls_ca={ca.certificate}"
        if client:
            parameters += f"&tls_certificate={client.certificate}&tls_key={client.key}"
        return f"{self.server.url('mayfly_guarded', host)}?{parameters}"


@pytest.fixture(scope="module", params=ENGINES)
def guard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    folder = tmp_path_factory.mktemp("authorities")
    authority, stranger = Authority(folder), Authority(folder, "stranger")
    with _KINDS[request.param](authority.server(), authority.certificate) as server:
        server.new_database("mayfly_guarded")
        yield Guard(server, authority, stranger, authority.server())


def vault_opens(vault: VaultName, url: str) -> None:
    """Open the store of `vault` at `url`, use it and close it. Raises StartRefused."""
    settings = {f"{vault}_database_url": url} if vault != "open" else {"database_url": url}
    store = open_database(Settings(**settings), vault, SetClock())  # type: ignore[arg-type]
    try:
        row_id = put(store, time.monotonic_ns())
        assert claim(store, row_id) == Claim(0)
        assert claim(store, row_id) is None
    finally:
        store.close()


def refusal(vault: VaultName, url: str) -> str:
    """The one line with which the start is refused; it never holds the password."""
    with pytest.raises(StartRefused) as refused:
        vault_opens(vault, url)
    line = str(refused.value)
    assert line.startswith(f"{GUARDED if vault == 'guarded' else SEALED}: ")
    assert "\n" not in line
    assert "correct horse" not in line
    assert "correct%20horse" not in line
    return line


def test_guarded_vault_takes_tls_with_the_server_verified(guard: Guard) -> None:
    guard.show(guard.authority.server())
    guard.demand("nothing")
    vault_opens("guarded", guard.url(guard.authority))
    vault_opens("guarded", guard.url(guard.authority, host="localhost"))


def test_guarded_vault_takes_no_plain_connection(guard: Guard) -> None:
    assert "tls_ca" in refusal("guarded", guard.server.url("mayfly_guarded"))


def test_server_without_tls_is_refused(guard: Guard, place: SqlDatabase) -> None:
    """It is not spoken to in the clear instead."""
    refusal("guarded", f"{place.url}?tls_ca={guard.authority.certificate}")


def test_server_of_another_authority_is_refused(guard: Guard) -> None:
    guard.show(guard.authority.server())
    guard.demand("nothing")
    assert "certificate verify failed" in refusal("guarded", guard.url(guard.stranger))


def test_server_with_an_expired_certificate_is_refused(guard: Guard) -> None:
    guard.show(guard.authority.server(expired=True))
    guard.demand("nothing")
    assert "certificate verify failed" in refusal("guarded", guard.url(guard.authority))


def test_server_with_another_ones_name_is_refused(guard: Guard) -> None:
    guard.show(guard.authority.server("elsewhere.example"))
    guard.demand("nothing")
    assert "127.0.0.1" in refusal("guarded", guard.url(guard.authority))


def test_server_that_demands_a_certificate_is_not_entered_without(guard: Guard) -> None:
    guard.show(guard.authority.server())
    guard.demand("certificate")
    refusal("guarded", guard.url(guard.authority))


def test_sealed_vault_takes_mutual_tls(guard: Guard) -> None:
    guard.show(guard.authority.server())
    guard.demand("certificate")
    vault_opens("sealed", guard.url(guard.authority, guard.authority.client("mayfly")))


def test_sealed_vault_takes_nothing_less_than_mutual_tls(guard: Guard) -> None:
    for url in (guard.server.url("mayfly_guarded"), guard.url(guard.authority)):
        assert "mutual TLS" in refusal("sealed", url)


def test_sealed_vault_takes_no_server_that_lets_in_others_without_a_certificate(guard: Guard) -> None:
    guard.show(guard.authority.server())
    mine = guard.authority.client("mayfly")
    guard.demand("nothing")
    assert "no certificate" in refusal("sealed", guard.url(guard.authority, mine))
    if isinstance(guard.server, PostgreSQL):
        guard.demand("certificate of tls")
        assert "no certificate" in refusal("sealed", guard.url(guard.authority, mine)), "it lets them in without TLS"


def test_looking_for_an_open_door_shows_nobody_the_password(guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sits between us and the database may pretend to be one that asks for it in the clear. libpq knows one from elsewhere."""
    for file in (tmp_path / ".pgpass", tmp_path / "passwords"):
        file.write_text("*:*:*:*:correct horse\n")
        file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "passwords"))
    monkeypatch.setenv("PGPASSWORD", "correct horse")
    monkeypatch.setenv("PGSSLCERT", "/none.pem")
    monkeypatch.setenv("PGSSLROOTCERT", "/none.pem")
    guard.show(guard.authority.server())
    guard.demand("certificate of tls, clear password" if isinstance(guard.server, PostgreSQL) else "nothing")
    url = guard.url(guard.authority, guard.authority.client("mayfly"))
    with Wire(guard.server.port) as wire:
        assert "no certificate" in refusal("sealed", url.replace(f":{guard.server.port}/", f":{wire.port}/"))
        assert len(wire.sent) >= 2
        assert b"correct horse" not in b"".join(wire.sent)


class Wire:
    """Forwards connections to `port` of loopback one after the other, and notes what the client sends.

    Once the client has sent `loses_answer_to`, the connection ends instead of the answer to it: once.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.loses_answer_to = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent: list[bytes] = []
        self._serving = threading.Thread(target=self._serve)
        self._serving.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                    answering = threading.Thread(target=self._forward, args=(server, client))
                    answering.start()
                    self._forward(client, server)
                    answering.join()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        from_client = target.getpeername()[1] == self._target
        with suppress(OSError):
            while data := source.recv(65536):
                if from_client:
                    self.sent.append(data)
                elif self.loses_answer_to and self.loses_answer_to in self.sent[-1]:
                    self.loses_answer_to = b""
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._serving.join()


@pytest.mark.parametrize("whose", ["another authority's", "expired"])
def test_wrong_client_certificate_is_not_let_in(guard: Guard, whose: str) -> None:
    guard.show(guard.authority.server())
    guard.demand("certificate")
    wrong = guard.authority.client("mayfly", expired=True) if whose == "expired" else guard.stranger.client("mayfly")
    refusal("sealed", guard.url(guard.authority, wrong))


def test_wrong_password_is_refused(guard: Guard) -> None:
    guard.show(guard.authority.server())
    guard.demand("nothing")
    refusal("guarded", guard.url(guard.authority).replace("correct%20horse", "wrong"))


def test_database_that_does_not_exist_is_refused(guard: Guard) -> None:
    guard.show(guard.authority.server())
    guard.demand("nothing")
    refusal("guarded", guard.url(guard.authority).replace("mayfly_guarded", "mayfly_none"))


def test_unix_socket_will_do_for_the_guarded_vault_and_not_for_the_sealed_one(guard: Guard) -> None:
    guard.server.new_database("mayfly_socket")
    owner, path = ("root", "socket") if isinstance(guard.server, MariaDB) else ("postgres", "")
    url = f"{guard.server.scheme}://{owner}@:{guard.server.port}/mayfly_socket?socket={guard.server.folder / path}"
    vault_opens("guarded", url)
    refusal("sealed", url)


@pytest.mark.parametrize("guard", ["postgresql"], indirect=True)
def test_environment_does_not_weaken_what_the_address_says(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq reads it by itself; whatever the address says goes before it."""
    guard.show(guard.authority.server())
    guard.demand("nothing")
    variables = {
        "PGHOST": "192.0.2.1",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": "1",
        "PGUSER": "postgres",
        "PGDATABASE": "postgres",
        "PGSSLMODE": "disable",
        "PGSSLROOTCERT": str(guard.stranger.certificate),
        "PGOPTIONS": "-c default_transaction_read_only=on",
    }
    by_socket = f"postgresql://postgres@:{guard.server.port}/mayfly_guarded?socket={guard.server.folder}"
    for url, found in ((guard.url(guard.authority), ("127.0.0.1", True)), (by_socket, (None, False))):
        with ExitStack() as stores:
            with monkeypatch.context() as environment:
                for name, value in variables.items():
                    environment.setenv(name, value)
                stores.enter_context(by_url(url, SetClock())).health()
            assert guard.server.run(
                "SELECT host(client_addr), ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE application_name = 'mayfly'"
            ) == [found]


@pytest.mark.parametrize("name", ["PGSERVICE", "PGSSLCRL", "PGSSLMAXPROTOCOLVERSION", "PGREQUIREAUTH", "PGTARGETSESSIONATTRS"])
def test_variable_by_which_libpq_would_do_what_the_address_does_not_say_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "mine")
    with pytest.raises(StartRefused, match=f"^[^\n]*unset {name}$"):
        SqlStore(parse_address("postgresql://mayfly@127.0.0.1:1/mayfly"), 64 << 20)


def test_path_of_a_socket_leads_to_no_other_host(tmp_path: Path) -> None:
    """libpq takes a comma for the end of a host."""
    server = postgresql()
    folder = tmp_path / "x,127.0.0.1"
    folder.mkdir()
    with pytest.raises(StartRefused, match="is no path of a Unix socket"):
        SqlStore(parse_address(f"postgresql://postgres@:{server.port}/postgres?socket={folder}"), 64 << 20)


def test_address_that_hangs_takes_no_time_from_the_other_of_its_host(place: SqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    port = place.server.port
    with deaf_port(port) as deaf:
        monkeypatch.setattr(sockets, "addresses_of", lambda host, port: [deaf, "127.0.0.1"])
        with by_url(place.url.replace("127.0.0.1", "two.example"), SetClock()) as store:
            assert claim(store, put(store)) == Claim(0)


# How the tables come to be

START_TOGETHER = """
import sys
from storage.address import parse_address
from storage.sql import SqlStore
sys.stdin.read(1)
store = SqlStore(parse_address(sys.argv[1]), 1 << 20, lambda: 0)
store.health()
print("serves")
"""


def new_database(place: SqlDatabase, name: str) -> str:
    """A database without tables, for one test; its URL."""
    return place.server.new_database(name)


def test_nodes_that_start_at_once_on_an_empty_database_all_serve(place: SqlDatabase) -> None:
    url = new_database(place, "mayfly_together")
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", START_TOGETHER, url], cwd=PROJECT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(5)
    ]
    for node in nodes:
        assert node.stdin
        node.stdin.write("g")
        node.stdin.flush()
    assert [node.communicate(timeout=90)[0].strip() for node in nodes] == ["serves"] * 5
    assert place.server.run("SELECT version FROM mayfly_schema", "mayfly_together") == [(1,)]
    assert place.server.run("SELECT count(*) FROM mayfly_totals", "mayfly_together") == [(16,)]


def test_stores_that_start_at_the_same_moment_make_the_tables_once(place: SqlDatabase) -> None:
    for number in range(3):
        url = new_database(place, f"mayfly_moment_{number}")
        stores: list[Any] = race(*[lambda url=url: SqlStore(parse_address(url), 1 << 20, SetClock())] * 6)
        for store in stores:
            store.health()
            store.close()
        assert place.server.run("SELECT version FROM mayfly_schema", f"mayfly_moment_{number}") == [(1,)]


def test_tables_of_a_newer_version_are_refused_and_left_alone(place: SqlDatabase) -> None:
    url = new_database(place, "mayfly_newer")
    with by_url(url, SetClock()) as store:
        row_id = put(store)
    place.server.run("INSERT INTO mayfly_schema VALUES (99)", "mayfly_newer")
    with pytest.raises(StartRefused, match=r"^[^\n]*newer version[^\n]*$"):
        SqlStore(parse_address(url), 64 << 20)
    place.server.run("DELETE FROM mayfly_schema WHERE version = 99", "mayfly_newer")
    with by_url(url, SetClock()) as store:
        assert store.peek(row_id)


def test_start_goes_on_where_another_was_cut_off(place: SqlDatabase) -> None:
    """MySQL commits each table by itself; PostgreSQL takes all back."""
    url = new_database(place, "mayfly_cut_off")
    with by_url(url, SetClock()):
        pass
    for statement in ("DROP TABLE mayfly_turns", "DROP TABLE mayfly_keys", "DELETE FROM mayfly_schema"):
        place.server.run(statement, "mayfly_cut_off")
    if isinstance(place.server, PostgreSQL):
        place.server.run("DROP TABLE mayfly_messages, mayfly_bodies, mayfly_claims, mayfly_totals", "mayfly_cut_off")
    with by_url(url, SetClock()) as store:
        assert claim(store, put(store)) == Claim(0)
        assert store.may_purge()


def test_user_who_may_not_make_tables_is_refused_in_one_line(place: SqlDatabase) -> None:
    url = new_database(place, "mayfly_foreign")
    if isinstance(place.server, PostgreSQL):
        place.server.run("REVOKE ALL ON SCHEMA public FROM public", "mayfly_foreign")
        place.server.run("ALTER DATABASE mayfly_foreign OWNER TO postgres")
    else:
        place.server.run("CREATE USER reader@'127.0.0.1'")
        place.server.run("GRANT SELECT ON mayfly_foreign.* TO reader@'127.0.0.1'")
        url = url.replace("mayfly:correct%20horse", "reader")
    with pytest.raises(StartRefused, match=r"^[^\n]+$"):
        SqlStore(parse_address(url), 64 << 20)


def test_largest_message_must_fit_what_the_server_takes_at_once() -> None:
    """MySQL refuses statements over max_allowed_packet; that is found out at the start, not by a user."""
    server, packet_bytes = mariadb(), 1 << 20
    url = server.url(SqlDatabase.name)
    before = server.run("SELECT @@global.max_allowed_packet")[0][0]
    server.run(f"SET GLOBAL max_allowed_packet = {packet_bytes}")
    try:
        with by_url(url, SetClock(), largest_bytes=packet_bytes // 2 - 2048) as store:
            put(store, time.monotonic_ns(), body=Sealed(bytes(packet_bytes // 2 - 2048)))
        with pytest.raises(StartRefused, match="max_allowed_packet"):
            SqlStore(parse_address(url), 64 << 20, largest_bytes=packet_bytes // 2)
        with pytest.raises(StartRefused, match=r"^MAYFLY_DATABASE_URL: [^\n]*max_allowed_packet"):
            open_database(Settings(database_url=url, max_message_bytes=packet_bytes // 4))
    finally:
        server.run(f"SET GLOBAL max_allowed_packet = {before}")


# What is kept


def test_every_byte_is_kept_as_it_is(place: SqlDatabase, store: SqlStore) -> None:
    """Binary columns, and names of keys that differ in case only."""
    every = bytes(range(256))
    body = Sealed(every * 40 + b"\\'\"\x00\x1a%s:now;--" + every)
    row_id = put(store, 0, id=RowId(every[224:]), receipt=every[:32], proof=every[128:160], body=body)
    found = store.fetch(row_id, None)
    assert found
    assert (found[0].id, found[0].receipt, found[0].proof, found[1]) == (every[224:], every[:32], every[128:160], body)
    lease = every[::8]
    assert claim(store, row_id, lease) == claim(store, row_id, lease) == Claim(0)
    for number, name in enumerate(("key", "Key", "KEY", "ke\u0301y", "key ")):
        assert store.same_key(KeyId(name), bytes([number]))
        assert not store.same_key(KeyId(name), bytes([number + 1]))


def test_message_is_stored_whole_or_not_at_all(place: SqlDatabase, store: SqlStore) -> None:
    """A body that cannot be written leaves no state behind."""
    with refusing_bodies(place, "P0001", 1644), pytest.raises(StoreFailed):
        put(store)
    assert store.history(new_row().id) is None
    assert (store.counts().stored, store.counts().used_bytes) == (0, 0)
    assert claim(store, put(store)) == Claim(0)


def test_full_database_refuses_creates_as_full_and_serves_on(place: SqlDatabase, store: SqlStore) -> None:
    row_id = put(store, 1, views=None)
    with refusing_bodies(place, "53100", 1114):
        for _ in range(5):
            with pytest.raises(StoreFull):
                put(store, 2)
        assert claim(store, row_id) == Claim(None), "being full is no failure that opens the circuit"
    put(store, 2)


@contextmanager
def refusing_bodies(place: SqlDatabase, sqlstate: str, errno: int) -> Iterator[None]:
    """The database fails to write bodies, with this error."""
    if isinstance(place.server, PostgreSQL):
        place.run(
            f"CREATE FUNCTION no() RETURNS trigger AS $$ BEGIN RAISE 'no' USING ERRCODE = '{sqlstate}'; END $$ LANGUAGE plpgsql"
        )
        place.run("CREATE TRIGGER no BEFORE INSERT ON mayfly_bodies FOR EACH ROW EXECUTE FUNCTION no()")
    else:
        signal = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {errno}"
        place.run(f"CREATE TRIGGER no BEFORE INSERT ON mayfly_bodies FOR EACH ROW {signal}")
    try:
        yield
    finally:
        if isinstance(place.server, PostgreSQL):
            place.run("DROP FUNCTION no CASCADE")
        else:
            place.run("DROP TRIGGER no")


def test_what_a_deadlock_undid_is_done_again(place: SqlDatabase, store: SqlStore) -> None:
    """Twice it is undone, then it happens, and once only."""
    row_id = put(store, views=2)
    if isinstance(place.server, PostgreSQL):
        place.run("CREATE SEQUENCE undone")
        place.run(
            "CREATE FUNCTION undo_it() RETURNS trigger AS $$ BEGIN IF nextval('undone') < 3 THEN "
            "RAISE 'deadlock' USING ERRCODE = '40P01'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql SECURITY DEFINER"
        )
        place.run("CREATE TRIGGER undo_it BEFORE UPDATE ON mayfly_messages FOR EACH ROW EXECUTE FUNCTION undo_it()")
    else:
        place.run("CREATE TABLE undone (n INTEGER) ENGINE = Aria TRANSACTIONAL = 0")
        place.run(
            "CREATE TRIGGER undo_it BEFORE UPDATE ON mayfly_messages FOR EACH ROW BEGIN INSERT INTO undone VALUES (1); "
            "IF (SELECT count(*) FROM undone) < 3 THEN SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213; END IF; END"
        )
    try:
        assert claim(store, row_id) == Claim(1)
    finally:
        if isinstance(place.server, PostgreSQL):
            place.run("DROP FUNCTION undo_it CASCADE")
            place.run("DROP SEQUENCE undone")
        else:
            place.run("DROP TRIGGER undo_it")
            place.run("DROP TABLE undone")
    row = store.peek(row_id)
    assert row and (row.views_left, len(row.openings)) == (1, 1)


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_what_was_had_is_told_although_removing_the_body_failed(place: SqlDatabase, store: SqlStore) -> None:
    """PostgreSQL takes the view, or ends the lease, before it looks whether other leases are left. The purge does the rest.

    (In MySQL the two are one transaction.)
    """
    confirmed, opened_ = put(store, 1), put(store, 2, views=2)
    claim(store, confirmed, LEASE)
    claim(store, opened_, LEASE)
    place.run("CREATE FUNCTION undo_it() RETURNS trigger AS $$ BEGIN RAISE 'no' USING ERRCODE = '40P01'; END $$ LANGUAGE plpgsql")
    when = "WHEN (OLD.views_left = 0)"
    place.run(f"CREATE TRIGGER undo_it BEFORE UPDATE ON mayfly_messages FOR EACH ROW {when} EXECUTE FUNCTION undo_it()")
    try:
        assert store.confirm(confirmed, LEASE)
        assert claim(store, opened_) == Claim(0)
    finally:
        place.run("DROP FUNCTION undo_it CASCADE")
    later = SetClock()
    later.advance(30 * SECOND)
    assert opened(place, later).purge(10).bodies == 2
    assert place.bodies() == 0


def test_large_body_comes_back_whole(store: SqlStore) -> None:
    body = Sealed(bytes(range(256)) * (5 << 12))  # 5 MiB
    row_id = put(store, body=body)
    found = store.fetch(row_id, None)
    assert found and found[1] == body


# Time


def test_store_without_another_clock_goes_by_the_databases(place: SqlDatabase) -> None:
    millis = {
        PostgreSQL: "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
        MariaDB: "SELECT CAST(unix_timestamp(sysdate(3)) * 1000 AS INTEGER)",
    }[type(place.server)]
    with by_url(place.url) as store:
        before, now, after = place.run(millis)[0][0], store.now(), place.run(millis)[0][0]
        assert before - 50 <= now <= after + 50
        row_id = put(store, created_at=now, expires_at=Millis(now + HOUR), views=2)
        assert claim(store, row_id, LEASE) == Claim(1)
        assert 0 < place.leases()[0] - now - 30 * SECOND < 60 * SECOND
        row = store.peek(row_id)
        assert row and before <= row.openings[0] <= place.run(millis)[0][0]


def test_time_costs_no_question_a_create(place: SqlDatabase) -> None:
    """And on PostgreSQL a create, an opening with a lease, and a burn are one question each."""
    with by_url(place.url) as store:
        now = store.now()
        asked: list[str] = []
        event.listen(store._database.pool, "before_cursor_execute", lambda *call: asked.append(call[2]))
        for number in range(3):
            assert store.now() >= now
            put(store, number, created_at=store.now(), expires_at=Millis(now + HOUR))
        assert len(asked) == 3 if isinstance(place.server, PostgreSQL) else 3 * 6
        asked.clear()
        assert claim(store, new_row(0).id, LEASE) == Claim(0)
        assert claim(store, new_row(1).id) == Claim(0)
        assert store.burn(new_row(2).id, None)
        assert isinstance(place.server, MariaDB) or len(asked) == 3


@pytest.mark.parametrize(
    ("act", "end"),
    [
        ("claim", "COMMIT"),
        ("claim", "ROLLBACK"),
        ("claim with a lease", "COMMIT"),
        ("claim with a lease", "ROLLBACK"),
        ("burn", "COMMIT"),
    ],
)
def test_who_waited_past_the_end_of_a_message_comes_too_late(place: SqlDatabase, act: str, end: str) -> None:
    """Another transaction holds the row while the message expires: the time is asked after the wait, whatever that one did."""
    with by_url(place.url) as store:
        now = store.now()
        row_id = put(store, views=2, created_at=now, expires_at=Millis(now + 60_000))
        claim(store, row_id, LEASE)
        acts: dict[str, Callable[[], object]] = {
            "claim": lambda: claim(store, row_id),
            "claim with a lease": lambda: claim(store, row_id, b"o" * 32),
            "burn": lambda: store.burn(row_id, None),
        }
        place.run(f"UPDATE mayfly_messages SET expires_at = {store.now() + 250}")
        with held(place, "UPDATE mayfly_messages SET tried_at = 1", 0.5, end):
            assert not acts[act]()


@contextmanager
def held(place: SqlDatabase, statement: str, seconds: float, end: str = "COMMIT") -> Iterator[None]:
    """Another transaction has run `statement`, and ends after `seconds`."""
    connection: Any = place.server.connect(place.name)
    cursor = connection.cursor()
    cursor.execute("BEGIN")
    cursor.execute(statement)
    ending = threading.Timer(seconds, lambda: cursor.execute(end))
    ending.start()
    try:
        yield
    finally:
        ending.join()
        connection.close()


# The purge


def test_purge_leaves_what_somebody_holds_and_readers_go_on(place: SqlDatabase, store: SqlStore) -> None:
    clock = SetClock()
    for number in range(10):
        put(store, number)
    kept = put(store, 100, expires_at=Millis(NOW + 2 * HOUR), views=2)
    clock.advance(HOUR)
    later = opened(place, clock)
    n = place.run("SELECT min(n) FROM mayfly_messages")[0][0]
    with held(place, f"UPDATE mayfly_messages SET tried_at = 1 WHERE n = {n}", 0.5):
        assert later.purge(200).bodies == 9
        assert claim(later, kept) == Claim(1)
    assert later.purge(200).bodies == 1


def test_purge_takes_large_bodies_a_few_at_a_time(place: SqlDatabase, store: SqlStore) -> None:
    for number in range(5):
        put(store, number, body=Sealed(bytes(3 << 20)))
    late = SetClock()
    late.advance(HOUR)
    later = opened(place, late)
    purged = [later.purge(200).bodies for _ in range(5)]
    assert purged == [1] * 5, "a slice is 4 MiB at most"
    assert later.purge(200).more is False


def test_purge_finds_what_is_due_by_an_index(place: SqlDatabase) -> None:
    """Its cost is by what it removes, not by what is stored."""
    store = opened(place)
    for number in range(50):
        put(store, number)
    with by_url(place.url) as by_its_own_clock:
        messages: Any = by_its_own_clock._messages
    purge = messages._purge if isinstance(place.server, PostgreSQL) else messages._due
    for statement, index in ((purge, "mayfly_messages_purge_at"), (messages._purge_claims, "mayfly_claims_until")):
        plan = explained(place, re.sub(r":\w+", "5", statement.text))
        assert re.search(rf"Index Scan using {index}.{{,200}}?Index Cond: \(|'range'.*'{index}'", plan), plan


def explained(place: SqlDatabase, statement: str) -> str:
    """How the database would go about it, were there so many rows that going through them all was no choice."""
    connection: Any = place.server.connect(place.name)
    try:
        cursor = connection.cursor()
        if isinstance(place.server, PostgreSQL):
            cursor.execute("SET enable_seqscan = off")
            cursor.execute("SET enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN {statement}")
        return str(cursor.fetchall())
    finally:
        connection.close()


def test_node_that_purges_keeps_its_turn_and_another_takes_over_within_a_minute(place: SqlDatabase) -> None:
    clock = SetClock()
    nodes = [opened(place, clock) for _ in range(3)]
    assert [node.may_purge() for node in nodes] == [True, False, False]
    for _ in range(10):
        clock.advance(20 * SECOND)
        assert [node.may_purge() for node in nodes] == [True, False, False]
    clock.advance(25 * SECOND)
    assert [node.may_purge() for node in nodes[1:]] == [True, False], "25 s of silence, 30 s until the next asks, 5 s for the purge"
    assert not nodes[0].may_purge()


def test_time_goes_on_while_the_machine_sleeps(place: SqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.clock_gettime_ns

    def since_boot(clock: int) -> int:
        return real(clock) + (HOUR * 1_000_000 if clock == time.CLOCK_BOOTTIME else 0)

    with by_url(place.url) as store:
        before = store.now()
        monkeypatch.setattr(time, "clock_gettime_ns", since_boot)
        assert HOUR <= store.now() - before < HOUR + 10 * SECOND


def test_racing_nodes_get_one_turn(place: SqlDatabase) -> None:
    nodes = [opened(place) for _ in range(6)]
    assert race(*[node.may_purge for node in nodes]).count(True) == 1


def test_purge_that_takes_long_keeps_its_turn(place: SqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock()
    busy, other = opened(place, clock), opened(place, clock)
    assert busy.may_purge()
    monkeypatch.setattr(sql, "_TURN_RENEWAL_SECONDS", 0.0)
    for _ in range(4):
        clock.advance(29 * SECOND)
        busy.purge(10)
        assert not other.may_purge()


# Down, and back


@pytest.fixture(scope="module", params=ENGINES)
def own_server(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB]:
    """A server that tests may stop and kill, with its syncs on."""
    with _KINDS[request.param](durable=True) as server:
        server.new_database("mayfly_own")
        yield server


def test_store_starts_before_its_database_and_serves_when_that_is_there(
    own_server: PostgreSQL | MariaDB, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_server.url("mayfly_own")
    own_server.stop()
    try:
        with by_url(url, SetClock()) as store:
            assert "cannot be reached" in caplog.text
            assert "correct" not in caplog.text
            for _ in range(5):
                with pytest.raises(StoreFailed):
                    store.health()
            own_server.start()
            await_return(store)
            assert claim(store, put(store, time.monotonic_ns())) == Claim(0)
    finally:
        if own_server.process and own_server.process.poll() is not None:
            own_server.start()


def await_return(store: SqlStore) -> None:
    """The store serves within two seconds from now."""
    started = time.monotonic()
    while True:
        try:
            store.health()
            break
        except StoreFailed:
            time.sleep(0.02)
            assert time.monotonic() - started < 2 + SLACK_SECONDS
    assert store.circuit == "closed"


def test_restart_of_an_idle_database_is_not_noticed(own_server: PostgreSQL | MariaDB) -> None:
    """Connections whose other end has gone are not used: the first call after it does not fail."""
    with by_url(own_server.url("mayfly_own"), SetClock()) as store:
        rows = [put(store, time.monotonic_ns(), views=2) for _ in range(3)]
        race(*[lambda row_id=row_id: claim(store, row_id) for row_id in rows])
        own_server.restart()
        assert [claim(store, row_id) for row_id in rows] == [Claim(0)] * 3


def test_nothing_acknowledged_is_lost_or_doubled_when_the_database_is_killed(own_server: PostgreSQL | MariaDB) -> None:
    """Threads create and open while it is killed three times. A view is had once at most; what was stored and not opened stays."""
    ended = threading.Event()
    stored: list[RowId] = []
    asked: list[RowId] = []
    had: list[RowId] = []
    with by_url(own_server.url("mayfly_own"), SetClock()) as store:

        def work() -> None:
            while not ended.is_set():
                row_id = new_row(time.monotonic_ns() * 1000 + threading.get_native_id() % 1000).id
                with suppress(StoreFailed):
                    store.put(new_row(0, id=row_id))
                    stored.append(row_id)
                if stored and len(asked) < len(stored) // 2:
                    wanted = stored[len(asked)]
                    asked.append(wanted)
                    with suppress(StoreFailed):
                        if claim(store, wanted):
                            had.append(wanted)
                time.sleep(0.001)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                time.sleep(0.3)
                own_server.kill()
                own_server.start()
            await_return(store)
            before = len(stored)
            time.sleep(0.3)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert len(stored) > before > 0, "it served again"
        assert len(had) == len(set(had)) > 0
        gone = {row_id for row_id in stored if store.peek(row_id) is None}
        assert set(had) <= gone <= set(asked)
        assert not [row_id for row_id in had if claim(store, row_id)]


# A peer that does not play along


class Peer:
    """Takes connections, sends the beginning of an answer, and then nothing, or one more byte of it now and then."""

    def __init__(self, beginning: bytes, drips: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._beginning = beginning
        self._drips = drips
        self._ended = threading.Event()
        self._connections: list[socket.socket] = []
        self._serving = threading.Thread(target=self._serve)
        self._serving.start()

    def _serve(self) -> None:
        self._listener.settimeout(0.05)
        while not self._ended.is_set():
            with suppress(TimeoutError):
                self._connections.append(self._listener.accept()[0])
                self._connections[-1].send(self._beginning)
            for connection in self._connections if self._drips else ():
                with suppress(OSError):
                    connection.send(b"x")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._serving.join()
        for connection in (*self._connections, self._listener):
            connection.close()


PEERS = {
    "silent for psycopg": ("postgresql", False, b"", False),
    "silent for psycopg that wants TLS": ("postgresql", True, b"", False),
    "silent for PyMySQL": ("mysql", False, b"", False),
    "silent after a yes to TLS": ("postgresql", True, b"S", False),
    "silent in the middle of an error of 20,000 bytes": ("postgresql", False, b"E\x00\x00\x4e\x20x", False),
    "silent in the middle of a greeting of 64 KiB": ("mysql", False, b"\xff\xff\x00\x00x", False),
    "dripping an error of 20,000 bytes": ("postgresql", False, b"E\x00\x00\x4e\x20", True),
    "dripping a greeting of 64 KiB": ("mysql", False, b"\xff\xff\x00\x00", True),
}


def test_peer_that_never_answers_keeps_nobody_longer_than_a_call_may_take(tmp_path: Path) -> None:
    """Not at the start, which goes on without it, and not later."""
    ca = Authority(tmp_path).certificate

    def waits_for(scheme: str, tls: bool, beginning: bytes, drips: bool) -> list[float]:
        waited = []
        with Peer(beginning, drips) as peer:
            started = time.monotonic()
            with by_url(f"{scheme}://mayfly:secret@127.0.0.1:{peer.port}/mayfly" + (f"?tls_ca={ca}" if tls else "")) as store:
                waited.append(time.monotonic() - started)
                started = time.monotonic()
                with pytest.raises(StoreFailed):
                    store.health()
                waited.append(time.monotonic() - started)
        return waited

    found = dict(zip(PEERS, race(*[lambda peer=peer: waits_for(*peer) for peer in PEERS.values()]), strict=True))
    for name, waited in found.items():
        assert waited, name
        assert all(CALL_SECONDS - 0.1 < seconds < CALL_SECONDS + SLACK_SECONDS for seconds in waited), (name, waited)  # type: ignore[attr-defined]


def test_claim_whose_answer_was_lost_is_not_made_again(place: SqlDatabase) -> None:
    """It took the view: asked again, it would take the next one."""
    with (
        Wire(place.server.port) as wire,
        by_url(place.url.replace(f":{place.server.port}/", f":{wire.port}/"), SetClock()) as store,
    ):
        row_id = put(store, views=3)
        wire.loses_answer_to = b"mayfly_claims" if isinstance(place.server, PostgreSQL) else b"COMMIT"
        with pytest.raises(StoreFailed):
            claim(store, row_id)
        row = store.peek(row_id)
        assert row and (row.views_left, len(row.openings)) == (2, 1)


@pytest.mark.parametrize("how", ["stopped", "locked"])
def test_slow_database_is_given_up_in_time_and_its_late_answer_reaches_nobody(own_server: PostgreSQL | MariaDB, how: str) -> None:
    with by_url(own_server.url("mayfly_own"), SetClock()) as store:
        first, second = (put(store, time.monotonic_ns(), views=3, receipt=bytes([number]) * 32) for number in (1, 2))
        assert store.peek(first)
        with unresponsive(own_server, how):
            started = time.monotonic()
            with pytest.raises(StoreFailed):
                claim(store, first)
            assert time.monotonic() - started < CALL_SECONDS + SLACK_SECONDS
        await_return(store)
        for _ in range(20):
            row = store.peek(second)
            assert row and (row.id, row.receipt) == (second, bytes([2]) * 32)
        row = store.peek(first)
        assert row and row.views_left in (2, 3), "taken once or not at all: it was not asked again"


@contextmanager
def unresponsive(server: PostgreSQL | MariaDB, how: str) -> Iterator[None]:
    if how == "locked":
        connection: Any = server.connect("mayfly_own")
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute("UPDATE mayfly_messages SET tried_at = 1")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()
    else:
        server.pause()
        try:
            yield
        finally:
            server.resume()


def test_circuit_opens_and_calls_fail_at_once_while_it_is(own_server: PostgreSQL | MariaDB) -> None:
    with by_url(own_server.url("mayfly_own"), SetClock()) as store:
        store.health()
        own_server.stop()
        try:
            for _ in range(3):
                with pytest.raises(StoreFailed):
                    store.health()
            assert store.circuit == "open"
            started = time.monotonic()
            for _ in range(200):
                with pytest.raises(StoreFailed):
                    store.health()
            assert time.monotonic() - started < CALL_SECONDS
        finally:
            own_server.start()
        await_return(store)


def test_connections_are_bounded_and_who_finds_none_free_is_told_soon(place: SqlDatabase, store: SqlStore) -> None:
    row_id = put(store, views=None)
    refused: list[float] = []
    counted: list[int] = []

    def take() -> None:
        started = time.monotonic()
        try:
            claim(store, row_id)
        except StoreFailed:
            refused.append(time.monotonic() - started)

    with held(place, "UPDATE mayfly_messages SET tried_at = 1", 2.5):
        counting = threading.Timer(0.5, lambda: counted.append(connections_to(place)))
        counting.start()
        race(*[take] * 40)
        counting.join()
    assert counted[0] <= sql_database.CONNECTIONS
    assert len(refused) == 40
    assert max(refused) < CALL_SECONDS + SLACK_SECONDS
    assert store._database.pool.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert store._database.pool.pool.size() == sql_database.CONNECTIONS  # type: ignore[attr-defined]
    await_return(store)
    assert all(race(*[lambda: store.peek(row_id)] * 40))


def connections_to(place: SqlDatabase) -> int:
    """How many connections of our user the server has."""
    if isinstance(place.server, PostgreSQL):
        return int(place.run("SELECT count(*) FROM pg_stat_activity WHERE usename = 'mayfly'")[0][0])
    return int(place.run("SELECT count(*) FROM information_schema.processlist WHERE user = 'mayfly'")[0][0])


def test_failures_are_told_without_what_was_stored(place: SqlDatabase, store: SqlStore, caplog: pytest.LogCaptureFixture) -> None:
    """Neither ids nor bodies nor the password stand in the log or in what is raised."""
    canary = Sealed(b"yranac"[::-1])  # its own line stands in the traceback
    put(store, 7, body=canary)
    with pytest.raises(StoreFailed) as failed:
        put(store, 7, body=canary)
    told = caplog.text + "".join(traceback.format_exception(failed.value))
    assert "the store at 127.0.0.1" in told
    for secret in (canary.decode(), canary.hex(), new_row(7).id.hex(), str(new_row(7).id), "correct horse", "correct%20horse"):
        assert secret not in told.replace("canary = Sealed", "").replace("body=canary", "")


# Several processes

TAKE_ALL = """
import sys, threading
from records import RowId
from storage.address import parse_address
from storage.sql import SqlStore
store = SqlStore(parse_address(sys.argv[1]), 64 << 20, lambda: int(sys.argv[2]))
store.health()
print("ready", flush=True)
sys.stdin.read(1)
won = []
def take(lease):
    for number in range(100):
        found = store.claim(RowId(number.to_bytes(32, "big")), lease, 30)
        if found and not found.repeated:
            won.append(number)
threads = [threading.Thread(target=take, args=(sys.argv[3].encode() + bytes([n]) * 31 if n % 2 else None,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*won)
"""


def test_threads_of_two_processes_get_exactly_the_allowed_views(place: SqlDatabase, store: SqlStore) -> None:
    """Eight readers at once, half of them with leases, for one view and for three."""
    views = {number: 1 + 2 * (number % 2) for number in range(100)}
    for number, allowed in views.items():
        put(store, number, views=allowed)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE_ALL, place.url, str(NOW), name],
            cwd=PROJECT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in "ab"
    ]
    for reader in readers:
        assert reader.stdout
        assert reader.stdout.readline().strip() == "ready"
    for reader in readers:
        assert reader.stdin
        reader.stdin.write("g")
        reader.stdin.flush()
    won = Counter(int(number) for reader in readers for number in reader.communicate(timeout=120)[0].split())
    assert won == views
