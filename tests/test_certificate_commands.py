"""The operator's commands for the authority and for certificates, beside a server that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from click.testing import CliRunner

from commands import build_commands
from errors import StartRefused
from tests.requirements import require_program
from tests.serving import Served
from tests.test_http_certificates import ANA, csr_of, verified


def command(served: Served, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """What `python server.py …` does, in this process: starting one takes a second."""
    ran = CliRunner().invoke(build_commands(lambda: None, lambda *_: None), arguments, input=given, env=served.settings)
    if isinstance(ran.exception, StartRefused):
        return subprocess.CompletedProcess(arguments, 1, ran.stdout, f"mayfly: {ran.exception}\n")
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return subprocess.CompletedProcess(arguments, ran.exit_code, ran.stdout, ran.stderr)


def test_operator_makes_an_authority_and_looks_after_certificates_by_command(tmp_path: Path) -> None:
    """All of it beside a server that runs, and sees it at once."""
    with Served(tmp_path) as served:
        served.add_account(ANA)
        assert served.http.get("/ca.pem").status_code == 409
        root, passphrase = tmp_path / "root", "a root is kept offline\n"
        short = command(served, "ca", "init", "--root", str(root), "--passphrase-file", "-", given="short\n")
        assert (short.returncode, root.exists()) == (1, False)
        made = command(served, "ca", "init", "--root", str(root), "--passphrase-file", "-", given=passphrase)
        assert made.returncode == 0, made.stderr
        assert sorted(path.name for path in root.iterdir()) == ["root.key", "root.pem"]
        again = command(served, "ca", "init", "--root", str(tmp_path / "other"), "--passphrase-file", "-", given=passphrase)
        assert (again.returncode, "there is an authority already" in again.stderr) == (1, True)
        request = tmp_path / "request.pem"
        request.write_text(csr_of())
        added = command(served, "certificate", "add", ANA.upper(), "--csr", str(request))
        assert added.returncode == 0, added.stderr
        assert verified(served, tmp_path, added.stdout) == "stdin: OK\n"
        certificate_id, email, state = command(served, "certificate", "list", ANA).stdout.split()[:3]
        assert (email, state) == (ANA, "active")
        assert command(served, "certificate", "show", certificate_id).stdout == added.stdout
        for act, says in (("deactivate", "certificate revoked"), ("activate", "stdin: OK"), ("revoke", "certificate revoked")):
            assert command(served, "certificate", act, certificate_id).returncode == 0
            assert says in verified(served, tmp_path, added.stdout)
        for wrong in (("activate", certificate_id), ("show", "nobody"), ("renew", certificate_id, "--csr", str(request))):
            refused = command(served, "certificate", *wrong)
            assert (refused.returncode, refused.stderr[:8], refused.stderr.count("\n")) == (1, "mayfly: ", 1), refused.stderr
        wrong_passphrase = command(served, "ca", "renew", "--root", str(root), "--passphrase-file", "-", given="another root's\n")
        assert (wrong_passphrase.returncode, len(command(served, "ca", "list").stdout.splitlines())) == (1, 1)
        renewed = command(served, "ca", "renew", "--root", str(root), "--passphrase-file", "-", given=passphrase)
        assert renewed.returncode == 0, renewed.stderr
        assert len(command(served, "ca", "list").stdout.splitlines()) == 2
        assert command(served, "ca", "pem").stdout == served.http.get("/ca.pem").text
        assert command(served, "audit", "verify").returncode == 0


def test_authority_of_a_company_is_imported_by_command_or_refused(tmp_path: Path) -> None:
    openssl = require_program("openssl")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-x509", "-subj", "/CN=Company"]
    for name, basic in (("ca", "critical,CA:TRUE"), ("leaf", "critical,CA:FALSE")):
        usage = ["-addext", f"basicConstraints={basic}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        config = tmp_path / "openssl.cnf"
        config.write_text("[req]\ndistinguished_name = dn\n[dn]\n")
        subprocess.run([openssl, "req", "-config", str(config), *new_key, *usage, *files], capture_output=True, check=True)
    with Served(tmp_path) as served:
        served.add_account(ANA)

        def take_over(certificate: str, key: str) -> subprocess.CompletedProcess[str]:
            return command(served, "ca", "import", "--certificate", str(tmp_path / certificate), "--key", str(tmp_path / key))

        for certificate, key, why in (
            ("leaf.pem", "leaf.key", "not one of an authority"),
            ("ca.pem", "leaf.key", "is not that of the certificate"),
            ("ca.pem", "key.json", "holds no private key"),
            ("nothing.pem", "ca.key", "cannot be read"),
        ):
            refused = take_over(certificate, key)
            assert (refused.returncode, why in refused.stderr, refused.stderr.count("\n")) == (1, True, 1), refused.stderr
        assert served.http.get("/ca.pem").status_code == 409
        imported = take_over("ca.pem", "ca.key")
        assert imported.returncode == 0, imported.stderr
        request = tmp_path / "request.pem"
        request.write_text(csr_of())
        added = command(served, "certificate", "add", ANA, "--csr", str(request))
        assert verified(served, tmp_path, added.stdout) == "stdin: OK\n", added.stderr


def test_server_without_certificates_has_no_such_addresses(tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_CERTIFICATES_DATABASE_URL="off") as served:
        assert [served.http.get(path).status_code for path in ("/certificates", "/ca.pem", "/ca.crl")] == [404, 404, 404]
        refused = command(served, "ca", "list")
        assert refused.stderr == "mayfly: MAYFLY_CERTIFICATES_DATABASE_URL is off, so there are no certificates\n"
        assert "/certificates" not in served.http.get("/openapi.json").json()["paths"]
    assert not (tmp_path / "certificates.db").exists()
