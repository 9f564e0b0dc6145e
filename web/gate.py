"""The WSGI layer around Flask: what holds for every request stands here, once.

First what the head of a request tells (`admit`): one process, method and path, trusted hosts, the client's identity behind trusted
proxies and the certificate it has shown to them, no prefetching, the announced length. Then the body, the create limit, the
application, the response headers and the access log. Behind the gate a body is whole, has the length it announced, and stands as
bytes in `environ["mayfly.body"]`.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socket import SHUT_RD
from socket import socket as Socket
from typing import Any

from errors import (
    BodyRefused,
    BodyTooLarge,
    BodyTooSlow,
    Damaged,
    KeyMissing,
    LengthRequired,
    MayflyError,
    NotFound,
    PrefetchRefused,
    StoreFailed,
    Unavailable,
    UnknownHost,
    UnsupportedBody,
)
from logs import log_fault
from metrics import Metrics, method_of
from settings import OFF, Settings
from storage.deadline import one_request
from web.answers import HTML, JSON, TEXT, Answer
from web.client_certificates import drop_unbelieved
from web.errors import PROBLEM_JSON, REASON, Unexpected, reason_of
from web.errors import answer as answer_error
from web.limits import Limits
from web.negotiation import wanted_by
from web.paths import CREATE_PATHS, route_of, vault_of
from web.visitor import OFFERS

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

BODY_SECONDS = 10
"""How long a body may take to arrive."""
SMALL_BODY_BYTES = 64 * 1024
"""The longest body anywhere but where messages come in."""
REFUSAL = "mayfly.refusal"
"""Where a server adapter leaves the error with which a request is to be refused."""
BEGAN = "mayfly.began"
"""Where a server adapter leaves the time (`time.perf_counter`) at which a request began to wait for its turn."""
WAITING_COUNTS = "mayfly.waiting_counts"
"""Where a server adapter leaves whether that waiting is taken from the time to ask a database in."""
_LENGTH = "mayfly.length"

_FEATURES_OFF = (
    "accelerometer autoplay camera display-capture encrypted-media fullscreen geolocation gyroscope hid identity-credentials-get "
    "idle-detection keyboard-map local-fonts magnetometer microphone midi otp-credentials payment picture-in-picture "
    "publickey-credentials-create publickey-credentials-get screen-wake-lock serial storage-access usb window-management "
    "xr-spatial-tracking clipboard-read browsing-topics interest-cohort"
).split()

_COMMON_HEADERS = [
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("X-Robots-Tag", "noindex, nofollow, noarchive"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Permissions-Policy",
        ", ".join(["clipboard-write=(self)", "web-share=(self)", *(f"{feature}=()" for feature in _FEATURES_OFF)]),
    ),
]
_CSP = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
_PAGE_CSP = (
    f"{_CSP}; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = [*_COMMON_HEADERS, ("Content-Security-Policy", _CSP)]
_PAGE_HEADERS = [*_COMMON_HEADERS, ("Content-Security-Policy", _PAGE_CSP)]
_VARY = {HTML: "Accept, Accept-Language", JSON: "Accept", PROBLEM_JSON: "Accept", TEXT: "Accept"}
_HSTS = ("Strict-Transport-Security", "max-age=63072000")

_PROBES = ("/healthz", "/readyz")
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?")
_DECIMAL = re.compile("[0-9]{1,18}")

_log = logging.getLogger("mayfly.access")


class Gate:
    """`application` behind everything that holds for all requests."""

    def __init__(
        self,
        application: Application,
        settings: Settings,
        limits: Limits,
        metrics: Metrics,
        express: Callable[[Environ], Answer | None] | None = None,
    ) -> None:
        """`express` answers what it can before `application` is asked; None turns that off."""
        self._metrics = metrics
        self._application = application
        self._express = express
        self._limits = limits
        self._trusted_hosts = frozenset(settings.trusted_hosts)
        self._any_host = (*_PROBES, "/metrics") if settings.metrics_token else _PROBES
        self._trusted_proxies = settings.trusted_proxies
        self._proxy_secret = settings.proxy_secret
        self._max_body_bytes = settings.max_body_bytes
        self._one_process_only = settings.one_process_only
        self._on_network = bool(settings.on_network) or settings.accounts_on_network
        has_accounts = settings.accounts_database_url != OFF
        self._offers = frozenset(
            ("accounts",) * has_accounts
            + ("certificates",) * (settings.certificates_database_url != OFF)
            + ("guarded",) * ("guarded" in settings.databases)
        )
        self._turns_away = False

    def turn_away(self) -> None:
        """From now on `/readyz` answers 503, and load balancers look elsewhere. Who comes all the same is served."""
        self._turns_away = True

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        began = environ.get(BEGAN) or time.perf_counter()
        environ[OFFERS] = self._offers
        if self._on_network:
            # Who waited for a passphrase did not wait for a database.
            with one_request(time.perf_counter() - began if environ.get(WAITING_COUNTS) else 0.0):
                status, headers, body = self._answer(environ)
        else:
            status, headers, body = self._answer(environ)
        headers += _PAGE_HEADERS if ("Content-Type", HTML) in headers else _HEADERS
        if environ["wsgi.url_scheme"] == "https":
            headers.append(_HSTS)
        start_response(status, headers)
        self._tell(environ, int(status[:3]), time.perf_counter() - began)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body  # nothing of ours needs close()

    def _tell(self, environ: Environ, status: int, seconds: float) -> None:
        """Count and log a request, in words from closed sets: nothing that a client chooses is among them."""
        route, method, reason = route_of(environ["PATH_INFO"]), method_of(environ["REQUEST_METHOD"]), environ.get(REASON)
        self._metrics.request(route, method, status, seconds)
        if reason:
            self._metrics.refused(reason)
        if not _log.isEnabledFor(logging.INFO):
            return
        fields = {"event": "request", "method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
        if vault := vault_of(environ["PATH_INFO"]):
            fields["vault"] = vault
        if reason:
            fields["reason"] = reason
        text = f"{method} {route} {status} {fields['ms']} ms" + (f" {reason}" if reason else "")
        _log.info(text, extra={"fields": fields})

    def _answer(self, environ: Environ) -> tuple[str, list[tuple[str, str]], Iterable[bytes]]:
        try:
            if REFUSAL in environ:
                raise environ[REFUSAL]
            length: int = environ[_LENGTH] if _LENGTH in environ else self.admit(environ)
            environ["mayfly.body"] = _read_body(environ, length)
            if environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"] in CREATE_PATHS:
                self._limits.count_create(environ["REMOTE_ADDR"])
            if self._turns_away and environ["PATH_INFO"] == "/readyz":
                answer: Answer | None = Answer(503, TEXT, b"stopping\n", (("Retry-After", "2"),))
            else:
                answer = self._express(environ) if self._express else None
            if answer is None:
                return self._ask_application(environ)
        except Exception as error:
            answer = _refusal(error, environ)
        return _STATUS_LINES[answer.status], headers_of(answer), [answer.body]

    def _ask_application(self, environ: Environ) -> tuple[str, list[tuple[str, str]], Iterable[bytes]]:
        sent: list[Any] = []

        def keep(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            sent[:] = (status, headers)

        body = self._application(environ, keep)
        return sent[0], sent[1], body

    def admit(self, environ: Environ) -> int:
        """Check the head of a request and return how many bytes of body it announces. Raises MayflyError."""
        if self._one_process_only and environ["wsgi.multiprocess"]:
            raise Unavailable("The memory store lives in one process, and this server was started with several workers.", 60)
        drop_unbelieved(environ, self._proxy_secret)
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        # Flask would take `post` for POST and `//` for /, past the limits that stand here.
        if method != method.upper():
            raise BodyRefused("Methods are written in capital letters (RFC 9110 section 9.1).")
        if not path.startswith("/") or path.startswith("//"):
            raise NotFound
        if path not in self._any_host and host_name(environ.get("HTTP_HOST", "")) not in self._trusted_hosts:
            raise UnknownHost
        if self._trusted_proxies:
            self._look_behind_proxies(environ)
        purpose = environ.get("HTTP_SEC_PURPOSE") or environ.get("HTTP_PURPOSE") or environ.get("HTTP_X_MOZ")
        if purpose and ("prefetch" in purpose or "prerender" in purpose or "preview" in purpose):
            raise PrefetchRefused
        environ[_LENGTH] = length = _announced_length(environ, self._max_body_bytes if path in CREATE_PATHS else SMALL_BODY_BYTES)
        return length

    def _look_behind_proxies(self, environ: Environ) -> None:
        """Take the client's address from X-Forwarded-For, from the right, as far as the proxies that wrote it are trusted.

        Whoever comes over a Unix socket has no address, and is one.
        """
        hops = [hop.strip() for hop in environ.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
        client = environ["REMOTE_ADDR"]
        if not self._is_proxy(client):
            return
        if environ.get("HTTP_X_FORWARDED_PROTO") in ("http", "https"):
            environ["wsgi.url_scheme"] = environ["HTTP_X_FORWARDED_PROTO"]
        while hops and self._is_proxy(client) and (hop := _address(hops.pop())):
            client = hop
        environ["REMOTE_ADDR"] = client

    def _is_proxy(self, address: str) -> bool:
        if not address:
            return True
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted_proxies)


def _announced_length(environ: Environ, most_bytes: int) -> int:
    """The length of the body. What is ambiguous is refused before anything looks at it."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise UnsupportedBody("Send the body without a Content-Encoding.")
    announced = environ.get("CONTENT_LENGTH") or "0"
    if not _DECIMAL.fullmatch(announced):
        raise BodyRefused("Content-Length must be one decimal number.")
    if int(announced) > most_bytes:
        raise BodyTooLarge("A request body is at most %(most)s bytes.", most=most_bytes)
    return int(announced)


def _read_body(environ: Environ, length: int) -> bytes:
    """Return the body, whole."""
    if not length:
        return b""
    stream, socket = environ["wsgi.input"], environ.get("gunicorn.socket")
    body: bytes = _read_in_time(socket, stream, length) if socket else stream.read(length)
    if len(body) != length:
        raise BodyRefused("The body is shorter than its Content-Length.")
    return body


def _read_in_time(socket: Any, stream: Any, length: int) -> bytes:
    """Read a body from a gunicorn socket, or raise BodyTooSlow: its own reads would wait for as long as bytes drip."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        # Not the method of a TLS socket, which would leave it without its TLS, and the refusal would go out as plain text.
        Socket.shutdown(socket, SHUT_RD)

    timer = threading.Timer(BODY_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        body: bytes = stream.read(length)
    except OSError:
        body = b""
    finally:
        timer.cancel()
    if late.is_set():
        raise BodyTooSlow(BODY_SECONDS)
    return body


def _refusal(error: Exception, environ: Environ) -> Answer:
    """An error as an answer. What the operator should know is logged."""
    if not isinstance(error, MayflyError):
        log_fault(error)
        error = Unexpected()
    elif isinstance(error, (StoreFailed, KeyMissing, Damaged)):
        log_fault(error)
    environ[REASON] = reason_of(error)
    return answer_error(error, wanted_by(environ))


def headers_of(answer: Answer) -> list[tuple[str, str]]:
    """The headers of an answer by itself; the gate adds those that all answers have."""
    if answer.status == 204:
        return list(answer.headers)
    vary = [("Vary", _VARY[answer.content_type])] if answer.content_type in _VARY else []
    return [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body))), *vary, *answer.headers]


def _address(hop: str) -> str:
    """The IP address in an item of X-Forwarded-For, which some proxies write with a port; empty if there is none."""
    for text in (hop, hop.rpartition(":")[0]):
        try:
            return str(ipaddress.ip_address(text.strip("[]")))
        except ValueError:
            continue
    return ""


def own_origin(environ: Environ) -> str:
    """What the request called this server; the gate has checked the host."""
    return f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}"


def host_name(host: str) -> str:
    """The name in a Host header, in lower case and without its port; empty if it has not that form."""
    match = _HOST.fullmatch(host.lower())
    return match[1] if match and int((match[2] or ":0")[1:]) < 65536 else ""
