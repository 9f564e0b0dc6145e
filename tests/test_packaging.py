"""What is shipped beside the code: image, compose file, lock files, Makefile, the example of the key file.

No container engine is needed: the image's steps are done here in a temporary folder, from the same lines of the Dockerfile.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

import keyfile
from errors import KeyFileRefused
from tests.requirements import require_program
from tests.serving import PROJECT, free_port

EXTRAS = ("requirements-postgresql", "requirements-mysql", "requirements-valkey")
LOCKS = ("requirements", *EXTRAS, "requirements-dev", "requirements-bench")


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), lines joined, comments gone."""
    text = re.sub(r"^#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines)]


def _final_stage() -> list[tuple[str, str]]:
    instructions = _instructions()
    last = max(at for at, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[last:]


def _only(word: str) -> str:
    (found,) = [rest for instruction, rest in _final_stage() if instruction == word]
    return found


def _environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in _only("ENV").split())


def _in_context(path: Path) -> bool:
    """Whether .dockerignore lets a file of the project to the builder. It holds `*` and then only exceptions."""
    lines = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert all(re.fullmatch(r"![\w./*-]+", line) and "**" not in line for line in lines[1:])
    return any(len(Path(line[1:]).parts) == len(path.parts) and path.match(line[1:]) for line in lines[1:])


def _copy_as_the_image_does(app: Path) -> None:
    """Do the COPY lines of the final stage, seeing only what the builder would be sent."""
    for instruction, rest in _final_stage():
        if instruction != "COPY" or "--from=" in rest:
            continue
        *sources, target = rest.split()
        for found in [path for source in sources for path in sorted(PROJECT.glob(source)) or [PROJECT / source]]:
            assert found.exists(), f"the Dockerfile copies {found}, which does not exist"
            files = [found] if found.is_file() else [path for path in found.rglob("*") if path.is_file()]
            for path in files:
                inside = path.relative_to(PROJECT)
                if _in_context(inside):
                    place = app / target / (path.relative_to(found) if found.is_dir() else path.name)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, place)


@contextmanager
def _running(command: list[str], folder: Path, environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server, started and answering; ended as a container engine does it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{environ['MAYFLY_PORT']}/healthz"
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


def test_image_serves_with_nothing_but_what_it_copies(tmp_path: Path) -> None:
    """The first start in the image makes its key, serves pages and messages, is healthy, writes nothing beside its volumes."""
    app, keys, log = tmp_path / "app", tmp_path / "keys", tmp_path / "log"
    _copy_as_the_image_does(app)
    copied = set(app.rglob("*"))
    environ = _environment()
    assert environ["MAYFLY_HOST"] == "0.0.0.0"
    environ |= {"XDG_CONFIG_HOME": str(keys), "MAYFLY_HOST": "127.0.0.1", "MAYFLY_PORT": str(free_port())}
    command = json.loads(_only("CMD"))
    assert command[0] == "python"
    with _running([sys.executable, *command[1:]], app, environ, log):
        url = f"http://127.0.0.1:{environ['MAYFLY_PORT']}"
        page = httpx.get(url)
        assert page.status_code == 200
        (stylesheet,) = re.findall(r'href="(/static/[^"]+css[^"]*)"', page.text)
        assert httpx.get(url + stylesheet).status_code == 200
        link = httpx.post(url, data={"message": "**hi**", "views": "1", "format": "markdown"}).text.strip()
        assert httpx.post(link, headers={"Accept": "text/html"}, data={"open": "yes"}).text.count("<strong>hi</strong>") == 1
        probe = json.loads(_only("HEALTHCHECK").split("CMD ", 1)[1])
        healthy = subprocess.run([sys.executable, *probe[1:]], env=environ, cwd=app, capture_output=True)
        assert healthy.returncode == 0, healthy.stderr
    sick = subprocess.run([sys.executable, *probe[1:]], env=environ, cwd=app, capture_output=True)
    assert sick.returncode != 0
    key_file = keys / "mayfly" / "key.json"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert json.loads(key_file.read_text())["admin_token"] not in log.read_text()
    assert set(app.rglob("*")) == copied


def test_image_has_every_module_and_nothing_else(tmp_path: Path) -> None:
    """Each module of the server is copied; tests, benchmark, keys and databases are not."""
    _copy_as_the_image_does(tmp_path)
    copied = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    rooms = [PROJECT, *(PROJECT / name for name in ("access", "audit", "fields", "messages", "storage", "web", "web/description"))]
    modules = [path for room in rooms for path in room.glob("*.py")]
    folders = [PROJECT / "web" / name for name in ("static", "templates", "translations")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert copied == {path.relative_to(PROJECT) for path in [*modules, *files]}


@pytest.mark.parametrize(
    "path",
    [
        "key.json",
        "config/key.json",
        "storage/key.json",
        "mayfly.db",
        "storage/mayfly.db-wal",
        ".git/config",
        ".env",
        "tests/test_docs.py",
    ],
)
def test_secrets_and_leftovers_stay_out_of_the_image_context(path: str) -> None:
    assert not _in_context(Path(path))


def test_image_is_pinned_unprivileged_and_installed_by_hash() -> None:
    """Both stages name one exact version of Python; packages come by hash as wheels; the server is not root."""
    bases = {rest.split()[0] for word, rest in _instructions() if word == "FROM"}
    (base,) = bases
    assert re.fullmatch(r"python:3\.1[1-9]\.\d+-slim-\w+", base)
    (install,) = [rest for word, rest in _instructions() if word == "RUN" and "pip install" in rest]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    words = [word for word, _ in _final_stage()]
    assert _only("USER") == "mayfly"
    assert words.index("USER") > max(at for at, word in enumerate(words) if word in ("RUN", "COPY"))
    assert _only("EXPOSE") == "8000"


def test_image_installs_the_drivers_it_is_asked_for() -> None:
    """The step is done by a shell here, with an echo for pip: no extra, two of them, and one that does not exist."""
    (install,) = [rest for word, rest in _instructions() if word == "RUN" and "pip install" in rest]
    command = install.partition("&& /venv/bin/")[2]
    told = {
        extras: subprocess.run(
            ["sh", "-c", f'pip() {{ echo "$@"; }}; {command}'], env={"EXTRAS": extras}, capture_output=True, text=True, check=True
        ).stdout.split()
        for extras in ("", "postgresql valkey")
    }
    files = {extras: [word for word in words if word.startswith("/build/")] for extras, words in told.items()}
    assert files[""] == ["/build/requirements.txt"]
    assert files["postgresql valkey"] == [f"/build/requirements{name}.txt" for name in ("", "-postgresql", "-valkey")]
    (copied,) = [rest.split()[:-1] for word, rest in _instructions() if word == "COPY" and rest.endswith(" /build/")]
    assert set(copied) == {"requirements.txt", *(f"{extra}.txt" for extra in EXTRAS)}
    assert all(_in_context(Path(name)) for name in copied)


_PIN = r"[a-z0-9._-]+(?:\[[a-z,]+\])?==[0-9][\w.]*(?: ; [^\\]+)? \\"
_HASH = r"    --hash=sha256:[0-9a-f]{64}(?: \\)?"
_WHY = r"    # (?:via(?: .+)?|  .+)"


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_hold_names_versions_and_hashes_only(name: str) -> None:
    """Every package at one version with its hashes; no address of an index, no option, no path."""
    lines = (PROJECT / f"{name}.txt").read_text().splitlines()
    for line in lines:
        assert re.fullmatch(f"{_PIN}|{_HASH}|{_WHY}", line), line
        assert "://" not in line
        assert "/" not in line
    for line, following in pairwise(lines):
        assert not re.fullmatch(_PIN, line) or re.fullmatch(_HASH, following), f"{line} has no hash"


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_hold_what_is_asked_for(name: str) -> None:
    """Nothing was added to an .in file without locking it."""
    asked = {
        re.match(r"[A-Za-z0-9._-]+", line)[0].lower()  # type: ignore[index]
        for line in (PROJECT / f"{name}.in").read_text().splitlines()
        if line and not line.startswith(("#", "-r", "-c"))
    }
    assert asked
    assert asked <= set(_versions(name))


@pytest.mark.parametrize("name", ("requirements-dev", "requirements-bench"))
def test_tests_and_benchmark_use_the_versions_that_serve(name: str) -> None:
    served, used = _versions("requirements"), _versions(name)
    assert {package: used.get(package) for package in served} == served


@pytest.mark.parametrize("name", EXTRAS)
def test_tests_use_the_versions_of_each_driver_and_no_driver_changes_those_that_serve(name: str) -> None:
    extra, served, tested = _versions(name), _versions("requirements"), _versions("requirements-dev")
    assert {package: tested.get(package) for package in extra if package != "async-timeout"} == {
        package: version for package, version in extra.items() if package != "async-timeout"
    }
    assert all(served.get(package, version) == version for package, version in extra.items())


def _versions(name: str) -> dict[str, str]:
    pins = re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([\w.]+)", (PROJECT / f"{name}.txt").read_text(), flags=re.MULTILINE)
    return dict(pins)


def test_example_of_the_key_file_cannot_work(tmp_path: Path) -> None:
    """Copied and given the right mode it is refused, and so is each of its secrets by itself."""
    document = json.loads((PROJECT / "key.json.example").read_text())
    path = tmp_path / "key.json"
    keyfile.create(path)
    good = json.loads(path.read_text())
    ((good_id, good_entry),) = good["keys"].items()
    assert set(document) == set(good)
    one_good_token = document | {"admin_token": good["admin_token"]}
    one_good_key = document | {"current": good_id, "keys": {good_id: good_entry}}
    for candidate in (document, one_good_token, one_good_key):
        path.write_text(json.dumps(candidate))
        with pytest.raises(KeyFileRefused):
            keyfile.read(path)


def test_make_run_passes_settings_through(tmp_path: Path) -> None:
    """`make run MAYFLY_PORT=…` serves there, makes the key file, and says where it and the admin token are."""
    make = require_program("make")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "venv" / ".server").touch()  # newer than requirements.txt: what was installed is this environment
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAYFLY_", "XDG_", "MAKE", "MFLAGS"))}
    environ |= {"HOME": str(tmp_path), "MAYFLY_PORT": str(free_port())}
    asked = environ.pop("MAYFLY_PORT")
    command = [make, "--no-print-directory", "run", f"VENV={tmp_path / 'venv'}", f"MAYFLY_PORT={asked}"]
    key_file = tmp_path / ".config" / "mayfly" / "key.json"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environ, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 30
        while f"127.0.0.1:{asked}/admin" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert str(key_file) in log.read_text()
        assert json.loads(key_file.read_text())["admin_token"] not in log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
