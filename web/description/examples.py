"""Examples as lines for a shell, and what in them stands for what every server has of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from shlex import quote

from web.authentication import Need
from web.description import Described, Example

BASE = "http://127.0.0.1:8000"
NOW, LATER = "2026-11-20T08:00:00Z", "2026-11-27T08:00:00Z"
LINK_ID = "6f0c2f5e-93b1-4f5a-8d3c-2b9a7c1e4d60"
RECEIPT_TOKEN = "qtZyI0g8cY7Ck1bI1eYQ5bD5u0xLkqj9K2nW4vPz3hRmJ8sT6uVwXyZ0aBcDeFgH"  # noqa: S105 - of nothing
IDEMPOTENCY = "8f14e45fceea167a5a36dedd4bea2543"
ADMIN_TOKEN = "the-admin-token"  # noqa: S105
METRICS_TOKEN = "the-token-for-metrics-of-this-server"  # noqa: S105
API_KEY = "mayfly_gqVYd1tS0mYd3b0cQm8Xo4kq9n1m5yqk2a7Wc6Jx3Zs"
ACCOUNT_ID = "0b9f9c1e-5a0e-4c0f-9c53-6b1d7a0f2e11"
KEY_ID = "5d0a8f57-7c3e-4a4e-8b0e-2f6a3c9d1b42"
CERTIFICATE_ID = "c0a7be54-3f0d-4b8f-9a55-6a1df0c2b9d3"
ISSUER_ID = "a4f0de77-9b1c-4f8e-8a6f-52f0c1b7e3d8"
HOOK_ID, HOOK_URL = "e7d0c9a8-2b64-4f0d-9c1e-8a5b3d7f6e10", "https://inventory.example.com/mayfly"
DELIVERY_NUMBER = 815
LINK_SECRET = "o2yQ5uJm8cX1vT4nB7kP0sR3wZ6hL9fD_eAqGtUiKjM"  # noqa: S105
CSR = """\
-----BEGIN CERTIFICATE REQUEST-----
MIHJMHECAQAwDzENMAsGA1UEAwwEbmFtZTBZMBMGByqGSM49AgEGCCqGSM49AwEH
-----END CERTIFICATE REQUEST-----
"""
EMAIL, PASSWORD = "ana@example.com", "nine green bicycles"

_SENT_BY_KEY = "-H " + quote(f"Authorization: Bearer {API_KEY}")
_CREDENTIALS: Mapping[Need, str] = {
    "anyone": "",
    "create": "",
    "admin page": "",
    **dict.fromkeys(("password", "accounts:manage by password"), f"-u {quote(f'{EMAIL}:{PASSWORD}')}"),
    "admin token": "-H " + quote(f"Authorization: Bearer {ADMIN_TOKEN}"),
    "metrics token": "-H " + quote(f"Authorization: Bearer {METRICS_TOKEN}"),
}


def curl_line(method: str, path: str, route: Described, example: Example, need: Need) -> str:
    """The request of an example, for curl."""
    parts = ["curl", *_body(example)]
    if method != ("GET" if example.body is None else "POST"):
        parts.insert(1, f"-X {method}")
    parts += [f"-H {quote(f'{name}: {value}')}" for name, value in (*example.headers.items(), *_accept(example))]
    parts += [_CREDENTIALS.get(need, _SENT_BY_KEY)]
    address = re.sub(r"\{(\w+)\}", lambda found: route.path[found[1]].example, path)
    parts.append(quote(f"{BASE}{address}" + (f"?{example.query}" if example.query else "")))
    return " ".join(filter(None, parts))


def _accept(example: Example) -> list[tuple[str, str]]:
    if example.page:
        return [("Accept", "text/html")]
    if isinstance(example.answer, Mapping) and not (example.sent_as == "json" and example.body):
        return [("Accept", "application/json")]
    return []


def _body(example: Example) -> list[str]:
    if example.body is None:
        return []
    if isinstance(example.body, str):
        return ["-H 'Content-Type: text/plain'", f"--data-binary {quote(example.body)}"]
    if example.sent_as == "json":
        return [f"--json {quote(json.dumps(example.body))}"]
    option = "--data-urlencode" if example.sent_as == "form" else "-F"
    return [f"{option} {quote(f'{name}={value}')}" for name, value in example.body.items()]
