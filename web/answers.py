"""How a result is told: in HTML, JSON or plain text, as the client's Accept header asks.

Answers are plain values, so that whoever serves a request (a Flask view, the gate itself) sends the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from records import Created, Millis, Opened, Preview, Receipt
from web import pages
from web.negotiation import Wanted
from web.paths import MESSAGE, RECEIPT

HTML = "text/html; charset=utf-8"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as plain values. `headers` are those beyond the type, the length and what the gate sets for all."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def _json(document: dict[str, Any]) -> bytes:
    return _ENCODER.encode(document).encode()


def as_json(status: int, document: dict[str, Any], headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """A JSON document, for those who did not ask for a page."""
    return Answer(status, JSON, _json(document), headers)


def iso(at: Millis) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return _second(at // 1000)


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """All that is created within a second expires within one, by default."""
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}Z"


def created(wanted: Wanted, base_url: str, message: Created) -> Answer:
    """201 for a stored message; `base_url` is what its links begin with."""
    link = f"{base_url}{MESSAGE[message.vault]}{message.link_id}"
    receipt = f"{base_url}{RECEIPT[message.vault]}{message.receipt}"
    location = (("Location", link),)
    if wanted.kind == "html":
        return Answer(201, HTML, pages.created(wanted, message, link, receipt), location)
    if wanted.kind == "text":
        return Answer(201, TEXT, f"{link}\n".encode(), location)
    document = {
        "id": message.link_id,
        "link": link,
        "receipt": receipt,
        "expires_at": iso(message.expires_at),
        "views": message.views,
        "durability": message.durability,
        "encryption": message.encryption,
    }
    return Answer(201, JSON, _json(document), location)


def waiting(preview: Preview) -> dict[str, Any]:
    """What a client needs to know before it opens a message."""
    return {
        "expires_at": iso(preview.expires_at),
        "views_left": preview.views_left,
        "needs_passphrase": preview.needs_passphrase,
        "encryption": preview.encryption,
    }


def opened(wanted: Wanted, message: Opened, lease_seconds: int | None = None) -> Answer:
    """200 with the message; `lease_seconds` is for the page, to say how long a reload shows it again."""
    if message.content.format == "document":
        # Only a program can open it, whatever it accepts.
        document = json.loads(message.content.message)
        return Answer(
            200, JSON, _json({"document": document, "expires_at": iso(message.expires_at), "views_left": message.views_left})
        )
    if wanted.kind == "html":
        return Answer(200, HTML, pages.message(wanted, message, lease_seconds))
    if message.content.format == "record":
        return _record(wanted, message)
    if wanted.kind == "text":
        return Answer(200, TEXT, message.content.message.encode())
    document = {
        "message": message.content.message,
        "format": message.content.format,
        "expires_at": iso(message.expires_at),
        "views_left": message.views_left,
    }
    return Answer(200, JSON, _json(document))


def _record(wanted: Wanted, message: Opened) -> Answer:
    """What the reader sees of a record, in JSON or as lines of text."""
    fields: dict[str, str] = json.loads(message.content.message)
    if wanted.kind == "text":
        # Further lines of a value are indented, so that none of them can be taken for another field.
        lines = (f"{name}: {text}\n".replace("\n", "\n  ").rstrip(" ") for name, text in fields.items())
        return Answer(200, TEXT, "".join(lines).encode())
    document = {
        "record": fields,
        "masked": message.content.masked,
        "format": "record",
        "expires_at": iso(message.expires_at),
        "views_left": message.views_left,
    }
    return Answer(200, JSON, _json(document))


def receipt(wanted: Wanted, token: str, found: Receipt) -> Answer:
    """200 with the sender's side of a message."""
    if wanted.kind == "html":
        return Answer(200, HTML, pages.receipt(wanted, token, found))
    if wanted.kind == "text":
        lines = [
            f"state: {found.state}",
            f"created: {iso(found.created_at)}",
            f"expires: {iso(found.expires_at)}",
            *(f"opened: {iso(at)}" for at in found.opened),
            f"views left: {'any number' if found.views_left is None else found.views_left}",
        ]
        return Answer(200, TEXT, "\n".join(lines).encode() + b"\n")
    document = {
        "state": found.state,
        "created_at": iso(found.created_at),
        "expires_at": iso(found.expires_at),
        "opened": [iso(at) for at in found.opened],
        "views_left": found.views_left,
    }
    return Answer(200, JSON, _json(document))


def deleted(count: int) -> Answer:
    """200 for scripts that purge or take down."""
    return Answer(200, JSON, _json({"deleted": count}))
