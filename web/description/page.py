"""The API's document as people read it: what a template needs, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Object = Mapping[str, Any]

_ORDINARY = "GET /healthz"
"""A route that refuses nothing of its own: what it does refuse, every route does."""


class Fields(NamedTuple):
    """What may be sent, or is answered, in one form: each field with what it holds and what it is for."""

    what: str
    fields: list[tuple[str, str, str]]


class Operation(NamedTuple):
    """One route."""

    name: str
    route: str
    summary: str
    needs: str
    sent: list[Fields]
    answered: list[tuple[str, str]]
    told: list[Fields]
    examples: list[tuple[str, str]]


class Group(NamedTuple):
    """Routes that belong together."""

    name: str
    about: str
    operations: list[Operation]


def groups_of(document: Object) -> tuple[list[Group], dict[str, str]]:
    """All routes, in groups, and what any request can be refused by: status and when."""
    routes = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    ordinary = routes[_ORDINARY]["responses"]
    groups = [
        Group(
            tag["name"],
            tag["description"],
            [_operation(document, route, one, ordinary) for route, one in routes.items() if tag["name"] in one["tags"]],
        )
        for tag in document["tags"]
    ]
    refused = {status: _resolved(document, told)["description"] for status, told in ordinary.items() if status != "200"}
    return [group for group in groups if group.operations], refused


def _operation(document: Object, route: str, operation: Object, ordinary: Object) -> Operation:
    responses = {status: told for status, told in operation["responses"].items() if status == "200" or told != ordinary.get(status)}
    return Operation(
        operation["operationId"],
        route,
        operation["summary"],
        operation["description"],
        [*_parameters(operation), *_bodies(document, operation)],
        [(status, _answer(_resolved(document, told))) for status, told in responses.items()],
        list(_answers(document, operation)),
        [(sample["label"], sample["source"]) for sample in operation["x-codeSamples"]],
    )


def _parameters(operation: Object) -> Iterable[Fields]:
    for where, what in (("path", "In the path"), ("query", "In the query"), ("header", "As headers")):
        found = [one for one in operation.get("parameters", ()) if one["in"] == where]
        if found:
            yield Fields(what, [(one["name"], form(one["schema"]), one.get("description", "")) for one in found])


def _bodies(document: Object, operation: Object) -> Iterable[Fields]:
    content = operation.get("requestBody", {}).get("content", {})
    for kind, media in content.items():
        if kind != "multipart/form-data":
            what = f"{kind} or multipart/form-data" if kind.endswith("urlencoded") else kind
            yield from _listed(document, what, media["schema"])


def _answers(document: Object, operation: Object) -> Iterable[Fields]:
    for status, told in operation["responses"].items():
        if status < "300":
            for kind, media in told.get("content", {}).items():
                if kind == "application/json":
                    yield from _listed(document, kind, media["schema"])


def _listed(document: Object, what: str, schema: Object) -> Iterable[Fields]:
    for one in schema.get("anyOf", [schema]):
        resolved = _resolved(document, one)
        needed = resolved.get("required", ())
        fields = resolved.get("properties", {})
        if not fields:
            yield Fields(f"{what}: {form(resolved)}", [])
            continue
        name = one["$ref"].rpartition("/")[2]
        yield Fields(
            f"{what}: {name}",
            [
                (name, form(field) + ("" if name in needed else "; may be absent"), field.get("description", ""))
                for name, field in fields.items()
            ],
        )


def _answer(told: Object) -> str:
    kinds = ", ".join(told.get("content", ())) if "content" in told else "empty"
    headers = f" With {', '.join(told['headers'])}." if "headers" in told else ""
    return f"{told['description']} ({kinds}){headers}"


def _resolved(document: Object, schema: Object) -> Object:
    if "$ref" not in schema:
        return schema
    _, _, kind, name = schema["$ref"].split("/")
    found: Object = document["components"][kind][name]
    return found


def form(schema: Object) -> str:
    """What a JSON Schema takes, in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(form(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        told = " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    else:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        told = " or ".join(_kind(kind, schema) for kind in kinds)
    return told + (f"; default {json.dumps(schema['default'])}" if "default" in schema else "")


def _kind(kind: str, schema: Object) -> str:
    if kind == "integer":
        return f"{schema['minimum']} to {schema['maximum']}" if "maximum" in schema else f"{schema.get('minimum', 'any')} or more"
    if kind == "array":
        return f"list{_most(schema, 'maxItems')} of {form(schema['items'])}"
    if kind == "string" and "format" in schema:
        return str(schema["format"])
    if kind == "string":
        pattern = f" like {schema['pattern']}" if "pattern" in schema else ""
        kind = "JSON as text" if "contentMediaType" in schema else "text"
        least = f" of {schema['minLength']} to {schema['maxLength']}" if "maxLength" in schema else ""
        return f"{kind}{least}{pattern}"
    return {"boolean": "true or false", "object": "object"}.get(kind, kind)


def _most(schema: Object, name: str) -> str:
    return f" of at most {schema[name]}" if name in schema else ""
