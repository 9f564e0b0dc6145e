"""A setting that is absent has its default; one that is wrong or unknown stops the start with one line."""

from __future__ import annotations

import ipaddress
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keyfile
from errors import SettingRefused
from settings import TABLE, Settings
from tests.serving import PROJECT, free_port

WRONG = {
    "MAYFLY_HOST": ["", "example.org", "256.0.0.1", "127.0.0.1:8000", "0.0.0.0/0"],
    "MAYFLY_PORT": ["", "0", "65536", "-1", "80.0", "1e3", "0x50", "٨٠", "eighty", "9" * 30],
    "MAYFLY_PUBLIC_URL": [
        "",
        "example.org",
        "ftp://example.org",
        "https://",
        "https://example.org/path",
        "https://example.org?a",
        "https://example.org#a",
        "https://user:secret@example.org",
        "https://exa mple.org",
        "https://[::1",
        "https://example.org:65536",
        "https://example.org:port",
    ],
    "MAYFLY_TRUSTED_HOSTS": ["", ",", "https://example.org", "a b", "a,b/c", "*"],
    "MAYFLY_TRUSTED_PROXIES": ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1 10.0.0.2", "*"],
    "MAYFLY_PROXY_SECRET": ["", "off", "x" * 31, "x" * 20 + "\t" + "x" * 20, "ß" * 40],
    "MAYFLY_TLS_CERTIFICATE": ["", "server.pem", "./server.pem"],
    "MAYFLY_TLS_KEY": ["", "server.key", "~nobody-of-that-name/server.key"],
    "MAYFLY_CLIENT_CA": ["", "CA", "own", "ca.pem", "off"],
    "MAYFLY_KEY_FILE": ["", "key.json", "./key.json", "~nobody-of-that-name/key.json"],
    "MAYFLY_DATABASE_URL": [
        "",
        "sqlite",
        "sqlite:///",
        "sqlite:///relative.db",
        "sqlite:////tmp/a.db?mode=ro",
        "sqlite:////tmp/a.db#x",
        "/tmp/a.db",
        "oracle://example.org/a",
        "off",
        "SQLITE://",
    ],
    "MAYFLY_GUARDED_DATABASE_URL": ["", "OFF", "sqlite:///relative.db", "http://example.org"],
    "MAYFLY_SEALED_DATABASE_URL": ["", "none", "memory", "postgres"],
    "MAYFLY_ACCOUNTS_DATABASE_URL": ["", "sqlite://", "sqlite:///accounts.db", "valkey://127.0.0.1", "redis+cluster://a", "on"],
    "MAYFLY_CERTIFICATES_DATABASE_URL": ["", "sqlite://", "sqlite:///certificates.db", "valkey://127.0.0.1", "OFF"],
    "MAYFLY_CERTIFICATE_DAYS": ["", "0", "398", "90d"],
    "MAYFLY_WEBHOOK_PRIVATE": ["", "yes", "1"],
    "MAYFLY_CREATE": ["", "nobody", "account", "on"],
    "MAYFLY_AUDIT_OPEN": ["", "yes", "1"],
    "MAYFLY_AUDIT_ADDRESSES": ["", "none", "on"],
    "MAYFLY_AUDIT_DAYS": ["", "0", "3651", "a year"],
    "MAYFLY_MAX_MESSAGE_BYTES": ["", "1023", "67108865", "1M", "-1"],
    "MAYFLY_STORE_BYTES": ["", "1048575", "0", "1G", "1099511627777"],
    "MAYFLY_CREATE_RATE": ["", "-1", "1000001", "off", "1/s"],
    "MAYFLY_EXPRESS": ["", "1", "true", "offf"],
    "MAYFLY_PURGE_SECONDS": ["", "-1", "61", "0.5", "never"],
    "MAYFLY_LEASE_SECONDS": ["", "0", "301", "30s"],
    "MAYFLY_SEALED_SECONDS": ["", "59", "604801", "1d", "0"],
    "MAYFLY_DRAIN_SECONDS": ["61", "-1", "soon"],
    "MAYFLY_LOG_LEVEL": ["", "20", "verbose", "warning,info"],
    "MAYFLY_LOG_FORMAT": ["", "xml", "logfmt", "text,json"],
    "MAYFLY_METRICS_TOKEN": ["", "none", "x" * 31, "x" * 20 + " " + "x" * 20, "é" * 32],
}
FORMS = {row.name: row.form for row in TABLE}


def test_every_setting_has_wrong_values_here() -> None:
    assert set(WRONG) == set(FORMS)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_value_is_refused_with_its_name_and_form(name: str, value: str) -> None:
    """And without the value: a URL may hold a password."""
    with pytest.raises(SettingRefused) as refused:
        Settings.from_environ({name: value})
    assert str(refused.value) == f"{name} must be {FORMS[name]}"
    assert refused.value.__cause__ is None


@given(name=st.sampled_from(sorted(FORMS)), value=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30))
def test_no_value_ends_in_anything_but_settings_or_a_refusal(name: str, value: str) -> None:
    try:
        Settings.from_environ({name: value})
    except SettingRefused as refusal:
        assert len(str(refusal).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MAYFLY_PROT", "MAYFLY_PORT"),
        ("MAYFLY_KEYFILE", "MAYFLY_KEY_FILE"),
        ("MAYFLY_DATABASE", "MAYFLY_DATABASE_URL"),
        ("MAYFLY_MAX_MESSAGE_SIZE", "MAYFLY_MAX_MESSAGE_BYTES"),
        ("MAYFLY_TRUSTED_HOST", "MAYFLY_TRUSTED_HOSTS"),
        ("MAYFLY_port", "MAYFLY_PORT"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest_known_one(name: str, nearest: str) -> None:
    with pytest.raises(SettingRefused) as refused:
        Settings.from_environ({name: "1"})
    assert str(refused.value) == f"{name} is not a setting; did you mean {nearest}?"


def test_even_a_name_like_no_other_is_refused() -> None:
    for name in ("MAYFLY_", "MAYFLY_" + "Q" * 40):
        with pytest.raises(SettingRefused, match=f"^{name} is not a setting; did you mean MAYFLY_[A-Z]"):
            Settings.from_environ({name: ""})


def test_defaults_are_the_documented_ones() -> None:
    settings = Settings.from_environ({"PATH": "/bin", "OTHER_MAYFLY_PORT": "1"})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.database_url) == ("127.0.0.1", 8000, "sqlite://")
    assert (settings.max_message_bytes, settings.store_bytes, settings.create_rate) == (1 << 20, 256 << 20, 60)
    assert (settings.purge_seconds, settings.lease_seconds, settings.log_level) == (20, 30, logging.WARNING)
    assert (settings.public_url, settings.key_file, settings.trusted_proxies) == (None, None, ())
    assert settings.trusted_hosts == ("127.0.0.1", "localhost", "[::1]")
    assert settings.embedded


_DESCRIBED = {"MAYFLY_PUBLIC_URL", "MAYFLY_KEY_FILE", "MAYFLY_METRICS_TOKEN"}
_DESCRIBED |= {"MAYFLY_ACCOUNTS_DATABASE_URL", "MAYFLY_CERTIFICATES_DATABASE_URL"}
_DESCRIBED |= {"MAYFLY_PROXY_SECRET", "MAYFLY_TLS_CERTIFICATE", "MAYFLY_TLS_KEY", "MAYFLY_CLIENT_CA"}


@pytest.mark.parametrize("row", [row for row in TABLE if row.name not in _DESCRIBED])
def test_default_named_in_the_table_is_the_one_in_force(row: object) -> None:
    """Where the table names a value rather than describing one, giving that value changes nothing."""
    name, default = row.name, row.default  # type: ignore[attr-defined]
    if name in ("MAYFLY_TRUSTED_HOSTS", "MAYFLY_TRUSTED_PROXIES"):
        default = {"MAYFLY_TRUSTED_HOSTS": "127.0.0.1, localhost, [::1]", "MAYFLY_TRUSTED_PROXIES": ""}[name]
    assert Settings.from_environ({name: default}) == Settings()


@pytest.mark.parametrize(
    ("off", "vaults"),
    [
        ("ACCOUNTS", {"open"}),
        ("CERTIFICATES", {"open", "guarded"}),
        ("GUARDED", {"open", "sealed"}),
        ("SEALED", {"open", "guarded"}),
    ],
)
def test_there_is_no_vault_whose_messages_nobody_could_open(off: str, vaults: set[str]) -> None:
    """Without accounts nobody signs in, without certificates nobody shows one."""
    assert set(Settings.from_environ({f"MAYFLY_{off}_DATABASE_URL": "off"}).databases) == vaults


def test_good_values_are_taken() -> None:
    settings = Settings.from_environ(
        {
            "MAYFLY_HOST": " ::1 ",
            "MAYFLY_PORT": "65535",
            "MAYFLY_TRUSTED_HOSTS": "Secrets.Example, [::1], b.example:8000",
            "MAYFLY_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
            "MAYFLY_KEY_FILE": "~/key.json",
            "MAYFLY_DATABASE_URL": "sqlite:////var/lib/mayfly.db",
            "MAYFLY_CREATE_RATE": "0",
            "MAYFLY_PURGE_SECONDS": "0",
            "MAYFLY_LOG_LEVEL": "Debug",
        }
    )
    assert (settings.host, settings.port) == ("::1", 65535)
    assert settings.trusted_hosts == ("secrets.example", "[::1]", "b.example")
    assert settings.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))
    assert settings.key_file == Path.home() / "key.json"
    assert not settings.embedded
    assert (settings.create_rate, settings.purge_seconds, settings.log_level) == (0, 0, logging.DEBUG)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"MAYFLY_TLS_CERTIFICATE": "/a.pem"}, "MAYFLY_TLS_CERTIFICATE and MAYFLY_TLS_KEY go together; one of them is not set"),
        ({"MAYFLY_TLS_KEY": "/a.key"}, "MAYFLY_TLS_CERTIFICATE and MAYFLY_TLS_KEY go together; one of them is not set"),
        (
            {"MAYFLY_CLIENT_CA": "ca"},
            "MAYFLY_CLIENT_CA needs MAYFLY_TLS_CERTIFICATE: without TLS there are no certificates of clients",
        ),
        (
            {"MAYFLY_ACCOUNTS_DATABASE_URL": "off", "MAYFLY_AUDIT_OPEN": "on"},
            "MAYFLY_AUDIT_OPEN=on needs accounts and the audit: MAYFLY_ACCOUNTS_DATABASE_URL must not be off",
        ),
        (
            {"MAYFLY_ACCOUNTS_DATABASE_URL": "off", "MAYFLY_CREATE": "accounts"},
            "MAYFLY_CREATE=accounts needs accounts and the audit: MAYFLY_ACCOUNTS_DATABASE_URL must not be off",
        ),
    ],
)
def test_settings_that_need_one_another_are_set_together(given: dict[str, str], line: str) -> None:
    with pytest.raises(SettingRefused) as refused:
        Settings.from_environ(given)
    assert str(refused.value) == line


def test_public_url_is_trusted_unless_hosts_are_named() -> None:
    url = {"MAYFLY_PUBLIC_URL": "https://Secrets.example:8443/"}
    settings = Settings.from_environ(url)
    assert settings.public_url == "https://Secrets.example:8443"
    assert settings.trusted_hosts == ("127.0.0.1", "localhost", "[::1]", "secrets.example")
    assert Settings.from_environ({**url, "MAYFLY_TRUSTED_HOSTS": "a"}).trusted_hosts == ("a",)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("MAYFLY_PORT", "80 80", "MAYFLY_PORT must be a port from 1 to 65535"),
        ("MAYFLY_PORTS", "8080", "MAYFLY_PORTS is not a setting; did you mean MAYFLY_PORT?"),
        ("MAYFLY_DATABASE_URL", "sqlite:///relative.db", "MAYFLY_DATABASE_URL must be sqlite:// (memory), sqlite:////absolute"),
        ("MAYFLY_DATABASE_URL", "sqlite:////proc/none/a.db", "MAYFLY_DATABASE_URL: /proc/none/a.db cannot be opened"),
        ("MAYFLY_KEY_FILE", "/proc/none/key.json", "key file /proc/none/key.json: it does not exist; put"),
        ("MAYFLY_KEY_FILE", f"{PROJECT}/key.json.example", f"key file {PROJECT}/key.json.example: it is inside the project's"),
    ],
)
def test_server_does_not_start_and_says_why_in_one_line(tmp_path: Path, name: str, value: str, line: str) -> None:
    keyfile.create(tmp_path / "key.json")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environ |= {"MAYFLY_KEY_FILE": str(tmp_path / "key.json"), "MAYFLY_PORT": str(free_port()), name: value}
    ended = subprocess.run([sys.executable, "server.py"], cwd=PROJECT, env=environ, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"mayfly: {line}")
