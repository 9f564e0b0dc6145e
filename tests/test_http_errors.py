"""Errors: RFC 9457 documents, pages and lines of text, each with what to do next; never more than that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.serving import Served

HTML = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"


@dataclass(frozen=True)
class Case:
    """A request, and the status it is refused with."""

    status: int
    method: str
    path: str
    how: dict[str, Any] = field(default_factory=dict)


CASES = {
    "unknown field": Case(400, "POST", "/", {"json": {"message": "hi", "x": "y"}}),
    "value out of bounds": Case(400, "POST", "/", {"json": {"message": "hi", "views": 0}}),
    "not JSON": Case(400, "POST", "/", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    "another host": Case(400, "GET", "/", {"headers": {"Host": "evil.example"}}),
    "no tick": Case(400, "POST", "{limited}", {"data": {"open": "no"}}),
    "malformed key": Case(400, "POST", "{limited}", {"headers": {"Idempotency-Key": "short"}}),
    "no key to end": Case(400, "DELETE", "{limited}"),
    "no burn": Case(400, "POST", "{receipt}", {"json": {}}),
    "no admin token": Case(401, "POST", "/delete"),
    "no session": Case(401, "POST", "/admin", {"data": {"do": "purge", "form_token": "x"}}),
    "no passphrase": Case(403, "POST", "{locked}"),
    "wrong passphrase": Case(403, "POST", "{locked}", {"json": {"passphrase": "wrong"}}),
    "no proof": Case(403, "POST", "{document}"),
    "wrong proof": Case(403, "POST", "{document}", {"json": {"proof": "x" * 43}}),
    "prefetch": Case(403, "GET", "{limited}", {"headers": {"Sec-Purpose": "prefetch;prerender"}}),
    "foreign form": Case(403, "POST", "/admin", {"data": {"do": "purge"}, "headers": {"Sec-Fetch-Site": "cross-site"}}),
    "no message": Case(404, "GET", f"/message/{uuid4()}"),
    "no receipt": Case(404, "GET", "/receipt/x"),
    "no page": Case(404, "GET", "/none"),
    "no file": Case(404, "GET", "/static/none"),
    "not by GET": Case(405, "GET", "{limited}"),
    "not that method": Case(405, "PUT", "/"),
    "chunked": Case(411, "POST", "/", {"content": iter([b"hi"])}),
    "too large": Case(413, "POST", "/", {"content": b"x" * (1024 * 1024 + 1), "headers": {"Content-Type": "text/plain"}}),
    "compressed": Case(415, "POST", "/", {"content": b"x", "headers": {"Content-Encoding": "gzip"}}),
    "image": Case(415, "POST", "/", {"content": b"x", "headers": {"Content-Type": "image/png"}}),
}


@pytest.fixture(scope="module")
def paths(served: Served) -> dict[str, str]:
    limited, locked = served.create("hello", views=100), served.create("hello", views=1, passphrase="right")
    document = {"document": {"v": 2, "adata": [], "ct": "AAAA"}, "proof": "p" * 43, "views": 1}
    encrypted = served.http.post("/", json=document).headers["Location"]
    return {
        "limited": limited.path,
        "locked": locked.path,
        "receipt": limited.receipt_path,
        "document": encrypted.removeprefix(served.url),
    }


def ask(served: Served, case: Case, paths: dict[str, str], accept: str) -> httpx.Response:
    how = dict(case.how)
    headers = {"Accept": accept, **how.pop("headers", {})}
    if "content" in how and not isinstance(how["content"], bytes):
        how["content"] = iter([b"hi"])
    return served.http.request(case.method, case.path.format(**paths), headers=headers, **how)


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """RFC 9457 section 3: what each member holds; the status is the response's. A message that waits says for what."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.content)
    members = {"type", "title", "status", "detail"}
    if problem["title"] == "Waiting to be opened":
        assert set(problem) == members | {"expires_at", "views_left", "needs_passphrase", "encryption"}
    else:
        assert members <= set(problem) <= members | {"field", "tries_left"}
    assert problem["type"] == "about:blank"
    assert problem["status"] == status
    assert all(isinstance(problem[name], str) and problem[name] for name in ("title", "detail"))
    return dict(problem)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_error_is_told_as_document_page_and_line(served: Served, paths: dict[str, str], case: Case) -> None:
    """All three say the same, and say more than a number."""
    if case.status == 405 and "{limited}" in case.path:
        kinds = ["application/json", "text/plain"]  # a browser gets the page to open it
    else:
        kinds = ["application/json", "text/plain", HTML]
    problem = assert_problem(ask(served, case, paths, kinds[0]), case.status)
    assert len(problem["detail"]) > 15

    line = ask(served, case, paths, kinds[1])
    assert (line.status_code, line.headers["Content-Type"]) == (case.status, "text/plain; charset=utf-8")
    assert line.text.endswith("\n")
    assert line.text.count("\n") == 1
    without_count = [re.sub(r"left: .*", "", text) for text in (line.text.strip(), problem["detail"])]
    assert without_count[0] == without_count[1]

    for accept in kinds[2:]:
        page = ask(served, case, paths, accept)
        assert (page.status_code, page.headers["Content-Type"]) == (case.status, "text/html; charset=utf-8")
        assert page.text.startswith("<!doctype html>")
        shown = re.sub("<template.*?</template>", "", page.text, flags=re.DOTALL)
        assert shown.count("<h1") == 1


def test_method_not_allowed_says_which_are(served: Served, paths: dict[str, str]) -> None:
    """RFC 9110 section 15.5.6."""
    assert ask(served, CASES["not by GET"], paths, "*/*").headers["Allow"] == "POST, DELETE"
    allowed = {
        "/": {"GET", "HEAD", "POST"},
        paths["limited"]: {"GET", "HEAD", "POST", "DELETE"},
        paths["receipt"]: {"GET", "HEAD", "POST", "DELETE"},
        "/admin": {"GET", "HEAD", "POST"},
        "/delete": {"POST"},
        "/healthz": {"GET", "HEAD"},
        "/readyz": {"GET", "HEAD"},
        "/static/mayfly.css": {"GET", "HEAD"},
    }
    for path, methods in allowed.items():
        answer = served.http.request("PUT", path)
        assert answer.status_code == 405
        assert set(answer.headers["Allow"].split(", ")) - {"OPTIONS"} == methods, path


def test_401_says_how_to_sign_in(served: Served) -> None:
    """RFC 9110 section 15.5.2."""
    for answer in (served.http.post("/delete"), served.http.post("/admin", data={"token": "x"}, headers={"Accept": HTML})):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mayfly"'


def test_wrong_passphrase_tells_the_tries_left_in_its_own_member(own_served: Served) -> None:
    message = own_served.create("hello", passphrase="right")
    problem = assert_problem(own_served.http.post(message.path, json={"passphrase": "wrong"}), 403)
    assert problem["tries_left"] == 4
    assert "tries_left" not in assert_problem(own_served.http.post(message.path, json={}), 403)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    """A store of a mebibyte, full."""
    with Served(tmp_path_factory.mktemp("full"), MAYFLY_STORE_BYTES="1048576", MAYFLY_MAX_MESSAGE_BYTES="400000") as served:
        while served.http.post("/", json={"message": "x" * 100_000}).status_code == 201:
            pass
        yield served


@pytest.mark.parametrize("accept", ["application/json", "text/plain", HTML])
def test_full_store_answers_503_and_when_to_come_back(full: Served, accept: str) -> None:
    answer = full.http.post("/", data={"message": "x" * 200_000}, headers={"Accept": accept})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "full" in answer.text
    if "json" in accept:
        assert_problem(answer, 503)


def test_limit_answers_429_and_when_to_come_back(tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_CREATE_RATE="1") as served:
        for accept in ("application/json", "text/plain", HTML):
            answers = [served.http.post("/", data={"message": "hi"}, headers={"Accept": accept}) for _ in range(3)]
            last = answers[-1]
            assert last.status_code == 429
            assert 1 <= int(last.headers["Retry-After"]) <= 60
            if "json" in accept:
                assert_problem(last, 429)


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("/", {"data": {"message": "hi", "<script>alert(1)</script>": "c4n4ry"}}),
        ("/", {"json": {"message": "hi", "views": "<img src=x onerror=c4n4ry>"}}),
        ("/", {"content": b"c4n4ry<script>", "headers": {"Content-Type": "application/json"}}),
        ("/", {"content": b"hi", "headers": {"Content-Type": "text/<script>c4n4ry"}}),
        ("/", {"content": b"hi", "headers": {"Content-Type": "text/plain; charset=c4n4ry<script>"}}),
        ("/", {"content": b"hi", "headers": {"Host": "c4n4ry<script>"}}),
        ("/message/c4n4ry<script>", {}),
        ("/message/{limited}", {"headers": {"Idempotency-Key": "c4n4ry<script>alert(1)</script>"}}),
        ("/admin", {"data": {"token": "c4n4ry<script>"}}),
        ("/admin", {"data": {"c4n4ry<script>": "x"}}),
        ("/delete", {"headers": {"Authorization": "Bearer c4n4ry<script>"}}),
        ("/c4n4ry<script>", {}),
        ("/static/c4n4ry<script>", {}),
    ],
)
def test_errors_repeat_nothing_that_was_sent(served: Served, path: str, how: dict[str, Any]) -> None:
    for accept in (HTML, "application/json", "text/plain"):
        headers = {"Accept": accept, **how.get("headers", {})}
        answer = served.http.post(path, **{**how, "headers": headers})
        assert 400 <= answer.status_code < 500
        told = answer.text + str(answer.headers.multi_items())
        assert "c4n4ry" not in told
        assert "<script>" not in told
