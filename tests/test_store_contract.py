"""What every store promises, on each of them. Time is a number that the test sets."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from database import MessageStore
from errors import StoreFailed, StoreFull
from records import MAX_OPENINGS, MAX_TRIES, RECEIPT_LIFETIME, SECOND, Claim, KeyId, Millis, Purged, RowId, Sealed
from tests.serving import PROJECT
from tests.stores import (
    HOUR,
    LEASE,
    LEASE_SECONDS,
    NOW,
    OTHER_LEASE,
    SHARED_STORES,
    STORES,
    Place,
    SetClock,
    claim,
    new_place,
    new_row,
    put,
    race,
)


@dataclass
class Case:
    """A store under test, where it keeps its messages, and its clock."""

    store: MessageStore
    place: Place
    clock: SetClock

    def another(self) -> MessageStore:
        """A second store with the same messages; on memory there is only the one."""
        return self.place.open(self.clock)


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from _made(request.param, tmp_path)


def _made(name: str, folder: Path) -> Iterator[Place]:
    place = new_place(name, folder)
    yield place
    place.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(place: Place, clock: SetClock) -> MessageStore:
    return place.open(clock)


@pytest.fixture
def case(store: MessageStore, place: Place, clock: SetClock) -> Case:
    return Case(store, place, clock)


# Put, peek, fetch, history


def test_stored_message_is_found_whole(store: MessageStore) -> None:
    body = Sealed(bytes(range(256)) * 200)
    row_id = put(store, views=3, tries=MAX_TRIES, proof=bytes(range(32)), body=body)
    row = store.peek(row_id)
    assert row is not None
    assert (row.id, row.receipt, row.proof) == (row_id, bytes(32), bytes(range(32)))
    assert (row.created_at, row.expires_at, row.views_left, row.tries_free) == (NOW, NOW + HOUR, 3, MAX_TRIES)
    assert (row.openings, row.ended) == ((), None)
    assert store.fetch(row_id, None) == (row, body)
    assert store.history(row_id) == row


def test_what_was_never_stored_is_not_there(store: MessageStore) -> None:
    put(store)
    none = RowId(b"n" * 32)
    assert (
        store.peek(none)
        is store.fetch(none, None)
        is store.history(none)
        is claim(store, none)
        is claim(store, none, LEASE)
        is None
    )
    assert not store.confirm(none, LEASE)
    assert not store.reserve_try(none)
    assert not store.burn(none, None)
    store.return_try(none)
    assert store.wrong_try(none) == 0
    assert store.counts().stored == 1


def test_second_message_of_one_id_is_refused_and_the_first_stays(store: MessageStore) -> None:
    row_id = put(store)
    with pytest.raises(StoreFailed):
        put(store, body=Sealed(b"another"))
    found = store.fetch(row_id, None)
    assert found and found[1] == b"body 0"
    assert store.counts().stored == 1


# Claims


def test_last_view_takes_the_body_with_it(store: MessageStore, place: Place) -> None:
    row_id = put(store, views=2)
    assert claim(store, row_id) == Claim(1)
    assert store.fetch(row_id, None)
    assert claim(store, row_id) == Claim(0)
    assert claim(store, row_id) is store.peek(row_id) is store.fetch(row_id, None) is None
    history = store.history(row_id)
    assert history is not None
    assert (history.ended, history.views_left) == ("spent", 0)
    assert place.bodies() == 0


def test_openings_are_remembered_in_order(store: MessageStore, clock: SetClock) -> None:
    row_id = put(store, views=2)
    claim(store, row_id)
    clock.advance(1234)
    claim(store, row_id)
    history = store.history(row_id)
    assert history and history.openings == (NOW, NOW + 1234)


def test_only_the_newest_openings_are_kept(store: MessageStore, clock: SetClock) -> None:
    row_id = put(store, views=None)
    for _ in range(MAX_OPENINGS + 5):
        clock.advance(1)
        claim(store, row_id)
    row = store.peek(row_id)
    assert row and row.openings == tuple(range(NOW + 6, NOW + MAX_OPENINGS + 6))


def test_message_without_a_limit_takes_no_lease(store: MessageStore, place: Place) -> None:
    """Nothing of it is used up, so nothing has to be kept for a reader who comes again."""
    row_id = put(store, views=None)
    assert [claim(store, row_id, lease) for lease in (None, LEASE, LEASE)] == [Claim(None)] * 3
    assert place.leases() == []
    assert not store.confirm(row_id, LEASE)
    assert store.peek(row_id)


def test_lease_repeats_its_claim_and_tells_the_same_number(store: MessageStore) -> None:
    row_id = put(store, views=3)
    assert claim(store, row_id, LEASE) == Claim(2)
    assert claim(store, row_id) == Claim(1)
    assert claim(store, row_id, LEASE) == Claim(2)
    assert claim(store, row_id, OTHER_LEASE) == Claim(0)
    assert claim(store, row_id, LEASE) == Claim(2)
    assert claim(store, row_id, OTHER_LEASE) == Claim(0)
    history = store.history(row_id)
    assert history and len(history.openings) == 3


def test_last_view_under_a_lease_is_its_holders_alone(store: MessageStore) -> None:
    row_id = put(store)
    assert claim(store, row_id, LEASE) == Claim(0)
    assert store.peek(row_id) is store.fetch(row_id, None) is store.fetch(row_id, OTHER_LEASE) is None
    assert claim(store, row_id) is claim(store, row_id, OTHER_LEASE) is None
    found = store.fetch(row_id, LEASE)
    assert found and found[1] == b"body 0"
    assert claim(store, row_id, LEASE) == Claim(0)


def test_lease_of_one_message_opens_no_other(store: MessageStore) -> None:
    first, second = put(store, 1), put(store, 2)
    claim(store, first, LEASE)
    claim(store, second, OTHER_LEASE)
    assert store.fetch(second, LEASE) is claim(store, second, LEASE) is None
    assert not store.confirm(second, LEASE)


def test_lease_ends_to_the_millisecond(store: MessageStore, clock: SetClock) -> None:
    row_id = put(store)
    claim(store, row_id, LEASE)
    clock.advance(LEASE_SECONDS * SECOND - 1)
    assert store.fetch(row_id, LEASE)
    assert claim(store, row_id, LEASE) == Claim(0)
    clock.advance(1)
    assert store.fetch(row_id, LEASE) is claim(store, row_id, LEASE) is None
    assert not store.confirm(row_id, LEASE)


def test_lease_is_not_prolonged_by_its_use(store: MessageStore, clock: SetClock) -> None:
    row_id = put(store)
    for _ in range(3):
        assert claim(store, row_id, LEASE)
        clock.advance(LEASE_SECONDS * SECOND // 3)
    assert claim(store, row_id, LEASE) is None


def test_after_its_lease_a_reader_takes_another_view(store: MessageStore, clock: SetClock) -> None:
    row_id = put(store, views=2)
    assert claim(store, row_id, LEASE) == Claim(1)
    clock.advance(LEASE_SECONDS * SECOND)
    assert claim(store, row_id, LEASE) == Claim(0)
    assert claim(store, row_id, LEASE) == Claim(0)
    clock.advance(LEASE_SECONDS * SECOND)
    assert claim(store, row_id, LEASE) is None


def test_lease_ends_with_the_message(store: MessageStore, clock: SetClock, place: Place) -> None:
    """At min(lease, expires_at)."""
    row_id = put(store)
    clock.at = Millis(NOW + HOUR - 5)
    assert claim(store, row_id, LEASE) == Claim(0)
    assert place.leases() == [NOW + HOUR]
    clock.advance(4)
    assert store.fetch(row_id, LEASE)
    assert claim(store, row_id, LEASE) == Claim(0)
    clock.advance(1)
    assert store.fetch(row_id, LEASE) is claim(store, row_id, LEASE) is None


# Confirming


def test_confirming_the_last_view_removes_the_body_at_once(store: MessageStore, place: Place) -> None:
    row_id = put(store)
    claim(store, row_id, LEASE)
    assert not store.confirm(row_id, OTHER_LEASE)
    assert store.fetch(row_id, LEASE)
    assert store.confirm(row_id, LEASE)
    assert store.fetch(row_id, LEASE) is claim(store, row_id, LEASE) is None
    assert not store.confirm(row_id, LEASE)
    assert place.bodies() == 0
    history = store.history(row_id)
    assert history and history.ended == "spent"


def test_confirming_leaves_the_views_of_others(store: MessageStore) -> None:
    row_id = put(store, views=2)
    claim(store, row_id, LEASE)
    assert store.confirm(row_id, LEASE)
    assert claim(store, row_id) == Claim(0)


def test_body_stays_until_the_last_lease_is_confirmed(store: MessageStore, place: Place) -> None:
    row_id = put(store, views=2)
    claim(store, row_id, LEASE)
    claim(store, row_id, OTHER_LEASE)
    assert store.confirm(row_id, LEASE)
    assert store.fetch(row_id, LEASE) is None
    assert store.fetch(row_id, OTHER_LEASE)
    assert store.confirm(row_id, OTHER_LEASE)
    assert place.bodies() == 0


def test_last_view_without_a_lease_leaves_the_lease_of_another(store: MessageStore, clock: SetClock) -> None:
    row_id = put(store, views=2)
    claim(store, row_id, LEASE)
    clock.advance(1000)
    assert claim(store, row_id) == Claim(0)
    assert store.fetch(row_id, LEASE)
    clock.advance(LEASE_SECONDS * SECOND - 1000)
    assert store.purge(10).bodies == 1


def test_last_view_after_a_confirmed_lease_takes_the_body_with_it(store: MessageStore, place: Place) -> None:
    """At once, although that lease would have lasted longer."""
    row_id = put(store, views=2)
    claim(store, row_id, LEASE)
    assert store.confirm(row_id, LEASE)
    assert claim(store, row_id) == Claim(0)
    assert place.bodies() == 0
    history = store.history(row_id)
    assert history and history.ended == "spent"


def test_body_goes_with_the_lease_that_is_left_when_a_longer_one_was_confirmed(store: MessageStore, clock: SetClock) -> None:
    row_id = put(store, views=2)
    claim(store, row_id, LEASE)
    clock.advance(20 * SECOND)
    claim(store, row_id, OTHER_LEASE)
    assert store.confirm(row_id, OTHER_LEASE)
    clock.advance(LEASE_SECONDS * SECOND - 20 * SECOND - 1)
    assert store.fetch(row_id, LEASE)
    assert store.purge(10).bodies == 0
    clock.advance(1)
    assert store.purge(10).bodies == 1


# Tries of a passphrase


def test_tries_are_reserved_up_to_five_and_given_back(store: MessageStore) -> None:
    row_id = put(store, tries=MAX_TRIES)
    assert [store.reserve_try(row_id) for _ in range(6)] == [True] * 5 + [False]
    store.return_try(row_id)
    assert [store.reserve_try(row_id) for _ in range(2)] == [True, False]


def test_no_more_tries_come_back_than_there_were(store: MessageStore) -> None:
    row_id = put(store, tries=MAX_TRIES)
    for _ in range(3):
        store.return_try(row_id)
    assert [store.reserve_try(row_id) for _ in range(6)].count(True) == MAX_TRIES


def test_fifth_wrong_try_destroys_the_message(store: MessageStore, place: Place) -> None:
    row_id = put(store, tries=MAX_TRIES, views=None)
    for left in (4, 3, 2, 1, 0):
        assert store.reserve_try(row_id)
        assert store.peek(row_id)
        assert store.wrong_try(row_id) == left
    assert store.peek(row_id) is store.fetch(row_id, None) is claim(store, row_id) is None
    assert not store.reserve_try(row_id)
    assert store.wrong_try(row_id) == 0
    store.return_try(row_id)
    history = store.history(row_id)
    assert history and history.ended == "locked"
    assert place.bodies() == 0


def test_tries_that_a_killed_process_had_reserved_come_back_after_a_minute(store: MessageStore, clock: SetClock) -> None:
    """But not those that were wrong, and none sooner."""
    row_id = put(store, tries=MAX_TRIES)
    assert all(store.reserve_try(row_id) for _ in range(MAX_TRIES))
    for _ in range(2):
        store.wrong_try(row_id)
    clock.advance(60 * SECOND - 1)
    assert not store.reserve_try(row_id)
    clock.advance(1)
    assert [store.reserve_try(row_id) for _ in range(4)] == [True] * 3 + [False]
    for _ in range(5):
        store.return_try(row_id)
    assert [store.reserve_try(row_id) for _ in range(4)] == [True] * 3 + [False]
    assert [store.wrong_try(row_id) for _ in range(3)] == [2, 1, 0]


def test_message_without_a_passphrase_has_no_tries(store: MessageStore) -> None:
    row_id = put(store)
    store.return_try(row_id)
    assert not store.reserve_try(row_id)


def test_lease_holder_has_tries_after_the_last_view(store: MessageStore) -> None:
    """A repeated opening checks the passphrase again."""
    row_id = put(store, tries=MAX_TRIES)
    claim(store, row_id, LEASE)
    assert store.reserve_try(row_id)


# Burning


def test_only_its_own_receipt_burns_a_message(store: MessageStore) -> None:
    first, second = put(store, 1), put(store, 2)
    for wrong in (b"\x02" * 32, b"", b"\x01" * 31, b"\x01" * 33):
        assert not store.burn(first, wrong)
    assert store.peek(first)
    assert store.burn(first, b"\x01" * 32)
    assert not store.burn(first, b"\x01" * 32)
    assert store.peek(first) is claim(store, first) is None
    assert store.peek(second)
    history = store.history(first)
    assert history and history.ended == "burned"


def test_takedown_needs_no_receipt(store: MessageStore) -> None:
    row_id = put(store, views=None)
    assert store.burn(row_id, None)
    assert store.peek(row_id) is None


def test_burning_ends_leases(store: MessageStore) -> None:
    row_id = put(store)
    claim(store, row_id, LEASE)
    assert store.burn(row_id, bytes(32))
    assert store.fetch(row_id, LEASE) is claim(store, row_id, LEASE) is None
    assert not store.confirm(row_id, LEASE)


# Expiry

AT_EXPIRY: dict[str, Callable[[MessageStore, RowId], object]] = {
    "peek": lambda store, row_id: store.peek(row_id),
    "fetch": lambda store, row_id: store.fetch(row_id, None),
    "fetch under a lease": lambda store, row_id: store.fetch(row_id, LEASE),
    "claim": lambda store, row_id: claim(store, row_id),
    "claim with a new lease": lambda store, row_id: claim(store, row_id, OTHER_LEASE),
    "claim under a lease": lambda store, row_id: claim(store, row_id, LEASE),
    "confirm": lambda store, row_id: store.confirm(row_id, LEASE),
    "reserve_try": lambda store, row_id: store.reserve_try(row_id),
    "burn": lambda store, row_id: store.burn(row_id, bytes(32)),
    "takedown": lambda store, row_id: store.burn(row_id, None),
}


@pytest.mark.parametrize("views", [5, None])
@pytest.mark.parametrize("name", AT_EXPIRY)
def test_message_is_there_until_expires_at_and_not_a_millisecond_longer(case: Case, name: str, views: int | None) -> None:
    """No purge runs here: each statement refuses by itself."""
    act = AT_EXPIRY[name]
    before, after = (put(case.store, number, views=views, tries=MAX_TRIES, receipt=bytes(32)) for number in (1, 2))
    case.clock.at = Millis(NOW + HOUR - 10)
    claim(case.store, before, LEASE)
    claim(case.store, after, LEASE)
    case.clock.at = Millis(NOW + HOUR - 1)
    if not (name == "confirm" and views is None):
        assert act(case.store, before)
    case.clock.at = Millis(NOW + HOUR)
    assert not act(case.store, after)
    assert case.place.bodies() >= 1


# The purge


def test_purge_removes_expired_bodies_at_expires_at_and_no_others(store: MessageStore, clock: SetClock) -> None:
    put(store, 1)
    later = put(store, 2, expires_at=Millis(NOW + HOUR + 1))
    clock.at = Millis(NOW + HOUR - 1)
    assert store.purge(10) == Purged(0, 0, more=False)
    clock.advance(1)
    assert store.purge(10) == Purged(1, 0, more=False)
    assert store.purge(10) == Purged(0, 0, more=False)
    assert store.peek(later)
    history = store.history(new_row(1).id)
    assert history and history.ended == "expired"


def test_purge_goes_in_slices(store: MessageStore, clock: SetClock) -> None:
    for number in range(25):
        put(store, number)
    clock.advance(HOUR)
    assert [store.purge(10) for _ in range(4)] == [
        Purged(10, 0, more=True),
        Purged(10, 0, more=True),
        Purged(5, 0, more=False),
        Purged(0, 0, more=False),
    ]


def test_purge_removes_a_used_up_body_when_its_last_lease_ends(store: MessageStore, clock: SetClock) -> None:
    row_id = put(store, views=2)
    claim(store, row_id, LEASE)
    clock.advance(10 * SECOND)
    claim(store, row_id, OTHER_LEASE)
    clock.advance(LEASE_SECONDS * SECOND - 1)
    assert store.purge(10).bodies == 0
    assert store.fetch(row_id, OTHER_LEASE)
    clock.advance(1)
    assert store.purge(10).bodies == 1
    history = store.history(row_id)
    assert history and history.ended == "spent"


def test_purge_leaves_a_message_whose_lease_ended_but_has_views(store: MessageStore, clock: SetClock, place: Place) -> None:
    row_id = put(store, views=2)
    claim(store, row_id, LEASE)
    clock.advance(LEASE_SECONDS * SECOND)
    assert store.purge(10).bodies == 0
    assert place.leases() == []
    assert claim(store, row_id) == Claim(0)


@pytest.mark.parametrize("end", ["opened", "burned", "locked", "expired"])
def test_history_stays_eight_days_from_creation_and_then_goes(case: Case, end: str) -> None:
    """Out of sight to the millisecond, and out of the table with the next purge. The proof goes before, with the body."""
    store = case.store
    row_id = put(store, tries=MAX_TRIES, proof=bytes(range(32)))
    if end == "opened":
        claim(store, row_id)
    elif end == "burned":
        store.burn(row_id, None)
    elif end == "locked":
        for _ in range(5):
            store.wrong_try(row_id)
    case.clock.advance(HOUR)
    store.purge(10)
    case.clock.at = Millis(NOW + RECEIPT_LIFETIME - 1)
    assert store.purge(10) == Purged(0, 0, more=False)
    history = store.history(row_id)
    assert history and history.ended == {"opened": "spent"}.get(end, end)
    assert history.proof is None
    case.clock.advance(1)
    assert store.history(row_id) is None
    assert store.purge(10) == Purged(0, 1, more=False)
    assert case.place.states() == 0


def test_nothing_outlives_eight_days_even_if_no_purge_ran_before(store: MessageStore, clock: SetClock, place: Place) -> None:
    row_id = put(store)
    clock.advance(RECEIPT_LIFETIME)
    assert store.history(row_id) is None
    store.purge(10)
    store.purge(10)
    assert (place.states(), place.bodies()) == (0, 0)


# Counts, keys, quota


def test_counts_tell_readable_from_expired_messages(store: MessageStore, clock: SetClock) -> None:
    empty = store.counts()
    for number in range(3):
        put(store, number, body=Sealed(bytes(500_000)))
    put(store, 3, expires_at=Millis(NOW + 1))
    claim(store, new_row(0).id)
    clock.advance(1)
    counts = store.counts()
    assert (counts.stored, counts.expired) == (2, 1)
    assert counts.used_bytes >= empty.used_bytes + 500_000
    store.purge(10)
    counts = store.counts()
    assert (counts.stored, counts.expired) == (2, 0)
    assert counts.quota_bytes == 64 << 20


def test_counts_tell_how_long_the_purge_is_overdue(store: MessageStore, clock: SetClock) -> None:
    """By the row that waits longest, of a message or of a receipt alone."""
    assert store.counts().overdue == 0
    put(store, 0, expires_at=Millis(NOW + 1000))
    put(store, 1, expires_at=Millis(NOW + 5000))
    assert store.counts().overdue == 0
    clock.advance(8000)
    assert store.counts().overdue == 7000
    store.purge(10)
    assert store.counts().overdue == 0
    clock.advance(RECEIPT_LIFETIME - 8000 + 500)
    assert store.counts().overdue == 500
    store.purge(10)
    assert store.counts().overdue == 0


def test_claim_tells_whether_it_is_a_repetition(store: MessageStore) -> None:
    row_id = put(store, views=3)
    free = put(store, 1, views=None)
    claims = [claim(store, row_id, lease) for lease in (None, LEASE, LEASE, OTHER_LEASE, OTHER_LEASE)]
    claims += [claim(store, free, LEASE) for _ in range(2)]
    assert [taken and taken.repeated for taken in claims] == [False, False, True, False, True, False, False]


def test_key_is_the_same_until_its_verifier_differs(case: Case) -> None:
    one, other = KeyId("one"), KeyId("other")
    assert case.store.same_key(one, b"a")
    assert case.store.same_key(other, b"b")
    assert case.store.same_key(one, b"a")
    assert not case.store.same_key(one, b"b")
    assert case.store.same_key(one, b"a")
    assert not case.another().same_key(other, b"a")


def filled(store: MessageStore, size: int, first: int = 1) -> list[RowId]:
    """Put messages, numbered from `first`, until the store is full."""
    stored: list[RowId] = []
    while True:
        number = first + len(stored)
        try:
            stored.append(put(store, number, views=2, tries=MAX_TRIES, body=Sealed(number.to_bytes(4, "big") * (size // 4))))
        except StoreFull:
            return stored


@pytest.mark.parametrize("size", [200, 5_000])
def test_full_store_evicts_nothing_and_everything_opens(place: Place, clock: SetClock, size: int) -> None:
    """Creating stops at the quota; claims, leases, tries, burns and the purge go on, for every message."""
    quota_bytes = 200 * 1024 + place.empty_bytes + 2 * place.grain_bytes
    store = place.open(clock, quota_bytes)
    stored = filled(store, size)
    assert len(stored) > 5
    least = quota_bytes - 5 * size - 20_000 - place.grain_bytes
    assert least < store.counts().used_bytes <= quota_bytes + place.grain_bytes
    for number, row_id in enumerate(stored, 1):
        assert store.reserve_try(row_id)
        store.wrong_try(row_id)
        assert claim(store, row_id, LEASE) == Claim(1)
        found = store.fetch(row_id, LEASE)
        assert found and found[1] == number.to_bytes(4, "big") * (size // 4)
    first = len(stored) + 1
    more = filled(store, size, first)
    assert len(more) * size <= place.grain_bytes
    assert store.history(new_row(first + len(more)).id) is None
    assert store.counts().stored == len(stored) + len(more)
    for row_id in stored[::2]:
        assert claim(store, row_id, OTHER_LEASE) == Claim(0)
        assert store.confirm(row_id, OTHER_LEASE)
    assert all(store.burn(row_id, None) for row_id in stored[1::2] + more)
    clock.advance(HOUR)
    while store.purge(200).more:
        pass
    assert store.counts().stored == 0
    assert len(filled_again(store, size)) > 5


def filled_again(store: MessageStore, size: int) -> list[RowId]:
    return [put(store, 1_000_000 + number, expires_at=Millis(NOW + 2 * HOUR), body=Sealed(bytes(size))) for number in range(6)]


# Who purges


@pytest.fixture(params=SHARED_STORES)
def shared_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place that several processes can share."""
    yield from _made(request.param, tmp_path)


def test_exactly_one_of_two_stores_purges_and_the_other_takes_over(shared_place: Place, clock: SetClock) -> None:
    first, second = shared_place.open(clock), shared_place.open(clock)
    assert [first.may_purge(), second.may_purge(), first.may_purge(), second.may_purge()] == [True, False, True, False]
    first.close()
    assert second.may_purge()


def test_messages_and_leases_outlive_their_store(shared_place: Place, clock: SetClock) -> None:
    store = shared_place.open(clock)
    row_id = put(store)
    assert claim(store, row_id, LEASE) == Claim(0)
    store.close()
    store = shared_place.open(clock)
    assert claim(store, row_id) is None
    found = store.fetch(row_id, LEASE)
    assert found and found[1] == b"body 0"


def test_closed_store_answers_nothing_and_breaks_nothing(shared_place: Place, clock: SetClock) -> None:
    store = shared_place.open(clock)
    row_id = put(store)
    store.close()
    with pytest.raises(StoreFailed):
        store.peek(row_id)
    with pytest.raises(StoreFailed):
        claim(store, row_id)
    assert claim(shared_place.open(clock), row_id) == Claim(0)


# Races


class Reads(Protocol):
    """What a reader needs of a store."""

    fetch: Callable[[RowId, bytes | None], object]
    claim: Callable[[RowId, bytes | None, int], Claim | None]


def deliveries(stores: Sequence[Reads], ids: list[RowId], lease: bool = False) -> Counter[RowId]:
    """Each store in a thread of its own reads each message, all of them at once from a barrier; how often each was handed out."""
    barrier = threading.Barrier(len(stores), timeout=60)
    counting = threading.Lock()
    handed_out: Counter[RowId] = Counter()

    def read(number: int, store: Reads) -> None:
        mine: Counter[RowId] = Counter()
        for row_id in ids:
            barrier.wait()
            if store.fetch(row_id, None) and claim(store, row_id, bytes([number]) * 32 if lease else None):
                mine[row_id] += 1
        with counting:
            handed_out.update(mine)

    threads = [threading.Thread(target=read, args=item) for item in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return handed_out


class SelectThenDelete:
    """What other servers did: each statement is atomic, the two together are not."""

    def __init__(self, store: MessageStore) -> None:
        self.store = store
        self.fetch = store.fetch

    def claim(self, row_id: RowId, lease: bytes | None, lease_seconds: int) -> Claim | None:
        if self.store.peek(row_id) is None:
            return None
        time.sleep(0.001)  # as long as a database over a network takes; without it, a busy machine may not switch threads here
        self.store.burn(row_id, None)
        return Claim(0)


READERS = 8


@pytest.mark.parametrize("lease", [False, True])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("connections", [1, 2])
def test_racing_readers_get_exactly_the_allowed_views(case: Case, connections: int, views: int, lease: bool) -> None:
    """Exactly one winner of one view, three of three; through one connection and through two."""
    ids = [put(case.store, number, views=views) for number in range(40)]
    stores = [case.store, *(case.another() for _ in range(connections - 1))]
    assert deliveries(stores * (READERS // connections), ids, lease) == dict.fromkeys(ids, views)


def test_select_then_delete_would_be_caught(store: MessageStore) -> None:
    """The race above reports the mutant: otherwise it would show nothing."""
    ids = [put(store, number) for number in range(100)]
    handed_out = deliveries([SelectThenDelete(store)] * READERS, ids)
    assert any(count > 1 for count in handed_out.values())


def test_reading_races_burning_and_one_of_them_wins(case: Case) -> None:
    store, other = case.store, case.another()
    for number in range(60):
        row_id = put(store, number)
        opened_, burned = race(lambda row_id=row_id: claim(store, row_id), lambda row_id=row_id: other.burn(row_id, None))
        assert (opened_ is not None) != burned
        history = store.history(row_id)
        assert history and history.ended == ("burned" if burned else "spent")


def test_racing_confirmations_have_exactly_one_winner(case: Case) -> None:
    store, other = case.store, case.another()
    for number in range(40):
        row_id = put(store, number)
        claim(store, row_id, LEASE)
        confirm = [lambda of=of, row_id=row_id: of.confirm(row_id, LEASE) for of in (store, other) * 2]
        assert race(*confirm).count(True) == 1


@pytest.mark.parametrize("views", [1, 3])
def test_racing_repeats_of_one_lease_use_one_view(case: Case, views: int) -> None:
    """A reader who retries while the first try is still under way; nobody is told that the message is gone."""
    store, other = case.store, case.another()
    for number in range(40):
        row_id = put(store, number, views=views)
        said = race(*[lambda of=of, row_id=row_id: claim(of, row_id, LEASE) for of in (store, other) * 3])
        assert said == [Claim(views - 1)] * 6


def test_racing_guesses_get_five_tries(case: Case) -> None:
    """However many guess at once, at most five are checked."""
    store, other = case.store, case.another()
    for number in range(20):
        row_id = put(store, number, tries=MAX_TRIES)
        assert race(*[lambda of=of, row_id=row_id: of.reserve_try(row_id) for of in (store, other) * 6]).count(True) == MAX_TRIES
        assert sorted(race(*[lambda of=of, row_id=row_id: of.wrong_try(row_id) for of in (store, other, store, other, store)])) == [
            *range(5)  # type: ignore[type-var]
        ]
        assert store.peek(row_id) is None


def test_racing_purges_remove_each_message_once(case: Case) -> None:
    store, other = case.store, case.another()
    for number in range(300):
        put(store, number)
    case.clock.advance(HOUR)
    removed: list[Any] = race(*[lambda of=of: [of.purge(20).bodies for _ in range(20)] for of in (store, other) * 2])
    assert sum(map(sum, removed)) == 300


def test_racing_creates_of_one_id_have_exactly_one_winner(case: Case) -> None:
    """UUIDs do not meet, but if they did, nobody's message would be overwritten."""

    def create(of: MessageStore, text: bytes) -> bytes | None:
        try:
            put(of, body=Sealed(text))
        except StoreFailed:
            return None
        return text

    stores = (case.store, case.another()) * 2
    won = [text for text in race(*[lambda of=of, n=n: create(of, b"%d" % n) for n, of in enumerate(stores)]) if text is not None]
    found = case.store.fetch(new_row().id, None)
    assert found and won == [found[1]]


READ_ALL = """
import sys
from database import open_database
from records import RowId
from settings import Settings
store = open_database(Settings(database_url=sys.argv[1]), now=lambda: int(sys.argv[2]))
print("purges" if store.may_purge() else "leaves", flush=True)
sys.stdin.read(1)
for number in range(200):
    if store.claim(RowId(number.to_bytes(32, "big")), None, 30):
        print(number)
sys.stdout.flush()
sys.stdin.read()
"""


def test_racing_processes_have_exactly_one_winner_and_one_purger(shared_place: Place, clock: SetClock) -> None:
    store = shared_place.open(clock)
    for number in range(200):
        put(store, number)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READ_ALL, shared_place.url, str(NOW)],
            cwd=PROJECT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    try:
        said = [reader.stdout.readline().strip() for reader in readers if reader.stdout]
        assert sorted(said) == ["leaves", "leaves", "leaves", "purges"]
        assert not store.may_purge()
        for reader in readers:
            assert reader.stdin
            reader.stdin.write("g")
            reader.stdin.flush()
        won = [number for reader in readers for number in reader.communicate(timeout=120)[0].split()]
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    assert sorted(map(int, won)) == list(range(200))
    clock.advance(60 * SECOND)
    assert store.may_purge(), "taken over when its holder has ended"
