"""A MariaDB server for tests.

with MariaDB() as server:                             plain: the user of `url` and the password in it
with MariaDB(authority.server(), authority.certificate) as server:
    server.demand("X509")
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pymysql

from tests.engines.authority import Certificate
from tests.engines.process import SAFE_USER, EngineProcess, is_root
from tests.requirements import require

USER, PASSWORD = "mayfly", "correct horse"


def _program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin")
    require(path, "MariaDB (apt-get install mariadb-server)")
    return str(path)


class MariaDB(EngineProcess):
    """`durable` keeps its syncs on. With a certificate it takes TLS, and verifies clients' by `clients_authority`."""

    scheme = "mysql"

    def __init__(self, tls: Certificate | None = None, clients_authority: Path | None = None, durable: bool = False) -> None:
        super().__init__("mariadb")
        self._durable = durable
        self._data = self.folder / "data"
        self._socket = self.folder / "socket"
        self._settings: dict[str, str] = {}
        self.set_up(
            [
                _program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={self._data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *([f"--user={SAFE_USER}"] if is_root() else []),
            ]
        )
        if tls:
            self.use_certificate(tls)
        if clients_authority:
            self._settings["ssl-ca"] = str(self.copy_in(clients_authority, "clients.pem", 0o600))
        self.start()
        self.run(f"CREATE USER {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
        self.run(f"GRANT ALL ON `mayfly\\_%`.* TO {USER}@'127.0.0.1'")

    def use_certificate(self, tls: Certificate) -> None:
        """Show this certificate; takes effect with the next start."""
        self._settings |= {
            "ssl-cert": str(self.copy_in(tls.certificate, "server.pem", 0o600)),
            "ssl-key": str(self.copy_in(tls.key, "server.key", 0o600)),
        }

    def demand(self, what: str) -> None:
        """What the user must show: NONE, SSL, X509, or SUBJECT '…'."""
        self.run(f"ALTER USER {USER}@'127.0.0.1' REQUIRE {what}")

    def command(self) -> list[str]:
        fast = {} if self._durable else {"innodb-flush-log-at-trx-commit": "0", "innodb-doublewrite": "0", "sync-binlog": "0"}
        settings = {
            "datadir": str(self._data),
            "socket": str(self._socket),
            "port": str(self.port),
            "bind-address": "127.0.0.1",
            "pid-file": str(self.folder / "pid"),
            "innodb-buffer-pool-size": "64M",
            "max-connections": "200",
            "skip-name-resolve": "1",
            **fast,
            **self._settings,
        }
        return [_program("mariadbd"), "--no-defaults", *(f"--{name}={value}" for name, value in settings.items())]

    def is_serving(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:  # the driver would leave its own open when nobody is there
            if probe.connect_ex(str(self._socket)):
                return False
        self.run("SELECT 1")
        return True

    def run(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run SQL as the server's owner; what it answers."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def connect(self, database: str | None = None) -> pymysql.Connection[Any]:
        """A connection as the server's owner, by its socket, that commits each statement."""
        return pymysql.connect(
            unix_socket=str(self._socket), user="root", database=database, autocommit=True, ssl_disabled=True, read_timeout=60
        )

    def new_database(self, name: str) -> str:
        """An empty database, whose name must begin with `mayfly_`; its URL."""
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{USER}:{PASSWORD.replace(' ', '%20')}@{host}:{self.port}/{database}"
