"""HTTPS without a proxy, by `python server.py --tls-certificate … --tls-key …`: it serves, refuses and stops as over http."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

import keyfile
from errors import StartRefused
from settings import Settings
from tests import raw
from tests.engines.authority import Authority, Certificate
from tests.ports import free_port
from tests.racing import connections, request
from tests.requirements import require_program
from tests.serving import PROJECT, Served
from tests.test_shutdown import SLOW_CREATE, await_busy, resident_bytes
from web.tls import server_context

JSON = "application/json"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def served(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), https=authority, MAYFLY_LOG_LEVEL="info") as running:
        yield running


# What it serves


def test_messages_are_created_opened_and_burned(served: Served) -> None:
    for vault in ("", "guarded"):
        answer = served.http.post(f"/{vault}", json={"message": "over TLS", "views": 1})
        assert answer.status_code == 201
        assert answer.json()["link"].startswith(f"{served.url}/")
        assert answer.json()["receipt"].startswith(f"{served.url}/")
    message = served.create("é" * 500_000, views=1)
    assert served.http.get(message.path).status_code == 405
    assert served.http.post(message.path, headers={"Accept": "text/plain"}).text == "é" * 500_000
    assert served.http.post(message.path).status_code == 404
    assert served.http.delete(served.create("x").receipt_path, headers={"Accept": JSON}).json()["state"] == "burned"


@pytest.mark.parametrize("path", ["/", "/guarded", "/sign-in", "/admin", "/healthz", "/readyz", "/static/mayfly.css", "/nowhere"])
def test_every_answer_says_that_browsers_come_by_https_only(served: Served, path: str) -> None:
    answer = served.http.get(path, headers={"Accept": "text/html"})
    assert answer.status_code in (200, 401, 404)
    assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"
    assert not re.search("[0-9]", answer.headers.get("Server", ""))


def test_session_is_kept_in_a_cookie_that_no_other_host_can_set(served: Served) -> None:
    served.add_account("ana@example.com")
    with closing(served.signed_in("ana@example.com")) as client:
        (cookie,) = client.cookies.jar
        assert (cookie.name, cookie.secure, cookie.path, cookie.domain_specified) == ("__Host-mayfly", True, "/", False)
        assert client.get("/account", headers={"Accept": "text/html"}).status_code == 200


def test_clients_address_is_known(served: Served) -> None:
    """Creates are counted by it, and nobody can say another one."""
    with Served(served.folder / "limited", https=served.https, MAYFLY_CREATE_RATE="1") as limited:
        for number, status in enumerate((201, 429)):
            forged = {"X-Forwarded-For": f"192.0.2.{number}"}
            assert limited.http.post("/", json={"message": "x"}, headers=forged).status_code == status


# TLS


def s_client(served: Served, *options: str) -> str:
    command = [require_program("openssl"), "s_client", "-connect", f"127.0.0.1:{served.port}", *options]
    return subprocess.run(command, input="", capture_output=True, text=True, timeout=30).stdout


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_new_versions_of_tls_are_spoken(served: Served, version: str) -> None:
    told = s_client(served, version, "-CAfile", str(served.https.certificate), "-verify_return_error")  # type: ignore[union-attr]
    assert "Verification: OK" in told
    assert "Compression: NONE" in told


@pytest.mark.parametrize(
    "options",
    [
        ["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"],
        ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM"],
        ["-tls1_2", "-cipher", "PSK:@SECLEVEL=0"],
    ],
    ids=lambda options: " ".join(options),
)
def test_old_versions_and_weak_suites_are_refused(served: Served, options: list[str]) -> None:
    assert "Cipher is (NONE)" in s_client(served, *options)


def test_http_1_is_what_is_agreed_on(served: Served) -> None:
    assert "ALPN protocol: http/1.1" in s_client(served, "-alpn", "h2,http/1.1")


def test_client_is_not_asked_for_a_certificate_without_authorities_of_clients(served: Served) -> None:
    assert "No client certificate CA names sent" in s_client(served)
    assert "Requested Signature Algorithms" not in s_client(served)


def test_plain_http_and_noise_get_no_answer_and_leave_nothing_in_the_log(served: Served) -> None:
    before = served.log()
    for noise in (raw.request("GET", "/healthz"), b"\x16\x03\x01\x00\x05hello", b"\x00" * 100, b"", b"\x80\x2e\x01\x00\x02"):
        answer = raw.receive(served, noise, half_close=True)
        assert b"HTTP/1" not in answer
    assert served.log() == before


def test_malformed_request_is_refused_without_a_word_of_it(served: Served) -> None:
    before = len(served.log())
    for malformed in (b"GET /message/canary HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\ncan ary: x\r\n\r\n"):
        with connections(served, 1) as (line,):
            answer = line.ask(malformed)
            assert (answer.status, answer.body) == (400, b"")
            assert line.socket.recv(1) == b""
    assert "can" not in served.log()[before:]


@pytest.mark.parametrize("headers", [[("X-Long", "x" * 9000)], [(f"X-{number}", "x") for number in range(150)]])
def test_head_has_its_limits(served: Served, headers: list[tuple[str, str]]) -> None:
    with connections(served, 1) as (line,):
        assert line.ask(raw.request("GET", "/healthz", headers)).status in (400, 431)


def test_client_that_does_not_close_keeps_nobody_waiting(served: Served) -> None:
    """gunicorn lingers for two seconds over a connection that it closes, in the thread that takes new ones."""
    with connections(served, 10) as lines:
        began = time.monotonic()
        for line in lines:
            line.ask(raw.request("GET", "/healthz"))  # with Connection: close
            with connections(served, 1) as (other,):
                assert other.ask(request("GET", "/healthz")).status == 200
        assert time.monotonic() - began < 5


# Starting and stopping


def environ_of(folder: Path, **settings: str) -> dict[str, str]:
    key_file = folder / "key.json"
    if not key_file.exists():
        keyfile.create(key_file)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    return {**clean, "MAYFLY_KEY_FILE": str(key_file), "MAYFLY_PORT": str(free_port()), **settings}


@pytest.mark.parametrize("command", [[], ["serve"]])
def test_options_name_the_files(tmp_path: Path, authority: Authority, command: list[str]) -> None:
    """Also by paths beside the folder in which it was started."""
    files, environ = authority.server(), environ_of(tmp_path)
    options = ["--tls-certificate", os.path.relpath(files.certificate, PROJECT), "--tls-key", str(files.key)]
    options += ["--client-ca", str(authority.certificate)]
    process = subprocess.Popen([sys.executable, "server.py", *command, *options], cwd=PROJECT, env=environ, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline().decode() == f"Mayfly serves https://127.0.0.1:{environ['MAYFLY_PORT']}\n"
        context = ssl.create_default_context(cafile=str(authority.certificate))
        for _ in range(500):
            try:
                with socket.create_connection(("127.0.0.1", int(environ["MAYFLY_PORT"])), 30) as plain:
                    context.wrap_socket(plain, server_hostname="127.0.0.1").close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]


def test_options_are_for_serving(tmp_path: Path) -> None:
    command = [sys.executable, "server.py", "--tls-key", "x", "keys", "list"]
    told = subprocess.run(command, cwd=PROJECT, env=environ_of(tmp_path), capture_output=True, text=True, timeout=30)
    assert told.returncode == 2
    assert "are for serving" in told.stderr


def write(path: Path, text: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text)
    path.chmod(mode)
    return path


def pair(files: Certificate, **given: Path) -> dict[str, str]:
    chosen = {"MAYFLY_TLS_CERTIFICATE": files.certificate, "MAYFLY_TLS_KEY": files.key, **given}
    return {name: str(path) for name, path in chosen.items()}


@pytest.fixture
def wrong_files(tmp_path: Path, authority: Authority) -> dict[str, tuple[dict[str, str], str]]:
    """What may be wrong: settings, and what the line says."""
    good, other = authority.server(), authority.server("localhost")
    expired, root = authority.server("127.0.0.1", expired=True), authority.certificate
    key = serialization.load_pem_private_key(good.key.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    none, empty = tmp_path / "none.pem", write(tmp_path / "empty.pem", b"")
    noise = write(tmp_path / "noise.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    readable, by_group = write(tmp_path / "a.key", good.key.read_bytes(), 0o644), write(tmp_path / "g.key", good.key.read_bytes())
    by_group.chmod(0o620)
    leaf_as_ca = authority.client("ana").certificate
    certificate, of_key, ca = "MAYFLY_TLS_CERTIFICATE", "MAYFLY_TLS_KEY", "MAYFLY_CLIENT_CA"
    return {
        "no certificate": (pair(good, **{certificate: none}), f"{certificate}: {none}: it cannot be read (No such file"),
        "folder for a certificate": (
            pair(good, **{certificate: tmp_path}),
            f"{certificate}: {tmp_path}: it cannot be read (Is a dir",
        ),
        "empty certificate": (pair(good, **{certificate: empty}), f"{certificate}: {empty}: it holds no certificate in PEM form"),
        "noise": (pair(good, **{certificate: noise}), f"{certificate}: {noise}: it holds no certificate in PEM form"),
        "key for a certificate": (pair(good, **{certificate: good.key}), f"{certificate}: {good.key}: it holds no certificate"),
        "expired": (pair(expired), f"{certificate}: {expired.certificate}: it has expired"),
        "no key": (pair(good, **{of_key: none}), f"{of_key}: {none}: it does not exist; it is the private key of {certificate}"),
        "empty key": (pair(good, **{of_key: empty}), f"{of_key}: {empty}: it holds no private key in PEM form"),
        "certificate for a key": (
            pair(good, **{of_key: write(tmp_path / "c.pem", good.certificate.read_bytes())}),
            "it holds no private key in PEM form",
        ),
        "another key": (pair(good, **{of_key: other.key}), f"{of_key}: {other.key}: it is not the key of the first certificate in"),
        "key under a passphrase": (
            pair(good, **{of_key: write(tmp_path / "locked.key", locked)}),
            "it is under a passphrase, which nobody could type in at a start",
        ),
        "key that all may read": (pair(good, **{of_key: readable}), f"{of_key}: {readable}: everyone on this machine may use it"),
        "key that a group may write": (pair(good, **{of_key: by_group}), f"{of_key}: {by_group}: its group may write it"),
        "no authority": (pair(good, **{ca: none}), f"{ca}: {none}: it cannot be read (No such file"),
        "client for an authority": (
            pair(good, **{ca: leaf_as_ca}),
            f"{ca}: {leaf_as_ca}: it holds a certificate that is no authority",
        ),
        "authority without TLS": ({ca: str(root)}, f"{ca} needs {certificate}"),
        "certificate alone": ({certificate: str(good.certificate)}, f"{certificate} and {of_key} go together"),
    }


def test_wrong_files_are_refused_with_a_line_that_names_the_setting(wrong_files: dict[str, tuple[dict[str, str], str]]) -> None:
    """And nothing waits for somebody to type a passphrase."""
    for what, (settings, line) in wrong_files.items():
        with pytest.raises(StartRefused) as refused:
            server_context(Settings.from_environ(settings))
        assert line in str(refused.value), what
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("command", [["server.py"], ["-m", "gunicorn", "server:create_app()"]], ids=["server.py", "gunicorn"])
def test_wrong_file_stops_the_start_with_one_line(
    tmp_path: Path, wrong_files: dict[str, tuple[dict[str, str], str]], command: list[str]
) -> None:
    settings, line = wrong_files["key that all may read"]
    told = subprocess.run(
        [sys.executable, *command], cwd=PROJECT, env=environ_of(tmp_path, **settings), capture_output=True, text=True, timeout=30
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"mayfly: {line}; run chmod 600 on it\n"


def test_requests_in_flight_are_answered_before_the_server_stops(tmp_path: Path, authority: Authority) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with Served(tmp_path, https=authority) as served, connections(served, 2) as lines:
            idle = resident_bytes(served)
            for line in lines:
                line.send(request("POST", "/", SLOW_CREATE, Content_Type=JSON))
            await_busy(served, idle + 60 * 1024 * 1024)
            os.kill(served.pid, number)
            assert [line.answer().status for line in lines] == [201] * 2
            assert served.process
            assert served.process.wait(timeout=60) == 0
            assert "Traceback" not in served.log()


def test_hangup_keeps_the_messages_in_memory(tmp_path: Path, authority: Authority) -> None:
    with Served(tmp_path, https=authority) as served:
        message = served.create("still here", views=1)
        os.kill(served.pid, signal.SIGHUP)
        os.kill(served.pid, signal.SIGHUP)
        assert served.http.get("/healthz").status_code == 200
        assert served.http.post(message.path).text == "still here"
        assert served.stop() == 0


def test_server_that_drains_serves_on_while_it_says_it_is_not_ready(tmp_path: Path, authority: Authority) -> None:
    with Served(tmp_path, https=authority, MAYFLY_DRAIN_SECONDS="2") as served:
        os.kill(served.pid, signal.SIGTERM)
        deadline = time.monotonic() + 2
        while served.http.get("/readyz").status_code != 503:
            assert time.monotonic() < deadline
        with connections(served, 1) as (line,):
            assert line.ask(request("GET", "/healthz")).status == 200
        assert served.process
        assert served.process.wait(timeout=30) == 0


def test_gunicorn_serves_https_by_the_same_settings(tmp_path: Path, authority: Authority) -> None:
    """With several workers, and a session that began at one is resumed at any."""
    with Served(tmp_path, "gunicorn", "file", workers=2, https=authority) as served:
        message = served.create("over TLS", views=1)
        assert served.http.post(message.path).text == "over TLS"
        context, reused, session = served.trust(), [], None
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        for _ in range(12):
            plain = socket.create_connection(("127.0.0.1", served.port), 30)
            with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection:
                connection.sendall(raw.request("GET", "/healthz"))
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
                session = connection.session
                reused.append(connection.session_reused)
        assert reused == [False] + [True] * 11
