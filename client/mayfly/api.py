"""The server's HTTP contract, as far as the client needs it. Content is opaque here: `envelope` makes and opens it."""

from __future__ import annotations

import json
import re
import secrets
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

_PAUSES = (0.5, 1.0, 2.0)
"""Seconds between the tries of a request whose answer was lost: all of them within a lease."""
_CHUNK_BYTES = 64 * 1024
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NO_MAYFLY = "That is perhaps no Mayfly: is the address right?"
Progress = Callable[[int], None]

Vault = Literal["open", "guarded", "sealed"]
CREATE: dict[Vault, str] = {"open": "/", "guarded": "/guarded", "sealed": "/sealed"}

_ANOTHERS_FRAGMENT = (
    "The part of this link after # belongs to another message. Nothing was used up. Ask the sender for the whole link."
)


class ServerError(Exception):
    """The server refused, or could not be reached; the message says what to do next.

    `status` is 0 unless Mayfly itself answered, and `problem` its RFC 9457 document. `lost` says that the request may have reached
    the server, and only the answer did not come back.
    """

    def __init__(self, status: int, detail: str, problem: dict[str, Any] | None = None, *, lost: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.problem = problem or {}
        self.lost = lost


@dataclass(frozen=True, slots=True)
class Link:
    """A secret link, taken apart: where the message is, and the key in its fragment (empty if it has none)."""

    url: str
    fragment: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the server tells before a message is opened. `answer` is the message itself, if reading uses nothing up."""

    needs_passphrase: bool
    end_to_end: bool
    answer: dict[str, Any] | None = None


def read_server(text: str) -> str:
    """The address of a server, without a slash at its end. Raises ValueError if it is not one."""
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or not text.isprintable():
        raise ValueError
    _ = parts.port  # raises ValueError above 65535
    return parts.geturl().rstrip("/")


def read_link(text: str) -> Link:
    """Take a link apart. Raises ValueError if it is not one."""
    url, _, fragment = text.strip().partition("#")
    return Link(_read_address(url, "/message", "/guarded", "/sealed"), fragment)


def read_receipt(text: str) -> str:
    """The address of a receipt. Raises ValueError if it is not one."""
    return _read_address(text.strip(), "/guarded/receipt", "/sealed/receipt", "/receipt")


def _read_address(url: str, *paths: str) -> str:
    url = url.partition("?")[0]  # services append parameters of their own to links that are passed around
    before, _, name = url.rpartition("/")
    path = next((path for path in paths if before.endswith(path)), None)
    if path is None or not name or not (name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
        raise ValueError
    return f"{read_server(before.removesuffix(path))}{path}/{name}"


class KeyFor(httpx.Auth):
    """An API key, shown to one server and to no other: a link may lead anywhere."""

    def __init__(self, key: str, server: str) -> None:
        """Raises ValueError if others could listen on the way to the server, or the key is not one."""
        self._server = httpx.URL(server)
        if self._server.scheme != "https" and self._server.host not in _LOOPBACK:
            raise ValueError
        if not re.fullmatch(r"mayfly_[A-Za-z0-9_-]{43}", key):
            raise ValueError
        self._header = f"Bearer {key}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _origin(request.url) == _origin(self._server):
            request.headers["Authorization"] = self._header
        yield request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def new_lease(waiting: Waiting) -> str:
    """A random Idempotency-Key. It remembers whether there is a passphrase: of an opened message the server no longer tells."""
    return f"{'passphrase' if waiting.needs_passphrase else 'none'}-{secrets.token_urlsafe(24)}"


def leased(link: Link, lease: str) -> Waiting:
    """What was told before a message was opened under `lease`."""
    return Waiting(lease.startswith("passphrase-"), bool(link.fragment))


class Api:
    """One server, spoken to as JSON."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def create(self, server: str, vault: Vault, fields: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        """Store a message and return the server's answer. Not repeated after a lost answer: that would store it twice."""
        body = json.dumps(fields, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        try:
            created = self._ask("POST", f"{server}{CREATE[vault]}", pauses=(), content=_told(body, progress), headers=headers)
            return created | {"link": read_link(created["link"]).url, "receipt": read_receipt(created["receipt"])}
        except (KeyError, ValueError, AttributeError):
            raise ServerError(0, _NO_MAYFLY) from None
        except ServerError as error:
            if not error.lost:
                raise
            raise ServerError(0, f"{error} If the message was stored, nobody has its link: send it again.") from None

    def look(self, link: Link) -> Waiting:
        """Ask what waits at a link; uses nothing up."""
        try:
            answer = self._ask("GET", link.url)
        except ServerError as error:
            if error.status != 405:
                raise
            return Waiting(bool(error.problem.get("needs_passphrase")), error.problem.get("encryption") == "end-to-end")
        return Waiting(False, False, _with_message(answer))

    def open(self, link: Link, lease: str, *, passphrase: str | None = None, proof: str | None = None) -> dict[str, Any]:
        """Open a message under a lease, to `confirm` once the content is safe.

        A lost answer is asked for again under the same lease, and uses no second view.
        """
        fields = {name: value for name, value in (("passphrase", passphrase), ("proof", proof)) if value is not None}
        try:
            answer = self._ask("POST", link.url, json=fields, headers={"Idempotency-Key": lease})
        except ServerError as error:
            if error.status != 403 or proof is None or "tries_left" in error.problem:
                raise
            raise ServerError(403, _ANOTHERS_FRAGMENT, error.problem) from None
        return answer if "document" in answer else _with_message(answer)

    def confirm(self, link: Link, lease: str) -> None:
        """End the lease: the content is safe, the server may forget it. If that fails, the lease ends by itself."""
        try:
            self._ask("DELETE", link.url, pauses=(), headers={"Idempotency-Key": lease})
        except ServerError:
            return

    def receipt(self, url: str, *, burn: bool = False) -> dict[str, Any]:
        """Return the sender's side of a message; with `burn`, destroy it first."""
        found = self._ask("DELETE" if burn else "GET", url)
        if not {"state", "created_at", "expires_at", "opened", "views_left"} <= set(found) or not isinstance(found["opened"], list):
            raise ServerError(0, _NO_MAYFLY)
        return found

    def _ask(self, method: str, url: str, *, pauses: tuple[float, ...] = _PAUSES, **request: Any) -> dict[str, Any]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **request.pop("headers", {})}
        lost = False
        for pause in (*pauses, None):
            try:
                return _read(self._http.request(method, url, headers=headers, **request))
            except httpx.RequestError as error:
                lost = lost or not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError))
                if pause is None or not lost:
                    raise ServerError(0, _why(error), lost=lost) from None
                time.sleep(pause)
        raise AssertionError


def _read(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success and not answer.content:
        return {}
    try:
        document = answer.json()
    except (ValueError, RecursionError):
        document = None
    if answer.is_success and isinstance(document, dict):
        return document
    if answer.is_redirect:
        why = f"The server redirects elsewhere ({answer.status_code}), which is not followed: use the address it leads to."
        raise ServerError(0, why)
    if not answer.is_success and isinstance(document, dict) and isinstance(document.get("detail"), str):
        raise ServerError(answer.status_code, document["detail"], document)
    raise ServerError(0, f"The server answered {answer.status_code}. {_NO_MAYFLY}")


def _with_message(answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("format") == "record":
        fields, masked = answer.get("record"), answer.get("masked")
        good = isinstance(fields, dict) and isinstance(masked, list) and all(isinstance(text, str) for text in fields.values())
    else:
        good = isinstance(answer.get("message"), str) and answer.get("format") in ("text", "markdown")
    if not good:
        raise ServerError(0, _NO_MAYFLY)
    return answer


def _why(error: httpx.RequestError) -> str:
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"The server's certificate is not to be trusted ({cause.verify_message}). Nothing was sent."
        if isinstance(cause, ssl.SSLError):
            return "The server does not speak TLS there: is it https, and is the port right?"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return "The server did not answer in time."
    if isinstance(error, httpx.ProxyError):
        return "The proxy that the environment names (HTTPS_PROXY and the like) does not let us through."
    if isinstance(error, httpx.ConnectError):
        return "The server cannot be reached: is the address right, and is it running?"
    return "The connection broke off before the answer was whole."


def _told(body: bytes, progress: Progress | None) -> Iterator[bytes]:
    for at in range(0, len(body), _CHUNK_BYTES):
        yield body[at : at + _CHUNK_BYTES]
        if progress:
            progress(min(at + _CHUNK_BYTES, len(body)) * 100 // len(body))
