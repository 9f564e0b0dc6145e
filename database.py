"""The storage contract, and the way from a database URL to a store that keeps it.

A store keeps envelopes and counts; it decides with one atomic statement who gets a view, and nothing in it can read a
message. Every time in it comes from its own clock, `now`. What expired is refused by the `WHERE` of each statement: the purge
only removes what nobody could read any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from errors import StartRefused
from records import (
    Account,
    AccountId,
    ApiKey,
    AuditEntry,
    Certificate,
    CertificateChange,
    CertificateId,
    Circuit,
    Claim,
    Counts,
    Delivery,
    DeliveryState,
    Hook,
    Issuer,
    KeyId,
    Millis,
    NewRow,
    Notice,
    Purged,
    Row,
    RowId,
    Sealed,
    Session,
    VaultName,
)
from settings import MEMORY_URL, OFF, Settings
from storage.access import AccessTables
from storage.access_schema import ACCESS, Schema
from storage.access_session import AccessDatabase
from storage.access_sqlite import AccessFile
from storage.address import Address, Rule, parse_address
from storage.certificates import CertificateTables
from storage.certificates_schema import CERTIFICATES
from storage.clocks import since_boot_ms
from storage.sqlite import SqliteStore

Clock = Callable[[], Millis]


class MessageStore(Protocol):
    """What every store promises. All methods raise StoreFailed when the store does not answer in time."""

    durability: Literal["memory", "disk"]

    @property
    def circuit(self) -> Circuit:
        """Whether calls reach the store, or fail at once because it did not answer before."""

    def now(self) -> Millis:
        """The store's time. Expiry, leases and the purge go by it and by nothing else."""

    def put(self, row: NewRow) -> None:
        """Store a message, whole or not at all. Raises StoreFull at the quota; nothing is evicted for it.

        The hash of a proof goes with the body, whatever ends it: nobody has a use for it any more but to guess.
        """

    def peek(self, row_id: RowId) -> Row | None:
        """The state of a message that can still be opened by someone new."""

    def fetch(self, row_id: RowId, lease: bytes | None) -> tuple[Row, Sealed] | None:
        """State and envelope of a message that can be opened now, by someone new or under the live lease `lease`."""

    def history(self, row_id: RowId) -> Row | None:
        """The state of a message, dead or alive, until eight days after its creation."""

    def claim(self, row_id: RowId, lease: bytes | None, lease_seconds: int) -> Claim | None:
        """Take one view, or repeat the claim of the live lease `lease`; None if neither is to be had.

        Without a lease the last view removes the envelope at once; with one, it stays until the lease ends, at most
        until the message expires. Messages without a view limit take no lease: nothing of theirs is used up.
        """

    def confirm(self, row_id: RowId, lease: bytes) -> bool:
        """End a live lease, and remove the envelope when neither view nor lease remains. False if there is none."""

    def reserve_try(self, row_id: RowId) -> bool:
        """Reserve one of the tries of a passphrase; False if none is free at this moment.

        With none free, those that neither came back nor counted within a minute are given back: their process was killed.
        """

    def return_try(self, row_id: RowId) -> None:
        """Give a reserved try back: the passphrase was right, or was not checked."""

    def wrong_try(self, row_id: RowId) -> int:
        """Count a reserved try as wrong and return how many are left. At 0 the message is destroyed (`locked`)."""

    def burn(self, row_id: RowId, receipt: bytes | None) -> bool:
        """Destroy a message. With `receipt` only if that hash is its own; False if nothing was there to destroy."""

    def purge(self, slice_rows: int) -> Purged:
        """Remove up to `slice_rows` messages or receipts whose time is over. Idempotent."""

    def tidy(self) -> None:
        """After a purge: overwrite what deletion left behind outside the tables (the write-ahead log)."""

    def may_purge(self) -> bool:
        """Whether this process is the one that purges: exactly one of those that share a store is."""

    def same_key(self, key_id: KeyId, verifier: bytes) -> bool:
        """Remember the verifier of a key at its first use; later tell whether the key is still the same."""

    def health(self) -> None:
        """Raise StoreFailed unless the store answers. Costs nothing that grows with the store."""

    def counts(self) -> Counts:
        """What is stored. It may take long, but it keeps nobody waiting."""

    def close(self) -> None:
        """Let go of files and connections."""


class SecretStore(Protocol):
    """Secrets of this server (keys that sign tokens, the audit, certificates, webhooks), sealed under the key file."""

    def secrets(self, prefix: str) -> dict[str, tuple[Millis, bytes]]:
        """Those whose name begins with `prefix`: when each was made, and its sealed bytes."""

    def add_secret(self, name: str, sealed: bytes) -> bool:
        """Keep a secret; False if there is one of that name, which another node made."""

    def replace_secret(self, name: str, old: bytes, sealed: bytes) -> bool:
        """Put `sealed` in the place of `old`; False if that is not what is there (any more)."""

    def remove_secret(self, name: str) -> None: ...


class AccessStore(SecretStore, Protocol):
    """Accounts, what they sign in with, and the audit. All methods raise StoreFailed when the store does not answer in time.

    Nothing in here is remembered between two calls: what one node changes, the next request on any other node sees. What is looked
    for may be anything that somebody sent; what is written holds no NUL and no lone surrogate, and at most 255 characters where it
    is looked for again (ids, e-mail addresses, names of secrets, all of an audit entry).
    """

    def now(self) -> Millis:
        """The store's time, by which sessions, keys and links end."""

    # Accounts

    def add_account(self, account: Account) -> None:
        """Raises Taken if the e-mail address is another account's."""

    def account(self, account_id: AccountId) -> Account | None: ...
    def account_by_email(self, email: str) -> Account | None: ...

    def accounts(self) -> list[Account]:
        """All of them, by e-mail address."""

    def change_account(self, account_id: AccountId, change: Callable[[Account], Account], end_sessions: bool) -> Account | None:
        """Make an account what `change` makes of what it is at that moment, all but its id and `created_at`.

        Returns what it is then, or None if it is not there (any more). `end_sessions` also ends its sessions and the link to set
        its password. `change` may be called again, may raise, and asks nothing of the store. Raises Taken.
        """

    def ask_reset(self, account_id: AccountId) -> None:
        """Remember that somebody asked for a new password of this account, now."""

    def delete_account(self, account_id: AccountId) -> bool:
        """Remove an account with its sessions, keys and links; False if it is not there."""

    # What they sign in with: each is found by the hash of what is shown, together with its account

    def add_session(self, session: Session, account: Account) -> bool:
        """Begin a session of `account`; False if that has been disabled or removed, or its password changed, since it was read.

        Else somebody who signs in at the moment at which their sessions are ended would stay.
        """

    def session(self, digest: bytes) -> tuple[Session, Account] | None:
        """A session that has not ended, of an account that is enabled."""

    def end_session(self, digest: bytes) -> bool: ...

    def end_sessions(self, account_id: AccountId) -> int:
        """End all sessions of an account, and return how many there were."""

    def add_key(self, key: ApiKey) -> None:
        """Raises NothingThere if its account is not there (any more)."""

    def key(self, digest: bytes) -> tuple[ApiKey, Account] | None:
        """A key that has not ended, of an account that is enabled."""

    def key_by_id(self, key_id: str) -> tuple[ApiKey, Account] | None:
        """The same by its id: for access tokens, which name the key that they were had with."""

    def keys(self, account_id: AccountId | None = None) -> list[ApiKey]:
        """Those of an account, or all, the newest first; those that have ended too, until the next `tidy`."""

    def key_used(self, key_id: str) -> None:
        """Remember that a key was used now. To the minute, so that most uses write nothing."""

    def revoke_key(self, key_id: str) -> bool: ...

    def add_link(self, digest: bytes, account_id: AccountId, expires_at: Millis) -> None:
        """A link by which the password of an account can be set once. It takes the place of one that was made before.

        Raises NothingThere if the account is not there (any more).
        """

    def link(self, digest: bytes) -> Account | None:
        """The account of a link that has not ended, enabled."""

    def use_link(self, digest: bytes, password: str) -> Account | None:
        """Set the password of a link's account, and end the link and its sessions; None if there is no such link (any more).

        Of two at once exactly one does it. That a new password was asked for is forgotten.
        """

    # The audit

    def append(self, make: Callable[[AuditEntry | None], AuditEntry]) -> AuditEntry:
        """Add the entry that `make` makes of the last one, so that no two are made of the same.

        `make` may be called again, may raise, and asks nothing of the store. After StoreFailed the entry may be there or not: it
        was not written twice.
        """

    def entries(self, after: int = 0, most: int = 1000) -> list[AuditEntry]:
        """Those numbered above `after`, in order, up to `most`."""

    def find_entries(
        self, filters: Mapping[str, str], since: Millis, until: Millis, before: int | None, most: int
    ) -> list[AuditEntry]:
        """The newest first: those at or after `since` and before `until`, numbered below `before`, in which each field named in
        `filters` (account, email, action, outcome, vault, target) is what that says."""

    def last_accesses(self) -> list[AuditEntry]:
        """The newest opening (`open`, `read`) that was answered, of each account and vault."""

    def heads(self) -> list[tuple[int, Millis, bytes]]:
        """The signed heads of the audit, oldest first: the number of the entry, when it was signed, the signed statement."""

    def add_head(self, number: int, signed: bytes) -> None:
        """Keep a head, signed now. Another node's head of the same entry stays."""

    def drop_entries(self, until: Millis, signed: Callable[[AuditEntry], bytes]) -> int:
        """Drop the entries before `until` but the last of all, and how many these were.

        What `signed` makes of the last one dropped is kept as the beginning of what is left, and the heads up to it go too. Many
        are dropped in slices, each with a beginning of its own.
        """

    def beginning(self) -> bytes | None:
        """What `drop_entries` kept; None while the audit begins with its first entry."""

    # All

    def tidy(self) -> None:
        """Remove sessions, keys and links that have ended."""

    def health(self) -> None: ...
    def close(self) -> None: ...


class CertificateStore(SecretStore, Protocol):
    """Certificates, those who issue them, and webhooks. All methods raise StoreFailed when the store does not answer in time.

    As with accounts, nothing is remembered between two calls. What is looked for may be anything that somebody sent; ids, serial
    numbers and e-mail addresses have at most 255 characters. A change is whole or not at all, with the notices that tell of it.
    """

    def now(self) -> Millis:
        """The store's time, by which certificates and lists end, and deliveries are due."""

    # Those who issue: the key of each is a secret

    def add_issuer(self, issuer: Issuer, name: str, sealed: bytes) -> None:
        """Keep one, with its key as the secret `name`. What is told of its list is not looked at: it has none yet."""

    def issuers(self) -> list[Issuer]:
        """All of them, the newest first, which is the one that issues."""

    def issuer(self, issuer_id: str) -> Issuer | None: ...

    def keep_crl(self, issuer: Issuer, crl: bytes, made_at: Millis) -> bool:
        """Keep a list, signed from what `listed_certificates` said after `issuer` was read. Its number is one above the last.

        False if another was signed since, and is kept.
        """

    def listed_certificates(self, issuer_id: str) -> list[Certificate]:
        """Those that do not count at this moment, inactive or revoked, and have not ended."""

    # Certificates

    def add_certificate(self, certificate: Certificate, notices: Sequence[Notice]) -> None: ...
    def certificate(self, certificate_id: CertificateId) -> Certificate | None: ...

    def certificate_by_digest(self, digest: bytes) -> Certificate | None:
        """By the SHA-256 of its DER."""

    def certificates(self, account_id: AccountId | None = None) -> list[Certificate]:
        """Those of an account, or all, the newest first; those that have ended too."""

    def due_certificates(self, ahead_ms: int) -> list[Certificate]:
        """Those to look after: neither revoked nor ended, but to be revoked by now, or ending within `ahead_ms`."""

    def change_certificate(
        self, certificate_id: CertificateId, change: Callable[[Certificate], CertificateChange]
    ) -> Certificate | None:
        """Make a certificate what `change` makes of what it is at that moment: its state, reason, and times; nothing else changes.

        Returns what it is then, or None if it is not there. `change` may be called again, may raise, and asks nothing of the store.
        """

    # Webhooks

    def add_hook(self, hook: Hook, name: str, sealed: bytes) -> None:
        """Keep a webhook, with what signs for it as the secret `name`."""

    def hooks(self) -> list[Hook]:
        """All of them, the oldest first."""

    def hook(self, hook_id: str) -> Hook | None: ...

    def change_hook(self, hook_id: str, change: Callable[[Hook], Hook]) -> Hook | None:
        """Change url, events, or whether it is enabled, as `change_certificate` does."""

    def delete_hook(self, hook_id: str, name: str) -> bool:
        """Remove a webhook with its secret `name` and all its deliveries; False if it is not there."""

    def queue(self, notices: Sequence[Notice]) -> int:
        """Queue notices for each enabled webhook that asks for them; how many deliveries that makes."""

    def withdraw(self, subjects: Sequence[str]) -> int:
        """Take back what was queued of these subjects for a time that has not come yet; how many deliveries that were."""

    def due_deliveries(self, most: int, hook_id: str | None = None) -> list[Delivery]:
        """Those that can be made now, up to `most`, to one webhook or all: of one webhook and subject only the first that waits.

        The longest due first.
        """

    def take_delivery(self, delivery: Delivery, lease_ms: int) -> Delivery | None:
        """Make one try of a delivery this caller's own, for `lease_ms`; None if another has taken it since it was read."""

    def settle_delivery(self, delivery: Delivery, state: DeliveryState, pause_ms: int, answer: str) -> bool:
        """Say what came of a try that was taken; what waits on is due again after `pause_ms`. False if the lease was over, and
        another has taken it."""

    def replay(self, number: int) -> Delivery:
        """Have a delivery that was made or given up made anew, as if it were new. Raises NothingThere."""

    def deliveries(
        self, hook_id: str | None = None, state: DeliveryState | None = None, before: int | None = None, most: int = 100
    ) -> list[Delivery]:
        """The newest first, numbered below `before`."""

    def delivery_states(self) -> dict[DeliveryState, tuple[int, Millis]]:
        """Of each state that there is: how many, and when the oldest of them came to be."""

    # All

    def tidy(self) -> None:
        """Remove deliveries that were made a week ago, or given up 90 days ago."""

    def health(self) -> None: ...
    def close(self) -> None: ...


def boot_clock() -> Clock:
    """Wall time at this moment, then the time since, whatever the wall clock does. A machine's sleep counts."""
    offset_ms = time.time_ns() / 1_000_000 - since_boot_ms()
    return lambda: Millis(int(offset_ms + since_boot_ms()))


def wall_clock() -> Millis:
    """The time of the host, for stores that outlive a process."""
    return Millis(time.time_ns() // 1_000_000)


_RULES: dict[VaultName, tuple[Rule, str]] = {
    "open": ("anything", ""),
    "guarded": ("tls", "must be reached by TLS with the server verified: add ?tls_ca=/path/of/the/authority.pem"),
    "sealed": ("mutual tls", "must be reached by mutual TLS: add ?tls_ca=…&tls_certificate=…&tls_key=…"),
}
"""What each vault demands of the connection to its database, and how to meet it. Embedded databases have no connection."""


def open_database(settings: Settings, vault: VaultName = "open", now: Clock | None = None) -> MessageStore:
    """Open the store of `vault`; `now` replaces its clock.

    Raises StartRefused, in one line that names the setting, if it cannot be opened, is not reached as the vault demands, or is
    another vault's too.
    """
    url = settings.databases[vault]
    try:
        _require_own(settings.databases, vault)
        if url == MEMORY_URL:
            return SqliteStore(None, settings.store_bytes, now or boot_clock())
        if url.startswith("sqlite:"):
            spare_bytes = 2 * max(settings.max_message_bytes, 1024 * 1024)
            return SqliteStore(_path_of(url), settings.store_bytes, now or wall_clock, spare_bytes)
        return _open_network_database(url, vault, settings, now)
    except StartRefused as refusal:
        raise StartRefused(f"{setting_of(vault)}: {refusal}") from None


def open_access(settings: Settings, key_path: Path, now: Clock | None = None, make: bool = True) -> AccessStore | None:
    """Open the store of accounts and audit, by default `accounts.db` beside the key file; None if this server has none.

    Raises StartRefused, in one line that names the setting, as `open_database` does. Without `make` also for a file that is not
    there: an empty one in its place would tell that all is well.
    """
    url = _url_of_accounts(settings, key_path)
    if url == OFF:
        return None
    with _named("MAYFLY_ACCOUNTS_DATABASE_URL"):
        _require_apart(url, {setting_of(vault): other for vault, other in settings.databases.items()}, "accounts")
        return AccessTables(_open_tables(url, "the database of accounts", ACCESS, now, make))


def open_certificates(settings: Settings, key_path: Path, now: Clock | None = None, make: bool = True) -> CertificateStore | None:
    """Open the store of certificates and webhooks, by default `certificates.db` beside the key file; None if this server has none.

    Raises StartRefused, as `open_access` does.
    """
    url = settings.certificates_database_url or _beside(key_path, "certificates.db")
    if url == OFF:
        return None
    with _named("MAYFLY_CERTIFICATES_DATABASE_URL"):
        others = {setting_of(vault): other for vault, other in settings.databases.items()}
        others["MAYFLY_ACCOUNTS_DATABASE_URL"] = _url_of_accounts(settings, key_path)
        _require_apart(url, others, "certificates")
        return CertificateTables(_open_tables(url, "the database of certificates", CERTIFICATES, now, make))


def _url_of_accounts(settings: Settings, key_path: Path) -> str:
    return settings.accounts_database_url or _beside(key_path, "accounts.db")


def _beside(key_path: Path, name: str) -> str:
    return f"sqlite:///{key_path.parent.absolute() / name}"


@contextmanager
def _named(setting: str) -> Iterator[None]:
    """What is refused in here names the setting."""
    try:
        yield
    except StartRefused as refusal:
        raise StartRefused(f"{setting}: {refusal}") from None


def _require_apart(url: str, others: Mapping[str, str], whose: str) -> None:
    place = _place(url)
    for setting, other in others.items():
        if place is not None and _place(other) == place:
            raise StartRefused(f"it is the same database as {setting}, and {whose} need one of their own")


def _open_tables(url: str, whose: str, schema: Schema, now: Clock | None, make: bool) -> AccessDatabase:
    if url.startswith("sqlite:"):
        if not make and not _path_of(url).exists():
            raise StartRefused(f"{whose} is not there: {_path_of(url)}")
        return AccessFile(_path_of(url), now or wall_clock, schema)
    address = _address(url, "guarded", whose)
    with _driver_of(address):
        from storage.access_sql import AccessNetwork

        return AccessNetwork(address, now, schema)


def setting_of(vault: VaultName) -> str:
    """The name of the setting that says where the messages of `vault` are kept."""
    return "MAYFLY_DATABASE_URL" if vault == "open" else f"MAYFLY_{vault.upper()}_DATABASE_URL"


def _require_own(databases: dict[VaultName, str], vault: VaultName) -> None:
    """Refuse the database of another vault: by the address of the one, messages of the other would be told of, tried and burned.

    Two names of one host, or its socket and its host, are not known for the same.
    """
    place = _place(databases[vault])
    for other, url in databases.items():
        if other != vault and place is not None and _place(url) == place:
            raise StartRefused(f"it is the same database as {setting_of(other)}, and each vault needs one of its own")


def _path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _place(url: str) -> tuple[object, ...] | None:
    """What tells one database from another; None for the memory of this process, and where the URL cannot be read."""
    if url == MEMORY_URL:
        return None
    if url.startswith("sqlite:"):
        return ("sqlite", _path_of(url).resolve())
    try:
        address = parse_address(url)
    except ValueError:
        return None
    where = address.socket.resolve() if address.socket else address.host
    return (address.engine.partition("+")[0], where, address.port, address.database)


def _open_network_database(url: str, vault: VaultName, settings: Settings, now: Clock | None) -> MessageStore:
    address = _address(url, vault, f"the database of the {vault} vault")
    with _driver_of(address):
        if address.engine in ("valkey", "valkey+cluster"):
            from storage.valkey import ValkeyStore

            return ValkeyStore(address, settings.store_bytes, now)
        from storage.sql import SqlStore

        return SqlStore(address, settings.store_bytes, now, settings.max_sealed_bytes)


def _address(url: str, vault: VaultName, whose: str) -> Address:
    """Where the database is, reached as that of `vault` must be. Raises StartRefused."""
    try:
        address = parse_address(url)
    except ValueError as error:
        raise StartRefused(str(error)) from None
    rule, cure = _RULES[vault]
    if not address.meets(rule):
        raise StartRefused(f"{whose} {cure}")
    return address


@contextmanager
def _driver_of(address: Address) -> Iterator[None]:
    """The drivers are extras, imported in here, by those who use them. Raises StartRefused."""
    try:
        yield
    except ModuleNotFoundError as missing:
        extra = address.engine.partition("+")[0]
        raise StartRefused(f"its driver is not installed ({missing.name}): pip install -r requirements-{extra}.txt") from None
