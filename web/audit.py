"""`GET /audit`: what auditors look at. That they looked is the newest entry of what they look at. No Flask here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from audit import ACTIONS, MAX_PAGE, OUTCOMES, Audit
from errors import FieldRefused
from fields import Choice, Field, Line, Model, Whole
from records import VAULT_NAMES, AuditEntry, Millis
from web import pages
from web.answers import HTML, Answer, as_json, iso
from web.authentication import actor_of
from web.bodies import read_query
from web.gate import Environ
from web.negotiation import wanted_by

LINES = "application/x-ndjson"
"""JSON lines: one JSON object a line."""

_LINE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(rf"{_DAY.pattern}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}Z")
_FIRST, _LAST = Millis(-(1 << 62)), Millis(1 << 62)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment in UTC, to the second, or a day; of a day its first moment, or with `whole_day` the first after it."""

    whole_day: bool = False

    def read(self, name: str, value: object) -> Millis:
        text = value if isinstance(value, str) else ""
        is_day = bool(_DAY.fullmatch(text))
        try:
            if not is_day and not _MOMENT.fullmatch(text):
                raise ValueError
            at = datetime.fromisoformat(text).replace(tzinfo=UTC)
            if is_day and self.whole_day:
                at += timedelta(days=1)
        except (ValueError, OverflowError):
            raise FieldRefused(
                name, "%(name)s must be a day (2026-11-20) or a moment in UTC (2026-11-20T10:00:00Z).", name=name
            ) from None
        return Millis(int(at.timestamp() * 1000))

    def schema(self) -> dict[str, Any]:
        moment = {"type": "string", "format": "date-time", "pattern": f"^{_MOMENT.pattern}$"}
        return {"anyOf": [{"type": "string", "format": "date"}, moment]}


LOOK = Model(
    Field("account", Line(254), "Of whom: an e-mail address, or the id of an account."),
    Field("action", Choice(ACTIONS), "What was done."),
    Field("outcome", Choice(OUTCOMES), "What came of it."),
    Field("vault", Choice(VAULT_NAMES), "In which vault."),
    Field("target", Line(255), "To what: the short hash of a message, or the id of an account or a key."),
    Field("since", Moment(), "Not before that moment, or that day."),
    Field("until", Moment(whole_day=True), "Before that moment, or to the end of that day."),
    Field("before", Whole(1, 999_999_999), "Only entries of lower numbers: for the next page, the last number of this one."),
    Field("most", Whole(1, MAX_PAGE), "How many entries.", 100),
    Field("as", Choice(("lines",)), "`lines`: JSON lines, whatever is accepted."),
)
"""The query."""


class AuditPage:
    """The handler of `/audit`."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def audit(self, environ: Environ) -> Answer:
        """`GET /audit`: a page, a JSON document, or for everybody else JSON lines."""
        query = read_query(environ.get("QUERY_STRING", ""))
        values, wanted = LOOK.read(query), wanted_by(environ)
        since, until = (
            default if values[name] is None else values[name] for name, default in (("since", _FIRST), ("until", _LAST))
        )
        most = values["most"]
        found = self._audit.look(actor_of(environ), _filters(values), since, until, values["before"], most)
        entries = [document(entry) for entry in found.entries]
        if values["as"] == "lines" or wanted.kind == "text":
            return Answer(200, LINES, b"".join(_LINE.encode(entry).encode() + b"\n" for entry in entries))
        last = [document(entry) for entry in found.last_accesses]
        before = found.entries[-1].number if len(entries) == most else None
        if wanted.kind == "json":
            return as_json(200, {"entries": entries, "before": before, "last_accesses": last, "head": found.head.line})
        language = {"lang": wanted.language.tag} if wanted.chosen else {}
        older = f"/audit?{urlencode({**query, 'before': before, **language})}" if before else None
        lines = f"/audit?{urlencode({**query, 'as': 'lines'})}"
        chosen = {name: query.get(name, "") for name in LOOK.names}
        return Answer(200, HTML, pages.audit(wanted, entries, last, found.head.line, chosen, older, lines))


def _filters(values: dict[str, Any]) -> dict[str, str]:
    filters = {name: values[name] for name in ("action", "outcome", "vault", "target") if values[name] is not None}
    whom = values["account"]
    if whom is not None:
        filters |= {"email": whom.lower()} if "@" in whom else {"account": whom.lower()}
    return filters


def document(entry: AuditEntry) -> dict[str, Any]:
    """An entry as it is told. `who` is an e-mail address, or what is known of somebody without an account."""
    return {
        "number": entry.number,
        "at": iso(entry.at),
        "who": _who(entry),
        "account": entry.account or None,
        "email": entry.email or None,
        "way": entry.way,
        "credential": entry.credential or None,
        "action": entry.action,
        "outcome": entry.outcome,
        "vault": entry.vault or None,
        "target": entry.target or None,
        "address": entry.address or None,
        "detail": entry.detail or None,
        "mac": entry.mac.hex(),
    }


def _who(entry: AuditEntry) -> str:
    if entry.account:
        return entry.email
    if entry.way == "nobody":
        return "link holder" if entry.vault else "nobody"
    return "operator" if entry.way == "command" else entry.way
