"""/admin and /delete: signing in, what the forms do, what a forged form does not, and the same for scripts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests import raw
from tests.serving import Served

HTML = {"Accept": "text/html"}
JSON = {"Accept": "application/json"}


@contextmanager
def sign_in(served: Served, **headers: str) -> Iterator[httpx.Client]:
    """A browser that is signed in."""
    with httpx.Client(base_url=served.url, headers=HTML, timeout=30) as browser:
        answer = browser.post("/admin", data={"token": served.admin_token}, headers=headers)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/admin")
        yield browser


@pytest.fixture(scope="module")
def browser(served: Served) -> Iterator[httpx.Client]:
    """One session for the module: attempts to sign in are counted, and ten a minute is all."""
    with sign_in(served) as signed_in_browser:
        yield signed_in_browser


def form_token(browser: httpx.Client) -> str:
    found = re.search(r'name="form_token" value="([^"]+)"', browser.get("/admin").text)
    assert found
    return found[1]


def signed_in(browser: httpx.Client) -> bool:
    return 'name="form_token"' in browser.get("/admin").text


def stored(browser: httpx.Client) -> tuple[int, int]:
    """Messages stored and expired, as the page shows them."""
    page = browser.get("/admin").text
    numbers = [re.search(rf'class="{name}"[^>]*>\s*([0-9]+)', page) for name in ("stored", "expired")]
    return int(numbers[0][1]), int(numbers[1][1])  # type: ignore[index]


# Signing in


def test_stranger_sees_the_door_and_nothing_else(served: Served) -> None:
    for _ in range(3):
        served.create("hello")
    page = served.http.get("/admin", headers=HTML)
    assert page.status_code == 200
    assert 'name="token"' in page.text
    assert 'type="password"' in page.text
    assert "form_token" not in page.text
    assert 'class="stored"' not in page.text
    assert "set-cookie" not in page.headers


def test_admin_token_opens_a_session_whose_cookie_is_bound(served: Served) -> None:
    """Out of reach for scripts and other sites; only as long as half an hour; without a domain."""
    answer = served.http.post("/admin", data={"token": served.admin_token}, headers=HTML)
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 1
    pair, *attributes = [part.strip() for part in cookies[0].split(";")]
    assert pair.startswith("mayfly-admin=")
    assert served.admin_token not in cookies[0]
    named = {part.partition("=")[0].lower(): part.partition("=")[2] for part in attributes}
    assert named["samesite"] == "Strict"
    assert named["path"] == "/"
    assert named["max-age"] == "1800"
    assert "httponly" in named
    assert "domain" not in named
    assert "secure" not in named  # plain http on loopback


def test_cookie_behind_https_is_secure_and_bound_to_the_host(tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_TRUSTED_PROXIES="127.0.0.1") as served:
        answer = served.http.post("/admin", data={"token": served.admin_token}, headers={**HTML, "X-Forwarded-Proto": "https"})
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-mayfly-admin=")
        assert "; Secure" in cookie
        assert "Path=/" in cookie
        assert "Domain" not in cookie


def test_wrong_token_opens_nothing(own_served: Served) -> None:
    token = own_served.admin_token
    for wrong in ("x", "", "None", "0", "é" * 32, token[:-1], token + "x", token.swapcase(), f" {token}"):
        answer = own_served.http.post("/admin", data={"token": wrong}, headers=HTML)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert len(wrong) < 5 or wrong not in answer.text


def test_attempts_to_sign_in_are_limited_on_both_doors(own_served: Served) -> None:
    """However the attempts are spread over the page and the script's route, and whatever X-Forwarded-For says."""
    statuses = []
    for number in range(16):
        if number % 2:
            answer = own_served.http.post(
                "/admin", data={"token": f"wrong{number}"}, headers={"X-Forwarded-For": f"10.0.0.{number}"}
            )
        else:
            answer = own_served.http.post(
                "/delete", headers={"Authorization": f"Bearer wrong{number}", "X-Forwarded-For": f"10.0.0.{number}"}
            )
        statuses.append(answer.status_code)
    assert 10 <= statuses.count(401) <= 12  # the sliding window may move on between two of them
    assert statuses[-3:] == [429] * 3
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert own_served.http.post("/admin", data={"token": own_served.admin_token}).status_code == 429, "the right one must not tell"


@pytest.mark.parametrize("value", ["", "x", "x.y.z", "mayfly-admin", "None", '"', "\\", "a" * 5000, "é"])
def test_made_up_cookie_is_no_session(served: Served, value: str) -> None:
    (answer,) = raw.send(
        served, raw.request("GET", "/admin", [("Accept", "text/html"), ("Cookie", b"mayfly-admin=" + value.encode())])
    )
    assert answer.status == 200
    assert b"form_token" not in answer.body


def test_session_ends_after_half_an_hour_or_when_it_is_altered(served: Served) -> None:
    """A session's age is in the signed cookie: one made half an hour ago, by the server's own key, is refused."""
    from itsdangerous import TimestampSigner

    import keyfile

    class Past(TimestampSigner):
        age = 0

        def get_timestamp(self) -> int:
            return super().get_timestamp() - self.age

    def cookie_of(age: int) -> str:
        signer = Past(keyfile.read(served.key_file).session_secret(), salt=b"mayfly admin", digest_method=hashlib.sha256)
        signer.age = age
        return signer.sign("session").decode()

    def works(cookie: str) -> bool:
        with httpx.Client(base_url=served.url, headers=HTML, cookies={"mayfly-admin": cookie}) as browser:
            return signed_in(browser)

    assert works(cookie_of(age=0))
    assert works(cookie_of(age=29 * 60))
    assert not works(cookie_of(age=31 * 60))
    assert not works(cookie_of(age=-3600)), "from the future"
    good = cookie_of(age=0)
    # Not the last character: of that, only some bits count.
    assert not works(good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1])
    assert not works("another" + good)


def test_another_admin_token_ends_every_session(own_served: Served) -> None:
    """A running server reads the changed key file by itself."""
    with sign_in(own_served) as browser:
        assert signed_in(browser)
        document = json.loads(own_served.key_file.read_text())
        document["admin_token"] = secrets.token_urlsafe(32)
        fresh = own_served.key_file.with_suffix(".new")
        fresh.write_text(json.dumps(document))
        fresh.chmod(0o600)
        os.replace(fresh, own_served.key_file)
        wait_until(lambda: not signed_in(browser))
        assert browser.post("/admin", data={"do": "purge", "form_token": "x"}).status_code == 401
    with sign_in(own_served) as browser:
        assert signed_in(browser)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_signing_out_clears_the_cookie(own_served: Served) -> None:
    with sign_in(own_served) as browser:
        answer = browser.post("/admin", data={"do": "sign-out", "form_token": form_token(browser)})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/admin")
        assert "Max-Age=0" in answer.headers["Set-Cookie"]
        assert not signed_in(browser)


# What the forms do


def test_purge_button_removes_what_has_expired_and_nothing_else(own_served: Served) -> None:
    """And the page counts what is stored, and what has expired."""
    for _ in range(3):
        own_served.create("hello", expires_in=60)
    with sign_in(own_served) as browser:
        assert stored(browser) == (3, 0)
        own_served.clock.advance(61)
        kept = own_served.create("kept")
        assert stored(browser) == (1, 3)
        done = browser.post("/admin", data={"do": "purge", "form_token": form_token(browser)})
        assert done.status_code == 200
        assert "Purged 3 messages." in done.text
        assert stored(browser) == (1, 0)
    assert own_served.http.get(kept.path).text == "kept"


@pytest.mark.parametrize("form", ["link", "path", "id", "with spaces", "with fragment"])
def test_message_is_taken_down_by_its_link(served: Served, browser: httpx.Client, form: str) -> None:
    message, other = served.create("hello"), served.create("other")
    link = {
        "link": message.link,
        "path": message.path,
        "id": message.id,
        "with spaces": f"  {message.link}\n",
        "with fragment": f"{message.link}#x?y",
    }[form]
    done = browser.post("/admin", data={"do": "take-down", "link": link, "form_token": form_token(browser)})
    assert done.status_code == 200
    assert message.id not in done.text
    assert served.http.get(message.path).status_code == 404
    assert served.http.get(other.path).text == "other"
    assert served.http.get(message.receipt_path, headers=JSON).json()["state"] == "burned"
    again = browser.post("/admin", data={"do": "take-down", "link": link, "form_token": form_token(browser)})
    assert "no message" in again.text


# What a forged form does not

FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "nonsense"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_form_from_another_site_does_nothing(served: Served, browser: httpx.Client, headers: dict[str, str]) -> None:
    """Even with a session and its form token."""
    message = served.create("hello")
    served.create("old", expires_in=60)
    served.clock.advance(61)
    before = stored(browser)
    assert before[1] > 0
    token = form_token(browser)
    for fields in ({"do": "purge"}, {"do": "take-down", "link": message.link}, {"do": "sign-out"}):
        assert browser.post("/admin", data={**fields, "form_token": token}, headers=headers).status_code == 403
    assert stored(browser) == before
    assert served.http.get(message.path).text == "hello"
    forged = served.http.post("/admin", data={"token": served.admin_token}, headers=headers)
    assert forged.status_code == 403
    assert "set-cookie" not in forged.headers


def test_own_page_may_send_its_forms(own_served: Served) -> None:
    own: dict[str, str]
    for own in (
        {"Sec-Fetch-Site": "same-origin", "Origin": own_served.url},
        {"Origin": own_served.url},
        {"Sec-Fetch-Site": "none"},
    ):
        with sign_in(own_served, **own) as browser:
            assert browser.post("/admin", data={"do": "purge", "form_token": form_token(browser)}, headers=own).status_code == 200


def test_form_without_the_token_of_its_session_does_nothing(served: Served, browser: httpx.Client) -> None:
    message = served.create("hello")
    own = form_token(browser)
    with sign_in(served) as other:
        foreign = form_token(other)
    for wrong in (None, "", "x", foreign, own[:-1], own.upper(), "é"):
        fields = {"do": "take-down", "link": message.link, **({} if wrong is None else {"form_token": wrong})}
        assert browser.post("/admin", data=fields).status_code == 403
    assert served.http.get(message.path).text == "hello"
    assert browser.post("/admin", data={"do": "take-down", "link": message.link, "form_token": own}).status_code == 200
    assert served.http.get(message.path).status_code == 404


def test_form_without_a_session_does_nothing(served: Served, browser: httpx.Client) -> None:
    message = served.create("hello")
    form = {"do": "take-down", "link": message.link, "form_token": form_token(browser)}
    assert httpx.post(f"{served.url}/admin", data=form).status_code == 401
    assert served.http.get(message.path).text == "hello"


@pytest.mark.parametrize("fields", [{"do": "purge", "x": "y"}, {"do": "nothing"}, {"do": "take-down"}, {}, {"link": "x"}])
def test_form_that_the_page_does_not_have_is_refused(browser: httpx.Client, fields: dict[str, str]) -> None:
    assert browser.post("/admin", data={**fields, "form_token": form_token(browser)}).status_code == 400
    for body in ({"json": fields}, {"content": b"x", "headers": {"Content-Type": "text/plain"}}, {}):
        assert browser.post("/admin", **body).status_code == 400  # type: ignore[arg-type]


# For scripts


def delete(served: Served, authorization: str | None, **body: object) -> httpx.Response:
    headers = {} if authorization is None else {"Authorization": authorization}
    return served.http.post("/delete", headers=headers, **body)  # type: ignore[arg-type]


def test_script_purges_with_the_admin_token(own_served: Served) -> None:
    for _ in range(2):
        own_served.create("hello", expires_in=60)
    own_served.clock.advance(61)
    answer = delete(own_served, f"Bearer {own_served.admin_token}")
    assert (answer.status_code, answer.json()) == (200, {"deleted": 2})
    assert delete(own_served, f"bearer  {own_served.admin_token}").json() == {"deleted": 0}


@pytest.mark.parametrize("kind", ["data", "json"])
def test_script_takes_one_message_down(served: Served, kind: str) -> None:
    message, other = served.create("hello"), served.create("other")
    token = f"Bearer {served.admin_token}"
    assert delete(served, token, **{kind: {"link": message.link}}).json() == {"deleted": 1}
    assert delete(served, token, **{kind: {"link": message.link}}).json() == {"deleted": 0}
    assert served.http.get(message.path).status_code == 404
    assert served.http.get(other.path).text == "other"


def test_script_with_other_fields_deletes_nothing(own_served: Served) -> None:
    own_served.create("hello", expires_in=60)
    own_served.clock.advance(61)
    for body in ({"json": {"link": 1}}, {"json": {"link": None}}, {"data": {"x": "y"}}, {"data": {"link": "x", "y": "z"}}):
        assert delete(own_served, f"Bearer {own_served.admin_token}", **body).status_code == 400
    assert own_served.purge() == 1


def test_script_that_names_the_link_in_the_query_deletes_nothing(own_served: Served) -> None:
    """Without a body this would be a purge, which is not what was asked for; and a query ends up in logs."""
    message = own_served.create("hello")
    own_served.create("expired", expires_in=60)
    own_served.clock.advance(61)
    for query in (f"link={message.link}", f"link={message.id}", "x=y"):
        answer = own_served.http.post(f"/delete?{query}", headers={"Authorization": f"Bearer {own_served.admin_token}"})
        assert answer.status_code == 400
        assert "body" in answer.text
    assert own_served.http.get(message.path).text == "hello"
    assert own_served.purge() == 1


def test_script_without_the_admin_token_deletes_nothing(own_served: Served) -> None:
    message = own_served.create("hello")
    token = own_served.admin_token
    for wrong in (None, "", "Bearer", "Bearer x", f"Basic {token}", token, f"Bearer {token[:-1]}", f"Bearer {token}x"):
        answer = delete(own_served, wrong, data={"link": message.link})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert token[:-1] not in answer.text
    assert own_served.http.get(message.path).text == "hello"


def test_session_of_the_page_is_no_token_for_scripts(served: Served, browser: httpx.Client) -> None:
    """A cookie rides along with forged requests; `/delete` asks for nothing else than the header."""
    message = served.create("hello")
    assert browser.post("/delete", data={"link": message.link}).status_code == 401
    assert served.http.get(message.path).text == "hello"


def test_scripts_with_the_right_token_are_not_limited(own_served: Served) -> None:
    headers = {"Authorization": f"Bearer {own_served.admin_token}"}
    assert {own_served.http.post("/delete", headers=headers).status_code for _ in range(25)} == {200}
