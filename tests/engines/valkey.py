"""Valkey or Redis servers for tests, whichever is installed. None keeps anything on disk unless the test asks for it.

with ValkeyServer(appendonly="yes") as server:
    store = open_url(server.url, clock)
    server.kill()
    server.start()
with ValkeyServer(authority.server(), authority.certificate) as server:     TLS, and demands certificates of clients
with ValkeyCluster() as cluster:                                            three servers that share the slots
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.engines.authority import Authority, Certificate
from tests.engines.process import EngineProcess
from tests.ports import free_port
from tests.requirements import require

_READY = "Ready to accept connections"


class ValkeyServer(EngineProcess):
    """One server. `settings` are those of its configuration file, with _ for -.

    By TLS it has no other port, but as a `peer` in a Cluster, where it shows that certificate to the others.
    """

    def __init__(
        self,
        tls: Certificate | None = None,
        clients_authority: Path | None = None,
        peer: Certificate | None = None,
        **settings: str,
    ) -> None:
        super().__init__("valkey")
        self._program = shutil.which("valkey-server") or shutil.which("redis-server")
        require(self._program, "valkey-server or redis-server (apt-get install valkey-server, or redis-server)")
        self._settings = {
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "latency-tracking": "no",  # takes 20 KB for each command at its first use
        }
        if tls:
            ca = self.copy_in(clients_authority or tls.certificate, "clients.pem", 0o600)
            self._settings |= {
                "port": "0",
                "tls-port": str(self.port),
                "tls-cert-file": str(self.copy_in(tls.certificate, "server.pem", 0o600)),
                "tls-key-file": str(self.copy_in(tls.key, "server.key", 0o600)),
                "tls-ca-cert-file": str(ca),
                "tls-auth-clients": "yes" if clients_authority else "no",
            }
        else:
            self._settings["port"] = str(self.port)
        if peer:
            self._settings |= {
                "port": str(free_port()),
                "tls-cluster": "yes",
                "tls-client-cert-file": str(self.copy_in(peer.certificate, "peer.pem", 0o600)),
                "tls-client-key-file": str(self.copy_in(peer.key, "peer.key", 0o600)),
            }
        self._settings |= {name.replace("_", "-"): value for name, value in settings.items()}
        self._starts = 0
        self.start()

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    def url_with(self, authority: Authority, client: Certificate | None = None) -> str:
        """By TLS, verified by `authority`; mutual with the certificate of a `client`."""
        parameters = {"tls_ca": str(authority.certificate)}
        if client:
            parameters |= {"tls_certificate": str(client.certificate), "tls_key": str(client.key)}
        return f"{self.url}?{urlencode(parameters)}"

    def start(self) -> None:
        """Start it and wait until it serves, with all that it kept."""
        self._starts += 1
        super().start()

    def command(self) -> list[str]:
        return [str(self._program), *(part for name, value in self._settings.items() for part in (f"--{name}", value))]

    def is_serving(self) -> bool:
        return self.log_file.read_text(errors="replace").count(_READY) == self._starts

    @property
    def plain_port(self) -> int:
        """The port without TLS; 0 if there is none."""
        return int(self._settings["port"])

    def client(self) -> Redis:
        """The library's own client, to look at what is there, by the port without TLS."""
        return Redis(port=self.plain_port, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=30)

    def tell(self, *command: Any) -> Any:
        client = self.client()
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def keys(self, kind: str = "") -> list[bytes]:
        """The names of the keys that begin so behind the shard."""
        found: list[bytes] = self.tell("KEYS", f"mayfly:1:{{*}}:{kind}*")
        return found


class ValkeyCluster:
    """Three servers that share the slots; those of one that is lost are refused, while the others go on.

    With an `authority` they speak TLS to each other and to clients, and demand certificates.
    """

    def __init__(self, authority: Authority | None = None, **settings: str) -> None:
        self._certificates = (authority.server(), authority.certificate, authority.client("peer")) if authority else ()
        self._settings = {
            "cluster_enabled": "yes",
            "cluster_node_timeout": "1000",
            "cluster_require_full_coverage": "no",
            **settings,
        }
        self.servers: list[ValkeyServer] = []
        self._bus_port = str(free_port())
        for number in range(3):
            server = self._new_server(self._bus_port if number == 0 else str(free_port()))
            server.tell("CLUSTER", "ADDSLOTSRANGE", 16384 * number // 3, 16384 * (number + 1) // 3 - 1)
            server.tell("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self._introduce(server)
        self.wait_until(lambda told: told["cluster_state"] == "ok" and told["cluster_slots_ok"] == "16384")

    def add_replica(self, of: ValkeyServer) -> ValkeyServer:
        """A server that takes over when `of` is lost, as `servers[3]`."""
        replica = self._new_server(str(free_port()))
        self._introduce(replica)
        self.wait_until(lambda told: told["cluster_known_nodes"] == str(len(self.servers)))
        replica.tell("CLUSTER", "REPLICATE", of.tell("CLUSTER", "MYID"))
        while replica.tell("INFO", "replication").get("master_link_status") != "up":
            time.sleep(0.02)
        return replica

    def _new_server(self, bus_port: str) -> ValkeyServer:
        self.servers.append(ValkeyServer(*self._certificates, cluster_port=bus_port, **self._settings))
        return self.servers[-1]

    def _introduce(self, server: ValkeyServer) -> None:
        server.tell("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port, self._bus_port)

    @property
    def url(self) -> str:
        return self.servers[0].url.replace("valkey:", "valkey+cluster:")

    def url_with(self, authority: Authority, client: Certificate | None = None) -> str:
        """By TLS, as a server's."""
        return self.servers[0].url_with(authority, client).replace("valkey:", "valkey+cluster:")

    def wait_until(self, done: Callable[[Mapping[str, str]], bool]) -> None:
        """Wait until all servers that run tell of themselves, by CLUSTER INFO, what `done` waits for."""
        deadline = time.monotonic() + 30
        while not all(done(_told(server)) for server in self.running()):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def remove(self) -> None:
        for server in self.servers:
            server.remove()

    def __enter__(self) -> ValkeyCluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def running(self) -> Iterator[ValkeyServer]:
        return (server for server in self.servers if server.process and server.process.poll() is None)


def _told(server: ValkeyServer) -> dict[str, str]:
    client = server.client()
    try:
        return {name: str(value) for name, value in client.cluster("INFO").items()}
    finally:
        client.close()
