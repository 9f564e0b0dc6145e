"""The express lane answers as Flask does: the same requests to a server with it and to one without it get the same bytes.

But for what is new in every answer: ids, times and ports are replaced by their kind.
"""

# ruff: noqa: E501 - in the tables, one case a line
from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import werkzeug.test
from hypothesis import HealthCheck, event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import keyfile
from server import create_app
from settings import Settings
from tests import raw
from tests.serving import Served

MAX_MESSAGE_BYTES = 2000
CREATES_A_MINUTE = 4
NO_SUCH_ID = "00000000-0000-4000-8000-000000000000"
KEY = "0123456789abcdef"
_clients = count(1)


@dataclass(frozen=True)
class Pair:
    """The same server twice."""

    express: Served
    flask: Served


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    limits = {
        "MAYFLY_MAX_MESSAGE_BYTES": str(MAX_MESSAGE_BYTES),
        "MAYFLY_CREATE_RATE": str(CREATES_A_MINUTE),
        "MAYFLY_TRUSTED_PROXIES": "127.0.0.1",  # each example is a client of its own
    }
    with (
        Served(tmp_path_factory.mktemp("express"), MAYFLY_EXPRESS="on", **limits) as express,
        Served(tmp_path_factory.mktemp("flask"), MAYFLY_EXPRESS="off", **limits) as flask,
    ):
        yield Pair(express, flask)
        for served in (express, flask):
            assert "Traceback" not in served.log()
            assert "mayfly.faults" not in served.log()


@dataclass(frozen=True)
class Request:
    """One request of a sequence. `{id}` and `{receipt}` in the path are those of the message that create number `of` made."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    of: int = 0


@dataclass
class Client:
    """Somebody who sends the same sequence to one of the two servers."""

    served: Served
    address: str
    made: list[tuple[str, str]] = field(default_factory=list)

    def send(self, request: Request) -> raw.Response:
        link_id, receipt = self.made[request.of % len(self.made)] if self.made else (NO_SUCH_ID, "x" * 64)
        path = request.path.replace("{id}", link_id).replace("{ID}", link_id.upper()).replace("{receipt}", receipt)
        body = request.body.replace(b"{id}", link_id.encode())
        headers = [("X-Forwarded-For", self.address), *request.headers]
        (answer,) = raw.send(self.served, raw.request(request.method, path, headers, body))
        if answer.status == 201:
            self.made.append(self._message(answer))
        return answer

    def _message(self, answer: raw.Response) -> tuple[str, str]:
        receipt = re.search(rb"/receipt/([A-Za-z0-9_-]{64})", answer.body)
        link_id = urlsplit(answer.header("location") or "").path.removeprefix("/message/")
        return link_id, receipt[1].decode() if receipt else "x" * 64


def told(answer: raw.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer without what is new in each."""
    headers = []
    for name, value in answer.headers:
        if name == "allow":  # Flask takes them from a set
            value = ", ".join(sorted(value.split(", ")))
        if name == "retry-after" and answer.status == 429:
            assert 1 <= int(value) <= 60
            value = "SOON"
        headers.append((name, "NOW" if name == "date" else _told(value.encode()).decode()))
    return answer.status, headers, _told(answer.body)


def _told(text: bytes) -> bytes:
    for kind, pattern in (
        (b"TIME", rb"<time .*?</time>|\b20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-9:]{8}Z"),
        (b"ID", rb"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b"),
        (b"TOKEN", rb"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]{64}|[A-Za-z0-9_-]{32})(?![A-Za-z0-9_-])"),
        (b"PORT", rb"(?<=127\.0\.0\.1:)[0-9]+"),
    ):
        text = re.sub(pattern, kind, text)
    return text


def assert_answered_alike(pair: Pair, requests: list[Request]) -> list[int]:
    """Send the sequence to both, then look at what became of each message. Returns the statuses."""
    minute = time.time() // 60
    try:
        return _statuses(pair, requests)
    except AssertionError:
        if time.time() // 60 == minute:
            raise
        return _statuses(pair, requests)  # creates are counted by the minute, and one began between the two servers


def _statuses(pair: Pair, requests: list[Request]) -> list[int]:
    number = next(_clients)
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    express, flask = Client(pair.express, address), Client(pair.flask, address)
    statuses = []
    for request in requests:
        answer = told(express.send(request))
        assert answer == told(flask.send(request)), request
        statuses.append(answer[0])
    assert len(express.made) == len(flask.made)
    for of in range(len(express.made)):
        for path in ("/receipt/{receipt}", "/message/{id}"):
            last = Request("GET", path, (("Accept", "application/json"),), of=of)
            assert told(express.send(last)) == told(flask.send(last)), last
    return statuses


# What requests are made of: mostly right, so that they get far, and each part odd now and then


def mostly(usual: st.SearchStrategy[str], odd: list[str]) -> st.SearchStrategy[str]:
    return st.one_of(usual, usual, usual, st.sampled_from(odd))


ODD_ACCEPTS = [
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json;q=0.5, text/html;q=0.4", "text/*", "application/*",
        "APPLICATION/JSON", "application/problem+json", "image/png", "text/html;q=0", ";;,,q=", "text/plain, */*", "application/json, */*;q=0.9", "\xff",
    ]  # fmt: skip
ACCEPTS = mostly(st.sampled_from(["", "*/*", "application/json", "text/plain", "text/html"]), ODD_ACCEPTS)
ODD_LANGUAGES = ["pt-BR", "pt-PT,pt;q=0.9,en;q=0.8", "en;q=0.5, pt-br;q=0.6", "de", "*", "pt;q=0", "\xff", "x" * 300]
LANGUAGES = st.sampled_from(["", "", *ODD_LANGUAGES])
TYPES = {
    "json": "application/json",
    "text": "text/plain",
    "form": "application/x-www-form-urlencoded",
    "multipart": "multipart/form-data; boundary=b",
}
ODD_TYPES = [
    "", "text/plain; charset=utf-8", "text/plain;charset=latin-1", "Text/Plain", " text/plain", "text/plain ", "text/plain ;x=y", "text/plain2", "text/html",
    "APPLICATION/JSON", "application/json; charset=utf-16", "application/problem+json", "application/json, text/plain", "application/octet-stream",
    "application/x-www-form-urlencoded; charset=utf-8", "application/x-www-form-urlencoded ", "multipart/form-data", "multipart/mixed; boundary=b", "\xff", ";",
]  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.sampled_from(["hi", "<b>&amp;</b>\r\n", "a+b 50% = ?", "\x00", "é" * 999, "x" * MAX_MESSAGE_BYTES, "x" * (MAX_MESSAGE_BYTES + 1), "\r\n\n", "\N{GRINNING FACE}"]),
)  # fmt: skip
VALUES: dict[str, st.SearchStrategy[object]] = {
    "views": st.sampled_from([1, 2, "1", 100, 101, 0, -1, "", None, True, 1.5, "01", " 1", "x", [1], 10**20]),
    "expires_in": st.sampled_from([60, "60", 604800, 59, 604801, "", None, False, "6e1", {}, "x"]),
    "format": st.sampled_from(["text", "markdown", "", "html", None, 1]),
    "passphrase": st.sampled_from(["", "", "", None, 7, "x" * 1025, "right"]),
    "unknown": st.sampled_from(["", 1]),
}
GOOD = {"views": st.sampled_from([1, 2, "1", "", None]), "expires_in": st.sampled_from([60, "604800", ""])}
WRITTEN = st.fixed_dictionaries({"message": st.text("ab<&\n\té€", min_size=1, max_size=40)}, optional=GOOD)
FIELDS = st.one_of(
    WRITTEN, WRITTEN, st.fixed_dictionaries({}, optional={"message": TEXTS | st.sampled_from([None, 1, [], {}]), **VALUES})
)
OPENINGS = st.fixed_dictionaries({}, optional={"open": st.just("yes")}) | st.fixed_dictionaries(
    {},
    optional={
        "open": st.sampled_from(["yes", "no", "", True]),
        "passphrase": st.sampled_from(["", "right", "wrong", None, 1]),
        "idempotency_key": st.sampled_from([KEY, KEY[1:], "", 1, None]),
        "proof": st.sampled_from(["", "x", "A" * 43]),
        "other": st.just("x"),
    },
)
ODD_HEADERS = [
    ("Idempotency-Key", KEY), ("Idempotency-Key", KEY[1:]), ("Idempotency-Key", ""), ("Idempotency_Key", KEY), ("Idempotency-Key", "\xe9" * 20),
    ("Sec-Purpose", "prefetch"), ("Sec-Purpose", "prefetch;prerender"), ("Purpose", "prefetch"), ("X-Moz", "prefetch"), ("Sec-Purpose", "x"),
    ("Cookie", "session=x"), ("Cookie", ""), ("Authorization", "Bearer x"), ("Authorization", ""), ("Content-Encoding", "gzip"),
    ("Content-Encoding", "identity"), ("Host", "evil.example"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "ftp"),
    ("X-HTTP-Method-Override", "DELETE"), ("Origin", "https://evil.example"), ("Range", "bytes=0-1"), ("If-None-Match", "*"),
    ("If-Modified-Since", "Fri, 20 Nov 2026 11:00:00 GMT"), ("X-Original-URL", "/admin"), ("User-Agent", ""), ("Sec-Fetch-Site", "cross-site"),
]  # fmt: skip
HEADERS = st.lists(st.sampled_from(ODD_HEADERS), max_size=2)
ODD_QUERIES = ["?", "?lang=pt-br", "?lang=PT-BR&x=1", "?lang=xx", "?lang=en&lang=pt-br", "?views=1", "?views=1&lang=pt-br", "?views=1&views=2", "?views=%zz", "?message=x",
     "?utm_source=mail", "?%ff", "?a=%00", "?views=101", "?format=markdown", "?expires_in=60&views=2"]  # fmt: skip
QUERIES = mostly(st.sampled_from(["", "", "?lang=pt-br"]), ODD_QUERIES)
ODD_PATHS = ["/message/", "/message", "/message/x", "/message/{id}/", "/message//{id}", "//message/{id}", "/message/{id}/x", "/message/{id}%2f", "/message/%7Bid%7D",
     "/message/{id}%00", "/message/{id}%0a", "/message/%0a", "/message/%2f", "/message/%ff", "/message/caf%c3%a9", "/message/{ID}", "/Message/{id}", "/message/{id};x",
     "/message/{id}.", "/message/.", "/message/..", "/message/../", "/./message/{id}", "/message/%2e%2e/", "/message/{id}%20", "/message/+", "/healthz", "/none",
     "/admin", "/delete", "/guarded", "/guarded/{id}", "/sealed/{id}", "/receipt/x", "/static/mayfly.css", "/static/none", "/%6dessage/{id}", "/message%2f{id}", "*", "/message/" + "x" * 3000]  # fmt: skip
PATHS = mostly(
    st.sampled_from(["/message/{id}", "/message/{id}", "/message/{id}", f"/message/{NO_SUCH_ID}", "/receipt/{receipt}", "/"]),
    ODD_PATHS,
)
ODD_METHODS = ["DELETE", "PUT", "OPTIONS", "PATCH", "TRACE", "get", "Post", "X"]
METHODS = mostly(st.sampled_from(["GET", "POST", "HEAD"]), ODD_METHODS)


@st.composite
def bodies(draw: st.DrawFn, fields: dict[str, object]) -> tuple[str, bytes, str]:
    """Content type, body and query that carry the fields, one way or another; now and then they do not fit one another."""
    kind = draw(st.sampled_from(["json", "json", "text", "form", "form", "multipart"]))
    query = ""
    texts = {name: "" if value is None else str(value) for name, value in fields.items()}
    if kind == "json":
        body = json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    elif kind == "text":
        body = texts.pop("message", "").encode("utf-8", "surrogatepass")
        query = "?" + urlencode(texts) if texts else ""
    elif kind == "form":
        body = urlencode(texts, errors="surrogatepass").encode()
    else:
        part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
        body = ("".join(part.format(name, text) for name, text in texts.items()) + "--b--\r\n").encode("utf-8", "surrogatepass")
    spoiled = draw(st.sampled_from([""] * 12 + ["type", "cut", "byte", "twice", "long"]))
    if spoiled == "cut":
        body = body[: draw(st.integers(0, len(body)))]
    elif spoiled == "byte":
        body += b"\xff"
    elif spoiled == "twice":
        body += body
    elif spoiled == "long":
        body += b" " * draw(st.sampled_from([5000, 64 * 1024, 6 * MAX_MESSAGE_BYTES + 64 * 1024]))
    return draw(st.sampled_from(ODD_TYPES)) if spoiled == "type" else TYPES[kind], body, query


@st.composite
def heads(draw: st.DrawFn, content_type: str = "") -> tuple[tuple[str, str], ...]:
    named = [("Accept", draw(ACCEPTS)), ("Accept-Language", draw(LANGUAGES)), ("Content-Type", content_type)]
    return (*((name, value) for name, value in named if value), *draw(st.one_of(st.just([]), st.just([]), HEADERS)))


@st.composite
def creates(draw: st.DrawFn) -> Request:
    content_type, body, query = draw(bodies(draw(FIELDS)))
    return Request("POST", "/" + (query or draw(QUERIES)), draw(heads(content_type)), body)


@st.composite
def openings(draw: st.DrawFn) -> Request:
    fields, of = draw(OPENINGS), draw(st.integers(0, 3))
    if not fields:
        return Request("POST", draw(PATHS) + draw(QUERIES), draw(heads()), of=of)
    content_type, body, query = draw(bodies(fields))
    return Request("POST", draw(PATHS) + (query or draw(QUERIES)), draw(heads(content_type)), body, of)


@st.composite
def others(draw: st.DrawFn) -> Request:
    method = draw(METHODS)
    body = draw(st.sampled_from([b"", b"", b"", b"x", b'{"message":"x"}', b"burn=yes", b"link={id}"]))
    content_type = draw(st.sampled_from(["", *TYPES.values()])) if body else ""
    return Request(method, draw(PATHS) + draw(QUERIES), draw(heads(content_type)), body, draw(st.integers(0, 3)))


def _json(method: str, path: str, *headers: tuple[str, str], of: int = 0, **fields: object) -> Request:
    body = json.dumps(fields).encode() if method == "POST" else b""
    return Request(method, path, (("Content-Type", "application/json"), *headers), body, of)


SEQUENCES = st.lists(creates(), min_size=1, max_size=3).flatmap(
    lambda first: st.lists(st.one_of(creates(), openings(), openings(), others()), max_size=5).map(lambda more: first + more)
)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests=SEQUENCES)
def test_every_request_is_answered_alike_with_the_express_lane_and_without(pair: Pair, requests: list[Request]) -> None:
    """Creates, openings, reads and odd requests, in sequences: status, headers in order, body, and what is left afterwards."""
    for status in assert_answered_alike(pair, requests):
        event(f"status {status}")


PAGE = ("Accept", "text/html")
FORM = ("Content-Type", TYPES["form"])
TICKED = b"open=yes&idempotency_key=" + KEY.encode()
STORIES = {
    "a passphrase is guessed": [
        _json("POST", "/", message="hi", passphrase="right", views=2),
        _json("POST", "/message/{id}"),
        *[_json("POST", "/message/{id}", head, passphrase=guess) for head in (PAGE, ("Idempotency-Key", KEY)) for guess in ("wrong", "right", "")],
    ],
    "a lease is repeated and ended": [
        _json("POST", "/", message="hi", views=1),
        *[_json("POST", "/message/{id}", ("Idempotency-Key", key)) for key in (KEY, KEY, KEY * 2)],
        *[_json(method, "/message/{id}", ("Idempotency-Key", KEY)) for method in ("DELETE", "POST")],
    ],
    "a page is opened": [
        _json("POST", "/", PAGE, message="hi", views=1),
        _json("GET", "/message/{id}", PAGE, ("Accept-Language", "pt-BR")),
        *[Request("POST", f"/message/{{id}}{query}", (PAGE, FORM), body) for body in (b"", TICKED, TICKED) for query in ("", "?lang=pt-br")],
    ],
    "too many are created": [_json("POST", "/", message="hi")] * (CREATES_A_MINUTE + 2),
    "markdown": [
        _json("POST", "/", message="*hi*", format="markdown"),
        *[_json("GET", "/message/{id}", ("Accept", accept)) for accept in ("text/html", "text/plain", "*/*")],
    ],
    "end to end": [
        _json("POST", "/", document={"v": 2, "adata": [1], "ct": "aGk="}, proof="A" * 43, views=1),
        *[_json("GET", "/message/{id}", head) for head in (PAGE, ("Accept", "*/*"))],
        *[_json("POST", "/message/{id}", **shown) for shown in ({}, {"proof": "B" * 43}, {"proof": "A" * 43})],
    ],
}  # fmt: skip


@pytest.mark.parametrize("requests", STORIES.values(), ids=STORIES.keys())
def test_every_story_ends_alike(pair: Pair, requests: list[Request]) -> None:
    assert_answered_alike(pair, requests)


ODD_PARTS = {
    "methods": [Request(method, path) for method in ODD_METHODS for path in ("/message/{id}", "/")],
    "paths": [Request(method, path) for path in ODD_PATHS for method in ("GET", "HEAD", "POST")],
    "queries": [Request(method, f"/message/{{id}}{query}") for query in ODD_QUERIES for method in ("GET", "POST")],
    "headers": [Request(method, "/message/{id}", (odd,)) for odd in ODD_HEADERS for method in ("GET", "HEAD", "POST")],
    "accepts": [Request("GET", path, (("Accept", accept),)) for accept in ODD_ACCEPTS for path in ("/message/{id}", "/message/x")],
    "languages": [Request("GET", "/message/{id}", (PAGE, ("Accept-Language", language))) for language in ODD_LANGUAGES],
    "types to open": [Request("POST", "/message/{id}", (("Content-Type", odd),), b"open=yes") for odd in ODD_TYPES],
}


@pytest.mark.parametrize("requests", ODD_PARTS.values(), ids=ODD_PARTS.keys())
def test_every_odd_part_by_itself_is_answered_alike(pair: Pair, requests: list[Request]) -> None:
    assert_answered_alike(pair, [_json("POST", "/", message="hi"), *requests])


@pytest.mark.parametrize("body", [b"message=hi", b'{"message":"hi"}'], ids=["form", "json"])
def test_every_odd_way_to_create_is_answered_alike(pair: Pair, body: bytes) -> None:
    """Each as a client of its own: more than a few creates are refused."""
    for content_type in (*ODD_TYPES, *TYPES.values()):
        for method in ("POST", "GET", "PUT"):
            assert_answered_alike(pair, [Request(method, "/", (("Content-Type", content_type),), body)])
    for query in ODD_QUERIES:
        assert_answered_alike(pair, [Request("POST", f"/{query}", (("Content-Type", odd),), body) for odd in TYPES.values()])
    for header in ODD_HEADERS:
        assert_answered_alike(pair, [Request("POST", "/", (FORM, header), body)])


@pytest.fixture
def lanes(tmp_path: Path) -> werkzeug.test.Client:
    """A server in this process whose Flask answers 418 to everything."""
    keys = tmp_path / "key.json"
    keyfile.create(keys)
    gate = create_app(Settings.from_environ({"MAYFLY_KEY_FILE": str(keys), "MAYFLY_PURGE_SECONDS": "0"}))
    gate._application = werkzeug.Response(status=418)
    return werkzeug.test.Client(lambda environ, start: gate({**environ, "REMOTE_ADDR": "127.0.0.1"}, start), use_cookies=False)


def test_commonest_requests_never_reach_flask(lanes: werkzeug.test.Client) -> None:
    """Else the test above would compare Flask with itself."""
    created = [
        lanes.post("/", data="hi", content_type="text/plain; charset=utf-8"),
        lanes.post("/", json={"message": "hi", "views": 1}),
        lanes.post("/", data={"message": "hi"}),
    ]
    assert [answer.status_code for answer in created] == [201, 201, 201]
    text, once, form = (urlsplit(answer.headers["Location"]).path for answer in created)
    assert lanes.get(text).data == b"hi"
    assert lanes.post(once, headers={"Idempotency-Key": KEY}).status_code == 200
    assert lanes.post(form, data={"open": "yes"}).status_code == 200
    assert lanes.get(once).status_code == 404
    assert lanes.post("/", json={"message": ""}).status_code == 400


def test_all_else_reaches_flask(lanes: werkzeug.test.Client) -> None:
    """Cookies, credentials, multipart, other routes and other methods."""
    others = [
        lanes.get("/"),
        lanes.get("/admin"),
        lanes.head(f"/message/{NO_SUCH_ID}"),
        lanes.delete(f"/message/{NO_SUCH_ID}"),
        lanes.get(f"/receipt/{'x' * 64}"),
        lanes.get(f"/message/{NO_SUCH_ID}", headers={"Authorization": "Bearer x"}),
        lanes.get(f"/message/{NO_SUCH_ID}", headers={"Cookie": "a=b"}),
        lanes.post("/", data="hi", content_type="text/html"),
        lanes.post("/", data="hi", content_type="text/plain2"),
        lanes.get("/", headers={"Content-Type": "text/plain"}),
        lanes.get("/Message/x"),
        lanes.get("/message/x/y"),
        lanes.post("/", data={"message": "hi"}, content_type="multipart/form-data"),
    ]
    assert {answer.status_code for answer in others} == {418}
