"""Readable scripts of the client, as tests: `tests/client/*.txt`.

    Text between the blocks says what is shown.

    $ mayfly send            a command, with `< line` below it for each line of its standard input
    < hello
    {LINK}                   what it must print; {NAME} binds what it finds, or must equal what was bound before
    ! Receipt: {RECEIPT}     a line of standard error
    ? 3                      its exit code, where it is not 0
    $ wait 60s               moves the server's clock

Standard output and error are compared whole. `$ cat`, `$ cp`, … run as they are, in a folder of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.serving import PROJECT, Served

_FORMS = {
    "LINK": r"http://127\.0\.0\.1:\d+/message/[0-9a-f-]{36}#[1-9A-HJ-NP-Za-km-z]{40,44}",
    "SERVER_LINK": r"http://127\.0\.0\.1:\d+/message/[0-9a-f-]{36}",
    "RECEIPT": r"http://127\.0\.0\.1:\d+/receipt/[A-Za-z0-9_-]{64}",
    "TIME": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "ID": r"[0-9a-f-]{36}",
    "LEASE": r"(?:none|passphrase)-[A-Za-z0-9_-]{32}",
}


@dataclass
class Step:
    """One command, and what is expected of it."""

    command: str
    line: int
    given: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    code: int = 0


def read_script(path: Path) -> Iterator[Step]:
    """The steps of a script."""
    step: Step | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.removeprefix("    ")
        if text == line:
            if step:
                yield step
            step = None
        elif text.startswith("$ "):
            if step:
                yield step
            step = Step(text[2:], number)
        elif step:
            mark, rest = text[:2], text[2:]
            if mark == "< ":
                step.given.append(rest)
            elif mark == "! ":
                step.errors.append(rest)
            elif mark == "? ":
                step.code = int(rest)
            else:
                step.printed.append(text)
    if step:
        yield step


def run_script(path: Path, served: Served, folder: Path) -> int:
    """Run a script's commands in `folder`; returns how many. Raises AssertionError naming the line that does not hold."""
    bound: dict[str, str] = {"SERVER": served.url}
    steps = 0
    for step in read_script(path):
        steps += 1
        advanced = re.fullmatch(r"wait ([0-9]+)s", step.command)
        if advanced:
            served.clock.advance(int(advanced[1]))
            continue
        done = run(_filled(step.command, bound), served, folder, "".join(f"{_filled(line, bound)}\n" for line in step.given))
        where = f"{path.name}:{step.line}: $ {step.command}"
        _compare(f"{where}\nstandard output", step.printed, done.stdout, bound)
        _compare(f"{where}\nstandard error", step.errors, done.stderr, bound)
        assert done.returncode == step.code, f"{where}\nexit code {done.returncode}, not {step.code}: {done.stderr}"
    return steps


def client_environ(served: Served | None = None) -> dict[str, str]:
    """The environment of a client that talks to `served`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environ |= {"PYTHONPATH": str(PROJECT / "client"), "PYTHONIOENCODING": "utf-8", "COLUMNS": "100", "NO_COLOR": "1"}
    return environ | ({"MAYFLY_SERVER": served.url} if served else {})


def run(command: str, served: Served, folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run one command without a terminal; `mayfly` is the client from source."""
    mayfly = f"{shlex.quote(sys.executable)} -m mayfly"
    words = re.sub(r"(^|[|;] *)mayfly ", rf"\1{mayfly} ", command)
    return subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {words}"],
        cwd=folder,
        env=client_environ(served),
        input=given,
        capture_output=True,
        text=True,
        start_new_session=True,  # no terminal to ask on
        timeout=60,
    )


def _filled(text: str, bound: dict[str, str]) -> str:
    return re.sub(r"\{([A-Z_0-9]+)\}", lambda match: bound[match[1]], text)


def _compare(what: str, expected: list[str], found: str, bound: dict[str, str]) -> None:
    pattern, names = "", []
    for part in re.split(r"(\{[A-Z_0-9]+\})", "\n".join(expected)):
        name = part[1:-1]
        if not re.fullmatch(r"\{[A-Z_0-9]+\}", part):
            pattern += re.escape(part)
        elif name in bound:
            pattern += re.escape(bound[name])
        elif name in names:
            pattern += f"(?P={name})"
        else:
            names.append(name)
            pattern += f"(?P<{name}>{_FORMS[name.rstrip('0123456789')]})"
    match = re.fullmatch(pattern, found.removesuffix("\n"), re.DOTALL)
    assert match, f"{what}\nexpected: {expected}\nfound:    {found!r}"
    bound |= match.groupdict()
