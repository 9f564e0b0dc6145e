"""What only the Valkey store promises: the server it takes, what it leaves there, and what it does when servers come and go."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from database import MessageStore, open_database
from errors import StartRefused, StoreFailed, StoreFull
from records import MAX_TRIES, RECEIPT_LIFETIME, SECOND, Claim, KeyId, Millis, NewRow, Purged, RowId, Sealed
from settings import Settings
from storage import sockets, valkey, valkey_nodes
from storage.address import parse_address
from storage.deadline import CALL_SECONDS, within
from storage.valkey import ValkeyStore
from tests.engines.authority import Authority
from tests.engines.proxy import Fault, FaultyProxy
from tests.engines.valkey import ValkeyCluster, ValkeyServer
from tests.ports import deaf_port
from tests.stores import HOUR, LEASE, LEASE_SECONDS, NOW, OTHER_LEASE, SetClock, claim, new_row, put

MINUTE = 60 * SECOND
IN_TIME = CALL_SECONDS + 0.5
"""What a call may take on a busy machine: its own bound, and room to be scheduled."""
HURRY = 0.4
"""What is left for a call by a request that waited before, in seconds; so that tests wait for no more."""


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server that tests may not break."""
    with ValkeyServer() as running:
        yield running


@pytest.fixture
def clock(server: ValkeyServer) -> SetClock:
    server.tell("FLUSHALL")
    return SetClock()


@pytest.fixture
def store(server: ValkeyServer, clock: SetClock) -> Iterator[ValkeyStore]:
    store = opened(server.url, clock)
    yield store
    store.close()


def opened(url: str, clock: Callable[[], Millis] | None = None, quota_bytes: int = 64 << 20) -> ValkeyStore:
    return ValkeyStore(parse_address(url), quota_bytes, clock)


def opened_for(vault: str, url: str) -> MessageStore:
    databases = {f"{vault}_database_url".removeprefix("open_"): url}
    return open_database(Settings(**databases), vault)  # type: ignore[arg-type]


def real_row(store: ValkeyStore, number: int, lifetime: int = HOUR, **changes: Any) -> NewRow:
    """A message by the server's own clock."""
    now = store.now()
    return new_row(number, created_at=now, expires_at=Millis(now + lifetime), **changes)


def in_shard(shard: int, number: int = 0) -> RowId:
    return RowId(number.to_bytes(31, "big") + bytes([shard]))


# Which server is taken


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[ValkeyServer]:
    """TLS, and no certificates asked of clients."""
    with ValkeyServer(authority.server()) as running:
        yield running


@pytest.fixture(scope="module")
def mutual_server(authority: Authority) -> Iterator[ValkeyServer]:
    with ValkeyServer(authority.server(), authority.certificate) as running:
        yield running


def refused(vault: str, url: str, why: str) -> None:
    """The start is refused in one line that names the setting and the reason."""
    setting = "MAYFLY_DATABASE_URL" if vault == "open" else f"MAYFLY_{vault.upper()}_DATABASE_URL"
    with pytest.raises(StartRefused) as refusal:
        opened_for(vault, url).close()
    assert str(refusal.value).startswith(f"{setting}: ")
    assert why in str(refusal.value)
    assert "\n" not in str(refusal.value)


def serves(store: MessageStore) -> None:
    now = store.now()
    row = new_row(random.getrandbits(200), created_at=now, expires_at=Millis(now + HOUR))
    store.put(row)
    assert claim(store, row.id, LEASE) == Claim(0)
    store.close()


def test_guarded_store_takes_a_server_that_its_authority_knows(tls_server: ValkeyServer, authority: Authority) -> None:
    serves(opened_for("guarded", tls_server.url_with(authority)))


def test_name_of_the_server_is_verified_too(tls_server: ValkeyServer, authority: Authority) -> None:
    serves(opened_for("guarded", tls_server.url_with(authority).replace("127.0.0.1", "localhost")))
    with ValkeyServer(authority.server("valkey.example")) as elsewhere:
        refused("guarded", elsewhere.url_with(authority), "IP address mismatch")


def test_server_of_another_authority_is_refused(tls_server: ValkeyServer, stranger: Authority) -> None:
    refused("guarded", tls_server.url_with(stranger), "its certificate is not accepted")


def test_authorities_of_the_system_count_for_nothing(
    tls_server: ValkeyServer, authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library adds its authority to the system's; whoever those sign for this name would be taken."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    refused("guarded", tls_server.url_with(stranger), "its certificate is not accepted")


def test_expired_server_is_refused(authority: Authority) -> None:
    with ValkeyServer(authority.server(expired=True)) as expired:
        refused("guarded", expired.url_with(authority), "certificate has expired")


def test_plain_server_is_refused_where_tls_is_meant(server: ValkeyServer, authority: Authority) -> None:
    refused("guarded", server.url_with(authority), "cannot be used: it does not speak TLS")
    refused("guarded", server.url, "must be reached by TLS")


def test_tls_server_is_refused_where_it_is_spoken_to_plainly(tls_server: ValkeyServer) -> None:
    refused("open", tls_server.url, "does it demand TLS")


def test_sealed_store_takes_mutual_tls(mutual_server: ValkeyServer, authority: Authority) -> None:
    serves(opened_for("sealed", mutual_server.url_with(authority, authority.client("mayfly"))))


def test_sealed_store_without_a_certificate_of_its_own_is_refused(mutual_server: ValkeyServer, authority: Authority) -> None:
    refused("sealed", mutual_server.url_with(authority), "must be reached by mutual TLS")
    refused("guarded", mutual_server.url_with(authority), "cannot be used: ")


def test_client_certificate_of_another_authority_is_refused(
    mutual_server: ValkeyServer, authority: Authority, stranger: Authority
) -> None:
    refused("sealed", mutual_server.url_with(authority, stranger.client("mayfly")), "cannot be used: ")


def test_expired_client_certificate_is_refused(mutual_server: ValkeyServer, authority: Authority) -> None:
    refused("sealed", mutual_server.url_with(authority, authority.client("mayfly", expired=True)), "cannot be used: ")


@pytest.mark.parametrize("demand", ["no", "optional"])
def test_server_that_lets_clients_in_without_a_certificate_is_refused_for_mutual_tls(authority: Authority, demand: str) -> None:
    url_of = authority.client("mayfly")
    with ValkeyServer(authority.server(), authority.certificate, tls_auth_clients=demand, requirepass="x") as lax:
        url = lax.url_with(authority, url_of).replace("valkey://", "valkey://:x@")
        refused("sealed", url, "it takes clients without a certificate")


def test_renewed_certificate_is_taken_without_a_restart(authority: Authority, tmp_path: Path) -> None:
    """For each new session the files are read anew."""
    client = authority.client("mayfly", expired=True)
    files = [tmp_path / "client.pem", tmp_path / "client.key"]
    with ValkeyServer(authority.server(), authority.certificate) as server:
        good = authority.client("mayfly")
        for file, source in zip(files, (good.certificate, good.key), strict=True):
            file.write_bytes(source.read_bytes())
        store = opened(server.url_with(authority, type(client)(*files)))
        for file, source in zip(files, (client.certificate, client.key), strict=True):
            file.write_bytes(source.read_bytes())
        server.restart()
        with pytest.raises(StoreFailed):
            store.put(new_row())
        for file, source in zip(files, (good.certificate, good.key), strict=True):
            file.write_bytes(source.read_bytes())
        await_service(store)
        store.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl", "allkeys-random"])
def test_server_that_drops_messages_when_it_is_full_is_refused(policy: str) -> None:
    with ValkeyServer(maxmemory_policy=policy) as server:
        refused("open", server.url, f"maxmemory-policy {policy}")


def test_server_of_a_cluster_that_drops_messages_is_refused(cluster: ValkeyCluster) -> None:
    """Any of them, not only the one that the URL names."""
    cluster.servers[2].tell("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    refused("open", cluster.url, f"127.0.0.1:{cluster.servers[2].port} cannot be used: it drops messages")
    cluster.servers[2].tell("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_server_that_begins_to_drop_messages_is_refused_by_the_next_session(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever replaces a server may forget how it was set."""
    with ValkeyServer() as server:
        store = opened(server.url, SetClock())
        server.tell("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        server.tell("CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(StoreFailed):
            put(store)
        assert "it drops messages when its memory is full" in caplog.text
        store.close()


def test_server_that_goes_back_to_a_snapshot_is_refused(server: ValkeyServer) -> None:
    """With an append-only file it does not: that is what it loads."""
    with ValkeyServer(save="3600 1") as keeper:
        refused("open", keeper.url, "goes back to its last snapshot, and what was opened since opens again")
    with ValkeyServer(save="3600 1", appendonly="yes") as keeper:
        serves(opened_for("open", keeper.url))


def test_cluster_and_single_server_are_not_taken_for_one_another(server: ValkeyServer, cluster: ValkeyCluster) -> None:
    refused("open", cluster.url.replace("+cluster", ""), "it is a Cluster: write valkey+cluster://")
    refused("open", server.url.replace("valkey", "valkey+cluster"), "it is no Cluster: write valkey://")


def test_replica_is_refused(server: ValkeyServer) -> None:
    with ValkeyServer(replicaof=f"127.0.0.1 {server.port}") as replica:
        refused("open", replica.url, "it is a replica: name its primary")


def test_user_and_password_are_shown_and_wrong_ones_refused() -> None:
    with ValkeyServer(requirepass="correct") as server:
        server_url = server.url.replace("valkey://", "valkey://{}@")
        refused("open", server.url, "cannot be used: ")
        refused("open", server_url.format(":wrong"), "it refuses user or password")
        refused("open", server_url.format("nobody:correct"), "it refuses user or password")
        serves(opened_for("open", server_url.format(":correct")))
        serves(opened_for("open", server_url.format("default:correct") + "/7"))


NEEDED = "+@read +@write +@scripting +@connection +info +time +asking +cluster|slots"
"""What the user of the store must be allowed, by the documentation."""


def test_user_needs_no_more_than_the_documentation_says() -> None:
    """CONFIG is not among it: then nobody can tell whether what is acknowledged is on the disk."""
    with ValkeyServer(appendonly="yes", appendfsync="always") as server:
        server.tell("ACL", "SETUSER", "mayfly", "on", ">secret", "~mayfly:*", *NEEDED.split())
        store = opened(server.url.replace("valkey://", "valkey://mayfly:secret@"), SetClock())
        row_id = put(store)
        assert claim(store, row_id, LEASE) == Claim(0)
        assert store.counts().stored == 1
        assert store.may_purge()
        assert store.durability == "memory"
        store.close()


@pytest.mark.parametrize(
    ("settings", "durability"),
    [
        ({}, "memory"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "memory"),
        ({"appendonly": "yes", "appendfsync": "always", "no_appendfsync_on_rewrite": "yes"}, "memory"),
        ({"appendonly": "yes", "appendfsync": "always"}, "disk"),
    ],
)
def test_durability_is_disk_only_where_each_write_is_synced(settings: dict[str, str], durability: str) -> None:
    with ValkeyServer(**settings) as server:
        store = opened(server.url)
        assert store.durability == durability
        store.close()


def test_old_server_is_refused() -> None:
    """Told by a stranger that says so: no Redis 6 is at hand."""

    def answer(connection: socket.socket) -> None:
        with connection:
            info = b"redis_version:6.2.14\r\nloading:0\r\n"
            connection.recv(65536)
            connection.sendall(b"$%d\r\n%s\r\n*0\r\n" % (len(info), info))
            connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: answer(listener.accept()[0]), daemon=True).start()
        refused("open", f"valkey://127.0.0.1:{listener.getsockname()[1]}", "it is version 6.2.14")


def test_unix_socket_serves() -> None:
    with ValkeyServer(unixsocket="socket") as server:
        url = f"valkey:///3?socket={server.folder}/socket"
        serves(opened_for("guarded", url))
        assert server.tell("INFO", "keyspace").keys() == {"db3"}


# What is kept, and for how long


def live(store: ValkeyStore, clock: SetClock, steps: int) -> None:
    """A random history of messages: some end in each way, others not at all."""
    chance = random.Random(8)
    ids: list[RowId] = []
    acts: list[Callable[[RowId], object]] = [
        lambda row_id: claim(store, row_id),
        lambda row_id: claim(store, row_id, LEASE),
        lambda row_id: claim(store, row_id, OTHER_LEASE),
        lambda row_id: store.confirm(row_id, LEASE),
        lambda row_id: store.burn(row_id, None),
        store.reserve_try,
        store.return_try,
        store.wrong_try,
        store.peek,
        lambda row_id: store.fetch(row_id, LEASE),
        store.history,
        lambda row_id: store.may_purge() and chance.random() < 0.2 and store.purge(chance.choice([1, 10])),
        lambda row_id: store.same_key(KeyId(f"key {row_id[-1] % 3}"), b"verifier"),
    ]
    for number in range(steps):
        if number % 4 == 0:
            lifetime = chance.choice([60, 3600, 604_800]) * SECOND
            views, tries = chance.choice([None, 1, 2]), chance.choice([None, MAX_TRIES])
            row = new_row(number, created_at=clock.at, expires_at=Millis(clock.at + lifetime), views=views, tries=tries)
            store.put(row)
            ids.append(row.id)
        chance.choice(acts)(chance.choice(ids[-30:]))
        if chance.random() < 0.02:
            clock.advance(chance.choice([1, 30, 3600]) * SECOND)


def test_no_key_is_without_an_end(store: ValkeyStore, server: ValkeyServer, clock: SetClock) -> None:
    """Whatever happened: should nobody purge ever again, the server itself lets everything go."""
    live(store, clock, 1500)
    client = server.client()
    ends = {key: client.pttl(key) for key in client.scan_iter()}
    client.close()
    kinds = {key.split(b":")[3][:1] for key in ends}
    assert kinds == {b"s", b"b", b"d", b"r", b"l", b"k", b"t"}, "of every kind there are some to look at"
    longest = {b"k": valkey._KEY_MILLIS, b"b": 7 * 24 * HOUR + MINUTE}
    for key, ends_in in ends.items():
        assert 0 < ends_in <= longest.get(key.split(b":")[3][:1], RECEIPT_LIFETIME + 2 * HOUR), key


def test_keys_that_ended_are_not_made_anew(store: ValkeyStore, server: ValkeyServer) -> None:
    """A script that writes to a state which is gone would leave one behind that nothing removes."""
    row_id = RowId(b"n" * 32)
    for act in (store.reserve_try, store.return_try, store.wrong_try, store.peek, store.history):
        act(row_id)
    claim(store, row_id, LEASE)
    store.confirm(row_id, LEASE)
    store.burn(row_id, None)
    assert server.tell("DBSIZE") == 0


def test_body_goes_within_a_minute_although_nobody_purges(store: ValkeyStore, server: ValkeyServer) -> None:
    """By its TTL: when it expires, or when the last lease of its last view ends."""
    first, second = put(store, 1, views=1), put(store, 2)
    claim(store, second, LEASE)
    ends = {key[-1]: server.tell("PTTL", key) for key in server.keys("b")}
    assert HOUR - MINUTE < ends[first[-1]] <= HOUR + MINUTE
    assert LEASE_SECONDS * SECOND - MINUTE < ends[second[-1]] <= LEASE_SECONDS * SECOND + MINUTE
    assert ends[second[-1]] >= LEASE_SECONDS * SECOND - 5 * SECOND, "but not before"


def test_expired_message_is_refused_by_the_servers_own_clock(server: ValkeyServer) -> None:
    """Without a clock of the test: the scripts ask the server for the time."""
    server.tell("FLUSHALL")
    store = opened(server.url)
    assert abs(store.now() - time.time() * 1000) < 100
    row = real_row(store, 1, lifetime=300)
    store.put(row)
    assert store.peek(row.id)
    while store.now() <= row.expires_at:
        time.sleep(0.01)
    assert store.peek(row.id) is store.fetch(row.id, None) is claim(store, row.id) is None
    assert not store.burn(row.id, None)
    assert len(server.keys("b")) == 1
    assert store.purge(10) == Purged(1, 0, more=False)
    assert server.keys("b") == []
    store.close()


def test_telling_the_time_asks_the_server_only_every_few_seconds(server: ValkeyServer) -> None:
    store = opened(server.url)
    server.tell("CONFIG", "RESETSTAT")
    for _ in range(1000):
        store.now()
    assert server.tell("INFO", "commandstats")["cmdstat_time"]["calls"] == 1
    store.close()


def test_log_tells_of_a_refusal_once(store: ValkeyStore, server: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not with each of a thousand requests."""
    put(store)
    server.tell("CONFIG", "SET", "min-replicas-to-write", "1")
    for _ in range(20):
        with pytest.raises(StoreFailed):
            claim(store, new_row().id)
    assert caplog.text.count("refuses: NOREPLICAS") == 1
    server.tell("CONFIG", "SET", "min-replicas-to-write", "0")
    assert claim(store, new_row().id)


def test_counting_rewrites_no_body(store: ValkeyStore, server: ValkeyServer) -> None:
    """A megabyte is not sent about for a try, a view or a burn."""
    row_id = put(store, views=3, tries=MAX_TRIES, body=Sealed(bytes(1 << 20)))
    before = server.tell("INFO", "stats")
    store.reserve_try(row_id)
    store.wrong_try(row_id)
    claim(store, row_id, LEASE)
    claim(store, row_id)
    store.confirm(row_id, LEASE)
    store.burn(row_id, None)
    after = server.tell("INFO", "stats")
    moved = sum(after[name] - before[name] for name in ("total_net_input_bytes", "total_net_output_bytes"))
    assert moved < 30_000


# A server whose memory is full


def test_full_server_refuses_new_messages_and_nothing_else(clock: SetClock) -> None:
    """At `maxmemory`, below the quota: claims, leases, tries, burns and the purge go on, and nothing is dropped."""
    with ValkeyServer() as server:
        store = opened(server.url, clock)
        ids = [put(store, number, views=2, tries=MAX_TRIES, body=Sealed(bytes(5000))) for number in range(200)]
        server.tell("CONFIG", "SET", "maxmemory", server.tell("INFO", "memory")["used_memory"] - 100_000)
        with pytest.raises(StoreFull):
            put(store, 1000)
        assert store.history(new_row(1000).id) is None
        for row_id in ids:
            assert store.reserve_try(row_id)
            assert store.wrong_try(row_id) == 4
            assert claim(store, row_id, LEASE) == Claim(1)
            assert store.fetch(row_id, LEASE)
            assert store.peek(row_id)
        assert store.counts().stored == 200
        assert store.may_purge()
        assert store.same_key(KeyId("key"), b"verifier")
        assert [claim(store, row_id) for row_id in ids[:2]] == [Claim(0)] * 2
        assert all(store.confirm(row_id, LEASE) for row_id in ids[:2])
        with pytest.raises(StoreFull):
            put(store, 1000)
        assert store.burn(ids[2], None)
        clock.advance(HOUR)
        while store.purge(50).more:
            pass
        assert server.keys("b") == []
        put(store, 1000, expires_at=Millis(NOW + 2 * HOUR))
        store.close()


def test_full_store_is_no_failing_one(clock: SetClock) -> None:
    """Refused creates do not open the circuit for readers."""
    with ValkeyServer() as server:
        store = opened(server.url, clock)
        row_id = put(store)
        server.tell("CONFIG", "SET", "maxmemory", "1")
        for _ in range(10):
            with pytest.raises(StoreFull):
                put(store, 1)
        assert claim(store, row_id) == Claim(0)
        store.close()


def test_quota_is_looked_at_about_once_a_second(server: ValkeyServer, clock: SetClock) -> None:
    store = opened(server.url, clock, 2 << 20)
    server.tell("CONFIG", "RESETSTAT")
    began = time.monotonic()
    stored = 0
    with pytest.raises(StoreFull):
        for stored in range(10_000):
            put(store, stored, body=Sealed(bytes(1000)))
    for _ in range(50):
        with pytest.raises(StoreFull):
            put(store, 10_000, body=Sealed(bytes(1000)))
    # More often only just below the quota, until nothing that was guessed stands between.
    asked = server.tell("INFO", "commandstats")["cmdstat_info"]["calls"]
    assert asked <= 15 + 2 * (time.monotonic() - began)
    assert stored > 300
    store.close()


# Scripts, restarts, faults


def test_forgotten_scripts_are_sent_again(store: ValkeyStore, server: ValkeyServer) -> None:
    row_id = put(store, views=3)
    for act in (lambda: claim(store, row_id), lambda: store.purge(10), lambda: store.counts(), lambda: put(store, 1)):
        server.tell("SCRIPT", "FLUSH")
        act()
    history = store.history(row_id)
    assert history and len(history.openings) == 1


def await_service(store: ValkeyStore, row_id: RowId | None = None) -> float:
    """How long until the store answers; until then it fails, and in time."""
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            store.peek(row_id or RowId(bytes(32)))
            return time.monotonic() - began
        except StoreFailed:
            assert time.monotonic() - asked < IN_TIME
            assert time.monotonic() - began < 30
            time.sleep(0.01)


def test_store_starts_before_its_server_and_serves_within_two_seconds_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with ValkeyServer() as server:
        server.stop()
        store = opened(server.url, SetClock())
        assert caplog.text.count("does not answer yet") == 1
        assert store.durability == "memory"
        for act in (store.health, lambda: put(store), lambda: store.purge(10), store.counts, lambda: claim(store, new_row().id)):
            with pytest.raises(StoreFailed):
                act()
        server.start()
        assert await_service(store) < 2
        row_id = put(store)
        assert claim(store, row_id) == Claim(0)
        store.close()


def test_restarted_server_is_met_by_new_sessions_at_once(clock: SetClock) -> None:
    """What idles in the pool died with the server; nobody gets an error for it."""
    with ValkeyServer(appendonly="yes") as server:
        store = opened(server.url, clock)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: put(store, number), range(100)))
        server.restart()
        with ThreadPoolExecutor(8) as threads:
            claims = list(threads.map(lambda number: claim(store, new_row(number).id), range(100)))
        assert claims == [Claim(0)] * 100
        store.close()


def test_server_that_hangs_fails_calls_in_time_and_is_held_by_few_sessions(server: ValkeyServer, clock: SetClock) -> None:
    with FaultyProxy(("127.0.0.1", server.port)) as proxy:
        store = opened(proxy.url_of(server.url), clock)
        put(store)
        proxy.fault = "silent"
        held = []

        def timed(number: int) -> float:
            began = time.monotonic()
            with pytest.raises(StoreFailed):
                claim(store, new_row().id)
            return time.monotonic() - began

        with ThreadPoolExecutor(64) as threads:
            waiting = [threads.submit(timed, number) for number in range(64)]
            while not all(call.done() for call in waiting):
                held.append(proxy.connections)
                time.sleep(0.05)
            assert max(call.result() for call in waiting) < IN_TIME
        assert 8 < max(held) <= valkey_nodes.SESSIONS
        proxy.fault = None
        assert await_service(store) < 2
        store.close()


def test_lost_answer_is_not_asked_for_again(store: ValkeyStore, server: ValkeyServer, clock: SetClock) -> None:
    """The claim was heard. Sent once more, it would take another view."""
    with FaultyProxy(("127.0.0.1", server.port)) as proxy, ThreadPoolExecutor(1) as thread:
        by_proxy = opened(proxy.url_of(server.url), clock)
        row_id = put(by_proxy, views=9)
        claim(store, put(store, 1))  # so that the server knows the script, and does not answer only that
        proxy.fault = "silent"
        claiming = thread.submit(claim, by_proxy, row_id)
        while not openings(store, row_id):
            assert not claiming.done()
            time.sleep(0.001)
        proxy.fault = None
        proxy.cut_all()
        with pytest.raises(StoreFailed):
            claiming.result()
        assert openings(store, row_id) == 1
        by_proxy.close()


@pytest.mark.parametrize("fault", ["resetting", "dripping", "silent"])
def test_call_ends_in_time_whatever_the_peer_does(server: ValkeyServer, clock: SetClock, fault: Fault) -> None:
    with FaultyProxy(("127.0.0.1", server.port)) as proxy:
        store = opened(proxy.url_of(server.url), clock)
        row_id = put(store, views=9)
        proxy.fault = fault
        began = time.monotonic()
        with pytest.raises(StoreFailed), within(HURRY):
            claim(store, row_id)
        assert time.monotonic() - began < HURRY + 0.5
        proxy.fault = None
        assert await_service(store) < 2
        assert openings(store, row_id) <= 1
        store.close()


def openings(store: ValkeyStore, row_id: RowId) -> int:
    history = store.history(row_id)
    assert history
    return len(history.openings)


def test_request_without_time_says_nothing_about_the_server(store: ValkeyStore) -> None:
    """Others took it. The circuit stays closed for those that have some."""
    row_id = put(store)
    for _ in range(10):
        with pytest.raises(StoreFailed), within(0):
            claim(store, row_id)
    assert store.circuit == "closed"
    assert claim(store, row_id) == Claim(0)


def test_late_answer_is_nobody_elses(server: ValkeyServer, clock: SetClock) -> None:
    """After a timeout the session is closed: what comes late on it would be taken for the answer to the next question."""
    with FaultyProxy(("127.0.0.1", server.port), slow_seconds=HURRY + 0.3) as proxy:
        store = opened(proxy.url_of(server.url), clock)
        first, second = put(store, 1, body=Sealed(b"first")), put(store, 2, body=Sealed(b"second"))
        proxy.fault = "slow"
        with pytest.raises(StoreFailed), within(HURRY):
            store.fetch(first, None)
        proxy.fault = None
        for _ in range(100):
            found = store.fetch(second, None)
            assert found and found[1] == b"second"
            time.sleep(0.005)
        store.close()


def test_time_goes_on_while_the_machine_sleeps(server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.clock_gettime_ns

    def since_boot(clock: int) -> int:
        return real(clock) + (HOUR * 1_000_000 if clock == time.CLOCK_BOOTTIME else 0)

    store = opened(server.url)
    before = store.now()
    monkeypatch.setattr(time, "clock_gettime_ns", since_boot)
    assert HOUR <= store.now() - before < HOUR + 10 * SECOND
    store.close()


def test_node_that_purges_keeps_its_turn_and_another_takes_over_within_a_minute(server: ValkeyServer, clock: SetClock) -> None:
    nodes = [opened(server.url, clock) for _ in range(3)]
    for _ in range(3):
        assert [node.may_purge() for node in nodes] == [True, False, False]
        clock.advance(20 * SECOND)
    clock.advance(5 * SECOND)
    assert [node.may_purge() for node in nodes[1:]] == [True, False], "25 s of silence, 30 s until the next asks, 5 s for the purge"
    for node in nodes:
        node.close()


def test_address_that_hangs_takes_no_time_from_the_other_of_its_host(server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with deaf_port(server.port) as deaf:
        monkeypatch.setattr(sockets, "addresses_of", lambda host, port: [deaf, "127.0.0.1"])
        serves(opened(server.url.replace("127.0.0.1", "two.example")))


def test_name_that_is_not_resolved_in_time_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver may take longer than a call has, and cannot be interrupted."""
    given_up = threading.Event()

    def slow_resolver(*args: object, flags: int = 0, **options: object) -> list[object]:
        if flags == socket.AI_NUMERICHOST:
            raise socket.gaierror
        given_up.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow_resolver)
    began = time.monotonic()
    with within(HURRY):
        store = opened("valkey://valkey.example:6379", SetClock())
        with pytest.raises(StoreFailed):
            store.peek(RowId(bytes(32)))
    assert time.monotonic() - began < HURRY + 0.5
    given_up.set()
    store.close()


def act_until(stopped: threading.Event, store: ValkeyStore, seed: int, said: dict[RowId, list[str]]) -> None:
    """Put messages of two views and open them, each four times; what was acknowledged of each stands in `said`."""
    number = seed
    while not stopped.is_set():
        number += 1000
        try:
            row = real_row(store, number, views=2)
            store.put(row)
        except StoreFailed:
            stopped.wait(0.01)
            continue
        said[row.id] = ["put"]
        for reader in range(4):
            try:
                if store.claim(row.id, bytes([reader % 3]) * 32, LEASE_SECONDS) and reader < 3:
                    said[row.id].append("opened")
            except StoreFailed:
                said[row.id].append("unknown")


def check_kills(kills: int) -> None:
    """What was acknowledged before a SIGKILL is there after it, each view once, and leases go on."""
    said: dict[RowId, list[str]] = {}
    with ValkeyServer(appendonly="yes", appendfsync="always") as server:
        store = opened(server.url)
        assert store.durability == "disk"
        stopped = threading.Event()
        threads = [threading.Thread(target=act_until, args=(stopped, store, seed, said)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(kills):
            time.sleep(0.3)  # under load
            server.kill()
            server.start()
            assert await_service(store) < 2
        stopped.set()
        for thread in threads:
            thread.join()
        histories = {row_id: store.history(row_id) for row_id in said}
        store.close()
    for row_id, told in said.items():
        history = histories[row_id]
        assert history, "an acknowledged message was lost"
        opened_times, unknown = told.count("opened"), told.count("unknown")
        assert opened_times <= len(history.openings) <= min(2, opened_times + unknown)
        assert history.views_left == 2 - len(history.openings)
    assert sum("unknown" in told for told in said.values()) >= min(kills, 2), "some were under way when it was killed"


def test_nothing_acknowledged_is_lost_or_doubled_when_the_server_is_killed() -> None:
    check_kills(4)


@pytest.mark.long
def test_nothing_acknowledged_is_lost_or_doubled_in_100_kills() -> None:
    check_kills(100)


# A Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """One of this module's own, as some tests break it and mend it. It keeps its data, so that servers may be killed."""
    with ValkeyCluster(appendonly="yes") as running:
        yield running


Clustered = tuple[ValkeyStore, SetClock]


@pytest.fixture
def clustered(cluster: ValkeyCluster) -> Iterator[Clustered]:
    for server in cluster.servers:
        server.tell("FLUSHALL")
    clock = SetClock()
    store = opened(cluster.url, clock)
    yield store, clock
    store.close()


@pytest.fixture(scope="module")
def tls_cluster(authority: Authority) -> Iterator[ValkeyCluster]:
    with ValkeyCluster(authority) as running:
        yield running


@contextmanager
def configured(servers: list[ValkeyServer], **settings: str) -> Iterator[None]:
    """Servers with other settings, and afterwards with their own again."""
    names = {name.replace("_", "-"): value for name, value in settings.items()}
    before = [server.tell("CONFIG", "GET", *names) for server in servers]
    try:
        for server in servers:
            server.tell("CONFIG", "SET", *chain(*names.items()))
        yield
    finally:
        for server, told in zip(servers, before, strict=True):
            server.tell("CONFIG", "SET", *told)


def test_every_server_of_a_cluster_is_reached_by_mutual_tls(tls_cluster: ValkeyCluster, authority: Authority) -> None:
    store = opened_for("sealed", tls_cluster.url_with(authority, authority.client("mayfly")))
    now = store.now()
    for ids in ids_by_server(tls_cluster).values():
        store.put(new_row(id=ids[0], created_at=now, expires_at=Millis(now + HOUR)))
        assert claim(store, ids[0]) == Claim(0)
    store.close()
    refused("guarded", tls_cluster.url_with(authority), "cannot be used: ")
    with configured(tls_cluster.servers, tls_auth_clients="no"):
        serves(opened_for("guarded", tls_cluster.url_with(authority)))


def test_one_server_of_a_cluster_that_takes_clients_without_a_certificate_is_refused(
    tls_cluster: ValkeyCluster, authority: Authority
) -> None:
    with configured(tls_cluster.servers[2:], tls_auth_clients="no"):
        url = tls_cluster.url_with(authority, authority.client("mayfly"))
        refused("sealed", url, f":{tls_cluster.servers[2].port} cannot be used: it takes clients without a certificate")


def test_server_that_a_cluster_announces_by_a_name_that_its_certificate_has_not_is_refused(
    tls_cluster: ValkeyCluster, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can say where a shard is could lead us anywhere otherwise."""
    monkeypatch.setattr(sockets, "addresses_of", lambda host, port: ["127.0.0.1"])
    announced = {"cluster_announce_hostname": "elsewhere.example", "cluster_preferred_endpoint_type": "hostname"}
    with configured(tls_cluster.servers, **announced):
        deadline = time.monotonic() + 10
        while str(tls_cluster.servers[0].tell("CLUSTER", "SLOTS")).count("elsewhere.example") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        url = tls_cluster.url_with(authority, authority.client("mayfly"))
        refused("sealed", url, "cannot be used: its certificate is not accepted (Hostname mismatch")


def ids_by_server(cluster: ValkeyCluster) -> dict[int, list[RowId]]:
    """Row ids, one of each shard, by the number of the server that has them."""
    found: dict[int, list[RowId]] = {number: [] for number in range(len(cluster.servers))}
    ports = {server.plain_port: number for number, server in enumerate(cluster.servers)}
    ranges = next(server for server in cluster.running()).tell("CLUSTER", "SLOTS")
    for shard in range(valkey_nodes.SHARDS):
        slot = key_slot(b"%02x" % shard)
        port = next(primary[1] for first, last, primary, *_ in ranges if first <= slot <= last)
        found[ports[port]].append(in_shard(shard))
    return found


def restart(cluster: ValkeyCluster, number: int) -> None:
    """Start a server that was stopped. For 2 s it says that the Cluster is down, and serves only then."""
    cluster.servers[number].start()
    cluster.wait_until(lambda told: told["cluster_state"] == "ok" and told["cluster_slots_ok"] == "16384")


def test_messages_are_spread_over_the_servers(cluster: ValkeyCluster, clustered: Clustered) -> None:
    store, _ = clustered
    for number in range(256):
        put(store, number)
    shares = [len(server.keys("s")) for server in cluster.servers]
    assert sum(shares) == 256
    assert min(shares) > 60
    assert store.counts().stored == 256


def test_without_one_of_its_servers_the_others_go_on(cluster: ValkeyCluster, clustered: Clustered) -> None:
    """Its shards fail, in time and soon at once; the others are read, written, counted on and purged. With it all is back."""
    store, clock = clustered
    ids = ids_by_server(cluster)
    for row_id in chain(*ids.values()):
        store.put(new_row(id=row_id, views=2))
    # The one that keeps the turn to purge.
    lost = next(number for number in ids if in_shard(0) in ids[number])
    of_lost, others = ids.pop(lost), list(chain(*ids.values()))
    cluster.servers[lost].kill()
    for row_id in others:
        assert claim(store, row_id) == Claim(1)
    for row_id in of_lost:
        began = time.monotonic()
        with pytest.raises(StoreFailed):
            claim(store, row_id)
        assert time.monotonic() - began < 0.5
    put(store, 1000, id=in_shard(others[0][-1], 1))
    store.health()
    assert store.may_purge(), "twice rather than not at all"
    with pytest.raises(StoreFailed):
        store.counts()
    clock.advance(HOUR)
    removed = 0
    while removed < len(others) + 1:
        removed += store.purge(50).bodies
    with pytest.raises(StoreFailed):  # so that the log says that not all is purged
        store.purge(50)
    assert not any(server.keys("b") for server in cluster.running())
    restart(cluster, lost)
    assert await_service(store, of_lost[0]) < 2
    assert all(store.history(row_id) for row_id in of_lost)
    assert store.counts().expired == len(of_lost)
    while store.purge(50).more:
        pass
    assert store.counts().expired == 0


def test_server_that_refuses_to_write_does_not_keep_the_others_from_being_purged(
    cluster: ValkeyCluster, clustered: Clustered
) -> None:
    store, clock = clustered
    for number in range(256):
        put(store, number)
    cluster.servers[0].tell("CONFIG", "SET", "min-replicas-to-write", "1")
    clock.advance(HOUR)
    kept = len(cluster.servers[0].keys("b"))
    try:
        assert store.purge(256) == Purged(256 - kept, 0, more=True)
        with pytest.raises(StoreFailed):
            store.purge(256)
    finally:
        cluster.servers[0].tell("CONFIG", "SET", "min-replicas-to-write", "0")
    assert store.purge(256).bodies == kept


def test_server_that_hangs_takes_no_time_from_the_others(cluster: ValkeyCluster, clustered: Clustered) -> None:
    """It takes connections and does not answer: only its own messages wait for it, and those not for long."""
    store, clock = clustered
    ids = ids_by_server(cluster)
    for row_id in chain(*ids.values()):
        store.put(new_row(id=row_id, views=2))
    # The first that is asked whenever all are.
    hanging = min(range(3), key=lambda number: cluster.servers[number].port)
    of_hanging, others = ids.pop(hanging), list(chain(*ids.values()))
    cluster.servers[hanging].pause()
    try:
        with ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(claim, store, row_id) for row_id in of_hanging[:8]]
            for row_id in others:
                began = time.monotonic()
                assert claim(store, row_id) == Claim(1)
                assert time.monotonic() - began < 1
            store.health()
            clock.advance(HOUR)
            began = time.monotonic()
            assert store.purge(10).bodies == 10
            assert time.monotonic() - began < IN_TIME
            for claimed in waiting:
                with pytest.raises(StoreFailed):
                    claimed.result()
        at_once = 0
        for row_id in of_hanging[:20]:
            began = time.monotonic()
            with pytest.raises(StoreFailed):
                claim(store, row_id)
            at_once += time.monotonic() - began < 0.1
        assert at_once >= 15, "all but those that try whether it is back"
    finally:
        cluster.servers[hanging].resume()
    cluster.wait_until(lambda told: told["cluster_state"] == "ok" and told["cluster_slots_ok"] == "16384")
    assert await_service(store, of_hanging[0]) < 2


def test_store_starts_with_a_cluster_that_is_not_whole(cluster: ValkeyCluster, clustered: Clustered) -> None:
    ids = ids_by_server(cluster)
    cluster.servers[1].stop()
    store = opened(cluster.url, SetClock())
    put(store, id=ids[0][0])
    with pytest.raises(StoreFailed):
        put(store, id=ids[1][0])
    restart(cluster, 1)
    assert await_service(store, ids[1][0]) < 2
    put(store, id=ids[1][0])
    store.close()


def test_slot_that_moves_is_followed(cluster: ValkeyCluster, clustered: Clustered) -> None:
    """While it moves, its messages are refused at worst, and never doubled; then they are where the Cluster says."""
    store, _ = clustered
    shard = ids_by_server(cluster)[0][0][-1]
    slot = key_slot(b"%02x" % shard)
    source, target = cluster.servers[:2]
    names = [server.tell("CLUSTER", "MYID").decode() for server in (source, target)]
    ids = [in_shard(shard, number) for number in range(20)]
    for row_id in ids:
        store.put(new_row(id=row_id, views=2))
    assert claim(store, ids[0], LEASE) == Claim(1)
    target.tell("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
    source.tell("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
    while keys := source.tell("CLUSTER", "GETKEYSINSLOT", slot, 5):
        with suppress(StoreFailed):
            assert claim(store, ids[1], LEASE) == Claim(1)
        source.tell("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for server in (target, source):
        server.tell("CLUSTER", "SETSLOT", slot, "NODE", names[1])
    assert claim(store, ids[0], LEASE) == Claim(1)
    assert claim(store, ids[0]) == Claim(0)
    assert claim(store, ids[1], LEASE) == Claim(1)
    assert [claim(store, ids[1]) for _ in range(2)] == [Claim(0), None]
    for row_id in ids[2:]:
        assert [claim(store, row_id) for _ in range(3)] == [Claim(1), Claim(0), None]
    store.put(new_row(id=in_shard(shard, 99)))
    assert in_shard(shard, 99) in {key[-32:] for key in target.keys("s")}


@pytest.mark.long
def test_replica_that_takes_over_is_found() -> None:
    """Replicas follow a moment later: what was acknowledged in that moment may be lost. What they had is served on."""
    with ValkeyCluster() as cluster:
        replica = cluster.add_replica(cluster.servers[0])
        store = opened(cluster.url, SetClock())
        ids = ids_by_server(cluster)[0]
        for row_id in ids:
            store.put(new_row(id=row_id))
        assert cluster.servers[0].tell("WAIT", 1, 5000) == 1
        cluster.servers[0].kill()
        while replica.tell("ROLE")[0] != b"master":
            time.sleep(0.02)
        assert await_service(store, ids[0]) < 2
        assert [claim(store, row_id) for row_id in ids] == [Claim(0)] * len(ids)
        store.close()
