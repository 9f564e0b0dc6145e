"""The pages with our scripts, in a real Chromium: encrypting, opening by a deliberate act, following the receipt.

And what stays secret, and that nothing of a message becomes part of the page.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from playwright.sync_api import Browser, Page, Request, Route

from tests.browser import MARKDOWN, POEM, SIGNED_IN_SCRIPTS, chromium, hold, make_link, open_link, visitor, walk
from tests.requirements import require_program
from tests.serving import PROJECT, Served
from tests.test_pages import HOSTILE, HOSTILE_MARKDOWN, KNOWN_NOTES, TEXTS, Seen, look_at, tab_to

SCRIPTS = PROJECT / "web" / "static" / "js"
HOSTILE_NAMES = (
    "<img src=x onerror=alert(1)>.txt",
    "../../etc/passwd",
    "..\\..\\windows\\system32\\evil.exe",
    "\u202egpj.exe",
    ".bashrc",
    'quote".html',
    "a\u0000b\u001b[31m.txt",
    "n" * 500 + ".txt",
    "x." + "n" * 99,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on a database file, which takes each visitor's address from its header."""
    with Served(tmp_path_factory.mktemp("served"), database="file", MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """A visitor's page on a phone; what it complains of fails the test."""
    with visitor(browser, served, 360) as page:
        complaints = listen(page)
        yield page
        assert complaints == []


@pytest.fixture
def desk(browser: Browser, served: Served) -> Iterator[Page]:
    """The same at a desk, at night."""
    with visitor(browser, served, 1440, "dark") as page:
        complaints = listen(page)
        yield page
        assert complaints == []


@pytest.fixture(scope="module")
def reader(browser: Browser, served: Served) -> Iterator[Page]:
    """A page for many messages, one after the other; it remembers the type of what it offers to save."""
    with visitor(browser, served, 1440) as page:
        page.add_init_script(
            "const make = URL.createObjectURL; URL.createObjectURL = blob => { window.savedType = blob.type; return make(blob) }"
        )
        yield page


def listen(page: Page) -> list[str]:
    """Collect errors of scripts and breaches of the policy."""
    complaints: list[str] = []
    page.add_init_script(
        "addEventListener('securitypolicyviolation', event => console.error('policy: ' + event.violatedDirective))"
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            None
            if KNOWN_NOTES.search(message.text) or "ERR_" in message.text or "status of 5" in message.text
            else complaints.append(message.text)
        ),
    )
    return complaints


def note(page: Page) -> str:
    return page.locator("main [data-note]:visible").first.inner_text()


def clipboard(page: Page) -> str:
    """What somebody would paste: pages of ours may not read the clipboard."""
    other = page.context.new_page()
    other.goto("/")
    other.keyboard.press("Control+v")
    pasted = other.input_value("#message")
    other.close()
    return pasted


def hear(page: Page, words: str) -> None:
    """Wait until the live region says it."""
    page.locator("#live", has_text=words).wait_for(state="attached")


def path_of(link: str) -> str:
    return urlsplit(link).path


def views_left(served: Served, link: str) -> int | None:
    """How often a message can still be opened; None if it is gone."""
    answer = served.http.get(path_of(link), headers={"Accept": "application/json"})
    return int(answer.json()["views_left"]) if answer.status_code == 405 else None


# Writing


@pytest.mark.parametrize("keys", ["Control+Enter", "Meta+Enter"])
def test_one_act_makes_the_link_copies_it_and_says_so(page: Page, served: Served, keys: str) -> None:
    page.goto("/")
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type(POEM)
    page.keyboard.press(keys)
    link = str(page.locator("#link").text_content())
    assert re.fullmatch(re.escape(served.url) + r"/message/[0-9a-f-]{36}#[1-9A-HJ-NP-Za-km-z]{43,44}", link)
    hear(page, "on your clipboard")
    assert clipboard(page) == link
    assert "on your clipboard" in note(page)
    assert page.evaluate("document.activeElement.textContent") == "Your link is ready"
    assert views_left(served, link) == 1
    assert page.url == f"{served.url}/"


def test_where_copying_is_not_allowed_the_link_is_selected_and_the_page_says_so(desk: Page) -> None:
    desk.add_init_script("navigator.clipboard.write = navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    link = make_link(desk, POEM)
    desk.wait_for_selector("#made .problem")
    assert "could not be copied" in note(desk)
    assert desk.evaluate("getSelection().toString()") == link


def test_copying_falls_back_to_text_where_promises_cannot_be_copied(page: Page) -> None:
    page.add_init_script("navigator.clipboard.write = () => Promise.reject(new Error('no'))")
    link = make_link(page, POEM)
    hear(page, "on your clipboard")
    assert clipboard(page) == link


def test_clipboard_that_does_not_answer_does_not_hold_the_link_back(page: Page) -> None:
    page.add_init_script("navigator.clipboard.write = () => new Promise(() => {})")
    assert make_link(page, POEM)
    assert page.text_content("h1:visible") == "Your link is ready"


def test_line_above_the_button_always_says_who_can_read_it(page: Page) -> None:
    page.goto("/")
    audience = page.locator("#audience")
    assert audience.inner_text() == "Only someone with the link can read this; this server cannot."
    page.click("summary")
    page.fill("#passphrase", "willow")
    assert audience.inner_text() == "Only someone with the link and the passphrase can read this; this server cannot."
    assert page.locator("#format-hint").is_hidden(), "only the server draws no more than 16 KiB"
    page.uncheck("#sealed")
    assert page.locator("#format-hint").is_visible()
    assert audience.inner_text() == "Someone with the link and the passphrase can read this; this server could."
    page.fill("#passphrase", "")
    assert audience.inner_text() == "Someone with the link can read this; this server could."


def test_page_switched_to_server_encryption_sends_what_the_server_can_read(desk: Page, served: Served) -> None:
    desk.goto("/")
    desk.fill("#message", POEM)
    desk.click("summary")
    desk.uncheck("#sealed")
    desk.click("#write [type=submit]")
    link = str(desk.locator("#link").text_content())
    assert "#" not in link
    assert served.http.post(path_of(link), headers={"Accept": "application/json"}).json()["message"] == POEM


@pytest.mark.parametrize("lacking", ["crypto.subtle", "CompressionStream"])
def test_browser_that_cannot_encrypt_says_so_and_offers_the_server(page: Page, served: Served, lacking: str) -> None:
    where = "Object.defineProperty(Crypto.prototype, 'subtle', {value: undefined})"
    page.add_init_script(where if lacking == "crypto.subtle" else "delete window.CompressionStream")
    page.goto("/")
    assert page.locator("#incapable").is_visible()
    assert "cannot encrypt here" in page.inner_text("#incapable")
    assert page.inner_text("#audience") == "Someone with the link can read this; this server could."
    page.fill("#message", POEM)
    page.click("#write [type=submit]")
    link = str(page.locator("#link").text_content())
    assert served.http.post(path_of(link), headers={"Accept": "text/plain"}).text == POEM


@pytest.mark.parametrize("status", [413, 429, 503, 500])
def test_draft_survives_a_refusal_and_is_sent_when_asked_again(page: Page, status: int) -> None:
    page.goto("/")
    page.fill("#message", POEM)
    page.fill("#views", "7")
    retry = {"Retry-After": "9"} if status in (429, 503) else {}
    page.route("**/", lambda route: route.fulfill(status=status, headers=retry, json={"detail": "no"}))
    page.click("#write [type=submit]")
    page.wait_for_selector("#writing .problem[data-note]:not(:empty)")
    assert "What you wrote is still here" in note(page)
    assert ("9 seconds" in note(page)) == bool(retry)
    assert (page.input_value("#message"), page.input_value("#views")) == (POEM, "7")
    page.unroute("**/")
    page.click("#write [type=submit]")
    assert page.locator("#link").text_content()


def test_draft_survives_a_lost_network(page: Page) -> None:
    page.goto("/")
    page.fill("#message", POEM)
    page.context.set_offline(True)
    page.click("#write [type=submit]")
    page.wait_for_selector("#writing .problem[data-note]:not(:empty)")
    assert "did not answer" in note(page)
    assert page.input_value("#message") == POEM
    page.context.set_offline(False)
    page.click("#write [type=submit]")
    assert page.locator("#link").text_content()


def test_work_that_takes_long_says_so(page: Page) -> None:
    """Here the upload; the same stands around deriving keys and opening."""
    page.goto("/")
    page.fill("#message", POEM)
    held: list[Route] = []
    page.route("**/", lambda route: held.append(route))
    page.click("#write [type=submit]")
    page.wait_for_selector("progress:visible")
    assert note(page) == "Sending…"
    held[0].continue_()
    page.wait_for_selector("#link")


def test_qr_code_is_drawn_here_and_says_the_link(page: Page) -> None:
    make_link(page, POEM)
    page.wait_for_selector("#qr[width]")
    dark, light = page.evaluate(
        """() => {
          const {width, height} = document.querySelector('#qr')
          const pixels = document.querySelector('#qr').getContext('2d').getImageData(0, 0, width, height).data
          const all = Array.from({length: width * height}, (_, at) => pixels[4 * at])
          return [all.filter(one => one == 0).length, all.filter(one => one == 255).length]
        }"""
    )
    assert 0.5 < dark / light < 1.2


def test_link_can_be_shared_where_the_system_can(page: Page) -> None:
    page.add_init_script("navigator.share = async what => { window.shared = what.url }")
    link = make_link(page, POEM)
    page.click("#share")
    assert page.evaluate("window.shared") == link


def test_share_is_not_offered_where_the_system_cannot(page: Page) -> None:
    page.add_init_script("delete Navigator.prototype.share")
    make_link(page, POEM)
    assert page.locator("#share").is_hidden()


def test_sender_burns_at_once_with_a_press_and_one_to_confirm(page: Page, served: Served) -> None:
    link = make_link(page, POEM)
    page.dblclick("#burn")
    assert views_left(served, link) == 1, "a double click burned it"
    page.wait_for_timeout(600)
    page.click("#burn")
    page.wait_for_selector("#made h1:text-is('Burned')")
    assert views_left(served, link) is None
    assert page.locator("#link").is_hidden()


def test_write_another_begins_afresh(page: Page) -> None:
    first = make_link(page, POEM, passphrase="willow")
    page.click("#again")
    assert page.evaluate("document.activeElement.id") == "message"
    assert page.input_value("#message") == page.input_value("#passphrase") == ""
    assert first not in page.content()
    page.keyboard.type("another")
    page.keyboard.press("Control+Enter")
    assert page.locator("#link").text_content() != first


# Files


@pytest.mark.parametrize("way", ["pick", "drop", "drop beside", "paste"])
def test_file_arrives_with_its_name_and_every_byte(desk: Page, tmp_path: Path, way: str) -> None:
    content = bytes(range(256)) * 100
    desk.goto("/")
    if way == "pick":
        desk.set_input_files("#attached", {"name": "river.bin", "mimeType": "image/png", "buffer": content})
    else:
        desk.evaluate(
            """([way, bytes]) => {
              const data = new DataTransfer()
              data.items.add(new File([new Uint8Array(bytes)], "river.bin", {type: "image/png"}))
              const event = way == "paste" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true})
                : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
              document.querySelector(way == "drop beside" ? "body" : "#message").dispatchEvent(event)
            }""",
            [way, list(content)],
        )
    desk.click("#write [type=submit]")
    open_link(desk, str(desk.locator("#link").text_content()))
    assert (desk.inner_text("#file-name"), desk.inner_text("#file-type")) == ("river.bin", "image/png")
    with desk.expect_download() as download:
        desk.click("#save")
    download.value.save_as(tmp_path / "saved")
    assert download.value.suggested_filename == "river.bin"
    assert (tmp_path / "saved").read_bytes() == content


def test_words_copied_in_an_office_are_pasted_as_words(page: Page) -> None:
    """With them comes a picture of them, which is no file that anybody meant."""
    page.goto("/")
    taken = page.evaluate(
        """() => {
          const data = new DataTransfer()
          data.setData("text/plain", "words")
          data.setData("text/html", "<b>words</b>")
          data.items.add(new File(["x"], "image.png", {type: "image/png"}))
          const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true})
          return !document.querySelector("#message").dispatchEvent(event)
        }"""
    )
    assert not taken
    assert page.evaluate("document.querySelector('#attached').files.length") == 0


def test_file_over_the_limit_is_refused_before_it_is_read(page: Page) -> None:
    page.goto("/")
    limit = int(str(page.get_attribute("#write", "data-max-bytes")))
    page.set_input_files("#attached", {"name": "big", "mimeType": "", "buffer": b"x" * (limit + 1)})
    assert "larger than this server takes" in note(page)
    assert page.evaluate("document.querySelector('#attached').files.length") == 0


def test_largest_file_is_taken_and_opens(page: Page, served: Served, tmp_path: Path) -> None:
    page.goto("/")
    limit = int(str(page.get_attribute("#write", "data-max-bytes")))
    content = bytes(number * number % 251 for number in range(limit))
    page.set_input_files("#attached", {"name": "big", "mimeType": "", "buffer": content})
    page.click("#write [type=submit]")
    open_link(page, str(page.locator("#link").text_content()))
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == content


def test_file_and_server_encryption_exclude_each_other(page: Page) -> None:
    page.goto("/")
    page.click("summary")
    page.set_input_files("#attached", {"name": "river.bin", "mimeType": "", "buffer": b"x"})
    page.uncheck("#sealed")
    assert "only when it is encrypted in this browser" in note(page)
    assert page.locator("#attached").is_disabled()
    assert page.evaluate("document.querySelector('#attached').files.length") == 0


# Opening


def test_message_opens_when_the_button_is_held(page: Page, served: Served) -> None:
    link = make_link(page, POEM)
    open_link(page, link)
    assert page.text_content("#message") == POEM
    assert "last time" in page.inner_text("#left")
    assert views_left(served, link) is None
    page.click("#copy")
    hear(page, "Copied.")
    assert clipboard(page) == POEM


def test_message_opens_when_a_finger_is_held(browser: Browser, served: Served) -> None:
    context = browser.new_context(base_url=served.url, has_touch=True, is_mobile=True, viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(served.create(POEM, views=1).path)
    place = page.locator("#hold").bounding_box()
    assert place
    finger = [{"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}]
    touch = context.new_cdp_session(page)
    for touched, pause in ((finger, 300), ([], 1500), (finger, 1300)):
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart" if touched else "touchEnd", "touchPoints": touched})
        page.wait_for_timeout(pause)
        assert page.locator("#message").count() == (pause == 1300)
    assert page.text_content("#message") == POEM
    context.close()


@pytest.mark.parametrize("key", ["Enter", " "])
def test_message_opens_when_a_key_is_held(desk: Page, key: str) -> None:
    desk.goto(make_link(desk, POEM))
    desk.goto(desk.url)
    tab_to(desk, "#hold")
    desk.keyboard.down(key)
    desk.wait_for_timeout(1200)
    desk.keyboard.up(key)
    assert desk.text_content("#message") == POEM


def test_message_opens_by_tick_and_button_for_those_who_cannot_hold(desk: Page) -> None:
    desk.goto(make_link(desk, POEM))
    tab_to(desk, "[name=open]")
    desk.keyboard.press("Space")
    tab_to(desk, "main [type=submit]")
    desk.keyboard.press("Enter")
    assert desk.text_content("#message") == POEM


def test_click_or_short_hold_only_explains(page: Page, served: Served) -> None:
    link = make_link(page, POEM)
    page.goto(link)
    place = page.locator("#hold").bounding_box()
    page.click("#hold")
    hold(page, 600)
    page.focus("#hold")
    page.keyboard.press("Enter")
    page.wait_for_timeout(1200)
    assert "Not opened" in page.inner_text("#hold-hint")
    assert page.inner_text("#live") == page.inner_text("#hold-hint")
    assert page.locator("#hold").bounding_box() == place, "the button moved away"
    assert views_left(served, link) == 1


def test_page_says_what_will_happen_before_it_happens(page: Page) -> None:
    page.goto(make_link(page, POEM))
    told = page.inner_text("main")
    assert "It can be opened once" in told
    assert "This server cannot" in told


def test_fragment_leaves_the_address_bar_and_a_reload_before_opening_keeps_it(page: Page) -> None:
    link = make_link(page, POEM)
    page.goto(link)
    assert page.url == link.partition("#")[0]
    page.reload()
    assert page.url == link.partition("#")[0]
    hold(page)
    assert page.text_content("#message") == POEM


@pytest.mark.parametrize("encryption", ["server", "end-to-end"])
def test_reload_within_the_lease_shows_it_again_and_not_after_it(page: Page, served: Served, encryption: str) -> None:
    page.clock.install()
    page.goto(make_link(page, POEM) if encryption == "end-to-end" else served.create(POEM, views=1).path)
    hold(page)
    assert page.text_content("#message") == POEM
    page.reload()
    assert page.text_content("#message") == POEM
    assert "second" in page.inner_text("#countdown")
    assert page.evaluate("history.state.lease.length") > 15
    page.clock.fast_forward(31_000)
    page.wait_for_selector("#lease", state="hidden")
    assert "only on this screen" in note(page)
    assert page.text_content("#message") == POEM
    assert page.evaluate("Object.keys(history.state)") == []
    served.clock.advance(31)
    page.reload()
    assert page.text_content("h1") == "Nothing here"


def test_reload_after_a_passphrase_shows_it_again(page: Page) -> None:
    link = make_link(page, POEM, passphrase="under the willow")
    open_link(page, link, "under the willow")
    assert page.text_content("#message") == POEM
    page.reload()
    assert page.text_content("#message") == POEM


@pytest.mark.parametrize("encryption", ["server", "end-to-end"])
def test_answer_that_is_lost_on_the_way_comes_again(page: Page, served: Served, encryption: str) -> None:
    """The server has counted the opening; only the page knows the lease."""
    link = make_link(page, POEM) if encryption == "end-to-end" else served.create(POEM, views=1).path
    lost: list[int] = []

    def lose(route: Route) -> None:
        if route.request.method == "POST" and not lost:
            lost.append(route.fetch().status)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.goto(link)
    page.route("**/message/*", lose)
    hold(page)
    assert page.text_content("#message") == POEM
    assert lost == [200]


def test_several_readers_share_the_views_and_a_reload_takes_none(page: Page, served: Served) -> None:
    link = make_link(page, POEM, views="3")
    open_link(page, link)
    assert "2 more times" in page.inner_text("#left")
    assert page.locator("#destroy").is_hidden()
    page.reload()
    assert page.text_content("#message") == POEM
    assert views_left(served, link) == 2


def test_destroy_now_ends_the_lease_for_the_reader_too(page: Page, served: Served) -> None:
    open_link(page, make_link(page, POEM))
    lease = page.evaluate("history.state.lease")
    page.click("#destroy")
    page.wait_for_selector("#lease", state="hidden")
    assert "Destroyed" in note(page)
    again = served.http.post(urlsplit(page.url).path, headers={"Idempotency-Key": lease})
    assert again.status_code == 404
    page.reload()
    assert page.text_content("h1") == "Nothing here"


@pytest.mark.parametrize("lacking", ["secure context", "DecompressionStream"])
def test_browser_that_cannot_decrypt_says_so_and_uses_nothing_up(browser: Browser, tmp_path: Path, lacking: str) -> None:
    """Elsewhere than on this machine a page without https has no WebCrypto."""
    with Served(tmp_path, MAYFLY_TRUSTED_HOSTS="127.0.0.1,mayfly.test") as served:
        with visitor(browser, served) as page:
            link = make_link(page, POEM)
        elsewhere = browser.browser_type.launch(
            executable_path=require_program("chromium"), args=["--host-resolver-rules=MAP mayfly.test 127.0.0.1"]
        )
        page = elsewhere.new_page()
        if lacking == "secure context":
            link = link.replace("127.0.0.1", "mayfly.test")
        else:
            page.add_init_script("delete window.DecompressionStream")
        page.goto(link)
        assert page.evaluate("isSecureContext") == (lacking != "secure context")
        assert "https and a recent browser" in page.inner_text("#needs-script")
        assert page.locator("#open").is_hidden()
        elsewhere.close()
        assert views_left(served, link) == 1


def test_message_without_a_view_limit_says_until_when_it_can_be_opened(page: Page) -> None:
    page.goto(make_link(page, POEM, views=""))
    until = page.inner_text("main time")
    hold(page)
    assert page.inner_text("#left") == f"It can be opened any number of times until {until}."


@pytest.mark.parametrize("fragment", ["", "#", "#0OIl", "#" + "1" * 60])
def test_link_without_its_fragment_is_told_before_anything_is_sent(page: Page, served: Served, fragment: str) -> None:
    link = make_link(page, POEM)
    posted: list[str] = []
    page.on("request", lambda request: posted.append(request.method) if request.method != "GET" else None)
    page.goto("about:blank")
    page.goto(path_of(link) + fragment)
    assert "the part after # is missing" in note(page)
    assert page.locator("#hold").is_hidden()
    assert posted == []
    assert views_left(served, link) == 1


@pytest.mark.parametrize("passphrase", ["", "under the willow"])
def test_wrong_fragment_uses_nothing_up(page: Page, served: Served, passphrase: str) -> None:
    link = make_link(page, POEM, passphrase=passphrase)
    other = make_link(page, POEM).partition("#")[2]
    page.goto(f"{path_of(link)}#{other}")
    if passphrase:
        page.fill("#passphrase", passphrase)
    hold(page)
    page.wait_for_selector("main .problem[data-note]:not(:empty)")
    assert ("4 tries are left" if passphrase else "belongs to another message") in note(page)
    assert views_left(served, link) == 1
    open_link(page, link, passphrase)
    assert page.text_content("#message") == POEM


@pytest.mark.parametrize("encryption", ["server", "end-to-end"])
def test_wrong_passphrase_says_how_many_tries_are_left(desk: Page, served: Served, encryption: str) -> None:
    right, wrong = "under the willow", "over the willow"
    if encryption == "end-to-end":
        link = make_link(desk, POEM, passphrase=right)
    else:
        link = served.create(POEM, views=1, passphrase=right).link
    desk.goto(link)
    hold(desk)
    assert "passphrase first" in note(desk)
    for left in ("4 tries are left", "3 tries are left"):
        desk.fill("#passphrase", wrong)
        hold(desk)
        hear(desk, left)
        assert desk.evaluate("document.activeElement.id") == "passphrase"
        assert desk.get_attribute("#passphrase", "aria-invalid") == "true"
    assert views_left(served, link) == 1
    desk.fill("#passphrase", right)
    hold(desk)
    assert desk.text_content("#message") == POEM


def test_last_wrong_passphrase_says_that_it_is_gone(page: Page, served: Served) -> None:
    message = served.create(POEM, views=1, passphrase="right")
    for _ in range(4):
        served.http.post(message.path, json={"passphrase": "wrong"})
    page.goto(message.path)
    page.fill("#passphrase", "wrong")
    hold(page)
    assert page.text_content("h1:has-text('Nothing here')")


def test_message_that_someone_else_opened_says_what_may_have_happened_and_what_to_do(page: Page, served: Served) -> None:
    message = served.create(POEM, views=1)
    page.goto(message.path)
    served.http.post(message.path)
    hold(page)
    page.wait_for_selector("#detail")
    told = page.inner_text("main")
    assert "Someone opened it before you" in told
    assert "Ask the sender" in told
    assert page.evaluate("document.activeElement.tagName") == "H1"


def test_another_link_in_the_same_tab_is_another_link(page: Page, served: Served) -> None:
    first, second = make_link(page, "one"), make_link(page, "two")
    page.goto(f"{path_of(first)}#{second.partition('#')[2]}")
    with page.expect_navigation(wait_until="load"):
        page.evaluate("link => { location.href = link }", first)
        page.wait_for_timeout(300)
    hold(page)
    assert page.text_content("#message") == "one"


def test_choosing_a_language_keeps_the_fragment(page: Page) -> None:
    page.goto(make_link(page, POEM))
    page.click(".languages a")
    page.wait_for_url("**?lang=*")
    hold(page)
    assert page.text_content("#message") == POEM


# Scanners


SCAN = """async () => {
  const pause = () => new Promise(done => setTimeout(done, 20))
  for (const button of document.querySelectorAll("button, a[href='#'], summary, [role=button]")) { button.click(); await pause() }
  for (const button of document.querySelectorAll("button")) {
    for (const kind of ["pointerdown", "mousedown", "keydown"]) {
      const more = {bubbles: true, button: 0, isPrimary: true, key: "Enter"}
      button.dispatchEvent(new (kind == "keydown" ? KeyboardEvent : PointerEvent)(kind, more))
    }
  }
  await new Promise(done => setTimeout(done, 1300))
  for (const form of document.forms) {
    form.dispatchEvent(new SubmitEvent("submit", {bubbles: true, cancelable: true}))
    try { form.requestSubmit() } catch {}
    await pause()
  }
}"""


@pytest.mark.parametrize("encryption", ["server", "end-to-end"])
def test_scanner_that_clicks_and_submits_everything_five_times_opens_nothing(page: Page, served: Served, encryption: str) -> None:
    link = make_link(page, POEM) if encryption == "end-to-end" else served.create(POEM, views=1).link
    for _ in range(5):
        page.goto("about:blank")
        page.goto(link)
        for button in page.locator("main button:visible").all():
            button.click()
        page.evaluate(SCAN)
        for at in range(page.locator("form").count()):
            page.goto("about:blank")
            page.goto(link)
            with page.expect_navigation():
                page.evaluate("at => document.forms[at].submit()", at)
        assert POEM not in page.content()
    assert views_left(served, link) == 1
    open_link(page, link)
    assert page.text_content("#message") == POEM


# What is shown is what was sent


def open_sealed(page: Page, make: str) -> None:
    """Open a message that the page's own modules encrypted, made by the expression `make`, as if the server had answered it."""
    document, key = page.evaluate(
        f"""async () => {{
          const {{ encodeKey, encrypt, newKey }} = await import("/static/js/encrypt.js")
          const key = newKey()
          return [await encrypt({make}, key, ""), encodeKey(key)]
        }}"""
    )
    proof = page.evaluate(
        """async key => {
          const { decodeKey } = await import("/static/js/decrypt.js")
          return (await import("/static/js/proof.js")).proofOf(decodeKey(key), "")
        }""",
        key,
    )
    answer = page.request.post("/", data={"document": document, "proof": proof, "views": 1}, headers={"Accept": "application/json"})
    page.goto(f"{answer.json()['link']}#{key}")
    page.check("[name=open]")
    page.click("main [type=submit]")
    page.wait_for_selector("#lease")


def plain(text: str, format: str = "text", name: str = "", media_type: str = "") -> str:
    file = 'new TextEncoder().encode("x")' if name else "null"
    return (
        f"{{text: {json.dumps(text)}, format: {json.dumps(format)}, file: {file}, "
        f"fileName: {json.dumps(name)}, mediaType: {json.dumps(media_type)}}}"
    )


@settings(max_examples=24, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
@example(text=HOSTILE[0])
@example(text=HOSTILE[1])
@example(text=HOSTILE[4])
@example(text=HOSTILE[6])
@example(text=HOSTILE[8])
@example(text="\n\r\n\r")
def test_every_text_is_displayed_as_it_was_sent(reader: Page, text: str) -> None:
    reader.goto("/")
    open_sealed(reader, plain(text))
    assert reader.text_content("#message") == text
    assert reader.locator("#message *").count() == 0


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_file_name_and_type_are_shown_as_they_are_and_saved_harmlessly(reader: Page, name: str) -> None:
    hostile_type = "text/html;<script>alert(1)</script>"
    reader.goto("/")
    open_sealed(reader, plain("", name=name, media_type=hostile_type))
    assert (reader.text_content("#file-name"), reader.text_content("#file-type")) == (name, hostile_type)
    assert reader.locator("#file-name *, #file-type *").count() == 0
    saved = str(reader.get_attribute("#save", "download"))
    assert re.fullmatch(r"[^./\\:\x00-\x1f\u202a-\u202e\u2066-\u2069][^/\\:\x00-\x1f\u202a-\u202e\u2066-\u2069]{0,99}", saved)
    assert reader.evaluate("window.savedType") == "application/octet-stream"


def test_markdown_is_shown_as_what_it_means(reader: Page) -> None:
    reader.goto("/")
    open_sealed(reader, plain(MARKDOWN, "markdown"))
    inside = reader.locator("#message")
    assert inside.locator("h1").text_content() == "How to reach the boat house"
    assert inside.locator("strong").text_content() == "behind the third plank"
    assert inside.locator("em").text_content() == "back"
    assert inside.locator("ol > li").count() == 3
    assert inside.locator("li li").count() == 1
    assert inside.locator("blockquote code").text_content() == "gate --inside --now"
    assert inside.locator("td").count() == 4
    assert inside.locator("pre code").count() == 1
    assert inside.locator("a").get_attribute("href") == "https://example.org/tides"
    assert inside.locator("a").get_attribute("rel") == "noopener noreferrer nofollow"


def test_hostile_markdown_makes_no_script_image_form_or_dangerous_link(reader: Page) -> None:
    reader.goto("/")
    open_sealed(reader, plain(HOSTILE_MARKDOWN, "markdown"))
    inside = reader.locator("#message")
    allowed = "h1,h2,h3,h4,h5,h6,p,strong,em,code,pre,ul,ol,li,blockquote,a,hr,table,tr,th,td"
    assert inside.locator(f"*:not({allowed})").count() == 0
    links = inside.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links == ["https://evil.example/x.png", "https://example.org/?a=1&b=2"]
    assert "<script>alert(1)</script>" in str(inside.locator("h1").text_content())


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("- a\n  - b\n    - c\n\n      d\n- e", "ul li p a ul li p b ul li p c p d li p e"),
        ("7. a\n\n   ```\n     b\n   ```\n8. c", "ol li p a pre code   b li p c"),
        ("- a\n\nb\n- c", "ul li p a p b ul li p c"),
        (
            "***a*** **b *c*** snake_case_name __d__ _e_ \\*f*",
            "p strong em a   strong b  em c  snake_case_name  strong d   em e  * f*",
        ),
        ("> a\n> > b\n\n---", "blockquote p a blockquote p b hr"),
        ("|a|b|\n|-|-|\n|1|`2`|\nc", "table tr th a th b tr td 1 td code 2 p c"),
        ("![a](https://b.example/) [c](/d) <e@f>", "p ! a a  [c](/d) <e@f>"),
    ],
)
def test_markdown_nests_and_leaves_the_rest_as_it_is(reader: Page, source: str, made: str) -> None:
    reader.goto("/")
    found = reader.evaluate(
        """async source => {
          const {markdown} = await import("/static/js/markdown.js")
          const flat = node => node.nodeType == 3 ? [node.data] : [node.localName ?? "", ...[...node.childNodes].flatMap(flat)]
          return flat(markdown(source)).join(" ")
        }""",
        source,
    )
    assert found.split() == made.split()


MARKS = r"""([markup]) => {
  return import("/static/js/markdown.js").then(({markdown}) => {
    const attributes = one => [...one.attributes].map(({name, value}) => `${name}=${value}`)
    return [...markdown(markup).querySelectorAll("*")].flatMap(one => [one.localName, ...attributes(one)])
  })
}"""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS.map(lambda text: re.sub("[aeiou]", "`", text)) | TEXTS)
@example(text="[x](javascript:alert(1)) <javascript:alert(1)> [x](data:text/html,x) [x](//evil.example) [x](vbscript:x)")
@example(text="[x](JaVaScRiPt:alert(1)) [x](\tjavascript:alert(1)) [x](https:evil) [![x](https://a/)](https://b/)")
@example(text="> " * 60 + "deep")
@example(text="- " * 60 + "deep")
@example(text="*" * 2000 + "_" * 2000 + "[" * 2000)
def test_no_markdown_makes_anything_but_harmless_elements(reader: Page, text: str) -> None:
    if not reader.url.startswith("http"):
        reader.goto("/")
    harmless = re.compile(
        r"h[1-6]|p|strong|em|code|pre|ul|ol|li|blockquote|a|hr|table|tr|th|td|start=\d+"
        r"|rel=noopener noreferrer nofollow|target=_blank|href=(https?|mailto):.*",
        re.I | re.S,
    )
    made: list[str] = reader.evaluate(MARKS, [text])
    assert [one for one in made if not harmless.fullmatch(one)] == []


# The receipt


def test_receipt_tells_of_the_opening_without_a_reload(desk: Page, served: Served) -> None:
    message = served.create(POEM, views=1)
    desk.goto(message.receipt_path)
    assert desk.text_content("#state") == "Waiting to be opened"
    desk.wait_for_timeout(500)  # the first look is over
    desk.evaluate("window.same = true")
    served.http.post(message.path)
    desk.wait_for_selector("#state.state-opened")
    assert desk.inner_text("#live") == "Opened once"
    assert desk.locator("#burning").count() == 0
    assert desk.evaluate("window.same"), "the page was loaded again"


def test_receipt_looks_at_once_when_its_tab_is_looked_at_again(page: Page, served: Served) -> None:
    """With the page's clock stopped, so that nothing else makes it look."""
    message = served.create(POEM, views=1)
    page.clock.install()
    page.goto(message.receipt_path, wait_until="networkidle")
    page.clock.pause_at(page.evaluate("Date.now() + 100"))
    served.http.post(message.path)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#state.state-opened")


def test_receipt_page_burns_with_a_press_and_one_to_confirm(page: Page, served: Served) -> None:
    message = served.create(POEM, views=1)
    page.goto(message.receipt_path)
    assert page.locator("[name=burn]").count() == 0
    page.click("#burning button")
    assert page.inner_text("#burning button") == "Really? Press once more."
    page.wait_for_timeout(600)
    page.click("#burning button")
    page.wait_for_selector("#state.state-burned")
    assert page.evaluate("document.activeElement.id") == "state"
    assert served.http.get(message.path).status_code == 404


# What stays secret


def test_server_never_sees_text_key_name_or_passphrase_of_an_end_to_end_message(browser: Browser, tmp_path: Path) -> None:
    """Neither in a request, nor in its memory, its database, or its log."""
    canaries = [f"canary-{what}-7f3a9c" for what in ("text", "file", "name", "passphrase")]
    text, inside, name, passphrase = canaries
    with Served(tmp_path, database="file") as served, visitor(browser, served) as page:
        sent: list[bytes] = []
        page.on("request", lambda request: sent.append(_all_of(request)))
        page.goto("/")
        page.fill("#message", f"{text} {POEM}")
        page.click("summary")
        page.fill("#passphrase", passphrase)
        page.set_input_files("#attached", {"name": f"{name}.txt", "mimeType": "text/plain", "buffer": inside.encode()})
        page.click("#write [type=submit]")
        link = str(page.locator("#link").text_content())
        open_link(page, link, passphrase)
        assert text in str(page.text_content("#message"))
        fragment = link.partition("#")[2]
        key = page.evaluate(
            """async fragment => Array.from((await import("/static/js/decrypt.js")).decodeKey(fragment))""", fragment
        )
        memory = memory_of(served.pid)
        assert path_of(link).rpartition("/")[2].encode() in b"".join(sent), "the requests were not seen"
        assert served.database_file.name.encode() in memory, "the memory was not read"
        places = {
            "requests": b"".join(sent),
            "memory": memory,
            "log": served.log().encode(),
            "database": b"".join(path.read_bytes() for path in tmp_path.glob("mayfly.db*")),
        }
        secrets = [canary.encode() for canary in canaries] + [fragment.encode(), bytes(key), bytes(key).hex().encode()]
    assert [(place, secret) for place, held in places.items() for secret in secrets if secret in held] == []


def _all_of(request: Request) -> bytes:
    headers = json.dumps(request.headers)
    return f"{request.method} {request.url}\n{headers}\n".encode() + (request.post_data_buffer or b"")


def memory_of(pid: int) -> bytes:
    """What a process holds in its writable memory."""
    held = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            try:
                memory.seek(start)
                held.append(memory.read(end - start))
            except OSError:
                continue  # such as [vvar]
    return b"".join(held)


# Every state of every page


@pytest.fixture(scope="module", params=[(360, "dark"), (1440, "light")], ids=["phone dark", "desk light"])
def seen(request: pytest.FixtureRequest, browser: Browser, served: Served) -> Seen:
    width, scheme = request.param
    with visitor(browser, served, width, scheme) as page:
        return look_at(page, served, walk(served, page))


def test_no_state_has_a_fault_that_axe_finds(seen: Seen) -> None:
    assert seen.accessibility == []


def test_nothing_moves_by_itself_and_nothing_scrolls_sideways(seen: Seen) -> None:
    """But for the receipt, into which an opening comes as a line of its own."""
    assert [shift for shift in seen.shifts if not shift.startswith("receipt-live")] == []
    assert seen.sideways == []


def test_every_target_is_large_enough_for_a_finger(seen: Seen) -> None:
    assert seen.small_targets == []


def test_no_state_breaks_the_policy_complains_or_asks_another_origin(seen: Seen) -> None:
    assert [line for line in seen.console if not KNOWN_NOTES.search(line)] == []
    assert seen.foreign == []


def test_every_state_has_a_title_one_heading_and_no_inline_script_or_style(seen: Seen) -> None:
    assert seen.structure == []


def test_pages_run_under_trusted_types_and_refuse_eval_and_inline_scripts(browser: Browser, served: Served) -> None:
    with visitor(browser, served) as page:
        page.goto("/")
        refused = page.evaluate(
            """async () => {
              await new Promise(done => setTimeout(done)) // what tools evaluate is exempt, what comes later is not
              const tries = [
                () => eval("1"),
                () => (document.body.innerHTML = "<b>x</b>"),
                () => new DOMParser().parseFromString("", "text/html"),
                () => document.body.append(Object.assign(document.createElement("script"), {text: "window.ran = true"})),
              ]
              return tries.map(one => { try { one(); return "allowed" } catch (error) { return error.name } })
            }"""
        )
        assert "allowed" not in refused
        assert page.evaluate("window.ran") is None


def test_motion_is_only_for_those_who_want_it(browser: Browser, served: Served) -> None:
    with visitor(browser, served) as page:
        page.goto(served.create(POEM, views=1).path)
        page.evaluate("document.querySelector('#hold').classList.add('holding')")
        moving = "getComputedStyle(document.querySelector('#hold'), '::before').transitionDuration"
        assert page.evaluate(moving) == "0s"
        page.emulate_media(reduced_motion="no-preference")
        assert page.evaluate(moving) == "1s"


# Size


LOADED = """() => Object.fromEntries(performance.getEntriesByType("resource")
  .map(one => [new URL(one.name).pathname, one.decodedBodySize]).filter(([path]) => path.endsWith(".js")))"""


def test_scripts_of_no_page_are_over_30_kilobytes_in_any_state(browser: Browser, served: Served) -> None:
    """What Chromium has loaded: our modules as they stand, and one library, which comes with the link and not before."""
    ours = {f"/static/js/{path.name}": path.stat().st_size for path in SCRIPTS.iterdir()}
    library = "/static/vendor/lean-qr.js"
    with visitor(browser, served) as page:
        states = {name: page.evaluate(LOADED) for name in walk(served, page)}
    assert {name for name, loaded in states.items() if library in loaded} == {"link", "link-sure", "link-burned"}
    modules = {name: {path: size for path, size in loaded.items() if path != library} for name, loaded in states.items()}
    assert all(loaded.items() <= ours.items() for loaded in modules.values()), modules
    assert {path for loaded in modules.values() for path in loaded} == set(ours) - {
        f"/static/js/{name}" for name in SIGNED_IN_SCRIPTS
    }
    assert {name: sum(loaded.values()) for name, loaded in modules.items() if sum(loaded.values()) > 30_000} == {}


def test_no_module_is_over_150_lines() -> None:
    assert [path.name for path in SCRIPTS.iterdir() if len(path.read_text().splitlines()) >= 150] == []


def test_no_page_transfers_60_kilobytes(browser: Browser, served: Served) -> None:
    for address in ("/", served.create(POEM, views=1).path, served.create(POEM).receipt_path, served.create(POEM).path):
        bodies: list[Callable[[], bytes]] = []
        with visitor(browser, served) as page:
            page.on("response", lambda response, bodies=bodies: bodies.append(response.body))
            page.goto(address, wait_until="networkidle")
            assert 10_000 < sum(len(body()) for body in bodies) < 60_000, address


def test_scripts_never_parse_html_evaluate_text_or_name_another_host() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\(|createPolicy|localStorage|sessionStorage|indexedDB|document\.cookie|https?://[a-z]"
    found = {path.name: re.findall(forbidden, path.read_text()) for path in SCRIPTS.iterdir()}
    assert {name: names for name, names in found.items() if names} == {}


def test_library_is_the_one_its_note_names() -> None:
    folder = PROJECT / "web" / "static" / "vendor"
    named = re.search("[0-9a-f]{64}", (folder / "README.md").read_text())
    assert named
    assert hashlib.sha256((folder / "lean-qr.js").read_bytes()).hexdigest() == named[0]
    assert "MIT License" in (folder / "lean-qr.LICENSE").read_text()
