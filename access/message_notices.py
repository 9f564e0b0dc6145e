"""What webhooks are told of messages: that one was opened, burned or has expired; which, only by the audit's short hash of it.

That it will have expired is queued when it is made, for that moment, and taken back when it is over before: the purge, which
removes many at once, need not say which.

Whoever answers a reader only notes it down in memory; the thread that delivers brings it into the outbox, within a second. What is
in memory when a process is killed, or while the database is down and more comes than is kept, is lost: it is in the audit all the
same, where that is told of it.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from audit import Audit
from database import CertificateStore
from records import SECOND, Millis, Notice, NoticeType, RowId, VaultName

MOST_WAITING = 10_000
"""How many are kept while the database does not take them: some megabytes."""
_AT_ONCE = 50
"""How many the database is told of in one call, each for up to 16 webhooks: a call has little more than a second, and what does not
fit into it would never fit."""
_EXPIRED: NoticeType = "message.expired"

_log = logging.getLogger("mayfly.webhooks")


class MessageNotices:
    """Those of one process, on their way to the outbox. `wanted` says which of them any webhook asks for."""

    def __init__(self, store: CertificateStore, audit: Audit, now: Callable[[], Millis]) -> None:
        self.wanted: frozenset[NoticeType] = frozenset()
        self._store = store
        self._audit = audit
        self._now = now
        self._happened: deque[tuple[NoticeType, VaultName, RowId, Millis, bool]] = deque()
        self._unsent: list[Notice] = []
        self._over: list[str] = []
        self._lost = 0

    def tell(self, type_: NoticeType, vault: VaultName, row_id: RowId, at: Millis | None = None, over: bool = False) -> None:
        """Note that something happened to a message, or will at `at`, if any webhook asks for it; `over`: nothing of it is left.

        Takes a microsecond, and never fails.
        """
        if type_ not in self.wanted and not (over and _EXPIRED in self.wanted):
            return
        if len(self._happened) >= MOST_WAITING:
            self._lost += 1
        else:
            self._happened.append((type_, vault, row_id, at or self._now(), over))

    def flush(self) -> None:
        """Bring into the outbox what happened so far. Raises StoreFailed, AuditFailed: it stays for the next time."""
        if self._lost:
            _log.error("%d events of messages were lost to webhooks: the database did not take them in time", self._lost)
            self._lost = 0
        while self._unsent or self._over or self._happened:
            while self._happened and len(self._unsent) < _AT_ONCE and len(self._over) < _AT_ONCE:
                type_, vault, row_id, at, over = self._happened[0]
                name = self._audit.name_of(row_id)
                self._unsent.append(_notice(type_, vault, name, at))
                if over:
                    self._over.append(_expiry_of(name))
                self._happened.popleft()
            self._store.queue(self._unsent)
            self._unsent = []
            self._store.withdraw(self._over)
            self._over = []


def _expiry_of(name: str) -> str:
    """A subject of its own: what happens to a message meanwhile does not wait for its end."""
    return f"{name} expires"


def _notice(type_: NoticeType, vault: VaultName, name: str, at: Millis) -> Notice:
    timestamp = datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    payload = {"type": type_, "timestamp": timestamp, "data": {"message": name, "vault": vault}}
    subject = _expiry_of(name) if type_ == _EXPIRED else name
    return Notice(str(uuid.uuid4()), subject, type_, json.dumps(payload, separators=(",", ":")), at)
