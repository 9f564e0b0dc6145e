"""The audit as it is stored: entries in one row of numbers, the heads signed over them, and where it begins.

Whoever adds an entry, or drops some, locks the one row of `mayfly_audit` first, so that no two entries are made of the same last
one, whichever nodes make them. What an entry says, and how it is chained to the one before, is `audit`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from records import AuditEntry, Millis
from storage.access_session import AccessDatabase, AccessSession, is_text, text_of

_FIELDS = ("account", "email", "way", "credential", "action", "outcome", "vault", "target", "address", "detail")
_ENTRY = f"e.number, e.at, {', '.join(f'e.{field}' for field in _FIELDS)}, e.mac"
_FILTERS = ("account", "email", "action", "outcome", "vault", "target")
_ACCESSES = {("open", "answered"), ("read", "answered")}

_SLICE_ROWS = 1000
"""How many entries are dropped at once, while nobody can add any."""


class AuditTables:
    """The part of an access store that keeps the audit."""

    def __init__(self, database: AccessDatabase) -> None:
        self._database = database
        sql = database.sql
        values = ", ".join(f":{field}" for field in _FIELDS)
        self._lock = sql("SELECT beginning FROM mayfly_audit WHERE slot = 0 {lock}")
        self._last = sql(f"SELECT {_ENTRY} FROM mayfly_entries e ORDER BY e.number DESC LIMIT 1")
        self._add = sql(f"INSERT INTO mayfly_entries (number, at, {', '.join(_FIELDS)}, mac) VALUES (:number, :at, {values}, :mac)")
        self._accessed = sql("UPDATE mayfly_last_accesses SET number = :number WHERE account = :account AND vault = :vault")
        self._first_access = sql("INSERT INTO mayfly_last_accesses (account, vault, number) VALUES (:account, :vault, :number)")
        self._in_order = sql(f"SELECT {_ENTRY} FROM mayfly_entries e WHERE e.number > :after ORDER BY e.number LIMIT :most")
        self._last_accesses = sql(
            f"SELECT {_ENTRY} FROM mayfly_entries e JOIN mayfly_last_accesses a ON a.number = e.number ORDER BY e.number DESC"
        )
        self._heads = sql("SELECT number, at, signed FROM mayfly_heads ORDER BY number")
        self._add_head = sql("INSERT INTO mayfly_heads (number, at, signed) VALUES (:number, {now}, :signed)")
        self._oldest = sql(f"SELECT {_ENTRY} FROM mayfly_entries e ORDER BY e.number LIMIT :most")
        self._drop = tuple(
            sql(f"DELETE FROM {table} WHERE number <= :number")
            for table in ("mayfly_entries", "mayfly_last_accesses", "mayfly_heads")
        )
        self._begin = sql("UPDATE mayfly_audit SET beginning = :beginning WHERE slot = 0")
        self._beginning = sql("SELECT beginning FROM mayfly_audit WHERE slot = 0")

    def append(self, make: Callable[[AuditEntry | None], AuditEntry]) -> AuditEntry:
        def act(session: AccessSession) -> AuditEntry:
            with session.transaction():
                session.one(self._lock)
                entry = make(_entry_or_none(session.one(self._last)))
                fields = {field: getattr(entry, field) for field in _FIELDS}
                session.changed(self._add, number=entry.number, at=entry.at, mac=entry.mac, **fields)
                if (entry.action, entry.outcome) in _ACCESSES:
                    access = {"account": entry.account, "vault": entry.vault, "number": entry.number}
                    if not session.changed(self._accessed, **access):
                        session.changed(self._first_access, **access)
            return entry

        return self._database.do(act)

    def entries(self, after: int = 0, most: int = 1000) -> list[AuditEntry]:
        return [_entry(row) for row in self._database.do(lambda session: session.all(self._in_order, after=after, most=most))]

    def find_entries(
        self, filters: Mapping[str, str], since: Millis, until: Millis, before: int | None, most: int
    ) -> list[AuditEntry]:
        if unknown := set(filters) - set(_FILTERS):
            raise ValueError(f"entries are not found by {', '.join(unknown)}")
        if not all(is_text(value) for value in filters.values()):
            return []
        where = "".join(f" AND e.{field} = :{field}" for field in _FILTERS if field in filters)
        if before is not None:
            where += " AND e.number < :before"
        statement = self._database.sql(
            f"SELECT {_ENTRY} FROM mayfly_entries e WHERE e.at >= :since AND e.at < :until{where} "
            "ORDER BY e.number DESC LIMIT :most"
        )
        values = {**filters, "since": since, "until": until, "before": before, "most": most}
        return [_entry(row) for row in self._database.do(lambda session: session.all(statement, **values))]

    def last_accesses(self) -> list[AuditEntry]:
        return [_entry(row) for row in self._database.do(lambda session: session.all(self._last_accesses))]

    def heads(self) -> list[tuple[int, Millis, bytes]]:
        rows = self._database.do(lambda session: session.all(self._heads))
        return [(number, Millis(at), bytes(signed)) for number, at, signed in rows]

    def add_head(self, number: int, signed: bytes) -> None:
        self._database.do(lambda session: session.unless_there(self._add_head, number=number, signed=signed))

    def drop_entries(self, until: Millis, signed: Callable[[AuditEntry], bytes]) -> int:
        dropped = 0
        while slice_rows := self._database.do(lambda session: self._drop_slice(session, until, signed)):
            dropped += slice_rows
        return dropped

    def _drop_slice(self, session: AccessSession, until: Millis, signed: Callable[[AuditEntry], bytes]) -> int:
        with session.transaction():
            session.one(self._lock)
            oldest = session.all(self._oldest, most=_SLICE_ROWS + 1)
            # All but the last of them, which may be the last of all. What is kept begins with the first that is young enough,
            # also where a clock was set back, and older ones follow it.
            over = list(itertools.takewhile(lambda entry: entry.at < until, map(_entry, oldest[:-1])))
            if over:
                session.changed(self._begin, beginning=signed(over[-1]))
                for statement in self._drop:
                    session.changed(statement, number=over[-1].number)
            return len(over)

    def beginning(self) -> bytes | None:
        (beginning,) = self._database.do(lambda session: session.one(self._beginning))
        return beginning if beginning is None else bytes(beginning)


def _entry_or_none(row: Any) -> AuditEntry | None:
    return _entry(row) if row else None


def _entry(row: Any) -> AuditEntry:
    number, at, *texts, mac = row
    return AuditEntry(number, Millis(at), **dict(zip(_FIELDS, map(text_of, texts), strict=True)), mac=bytes(mac))
