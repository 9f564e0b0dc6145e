"""From a request's body or query to named fields: forms, multipart, JSON, plain text. Strict: nothing is changed silently.

The gate has checked by then that the body is whole and not too long. Everything refused here is the client's to mend: 400 or 415.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qsl

from werkzeug.datastructures import Headers
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from errors import BodyRefused, FieldRefused, UnsupportedBody
from web.languages import without_language

MAX_FIELDS = 20
_NOT_ENCODED = re.compile("%(?![0-9A-Fa-f]{2})")
MAX_JSON_DEPTH = 16

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Body:
    """The fields of a request, and how they came. `form` covers multipart: what a browser's form sends."""

    kind: Literal["none", "form", "json", "text"]
    fields: Fields


def read_body(body: bytes, content_type: str, query: str) -> Body:
    """Return the fields of a body.

    Plain text is the field `message`, with the other fields in the query; all else takes no query. Text in forms has its line ends
    (CRLF in HTML forms) as LF, which is what the writer typed; a file sent in a form, JSON and plain text are kept byte for byte.
    Raises FieldRefused, BodyRefused, UnsupportedBody.
    """
    media_type, options = _media_type(content_type)
    if media_type in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
        _require_utf8(options.get("charset"))
    if media_type == "text/plain":
        return Body("text", {**_pairs(query, form=False), "message": _decode(body)})
    if query:
        raise BodyRefused("Options go into the body; only text/plain takes them in the query.")
    if media_type == "application/json":
        return Body("json", _json_object(body))
    if media_type == "application/x-www-form-urlencoded":
        return Body("form", _pairs(_decode(body), form=True))
    if media_type == "multipart/form-data":
        return Body("form", _multipart(body, options.get("boundary", "")))
    if not body:
        return Body("none", {})
    raise UnsupportedBody("Send a form, multipart/form-data, application/json or text/plain (curl: --data-urlencode message=…).")


def read_query(query: str) -> dict[str, str]:
    """The fields of a query but `lang`, without those that a form left empty. Raises FieldRefused, BodyRefused."""
    try:
        pairs = parse_qsl(without_language(query), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BodyRefused("The query is not well formed.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise FieldRefused("", "A field is there twice.")
    return {name: value for name, value in fields.items() if value}


_media_type = lru_cache(maxsize=256)(parse_options_header)


def _require_utf8(charset: str | None) -> None:
    if charset is not None and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedBody("Send text in UTF-8.")


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise BodyRefused("The body is not valid UTF-8.") from None


def _add(fields: Fields, name: str, value: object) -> None:
    if name in fields:
        raise FieldRefused(name, "A field is there twice.")
    fields[name] = value


def _pairs(text: str, form: bool) -> Fields:
    if not text:
        return {}
    if _NOT_ENCODED.search(text) or ("+" in text and (" " in text or not text.isascii())):
        # Decoding would change what was written: `50% + x` is no longer that when a plus means a space.
        raise BodyRefused("The form is not encoded (with curl use --data-urlencode message=…).")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BodyRefused("Not every part is name=value in UTF-8 (with curl use --data-urlencode message=…).") from None
    fields: Fields = {}
    for name, value in pairs:
        _add(fields, name, value.replace("\r\n", "\n") if form else value)
    return fields


def _multipart(body: bytes, boundary: str) -> Fields:
    def refuse() -> NoReturn:
        raise BodyRefused("The multipart body is not complete or not well formed.")

    if not boundary.isascii() or not 1 <= len(boundary) <= 70:
        refuse()
    decoder = MultipartDecoder(boundary.encode(), max_parts=MAX_FIELDS)
    fields: Fields = {}
    part: Field | File | None = None
    chunks: list[bytes] = []
    try:
        decoder.receive_data(body)
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), (Epilogue, NeedData)):
            if isinstance(event, (Field, File)):
                part, chunks = event, []
                _refuse_encoded_part(event.headers)
            elif isinstance(event, Data):
                chunks.append(event.data)
                if not event.more_data and part:
                    text = _decode(b"".join(chunks))
                    _add(fields, part.name, text.replace("\r\n", "\n") if isinstance(part, Field) else text)
    except (BodyRefused, FieldRefused, UnsupportedBody):
        raise
    except Exception:  # werkzeug raises ValueError, KeyError, UnicodeError and RequestEntityTooLarge for bad bodies
        refuse()
    if isinstance(event, NeedData):
        refuse()
    return fields


def _refuse_encoded_part(headers: Headers) -> None:
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise UnsupportedBody("Send the parts of a form as they are, without a transfer encoding.")
    _, options = parse_options_header(headers.get("content-type", ""))
    _require_utf8(options.get("charset"))


def _json_object(body: bytes) -> Fields:
    try:
        document = _DECODER.decode(_decode(body))
    except (ValueError, RecursionError):
        raise BodyRefused("The body is not JSON.") from None
    if not isinstance(document, dict):
        raise BodyRefused("The JSON body must be an object.")
    if _deeper_than(document, MAX_JSON_DEPTH):
        raise BodyRefused("The JSON body is nested deeper than %(most)s levels.", most=MAX_JSON_DEPTH)
    return document


def _object(pairs: list[tuple[str, Any]]) -> Fields:
    fields: Fields = {}
    for name, value in pairs:
        _add(fields, name, value)
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def _deeper_than(value: object, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_deeper_than(item, depth - 1) for item in inner)
