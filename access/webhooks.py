"""Webhooks: other systems that are told of certificates, and of messages if they ask for it.

What belongs here: registering them, and signing what they are told, in the form of Standard Webhooks
(https://www.standardwebhooks.com), whose own package signs. How it gets there stands in `access.delivery`. What an admin does is
written to the audit before it is done.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from access.egress import MAX_URL_CHARACTERS, target_of
from audit import Audit
from crypto import key_id_of, seal_secret, unseal_secret
from database import CertificateStore
from errors import Damaged, FieldRefused, NothingThere, WrongState
from fields import Choice, Each, Field, Flag, Model
from keyfile import KeyFile
from records import NOTICE_TYPES, SECOND, Actor, Delivery, DeliveryState, Event, Hook, Millis, Notice, Sealed

MAX_HOOKS = 16
MAX_DELIVERIES = 500
"""The most that somebody who looks gets at once."""
_SECRET_BYTES = 32
_SECRET_PREFIX = "whsec_"  # noqa: S105 - of the form that Standard Webhooks gives a secret


@dataclass(frozen=True, slots=True)
class Url:
    """Where a webhook is: a URL with https, of whose host nothing is known yet. With `private` http will do, and any host."""

    private: bool = False

    def read(self, name: str, value: object) -> str:
        try:
            target_of(value if isinstance(value, str) else "", self.private)
        except ValueError:
            if self.private:
                raise FieldRefused(
                    name,
                    "%(name)s must be a URL with http or https, in ASCII, of at most %(most)s characters.",
                    name=name,
                    most=MAX_URL_CHARACTERS,
                ) from None
            raise FieldRefused(
                name,
                "%(name)s must be a URL with https, in ASCII, of at most %(most)s characters, and not of this machine or a private "
                "network.",
                name=name,
                most=MAX_URL_CHARACTERS,
            ) from None
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "uri", "maxLength": MAX_URL_CHARACTERS}


def new_hook(private: bool = False) -> Model:
    """What registers a webhook."""
    return Model(
        Field("url", Url(private), "Where it is told.", required=True),
        Field("events", Each(Choice(NOTICE_TYPES), len(NOTICE_TYPES)), "Of what it is told.", required=True),
    )


def hook_change(private: bool = False) -> Model:
    """What changes a webhook."""
    return Model(
        Field("url", Url(private), "Where it is told."),
        Field("events", Each(Choice(NOTICE_TYPES), len(NOTICE_TYPES)), "Of what it is told."),
        Field("enabled", Flag(), "Whether it is told. What it was to be told already waits for it."),
    )


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The webhooks of one server. `private` allows addresses that are not of the whole Internet, and http."""

    store: CertificateStore
    keys: KeyFile
    audit: Audit
    private: bool = False

    def all(self) -> list[Hook]:
        """The oldest first."""
        return self.store.hooks()

    def get(self, hook_id: str) -> Hook:
        """Raises NothingThere."""
        found = self.store.hook(hook_id)
        if found is None:
            raise NothingThere
        return found

    def add(self, actor: Actor, given: Mapping[str, object]) -> tuple[Hook, str]:
        """Register one; with what all that it is told is signed by, which is shown this once.

        Raises FieldRefused, WrongState, AuditFailed.
        """
        values = new_hook(self.private).read(given)
        if len(self.store.hooks()) >= MAX_HOOKS:
            raise WrongState("There are %(most)s webhooks already: remove one first.", most=MAX_HOOKS)
        hook = Hook(str(uuid.uuid4()), values["url"], _events(values["events"]), True, self.store.now())
        secret, name = os.urandom(_SECRET_BYTES), _secret_name(hook.id)
        sealed = seal_secret(self.keys.ring(), name, secret)
        self.audit.write(Event("webhook", "made", actor, target=hook.id))
        self.store.add_hook(hook, name, sealed)
        return hook, _SECRET_PREFIX + base64.b64encode(secret).decode()

    def change(self, actor: Actor, hook_id: str, given: Mapping[str, object]) -> Hook:
        """Change url, events, or whether it is enabled. Raises NothingThere, FieldRefused, AuditFailed."""
        read = hook_change(self.private).read(given)
        changes = {name: read[name] for name in given if read[name] is not None}
        if "events" in changes:
            changes["events"] = _events(changes["events"])
        was = self.get(hook_id)
        if not changes:
            raise FieldRefused("", "Say what to change: url, events or enabled.")
        self.audit.write(Event("webhook", "changed", actor, target=was.id))
        changed = self.store.change_hook(was.id, lambda hook: replace(hook, **changes))
        if changed is None:
            raise NothingThere
        return changed

    def delete(self, actor: Actor, hook_id: str) -> None:
        """Remove one with its secret, and all that it was or is to be told. Raises NothingThere, AuditFailed."""
        was = self.get(hook_id)
        self.audit.write(Event("webhook", "deleted", actor, target=was.id))
        if not self.store.delete_hook(was.id, _secret_name(was.id)):
            raise NothingThere

    def deliveries(
        self, hook_id: str, state: DeliveryState | None = None, before: int | None = None, most: int = 100
    ) -> list[Delivery]:
        """What a webhook was and is to be told, the newest first, numbered below `before`. Raises NothingThere."""
        return self.store.deliveries(self.get(hook_id).id, state, before, min(most, MAX_DELIVERIES))

    def replay(self, actor: Actor, hook_id: str, number: int, patience: Millis) -> Delivery:
        """Have a delivery made anew; one that waits for longer than `patience`, which no try takes, is tried now.

        Raises NothingThere, AuditFailed.
        """
        found = self.store.deliveries(self.get(hook_id).id, None, number + 1, 1)
        if not found or found[0].number != number:
            raise NothingThere
        (delivery,) = found
        self.audit.write(Event("webhook", "done", actor, target=hook_id))
        if delivery.state == "waiting" and delivery.not_before > self.store.now() + patience:
            self.store.settle_delivery(delivery, "waiting", 0, delivery.answer)
        return self.store.replay(number)

    def signed(self, hook: Hook, notice: Notice) -> tuple[dict[str, str], bytes]:
        """What is sent of a notice: its headers, with a signature of this moment, and the body.

        Raises KeyMissing, Damaged, StoreFailed.
        """
        name = _secret_name(hook.id)
        _, sealed = self.store.secrets(name).get(name, (None, None))
        if sealed is None:
            raise Damaged
        secret = unseal_secret(self.keys.ring_with(key_id_of(Sealed(sealed))), name, sealed)
        at = datetime.fromtimestamp(self.store.now() // SECOND, UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Mayfly",
            "webhook-id": notice.id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(secret).sign(notice.id, at, notice.payload),
        }
        return headers, notice.payload.encode()


def _events(read: tuple[Any, ...]) -> frozenset[Any]:
    if not read:
        raise FieldRefused("events", "A webhook without events is told nothing.")
    return frozenset(read)


def _secret_name(hook_id: str) -> str:
    return f"webhook {hook_id}"
