"""OAuth 2.0: what the token endpoint answers, which tokens are taken, and how the keys that sign them take turns."""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

import keyfile
from access.oauth import PUBLISHED_SECONDS, SIGNING_DAYS, TOKEN_SECONDS, SigningKeys, Tokens
from access.sealing import reseal
from access.services import Access
from errors import WrongCredentials
from keyfile import KeyFile
from records import Account, Actor, ApiKey
from server import open_accounts
from settings import Settings
from tests.serving import PASSWORD, Served
from tests.stores import SetClock

JSON = {"Accept": "application/json"}
ANA = "ana@example.com"
GRANT = {"grant_type": "client_credentials"}
URL = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served")) as running:
        running.add_account(ANA, "auditor")
        yield running


@pytest.fixture(scope="module")
def key(served: Served) -> dict[str, Any]:
    return served.make_key(ANA, "messages:create", "audit:read")


def ask(served: Served, key: dict[str, Any], form: dict[str, str] = GRANT, **more: Any) -> httpx.Response:
    return served.http.post("/oauth/token", data=form, auth=httpx.BasicAuth(key["id"], key["key"]), **more)


def account_by(served: Served, token: str) -> httpx.Response:
    return served.http.get("/account", headers={**JSON, "Authorization": f"Bearer {token}"})


# The token endpoint


def test_token_is_what_rfc_9068_says_and_the_published_key_verifies_it(served: Served, key: dict[str, Any]) -> None:
    answer = ask(served, key)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json()
    assert (told["token_type"], told["expires_in"], told["scope"]) == ("Bearer", 600, "messages:create audit:read")
    jwks = served.http.get("/.well-known/jwks.json").json()
    assert all("d" not in published for published in jwks["keys"])
    token = jwt.decode(told["access_token"], KeySet.import_key_set(jwks), ["RS256"])
    assert token.header == {"alg": "RS256", "typ": "at+jwt", "kid": jwks["keys"][0]["kid"]}
    claims = token.claims
    assert set(claims) == {"iss", "aud", "sub", "client_id", "scope", "iat", "exp", "jti"}
    assert (claims["iss"], claims["aud"], claims["client_id"]) == (served.url, served.url, key["id"])
    assert claims["sub"] == account_by(served, told["access_token"]).json()["id"]
    assert claims["exp"] - claims["iat"] == TOKEN_SECONDS


def test_both_ways_to_show_the_key_and_fewer_scopes(served: Served, key: dict[str, Any]) -> None:
    post = {**GRANT, "client_id": key["id"], "client_secret": key["key"], "scope": "audit:read"}
    told = served.http.post("/oauth/token", data=post).json()
    assert told["scope"] == "audit:read"
    assert account_by(served, told["access_token"]).json()["scopes"] == ["audit:read"]


def test_metadata_name_what_there_is(served: Served) -> None:
    told = served.http.get("/.well-known/oauth-authorization-server").json()
    assert told["issuer"] == served.url
    assert served.http.get(told["jwks_uri"]).status_code == 200
    assert served.http.post(told["token_endpoint"]).status_code == 400


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({}, 400, "invalid_request"),
        ({"scope": "audit:read"}, 400, "unsupported_grant_type"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({**GRANT, "scope": "accounts:manage"}, 400, "invalid_scope"),
        ({**GRANT, "scope": "messages:create messages:read"}, 400, "invalid_scope"),
        ({**GRANT, "scope": "nonsense"}, 400, "invalid_scope"),
        ({**GRANT, "client_secret": "x"}, 400, "invalid_request"),
    ],
    ids=str,
)
def test_refusal_is_as_rfc_6749_has_it(served: Served, key: dict[str, Any], form: dict[str, str], status: int, error: str) -> None:
    answer = ask(served, key, form)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert "access_token" not in answer.json()


def test_wrong_key_is_invalid_client_and_says_how_to_show_one(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.add_account(ANA)
        key, other = served.make_key(ANA, "messages:read"), served.make_key(ANA, "messages:read")
        for wrong in ({**key, "key": other["key"]}, {**key, "key": "x"}, {**key, "id": ANA}, {"id": ANA, "key": PASSWORD}):
            answer = ask(served, wrong)
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
            assert answer.headers["WWW-Authenticate"].startswith('Basic realm="')
        assert served.http.post("/oauth/token", data=GRANT).status_code == 401


def test_body_that_is_no_form_is_an_invalid_request(served: Served, key: dict[str, Any]) -> None:
    auth = httpx.BasicAuth(key["id"], key["key"])
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for body in ({"json": GRANT}, {"content": b"x=1&x=2", "headers": form}, {"content": b"\xff", "headers": form}, {}):
        answer = served.http.post("/oauth/token", auth=auth, **body)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_expired_key_gets_no_token(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.add_account(ANA)
        key = served.make_key(ANA, "messages:read", expires_in=60)
        assert ask(served, key).status_code == 200
        served.clock.advance(61)
        assert ask(served, key).status_code == 401


# Which tokens are taken


class Issuer:
    """A server's tokens, at a time that can be set."""

    def __init__(self, folder: Path) -> None:
        keyfile.create(folder / "key.json")
        self.clock = SetClock()
        self.key_file = KeyFile(folder / "key.json")
        access = open_accounts(Settings(key_file=folder / "key.json"), self.key_file, self.clock)
        assert access
        self.access: Access = access
        given = {"email": ANA, "first_name": "A", "last_name": "B", "roles": ["auditor"], "password": PASSWORD}
        self.account: Account = access.accounts.add(Actor(way="command"), given)[0]
        owner = Actor(self.account, self.account.scopes)
        self.key: ApiKey = access.credentials.make_key(owner, "key", self.account.scopes, 90 * 86_400)[0]

    @property
    def tokens(self) -> Tokens:
        return self.access.tokens

    def token(self) -> str:
        return self.tokens.sign(URL, self.key, self.account, "messages:read audit:read")

    def forged(self, signing: Any = None, alg: str = "RS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token like a good one, but for what is given; None leaves a claim out."""
        now = self.clock.at // 1000
        own = self.tokens.keys.signing()
        good = {"iss": URL, "aud": URL, "sub": self.account.id, "client_id": self.key.id, "scope": "audit:read"}
        document = {**good, "iat": now, "exp": now + 600, "jti": "x", **claims}
        document = {name: value for name, value in document.items() if value is not None}
        return jwt.encode({"alg": alg, "typ": "at+jwt", "kid": own.kid, **(header or {})}, document, signing or own, [alg])

    def taken(self, token: str) -> bool:
        try:
            actor = self.tokens.by_token(token, URL, "")
        except WrongCredentials:
            return False
        return actor.account is not None


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    made = Issuer(tmp_path)
    yield made
    made.access.store.close()


def unsigned(token: str, alg: str, signature: str = "") -> str:
    head, claims, _ = token.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    header["alg"] = alg
    return f"{base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip('=')}.{claims}.{signature}"


def signed_with_password(token: str, password: bytes) -> str:
    """The token as HS256 has it, whose one key both signs and verifies."""
    text = unsigned(token, "HS256")
    signature = hmac.digest(password, text.rpartition(".")[0].encode(), "sha256")
    return text + base64.urlsafe_b64encode(signature).decode().rstrip("=")


def test_token_of_another_make_is_not_taken(issuer: Issuer) -> None:
    """Signed by nobody, by the public key as a password, by another key, for something else, or elsewhere."""
    own = issuer.tokens.keys.signing()
    good = issuer.token()
    assert issuer.taken(good)
    assert issuer.taken(issuer.forged()), "what is changed below is all that is wrong"
    public = own.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    now = issuer.clock.at // 1000
    bad = {
        "none": unsigned(good, "none"),
        "None": unsigned(good, "None"),
        "none, with the signature": unsigned(good, "none", good.split(".")[2]),
        "HS256 with the public key": signed_with_password(good, public),
        "another key": issuer.forged(RSAKey.generate_key(2048)),
        "another algorithm of ours": issuer.forged(RSAKey.import_key(own.as_pem(private=True)), "PS256"),
        "an unknown kid": issuer.forged(header={"kid": "x"}),
        "a kid that is none": issuer.forged(header={"kid": ""}),
        "typ JWT": issuer.forged(header={"typ": "JWT"}),
        "typ of a logout token": issuer.forged(header={"typ": "logout+jwt"}),
        "expired": issuer.forged(exp=now),
        "without an end": issuer.forged(exp=None),
        "end as text": issuer.forged(exp=str(now + 600)),
        "from the future": issuer.forged(iat=now + 60),
        "not yet": issuer.forged(nbf=now + 60),
        "another issuer": issuer.forged(iss="http://evil.example"),
        "no issuer": issuer.forged(iss=None),
        "for another server": issuer.forged(aud="http://evil.example"),
        "for nobody": issuer.forged(aud=None),
        "for an empty list": issuer.forged(aud=[]),
        "of an account that is not the key's": issuer.forged(sub="00000000-0000-4000-8000-000000000000"),
        "of nobody": issuer.forged(sub=None),
        "of no key": issuer.forged(client_id=None),
        "of an empty key": issuer.forged(client_id=""),
        "of a key that is not": issuer.forged(client_id="00000000-0000-4000-8000-000000000000"),
        "of a key that is a number": issuer.forged(client_id=0),
        "changed": good[:-10] + ("A" if good[-10] != "A" else "B") + good[-9:],
        "without its signature": good.rpartition(".")[0] + ".",
        "too long": good + "A" * 10_000,
    }
    assert [name for name, token in bad.items() if issuer.taken(token)] == []


def test_token_says_less_than_its_key_and_never_more(issuer: Issuer) -> None:
    actor = issuer.tokens.by_token(issuer.forged(scope="audit:read accounts:manage nonsense"), URL, "")
    assert actor.scopes == {"audit:read"}
    assert issuer.tokens.by_token(issuer.forged(scope="x"), URL, "").scopes == frozenset()


def test_token_ends_with_its_time_its_key_its_account_and_its_role(issuer: Issuer) -> None:
    operator = Actor(issuer.account, issuer.account.scopes)
    token = issuer.token()
    issuer.clock.advance(TOKEN_SECONDS * 1000 - 1000)
    assert issuer.taken(token)
    issuer.clock.advance(1000)
    assert not issuer.taken(token)
    token = issuer.token()
    issuer.access.accounts.change(Actor(way="command"), issuer.account.id, {"roles": []})
    assert issuer.tokens.by_token(token, URL, "").scopes == {"messages:read"}
    issuer.access.accounts.change(Actor(way="command"), issuer.account.id, {"enabled": False})
    assert not issuer.taken(token)
    issuer.access.accounts.change(Actor(way="command"), issuer.account.id, {"enabled": True})
    assert issuer.taken(token)
    issuer.access.credentials.revoke_key(operator, issuer.key.id)
    assert not issuer.taken(token)


# The keys that sign


def test_next_key_is_published_before_it_signs_and_the_old_one_until_its_tokens_have_ended(issuer: Issuer) -> None:
    keys = issuer.tokens.keys

    def published() -> list[str]:
        keys.look_after()
        return [key.kid for key in keys.published()]

    first = keys.signing().kid
    assert published() == [first], "the very first signs at once"
    issuer.clock.advance(SIGNING_DAYS * 86_400_000 - 1)
    assert (published(), keys.signing().kid) == ([first], first)
    issuer.clock.advance(1)
    _, second = published()
    assert keys.signing().kid == first
    issuer.clock.advance(PUBLISHED_SECONDS * 1000 - 1)
    assert keys.signing().kid == first
    last = issuer.token()
    issuer.clock.advance(1)
    assert keys.signing().kid == second
    issuer.clock.advance(TOKEN_SECONDS * 1000 - 1001)
    assert published() == [first, second]
    assert issuer.taken(last)
    issuer.clock.advance(2 * PUBLISHED_SECONDS * 1000)
    assert published() == [second]
    assert issuer.taken(issuer.token())


def test_two_nodes_that_need_a_key_at_once_make_one(issuer: Issuer) -> None:
    other = SigningKeys(issuer.access.store, issuer.key_file)
    assert issuer.tokens.keys.signing().kid == other.signing().kid
    issuer.clock.advance(SIGNING_DAYS * 86_400_000)
    issuer.tokens.keys.look_after()
    other.look_after()
    assert len(other.published()) == 2


def test_signing_keys_are_sealed_under_the_key_file_and_survive_its_rotation(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    token = issuer.token()
    ((name, (_, sealed)),) = issuer.access.store.secrets("oauth/").items()
    assert b"\x30\x82" not in sealed[:100], "no DER in the open"
    old = issuer.key_file.ring().current
    keyfile.rotate(tmp_path / "key.json", datetime.now(UTC) - timedelta(days=9))
    fresh = KeyFile(tmp_path / "key.json")
    reseal(issuer.access.store, fresh)
    keyfile.drop(tmp_path / "key.json", old, datetime.now(UTC))
    again = open_accounts(Settings(key_file=tmp_path / "key.json"), KeyFile(tmp_path / "key.json"), issuer.clock)
    assert again
    assert again.tokens.by_token(token, URL, "").account == issuer.account
    assert again.store.secrets("oauth/")[name][1] != sealed


def test_nothing_of_a_token_is_imported_before_one_is_asked_for() -> None:
    """It takes 50 ms of each start, and most servers never give a token."""
    code = "import server, sys; print([name for name in ('authlib', 'joserfc') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
