"""Between granian and the gate: granian's event loop awaits a request's body, and only then does the request take its turn.

Under granian's WSGI interface a thread reads the body: with one thread a slow body stops everybody, with many the CPU per request
nearly doubles, and no read can time out. Its RSGI interface is asynchronous, so slow clients cost no thread, and a body that does
not arrive in time is refused. The work itself takes 0.1 ms and is done on the loop; what may take long goes to a few threads.
(Measured in decision record 0002.) RSGI also shows headers as they were sent: a name with an underscore, which WSGI cannot tell
from one with a hyphen, is dropped here.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

from errors import MayflyError
from web.gate import BODY_LATE, BODY_SECONDS, Application, Environ, log_fault

SLOW_THREADS = 8
"""Of these, four at most derive a key from a passphrase at the same time."""
INLINE_BODY_BYTES = 64 * 1024


class RsgiServer:
    """`application` (WSGI) as an RSGI application."""

    def __init__(self, application: Application, max_body_bytes: int) -> None:
        self._application = application
        self._max_body_bytes = max_body_bytes
        self._threads = ThreadPoolExecutor(SLOW_THREADS, thread_name_prefix="mayfly-slow")
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
        environ = self._environ(scope)
        body = await self._body(environ, protocol)
        environ["wsgi.input"] = BytesIO(body)
        if may_take_long(environ, body):
            status, headers, answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._call, environ)
        else:
            status, headers, answer = self._call(environ)
        protocol.response_bytes(status, headers, answer)

    def _environ(self, scope: Any) -> Environ:
        environ: Environ = self._base.copy()
        environ["REQUEST_METHOD"] = scope.method
        environ["PATH_INFO"] = _latin(scope.path)
        environ["QUERY_STRING"] = scope.query_string
        environ["wsgi.url_scheme"] = scope.scheme
        environ["REMOTE_ADDR"] = scope.client.rpartition(":")[0].strip("[]")
        environ["SERVER_NAME"], _, environ["SERVER_PORT"] = scope.server.rpartition(":")
        for name, value in scope.headers.items():
            if "_" in name:
                continue
            key = "HTTP_" + name.upper().replace("-", "_")
            environ[key] = f"{environ[key]}, {value}" if key in environ else value
        # Granian's items leave values out that are not ASCII. Something that nobody takes stands for them: an Idempotency-Key that
        # was sent must not count as none.
        for name in scope.headers.keys():  # noqa: SIM118 - not a dict
            if "_" not in name:
                environ.setdefault("HTTP_" + name.upper().replace("-", "_"), "\xff")
        for key in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            if (http_key := f"HTTP_{key}") in environ:
                environ[key] = environ.pop(http_key)
        return environ

    async def _body(self, environ: Environ, protocol: Any) -> bytes:
        """Await the body if it is one that the gate will take. What did not arrive in time or whole is for the gate to refuse."""
        length = environ.get("CONTENT_LENGTH", "0")
        if "HTTP_TRANSFER_ENCODING" in environ or not length.isdecimal() or not 0 < int(length) <= self._max_body_bytes:
            return b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return bytes(await protocol())
        except TimeoutError:
            environ[BODY_LATE] = True
            return b""
        except Exception:  # granian's RSGIProtocolClosed and relatives: the client went away in the middle
            return b""

    def _call(self, environ: Environ) -> tuple[int, list[tuple[str, str]], bytes]:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            started[:] = (int(status[:3]), headers)

        try:
            body = self._application(environ, start_response)
            answer = b"".join(body)
            if hasattr(body, "close"):
                body.close()
            return started[0], started[1], answer
        except Exception as fault:
            if not isinstance(fault, MayflyError):
                log_fault(fault)
            return 500, [("Content-Length", "0"), ("Retry-After", "5")], b""


def may_take_long(environ: Environ, body: bytes) -> bool:
    """Whether a request may keep the loop for more than a few milliseconds. A hint for scheduling, not a check.

    Passphrases (0.2 s), markdown, long bodies, and whatever purges. What an escape hides from this only takes its time on the loop.
    """
    path: str = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return path == "/admin"
    return bool(
        len(body) > INLINE_BODY_BYTES
        or b"passphrase" in body
        or b"markdown" in body
        or environ["QUERY_STRING"]
        or path in ("/admin", "/delete")
    )


def _latin(path: str) -> str:
    """A path as WSGI has it: its UTF-8 bytes as Latin-1 characters (PEP 3333)."""
    return path if path.isascii() else path.encode("utf-8", "replace").decode("latin-1")
