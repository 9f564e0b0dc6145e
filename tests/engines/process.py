"""A database server as a process of its own, in a folder of its own, that is gone with the test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.engines.authority import Certificate
from tests.ports import free_port

SAFE_USER = "nobody"
"""Database servers refuse to run as root; whoever is root runs them as this user."""


class EngineProcess(ABC):
    """Starts, stops, kills and restarts a server on `port` of loopback. Subclasses say how."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"mayfly-{name}-"))
        self.port = free_port()
        self.log_file = self.folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._tls: tuple[Certificate, Path] | None = None
        self._own(self.folder)

    @abstractmethod
    def command(self) -> list[str]:
        """What starts the server in the foreground."""

    @abstractmethod
    def is_serving(self) -> bool:
        """Whether it takes connections."""

    def start(self) -> None:
        """Start it and wait until it serves."""
        with self.log_file.open("ab") as log:
            self.process = self._spawn(self.command(), stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.is_serving():
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.command()[0]} did not start:\n{self.log_file.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """Stop it as an operator does, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it with all that it started."""
        children = self.children()
        self._end(signal.SIGKILL)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(_is_alive(pid) for pid in children):
            time.sleep(0.005)

    def pause(self) -> None:
        """It listens and never answers, on any of its connections."""
        self._tell_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        self._tell_all(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """End it and delete its folder."""
        if self.process and self.process.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def set_up(self, command: Sequence[str]) -> None:
        """Run a program to its end."""
        process = self._spawn(list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said.decode(errors="replace")

    def copy_in(self, file: Path, name: str, mode: int) -> Path:
        """A copy of `file` in the server's folder, its own."""
        copied = self.folder / name
        shutil.copyfile(file, copied)
        copied.chmod(mode)
        self._own(copied)
        return copied

    def children(self) -> list[int]:
        """The processes that the server started."""
        return []

    def _tell_all(self, number: int) -> None:
        assert self.process
        for pid in (self.process.pid, *self.children()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)
        self.process.wait(timeout=60)

    def _spawn(self, command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        user: dict[str, Any] = {"user": SAFE_USER, "group": pwd.getpwnam(SAFE_USER).pw_gid, "extra_groups": []} if is_root() else {}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C"},
            start_new_session=True,
            **user,
            **streams,
        )

    def _own(self, path: Path) -> None:
        if is_root():
            entry = pwd.getpwnam(SAFE_USER)
            os.chown(path, entry.pw_uid, entry.pw_gid)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_root() -> bool:
    return os.geteuid() == 0
