"""The routes of a vault's messages and receipts."""

from __future__ import annotations

from dataclasses import replace

from errors import (
    CertificateRequired,
    Damaged,
    FieldRefused,
    MayflyError,
    NotFound,
    OpeningRequired,
    PassphraseRequired,
    ProofRequired,
    StoreFull,
    TickRequired,
    TooManyCreates,
    TriesInUse,
    WrongPassphrase,
)
from records import VaultName
from web.description import Described, Example, Parameter, Taken, Told
from web.description.examples import BASE, IDEMPOTENCY, LATER, LINK_ID, NOW, RECEIPT_TOKEN
from web.description.schemas import IDEMPOTENCY_KEY
from web.paths import CREATE, MESSAGE, RECEIPT

_TEXT = "The door code is 4711"

_LINK = {"link_id": Parameter("The id of the message: the end of its link.", LINK_ID)}
_LEASE_HEADER = {"Idempotency-Key": IDEMPOTENCY}
_LEASE = Parameter(
    "Chosen at random by the reader: the same again within the lease gets the same message again.",
    IDEMPOTENCY,
    IDEMPOTENCY_KEY,
    required=False,
)

DOCUMENT = {
    "v": 2,
    "adata": [["CrMGgjA1Zhu426IcwlNSMQ==", "Y0ea1poJCyU=", 100000, 256, 128, "aes", "gcm", "zlib"], "plaintext", 0, 0],
    "ct": "OGw8+QIbIjJd1JJFpfi+eXCWPk2SgivbhVaj+h5EvmoSoLkBv3xkNSMjn9ns/Zys7Hgm",
}
PROOF = "mjmO8ZoUXKwXsljVNwB17dkJk4jaLsPqlMmfruocCfo"
_RECORD = {"name": "Ana Prado", "card": "4111111111111111"}
_POLICY = {"payments": {"name": "show", "card": "show"}, "support": {"name": "show", "card": "mask"}}

_OPENED = {"message": _TEXT, "format": "text", "expires_at": LATER, "views_left": 0}
_RECEIPT = {"state": "waiting", "created_at": NOW, "expires_at": LATER, "opened": [], "views_left": 1}
_BURNED = f"state: burned\ncreated: {NOW}\nexpires: {LATER}\nviews left: 0\n"
_WAITING = {
    "type": "about:blank",
    "title": "Waiting to be opened",
    "status": 405,
    "detail": "This message is there and has not been opened. Open it by POST (curl -X POST LINK).",
    "expires_at": LATER,
    "views_left": 1,
    "needs_passphrase": False,
    "encryption": "server",
}


_CERTIFIED: dict[VaultName, tuple[type[MayflyError], ...]] = {"open": (), "guarded": (), "sealed": (CertificateRequired,)}
"""What else reading is refused by."""


def of_vault(vault: VaultName) -> dict[str, Described]:
    """The routes of one vault, by method and rule."""
    which = "" if vault == "open" else f"{vault}_"
    message, receipt = f"{MESSAGE[vault]}<link_id>", f"{RECEIPT[vault]}<token>"
    described = {
        f"POST {CREATE[vault]}": _create(vault, which),
        f"GET {message}": _look(vault, which),
        f"POST {message}": _open(vault, which),
        f"DELETE {message}": _end_lease(vault, which),
        f"GET {receipt}": _receipt(f"see_{which}receipt", "The sender's side of a message", Example("A message that waits")),
        f"DELETE {receipt}": _receipt(f"burn_{which}message", "Burn the message now", Example("Before anybody opened it")),
        f"POST {receipt}": _receipt(
            f"burn_{which}message_by_form",
            "Burn the message now, by the form of its page",
            Example("Before anybody opened it", body={"burn": "yes"}, sent_as="form"),
        ),
    }
    page = Told("The page.", page=True)
    described[f"GET {CREATE[vault]}"] = Described(
        f"show_{which}page", "The page to write a message", {200: page}, (Example("In a browser", page=True),), language=True
    )
    return described


def _create(vault: VaultName, which: str) -> Described:
    signed_in = vault != "open"
    link = f"{BASE}{MESSAGE[vault]}{LINK_ID}"
    answer = {
        "id": LINK_ID,
        "link": link,
        "receipt": f"{BASE}{RECEIPT[vault]}{RECEIPT_TOKEN}",
        "expires_at": LATER,
        "views": 1,
        "durability": "memory",
        "encryption": "server",
    }
    examples = [
        Example("A message", 201, {"message": _TEXT, "views": 1, "expires_in": 86400}, answer=answer),
        Example("A form", 201, {"message": _TEXT, "views": "1"}, "form", answer=f"{link}\n"),
        Example("A form of parts", 201, {"message": _TEXT, "views": "1"}, "multipart", answer=f"{link}\n"),
        Example("A file", 201, _TEXT, "text", query="views=1&expires_in=86400", answer=f"{link}\n"),
        Example(
            "Encrypted end to end",
            201,
            {"document": DOCUMENT, "proof": PROOF, "views": 1},
            answer={**answer, "encryption": "end-to-end"},
        ),
    ]
    json: tuple[str, ...] = ("Message", "Document")
    form: tuple[str, ...] = ("MessageForm",)
    if signed_in:
        json, form = ("GuardedMessage", "Record", "GuardedDocument"), ("GuardedMessageForm", "RecordForm")
        record = {
            "message": _RECORD,
            "format": "record",
            "policy": _POLICY,
            "audience": ["role:payments", "role:support"],
            "views": 1,
        }
        examples.append(Example("A record", 201, record, answer=answer))
    return Described(
        f"create_{which}message",
        "Create a message",
        {201: Told("The message is stored. As text: its link alone.", ("Created",), text=True, page=True, headers=("Location",))},
        tuple(examples),
        takes=Taken(json, form, text=True),
        refuses=(FieldRefused, TooManyCreates, StoreFull),
        language=True,
    )


def _look(vault: VaultName, which: str) -> Described:
    return Described(
        f"look_at_{which}message",
        "Look at a message; never uses up a view",
        {
            200: Told(
                "The message, if reading it uses nothing up. As a page otherwise the one to open it.",
                ("Opened",) if vault == "open" else ("Opened", "OpenedRecord"),
                text=True,
                page=True,
            )
        },
        (
            Example("One without view limit", answer={**_OPENED, "views_left": None}),
            Example("One that waits to be opened", 405, answer=_WAITING),
        ),
        path=_LINK,
        refuses=(NotFound, OpeningRequired, Damaged, *_CERTIFIED[vault]),
        language=True,
    )


def _open(vault: VaultName, which: str) -> Described:
    json = ("Opened", "OpenedDocument") if vault == "open" else ("Opened", "OpenedDocument", "OpenedRecord")
    return Described(
        f"open_{which}message",
        "Open a message; uses one view",
        {200: Told("The message.", json, text=True, page=True)},
        (
            Example("With a lease", headers=_LEASE_HEADER, answer=_OPENED),
            Example("By a form", body={"open": "yes"}, sent_as="form", answer=_TEXT),
        ),
        takes=Taken(("Opening",), ("OpeningForm",), required=False),
        path=_LINK,
        headers={"Idempotency-Key": _LEASE},
        refuses=(
            *(FieldRefused, NotFound, Damaged, TickRequired, PassphraseRequired, ProofRequired, WrongPassphrase),
            TriesInUse,
            *_CERTIFIED[vault],
        ),
        language=True,
    )


def _end_lease(vault: VaultName, which: str) -> Described:
    return Described(
        f"end_lease_of_{which}message",
        "End a reader's lease",
        {204: Told("It has ended. Without views left the message is destroyed.")},
        (Example("After reading", 204, headers=_LEASE_HEADER),),
        path=_LINK,
        headers={"Idempotency-Key": replace(_LEASE, help="That of the lease.", required=True)},
        refuses=(FieldRefused, NotFound, Damaged, *_CERTIFIED[vault]),
    )


def _receipt(name: str, what: str, example: Example) -> Described:
    burns = name.startswith("burn")
    answer = {**_RECEIPT, "state": "burned", "views_left": 0} if burns else _RECEIPT
    return Described(
        name,
        what,
        {200: Told("State and times, never content.", ("Receipt",), text=True, page=True)},
        (replace(example, answer=_BURNED if example.body else answer),),
        takes=Taken((), ("Burning",)) if example.body else None,
        path={"token": Parameter("The end of the receipt's address.", RECEIPT_TOKEN)},
        refuses=(NotFound, FieldRefused) if example.body else (NotFound,),
        language=True,
    )
