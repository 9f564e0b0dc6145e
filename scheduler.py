"""APScheduler runs the purge, and the monotonic clock watches over APScheduler.

APScheduler 3 plans by the wall clock: after a jump an hour back it stands still for that hour, after one two years ahead it
works through every run it believes to have missed. So the trigger knows no missed runs, and a watchdog that sleeps by the monotonic
clock plans anew whenever a run is overdue. Expiry does not depend on any of this: reads refuse what has expired.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from database import MessageStore
from errors import MayflyError
from messages import purge
from metrics import VaultMetrics

_log = logging.getLogger("mayfly.scheduler")


class EveryFromNow(BaseTrigger):  # type: ignore[misc]
    """Fires `seconds` after it is asked, and never for a moment that has passed."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        return now + self._interval


class PurgeScheduler:
    """Purges stores every `seconds`, each in a job of its own, until stopped.

    Of several processes that share a store exactly one purges; another takes over when it ends. `metrics` are those of their
    vaults.
    """

    def __init__(self, stores: Sequence[MessageStore], seconds: float, metrics: Sequence[VaultMetrics] = ()) -> None:
        self._seconds = seconds
        self._metrics = metrics
        self._stopped = threading.Event()
        self._scheduler = BackgroundScheduler(daemon=True)
        self._last_runs = [time.monotonic() for _ in stores]
        self._jobs: list[Any] = [
            self._scheduler.add_job(
                self._run, EveryFromNow(seconds), (number, store), coalesce=True, max_instances=1, misfire_grace_time=None
            )
            for number, store in enumerate(stores)
        ]
        self._watchdog = threading.Thread(target=self._watch, name="mayfly-purge-watchdog", daemon=True)

    def start(self) -> None:
        self._scheduler.start()
        self._watchdog.start()

    def stop(self) -> None:
        """Stop planning. A purge under way goes on, and ends with the process: each of its slices stands by itself."""
        self._stopped.set()
        self._scheduler.shutdown(wait=False)

    def _run(self, number: int, store: MessageStore) -> None:
        self._last_runs[number] = time.monotonic()
        metrics = self._metrics[number] if self._metrics else None
        try:
            if store.may_purge():
                purged = purge(store, metrics)
                if purged:
                    _log.info("purged %d messages", purged)
        except MayflyError as error:
            _log.error("the purge failed and will be tried again: %s", error)
            if metrics:
                metrics.purges_failed.inc()

    def _watch(self) -> None:
        while not self._stopped.wait(self._seconds / 4):
            for number, job in enumerate(self._jobs):
                if time.monotonic() - self._last_runs[number] > 1.5 * self._seconds:
                    self._last_runs[number] = time.monotonic()
                    _log.warning("the purge is overdue: the wall clock jumped, or a purge takes long; planning anew")
                    job.modify(next_run_time=datetime.now(UTC))


def purge_until_stopped(stores: Sequence[MessageStore], seconds: float) -> None:
    """Purge every `seconds` until SIGTERM or SIGINT, as the only thing that this process does."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    scheduler = PurgeScheduler(stores, seconds)
    scheduler.start()
    stopped.wait()
    scheduler.stop()
