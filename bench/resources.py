"""What a server takes before anybody uses it, and what one long message takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from bench.servers import PROJECT, Server, filled, start

LARGE_BYTES = 10_000_000
_IMPORTS = "import flask, cryptography"


def measure_starts(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Each round: seconds from the start of the process to the first answer, seconds for the imports alone, and PSS in MB."""
    found = []
    for number in range(1, rounds + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", _IMPORTS], cwd=PROJECT, check=True)
        imports = time.perf_counter() - began
        began = time.perf_counter()
        with start("mayfly", folder / f"start-{number}") as server:
            seconds = time.perf_counter() - began
            found.append({"seconds": seconds, "import_seconds": imports, "pss_mb": server.memory().pss / 1e6})
    return found


def measure_large(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Each round: the most memory beyond that after the start, as multiples of a message of 10 MB that comes in and goes out."""
    found = []
    for number in range(1, rounds + 1):
        peaks = {}
        for kind, content_type in (("text", "text/plain"), ("json", "application/json")):
            here = folder / f"large-{kind}-{number}"
            with start("mayfly", here, filled(0, 0, MAYFLY_MAX_MESSAGE_BYTES=str(LARGE_BYTES))) as server:
                base = server.memory().rss
                message = "0123456789" * (LARGE_BYTES // 10)
                body = message if kind == "text" else json.dumps({"message": message})
                server.forget_peak()
                link = json.loads(_send(server, "/", content_type, body.encode()))["link"]
                peaks[f"{kind} in"] = (server.peak_bytes() - base) / LARGE_BYTES
                server.forget_peak()
                answer = _send(server, link.removeprefix(server.url), content_type)
                peaks[f"{kind} out"] = (server.peak_bytes() - base) / LARGE_BYTES
                assert len(answer) >= LARGE_BYTES
        found.append(peaks)
    return found


def _send(server: Server, path: str, content_type: str, body: bytes | None = None) -> bytes:
    headers = {"Accept": "application/json" if body else content_type, "Content-Type": content_type}
    with urllib.request.urlopen(urllib.request.Request(server.url + path, body, headers), timeout=60) as answer:
        read: bytes = answer.read()
        return read
