"""The WSGI layer around Flask: what holds for every request stands here, once.

In this order: trusted hosts, the client's identity behind trusted proxies, no prefetching, the body guard, the create limit; then
the application; then the response headers and the access log. Behind the gate a body is whole, has the length it announced, and
stands as bytes in `environ["mayfly.body"]`.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from http import HTTPStatus
from io import BytesIO
from typing import Any

from errors import (
    BodyRefused,
    BodyTooLarge,
    BodyTooSlow,
    LengthRequired,
    MayflyError,
    NotFound,
    PrefetchRefused,
    Unavailable,
    UnknownHost,
    UnsupportedBody,
)
from settings import Settings
from web.answers import HTML, JSON, TEXT, Answer
from web.errors import PROBLEM_JSON, Unexpected
from web.errors import answer as answer_error
from web.limits import Limits
from web.negotiation import wanted_by

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

BODY_SECONDS = 10
"""How long a body may take to arrive."""
BODY_LATE = "mayfly.body_late"
"""Set in the environ by a server adapter that awaited the body in vain."""

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
_ROUTES = {"": "/", "message": "/message/…", "receipt": "/receipt/…", "static": "/static/…", "admin": "/admin", "delete": "/delete"}
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}

_log = logging.getLogger("mayfly.access")
_faults = logging.getLogger("mayfly.faults")


class Gate:
    """`application` behind everything that holds for all requests."""

    def __init__(self, application: Application, settings: Settings, limits: Limits) -> None:
        self._application = application
        self._limits = limits
        self._trusted_hosts = frozenset(settings.trusted_hosts)
        self._trusted_proxies = settings.trusted_proxies
        self._max_body_bytes = settings.max_body_bytes
        self._one_process_only = settings.embedded

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        answer: Answer | None = None
        body: Iterable[bytes] = ()
        sent: list[Any] = []

        def keep(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            sent[:] = (status, headers)

        try:
            self._admit(environ)
            body = self._application(environ, keep)
        except MayflyError as error:
            answer = answer_error(error, wanted_by(environ))
        except Exception as fault:
            log_fault(fault)
            answer = answer_error(Unexpected(), wanted_by(environ))
        if answer:
            body = [answer.body]
            sent = [_STATUS_LINES[answer.status], headers_of(answer)]
        status, headers = sent
        page = any(name.lower() == "content-type" and value.startswith("text/html") for name, value in headers)
        headers += _PAGE_HEADERS if page else _HEADERS
        if environ["wsgi.url_scheme"] == "https":
            headers.append(_HSTS)
        start_response(status, headers)
        if _log.isEnabledFor(logging.INFO):
            route = _ROUTES.get(environ["PATH_INFO"].split("/", 2)[1] if "/" in environ["PATH_INFO"] else "", "other")
            took = (time.perf_counter() - started) * 1000
            _log.info("%s %s %s %.1f ms", environ["REQUEST_METHOD"][:10], route, status[:3], took)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body  # nothing of ours needs close()

    def _admit(self, environ: Environ) -> None:
        if self._one_process_only and environ["wsgi.multiprocess"]:
            raise Unavailable("The memory store lives in one process, and this server was started with several workers.", 60)
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        # Flask would take `post` for POST and `//` for /, past the limits that stand here.
        if method != method.upper():
            raise BodyRefused("Methods are written in capital letters (RFC 9110 section 9.1).")
        if not path.startswith("/") or path.startswith("//"):
            raise NotFound
        if path not in _PROBES and _host_name(environ.get("HTTP_HOST", "")) not in self._trusted_hosts:
            raise UnknownHost
        if self._trusted_proxies:
            self._look_behind_proxies(environ)
        purpose = environ.get("HTTP_SEC_PURPOSE") or environ.get("HTTP_PURPOSE") or environ.get("HTTP_X_MOZ")
        if purpose and ("prefetch" in purpose or "prerender" in purpose or "preview" in purpose):
            raise PrefetchRefused
        environ["mayfly.body"] = body = self._read_body(environ)
        environ["wsgi.input"] = BytesIO(body)
        if path == "/" and method == "POST":
            self._limits.count_create(environ["REMOTE_ADDR"])

    def _look_behind_proxies(self, environ: Environ) -> None:
        """Take the client's address from X-Forwarded-For, from the right, as far as the proxies that wrote it are trusted."""
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
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted_proxies)

    def _read_body(self, environ: Environ) -> bytes:
        """Return the body, whole. What is ambiguous or not all there is refused before anything looks at it."""
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise LengthRequired
        if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
            raise UnsupportedBody("Send the body without a Content-Encoding.")
        announced = environ.get("CONTENT_LENGTH") or "0"
        if not re.fullmatch("[0-9]{1,18}", announced):
            raise BodyRefused("Content-Length must be one decimal number.")
        length = int(announced)
        if length > self._max_body_bytes:
            raise BodyTooLarge("A request body is at most %(most)s bytes.", most=self._max_body_bytes)
        if not length:
            return b""
        if environ.get(BODY_LATE):
            raise BodyTooSlow(BODY_SECONDS)
        with _deadline(environ.get("gunicorn.socket")) as late:
            try:
                body = environ["wsgi.input"].read(length)
            except OSError:
                body = b""
        if late.is_set():
            raise BodyTooSlow(BODY_SECONDS)
        if len(body) != length:
            raise BodyRefused("The body is shorter than its Content-Length.")
        return bytes(body)


@contextmanager
def _deadline(socket: Any) -> Any:
    """Stop reading from a gunicorn socket when a body takes too long: its own reads would wait for as long as bytes drip."""
    late = threading.Event()
    if socket is None:
        yield late
        return

    def give_up() -> None:
        late.set()
        socket.shutdown(0)  # SHUT_RD

    timer = threading.Timer(BODY_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def headers_of(answer: Answer) -> list[tuple[str, str]]:
    """The headers of an answer by itself; the gate adds those that all answers have."""
    vary = [("Vary", _VARY[answer.content_type])] if answer.content_type in _VARY else []
    return [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body))), *vary, *answer.headers]


def log_fault(fault: BaseException) -> None:
    """Log where a fault came from. Never its message: that may quote what somebody wrote."""
    frames = traceback.extract_tb(fault.__traceback__)
    _faults.error("%s at %s", type(fault).__name__, " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames)))


def _address(hop: str) -> str:
    """The IP address in an item of X-Forwarded-For, which some proxies write with a port; empty if there is none."""
    for text in (hop, hop.rpartition(":")[0]):
        try:
            return str(ipaddress.ip_address(text.strip("[]")))
        except ValueError:
            continue
    return ""


def _host_name(host: str) -> str:
    """The name in a Host header, in lower case and without its port; empty if it has not that form."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", host.lower())
    return match[1] if match and int((match[2] or ":0")[1:]) < 65536 else ""
