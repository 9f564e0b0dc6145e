"""gunicorn's threads as this server uses them: nothing of a request is repeated, and none waits for a client for ever.

gthread, because the default sync worker is killed by one slow body, and the memory store with it. A thread waits with each client:
for its TLS handshake and the head of its request, for the body (which the gate times), and for the answer to be taken.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from logs import log_fault

HEAD_SECONDS = 10.0
"""How long a TLS handshake and the head of a request may take, as under granian."""
ANSWER_SECONDS = 120.0
"""How long a request may take with its body, and until its answer has been taken."""
_TICK_SECONDS = 0.5


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """gthread whose patience has an end, and that quotes nothing of a request it cannot parse, in an answer or in a log."""

    def init_process(self) -> None:
        """Start the thread that ends what takes too long, then serve."""
        self._deadlines: dict[Any, float] = {}
        threading.Thread(target=self._end_overdue, name="mayfly-deadlines", daemon=True).start()
        super().init_process()

    def handle(self, conn: Any) -> Any:
        """Read one request of a connection and answer it; whether it stays open.

        If not it is closed here: gunicorn lingers for up to two seconds over that, in the thread that takes new connections.
        """
        self._deadlines[conn] = time.monotonic() + HEAD_SECONDS
        try:
            stays = super().handle(conn)
            if stays is False:
                with suppress(OSError):
                    conn.close(graceful=True)
                conn.close = _closed
            return stays
        finally:
            del self._deadlines[conn]

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request whose head is there."""
        self._deadlines[conn] = time.monotonic() + ANSWER_SECONDS
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a malformed request with a bare 400, and anything else with a 500 that the log explains.

        Of a TLS connection that did not come about, or broke, nobody need hear: every scanner leaves some.
        """
        if isinstance(exc, ssl.SSLError):
            return
        malformed = isinstance(exc, ParseException)
        if not malformed:
            log_fault(exc)
        status = "400 Bad Request" if malformed else "500 Internal Server Error"
        with suppress(OSError):  # the client may have gone
            write_nonblock(client, f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())

    def _end_overdue(self) -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            for conn, deadline in list(self._deadlines.items()):
                if deadline < now:
                    with suppress(OSError):  # it ended just now
                        # Not SSLSocket's, which would leave the thread that waits a socket without its TLS.
                        socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)


def _closed(graceful: bool = False) -> None:
    """What is left to do for a connection that is closed."""
