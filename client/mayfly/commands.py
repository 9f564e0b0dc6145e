"""The commands. Secrets are asked for without echo or read from standard input; none is taken from an option.

Exit codes: 0 done, 1 interrupted, 2 wrong usage, 3 nothing there (opened, burned, expired), 4 passphrase or key wrong or missing,
5 the server refused or cannot be reached, 6 the content cannot be opened or written.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import httpx
from rich.console import Console
from rich.progress import Progress

from mayfly import __version__
from mayfly.api import (
    CREATE,
    Api,
    KeyFor,
    Link,
    ServerError,
    Vault,
    Waiting,
    leased,
    new_lease,
    read_link,
    read_receipt,
    read_server,
)
from mayfly.envelope import EnvelopeError, Plain, decode_key, decrypt, encode_key, encrypt, new_key, proof_of
from mayfly.output import CannotWrite, Write, content_of, output, visible

GONE, WRONG_KEY, SERVER, CONTENT = 3, 4, 5, 6
MAX_CONTENT_BYTES = 128 * 1024 * 1024
"""What a message may inflate to: twice the longest text that any server can be set to take, which leaves room for base64."""
_MAX_SOURCE_BYTES = MAX_CONTENT_BYTES // 2
_BAR_FROM_BYTES = 256 * 1024
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_Read = TypeVar("_Read")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mayfly")
def cli() -> None:
    """Send messages that must not last, and open them.

    A link is a secret: where others can see this machine's processes, leave it out of the command and mayfly asks for it.
    """


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if not match or not 60 <= int(match[1]) * _UNITS[match[2]] <= 604_800:
        raise click.BadParameter("from 1m to 7d, such as 30m, 1h or 2d")
    return int(match[1]) * _UNITS[match[2]]


def _server(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return read_server(value)
    except ValueError:
        raise click.BadParameter("https://host or http://host:port") from None


@cli.command()
@click.argument("source", type=click.Path(dir_okay=False, allow_dash=True), default="-", metavar="[FILE|-]")
@click.option("--views", type=click.IntRange(1, 100), help="How often it can be opened.  [default: 1]")
@click.option("--any-number", is_flag=True, help="Any number of openings until it expires.")
@click.option("--expires", callback=_seconds, default="7d", show_default=True, help="When it is gone: 30m, 1h, 2d; at most 7d.")
@click.option("--passphrase", "ask_passphrase", is_flag=True, help="Ask for a passphrase that readers must know.")
@click.option("--file", "as_file", is_flag=True, help="Send FILE as a file, with its name; any content.")
@click.option("--markdown", is_flag=True, help="The text is markdown.")
@click.option("--server-encryption", is_flag=True, help="Let the server encrypt, and be able to read: for readers with curl only.")
@click.option(
    "--vault", type=click.Choice(tuple(CREATE)), default="open", help="guarded: only people who are signed in can open it."
)
@click.option(
    "--audience",
    multiple=True,
    metavar="ROLE|E-MAIL",
    help="Which of them: role:NAME or account:E-MAIL, as often as need be.  [default: everybody who is signed in]",
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="FILE is a record, JSON; this file says which role sees which field: show, mask or hide. The server encrypts it.",
)
@click.option(
    "--server",
    callback=_server,
    envvar="MAYFLY_SERVER",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="Or MAYFLY_SERVER.",
)
@click.option("--json", "as_json", is_flag=True, help="Print link, receipt and times as JSON.")
def send(
    source: str, views: int | None, any_number: bool, expires: int, ask_passphrase: bool, as_file: bool, markdown: bool,
    server_encryption: bool, vault: Vault, audience: tuple[str, ...], policy: Path | None, server: str, as_json: bool,
) -> None:  # fmt: skip
    """Send a text (from FILE or standard input) and print its secret link.

    The text is encrypted here; the server cannot read it. The receipt goes to standard error.
    """
    _refuse(views and any_number, "--views and --any-number contradict each other.")
    _refuse(as_file and markdown, "--file and --markdown contradict each other.")
    _refuse(as_file and server_encryption, "Files are always end-to-end encrypted; leave --server-encryption out.")
    _refuse(
        vault == "open" and (audience or policy), "--audience and --policy need --vault guarded: whoever has an open link reads."
    )
    _refuse(policy and (as_file or markdown), "A record is neither a file nor markdown.")
    plain = _read_source(source, as_file, markdown)
    passphrase = _ask_passphrase(confirm=True, line=source != "-") if ask_passphrase else None
    fields: dict[str, Any] = {"expires_in": expires, "views": None if any_number else views or 1}
    if audience:
        fields["audience"] = list(audience)
    fragment = ""
    if server_encryption or policy:
        fields |= {"message": plain.text, "format": plain.format, **({"passphrase": passphrase} if passphrase else {})}
        if policy:
            fields |= {"format": "record", "message": _json_object(plain.text.encode(), source)}
            fields["policy"] = _json_object(_read_bytes(str(policy)), str(policy))
    else:
        key = new_key()
        fragment = "#" + encode_key(key)
        fields |= {"document": encrypt(plain, key, passphrase), "proof": proof_of(key, passphrase)}
        fields["needs_passphrase"] = passphrase is not None
    with _api(server) as api, _bar(len(content_of(plain))) as advance:
        created = api.create(server, vault, fields, advance)
    if as_json:
        click.echo(json.dumps({**created, "link": created["link"] + fragment}))
        return
    click.echo(created["link"] + fragment)
    click.echo(f"Receipt: {created['receipt']}", err=True)


@cli.command("open")
@click.argument("link", required=False)
@click.option(
    "-o", "--output", "path", type=click.Path(path_type=Path), help="Write here; into a folder under the file's own name."
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print text, format and file (in base64) as JSON.")
@click.option("--lease", help="Open again what an open that failed has named this for, within half a minute.")
def open_(link: str | None, path: Path | None, force: bool, as_json: bool, lease: str | None) -> None:
    """Open LINK and print the message; without LINK, or with -, it is asked for or read from standard input.

    Only when the message has been written, the server is told to forget it.
    """
    _refuse(path and as_json, "--json goes to standard output; leave -o out.")
    _refuse(lease and not re.fullmatch(r"(passphrase|none)-[A-Za-z0-9_-]{32}", lease), "That is not a lease.")
    found = _asked("Link", link, read_link, "a secret link: https://…/message/… with the part after # if it has one")
    with _api() as api:
        with output(path, force) as write:
            waiting = leased(found, lease) if lease else api.look(found)
            if waiting.answer is not None:
                _write_answer(waiting.answer, write, as_json)
                return
            lease = lease or new_lease(waiting)
            _write_opened(api, found, waiting, lease, write, as_json)
        api.confirm(found, lease)


@cli.command()
@click.argument("receipt", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print state and times as JSON.")
def status(receipt: str | None, as_json: bool) -> None:
    """Say what became of a message: waiting, opened, burned, expired or locked.

    Without RECEIPT, or with -, it is asked for or read from standard input.
    """
    url = _asked("Receipt", receipt, read_receipt, "a receipt: https://…/receipt/…")
    with _api() as api:
        _tell(api.receipt(url), as_json)


@cli.command()
@click.argument("receipt", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print state and times as JSON.")
def burn(receipt: str | None, as_json: bool) -> None:
    """Destroy a message, if it is still there.

    Without RECEIPT, or with -, it is asked for or read from standard input.
    """
    url = _asked("Receipt", receipt, read_receipt, "a receipt: https://…/receipt/…")
    with _api() as api:
        _tell(api.receipt(url, burn=True), as_json)


def _read_source(source: str, as_file: bool, markdown: bool) -> Plain:
    if source == "-" and sys.stdin.isatty():
        click.echo("Type the message, then Ctrl-D.", err=True)
    raw = _read_bytes(source)
    if as_file:
        return Plain(file=raw, file_name="" if source == "-" else Path(source).name.encode(errors="replace").decode())
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise click.UsageError("That is not text in UTF-8; send it with --file.") from None
    _refuse(not text, "The message is empty.")
    return Plain(text, "markdown" if markdown else "text")


def _read_bytes(source: str) -> bytes:
    try:
        with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as file:
            raw: bytes = file.read(_MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"{source} cannot be read ({error.strerror}).") from None
    _refuse(len(raw) > _MAX_SOURCE_BYTES, f"No server takes more than {_MAX_SOURCE_BYTES // 2**20} MiB.")
    return raw


def _json_object(raw: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise click.UsageError(f"{name} is not a JSON object.")
    return document


def _asked(name: str, text: str | None, read: Callable[[str], _Read], form: str) -> _Read:
    """An argument that is a secret: asked for without echo, or the first line of standard input, where it is not given."""
    if text in (None, "-"):
        text = _ask(name)
    try:
        return read(text or "")
    except ValueError:
        raise click.UsageError(f"That is not {form}.") from None


def _ask(name: str, *, confirm: bool = False, line: bool = True) -> str:
    """Ask on the terminal without echo; where there is none, read a line of standard input if `line` allows it."""
    if _has_terminal(name):
        return str(click.prompt(name, hide_input=True, confirmation_prompt=confirm, err=True))
    _refuse(not line, "There is no terminal to ask on, and standard input is the message: give the message as FILE.")
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("That is not text in UTF-8.") from None


def _has_terminal(name: str) -> bool:
    """A link may come through a pipe; a passphrase is asked on the terminal even then."""
    if sys.stdin.isatty() or name != "Passphrase":
        return sys.stdin.isatty()
    try:
        with open("/dev/tty"):
            return True
    except OSError:
        return False


def _ask_passphrase(*, confirm: bool, line: bool = True) -> str:
    """Ask for a passphrase, composed as keyboards and browsers do it (NFC)."""
    passphrase = unicodedata.normalize("NFC", _ask("Passphrase", confirm=confirm, line=line))
    _refuse(not passphrase, "The passphrase is empty.")
    return passphrase


def _write_opened(api: Api, link: Link, waiting: Waiting, lease: str, write: Write, as_json: bool) -> None:
    key = _key(link, waiting)
    passphrase = _ask_passphrase(confirm=False) if waiting.needs_passphrase else None
    proof = proof_of(key, passphrase) if key else None
    with _opened_but_lost(lease):
        if key is None:
            _write_answer(api.open(link, lease, passphrase=passphrase), write, as_json)
        else:
            document = api.open(link, lease, proof=proof).get("document")
            _write(decrypt(document, key, passphrase, MAX_CONTENT_BYTES), write, as_json)


def _key(link: Link, waiting: Waiting) -> bytes | None:
    """The key of an end-to-end encrypted message; None for another."""
    if not waiting.end_to_end:
        return None
    if not link.fragment:
        _fail(WRONG_KEY, "The link is not complete: it lacks the part after #. Nothing was used up.")
    try:
        return decode_key(link.fragment)
    except EnvelopeError as error:
        _fail(WRONG_KEY, f"{error} Nothing was used up.")


def _write_answer(answer: dict[str, Any], write: Write, as_json: bool) -> None:
    """Write what the server encrypted. Of a record, each reader has a view of their own."""
    if answer["format"] != "record":
        _write(Plain(answer["message"], answer["format"]), write, as_json)
    elif as_json:
        write(Plain(json.dumps({name: answer[name] for name in ("record", "masked", "format")}) + "\n"))
    else:
        write(Plain("".join(f"{name}: {text}\n" for name, text in answer["record"].items())))


def _write(plain: Plain, write: Write, as_json: bool) -> None:
    if not as_json:
        write(plain)
        return
    document: dict[str, Any] = {"message": plain.text, "format": plain.format}
    if plain.file is not None:
        document["file"] = base64.b64encode(plain.file).decode()
        document |= {"file_name": plain.file_name, "media_type": plain.media_type}
    write(Plain(json.dumps(document) + "\n"))


@contextmanager
def _opened_but_lost(lease: str) -> Iterator[None]:
    """Say how to open a message again that may have been opened and did not arrive where it should."""
    again = f"Nothing is lost yet: within half a minute open it again, with --lease {lease}"
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"mayfly: {again}", err=True)
        raise
    except (EnvelopeError, CannotWrite) as error:
        _fail(CONTENT, f"{error} {again}")
    except ServerError as error:
        if not error.lost:
            raise
        _fail(SERVER, f"{error} {again}")


def _tell(receipt: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(receipt))
        return
    click.echo(visible(f"{receipt['state']}, created {receipt['created_at']}, expires {receipt['expires_at']}"))
    for at in receipt["opened"]:
        click.echo(visible(f"opened {at}"))


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
def _api(server: str | None = None) -> Iterator[Api]:
    """The server, with what can go wrong as exit codes. An API key is shown to `server`, or that of MAYFLY_SERVER, alone."""
    try:
        http = httpx.Client(timeout=httpx.Timeout(60, connect=10), follow_redirects=False, auth=_api_key(server))
    except (ImportError, ValueError, httpx.InvalidURL):
        raise click.UsageError("The proxy that the environment names (HTTPS_PROXY and the like) is not of a known kind.") from None
    try:
        with http:
            yield Api(http)
    except ServerError as error:
        hint = " Set MAYFLY_API_KEY, and MAYFLY_SERVER to the server that made it." if error.status == 401 else ""
        _fail({404: GONE, 401: WRONG_KEY, 403: WRONG_KEY}.get(error.status, SERVER), f"{error}{hint}")
    except CannotWrite as error:
        _fail(CONTENT, f"{error} Nothing was used up.")
    except httpx.InvalidURL:
        raise click.UsageError("That is not the address of a server.") from None


def _api_key(server: str | None) -> KeyFor | None:
    key, server = os.environ.get("MAYFLY_API_KEY"), server or os.environ.get("MAYFLY_SERVER")
    if not key or not server:
        return None
    try:
        return KeyFor(key.strip(), read_server(server))
    except ValueError:
        raise click.UsageError("MAYFLY_API_KEY is not an API key, or its server (MAYFLY_SERVER) is not reached by https.") from None


def _refuse(condition: object, why: str) -> None:
    if condition:
        raise click.UsageError(why)


def _fail(code: int, why: str) -> NoReturn:
    click.echo(f"mayfly: {visible(why)}", err=True)
    sys.exit(code)
