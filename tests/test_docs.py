"""What the documentation shows is what the server does.

In `docs/*.md` and `README.md` every `sh` block of a section is run, in order, in one bash with real curl against a served
process; a `text`, `json` or `http` block right after it is its output. Identifiers, tokens and times may differ; for `http` the
lines shown must be among those received. Blocks that cannot be run here (they need root, a proxy, a fresh machine) are of other
kinds, such as `console`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import crypto
import drafts
import keyfile
import messages
import records
import sanitize
import server
import settings
from access import roles
from errors import SettingRefused
from fields import guarded
from mayfly import envelope
from metrics import REASONS, Metrics
from server import open_accounts, open_vaults
from storage import sql, sql_database, valkey_nodes
from tests.requirements import require_program
from tests.serving import PROJECT, Served
from web import authentication, bodies, errors, gate, limits, rsgi, scrape
from web.app import build_app
from web.authentication import Authentication
from web.handlers import Handlers
from web.limits import Limits
from web.scrape import Scrape

PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
HTTP_PAGE = (PROJECT / "docs" / "http.md").read_text()
OPERATIONS_PAGE = (PROJECT / "docs" / "operations.md").read_text()
SETTINGS_PAGE = (PROJECT / "docs" / "settings.md").read_text()
END_OF_BLOCK = "-- end of block --"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r"^```sh\n(.*?)^```$(?:\n\n^```(text|json|http)\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """Commands, and the block that shows their output, if one does."""

    commands: str
    kind: str | None
    output: str


@dataclass(frozen=True)
class Section:
    """The part of a page under one heading; its examples share one shell."""

    page: Path
    heading: str
    examples: list[Example]

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}: {self.heading}"


def _sections() -> Iterator[Section]:
    for page in PAGES:
        for part in re.split(r"^(?=##+ )", page.read_text(), flags=re.MULTILINE):
            examples = _examples(part)
            if examples:
                yield Section(page, part.split("\n", 1)[0].strip("# "), examples)


def _examples(part: str) -> list[Example]:
    return [Example(found[1], found[2], found[3] or "") for found in _EXAMPLE.finditer(part)]


def without_chance(text: str) -> str:
    """Text with link ids, receipt tokens, key ids and times put alike."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>", text)
    text = re.sub(r"/receipt/[A-Za-z0-9_-]{64}", "/receipt/<token>", text)
    text = re.sub(r"\b\d{4}-\d{2}-[a-z0-9]{4}\b", "<key id>", text)
    return re.sub(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", "<time>", text)


def _compare(example: Example, output: str) -> None:
    expected, got = without_chance(example.output), without_chance(output)
    if example.kind == "json":
        assert json.loads(got) == json.loads(expected)
    elif example.kind == "http":
        assert got.splitlines()[0] == expected.splitlines()[0]
        assert set(expected.splitlines()) <= set(got.splitlines())
    elif example.kind == "text":
        assert got.rstrip("\n") == expected.rstrip("\n")


@pytest.fixture(scope="module")
def home(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder whose key file, at the default place, is the served one's."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".config" / "mayfly").mkdir(parents=True)
    (folder / ".config" / "mayfly" / "key.json").symlink_to(served.key_file)
    for name in ("accounts.db", "certificates.db"):
        (folder / ".config" / "mayfly" / name).symlink_to(served.folder / name)
    return folder


@pytest.mark.parametrize("section", list(_sections()), ids=str)
def test_commands_work_when_pasted_and_show_what_the_page_shows(section: Section, served: Served, home: Path) -> None:
    """Each page's commands are run as they stand there, but for port, home folder and the path of the interpreter."""
    for program in ("bash", "curl", "openssl"):
        require_program(program)
    script = "set -eu\n" + "".join(f"{example.commands}printf '%s\\n' '{END_OF_BLOCK}'\n" for example in section.examples)
    script = script.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}").replace(".venv/bin/python", sys.executable)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAYFLY_", "XDG_"))}
    ran = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=PROJECT, env=environ | {"HOME": str(home)}, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    outputs = ran.stdout.replace(f"127.0.0.1:{served.port}", "127.0.0.1:8000").split(f"{END_OF_BLOCK}\n")
    assert outputs.pop() == ""
    for example, output in zip(section.examples, outputs, strict=True):
        _compare(example, output.replace("\r\n", "\n"))


def _table(page: str, heading: str, first_column: str) -> list[list[str]]:
    """The cells of the table under `heading` whose first column is called `first_column`, marks of code removed."""
    part = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = iter(part.splitlines())
    next(line for line in lines if line.startswith(f"| {first_column} |"))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


def test_every_route_is_documented_and_no_other(tmp_path: Path) -> None:
    """The table of routes and Flask's URL map are the same."""
    key_file = tmp_path / "key.json"
    keyfile.create(key_file)
    chosen = settings.Settings(key_file=key_file)
    vaults = open_vaults(chosen)
    access = open_accounts(chosen, vaults[0].keys)
    assert access
    asked = Authentication(chosen, vaults[0].keys, Limits(0), access)
    scraped = Scrape(vaults, Metrics())
    rules = build_app([Handlers(vault, chosen) for vault in vaults], asked, scraped).url_map.iter_rules()
    served = {f"{method} {rule.rule}" for rule in rules for method in rule.methods or () if method not in ("HEAD", "OPTIONS")}
    access.store.close()
    for vault in vaults:
        vault.store.close()
    documented = [row[0] for row in _table(HTTP_PAGE, "Routes", "route")]
    assert len(documented) == len(set(documented))
    assert set(documented) == served


def test_every_route_has_a_command() -> None:
    """No route of the table is without a curl line that is run."""
    commands = "".join(
        example.commands for section in _sections() if section.page.name == "http.md" for example in section.examples
    )
    patterns = {
        "GET /": r"curl -s -o /dev/null -w \S+ \S+ http://127.0.0.1:8000/\n",
        "GET /guarded": r"curl -s -o /dev/null -w \S+ \S+ http://127.0.0.1:8000/guarded\n",
        "POST /": r"curl --data-urlencode message=\S+ .*http://127.0.0.1:8000/\n",
        "GET /message/<link_id>": r'curl "\$link"',
        "POST /message/<link_id>": r'curl -X POST "\$link"',
        "DELETE /message/<link_id>": r'-X DELETE -H "Idempotency-Key: \$key" "\$link"',
        "GET /receipt/<token>": r'curl "\$receipt"',
        "DELETE /receipt/<token>": r'-X DELETE .*"\$receipt"',
        "POST /receipt/<token>": r'-d burn=yes "\$receipt"',
        "GET /admin": r"curl -s -o /dev/null -w \S+ \S+ http://127.0.0.1:8000/admin\n",
        "POST /admin": r'token="\$token" http://127.0.0.1:8000/admin',
        "POST /delete": r"-X POST .* http://127.0.0.1:8000/delete",
        "GET /static/<path:name>": r"http://127.0.0.1:8000/static/icon.svg",
        "GET /healthz": r"curl http://127.0.0.1:8000/healthz",
        "GET /openapi.json": r"curl -s http://127.0.0.1:8000/openapi.json",
        "GET /docs": r"curl -s -o /dev/null -w \S+ \S+ http://127.0.0.1:8000/docs\n",
        "GET /metrics": r"curl -s -o /dev/null -w \S+ http://127.0.0.1:8000/metrics\n",
        "GET /readyz": r"curl http://127.0.0.1:8000/readyz",
        "GET /sign-in": r"curl -s -o /dev/null -w \S+ \S+ http://127.0.0.1:8000/sign-in\n",
        "POST /sign-in": r"curl .*-c jar.txt --json .* http://127.0.0.1:8000/sign-in\n",
        "POST /sign-out": r"-X POST http://127.0.0.1:8000/sign-out",
        "GET /account": r"curl -s -b jar.txt http://127.0.0.1:8000/account ",
        "POST /account/password": r"--json .* http://127.0.0.1:8000/account/password",
        "POST /reset": r"email=\S+ http://127.0.0.1:8000/reset",
        "GET /password/<token>": r"%\{http_code\}\\n' \"\$link\"",
        "POST /password/<token>": r"password='a password of his own' \"\$link\"",
        "GET /admin/keys": r'curl -s -u "\$ana" http://127.0.0.1:8000/admin/keys ',
        "GET /keys": r'curl -s -u "\$ana" http://127.0.0.1:8000/keys ',
        "POST /keys": r"--json .* http://127.0.0.1:8000/keys\)",
        "DELETE /keys/<key_id>": r'-X DELETE "http://127.0.0.1:8000/keys/\$id"',
        "POST /keys/<key_id>": r'-d do=revoke "http://127.0.0.1:8000/keys/\$id"',
        "POST /oauth/token": r"grant_type=client_credentials .*http://127.0.0.1:8000/oauth/token",
        "GET /.well-known/jwks.json": r"curl -s http://127.0.0.1:8000/.well-known/jwks.json",
        "GET /.well-known/oauth-authorization-server": r"curl -s http://127.0.0.1:8000/.well-known/oauth-authorization-server",
        "GET /audit": r"curl -s -u \S+ 'http://127.0.0.1:8000/audit\?",
        "GET /webhooks": r'curl -s -u "\$ana" http://127.0.0.1:8000/webhooks ',
        "POST /webhooks": r"--json .* http://127.0.0.1:8000/webhooks\)",
        "GET /webhooks/<hook_id>": r'curl -s -u "\$ana" "\$webhook"',
        "PATCH /webhooks/<hook_id>": r'-X PATCH --json .* "\$webhook"',
        "POST /webhooks/<hook_id>": r'-d do=disable "\$webhook"',
        "DELETE /webhooks/<hook_id>": r'-X DELETE "\$webhook"',
        "GET /webhooks/<hook_id>/deliveries": r'curl -s -u "\$ana" "\$webhook/deliveries\?',
        "POST /webhooks/<hook_id>/deliveries/<number>": r'-X POST .* "\$webhook/deliveries/4711"',
        "GET /accounts": r'curl -s -u "\$ana" http://127.0.0.1:8000/accounts ',
        "POST /accounts": r"--json .* http://127.0.0.1:8000/accounts\)",
        "GET /accounts/<account_id>": r'curl -s -u "\$ana" "\$account"',
        "PATCH /accounts/<account_id>": r'-X PATCH --json .* "\$account"',
        "POST /accounts/<account_id>": r'-d do=disable "\$account"',
        "DELETE /accounts/<account_id>": r'-X DELETE "\$account"',
        "POST /accounts/<account_id>/password-link": r'-X POST "\$account/password-link"',
        "GET /certificates": r'curl -s -u "\$ana" "http://127.0.0.1:8000/certificates\?account=\$account"',
        "POST /certificates": r"--json .* http://127.0.0.1:8000/certificates\)",
        "GET /certificates/<certificate_id>": r'curl -s -u "\$ana" "\$certificate"',
        "PATCH /certificates/<certificate_id>": r'-X PATCH --json .* "\$certificate"',
        "POST /certificates/<certificate_id>": r'-d do=activate "\$certificate"',
        "GET /certificates/<certificate_id>/pem": r'curl -s -u "\$ana" "\$certificate/pem"',
        "POST /certificates/<certificate_id>/renew": r'csr@\S+ -d overlap_days=7 "\$certificate/renew"',
        "GET /ca.pem": r"curl -s http://127.0.0.1:8000/ca.pem",
        "GET /ca.crl": r"curl -s http://127.0.0.1:8000/ca.crl",
        "GET /ca/<issuer_file>": r'curl -s "http://127.0.0.1:8000/ca/\$issuer.crl"',
        "POST /guarded": r"curl --json .* http://127.0.0.1:8000/guarded\n",
        "GET /sealed": r"curl -s -o /dev/null -w \S+ \S+ http://127.0.0.1:8000/sealed\n",
        "POST /sealed": r"curl -s --json .* http://127.0.0.1:8000/sealed",
        "GET /sealed/<link_id>": r'curl "\$sealed"',
    }
    # What the other vaults have beside these is as in the open one.
    alike = re.compile(r"(GET|POST|DELETE) /(guarded|sealed)/")
    routes = {row[0] for row in _table(HTTP_PAGE, "Routes", "route")}
    assert set(patterns) == {route for route in routes if route in patterns or not alike.match(route)}
    for route, pattern in patterns.items():
        assert re.search(pattern, commands), f"{route} has no curl line"


def test_every_error_is_documented_with_its_status_and_title() -> None:
    """The table of errors and the one the server answers by are the same."""
    served = {(str(status), title) for _, status, title in errors.TABLE}
    status, title = errors.status_of(errors.Unexpected())
    documented = [(row[0], row[1]) for row in _table(HTTP_PAGE, "Errors", "status")]
    assert len(documented) == len(set(documented))
    assert set(documented) == served | {(str(status), title)}


def test_every_status_of_success_is_documented() -> None:
    """Whatever status the code names outside the table of errors stands in the table of routes, or is an error's."""
    sources = [path.read_text() for path in (PROJECT / "web").glob("*.py")]
    named = {status for source in sources for status in re.findall(r"(?:Answer\(|status=)(\d{3})\b", source)}
    documented = {status for row in _table(HTTP_PAGE, "Routes", "route") for status in row[2].split(", ")}
    assert {"200", "201", "204", "303"} <= named, "the pattern finds what it should"
    assert named <= documented | {row[0] for row in _table(HTTP_PAGE, "Errors", "status")}


def test_fields_of_a_message_are_documented() -> None:
    """The table of fields names what creating takes, and the bounds that hold."""
    rows = {row[0]: " ".join(row[1:]) for row in _table(HTTP_PAGE, "Create", "field")}
    assert set(rows) == drafts.FIELDS
    assert f"{drafts.MIN_LIFETIME_SECONDS} to {drafts.MAX_LIFETIME_SECONDS} {drafts.MAX_LIFETIME_SECONDS}" in rows["expires_in"]
    assert f"1 to {drafts.MAX_VIEWS}" in rows["views"]
    assert f"1 to {drafts.MAX_PASSPHRASE_BYTES} bytes" in rows["passphrase"]
    assert f"{sanitize.MAX_MARKDOWN_BYTES // 1024} KiB" in rows["format"]


def test_audience_and_policy_are_documented() -> None:
    """What creating takes in the vaults whose readers sign in, and the bounds that hold."""
    rows = {row[0]: " ".join(row[1:]) for row in _table(HTTP_PAGE, "Audience and records", "field")}
    assert set(rows) == drafts.GUARDED_FIELDS
    assert f"up to {guarded.MAX_AUDIENCE} of role:NAME" in rows["audience"]
    assert f"at most {guarded.MAX_POLICY_ROLES} roles" in rows["policy"]
    assert f"texts, up to {guarded.MAX_RECORD_FIELDS}." in HTTP_PAGE


def test_template_of_a_record_is_answered_as_the_page_shows() -> None:
    """By somebody of support: the record and its answers stand in the page together."""
    part = HTTP_PAGE.split("\n### A record: a person with a card\n", 1)[1].split("\n## ", 1)[0]
    created = json.loads(re.search(r"<<'EOF'\n(.*?)\nEOF\n", part, flags=re.DOTALL)[1])  # type: ignore[index]
    draft = drafts.read_draft(created, "guarded")
    assert draft.policy
    seen, masked = roles.redact(json.loads(draft.message), draft.policy, [records.Role("support")])
    shown = json.loads(re.search(r"```json\n(.*?)```", part, flags=re.DOTALL)[1])  # type: ignore[index]
    assert (shown["record"], shown["masked"]) == (seen, list(masked))
    assert "".join(f"{name}: {text}\n" for name, text in seen.items()) in part


def test_fields_of_a_document_are_documented() -> None:
    """All that creating takes instead of a message."""
    rows = {row[0]: " ".join(row[1:]) for row in _table(HTTP_PAGE, "End to end", "field")}
    assert set(rows) == drafts.DOCUMENT_FIELDS
    assert str(drafts.MAX_LIFETIME_SECONDS) in rows["expires_in"]


def test_document_shown_opens_with_the_fragment_and_proof_shown() -> None:
    """The client that made it reads it: a fixed vector."""
    part = HTTP_PAGE.split("\n## End to end\n", 1)[1].split("\n## ", 1)[0]
    document = json.loads(re.search(r"^document='(.+)'$", part, flags=re.MULTILINE)[1])  # type: ignore[index]
    key = envelope.decode_key(re.search(r"`#(\w+)`", part)[1])  # type: ignore[index]
    assert envelope.decrypt(document, key, None, 1000).text == "The door code is 4711"
    assert f"\nproof={envelope.proof_of(key, None)}\n" in part
    assert f"{envelope.PASSPHRASE_ROUNDS:,} rounds" in part


def test_states_of_a_receipt_are_documented() -> None:
    """The table of states is the type of the states."""
    states = set(messages.State.__args__)  # type: ignore[attr-defined]
    assert {row[0] for row in _table(HTTP_PAGE, "Receipts", "state")} == states


def test_limits_are_documented_with_the_numbers_that_hold() -> None:
    """A bound that changes in the code changes on the page."""
    rows = {row[0]: row[1] for row in _table(HTTP_PAGE, "Limits", "what")}
    assert rows["markdown message"] == f"{sanitize.MAX_MARKDOWN_BYTES} bytes, rendered {sanitize.MAX_HTML_BYTES}"
    assert rows["fields in a form"] == str(bodies.MAX_FIELDS)
    assert rows["wrong passphrases a message"] == str(messages.MAX_TRIES)
    assert rows["passphrases checked at once, by a server"] == str(crypto._ARGON2_AT_ONCE)
    assert rows["wrong admin tokens a minute and client"] == str(limits.SIGN_INS_A_MINUTE)
    assert rows["wrong passwords a minute and e-mail address, wherever from"] == str(limits.TRIES_OF_AN_ADDRESS_A_MINUTE)
    assert rows["askings for a new password a minute and client"] == str(limits.RESETS_A_MINUTE)
    assert rows["creates a minute and client"] == f"MAYFLY_CREATE_RATE, {settings.Settings().create_rate}"
    assert f"within {gate.BODY_SECONDS} seconds" in HTTP_PAGE
    assert f"more than {bodies.MAX_JSON_DEPTH} levels" in HTTP_PAGE.replace("\n", " ")
    assert authentication.ADMIN_SESSION_SECONDS == 30 * 60
    assert "lasts half an hour" in HTTP_PAGE


def test_sizes_are_documented_with_the_numbers_that_hold() -> None:
    """What operators plan by: threads, connections, memory, and how soon a store that failed is tried again."""
    rows = {row[0]: row[1] for row in _table(OPERATIONS_PAGE, "Sizing", "what")}
    quick = sum(rsgi._LANES[lane][0] for lane in ("passphrases", "long"))
    assert f"{quick} for passphrases and what is long" in rows["threads (granian)"]
    assert f"{sum(threads for threads, _ in rsgi._LANES.values())} more" in rows["threads (granian)"]
    assert (
        f"up to {sql_database.CONNECTIONS} for each vault, and for accounts, in each process"
        == rows["connections to PostgreSQL, MySQL, MariaDB"]
    )
    assert f"up to {valkey_nodes.SESSIONS} for" in rows["connections to Valkey"]
    assert f"{server.CONNECTIONS:,} clients" in rows["file descriptors"]
    assert f"{rsgi.BODIES_IN_FLIGHT_BYTES >> 20} MiB together" in rows["bodies on their way"]
    assert "four at once" in rows["passphrases"]
    assert crypto._ARGON2_AT_ONCE == 4
    assert "threads = 256\n" in (PROJECT / "gunicorn.conf.py").read_text()
    assert "up to 256 a worker" in rows["threads (gunicorn)"]
    assert f"every {['zero', 'one', 'two', 'three'][int(scrape.GOOD_SECONDS)]} seconds" in OPERATIONS_PAGE
    assert f"{sql._MOST_COUNTED:,} messages" in OPERATIONS_PAGE


def test_metrics_and_reasons_named_in_rules_and_tables_exist() -> None:
    """The figures of a server stand in the table (tests/test_metrics.py); all else on the page is made of these."""
    part = OPERATIONS_PAGE.split("\n## Metrics\n", 1)[1].split("\n## ", 1)[0]
    table, rest = part.split("| `mayfly_store_circuit`", 1)
    known = set(re.findall(r"`(mayfly_\w+)`", table)) | {"mayfly_store_circuit"}
    used = {name.removesuffix("_bucket") for name in re.findall(r"\bmayfly_[a-z_]+", rest)}
    assert used <= known
    matched = {reason for found in re.findall(r'reason=~?"([^"]+)"', rest) for reason in found.split("|")}
    assert len(matched) >= 7
    assert matched <= set(REASONS)


def test_headers_of_every_answer_are_documented(served: Served) -> None:
    """The page names each header that the gate sets; nothing else identifies the software."""
    part = HTTP_PAGE.split("\n## Headers\n", 1)[1].lower()
    answer = served.http.get("/")
    own = {name for name in answer.headers if name not in ("content-type", "content-length", "date", "server")}
    assert len(own) >= 10
    assert {name for name in own if name not in part} == set()


def test_every_setting_is_documented_and_no_other() -> None:
    """Names, defaults and forms of `docs/settings.md` are those of `settings.TABLE`, in its order."""
    rows = [tuple(row[:3]) for row in _table(SETTINGS_PAGE, "All settings", "setting")]
    assert rows == [(setting.name, setting.default, setting.form) for setting in settings.TABLE]


def test_settings_named_anywhere_exist() -> None:
    """No page names a MAYFLY_ variable that stops the start."""
    known = {setting.name for setting in settings.TABLE} | {"MAYFLY_SERVER", "MAYFLY_API_KEY"}  # the client's
    for page in [*PAGES, PROJECT / "CHANGELOG.md", PROJECT / "SECURITY.md", PROJECT / "docker-compose.yml", PROJECT / "Dockerfile"]:
        text = page.read_text().replace("MAYFLY_PROT", "")  # the slip that settings.md shows
        assert set(re.findall(r"\bMAYFLY_[A-Z_]*[A-Z]", text)) <= known, page


def test_refusals_shown_are_those_given() -> None:
    """The lines of settings.md about wrong settings are what such a start prints."""
    shown = re.findall(r"^\$ (MAYFLY_\w+)=(\S+) \S+ server.py\nmayfly: (.+)$", SETTINGS_PAGE, flags=re.MULTILINE)
    assert len(shown) == 2
    for name, value, line in shown:
        with pytest.raises(SettingRefused, match=f"^{re.escape(line)}$"):
            settings.Settings.from_environ({name: value})


def test_links_between_pages_lead_somewhere() -> None:
    """Relative links and pictures exist, anchors too."""
    for page in [*PAGES, PROJECT / "CHANGELOG.md", PROJECT / "SECURITY.md"]:
        for target in re.findall(r"(?:\]\(|src(?:set)?=\")([^)\s\"]+)", _BLOCK.sub("", page.read_text())):
            if target.startswith(("http:", "https:", "mailto:")):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page}: {target}"
            assert not anchor or anchor in _anchors(there.read_text()), f"{page}: {target}"


def _anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_tests_and_files_named_as_evidence_exist() -> None:
    """A promise that points at a test points at one that is there."""
    for page in [*PAGES, PROJECT / "SECURITY.md"]:
        for name in re.findall(r"`((?:tests|web|storage|docs)/[\w./-]+\.\w+)`", page.read_text()):
            assert (PROJECT / name).exists(), f"{page}: {name}"
