"""The tables of accounts and the audit, which are the same on every engine but for the names of their types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Types:
    """How an engine calls what a column holds."""

    name: str
    """Text of up to 255 characters that is looked for: it equals nothing but itself, to the last space."""
    text: str
    digest: str
    blob: str
    large: str
    """A blob that may be over 64 KiB."""
    number: str
    ending: str = ""
    """What stands behind the columns of a table."""
    by_time: tuple[str, ...] = ("at",)
    """The index by which entries between two moments are found, other than by going back to them from the newest."""
    indexes_within: bool = False
    """Whether a table's indexes are made with it, as whoever cannot take back a change of the schema must be able to repeat it."""


Migrations = tuple[tuple[str, ...], ...]
"""The steps of each migration, numbered from 1, which may be done again from the first one on."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of a store. `application_id` marks a SQLite file of theirs; the table `versions` knows the migrations done."""

    application_id: int
    versions: str
    migrations: Callable[[Types], Migrations]


# SQLite has no statistics: it would go by the time also where all entries are asked for, and sort a million to show the newest
# hundred (0.9 s). To go back through a million takes it 0.2 s.
SQLITE = Types("TEXT", "TEXT", "BLOB", "BLOB", "BLOB", "INTEGER", by_time=())
POSTGRESQL = Types("TEXT", "TEXT", "BYTEA", "BYTEA", "BYTEA", "BIGINT")
# Text is bytes here: to a collation of both MySQL's and MariaDB's, `a` and `a ` are the same.
MYSQL = Types(
    "VARBINARY(1020)",
    "BLOB",
    "VARBINARY(32)",
    "BLOB",
    "MEDIUMBLOB",
    "BIGINT",
    "ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
    indexes_within=True,
)


def table_maker(types: Types) -> Callable[..., tuple[str, ...]]:
    """Makes the statements of a table: `table(title, columns, *indexes)`."""

    def table(title: str, columns: str, *indexes: str) -> tuple[str, ...]:
        named = [(f"{title}_by_{index.partition(',')[0]}", index) for index in indexes]
        if types.indexes_within:
            columns += "".join(f", INDEX {label} ({index})" for label, index in named)
            named = []
        return (
            f"CREATE TABLE IF NOT EXISTS {title} ({columns}) {types.ending}",
            *(f"CREATE INDEX IF NOT EXISTS {label} ON {title} ({index})" for label, index in named),
        )

    return table


def only_row_of(title: str, columns: str, values: str) -> str:
    """The statement that makes the one row of a table, unless it is there."""
    return f"INSERT INTO {title} ({columns}) SELECT {values} FROM (SELECT count(*) AS n FROM {title}) AS rows_so_far WHERE n = 0"


def _migrations(types: Types) -> Migrations:
    name, text, digest, blob, number = types.name, types.text, types.digest, types.blob, types.number
    table = table_maker(types)
    return (
        (
            *table(
                "mayfly_accounts",
                f"id {name} NOT NULL PRIMARY KEY, email {name} NOT NULL UNIQUE, first_name {text} NOT NULL, "
                f"last_name {text} NOT NULL, roles {text} NOT NULL, enabled {number} NOT NULL, created_at {number} NOT NULL, "
                f"changed_at {number} NOT NULL, password {text}, reset_asked_at {number}",
            ),
            *table(
                "mayfly_sessions",
                f"digest {digest} NOT NULL PRIMARY KEY, account {name} NOT NULL, created_at {number} NOT NULL, "
                f"expires_at {number} NOT NULL",
                "account",
                "expires_at",
            ),
            *table(
                "mayfly_api_keys",
                f"id {name} NOT NULL PRIMARY KEY, digest {digest} NOT NULL UNIQUE, account {name} NOT NULL, name {text} NOT NULL, "
                f"scopes {text} NOT NULL, created_at {number} NOT NULL, expires_at {number} NOT NULL, used_at {number}",
                "account",
            ),
            *table(
                "mayfly_links",
                f"account {name} NOT NULL PRIMARY KEY, digest {digest} NOT NULL UNIQUE, expires_at {number} NOT NULL",
            ),
            *table("mayfly_secrets", f"name {name} NOT NULL PRIMARY KEY, made_at {number} NOT NULL, sealed {blob} NOT NULL"),
            # One row: who appends locks it.
            *table("mayfly_audit", f"slot {number} NOT NULL PRIMARY KEY, beginning {blob}"),
            only_row_of("mayfly_audit", "slot", "n"),
            *table(
                "mayfly_entries",
                f"number {number} NOT NULL PRIMARY KEY, at {number} NOT NULL, account {name} NOT NULL, email {name} NOT NULL, "
                f"way {name} NOT NULL, credential {name} NOT NULL, action {name} NOT NULL, outcome {name} NOT NULL, "
                f"vault {name} NOT NULL, target {name} NOT NULL, address {name} NOT NULL, detail {text} NOT NULL, "
                f"mac {digest} NOT NULL",
                *types.by_time,
                *(f"{field}, number" for field in ("account", "email", "action", "outcome", "vault", "target")),
            ),
            *table(
                "mayfly_last_accesses",
                f"account {name} NOT NULL, vault {name} NOT NULL, number {number} NOT NULL, PRIMARY KEY (account, vault)",
            ),
            *table("mayfly_heads", f"number {number} NOT NULL PRIMARY KEY, at {number} NOT NULL, signed {blob} NOT NULL"),
        ),
    )


ACCESS = Schema(0x4D614163, "mayfly_access_schema", _migrations)  # "MaAc"
