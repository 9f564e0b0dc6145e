"""Three vaults: addresses and stores of their own, and only the open one opens to whoever holds the link."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from database import open_database
from errors import StartRefused
from settings import Settings
from storage.address import parse_address
from tests.serving import CreatedMessage, Served

GUARDED = ("guarded", "sealed")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each vault in a file of its own."""
    folder = tmp_path_factory.mktemp("vaults")
    with three_files(folder) as running:
        yield running


def three_files(folder: Path, **settings: str) -> Served:
    urls = {f"MAYFLY_{vault.upper()}_DATABASE_URL": f"sqlite:///{folder / vault}.db" for vault in GUARDED}
    return Served(folder, database="file", **{**urls, **settings})


def create(served: Served, vault: str, **fields: object) -> CreatedMessage:
    answer = served.http.post(f"/{vault}", json={"message": f"kept in {vault}", **fields})
    assert answer.status_code == 201, answer.text
    return CreatedMessage(**answer.json())


def rows(served: Served, vault: str) -> int:
    path = served.database_file if vault == "open" else served.folder / f"{vault}.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])


@pytest.mark.parametrize("vault", GUARDED)
def test_message_is_kept_in_the_store_of_its_vault_alone(served: Served, vault: str) -> None:
    before = {name: rows(served, name) for name in ("open", *GUARDED)}
    message = create(served, vault, views=1)
    assert message.path == f"/{vault}/{message.id}"
    assert message.receipt_path.startswith(f"/{vault}/receipt/")
    assert {name: rows(served, name) - count for name, count in before.items()} == {
        name: int(name == vault) for name in ("open", *GUARDED)
    }


@pytest.mark.parametrize("vault", GUARDED)
def test_opening_is_401_whether_there_is_a_message_or_not_and_uses_nothing_up(served: Served, vault: str) -> None:
    message = create(served, vault, views=1, passphrase="right")
    never = f"/{vault}/00000000-0000-4000-8000-000000000000"
    key = {"Idempotency-Key": "a-reader-that-has-the-link"}
    for path in (message.path, never, f"/{vault}/not-a-link"):
        for accept in ("text/plain", "application/json", "text/html"):
            answers = [
                served.http.get(path, headers={"Accept": accept}),
                served.http.post(path, headers={"Accept": accept, **key}),
                served.http.post(path, json={"passphrase": "right"}, headers={"Accept": accept}),
                served.http.post(path, data={"open": "yes"}, headers={"Accept": accept}),
                served.http.post(path, data={"open": "no"}, headers={"Accept": accept}),
                served.http.delete(path, headers={"Accept": accept, **key}),
                served.http.delete(path, headers={"Accept": accept}),
            ]
            assert {answer.status_code for answer in answers} == {401}
            # The page to sign in leads back to what was asked for, and says no more of it.
            assert len({answer.content.replace(path.encode(), b"") for answer in answers}) == 1
            assert {answer.headers["WWW-Authenticate"] for answer in answers} == {'Bearer realm="mayfly"'}
    assert served.http.get(message.receipt_path, headers={"Accept": "application/json"}).json()["views_left"] == 1


@pytest.mark.parametrize("vault", GUARDED)
def test_message_is_not_at_the_address_of_another_vault(served: Served, vault: str) -> None:
    message = create(served, vault)
    assert served.http.get(f"/message/{message.id}").status_code == 404
    receipt = message.receipt_path.removeprefix(f"/{vault}")
    assert served.http.get(receipt).status_code == 404


@pytest.mark.parametrize("vault", GUARDED)
def test_row_moved_into_the_open_vault_does_not_open_there(tmp_path: Path, vault: str) -> None:
    """Whoever can write the database must not be able to leave out the reader's account: keys are bound to the vault."""
    with three_files(tmp_path) as served:
        message = create(served, vault)
        served.stop()
        shutil.copy(tmp_path / f"{vault}.db", served.database_file)
        served.start()
        assert served.http.get(f"/message/{message.id}").status_code == 500


@pytest.mark.parametrize("vault", GUARDED)
def test_sender_follows_and_burns_by_the_receipt(served: Served, vault: str) -> None:
    message = create(served, vault, views=3)
    as_json = {"Accept": "application/json"}
    assert served.http.get(message.receipt_path, headers=as_json).json()["state"] == "waiting"
    assert served.http.delete(message.receipt_path, headers=as_json).json()["state"] == "burned"
    other = create(served, vault)
    assert served.http.post(other.receipt_path, data={"burn": "yes"}).status_code == 200


@pytest.mark.parametrize("vault", ("open", *GUARDED))
def test_admin_purges_and_takes_down_in_every_vault(tmp_path: Path, vault: str) -> None:
    with three_files(tmp_path) as served:
        path = "" if vault == "open" else vault
        token = {"Authorization": f"Bearer {served.admin_token}"}
        message = create(served, path)
        assert served.http.post("/delete", data={"link": message.link}, headers=token).json() == {"deleted": 1}
        assert served.http.post("/delete", data={"link": message.link}, headers=token).json() == {"deleted": 0}
        create(served, path, expires_in=60)
        served.clock.advance(60)
        assert served.purge() == 1
        assert served.purge() == 0


@pytest.mark.parametrize("vault", GUARDED)
def test_limits_and_body_guard_stand_before_every_vault(tmp_path: Path, vault: str) -> None:
    with three_files(tmp_path, MAYFLY_CREATE_RATE="3") as served:
        assert served.http.post(f"/{vault}", content=iter([b"chunked"])).status_code == 411
        assert served.http.post(f"/{vault}", json={"message": "x", "colour": "red"}).status_code == 400
        large = "x" * 100_000
        answers = [served.http.post(path, json={"message": large}).status_code for path in ("/", f"/{vault}", f"/{vault}")]
        assert answers == [201, 201, 429]


def test_vault_that_is_off_has_no_addresses(tmp_path: Path) -> None:
    with Served(tmp_path, MAYFLY_GUARDED_DATABASE_URL="off") as served:
        assert served.http.post("/guarded", json={"message": "x"}).status_code == 404
        assert served.http.get("/guarded/00000000-0000-4000-8000-000000000000").status_code == 404
        assert served.http.post("/sealed", json={"message": "x"}).status_code == 201
        assert served.http.get("/readyz").text == "open: ready\nsealed: ready\n"


@pytest.mark.parametrize(
    ("setting", "url", "why"),
    [
        ("MAYFLY_GUARDED_DATABASE_URL", "postgresql://mayfly@127.0.0.1/mayfly", "the guarded vault must be reached by TLS"),
        ("MAYFLY_GUARDED_DATABASE_URL", "valkey://127.0.0.1", "the guarded vault must be reached by TLS"),
        ("MAYFLY_SEALED_DATABASE_URL", "mysql://mayfly@127.0.0.1/mayfly", "the sealed vault must be reached by mutual TLS"),
        ("MAYFLY_SEALED_DATABASE_URL", "postgresql://a@db/m?tls_ca=/etc/passwd", "the sealed vault must be reached by mutual TLS"),
        ("MAYFLY_SEALED_DATABASE_URL", "mysql:///mayfly?socket=/etc/passwd", "the sealed vault must be reached by mutual TLS"),
        ("MAYFLY_DATABASE_URL", "postgresql://127.0.0.1", "after the host stands the name of a database"),
        ("MAYFLY_DATABASE_URL", "postgresql:///mayfly", "either a host or a socket"),
        ("MAYFLY_DATABASE_URL", "postgresql://a@db/m?sslmode=require", "after ? it takes"),
        ("MAYFLY_DATABASE_URL", "postgresql://a@db/m?tls_ca=/none/ca.pem", "tls_ca must be the absolute path of something"),
        ("MAYFLY_DATABASE_URL", "postgresql://a@db/m?tls_key=/etc/passwd", "go together"),
        ("MAYFLY_DATABASE_URL", "mysql://a@db:99999/m", "no number from 1 to 65535"),
        ("MAYFLY_DATABASE_URL", "valkey+cluster://db/1", "0 for a cluster"),
        ("MAYFLY_GUARDED_DATABASE_URL", "valkey:///0?socket=/tmp&tls_ca=/etc/passwd", "a socket takes no tls_"),
        (
            "MAYFLY_SEALED_DATABASE_URL",
            "mysql:///m?socket=/tmp&tls_ca=/etc/passwd&tls_certificate=/etc/passwd&tls_key=/etc/passwd",
            "a socket takes no tls_",
        ),
    ],
)
def test_connection_that_breaks_the_rule_of_its_vault_stops_the_start(tmp_path: Path, setting: str, url: str, why: str) -> None:
    """With one line that names the setting and the rule."""
    served = Served(tmp_path, **{setting: url})
    with pytest.raises(AssertionError):
        served.start()
    (line,) = served.log().splitlines()
    assert line.startswith(f"mayfly: {setting}: ")
    assert why in line


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:///{folder}/a.db", "sqlite:///{folder}/./here/a.db"),
        ("sqlite:///{folder}/a.db", "sqlite:///{folder}/link.db"),
        ("postgresql://a@Db/m", "postgresql://b:secret@db:5432/m?tls_ca=/etc/passwd"),
        ("mysql://a@db/m", "mariadb://b@db/m"),
        ("valkey://db", "redis+cluster://:x@db:6379/0?tls_ca=/etc/passwd"),
        ("postgresql:///m?socket={folder}", "postgresql:///m?socket={folder}/here"),
    ],
)
def test_two_vaults_do_not_share_a_database(tmp_path: Path, one: str, other: str) -> None:
    """By whatever user, and however it is written; the line names both settings."""
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    (tmp_path / "here").symlink_to(tmp_path)
    urls = [url.format(folder=tmp_path) for url in (one, other)]
    for first, second in (urls, reversed(urls)):
        with pytest.raises(StartRefused) as refused:
            open_database(Settings(database_url=first, guarded_database_url=second))
        line = "MAYFLY_DATABASE_URL: it is the same database as MAYFLY_GUARDED_DATABASE_URL, and each vault needs one of its own"
        assert str(refused.value) == line


def test_server_does_not_start_with_one_database_for_two_vaults(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one.db'}"
    served = Served(tmp_path, MAYFLY_GUARDED_DATABASE_URL=url, MAYFLY_SEALED_DATABASE_URL=url)
    with pytest.raises(AssertionError):
        served.start()
    assert served.log().startswith("mayfly: MAYFLY_GUARDED_DATABASE_URL: it is the same database as MAYFLY_SEALED_DATABASE_URL")


def test_databases_of_one_server_are_told_apart() -> None:
    numbers = Settings(database_url="valkey://127.0.0.1:1/1", guarded_database_url="valkey://127.0.0.1:1/2?tls_ca=/etc/passwd")
    open_database(numbers).close()


def test_password_of_a_database_stands_in_no_refusal(tmp_path: Path) -> None:
    served = Served(tmp_path, MAYFLY_DATABASE_URL="postgresql://mayfly:hunter2secret@127.0.0.1:1/m#x")
    with pytest.raises(AssertionError):
        served.start()
    assert "hunter2secret" not in served.log()


@pytest.mark.parametrize(
    "password",
    [
        "h2[s3cret]x",
        "h2[s3cret",
        "h2\uff0fs3cret",
        "2/s3cret",
        "2?s3cret",
        "2#s3cret",
        "h2/s3cret",
        "h2:s3cret/",
        "2/?socket=s3cret",
    ],
)
def test_refusal_of_a_url_shows_nothing_of_its_user_info(password: str) -> None:
    """Not even where a character that should be written as %… makes another part of it."""
    for rest in ("db/m", "127.0.0.1:5432/m", "db"):
        with pytest.raises(ValueError) as refused:
            parse_address(f"postgresql://somebody:{password}@{rest}")
        assert not set(re.findall(r"\w+", str(refused.value))) & {"somebody", "h2", "s3cret", "x"}
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__ or refused.value.__context__ is None
