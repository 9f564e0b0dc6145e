"""What a request to create a message must look like: named fields, checked, become a `Draft`.

Where the fields came from (a form, JSON, the command line) is not known here, and nothing is stored or encrypted.
"""

from __future__ import annotations

import json
import re

from errors import FieldRefused
from records import MAX_LIFETIME_SECONDS, MAX_VIEWS, MIN_LIFETIME_SECONDS, Draft

FIELDS = frozenset({"message", "expires_in", "views", "passphrase", "format"})
DOCUMENT_FIELDS = frozenset({"document", "proof", "needs_passphrase", "expires_in", "views"})
_PROOF = re.compile(r"[A-Za-z0-9_-]{43}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_MAX_EXACT = 2**53 - 1
"""The largest whole number that JavaScript, which knows floating point only, keeps as it is."""
MAX_PASSPHRASE_BYTES = 1024


def read_draft(fields: dict[str, object]) -> Draft:
    """Check the fields of a request to create a message, named as in the HTTP contract, and return them as a Draft.

    Numbers may come as JSON numbers or as text. Raises FieldRefused for an unknown, missing or wrong one.
    """
    if "document" in fields:
        return _read_document(fields)
    if not FIELDS.issuperset(fields):
        # The name is not told: of a form that was not encoded it may be a piece of the message.
        raise FieldRefused(
            "",
            "There is a field that is not known; known are message, expires_in, views, passphrase and format. "
            "Is the message encoded? (curl: --data-urlencode message=…)",
        )
    if "message" not in fields:
        raise FieldRefused("message", "The field %(name)s is missing.", name="message")
    format_ = fields.get("format", "text")
    if format_ not in ("text", "markdown"):
        raise FieldRefused("format", "format must be text or markdown.")
    return Draft(
        message=_text("message", fields["message"]),
        expires_in=_read_lifetime(fields),
        views=_whole("views", fields.get("views"), 1, MAX_VIEWS),
        passphrase=read_passphrase(fields.get("passphrase")),
        format="markdown" if format_ == "markdown" else "text",
    )


def _read_document(fields: dict[str, object]) -> Draft:
    """A message that its sender encrypted. The server cannot look inside: it checks the outer form, and readers the rest."""
    if not DOCUMENT_FIELDS.issuperset(fields):
        raise FieldRefused("", "Beside a document there may be proof, needs_passphrase, expires_in and views, and nothing else.")
    document, needs_passphrase = fields["document"], fields.get("needs_passphrase", False)
    if not isinstance(document, dict) or set(document) != {"v", "adata", "ct"} or (type(document["v"]), document["v"]) != (int, 2):
        raise FieldRefused("document", 'document must be a PrivateBin v2 document: an object with "v": 2, "adata" and "ct".')
    if not isinstance(document["adata"], list) or not _comes_out_alike(document["adata"]):
        raise FieldRefused("document", 'In a document "adata" is a list of texts, whole numbers, and lists of these.')
    if not isinstance(document["ct"], str) or not _BASE64.fullmatch(document["ct"]):
        raise FieldRefused("document", 'In a document "ct" is base64.')
    if not isinstance(needs_passphrase, bool):
        raise FieldRefused("needs_passphrase", "needs_passphrase must be true or false.")
    proof = read_proof(fields.get("proof"))
    if proof is None:
        raise FieldRefused("proof", "The field %(name)s is missing.", name="proof")
    try:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError:
        raise FieldRefused("document", "%(name)s holds half of a surrogate pair, which is no character.", name="document") from None
    return Draft(
        document=text,
        proof=proof,
        needs_passphrase=needs_passphrase,
        expires_in=_read_lifetime(fields),
        views=_whole("views", fields.get("views"), 1, MAX_VIEWS),
    )


def _comes_out_alike(value: object) -> bool:
    """Whether every program writes this JSON value as the same bytes, as what is authenticated must be.

    1.0 is written as 1, 1e999 as Infinity, and whole numbers are rounded, by one program or another.
    """
    if isinstance(value, list):
        return all(map(_comes_out_alike, value))
    return isinstance(value, str) or (type(value) is int and abs(value) <= _MAX_EXACT)


def read_proof(value: object) -> str | None:
    """Check a proof: None, or 32 bytes as base64url without padding. Raises FieldRefused."""
    if value is None:
        return None
    if not isinstance(value, str) or not _PROOF.fullmatch(value):
        raise FieldRefused("proof", "proof must be 32 bytes in base64url without padding: 43 characters.")
    return value


def _read_lifetime(fields: dict[str, object]) -> int:
    found = _whole("expires_in", fields.get("expires_in"), MIN_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS)
    return found or MAX_LIFETIME_SECONDS


def read_passphrase(value: object) -> str | None:
    """Check a passphrase: None, or 1 to 1024 bytes of UTF-8. Raises FieldRefused."""
    if value is None:
        return None
    text = _text("passphrase", value)
    if not 1 <= len(text.encode()) <= MAX_PASSPHRASE_BYTES:
        raise FieldRefused(
            "passphrase", "A passphrase has 1 to %(most)s bytes; leave the field out for none.", most=MAX_PASSPHRASE_BYTES
        )
    return text


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise FieldRefused(name, "%(name)s must be text.", name=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldRefused(name, "%(name)s holds half of a surrogate pair, which is no character.", name=name) from None
    return value


def _whole(name: str, value: object, low: int, high: int) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FieldRefused(name, "%(name)s must be a whole number from %(low)s to %(high)s.", name=name, low=low, high=high)
    return value
