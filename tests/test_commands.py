"""The operator's commands, each as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import keyfile
from database import wall_clock
from errors import KeyMissing
from keyfile import KeyFile
from messages import Vault
from records import Draft, Millis
from storage.sqlite import SqliteStore
from tests.serving import PROJECT


class Operator:
    """Someone who types `python server.py …` with a key file and a database of their own."""

    def __init__(self, folder: Path) -> None:
        self.key_file = folder / "keys" / "key.json"
        self.database = folder / "mayfly.db"
        self.settings = {"MAYFLY_KEY_FILE": str(self.key_file), "MAYFLY_DATABASE_URL": f"sqlite:///{self.database}"}

    def types(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        return subprocess.run(
            [sys.executable, str(PROJECT / "server.py"), *arguments],
            cwd=PROJECT,
            env={**environ, **self.settings, **settings},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def does(self, *arguments: str) -> str:
        ended = self.types(*arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        self.holds_no_secret(ended.stdout)
        return ended.stdout

    def is_refused(self, *arguments: str, **settings: str) -> str:
        """One line on standard error, nothing else, and exit code 1."""
        ended = self.types(*arguments, **settings)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert len(ended.stderr.splitlines()) == 1
        assert ended.stderr.startswith("mayfly: ")
        self.holds_no_secret(ended.stderr)
        return ended.stderr

    def holds_no_secret(self, text: str) -> None:
        if self.key_file.exists():
            document = json.loads(self.key_file.read_text())
            for secret in (document["admin_token"], *(entry["key"] for entry in document["keys"].values())):
                assert secret[:16] not in text

    def key_ids(self) -> list[str]:
        return list(json.loads(self.key_file.read_text())["keys"])


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def test_keys_are_made_rotated_listed_and_dropped(operator: Operator) -> None:
    said = operator.does("keys", "create")
    (first,) = operator.key_ids()
    assert str(operator.key_file) in said and first in said
    assert operator.key_file.stat().st_mode & 0o777 == 0o600
    assert "there is one already" in operator.is_refused("keys", "create")

    said = operator.does("keys", "rotate")
    second = operator.key_ids()[1]
    assert second in said
    document = json.loads(operator.key_file.read_text())
    assert document["current"] == second
    retired_at = document["keys"][first]["retired_at"]
    assert abs(datetime.fromisoformat(retired_at) - datetime.now(UTC)) < timedelta(minutes=5)
    assert operator.does("keys", "list").splitlines() == [f"{first}  {retired_at}", f"{second}  current"]

    assert "eight days" in operator.is_refused("keys", "drop", first)
    assert "may still be needed" in operator.is_refused("keys", "drop", second)
    assert "it has no key none" in operator.is_refused("keys", "drop", "none")
    document["keys"][first]["retired_at"] = "2020-01-01T00:00:00Z"
    operator.key_file.write_text(json.dumps(document))
    assert first in operator.does("keys", "drop", first)
    assert operator.key_ids() == [second]


@pytest.mark.parametrize("arguments", [("keys", "rotate"), ("keys", "list"), ("keys", "drop", "2026-11-aaaa"), (), ("serve",)])
def test_without_a_key_file_each_command_that_needs_keys_says_so(operator: Operator, arguments: tuple[str, ...]) -> None:
    assert "it does not exist" in operator.is_refused(*arguments)
    assert not operator.key_file.parent.exists(), "nothing is left behind"


def test_keys_are_never_made_inside_the_project(operator: Operator) -> None:
    said = operator.is_refused("keys", "create", MAYFLY_KEY_FILE=str(PROJECT / "docs" / "key.json"))
    assert "inside the project" in said
    assert not (PROJECT / "docs" / "key.json").exists()


def test_keys_default_to_the_users_configuration(operator: Operator, tmp_path: Path) -> None:
    del operator.settings["MAYFLY_KEY_FILE"]
    operator.settings["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    operator.does("keys", "create")
    assert keyfile.read(tmp_path / "config" / "mayfly" / "key.json")


def test_purge_removes_what_has_expired_and_nothing_else(operator: Operator) -> None:
    keyfile.create(operator.key_file)
    now = wall_clock()
    store = SqliteStore(operator.database, 64 << 20, lambda: Millis(now - 3_600_000))
    vault = Vault(store, KeyFile(operator.key_file), 30, 1024)
    for _ in range(3):
        vault.create(Draft("canary" * 100, expires_in=60))
    kept = vault.create(Draft("kept"))
    store.close()
    assert operator.does("purge") == "purged 3\n"
    assert operator.does("purge") == "purged 0\n"
    store = SqliteStore(operator.database, 64 << 20, wall_clock)
    assert (store.counts().stored, store.counts().expired) == (1, 0)
    assert Vault(store, KeyFile(operator.key_file), 30, 1024).read(kept.link_id).content.message == "kept"
    store.close()


def test_purge_needs_no_keys(operator: Operator) -> None:
    """Where cron may not read the key file, what has expired goes all the same."""
    keyfile.create(operator.key_file)
    now = wall_clock()
    store = SqliteStore(operator.database, 64 << 20, lambda: Millis(now - 3_600_000))
    vault = Vault(store, KeyFile(operator.key_file), 30, 1024)
    vault.create(Draft("canary", expires_in=60))
    vault.create(Draft("kept"))
    store.close()
    operator.key_file.unlink()
    assert operator.does("purge") == "purged 1\n"
    assert not operator.key_file.exists()
    store = SqliteStore(operator.database, 64 << 20, wall_clock)
    assert (store.counts().stored, store.counts().expired) == (1, 0)
    store.close()


def test_purge_beside_a_running_server_does_its_work(operator: Operator) -> None:
    """Cron need not ask who purges: removing twice removes once."""
    keyfile.create(operator.key_file)
    now = wall_clock()
    store = SqliteStore(operator.database, 64 << 20, lambda: Millis(now - 3_600_000))
    assert store.may_purge()
    Vault(store, KeyFile(operator.key_file), 30, 1024).create(Draft("m", expires_in=60))
    assert operator.does("purge") == "purged 1\n"
    assert store.counts().stored == 0
    store.close()


def test_purge_refuses_the_memory_store(operator: Operator) -> None:
    keyfile.create(operator.key_file)
    said = operator.is_refused("purge", MAYFLY_DATABASE_URL="sqlite://")
    assert "the memory store lives inside the server" in said


def test_wrong_settings_stop_every_command(operator: Operator) -> None:
    keyfile.create(operator.key_file)
    for arguments in (("purge",), ("keys", "list"), ("serve",)):
        assert "MAYFLY_PORT must be a port" in operator.is_refused(*arguments, MAYFLY_PORT="none")


def test_unknown_command_is_an_error_of_usage(operator: Operator) -> None:
    ended = operator.types("purge", "everything")
    assert ended.returncode == 2
    assert "unexpected extra argument" in ended.stderr


def test_running_server_opens_what_it_sealed_before_a_rotation(operator: Operator) -> None:
    """By the command, as an operator does it; a key that is gone is told, and what it sealed stays."""
    operator.does("keys", "create")
    store = SqliteStore(None, 64 << 20, wall_clock)
    vault = Vault(store, KeyFile(operator.key_file), 30, 1024)
    old = vault.create(Draft("old", views=2))
    operator.does("keys", "rotate")
    vault.keys._looked_at -= 2
    new = vault.create(Draft("new"))
    assert [vault.open(old.link_id).content.message, vault.read(new.link_id).content.message] == ["old", "new"]
    document = json.loads(operator.key_file.read_text())
    del document["keys"][operator.key_ids()[0]]
    operator.key_file.write_text(json.dumps(document))
    vault.keys._looked_at -= 2
    assert vault.read(new.link_id).content.message == "new"
    with pytest.raises(KeyMissing):
        vault.open(old.link_id)
    store.close()


def test_operator_makes_the_first_account_and_looks_after_it(tmp_path: Path) -> None:
    """A password comes from a file, and is in no output; what is refused is one line."""
    operator = Operator(tmp_path)
    operator.does("keys", "create")
    good, short = tmp_path / "good", tmp_path / "short"
    good.write_text("correct horse battery staple\n")
    short.write_text("short\n")
    names = ("--first-name", "Ana", "--last-name", "Silva", "--role", "admin")
    assert "15 characters" in operator.is_refused("account", "add", "ana@example.com", *names, "--password-file", str(short))
    made = operator.does("account", "add", "Ana@Example.com", *names, "--password-file", str(good))
    assert made.endswith(" for ana@example.com\n")
    assert "already" in operator.is_refused("account", "add", "ana@example.com", *names, "--password-file", str(good))
    assert operator.does("account", "list").split()[1:] == ["ana@example.com", "admin"]
    assert (
        operator.does("account", "password", "ana@example.com", "--password-file", str(good))
        == "set the password of ana@example.com\n"
    )
    assert "last admin" in operator.is_refused("account", "disable", "ana@example.com")
    operator.does("account", "add", "bruno@example.com", *names, "--password-file", str(good))
    assert operator.does("account", "disable", "ana@example.com") == "disabled ana@example.com\n"
    assert "disabled" in operator.does("account", "list").splitlines()[0]
    assert operator.does("audit", "verify") == "4 entries, all as they were written\n"
    assert "off" in operator.is_refused("account", "list", MAYFLY_ACCOUNTS_DATABASE_URL="off")
