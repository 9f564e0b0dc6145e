"""Messages in Valkey, or in Redis 7: on one server, or spread over a Cluster.

One script an operation (`valkey_scripts`), sent once (`valkey_nodes`): the server decides by its own clock, and nobody comes
between its reading and its writing. Bodies and states are keys of their own: a state is small and stays for the receipt; a body
is never rewritten, and goes by its own TTL, should no purge run.

What is promised here ends where the servers' promises end. Replicas follow a moment later: when a primary is lost and a replica
takes over, what happened in its last moment may be undone, and a message be lost, or opened a second time. `durability` is `disk`
only if every primary says that it syncs its append-only file before it answers.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from errors import StoreFailed, StoreFull
from records import PURGE_TURN, Circuit, Claim, Counts, Ended, KeyId, Millis, NewRow, Purged, Row, RowId, Sealed
from storage import valkey_scripts as scripts
from storage.address import Address
from storage.clocks import CLOCK_SECONDS, since_boot_ms
from storage.deadline import CALL_SECONDS, seconds_left, within
from storage.valkey_nodes import SHARDS, Nodes, one_call
from storage.valkey_scripts import Script

_MEASURE_SECONDS = 1.0
"""How long the measured memory is believed, with what this process put in since added to it."""

_ROW_BYTES = 1000
"""The most that a message takes beside its body (measured: 670), of which the server's memory takes up to a quarter more."""

_KEY_MILLIS = 400 * 24 * 3600 * 1000
"""How long the verifier of a key is kept from its last check: longer than a server runs without a restart."""

_SLICE_ROWS = 500  # keys and values of a script pass over Lua's stack

_log = logging.getLogger("mayfly.storage")


class ValkeyStore:
    """A store on Valkey or Redis."""

    def __init__(self, address: Address, quota_bytes: int, now: Callable[[], Millis] | None = None) -> None:
        """Connect to `address`; `now` replaces the servers' clock.

        A server at which nothing listens yet is waited for: until then every call raises StoreFailed. Raises StartRefused if the
        session cannot be made, the server is older than Redis 7, drops messages when it is full, or (where the address has a client
        certificate) takes clients without one.
        """
        self.durability: Literal["memory", "disk"] = "memory"
        self._nodes = Nodes(address)
        self._now = now
        self._clock_offset = 0.0
        self._clock_read_at = -CLOCK_SECONDS
        self._quota_bytes = quota_bytes
        self._used_bytes = 0
        self._added_bytes = 0
        self._measured_at = -_MEASURE_SECONDS
        self._measuring = threading.Lock()
        self._token = os.urandom(16)
        try:
            self._nodes.greet()
            self._measure()
        except StoreFailed:
            at = address.socket or f"{address.host}:{address.port}"
            _log.warning("%s does not answer yet, not as a whole: what is kept there can be used as soon as it does", at)

    @property
    def circuit(self) -> Circuit:
        return self._nodes.circuit

    def now(self) -> Millis:
        """The time of the servers, measured anew every few seconds. Of a Cluster it is that of any one of them.

        A message begins by this time and ends by that of the server that has it: it lives so much longer or shorter as those two
        differ (decision 0011).
        """
        if self._now:
            return self._now()
        if time.monotonic() - self._clock_read_at >= CLOCK_SECONDS:
            asked = since_boot_ms()
            seconds, micros = self._nodes.ask_any(lambda _: ("TIME",))
            self._clock_offset = int(seconds) * 1000 + int(micros) / 1000 - (asked + since_boot_ms()) / 2
            self._clock_read_at = time.monotonic()
        return Millis(int(since_boot_ms() + self._clock_offset))

    def close(self) -> None:
        try:
            self._nodes.run(scripts.LEAVE_TURN, 0, [_TURN], self._at(), self._token)
        except StoreFailed:
            _log.debug("the turn to purge was not given back: it lapses")
        self._nodes.close()

    # The life of a message

    def put(self, row: NewRow) -> None:
        state: list[bytes | int | str] = [b"receipt", row.receipt]
        for name, value in (("views", row.views), ("tries", row.tries), ("proof", row.proof)):
            if value is not None:
                state += [name, value]
        with one_call():
            self._check_room(len(row.body))
            if not self._run(scripts.PUT, row.id, row.expires_at, row.created_at, row.body, *state):
                raise StoreFailed

    def peek(self, row_id: RowId) -> Row | None:
        found = self._run(scripts.PEEK, row_id)
        return found and _row(row_id, found)

    def fetch(self, row_id: RowId, lease: bytes | None) -> tuple[Row, Sealed] | None:
        found = self._run(scripts.FETCH, row_id, *_given(lease))
        return found and (_row(row_id, found), Sealed(found[8]))

    def history(self, row_id: RowId) -> Row | None:
        found = self._run(scripts.HISTORY, row_id)
        return found and _row(row_id, found)

    def claim(self, row_id: RowId, lease: bytes | None, lease_seconds: int) -> Claim | None:
        taken = self._run(scripts.CLAIM, row_id, lease_seconds * 1000, *_given(lease))
        return None if taken is None else Claim(taken[0] if taken else None, repeated=len(taken) > 1)

    def confirm(self, row_id: RowId, lease: bytes) -> bool:
        return bool(self._run(scripts.CONFIRM, row_id, lease))

    def burn(self, row_id: RowId, receipt: bytes | None) -> bool:
        return bool(self._run(scripts.BURN, row_id, *_given(receipt)))

    # Tries of a passphrase

    def reserve_try(self, row_id: RowId) -> bool:
        return bool(self._run(scripts.RESERVE_TRY, row_id))

    def return_try(self, row_id: RowId) -> None:
        self._run(scripts.RETURN_TRY, row_id)

    def wrong_try(self, row_id: RowId) -> int:
        return int(self._run(scripts.WRONG_TRY, row_id))

    # The purge

    def purge(self, slice_rows: int) -> Purged:
        """As the contract says, on every shard that can be reached. Raises StoreFailed when only others have something due."""
        bodies = receipts = leases = 0
        with one_call():
            with within(CALL_SECONDS / 2):  # a server that hangs takes no more of it from the others
                counted = self._nodes.run_on_all(scripts.SHARD_COUNTS, _indexes, self._at())
            due = {shard: sum(counts[1:4]) for shard, counts in counted.items() if any(counts[1:4])}
            lost = len(counted) < SHARDS
            for shard in due:
                left = slice_rows - bodies - receipts
                if left <= 0:
                    break
                try:
                    purged = self._purge_shard(shard, min(left, _SLICE_ROWS))
                except StoreFailed:
                    lost = True
                    continue
                bodies, receipts, leases = bodies + purged[0], receipts + purged[1], leases + purged[2]
        if bodies or receipts:
            self._measured_at = -_MEASURE_SECONDS
        elif lost and not leases:
            raise StoreFailed
        return Purged(bodies, receipts, more=sum(due.values()) > bodies + receipts + leases)

    def _purge_shard(self, shard: int, most: int) -> tuple[int, int, int]:
        indexes = _indexes(shard)
        members: list[bytes] = self._nodes.run(scripts.SHARD_DUE, shard, indexes, self._at(), most)
        rows = [member for member in members if len(member) == 32][:most]
        leases = [member for member in members if len(member) > 32]
        keys = [key for member in rows + leases for key in _keys(RowId(member[:32]))]
        bodies, receipts = self._nodes.run(scripts.PURGE, shard, [*indexes, *keys], self._at(), *rows, *leases)
        return bodies, receipts, len(leases)

    def tidy(self) -> None:
        """Nothing: what deletion leaves is in the server's memory and its append-only file, which only the server rewrites."""

    def may_purge(self) -> bool:
        try:
            return bool(self._nodes.run(scripts.TAKE_TURN, 0, [_TURN], self._at(), self._token, PURGE_TURN))
        except StoreFailed:  # the server that keeps the turn is lost: two may purge what the others have, nobody must not
            return True

    # Keys, counts, faults

    def same_key(self, key_id: KeyId, verifier: bytes) -> bool:
        key = b"%skey:%s" % (_shard_prefix(0), key_id.encode())
        return bool(self._nodes.run(scripts.REMEMBER, 0, [key], self._at(), verifier, _KEY_MILLIS))

    def health(self) -> None:
        """As the contract says. A Cluster is taken for well as long as one of its servers answers for shards of its own."""
        self._nodes.ask_any(lambda shard: ("EXISTS", _indexes(shard)[0]))

    def counts(self) -> Counts:
        with one_call():
            counted = self._nodes.run_on_all(scripts.SHARD_COUNTS, _indexes, self._at())
            if len(counted) < SHARDS:
                raise StoreFailed
            self._measure()
        all_bodies, due = (sum(counts[n] for counts in counted.values()) for n in (0, 1))
        overdue = max(counts[4] for counts in counted.values())
        return Counts(all_bodies - due, due, self._used_bytes, self._quota_bytes, Millis(overdue))

    def _check_room(self, body_bytes: int) -> None:
        """Raise StoreFull at the quota. What was put in since the last measurement is guessed; nobody is refused for a guess."""
        most = body_bytes * 5 // 4 + _ROW_BYTES

        def fits() -> bool:
            return self._used_bytes + self._added_bytes + most <= self._quota_bytes

        def must_measure() -> bool:
            return time.monotonic() - self._measured_at >= _MEASURE_SECONDS or (self._added_bytes > 0 and not fits())

        # One asks for all: whoever finds it asking goes by what is known, or waits if that would refuse.
        if must_measure() and self._measuring.acquire(timeout=0 if fits() else seconds_left()):
            try:
                if must_measure():
                    self._measure()
            finally:
                self._measuring.release()
        if not fits():
            raise StoreFull
        self._added_bytes += most

    def _measure(self) -> None:
        """Ask all servers how much they hold beyond what they start with."""
        told = self._nodes.ask_each("INFO", "memory")
        if not told:
            raise StoreFailed
        self._used_bytes = sum(_number(info, b"used_memory") - _number(info, b"used_memory_startup") for info in told)
        self._added_bytes = 0
        self._measured_at = time.monotonic()
        self.durability = "disk" if self._nodes.durable else "memory"

    def _run(self, script: Script, row_id: RowId, *values: bytes | int | str) -> Any:
        shard = row_id[-1]
        return self._nodes.run(script, shard, [*_indexes(shard), *_keys(row_id)], self._at(), row_id, *values)

    def _at(self) -> int | bytes:
        """The time for a script: that of the clock that was handed in, or nothing."""
        return self._now() if self._now else b""


def _shard_prefix(shard: int) -> bytes:
    return b"mayfly:1:{%02x}:" % shard


_TURN = _shard_prefix(0) + b"turn"


def _indexes(shard: int) -> list[bytes]:
    prefix = _shard_prefix(shard)
    return [prefix + b"due", prefix + b"receipts", prefix + b"leases"]


def _keys(row_id: RowId) -> list[bytes]:
    prefix = _shard_prefix(row_id[-1])
    return [prefix + b"s" + row_id, prefix + b"b" + row_id]


def _given(value: bytes | None) -> list[bytes]:
    return [] if value is None else [value]


def _number(info: bytes, name: bytes) -> int:
    return int(info.partition(name + b":")[2].partition(b"\r")[0])


def _row(row_id: RowId, found: list[Any]) -> Row:
    receipt, created_at, expires_at, views, tries, proof, openings, ended = found[:8]
    times = tuple(Millis(int(at)) for at in (openings or b"").split(b",")[:-1])
    how: Ended | None = ended and ended.decode()
    return Row(
        row_id,
        receipt,
        Millis(int(created_at)),
        Millis(int(expires_at)),
        None if views is None else int(views),
        None if tries is None else int(tries),
        proof,
        times,
        how,
    )
