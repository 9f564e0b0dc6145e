"""All of `access` on one store, as `server` hands it down."""

from __future__ import annotations

from dataclasses import dataclass

from access.accounts import Accounts
from access.certificates import Certificates
from access.credentials import Credentials
from access.message_notices import MessageNotices
from access.oauth import SigningKeys, Tokens
from access.passwords import Passwords
from access.webhooks import Webhooks
from audit import Audit
from database import AccessStore
from keyfile import KeyFile


@dataclass(frozen=True, slots=True)
class Access:
    """Accounts and what they sign in with; and, where there is a store of certificates, who else is told of things."""

    store: AccessStore
    audit: Audit
    accounts: Accounts
    credentials: Credentials
    tokens: Tokens
    certificates: Certificates | None = None
    webhooks: Webhooks | None = None
    message_notices: MessageNotices | None = None


def access_on(store: AccessStore, audit: Audit, keys: KeyFile) -> Access:
    """Everything on `store`; its secrets are sealed under `keys`."""
    credentials = Credentials(store, audit, Passwords())
    tokens = Tokens(store, audit, credentials, SigningKeys(store, keys))
    return Access(store, audit, Accounts(store, audit, keys), credentials, tokens)
