"""Every response carries the whole set of headers, once each; nothing that tells of the server or of the reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests import raw
from tests.serving import CreatedMessage, Served, Server

FORM = ("Content-Type", "application/x-www-form-urlencoded")
CSP = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
ALWAYS = {
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex, nofollow, noarchive",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
}
ACCEPTS = ["text/html", "application/json", "text/plain", "*/*"]
PATHS = [
    "/", "/message/live", "/message/limited", "/message/locked", "/message/none", "/message/malformed",
    "/receipt/live", "/receipt/none",
    "/admin", "/delete", "/healthz", "/readyz", "/static/mayfly.css", "/static/icon.svg", "/static/none", "/none",
    "//", "/message/%ff",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "TRACE"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), server) as running:
        yield running


@pytest.fixture(scope="module")
def messages(served: Served) -> dict[str, CreatedMessage]:
    return {
        "live": served.create("hello"),
        "limited": served.create("hello", views=100),
        "locked": served.create("hello", passphrase="right"),
    }


def target(path: str, messages: dict[str, CreatedMessage]) -> str:
    _, kind, name = (path + "/").split("/")[:3]
    if kind == "message":
        return messages[name].path if name in messages else path.replace("none", str(uuid4()))
    return messages[name].receipt_path if kind == "receipt" and name in messages else path


def assert_complete(answer: raw.Response) -> None:
    headers = dict(answer.headers)
    names = [name for name, _ in answer.headers]
    assert len(names) == len(set(names)), f"twice: {sorted(names)}"
    for name, value in ALWAYS.items():
        assert headers.get(name) == value, name
    page = headers.get("content-type", "").startswith("text/html")
    policy = headers["content-security-policy"]
    assert policy.startswith(CSP)
    if page:
        directives = dict(directive.strip().partition(" ")[::2] for directive in policy.split(";"))
        assert directives["require-trusted-types-for"] == "'script'"
        assert "trusted-types" in directives
        assert directives["form-action"] == "'self'"
        allowed = {source for name, sources in directives.items() if name.endswith("-src") for source in sources.split()}
        assert allowed <= {"'none'", "'self'"}
    else:
        assert policy == CSP
    features = dict(feature.split("=") for feature in headers["permissions-policy"].split(", "))
    assert {name for name, allowed_for in features.items() if allowed_for != "()"} == {"clipboard-write", "web-share"}
    assert {features[name] for name in ("clipboard-write", "web-share")} == {"(self)"}
    assert {"camera", "microphone", "geolocation", "payment", "usb", "clipboard-read", "display-capture"} <= set(features)
    assert not re.search(r"[0-9]", headers.get("server", "")), "a version of the server"
    assert not {"x-powered-by", "via", "set-cookie", "etag", "last-modified", "strict-transport-security"} & set(names)
    assert not any(name.startswith("access-control-") for name in names)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_the_whole_set(served: Served, messages: dict[str, CreatedMessage], path: str) -> None:
    """Each route, method and kind; also what is not there, not allowed, or not understood."""
    seen = set()
    for method in METHODS:
        for accept in ACCEPTS:
            body = b"views=x" if method == "POST" else b""
            (answer,) = raw.send(served, raw.request(method, target(path, messages), [("Accept", accept), FORM], body))
            assert_complete(answer)
            assert answer.status < 500
            seen.add(answer.status)
            if method == "HEAD":
                assert not answer.body
            elif answer.status != 204:
                assert answer.header("Content-Length") == str(len(answer.body))
            assert ("WWW-Authenticate" in dict(answer.headers)) is False or answer.status == 401
    assert len(seen) > 1 or seen == {404}


def refusals(served: Served, messages: dict[str, CreatedMessage]) -> dict[str, tuple[int, bytes]]:
    """One request for each refusal of the gate."""
    limited = messages["limited"].path
    return {
        "host": (400, raw.request("GET", "/", host="evil.example")),
        "method": (405, raw.request("PUT", "/")),
        "prefetch": (403, raw.request("GET", limited, [("Sec-Purpose", "prefetch")])),
        "chunked": (411, b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "too large": (413, raw.request("POST", "/", [FORM], length=10**9)),
        "coding": (415, raw.request("POST", "/", [FORM, ("Content-Encoding", "gzip")], b"x")),
        "type": (415, raw.request("POST", "/", [("Content-Type", "image/png")], b"x")),
        "no token": (401, raw.request("POST", "/delete")),
        "foreign form": (403, raw.request("POST", "/admin", [FORM, ("Origin", "http://evil.example")], b"token=x")),
        "wrong passphrase": (403, raw.request("POST", messages["locked"].path, [FORM], b"open=yes&passphrase=wrong")),
        "no passphrase": (403, raw.request("POST", messages["locked"].path, [FORM], b"open=yes")),
        "no tick": (400, raw.request("POST", limited, [FORM], b"open=no")),
        "sign-in": (401, raw.request("POST", "/admin", [FORM, ("Accept", "text/html")], b"token=x")),
    }


def test_every_refusal_carries_the_whole_set(served: Served, messages: dict[str, CreatedMessage]) -> None:
    for name, (status, request) in refusals(served, messages).items():
        (answer,) = raw.send(served, request)
        assert answer.status == status, name
        assert_complete(answer)


def test_every_success_carries_the_whole_set(served: Served) -> None:
    for accept in ACCEPTS:
        (created,) = raw.send(served, raw.request("POST", "/", [("Accept", accept), FORM], b"message=hi&views=2"))
        assert created.status == 201
        assert_complete(created)
        path = (created.header("Location") or "").replace("http://localhost", "")
        for method, headers, body in [
            ("POST", [("Idempotency-Key", "k" * 16)], b""),
            ("DELETE", [("Idempotency-Key", "k" * 16)], b""),
            ("POST", [FORM], b"open=yes"),
        ]:
            (answer,) = raw.send(served, raw.request(method, path, [("Accept", accept), *headers], body))
            assert answer.status in (200, 204)
            assert_complete(answer)


def test_session_of_the_admin_is_the_only_cookie(served: Served) -> None:
    (answer,) = raw.send(served, raw.request("POST", "/admin", [FORM], b"token=" + served.admin_token.encode()))
    assert answer.status == 303
    assert [name for name, _ in answer.headers].count("set-cookie") == 1
    rest = tuple((name, value) for name, value in answer.headers if name != "set-cookie")
    assert_complete(raw.Response(answer.status, rest, answer.body))


def test_head_has_the_headers_of_get(served: Served, messages: dict[str, CreatedMessage]) -> None:
    ours = {"content-type", "content-length", "allow", *ALWAYS, "content-security-policy", "permissions-policy"}
    for path in PATHS:
        if path in ("/admin", "/message/limited", "/message/locked"):  # pages with something fresh in them have fresh lengths
            continue
        for accept in ACCEPTS:
            requests = (raw.request(method, target(path, messages), [("Accept", accept)]) for method in ("GET", "HEAD"))
            (get,), (head,) = (raw.send(served, request) for request in requests)
            assert head.status == get.status
            if not path.startswith("/message/none"):
                assert [pair for pair in head.headers if pair[0] in ours] == [pair for pair in get.headers if pair[0] in ours]


def test_hsts_is_sent_where_a_trusted_proxy_says_https(tmp_path: Path, server: Server) -> None:
    with Served(tmp_path, server, MAYFLY_TRUSTED_PROXIES="127.0.0.1") as served:
        for path in ("/", "/none", "/healthz", "/static/mayfly.css"):
            (https,) = raw.send(served, raw.request("GET", path, [("X-Forwarded-Proto", "https")]))
            assert https.header("Strict-Transport-Security") == "max-age=63072000"
            (refused,) = raw.send(served, raw.request("PUT", path, [("X-Forwarded-Proto", "https")]))
            assert refused.header("Strict-Transport-Security")
            for other in ([], [("X-Forwarded-Proto", "http")], [("X_Forwarded_Proto", "https")], [("Forwarded", "proto=https")]):
                (plain,) = raw.send(served, raw.request("GET", path, other))
                assert plain.header("Strict-Transport-Security") is None


def test_hsts_is_not_sent_to_whoever_claims_https(served: Served) -> None:
    (answer,) = raw.send(served, raw.request("GET", "/", [("X-Forwarded-Proto", "https")]))
    assert_complete(answer)


def test_pages_hold_nothing_inline_and_nothing_of_others(served: Served, messages: dict[str, CreatedMessage]) -> None:
    """No inline style, script or handler, which the policy would block; no address of a third party."""
    for path in PATHS:
        (answer,) = raw.send(served, raw.request("GET", target(path, messages), [("Accept", "text/html")]))
        page = answer.body.decode()
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son[a-z]+=", page)
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', page)
        assert all(address.startswith(("/", "#", "?")) and not address.startswith("//") for address in addresses), addresses
