"""Whether somebody is one of those whom a message is for. Pure: what the account is was looked up for this request."""

from __future__ import annotations

from records import Actor, Audience


def admits(actor: Actor, audience: Audience) -> bool:
    """Whether `actor` may open a message for `audience`, having its link.

    Nobody is anybody: an actor without an account, or with one that is disabled or lacks its id or address, is in no audience, and
    no empty role or name is anyone's.
    """
    account = actor.account
    if account is None or not (account.enabled and account.id and account.email):
        return False
    if audience.everyone:
        return True
    roles = {role for role in account.roles if role}
    return not roles.isdisjoint(audience.roles) or not audience.accounts.isdisjoint((account.id.lower(), account.email.lower()))
