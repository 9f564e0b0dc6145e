"""`GET /metrics`, for Prometheus: what the stores are asked for it.

Stores are asked in threads of their own, and not at each scrape: none makes one slow or fail. There is no such address unless the
operator has set a token for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from errors import StoreFailed, Unavailable
from messages import Vault
from metrics import Metrics, StoreFigures
from records import Counts
from web.answers import Answer
from web.handlers import Environ

GOOD_SECONDS = 3.0
"""How long the figures of a store are told again; longer if they took long: counting takes no more than 2 % of the time."""

_SHARE = 50
_PATIENCE_SECONDS = 1.0
"""How long a scrape waits for the stores, all together. Those that need longer are told as they were."""


class Scrape:
    """What Prometheus asks a server."""

    def __init__(self, vaults: Sequence[Vault], metrics: Metrics) -> None:
        self._stores = [_Asked(vault) for vault in vaults]
        self._metrics = metrics

    def metrics(self, environ: Environ) -> Answer:
        """`GET /metrics`"""
        if environ["wsgi.multiprocess"] and not self._metrics.shared:
            raise Unavailable(
                "Each process of this server counts for itself: start gunicorn with the project's gunicorn.conf.py.", 60
            )
        end = time.monotonic() + _PATIENCE_SECONDS
        for store in self._stores:
            store.ask()
        figures = {store.vault.name: store.figures(max(0, end - time.monotonic())) for store in self._stores}
        return Answer(200, CONTENT_TYPE_PLAIN_0_0_4, self._metrics.text(figures))


class _Asked:
    """The store of a vault, and what it told when it was asked last."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self._thread = ThreadPoolExecutor(1, f"mayfly-metrics-{vault.name}")
        self._lock = threading.Lock()
        self._asking: Future[None] | None = None
        self._good_until = 0.0
        self._told: Counts | None = None

    def ask(self) -> None:
        """Ask the store, unless it told just now or is being asked."""
        with self._lock:
            if self._asking is None or (self._asking.done() and time.monotonic() > self._good_until):
                self._asking = self._thread.submit(self._ask)

    def figures(self, seconds: float) -> StoreFigures:
        """What the store told, now if it does so within `seconds`."""
        asking = self._asking
        assert asking
        with suppress(TimeoutError):
            asking.result(seconds)
        return StoreFigures(self._told, self.vault.store.circuit)

    def _ask(self) -> None:
        began = time.monotonic()
        try:
            self._told = self.vault.counts()
        except StoreFailed:
            self._told = None
        ended = time.monotonic()
        self._good_until = ended + max(GOOD_SECONDS, _SHARE * (ended - began))
