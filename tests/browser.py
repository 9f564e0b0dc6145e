"""A real Chromium for tests and pictures, and the walk through every page that Mayfly can show.

with chromium() as browser, visitor(browser, served) as page:
    for name in walk(served, page): ...

`walk` goes as somebody whose browser runs our scripts, `walk_plain` as one whose browser does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

from tests.requirements import require_program
from tests.serving import PASSWORD, Served

_QUIET = "--disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run".split()
_addresses = itertools.count(1)

POEM = "The river keeps no record of the mayfly:\none evening over the water,\nand the evening is enough.\n"
MARKDOWN = """# How to reach the boat house

The key hangs **behind the third plank**, left of the door. Please bring it *back*.

1. Cross the bridge at the mill.
2. Follow the river for ten minutes.
   - At the willow, keep left.
3. Read [the notes on tides](https://example.org/tides) first.

> After ten the lock only opens from inside: `gate --inside --now`

| day | high water |
| --- | --- |
| Friday | 18:40 |
| Saturday | 19:25 |

```
ssh -o ConnectTimeout=5 boathouse.example.org 'echo a line that is much longer than a narrow screen can show'
```
"""
LONG = "\n".join(
    [
        f"{'x' * 400}",
        "https://example.org/" + "a-very-long-path/" * 30,
        *(f"{number:03} a line among many" for number in range(1, 400)),
    ]
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, headless, with a profile of its own that is thrown away."""
    program = require_program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_QUIET)
        yield browser
        browser.close()


@contextmanager
def visitor(
    browser: Browser,
    served: Served,
    width: int = 1440,
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
    modules: bool = True,
) -> Iterator[Page]:
    """A page of somebody with an address of their own (limits count by address), if the server trusts 127.0.0.1 as a proxy.

    Without `modules` the browser runs scripts, but ours come empty: the pages must do without, and tools can still look at them.
    """
    context = browser.new_context(
        base_url=served.url,
        viewport={"width": width, "height": 800 if width < 600 else 900},
        color_scheme=scheme,
        reduced_motion="reduce",
        java_script_enabled=scripts,
        extra_http_headers={"X-Forwarded-For": f"10.0.0.{next(_addresses)}"},
    )
    context.set_default_timeout(10_000)
    if scripts:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
    if not modules:
        context.route("**/static/js/*.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    yield context.new_page()
    context.close()


def press(page: Page, button: str = "main form button[type=submit]") -> None:
    """Press a button that sends a form, and wait for the page that answers."""
    with page.expect_navigation():
        page.click(button)


def open_message(page: Page, passphrase: str | None = None) -> None:
    """On the reveal page: tick, and press the button."""
    if passphrase is not None:
        page.fill("#passphrase", passphrase)
    page.check("input[name=open]")
    press(page)


def sign_in(page: Page, token: str) -> None:
    page.goto("/admin")
    page.fill("#token", token)
    press(page)


def hold(page: Page, milliseconds: int = 1200) -> None:
    """Press the button that opens a message, and keep it pressed."""
    page.hover("#hold")
    page.mouse.down()
    page.wait_for_timeout(milliseconds)
    page.mouse.up()


def make_link(
    page: Page, text: str, views: str = "1", passphrase: str = "", format: str = "text", file: tuple[str, bytes] | None = None
) -> str:
    """Write a message on the page, as scripts do it, and return the link. A file is its name and what it holds."""
    page.goto("/")
    page.fill("#message", text)
    page.fill("#views", views)
    page.click("summary")
    page.fill("#passphrase", passphrase)
    page.select_option("#format", format)
    if file:
        page.set_input_files("#attached", {"name": file[0], "mimeType": "text/plain", "buffer": file[1]})
    page.click("#write [type=submit]")
    return str(page.locator("#link").text_content())


def open_link(page: Page, link: str, passphrase: str = "") -> None:
    """Go to a link and hold its button until the message is shown."""
    page.goto("about:blank")
    page.goto(link)
    if passphrase:
        page.fill("#passphrase", passphrase)
    hold(page)
    page.wait_for_selector("#lease", state="attached")


def walk(served: Served, page: Page) -> Iterator[str]:
    """Bring `page` to each state that scripts make of a page, and yield what it is called."""
    yield from _writing(page)
    yield from _reading(served, page)
    yield from _following(served, page)


def _writing(page: Page) -> Iterator[str]:
    page.goto("/")
    yield "write"
    page.fill("#message", POEM)
    page.click("summary")
    page.fill("#passphrase", "under the willow")
    page.set_input_files("#attached", {"name": "river.txt", "mimeType": "text/plain", "buffer": b"water"})
    yield "write-more"
    page.uncheck("#sealed")
    yield "write-server"
    page.fill("#views", "1")
    page.route("**/", lambda route: route.fulfill(status=429, headers={"Retry-After": "7"}, json={}))
    page.click("#write [type=submit]")
    page.wait_for_selector("#writing .problem:not(:empty):not(#incapable)")
    yield "write-refused"
    page.unroute("**/")
    make_link(page, POEM)
    page.wait_for_selector("#qr[width]")
    yield "link"
    page.click("#burn")
    page.wait_for_timeout(600)  # longer than a double click
    yield "link-sure"
    page.click("#burn")
    page.wait_for_selector("#made [data-alive][hidden]", state="attached")
    yield "link-burned"


def _reading(served: Served, page: Page) -> Iterator[str]:
    link = make_link(page, POEM)
    page.goto(link)
    yield "reveal"
    page.click("#hold")
    yield "reveal-clicked"
    hold(page)
    page.wait_for_selector("#lease")
    yield "message"
    page.click("#destroy")
    page.wait_for_selector("#lease", state="hidden")
    yield "message-destroyed"
    link = make_link(page, MARKDOWN, views="3", format="markdown")
    open_link(page, link)
    page.wait_for_selector("#message.markdown")
    yield "message-markdown"
    page.goto(link.partition("#")[0])
    page.evaluate("history.replaceState(null, '')")
    page.reload()
    yield "reveal-cut-short"
    open_link(page, make_link(page, "", file=("river.txt", b"water")))
    yield "message-file"
    page.goto(make_link(page, MARKDOWN, passphrase="under the willow", format="markdown", file=("river.txt", b"water")))
    yield "reveal-passphrase"
    page.fill("#passphrase", "over the willow")
    hold(page)
    page.wait_for_selector("main .problem:not(:empty)")
    yield "reveal-wrong"
    page.fill("#passphrase", "under the willow")
    hold(page)
    page.wait_for_selector("#message.markdown")
    yield "message-all"
    message = served.create(POEM, views=1)
    page.goto(message.path)
    served.http.post(message.path)
    hold(page)
    page.wait_for_selector("#detail")
    yield "gone"
    page.goto(served.create(POEM).path)
    yield "message-free"
    page.goto("/message/00000000-0000-4000-8000-000000000000")
    yield "nothing"


def _following(served: Served, page: Page) -> Iterator[str]:
    message = served.create("hello", views=2)
    page.goto(message.receipt_path)
    yield "receipt"
    page.click("#burning button")
    yield "receipt-sure"
    served.http.post(message.path)
    page.wait_for_selector("#state.state-opened")
    yield "receipt-live"


def walk_plain(served: Served, page: Page) -> Iterator[str]:
    """Bring `page`, which runs none of our scripts, to each state of each page in turn, and yield what it is called.

    Moves the store's clock by a minute.
    """
    yield from _sending(page)
    yield from _opening(served, page)
    yield from _receipts(served, page)
    yield from _admin(served, page)
    yield from _description(page)
    yield from _errors(served, page)


def _sending(page: Page) -> Iterator[str]:
    page.goto("/")
    yield "write"
    page.fill("#message", POEM)
    page.click("summary")
    page.fill("#passphrase", "under the willow")
    yield "write-filled"
    press(page)
    yield "link"


def _opening(served: Served, page: Page) -> Iterator[str]:
    page.goto(served.create(POEM, views=1).path)
    yield "reveal"
    open_message(page)
    yield "message"
    page.goto(served.create("Three may read this.", views=3).path)
    yield "reveal-several"
    open_message(page)
    yield "message-several"
    page.goto(served.create(MARKDOWN, format="markdown").path)
    yield "message-markdown"
    page.goto(served.create(LONG).path)
    yield "message-long"
    page.goto(served.create(POEM, passphrase="under the willow").path)
    yield "reveal-passphrase"
    open_message(page, "over the willow")
    yield "reveal-wrong"


SIGNED_IN_PAGES = {
    *("account_sign_in", "come_back", "password", "own_account", "accounts", "account", "keys", "keys_in_use", "audit"),
    *("webhooks", "webhook"),
}
"""The templates of `walk_people`."""
CERTIFICATE_PAGES = {"certificates", "certificate", "own_certificates"}
"""Those that tests/test_certificate_pages.py walks through."""
SIGNED_IN_SCRIPTS = {"sign_in.js", "come_back.js", "record.js"}
"""What only pages of people who sign in load."""
ADMIN = "ana@example.com"
LONG_ADDRESS = "somebody.whose-address-is-longer-than.any-phone-is-wide@a-department.of-a-subsidiary.of-a-company.example"


def enter(page: Page, email: str, password: str = PASSWORD) -> None:
    """On the form to sign in, wherever it is shown."""
    page.fill("#email", email)
    page.fill("#password", password)
    press(page, "#sign-in button")


def walk_people(served: Served, page: Page) -> Iterator[str]:
    """Bring `page` to each state of the pages of people who sign in, and yield what it is called.

    ADMIN must be an admin, and of support.
    """
    yield from _entering(served, page)
    yield from _own(page)
    yield from _others(served, page)
    yield from _reading_records(served, page)
    yield from _webhooks(page)
    yield from _server(served, page)


def follow_from_elsewhere(page: Page, link: str) -> None:
    """Follow a link that stands on a page of another site."""
    html = f'<!doctype html><title>mail</title><a id="there" href="{link}">There</a>'
    page.route("http://mail.example/", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto("http://mail.example/")
    page.click("#there")


def _entering(served: Served, page: Page) -> Iterator[str]:
    page.goto("/sign-in")
    yield "account_sign_in"
    enter(page, ADMIN, "not the password")
    yield "account_sign_in-wrong"
    page.fill("#reset-email", ADMIN)
    press(page, "section button")
    yield "account_sign_in-reset"
    page.route("**/static/js/come_back.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    follow_from_elsewhere(page, f"{served.url}/account")
    page.wait_for_selector("main .button")
    yield "come_back"
    page.unroute("**/static/js/come_back.js")
    press(page, "main .button")
    yield "account_sign_in-before"
    enter(page, ADMIN)


def _own(page: Page) -> Iterator[str]:
    page.goto("/account")
    yield "own_account"
    page.fill("#old", "not the password")
    page.fill("#new", "the quick brown ferry boat")
    press(page, "main form:has(#old) button")
    yield "own_account-wrong"
    page.goto("/keys")
    yield "keys-none"
    page.fill("#name", "the backups of the boat house")
    press(page, "main form:has(#name) button")
    yield "keys-made"
    page.goto("/keys")
    page.click("summary")
    yield "keys"
    page.fill("#name", " ")
    press(page, "main form:has(#name) button")
    yield "keys-refused"


def _others(served: Served, page: Page) -> Iterator[str]:
    page.goto("/accounts")
    page.fill("#email", LONG_ADDRESS)
    page.fill("#roles", " ".join(f"role-number-{number}" for number in range(20)))
    page.fill("#first_name", "Maria da Conceição")
    page.fill("#last_name", "de Sousa e Albuquerque")
    press(page, "main form:has(#email) button")
    yield "account-made"
    link = str(page.text_content("#link"))
    page.goto("/accounts")
    yield "accounts"
    page.fill("#email", ADMIN)
    page.fill("#first_name", "Ana")
    page.fill("#last_name", "Silva")
    press(page, "main form:has(#email) button")
    yield "accounts-taken"
    page.goto("/accounts")
    page.click(f".entries >> text={ADMIN}")
    for summary in page.locator("summary").all():
        summary.click()
    yield "account"
    press(page, "button[value=delete]")
    yield "account-last"
    page.goto("/accounts")
    page.click(f".entries >> text={LONG_ADDRESS}")
    page.fill("#roles", "Not A Role")
    press(page, "button[value=change]")
    yield "account-refused"
    page.goto(link)
    yield "password"
    page.fill("#password", "a" * 20)
    press(page)
    yield "password-refused"
    page.goto("/accounts")
    page.click(f".entries >> text={LONG_ADDRESS}")
    page.click("summary >> nth=0")
    press(page, "button[value=disable]")
    yield "account-disabled"
    page.click("summary >> nth=0")
    press(page, "button[value=delete]")
    yield "accounts-deleted"


RECORD = {
    "message": {"name": "Ada Lovelace", "card": "4111111111111111", "note": "call after six"},
    "policy": {"support": {"name": "show", "card": "mask", "note": "show"}},
}


def _reading_records(served: Served, page: Page) -> Iterator[str]:
    """As somebody of support."""
    made = served.http.post("/guarded", json={"format": "record", **RECORD})
    page.goto(made.json()["link"])
    yield "record"
    page.goto(served.http.post("/guarded", json={"format": "record", **RECORD, "views": 1}).json()["link"])
    hold(page)
    page.wait_for_selector("#message dt")
    yield "record-opened"


def _webhooks(page: Page) -> Iterator[str]:
    page.goto("/webhooks")
    yield "webhooks-none"
    page.fill("#url", "https://127.0.0.1/told")
    press(page, "main form:has(#url) button")
    yield "webhooks-refused"
    page.fill("#url", f"https://receiver.example/{'a-long-path/' * 12}")
    press(page, "main form:has(#url) button")
    yield "webhook-made"
    page.goto("/webhooks")
    yield "webhooks"
    page.click(".entries a")
    for summary in page.locator("summary").all():
        summary.click()
    yield "webhook"
    press(page, "button[value=delete]")
    yield "webhooks-deleted"


def _server(served: Served, page: Page) -> Iterator[str]:
    page.goto("/admin/keys")
    yield "keys_in_use"
    for summary in page.locator("summary").all():
        summary.click()
    press(page, "button[value=revoke]")
    yield "keys-revoked"
    page.goto("/admin/keys")
    yield "keys_in_use-none"
    page.goto("/admin")
    yield "admin"
    page.goto("/audit")
    yield "audit"
    page.goto("/audit?account=nobody@example.com")
    yield "audit-none"
    page.goto("/guarded")
    yield "write-guarded"
    page.goto("/")
    yield "write-signed-in"
    press(page, ".way")
    yield "account_sign_in-left"


def _receipts(served: Served, page: Page) -> Iterator[str]:
    waiting = served.create("hello", views=2)
    page.goto(waiting.receipt_path)
    yield "receipt-waiting"
    served.http.post(waiting.path)
    page.goto(waiting.receipt_path)
    yield "receipt-opened"
    page.check("input[name=burn]")
    press(page)
    yield "receipt-burned"
    page.goto(served.create("hello").receipt_path)
    yield "receipt-unlimited"
    locked = served.create("hello", passphrase="right")
    for _ in range(5):
        served.http.post(locked.path, json={"passphrase": "wrong"})
    page.goto(locked.receipt_path)
    yield "receipt-locked"
    spent = served.create("hello", views=1)
    served.http.post(spent.path)
    page.goto(spent.receipt_path)
    yield "receipt-gone"
    expired = served.create("hello", views=1, expires_in=60)
    served.clock.advance(61)
    page.goto(expired.receipt_path)
    yield "receipt-expired"


def _admin(served: Served, page: Page) -> Iterator[str]:
    page.goto("/admin")
    yield "sign-in"
    sign_in(page, "not the token")
    yield "sign-in-wrong"
    sign_in(page, served.admin_token)
    yield "admin"
    press(page, "button[value=purge]")
    yield "admin-purged"
    press(page, "button[value=sign-out]")


def _description(page: Page) -> Iterator[str]:
    page.goto("/docs")
    page.click("#create_message summary")
    yield "docs"


def _errors(served: Served, page: Page) -> Iterator[str]:
    page.goto("/message/00000000-0000-4000-8000-000000000000")
    yield "error-404"
    page.goto("/delete")
    yield "error-405"
    page.goto(served.create("hello", views=1).receipt_path)
    page.locator("input[name=burn]").evaluate("tick => tick.required = false")
    press(page)
    yield "error-400"
    page.goto("/admin")
    for _ in range(12):
        sign_in(page, "not the token")
        if page.locator("#detail").count():
            break
    yield "error-429"
