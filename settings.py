"""Every setting, once: its name, where it goes, its default, unit and form.

Settings come from the environment and enter at the top, as an argument. A setting that is absent has its documented
default; one that is present but wrong, or unknown, stops the start with one line. `docs/settings.md` is checked
against `TABLE` by a test.
"""

from __future__ import annotations

import difflib
import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from errors import SettingRefused
from records import VaultName

PREFIX = "MAYFLY_"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
MEMORY_URL = "sqlite://"
OFF = "off"
OWN_CA = "ca"
NETWORK_SCHEMES = ("postgresql", "mysql", "mariadb", "valkey", "valkey+cluster", "redis", "redis+cluster")
"""How database URLs begin that `storage.address` takes apart."""

LogFormat = Literal["text", "json"]
Creators = Literal["anyone", "accounts"]
Addresses = Literal["reduced", "full"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one server, checked. Units stand in the names."""

    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str | None = None
    trusted_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    trusted_proxies: tuple[Network, ...] = ()
    proxy_secret: str | None = field(default=None, repr=False)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | Literal["ca"] | None = None
    key_file: Path | None = None
    database_url: str = field(default=MEMORY_URL, repr=False)
    guarded_database_url: str = field(default=MEMORY_URL, repr=False)
    sealed_database_url: str = field(default=MEMORY_URL, repr=False)
    accounts_database_url: str | None = field(default=None, repr=False)
    certificates_database_url: str | None = field(default=None, repr=False)
    certificate_days: int = 90
    webhook_private: bool = False
    create: Creators = "anyone"
    audit_open: bool = False
    audit_addresses: Addresses = "reduced"
    audit_days: int = 365
    max_message_bytes: int = 1024 * 1024
    store_bytes: int = 256 * 1024 * 1024
    create_rate: int = 60
    purge_seconds: int = 20
    lease_seconds: int = 30
    sealed_seconds: int = 24 * 3600
    drain_seconds: int = 0
    express: bool = True
    log_level: int = logging.WARNING
    log_format: LogFormat = "text"
    metrics_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the MAYFLY_… variables of `environ`.

        Raises SettingRefused at the first variable that is unknown or not of its form.
        """
        found: dict[str, Any] = {}
        for name, text in sorted(environ.items()):
            if not name.startswith(PREFIX):
                continue
            row = _BY_NAME.get(name)
            if row is None:
                raise SettingRefused(f"{name} is not a setting; {_nearest(name)}")
            try:
                found[row.field] = row.read(text.strip())
            except (ValueError, KeyError):
                raise SettingRefused(f"{name} must be {row.form}") from None
        settings = cls(**found)
        if settings.public_url and "trusted_hosts" not in found:
            host = _hostname(urlsplit(settings.public_url).netloc)
            found["trusted_hosts"] = (*LOOPBACK_HOSTS, host)
        if (settings.tls_certificate is None) != (settings.tls_key is None):
            raise SettingRefused("MAYFLY_TLS_CERTIFICATE and MAYFLY_TLS_KEY go together; one of them is not set")
        if settings.client_ca and not settings.tls_certificate:
            raise SettingRefused("MAYFLY_CLIENT_CA needs MAYFLY_TLS_CERTIFICATE: without TLS there are no certificates of clients")
        if settings.accounts_database_url == OFF:
            for name, is_set in (
                ("MAYFLY_AUDIT_OPEN=on", settings.audit_open),
                ("MAYFLY_CREATE=accounts", settings.create == "accounts"),
            ):
                if is_set:
                    raise SettingRefused(f"{name} needs accounts and the audit: MAYFLY_ACCOUNTS_DATABASE_URL must not be off")
        return cls(**found)

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded default: all messages live in this process's memory, and nothing is kept elsewhere."""
        return set(self.databases.values()) == {MEMORY_URL}

    @property
    def one_process_only(self) -> bool:
        """Whether a vault lives in a process's memory, so that a second process would have another one of its own."""
        return MEMORY_URL in self.databases.values()

    @property
    def on_network(self) -> frozenset[VaultName]:
        """The vaults whose database is another process, and may be slow or down."""
        return frozenset(name for name, url in self.databases.items() if not url.startswith("sqlite:"))

    @property
    def accounts_on_network(self) -> bool:
        """Whether the database of accounts and audit, or that of certificates, is another process."""
        urls = (self.accounts_database_url, self.certificates_database_url)
        return any(url is not None and url != OFF and not url.startswith("sqlite:") for url in urls)

    @property
    def databases(self) -> dict[VaultName, str]:
        """The vaults that this server has, each with the URL of its database.

        There is none whose messages nobody could open: without accounts, and for the sealed one without certificates.
        """
        urls: dict[VaultName, str] = {"open": self.database_url}
        if self.accounts_database_url != OFF:
            urls["guarded"] = self.guarded_database_url
            if self.certificates_database_url != OFF:
                urls["sealed"] = self.sealed_database_url
        return {name: url for name, url in urls.items() if url != OFF}

    @property
    def max_body_bytes(self) -> int:
        """The largest request body: JSON may escape each byte of a message as six (`\\u00e9`)."""
        return 6 * self.max_message_bytes + 64 * 1024

    @property
    def max_sealed_bytes(self) -> int:
        """No envelope is larger: an encrypted document has twice the bytes of a message, a rendering is bounded by itself."""
        return 2 * self.max_message_bytes + 96 * 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `read` raises ValueError for what is not of the form."""

    name: str
    read: Callable[[str], Any]
    default: str
    form: str
    help: str

    @property
    def field(self) -> str:
        return self.name.removeprefix(PREFIX).lower()


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return read


def _list_of(read_item: Callable[[str], Any], may_be_empty: bool = False) -> Callable[[str], tuple[Any, ...]]:
    def read(text: str) -> tuple[Any, ...]:
        found = tuple(read_item(item.strip()) for item in text.split(",") if item.strip())
        if not found and not may_be_empty:
            raise ValueError
        return found

    return read


def _bind_host(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    return str(ipaddress.ip_address(text))


def _hostname(text: str) -> str:
    """The host of `host[:port]`, in lower case; ports are not told apart, names are."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", text.strip().lower())
    if not match:
        raise ValueError
    return match[1]


def _public_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment or parts.path.strip("/") or "@" in parts.netloc:
        raise ValueError
    _hostname(parts.netloc)
    _ = parts.port  # raises ValueError above 65535
    return f"{parts.scheme}://{parts.netloc}"


def _absolute_path(text: str) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # the home of a user who does not exist
        raise ValueError from None
    if not path.is_absolute():
        raise ValueError
    return path


def _client_ca(text: str) -> Path | str:
    return OWN_CA if text == OWN_CA else _absolute_path(text)


def _database_url(text: str) -> str:
    if text == MEMORY_URL or re.fullmatch(r"sqlite:////[^?#]+", text) or text.partition("://")[0] in NETWORK_SCHEMES:
        return text
    raise ValueError


def _database_url_or_off(text: str) -> str:
    return OFF if text == OFF else _database_url(text)


def _accounts_url(text: str) -> str:
    url = _database_url_or_off(text)
    if url == MEMORY_URL or url.startswith(("valkey", "redis")):
        raise ValueError
    return url


def _choice(*choices: str) -> Callable[[str], str]:
    return lambda text: {choice: choice for choice in choices}[text.lower()]


def _on_off(text: str) -> bool:
    return {"on": True, "off": False}[text.lower()]


def _token(text: str) -> str:
    if not re.fullmatch("[!-~]{32,}", text):
        raise ValueError
    return text


def _log_level(text: str) -> int:
    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    if text.lower() not in levels:
        raise ValueError
    return levels[text.lower()]


TABLE: tuple[Setting, ...] = (
    Setting("MAYFLY_HOST", _bind_host, "127.0.0.1", "an IP address to listen on, such as 127.0.0.1 or 0.0.0.0", "Where to listen."),
    Setting("MAYFLY_PORT", _integer(1, 65535), "8000", "a port from 1 to 65535", "Where to listen."),
    Setting(
        "MAYFLY_PUBLIC_URL",
        _public_url,
        "from the request",
        "http(s)://host[:port] without a path",
        "What links begin with. Without it, the host the request named.",
    ),
    Setting(
        "MAYFLY_TRUSTED_HOSTS",
        _list_of(_hostname),
        "loopback names and the public URL's",
        "host names without ports, separated by commas",
        "Which Host headers are answered; all others get 400.",
    ),
    Setting(
        "MAYFLY_TRUSTED_PROXIES",
        _list_of(ipaddress.ip_network, may_be_empty=True),
        "none",
        "IP addresses or networks, separated by commas",
        "Whose X-Forwarded-For and X-Forwarded-Proto are believed.",
    ),
    Setting(
        "MAYFLY_PROXY_SECRET",
        _token,
        "none",
        "at least 32 characters of ASCII without spaces",
        "What a proxy sends as `Mayfly-Proxy-Secret` for its `Client-Cert` to be believed.",
    ),
    Setting(
        "MAYFLY_TLS_CERTIFICATE",
        _absolute_path,
        "none",
        "an absolute path",
        "A PEM file: the server's certificate, and those up to its authority. With it the server speaks https alone.",
    ),
    Setting("MAYFLY_TLS_KEY", _absolute_path, "none", "an absolute path", "A PEM file: the private key of that certificate."),
    Setting(
        "MAYFLY_CLIENT_CA",
        _client_ca,
        "none",
        "an absolute path, or ca",
        "A PEM file of the authorities whose certificates clients may show. `ca`: this server's own authority.",
    ),
    Setting(
        "MAYFLY_KEY_FILE",
        _absolute_path,
        "$XDG_CONFIG_HOME/mayfly/key.json",
        "an absolute path",
        "Keys and admin token; outside the project's folder.",
    ),
    Setting(
        "MAYFLY_DATABASE_URL",
        _database_url,
        MEMORY_URL,
        "sqlite:// (memory), sqlite:////absolute/path.db, or the URL of a PostgreSQL, MySQL or Valkey database",
        "Where the messages of the open vault are kept. Memory lasts while the server runs.",
    ),
    Setting(
        "MAYFLY_GUARDED_DATABASE_URL",
        _database_url_or_off,
        MEMORY_URL,
        "sqlite:// (memory), sqlite:////absolute/path.db, the URL of a database with tls_ca, or off",
        "Where those of the guarded vault are kept: over a network by TLS. `off`: there is no such vault.",
    ),
    Setting(
        "MAYFLY_SEALED_DATABASE_URL",
        _database_url_or_off,
        MEMORY_URL,
        "sqlite:// (memory), sqlite:////absolute/path.db, the URL of a database with tls_ca, tls_certificate and tls_key, or off",
        "Where those of the sealed vault are kept: over a network by mutual TLS. `off`: there is no such vault.",
    ),
    Setting(
        "MAYFLY_ACCOUNTS_DATABASE_URL",
        _accounts_url,
        "accounts.db beside the key file",
        "sqlite:////absolute/path.db, the URL of a PostgreSQL or MySQL database with tls_ca, or off",
        "Where accounts, their keys and the audit are kept. `off`: nobody can sign in, and there is only the open vault.",
    ),
    Setting(
        "MAYFLY_CERTIFICATES_DATABASE_URL",
        _accounts_url,
        "certificates.db beside the key file",
        "sqlite:////absolute/path.db, the URL of a PostgreSQL or MySQL database with tls_ca, or off",
        "Where certificates, who issues them, and webhooks are kept. `off`: none are issued, and there is no sealed vault.",
    ),
    Setting(
        "MAYFLY_CERTIFICATE_DAYS",
        _integer(1, 397),
        "90",
        "1 to 397 (days)",
        "How long a certificate lasts, but never longer than who issued it.",
    ),
    Setting(
        "MAYFLY_WEBHOOK_PRIVATE",
        _on_off,
        "off",
        "on or off",
        "Let webhooks be told by http too, and on this machine and private networks.",
    ),
    Setting(
        "MAYFLY_CREATE", _choice("anyone", "accounts"), "anyone", "anyone or accounts", "Who may create messages; accounts sign in."
    ),
    Setting(
        "MAYFLY_AUDIT_OPEN",
        _on_off,
        "off",
        "on or off",
        "Write openings in the open vault to the audit too. Then they fail when it cannot be written.",
    ),
    Setting(
        "MAYFLY_AUDIT_ADDRESSES",
        _choice("reduced", "full"),
        "reduced",
        "reduced or full",
        "Whether the audit keeps addresses whole, or without their last part (IPv4 /24, IPv6 /48).",
    ),
    Setting("MAYFLY_AUDIT_DAYS", _integer(1, 3650), "365", "1 to 3650 (days)", "How long an entry of the audit is kept."),
    Setting(
        "MAYFLY_MAX_MESSAGE_BYTES",
        _integer(1024, 64 * 1024 * 1024),
        "1048576",
        "1024 to 67108864 (bytes of UTF-8)",
        "The longest message.",
    ),
    Setting(
        "MAYFLY_STORE_BYTES",
        _integer(1024 * 1024, 1 << 40),
        "268435456",
        "1048576 or more (bytes)",
        "The quota of each vault's store. At it, creating answers 503; opening goes on.",
    ),
    Setting("MAYFLY_CREATE_RATE", _integer(0, 1_000_000), "60", "0 to 1000000", "Creates a minute per client; 0 = no limit."),
    Setting(
        "MAYFLY_PURGE_SECONDS",
        _integer(0, 30),
        "20",
        "0 to 30 (seconds)",
        "How often the purge runs; 0 = not in this process (then run `python server.py purge` every minute).",
    ),
    Setting(
        "MAYFLY_LEASE_SECONDS",
        _integer(1, 300),
        "30",
        "1 to 300 (seconds)",
        "How long an Idempotency-Key gets the same message again.",
    ),
    Setting(
        "MAYFLY_SEALED_SECONDS",
        _integer(60, 7 * 24 * 3600),
        "86400",
        "60 to 604800 (seconds)",
        "The longest life of a message in the sealed vault, and the one it has unless its sender chooses a shorter one.",
    ),
    Setting(
        "MAYFLY_DRAIN_SECONDS",
        _integer(0, 60),
        "0",
        "0 to 60 (seconds)",
        "How long SIGTERM leaves the server serving while `/readyz` answers 503, so that a load balancer looks elsewhere first.",
    ),
    Setting(
        "MAYFLY_EXPRESS",
        _on_off,
        "on",
        "on or off",
        "Answer the commonest requests without Flask's dispatch: the same answers for less CPU.",
    ),
    Setting(
        "MAYFLY_LOG_LEVEL", _log_level, "warning", "debug, info, warning or error", "From info on, one line a request, without ids."
    ),
    Setting("MAYFLY_LOG_FORMAT", _choice("text", "json"), "text", "text or json", "Lines for people, or one JSON object a line."),
    Setting(
        "MAYFLY_METRICS_TOKEN",
        _token,
        "none",
        "at least 32 characters of ASCII without spaces",
        "What Prometheus shows as `Authorization: Bearer …` to read `/metrics`. Without it there is no such address.",
    ),
)
_BY_NAME = {row.name: row for row in TABLE}
assert {row.field for row in TABLE} == {field.name for field in fields(Settings)}


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.0)
    return f"did you mean {close[0]}?"
