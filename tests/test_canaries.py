"""No secret reaches log or error page: not at debug level, not in malformed requests, not when the server itself fails."""

from __future__ import annotations

import base64
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import raw
from tests.serving import Served, Server

FORM = ("Content-Type", "application/x-www-form-urlencoded")
ACCEPTS = ["text/html", "application/json", "text/plain"]


class Canaries:
    """Strings that nobody else writes, each named after where it was put."""

    def __init__(self) -> None:
        self.all: dict[str, str] = {}

    def __call__(self, where: str) -> str:
        self.all[where] = f"canary{secrets.token_hex(8)}"
        return self.all[where]

    def add(self, where: str, text: str) -> str:
        self.all[where] = text
        return text

    def found_in(self, text: str) -> list[str]:
        """Where the canaries come from that stand in `text`, as they are or in another dress."""
        return [where for where, canary in self.all.items() if any(dress in text for dress in _dresses(canary))]


def _dresses(canary: str) -> list[str]:
    return [canary, canary.upper(), canary.replace("-", ""), base64.b64encode(canary.encode()).decode()[:-4], canary.encode().hex()]


@pytest.fixture
def served(tmp_path: Path, server: Server) -> Iterator[Served]:
    with Served(tmp_path, server, "file", MAYFLY_LOG_LEVEL="debug", MAYFLY_PURGE_SECONDS="1") as running:
        yield running


def log_with(served: Served, sign: str) -> str:
    """The log, once `sign` has arrived in it."""
    deadline = time.monotonic() + 10
    while not re.search(sign, log := served.log()):
        assert time.monotonic() < deadline, log
        time.sleep(0.02)
    return log


def use(served: Served, canaries: Canaries) -> list[str]:
    """Go through the life of messages; returns the answers that are errors."""
    errors = []

    def ask(method: str, path: str, **how: object) -> None:
        for accept in ACCEPTS:
            headers = {"Accept": accept, **dict(how.get("headers", {}))}  # type: ignore[call-overload]
            answer = served.http.request(method, path, **{**how, "headers": headers})  # type: ignore[arg-type]
            if answer.status_code >= 400:
                errors.append(answer.text + str(answer.headers.multi_items()))

    passphrase = canaries("passphrase")
    message = served.create(canaries("message"), views=20, passphrase=passphrase)
    canaries.add("link id", message.id)
    canaries.add("receipt token", message.receipt_path.rpartition("/")[2])
    canaries.add("admin token", served.admin_token)
    key = canaries("idempotency key")
    other = served.create(canaries("markdown"), format="markdown")
    canaries.add("other link id", other.id)

    ask("GET", message.path)
    ask("POST", message.path)
    ask("POST", message.path, json={"passphrase": canaries("wrong passphrase")})
    served.http.post(message.path, json={"passphrase": passphrase}, headers={"Idempotency-Key": key})
    ask("POST", message.path, data={"passphrase": passphrase, "idempotency_key": key})
    ask("POST", message.path, headers={"Idempotency-Key": canaries("malformed key") + "!"})
    ask("DELETE", message.path, headers={"Idempotency-Key": canaries("another key")})
    ask("PUT", message.path)
    ask("GET", message.receipt_path + canaries("wrong receipt"))
    ask("POST", message.receipt_path, data={canaries("burn field"): "x"})
    ask("POST", "/", data={"message": canaries("refused message"), canaries("field name"): canaries("field value")})
    ask("POST", "/", json={"message": canaries("other refused message"), "views": canaries("views")})
    ask("POST", "/", content=b'{"message": ' + canaries("broken JSON").encode(), headers={"Content-Type": "application/json"})
    ask("POST", "/", content=canaries("unencoded").encode() + b"&x", headers={"Content-Type": FORM[1]})
    ask("POST", "/", content=b"x", headers={"Content-Type": f"text/{canaries('content type')}"})
    ask("POST", "/?" + canaries("query"), content=b"x", headers={"Content-Type": "text/plain"})
    ask("GET", "/" + canaries("path"))
    ask("GET", "/static/" + canaries("file"))
    ask("GET", "/", headers={"Host": canaries("host")})
    ask("GET", "/none", headers={"Cookie": canaries("cookie"), "Referer": canaries("referer"), "User-Agent": canaries("agent")})
    served.http.post("/admin", data={"token": canaries("wrong admin token")}, headers={"Accept": "text/html"})
    served.http.post("/delete", headers={"Authorization": f"Bearer {canaries('wrong bearer')}"})
    served.http.post("/delete", data={"link": canaries("taken down")}, headers={"Authorization": f"Bearer {served.admin_token}"})
    served.http.post("/delete", data={"link": other.link}, headers={"Authorization": f"Bearer {served.admin_token}"})
    served.http.delete(message.receipt_path)
    return errors


def malformed(canaries: Canaries) -> list[bytes]:
    """Requests that the server's own parser refuses, canary included."""
    host = b"Host: localhost\r\n"

    def canary(where: str) -> bytes:
        return canaries(where).encode()

    return [
        b"GET /message/" + canary("path of a bad version") + b" HTTP/9.9\r\n" + host + b"\r\n",
        b"GET /message/" + canary("path without version") + b"\r\n" + host + b"\r\n",
        b"GET /message/" + canary("path with a space") + b" x HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /message/\xff" + canary("raw path") + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n",
        canary("request line") + b"\r\n\r\n",
        canary("method") + b" / HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n",
        canary("upper method").upper() + b" / HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + canary("header name") + b" : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + canary("header line") + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X: " + canary("header value") + b"\0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + host + b"Content-Length: " + canary("length") + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: " + canary("transfer coding") + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + host + b"Expect: " + canary("expectation") + b"\r\nConnection: close\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n" + canary("chunk size") + b"\r\n",
        b"GET /" + canary("long path") + b"a" * 100_000 + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 500\r\n\r\nmessage=" + canary("cut body"),
    ]


def test_no_secret_is_logged_or_repeated(served: Served) -> None:
    canaries = Canaries()
    for error in use(served, canaries):
        assert not canaries.found_in(error)
    for request in malformed(canaries):
        assert not canaries.found_in(raw.receive(served, request, half_close=True).decode("latin-1"))
    assert served.stop() == 0
    log = served.log()
    assert "POST /message/… 403" in log, "the log is at debug level"
    assert "Traceback" not in log
    assert not canaries.found_in(log)


def test_no_secret_is_logged_or_repeated_when_the_store_fails(served: Served) -> None:
    """Its tables are gone: every request fails inside, with all its secrets at hand."""
    canaries = Canaries()
    passphrase = canaries("passphrase")
    message = served.create(canaries("message"), views=5, passphrase=passphrase)
    free = served.create(canaries("free message"))
    canaries.add("link id", message.id)
    canaries.add("free link id", free.id)
    canaries.add("receipt token", message.receipt_path.rpartition("/")[2])
    canaries.add("admin token", served.admin_token)
    key = {"Idempotency-Key": canaries("key")}
    admin = {"Authorization": f"Bearer {served.admin_token}"}
    with closing(sqlite3.connect(served.database_file)) as database:
        for table in ("messages", "bodies", "claims"):
            database.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        database.commit()
    for accept in ACCEPTS:
        for answer in (
            served.http.post(
                "/", json={"message": canaries("new message"), "passphrase": canaries("new")}, headers={"Accept": accept}
            ),
            served.http.get(free.path, headers={"Accept": accept}),
            served.http.post(message.path, json={"passphrase": passphrase}, headers={"Accept": accept, **key}),
            served.http.delete(message.path, headers={"Accept": accept, **key}),
            served.http.get(message.receipt_path, headers={"Accept": accept}),
            served.http.delete(message.receipt_path, headers={"Accept": accept}),
            served.http.post("/delete", data={"link": message.link}, headers={"Accept": accept, **admin}),
        ):
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert not canaries.found_in(answer.text + str(answer.headers.multi_items()))
    assert served.http.get("/readyz").text.startswith("open: down\n")
    log = log_with(served, r"mayfly\.faults StoreFailed at .*sqlite\.py:[0-9]+")
    assert "Traceback" not in log
    assert not canaries.found_in(log)

    with closing(sqlite3.connect(served.database_file)) as database:
        for table in ("messages", "bodies", "claims"):
            database.execute(f"ALTER TABLE {table}_away RENAME TO {table}")
        database.commit()
    assert served.http.post(message.path, json={"passphrase": passphrase}).json()["views_left"] == 4, "nothing was used up"


def test_no_secret_is_logged_or_repeated_when_the_code_fails(served: Served) -> None:
    """A row that no code expects makes an exception that quotes it: what is logged is where, never what."""
    canaries = Canaries()
    message = served.create(canaries("message"), views=5)
    canaries.add("link id", message.id)
    token = canaries.add("receipt token", message.receipt_path.rpartition("/")[2])
    with closing(sqlite3.connect(served.database_file)) as database:
        database.execute("UPDATE messages SET openings = ?", (canaries("column") + ",",))
        database.commit()
    for accept in ACCEPTS:
        headers = {"Accept": accept, "Idempotency-Key": canaries("key")}
        for answer in (
            served.http.get(message.path, headers=headers),
            served.http.post(message.path, json={"passphrase": canaries("passphrase")}, headers=headers),
            served.http.get(f"/receipt/{token}", headers=headers),
        ):
            assert answer.status_code == 500
            assert int(answer.headers["Retry-After"]) > 0
            assert not canaries.found_in(answer.text + str(answer.headers.multi_items()))
            assert "ValueError" not in answer.text
            assert ".py" not in answer.text
    log = log_with(served, r"mayfly\.faults ValueError at .*sqlite\.py:[0-9]+")
    assert "Traceback" not in log
    assert not canaries.found_in(log)


def test_canaries_can_be_found() -> None:
    canaries = Canaries()
    secret = canaries("somewhere")
    assert canaries.found_in(f"x {secret} y") == ["somewhere"]
    assert canaries.found_in(f"x {secret.upper()} y") == ["somewhere"]
    assert canaries.found_in("nothing") == []
