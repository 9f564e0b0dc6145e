"""The audit: who did what, when, from where and with what outcome, in a chain that cannot be quietly changed.

What belongs here: writing an entry, signing how far the audit goes, verifying all of it, and dropping what is too old. How the
chain is made stands in `chain`. What is kept of a message is a keyed hash, never its link or id (decision record 0014).

Each entry has a number, one more than the one before, and a mac of two halves: the first over the entry itself, the second over
that and the mac of the entry before. So an entry that was changed or stands in another's place is told by itself, and one that is
missing, or was put there by somebody who had kept it, by its neighbours. What the chain alone cannot tell, that its end was cut
off, the signed heads do: every hour one says how far it went, and is written to the log as well, so that it is kept elsewhere.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import crypto
from audit.chain import FIRST_MAC, Keys, Statement, Walk, read_statements
from database import AccessStore
from errors import AuditFailed, Damaged, StoreFailed, Unavailable
from keyfile import KeyFile
from records import Actor, AuditEntry, Event, Millis, RowId, Sealed
from settings import Addresses

Action = Literal[
    "open", "read", "create", "confirm", "burn", "lock", "take-down", "purge",
    "sign-in", "sign-out", "password", "reset", "account", "key", "token", "certificate", "webhook", "audit",
]  # fmt: skip
ACTIONS: tuple[Action, ...] = get_args(Action)
"""What is audited. `lock`: the last wrong passphrase destroyed a message; `reset`: a link to set a password; `audit`: somebody
looked at the audit."""

Outcome = Literal["answered", "refused", "gone", "done", "made", "changed", "disabled", "deleted", "ended"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""`gone`: it was written as answered, and then there was nothing to answer with."""

MAX_PAGE = 1000
"""The most entries that somebody who looks gets at once."""
MAX_DETAIL_CHARACTERS = 255
"""Of what an entry tells in words; the rest is left out, and an ellipsis says so."""
MAX_FAULTS = 20
"""How many faults are told one by one."""

_SECRET = "audit"  # noqa: S105 - its name
_DAY = 24 * 3600 * 1000
_SLICE = 1000
_DROP_AT_ONCE = 20_000
_AGAIN = 10
"""How often what was found is looked at anew because entries were dropped meanwhile."""
_BEFORE_ALL = -(1 << 63)

_log = logging.getLogger("mayfly.audit")
_log.setLevel(logging.INFO)  # whatever the level of the log: there the signed heads are kept elsewhere


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: how many entries there are, and a sentence for each fault, with the numbers of the entries."""

    entries: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What an auditor sees: entries, the newest first; the last accesses of each account and vault, with the first page only; and
    the signed head of the audit, in which that look is the last entry."""

    entries: list[AuditEntry]
    last_accesses: list[AuditEntry]
    head: Statement


class Audit:
    """The audit in `store`; its secret is sealed under `keys`."""

    def __init__(self, store: AccessStore, keys: KeyFile, addresses: Addresses = "reduced") -> None:
        self._store = store
        self._key_file = keys
        self._addresses = addresses
        self._known_keys: Keys | None = None
        self._last_own: AuditEntry | None = None

    def write(self, event: Event) -> AuditEntry:
        """Append an entry. Raises AuditFailed when it cannot be written: then what it tells of must not be done."""
        assert event.action in ACTIONS, event.action
        assert event.outcome in OUTCOMES, event.outcome
        try:
            keys = self._keys()
            entry = _entry_of(event, self._store.now(), self._addresses)
            self._last_own = written = self._store.append(lambda last: keys.chain(entry, last))
        except Unavailable as error:
            _log.error("the audit cannot be written, and what it should tell of is not done: %s: %s", type(error).__name__, error)
            raise AuditFailed from error
        return written

    def name_of(self, row_id: RowId) -> str:
        """What the audit calls a message: 16 hexadecimal digits, not to be had without the audit's secret. Raises AuditFailed."""
        try:
            return hmac.digest(self._keys().name, row_id, "sha256")[:8].hex()
        except Unavailable as error:
            raise AuditFailed from error

    def look(
        self, actor: Actor, filters: Mapping[str, str], since: Millis, until: Millis, before: int | None, most: int = 100
    ) -> Look:
        """What `AccessStore.find_entries` finds, at most MAX_PAGE. That somebody looked is written first.

        Raises AuditFailed, StoreFailed.
        """
        looked = self.write(Event("audit", "answered", actor))
        return Look(
            self._store.find_entries(filters, since, until, before, min(most, MAX_PAGE)),
            self._store.last_accesses() if before is None else [],
            self._keys().sign("head", looked, self._store.now()),
        )

    def has_begun(self) -> bool:
        """Whether anything was ever written. Raises Damaged, StoreFailed."""
        return self._keys_if_any() is not None

    def public_key(self) -> str:
        """The Ed25519 key by which signed heads are checked, as PEM. Raises Unavailable."""
        return self._keys().signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    # What is done every hour, by one node or by several

    def sign_head(self) -> Statement | None:
        """Sign how far the audit goes, keep that in the store and write it to the log; None if that has been done already."""
        entries = self._newest()
        if not entries:
            return None
        keys = self._keys()
        self._look_for_own(keys)
        heads = self._store.heads()
        if heads and heads[-1][0] >= entries[0].number:
            return None
        head = keys.sign("head", entries[0], self._store.now())
        self._store.add_head(head.number, head.line.encode())
        _log.info("signed: %s", head.line)
        return head

    def drop(self, days: int) -> int:
        """Drop the entries that are older than `days`, and how many these were.

        Raises Damaged, and drops neither it nor what follows, when one is not as it was written: no fault goes by its age.
        """
        dropped, now = 0, self._store.now()
        while some := self._drop_some(now, Millis(now - days * _DAY)):
            dropped += some
        if dropped:
            _log.info("dropped %d entries that are older than %d days", dropped, days)
        return dropped

    # Verifying

    def verify(self, kept: Iterable[Statement] = ()) -> Verdict:
        """Recompute everything; `kept` are signed heads that were kept elsewhere. Entries may be written and dropped meanwhile.

        Raises KeyMissing, Damaged without the audit's secret, StoreFailed.
        """
        heads = [statement for statement in kept if statement.kind == "head"]
        beginning, verdict = self._store.beginning(), self._verify(heads)
        for _ in range(_AGAIN):
            began_with, beginning = beginning, self._store.beginning()
            if not verdict.faults or beginning == began_with:
                break
            verdict = self._verify(heads)
        return verdict

    def _verify(self, kept: list[Statement]) -> Verdict:
        keys = self._keys_if_any()
        if keys is None:
            return Verdict(0, tuple(f"entry {head.number}, of which there is a signed head, is missing" for head in kept))
        faults: list[str] = []
        mac: bytes | None
        try:
            number, mac = self._start(keys)
        except Damaged:
            # What is left may still be as it was written.
            faults.append("the statement with which the audit begins is not as it was signed")
            number, mac = min((first.number for first in self._store.entries(_BEFORE_ALL, 1)), default=1) - 1, None
        heads = [*self._stored_heads(keys, faults), *_of_keys(keys, kept, faults)]
        walk = Walk(keys, number, mac, heads)
        for entry in self._all(_BEFORE_ALL):
            walk.step(entry)
        walk.end()
        return Verdict(walk.entries, _in_short([*faults, *walk.faults()], len(faults) + walk.fault_count))

    def _stored_heads(self, keys: Keys, faults: list[str]) -> Iterator[Statement]:
        for number, _, signed in self._store.heads():
            found = read_statements(signed.decode(errors="replace"))
            if len(found) == 1 and (found[0].kind, found[0].number) == ("head", number) and keys.signed(found[0]):
                yield found[0]
            else:
                faults.append(f"the stored head of entry {number} is not as it was signed")

    def _all(self, after: int) -> Iterator[AuditEntry]:
        while slice_ := self._store.entries(after, _SLICE):
            yield from slice_
            after = slice_[-1].number

    # Dropping

    def _drop_some(self, now: Millis, until: Millis) -> int:
        keys = self._keys_if_any()
        if keys is None:
            return 0
        number, mac = self._start(keys)
        walk = Walk(keys, number, mac, [])
        checked: dict[int, bytes] = {}
        for entry in self._all(number):
            if entry.at >= until:
                break
            if len(checked) == _DROP_AT_ONCE:
                until = entry.at
                break
            walk.step(entry)
            checked[entry.number] = entry.mac
        if walk.fault_count:
            raise Damaged

        def signed(last: AuditEntry) -> bytes:
            if checked.get(last.number) != last.mac:
                raise Damaged
            return keys.sign("beginning", last, now).line.encode()

        return self._store.drop_entries(until, signed)

    def _start(self, keys: Keys) -> tuple[int, bytes]:
        """The number and mac after which the audit begins. Raises Damaged if the statement that says so is not ours."""
        stored = self._store.beginning()
        if stored is None:
            return 0, FIRST_MAC
        found = read_statements(stored.decode(errors="replace"))
        if len(found) != 1 or found[0].kind != "beginning" or not keys.signed(found[0]):
            raise Damaged
        return found[0].number, found[0].mac

    # The secret

    def _keys(self) -> Keys:
        """The keys of this audit, made if there is none yet. Raises Damaged if the secret of an audit that has begun is gone."""
        return self._keys_if_any() or self._make_keys()

    def _make_keys(self) -> Keys:
        self._store.add_secret(_SECRET, crypto.seal_secret(self._key_file.ring(), _SECRET, os.urandom(32)))
        keys = self._keys_if_any()  # of two nodes that start at once, the one that was first made them
        if keys is None:
            raise StoreFailed
        return keys

    def _keys_if_any(self) -> Keys | None:
        if self._known_keys is None:
            begun = self._store.entries(_BEFORE_ALL, 1)  # asked first: the secret is there before the first entry
            _, sealed = self._store.secrets(_SECRET).get(_SECRET, (None, None))
            if sealed is None:
                if begun:
                    raise Damaged
                return None
            ring = self._key_file.ring_with(crypto.key_id_of(Sealed(sealed)))
            self._known_keys = Keys.of(crypto.unseal_secret(ring, _SECRET, sealed))
        return self._known_keys

    def _newest(self) -> list[AuditEntry]:
        return self._store.find_entries({}, Millis(0), Millis((1 << 63) - 1), None, 1)

    def _look_for_own(self, keys: Keys) -> None:
        """Log it when the entry that this process wrote last is not there any more: the end was cut off under a running server."""
        own = self._last_own
        if own and own.number > self._start(keys)[0] and self._store.entries(own.number - 1, 1) != [own]:
            _log.error("entry %d is not as this process wrote it, or missing; run: python server.py audit verify", own.number)


def _entry_of(event: Event, now: Millis, addresses: Addresses) -> AuditEntry:
    account = event.actor.account
    return AuditEntry(
        number=0,
        at=now,
        account=account.id if account else "",
        email=account.email if account else "",
        way=event.actor.way,
        credential=event.actor.credential or "",
        action=event.action,
        outcome=event.outcome,
        vault=event.vault or "",
        target=event.target,
        address=kept_address(event.actor.address, addresses),
        detail=_cut(event.detail),
    )


def _cut(detail: str) -> str:
    return detail if len(detail) <= MAX_DETAIL_CHARACTERS else detail[: MAX_DETAIL_CHARACTERS - 1] + "…"


def kept_address(address: str, addresses: Addresses) -> str:
    """What is kept of an IP address: the network of its first 24 bits, of IPv6 48, or with `full` all; empty if it is none."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if addresses == "full":
        return str(ip)
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))


def _of_keys(keys: Keys, kept: Iterable[Statement], faults: list[str]) -> Iterator[Statement]:
    for head in kept:
        if keys.signed(head):
            yield head
        else:
            faults.append(
                f"the head of entry {head.number} that was kept elsewhere was not signed by this audit: one of them was exchanged"
            )


def _in_short(faults: list[str], count: int) -> tuple[str, ...]:
    told = faults[:MAX_FAULTS]
    return (*told, f"and {count - len(told)} more") if count > len(told) else tuple(told)
