"""The log: lines on standard error, for people or as JSON.

What never stands in it: anything a client sent, and the message of a fault, which may quote it. Of a fault there is its class and
where in the code it came from; of what a library says, only where it said so.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

from settings import Settings

_faults = logging.getLogger("mayfly.faults")


def log_to_stderr(settings: Settings) -> None:
    """Write the log in the form and from the level that the settings name, and warnings of libraries unless somebody else does."""
    logger, libraries = logging.getLogger("mayfly"), logging.getLogger()
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonLines() if settings.log_format == "json" else _TextLines())
        logger.addHandler(handler)
        logger.propagate = False
        if not libraries.handlers:
            libraries.addHandler(handler)
    logger.setLevel(settings.log_level)


def log_fault(fault: BaseException) -> None:
    """Log what kind of fault it is and where it came from."""
    fields = _fault(fault)
    _faults.error("%s at %s", fields["fault"], " < ".join(fields["at"]), extra={"fields": fields})


class _JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, and either `event` with its fields or `message`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        if not _is_ours(record):
            return json.dumps(line | _library(record))
        return json.dumps(line | getattr(record, "fields", {"message": record.getMessage()}))


class _TextLines(logging.Formatter):
    """Time, level, logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        if _is_ours(record):
            message = " ".join(record.getMessage().splitlines())
        else:
            fields = _library(record)
            message = f"{fields['fault']} at {' < '.join(fields['at'])}"
        return f"{self.formatTime(record)} {record.levelname} {record.name} {message}"


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == "mayfly"


def _library(record: logging.LogRecord) -> dict[str, Any]:
    fault = record.exc_info and record.exc_info[1]
    return (
        _fault(fault)
        if fault
        else {"event": "fault", "fault": record.levelname.lower(), "at": [f"{record.pathname}:{record.lineno}"]}
    )


def _fault(fault: BaseException) -> dict[str, Any]:
    frames = reversed(traceback.extract_tb(fault.__traceback__))
    at = [f"{frame.filename}:{frame.lineno}" for frame in frames]
    return {"event": "fault", "fault": type(fault).__name__, "at": at}
