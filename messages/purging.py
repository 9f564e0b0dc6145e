"""The purge of one store: what nobody can read any more goes, in slices between which readers go on."""

from __future__ import annotations

import time

from database import MessageStore
from errors import StoreFailed
from metrics import VaultMetrics

PURGE_SLICE_ROWS = 100
"""A slice of 100 rows holds the store for 0.5 ms, 1.4 ms in one of a hundred; one `DELETE` of 332,000 rows held it for 1.3–2.9 s
(measured)."""

_PURGE_PAUSE_SECONDS = (0.0001, 0.005)
"""The least and the most between slices, else as long as the slice took: a lock is not fair to those who wait for it, nor a
processor to those who ask for little of it. The most, because a purge of many must come to its end within a minute."""
_PURGE_AGAIN_SECONDS = (0.5, 1.0, 2.0)
"""After these a slice is asked for again that a store did not do in time: a database that writes a checkpoint, say, does soon."""


def purge(store: MessageStore, metrics: VaultMetrics | None = None) -> int:
    """Remove what nobody can read any more, in slices, and return how many messages that were. Needs no keys.

    Receipts older than eight days go as well. Idempotent; readers go on between the slices. `metrics` are those of the vault.
    Raises StoreFailed at once if the store does not answer at all, and for a slice in the middle when it has been tried again.
    """
    bodies = 0
    least, most = _PURGE_PAUSE_SECONDS
    patience: list[float] = []
    while True:
        began = time.perf_counter()
        try:
            purged = store.purge(PURGE_SLICE_ROWS)
        except StoreFailed:
            if not patience:
                raise
            time.sleep(patience.pop(0))
            continue
        patience = list(_PURGE_AGAIN_SECONDS)
        bodies += purged.bodies
        if metrics:
            metrics.purged.inc(purged.bodies)
        if not purged.more:
            store.tidy()
            return bodies
        time.sleep(min(max(least, time.perf_counter() - began), most))
