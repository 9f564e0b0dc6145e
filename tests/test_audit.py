"""The audit: whoever writes to its database without the server's keys is found out, and what cannot be written is refused."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

import crypto
import keyfile
from access.oauth import SigningKeys
from access.sealing import reseal
from audit import MAX_FAULTS, Audit, kept_address
from audit.chain import Keys, read_statements
from database import AccessStore, open_access
from errors import AuditFailed, Damaged, KeyMissing
from keyfile import KeyFile
from records import Account, AccountId, Actor, Event, Millis, Role, RowId
from scheduler import Housekeeping
from settings import Settings
from tests.access_stores import new_access_place
from tests.requirements import require_program
from tests.serving import PROJECT
from tests.stores import NOW, SetClock, race
from tests.test_scheduler import eventually

DAY = 24 * 3600 * 1000
SOMEBODY = Actor(
    Account(
        AccountId("0b9d3c52-7d0c-4a52-9a1a-6f1f4f8f5a11"),
        "ana@example.org",
        "Ana",
        "Lima",
        frozenset({Role("support")}),
        True,
        NOW,
        NOW,
    ),
    way="session",
    credential="c1d2e3f4",
    address="203.0.113.77",
)
OPENED = Event("open", "answered", SOMEBODY, "guarded", "00112233aabbccdd", '1 whole, 0 masked; whole: "name"')


@dataclass
class Place:
    """A key file with the database of accounts and audit beside it."""

    folder: Path
    clock: SetClock

    @property
    def key_file(self) -> Path:
        return self.folder / "key.json"

    def store(self) -> AccessStore:
        store = open_access(Settings(), self.key_file, self.clock)
        assert store
        return store

    def audit(self) -> Audit:
        """A node of its own."""
        return Audit(self.store(), KeyFile(self.key_file))

    def tamper(self, *statements: str, **values: Any) -> None:
        """Write to the database as somebody does who has it and nothing else."""
        with closing(sqlite3.connect(self.folder / "accounts.db", isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement, {name: value for name, value in values.items() if f":{name}" in statement})

    def faults(self, *kept: str) -> tuple[str, ...]:
        """What a node that starts now finds; `kept` are lines with heads that were kept elsewhere."""
        return self.audit().verify([head for line in kept for head in read_statements(line)]).faults

    def copy(self, folder: Path) -> Place:
        shutil.copytree(self.folder, folder)
        return Place(folder, self.clock)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    keyfile.create(tmp_path / "key.json")
    return Place(tmp_path, SetClock())


def fill(place: Place, count: int) -> str:
    """Write `count` entries, a second apart, as the server does but in one transaction; returns the newest signed head."""
    audit = place.audit()
    entry = audit.write(OPENED)
    keys = Keys.of(secret_of(place))
    rows = []
    for number in range(2, count + 1):
        at = Millis(NOW + 1000 * number)
        entry = keys.chain(replace(entry, at=at, target=f"{number:016x}", address=f"203.0.{number % 200}.0/24"), entry)
        rows.append([getattr(entry, name) for name in COLUMNS])
    with closing(sqlite3.connect(place.folder / "accounts.db")) as db, db:
        db.executemany(f"INSERT INTO mayfly_entries ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})", rows)
    place.clock.at = Millis(NOW + 1000 * count)
    head = audit.sign_head()
    assert head
    return head.line


COLUMNS = (
    *("number", "at", "account", "email", "way", "credential"),
    *("action", "outcome", "vault", "target", "address", "detail", "mac"),
)
TEXTS = COLUMNS[2:-1]


def secret_of(place: Place) -> bytes:
    _, sealed = place.store().secrets("audit")["audit"]
    return crypto.unseal_secret(keyfile.read(place.key_file), "audit", sealed)


@dataclass
class Filled:
    """An audit that is only copied: how many entries it has, and its newest head."""

    place: Place
    count: int
    head: str


@pytest.fixture(scope="module", params=[2_000, pytest.param(100_000, marks=pytest.mark.long)])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    folder = tmp_path_factory.mktemp("filled")
    keyfile.create(folder / "key.json")
    place = Place(folder, SetClock())
    return Filled(place, request.param, fill(place, request.param))


@pytest.fixture
def copied(filled: Filled, tmp_path: Path) -> Filled:
    return replace(filled, place=filled.place.copy(tmp_path / "copy"))


# The chain


def test_entries_are_chained_as_the_decision_record_says(place: Place) -> None:
    """Computed anew from the record's words, with nothing of the code's."""
    audit = place.audit()
    written = [audit.write(OPENED), audit.write(Event("audit", "answered", Actor(address="2001:db8::1")))]
    secret = secret_of(place)

    def derived(label: bytes) -> bytes:  # RFC 5869, one block
        return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), label + b"\1", "sha256")

    before = bytes(32)
    for number, entry in enumerate(written, 1):
        texts = [str(number), str(NOW), *(getattr(entry, name) for name in TEXTS)]
        form = b"".join(struct.pack(">I", len(text.encode())) + text.encode() for text in texts)
        own = hmac.digest(derived(b"mayfly audit entry v1"), form, "sha256")[:16]
        before = own + hmac.digest(derived(b"mayfly audit chain v1"), own + before, "sha256")[:16]
        assert entry.mac == before
    assert place.store().entries() == written


def test_an_entry_says_who_what_where_and_nothing_of_the_link(place: Place) -> None:
    written = place.audit().write(OPENED)
    assert (written.account, written.email, written.way) == (SOMEBODY.account.id, "ana@example.org", "session")  # type: ignore[union-attr]
    assert (written.credential, written.action, written.outcome) == ("c1d2e3f4", "open", "answered")
    assert (written.vault, written.target, written.address, written.at) == ("guarded", "00112233aabbccdd", "203.0.113.0/24", NOW)


def test_an_action_that_is_not_of_the_closed_set_is_a_fault_of_ours(place: Place) -> None:
    for event in (Event("opened", "answered", SOMEBODY), Event("open", "ok", SOMEBODY)):
        with pytest.raises(AssertionError):
            place.audit().write(event)
    assert place.store().entries() == []


def test_messages_are_named_alike_by_all_nodes_and_not_by_who_has_the_row(place: Place) -> None:
    row_id = RowId(hashlib.sha256(b"a link").digest())
    name = place.audit().name_of(row_id)
    assert place.audit().name_of(row_id) == name
    assert len(bytes.fromhex(name)) == 8
    assert place.audit().name_of(RowId(bytes(32))) != name
    unkeyed = {row_id.hex()[:16], hashlib.sha256(row_id).hexdigest()[:16], hmac.digest(bytes(32), row_id, "sha256").hex()[:16]}
    assert name not in unkeyed


@pytest.mark.parametrize(
    ("address", "reduced", "full"),
    [
        ("203.0.113.77", "203.0.113.0/24", "203.0.113.77"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48", "2001:db8:1:2:3:4:5:6"),
        ("::ffff:203.0.113.77", "203.0.113.0/24", "203.0.113.77"),
        ("fe80::1%eth0", "fe80::/48", "fe80::1"),
        ("", "", ""),
        ("203.0.113.77, 10.0.0.1", "", ""),
        ("<script>", "", ""),
    ],
)
def test_addresses_are_kept_without_their_last_part_unless_asked_for(address: str, reduced: str, full: str) -> None:
    """What is no address is not kept at all: nothing that a client chose stands there."""
    assert kept_address(address, "reduced") == reduced
    assert kept_address(address, "full") == full


def test_full_addresses_are_a_setting(place: Place) -> None:
    assert Audit(place.store(), KeyFile(place.key_file), "full").write(OPENED).address == "203.0.113.77"


# Tampering


def test_untouched_it_is_all_as_it_was_written(copied: Filled) -> None:
    verdict = copied.place.audit().verify(read_statements(copied.head))
    assert (verdict.entries, verdict.faults) == (copied.count, ())


@pytest.mark.parametrize("column", ["at", *TEXTS])
def test_one_changed_byte_is_found_in_every_column(copied: Filled, column: str) -> None:
    number = copied.count // 2 + 7
    other = f"substr({column}, 1, 2) || char(unicode(substr({column}, 3, 1)) + 1) || substr({column}, 4)"
    change = f"{column} = {column} + 1" if column == "at" else f"{column} = {other}"
    copied.place.tamper(f"UPDATE mayfly_entries SET {change} WHERE number = {number}")
    assert copied.place.faults() == (f"entry {number} is not as it was written",)


@pytest.mark.parametrize("byte", [0, 15, 16, 31])
def test_one_changed_byte_of_a_mac_is_found(copied: Filled, byte: int) -> None:
    number = copied.count // 2 + 7
    (entry,) = copied.place.store().entries(number - 1, 1)
    mac = bytearray(entry.mac)
    mac[byte] ^= 1
    copied.place.tamper("UPDATE mayfly_entries SET mac = :mac WHERE number = :number", mac=bytes(mac), number=number)
    (fault,) = copied.place.faults()
    assert fault in (f"entry {number} is not as it was written", f"entry {number} does not follow on entry {number - 1}")


@pytest.mark.parametrize("place_", ["first", "last"])
def test_the_first_and_the_last_are_no_exception(copied: Filled, place_: str) -> None:
    number = 1 if place_ == "first" else copied.count
    copied.place.tamper(f"UPDATE mayfly_entries SET outcome = 'refused' WHERE number = {number}")
    assert copied.place.faults() == (f"entry {number} is not as it was written",)


def test_what_moves_from_one_column_to_the_next_is_found(copied: Filled) -> None:
    copied.place.tamper(
        "UPDATE mayfly_entries SET account = account || substr(email, 1, 1), email = substr(email, 2) WHERE number = 70"
    )
    assert copied.place.faults() == ("entry 70 is not as it was written",)


def test_bytes_that_are_no_text_are_found(copied: Filled) -> None:
    """One flipped bit may make them so: they must not keep the rest from being read."""
    copied.place.tamper("UPDATE mayfly_entries SET email = CAST(x'e16e61' AS TEXT) WHERE number = 70")
    assert copied.place.faults() == ("entry 70 is not as it was written",)


def test_one_dropped_is_found(copied: Filled) -> None:
    number = copied.count // 2 + 7
    copied.place.tamper(f"DELETE FROM mayfly_entries WHERE number = {number}")
    assert copied.place.faults() == (f"entry {number} is missing",)


def test_many_dropped_are_found(copied: Filled) -> None:
    copied.place.tamper("DELETE FROM mayfly_entries WHERE number BETWEEN 50 AND 60 OR number = 200")
    assert copied.place.faults() == ("entries 50 to 60 are missing", "entry 200 is missing")


def swapped(one: int, other: int) -> list[str]:
    """Statements that put each in the place of the other."""
    steps = [(one, -1), (other, one), (-1, other)]
    return [f"UPDATE mayfly_entries SET number = {to} WHERE number = {number}" for number, to in steps]


@pytest.mark.parametrize("apart", [1, 2, 700])
def test_two_swapped_are_found(copied: Filled, apart: int) -> None:
    one = copied.count // 2 + 7
    copied.place.tamper(*swapped(one, one + apart))
    assert copied.place.faults() == (
        f"entry {one + apart} stands in the place of entry {one}",
        f"entry {one} stands in the place of entry {one + apart}",
    )


def test_swapped_contents_are_found_where_the_macs_stayed(copied: Filled) -> None:
    macs = {entry.number: entry.mac for entry in copied.place.store().entries(99, 10)}
    copied.place.tamper(*swapped(100, 105))
    for number in (100, 105):
        copied.place.tamper("UPDATE mayfly_entries SET mac = :mac WHERE number = :number", mac=macs[number], number=number)
    assert copied.place.faults() == (
        "entry 105 stands in the place of entry 100",
        "entry 100 stands in the place of entry 105",
    )


def test_one_that_was_moved_away_is_missing_where_it_was_and_wrong_where_it_is(copied: Filled) -> None:
    to = copied.count + 5
    copied.place.tamper(f"UPDATE mayfly_entries SET number = {to} WHERE number = 100")
    assert copied.place.faults() == (
        "entry 100 is missing",
        f"entries {copied.count + 1} to {to - 1} are missing",
        f"entry 100 stands in the place of entry {to}",
    )


def insert(number: int) -> str:
    others = ", ".join(COLUMNS[1:])
    return f"INSERT INTO mayfly_entries (number, {others}) SELECT {number}, {others} FROM mayfly_entries WHERE number = 90"


def test_one_inserted_at_the_end_is_found(copied: Filled) -> None:
    copied.place.tamper(insert(copied.count + 1))
    assert copied.place.faults() == (f"entry {copied.count + 1} is not as it was written",)


def test_one_inserted_in_between_is_found(copied: Filled) -> None:
    """Those behind it had to make room: each of them is found in another's place."""
    copied.place.tamper(
        "UPDATE mayfly_entries SET number = -number WHERE number >= 100",
        "UPDATE mayfly_entries SET number = 1 - number WHERE number < 0",
        insert(100),
    )
    faults = copied.place.faults()
    assert faults[:2] == ("entry 100 is not as it was written", "entry 100 stands in the place of entry 101")
    assert faults[MAX_FAULTS] == f"and {copied.count - 99 + 1 - MAX_FAULTS} more"


@pytest.mark.parametrize("number", [0, -7])
def test_one_inserted_before_the_beginning_is_found(copied: Filled, number: int) -> None:
    copied.place.tamper(insert(number))
    assert copied.place.faults() == (f"entry {number} was put before the beginning",)


def test_a_beginning_that_was_cut_off_is_found(copied: Filled) -> None:
    copied.place.tamper("DELETE FROM mayfly_entries WHERE number <= 100")
    assert copied.place.faults() == ("entries 1 to 100 are missing",)


def test_an_end_that_was_cut_off_is_found_by_the_head_in_the_store(copied: Filled) -> None:
    copied.place.tamper(f"DELETE FROM mayfly_entries WHERE number > {copied.count - 50}")
    (fault,) = copied.place.faults()
    assert fault.startswith(f"entries {copied.count - 49} to {copied.count} are missing at the end: the head of 2027-01-1")


def test_an_end_that_was_cut_off_with_the_heads_is_found_by_a_kept_head_alone(copied: Filled) -> None:
    """What the database alone cannot tell any more, the log can."""
    copied.place.tamper(f"DELETE FROM mayfly_entries WHERE number = {copied.count}", "DELETE FROM mayfly_heads")
    assert copied.place.faults() == ()
    (fault,) = copied.place.faults(f"2027-01-15 INFO mayfly.audit signed: {copied.head}\n")
    assert fault.startswith(f"entry {copied.count} is missing at the end")


def test_an_end_that_was_cut_off_and_written_anew_is_found_by_a_kept_head(copied: Filled) -> None:
    copied.place.tamper(f"DELETE FROM mayfly_entries WHERE number > {copied.count - 3}", "DELETE FROM mayfly_heads")
    audit = copied.place.audit()
    for _ in range(6):
        audit.write(OPENED)
    assert copied.place.faults() == ()
    (fault,) = copied.place.faults(copied.head)
    assert fault.startswith(f"entry {copied.count} is not the one of the head of ")


def test_an_entry_of_a_history_that_was_rolled_back_does_not_fit_in(copied: Filled) -> None:
    """Genuine, with its number, and yet not the one that was written here."""
    audit = copied.place.audit()
    genuine = audit.write(OPENED)
    copied.place.tamper(f"DELETE FROM mayfly_entries WHERE number >= {copied.count}")
    for _ in range(3):
        audit.write(OPENED)
    copied.place.tamper("DELETE FROM mayfly_heads")
    copied.place.tamper(
        f"UPDATE mayfly_entries SET {', '.join(f'{name} = :{name}' for name in COLUMNS)} WHERE number = :number",
        **{name: getattr(genuine, name) for name in COLUMNS},
    )
    assert f"entry {genuine.number} does not follow on entry {genuine.number - 1}" in copied.place.faults()


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE mayfly_heads SET number = number - 1",
        "UPDATE mayfly_heads SET signed = CAST(replace(signed, '-v1 ', '-v1 1') AS BLOB)",
        "UPDATE mayfly_heads SET signed = CAST(replace(signed, 'T', 'U') AS BLOB)",
        "UPDATE mayfly_heads SET signed = CAST(substr(signed, 1, length(signed) - 1) || 'x' AS BLOB)",
        "UPDATE mayfly_heads SET signed = CAST(substr(signed, 1, length(signed) - 9) || '000000000' AS BLOB)",
        "UPDATE mayfly_heads SET signed = x''",
        "UPDATE mayfly_heads SET signed = CAST(replace(signed, 'head', 'beginning') AS BLOB)",
        "UPDATE mayfly_heads SET signed = x'ff00'",
    ],
)
def test_edited_heads_are_found(copied: Filled, edit: str) -> None:
    copied.place.tamper(edit)
    (fault,) = copied.place.faults()
    assert fault.startswith("the stored head of entry ")
    assert fault.endswith(" is not as it was signed")


def test_a_kept_head_that_was_edited_or_is_another_audits_is_told(copied: Filled, tmp_path: Path) -> None:
    edited = copied.head.replace(f"v1 {copied.count}", f"v1 {copied.count - 1}")
    (fault,) = copied.place.faults(edited)
    assert "was not signed by this audit" in fault
    keyfile.create(tmp_path / "key.json")
    assert "was not signed by this audit" in copied.place.faults(fill(Place(tmp_path, SetClock()), 5))[0]


def test_an_audit_that_was_made_anew_does_not_pass_for_the_old_one(copied: Filled) -> None:
    copied.place.tamper(*(f"DELETE FROM mayfly_{table}" for table in ("entries", "heads", "secrets", "last_accesses")))
    assert copied.place.faults(copied.head) == (f"entry {copied.count}, of which there is a signed head, is missing",)
    copied.place.audit().write(OPENED)
    (fault,) = copied.place.faults(copied.head)
    assert "was not signed by this audit" in fault


def test_with_all_of_it_wrong_the_first_are_told_and_the_rest_is_counted(copied: Filled) -> None:
    copied.place.tamper("UPDATE mayfly_entries SET outcome = 'refused'")
    *told, rest = copied.place.faults()
    assert told == [f"entry {number} is not as it was written" for number in range(1, MAX_FAULTS + 1)]
    assert rest == f"and {copied.count - MAX_FAULTS} more"


@pytest.mark.long
def test_verifying_takes_the_same_memory_however_many_entries_there_are(tmp_path: Path) -> None:
    peaks = []
    for count in (5_000, 50_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        keyfile.create(folder / "key.json")
        place = Place(folder, SetClock())
        fill(place, count)
        audit = place.audit()
        tracemalloc.start()
        assert audit.verify().faults == ()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# Retention


def old_and_new(place: Place) -> None:
    """Ten entries of 40 days ago, ten of now, and heads over both."""
    audit = place.audit()
    for _ in range(10):
        audit.write(OPENED)
    audit.sign_head()
    place.clock.advance(40 * DAY)
    for _ in range(10):
        audit.write(OPENED)
    audit.sign_head()


def test_what_is_too_old_is_dropped_and_the_rest_verifies(place: Place) -> None:
    old_and_new(place)
    early = place.store().heads()[0][2].decode()
    assert place.audit().drop(41) == 0
    assert place.audit().drop(39) == 10
    assert [entry.number for entry in place.store().entries()] == [*range(11, 21)]
    verdict = place.audit().verify(read_statements(early))
    assert (verdict.entries, verdict.faults) == (10, ())


def test_the_last_entry_stays_whatever_its_age(place: Place) -> None:
    audit = place.audit()
    for _ in range(3):
        audit.write(OPENED)
    place.clock.advance(400 * DAY)
    assert audit.drop(1) == 2
    assert audit.drop(1) == 0
    assert audit.write(OPENED).number == 4
    assert place.faults() == ()


def test_many_that_are_too_old_are_dropped_in_slices(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit._DROP_AT_ONCE", 700)
    fill(place, 3_000)
    place.clock.advance(400 * DAY)
    audit = place.audit()
    audit.write(OPENED)
    assert audit.drop(30) == 3_000
    assert place.faults() == ()


def test_a_beginning_cannot_be_passed_off_as_retention(place: Place) -> None:
    """Neither with a signed head in its place, nor with an earlier beginning, nor with none."""
    old_and_new(place)
    heads = [signed.decode() for _, _, signed in place.store().heads()]
    place.audit().drop(39)
    beginning = place.store().beginning()
    assert beginning
    place.tamper("DELETE FROM mayfly_entries WHERE number <= 15")
    assert place.faults() == ("entries 11 to 15 are missing",)
    place.tamper("DELETE FROM mayfly_entries WHERE number < 20")
    for forged in (
        heads[1].encode(),
        heads[1].replace("head", "beginning").encode(),
        beginning.replace(b"v1 10 ", b"v1 19 "),
        b"",
        beginning + b"\n" + beginning,
    ):
        place.tamper("UPDATE mayfly_audit SET beginning = :beginning", beginning=forged)
        assert place.faults()[0] == "the statement with which the audit begins is not as it was signed"
    place.tamper("UPDATE mayfly_audit SET beginning = NULL")
    assert place.faults() == ("entries 1 to 19 are missing",)


def test_an_older_beginning_put_back_is_found(place: Place) -> None:
    old_and_new(place)
    place.audit().drop(39)
    beginning = place.store().beginning()
    place.clock.advance(40 * DAY)
    place.audit().write(OPENED)
    place.audit().drop(39)
    assert place.faults() == ()
    place.tamper("UPDATE mayfly_audit SET beginning = :beginning", beginning=beginning)
    assert place.faults() == ("entries 11 to 20 are missing",)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE mayfly_entries SET outcome = 'refused' WHERE number = 5",
        f"UPDATE mayfly_entries SET at = at - {50 * DAY} WHERE number < 15",
        "DELETE FROM mayfly_entries WHERE number IN (3, 4)",
    ],
)
def test_no_fault_is_made_away_with_by_its_age(place: Place, tampering: str) -> None:
    """Before anything is dropped it is verified: what somebody made older, or cut out, stays to be found."""
    old_and_new(place)
    place.tamper(tampering)
    faults = place.faults()
    assert faults
    with pytest.raises(Damaged):
        place.audit().drop(39)
    assert place.faults() == faults


def test_two_nodes_that_drop_at_once_do_no_harm(place: Place) -> None:
    old_and_new(place)
    nodes = [place.audit() for _ in range(4)]
    dropped = race(*(lambda node=node: node.drop(39) for node in nodes))  # type: ignore[misc]
    assert sum(int(str(count)) for count in dropped) == 10
    assert place.faults() == ()


# What cannot be written is refused


def test_a_store_that_is_full_read_only_or_locked_refuses_to_write(place: Place) -> None:
    store: Any = place.store()
    audit = Audit(store, KeyFile(place.key_file))
    audit.write(OPENED)
    db = store._database._db
    db.execute("PRAGMA query_only = 1")
    with pytest.raises(AuditFailed):
        audit.write(OPENED)
    db.execute("PRAGMA query_only = 0")
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(AuditFailed):
        for _ in range(200):
            audit.write(OPENED)
    db.execute("PRAGMA max_page_count = 1000000")
    with closing(sqlite3.connect(place.folder / "accounts.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditFailed):
            audit.write(OPENED)
    audit.write(OPENED)
    assert place.faults() == ()


def test_a_secret_that_cannot_be_had_refuses_to_write_and_to_name(place: Place) -> None:
    place.audit().write(OPENED)
    place.key_file.unlink()
    keyfile.create(place.key_file)
    for refused in (lambda: place.audit().write(OPENED), lambda: place.audit().name_of(RowId(bytes(32)))):
        with pytest.raises(AuditFailed) as failure:
            refused()
        assert isinstance(failure.value.__cause__, KeyMissing)


@pytest.mark.parametrize("tampering", ["DELETE FROM mayfly_secrets", "UPDATE mayfly_secrets SET sealed = x'01'"])
def test_a_secret_that_was_taken_away_is_not_made_anew(place: Place, tampering: str) -> None:
    """Else whoever deletes it would begin a chain of which nobody can tell that it is not the old one."""
    place.audit().write(OPENED)
    place.tamper(tampering)
    with pytest.raises(AuditFailed):
        place.audit().write(OPENED)
    with pytest.raises(Damaged):
        place.audit().verify()
    assert len(place.store().entries()) == 1


def test_the_log_says_why_it_was_refused(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.audit().write(OPENED)
    place.tamper("DELETE FROM mayfly_secrets")
    with pytest.raises(AuditFailed):
        place.audit().write(OPENED)
    assert "the audit cannot be written" in caplog.text
    assert "Damaged" in caplog.text


# Several nodes


def test_nodes_that_start_at_once_agree_on_the_secret_and_write_one_chain(place: Place) -> None:
    nodes = [place.audit() for _ in range(6)]

    def write(node: Audit) -> Callable[[], object]:
        return lambda: [node.write(OPENED) for _ in range(20)]

    race(*map(write, nodes))
    verdict = place.audit().verify()
    assert (verdict.entries, verdict.faults) == (120, ())


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_nodes_on_a_database_server_write_one_chain_too(engine: str, tmp_path: Path) -> None:
    """And retention, heads and a change are what they are in a file."""
    keyfile.create(tmp_path / "key.json")
    clock, shared = SetClock(), new_access_place(engine, tmp_path)
    try:
        nodes = [Audit(shared.open(clock), KeyFile(tmp_path / "key.json")) for _ in range(2)]

        def write(node: Audit) -> Callable[[], object]:
            return lambda: [node.write(OPENED) for _ in range(15)]

        race(*map(write, nodes * 2))
        clock.advance(40 * DAY)
        race(*map(write, nodes))
        head = nodes[0].sign_head()
        assert head
        assert nodes[1].drop(39) == 60
        verdict = nodes[1].verify([head])
        assert (verdict.entries, verdict.faults) == (30, ())
        shared.run("UPDATE mayfly_entries SET outcome = 'refused' WHERE number = 70")
        assert nodes[0].verify([head]).faults == ("entry 70 is not as it was written",)
    finally:
        shared.close()


WRITER = """
import sys
from pathlib import Path
from audit import Audit
from database import open_access
from keyfile import KeyFile
from records import Actor, Event
from settings import Settings
key_file = Path(sys.argv[1])
audit = Audit(open_access(Settings(), key_file), KeyFile(key_file))
for _ in range(100):
    audit.write(Event("open", "answered", Actor(), "guarded"))
"""


def test_processes_that_write_at_once_write_one_chain_and_it_verifies_meanwhile(place: Place) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(place.key_file)], cwd=PROJECT) for _ in range(3)]
    while any(writer.poll() is None for writer in writers):
        assert place.faults() == ()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    verdict = place.audit().verify()
    assert (verdict.entries, verdict.faults) == (300, ())


def test_entries_may_be_dropped_while_it_is_verified(place: Place) -> None:
    """Where it begins has changed by the time that the first entries are asked for: it is looked at anew."""
    old_and_new(place)
    store: Any = place.store()
    look = store.heads

    def heads() -> object:
        place.audit().drop(39)
        return look()

    store.heads = heads
    verdict = Audit(store, KeyFile(place.key_file)).verify()
    assert (verdict.entries, verdict.faults) == (10, ())


def test_an_end_that_is_cut_off_under_a_running_server_is_logged_within_the_hour(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    audit, other = place.audit(), place.audit()
    audit.write(OPENED)
    written = audit.write(OPENED)
    place.tamper(f"DELETE FROM mayfly_entries WHERE number = {written.number}")
    other.write(Event("open", "refused", SOMEBODY))
    other.sign_head()
    assert "is not as this process wrote it" not in caplog.text
    audit.sign_head()
    assert f"entry {written.number} is not as this process wrote it, or missing" in caplog.text


# Keys


def test_after_a_rotation_and_the_dropping_of_the_old_key_it_goes_on_and_verifies(place: Place) -> None:
    head = fill(place, 5)
    (old,) = keyfile.read(place.key_file).masters
    keyfile.rotate(place.key_file, datetime.now(UTC) - timedelta(days=9))
    reseal(place.store(), KeyFile(place.key_file))
    reseal(place.store(), KeyFile(place.key_file))
    keyfile.drop(place.key_file, old, datetime.now(UTC))
    place.audit().write(OPENED)
    assert place.faults(head) == ()


def test_without_sealing_anew_it_would_be_lost(place: Place) -> None:
    """So the test above can fail."""
    fill(place, 5)
    (old,) = keyfile.read(place.key_file).masters
    keyfile.rotate(place.key_file, datetime.now(UTC) - timedelta(days=9))
    keyfile.drop(place.key_file, old, datetime.now(UTC))
    with pytest.raises(AuditFailed):
        place.audit().write(OPENED)


def test_a_secret_that_is_lost_keeps_no_other_from_being_sealed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    fill(place, 1)
    store = place.store()
    for name in ("a broken one", "z broken one"):
        store.add_secret(name, b"\x01\x03abc")
    keyfile.rotate(place.key_file, datetime.now(UTC))
    keys = KeyFile(place.key_file)
    with pytest.raises(KeyMissing):
        reseal(store, keys)
    assert crypto.key_id_of(store.secrets("audit")["audit"][1]) == keys.ring().current  # type: ignore[arg-type]
    assert "the secret a broken one of this server cannot be unsealed" in caplog.text


# Housekeeping


def test_housekeeping_does_its_duties_at_the_start(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    old_and_new(place)
    place.audit().write(OPENED)
    keyfile.rotate(place.key_file, datetime.now(UTC))
    store, keys = place.store(), KeyFile(place.key_file)
    keepers = [Housekeeping(store, keys, Audit(store, keys), 39, SigningKeys(store, keys)) for _ in range(2)]
    for keeper in keepers:
        keeper.start()
    try:
        eventually(lambda: len(place.store().entries()) == 11, "what is too old is dropped")
        eventually(lambda: [number for number, _, _ in store.heads()] == [20, 21], "the head is signed")
        eventually(lambda: crypto.key_id_of(store.secrets("audit")["audit"][1]) == keys.ring().current, "sealed anew")  # type: ignore[arg-type]
    finally:
        for keeper in keepers:
            keeper.stop()
    assert place.faults() == ()
    assert store.heads()[-1][2].decode() in caplog.text, "kept in the log as well"
    assert "failed" not in caplog.text


def test_housekeeping_goes_on_after_one_duty_failed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    old_and_new(place)
    place.audit().write(OPENED)
    place.tamper("UPDATE mayfly_entries SET outcome = 'refused' WHERE number = 5")
    store, keys = place.store(), KeyFile(place.key_file)
    Housekeeping(store, keys, Audit(store, keys), 39, SigningKeys(store, keys)).keep()
    assert "dropping old entries of the audit failed and will be tried again: Damaged" in caplog.text
    assert store.heads()[-1][0] == 21
    assert len(store.entries()) == 21


def test_heads_are_written_to_the_log_whatever_its_level(place: Place) -> None:
    """Warnings only is the default, and yet the head is kept there."""
    program = (
        "import logging, sys; from logs import log_to_stderr; from settings import Settings; log_to_stderr(Settings())\n"
        + WRITER
        + "print(audit.sign_head().line)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(place.key_file)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() in ended.stderr


# The operator's commands


class Operator:
    """Somebody at the server's machine."""

    def __init__(self, place: Place) -> None:
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        self._environ["MAYFLY_KEY_FILE"] = str(place.key_file)

    def types(self, *arguments: str, **settings: str) -> tuple[int, str, str]:
        command = [sys.executable, "server.py", *arguments]
        ended = subprocess.run(command, cwd=PROJECT, env=self._environ | settings, capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout, ended.stderr


def test_command_verifies_and_says_which_entry_was_changed(place: Place, tmp_path: Path) -> None:
    operator, head = Operator(place), fill(place, 30)
    assert operator.types("audit", "verify") == (0, "30 entries, all as they were written\n", "")
    log = tmp_path / "server.log"
    log.write_bytes(b"\xff a line of something else\n" + f"INFO mayfly.audit signed: {head}\n".encode())
    assert operator.types("audit", "verify", "--head", str(log))[0] == 0
    place.tamper("DELETE FROM mayfly_entries WHERE number = 30", "DELETE FROM mayfly_heads")
    assert operator.types("audit", "verify")[0] == 0
    code, said, complained = operator.types("audit", "verify", "--head", str(log))
    assert (code, complained) == (1, "")
    assert said.startswith("entry 30 is missing at the end")
    assert said.endswith("\n29 entries, and not all as they were written\n")
    place.tamper("UPDATE mayfly_entries SET email = 'eve@example.org' WHERE number = 12")
    code, said, _ = operator.types("audit", "verify")
    assert (code, said.splitlines()[0]) == (1, "entry 12 is not as it was written")


def test_command_says_in_one_line_why_it_cannot_verify(place: Place, tmp_path: Path) -> None:
    operator = Operator(place)
    fill(place, 3)
    (tmp_path / "nothing").write_text("no head in here\n")
    for arguments, settings, why in (
        (("--head", str(tmp_path / "nothing")), {}, "holds no signed head"),
        ((), {"MAYFLY_ACCOUNTS_DATABASE_URL": "off"}, "and no audit"),
    ):
        code, said, complained = operator.types("audit", "verify", *arguments, **settings)
        assert (code, said, len(complained.splitlines())) == (1, "", 1)
        assert why in complained
    place.tamper("DELETE FROM mayfly_secrets")
    assert "is missing or was changed" in operator.types("audit", "verify")[2]


def test_audit_that_is_lost_is_not_found_well(tmp_path: Path) -> None:
    """Not where its file is gone, of which none is made, nor where another stands in its place, or all of it was removed."""
    place = Place(tmp_path, SetClock())
    keyfile.create(place.key_file)
    operator, file = Operator(place), tmp_path / "accounts.db"
    for command in (("audit", "verify"), ("audit", "key"), ("account", "list"), ("certificate", "list"), ("ca", "pem")):
        code, said, complained = operator.types(*command)
        assert (code, said, len(complained.splitlines())) == (1, "", 1), complained
        assert f"MAYFLY_ACCOUNTS_DATABASE_URL: the database of accounts is not there: {file}" in complained
        assert not file.exists()
    place.store().close()
    for command in (("audit", "verify"), ("audit", "key")):
        code, said, complained = operator.types(*command)
        assert (code, said) == (1, "")
        assert "this database holds no audit" in complained
    code, said, complained = operator.types("ca", "list")
    assert "the database of certificates is not there" in complained
    assert (code, said, (tmp_path / "certificates.db").exists()) == (1, "", False)
    fill(place, 3)
    assert operator.types("audit", "verify")[0] == 0
    place.tamper("DELETE FROM mayfly_entries", "DELETE FROM mayfly_heads")
    assert operator.types("audit", "verify")[:2] == (1, "")


def test_heads_are_checked_without_the_servers_secrets(place: Place, tmp_path: Path) -> None:
    """By the public key and openssl, as an auditor does."""
    require_program("openssl")
    (head,) = read_statements(fill(place, 3))
    code, key, _ = Operator(place).types("audit", "key")
    assert code == 0
    assert load_pem_public_key(key.encode())
    for name, content in (("key", key.encode()), ("statement", head.signed), ("signature", head.signature)):
        (tmp_path / name).write_bytes(content)
    command = "openssl pkeyutl -verify -pubin -inkey key -rawin -in statement -sigfile signature".split()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "statement").write_bytes(head.signed.replace(b"v1 3", b"v1 2"))
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_dropping_a_key_first_seals_what_is_under_it_anew(place: Place) -> None:
    """A server that was off since the rotation has not done so."""
    fill(place, 3)
    (old,) = keyfile.read(place.key_file).masters
    keyfile.rotate(place.key_file, datetime.now(UTC) - timedelta(days=9))
    operator = Operator(place)
    assert operator.types("keys", "drop", old) == (0, f"dropped {old}\n", "")
    assert operator.types("audit", "verify")[1] == "3 entries, all as they were written\n"
