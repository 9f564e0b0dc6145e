"""Certificates of accounts: made, followed by others, switched off and on, revoked, looked after, and checked when shown.

Each change is written to the audit first, and what webhooks are told of it is stored with it. Who may: somebody with the scope
certificates:manage everything; an account sees its own, has them followed by new ones, and switches them off.
"""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from access.authority import Authority, SubjectKey, is_good_key
from access.handover import Handover, hand_over
from audit import Audit
from database import AccessStore, CertificateStore
from errors import FieldRefused, MayflyError, NothingThere, ScopeRequired, WrongState
from messages import Vault
from records import (
    NOBODY,
    SECOND,
    Account,
    AccountId,
    Actor,
    Certificate,
    CertificateChange,
    CertificateId,
    CertificateState,
    Event,
    Issuer,
    Millis,
    Notice,
    NoticeType,
    Reason,
)

DAY = Millis(24 * 3600 * SECOND)
DEFAULT_OVERLAP_DAYS, MAX_OVERLAP_DAYS = 14, 90
MAX_CERTIFICATES = 20
"""How many certificates of an account may count at one moment: whoever follows each by another fills no database."""
WARNING_DAYS = (1, 7, 30)
"""How many days before its end a certificate is warned of."""
_ISSUER_WARNING = Millis(180 * DAY)
MAX_CSR_CHARACTERS = 16 * 1024
_CSR_HASHES = (SHA256, SHA384, SHA512)

_log = logging.getLogger("mayfly.certificates")


@dataclass(frozen=True, slots=True)
class Expiring:
    """How many active certificates end within so many days, and have not been followed by others."""

    within: dict[int, int]


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates of one server. `vault`, the guarded one, hands over keys that are made here."""

    store: CertificateStore
    authority: Authority
    accounts: AccessStore
    audit: Audit
    days: int = 90
    vault: Vault | None = None

    # Looking

    def all(self, actor: Actor, account_id: str | None = None) -> list[Certificate]:
        """Those of an account, or all that the actor may see, the newest first. Raises ScopeRequired."""
        if _may_all(actor):
            return self.store.certificates(AccountId(account_id) if account_id else None)
        own = _own(actor)
        if account_id and account_id != own.id:
            raise ScopeRequired
        return self.store.certificates(own.id)

    def get(self, actor: Actor, certificate_id: str) -> Certificate:
        """Raises NothingThere, also for one that is another account's."""
        found = self.store.certificate(CertificateId(certificate_id))
        if found is None or not (_may_all(actor) or found.account == _own(actor).id):
            raise NothingThere
        return found

    def pem(self, actor: Actor, certificate_id: str) -> bytes:
        """A certificate, and those above it but for the root, as servers and clients are given them. Raises NothingThere."""
        found = self.get(actor, certificate_id)
        issuer = self.store.issuer(found.issuer)
        above = self.authority.chain_of(issuer) if issuer else []
        chain = [x509.load_der_x509_certificate(found.der), *(one for one in above if one.issuer != one.subject)]
        return b"".join(one.public_bytes(Encoding.PEM) for one in chain)

    # Making

    def add(self, actor: Actor, account_id: str, csr: str) -> Certificate:
        """A certificate of an account for the key of `csr` (PEM), of which nothing else is looked at.

        Raises ScopeRequired, NothingThere, FieldRefused, WrongState, NoAuthority, AuditFailed.
        """
        account = self._account(actor, account_id)
        _, made = self._issue(account, key_of(csr))
        self.audit.write(Event("certificate", "made", actor, target=made.id, detail=f"of account {account.id}"))
        self.store.add_certificate(made, [notice_of("certificate.created", made, made.created_at)])
        return made

    def make(self, actor: Actor, account_id: str) -> tuple[Certificate, Handover]:
        """A certificate of an account with a key that is made here, handed over by a message, and stored nowhere.

        Raises FieldRefused without a guarded vault that keeps messages, and what `add` and `Vault.create` raise.
        """
        account = self._account(actor, account_id)
        if self.vault is None:
            raise FieldRefused(
                "csr", "Without a guarded vault no key can be handed over: send a certificate signing request (csr)."
            )
        key = generate_private_key(SECP256R1())
        issuer, made = self._issue(account, key.public_key())
        self.audit.write(Event("certificate", "made", actor, target=made.id, detail=f"of account {account.id}"))
        certificate = x509.load_der_x509_certificate(made.der)
        handed = hand_over(self.vault, actor, account, key, certificate, self.authority.chain_of(issuer))
        try:
            self.store.add_certificate(made, [notice_of("certificate.created", made, made.created_at)])
        except MayflyError:
            self.vault.burn(handed.message.receipt, actor)
            raise
        return made, handed

    def renew(self, actor: Actor, certificate_id: str, csr: str, overlap_days: int = DEFAULT_OVERLAP_DAYS) -> Certificate:
        """A certificate that follows an active one, which is revoked as superseded after `overlap_days`.

        An account that does so itself shows that it has the key: by a request for the same key, or by coming with the certificate.
        So nobody gets a certificate by a password or an API key alone. Raises NothingThere, FieldRefused, WrongState, NoAuthority,
        AuditFailed.
        """
        was, key = self.get(actor, certificate_id), key_of(csr)
        account = self._account(actor, was.account) if _may_all(actor) else _own(actor)
        if not _may_all(actor) and actor.certificate != was.id and _key_bytes(key) != _key_bytes(_key_in(was)):
            raise FieldRefused(
                "csr",
                "Sign the request with the key of the certificate that it follows, or come with that certificate on the "
                "connection. For another key ask an admin.",
            )
        _require_followable(was, self.store.now())
        _, made = self._issue(account, key)
        made = replace(made, replaces=was.id)
        self.audit.write(Event("certificate", "made", actor, target=made.id, detail=f"follows {was.id}"))

        def change(now: Certificate) -> CertificateChange:
            _require_followable(now, made.created_at)
            until = Millis(min(made.created_at + overlap_days * DAY, now.expires_at))
            followed = replace(now, superseded_at=until)
            notices = [
                notice_of("certificate.renewed", followed, made.created_at, follower=made.id),
                notice_of("certificate.created", made, made.created_at),
            ]
            if overlap_days == 0:
                followed = _revoked(followed, "superseded", made.created_at)
                notices.append(notice_of("certificate.revoked", followed, made.created_at))
            return CertificateChange(followed, tuple(notices), made)

        if self.store.change_certificate(was.id, change) is None:
            raise NothingThere
        return made

    def _account(self, actor: Actor, account_id: str) -> Account:
        if not _may_all(actor):
            raise ScopeRequired
        account = self.accounts.account(AccountId(account_id))
        if account is None:
            raise NothingThere
        if not account.enabled:
            raise WrongState("That account is disabled: it could not sign in with a certificate either.")
        return account

    def _issue(self, account: Account, key: SubjectKey) -> tuple[Issuer, Certificate]:
        now = self.store.now()
        counting = [one for one in self.store.certificates(account.id) if one.state != "revoked" and one.expires_at > now]
        if len(counting) >= MAX_CERTIFICATES:
            raise WrongState("That account has %(most)s certificates already: revoke some first.", most=MAX_CERTIFICATES)
        issuer = self.authority.issuer()
        certificate = self.authority.issue(issuer, key, account, Millis(self.days * DAY))
        made = Certificate(
            id=CertificateId(str(uuid.uuid4())),
            account=account.id,
            email=account.email,
            serial=f"{certificate.serial_number:040x}",
            issuer=issuer.id,
            digest=certificate.fingerprint(SHA256()),
            der=certificate.public_bytes(Encoding.DER),
            created_at=now,
            begins_at=_millis(certificate.not_valid_before_utc),
            expires_at=_millis(certificate.not_valid_after_utc),
            state="active",
            changed_at=now,
        )
        return issuer, made

    # Switching off and on, and revoking

    def set_state(self, actor: Actor, certificate_id: str, state: CertificateState, reason: Reason | None = None) -> Certificate:
        """Make a certificate active or inactive, or revoke it for good. What it is already is no change.

        An account may make its own inactive, though not by what was given to a program. Raises NothingThere, ScopeRequired,
        WrongState for one that is revoked, FieldRefused, AuditFailed.
        """
        was = self.get(actor, certificate_id)
        if reason and state != "revoked":
            raise FieldRefused("reason", "Only what is revoked has a reason.")
        if not _may_all(actor) and (state != "inactive" or (actor.way in ("key", "token") and not actor.certificate)):
            raise ScopeRequired
        _require_not_revoked(was)
        if was.state == state:
            return was
        outcome: Literal["changed", "disabled", "ended"] = (
            "changed" if state == "active" else "disabled" if state == "inactive" else "ended"
        )
        detail = (reason or "unspecified") if state == "revoked" else state
        self.audit.write(Event("certificate", outcome, actor, target=was.id, detail=detail))
        now = self.store.now()
        changed = self.store.change_certificate(was.id, lambda one: _to_state(one, state, reason or "unspecified", now))
        if changed is None:
            raise NothingThere
        return changed

    # Looking after them

    def look_after(self) -> None:
        """Revoke what was followed by another, or whose account is gone; warn of what ends soon. Done every hour.

        Raises StoreFailed, AuditFailed: what is left over is done the next time.
        """
        self._warn_of_issuer()
        there = {account.id for account in self.accounts.accounts()}
        now = self.store.now()
        for one in self.store.certificates():
            if one.state != "revoked" and one.expires_at > now and one.account not in there:
                self._revoke_by_itself(one, "cessationOfOperation", now)
        for one in self.store.due_certificates(max(WARNING_DAYS) * DAY):
            if one.superseded_at is not None and one.superseded_at <= now:
                self._revoke_by_itself(one, "superseded", now)
            elif one.superseded_at is None and one.state == "active":
                self._warn(one, now)

    def expiring(self) -> Expiring:
        """How many end soon, for the metrics."""
        now = self.store.now()
        ends = [
            one.expires_at
            for one in self.store.due_certificates(max(WARNING_DAYS) * DAY)
            if one.state == "active" and one.superseded_at is None
        ]
        return Expiring({days: sum(end <= now + days * DAY for end in ends) for days in WARNING_DAYS})

    def _revoke_by_itself(self, one: Certificate, reason: Reason, now: Millis) -> None:
        self.audit.write(Event("certificate", "ended", NOBODY, target=one.id, detail=reason))
        try:
            self.store.change_certificate(one.id, lambda found: _to_state(found, "revoked", reason, now))
        except WrongState:
            return  # by another node, or by somebody, at this moment

    def _warn(self, one: Certificate, now: Millis) -> None:
        days = next(days for days in WARNING_DAYS if one.expires_at <= now + days * DAY)
        if one.warned_days is not None and one.warned_days <= days:
            return

        def change(found: Certificate) -> CertificateChange:
            if found.warned_days is not None and found.warned_days <= days:
                return CertificateChange(found)
            return CertificateChange(replace(found, warned_days=days), (notice_of("certificate.expiring", found, now),))

        self.store.change_certificate(one.id, change)
        _log.warning("the certificate %s ends within %d days, on %s", one.id, days, iso(one.expires_at))

    def _warn_of_issuer(self) -> None:
        issuers = self.store.issuers()
        if issuers and issuers[0].expires_at <= self.store.now() + _ISSUER_WARNING:
            _log.warning("the authority that issues ends on %s: python server.py ca renew", iso(issuers[0].expires_at))

    # When one is shown

    def shown_by(self, account: Account, der: bytes) -> CertificateId | None:
        """The id of a certificate that was shown on a TLS connection, if it is one of `account`, byte for byte, that counts now.

        Whoever shows it has shown on that connection that they hold its key. Raises StoreFailed.
        """
        try:
            certificate = x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion):
            return None
        found = self.store.certificate_by_digest(certificate.fingerprint(SHA256()))
        if found is None or found.der != der or found.account != account.id:
            return None
        now = self.store.now()
        if found.state != "active" or found.expires_at <= now:
            return None
        if found.superseded_at is not None and found.superseded_at <= now:  # housekeeping has yet to revoke it
            return None
        return found.id if self.authority.verifies(certificate) else None


# Requests


def key_of(csr: str) -> SubjectKey:
    """The key of a certificate signing request (PKCS#10 in PEM), signed by itself. Nothing else in it is looked at.

    Raises FieldRefused.
    """
    if len(csr) > MAX_CSR_CHARACTERS:
        raise FieldRefused("csr", "csr has at most %(most)s characters.", most=MAX_CSR_CHARACTERS)
    try:
        request = x509.load_pem_x509_csr(csr.encode("ascii"))
        key, hashed = request.public_key(), request.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise FieldRefused("csr", "csr must be a certificate signing request (PKCS#10) in PEM.") from None
    if not isinstance(key, SubjectKey) or not is_good_key(key):
        raise FieldRefused("csr", "The key of csr must be of the curve P-256, P-384 or P-521, or RSA of 2048 to 8192 bits.")
    if not isinstance(hashed, _CSR_HASHES):
        raise FieldRefused("csr", "csr must be signed with SHA-256, SHA-384 or SHA-512.")
    if not request.is_signature_valid:
        raise FieldRefused("csr", "The signature of csr is not that of its key.")
    return key


def _key_in(certificate: Certificate) -> SubjectKey:
    key = x509.load_der_x509_certificate(certificate.der).public_key()
    assert isinstance(key, SubjectKey)
    return key


def _key_bytes(key: SubjectKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# States


def _to_state(one: Certificate, state: CertificateState, reason: Reason, now: Millis) -> CertificateChange:
    _require_not_revoked(one)
    if one.state == state:
        return CertificateChange(one)
    becomes = _revoked(one, reason, now) if state == "revoked" else replace(one, state=state, changed_at=now)
    told: NoticeType = (
        "certificate.activated"
        if state == "active"
        else "certificate.deactivated"
        if state == "inactive"
        else "certificate.revoked"
    )
    return CertificateChange(becomes, (notice_of(told, becomes, now),))


def _revoked(one: Certificate, reason: Reason, now: Millis) -> Certificate:
    return replace(one, state="revoked", reason=reason, changed_at=now)


def _require_not_revoked(one: Certificate) -> None:
    if one.state == "revoked":
        raise WrongState("That certificate has been revoked, which is for good. Make another one.")


def _require_followable(one: Certificate, now: Millis) -> None:
    _require_not_revoked(one)
    if one.state != "active" or one.expires_at <= now:
        raise WrongState("Only a certificate that is active, and has not ended, can be followed by another.")
    if one.superseded_at is not None:
        raise WrongState("That certificate is followed by another already.")


def notice_of(type_: NoticeType, certificate: Certificate, at: Millis, **more: str) -> Notice:
    """What webhooks are told of a certificate, in the form of Standard Webhooks: no name, no address, no key."""
    data = {
        "id": certificate.id,
        "account": certificate.account,
        "serial": certificate.serial,
        "issuer": certificate.issuer,
        "state": certificate.state,
        "reason": certificate.reason or None,
        "not_before": iso(certificate.begins_at),
        "not_after": iso(certificate.expires_at),
        "replaces": certificate.replaces,
        **more,
    }
    payload = {"type": type_, "timestamp": iso(at), "data": data}
    return Notice(str(uuid.uuid4()), certificate.id, type_, json.dumps(payload, separators=(",", ":")))


def _may_all(actor: Actor) -> bool:
    return "certificates:manage" in actor.scopes


def _own(actor: Actor) -> Account:
    if actor.account is None:
        raise ScopeRequired
    return actor.account


def iso(millis: Millis) -> str:
    return datetime.fromtimestamp(millis // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _millis(moment: datetime) -> Millis:
    return Millis(int(moment.timestamp()) * SECOND)
