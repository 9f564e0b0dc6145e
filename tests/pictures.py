"""Make the pictures of the documentation: `make pictures`. They show a server of their own, as it stands in the work tree."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.browser import chromium, visitor, walk
from tests.serving import PROJECT, Served

FOLDER = PROJECT / "docs" / "images"
MAX_BYTES = 150_000
PICTURES = {
    (360, "light"): ("link", "reveal-passphrase", "message", "receipt-opened", "admin"),
    (360, "dark"): ("write", "message-markdown", "receipt-burned", "error-404"),
    (1440, "light"): ("write", "message", "receipt-opened", "admin", "error-404"),
    (1440, "dark"): ("write", "link", "reveal", "message-markdown", "sign-in"),
}


def main() -> None:
    for old in FOLDER.glob("*.png"):
        old.unlink()
    with (
        tempfile.TemporaryDirectory() as folder,
        Served(Path(folder), MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as served,
        chromium() as browser,
    ):
        for (width, scheme), wanted in PICTURES.items():
            with visitor(browser, served, width, "dark" if scheme == "dark" else "light") as page:
                for name in walk(served, page):
                    if name in wanted:
                        page.wait_for_load_state("load")
                        path = FOLDER / f"{name}-{width}-{scheme}.png"
                        page.screenshot(path=path, full_page=True)
                        print(f"{path.relative_to(PROJECT)}: {path.stat().st_size} bytes")
                        assert path.stat().st_size < MAX_BYTES


if __name__ == "__main__":
    main()
