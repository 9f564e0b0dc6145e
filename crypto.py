"""Encryption at rest: the key ring, the key of each message, sealing and unsealing.

What belongs here: everything that computes with key bytes. What does not: the key file (`keyfile`), rows, stores, HTTP.

A message's key is derived from a key of the ring, the UUID in its link *and* the vault it was given to. The UUID is not stored
beside the message: database and key file together decrypt nothing without the link. A row that is moved to another vault does
not open there. The envelope:

    0x01 | length of key id (1 byte) | key id (ASCII) | Fernet token (raw bytes, not base64: a quarter smaller)

and inside the token, either `0x00 | content` or, with a passphrase,

    0x01 | salt (16 bytes) | memory in KiB (4 bytes) | passes (1 byte) | Fernet token of the content (raw bytes)

so that damage and a wrong key file (outer token) are told from a wrong passphrase (inner token). A message that is not for everyone
has its terms before that, so that they can be judged before anybody tries a passphrase:

    0x02 | length of the terms (4 bytes) | terms | one of the two above

The formats are versioned by the first byte and by the HKDF labels.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import struct
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidKey
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from errors import Damaged, KeyMissing, PassphraseMismatch, Unavailable
from records import KeyId, RowId, Sealed, VaultName

_VERSION = b"\x01"
_OPEN, _LOCKED, _ADDRESSED = b"\x00", b"\x01", b"\x02"
_MESSAGE_INFO: dict[VaultName, bytes] = {
    "open": b"mayfly message v1",
    "guarded": b"mayfly guarded message v1",
    "sealed": b"mayfly sealed message v1",
}
_PASSPHRASE_INFO = b"mayfly passphrase v1"
_SECRET_INFO = b"mayfly secret v1"
_VERIFIER_INFO = b"mayfly key verifier v1"
_ROW_TAG = b"mayfly row v1\x00"
_LEASE_TAG = b"mayfly lease v1\x00"
_RECEIPT_TAG = b"mayfly receipt v1\x00"
_PROOF_TAG = b"mayfly proof v1\x00"

RFC_9106_LOW_MEMORY = (64 * 1024, 3)
"""KiB and passes of RFC 9106 section 4, second choice, with one lane: ~190 ms. Two concurrent derivations with two lanes
deadlock in cryptography 50."""
_MAX_ARGON2 = (256 * 1024, 10)
_PHC = re.compile(r"\$argon2id\$v=19\$m=([0-9]{1,7}),t=([0-9]{1,2}),p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}")
_ARGON2_AT_ONCE = 4
"""Four derivations take 256 MiB; 64 at once were measured at 3.2 GB."""
_ARGON2_WAIT_SECONDS = 5.0
_argon2_turn = threading.BoundedSemaphore(_ARGON2_AT_ONCE)


# What a link, a lease and a receipt are stored as. The tags keep one kind of hash from standing in for another.


def row_id(link: bytes) -> RowId:
    """The id under which the message of a link (16 bytes of UUID) is stored: the link cannot be had from it."""
    return RowId(hashlib.sha256(_ROW_TAG + link).digest())


def lease_hash(link: bytes, idempotency_key: str, account: str = "") -> bytes:
    """What is stored of a reader's Idempotency-Key: 32 bytes, different for each message, and for each account if one is named."""
    whose = b"\x00" + account.encode() if account else b""
    return hashlib.sha256(_LEASE_TAG + link + idempotency_key.encode() + whose).digest()


def receipt_hash(secret: bytes) -> bytes:
    """What is stored of a receipt's secret: 32 bytes."""
    return hashlib.sha256(_RECEIPT_TAG + secret).digest()


def proof_hash(link: bytes, proof: str) -> bytes:
    """What is stored of the proof of an end-to-end encrypted message: 32 bytes, different for each message."""
    return hashlib.sha256(_PROOF_TAG + link + proof.encode()).digest()


# The key ring


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key of the ring. `verifier` (16 bytes) tells whether it is the same as before, and nothing else about it."""

    secret: bytes = field(repr=False)
    verifier: bytes

    @classmethod
    def of(cls, secret: bytes) -> MasterKey:
        """The key with these 32 bytes."""
        return cls(secret, _hkdf(secret, b"", _VERIFIER_INFO)[:16])


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one reading of key.json. `current` seals; any of them unseals."""

    current: KeyId
    masters: dict[KeyId, MasterKey]
    admin_token: str = field(repr=False)

    def is_admin_token(self, token: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(hashlib.sha256(token.encode()).digest(), hashlib.sha256(self.admin_token.encode()).digest())

    def session_secret(self) -> bytes:
        """32 bytes to sign admin sessions with; another admin token ends them all."""
        return hashlib.sha256(b"mayfly admin session v1\x00" + self.admin_token.encode()).digest()


# Sealing and unsealing


@dataclass(frozen=True, slots=True)
class Locked:
    """The inside of an envelope that needs a passphrase; only `unlock` gets further."""

    _master: bytes = field(repr=False)
    _salt: bytes
    _memory_kib: int
    _passes: int
    _token: bytes = field(repr=False)

    def unlock(self, link: bytes, passphrase: str) -> bytes:
        """Return the content. Raises PassphraseMismatch, or Unavailable when too many derivations are under way."""
        key = _passphrase_key(self._master, link, passphrase, self._salt, self._memory_kib, self._passes)
        try:
            return _decrypt(key, self._token)
        except InvalidToken:
            raise PassphraseMismatch from None


@dataclass(frozen=True, slots=True)
class Addressed:
    """The inside of an envelope that is not for everyone: judge `terms` before you look at `inside`."""

    terms: bytes
    inside: bytes | Locked = field(repr=False)


def seal(
    ring: KeyRing, link: bytes, content: bytes, passphrase: str | None = None, vault: VaultName = "open", terms: bytes = b""
) -> Sealed:
    """Encrypt `content`, for `vault` alone, for whoever has the link (16 bytes of UUID), and the passphrase if one is given.

    `terms` can be read without the passphrase. Raises Unavailable when too many passphrase derivations are under way.
    """
    master = ring.masters[ring.current].secret
    if passphrase is None:
        inside = _OPEN + content
    else:
        salt = os.urandom(16)
        memory_kib, passes = RFC_9106_LOW_MEMORY
        key = _passphrase_key(master, link, passphrase, salt, memory_kib, passes)
        inside = _LOCKED + salt + struct.pack(">IB", memory_kib, passes) + _encrypt(key, content)
    if terms:
        inside = _ADDRESSED + struct.pack(">I", len(terms)) + terms + inside
    name = ring.current.encode()
    return Sealed(_VERSION + bytes((len(name),)) + name + _encrypt(_hkdf(master, link, _MESSAGE_INFO[vault]), inside))


def key_id_of(sealed: Sealed) -> KeyId:
    """The id of the key that `sealed` was made with. Raises Damaged."""
    if len(sealed) < 2 or sealed[:1] != _VERSION:
        raise Damaged
    try:
        return KeyId(sealed[2 : 2 + sealed[1]].decode("ascii"))
    except UnicodeDecodeError:
        raise Damaged from None


def unseal(ring: KeyRing, link: bytes, sealed: Sealed, vault: VaultName = "open") -> bytes | Locked | Addressed:
    """Return the content, or what needs a passphrase first, or has terms to be judged first.

    Raises Damaged if a bit was flipped or the envelope belongs to another link or vault, KeyMissing if the ring lacks its key.
    """
    key_id = key_id_of(sealed)
    if key_id not in ring.masters:
        raise KeyMissing
    master = ring.masters[key_id].secret
    try:
        inside = _decrypt(_hkdf(master, link, _MESSAGE_INFO[vault]), sealed[2 + len(key_id) :])
    except InvalidToken:
        raise Damaged from None
    if inside[:1] != _ADDRESSED:
        return _inside(master, inside)
    start = 5 + int.from_bytes(inside[1:5], "big")
    return Addressed(inside[5:start], _inside(master, inside[start:]))


def _inside(master: bytes, inside: bytes) -> bytes | Locked:
    if inside[:1] == _OPEN:
        return inside[1:]
    if inside[:1] != _LOCKED or len(inside) < 22:
        raise Damaged
    memory_kib, passes = struct.unpack(">IB", inside[17:22])
    if memory_kib > _MAX_ARGON2[0] or passes > _MAX_ARGON2[1]:
        raise Damaged
    return Locked(master, inside[1:17], memory_kib, passes, inside[22:])


def seal_secret(ring: KeyRing, name: str, secret: bytes) -> bytes:
    """Encrypt a secret of this server's own, bound to its name: database and key file together do decrypt it."""
    key_id = ring.current.encode()
    key = _hkdf(ring.masters[ring.current].secret, name.encode(), _SECRET_INFO)
    return _VERSION + bytes((len(key_id),)) + key_id + _encrypt(key, secret)


def unseal_secret(ring: KeyRing, name: str, sealed: bytes) -> bytes:
    """Return a secret of this server's own. Raises Damaged if it is not that of `name`, KeyMissing if the ring lacks its key."""
    key_id = key_id_of(Sealed(sealed))
    if key_id not in ring.masters:
        raise KeyMissing
    try:
        return _decrypt(_hkdf(ring.masters[key_id].secret, name.encode(), _SECRET_INFO), sealed[2 + len(key_id) :])
    except InvalidToken:
        raise Damaged from None


# Passwords


def password_hash(password: str) -> str:
    """What is stored of a password: Argon2id with its parameters and a salt, in PHC's string format. Raises Unavailable."""
    memory_kib, passes = RFC_9106_LOW_MEMORY
    with _argon2():
        return Argon2id(salt=os.urandom(16), length=32, iterations=passes, lanes=1, memory_cost=memory_kib).derive_phc_encoded(
            _typed(password)
        )


def check_password(phc: str, password: str) -> None:
    """Raise PassphraseMismatch for a wrong password, Damaged for a hash that is none of ours, Unavailable."""
    found = _PHC.fullmatch(phc)
    if not found or int(found[1]) > _MAX_ARGON2[0] or int(found[2]) > _MAX_ARGON2[1]:
        raise Damaged
    with _argon2():
        try:
            Argon2id.verify_phc_encoded(_typed(password), phc)
        except InvalidKey:
            raise PassphraseMismatch from None


def is_outdated(phc: str) -> bool:
    """Whether a hash was made with other parameters than they are made with now."""
    found = _PHC.fullmatch(phc)
    return not found or (int(found[1]), int(found[2])) != RFC_9106_LOW_MEMORY


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def _passphrase_key(master: bytes, link: bytes, passphrase: str, salt: bytes, memory_kib: int, passes: int) -> bytes:
    with _argon2():
        stretched = Argon2id(salt=salt, length=32, iterations=passes, lanes=1, memory_cost=memory_kib).derive(_typed(passphrase))
    return _hkdf(master + stretched, link, _PASSPHRASE_INFO)


@contextmanager
def _argon2() -> Iterator[None]:
    """One of the few turns to derive. Raises Unavailable when there is none for too long."""
    if not _argon2_turn.acquire(timeout=_ARGON2_WAIT_SECONDS):
        raise Unavailable("Too many passphrases are being checked at this moment. Nothing was used up.", 2)
    try:
        yield
    finally:
        _argon2_turn.release()


def _typed(text: str) -> bytes:
    """What somebody typed, in NFC, so that an accent typed on another keyboard is the same accent (RFC 8265 section 4.2.2)."""
    return unicodedata.normalize("NFC", text).encode()


def _encrypt(key: bytes, content: bytes) -> bytes:
    return base64.urlsafe_b64decode(Fernet(base64.urlsafe_b64encode(key)).encrypt(content))


def _decrypt(key: bytes, token: bytes) -> bytes:
    return Fernet(base64.urlsafe_b64encode(key)).decrypt(base64.urlsafe_b64encode(token))
