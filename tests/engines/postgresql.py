"""A PostgreSQL server for tests.

with PostgreSQL() as server:                          plain: any user of loopback
with PostgreSQL(authority.server(), authority.certificate) as server:
    server.admit("hostssl all mayfly 127.0.0.1/32 scram-sha-256 clientcert=verify-full")
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import psycopg

from tests.engines.authority import Certificate
from tests.engines.process import EngineProcess
from tests.requirements import require

USER, PASSWORD = "mayfly", "correct horse"


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    path = shutil.which(name) or (str(found[-1]) if found else None)
    require(path, "PostgreSQL (apt-get install postgresql)")
    return str(path)


class PostgreSQL(EngineProcess):
    """`durable` keeps fsync on. With a certificate it takes TLS, and verifies clients' by `clients_authority`."""

    scheme = "postgresql"

    def __init__(self, tls: Certificate | None = None, clients_authority: Path | None = None, durable: bool = False) -> None:
        super().__init__("postgresql")
        self._durable = durable
        self._data = self.folder / "data"
        self.set_up([_program("initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"])
        self._settings: dict[str, str] = {}
        if tls:
            self.use_certificate(tls)
        if clients_authority:
            self._settings["ssl_ca_file"] = str(self.copy_in(clients_authority, "clients.pem", 0o600))
        self.admit("host all all 127.0.0.1/32 trust", "hostssl all all ::1/128 trust")
        self.start()
        self.run(f"CREATE ROLE {USER} LOGIN CREATEDB PASSWORD '{PASSWORD}'")

    def use_certificate(self, tls: Certificate) -> None:
        """Show this certificate; takes effect with the next start."""
        self._settings |= {
            "ssl": "on",
            "ssl_cert_file": str(self.copy_in(tls.certificate, "server.pem", 0o600)),
            "ssl_key_file": str(self.copy_in(tls.key, "server.key", 0o600)),
        }

    def admit(self, *lines: str) -> None:
        """Who may come in, as lines of pg_hba.conf; the server's own socket always may."""
        (self._data / "pg_hba.conf").write_text("\n".join(["local all all trust", *lines, ""]))
        if self.process and self.process.poll() is None:
            self.run("SELECT pg_reload_conf()")

    def command(self) -> list[str]:
        fast = {} if self._durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "shared_buffers": "64MB",
            "max_connections": "200",
            **fast,
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [_program("postgres"), "-D", str(self._data), "-p", str(self.port), *options]

    def is_serving(self) -> bool:
        try:
            self.run("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def stop(self) -> None:
        """A fast shutdown, which does not wait for clients."""
        self._end(signal.SIGINT)

    def children(self) -> list[int]:
        """One for each connection, and some more. They outlive a killed server for a moment, which keeps another from starting."""
        assert self.process
        return [int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run SQL as the server's owner; what it answers."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A connection as the server's owner, by its socket, that commits each statement."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, dbname=database, user="postgres", autocommit=True, connect_timeout=5
        )

    def new_database(self, name: str) -> str:
        """An empty database; its URL."""
        self.run(f"CREATE DATABASE {name} OWNER {USER}")
        return self.url(name)

    def url(self, database: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{USER}:{PASSWORD.replace(' ', '%20')}@{host}:{self.port}/{database}"
