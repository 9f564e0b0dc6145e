"""The access store's database on PostgreSQL, MySQL or MariaDB, for servers of several machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from errors import MayflyError, StoreFailed, StoreFull
from records import Millis
from storage.access_schema import ACCESS, MYSQL, POSTGRESQL, Schema
from storage.address import Address
from storage.sql_database import SqlDatabase, engine_of
from storage.sql_session import Session

_T = TypeVar("_T")


class AccessNetwork:
    """An `AccessDatabase` on the network."""

    def __init__(self, address: Address, now: Callable[[], Millis] | None, schema: Schema = ACCESS) -> None:
        """Reach the database at `address`; `now` replaces its clock. Raises StartRefused as `SqlDatabase` does."""
        engine = engine_of(address, now is None)
        types = POSTGRESQL if address.engine == "postgresql" else MYSQL
        self._make = engine.sql
        # A name of its own, so that nothing is mistaken if the database is a vault's by another name.
        self._database = SqlDatabase(address, engine, schema.migrations(types), schema.versions, now)
        self.now = self._database.now
        self.close = self._database.close

    def sql(self, text: str) -> Any:
        return self._make(text.replace("{lock}", "FOR UPDATE"))

    def do(self, act: Callable[[Session], _T]) -> _T:
        def act_or_refuse(session: Session) -> tuple[_T, None] | tuple[None, MayflyError]:
            # What is refused for a reason of ours is an answer, and neither breaks a connection nor opens the circuit.
            try:
                return act(session), None
            except MayflyError as refusal:
                return None, refusal

        try:
            done, refusal = self._database.do(act_or_refuse)
        except StoreFull:
            raise StoreFailed from None
        if refusal:
            raise refusal
        return done  # type: ignore[return-value]

    def overwrite(self) -> None:
        """Nothing: no statement overwrites what a database's files and logs keep of deleted rows (docs/threat-model.md)."""
