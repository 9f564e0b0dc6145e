"""The routes that are no vault's: probes, figures, the operator's, and what describes the rest."""

from __future__ import annotations

from errors import BodyRefused, FieldRefused, NotFound, StoreFailed
from web.description import Described, Example, Parameter, Taken, Told
from web.description.examples import ADMIN_TOKEN, BASE, LINK_ID

_READY = "open: ready\nguarded: ready\nsealed: ready\n"
_DELETED = Told("How many messages went.", ("Deleted",))

SERVICE: dict[str, Described] = {
    "GET /healthz": Described(
        "is_alive", "The process answers", {200: Told("It does.", text=True)}, (Example("A probe", answer="ok\n"),)
    ),
    "GET /readyz": Described(
        "is_ready",
        "Which vaults answer; 503 if none does",
        {200: Told("A line for each vault.", text=True)},
        (Example("A probe", answer=_READY),),
    ),
    "GET /metrics": Described(
        "see_metrics",
        "Figures for Prometheus",
        {200: Told("Prometheus's text format.", other=("text/plain",))},
        (Example("A scrape"),),
    ),
    "GET /admin": Described(
        "show_admin_page",
        "The operator's page, or the one to sign in",
        {200: Told("The page.", page=True)},
        (Example("Not signed in", page=True),),
        language=True,
    ),
    "POST /admin": Described(
        "act_on_admin_page",
        "The forms of that page",
        {
            200: Told("What was done.", page=True),
            303: Told("Signed in or out.", headers=("Location", "Set-Cookie")),
        },
        (Example("Sign in", 303, {"token": ADMIN_TOKEN}, "form"),),
        takes=Taken(form=("AdminToken", "AdminAct")),
        refuses=(FieldRefused, StoreFailed),
        language=True,
    ),
    "POST /delete": Described(
        "delete",
        "For scripts: purge what has expired, or take one message down",
        {200: _DELETED},
        (
            Example("Purge", answer={"deleted": 0}),
            Example("Take a message down", body={"link": f"{BASE}/message/{LINK_ID}"}, sent_as="form", answer={"deleted": 1}),
        ),
        takes=Taken(("TakeDown",), ("TakeDown",), required=False),
        refuses=(FieldRefused, BodyRefused),
    ),
    "GET /static/<path:name>": Described(
        "get_file",
        "Style sheet, scripts and pictures of the pages",
        {200: Told("The file.", other=("text/css", "text/javascript", "image/svg+xml"))},
        (Example("The icon"),),
        path={"name": Parameter("Its name, in which a / may be.", "icon.svg")},
        refuses=(NotFound,),
    ),
    "GET /openapi.json": Described(
        "get_description", "This document", {200: Told("OpenAPI 3.1.", ("Description",))}, (Example("For programs"),)
    ),
    "GET /docs": Described(
        "show_description",
        "The same as a page",
        {200: Told("The page.", page=True)},
        (Example("For people", page=True),),
        language=True,
    ),
}
