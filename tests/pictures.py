"""Make the pictures of the documentation: `make pictures`. They show a server of their own, as it stands in the work tree."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Page

from tests.browser import ADMIN, chromium, visitor, walk, walk_people, walk_plain
from tests.serving import PROJECT, Served

FOLDER = PROJECT / "docs" / "images"
MAX_BYTES = 170_000
PICTURES = {
    (360, "light"): (
        "write",
        "link",
        "reveal-passphrase",
        "message",
        "message-file",
        "receipt-opened",
        "account-made",
        "keys-made",
        "record",
    ),
    (360, "dark"): ("write", "reveal", "message-markdown", "receipt-burned", "error-404"),
    (1440, "light"): ("write", "reveal", "message", "receipt", "gone", "admin", "keys_in_use"),
    (1440, "dark"): ("write", "link", "message-markdown", "reveal-cut-short", "sign-in", "accounts"),
}
PLAIN = {"receipt-opened", "receipt-burned", "admin", "sign-in", "error-404"}
"""Those that are the same without scripts; only that walk comes to them."""
PEOPLE = {"account-made", "accounts", "keys-made", "keys_in_use", "record"}
"""Those of people who sign in."""


def main() -> None:
    for old in FOLDER.glob("*.png"):
        old.unlink()
    with (
        tempfile.TemporaryDirectory() as folder,
        Served(Path(folder), MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as served,
        chromium() as browser,
    ):
        served.add_account(ADMIN, "admin", "support")
        for (width, scheme), wanted in PICTURES.items():
            for walk_, names in (
                (walk, set(wanted) - PLAIN - PEOPLE),
                (walk_plain, set(wanted) & PLAIN),
                (walk_people, set(wanted) & PEOPLE),
            ):
                with visitor(
                    browser, served, width, "dark" if scheme == "dark" else "light", modules=walk_ is not walk_plain
                ) as page:
                    for name in walk_(served, page):
                        if name in names:
                            take(page, FOLDER / f"{name}-{width}-{scheme}.png")


def take(page: Page, path: Path) -> None:
    page.wait_for_load_state("load")
    page.screenshot(path=path, full_page=True)
    print(f"{path.relative_to(PROJECT)}: {path.stat().st_size} bytes")
    assert path.stat().st_size < MAX_BYTES


if __name__ == "__main__":
    main()
