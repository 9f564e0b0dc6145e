"""What was put in comes out: by form, multipart, JSON and plain text; as JSON, text and HTML; on both servers."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving import Served, Server

MIB = 1024 * 1024
FORM = "application/x-www-form-urlencoded"
BOUNDARY = "mayflyTestBoundary7d1f"

AWKWARD = {
    "markup": "<b>&amp;</b>",
    "end of the pre": "</pre><script>alert(1)</script>",
    "starts in newlines": "\n\n\nhello",
    "ends in newlines": "hello\n\n\n",
    "only a newline": "\n",
    "only a space": " ",
    "spaces around": "  \t hello \t ",
    "line separators": "a\u2028b\u2029c\u0085d\x0be\x0cf",
    "byte order mark": "\ufeffhello\ufeff",
    "only a byte order mark": "\ufeff",
    "non-characters": "\ufffe\uffff\U0001fffe\U0010ffff\ufdd0",
    "replacement character": "\ufffd",
    "controls": "".join(chr(code) for code in range(1, 32) if chr(code) not in "\r\n") + "\x7f\x80\x9f",
    "bidi": "\u202eabc\u202c\u2066\u2069",
    "combining": "e\u0301 \u00e9 \u1100\u1161 \uac00",
    "emoji": "👩‍👩‍👧‍👦 \U0001f1ea\U0001f1fa",
    "form syntax": "a=b&c=d+e%20f%zz;g",
    "template syntax": "{{ 7 * 7 }} {% raw %} ${x} #{y}",
    "json": '{"message": "\\u0041", "\\": "\\\\"}',
    "boundary": f"--{BOUNDARY}--",
    "entities": "&#13;&#10;&lt;&amp;&nbsp;&#x110000;",
}
WITH_CR = {
    "crlf": "a\r\nb\r\n",
    "cr": "a\rb\r",
    "crcrlf": "\r\r\n\n\r",
    "starts in crlf": "\r\nhello",
    "ends in cr": "hello\r",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), server) as running:
        yield running


def by_form(message: str) -> tuple[bytes, str]:
    return b"message=" + quote_plus(message).encode(), FORM


def by_form_with_all_escaped(message: str) -> tuple[bytes, str]:
    return b"message=" + quote(message, safe="").encode(), f"{FORM}; charset=UTF-8"


def by_multipart(message: str) -> tuple[bytes, str]:
    head = f'--{BOUNDARY}x\r\nContent-Disposition: form-data; name="message"\r\n\r\n'
    return f"{head}{message}\r\n--{BOUNDARY}x--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}x"


def by_file(message: str) -> tuple[bytes, str]:
    """A file in a form, as `curl -F message=@note.txt` sends it."""
    disposition = 'Content-Disposition: form-data; name="message"; filename="note.txt"\r\nContent-Type: text/plain'
    return (
        f"--{BOUNDARY}x\r\n{disposition}\r\n\r\n{message}\r\n--{BOUNDARY}x--\r\n".encode(),
        f"multipart/form-data; boundary={BOUNDARY}x",
    )


def by_json(message: str) -> tuple[bytes, str]:
    return json.dumps({"message": message}, ensure_ascii=False).encode(), "application/json"


def by_escaped_json(message: str) -> tuple[bytes, str]:
    escaped = "".join(f"\\u{unit:04x}" for unit in _utf16(message))
    return f'{{"message":"{escaped}"}}'.encode(), "application/json"


def by_text(message: str) -> tuple[bytes, str]:
    return message.encode(), "text/plain; charset=utf-8"


def _utf16(text: str) -> Iterator[int]:
    raw = text.encode("utf-16-be")
    return (raw[i] << 8 | raw[i + 1] for i in range(0, len(raw), 2))


BYTE_FOR_BYTE = (by_json, by_escaped_json, by_text, by_file)
FORMS = (by_form, by_form_with_all_escaped, by_multipart)


def post(served: Served, body: bytes, content_type: str) -> str:
    """Create a message and return its path."""
    answer = served.http.post("/", content=body, headers={"Content-Type": content_type, "Accept": "application/json"})
    assert answer.status_code == 201, answer.text
    return "/message/" + str(answer.json()["id"])


def as_json(http: httpx.Client, path: str) -> str:
    answer = http.get(path, headers={"Accept": "application/json"})
    assert answer.status_code == 200
    return str(json.loads(answer.content)["message"])


def as_text(http: httpx.Client, path: str) -> str:
    answer = http.get(path, headers={"Accept": "text/plain"})
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    return answer.content.decode()


def as_html(http: httpx.Client, path: str) -> str:
    """The text of the message's element, by the rules of the HTML standard.

    Line ends of the source are normalised, a first line feed in `<pre>` is dropped, character references are resolved.
    """
    source = http.get(path, headers={"Accept": "text/html"}).content.decode()
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    found = re.search(r'<pre [^>]*id="message"[^>]*>\n?(.*?)</pre>', source, re.DOTALL)
    assert found
    assert "<" not in found[1]
    return html.unescape(found[1])


def lf(message: str) -> str:
    return message.replace("\r\n", "\n")


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=200)


@settings(max_examples=60, deadline=None)
@given(message=texts)
def test_any_text_comes_out_as_it_went_in(served: Served, message: str) -> None:
    for way in BYTE_FOR_BYTE:
        path = post(served, *way(message))
        assert as_json(served.http, path) == as_text(served.http, path) == message
    for way in FORMS:
        path = post(served, *way(message))
        assert as_json(served.http, path) == as_text(served.http, path) == lf(message)


@settings(max_examples=60, deadline=None)
@given(typed=texts.filter(lambda text: "\r" not in text))
def test_text_typed_into_a_form_comes_out_as_typed(served: Served, typed: str) -> None:
    """Browsers send each line end of a form as CRLF (HTML standard, constructing the entry list)."""
    sent = typed.replace("\n", "\r\n")
    for way in FORMS:
        assert as_text(served.http, post(served, *way(sent))) == typed


@pytest.mark.parametrize("message", AWKWARD.values(), ids=AWKWARD.keys())
def test_awkward_text_comes_out_of_every_way_in_and_out(served: Served, message: str) -> None:
    for way in (*BYTE_FOR_BYTE, *FORMS):
        path = post(served, *way(message))
        assert as_json(served.http, path) == message
        assert as_text(served.http, path) == message
        assert as_html(served.http, path) == message


@pytest.mark.parametrize("message", WITH_CR.values(), ids=WITH_CR.keys())
def test_carriage_returns_are_kept_but_for_line_ends_of_forms(served: Served, message: str) -> None:
    for way in BYTE_FOR_BYTE:
        path = post(served, *way(message))
        assert as_json(served.http, path) == as_text(served.http, path) == as_html(served.http, path) == message
    for way in FORMS:
        path = post(served, *way(message))
        assert as_json(served.http, path) == as_text(served.http, path) == as_html(served.http, path) == lf(message)


@pytest.mark.parametrize(
    "character", ["a", "é", "€", "😀", "<", "\n", "+"], ids=["1 byte", "2", "3", "4", "markup", "newline", "plus"]
)
def test_message_of_exactly_one_mebibyte_comes_out(served: Served, character: str) -> None:
    message = (character * (MIB // len(character.encode()) + 1)).encode()[:MIB].decode(errors="ignore")
    message += "x" * (MIB - len(message.encode()))
    for way in (by_form, by_multipart, by_json, by_escaped_json, by_text):
        path = post(served, *way(message))
        assert as_text(served.http, path) == message
    assert as_json(served.http, path) == message
    assert as_html(served.http, path) == message


def test_message_one_byte_over_the_limit_is_refused_whole(served: Served) -> None:
    for way in (*BYTE_FOR_BYTE, *FORMS):
        body, content_type = way("é" * (MIB // 2) + "x")
        assert served.http.post("/", content=body, headers={"Content-Type": content_type}).status_code == 413


def test_one_time_message_with_passphrase_comes_out_too(served: Served) -> None:
    message = "".join(AWKWARD.values()) + "".join(WITH_CR.values())
    created = served.create(message, views=1, passphrase="päss \u2028 wörd")
    answer = served.http.post(created.path, json={"passphrase": "päss \u2028 wörd"}, headers={"Accept": "text/plain"})
    assert answer.content.decode() == message


def test_markdown_keeps_its_source_beside_its_rendering(served: Served) -> None:
    source = "# Title\r\n\r\n<b>&amp;</b> *x*\r"
    created = served.create(source, format="markdown")
    assert as_json(served.http, created.path) == as_text(served.http, created.path) == source
    page = served.http.get(created.path, headers={"Accept": "text/html"}).text
    assert "<h1>Title</h1>" in page
    assert "&lt;b&gt;" in page
