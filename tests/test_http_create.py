"""POST /: fields and their bounds, what the answer holds, in which form it comes, and what its links begin with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests import raw
from tests.serving import Served

FORM = "application/x-www-form-urlencoded"
CURL = {"User-Agent": "curl/8.14.1", "Accept": "*/*"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
LINK = r"http://127\.0\.0\.1:[0-9]+/message/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def lifetime(served: Served, receipt: str) -> timedelta:
    times = served.http.get(receipt, headers={"Accept": "application/json"}).json()
    return datetime.fromisoformat(times["expires_at"]) - datetime.fromisoformat(times["created_at"])


def post_form(served: Served, fields: dict[str, Any], **headers: str) -> httpx.Response:
    return served.http.post("/", data=fields, headers={"Accept": "application/json", **headers})


def post_multipart(served: Served, fields: dict[str, Any]) -> httpx.Response:
    return served.http.post(
        "/", files={name: (None, str(value)) for name, value in fields.items()}, headers={"Accept": "*/json, application/json"}
    )


def post_json(served: Served, fields: dict[str, Any]) -> httpx.Response:
    return served.http.post("/", json=fields)


def post_text(served: Served, fields: dict[str, Any]) -> httpx.Response:
    options = urlencode({name: value for name, value in fields.items() if name != "message"})
    return served.http.post(
        f"/?{options}" if options else "/",
        content=str(fields["message"]).encode(),
        headers={"Content-Type": "text/plain", "Accept": "application/json"},
    )


WAYS = [post_form, post_multipart, post_json, post_text]
every_way = pytest.mark.parametrize("post", WAYS, ids=["form", "multipart", "json", "text"])


@every_way
def test_answer_names_link_receipt_and_what_was_promised(served: Served, post: Any) -> None:
    answer = post(served, {"message": "hi", "expires_in": 3600, "views": 3})
    assert answer.status_code == 201
    assert answer.headers["Content-Type"] == "application/json"
    told = answer.json()
    assert set(told) == {"id", "link", "receipt", "expires_at", "views", "durability", "encryption"}
    assert re.fullmatch(LINK, told["link"])
    assert told["link"] == f"{served.url}/message/{told['id']}" == answer.headers["Location"]
    assert re.fullmatch(re.escape(served.url) + "/receipt/[A-Za-z0-9_-]{64}", told["receipt"])
    assert (told["views"], told["durability"], told["encryption"]) == (3, "memory", "server")
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", told["expires_at"])
    assert lifetime(served, told["receipt"]) == timedelta(hours=1)


@every_way
def test_without_options_a_message_lives_seven_days_for_any_number_of_views(served: Served, post: Any) -> None:
    told = post(served, {"message": "hi"}).json()
    assert told["views"] is None
    assert lifetime(served, told["receipt"]) == timedelta(days=7)
    for _ in range(3):
        assert served.http.get(told["link"]).text == "hi"


@every_way
@pytest.mark.parametrize(("field", "value"), [("expires_in", 60), ("expires_in", 604800), ("views", 1), ("views", 100)])
def test_values_at_the_bounds_are_taken(served: Served, post: Any, field: str, value: int) -> None:
    told = post(served, {"message": "hi", field: value}).json()
    if field == "views":
        assert told["views"] == value
    else:
        assert lifetime(served, told["receipt"]) == timedelta(seconds=value)


@every_way
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("expires_in", value) for value in (59, 604801, 0, -1, "1.5", "1e3", "x", " 60", "0x60", "６０", "9" * 30)),
        *(("views", value) for value in (0, 101, -1, "1.0", "x", "1 ", "+1", "١")),
        *(("format", value) for value in ("html", "TEXT", "text ")),
        ("passphrase", "x" * 1025),
        ("passphrase", "é" * 513),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(served: Served, post: Any, field: str, value: object) -> None:
    answer = post(served, {"message": "hi", field: value})
    assert answer.status_code == 400
    assert answer.json()["field"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("expires_in", value) for value in (60.5, 60.0, True, [60], {"s": 60}, 10**30)),
        *(("views", value) for value in (1.0, True, False, [1], {}, 10**30)),
        *(("format", value) for value in (None, 1, [], "")),
        *(("passphrase", value) for value in ("", 1, True, ["x"])),
        *(("message", value) for value in (None, 1, ["hi"], {"text": "hi"}, True, "")),
    ],
)
def test_json_values_of_another_type_are_refused_by_name(served: Served, field: str, value: object) -> None:
    answer = post_json(served, {"message": "hi", field: value})
    assert answer.status_code == 400
    assert answer.json()["field"] == field


@pytest.mark.parametrize("post", [post_form, post_multipart])
def test_empty_fields_of_a_form_count_as_absent(served: Served, post: Any) -> None:
    """A browser sends every field of a form, filled in or not."""
    told = post(served, {"message": "hi", "expires_in": "", "views": "", "passphrase": "", "format": ""}).json()
    assert told["views"] is None
    assert lifetime(served, told["receipt"]) == timedelta(days=7)
    assert served.http.get(told["link"]).text == "hi"


@pytest.mark.parametrize("views", ["", None])
def test_empty_views_of_json_are_any_number(served: Served, views: object) -> None:
    assert post_json(served, {"message": "hi", "views": views}).json()["views"] is None


@every_way
def test_unknown_field_is_refused_with_the_cure_and_without_its_name(served: Served, post: Any) -> None:
    """`curl -d 'message=a&b=secret'` makes a field of a piece of the message: it must not come back."""
    answer = post(served, {"message": "hi", "hunter2": "hunter3"})
    assert answer.status_code == 400
    assert "--data-urlencode" in answer.text
    assert "hunter" not in answer.text


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (b"message=a&message=b", FORM, ""),
        (b"message=a&views=1&views=1", FORM, ""),
        (b'{"message":"a","message":"a"}', "application/json", ""),
        (b'{"message":"a","views":1,"views":100}', "application/json", ""),
        (b"a", "text/plain", "?views=1&views=2"),
        (
            b'--b\r\nContent-Disposition: form-data; name="message"\r\n\r\na\r\n'
            b'--b\r\nContent-Disposition: form-data; name="message"\r\n\r\nb\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            "",
        ),
    ],
)
def test_repeated_field_is_refused(served: Served, body: bytes, content_type: str, query: str) -> None:
    answer = served.http.post(f"/{query}", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert "twice" in answer.text


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"views=1", FORM), (b"", FORM), (b"message=", FORM), (b'{"views":1}', "application/json"), (b"", "text/plain"), (b"", "")],
)
def test_without_a_message_nothing_is_created(served: Served, body: bytes, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert served.http.post("/", content=body, headers=headers).status_code == 400


def test_plain_text_names_its_message_in_the_body_only(served: Served) -> None:
    answer = served.http.post("/?message=query", content=b"body", headers={"Content-Type": "text/plain"})
    if answer.status_code == 201:
        assert served.http.get(answer.text.strip()).text == "body"
    else:
        assert answer.status_code == 400


@pytest.mark.parametrize("post", [post_form, post_multipart, post_json])
def test_options_in_the_query_are_not_silently_lost(served: Served, post: Any) -> None:
    """`curl -d message=hi '…/?views=1'` must not make a message that opens for ever."""
    body = {post_form: (b"message=hi", FORM), post_json: (b'{"message":"hi"}', "application/json")}.get(
        post,
        (b'--b\r\nContent-Disposition: form-data; name="message"\r\n\r\nhi\r\n--b--\r\n', "multipart/form-data; boundary=b"),
    )
    answer = served.http.post("/?views=1", content=body[0], headers={"Content-Type": body[1]})
    assert answer.status_code == 400


def test_message_with_a_passphrase_opens_with_it_alone(served: Served) -> None:
    """However an accent was typed, it is the same passphrase (RFC 8265): composed here, decomposed there."""
    told = post_text(served, {"message": "hi", "passphrase": "caf\u00e9", "views": 1}).json()
    assert served.http.get(told["link"]).status_code == 405
    assert served.http.post(told["link"]).status_code == 403
    assert served.http.post(told["link"], json={"passphrase": "cafe"}).status_code == 403
    assert served.http.post(told["link"], json={"passphrase": "cafe\u0301"}, headers={"Accept": "text/plain"}).text == "hi"


def test_passphrase_of_the_longest_length_is_used_in_full(served: Served) -> None:
    told = post_json(served, {"message": "hi", "passphrase": "x" * 1024}).json()
    assert served.http.post(told["link"], json={"passphrase": "x" * 1023}).status_code == 403
    assert served.http.post(told["link"], json={"passphrase": "x" * 1024}).json()["message"] == "hi"


def test_markdown_is_bounded_to_16_kib(served: Served) -> None:
    assert post_json(served, {"message": "x" * 16 * 1024, "format": "markdown"}).status_code == 201
    assert post_json(served, {"message": "x" * (16 * 1024 + 1), "format": "markdown"}).status_code == 413
    assert post_json(served, {"message": "x" * (16 * 1024 + 1)}).status_code == 201


# The form of the answer

ANSWERS = [
    # What was sent, Accept, what comes back
    ("form", None, "text"),
    ("form", "*/*", "text"),
    ("text", "*/*", "text"),
    ("multipart", "*/*", "text"),
    ("json", None, "json"),
    ("json", "*/*", "json"),
    ("json", "text/plain", "text"),
    ("json", "text/html", "html"),
    ("form", "application/json", "json"),
    ("form", "application/json, */*;q=0.1", "json"),
    ("form", BROWSER["Accept"], "html"),
    ("multipart", BROWSER["Accept"], "html"),
    ("form", "text/plain;q=0.5, application/json;q=0.9", "json"),
    ("form", "text/html;q=0, text/plain", "text"),
    ("form", "image/png", "text"),
    ("form", "nonsense;;;,/,q=x", "text"),
]
TYPES = {"text": "text/plain; charset=utf-8", "json": "application/json", "html": "text/html; charset=utf-8"}


@pytest.mark.parametrize(("sent", "accept", "kind"), ANSWERS)
def test_answer_follows_accept_and_otherwise_the_request(served: Served, sent: str, accept: str | None, kind: str) -> None:
    body, content_type = {
        "form": (b"message=hi", FORM),
        "text": (b"hi", "text/plain"),
        "json": (b'{"message":"hi"}', "application/json"),
        "multipart": (
            b'--b\r\nContent-Disposition: form-data; name="message"\r\n\r\nhi\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
    }[sent]
    headers = [("Content-Type", content_type), *([("Accept", accept)] if accept else [])]
    (answer,) = raw.send(served, raw.request("POST", "/", headers, body))
    assert answer.status == 201
    assert answer.header("Content-Type") == TYPES[kind]
    location = answer.header("Location")
    assert location
    if kind == "text":
        assert answer.body.decode() == f"{location}\n"
    elif kind == "json":
        assert json.loads(answer.body)["link"] == location
    else:
        assert location in answer.body.decode()


def test_curl_gets_the_bare_link_and_a_newline(served: Served) -> None:
    answer = served.http.post("/", content=b"message=hi%20there", headers={**CURL, "Content-Type": FORM})
    assert re.fullmatch(LINK + "\n", answer.text)
    assert served.http.get(answer.text.strip(), headers=CURL).text == "hi there"


def test_page_shows_link_receipt_and_what_the_server_could_read(served: Served) -> None:
    answer = served.http.post("/", data={"message": "hi", "views": "1"}, headers=BROWSER)
    assert answer.status_code == 201
    assert answer.headers["Location"] in answer.text
    assert f"{served.url}/receipt/" in answer.text
    assert "Who can read it" in answer.text
    assert "while it holds the message" in answer.text
    assert "Kept" in answer.text


def test_page_to_write_a_message_sends_what_create_takes(served: Served) -> None:
    page = served.http.get("/", headers=BROWSER)
    assert page.headers["Content-Type"] == TYPES["html"]
    assert set(re.findall(r'name="([a-z_]+)"', page.text)) - {"viewport", "color-scheme"} == {
        "message", "expires_in", "views", "passphrase", "format",
    }  # fmt: skip


# What links begin with


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    settings = {"MAYFLY_TRUSTED_PROXIES": "127.0.0.1", "MAYFLY_TRUSTED_HOSTS": "mayfly.example,localhost,127.0.0.1"}
    with Served(tmp_path_factory.mktemp("proxied"), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("public"), MAYFLY_PUBLIC_URL="https://mayfly.example") as running:
        yield running


def create_as(served: Served, host: str, *headers: tuple[str, str]) -> raw.Response:
    (answer,) = raw.send(served, raw.request("POST", "/", [("Content-Type", "text/plain"), *headers], b"hi", host=host))
    return answer


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_link_begins_with_the_trusted_host_of_the_request(served: Served, host: str) -> None:
    assert create_as(served, host).body.decode().startswith(f"http://{host}/message/")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1.evil.example", "localhost:8000@evil.example", "localhost/evil", "evil@localhost", "",
        "localhost:99999", "localhost:x", "localhost:", "[::1", "::1", "localhost, evil.example", "localhost evil", "127.0.0.2",
        "0177.0.0.1", "localhost.", "xn--80ak6aa92e.com",
    ],
)  # fmt: skip
def test_forged_host_is_refused(served: Served, host: str) -> None:
    answer = create_as(served, host)
    assert answer.status == 400
    assert b"/message/" not in answer.body
    assert answer.header("Location") is None


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-Host", "X-Forwarded-Server"])
def test_forwarded_host_headers_count_nowhere(served: Served, behind_proxy: Served, header: str) -> None:
    value = "host=evil.example" if header == "Forwarded" else "evil.example"
    for server in (served, behind_proxy):
        assert create_as(server, "localhost", (header, value)).body.decode().startswith("http://localhost/message/")


def test_forwarded_scheme_counts_from_a_trusted_proxy_alone(served: Served, behind_proxy: Served) -> None:
    forwarded = ("X-Forwarded-Proto", "https")
    assert create_as(served, "localhost", forwarded).body.decode().startswith("http://localhost/message/")
    assert create_as(behind_proxy, "mayfly.example", forwarded).body.decode().startswith("https://mayfly.example/message/")
    assert create_as(behind_proxy, "mayfly.example").body.decode().startswith("http://mayfly.example/message/")
    nonsense = create_as(behind_proxy, "mayfly.example", ("X-Forwarded-Proto", "javascript"))
    assert nonsense.body.decode().startswith("http://mayfly.example/message/")


@pytest.mark.parametrize("host", ["localhost", "mayfly.example", "mayfly.example:8443", "127.0.0.1:1"])
def test_public_url_begins_every_link_whatever_the_request_says(public: Served, host: str) -> None:
    answer = create_as(public, host, ("X-Forwarded-Proto", "http"))
    assert answer.body.decode().startswith("https://mayfly.example/message/")
    told = json.loads(create_as(public, host, ("Accept", "application/json")).body)
    assert told["receipt"].startswith("https://mayfly.example/receipt/")
    assert create_as(public, "evil.example").status == 400
