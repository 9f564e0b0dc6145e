"""The server's HTTP contract, as far as the client needs it. Content is opaque here: `envelope` makes and opens it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

_TRIES = 4
_CHUNK_BYTES = 64 * 1024
Progress = Callable[[int], None]


class ServerError(Exception):
    """The server refused, or could not be reached. `status` is 0 without an answer; the message says what to do next."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class Link:
    """A secret link, taken apart: where the message is, and the key in its fragment (empty if it has none)."""

    url: str
    fragment: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the server tells before a message is opened. `message` is there if reading uses nothing up."""

    needs_passphrase: bool
    end_to_end: bool
    message: str | None = None


def read_link(text: str) -> Link:
    """Take a link apart. Raises ValueError if it is not one."""
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.netloc or "/message/" not in parts.path:
        raise ValueError
    return Link(parts._replace(fragment="", query="").geturl(), parts.fragment)


class Api:
    """One server, spoken to as JSON."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def create(self, server: str, fields: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        """Store a message and return the server's answer. Not repeated after a lost answer: that would store it twice."""
        body = json.dumps(fields, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        return self._ask("POST", server.rstrip("/") + "/", tries=1, content=_told(body, progress), headers=headers)

    def look(self, link: Link) -> Waiting:
        """Ask what waits at a link; uses nothing up."""
        try:
            answer = self._ask("GET", link.url)
        except ServerError as error:
            if error.status != 405 or not isinstance(error.__cause__, _Problem):
                raise
            problem = error.__cause__.document
            return Waiting(bool(problem.get("needs_passphrase")), problem.get("encryption") == "end-to-end")
        return Waiting(False, False, answer["message"])

    def open(self, link: Link, *, passphrase: str | None = None, proof: str | None = None) -> tuple[dict[str, Any], str]:
        """Open a message; return the answer and the lease's key, to `confirm` once the content is safe.

        A lost answer is asked for again under the same lease, and uses no second view.
        """
        key = secrets.token_urlsafe(24)
        fields = {name: value for name, value in (("passphrase", passphrase), ("proof", proof)) if value is not None}
        return self._ask("POST", link.url, json=fields, headers={"Idempotency-Key": key}), key

    def confirm(self, link: Link, key: str) -> None:
        """End the lease: the content is safe, the server may forget it. A lease that has ended by itself is as good."""
        try:
            self._ask("DELETE", link.url, headers={"Idempotency-Key": key})
        except ServerError as error:
            if error.status not in (0, 404):
                raise

    def receipt(self, url: str, *, burn: bool = False) -> dict[str, Any]:
        """Return the sender's side of a message; with `burn`, destroy it first."""
        return self._ask("DELETE" if burn else "GET", url)

    def _ask(self, method: str, url: str, *, tries: int = _TRIES, **request: Any) -> dict[str, Any]:
        headers = {"Accept": "application/json", **request.pop("headers", {})}
        for left in reversed(range(tries)):
            try:
                answer = self._http.request(method, url, headers=headers, **request)
                break
            except httpx.TransportError as error:
                if not left:
                    raise ServerError(0, f"The server cannot be reached ({type(error).__name__}).") from None
        if answer.is_success:
            return dict(answer.json()) if answer.content else {}
        raise _refusal(answer)


class _Problem(Exception):
    """Carries an RFC 9457 document along."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__()
        self.document = document


def _refusal(answer: httpx.Response) -> ServerError:
    try:
        problem = answer.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return ServerError(answer.status_code, f"The server answered {answer.status_code}, and is perhaps no Mayfly.")
    error = ServerError(answer.status_code, detail)
    error.__cause__ = _Problem(problem)
    return error


def _told(body: bytes, progress: Progress | None) -> Iterator[bytes]:
    for at in range(0, len(body), _CHUNK_BYTES):
        yield body[at : at + _CHUNK_BYTES]
        if progress:
            progress(min(at + _CHUNK_BYTES, len(body)) * 100 // len(body))
