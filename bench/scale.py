"""What grows with the store: the cost of a request beside a million rows, and what readers notice of the purge of as many."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import load
from bench.report import Sample, Samples
from bench.servers import PROJECT, BenchFailed, Server, filled, start

SMALL_ROWS = 1000
STORE_BYTES = str(16 * 1024**3)
WEEK = 7 * 24 * 3600
PURGE_SECONDS = 600
"""How long a purge may take before the run is given up."""


def measure_rows(folder: Path, rounds: int, seconds: int, rows: int, read_links: int) -> Samples:
    """Create and read, beside a thousand rows and beside `rows`. The small store, which creates let grow, is new each round."""
    samples: Samples = {}
    with start("mayfly", folder / "rows-many", filled(rows, WEEK, MAYFLY_STORE_BYTES=STORE_BYTES)) as many:
        load.run(load.FILLS["mayfly"], many, folder / "rows-many", load.FILL_SECONDS, read_links)
        for number in range(1, rounds + 1):
            print(f"rows, round {number} of {rounds}", file=sys.stderr)
            few_folder = folder / f"rows-few-{number}"
            with start("mayfly", few_folder, filled(SMALL_ROWS, WEEK)) as few:
                load.run(load.FILLS["mayfly"], few, few_folder, load.FILL_SECONDS, read_links)
                for name in ("read", "create"):
                    operation = load.operation("mayfly", name)
                    for size, server, here in (("1k", few, few_folder), ("1m", many, folder / "rows-many")):
                        title = f"mayfly {size}: {name}"
                        samples.setdefault(title, []).append(
                            sample(replace(operation, server=f"mayfly {size}"), server, here, seconds)
                        )
    return samples


def sample(operation: load.Operation, server: Server, folder: Path, seconds: int) -> Sample:
    """One operation, once."""
    before = server.cpu_seconds()
    seen = load.run(operation, server, folder, seconds)
    return Sample((server.cpu_seconds() - before) / seen.requests * 1e6, seen)


def measure_purge(folder: Path, rounds: int, seconds: int, rows: int, read_links: int) -> list[dict[str, Any]]:
    """Each round: what `bench.purge` tells, and how long readers wait at an idle server and at one that purges `rows`."""
    found = []
    for number in range(1, rounds + 1):
        print(f"purge, round {number} of {rounds}", file=sys.stderr)
        alone = subprocess.run(
            [sys.executable, "-m", "bench.purge", str(rows)], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        if alone.returncode:
            raise BenchFailed(f"the purge failed:\n{alone.stderr}")
        here = folder / f"purge-{number}"
        settings = {"MAYFLY_STORE_BYTES": STORE_BYTES, "MAYFLY_PURGE_SECONDS": "0"}
        with ExitStack() as stack:
            server = stack.enter_context(start("mayfly", here, filled(rows, 0, **settings)))
            load.run(load.FILLS["mayfly"], server, here, load.FILL_SECONDS, read_links)
            read = load.operation("mayfly", "read")
            idle = load.run(read, server, here, seconds)
            purging = stack.enter_context(ThreadPoolExecutor(1)).submit(purge, server, here)
            during = load.run(read, server, here, PURGE_SECONDS, beside=purging.exception)
            if (deleted := purging.result()) != rows:
                raise BenchFailed(f"{deleted} of {rows} messages were purged")
        found.append(
            json.loads(alone.stdout)
            | {"idle_p99_ms": idle.p99_ms, "purging_p99_ms": during.p99_ms, "served_seconds": during.seconds}
        )
    return found


def purge(server: Server, folder: Path) -> int:
    """Purge as a script does; returns how many messages went."""
    token = json.loads((folder / "mayfly" / "key.json").read_text())["admin_token"]
    request = urllib.request.Request(f"{server.url}/delete", method="POST", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=PURGE_SECONDS) as answer:
        return int(json.load(answer)["deleted"])
