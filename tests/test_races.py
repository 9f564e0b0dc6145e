"""However many readers come at the same moment: never more deliveries than allowed, and exactly as many as the receipt says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.racing import Line, connections, deliveries, opening, race, race_for_each, request
from tests.serving import CreatedMessage, Served

ON_SQLITE = (
    ("granian", "memory", 1),
    ("granian", "file", 1),
    ("gunicorn", "memory", 1),
    ("gunicorn", "file", 1),
    ("gunicorn", "file", 2),
)
COMBINATIONS = (
    *ON_SQLITE,
    ("granian", "postgresql", 1),
    ("gunicorn", "postgresql", 4),
    ("granian", "mariadb", 1),
    ("granian", "valkey", 1),
    ("gunicorn", "valkey-cluster", 4),
)
JSON = "application/json"


@pytest.fixture(scope="module", params=COMBINATIONS, ids=lambda combination: "-".join(map(str, combination)))
def racing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each server on each store, and several processes on those that can be shared."""
    server, database, workers = request.param
    with Served(tmp_path_factory.mktemp("racing"), server, database, workers) as served:
        yield served


def sizes(full: int) -> list[object]:
    """A tenth in every run, the full number behind the mark `long`."""
    return [full // 10, pytest.param(full, marks=pytest.mark.long)]


@pytest.mark.parametrize("messages", sizes(500))
def test_one_time_message_is_delivered_to_exactly_one_of_16_readers(racing: Served, messages: int) -> None:
    assert race_for_each([racing], messages, readers=16) == [1] * messages


@pytest.mark.parametrize("messages", sizes(100))
def test_five_views_are_delivered_to_exactly_five_of_64_readers(racing: Served, messages: int) -> None:
    assert race_for_each([racing], messages, readers=64, views=5) == [5] * messages


@pytest.mark.parametrize("rounds", sizes(200))
def test_readers_with_keys_of_their_own_get_a_lease_each_and_no_more_than_the_views(racing: Served, rounds: int) -> None:
    """Each winner gets the same bytes again, each loser 404 again, however they are mixed."""
    keys = [f"reader-{number:016}" for number in range(12)]
    with connections(racing, len(keys)) as lines:
        for _ in range(rounds):
            message = racing.create("three may have this", views=3)
            requests = [opening(message, key, JSON) for key in keys]
            first = race(lines, requests)
            assert sorted(answer.json()["views_left"] for answer in first if answer.status == 200) == [0, 1, 2]
            again = race(lines, requests)
            assert [(a.status, a.body) for a in again] == [(a.status, a.body) for a in first]
            assert len(opened_times(racing, message)) == 3


@pytest.mark.parametrize("rounds", sizes(200))
def test_one_key_sent_16_times_at_once_takes_one_view_and_gets_one_answer(racing: Served, rounds: int) -> None:
    with connections(racing, 16) as lines:
        for _ in range(rounds):
            message = racing.create("once for this reader", views=2)
            answers = race(lines, [opening(message, "the-same-reader-16-times", JSON)] * 16)
            assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
            assert answers[0].json()["views_left"] == 1
            assert len(opened_times(racing, message)) == 1


@pytest.mark.parametrize("rounds", sizes(300))
def test_message_raced_by_a_burn_is_delivered_or_burned_unread_but_never_both(racing: Served, rounds: int) -> None:
    with connections(racing, 8) as lines:
        for number in range(rounds):
            message = racing.create("read or burned", views=1 + number % 3)
            burn = request("DELETE", message.receipt_path, Accept=JSON)
            requests = [opening(message, in_thread=bool(reader % 2)) for reader in range(8)]
            requests[number % 8] = burn
            answers = race(lines, requests)
            receipt = answers.pop(number % 8).json()
            delivered = deliveries(answers, "read or burned")
            assert len(opened_times(racing, message)) == delivered <= message.views
            state = racing.http.get(message.receipt_path, headers={"Accept": JSON}).json()["state"]
            assert state == receipt["state"] == ("opened" if delivered == message.views else "burned")
            assert racing.http.post(message.path).status_code == 404


@pytest.mark.parametrize("rounds", sizes(200))
def test_message_raced_by_its_expiry_is_delivered_before_it_and_never_after(racing: Served, rounds: int) -> None:
    """The clock moves to `expires_at` between the last bytes of two readers: whoever ends his request later gets nothing."""
    for number in range(rounds):
        in_time = number % 9
        message = racing.create("read or expired", views=100, expires_in=60)
        with connections(racing, 8) as lines:
            for line in lines:
                line.send(opening(message)[:-1])
            for line in lines[:in_time]:
                line.send(b"\n")
            racing.clock.advance(60)
            for line in lines[in_time:]:
                line.send(b"\n")
            answers = [line.answer() for line in lines]
        assert deliveries(answers[in_time:], "") == 0
        delivered = deliveries(answers, "read or expired")
        receipt = racing.http.get(message.receipt_path, headers={"Accept": JSON}).json()
        assert len(receipt["opened"]) == delivered
        assert receipt["state"] == ("opened" if delivered else "expired")


@pytest.mark.parametrize("rounds", sizes(200))
def test_purge_takes_nothing_from_a_live_lease_and_leaves_nothing_after_it(racing: Served, rounds: int) -> None:
    token = {"Authorization": f"Bearer {racing.admin_token}"}
    purge = request("POST", "/delete", **token)
    with connections(racing, 6) as lines:
        for number in range(rounds):
            message = racing.create("leased", views=1)
            expired = racing.create("expired", views=1, expires_in=60)
            purger = Line(racing, f"127.1.{number // 250}.{1 + number % 250}")  # ten purges a minute for each client
            readers = [opening(message, f"reader-{reader:016}") for reader in range(6)]
            answers = race([*lines, purger], [*readers, purge])
            assert answers.pop().status == 200
            assert deliveries(answers, "leased") == 1
            winner = next(reader for reader, answer in enumerate(answers) if answer.status == 200)

            racing.clock.advance(20)
            answers = race([*lines, purger], [*[readers[winner]] * 3, *[readers[winner - 1]] * 3, purge])
            assert [answer.status for answer in answers] == [200] * 3 + [404] * 3 + [200]

            racing.clock.advance(40)
            answers = race([*lines, purger], [*[readers[winner]] * 3, *[opening(expired, "late-reader-000000")] * 3, purge])
            assert [answer.status for answer in answers] == [404] * 6 + [200]
            assert answers[-1].json() == {"deleted": 2}
            purger.close()


@pytest.mark.parametrize("rounds", sizes(200))
def test_confirm_raced_by_its_own_retries_ends_the_lease_for_all(racing: Served, rounds: int) -> None:
    with connections(racing, 9) as lines:
        for _ in range(rounds):
            message = racing.create("got it", views=1)
            mine, other = opening(message, "the-reader-that-has-it"), opening(message, "somebody-else-entirely")
            assert lines[0].ask(mine).body == b"got it"
            confirm = request("DELETE", message.path, Idempotency_Key="the-reader-that-has-it")
            answers = race(lines, [*[mine] * 4, confirm, *[other] * 4])
            assert answers.pop(4).status == 204
            deliveries(answers[:4], "got it")
            assert deliveries(answers[4:], "") == 0
            assert deliveries(race(lines, [mine, other, mine, other, mine, other, mine, other, mine]), "") == 0


def test_of_64_passphrase_guesses_at_once_at_most_five_are_checked(racing: Served) -> None:
    message = racing.create("guess", views=1, passphrase="the right one")

    def guess(passphrase: str) -> bytes:
        return request("POST", message.path, b'{"passphrase": "%s"}' % passphrase.encode(), Content_Type=JSON)

    with connections(racing, 64) as lines:
        answers = race(lines, [guess(f"wrong {number}") for number in range(64)])
        while len(answers) < 200 and answers[-1].status != 404:
            with connections(racing, 1) as (line,):
                answers.append(line.ask(guess("wrong again")))
    assert {answer.status for answer in answers} <= {403, 404, 429, 503}
    wrong = [answer.json()["tries_left"] for answer in answers if answer.status == 403]
    assert sorted(wrong) == [0, 1, 2, 3, 4]
    with connections(racing, 1) as (line,):
        assert line.ask(guess("the right one")).status == 404
    assert racing.http.get(message.receipt_path, headers={"Accept": JSON}).json()["state"] == "locked"


class SelectThenDelete(Served):
    """The server whose claim is not atomic."""

    def command(self) -> list[str]:
        if self.server == "granian":
            return [sys.executable, "-m", "tests.select_then_delete"]
        return [sys.executable, "-m", "gunicorn", "--workers", str(self.workers), "tests.select_then_delete:app()"]


@pytest.mark.parametrize("combination", ON_SQLITE, ids=lambda combination: "-".join(map(str, combination)))
def test_races_find_a_claim_that_selects_and_then_deletes(tmp_path: Path, combination: tuple[str, str, int]) -> None:
    server, database, workers = combination
    with SelectThenDelete(tmp_path, server, database, workers) as served:  # type: ignore[arg-type]
        assert max(race_for_each([served], messages=50, readers=16)) > 1


def opened_times(served: Served, message: CreatedMessage) -> list[str]:
    """The times of opening that the receipt lists."""
    opened = served.http.get(message.receipt_path, headers={"Accept": JSON}).json()["opened"]
    assert isinstance(opened, list)
    return opened
