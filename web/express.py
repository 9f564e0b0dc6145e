"""The express lane: the commonest requests, answered without Flask's dispatch, which costs more than all else in them together.

It calls the same handlers as Flask's views and raises the same errors to the same gate, so it decides one thing only: whether a
request is plainly one of its own. Anything else goes to Flask untouched.
"""

from __future__ import annotations

from web.answers import Answer
from web.handlers import Environ, Handlers

_MESSAGE = "/message/"
_BODIES = ("text/plain", "application/json", "application/x-www-form-urlencoded")


class Express:
    """The lane of one server."""

    def __init__(self, handlers: Handlers, anyone_creates: bool) -> None:
        """`anyone_creates`: whether creating needs no account. Who shows nothing is nobody, and is not asked for more in here."""
        self._handlers = handlers
        self._anyone_creates = anyone_creates

    def __call__(self, environ: Environ) -> Answer | None:
        """Answer a request, or return None for Flask to do it. Raises what the handler raises."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if "HTTP_COOKIE" in environ or "HTTP_AUTHORIZATION" in environ:
            return None
        if (
            path == "/"
            and method == "POST"
            and self._anyone_creates
            and environ.get("CONTENT_TYPE", "").partition(";")[0] in _BODIES
        ):
            return self._handlers.create(environ)
        if path.startswith(_MESSAGE) and (link_id := path[len(_MESSAGE) :]) and "/" not in link_id:
            if method == "GET":
                return self._handlers.look(environ, link_id)
            if method == "POST":
                return self._handlers.open(environ, link_id)
        return None
