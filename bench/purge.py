"""The purge of the memory store, without a server: `python -m bench.purge ROWS` prints what it took, as JSON.

`insert_seconds` is what the same SQLite takes for the same rows as fast as it can, in one transaction.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator
from statistics import quantiles

import psutil  # type: ignore[import-untyped]

from bench.load import ENVELOPE_BYTES
from messages import PURGE_SLICE_ROWS
from records import Millis
from storage import sqlite

_STORE_BYTES = 16 * 1024**3
_LIFETIME = 60_000
_NOW = 1_700_000_000_000


def main(rows: int) -> None:
    moment = Millis(_NOW)
    store = sqlite.SqliteStore(None, _STORE_BYTES, lambda: moment)
    idle = psutil.Process().memory_info().rss
    insert_seconds = _insert(store, rows)
    full = psutil.Process().memory_info().rss
    moment = Millis(_NOW + _LIFETIME)
    slices, began = [], time.process_time()
    more = True
    while more:
        before = time.process_time()
        more = store.purge(PURGE_SLICE_ROWS).more
        slices.append((time.process_time() - before) * 1000)
    purge_seconds = time.process_time() - began
    purged = psutil.Process().memory_info().rss
    ctypes.CDLL(None).malloc_trim(0)
    trimmed = psutil.Process().memory_info().rss
    cuts = quantiles(slices, n=1000)
    print(
        json.dumps(
            {
                "rows": rows,
                "insert_seconds": round(insert_seconds, 3),
                "purge_seconds": round(purge_seconds, 3),
                "slice_ms": {"p50": round(cuts[499], 3), "p99": round(cuts[989], 3), "most": round(max(slices), 3)},
                "rss": {"idle": idle, "full": full, "purged": purged, "trimmed": trimmed},
            }
        )
    )


def _insert(store: sqlite.SqliteStore, rows: int) -> float:
    """Seconds to insert `rows` messages of 1,000 bytes, all of them due at one time."""
    body = os.urandom(ENVELOPE_BYTES)

    def states() -> Iterator[tuple[object, ...]]:
        for _ in range(rows):
            yield os.urandom(32), os.urandom(32), _NOW, _NOW + _LIFETIME, None, None, None, _NOW + _LIFETIME

    db = store._db
    began = time.process_time()
    db.execute("BEGIN")
    db.executemany(sqlite._INSERT, states())
    db.executemany("INSERT INTO bodies VALUES (?, x'', ?)", ((n, body) for n in range(1, rows + 1)))
    db.execute("COMMIT")
    return time.process_time() - began


if __name__ == "__main__":
    main(int(sys.argv[1]))
