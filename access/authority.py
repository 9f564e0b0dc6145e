"""The authority that client certificates come from: its root, who issues, the list of those that do not count, and verifying.

What belongs here: everything that computes with an issuing key. Whose a certificate is, and what becomes of it, stands in
`certificates`. The root's key is made here and handed out, encrypted, to be kept offline: it is stored nowhere (decision record
0015). Whether a certificate leads to the authority is cryptography's own X.509 verification alone, never a walk of ours.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

import crypto
from crypto import key_id_of
from database import CertificateStore
from errors import Damaged, NoAuthority, NothingThere, StartRefused
from keyfile import KeyFile
from records import SECOND, Account, Certificate, Issuer, Millis, Sealed

ROOT_YEARS, ISSUING_YEARS = 10, 5
BEGINS_BEFORE = Millis(60 * SECOND)
"""A certificate holds from a minute before it is made, for systems whose clocks are behind."""
CRL_SECONDS = 24 * 3600
_CRL_AGAIN = Millis(3600 * SECOND)
"""A list without changes is signed anew after an hour, so that whoever asks has one that holds for nearly a day."""
_AGAIN = 10

ROOT_CERTIFICATE, ROOT_KEY = "root.pem", "root.key"
_YEAR = timedelta(days=365)
_Hash = SHA256 | SHA384 | SHA512
_CURVES: dict[str, type[_Hash]] = {SECP256R1.name: SHA256, SECP384R1.name: SHA384, SECP521R1.name: SHA512}
RSA_BITS = (2048, 8192)
"""From the least that is thought safe until 2030 (NIST SP 800-57 part 1) to what is still checked within milliseconds."""

IssuingKey = EllipticCurvePrivateKey | RSAPrivateKey
SubjectKey = EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs: a certificate of an authority, with its key."""

    certificate: x509.Certificate
    key: IssuingKey


def is_good_key(key: object) -> bool:
    """Whether a public key is of a kind that is taken: P-256, P-384, P-521, or RSA of 2048 to 8192 bits with a usual exponent."""
    if isinstance(key, EllipticCurvePublicKey):
        return key.curve.name in _CURVES
    if isinstance(key, RSAPublicKey):
        return RSA_BITS[0] <= key.key_size <= RSA_BITS[1] and key.public_numbers().e >= 65537
    return False


# The root, which is kept offline


def make_root(folder: Path, passphrase: str, now: Millis) -> Signer:
    """A root for ten years: its certificate, and its key under `passphrase`, in files of `folder` that only their owner can read.

    Raises StartRefused if one is there already, or they cannot be written.
    """
    key = generate_private_key(SECP384R1())
    begins = _moment(now - BEGINS_BEFORE)
    name = _name("Mayfly root", begins)
    certificate = (
        _builder(name, name, key.public_key(), begins, begins + ROOT_YEARS * _YEAR)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .sign(key, SHA384())
    )
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file_name, content in ((ROOT_KEY, encrypted), (ROOT_CERTIFICATE, certificate.public_bytes(Encoding.PEM))):
            with os.fdopen(os.open(folder / file_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
    except FileExistsError:
        raise StartRefused(f"{folder} holds a root already; give it another folder") from None
    except OSError as error:
        raise StartRefused(f"{folder} cannot be written ({error.strerror})") from None
    return Signer(certificate, key)


def read_root(folder: Path, passphrase: str) -> Signer:
    """The root that `make_root` left in `folder`. Raises StartRefused."""
    return read_signer(folder / ROOT_CERTIFICATE, folder / ROOT_KEY, passphrase)


def read_signer(certificate_file: Path, key_file: Path, passphrase: str | None) -> Signer:
    """A certificate and its key, from PEM files. Raises StartRefused, which holds no key bytes."""
    certificate = read_certificates(certificate_file)[0]
    try:
        key = load_pem_private_key(key_file.read_bytes(), passphrase.encode() if passphrase else None)
    except OSError as error:
        raise StartRefused(f"{key_file} cannot be read ({error.strerror})") from None
    except TypeError:
        raise StartRefused(
            f"{key_file}: " + ("the key needs its passphrase" if passphrase is None else "the key has no passphrase")
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise StartRefused(f"{key_file}: it holds no private key in PEM, or the passphrase is not its own") from None
    if not isinstance(key, IssuingKey) or not is_good_key(key.public_key()):
        raise StartRefused(f"{key_file}: the key must be of P-256, P-384, P-521, or RSA of 2048 to 8192 bits")
    if key.public_key() != certificate.public_key():
        raise StartRefused(f"{key_file}: the key is not that of the certificate in {certificate_file}")
    return Signer(certificate, key)


def read_certificates(file: Path) -> list[x509.Certificate]:
    """One or more certificates of a PEM file. Raises StartRefused."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise StartRefused(f"{file} cannot be read ({error.strerror})") from None
    except ValueError:
        raise StartRefused(f"{file}: it holds no certificate in PEM") from None


# The authority of a server


@dataclass(frozen=True, slots=True)
class Authority:
    """Who issues certificates on this server. The newest issues; those before it are trusted until they end."""

    store: CertificateStore
    keys: KeyFile

    def issue_issuer(self, root: Signer) -> Issuer:
        """A new issuing certificate, of `root`, for five years but no longer than that. It is kept by `add`.

        Raises StartRefused if the root may not, or has ended.
        """
        now = self.store.now()
        _require_authority(root.certificate, now, "the root")
        key = generate_private_key(SECP256R1())
        begins = max(_moment(now - BEGINS_BEFORE), root.certificate.not_valid_before_utc)
        ends = min(begins + ISSUING_YEARS * _YEAR, root.certificate.not_valid_after_utc)
        certificate = (
            _builder(root.certificate.subject, _name("Mayfly issuing", begins), key.public_key(), begins, ends)
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .add_extension(_CA_USAGE, critical=True)
            .add_extension(_issued_by(root.certificate), critical=False)
            .sign(root.key, _hash_of(root.key))
        )
        return self.take_over(Signer(certificate, key), [root.certificate])

    def take_over(self, signer: Signer, chain: list[x509.Certificate]) -> Issuer:
        """Let an issuing certificate issue from now on. `chain` leads from it to its root; without one it is trusted itself.

        Its key is sealed under the key file. Raises StartRefused unless it is one of an authority that may sign certificates and
        lists, holds at this moment, and what it issues verifies.
        """
        now = self.store.now()
        _require_authority(signer.certificate, now, "the certificate")
        pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
        issuer = Issuer(
            id=str(uuid.uuid4()),
            certificate=signer.certificate.public_bytes(Encoding.DER),
            chain=pem,
            created_at=now,
            expires_at=_millis(signer.certificate.not_valid_after_utc),
        )
        _require_that_it_verifies(issuer, signer, now)
        name = _secret_of(issuer.id)
        key = signer.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.store.add_issuer(issuer, name, crypto.seal_secret(self.keys.ring(), name, key))
        return issuer

    def issuer(self) -> Issuer:
        """The one that issues. Raises NoAuthority if there is none, or it has ended."""
        issuers = self.store.issuers()
        if not issuers or issuers[0].expires_at <= self.store.now():
            raise NoAuthority
        return issuers[0]

    def issue(self, issuer: Issuer, key: SubjectKey, account: Account, lifetime: Millis) -> x509.Certificate:
        """A certificate of an account for TLS clients, for `lifetime` but never past the issuer's own end.

        Raises KeyMissing, Damaged.
        """
        return issue(self._signer(issuer), key, account.id, account.email, self.store.now(), lifetime)

    def chain_of(self, issuer: Issuer) -> list[x509.Certificate]:
        """The issuing certificate, and what leads from it to its root."""
        return [x509.load_der_x509_certificate(issuer.certificate), *_chain(issuer)]

    def pem(self) -> bytes:
        """Every issuing certificate that has not ended, the newest first, and all that lead from them to their roots, each once.

        Raises NoAuthority.
        """
        now = self.store.now()
        found = [issuer for issuer in self.store.issuers() if issuer.expires_at > now]
        if not found:
            raise NoAuthority
        issuing = [x509.load_der_x509_certificate(issuer.certificate) for issuer in found]
        above = [one for issuer in found for one in _chain(issuer)]
        return b"".join(one.public_bytes(Encoding.PEM) for one in dict.fromkeys([*issuing, *above]))

    def crl(self, issuer_id: str | None = None) -> bytes:
        """The list (DER) of the certificates of an issuer, or of the newest, that are revoked or, as on hold, inactive.

        It is signed anew after each change, and after an hour. Raises NoAuthority, NothingThere, KeyMissing, Damaged.
        """
        if issuer_id is None:
            issuers = self.store.issuers()
            if not issuers:
                raise NoAuthority
            issuer_id = issuers[0].id
        for _ in range(_AGAIN):
            issuer, now = self.store.issuer(issuer_id), self.store.now()
            if issuer is None:
                raise NothingThere
            age = now - issuer.crl_at
            if issuer.crl and issuer.crl_changes == issuer.changes and 0 <= age < _CRL_AGAIN:
                return issuer.crl
            fresh = _list_of(self._signer(issuer), self.store.listed_certificates(issuer.id), issuer.crl_number + 1, now)
            if self.store.keep_crl(issuer, fresh, now):
                return fresh
        return fresh

    def verifies(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is one of ours for TLS clients, and holds at this moment. Whether it is revoked is not asked."""
        now = self.store.now()
        return any(_why_not(issuer, certificate, now) is None for issuer in self.store.issuers())

    def _signer(self, issuer: Issuer) -> Signer:
        name = _secret_of(issuer.id)
        _, sealed = self.store.secrets(name).get(name, (None, None))
        if sealed is None:
            raise Damaged
        ring = self.keys.ring_with(key_id_of(Sealed(sealed)))
        key = load_der_private_key(crypto.unseal_secret(ring, name, sealed), None)
        assert isinstance(key, IssuingKey)
        return Signer(x509.load_der_x509_certificate(issuer.certificate), key)


def issue(signer: Signer, key: SubjectKey, account: str, email: str, now: Millis, lifetime: Millis) -> x509.Certificate:
    """A certificate for TLS clients. What it says of its subject is the account's: nothing of it comes from whoever asks."""
    own = signer.certificate
    begins = max(_moment(now - BEGINS_BEFORE), own.not_valid_before_utc)
    ends = min(_moment(now + lifetime), own.not_valid_after_utc)
    # A common name has 64 characters at most (RFC 5280, appendix A), an address more.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, email if len(email) <= 64 else account)])
    names = [x509.RFC822Name(email), x509.UniformResourceIdentifier(f"urn:uuid:{account}")]
    return (
        _builder(own.subject, subject, key, begins, ends)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(_CLIENT_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_issued_by(own), critical=False)
        .sign(signer.key, _hash_of(signer.key))
    )


def _builder(issuer: x509.Name, subject: x509.Name, key: SubjectKey, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())  # 20 bytes from the system's CSPRNG
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(client: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=client,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not client,
        crl_sign=not client,
        encipher_only=False,
        decipher_only=False,
    )


_CLIENT_USAGE, _CA_USAGE = _usage(True), _usage(False)


def _name(what: str, begins: datetime) -> x509.Name:
    """No two are alike: lists of revoked certificates are told apart by the names of those who signed them."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{what} {begins:%Y-%m-%d} {os.urandom(4).hex()}")])


def _issued_by(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        assert isinstance(key, SubjectKey)
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _hash_of(key: IssuingKey) -> _Hash:
    return _CURVES[key.curve.name]() if isinstance(key, EllipticCurvePrivateKey) else SHA256()


def _list_of(signer: Signer, certificates: list[Certificate], number: int, now: Millis) -> bytes:
    at = _moment(now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(at)
        .next_update(at + timedelta(seconds=CRL_SECONDS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_issued_by(signer.certificate), critical=False)
    )
    for one in certificates:
        entry = x509.RevokedCertificateBuilder().serial_number(int(one.serial, 16)).revocation_date(_moment(one.changed_at))
        reason = x509.ReasonFlags(one.reason) if one.state == "revoked" else x509.ReasonFlags.certificate_hold
        if reason != x509.ReasonFlags.unspecified:  # which is told by no reason at all (RFC 5280 section 5.3.1)
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(signer.key, _hash_of(signer.key)).public_bytes(Encoding.DER)


# Whether it may


def _require_authority(certificate: x509.Certificate, now: Millis, which: str) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        raise StartRefused(f"{which} is not one of an authority: it does not say that it may sign certificates") from None
    if not constraints.ca:
        raise StartRefused(f"{which} is not one of an authority (CA:FALSE)")
    if not usage.key_cert_sign or not usage.crl_sign:
        raise StartRefused(f"{which} may not sign certificates and lists of revoked ones (keyCertSign, cRLSign)")
    if not certificate.not_valid_before_utc <= _moment(now) < certificate.not_valid_after_utc:
        raise StartRefused(
            f"{which} holds from {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d} only"
        )


def _require_that_it_verifies(issuer: Issuer, signer: Signer, now: Millis) -> None:
    """Issue one to nobody, and see whether it would be let in: what is wrong with an authority shows before anybody needs it."""
    key = generate_private_key(SECP256R1()).public_key()
    trial = issue(signer, key, str(uuid.UUID(int=0)), "nobody@mayfly.invalid", now, Millis(3600 * SECOND))
    if why := _why_not(issuer, trial, now):
        raise StartRefused(f"what this authority issues would not verify, with the chain that was given: {why}")


def _why_not(issuer: Issuer, certificate: x509.Certificate, now: Millis) -> str | None:
    """What keeps a certificate from being one that `issuer` issued for TLS clients, and that holds; None if nothing does."""
    own, *above = [x509.load_der_x509_certificate(issuer.certificate), *_chain(issuer)]
    anchor, between = (above[-1], [own, *above[:-1]]) if above else (own, [])
    try:
        PolicyBuilder().store(Store([anchor])).time(_moment(now)).build_client_verifier().verify(certificate, between)
    except VerificationError as error:
        return str(error)
    return None


def _chain(issuer: Issuer) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(issuer.chain) if issuer.chain else []


def _secret_of(issuer_id: str) -> str:
    return f"issuer {issuer_id}"


def _moment(millis: int) -> datetime:
    """In whole seconds, rounded down: X.509 knows no smaller ones."""
    return datetime.fromtimestamp(millis // SECOND, UTC)


def _millis(moment: datetime) -> Millis:
    return Millis(int(moment.timestamp()) * SECOND)
