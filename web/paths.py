"""Which address belongs to which vault, and under which route it stands."""

from __future__ import annotations

from records import VaultName

CREATE: dict[VaultName, str] = {"open": "/", "guarded": "/guarded", "sealed": "/sealed"}
MESSAGE: dict[VaultName, str] = {"open": "/message/", "guarded": "/guarded/", "sealed": "/sealed/"}
RECEIPT: dict[VaultName, str] = {"open": "/receipt/", "guarded": "/guarded/receipt/", "sealed": "/sealed/receipt/"}
CREATE_PATHS = frozenset(CREATE.values())
_VAULTS: dict[str, VaultName] = {"": "open", "message": "open", "receipt": "open", "guarded": "guarded", "sealed": "sealed"}


def vault_of(path: str) -> VaultName | None:
    """The vault that an address belongs to, by its first part; None for what no vault or all of them have to do with."""
    return _VAULTS.get(path[1:].partition("/")[0])


_ROUTES = frozenset(
    (
        *("/", "/guarded", "/sealed", "/admin", "/admin/keys", "/delete", "/docs", "/openapi.json", "/healthz", "/readyz"),
        "/metrics",
        *("/sign-in", "/sign-out", "/reset", "/account", "/account/password", "/accounts", "/keys", "/audit", "/oauth/token"),
        *("/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/certificates", "/ca.pem", "/ca.crl"),
        "/webhooks",
    )
)
ACCOUNT_ROUTES = frozenset(
    (
        *("/sign-in", "/sign-out", "/reset", "/account", "/account/password", "/password/…", "/accounts", "/accounts/…"),
        *("/keys", "/keys/…", "/oauth/token", "/.well-known/jwks.json", "/.well-known/oauth-authorization-server"),
        *("/admin", "/admin/keys", "/delete", "/audit", "/audit/…"),
        *("/certificates", "/certificates/…", "/ca.pem", "/ca.crl", "/ca/…"),
        *("/webhooks", "/webhooks/…"),
    )
)
"""Those that ask the database of accounts and audit, or that of certificates, whatever vault they are about."""
_ROUTES_BELOW = {
    "certificates": "/certificates/…",
    "ca": "/ca/…",
    "message": "/message/…",
    "receipt": "/receipt/…",
    "static": "/static/…",
    "webhooks": "/webhooks/…",
    "accounts": "/accounts/…",
    "keys": "/keys/…",
    "password": "/password/…",
    "guarded": "/guarded/…",
    "sealed": "/sealed/…",
}


def route_of(path: str) -> str:
    """The route of an address, for logs and metrics: one of a closed set, whatever a client asks for."""
    if path in _ROUTES:
        return path
    first, _, rest = path[1:].partition("/")
    route = _ROUTES_BELOW.get(first, "other")
    if first in ("guarded", "sealed") and rest.startswith("receipt/"):
        return f"/{first}/receipt/…"
    return route
