"""The database file and the key file, without a link, open nothing; what was changed in the file is refused and not used up."""

from __future__ import annotations

import base64
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken

import crypto
import keyfile
from crypto import KeyRing, Locked
from errors import MayflyError
from records import Sealed
from tests.racing import Line, request
from tests.serving import CreatedMessage, Served

MESSAGES = 1000
CANARY = "what only the reader may know"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("stolen"), database="file") as running:
        yield running


@pytest.fixture(scope="module")
def messages(served: Served) -> list[CreatedMessage]:
    """A thousand messages, every tenth opened once by a reader with a lease, so that all tables have rows."""
    line, created = Line(served), []
    for number in range(MESSAGES):
        created.append(served.create(f"{CANARY} {number}", views=3))
        if number % 10 == 0:
            assert line.ask(request("POST", created[-1].path, Idempotency_Key="the-first-reader-of-three")).status == 200
    line.close()
    return created


@pytest.fixture(scope="module")
def loot(served: Served, messages: list[CreatedMessage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all files of the store and of the key file, taken while the server runs."""
    folder = tmp_path_factory.mktemp("loot")
    for path in served.folder.iterdir():
        shutil.copy(path, folder / path.name)
    return folder


def rows_of(loot: Path) -> list[dict[str, object]]:
    with closing(sqlite3.connect(loot / "mayfly.db")) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM messages JOIN bodies USING (n) LEFT JOIN claims USING (n)").fetchall()
    return [dict(row) for row in rows]


def candidates(row: dict[str, object]) -> Iterator[bytes]:
    """All that might be a link, 16 bytes: each piece of each column, numbers and times in each byte order, and the obvious."""
    yield from (bytes(16), b"\xff" * 16, uuid.UUID(int=0, version=4).bytes)
    for value in row.values():
        if isinstance(value, bytes):
            yield from (value[at : at + 16] for at in range(min(len(value), 96) - 15))
        elif isinstance(value, int):
            yield from (value.to_bytes(16, "big"), value.to_bytes(16, "little"), uuid.UUID(int=value, version=4).bytes)
        elif isinstance(value, str):
            yield value.encode()[:16].ljust(16, b"\0")


def opened(ring: KeyRing, link: bytes, sealed: Sealed) -> bool:
    try:
        return not isinstance(crypto.unseal(ring, link, sealed), Locked)
    except MayflyError:
        return False


def opened_by_key_alone(ring: KeyRing, sealed: Sealed) -> bool:
    """Each master key, and what is derived from it without a link, tried directly as the key of the token."""
    token = base64.urlsafe_b64encode(sealed[2 + sealed[1] :])
    for master in ring.masters.values():
        for key in (master.secret, master.verifier * 2, crypto._hkdf(master.secret, b"", crypto._MESSAGE_INFO["open"])):
            try:
                Fernet(base64.urlsafe_b64encode(key)).decrypt(token)
            except InvalidToken:
                continue
            return True
    return False


def test_thief_of_database_and_key_file_opens_none_of_a_thousand(loot: Path) -> None:
    ring = keyfile.read(loot / "key.json")
    rows = rows_of(loot)
    assert len({row["n"] for row in rows}) == MESSAGES
    stolen = 0
    for row in rows:
        sealed = Sealed(row["body"])  # type: ignore[arg-type]
        stolen += opened_by_key_alone(ring, sealed) or any(opened(ring, link, sealed) for link in candidates(row))
    assert stolen == 0


def test_links_open_all_of_the_thousand(loot: Path, messages: list[CreatedMessage]) -> None:
    """The same script with the links: it fails for want of them and for nothing else."""
    ring = keyfile.read(loot / "key.json")
    envelopes = {row["id"]: Sealed(row["body"]) for row in rows_of(loot)}  # type: ignore[arg-type]
    links = [uuid.UUID(message.id).bytes for message in messages]
    assert sum(opened(ring, link, envelopes[crypto.row_id(link)]) for link in links) == MESSAGES


def test_stolen_files_hold_no_link_receipt_or_word_of_a_message(loot: Path, messages: list[CreatedMessage]) -> None:
    """Nor in the log, which the thief has as well."""
    written = b"".join(path.read_bytes() for path in loot.iterdir())
    secrets = [CANARY.encode(), b"the-first-reader-of-three"]
    for message in messages:
        link, receipt = uuid.UUID(message.id), message.receipt.rsplit("/", 1)[1]
        secrets += [link.bytes, str(link).encode(), link.hex.encode(), receipt.encode(), base64.urlsafe_b64decode(receipt)[32:]]
    assert [secret for secret in secrets if secret in written] == []


def body_of(served: Served, message: CreatedMessage, new: bytes | None = None) -> bytes:
    """The stored envelope of a message; replaced by `new` if given."""
    row_id = crypto.row_id(uuid.UUID(message.id).bytes)
    with closing(sqlite3.connect(served.database_file, timeout=10)) as db, db:
        (n, body) = db.execute("SELECT n, body FROM messages JOIN bodies USING (n) WHERE id = ?", (row_id,)).fetchone()
        if new is not None:
            db.execute("UPDATE bodies SET body = ? WHERE n = ?", (new, n))
    return bytes(body)


def test_swapped_rows_are_refused_and_not_used_up(served: Served) -> None:
    first, second = served.create("first", views=1), served.create("second", views=1)
    bodies = body_of(served, first), body_of(served, second)
    body_of(served, first, bodies[1]), body_of(served, second, bodies[0])
    for message in (first, second):
        for _ in range(3):
            answer = served.http.post(message.path)
            assert answer.status_code == 500
            assert "first" not in answer.text
            assert "second" not in answer.text
    body_of(served, first, bodies[0]), body_of(served, second, bodies[1])
    assert served.http.post(first.path).text == "first"
    assert served.http.post(second.path).text == "second"


@pytest.mark.parametrize("passphrase", [None, "open sesame"])
def test_flipped_bits_are_refused_and_not_used_up(served: Served, passphrase: str | None) -> None:
    """One in each part of the envelope: version, key id, token, and the last byte; and cut, and empty. No try is used either."""
    fields = {"passphrase": passphrase} if passphrase else {}
    message = served.create("whole", views=1, **fields)
    body = body_of(served, message)
    damaged = [body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] for at in {*range(0, len(body), 7), 0, 1, len(body) - 1}]
    for changed in [*damaged, body[:-1], body[: len(body) // 2], body[:1], b"", body + b"\0"]:
        body_of(served, message, changed)
        answer = served.http.post(message.path, json=fields, headers={"Accept": "text/plain"})
        assert answer.status_code in (500, 503)
        assert "whole" not in answer.text
    body_of(served, message, body)
    assert served.http.post(message.path, json=fields, headers={"Accept": "text/plain"}).text == "whole"


def test_row_moved_to_another_link_is_refused(served: Served) -> None:
    """Whoever writes to the database cannot put a message of his under somebody's link, nor a read one back."""
    mine, yours = served.create("mine", views=1), served.create("yours", views=1)
    body_of(served, yours, body_of(served, mine))
    assert served.http.post(yours.path).status_code == 500


@pytest.mark.parametrize("same_name", [True, False], ids=["another key of that name", "a key of another name"])
def test_wrong_key_file_uses_nothing_up(tmp_path: Path, same_name: bool) -> None:
    with Served(tmp_path, database="file") as served:
        plain = served.create("needs its key", views=1)
        locked = served.create("needs its key", views=1, passphrase="right")
        right = served.key_file.read_text()
        served.stop()
        keyfile.create(tmp_path / "other.json")
        wrong = (tmp_path / "other.json").read_text()
        if same_name:
            names = [keyfile.read(path).current for path in (tmp_path / "other.json", served.key_file)]
            wrong = wrong.replace(*names)
        served.key_file.write_text(wrong)
        served.start()
        for _ in range(6):
            answer = served.http.post(plain.path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
            assert served.http.post(locked.path, json={"passphrase": "right"}).status_code == 503
        assert served.http.post("/", json={"message": "new"}).status_code == (503 if same_name else 201)
        served.stop()
        served.key_file.write_text(right)
        served.start()
        assert served.http.post(plain.path).text == "needs its key"
        assert served.http.post(locked.path, json={"passphrase": "right"}).json()["message"] == "needs its key"
