"""What only messages to people who sign in have: an audience, and records with a policy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from errors import FieldRefused
from fields import EMAIL, ROLE, UUID, Line
from records import EVERYONE, RULES, Audience, Policy, Role

MAX_AUDIENCE = 50
MAX_RECORD_FIELDS = 50
MAX_POLICY_ROLES = 20
MAX_POLICY_BYTES = 32 * 1024
"""Of a policy as it is stored. With an audience of 50 it leaves room in what an envelope may be longer than its message."""

_NAME = Line(64)
_MEMBER = f"(?:role:{ROLE}|account:(?:{EMAIL}|{UUID}))"
_BETWEEN = re.compile(r"[,\s]+")


@dataclass(frozen=True, slots=True)
class AudienceOf:
    """`everyone`, or who: a list, or text with commas or spaces between, of role:NAME and account:EMAIL (or the account's id).

    An empty one is refused: taken for everyone it would open what was meant to be closed.
    """

    def read(self, name: str, value: object) -> Audience:
        members = [part for part in _BETWEEN.split(value) if part] if isinstance(value, str) else value
        if members in (["everyone"], "everyone"):
            return EVERYONE
        if not isinstance(members, list) or not 1 <= len(members) <= MAX_AUDIENCE or not all(map(_is_member, members)):
            raise FieldRefused(
                name,
                "audience is everyone, or up to %(most)s of role:NAME and account:EMAIL, with commas between them or as a list.",
                most=MAX_AUDIENCE,
            )
        kinds = [member.split(":", 1) for member in members]
        return Audience(
            everyone=False,
            roles=frozenset(Role(who) for kind, who in kinds if kind == "role"),
            accounts=frozenset(who.lower() for kind, who in kinds if kind == "account"),
        )

    def schema(self) -> dict[str, Any]:
        text = f"^(?:everyone|{_MEMBER}(?:[, ]+{_MEMBER}){{0,{MAX_AUDIENCE - 1}}})$"
        members = {"type": "string", "pattern": f"^{_MEMBER}$"}
        return {
            "anyOf": [
                {"type": "string", "pattern": text},
                {"type": "array", "items": members, "minItems": 1, "maxItems": MAX_AUDIENCE},
            ]
        }


@dataclass(frozen=True, slots=True)
class Record:
    """Named texts, in their order: an object, or JSON of one as forms send it. Returned as JSON."""

    def read(self, name: str, value: object) -> str:
        fields = _object(name, value)
        if not 1 <= len(fields) <= MAX_RECORD_FIELDS:
            raise FieldRefused(name, "A record has 1 to %(most)s fields.", most=MAX_RECORD_FIELDS)
        for field, text in fields.items():
            _check_name(name, field)
            if not isinstance(text, str):
                raise FieldRefused(name, "The message of a record is a JSON object whose values are all texts.")
            if "\x00" in text:
                raise FieldRefused(name, "The message holds a NUL character, which text cannot.")
        return _json(name, fields)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": _NAME.schema(),
            "additionalProperties": {"type": "string", "pattern": "^[^\\u0000]*$"},
            "minProperties": 1,
            "maxProperties": MAX_RECORD_FIELDS,
        }


@dataclass(frozen=True, slots=True)
class PolicyOf:
    """For each role which field it sees, and how: an object of objects, or JSON of one as forms send it."""

    def read(self, name: str, value: object) -> Policy:
        policy = _object(name, value)
        if len(policy) > MAX_POLICY_ROLES:
            raise FieldRefused(name, "A policy has at most %(most)s roles.", most=MAX_POLICY_ROLES)
        for role, rules in policy.items():
            if not re.fullmatch(ROLE, role) or not isinstance(rules, dict):
                _refuse_policy(name)
            for field, rule in rules.items():
                _check_name(name, field)
                if not isinstance(rule, str) or rule not in RULES:
                    _refuse_policy(name)
        if not any(rule != "hide" for rules in policy.values() for rule in rules.values()):
            raise FieldRefused(name, "This policy shows nothing to anybody.")
        if len(_json(name, policy).encode()) > MAX_POLICY_BYTES:
            raise FieldRefused(name, "A policy is at most %(most)s bytes of JSON.", most=MAX_POLICY_BYTES)
        return {Role(role): rules for role, rules in policy.items()}

    def schema(self) -> dict[str, Any]:
        rules = {"type": "object", "propertyNames": _NAME.schema(), "additionalProperties": {"enum": list(RULES)}}
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{ROLE}$"},
            "additionalProperties": rules,
            "minProperties": 1,
            "maxProperties": MAX_POLICY_ROLES,
        }


def _is_member(member: object) -> bool:
    return isinstance(member, str) and re.fullmatch(_MEMBER, member) is not None


def _refuse_policy(name: str) -> NoReturn:
    raise FieldRefused(name, 'policy is a JSON object of roles, and for each an object of fields: "show", "mask" or "hide".')


def _check_name(name: str, field: str) -> None:
    try:
        _NAME.read(name, field)
    except FieldRefused:
        raise FieldRefused(name, "The name of a field has 1 to %(most)s characters that can be seen.", most=_NAME.most) from None


def _object(name: str, value: object) -> dict[str, Any]:
    """A JSON object, given as such or as its text. A name that is there twice is refused: which of the two holds?"""
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=lambda pairs: _without_repeats(name, pairs))
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise FieldRefused(name, "%(name)s must be a JSON object, or the text of one.", name=name)
    return value


def _without_repeats(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise FieldRefused(name, "A field is there twice.")
    return found


def _json(name: str, value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldRefused(name, "%(name)s holds half of a surrogate pair, which is no character.", name=name) from None
    return text
