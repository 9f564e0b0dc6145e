"""The Flask application inside the gate: routes, the static files, and errors as answers."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.exceptions import NotFound as NoSuchRoute

from crypto import KeyFile
from errors import BodyRefused, Damaged, KeyMissing, MayflyError, MethodRefused, NotFound, StoreFailed
from messages import Vault
from settings import Settings
from web import admin, routes
from web.answers import Answer
from web.errors import Unexpected
from web.errors import answer as answer_error
from web.gate import log_fault
from web.limits import Limits
from web.negotiation import wanted_by

_MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def build_app(vault: Vault, keys: KeyFile, settings: Settings, limits: Limits) -> Flask:
    """The routes of one server. It must stand behind a `Gate`, which reads bodies and sets headers."""
    app = Flask("mayfly", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False
    app.register_blueprint(routes.blueprint(vault, settings))
    app.register_blueprint(admin.blueprint(vault, keys, limits))

    # Read once: no path that a client chooses reaches the file system.
    folder = Path(__file__).resolve().parent / "static"
    files = {
        path.relative_to(folder).as_posix(): Answer(200, _MEDIA_TYPES[path.suffix], path.read_bytes())
        for path in folder.rglob("*")
        if path.suffix in _MEDIA_TYPES
    }

    @app.get("/static/<path:name>")
    def static(name: str) -> Response:
        if name not in files:
            raise NotFound
        return routes.respond(files[name])

    @app.errorhandler(Exception)
    def tell(error: Exception) -> Response:
        return routes.respond(answer_error(_as_ours(error), wanted_by(request.environ)))

    return app


def _as_ours(error: Exception) -> MayflyError:
    """Errors of Flask as errors of ours; anything else is a fault, logged without its message."""
    if isinstance(error, MayflyError):
        if isinstance(error, (StoreFailed, KeyMissing, Damaged)):
            log_fault(error)  # the operator's to mend
        return error
    if isinstance(error, NoSuchRoute):
        return NotFound()
    if isinstance(error, MethodNotAllowed):
        return MethodRefused("This address does not take that method.", ", ".join(sorted(error.valid_methods or ())))
    if isinstance(error, HTTPException) and error.code and error.code < 500:
        return BodyRefused("The request is not well formed.")
    log_fault(error)
    return Unexpected()
