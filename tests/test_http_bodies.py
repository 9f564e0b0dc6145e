"""Malformed requests, on both servers: 4xx or a closed connection, never 5xx, nothing stored or used up, no traceback."""

# ruff: noqa: E501 - in the tables, one case a line
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx
import pytest

from tests import raw
from tests.serving import Served, Server

FORM = ("Content-Type", "application/x-www-form-urlencoded")
JSON = ("Content-Type", "application/json")
TEXT = ("Content-Type", "text/plain")
MULTIPART = ("Content-Type", "multipart/form-data; boundary=b")
MAX_BODY_BYTES = 6 * 1024 * 1024 + 64 * 1024
CHUNKED = b"4\r\nabcd\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), server, MAYFLY_LOG_LEVEL="debug") as running:
        yield running
        log = running.log()
        assert "Traceback" not in log
        assert "mayfly.faults" not in log


@pytest.fixture(scope="module")
def stored(served: Served) -> Iterator[Callable[[], int]]:
    """How many messages are stored, as the admin sees it."""
    with httpx.Client(base_url=served.url, headers={"Accept": "text/html"}) as admin:
        admin.post("/admin", data={"token": served.admin_token})

        def count() -> int:
            found = re.search(r'class="stored"[^>]*>\s*([0-9]+)', admin.get("/admin").text)
            assert found
            return int(found[1])

        yield count


def head(*lines: bytes, target: bytes = b"/", method: bytes = b"POST") -> bytes:
    start = method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\n"
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def part(content: bytes = b"hi", disposition: bytes = b'form-data; name="message"', *more: bytes) -> bytes:
    lines = [b"Content-Disposition: " + disposition, *more]
    return b"--b\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + content + b"\r\n"


def post(header: tuple[str, str], body: bytes, query: str = "") -> bytes:
    return raw.request("POST", f"/{query}", [header], body)


def nested(depth: int) -> bytes:
    """JSON of that many levels, the object around it among them."""
    return b'{"message":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


FRAMING = {
    # The body and its length
    "100 bytes announced, 50 sent": raw.request("POST", "/", [FORM], b"message=" + b"a" * 42, length=100),
    "100 bytes announced, none sent": raw.request("POST", "/", [TEXT], b"", length=100),
    "two lengths": raw.request("POST", "/", [TEXT, ("Content-Length", "2")], b"abcd"),
    "two lengths, longer first": raw.request("POST", "/", [TEXT, ("Content-Length", "400")], b"abcd"),
    "list of lengths": raw.request("POST", "/", [TEXT], b"abcd", length="4, 4"),
    "list of different lengths": raw.request("POST", "/", [TEXT], b"abcd", length="4, 2"),
    **{f"length {text!r}": raw.request("POST", "/", [TEXT], b"abcd", length=text) for text in (
        "+4", "-1", "-0", "0x4", "4.0", "4e0", "1_0", "four", "4 4", "4;", '"4"', "\xb2", "\xff", "9" * 18, "9" * 19, "9" * 25, "9" * 5000, "0" * 4500 + "4", "0" * 20 + "4",
    )},
    "over the limit by header": raw.request("POST", "/", [TEXT], b"", length=MAX_BODY_BYTES + 1),
    "over the limit": raw.request("POST", "/", [TEXT], b"a" * (MAX_BODY_BYTES + 1)),
    "no length": head(b"Content-Type: text/plain", b"Connection: close") + b"abcd",
    "length in another name": head(b"Content-Type: text/plain", b"Content_Length: 4", b"Connection: close") + b"abcd",
    # Transfer codings
    "chunked": head(b"Content-Type: text/plain", b"Connection: close", b"Transfer-Encoding: chunked") + CHUNKED,
    "chunked, over the limit": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked") + b"700000\r\n" + b"a" * 0x700000 + b"\r\n0\r\n\r\n",
    "bad chunk size": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked") + b"zz\r\nabcd\r\n0\r\n\r\n",
    "chunk longer than its size": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked") + b"2\r\nabcd\r\n0\r\n\r\n",
    "chunk shorter than its size": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked") + b"8\r\nabcd\r\n0\r\n\r\n",
    "negative chunk": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked") + b"-4\r\nabcd\r\n0\r\n\r\n",
    "huge chunk": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked") + b"f" * 17 + b"\r\nabcd\r\n0\r\n\r\n",
    "no last chunk": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked") + b"4\r\nabcd\r\n",
    "trailers": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked") + b"4\r\nabcd\r\n0\r\nContent-Length: 4\r\n\r\n",
    **{f"transfer coding {text!r}": head(b"Content-Type: text/plain", b"Content-Length: 4", b"Transfer-Encoding: " + text) + b"abcd" for text in (
        b"identity", b"gzip", b"xchunked", b"gzip, chunked", b"chunked, identity", b"chunked, chunked", b"CHUNKED", b"\x0bchunked", b"\xff",
    )},
    "empty transfer coding": head(b"Content-Type: text/plain", b"Content-Length: 4", b"Transfer-Encoding:", b"Transfer-Encoding: chunked") + b"abcd",
    # Shapes that two servers would cut differently, with a second create inside the first's body
    "CL.TE": head(b"Content-Type: text/plain", b"Content-Length: 112", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + post(TEXT, b"smuggled"),
    "TE.CL": head(b"Content-Type: text/plain", b"Transfer-Encoding: chunked", b"Content-Length: 4") + b"6f\r\n" + post(TEXT, b"smuggled") + b"0\r\n\r\n",
    "TE with space": head(b"Content-Type: text/plain", b"Content-Length: 4", b"Transfer-Encoding : chunked") + CHUNKED,
    "TE folded": head(b"Content-Type: text/plain", b"Content-Length: 4", b"Transfer-Encoding:", b" chunked") + CHUNKED,
    "CL.0": head(b"Content-Type: text/plain", b"Content-Length: 0", b"Content-Length: 108") + post(TEXT, b"smuggled"),
    "folded header": head(b"Content-Type: text/plain", b"Content-Length: 4", b"X-A: a", b" b", b"Connection: close") + b"abcd",
    "bare CR in a header": head(b"Content-Type: text/plain", b"Content-Length: 4", b"X-A: a\rb") + b"abcd",
    "NUL in a header": head(b"Content-Type: text/plain", b"Content-Length: 4", b"X-A: a\0b") + b"abcd",
    "header without colon": head(b"Content-Type: text/plain", b"Content-Length: 4", b"nonsense") + b"abcd",
    "header without name": head(b"Content-Type: text/plain", b"Content-Length: 4", b": x") + b"abcd",
    "space before the first header": head(b" X-A: a", b"Content-Type: text/plain", b"Content-Length: 4") + b"abcd",
    "two types": raw.request("POST", "/", [TEXT, JSON], b'{"message":"hi"}'),
    # Request lines
    "HTTP/0.9": b"POST /\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.0": head(b"Content-Length: 4").replace(b"HTTP/1.1", b"HTTP/3.0") + b"abcd",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "no target": b"POST  HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd",
    "space in the target": head(b"Content-Type: text/plain", b"Content-Length: 4", target=b"/ x") + b"abcd",
    "asterisk": raw.request("POST", "*", [TEXT], b"abcd"),
    "lower-case method": raw.request("post", "/", [TEXT], b"abcd"),
    "mixed-case method": raw.request("Post", "/", [TEXT], b"abcd"),
    "two slashes": raw.request("POST", "//", [TEXT], b"abcd"),
    "no host": b"POST / HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd",
    "two hosts": raw.request("POST", "/", [TEXT, ("Host", "evil.example")], b"abcd"),
    "header of a megabyte": raw.request("POST", "/", [TEXT, ("X-A", "a" * 1_000_000)], b"abcd"),
    "a thousand headers": raw.request("POST", "/", [TEXT, *((f"X-{n}", "a") for n in range(1000))], b"abcd"),
    "target of a megabyte": raw.request("POST", "/?" + "a" * 1_000_000, [TEXT], b"abcd"),
    "method of a megabyte": raw.request("P" * 1_000_000, "/", [TEXT], b"abcd"),
}  # fmt: skip

CONTENT = {
    # Content codings and types
    **{f"content coding {text}": raw.request("POST", "/", [TEXT, ("Content-Encoding", text)], b"abcd") for text in (
        "gzip", "br", "deflate", "GZIP", "identity, gzip", "utf-8", "\xff",
    )},
    **{f"type {text!r}": raw.request("POST", "/", [("Content-Type", text)], b'{"message":"hi"}') for text in (
        "application/xml", "text/html", "application/octet-stream", "image/png", "json", "application/json5", "application/problem+json",
        "text/pl\xe4in", "\xff", ";", "multipart/mixed; boundary=b", "multipart/form-data", "application/json, text/plain", "text/plain2",
    )},
    "no type": raw.request("POST", "/", [], b"message=hi"),
    **{f"charset {charset}": raw.request("POST", "/", [(FORM[0], f"{kind}; charset={charset}")], body)
       for charset in ("iso-8859-1", "utf-16", "utf-7", "rot13", "x", "base64", "unicode-escape")
       for kind, body in ((TEXT[1], b"abcd"), (FORM[1], b"message=hi"), (JSON[1], b'{"message":"hi"}'))},
    # Text
    "NUL": post(TEXT, b"a\0b"),
    "NUL in a form": post(FORM, b"message=a%00b"),
    "NUL in JSON": post(JSON, b'{"message":"a\\u0000b"}'),
    **{f"invalid UTF-8 {broken!r}": post(TEXT, b"abc" + broken) for broken in (
        b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xfe\xff\x00a",
    )},
    "invalid UTF-8 in a form": post(FORM, b"message=a%ff"),
    "raw invalid UTF-8 in a form": post(FORM, b"message=a\xff"),
    "surrogate in a form": post(FORM, b"message=a%ed%a0%80"),
    "invalid UTF-8 in a field name": post(FORM, b"message=a&%ff=1"),
    "invalid UTF-8 in JSON": post(JSON, b'{"message":"\xff"}'),
    "UTF-16 JSON": post(JSON, '{"message":"hi"}'.encode("utf-16")),
    "UTF-32 JSON": post(JSON, '{"message":"hi"}'.encode("utf-32")),
    "invalid UTF-8 in the query": post(TEXT, b"abc", "?passphrase=%ff"),
    "message in the query": raw.request("POST", "/?message=hi"),
    # Forms
    **{f"form {body!r}": post(FORM, body) for body in (
        b"message", b"hi", b"=hi", b"&", b"&&&", b"message=a&b", b"message=a;views=1&x", b"message=a&message=b", b"message=a&=", b"message=YWJj&ZA==", b"message=a&b=",
        b"message=50% off + more", b"message=100%", b"message=100%&views=1", b"message=%zz", b"message=a+b c", "message=a+é".encode(), b"mess%age=a",
    )},
    "passphrase in the query that is not encoded": post(TEXT, b"abc", "?passphrase=50%"),
    "form of many fields": post(FORM, b"message=a" + b"&x=1" * 100_000),
    # JSON
    **{f"JSON {body[:40]!r}": post(JSON, body) for body in (
        b"", b"null", b"1", b'"message"', b"[]", b'["message"]', b"{}", b"{", b"}", b'{"message"}', b'{"message":}', b'{"message":"hi"',
        b"{'message':'hi'}", b'{"message":"hi",}', b'{"message":"hi"} x', b'{"message":"hi"}{"message":"hi"}', b'\xef\xbb\xbf{"message":"hi"}',
        b'{"message":"a\nb"}', b'{"message":"\\x41"}', b'{"message":"\\u00"}', b'{"message":"hi" /* c */}',
        b'{"message":"\\ud800"}', b'{"message":"\\udc00"}', b'{"message":"\\udc00\\ud800"}', b'{"message":"a\\ud83d"}',
        b'{"message":"hi","passphrase":"\\ud800"}', b'{"message":"hi","\\ud800":1}', b'{"\\ud800":"hi"}',
        b'{"message":"hi","views":NaN}', b'{"message":NaN}', b'{"message":"hi","views":Infinity}', b'{"message":"hi","views":-Infinity}',
        b'{"message":"hi","views":1e400}', b'{"message":"hi","views":-1e400}', b'{"message":"hi","views":1e2}', b'{"message":"hi","views":01}',
        b'{"message":"hi","views":' + b"9" * 4000 + b"}", b'{"message":"hi","expires_in":' + b"9" * 100_000 + b"}",
        b'{"message":"a","message":"b"}', b'{"message":"a","m\\u0065ssage":"b"}', b'{"message":"hi","views":1,"views":1}',
        b'{"message":{"a":1,"a":1}}', b'{"MESSAGE":"hi"}', b'{"message ":"hi"}', b'{"message":"hi","__proto__":{}}',
        b'{"message":"hi","views":{"$gt":0}}', b'{"message":["hi"]}',
    )},
    "200,000 brackets": post(JSON, b"[" * 200_000),
    "100,000 pairs of brackets": post(JSON, b'{"message":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "200,000 braces": post(JSON, b'{"a":' * 200_000),
    "17 levels": post(JSON, nested(17)),
    # Multipart
    **{f"multipart {header}": raw.request("POST", "/", [("Content-Type", header)], part() + b"--b--\r\n") for header in (
        "multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""', "multipart/form-data; boundary=c",
        "multipart/form-data; boundary=" + "b" * 71, "multipart/form-data; boundary=\xe9", "multipart/form-data; boundary*=utf-8''%ff",
        "multipart/related; boundary=b",
    )},
    **{f"parts {number}": post(MULTIPART, body) for number, body in enumerate((
        b"",
        b"hi",
        b"--b--\r\n",
        b"--b\r\n--b--\r\n",
        b"--b\r\n\r\n--b--\r\n",
        b"--b\r\n\r\nhi\r\n--b--\r\n",
        part(),
        part() + b"--b",
        part() + b"--b\r\n",
        part() + b"--b\r\nContent-Disposition: form-data; name=\"views\"",
        part() + part() + b"--b--\r\n",
        part(b"hi", b"form-data") + b"--b--\r\n",
        part(b"hi", b'form-data; name=""') + b"--b--\r\n",
        part(b"hi", b'form-data; name="other"') + b"--b--\r\n",
        part(b"hi", b'form-data; name="message\xff"') + b"--b--\r\n",
        part(b"hi", b'form-data; name*=utf-8\'\'%ff') + b"--b--\r\n",
        part(b"hi", b'attachment; filename="x"') + b"--b--\r\n",
        part(b"", b'form-data; name="message"; filename=""') + b"--b--\r\n",
        part(b"a\0b") + b"--b--\r\n",
        part(b"\xff\xfe") + b"--b--\r\n",
        part(b"aGk=", b'form-data; name="message"', b"Content-Transfer-Encoding: base64") + b"--b--\r\n",
        part(b"=68=69", b'form-data; name="message"', b"Content-Transfer-Encoding: quoted-printable") + b"--b--\r\n",
        part(b"hi", b'form-data; name="message"', b"Content-Type: text/plain; charset=utf-16") + b"--b--\r\n",
        b"--b\r\nnonsense\r\n\r\nhi\r\n--b--\r\n",
        b"--b\r\n" + b"X-A: a\r\n" * 10_000,
        b"".join(part(b"1", b'form-data; name="x%d"' % n) for n in range(100)) + b"--b--\r\n",
        part() * 10_000,
        b"\r\n" * 500_000,
        b"--b" * 100_000,
    ))},
}  # fmt: skip


def assert_refused(served: Served, stored: Callable[[], int], request: bytes, *, half_close: bool) -> list[raw.Response]:
    before = stored()
    answers = raw.send(served, request, half_close=half_close)
    assert all(400 <= answer.status < 500 for answer in answers), [(answer.status, answer.body[:100]) for answer in answers]
    assert stored() == before
    return answers


@pytest.mark.parametrize("request_", FRAMING.values(), ids=FRAMING.keys())
def test_malformed_request_is_refused_and_stores_nothing(served: Served, stored: Callable[[], int], request_: bytes) -> None:
    assert_refused(served, stored, request_, half_close=True)


@pytest.mark.parametrize("request_", CONTENT.values(), ids=CONTENT.keys())
def test_malformed_content_is_refused_with_a_reason(served: Served, stored: Callable[[], int], request_: bytes) -> None:
    (answer,) = assert_refused(served, stored, request_, half_close=False)
    assert answer.status in (400, 413, 415)
    assert answer.header("Content-Type") in ("text/plain; charset=utf-8", "application/problem+json")
    assert answer.body


EXACT = {
    "100 bytes announced, 50 sent": 400,
    "over the limit by header": 413,
    "length '999999999999999999'": 413,
    "chunked": 411,
    "no length": 400,
    "content coding gzip": 415,
    "charset utf-16": 415,
    "no type": 415,
    "17 levels": 400,
}


@pytest.mark.parametrize(("name", "status"), EXACT.items())
def test_refusal_has_the_status_of_the_contract(served: Served, name: str, status: int) -> None:
    (answer,) = raw.send(served, {**FRAMING, **CONTENT}[name], half_close=name.endswith("50 sent"))
    assert answer.status == status


@pytest.mark.parametrize("length", ["0" * 4500 + "4", "0" * 20 + "4"], ids=["4,500 zeros", "20 zeros"])
def test_length_of_too_many_digits_is_answered_like_all_else(served: Served, length: str) -> None:
    """More digits than Python turns into a number."""
    (answer,) = raw.send(served, raw.request("POST", "/", [TEXT], b"abcd", length=length))
    assert answer.status == 400
    if served.server == "granian" or len(length) < 100:  # gunicorn refuses the other by itself
        assert answer.header("X-Content-Type-Options") == "nosniff"
        assert b"Content-Length" in answer.body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"message=hi there", "hi there"),
        (b"message=a+b", "a b"),
        (b"message=50%25+off", "50% off"),
        (b"message=1%2B1", "1+1"),
        ("message=é € 😀".encode(), "é € 😀"),
        (b"message=50%25 off", "50% off"),
    ],
)
def test_form_that_decodes_to_what_was_meant_is_taken(served: Served, body: bytes, message: str) -> None:
    """As `curl -d` sends it: a space is a space. What decoding would change stands among the malformed."""
    (answer,) = raw.send(served, raw.request("POST", "/", [FORM, ("Accept", "application/json")], body))
    assert answer.status == 201
    assert served.http.get(f"/message/{json.loads(answer.body)['id']}").text == message


def test_body_elsewhere_than_where_messages_come_in_is_at_most_64_kib(served: Served) -> None:
    message = served.create("hello", views=1)
    for path in (message.path, f"/message/{uuid4()}", message.receipt_path, "/admin", "/delete", "/nowhere", "/healthz"):
        (answer,) = raw.send(served, raw.request("POST", path, [JSON], length=64 * 1024 + 1), timeout=5)
        assert (answer.status, path) == (413, path)
        assert b"65536" in answer.body
    (answer,) = raw.send(served, raw.request("POST", message.path, [JSON], b" " * (64 * 1024 + 1)))
    assert answer.status == 413
    (answer,) = raw.send(
        served, raw.request("POST", message.path, [JSON, ("Accept", "text/plain")], b" " * (64 * 1024 - 2) + b"{}")
    )
    assert answer.body == b"hello"


def test_equal_lengths_twice_are_refused_or_taken_whole(served: Served) -> None:
    """RFC 9110 section 8.6 lets a server take two equal lengths as one; granian's HTTP library does before we see them."""
    (answer,) = raw.send(served, raw.request("POST", "/", [TEXT, ("Content-Length", "4")], b"abcd"))
    if answer.status == 201:
        assert served.http.get(answer.body.decode().strip().replace("http://localhost", "")).text == "abcd"
    else:
        assert answer.status == 400


def test_sixteen_levels_are_not_too_deep(served: Served) -> None:
    (deep,), (too_deep,) = (raw.send(served, post(JSON, nested(levels))) for levels in (16, 17))
    assert b"must be text" in deep.body
    assert b"nested deeper than 16" in too_deep.body


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_of_json_is_no_json(served: Served, number: str) -> None:
    """RFC 8259 section 6; refused before any field is looked at."""
    (answer,) = raw.send(served, post(JSON, f'{{"message":"hi","views":{number}}}'.encode()))
    assert json.loads(answer.body)["detail"] == "The body is not JSON."


def test_request_cut_short_after_any_byte_stores_nothing(served: Served, stored: Callable[[], int]) -> None:
    whole = raw.request("POST", "/", [FORM], b"message=hello")
    before = stored()
    for length in range(len(whole)):
        for answer in raw.send(served, whole[:length], half_close=True):
            assert 400 <= answer.status < 500
    assert stored() == before
    assert [answer.status for answer in raw.send(served, whole)] == [201]


def test_opening_cut_short_after_any_byte_uses_nothing_up(served: Served) -> None:
    """A reader whose connection breaks while asking has not opened anything."""
    message = served.create("hello", views=1)
    whole = raw.request("POST", message.path, [FORM], b"open=yes")
    for length in range(len(whole)):
        for answer in raw.send(served, whole[:length], half_close=True):
            assert 400 <= answer.status < 500
    assert [answer.body for answer in raw.send(served, whole)] == [b"hello"]


@pytest.mark.parametrize("kind", ["json", "multipart"])
def test_document_cut_short_after_any_byte_is_refused(served: Served, stored: Callable[[], int], kind: str) -> None:
    """The length is right, what it frames is not whole: nothing is ever stored truncated."""
    if kind == "json":
        header, whole, complete = JSON, json.dumps({"message": "hello", "views": 3}).encode(), None
    else:
        header, whole = MULTIPART, part(b"hello\r\n--bb\r\n") + part(b"3", b'form-data; name="views"') + b"--b--\r\n"
        complete = len(whole) - 2
    before = stored()
    for length in range(1, complete or len(whole)):
        statuses = [answer.status for answer in raw.send(served, post(header, whole[:length]))]
        assert statuses == [400], whole[:length]
    assert stored() == before
    assert [answer.status for answer in raw.send(served, post(header, whole))] == [201]


# Odd, and well formed or harmless: one answer, no fault


ODD = {
    "absolute target": (raw.request("GET", "http://localhost/healthz"), {200}),
    "absolute target of another host": (raw.request("GET", "http://evil.example/healthz"), {200, 400}),
    "absolute target without path": (raw.request("GET", "http://localhost"), {200, 404}),
    "authority": (raw.request("CONNECT", "localhost:80"), {400, 404, 405}),
    "asterisk": (raw.request("OPTIONS", "*"), {200, 400, 404}),
    "fragment": (raw.request("GET", "/#x"), {200, 400}),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", {200}),
    **{f"path {path!r}": (raw.request("GET", path), {400, 404}) for path in (
        b"//message//x", b"//", b"///", b"/message//", b"/message/", b"/message", b"/message/x/y", b"/./", b"/../", b"/message/../healthz",
        b"/message/%ff%fe", b"/message/%00", b"/message/%zz", b"/message/%", b"/message/%2e%2e/x", b"/%2f%2fevil.example", b"/\\evil.example",
        b"/message/\xc3\xa9", b"/message/\xff\xfe", b"/message/;x", b"/;x", b"/healthz/", b"/HEALTHZ", b"/receipt/", b"/static/", b"/static/..",
        b"/static/../../key.json", b"/static/..%2f..%2fkey.json", b"/static//etc/passwd", b"/static/mayfly.css/", b"/key.json", b"/.git/config",
        b"/.env", b"/server.py", b"/wp-login.php", b"/" + b"a" * 3000, b"/robots.txt%00", b"/%0d%0aSet-Cookie:x=y",
    )},
    **{f"method {method}": (raw.request(method, path), {400, 404, 405, 501}) for method in ("BREW", "P~ST", "M-SEARCH", "PROPFIND", "QUERY")
       for path in ("/", f"/message/{uuid4()}")},
    "header name with underscore": (raw.request("GET", "/healthz", [("X_Forwarded_For", "1.2.3.4"), ("Idempotency_Key", "x")]), {200, 400}),
    "non-ASCII header": (raw.request("GET", "/healthz", [("X-A", b"\xff\xfe")]), {200, 400}),
    "non-ASCII accept": (raw.request("GET", "/message/x", [("Accept", b"\xff;q=\xff, */*")]), {400, 404}),
    "endless accept": (raw.request("GET", "/message/x", [("Accept", "text/html;q=0.1," * 400)]), {400, 404, 431}),
    "quality that is none": (raw.request("GET", "/message/x", [("Accept", "text/html;q=NaN, application/json;q=inf, text/plain;q=-1")]), {404}),
    "non-ASCII authorization": (raw.request("POST", "/delete", [("Authorization", b"Bearer \xff\xfe")]), {400, 401}),
    "non-ASCII cookie": (raw.request("GET", "/admin", [("Cookie", b"mayfly-admin=\xff\xfe; \xff")]), {200, 400}),
    "non-ASCII key": (raw.request("POST", f"/message/{uuid4()}", [("Idempotency-Key", b"\xff" * 20)]), {400}),
    "non-ASCII host": (raw.request("GET", "/", host=b"\xff"), {400}),
    "nonsense host at a probe": (raw.request("GET", "/healthz", host="a b@[::1"), {200, 400}),
    "port beyond all ports": (raw.request("GET", "/", host="localhost:99999"), {400}),
    "non-ASCII forwarding": (raw.request("GET", "/healthz", [("X-Forwarded-For", b"\xff"), ("X-Forwarded-Proto", b"\xff")]), {200, 400}),
    "body of a GET": (raw.request("GET", "/healthz", [TEXT], b"abcd"), {200}),
    "chunked GET": (head(b"Transfer-Encoding: chunked", b"Connection: close", target=b"/healthz", method=b"GET") + CHUNKED, {411}),
    "expectation": (raw.request("POST", "/", [TEXT, ("Expect", "200-maybe")], b"abcd"), {201, 400, 417}),
    "upgrade": (raw.request("GET", "/healthz", [("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x"), ("Sec-WebSocket-Version", "13")]), {200, 400}),
    "range": (raw.request("GET", "/static/mayfly.css", [("Range", "bytes=0-0,1-1,5-2")]), {200, 206}),
    "conditional": (raw.request("GET", "/static/mayfly.css", [("If-None-Match", "*"), ("If-Modified-Since", "nonsense")]), {200, 304}),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "statuses"), ODD.values(), ids=ODD.keys())
def test_odd_request_gets_one_orderly_answer(served: Served, request_: bytes, statuses: set[int]) -> None:
    (answer,) = raw.send(served, request_)
    assert answer.status in statuses
    assert not any(name == "set-cookie" for name, _ in answer.headers)


def test_key_that_cannot_be_read_opens_nothing(served: Served) -> None:
    """A lease was asked for: without it the answer could be lost, so the view must not be taken."""
    message = served.create("hello", views=1)
    (answer,) = raw.send(served, raw.request("POST", message.path, [("Idempotency-Key", b"\xff" * 20)]))
    assert answer.status == 400
    assert served.http.post(message.path).text == "hello"


def test_key_that_is_empty_opens_nothing(served: Served) -> None:
    """A script whose variable was unset asked for a lease, and would have none."""
    message = served.create("hello", views=1)
    for method in ("POST", "DELETE"):
        for value in ("", "  "):
            (answer,) = raw.send(served, raw.request(method, message.path, [("Idempotency-Key", value)]))
            assert answer.status == 400
    form = {"open": "yes", "idempotency_key": "k" * 16}
    assert served.http.post(message.path, data=form, headers={"Idempotency-Key": ""}).status_code == 400
    assert served.http.post(message.path).text == "hello"


def test_underscore_is_no_hyphen_in_header_names(served: Served) -> None:
    """`Idempotency_Key`, `Content_Type` and their like are other headers, which mean nothing."""
    message = served.create("hello", views=1)
    for _ in range(2):
        (answer,) = raw.send(served, raw.request("GET", message.path, [("Sec_Purpose", "prefetch"), ("Accept", "text/html")]))
        assert answer.status == 200
    (answer,) = raw.send(served, raw.request("POST", message.path, [("Idempotency_Key", "k" * 16)]))
    assert answer.body == b"hello"
    (answer,) = raw.send(served, raw.request("POST", message.path, [("Idempotency_Key", "k" * 16)]))
    assert answer.status == 404


def test_second_request_on_a_connection_is_its_own(served: Served, stored: Callable[[], int]) -> None:
    """After a refused body nothing of it is taken for the next request."""
    before = stored()
    smuggled = post(TEXT, b"smuggled")
    first = head(b"Content-Type: image/png", b"Content-Length: " + str(len(smuggled)).encode()) + smuggled
    answers = raw.send(served, first + raw.request("GET", "/healthz"), half_close=False)
    assert [answer.status for answer in answers] == [415, 200]
    assert stored() == before


@pytest.mark.long
def test_body_that_does_not_arrive_is_given_up_on(served: Served, stored: Callable[[], int]) -> None:
    before = stored()
    (answer,) = raw.send(served, raw.request("POST", "/", [TEXT], b"abc", length=100))
    assert answer.status == 408
    assert stored() == before
