"""What a request to create may say, and how the rest is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from drafts import DOCUMENT_FIELDS, FIELDS, GUARDED_FIELDS, MAX_PASSPHRASE_BYTES, models_of, read_draft, read_proof
from errors import FieldRefused
from fields.guarded import MAX_AUDIENCE, MAX_POLICY_BYTES
from records import EVERYONE, Audience, Draft, Role, VaultName

WEEK = 604_800
PROOF = "Aa0-_" * 8 + "xyz"
ADATA = [["aXY=", "c2FsdA==", 100_000, 256, 128, "aes", "gcm", "zlib"], "plaintext", 0, 0]
DOCUMENT = {"v": 2, "adata": ADATA, "ct": "AAECAwQFBgcICQoLDA0ODw=="}


def document_fields(**changes: object) -> dict[str, object]:
    return {"document": DOCUMENT, "proof": PROOF, **changes}


def test_fields_that_are_absent_have_their_defaults() -> None:
    assert read_draft({"message": "m"}) == Draft("m", WEEK, None, None, "text")
    assert read_draft({"message": "m", "views": "", "expires_in": ""}) == Draft("m")


def test_numbers_come_as_numbers_or_as_text() -> None:
    for expires_in, views in ((60, 1), ("60", "1"), (WEEK, 100), ("604800", "100"), ("060", "001")):
        draft = read_draft({"message": "m", "expires_in": expires_in, "views": views, "format": "markdown", "passphrase": "p"})
        assert draft == Draft("m", int(expires_in), int(views), "p", "markdown")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            ("expires_in", value)
            for value in (0, 59, WEEK + 1, -60, 60.0, True, "60s", "1e3", " 60", "٦٠", "0x3c", [60], {}, 10**30)
        ],
        *[("views", value) for value in (0, 101, -1, 1.0, True, False, "0", "101", "+1", "1_0", "①", [], "9" * 5000)],
        *[("message", value) for value in (None, 7, True, [], ["m"], {"m": 1}, b"m", "\ud800", "a\udfff")],
        *[("passphrase", value) for value in ("", 7, [], "\ud800", "x" * 1025, "é" * 513)],
        *[("format", value) for value in ("", "html", "Text", None, 1, ["text"], {})],
    ],
)
def test_wrong_field_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(FieldRefused) as refused:
        read_draft({"message": "m", field: value})
    assert refused.value.field == field


def test_missing_message_is_refused() -> None:
    with pytest.raises(FieldRefused) as refused:
        read_draft({"views": 1})
    assert refused.value.field == "message"


def test_unknown_field_is_refused_without_repeating_it() -> None:
    """Of a form that was not encoded it may be a piece of the message."""
    with pytest.raises(FieldRefused, match="--data-urlencode") as refused:
        read_draft({"message": "pass", "word=my-secret": ""})
    assert "my-secret" not in str(refused.value) + refused.value.field


def test_longest_passphrase_is_taken() -> None:
    assert read_draft({"message": "m", "passphrase": "é" * (MAX_PASSPHRASE_BYTES // 2)}).passphrase


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


NAMES = st.sampled_from(sorted(FIELDS | DOCUMENT_FIELDS)) | st.text(max_size=5)


@given(fields=st.dictionaries(NAMES, VALUES, max_size=6))
@example(fields={"message": "m", "expires_in": float("nan")})
@example(fields={"message": "m", "views": float("inf")})
def test_junk_is_a_draft_or_a_refused_field(fields: dict[str, object]) -> None:
    try:
        draft = read_draft(fields)
    except FieldRefused as refusal:
        assert refusal.field in FIELDS | DOCUMENT_FIELDS | {""}
    else:
        assert draft.document is None
        assert draft.message.encode()
        assert 60 <= draft.expires_in <= WEEK
        assert draft.views is None or 1 <= draft.views <= 100
        assert type(draft.expires_in) is int


# Documents


def test_document_becomes_a_draft_that_needs_its_proof() -> None:
    draft = read_draft(document_fields())
    assert draft == Draft(document=draft.document, proof=PROOF)
    assert draft.document is not None
    assert json.loads(draft.document) == DOCUMENT
    draft = read_draft(document_fields(needs_passphrase=True, views="3", expires_in=60))
    assert (draft.needs_passphrase, draft.views, draft.expires_in, draft.message, draft.passphrase) == (True, 3, 60, "", None)


@pytest.mark.parametrize("field", ["message", "passphrase", "format", "meta", "", "word=my-secret"])
def test_document_stands_with_no_field_of_a_message_that_the_server_reads(field: str) -> None:
    """Least of all with a passphrase: the server must not learn it."""
    with pytest.raises(FieldRefused) as refused:
        read_draft(document_fields(**{field: "text"}))
    assert refused.value.field == ""
    assert "my-secret" not in str(refused.value)


@pytest.mark.parametrize("field", ["proof", "needs_passphrase"])
def test_message_that_the_server_reads_takes_no_field_of_a_document(field: str) -> None:
    with pytest.raises(FieldRefused):
        read_draft({"message": "m", field: {"proof": PROOF, "needs_passphrase": True}[field]})


@pytest.mark.parametrize(
    "document",
    [
        *[None, [], "{}", 7, True, {}],
        *[{name: value for name, value in DOCUMENT.items() if name != missing} for missing in DOCUMENT],
        {**DOCUMENT, "meta": {"expire": "1week"}},
        *[{**DOCUMENT, "v": v} for v in (1, 3, 2.0, "2", True, None, [2], 10**400)],
        *[{**DOCUMENT, "adata": adata} for adata in (None, "[]", {}, {"0": "aes"}, 7)],
        *[{**DOCUMENT, "adata": [ADATA[0], odd, 0, 0]} for odd in (1.0, -0.0, math.inf, math.nan, 1e300, 2**53, -(2**53), 10**400)],
        *[{**DOCUMENT, "adata": [[odd]]} for odd in (None, True, {}, {"__proto__": []}, 0.1)],
        *[{**DOCUMENT, "adata": ["a\ud800"]}, {**DOCUMENT, "adata": [["\udfff"]]}],
        *[
            {**DOCUMENT, "ct": ct}
            for ct in (None, 7, [], "", "=", "AA===", "A A=", "AAAA\n", "AA-_", "ÄÄ==", "AA\0A", "AAAA=AAA", "\ud800")
        ],
    ],
    ids=lambda document: ascii(document)[:60],
)
def test_what_is_no_document_is_refused_by_its_name(document: object) -> None:
    """Numbers that programs write differently would come out as other bytes than were authenticated."""
    with pytest.raises(FieldRefused) as refused:
        read_draft(document_fields(document=document))
    assert refused.value.field == "document"


@pytest.mark.parametrize(
    "proof",
    ["", 7, True, [], {}, b"x" * 43, PROOF[1:], PROOF + "x", PROOF[1:] + "=", PROOF[1:] + "+", PROOF[1:] + "\n", PROOF[1:] + "é"],
)
def test_what_is_no_proof_is_refused_by_its_name(proof: Any) -> None:
    for act in (lambda: read_proof(proof), lambda: read_draft(document_fields(proof=proof))):
        with pytest.raises(FieldRefused) as refused:
            act()
        assert refused.value.field == "proof"
        assert str(proof) == "" or str(proof) not in str(refused.value)


def test_missing_proof_is_refused_for_a_document_only() -> None:
    assert read_proof(None) is None
    with pytest.raises(FieldRefused) as refused:
        read_draft({"document": DOCUMENT})
    assert refused.value.field == "proof"


@pytest.mark.parametrize("value", ["true", "yes", 1, 0, None, "", []])
def test_whether_a_passphrase_is_needed_is_true_or_false(value: object) -> None:
    with pytest.raises(FieldRefused) as refused:
        read_draft(document_fields(needs_passphrase=value))
    assert refused.value.field == "needs_passphrase"


@pytest.mark.parametrize(
    ("field", "value"), [("views", 0), ("views", 101), ("expires_in", 59), ("expires_in", WEEK + 1), ("views", 1.0)]
)
def test_bounds_of_a_document_are_those_of_a_message(field: str, value: object) -> None:
    with pytest.raises(FieldRefused) as refused:
        read_draft(document_fields(**{field: value}))
    assert refused.value.field == field


WHOLE = st.integers(-(2**53) + 1, 2**53 - 1)
ADATAS = st.lists(
    st.recursive(st.text(st.characters(codec="utf-8")) | WHOLE, lambda inner: st.lists(inner, max_size=4), max_leaves=10),
    max_size=5,
)


@given(adata=ADATAS, ct=st.from_regex(r"[A-Za-z0-9+/]{1,20}={0,2}", fullmatch=True))
def test_document_comes_out_as_it_went_in(adata: list[object], ct: str) -> None:
    document = {"v": 2, "adata": adata, "ct": ct}
    stored = read_draft(document_fields(document=document)).document
    assert stored == json.dumps(document, ensure_ascii=False, separators=(",", ":"))


# Audiences and records, for readers who sign in

CARD = "4111 1111 1111 1111"
RECORD: dict[str, object] = {
    "format": "record",
    "message": {"name": "Ada", "card": CARD},
    "policy": {"payments": {"card": "show"}, "support": {"name": "show", "card": "mask"}},
}


@pytest.mark.parametrize("as_text", [False, True])
def test_record_comes_as_json_or_as_its_text(as_text: bool) -> None:
    """As forms send it; the order of its fields is kept."""
    fields = {name: json.dumps(value) if as_text and name != "format" else value for name, value in RECORD.items()}
    draft = read_draft({**fields, "audience": "role:payments"}, "guarded")
    assert draft.message == f'{{"name":"Ada","card":"{CARD}"}}'
    assert draft.policy == RECORD["policy"]
    assert (draft.format, draft.audience) == ("record", Audience(False, frozenset({Role("payments")})))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("message", value) for value in ({}, [], "", "{", "[]", "7", None, {"a": 1}, {"a": None}, {"a": {"b": "c"}}, '{"a":1}')],
        *[
            ("message", {name: "x", "card": CARD})
            for name in ("", " a", "a ", "a\nb", "a\x00", "\ud800", "x" * 65, "a\u202eb", "a\u2028b")
        ],
        *[("message", {**{str(n): "x" for n in range(50)}, "card": CARD}), ("message", '{"card":"x","card":"y"}')],
        *[("message", {"card": text, "name": "x"}) for text in ("a\x00", "\ud800")],
        *[("message", "[" * 100_000), ("policy", '{"a":' * 100_000)],
        *[("policy", value) for value in ({}, [], "", "all", None, {"payments": "show"}, {"payments": {"card": "hide"}})],
        *[("policy", {"payments": {"card": rule}}) for rule in ("SHOW", "", None, True, 1, [], "shown")],
        *[("policy", {role: {"card": "show"}}) for role in ("", "Payments", "a b", "*", "x" * 33, "\ud800")],
        *[("policy", {"payments": {"crad": "show"}}), ("policy", '{"a":{"card":"hide"},"a":{"card":"show"}}')],
        *[("policy", {f"r{n}": {"card": "show"} for n in range(21)}), ("audience", ""), ("audience", []), ("audience", None)],
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_wrong_field_of_a_record_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(FieldRefused) as refused:
        read_draft({**RECORD, field: value}, "guarded")
    assert refused.value.field == field
    assert CARD not in str(refused.value)


@pytest.mark.parametrize("missing", ["message", "policy"])
def test_record_needs_its_fields_and_their_policy(missing: str) -> None:
    with pytest.raises(FieldRefused) as refused:
        read_draft({name: value for name, value in RECORD.items() if name != missing}, "guarded")
    assert refused.value.field == missing


def test_largest_policy_and_audience_fit_into_an_envelope() -> None:
    """What is sealed may be 96 KiB longer than two messages; beside a rendering of 64 KiB there is room for an audience."""
    assert MAX_POLICY_BYTES + 2 * MAX_AUDIENCE * len("account:" + "x" * 254) < 64 * 1024
    assert MAX_AUDIENCE * len('"account:",' + "x" * 254) < 24 * 1024
    names = {f"{n:02}" + "\U0001f98b" * 62: "show" for n in range(50)}
    with pytest.raises(FieldRefused, match="at most"):
        fields = {"message": dict.fromkeys(names, "x"), "policy": {f"r{n}": names for n in range(20)}}
        read_draft({"format": "record", **fields}, "guarded")


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "m", "audience": "role:payments"},
        {"message": "m", "audience": "everyone"},
        {"message": "m", "policy": {}},
        RECORD,
        document_fields(audience="role:payments"),
        document_fields(format="record"),
    ],
)
def test_open_vault_takes_neither_audience_nor_record(fields: dict[str, object]) -> None:
    with pytest.raises(FieldRefused, match="whose readers sign in"):
        read_draft(fields)


@pytest.mark.parametrize("fields", [document_fields(policy=RECORD["policy"]), document_fields(format="record")])
def test_record_is_not_encrypted_end_to_end(fields: dict[str, object]) -> None:
    """The server could not hide what it cannot see."""
    with pytest.raises(FieldRefused, match="end to end"):
        read_draft(fields, "guarded")


def test_policy_without_a_record_is_refused() -> None:
    with pytest.raises(FieldRefused) as refused:
        read_draft({"message": "m", "policy": RECORD["policy"]}, "sealed")
    assert refused.value.field == "policy"


@pytest.mark.parametrize("fields", [{"message": "m"}, {"message": "m", "format": "markdown"}, document_fields()])
def test_other_vaults_take_what_the_open_one_takes(fields: dict[str, object]) -> None:
    for vault in ("guarded", "sealed"):
        assert read_draft(fields, vault) == read_draft(fields)  # type: ignore[arg-type]
        assert read_draft({**fields, "audience": "everyone"}, vault) == read_draft(fields)  # type: ignore[arg-type]


@given(fields=st.dictionaries(NAMES | st.sampled_from(["audience", "policy"]), VALUES, max_size=6), record=st.booleans())
def test_junk_for_readers_who_sign_in_is_a_draft_or_a_refused_field(fields: dict[str, object], record: bool) -> None:
    try:
        draft = read_draft({**fields, **({"format": "record"} if record else {})}, "guarded")
    except FieldRefused as refusal:
        assert refusal.field in FIELDS | DOCUMENT_FIELDS | GUARDED_FIELDS | {""}
    else:
        assert draft.audience == EVERYONE or draft.audience.roles or draft.audience.accounts
        assert (draft.policy is not None) == (draft.format == "record")


# What is checked is what is described


def test_every_field_is_described() -> None:
    """With what it takes, in JSON Schema, and what it is for."""
    for vault in ("open", "guarded", "sealed"):
        for model in models_of(vault):  # type: ignore[arg-type]
            schema = model.schema()
            assert set(schema["properties"]) == model.names
            assert not schema["additionalProperties"]
            for name, described in schema["properties"].items():
                assert described["description"]
                assert {"type", "anyOf"} & set(described), name
            json.dumps(schema)


@pytest.mark.parametrize(
    ("fields", "vault"),
    [
        ({"message": "m"}, "open"),
        ({"message": "m", "expires_in": 60, "views": None, "passphrase": "p", "format": "markdown"}, "open"),
        (document_fields(needs_passphrase=True, views=3), "open"),
        (RECORD, "guarded"),
        ({**RECORD, "audience": ["role:payments", "account:ada@example.com"]}, "sealed"),
        ({"message": "m", "audience": "role:payments, role:support"}, "guarded"),
        (document_fields(audience="everyone"), "guarded"),
    ],
)
def test_what_is_taken_is_valid_by_exactly_one_description(fields: dict[str, object], vault: VaultName) -> None:
    assert read_draft(fields, vault)
    valid = [model for model in models_of(vault) if Draft202012Validator(model.schema()).is_valid(fields)]
    assert len(valid) == 1
