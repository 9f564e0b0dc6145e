"""The addresses of OAuth 2.0: tokens, the keys that they are checked by, and what a program needs to know to ask for one."""

from __future__ import annotations

from access.oauth import Tokens
from errors import BadRequest
from web.answers import Answer, as_json
from web.authentication import Authentication
from web.gate import Environ
from web.handlers import body_of


class OAuth:
    """The handlers of `/oauth/token` and `/.well-known/…`."""

    def __init__(self, authentication: Authentication, tokens: Tokens) -> None:
        self._authentication = authentication
        self._tokens = tokens

    def token(self, environ: Environ) -> Answer:
        """`POST /oauth/token`. What is wrong is told as RFC 6749 section 5.2 has it."""
        self._authentication.require_secure(environ)
        limits, client = self._authentication.limits, environ["REMOTE_ADDR"]
        limits.require_sign_in(client)
        try:
            body = body_of(environ)
            form = {name: value for name, value in body.fields.items() if isinstance(value, str)}
            if body.kind != "form":
                return as_json(400, {"error": "invalid_request", "error_description": "Send a form."})
        except BadRequest as refusal:
            text = "".join(letter for letter in str(refusal) if " " <= letter <= "~" and letter not in '"\\')
            return as_json(400, {"error": "invalid_request", "error_description": text})
        issuer = self._authentication.issuer(environ)
        granted = self._tokens.give(issuer, environ.get("HTTP_AUTHORIZATION", ""), form, client)
        if granted.status == 401:
            limits.count_wrong_sign_in(client)
        return as_json(granted.status, dict(granted.document), granted.headers)

    def jwks(self, environ: Environ) -> Answer:
        """`GET /.well-known/jwks.json`"""
        return as_json(200, self._tokens.jwks())

    def metadata(self, environ: Environ) -> Answer:
        """`GET /.well-known/oauth-authorization-server`"""
        return as_json(200, self._tokens.metadata(self._authentication.issuer(environ)))
