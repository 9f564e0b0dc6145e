"""Certificates over HTTP: issue, see, switch off, revoke, renew, hand over; the authority for anybody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from tests.requirements import require_program
from tests.scripts import client_environ
from tests.serving import PASSWORD, Served

ADMIN, ANA, BRUNO = "admin@example.com", "ana@example.com", "bruno@example.com"
JSON = {"Accept": "application/json"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, express: str) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served")) as running:
        running.add_account(ADMIN, "admin")
        running.add_account(ANA)
        running.add_account(BRUNO)
        running.add_authority()
        yield running


@pytest.fixture(scope="module")
def admin(served: Served) -> Iterator[httpx.Client]:
    with served.with_key(ADMIN, "certificates:manage") as client:
        yield client


@pytest.fixture(scope="module")
def ana(served: Served) -> Iterator[httpx.Client]:
    with served.signed_in(ANA, **JSON) as client:
        yield client


def id_of(served: Served, email: str) -> str:
    found = served.http.get("/account", auth=httpx.BasicAuth(email, PASSWORD), headers=JSON).json()
    return str(found["id"])


def csr_of(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.PEM).decode()


def issued(served: Served, admin: httpx.Client, email: str = ANA, key: ec.EllipticCurvePrivateKey | None = None) -> dict[str, Any]:
    answer = admin.post("/certificates", json={"account": id_of(served, email), "csr": csr_of(key)})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/certificates/{answer.json()['id']}"
    return dict(answer.json())


def verified(served: Served, folder: Path, pem: str) -> str:
    """What openssl says, by what this server tells anybody of its authority."""
    for name in ("ca.pem", "ca.crl"):
        (folder / name).write_bytes(httpx.get(f"{served.url}/{name}").content)
    arguments = ["verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "ca.crl", "-purpose", "sslclient"]
    done = subprocess.run(
        [require_program("openssl"), *arguments], input=pem.encode(), capture_output=True, cwd=folder, check=False
    )
    return (done.stdout + done.stderr).decode()


def test_openssl_verifies_what_is_issued_until_it_is_switched_off(
    served: Served, admin: httpx.Client, ana: httpx.Client, tmp_path: Path
) -> None:
    made = issued(served, admin)
    pem = admin.get(f"/certificates/{made['id']}/pem")
    assert pem.headers["Content-Type"] == "application/x-pem-file"
    assert pem.text == made["pem"] and pem.text.count("BEGIN CERTIFICATE") == 2, "with who issued it, without the root"
    assert verified(served, tmp_path, made["pem"]) == "stdin: OK\n"
    switched = ana.patch(f"/certificates/{made['id']}", json={"state": "inactive"})
    assert (switched.status_code, switched.json()["state"]) == (200, "inactive")
    assert "certificate revoked" in verified(served, tmp_path, made["pem"])
    assert admin.patch(f"/certificates/{made['id']}", json={"state": "active"}).json()["state"] == "active"
    assert verified(served, tmp_path, made["pem"]) == "stdin: OK\n"
    revoked = admin.patch(f"/certificates/{made['id']}", json={"state": "revoked", "reason": "keyCompromise"})
    assert revoked.json()["reason"] == "keyCompromise"
    assert "certificate revoked" in verified(served, tmp_path, made["pem"])
    again = admin.patch(f"/certificates/{made['id']}", json={"state": "active"}, headers=JSON)
    assert (again.status_code, again.json()["title"]) == (409, "Not as it is now")


def test_authority_is_told_to_anybody(served: Served, admin: httpx.Client) -> None:
    crl = httpx.get(f"{served.url}/ca.crl")
    assert (crl.status_code, crl.headers["Content-Type"]) == (200, "application/pkix-crl")
    own, _ = x509.load_pem_x509_certificates(httpx.get(f"{served.url}/ca.pem").content)
    assert x509.load_der_x509_crl(crl.content).is_signature_valid(own.public_key())  # type: ignore[arg-type]
    issuer = issued(served, admin)["issuer"]
    assert httpx.get(f"{served.url}/ca/{issuer}.crl").content == httpx.get(f"{served.url}/ca.crl").content
    for wrong in (issuer, f"{issuer}.pem", ".crl", "%00.crl", f"{issuer}.crl.crl", "..%2fca.crl", "%ff.crl"):
        assert httpx.get(f"{served.url}/ca/{wrong}").status_code in (400, 404), wrong


def test_account_has_its_own_and_to_nobody_else_are_they_there(served: Served, admin: httpx.Client, ana: httpx.Client) -> None:
    hers, his = issued(served, admin, ANA), issued(served, admin, BRUNO)
    listed = ana.get("/certificates").json()["certificates"]
    assert hers["id"] in {one["id"] for one in listed}
    assert {one["account"] for one in listed} == {id_of(served, ANA)}
    assert "pem" not in listed[0]
    assert ana.get(f"/certificates/{hers['id']}").status_code == 200
    missing = ana.get("/certificates/00000000-0000-4000-8000-000000000000")
    for answer in (
        ana.get(f"/certificates/{his['id']}"),
        ana.get(f"/certificates/{his['id']}/pem"),
        ana.patch(f"/certificates/{his['id']}", json={"state": "inactive"}),
        ana.post(f"/certificates/{his['id']}/renew", json={"csr": csr_of()}),
    ):
        assert (answer.status_code, answer.content) == (404, missing.content), "as of one that never was"
    assert ana.get(f"/certificates?account={id_of(served, BRUNO)}").status_code == 403
    assert ana.post("/certificates", json={"account": id_of(served, ANA), "csr": csr_of()}).status_code == 403
    everybodys = admin.get("/certificates").json()["certificates"]
    assert {hers["id"], his["id"]} <= {one["id"] for one in everybodys}
    of_bruno = admin.get(f"/certificates?account={id_of(served, BRUNO)}").json()["certificates"]
    assert {one["account"] for one in of_bruno} == {id_of(served, BRUNO)}
    assert httpx.get(f"{served.url}/certificates").status_code == 401


def test_own_certificate_is_renewed_by_whoever_has_its_key(served: Served, admin: httpx.Client, ana: httpx.Client) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = issued(served, admin, ANA, key)
    refused = ana.post(f"/certificates/{made['id']}/renew", json={"csr": csr_of()})
    assert (refused.status_code, "Sign the request with the key" in refused.json()["detail"]) == (400, True)
    renewed = ana.post(f"/certificates/{made['id']}/renew", data={"csr": csr_of(key), "overlap_days": "3"})
    assert renewed.status_code == 201
    assert renewed.json()["replaces"] == made["id"]
    was = ana.get(f"/certificates/{made['id']}").json()
    assert (was["state"], was["superseded_at"] is not None) == ("active", True)
    assert ana.post(f"/certificates/{made['id']}/renew", json={"csr": csr_of(key)}).status_code == 409


def test_key_that_is_made_here_reaches_its_account_by_the_client(served: Served, admin: httpx.Client, tmp_path: Path) -> None:
    """The link and the passphrase are in one answer, once; the client opens the message and leaves the file; openssl opens that."""
    answer = admin.post("/certificates", json={"account": id_of(served, ANA)})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert set(made) - set(admin.get(f"/certificates/{made['id']}").json()) == {"pem", "link", "receipt", "passphrase"}
    parts = urlsplit(made["link"])
    assert parts.path.startswith("/guarded/") and parts.fragment
    others = served.make_key(BRUNO, "messages:read")["key"]
    refused = mayfly(served, tmp_path, made["link"], others)
    assert refused.returncode != 0 and list(tmp_path.iterdir()) == []
    opened = mayfly(served, tmp_path, made["link"], served.make_key(ANA, "messages:read")["key"])
    assert opened.returncode == 0, opened.stderr
    file = tmp_path / "mayfly-certificate.p12"
    inside = load_pkcs12(file.read_bytes(), made["passphrase"].encode())
    assert inside.cert and inside.cert.certificate.serial_number == int(made["serial"], 16)
    command = [require_program("openssl"), "pkcs12", "-in", str(file), "-passin", f"pass:{made['passphrase']}", "-nokeys"]
    assert b"ana@example.com" in subprocess.run(command, capture_output=True, check=True).stdout
    receipt = served.http.get(urlsplit(made["receipt"]).path, headers=JSON).json()
    assert receipt["state"] == "opened"
    assert mayfly(served, tmp_path, made["link"], served.make_key(ANA, "messages:read")["key"]).returncode != 0


def mayfly(served: Served, folder: Path, link: str, key: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mayfly", "open", "--output", str(folder), link]
    environ = client_environ(served) | {"MAYFLY_API_KEY": key}
    return subprocess.run(command, capture_output=True, env=environ, cwd=folder, check=False)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"account": "00000000-0000-4000-8000-000000000000", "csr": "x"}, 404),
        ({"account": "\u0000", "csr": "x"}, 400),
        ({"account": 5}, 400),
        ({"account": "ana", "csr": ["x"]}, 400),
        ({"account": "ana", "subject": "CN=admin"}, 400),
        ({"account": "ana", "csr": "A" * 20_000}, 400),
    ],
)
def test_wrong_request_is_the_clients(admin: httpx.Client, fields: dict[str, Any], status: int) -> None:
    answer = admin.post("/certificates", json=fields, headers=JSON)
    assert answer.status_code == status, answer.text


def test_wrong_csr_names_its_field(served: Served, admin: httpx.Client) -> None:
    answer = admin.post("/certificates", json={"account": id_of(served, ANA), "csr": "no request"}, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["detail"] == "csr must be a certificate signing request (PKCS#10) in PEM."


def test_wrong_change_changes_nothing(served: Served, admin: httpx.Client) -> None:
    made = issued(served, admin)
    for change in ({}, {"state": "gone"}, {"state": "inactive", "reason": "keyCompromise"}, {"state": "active", "account": "x"}):
        assert admin.patch(f"/certificates/{made['id']}", json=change).status_code == 400, change
    assert admin.get("/certificates?account=a&account=b").status_code == 400
    assert admin.get("/certificates?nobody=a").status_code == 400
    assert admin.get(f"/certificates/{made['id']}").json()["state"] == "active"


def test_what_is_done_is_in_the_audit_and_no_key_in_the_log(served: Served, admin: httpx.Client) -> None:
    made = admin.post("/certificates", json={"account": id_of(served, ANA)}).json()
    admin.patch(f"/certificates/{made['id']}", json={"state": "inactive"})
    query = f"/audit?action=certificate&target={made['id']}"
    entries = served.http.get(query, auth=httpx.BasicAuth(ADMIN, PASSWORD), headers=JSON).json()["entries"]
    assert [(one["email"], one["outcome"]) for one in entries] == [(ADMIN, "disabled"), (ADMIN, "made")]
    for secret in (made["passphrase"], urlsplit(made["link"]).fragment, urlsplit(made["link"]).path.rpartition("/")[2]):
        assert secret not in served.log()
