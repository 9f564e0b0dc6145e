"""The pages of certificates, in a real Chromium: for those who issue them, and for their owners.

They need no JavaScript of ours.
"""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from playwright.sync_api import Browser, Page

from tests.browser import ADMIN, CERTIFICATE_PAGES, LONG_ADDRESS, chromium, enter, hold, press, visitor
from tests.requirements import require_program
from tests.serving import PASSWORD, Served
from tests.test_pages import KNOWN_NOTES, Seen, look_at

OWNER, OTHER = "rui@example.com", "eva@example.com"
DAY = 24 * 3600
ISSUE = "main form:has(#account) button"
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with an authority, an admin, and two others."""
    with Served(tmp_path_factory.mktemp("served"), MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as running:
        running.add_account(ADMIN, "admin")
        running.add_account(OWNER)
        running.add_account(OTHER)
        running.add_authority()
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """A visitor on a phone, whose browser runs no scripts."""
    with visitor(browser, served, 360, scripts=False) as page:
        yield page


def new_request(folder: Path, key: Path | None = None) -> str:
    """A certificate signing request, by openssl; with `key`, for that key."""
    made = folder / "key.pem"
    new = ["-key", str(key)] if key else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(made)]
    command = [require_program("openssl"), "req", "-new", *new, "-subj", "/CN=me"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def issue(served: Served, csr: str, email: str = OWNER) -> str:
    """Have a certificate issued, as a program does: its id."""
    with served.client(auth=httpx.BasicAuth(ADMIN, PASSWORD)) as client:
        account = next(one["id"] for one in client.get("/accounts").json()["accounts"] if one["email"] == email)
        answer = client.post("/certificates", json={"account": account, "csr": csr})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def state_of(served: Served, certificate: str) -> str:
    with served.client(auth=httpx.BasicAuth(ADMIN, PASSWORD)) as client:
        return str(client.get(f"/certificates/{certificate}").json()["state"])


# For those who issue


def test_admin_issues_by_a_request_and_hands_out_the_certificate(page: Page, served: Served, tmp_path: Path) -> None:
    page.goto("/certificates")
    enter(page, ADMIN)
    page.fill("#account", OWNER.upper())
    page.fill("#csr", new_request(tmp_path))
    press(page, ISSUE)
    assert page.inner_text("#done") == "The certificate was issued."
    assert page.locator("#link, #passphrase").count() == 0, "no key was made here"
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "mayfly-certificate.pem"
    found = x509.load_pem_x509_certificates(Path(download.value.path()).read_bytes())[0]
    assert found.subject.rfc4514_string() == f"CN={OWNER}"
    context = ssl.create_default_context()
    Path(tmp_path / "certificate.pem").write_bytes(Path(download.value.path()).read_bytes())
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")  # raises unless they belong together


def test_key_made_here_is_handed_over_once_and_opens_for_its_owner_alone(browser: Browser, page: Page, served: Served) -> None:
    """By link and passphrase, which are shown on the page that answers, and on no page after it."""
    page.goto("/certificates")
    enter(page, ADMIN)
    page.fill("#account", OWNER)
    press(page, ISSUE)
    link, passphrase = str(page.text_content("#link")), str(page.text_content("#passphrase"))
    assert re.fullmatch(r"[a-z2-9-]{29}", passphrase)
    assert urlsplit(link).path.startswith("/guarded/")
    assert "#" in link
    serial = page.inner_text("dl code >> nth=0")
    page.goto("/certificates")
    page.click(f".entries > li:has-text('{serial[:8]}') a")
    assert serial in page.content()
    assert passphrase not in page.content()
    assert urlsplit(link).path not in page.content()
    with visitor(browser, served) as other:
        other.goto(link)
        enter(other, OTHER)
        assert other.text_content("h1") == "Nothing here"
    with visitor(browser, served) as owner:
        owner.goto(link)
        enter(owner, OWNER)
        hold(owner)
        owner.wait_for_selector("#lease", state="attached")
        assert "mayfly-certificate.p12" in owner.inner_text("main")


def test_form_that_is_refused_stands_there_as_it_was_filled_in(page: Page, served: Served) -> None:
    page.goto("/certificates")
    enter(page, ADMIN)
    page.fill("#account", "nobody@example.com")
    page.fill("#csr", "not a request")
    press(page, ISSUE)
    assert page.inner_text("#account-problem") == "There is no account with that e-mail address."
    assert page.input_value("#csr") == "not a request"
    page.fill("#account", OWNER)
    press(page, ISSUE)
    assert "certificate signing request" in page.inner_text("#csr-problem")
    assert page.get_attribute("#csr", "aria-invalid") == "true"
    assert page.input_value("#account") == OWNER


def test_danger_is_asked_about_first_and_what_was_done_holds(page: Page, served: Served, tmp_path: Path) -> None:
    certificate = issue(served, new_request(tmp_path))
    page.goto(f"/certificates/{certificate}")
    enter(page, ADMIN)
    for act in ("deactivate", "revoke"):
        assert not page.locator(f"button[value={act}]").is_visible(), "a danger that does not ask first"
    page.click("details:has(button[value=deactivate]) summary")
    press(page, "button[value=deactivate]")
    assert "It is deactivated" in page.inner_text("#done")
    assert state_of(served, certificate) == "inactive"
    press(page, "button[value=activate]")
    assert state_of(served, certificate) == "active"
    page.click("details:has(button[value=revoke]) summary")
    page.select_option("#reason", "keyCompromise")
    press(page, "button[value=revoke]")
    assert "Revoked, somebody else may have the key" in page.inner_text("main")
    assert state_of(served, certificate) == "revoked"
    assert page.locator("main form").count() == 0, "nothing can be done to it any more"


def test_admin_finds_certificates_by_account_and_by_how_they_stand(page: Page, served: Served, tmp_path: Path) -> None:
    of_other, revoked = (issue(served, new_request(tmp_path), OTHER) for _ in range(2))
    with served.client(auth=httpx.BasicAuth(ADMIN, PASSWORD)) as client:
        client.patch(f"/certificates/{revoked}", json={"state": "revoked"})

    def listed(account: str, state: str) -> set[str]:
        page.fill("#of", account)
        page.select_option("#state", state)
        press(page, "main form:has(#of) button")
        return {str(link.get_attribute("href")).rpartition("/")[2] for link in page.locator(".entries a").all()}

    page.goto("/certificates")
    enter(page, ADMIN)
    assert listed(OTHER, "") == {of_other}
    assert listed(OTHER, "revoked") == {revoked}
    assert listed(OTHER, "all") == {of_other, revoked}
    assert {of_other} < listed("", "")
    assert listed("nobody@example.com", "all") == set()


def test_server_without_an_authority_says_who_makes_one(browser: Browser, tmp_path: Path) -> None:
    with Served(tmp_path) as other, visitor(browser, other, scripts=False) as page:
        other.add_account(ADMIN, "admin")
        page.goto("/certificates")
        enter(page, ADMIN)
        assert "python server.py ca init" in page.inner_text("#none")
        assert page.locator("#account").count() == 0
        other.add_authority()
        page.reload()
        assert page.locator("#none").count() == 0
        assert page.locator("#account").count() == 1
        assert "Mayfly root" in page.inner_text("#authority ~ dl")


def test_what_ends_soon_is_told_in_time(browser: Browser, tmp_path: Path) -> None:
    """To the admin of certificates and of the authority, to the owner of their own, until another follows them."""
    with Served(tmp_path, MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as other:
        other.add_account(ADMIN, "admin")
        other.add_account(OWNER)
        other.add_authority()
        csr = new_request(tmp_path)
        certificate = issue(other, csr)

        def told(email: str, path: str = "/certificates") -> str:
            with visitor(browser, other, scripts=False) as page:
                page.goto(path)
                enter(page, email)
                return "".join(page.locator("#ending, #renew").all_inner_texts())

        assert told(ADMIN) == told(OWNER) == ""
        other.clock.advance(61 * DAY)
        assert "1 ends within 30 days" in told(ADMIN)
        assert "ends within 30 days" in told(OWNER)
        with other.client(auth=httpx.BasicAuth(OWNER, PASSWORD)) as client:
            assert client.post(f"/certificates/{certificate}/renew", json={"csr": csr}).status_code == 201
        assert told(ADMIN) == told(OWNER) == ""
        other.clock.advance((5 * 365 - 61 - 100) * DAY)
        assert "The authority ends on" in told(ADMIN)
        other.clock.advance(101 * DAY)
        assert "has ended" in told(ADMIN)
        with other.signed_in(ADMIN) as client:
            assert certificate in client.get("/certificates?state=ended", headers=HTML).text
            assert certificate not in client.get("/certificates", headers=HTML).text


# For owners


def test_owner_lets_another_follow_by_the_same_key_and_deactivates_the_old_one(page: Page, served: Served, tmp_path: Path) -> None:
    csr = new_request(tmp_path)
    certificate = issue(served, csr)
    page.goto("/account")
    enter(page, OWNER)
    page.click("main a:has-text('Your certificates')")
    page.click(f".entries a[href*='{certificate}']")
    (tmp_path / "another").mkdir()
    page.fill("#csr", new_request(tmp_path / "another"))
    press(page, "main form:has(#csr) button")
    assert "Sign the request with the key of the certificate" in page.inner_text("#csr-problem")
    page.fill("#csr", new_request(tmp_path, tmp_path / "key.pem"))
    page.fill("#overlap_days", "7")
    press(page, "main form:has(#csr) button")
    assert page.inner_text("#done") == "The certificate that follows was issued."
    page.goto(f"/certificates/{certificate}")
    assert "Active, followed by another" in page.inner_text("main")
    page.click("details:has(button[value=deactivate]) summary")
    press(page, "button[value=deactivate]")
    assert state_of(served, certificate) == "inactive"
    assert page.locator("button[value=activate], button[value=revoke]").count() == 0
    assert "Only an admin can activate it again." in page.inner_text("main")


def test_owner_reads_how_to_come_by_one_and_install_it(page: Page) -> None:
    page.goto("/certificates")
    enter(page, OTHER)
    for what in ("openssl req -new", "mayfly-certificate.p12", "Windows", "macOS", "Firefox", "Android", "--cert-type P12"):
        assert what in page.inner_text("main")


# Everybody else


def test_pages_are_for_those_who_may_and_for_nobody_else(served: Served, tmp_path: Path) -> None:
    """Others are not told whether there is such a certificate, and their forms do nothing."""
    certificate = issue(served, new_request(tmp_path))
    assert served.http.get("/certificates", headers=HTML).status_code == 401
    assert served.http.get(f"/certificates/{certificate}", headers=HTML).status_code == 401
    with served.signed_in(OWNER) as owner:
        account = owner.get("/account", headers={"Accept": "application/json"}).json()["id"]
    own: dict[str, Any] = {"headers": {**HTML, "Sec-Fetch-Site": "same-origin"}}
    with served.signed_in(OTHER) as other:
        assert other.get(f"/certificates?account={account}", headers=HTML).status_code == 403
        assert certificate not in other.get("/certificates", headers=HTML).text
        nowhere = other.get("/certificates/00000000-0000-4000-8000-000000000000", headers=HTML)
        for answer in (
            other.get(f"/certificates/{certificate}", headers=HTML),
            other.post(f"/certificates/{certificate}", data={"do": "deactivate"}, **own),
            other.post(f"/certificates/{certificate}/renew", data={"csr": "x"}, **own),
        ):
            assert (answer.status_code, answer.text) == (404, nowhere.text)
        assert other.post("/certificates", data={"account": OTHER}, **own).status_code == 403
    with served.signed_in(OWNER) as owner:
        for act in ("activate", "revoke"):
            assert owner.post(f"/certificates/{certificate}", data={"do": act}, **own).status_code == 403
        forged = {**HTML, "Sec-Fetch-Site": "cross-site"}
        assert owner.post(f"/certificates/{certificate}", data={"do": "deactivate"}, headers=forged).status_code == 403
    assert state_of(served, certificate) == "active"


def test_server_without_certificates_does_not_lead_to_them(tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_CERTIFICATES_DATABASE_URL="off") as other:
        other.add_account(ADMIN, "admin")
        with other.signed_in(ADMIN) as client:
            for path in ("/account", "/accounts"):
                assert "/certificates" not in client.get(path, headers=HTML).text


# Every page, in every state


def walk_certificates(served: Served, page: Page, folder: Path) -> Iterator[str]:
    """Bring `page` to each state of each page, and yield what it is called. Moves the clock."""
    csr = new_request(folder)
    page.goto("/certificates")
    enter(page, ADMIN)
    yield "certificates-no-authority"
    served.add_authority()
    page.goto("/certificates")
    yield "certificates-none"
    page.fill("#account", LONG_ADDRESS)
    press(page, ISSUE)
    page.click("summary >> nth=0")
    yield "certificate-handed"
    page.goto("/certificates")
    page.fill("#account", ADMIN)
    page.fill("#csr", csr)
    press(page, ISSUE)
    yield "certificate-issued"
    page.goto("/certificates")
    page.fill("#account", ADMIN)
    page.fill("#csr", "x" * 400)
    press(page, ISSUE)
    yield "certificates-refused"
    page.goto("/certificates")
    yield "certificates"
    page.click(f".entries a:has-text('{LONG_ADDRESS}')")
    for summary in page.locator("summary").all():
        summary.click()
    yield "certificate"
    page.click("button[value=deactivate]")
    yield "certificate-inactive"
    page.click("details summary")
    page.click("button[value=revoke]")
    yield "certificate-revoked"
    page.goto("/certificates?state=revoked")
    yield "certificates-revoked"
    page.goto("/certificates")
    press(page, "main a:has-text('Your own')")
    yield "own_certificates"
    page.click(".entries a")
    page.fill("#csr", "x")
    press(page, "main form:has(#csr) button")
    yield "certificate-not-followed"
    page.fill("#csr", csr)
    press(page, "main form:has(#csr) button")
    yield "certificate-follows"
    page.click("dl a[href*=certificates]")
    yield "certificate-followed"
    served.clock.advance(80 * DAY)
    page.goto("/certificates")
    enter(page, ADMIN)
    yield "certificates-ending"
    press(page, "main a:has-text('Your own')")
    yield "own_certificates-ending"
    page.goto("/account")
    yield "own_account"
    press(page, ".way")
    page.goto("/certificates")
    enter(page, LONG_ADDRESS)
    yield "own_certificates-before"
    served.clock.advance(5 * 365 * DAY)
    page.goto("/certificates")
    enter(page, ADMIN)
    yield "certificates-over"


@pytest.fixture(scope="module", params=[(360, "dark"), (1440, "light")], ids=["phone dark", "desk light"])
def seen(request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Every page in every state, looked at once for each width and scheme, on a server of its own."""
    width, scheme = request.param
    folder = tmp_path_factory.mktemp("seen")
    with Served(folder, MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as served, visitor(browser, served, width, scheme) as page:
        served.add_account(ADMIN, "admin")
        served.add_account(LONG_ADDRESS)
        return look_at(page, served, walk_certificates(served, page, folder))


def test_walk_sees_every_page_of_certificates(seen: Seen) -> None:
    assert {name.partition("-")[0] for name in seen.names} >= CERTIFICATE_PAGES


def test_no_page_has_a_fault(seen: Seen) -> None:
    """Nothing that axe finds, no sideways scrolling, no shift, no target too small for a finger, one heading, a title."""
    assert seen.accessibility == []
    assert (seen.sideways, seen.shifts, seen.small_targets, seen.structure) == ([], [], [], [])


def test_no_page_complains_or_asks_another_origin(seen: Seen) -> None:
    assert [line for line in seen.console if not KNOWN_NOTES.search(line)] == []
    assert seen.foreign == []
