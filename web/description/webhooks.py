"""The routes of webhooks."""

from __future__ import annotations

from errors import FieldRefused, NothingThere, WrongState
from web.description import Described, Example, Parameter, Taken, Told
from web.description.examples import DELIVERY_NUMBER, HOOK_ID, HOOK_URL, NOW
from web.webhooks import DELIVERIES

_HOOK = {
    "id": HOOK_ID,
    "url": HOOK_URL,
    "events": ["certificate.created", "certificate.revoked"],
    "enabled": True,
    "created_at": NOW,
}

_AT_HOOK = {"hook_id": Parameter("The id of the webhook.", HOOK_ID)}
_AT_DELIVERY = {**_AT_HOOK, "number": Parameter("The number of the delivery.", str(DELIVERY_NUMBER))}
_SEEN = Told("The webhook.", ("Webhook",), page=True)
_BACK = Told("Done, by the page's form.", headers=("Location",))

WEBHOOKS: dict[str, Described] = {
    "GET /webhooks": Described(
        "list_webhooks",
        "All webhooks: other systems that are told what happens here",
        {200: Told("The webhooks, the oldest first.", ("Webhooks",), page=True)},
        (Example("All of them", answer={"webhooks": [_HOOK]}),),
        language=True,
    ),
    "POST /webhooks": Described(
        "add_webhook",
        "Register a webhook",
        {
            201: Told(
                "The webhook, with its secret, which is shown this once.", ("NewWebhookMade",), page=True, headers=("Location",)
            )
        },
        (
            Example(
                "For changes of certificates",
                201,
                {"url": HOOK_URL, "events": ["certificate.created", "certificate.revoked"]},
                answer={**_HOOK, "secret": "whsec_n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="},
            ),
        ),
        takes=Taken(("NewWebhook",), ("NewWebhookForm",)),
        refuses=(FieldRefused, WrongState),
        language=True,
    ),
    "GET /webhooks/<hook_id>": Described(
        "see_webhook",
        "One webhook",
        {200: _SEEN},
        (Example("By its id", answer=_HOOK),),
        path=_AT_HOOK,
        refuses=(NothingThere,),
        language=True,
    ),
    "PATCH /webhooks/<hook_id>": Described(
        "change_webhook",
        "Change where a webhook is told, of what, and whether",
        {200: _SEEN},
        (Example("Nothing for now", body={"enabled": False}, answer={**_HOOK, "enabled": False}),),
        takes=Taken(("WebhookChange",), ("WebhookChangeForm",)),
        path=_AT_HOOK,
        refuses=(FieldRefused, NothingThere),
        language=True,
    ),
    "POST /webhooks/<hook_id>": Described(
        "act_on_webhook",
        "The same by forms, which know neither PATCH nor DELETE",
        {200: _SEEN, 303: _BACK},
        (Example("Nothing for now", body={"do": "disable"}, answer={**_HOOK, "enabled": False}),),
        takes=Taken(("WebhookAct",), ("WebhookActForm",)),
        path=_AT_HOOK,
        refuses=(FieldRefused, NothingThere),
        language=True,
    ),
    "DELETE /webhooks/<hook_id>": Described(
        "remove_webhook",
        "Remove a webhook, and what it is still to be told",
        {204: Told("Done.")},
        (Example("By its id", 204),),
        path=_AT_HOOK,
        refuses=(NothingThere,),
    ),
    "GET /webhooks/<hook_id>/deliveries": Described(
        "list_deliveries",
        "What a webhook was and is to be told, the newest first",
        {200: Told("The deliveries.", ("Deliveries",))},
        (Example("What was given up", query="state=failed", answer={"deliveries": []}),),
        path=_AT_HOOK,
        query=DELIVERIES,
        refuses=(FieldRefused, NothingThere),
    ),
    "POST /webhooks/<hook_id>/deliveries/<number>": Described(
        "send_again",
        "Have a delivery made anew, or now",
        {202: Told("It is on its way.", ("Delivery",)), 303: _BACK},
        (Example("After the other side was mended", 202),),
        takes=Taken(("Replaying",), ("Replaying",), required=False),
        path=_AT_DELIVERY,
        refuses=(FieldRefused, NothingThere),
        language=True,
    ),
}
