"""What the access store asks of the database beneath it, be it SQLite or one on the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from records import Millis

_T = TypeVar("_T")


class AccessSession(Protocol):
    """A connection for one call. Each statement is a transaction of its own, but within `transaction`."""

    def one(self, statement: Any, **values: Any) -> Any:
        """The first row of the answer, or None."""

    def all(self, statement: Any, **values: Any) -> Sequence[Any]:
        """All rows of the answer."""

    def changed(self, statement: Any, **values: Any) -> int:
        """How many rows the statement found and wrote."""

    def unless_there(self, statement: Any, **values: Any) -> bool:
        """Run a statement; False if it was to write what may be there once only, and is."""

    def transaction(self) -> AbstractContextManager[None]:
        """What happens in here happens whole or not at all."""


class AccessDatabase(Protocol):
    """A database in which `storage.access_schema` has made its tables."""

    def now(self) -> Millis: ...

    def sql(self, text: str) -> Any:
        """A statement with named parameters, `{now}` for the time, and `{lock}` for what locks the rows that are selected."""

    def do(self, act: Callable[[AccessSession], _T]) -> _T:
        """Do something within the time a call may take, again if others were in the way and nothing was done.

        Raises StoreFailed, and what `act` raises.
        """

    def overwrite(self) -> None:
        """Bring what was deleted out of all that keeps a copy, where the engine can be told to."""

    def close(self) -> None: ...


def is_text(value: object) -> bool:
    """Whether this can be what was written as text. What somebody sent may hold what a database refuses, which is no outage."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_of(value: str | bytes) -> str:
    """The text of a column: MySQL keeps it as bytes. What is no UTF-8, somebody else wrote: it must be found, and stop nothing."""
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")
