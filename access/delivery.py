"""What webhooks are to be told, brought to them: each try by itself, from the outbox of the store.

A try is taken in the store before it is made, for longer than it lasts, so that of several nodes one makes it; a node that dies
over it loses nothing, as it is due again when that time is over. What came of it is written down after it: so a webhook hears of
everything once or more, and never of two things of one certificate out of their order. Each webhook has lanes of its own, so that
none waits for another that hangs; all of it happens in threads of its own, which requests never wait for.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial

from access.egress import NotAnswered, Resolve, post, target_of
from access.message_notices import MessageNotices
from access.webhooks import Webhooks
from errors import MayflyError, Unavailable
from logs import log_fault
from records import SECOND, Delivery, DeliveryState, Hook, Millis

TRY_SECONDS = 10
"""How long a try takes at most, all in all."""
LEASE = Millis(60 * SECOND)
"""For how long a try belongs to whoever took it: what is not settled by then was lost with its node, and is made again."""
LANES = 4
"""How many tries for one webhook are under way at the same time."""
_MINUTE, _HOUR = 60, 3600
PAUSES = (5, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR, 5 * _HOUR, 10 * _HOUR, 14 * _HOUR, 20 * _HOUR, 24 * _HOUR)
"""The seconds after each try that failed, and up to a fifth more, so that what failed together is not tried together again."""
GIVEN_UP_AFTER = Millis(3 * 24 * _HOUR * SECOND)
"""No try is made of what is older, but a first one."""

_log = logging.getLogger("mayfly.webhooks")


class Deliverer:
    """Delivers what is due, every `seconds` and whenever a try has ended, until stopped."""

    def __init__(
        self, webhooks: Webhooks, messages: MessageNotices, seconds: float = 1.0, resolve: Resolve = socket.getaddrinfo
    ) -> None:
        self._webhooks = webhooks
        self._store = webhooks.store
        self._messages = messages
        self._seconds = seconds
        self._resolve = resolve
        self._stopped = False
        self._turn = threading.Event()
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="mayfly-webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin no more tries. Those under way end with the process, and are made again when their time is over."""
        self._stopped = True
        self._turn.set()
        self._thread.join(TRY_SECONDS)

    def _run(self) -> None:
        while not self._stopped:
            self._turn.clear()
            try:
                self.begin_due()
            except Unavailable as error:
                _log.warning("webhooks wait for the database: %s", type(error).__name__)
            except Exception as fault:  # whatever it is, they must go on
                log_fault(fault)
            self._turn.wait(self._seconds)
        with suppress(MayflyError):
            self._messages.flush()

    def begin_due(self) -> int:
        """Queue what happened to messages, and begin, each in a thread, the tries that are due; how many. Raises Unavailable."""
        hooks = [hook for hook in self._store.hooks() if hook.enabled]
        self._messages.wanted = frozenset(event for hook in hooks for event in hook.events)
        self._messages.flush()
        begun = 0
        for hook in hooks:
            free = LANES - self._under_way[hook.id]
            for delivery in self._store.due_deliveries(free, hook.id) if free > 0 else ():
                ends = time.monotonic() + TRY_SECONDS
                taken = self._store.take_delivery(delivery, LEASE)
                if taken:
                    self._begin(hook, taken, ends)
                    begun += 1
        return begun

    def _begin(self, hook: Hook, delivery: Delivery, ends: float) -> None:
        with self._lock:
            self._under_way[hook.id] += 1
        threading.Thread(
            target=partial(self._deliver, hook, delivery, ends), name=f"mayfly-webhook-{delivery.number}", daemon=True
        ).start()

    def _deliver(self, hook: Hook, delivery: Delivery, ends: float) -> None:
        try:
            self._settle(hook, delivery, self._try(hook, delivery, ends))
        except MayflyError as error:  # it is made again when its time is over
            _log.warning("webhook %s: what came of delivery %d is not written down: %s", hook.id, delivery.number, error)
        except Exception as fault:
            log_fault(fault)
        finally:
            with self._lock:
                self._under_way[hook.id] -= 1
            self._turn.set()

    def _try(self, hook: Hook, delivery: Delivery, ends: float) -> str:
        """What came of it: the status that was answered, or why there was none."""
        try:
            headers, body = self._webhooks.signed(hook, delivery.notice)
            target = target_of(hook.url, self._webhooks.private)
        except MayflyError as error:
            _log.error("webhook %s: its secret cannot be had: %s", hook.id, type(error).__name__)
            return "no secret"
        except ValueError:  # what was allowed when it was registered is not any more
            return "address refused"
        try:
            return str(post(target, headers, body, ends, self._webhooks.private, self._resolve))
        except NotAnswered as error:
            return error.failure

    def _settle(self, hook: Hook, delivery: Delivery, answer: str) -> None:
        state, pause = _what_now(delivery, answer, self._store.now())
        if not self._store.settle_delivery(delivery, state, pause, answer):
            return  # the lease was over, and somebody else makes it
        if state == "failed":
            _log.error(
                "webhook %s: delivery %d is given up after %d tries: %s", hook.id, delivery.number, delivery.attempts, answer
            )
        elif state == "waiting":
            _log.warning(
                "webhook %s: delivery %d failed (%s), and is tried again in %d s",
                *(hook.id, delivery.number, answer, pause // SECOND),
            )


def _what_now(delivery: Delivery, answer: str, now: Millis) -> tuple[DeliveryState, int]:
    """What becomes of a delivery whose try came to `answer`, and after how many milliseconds it is due again."""
    if len(answer) == 3 and answer.startswith("2"):
        return "delivered", 0
    if now - delivery.created_at >= GIVEN_UP_AFTER:
        return "failed", 0
    seconds = PAUSES[min(delivery.attempts, len(PAUSES)) - 1]
    return "waiting", int(seconds * SECOND * random.uniform(1, 1.2))  # noqa: S311 - nobody gains by guessing it
