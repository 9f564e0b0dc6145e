"""The Flask application inside the gate: routes, the static files, and Flask's errors as ours."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.exceptions import NotFound as NoSuchRoute

from errors import BodyRefused, MayflyError, MethodRefused, NotFound
from messages import Vault
from web import admin, routes
from web.answers import Answer
from web.handlers import Handlers
from web.limits import Limits

_MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def build_app(vault: Vault, handlers: Handlers, limits: Limits) -> Flask:
    """The routes of one server. It must stand behind a `Gate`, which reads bodies and sets headers."""
    app = Flask("mayfly", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False
    app.register_blueprint(routes.blueprint(handlers))
    app.register_blueprint(admin.blueprint(vault, limits))

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

    @app.errorhandler(HTTPException)
    def tell(error: HTTPException) -> Response:
        raise _as_ours(error) from None

    # Everything that is raised reaches the gate, which tells it.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    return app


def _as_ours(error: HTTPException) -> MayflyError:
    """What Flask itself refuses, as an error of ours."""
    if isinstance(error, NoSuchRoute):
        return NotFound()
    if isinstance(error, MethodNotAllowed):
        return MethodRefused("This address does not take that method.", ", ".join(sorted(error.valid_methods or ())))
    return BodyRefused("The request is not well formed.")
