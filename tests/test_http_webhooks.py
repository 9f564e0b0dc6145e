"""Webhooks over HTTP: registered by programs and on pages, and told by real requests."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest

from records import NOTICE_TYPES
from tests.receivers import Receiver, documented_check, register, settled, status
from tests.serving import Served

ADMIN = "ana@example.com"
is_from_mayfly = documented_check()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), MAYFLY_WEBHOOK_PRIVATE="on") as running:
        running.add_account(ADMIN, "admin")
        yield running


@pytest.fixture
def admin(served: Served) -> Iterator[httpx.Client]:
    """An admin of a server that has no webhook yet."""
    headers = {"Authorization": f"Bearer {served.make_key(ADMIN, 'certificates:manage')['key']}", "Accept": "application/json"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=30) as client:
        for hook in client.get("/webhooks").json()["webhooks"]:
            client.delete(f"/webhooks/{hook['id']}")
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def test_opening_and_burning_are_told_and_nothing_of_what_was_written(
    served: Served, admin: httpx.Client, receiver: Receiver
) -> None:
    hook = register(admin, receiver.url)
    opened, burned = served.create("under the willow", views=2), served.create("at dusk")
    key = {"Idempotency-Key": "k" * 20}
    for _ in range(2):  # the second is the first one's lease
        assert served.http.post(opened.path, headers=key).status_code == 200
    assert served.http.delete(burned.receipt_path).status_code == 200
    first, second = receiver.wait_for(2)
    assert sorted(receiver.told()) == ["message.burned", "message.opened"]  # of two messages, in whichever order
    for told, message in ((first, opened), (second, burned)):
        assert is_from_mayfly(hook["secret"], told.headers, told.body, time.time())
        assert set(told.event["data"]) == {"message", "vault"}
        assert told.event["data"]["vault"] == "open"
        assert re.fullmatch("[0-9a-f]{16}", told.event["data"]["message"])
        everything = repr(told).lower()
        assert all(secret.lower() not in everything for secret in (message.id, message.receipt[-64:], "willow", "dusk"))
    made = settled(admin, hook, 2)
    # That the one with a view left expires is still to come.
    assert [(one["state"], one["answer"]) for one in made] == [("delivered", "204"), ("delivered", "204"), ("waiting", None)]
    assert hook["secret"] not in served.log()


def test_message_that_nobody_opened_is_told_to_have_expired(served: Served, admin: httpx.Client, receiver: Receiver) -> None:
    """And one that was spent is not, when its time comes."""
    hook = register(admin, receiver.url, "message.expired", "message.opened")
    left, spent = served.create("for nobody", expires_in=60), served.create("for somebody", expires_in=60, views=1)
    assert served.http.post(spent.path).status_code == 200
    receiver.wait_for(1)
    assert len(settled(admin, hook, 1)) == 2, "what was to be told of the spent one was taken back"
    served.clock.advance(61)
    receiver.wait_for(2)
    assert receiver.told() == ["message.opened", "message.expired"]
    assert served.http.get(left.path).status_code == 404


def test_the_last_wrong_passphrase_is_told(served: Served, admin: httpx.Client, receiver: Receiver) -> None:
    register(admin, receiver.url)
    message = served.create("hello", passphrase="right")
    for _ in range(5):
        served.http.post(message.path, json={"passphrase": "wrong"})
    receiver.wait_for(1)
    assert receiver.told() == ["message.burned"]


def test_webhook_is_looked_after_by_programs(admin: httpx.Client, receiver: Receiver) -> None:
    hook = register(admin, receiver.url, "message.opened")
    secret = hook.pop("secret")
    address = f"/webhooks/{hook['id']}"
    for answer in (admin.get("/webhooks"), admin.get(address), admin.patch(address, json={"enabled": False})):
        assert answer.status_code == 200
        assert secret not in answer.text
    assert admin.get("/webhooks").json() == {"webhooks": [{**hook, "enabled": False}]}
    changed = admin.patch(address, json={"url": f"{receiver.url}&more=1", "events": ["message.burned"], "enabled": True}).json()
    assert changed == {**hook, "url": f"{receiver.url}&more=1", "events": ["message.burned"], "enabled": True}
    assert admin.delete(address).status_code == 204
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", "/deliveries/1")):
        assert admin.request(method, address + path, json={}).status_code == 404


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"url": "https://example.org/"},
        {"events": ["message.opened"]},
        {"url": "https://example.org/", "events": []},
        {"url": "https://example.org/", "events": ["message.read"]},
        {"url": "https://example.org/", "events": "*"},
        {"url": "ftp://example.org/", "events": ["message.opened"]},
        {"url": ["https://example.org/"], "events": ["message.opened"]},
        {"url": "https://example.org/", "events": ["message.opened"], "secret": "whsec_AAAA"},
    ],
)
def test_what_is_wrong_is_refused(admin: httpx.Client, fields: dict[str, object]) -> None:
    assert admin.post("/webhooks", json=fields).status_code == 400
    assert admin.get("/webhooks").json() == {"webhooks": []}


def test_number_that_is_none_and_wrong_acts_are_refused(admin: httpx.Client, receiver: Receiver) -> None:
    hook = register(admin, receiver.url)
    address = f"/webhooks/{hook['id']}"
    for number in ("x", "-1", "0", "1", "9" * 30, "1.0", "%C2%B2"):
        assert admin.post(f"{address}/deliveries/{number}").status_code == 404
    for act in ({}, {"do": "x"}, {"do": "delete", "url": receiver.url}, {"do": "change", "url": "x"}):
        assert admin.post(address, json=act).status_code == 400
    for query in ("state=gone", "before=x", "most=501", "most=1&most=2", "x=1"):
        assert admin.get(f"{address}/deliveries?{query}").status_code == 400


def test_page_registers_shows_the_secret_once_and_sends_again(served: Served, admin: httpx.Client, receiver: Receiver) -> None:
    with served.signed_in(ADMIN, Accept="text/html", **{"Sec-Fetch-Site": "same-origin"}) as browser:
        assert "There are none yet." in browser.get("/webhooks").text
        events = " ".join(one for one in NOTICE_TYPES if one.startswith("message."))
        refused = browser.post("/webhooks", data={"url": "https://localhost\\x", "events": events})
        assert refused.status_code == 400
        assert 'id="url-problem"' in refused.text
        made = browser.post("/webhooks", data={"url": receiver.url, "events": events})
        (secret,) = re.findall('id="secret">(whsec_[^<]+)<', made.text)
        (address,) = set(re.findall('action="(/webhooks/[0-9a-f-]{36})', made.text))
        time.sleep(1.5)
        receiver.behave = status(500)
        message = served.create("hello", views=1)
        served.http.post(message.path)
        receiver.wait_for(1)
        ends = time.monotonic() + 10
        while "it answered 500" not in (page := browser.get(address).text):
            assert time.monotonic() < ends, page
            time.sleep(0.05)
        receiver.behave = status(200)
        (again,) = re.findall(f'action="({address}/deliveries/[0-9]+)', page)
        assert browser.post(again, data={"do": "replay"}).headers["Location"] == f"{address}?done=replay"
        told = receiver.wait_for(2)  # by itself, after 5 s: no try is made beside one that may be under way
        assert is_from_mayfly(secret, told[1].headers, told[1].body, time.time())
        for path in ("/webhooks", address, f"{address}?done=replay", f"{address}?lang=pt-BR"):
            assert secret not in browser.get(path).text
        assert "nothing for now" in browser.post(address, data={"do": "disable"}).text
        assert browser.post(address, data={"do": "delete"}).headers["Location"] == "/webhooks?done=deleted"
        assert browser.get(address).status_code == 404
    assert secret not in served.log()
    assert "told?by" not in served.log()
