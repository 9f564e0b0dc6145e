"""The values that rooms hand each other: frozen, typed, without behaviour of their own.

Times are integers, milliseconds since the Unix epoch by the store's clock, and say so in their type.
What can be read (`Content`) and what is stored (`Sealed`) are different types, so that neither can stand
in for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
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

Format = Literal["text", "markdown", "record"]
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

AccountId = NewType("AccountId", str)
"""The UUID of an account, in its usual text."""

Role = NewType("Role", str)
"""What an account may be: 1 to 32 of `a-z 0-9 -`, a letter first. Those of `BUILT_IN_ROLES` mean something to this server."""

Scope = Literal["messages:create", "messages:read", "audit:read", "accounts:manage", "certificates:manage", "messages:purge"]
"""What a credential may be used for, as OAuth calls it: never more than its account may."""
SCOPES: tuple[Scope, ...] = get_args(Scope)

ADMIN, AUDITOR = Role("admin"), Role("auditor")
BUILT_IN_ROLES: dict[Role, frozenset[Scope]] = {
    ADMIN: frozenset(("accounts:manage", "certificates:manage", "messages:purge", "audit:read")),
    AUDITOR: frozenset(("audit:read",)),
}
"""What these roles may do beside what every account may. All other roles are names that senders give their messages to."""
EVERY_ACCOUNT: frozenset[Scope] = frozenset(("messages:create", "messages:read"))

Way = Literal["nobody", "session", "password", "key", "token", "admin token", "command"]
"""How somebody showed who they are: not at all, by a page's cookie, HTTP Basic, an API key, an OAuth access token, the admin token
of the key file, or by running a command on the server's machine."""

Rule = Literal["show", "mask", "hide"]
"""What a role sees of a field of a record."""
RULES: tuple[Rule, ...] = get_args(Rule)
"""From most open to least."""

MAX_VIEWS = 100
MAX_TRIES = 5
MAX_OPENINGS = MAX_VIEWS
"""How many times of opening a receipt lists; the newest are kept."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may sign in. `email` is in lower case and is nobody else's; `password` is an Argon2id hash in PHC's form."""

    id: AccountId
    email: str
    first_name: str
    last_name: str
    roles: frozenset[Role]
    enabled: bool
    created_at: Millis
    changed_at: Millis
    password: str | None = field(default=None, repr=False)
    reset_asked_at: Millis | None = None

    @property
    def scopes(self) -> frozenset[Scope]:
        """All that this account may do."""
        return EVERY_ACCOUNT.union(*(BUILT_IN_ROLES.get(role, ()) for role in self.roles))


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever makes a request: an account, or somebody of whom only an address is known.

    `scopes` is what they may do with what they showed, `credential` the id of the session or key, for it to be named in the audit.
    `certificate` is the id of a certificate of this account that this very request came with, active and verified.
    """

    account: Account | None = None
    scopes: frozenset[Scope] = frozenset()
    way: Way = "nobody"
    credential: str | None = None
    address: str = ""
    certificate: str | None = None

    @property
    def roles(self) -> frozenset[Role]:
        return self.account.roles if self.account else frozenset()


NOBODY = Actor()


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may open a message that has its link: everybody who is signed in, or who has one of `roles`, or is one of `accounts`.

    `accounts` are e-mail addresses in lower case, or ids. Not for everyone, and with both empty, it admits nobody.
    """

    everyone: bool = True
    roles: frozenset[Role] = frozenset()
    accounts: frozenset[str] = frozenset()


EVERYONE = Audience()

Policy = Mapping[Role, Mapping[str, Rule]]
"""For each role, what it sees of which field of a record. What is not there is hidden."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in. `digest` (32 bytes) is the hash of what its cookie holds."""

    digest: bytes
    account: AccountId
    created_at: Millis
    expires_at: Millis


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a program shows for an account. `digest` (32 bytes) is the hash of the key, which is kept nowhere."""

    id: str
    digest: bytes
    account: AccountId
    name: str
    scopes: frozenset[Scope]
    created_at: Millis
    expires_at: Millis
    used_at: Millis | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the audit keeps. `actor` tells who; `target` is an account's or key's id, or the short hash of a message.

    `action` and `outcome` come from the closed sets of `audit`. `detail` says what of it, in words: never a value of anybody's.
    """

    action: str
    outcome: str
    actor: Actor
    vault: VaultName | None = None
    target: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit, as it is stored. `mac` (32 bytes) is over all the rest and the `mac` of the entry before."""

    number: int
    at: Millis
    account: str
    email: str
    way: str
    credential: str
    action: str
    outcome: str
    vault: str
    target: str
    address: str
    detail: str
    mac: bytes = b""


CertificateId = NewType("CertificateId", str)
"""The UUID of a certificate, in its usual text."""

CertificateState = Literal["active", "inactive", "revoked"]
"""Whether a certificate counts: `inactive` for now, `revoked` for good."""
CERTIFICATE_STATES: tuple[CertificateState, ...] = get_args(CertificateState)

Reason = Literal["unspecified", "keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn"]
"""Why a certificate was revoked, in the words of RFC 5280 section 5.3.1."""
REASONS: tuple[Reason, ...] = get_args(Reason)

NoticeType = Literal[
    "certificate.created",
    "certificate.activated",
    "certificate.deactivated",
    "certificate.revoked",
    "certificate.renewed",
    "certificate.expiring",
    "message.opened",
    "message.burned",
    "message.expired",
]
"""What other systems can be told of."""
NOTICE_TYPES: tuple[NoticeType, ...] = get_args(NoticeType)

DeliveryState = Literal["waiting", "delivered", "failed"]
"""Whether a webhook has had a notice: `failed` when no more tries are made."""
DELIVERY_STATES: tuple[DeliveryState, ...] = get_args(DeliveryState)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate that this server issues others with. `certificate` is DER; `chain`, in PEM, leads from it to its root.

    `changes` counts what must be in the list of revoked certificates; `crl` (DER) is the list that was signed last, its number
    `crl_number`, when `changes` was `crl_changes`.
    """

    id: str
    certificate: bytes
    chain: bytes
    created_at: Millis
    expires_at: Millis
    changes: int = 0
    crl: bytes | None = None
    crl_number: int = 0
    crl_changes: int = 0
    crl_at: Millis = Millis(0)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was issued to an account. `der` is all of it, `digest` its SHA-256 (32 bytes), `serial` in hexadecimal.

    `email` is the account's as it stands in it. `reason` is empty unless it was revoked. `replaces` is the certificate that it was
    made to follow, and `superseded_at` when one that was followed by another is revoked. `warned_days` is of which end its owner
    was told last: 30, 7 or 1 days ahead.
    """

    id: CertificateId
    account: AccountId
    email: str
    serial: str
    issuer: str
    digest: bytes
    der: bytes = field(repr=False)
    created_at: Millis
    begins_at: Millis
    expires_at: Millis
    state: CertificateState
    changed_at: Millis
    reason: Reason | Literal[""] = ""
    replaces: CertificateId | None = None
    superseded_at: Millis | None = None
    warned_days: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """What webhooks are told: JSON of something that happened to `subject`, a certificate's id or the short hash of a message.

    `id` is the same at each try and for each webhook, so that receivers can tell what they had before. `not_before` is when it will
    have happened, for what is known ahead.
    """

    id: str
    subject: str
    type: NoticeType
    payload: str
    not_before: Millis = field(default=Millis(0), compare=False)


@dataclass(frozen=True, slots=True)
class CertificateChange:
    """What a certificate becomes, with what webhooks are told of it, and the certificate that is made to follow it."""

    certificate: Certificate
    notices: tuple[Notice, ...] = ()
    follower: Certificate | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """Another system that is told, at `url`, of `events`."""

    id: str
    url: str
    events: frozenset[NoticeType]
    enabled: bool
    created_at: Millis


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notice on its way to a webhook, or there. `number` says in which order they came to be.

    It is not tried before `not_before`; `answer` says what came of the last try, at `answered_at`.
    """

    number: int
    hook: str
    notice: Notice
    created_at: Millis
    not_before: Millis
    attempts: int
    state: DeliveryState
    answer: str
    answered_at: Millis | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that someone asks to have stored, its fields already checked.

    `expires_in` is in seconds; `views` None means any number until expiry. A `document` (JSON) was encrypted by its sender and
    stands instead of `message`: it opens only against `proof`; `needs_passphrase` says whether readers must know one. `audience`
    is for vaults whose readers sign in; the message of a record is its fields as JSON, and `policy` says who sees which.
    """

    message: str = ""
    expires_in: int = MAX_LIFETIME_SECONDS
    views: int | None = None
    passphrase: str | None = None
    format: Format = "text"
    document: str | None = None
    proof: str | None = None
    needs_passphrase: bool = False
    audience: Audience = EVERYONE
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What only readers may see. `html` is the sanitized rendering of markdown, empty for text.

    With end-to-end encryption `message` is the document (JSON) that only the reader's side can open; that of a record is its fields
    as JSON, and `policy` says who sees which: what is answered has been redacted, and has none, but `masked`: the names of the
    fields of which no more than an end is there.
    """

    message: str
    format: Format | Literal["document"]
    html: str = ""
    policy: Policy | None = None
    masked: tuple[str, ...] = ()


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
