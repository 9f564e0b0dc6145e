"""The log in both its forms: what it tells, and that nothing a client sent stands in it, nor among the figures."""

from __future__ import annotations

import json
import os
import re
import select
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from metrics import METHODS
from records import CIRCUITS, VAULT_NAMES, Millis
from storage.sqlite import SqliteStore
from tests import raw
from tests.serving import PROJECT, Served, Server
from tests.stores import SetClock, put
from tests.test_canaries import Canaries, malformed, use
from tests.test_metrics import BEARER, TOKEN, Figures

TIME = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z"


def events(served: Served, event: str, at_least: int = 1) -> list[dict[str, Any]]:
    """The lines of that event in the JSON log, once there are so many."""
    deadline = time.monotonic() + 20
    while True:
        found = [line for line in json_lines(served.log()) if line.get("event") == event]
        if len(found) >= at_least:
            return found
        assert time.monotonic() < deadline, served.log()
        time.sleep(0.02)


def json_lines(log: str) -> list[dict[str, Any]]:
    """All whole lines but the two that greet the operator. Raises ValueError if one is no JSON."""
    lines = log[: log.rfind("\n") + 1].splitlines()
    return [json.loads(line) for line in lines if not line.startswith(("Mayfly serves ", "Keys are in "))]


def test_nothing_that_a_client_sends_is_logged_or_counted(tmp_path: Path, server: Server) -> None:
    """Canaries in every field, path and header, in what no parser takes, and in the token's place, at debug level."""
    settings = {
        "MAYFLY_LOG_LEVEL": "debug",
        "MAYFLY_LOG_FORMAT": "json",
        "MAYFLY_PURGE_SECONDS": "1",
        "MAYFLY_METRICS_TOKEN": TOKEN,
    }
    with Served(tmp_path, server, "file", **settings) as served:
        canaries = Canaries()
        use(served, canaries)
        for request in malformed(canaries):
            raw.receive(served, request, half_close=True)
        for path in ("/" + canaries("path of metrics"), "/metrics/" + canaries("path below"), "/metrics?" + canaries("query")):
            served.http.get(path, headers={"Authorization": f"Bearer {canaries('wrong token')}"})
        served.http.request(canaries("verb").upper(), "/metrics")
        canaries.add("metrics token", TOKEN)
        canaries.add("address", "127.0.0.1")
        answer = httpx.get(f"{served.url}/metrics", headers=BEARER)
        assert answer.status_code == 200
        assert not canaries.found_in(answer.text)
        labels_are_of_closed_sets(Figures(answer.text))
        assert served.stop() == 0
    log = "".join(f"{json.dumps(line)}\n" for line in json_lines(served.log()))
    assert not canaries.found_in(log)
    assert log.count('"event": "request"') > 50
    assert "Traceback" not in served.log()


def labels_are_of_closed_sets(figures: Figures) -> None:
    routes = {"/", "/guarded", "/sealed", "/admin", "/delete", "/healthz", "/readyz", "/metrics", "other"}
    routes |= {"/message/…", "/receipt/…", "/static/…", "/guarded/…", "/sealed/…", "/guarded/receipt/…", "/sealed/receipt/…"}
    closed = {
        "vault": set(VAULT_NAMES),
        "state": set(CIRCUITS),
        "kind": {"opening", "repeat", "reading"},
        "by": {"sender", "admin", "passphrases"},
        "route": routes,
        "method": METHODS | {"other"},
        "status": {"2xx", "3xx", "4xx", "5xx"},
    }
    for sample in figures.samples:
        for name, value in sample.labels.items():
            if name in closed:
                assert value in closed[name]
            elif name == "reason":
                assert re.fullmatch("[A-Z][A-Za-z]+", value)
            else:
                assert name == "le" or not sample.name.startswith("mayfly_"), name


def test_request_is_one_line_of_json(tmp_path: Path, server: Server) -> None:
    with Served(tmp_path, server, MAYFLY_LOG_LEVEL="info", MAYFLY_LOG_FORMAT="json") as served:
        message = served.create("hi", views=1)
        served.http.post(message.path)
        served.http.post(message.path, headers={"Accept": "text/html"})
        served.http.get("/guarded/receipt/x")
        served.http.get("/static/none.css")
        lines = [line for line in events(served, "request", 5) if line["route"] != "/healthz"]
    for line in lines:
        assert re.fullmatch(TIME, line.pop("time"))
        assert 0 <= line.pop("ms") < 60_000
    same = {"level": "info", "logger": "mayfly.access", "event": "request"}
    gone = {"status": 404, "reason": "NotFound"}
    assert lines == [
        {**same, "method": "POST", "route": "/", "status": 201, "vault": "open"},
        {**same, "method": "POST", "route": "/message/…", "status": 200, "vault": "open"},
        {**same, "method": "POST", "route": "/message/…", "vault": "open", **gone},
        {**same, "method": "GET", "route": "/guarded/receipt/…", "vault": "guarded", **gone},
        {**same, "method": "GET", "route": "/static/…", **gone},
    ]


def test_request_is_one_line_of_text(tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_LOG_LEVEL="info") as served:
        served.create("hi")
        served.http.get("/nothing")
        served.stop()
    lines = [line for line in served.log().splitlines() if "mayfly.access" in line and "/healthz" not in line]
    created, nothing = (re.sub(r"[0-9.]+ ms", "0.4 ms", line[24:]) for line in lines)
    assert created == "INFO mayfly.access POST / 201 0.4 ms"
    assert nothing == "INFO mayfly.access GET other 404 0.4 ms NotFound"


def test_requests_are_not_logged_by_default(served: Served) -> None:
    served.create("hi")
    served.http.get("/nothing")
    assert "mayfly.access" not in served.log()


def test_fault_is_logged_as_its_kind_and_place(tmp_path: Path) -> None:
    """A row that no code expects makes an exception that quotes it."""
    with Served(tmp_path, database="file", MAYFLY_LOG_FORMAT="json") as served:
        message = served.create("hi")
        with closing(sqlite3.connect(served.database_file)) as database:
            database.execute("UPDATE messages SET openings = 'canary,'")
            database.commit()
        assert served.http.get(message.path).status_code == 500
        (fault,) = events(served, "fault")
    assert set(fault) == {"time", "level", "logger", "event", "fault", "at"}
    assert (fault["level"], fault["logger"], fault["fault"]) == ("error", "mayfly.faults", "ValueError")
    assert re.fullmatch(r"/.*/storage/sqlite\.py:[0-9]+", fault["at"][0])
    assert "canary" not in json.dumps(fault)


# What libraries say may quote what somebody sent, and so may the message of a fault in the purge, which APScheduler would log.
LIBRARY = """
import logging, sys, time
import scheduler
from logs import log_to_stderr
from settings import Settings
from storage.sqlite import SqliteStore

log_to_stderr(Settings(log_format=sys.argv[1], log_level=logging.DEBUG))

class Broken(SqliteStore):
    def may_purge(self):
        raise ValueError("canary in a job")

library = logging.getLogger("some.library")
library.debug("canary below warning")
library.warning("canary %s", "canary in a value")
try:
    raise KeyError("canary in an exception")
except KeyError:
    library.exception("canary with a traceback")
logging.getLogger("mayfly.storage").error("two\\nlines")
purge = scheduler.PurgeScheduler([Broken(None, 1 << 24, lambda: 0)], 0.05)
purge.start()
time.sleep(1)
purge.stop()
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_libraries_say_is_logged_by_its_place_alone(form: str) -> None:
    ran = subprocess.run([sys.executable, "-c", LIBRARY, form], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    assert "canary" not in ran.stderr
    assert "Traceback" not in ran.stderr
    lines = ran.stderr.splitlines()
    assert any("mayfly.storage" in line and "two" in line and "lines" in line for line in lines), "one line, whatever is in it"
    for name, kind in (("some.library", "warning"), ("some.library", "KeyError"), ("apscheduler", "ValueError")):
        assert any(name in line and kind in line and ":" in line for line in lines), (name, kind)
    if form == "json":
        assert {line["level"] for line in map(json.loads, lines)} == {"warning", "error"}


def test_purge_service_logs_in_the_same_form(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "mayfly.db", 64 << 20, SetClock())
    put(store, expires_at=Millis(1_000_000_000_000))
    store.close()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environ |= {
        "MAYFLY_DATABASE_URL": f"sqlite:///{tmp_path / 'mayfly.db'}",
        "MAYFLY_LOG_FORMAT": "json",
        "MAYFLY_LOG_LEVEL": "info",
    }
    service = subprocess.Popen(
        [sys.executable, "server.py", "purge", "--every", "1"], cwd=PROJECT, env=environ, stderr=subprocess.PIPE, text=True
    )
    try:
        assert service.stderr
        assert select.select([service.stderr], [], [], 60)[0], "it logs nothing"
        line = json.loads(service.stderr.readline())
    finally:
        service.terminate()
        service.communicate(timeout=60)
    assert re.fullmatch(TIME, line.pop("time"))
    assert line == {"level": "info", "logger": "mayfly.scheduler", "message": "purged 1 messages"}
