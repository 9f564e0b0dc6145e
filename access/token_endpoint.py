"""The token endpoint: Authlib's classes for what RFC 6749 says, and what they ask of this server.

Imported at the first token that is asked for (see `access.oauth`). Whoever shows no good key gets one answer, whether there is a
key of that id or not: a key is looked for by its hash, and its id only compared.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from typing import Any

from authlib.oauth2.rfc6749 import AuthorizationServer, ClientCredentialsGrant, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidRequestError, InvalidScopeError, OAuth2Error
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload

from access.credentials import digest_of
from access.oauth import AUTHENTICATION_METHODS, GRANT_TYPE, TOKEN_SECONDS, Granted, Tokens
from records import SCOPES, Account, Actor, ApiKey, Event

_ASKED = ("POST", "https://mayfly/oauth/token")
"""Method and address of what gets here."""

logging.getLogger("authlib").setLevel(logging.INFO)  # what it logs for debugging holds tokens


def answer(tokens: Tokens, issuer: str, authorization: str, form: Mapping[str, str], address: str) -> Granted:
    """Answer a request to the token endpoint. Raises AuditFailed, StoreFailed."""
    server = _Server(tokens, issuer, address)
    request = _Request(authorization, form)
    if authorization and "client_secret" in form:
        return server.handle_error_response(request, InvalidRequestError("Show the key once: in the header or in the form."))
    granted: Granted
    try:
        granted = server.create_token_response(request)
    except UnicodeDecodeError:  # Basic with bytes that are no text
        granted = server.handle_error_response(request, InvalidClientError(status_code=401))
    if granted.status == 401:
        tokens.audit.write(Event("token", "refused", Actor(address=address)))
    return granted


class _Request(OAuth2Request):  # type: ignore[misc]
    """A request whose way here has been found safe already: Authlib would look at its scheme."""

    def __init__(self, authorization: str, form: Mapping[str, str]) -> None:
        super().__init__(*_ASKED, headers={"Authorization": authorization})
        self.payload = BasicOAuth2Payload(form)

    @property
    def form(self) -> Mapping[str, str]:
        return dict(self.payload.data)


class _Client:
    """Whoever says to be the key with that id."""

    def __init__(self, tokens: Tokens, key_id: str) -> None:
        self._tokens = tokens
        self._key_id = key_id
        self.found: tuple[ApiKey, Account] | None = None

    def check_client_secret(self, secret: str) -> bool:
        found = self._tokens.store.key(digest_of("key", secret))
        if found is None or not hmac.compare_digest(found[0].id.encode(), self._key_id.encode(errors="replace")):
            return False
        self.found = found
        return True

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in AUTHENTICATION_METHODS

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == GRANT_TYPE

    @property
    def scopes(self) -> list[str]:
        assert self.found
        key, account = self.found
        return [scope for scope in SCOPES if scope in key.scopes & account.scopes]


class _Grant(ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = AUTHENTICATION_METHODS

    def validate_requested_scope(self) -> None:
        """All that is asked for must be the key's; without a wish it is all of that."""
        wanted = (self.request.payload.scope or "").split() or self.request.client.scopes
        if not wanted or not set(wanted) <= set(self.request.client.scopes):
            raise InvalidScopeError


class _Server(AuthorizationServer):  # type: ignore[misc]
    """Serves one request."""

    def __init__(self, tokens: Tokens, issuer: str, address: str) -> None:
        super().__init__()
        self._tokens = tokens
        self._issuer = issuer
        self._address = address
        self.register_grant(_Grant)
        self.register_token_generator("default", self._generate)

    def query_client(self, client_id: str) -> _Client:
        return _Client(self._tokens, client_id)

    def _generate(self, *, client: _Client, scope: str | None, **_: Any) -> dict[str, object]:
        assert client.found
        key, account = client.found
        wanted = (scope or "").split() or client.scopes
        granted = [name for name in SCOPES if name in wanted]
        actor = Actor(account, frozenset(granted), "key", key.id, self._address)
        self._tokens.audit.write(Event("token", "made", actor, target=key.id, detail=" ".join(granted)))
        self._tokens.credentials.note_use(key)
        token = self._tokens.sign(self._issuer, key, account, " ".join(granted))
        return {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECONDS, "scope": " ".join(granted)}

    def save_token(self, token: object, request: object) -> None:
        """Tokens are kept nowhere: they say themselves what they are."""

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nobody listens."""

    def create_oauth2_request(self, request: _Request) -> _Request:
        return request

    def handle_error_response(self, request: _Request, error: OAuth2Error) -> Granted:
        """RFC 6749 section 5.2. Its texts are Authlib's only where they repeat nothing that was sent."""
        description = "" if error.error == "unsupported_grant_type" else error.description
        document = {"error": error.error, **({"error_description": description} if description else {})}
        headers = (("WWW-Authenticate", 'Basic realm="mayfly", charset="UTF-8"'),) if error.status_code == 401 else ()
        return Granted(error.status_code, document, headers)

    def handle_response(self, status: int, body: Mapping[str, Any], headers: object) -> Granted:
        return Granted(status, body)
