"""Real Valkey or Redis servers for tests: each a process in a folder of its own, on a free port of loopback.

with ValkeyServer(folder, appendonly="yes") as server:
    store = open_url(server.url, clock)
    server.kill()
    server.start()

`ValkeyCluster` is three of them that share the slots. Servers without persistence unless the test asks for it.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlencode

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.engines.authority import Authority, Certificate
from tests.ports import free_port
from tests.requirements import require

_SETTINGS = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "latency-tracking": "no",  # takes 20 KB for each command at its first use
}


class ValkeyServer:
    """One server. `settings` are those of its configuration file, with _ for -.

    With `certificate` it speaks TLS alone; with `clients` it demands a client certificate of that authority.
    """

    def __init__(
        self,
        folder: Path,
        certificate: Certificate | None = None,
        clients: Authority | None = None,
        **settings: str,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.tls = certificate is not None
        self.log_file = folder / "server.log"
        self._settings = {**_SETTINGS, "dir": str(folder), "logfile": str(self.log_file)}
        self._settings["tls-port" if certificate else "port"] = str(self.port)
        if certificate:
            self._settings |= {
                "port": "0",
                "tls-cert-file": str(certificate.certificate),
                "tls-key-file": str(certificate.key),
                "tls-auth-clients": "yes" if clients else "no",
                "tls-ca-cert-file": str(clients.certificate if clients else certificate.certificate),
            }
        self._settings |= {name.replace("_", "-"): value for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    def url_with(self, authority: Authority, client: Certificate | None = None, host: str = "127.0.0.1") -> str:
        """By TLS, verified by `authority`; mutual with a `client` certificate."""
        parameters = {"tls_ca": str(authority.certificate)}
        if client:
            parameters |= {"tls_certificate": str(client.certificate), "tls_key": str(client.key)}
        return f"valkey://{host}:{self.port}?{urlencode(parameters)}"

    def start(self) -> None:
        """Start, and return when it takes connections and has loaded what it kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_file.write_text("")
        arguments = [part for name, value in self._settings.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [_program(), *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while "Ready to accept connections" not in self.log_file.read_text(errors="replace"):
            assert self.process.poll() is None, f"it did not start:\n{self.log_file.read_text()}"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop as an operator does."""
        assert self.process
        self.process.terminate()
        self.process.wait(timeout=30)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stop answering, while the kernel goes on taking connections."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def client(self) -> Redis:
        """The library's own client, to look at what is there, of a server without TLS."""
        return Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=30)

    def tell(self, *command: Any) -> Any:
        client = self.client()
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def keys(self, kind: str) -> list[bytes]:
        """The names of keys whose part behind the shard begins so."""
        found: list[bytes] = self.tell("KEYS", f"mayfly:1:{{*}}:{kind}*")
        return found

    def __enter__(self) -> ValkeyServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process and self.process.poll() is None:
            self.kill()


class ValkeyCluster:
    """Three servers that share the slots; those of one that is lost are refused, while the others go on."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.servers = [
            ValkeyServer(
                folder / f"node-{number}",
                cluster_enabled="yes",
                cluster_node_timeout="1000",
                cluster_require_full_coverage="no",
                cluster_port=str(free_port()),
                **settings,
            )
            for number in range(3)
        ]

    @property
    def url(self) -> str:
        return f"valkey+cluster://127.0.0.1:{self.servers[0].port}"

    def __enter__(self) -> ValkeyCluster:
        for server in self.servers:
            server.start()
        first = self.servers[0]
        for number, server in enumerate(self.servers):
            begin, end = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            server.tell("CLUSTER", "ADDSLOTSRANGE", begin, end)
            server.tell("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.tell("CLUSTER", "MEET", "127.0.0.1", first.port, first._settings["cluster-port"])
        self.wait_until(lambda told: told["cluster_state"] == "ok" and told["cluster_slots_assigned"] == "16384")
        return self

    def wait_until(self, done: Callable[[Mapping[str, str]], bool]) -> None:
        """Wait until all servers that run tell of themselves, by CLUSTER INFO, what `done` waits for."""
        deadline = time.monotonic() + 30
        while not all(done(_told(server)) for server in self.running()):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def running(self) -> Iterator[ValkeyServer]:
        return (server for server in self.servers if server.process and server.process.poll() is None)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in self.servers:
            server.__exit__(kind, error, trace)


def _told(server: ValkeyServer) -> dict[str, str]:
    client = server.client()
    try:
        return {name: str(value) for name, value in client.cluster("INFO").items()}
    finally:
        client.close()


def _program() -> str:
    path = shutil.which("valkey-server") or shutil.which("redis-server")
    require(path, "valkey-server or redis-server (apt-get install valkey-server, or redis-server)")
    return str(path)


@functools.cache
def shared_valkey_server() -> ValkeyServer:
    """One server for all tests of a run that need no other; it ends with the run."""
    return _lasting(ValkeyServer(_lasting_folder()))


@functools.cache
def shared_valkey_cluster() -> ValkeyCluster:
    """One Cluster for all tests of a run that break nothing."""
    return _lasting(ValkeyCluster(_lasting_folder()))


def _lasting_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mayfly-valkey-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_Engine = TypeVar("_Engine", ValkeyServer, ValkeyCluster)


def _lasting(engine: _Engine) -> _Engine:
    engine.__enter__()
    atexit.register(engine.__exit__, None, None, None)
    return engine
