"""Settings for `gunicorn 'server:create_app()'`. Granian (`python server.py`) is the default and needs none of this.

gthread, because the default sync worker is killed by one slow body, and the memory store with it. Many threads, because a thread
waits with each slow client: put a buffering proxy in front of it on a public address.
"""

import logging
import os
import shutil
import sys
import tempfile
from contextlib import suppress

from gunicorn.http.errors import ParseException
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from errors import StartRefused
from logs import log_fault
from settings import Settings

try:
    _settings = Settings.from_environ(os.environ)
except StartRefused as refusal:
    sys.exit(f"mayfly: {refusal}")


class QuietThreadWorker(ThreadWorker):
    """gthread that repeats nothing of a request it cannot parse: gunicorn would quote it in its answer, and links in its log."""

    def handle_error(self, req, client, addr, exc):
        """Answer a malformed request with a bare 400, and anything else with a 500 that the log explains."""
        malformed = isinstance(exc, ParseException)
        if not malformed:
            log_fault(exc)
        status = "400 Bad Request" if malformed else "500 Internal Server Error"
        with suppress(OSError):  # the client may have gone
            write_nonblock(client, f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())


bind = f"{_settings.host}:{_settings.port}"
worker_class = QuietThreadWorker
# As many workers as --workers or WEB_CONCURRENCY say, else one; the memory store refuses more below.
threads = 256
keepalive = 5
graceful_timeout = 30
# The application takes its requests apart itself; at `warning` gunicorn would log malformed request lines, links included.
loglevel = "error"
# Threads do not survive a fork: the application is built in the worker.
preload_app = False
# Nobody speaks for a client but the proxies that MAYFLY_TRUSTED_PROXIES names.
forwarded_allow_ips = ""


def on_starting(server):
    """Refuse what would give each worker a memory store of its own, or a store without its purge."""
    if _settings.one_process_only and server.cfg.workers > 1:
        sys.exit("mayfly: a memory store lives in one process; run gunicorn with one worker, or set all MAYFLY_…DATABASE_URL")
    if server.cfg.preload_app:
        sys.exit("mayfly: run gunicorn without --preload, which would leave the purge behind in the parent process")
    _share_metrics(server)


def _share_metrics(server):
    """Make the folder through which the workers count together: theirs alone, and there before one of them imports the library."""
    folder = tempfile.mkdtemp(prefix="mayfly-metrics-")
    os.chown(folder, server.cfg.uid, server.cfg.gid)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder


def on_exit(server):
    """Remove the folder of the metrics."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


def nworkers_changed(server, new_value, old_value):
    """SIGTTIN asks for another worker; the memory store has room for one."""
    if _settings.one_process_only and old_value and new_value > 1:
        logging.getLogger("mayfly").error("a memory store lives in one process; not adding a worker")
        server.num_workers = 1
