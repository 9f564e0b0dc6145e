"""Bounds: creates a minute per client, who a client is, the size of a message; at each, opening and purging go on."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests import raw
from tests.racing import Line
from tests.serving import Served, Server

RATE = 3
TEXT = ("Content-Type", "text/plain")


def create(served: Served, *headers: tuple[str, str], method: str = "POST", target: str = "/") -> raw.Response:
    (answer,) = raw.send(served, raw.request(method, target, [TEXT, *headers], b"hi"))
    return answer


def accepted(served: Served, header: str, values: list[str]) -> int:
    """How many creates are accepted of one for each value of a header."""
    statuses = [create(served, (header, value)).status for value in values]
    assert set(statuses) <= {201, 429}
    return statuses.count(201)


def one_client(count: int) -> bool:
    """Whether that many creates are what one client gets. A sliding window that moves on in between lets one more through."""
    return RATE <= count <= RATE + 1


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, MAYFLY_CREATE_RATE=str(RATE)) as running:
        yield running


@pytest.fixture(scope="module")
def behind_proxies(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Served]:
    """The test is the nearest proxy; others stand in 10.0.0.0/8 and 2001:db8:ffff::/48. Each test has clients of its own."""
    proxies = "127.0.0.1,10.0.0.0/8,2001:db8:ffff::/48"
    folder = tmp_path_factory.mktemp("proxied")
    with Served(folder, server, MAYFLY_CREATE_RATE=str(RATE), MAYFLY_TRUSTED_PROXIES=proxies) as running:
        yield running


# Creates a minute


def test_client_that_creates_too_often_is_told_to_wait_and_everything_else_goes_on(limited: Served) -> None:
    messages = []
    for _ in range(RATE):
        messages.append(limited.create("hello", views=1))
    answers = [limited.http.post("/", json={"message": "more"}) for _ in range(4)]
    assert answers[-1].status_code == 429
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    for message in messages:
        assert limited.http.get(message.path, headers={"Accept": "text/html"}).status_code == 200
        assert limited.http.post(message.path).text == "hello"
        assert limited.http.get(message.receipt_path).status_code == 200
        assert limited.http.delete(message.receipt_path).status_code == 200
    assert limited.http.get("/").status_code == 200
    assert limited.purge() == 0


def test_create_that_is_refused_counts_too(limited: Served) -> None:
    """What is not stored costs the server as much."""
    statuses = [limited.http.post("/", json={"message": ""}).status_code for _ in range(RATE + 2)]
    assert statuses[0] == 400
    assert statuses[-1] == 429


@pytest.mark.parametrize(
    ("method", "target"),
    [("post", "/"), ("Post", "/"), ("POST", "//"), ("POST", "///"), ("POST", "/?x=y"), ("POST", "http://localhost/")],
)
def test_no_spelling_of_a_create_goes_round_the_limit(limited: Served, method: str, target: str) -> None:
    statuses = [create(limited, method=method, target=target).status for _ in range(RATE + 5)]
    assert statuses.count(201) <= RATE + 1


def test_limit_of_zero_is_none(own_served: Served) -> None:
    assert own_served.settings["MAYFLY_CREATE_RATE"] == "0"
    assert accepted(own_served, "X-A", ["x"] * 200) == 200


# Who a client is


def test_no_header_makes_another_client_without_a_trusted_proxy(limited: Served) -> None:
    headers = [
        "X-Forwarded-For",
        "Forwarded",
        "X-Real-IP",
        "X_Forwarded_For",
        "Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Via",
    ]
    total = sum(accepted(limited, header, [f"198.51.100.{n}"]) for n, header in enumerate(headers * 2))
    assert one_client(total)


FORGEABLE = ["X_Forwarded_For", "X_FORWARDED_FOR", "X-Forwarded_For", "Forwarded", "X-Real-IP", "True-Client-IP", "X-Client-IP"]


@pytest.mark.parametrize("header", FORGEABLE)
def test_only_the_header_itself_names_the_client(behind_proxies: Served, header: str) -> None:
    """`X_Forwarded_For` is what WSGI cannot tell from `X-Forwarded-For`: proxies pass it on as the client wrote it."""
    true = ("X-Forwarded-For", f"203.0.113.{100 + FORGEABLE.index(header)}")
    for order in (1, -1):  # whichever comes last
        statuses = [create(behind_proxies, *[(header, f"198.51.100.{n}"), true][::order]).status for n in range(RATE + 2)]
        assert (one_client if order == 1 else (lambda count: count <= 1))(statuses.count(201))


def test_without_the_header_the_proxy_itself_is_the_client(behind_proxies: Served) -> None:
    """And where it names nobody. Then its clients share one limit, rather than having none."""
    forged = [(header, f"198.51.100.{n}") for n, header in enumerate(FORGEABLE * 2)]
    nonsense = [
        ("X-Forwarded-For", value)
        for value in ("unknown", "_hidden", "\xff", "\xfe, \xe9", "1.2.3", "x:1", ",", "", "999.1.1.1", "[::1")
    ]
    statuses = [create(behind_proxies, header).status for header in forged + nonsense]
    assert one_client(statuses.count(201))


def test_port_in_the_header_makes_no_other_client(behind_proxies: Served) -> None:
    """Some proxies write the port along, which each connection has another of."""
    assert one_client(accepted(behind_proxies, "X-Forwarded-For", [f"203.0.113.55:{port}" for port in range(40000, 40008)]))
    assert one_client(accepted(behind_proxies, "X-Forwarded-For", [f"[2001:db8:77::1]:{port}" for port in range(40000, 40008)]))


def test_clients_behind_a_trusted_proxy_are_told_apart(behind_proxies: Served) -> None:
    assert accepted(behind_proxies, "X-Forwarded-For", [f"198.51.100.{n}" for n in range(20)]) == 20


def test_clients_behind_a_unix_socket_are_told_apart_and_choose_no_path(tmp_path: Path) -> None:
    """Who may connect to it is a proxy, once any is trusted. gunicorn itself would believe more of what they hand on."""
    served = Served(tmp_path, "gunicorn", MAYFLY_CREATE_RATE=str(RATE), MAYFLY_TRUSTED_PROXIES="10.0.0.0/8")
    path = tmp_path / "socket"
    served.command = lambda: [*type(served).command(served), "--bind", f"unix:{path}", "--bind", f"127.0.0.1:{served.port}"]  # type: ignore[method-assign]
    with served, httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        for sent in (["198.51.100.1"] * 5, [f"203.0.113.9, 198.51.100.2, 10.0.0.{n}" for n in range(5)]):
            statuses = [client.post("/", json={"message": "hi"}, headers={"X-Forwarded-For": hops}).status_code for hops in sent]
            assert one_client(statuses.count(201))
        assert "Strict-Transport-Security" in client.get("/", headers={"X-Forwarded-Proto": "https"}).headers
        assert client.get("/x/healthz", headers={"SCRIPT_NAME": "/x"}).status_code == 404
        assert client.get("/healthz", headers={"SCRIPT_NAME": "/x"}).status_code == 200


def test_the_rightmost_address_that_is_no_proxy_is_the_client(behind_proxies: Served) -> None:
    """Whatever a client writes to the left of what the proxies add."""
    forged = [
        "203.0.113.9",
        "198.51.100.1, 203.0.113.9",
        "198.51.100.2, 198.51.100.3, 203.0.113.9",
        "10.0.0.9, 203.0.113.9",
        "127.0.0.1, 203.0.113.9, 10.0.0.1",
        "nonsense, 203.0.113.9, 10.0.0.1, 10.1.1.1",
        ", , 203.0.113.9, 2001:db8:ffff::1",
        "203.0.113.9,",
    ]
    assert one_client(accepted(behind_proxies, "X-Forwarded-For", forged))
    assert create(behind_proxies, ("X-Forwarded-For", "203.0.113.9, 198.51.100.77")).status == 201


def test_two_headers_are_read_as_one_list(behind_proxies: Served) -> None:
    """A proxy may add a line of its own below the client's."""
    statuses = [
        create(behind_proxies, ("X-Forwarded-For", f"198.51.100.{n}"), ("X-Forwarded-For", "203.0.113.10")).status
        for n in range(RATE + 5)
    ]
    assert one_client(statuses.count(201))


def test_network_of_64_bits_is_one_client_of_ipv6(behind_proxies: Served) -> None:
    same = [f"2001:db8:1:2:{n:x}::{n:x}" for n in range(1, RATE + 6)]
    assert one_client(accepted(behind_proxies, "X-Forwarded-For", same))
    other = [f"2001:db8:1:{n:x}::1" for n in range(16, 30)]
    assert accepted(behind_proxies, "X-Forwarded-For", other) == len(other)


def test_ipv4_client_on_an_ipv6_socket_is_the_same_client(behind_proxies: Served) -> None:
    """Written as ::ffff:a.b.c.d they all share 64 bits, and must not share the limit."""
    assert accepted(behind_proxies, "X-Forwarded-For", [f"::ffff:198.51.100.{n}" for n in range(1, 15)]) == 14
    assert one_client(accepted(behind_proxies, "X-Forwarded-For", ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"] * 3))


def test_proxy_that_is_not_named_speaks_for_nobody(tmp_path: Path, server: Server) -> None:
    """Others are trusted, the peer at hand is not: neither its addresses nor its scheme count."""
    with Served(tmp_path, server, MAYFLY_CREATE_RATE=str(RATE), MAYFLY_TRUSTED_PROXIES="10.0.0.1,192.0.2.0/24") as served:
        answers = [
            create(served, ("X-Forwarded-For", f"198.51.100.{n}, 10.0.0.1"), ("X-Forwarded-Proto", "https"))
            for n in range(RATE + 5)
        ]
        assert one_client([answer.status for answer in answers].count(201))
        assert answers[0].body.startswith(b"http://")
        assert all(answer.header("Strict-Transport-Security") is None for answer in answers)


# Sizes


@pytest.mark.parametrize("character", ["x", "é", "😀"])
def test_message_may_have_as_many_bytes_as_the_setting_says(tmp_path: Path, character: str) -> None:
    with Served(tmp_path, MAYFLY_MAX_MESSAGE_BYTES="2048") as served:
        fits = character * (2048 // len(character.encode()))
        for how in (
            {"json": {"message": fits}},
            {"data": {"message": fits}},
            {"content": fits.encode(), "headers": {"Content-Type": "text/plain"}},
        ):
            assert served.http.post("/", **how).status_code == 201
        over = fits + "x"
        for how in (
            {"json": {"message": over}},
            {"data": {"message": over}},
            {"content": over.encode(), "headers": {"Content-Type": "text/plain"}},
        ):
            answer = served.http.post("/", **how)
            assert answer.status_code == 413
            assert "2048" in answer.text


def test_escapes_do_not_count_as_message(tmp_path: Path) -> None:
    """JSON may write each byte as six; a form as three."""
    with Served(tmp_path, MAYFLY_MAX_MESSAGE_BYTES="100000") as served:
        headers = {"Content-Type": "application/json"}
        escaped = b'{"message":"' + b"\\u0061" * 100_000 + b'"}'
        answer = served.http.post("/", content=escaped, headers=headers)
        assert answer.status_code == 201
        assert served.http.get(answer.json()["link"]).text == "a" * 100_000


def test_announced_size_is_refused_before_the_body_is_sent(served: Served) -> None:
    """A client that only announces gets its answer at once."""
    (answer,) = raw.send(served, raw.request("POST", "/", [TEXT], length=6 * 1024 * 1024 + 64 * 1024 + 1), timeout=5)
    assert answer.status == 413


# Bodies in flight, which wait for nobody in gunicorn: a thread of it reads one body

BIG = 6 * 1024 * 1024


def announce(served: Served, host: str = "localhost") -> Line:
    """A connection on which a long body was announced, and begun."""
    line = Line(served, timeout=8)
    line.send(raw.request("POST", "/", [TEXT], host=host, length=BIG))
    with suppress(OSError):  # refused already
        line.send(b"x" * 1000)
    return line


def push(line: Line, most_bytes: int) -> None:
    """Send as much as the server takes."""
    line.socket.setblocking(False)
    try:
        while most_bytes > 0:
            most_bytes -= line.socket.send(b"x" * min(most_bytes, 65536))
            time.sleep(0)  # so that the server may read
    except OSError:
        pass


def resident_bytes(served: Served) -> int:
    return int(psutil.Process(served.pid).memory_info().rss)


def test_body_of_a_request_that_is_refused_by_its_head_is_not_awaited(own_served: Served) -> None:
    """Forty strangers who announce 6 MiB each get their answers, and no memory."""
    before = resident_bytes(own_served)
    lines = [announce(own_served, "evil.example") for _ in range(40)]
    assert {line.answer().status for line in lines} == {400}
    for line in lines:
        push(line, BIG - 10_000)
    assert resident_bytes(own_served) - before < 30 * 1024 * 1024
    for line in lines:
        line.close()


def test_bodies_in_flight_are_bounded_and_short_ones_go_on(own_served: Served) -> None:
    """Who comes with one more long body is told when to come again; when the others are gone, it is taken."""
    lines = [announce(own_served) for _ in range(30)]
    try:
        select.select([line.socket for line in lines], [], [], 8)
        message = own_served.create("short", views=1)
        assert own_served.http.post(message.path).text == "short"
        refused = [line for line in lines if select.select([line.socket], [], [], 0.2)[0]]
        assert 15 <= len(refused) < 30
        for line in refused:
            answer = line.answer()
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
        assert own_served.http.post("/", content=b"x" * 100_000, headers=dict([TEXT])).status_code in (201, 503)
    finally:
        for line in lines:
            line.close()
    deadline = time.monotonic() + 10
    while (status := own_served.http.post("/", content=b"x" * (1 << 20), headers=dict([TEXT])).status_code) == 503:
        assert time.monotonic() < deadline
    assert status == 201


# Signing in


def test_sign_in_limit_is_per_client(behind_proxies: Served) -> None:
    def sign_in(client: str, token: str) -> httpx.Response:
        return behind_proxies.http.post("/admin", data={"token": token}, headers={"X-Forwarded-For": client})

    statuses = [sign_in("203.0.113.1", "wrong").status_code for _ in range(14)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert sign_in("203.0.113.2", behind_proxies.admin_token).status_code == 303
