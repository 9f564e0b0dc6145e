"""Settings for `gunicorn 'server:create_app()'`, and for `python server.py` where it speaks https itself.

Many threads, because one waits with each slow client (see web/worker.py): put a buffering proxy in front on a public address.
"""

import logging
import os
import shutil
import sys
import tempfile

from errors import StartRefused
from settings import Settings
from web.tls import server_context
from web.worker import PatientWorker

try:
    _settings = Settings.from_environ(os.environ)
    _context = server_context(_settings) if _settings.tls_certificate else None
except StartRefused as refusal:
    sys.exit(f"mayfly: {refusal}")

bind = f"{_settings.host}:{_settings.port}"
worker_class = PatientWorker
# As many workers as --workers or WEB_CONCURRENCY say, else one; the memory store refuses more below.
threads = 256
keepalive = 5
graceful_timeout = 30
# The application takes its requests apart itself; at `warning` gunicorn would log malformed request lines, links included.
loglevel = "error"
# Threads do not survive a fork: the application is built in the worker.
preload_app = False
# Nobody speaks for a client but the proxies that MAYFLY_TRUSTED_PROXIES names. Over a Unix socket gunicorn would believe anybody
# about the scheme, and about where a path begins.
forwarded_allow_ips = ""
secure_scheme_headers = {}
forwarder_headers = ""
# https by MAYFLY_TLS_CERTIFICATE. All connections have one context: whose tickets resume a session is its business.
certfile, keyfile = (str(path) if path else None for path in (_settings.tls_certificate, _settings.tls_key))
# Whoever may connect to a Unix socket is believed about the certificates of clients.
umask = 0o007
# It would let others on this machine stop workers or add some.
control_socket_disable = True


def ssl_context(config, make_default):
    """The context of a connection."""
    return _context


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
