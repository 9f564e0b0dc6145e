"""/message/<uuid>: looking, opening, leases, passphrases; and that every link without a message answers alike."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.serving import Served

KEY = {"Idempotency-Key": "k" * 16}
OTHER_KEY = {"Idempotency-Key": "o" * 16}
ACCEPTS = {"json": "application/json", "text": "text/plain", "html": "text/html,*/*;q=0.8"}
JSON, TEXT, HTML = ({"Accept": value} for value in ACCEPTS.values())
FORM = "application/x-www-form-urlencoded"

every_kind = pytest.mark.parametrize("accept", ACCEPTS.values(), ids=ACCEPTS.keys())


# Looking: safe methods


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_message_without_limit_is_shown_to_safe_methods(served: Served, method: str) -> None:
    message = served.create("hello")
    for headers, content_type in [(JSON, "application/json"), (TEXT, "text/plain"), (HTML, "text/html")]:
        answer = served.http.request(method, message.path, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith(content_type)
        assert int(answer.headers["Content-Length"]) > 0
        assert ("hello" in answer.text) == (method == "GET")


@pytest.mark.parametrize("fields", [{"views": 1}, {"views": 100}, {"passphrase": "p"}])
def test_limited_message_is_not_shown_to_safe_methods(served: Served, fields: dict[str, object]) -> None:
    """The page to open it for a browser; for all others 405, and how it opens."""
    message = served.create("canary", **fields)
    for method, headers in product(("GET", "HEAD"), (JSON, TEXT, {})):
        answer = served.http.request(method, message.path, headers=headers)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "POST, DELETE"
        assert "canary" not in answer.text
        if method == "GET":
            assert "POST" in answer.text
    page = served.http.get(message.path, headers=HTML)
    assert page.status_code == 200
    assert "canary" not in page.text
    assert 'name="open" value="yes"' in page.text
    assert ('name="passphrase"' in page.text) == ("passphrase" in fields)


def test_looking_tells_what_opening_answers(served: Served) -> None:
    """The JSON of a message has the four fields of the contract."""
    message = served.create("hello", expires_in=3600)
    expected = {"message": "hello", "format": "text", "expires_at": message.expires_at, "views_left": None}
    assert served.http.get(message.path, headers=JSON).json() == expected
    assert served.http.post(message.path, headers=JSON).json() == expected
    markdown = served.create("*x*", format="markdown", views=2)
    assert served.http.post(markdown.path, headers=JSON).json() == {
        "message": "*x*", "format": "markdown", "expires_at": markdown.expires_at, "views_left": 1,
    }  # fmt: skip


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "BREW"])
def test_other_methods_are_told_which_ones_there_are(served: Served, method: str) -> None:
    for path in (served.create("hello", views=1).path, f"/message/{uuid4()}", "/message/nonsense"):
        answer = served.http.request(method, path)
        assert answer.status_code == 405
        assert {"GET", "HEAD", "POST", "DELETE"} <= set(answer.headers["Allow"].split(", "))


# Opening


def opening(**how: object) -> dict[str, object]:
    return how


@pytest.mark.parametrize(
    "how",
    [
        opening(),
        opening(json={}),
        opening(data={"open": "yes"}),
        opening(files={"open": (None, "yes")}),
        opening(headers=KEY),
        opening(data={"open": "yes", "idempotency_key": "k" * 16}),
        opening(json={"idempotency_key": "k" * 16}),
    ],
    ids=["empty", "json", "form", "multipart", "key in header", "key in form", "key in json"],
)
def test_each_opening_takes_one_view(served: Served, how: dict[str, object]) -> None:
    message = served.create("hello", views=3)
    for left in (2, 1, 0):
        key = {"Idempotency-Key": f"{'k' * 16}{left}"} if "headers" in how else {}
        body = {name: _with_key(value, left) for name, value in how.items() if name != "headers"}
        answer = served.http.post(message.path, headers={**JSON, **key}, **body)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["message"], answer.json()["views_left"]) == (200, "hello", left)
    assert served.http.post(message.path).status_code == 404


def _with_key(body: object, number: int) -> object:
    if isinstance(body, dict) and "idempotency_key" in body:
        return {**body, "idempotency_key": f"{'k' * 16}{number}"}
    return body


@every_kind
def test_opened_message_comes_in_the_kind_asked_for(served: Served, accept: str) -> None:
    message = served.create("a <b> c", views=1)
    answer = served.http.post(message.path, headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith(accept.split(",")[0])
    if "html" in accept:
        assert "a &lt;b&gt; c" in answer.text
    elif "json" in accept:
        assert answer.json()["message"] == "a <b> c"
    else:
        assert answer.content == b"a <b> c"


@pytest.mark.parametrize("fields", [{}, {"open": ""}, {"open": "on"}, {"open": "no"}, {"open": "YES"}, {"passphrase": "p"}])
@pytest.mark.parametrize("as_files", [False, True], ids=["form", "multipart"])
@every_kind
def test_form_without_the_tick_opens_nothing(served: Served, fields: dict[str, str], as_files: bool, accept: str) -> None:
    """Scanners submit forms; whoever does, by whatever Accept, must have ticked."""
    message = served.create("hello", views=1)
    files = {name: (None, value) for name, value in (fields or {"idempotency_key": "k" * 16}).items()}
    body = {"files": files} if as_files else {"content": "&".join(f"{n}={v}" for n, v in fields.items()).encode()}
    headers = {"Accept": accept, **({} if as_files else {"Content-Type": FORM})}
    answer = served.http.post(message.path, headers=headers, **body)  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert "open=yes" in answer.text or "Tick" in answer.text
    assert served.http.post(message.path).text == "hello"


def test_reveal_page_is_enough_to_open_and_reload(served: Served) -> None:
    """What the page's form sends opens; sending the same form again, as a reload does, shows the same page."""
    message = served.create("hello", views=1)
    page = served.http.get(message.path, headers=HTML).text
    fields = dict(re.findall(r'<input type="hidden" name="([a-z_]+)" value="([^"]*)"', page))
    assert re.fullmatch(r"[A-Za-z0-9_-]{16,128}", fields["idempotency_key"])
    first = served.http.post(message.path, data={**fields, "open": "yes"}, headers=HTML)
    again = served.http.post(message.path, data={**fields, "open": "yes"}, headers=HTML)
    assert first.status_code == 200
    assert "hello" in first.text
    assert again.content == first.content
    assert served.http.post(message.path, data={"open": "yes"}, headers=HTML).status_code == 404


def test_each_reveal_page_has_a_lease_key_of_its_own(served: Served) -> None:
    message = served.create("hello", views=1)
    pages = [served.http.get(message.path, headers=HTML).text for _ in range(5)]
    assert len({re.search(r'name="idempotency_key" value="([^"]*)"', page)[1] for page in pages}) == 5  # type: ignore[index]


@pytest.mark.parametrize(
    "request_",
    [
        *[opening(json={"message": "x"}), opening(data={"open": "yes", "views": "2"}), opening(json={"passphrase": 1})],
        *[opening(json={"passphrase": {}}), opening(json={"proof": 0}), opening(json={"open": "no"})],
    ],
)
def test_opening_with_what_it_does_not_take_uses_nothing_up(served: Served, request_: dict[str, object]) -> None:
    message = served.create("hello", views=1)
    assert served.http.post(message.path, **request_).status_code == 400  # type: ignore[arg-type]
    assert served.http.post(message.path, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 400
    assert served.http.post(message.path, content=b"x", headers={"Content-Type": "image/png"}).status_code == 415
    assert served.http.post(message.path).text == "hello"


# Leases


@every_kind
def test_same_key_gets_the_same_bytes_until_the_lease_ends(own_served: Served, accept: str) -> None:
    message = own_served.create("hello", views=1)
    first = own_served.http.post(message.path, headers={"Accept": accept, **KEY})
    assert first.status_code == 200
    own_served.clock.advance(15)
    again = own_served.http.post(message.path, headers={"Accept": accept, **KEY})
    assert (again.status_code, again.content, without_date(again)) == (200, first.content, without_date(first))
    assert own_served.http.post(message.path, headers={"Accept": accept, **OTHER_KEY}).status_code == 404
    assert own_served.http.post(message.path, headers={"Accept": accept}).status_code == 404
    assert own_served.http.get(message.path, headers={"Accept": accept}).status_code == 404
    own_served.clock.advance(15)
    assert own_served.http.post(message.path, headers={"Accept": accept, **KEY}).status_code == 404


def test_lease_of_one_view_of_many_tells_the_same_number_again(served: Served) -> None:
    message = served.create("hello", views=3)
    first = served.http.post(message.path, headers={**JSON, **KEY})
    assert served.http.post(message.path, headers={**JSON, **OTHER_KEY}).json()["views_left"] == 1
    again = served.http.post(message.path, headers={**JSON, **KEY})
    assert again.content == first.content
    assert again.json()["views_left"] == 2


def test_lease_ends_when_the_message_expires(own_served: Served) -> None:
    message = own_served.create("hello", views=1, expires_in=60)
    own_served.clock.advance(50)
    assert own_served.http.post(message.path, headers=KEY).text == "hello"
    own_served.clock.advance(5)
    assert own_served.http.post(message.path, headers=KEY).text == "hello"
    own_served.clock.advance(5)
    assert own_served.http.post(message.path, headers=KEY).status_code == 404


def test_lease_that_was_confirmed_is_gone(served: Served) -> None:
    message = served.create("hello", views=1)
    assert served.http.post(message.path, headers=KEY).text == "hello"
    confirmed = served.http.delete(message.path, headers=KEY)
    assert (confirmed.status_code, confirmed.content) == (204, b"")
    assert served.http.post(message.path, headers=KEY).status_code == 404
    assert served.http.delete(message.path, headers=KEY).status_code == 404


def test_confirming_one_lease_leaves_views_and_other_leases(served: Served) -> None:
    message = served.create("hello", views=3)
    for key in (KEY, OTHER_KEY):
        served.http.post(message.path, headers=key)
    assert served.http.delete(message.path, headers=KEY).status_code == 204
    assert served.http.post(message.path, headers={**JSON, **OTHER_KEY}).json()["views_left"] == 1
    assert served.http.post(message.path, headers=JSON).json()["views_left"] == 0
    assert served.http.post(message.path, headers=OTHER_KEY).text == "hello"


def test_only_the_holder_of_a_lease_can_delete(served: Served) -> None:
    message = served.create("hello", views=1)
    assert served.http.delete(message.path).status_code == 400
    assert served.http.delete(message.path, headers=KEY).status_code == 404
    assert served.http.post(message.path, headers=KEY).text == "hello"
    assert served.http.delete(message.path, headers=OTHER_KEY).status_code == 404
    assert served.http.post(message.path, headers=KEY).text == "hello"


@pytest.mark.parametrize(
    "key", ["k" * 15, "k" * 129, "k" * 16 + " k", "k" * 16 + "!", "kkkkkkkkkkkkkkk.", "é" * 16, '"' + "k" * 16 + '"']
)
def test_malformed_key_is_refused_and_uses_nothing_up(served: Served, key: str) -> None:
    message = served.create("hello", views=1)
    raw_key = key.encode()
    for method in ("POST", "DELETE"):
        answer = served.http.request(method, message.path, headers=[(b"Idempotency-Key", raw_key)])
        assert answer.status_code == 400
        assert key not in answer.text
    assert served.http.post(message.path, data={"open": "yes", "idempotency_key": key}).status_code == 400
    assert served.http.post(message.path).text == "hello"


@pytest.mark.parametrize("key", ["k" * 16, "k" * 128, "AZaz09_-AZaz09_-"])
def test_key_of_every_allowed_form_takes_a_lease(served: Served, key: str) -> None:
    message = served.create("hello", views=1)
    for _ in range(2):
        assert served.http.post(message.path, headers={"Idempotency-Key": key}).text == "hello"


def test_key_of_one_message_is_none_of_another(served: Served) -> None:
    first, second = served.create("first", views=1), served.create("second", views=1)
    assert served.http.post(first.path, headers=KEY).text == "first"
    assert served.http.post(second.path, headers=KEY).text == "second"
    assert served.http.post(first.path, headers=KEY).text == "first"


def test_two_keys_in_one_request_are_refused(served: Served) -> None:
    message = served.create("hello", views=1)
    form = {"open": "yes", "idempotency_key": "o" * 16}
    assert served.http.post(message.path, data=form, headers=KEY).status_code == 400
    headers = [("Idempotency-Key", "k" * 16), ("Idempotency-Key", "o" * 16)]
    assert served.http.post(message.path, headers=headers).status_code == 400
    assert served.http.post(message.path).text == "hello"


# Passphrases


def test_missing_passphrase_uses_neither_view_nor_try(served: Served) -> None:
    message = served.create("hello", views=1, passphrase="right")
    for how in ({}, {"json": {}}, {"data": {"open": "yes"}}, {"data": {"open": "yes", "passphrase": ""}}, {"headers": KEY}):
        for _ in range(3):
            answer = served.http.post(message.path, **how)  # type: ignore[arg-type]
            assert answer.status_code == 403
            assert "passphrase" in answer.text
    wrong = served.http.post(message.path, json={"passphrase": "wrong"})
    assert wrong.json()["tries_left"] == 4
    assert served.http.post(message.path, json={"passphrase": "right"}).json()["message"] == "hello"


def test_wrong_passphrase_tells_the_tries_left_and_the_fifth_destroys(served: Served) -> None:
    message = served.create("hello", views=2, passphrase="right")
    for left in (4, 3, 2):
        answer = served.http.post(message.path, json={"passphrase": "wrong"})
        assert (answer.status_code, answer.json()["tries_left"]) == (403, left)
    opened = served.http.post(message.path, json={"passphrase": "right"})
    assert opened.json()["views_left"] == 1, "wrong tries must use no view"
    as_text = served.http.post(
        message.path, content=b'{"passphrase":"wrong"}', headers={"Content-Type": "application/json", **TEXT}
    )
    assert (as_text.status_code, as_text.text) == (403, "That passphrase is wrong. Tries left: one.\n")
    last = served.http.post(message.path, json={"passphrase": "wrong"})
    assert (last.status_code, last.json()["tries_left"]) == (403, 0)
    assert served.http.post(message.path, json={"passphrase": "right"}).status_code == 404
    assert served.http.get(message.receipt_path, headers=JSON).json()["state"] == "locked"


def test_wrong_passphrase_in_the_page_shows_the_page_again(served: Served) -> None:
    message = served.create("hello", views=1, passphrase="right")
    answer = served.http.post(message.path, data={"open": "yes", "passphrase": "hunter2"}, headers=HTML)
    assert answer.status_code == 403
    assert 'name="passphrase"' in answer.text
    assert "Tries left: 4" in answer.text
    assert "hunter2" not in answer.text
    assert "hello" in served.http.post(message.path, data={"open": "yes", "passphrase": "right"}, headers=HTML).text


def test_lease_of_a_message_with_passphrase_repeats_it_to_the_passphrase_alone(served: Served) -> None:
    message = served.create("hello", views=1, passphrase="right")
    first = served.http.post(message.path, json={"passphrase": "right"}, headers=KEY)
    assert served.http.post(message.path, json={"passphrase": "right"}, headers=KEY).content == first.content
    assert served.http.post(message.path, headers=KEY).status_code == 403
    assert served.http.post(message.path, json={"passphrase": "wrong"}, headers=KEY).status_code == 403
    assert served.http.post(message.path, json={"passphrase": "wrong"}, headers=OTHER_KEY).status_code == 404


def test_parallel_guesses_check_five_passphrases_and_no_more(served: Served) -> None:
    """All others are told to wait, or that there is nothing any more; each wrong try is told its own number."""
    seen: list[tuple[int, int | None]] = []
    for _ in range(3):
        message = served.create("hello", passphrase="right")
        barrier = threading.Barrier(16)

        def guess(number: int, path: str = message.path, barrier: threading.Barrier = barrier) -> tuple[int, int | None]:
            with httpx.Client(base_url=served.url, timeout=60) as http:
                barrier.wait()
                answer = http.post(path, json={"passphrase": f"wrong {number}"})
                return answer.status_code, answer.json().get("tries_left")

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(guess, range(16)))
        # Derivations that found no turn gave their tries back: use up what is left, then nothing may be left.
        while (late := served.http.post(message.path, json={"passphrase": "wrong"})).status_code == 403:
            answers.append((403, late.json()["tries_left"]))
        assert late.status_code == 404
        assert sorted(left for status, left in answers if status == 403) == [0, 1, 2, 3, 4]  # type: ignore[type-var]
        assert {status for status, _ in answers} <= {403, 404, 429, 503}
        assert served.http.get(message.receipt_path, headers=JSON).json()["state"] == "locked"
        seen += answers
        if any(status == 429 for status, _ in seen):
            break
    assert any(status == 429 for status, _ in seen), "no guess met all tries reserved"


# Every 404 of a message is the same 404

MALFORMED = [
    "x", "0", "%00", "%ff%fe", "..", "..%2f..%2fkey.json", "6f0c", str(uuid4()).upper(), str(uuid4()).replace("-", ""),
    f"{{{uuid4()}}}",
    "00000000-0000-0000-0000-000000000000", "11111111-1111-1111-8111-111111111111", "é", "a" * 2000,
]  # fmt: skip


def without_date(answer: httpx.Response) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in answer.headers.multi_items() if name.lower() != "date")


def requests_for_a_message() -> list[tuple[str, dict[str, object]]]:
    return [
        ("GET", {}),
        ("HEAD", {}),
        ("POST", {}),
        ("POST", {"headers": KEY}),
        ("POST", {"json": {}}),
        ("POST", {"json": {"passphrase": "right"}}),
        ("POST", {"data": {"open": "yes"}}),
        ("POST", {"data": {"open": "yes", "idempotency_key": "o" * 16}}),
        ("POST", {"data": {"passphrase": "right"}}),
        ("POST", {"data": {"idempotency_key": "o" * 16}}),
        ("DELETE", {"headers": KEY}),
    ]


def answers_of(served: Served, path: str) -> list[tuple[int, bytes, list[tuple[str, str]]]]:
    found = []
    for (method, how), accept in product(requests_for_a_message(), [*ACCEPTS.values(), "*/*"]):
        headers = {"Accept": accept, **how.get("headers", {})}  # type: ignore[dict-item]
        answer = served.http.request(method, path, **{**how, "headers": headers})  # type: ignore[arg-type]
        found.append((answer.status_code, answer.content, without_date(answer)))
    return found


def test_every_link_without_a_message_answers_alike(tmp_path: Path) -> None:
    """Never existed, malformed, opened, leased to another, confirmed, expired, burned, locked, purged, taken
    down: status, body and headers."""
    with Served(tmp_path) as served:
        purged = served.create("x", views=1, expires_in=60)
        purged_with_passphrase = served.create("x", passphrase="right", expires_in=60)
        served.clock.advance(61)
        assert served.purge() == 2
        expired = served.create("x", views=1, expires_in=60)
        expired_freely_read = served.create("x", expires_in=60)
        expired_lease = served.create("x", views=1, expires_in=60)
        served.http.post(expired_lease.path, headers=KEY)
        served.clock.advance(61)
        opened, confirmed, leased = (served.create("x", views=1) for _ in range(3))
        served.http.post(opened.path)
        served.http.post(confirmed.path, headers=KEY)
        served.http.delete(confirmed.path, headers=KEY)
        served.http.post(leased.path, headers={"Idempotency-Key": "somebody-elses-key"})
        burned = served.create("x")
        served.http.delete(burned.receipt_path)
        locked = served.create("x", passphrase="right")
        for _ in range(5):
            served.http.post(locked.path, json={"passphrase": "wrong"})
        taken_down = served.create("x")
        served.http.post("/delete", data={"link": taken_down.link}, headers={"Authorization": f"Bearer {served.admin_token}"})

        expected = answers_of(served, f"/message/{uuid4()}")
        assert {status for status, _, _ in expected} == {404}
        dead = [
            purged, purged_with_passphrase, expired, expired_freely_read, expired_lease, opened, confirmed, leased, burned, locked,
            taken_down, leased,
        ]  # fmt: skip
        for message in dead:
            assert answers_of(served, message.path) == expected
        for link_id in MALFORMED:
            if link_id == "..":  # clients resolve it: /
                continue
            if link_id.startswith("..%2f"):
                assert served.http.get(f"/message/{link_id}").status_code == 404
                continue
            assert answers_of(served, f"/message/{link_id}") == expected, link_id


def test_message_is_gone_at_its_time_without_any_purge(own_served: Served) -> None:
    """The scheduler is off in this server: reads refuse by themselves."""
    messages = [own_served.create("hello", expires_in=60, **fields) for fields in ({}, {"views": 1}, {"passphrase": "right"})]
    own_served.clock.advance(58)
    assert own_served.http.get(messages[0].path).text == "hello"
    own_served.clock.advance(2)
    for message in messages:
        assert own_served.http.get(message.path).status_code == 404
        assert own_served.http.post(message.path, json={"passphrase": "right"}).status_code == 404
        assert own_served.http.get(message.receipt_path, headers=JSON).json()["state"] == "expired"
