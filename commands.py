"""The operator's commands: serve, look after keys and accounts, purge, verify the audit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import click

import keyfile
import messages
from access.accounts import Accounts
from access.sealing import reseal
from audit import Audit
from audit.chain import Statement, read_statements
from database import AccessStore, MessageStore, open_access, open_database
from errors import AuditFailed, BadRequest, Damaged, KeyMissing, LastAdmin, NothingThere, StartRefused, StoreFailed, Taken
from keyfile import KeyFile
from records import Actor, VaultName
from settings import MEMORY_URL, Settings

_OPERATOR = Actor(way="command")
_PASSWORD_FILE = click.option(
    "--password-file",
    type=click.File(encoding="utf-8"),
    help="Read it from the first line of a file, or with - from standard input.",
)


def _tls_options(command: Callable[..., None]) -> Callable[..., None]:
    """The settings of https, as options too."""
    command = click.option("--client-ca", metavar="FILE", help="Authorities of clients' certificates; ca: our own.")(command)
    command = click.option("--tls-key", metavar="FILE", help="The private key of that certificate.")(command)
    return click.option("--tls-certificate", metavar="FILE", help="Serve https with this certificate.")(command)


def _set(tls: Mapping[str, str | None]) -> None:
    """Make settings of options; what they name stands beside the command, if it does not say where."""
    for option, value in tls.items():
        if value is not None:
            path = value if value == "ca" else str(Path(value).absolute())
            os.environ[f"MAYFLY_{option.upper()}"] = path


def build_commands(serve: Callable[[], None], purge_until_stopped: Callable[[Sequence[MessageStore], int], None]) -> click.Group:
    """The command `python server.py`; without a subcommand it serves."""

    @click.group(invoke_without_command=True)
    @_tls_options
    @click.pass_context
    def cli(context: click.Context, /, **tls: str | None) -> None:
        """Mayfly, a server for messages that must not last. Settings are MAYFLY_… variables: see docs/settings.md."""
        if context.invoked_subcommand is None:
            _set(tls)
            serve()
        elif any(tls.values()):
            raise click.UsageError("--tls-certificate, --tls-key and --client-ca are for serving")

    @cli.command("serve")
    @_tls_options
    def serve_(**tls: str | None) -> None:
        """Serve until SIGTERM."""
        _set(tls)
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
        with _access() as (store, keys):
            if store:
                reseal(store, keys)  # a server that did not run since it was retired has not done so
        keyfile.drop(_key_path(), key_id, datetime.now(UTC))
        click.echo(f"dropped {key_id}")

    @cli.group()
    def account() -> None:
        """Make accounts, and look after them: how the first admin comes to be."""

    @account.command()
    @click.argument("email")
    @click.option("--first-name", prompt="First name")
    @click.option("--last-name", prompt="Last name")
    @click.option("--role", "roles", multiple=True, help="admin, auditor, or any other name; may be repeated.")
    @_PASSWORD_FILE
    def add(email: str, first_name: str, last_name: str, roles: tuple[str, ...], password_file: TextIO | None) -> None:
        """Make an account. Its password is asked for, twice."""
        given = {"email": email, "first_name": first_name, "last_name": last_name, "roles": list(roles)}
        with _accounts() as accounts:
            made, _ = accounts.add(_OPERATOR, given | {"password": _password(password_file)})
        click.echo(f"made account {made.id} for {made.email}")

    @account.command("list")
    def list_accounts() -> None:
        """Name the accounts, with their roles."""
        with _accounts() as accounts:
            for found in accounts.all():
                state = "" if found.enabled else "  disabled"
                click.echo(f"{found.id}  {found.email}  {' '.join(sorted(found.roles)) or '-'}{state}")

    @account.command()
    @click.argument("email")
    @_PASSWORD_FILE
    def password(email: str, password_file: TextIO | None) -> None:
        """Set the password of an account, and end its sessions."""
        with _accounts() as accounts:
            found = accounts.of_email(email)
            accounts.set_password(_OPERATOR, found.id, _password(password_file))
        click.echo(f"set the password of {found.email}")

    @account.command()
    @click.argument("email")
    def disable(email: str) -> None:
        """Let an account sign in no more, whatever it shows; what it is signed in by ends at once."""
        with _accounts() as accounts:
            found = accounts.of_email(email)
            accounts.change(_OPERATOR, found.id, {"enabled": False})
        click.echo(f"disabled {found.email}")

    @cli.group()
    def audit() -> None:
        """Verify the audit: who did what, and whether anybody changed that since."""

    @audit.command()
    @click.option(
        "--head",
        "heads",
        type=click.File(errors="replace"),
        multiple=True,
        help="A log, or any text, with heads that were kept elsewhere.",
    )
    def verify(heads: Sequence[TextIO]) -> None:
        """Recompute all of it, and say which entries were changed, are missing or stand in another's place."""
        kept = [head for file in heads for head in _heads_in(file)]
        with _access() as (store, keys):
            verdict = _audit_in(store, keys).verify(kept)
        for fault in verdict.faults:
            click.echo(fault)
        if verdict.faults:
            click.echo(f"{verdict.entries} entries, and not all as they were written")
            sys.exit(1)
        click.echo(f"{verdict.entries} entries, all as they were written")

    @audit.command()
    def key() -> None:
        """Show the public key that signed heads are checked by."""
        with _access() as (store, keys):
            click.echo(_audit_in(store, keys).public_key(), nl=False)

    return cli


@contextmanager
def _access() -> Iterator[tuple[AccessStore | None, KeyFile]]:
    """The store of accounts and audit, if this server has one, and its keys. What goes wrong with them becomes a StartRefused."""
    keys = KeyFile(_key_path())
    store = open_access(Settings.from_environ(os.environ), keys.path)
    try:
        yield store, keys
    except StoreFailed:
        raise StartRefused("the database of accounts and audit does not answer") from None
    except KeyMissing:
        raise StartRefused(
            f"key file {keys.path}: it lacks the key that a secret of this server is sealed with; put it back"
        ) from None
    except Damaged:
        raise StartRefused("a secret of this server, or of its audit, is missing or was changed in its database") from None
    finally:
        if store:
            store.close()


@contextmanager
def _accounts() -> Iterator[Accounts]:
    """The accounts of this server. What is refused becomes a StartRefused."""
    with _access() as (store, keys):
        audit = _audit_in(store, keys)
        assert store
        try:
            yield Accounts(store, audit, keys)
        except (BadRequest, Taken, LastAdmin, NothingThere, AuditFailed) as refusal:
            raise StartRefused(str(refusal)) from None


def _password(file: TextIO | None) -> str:
    """A password that is typed in, twice, or the first line of a file."""
    if file:
        return file.readline().removesuffix("\n").removesuffix("\r")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


def _audit_in(store: AccessStore | None, keys: KeyFile) -> Audit:
    if store is None:
        raise StartRefused("MAYFLY_ACCOUNTS_DATABASE_URL is off, so there are no accounts and no audit")
    return Audit(store, keys)


def _heads_in(file: TextIO) -> list[Statement]:
    heads = [statement for line in file for statement in read_statements(line) if statement.kind == "head"]
    if not heads:
        raise StartRefused(f"{file.name} holds no signed head of an audit (mayfly-audit-head-v1 …)")
    return heads


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
