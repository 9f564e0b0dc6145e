"""A connection that breaks does not lose the message: the same Idempotency-Key gets the same bytes, and nobody else gets any."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.racing import Answer, Line, opening, request
from tests.serving import CreatedMessage, Database, Served, Server

CONTENT = "only once, but all of it: " + "é" * 2000
KEY, OTHER_KEY = "the-reader-with-a-bad-line", "somebody-else-with-the-link"
FORMS = ("text/plain", "application/json", "text/html")


@pytest.fixture(scope="module")
def served(server: Server, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each server on each store."""
    with Served(tmp_path_factory.mktemp("dropped"), server, database) as running:
        yield running


def ask(served: Served, data: bytes) -> Answer:
    line = Line(served)
    try:
        return line.ask(data)
    finally:
        line.close()


def reset(line: Line) -> None:
    """Close without a goodbye, as a machine that lost its network: the other side gets a RST."""
    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


def cut_after_the_request(line: Line) -> None:
    """The server reads the request, and finds nobody to answer to."""
    line.socket.shutdown(socket.SHUT_RDWR)
    line.close()


def cut_within_the_headers(line: Line) -> None:
    assert line.socket.recv(40).startswith(b"HTTP/1.1 200 ")
    reset(line)


def cut_within_the_body(line: Line) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        received += line.socket.recv(100)
    reset(line)


def openings(served: Served, message: CreatedMessage) -> int:
    return len(served.http.get(message.receipt_path, headers={"Accept": "application/json"}).json()["opened"])


def opened_by_a_broken_request(served: Served, cut: Callable[[Line], None], accept: str) -> CreatedMessage:
    """A message whose only view was taken by a request whose connection broke.

    A server that sees the connection end before it serves the request may forget it. That uses nothing up, and is tried again.
    """
    for _ in range(20):
        message = served.create(CONTENT, views=1)
        line = Line(served)
        line.send(opening(message, KEY, accept))
        cut(line)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if openings(served, message):
                return message
        assert ask(served, opening(message)).body == CONTENT.encode()
    raise AssertionError("none of the broken requests took a view")


@pytest.mark.parametrize("accept", FORMS)
@pytest.mark.parametrize("cut", [cut_after_the_request, cut_within_the_headers, cut_within_the_body])
def test_reader_whose_connection_broke_gets_the_same_bytes_by_the_same_key(
    served: Served, cut: Callable[[Line], None], accept: str
) -> None:
    message = opened_by_a_broken_request(served, cut, accept)
    assert ask(served, opening(message, OTHER_KEY)).status == 404
    assert ask(served, opening(message)).status == 404
    second, third = ask(served, opening(message, KEY, accept)), ask(served, opening(message, KEY, accept))
    assert second.status == third.status == 200
    assert "é" * 2000 in second.body.decode()
    assert second.body == third.body
    assert openings(served, message) == 1


def test_request_that_broke_off_before_its_end_uses_nothing_up(served: Served) -> None:
    message = served.create(CONTENT, views=1)
    for end in (-1, -20):
        for close in (reset, cut_after_the_request):
            line = Line(served)
            line.send(opening(message, KEY, in_thread=True)[:end])
            close(line)
    assert ask(served, opening(message, OTHER_KEY)).body == CONTENT.encode()


def test_same_key_is_refused_after_the_lease(served: Served) -> None:
    message = served.create(CONTENT, views=1)
    assert ask(served, opening(message, KEY)).status == 200
    served.clock.advance(20)
    assert ask(served, opening(message, KEY)).body == CONTENT.encode()
    served.clock.advance(10)
    assert ask(served, opening(message, KEY)).status == 404
    assert ask(served, opening(message, OTHER_KEY)).status == 404


def test_lease_is_not_prolonged_by_its_use_nor_past_the_expiry(served: Served) -> None:
    message = served.create(CONTENT, views=1, expires_in=60)
    served.clock.advance(45)
    for _ in range(2):
        assert ask(served, opening(message, KEY)).status == 200
        served.clock.advance(7)
    served.clock.advance(1)
    assert ask(served, opening(message, KEY)).status == 404


def test_confirmed_message_is_gone_for_its_own_reader(served: Served) -> None:
    message = served.create(CONTENT, views=1)
    confirm, stranger = (request("DELETE", message.path, Idempotency_Key=key) for key in (KEY, OTHER_KEY))
    assert ask(served, confirm).status == 404
    assert ask(served, opening(message, KEY)).status == 200
    assert ask(served, stranger).status == 404
    assert ask(served, opening(message, KEY)).status == 200
    assert ask(served, confirm).status == 204
    assert ask(served, opening(message, KEY)).status == 404
    assert ask(served, confirm).status == 404


def test_key_of_one_message_leases_nothing_of_another(served: Served) -> None:
    first, second = served.create("first", views=1), served.create("second", views=1)
    assert ask(served, opening(first, KEY)).body == b"first"
    assert ask(served, opening(second, OTHER_KEY)).body == b"second"
    assert ask(served, opening(second, KEY)).status == 404
