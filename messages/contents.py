"""What is sealed: a line of JSON that says what it is, then the message in UTF-8, then its rendering.

Beside it, where a message is not for everyone or is a record, stand its terms as JSON.
"""

from __future__ import annotations

import json

from errors import Damaged
from records import EVERYONE, Audience, Content, Draft, Policy, Role

NOTHING = "{}"


def is_nothing(content: Content) -> bool:
    """Whether it is a record of which a reader sees no field."""
    return content.format == "record" and content.message == NOTHING


def fields_seen(content: Content) -> str:
    """What the audit is told of a record: how many fields a reader sees whole and masked, and their names, never a value.

    The names stand in quotes, as JSON, so that none can be taken for several. Of all that is no record there is nothing to tell.
    """
    if content.format != "record":
        return ""
    whole = [name for name in json.loads(content.message) if name not in content.masked]
    lists = [
        f"{label}: {', '.join(json.dumps(name, ensure_ascii=False) for name in names)}"
        for label, names in (("whole", whole), ("masked", content.masked))
        if names
    ]
    return "; ".join((f"{len(whole)} whole, {len(content.masked)} masked", *lists))


def encode_terms(draft: Draft) -> bytes:
    """What stands beside the content of a message that is not for everyone, or is a record; nothing beside others."""
    if draft.audience == EVERYONE and draft.policy is None:
        return b""
    audience = draft.audience
    who = "everyone" if audience.everyone else {"roles": sorted(audience.roles), "accounts": sorted(audience.accounts)}
    return json.dumps({"audience": who, "policy": draft.policy}, ensure_ascii=False).encode()


def decode_terms(terms: bytes) -> tuple[Audience, Policy | None]:
    """Who a message is for, and what of a record they see."""
    document = json.loads(terms)
    who, policy = document["audience"], document["policy"]
    if who == "everyone":
        return EVERYONE, policy
    return Audience(False, frozenset(map(Role, who["roles"])), frozenset(who["accounts"])), policy


def encode(content: Content) -> bytes:
    """What is sealed of a message."""
    message = content.message.encode()
    if content.format != "markdown":
        return b'{"format":"%b"}\n' % content.format.encode() + message
    head = {"format": content.format, "message_bytes": len(message)}
    return json.dumps(head).encode() + b"\n" + message + content.html.encode()


_TEXT = b'{"format":"text"}'


def decode(content: bytes, policy: Policy | None = None) -> Content:
    """The same, unsealed; `policy` is what stood beside it. Raises Damaged."""
    head_line, _, rest = content.partition(b"\n")
    if head_line == _TEXT:  # nearly every message, so that its head is not parsed
        return Content(rest.decode(), "text")
    head = json.loads(head_line)
    if head["format"] in ("text", "document"):
        return Content(rest.decode(), head["format"])
    if head["format"] == "markdown":
        split = head["message_bytes"]
        return Content(rest[:split].decode(), "markdown", rest[split:].decode())
    if head["format"] == "record":
        return Content(rest.decode(), "record", policy=policy)
    raise Damaged
