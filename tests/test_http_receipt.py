"""/receipt/<token>: the sender's side. States and times, burning, and that no wrong token does anything."""

from __future__ import annotations

import base64
import os
import re
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import httpx
import pytest

from tests.serving import CreatedMessage, Served

JSON = {"Accept": "application/json"}
TEXT = {"Accept": "text/plain"}
HTML = {"Accept": "text/html"}
KEY = {"Idempotency-Key": "k" * 16}


def receipt_of(served: Served, message: CreatedMessage) -> dict[str, Any]:
    answer = served.http.get(message.receipt_path, headers=JSON)
    assert answer.status_code == 200
    told = answer.json()
    assert set(told) == {"state", "created_at", "expires_at", "opened", "views_left"}
    return dict(told)


def test_receipt_of_a_new_message_waits(served: Served) -> None:
    told = receipt_of(served, served.create("hello", expires_in=3600, views=2))
    assert (told["state"], told["opened"], told["views_left"]) == ("waiting", [], 2)
    assert datetime.fromisoformat(told["expires_at"]) - datetime.fromisoformat(told["created_at"]) == timedelta(hours=1)
    assert receipt_of(served, served.create("hello"))["views_left"] is None


def test_receipt_tells_the_times_of_opening_in_order(own_served: Served) -> None:
    message = own_served.create("hello", views=3)
    created = datetime.fromisoformat(receipt_of(own_served, message)["created_at"])
    for _ in range(2):
        own_served.clock.advance(3600)
        own_served.http.post(message.path)
    told = receipt_of(own_served, message)
    assert (told["state"], told["views_left"]) == ("opened", 1)
    after = [datetime.fromisoformat(at) - created for at in told["opened"]]
    assert [round(since / timedelta(hours=1), 1) for since in after] == [1, 2]
    own_served.clock.advance(7 * 24 * 3600)
    told = receipt_of(own_served, message)
    assert (told["state"], told["views_left"], len(told["opened"])) == ("opened", 0, 2)


def test_repeating_an_opening_under_its_lease_is_no_second_opening(served: Served) -> None:
    message = served.create("hello", views=2)
    for _ in range(3):
        served.http.post(message.path, headers=KEY)
    told = receipt_of(served, message)
    assert (told["views_left"], len(told["opened"])) == (1, 1)


@pytest.mark.parametrize("fields", [{}, {"views": 1}, {"passphrase": "right"}])
def test_message_nobody_opened_is_expired_after_its_time(own_served: Served, fields: dict[str, Any]) -> None:
    message = own_served.create("hello", expires_in=60, **fields)
    own_served.clock.advance(61)
    for _ in range(2):  # before the purge and after it
        told = receipt_of(own_served, message)
        assert (told["state"], told["opened"], told["views_left"]) == ("expired", [], 0)
        own_served.purge()


def test_receipt_answers_for_eight_days_and_then_like_none(own_served: Served) -> None:
    message = own_served.create("hello", views=1)
    own_served.clock.advance(8 * 24 * 3600 - 5)
    assert receipt_of(own_served, message)["state"] == "expired"
    own_served.clock.advance(10)
    gone = own_served.http.get(message.receipt_path, headers=JSON)
    never = own_served.http.get("/receipt/" + base64.urlsafe_b64encode(os.urandom(48)).decode(), headers=JSON)
    assert (gone.status_code, gone.content) == (never.status_code, never.content)
    assert gone.status_code == 404


def test_receipt_never_holds_content(served: Served) -> None:
    message = served.create("c4n4ry", passphrase="p4ss", views=3)
    served.http.post(message.path, json={"passphrase": "p4ss"})
    for headers in (JSON, TEXT, HTML, {}):
        told = served.http.get(message.receipt_path, headers=headers).text
        assert "c4n4ry" not in told
        assert "p4ss" not in told
        assert message.id not in told


def test_receipt_as_text_and_page(served: Served) -> None:
    message = served.create("hello", views=2)
    served.http.post(message.path)
    text = served.http.get(message.receipt_path, headers=TEXT).text
    assert re.fullmatch("state: opened\ncreated: .*Z\nexpires: .*Z\nopened: .*Z\nviews left: 1\n", text)
    page = served.http.get(message.receipt_path, headers=HTML).text
    assert "Opened" in page
    assert 'name="burn"' in page
    served.http.delete(message.receipt_path)
    assert 'name="burn"' not in served.http.get(message.receipt_path, headers=HTML).text


# Burning


@pytest.mark.parametrize("by", ["DELETE", "form", "json", "multipart"])
@pytest.mark.parametrize("fields", [{}, {"views": 1}, {"passphrase": "right"}])
def test_burned_message_is_gone_and_its_receipt_says_so(served: Served, by: str, fields: dict[str, Any]) -> None:
    message = served.create("hello", **fields)
    burned = {
        "DELETE": lambda: served.http.delete(message.receipt_path, headers=JSON),
        "form": lambda: served.http.post(message.receipt_path, data={"burn": "yes"}, headers=JSON),
        "json": lambda: served.http.post(message.receipt_path, json={"burn": "yes"}, headers=JSON),
        "multipart": lambda: served.http.post(message.receipt_path, files={"burn": (None, "yes")}, headers=JSON),
    }[by]()
    assert burned.status_code == 200
    assert (burned.json()["state"], burned.json()["views_left"]) == ("burned", 0)
    assert receipt_of(served, message)["state"] == "burned"
    assert served.http.get(message.path).status_code == 404
    assert served.http.post(message.path, json={"passphrase": "right"}).status_code == 404
    again = served.http.delete(message.receipt_path, headers=JSON)
    assert (again.status_code, again.json()["state"]) == (200, "burned")


def test_burning_ends_leases(served: Served) -> None:
    message = served.create("hello", views=2)
    assert served.http.post(message.path, headers=KEY).text == "hello"
    served.http.delete(message.receipt_path)
    assert served.http.post(message.path, headers=KEY).status_code == 404
    told = receipt_of(served, message)
    assert (told["state"], len(told["opened"])) == ("burned", 1)


def test_what_is_over_already_is_not_burned_afterwards(own_served: Served) -> None:
    opened, expired = own_served.create("hello", views=1), own_served.create("hello", expires_in=60)
    own_served.http.post(opened.path)
    own_served.clock.advance(61)
    assert own_served.http.delete(opened.receipt_path, headers=JSON).json()["state"] == "opened"
    assert own_served.http.delete(expired.receipt_path, headers=JSON).json()["state"] == "expired"


@pytest.mark.parametrize("body", [b"", b"burn=no", b"burn=", b"burn=yes&x=y", b"x=y", b"burn=YES"])
def test_burning_by_form_needs_its_field(served: Served, body: bytes) -> None:
    """A scanner that submits an empty form burns nothing."""
    message = served.create("hello")
    answer = served.http.post(message.receipt_path, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 400
    assert served.http.post(message.receipt_path).status_code == 400
    assert served.http.get(message.path).text == "hello"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_looking_at_a_receipt_burns_nothing(served: Served, method: str) -> None:
    message = served.create("hello", views=1)
    for headers in (JSON, TEXT, HTML):
        assert served.http.request(method, message.receipt_path, headers=headers).status_code == 200
    assert served.http.post(message.path).text == "hello"


# Wrong tokens


def wrong_tokens(message: CreatedMessage, other: CreatedMessage) -> list[str]:
    """Right row and another secret, another row and the right secret, shorter, longer, damaged, not base64."""
    token = message.receipt.rpartition("/")[2]
    raw, raw_other = base64.urlsafe_b64decode(token), base64.urlsafe_b64decode(other.receipt.rpartition("/")[2])

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode()

    return [
        encoded(raw[:32] + bytes(16)),
        encoded(raw[:32] + raw_other[32:]),
        encoded(raw_other[:32] + raw[32:]),
        encoded(raw[:32]),
        encoded(raw[:47]),
        encoded(raw[:-16]),
        encoded(raw + b"\0"),
        encoded(b"\0" + raw),
        encoded(raw[32:]),
        encoded(b""),
        token[:-1],
        token + "=",
        token.swapcase(),
        "x", "None", "null", "0", "%00", "é", "=" * 64, "A" * 5000, message.id,
    ]  # fmt: skip


def test_every_wrong_token_answers_alike_and_burns_nothing(served: Served) -> None:
    message, other = served.create("hello"), served.create("other")

    def answers(token: str) -> list[tuple[int, bytes, list[tuple[str, str]]]]:
        found = []
        for (method, how), accept in product(
            [("GET", {}), ("HEAD", {}), ("DELETE", {}), ("POST", {"data": {"burn": "yes"}})], (JSON, TEXT, HTML)
        ):
            answer = served.http.request(method, f"/receipt/{token}", headers=accept, **how)  # type: ignore[arg-type]
            found.append((answer.status_code, answer.content, without_date(answer)))
        return found

    never = answers(base64.urlsafe_b64encode(os.urandom(48)).decode())
    assert {status for status, _, _ in never} == {404}
    for token in wrong_tokens(message, other):
        if token:
            assert answers(token) == never, token
    assert served.http.get(message.path).text == "hello"
    assert served.http.get(other.path).text == "other"
    assert receipt_of(served, message)["state"] == "waiting"


def test_receipt_and_message_answer_the_same_404(served: Served) -> None:
    for headers in (JSON, TEXT, HTML):
        receipt, message = (served.http.get(f"/{kind}/nothing", headers=headers) for kind in ("receipt", "message"))
        assert (receipt.status_code, receipt.content, without_date(receipt)) == (404, message.content, without_date(message))


def test_a_thousand_wrong_tokens_leave_the_message_there(served: Served) -> None:
    """Each names the right row, which is all that a copy of the database would tell."""
    message = served.create("hello", views=1)
    row = base64.urlsafe_b64decode(message.receipt.rpartition("/")[2])[:32]
    answers = set()
    for number in range(1000):
        token = base64.urlsafe_b64encode(row + os.urandom(16)).decode()
        method, how = [("DELETE", {}), ("POST", {"data": {"burn": "yes"}})][number % 2]
        answer = served.http.request(method, f"/receipt/{token}", **how)  # type: ignore[arg-type]
        answers.add((answer.status_code, answer.content))
    assert len(answers) == 1
    assert answers.pop()[0] == 404
    assert served.http.post(message.path).text == "hello"


def without_date(answer: httpx.Response) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in answer.headers.multi_items() if name.lower() != "date")
