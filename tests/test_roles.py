"""What readers see of a record: never a character that the policy does not give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from access.roles import HIDDEN, mask, redact, redacted
from records import RULES, Account, AccountId, Actor, Content, Millis, Policy, Role

CARD = "4111111111111111"
PAYMENTS, SUPPORT, OTHER = Role("payments"), Role("support"), Role("other")
POLICY: Policy = {PAYMENTS: {"name": "show", "card": "show"}, SUPPORT: {"name": "show", "card": "mask"}, OTHER: {"card": "hide"}}
FIELDS = {"name": "Ada Lovelace", "card": CARD, "pin": "1234"}


def reader(*roles: str) -> Actor:
    names = frozenset(map(Role, roles))
    return Actor(Account(AccountId("a"), "a@example.com", "A", "B", names, True, Millis(0), Millis(0)))


def test_each_role_sees_what_its_rules_give() -> None:
    assert redact(FIELDS, POLICY, [PAYMENTS]) == ({"name": "Ada Lovelace", "card": CARD}, ())
    assert redact(FIELDS, POLICY, [SUPPORT]) == ({"name": "Ada Lovelace", "card": "••••1111"}, ("card",))
    assert redact(FIELDS, POLICY, [OTHER]) == ({}, ())


def test_field_without_a_rule_is_hidden_with_its_name() -> None:
    for roles in ([PAYMENTS], [PAYMENTS, SUPPORT, OTHER], [Role("nobody-named-it")], []):
        assert "pin" not in redact(FIELDS, POLICY, roles)[0]


@pytest.mark.parametrize("rules", list(permutations(RULES)))
def test_most_open_rule_of_several_roles_holds(rules: tuple[str, ...]) -> None:
    """Whatever their order; and of each two."""
    policy = {Role(f"r{n}"): {"card": rule} for n, rule in enumerate(rules)}
    assert redact({"card": CARD}, policy, list(policy)) == ({"card": CARD}, ())  # type: ignore[arg-type]
    closed = [role for role, fields in policy.items() if fields["card"] != "show"]
    assert redact({"card": CARD}, policy, closed) == ({"card": "••••1111"}, ("card",))  # type: ignore[arg-type]


def test_nobody_and_nothing_own_no_rule() -> None:
    """A policy that has one for the empty role gives it to nobody, and rules of no known word open nothing."""
    odd = {"": {"card": "show"}, None: {"card": "show"}, PAYMENTS: {"card": "SHOW", "name": "", "pin": None}}
    for roles in ([], [""], [None], [PAYMENTS], [0]):
        assert redact(FIELDS, odd, roles) == ({}, ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("", HIDDEN),
        ("1", HIDDEN),
        ("1234", HIDDEN),
        ("1234567", HIDDEN),
        ("12345678", HIDDEN + "5678"),
        (CARD, HIDDEN + "1111"),
        ("9" * 1000, HIDDEN + "9999"),
    ],
)
def test_mask_shows_four_characters_and_only_if_as_many_stay_hidden(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_mask_hides_the_length() -> None:
    assert len({mask("7" * length) for length in range(8, 300)}) == 1
    assert len({mask("7" * length) for length in range(8)}) == 1


def test_redacted_record_keeps_its_order_and_loses_its_policy() -> None:
    content = Content(json.dumps(FIELDS), "record", policy=POLICY)
    seen = redacted(content, reader("support"))
    assert seen == Content('{"name":"Ada Lovelace","card":"••••1111"}', "record", masked=("card",))
    assert redacted(content, Actor()).message == "{}"
    assert redacted(seen, reader("payments")).message == "{}", "without its policy nothing of it is open"


def test_what_is_no_record_is_as_it_was() -> None:
    for content in (Content("m", "text"), Content("*m*", "markdown", "<em>m</em>"), Content("{}", "document")):
        assert redacted(content, Actor()) is content


# For random records, roles and policies. Each value is of characters that no other has, so that each character tells whose it is.

NAMES = ["card", "name", "pin", "note", "iban"]
ROLES = [Role(name) for name in ("payments", "support", "audit", "a")]
_ALPHABETS = {name: [chr(0x4E00 + number * 500 + n) for n in range(500)] for number, name in enumerate(NAMES)}


@st.composite
def records(draw: st.DrawFn) -> dict[str, str]:
    """Of each field no character is there twice, but in the words that people use for nothing."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    return {name: "".join(_ALPHABETS[name][: draw(st.integers(0, 30))]) for name in names}


policies = st.dictionaries(st.sampled_from(ROLES), st.dictionaries(st.sampled_from(NAMES), st.sampled_from(RULES)))
chosen = st.lists(st.sampled_from(ROLES), unique=True)


def check(fields: Mapping[str, str], policy: Policy, roles: list[Role]) -> None:
    """What is seen, judged by another way than the code's: from the policy to the characters that it gives."""
    allowed: dict[str, str] = {}
    for name, text in fields.items():
        given_rules = [policy[role][name] for role in roles if role in policy and name in policy[role]]
        if "show" in given_rules:
            allowed[name] = text
        elif "mask" in given_rules:
            allowed[name] = text[len(text) - 4 :] if len(text) > 7 else ""
    content = Content(json.dumps(fields, ensure_ascii=False), "record", policy=policy)
    answer = redacted(content, reader(*roles))
    seen = json.loads(answer.message)
    assert set(seen) == set(allowed)
    assert answer.policy is None
    characters = set(answer.message + "".join(answer.masked))
    for name, text in fields.items():
        assert not characters & (set(text) - set(allowed.get(name, ""))), name
        if name in seen:
            assert seen[name].removeprefix(HIDDEN) == allowed[name]
            assert (name in answer.masked) == seen[name].startswith(HIDDEN)
        else:
            assert f'"{name}"' not in answer.message


@settings(max_examples=300, deadline=None)
@given(fields=records(), policy=policies, roles=chosen)
def test_no_reader_sees_a_character_that_the_policy_does_not_give(
    fields: dict[str, str], policy: Policy, roles: list[Role]
) -> None:
    check(fields, policy, roles)


@pytest.mark.long
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(fields=records(), policy=policies, roles=chosen)
def test_no_reader_of_10000_records_sees_a_character_that_the_policy_does_not_give(
    fields: dict[str, str], policy: Policy, roles: list[Role]
) -> None:
    check(fields, policy, roles)
