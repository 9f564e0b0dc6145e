"""docker-compose.yml, its profile `scale`, and deploy/: read as files, and done with the same programs.

No container engine is needed. The profile's services are started by hand: the commands, environments, certificates and the
Caddyfile are the files' own, and only addresses and folders are put in their place.
"""

from __future__ import annotations

import ipaddress
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import psycopg
import pytest
import yaml

import keyfile
from errors import KeyFileRefused
from settings import TABLE
from storage.address import parse_address
from tests.engines.caddy import CADDYFILE, Caddy
from tests.engines.postgresql import _program as postgresql_program
from tests.engines.process import EngineProcess
from tests.requirements import require_program
from tests.serving import PASSWORD, PROJECT, Served

DEPLOY = PROJECT / "deploy"
ONE_SHOTS = {"keys", "certificates"}


def _compose() -> dict[str, Any]:
    """docker-compose.yml with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (PROJECT / "docker-compose.yml").read_text())
    assert "${" not in text, "every variable has a default"
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return document


def _services(profile: str) -> dict[str, Any]:
    return {name: service for name, service in _compose()["services"].items() if profile in service["profiles"]}


def _default_profile() -> str:
    (line,) = [line for line in (PROJECT / ".env").read_text().splitlines() if line and not line.startswith("#")]
    name, _, value = line.partition("=")
    assert name == "COMPOSE_PROFILES"
    return value


def _image() -> dict[str, str]:
    """Single instructions of the Dockerfile's final stage."""
    final = (PROJECT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    return {word: rest for word, _, rest in (line.partition(" ") for line in final.splitlines())}


# The default


def test_compose_up_is_the_embedded_default_and_nothing_else() -> None:
    """One service, on loopback only, its keys in a volume the image uses."""
    assert set(_services(_default_profile())) == {"mayfly"}
    service = _services("embedded")["mayfly"]
    assert service["build"] == "."
    assert "environment" not in service
    assert service["ports"] == [f"127.0.0.1:8000:{_image()['EXPOSE']}"]
    assert service["volumes"] == ["keys:/keys"]
    assert _image()["VOLUME"] == "/keys"


def test_no_service_belongs_to_two_profiles_or_to_none() -> None:
    """What belongs to none would be started with either: two systems with a message each."""
    assert {tuple(service["profiles"]) for service in _compose()["services"].values()} == {("embedded",), ("scale",)}


# The profile scale


def test_every_service_is_locked_down() -> None:
    """Read-only, without privileges or swap or core dumps, in bounds; what it may do beyond that stands here."""
    more = {"caddy": ["NET_BIND_SERVICE"], "certificates": ["CHOWN"]}
    for name, service in _compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == more.get(name, []), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"] == service["memswap_limit"], name
        assert service["pids_limit"] <= 256, name
        assert service["ulimits"] == {"core": 0}, name
        assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped"), name
        assert "privileged" not in service and "pid" not in service and "ipc" not in service, name
        assert all("noexec,nosuid,nodev" in mount for mount in service.get("tmpfs", [])), name


def test_every_image_is_pinned_to_a_version() -> None:
    for name, service in _compose()["services"].items():
        assert re.fullmatch(r"[a-z/-]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", service["image"]), name


def test_only_caddy_can_be_reached_and_only_from_this_machine_unless_asked() -> None:
    services = _services("scale")
    assert {name for name, service in services.items() if "ports" in service} == {"caddy"}
    assert services["caddy"]["ports"] == ["127.0.0.1:443:8443", "127.0.0.1:80:8080"]
    networks = _compose()["networks"]
    assert networks["front"]["internal"] and networks["back"]["internal"]
    assert {name for name, service in services.items() if "outside" in service.get("networks", [])} == {"caddy"}
    assert {name for name, service in services.items() if "back" in service.get("networks", [])} == {
        "mayfly-1",
        "mayfly-2",
        "purge",
        "postgresql",
        "valkey",
    }
    assert all(services[name]["network_mode"] == "none" for name in ONE_SHOTS)


def test_nodes_believe_caddy_alone_and_caddy_knows_them_all() -> None:
    services = _services("scale")
    nodes = {name for name in services if name.startswith("mayfly-")}
    assert len(nodes) == 2
    caddy = services["caddy"]["environment"]
    assert set(caddy["CADDY_NODES"].split()) == {f"{name}:{_image()['EXPOSE']}" for name in nodes}
    for name in nodes:
        environment = services[name]["environment"]
        assert environment["MAYFLY_TRUSTED_PROXIES"] == services["caddy"]["networks"]["front"]["ipv4_address"]
        assert environment["MAYFLY_PUBLIC_URL"] == caddy["MAYFLY_PUBLIC_URL"]
        assert set(services[name]["networks"]) == {"front", "back"}
    front = _compose()["networks"]["front"]["ipam"]["config"][0]
    assert not _covers(front["ip_range"], services["caddy"]["networks"]["front"]["ipv4_address"]), "nobody else gets it"


def _covers(network: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def test_every_vault_is_on_a_store_that_both_nodes_share_and_no_two_on_the_same() -> None:
    """Mutual TLS everywhere: the certificate stands for a password, and none is in the file."""
    services = _services("scale")
    known = {row.name for row in TABLE}
    for name in ("mayfly-1", "mayfly-2", "purge"):
        environment = services[name]["environment"]
        assert set(environment) <= known
        urls = {setting: url for setting, url in environment.items() if setting.endswith("DATABASE_URL")}
        assert set(urls) == {f"MAYFLY_{whose}DATABASE_URL" for whose in ("", "GUARDED_", "SEALED_", "ACCOUNTS_", "CERTIFICATES_")}
        places = set()
        for url in urls.values():
            scheme, _, rest = url.partition("://")
            authority, _, query = rest.partition("?")
            host = authority.rpartition("@")[2].partition(":")[0]
            assert host in services
            places.add((host, authority.rpartition("/")[2]))
            assert {part.partition("=")[0] for part in query.split("&")} == {"tls_ca", "tls_certificate", "tls_key"}
            assert ":" not in authority.rpartition("@")[0], f"a password for {scheme}"
        assert len(places) == len(urls)
    assert not re.search(
        "password(?!_FILE)|secret|token=", (PROJECT / "docker-compose.yml").read_text().replace("for a password", "")
    )


def test_nodes_do_not_purge_and_the_purge_has_no_key() -> None:
    services = _services("scale")
    assert all(services[name]["environment"]["MAYFLY_PURGE_SECONDS"] == "0" for name in ("mayfly-1", "mayfly-2"))
    assert services["purge"]["command"][:4] == ["python", "server.py", "purge", "--every"]
    assert not any("/keys" in volume for volume in services["purge"]["volumes"])


def test_only_the_one_shot_that_makes_the_key_file_can_write_it() -> None:
    users = {
        name: [volume for volume in service["volumes"] if volume.startswith("keys:")]
        for name, service in _services("scale").items()
    }
    assert {name: volumes for name, volumes in users.items() if volumes} == {
        "keys": ["keys:/keys"],
        "mayfly-1": ["keys:/keys:ro"],
        "mayfly-2": ["keys:/keys:ro"],
    }


def test_node_has_time_to_drain_and_to_finish() -> None:
    """Caddy notices within a second and a probe; a body may take 10 s to arrive."""
    for name in ("mayfly-1", "mayfly-2"):
        service = _services("scale")[name]
        drain = int(service["environment"]["MAYFLY_DRAIN_SECONDS"])
        assert drain >= 3
        assert int(service["stop_grace_period"].removesuffix("s")) >= drain + 10 + 5
    assert "/readyz" in (PROJECT / "Dockerfile").read_text().rpartition("HEALTHCHECK")[2]
    assert "health_uri /readyz" in CADDYFILE.read_text()
    assert "health_interval 1s" in CADDYFILE.read_text()


def test_what_is_mounted_from_the_project_exists() -> None:
    for service in _compose()["services"].values():
        for volume in service.get("volumes", []):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (PROJECT / source).is_file()
                assert rest.endswith(":ro")
            else:
                assert source in _compose()["volumes"]


# Its certificates


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the certificates, as the script fills it; owned by whoever runs the tests."""
    folder = tmp_path_factory.mktemp("tls")
    _make_certificates(folder)
    if os.geteuid() == 0:
        for path in folder.glob("*/*"):
            os.chown(path, 0, 0)
    return folder


def _make_certificates(folder: Path) -> None:
    require_program("openssl")
    (script,) = [part for part in _services("scale")["certificates"]["entrypoint"] if part.endswith(".sh")]
    for name in ("mayfly", "postgresql", "valkey"):
        (folder / name).mkdir(exist_ok=True)
    # Root in a container may do no more than the file says.
    as_there = [require_program("setpriv", "util-linux"), "--bounding-set=-all,+chown"] if os.geteuid() == 0 else []
    subprocess.run([*as_there, "sh", str(DEPLOY / script.lstrip("/")), str(folder)], check=True, timeout=60)


def test_certificates_are_made_once_and_their_authority_makes_no_more(tmp_path: Path) -> None:
    _make_certificates(tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    _make_certificates(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == first
    assert {str(path.relative_to(tmp_path)) for path in first} == {
        *("mayfly/ca.pem", "mayfly/client.pem", "mayfly/client.key"),
        *("postgresql/ca.pem", "postgresql/server.pem", "postgresql/server.key", "postgresql/superuser"),
        *("valkey/ca.pem", "valkey/server.pem", "valkey/server.key"),
    }
    for path in first:
        assert stat.S_IMODE(path.stat().st_mode) == (0o444 if path.suffix == ".pem" else 0o600), path
        if os.geteuid() == 0 and path != tmp_path / "mayfly" / "ca.pem":
            assert path.stat().st_uid == (10001 if path.parent.name == "mayfly" else 999), path


def test_certificates_that_were_left_half_made_are_made_anew(tmp_path: Path) -> None:
    """The engine was stopped in the middle; the files belong to others already."""
    _make_certificates(tmp_path)
    (tmp_path / "mayfly" / "ca.pem").unlink()
    before = (tmp_path / "postgresql" / "server.key").read_bytes()
    _make_certificates(tmp_path)
    assert (tmp_path / "postgresql" / "server.key").read_bytes() != before
    _verify(tmp_path, "postgresql/server.pem", "sslserver")


def test_certificates_verify_strictly_and_only_for_their_use(tls: Path) -> None:
    assert _verify(tls, "postgresql/server.pem", "sslserver")
    assert _verify(tls, "valkey/server.pem", "sslserver")
    assert _verify(tls, "mayfly/client.pem", "sslclient")
    assert not _verify(tls, "mayfly/client.pem", "sslserver")
    assert not _verify(tls, "postgresql/server.pem", "sslclient")


def _verify(tls: Path, certificate: str, purpose: str) -> bool:
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        purpose,
        "-CAfile",
        str(tls / "mayfly" / "ca.pem"),
        str(tls / certificate),
    ]
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0


# The whole profile, started by hand


class _Postgres(EngineProcess):
    """The service `postgresql`."""

    def __init__(self, tls: Path) -> None:
        super().__init__("scale-postgresql")
        self._data = self.folder / "data"
        self.set_up(
            [postgresql_program("initdb"), "-D", str(self._data), "-U", "postgres", "-A", "reject", "-E", "UTF8", "--no-sync"]
        )
        for path in (tls / "postgresql").iterdir():
            self.copy_in(path, path.name, 0o600)
        self._hba = self.copy_in(DEPLOY / "postgresql" / "pg_hba.conf", "pg_hba.conf", 0o600)
        databases = self.copy_in(DEPLOY / "postgresql" / "databases.sql", "databases.sql", 0o600)
        single = f"{postgresql_program('postgres')} --single -D {self._data} postgres < {databases} 2>&1"
        self.set_up(["sh", "-c", f'said=$({single}); case "$said" in *ERROR*) echo "$said"; exit 1 ;; esac'])

    def command(self) -> list[str]:
        _, *options = _services("scale")["postgresql"]["command"]
        options = [
            option.replace("/tls", str(self.folder)).replace("/etc/mayfly/pg_hba.conf", str(self._hba)) for option in options
        ]
        here = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), "fsync": "off"}
        options += [part for name, value in here.items() for part in ("-c", f"{name}={value}")]
        return [postgresql_program("postgres"), "-D", str(self._data), "-p", str(self.port), *options]

    def is_serving(self) -> bool:
        command = [postgresql_program("pg_isready"), "--quiet", "-h", str(self.folder), "-p", str(self.port), "--dbname", "sealed"]
        return subprocess.run(command, timeout=30).returncode == 0


class _Valkey(EngineProcess):
    """The service `valkey`, by the name that Debian's package has."""

    def __init__(self, tls: Path) -> None:
        super().__init__("scale-valkey")
        self._program = shutil.which("valkey-server") or require_program("redis-server")
        for path in (tls / "valkey").iterdir():
            self.copy_in(path, path.name, 0o600)

    def command(self) -> list[str]:
        _, *options = _services("scale")["valkey"]["command"]
        here = {"--tls-port 6379": f"--tls-port {self.port}"}
        options = [here.get(option, option).replace("/tls", str(self.folder)) for option in options]
        return [self._program, *options, "--bind 127.0.0.1", f"--dir {self.folder}"]

    def is_serving(self) -> bool:
        command = [part.replace("/tls/", f"{self.folder}/") for part in _services("scale")["valkey"]["healthcheck"]["test"]]
        program = shutil.which("valkey-cli") or require_program("redis-cli")
        asked = subprocess.run([program, "-p", str(self.port), *command[2:]], capture_output=True, timeout=30)
        return b"PONG" in asked.stdout


@dataclass
class Scale:
    """The running profile."""

    caddy: Caddy
    nodes: list[Served]
    postgresql: _Postgres
    valkey: _Valkey
    environment: dict[str, str]


def _environment(service: str, tls: Path, postgresql: _Postgres, valkey: _Valkey) -> dict[str, str]:
    here = {
        "/tls/": f"{tls}/mayfly/",
        "valkey:6379": f"localhost:{valkey.port}",
        "postgresql:5432": f"localhost:{postgresql.port}",
        "172.31.201.2": "127.0.0.1",
    }
    environment = dict(_services("scale")[service]["environment"])
    for name, value in environment.items():
        for theirs, ours in here.items():
            value = value.replace(theirs, ours)
        environment[name] = value
    return environment


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory, tls: Path) -> Iterator[Scale]:
    folder = tmp_path_factory.mktemp("scale")
    with _Postgres(tls) as postgresql, _Valkey(tls) as valkey:
        postgresql.start()
        valkey.start()
        caddy = Caddy(folder / "caddy")
        settings = _environment("mayfly-1", tls, postgresql, valkey) | {"MAYFLY_PUBLIC_URL": caddy.url, "MAYFLY_DRAIN_SECONDS": "0"}
        for name in ("first", "second"):
            (folder / name).mkdir()
        with Served(folder / "first", **settings) as first:
            shutil.copy(first.key_file, folder / "second" / "key.json")
            with Served(folder / "second", **settings) as second:
                caddy.nodes = [f"127.0.0.1:{node.port}" for node in (first, second)]
                with caddy:
                    yield Scale(caddy, [first, second], postgresql, valkey, settings)


def test_profile_scale_serves_every_vault_on_both_nodes(scale: Scale) -> None:
    with scale.caddy.client() as http:
        for _ in range(3):
            created = http.post("/", json={"message": "hello", "views": 1}).json()
            assert created["durability"] == "disk"
            assert created["link"].startswith(scale.caddy.url)
            opened = [node.http.post(f"/message/{created['id']}", headers={"Accept": "text/plain"}) for node in scale.nodes]
            assert [answer.status_code for answer in opened] == [200, 404]
            for vault in ("guarded", "sealed"):
                made = http.post(f"/{vault}", json={"message": "for somebody"})
                assert made.status_code == 201, made.text
                assert made.json()["durability"] == "disk"
    for node in scale.nodes:
        assert node.http.get("/readyz").text == "open: ready\nguarded: ready\nsealed: ready\n"


def test_account_of_the_profile_signs_in_through_caddy_and_reads_at_whichever_node_answers(scale: Scale) -> None:
    """The accounts are in a database of their own, behind mutual TLS; the cookie is one that only https carries."""
    scale.nodes[0].add_account("ana@example.com", "payments")
    with scale.caddy.client() as http:
        created = http.post("/guarded", json={"message": "for payments", "audience": ["role:payments"]}).json()
        asked = http.get(f"/guarded/{created['id']}")
        assert (asked.status_code, http.get("/account").status_code) == (401, 401)
        entered = http.post("/sign-in", json={"email": "ana@example.com", "password": PASSWORD})
        assert entered.status_code == 200, entered.text
        assert entered.headers["Set-Cookie"].startswith("__Host-mayfly=")
        for _ in range(4):
            assert http.get(f"/guarded/{created['id']}", headers={"Accept": "text/plain"}).text == "for payments"
    audited = {row[0] for row in _rows_of_accounts(scale, "SELECT DISTINCT action FROM mayfly_entries")}
    assert {"sign-in", "read"} <= audited


def _rows_of_accounts(scale: Scale, statement: str) -> list[Any]:
    url = urlsplit(scale.environment["MAYFLY_ACCOUNTS_DATABASE_URL"])
    tls = {name: values[0] for name, values in parse_qs(url.query).items()}
    with psycopg.connect(
        f"host=localhost port={url.port} user={url.username} dbname={url.path[1:]} sslmode=verify-full "
        f"sslrootcert={tls['tls_ca']} sslcert={tls['tls_certificate']} sslkey={tls['tls_key']}"
    ) as connection:
        return connection.execute(statement).fetchall()


def test_databases_of_the_profile_let_nobody_in_without_a_certificate(scale: Scale, tls: Path) -> None:
    where = f"host=localhost port={scale.postgresql.port} user=mayfly connect_timeout=5"
    verified = f"{where} sslmode=verify-full sslrootcert={tls}/mayfly/ca.pem"
    own = f"{verified} sslcert={tls}/mayfly/client.pem sslkey={tls}/mayfly/client.key"
    for database in ("guarded", "sealed", "accounts", "certificates"):
        psycopg.connect(f"{own} dbname={database}").close()
        for refused in (f"{where} sslmode=disable", verified, f"{own} user=postgres"):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(f"{refused} dbname={database}")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"{own} dbname=postgres")
    cli = [shutil.which("valkey-cli") or require_program("redis-cli"), "-p", str(scale.valkey.port)]
    for options in ([], ["--tls", "--cacert", f"{tls}/mayfly/ca.pem"]):
        asked = subprocess.run([*cli, *options, "ping"], capture_output=True, timeout=30)
        assert b"PONG" not in asked.stdout


def test_vault_goes_on_while_the_database_of_others_is_down(scale: Scale) -> None:
    """Caddy keeps sending: a node that can do something is ready. What is down answers 503, and comes back by itself."""
    scale.postgresql.kill()
    with scale.caddy.client() as http:
        try:
            deadline = time.monotonic() + 30
            while "guarded: down" not in scale.nodes[0].http.get("/readyz").text:
                assert time.monotonic() < deadline
            for _ in range(20):
                assert http.post("/", json={"message": "hello"}).status_code == 201
                refused = http.post("/guarded", json={"message": "hello"})
                assert refused.status_code == 503
                assert refused.headers["Retry-After"]
                time.sleep(0.1)  # Caddy's probes come in between
        finally:
            scale.postgresql.start()
        deadline = time.monotonic() + 30
        while any("down" in node.http.get("/readyz").text for node in scale.nodes):
            assert time.monotonic() < deadline
        for _ in scale.nodes:
            assert http.post("/guarded", json={"message": "hello"}).status_code == 201


def test_purge_of_the_profile_removes_what_has_expired_and_ends_when_told(scale: Scale, tls: Path) -> None:
    """The service's own command and environment; it purges every vault."""
    where = f"host=localhost port={scale.postgresql.port} user=mayfly dbname=guarded sslmode=verify-full"
    certificates = f"sslrootcert={tls}/mayfly/ca.pem sslcert={tls}/mayfly/client.pem sslkey={tls}/mayfly/client.key"
    with (
        scale.caddy.client() as http,
        psycopg.connect(f"{where} {certificates}", autocommit=True) as database,
    ):
        assert http.post("/guarded", json={"message": "soon gone"}).status_code == 201
        assert _bodies(database) > 0
        database.execute("UPDATE mayfly_messages SET expires_at = created_at, purge_at = created_at WHERE ended IS NULL")
        command = _services("scale")["purge"]["command"]
        assert command[0] == "python"
        command = [sys.executable, *command[1:-1], "1"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        process = subprocess.Popen(command, cwd=PROJECT, env=environ | scale.environment, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while _bodies(database):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait()


def _bodies(database: psycopg.Connection[Any]) -> int:
    found = database.execute("SELECT count(*) FROM mayfly_bodies").fetchone()
    assert found
    return int(found[0])


# Kubernetes


def _manifests() -> list[dict[str, Any]]:
    return [
        document for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
    ]


def _manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [document for document in _manifests() if document["kind"] == kind and document["metadata"]["name"] == name]
    return found


MANIFESTS = [pytest.param(document, id=f"{document['kind']} {document['metadata']['name']}") for document in _manifests()]
DEPLOYMENTS = ["mayfly", "mayfly-purge"]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifest_is_of_the_schema(manifest: dict[str, Any], version: str) -> None:
    """Strictly: a field that the version does not know is an error."""
    kubernetes_validate.validate(manifest, version, strict=True)


def test_schema_refuses_a_field_that_does_not_exist() -> None:
    manifest = _manifest("Deployment", "mayfly")
    manifest["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_everything_is_in_the_namespace_that_enforces_restrictions() -> None:
    (namespace,) = [document for document in _manifests() if document["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {document["metadata"]["namespace"] for document in _manifests() if document["kind"] != "Namespace"} == {"mayfly"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pod_has_no_more_than_it_needs(name: str) -> None:
    spec = _manifest("Deployment", name)["spec"]["template"]["spec"]
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "useradd --system --user-group --uid 10001" in (PROJECT / "Dockerfile").read_text()
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert set(mounts) == set(volumes) == {"tmp", "tls", *(["keys"] if name == "mayfly" else [])}
    for volume in volumes.values():
        if "secret" in volume:
            assert mounts[volume["name"]]["readOnly"] is True
            assert volume["secret"]["defaultMode"] == 0o440
        else:
            assert volume["emptyDir"]["medium"] == "Memory"


def test_rolling_update_keeps_every_request() -> None:
    """A new pod is ready before an old one goes, which serves on until the Services have noticed, and then finishes."""
    spec = _manifest("Deployment", "mayfly")["spec"]
    assert spec["replicas"] >= 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    drain = int(_manifest("ConfigMap", "mayfly")["data"]["MAYFLY_DRAIN_SECONDS"])
    assert drain >= 5
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= drain + 10 + 10
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["livenessProbe"]["httpGet"] == container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    budget = _manifest("PodDisruptionBudget", "mayfly")["spec"]
    assert budget["minAvailable"] == 1


def test_selectors_find_their_pods_and_nothing_else() -> None:
    node, purge = (_manifest("Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in DEPLOYMENTS)
    assert node != purge
    assert _manifest("Service", "mayfly")["spec"]["selector"] == node
    assert _manifest("PodDisruptionBudget", "mayfly")["spec"]["selector"]["matchLabels"] == node
    assert _manifest("NetworkPolicy", "nodes-from-in-front")["spec"]["podSelector"]["matchLabels"] == node
    both = _manifest("NetworkPolicy", "to-databases")["spec"]["podSelector"]["matchLabels"].items()
    assert both <= node.items() and both <= purge.items()
    (service_port,) = _manifest("Service", "mayfly")["spec"]["ports"]
    (container,) = _manifest("Deployment", "mayfly")["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": service_port["targetPort"], "containerPort": int(_image()["EXPOSE"])}]


def test_network_is_closed_but_for_what_is_named() -> None:
    closed = _manifest("NetworkPolicy", "nothing")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = {document["metadata"]["name"] for document in _manifests() if document["kind"] == "NetworkPolicy"}
    assert policies == {"nothing", "nodes-from-in-front", "to-databases"}


def test_settings_of_the_manifests_are_settings_and_every_vault_is_shared() -> None:
    settings = _manifest("ConfigMap", "mayfly")["data"]
    databases = _manifest("Secret", "mayfly-databases")["stringData"]
    assert set(settings) | set(databases) <= {row.name for row in TABLE}
    assert settings["MAYFLY_PURGE_SECONDS"] == "0"
    assert len(databases) == 5
    for name in DEPLOYMENTS:
        (container,) = _manifest("Deployment", name)["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "mayfly"}}, {"secretRef": {"name": "mayfly-databases"}}]


def test_example_of_the_secrets_cannot_work(tmp_path: Path) -> None:
    """Its key file is refused, its certificates are none, and its hosts are under a name that can never exist (RFC 6761)."""
    key_file = tmp_path / "key.json"
    key_file.write_text(_manifest("Secret", "mayfly-keys")["stringData"]["key.json"])
    key_file.chmod(0o600)
    assert json.loads(key_file.read_text())
    with pytest.raises(KeyFileRefused):
        keyfile.read(key_file)
    assert set(_manifest("Secret", "mayfly-tls")["stringData"].values()) == {"REPLACE-ME"}
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).touch()
    for url in _manifest("Secret", "mayfly-databases")["stringData"].values():
        address = parse_address(url.replace("/tls/", f"{tmp_path}/"))
        assert address.host.endswith(".invalid")
        assert address.meets("mutual tls")
    mounted = {key for secret in ("mayfly-tls", "mayfly-keys") for key in _manifest("Secret", secret)["stringData"]}
    asked = re.findall(r"/tls/([\w.]+)", " ".join(_manifest("Secret", "mayfly-databases")["stringData"].values()))
    assert {*asked, Path(_manifest("ConfigMap", "mayfly")["data"]["MAYFLY_KEY_FILE"]).name} == mounted
