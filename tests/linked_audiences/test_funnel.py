"""How many profiles are left at each condition, and which one empties an audience."""

from __future__ import annotations

from random import Random
from typing import Any

import ibis.expr.types as ir
import pytest

from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.linked_audiences.compile import compile_inline
from cdp_assets.linked_audiences.funnel import emptied_by, funnel_text, stages, survivors
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from tests.linked_audiences.bank import bank, bank_space, one_group, where
from tests.linked_audiences.test_oracle import store_logins
from tests.linked_audiences.test_verdicts import oracle_of
from tests.linked_audiences.worlds import town
from tests.people import AS_OF, World, ago


def none(key: str) -> Any:
    raise AssertionError(key)


def left(warehouse: Warehouse, made: Space, key: str) -> dict[Any, int]:
    return survivors(warehouse, made, made.audiences[key], AS_OF, members_of=none, trait_values=none)


def people() -> World:
    """P: an account with an overdue card and one without; Q: an account with a card; R: an account; S: nothing. P and R pay."""
    world = bank(
        accounts=[(1, "p@x", "checking"), (2, "p@x", "savings"), (3, "q@x", "savings"), (4, "r@x", "checking")],
        cards=[(10, 1, True), (11, 2, False), (12, 3, False)],
    )
    for name in "PQRS":
        world.profile(name, email=f"{name.lower()}@x")
    world.event("P", "Pay", ago(days=1))
    world.event("R", "Pay", ago(days=9))
    return world


def test_each_line_counts_who_meets_everything_up_to_it(warehouse: Warehouse) -> None:
    people().write(warehouse)
    cards = {"with_entity": "cards", "where": where(("overdue", "equals", True))}
    made = bank_space(
        one_group(
            "overdue",
            {"with_entity": "accounts", "where": where(("kind", "equals", "checking")), "nested": {"conditions": [cards]}},
            {"with_event": "Pay", "within": {"last": 5}},
        )
    )
    found = left(warehouse, made, "overdue")
    assert funnel_text(made, made.audiences["overdue"], found).splitlines() == [
        "4 profiles; all of these conditions",
        "├─ 3  with at least 1 Accounts (accounts) where",
        '│  ├─ 2  kind is "checking"',
        "│  └─ 1  with at least 1 Cards (cards) where",
        "│     └─ 1  overdue is true",
        "└─ 1  performed Pay at least 1 time within the last 5 days",
    ]
    assert emptied_by(made, made.audiences["overdue"], found) is None


@pytest.mark.parametrize(
    ("conditions", "match", "emptied"),
    [
        ([{"with_entity": "accounts", "at_least": 3}], "all", "with at least 3 Accounts (accounts)"),
        (
            [{"with_entity": "accounts", "where": where(("kind", "equals", "loan"), ("balance", "exists"))}],
            "all",
            'with at least 1 Accounts (accounts) › kind is "loan"',
        ),
        (
            [{"with_entity": "accounts", "where": where(("kind", "equals", "savings"), ("balance", "exists"))}],
            "all",
            "with at least 1 Accounts (accounts) › balance is set",
        ),
        (
            [{"with_entity": "accounts", "where": where(("kind", "equals", "loan"), ("balance", "exists"), match="any")}],
            "all",
            'with at least 1 Accounts (accounts) › kind is "loan"',
        ),
        ([{"with_event": "Pay"}, {"without_event": "Pay"}], "all", "did not perform Pay"),
        ([{"with_event": "Login"}, {"with_entity": "tickets"}], "any", "performed Login at least 1 time"),
        ([{"with_event": "Login"}, {"with_entity": "accounts"}], "any", None),
    ],
)
def test_the_first_condition_that_empties_it_is_named(
    duckdb_warehouse: Warehouse, conditions: list[dict[str, Any]], match: str, emptied: str | None
) -> None:
    people().write(duckdb_warehouse)
    made = bank_space(one_group("empty", *conditions, match=match))
    assert emptied_by(made, made.audiences["empty"], left(duckdb_warehouse, made, "empty")) == emptied


def test_one_of_several_that_leaves_nobody_empties_nothing(duckdb_warehouse: Warehouse) -> None:
    people().write(duckdb_warehouse)
    either = {"with_entity": "accounts", "where": where(("kind", "equals", "loan"), ("kind", "equals", "savings"), match="any")}
    made = bank_space(one_group("empty", either, {"with_event": "Login"}))
    assert emptied_by(made, made.audiences["empty"], left(duckdb_warehouse, made, "empty")) == "performed Login at least 1 time"
    groups = [{"conditions": [{"with_event": "Login"}]}, {"conditions": [{"with_event": "Pay"}]}]
    made = bank_space({"key": "either", "match": "any", "groups": groups})
    assert emptied_by(made, made.audiences["either"], left(duckdb_warehouse, made, "either")) is None


def test_an_empty_space_is_emptied_by_no_condition(duckdb_warehouse: Warehouse) -> None:
    bank().write(duckdb_warehouse)
    made = bank_space(one_group("empty", {"with_event": "Pay"}))
    assert emptied_by(made, made.audiences["empty"], left(duckdb_warehouse, made, "empty")) is None


def test_counts_agree_with_the_interpreter(duckdb_warehouse: Warehouse) -> None:
    drawn, telling = town(Random("funnel"), households=15, audiences=8), 0
    drawn.world.write(duckdb_warehouse)
    oracles = [oracle_of(world, drawn) for world in drawn.households]
    store_logins(duckdb_warehouse, {p: n for oracle in oracles for p, n in oracle.computed["logins"].items()})
    values = lambda trait: stored_values(duckdb_warehouse, trait, "now")  # noqa: E731

    def inline(other: str) -> ir.Table:
        return compile_inline(duckdb_warehouse, drawn.made, other, AS_OF, trait_values=values, suppressions=False).members

    for key, audience in drawn.made.audiences.items():
        found = survivors(duckdb_warehouse, drawn.made, audience, AS_OF, members_of=inline, trait_values=values)
        assert found.pop(()) == sum(len(oracle.people) for oracle in oracles)
        for stage in stages(audience):
            wanted = sum(
                all(oracle.condition(person, condition) for condition in stage.met)
                and all(oracle.group(person, audience.groups[index]) for index in stage.groups)
                for oracle in oracles
                for person in oracle.people
            )
            assert found[stage.place] == wanted, (key, stage)
            telling += 0 < wanted < 50
    assert telling > 10
