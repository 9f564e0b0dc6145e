"""HTTPS without a proxy: gunicorn's threads in this very process, on a TLS socket, set up by gunicorn.conf.py.

gunicorn and not granian, because only what has the socket can say which certificate a client showed on it. In this process, because
then it starts, refuses to start, stops and keeps messages in memory as it does under granian.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType

from gunicorn.app.base import Application
from gunicorn.sock import create_sockets

from settings import Settings
from web.gate import Gate
from web.worker import PatientWorker

_CONFIGURATION = Path(__file__).resolve().parent.parent / "gunicorn.conf.py"


class HttpsServer(Application):  # type: ignore[misc]
    """gunicorn as its own command would be configured by the environment, with one worker: this process."""

    def __init__(self, settings: Settings) -> None:
        """Read the certificates. Raises StartRefused."""
        self._drain_seconds = settings.drain_seconds
        super().__init__()

    def load_config(self) -> None:
        """As `gunicorn` in the project's folder does it, but for its command line."""
        self.load_config_from_file(str(_CONFIGURATION))
        self.cfg.set("workers", 1)

    def load(self) -> Gate:
        """The application."""
        return self._gate

    def serve(self, gate: Gate) -> None:
        """Serve until SIGTERM or SIGINT; requests in flight are finished."""
        self._gate = gate
        log = self.cfg.logger_class(self.cfg)
        sockets = create_sockets(self.cfg, log)
        _OnlyWorker(1, os.getppid(), sockets, self, self.cfg.timeout, self.cfg, log).serve(self._drain_seconds)


class _OnlyWorker(PatientWorker):
    """A worker that is the process itself: nobody would start another one, and whoever started this one may go."""

    def serve(self, drain_seconds: int) -> None:
        self._drain_seconds = drain_seconds
        self.pid = os.getpid()
        self.init_process()

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def is_parent_alive(self) -> bool:
        return True

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: say so on /readyz for as long as is set, then finish what is there."""
        if self._drain_seconds:
            self.wsgi.turn_away()
            threading.Timer(self._drain_seconds, super().handle_exit, (number, frame)).start()
        else:
            super().handle_exit(number, frame)
