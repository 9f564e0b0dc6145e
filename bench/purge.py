"""The purge of the memory store, without a server: `python -m bench.purge ROWS` prints what it took, as JSON.

`insert_seconds` is what the same SQLite takes for the same rows as fast as it can, in one transaction.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from statistics import quantiles

import psutil  # type: ignore[import-untyped]

from bench.filled import fill
from messages.purging import PURGE_SLICE_ROWS
from records import SECOND, Millis
from storage import sqlite

_STORE_BYTES = 16 * 1024**3
_LIFETIME_SECONDS = 60
_NOW = 1_700_000_000_000


def main(rows: int) -> None:
    moment = Millis(_NOW)
    store = sqlite.SqliteStore(None, _STORE_BYTES, lambda: moment)
    idle = psutil.Process().memory_info().rss
    began = time.process_time()
    fill(store, rows, moment, _LIFETIME_SECONDS)
    insert_seconds = time.process_time() - began
    full = psutil.Process().memory_info().rss
    moment = Millis(_NOW + _LIFETIME_SECONDS * SECOND)
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


if __name__ == "__main__":
    main(int(sys.argv[1]))
