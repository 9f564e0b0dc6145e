"""A TLS authority for tests, made at run time: certificates of servers and clients, good ones and expired ones.

authority = Authority(folder)
server, client = authority.server(), authority.client("mayfly")
stranger = Authority(folder, "another")

Files are PEM, private keys without a passphrase and 0600. Nothing is made twice: the same arguments give the same files.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, as files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in `folder`. `certificate` is what those who trust it are given."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _named(f"Mayfly test {name}")
        now = datetime.now(UTC)
        made = (
            _builder(self._subject, self._subject, self._key, now - _DAY, now + 2 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def server(self, *hosts: str, expired: bool = False) -> Certificate:
        """A server's certificate for `hosts`, names or addresses; 127.0.0.1, ::1 and localhost if none are given."""
        hosts = hosts or ("127.0.0.1", "::1", "localhost")
        return self._issue("server", hosts[0], [_general(host) for host in hosts], ExtendedKeyUsageOID.SERVER_AUTH, expired)

    def client(self, name: str, expired: bool = False) -> Certificate:
        """A client's certificate; `name` is its common name."""
        return self._issue("client", name, [], ExtendedKeyUsageOID.CLIENT_AUTH, expired)

    def _issue(
        self, kind: str, name: str, hosts: list[x509.GeneralName], usage: x509.ObjectIdentifier, expired: bool
    ) -> Certificate:
        stem = f"{self.name}-{kind}-{name}{'-expired' if expired else ''}".replace(":", "_")
        files = Certificate(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        if files.certificate.exists():
            return files
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        ends = now - _DAY / 2 if expired else now + _DAY
        builder = (
            _builder(_named(name), self._subject, key, now - _DAY, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        files.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        _write_secret(files.key, key)
        return files


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_secret(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
