"""Mayfly: a server for messages that must not last. `create_app()` joins everything; `python server.py` serves.

Settings and keys enter here, once, and go down as arguments.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import keyfile
from access.audiences import admits
from access.authority import Authority
from access.certificates import Certificates
from access.delivery import Deliverer
from access.message_notices import MessageNotices
from access.roles import redacted
from access.services import Access, access_on
from access.webhooks import Webhooks
from audit import Audit
from commands import build_commands
from database import Clock, MessageStore, open_access, open_certificates, open_database, wall_clock
from errors import StartRefused
from keyfile import KeyFile
from logs import log_to_stderr
from messages import Notify, Vault, anyone_with_the_link, nobody_asks, whoever_is_signed_in, whoever_shows_a_certificate
from metrics import Metrics
from scheduler import Housekeeping, PurgeScheduler, purge_until_stopped
from settings import Settings
from web.app import build_app
from web.authentication import Authentication
from web.express import Express
from web.gate import Gate
from web.handlers import Handlers
from web.limits import Limits
from web.rsgi import RsgiServer
from web.scrape import Scrape

HEADER_MILLISECONDS = 10_000
CONNECTIONS = 1024
_ADMIT = {"open": anyone_with_the_link, "guarded": whoever_is_signed_in, "sealed": whoever_shows_a_certificate}
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound


def create_app(settings: Settings | None = None, now: Clock | None = None) -> Gate:
    """Build the server as a WSGI application and start its purge.

    `settings` come from the environment if not given; `now` replaces the store's clock. Raises StartRefused.
    """
    settings = settings or Settings.from_environ(os.environ)
    log_to_stderr(settings)
    metrics = Metrics()
    keys = _key_file(settings)
    access = open_accounts(settings, keys, now)
    notices = access.message_notices if access else None
    vaults = open_vaults(settings, now, metrics, keys, access.audit if access else None, notices.tell if notices else None)
    access = access and _handing_over(access, vaults)
    # What is registered here runs after what is registered later: the purge has stopped by then.
    for vault in vaults:
        if vault.name in settings.on_network:
            atexit.register(vault.store.close)
    if access:
        atexit.register(access.store.close)
        if access.webhooks:
            atexit.register(access.webhooks.store.close)
        housekeeping = Housekeeping(access.store, keys, access.audit, settings.audit_days, access.tokens.keys, access.certificates)
        housekeeping.start()
        atexit.register(housekeeping.stop)
        if access.webhooks and notices:
            deliverer = Deliverer(access.webhooks, notices)
            deliverer.start()
            atexit.register(deliverer.stop)
    if settings.purge_seconds:
        purge = PurgeScheduler([vault.store for vault in vaults], settings.purge_seconds, [vault.metrics for vault in vaults])
        purge.start()
        atexit.register(purge.stop)
    limits = Limits(settings.create_rate)
    handlers = [Handlers(vault, settings) for vault in vaults]
    authentication = Authentication(settings, keys, limits, access)
    app = build_app(handlers, authentication, Scrape(vaults, metrics) if settings.metrics_token else None)
    express = Express(handlers[0], settings.create == "anyone") if settings.express else None
    return Gate(app, settings, limits, metrics, express)


def open_vaults(
    settings: Settings,
    now: Clock | None = None,
    metrics: Metrics | None = None,
    keys: KeyFile | None = None,
    audit: Audit | None = None,
    notify: Notify | None = None,
) -> list[Vault]:
    """The vaults of this server, the open one first: their stores, and the keys that they share. Raises StartRefused."""
    keys = keys or _key_file(settings)
    metrics = metrics or Metrics()
    return [
        Vault(
            store=open_database(settings, name, now),
            keys=keys,
            lease_seconds=settings.lease_seconds,
            max_message_bytes=settings.max_message_bytes,
            name=name,
            admit=_ADMIT[name],
            metrics=metrics.vaults[name],
            admits=admits,
            redact=redacted,
            audit=audit,
            audits_links=name != "open" or settings.audit_open,
            notify=notify or nobody_asks,
        )
        for name in settings.databases
    ]


def open_accounts(settings: Settings, keys: KeyFile, now: Clock | None = None) -> Access | None:
    """The accounts of this server, what they sign in with, and the audit; None if it has none. Raises StartRefused."""
    store = open_access(settings, keys.path, now)
    if store is None:
        return None
    access = access_on(store, Audit(store, keys, settings.audit_addresses), keys)
    certificates = open_certificates(settings, keys.path, now)
    if certificates is None:
        return access
    return replace(
        access,
        certificates=Certificates(certificates, Authority(certificates, keys), store, access.audit, settings.certificate_days),
        webhooks=Webhooks(certificates, keys, access.audit, settings.webhook_private),
        message_notices=MessageNotices(certificates, access.audit, now or wall_clock),
    )


def _handing_over(access: Access, vaults: Sequence[Vault]) -> Access:
    """The same, with the guarded vault, by which keys of certificates that are made here are handed over."""
    guarded = next((vault for vault in vaults if vault.name == "guarded"), None)
    return replace(access, certificates=access.certificates and replace(access.certificates, vault=guarded))


def _key_file(settings: Settings) -> KeyFile:
    """The embedded default makes its key file at the first start. Raises StartRefused."""
    path = settings.key_file or keyfile.default_path()
    if settings.embedded and settings.key_file is None and not os.path.exists(path):  # noqa: PTH110 - this one never raises
        keyfile.create(path)
    return KeyFile(path)


def serve(settings: Settings | None = None, now: Clock | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight are finished. Raises StartRefused."""
    settings = settings or Settings.from_environ(os.environ)
    _require_free_address(settings.host, settings.port)
    serve_gate: Callable[[Gate], None]
    if settings.tls_certificate:
        from web.https import HttpsServer

        serve_gate = HttpsServer(settings).serve
    else:
        serve_gate = partial(_serve_http, settings)
    gate = create_app(settings, now)
    url = settings.public_url or _local_url(settings)
    print(f"Mayfly serves {url}" + (" and this machine's other addresses" if settings.host in _EVERYWHERE else ""))
    key_file = settings.key_file or keyfile.default_path()
    print(f"Keys are in {key_file}; the admin token is its field admin_token, for {url}/admin", flush=True)
    serve_gate(gate)


def _serve_http(settings: Settings, gate: Gate) -> None:
    import uvloop
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.server.embed import Server

    application = RsgiServer(gate, settings)
    server = Server(
        application,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=CONNECTIONS,
        backpressure=CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_MILLISECONDS),
        log_enabled=False,
    )

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def drain() -> None:
            gate.turn_away()
            loop.call_later(settings.drain_seconds, server.stop)

        loop.add_signal_handler(signal.SIGTERM, drain if settings.drain_seconds else server.stop)
        loop.add_signal_handler(signal.SIGINT, server.stop)
        # A hang-up would have replaced the worker, and the memory store with it.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        await server.serve()

    uvloop.run(run())


def _local_url(settings: Settings) -> str:
    """Where this machine reaches the server, by a name that it answers to."""
    host = _EVERYWHERE.get(settings.host, settings.host)
    return f"{'https' if settings.tls_certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _require_free_address(host: str, port: int) -> None:
    """Raise StartRefused unless this address can be listened on, and nobody does.

    granian binds with SO_REUSEPORT: a second server on the port would start, and each would answer 404 for half of the links.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartRefused(f"MAYFLY_HOST, MAYFLY_PORT: cannot listen on {host} port {port} ({error.strerror})") from None


def _purge_until_stopped(stores: Sequence[MessageStore], seconds: float) -> None:
    log_to_stderr(Settings.from_environ(os.environ))
    purge_until_stopped(stores, seconds)


def main() -> None:
    """The operator's commands; a refusal to start is one line and exit code 1."""
    try:
        build_commands(serve, _purge_until_stopped)(standalone_mode=True)
    except StartRefused as refusal:
        sys.exit(f"mayfly: {refusal}")


if __name__ == "__main__":
    main()
