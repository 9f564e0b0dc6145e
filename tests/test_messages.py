"""The life of a message, called as web and commands call it, on both stores."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import crypto
import keyfile
from drafts import read_draft
from errors import (
    BodyTooLarge,
    Damaged,
    FieldRefused,
    KeyMissing,
    NotFound,
    OpeningRequired,
    PassphraseRequired,
    StoreFailed,
    TriesInUse,
    Unavailable,
    WrongPassphrase,
)
from keyfile import KeyFile
from messages import Vault
from messages.purging import purge
from messages.vaults import take_down
from records import Created, Draft, Millis, Purged, RowId
from storage.sqlite import SqliteStore
from tests.serving import DATABASES
from tests.stores import new_row

NOW = 1_800_000_000_500
WEEK = 604_800
KEY, OTHER_KEY = "k" * 16, "o" * 16


@dataclass
class Server:
    """A vault, and what stands around it."""

    vault: Vault
    path: Path | None
    keys: Path
    now: int = NOW

    def clock(self) -> Millis:
        return Millis(self.now)

    def restart(self, keys: Path | None = None) -> None:
        """Open the store anew where it is a file, and in any case read the key file anew."""
        if self.path:
            self.vault.store.close()
            self.vault.store = SqliteStore(self.path, 64 << 20, self.clock)
        self.vault = Vault(self.vault.store, KeyFile(keys or self.keys), 30, 64 * 1024)

    def used(self, message: Created) -> tuple[Any, ...]:
        """Everything a refusal must leave as it was."""
        row = self.vault.store.history(row_of(message))
        assert row
        return (row.views_left, row.tries_free, row.openings, row.ended)


@pytest.fixture(params=DATABASES)
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(crypto, "RFC_9106_LOW_MEMORY", (1024, 1))
    keys = tmp_path / "key.json"
    keyfile.create(keys)
    path = tmp_path / "mayfly.db" if request.param == "file" else None
    server = Server(None, path, keys)  # type: ignore[arg-type]
    server.vault = Vault(SqliteStore(path, 64 << 20, server.clock), KeyFile(keys), 30, 64 * 1024)
    yield server
    server.vault.store.close()


@pytest.fixture
def vault(server: Server) -> Vault:
    return server.vault


def row_of(message: Created) -> RowId:
    return crypto.row_id(uuid.UUID(message.link_id).bytes)


# Creating, reading, opening


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=300))
@example(text="<b>&amp;</b>\r\n\n\n")
def test_what_was_put_in_comes_out(server: Server, text: str) -> None:
    for format_ in ("text", "markdown"):
        message = server.vault.create(read_draft({"message": text, "format": format_}))
        for opened in (server.vault.read(message.link_id), server.vault.open(message.link_id)):
            assert opened.content.message == text
            assert opened.content.format == format_


def test_link_is_a_random_uuid_and_no_two_are_alike(vault: Vault) -> None:
    links = [uuid.UUID(vault.create(Draft("m")).link_id) for _ in range(50)]
    assert len(set(links)) == 50
    assert {(link.version, link.variant) for link in links} == {(4, uuid.RFC_4122)}
    for position in set(range(16)) - {6, 8}:
        assert len({link.bytes[position] for link in links}) > 20


@pytest.mark.parametrize("seconds", [60, WEEK])
def test_message_is_readable_until_expires_at(server: Server, seconds: int) -> None:
    """`expires_at` is a whole second, and never later than was asked for."""
    message = server.vault.create(Draft("m", expires_in=seconds))
    assert message.expires_at == NOW - 500 + seconds * 1000
    server.now = message.expires_at - 1
    assert server.vault.read(message.link_id).content.message == "m"
    server.now = message.expires_at
    for act in (server.vault.read, server.vault.open, server.vault.preview):
        with pytest.raises(NotFound):
            act(message.link_id)


@pytest.mark.parametrize("text", ["", "\x00", "a\x00b"])
def test_text_that_cannot_be_kept_is_refused(vault: Vault, text: str) -> None:
    with pytest.raises(FieldRefused) as refused:
        vault.create(Draft(text))
    assert refused.value.field == "message"
    assert vault.counts().stored == 0


def test_message_is_bounded_in_bytes(vault: Vault) -> None:
    assert vault.create(Draft("é" * (32 * 1024)))
    with pytest.raises(BodyTooLarge):
        vault.create(Draft("é" * (32 * 1024) + "a"))
    assert vault.counts().stored == 1


@pytest.mark.parametrize("draft", [Draft("m", views=1), Draft("m", passphrase="p"), Draft("m", views=100, passphrase="p")])
def test_reading_uses_nothing_up(server: Server, draft: Draft) -> None:
    message = server.vault.create(draft)
    before = server.used(message)
    for _ in range(3):
        with pytest.raises(OpeningRequired):
            server.vault.read(message.link_id)
        assert server.vault.preview(message.link_id).needs_passphrase == (draft.passphrase is not None)
        server.vault.receipt(message.receipt)
    assert server.used(message) == before


def test_views_are_counted_down_and_then_it_is_gone(vault: Vault) -> None:
    message = vault.create(Draft("m", views=3))
    assert [vault.open(message.link_id).views_left for _ in range(3)] == [2, 1, 0]
    for act in (vault.open, vault.read, vault.preview):
        with pytest.raises(NotFound):
            act(message.link_id)


def test_lease_gives_the_same_answer_and_no_other_reader_any(server: Server) -> None:
    message = server.vault.create(Draft("m", views=1))
    first = server.vault.open(message.link_id, None, KEY)
    assert server.vault.open(message.link_id, None, KEY) == first
    assert server.vault.preview(message.link_id, KEY).views_left == 0
    for key in (None, OTHER_KEY):
        with pytest.raises(NotFound):
            server.vault.open(message.link_id, None, key)
        with pytest.raises(NotFound):
            server.vault.preview(message.link_id, key)
    server.restart()
    assert server.vault.open(message.link_id, None, KEY) == first
    server.now += 30_000
    with pytest.raises(NotFound):
        server.vault.open(message.link_id, None, KEY)


def test_confirming_ends_the_lease(vault: Vault) -> None:
    message = vault.create(Draft("m", views=1))
    vault.open(message.link_id, None, KEY)
    with pytest.raises(NotFound):
        vault.confirm(message.link_id, OTHER_KEY)
    assert vault.open(message.link_id, None, KEY)
    vault.confirm(message.link_id, KEY)
    for act in (vault.open, lambda link, _, key: vault.confirm(link, key)):
        with pytest.raises(NotFound):
            act(message.link_id, None, KEY)


@pytest.mark.parametrize("key", ["", "k" * 15, "k" * 129, "k" * 15 + " ", "k" * 15 + "é", "k" * 16 + "\n", "k" * 15 + "/"])
def test_malformed_idempotency_key_is_refused_and_uses_nothing_up(server: Server, key: str) -> None:
    message = server.vault.create(Draft("m", views=1))
    before = server.used(message)
    for act in (lambda: server.vault.open(message.link_id, None, key), lambda: server.vault.confirm(message.link_id, key)):
        with pytest.raises(FieldRefused) as refused:
            act()
        assert refused.value.field == "Idempotency-Key"
    assert server.used(message) == before


def link_like(link_id: str) -> list[str]:
    return [
        "",
        "x",
        link_id.upper(),
        link_id.replace("-", ""),
        link_id + "0",
        " " + link_id,
        link_id + "\n",
        link_id[:-1] + "é",
        "%00",
    ]


def test_only_the_link_itself_opens(vault: Vault) -> None:
    message = vault.create(Draft("m", views=1))
    letters = [at for at, letter in enumerate(message.link_id) if letter.isalnum()]
    for at in letters:
        other = message.link_id[:at] + ("0" if message.link_id[at] != "0" else "1") + message.link_id[at + 1 :]
        with pytest.raises(NotFound):
            vault.open(other)
    for other in link_like(message.link_id):
        if other != message.link_id:
            with pytest.raises(NotFound):
                vault.open(other)
    assert vault.open(message.link_id)


# Passphrases


def test_wrong_passphrase_uses_a_try_and_no_view(server: Server) -> None:
    message = server.vault.create(Draft("m", views=1, passphrase="right"))
    for left in (4, 3, 2, 1):
        with pytest.raises(WrongPassphrase) as refused:
            server.vault.open(message.link_id, "wrong")
        assert refused.value.tries_left == left
        assert server.used(message) == (1, left, (), None)
    assert server.vault.open(message.link_id, "right").content.message == "m"


def test_fifth_wrong_passphrase_destroys_the_message(vault: Vault) -> None:
    message = vault.create(Draft("m", passphrase="right"))
    for left in (4, 3, 2, 1, 0):
        with pytest.raises(WrongPassphrase) as refused:
            vault.open(message.link_id, "wrong")
        assert refused.value.tries_left == left
    with pytest.raises(NotFound):
        vault.open(message.link_id, "right")
    assert vault.receipt(message.receipt).state == "locked"


def test_missing_passphrase_uses_nothing_up(server: Server) -> None:
    message = server.vault.create(Draft("m", views=1, passphrase="right"))
    before = server.used(message)
    for _ in range(6):
        with pytest.raises(PassphraseRequired):
            server.vault.open(message.link_id)
    assert server.used(message) == before


def test_right_passphrase_gives_its_try_back(server: Server) -> None:
    message = server.vault.create(Draft("m", passphrase="right"))
    for _ in range(7):
        assert server.vault.open(message.link_id, "right")
    row = server.vault.store.peek(row_of(message))
    assert row and row.tries_free == 5


def test_reserved_tries_are_waited_for_and_not_used_up(server: Server) -> None:
    message = server.vault.create(Draft("m", views=1, passphrase="right"))
    for _ in range(5):
        assert server.vault.store.reserve_try(row_of(message))
    with pytest.raises(TriesInUse):
        server.vault.open(message.link_id, "right")
    for _ in range(5):
        server.vault.store.return_try(row_of(message))
    assert server.vault.open(message.link_id, "right")


def test_check_that_could_not_be_made_gives_its_try_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    message = server.vault.create(Draft("m", views=1, passphrase="right"))
    before = server.used(message)
    monkeypatch.setattr(crypto, "_ARGON2_WAIT_SECONDS", 0.01)
    for _ in range(4):
        crypto._argon2_turn.acquire()
    try:
        for _ in range(6):
            with pytest.raises(Unavailable):
                server.vault.open(message.link_id, "right")
    finally:
        crypto._argon2_turn.release(4)
    assert server.used(message) == before


def test_passphrase_for_a_message_without_one_does_no_harm(vault: Vault) -> None:
    assert vault.open(vault.create(Draft("m", views=1)).link_id, "anything").content.message == "m"


# Receipts


def test_receipt_tells_what_became_of_the_message(server: Server) -> None:
    vault = server.vault
    message = vault.create(Draft("m", views=2, expires_in=3600))
    receipt = vault.receipt(message.receipt)
    assert (receipt.state, receipt.created_at, receipt.expires_at) == ("waiting", NOW, message.expires_at)
    assert (receipt.opened, receipt.views_left) == ((), 2)
    server.now += 1000
    vault.open(message.link_id)
    receipt = vault.receipt(message.receipt)
    assert (receipt.state, receipt.opened, receipt.views_left) == ("opened", (NOW + 1000,), 1)
    server.now += 1000
    vault.open(message.link_id)
    assert (vault.receipt(message.receipt).state, vault.receipt(message.receipt).views_left) == ("opened", 0)


@pytest.mark.parametrize("purged", [False, True])
def test_receipt_of_an_expired_message_says_so_before_and_after_the_purge(server: Server, purged: bool) -> None:
    never, once = server.vault.create(Draft("m", expires_in=60)), server.vault.create(Draft("m", expires_in=60, views=5))
    server.vault.open(once.link_id)
    server.now = never.expires_at
    if purged:
        assert purge(server.vault.store) == 2
    assert server.vault.receipt(never.receipt).state == "expired"
    assert server.vault.receipt(once.receipt).state == "opened"
    assert server.vault.receipt(once.receipt).views_left == 0


def test_receipt_burns_its_message_and_only_once(vault: Vault) -> None:
    message = vault.create(Draft("m"))
    burned = vault.burn(message.receipt)
    assert (burned.state, burned.views_left) == ("burned", 0)
    assert vault.burn(message.receipt) == burned
    with pytest.raises(NotFound):
        vault.read(message.link_id)


def test_burning_what_was_opened_or_expired_changes_nothing(server: Server) -> None:
    message = server.vault.create(Draft("m", views=1))
    server.vault.open(message.link_id)
    assert server.vault.burn(message.receipt).state == "opened"
    message = server.vault.create(Draft("m"))
    server.now = message.expires_at
    assert server.vault.burn(message.receipt).state == "expired"


def test_receipt_ends_eight_days_after_creation(server: Server) -> None:
    message = server.vault.create(Draft("m"))
    server.now = NOW + 8 * 24 * 3600 * 1000 - 1
    purge(server.vault.store)
    assert server.vault.receipt(message.receipt).state == "expired"
    server.now += 1
    for act in (server.vault.receipt, server.vault.burn):
        with pytest.raises(NotFound):
            act(message.receipt)


def test_a_thousand_wrong_receipts_burn_nothing(server: Server) -> None:
    """With the right row and a wrong secret, the right secret and a wrong row, of other lengths, and no tokens at all."""
    message = server.vault.create(Draft("m", views=1))
    before = server.used(message)
    raw = base64.urlsafe_b64decode(message.receipt)
    other = server.vault.create(Draft("m"))
    wrong = [raw[:32] + os.urandom(16) for _ in range(250)]
    wrong += [os.urandom(32) + raw[32:] for _ in range(125)]
    wrong += [bytes(byte ^ (at == bit // 8) << bit % 8 for at, byte in enumerate(raw)) for bit in range(len(raw) * 8)]
    wrong += [raw[:cut] for cut in range(len(raw))] + [raw + bytes(more) for more in range(1, 40)]
    wrong += [raw[:32] + base64.urlsafe_b64decode(other.receipt)[32:], raw[:32] + bytes(16), raw[:32] * 2, raw[16:] + raw[:16]]
    tokens = [base64.urlsafe_b64encode(token).decode() for token in wrong]
    tokens += [
        *link_like(message.receipt)[:2],
        "é",
        "\ud800",
        message.receipt.swapcase(),
        message.link_id,
        message.receipt[:-1],
        "=" * 64,
    ]
    tokens += ["A" * number for number in range(200)]
    assert len(tokens) >= 1000
    for token in tokens:
        for act in (server.vault.burn, server.vault.receipt):
            with pytest.raises(NotFound):
                act(token)
    assert server.used(message) == before
    assert server.vault.open(message.link_id)


def test_link_is_no_receipt_and_receipt_no_link(vault: Vault) -> None:
    message = vault.create(Draft("m", views=1))
    raw = base64.urlsafe_b64decode(message.receipt)
    with pytest.raises(NotFound):
        vault.open(str(uuid.UUID(bytes=raw[32:], version=4)))
    link = uuid.UUID(message.link_id).bytes
    with pytest.raises(NotFound):
        vault.burn(base64.urlsafe_b64encode(raw[:32] + link).decode())


# Taking down, purging


@pytest.mark.parametrize("form", ["{}", "https://secrets.example/message/{}", "  http://127.0.0.1:8000/message/{}?x#y\n"])
def test_admin_takes_a_message_down_by_its_link(vault: Vault, form: str) -> None:
    message, other = vault.create(Draft("m")), vault.create(Draft("o"))
    assert take_down([vault], form.format(message.link_id))
    assert not take_down([vault], form.format(message.link_id))
    assert not take_down([vault], "no link")
    assert vault.receipt(message.receipt).state == "burned"
    assert vault.read(other.link_id)


class Stumbling(SqliteStore):
    """A store that does not answer when it is asked for these slices, counted from 1."""

    missed: frozenset[int] = frozenset()
    asked = 0

    def purge(self, slice_rows: int) -> Purged:
        self.asked += 1
        if self.asked in self.missed:
            raise StoreFailed
        return super().purge(slice_rows)


@pytest.mark.parametrize(
    ("missed", "left"),
    [(set(), 0), ({2}, 0), ({2, 3, 5}, 0), ({1}, 350), ({2, 3, 4, 5}, 250)],
    ids=["never", "once", "now and then", "at once", "for good"],
)
def test_purge_asks_again_for_a_slice_that_was_not_done_in_time(
    missed: set[int], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million rows in, a database writes a checkpoint. One that is down from the beginning is told so at once."""
    waited: list[float] = []
    monkeypatch.setattr("messages.purging.time.sleep", lambda seconds: waited.append(seconds) if seconds > 0.1 else None)
    store = Stumbling(None, 64 << 20, lambda: Millis(NOW))
    for number in range(350):
        store.put(new_row(number, created_at=Millis(NOW - 60_000), expires_at=Millis(NOW)))
    store.missed = frozenset(missed)
    if left:
        with pytest.raises(StoreFailed):
            purge(store)
    else:
        assert purge(store) == 350
    assert store.counts().expired == left
    assert sum(waited) <= 3.5


def test_purge_removes_all_that_is_due_however_many_slices(server: Server) -> None:
    for _ in range(450):
        server.vault.create(Draft("m", expires_in=60))
    kept = server.vault.create(Draft("m"))
    server.now += 60_000
    assert purge(server.vault.store) == 450
    assert purge(server.vault.store) == 0
    assert server.vault.read(kept.link_id)
    counts = server.vault.counts()
    assert (counts.stored, counts.expired) == (1, 0)


# Keys and damage


def replaced_keys(server: Server, same_ids: bool) -> Path:
    """Another key file: other keys under the same ids, or only other ids."""
    wrong = server.keys.with_name("wrong.json")
    keyfile.create(wrong)
    if same_ids:
        document = json.loads(wrong.read_text())
        (entry,) = document["keys"].values()
        name = json.loads(server.keys.read_text())["current"]
        wrong.write_text(json.dumps({**document, "current": name, "keys": {name: entry}}))
    return wrong


@pytest.mark.parametrize("same_ids", [False, True])
@pytest.mark.parametrize("passphrase", [None, "right"])
def test_wrong_key_file_is_told_and_uses_nothing_up(server: Server, same_ids: bool, passphrase: str | None) -> None:
    """The store knows its keys by their verifiers; with the right file again everything opens."""
    message = server.vault.create(Draft("m", views=1, passphrase=passphrase))
    before = server.used(message)
    server.restart(replaced_keys(server, same_ids))
    for _ in range(6):
        with pytest.raises(KeyMissing):
            server.vault.open(message.link_id, passphrase)
    assert server.used(message) == before
    if same_ids:
        with pytest.raises(KeyMissing):
            server.vault.create(Draft("m"))
    server.restart()
    assert server.vault.open(message.link_id, passphrase).content.message == "m"


def change_body(server: Server, message: Created, body: bytes) -> None:
    server.vault.store._db.execute(  # type: ignore[attr-defined]
        "UPDATE bodies SET body = ? WHERE n = (SELECT n FROM messages WHERE id = ?)", (body, row_of(message))
    )


def body_of(server: Server, message: Created) -> bytes:
    found = server.vault.store.fetch(row_of(message), None)
    assert found
    return found[1]


@pytest.mark.parametrize("passphrase", [None, "right"])
def test_damaged_body_is_refused_and_uses_nothing_up(server: Server, passphrase: str | None) -> None:
    """One flipped bit at any place; mended, it opens."""
    message = server.vault.create(Draft("m", views=1, passphrase=passphrase))
    before, body = server.used(message), body_of(server, message)
    for at in range(len(body)):
        change_body(server, message, body[:at] + bytes((body[at] ^ 1,)) + body[at + 1 :])
        with pytest.raises((Damaged, KeyMissing)):
            server.vault.open(message.link_id, passphrase)
    change_body(server, message, b"")
    with pytest.raises(Damaged):
        server.vault.open(message.link_id, passphrase)
    assert server.used(message) == before
    change_body(server, message, body)
    assert server.vault.open(message.link_id, passphrase).content.message == "m"


@pytest.mark.parametrize("passphrase", [None, "right"])
def test_swapped_bodies_are_refused_and_use_nothing_up(server: Server, passphrase: str | None) -> None:
    messages = [server.vault.create(Draft(text, views=1, passphrase=passphrase)) for text in ("first", "second")]
    before, bodies = [server.used(message) for message in messages], [body_of(server, message) for message in messages]
    for message, body in zip(messages, reversed(bodies), strict=True):
        change_body(server, message, body)
    for message in messages:
        with pytest.raises(Damaged):
            server.vault.open(message.link_id, passphrase)
    assert [server.used(message) for message in messages] == before
    for message, body in zip(messages, bodies, strict=True):
        change_body(server, message, body)
    assert [server.vault.open(message.link_id, passphrase).content.message for message in messages] == ["first", "second"]


def test_failing_store_uses_nothing_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim is the last thing that can fail, and it failed whole."""
    message = server.vault.create(Draft("m", views=1, passphrase="right"))
    before = server.used(message)
    server.vault.store._db.execute(  # type: ignore[attr-defined]
        "CREATE TEMP TRIGGER broken BEFORE UPDATE OF views_left ON main.messages BEGIN SELECT raise(ABORT, 'no'); END"
    )
    for _ in range(6):
        with pytest.raises(StoreFailed):
            server.vault.open(message.link_id, "right")
    assert server.used(message) == before
    server.vault.store._db.execute("DROP TRIGGER broken")  # type: ignore[attr-defined]
    assert server.vault.open(message.link_id, "right")


def test_after_rotation_everything_new_opens_under_the_new_key_alone(server: Server) -> None:
    """And what is old opens until its key is dropped."""
    old = server.vault.create(Draft("old", views=2))
    old_name = json.loads(server.keys.read_text())["current"]
    retired = datetime.now(UTC)
    keyfile.rotate(server.keys, retired)
    server.restart()
    new = [server.vault.create(Draft("new", views=1, passphrase=passphrase)) for passphrase in (None, "right")]
    assert server.vault.open(old.link_id).content.message == "old"
    keyfile.drop(server.keys, old_name, retired + timedelta(days=8))
    server.restart()
    assert [server.vault.open(message.link_id, "right").content.message for message in new] == ["new", "new"]
    with pytest.raises(KeyMissing):
        server.vault.open(old.link_id)
    assert server.used(old)[0] == 1


def test_message_sealed_by_another_process_with_a_newer_key_opens_at_once(server: Server) -> None:
    """This process has not looked at the key file since: an unknown key id makes it look."""
    keyfile.rotate(server.keys, datetime.now(UTC))
    other = another_process(server)
    message = other.create(Draft("m", views=1))
    assert server.vault.open(message.link_id).content.message == "m"


def another_process(server: Server) -> Vault:
    return Vault(server.vault.store, KeyFile(server.keys), 30, 64 * 1024)


def test_stored_bytes_hold_neither_text_nor_link_nor_tokens(server: Server) -> None:
    message = server.vault.create(Draft("canary " * 20, views=2, passphrase="p4ssphrase"))
    server.vault.open(message.link_id, "p4ssphrase", KEY)
    dump = "\n".join(server.vault.store._db.iterdump())  # type: ignore[attr-defined]
    raw = base64.urlsafe_b64decode(message.receipt)
    for secret in ("canary", "p4ssphrase", message.link_id, message.receipt, KEY):
        assert secret not in dump
        assert secret.encode().hex() not in dump.lower()
    for secret in (uuid.UUID(message.link_id).bytes, raw[32:]):
        assert secret.hex() not in dump.lower()
    assert raw[:32].hex() in dump.lower(), "the row id itself is there, so that the search finds what is to be found"
