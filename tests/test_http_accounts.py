"""/accounts and /keys over HTTP: JSON, the pages' forms, and what no answer tells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import PASSWORD, Served

HTML = {"Accept": "text/html"}
JSON = {"Accept": "application/json"}
ADMIN = "admin@example.com"
BRUNO = {"email": "bruno@example.com", "first_name": "Bruno", "last_name": "Costa"}
NEVER = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served")) as running:
        running.add_account(ADMIN, "admin")
        yield running


@pytest.fixture(scope="module")
def admin(served: Served) -> Iterator[httpx.Client]:
    """An admin who is signed in; what they want stands with each request."""
    with served.signed_in(ADMIN) as browser:
        yield browser


@pytest.fixture
def bruno(admin: httpx.Client) -> Iterator[str]:
    """The address of an account without a password, removed afterwards."""
    made = admin.post("/accounts", json={**BRUNO, "roles": ["payments"]})
    assert made.status_code == 201
    yield made.headers["Location"]
    admin.delete(made.headers["Location"])


def test_account_is_made_listed_changed_disabled_and_removed(admin: httpx.Client) -> None:
    made = admin.post("/accounts", json={**BRUNO, "roles": ["payments"]}).json()
    assert made.pop("password_link").startswith(str(admin.base_url))
    path = f"/accounts/{made['id']}"
    assert admin.get(path, headers=JSON).json() == made
    assert made in admin.get("/accounts", headers=JSON).json()["accounts"]
    changed = admin.patch(path, json={"last_name": "Lima", "roles": ["support", "payments"]}).json()
    assert (changed["last_name"], changed["roles"], changed["first_name"]) == ("Lima", ["payments", "support"], "Bruno")
    assert admin.patch(path, json={"enabled": False}).json()["enabled"] is False
    assert admin.delete(path).status_code == 204
    for answer in (
        admin.get(path),
        admin.patch(path, json={"enabled": True}),
        admin.delete(path),
        admin.post(path, data={"do": "delete"}),
    ):
        assert answer.status_code == 404


def test_forms_do_the_same(admin: httpx.Client) -> None:
    """A browser knows neither PATCH nor DELETE, and sends fields that were left empty."""
    page = admin.post("/accounts", data={**BRUNO, "roles": "payments, support", "password": ""}, headers=HTML)
    assert page.status_code in (201, 303)
    (account,) = (found for found in admin.get("/accounts", headers=JSON).json()["accounts"] if found["email"] == BRUNO["email"])
    path = f"/accounts/{account['id']}"
    assert account["roles"] == ["payments", "support"]
    for fields, wanted in (
        ({"do": "change", **BRUNO, "first_name": "Bia", "roles": ""}, {"first_name": "Bia", "roles": []}),
        ({"do": "disable"}, {"enabled": False}),
        ({"do": "enable"}, {"enabled": True}),
    ):
        assert admin.post(path, data=fields, headers=HTML).status_code in (200, 303)
        told = admin.get(path, headers=JSON).json()
        assert {name: told[name] for name in wanted} == wanted
    for wrong in ({"do": "x"}, {}, {"do": "disable", "x": "y"}, {"do": "change"}):
        assert admin.post(path, data=wrong, headers=HTML).status_code == 400
    assert admin.post(path, data={"do": "delete"}, headers=HTML).status_code == 303
    assert admin.get(path).status_code == 404


def test_taken_address_and_the_last_admin_are_409(admin: httpx.Client, bruno: str) -> None:
    assert admin.post("/accounts", json=BRUNO).status_code == 409
    assert admin.patch(bruno, json={"email": ADMIN}).status_code == 409
    me = admin.get("/account", headers=JSON).json()["id"]
    for answer in (
        admin.patch(f"/accounts/{me}", json={"enabled": False}),
        admin.patch(f"/accounts/{me}", json={"roles": []}),
        admin.delete(f"/accounts/{me}"),
    ):
        assert answer.status_code == 409
    assert admin.get("/account").status_code == 200


@pytest.mark.parametrize(
    "body",
    [{"x": "y"}, {}, {"enabled": "no"}, {"enabled": 1}, {"email": "x"}, {"roles": "A B"}, {"roles": {}}, {"first_name": 1}],
    ids=str,
)
def test_change_that_is_not_right_changes_nothing(admin: httpx.Client, bruno: str, body: dict[str, object]) -> None:
    before = admin.get(bruno, headers=JSON).json()
    assert admin.patch(bruno, json=body).status_code == 400
    assert admin.get(bruno, headers=JSON).json() == before


@pytest.mark.parametrize("odd", [NEVER, "x", "None", "%00", "..%2f", "%F0%9F%92%A9", "a" * 300])
def test_account_and_key_and_link_that_are_not_there_are_404(admin: httpx.Client, odd: str) -> None:
    for answer in (
        admin.get(f"/accounts/{odd}"),
        admin.patch(f"/accounts/{odd}", json={"enabled": True}),
        admin.post(f"/accounts/{odd}/password-link"),
        admin.delete(f"/keys/{odd}"),
        admin.get(f"/password/{odd}"),
    ):
        assert answer.status_code == 404


def test_no_answer_tells_a_password_or_its_hash(admin: httpx.Client, served: Served) -> None:
    me = admin.get("/account", headers=JSON).json()["id"]
    for path in ("/accounts", f"/accounts/{me}", "/account", "/keys"):
        for accept in (HTML, JSON):
            text = admin.get(path, headers=accept).text
            assert "argon2" not in text
            assert PASSWORD not in text
    assert PASSWORD not in served.log()


def test_key_is_shown_once_and_its_use_is_noted(admin: httpx.Client, served: Served) -> None:
    made = admin.post("/keys", json={"name": "the bank", "scopes": ["messages:read"]}).json()
    key, path = made.pop("key"), f"/keys/{made['id']}"
    assert re.fullmatch(r"mayfly_[A-Za-z0-9_-]{43}", key)
    assert made["used_at"] is None
    assert served.http.get("/account", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    listed = admin.get("/keys", headers=JSON)
    (told,) = (found for found in listed.json()["keys"] if found["id"] == made["id"])
    assert told["used_at"] is not None
    assert {**told, "used_at": None} == made
    assert key not in listed.text
    assert key not in admin.get("/keys", headers=HTML).text
    assert admin.post(path, data={"do": "x"}).status_code == 400
    assert admin.post(path, data={"do": "revoke"}, headers=HTML).status_code == 303
    assert served.http.get("/account", headers={"Authorization": f"Bearer {key}"}).status_code == 401


@pytest.mark.parametrize(
    "body",
    [{}, {"name": "x"}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["all"]}, {"name": "", "scopes": ["messages:read"]}],
)
def test_key_that_is_not_right_is_not_made(admin: httpx.Client, body: dict[str, object]) -> None:
    before = admin.get("/keys", headers=JSON).json()
    assert admin.post("/keys", json=body).status_code == 400
    assert admin.get("/keys", headers=JSON).json() == before


def test_admin_page_and_script_take_an_admins_account(admin: httpx.Client, served: Served) -> None:
    """Instead of the admin token; and nothing less than that scope."""
    message = served.create("hello")
    found = re.search(r'name="form_token" value="([^"]+)"', admin.get("/admin", headers=HTML).text)
    assert found
    down = admin.post("/admin", data={"do": "take-down", "link": message.link, "form_token": found[1]}, headers=HTML)
    assert down.status_code == 200
    assert served.http.get(message.path).status_code == 404
    for scope, status in (("messages:purge", 200), ("messages:read", 403)):
        with served.with_key(ADMIN, scope) as program:
            assert program.post("/delete").status_code == status
    assert admin.post("/delete").status_code == 401, "a cookie rides along with forged requests"


def test_creating_takes_an_account_where_the_operator_says_so(tmp_path: Path, express: str) -> None:
    """Reading by link stays anonymous in the open vault."""
    with Served(tmp_path, MAYFLY_CREATE="accounts") as served:
        served.add_account(ADMIN)
        for path in ("/", "/guarded"):
            plain: dict[str, Any] = {"content": "hi", "headers": {"Content-Type": "text/plain"}}
            for body in ({"json": {"message": "hi"}}, {"data": {"message": "hi"}}, plain):
                assert served.http.post(path, **body).status_code == 401
        assert served.http.get("/", headers=HTML).status_code == 401
        with served.with_key(ADMIN, "messages:create") as program:
            made = program.post("/", json={"message": "hello"})
            assert made.status_code == 201
        with served.with_key(ADMIN, "messages:read") as program:
            assert program.post("/", json={"message": "hello"}).status_code == 403
        assert served.http.get(made.headers["Location"]).text == "hello"
