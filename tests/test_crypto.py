"""Sealing and unsealing: what comes out is what went in, or a refusal that says which kind."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
import threading
import unicodedata
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from hypothesis import given, settings
from hypothesis import strategies as st

import crypto
import keyfile
from crypto import Addressed, KeyRing, Locked, MasterKey
from errors import Damaged, KeyMissing, PassphraseMismatch, Unavailable
from records import KeyId, Sealed

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "derivations.json").read_text())
ENVELOPES: dict[str, str] = json.loads((Path(__file__).parent / "vectors" / "envelopes.json").read_text())
MASTER = bytes.fromhex(VECTORS["master"])
LINK = bytes.fromhex(VECTORS["link"])
OTHER_LINK = uuid.UUID("6f0c6f0c-6f0c-4f0c-8f0c-6f0c6f0c6f0c").bytes
NAME = KeyId("2026-11-k3f9")
links = st.uuids(version=4).map(lambda link: link.bytes)


def master_of(secret: bytes) -> MasterKey:
    return keyfile._master_of(base64.urlsafe_b64encode(secret).decode())


def ring_of(current: str, **secrets: bytes) -> KeyRing:
    return KeyRing(KeyId(current), {KeyId(name): master_of(secret) for name, secret in secrets.items()}, VECTORS["admin_token"])


RING = ring_of(NAME, **{NAME: MASTER})


@pytest.fixture
def cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MiB and one pass; what was chosen travels in the envelope."""
    monkeypatch.setattr(crypto, "RFC_9106_LOW_MEMORY", (1024, 1))


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 sections 2.2 and 2.3 for one block of SHA-256, by hand."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def fernet_content(key: bytes, token: bytes) -> bytes:
    """The Fernet specification by hand: 0x80, time, IV, AES-128-CBC with PKCS #7, HMAC-SHA256 over all of it."""
    signed, tag = token[:-32], token[-32:]
    assert signed[0] == 0x80
    assert hmac.compare_digest(hmac.digest(key[:16], signed, "sha256"), tag)
    decryptor = Cipher(algorithms.AES(key[16:]), modes.CBC(signed[9:25])).decryptor()
    padded = decryptor.update(signed[25:]) + decryptor.finalize()
    return padded[: -padded[-1]]


def test_hkdf_by_hand_is_right() -> None:
    """RFC 5869 appendix A.1; its output is longer than a block, and the first block is the same."""
    made = hkdf(bytes([0x0B] * 22), bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert made.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


# Derivations


def test_hashes_and_keys_are_the_known_ones() -> None:
    assert crypto.row_id(LINK).hex() == VECTORS["row_id"]
    assert crypto.lease_hash(LINK, VECTORS["idempotency_key"]).hex() == VECTORS["lease"]
    assert crypto.receipt_hash(bytes.fromhex(VECTORS["receipt_secret"])).hex() == VECTORS["receipt"]
    assert RING.session_secret().hex() == VECTORS["session_secret"]
    assert RING.masters[NAME].verifier.hex() == VECTORS["verifier"]
    assert crypto._hkdf(MASTER, LINK, b"mayfly message v1").hex() == VECTORS["message_key"]


def test_known_keys_agree_with_hkdf_by_hand() -> None:
    assert hkdf(MASTER, LINK, b"mayfly message v1").hex() == VECTORS["message_key"]
    assert hkdf(MASTER, b"", b"mayfly key verifier v1")[:16].hex() == VECTORS["verifier"]
    stretched = bytes.fromhex(VECTORS["argon2id"]["tag"])
    assert hkdf(MASTER + stretched, LINK, b"mayfly passphrase v1").hex() == VECTORS["passphrase_key"]


def test_passphrase_key_is_the_known_one() -> None:
    """Argon2id of the reference implementation's test, then HKDF over master key and result."""
    known = VECTORS["argon2id"]
    key = crypto._passphrase_key(MASTER, LINK, known["password"], known["salt"].encode(), known["memory_kib"], known["passes"])
    assert key.hex() == VECTORS["passphrase_key"]


def test_fernet_by_hand_is_right() -> None:
    known = VECTORS["fernet"]
    key, token = (base64.urlsafe_b64decode(known[name]) for name in ("key", "token"))
    assert fernet_content(key, token) == known["content"].encode()


def test_envelope_is_what_the_documentation_says() -> None:
    """0x01, the key id and its length, a Fernet token as raw bytes; opened here without any of crypto's code."""
    sealed = crypto.seal(RING, LINK, b"content")
    assert sealed[:2] == bytes((1, len(NAME)))
    assert sealed[2 : 2 + len(NAME)] == NAME.encode()
    assert fernet_content(hkdf(MASTER, LINK, b"mayfly message v1"), sealed[2 + len(NAME) :]) == b"\x00content"


def test_locked_envelope_is_what_the_documentation_says(cheap_argon2: None) -> None:
    """Salt, memory and passes, one lane, then a second token under passphrase and key file and link."""
    sealed = crypto.seal(RING, LINK, b"content", "passphrase")
    inside = fernet_content(hkdf(MASTER, LINK, b"mayfly message v1"), sealed[2 + len(NAME) :])
    kind, salt, memory_kib, passes = struct.unpack(">B16sIB", inside[:22])
    assert (kind, memory_kib, passes) == (1, 1024, 1)
    stretched = Argon2id(salt=salt, length=32, iterations=passes, lanes=1, memory_cost=memory_kib).derive(b"passphrase")
    assert fernet_content(hkdf(MASTER + stretched, LINK, b"mayfly passphrase v1"), inside[22:]) == b"content"


def test_argon2_parameters_are_those_of_rfc_9106() -> None:
    assert crypto.RFC_9106_LOW_MEMORY == (64 * 1024, 3)


def test_envelopes_of_earlier_versions_open() -> None:
    content = ENVELOPES["content"].encode()
    assert crypto.unseal(RING, LINK, Sealed(bytes.fromhex(ENVELOPES["open"]))) == content
    locked = crypto.unseal(RING, LINK, Sealed(bytes.fromhex(ENVELOPES["locked"])))
    assert isinstance(locked, Locked)
    assert locked.unlock(LINK, ENVELOPES["passphrase"]) == content


@given(link=links)
def test_hashes_of_different_kinds_never_stand_in_for_one_another(link: bytes) -> None:
    hashes = {crypto.row_id(link), crypto.receipt_hash(link), crypto.lease_hash(link, ""), hashlib.sha256(link).digest()}
    assert len(hashes) == 4


# Round trips


@settings(deadline=None)
@given(content=st.binary(max_size=5000), link=links)
def test_what_was_sealed_comes_out(content: bytes, link: bytes) -> None:
    assert crypto.unseal(RING, link, crypto.seal(RING, link, content)) == content


@settings(deadline=None, max_examples=20)
@given(content=st.binary(max_size=200), link=links, passphrase=st.text(st.characters(codec="utf-8"), min_size=1, max_size=50))
def test_what_was_sealed_with_a_passphrase_comes_out(content: bytes, link: bytes, passphrase: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crypto, "RFC_9106_LOW_MEMORY", (1024, 1))
        locked = crypto.unseal(RING, link, crypto.seal(RING, link, content, passphrase))
    assert isinstance(locked, Locked)
    assert locked.unlock(link, passphrase) == content


def test_passphrase_at_full_strength_opens() -> None:
    locked = crypto.unseal(RING, LINK, crypto.seal(RING, LINK, b"content", "right"))
    assert isinstance(locked, Locked)
    assert locked.unlock(LINK, "right") == b"content"


def test_a_megabyte_comes_out() -> None:
    content = bytes(range(256)) * 4096
    assert crypto.unseal(RING, LINK, crypto.seal(RING, LINK, content)) == content


def test_sealing_twice_gives_nothing_in_common() -> None:
    first, second = crypto.seal(RING, LINK, b"content" * 100), crypto.seal(RING, LINK, b"content" * 100)
    start = 2 + len(NAME) + 9  # version, key id, and the token's version and second
    blocks = [{sealed[at : at + 16] for at in range(start, len(sealed) - 15)} for sealed in (first, second)]
    assert not blocks[0] & blocks[1]


@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 1000, 100_000])
def test_envelope_holds_raw_bytes_and_not_base64(size: int) -> None:
    """Head, then version, time, IV, whole blocks of AES with padding, HMAC: nowhere a third more for base64."""
    blocks = (1 + size) // 16 + 1
    assert len(crypto.seal(RING, LINK, bytes(size))) == 2 + len(NAME) + 1 + 8 + 16 + 16 * blocks + 32


def test_new_messages_are_sealed_with_the_current_key_and_old_ones_open() -> None:
    old = crypto.seal(RING, LINK, b"old")
    both = ring_of("new", **{NAME: MASTER, "new": MASTER[::-1]})
    new = crypto.seal(both, LINK, b"new")
    assert crypto.key_id_of(new) == "new"
    assert (crypto.unseal(both, LINK, old), crypto.unseal(both, LINK, new)) == (b"old", b"new")
    assert crypto.unseal(ring_of("new", new=MASTER[::-1]), LINK, new) == b"new"


# Terms, which are judged before anything else


@settings(deadline=None)
@given(content=st.binary(max_size=500), link=links, terms=st.binary(min_size=1, max_size=500))
def test_terms_come_out_before_the_content(content: bytes, link: bytes, terms: bytes) -> None:
    assert crypto.unseal(RING, link, crypto.seal(RING, link, content, vault="guarded", terms=terms), "guarded") == Addressed(
        terms, content
    )


def test_terms_come_out_without_the_passphrase(cheap_argon2: None) -> None:
    addressed = crypto.unseal(RING, LINK, crypto.seal(RING, LINK, b"content", "right", "guarded", b"terms"), "guarded")
    assert isinstance(addressed, Addressed)
    assert addressed.terms == b"terms"
    assert isinstance(addressed.inside, Locked)
    assert addressed.inside.unlock(LINK, "right") == b"content"


def test_format_of_terms_is_the_documented_one() -> None:
    sealed = crypto.seal(RING, LINK, b"content", None, "guarded", b"terms")
    inside = fernet_content(hkdf(MASTER, LINK, b"mayfly guarded message v1"), sealed[2 + len(NAME) :])
    assert inside == b"\x02" + struct.pack(">I", 5) + b"terms" + b"\x00content"


def test_without_terms_an_envelope_is_what_it_always_was() -> None:
    sealed = crypto.seal(RING, LINK, b"content", None, "guarded")
    assert fernet_content(hkdf(MASTER, LINK, b"mayfly guarded message v1"), sealed[2 + len(NAME) :]) == b"\x00content"


# Refusals


@pytest.mark.parametrize("passphrase", [None, "passphrase"])
def test_every_flipped_bit_is_refused(cheap_argon2: None, passphrase: str | None) -> None:
    """As damage; a bit of the key id may name a key that is not there instead. Never as a wrong passphrase, never opened."""
    sealed = crypto.seal(RING, LINK, b"content", passphrase)
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        in_key_id = 1 <= bit // 8 < 2 + len(NAME)
        with pytest.raises((Damaged, KeyMissing) if in_key_id else Damaged):
            crypto.unseal(RING, LINK, Sealed(bytes(flipped)))


@given(cut=st.integers(0, 10_000), tail=st.binary(max_size=40))
def test_cut_and_lengthened_envelopes_are_refused(cut: int, tail: bytes) -> None:
    sealed = crypto.seal(RING, LINK, b"content" * 20)
    other = sealed[: cut % len(sealed)] + tail
    if not sealed.startswith(other) and other != sealed:
        with pytest.raises((Damaged, KeyMissing)):
            crypto.unseal(RING, LINK, Sealed(other))
    with pytest.raises((Damaged, KeyMissing)):
        crypto.unseal(RING, LINK, Sealed(sealed[: cut % len(sealed)]))


@given(junk=st.binary(max_size=300))
def test_junk_is_refused_as_damage_or_a_missing_key(junk: bytes) -> None:
    with pytest.raises((Damaged, KeyMissing)):
        crypto.unseal(RING, LINK, Sealed(junk))
    with pytest.raises((Damaged, KeyMissing)):
        crypto.unseal(RING, LINK, Sealed(b"\x01" + bytes((len(NAME),)) + NAME.encode() + junk))


def test_key_id_swapped_for_another_of_the_ring_is_damage() -> None:
    ring = ring_of("aaaa", aaaa=MASTER, bbbb=MASTER[::-1])
    with pytest.raises(Damaged):
        crypto.unseal(ring, LINK, Sealed(crypto.seal(ring, LINK, b"content").replace(b"aaaa", b"bbbb", 1)))


@pytest.mark.parametrize("passphrase", [None, "passphrase"])
def test_envelope_of_another_link_is_damage(cheap_argon2: None, passphrase: str | None) -> None:
    sealed = crypto.seal(RING, LINK, b"content", passphrase)
    with pytest.raises(Damaged):
        crypto.unseal(RING, OTHER_LINK, sealed)


def test_inner_token_moved_to_another_link_does_not_open(cheap_argon2: None) -> None:
    """Even whoever has the key file and both links cannot pass one message's passphrase off as the other's."""
    locked = crypto.unseal(RING, LINK, crypto.seal(RING, LINK, b"content", "right"))
    assert isinstance(locked, Locked)
    with pytest.raises(PassphraseMismatch):
        locked.unlock(OTHER_LINK, "right")


@pytest.mark.parametrize("passphrase", [None, "passphrase"])
def test_wrong_key_file_is_not_a_wrong_passphrase(cheap_argon2: None, passphrase: str | None) -> None:
    sealed = crypto.seal(RING, LINK, b"content", passphrase)
    with pytest.raises(KeyMissing):
        crypto.unseal(ring_of("other", other=MASTER), LINK, sealed)
    with pytest.raises(Damaged):
        crypto.unseal(ring_of(NAME, **{NAME: MASTER[::-1]}), LINK, sealed)


@pytest.mark.parametrize("wrong", ["", "Right", "right ", " right", "righ", "rıght", "right\x00"])
def test_wrong_passphrase_is_told_from_damage(cheap_argon2: None, wrong: str) -> None:
    locked = crypto.unseal(RING, LINK, crypto.seal(RING, LINK, b"content", "right"))
    assert isinstance(locked, Locked)
    with pytest.raises(PassphraseMismatch):
        locked.unlock(LINK, wrong)
    assert locked.unlock(LINK, "right") == b"content"


def test_accent_typed_otherwise_is_the_same_accent(cheap_argon2: None) -> None:
    """NFC, but not NFKC: a ligature is not the letters it looks like."""
    composed, decomposed = (unicodedata.normalize(form, "Zwölf Boxkämpfer ﬁ") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for sealed_with, typed in ((composed, decomposed), (decomposed, composed)):
        locked = crypto.unseal(RING, LINK, crypto.seal(RING, LINK, b"content", sealed_with))
        assert isinstance(locked, Locked)
        assert locked.unlock(LINK, typed) == b"content"
        with pytest.raises(PassphraseMismatch):
            locked.unlock(LINK, typed.replace("ﬁ", "fi"))


@pytest.mark.parametrize(("memory_kib", "passes"), [(2**32 - 1, 1), (256 * 1024 + 1, 1), (1024, 11), (1024, 255)])
def test_envelope_that_asks_for_too_much_work_is_damage(memory_kib: int, passes: int) -> None:
    """A bound for whoever has the key file as well."""
    inside = b"\x01" + bytes(16) + struct.pack(">IB", memory_kib, passes) + bytes(100)
    key = base64.urlsafe_b64encode(bytes.fromhex(VECTORS["message_key"]))
    token = base64.urlsafe_b64decode(Fernet(key).encrypt(inside))
    with pytest.raises(Damaged):
        crypto.unseal(RING, LINK, Sealed(b"\x01" + bytes((len(NAME),)) + NAME.encode() + token))


@pytest.mark.parametrize("inside", [b"", b"\x02content", b"\x01" + bytes(20)])
def test_unknown_inside_is_damage(inside: bytes) -> None:
    token = base64.urlsafe_b64decode(Fernet(base64.urlsafe_b64encode(bytes.fromhex(VECTORS["message_key"]))).encrypt(inside))
    with pytest.raises(Damaged):
        crypto.unseal(RING, LINK, Sealed(b"\x01" + bytes((len(NAME),)) + NAME.encode() + token))


def test_four_derivations_at_once_and_the_fifth_is_told_to_wait(monkeypatch: pytest.MonkeyPatch, cheap_argon2: None) -> None:
    """And turns are given back, also after a wrong passphrase."""
    monkeypatch.setattr(crypto, "_ARGON2_WAIT_SECONDS", 0.01)
    locked = crypto.unseal(RING, LINK, crypto.seal(RING, LINK, b"content", "right"))
    assert isinstance(locked, Locked)
    for _ in range(5):
        with pytest.raises(PassphraseMismatch):
            locked.unlock(LINK, "wrong")
    for _ in range(4):
        assert crypto._argon2_turn.acquire(blocking=False)
    try:
        with pytest.raises(Unavailable) as refused:
            locked.unlock(LINK, "right")
        assert refused.value.retry_after > 0
        assert not isinstance(refused.value, Damaged)
    finally:
        crypto._argon2_turn.release(4)
    assert locked.unlock(LINK, "right") == b"content"


def test_many_readers_with_passphrases_all_get_through(cheap_argon2: None) -> None:
    """Concurrent Argon2id with more than one lane would deadlock here."""
    locked = crypto.unseal(RING, LINK, crypto.seal(RING, LINK, b"content", "right"))
    assert isinstance(locked, Locked)
    opened: list[bytes] = []
    readers = [threading.Thread(target=lambda: opened.append(locked.unlock(LINK, "right"))) for _ in range(16)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert opened == [b"content"] * 16


# What may be printed


def test_no_secret_shows_in_what_is_printed_of_a_ring(cheap_argon2: None) -> None:
    """A ring or a key in a traceback or a log line gives nothing away."""
    locked = crypto.unseal(RING, LINK, crypto.seal(RING, LINK, b"content", "right"))
    for printed in (repr(RING), str(RING), f"{RING}", repr(RING.masters), repr(locked)):
        assert repr(MASTER)[2:-1] not in printed
        assert MASTER.hex() not in printed
        assert base64.urlsafe_b64encode(MASTER).decode()[:20] not in printed
        assert VECTORS["admin_token"] not in printed
    assert NAME in repr(RING)


def test_admin_token_is_compared_whole() -> None:
    assert RING.is_admin_token(VECTORS["admin_token"])
    for wrong in ("", VECTORS["admin_token"][:-1], VECTORS["admin_token"] + "x", VECTORS["admin_token"].upper(), "é"):
        assert not RING.is_admin_token(wrong)
