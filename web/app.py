"""The Flask application inside the gate: routes, the static files, and Flask's errors as ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.exceptions import NotFound as NoSuchRoute

from access.services import Access
from errors import BodyRefused, MayflyError, MethodRefused, NotFound
from web import routes
from web.accounts import AccountPages
from web.admin import Admin
from web.answers import Answer
from web.audit import AuditPage
from web.authentication import NEEDS, Authentication
from web.certificate_pages import CertificateForms
from web.handlers import Handlers, Probes
from web.oauth import OAuth
from web.openapi import Description
from web.scrape import Scrape
from web.sign_in import SignIn
from web.webhooks import WebhookPages

_MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def build_app(vaults: Sequence[Handlers], authentication: Authentication, scrape: Scrape | None = None) -> Flask:
    """The routes of one server: of each of its vaults, and those that they share. Without `scrape` there is no `/metrics`, and
    without accounts there are no addresses for them.

    It must stand behind a `Gate`, which reads bodies and sets headers. Raises LookupError for a route that does not say what it
    needs of who asks.
    """
    app = Flask("mayfly", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False
    for handlers in vaults:
        app.register_blueprint(routes.vault_blueprint(handlers, authentication))
    every = [handlers.vault for handlers in vaults]
    app.register_blueprint(routes.probes_blueprint(Probes(every), authentication))
    if scrape:
        app.register_blueprint(routes.scrape_blueprint(scrape, authentication))
    app.register_blueprint(routes.admin_blueprint(Admin(every, authentication), authentication))
    if authentication.access:
        _register_accounts(app, authentication, authentication.access)
    description = Description(lambda: declared_in(app), authentication)
    app.register_blueprint(routes.description_blueprint(description, authentication))
    app.register_blueprint(routes.static_blueprint(_static_files(), authentication))
    for route, need in declared_in(app).items():
        if need not in NEEDS:
            raise LookupError(f"{route} does not say what it needs of who asks")

    @app.errorhandler(HTTPException)
    def tell(error: HTTPException) -> Response:
        raise _as_ours(error) from None

    # Everything that is raised reaches the gate, which tells it.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    return app


def declared_in(app: Flask) -> dict[str, Any]:
    """The whole URL map: `METHOD /rule`, and what each needs of who asks."""
    return {
        f"{method} {rule.rule}": getattr(app.view_functions[rule.endpoint], "needs", None)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def _register_accounts(app: Flask, authentication: Authentication, access: Access) -> None:
    sign_in = SignIn(authentication, access.accounts, access.credentials)
    app.register_blueprint(routes.sign_in_blueprint(sign_in, authentication))
    pages = AccountPages(authentication.public_url, access.accounts, access.credentials)
    app.register_blueprint(routes.accounts_blueprint(pages, authentication))
    if access.certificates:
        certificates = CertificateForms(authentication.public_url, access.certificates)
        app.register_blueprint(routes.certificates_blueprint(certificates, authentication))
    app.register_blueprint(routes.oauth_blueprint(OAuth(authentication, access.tokens), authentication))
    app.register_blueprint(routes.audit_blueprint(AuditPage(access.audit), authentication))
    if access.webhooks:
        app.register_blueprint(routes.webhooks_blueprint(WebhookPages(access.webhooks), authentication))


def _static_files() -> dict[str, Answer]:
    """Read once: no path that a client chooses reaches the file system."""
    folder = Path(__file__).resolve().parent / "static"
    return {
        path.relative_to(folder).as_posix(): Answer(200, _MEDIA_TYPES[path.suffix], path.read_bytes())
        for path in folder.rglob("*")
        if path.suffix in _MEDIA_TYPES
    }


def _as_ours(error: HTTPException) -> MayflyError:
    """What Flask itself refuses, as an error of ours."""
    if isinstance(error, NoSuchRoute):
        return NotFound()
    if isinstance(error, MethodNotAllowed):
        return MethodRefused("This address does not take that method.", ", ".join(sorted(error.valid_methods or ())))
    return BodyRefused("The request is not well formed.")
