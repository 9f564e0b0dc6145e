"""End-to-end encryption in the PrivateBin v2 document format, and the proof that claims a message.

Source: "Encryption format", PrivateBin wiki. A document is AES-256-GCM over deflated JSON, keyed by PBKDF2-SHA256 of a random key
(which travels in the link's fragment) followed by the passphrase, with its parameters as authenticated data:

    {"v": 2, "adata": [[iv, salt, rounds, key bits, tag bits, "aes", "gcm", "zlib"], format, 0, 0], "ct": base64}

`web/static/js/envelope.js` is the same in the browser; both are held to `tests/vectors/envelope.json`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

KEY_BYTES = 32
ROUNDS = 100_000  # the key is 256 random bits: nobody guesses it
PASSPHRASE_ROUNDS = 600_000  # OWASP's figure for PBKDF2-SHA256; ~0.3 s
MIN_ROUNDS, MAX_ROUNDS = 10_000, 10_000_000
_IV_BYTES, _SALT_BYTES, _TAG_BITS, _KEY_BITS = 16, 8, 128, 256

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_FORMATS: dict[Any, Literal["text", "markdown"]] = {"plaintext": "text", "syntaxhighlighting": "text", "markdown": "markdown"}

Document = dict[str, Any]


class EnvelopeError(Exception):
    """The document cannot be opened; the message says why to a person."""


class WrongKey(EnvelopeError):
    """The key or the passphrase is not the document's, or the document was changed: these cannot be told apart."""

    def __init__(self) -> None:
        super().__init__("The key in the link or the passphrase is wrong, or the message was changed.")


@dataclass(frozen=True, slots=True)
class Plain:
    """What is inside a document: a text, or a file with its name and media type, or both."""

    text: str = ""
    format: Literal["text", "markdown"] = "text"
    file: bytes | None = None
    file_name: str = ""
    media_type: str = "application/octet-stream"


def new_key() -> bytes:
    """A random key for one document, 32 bytes."""
    return os.urandom(KEY_BYTES)


def encode_key(key: bytes) -> str:
    """A key as it stands in a link's fragment: base58."""
    number, digits = int.from_bytes(key), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    return "1" * (len(key) - len(key.lstrip(b"\0"))) + digits


def decode_key(fragment: str) -> bytes:
    """The key of a link's fragment. Raises EnvelopeError if it is not one."""
    number = 0
    for digit in fragment:
        if digit not in _ALPHABET or len(fragment) > 44:
            raise EnvelopeError("The part of the link after # is not complete, or not a key.")
        number = number * 58 + _ALPHABET.index(digit)
    if not fragment or number >> (8 * KEY_BYTES):
        raise EnvelopeError("The part of the link after # is not complete, or not a key.")
    key = number.to_bytes(KEY_BYTES)
    # PrivateBin drops zeros at the front, others write each as a 1: both are taken.
    return key


def proof_of(key: bytes, passphrase: str | None) -> str:
    """What a reader shows the server to claim a message: 43 characters of base64url that tell nothing of key or passphrase.

    A passphrase is stretched as in the document, under a salt of its own, so that the server's hash of the proof is no quicker way
    to guess it (decision record 0007).
    """
    if passphrase is None:
        secret = _hkdf(key, b"mayfly proof v1", 32)
    else:
        stretched = _pbkdf2(passphrase.encode(), _hkdf(key, b"mayfly proof salt v1", 16), PASSPHRASE_ROUNDS)
        secret = _hkdf(key + stretched, b"mayfly proof v1 passphrase", 32)
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def encrypt(plain: Plain, key: bytes, passphrase: str | None = None) -> Document:
    """Encrypt for whoever has `key` (32 bytes), and the passphrase if there is one."""
    iv, salt = os.urandom(_IV_BYTES), os.urandom(_SALT_BYTES)
    return encrypt_with(plain, key, passphrase, iv, salt)


def encrypt_with(plain: Plain, key: bytes, passphrase: str | None, iv: bytes, salt: bytes) -> Document:
    """`encrypt` with the random parts given, for vectors."""
    rounds = PASSPHRASE_ROUNDS if passphrase else ROUNDS
    format_ = "markdown" if plain.format == "markdown" else "plaintext"
    adata = [[_b64(iv), _b64(salt), rounds, _KEY_BITS, _TAG_BITS, "aes", "gcm", "zlib"], format_, 0, 0]
    inside: dict[str, str] = {"paste": plain.text}
    if plain.file is not None:
        inside["attachment"] = f"data:{plain.media_type};base64,{_b64(plain.file)}"
        inside["attachment_name"] = plain.file_name
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(_json(inside)) + deflate.flush()
    cipher = AESGCM(_pbkdf2(key + (passphrase or "").encode(), salt, rounds))
    return {"v": 2, "adata": adata, "ct": _b64(cipher.encrypt(iv, packed, _json(adata)))}


def decrypt(document: object, key: bytes, passphrase: str | None, max_bytes: int) -> Plain:
    """Open a document whose inflated content has at most `max_bytes`.

    Raises WrongKey, or EnvelopeError for parameters weaker than we make, wrong lengths and unknown fields.
    """
    spec, format_, adata, ciphertext = _checked(document)
    iv, salt, rounds, compression = spec
    cipher = AESGCM(_pbkdf2(key + (passphrase or "").encode(), salt, rounds))
    try:
        packed = cipher.decrypt(iv, ciphertext, _json(adata))
    except InvalidTag:
        raise WrongKey from None
    return _unpack(_inflate(packed, max_bytes) if compression == "zlib" else packed, format_)


def _checked(document: object) -> tuple[tuple[bytes, bytes, int, str], Literal["text", "markdown"], Any, bytes]:
    def refuse(why: str) -> NoReturn:
        raise EnvelopeError(f"This is not a document that can be opened safely: {why}.")

    if not isinstance(document, dict) or not {"v", "adata", "ct"} <= set(document) <= {"v", "adata", "ct", "meta"}:
        refuse("it has fields that are missing or not known")
    if document["v"] != 2:
        refuse("it is of another version than 2")
    adata = document["adata"]
    if not isinstance(adata, list) or len(adata) != 4 or not isinstance(adata[0], list) or len(adata[0]) != 8:
        refuse("its parameters are not in the known form")
    iv, salt, rounds, key_bits, tag_bits, algorithm, mode, compression = adata[0]
    if (key_bits, tag_bits, algorithm, mode) != (_KEY_BITS, _TAG_BITS, "aes", "gcm"):
        refuse("it uses another cipher than AES-256-GCM")
    if type(rounds) is not int or not MIN_ROUNDS <= rounds <= MAX_ROUNDS:
        refuse(f"its key takes fewer than {MIN_ROUNDS:,} rounds, or very many")
    if compression not in ("zlib", "none"):
        refuse("it is compressed in an unknown way")
    if adata[1] not in _FORMATS or adata[2] not in (0, 1) or adata[3] not in (0, 1):
        refuse("its format is not known")
    raw_iv, raw_salt, ciphertext = (_unb64(text) for text in (iv, salt, document["ct"]))
    if raw_iv is None or raw_salt is None or ciphertext is None:
        refuse("it is not base64 throughout")
    if len(raw_iv) not in (12, 16) or not 8 <= len(raw_salt) <= 64 or len(ciphertext) <= _TAG_BITS // 8:
        refuse("a part of it is too short or too long")
    return (raw_iv, raw_salt, rounds, compression), _FORMATS[adata[1]], adata, ciphertext


def _inflate(packed: bytes, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        content = inflate.decompress(packed, max_bytes + 1)
    except zlib.error:
        raise EnvelopeError("The message is not complete.") from None
    if len(content) > max_bytes:
        raise EnvelopeError(f"The message inflates to more than {max_bytes:,} bytes.")
    if not inflate.eof:
        raise EnvelopeError("The message is not complete.")
    return content


def _unpack(content: bytes, format_: Literal["text", "markdown"]) -> Plain:
    try:
        inside = json.loads(content.decode())
    except ValueError:
        raise EnvelopeError("The message is not in the known form.") from None
    if not isinstance(inside, dict) or not {"paste"} <= set(inside) <= {"paste", "attachment", "attachment_name"}:
        raise EnvelopeError("The message has fields that are missing or not known.")
    if not all(isinstance(value, str) for value in inside.values()) or ("attachment" in inside) != ("attachment_name" in inside):
        raise EnvelopeError("The message has fields that are not in the known form.")
    if "attachment" not in inside:
        return Plain(inside["paste"], format_)
    head, comma, data = inside["attachment"].partition(";base64,")
    file = _unb64(data)
    if not head.startswith("data:") or not comma or file is None:
        raise EnvelopeError("The file in the message is not in the known form.")
    return Plain(inside["paste"], format_, file, inside["attachment_name"], head.removeprefix("data:"))


def _hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


def _pbkdf2(secret: bytes, salt: bytes, rounds: int) -> bytes:
    return PBKDF2HMAC(algorithm=SHA256(), length=KEY_BYTES, salt=salt, iterations=rounds).derive(secret)


def _json(value: object) -> bytes:
    """As JavaScript's JSON.stringify writes it: the authenticated data must be the same bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unb64(text: object) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None
