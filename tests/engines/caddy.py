"""A real Caddy for tests: deploy/Caddyfile, as it is shipped, on free ports of loopback, its data in a folder of its own.

with Caddy(folder, ["127.0.0.1:8001", "127.0.0.1:8002"]) as caddy:
    with caddy.client() as http:
        http.get("/healthz")
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

from tests.ports import free_port
from tests.requirements import require_program
from tests.serving import PROJECT

CADDYFILE = PROJECT / "deploy" / "Caddyfile"


class Caddy:
    """Caddy for https://localhost at `url`, in front of `nodes`, each an address with its port."""

    def __init__(self, folder: Path, nodes: Sequence[str] = (), caddyfile: Path = CADDYFILE) -> None:
        self.program = require_program("caddy")
        self.folder = folder
        self.nodes = list(nodes)
        self.caddyfile = caddyfile
        self.port, self.http_port = free_port(), free_port()
        self.url = f"https://localhost:{self.port}"
        self.log_file = folder / "caddy.log"
        self.process: subprocess.Popen[bytes] | None = None
        version = re.match(r"v?(\d+)\.(\d+)", subprocess.run([self.program, "version"], capture_output=True, text=True).stdout)
        # One that was built by hand may not say it, and is new.
        self.version = (int(version[1]), int(version[2])) if version else (99, 0)

    @property
    def buffers(self) -> bool:
        """Whether this version can hold a body back until it is whole."""
        return self.version >= (2, 7)

    @property
    def repeats_bodies(self) -> bool:
        """Whether this version can offer a request with a body to another node when the first cannot be reached."""
        return self.version >= (2, 11)

    @property
    def authority(self) -> Path:
        return self.folder / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    def environ(self) -> dict[str, str]:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "MAYFLY_PUBLIC_URL": self.url,
            "CADDY_NODES": " ".join(self.nodes),
            "CADDY_HTTP_PORT": str(self.http_port),
            "CADDY_HTTPS_PORT": str(self.port),
        }
        return environ if self.buffers else {**environ, "CADDY_BUFFERING": ""}

    def start(self) -> None:
        """Start and wait until it speaks TLS with a certificate of its authority; raises AssertionError with its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [self.program, "run", "--config", str(self.caddyfile), "--adapter", "caddyfile"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environ(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.connect().close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"Caddy did not start:\n{self.log()}")

    def connect(self, timeout: float = 30) -> ssl.SSLSocket:
        """A connection, its server verified. Raises OSError."""
        context = ssl.create_default_context(cafile=str(self.authority))
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), timeout), server_hostname="localhost")

    def client(self, **options: object) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.authority))
        return httpx.Client(base_url=self.url, verify=context, timeout=30, **options)  # type: ignore[arg-type]

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self) -> int:
        assert self.process
        self.process.terminate()
        return self.process.wait(timeout=60)

    def __enter__(self) -> Caddy:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
