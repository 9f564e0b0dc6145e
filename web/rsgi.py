"""Between granian and the gate: granian's event loop awaits a request's body, and only then does the request take its turn.

Under granian's WSGI interface a thread reads the body: with one thread a slow body stops everybody, with many the CPU per request
nearly doubles, and no read can time out. Its RSGI interface is asynchronous, so slow clients cost no thread, and a body that does
not arrive in time is refused. (Measured in decision record 0002.) RSGI also shows headers as they were sent: a name with an
underscore, which WSGI cannot tell from one with a hyphen, is dropped here.

What is certainly quick is done on the loop: 0.1 ms in memory, a sync of the disk with a file. All else goes to threads, in lanes,
so that neither a crowd of passphrases nor a purge nor a database on the network keeps others waiting; whoever would wait long is
told so at once. A vault whose database is on the network has lanes of its own, and so have accounts and audit, wherever they are:
their file is one that commands and other processes write to as well, and who waits for its lock must not do so on the loop.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal

from errors import BodyTooSlow, MayflyError, Unavailable
from logs import log_fault
from records import VaultName
from settings import OFF, Settings
from web.bodies import MAX_FIELDS
from web.gate import BEGAN, BODY_SECONDS, REFUSAL, SMALL_BODY_BYTES, WAITING_COUNTS, Environ, Gate
from web.paths import ACCOUNT_ROUTES, CREATE_PATHS, route_of, vault_of

BODIES_IN_FLIGHT_BYTES = 64 * 1024 * 1024
"""What all bodies longer than SMALL_BODY_BYTES may announce at one time: beyond it, memory would be the attacker's to fill."""

Lane = Literal["passphrases", "long", "network"]
Whose = VaultName | Literal["accounts"] | None
"""What has a lane: a vault on the network, accounts and audit, or None for all others together."""
# name: threads, requests at one time. A passphrase takes 0.2 s and 64 MiB, so sixteen of them are done in about two seconds.
_LANES: dict[Lane, tuple[int, int]] = {"passphrases": (4, 16), "long": (4, 64), "network": (16, 256)}

# Both take time in proportion to the body: what begins an attempt ends it at the next quote or colon.
_JSON_PASSPHRASE = re.compile(rb'"passphrase"\s*:|[{,]\s*"[^"]*\\u')
_JSON_MARKDOWN = re.compile(rb'"format"\s*:\s*+(?!"text")')


class RsgiServer:
    """A `Gate` as an RSGI application."""

    def __init__(self, gate: Gate, settings: Settings) -> None:
        self._gate = gate
        self._bodies_left = max(BODIES_IN_FLIGHT_BYTES, 2 * settings.max_body_bytes)
        self._on_network = settings.on_network
        self._has_accounts = settings.accounts_database_url != OFF
        self._audit_open = settings.audit_open
        self._anyone_creates = settings.create == "anyone"
        whose: list[Whose] = [None, *self._on_network, *(["accounts"] if self._has_accounts else [])]  # type: ignore[list-item]
        names = [(name, lane) for name in whose for lane in _LANES]
        self._threads = {name: ThreadPoolExecutor(_LANES[name[1]][0], f"mayfly-{name[0]}-{name[1]}") for name in names}
        self._places = {name: _LANES[name[1]][1] for name in names}
        self._base = {
            "SCRIPT_NAME": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request. All counters are touched by the loop's thread alone."""
        try:
            environ = self._environ(scope)
            length = self._announced(environ)
            if length > SMALL_BODY_BYTES:
                self._bodies_left -= length
            try:
                await self._answer(environ, length, protocol)
            finally:
                if length > SMALL_BODY_BYTES:
                    self._bodies_left += length
        except Exception as fault:
            log_fault(fault)
            protocol.response_bytes(500, [("Content-Length", "0"), ("Retry-After", "5")], b"")

    async def _answer(self, environ: Environ, length: int, protocol: Any) -> None:
        body = await self._body(environ, length, protocol)
        environ["wsgi.input"] = BytesIO(body)
        lane = None if REFUSAL in environ else self._lane_of(environ, body)
        if lane and self._places[lane]:
            self._places[lane] -= 1
            environ[BEGAN] = time.perf_counter()
            try:
                environ[WAITING_COUNTS] = lane[1] == "network"
                answer = await asyncio.get_running_loop().run_in_executor(self._threads[lane], self._call, environ)
            finally:
                self._places[lane] += 1
        else:
            if lane:
                environ[REFUSAL] = Unavailable("This server has its hands full at this moment. Nothing was used up.", 2)
            answer = self._call(environ)
        protocol.response_bytes(*answer)

    def _lane_of(self, environ: Environ, body: bytes) -> tuple[Whose, Lane] | None:
        """The lane of a request, and whose it is."""
        lane = lane_of(environ, body)
        vault = vault_of(environ["PATH_INFO"])
        if vault in self._on_network:
            return vault, lane or "network"
        if self._has_accounts and self._asks_accounts(environ["PATH_INFO"], vault):
            return "accounts", lane or "network"
        if self._on_network and environ["PATH_INFO"] == "/readyz":  # asks every vault
            return None, "network"
        return lane and (None, lane)

    def _asks_accounts(self, path: str, vault: VaultName | None) -> bool:
        """Whether accounts or the audit are asked on the way."""
        if vault == "open":
            return self._audit_open or (path in CREATE_PATHS and not self._anyone_creates)
        return vault is not None or route_of(path) in ACCOUNT_ROUTES

    def _environ(self, scope: Any) -> Environ:
        environ: Environ = self._base.copy()
        environ["REQUEST_METHOD"] = scope.method
        environ["PATH_INFO"] = _latin(scope.path)
        environ["QUERY_STRING"] = scope.query_string
        environ["wsgi.url_scheme"] = scope.scheme
        environ["REMOTE_ADDR"] = scope.client.rpartition(":")[0].strip("[]")
        environ["SERVER_NAME"], _, environ["SERVER_PORT"] = scope.server.rpartition(":")
        headers = scope.headers
        items = headers.items()
        for name, value in items:
            if key := _key_of(name):
                environ[key] = f"{environ[key]}, {value}" if key in environ else value
        # Granian's items leave values out that are not ASCII. Something that nobody takes stands for them: an Idempotency-Key that
        # was sent must not count as none.
        if len({name for name, _ in items}) < len(headers):
            for name in headers.keys():  # noqa: SIM118 - not a dict
                if key := _key_of(name):
                    environ.setdefault(key, "\xff")
        return environ

    def _announced(self, environ: Environ) -> int:
        """How many bytes of body to await; none for a request that is refused by its head."""
        try:
            length = self._gate.admit(environ)
            if SMALL_BODY_BYTES < length > self._bodies_left:
                raise Unavailable("This server is receiving as much as it can at this moment.", 5)
        except MayflyError as refusal:
            environ[REFUSAL] = refusal
            return 0
        return length

    async def _body(self, environ: Environ, length: int, protocol: Any) -> bytes:
        """Await the body. What did not arrive whole is for the gate to refuse."""
        if not length:
            return b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return bytes(await protocol())
        except TimeoutError:
            environ[REFUSAL] = BodyTooSlow(BODY_SECONDS)
            return b""
        except Exception:  # granian's RSGIProtocolClosed and relatives: the client went away in the middle
            return b""

    def _call(self, environ: Environ) -> tuple[int, list[tuple[str, str]], bytes]:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            started[:] = (int(status[:3]), headers)

        body = b"".join(self._gate(environ, start_response))
        return started[0], started[1], body


def lane_of(environ: Environ, body: bytes) -> Lane | None:
    """Which lane a request must take; None if it is certainly quick.

    Slow are passphrases, passwords, markdown, long bodies, and what operators ask for. The name of a field may hide behind escapes,
    and what hides is slow: a key with a percent sign in a form, one with \\u in JSON.
    """
    path = environ["PATH_INFO"]
    if environ.get("HTTP_AUTHORIZATION", "")[:5].lower() == "basic" and path != "/oauth/token":
        return "passphrases"
    if path in ("/sign-in", "/account/password", "/accounts") or path.startswith("/password/"):
        return "passphrases" if environ["REQUEST_METHOD"] == "POST" else "long"
    if path in ("/admin", "/delete", "/metrics", "/oauth/token", "/reset") or path.startswith(("/certificates", "/ca.", "/ca/")):
        return "long"
    content_type = environ.get("CONTENT_TYPE", "").lower()
    if environ["REQUEST_METHOD"] != "POST" or not content_type:
        return None
    if "multipart" in content_type:  # which has too many ways to write a name
        return "passphrases"
    if "json" in content_type:
        lane = _lane_of_json(body)
    else:
        lane = _lane_of_form(environ["QUERY_STRING"].encode() if "text/plain" in content_type else body)
    return lane or ("long" if len(body) > SMALL_BODY_BYTES else None)


def _lane_of_json(body: bytes) -> Lane | None:
    # `in` first: it costs a hundredth of what a search through the whole body does.
    if (b"passphrase" in body or b"\\u" in body) and _JSON_PASSPHRASE.search(body):
        return "passphrases"
    return "long" if b'"format"' in body and _JSON_MARKDOWN.search(body) else None


def _lane_of_form(form: bytes) -> Lane | None:
    lane: Lane | None = None
    for pair in form.split(b"&", MAX_FIELDS):  # more fields than that are refused
        name, _, value = pair.partition(b"=")
        if b"%" in name or (name == b"passphrase" and value):
            return "passphrases"
        if name == b"format" and value != b"text":
            lane = "long"
    return lane


@lru_cache(maxsize=256)
def _key_of(name: str) -> str:
    """Where WSGI has the header `name`; nowhere if it has an underscore, which WSGI could not tell from a hyphen."""
    key = "" if "_" in name else name.upper().replace("-", "_")
    return key if key in ("", "CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"


def _latin(path: str) -> str:
    """A path as WSGI has it: its UTF-8 bytes as Latin-1 characters (PEP 3333)."""
    return path if path.isascii() else path.encode("utf-8", "replace").decode("latin-1")
