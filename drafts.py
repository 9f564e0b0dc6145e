"""What a request to create a message must look like: named fields, checked, become a `Draft`.

Where the fields came from (a form, JSON, the command line) is not known here, and nothing is stored or encrypted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from errors import FieldRefused
from fields import Choice, Field, Flag, Model, Text, Whole
from fields.documents import Document, Proof
from fields.guarded import AudienceOf, PolicyOf, Record
from records import EVERYONE, MAX_LIFETIME_SECONDS, MAX_VIEWS, MIN_LIFETIME_SECONDS, Draft, VaultName

MAX_PASSPHRASE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class _Message:
    """`Vault` looks at the rest, whatever room a message comes from."""

    def read(self, name: str, value: object) -> str:
        return Text().read(name, value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[^\\u0000]+$"}


@dataclass(frozen=True, slots=True)
class _Passphrase:
    def read(self, name: str, value: object) -> str | None:
        if value is None:
            return None
        text = Text().read(name, value)
        if not 1 <= len(text.encode()) <= MAX_PASSPHRASE_BYTES:
            raise FieldRefused(
                name, "A passphrase has 1 to %(most)s bytes; leave the field out for none.", most=MAX_PASSPHRASE_BYTES
            )
        return text

    def schema(self) -> dict[str, Any]:
        # JSON Schema counts characters: of those with more than one byte fewer are taken.
        return {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_PASSPHRASE_BYTES}


def _not_encoded(known: str) -> FieldRefused:
    # The name is not told: of a form that was not encoded it may be a piece of the message.
    return FieldRefused(
        "",
        "There is a field that is not known; known are %(known)s. Is the message encoded? (curl: --data-urlencode message=…)",
        known=known,
    )


def _not_beside_a_document(known: str) -> FieldRefused:
    return FieldRefused("", "A document goes with these fields and no others: %(known)s.", known=known)


_EXPIRES_IN = Field(
    "expires_in",
    Whole(MIN_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS),
    "Seconds until the message is destroyed. The sealed vault may take fewer, by MAYFLY_SEALED_SECONDS, which then is the default.",
    MAX_LIFETIME_SECONDS,
)
_VIEWS = Field("views", Whole(1, MAX_VIEWS), "How many times it can be opened; without it, any number of times until it expires.")
_PASSPHRASE = Field("passphrase", _Passphrase(), "What readers must know beside the link. Five wrong tries destroy the message.")
_MESSAGE = Field("message", _Message(), "The message: not empty, without NUL.", required=True)
_FORMAT = Field("format", Choice(("text", "markdown")), "How it is shown.", "text")
_AUDIENCE = Field("audience", AudienceOf(), "Who may open it: everyone who is signed in, or these roles and accounts.", EVERYONE)

_OF_DOCUMENTS = (
    Field("document", Document(), "The message as its sender encrypted it, in PrivateBin's format, version 2.", required=True),
    Field("proof", Proof(), "Derived from the link's fragment: it opens only for who shows the same.", required=True),
    Field("needs_passphrase", Flag(), "Whether wrong proofs count as tries.", default=False),
    _EXPIRES_IN,
    _VIEWS,
)

MESSAGE = Model(_MESSAGE, _EXPIRES_IN, _VIEWS, _PASSPHRASE, _FORMAT, unknown=_not_encoded)
DOCUMENT = Model(*_OF_DOCUMENTS, unknown=_not_beside_a_document)
GUARDED_MESSAGE = Model(_MESSAGE, _EXPIRES_IN, _VIEWS, _PASSPHRASE, _FORMAT, _AUDIENCE, unknown=_not_encoded)
GUARDED_DOCUMENT = Model(*_OF_DOCUMENTS, _AUDIENCE, unknown=_not_beside_a_document)
RECORD = Model(
    Field("message", Record(), "Named texts.", required=True),
    _EXPIRES_IN,
    _VIEWS,
    _PASSPHRASE,
    Field("format", Choice(("record",)), "Each reader is shown what the policy gives them.", required=True),
    _AUDIENCE,
    Field(
        "policy", PolicyOf(), "For each role, which field it sees: show, mask or hide. What is not there is hidden.", required=True
    ),
    unknown=_not_encoded,
)

FIELDS, DOCUMENT_FIELDS = MESSAGE.names, DOCUMENT.names
GUARDED_FIELDS = RECORD.names - FIELDS


def models_of(vault: VaultName) -> tuple[Model, ...]:
    """What a request to create a message in a vault may be."""
    return (MESSAGE, DOCUMENT) if vault == "open" else (GUARDED_MESSAGE, RECORD, GUARDED_DOCUMENT)


def read_draft(fields: dict[str, object], vault: VaultName = "open", most_seconds: int = MAX_LIFETIME_SECONDS) -> Draft:
    """Check the fields of a request to create a message in `vault`, named as in the HTTP contract, and return them as a Draft.

    Numbers may come as JSON numbers or as text. A message lives `most_seconds` unless it says less. Raises FieldRefused for an
    unknown, missing or wrong field.
    """
    if fields.get("expires_in") in (None, ""):
        fields = {**fields, "expires_in": most_seconds}
    draft = _read_draft(fields, vault)
    Whole(MIN_LIFETIME_SECONDS, most_seconds).read("expires_in", draft.expires_in)
    return draft


def _read_draft(fields: dict[str, object], vault: VaultName) -> Draft:
    is_record = fields.get("format") == "record"
    if vault == "open":
        if is_record or not GUARDED_FIELDS.isdisjoint(fields):
            name = "format" if is_record else min(GUARDED_FIELDS.intersection(fields))
            raise FieldRefused(name, "An audience and records are for the guarded and the sealed vault, whose readers sign in.")
        return Draft(**(DOCUMENT if "document" in fields else MESSAGE).read(fields))
    if "document" in fields:
        if is_record or "policy" in fields:
            raise FieldRefused("format", "A record cannot be encrypted end to end: the server has to see what it hides.")
        return Draft(**GUARDED_DOCUMENT.read(fields))
    if is_record:
        return _of_record(RECORD.read(fields))
    if "policy" in fields:
        raise FieldRefused("policy", "A policy is for records: say format=record.")
    return Draft(**GUARDED_MESSAGE.read(fields))


def _of_record(values: dict[str, Any]) -> Draft:
    """Refuse a policy for fields that the record has not: one letter mistyped, and a field is hidden for no reason told."""
    named = {field for rules in values["policy"].values() for field in rules}
    if not named <= json.loads(values["message"]).keys():
        raise FieldRefused("policy", "The policy names a field that the record does not have.")
    return Draft(**values)


def read_passphrase(value: object) -> str | None:
    """Check a passphrase: None, or 1 to 1024 bytes of UTF-8. Raises FieldRefused."""
    return _PASSPHRASE.kind.read("passphrase", value)


def read_proof(value: object) -> str | None:
    """Check a proof: None, or 32 bytes as base64url without padding. Raises FieldRefused."""
    return Proof().read("proof", value)
