"""End-to-end encrypted documents: Python, JavaScript and pbincli open each other's, and refuse what is weaker, odd or too large."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import base58
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pbincli.format import Paste

import mayfly.envelope
from mayfly.commands import MAX_CONTENT_BYTES
from mayfly.envelope import (
    KEY_BYTES,
    PASSPHRASE_ROUNDS,
    EnvelopeError,
    Plain,
    WrongKey,
    decode_key,
    decrypt,
    encode_key,
    encrypt,
    new_key,
    proof_of,
)
from tests.browser import chromium, visitor
from tests.node import Node, Refused
from tests.serving import PROJECT, Served

VECTORS = json.loads((PROJECT / "tests" / "vectors" / "envelope.json").read_text())
KEY = bytes.fromhex(VECTORS["key"])
PASSPHRASE = VECTORS["passphrase"]
FRAGMENTS, DOCUMENTS, REFUSALS = VECTORS["fragments"], VECTORS["documents"], VECTORS["refusals"]
AFTER_THE_END = ("something after the end of the stream", "a second stream after the first")
"""Node 20 inflates these, against the Compression Standard; browsers refuse them, see `test_vectors_hold_in_a_browser`."""
ROUND_TRIPS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as running:
        yield running


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few rounds as readers accept: pbincli takes seconds for as many as we make."""
    monkeypatch.setattr(mayfly.envelope, "ROUNDS", 10_000)
    monkeypatch.setattr(mayfly.envelope, "PASSPHRASE_ROUNDS", 10_000)


def _told(plain: Plain) -> dict[str, Any]:
    """A message as the vectors write it."""
    file = None if plain.file is None else plain.file.hex()
    media_type = "" if plain.file is None else plain.media_type
    return {"text": plain.text, "format": plain.format, "file": file, "file_name": plain.file_name, "media_type": media_type}


def _id(case: dict[str, Any]) -> str:
    return f"{case.get('by', '')} {case['what']}".strip()


def _well_formed(document: dict[str, Any]) -> bool:
    return set(document) == {"v", "adata", "ct"} and document["adata"][0][2] in (10_000, 100_000, 600_000)


# Fragments and proofs


@pytest.mark.parametrize("case", FRAGMENTS, ids=lambda case: case["fragment"])
def test_keys_are_written_in_base58_as_others_do(case: dict[str, str], node: Node) -> None:
    """Zeros at the front each become a 1; and they are read too where somebody dropped them."""
    key = bytes.fromhex(case["key"])
    assert encode_key(key) == node.encode_key(key) == case["fragment"]
    assert decode_key(case["fragment"]) == node.decode_key(case["fragment"]) == key
    assert decode_key(case["also"]) == node.decode_key(case["also"]) == key


@pytest.mark.parametrize("fragment", VECTORS["fragments_refused"])
def test_what_is_no_key_is_refused(fragment: str, node: Node) -> None:
    with pytest.raises(EnvelopeError) as ours:
        decode_key(fragment)
    with pytest.raises(Refused) as theirs:
        node.decode_key(fragment)
    assert ours.value.code == theirs.value.code == "fragment"


@given(key=st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES))
@ROUND_TRIPS
def test_every_key_comes_out_of_its_fragment(key: bytes, node: Node) -> None:
    assert encode_key(key) == node.encode_key(key) == base58.b58encode(key).decode()
    assert decode_key(encode_key(key)) == node.decode_key(encode_key(key)) == key


@pytest.mark.parametrize("case", VECTORS["proofs"], ids=lambda case: f"{case['key'][:4]} {case['passphrase']}")
def test_proofs_are_what_was_computed_by_hand(case: dict[str, str], node: Node) -> None:
    key = bytes.fromhex(case["key"])
    assert proof_of(key, case["passphrase"] or None) == node.proof_of(key, case["passphrase"]) == case["proof"]


def test_proof_of_an_empty_passphrase_is_that_of_none() -> None:
    assert proof_of(KEY, "") == proof_of(KEY, None)


def test_proofs_tell_keys_and_passphrases_apart(few_rounds: None) -> None:
    """Nothing that is not the same gives the same proof."""
    proofs = {proof_of(key, word) for key in (KEY, bytes(32)) for word in (None, "a", "b", "a ", "ä", "a\u0308")}
    assert len(proofs) == 12


# Documents that open


@pytest.mark.parametrize("case", DOCUMENTS, ids=_id)
def test_documents_of_all_makers_open_in_both_languages(case: dict[str, Any], node: Node) -> None:
    document = case["document"]
    assert _told(decrypt(document, KEY, case["passphrase"] or None, 4096)) == case["plain"]
    assert node.decrypt(document, KEY, case["passphrase"], 4096) == case["plain"]


@pytest.mark.parametrize("case", [case for case in DOCUMENTS if case["passphrase"]], ids=_id)
@pytest.mark.parametrize("passphrase", ["", "Zwölf Boxkampfer", PASSPHRASE + " "])
def test_wrong_passphrase_opens_nothing(case: dict[str, Any], passphrase: str, node: Node) -> None:
    with pytest.raises(WrongKey, match="wrong, or the message was changed"):
        decrypt(case["document"], KEY, passphrase, 4096)
    with pytest.raises(Refused, match="wrong-key"):
        node.decrypt(case["document"], KEY, passphrase)


def test_vectors_come_from_all_makers() -> None:
    """Each maker's text, passphrase and file are there, and the full number of rounds of each."""
    kinds = {(case["by"], bool(case["passphrase"]), case["plain"]["file"] is not None) for case in DOCUMENTS}
    for maker in ("pbincli", "mayfly-python", "mayfly-javascript"):
        assert {(maker, False, False), (maker, True, False), (maker, False, True)} <= kinds
    rounds = {(case["by"], bool(case["passphrase"])): case["document"]["adata"][0][2] for case in DOCUMENTS}
    for maker in ("mayfly-python", "mayfly-javascript"):
        assert rounds[(maker, False)] == 100_000
        assert rounds[(maker, True)] == 600_000


# Documents that are refused


@pytest.mark.parametrize("case", REFUSALS, ids=_id)
def test_unsafe_and_odd_documents_are_refused(case: dict[str, Any], node: Node) -> None:
    """Python and JavaScript say the same of each, and Python says it in a sentence."""
    with pytest.raises(EnvelopeError) as ours:
        decrypt(case["document"], KEY, None, case["max_bytes"])
    assert ours.value.code == case["code"]
    assert re.fullmatch(r"[A-Z][^\n]{20,160}\.", str(ours.value))
    if case["what"] in AFTER_THE_END:
        return
    with pytest.raises(Refused) as theirs:
        node.decrypt(case["document"], KEY, "", case["max_bytes"])
    assert theirs.value.code == case["code"]


def test_vectors_hold_in_a_browser(served: Served) -> None:
    """All documents open, and all refusals are the same, in Chromium on a page of ours with its policies."""
    script = """async ([key, cases]) => {
        const { decrypt } = await import("/static/js/decrypt.js");
        const keyBytes = Uint8Array.from(key.match(/../g), (pair) => parseInt(pair, 16));
        const ask = async ({ document, passphrase, max_bytes }) => {
            const plain = await decrypt(document, keyBytes, passphrase ?? "", max_bytes ?? 4096);
            const { text, format, file, fileName, mediaType } = plain;
            const hex = file && Array.from(file, (byte) => byte.toString(16).padStart(2, "0")).join("");
            return { text, format, file: hex, file_name: fileName, media_type: mediaType };
        };
        return Promise.all(cases.map((one) => ask(one).catch((error) => error.code ?? String(error))));
    }"""
    with chromium() as browser, visitor(browser, served) as page:
        page.goto("/")
        found = page.evaluate(script, [KEY.hex(), DOCUMENTS + REFUSALS])
    expected = [case.get("plain") or case["code"] for case in DOCUMENTS + REFUSALS]
    for case, one, other in zip(DOCUMENTS + REFUSALS, found, expected, strict=True):
        assert one == other, _id(case)


def test_inflating_stops_where_it_must(few_rounds: None, node: Node) -> None:
    """To the byte, in both languages."""
    document = encrypt(Plain("x" * 3000), KEY)
    size = len('{"paste":""}') + 3000
    assert decrypt(document, KEY, None, size).text == "x" * 3000
    assert node.decrypt(document, KEY, "", size)["text"] == "x" * 3000
    with pytest.raises(EnvelopeError) as ours:
        decrypt(document, KEY, None, size - 1)
    with pytest.raises(Refused, match="size"):
        node.decrypt(document, KEY, "", size - 1)
    assert ours.value.code == "size"


def test_bomb_does_not_take_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 64 KiB inflate to is never in memory beyond the cap, whatever it would be in the end."""
    packed = zlib.compressobj(9, wbits=-15)
    bomb = packed.compress(bytes(64 * 2**20)) + packed.flush()
    asked: list[int] = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self, wbits: int) -> None:
            self._inflate = real(wbits)
            self.eof, self.unused_data = False, b""

        def decompress(self, data: bytes, max_length: int) -> bytes:
            content = self._inflate.decompress(data, max_length)
            asked.append(len(content))
            return content

    monkeypatch.setattr(mayfly.envelope.zlib, "decompressobj", Watched)
    with pytest.raises(EnvelopeError, match="larger"):
        mayfly.envelope._inflate(bomb, 2**20)
    assert sum(asked) == 2**20 + 1


# Round trips

_texts = st.text(max_size=300)
_names = st.one_of(
    _texts,
    st.sampled_from(
        ["../../etc/passwd", "C:\\con.txt", "a\0b", "\u202egpj.exe", '"><img src=x onerror=alert(1)>', "-rf", ".", " "]
    ),
)
_plains = st.builds(
    Plain,
    text=_texts,
    format=st.sampled_from(["text", "markdown"]),
    file=st.one_of(st.none(), st.binary(max_size=2000)),
    file_name=_names,
    media_type=st.from_regex(r"[a-z]{1,9}/[a-z0-9.+;= -]{1,20}", fullmatch=True),
).map(lambda plain: plain if plain.file is not None else Plain(plain.text, plain.format))


@given(plain=_plains, key=st.binary(min_size=32, max_size=32), passphrase=st.one_of(st.none(), st.text(min_size=1, max_size=40)))
@ROUND_TRIPS
def test_everything_comes_out_of_python(plain: Plain, key: bytes, passphrase: str | None, few_rounds: None) -> None:
    document = json.loads(json.dumps(encrypt(plain, key, passphrase)))
    assert decrypt(document, key, passphrase, MAX_CONTENT_BYTES) == plain


@given(plain=_plains, passphrase=st.one_of(st.just(""), st.text(min_size=1, max_size=40)))
@ROUND_TRIPS
def test_everything_goes_from_python_to_javascript(plain: Plain, passphrase: str, few_rounds: None, node: Node) -> None:
    key = new_key()
    assert node.decrypt(encrypt(plain, key, passphrase or None), key, passphrase) == _told(plain)


@given(plain=_plains)
@settings(ROUND_TRIPS, max_examples=25)
def test_everything_goes_from_javascript_to_python(plain: Plain, node: Node) -> None:
    document = node.encrypt(_told(plain), KEY)
    assert _told(decrypt(document, KEY, None, MAX_CONTENT_BYTES)) == _told(plain)
    assert _well_formed(document)


def test_no_two_documents_share_key_iv_or_salt(few_rounds: None, node: Node) -> None:
    """In both languages: of 20 documents of one text no part is there twice."""
    documents = [encrypt(Plain("x"), KEY) for _ in range(10)] + [node.encrypt(_told(Plain("x")), KEY) for _ in range(10)]
    for part in (lambda d: d["adata"][0][0], lambda d: d["adata"][0][1], lambda d: d["ct"]):
        assert len({part(document) for document in documents}) == 20
    assert len({new_key() for _ in range(20)}) == 20


def test_documents_are_of_the_form_that_servers_take() -> None:
    document = encrypt(Plain("x"), KEY, PASSPHRASE)
    assert _well_formed(document)
    assert document["adata"][0][2:] == [PASSPHRASE_ROUNDS, 256, 128, "aes", "gcm", "zlib"]
    assert document["adata"][1:] == ["plaintext", 0, 0]


def test_what_readers_would_refuse_to_inflate_is_not_deflated(few_rounds: None, node: Node) -> None:
    """A megabyte of one letter: a server that takes the document gives it to pages that open it, up to 8 times its limit."""
    plain = Plain("x" * 2**20)
    document = encrypt(plain, KEY)
    longest_message = len(json.dumps(document, separators=(",", ":"))) // 2
    assert document["adata"][0][7] == "none"
    assert node.decrypt(document, KEY, "", 8 * longest_message + 65_536) == _told(plain)
    assert decrypt(document, KEY, None, MAX_CONTENT_BYTES) == plain


# Both ways between pbincli and ours


def _opened_by_pbincli(document: dict[str, Any], key: bytes, passphrase: str) -> Paste:
    paste = Paste()
    paste.setVersion(document["v"])
    paste.setHash(encode_key(key))
    paste.setPassword(passphrase)
    paste.loadJSON(document)
    paste.decrypt()
    return paste


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
@pytest.mark.parametrize(
    "plain", [Plain("für alle 🦋"), Plain("mit", file=bytes(range(256)), file_name="Ü 🦋.bin", media_type="image/png")]
)
def test_pbincli_opens_ours(plain: Plain, passphrase: str, few_rounds: None) -> None:
    paste = _opened_by_pbincli(encrypt(plain, KEY, passphrase or None), KEY, passphrase)
    assert paste.getText().decode() == plain.text
    assert paste.getAttachment() == ([plain.file, plain.file_name] if plain.file else [False, False])


def test_pbincli_opens_what_the_page_makes(node: Node) -> None:
    """With the full number of rounds: the page's cannot be lowered."""
    plain = Plain("from the page", file=b"\0\xff", file_name="a.bin")
    paste = _opened_by_pbincli(node.encrypt(_told(plain), KEY), KEY, "")
    assert paste.getText().decode() == plain.text
    assert paste.getAttachment() == [plain.file, plain.file_name]


@pytest.mark.long
def test_pbincli_opens_what_the_page_makes_with_a_passphrase(node: Node) -> None:
    paste = _opened_by_pbincli(node.encrypt(_told(Plain("from the page")), KEY, PASSPHRASE), KEY, PASSPHRASE)
    assert paste.getText().decode() == "from the page"


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
@pytest.mark.parametrize("compression", ["zlib", "none"])
def test_both_open_what_pbincli_makes(passphrase: str, compression: str, node: Node, tmp_path: Path) -> None:
    attached = tmp_path / "an attachment.png"
    attached.write_bytes(b"\x89PNG\0")
    paste = Paste()
    paste._iteration_count = 10_000
    paste.setText("a text, ü")
    paste.setPassword(passphrase)
    paste.setCompression(compression)
    paste.setAttachment(str(attached))
    with contextlib.redirect_stdout(io.StringIO()):
        paste.encrypt("markdown", 0, 0, "1day")
    document, key = json.loads(paste.getJSON()), decode_key(paste.getHash())
    expected = Plain("a text, ü", "markdown", b"\x89PNG\0", "an attachment.png", "image/png")
    assert decrypt(document, key, passphrase, 4096) == expected
    assert node.decrypt(document, key, passphrase) == _told(expected)
