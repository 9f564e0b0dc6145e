"""Every schema that the API's document names: those of requests, by their models, and those of answers.

The tests hold real answers against them; each lists all that there is.
"""

from __future__ import annotations

from typing import get_args

import drafts
from access.accounts import CHANGED_ACCOUNT, NEW_ACCOUNT
from access.egress import FAILURES
from access.passwords import MAX_BYTES, MIN_CHARACTERS
from access.webhooks import hook_change, new_hook
from audit import ACTIONS, MAX_DETAIL_CHARACTERS, OUTCOMES
from fields import Model
from fields.documents import Document, Proof
from records import (
    CERTIFICATE_STATES,
    DELIVERY_STATES,
    MAX_OPENINGS,
    MAX_TRIES,
    MAX_VIEWS,
    NOTICE_TYPES,
    REASONS,
    SCOPES,
    State,
    Way,
)
from web.accounts import NEW_KEY
from web.certificate_pages import CERTIFICATE_ACT
from web.certificates import CERTIFICATE_CHANGE, FOLLOWER, NEW_CERTIFICATE
from web.description import Schema

TIME: Schema = {"type": "string", "format": "date-time"}
UUID: Schema = {"type": "string", "format": "uuid"}
LINK: Schema = {"type": "string", "format": "uri"}
TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
VIEWS_LEFT: Schema = {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_VIEWS, "description": "null: any number."}
ENCRYPTION: Schema = {"type": "string", "enum": ["server", "end-to-end"]}
IDEMPOTENCY_KEY: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,128}$"}


def every(**properties: Schema) -> Schema:
    """An object of these, all of which are there."""
    return some(tuple(properties), **properties)


def some(required: tuple[str, ...], **properties: Schema) -> Schema:
    """An object of which only those named in `required` are always there."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def many(of: Schema, most: int | None = None) -> Schema:
    """A list."""
    return {"type": "array", "items": of, **({"maxItems": most} if most else {})}


def word(*words: str) -> Schema:
    """One of a few words."""
    return {"type": "string", "enum": list(words)}


def ref(name: str) -> Schema:
    """A schema of the table, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def form_of(model: Model) -> Schema:
    """A model as forms send it: numbers as digits, objects and lists as text. What has no text (true, false) is not for forms."""
    properties = {name: _as_text(field.schema()) for name, field in model.fields.items()}
    taken = {name: schema for name, schema in properties.items() if schema.get("type") != "boolean"}
    return {**model.schema(), "properties": taken}


def _as_text(schema: Schema) -> Schema:
    if "anyOf" in schema:
        texts = [one for one in schema["anyOf"] if one["type"] == "string"]
        rest = {name: value for name, value in schema.items() if name != "anyOf"}
        return schema if len(texts) == len(schema["anyOf"]) else {**texts[0], **rest}
    if schema["type"] in ("object", "array"):
        kept = {"type": "string", "description": schema.get("description", "")}
        return {**kept, "contentMediaType": "application/json"} if schema["type"] == "object" else kept
    return {**schema, "type": next(kind for kind in _kinds(schema) if kind != "null")}


def _kinds(schema: Schema) -> list[str]:
    return schema["type"] if isinstance(schema["type"], list) else [schema["type"]]


REQUESTS: dict[str, Model] = {
    "Message": drafts.MESSAGE,
    "Document": drafts.DOCUMENT,
    "GuardedMessage": drafts.GUARDED_MESSAGE,
    "GuardedDocument": drafts.GUARDED_DOCUMENT,
    "Record": drafts.RECORD,
    "NewAccount": NEW_ACCOUNT,
    "AccountChange": CHANGED_ACCOUNT,
    "NewKey": NEW_KEY,
    "NewCertificate": NEW_CERTIFICATE,
    "CertificateChange": CERTIFICATE_CHANGE,
    "CertificateAct": CERTIFICATE_ACT,
    "CertificateFollower": FOLLOWER,
    "NewWebhook": new_hook(),
    "WebhookChange": hook_change(),
}
"""Bodies that are checked by a model. Those that may come as a form are there as `<name>Form` as well."""
_JSON_ONLY = {"Document", "GuardedDocument"}
_MORE: dict[str, Schema] = {"AccountChange": {"minProperties": 1}, "WebhookChange": {"minProperties": 1}}

_OPENING: dict[str, Schema] = {
    "passphrase": {**drafts.MESSAGE.fields["passphrase"].schema(), "minLength": 0, "description": "The one that the sender chose."},
    "proof": {
        "type": ["string", "null"],
        "pattern": f"^(?:{Proof().schema()['pattern'].strip('^$')})?$",
        "description": "For what is encrypted end to end: derived from the link's fragment.",
    },
    "idempotency_key": {
        "type": ["string", "null"],
        "pattern": f"^(?:{IDEMPOTENCY_KEY['pattern'].strip('^$')})?$",
        "description": "The same as the header Idempotency-Key, for forms.",
    },
}
_TICK: Schema = {**word("yes"), "description": "The deliberate tick, which scanners do not set."}
_WAITING: dict[str, Schema] = {"expires_at": TIME, "views_left": VIEWS_LEFT, "needs_passphrase": TRUTH, "encryption": ENCRYPTION}
_PROBLEM: dict[str, Schema] = {"type": {"const": "about:blank"}, "title": TEXT, "status": {"type": "integer"}, "detail": TEXT}

_MAYBE_TIME: Schema = {**TIME, "type": ["string", "null"]}
_PASSWORD: Schema = {**TEXT, "minLength": MIN_CHARACTERS, "maxLength": MAX_BYTES}
_ACCOUNT: dict[str, Schema] = {
    "id": UUID,
    "email": TEXT,
    "first_name": TEXT,
    "last_name": TEXT,
    "roles": many(TEXT),
    "enabled": TRUTH,
    "has_password": TRUTH,
    "created_at": TIME,
    "changed_at": TIME,
    "reset_asked_at": {**_MAYBE_TIME, "description": "When somebody asked for a new password."},
}
_KEY: dict[str, Schema] = {
    "id": UUID,
    "name": TEXT,
    "account": UUID,
    "scopes": many(word(*SCOPES)),
    "created_at": TIME,
    "expires_at": TIME,
    "used_at": {**_MAYBE_TIME, "description": "When it was used last, to the minute."},
}
_CERTIFICATE: dict[str, Schema] = {
    "id": UUID,
    "account": UUID,
    "email": {**TEXT, "description": "The account's, as it stands in the certificate."},
    "serial": {"type": "string", "pattern": "^[0-9a-f]{40}$"},
    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "Of the certificate's DER."},
    "issuer": UUID,
    "state": word(*CERTIFICATE_STATES),
    "reason": {"enum": [*REASONS, None], "description": "Why it was revoked."},
    "created_at": TIME,
    "not_before": TIME,
    "not_after": TIME,
    "changed_at": TIME,
    "replaces": {"type": ["string", "null"], "format": "uuid", "description": "The certificate that it follows."},
    "superseded_at": {**_MAYBE_TIME, "description": "When it is revoked, as another follows it."},
}
_WEBHOOK: dict[str, Schema] = {
    "id": UUID,
    "url": LINK,
    "events": many(word(*NOTICE_TYPES)),
    "enabled": TRUTH,
    "created_at": TIME,
}
_ANSWER = f"The status that was answered, or {', '.join(FAILURES)}, no secret; null before the first try."
_DO: Schema = {**word("change", "enable", "disable", "delete"), "description": "change: with what to change."}

_SUPPORTED = [f"{what}_supported" for what in ("scopes", "response_types", "grant_types", "token_endpoint_auth_methods")]

_PLAIN: dict[str, Schema] = {
    # Requests that are checked by hand
    "Opening": some((), open=_TICK, **_OPENING),
    "OpeningForm": some(("open",), open=_TICK, **{name: _as_text(schema) for name, schema in _OPENING.items()}),
    "Burning": every(burn=word("yes")),
    "TakeDown": some((), link={**TEXT, "description": "The link, or its id. Without it what has expired is purged."}),
    "AdminToken": every(token=TEXT),
    "AdminAct": some(("form_token", "do"), form_token=TEXT, do=word("purge", "take-down", "sign-out"), link=TEXT),
    "SignIn": some(("email", "password"), email=TEXT, password=TEXT, next={**TEXT, "description": "Where the page leads then."}),
    "Reset": every(email=TEXT),
    "Password": every(password=_PASSWORD),
    "PasswordChange": every(old=TEXT, new=_PASSWORD),
    "AccountAct": some(("do",), do=_DO, **CHANGED_ACCOUNT.schema()["properties"]),
    "AccountActForm": some(("do",), do=_DO, **form_of(CHANGED_ACCOUNT)["properties"]),
    "Revoking": every(do=word("revoke")),
    "WebhookAct": some(("do",), do=_DO, **hook_change().schema()["properties"]),
    "WebhookActForm": some(("do",), do=_DO, **form_of(hook_change())["properties"]),
    "Replaying": some((), do=word("replay")),
    "TokenRequest": some(
        ("grant_type",),
        grant_type=word("client_credentials"),
        client_id={**TEXT, "description": "The id of an API key; or this and the next as HTTP Basic."},
        client_secret={**TEXT, "description": "The key itself."},
        scope={**TEXT, "description": "Scopes with spaces between; without it all that the key has."},
    ),
    # Answers
    "Problem": some(
        tuple(_PROBLEM),
        **_PROBLEM,
        field={**TEXT, "description": "Which field is not right, if it is a known one."},
        tries_left={"type": "integer", "minimum": 0, "maximum": MAX_TRIES - 1, "description": "After a wrong passphrase or proof."},
    ),
    "Waiting": every(**_PROBLEM, **_WAITING),
    "Created": every(
        id=UUID,
        link=LINK,
        receipt=LINK,
        expires_at=TIME,
        views={**VIEWS_LEFT, "minimum": 1},
        durability=word("memory", "disk"),
        encryption=ENCRYPTION,
    ),
    "Opened": every(message=TEXT, format=word("text", "markdown"), expires_at=TIME, views_left=VIEWS_LEFT),
    "OpenedDocument": every(document=Document().schema(), expires_at=TIME, views_left=VIEWS_LEFT),
    "OpenedRecord": every(
        record={"type": "object", "additionalProperties": TEXT, "description": "What this reader may see."},
        masked={**many(TEXT), "description": "The fields of which no more than an end is there."},
        format={"const": "record"},
        expires_at=TIME,
        views_left=VIEWS_LEFT,
    ),
    "Receipt": every(
        state=word(*get_args(State)),
        created_at=TIME,
        expires_at=TIME,
        opened={**many(TIME, MAX_OPENINGS), "description": "The newest openings, oldest first."},
        views_left=VIEWS_LEFT,
    ),
    "Description": {"type": "object", "description": "OpenAPI 3.1."},
    "Deleted": every(deleted={"type": "integer", "minimum": 0}),
    "Account": every(**_ACCOUNT),
    "OwnAccount": every(**_ACCOUNT, scopes=many(word(*SCOPES)), signed_in_by=word(*get_args(Way))),
    "NewAccountMade": some(tuple(_ACCOUNT), **_ACCOUNT, password_link=LINK),
    "Accounts": every(accounts=many(ref("Account"))),
    "PasswordLink": every(password_link=LINK),
    "AuditEntry": every(
        number={"type": "integer", "minimum": 1},
        at=TIME,
        who={**TEXT, "description": "An e-mail address, or what is known of somebody without an account."},
        way=word(*get_args(Way)),
        action=word(*ACTIONS),
        outcome=word(*OUTCOMES),
        mac={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        **{name: {"type": ["string", "null"]} for name in ("account", "email", "credential", "vault", "target", "address")},
        detail={
            "type": ["string", "null"],
            "maxLength": MAX_DETAIL_CHARACTERS,
            "description": "What of it: the names of a record's fields that were shown whole and masked, what of an account "
            "changed, the scopes of a key.",
        },
    ),
    "AuditPage": every(
        entries=many(ref("AuditEntry")),
        before={"type": ["integer", "null"], "description": "For the next page; null if there is none."},
        last_accesses=many(ref("AuditEntry")),
        head={**TEXT, "description": "The newest head, signed."},
    ),
    "ResetAsked": every(detail=TEXT),
    "Key": every(**_KEY),
    "NewKeyMade": every(**_KEY, key={**TEXT, "description": "What signs in. It is shown this once."}),
    "Keys": every(keys=many(ref("Key"))),
    "Webhook": every(**_WEBHOOK),
    "NewWebhookMade": every(**_WEBHOOK, secret={**TEXT, "description": "What signs. It is shown this once."}),
    "Webhooks": every(webhooks=many(ref("Webhook"))),
    "Delivery": every(
        number={"type": "integer", "minimum": 1},
        id={**TEXT, "description": "The same at each try: webhook-id."},
        type=word(*NOTICE_TYPES),
        subject={**TEXT, "description": "The id of a certificate, or the short hash of a message."},
        created_at=TIME,
        state=word(*DELIVERY_STATES),
        attempts={"type": "integer", "minimum": 0},
        answer={"type": ["string", "null"], "description": _ANSWER},
        answered_at=_MAYBE_TIME,
        next_at={**_MAYBE_TIME, "description": "When it is tried next."},
    ),
    "Deliveries": every(deliveries=many(ref("Delivery"))),
    "KeysInUse": every(
        keys=many(every(**_KEY, email=TEXT)),
        encryption_keys=many(every(id=TEXT, retired_at=_MAYBE_TIME)),
    ),
    "Certificate": every(**_CERTIFICATE),
    "NewCertificateMade": some(
        (*_CERTIFICATE, "pem"),
        **_CERTIFICATE,
        pem={**TEXT, "description": "The certificate, and those above it but for the root."},
        link={
            **LINK,
            "description": "If the key was made here: the message that holds it, for the account alone. It is shown this once.",
        },
        receipt={**LINK, "description": "Of that message."},
        passphrase={**TEXT, "description": "Of the file in it; it is to reach the account by another way than the link."},
    ),
    "Certificates": every(certificates=many(ref("Certificate"))),
    "Token": every(access_token=TEXT, token_type={"const": "Bearer"}, expires_in={"type": "integer"}, scope=TEXT),
    "OAuthError": some(("error",), error=TEXT, error_description=TEXT),
    "Jwks": every(keys=many(every(**dict.fromkeys(("kty", "use", "alg", "kid", "n", "e"), TEXT)))),
    "OAuthMetadata": every(
        **dict.fromkeys(("issuer", "token_endpoint", "jwks_uri"), LINK),
        **dict.fromkeys(_SUPPORTED, many(TEXT)),
    ),
}


def schemas() -> dict[str, Schema]:
    """The whole table, by name."""
    forms = {f"{name}Form": {**form_of(model), **_MORE.get(name, {})} for name, model in REQUESTS.items() if name not in _JSON_ONLY}
    return {name: {**model.schema(), **_MORE.get(name, {})} for name, model in REQUESTS.items()} | forms | _PLAIN
