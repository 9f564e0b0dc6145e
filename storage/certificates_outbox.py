"""The outbox: notices on their way to webhooks, kept with what they tell of, in the same transaction.

Those of one subject reach a webhook in the order of their numbers: while one waits, none that came after it is due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from errors import NothingThere
from records import Delivery, DeliveryState, Hook, Millis, Notice, NoticeType
from storage.access_session import AccessDatabase, AccessSession, is_text, text_of

_HOOK = "h.id, h.url, h.events, h.enabled, h.created_at"
_DELIVERY = (
    "d.number, d.hook, d.notice, d.subject, d.type, d.payload, d.created_at, d.not_before, d.attempts, d.state, d.answer, "
    "d.answered_at"
)
DELIVERED_KEPT, FAILED_KEPT = Millis(7 * 24 * 3600 * 1000), Millis(90 * 24 * 3600 * 1000)
"""For how long after the last try deliveries are kept, so that an admin can look at them and have them made again."""


class OutboxTables:
    """The part of a certificate store that keeps webhooks, and what they are to be told."""

    def __init__(self, database: AccessDatabase) -> None:
        self._database = database
        sql = database.sql
        self._hooks = sql(f"SELECT {_HOOK} FROM mayfly_hooks h ORDER BY h.created_at, h.id")
        self._hook = sql(f"SELECT {_HOOK} FROM mayfly_hooks h WHERE h.id = :hook_id")
        self._hook_locked = sql(f"SELECT {_HOOK} FROM mayfly_hooks h WHERE h.id = :hook_id {{lock}}")
        self._add_hook = sql(
            "INSERT INTO mayfly_hooks (id, url, events, enabled, created_at) "
            "VALUES (:hook_id, :url, :events, :enabled, :created_at)"
        )
        self._add_hook_secret = sql("INSERT INTO mayfly_certificate_secrets (name, made_at, sealed) VALUES (:name, {now}, :sealed)")
        self._change_hook = sql("UPDATE mayfly_hooks SET url = :url, events = :events, enabled = :enabled WHERE id = :hook_id")
        self._delete_hook = (
            sql("DELETE FROM mayfly_deliveries WHERE hook = :hook_id"),
            sql("DELETE FROM mayfly_certificate_secrets WHERE name = :name"),
        )
        self._delete_hook_row = sql("DELETE FROM mayfly_hooks WHERE id = :hook_id")
        self._count_on = sql("UPDATE mayfly_deliveries_made SET newest = newest + :count WHERE slot = 0")
        self._newest = sql("SELECT newest FROM mayfly_deliveries_made WHERE slot = 0")
        then = "CASE WHEN :not_before > {now} THEN :not_before ELSE {now} END"
        self._add = sql(
            "INSERT INTO mayfly_deliveries "
            "(number, hook, notice, subject, type, payload, created_at, not_before, attempts, state, answer) VALUES "
            f"(:number, :hook_id, :notice_id, :subject, :type, :payload, {then}, {then}, 0, 'waiting', '')"
        )
        # In two steps: with all conditions in one, SQLite goes through everything that waits, for each subject.
        self._of_subject = sql(
            "SELECT number FROM mayfly_deliveries WHERE hook IN (SELECT id FROM mayfly_hooks) AND subject = :subject"
        )
        self._withdraw = sql(
            "DELETE FROM mayfly_deliveries WHERE number = :number AND state = 'waiting' AND attempts = 0 AND not_before > {now}"
        )
        due = (
            f"SELECT {_DELIVERY} FROM mayfly_deliveries d JOIN mayfly_hooks h ON h.id = d.hook "
            "WHERE d.state = 'waiting' AND d.not_before <= {now} AND h.enabled = 1 %s AND NOT EXISTS ("
            "SELECT 1 FROM mayfly_deliveries e WHERE e.hook = d.hook AND e.subject = d.subject AND e.state = 'waiting' "
            "AND e.number < d.number) ORDER BY d.not_before, d.number LIMIT :most"
        )
        self._due, self._due_of = sql(due % ""), sql(due % "AND d.hook = :hook_id")
        self._take = sql(
            "UPDATE mayfly_deliveries SET attempts = attempts + 1, not_before = {now} + :pause "
            "WHERE number = :number AND attempts = :attempts AND state = 'waiting' AND not_before <= {now}"
        )
        self._settle = sql(
            "UPDATE mayfly_deliveries SET state = :state, not_before = {now} + :pause, answer = :answer, answered_at = {now} "
            "WHERE number = :number AND attempts = :attempts AND state = 'waiting'"
        )
        self._replay = sql(
            "UPDATE mayfly_deliveries SET state = 'waiting', not_before = {now}, created_at = {now}, attempts = 0 "
            "WHERE number = :number AND state <> 'waiting'"
        )
        self._delivery = sql(f"SELECT {_DELIVERY} FROM mayfly_deliveries d WHERE d.number = :number")
        self._states = sql("SELECT state, count(*), min(created_at) FROM mayfly_deliveries GROUP BY state")
        # Queued at the moment at which their webhook was removed.
        self._drop_lost = sql("DELETE FROM mayfly_deliveries WHERE hook NOT IN (SELECT id FROM mayfly_hooks)")
        self._drop_old = sql("DELETE FROM mayfly_deliveries WHERE state = :state AND answered_at <= {now} - :kept")

    # Webhooks

    def add_hook(self, hook: Hook, name: str, sealed: bytes) -> None:
        def act(session: AccessSession) -> None:
            with session.transaction():
                session.changed(self._add_hook, **_hook_values(hook), created_at=hook.created_at)
                session.changed(self._add_hook_secret, name=name, sealed=sealed)

        self._database.do(act)

    def hooks(self) -> list[Hook]:
        return [_hook(row) for row in self._database.do(lambda session: session.all(self._hooks))]

    def hook(self, hook_id: str) -> Hook | None:
        row = self._database.do(lambda session: session.one(self._hook, hook_id=hook_id)) if is_text(hook_id) else None
        return _hook(row) if row else None

    def change_hook(self, hook_id: str, change: Callable[[Hook], Hook]) -> Hook | None:
        def act(session: AccessSession) -> Hook | None:
            with session.transaction():
                row = session.one(self._hook_locked, hook_id=hook_id)
                if row is None:
                    return None
                session.changed(self._change_hook, **_hook_values(change(_hook(row))) | {"hook_id": hook_id})
                return _hook(session.one(self._hook, hook_id=hook_id))

        return self._database.do(act) if is_text(hook_id) else None

    def delete_hook(self, hook_id: str, name: str) -> bool:
        def act(session: AccessSession) -> bool:
            with session.transaction():
                if not session.changed(self._delete_hook_row, hook_id=hook_id):
                    return False
                for statement in self._delete_hook:
                    session.changed(statement, hook_id=hook_id, name=name)
                return True

        return is_text(hook_id) and self._database.do(act)

    # Notices

    def queue(self, notices: Sequence[Notice]) -> int:
        def act(session: AccessSession) -> int:
            with session.transaction():
                return self._queue(session, notices)

        return self._database.do(act) if notices else 0

    def _queue(self, session: AccessSession, notices: Sequence[Notice]) -> int:
        """Queue within a transaction. The row of the numbers is locked last, by whoever locks more than that."""
        hooks = [_hook(row) for row in session.all(self._hooks)] if notices else []
        wanted = [(hook, notice) for notice in notices for hook in hooks if hook.enabled and notice.type in hook.events]
        if wanted:
            session.changed(self._count_on, count=len(wanted))
            (newest,) = session.one(self._newest)
            for number, (hook, notice) in enumerate(wanted, newest - len(wanted) + 1):
                session.changed(
                    self._add,
                    number=number,
                    hook_id=hook.id,
                    notice_id=notice.id,
                    subject=notice.subject,
                    type=notice.type,
                    payload=notice.payload,
                    not_before=notice.not_before,
                )
        return len(wanted)

    def withdraw(self, subjects: Sequence[str]) -> int:
        def act(session: AccessSession) -> int:
            with session.transaction():
                found = [number for subject in subjects for (number,) in session.all(self._of_subject, subject=subject)]
                return sum(session.changed(self._withdraw, number=number) for number in found)

        return self._database.do(act) if subjects else 0

    def due_deliveries(self, most: int, hook_id: str | None = None) -> list[Delivery]:
        if hook_id is None:
            return [_delivery(row) for row in self._database.do(lambda session: session.all(self._due, most=most))]
        return [_delivery(row) for row in self._database.do(lambda session: session.all(self._due_of, most=most, hook_id=hook_id))]

    def take_delivery(self, delivery: Delivery, lease_ms: int) -> Delivery | None:
        def act(session: AccessSession) -> Delivery | None:
            with session.transaction():
                taken = session.changed(self._take, number=delivery.number, attempts=delivery.attempts, pause=lease_ms)
                return _delivery(session.one(self._delivery, number=delivery.number)) if taken else None

        return self._database.do(act)

    def settle_delivery(self, delivery: Delivery, state: DeliveryState, pause_ms: int, answer: str) -> bool:
        values = {"state": state, "pause": pause_ms, "answer": answer, "number": delivery.number, "attempts": delivery.attempts}
        return self._database.do(lambda session: session.changed(self._settle, **values)) > 0

    def replay(self, number: int) -> Delivery:
        def act(session: AccessSession) -> Delivery:
            with session.transaction():
                session.changed(self._replay, number=number)
                row = session.one(self._delivery, number=number)
                if row is None:
                    raise NothingThere
                return _delivery(row)

        return self._database.do(act)

    def deliveries(
        self, hook_id: str | None = None, state: DeliveryState | None = None, before: int | None = None, most: int = 100
    ) -> list[Delivery]:
        if hook_id is not None and not is_text(hook_id):
            return []
        given = {"hook_id": hook_id, "state": state, "before": before}
        conditions = {"hook_id": "d.hook = :hook_id", "state": "d.state = :state", "before": "d.number < :before"}
        where = " AND ".join(conditions[name] for name, value in given.items() if value is not None) or "1 = 1"
        statement = self._database.sql(
            f"SELECT {_DELIVERY} FROM mayfly_deliveries d WHERE {where} ORDER BY d.number DESC LIMIT :most"
        )
        values = {name: value for name, value in given.items() if value is not None}
        return [_delivery(row) for row in self._database.do(lambda session: session.all(statement, most=most, **values))]

    def delivery_states(self) -> dict[DeliveryState, tuple[int, Millis]]:
        rows = self._database.do(lambda session: session.all(self._states))
        return {cast(DeliveryState, text_of(state)): (count, Millis(oldest)) for state, count, oldest in rows}

    def _drop_old_deliveries(self) -> None:
        self._database.do(lambda session: session.changed(self._drop_lost))
        for state, kept in (("delivered", DELIVERED_KEPT), ("failed", FAILED_KEPT)):
            values = {"state": state, "kept": kept}
            self._database.do(lambda session, values=values: session.changed(self._drop_old, **values))  # type: ignore[misc]


def _hook_values(hook: Hook) -> dict[str, Any]:
    return {"hook_id": hook.id, "url": hook.url, "events": " ".join(sorted(hook.events)), "enabled": int(hook.enabled)}


def _hook(row: Any) -> Hook:
    hook_id, url, events, enabled, created_at = row
    types = frozenset(cast(NoticeType, event) for event in text_of(events).split())
    return Hook(text_of(hook_id), text_of(url), types, bool(enabled), Millis(created_at))


def _delivery(row: Any) -> Delivery:
    number, hook, notice, subject, type_, payload, created_at, not_before, attempts, state, answer, answered_at = row
    return Delivery(
        number,
        text_of(hook),
        Notice(text_of(notice), text_of(subject), cast(NoticeType, text_of(type_)), text_of(payload)),
        Millis(created_at),
        Millis(not_before),
        attempts,
        cast(DeliveryState, text_of(state)),
        text_of(answer),
        answered_at,
    )
