"""APScheduler runs the purge and the housekeeping, and the monotonic clock watches over APScheduler.

APScheduler 3 plans by the wall clock: after a jump an hour back it stands still for that hour, after one two years ahead it
works through every run it believes to have missed. So the trigger knows no missed runs, and a watchdog that sleeps by the monotonic
clock plans anew whenever a run is overdue. Expiry does not depend on any of this: reads refuse what has expired.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from access.certificates import Certificates
from access.oauth import SigningKeys
from access.sealing import reseal
from audit import Audit
from database import AccessStore, MessageStore
from errors import MayflyError
from keyfile import KeyFile
from messages.purging import purge
from metrics import VaultMetrics

_log = logging.getLogger("mayfly.scheduler")


class EveryFromNow(BaseTrigger):  # type: ignore[misc]
    """Fires `seconds` after it is asked, and never for a moment that has passed."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        return now + self._interval


class Regularly:
    """Does each of `acts` every `seconds`, in a job of its own, until stopped; with `at_once` also when it starts."""

    name: str

    def __init__(self, acts: Sequence[Callable[[], None]], seconds: float, at_once: bool = False) -> None:
        self._seconds = seconds
        self._stopped = threading.Event()
        self._scheduler = BackgroundScheduler(daemon=True)
        self._last_runs = [time.monotonic() for _ in acts]
        first = {"next_run_time": datetime.now(UTC)} if at_once else {}
        self._jobs: list[Any] = [
            self._scheduler.add_job(
                self._run, EveryFromNow(seconds), (number, act), coalesce=True, max_instances=1, misfire_grace_time=None, **first
            )
            for number, act in enumerate(acts)
        ]
        self._watchdog = threading.Thread(target=self._watch, name=f"mayfly-{self.name}-watchdog", daemon=True)

    def start(self) -> None:
        self._scheduler.start()
        self._watchdog.start()

    def stop(self) -> None:
        """Stop planning. What is under way goes on, and ends with the process: each of its steps stands by itself."""
        self._stopped.set()
        self._scheduler.shutdown(wait=False)

    def _run(self, number: int, act: Callable[[], None]) -> None:
        self._last_runs[number] = time.monotonic()
        act()

    def _watch(self) -> None:
        while not self._stopped.wait(self._seconds / 4):
            for number, job in enumerate(self._jobs):
                if time.monotonic() - self._last_runs[number] > 1.5 * self._seconds:
                    self._last_runs[number] = time.monotonic()
                    _log.warning("the %s is overdue: the wall clock jumped, or it takes long; planning anew", self.name)
                    job.modify(next_run_time=datetime.now(UTC))


class PurgeScheduler(Regularly):
    """Purges stores every `seconds`, each in a job of its own, until stopped.

    Of several processes that share a store exactly one purges; another takes over when it ends. `metrics` are those of their
    vaults.
    """

    name = "purge"

    def __init__(self, stores: Sequence[MessageStore], seconds: float, metrics: Sequence[VaultMetrics] = ()) -> None:
        of_stores: Sequence[VaultMetrics | None] = metrics or [None] * len(stores)
        super().__init__([partial(_purge, *store) for store in zip(stores, of_stores, strict=True)], seconds)


def _purge(store: MessageStore, metrics: VaultMetrics | None) -> None:
    try:
        if store.may_purge():
            purged = purge(store, metrics)
            if purged:
                _log.info("purged %d messages", purged)
    except MayflyError as error:
        _log.error("the purge failed and will be tried again: %s", error)
        if metrics:
            metrics.purges_failed.inc()


class Housekeeping(Regularly):
    """Keeps house for accounts and audit, at the start and every hour: of several processes one is enough, and more do no harm.

    Secrets are sealed under the current key, so that the one before may be dropped; the head of the audit is signed; entries older
    than `audit_days` go, and so do sessions, keys and links that have ended. Certificates that end soon are warned of.
    """

    name = "housekeeping"

    def __init__(
        self,
        store: AccessStore,
        keys: KeyFile,
        audit: Audit,
        audit_days: int,
        signing: SigningKeys,
        certificates: Certificates | None = None,
        seconds: float = 3600,
    ) -> None:
        self._duties: dict[str, Callable[[], object]] = {
            "sealing secrets under the current key": partial(reseal, store, keys),
            "signing the head of the audit": audit.sign_head,
            "dropping old entries of the audit": partial(audit.drop, audit_days),
            "looking after the keys that sign tokens": signing.look_after,
            "removing what has ended": store.tidy,
        }
        if certificates:
            self._duties |= {
                "sealing issuing keys under the current key": partial(reseal, certificates.store, keys),
                "looking after certificates": certificates.look_after,
                "removing old deliveries": certificates.store.tidy,
            }
        super().__init__([self.keep], seconds, at_once=True)

    def keep(self) -> None:
        """Do all of it once; what fails keeps nothing else from being done."""
        for name, duty in self._duties.items():
            try:
                duty()
            except MayflyError as error:
                _log.error("%s failed and will be tried again: %s: %s", name, type(error).__name__, error)


def purge_until_stopped(stores: Sequence[MessageStore], seconds: float) -> None:
    """Purge every `seconds` until SIGTERM or SIGINT, as the only thing that this process does."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    scheduler = PurgeScheduler(stores, seconds)
    scheduler.start()
    stopped.wait()
    scheduler.stop()
