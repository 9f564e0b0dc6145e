"""The pages of people who sign in, in a real Chromium: the door, one's own account and keys, accounts, audit and server.

They need no JavaScript of ours. What scripts add is that the key in a link, the part after #, is kept through signing in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.browser import (
    ADMIN,
    POEM,
    SIGNED_IN_PAGES,
    SIGNED_IN_SCRIPTS,
    chromium,
    enter,
    follow_from_elsewhere,
    hold,
    press,
    visitor,
    walk_people,
)
from tests.serving import PASSWORD, PROJECT, Served
from tests.test_pages import KNOWN_NOTES, Seen, look_at, press_key, tab_to

PAYER = "rui@example.com"
OUTSIDER = "eva@example.com"
JSON = {"Accept": "application/json"}
CARD = {"name": "Ada Lovelace", "card": "4111 1111 1111 1234", "note": "calls in the morning"}
POLICY = {"payments": {"name": "show", "card": "show"}, "support": {"name": "show", "card": "mask"}}
_SESSIONS: dict[str, str] = {}
NOT_THERE = "/guarded/00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with an admin, somebody of payments, and somebody of support."""
    with Served(tmp_path_factory.mktemp("served"), MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as running:
        running.add_account(ADMIN, "admin")
        running.add_account(PAYER, "payments")
        running.add_account(OUTSIDER, "support")
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def scripts() -> bool:
    """Off, where `either_way` does not say otherwise: the pages must do without."""
    return False


either_way = pytest.mark.parametrize("scripts", [True, False], ids=["scripts on", "scripts off"])


@pytest.fixture
def page(scripts: bool, browser: Browser, served: Served) -> Iterator[Page]:
    """A visitor on a phone."""
    with visitor(browser, served, 360, scripts=scripts) as page:
        yield page


@pytest.fixture
def desk(browser: Browser, served: Served) -> Iterator[Page]:
    with visitor(browser, served) as page:
        yield page


def create(served: Served, **fields: Any) -> str:
    """Somebody's message to people who sign in: its link."""
    answer = served.http.post("/guarded", json=fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["link"])


def go_as(page: Page, served: Served, email: str, path: str) -> None:
    """Go to a page as somebody who has signed in before."""
    if email not in _SESSIONS:
        _SESSIONS[email] = served.signed_in(email).cookies["mayfly-session"]
    cookie = {"name": "mayfly-session", "value": _SESSIONS[email], "url": served.url, "httpOnly": True, "sameSite": "Strict"}
    page.context.add_cookies([cookie])  # type: ignore[list-item]
    page.goto(path)


def ways(page: Page) -> list[str]:
    return page.locator("nav.ways li").all_inner_texts()


# The door


@either_way
def test_somebody_signs_in_and_out_and_is_told(page: Page) -> None:
    page.goto("/account")
    enter(page, PAYER, "not the password")
    assert page.inner_text("#problem") == "Nobody signs in with that e-mail address and that password. Look at both."
    assert page.input_value("#email") == PAYER
    assert page.evaluate("document.activeElement.id") == "password"
    enter(page, PAYER)
    assert page.url.endswith("/account")
    assert PAYER in page.inner_text("main")
    press(page, ".way")
    assert page.inner_text("#done") == "You are signed out."
    page.goto("/account")
    assert page.locator("#sign-in").count() == 1


def test_session_that_has_ended_shows_the_door_and_leads_back(page: Page, served: Served) -> None:
    email = f"ended{served.clock.now()}@example.com"
    account = served.add_account(email)
    page.goto("/sign-in")
    enter(page, email)
    with served.signed_in(ADMIN) as admin:
        assert admin.patch(f"/accounts/{account}", json={"roles": ["support"]}).status_code == 200
    page.goto("/keys")
    assert page.locator("#sign-in").count() == 1
    assert ways(page) == []
    enter(page, email)
    assert page.url.endswith("/keys")


def test_password_managers_know_the_fields(page: Page, served: Served) -> None:
    """By the names of the HTML standard's autofill."""
    page.goto("/sign-in")
    assert page.get_attribute("#email", "autocomplete") == "username"
    assert page.get_attribute("#password", "autocomplete") == "current-password"
    enter(page, PAYER)
    page.goto("/account")
    fields = [field.get_attribute("autocomplete") for field in page.locator("main form:has(#old) input").all()]
    assert fields == ["username", "current-password", "new-password"]


def test_own_password_is_changed_and_what_is_wrong_stands_beside_the_field(page: Page, served: Served) -> None:
    email = f"change{served.clock.now()}@example.com"
    served.add_account(email)
    page.goto("/sign-in")
    enter(page, email)
    page.goto("/account")

    def change(old: str, new: str) -> None:
        page.fill("#old", old)
        page.fill("#new", new)
        press(page, "main form:has(#old) button")

    change("not the password", "the quick brown ferry boat")
    assert page.inner_text("#old-problem") == "That is not the password you have."
    assert page.get_attribute("#old", "aria-invalid") == "true"
    change(PASSWORD, "a" * 20)
    assert "easily guessed" in page.inner_text("#new-problem")
    assert "new-problem" in str(page.get_attribute("#new", "aria-describedby"))
    change(PASSWORD, "the quick brown ferry boat")
    assert "was changed" in page.inner_text("#done")
    press(page, ".way")
    enter(page, email, "the quick brown ferry boat")
    assert page.url.endswith("/account")


def test_nobody_is_shown_more_than_the_way_to_sign_in(page: Page, served: Served) -> None:
    page.goto("/")
    assert ways(page) == ["Sign in"]
    page.goto(served.create(POEM, views=1).path)
    assert ways(page) == ["Sign in"]


def test_each_is_led_only_where_they_may_go(page: Page) -> None:
    page.goto("/sign-in")
    enter(page, PAYER)
    assert ways(page) == ["Write", "Write to people who sign in", "Your account", "Sign out"]
    press(page, ".way")
    enter(page, ADMIN)
    assert {"Accounts", "Keys in use", "Audit", "Server"} <= set(ways(page))
    for number in range(len(ways(page)) - 1):
        with page.expect_navigation():
            page.locator("nav.ways a").nth(number).click()
        assert page.locator("nav.ways [aria-current=page]").count() == 1, page.url
        page.goto("/account")


def test_server_without_accounts_has_no_way_to_sign_in(browser: Browser, tmp_path: Any) -> None:
    with Served(tmp_path, MAYFLY_ACCOUNTS_DATABASE_URL="off") as other, visitor(browser, other) as page:
        page.goto("/")
        assert page.locator("nav.ways").count() == 0
        page.goto("/admin")
        assert page.locator("main a").count() == 0


# Links from elsewhere


def test_link_in_a_mail_finds_the_reader_signed_in(desk: Page, served: Served) -> None:
    """Though the first request comes without the cookie (SameSite=Strict)."""
    go_as(desk, served, PAYER, "/account")
    asked: list[str] = []
    desk.on("response", lambda response: response.request.is_navigation_request() and asked.append(str(response.status)))
    follow_from_elsewhere(desk, create(served, message=POEM, views=1, audience="role:payments"))
    desk.wait_for_selector("#hold")
    assert asked == ["200", "401", "200"]
    hold(desk)
    desk.wait_for_selector("#lease")
    assert desk.text_content("#message") == POEM


def test_link_in_a_mail_leads_by_a_press_without_scripts(browser: Browser, served: Served) -> None:
    with visitor(browser, served, 360, scripts=False) as page:
        go_as(page, served, PAYER, "/account")
        follow_from_elsewhere(page, create(served, message=POEM, audience="role:payments"))
        page.wait_for_selector("main .button")
        press(page, "main .button")
        assert page.text_content("#message") == POEM


@pytest.mark.parametrize("path", [NOT_THERE, f"{NOT_THERE}?lang=pt-BR", "/audit?action=open"])
def test_link_in_a_mail_asks_nobody_twice(desk: Page, served: Served, path: str) -> None:
    """Who is not signed in is asked to, after one more request, whatever stands in the address."""
    asked: list[str] = []
    desk.on("response", lambda response: response.request.is_navigation_request() and asked.append(str(response.status)))
    follow_from_elsewhere(desk, served.url + path)
    desk.wait_for_selector("#sign-in")
    desk.wait_for_timeout(300)
    assert asked == ["200", "401", "401"]


def write_sealed(page: Page, text: str, audience: str) -> str:
    """On the page for people who sign in, encrypted in the browser: the link, with its key."""
    page.goto("/guarded")
    page.fill("#message", text)
    page.fill("#admitted", audience)
    page.click("#write [type=submit]")
    return str(page.locator("#link").text_content())


def test_message_encrypted_in_the_browser_is_for_its_audience_alone(browser: Browser, served: Served) -> None:
    """It opens for somebody in it, once; for others it is not there, and nothing is used up."""
    with visitor(browser, served) as writer:
        link = write_sealed(writer, POEM, f"account:{PAYER}")
    assert "#" in link
    with visitor(browser, served) as outsider:
        outsider.goto(link)
        assert outsider.locator("#sign-in").count() == 1
        enter(outsider, OUTSIDER)
        assert outsider.text_content("h1") == "Nothing here"
    with visitor(browser, served, 360) as reader:
        follow_from_elsewhere(reader, link)
        reader.wait_for_selector("#sign-in")
        enter(reader, PAYER, "not the password")
        enter(reader, PAYER)
        hold(reader)
        reader.wait_for_selector("#lease")
        assert reader.text_content("#message") == POEM
    with visitor(browser, served) as late:
        late.goto(link)
        enter(late, PAYER)
        assert late.text_content("h1") == "Nothing here"


def test_key_of_a_link_reaches_no_request_on_the_way_through_the_door(browser: Browser, served: Served) -> None:
    with visitor(browser, served) as page:
        link = write_sealed(page, POEM, "role:payments")
        key, sent = link.partition("#")[2], []
        page.on("request", lambda request: sent.append(f"{request.url} {request.headers} {request.post_data}"))
        follow_from_elsewhere(page, link)
        page.wait_for_selector("#sign-in")
        enter(page, PAYER)
        page.wait_for_selector("#hold")
    urls = [line for line in sent if key in line]
    assert len(sent) > 5
    assert [line for line in urls if key in line.replace(f"#{key}", "", 1)] == []


def test_session_that_ends_before_opening_keeps_the_key(browser: Browser, served: Served) -> None:
    """The page has taken it from the address bar; after signing in again the message opens all the same."""
    with visitor(browser, served) as page:
        link = write_sealed(page, POEM, "everyone")
        page.goto(link)
        enter(page, PAYER)
        page.context.clear_cookies()
        hold(page)
        page.wait_for_selector("main .problem:not(:empty)")
        page.reload()
        enter(page, PAYER)
        hold(page)
        page.wait_for_selector("#lease")
        assert page.text_content("#message") == POEM


def test_without_scripts_the_door_says_that_the_whole_link_is_needed_again(browser: Browser, served: Served) -> None:
    with visitor(browser, served, scripts=False) as page:
        page.goto(NOT_THERE)
        assert "open the whole link again" in page.inner_text("main")
        page.goto("/account")
        assert "open the whole link again" not in page.inner_text("main")


# Records


def open_record(page: Page, scripts: bool) -> None:
    page.fill("#passphrase", "under the willow")
    if scripts:
        hold(page)
        page.wait_for_selector("#left")
    else:
        page.check("input[name=open]")
        press(page, "main [type=submit]")


@either_way
def test_record_shows_each_reader_their_own_view(page: Page, served: Served, scripts: bool) -> None:
    """Also one that must be opened: with a passphrase, and for one time."""
    link = create(served, message=CARD, format="record", policy=POLICY, views=1, passphrase="under the willow")
    go_as(page, served, ADMIN, link)
    open_record(page, scripts)
    assert "nothing was used up" in page.inner_text("main")
    assert "Ada" not in page.content()
    go_as(page, served, OUTSIDER, link)
    open_record(page, scripts)
    page.wait_for_selector("#message dt")
    assert page.locator("#message dt").all_inner_texts() == ["name", "card"]
    assert page.locator("#message dd").all_text_contents() == ["Ada Lovelace", "••••1234 the rest is hidden"]
    assert "That was the last time" in page.inner_text("main")
    assert "4111" not in page.content()
    assert "calls in the morning" not in page.content()
    go_as(page, served, PAYER, link)
    assert page.text_content("h1") == "Nothing here"


LOADED = """() => Object.fromEntries(performance.getEntriesByType("resource")
  .map(one => [new URL(one.name).pathname.split("/").at(-1), one.decodedBodySize]).filter(([name]) => name.endsWith(".js")))"""


def test_scripts_on_the_way_to_a_record_are_under_30_kilobytes_a_page(browser: Browser, served: Served) -> None:
    loaded: list[dict[str, int]] = []
    with visitor(browser, served) as page:
        page.route("**/come_back.js", lambda route: (loaded.append({"come_back.js": len(route.fetch().body())}), route.continue_()))
        follow_from_elsewhere(page, create(served, message=CARD, format="record", policy=POLICY, views=1))
        page.wait_for_selector("#sign-in")
        loaded.append(page.evaluate(LOADED))
        enter(page, PAYER)
        hold(page)
        page.wait_for_selector("#message dt")
        loaded.append(page.evaluate(LOADED))
    assert {name for names in loaded for name in names} >= SIGNED_IN_SCRIPTS
    assert all(0 < sum(names.values()) <= 30_000 for names in loaded), loaded


# Accounts


@either_way
def test_admin_makes_an_account_and_its_owner_sets_the_password_and_signs_in(page: Page, served: Served) -> None:
    email = f"new{served.clock.now()}@example.com"
    go_as(page, served, ADMIN, "/accounts")
    page.fill("#email", email)
    page.fill("#roles", "payments, auditor")
    page.fill("#first_name", "Nova")
    page.fill("#last_name", "Pessoa")
    press(page, "main form:has(#email) button")
    assert page.inner_text("#done") == "The account was made."
    assert "Not yet: it has no password" in page.inner_text("main")
    link = str(page.text_content("#link"))
    page.context.clear_cookies()
    page.goto(link)
    assert email in page.inner_text("main")
    page.fill("#password", "the quick brown ferry boat")
    press(page)
    assert page.inner_text("#done") == "The password is set. Sign in with it."
    enter(page, email, "the quick brown ferry boat")
    assert ways(page) == ["Write", "Write to people who sign in", "Audit", "Your account", "Sign out"]
    page.goto(link)
    assert page.text_content("h1") == "Nothing here"


def test_form_that_is_refused_stands_there_as_it_was_filled_in(page: Page, served: Served) -> None:
    go_as(page, served, ADMIN, "/accounts")
    page.fill("#email", PAYER)
    page.fill("#roles", "payments")
    page.fill("#first_name", "Rui")
    page.fill("#last_name", "Costa")
    press(page, "main form:has(#email) button")
    assert page.inner_text("#email-problem") == "There is an account with that e-mail address already."
    assert page.evaluate("document.activeElement.id") == "email"
    assert [page.input_value(f"#{name}") for name in ("email", "roles", "first_name", "last_name")] == [
        PAYER,
        "payments",
        "Rui",
        "Costa",
    ]
    page.fill("#email", "somebody.else@example.com")
    page.fill("#last_name", "\u202e")
    press(page, "main form:has(#email) button")
    assert page.inner_text("#last_name-problem").startswith("Last name is one line")
    page.goto("/accounts")
    assert "somebody.else@example.com" not in page.inner_text("main")


def test_admin_changes_disables_enables_and_deletes_an_account(page: Page, served: Served) -> None:
    email = f"gone{served.clock.now()}@example.com"
    served.add_account(email, "payments")
    go_as(page, served, ADMIN, "/accounts")
    page.click(f".entries >> text={email}")
    page.fill("#roles", "support")
    press(page, "button[value=change]")
    assert page.inner_text("#done") == "The changes are saved."
    assert page.input_value("#roles") == "support"
    assert not page.locator("button[value=disable]").is_visible(), "a danger that does not ask first"
    page.click("summary >> nth=0")
    press(page, "button[value=disable]")
    assert "can no longer sign in" in page.inner_text("#done")
    assert served.http.get("/account", auth=httpx.BasicAuth(email, PASSWORD)).status_code == 401
    press(page, "button[value=enable]")
    assert served.http.get("/account", auth=httpx.BasicAuth(email, PASSWORD)).status_code == 200
    page.click("summary >> nth=1")
    press(page, "button[value=delete]")
    assert page.inner_text("#done") == "The account was deleted, with its keys."
    assert email not in page.inner_text(".entries")


def test_last_admin_stays_and_the_page_says_why(page: Page, served: Served) -> None:
    go_as(page, served, ADMIN, "/accounts")
    page.click(f".entries >> text={ADMIN}")
    for act in ("delete", "disable"):
        page.click(f"details:has(button[value={act}]) summary")
        press(page, f"button[value={act}]")
        assert "the last admin who can sign in" in page.inner_text("#problem")
    page.fill("#roles", "payments")
    press(page, "button[value=change]")
    assert "the last admin who can sign in" in page.inner_text("#problem")
    page.goto("/accounts")
    assert page.locator(".entries >> text=admin").count() == 1


def test_who_asked_for_a_new_password_is_told_to_the_admin_until_they_have_one(page: Page, served: Served) -> None:
    email = f"forgot{served.clock.now()}@example.com"
    served.add_account(email)
    page.goto("/sign-in")
    page.fill("#reset-email", email)
    press(page, "section button")
    assert "the administrators of this server see that you asked" in page.inner_text("#done")
    go_as(page, served, ADMIN, "/accounts")
    with page.expect_navigation():
        page.click(f"#asking >> text={email}")
    assert "Asked for a new password" in page.inner_text("main")
    press(page, "main form[action$=password-link] button")
    served.http.post(str(page.text_content("#link")), json={"password": "the quick brown ferry boat"})
    page.goto("/accounts")
    assert page.locator(f"#asking >> text={email}").count() == 0


# Keys


def test_key_is_made_shown_once_works_and_is_revoked(page: Page, served: Served) -> None:
    go_as(page, served, PAYER, "/keys")
    assert "You have none yet." in page.inner_text("main") or page.locator(".entries").count()
    page.fill("#name", "the ticket system")
    page.select_option("#expires_in", label="30 days")
    page.select_option("#scopes", label="write and open messages")
    press(page, "main form:has(#name) button")
    key = str(page.text_content("#key"))
    assert re.fullmatch(r"mayfly_[\w-]{43}", key)
    told = served.http.get("/account", headers={**JSON, "Authorization": f"Bearer {key}"}).json()
    assert told["scopes"] == ["messages:create", "messages:read"]
    page.goto("/keys")
    assert key not in page.content()
    assert "May write messages, open messages." in page.inner_text("main")
    assert "Last used" in page.inner_text("main")
    assert not page.locator("button[value=revoke]").first.is_visible(), "a danger that does not ask first"
    page.click("summary")
    press(page, "button[value=revoke]")
    assert "The key was revoked" in page.inner_text("#done")
    assert served.http.get("/account", headers={**JSON, "Authorization": f"Bearer {key}"}).status_code == 401


def test_admin_sees_keys_of_all_and_the_states_of_encryption_keys_and_revokes(page: Page, served: Served) -> None:
    made = served.make_key(PAYER, "messages:read", name="a program of payments")
    go_as(page, served, ADMIN, "/admin/keys")
    entry = page.locator(".entries > li", has_text="a program of payments").first
    assert PAYER in entry.inner_text()
    assert made["key"] not in page.content()
    assert "Current: new messages are encrypted with it." in page.inner_text("main")
    entry.locator("summary").click()
    with page.expect_navigation():
        entry.locator("button").click()
    assert page.url.endswith("/admin/keys?done=revoked")
    assert "The key was revoked" in page.inner_text("#done")
    assert served.http.get("/account", headers={**JSON, "Authorization": f"Bearer {made['key']}"}).status_code == 401


# Server and audit


def test_admin_reaches_the_server_page_by_account_and_purges(page: Page, served: Served) -> None:
    page.goto("/admin")
    page.click("main a")
    enter(page, ADMIN)
    assert page.url.endswith("/admin")
    assert page.locator("main button[value=sign-out]").count() == 0
    press(page, "button[value=purge]")
    assert re.fullmatch(r"Purged \d+ messages?\.", page.inner_text("#done"))


def test_auditor_filters_the_audit_on_its_page(page: Page, served: Served) -> None:
    go_as(page, served, ADMIN, "/audit")
    page.select_option("#action", "sign-in")
    page.fill("#account", ADMIN)
    press(page, "main form button")
    rows = page.locator("main table").last.locator("tbody tr").all_inner_texts()
    assert rows
    assert all("sign-in" in row and ADMIN in row for row in rows)


# Everybody else


FOR = {
    "/account": {ADMIN, PAYER},
    "/keys": {ADMIN, PAYER},
    "/accounts": {ADMIN},
    "/admin/keys": {ADMIN},
    "/audit": {ADMIN},
}


@pytest.mark.parametrize("path", FOR)
def test_page_is_for_those_who_may_and_for_nobody_else(served: Served, path: str) -> None:
    html = {"Accept": "text/html"}
    assert served.http.get(path, headers=html).status_code == 401
    for email in (ADMIN, PAYER):
        with served.signed_in(email) as client:
            assert client.get(path, headers=html).status_code == (200 if email in FOR[path] else 403)


# Every page, in every state


@pytest.fixture(scope="module", params=[(360, "dark"), (1440, "light")], ids=["phone dark", "desk light"])
def seen(request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Every page in every state, looked at once for each width and scheme, on a server of its own."""
    width, scheme = request.param
    with (
        Served(tmp_path_factory.mktemp("seen"), MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as served,
        visitor(browser, served, width, scheme) as page,
    ):
        served.add_account(ADMIN, "admin", "support")
        found = look_at(page, served, walk_people(served, page))
        found.foreign = [url for url in found.foreign if not url.startswith("http://mail.example/")]
        return found


def test_walk_sees_every_page_of_people_who_sign_in(seen: Seen) -> None:
    assert {page for page in SIGNED_IN_PAGES if page not in {name.partition("-")[0] for name in seen.names}} == set()
    assert {path.stem for path in (PROJECT / "web" / "templates").iterdir()} >= SIGNED_IN_PAGES


def test_no_page_has_a_fault(seen: Seen) -> None:
    """Nothing that axe finds, no sideways scrolling, no shift, no target too small for a finger, one heading, a title."""
    assert seen.accessibility == []
    assert (seen.sideways, seen.shifts, seen.small_targets, seen.structure) == ([], [], [], [])


def test_no_page_complains_or_asks_another_origin(seen: Seen) -> None:
    assert [line for line in seen.console if not KNOWN_NOTES.search(line)] == []
    assert seen.foreign == []


# By keyboard


@either_way
def test_key_is_made_and_revoked_by_keyboard(page: Page) -> None:
    page.goto("/keys")
    assert page.evaluate("document.activeElement.id") == "email"
    page.keyboard.type(PAYER)
    tab_to(page, "#password")
    page.keyboard.type(PASSWORD)
    press_key(page, "Enter")
    tab_to(page, "#name")
    page.keyboard.type("by keyboard")
    tab_to(page, "main form:has(#name) button")
    press_key(page, "Enter")
    assert page.locator("#key").count() == 1
    tab_to(page, "summary")
    page.keyboard.press("Enter")
    tab_to(page, "button[value=revoke]")
    press_key(page, "Enter")
    assert "The key was revoked" in page.inner_text("#done")
