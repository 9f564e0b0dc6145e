"""End-to-end encryption in the PrivateBin v2 document format, and the proof that claims a message.

Source: "Encryption format", PrivateBin wiki. A document is AES-256-GCM over deflated JSON, keyed by PBKDF2-SHA256 of a random key
(which travels in the link's fragment) followed by the passphrase, with its parameters as authenticated data:

    {"v": 2, "adata": [[iv, salt, rounds, key bits, tag bits, "aes", "gcm", "zlib"], format, 0, 0], "ct": base64}

`encrypt.js` and `decrypt.js` in `web/static/js` are the same in the browser; both are held to `tests/vectors/envelope.json`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from dataclasses import dataclass
from typing import Any, Literal

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
_MAX_RATIO = 4  # the page inflates to 8 times the longest message; the server takes documents of twice that message
_MAX_DIGITS = 44  # of 256 bits in base58
_FORMATS: dict[Any, Literal["text", "markdown"]] = {"plaintext": "text", "syntaxhighlighting": "text", "markdown": "markdown"}

Document = dict[str, Any]


_UNSAFE = "This is not a document that can be opened safely"
_SENTENCES = {
    "fragment": "The part of the link after # is not complete, or not a key.",
    "version": f"{_UNSAFE}: it is of another version of the format than 2.",
    "fields": "The message has fields that are missing or not known.",
    "parameters": f"{_UNSAFE}: its parameters are not in the known form.",
    "cipher": f"{_UNSAFE}: it uses another cipher than AES-256-GCM.",
    "rounds": f"{_UNSAFE}: its key takes fewer than {MIN_ROUNDS:,} rounds, or more than {MAX_ROUNDS:,}.",
    "length": f"{_UNSAFE}: a part of it is too short or too long.",
    "incomplete": "The message is not complete, or goes on after its end.",
    "size": "The message is larger than any that can be sent.",
    "wrong-key": "The key in the link or the passphrase is wrong, or the message was changed.",
}


class EnvelopeError(Exception):
    """The document cannot be opened. `str(error)` says why to a person, `code` to a program, as in `decrypt.js`."""

    def __init__(self, code: str) -> None:
        super().__init__(_SENTENCES[code])
        self.code = code


class WrongKey(EnvelopeError):
    """The key or the passphrase is not the document's, or the document was changed: these cannot be told apart."""

    def __init__(self) -> None:
        super().__init__("wrong-key")


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
    """The key of a link's fragment. PrivateBin drops zeros at its front, others write each as a 1: both are taken.

    Raises EnvelopeError if it is not a key.
    """
    if not 1 <= len(fragment) <= _MAX_DIGITS or not set(fragment) <= set(_ALPHABET):
        raise EnvelopeError("fragment")
    number = 0
    for digit in fragment:
        number = number * 58 + _ALPHABET.index(digit)
    if number >> (8 * KEY_BYTES):
        raise EnvelopeError("fragment")
    return number.to_bytes(KEY_BYTES)


def proof_of(key: bytes, passphrase: str | None) -> str:
    """What a reader shows the server to claim a message: 43 characters of base64url that tell nothing of key or passphrase.

    A passphrase is stretched as in the document, under a salt of its own, so that the server's hash of the proof is no quicker way
    to guess it (decision record 0007).
    """
    if not passphrase:
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
    inside: dict[str, str] = {"paste": plain.text}
    if plain.file is not None:
        inside["attachment"] = f"data:{plain.media_type};base64,{_b64(plain.file)}"
        inside["attachment_name"] = plain.file_name
    packed, compression = _pack(_json(inside))
    adata = [[_b64(iv), _b64(salt), rounds, _KEY_BITS, _TAG_BITS, "aes", "gcm", compression], format_, 0, 0]
    cipher = AESGCM(_pbkdf2(key + (passphrase or "").encode(), salt, rounds))
    return {"v": 2, "adata": adata, "ct": _b64(cipher.encrypt(iv, packed, _json(adata)))}


def _pack(content: bytes) -> tuple[bytes, str]:
    """Deflate what does not inflate to so much that readers would refuse it; else the server's limit shall count all of it."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(content) + deflate.flush()
    if len(content) > _MAX_RATIO * len(packed) + 65_536:
        return content, "none"
    return packed, "zlib"


def decrypt(document: object, key: bytes, passphrase: str | None, max_bytes: int) -> Plain:
    """Open a document whose content inflates to at most `max_bytes`.

    Raises WrongKey, or EnvelopeError for parameters weaker than we make, wrong lengths and unknown fields.
    """
    iv, salt, rounds, compression, format_, sealed, adata = _checked(document)
    cipher = AESGCM(_pbkdf2(key + (passphrase or "").encode(), salt, rounds))
    try:
        packed = cipher.decrypt(iv, sealed, _json(adata))
    except InvalidTag:
        raise WrongKey from None
    return _unpack(_inflate(packed, max_bytes) if compression == "zlib" else packed, format_)


def _checked(document: object) -> tuple[bytes, bytes, int, str, Literal["text", "markdown"], bytes, list[Any]]:
    if not isinstance(document, dict):
        raise EnvelopeError("fields")
    if document.get("v") != 2:
        raise EnvelopeError("version")
    if not {"v", "adata", "ct"} <= set(document) <= {"v", "adata", "ct", "meta"}:
        raise EnvelopeError("fields")
    adata = document["adata"]
    if not isinstance(adata, list) or len(adata) != 4 or not isinstance(adata[0], list) or len(adata[0]) != 8:
        raise EnvelopeError("parameters")
    (iv_text, salt_text, rounds, *cipher, compression), format_, *flags = adata
    if cipher != [_KEY_BITS, _TAG_BITS, "aes", "gcm"]:
        raise EnvelopeError("cipher")
    if type(rounds) is not int or not MIN_ROUNDS <= rounds <= MAX_ROUNDS:
        raise EnvelopeError("rounds")
    if compression not in ("zlib", "none") or not isinstance(format_, str) or format_ not in _FORMATS:
        raise EnvelopeError("parameters")
    if not all(type(flag) is int and flag in (0, 1) for flag in flags):
        raise EnvelopeError("parameters")
    iv, salt, sealed = (_unb64(text) for text in (iv_text, salt_text, document["ct"]))
    if iv is None or salt is None or sealed is None:
        raise EnvelopeError("parameters")
    if len(iv) not in (12, 16) or not 8 <= len(salt) <= 64 or len(sealed) <= _TAG_BITS // 8:
        raise EnvelopeError("length")
    return iv, salt, rounds, compression, _FORMATS[format_], sealed, adata


def _inflate(packed: bytes, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        content = inflate.decompress(packed, max_bytes + 1)
    except zlib.error:
        raise EnvelopeError("incomplete") from None
    if len(content) > max_bytes:
        raise EnvelopeError("size")
    if not inflate.eof or inflate.unused_data:
        raise EnvelopeError("incomplete")
    return content


def _unpack(content: bytes, format_: Literal["text", "markdown"]) -> Plain:
    try:
        inside = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise EnvelopeError("fields") from None
    if not isinstance(inside, dict) or not {"paste"} <= set(inside) <= {"paste", "attachment", "attachment_name"}:
        raise EnvelopeError("fields")
    if not all(isinstance(value, str) for value in inside.values()) or ("attachment" in inside) != ("attachment_name" in inside):
        raise EnvelopeError("fields")
    text = _well_formed(inside["paste"])
    if "attachment" not in inside:
        return Plain(text, format_)
    head, separator, data = inside["attachment"].partition(";base64,")
    file = _unb64(data)
    if not head.startswith("data:") or "," in head or not separator or file is None:
        raise EnvelopeError("fields")
    name, media_type = _well_formed(inside["attachment_name"]), _well_formed(head.removeprefix("data:"))
    return Plain(text, format_, file, name, media_type)


def _well_formed(text: str) -> str:
    """JavaScript's strings may hold half of a surrogate pair, which is no character: it becomes U+FFFD, as browsers show it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
