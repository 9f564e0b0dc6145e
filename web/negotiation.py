"""What a client wants to be answered: HTML, JSON or plain text, by its Accept header, and pages in which language."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from web.languages import Language, language_for
from web.visitor import NOBODY, Visitor, visitor_of

Kind = Literal["html", "json", "text"]

_OFFERS: dict[str, Kind] = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/json": "json",
    "application/problem+json": "json",
    "text/plain": "text",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to answer a request. `chosen`: the address names the language, and the page's links and forms keep it there.

    `visitor` is who will look at a page.
    """

    kind: Kind
    language: Language
    chosen: bool
    visitor: Visitor = NOBODY

    @property
    def lang_query(self) -> str:
        """What keeps the language in an address of ours."""
        return f"?lang={self.language.tag}" if self.chosen else ""


def wanted_by(environ: dict[str, Any]) -> Wanted:
    """How the client of a request wants to be answered."""
    language, chosen = language_for(environ)
    kind = _kind_for(environ)
    return Wanted(kind, language, chosen, visitor_of(environ) if kind == "html" else NOBODY)


def _kind_for(environ: dict[str, Any]) -> Kind:
    """The kind of answer the client prefers; without a preference JSON to a JSON body, else plain text."""
    preferred = _preferred(environ.get("HTTP_ACCEPT", ""))
    if preferred:
        return preferred
    return "json" if environ.get("CONTENT_TYPE", "").lower().startswith("application/json") else "text"


@lru_cache(maxsize=256)
def _preferred(accept: str) -> Kind | None:
    if accept in ("", "*/*"):
        return None
    ranges = parse_accept_header(accept, MIMEAccept)
    best = max((quality for _, quality in ranges), default=0)
    named = {value.lower() for value, quality in ranges if quality == best}
    for media_type, kind in _OFFERS.items():
        if media_type in named:
            return kind
    match = ranges.best_match(_OFFERS)
    return _OFFERS[match] if match and "*/*" not in named else None
