"""What is done in all vaults at once: asking them, taking a message down, purging."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import crypto
from errors import StoreFailed
from messages import LINK_ID, Vault
from messages.purging import purge
from records import NOBODY, Actor

_T = TypeVar("_T")


def ask_each(vaults: Sequence[Vault], ask: Callable[[Vault], _T]) -> list[_T | None]:
    """What each vault answers; None for one whose store does not.

    They are asked at the same time, each in a thread: one that hangs takes no time from the others.
    """

    def answer_of(vault: Vault) -> _T | None:
        try:
            return ask(vault)
        except StoreFailed:
            return None

    with ThreadPoolExecutor(len(vaults)) as threads:
        return list(threads.map(answer_of, vaults))


def take_down(vaults: Sequence[Vault], link: str, actor: Actor = NOBODY) -> bool:
    """Destroy the message of a link, in whichever vault it is, as the admin asks. False if there was none.

    Raises StoreFailed if it may be in a vault that does not answer, AuditFailed.
    """
    found = LINK_ID.search(link)
    if found is None:
        return False
    row_id = crypto.row_id(uuid.UUID(found[0]).bytes)
    taken = ask_each(vaults, lambda vault: vault.take_down(row_id, actor))
    if None in taken and True not in taken:
        raise StoreFailed
    return True in taken


def purge_all(vaults: Sequence[Vault]) -> int:
    """Purge every vault and return how many messages went. Raises StoreFailed, when the others are done, if one does not answer."""
    bodies = ask_each(vaults, lambda vault: purge(vault.store, vault.metrics))
    if None in bodies:
        raise StoreFailed
    return sum(filter(None, bodies))
