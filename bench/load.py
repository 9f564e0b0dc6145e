"""The load: wrk with a script made for each operation, which checks every answer.

An operation is one request as a user's client makes it. Links that a create returned are kept in a file, one a line, and
opened once each, or read in turn.
"""

from __future__ import annotations

import json
import random
import signal
import string
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from bench.servers import BenchFailed, Server

CONNECTIONS = 16
MESSAGE_BYTES = 1000
ENVELOPE_BYTES = 1095
"""What a message of that length is in the store."""
FILL_SECONDS = 90
"""How long a fill may take; what was stored by then is what is measured."""

_rng = random.Random(1)  # the same message in every run
MESSAGE = "".join(_rng.choices(string.ascii_letters + string.digits + "    ", k=MESSAGE_BYTES - 1)) + "."

_FORM = "application/x-www-form-urlencoded"
_PAGE = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of request. `path` None: the path of a message, from the links of the create `links_of`.

    `least_bytes` is what an answer must have at least: a message cannot be shorter than itself. `once`: each link once, and with
    `lease` by an Idempotency-Key.
    """

    server: str
    name: str
    method: str = "GET"
    path: str | None = "/"
    accept: str = "*/*"
    content_type: str = ""
    body: str = ""
    status: int = 200
    least_bytes: int = 0
    links_of: str = ""
    once: bool = False
    lease: bool = False

    @property
    def keeps_links(self) -> bool:
        """Whether its answers are JSON with a link."""
        return self.name in ("create", "fill")

    @property
    def title(self) -> str:
        return f"{self.server}: {self.name}"


def _json(**fields: object) -> str:
    return json.dumps({"message": MESSAGE, **fields})


OPERATIONS: tuple[Operation, ...] = (
    Operation("flask hello", "hello"),
    Operation("mayfly", "create", "POST", "/", "application/json", "application/json", _json(views=1), 201),
    Operation("mayfly", "create_text", "POST", "/", "*/*", "text/plain", MESSAGE, 201),
    Operation("snappass", "create", "POST", "/", "application/json", _FORM, f"ttl=week&password={quote_plus(MESSAGE)}"),
    Operation(
        "mayfly", "open_once", "POST", None, "application/json", least_bytes=MESSAGE_BYTES, links_of="create", once=True, lease=True
    ),
    Operation("snappass", "open_once", "POST", None, _PAGE, _FORM, "", 200, MESSAGE_BYTES, "create", once=True),
    Operation("flask hello rsgi", "hello"),
    Operation("mayfly", "read", "GET", None, "application/json", least_bytes=MESSAGE_BYTES, links_of="fill"),
    Operation("mayfly", "form_create", "POST", "/", "*/*", _FORM, f"message={quote_plus(MESSAGE)}", 201),
    Operation("mayfly", "html_create", "POST", "/", _PAGE, _FORM, f"expires_in=604800&views=&message={quote_plus(MESSAGE)}", 201),
    Operation("snappass", "html_create", "POST", "/", _PAGE, _FORM, f"ttl=week&password={quote_plus(MESSAGE)}"),
    Operation("mayfly", "html_read", "GET", None, _PAGE, least_bytes=MESSAGE_BYTES, links_of="fill"),
)
"""In the order in which a round runs them, so that what is compared stands close together."""

FILLS = {
    "mayfly": Operation("mayfly", "fill", "POST", "/", "application/json", "application/json", _json(), 201),
    "snappass": Operation("snappass", "fill", "POST", "/", "application/json", _FORM, f"ttl=week&password={quote_plus(MESSAGE)}"),
}


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. Times of answers in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    most_ms: float


def operation(server: str, name: str) -> Operation:
    """The operation of that title."""
    return next(found for found in OPERATIONS if (found.server, found.name) == (server, name))


def run(
    operation: Operation, server: Server, folder: Path, seconds: int, enough: int = 0, beside: Callable[[], object] | None = None
) -> Load:
    """Send `operation` to `server` for `seconds`, or until `enough` answers came or the links are used up.

    `beside` is done meanwhile, and its end is the load's.

    Raises BenchFailed if one answer is not what it must be, or a connection fails.
    """
    script = folder / f"{operation.name}.lua"
    script.write_text(_script(operation, folder, enough))
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s", "--latency"]
    result = None
    with subprocess.Popen([*command, "--script", str(script), server.url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        if beside:

            def finish(done: Callable[[], object] = beside) -> None:
                done()
                process.send_signal(signal.SIGINT)

            threading.Thread(target=finish, daemon=True).start()
        try:
            for line in process.stdout:
                if line == "enough\n":
                    process.send_signal(signal.SIGINT)
                elif line.startswith("{"):
                    result = json.loads(line)
        except BaseException:
            process.kill()
            raise
    if result is None or not result["requests"] or result["wrong"] or result["socket_errors"]:
        raise BenchFailed(f"{operation.title}: {result}")
    return Load(result["requests"], result["microseconds"] / 1e6, result["p50"] / 1000, result["p99"] / 1000, result["most"] / 1000)


def _script(operation: Operation, folder: Path, enough: int) -> str:
    headers = {"Accept": operation.accept}
    if operation.content_type:
        headers["Content-Type"] = operation.content_type
    if operation.lease:
        headers["Idempotency-Key"] = "benchmark-reader"
    config = {
        "method": operation.method,
        "path": operation.path,
        "body": operation.body if operation.method == "POST" else None,
        "links": str(folder / f"{operation.links_of}.links") if operation.links_of else None,
        "once": operation.once,
        "keep": str(folder / f"{operation.name}.links") if operation.keeps_links else None,
        "status": operation.status,
        "least_bytes": operation.least_bytes,
        "enough": enough or None,
    }
    lines = [f"config.{name} = {json.dumps(value)}" for name, value in config.items() if value is not None]
    lines += [f"config.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    return "\n".join(["local config = {headers = {}}", *lines, _SCRIPT])


# wrk builds one request to look at before it starts, so the first link is skipped; what is under way at the end is not counted.
_SCRIPT = """
local threads, links, kept, fixed, over = {}, {}, nil, nil, false
sent, answered, wrong = 0, 0, 0

function setup(thread) table.insert(threads, thread) end

function init()
    if config.links then
        for line in io.lines(config.links) do links[#links + 1] = line end
    end
    if config.keep then kept = io.open(config.keep, "w") end
    if config.path then fixed = wrk.format(config.method, config.path, config.headers, config.body) end
end

local function finish()
    if not over then io.write("enough\\n"); io.flush() end
    over = true
    wrk.thread:stop()
end

function request()
    if fixed then return fixed end
    sent = sent + 1
    if config.once and sent > #links then
        finish()
        return wrk.format("GET", "/")
    end
    return wrk.format(config.method, links[(sent - 1) % #links + 1], config.headers, config.body)
end

function response(status, headers, body)
    answered = answered + 1
    if status ~= config.status or #body < config.least_bytes then wrong = wrong + 1 end
    if kept then
        local link = body:match('"link":"https?://[^/]+(/[^"]+)"')
        if link then kept:write(link, "\\n") else wrong = wrong + 1 end
    end
    if answered == config.enough then finish() end
end

function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.timeout
    io.write(string.format('{"requests":%d,"microseconds":%d,"wrong":%d,"socket_errors":%d,"p50":%d,"p99":%d,"most":%d}\\n',
        summary.requests, summary.duration, threads[1]:get("wrong"), failed,
        latency:percentile(50), latency:percentile(99), latency.max))
end
"""
