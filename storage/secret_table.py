"""The secrets of this server, sealed under its key file, in a table of a store."""

from __future__ import annotations

from records import Millis
from storage.access_session import AccessDatabase, text_of


class SecretTable:
    """The part of a store that keeps secrets, in `table`."""

    def __init__(self, database: AccessDatabase, table: str) -> None:
        self._database = database
        sql = database.sql
        self._secrets = sql(f"SELECT name, made_at, sealed FROM {table} ORDER BY made_at, name")
        self._add_secret = sql(f"INSERT INTO {table} (name, made_at, sealed) VALUES (:name, {{now}}, :sealed)")
        self._replace_secret = sql(f"UPDATE {table} SET sealed = :sealed WHERE name = :name AND sealed = :old")
        self._remove_secret = sql(f"DELETE FROM {table} WHERE name = :name")

    def secrets(self, prefix: str) -> dict[str, tuple[Millis, bytes]]:
        found = self._database.do(lambda session: session.all(self._secrets))
        named = {text_of(name): (Millis(made_at), bytes(sealed)) for name, made_at, sealed in found}
        return {name: secret for name, secret in named.items() if name.startswith(prefix)}

    def add_secret(self, name: str, sealed: bytes) -> bool:
        return self._database.do(lambda session: session.unless_there(self._add_secret, name=name, sealed=sealed))

    def replace_secret(self, name: str, old: bytes, sealed: bytes) -> bool:
        return self._database.do(lambda session: session.changed(self._replace_secret, name=name, old=old, sealed=sealed)) > 0

    def remove_secret(self, name: str) -> None:
        self._database.do(lambda session: session.changed(self._remove_secret, name=name))
