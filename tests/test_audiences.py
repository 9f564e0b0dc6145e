"""Who a message is for: read strictly, judged closed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from access.audiences import admits
from errors import FieldRefused
from fields.guarded import MAX_AUDIENCE, AudienceOf
from messages.contents import decode_terms, encode_terms
from records import EVERYONE, NOBODY, Account, AccountId, Actor, Audience, Draft, Millis, Role

ID = "6f0c2f5e-93b1-4f5a-8d3c-2b9a7c1e4d60"
ADA = Account(AccountId(ID), "ada@example.com", "Ada", "Lovelace", frozenset({Role("payments")}), True, Millis(0), Millis(0))


def only(roles: tuple[str, ...] = (), accounts: tuple[str, ...] = ()) -> Audience:
    return Audience(False, frozenset(map(Role, roles)), frozenset(accounts))


def read(value: object) -> Audience:
    return AudienceOf().read("audience", value)


@pytest.mark.parametrize(
    ("value", "audience"),
    [
        ("everyone", EVERYONE),
        (["everyone"], EVERYONE),
        (["role:payments"], only(("payments",))),
        ("role:payments", only(("payments",))),
        ("role:payments, account:Ada@Example.com\n role:b-2", only(("payments", "b-2"), ("ada@example.com",))),
        ([f"account:{ID.upper()}", "account:a+b@x.org"], only((), (ID, "a+b@x.org"))),
    ],
)
def test_audience_is_a_list_or_text(value: object, audience: Audience) -> None:
    assert read(value) == audience


@pytest.mark.parametrize(
    "value",
    [
        *["", " ", ",", [], None, 0, False, True, {}, {"everyone": True}],
        *["Everyone", "everyone role:a", ["everyone", "role:a"], "all", "*", "role:*", "role:", "account:"],
        *[
            "payments",
            "ada@example.com",
            ["role:A"],
            ["role:payments "],
            ["role:a b"],
            ["role:ä"],
            ["role:" + "a" * 33],
            ["role:1"],
        ],
        *[["account:ada"], ["account:@example.com"], ["account:ada@"], ["account:a@b@c"], ["account:" + ID[:-1]]],
        *[
            ["account:\u212aelvin@example.com"],
            ["account:ada@example.com\n"],
            ["account:a\x00@example.com"],
            ["account:\ud800@x.org"],
        ],
        *[[["role:a"]], [None], [7], ["role:a"] * (MAX_AUDIENCE + 1)],
    ],
    ids=ascii,
)
def test_what_is_no_audience_is_refused(value: object) -> None:
    """An empty one above all: taken for everyone it would open what was meant to be closed."""
    with pytest.raises(FieldRefused) as refused:
        read(value)
    assert refused.value.field == "audience"


def test_everyone_is_whoever_is_signed_in() -> None:
    assert admits(Actor(ADA), EVERYONE)


@pytest.mark.parametrize("audience", [only(("payments",)), only((), (ID,)), only((), ("ada@example.com",)), only(("x",), (ID,))])
def test_audience_admits_by_role_address_or_id(audience: Audience) -> None:
    assert admits(Actor(ADA), audience)
    assert not admits(Actor(replace(ADA, id=AccountId("other"), email="b@x.org", roles=frozenset({Role("support")}))), audience)


@pytest.mark.parametrize(
    "audience",
    [only(), only(("support",)), only(("pay",)), only((), ("ada@example.co",)), only((), (ID[:-1],)), only((), ("payments",))],
)
def test_outside_the_audience_nobody_is_admitted(audience: Audience) -> None:
    assert not admits(Actor(ADA), audience)


@pytest.mark.parametrize(
    "audience", [EVERYONE, only(), only(("",)), only((), ("",)), only(("",), ("",)), only(("payments",), (ID,))]
)
@pytest.mark.parametrize(
    "actor",
    [
        NOBODY,
        Actor(scopes=frozenset({"messages:read"}), way="admin token"),
        Actor(replace(ADA, enabled=False)),
        Actor(replace(ADA, id=AccountId(""))),
        Actor(replace(ADA, email="")),
        Actor(replace(ADA, id=AccountId(""), email="", roles=frozenset({Role("")}))),
    ],
)
def test_nobody_nothing_and_empty_are_in_no_audience(actor: Actor, audience: Audience) -> None:
    assert not admits(actor, audience)


def test_empty_role_or_name_is_no_ones() -> None:
    for audience in (only(("",)), only((), ("",)), only(("",), ("",))):
        assert not admits(Actor(replace(ADA, roles=frozenset({Role("")}))), audience)


texts = st.text(max_size=4)
names = st.sets(texts | st.sampled_from(["payments", "ada@example.com", ID]), max_size=4)


@given(roles=names, accounts=names, own=st.sets(texts | st.just("payments"), max_size=3))
def test_nobody_is_admitted_without_a_name_in_common(roles: set[str], accounts: set[str], own: set[str]) -> None:
    account = replace(ADA, roles=frozenset(map(Role, own)))
    admitted = admits(Actor(account), only(tuple(roles), tuple(accounts)))
    assert admitted == bool((own & roles) - {""} or {ID, "ada@example.com"} & accounts)


@given(roles=st.sets(texts), accounts=st.sets(texts), everyone=st.booleans())
def test_audience_comes_out_of_the_envelope_as_it_went_in(roles: set[str], accounts: set[str], everyone: bool) -> None:
    audience = EVERYONE if everyone else only(tuple(roles), tuple(accounts))
    terms = encode_terms(Draft("m", audience=audience, policy={Role("a"): {"b": "show"}}))
    assert decode_terms(terms) == (audience, {"a": {"b": "show"}})


@pytest.mark.parametrize(
    "terms", [{}, {"audience": "everyone"}, {"audience": None, "policy": None}, {"audience": {}, "policy": None}, []]
)
def test_terms_of_another_form_open_nothing(terms: Any) -> None:
    """A later version may write what this one does not know: it must not be taken for everyone."""
    with pytest.raises((KeyError, TypeError)):
        decode_terms(json.dumps(terms).encode())
