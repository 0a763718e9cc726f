"""Compiled audiences agree with a naive interpreter on random graphs, people, tables and condition trees: members and context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlglot.optimizer.qualify import qualify

from cdp_assets.computed_traits.tables import TRAIT_VALUES, stored_values
from cdp_assets.linked_audiences.compile import (
    CompiledAudience,
    compile_audience,
    compile_inline,
    counted_events,
    identifier_types_of,
    joined_columns,
    reach_of,
)
from cdp_assets.linked_audiences.people import People, named_context, named_members
from cdp_assets.space.space import Space
from resources.warehouse import TableRef, Warehouse
from resources.warehouse.compiling import CompilingWarehouse
from resources.warehouse.duckdb import open_duckdb
from tests.linked_audiences.bank import bank, bank_space, build, context, members
from tests.linked_audiences.oracle import Oracle, Witness
from tests.linked_audiences.worlds import Town, town
from tests.people import AS_OF, World, ago

NAMES = ("trait", "partition_key", "canonical_segment_id", "value_number")
OTHER = {"key": "other", "groups": [{"conditions": [{"with_entity": "accounts", "at_most": 1}]}]}


def expected(world: World, made: Space, key: str) -> tuple[list[str], list[Witness], dict[str, int]]:
    """Members, context and login counts, by the oracle."""
    oracle = Oracle(world, made.graph, AS_OF, {}, made.audiences)
    counts: dict[str, int] = {}
    for event in world.events:
        if event["received_at"] < AS_OF.replace(tzinfo=None) and event["event"] == "Login":
            person = oracle.canonical[event["segment_id"]]
            counts[person] = counts.get(person, 0) + 1
    oracle.computed = {"logins": counts}
    audience = made.audiences[key]
    return sorted(oracle.members(audience)), sorted(oracle.context(audience), key=str), counts


@pytest.fixture(scope="module")
def kept_warehouse() -> Iterator[Warehouse]:
    """One warehouse for all examples: making tables anew would take most of the time."""
    with open_duckdb(":memory:") as warehouse:
        yield warehouse


Found = dict[str, tuple[list[str], list[Witness]]]


def by_the_oracle(drawn: Town) -> tuple[Found, dict[str, int]]:
    """Members and context of each audience, and login counts."""
    found: dict[str, tuple[list[str], list[Witness]]] = {key: ([], []) for key in drawn.made.audiences}
    logins: dict[str, int] = {}
    for household in drawn.households:
        for key in drawn.made.audiences:
            who, what, counts = expected(household, drawn.made, key)
            found[key][0].extend(who)
            found[key][1].extend(what)
            logins |= counts
    return {key: (sorted(who), sorted(what, key=str)) for key, (who, what) in found.items()}, logins


def by_the_product(warehouse: Warehouse, drawn: Town, logins: dict[str, int]) -> Found:
    drawn.world.write(warehouse)
    store_logins(warehouse, logins)
    found: Found = {}
    with ExitStack() as stack:

        def keep(expression: ir.Table) -> ir.Table:
            return stack.enter_context(warehouse.staged(expression))

        people = People(
            warehouse,
            drawn.made.graph,
            AS_OF,
            events=["Login", "Pay"],
            keep=keep,
            suppressions=False,
            joined=joined_columns(drawn.made.graph, drawn.made.audiences.values()),
            counted=counted_events(drawn.made.audiences.values(), AS_OF),
            reach=reach_of(drawn.made.audiences.values()),
            identifiers=identifier_types_of(drawn.made.graph, drawn.made.audiences.values()),
            numbered=True,
        )
        logins_now = keep(people.by_number(stored_values(warehouse, "logins", "now")))
        staged: dict[str, ir.Table] = {}
        for key, audience in drawn.made.audiences.items():
            compiled = compile_audience(
                warehouse,
                drawn.made,
                audience,
                AS_OF,
                members_of=staged.__getitem__,
                trait_values=lambda trait: logins_now,
                people=people,
                keep=keep if warehouse.quick_scratch else None,
            )
            staged[key] = keep(compiled.members)
            who = sorted(row["canonical_segment_id"] for row in warehouse.rows(named_members(staged[key]), 10_000))
            context = named_context(compiled.context_of(staged[key]), people.names)
            found[key] = (who, witnesses(warehouse, context))
    return found


def differing(drawn: Town, wanted: Found, found: Found) -> str:
    key = next((key for key in wanted if wanted[key] != found[key]), None)
    if key is None:
        return ""
    sides = [(set(wanted[key][part]) ^ set(found[key][part])) for part in (0, 1)]
    return f"{drawn.made.audiences[key].model_dump(exclude_none=True)} differs in {sides}"


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**9))
def test_compiled_audiences_agree_with_the_oracle(kept_warehouse: Warehouse, seed: int) -> None:
    drawn = town(Random(seed), households=120, audiences=14)
    wanted, logins = by_the_oracle(drawn)
    found = by_the_product(kept_warehouse, drawn, logins)
    assert not differing(drawn, wanted, found)
    people = len({row["segment_id"] for row in drawn.world.profiles})
    telling = [key for key, (who, _) in wanted.items() if 0 < len(who) < 0.9 * people]
    assert len(telling) > 2, "some of the audiences tell people apart"


@pytest.mark.snowflake
def test_audiences_agree_with_the_oracle_on_snowflake(snowflake_warehouse: Warehouse) -> None:
    drawn = town(Random(7), households=12, audiences=6)
    wanted, logins = by_the_oracle(drawn)
    assert not differing(drawn, wanted, by_the_product(snowflake_warehouse, drawn, logins))


def compiled_for(dialect: str, local: Warehouse, drawn: Town) -> Iterator[tuple[str, CompilingWarehouse, CompiledAudience]]:
    """Each audience for an engine that is not here; the tables are those of ``local``."""
    warehouse = CompilingWarehouse(dialect, lambda ref: local.schema(TableRef.parse(str(ref))))
    for key in drawn.made.audiences:
        compiled = compile_inline(
            warehouse,
            drawn.made,
            key,
            AS_OF,
            trait_values=lambda trait: stored_values(warehouse, trait, "now"),
            suppressions=False,
        )
        yield key, warehouse, compiled


@pytest.mark.parametrize("dialect", ["bigquery", "databricks"])
def test_what_is_compiled_for_other_engines_parses_and_gives_the_same_columns(kept_warehouse: Warehouse, dialect: str) -> None:
    drawn = town(Random(11), households=1, audiences=3)
    drawn.world.write(kept_warehouse)
    for _, warehouse, compiled in compiled_for(dialect, kept_warehouse, drawn):
        for expression in (compiled.members, compiled.context):
            tree = sqlglot.parse_one(warehouse.pretty_sql(expression), read=dialect)
            assert qualify(tree, dialect=dialect, schema=_catalogue(kept_warehouse, tree)).named_selects == list(
                expression.columns
            )
            called = {str(node.this).lower() for node in tree.find_all(sqlglot.exp.Anonymous)}
            assert not {name for name in called if name.startswith("cdp_")}, "functions of no dialect"


def _catalogue(warehouse: Warehouse, tree: sqlglot.exp.Expr) -> dict[str, dict[str, dict[str, str]]]:
    """Columns of the tables that a query names, for sqlglot to say what ``*`` is."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for table in tree.find_all(sqlglot.exp.Table):
        if table.db:
            columns = warehouse.schema(TableRef(table.db, table.name))
            found.setdefault(table.db, {})[table.name] = dict.fromkeys(columns, "string")
    return found


def store_logins(warehouse: Warehouse, logins: dict[str, int]) -> None:
    warehouse.delete(TRAIT_VALUES.ref, [])
    rows = [
        {"trait": "logins", "partition_key": "now", "canonical_segment_id": person, "value_number": float(count)}
        for person, count in logins.items()
    ]
    warehouse.append(
        TRAIT_VALUES.ref, pa.Table.from_pylist(rows, pa.schema([TRAIT_VALUES.schema.to_pyarrow().field(n) for n in NAMES]))
    )


def witnesses(warehouse: Warehouse, context: ir.Table) -> list[Witness]:
    names = ("canonical_segment_id", "path", "entity_id", "parent_entity_id")
    return sorted((tuple(row[name] for name in names) for row in warehouse.rows(context, 9999)), key=str)


def awkward() -> World:
    """Repeated, null and unmatched keys; a person with two addresses; merged and later people."""
    world = bank(
        accounts=[
            (1, "p@x", "a"),
            (1, "p2@x", "b"),
            (2, "p@x", "a"),
            (3, "q@x", None),
            (None, "q@x", "a"),
            (4, None, "a"),
            (5, "r@x", "b"),
        ],
        cards=[
            (10, 1, True, 1, 7),
            (10, 1, False, 2, 7),
            (11, 1, True, None, None),
            (20, 2, True, 0, 8),
            (None, 3),
            (31, 3, None, 1, 9),
            (50, None),
        ],
        payments=[("x", "7", 1), ("x", "7", 2), ("y", "8", 1), (None, "9"), ("z", None), ("w", "07")],
        products=[(1, "loan"), (1, "loan"), (2, None)],
        holdings=[(1, 1, 1), (2, 1, 1), (3, 1, 2), (4, 3, 2), (5, None, 1), (6, 5, None)],
        tickets=[(1, 42, "open"), (2, 42, None), (2, 43, "open"), (3, None, "open"), (4, 44, "open")],
        offers=[(1, "gold"), (1, "gold"), (2, None), (3, "7")],
    )
    for person in ("p", "q", "r", "s", "old"):
        world.profile(person, email=f"{person}@x")
    world.profile("late", ago(days=-1), email="late@x")
    for kind, value in (("email", "p2@x"), ("user_id", "42"), ("user_id", "43")):
        world.identify("p", kind, value)
    world.identify("old", "user_id", "44")
    world.merge("old", "q")
    world.merge("s", "r", ago(days=0))
    world.trait("p", "plan", "gold")
    world.trait("old", "plan", "gold")
    world.trait("q", "plan", None)
    world.trait("r", "plan", "7")
    return world


HOW_MANY: list[tuple[str, dict[str, Any]]] = [
    ("with_entity", {}),
    ("with_entity", {"at_least": 2}),
    ("with_entity", {"exactly": 1}),
    ("with_entity", {"at_most": 1}),
    ("with_entity", {"exactly": 0}),
    ("without_entity", {}),
]


def quantified_conditions() -> Iterator[dict[str, Any]]:
    """Every relationship with every quantifier; nested ones within any account, beside a sibling that some accounts meet."""
    for side, quantity in HOW_MANY:
        for slug in ("accounts", "tickets", "offers"):
            yield {side: slug, **quantity}
        payments = {"with_entity": "cards", "nested": {"conditions": [{side: "payments", **quantity}]}}
        for nested in ({side: "cards", **quantity}, {side: "products", **quantity}, payments):
            for match in ("all", "any"):
                sibling = {"with_entity": "products", "exactly": 2}
                yield {"with_entity": "accounts", "nested": {"match": match, "conditions": [nested, sibling]}}


def test_every_quantifier_agrees_on_awkward_rows(kept_warehouse: Warehouse) -> None:
    world = awkward()
    world.write(kept_warehouse)
    audiences = [{"key": f"a{i}", "groups": [{"conditions": [c]}]} for i, c in enumerate(quantified_conditions())]
    either = {
        "match": "any",
        "conditions": [{"with_entity": "accounts", "exactly": 1}, {"with_entity": "tickets", "at_least": 2}],
    }
    both = {"conditions": [{"with_entity": "offers"}, {"with_entity": "accounts", "at_most": 1}]}
    for match in ("all", "any"):
        audiences.append({"key": match, "match": match, "groups": [either, both]})
    made = bank_space(*audiences)
    results = build(kept_warehouse, made)
    assert all(result.built for result in results.values())
    somebody = 0
    for key in made.audiences:
        wanted_members, wanted_context, _ = expected(world, made, key)
        assert members(kept_warehouse, made, key) == wanted_members, made.audiences[key]
        assert context(kept_warehouse, made, key) == wanted_context, made.audiences[key]
        somebody += bool(wanted_members) and len(wanted_members) < 4
    assert somebody > len(audiences) / 2, "most of the audiences tell people apart"


def test_many_conditions_make_one_query(kept_warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "p@x"), (2, "q@x")], cards=[(10, 1)])
    for person in "pqr":
        world.profile(person, email=f"{person}@x")
    world.write(kept_warehouse)
    nested = {"with_entity": "accounts", "nested": {"conditions": [{"with_entity": "cards"}]}}
    made = bank_space({"key": "made", "match": "any", "groups": [{"match": "any", "conditions": [nested] * 50}]})
    build(kept_warehouse, made)
    assert members(kept_warehouse, made, "made") == ["p"]
    assert context(kept_warehouse, made, "made") == [("p", "accounts", "1", None), ("p", "accounts:cards", "10", "1")]


def test_compiled_in_place_agrees_too(kept_warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "p@x"), (2, "p@x"), (3, "q@x")])
    for person in "pqr":
        world.profile(person, email=f"{person}@x")
    world.write(kept_warehouse)
    made = bank_space({"key": "made", "groups": [{"conditions": [{"not_part_of": "other"}]}]}, OTHER)
    compiled = compile_inline(kept_warehouse, made, "made", AS_OF, trait_values=lambda key: pytest.fail(key))
    assert (
        [row["canonical_segment_id"] for row in kept_warehouse.rows(compiled.members, 9)]
        == ["p"]
        == expected(world, made, "made")[0]
    )
    assert kept_warehouse.count(compiled.context) == 0
