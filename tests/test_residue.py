"""After its end and a purge no piece of a message's envelope is left in the database file nor in the two files beside it."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from crypto import key_id_of, row_id
from records import Sealed
from tests.racing import Answer, Line, connections, opening, request
from tests.serving import CreatedMessage, Served

KEY = "the-reader-with-a-lease"
WINDOW = 16
SIZES = (30, 1000, 10 * 1024)
MULTI_PAGE = 1024 * 1024
ENDS = ("opened", "lease over", "confirmed", "burned", "expired", "locked", "taken down")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("residue"), database="file") as running:
        yield running


class NewLines:
    """Asks on a new connection each time: on a busy machine the search for residue outlasts an idle one."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def ask(self, data: bytes) -> Answer:
        with connections(self._served, 1) as (line,):
            return line.ask(data)


@pytest.fixture(scope="module")
def line(served: Served) -> NewLines:
    return NewLines(served)


def purge(served: Served) -> None:
    answer = as_admin(served, b"{}")
    assert answer.status == 200, answer


def as_admin(served: Served, body: bytes) -> Answer:
    """Each time from another address: one client may ask ten times a minute."""
    with connections(served, 1, f"127.2.{random.randrange(256)}.{random.randrange(1, 255)}") as (line,):
        return line.ask(
            request("POST", "/delete", body, Content_Type="application/json", Authorization=f"Bearer {served.admin_token}")
        )


def envelope_of(served: Served, message: CreatedMessage) -> bytes:
    """What the file holds of a message alone: without the key id and the time, which messages share."""
    db = sqlite3.connect(f"file:{served.database_file}?mode=ro", uri=True)
    try:
        (sealed,) = db.execute(
            "SELECT body FROM bodies JOIN messages USING (n) WHERE id = ?", (row_id(bytes.fromhex(message.id.replace("-", ""))),)
        ).fetchone()
    finally:
        db.close()
    version_and_time = 1 + 8
    return bytes(sealed[2 + len(key_id_of(Sealed(sealed))) + version_and_time :])


def files_of(database: Path) -> list[Path]:
    return [path for path in (database, Path(f"{database}-wal"), Path(f"{database}-shm")) if path.exists()]


def residue(database: Path, envelopes: list[bytes]) -> dict[str, int]:
    """How many windows of 16 bytes of the envelopes are left in each file."""
    windows = {envelope[at : at + WINDOW] for envelope in envelopes for at in range(len(envelope) - WINDOW + 1)}
    found = {}
    for path in files_of(database):
        written = re.split(rb"\x00{64,}", path.read_bytes())  # what was overwritten holds no piece of anything
        found[path.name] = sum(data[at : at + WINDOW] in windows for data in written for at in range(len(data) - WINDOW + 1))
    return found


def end(served: Served, line: Line | NewLines, message: CreatedMessage, how: str) -> None:
    """Bring a message to its end in one of the ways there are."""
    match how:
        case "opened":
            assert line.ask(opening(message)).status == 200
        case "lease over":
            assert line.ask(opening(message, KEY)).status == 200
        case "confirmed":
            assert line.ask(opening(message, KEY)).status == 200
            assert line.ask(request("DELETE", message.path, Idempotency_Key=KEY)).status == 204
        case "burned":
            assert line.ask(request("DELETE", message.receipt_path)).status == 200
        case "locked":
            guess = request("POST", message.path, b'{"passphrase":"wrong"}', Content_Type="application/json")
            assert [line.ask(guess).status for _ in range(5)] == [403] * 5
        case "taken down":
            assert as_admin(served, f'{{"link": "{message.link}"}}'.encode()).json() == {"deleted": 1}


@pytest.mark.parametrize(("how", "size"), [*product(ENDS, SIZES), ("opened", MULTI_PAGE), ("expired", MULTI_PAGE)])
def test_nothing_of_an_ended_message_is_left_after_the_purge(served: Served, line: NewLines, how: str, size: int) -> None:
    fields = {"passphrase": "right"} if how == "locked" else {}
    before, message, after = (served.create("x" * size, views=1, expires_in=60, **fields) for _ in range(3))
    envelope = envelope_of(served, message)
    assert sum(residue(served.database_file, [envelope]).values()) >= len(envelope) // 2, "the check must see what is there"
    end(served, line, message, how)
    if how == "lease over":
        served.clock.advance(30)
    if how == "expired":
        served.clock.advance(60)
    purge(served)
    assert not any(residue(served.database_file, [envelope]).values())
    for neighbour in (before, after):
        expected = 404 if how == "expired" else 403 if fields else 200
        assert line.ask(opening(neighbour)).status == expected


@pytest.mark.parametrize("seed", [3, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 4, 5, 6, 7, 8, 9))])
def test_nothing_is_left_where_messages_of_all_sizes_come_and_go(tmp_path: Path, seed: int) -> None:
    """Hundreds of messages share and shift pages of the tables; the ended ones are looked for among the living."""
    chance = random.Random(seed)
    living: list[CreatedMessage] = []
    gone: list[bytes] = []
    with Served(tmp_path, database="file") as served, connections(served, 1) as (line,):
        for _ in range(8):
            for _ in range(60):
                size = chance.choice((1, 60, 300, 700, 1200, 1900, 2500, 4000, 9000, 30_000))
                living.append(served.create(chance.randbytes(size // 2 + 1).hex(), views=1))
            chance.shuffle(living)
            for message in [living.pop() for _ in range(chance.choice((20, 50, len(living) - 5)))]:
                gone.append(envelope_of(served, message))
                end(served, line, message, chance.choice(("opened", "confirmed", "burned")))
            purge(served)
            assert not any(residue(served.database_file, gone).values())
        for message in living:
            assert line.ask(opening(message)).status == 200


def test_purge_by_itself_leaves_nothing_within_a_minute(tmp_path: Path) -> None:
    """With the purge that every server runs, without anybody asking for it; here each second."""
    with Served(tmp_path, database="file", MAYFLY_PURGE_SECONDS="1") as served, connections(served, 1) as (line,):
        messages = [served.create("x" * 3000, views=1) for _ in range(20)]
        envelopes = [envelope_of(served, message) for message in messages]
        for message, how in zip(messages, ENDS[:4] * 5, strict=True):
            end(served, line, message, how)
        served.clock.advance(30)
        for _ in range(600):
            if not any(residue(served.database_file, envelopes).values()):
                return
        raise AssertionError(residue(served.database_file, envelopes))
