"""Two nodes of four workers each on one store: together they hand a message out exactly as often as it may be, and lose none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from tests.racing import Line, connections, deliveries, opening, race, race_for_each, request
from tests.serving import Database, Served, Server
from tests.stores import SHARED_STORES

JSON = "application/json"


@pytest.fixture(scope="module", params=SHARED_STORES)
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Served]]:
    with two_nodes(tmp_path_factory, request.param) as served:
        yield served


@contextmanager
def two_nodes(
    tmp_path_factory: pytest.TempPathFactory, database: Database, server: Server = "gunicorn", workers: int = 4
) -> Iterator[Sequence[Served]]:
    folder = tmp_path_factory.mktemp("nodes")
    with Served(folder, server, database, workers) as first, first.node(folder / "second") as second:
        yield first, second


@contextmanager
def lines_to(nodes: Sequence[Served], each: int) -> Iterator[list[Line]]:
    """Connections to every node, taking turns."""
    with ExitStack() as stack:
        of_each = [stack.enter_context(connections(node, each)) for node in nodes]
        yield [line for turn in zip(*of_each, strict=True) for line in turn]


def sizes(full: int) -> list[object]:
    """A part in every run, the full number behind the mark `long`."""
    return [full // 25, pytest.param(full, marks=pytest.mark.long)]


@pytest.mark.parametrize("messages", sizes(1000))
def test_one_time_message_is_delivered_to_exactly_one_of_16_readers_on_two_nodes(nodes: Sequence[Served], messages: int) -> None:
    assert race_for_each(nodes, messages, readers=16) == [1] * messages


@pytest.mark.parametrize("messages", sizes(200))
def test_five_views_are_delivered_to_exactly_five_of_32_readers_on_two_nodes(nodes: Sequence[Served], messages: int) -> None:
    assert race_for_each(nodes, messages, readers=32, views=5) == [5] * messages


@pytest.mark.parametrize("rounds", sizes(200))
def test_one_key_on_two_nodes_takes_one_view_and_gets_one_answer(nodes: Sequence[Served], rounds: int) -> None:
    with lines_to(nodes, 4) as lines:
        for _ in range(rounds):
            message = nodes[0].create("once for this reader", views=2)
            answers = race(lines, [opening(message, "the-same-reader-on-both", JSON)] * 8)
            assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
            assert answers[0].json()["views_left"] == 1


@pytest.mark.parametrize("rounds", sizes(200))
def test_burn_on_one_node_and_opening_on_the_other_never_both_win(nodes: Sequence[Served], rounds: int) -> None:
    with lines_to(nodes, 3) as lines:
        for number in range(rounds):
            message = nodes[number % 2].create("read or burned", views=1)
            requests = [opening(message) for _ in lines]
            requests[number % 6] = request("DELETE", message.receipt_path, Accept=JSON)
            answers = race(lines, requests)
            state = answers.pop(number % 6).json()["state"]
            assert (deliveries(answers, "read or burned"), state) in ((1, "opened"), (0, "burned"))


def test_passphrase_guesses_on_two_nodes_share_the_five_tries(nodes: Sequence[Served]) -> None:
    message = nodes[0].create("guess", views=1, passphrase="the right one")
    wrong = [nodes[number % 2].http.post(message.path, json={"passphrase": f"wrong {number}"}) for number in range(5)]
    assert [answer.json()["tries_left"] for answer in wrong] == [4, 3, 2, 1, 0]
    assert {node.http.post(message.path, json={"passphrase": "the right one"}).status_code for node in nodes} == {404}


def test_what_expired_is_refused_by_every_node_and_purged_once(nodes: Sequence[Served]) -> None:
    messages = [nodes[number % 2].create("expires", expires_in=60) for number in range(20)]
    nodes[0].clock.advance(60)
    assert {node.http.get(message.path).status_code for node in nodes for message in messages} == {404}
    assert nodes[0].purge() + nodes[1].purge() >= 20  # and what other tests of this store left
    assert [node.purge() for node in nodes] == [0, 0]


def test_message_survives_the_end_of_the_node_that_took_it(
    nodes: Sequence[Served], tmp_path_factory: pytest.TempPathFactory
) -> None:
    third = nodes[0].node(tmp_path_factory.mktemp("node") / "third")
    with third:
        message = third.create("handed over", views=1)
        third.kill()
    assert nodes[1].http.post(message.path).text == "handed over"
