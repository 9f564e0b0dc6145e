"""Client certificates for tests: those that a served Mayfly issued, and those that look like them.

registry = Registry(served)          # before it starts: makes its authority
ana = registry.issue("ana@example.com")
with served.client(ana.files) as client: …
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from access.authority import Signer, make_root
from access.certificates import DAY, Certificates
from keyfile import KeyFile
from records import Account, Actor, CertificateId, CertificateState, Millis
from records import Certificate as Record
from server import open_accounts
from settings import Settings
from tests.engines.authority import Certificate
from tests.serving import Served

OPERATOR = Actor(scopes=frozenset(("certificates:manage",)), way="command")
_PASSPHRASE = "kept offline"


@dataclass(frozen=True)
class Shown:
    """What a client has to show: files, the same as DER, and the id under which the server knows it, if it does."""

    files: Certificate
    der: bytes
    id: str = ""


class Registry:
    """The certificates of `served`, changed as its operator changes them, in its own database."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.folder = served.folder / "certificates"
        self.folder.mkdir()
        self._keys = KeyFile(served.key_file)
        with self._open() as certificates:
            certificates.authority.issue_issuer(make_root(self.folder / "root", _PASSPHRASE, served.clock.now()))
            self.authority = self.folder / "authority.pem"
            self.authority.write_bytes(certificates.authority.pem())
        self._number = 0

    @contextmanager
    def _open(self) -> Iterator[Certificates]:
        access = open_accounts(Settings.from_environ(self.served.settings), self._keys, self.served.clock.now)
        assert access
        assert access.certificates
        yield access.certificates
        access.certificates.store.close()
        access.store.close()

    def issue(self, email: str) -> Shown:
        """A certificate of an account, made from a request as the operator does it."""
        key = generate_private_key(SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
        with self._open() as certificates:
            account = _account(certificates, email)
            made = certificates.add(OPERATOR, account.id, csr.public_bytes(Encoding.PEM).decode())
        return replace(self.write(x509.load_der_x509_certificate(made.der), key), id=made.id)

    def set_state(self, shown: Shown, state: CertificateState) -> None:
        with self._open() as certificates:
            certificates.set_state(OPERATOR, shown.id, state)

    def forge(
        self,
        email: str,
        begins: int = -60,
        ends: int = 24 * 3600,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        known: bool = True,
        signer: Signer | None = None,
    ) -> Shown:
        """A certificate that says of its holder what one of `email` would; `begins` and `ends` are seconds from now.

        Signed by our issuing key, or by `signer`; if `known`, the store has it as an active one of that account.
        """
        key, now = generate_private_key(SECP256R1()), self.served.clock.now()
        with self._open() as certificates:
            account, issuer = _account(certificates, email), certificates.authority.issuer()
            signer = signer or certificates.authority._signer(issuer)
            real = x509.load_der_x509_certificate(_any_of(certificates, account).der)
            builder = (
                x509.CertificateBuilder()
                .issuer_name(signer.certificate.subject)
                .subject_name(real.subject)
                .public_key(key.public_key())
                .serial_number(
                    x509.random_serial_number() if known or signer.certificate.subject == real.issuer else real.serial_number
                )
                .not_valid_before(_moment(now + begins * 1000))
                .not_valid_after(_moment(now + ends * 1000))
            )
            for extension in real.extensions:
                value = extension.value
                if isinstance(value, x509.ExtendedKeyUsage):
                    if usage is None:
                        continue
                    value = x509.ExtendedKeyUsage([usage])
                if isinstance(value, x509.SubjectKeyIdentifier):
                    value = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
                if isinstance(value, x509.AuthorityKeyIdentifier):
                    value = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.certificate.public_key())  # type: ignore[arg-type]
                builder = builder.add_extension(value, extension.critical)
            made = builder.sign(signer.key, SHA256())
            if known:
                record = Record(
                    id=CertificateId(os.urandom(16).hex()),
                    account=account.id,
                    email=email,
                    serial=f"{made.serial_number:040x}",
                    issuer=issuer.id,
                    digest=made.fingerprint(SHA256()),
                    der=made.public_bytes(Encoding.DER),
                    created_at=now,
                    begins_at=Millis(now + begins * 1000),
                    expires_at=Millis(now + 90 * DAY),  # were it only for the store, it would count
                    state="active",
                    changed_at=now,
                )
                certificates.store.add_certificate(record, [])
        return self.write(made, key)

    def stolen(self, shown: Shown) -> Shown:
        """The certificate without its key: a key that says it is the one of the certificate, and signs as another."""
        other = generate_private_key(SECP256R1())
        form = PublicFormat.UncompressedPoint
        point = other.public_key().public_bytes(Encoding.X962, form)
        certificate = x509.load_der_x509_certificate(shown.der)
        victim = certificate.public_key().public_bytes(Encoding.X962, form)
        der = other.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        assert der.count(point) == 1
        files = self.write(certificate, other).files
        _write_pem(files.key, "EC PRIVATE KEY", der.replace(point, victim))
        return Shown(files, shown.der)

    def write(self, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> Shown:
        self._number += 1
        files = Certificate(self.folder / f"{self._number}.pem", self.folder / f"{self._number}.key")
        files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Shown(files, certificate.public_bytes(Encoding.DER))


def _account(certificates: Certificates, email: str) -> Account:
    return next(account for account in certificates.accounts.accounts() if account.email == email)


def _any_of(certificates: Certificates, account: Account) -> Record:
    return certificates.store.certificates(account.id)[0]


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis // 1000, UTC)


def _write_pem(path: Path, label: str, der: bytes) -> None:
    text = base64.encodebytes(der).decode()
    path.write_text(f"-----BEGIN {label}-----\n{text}-----END {label}-----\n")
