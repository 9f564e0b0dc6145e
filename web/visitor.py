"""Who looks at a page, as far as its top should know: where it leads, and whether it offers to sign in or out.

Nothing here asks the accounts' database. Where a route does not ask who somebody is, the session's cookie tells that there is one,
and its holder is offered what every account has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from records import EVERY_ACCOUNT, Actor, Scope

ACTOR = "mayfly.actor"
"""Where in environ the actor stands, once a route has asked who that is."""
OFFERS = "mayfly.offers"
"""Where in environ the gate leaves what this server has: `accounts`, `certificates`, and `guarded` messages to write."""
SESSION_COOKIE = ("mayfly-session", "__Host-mayfly")
"""The names of a session's cookie where browsers come by http, and by https."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """`path` is the page they are on; `scopes` is what they may do, None if nobody is signed in."""

    path: str = ""
    offers: frozenset[str] = frozenset()
    scopes: frozenset[Scope] | None = None


NOBODY = Visitor()


def visitor_of(environ: dict[str, Any]) -> Visitor:
    """Who looks at the page that answers this request."""
    offers: frozenset[str] = environ.get(OFFERS, frozenset())
    if "accounts" not in offers:
        return NOBODY
    actor: Actor | None = environ.get(ACTOR)
    if actor and actor.account:
        scopes: frozenset[Scope] | None = actor.scopes
    else:
        cookies = environ.get("HTTP_COOKIE", "")
        scopes = EVERY_ACCOUNT if any(f"{name}=" in cookies for name in SESSION_COOKIE) else None
    return Visitor(environ["PATH_INFO"], offers, scopes)
