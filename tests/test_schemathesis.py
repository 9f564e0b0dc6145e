"""schemathesis reads the served document and asks every route what it allows, and what it does not: nothing is answered that it
does not describe, and never a 5xx.

Everything that an admin may do is done with an admin's credentials, so the server is one of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import PROJECT, Served
from web.description import examples

ADMIN = "root@example.com"
SEED = 20261120

CONFIG = """
seed = {seed}
hooks = "{hooks}"
[generation]
database = "none"
[checks.ignored_auth]
# Its wrong passwords are all of one account, which 429 stops. Who may what is held in test_permissions.py.
enabled = false
[checks.negative_data_rejection]
# 411 beside the default: what is refused without a length is refused.
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "411", "415", "422", "428", "429", "5xx"]
[auth.openapi.session]
api_key = "{session}"
[auth.openapi.admin]
bearer = "{admin_token}"
[auth.openapi.metrics]
bearer = "{metrics_token}"
"""
NOT_IN_A_SCHEMA = """
# That options stand in the query beside text/plain alone, a key in the header or in the form, and which hosts are nobody's own
# network, is more than OpenAPI can say.
[[operations]]
include-path = {paths}
include-method = ["POST", "PATCH"]
[operations.checks.positive_data_acceptance]
enabled = false
"""
THERE = """
# What a random id would not find.
[[operations]]
include-path = "{path}"
include-method = "{method}"
[operations.parameters]
"path.{name}" = "{value}"
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server that takes each request's address from its header, so that wrong tokens do not add up."""
    with Served(tmp_path, MAYFLY_METRICS_TOKEN=examples.METRICS_TOKEN, MAYFLY_TRUSTED_PROXIES="127.0.0.1/32") as running:
        # Not the account of the examples: one of them changes its password.
        running.add_account(ADMIN, "admin")
        yield running


def _config(served: Served) -> str:
    """With the credentials of an admin, and what is there to be asked for."""
    with served.signed_in(ADMIN) as admin:
        session = admin.cookies["mayfly-session"]
        admin.headers.update({"Accept": "application/json", "Sec-Fetch-Site": "same-origin"})
        rui = admin.post("/accounts", json={"email": "rui@example.com", "first_name": "Rui", "last_name": "Costa"}).json()
        there = [("/accounts/{account_id}", method, "account_id", rui["id"]) for method in ("GET", "PATCH")]
        there += [("/accounts/{account_id}/password-link", "POST", "account_id", rui["id"])]
        for vault, create in (("message", "/"), ("guarded", "/guarded"), ("sealed", "/sealed")):
            made = admin.post(create, json={"message": "hello"}).json()
            receipt = "/receipt/{token}" if vault == "message" else f"/{vault}/receipt/{{token}}"
            there += [(f"/{vault}/{{link_id}}", method, "link_id", made["id"]) for method in ("GET", "POST")]
            there += [(receipt, "GET", "token", made["receipt"].rpartition("/")[2])]
    there += [("/static/{name}", "GET", "name", "mayfly.css")]
    paths = ["/", "/guarded", "/sealed", "/message/{link_id}", "/guarded/{link_id}", "/sealed/{link_id}"]
    paths += ["/webhooks", "/webhooks/{hook_id}"]
    return (
        CONFIG.format(
            seed=SEED,
            hooks=PROJECT / "tests" / "schemathesis_hooks.py",
            session=session,
            admin_token=served.admin_token,
            metrics_token=examples.METRICS_TOKEN,
        )
        + NOT_IN_A_SCHEMA.format(paths=paths)
        + "".join(THERE.format(path=path, method=method, name=name, value=value) for path, method, name, value in there)
    )


def _run(served: Served, most_examples: int) -> None:
    config = served.folder / "schemathesis.toml"
    config.write_text(_config(served))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{served.url}/openapi.json"]
    # A cookie goes with our own pages only.
    command += ["--header", "Sec-Fetch-Site: same-origin", "--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
    command += ["--max-examples", str(most_examples), "--warnings", "off"]
    environ = {**os.environ, "COLUMNS": "160", "PYTHONPATH": str(PROJECT)}
    ran = subprocess.run(command, cwd=served.folder, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
    assert "ERROR" not in served.log()


def test_nothing_is_answered_that_is_not_described(served: Served) -> None:
    _run(served, 3)


@pytest.mark.long
def test_nothing_is_answered_that_is_not_described_to_many_requests(served: Served) -> None:
    _run(served, 100)
