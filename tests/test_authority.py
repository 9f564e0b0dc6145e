"""The authority: its root, who issues, what openssl says of what they issue and of the list, imports, rotation."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import keyfile
from access.authority import (
    ISSUING_YEARS,
    ROOT_CERTIFICATE,
    ROOT_KEY,
    Authority,
    Signer,
    make_root,
    read_certificates,
    read_root,
    read_signer,
)
from access.sealing import reseal
from database import CertificateStore, open_certificates
from errors import Damaged, KeyMissing, NoAuthority, NothingThere, StartRefused
from keyfile import KeyFile
from records import SECOND, Account, Certificate, CertificateId, Millis
from settings import Settings
from tests.access_stores import new_account
from tests.certificate_stores import DAY, becoming, new_certificate
from tests.stores import HOUR, NOW, SetClock

PASSPHRASE = "a root is kept offline"
YEAR = 365 * DAY


@dataclass
class Place:
    """An authority in a folder, its clock, and the programs that judge it."""

    folder: Path
    clock: SetClock
    keys: KeyFile
    store: CertificateStore
    authority: Authority

    def root(self, name: str = "root") -> Signer:
        return make_root(self.folder / name, PASSPHRASE, self.clock.at)

    def issue(self, account: Account | None = None, lifetime: int = 90 * DAY) -> x509.Certificate:
        """To an account, for a new key."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return self.authority.issue(self.authority.issuer(), key, account or new_account(), Millis(lifetime))

    def add(self, number: int, certificate: x509.Certificate, **changes: Any) -> Certificate:
        """Into the store, as one that was issued."""
        kept = new_certificate(
            number,
            serial=f"{certificate.serial_number:040x}",
            issuer=self.authority.issuer().id,
            changed_at=self.clock.at,
            **changes,
        )
        self.store.add_certificate(kept, [])
        return kept

    def openssl(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, cwd=self.folder, check=False)

    def verify(self, certificate: x509.Certificate, *more: str, crl: bytes | None = None) -> str:
        """What openssl says of a certificate for TLS clients, by /ca.pem and /ca.crl, at the time of the clock."""
        (self.folder / "ca.pem").write_bytes(self.authority.pem())
        (self.folder / "ca.crl").write_bytes(crl or self.authority.crl())
        at = str(self.clock.at // SECOND)
        judged = self.openssl(
            *("verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "ca.crl", "-purpose", "sslclient", "-attime", at),
            *("-x509_strict", *more),
            stdin=certificate.public_bytes(Encoding.PEM),
        )
        return (judged.stdout + judged.stderr).decode().strip()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    keyfile.create(tmp_path / "key.json")
    clock, keys = SetClock(), KeyFile(tmp_path / "key.json")
    store = open_certificates(Settings(), tmp_path / "key.json", clock)
    assert store
    yield Place(tmp_path, clock, keys, store, Authority(store, keys))
    store.close()


@pytest.fixture
def begun(place: Place) -> Place:
    """With a root and who issues."""
    place.authority.issue_issuer(place.root())
    return place


def extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


# The root and who issues


def test_root_is_for_ten_years_and_its_key_is_nowhere_but_in_its_folder(place: Place) -> None:
    root = place.root()
    issuer = place.authority.issue_issuer(root)
    assert isinstance(root.key, ec.EllipticCurvePrivateKey) and root.key.curve.name == "secp384r1"
    assert root.certificate.not_valid_after_utc - root.certificate.not_valid_before_utc == timedelta(days=3650)
    folder = place.folder / "root"
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {ROOT_CERTIFICATE: 0o600, ROOT_KEY: 0o600}
    number = root.key.private_numbers().private_value.to_bytes(48)
    encrypted = (folder / ROOT_KEY).read_bytes()
    assert encrypted.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    secrets = [sealed for _, sealed in place.store.secrets("").values()]
    assert len(secrets) == 1, "that of who issues"
    place.store.close()
    for path in place.folder.rglob("*"):
        assert path.is_dir() or number not in path.read_bytes(), path
    assert place.keys.ring().current
    assert issuer.chain == root.certificate.public_bytes(Encoding.PEM)


def test_root_is_read_again_by_its_passphrase_alone(place: Place) -> None:
    root = place.root()
    again = read_root(place.folder / "root", PASSPHRASE)
    assert again.certificate == root.certificate
    with pytest.raises(StartRefused, match="the passphrase is not its own"):
        read_root(place.folder / "root", "another passphrase")
    with pytest.raises(StartRefused, match="cannot be read"):
        read_root(place.folder / "nowhere", PASSPHRASE)
    judged = place.openssl("pkey", "-in", f"root/{ROOT_KEY}", "-passin", f"pass:{PASSPHRASE}", "-noout", "-text")
    assert b"P-384" in judged.stdout


def test_root_takes_the_place_of_no_other(place: Place) -> None:
    place.root()
    before = (place.folder / "root" / ROOT_KEY).read_bytes()
    with pytest.raises(StartRefused, match="holds a root already"):
        place.root()
    assert (place.folder / "root" / ROOT_KEY).read_bytes() == before


def test_who_issues_is_for_five_years_and_may_make_no_authority_of_others(begun: Place) -> None:
    own, root = begun.authority.chain_of(begun.authority.issuer())
    key = own.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    assert own.not_valid_after_utc - own.not_valid_before_utc == ISSUING_YEARS * timedelta(days=365)
    constraints = extension(own, x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    own.verify_directly_issued_by(root)


def test_who_issues_ends_with_its_root(place: Place) -> None:
    root = place.root()
    place.clock.advance(8 * YEAR)
    issuer = place.authority.issue_issuer(root)
    assert issuer.expires_at == int(root.certificate.not_valid_after_utc.timestamp()) * SECOND
    place.clock.advance(2 * YEAR)
    with pytest.raises(StartRefused, match="the root holds from"):
        place.authority.issue_issuer(root)
    with pytest.raises(NoAuthority):
        place.authority.issuer()


def test_without_an_authority_nothing_is_issued(place: Place) -> None:
    for act in (place.authority.issuer, place.authority.pem, place.authority.crl):
        with pytest.raises(NoAuthority):
            act()
    assert not place.authority.verifies(place.root().certificate)


# What is issued


def test_certificate_says_what_is_known_of_the_account_and_nothing_else(begun: Place) -> None:
    account = new_account()
    certificate = begun.issue(account)
    assert [(part.oid, part.value) for part in certificate.subject] == [(NameOID.COMMON_NAME, account.email)]
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.RFC822Name) == [account.email]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"urn:uuid:{account.id}"]
    assert len(list(names)) == 2
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature
    assert not (usage.value.key_cert_sign or usage.value.crl_sign or usage.value.key_agreement or usage.value.key_encipherment)
    assert not extension(certificate, x509.BasicConstraints).value.ca
    assert certificate.not_valid_before_utc == datetime.fromtimestamp(NOW // SECOND - 60, UTC)
    assert certificate.not_valid_after_utc == datetime.fromtimestamp((NOW + 90 * DAY) // SECOND, UTC)


def test_serial_numbers_are_of_20_random_bytes(begun: Place) -> None:
    serials = [begun.issue().serial_number for _ in range(64)]
    assert all(serial >> 160 == 0 for serial in serials)
    assert max(serial.bit_length() for serial in serials) > 152
    together = 0
    for serial in serials:
        together |= serial
    assert together.bit_count() > 150, "no bit of them is always the same"


def test_address_that_is_no_common_name_is_still_in_the_certificate(begun: Place) -> None:
    account = new_account(email=f"{'a' * 60}@example.org")
    certificate = begun.issue(account)
    assert certificate.subject.rfc4514_string() == f"CN={account.id}"
    assert extension(certificate, x509.SubjectAlternativeName).value.get_values_for_type(x509.RFC822Name) == [account.email]
    assert begun.authority.verifies(certificate)


def test_certificate_never_lasts_longer_than_who_issued_it(begun: Place) -> None:
    begun.clock.advance(5 * YEAR - 10 * DAY)
    certificate = begun.issue()
    assert int(certificate.not_valid_after_utc.timestamp()) * SECOND == begun.authority.issuer().expires_at
    assert begun.authority.verifies(certificate)


def test_openssl_verifies_what_is_issued(begun: Place) -> None:
    certificate = begun.issue()
    assert begun.verify(certificate) == "stdin: OK"
    assert begun.authority.verifies(certificate)
    begun.clock.advance(90 * DAY + SECOND)  # its last second counts (RFC 5280 section 4.1.2.5)
    assert "certificate has expired" in begun.verify(certificate)
    assert not begun.authority.verifies(certificate)
    begun.clock.at = Millis(NOW - HOUR)
    assert "certificate is not yet valid" in begun.verify(certificate)
    assert not begun.authority.verifies(certificate)


def test_what_others_issued_does_not_verify(begun: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of another authority of the same names, self-signed, for servers, or by one of our own certificates for clients."""
    own, root = begun.authority.chain_of(begun.authority.issuer())
    key = ec.generate_private_key(ec.SECP256R1())
    lookalike = Signer(own, key)
    account = new_account()
    from access.authority import issue

    forged = issue(lookalike, key.public_key(), account.id, account.email, NOW, Millis(DAY))
    assert forged.issuer == own.subject
    assert not begun.authority.verifies(forged)
    real = begun.authority.issue(begun.authority.issuer(), key.public_key(), account, Millis(DAY))
    below = issue(Signer(real, key), key.public_key(), account.id, account.email, NOW, Millis(DAY))
    assert not begun.authority.verifies(below)
    for_servers = authority_certificate(key, own.subject, ca=False, usage=[ExtendedKeyUsageOID.SERVER_AUTH], signer=begun)
    assert not begun.authority.verifies(for_servers)
    assert not begun.authority.verifies(own)
    assert not begun.authority.verifies(root)
    assert begun.authority.verifies(real)


# The list of those that do not count


def test_openssl_refuses_what_is_revoked_or_inactive_by_the_list(begun: Place) -> None:
    kept = {}
    for number, state in enumerate(("active", "inactive", "revoked"), start=1):
        certificate = begun.issue()
        reason = "keyCompromise" if state == "revoked" else ""
        kept[state] = certificate
        begun.add(number, certificate, state=state, reason=reason)
    assert begun.verify(kept["active"]) == "stdin: OK"
    for state in ("inactive", "revoked"):
        assert "certificate revoked" in begun.verify(kept[state])
    crl = x509.load_der_x509_crl(begun.authority.crl())
    reasons = {entry.serial_number: entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value for entry in crl}
    assert reasons == {
        kept["inactive"].serial_number: "certificateHold",
        kept["revoked"].serial_number: "keyCompromise",
    }


def test_list_holds_for_a_day_and_its_number_rises_with_each_change(begun: Place) -> None:
    certificate = begun.add(1, begun.issue())
    first = begun.authority.crl()
    assert begun.authority.crl() == first, "without a change it is not signed anew"
    begun.store.change_certificate(certificate.id, becoming(state="inactive", changed_at=NOW))
    second = begun.authority.crl()
    begun.store.change_certificate(certificate.id, becoming(state="active"))
    third = begun.authority.crl()
    begun.clock.advance(HOUR)
    fourth = begun.authority.crl()
    lists = [x509.load_der_x509_crl(crl) for crl in (first, second, third, fourth)]
    assert [len(crl) for crl in lists] == [0, 1, 0, 0]
    assert [crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in lists] == [1, 2, 3, 4]
    assert {crl.next_update_utc - crl.last_update_utc for crl in lists if crl.next_update_utc} == {timedelta(days=1)}
    own = begun.authority.chain_of(begun.authority.issuer())[0]
    assert all(crl.is_signature_valid(own.public_key()) for crl in lists)  # type: ignore[arg-type]
    entry = lists[1].get_revoked_certificate_by_serial_number(int(certificate.serial, 16))
    assert entry and entry.revocation_date_utc == datetime.fromtimestamp(NOW // SECOND, UTC)


def test_certificate_that_was_revoked_without_a_reason_is_in_the_list_without_one(begun: Place) -> None:
    begun.add(1, begun.issue(), state="revoked", reason="unspecified")
    (entry,) = x509.load_der_x509_crl(begun.authority.crl())
    assert len(entry.extensions) == 0


# Rotation


def test_new_issuer_and_the_one_before_are_both_trusted(begun: Place) -> None:
    old_issuer, old = begun.authority.issuer(), begun.issue()
    begun.clock.advance(DAY)
    root = read_root(begun.folder / "root", PASSPHRASE)
    new_issuer = begun.authority.issue_issuer(root)
    new = begun.issue()
    assert begun.authority.issuer() == new_issuer != old_issuer
    assert new.issuer != old.issuer
    assert begun.authority.verifies(old) and begun.authority.verifies(new)
    assert begun.authority.pem().count(b"BEGIN CERTIFICATE") == 3, "both, and their root once"
    assert begun.verify(new) == "stdin: OK"
    assert begun.verify(old, crl=begun.authority.crl(old_issuer.id)) == "stdin: OK"
    begun.store.add_certificate(new_certificate(1, serial=f"{old.serial_number:040x}", issuer=old_issuer.id), [])
    begun.store.change_certificate(CertificateId("certificate-1"), becoming(state="revoked", reason="superseded"))
    assert len(x509.load_der_x509_crl(begun.authority.crl())) == 0, "each has a list of its own"
    assert "certificate revoked" in begun.verify(old, crl=begun.authority.crl(old_issuer.id))
    with pytest.raises(NothingThere):
        begun.authority.crl("' OR ''='")


def test_issuer_that_has_ended_is_trusted_no_more(begun: Place) -> None:
    old_root = read_root(begun.folder / "root", PASSPHRASE)
    begun.clock.advance(5 * YEAR - DAY)
    old = begun.issue()
    begun.authority.issue_issuer(old_root)
    begun.clock.advance(DAY)
    assert not begun.authority.verifies(old)
    assert begun.authority.verifies(begun.issue())
    assert begun.authority.pem().count(b"BEGIN CERTIFICATE") == 2


def test_issuing_key_is_readable_after_the_key_file_is_rotated_and_the_old_key_dropped(begun: Place) -> None:
    path = begun.folder / "key.json"
    old = begun.keys.ring().current
    keyfile.rotate(path, datetime.fromtimestamp(0, UTC))
    keys = KeyFile(path)
    authority = Authority(begun.store, keys)
    assert authority.crl(), "sealed under the old key"
    reseal(begun.store, keys)
    keyfile.drop(path, old, datetime.now(UTC))
    begun.clock.advance(HOUR)
    fresh = Authority(begun.store, KeyFile(path))
    assert fresh.verifies(
        fresh.issue(fresh.issuer(), ec.generate_private_key(ec.SECP256R1()).public_key(), new_account(), Millis(DAY))
    )


def test_without_the_key_file_the_issuing_key_is_sealed(begun: Place, tmp_path: Path) -> None:
    keyfile.create(tmp_path / "other.json")
    other = Authority(begun.store, KeyFile(tmp_path / "other.json"))
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(KeyMissing):
        other.issue(other.issuer(), key, new_account(), Millis(DAY))
    name = f"issuer {begun.authority.issuer().id}"
    _, sealed = begun.store.secrets(name)[name]
    begun.store.replace_secret(name, sealed, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(Damaged):
        begun.issue()
    begun.store.remove_secret(name)
    with pytest.raises(Damaged):
        begun.issue()


# Taking over an authority that there is


def authority_certificate(
    key: Any,
    subject: x509.Name | str = "Company issuing",
    *,
    ca: bool | None = True,
    cert_sign: bool = True,
    crl_sign: bool = True,
    begins: int = NOW - DAY,
    ends: int = NOW + YEAR,
    usage: list[x509.ObjectIdentifier] | None = None,
    signer: Place | Signer | None = None,
    constrained_to: str | None = None,
) -> x509.Certificate:
    """Self-signed, or signed by who issues in a place, or by a signer."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]) if isinstance(subject, str) else subject
    issuer, signing = name, key
    if isinstance(signer, Place):
        found = signer.authority._signer(signer.authority.issuer())
        issuer, signing = found.certificate.subject, found.key
    elif signer:
        issuer, signing = signer.certificate.subject, signer.key
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(begins // SECOND, UTC))
        .not_valid_after(datetime.fromtimestamp(ends // SECOND, UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        flags = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
            False,
        )
        key_usage = x509.KeyUsage(digital_signature=not ca, key_cert_sign=cert_sign and ca, crl_sign=crl_sign and ca, **flags)
        builder = builder.add_extension(key_usage, critical=True)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name("a@example.org")]), critical=False)
    if constrained_to:
        names = x509.NameConstraints([x509.RFC822Name(constrained_to)], None)
        builder = builder.add_extension(names, critical=True)
    return builder.sign(signing, None if isinstance(signing, ed25519.Ed25519PrivateKey) else SHA256())


def files(folder: Path, certificate: x509.Certificate, key: Any) -> Signer:
    """As the command reads them."""
    (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "ca.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return read_signer(folder / "ca.pem", folder / "ca.key", None)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA"])
def test_authority_that_there_is_can_be_taken_over(place: Place, kind: str) -> None:
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    key: Any = ec.generate_private_key(curves[kind]) if kind in curves else rsa.generate_private_key(65537, 2048)
    signer = files(place.folder, authority_certificate(key), key)
    issuer = place.authority.take_over(signer, [])
    assert place.authority.issuer() == issuer
    certificate = place.issue()
    assert place.authority.verifies(certificate)
    assert place.verify(certificate) == "stdin: OK"


def test_authority_is_taken_over_with_the_chain_above_it(place: Place) -> None:
    root_key, between_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = authority_certificate(root_key, "Company root")
    between = authority_certificate(between_key, "Company between", signer=Signer(root, root_key))
    own = authority_certificate(key, "Company issuing", signer=Signer(between, between_key))
    with pytest.raises(StartRefused, match="would not verify"):
        place.authority.take_over(Signer(own, key), [root])
    assert place.store.issuers() == []
    place.authority.take_over(Signer(own, key), [between, root])
    assert place.verify(place.issue()) == "stdin: OK"
    assert place.authority.pem().count(b"BEGIN CERTIFICATE") == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ca": False}, r"not one of an authority \(CA:FALSE\)"),
        ({"ca": None}, "not one of an authority: it does not say"),
        ({"cert_sign": False}, "may not sign certificates"),
        ({"crl_sign": False}, "may not sign certificates and lists"),
        ({"ends": NOW}, "holds from 2027-01-14 to 2027-01-15 only"),
        ({"begins": NOW + HOUR}, "holds from 2027-01-15"),
        ({"constrained_to": "example.org"}, "would not verify"),
    ],
)
def test_certificate_that_is_no_authority_is_not_taken_over(place: Place, changes: dict[str, Any], why: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(StartRefused, match=why):
        place.authority.take_over(Signer(authority_certificate(key, **changes), key), [])
    assert place.store.issuers() == [] and place.store.secrets("") == {}


def test_key_that_is_not_the_certificates_is_refused(place: Place) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(StartRefused, match="is not that of the certificate"):
        files(place.folder, authority_certificate(key), other)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP224R1()), rsa.generate_private_key(65537, 1024), ed25519.Ed25519PrivateKey.generate()],
    ids=["P-224", "RSA 1024", "Ed25519"],
)
def test_key_of_another_kind_is_refused(place: Place, key: Any) -> None:
    with pytest.raises(StartRefused, match="the key must be of P-256"):
        files(place.folder, authority_certificate(key), key)


def test_files_that_hold_no_certificate_or_key_are_refused(place: Place) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files(place.folder, authority_certificate(key), key)
    with pytest.raises(StartRefused, match="holds no certificate in PEM"):
        read_certificates(place.folder / "key.json")
    with pytest.raises(StartRefused, match="holds no private key in PEM") as refusal:
        read_signer(place.folder / "ca.pem", place.folder / "key.json", None)
    assert place.keys.ring().admin_token not in str(refusal.value)
    with pytest.raises(StartRefused, match="the key has no passphrase"):
        read_signer(place.folder / "ca.pem", place.folder / "ca.key", "one")
    place.root()
    with pytest.raises(StartRefused, match="the key needs its passphrase"):
        read_signer(place.folder / "root" / ROOT_CERTIFICATE, place.folder / "root" / ROOT_KEY, None)


def test_stored_key_of_an_issuer_is_sealed(begun: Place) -> None:
    key = begun.authority._signer(begun.authority.issuer()).key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    begun.store.close()
    stored = (begun.folder / "certificates.db").read_bytes()
    assert key.private_numbers().private_value.to_bytes(32) not in stored
    assert b"PRIVATE KEY" not in stored
