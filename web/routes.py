"""The routes, as Flask knows them: which method of which address is which handler, and what it needs of who asks.

Default-deny: nothing is added without its need, and `Authentication` stands in front of every handler.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request

from errors import AccountRequired, NotFound, NotSignedIn, WrongCredentials
from web.accounts import AccountPages
from web.admin import Admin
from web.answers import Answer
from web.audit import AuditPage
from web.authentication import Authentication, Need
from web.certificate_pages import CertificateForms
from web.gate import Environ, headers_of
from web.handlers import Handler, Handlers, Probes
from web.negotiation import wanted_by
from web.oauth import OAuth
from web.openapi import Description
from web.paths import CREATE, MESSAGE, RECEIPT
from web.scrape import Scrape
from web.sign_in import SignIn, ask_to_sign_in
from web.visitor import ACTOR
from web.webhooks import WebhookPages

Door = Callable[[Environ], Answer]
"""What is answered to somebody who is not signed in, instead of the refusal."""


class Routes:
    """Routes with their needs, in a blueprint."""

    def __init__(self, name: str, authentication: Authentication) -> None:
        self.blueprint = Blueprint(name, __name__)
        self._authentication = authentication

    def add(self, rule: str, method: str, handler: Handler, needs: Need, door: Door | None = None) -> None:
        """Let `handler` answer `method` of `rule`, once `needs` is met. What is needed stands in the view's `needs`."""

        def view(**parts: str) -> Response:
            environ = request.environ
            try:
                environ[ACTOR] = self._authentication.admit(needs, environ)
                return respond(handler(environ, **parts))
            except NotSignedIn:
                if door is None:
                    raise
                return respond(door(environ))
            except AccountRequired as refusal:
                if wanted_by(environ).kind != "html":
                    raise
                return respond(ask_to_sign_in(environ, refusal))
            except WrongCredentials:
                if wanted_by(environ).kind != "html" or "HTTP_AUTHORIZATION" in environ:
                    raise
                return respond(ask_to_sign_in(environ, AccountRequired()))  # a session that has ended

        view.needs = needs  # type: ignore[attr-defined]
        self.blueprint.add_url_rule(rule, handler.__name__, view, methods=[method])


def vault_blueprint(handlers: Handlers, authentication: Authentication) -> Blueprint:
    """All routes of the messages and receipts of one vault."""
    name = handlers.vault.name
    create, message, receipt = CREATE[name], f"{MESSAGE[name]}<link_id>", f"{RECEIPT[name]}<token>"
    reading: Need = "anyone" if name == "open" else "messages:read"
    routes = Routes(name, authentication)
    routes.add(create, "GET", handlers.write, "create")
    routes.add(create, "POST", handlers.create, "create")
    routes.add(message, "GET", handlers.look, reading)
    routes.add(message, "POST", handlers.open, reading)
    routes.add(message, "DELETE", handlers.confirm, reading)
    # Who has a receipt made the message, or had it from whoever did.
    routes.add(receipt, "GET", handlers.receipt, "anyone")
    routes.add(receipt, "DELETE", handlers.burn, "anyone")
    routes.add(receipt, "POST", handlers.burn_by_form, "anyone")
    return routes.blueprint


def probes_blueprint(probes: Probes, authentication: Authentication) -> Blueprint:
    """`/healthz` and `/readyz`."""
    routes = Routes("probes", authentication)
    routes.add("/healthz", "GET", probes.alive, "anyone")
    routes.add("/readyz", "GET", probes.ready, "anyone")
    return routes.blueprint


def scrape_blueprint(scrape: Scrape, authentication: Authentication) -> Blueprint:
    """`/metrics`."""
    routes = Routes("scrape", authentication)
    routes.add("/metrics", "GET", scrape.metrics, "metrics token")
    return routes.blueprint


def admin_blueprint(admin: Admin, authentication: Authentication) -> Blueprint:
    """`/admin` and `/delete`."""
    routes = Routes("admin", authentication)
    routes.add("/admin", "GET", admin.show, "admin page", admin.door)
    routes.add("/admin", "POST", admin.act, "admin page", admin.sign_in)
    routes.add("/delete", "POST", admin.delete, "admin token")
    return routes.blueprint


def sign_in_blueprint(sign_in: SignIn, authentication: Authentication) -> Blueprint:
    """What people do at the door. Whoever comes there is nobody yet."""
    routes = Routes("sign_in", authentication)
    routes.add("/sign-in", "GET", sign_in.show, "anyone")
    routes.add("/sign-in", "POST", sign_in.enter, "anyone")
    routes.add("/sign-out", "POST", sign_in.leave, "anyone")
    routes.add("/reset", "POST", sign_in.ask_reset, "anyone")
    routes.add("/password/<token>", "GET", sign_in.show_link, "anyone")
    routes.add("/password/<token>", "POST", sign_in.use_link, "anyone")
    routes.add("/account", "GET", sign_in.account, "account")
    routes.add("/account/password", "POST", sign_in.change_password, "password")
    return routes.blueprint


def accounts_blueprint(pages: AccountPages, authentication: Authentication) -> Blueprint:
    """`/accounts` and `/keys`."""
    routes = Routes("accounts", authentication)
    routes.add("/accounts", "GET", pages.accounts, "accounts:manage")
    routes.add("/accounts", "POST", pages.add_account, "accounts:manage")
    routes.add("/accounts/<account_id>", "GET", pages.account, "accounts:manage")
    routes.add("/accounts/<account_id>", "PATCH", pages.change_account, "accounts:manage")
    routes.add("/accounts/<account_id>", "POST", pages.act_on_account, "accounts:manage")
    routes.add("/accounts/<account_id>", "DELETE", pages.delete_account, "accounts:manage")
    routes.add("/accounts/<account_id>/password-link", "POST", pages.password_link, "accounts:manage by password")
    routes.add("/admin/keys", "GET", pages.keys_in_use, "accounts:manage")
    routes.add("/keys", "GET", pages.keys, "password")
    routes.add("/keys", "POST", pages.add_key, "password")
    routes.add("/keys/<key_id>", "POST", pages.revoke_key_by_form, "password")
    routes.add("/keys/<key_id>", "DELETE", pages.revoke_key, "password")
    return routes.blueprint


def certificates_blueprint(pages: CertificateForms, authentication: Authentication) -> Blueprint:
    """`/certificates`, and the authority."""
    routes = Routes("certificates", authentication)
    routes.add("/certificates", "GET", pages.certificates, "account")
    routes.add("/certificates", "POST", pages.add_certificate, "certificates:manage")
    routes.add("/certificates/<certificate_id>", "GET", pages.certificate, "account")
    routes.add("/certificates/<certificate_id>", "PATCH", pages.change_certificate, "account")
    routes.add("/certificates/<certificate_id>", "POST", pages.act_on_certificate, "account")
    routes.add("/certificates/<certificate_id>/pem", "GET", pages.certificate_pem, "account")
    routes.add("/certificates/<certificate_id>/renew", "POST", pages.renew_certificate, "account")
    routes.add("/ca.pem", "GET", pages.authority, "anyone")
    routes.add("/ca.crl", "GET", pages.revoked, "anyone")
    routes.add("/ca/<issuer_file>", "GET", pages.revoked_of, "anyone")
    return routes.blueprint


def oauth_blueprint(oauth: OAuth, authentication: Authentication) -> Blueprint:
    """Tokens. Who asks for one shows a key, in the way of OAuth."""
    routes = Routes("oauth", authentication)
    routes.add("/oauth/token", "POST", oauth.token, "anyone")
    routes.add("/.well-known/jwks.json", "GET", oauth.jwks, "anyone")
    routes.add("/.well-known/oauth-authorization-server", "GET", oauth.metadata, "anyone")
    return routes.blueprint


def description_blueprint(description: Description, authentication: Authentication) -> Blueprint:
    """`/openapi.json` and `/docs`."""
    routes = Routes("description", authentication)
    routes.add("/openapi.json", "GET", description.openapi, "anyone")
    routes.add("/docs", "GET", description.docs, "anyone")
    return routes.blueprint


def audit_blueprint(page: AuditPage, authentication: Authentication) -> Blueprint:
    """`/audit`"""
    routes = Routes("audit", authentication)
    routes.add("/audit", "GET", page.audit, "audit:read")
    return routes.blueprint


def webhooks_blueprint(pages: WebhookPages, authentication: Authentication) -> Blueprint:
    """`/webhooks`"""
    routes = Routes("webhooks", authentication)
    one, deliveries = "/webhooks/<hook_id>", "/webhooks/<hook_id>/deliveries"
    routes.add("/webhooks", "GET", pages.webhooks, "certificates:manage")
    routes.add("/webhooks", "POST", pages.add_webhook, "certificates:manage")
    routes.add(one, "GET", pages.webhook, "certificates:manage")
    routes.add(one, "PATCH", pages.change_webhook, "certificates:manage")
    routes.add(one, "POST", pages.act_on_webhook, "certificates:manage")
    routes.add(one, "DELETE", pages.delete_webhook, "certificates:manage")
    routes.add(deliveries, "GET", pages.deliveries, "certificates:manage")
    routes.add(f"{deliveries}/<number>", "POST", pages.replay, "certificates:manage")
    return routes.blueprint


def static_blueprint(files: dict[str, Answer], authentication: Authentication) -> Blueprint:
    """`/static/…`"""
    routes = Routes("files", authentication)

    def static(environ: Environ, name: str) -> Answer:
        if name not in files:
            raise NotFound
        return files[name]

    routes.add("/static/<path:name>", "GET", static, "anyone")
    return routes.blueprint


def respond(answer: Answer) -> Response:
    """An answer as Flask's response."""
    return Response(answer.body, answer.status, headers_of(answer))
