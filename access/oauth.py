"""OAuth 2.0 for programs: access tokens for an API key, by the client credentials grant (RFC 6749 section 4.4).

The client id is the key's id, the client secret the key itself. Tokens are JWTs (RFC 9068), signed with RS256 by keys that are made
here, kept in the store, sealed under the key file, and take turns every 30 days. A token says whose it is; whether that key and
account still may is asked at each use, so that what is revoked is revoked at once.

What the token endpoint takes and refuses is Authlib's, what signs and reads tokens joserfc's. Both are imported at their first use:
they take 50 ms, and most servers never give a token.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import crypto
from access.credentials import Credentials
from audit import Audit
from crypto import key_id_of
from database import AccessStore
from errors import StoreFailed, WrongCredentials
from keyfile import KeyFile
from records import SCOPES, SECOND, Account, Actor, ApiKey, Millis, Sealed

if TYPE_CHECKING:
    from joserfc.jwk import RSAKey

TOKEN_SECONDS = 600
AUTHENTICATION_METHODS = ("client_secret_basic", "client_secret_post")
GRANT_TYPE = "client_credentials"
SIGNING_DAYS = 30
"""How long a key is the newest."""
PUBLISHED_SECONDS = 3600
"""How long a key is published before it signs, and after it signed last: longer than anybody should keep a copy of the list."""

_ALGORITHM = "RS256"
_TYPE = "at+jwt"
_PREFIX = "oauth/"
_DAY = 24 * 3600 * SECOND
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}")


@dataclass(frozen=True, slots=True)
class Granted:
    """An answer of the token endpoint: status, JSON, headers beyond the usual."""

    status: int
    document: Mapping[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


class SigningKeys:
    """The keys that sign tokens, numbered in the order in which they were made."""

    def __init__(self, store: AccessStore, keys: KeyFile) -> None:
        self._store = store
        self._key_file = keys
        self._parsed: dict[bytes, RSAKey] = {}

    def signing(self) -> RSAKey:
        """The key to sign with: the newest that has been published for long enough, else the oldest. Raises Unavailable."""
        now, kept = self._store.now(), self._kept()
        if not kept or now - kept[-1][1] >= SIGNING_DAYS * _DAY:
            kept = self._make(kept)
        published = [entry for entry in kept if now - entry[1] >= PUBLISHED_SECONDS * SECOND]
        name, _, sealed = published[-1] if published else kept[0]
        return self._open(name, sealed)

    def published(self) -> list[RSAKey]:
        """All keys by which a token may be checked. Raises Unavailable."""
        return [self._open(name, sealed) for name, _, sealed in self._kept()]

    def of(self, kid: object) -> RSAKey:
        """The key of that id. Raises WrongCredentials."""
        for key in self.published():
            if key.kid == kid:
                return key
        raise WrongCredentials

    def look_after(self) -> None:
        """Make the next key when its time has come, and drop those whose tokens have all ended."""
        now, kept = self._store.now(), self._kept()
        if kept and now - kept[-1][1] >= SIGNING_DAYS * _DAY:
            kept = self._make(kept)
        for (name, _, _), (_, successor_made, _) in itertools.pairwise(kept):
            if now - successor_made >= (2 * PUBLISHED_SECONDS + TOKEN_SECONDS) * SECOND:
                self._store.remove_secret(name)

    def _kept(self) -> list[tuple[str, Millis, bytes]]:
        found = self._store.secrets(_PREFIX)
        return sorted(((name, made, sealed) for name, (made, sealed) in found.items()), key=lambda entry: _number(entry[0]))

    def _make(self, kept: list[tuple[str, Millis, bytes]]) -> list[tuple[str, Millis, bytes]]:
        """Make the next key, unless another node does at this moment: its number is given once."""
        name = f"{_PREFIX}{_number(kept[-1][0]) + 1 if kept else 1}"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self._store.add_secret(name, crypto.seal_secret(self._key_file.ring(), name, secret))
        kept = self._kept()
        if not kept:
            raise StoreFailed
        return kept

    def _open(self, name: str, sealed: bytes) -> RSAKey:
        from joserfc.jwk import RSAKey

        if sealed not in self._parsed:
            ring = self._key_file.ring_with(key_id_of(Sealed(sealed)))
            key = RSAKey.import_key(crypto.unseal_secret(ring, name, sealed), {"use": "sig", "alg": _ALGORITHM})
            key.ensure_kid()
            self._parsed = {**self._parsed, sealed: key}
        return self._parsed[sealed]


def _number(name: str) -> int:
    return int(name.removeprefix(_PREFIX))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Access tokens of one server: given for API keys, and read again."""

    store: AccessStore
    audit: Audit
    credentials: Credentials
    keys: SigningKeys

    def jwks(self) -> dict[str, Any]:
        """The public keys (RFC 7517)."""
        return {"keys": [key.as_dict(private=False) for key in self.keys.published()]}

    def give(self, issuer: str, authorization: str, form: Mapping[str, str], address: str) -> Granted:
        """Answer a request to the token endpoint. Raises AuditFailed, StoreFailed."""
        from access.token_endpoint import answer

        return answer(self, issuer, authorization, form, address)

    def metadata(self, issuer: str) -> dict[str, Any]:
        """What a program needs to know to ask for tokens (RFC 8414)."""
        return {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/oauth/token",
            "jwks_uri": f"{issuer}/.well-known/jwks.json",
            "scopes_supported": list(SCOPES),
            "response_types_supported": [],
            "grant_types_supported": [GRANT_TYPE],
            "token_endpoint_auth_methods_supported": list(AUTHENTICATION_METHODS),
        }

    def sign(self, issuer: str, key: ApiKey, account: Account, scope: str) -> str:
        """An access token (RFC 9068)."""
        from joserfc import jwt

        signing, now = self.keys.signing(), self.store.now() // 1000
        claims = {
            "iss": issuer,
            "aud": issuer,
            "sub": account.id,
            "client_id": key.id,
            "scope": scope,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode({"alg": _ALGORITHM, "typ": _TYPE, "kid": signing.kid}, claims, signing, [_ALGORITHM])

    def by_token(self, text: str, issuer: str, address: str) -> Actor:
        """Whose a token is, and what it is good for. Raises WrongCredentials."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        if not _TOKEN.fullmatch(text):
            raise WrongCredentials
        try:
            token = jwt.decode(text, lambda found: self.keys.of(found.headers().get("kid")), [_ALGORITHM])
            if token.header.get("typ", "").lower() not in (_TYPE, f"application/{_TYPE}"):
                raise WrongCredentials
            essential: dict[str, jwt.ClaimsOption] = {
                name: {"essential": True} for name in ("exp", "iat", "sub", "client_id", "jti", "scope")
            }
            own: dict[str, jwt.ClaimsOption] = {name: {"essential": True, "value": issuer} for name in ("iss", "aud")}
            jwt.JWTClaimsRegistry(self.store.now() // 1000, 0, **essential, **own).validate(token.claims)
        except (JoseError, ValueError, AttributeError, TypeError):
            raise WrongCredentials from None
        return self._actor(token.claims, address)

    def _actor(self, claims: Mapping[str, Any], address: str) -> Actor:
        found = self.store.key_by_id(claims["client_id"]) if isinstance(claims["client_id"], str) else None
        if found is None or found[1].id != claims["sub"]:
            raise WrongCredentials
        key, account = found
        self.credentials.note_use(key)
        scopes = key.scopes & account.scopes & frozenset(str(claims["scope"]).split())
        return Actor(account, frozenset(scope for scope in SCOPES if scope in scopes), "token", key.id, address)
