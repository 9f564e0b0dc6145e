"""End-to-end encrypted documents on the server: it gives them to the holder of the proof, and cannot read them itself.

Documents made by the client's own envelope where their inside matters; elsewhere a random proof does, as the server cannot tell.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

import crypto
import keyfile
import messages
from crypto import KeyRing, Locked
from errors import BodyTooLarge, KeyMissing, NotFound, ProofRequired, TriesInUse
from keyfile import KeyFile
from mayfly import envelope
from messages import Vault
from messages.purging import purge
from records import Created, Draft, Millis, RowId, Sealed
from storage.sqlite import SqliteStore
from tests.racing import Answer, connections, race, request
from tests.requirements import require
from tests.serving import CreatedMessage, Served, Server

JSON, TEXT, HTML = ({"Accept": accept} for accept in ("application/json", "text/plain", "text/html,*/*;q=0.8"))
EVERY_KIND = (JSON, TEXT, HTML, {})
KEY = {"Idempotency-Key": "k" * 16}
ADATA = [["aXYgb2YgMTYgYnl0ZXM=", "c2FsdHNhbHQ=", 100_000, 256, 128, "aes", "gcm", "zlib"], "plaintext", 0, 0]
ROUNDS = 600_000  # OWASP's figure for PBKDF2-SHA256, as the design has it


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One whose rows can be looked at."""
    with Served(tmp_path_factory.mktemp("documents"), database="file", MAYFLY_LOG_LEVEL="debug") as running:
        yield running


def new_proof() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()


def new_document() -> dict[str, Any]:
    return {"v": 2, "adata": ADATA, "ct": base64.b64encode(os.urandom(60)).decode()}


@dataclass(frozen=True)
class Sent:
    """A document on a server, and what opens it."""

    message: CreatedMessage
    document: dict[str, Any]
    proof: str

    @property
    def path(self) -> str:
        return self.message.path


def send(served: Served, document: dict[str, Any] | None = None, proof: str | None = None, **fields: Any) -> Sent:
    document, proof = document or new_document(), proof or new_proof()
    answer = served.http.post("/", json={"document": document, "proof": proof, **fields})
    assert answer.status_code == 201, answer.text
    return Sent(CreatedMessage(**answer.json()), document, proof)


def open_(served: Served, sent: Sent, proof: str | None = None, headers: dict[str, str] = JSON) -> httpx.Response:
    """Open with the right proof, or another."""
    return served.http.post(sent.path, json={"proof": proof or sent.proof}, headers=headers)


def stored(served: Served) -> int:
    """The number of rows."""
    with closing(sqlite3.connect(served.database_file)) as db:
        return int(db.execute("SELECT count(*) FROM messages").fetchone()[0])


def receipt(served: Served, sent: Sent) -> dict[str, Any]:
    return dict(served.http.get(sent.message.receipt_path, headers=JSON).json())


# Going in and coming out


@pytest.mark.parametrize("accept", EVERY_KIND, ids=["json", "text", "html", "any"])
def test_document_comes_out_as_it_went_in_and_opens_for_the_reader(served: Served, accept: dict[str, str]) -> None:
    """In JSON, whatever the reader accepts: only a program can make anything of it."""
    key = envelope.new_key()
    document = envelope.encrypt(envelope.Plain("Grüße, 世界"), key)
    sent = send(served, document, envelope.proof_of(key, None), views=2)
    assert sent.message.encryption == "end-to-end"
    answer = open_(served, sent, headers=accept)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"document": document, "expires_at": sent.message.expires_at, "views_left": 1}
    assert envelope.decrypt(answer.json()["document"], key, None, 1000).text == "Grüße, 世界"
    assert open_(served, sent, headers=accept).json()["views_left"] == 0
    assert open_(served, sent, headers=accept).status_code == 404
    assert receipt(served, sent)["state"] == "opened"


def test_document_without_a_view_limit_opens_any_number_of_times(served: Served) -> None:
    sent = send(served)
    assert [open_(served, sent).json()["views_left"] for _ in range(3)] == [None] * 3


def test_form_with_tick_and_proof_opens(served: Served) -> None:
    """What `curl -d` sends."""
    sent = send(served, views=1)
    assert served.http.post(sent.path, data={"open": "yes", "proof": sent.proof}).json()["document"] == sent.document


@pytest.mark.parametrize(
    "inside",
    [
        b"1e999", b"-1e999", b"NaN", b"Infinity", b"1.0", b"9007199254740992", b"1" * 5000, b"null", b'{"a":1,"a":1}',
        b'"\\ud800"', b"[" * 16 + b"]" * 16, b"[" * 200_000 + b"]" * 200_000, b"\xff", b"",
    ],
    ids=lambda inside: ascii(inside)[:30],
)  # fmt: skip
def test_odd_json_in_a_document_is_refused_and_nothing_is_stored(served: Served, inside: bytes) -> None:
    """Bad input is 400, never 500, and never something that comes out as what is no JSON."""
    body = b'{"document":{"v":2,"adata":[[%b]],"ct":"AAAA"},"proof":"%b"}' % (inside, new_proof().encode())
    before = stored(served)
    for accept in EVERY_KIND:
        answer = served.http.post("/", content=body, headers={"Content-Type": "application/json", **accept})
        assert answer.status_code == (201 if inside == b"" else 400)
    assert stored(served) == before + (len(EVERY_KIND) if inside == b"" else 0)


def test_longest_document_is_two_message_limits_of_bytes(vault: Vault) -> None:
    """Bytes, not characters: what is authenticated may hold any."""
    for filling in ("a", "é", "世", "😀"):
        frame = len(json.dumps({"v": 2, "adata": [""], "ct": "AAAA"}, separators=(",", ":")))
        size = len(filling.encode())
        text = filling * ((2 * 64 * 1024 - frame) // size)
        text += "a" * (2 * 64 * 1024 - frame - len(text.encode()))
        for extra, fits in (("", True), ("a", False)):
            document = json.dumps({"v": 2, "adata": [text + extra], "ct": "AAAA"}, ensure_ascii=False, separators=(",", ":"))
            before = vault.counts().stored
            if fits:
                assert vault.create(Draft(document=document, proof=new_proof()))
            else:
                with pytest.raises(BodyTooLarge):
                    vault.create(Draft(document=document, proof=new_proof()))
            assert vault.counts().stored == before + fits


# Without the proof


BODIES: tuple[dict[str, Any], ...] = (
    {},
    {"json": {}},
    {"json": {"proof": ""}},
    {"json": {"proof": None}},
    {"json": {"passphrase": "guess"}},
    {"data": {"open": "yes"}},
    {"data": {"open": "yes", "proof": ""}},
    {"data": {"open": "yes", "passphrase": "guess", "idempotency_key": "k" * 16}},
    {"files": {"open": (None, "yes")}},
)


@pytest.mark.parametrize("needs_passphrase", [False, True])
@pytest.mark.parametrize("views", [1, None])
def test_path_from_a_log_never_opens_and_uses_nothing_up(served: Served, views: int | None, needs_passphrase: bool) -> None:
    """However it is asked for: no view, no try, no lease."""
    sent = send(served, views=views, needs_passphrase=needs_passphrase)
    for body, accept, key in product(BODIES, EVERY_KIND, ({}, KEY)):
        if key and "idempotency_key" in body.get("data", {}):
            continue
        answer = served.http.post(sent.path, headers={**accept, **key}, **body)
        assert answer.status_code == 403, (body, accept, answer.text)
        assert sent.document["ct"] not in answer.text
        if accept in (JSON, TEXT):
            assert "Nothing was used up" in answer.text
    assert served.http.delete(sent.path, headers=KEY).status_code == 404, "no lease was given"
    assert receipt(served, sent)["state"] == "waiting"
    assert tries_free(served, sent) == (5 if needs_passphrase else None)
    assert open_(served, sent).json()["document"] == sent.document


def tries_free(served: Served, sent: Sent) -> int | None:
    with closing(sqlite3.connect(served.database_file)) as db:
        (tries,) = db.execute("SELECT tries_free FROM messages WHERE id = ?", (row_of(sent),)).fetchone()
        return None if tries is None else int(tries)


def row_of(sent: Sent) -> RowId:
    return crypto.row_id(uuid.UUID(sent.message.id).bytes)


def test_wrong_proofs_cost_nothing_where_there_is_no_passphrase_to_guess(served: Served) -> None:
    """A wrong fragment: the key is 256 random bits, nobody guesses it, and everybody may mistype it."""
    sent = send(served, views=1)
    for number in range(100):
        answer = open_(served, sent, new_proof(), {**EVERY_KIND[number % 4], **(KEY if number % 2 else {})})
        assert answer.status_code == 403
        assert "tries_left" not in answer.text
        assert sent.document["ct"] not in answer.text
    assert open_(served, sent).json() == {
        "document": sent.document, "expires_at": sent.message.expires_at, "views_left": 0,
    }  # fmt: skip


def test_wrong_proofs_cost_a_try_each_where_there_is_a_passphrase_and_the_fifth_destroys(served: Served) -> None:
    sent, kept = send(served, views=1, needs_passphrase=True), send(served, views=1, needs_passphrase=True)
    for left in (4, 3, 2, 1, 0):
        answer = open_(served, sent, new_proof())
        assert (answer.status_code, answer.json()["tries_left"]) == (403, left)
        if left:
            assert served.http.post(sent.path, headers=JSON).status_code == 403, "no proof costs no try"
            assert open_(served, kept, new_proof()).json()["tries_left"] == left
    assert open_(served, sent).status_code == 404
    assert receipt(served, sent)["state"] == "locked"
    assert open_(served, kept).json()["document"] == kept.document, "after four wrong ones the right one opens"
    assert receipt(served, kept)["state"] == "opened"


def test_right_proofs_give_their_try_back(served: Served) -> None:
    sent = send(served, views=100, needs_passphrase=True)
    assert [open_(served, sent).status_code for _ in range(12)] == [200] * 12
    assert tries_free(served, sent) == 5


@pytest.mark.parametrize("proof", ["x", "x" * 42, "x" * 44, "x" * 42 + "=", "é" * 43, "x" * 60_000, ["x" * 43], {"x": 1}, 7])
@pytest.mark.parametrize("needs_passphrase", [False, True])
def test_malformed_proof_is_refused_and_costs_nothing(served: Served, proof: Any, needs_passphrase: bool) -> None:
    sent = send(served, views=1, needs_passphrase=needs_passphrase)
    for _ in range(6):
        answer = served.http.post(sent.path, json={"proof": proof}, headers=JSON)
        assert (answer.status_code, answer.json()["field"]) == (400, "proof")
    assert open_(served, sent).status_code == 200


def test_proof_of_one_document_opens_no_other(served: Served) -> None:
    first, second = send(served, views=1), send(served, views=1)
    assert open_(served, second, first.proof).status_code == 403
    assert open_(served, second).status_code == 200
    assert open_(served, first).status_code == 200


def test_link_without_a_message_answers_alike_whatever_proof_comes_along(served: Served) -> None:
    spent = send(served, views=1)
    assert open_(served, spent).status_code == 200
    bodies: list[dict[str, Any]] = [{}, {"json": {"proof": spent.proof}}, {"json": {"proof": new_proof()}}]
    for accept in EVERY_KIND:
        answers = [
            served.http.post(path, headers={"Accept": "text/plain", **accept}, **body)
            for path, body in product((spent.path, f"/message/{uuid.uuid4()}"), bodies)
        ]
        told = {(a.status_code, a.text.replace(a.request.url.path, ""), a.headers["Content-Type"]) for a in answers}
        assert len(told) == 1
        assert answers[0].status_code == 404


# Looking


@pytest.mark.parametrize("fields", [{}, {"views": 1}, {"needs_passphrase": True}, {"views": 7, "needs_passphrase": True}])
def test_safe_methods_never_show_a_document(served: Served, fields: dict[str, Any]) -> None:
    """Not even one without a view limit. A program is told what it needs to open it."""
    sent = send(served, **fields)
    for method, accept in product(("GET", "HEAD"), EVERY_KIND):
        answer = served.http.request(method, sent.path, headers=accept)
        assert answer.status_code == (200 if accept is HTML else 405)
        assert sent.document["ct"] not in answer.text
        assert sent.proof not in answer.text
    problem = served.http.get(sent.path, headers=JSON).json()
    told = {name: problem[name] for name in ("expires_at", "views_left", "needs_passphrase", "encryption")}
    assert told == {
        "expires_at": sent.message.expires_at,
        "views_left": fields.get("views"),
        "needs_passphrase": fields.get("needs_passphrase", False),
        "encryption": "end-to-end",
    }


def test_message_that_the_server_can_read_says_so_before_it_is_opened(served: Served) -> None:
    message = served.create("hello", views=3, passphrase="p")
    problem = served.http.get(message.path, headers=JSON).json()
    assert (problem["encryption"], problem["needs_passphrase"], problem["views_left"]) == ("server", True, 3)


def test_page_of_a_document_has_no_field_that_would_send_its_passphrase(served: Served) -> None:
    """Without JavaScript a browser would send it in plain text, to a server that must never learn it."""
    sent = send(served, needs_passphrase=True)
    assert 'name="passphrase"' not in served.http.get(sent.path, headers=HTML).text
    assert 'name="passphrase"' not in served.http.post(sent.path, data={"open": "yes"}, headers=HTML).text


@pytest.mark.parametrize("needs_passphrase", [False, True])
def test_browser_without_javascript_is_told_what_opens_a_document(served: Served, needs_passphrase: bool) -> None:
    sent = send(served, views=1, needs_passphrase=needs_passphrase)
    page = served.http.post(sent.path, data={"open": "yes", "idempotency_key": "k" * 16}, headers=HTML)
    assert page.status_code == 403
    assert page.headers["Content-Type"].startswith("text/html")
    assert "JavaScript" in page.text
    assert "mayfly client" in page.text
    assert "Nothing was used up" in page.text
    assert served.http.post(sent.path, data={"idempotency_key": "k" * 16}, headers=HTML).status_code == 400, "no tick"


# Leases


@pytest.mark.parametrize("needs_passphrase", [False, True])
def test_lease_gives_the_same_bytes_for_the_proof_and_nothing_without_it(served: Served, needs_passphrase: bool) -> None:
    sent = send(served, views=1, needs_passphrase=needs_passphrase)
    first = open_(served, sent, headers={**JSON, **KEY})
    assert first.status_code == 200
    for _ in range(8):
        again = open_(served, sent, headers={**JSON, **KEY})
        assert (again.status_code, again.content) == (200, first.content)
        assert served.http.post(sent.path, headers={**JSON, **KEY}).status_code == 403, "no proof"
    assert open_(served, sent, new_proof(), {**JSON, **KEY}).status_code == 403
    assert open_(served, sent, headers={**JSON, "Idempotency-Key": "o" * 16}).status_code == 404
    assert len(receipt(served, sent)["opened"]) == 1
    assert served.http.delete(sent.path, headers=KEY).status_code == 204
    assert open_(served, sent, headers={**JSON, **KEY}).status_code == 404


def test_wrong_proofs_under_a_lease_destroy_after_the_fifth_like_any_others(served: Served) -> None:
    """The lease is no way around the tries."""
    sent = send(served, views=1, needs_passphrase=True)
    assert open_(served, sent, headers={**JSON, **KEY}).status_code == 200
    for left in (4, 3, 2, 1, 0):
        assert open_(served, sent, new_proof(), {**JSON, **KEY}).json()["tries_left"] == left
    assert open_(served, sent, headers={**JSON, **KEY}).status_code == 404


# The end


def test_receipt_burn_and_takedown_work_as_for_any_message(served: Served) -> None:
    sent = send(served, views=3)
    assert receipt(served, sent)["state"] == "waiting"
    assert open_(served, sent).status_code == 200
    assert (receipt(served, sent)["state"], receipt(served, sent)["views_left"]) == ("opened", 2)
    assert served.http.delete(sent.message.receipt_path, headers=JSON).json()["state"] == "burned"
    assert open_(served, sent).status_code == 404
    gone = send(served)
    admin = {"Authorization": f"Bearer {served.admin_token}"}
    link = f"{gone.message.link}#{envelope.encode_key(envelope.new_key())}"
    assert served.http.post("/delete", json={"link": link}, headers=admin).json() == {"deleted": 1}
    assert open_(served, gone).status_code == 404


class Case:
    """A vault in this process, with a clock."""

    def __init__(self, folder: Path) -> None:
        self.now, self.folder, self.keys = 1_800_000_000_000, folder, folder / "key.json"
        keyfile.create(self.keys)
        store = SqliteStore(folder / "mayfly.db", 64 << 20, lambda: Millis(self.now))
        self.vault = Vault(store, KeyFile(self.keys), 30, 64 * 1024)

    def create(self, proof: str, **fields: Any) -> Created:
        return self.vault.create(Draft(document=json.dumps(new_document()), proof=proof, **fields))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.vault.store.close()


@pytest.fixture
def vault(case: Case) -> Vault:
    return case.vault


def test_document_expires_to_the_millisecond_for_the_right_proof_too(case: Case) -> None:
    proof = new_proof()
    created = case.create(proof, expires_in=60)
    case.now += 59_999
    assert case.vault.open(created.link_id, proof=proof).content.format == "document"
    case.now += 1
    for offered in (proof, new_proof(), None):
        with pytest.raises(NotFound):
            case.vault.open(created.link_id, proof=offered)
    assert purge(case.vault.store) == 1


def test_proof_is_checked_on_a_reserved_try_only(case: Case) -> None:
    """With all five in use nobody learns whether his proof is right: guessing in parallel gains nothing."""
    proof = new_proof()
    created = case.create(proof, views=1, needs_passphrase=True)
    row_id = crypto.row_id(uuid.UUID(created.link_id).bytes)
    assert [case.vault.store.reserve_try(row_id) for _ in range(6)] == [True] * 5 + [False]
    for offered in (proof, new_proof()):
        with pytest.raises(TriesInUse):
            case.vault.open(created.link_id, proof=offered)
    case.vault.store.return_try(row_id)
    opened = case.vault.open(created.link_id, None, "k" * 16, proof)
    assert opened.views_left == 0
    assert case.vault.store.reserve_try(row_id)
    with pytest.raises(TriesInUse):  # and not that it is gone: a lease outlasts a busy moment
        case.vault.open(created.link_id, None, "k" * 16, proof)
    case.vault.store.return_try(row_id)
    assert case.vault.open(created.link_id, None, "k" * 16, proof) == opened


def test_document_opens_after_its_key_was_rotated(case: Case) -> None:
    proof = new_proof()
    created = case.create(proof, views=1)
    before = case.vault.keys.ring().current
    keyfile.rotate(case.keys, datetime.now(UTC))
    case.vault.keys = KeyFile(case.keys)
    assert case.vault.keys.ring().current != before
    assert case.vault.open(created.link_id, proof=proof).views_left == 0


def test_wrong_key_file_uses_nothing_of_a_document_up(case: Case) -> None:
    proof = new_proof()
    created = case.create(proof, views=1, needs_passphrase=True)
    keyfile.create(case.folder / "other.json")
    right, case.vault.keys = case.vault.keys, KeyFile(case.folder / "other.json")
    for _ in range(7):
        with pytest.raises(KeyMissing):
            case.vault.open(created.link_id, proof=proof)
    case.vault.keys = right
    assert case.vault.open(created.link_id, proof=proof).views_left == 0


# At rest, and stolen


def test_proof_is_compared_in_constant_time_and_before_anything_is_unsealed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def recorded(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac_compare(a, b)

    hmac_compare = hmac.compare_digest
    proof, wrong = new_proof(), new_proof()
    created = case.create(proof)
    link = uuid.UUID(created.link_id).bytes
    monkeypatch.setattr(messages.hmac, "compare_digest", recorded)
    monkeypatch.setattr(crypto, "unseal", lambda *_: pytest.fail("unsealed without the proof"))
    with pytest.raises(ProofRequired):
        case.vault.open(created.link_id, proof=wrong)
    assert compared == [(crypto.proof_hash(link, proof), crypto.proof_hash(link, wrong))]


def test_proof_is_stored_as_a_hash_bound_to_the_link(case: Case) -> None:
    """The same proof under two links is two hashes: no row tells that it belongs to another, and none stands in for another."""
    proof = new_proof()
    first, second = case.create(proof), case.create(proof)
    rows = [case.vault.store.history(crypto.row_id(uuid.UUID(created.link_id).bytes)) for created in (first, second)]
    assert rows[0] and rows[1]
    assert rows[0].proof != rows[1].proof
    link = uuid.UUID(first.link_id).bytes
    assert rows[0].proof == hashlib.sha256(b"mayfly proof v1\0" + link + proof.encode()).digest()


@dataclass(frozen=True)
class Loot:
    """What a thief has: a copy of all files of a server, and the path of a document from a log. And what he has not."""

    folder: Path
    link: bytes
    key: bytes
    passphrase: str | None
    proof: str
    document: dict[str, Any]
    text: str

    def row(self) -> dict[str, Any]:
        with closing(sqlite3.connect(self.folder / "mayfly.db")) as db:
            db.row_factory = sqlite3.Row
            found = db.execute("SELECT * FROM messages JOIN bodies USING (n) WHERE id = ?", (crypto.row_id(self.link),)).fetchone()
            return dict(found)

    def ring(self) -> KeyRing:
        return keyfile.read(self.folder / "key.json")


@pytest.fixture(scope="module", params=[None, "correct horse"], ids=["no passphrase", "passphrase"])
def loot(request: pytest.FixtureRequest, served: Served, tmp_path_factory: pytest.TempPathFactory) -> Loot:
    key, passphrase, text = envelope.new_key(), request.param, f"canary{secrets.token_hex(16)}"
    document = envelope.encrypt(envelope.Plain(text), key, passphrase)
    proof = envelope.proof_of(key, passphrase)
    sent = send(served, document, proof, views=1, needs_passphrase=passphrase is not None)
    folder = tmp_path_factory.mktemp("loot")
    for path in served.folder.iterdir():
        shutil.copy(path, folder / path.name)
    return Loot(folder, uuid.UUID(sent.message.id).bytes, key, passphrase, proof, document, text)


def test_stolen_files_hold_neither_document_nor_proof_nor_what_opens_it(loot: Loot) -> None:
    """The document is sealed once more, like any message; the log is at debug."""
    written = b"".join(path.read_bytes() for path in loot.folder.iterdir())
    ct = base64.b64decode(loot.document["ct"])
    secret = [loot.text.encode(), loot.document["ct"].encode(), ct, ct[:16], loot.link, loot.key, loot.proof.encode()]
    secret += [base64.urlsafe_b64decode(loot.proof + "="), envelope.encode_key(loot.key).encode(), loot.key.hex().encode()]
    secret += [loot.passphrase.encode()] if loot.passphrase else []
    assert [piece for piece in secret if piece in written] == []


def test_thief_of_all_files_and_the_path_gets_the_document_and_not_its_text(loot: Loot) -> None:
    """All that the server could be made to tell, tried as key, with and without a passphrase that he knows."""
    row, ring = loot.row(), loot.ring()
    inside = crypto.unseal(ring, loot.link, Sealed(row["body"]))
    assert not isinstance(inside, Locked)
    document = json.loads(inside.partition(b"\n")[2])
    assert document == loot.document
    found = [loot.link, row["id"], row["proof"], row["receipt"], *(master.secret for master in ring.masters.values())]
    keys = {(piece * 2)[:32] for piece in found} | {bytes(32)}
    for key in keys:
        with pytest.raises(envelope.WrongKey):
            envelope.decrypt(document, key, loot.passphrase, 1000)
    assert envelope.decrypt(document, loot.key, loot.passphrase, 1000).text == loot.text


def hkdf(secret: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 without a salt, for one block (RFC 5869), written here anew."""
    pseudorandom = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(pseudorandom, info + b"\1", "sha256")[:length]


def proof_by_rounds(key: bytes, passphrase: str, rounds: int) -> str:
    salt = hkdf(key, b"mayfly proof salt v1", 16)
    stretched = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt, rounds) if rounds else passphrase.encode()
    return base64.urlsafe_b64encode(hkdf(key + stretched, b"mayfly proof v1 passphrase")).rstrip(b"=").decode()


def test_guess_at_a_passphrase_costs_600000_rounds_by_the_stored_proof_too(loot: Loot) -> None:
    """Decision 0007: for a thief who has even the fragment, the hash of the proof is no quicker way than the document itself."""
    stored_hash = loot.row()["proof"]
    if loot.passphrase is None:
        assert stored_hash == crypto.proof_hash(
            loot.link, base64.urlsafe_b64encode(hkdf(loot.key, b"mayfly proof v1")).decode()[:43]
        )
        return
    assert loot.document["adata"][0][2] == ROUNDS, "the document itself"
    assert stored_hash == crypto.proof_hash(loot.link, proof_by_rounds(loot.key, loot.passphrase, ROUNDS))
    quick = {proof_by_rounds(loot.key, loot.passphrase, rounds) for rounds in (0, 1, 1000, 10_000, 100_000)}
    for label in (b"mayfly proof v1", b"mayfly proof v1 passphrase"):
        for secret in (
            loot.passphrase.encode(),
            loot.key + loot.passphrase.encode(),
            loot.passphrase.encode() + loot.key,
            loot.key,
        ):
            quick.add(base64.urlsafe_b64encode(hkdf(secret, label)).decode()[:43])
    assert stored_hash not in {crypto.proof_hash(loot.link, proof) for proof in quick}


def test_row_without_its_proof_gives_the_document_away_to_nobody_who_can_read_it(served: Served) -> None:
    """Who writes to the database can take the proof out of a row: then the path alone gets the document, and it stays closed."""
    key = envelope.new_key()
    sent = send(served, envelope.encrypt(envelope.Plain("closed"), key), envelope.proof_of(key, None))
    with closing(sqlite3.connect(served.database_file, timeout=10)) as db, db:
        db.execute("UPDATE messages SET proof = NULL WHERE id = ?", (row_of(sent),))
    document = served.http.post(sent.path, headers=JSON).json()["document"]
    with pytest.raises(envelope.WrongKey):
        envelope.decrypt(document, bytes(32), None, 1000)


# Canaries


def memory_of(served: Served) -> bytes:
    """All that the server's processes can write to, as the kernel shows it."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and group_of(path) == served.pid]
    assert pids
    return b"".join(piece for pid in pids for piece in pieces_of(pid))


def group_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[2])
    except (OSError, IndexError):
        return 0


def pieces_of(pid: int) -> Iterator[bytes]:
    require(os.access(f"/proc/{pid}/mem", os.R_OK), "the right to read another process's memory (run the tests as root)")
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_, name = f"{line} ".split(" ", 5)
            if not rights.startswith("rw") or name.strip().startswith(("[v", "/dev/")):
                continue
            start, end = (int(at, 16) for at in span.split("-"))
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except OSError:
                continue


def dresses(secret: bytes) -> set[bytes]:
    """A secret as it is, and as it might be written."""
    text = base64.b64encode(secret)
    return {secret, secret.hex().encode(), text.rstrip(b"=")[:-1], base64.urlsafe_b64encode(secret).rstrip(b"=")[:-1]}


def test_plaintext_fragment_key_and_passphrase_are_never_in_memory_file_or_log(tmp_path: Path, server: Server) -> None:
    """They never leave the sender: no part of the contract makes a client send them. The proof is in no file and no log."""
    with Served(tmp_path, server, "file", MAYFLY_LOG_LEVEL="debug") as served:
        never: dict[str, set[bytes]] = {}
        proofs: dict[str, set[bytes]] = {}
        for number, passphrase in enumerate([None, f"canary-passphrase-{secrets.token_hex(8)}"]):
            key, text = envelope.new_key(), f"canary-text-{secrets.token_hex(8)}"
            plain = envelope.Plain(text, file=f"canary-file-{number}".encode() * 9, file_name=f"canary-name-{number}.txt")
            proof = envelope.proof_of(key, passphrase)
            sent = send(served, envelope.encrypt(plain, key, passphrase), proof, views=9, needs_passphrase=passphrase is not None)
            never |= {f"text {number}": dresses(text.encode()), f"key {number}": dresses(key) | {envelope.encode_key(key).encode()}}
            never |= {f"file {number}": dresses(plain.file or b""), f"name {number}": dresses(plain.file_name.encode())}
            if passphrase:
                never["passphrase"] = dresses(passphrase.encode())
            wrong = new_proof()
            proofs |= {f"proof {number}": dresses(proof.encode()), f"wrong proof {number}": dresses(wrong.encode())}
            use_all_ways(served, sent, wrong)
            answer = open_(served, sent, headers={**JSON, **KEY})
            assert envelope.decrypt(answer.json()["document"], key, passphrase, 10_000) == plain
        memory = memory_of(served)
        assert served.admin_token.encode() in memory, "what must be there is found"
        assert served.stop() == 0 or server == "gunicorn"
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"POST /message" in written, "the log is at debug"
    assert [name for name, forms in never.items() if any(form in memory or form in written for form in forms)] == []
    assert [name for name, forms in proofs.items() if any(form in written for form in forms)] == []


def use_all_ways(served: Served, sent: Sent, wrong: str) -> None:
    """Every request that carries a proof, the refused ones too."""
    malformed = sent.proof + "!"
    for accept in EVERY_KIND:
        open_(served, sent, headers=accept)
        served.http.post(sent.path, data={"open": "yes", "proof": sent.proof}, headers=accept)
        served.http.post(sent.path, data={"proof": sent.proof}, headers=accept)
        served.http.post(sent.path, json={"proof": malformed}, headers=accept)
        served.http.post(sent.path, json={"proof": sent.proof, "proofs": sent.proof}, headers=accept)
        served.http.post(sent.path, json={sent.proof: ""}, headers=accept)
        served.http.post(sent.path, content=sent.proof, headers={**accept, "Content-Type": "text/plain"})
        served.http.post("/", json={"document": [sent.proof], "proof": sent.proof}, headers=accept)
        served.http.post("/", json={"document": sent.document, "proof": malformed}, headers=accept)
        served.http.get(sent.path, headers={**accept, "Idempotency-Key": sent.proof})
    open_(served, sent, wrong)
    open_(served, sent, wrong, HTML)


def test_no_proof_is_logged_when_the_store_or_the_code_fails(tmp_path: Path) -> None:
    with Served(tmp_path, database="file", MAYFLY_LOG_LEVEL="debug") as served:
        broken, sent = send(served), send(served)
        with closing(sqlite3.connect(served.database_file)) as db:
            db.execute("UPDATE messages SET openings = ? WHERE id = ?", ("x,", row_of(broken)))
            db.commit()
        assert open_(served, broken).status_code == 500
        with closing(sqlite3.connect(served.database_file)) as db:
            db.execute("ALTER TABLE messages RENAME TO messages_away")
            db.commit()
        answers = [open_(served, sent, headers=accept) for accept in EVERY_KIND]
        answers.append(served.http.post("/", json={"document": sent.document, "proof": sent.proof}))
        assert {answer.status_code for answer in answers} == {503}
        assert served.stop() == 0
        told = served.log() + "".join(answer.text for answer in answers)
        assert "mayfly.faults StoreFailed" in told
        assert "mayfly.faults ValueError" in told
        assert [piece for piece in (sent.proof, broken.proof, sent.document["ct"], sent.message.id) if piece in told] == []


# Races


COMBINATIONS = (("granian", "memory", 1), ("gunicorn", "file", 2))


@pytest.fixture(scope="module", params=COMBINATIONS, ids=lambda combination: "-".join(map(str, combination)))
def racing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("racing"), *request.param) as running:
        yield running


def opening(sent: Sent, proof: str, in_thread: bool = False) -> bytes:
    """`in_thread`: in a way that granian's adapter hands to a thread, beside those on its loop."""
    fields = {"proof": proof, "passphrase": ""} if in_thread else {"proof": proof}
    return request("POST", sent.path, json.dumps(fields).encode(), Content_Type="application/json")


def delivered(sent: Sent, answers: list[Answer]) -> int:
    for answer in answers:
        assert (answer.status == 200) == (sent.document["ct"].encode() in answer.body)
    return sum(answer.status == 200 for answer in answers)


def sizes(full: int) -> list[object]:
    return [full // 10, pytest.param(full, marks=pytest.mark.long)]


@pytest.mark.parametrize("rounds", sizes(300))
def test_one_time_document_is_delivered_to_exactly_one_of_16_readers(racing: Served, rounds: int) -> None:
    with connections(racing, 16) as lines:
        for number in range(rounds):
            sent = send(racing, views=1, needs_passphrase=bool(number % 2))
            answers = race(lines, [opening(sent, sent.proof, in_thread=reader < 12) for reader in range(16)])
            assert delivered(sent, answers) == 1
            # 429: the tries of a passphrase were all in use at that moment, by readers who gave them back
            assert {answer.status for answer in answers} <= ({200, 404, 429} if number % 2 else {200, 404})
            assert len(receipt(racing, sent)["opened"]) == 1


@pytest.mark.parametrize("rounds", sizes(300))
def test_wrong_proofs_beside_right_ones_are_never_delivered(racing: Served, rounds: int) -> None:
    with connections(racing, 16) as lines:
        for _ in range(rounds):
            sent = send(racing, views=1)
            answers = race(lines, [opening(sent, new_proof() if n % 4 else sent.proof, bool(n % 2)) for n in range(16)])
            assert {answer.status for n, answer in enumerate(answers) if n % 4} <= {403, 404}
            assert delivered(sent, answers[::4]) == 1


@pytest.mark.parametrize("rounds", sizes(100))
def test_of_16_guessed_proofs_at_once_at_most_five_are_checked(racing: Served, rounds: int) -> None:
    """And the right one among them opens, or comes too late: nothing in between."""
    with connections(racing, 17) as lines:
        for number in range(rounds):
            sent = send(racing, views=1, needs_passphrase=True)
            requests = [opening(sent, new_proof(), in_thread=n < 14) for n in range(16)]
            requests.insert(number % 17, opening(sent, sent.proof))
            answers = race(lines, requests)
            right = answers.pop(number % 17)
            assert right.status in (200, 404, 429)
            assert delivered(sent, answers) == 0
            wrong = [answer.json()["tries_left"] for answer in answers if answer.status == 403]
            assert len(wrong) <= 5
            counted = wrong if right.status != 200 else [left for left in wrong if left]  # 0: opened or destroyed meanwhile
            assert len(set(counted)) == len(counted)
            assert {answer.status for answer in answers} <= {403, 404, 429}
            state = receipt(racing, sent)["state"]
            assert state == ("opened" if right.status == 200 else "locked" if 0 in wrong else "waiting")
