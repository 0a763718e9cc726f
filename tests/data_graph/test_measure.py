"""How well joins match: against a look at every pair of rows; and the masked first rows."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdp_assets.data_graph.measure import JoinCounts, first_rows
from cdp_assets.graph_report import graph_report
from resources.warehouse import TableRef, Warehouse
from tests.linked_audiences.bank import COLUMNS, bank, bank_space
from tests.people import AS_OF, World

PEOPLE = ("P", "Q", "R", "S")
EMAILS, CLIENTS, PLANS = ("p@x", "q@x", "P@x"), ("7", "8", "007"), ("gold", "basic")
KEYS = st.none() | st.integers(1, 3)

rows = st.fixed_dictionaries(
    {
        "accounts": st.lists(st.tuples(KEYS, st.none() | st.sampled_from(EMAILS)), max_size=6),
        "cards": st.lists(st.tuples(st.integers(1, 9), KEYS, st.none(), st.none(), KEYS), max_size=6),
        "payments": st.lists(st.tuples(st.just("x"), st.none() | st.sampled_from(("1", "2", "01", "z"))), max_size=6),
        "products": st.lists(st.tuples(KEYS), max_size=3),
        "holdings": st.lists(st.tuples(st.just(1), KEYS, KEYS), max_size=5),
        "tickets": st.lists(st.tuples(st.just(1), st.none() | st.sampled_from((7, 8))), max_size=6),
        "offers": st.lists(st.tuples(st.just(1), st.none() | st.sampled_from(PLANS)), max_size=3),
    }
)
people = st.fixed_dictionaries(
    {
        # An identifier belongs to one profile.
        "email": st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(EMAILS)), unique_by=lambda held: held[1]),
        "user_id": st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(CLIENTS)), unique_by=lambda held: held[1]),
        "plan": st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(PLANS)), max_size=6),
        "merge": st.none() | st.sampled_from([("Q", "P"), ("R", "P")]),
    }
)


def world_of(tables: dict[str, list[tuple[Any, ...]]], who: dict[str, Any]) -> World:
    world = bank(**tables)
    for person in PEOPLE:
        world.profile(person)
    for kind in ("email", "user_id"):
        for person, value in who[kind]:
            world.identify(person, kind, value)
    for person, value in who["plan"]:
        world.trait(person, "plan", value)
    if who["merge"]:
        world.merge(*who["merge"])
    return world


def naive(tables: dict[str, list[tuple[Any, ...]]], who: dict[str, Any]) -> dict[str, JoinCounts]:
    """Every pair of rows looked at, in Python."""
    loser, winner = who["merge"] or ("", "")

    def person(one: str) -> str:
        return winner if one == loser else one

    profiles = sorted({person(one) for one in PEOPLE})
    plans: dict[str, str] = {}
    for one, value in who["plan"]:  # the newest value stands
        plans[person(one)] = value
    column = {name: {c: i for i, c in enumerate(COLUMNS[name])} for name in COLUMNS}

    def get(table: str, row: tuple[Any, ...], name: str) -> Any:
        at = column[table][name]
        return row[at] if at < len(row) else None

    def of_people(table: str, name: str, known: set[tuple[str, str]]) -> JoinCounts:
        pairs = [
            (who_is, index)
            for index, row in enumerate(tables[table])
            for who_is, value in known
            if get(table, row, name) is not None and str(get(table, row, name)) == value
        ]
        return JoinCounts(len(profiles), len({p for p, _ in pairs}), len(tables[table]), len({i for _, i in pairs}), len(pairs))

    def between(above: str, below: str, pairs: list[tuple[int, int]]) -> JoinCounts:
        found = (len({a for a, _ in pairs}), len(tables[below]), len({b for _, b in pairs}), len(pairs))
        return JoinCounts(len(tables[above]), *found)

    def equal(above: str, left: str, below: str, right: str) -> list[tuple[int, int]]:
        return [
            (a, b)
            for a, one in enumerate(tables[above])
            for b, other in enumerate(tables[below])
            if get(above, one, left) is not None and str(get(above, one, left)) == str(get(below, other, right))
        ]

    to_holding, to_product = equal("accounts", "id", "holdings", "account_id"), equal("holdings", "product_id", "products", "id")
    return {
        "accounts": of_people("accounts", "owner", {(person(p), v) for p, v in who["email"]}),
        "accounts:cards": between("accounts", "cards", equal("accounts", "id", "cards", "account_id")),
        "accounts:cards:payments": between("cards", "payments", equal("cards", "serial", "payments", "card")),
        "accounts:products": between(
            "accounts", "products", [(a, p) for a, h in to_holding for other, p in to_product if h == other]
        ),
        "tickets": of_people("tickets", "client", {(person(p), v) for p, v in who["user_id"]}),
        "offers": of_people("offers", "plan", set(plans.items())),
    }


def check(warehouse: Warehouse, tables: dict[str, list[tuple[Any, ...]]], who: dict[str, Any]) -> None:
    world_of(tables, who).write(warehouse)
    report = graph_report(bank_space(), warehouse, AS_OF, problems=())
    assert report.measured is not None
    assert report.measured.joins == naive(tables, who)
    assert report.measured.profiles == len(PEOPLE) - bool(who["merge"])
    entities = {"account": "accounts", "card": "cards", "payment": "payments", "product": "products", "ticket": "tickets"}
    assert {slug: report.measured.tables[slug] for slug in entities} == {s: len(tables[t]) for s, t in entities.items()}


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take minutes, and the worlds are small
)
@given(rows, people)
def test_counts_are_those_of_a_look_at_every_pair(
    duckdb_warehouse: Warehouse, tables: dict[str, list[tuple[Any, ...]]], who: dict[str, Any]
) -> None:
    check(duckdb_warehouse, tables, who)


EXAMPLE: dict[str, list[tuple[Any, ...]]] = {
    "accounts": [(1, "p@x"), (2, "p@x"), (2, "q@x"), (None, None)],
    "cards": [(10, 1, None, None, 1), (11, 2, None, None, 2), (12, 9, None, None, None)],
    "payments": [("x", "1"), ("y", "01"), ("z", None)],
    "products": [(1,), (2,), (3,)],
    "holdings": [(1, 1, 1), (2, 1, 1), (3, 2, 3), (4, None, 3)],
    "tickets": [(1, 7), (2, 9)],
    "offers": [(1, "gold")],
}
WHO = {
    "email": [("P", "p@x"), ("Q", "p@x"), ("P", "q@x")],
    "user_id": [("R", "7")],
    "plan": [("S", "basic"), ("S", "gold")],
    "merge": ("Q", "P"),
}


def test_both_engines_count_the_same_example(warehouse: Warehouse) -> None:
    check(warehouse, EXAMPLE, WHO)


def test_without_profiles_or_tables_the_rest_is_counted(duckdb_warehouse: Warehouse) -> None:
    for name, (columns, found) in bank(**EXAMPLE).tables.items():
        if name in ("accounts", "cards"):
            world = World(tables={name: (columns, found)})
            world.write(duckdb_warehouse)
    duckdb_warehouse.drop(TableRef("profiles", "id_graph_updates"))
    report = graph_report(bank_space(), duckdb_warehouse, AS_OF)
    assert report.measured is not None
    assert report.measured.profiles is None
    assert dict(report.measured.tables) == {"account": 4, "card": 3}
    assert list(report.measured.joins) == ["accounts:cards"]
    assert "table missing" in report.svg()
    assert "no profiles yet" in report.svg()


def test_first_rows_are_ordered_and_masked_unless_asked_for(duckdb_warehouse: Warehouse) -> None:
    world = bank(accounts=[(2, "second@x.test", "checking", 5.0, dt.date(2026, 1, 1)), (1, "first@x.test", "savings", 7.5)])
    world.write(duckdb_warehouse)
    graph = bank_space().graph
    shown = first_rows(graph, duckdb_warehouse, 1, show_personal=True)
    assert shown["account"] == [{"id": 1, "owner": "first@x.test", "kind": "savings", "balance": 7.5, "renews": None}]
    masked = first_rows(graph, duckdb_warehouse, 5)
    assert [row["id"] for row in masked["account"]] == [1, 2]
    assert [row["owner"] for row in masked["account"]] == ["xxxxx@x.xxxx", "xxxxxx@x.xxxx"]
    assert masked["card"] == []
    with_rows = graph_report(bank_space(), duckdb_warehouse, AS_OF, rows=5)
    assert "first@x.test" not in str(with_rows.to_json()) + with_rows.to_text() + with_rows.svg()


@pytest.mark.parametrize("rows_shown", [0, 1])
def test_the_report_says_who_uses_a_node(duckdb_warehouse: Warehouse, rows_shown: int) -> None:
    bank(**EXAMPLE).write(duckdb_warehouse)
    made = bank_space({"key": "owners", "groups": [{"conditions": [{"with_entity": "accounts"}]}]})
    report = graph_report(made, duckdb_warehouse, AS_OF, rows=rows_shown)
    found = report.to_json()
    assert found["nodes"]["accounts"]["consumers"] == ["audience owners"]
    assert found["nodes"]["accounts:cards"]["consumers"] == []
    assert len(found["entities"]["account"]["first_rows"]) == rows_shown
    assert "used by audience owners" in report.to_text()
