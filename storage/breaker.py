"""A circuit breaker for each store on the network: while it is down, calls fail at once instead of each after its own wait.

A store is tried again soon after, by one call alone and with less time than others have, so that it serves again within two
seconds of its return, even if that call was sent to a peer that never answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pybreaker import (
    STATE_CLOSED,
    STATE_OPEN,
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerListener,
    CircuitBreakerState,
    CircuitMemoryStorage,
)

from errors import StoreBusy, StoreFailed, StoreFull
from records import Circuit
from storage.deadline import CALL_SECONDS, spending

FAILURES = 3
"""So many failures in a row open the circuit."""

RETRY_SECONDS = 0.4
_TRIAL_SECONDS = 1.2
"""What a trial may take: with `RETRY_SECONDS` before it, and again if it met the last moment of an outage, still under 2 s."""

_log = logging.getLogger("mayfly.storage")


class Breaker:
    """Guards the calls to one store. `name` stands in the log: the store's host, never more of its URL."""

    def __init__(self, name: str) -> None:
        self._trial = threading.Lock()
        self._circuit = CircuitBreaker(
            fail_max=FAILURES,
            reset_timeout=RETRY_SECONDS,
            exclude=[StoreFull, StoreBusy],
            listeners=[_Log()],
            state_storage=_Storage(STATE_CLOSED),
            name=name,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> Circuit:
        """`closed` while the store serves."""
        return self._circuit.current_state  # type: ignore[return-value]

    @contextmanager
    def call(self) -> Iterator[float]:
        """Surround a call to the store; yields how many seconds it may take.

        Raises StoreFailed at once while the circuit is open, but for one call at a time that tries whether the store is back.
        Whatever is raised within, other than StoreFull and StoreBusy, counts as a failure. Raises StoreBusy too.
        """
        trial = self.state != STATE_CLOSED
        if trial and not self._trial.acquire(blocking=False):
            raise StoreFailed
        try:
            # `CircuitBreaker.call` would hold its lock while the store answers, and so send one call after the other.
            with spending(), self._circuit.calling():
                yield _TRIAL_SECONDS if trial else CALL_SECONDS
        except CircuitBreakerError:
            raise StoreFailed from None
        finally:
            if trial:
                self._trial.release()


class _Storage(CircuitMemoryStorage):
    """Remembers when the circuit opened by the monotonic clock: the wall clock may be set back by an hour meanwhile."""

    _opened = 0.0

    @property
    def opened_at(self) -> datetime | None:
        return datetime.now(UTC) - timedelta(seconds=time.monotonic() - self._opened)

    @opened_at.setter
    def opened_at(self, at: datetime) -> None:
        # Calls that were under way when it opened fail one after the other; they are no reason to wait longer.
        if self.state != STATE_OPEN:
            self._opened = time.monotonic()


class _Log(CircuitBreakerListener):
    def state_change(self, cb: CircuitBreaker, old_state: CircuitBreakerState | None, new_state: CircuitBreakerState) -> None:
        if new_state.name == STATE_CLOSED:
            _log.warning("the store at %s answers again", cb.name)
        elif new_state.name == STATE_OPEN and old_state and old_state.name == STATE_CLOSED:
            _log.error("the store at %s does not answer", cb.name)
