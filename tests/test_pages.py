"""The pages in a real Chromium, without our scripts: what people see, on a phone and on a desk, in light and dark.

With "scripts on" the browser runs scripts but ours do not arrive. What they add is in `test_page_scripts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from records import MAX_VIEWS
from tests.browser import (
    CERTIFICATE_PAGES,
    MARKDOWN,
    POEM,
    SIGNED_IN_PAGES,
    chromium,
    open_message,
    press,
    sign_in,
    visitor,
    walk_plain,
)
from tests.serving import PROJECT, CreatedMessage, Served

STATIC = PROJECT / "web" / "static"

HOSTILE = (
    "</pre><script>alert(1)</script>",
    "<img src=x onerror=alert(1)><svg onload=alert(1)><style>*{display:none}</style>",
    "{{ 7*7 }}{% raw %} ${7*7} &lt;b&gt; &amp;amp; &#13; &nbsp;",
    "\n\nleading newlines, trailing too\n\n",
    "carriage\rreturn, \r\nboth\r\n, alone\r",
    "\ttab\t\ttabs  two spaces\u00a0no-break\u200bzero\u2028line\u2029paragraph\x0cform feed\x0bvertical\x85next",
    "\u202eright to left override\u202c \u2066isolate\u2069 שלום עולם مرحبا",
    "👩‍👩‍👧‍👦 🇺🇳 e\u0301 \ufeff\ufffe\U0010ffff \x01\x1b[31m",
    "--></title></textarea><!--<script>",
    "javascript:alert(1) <a href='javascript:alert(1)'>x</a>",
)
HOSTILE_MARKDOWN = """# <script>alert(1)</script>

[click](javascript:alert(1)) [data](data:text/html,x) ![image](https://evil.example/x.png) <img src=x onerror=alert(1)>

<style>*{display:none}</style> <form action=https://evil.example><button>x</button></form>

[**good**](https://example.org/?a=1&b=2 "a title")
"""

# Prefers what browsers treat specially; everything that is a character may come.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("\r\n\t <>&\"'/\u202e\u2028\ufeff"),
    min_size=1,
    max_size=120,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes each visitor's address from its header, so that sign-in limits do not add up over the tests."""
    with Served(tmp_path_factory.mktemp("served"), MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def reader(browser: Browser, served: Served) -> Iterator[Page]:
    """A page on which many messages are read one after the other."""
    with visitor(browser, served, 360, modules=False) as page:
        yield page


@pytest.fixture
def scripts() -> bool:
    """Off, where `either_way` does not say otherwise: the pages must do without."""
    return False


either_way = pytest.mark.parametrize("scripts", [True, False], ids=["scripts on", "scripts off"])


@pytest.fixture
def page(scripts: bool, browser: Browser, served: Served) -> Iterator[Page]:
    """A visitor's page."""
    with visitor(browser, served, 360, scripts=scripts, modules=False) as page:
        yield page


# What people do


@either_way
def test_message_goes_from_writer_to_reader_and_the_receipt_tells(page: Page) -> None:
    page.goto("/")
    page.fill("#message", POEM)
    press(page)
    link, receipt = page.text_content("#link"), page.get_attribute("#receipt", "href")
    assert link == page.get_attribute("#look", "href")
    page.goto(str(receipt))
    assert page.text_content("#state") == "Waiting to be opened"
    page.goto(str(link))
    open_message(page)
    assert page.text_content("#message") == POEM
    assert "Nobody else can open it" in page.inner_text("main")
    page.goto(str(receipt))
    assert page.text_content("#state") == "Opened once"
    assert page.locator("input[name=burn]").count() == 0


@either_way
def test_reload_within_the_lease_shows_the_same_message_again(page: Page, served: Served) -> None:
    page.goto(served.create(POEM, views=1).path)
    open_message(page)
    assert "within 30 seconds" in page.inner_text("#lease")
    for _ in range(2):
        page.reload()
        assert page.text_content("#message") == POEM


def test_message_does_not_open_without_the_tick(page: Page, served: Served) -> None:
    message = served.create(POEM, views=1)
    page.goto(message.path)
    page.click("main [type=submit]")
    assert page.locator("#message").count() == 0
    open_message(page)
    assert page.text_content("#message") == POEM


def test_sender_burns_the_message_from_the_receipt_page(page: Page, served: Served) -> None:
    message = served.create(POEM, views=1)
    page.goto(message.receipt_path)
    page.click("main [type=submit]")
    assert page.text_content("#state") == "Waiting to be opened", "burned without the tick"
    page.check("input[name=burn]")
    press(page)
    assert page.text_content("#state") == "Burned"
    page.goto(message.path)
    assert page.text_content("h1") == "Nothing here"


@either_way
def test_wrong_passphrase_is_told_and_the_right_one_opens(page: Page, served: Served) -> None:
    page.goto(served.create(POEM, views=1, passphrase="under the willow").path)
    open_message(page, "over the willow")
    assert page.inner_text("#problem") == "That passphrase is wrong. Tries left: 4."
    assert "problem" in str(page.get_attribute("#passphrase", "aria-describedby"))
    open_message(page, "under the willow")
    assert page.text_content("#message") == POEM


def test_longest_passphrase_fits_into_the_reveal_form(page: Page, served: Served) -> None:
    longest = "p" * 1024
    page.goto(served.create(POEM, views=1, passphrase=longest).path)
    page.focus("#passphrase")
    page.keyboard.insert_text(longest)  # unlike fill(), this heeds maxlength
    page.check("input[name=open]")
    press(page)
    assert page.text_content("#message") == POEM


def test_markdown_is_shown_as_what_it_means(page: Page) -> None:
    page.goto("/")
    page.fill("#message", MARKDOWN)
    page.click("summary")
    page.select_option("#format", "markdown")
    press(page)
    page.goto(str(page.text_content("#link")))
    open_message(page)
    assert page.text_content("#message h1") == "How to reach the boat house"
    assert page.locator("#message td").count() == 4
    assert page.get_attribute("#message a", "rel") == "noopener noreferrer nofollow"


@either_way
def test_select_all_takes_the_message_and_nothing_else(page: Page, served: Served) -> None:
    page.goto(served.create("one\n\n  two\tthree", views=1).path)
    open_message(page)
    page.keyboard.press("Control+a")
    assert page.evaluate("getSelection().toString()") == "one\n\n  two\tthree"


def test_one_click_selects_the_whole_link(page: Page) -> None:
    page.goto("/")
    page.fill("#message", POEM)
    press(page)
    page.click("#link")
    assert page.evaluate("getSelection().toString()") == page.text_content("#link")


def test_draft_that_was_refused_is_still_there_on_going_back(page: Page) -> None:
    page.goto("/")
    page.fill("#message", "x" * 20_000)
    page.click("summary")
    page.select_option("#format", "markdown")
    press(page)
    assert "at most 16 KiB" in page.inner_text("#detail")
    page.go_back()
    assert page.input_value("#message") == "x" * 20_000


def test_views_field_takes_exactly_the_numbers_the_server_takes(reader: Page) -> None:
    reader.goto("/")
    views = reader.locator("#views")
    assert views.input_value() == "1"
    tried = ["", *map(str, range(MAX_VIEWS + 20)), "01", "+1", "1.0", "1e1", "-1", " 1", "x"]
    accepted = views.evaluate("(field, tried) => tried.filter(text => (field.value = text, field.checkValidity()))", tried)
    assert accepted == ["", *map(str, range(1, MAX_VIEWS + 1))]


def test_write_page_says_who_can_read_it_and_how_long_it_is_kept(reader: Page, tmp_path: Path) -> None:
    reader.goto("/")
    told = reader.inner_text("form")
    assert "This server could too, while it holds the message" in told
    assert "in memory only, while this server runs" in told
    assert "Each opening uses up one" in told
    with Served(tmp_path, database="file") as on_disk:
        reader.goto(on_disk.url)
        told = reader.inner_text("form")
        assert "on this server’s disk, encrypted" in told
        assert "memory" not in told


def test_receipt_says_that_free_reads_are_not_counted(reader: Page, served: Served) -> None:
    free = served.create(POEM)
    served.http.get(free.path)
    reader.goto(free.receipt_path)
    assert (
        reader.inner_text("#uncounted")
        == "If the message has neither a view limit nor a passphrase, reading it is not counted here."
    )
    reader.goto(served.create(POEM, views=1).receipt_path)
    assert reader.locator("#uncounted").count() == 0


@either_way
def test_admin_signs_in_purges_takes_down_and_signs_out(page: Page, served: Served) -> None:
    sign_in(page, "not the token")
    assert page.inner_text("#problem") == "That is not the admin token."
    message = served.create(POEM, views=1)
    sign_in(page, served.admin_token)
    stored = int(page.inner_text("#vault-open .stored"))
    assert float(str(page.get_attribute("#vault-open meter", "value"))) > 0
    assert page.inner_text("#vault-open .used").endswith("iB")
    press(page, "button[value=purge]")
    assert re.fullmatch(r"Purged \d+ messages?\.", page.inner_text("#done"))
    page.fill("#link", message.link)
    press(page, "button[value=take-down]")
    assert page.inner_text("#done") == "The message was taken down."
    assert int(page.inner_text("#vault-open .stored")) < stored
    assert served.http.post(message.path).status_code == 404
    page.fill("#link", message.link)
    press(page, "button[value=take-down]")
    assert page.inner_text("#done") == "There is no message at that link."
    press(page, "button[value=sign-out]")
    assert page.locator("#token").count() == 1
    page.goto("/admin")
    assert page.locator("#token").count() == 1


def test_admin_form_of_an_ended_session_leads_to_the_sign_in(page: Page, served: Served) -> None:
    sign_in(page, served.admin_token)
    page.context.clear_cookies()
    press(page, "button[value=purge]")
    assert page.text_content("h1") == "Not signed in"
    page.click("main a")
    assert page.locator("#token").count() == 1


def test_full_store_says_so_on_a_page(reader: Page, tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_STORE_BYTES="1048576", MAYFLY_MAX_MESSAGE_BYTES="524288") as small:
        while small.http.post("/", json={"message": "x" * 200_000}).status_code == 201:
            pass
        reader.goto(small.url)
        reader.fill("#message", "x" * 400_000)
        press(reader)
        assert reader.text_content("h1") == "Not at the moment"
        assert "full" in reader.inner_text("#detail")


# What is shown is what was written


def read(page: Page, message: CreatedMessage) -> str | None:
    page.goto(message.path)
    return page.text_content("#message")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_is_and_makes_no_element(reader: Page, served: Served, text: str) -> None:
    assert read(reader, served.create(text)) == text
    assert reader.locator("#message *").count() == 0
    plain = served.create("plain")
    elements = reader.locator("*").count()
    read(reader, plain)
    assert reader.locator("*").count() == elements


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
@example(text="\n")
@example(text="\r")
@example(text="\r\n\r")
@example(text="\n\r\n")
@example(text="<b>&amp;</b>")
def test_every_text_is_displayed_as_it_was_sent(reader: Page, served: Served, text: str) -> None:
    assert read(reader, served.create(text)) == text
    assert reader.locator("#message *").count() == 0


@either_way
def test_text_typed_into_the_page_is_displayed_as_typed(page: Page) -> None:
    typed = "\n\n <b>one</b>\n\ttwo &amp; three\n\nשלום 👩‍👩‍👧\n"
    page.goto("/")
    page.fill("#message", typed)
    press(page)
    page.goto(str(page.text_content("#link")))
    open_message(page)
    assert page.text_content("#message") == typed


def test_hostile_markdown_makes_no_script_image_form_or_dangerous_link(reader: Page, served: Served) -> None:
    read(reader, served.create(HOSTILE_MARKDOWN, format="markdown"))
    inside = reader.locator("#message")
    assert inside.locator("script, img, style, form, button, svg, iframe, [style], [onerror], [class]").count() == 0
    links = inside.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links == ["https://evil.example/x.png", "https://example.org/?a=1&b=2"]
    assert "<script>alert(1)</script>" in str(inside.locator("h1").text_content())


def test_hostile_fields_of_forms_are_not_echoed(reader: Page, served: Served) -> None:
    hostile = "\"'><script>alert(1)</script>"
    reader.goto(served.create(POEM, views=1, passphrase="right").path)
    open_message(reader, hostile)
    assert "alert(1)" not in reader.content()
    reader.goto(f"/message/{hostile}")
    assert "alert(1)" not in reader.locator("body").inner_html()


# Every page, in every state


@dataclass
class Seen:
    """What a walk through all pages brought up, each entry beginning with the name of the state."""

    names: list[str] = field(default_factory=list)
    sideways: list[str] = field(default_factory=list)
    shifts: list[str] = field(default_factory=list)
    small_targets: list[str] = field(default_factory=list)
    accessibility: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    structure: list[str] = field(default_factory=list)


SHIFTS = """() => new Promise(done => {
  let sum = 0
  const add = list => list.getEntries().forEach(entry => sum += entry.hadRecentInput ? 0 : entry.value)
  new PerformanceObserver(add).observe({type: "layout-shift", buffered: true})
  requestAnimationFrame(() => setTimeout(() => done(sum), 20))
})"""
SMALL_TARGETS = """() => [...document.querySelectorAll("header a, main :is(a, button, select, textarea, label.tick, input)")]
  .filter(target => !target.closest("#message") && target.type != "checkbox" && target.checkVisibility())
  .filter(target => target.getBoundingClientRect().height < 44 || target.getBoundingClientRect().width < 44)
  .map(target => target.outerHTML)"""
STRUCTURE = """() => ({
  h1: [...document.querySelectorAll("main h1")].filter(one => !one.closest("#message") && one.checkVisibility()).length,
  titled: document.title.endsWith(" · Mayfly"),
  scripts: [...document.scripts].filter(one => !one.src.startsWith(location.origin)).length,
  styles: document.querySelectorAll("style, [style]").length,
})"""


@pytest.fixture(scope="module", params=[(360, "light"), (1440, "dark")], ids=["phone light", "desk dark"])
def seen(request: pytest.FixtureRequest, browser: Browser, served: Served) -> Seen:
    """Every page in every state, looked at once for each width and scheme."""
    width, scheme = request.param
    with visitor(browser, served, width, scheme, modules=False) as page:
        return look_at(page, served, walk_plain(served, page))


def look_at(page: Page, served: Served, states: Iterable[str]) -> Seen:
    """What there is to complain about in the states that a walk brings the page to."""
    seen, axe = Seen(), Path(AXE_FILE_PATH).read_text()
    page.add_init_script(
        "addEventListener('securitypolicyviolation', event => console.error('policy: ' + event.violatedDirective))"
    )
    page.on("console", lambda message: seen.console.append(f"{page.url}: {message.text}"))
    page.on("pageerror", lambda error: seen.console.append(f"{page.url}: {error}"))
    page.on("request", lambda request: request.url.startswith((f"{served.url}/", "blob:")) or seen.foreign.append(request.url))
    for name in states:
        seen.names.append(name)
        page.wait_for_load_state("load")
        if page.evaluate("document.scrollingElement.scrollWidth > innerWidth"):
            seen.sideways.append(name)
        if shift := page.evaluate(SHIFTS):
            seen.shifts.append(f"{name}: {shift}")
        seen.small_targets += [f"{name}: {target}" for target in page.evaluate(SMALL_TARGETS)]
        if (structure := page.evaluate(STRUCTURE)) != {"h1": 1, "titled": True, "scripts": 0, "styles": 0}:
            seen.structure.append(f"{name}: {structure}")
        page.evaluate(axe)
        seen.accessibility += [f"{name}: {fault}" for fault in accessibility_faults(page)]
    return seen


def accessibility_faults(page: Page) -> list[str]:
    """What axe-core, already loaded, has against the page by WCAG 2.2 A and AA and by its own best practices."""
    found: list[dict[str, Any]] = page.evaluate("axe.run({resultTypes: ['violations']}).then(result => result.violations)")
    return [f"{fault['id']} at {node['html']}: {node['failureSummary']}" for fault in found for node in fault["nodes"]]


def test_walk_sees_every_page(seen: Seen) -> None:
    """A page without a state in the walk would escape all that follows."""
    templates = {path.stem for path in (PROJECT / "web" / "templates").iterdir()} - {
        "base",
        "facts",
        "fields",
        "standings",
        "webhook_fields",
        "routes",
        "texts",
        "made",
        "opened",
    }
    templates -= SIGNED_IN_PAGES | CERTIFICATE_PAGES
    called = {"created": "link", "sign_in": "sign-in"}
    assert {name for name in templates if not any(state.startswith(called.get(name, name)) for state in seen.names)} == set()
    assert {f"receipt-{state}" for state in ("waiting", "opened", "burned", "expired", "locked")} <= set(seen.names)


def test_no_page_scrolls_sideways(seen: Seen) -> None:
    assert seen.sideways == []


def test_nothing_moves_while_a_page_loads(seen: Seen) -> None:
    assert seen.shifts == []


def test_every_target_is_large_enough_for_a_finger(seen: Seen) -> None:
    """At least 44 by 44 pixels; links within a message are text."""
    assert seen.small_targets == []


def test_no_page_has_a_fault_that_axe_finds(seen: Seen) -> None:
    """Contrast, labels, names, landmarks, headings."""
    assert seen.accessibility == []


KNOWN_NOTES = re.compile("the server responded with a status of 4|Unrecognized feature: 'web-share'")


def test_no_page_breaks_its_policy_or_complains(seen: Seen) -> None:
    """But for the browser's own notes that an answer has a 4xx status, and that it has no Web Share on this system."""
    assert [line for line in seen.console if not KNOWN_NOTES.search(line)] == []


def test_no_page_asks_another_origin(seen: Seen) -> None:
    assert seen.foreign == []


def test_every_page_has_a_title_and_one_heading_and_no_inline_script_or_style(seen: Seen) -> None:
    assert seen.structure == []


# By keyboard

FOCUS_VISIBLE = """() => {
  const at = document.activeElement
  const drawn = [at, at.closest("label")].filter(Boolean).map(one => getComputedStyle(one))
  return drawn.some(style => style.outlineStyle == "solid" && parseFloat(style.outlineWidth) >= 2)
}"""


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until `selector` has the focus; each stop on the way must show it."""
    for _ in range(20):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUS_VISIBLE), page.evaluate("document.activeElement.outerHTML")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def press_key(page: Page, key: str) -> None:
    with page.expect_navigation():
        page.keyboard.press(key)


@either_way
def test_whole_flow_works_by_keyboard_and_shows_the_focus(page: Page) -> None:
    page.goto("/")
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("by keyboard")
    tab_to(page, "#expires_in")
    page.keyboard.press("ArrowUp")
    tab_to(page, "summary")
    page.keyboard.press("Enter")
    tab_to(page, "#passphrase")
    page.keyboard.type("willow")
    tab_to(page, "main [type=submit]")
    press_key(page, "Space")
    assert page.text_content("h1") == "Your link is ready"
    receipt = str(page.get_attribute("#receipt", "href"))
    tab_to(page, "#look")
    press_key(page, "Enter")
    tab_to(page, "#passphrase")
    page.keyboard.type("willow")
    tab_to(page, "input[name=open]")
    page.keyboard.press("Space")
    tab_to(page, "main [type=submit]")
    press_key(page, "Enter")
    assert page.text_content("#message") == "by keyboard"
    page.goto(receipt)
    assert page.text_content("#state") == "Opened once"


def test_sender_burns_by_keyboard(page: Page, served: Served) -> None:
    page.goto(served.create(POEM, views=2).receipt_path)
    tab_to(page, "input[name=burn]")
    page.keyboard.press("Space")
    tab_to(page, "main [type=submit]")
    press_key(page, "Space")
    assert page.text_content("#state") == "Burned"


def test_skip_link_appears_and_leads_to_the_content(page: Page, served: Served) -> None:
    page.goto(served.create(POEM, views=1).path)
    page.keyboard.press("Tab")
    box = page.locator(".skip").bounding_box()
    assert box
    assert box["y"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "open"


# Size


def test_stylesheet_is_under_20_kilobytes() -> None:
    assert (STATIC / "mayfly.css").stat().st_size < 20_000


def test_page_with_all_it_loads_is_under_60_kilobytes(browser: Browser, served: Served) -> None:
    sizes: list[Callable[[], bytes]] = []
    with visitor(browser, served) as page:
        page.on("response", lambda response: sizes.append(response.body))
        page.goto("/", wait_until="networkidle")
        loaded = sum(len(body()) for body in sizes)
    assert 5_000 < loaded < 60_000


def test_style_needs_no_font_and_no_other_file_but_the_drawing() -> None:
    css = (STATIC / "mayfly.css").read_text()
    assert set(re.findall(r"url\(.*?\)", css)) == {'url("/static/mayfly.svg")'}
    assert "@font-face" not in css
    assert "@import" not in css
