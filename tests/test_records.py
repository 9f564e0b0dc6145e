"""Guarded messages: the audience is judged first, a record shows each reader their own, and the audit comes before the answer."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import crypto
import keyfile
from access.audiences import admits
from access.roles import redacted
from audit import Audit
from database import AccessStore, open_access
from drafts import read_draft
from errors import (
    AccountRequired,
    AuditFailed,
    FieldRefused,
    MayflyError,
    NotFound,
    OpeningRequired,
    PassphraseRequired,
    ProofRequired,
    ScopeRequired,
    StoreFailed,
    StoreFull,
    WrongPassphrase,
)
from keyfile import KeyFile
from messages import Vault, anyone_with_the_link, whoever_is_signed_in
from messages.vaults import take_down
from records import (
    EVERY_ACCOUNT,
    NOBODY,
    Account,
    AccountId,
    Actor,
    Audience,
    Created,
    Draft,
    Millis,
    Role,
    VaultName,
)
from settings import Settings
from storage.sqlite import SqliteStore
from tests.stores import SetClock, race

KEY = "k" * 16
CARD = "4111111111111111"
RECORD = {
    "format": "record",
    "message": {"name": "Ada Lovelace", "card": CARD, "pin": "0000"},
    "policy": {"payments": {"name": "show", "card": "show"}, "support": {"name": "show", "card": "mask"}},
}


def signed_in(name: str, *roles: str) -> Actor:
    names = frozenset(map(Role, roles))
    account = Account(AccountId(f"id of {name}"), f"{name}@example.com", name, "", names, True, Millis(0), Millis(0))
    return Actor(account, EVERY_ACCOUNT, "session", f"session of {name}", "192.0.2.7")


PAYER, SUPPORTER, OTHER = signed_in("payer", "payments"), signed_in("supporter", "support"), signed_in("other", "kitchen")
LINK_HOLDER = Actor(address="192.0.2.9")
OPERATOR = Actor(way="admin token", address="192.0.2.1")
FOR_PAYMENTS = Audience(False, frozenset({Role("payments")}))


@dataclass
class House:
    """A vault with an audit, each in a store of its own."""

    vault: Vault
    access: AccessStore
    accounts: Path

    def told(self) -> list[tuple[str, str, str]]:
        """What the audit says: action, outcome, and who."""
        return [(entry.action, entry.outcome, entry.email or entry.way) for entry in self.access.entries()]

    def used(self, message: Created) -> tuple[object, ...]:
        """Everything a refusal must leave as it was."""
        row = self.vault.store.history(row_id(message))
        assert row
        return (row.views_left, row.tries_free, row.openings, row.ended)

    def break_audit(self) -> None:
        self._tell("ALTER TABLE mayfly_entries RENAME TO away")

    def mend_audit(self) -> None:
        self._tell("ALTER TABLE away RENAME TO mayfly_entries")

    def _tell(self, statement: str) -> None:
        with closing(sqlite3.connect(self.accounts)) as db:
            db.execute(statement)
            db.commit()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(crypto, "RFC_9106_LOW_MEMORY", (1024, 1))
    with closing_house(tmp_path, "guarded") as made:
        yield made


@pytest.fixture
def open_house(tmp_path: Path) -> Iterator[House]:
    with closing_house(tmp_path, "open") as made:
        yield made


class closing_house:
    def __init__(self, folder: Path, name: VaultName) -> None:
        path = folder / "key.json"
        keyfile.create(path)
        keys, clock = KeyFile(path), SetClock()
        access = open_access(Settings(), path, clock)
        assert access
        vault = Vault(
            SqliteStore(None, 64 << 20, clock),
            keys,
            30,
            64 * 1024,
            name,
            anyone_with_the_link if name == "open" else whoever_is_signed_in,
            admits=admits,
            redact=redacted,
            audit=Audit(access, keys),
        )
        self.house = House(vault, access, folder / "accounts.db")

    def __enter__(self) -> House:
        return self.house

    def __exit__(self, *_: object) -> None:
        self.house.vault.store.close()
        self.house.access.close()


def row_id(message: Created) -> crypto.RowId:
    return crypto.row_id(bytes.fromhex(message.link_id.replace("-", "")))


def record(house: House, **changes: object) -> Created:
    return house.vault.create(read_draft({**RECORD, **changes}, "guarded"))


def every_way(vault: Vault, message: Created, actor: Actor) -> list[Callable[[], object]]:
    """All that somebody with the link can try."""
    link = message.link_id
    return [
        lambda: vault.read(link, actor),
        lambda: vault.preview(link, None, actor),
        lambda: vault.preview(link, KEY, actor),
        lambda: vault.open(link, actor=actor),
        lambda: vault.open(link, "right", KEY, actor=actor),
        lambda: vault.open(link, "wrong", actor=actor),
        lambda: vault.open(link, None, KEY, "A" * 43, actor),
        lambda: vault.confirm(link, KEY, actor),
    ]


# Who may come in at all


@pytest.mark.parametrize(
    ("actor", "refusal"),
    [
        (NOBODY, AccountRequired),
        (LINK_HOLDER, AccountRequired),
        (OPERATOR, AccountRequired),
        (Actor(scopes=EVERY_ACCOUNT), AccountRequired),
        (replace(PAYER, scopes=frozenset({"messages:create"})), ScopeRequired),
    ],
)
def test_who_may_not_read_here_learns_nothing_and_leaves_no_trace(house: House, actor: Actor, refusal: type[MayflyError]) -> None:
    """The same for a message that is there and one that never was; nothing is looked up or written."""
    message = house.vault.create(Draft("m", views=1, passphrase="right"))
    before = house.used(message)
    for other in (message, replace(message, link_id="00000000-0000-4000-8000-000000000000"), replace(message, link_id="x")):
        for act in every_way(house.vault, other, actor):
            with pytest.raises(refusal) as refused:
                act()
            assert type(refused.value) is refusal
    assert house.used(message) == before
    assert house.told() == []


# The audience


DRAFTS = [
    Draft("m", views=1, audience=FOR_PAYMENTS),
    Draft("m", audience=FOR_PAYMENTS),
    Draft("m", views=1, passphrase="right", audience=FOR_PAYMENTS),
    Draft(document='{"v":2}', proof="A" * 43, views=1, audience=FOR_PAYMENTS),
    Draft(document='{"v":2}', proof="B" * 43, needs_passphrase=True, views=1, audience=FOR_PAYMENTS),
    Draft("m", views=1, audience=Audience(False, frozenset(), frozenset({"payer@example.com"}))),
    Draft("m", views=1, passphrase="right", audience=Audience(False)),
]


@pytest.mark.parametrize("draft", DRAFTS, ids=lambda draft: str(DRAFTS.index(draft)))
def test_outside_the_audience_there_is_nothing_and_nothing_is_used_up(house: House, draft: Draft) -> None:
    """No view and no try, however often and whatever is sent along; a link that never was is refused in the same words."""
    message = house.vault.create(draft)
    before = house.used(message)
    never = replace(message, link_id="00000000-0000-4000-8000-000000000000")
    for actor in (SUPPORTER, OTHER, signed_in("nobody")):
        for act, of_never in zip(every_way(house.vault, message, actor), every_way(house.vault, never, actor), strict=True):
            with pytest.raises(NotFound) as refused:
                act()
            with pytest.raises(NotFound) as refused_of_never:
                of_never()
            assert str(refused.value) == str(refused_of_never.value)
    assert house.used(message) == before
    assert {told[1] for told in house.told()} == {"refused"}
    assert len(house.told()) == 3 * 8 * 2, "each refusal is told, and alike of a link that never was: telling takes time"


def test_inside_the_audience_it_opens(house: House) -> None:
    for audience in (
        FOR_PAYMENTS,
        Audience(),
        Audience(False, frozenset(), frozenset({"payer@example.com"})),
        Audience(False, frozenset(), frozenset({"id of payer"})),
    ):
        message = house.vault.create(Draft("m", views=1, passphrase="right", audience=audience))
        with pytest.raises(PassphraseRequired):
            house.vault.open(message.link_id, actor=PAYER)
        assert house.vault.preview(message.link_id, None, PAYER).needs_passphrase
        assert house.vault.open(message.link_id, "right", actor=PAYER).content.message == "m"


def test_roles_count_as_they_are_now(house: House) -> None:
    """Under a lease too: who lost the role between two openings gets nothing more."""
    message = record(house, views=1, audience="role:payments")
    assert json.loads(house.vault.open(message.link_id, None, KEY, actor=PAYER).content.message)["card"] == CARD
    assert PAYER.account
    demoted = replace(PAYER, account=replace(PAYER.account, roles=frozenset({Role("support")})))
    for act in every_way(house.vault, message, demoted):
        with pytest.raises(NotFound):
            act()
    assert house.vault.open(message.link_id, None, KEY, actor=PAYER)


def test_documents_have_an_audience_and_their_proof_is_asked_of_it_alone(house: House) -> None:
    message = house.vault.create(Draft(document='{"v":2}', proof="B" * 43, needs_passphrase=True, views=1, audience=FOR_PAYMENTS))
    with pytest.raises(ProofRequired):
        house.vault.open(message.link_id, actor=PAYER)
    with pytest.raises(WrongPassphrase):
        house.vault.open(message.link_id, proof="A" * 43, actor=PAYER)
    assert house.vault.open(message.link_id, proof="B" * 43, actor=PAYER).content.message == '{"v":2}'


def test_vault_that_was_given_no_judge_opens_for_nobody(house: House) -> None:
    """What is not said is not allowed."""
    bare = Vault(house.vault.store, house.vault.keys, 30, 64 * 1024, "guarded", whoever_is_signed_in)
    message = bare.create(Draft("m", views=1))
    with pytest.raises(NotFound):
        bare.open(message.link_id, actor=PAYER)
    bare.admits = admits
    shown = bare.open(record(house).link_id, actor=PAYER).content
    assert (shown.message, shown.policy) == ("{}", None)


@pytest.mark.parametrize("draft", [Draft('{"a":"b"}', format="record", policy={Role("a"): {"a": "show"}}), DRAFTS[0], DRAFTS[3]])
def test_open_vault_takes_neither_audience_nor_record(open_house: House, draft: Draft) -> None:
    with pytest.raises(FieldRefused):
        open_house.vault.create(draft)
    assert open_house.vault.counts().stored == 0


# Records


def test_each_reader_is_shown_their_own(house: House) -> None:
    message = record(house)
    for actor, seen, masked in (
        (PAYER, {"name": "Ada Lovelace", "card": CARD}, ()),
        (SUPPORTER, {"name": "Ada Lovelace", "card": "••••1111"}, ("card",)),
        (OTHER, {}, ()),
    ):
        for shown in (house.vault.read(message.link_id, actor), house.vault.open(message.link_id, actor=actor)):
            assert json.loads(shown.content.message) == seen
            assert (shown.content.format, shown.content.masked, shown.content.policy) == ("record", masked, None)


def test_reader_who_sees_nothing_of_a_record_takes_no_view(house: House) -> None:
    """It is kept for those who do; and the audit does not say that anything was answered."""
    message = record(house, views=1)
    for _ in range(3):
        shown = house.vault.open(message.link_id, None, KEY, actor=OTHER)
        assert (shown.content.message, shown.views_left) == ("{}", 1)
    assert house.used(message) == (1, None, (), None)
    assert house.told() == [("open", "refused", "other@example.com")] * 3
    assert house.vault.open(message.link_id, actor=SUPPORTER).views_left == 0


def test_policy_and_audience_can_be_judged_without_the_passphrase(house: House) -> None:
    message = record(house, passphrase="right", views=1, audience="role:payments role:support")
    with pytest.raises(WrongPassphrase):
        house.vault.open(message.link_id, "wrong", actor=SUPPORTER)
    assert json.loads(house.vault.open(message.link_id, "right", actor=SUPPORTER).content.message)["card"] == "••••1111"


def test_stored_bytes_of_a_record_hold_nothing_of_it(house: House) -> None:
    message = record(house, audience="role:payments account:payer@example.com")
    found = house.vault.store.fetch(row_id(message), None)
    assert found
    for secret in (CARD, "Ada", "card", "payments", "payer@example.com", "show"):
        assert secret.encode() not in found[1]


# The audit comes first


def test_everything_that_is_done_is_told(house: House) -> None:
    vault = house.vault
    message = vault.create(Draft("m", views=2, passphrase="right"), PAYER)
    with pytest.raises(WrongPassphrase):
        vault.open(message.link_id, "wrong", actor=OTHER)
    vault.open(message.link_id, "right", KEY, actor=PAYER)
    vault.confirm(message.link_id, KEY, PAYER)
    vault.burn(message.receipt, LINK_HOLDER)
    free = vault.create(Draft("m"))
    vault.read(free.link_id, SUPPORTER)
    assert take_down([vault], free.link_id, OPERATOR)
    locked = vault.create(Draft("m", passphrase="right"))
    for _ in range(5):
        with pytest.raises(WrongPassphrase):
            vault.open(locked.link_id, "wrong", actor=OTHER)
    assert house.told() == [
        ("create", "made", "payer@example.com"),
        ("open", "refused", "other@example.com"),
        ("open", "answered", "payer@example.com"),
        ("confirm", "done", "payer@example.com"),
        ("burn", "done", "nobody"),
        ("read", "answered", "supporter@example.com"),
        ("take-down", "done", "admin token"),
        *[("open", "refused", "other@example.com")] * 4,
        ("lock", "done", "other@example.com"),
    ]
    entries = house.access.entries()
    assert {entry.vault for entry in entries} == {"guarded"}
    assert [entry.target for entry in entries[:5]] == [vault.audit.name_of(row_id(message))] * 5  # type: ignore[union-attr]
    assert entries[4].address == "192.0.2.0/24"
    assert message.link_id not in str(entries)
    assert row_id(message).hex() not in str(entries)


def test_audit_is_told_which_fields_of_a_record_somebody_saw(house: House) -> None:
    """Names and never values; of what is hidden, not even its name. A name cannot pass for several, nor hide how many there are."""
    rules = {"name": "show", "card": "mask"}
    draft = {"policy": {"payments": {**rules, "card": "show"}, "support": rules, "clerk": {"card": "mask"}}, "views": 3}
    message = record(house, **draft)
    for reader in (PAYER, SUPPORTER, signed_in("clerk", "clerk")):
        house.vault.open(message.link_id, actor=reader)
    assert [entry.detail for entry in house.access.entries()] == [
        '2 whole, 0 masked; whole: "name", "card"',
        '1 whole, 1 masked; whole: "name"; masked: "card"',
        '0 whole, 1 masked; masked: "card"',
    ]
    names = ['a", "b"; masked: "c', *(f"{number} {'n' * 60}" for number in range(9))]
    fields, policy = dict.fromkeys(names, "value"), {"payments": dict.fromkeys(names, "show")}
    policy["payments"][names[-1]] = "mask"
    house.vault.read(record(house, message=json.dumps(fields), policy=policy).link_id, actor=PAYER)
    told = house.access.entries()[-1].detail
    assert told.startswith('9 whole, 1 masked; whole: "a\\", \\"b\\"; masked: \\"c", "0 nnn')
    assert (len(told), told[-1]) == (255, "…")


def test_what_changes_nothing_is_not_told(house: House) -> None:
    """Looking at a receipt or at what waits, burning or taking down what is gone, and creating as nobody."""
    vault = house.vault
    message = vault.create(Draft("m", views=1), LINK_HOLDER)
    vault.preview(message.link_id, None, PAYER)
    with pytest.raises(OpeningRequired):
        vault.read(message.link_id, PAYER)
    vault.receipt(message.receipt)
    vault.burn(message.receipt)
    told = house.told()
    vault.burn(message.receipt)
    assert not take_down([vault], message.link_id, OPERATOR)
    assert not take_down([vault], "00000000-0000-4000-8000-000000000000", OPERATOR)
    assert house.told() == told == [("burn", "done", "nobody")]


def test_nothing_is_revealed_or_used_up_while_the_audit_cannot_be_written(house: House) -> None:
    """Nor created by somebody, burned or taken down; afterwards it opens as if nothing had been."""
    vault = house.vault
    once = vault.create(Draft("m", views=1, passphrase="right"))
    free = vault.create(Draft("m"))
    leased = vault.create(Draft("m", views=1))
    vault.open(leased.link_id, None, KEY, actor=PAYER)
    before, stored = [house.used(message) for message in (once, free, leased)], vault.counts().stored
    house.break_audit()
    acts: list[Callable[[], object]] = [
        lambda: vault.open(once.link_id, "right", actor=PAYER),
        lambda: vault.open(once.link_id, "right", KEY, actor=PAYER),
        lambda: vault.read(free.link_id, PAYER),
        lambda: vault.open(free.link_id, actor=PAYER),
        lambda: vault.open(leased.link_id, None, KEY, actor=PAYER),
        lambda: vault.confirm(leased.link_id, KEY, PAYER),
        lambda: vault.burn(once.receipt),
        lambda: take_down([vault], once.link_id, OPERATOR),
        lambda: vault.create(Draft("m"), PAYER),
        lambda: vault.create(Draft("m", audience=FOR_PAYMENTS), PAYER),
    ]
    for act in acts:
        with pytest.raises(AuditFailed):
            act()
    assert [house.used(message) for message in (once, free, leased)] == before
    assert vault.counts().stored == stored
    house.mend_audit()
    assert vault.open(once.link_id, "right", actor=PAYER).content.message == "m"
    assert vault.open(leased.link_id, None, KEY, actor=PAYER)


def test_wrong_passphrases_count_although_the_audit_cannot_be_written(house: House) -> None:
    """Else whoever could keep it from being written could guess for ever."""
    message = house.vault.create(Draft("m", passphrase="right"))
    house.break_audit()
    for _ in range(5):
        with pytest.raises(AuditFailed):
            house.vault.open(message.link_id, "wrong", actor=PAYER)
    assert house.vault.receipt(message.receipt).state == "locked"


def test_opening_is_told_before_it_is_claimed(house: House) -> None:
    """A store that fails at the claim leaves an entry too many, never one too few."""
    message = house.vault.create(Draft("m", views=1))
    db = house.vault.store._db  # type: ignore[attr-defined]
    db.execute("CREATE TEMP TRIGGER broken BEFORE UPDATE OF views_left ON main.messages BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(StoreFailed):
        house.vault.open(message.link_id, actor=PAYER)
    assert house.told() == [("open", "answered", "payer@example.com")]
    db.execute("DROP TRIGGER broken")
    assert house.vault.open(message.link_id, actor=PAYER)


def test_losers_of_a_race_are_told_as_gone(house: House) -> None:
    """Exactly one winner; whoever was told as answered and got nothing is told again."""
    message = house.vault.create(Draft("m", views=1))

    def opening() -> str:
        try:
            return house.vault.open(message.link_id, actor=PAYER).content.message
        except NotFound:
            return "gone"

    assert sorted(map(str, race(*[opening] * 8))) == ["gone"] * 7 + ["m"]
    told = [outcome for _, outcome, _ in house.told()]
    assert told.count("answered") - told.count("gone") == 1


def test_full_store_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.vault.store = SqliteStore(None, 1 << 20, SetClock())
    with pytest.raises(StoreFull):
        for _ in range(100):
            house.vault.create(Draft("m" * 60_000), PAYER)
    assert house.told()[-2:] == [("create", "made", "payer@example.com"), ("create", "refused", "payer@example.com")]


# The open vault


def test_open_vault_tells_link_holders_only_where_it_is_asked_to(open_house: House) -> None:
    vault = open_house.vault
    vault.audits_links = False
    message = vault.create(Draft("m", views=2), LINK_HOLDER)
    vault.open(message.link_id, actor=LINK_HOLDER)
    open_house.break_audit()
    assert vault.open(message.link_id, actor=LINK_HOLDER).views_left == 0, "and does not notice that it is down"
    open_house.mend_audit()
    assert open_house.told() == []
    other = vault.create(Draft("m"), PAYER)
    assert take_down([vault], other.link_id, OPERATOR)
    assert open_house.told() == [("create", "made", "payer@example.com"), ("take-down", "done", "admin token")]
    vault.audits_links = True
    message = vault.create(Draft("m", views=1))
    vault.open(message.link_id, actor=LINK_HOLDER)
    assert open_house.told()[2:] == [("open", "answered", "nobody")]
    assert open_house.access.entries()[-1].vault == "open"


def test_audited_open_vault_reveals_nothing_while_the_audit_is_down(open_house: House) -> None:
    message = open_house.vault.create(Draft("m", views=1))
    open_house.break_audit()
    with pytest.raises(AuditFailed):
        open_house.vault.open(message.link_id)
    open_house.mend_audit()
    assert open_house.vault.open(message.link_id).content.message == "m"


def test_creating_in_the_open_vault_writes_the_envelope_it_always_did(open_house: House) -> None:
    """Nothing was added to what most messages are: no byte, and so no time."""
    message = open_house.vault.create(Draft("m"))
    found = open_house.vault.store.fetch(row_id(message), None)
    assert found
    ring = open_house.vault.keys.ring()
    link = bytes.fromhex(message.link_id.replace("-", ""))
    assert crypto.unseal(ring, link, found[1]) == b'{"format":"text"}\nm'
