"""The operator's commands: serve, look after keys, accounts and certificates, purge, verify the audit."""

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
from access.accounts import Accounts
from access.authority import Authority, make_root, read_certificates, read_root, read_signer
from access.certificates import DEFAULT_OVERLAP_DAYS, MAX_OVERLAP_DAYS, Certificates, iso
from access.passwords import require_good
from access.sealing import reseal
from audit import Audit
from audit.chain import Statement, read_statements
from database import AccessStore, MessageStore, open_access, open_certificates, open_database
from errors import (
    AuditFailed,
    BadRequest,
    Damaged,
    KeyMissing,
    LastAdmin,
    NoAuthority,
    NothingThere,
    StartRefused,
    StoreFailed,
    Taken,
    WrongState,
)
from keyfile import KeyFile
from messages.purging import purge
from records import REASONS, Actor, Event, Reason, VaultName
from settings import MEMORY_URL, Settings

_OPERATOR = Actor(way="command")
_CERTIFIER = Actor(scopes=frozenset(("certificates:manage",)), way="command")
_NO_AUDIT = "this database holds no audit: nothing was ever written to it, or it is not the one that there was"
_PASSWORD_FILE = click.option(
    "--password-file",
    type=click.File(encoding="utf-8"),
    help="Read it from the first line of a file, or with - from standard input.",
)
_PASSPHRASE_FILE = click.option(
    "--passphrase-file",
    type=click.File(encoding="utf-8"),
    help="Read it from the first line of a file, or with - from standard input.",
)
_ROOT = click.option(
    "--root",
    "folder",
    metavar="FOLDER",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the root is, to be kept offline.",
)
_FILE = click.Path(path_type=Path, dir_okay=False)
_CSR = click.option(
    "--csr", type=click.File(encoding="utf-8", errors="replace"), required=True, help="The certificate signing request, in PEM."
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

    @cli.command("purge")
    @click.option("--every", metavar="SECONDS", type=click.IntRange(1, 30), help="Go on purging until SIGTERM.")
    def purge_(every: int | None) -> None:
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
        with _access(make=True) as (store, keys):
            if store:
                reseal(store, keys)  # a server that did not run since it was retired has not done so
            certificates = open_certificates(_settings(), keys.path)
            if certificates:
                reseal(certificates, keys)
                certificates.close()
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
        with _accounts(make=True) as accounts:
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
    def ca() -> None:
        """Make the authority of this server, and look after it."""

    @ca.command()
    @_ROOT
    @_PASSPHRASE_FILE
    def init(folder: Path, passphrase_file: TextIO | None) -> None:
        """Make a root, for ten years, and a first issuing certificate. The root's passphrase is asked for, twice."""
        with _certificates(make=True) as certificates:
            if certificates.store.issuers():
                raise StartRefused("there is an authority already; ca renew makes its next issuing certificate")
            passphrase = require_good("passphrase", _passphrase(passphrase_file, confirm=True))
            root = make_root(folder, passphrase, certificates.store.now())
            certificates.audit.write(Event("certificate", "made", _CERTIFIER))
            issuer = certificates.authority.issue_issuer(root)
        click.echo(f"made a root in {folder}: keep that folder offline, and its passphrase elsewhere")
        click.echo(f"{issuer.id} issues until {iso(issuer.expires_at)}")

    @ca.command()
    @_ROOT
    @_PASSPHRASE_FILE
    def renew(folder: Path, passphrase_file: TextIO | None) -> None:
        """Make the next issuing certificate. The ones before it stay trusted until they end."""
        with _certificates() as certificates:
            root = read_root(folder, _passphrase(passphrase_file))
            certificates.audit.write(Event("certificate", "made", _CERTIFIER))
            issuer = certificates.authority.issue_issuer(root)
        click.echo(f"{issuer.id} issues until {iso(issuer.expires_at)}")

    @ca.command("import")
    @click.option("--certificate", required=True, type=_FILE, help="The issuing certificate, in PEM.")
    @click.option("--key", required=True, type=_FILE, help="Its key, in PEM.")
    @click.option("--chain", type=_FILE, help="What leads from it to its root, in PEM.")
    @_PASSPHRASE_FILE
    def import_(certificate: Path, key: Path, chain: Path | None, passphrase_file: TextIO | None) -> None:
        """Let an issuing certificate that there is issue from now on. Without its chain it is trusted itself."""
        with _certificates(make=True) as certificates:
            passphrase = _first_line(passphrase_file) if passphrase_file else None
            signer = read_signer(certificate, key, passphrase)
            certificates.audit.write(Event("certificate", "made", _CERTIFIER))
            issuer = certificates.authority.take_over(signer, read_certificates(chain) if chain else [])
        click.echo(f"{issuer.id} issues until {iso(issuer.expires_at)}")

    @ca.command("list")
    def list_issuers() -> None:
        """Name those who issue, the newest first, and until when."""
        with _certificates() as certificates:
            for issuer in certificates.store.issuers():
                click.echo(f"{issuer.id}  until {iso(issuer.expires_at)}")

    @ca.command()
    def pem() -> None:
        """Show the certificates of the authority, as /ca.pem does."""
        with _certificates() as certificates:
            click.echo(certificates.authority.pem().decode(), nl=False)

    @cli.group()
    def certificate() -> None:
        """Issue certificates to accounts, and look after them."""

    @certificate.command("add")
    @click.argument("email")
    @_CSR
    def add_certificate(email: str, csr: TextIO) -> None:
        """Issue a certificate to an account, for the key of a certificate signing request, and show it."""
        with _certificates() as certificates:
            found = certificates.accounts.account_by_email(email.lower())
            if found is None:
                raise NothingThere
            made = certificates.add(_CERTIFIER, found.id, csr.read())
            click.echo(certificates.pem(_CERTIFIER, made.id).decode(), nl=False)

    @certificate.command("renew")
    @click.argument("certificate_id")
    @_CSR
    @click.option(
        "--overlap",
        metavar="DAYS",
        type=click.IntRange(0, MAX_OVERLAP_DAYS),
        default=DEFAULT_OVERLAP_DAYS,
        show_default=True,
        help="For how long the one that is followed counts as well.",
    )
    def renew_certificate(certificate_id: str, csr: TextIO, overlap: int) -> None:
        """Issue the certificate that follows another, and show it."""
        with _certificates() as certificates:
            made = certificates.renew(_CERTIFIER, certificate_id, csr.read(), overlap)
            click.echo(certificates.pem(_CERTIFIER, made.id).decode(), nl=False)

    @certificate.command("list")
    @click.argument("email", required=False)
    def list_certificates(email: str | None) -> None:
        """Name all certificates, or those of an account, the newest first."""
        with _certificates() as certificates:
            found = certificates.accounts.account_by_email(email.lower()) if email else None
            if email and found is None:
                raise NothingThere
            for one in certificates.all(_CERTIFIER, found.id if found else None):
                click.echo(f"{one.id}  {one.email}  {one.state}  until {iso(one.expires_at)}")

    @certificate.command()
    @click.argument("certificate_id")
    def show(certificate_id: str) -> None:
        """Show a certificate and those above it, in PEM."""
        with _certificates() as certificates:
            click.echo(certificates.pem(_CERTIFIER, certificate_id).decode(), nl=False)

    @certificate.command()
    @click.argument("certificate_id")
    def deactivate(certificate_id: str) -> None:
        """Let a certificate count no more, until it is activated."""
        with _certificates() as certificates:
            certificates.set_state(_CERTIFIER, certificate_id, "inactive")
        click.echo(f"deactivated {certificate_id}")

    @certificate.command()
    @click.argument("certificate_id")
    def activate(certificate_id: str) -> None:
        """Let a certificate that was deactivated count again."""
        with _certificates() as certificates:
            certificates.set_state(_CERTIFIER, certificate_id, "active")
        click.echo(f"activated {certificate_id}")

    @certificate.command()
    @click.argument("certificate_id")
    @click.option("--reason", type=click.Choice(REASONS), default="unspecified", show_default=True)
    def revoke(certificate_id: str, reason: Reason) -> None:
        """Let a certificate count no more, for good."""
        with _certificates() as certificates:
            certificates.set_state(_CERTIFIER, certificate_id, "revoked", reason)
        click.echo(f"revoked {certificate_id}")

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
        if not verdict.entries and not verdict.faults:
            raise StartRefused(_NO_AUDIT)
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
            audit = _audit_in(store, keys)
            if not audit.has_begun():
                raise StartRefused(_NO_AUDIT)
            click.echo(audit.public_key(), nl=False)

    return cli


@contextmanager
def _access(make: bool = False) -> Iterator[tuple[AccessStore | None, KeyFile]]:
    """The store of accounts and audit, if this server has one, and its keys. What goes wrong with them becomes a StartRefused.

    Only with `make` is a file made that is not there: whoever looks at what was lost must not be told that nothing is wrong.
    """
    keys = KeyFile(_key_path())
    store = open_access(_settings(), keys.path, make=make)
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
def _accounts(make: bool = False) -> Iterator[Accounts]:
    """The accounts of this server. What is refused becomes a StartRefused."""
    with _access(make) as (store, keys):
        audit = _audit_in(store, keys)
        assert store
        try:
            yield Accounts(store, audit, keys)
        except (BadRequest, Taken, LastAdmin, NothingThere, AuditFailed) as refusal:
            raise StartRefused(str(refusal)) from None


@contextmanager
def _certificates(make: bool = False) -> Iterator[Certificates]:
    """The certificates of this server. What is refused becomes a StartRefused."""
    settings = _settings()
    with _access(make) as (accounts, keys):
        audit = _audit_in(accounts, keys)
        store = open_certificates(settings, keys.path, make=make)
        if store is None:
            raise StartRefused("MAYFLY_CERTIFICATES_DATABASE_URL is off, so there are no certificates")
        assert accounts
        try:
            yield Certificates(store, Authority(store, keys), accounts, audit, settings.certificate_days)
        except (BadRequest, NoAuthority, WrongState, NothingThere, AuditFailed) as refusal:
            raise StartRefused(str(refusal)) from None
        finally:
            store.close()


def _password(file: TextIO | None) -> str:
    """A password that is typed in, twice, or the first line of a file."""
    if file:
        return _first_line(file)
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


def _passphrase(file: TextIO | None, confirm: bool = False) -> str:
    """The passphrase of a root, typed in, to be made known twice, or the first line of a file."""
    if file:
        return _first_line(file)
    return str(click.prompt("Passphrase of the root", hide_input=True, confirmation_prompt=confirm))


def _first_line(file: TextIO) -> str:
    return file.readline().removesuffix("\n").removesuffix("\r")


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
            bodies += purge(store)
        except StoreFailed:
            down.append(vault)
    click.echo(f"purged {bodies}")
    if down:
        raise StartRefused(f"not purged, as its database does not answer: the {' and the '.join(down)} vault")


def _settings() -> Settings:
    return Settings.from_environ(os.environ)


def _key_path() -> Path:
    return _settings().key_file or keyfile.default_path()
