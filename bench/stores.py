"""What readers notice while half of a store is purged, in memory, in a file and in PostgreSQL, and how that grows with its rows.

Each readers' p99 is taken of a server at rest and of the same one while it purges, under two loads: `busy`, as many requests as 16
connections can make (what wrk does), and `calm`, one every 10 ms, whose time counts from when it was due: what stalls the server
for 50 ms delays five of them.
"""

from __future__ import annotations

import http.client
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from bench import load, report
from bench.scale import PURGE_SECONDS, STORE_BYTES, purge
from bench.servers import BenchFailed, Server, start, stocked

STORES = ("memory", "file", "postgresql")
AT_MOST = 3.0
"""Readers' p99 during a purge, divided by that at rest."""

_CALM_SECONDS = 0.01
_IDLE_SECONDS = 10
_HEAD_START_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Seen:
    p99_ms: float
    most_ms: float


def measure(rows: int, stores: list[str]) -> dict[str, Any]:
    """Purge a hundredth, a tenth and all of `rows` of twice as many; the last is what is judged."""
    machine = report.machine()
    found = [_measure(store, count) for store in stores for count in (rows // 100, rows // 10, rows)]
    judged = {
        f"reader_p99_during_purge_{row['store']}": max(row[kind]["purging_p99_ms"] / row[kind]["idle_p99_ms"] for kind in _LOADS)
        for row in found
        if row["purged"] == rows
    }
    return {
        "machine": machine,
        "connections": load.CONNECTIONS,
        "message_bytes": load.MESSAGE_BYTES,
        "purges": found,
        **{name: round(ratio, 2) for name, ratio in judged.items()},
        "at_most": AT_MOST,
        "holds": all(ratio <= AT_MOST for ratio in judged.values()),
    }


def show(found: dict[str, Any]) -> str:
    """The purges as a table."""
    head = f"{'store':12}{'purged':>10}{'readers':>9}{'seconds':>9}{'p99 idle':>10}{'purging':>9}{'ratio':>7}{'most':>8}"
    lines = [f"{head}{'MB before':>11}{'after':>8}"]
    for row in found["purges"]:
        for kind in _LOADS:
            seen = row[kind]
            ratio = seen["purging_p99_ms"] / seen["idle_p99_ms"]
            lines.append(
                f"{row['store']:12}{row['purged']:>10,}{kind:>9}{seen['seconds']:>9.1f}{seen['idle_p99_ms']:>10.2f}"
                f"{seen['purging_p99_ms']:>9.2f}{ratio:>7.2f}{seen['purging_most_ms']:>8.1f}"
                f"{seen['bytes_before'] / 1e6:>11,.0f}{seen['bytes_after'] / 1e6:>8,.0f}"
            )
    lines += [f"{name}: {found[name]}" for name in found if name.startswith("reader_p99")]
    lines.append(f"at most {found['at_most']}: {'holds' if found['holds'] else 'DOES NOT HOLD'}")
    return "\n".join(lines)


def _measure(store: str, rows: int) -> dict[str, Any]:
    found: dict[str, Any] = {"store": store, "purged": rows}
    for kind in _LOADS:
        print(f"purge of {rows:,} in {store}, {kind} readers", file=sys.stderr)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mayfly-bench-stores-")))
            settings, size = stack.enter_context(_STORES[store](folder))
            settings |= {"MAYFLY_STORE_BYTES": STORE_BYTES, "MAYFLY_PURGE_SECONDS": "0"}
            here = folder / "mayfly"
            server = stack.enter_context(start("mayfly", here, stocked(rows, here / "fill.links", **settings)))
            _LOADS[kind](server, here, 1, None)  # a warm-up
            idle = _LOADS[kind](server, here, _IDLE_SECONDS, None)
            before = size(server)
            purging = stack.enter_context(ThreadPoolExecutor(1)).submit(_purge, server, here)
            during = _LOADS[kind](server, here, PURGE_SECONDS, purging.exception)
            deleted, took = purging.result()
            if deleted != rows:
                raise BenchFailed(f"{deleted} of {rows} messages were purged")
            found[kind] = {
                "seconds": round(took, 1),
                "idle_p99_ms": round(idle.p99_ms, 2),
                "purging_p99_ms": round(during.p99_ms, 2),
                "idle_most_ms": round(idle.most_ms, 1),
                "purging_most_ms": round(during.most_ms, 1),
                "bytes_before": before,
                "bytes_after": size(server),
            }
    return found


def _purge(server: Server, folder: Path) -> tuple[int, float]:
    """Purge, when the readers are there; how many messages went, and in how many seconds."""
    time.sleep(_HEAD_START_SECONDS)
    began = time.perf_counter()
    return purge(server, folder), time.perf_counter() - began


# The stores: what makes Mayfly use one, and what it takes then.

_Size = Callable[[Server], int]


@contextmanager
def _memory(folder: Path) -> Iterator[tuple[dict[str, str], _Size]]:
    yield {}, lambda server: server.memory().rss


@contextmanager
def _file(folder: Path) -> Iterator[tuple[dict[str, str], _Size]]:
    path = folder / "messages.db"
    yield {"MAYFLY_DATABASE_URL": f"sqlite:///{path}"}, lambda _: sum(part.stat().st_size for part in folder.glob(f"{path.name}*"))


@contextmanager
def _postgresql(folder: Path) -> Iterator[tuple[dict[str, str], _Size]]:
    from bench.postgresql import database_bytes, postgresql  # with a driver that only this needs

    with postgresql() as url:
        yield {"MAYFLY_DATABASE_URL": url}, lambda _: database_bytes(url)


_STORES = {"memory": _memory, "file": _file, "postgresql": _postgresql}

# The loads: for so many seconds, or until something that is done beside comes to its end.


def _busy(server: Server, folder: Path, seconds: int, beside: Callable[[], object] | None) -> _Seen:
    seen = load.run(load.operation("mayfly", "read"), server, folder, seconds, beside=beside)
    return _Seen(seen.p99_ms, seen.most_ms)


def _calm(server: Server, folder: Path, seconds: int, beside: Callable[[], object] | None) -> _Seen:
    paths = (folder / "fill.links").read_text().split()
    Random(1).shuffle(paths)
    turns = cycle(paths)
    client = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    took: list[float] = []
    with ThreadPoolExecutor(1) as thread:
        ends = thread.submit(beside) if beside else None
        began = due = time.perf_counter()
        while not ends.done() if ends else due < began + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            client.request("GET", next(turns), headers={"Accept": "application/json"})
            answer = client.getresponse()
            if len(answer.read()) < load.MESSAGE_BYTES:
                raise BenchFailed(f"a message was answered with {answer.status}")
            took.append((time.perf_counter() - due) * 1000)
            due += _CALM_SECONDS
    client.close()
    return _Seen(quantiles(took, n=100)[98], max(took))


_LOADS = {"busy": _busy, "calm": _calm}
