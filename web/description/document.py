"""One OpenAPI 3.1 document, from the URL map with its needs and the descriptions of its routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import errors
from errors import MayflyError
from records import VAULT_NAMES, Scope
from web.authentication import ADMIN_COOKIE, Need
from web.description import Described, Example, Parameter, Schema, Taken, Told
from web.description.certificates import CERTIFICATES
from web.description.examples import curl_line
from web.description.messages import of_vault
from web.description.people import PEOPLE
from web.description.schemas import REQUESTS, TEXT, form_of, ref, schemas
from web.description.service import SERVICE
from web.description.webhooks import WEBHOOKS
from web.errors import PROBLEM_JSON, TABLE, Unexpected
from web.visitor import SESSION_COOKIE

Object = dict[str, Any]

GROUPS: dict[str, tuple[str, dict[str, Described]]] = {
    **{name: (f"Messages in the {name} vault", of_vault(name)) for name in VAULT_NAMES},
    "accounts": ("Accounts, what people and programs sign in with, and the audit", PEOPLE),
    "certificates": ("Certificates for TLS clients, and the authority they come from", CERTIFICATES),
    "webhooks": ("Webhooks: other systems that are told what happens here", WEBHOOKS),
    "service": ("The server itself, and what its operator does", SERVICE),
}
ROUTES: dict[str, Described] = {name: route for _, group in GROUPS.values() for name, route in group.items()}
"""Every route there can be, by `METHOD /rule`."""

_ABOUT = """\
Answers follow `Accept`: `application/json`, `text/plain` or `text/html`. Without a preference JSON is answered in JSON, all else in
plain text. HEAD is answered wherever GET is, and OPTIONS with the methods of an address; any other method is 405 with `Allow`.
Every refusal says what was wrong and what to do next."""

_ANY_REQUEST = (
    *(errors.BodyRefused, errors.UnknownHost, errors.PrefetchRefused, errors.BodyTooSlow, errors.LengthRequired),
    *(errors.BodyTooLarge, errors.UnsupportedBody, Unexpected, errors.Unavailable),
)
"""What the gate refuses, whatever route is asked for."""
_SIGNED_IN = (errors.AccountRequired, errors.WrongCredentials, errors.SecureRequired, errors.ForgedRequest, errors.TooManySignIns)
_REFUSED_BY_NEED: dict[Need, tuple[type[MayflyError], ...]] = {
    "anyone": (),
    "create": (),
    "account": _SIGNED_IN,
    "password": (*_SIGNED_IN, errors.ScopeRequired),
    **dict.fromkeys(get_args(Scope), (*_SIGNED_IN, errors.ScopeRequired)),
    "accounts:manage by password": (*_SIGNED_IN, errors.ScopeRequired),
    "admin page": (errors.NotSignedIn, errors.ForgedRequest, errors.TooManySignIns),
    "admin token": (
        errors.NotSignedIn,
        errors.WrongCredentials,
        errors.ScopeRequired,
        errors.SecureRequired,
        errors.TooManySignIns,
    ),
    "metrics token": (errors.MetricsTokenRequired, errors.TooManySignIns),
}
NEEDED: dict[Need, str] = {
    "anyone": "Anyone.",
    "create": "Anyone.",
    "account": "Whoever is signed in.",
    "password": "Whoever is signed in on the page or by password, and not by a key.",
    **{scope: f"Whoever is signed in with the scope `{scope}`." for scope in get_args(Scope)},
    "accounts:manage by password": "Whoever is signed in on the page or by password, and not by a key, with the scope "
    "`accounts:manage`.",
    "admin page": "Who signed in here, or as somebody with the scope `messages:purge`; of all others it asks for the admin token.",
    "admin token": "The admin token of the key file, or an account with the scope `messages:purge`.",
    "metrics token": "The token of MAYFLY_METRICS_TOKEN.",
}
_HEADERS: dict[str, str] = {
    "Location": "Where it is.",
    "Retry-After": "In how many seconds to try again.",
    "Allow": "The methods of this address.",
    "WWW-Authenticate": "How to sign in.",
    "Set-Cookie": "The session, or its end.",
}
_HEADERS_BY_STATUS = {401: ("WWW-Authenticate",), 405: ("Allow",), 429: ("Retry-After",), 503: ("Retry-After",)}
_SCOPES: dict[Scope, str] = {
    "messages:create": "Create messages.",
    "messages:read": "Open messages that are for the account.",
    "audit:read": "Read the audit.",
    "accounts:manage": "Make, change and remove accounts.",
    "certificates:manage": "Look after client certificates.",
    "messages:purge": "Purge, and take messages down.",
}


def document(declared: Mapping[str, Need], anyone_creates: bool, https: bool) -> Object:
    """Describe the routes of a server: `METHOD /rule`, each with its need. Raises KeyError for one that has no description."""
    paths: dict[str, Object] = {}
    refusals: dict[str, Object] = {}
    for group, (_, routes) in GROUPS.items():
        for name, route in routes.items():
            if name in declared:
                method, _, rule = name.partition(" ")
                need = declared[name]
                if need == "create" and not anyone_creates:
                    need = "messages:create"
                path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)
                paths.setdefault(path, {})[method.lower()] = _operation(group, method, path, route, need, refusals)
    undescribed = declared.keys() - ROUTES.keys()
    if undescribed:
        raise KeyError(*undescribed)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mayfly", "summary": "Messages that must not last", "version": "1", "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": group, "description": about} for group, (about, _) in GROUPS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": refusals,
            "headers": {name: {"description": help, "schema": TEXT} for name, help in _HEADERS.items()},
            "securitySchemes": _security_schemes(https),
        },
    }


def _operation(group: str, method: str, path: str, route: Described, need: Need, refusals: dict[str, Object]) -> Object:
    parameters = [
        *(_parameter("path", name, one) for name, one in route.path.items()),
        *(_parameter("header", name, one) for name, one in route.headers.items()),
        *_query(route),
    ]
    return {
        "operationId": route.name,
        "summary": route.what,
        "description": NEEDED[need],
        "tags": [group],
        "security": _security(need),
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": _body(route.takes, route.examples)} if route.takes else {}),
        "responses": {str(status): told for status, told in sorted(_responses(route, need, refusals).items())},
        "x-codeSamples": [
            {"lang": "Shell", "label": example.what, "source": curl_line(method, path, route, example, need)}
            for example in route.examples
        ],
    }


# What is sent


def _parameter(where: str, name: str, one: Parameter) -> Object:
    told = {"name": name, "in": where, "description": one.help, "schema": one.schema, "example": one.example}
    return {**told, "required": True} if one.required else told


def _query(route: Described) -> list[Object]:
    options: dict[str, Schema] = {}
    if route.takes and route.takes.text:
        for name in route.takes.form:
            for option, schema in form_of(REQUESTS[name.removesuffix("Form")])["properties"].items():
                if option != "message":
                    # Without its default, which clients would send beside other bodies as well, where no option may be.
                    own = {name: value for name, value in schema.items() if name != "default"}
                    known = options.setdefault(option, own)
                    if known != own:
                        options[option] = {"anyOf": [known, own]}
    found: list[Object] = [
        {"name": name, "in": "query", "description": "Beside text/plain alone: as in a form.", "schema": schema}
        for name, schema in options.items()
    ]
    if route.query:
        found += [
            {"name": name, "in": "query", "schema": schema, "allowEmptyValue": True}
            for name, schema in form_of(route.query)["properties"].items()
        ]
    if route.language:
        found.append({"name": "lang", "in": "query", "description": "The page's language: en, pt-BR.", "schema": TEXT})
    return found


def _body(takes: Taken, examples: Iterable[Example]) -> Object:
    content: Object = {}
    if takes.json:
        content["application/json"] = {"schema": _any_of(takes.json)}
    if takes.form:
        form = {"schema": _any_of(takes.form)}
        content |= {"application/x-www-form-urlencoded": form, "multipart/form-data": {**form}}
    if takes.text:
        content["text/plain"] = {"schema": {**TEXT, "minLength": 1}}
    for example in examples:
        if example.body is not None:
            told = content[SENT_AS[example.sent_as]].setdefault("examples", {})
            told[_key(example)] = {"summary": example.what, "value": example.body}
    return {"required": takes.required, "content": content}


SENT_AS = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
    "multipart": "multipart/form-data",
    "text": "text/plain",
}


def _any_of(names: tuple[str, ...]) -> Schema:
    return ref(names[0]) if len(names) == 1 else {"anyOf": [ref(name) for name in names]}


def _key(example: Example) -> str:
    return re.sub("[^a-z0-9]+", "-", example.what.lower()).strip("-")


# What is answered


def _responses(route: Described, need: Need, refusals: dict[str, Object]) -> dict[int, Object]:
    responses = {status: _told(told, status, route.examples) for status, told in route.told.items()}
    by_status: dict[int, list[type[MayflyError]]] = {}
    for kind in dict.fromkeys((*route.refuses, *_REFUSED_BY_NEED[need], *_ANY_REQUEST)):
        by_status.setdefault(_row(kind)[0], []).append(kind)
    for status, kinds in by_status.items():
        titles = list(dict.fromkeys(_row(kind)[1] for kind in kinds))
        refusal = _refusal(status, "; ".join(titles) + ".")
        shown = _shown(status, PROBLEM_JSON, route.examples)
        if status in responses:
            responses[status]["content"] |= refusal["content"]
        elif shown:
            refusal["content"][PROBLEM_JSON]["examples"] = shown
            responses[status] = refusal
        else:
            name = f"{status}-" + "-".join(re.sub(r"\W+", "", title.title()) for title in titles)
            refusals[name] = refusal
            responses[status] = {"$ref": f"#/components/responses/{name}"}
    return responses


def _row(kind: type[MayflyError]) -> tuple[int, str]:
    """The status and title of a kind of error."""
    if kind is Unexpected:
        return 500, "A fault of ours"
    return next((status, title) for known, status, title in TABLE if issubclass(kind, known))


def _refusal(status: int, what: str) -> Object:
    schema = ref("Waiting" if status == 405 else "Problem")
    content = {PROBLEM_JSON: {"schema": schema}, "text/plain": {"schema": TEXT}, "text/html": {"schema": TEXT}}
    return {"description": what, **_headers(_HEADERS_BY_STATUS.get(status, ())), "content": content}


def _told(told: Told, status: int, examples: Iterable[Example]) -> Object:
    content: Object = {}
    if told.json:
        content["application/json"] = {"schema": _any_of(told.json)}
    kinds = [*(["text/plain"] if told.text else []), *(["text/html"] if told.page else []), *told.other]
    content |= {kind: {"schema": TEXT} for kind in kinds}
    for kind in content:
        if shown := _shown(status, kind, examples):
            content[kind]["examples"] = shown
    return {"description": told.what, **_headers(told.headers), **({"content": content} if content else {})}


def _shown(status: int, kind: str, examples: Iterable[Example]) -> Object:
    """The answers of examples that are of this status and type."""
    return {
        _key(example): {"summary": example.what, "value": example.answer}
        for example in examples
        if example.status == status
        and example.answer is not None
        and (kind in ("application/json", PROBLEM_JSON)) != isinstance(example.answer, str)
        and not kind.endswith("html")
    }


def _headers(names: tuple[str, ...]) -> Object:
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}} if names else {}


# Who may


def _security(need: Need) -> list[Object]:
    if need in ("anyone", "create"):
        return []
    if need == "metrics token":
        return [{"metrics": []}]
    if need == "admin page":
        return [{"adminPage": []}, {"session": ["messages:purge"]}, {}]
    if need == "password":
        return [{"session": []}, {"password": []}]
    if need == "accounts:manage by password":
        return [{"session": ["accounts:manage"]}, {"password": ["accounts:manage"]}]
    scope = "messages:purge" if need == "admin token" else need
    scopes = [scope] if scope in _SCOPES else []
    first: Object = {"admin": []} if need == "admin token" else {"session": scopes}
    return [first, {"password": scopes}, {"key": scopes}, {"oauth": scopes}]


def _security_schemes(https: bool) -> Object:
    grant = {"tokenUrl": "/oauth/token", "scopes": _SCOPES}
    return {
        "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE[https], "description": "Set by POST /sign-in."},
        "password": {"type": "http", "scheme": "basic", "description": "E-mail address and password."},
        "key": {"type": "http", "scheme": "bearer", "bearerFormat": "mayfly_…", "description": "An API key, made at /keys."},
        "oauth": {
            "type": "oauth2",
            "flows": {"clientCredentials": grant},
            "description": "The id of an API key and the key itself.",
        },
        "admin": {"type": "http", "scheme": "bearer", "description": "The admin token of the key file."},
        "adminPage": {"type": "apiKey", "in": "cookie", "name": ADMIN_COOKIE[https], "description": "Set by POST /admin."},
        "metrics": {"type": "http", "scheme": "bearer", "description": "The token of MAYFLY_METRICS_TOKEN."},
    }
