"""What a reader sees of a record, by their roles. Pure, and closed: what no rule opens is not there."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from records import RULES, Actor, Content, Policy, Role, Rule

HIDDEN = "••••"
"""What stands for all that is hidden of a value, however much that is."""
_SHOWN_OF_MASKED = 4
"""The characters at its end by which a card is told from another, as receipts print them (PCI DSS 3.4.1 allows more)."""


def redact(fields: Mapping[str, str], policy: Policy, roles: Collection[Role]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What somebody with these roles sees of a record: the fields that are left, and the names of those that are masked.

    The most open rule of several roles holds. A field without a rule is hidden, and its name with it.
    """
    rules = {name: _rule(name, policy, roles) for name in fields}
    seen = {name: mask(text) if rules[name] == "mask" else text for name, text in fields.items() if rules[name] != "hide"}
    return seen, tuple(name for name in seen if rules[name] == "mask")


def mask(text: str) -> str:
    """A value of which only the last four characters are shown, and these only if at least as many are hidden."""
    return HIDDEN + (text[-_SHOWN_OF_MASKED:] if len(text) >= 2 * _SHOWN_OF_MASKED else "")


def redacted(content: Content, actor: Actor) -> Content:
    """What `actor` sees of a message: of a record what its policy gives them, of any other all."""
    if content.format != "record":
        return content
    seen, masked = redact(json.loads(content.message), content.policy or {}, actor.roles)
    return Content(json.dumps(seen, ensure_ascii=False, separators=(",", ":")), "record", masked=masked)


def _rule(name: str, policy: Policy, roles: Collection[Role]) -> Rule:
    of_roles = {policy.get(role, {}).get(name) for role in roles if role}
    return next((rule for rule in RULES if rule in of_roles), "hide")
