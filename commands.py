"""The operator's commands: serve, look after keys, purge."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

import keyfile
import messages
from database import MessageStore, open_database
from errors import StartRefused, StoreFailed
from records import VaultName
from settings import MEMORY_URL, Settings


def build_commands(serve: Callable[[], None], purge_until_stopped: Callable[[Sequence[MessageStore], int], None]) -> click.Group:
    """The command `python server.py`; without a subcommand it serves."""

    @click.group(invoke_without_command=True)
    @click.pass_context
    def cli(context: click.Context) -> None:
        """Mayfly, a server for messages that must not last. Settings are MAYFLY_… variables: see docs/settings.md."""
        if context.invoked_subcommand is None:
            serve()

    @cli.command("serve")
    def serve_() -> None:
        """Serve until SIGTERM."""
        serve()

    @cli.command()
    @click.option("--every", metavar="SECONDS", type=click.IntRange(1, 30), help="Go on purging until SIGTERM.")
    def purge(every: int | None) -> None:
        """Remove what has expired from the stores, once (for cron) or again and again (as a service of its own)."""
        settings = Settings.from_environ(os.environ)
        stores = {vault: open_database(settings, vault) for vault, url in settings.databases.items() if url != MEMORY_URL}
        if not stores:
            raise StartRefused("the memory store lives inside the server, which purges it; POST /delete asks it to")
        if every is None:
            _purge_once(stores)
        else:
            purge_until_stopped(list(stores.values()), every)
        for store in stores.values():
            store.close()

    @cli.group()
    def keys() -> None:
        """Make and change the key file."""

    @keys.command()
    def create() -> None:
        """Make a key file with a new key and a new admin token."""
        ring = keyfile.create(_key_path())
        click.echo(f"made {_key_path()} with key {ring.current}; the admin token is its field admin_token")

    @keys.command()
    def rotate() -> None:
        """Add a new key and make it current. A running server picks it up within a second."""
        click.echo(f"current key is now {keyfile.rotate(_key_path(), datetime.now(UTC))}; the old one is kept for opening")

    @keys.command("list")
    def list_() -> None:
        """Name the keys, and when each was retired."""
        for name, state in keyfile.describe(_key_path()):
            click.echo(f"{name}  {state}")

    @keys.command()
    @click.argument("key_id")
    def drop(key_id: str) -> None:
        """Remove a key that was retired at least eight days ago."""
        keyfile.drop(_key_path(), key_id, datetime.now(UTC))
        click.echo(f"dropped {key_id}")

    return cli


def _purge_once(stores: Mapping[VaultName, MessageStore]) -> None:
    """Purge each store; those whose database is down take nothing from the others. Raises StartRefused at the end."""
    bodies, down = 0, []
    for vault, store in stores.items():
        try:
            bodies += messages.purge(store)
        except StoreFailed:
            down.append(vault)
    click.echo(f"purged {bodies}")
    if down:
        raise StartRefused(f"not purged, as its database does not answer: the {' and the '.join(down)} vault")


def _key_path() -> Path:
    return Settings.from_environ(os.environ).key_file or keyfile.default_path()
