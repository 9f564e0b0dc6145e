"""The commands. Secrets are asked for without echo or read from standard input; none is taken from an option.

Exit codes: 0 done, 2 wrong usage, 3 nothing there (opened, burned, expired), 4 passphrase or key wrong or missing, 5 the server
refused or cannot be reached, 6 the content cannot be opened or written.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import httpx
from rich.console import Console
from rich.progress import Progress

from mayfly.api import Api, Link, ServerError, Waiting, read_link
from mayfly.envelope import EnvelopeError, Plain, WrongKey, decode_key, decrypt, encode_key, encrypt, new_key, proof_of

GONE, WRONG_KEY, SERVER, CONTENT = 3, 4, 5, 6
MAX_CONTENT_BYTES = 512 * 1024 * 1024
"""What an opened message may inflate to: more than any server's limit, less than the memory of a machine."""
_BAR_FROM_BYTES = 256 * 1024
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
@click.version_option(package_name="mayfly-client")
def cli() -> None:
    """Send messages that must not last, and open them."""


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if not match or not 60 <= int(match[1]) * _UNITS[match[2]] <= 604_800:
        raise click.BadParameter("from 1m to 7d, such as 30m, 1h or 2d")
    return int(match[1]) * _UNITS[match[2]]


@cli.command()
@click.argument("source", type=click.Path(dir_okay=False, allow_dash=True), default="-", metavar="[FILE|-]")
@click.option("--views", type=click.IntRange(1, 100), default=1, show_default=True, help="How often it can be opened.")
@click.option("--any-number", is_flag=True, help="Any number of openings until it expires.")
@click.option("--expires", callback=_seconds, default="7d", show_default=True, help="When it is gone: 30m, 1h, 2d; at most 7d.")
@click.option("--passphrase", "ask_passphrase", is_flag=True, help="Ask for a passphrase that readers must know.")
@click.option("--file", "as_file", is_flag=True, help="Send FILE as a file, with its name; any content.")
@click.option("--markdown", is_flag=True, help="The text is markdown.")
@click.option("--server-encryption", is_flag=True, help="Let the server encrypt, and be able to read: for readers with curl only.")
@click.option("--server", envvar="MAYFLY_SERVER", default="http://127.0.0.1:8000", show_default=True, help="Or MAYFLY_SERVER.")
@click.option("--json", "as_json", is_flag=True, help="Print link, receipt and times as JSON.")
def send(
    source: str, views: int, any_number: bool, expires: int, ask_passphrase: bool, as_file: bool, markdown: bool,
    server_encryption: bool, server: str, as_json: bool,
) -> None:  # fmt: skip
    """Send a text (from FILE or standard input) and print its secret link.

    The text is encrypted here; the server cannot read it. The receipt goes to standard error.
    """
    plain = _read_source(source, as_file, markdown)
    passphrase = _ask_passphrase(confirm=True) if ask_passphrase else None
    fields: dict[str, Any] = {"expires_in": expires, "views": None if any_number else views}
    fragment = ""
    if server_encryption:
        if plain.file is not None:
            raise click.UsageError("Files are always end-to-end encrypted; leave --server-encryption out.")
        fields |= {"message": plain.text, "format": plain.format, **({"passphrase": passphrase} if passphrase else {})}
    else:
        key = new_key()
        fragment = "#" + encode_key(key)
        fields |= {"document": encrypt(plain, key, passphrase), "proof": proof_of(key, passphrase)}
        fields["needs_passphrase"] = passphrase is not None
    with _api() as api, _bar(len(plain.file or plain.text)) as advance:
        created = api.create(server, fields, advance)
    if as_json:
        click.echo(json.dumps({**created, "link": created["link"] + fragment}))
        return
    click.echo(created["link"] + fragment)
    click.echo(f"Receipt: {created['receipt']}", err=True)


@cli.command("open")
@click.argument("link", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here; into a folder under the file's own name.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def open_(link: str | None, output: Path | None, force: bool) -> None:
    """Open LINK and print the message; without LINK, or with -, it is asked for or read from standard input.

    Only when the message has been written, the server is told to forget it.
    """
    found = _link(link)
    with _api() as api:
        waiting = api.look(found)
        if waiting.message is not None:
            _write(Plain(waiting.message), output, force)
            return
        if output and not output.is_dir() and output.exists() and not force:
            _fail(CONTENT, f"{output} is there already; --force writes over it. Nothing was opened.")
        passphrase = _ask_passphrase(confirm=False) if waiting.needs_passphrase else None
        plain, lease = _open(api, found, waiting, passphrase)
        _write(plain, output, force)
        api.confirm(found, lease)


@cli.command()
@click.argument("receipt")
@click.option("--json", "as_json", is_flag=True)
def status(receipt: str, as_json: bool) -> None:
    """Say what became of a message: waiting, opened, burned, expired or locked."""
    with _api() as api:
        _tell(api.receipt(receipt), as_json)


@cli.command()
@click.argument("receipt")
@click.option("--json", "as_json", is_flag=True)
def burn(receipt: str, as_json: bool) -> None:
    """Destroy a message that has not been opened yet."""
    with _api() as api:
        _tell(api.receipt(receipt, burn=True), as_json)


def _read_source(source: str, as_file: bool, markdown: bool) -> Plain:
    if source == "-" and sys.stdin.isatty():
        click.echo("Type the message, then Ctrl-D.", err=True)
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{source} cannot be read ({error.strerror}).") from None
    if as_file:
        return Plain(file=raw, file_name="" if source == "-" else Path(source).name)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise click.UsageError("That is not text in UTF-8; send it with --file.") from None
    if not text:
        raise click.UsageError("The message is empty.")
    return Plain(text, "markdown" if markdown else "text")


def _link(text: str | None) -> Link:
    if text in (None, "-"):
        text = click.prompt("Link", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    try:
        return read_link(text or "")
    except ValueError:
        raise click.UsageError("That is not a secret link: https://…/message/… with the part after # if it has one.") from None


def _open(api: Api, link: Link, waiting: Waiting, passphrase: str | None) -> tuple[Plain, str]:
    if not waiting.end_to_end:
        answer, lease = api.open(link, passphrase=passphrase)
        return Plain(answer["message"]), lease
    if not link.fragment:
        _fail(WRONG_KEY, "The link is not complete: it lacks the part after #. Nothing was used up.")
    key = decode_key(link.fragment)
    answer, lease = api.open(link, proof=proof_of(key, passphrase))
    return decrypt(answer["document"], key, passphrase, MAX_CONTENT_BYTES), lease


def _write(plain: Plain, output: Path | None, force: bool) -> None:
    content = plain.text.encode() if plain.file is None else plain.file
    if output is None:
        if plain.file is not None and sys.stdout.isatty():
            _fail(CONTENT, f"This is a file ({_printable(plain.file_name)}): write it with -o, within half a minute.")
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        if sys.stdout.isatty() and not content.endswith(b"\n"):
            click.echo()
        return
    # The name comes from the sender: only its last part counts, and never one that is hidden or a path.
    name = re.sub(r"[^\w. -]", "_", plain.file_name.replace("\\", "/").rpartition("/")[2]).lstrip(".") or "message"
    path = output / name if output.is_dir() else output
    try:
        with path.open("wb" if force else "xb") as file:
            path.chmod(0o600)
            file.write(content)
    except OSError as error:
        _fail(CONTENT, f"{path} cannot be written ({error.strerror}). Open the link again within half a minute.")


def _printable(name: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in name)[:100]


def _tell(receipt: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(receipt))
        return
    click.echo(f"{receipt['state']}, created {receipt['created_at']}, expires {receipt['expires_at']}")
    for at in receipt["opened"]:
        click.echo(f"opened {at}")


def _ask_passphrase(confirm: bool) -> str:
    """Ask on the terminal without echo, composed as browsers send it (NFC)."""
    return unicodedata.normalize("NFC", click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))


@contextmanager
def _bar(size: int) -> Iterator[Any]:
    """A progress bar for input that takes a while, on a terminal."""
    if size < _BAR_FROM_BYTES or not sys.stderr.isatty():
        yield None
        return
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("Sending", total=100)
        yield lambda percent: bar.update(task, completed=percent)


@contextmanager
def _api() -> Iterator[Api]:
    """The server, with its refusals as exit codes."""
    try:
        with httpx.Client(timeout=httpx.Timeout(30, read=60), follow_redirects=False) as http:
            yield Api(http)
    except ServerError as error:
        _fail({404: GONE, 403: WRONG_KEY}.get(error.status, SERVER), str(error))
    except WrongKey as error:
        _fail(WRONG_KEY, str(error))
    except EnvelopeError as error:
        _fail(CONTENT, str(error))
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise click.UsageError("That is not the address of a server.") from None


def _fail(code: int, why: str) -> NoReturn:
    click.echo(f"mayfly: {why}", err=True)
    sys.exit(code)
