"""Where an opened message goes: a terminal, a pipe, a file, a folder.

Files are opened before the message is, so that one that cannot be written costs no view. What senders chose (file names, control
characters) is never trusted.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from mayfly.envelope import Plain

Write = Callable[[Plain], None]
_MAX_NAME_BYTES = 200
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)  # devices in every folder of Windows


class CannotWrite(Exception):
    """The message says why to a person."""


@contextmanager
def output(path: Path | None, force: bool) -> Iterator[Write]:
    """Yield what writes the message: to standard output, to a file, into a folder under the sender's name for it.

    Files are new and only their owner's to read; `force` writes over one that is there. Raises CannotWrite, as does `Write`.
    """
    if path is None:
        if sys.stdout is None:
            raise CannotWrite("Standard output is closed.")
        yield _print
    elif path.is_dir():
        if not os.access(path, os.W_OK | os.X_OK):
            raise CannotWrite(f"Nothing can be written into {path}.")
        yield partial(_write_into, path, force)
    else:
        with _created(path, force) as descriptor:
            yield partial(_fill, descriptor)


def content_of(plain: Plain) -> bytes:
    """The bytes a message is written as."""
    return plain.text.encode() if plain.file is None else plain.file


def visible(text: str) -> str:
    """Text for a terminal: control characters, with which a sender could steer it, are shown as U+FFFD."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text.replace("\r\n", "\n"))


def safe_name(name: str) -> str:
    """A file name out of the sender's: its last part, neither hidden nor a path, an option or a device; "message" for nothing."""
    last = re.split(r"[/\\]", name)[-1]
    stem, dot, suffix = re.sub(r"[^\w. -]", "_", last).strip(" .-").rpartition(".")
    if not dot:
        stem, suffix = suffix, ""
    suffix = (dot + suffix)[:20]
    stem = stem.encode()[: _MAX_NAME_BYTES - len(suffix.encode())].decode(errors="ignore")
    safe = f"{stem}{suffix}".strip(" .")
    return (f"_{safe}" if _RESERVED.match(safe) else safe) or "message"


def _print(plain: Plain) -> None:
    content = content_of(plain)
    if sys.stdout.isatty():
        if plain.file is not None:
            raise CannotWrite(f"This is a file ({visible(plain.file_name)[:100]}), which a terminal cannot show: write it with -o.")
        content = visible(plain.text).encode() + (b"" if plain.text.endswith("\n") else b"\n")
        if visible(plain.text) != plain.text.replace("\r\n", "\n"):
            click.echo("mayfly: There are control characters, shown as \ufffd; -o writes the text as it is.", err=True)
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        raise CannotWrite(f"Standard output cannot be written ({error.strerror}).") from None


def _write_into(folder: Path, force: bool, plain: Plain) -> None:
    first = folder / safe_name(plain.file_name)
    path, number = first, 1
    while path.exists() and not force:
        number += 1
        path = first.with_name(f"{first.stem}-{number}{first.suffix}")
    with _created(path, force) as descriptor:
        _fill(descriptor, plain)
    click.echo(f"mayfly: Written to {path}", err=True)


@contextmanager
def _created(path: Path, force: bool) -> Iterator[int]:
    """Open a file to write; if that comes to nothing, a new one is removed and an old one still what it was."""
    there = path.exists()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (0 if force else os.O_EXCL) | getattr(os, "O_BINARY", 0), 0o600)
    except FileExistsError:
        raise CannotWrite(f"{path} is there already; --force writes over it.") from None
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written ({error.strerror}).") from None
    try:
        yield descriptor
    except BaseException:
        if not there:
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _fill(descriptor: int, plain: Plain) -> None:
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.truncate(descriptor, 0)
            if sys.platform != "win32":
                os.fchmod(descriptor, 0o600)
        content = memoryview(content_of(plain))
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError as error:
        raise CannotWrite(f"The file cannot be written ({error.strerror}).") from None
