"""The pages, as bytes. Templates are compiled once, escape everything, and know nothing of Flask.

What a person wrote reaches a template only as a value. `verbatim` is for text in `<pre>`: the HTML parser would turn a carriage
return into a line feed and drop the first line feed of a `<pre>`.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from records import (
    MAX_LIFETIME_SECONDS,
    MAX_VIEWS,
    Counts,
    Created,
    Millis,
    Opened,
    Preview,
    Receipt,
)
from sanitize import MAX_MARKDOWN_BYTES

_HERE = Path(__file__).resolve().parent
LIFETIMES = (
    (300, "5 minutes"),
    (3600, "1 hour"),
    (24 * 3600, "1 day"),
    (3 * 24 * 3600, "3 days"),
    (MAX_LIFETIME_SECONDS, "7 days"),
)


def _verbatim(text: str) -> Markup:
    return Markup("\n" + str(escape(text)).replace("\r", "&#13;"))


def _moment(at: Millis) -> Markup:
    when = datetime.fromtimestamp(at // 1000, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        when.strftime("%Y-%m-%dT%H:%M:%SZ"), when.strftime("%-d %B %Y, %H:%M UTC")
    )


def _size(count: int) -> str:
    """A number of bytes for people: `16 KiB`, `1.5 MiB`. Rounded down, so that no limit is told as more than it is."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count * 10 // 1024**power / 10:g} {unit}"
    return f"{count} bytes"


def _version(name: str) -> str:
    return hashlib.sha256((_HERE / "static" / name).read_bytes()).hexdigest()[:12]


_environment = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.filters.update(verbatim=_verbatim, moment=_moment, size=_size)
_environment.globals.update(stylesheet=f"/static/mayfly.css?v={_version('mayfly.css')}")


def _render(name: str, **values: Any) -> bytes:
    return _environment.get_template(name).render(**values).encode()


def write(max_message_bytes: int, durability: str) -> bytes:
    """The page to write a message."""
    return _render(
        "write.html",
        lifetimes=LIFETIMES,
        max_views=MAX_VIEWS,
        max_message_bytes=max_message_bytes,
        max_markdown_bytes=min(MAX_MARKDOWN_BYTES, max_message_bytes),
        durability=durability,
    )


def created(message: Created, link: str, receipt_link: str) -> bytes:
    """The link was made."""
    return _render("created.html", message=message, link=link, receipt_link=receipt_link)


def reveal(preview: Preview, idempotency_key: str, problem: str | None = None) -> bytes:
    """A message waits to be opened by a deliberate act; `problem` is what was wrong with the last try."""
    return _render("reveal.html", preview=preview, idempotency_key=idempotency_key, problem=problem)


def message(opened: Opened, lease_seconds: int | None) -> bytes:
    """A message, shown."""
    return _render("message.html", opened=opened, lease_seconds=lease_seconds)


def receipt(token: str, found: Receipt) -> bytes:
    """The sender's side."""
    return _render("receipt.html", token=token, receipt=found)


def sign_in(problem: str | None = None) -> bytes:
    """The admin's door."""
    return _render("sign_in.html", problem=problem)


def admin(counts: Counts, form_token: str, durability: str, done: str | None = None) -> bytes:
    """Counts and the purge; `done` says what the last form did."""
    return _render("admin.html", counts=counts, form_token=form_token, durability=durability, done=done)


def error(status: int, title: str, detail: str) -> bytes:
    """What went wrong, and what to do next."""
    return _render("error.html", status=status, title=title, detail=detail)
