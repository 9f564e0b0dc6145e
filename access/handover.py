"""Handing a new key over: a PKCS#12 file, as a one-time end-to-end encrypted message of the guarded vault for one account alone.

The document is that of docs/client.md, which the page and the client open. The key stays in memory for as long as this takes, and
is stored nowhere: the message is encrypted under the link's fragment, which is answered once, and the file in it under a
passphrase, which is to reach the account by another way than the link.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import zlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import PBES, serialize_key_and_certificates

from messages import Vault
from records import MAX_LIFETIME_SECONDS, Account, Actor, Audience, Created, Draft

FILE_NAME, MEDIA_TYPE = "mayfly-certificate.p12", "application/x-pkcs12"
_ROUNDS = 100_000  # of the document: its key is 256 random bits, which nobody guesses
_FILE_ROUNDS = 100_000  # its passphrase is random as well
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # without those that are taken for one another: five bits each, but for a little
_GROUPS, _GROUP = 5, 5


@dataclass(frozen=True, slots=True, repr=False)
class Handover:
    """What whoever made a certificate hands over: the link's parts, and the passphrase of the file. All of it is secret."""

    message: Created
    fragment: str
    passphrase: str


def hand_over(
    vault: Vault,
    actor: Actor,
    account: Account,
    key: EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    chain: list[x509.Certificate],
) -> Handover:
    """Put key and certificate into a message that `account` can open once, within seven days. Raises what `Vault.create` does."""
    passphrase = new_passphrase()
    text = f"The certificate of {account.email}. Open the file with the passphrase that reaches you by another way."
    document, fragment, proof = encrypt_file(
        text, FILE_NAME, MEDIA_TYPE, pkcs12(key, certificate, chain, account.email, passphrase)
    )
    draft = Draft(
        expires_in=MAX_LIFETIME_SECONDS,
        views=1,
        document=document,
        proof=proof,
        audience=Audience(everyone=False, accounts=frozenset((account.id,))),
    )
    return Handover(vault.create(draft, actor), fragment, passphrase)


def new_passphrase() -> str:
    """25 random characters in groups of five: 123 bits."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(_GROUP)) for _ in range(_GROUPS))


def pkcs12(
    key: EllipticCurvePrivateKey, certificate: x509.Certificate, chain: list[x509.Certificate], name: str, passphrase: str
) -> bytes:
    """Key, certificate and those above it, in a file as browsers and systems take it: AES-256 and SHA-256 throughout."""
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_FILE_ROUNDS)
        .key_cert_algorithm(PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(SHA256())
        .build(passphrase.encode())
    )
    return serialize_key_and_certificates(name.encode(), key, certificate, chain, encryption)


def encrypt_file(text: str, name: str, media_type: str, file: bytes) -> tuple[str, str, str]:
    """A file as a PrivateBin v2 document (JSON), the fragment of its link, and the proof that claims it."""
    key, iv, salt = os.urandom(32), os.urandom(16), os.urandom(8)
    inside = {
        "paste": text,
        "attachment": f"data:{media_type};base64,{_base64(file)}",
        "attachment_name": name,
    }
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(_json(inside)) + deflate.flush()
    adata = [[_base64(iv), _base64(salt), _ROUNDS, 256, 128, "aes", "gcm", "zlib"], "plaintext", 0, 0]
    stretched = PBKDF2HMAC(algorithm=SHA256(), length=32, salt=salt, iterations=_ROUNDS).derive(key)
    document = {"v": 2, "adata": adata, "ct": _base64(AESGCM(stretched).encrypt(iv, packed, _json(adata)))}
    return _json(document).decode(), _base58(key), proof_of(key)


def proof_of(key: bytes) -> str:
    """What a reader shows to claim a message without a passphrase (decision record 0007)."""
    proof = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"mayfly proof v1").derive(key)
    return base64.urlsafe_b64encode(proof).rstrip(b"=").decode()


def _json(value: object) -> bytes:
    """As JavaScript's JSON.stringify writes it: the authenticated data must be the same bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _base58(key: bytes) -> str:
    number, digits = int.from_bytes(key), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    return "1" * (len(key) - len(key.lstrip(b"\0"))) + digits
