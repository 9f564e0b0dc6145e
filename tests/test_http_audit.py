"""`GET /audit`, served: who may look, and the page in a browser that runs no scripts of ours."""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.base import AXE_FILE_PATH

from tests.browser import chromium
from tests.serving import PROJECT, Served
from tests.test_pages import KNOWN_NOTES, accessibility_faults

JSON = "application/json"
PASSWORD = "under the willow at dusk"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served")) as served:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")} | served.settings
        for email, role in (("auditor@example.org", "auditor"), ("admin@example.org", "admin"), ("ana@example.org", "support")):
            names = ["--first-name", "Some", "--last-name", "Body", "--role", role, "--password-file", "-"]
            command = [sys.executable, "server.py", "account", "add", email, *names]
            subprocess.run(command, cwd=PROJECT, env=environ, input=f"{PASSWORD}\n", text=True, check=True, capture_output=True)
        yield served


def test_auditors_and_admins_may_look_and_nobody_else(served: Served) -> None:
    def get(email: str, **headers: str) -> httpx.Response:
        return served.http.get("/audit", auth=(email, PASSWORD), headers={"Accept": JSON, **headers})

    assert get("auditor@example.org").status_code == 200
    assert get("admin@example.org").status_code == 200
    assert get("ana@example.org").status_code == 403
    assert served.http.get("/audit", headers={"Accept": JSON}).status_code == 401
    bearer = {"Authorization": f"Bearer {served.admin_token}", "Accept": JSON}
    assert served.http.get("/audit", headers=bearer).status_code == 401
    looked = [entry["who"] for entry in get("auditor@example.org").json()["entries"] if entry["action"] == "audit"]
    assert looked == ["auditor@example.org", "admin@example.org", "auditor@example.org"]


def test_log_says_nothing_of_filters(served: Served) -> None:
    served.http.get("/audit?account=canary@example.org", auth=("auditor@example.org", PASSWORD))
    assert "canary" not in served.log()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1440, "dark")])
def test_page_works_without_scripts_on_phone_and_desk(served: Served, width: int, scheme: Any) -> None:
    """Filters are a form, tables scroll by themselves, and axe finds nothing."""
    credentials = f"auditor@example.org:{PASSWORD}".encode()
    with chromium() as browser:
        context = browser.new_context(
            base_url=served.url,
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            extra_http_headers={"Authorization": f"Basic {base64.b64encode(credentials).decode()}"},
        )
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto("/audit")
        page.select_option("#action", "audit")
        with page.expect_navigation():
            page.click("main form button")
        assert "action=audit" in page.url
        rows = page.locator("[aria-labelledby=entries] tbody tr")
        assert rows.count() >= 2
        assert all("audit: answered" in row for row in rows.all_inner_texts())
        assert page.input_value("#action") == "audit"
        assert not page.evaluate("document.scrollingElement.scrollWidth > innerWidth")
        page.evaluate(Path(AXE_FILE_PATH).read_text())
        assert accessibility_faults(page) == []
        assert [line for line in complaints if not KNOWN_NOTES.search(line)] == []


def test_admin_token_purges_and_wrong_keys_are_told_and_no_flood_fills_the_audit(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.add_account("admin@example.com", "admin")
        with served.signed_in("admin@example.com") as admin:
            right = {"Authorization": f"Bearer {served.admin_token}"}

            def told(action: str) -> list[tuple[str, str]]:
                found = admin.get(f"/audit?action={action}&since=2020-01-01", headers={"Accept": "application/json"}).json()
                return [(entry["way"], entry["outcome"]) for entry in reversed(found["entries"])]

            before = len(told("sign-in"))
            assert served.http.post("/admin", data={"token": served.admin_token}).status_code == 303
            assert served.http.post("/delete", headers={"Authorization": "Bearer wrong"}).status_code == 401
            assert served.http.post("/delete", headers=right).status_code == 200
            assert told("purge") == [("admin token", "done")]
            statuses = [
                served.http.get("/account", headers={"Authorization": f"Bearer {wrong}"}).status_code
                for wrong in ("mayfly_" + "A" * 43, "a.b.c", *["mayfly_" + "B" * 43] * 18)
            ]
            assert statuses == [401] * 9 + [429] * 11
            wrong_ones = [("key", "refused"), ("token", "refused"), *[("key", "refused")] * 7]
            assert told("sign-in")[before:] == [("admin token", "done"), ("admin token", "refused"), *wrong_ones]


def test_purge_that_is_asked_for_waits_for_the_audit(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        right = {"Authorization": f"Bearer {served.admin_token}"}
        assert served.http.post("/delete", headers=right).status_code == 200
        with closing(sqlite3.connect(tmp_path / "accounts.db")) as db:
            db.execute("ALTER TABLE mayfly_entries RENAME TO away")
            db.commit()
        assert served.http.post("/delete", headers=right).status_code == 503
