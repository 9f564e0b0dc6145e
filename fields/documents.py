"""What a message that its sender encrypted comes with.

The server cannot look inside: it checks the outer form, and readers the rest.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from errors import FieldRefused

_PROOF = "[A-Za-z0-9_-]{43}"
_BASE64 = "[A-Za-z0-9+/]+={0,2}"
_MAX_EXACT = 2**53 - 1
"""The largest whole number that JavaScript, which knows floating point only, keeps as it is."""


@dataclass(frozen=True, slots=True)
class Document:
    """A PrivateBin v2 document, as JSON text from which it comes out as it went in."""

    def read(self, name: str, value: object) -> str:
        if not isinstance(value, dict) or set(value) != {"v", "adata", "ct"} or (type(value["v"]), value["v"]) != (int, 2):
            raise FieldRefused(name, 'document must be a PrivateBin v2 document: an object with "v": 2, "adata" and "ct".')
        if not isinstance(value["adata"], list) or not _comes_out_alike(value["adata"]):
            raise FieldRefused(name, 'In a document "adata" is a list of texts, whole numbers, and lists of these.')
        if not isinstance(value["ct"], str) or not re.fullmatch(_BASE64, value["ct"]):
            raise FieldRefused(name, 'In a document "ct" is base64.')
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            text.encode()
        except UnicodeEncodeError:
            raise FieldRefused(name, "%(name)s holds half of a surrogate pair, which is no character.", name=name) from None
        return text

    def schema(self) -> dict[str, Any]:
        part = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": -_MAX_EXACT, "maximum": _MAX_EXACT}]}
        parts = {"type": "array", "items": {"anyOf": [*part["anyOf"], {"type": "array", "items": part}]}}
        return {
            "type": "object",
            "properties": {"v": {"const": 2}, "adata": parts, "ct": {"type": "string", "pattern": f"^{_BASE64}$"}},
            "required": ["v", "adata", "ct"],
            "additionalProperties": False,
        }


@dataclass(frozen=True, slots=True)
class Proof:
    """32 bytes as base64url without padding."""

    def read(self, name: str, value: object) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str) or not re.fullmatch(_PROOF, value):
            raise FieldRefused(name, "proof must be 32 bytes in base64url without padding: 43 characters.")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_PROOF}$"}


def _comes_out_alike(value: object) -> bool:
    """Whether every program writes this JSON value as the same bytes, as what is authenticated must be.

    1.0 is written as 1, 1e999 as Infinity, and whole numbers are rounded, by one program or another.
    """
    if isinstance(value, list):
        return all(map(_comes_out_alike, value))
    return isinstance(value, str) or (type(value) is int and abs(value) <= _MAX_EXACT)
