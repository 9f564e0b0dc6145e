"""The sealed vault: nothing opens without a certificate of the very account that signs in, which counts at that moment.

Over real TLS, on a server that lets certificates of a strange authority in too; by a proxy that is believed; through Caddy.
"""

from __future__ import annotations

import base64
import json
import socket
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID

from access.authority import Signer, make_root
from tests import raw
from tests.engines.authority import Authority
from tests.engines.caddy import Caddy
from tests.registry import Registry, Shown
from tests.requirements import require_program
from tests.serving import PASSWORD, CreatedMessage, Served

ANA, BRUNO = "ana@example.com", "bruno@example.com"
SECRET = "a-secret-that-only-the-proxy-knows"
JSON = {"Accept": "application/json"}
IDEMPOTENCY = "a-reader-with-a-lease"


@dataclass
class House:
    """A server with TLS of its own, another node of it behind a proxy, and certificates."""

    served: Served
    behind: Served
    registry: Registry
    ana: Shown
    key: dict[str, str]
    wrong: dict[str, Shown | None]

    def create(self, **fields: Any) -> CreatedMessage:
        answer = self.served.http.post("/sealed", json={"message": "the safe code", "views": 1, "passphrase": "right", **fields})
        assert answer.status_code == 201, answer.text
        return CreatedMessage(**answer.json())

    def untouched(self, message: CreatedMessage) -> bool:
        found = self.served.http.get(message.receipt_path, headers=JSON).json()
        return (found["state"], found["opened"], found["views_left"]) == ("waiting", [], 1)


def certified(folder: Path, **settings: str) -> Served:
    """A server, not started yet, with stores that others can have too."""
    names = ("", "GUARDED_", "SEALED_", "ACCOUNTS_", "CERTIFICATES_")
    urls = {f"MAYFLY_{name}DATABASE_URL": f"sqlite:///{folder}/{name.lower()}.db" for name in names}
    return Served(folder, "granian", https=Authority(folder / "tls"), **{**urls, **settings})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    served = certified(folder, MAYFLY_PROXY_SECRET=SECRET, MAYFLY_CLIENT_CA=str(folder / "trusted.pem"))
    for email in (ANA, BRUNO):
        served.add_account(email)
    registry = Registry(served)
    ana = registry.issue(ANA)
    strange = make_root(folder / "strange", "x", served.clock.now())
    trusted = [registry.authority.read_text(), (folder / "strange" / "root.pem").read_text()]
    (folder / "trusted.pem").write_text("".join(trusted))
    (folder / "behind").mkdir()
    behind = Served(folder / "behind", **shared(served), MAYFLY_KEY_FILE=str(served.key_file), MAYFLY_PROXY_SECRET=SECRET)
    behind.clock = served.clock
    with served, behind:
        made = served.make_key(ANA, "messages:read")
        key = {"Authorization": f"Bearer {made['key']}"}
        yield House(served, behind, registry, ana, key, wrong_ones(registry, ana, strange))


def shared(served: Served) -> dict[str, str]:
    return {name: url for name, url in served.settings.items() if name.endswith("DATABASE_URL")}


def wrong_ones(registry: Registry, ana: Shown, strange: Signer) -> dict[str, Shown | None]:
    """Everything that somebody might show instead."""
    revoked, inactive = registry.issue(ANA), registry.issue(ANA)
    registry.set_state(revoked, "revoked")
    registry.set_state(inactive, "inactive")
    key = generate_private_key(SECP256R1())
    real = x509.load_der_x509_certificate(ana.der)
    alone = x509.CertificateBuilder(
        real.subject, real.subject, key.public_key(), real.serial_number, real.not_valid_before_utc, real.not_valid_after_utc
    )
    return {
        "none": None,
        "expired": registry.forge(ANA, begins=-2 * 86400, ends=-1),
        "not yet valid": registry.forge(ANA, begins=3600),
        "revoked": revoked,
        "deactivated": inactive,
        "for servers only": registry.forge(ANA, usage=ExtendedKeyUsageOID.SERVER_AUTH),
        "for signing code": registry.forge(ANA, usage=ExtendedKeyUsageOID.CODE_SIGNING),
        "never recorded": registry.forge(ANA, known=False),
        "other authority": registry.forge(ANA, known=False, signer=strange),
        "other authority, recorded": registry.forge(ANA, signer=strange),
        "self-signed": registry.write(alone.sign(key, SHA256()), key),
        "of another account": registry.issue(BRUNO),
        "of another account, recorded for this one's name": registry.forge(BRUNO),
    }


WRONG = [
    *("none", "expired", "not yet valid", "revoked", "deactivated", "for servers only", "for signing code", "never recorded"),
    *("other authority", "other authority, recorded", "self-signed", "of another account"),
    "of another account, recorded for this one's name",
]


def test_every_wrong_one_is_tried(house: House) -> None:
    assert list(house.wrong) == WRONG


def ask_in_every_way(client: httpx.Client, message: CreatedMessage, **headers: str) -> list[httpx.Response]:
    """To look, to open, with a lease and without, by a form, with the right passphrase and a wrong one, and to end a lease."""
    lease = {"Idempotency-Key": IDEMPOTENCY}
    return [
        client.get(message.path, headers=headers),
        client.post(message.path, json={"passphrase": "right"}, headers=headers),
        client.post(message.path, json={"passphrase": "right"}, headers={**headers, **lease}),
        client.post(message.path, json={"passphrase": "wrong"}, headers=headers),
        client.post(message.path, data={"open": "yes", "passphrase": "right"}, headers=headers),
        client.delete(message.path, headers={**headers, **lease}),
    ]


def refused(answers: list[httpx.Response]) -> bool:
    return {answer.status_code for answer in answers} == {403} and not any("safe code" in answer.text for answer in answers)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_certificate_opens_nothing_over_tls_and_uses_nothing_up(house: House, name: str) -> None:
    message, shown = house.create(), house.wrong[name]
    with house.served.client(shown.files if shown else None, headers=house.key) as client:
        try:
            assert refused(ask_in_every_way(client, message))
        except (httpx.TransportError, ssl.SSLError):
            assert name in ("expired", "not yet valid", "for servers only", "for signing code", "self-signed"), "TLS could tell"
    assert house.untouched(message)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("node", ["served", "behind"])
def test_wrong_certificate_opens_nothing_by_a_believed_proxy_and_uses_nothing_up(house: House, name: str, node: str) -> None:
    message, shown = house.create(), house.wrong[name]
    told = {"Mayfly-Proxy-Secret": SECRET, **({"Client-Cert": field(shown)} if shown else {})}
    with getattr(house, node).client(headers=house.key) as client:
        assert refused(ask_in_every_way(client, message, **told))
    assert house.untouched(message)


def field(shown: Shown) -> str:
    return f":{base64.b64encode(shown.der).decode()}:"


@pytest.mark.parametrize("way", ["TLS", "proxy", "proxy over TLS"])
def test_right_certificate_opens(house: House, way: str) -> None:
    message = house.create()
    served = house.behind if way == "proxy" else house.served
    told = {} if way == "TLS" else {"Mayfly-Proxy-Secret": SECRET, "Client-Cert": field(house.ana)}
    with served.client(house.ana.files if way == "TLS" else None, headers=house.key) as client:
        assert client.get(message.path, headers=told).status_code == 405
        lease = {"Idempotency-Key": IDEMPOTENCY}
        for _ in range(2):
            answer = client.post(message.path, json={"passphrase": "right"}, headers={**told, **lease, **JSON})
            assert (answer.status_code, answer.json()["message"]) == (200, "the safe code")
        assert client.delete(message.path, headers={**told, **lease}).status_code == 204
        assert client.post(message.path, json={"passphrase": "right"}, headers=told).status_code == 404


def test_right_certificate_opens_by_curl_and_a_password(house: House) -> None:
    message = house.create()
    command = [require_program("curl"), "-s", "--cacert", str(house.served.https.certificate), "-u", f"{ANA}:{PASSWORD}"]  # type: ignore[union-attr]
    command += ["--cert", str(house.ana.files.certificate), "--key", str(house.ana.files.key), "--json", '{"passphrase": "right"}']
    told = subprocess.run([*command, message.link], capture_output=True, text=True, timeout=30)
    assert json.loads(told.stdout)["message"] == "the safe code"


def test_certificate_without_an_account_opens_nothing(house: House) -> None:
    message = house.create()
    with house.served.client(house.ana.files) as client:
        answers = ask_in_every_way(client, message)
    assert {answer.status_code for answer in answers} == {401}
    assert house.untouched(message)


def test_certificate_does_not_make_up_for_an_audience(house: House) -> None:
    message = house.create(audience=f"account:{BRUNO}")
    with house.served.client(house.ana.files, headers=house.key) as client:
        assert {answer.status_code for answer in ask_in_every_way(client, message)} == {404}
    assert house.untouched(message)


def test_certificate_is_asked_for_before_anything_is_looked_up(house: House) -> None:
    """Whoever has none learns nothing of what is there."""
    never = "/sealed/00000000-0000-4000-8000-000000000000"
    with house.served.client(headers=house.key) as client:
        answers = [client.post(path, headers=JSON) for path in (house.create().path, never, "/sealed/no-link")]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["title"] == "A certificate is needed"


def test_audit_has_who_came_without_a_certificate_and_with_which_it_was_opened(house: House) -> None:
    """A stolen password is seen; and afterwards it can be told what a stolen key has opened."""
    message = house.create(passphrase=None)
    with house.served.client(headers={**house.key, **JSON}) as client:
        assert client.post(message.path).status_code == 403
    with house.served.client(house.ana.files, headers={**house.key, **JSON}) as client:
        assert client.post(message.path).status_code == 200
    with closing(sqlite3.connect(house.served.folder / "accounts_.db")) as db:
        found = db.execute(
            "SELECT outcome, detail FROM mayfly_entries WHERE action = 'open' ORDER BY number DESC LIMIT 2"
        ).fetchall()
    assert found == [("answered", f"certificate {house.ana.id}"), ("refused", "no certificate")]


def test_guarded_vault_asks_for_no_certificate(house: House) -> None:
    answer = house.served.http.post("/guarded", json={"message": "x", "views": 1})
    with house.served.client(headers=house.key) as client:
        assert client.post(answer.json()["link"]).status_code == 200


def test_stolen_certificate_without_its_key_gets_no_connection(house: House) -> None:
    """Not even one that a client with a falsified key file presents, by either version of TLS."""
    message, stolen = house.create(), house.registry.stolen(house.ana)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = house.served.trust(stolen.files)
        context.maximum_version = version
        plain = socket.create_connection(("127.0.0.1", house.served.port), 30)
        with (
            pytest.raises(ssl.SSLError, match="alert decrypt error"),
            closing(plain),
        ):  # with TLS 1.3 a client hears of it when it reads
            connection = context.wrap_socket(plain, server_hostname="127.0.0.1")
            with closing(connection):
                connection.sendall(raw.request("POST", message.path, list(house.key.items())))
                connection.recv(1000)
    assert house.untouched(message)


def forged_headers(house: House) -> list[list[tuple[str, str]]]:
    """What somebody who is no proxy might send, with a certificate that would open if it were believed."""
    good = field(house.ana)
    return [
        [("Client-Cert", good)],
        [("client-cert", good)],
        [("CLIENT-CERT", good)],
        [("Client_Cert", good)],
        [("client_cert", good), ("Mayfly_Proxy_Secret", SECRET)],
        [("HTTP-Client-Cert", good)],
        [("Client-Cert", good), ("Mayfly-Proxy-Secret", "")],
        [("Client-Cert", good), ("Mayfly-Proxy-Secret", "x" * len(SECRET))],
        [("Client-Cert", good), ("Mayfly-Proxy-Secret", SECRET[:-1])],
        [("Client-Cert", good), ("Mayfly-Proxy-Secret", SECRET + "x")],
        [("Client-Cert", good), ("Mayfly-Proxy-Secret", SECRET.upper())],
        [("Client-Cert", good), ("Mayfly-Proxy-Secret", SECRET), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", good), ("Mayfly-Proxy-Secret", "wrong"), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", good), ("Mayfly_Proxy_Secret", SECRET)],
        [("X-Client-Cert", good), ("X-SSL-Client-Cert", good), ("X-Forwarded-Client-Cert", good), ("Mayfly-Proxy-Secret", SECRET)],
        # Said by the proxy, and not in the form of RFC 9440.
        [("Client-Cert", good), ("Client-Cert", good), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", good[1:-1]), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", f'"{good[1:-1]}"'), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", f"{good};a=1"), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", f"{good[:20]}*{good[20:]}"), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", "::"), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", ""), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", ":AAAA:"), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", f":{'A' * 8000}:"), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", f":{'A' * 60_000}:"), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert", f"{good[:-1]}AAAA:"), ("Mayfly-Proxy-Secret", SECRET)],
        [("Client-Cert-Chain", good), ("Mayfly-Proxy-Secret", SECRET)],
    ]


def over_tls(house: House, request: bytes, show: Shown | None = None) -> bytes:
    plain = socket.create_connection(("127.0.0.1", house.served.port), 30)
    trust = house.served.trust(show.files if show else None)
    received = b""
    with trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(request)
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize("node", ["served", "behind"])
def test_no_header_from_outside_passes_for_a_certificate(house: House, node: str) -> None:
    message = house.create()
    body = b'{"passphrase": "right"}'
    for headers in forged_headers(house):
        sent = [*house.key.items(), ("Content-Type", "application/json"), *headers]
        request = raw.request("POST", message.path, sent, body)
        received = over_tls(house, request) if node == "served" else raw.receive(house.behind, request)
        assert b"safe code" not in received, headers
        assert received.split()[1:2] in ([b"403"], [b"400"], [b"431"]), headers
    assert house.untouched(message)


def test_header_from_outside_takes_nothing_from_who_shows_a_certificate(house: House) -> None:
    """And the proxy that says that its client has shown none is not taken for its client, whatever it shows itself."""
    message = house.create()
    sent = [*house.key.items(), ("Content-Type", "application/json")]
    ask = raw.request("POST", message.path, [*sent, ("Mayfly-Proxy-Secret", SECRET)], b'{"passphrase": "right"}')
    assert over_tls(house, ask, house.ana).split()[1] == b"403"
    assert house.untouched(message)
    ask = raw.request("POST", message.path, [*sent, ("Client-Cert", ":AAAA:")], b'{"passphrase": "right"}')
    assert over_tls(house, ask, house.ana).split()[1] == b"200"


def test_nothing_is_believed_without_a_secret(tmp_path: Path, house: House) -> None:
    with Served(tmp_path, **shared(house.served), MAYFLY_KEY_FILE=str(house.served.key_file)) as served:
        message = house.create()
        for secret in ("", "None", SECRET):
            told = {**house.key, "Client-Cert": field(house.ana), "Mayfly-Proxy-Secret": secret}
            assert served.http.post(message.path, json={"passphrase": "right"}, headers=told).status_code == 403
        assert house.untouched(message)


def test_unix_socket_needs_no_secret(tmp_path: Path, house: House) -> None:
    """Who may connect to it is the proxy: it is its owner's and group's alone."""
    served = Served(tmp_path, "gunicorn", **shared(house.served), MAYFLY_KEY_FILE=str(house.served.key_file))
    path = tmp_path / "socket"
    served.command = lambda: [*type(served).command(served), "--bind", f"unix:{path}", "--bind", f"127.0.0.1:{served.port}"]  # type: ignore[method-assign]
    with served:
        assert path.stat().st_mode & 0o007 == 0
        message = house.create()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost", headers=house.key) as client:
            assert refused(ask_in_every_way(client, message))
            assert refused(ask_in_every_way(client, message, **{"Client-Cert": field(house.wrong["revoked"])}))  # type: ignore[arg-type]
            assert house.untouched(message)
            answer = client.post(message.path, json={"passphrase": "right"}, headers={"Client-Cert": field(house.ana)})
            assert answer.status_code == 200
        other = house.create()
        with served.client(headers=house.key) as client:  # beside it, on the network
            assert refused(ask_in_every_way(client, other, **{"Client-Cert": field(house.ana)}))
        assert house.untouched(other)


# Deactivation


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def test_deactivation_stops_the_next_request_on_every_node(tmp_path: Path, house: House, version: ssl.TLSVersion) -> None:
    """On connections that are open, and where sessions are resumed; and activation lets it in again."""
    settings = {name: house.served.settings[name] for name in ("MAYFLY_PROXY_SECRET", "MAYFLY_CLIENT_CA")}
    other = house.served.node(tmp_path / "other", **settings)
    shown = house.registry.issue(ANA)
    with other:
        lines = [Tls(node, shown, version) for node in (house.served, other)]
        message = house.create(views=100, passphrase=None)
        ask = raw.request("POST", message.path, list(house.key.items())).replace(b"Connection: close\r\n", b"")
        assert [line.ask(ask) for line in lines] == [b"200", b"200"]
        assert [line.resumed().ask(ask) for line in lines] == [b"200", b"200"]
        for state, status in (("inactive", b"403"), ("active", b"200"), ("revoked", b"403")):
            house.registry.set_state(shown, state)  # type: ignore[arg-type]
            assert [line.ask(ask) for line in lines] == [status] * 2, "on connections that are open"
            assert [line.resumed().ask(ask) for line in lines] == [status] * 2, "on sessions that are resumed"
            assert [Tls(node, shown, version).ask(ask) for node in (house.served, other)] == [status] * 2


class Tls:
    """A connection that stays open, and whose session can be resumed."""

    def __init__(self, served: Served, shown: Shown, version: ssl.TLSVersion) -> None:
        self._served = served
        self._context = served.trust(shown.files)
        self._context.minimum_version = self._context.maximum_version = version
        self._connection = self._connect(None)

    def _connect(self, session: ssl.SSLSession | None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self._served.port), 30)
        return self._context.wrap_socket(plain, server_hostname="127.0.0.1", session=session)

    def ask(self, request: bytes) -> bytes:
        """The status of the answer."""
        self._connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._connection.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += self._connection.recv(65536)
        return head.split()[1]

    def resumed(self) -> Tls:
        """Another connection, in the same session."""
        again = object.__new__(Tls)
        again._served, again._context = self._served, self._context
        again._connection = self._connect(self._connection.session)
        assert again._connection.session_reused
        return again

    def __del__(self) -> None:
        self._connection.close()


def test_certificate_that_expires_stops_counting_on_an_open_connection(house: House) -> None:
    shown = house.registry.forge(ANA, ends=60)
    line = Tls(house.served, shown, ssl.TLSVersion.TLSv1_3)
    message = house.create(views=100, passphrase=None)
    ask = raw.request("POST", message.path, list(house.key.items())).replace(b"Connection: close\r\n", b"")
    assert line.ask(ask) == b"200"
    house.served.clock.advance(90)
    assert line.ask(ask) == b"403"


# Caddy


@pytest.mark.parametrize("believed", [True, False], ids=["believed", "not believed"])
def test_certificate_reaches_the_vault_through_caddy(tmp_path: Path, house: House, believed: bool) -> None:
    """The right one alone, as Caddy has seen it, and nothing that a client says of itself."""
    caddy = Caddy(tmp_path, [f"127.0.0.1:{house.behind.port}"])
    trusted = house.served.settings["MAYFLY_CLIENT_CA"]
    given = {"CADDY_CLIENT_AUTH": f"import client_certificates {trusted}", **({"MAYFLY_PROXY_SECRET": SECRET} if believed else {})}
    environ = caddy.environ() | given
    caddy.environ = lambda: environ  # type: ignore[method-assign]
    with caddy:
        message = house.create()
        for name, shown in {**house.wrong, "stolen": house.registry.stolen(house.ana)}.items():
            context = ssl.create_default_context(cafile=str(caddy.authority))
            if shown:
                context.load_cert_chain(shown.files.certificate, shown.files.key)
            told = {"Client-Cert": field(house.ana), "Mayfly-Proxy-Secret": "x" * 40, "Connection": "Client-Cert"}
            with httpx.Client(base_url=caddy.url, verify=context, headers=house.key, timeout=30) as client:
                for headers in ({}, told):
                    try:
                        assert refused([client.post(message.path, json={"passphrase": "right"}, headers=headers)]), name
                    except httpx.TransportError:
                        assert shown, name
        assert house.untouched(message)
        context = ssl.create_default_context(cafile=str(caddy.authority))
        context.load_cert_chain(house.ana.files.certificate, house.ana.files.key)
        with httpx.Client(base_url=caddy.url, verify=context, headers=house.key, timeout=30) as client:
            answer = client.post(message.path, json={"passphrase": "right"}, headers=JSON)
        assert answer.status_code == (200 if believed else 403)
        assert house.untouched(message) != believed


# How long, and the page


def test_message_lives_a_day_unless_the_operator_says_otherwise(tmp_path: Path, house: House) -> None:
    now = house.served.clock.now() // 1000
    answer = house.served.http.post("/sealed", json={"message": "x"})
    assert abs(datetime.fromisoformat(answer.json()["expires_at"]).timestamp() - now - 86400) < 60
    assert house.served.http.post("/sealed", json={"message": "x", "expires_in": 86400}).status_code == 201
    refusal = house.served.http.post("/sealed", json={"message": "x", "expires_in": 86401}, headers=JSON)
    assert (refusal.status_code, refusal.json()["field"]) == (400, "expires_in")
    assert house.served.http.post("/guarded", json={"message": "x", "expires_in": 604800}).status_code == 201
    with Served(tmp_path, MAYFLY_SEALED_SECONDS="3600") as served:
        for path, status in (("/sealed", 400), ("/guarded", 201), ("/", 201)):
            assert served.http.post(path, json={"message": "x", "expires_in": 3601}).status_code == status
        page = served.http.get("/sealed", headers={"Accept": "text/html"}).text
        assert '<option value="3600" selected>1 hour</option>' in page
        assert 'value="86400"' not in page


def test_page_says_for_whom_it_is(house: House) -> None:
    page = house.served.http.get("/sealed", headers={"Accept": "text/html"}).text
    assert "Write a message for people with a certificate" in page
    assert 'action="/sealed"' in page
    assert 'href="/sealed"' in house.served.http.get("/guarded", headers={"Accept": "text/html"}).text
    assert 'href="/sealed"' not in house.served.http.get("/", headers={"Accept": "text/html"}).text
    made = house.served.http.post(
        "/sealed", data={"message": "x", "expires_in": "3600", "views": ""}, headers={"Accept": "text/html"}
    )
    assert made.status_code == 201
    assert "/sealed/" in made.text
