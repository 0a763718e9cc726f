"""Compiled audiences agree with a naive interpreter on random people, tables and condition trees: members and context."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdp_assets.computed_traits.tables import TRAIT_VALUES, stored_values
from cdp_assets.linked_audiences.compile import compile_inline
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from resources.warehouse.duckdb import open_duckdb
from tests.linked_audiences.bank import COLUMNS, RELATIONSHIPS, bank, bank_space, build, context, members
from tests.linked_audiences.oracle import Oracle, Witness
from tests.people import AS_OF, World, ago

PEOPLE = ("p", "q", "r", "s")
DATES = [None, dt.date(2025, 12, 31), dt.date(2026, 1, 1), dt.date(2026, 1, 31), dt.date(2026, 2, 1)]
INSTANTS = [None, ago(days=30), ago(days=30, microseconds=1), ago(days=0), ago(days=-30), ago(days=-30, microseconds=-1)]
WORDS = [None, "a", "ab", "b", "B", "1"]
SMALL = st.integers(0, 2)
CELLS = {
    "date": st.sampled_from(DATES),
    "timestamp": st.sampled_from(INSTANTS),
    "int64": st.sampled_from([None, 0, 1, 1, 2, 2]),
    "float64": st.sampled_from([None, 0.0, 1.5, 2.0]),
    "boolean": st.sampled_from([None, True, False]),
    "string": st.sampled_from(WORDS),
}
SPECIAL = {
    ("accounts", "owner"): st.sampled_from(["p@x", "p@x", "q@x", "q@x", "r@x", "P@x", None]),
    ("payments", "id"): st.sampled_from(["x", "y", "z"]),
    ("payments", "card"): st.sampled_from([None, "0", "1", "1", "2", "01"]),
    ("offers", "plan"): st.sampled_from([None, "a", "ab", "1"]),
}
SIZES = {"accounts": 5, "cards": 6, "payments": 5, "holdings": 5}


def rows_of(table: str) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    cells = [SPECIAL.get((table, name), CELLS[kind]) for name, kind in COLUMNS[table].items()]
    most = SIZES.get(table, 3)
    return st.one_of(
        st.lists(st.tuples(*cells), min_size=most - 2, max_size=most), st.just([]) if table != "accounts" else st.nothing()
    )


@st.composite
def worlds(draw: Any) -> World:
    world = bank(**{table: draw(rows_of(table)) for table in COLUMNS})
    known = st.sampled_from([None, None, None, ago(days=-1), ago(days=0)])
    for person in PEOPLE:
        world.profile(person)
    world.identify("p", "email", "p@x")
    world.identify("q", "email", "q@x")
    for address, person in draw(st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from(PEOPLE)), max_size=5)):
        world.identify(person, "email", f"{address}@x", draw(known))
    for user, person in draw(st.lists(st.tuples(SMALL, st.sampled_from(PEOPLE)), max_size=4)):
        world.identify(person, "user_id", str(user), draw(known))
    for person, name, value in draw(
        st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(["plan", "age"]), st.sampled_from(WORDS)), max_size=6)
    ):
        world.trait(person, name, value, draw(known))
    for person, name, days, value in draw(
        st.lists(
            st.tuples(
                st.sampled_from(PEOPLE),
                st.sampled_from(["Login", "Pay"]),
                st.integers(-1, 4),
                st.sampled_from([None, 1, 2.5, "a"]),
            ),
            max_size=8,
        )
    ):
        world.event(person, name, ago(days=days), {"v": value}, received_at=draw(known))
    if draw(st.booleans()):
        world.merge("q", "p", draw(known))
    if draw(st.booleans()):
        world.merge("p", "s", draw(known))
    return world


def comparisons(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    span = st.fixed_dictionaries(
        {
            "operator": st.sampled_from(["within_last", "within_next", "before_last", "after_next"]),
            "amount": st.sampled_from([0, 1, 30]),
        }
    )
    presence = st.fixed_dictionaries({"operator": st.sampled_from(["exists", "absent"])})
    order = ["equals", "differs", "less_than", "at_most", "greater_than", "at_least"]

    def valued(operators: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({"operator": st.sampled_from(operators), "value": values})

    words = st.sampled_from(["a", "ab", "b", "1"])
    if kind in ("int64", "float64"):
        lists = st.lists(SMALL, min_size=1, max_size=2)
        return st.one_of(valued(order, st.sampled_from([0, 1, 1.5, 2])), valued(["one_of", "none_of"], lists), presence)
    if kind == "boolean":
        return st.one_of(valued(["equals", "differs"], st.booleans()), presence)
    if kind == "string":
        return st.one_of(
            valued(["equals", "differs", "contains", "omits", "starts_with", "ends_with"], words),
            valued(["one_of", "none_of", "contains"], st.lists(words, min_size=1, max_size=2)),
            presence,
        )
    edges = DATES[1:] if kind == "date" else INSTANTS[1:]
    return st.one_of(span, valued(["before_date", "after_date", *order], st.sampled_from(edges)), presence)


QUANTIFIERS = st.sampled_from(
    [{}, {}, {"at_least": 2}, {"exactly": 1}, {"at_most": 1}, {"exactly": 2}, {"exactly": 0}, {"at_most": 0}]
)


@st.composite
def entity_conditions(draw: Any, below: tuple[Any, ...] = RELATIONSHIPS) -> dict[str, Any]:
    relationship = draw(st.sampled_from(below))
    table = {"account": "accounts"}.get(relationship.entity, f"{relationship.entity}s")
    without = draw(st.integers(0, 4)) == 0
    condition: dict[str, Any] = {"without_entity" if without else "with_entity": relationship.slug}
    quantifier = {} if without else draw(QUANTIFIERS)
    condition |= quantifier
    if 0 in quantifier.values():
        return condition
    if draw(st.booleans()):
        filters = []
        for column in draw(st.lists(st.sampled_from(list(COLUMNS[table])), min_size=1, max_size=2)):
            filters.append({"column": column.upper(), **draw(comparisons(COLUMNS[table][column]))})
        condition["where"] = {draw(st.sampled_from(["all", "any"])): filters}
    if relationship.children and draw(st.integers(0, 3)):
        nested = draw(st.lists(entity_conditions(relationship.children), min_size=1, max_size=2))
        condition["nested"] = {"match": draw(st.sampled_from(["all", "any"])), "conditions": nested}
    return condition


@st.composite
def other_conditions(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["trait", "number", "computed", "event", "audience"]))
    if kind == "audience":
        return {draw(st.sampled_from(["part_of", "not_part_of"])): "other"}
    if kind == "event":
        without = draw(st.booleans())
        condition: dict[str, Any] = {"without_event" if without else "with_event": "Login"}
        quantifier = {} if without else draw(QUANTIFIERS)
        window_ = draw(st.sampled_from([{}, {"within": {"last": 2}}, {"between": {"from": 3, "to": 1}}]))
        condition |= quantifier | window_
        if 0 not in quantifier.values() and draw(st.booleans()):
            condition["where"] = {"all": [{"property": "v", "operator": "at_least", "value": 2}]}
        return condition
    side = draw(st.sampled_from(["with_trait", "without_trait"]))
    if kind == "computed":
        return {side: "logins", **draw(comparisons("int64"))}
    return {side: draw(st.sampled_from(["plan", "age"])), **draw(comparisons("string" if kind == "trait" else "int64"))}


GROUPS = st.lists(
    st.fixed_dictionaries(
        {
            "match": st.sampled_from(["all", "any"]),
            "conditions": st.lists(
                st.one_of(entity_conditions(), entity_conditions(), other_conditions()), min_size=1, max_size=3
            ),
        }
    ),
    min_size=1,
    max_size=2,
)
NAMES = ("trait", "partition_key", "canonical_segment_id", "value_number")
LOGINS = {"key": "logins", "kind": "event_counter", "event": "Login"}
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


@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(world=worlds(), match=st.sampled_from(["all", "any"]), groups=GROUPS)
def test_compiled_audiences_agree_with_the_oracle(
    kept_warehouse: Warehouse, world: World, match: str, groups: list[dict[str, Any]]
) -> None:
    made = bank_space({"key": "made", "match": match, "groups": groups}, OTHER, traits=[LOGINS])
    wanted_members, wanted_context, logins = expected(world, made, "made")
    world.write(kept_warehouse)
    store_logins(kept_warehouse, logins)
    compiled = compile_inline(
        kept_warehouse, made, "made", AS_OF, trait_values=lambda key: stored_values(kept_warehouse, key, "now")
    )
    with kept_warehouse.staged(compiled.members) as found:
        assert sorted(row["canonical_segment_id"] for row in kept_warehouse.rows(found, 99)) == wanted_members
        assert witnesses(kept_warehouse, compiled.context_of(found)) == wanted_context


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
