"""What this server takes and answers: `/openapi.json` for programs, `/docs` for people. No Flask here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from markupsafe import Markup

from web import pages
from web.answers import HTML, JSON, Answer
from web.authentication import Authentication, Need
from web.description.document import document
from web.description.examples import BASE
from web.description.page import groups_of
from web.gate import Environ
from web.negotiation import wanted_by


class Description:
    """The handlers of `/openapi.json` and `/docs`. Both are made when somebody asks for the first time, and kept."""

    def __init__(self, declared: Callable[[], Mapping[str, Need]], authentication: Authentication) -> None:
        """`declared` tells the URL map when it is complete: `METHOD /rule` and what each needs."""
        self._declared = declared
        self._authentication = authentication
        self._made: dict[bool, bytes] = {}
        self._pages: dict[tuple[bool, str], Markup] = {}

    def openapi(self, environ: Environ) -> Answer:
        """`GET /openapi.json`"""
        return Answer(200, JSON, self._document(self._authentication.is_https(environ)))

    def docs(self, environ: Environ) -> Answer:
        """`GET /docs`"""
        https, wanted = self._authentication.is_https(environ), wanted_by(environ)
        key = (https, wanted.language.tag)
        if key not in self._pages:
            self._pages[key] = pages.routes(wanted.language, *groups_of(json.loads(self._document(https))))
        return Answer(200, HTML, pages.docs(wanted, self._pages[key]))

    def _document(self, https: bool) -> bytes:
        """With the names that cookies have over https, or over http."""
        if https not in self._made:
            made = document(self._declared(), self._authentication.anyone_creates, https)
            text = json.dumps(made, ensure_ascii=False, separators=(",", ":"))
            self._made[https] = text.replace(BASE, self._authentication.public_url or BASE).encode()
        return self._made[https]
