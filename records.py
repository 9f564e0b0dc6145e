"""The values that rooms hand each other: frozen, typed, without behaviour of their own.

Times are integers, milliseconds since the Unix epoch by the store's clock, and say so in their type.
What can be read (`Content`) and what is stored (`Sealed`) are different types, so that neither can stand
in for the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NewType, get_args

Millis = NewType("Millis", int)
"""Milliseconds since 1970-01-01T00:00:00Z by the store's clock."""

RowId = NewType("RowId", bytes)
"""32 bytes: the hash under which a message is stored. The link cannot be had from it."""

KeyId = NewType("KeyId", str)
"""The name of a key in key.json, such as `2026-11-k3f9`."""

Sealed = NewType("Sealed", bytes)
"""An envelope: format version, key id and encrypted bytes, as `crypto` makes them. All that a store ever sees."""

VaultName = Literal["open", "guarded", "sealed"]
"""How much a message matters, and so who may open it and how its database must be reached."""
VAULT_NAMES: tuple[VaultName, ...] = get_args(VaultName)

Circuit = Literal["closed", "half-open", "open"]
"""The state of a store's circuit breaker: `closed` while the store serves, and always where there is none."""
CIRCUITS: tuple[Circuit, ...] = get_args(Circuit)
"""From well to worst."""

Format = Literal["text", "markdown"]
Encryption = Literal["server", "end-to-end"]
State = Literal["waiting", "opened", "burned", "expired", "locked"]
Ended = Literal["spent", "burned", "locked", "expired"]

SECOND = Millis(1000)
MAX_LIFETIME_SECONDS = 7 * 24 * 3600
MIN_LIFETIME_SECONDS = 60
RECEIPT_LIFETIME = Millis(8 * 24 * 3600 * 1000)
"""How long a receipt answers, from the creation of its message: a day longer than any message lives."""

TRY_LAPSES = Millis(60 * SECOND)
"""Checking a passphrase takes 3 s at most: a try reserved for longer belonged to a process that was killed over it."""

PURGE_TURN = Millis(25 * SECOND)
"""For how long whoever purges is the one of those that share a store.

Should that process be lost, another purges within a minute all the same: whoever asks just before this has passed asks again
after the longest pause between two purges, 30 s, and 5 s are left to the purge itself.
"""

MAX_VIEWS = 100
MAX_TRIES = 5
MAX_OPENINGS = MAX_VIEWS
"""How many times of opening a receipt lists; the newest are kept."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that someone asks to have stored, its fields already checked.

    `expires_in` is in seconds; `views` None means any number until expiry. A `document` (JSON) was encrypted by its sender and
    stands instead of `message`: it opens only against `proof`; `needs_passphrase` says whether readers must know one.
    """

    message: str = ""
    expires_in: int = MAX_LIFETIME_SECONDS
    views: int | None = None
    passphrase: str | None = None
    format: Format = "text"
    document: str | None = None
    proof: str | None = None
    needs_passphrase: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """What only readers may see. `html` is the sanitized rendering of markdown, empty for text.

    With end-to-end encryption `message` is the document (JSON) that only the reader's side can open.
    """

    message: str
    format: Format | Literal["document"]
    html: str = ""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A message as it is handed to a store. `receipt` and `proof` are hashes (32 bytes) of what their holders show."""

    id: RowId
    receipt: bytes
    created_at: Millis
    expires_at: Millis
    views: int | None
    tries: int | None
    proof: bytes | None
    body: Sealed


@dataclass(frozen=True, slots=True)
class Row:
    """The state of a stored message; `tries_free` is None where no passphrase is needed, `proof` where the server can read.

    `openings` are the times of the newest openings, oldest first. `ended` is None while the body is there, which
    after its time is until the next purge; what remains afterwards is the receipt's side.
    """

    id: RowId
    receipt: bytes
    created_at: Millis
    expires_at: Millis
    views_left: int | None
    tries_free: int | None
    proof: bytes | None
    openings: tuple[Millis, ...]
    ended: Ended | None


@dataclass(frozen=True, slots=True)
class Claim:
    """One view, taken. `views_left` is what was left behind it: a repeated claim tells the same number, and is equal."""

    views_left: int | None
    repeated: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Purged:
    """One slice of the purge: bodies and receipts removed, and whether there may be more to remove."""

    bodies: int
    receipts: int
    more: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """What a store holds: readable messages, unreadable ones awaiting the purge, and bytes used of the quota.

    `overdue` is for how long the row that awaits it longest, message or receipt, has done so; 0 if none does.
    """

    stored: int
    expired: int
    used_bytes: int
    quota_bytes: int
    overdue: Millis = Millis(0)


@dataclass(frozen=True, slots=True)
class Created:
    """A message, stored. `link_id` is the link's UUID and `receipt` the sender's token: both are secrets."""

    link_id: str
    receipt: str
    expires_at: Millis
    views: int | None
    durability: Literal["memory", "disk"]
    encryption: Encryption
    vault: VaultName


@dataclass(frozen=True, slots=True)
class Preview:
    """What may be told of a message before it is opened."""

    expires_at: Millis
    views_left: int | None
    needs_passphrase: bool
    encryption: Encryption

    @property
    def opens_freely(self) -> bool:
        """Whether reading uses nothing up, so that a safe method may show the message."""
        return self.views_left is None and not self.needs_passphrase and self.encryption == "server"


@dataclass(frozen=True, slots=True)
class Opened:
    """A message, readable. `views_left` None means any number."""

    content: Content
    expires_at: Millis
    views_left: int | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The sender's side of a message: state and times, never content."""

    state: State
    created_at: Millis
    expires_at: Millis
    opened: tuple[Millis, ...]
    views_left: int | None
