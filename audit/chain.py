"""The chain itself: the keys of an audit, the macs of its entries, what is signed of it, and the walk that finds what was changed.

Nothing here asks a store. The canonical form of an entry and the labels of the keys are fixed: what was written must verify.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from records import AuditEntry, Millis

_NOTED = 300
"""How many faults are remembered; the rest is counted. Among so many those are looked for that stand in each other's places."""
_HALF = 16
FIRST_MAC = bytes(2 * _HALF)
"""What stands for the mac of the entry before the first."""
_TEXTS = ("account", "email", "way", "credential", "action", "outcome", "vault", "target", "address", "detail")
_STATEMENT = re.compile(r"mayfly-audit-(head|beginning)-v1 ([0-9]{1,19}) (\S{20}) ([0-9a-f]{64}) ([0-9a-f]{128})")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Statement:
    """What was signed of the audit: `mac` (32 bytes) is that of entry `number`, with which it ended, or after which it begins."""

    kind: str
    number: int
    at: str
    mac: bytes
    signature: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the signature is over."""
        return f"mayfly-audit-{self.kind}-v1 {self.number} {self.at} {self.mac.hex()}".encode()

    @property
    def line(self) -> str:
        """The statement as it is stored, logged and handed to auditors."""
        return f"{self.signed.decode()} {self.signature.hex()}"


def read_statements(text: str) -> list[Statement]:
    """All statements in a text, such as a log. Whose they are is not checked here."""
    return [
        Statement(kind, int(number), at, bytes.fromhex(mac), bytes.fromhex(signature))
        for kind, number, at, mac, signature in _STATEMENT.findall(text)
    ]


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What the secret of an audit (32 bytes) is made into, one key for each purpose."""

    entry: bytes
    chained: bytes
    name: bytes
    signer: Ed25519PrivateKey

    @classmethod
    def of(cls, secret: bytes) -> Keys:
        def derive(info: bytes) -> bytes:
            return HKDF(algorithm=SHA256(), length=32, salt=b"", info=info).derive(secret)

        return cls(
            derive(b"mayfly audit entry v1"),
            derive(b"mayfly audit chain v1"),
            derive(b"mayfly audit name v1"),
            Ed25519PrivateKey.from_private_bytes(derive(b"mayfly audit head v1")),
        )

    def chain(self, entry: AuditEntry, last: AuditEntry | None) -> AuditEntry:
        """The entry as the one that follows on `last`."""
        entry = replace(entry, number=last.number + 1 if last else 1)
        own = self.own(entry)
        return replace(entry, mac=own + self.link(own, last.mac if last else FIRST_MAC))

    def own(self, entry: AuditEntry) -> bytes:
        """The first half of a mac: over all fields, each behind its length, so that none can be taken for another's end."""
        parts = [entry.number, entry.at, *(getattr(entry, name) for name in _TEXTS)]
        texts = (str(part).encode(errors="surrogatepass") for part in parts)
        return hmac.digest(self.entry, b"".join(len(text).to_bytes(4, "big") + text for text in texts), "sha256")[:_HALF]

    def link(self, own: bytes, before: bytes) -> bytes:
        """The second half: over the first, and the mac of the entry before."""
        return hmac.digest(self.chained, own + before, "sha256")[:_HALF]

    def sign(self, kind: Literal["head", "beginning"], entry: AuditEntry, now: Millis) -> Statement:
        at = datetime.fromtimestamp(now // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        statement = Statement(kind, entry.number, at, entry.mac)
        return replace(statement, signature=self.signer.sign(statement.signed))

    def signed(self, statement: Statement) -> bool:
        """Whether a statement was signed by this audit."""
        try:
            self.signer.public_key().verify(statement.signature, statement.signed)
        except InvalidSignature:
            return False
        return True


# Going through the chain


class Walk:
    """Goes through the entries in their order, and notes which are not as they were written.

    What follows on a faulty entry is judged by itself alone: what its neighbour was is not known.
    """

    def __init__(self, keys: Keys, number: int, mac: bytes | None, heads: Iterable[Statement]) -> None:
        """Begin behind the entry `number`, whose mac is `mac`, None if that is not known."""
        self.entries = 0
        self.fault_count = 0
        self._keys = keys
        self._number = number
        self._before = mac
        self._changed: list[AuditEntry] = []
        self._missing: list[range] = []
        self._said: list[tuple[int, str]] = []
        self._heads: dict[int, list[Statement]] = {}
        for head in heads:
            if head.number > number:
                self._heads.setdefault(head.number, []).append(head)
            elif head.number == number and mac is not None and head.mac != mac:
                self._note(self._said, (number, f"entry {number}, the last one dropped, is not the one of the head of {head.at}"))

    def step(self, entry: AuditEntry) -> None:
        """Judge the next entry."""
        self.entries += 1
        number = entry.number
        if number <= self._number:
            self._note(self._said, (number, f"entry {number} was put before the beginning"))
            return
        if number > self._number + 1:
            self._note(self._missing, range(self._number + 1, number))
            self._before = None
        self._number = number
        heads = self._heads.pop(number, [])
        if self._keys.own(entry) != entry.mac[:_HALF]:
            self._note(self._changed, entry)
            self._before = None
        elif self._before is not None and self._keys.link(entry.mac[:_HALF], self._before) != entry.mac[_HALF:]:
            self._note(self._said, (number, f"entry {number} does not follow on entry {number - 1}"))
            self._before = None
        else:
            for head in heads:
                if head.mac != entry.mac:
                    self._note(self._said, (number, f"entry {number} is not the one of the head of {head.at}"))
            self._before = entry.mac

    def end(self) -> None:
        """Judge the end: whether there was more."""
        more = [head for heads in self._heads.values() for head in heads if head.number > self._number]
        if more:
            last = max(more, key=lambda head: head.number)
            gap = range(self._number + 1, last.number + 1)
            self._note(self._said, (last.number, f"{_entries(gap)} missing at the end: the head of {last.at} tells of more"))

    def faults(self) -> list[str]:
        """A sentence for each fault, in the order of the entries."""
        found = self._said + [(gap[0], f"{_entries(gap)} missing") for gap in self._missing]
        found += [(entry.number, self._judge(entry)) for entry in self._changed]
        return [fault for _, fault in sorted(found)]

    def _note(self, notes: list[_T], fault: _T) -> None:
        self.fault_count += 1
        if self.fault_count <= _NOTED:
            notes.append(fault)

    def _judge(self, entry: AuditEntry) -> str:
        """Whether an entry is another one, put in this place, or was changed."""
        places = [other.number for other in self._changed]
        places += islice(chain.from_iterable(self._missing), _NOTED)
        macs = {other.mac[:_HALF] for other in self._changed}
        for place in places:
            if place != entry.number and self._keys.own(replace(entry, number=place)) in macs:
                return f"entry {place} stands in the place of entry {entry.number}"
        return f"entry {entry.number} is not as it was written"


def _entries(gap: range) -> str:
    return f"entry {gap[0]} is" if len(gap) == 1 else f"entries {gap[0]} to {gap[-1]} are"
