"""What the fields of a request may hold. Each kind checks a value (`read`) and says what it takes as JSON Schema (`schema`).

A `Model` is a table of named fields. Requests are checked by it and the API's document is made from it, so that what is described
is what holds. Where fields come from (a form, JSON, the command line) is not known here, and nothing is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from errors import FieldRefused

Value = TypeVar("Value")
_Value_co = TypeVar("_Value_co", covariant=True)

EMAIL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?![A-Za-z0-9.-]*\.\.)[A-Za-z0-9](?:[A-Za-z0-9.-]{0,187}[A-Za-z0-9])?"
"""An e-mail address that everybody writes alike: ASCII, at most 254 characters, without quotes or comments."""
ROLE = "[a-z][a-z0-9-]{0,31}"
UUID = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_UNSEEN = r"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
"""Controls, ends of lines, and what turns the direction of writing: with them one line could be taken for another."""
_LINE = rf"[^\s{_UNSEEN}](?:[^{_UNSEEN}]*[^\s{_UNSEEN}])?"
_SEPARATORS = re.compile(r"[,\s]+")


class Kind(Protocol[_Value_co]):
    """What a field may hold."""

    def read(self, name: str, value: object) -> _Value_co | None:
        """Check what came for the field `name`; None if that is as good as nothing. Raises FieldRefused."""

    def schema(self) -> dict[str, Any]:
        """What is taken, as JSON Schema (2020-12)."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text of `least` to `most` characters; without `most` as long as a body may be."""

    least: int = 0
    most: int | None = None

    def read(self, name: str, value: object) -> str:
        text = _text(name, value)
        if self.most is not None and not self.least <= len(text) <= self.most:
            raise FieldRefused(name, "%(name)s has %(least)s to %(most)s characters.", name=name, least=self.least, most=self.most)
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": self.least, **({"maxLength": self.most} if self.most else {})}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of 1 to `most` characters, without what cannot be seen and without space at its ends."""

    most: int

    def read(self, name: str, value: object) -> str:
        text = _text(name, value)
        if len(text) > self.most or not re.fullmatch(_LINE, text):
            raise FieldRefused(
                name, "%(name)s is one line of 1 to %(most)s characters that can be seen.", name=name, most=self.most
            )
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": self.most, "pattern": f"^{_LINE}$"}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `low` to `high`, as a number or as digits; empty text is none."""

    low: int
    high: int

    def read(self, name: str, value: object) -> int | None:
        if value is None or value == "":
            return None
        if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise FieldRefused(
                name, "%(name)s must be a whole number from %(low)s to %(high)s.", name=name, low=self.low, high=self.high
            )
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": ["integer", "null"], "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, name: str, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise FieldRefused(name, "%(name)s must be one of these: %(words)s.", name=name, words=", ".join(self.words))
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, name: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise FieldRefused(name, "%(name)s must be true or false.", name=name)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Email:
    """An e-mail address, in lower case whatever was typed."""

    def read(self, name: str, value: object) -> str:
        # Only of ASCII is the lower case what everybody takes for it: that of the sign for kelvin is a k.
        if not isinstance(value, str) or not re.fullmatch(EMAIL, value):
            raise FieldRefused(name, "%(name)s must be an e-mail address.", name=name)
        return value.lower()

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{EMAIL}$"}


@dataclass(frozen=True, slots=True)
class RoleName:
    """The name of a role."""

    def read(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(ROLE, value):
            raise FieldRefused(name, "The name of a role has 1 to 32 of the characters a-z 0-9 and -, a letter first.")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{ROLE}$"}


@dataclass(frozen=True, slots=True)
class Each(Generic[Value]):
    """Up to `most` of a kind: a list, or text in which commas or spaces stand between them, as forms send it."""

    kind: Kind[Value]
    most: int

    def read(self, name: str, value: object) -> tuple[Value, ...]:
        if isinstance(value, str):
            value = [part for part in _SEPARATORS.split(value) if part]
        if not isinstance(value, list) or len(value) > self.most:
            raise FieldRefused(name, "%(name)s must be a list of at most %(most)s.", name=name, most=self.most)
        read = (self.kind.read(name, item) for item in value)
        return tuple(item for item in read if item is not None)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.kind.schema(), "maxItems": self.most}


@dataclass(frozen=True, slots=True)
class Field(Generic[Value]):
    """A named field. Where it is absent, or as good as that, it holds `default`; `help` says what it is for."""

    name: str
    kind: Kind[Value]
    help: str
    default: Value | None = None
    required: bool = False

    def schema(self) -> dict[str, Any]:
        default = {"default": self.default} if isinstance(self.default, (str, int)) else {}
        return {**self.kind.schema(), "description": self.help, **default}


def not_known(known: str) -> FieldRefused:
    """The refusal of a field that a model does not have, with the names of those it has. Its own name is not told."""
    return FieldRefused("", "There is a field that is not known; known are %(known)s.", known=known)


class Model:
    """What a request may say: these fields and no others."""

    def __init__(self, *fields: Field[Any], unknown: Callable[[str], FieldRefused] = not_known) -> None:
        """`unknown` makes the refusal of a field that is not among them, from the names of those that are."""
        self.fields = {field.name: field for field in fields}
        self.names = frozenset(self.fields)
        self._defaults = {field.name: field.default for field in fields}
        self._required = tuple(field.name for field in fields if field.required)
        self._unknown = unknown

    def read(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Check what was given, and return the value of each field.

        Raises FieldRefused for an unknown, missing or wrong one.
        """
        if not self.names.issuperset(given):
            raise self._unknown(", ".join(self.fields))
        values = self._defaults.copy()
        for name, value in given.items():
            found = self.fields[name].kind.read(name, value)
            if found is not None:
                values[name] = found
        for name in self._required:
            if values[name] is None:
                raise FieldRefused(name, "The field %(name)s is missing.", name=name)
        return values

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema."""
        return {
            "type": "object",
            "properties": {name: field.schema() for name, field in self.fields.items()},
            "required": list(self._required),
            "additionalProperties": False,
        }


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise FieldRefused(name, "%(name)s must be text.", name=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldRefused(name, "%(name)s holds half of a surrogate pair, which is no character.", name=name) from None
    return value
