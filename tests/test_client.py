"""The command-line client, against a served Mayfly: scripts, terminals, lost connections, odd servers, what others see of it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mayfly.api import KeyFor
from mayfly.commands import cli
from mayfly.envelope import Plain, encode_key, encrypt, new_key, proof_of
from mayfly.output import safe_name, visible
from tests.requirements import require, require_program
from tests.scripts import client_environ, run, run_script
from tests.serving import PROJECT, Served

SCRIPTS = sorted((PROJECT / "tests" / "client").glob("*.txt"))
MAYFLY = [sys.executable, "-m", "mayfly"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_does_what_it_says(path: Path, served: Served, tmp_path: Path) -> None:
    assert run_script(path, served, tmp_path) > 1


def _mayfly(served: Served | None, *arguments: str, given: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the client without a terminal."""
    options = {"env": client_environ(served), "capture_output": True, "timeout": 60, "start_new_session": True} | options
    return subprocess.run([*MAYFLY, *arguments], input=given, **options)


def _sent(served: Served, content: bytes = b"a text", *options: str) -> str:
    """Send a message and return its link."""
    done = _mayfly(served, "send", *options, given=content)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def _stored(served: Served, plain: Plain, **changes: Any) -> str:
    """The link of a message whose sender was not our client: what it sends may be changed."""
    key = new_key()
    fields = {"document": encrypt(plain, key), "proof": proof_of(key, None), "views": 1} | changes
    answer = served.http.post("/", json=fields)
    assert answer.status_code == 201, answer.text
    return f"{answer.json()['link']}#{encode_key(key)}"


def _lease_in(told: str) -> str:
    found = re.search(r"within half a minute open it again, with --lease ((?:none|passphrase)-[A-Za-z0-9_-]{32})\n", told)
    assert found, told
    return found[1]


# Terminals


class Terminal:
    """The client on a terminal of its own."""

    def __init__(self, served: Served, *arguments: str, **options: Any) -> None:
        self.fd, inner = pty.openpty()
        options = {"stdin": inner, "stdout": inner, "stderr": inner} | options

        def take_terminal() -> None:
            os.setsid()
            os.close(os.open(os.ttyname(inner), os.O_RDWR))  # the first terminal a session opens is its own

        self.process = subprocess.Popen(
            [*MAYFLY, *arguments], env=client_environ(served) | {"TERM": "xterm"}, preexec_fn=take_terminal, **options
        )
        os.close(inner)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            assert self._read(), f"it ended without {text!r}: {self.shown}"

    def type(self, line: str) -> None:
        os.write(self.fd, line.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C, and again after a while: Python hears of the first only after the read that it was about to begin."""
        for _ in range(20):
            self.type("\x03")
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=1)
                return

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        while self._read():
            pass
        os.close(self.fd)
        return self.process.wait(timeout=30)

    def _read(self) -> bool:
        if not select.select([self.fd], [], [], 30)[0]:
            return False
        try:
            found = os.read(self.fd, 65536)
        except OSError:  # EIO: nobody has it open any more
            return False
        self.shown += found.decode(errors="replace").replace("\r\n", "\n")
        return bool(found)


def test_passphrase_is_asked_twice_and_never_shown(served: Served, tmp_path: Path) -> None:
    """On sending twice, on opening once, even when the link comes through a pipe; no echo."""
    note = tmp_path / "note"
    note.write_text("the lock is 4711")
    sending = Terminal(served, "send", "--passphrase", str(note))
    sending.wait_for("Passphrase: ")
    sending.type("open sesame\n")
    sending.wait_for("Repeat for confirmation: ")
    sending.type("open sesame\n")
    assert sending.end() == 0
    assert "sesame" not in sending.shown
    link = re.search(r"http://\S+/message/\S+", sending.shown)
    assert link
    given, giving = os.pipe()
    os.write(giving, f"{link[0]}\n".encode())
    os.close(giving)
    opening = Terminal(served, "open", stdin=given)
    os.close(given)
    opening.wait_for("Passphrase: ")
    opening.type("open sesame\n")
    assert opening.end() == 0
    assert "sesame" not in opening.shown
    assert opening.shown.endswith("the lock is 4711\n")


def test_link_is_asked_for_and_not_shown(served: Served) -> None:
    """A link in the scrollback of a terminal is a link in the wrong place."""
    link = _sent(served)
    terminal = Terminal(served, "open")
    terminal.wait_for("Link: ")
    terminal.type(f"{link}\n")
    assert terminal.end() == 0
    assert link not in terminal.shown
    assert terminal.shown.endswith("a text\n")


def test_file_is_never_shown_on_a_terminal(served: Served, tmp_path: Path) -> None:
    """It is not lost by that: the same lease writes it to a file."""
    photo = tmp_path / "a photo.png"
    photo.write_bytes(b"\x89PNG\x1b[2J\0")
    link = _sent(served, b"", "--file", str(photo))
    terminal = Terminal(served, "open", link)
    assert terminal.end() == 6
    assert "PNG" not in terminal.shown
    assert "a photo.png" in terminal.shown
    assert "\x1b" not in terminal.shown
    done = _mayfly(served, "open", "--lease", _lease_in(terminal.shown), "-o", str(tmp_path / "out"), link)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == photo.read_bytes()
    assert _mayfly(served, "open", link).returncode == 3


def test_text_does_not_steer_a_terminal(served: Served) -> None:
    """Escape sequences are shown as what they are; through a pipe the text is what was sent."""
    hostile = "\x1b]0;owned\x07\x1b[2Jharmless\rx\x9b31m\ttab\n"
    link = _sent(served, hostile.encode(), "--views", "2")
    terminal = Terminal(served, "open", link)
    assert terminal.end() == 0
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", terminal.shown)
    assert "harmless\ufffdx\ufffd31m" in terminal.shown
    assert "control characters" in terminal.shown
    assert _mayfly(served, "open", link).stdout.decode() == hostile


def test_what_an_odd_server_says_does_not_steer_a_terminal() -> None:
    with odd_server(lambda request: _answer(request, 400, json.dumps({"detail": "no\x1b[2J"}), "application/problem+json")) as url:
        done = _mayfly(None, "status", f"{url}/receipt/x")
    assert done.returncode == 5
    assert done.stderr.decode() == "mayfly: no\ufffd[2J\n"


def test_typing_a_message_and_interrupting_it_sends_nothing(served: Served) -> None:
    terminal = Terminal(served, "send")
    terminal.wait_for("Type the message, then Ctrl-D.")
    terminal.type("half a mess")
    terminal.interrupt()
    assert terminal.end() == 1
    assert "http" not in terminal.shown


def test_large_input_shows_its_progress_on_a_terminal_only(served: Served, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(400_000))
    terminal = Terminal(served, "send", "--file", str(big))
    assert terminal.end() == 0
    assert "Sending" in terminal.shown
    assert "100%" in terminal.shown
    assert b"Sending" not in _mayfly(served, "send", "--file", str(big)).stderr


# Nothing is lost


class CuttingProxy:
    """Passes connections to a server on; of the first `cuts` requests that `matches`, the answer never arrives."""

    def __init__(self, port: int, matches: bytes, cuts: int) -> None:
        self._port, self._matches, self._cuts = port, matches, cuts
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            cut = False
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data or (ready is server and cut):
                        return
                    if ready is client:
                        if re.match(rb"(GET|POST|DELETE) ", data):
                            self.requests.append(data)
                        if data.startswith(self._matches) and self._cuts:
                            self._cuts, cut = self._cuts - 1, True
                    (server if ready is client else client).sendall(data)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def cutting(served: Served, matches: bytes, cuts: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(served.port, matches, cuts)
    try:
        yield proxy
    finally:
        proxy.close()


def _through(proxy: CuttingProxy, link: str) -> str:
    return re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{proxy.port}", link)


@pytest.mark.parametrize("options", [(), ("--server-encryption",)], ids=["end-to-end", "server"])
def test_lost_answer_is_asked_for_again_under_the_same_key(served: Served, options: tuple[str, ...]) -> None:
    """The view was taken, the answer cut: the message arrives all the same, and one view is used."""
    link = _sent(served, b"only once", *options)
    with cutting(served, b"POST /message/", 1) as proxy:
        done = _mayfly(served, "open", _through(proxy, link))
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"only once"
    keys = [re.search(rb"(?i)idempotency-key: (\S+)", request) for request in proxy.requests if request.startswith(b"POST")]
    assert len(keys) == 2
    assert len({key[1] for key in keys if key}) == 1
    assert _mayfly(served, "open", link).returncode == 3


def test_answer_lost_for_good_leaves_a_lease(served: Served) -> None:
    """The network is gone for all tries: the client names the lease, and that opens the message when the network is back."""
    link = _sent(served, b"only once")
    with cutting(served, b"POST /message/", 9) as proxy:
        done = _mayfly(served, "open", _through(proxy, link))
    assert done.returncode == 5
    assert done.stdout == b""
    assert "broke off" in done.stderr.decode()
    assert _mayfly(served, "open", link).returncode == 3
    again = _mayfly(served, "open", link, "--lease", _lease_in(done.stderr.decode()))
    assert again.stdout == b"only once"
    assert again.returncode == 0


def test_lease_remembers_that_there_is_a_passphrase(served: Served, tmp_path: Path) -> None:
    """Of a message whose views are taken the server does not tell any more, and a proof without it would cost a try."""
    note = tmp_path / "note"
    note.write_text("only once")
    link = _sent(served, b"open sesame\n", "--passphrase", str(note))
    done = _mayfly(served, "open", "-o", "/dev/full", "--force", "-", given=f"{link}\nopen sesame\n".encode())
    assert done.returncode == 6
    again = _mayfly(served, "open", "--lease", _lease_in(done.stderr.decode()), "-", given=f"{link}\nopen sesame\n".encode())
    assert again.stdout == b"only once"


def test_lost_answer_to_a_send_is_not_sent_again(served: Served) -> None:
    """It may be stored: a second one would be a second message."""
    with cutting(served, b"POST /", 9) as proxy:
        done = _mayfly(served, "send", "--server", f"http://127.0.0.1:{proxy.port}", given=b"once")
    assert done.returncode == 5
    assert len(proxy.requests) == 1
    assert done.stdout == b""
    assert "nobody has its link" in done.stderr.decode()


def test_message_is_forgotten_only_once_it_is_written(served: Served) -> None:
    """The confirmation comes last, after the content went out; a lost one matters to nobody."""
    link = _sent(served, b"only once")
    with cutting(served, b"DELETE ", 9) as proxy:
        done = _mayfly(served, "open", _through(proxy, link))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"only once", b"")
    assert [request.split(b" ", 1)[0] for request in proxy.requests] == [b"GET", b"POST", b"DELETE"]


@pytest.mark.parametrize("target", ["/dev/full", "pipe", "closed"])
def test_output_that_fails_loses_nothing(served: Served, target: str) -> None:
    """A full disk and a reader that went away come after the claim, a closed output before it. No traceback."""
    content = os.urandom(100_000).hex().encode()
    link = _sent(served, content)
    command = {"/dev/full": "{} > /dev/full", "pipe": "{} | true", "closed": "{} >&-"}[target]
    done = run(command.format(f"mayfly open '{link}'"), served, PROJECT)
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    lease = () if target == "closed" else ("--lease", _lease_in(done.stderr))
    assert _mayfly(served, "open", link, *lease).stdout == content


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (encrypt(Plain("x"), bytes(32)), "The key in the link or the passphrase is wrong, or the message was changed."),
        (
            {"v": 2, "adata": [], "ct": "AAAA"},
            "This is not a document that can be opened safely: its parameters are not in the known form.",
        ),
    ],
    ids=["another key", "odd parameters"],
)
def test_document_that_does_not_open_says_so_and_is_not_forgotten(served: Served, document: object, sentence: str) -> None:
    """A right proof and a wrong document: only its sender, or a server that lies, can make that."""
    link = _stored(served, Plain("x"), document=document)
    again: tuple[str, ...] = ()
    for _ in range(2):
        done = _mayfly(served, "open", link, *again)
        assert done.returncode == 6
        assert done.stderr.decode().startswith(f"mayfly: {sentence} Nothing is lost yet")
        again = ("--lease", _lease_in(done.stderr.decode()))


def test_interrupt_after_opening_names_the_lease(served: Served, tmp_path: Path) -> None:
    """Ctrl-C while the message cannot leave: here through a FIFO that nobody reads to the end."""
    content = os.urandom(200_000).hex().encode()
    link = _sent(served, content)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    terminal = Terminal(served, "open", "--force", "-o", str(fifo), link)
    assert select.select([reader], [], [], 30)[0]  # it has been opened, and is being written
    terminal.type("\x03")
    terminal.wait_for("Nothing is lost yet")
    assert terminal.end() == 1
    os.close(reader)
    assert _mayfly(served, "open", link, "--lease", _lease_in(terminal.shown)).stdout == content


# Files


def test_files_are_their_owners_alone(served: Served, tmp_path: Path) -> None:
    """Whatever the umask, and whatever the old file's mode was; a failed opening leaves an old file as it was."""
    link = _sent(served, b"secret", "--views", "2")
    old = tmp_path / "old"
    old.write_text("old content")
    old.chmod(0o666)
    done = _mayfly(served, "open", "--force", "-o", str(old), link[:-1] + ("1" if link[-1] != "1" else "2"))
    assert done.returncode == 4
    assert old.read_text() == "old content"
    for path, force in ((old, ("--force",)), (tmp_path / "new", ())):
        done = _mayfly(served, "open", *force, "-o", str(path), link, umask=0)
        assert done.returncode == 0, done.stderr
        assert path.read_text() == "secret"
        assert path.stat().st_mode & 0o777 == 0o600


def test_failed_opening_leaves_no_file(served: Served, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert _mayfly(served, "open", "-o", str(new), f"{served.url}/message/00000000-0000-4000-8000-000000000000").returncode == 3
    assert not new.exists()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("/etc/cron.d/evil", "evil"),
        ("C:\\Windows\\system.ini", "system.ini"),
        ("..", "message"),
        (".", "message"),
        ("", "message"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("a\0b\nc\x1b[2J.txt", "a_b_c__2J.txt"),
        ("invoice\u202efdp.exe", "invoice_fdp.exe"),
        ("nul", "_nul"),
        ("COM1.txt", "_COM1.txt"),
        ("trailing. . ", "trailing"),
        ("a:b", "a_b"),
        ("Ü 🦋 (1).tar.gz", "Ü _ _1_.tar.gz"),
        ("x" * 400 + ".png", "x" * 196 + ".png"),
        ("é" * 400, "é" * 100),
        ("a." + "x" * 400, "a." + "x" * 19),
    ],
)
def test_names_of_senders_are_made_harmless(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text())
def test_every_name_becomes_one_that_can_be_written(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= 255
    assert re.fullmatch(r"[\w][\w. -]*", safe)
    assert not safe.endswith((".", " "))


@given(st.text())
def test_visible_text_keeps_all_but_control_characters(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", visible(text))
    if not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text):
        assert visible(text) == text


def test_hostile_name_stays_in_its_folder(served: Served, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    link = _stored(served, Plain(file=b"x", file_name="../../outside\x1b[2J"))
    done = _mayfly(served, "open", "-o", str(inbox), link)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in inbox.iterdir()] == ["outside__2J"]
    assert "\x1b" not in done.stderr.decode()


def test_name_that_is_not_utf8_is_sent_as_far_as_it_is(served: Served, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    link = _sent(served, b"", "--file", os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    assert json.loads(_mayfly(served, "open", "--json", link).stdout)["file_name"] == "caf?.txt"


# Servers that are not there, or not Mayfly


Handler = Callable[[BaseHTTPRequestHandler], None]


def _answer(request: BaseHTTPRequestHandler, status: int, body: str, content_type: str = "text/html", **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Type", content_type)
    request.send_header("Content-Length", str(len(body.encode())))
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body.encode())


@contextmanager
def odd_server(handle: Handler, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that answers every request with `handle`; yields its address."""

    class Odd(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            handle(self)

        do_POST = do_DELETE = do_GET

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Odd)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


API_KEY = "mayfly_" + "k" * 43


def _shown_to(own: str, asked: str) -> list[str]:
    """The credentials that a client of the server `own` shows at the address `asked`."""
    shown: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers.get("Authorization", ""))
        return httpx.Response(404, json={"detail": "nothing"})

    with httpx.Client(transport=httpx.MockTransport(answer), auth=KeyFor(API_KEY, own)) as http:
        http.get(asked)
    return shown


def test_api_key_is_shown_to_its_own_server_and_to_no_other() -> None:
    """A link may lead anywhere: whoever sends one must not get the reader's key."""
    own = "https://mayfly.example"
    assert _shown_to(own, f"{own}/guarded/x") == [f"Bearer {API_KEY}"]
    assert _shown_to(own, "https://mayfly.example:443/guarded/x") == [f"Bearer {API_KEY}"]
    for other in (
        "https://evil.example",
        "http://mayfly.example",
        "https://mayfly.example:8443",
        "https://mayfly.example.evil.example",
    ):
        assert _shown_to(own, f"{other}/guarded/x") == [""], other


@pytest.mark.parametrize(
    ("key", "server"),
    [
        (API_KEY, "http://mayfly.example"),
        (API_KEY + "\r\nX: y", "https://mayfly.example"),
        ("mayfly_short", "https://mayfly.example"),
        ("", "https://mayfly.example"),
    ],
)
def test_key_that_is_none_or_would_travel_in_the_clear_is_refused(key: str, server: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        KeyFor(key, server)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--audience", "role:support"], "need --vault guarded"),
        (["--policy", "missing.json"], "need --vault guarded"),
        (["--vault", "guarded", "--policy", "missing.json"], "not a JSON object"),
        (["--vault", "guarded", "--policy", "p", "--markdown"], "neither a file nor markdown"),
        (["--vault", "cellar"], "Invalid value"),
    ],
)
def test_audience_and_record_that_cannot_be_are_refused_before_anything_is_sent(options: list[str], why: str) -> None:
    done = _mayfly(None, "send", *options, given=b"[]")
    assert done.returncode == 2
    assert why in done.stderr.decode()


_LINK_PATH = "/message/00000000-0000-4000-8000-000000000000#4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"
_DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (200, "<h1>Welcome</h1>", "text/html"),
        (200, "{}", "application/json"),
        (200, "[]", "application/json"),
        (200, _DEEP, "application/json"),
        (200, '{"link": 1, "message": 1, "state": 1}', "application/json"),
        (200, '{"link": "http://x/message/a\\u001b", "receipt": "http://x/receipt/y"}', "application/json"),
        (404, "<h1>Not found</h1>", "text/html"),
        (403, "Forbidden", "text/plain"),
        (405, "{}", "application/json"),
        (500, "", "text/html"),
    ],
    ids=["page", "object", "list", "deep", "types", "odd link", "404", "403", "405", "500"],
)
def test_server_that_is_no_mayfly_is_told_in_a_sentence(status: int, body: str, content_type: str) -> None:
    with odd_server(lambda request: _answer(request, status, body, content_type)) as url:
        for arguments in (
            ("send", "--server", url),
            ("open", url + _LINK_PATH),
            ("status", f"{url}/receipt/x"),
            ("burn", f"{url}/receipt/x"),
        ):
            done = CliRunner().invoke(cli, arguments, input="x")
            assert done.exit_code == 5, done.output
            assert done.stdout == ""
            assert re.fullmatch(r"mayfly: [A-Z][^\n]*perhaps no Mayfly[^\n]*\n", done.stderr), done.stderr


def test_redirects_are_not_followed() -> None:
    """The link would be told to whoever the answer names."""
    seen: list[str] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.path)
        _answer(request, 307, "", Location="/elsewhere")

    with odd_server(handle) as url:
        for arguments in (("open", url + _LINK_PATH), ("send", "--server", url), ("status", f"{url}/receipt/x")):
            done = _mayfly(None, *arguments, given=b"x")
            assert done.returncode == 5
            assert b"redirects elsewhere (307), which is not followed" in done.stderr
    assert seen == [_LINK_PATH.split("#")[0], "/", "/receipt/x"]


def test_fragment_never_reaches_the_server(served: Served) -> None:
    """Neither on sending nor on opening, in no header and no body."""
    with cutting(served, b"-", 0) as proxy:
        link = _sent(served, b"x", "--server", f"http://127.0.0.1:{proxy.port}")
        assert _mayfly(served, "open", _through(proxy, link)).returncode == 0
    sent = b"".join(proxy.requests)
    assert len(proxy.requests) == 4
    assert link.split("#")[0].rpartition("/")[2].encode() in sent
    assert link.split("#")[1].encode() not in sent


def test_server_that_is_not_there_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        done = _mayfly(None, "open", f"http://127.0.0.1:{taken.getsockname()[1]}{_LINK_PATH}")
    assert done.returncode == 5
    assert done.stderr == b"mayfly: The server cannot be reached: is the address right, and is it running?\n"


def test_certificate_that_is_not_to_be_trusted_is_refused(tmp_path: Path) -> None:
    """Self-signed: nothing is sent. With SSL_CERT_FILE it is trusted."""
    openssl = require_program("openssl")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    seen: list[str] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.path)
        _answer(request, 200, json.dumps({"message": "hi", "format": "text"}), "application/json")

    with odd_server(handle, context) as url:
        done = _mayfly(None, "open", url + _LINK_PATH)
        assert done.returncode == 5
        assert (
            done.stderr == b"mayfly: The server's certificate is not to be trusted (self-signed certificate). Nothing was sent.\n"
        )
        assert seen == []
        trusting = client_environ() | {"SSL_CERT_FILE": str(certificate)}
        assert _mayfly(None, "open", url + _LINK_PATH, env=trusting).stdout == b"hi"
        plain = _mayfly(None, "open", url.replace("https", "http") + _LINK_PATH)
        assert plain.returncode == 5
    with odd_server(lambda request: None) as url:
        done = _mayfly(None, "open", url.replace("http", "https") + _LINK_PATH)
    assert done.returncode == 5
    assert b"does not speak TLS there" in done.stderr


def test_proxies_of_the_environment_are_used_or_refused() -> None:
    """As by other programs; one that cannot be used is told, and nothing goes past it."""
    seen: list[str] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.path)
        _answer(request, 200, json.dumps({"message": "hi", "format": "text"}), "application/json")

    with odd_server(handle) as url:
        environ = client_environ() | {"http_proxy": url, "no_proxy": ""}
        done = _mayfly(None, "open", "http://messages.example/message/x", env=environ)
    assert done.stdout == b"hi"
    assert seen == ["http://messages.example/message/x"]
    done = _mayfly(None, "open", "http://messages.example/message/x", env=client_environ() | {"http_proxy": "gopher://127.0.0.1"})
    assert done.returncode == 2
    assert b"The proxy that the environment names" in done.stderr


# What others can see


def test_no_secret_in_the_process_list(served: Served, tmp_path: Path) -> None:
    """While the client works, neither command line nor environment of any of its processes shows link, receipt or passphrase.

    Here it hangs in a request. An argument is seen by who looks in the first moments: docs/client.md says so.
    """
    asked = threading.Event()
    go_on = threading.Event()

    def handle(request: BaseHTTPRequestHandler) -> None:
        asked.set()
        go_on.wait(30)
        _answer(request, 404, "{}", "application/json")

    with odd_server(handle) as url:
        process = subprocess.Popen(
            [*MAYFLY, "open", url + _LINK_PATH], env=client_environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert asked.wait(30)
        seen = psutil.Process(process.pid)
        told = " ".join(seen.cmdline()), seen.name(), Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")
        go_on.set()
        process.wait(timeout=30)
    assert told[0].strip() == "mayfly"
    assert told[1] == "mayfly"
    for text in told:
        assert "00000000-0000-4000" not in text
        assert "4uQeVj5tqV" not in text


def test_no_option_takes_a_secret() -> None:
    for command in ("send", "open", "status", "burn"):
        told = _mayfly(None, command, "--help").stdout.decode()
        assert not re.search(r"--(passphrase|key|link|receipt|proof)[ =][A-Z]", told)


# What is written down, and what is installed


def test_exit_codes_are_those_of_the_document() -> None:
    """The table of docs/client.md and the first lines of the commands tell the same codes."""
    import mayfly.commands

    table = dict(re.findall(r"^\| `(\d)` \| (.+?) \|", (PROJECT / "docs" / "client.md").read_text(), re.MULTILINE))
    assert mayfly.commands.__doc__
    told = dict(re.findall(r"(\d) ([^,(.]+)", mayfly.commands.__doc__.split("Exit codes:")[1]))
    assert set(table) == set(told) == set("0123456")
    for code, words in told.items():
        assert words.split()[0] in table[code].lower(), (code, words, table[code])


def test_every_option_is_in_the_document() -> None:
    document = (PROJECT / "docs" / "client.md").read_text()
    for command in ("send", "open", "status", "burn"):
        told = _mayfly(None, command, "--help").stdout.decode()
        assert f"mayfly {command}" in document
        for option in re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", told, re.MULTILINE):
            assert option == "--help" or f"`{option}" in document, f"{command} {option}"
            assert re.search(rf"{option}[^\n]* {{2,}}\S|{option}[^\n]*\n {{10,}}\S", told), f"{command} {option} has no help"


def test_what_the_client_needs_is_what_the_tests_have() -> None:
    """Every dependency of client/pyproject.toml is locked for the tests."""
    project = tomllib.loads((PROJECT / "client" / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (PROJECT / "requirements-dev.txt").read_text(), re.MULTILINE))
    assert {re.match(r"[a-z]+", one)[0] for one in project["dependencies"]} <= locked  # type: ignore[index]


def _pip(*arguments: str) -> None:
    """Run pip; its build backend and packages come from the index, which a machine may not reach."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    require(done.returncode == 0, f"a package index that pip reaches ({done.stderr[-300:]})")


def test_wheel_holds_the_client_and_nothing_else(served: Served, tmp_path: Path) -> None:
    """Built as users build it, installed without the source, its command opens a message."""
    source = tmp_path / "client"
    shutil.copytree(PROJECT / "client", source, ignore=shutil.ignore_patterns("__pycache__"))
    _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path / "wheel"), str(source))
    (wheel,) = (tmp_path / "wheel").iterdir()
    _pip("install", "--quiet", "--no-deps", "--target", str(tmp_path / "installed"), str(wheel))
    tops = {path.name for path in (tmp_path / "installed").iterdir()}
    assert tops == {"mayfly", "bin", wheel.name.split("-py3")[0] + ".dist-info"}
    environ = client_environ(served) | {"PYTHONPATH": str(tmp_path / "installed")}
    command = str(tmp_path / "installed" / "bin" / "mayfly")
    sent = subprocess.run([command, "send"], input=b"from a wheel", env=environ, capture_output=True, cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    opened = subprocess.run([command, "open"], input=sent.stdout, env=environ, capture_output=True, cwd=tmp_path)
    assert opened.stdout == b"from a wheel"


@pytest.mark.long
def test_client_installs_into_an_environment_of_its_own(served: Served, tmp_path: Path) -> None:
    """With all its dependencies from the index, as `pipx install ./client` does it."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    command = [str(tmp_path / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", str(PROJECT / "client")]
    done = subprocess.run(command, capture_output=True, text=True)
    require(done.returncode == 0, f"a package index that pip reaches ({done.stderr[-300:]})")
    environ = {name: value for name, value in client_environ(served).items() if name != "PYTHONPATH"}
    mayfly = str(tmp_path / "venv" / "bin" / "mayfly")
    sent = subprocess.run([mayfly, "send"], input=b"installed", env=environ, capture_output=True, cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    assert (
        subprocess.run([mayfly, "open"], input=sent.stdout, env=environ, capture_output=True, cwd=tmp_path).stdout == b"installed"
    )
