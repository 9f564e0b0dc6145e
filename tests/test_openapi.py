"""The API's description: all routes are in it, it is valid, and its examples are run as they stand, by curl."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from flask import Flask
from jsonschema import Draft202012Validator, FormatChecker
from markupsafe import escape
from openapi_spec_validator import OpenAPIV31SpecValidator

import keyfile
from metrics import Metrics
from records import SCOPES
from server import open_accounts, open_vaults
from settings import Settings
from tests.requirements import require_program
from tests.serving import Served
from web.app import build_app, declared_in
from web.authentication import NEEDS, Authentication
from web.description import Example, examples, schemas
from web.description.document import NEEDED, ROUTES, document
from web.description.page import form
from web.errors import PROBLEM_JSON
from web.handlers import Handlers
from web.limits import Limits
from web.scrape import Scrape

PROXY = "a-secret-that-only-the-proxy-knows"
EVERY_EXAMPLE = [(name, example) for name, route in ROUTES.items() for example in route.examples]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """All routes of a server with everything turned on."""
    key_file = tmp_path_factory.mktemp("app") / "key.json"
    keyfile.create(key_file)
    settings = Settings(key_file=key_file, metrics_token="t" * 32)
    vaults = open_vaults(settings)
    access = open_accounts(settings, vaults[0].keys)
    assert access
    authentication = Authentication(settings, vaults[0].keys, Limits(0), access)
    yield build_app([Handlers(vault, settings) for vault in vaults], authentication, Scrape(vaults, Metrics()))
    access.store.close()
    for vault in vaults:
        vault.store.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    with Served(
        tmp_path_factory.mktemp("served"), MAYFLY_METRICS_TOKEN=examples.METRICS_TOKEN, MAYFLY_PROXY_SECRET=PROXY
    ) as running:
        running.add_account(examples.EMAIL, "admin", password=examples.PASSWORD)
        running.add_authority()
        yield running


@pytest.fixture(scope="module")
def described(served: Served) -> dict[str, Any]:
    """The served document."""
    answer = served.http.get("/openapi.json")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    return dict(answer.json())


@pytest.fixture(scope="module")
def program(served: Served) -> Iterator[Program]:
    made = Program(served)
    yield made
    made.http.close()


def test_every_route_of_the_url_map_is_described_and_no_other(app: Flask) -> None:
    assert set(declared_in(app)) == set(ROUTES)


def test_every_route_has_an_example_and_a_name_of_its_own() -> None:
    assert [name for name, route in ROUTES.items() if not route.examples] == []
    assert len({route.name for route in ROUTES.values()}) == len(ROUTES)


def test_route_without_a_description_stops_the_document(app: Flask) -> None:
    with pytest.raises(KeyError, match="GET /new"):
        document({**declared_in(app), "GET /new": "anyone"}, True, False)


def test_served_document_holds_all_routes(app: Flask, described: dict[str, Any]) -> None:
    found = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert found == {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route) for route in declared_in(app)}


def test_document_is_valid_openapi(described: dict[str, Any]) -> None:
    assert described["openapi"] == "3.1.0"
    assert [str(error) for error in OpenAPIV31SpecValidator(described).iter_errors()] == []


def test_route_that_a_server_does_not_have_is_not_in_its_document(app: Flask) -> None:
    without = {route: need for route, need in declared_in(app).items() if route != "GET /metrics"}
    assert "/metrics" not in document(without, True, False)["paths"]


def test_who_may_is_told_as_the_routes_declare_it(app: Flask) -> None:
    """Each need has its words and its credentials; creating has those that MAYFLY_CREATE gives it."""
    assert set(NEEDED) == NEEDS
    declared = declared_in(app)
    open_to_all, for_accounts = document(declared, True, False)["paths"], document(declared, False, False)["paths"]
    assert open_to_all["/"]["post"]["security"] == []
    scopes = ["messages:create"]
    by_scope = [{"session": scopes}, {"password": scopes}, {"key": scopes}, {"oauth": scopes}]
    assert for_accounts["/"]["post"]["security"] == by_scope
    for route, need in declared.items():
        method, _, path = route.partition(" ")
        operation = open_to_all[re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)][method.lower()]
        assert operation["description"] == NEEDED[need]
        assert (operation["security"] == []) == (need in ("anyone", "create"))
        assert ("401" in operation["responses"]) == (need not in ("anyone", "create")) or route in (
            "POST /sign-in",
            "POST /oauth/token",
        )


def test_cookies_and_addresses_are_those_of_this_server(tmp_path: Path) -> None:
    """Over https a cookie has another name, and the examples begin with the public URL."""
    with Served(tmp_path, MAYFLY_PUBLIC_URL="https://messages.example.org", MAYFLY_TRUSTED_HOSTS="127.0.0.1") as served:
        text = served.http.get("/openapi.json").text
        page = served.http.get("/docs", headers={"Accept": "text/html"}).text
    names = {one.get("name") for one in json.loads(text)["components"]["securitySchemes"].values()}
    assert {"__Host-mayfly", "__Host-mayfly-admin"} <= names
    assert examples.BASE not in text + page
    assert "https://messages.example.org/message/" in text


def test_page_holds_every_route_with_its_examples_and_fields(described: dict[str, Any], served: Served) -> None:
    """The document is all that it is made of. It runs no script."""
    page = served.http.get("/docs", headers={"Accept": "text/html"}).text
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert f"<code>{method.upper()} {path}</code> {escape(operation['summary'])}" in page
            assert all(str(escape(sample["source"])) in page for sample in operation["x-codeSamples"])
    for name in schemas.REQUESTS:
        for field, schema in described["components"]["schemas"][name]["properties"].items():
            assert re.search(f"<dt><code>{field}</code></dt><dd>[^<]*{re.escape(str(escape(form(schema))))}", page), (name, field)
    assert "60 to 604800 or null; default 604800" in page
    assert "<script" not in page


def test_page_is_told_in_a_language_and_of_whoever_looks(served: Served) -> None:
    """What is kept of it holds nothing of a visitor."""
    with served.signed_in(examples.EMAIL, examples.PASSWORD, Accept="text/html") as somebody:
        for _ in range(2):
            assert 'action="/sign-out' in somebody.get("/docs").text
            assert 'action="/sign-out' not in served.http.get("/docs", headers={"Accept": "text/html"}).text
        assert "O que programas podem pedir" in somebody.get("/docs?lang=pt-BR").text


# Examples


@pytest.mark.parametrize(("route", "example"), EVERY_EXAMPLE, ids=[f"{route}: {example.what}" for route, example in EVERY_EXAMPLE])
def test_example_answers_as_it_says(
    route: str, example: Example, served: Served, program: Program, described: dict[str, Any]
) -> None:
    """Each is run by curl as it stands, but for the values of this server; the answer is of its status, type and schema."""
    require_program("curl")
    method, _, rule = route.partition(" ")
    operation = described["paths"][re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)][method.lower()]
    line = next(sample["source"] for sample in operation["x-codeSamples"] if sample["label"] == example.what)
    with _values(served, program, route, example) as values:
        for shown, own in values.items():
            line = line.replace(shown, own)
        if rule.startswith("/sealed/<link_id>"):  # through a proxy, to which curl would show it
            line += "".join(f" -H '{name}: {value}'" for name, value in program.certificate.items())
        status, headers, body = _curl(line)
    assert status == example.status, body
    told = _resolved(described, operation["responses"][str(status)])
    assert {name.lower() for name in told.get("headers", {})} <= set(headers)
    kind = headers.get("content-type", "").partition(";")[0]
    if "content" not in told:
        assert body == ""
    else:
        assert kind in told["content"]
    if kind in ("application/json", PROBLEM_JSON):
        schema = told["content"][kind]["schema"]
        answer = json.loads(body)
        require_of_schema(described, schema, answer)
        if example.answer is not None:
            require_of_schema(described, schema, example.answer)
            assert _without_chance(answer) == _without_chance(example.answer)
    elif isinstance(example.answer, str):
        assert _without_chance(body) == _without_chance(example.answer)


def _curl(line: str) -> tuple[int, dict[str, str], str]:
    """Run a line as a shell does, and return status, headers (in lower case) and body."""
    ran = subprocess.run(
        ["bash", "-c", line.replace("curl ", "curl -s -i ", 1)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=30,
        check=True,
    )
    head, _, body = ran.stdout.replace("\r\n", "\n").partition("\n\n")
    status, *lines = head.split("\n")
    return int(status.split(" ")[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}, body


def require_of_schema(described: Mapping[str, Any], schema: Mapping[str, Any], value: object) -> None:
    """Fail unless a value is of a schema of the document."""
    whole = {**schema, "components": described["components"]}
    checked = Draft202012Validator(whole, format_checker=FormatChecker())
    assert [f"{error.json_path}: {error.message}" for error in checked.iter_errors(value)] == []


def _resolved(described: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, Any]:
    return described["components"]["responses"][told["$ref"].rpartition("/")[2]] if "$ref" in told else told


_CHANCE = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
    (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", "<time>"),
    (r"http://127.0.0.1:\d+", "<server>"),
    (r"/receipt/[A-Za-z0-9_-]{64}", "/receipt/<token>"),
    (r"/password/[A-Za-z0-9_-]{43}", "/password/<secret>"),
    (r"mayfly_[A-Za-z0-9_-]{43}", "<key>"),
    (r"whsec_[A-Za-z0-9+/=]{44}", "<secret>"),
    (r'"number":\d+', '"number":4711'),
    (r"\b[0-9a-f]{64}\b", "<mac>"),
    (r"\b[0-9a-f]{40}\b", "<serial>"),
    (r"\b\d{4}-\d{2}-[a-z0-9]{4}\b", "<key id>"),
    (r"eyJ[A-Za-z0-9_.-]+…?", "<jwt>"),
)


def _without_chance(value: Any) -> Any:
    """An answer with what every server has of its own put alike."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for pattern, alike in _CHANCE:
        text = re.sub(pattern, alike, text)
    return text if isinstance(value, str) else json.loads(text)


# What examples are about: a message, an account, a key that is there


@contextmanager
def _values(served: Served, program: Program, route: str, example: Example) -> Iterator[dict[str, str]]:
    """What this server has for the values that stand in an example."""
    values = {
        examples.BASE: served.url,
        examples.ADMIN_TOKEN: served.admin_token,
        examples.API_KEY: program.key["key"],
        examples.KEY_ID: program.key["id"],
    }
    path = route.partition(" ")[2]
    vault = {"guarded": "/guarded", "sealed": "/sealed"}.get(path.split("/")[1], "/")
    if "<link_id>" in path or "/receipt/" in path or "link" in (example.body or ()):
        views = {} if example.answer and '"views_left": null' in json.dumps(example.answer) else {"views": 1}
        made = program.ask("POST", vault, {"message": "The door code is 4711", **views})
        values |= {examples.LINK_ID: made["id"], examples.RECEIPT_TOKEN: made["receipt"].rpartition("/")[2]}
        if route.startswith("DELETE") and "<link_id>" in path:
            opening = {"idempotency_key": examples.IDEMPOTENCY}
            program.ask("POST", urlsplit(made["link"]).path, opening, program.certificate if vault == "/sealed" else {})
    if path.startswith(("/accounts", "/password", "/certificates", "/ca")):
        program.forget_rui()
    if "<account_id>" in path or path.startswith(("/password", "/certificates", "/ca/")):
        rui = program.ask("POST", "/accounts", {"email": RUI, "first_name": "Rui", "last_name": "Costa", "roles": ["support"]})
        values |= {examples.ACCOUNT_ID: rui["id"], examples.LINK_SECRET: rui["password_link"].rpartition("/")[2]}
    if path.startswith(("/certificates", "/ca/")):
        csr = new_csr()
        made = program.ask("POST", "/certificates", {"account": rui["id"], "csr": csr})
        values |= {examples.CERTIFICATE_ID: made["id"], examples.ISSUER_ID: made["issuer"]}
        values |= {json.dumps(examples.CSR)[1:-1]: json.dumps(csr)[1:-1]}
    if path == "/delete":
        served.purge()  # what was opened half a minute ago
    if path.startswith("/webhooks"):
        values |= program.webhook()
    if "<number>" in path:
        program.forget_rui()
        rui = program.ask("POST", "/accounts", {"email": RUI, "first_name": "Rui", "last_name": "Costa", "roles": []})
        program.ask("POST", "/certificates", {"account": rui["id"], "csr": new_csr()})
        told = program.ask("GET", f"/webhooks/{values[examples.HOOK_ID]}/deliveries")["deliveries"]
        values[f"/{examples.DELIVERY_NUMBER}"] = f"/{told[0]['number']}"
    if path.startswith(("/keys", "/admin/keys")):
        program.revoke_others()
    if "<key_id>" in path:
        values[examples.KEY_ID] = served.make_key(examples.EMAIL, "messages:read", password=examples.PASSWORD)["id"]
    yield values
    if path == "/account/password":
        fields = {"old": example.body["new"], "new": examples.PASSWORD} if isinstance(example.body, dict) else {}
        served.http.post(path, json=fields, auth=(examples.EMAIL, fields["old"])).raise_for_status()


def new_csr() -> str:
    """A certificate signing request. All examples are made with the same key, for one of them follows a certificate of it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(_KEY, SHA256()).public_bytes(Encoding.PEM).decode()


_KEY = generate_private_key(SECP256R1())
RUI = "rui@example.com"


class Program:
    """Somebody with an API key of the examples' account, which may do whatever an admin may."""

    def __init__(self, served: Served) -> None:
        self.key = served.make_key(examples.EMAIL, *SCOPES, password=examples.PASSWORD, name="backups")
        self.http = httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {self.key['key']}"}, timeout=30)
        self.served = served

    @cached_property
    def certificate(self) -> dict[str, str]:
        """What a proxy says of a program that shows a certificate of that account."""
        account = self.ask("GET", "/account")["id"]
        made = self.ask("POST", "/certificates", {"account": account, "csr": new_csr()})
        der = x509.load_pem_x509_certificates(made["pem"].encode())[0].public_bytes(Encoding.DER)
        return {"Mayfly-Proxy-Secret": PROXY, "Client-Cert": f":{base64.b64encode(der).decode()}:"}

    def ask(self, method: str, path: str, fields: dict[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> Any:
        answer = self.http.request(method, path, json=fields or {}, headers={"Accept": "application/json", **(headers or {})})
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def forget_rui(self) -> None:
        for account in self.ask("GET", "/accounts")["accounts"]:
            if account["email"] == RUI:
                self.ask("DELETE", f"/accounts/{account['id']}")

    def webhook(self) -> dict[str, str]:
        """Leave one webhook, and what it is to be told."""
        for hook in self.ask("GET", "/webhooks")["webhooks"]:
            self.ask("DELETE", f"/webhooks/{hook['id']}")
        events = ["certificate.created", "certificate.revoked"]
        return {examples.HOOK_ID: self.ask("POST", "/webhooks", {"url": examples.HOOK_URL, "events": events})["id"]}

    def revoke_others(self) -> None:
        """Leave no key but this one."""
        owner = httpx.BasicAuth(examples.EMAIL, examples.PASSWORD)
        listed = self.served.http.get("/keys", auth=owner, headers={"Accept": "application/json"}).json()["keys"]
        for key in listed:
            if key["id"] != self.key["id"]:
                self.served.http.delete(f"/keys/{key['id']}", auth=owner).raise_for_status()
