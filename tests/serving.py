"""Start real servers for tests: a process, a port on loopback, a key file, a clock that can be moved.

with Served(tmp_path, server="gunicorn", database="file", MAYFLY_LEASE_SECONDS="5") as served:
    link = served.create("hello", views=1).link
    served.clock.advance(60)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

import keyfile
from access import authority
from access.accounts import Accounts
from audit import Audit
from database import open_access, open_certificates, wall_clock
from keyfile import KeyFile
from records import Actor, Millis
from settings import Settings
from tests.engines.authority import Authority, Certificate
from tests.ports import free_port
from tests.stores import new_place

PROJECT = Path(__file__).resolve().parent.parent
Server = Literal["granian", "gunicorn"]
Database = Literal["memory", "file", "postgresql", "mariadb", "valkey", "valkey-cluster"]
SERVERS: tuple[Server, ...] = ("granian", "gunicorn")
PASSWORD = "correct horse battery staple"
"""Of all accounts that tests make, unless they say otherwise."""
DATABASES: tuple[Database, ...] = ("memory", "file")


class MovableClock:
    """The store's clock of a served process; real time plus what it was advanced by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset_ms = 0
        path.write_bytes(struct.pack("<q", 0))

    def now(self) -> Millis:
        return Millis(wall_clock() + self.offset_ms)

    def advance(self, seconds: float) -> None:
        self.offset_ms += int(seconds * 1000)
        with self.path.open("r+b") as file:  # in place: the server has it mapped
            file.write(struct.pack("<q", self.offset_ms))


@dataclass(frozen=True)
class CreatedMessage:
    """The JSON answer to a create."""

    id: str
    link: str
    receipt: str
    expires_at: str
    views: int | None
    durability: str
    encryption: str

    @property
    def path(self) -> str:
        return urlsplit(self.link).path

    @property
    def receipt_path(self) -> str:
        return urlsplit(self.receipt).path


def _of_tls(files: Certificate) -> dict[str, str]:
    return {"MAYFLY_TLS_CERTIFICATE": str(files.certificate), "MAYFLY_TLS_KEY": str(files.key)}


class Served:
    """One served Mayfly. No rate limit and no purge unless the test asks for them.

    A database on the network is an empty one on a server that all tests share, dropped at the end; `node` makes other nodes on it.
    With `https` it speaks that, by a certificate of this authority: then it is gunicorn that serves, in whatever way.
    """

    def __init__(
        self,
        folder: Path,
        server: Server = "granian",
        database: Database = "memory",
        workers: int = 1,
        https: Authority | None = None,
        **settings: str,
    ) -> None:
        self.folder = folder
        self.server = server
        self.database = database
        self.workers = workers
        self.port = free_port()
        self.url = f"{'https' if https else 'http'}://127.0.0.1:{self.port}"
        self.https = https
        self.key_file = folder / "key.json"
        self.database_file = folder / "mayfly.db"
        self._place = None if database in ("memory", "file") else new_place(database, folder)
        url = self._place.url if self._place else "sqlite://" if database == "memory" else f"sqlite:///{self.database_file}"
        self.log_file = folder / "server.log"
        if not self.key_file.exists():
            keyfile.create(self.key_file)
        self.clock = MovableClock(folder / "clock")
        self.settings = {
            "MAYFLY_PORT": str(self.port),
            "MAYFLY_KEY_FILE": str(self.key_file),
            "MAYFLY_DATABASE_URL": url,
            "MAYFLY_EXPRESS": os.environ.get("TESTS_EXPRESS", "on"),
            "MAYFLY_CREATE_RATE": "0",
            "MAYFLY_PURGE_SECONDS": "0",
            # Those of the other vaults in memory: only one process may have them.
            **({"MAYFLY_GUARDED_DATABASE_URL": "off", "MAYFLY_SEALED_DATABASE_URL": "off"} if workers > 1 else {}),
            **(_of_tls(https.server()) if https else {}),
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.http = self.client()

    def client(self, show: Certificate | None = None, **options: Any) -> httpx.Client:
        """A client of its own; over https it may show a certificate."""
        return httpx.Client(base_url=self.url, timeout=30, verify=self.trust(show) if self.https else True, **options)

    def trust(self, show: Certificate | None = None) -> ssl.SSLContext:
        """What a client over https knows of authorities, and what it shows of itself."""
        assert self.https
        context = ssl.create_default_context(cafile=str(self.https.certificate))
        if show:
            context.load_cert_chain(show.certificate, show.key)
        return context

    def node(self, folder: Path, **settings: str) -> Served:
        """Another node on the same store, with the same keys and clock, not started yet; `folder` holds its log."""
        folder.mkdir()
        shutil.copy(self.key_file, folder / "key.json")
        shared = {name: url for name, url in self.settings.items() if name.endswith("DATABASE_URL")}
        other = Served(folder, self.server, "file", self.workers, self.https, **{**shared, **settings})
        other.clock = self.clock
        return other

    @property
    def admin_token(self) -> str:
        return str(json.loads(self.key_file.read_text())["admin_token"])

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def command(self) -> list[str]:
        if self.server == "granian":
            return [sys.executable, "-m", "tests.clocked"]
        return [sys.executable, "-m", "gunicorn", "--workers", str(self.workers), "tests.clocked:app()"]

    def start(self) -> None:
        """Start and wait until it answers; raises AssertionError with its log if it does not."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        environ |= {**self.settings, "TEST_CLOCK": str(self.clock.path), "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=PROJECT, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with self.client() as client:
                    if client.get("/healthz", timeout=5).status_code == 200:
                        return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log()}")

    def stop(self) -> int:
        """Stop as an operator does, with SIGTERM, and return the exit code."""
        assert self.process
        self.process.terminate()
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """SIGKILL the server and all its workers."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def create(self, message: str, **fields: Any) -> CreatedMessage:
        answer = self.http.post("/", json={"message": message, **fields})
        assert answer.status_code == 201, answer.text
        return CreatedMessage(**answer.json())

    def add_account(self, email: str, *roles: str, password: str = PASSWORD) -> str:
        """Make an account as the operator does, in the server's own database, and return its id."""
        with self._accounts() as accounts:
            given = {"email": email, "first_name": "Ana", "last_name": "Silva", "roles": list(roles), "password": password}
            return accounts.add(Actor(way="command"), given)[0].id

    def add_authority(self) -> None:
        """Make a root and who issues, as the operator does, in the server's own database."""
        store = open_certificates(Settings.from_environ(self.settings), self.key_file, self.clock.now)
        assert store
        root = authority.make_root(self.folder / "root", PASSWORD, store.now())
        authority.Authority(store, KeyFile(self.key_file)).issue_issuer(root)
        store.close()

    @contextmanager
    def _accounts(self) -> Iterator[Accounts]:
        settings = Settings.from_environ(self.settings)
        keys = KeyFile(self.key_file)
        store = open_access(settings, self.key_file, self.clock.now)
        assert store
        yield Accounts(store, Audit(store, keys, settings.audit_addresses), keys)
        store.close()

    def signed_in(self, email: str, password: str = PASSWORD, **headers: str) -> httpx.Client:
        """A client that has signed in and carries the session's cookie."""
        with self.client() as client:
            wanted = {"email": email, "password": password}
            answer = client.post("/sign-in", json=wanted, headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text
        return self.client(headers=headers, cookies=answer.cookies)

    def with_key(self, email: str, *scopes: str, password: str = PASSWORD, **fields: Any) -> httpx.Client:
        """A client that shows an API key of that account, made with its password."""
        made = self.make_key(email, *scopes, password=password, **fields)
        return self.client(headers={"Authorization": f"Bearer {made['key']}"})

    def make_key(self, email: str, *scopes: str, password: str = PASSWORD, **fields: Any) -> dict[str, Any]:
        """The JSON answer to making an API key."""
        wanted = {"name": "a program", "scopes": list(scopes), **fields}
        answer = self.http.post("/keys", json=wanted, auth=httpx.BasicAuth(email, password))
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def token_of(self, key: dict[str, Any], **fields: str) -> str:
        """An access token for an API key."""
        form = {"grant_type": "client_credentials", **fields}
        answer = self.http.post("/oauth/token", data=form, auth=httpx.BasicAuth(key["id"], key["key"]))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def purge(self) -> int:
        """Purge by the scripted admin route; returns how many messages went."""
        answer = self.http.post("/delete", headers={"Authorization": f"Bearer {self.admin_token}"})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["deleted"])

    def __enter__(self) -> Served:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.http.close()
        if self.process and self.process.poll() is None:
            self.kill()
        if self._place:
            self._place.close()
