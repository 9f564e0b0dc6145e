"""Certificates of accounts: who may have one made, see it or switch it off; which requests are taken; handing a key over."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from cryptography.x509.oid import NameOID

import keyfile
from access.authority import Authority, Signer, issue, make_root
from access.certificates import DAY, MAX_CERTIFICATES, Certificates, key_of
from access.handover import FILE_NAME, Handover, encrypt_file, new_passphrase, proof_of
from access.services import Access
from database import open_certificates
from errors import AuditFailed, FieldRefused, NoAuthority, NotFound, NothingThere, ScopeRequired, StoreFailed, WrongState
from keyfile import KeyFile
from mayfly.envelope import Plain, decode_key, decrypt
from mayfly.envelope import proof_of as proof_by_client
from messages import Vault
from records import Account, Actor, Certificate, Event, Millis, NoticeType
from scheduler import Housekeeping
from server import open_accounts, open_vaults
from settings import Settings
from tests.certificate_stores import new_hook
from tests.stores import HOUR, SetClock, race

OPERATOR = Actor(scopes=frozenset(("certificates:manage",)), way="command")
ALL_CERTIFICATE_NOTICES: tuple[NoticeType, ...] = (
    "certificate.created",
    "certificate.activated",
    "certificate.deactivated",
    "certificate.revoked",
    "certificate.renewed",
    "certificate.expiring",
)


@dataclass
class Office:
    """What certificates have to do with: an authority, two accounts, and a webhook that is told of everything."""

    folder: Path
    clock: SetClock
    access: Access
    certificates: Certificates
    vault: Vault
    ana: Account
    bruno: Account

    def another(self) -> Certificates:
        """The same of another node."""
        store = open_certificates(Settings(), self.folder / "key.json", self.clock)
        assert store
        return replace(self.certificates, store=store, authority=Authority(store, self.vault.keys))

    def told(self) -> list[tuple[str, str]]:
        """What webhooks are told, the oldest first, and of which certificate."""
        found = reversed(self.certificates.store.deliveries(most=1000))
        return [(delivery.notice.type, delivery.notice.subject) for delivery in found]

    def audited(self) -> list[tuple[str, str, str]]:
        """Who did what to which certificate, the oldest first."""
        entries = self.access.store.entries()
        return [(entry.email or entry.way, entry.outcome, entry.target) for entry in entries if entry.action == "certificate"]

    def add(self, account: Account | None = None, key: Any = None) -> Certificate:
        return self.certificates.add(OPERATOR, (account or self.ana).id, csr_of(key or new_key()))


def actor_of(account: Account, **changes: Any) -> Actor:
    return replace(Actor(account, account.scopes, "session", "session", "192.0.2.7"), **changes)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: Any, hashed: Any = SHA256(), name: str = "anything") -> str:  # noqa: B008 - it has no state
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name("admin@example.com")]), critical=False)
    return builder.sign(key, hashed).public_bytes(Encoding.PEM).decode()


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setattr("crypto.RFC_9106_LOW_MEMORY", (64, 1))
    keyfile.create(tmp_path / "key.json")
    clock, keys, settings = SetClock(), KeyFile(tmp_path / "key.json"), Settings(key_file=tmp_path / "key.json")
    access, store = open_accounts(settings, keys, clock), open_certificates(settings, tmp_path / "key.json", clock)
    assert access and store
    vault = next(vault for vault in open_vaults(settings, clock, keys=keys, audit=access.audit) if vault.name == "guarded")
    authority = Authority(store, keys)
    authority.issue_issuer(make_root(tmp_path / "root", "a root is kept offline", clock.at))
    store.add_hook(new_hook(events=ALL_CERTIFICATE_NOTICES), "hook 1", b"")

    def add(email: str) -> Account:
        given = {"email": email, "first_name": "A", "last_name": "B", "roles": [], "password": "correct horse battery staple"}
        return access.accounts.add(Actor(way="command"), given)[0]

    certificates = Certificates(store, authority, access.store, access.audit, 90, vault)
    yield Office(tmp_path, clock, access, certificates, vault, add("ana@example.com"), add("bruno@example.com"))
    store.close()
    access.store.close()


# Requests


def test_of_a_request_only_its_key_is_taken(office: Office) -> None:
    key = new_key()
    made = office.certificates.add(OPERATOR, office.ana.id, csr_of(key, name="admin@example.com"))
    certificate = x509.load_der_x509_certificate(made.der)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=ana@example.com"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert b"admin@example.com" not in made.der
    assert made.email == "ana@example.com" and made.account == office.ana.id
    assert (made.expires_at, made.state) == (office.clock.at + 90 * DAY, "active")


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (ec.generate_private_key(ec.SECP256R1()), SHA256()),
        (ec.generate_private_key(ec.SECP384R1()), SHA512()),
        (ec.generate_private_key(ec.SECP521R1()), SHA512()),
        (rsa.generate_private_key(65537, 2048), SHA256()),
    ],
    ids=["P-256", "P-384", "P-521", "RSA 2048"],
)
def test_request_with_a_good_key_is_taken_and_what_it_gets_verifies(office: Office, key: Any, hashed: Any) -> None:
    made = office.certificates.add(OPERATOR, office.ana.id, csr_of(key, hashed))
    assert office.certificates.shown_by(office.ana, made.der) == made.id


def _broken() -> str:
    """A request whose key was exchanged for another after it was signed."""
    one, other = new_key(), new_key()
    der = x509.load_pem_x509_csr(csr_of(one).encode()).public_bytes(Encoding.DER)
    keys = [key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in (one, other)]
    assert der.count(keys[0]) == 1
    return x509.load_der_x509_csr(der.replace(*keys)).public_bytes(Encoding.PEM).decode()


def _of_version_6(csr: str) -> str:
    """The same request, of a version that there is not."""
    der = x509.load_pem_x509_csr(csr.encode()).public_bytes(Encoding.DER)
    bent = base64.encodebytes(der.replace(b"\x02\x01\x00", b"\x02\x01\x05", 1)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{bent}-----END CERTIFICATE REQUEST-----\n"


_GOOD = csr_of(new_key())


@pytest.mark.parametrize(
    ("csr", "why"),
    [
        (_broken, "signature of csr is not that of its key"),
        (lambda: csr_of(rsa.generate_private_key(65537, 1024)), "The key of csr must be"),
        (lambda: csr_of(rsa.generate_private_key(3, 2048)), "The key of csr must be"),
        (lambda: csr_of(ec.generate_private_key(ec.SECP224R1())), "The key of csr must be"),
        (lambda: csr_of(ec.generate_private_key(ec.SECP192R1())), "The key of csr must be"),
        (lambda: csr_of(ec.generate_private_key(ec.BrainpoolP256R1())), "The key of csr must be"),
        (lambda: csr_of(ec.generate_private_key(ec.SECP256K1())), "The key of csr must be"),
        (lambda: csr_of(ed25519.Ed25519PrivateKey.generate(), None), "The key of csr must be"),
        (lambda: csr_of(dsa.generate_private_key(2048)), "The key of csr must be"),
        (lambda: openssl_csr("-newkey", "rsa:2048", "-sha1"), "must be signed with SHA-256"),
        (lambda: "", "must be a certificate signing request"),
        (lambda: "csr", "must be a certificate signing request"),
        (lambda: "\ud800", "must be a certificate signing request"),
        (lambda: "é" * 100, "must be a certificate signing request"),
        (lambda: _GOOD.replace("CERTIFICATE REQUEST", "CERTIFICATE"), "must be a certificate signing request"),
        (lambda: _GOOD[:200] + "\n-----END CERTIFICATE REQUEST-----", "must be a certificate signing request"),
        (lambda: _of_version_6(_GOOD), "must be a certificate signing request"),
        (lambda: _GOOD + "x" * 16 * 1024, "csr has at most 16384 characters"),
        (lambda: "-----BEGIN CERTIFICATE REQUEST-----\n" + "A" * 1_000_000, "csr has at most 16384 characters"),
    ],
)  # fmt: skip
def test_wrong_request_is_refused_and_nothing_is_issued_or_told(office: Office, csr: Callable[[], str], why: str) -> None:
    with pytest.raises(FieldRefused, match=why):
        office.certificates.add(OPERATOR, office.ana.id, csr())
    assert office.certificates.all(OPERATOR) == []
    assert office.audited() == office.told() == []


def openssl_csr(*arguments: str) -> str:
    done = subprocess.run(
        ["openssl", "req", "-new", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=x", *arguments], capture_output=True, check=True
    )
    return done.stdout.decode()


def test_request_of_openssl_is_taken() -> None:
    assert isinstance(key_of(openssl_csr("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")), ec.EllipticCurvePublicKey)


# Handing a key over


def test_key_that_is_made_here_is_handed_over_once_to_its_account_alone(office: Office) -> None:
    made, handed = office.certificates.make(actor_of(office.bruno, scopes=OPERATOR.scopes), office.ana.id)
    link, proof = handed.message.link_id, proof_by_client(decode_key(handed.fragment), None)
    assert (handed.message.vault, handed.message.views, handed.message.encryption) == ("guarded", 1, "end-to-end")
    with pytest.raises(NotFound):
        office.vault.open(link, proof=proof, actor=actor_of(office.bruno))
    content = office.vault.open(link, proof=proof, actor=actor_of(office.ana)).content
    assert content.format == "document"
    plain = decrypt(json.loads(content.message), decode_key(handed.fragment), None, 1 << 20)
    assert plain.file_name == FILE_NAME and plain.media_type == "application/x-pkcs12"
    assert plain.file and made.email in plain.text and handed.passphrase not in plain.text
    with pytest.raises(ValueError, match="password"):
        load_pkcs12(plain.file, b"another passphrase")
    opened = load_pkcs12(plain.file, handed.passphrase.encode())
    assert opened.cert and opened.cert.certificate.public_bytes(Encoding.DER) == made.der
    assert opened.key.public_key() == opened.cert.certificate.public_key()  # type: ignore[union-attr]
    chain = office.certificates.authority.chain_of(office.certificates.authority.issuer())
    assert [one.certificate for one in opened.additional_certs] == chain
    with pytest.raises(NotFound):
        office.vault.open(link, proof=proof, actor=actor_of(office.ana))
    assert office.certificates.shown_by(office.ana, made.der) == made.id


def test_openssl_opens_the_file_that_is_handed_over(office: Office) -> None:
    made, handed = office.certificates.make(OPERATOR, office.ana.id)
    (office.folder / "key.p12").write_bytes(_file_of(office, handed).file or b"")

    def openssl(passphrase: str) -> subprocess.CompletedProcess[bytes]:
        arguments = ["pkcs12", "-in", "key.p12", "-passin", f"pass:{passphrase}", "-nodes", "-info"]
        return subprocess.run(["openssl", *arguments], capture_output=True, cwd=office.folder, check=False)

    done = openssl(handed.passphrase)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"BEGIN CERTIFICATE") == 3 and done.stdout.count(b"BEGIN PRIVATE KEY") == 1
    assert b"AES-256-CBC" in done.stderr and b"sha256, Iteration 1" not in done.stderr
    assert x509.load_der_x509_certificate(made.der).public_bytes(Encoding.PEM) in done.stdout
    assert openssl(handed.passphrase[:-1]).returncode != 0


def _file_of(office: Office, handed: Handover) -> Plain:
    key = decode_key(handed.fragment)
    content = office.vault.open(handed.message.link_id, proof=proof_of(key), actor=actor_of(office.ana)).content
    return decrypt(json.loads(content.message), key, None, 1 << 20)


def test_key_that_is_made_here_is_kept_nowhere(office: Office) -> None:
    """Neither it nor what opens it is in any file of the server, nor in its log or audit."""
    _, handed = office.certificates.make(OPERATOR, office.ana.id)
    plain = _file_of(office, handed)
    assert plain.file
    key: Any = load_pkcs12(plain.file, handed.passphrase.encode()).key
    secrets = [
        key.private_numbers().private_value.to_bytes(32),
        plain.file[100:200],
        handed.passphrase.encode(),
        handed.fragment.encode(),
        handed.message.link_id.encode(),
    ]
    office.certificates.store.close()
    office.access.store.close()
    for path in office.folder.rglob("*"):
        content = b"" if path.is_dir() else path.read_bytes()
        assert not [secret for secret in secrets if secret in content], path


def test_without_a_guarded_vault_no_key_is_made_here(office: Office) -> None:
    without = replace(office.certificates, vault=None)
    with pytest.raises(FieldRefused, match="send a certificate signing request"):
        without.make(OPERATOR, office.ana.id)
    assert without.add(OPERATOR, office.ana.id, csr_of(new_key()))


def test_message_is_burned_when_its_certificate_cannot_be_kept(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    created = office.vault.create
    monkeypatch.setattr(Vault, "create", lambda vault, *given: kept.append(created(*given)) or kept[-1])
    office.certificates.store.close()

    class Failing:
        def __getattr__(self, name: str) -> Any:
            def fail(*_: object) -> None:
                raise StoreFailed

            return fail if name == "add_certificate" else getattr(store, name)

    store = open_certificates(Settings(), office.folder / "key.json", office.clock)
    assert store
    failing: Any = Failing()
    broken = replace(office.certificates, store=failing, authority=Authority(store, office.vault.keys))
    with pytest.raises(StoreFailed):
        broken.make(OPERATOR, office.ana.id)
    (message,) = kept
    assert office.vault.receipt(message.receipt).state == "burned"
    store.close()


def test_documents_of_ours_are_opened_by_the_client_and_by_its_vectors() -> None:
    vectors = json.loads((Path(__file__).parent / "vectors" / "envelope.json").read_text())
    key = bytes.fromhex(vectors["key"])
    (proof,) = [one["proof"] for one in vectors["proofs"] if one["key"] == vectors["key"] and not one.get("passphrase")]
    assert proof_of(key) == proof == proof_by_client(key, None)
    for file in (b"", b"\0" * 100_000, bytes(range(256)) * 40):
        document, fragment, proof = encrypt_file("Olá", "ö.p12", "application/x-pkcs12", file)
        plain = decrypt(json.loads(document), decode_key(fragment), None, 1 << 20)
        assert plain == Plain("Olá", "text", file, "ö.p12", "application/x-pkcs12")
        assert proof == proof_by_client(decode_key(fragment), None)
    assert len({new_passphrase() for _ in range(100)}) == 100


# Who may


def test_account_sees_its_own_and_nobody_elses(office: Office) -> None:
    his, hers = office.add(office.bruno), office.add(office.ana)
    ana = actor_of(office.ana)
    assert office.certificates.all(ana) == office.certificates.all(ana, office.ana.id) == [hers]
    assert office.certificates.get(ana, hers.id) == hers
    with pytest.raises(ScopeRequired):
        office.certificates.all(ana, office.bruno.id)
    for act in (
        lambda: office.certificates.get(ana, his.id),
        lambda: office.certificates.pem(ana, his.id),
        lambda: office.certificates.set_state(ana, his.id, "inactive"),
        lambda: office.certificates.renew(ana, his.id, csr_of(new_key())),
        lambda: office.certificates.get(ana, "' OR ''='"),
        lambda: office.certificates.get(ana, "\ud800"),
    ):
        with pytest.raises(NothingThere):
            act()
    assert {one.id for one in office.certificates.all(OPERATOR)} == {his.id, hers.id}
    assert office.certificates.all(OPERATOR, office.bruno.id) == [his]
    with pytest.raises(ScopeRequired):
        office.certificates.all(Actor())


def test_account_switches_its_own_off_and_nothing_else(office: Office) -> None:
    hers, ana = office.add(), actor_of(office.ana)
    for state in ("active", "revoked"):
        with pytest.raises(ScopeRequired):
            office.certificates.set_state(ana, hers.id, state)  # type: ignore[arg-type]
    for way in ("key", "token"):
        with pytest.raises(ScopeRequired):
            office.certificates.set_state(actor_of(office.ana, way=way), hers.id, "inactive")
    with pytest.raises(ScopeRequired):
        office.certificates.add(ana, office.ana.id, csr_of(new_key()))
    with pytest.raises(ScopeRequired):
        office.certificates.make(ana, office.ana.id)
    assert office.certificates.get(ana, hers.id).state == "active"
    assert office.certificates.set_state(ana, hers.id, "inactive").state == "inactive"
    with pytest.raises(ScopeRequired):
        office.certificates.set_state(ana, hers.id, "active")
    assert office.certificates.set_state(OPERATOR, hers.id, "active").state == "active"


def test_nobody_gets_a_certificate_by_a_password_alone(office: Office) -> None:
    """Who renews their own shows the key: by a request for the same one, or by coming with the certificate itself."""
    key = new_key()
    hers, other = office.add(key=key), office.add(key=new_key())
    ana = actor_of(office.ana)
    for actor in (ana, actor_of(office.ana, way="key"), actor_of(office.ana, certificate=other.id)):
        with pytest.raises(FieldRefused, match="Sign the request with the key of the certificate"):
            office.certificates.renew(actor, hers.id, csr_of(new_key()))
    assert len(office.certificates.all(ana)) == 2
    by_key = office.certificates.renew(actor_of(office.ana, way="key"), hers.id, csr_of(key))
    by_certificate = office.certificates.renew(actor_of(office.ana, certificate=other.id), other.id, csr_of(new_key()))
    assert (by_key.replaces, by_certificate.replaces) == (hers.id, other.id)
    assert office.certificates.renew(OPERATOR, by_key.id, csr_of(new_key())).account == office.ana.id


def test_certificate_is_made_for_an_account_that_is_there_and_enabled(office: Office) -> None:
    with pytest.raises(NothingThere):
        office.certificates.add(OPERATOR, "00000000-0000-4000-8000-000000000000", csr_of(new_key()))
    office.access.accounts.change(Actor(way="command"), office.ana.id, {"enabled": False})
    with pytest.raises(WrongState, match="is disabled"):
        office.add()


def test_account_has_no_more_than_twenty(office: Office) -> None:
    made = [office.add() for _ in range(MAX_CERTIFICATES)]
    for act in (office.add, lambda: office.certificates.renew(OPERATOR, made[0].id, csr_of(new_key()))):
        with pytest.raises(WrongState, match="has 20 certificates already"):
            act()
    assert office.add(office.bruno)
    office.certificates.set_state(OPERATOR, made[0].id, "revoked")
    assert office.add()


def test_without_an_authority_there_are_no_certificates(office: Office) -> None:
    office.clock.advance(5 * 366 * DAY)
    with pytest.raises(NoAuthority):
        office.add()
    assert office.told() == office.audited() == []


# States


def test_states_and_what_they_turn_into(office: Office) -> None:
    one = office.add()
    for state in ("inactive", "inactive", "active", "active", "revoked"):
        assert office.certificates.set_state(OPERATOR, one.id, state).state == state  # type: ignore[arg-type]
        assert (office.certificates.shown_by(office.ana, one.der) is not None) == (state == "active")
    for state in ("inactive", "active", "revoked"):
        with pytest.raises(WrongState, match="has been revoked, which is for good"):
            office.certificates.set_state(OPERATOR, one.id, state)  # type: ignore[arg-type]
    types = ["created", "deactivated", "activated", "revoked"]
    assert office.told() == [(f"certificate.{type_}", one.id) for type_ in types], "what changes nothing is not told"
    assert office.audited() == [("command", outcome, one.id) for outcome in ("made", "disabled", "changed", "ended")]


def test_reason_is_that_of_a_revocation(office: Office) -> None:
    one, other = office.add(), office.add()
    with pytest.raises(FieldRefused, match="Only what is revoked has a reason"):
        office.certificates.set_state(OPERATOR, one.id, "inactive", "keyCompromise")
    assert office.certificates.set_state(OPERATOR, one.id, "revoked", "keyCompromise").reason == "keyCompromise"
    assert office.certificates.set_state(OPERATOR, other.id, "revoked").reason == "unspecified"


def test_of_nodes_that_change_one_at_once_revoking_wins_for_good(office: Office) -> None:
    nodes = [office.certificates, office.another()]

    def act(node: Certificates, certificate: Certificate, state: Any) -> None:
        with suppress(WrongState):
            node.set_state(OPERATOR, certificate.id, state)

    for _ in range(5):
        one = office.add()
        office.certificates.set_state(OPERATOR, one.id, "inactive")
        race(
            lambda one=one: act(nodes[0], one, "revoked"),  # type: ignore[misc]
            lambda one=one: act(nodes[1], one, "active"),  # type: ignore[misc]
            lambda one=one: act(nodes[1], one, "revoked"),  # type: ignore[misc]
        )
        assert [node.get(OPERATOR, one.id).state for node in nodes] == ["revoked", "revoked"]
        told = [type_ for type_, subject in office.told() if subject == one.id]
        assert told[-1] == "certificate.revoked" and told.count("certificate.revoked") == 1
    nodes[1].store.close()


def test_what_is_switched_off_on_one_node_counts_on_no_other(office: Office) -> None:
    one, other = office.add(), office.another()
    assert other.shown_by(office.ana, one.der) == one.id
    office.certificates.set_state(OPERATOR, one.id, "inactive")
    assert other.shown_by(office.ana, one.der) is None
    other.store.close()


def test_what_the_audit_cannot_be_told_is_not_done(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    one, key = office.add(), new_key()
    told = office.told()

    def fail(event: Event) -> None:
        raise AuditFailed

    monkeypatch.setattr(office.access.audit, "write", fail)
    for act in (
        office.add,
        lambda: office.certificates.make(OPERATOR, office.ana.id),
        lambda: office.certificates.renew(OPERATOR, one.id, csr_of(key)),
        lambda: office.certificates.set_state(OPERATOR, one.id, "inactive"),
        lambda: office.certificates.set_state(OPERATOR, one.id, "revoked"),
    ):
        with pytest.raises(AuditFailed):
            act()
    assert office.certificates.all(OPERATOR) == [one]
    assert office.told() == told


# Following


def test_certificate_is_followed_by_another_and_both_count_for_an_overlap(office: Office) -> None:
    old = office.add()
    new = office.certificates.renew(OPERATOR, old.id, csr_of(new_key()))
    assert new.replaces == old.id
    with pytest.raises(WrongState, match="is followed by another already"):
        office.certificates.renew(OPERATOR, old.id, csr_of(new_key()))
    for at, counting in ((14 * DAY - HOUR, [old, new]), (14 * DAY, [new])):
        office.clock.at = Millis(old.created_at + at)
        office.certificates.look_after()
        assert [one for one in (old, new) if office.certificates.shown_by(office.ana, one.der)] == counting
    was = office.certificates.get(OPERATOR, old.id)
    assert (was.state, was.reason, was.changed_at) == ("revoked", "superseded", old.created_at + 14 * DAY)
    assert office.told() == [
        ("certificate.created", old.id),
        ("certificate.renewed", old.id),
        ("certificate.created", new.id),
        ("certificate.revoked", old.id),
    ]
    assert office.audited()[-1] == ("nobody", "ended", old.id)
    office.certificates.look_after()
    assert len(office.told()) == 4, "once"


def test_without_an_overlap_the_old_one_is_revoked_at_once(office: Office) -> None:
    old = office.add()
    new = office.certificates.renew(OPERATOR, old.id, csr_of(new_key()), overlap_days=0)
    assert office.certificates.shown_by(office.ana, old.der) is None
    assert office.certificates.shown_by(office.ana, new.der) == new.id
    assert [type_ for type_, subject in office.told() if subject == old.id][1:] == ["certificate.renewed", "certificate.revoked"]


@pytest.mark.parametrize("state", ["inactive", "revoked"])
def test_only_what_is_active_is_followed(office: Office, state: Any) -> None:
    one = office.add()
    office.certificates.set_state(OPERATOR, one.id, state)
    with pytest.raises(WrongState):
        office.certificates.renew(OPERATOR, one.id, csr_of(new_key()))
    ended = office.add()
    office.clock.advance(90 * DAY)
    with pytest.raises(WrongState):
        office.certificates.renew(OPERATOR, ended.id, csr_of(new_key()))


def test_of_nodes_that_have_one_followed_at_once_one_does(office: Office) -> None:
    nodes = [office.certificates, office.another()]

    def renew(node: Certificates) -> str:
        try:
            return node.renew(OPERATOR, one.id, csr_of(new_key())).id
        except WrongState:
            return ""

    for _ in range(3):
        one = office.add()
        followers = [follower for follower in race(*(lambda node=node: renew(node) for node in nodes * 2)) if follower]  # type: ignore[misc]
        assert len(followers) == 1
        assert [other.id for other in nodes[1].all(OPERATOR) if other.replaces == one.id] == followers
    nodes[1].store.close()


# Looking after them


def test_what_ends_soon_is_warned_of_thirty_seven_and_one_days_before_once(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    one = office.add()
    followed = office.add()
    office.certificates.renew(OPERATOR, followed.id, csr_of(new_key()), overlap_days=90)
    asleep = office.add()
    office.certificates.set_state(OPERATOR, asleep.id, "inactive")
    before = office.told()
    ends = one.expires_at
    with caplog.at_level(logging.WARNING, "mayfly.certificates"):
        for left, told in ((31 * DAY, 0), (30 * DAY, 1), (29 * DAY, 1), (7 * DAY, 2), (2 * DAY, 2), (DAY, 3), (HOUR, 3)):
            office.clock.at = Millis(ends - left)
            office.certificates.look_after()
            office.certificates.look_after()
            new = office.told()[len(before) :]
            assert [subject for _, subject in new].count(one.id) == told, left
            assert {type_ for type_, _ in new} <= {"certificate.expiring"}
            assert not [subject for _, subject in new if subject in (followed.id, asleep.id)]
    assert sum(one.id in message for message in caplog.messages) == 3
    office.clock.at = Millis(ends - 7 * DAY)
    assert office.certificates.expiring().within == {1: 0, 7: 2, 30: 2}, "that one, and the one that follows another"


def test_who_was_down_for_long_warns_once_and_of_the_nearest(office: Office) -> None:
    one = office.add()
    office.clock.at = Millis(one.expires_at - HOUR)
    office.certificates.look_after()
    assert [type_ for type_, _ in office.told()].count("certificate.expiring") == 1
    assert office.certificates.get(OPERATOR, one.id).warned_days == 1


def test_certificate_of_an_account_that_is_gone_is_revoked(office: Office) -> None:
    one, other = office.add(office.bruno), office.add(office.ana)
    office.access.accounts.delete(Actor(way="command"), office.bruno.id)
    office.certificates.look_after()
    was = office.certificates.get(OPERATOR, one.id)
    assert (was.state, was.reason) == ("revoked", "cessationOfOperation")
    assert office.certificates.get(OPERATOR, other.id).state == "active"


def test_housekeeping_looks_after_them_and_keeps_the_issuing_key_readable(office: Office) -> None:
    """Every hour, and at the start: what was followed is revoked, and the key of before can be dropped from the key file."""
    old, path = office.add(), office.folder / "key.json"
    office.certificates.renew(OPERATOR, old.id, csr_of(new_key()))
    was = office.vault.keys.ring().current
    keyfile.rotate(path, datetime.fromtimestamp(0, UTC))
    office.clock.advance(14 * DAY)
    keys, access = KeyFile(path), office.access
    Housekeeping(access.store, keys, access.audit, 365, access.tokens.keys, office.certificates).keep()
    assert office.certificates.get(OPERATOR, old.id).state == "revoked"
    keyfile.drop(path, was, datetime.now(UTC))
    fresh = replace(office.certificates, authority=Authority(office.certificates.store, KeyFile(path)))
    assert fresh.add(OPERATOR, office.ana.id, csr_of(new_key()))


def test_end_of_the_authority_is_warned_of(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.certificates.look_after()
    assert "ca renew" not in caplog.text
    office.clock.at = Millis(office.certificates.authority.issuer().expires_at - 179 * DAY)
    office.certificates.look_after()
    assert "python server.py ca renew" in caplog.text


# When one is shown


def test_certificate_counts_for_its_own_account_byte_for_byte(office: Office) -> None:
    hers, his = office.add(office.ana), office.add(office.bruno)
    assert office.certificates.shown_by(office.ana, hers.der) == hers.id
    assert office.certificates.shown_by(office.ana, his.der) is None
    of_version_6 = hers.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", 1)
    for bent in (
        b"",
        b"\0",
        of_version_6,
        hers.der[:-1],
        hers.der + b"\0",
        hers.der[:-1] + bytes([hers.der[-1] ^ 1]),
        hers.der * 2,
    ):
        assert office.certificates.shown_by(office.ana, bent) is None


def test_certificate_that_we_could_have_issued_and_did_not_keep_does_not_count(office: Office) -> None:
    """Whoever stole the issuing key has certificates that verify, and that this server does not know."""
    authority = office.certificates.authority
    signer = authority._signer(authority.issuer())
    stolen = issue(signer, new_key().public_key(), office.ana.id, office.ana.email, office.clock.at, Millis(DAY))
    assert authority.verifies(stolen)
    assert office.certificates.shown_by(office.ana, stolen.public_bytes(Encoding.DER)) is None


def test_certificate_that_is_kept_but_was_not_issued_does_not_count(office: Office) -> None:
    """Whoever can write to the database alone gets nothing: it must verify too."""
    authority = office.certificates.authority
    key = new_key()
    own = authority.chain_of(authority.issuer())[0]
    forged = issue(Signer(own, key), key.public_key(), office.ana.id, office.ana.email, office.clock.at, Millis(DAY))
    der = forged.public_bytes(Encoding.DER)
    row = replace(office.add(), id="forged", der=der, digest=forged.fingerprint(SHA256()), serial="0")  # type: ignore[arg-type]
    office.certificates.store.add_certificate(row, [])
    assert office.certificates.store.certificate_by_digest(row.digest)
    assert office.certificates.shown_by(office.ana, der) is None


def test_certificate_that_has_ended_does_not_count(office: Office) -> None:
    one = office.add()
    office.clock.at = Millis(one.expires_at - 1)
    assert office.certificates.shown_by(office.ana, one.der) == one.id
    office.clock.at = one.expires_at
    assert office.certificates.shown_by(office.ana, one.der) is None


def test_certificate_whose_overlap_is_over_does_not_count_before_housekeeping_revokes_it(office: Office) -> None:
    old = office.add()
    office.certificates.renew(OPERATOR, old.id, csr_of(new_key()), overlap_days=1)
    office.clock.at = Millis(old.created_at + DAY - 1)
    assert office.certificates.shown_by(office.ana, old.der) == old.id
    office.clock.advance(1)
    assert office.certificates.shown_by(office.ana, old.der) is None
    assert office.certificates.get(OPERATOR, old.id).state == "active"


# What webhooks are told


def test_notice_names_no_person_and_holds_no_key(office: Office) -> None:
    one = office.add()
    new = office.certificates.renew(OPERATOR, one.id, csr_of(new_key()))
    (renewed,) = [each.notice for each in office.certificates.store.deliveries() if each.notice.type == "certificate.renewed"]
    told = json.loads(renewed.payload)
    assert set(told) == {"type", "timestamp", "data"}
    assert told["type"] == "certificate.renewed" and told["timestamp"].endswith("Z")
    assert told["data"]["id"] == one.id and told["data"]["follower"] == new.id and told["data"]["account"] == office.ana.id
    assert office.ana.email not in renewed.payload
