"""The certificate that a client has shown: from our own TLS socket, or from a proxy that is believed, and from nobody else."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import SettingRefused, StartRefused
from settings import Settings
from tests.engines.authority import Authority
from tests.registry import Registry
from tests.serving import Served
from web.client_certificates import drop_unbelieved, presented_certificate
from web.tls import server_context

SECRET = "a-secret-that-only-the-proxy-knows"
DER = b"0\x82any certificate"
FIELD = f":{base64.b64encode(DER).decode()}:"
CERTIFICATE, TOLD = "HTTP_CLIENT_CERT", "HTTP_MAYFLY_PROXY_SECRET"


def shown(environ: dict[str, Any], secret: str | None = SECRET) -> bytes | None:
    """What stands of a request's certificate behind the gate."""
    drop_unbelieved(environ, secret)
    assert TOLD not in environ
    assert "HTTP_CLIENT_CERT_CHAIN" not in environ
    return presented_certificate(environ)


def test_proxy_with_the_secret_is_believed() -> None:
    assert shown({CERTIFICATE: FIELD, TOLD: SECRET}) == DER


@given(told=st.text(max_size=60) | st.sampled_from([SECRET[:-1], f"{SECRET}, {SECRET}", f" {SECRET}", SECRET.upper(), ""]))
def test_no_other_secret_is_believed(told: str) -> None:
    environ = {CERTIFICATE: FIELD, TOLD: told, "HTTP_CLIENT_CERT_CHAIN": FIELD}
    assert shown(environ) is None
    assert environ == {}


@pytest.mark.parametrize("told", [None, "", "None", SECRET])
def test_nobody_is_believed_without_a_secret_of_ours(told: str | None) -> None:
    environ: dict[str, Any] = {CERTIFICATE: FIELD} | ({} if told is None else {TOLD: told})
    assert shown(environ, secret=None) is None
    assert environ == {}


@given(field=st.text(max_size=200) | st.from_regex(r":?[A-Za-z0-9+/=]*:?(;a=1)?", fullmatch=True))
def test_field_is_one_byte_sequence_or_nothing(field: str) -> None:
    """Whatever is decoded is what the field says, in one way only."""
    found = shown({CERTIFICATE: field, TOLD: SECRET})
    if found is not None:
        assert len(base64.b64decode(field.strip()[1:-1], validate=True)) == len(found) > 0


@pytest.mark.parametrize(
    "field",
    [
        "",
        ":",
        "::",
        ":=:",
        ":A:",
        ":AAA:",
        FIELD[1:],
        FIELD[:-1],
        f"{FIELD},{FIELD}",
        f"{FIELD};a",
        f'"{FIELD}"',
        f":{FIELD}:",
        ":A-_=:",
    ],
)
def test_malformed_field_is_no_certificate(field: str) -> None:
    assert shown({CERTIFICATE: field, TOLD: SECRET}) is None


def test_field_has_at_most_8_kib() -> None:
    fits = base64.b64encode(b"x" * 6000).decode()
    assert shown({CERTIFICATE: f":{fits}:", TOLD: SECRET}) == b"x" * 6000
    assert shown({CERTIFICATE: f":{'A' * 8188}:", TOLD: SECRET}) is not None
    assert shown({CERTIFICATE: f":{'A' * 8192}:", TOLD: SECRET}) is None


def test_unix_socket_is_believed_and_a_network_is_not() -> None:
    pair = socket.socketpair()
    network = socket.socket()
    with closing(pair[0]), closing(pair[1]), closing(network):
        assert shown({CERTIFICATE: FIELD, "gunicorn.socket": pair[0]}, secret=None) == DER
        assert shown({"gunicorn.socket": pair[0]}, secret=None) is None
        assert shown({CERTIFICATE: FIELD, "gunicorn.socket": network}, secret=None) is None


# Our own authority


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[Served]:
    """A server that asks for certificates of its own authority, which is not made yet; it is not started."""
    url = f"sqlite:///{tmp_path / 'certificates.db'}"
    served = Served(tmp_path, https=Authority(tmp_path / "tls"), MAYFLY_CLIENT_CA="ca", MAYFLY_CERTIFICATES_DATABASE_URL=url)
    yield served
    served.http.close()


def test_own_authority_is_what_clients_are_asked_for(certified: Served) -> None:
    certified.add_account("ana@example.com")
    registry = Registry(certified)
    ana = registry.issue("ana@example.com")
    stranger = Authority(certified.folder / "strange").client("ana@example.com")
    with certified:
        key = {"Authorization": f"Bearer {certified.make_key('ana@example.com', 'messages:read')['key']}"}
        link = certified.http.post("/sealed", json={"message": "the safe code", "views": 1}).json()["link"]
        with certified.client(headers=key) as client:
            assert client.post(link).status_code == 403
        with certified.client(ana.files, headers=key) as client:
            assert client.post(link).text == "the safe code"
        plain = socket.create_connection(("127.0.0.1", certified.port), 30)
        with pytest.raises(ssl.SSLError, match="unknown ca"), closing(plain):
            connection = certified.trust(stranger).wrap_socket(plain, server_hostname="127.0.0.1")
            with closing(connection):
                connection.recv(1)


def test_own_authority_must_be_there(certified: Served) -> None:
    settings = Settings.from_environ(certified.settings)
    with pytest.raises(SettingRefused, match=r"no authority yet; make one with: python server\.py ca init"):
        server_context(settings)
    with pytest.raises(StartRefused, match="MAYFLY_CERTIFICATES_DATABASE_URL is off"):
        server_context(Settings.from_environ({**certified.settings, "MAYFLY_CERTIFICATES_DATABASE_URL": "off"}))
