"""What each route takes and answers, as data: the API's document and its page are made from it.

Here are the words that descriptions are written in. What the routes are stands in `messages`, `people`, `certificates`, `webhooks`
and `service`; `document` joins them with the URL map. Fields of requests are those that requests are checked by (`fields.Model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from errors import MayflyError
from fields import Model

Schema = dict[str, Any]
"""JSON Schema, 2020-12."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something in the path or a header. `example` stands in every example for it."""

    help: str
    example: str
    schema: Schema = field(default_factory=lambda: {"type": "string"})
    required: bool = True


@dataclass(frozen=True, slots=True)
class Taken:
    """What a request's body may be: names of schemas, any one of which it must meet.

    Forms come in both of their types. With `text` it may be the message alone as text/plain, with all else in the query.
    """

    json: tuple[str, ...] = ()
    form: tuple[str, ...] = ()
    text: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True)
class Told:
    """What one status of success means, and as what it is told. `json` names schemas, one of which it meets; `other` are types."""

    what: str
    json: tuple[str, ...] = ()
    text: bool = False
    page: bool = False
    other: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A request and its answer: JSON, text, or None for a page and for nothing. Ids, tokens and times stand for others."""

    what: str
    status: int = 200
    body: Mapping[str, Any] | str | None = None
    sent_as: Literal["json", "form", "multipart", "text"] = "json"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Mapping[str, Any] | str | None = None
    page: bool = False


@dataclass(frozen=True, slots=True)
class Described:
    """A route. Beside `refuses` it may answer what its need and the gate refuse."""

    name: str
    what: str
    told: Mapping[int, Told]
    examples: tuple[Example, ...]
    takes: Taken | None = None
    path: Mapping[str, Parameter] = field(default_factory=dict)
    query: Model | None = None
    headers: Mapping[str, Parameter] = field(default_factory=dict)
    refuses: tuple[type[MayflyError], ...] = ()
    language: bool = False
    """Whether it answers pages, in the language that `lang` in the query names."""
