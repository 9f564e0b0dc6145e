"""The life of a message: created, read or opened, confirmed, burned, purged. No Flask here.

The only room where plaintext, keys and rows meet. Everything takes and returns plain values, so that web, commands and tests
call the same functions. One sequence serves every opening: admit → fetch → unseal → judge the audience → reserve a try → unlock →
redact → audit → claim → answer. Unsealing comes before claiming, so that damage, a missing key or a wrong passphrase cannot use a
view up, not even if the server dies in between (decision record 0003); the claim alone decides who gets the message. What is done
is in the audit before it is done (decision record 0013).
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import crypto
from audit import Audit
from crypto import Addressed, KeyRing, Locked
from database import MessageStore
from errors import (
    AccountRequired,
    BodyTooLarge,
    CertificateRequired,
    FieldRefused,
    KeyMissing,
    NotFound,
    OpeningRequired,
    PassphraseMismatch,
    PassphraseRequired,
    ProofRequired,
    ScopeRequired,
    StoreFull,
    TriesInUse,
    WrongPassphrase,
)
from keyfile import KeyFile
from messages.contents import NOTHING, decode, decode_terms, encode, encode_terms, fields_seen, is_nothing
from metrics import Metrics, VaultMetrics
from records import (
    EVERYONE,
    MAX_TRIES,
    NOBODY,
    SECOND,
    Actor,
    Audience,
    Content,
    Counts,
    Created,
    Draft,
    Encryption,
    Event,
    KeyId,
    Millis,
    NewRow,
    NoticeType,
    Opened,
    Policy,
    Preview,
    Receipt,
    Row,
    RowId,
    Sealed,
    State,
    VaultName,
)
from sanitize import markdown_to_html

_RECEIPT_SECRET_BYTES = 16
LINK_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""The UUID of a link, version 4."""
_RECEIPT_TOKEN = re.compile(r"[A-Za-z0-9_-]{64}")
_IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")


class Notify(Protocol):
    """Who is told of what was done, or will be `at` a time; `over` says that nothing of the message is left.

    It keeps nobody waiting, and raises nothing.
    """

    def __call__(
        self, type_: NoticeType, vault: VaultName, row_id: RowId, at: Millis | None = None, over: bool = False
    ) -> None: ...


def anyone_with_the_link(actor: Actor) -> None:
    """Who may read in the open vault."""


def whoever_is_signed_in(actor: Actor) -> None:
    """Who may read in the other vaults, if the message is for them. Raises AccountRequired, ScopeRequired."""
    if actor.account is None:
        raise AccountRequired
    if "messages:read" not in actor.scopes:
        raise ScopeRequired


def whoever_shows_a_certificate(actor: Actor) -> None:
    """Who may read in the sealed vault, likewise. Raises AccountRequired, ScopeRequired, CertificateRequired."""
    whoever_is_signed_in(actor)
    if actor.certificate is None:
        raise CertificateRequired


def _in_no_audience(actor: Actor, audience: Audience) -> bool:
    return False


def nobody_asks(type_: NoticeType, vault: VaultName, row_id: RowId, at: Millis | None = None, over: bool = False) -> None:
    """Where there are no webhooks."""


def _sees_nothing(content: Content, actor: Actor) -> Content:
    return Content(NOTHING, "record") if content.format == "record" else content


@dataclass(slots=True)
class Vault:
    """Messages in one store under one key file. `lease_seconds` is how long an Idempotency-Key repeats an opening.

    `admit` says whether somebody may read here at all, before anything is looked up; it raises AccountRequired, ScopeRequired or
    CertificateRequired if not. In the vaults whose readers sign in, `admits` says whether a message is for somebody, and `redact`
    what of a record they see: without them nobody gets anything. `audits_links` says whether the audit is also told of those of
    whom it can only say that they had a link. `notify` is told of what was done, once it is.
    """

    store: MessageStore
    keys: KeyFile
    lease_seconds: int
    max_message_bytes: int
    name: VaultName = "open"
    admit: Callable[[Actor], None] = anyone_with_the_link
    metrics: VaultMetrics = field(default_factory=lambda: Metrics().vaults["open"])
    admits: Callable[[Actor, Audience], bool] = _in_no_audience
    redact: Callable[[Content, Actor], Content] = _sees_nothing
    audit: Audit | None = None
    audits_links: bool = True
    notify: Notify = nobody_asks
    _same_keys: set[tuple[KeyId, bytes]] = field(default_factory=set)

    def create(self, draft: Draft, actor: Actor = NOBODY) -> Created:
        """Seal and store a message.

        Raises FieldRefused or BodyTooLarge for a draft that is out of bounds, StoreFull, StoreFailed, KeyMissing, Unavailable; and
        AuditFailed where `actor` is somebody of whom the audit is told.
        """
        content = self._content(draft)
        chance = os.urandom(16 + _RECEIPT_SECRET_BYTES)  # asked for once: each time costs a system call
        link, secret = uuid.UUID(bytes=chance[:16], version=4), chance[16:]
        ring = self.keys.ring()
        self._require_same_key(ring, ring.current)
        sealed = crypto.seal(ring, link.bytes, encode(content), draft.passphrase, self.name, encode_terms(draft))
        now = self.store.now()
        row = NewRow(
            id=crypto.row_id(link.bytes),
            receipt=crypto.receipt_hash(secret),
            created_at=now,
            # Whole seconds, rounded down: what is shown is what holds.
            expires_at=Millis(now - now % SECOND + draft.expires_in * SECOND),
            views=draft.views,
            tries=MAX_TRIES if draft.passphrase is not None or draft.needs_passphrase else None,
            proof=None if draft.proof is None else crypto.proof_hash(link.bytes, draft.proof),
            body=sealed,
        )
        if actor.account:
            self._tell("create", "made", actor, row.id)
        try:
            self.store.put(row)
        except StoreFull:
            if actor.account:
                self._tell("create", "refused", actor, row.id)
            raise
        self.metrics.created.inc()
        self.notify("message.expired", self.name, row.id, row.expires_at)
        token = base64.urlsafe_b64encode(row.id + secret).decode()
        return Created(str(link), token, row.expires_at, draft.views, self.store.durability, _encryption(row.proof), self.name)

    def preview(self, link_id: str, idempotency_key: str | None = None, actor: Actor = NOBODY) -> Preview:
        """What may be told of a message that someone new, or the holder of that lease, can open. Uses nothing up.

        Raises NotFound, FieldRefused, AccountRequired, ScopeRequired, and what `_inside` does.
        """
        self._enter(link_id, actor, "open")
        link = _link_bytes(link_id)
        row = self.store.peek(crypto.row_id(link)) if self.name == "open" else None
        if row is None:
            row, sealed = self._fetch(link, self._lease_of(link, idempotency_key, actor), actor, "open")
            if self.name != "open":
                self._inside(row, link, sealed, actor, "open")
        return _preview(row)

    def read(self, link_id: str, actor: Actor = NOBODY) -> Opened:
        """Return a message that reading does not use up, for safe methods.

        Raises NotFound, OpeningRequired (for one with a view limit or a passphrase), Damaged, KeyMissing, AccountRequired,
        ScopeRequired, AuditFailed.
        """
        self._enter(link_id, actor, "read")
        link = _link_bytes(link_id)
        row, sealed = self._fetch(link, None, actor, "read")
        preview = _preview(row)
        if self.name == "open" and not preview.opens_freely:  # so that it need not be unsealed
            raise OpeningRequired(preview)
        policy, inside = self._inside(row, link, sealed, actor, "read")
        if not preview.opens_freely:
            raise OpeningRequired(preview)
        content = self.redact(decode(self._unlocked(row, link, inside, None, actor), policy), actor)
        self._tell("read", "refused" if is_nothing(content) else "answered", actor, row.id, fields_seen(content))
        self.metrics.read.inc()
        if not is_nothing(content):
            self.notify("message.opened", self.name, row.id)
        return Opened(content, row.expires_at, None)

    def open(
        self,
        link_id: str,
        passphrase: str | None = None,
        idempotency_key: str | None = None,
        proof: str | None = None,
        actor: Actor = NOBODY,
    ) -> Opened:
        """Take one view and return the message; with an idempotency key, the same again while its lease lasts.

        A record of which the reader sees nothing takes no view: they get it empty. Raises NotFound, PassphraseRequired,
        ProofRequired, WrongPassphrase, TriesInUse, FieldRefused, Damaged, KeyMissing, AccountRequired, ScopeRequired, AuditFailed,
        Unavailable: none of them uses a view up, and only WrongPassphrase a try.
        """
        self._enter(link_id, actor, "open")
        link = _link_bytes(link_id)
        lease = self._lease_of(link, idempotency_key, actor)
        row, sealed = self._fetch(link, lease, actor, "open")
        if self.name == "open":  # nobody's audience is to be judged, so nothing is unsealed without the proof
            self._check_proof(row, link, proof, actor)
        policy, inside = self._inside(row, link, sealed, actor, "open")
        if self.name != "open":
            self._check_proof(row, link, proof, actor)
        content = self.redact(decode(self._unlocked(row, link, inside, passphrase, actor), policy), actor)
        if is_nothing(content):
            self._tell("open", "refused", actor, row.id)
            return Opened(content, row.expires_at, row.views_left)
        self._tell("open", "answered", actor, row.id, fields_seen(content))
        claim = self.store.claim(row.id, lease, self.lease_seconds)
        if claim is None:
            self._tell("open", "gone", actor, row.id)
            raise NotFound
        (self.metrics.repeated if claim.repeated else self.metrics.opened).inc()
        if not claim.repeated:
            self.notify("message.opened", self.name, row.id, over=claim.views_left == 0)
        return Opened(content, row.expires_at, claim.views_left)

    def confirm(self, link_id: str, idempotency_key: str | None, actor: Actor = NOBODY) -> None:
        """End the lease of a reader who has the message.

        Raises NotFound if there is no such lease, FieldRefused, AccountRequired, ScopeRequired, AuditFailed.
        """
        self._enter(link_id, actor, "confirm")
        if idempotency_key is None:
            raise FieldRefused("Idempotency-Key", "Name the lease to end in the Idempotency-Key header.")
        link = _link_bytes(link_id)
        lease, row_id = self._lease_of(link, idempotency_key, actor), crypto.row_id(link)
        if self.name != "open":
            row, sealed = self._fetch(link, lease, actor, "confirm")
            self._inside(row, link, sealed, actor, "confirm")
        self._tell("confirm", "done", actor, row_id)
        if lease is None or not self.store.confirm(row_id, lease):
            self._tell("confirm", "gone", actor, row_id)
            raise NotFound

    def receipt(self, token: str) -> Receipt:
        """Return the sender's side of a message: state and times, never content. Raises NotFound."""
        return self._receipt(self._row_of(token))

    def burn(self, token: str, actor: Actor = NOBODY) -> Receipt:
        """Destroy the message of a receipt, if it is still there, and return the receipt. Raises NotFound, AuditFailed."""
        row = self._row_of(token)
        if self._destroy(row, row.receipt, "burn", actor):
            self.metrics.burned.inc()
        return self.receipt(token)

    def take_down(self, row_id: RowId, actor: Actor = NOBODY) -> bool:
        """Destroy a message, as the admin asks. False if it is not there. Raises AuditFailed."""
        row = self.store.history(row_id)
        found = row is not None and self._destroy(row, None, "take-down", actor)
        if found:
            self.metrics.taken_down.inc()
        return found

    def counts(self) -> Counts:
        """What is stored, for the admin."""
        return self.store.counts()

    def _destroy(self, row: Row, receipt: bytes | None, action: str, actor: Actor) -> bool:
        if not self._is_alive(row):
            return False
        self._tell(action, "done", actor, row.id)
        if self.store.burn(row.id, receipt):
            self.notify("message.burned", self.name, row.id, over=True)
            return True
        self._tell(action, "gone", actor, row.id)
        return False

    def _enter(self, link_id: str, actor: Actor, action: str) -> None:
        """Raise what `admit` does. The audit is told of who is signed in and shows no certificate: a password may be stolen."""
        try:
            self.admit(actor)
        except CertificateRequired:
            if LINK_ID.fullmatch(link_id):
                self._tell(action, "refused", actor, crypto.row_id(_link_bytes(link_id)), "no certificate")
            raise

    def _tell(self, action: str, outcome: str, actor: Actor, row_id: RowId, detail: str = "") -> None:
        """Write to the audit what is about to be done. Raises AuditFailed, and then it must not be."""
        if actor.certificate:
            detail = "; ".join(filter(None, (f"certificate {actor.certificate}", detail)))
        if self.audit and (self.audits_links or actor.way != "nobody"):
            self.audit.write(Event(action, outcome, actor, self.name, self.audit.name_of(row_id), detail))

    def _lease_of(self, link: bytes, idempotency_key: str | None, actor: Actor) -> bytes | None:
        """Where readers sign in, a lease is its account's: with another's key nobody gets a view that was not theirs."""
        if idempotency_key is None:
            return None
        if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise FieldRefused("Idempotency-Key", "An Idempotency-Key has 16 to 128 of the characters A-Z a-z 0-9 _ and -.")
        whose = actor.account.id if self.name != "open" and actor.account else ""
        return crypto.lease_hash(link, idempotency_key, whose)

    def _fetch(self, link: bytes, lease: bytes | None, actor: Actor, action: str) -> tuple[Row, Sealed]:
        """Raises NotFound; where readers sign in the audit is told first, as of who is in no audience: to tell takes time."""
        row_id = crypto.row_id(link)
        found = self.store.fetch(row_id, lease)
        if found is None:
            if self.name != "open":
                self._tell(action, "refused", actor, row_id)
            raise NotFound
        return found

    def _inside(self, row: Row, link: bytes, sealed: Sealed, actor: Actor, action: str) -> tuple[Policy | None, bytes | Locked]:
        """Unseal a message for somebody it is for, before anything of theirs is tried: its policy, and what is inside.

        Raises NotFound for anybody else, of whom the audit is told, Damaged, KeyMissing, AuditFailed.
        """
        inside = self._unseal(link, sealed)
        audience, policy = EVERYONE, None
        if isinstance(inside, Addressed):
            audience, policy = decode_terms(inside.terms)
            inside = inside.inside
        if self.name != "open" and not self.admits(actor, audience):
            self._tell(action, "refused", actor, row.id)
            raise NotFound
        return policy, inside

    def _content(self, draft: Draft) -> Content:
        if self.name == "open" and (draft.format == "record" or draft.audience != EVERYONE):
            raise FieldRefused(
                "audience", "An audience and records are for the guarded and the sealed vault, whose readers sign in."
            )
        if draft.document is not None:
            if len(draft.document.encode()) > 2 * self.max_message_bytes:
                raise BodyTooLarge("An encrypted document is at most %(most)s bytes of JSON.", most=2 * self.max_message_bytes)
            return Content(draft.document, "document")
        message = draft.message
        if not message:
            raise FieldRefused("message", "The message is empty.")
        if "\x00" in message:
            raise FieldRefused("message", "The message holds a NUL character, which text cannot.")
        if len(message.encode()) > self.max_message_bytes:
            raise BodyTooLarge("A message is at most %(most)s bytes of UTF-8.", most=self.max_message_bytes)
        if draft.format == "markdown":
            return Content(message, "markdown", markdown_to_html(message))
        return Content(message, draft.format)

    def _check_proof(self, row: Row, link: bytes, proof: str | None, actor: Actor) -> None:
        """Let nobody near a view who does not show the proof, if there is one.

        A wrong one takes a try only where there is a passphrase to guess.
        """
        if row.proof is None:
            return
        if proof is None:
            raise ProofRequired
        right = hmac.compare_digest(row.proof, crypto.proof_hash(link, proof))
        if row.tries_free is None:
            if not right:
                raise ProofRequired
            return
        self._reserve_try(row)
        if not right:
            raise self._wrong_passphrase(row, actor)
        self.store.return_try(row.id)

    def _unseal(self, link: bytes, sealed: Sealed) -> bytes | Locked | Addressed:
        key_id = crypto.key_id_of(sealed)
        ring = self.keys.ring_with(key_id)
        self._require_same_key(ring, key_id)
        return crypto.unseal(ring, link, sealed, self.name)

    def _unlocked(self, row: Row, link: bytes, inside: bytes | Locked, passphrase: str | None, actor: Actor) -> bytes:
        """Open the inner seal, if there is one, on a reserved try, which is given back unless the passphrase is wrong."""
        if isinstance(inside, bytes):
            return inside
        if passphrase is None:
            raise PassphraseRequired
        self._reserve_try(row)
        try:
            content = inside.unlock(link, passphrase)
        except PassphraseMismatch:
            raise self._wrong_passphrase(row, actor) from None
        except BaseException:
            self.store.return_try(row.id)
            raise
        self.store.return_try(row.id)
        return content

    def _wrong_passphrase(self, row: Row, actor: Actor) -> WrongPassphrase:
        # It counts before it is written: whoever could keep the audit from being written could guess for ever.
        left = self.store.wrong_try(row.id)
        if left == 0:
            self.metrics.locked.inc()
            self.notify("message.burned", self.name, row.id, over=True)
            self._tell("lock", "done", actor, row.id)
        else:
            self._tell("open", "refused", actor, row.id)
        return WrongPassphrase(left)

    def _reserve_try(self, row: Row) -> None:
        if not self.store.reserve_try(row.id):
            # A row without views left was fetched under a lease, and can be again.
            if row.views_left != 0 and self.store.peek(row.id) is None:
                raise NotFound
            raise TriesInUse

    def _require_same_key(self, ring: KeyRing, key_id: KeyId) -> None:
        """Refuse a key that has the id but not the bytes of the one this store knows: a wrong key file."""
        verifier = ring.masters[key_id].verifier
        if (key_id, verifier) not in self._same_keys:
            if not self.store.same_key(key_id, verifier):
                raise KeyMissing
            self._same_keys.add((key_id, verifier))

    def _row_of(self, token: str) -> Row:
        if not _RECEIPT_TOKEN.fullmatch(token):
            raise NotFound
        raw = base64.urlsafe_b64decode(token)
        row_id, secret = RowId(raw[:-_RECEIPT_SECRET_BYTES]), raw[-_RECEIPT_SECRET_BYTES:]
        row = self.store.history(row_id)
        if row is None or not hmac.compare_digest(row.receipt, crypto.receipt_hash(secret)):
            raise NotFound
        return row

    def _is_alive(self, row: Row) -> bool:
        return row.ended is None and row.expires_at > self.store.now()

    def _receipt(self, row: Row) -> Receipt:
        alive = self._is_alive(row)
        state: State
        if row.ended == "burned" or row.ended == "locked":
            state = row.ended
        elif row.openings:
            state = "opened"
        else:
            state = "waiting" if alive else "expired"
        return Receipt(state, row.created_at, row.expires_at, row.openings, row.views_left if alive else 0)


def _encryption(proof: bytes | None) -> Encryption:
    return "server" if proof is None else "end-to-end"


def _preview(row: Row) -> Preview:
    return Preview(row.expires_at, row.views_left, row.tries_free is not None, _encryption(row.proof))


def _link_bytes(link_id: str) -> bytes:
    if not LINK_ID.fullmatch(link_id):
        raise NotFound
    return bytes.fromhex(link_id.replace("-", ""))
