"""Make the pictures of the documentation: `make pictures`. They show a server of their own, as it stands in the work tree."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Page

from tests.browser import chromium, visitor, walk, walk_plain
from tests.serving import PROJECT, Served

FOLDER = PROJECT / "docs" / "images"
MAX_BYTES = 170_000
PICTURES = {
    (360, "light"): ("write", "link", "reveal-passphrase", "message", "message-file", "receipt-opened"),
    (360, "dark"): ("write", "reveal", "message-markdown", "receipt-burned", "error-404"),
    (1440, "light"): ("write", "reveal", "message", "receipt", "gone", "admin"),
    (1440, "dark"): ("write", "link", "message-markdown", "reveal-cut-short", "sign-in"),
}
PLAIN = {"receipt-opened", "receipt-burned", "admin", "sign-in", "error-404"}
"""Those that are the same without scripts; only that walk comes to them."""


def main() -> None:
    for old in FOLDER.glob("*.png"):
        old.unlink()
    with (
        tempfile.TemporaryDirectory() as folder,
        Served(Path(folder), MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as served,
        chromium() as browser,
    ):
        for (width, scheme), wanted in PICTURES.items():
            for walk_, names in ((walk, set(wanted) - PLAIN), (walk_plain, set(wanted) & PLAIN)):
                with visitor(browser, served, width, "dark" if scheme == "dark" else "light", modules=walk_ is walk) as page:
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
