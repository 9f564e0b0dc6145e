"""The routes of accounts, of what people and programs sign in with, and of the audit."""

from __future__ import annotations

import json

import errors
from errors import FieldRefused, ForgedRequest, LastAdmin, NothingThere, SecureRequired, TooManySignIns, WrongCredentials
from records import SCOPES
from web.audit import LOOK
from web.description import Described, Example, Parameter, Taken, Told
from web.description.examples import ACCOUNT_ID, API_KEY, BASE, EMAIL, KEY_ID, LATER, LINK_SECRET, NOW, PASSWORD

_NEW_PASSWORD = "eleven blue bicycles"  # noqa: S105 - of an example
_OTHER = "rui@example.com"
_ACCOUNT = {
    "id": ACCOUNT_ID,
    "email": _OTHER,
    "first_name": "Rui",
    "last_name": "Costa",
    "roles": ["support"],
    "enabled": True,
    "has_password": False,
    "created_at": NOW,
    "changed_at": NOW,
    "reset_asked_at": None,
}
_OWN = {**_ACCOUNT, "email": EMAIL, "first_name": "Ana", "last_name": "Silva", "roles": ["admin"], "has_password": True}
_KEY = {
    "id": KEY_ID,
    "name": "backups",
    "account": ACCOUNT_ID,
    "scopes": ["messages:create"],
    "created_at": NOW,
    "expires_at": LATER,
    "used_at": None,
}
_TO_SET = f"{BASE}/password/{LINK_SECRET}"

_AT_ACCOUNT = {"account_id": Parameter("The id of the account.", ACCOUNT_ID)}
_AT_KEY = {"key_id": Parameter("The id of the key.", KEY_ID)}
_AT_LINK = {"token": Parameter("The end of the link that an admin made.", LINK_SECRET)}
_PAGE = Told("The page.", page=True)
_DONE = Told("Done.")
_SEEN = Told("The account.", ("Account",), page=True)
_BACK = Told("Done, by the page's form.", headers=("Location",))
_DOOR = (FieldRefused, ForgedRequest, SecureRequired, TooManySignIns)

_SIGN_IN: dict[str, Described] = {
    "GET /sign-in": Described(
        "show_sign_in", "The page to sign in", {200: _PAGE}, (Example("In a browser", page=True),), language=True
    ),
    "POST /sign-in": Described(
        "sign_in",
        "Sign in: the answer sets the session's cookie",
        {
            200: Told("The account that is signed in.", ("Account",), headers=("Set-Cookie",)),
            303: Told("By the page's form: where it leads.", headers=("Location", "Set-Cookie")),
        },
        (Example("By password", body={"email": EMAIL, "password": PASSWORD}, answer=_OWN),),
        takes=Taken(("SignIn",), ("SignIn",)),
        refuses=(*_DOOR, WrongCredentials),
        language=True,
    ),
    "POST /sign-out": Described(
        "sign_out",
        "End the session, if there is one",
        {
            204: Told("Signed out.", headers=("Set-Cookie",)),
            303: Told("The same, by a page's form.", headers=("Location", "Set-Cookie")),
        },
        (Example("With or without a session", 204),),
        refuses=(ForgedRequest,),
        language=True,
    ),
    "POST /reset": Described(
        "ask_for_password",
        "Leave a note for the admins that somebody forgot their password",
        {202: Told("The same, whether there is such an account or not.", ("ResetAsked",), text=True, page=True)},
        (
            Example(
                "Whoever it is",
                202,
                {"email": _OTHER},
                answer={
                    "detail": "If there is an account with that address, the administrators of this server see that you asked, "
                    "and can send you a link."
                },
            ),
        ),
        takes=Taken(("Reset",), ("Reset",)),
        refuses=_DOOR,
        language=True,
    ),
    "GET /password/<token>": Described(
        "show_password_link",
        "The page to set a password, by an admin's link",
        {200: _PAGE},
        (Example("In a browser", page=True),),
        path=_AT_LINK,
        refuses=(NothingThere,),
        language=True,
    ),
    "POST /password/<token>": Described(
        "set_password",
        "Set a password, by an admin's link",
        {204: Told("It is set, and the link is used up."), 303: _BACK},
        (Example("Once", 204, {"password": _NEW_PASSWORD}),),
        takes=Taken(("Password",), ("Password",)),
        path=_AT_LINK,
        refuses=(*_DOOR, NothingThere),
        language=True,
    ),
    "GET /account": Described(
        "see_own_account",
        "Who is signed in, and for what",
        {200: Told("The account, and what may be done with what was shown.", ("OwnAccount",), page=True)},
        (Example("Who am I?", answer={**_OWN, "scopes": sorted(SCOPES), "signed_in_by": "key"}),),
        language=True,
    ),
    "POST /account/password": Described(
        "change_password",
        "Change one's own password; all other sessions end",
        {
            200: Told("The page, in HTML.", page=True, headers=("Set-Cookie",)),
            204: Told("It is changed; who came by a session gets a new one."),
        },
        (Example("By the old one", 204, {"old": PASSWORD, "new": _NEW_PASSWORD}),),
        takes=Taken(("PasswordChange",), ("PasswordChange",)),
        refuses=(FieldRefused,),
        language=True,
    ),
}

_ACCOUNTS: dict[str, Described] = {
    "GET /accounts": Described(
        "list_accounts",
        "All accounts, by e-mail address",
        {200: Told("The accounts.", ("Accounts",), page=True)},
        (Example("All of them", answer={"accounts": [_OWN]}),),
        language=True,
    ),
    "POST /accounts": Described(
        "make_account",
        "Make an account; with a role that may more than others (admin, auditor) not by a key",
        {
            201: Told(
                "It is made; without a password, with a link to set one.", ("NewAccountMade",), page=True, headers=("Location",)
            )
        },
        (
            Example(
                "With a link to set the password",
                201,
                {"email": _OTHER, "first_name": "Rui", "last_name": "Costa", "roles": ["support"]},
                answer={**_ACCOUNT, "password_link": _TO_SET},
            ),
        ),
        takes=Taken(("NewAccount",), ("NewAccountForm",)),
        refuses=(FieldRefused, errors.Taken),
        language=True,
    ),
    "GET /accounts/<account_id>": Described(
        "see_account",
        "One account",
        {200: _SEEN},
        (Example("By its id", answer=_ACCOUNT),),
        path=_AT_ACCOUNT,
        refuses=(NothingThere,),
        language=True,
    ),
    "PATCH /accounts/<account_id>": Described(
        "change_account",
        "Change an account; its sessions end if its roles change, or when it is disabled. No key gives or takes admin or auditor",
        {200: _SEEN},
        (Example("Other roles", body={"roles": ["support", "payments"]}, answer={**_ACCOUNT, "roles": ["payments", "support"]}),),
        takes=Taken(("AccountChange",), ("AccountChangeForm",)),
        path=_AT_ACCOUNT,
        refuses=(FieldRefused, NothingThere, errors.Taken, LastAdmin),
        language=True,
    ),
    "POST /accounts/<account_id>": Described(
        "act_on_account",
        "The same by forms, which know neither PATCH nor DELETE",
        {200: _SEEN, 303: _BACK},
        (Example("Disable it", body={"do": "disable"}, answer={**_ACCOUNT, "enabled": False}),),
        takes=Taken(("AccountAct",), ("AccountActForm",)),
        path=_AT_ACCOUNT,
        refuses=(FieldRefused, NothingThere, errors.Taken, LastAdmin),
        language=True,
    ),
    "DELETE /accounts/<account_id>": Described(
        "delete_account",
        "Remove an account, with its keys and sessions",
        {204: _DONE},
        (Example("By its id", 204),),
        path=_AT_ACCOUNT,
        refuses=(NothingThere, LastAdmin),
    ),
    "POST /accounts/<account_id>/password-link": Described(
        "make_password_link",
        "Make a link to set the password: for one time, within 24 hours",
        {200: _PAGE, 201: Told("The link, to be handed over.", ("PasswordLink",))},
        (Example("For somebody who forgot it", 201, answer={"password_link": _TO_SET}),),
        path=_AT_ACCOUNT,
        refuses=(NothingThere,),
        language=True,
    ),
}

_KEYS: dict[str, Described] = {
    "GET /keys": Described(
        "list_keys",
        "One's own API keys",
        {200: Told("The keys, without what signs in.", ("Keys",), page=True)},
        (Example("All of them", answer={"keys": [{**_KEY, "scopes": sorted(SCOPES), "used_at": NOW}]}),),
        language=True,
    ),
    "POST /keys": Described(
        "make_key",
        "Make an API key",
        {201: Told("The key, shown this once.", ("NewKeyMade",), page=True, headers=("Location",))},
        (
            Example(
                "For a program that creates",
                201,
                {"name": "backups", "scopes": ["messages:create"], "expires_in": 604800},
                answer={**_KEY, "key": API_KEY},
            ),
        ),
        takes=Taken(("NewKey",), ("NewKeyForm",)),
        refuses=(FieldRefused,),
        language=True,
    ),
    "POST /keys/<key_id>": Described(
        "revoke_key_by_form",
        "Revoke a key, by the form of its page",
        {303: _BACK},
        (Example("At once", 303, {"do": "revoke"}, "form"),),
        takes=Taken(("Revoking",), ("Revoking",)),
        path=_AT_KEY,
        refuses=(FieldRefused, NothingThere),
        language=True,
    ),
    "DELETE /keys/<key_id>": Described(
        "revoke_key", "Revoke a key", {204: _DONE}, (Example("At once", 204),), path=_AT_KEY, refuses=(NothingThere,)
    ),
}

_KEYS_IN_USE: dict[str, Described] = {
    "GET /admin/keys": Described(
        "list_keys_in_use",
        "The API keys of all accounts, and the ids of the keys that messages are sealed with",
        {200: Told("The keys, without what signs in.", ("KeysInUse",), page=True)},
        (
            Example(
                "All of them",
                answer={
                    "keys": [{**_KEY, "scopes": sorted(SCOPES), "used_at": NOW, "email": EMAIL}],
                    "encryption_keys": [{"id": "2026-11-k3f9", "retired_at": None}],
                },
            ),
        ),
        language=True,
    ),
}

_OAUTH: dict[str, Described] = {
    "POST /oauth/token": Described(
        "get_token",
        "An access token for an API key, by OAuth 2.0's client credentials, in the form or as HTTP Basic",
        {
            200: Told("The token, for ten minutes.", ("Token",)),
            400: Told("What RFC 6749 section 5.2 says.", ("OAuthError",)),
            401: Told("The same, for a key that does not hold.", ("OAuthError",), headers=("WWW-Authenticate",)),
        },
        (
            Example(
                "By a key",
                body={
                    "grant_type": "client_credentials",
                    "client_id": KEY_ID,
                    "client_secret": API_KEY,
                    "scope": "messages:create",
                },
                sent_as="form",
                answer={"access_token": "eyJ0eXAi…", "token_type": "Bearer", "expires_in": 600, "scope": "messages:create"},
            ),
        ),
        takes=Taken((), ("TokenRequest",)),
        refuses=(SecureRequired, TooManySignIns),
    ),
    "GET /.well-known/jwks.json": Described(
        "get_jwks",
        "The keys that access tokens are checked by",
        {200: Told("JSON Web Keys.", ("Jwks",))},
        (Example("All of them"),),
    ),
    "GET /.well-known/oauth-authorization-server": Described(
        "get_oauth_metadata",
        "What a program needs to know to ask for tokens",
        {200: Told("RFC 8414.", ("OAuthMetadata",))},
        (Example("All of it"),),
    ),
}

_ENTRY = {
    "number": 4711,
    "at": NOW,
    "who": EMAIL,
    "account": ACCOUNT_ID,
    "email": EMAIL,
    "way": "key",
    "credential": KEY_ID,
    "action": "audit",
    "outcome": "answered",
    "vault": None,
    "target": None,
    "address": "127.0.0.0/24",
    "detail": None,
    "mac": "8f" * 32,
}
_LOOKED = json.dumps(_ENTRY, separators=(",", ":")) + "\n"
_AUDIT: dict[str, Described] = {
    "GET /audit": Described(
        "see_audit",
        "Who did what, newest first; that somebody looked is the newest entry of what they see",
        {
            200: Told(
                "The entries, the last access of each account and vault, and the signed head; as lines the entries alone.",
                ("AuditPage",),
                page=True,
                other=("application/x-ndjson",),
            )
        },
        (Example("The newest entry, as a line", query="most=1&as=lines", answer=_LOOKED),),
        query=LOOK,
        refuses=(FieldRefused,),
        language=True,
    ),
}

PEOPLE: dict[str, Described] = {**_SIGN_IN, **_ACCOUNTS, **_KEYS, **_KEYS_IN_USE, **_OAUTH, **_AUDIT}
