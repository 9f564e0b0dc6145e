"""The walk-through of docs/certificates.md, run as it stands there: authority, account, certificate, sealed message, open, refused.

All `bash` blocks of the page are run in order, in one bash, with real openssl, curl, servers and Caddy; a `text` block right after
one is its output. Only ports, the interpreter's path and the client's place differ.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.engines.caddy import Caddy
from tests.ports import free_port
from tests.requirements import require_program
from tests.serving import PROJECT
from tests.test_docs import END_OF_BLOCK, without_chance

PAGE = (PROJECT / "docs" / "certificates.md").read_text()
_BLOCK = re.compile(r"^```bash\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
PORTS = ("8443", "8080", "8000")


def test_walk_through_shows_what_the_page_shows(tmp_path: Path) -> None:
    """From `ca init` to the refusal, directly and through Caddy."""
    for program in ("bash", "curl", "openssl", "caddy"):
        require_program(program)
    blocks = [(found[1], found[2] or "") for found in _BLOCK.finditer(PAGE)]
    assert len(blocks) > 10, "the pattern finds what it should"
    ports = {port: str(free_port()) for port in PORTS}
    script = "".join(f"{commands}printf '%s\\n' '{END_OF_BLOCK}'\n" for commands, _ in blocks)
    for port, free in ports.items():
        script = script.replace(port, free)
    ran = run(script.replace(".venv/bin/python", sys.executable), tmp_path)
    outputs = ran.replace(ports["8443"], "8443").split(f"{END_OF_BLOCK}\n")
    assert outputs.pop() == ""
    for (commands, expected), output in zip(blocks, outputs, strict=True):
        assert without_chance(output).rstrip("\n") == without_chance(expected).rstrip("\n"), commands


def run(script: str, folder: Path) -> str:
    """What a bash prints, with the client in its path and a home of its own. What it leaves running is ended."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "mayfly").write_text(f'#!/bin/sh\nPYTHONPATH={PROJECT}/client exec {sys.executable} -m mayfly "$@"\n')
    (programs / "mayfly").chmod(0o755)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAYFLY_", "XDG_"))}
    environ |= {"HOME": str(folder), "TMPDIR": str(folder), "PATH": f"{programs}:{os.environ['PATH']}"}
    if not Caddy(folder).buffers:
        environ["CADDY_BUFFERING"] = ""
    bash = subprocess.Popen(
        ["bash", "-c", f"set -eu\n{script}"],
        cwd=PROJECT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, problems = bash.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(bash.pid, signal.SIGKILL)
        raise AssertionError(f"it takes too long, after:\n{bash.communicate()[0]}") from None
    if bash.returncode:
        with suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGTERM)
        raise AssertionError(f"{problems}\nafter:\n{output}\n{logs(folder)}")
    return output


def logs(folder: Path) -> str:
    return "".join(f"{path.name}:\n{path.read_text()}" for path in folder.rglob("*log"))
