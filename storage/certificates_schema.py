"""The tables of certificates, and of what webhooks are told of them, on every engine."""

from __future__ import annotations

from storage.access_schema import Migrations, Schema, Types, only_row_of, table_maker


def _migrations(types: Types) -> Migrations:
    name, text, digest, blob, number = types.name, types.text, types.digest, types.blob, types.number
    table = table_maker(types)
    return (
        (
            *table(
                "mayfly_issuers",
                f"id {name} NOT NULL PRIMARY KEY, certificate {blob} NOT NULL, chain {blob} NOT NULL, "
                f"created_at {number} NOT NULL, expires_at {number} NOT NULL, changes {number} NOT NULL, "
                f"crl {types.large}, crl_number {number} NOT NULL, crl_changes {number} NOT NULL, crl_at {number} NOT NULL",
            ),
            *table(
                "mayfly_certificate_secrets", f"name {name} NOT NULL PRIMARY KEY, made_at {number} NOT NULL, sealed {blob} NOT NULL"
            ),
            *table(
                "mayfly_certificates",
                f"id {name} NOT NULL PRIMARY KEY, account {name} NOT NULL, email {name} NOT NULL, serial {name} NOT NULL UNIQUE, "
                f"issuer {name} NOT NULL, digest {digest} NOT NULL UNIQUE, der {blob} NOT NULL, created_at {number} NOT NULL, "
                f"begins_at {number} NOT NULL, expires_at {number} NOT NULL, state {name} NOT NULL, changed_at {number} NOT NULL, "
                f"reason {name} NOT NULL, replaces {name}, superseded_at {number}, warned_days {number}",
                "account, created_at",
                "issuer, state",
                "expires_at",
            ),
            *table(
                "mayfly_hooks",
                f"id {name} NOT NULL PRIMARY KEY, url {text} NOT NULL, events {text} NOT NULL, enabled {number} NOT NULL, "
                f"created_at {number} NOT NULL",
            ),
            # One row: the number of the newest delivery. Who adds some locks it, so that numbers rise as they are committed.
            *table("mayfly_deliveries_made", f"slot {number} NOT NULL PRIMARY KEY, newest {number} NOT NULL"),
            only_row_of("mayfly_deliveries_made", "slot, newest", "n, n"),
            *table(
                "mayfly_deliveries",
                f"number {number} NOT NULL PRIMARY KEY, hook {name} NOT NULL, notice {name} NOT NULL, subject {name} NOT NULL, "
                f"type {name} NOT NULL, payload {text} NOT NULL, created_at {number} NOT NULL, not_before {number} NOT NULL, "
                f"attempts {number} NOT NULL, state {name} NOT NULL, answer {text} NOT NULL, answered_at {number}",
                "hook, subject, number",
                "state, not_before",
            ),
        ),
    )


CERTIFICATES = Schema(0x4D614365, "mayfly_certificates_schema", _migrations)  # "MaCe"
