"""Any order of events, on every store, against a model of a few lines: a message is what the model says, or it is a bug."""

from __future__ import annotations

import tempfile
import unittest
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import crypto
import keyfile
from database import MessageStore
from errors import FieldRefused, MayflyError, NotFound, OpeningRequired, PassphraseRequired, ProofRequired, WrongPassphrase
from keyfile import KeyFile
from messages import Vault
from messages.purging import purge
from messages.vaults import take_down
from records import Created, Draft, Millis, Receipt
from tests.stores import STORES, new_place

START = 1_800_000_000_250
LEASE_MS = 30_000
RECEIPT_MS = 8 * 24 * 3600 * 1000
KEYS = ("first-reader-0001", "second-reader-002")
RIGHT, WRONG = "right", "wrong"
WRONG_PROOF = "w" * 43


@dataclass
class Model:
    """What a message is, without a store: `leases` are the end and the number told of each, `ended` how it was destroyed.

    A `proof` makes it a document; `tries` says whether a wrong passphrase, or a wrong proof, is counted.
    """

    created: Created
    text: str
    passphrase: str | None
    proof: str | None
    tries: bool
    created_at: int
    expires_at: int
    views: int | None
    wrong: int = 0
    openings: list[int] = field(default_factory=list)
    leases: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended: str | None = None
    purged: bool = False

    def there(self, now: int) -> bool:
        return self.ended is None and not self.purged and now < self.expires_at

    def leased(self, now: int, key: str | None) -> bool:
        return key in self.leases and self.there(now) and now < self.leases[key][0]

    def openable(self, now: int, key: str | None = None) -> bool:
        return self.there(now) and (self.views != 0 or self.leased(now, key))

    def body_due(self, now: int) -> bool:
        """Whether the purge has a body to remove."""
        if self.ended or self.purged:
            return False
        return now >= self.expires_at or (self.views == 0 and all(until <= now for until, _ in self.leases.values()))

    def receipt(self, now: int) -> Receipt | None:
        if now >= self.created_at + RECEIPT_MS:
            return None
        there = self.there(now)
        if self.ended in ("burned", "locked"):
            state = self.ended
        else:
            state = "opened" if self.openings else "waiting" if there else "expired"
        opened = tuple(map(Millis, self.openings[-100:]))
        return Receipt(state, Millis(self.created_at), Millis(self.expires_at), opened, self.views if there else 0)  # type: ignore[arg-type]


WHICH = st.integers(0, 7)
FEW = precondition(lambda self: sum(model.there(self.now) for model in self.models) < 2)  # so that much happens to each


def on_a_message(**drawn: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule about one of the messages: most often about one that somebody can open."""

    def decorate(act: Callable[..., None]) -> Any:
        def run(self: Life, which: int, **values: Any) -> None:
            act(self, self.pick(which), **values)

        run.__name__ = act.__name__
        return precondition(lambda self: self.models)(rule(which=WHICH, **drawn)(run))

    return decorate


class Life(RuleBasedStateMachine):
    """The vault on the memory store."""

    store_name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # 1 MiB and one pass: the parameters travel in the envelope, so nothing else changes.
        self.patch.setattr(crypto, "RFC_9106_LOW_MEMORY", (1024, 1))
        self.folder = tempfile.TemporaryDirectory()
        self.now = START
        self.rotations = 0
        self.models: list[Model] = []

    @initialize()
    def start(self) -> None:
        self.key_path = Path(self.folder.name) / "key.json"
        keyfile.create(self.key_path)
        self.place = new_place(self.store_name, Path(self.folder.name))
        self.vault = Vault(self.open_store(), KeyFile(self.key_path), LEASE_MS // 1000, 64 * 1024)

    def open_store(self) -> MessageStore:
        return self.place.open(lambda: Millis(self.now))

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.close()
        self.patch.undo()
        self.folder.cleanup()

    def pick(self, which: int) -> Model:
        alive = [model for model in self.models if any(model.openable(self.now, key) for key in (None, *KEYS))]
        pool = alive if alive and which else self.models
        return pool[-1 - which % len(pool)]

    # What people do

    @FEW
    @rule(
        text=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20),
        views=st.sampled_from([None, 1, 2, 3]),
        expires_in=st.sampled_from([60, 3600, 604_800]),
        passphrase=st.sampled_from([None, RIGHT]),
    )
    def create(self, text: str, views: int | None, expires_in: int, passphrase: str | None) -> None:
        created = self.vault.create(Draft(text, expires_in, views, passphrase))
        assert created.encryption == "server"
        self.remember(Model(created, text, passphrase, None, bool(passphrase), self.now, self.end_of(expires_in), views))

    @FEW
    @rule(
        text=st.text(st.characters(codec="utf-8"), max_size=20),
        views=st.sampled_from([None, 1, 2, 3]),
        expires_in=st.sampled_from([60, 3600, 604_800]),
        needs_passphrase=st.booleans(),
    )
    def create_document(self, text: str, views: int | None, expires_in: int, needs_passphrase: bool) -> None:
        """End-to-end encrypted: the server has a proof to check, and never a passphrase."""
        proof = f"{len(self.models):043}"
        document = Draft("", expires_in, views, document=text, proof=proof, needs_passphrase=needs_passphrase)
        created = self.vault.create(document)
        assert created.encryption == "end-to-end"
        self.remember(Model(created, text, None, proof, needs_passphrase, self.now, self.end_of(expires_in), views))

    def end_of(self, expires_in: int) -> int:
        return self.now - self.now % 1000 + expires_in * 1000

    def remember(self, model: Model) -> None:
        assert (model.created.views, model.created.expires_at) == (model.views, model.expires_at)
        self.models.append(model)

    @on_a_message()
    def read(self, model: Model) -> None:
        def act() -> str:
            return self.vault.read(model.created.link_id).content.message

        if not model.openable(self.now):
            self.refused(NotFound, act)
        elif model.views is not None or model.passphrase or model.proof:
            self.refused(OpeningRequired, act)
        else:
            assert act() == model.text

    @on_a_message(key=st.sampled_from([None, *KEYS]))
    def preview(self, model: Model, key: str | None) -> None:
        if not model.openable(self.now, key):
            self.refused(NotFound, lambda: self.vault.preview(model.created.link_id, key))
        else:
            preview = self.vault.preview(model.created.link_id, key)
            assert (preview.expires_at, preview.views_left) == (model.expires_at, model.views)
            assert (preview.needs_passphrase, preview.encryption) == (model.tries, model.created.encryption)

    @on_a_message(key=st.sampled_from([None, None, *KEYS]), times=st.sampled_from([1, 1, 2, 6]))
    def open(self, model: Model, key: str | None, times: int) -> None:
        for _ in range(times):
            self.open_once(model, key)

    def open_once(self, model: Model, key: str | None) -> None:
        if not model.openable(self.now, key):
            self.refused(NotFound, lambda: self.vault.open(model.created.link_id, model.passphrase, key, model.proof))
            return
        opened = self.vault.open(model.created.link_id, model.passphrase, key, model.proof)
        assert (opened.content.format == "document") == (model.proof is not None)
        assert (opened.content.message, opened.expires_at) == (model.text, model.expires_at)
        if key and model.leased(self.now, key):
            assert opened.views_left == model.leases[key][1]
            return
        model.openings.append(self.now)
        if model.views is not None:
            model.views -= 1
            if key:
                model.leases[key] = (min(self.now + LEASE_MS, model.expires_at), model.views)
            self.end_if_spent(model)
        assert opened.views_left == model.views

    @on_a_message(key=st.sampled_from([None, *KEYS]))
    def open_with_a_wrong_passphrase(self, model: Model, key: str | None) -> None:
        def act() -> object:
            return self.vault.open(model.created.link_id, WRONG, key)

        if not model.openable(self.now, key):
            self.refused(NotFound, act)
        elif model.passphrase:
            self.count_wrong(model, act)

    @on_a_message(key=st.sampled_from([None, *KEYS]))
    def open_with_a_wrong_proof(self, model: Model, key: str | None) -> None:
        """Which is a guess at a passphrase where the sender set one; without one there is nothing to guess."""

        def act() -> object:
            return self.vault.open(model.created.link_id, RIGHT, key, WRONG_PROOF)

        if not model.openable(self.now, key):
            self.refused(NotFound, act)
        elif model.proof and model.tries:
            self.count_wrong(model, act)
        elif model.proof:
            self.refused(ProofRequired, act)

    @on_a_message(key=st.sampled_from([None, *KEYS]))
    def open_without_its_proof(self, model: Model, key: str | None) -> None:
        if model.proof:
            error = ProofRequired if model.openable(self.now, key) else NotFound
            self.refused(error, lambda: self.vault.open(model.created.link_id, RIGHT, key))

    @on_a_message(key=st.sampled_from([None, *KEYS]))
    def open_without_its_passphrase(self, model: Model, key: str | None) -> None:
        if model.passphrase:
            error = PassphraseRequired if model.openable(self.now, key) else NotFound
            self.refused(error, lambda: self.vault.open(model.created.link_id, None, key))

    @on_a_message()
    def open_with_a_malformed_key(self, model: Model) -> None:
        self.refused(FieldRefused, lambda: self.vault.open(model.created.link_id, model.passphrase, "short"))

    @on_a_message(key=st.sampled_from(KEYS))
    def confirm(self, model: Model, key: str) -> None:
        if not model.leased(self.now, key):
            self.refused(NotFound, lambda: self.vault.confirm(model.created.link_id, key))
        else:
            self.vault.confirm(model.created.link_id, key)
            del model.leases[key]
            self.end_if_spent(model)

    @on_a_message(by_admin=st.booleans())
    def burn(self, model: Model, by_admin: bool) -> None:
        if by_admin:
            assert take_down([self.vault], model.created.link_id) == model.there(self.now)
            model.ended = "burned" if model.there(self.now) else model.ended
            return
        if model.receipt(self.now) is None:
            self.refused(NotFound, lambda: self.vault.burn(model.created.receipt))
            return
        if model.there(self.now):
            model.ended = "burned"
        assert self.vault.burn(model.created.receipt) == model.receipt(self.now)

    @on_a_message(which_other=WHICH)
    def burn_with_a_wrong_receipt(self, model: Model, which_other: int) -> None:
        other = self.pick(which_other)
        wrong = model.created.receipt[:42] + "AAAAAA" + other.created.receipt[48:]
        if wrong != model.created.receipt:
            self.refused(NotFound, lambda: self.vault.burn(wrong))

    # What happens around them

    @rule(millis=st.sampled_from([1, 749, 1000, LEASE_MS - 1, LEASE_MS, LEASE_MS, 60_000, 691_200_000]))
    def advance(self, millis: int) -> None:
        self.now += millis

    @on_a_message(before=st.sampled_from([1, 1000, LEASE_MS - 1]))
    def advance_to_shortly_before_the_end(self, model: Model, before: int) -> None:
        self.now = max(self.now, model.expires_at - before)

    @rule()
    def purge(self) -> None:
        due = [model for model in self.models if model.body_due(self.now)]
        assert purge(self.vault.store) == len(due)
        for model in due:
            model.purged = True

    @precondition(lambda self: self.store_name != "memory")
    @rule()
    def restart(self) -> None:
        self.vault.store.close()
        self.vault = Vault(self.open_store(), KeyFile(self.key_path), LEASE_MS // 1000, 64 * 1024)

    @precondition(lambda self: self.rotations < 2)  # each waits for the disk
    @rule()
    def rotate_the_key(self) -> None:
        self.rotations += 1
        name = keyfile.rotate(self.key_path, datetime.now(UTC))
        self.vault.keys._looked_at -= 2
        assert self.vault.keys.ring().current == name

    # What holds always

    @invariant()
    def every_receipt_is_what_the_model_says(self) -> None:
        for model in self.models:
            expected = model.receipt(self.now)
            if expected is None:
                self.refused(NotFound, lambda model=model: self.vault.receipt(model.created.receipt))
            else:
                assert self.vault.receipt(model.created.receipt) == expected

    @invariant()
    def counts_are_what_the_model_says(self) -> None:
        if self.models:
            counts = self.vault.counts()
            due = sum(model.body_due(self.now) for model in self.models)
            bodies = sum(model.ended is None and not model.purged for model in self.models)
            assert (counts.stored, counts.expired) == (bodies - due, due)

    def end_if_spent(self, model: Model) -> None:
        """With the last view gone and no lease alive, the body goes at once."""
        if model.views == 0 and all(until <= self.now for until, _ in model.leases.values()):
            model.ended = "spent"

    def count_wrong(self, model: Model, act: object) -> None:
        refusal = self.refused(WrongPassphrase, act)
        model.wrong += 1
        assert isinstance(refusal, WrongPassphrase)
        assert refusal.tries_left == 5 - model.wrong
        if model.wrong == 5:
            model.ended = "locked"

    def refused(self, error: type[MayflyError], act: object) -> MayflyError:
        with pytest.raises(error) as refusal:
            act()  # type: ignore[operator]
        assert type(refusal.value) is error
        return refusal.value


_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much]}
_EXAMPLES = {"memory": (100, 2000), "file": (25, 500)}
"""How many histories in every run, and at length. Those that are not named here ask a server: 8 and 200."""


def _tests_on(store_name: str) -> dict[str, type[unittest.TestCase]]:
    """The machine on one store: in every run, and at length."""
    few, many = _EXAMPLES.get(store_name, (8, 200))
    life = type(f"LifeOn{store_name.title().replace('-', '')}", (Life,), {"store_name": store_name})
    in_short = type(f"Test{life.__name__}", (life.TestCase,), {})
    in_short.settings = settings(max_examples=few, stateful_step_count=50, **_COMMON)
    at_length = pytest.mark.long(type(f"Test{life.__name__}AtLength", (life.TestCase,), {}))
    at_length.settings = settings(max_examples=many, stateful_step_count=80, **_COMMON)
    return {test.__name__: test for test in (in_short, at_length)}


for _name in STORES:
    globals().update(_tests_on(_name))
