"""Computed and SQL traits: what each kind says, as of an instant, and that one that fails, fails alone."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_assets.computed_traits.build import TraitResult, build_traits
from cdp_assets.computed_traits.tables import TRAIT_VALUES, stored_values
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from tests.people import AS_OF, World, ago, revisions, space, window


def build(warehouse: Warehouse, made: Space, as_of: dt.datetime = AS_OF) -> dict[str, TraitResult]:
    return build_traits(
        warehouse, made, list(made.traits), window(made, as_of), as_of, loaded_at=as_of, run_id="run", revisions=revisions(made)
    )


def values(warehouse: Warehouse, made: Space, trait: str, as_of: dt.datetime = AS_OF) -> dict[str, Any]:
    rows = warehouse.rows(stored_values(warehouse, trait, window(made, as_of).key), 1000)
    assert all((row["value_text"] is None) != (row["value_number"] is None) for row in rows)
    return {
        row["canonical_segment_id"]: row["value_text"] if row["value_text"] is not None else row["value_number"] for row in rows
    }


def counter(key: str = "logins", **more: Any) -> dict[str, Any]:
    return {"key": key, "kind": "event_counter", "event": "Login", **more}


def test_every_kind_over_one_scan(warehouse: Warehouse) -> None:
    world = World()
    world.profile("p")
    world.profile("anonymous")
    world.merge("anonymous", "p")
    world.profile("q")
    paid = [(3, "b", 10.5, "EUR"), (2, 'say "hi"\\\n', "4", "EUR"), (1, "b", None, "USD"), (1, None, "nan", "EUR")]
    for days, shop, amount, currency in paid:
        world.event("anonymous", "Pay", ago(days=days), {"shop": shop, "cart": {"amount": amount}, "currency": currency})
    world.event("q", "Pay", ago(days=40), {"shop": "z", "cart": {"amount": 0.1}}, {"page": {"url": "/x"}})
    world.event("q", "Pay", ago(days=39), {"shop": "z", "cart": {"amount": 0.2}})
    world.event("q", "Login", ago(days=1))
    world.event(None, "Pay", ago(days=1), {"shop": "nobody's"})
    pay = {"event": "Pay", "property": "shop"}
    amount = {"event": "Pay", "property": "cart.amount", "kind": "aggregation"}
    euro = {"where": {"all": [{"property": "currency", "operator": "equals", "value": "EUR"}]}}
    month = {"within": {"last": 30, "unit": "days"}}
    made = space(
        traits=[
            {"key": "payments", "kind": "event_counter", "event": "Pay"},
            {"key": "payments_30d", "kind": "event_counter", "event": "Pay", **month},
            {"key": "euros", **amount, "function": "sum", **euro},
            {"key": "average", **amount, "function": "avg"},
            {"key": "lowest", **amount, "function": "min"},
            {"key": "highest_30d", **amount, "function": "max", **month},
            {"key": "first_shop", "kind": "first", **pay},
            {"key": "last_shop", "kind": "last", **pay},
            {"key": "last_amount", "kind": "last", "event": "Pay", "property": "cart.amount", "type": "number"},
            {"key": "first_paid", "kind": "first", "event": "Pay", "property": "timestamp"},
            {"key": "usual_shop", "kind": "most_frequent", **pay},
            {"key": "shops", "kind": "unique_list", **pay},
            {"key": "shop_count_30d", "kind": "unique_list_count", **pay, **month},
            {
                "key": "from_x",
                "kind": "event_counter",
                "event": "Pay",
                "where": {"any": [{"context": "page.url", "operator": "contains", "value": "/x"}]},
            },
        ]
    )
    world.write(warehouse)
    results = build(warehouse, made)
    assert {key: result.error for key, result in results.items() if result.error} == {}
    found = {key: values(warehouse, made, key) for key in made.traits}
    assert found.pop("euros") == {"p": 14.5}
    assert found.pop("average") == {"p": 7.25, "q": pytest.approx(0.15)}
    shops = found.pop("shops")
    assert {profile: json.loads(text) for profile, text in shops.items()} == {"p": ["b", 'say "hi"\\\n'], "q": ["z"]}
    assert found == {
        "payments": {"p": 4, "q": 2},
        "payments_30d": {"p": 4, "q": 0},
        "lowest": {"p": 4, "q": 0.1},
        "highest_30d": {"p": 10.5},
        "first_shop": {"p": "b", "q": "z"},
        "last_shop": {"p": "b", "q": "z"},
        "last_amount": {"p": 4, "q": 0.2},
        "first_paid": {"p": "2025-12-29T00:00:00.000000Z", "q": "2025-11-22T00:00:00.000000Z"},
        "usual_shop": {"p": "b", "q": "z"},
        "shop_count_30d": {"p": 2, "q": 0},
        "from_x": {"p": 0, "q": 1},
    }
    assert {key: result.rows for key, result in results.items() if key in found} == {k: len(v) for k, v in found.items()}


def test_AE6_1_the_most_frequent_value_needs_two_occurrences_and_a_tie_goes_to_the_first_alphabetically(
    duckdb_warehouse: Warehouse,
) -> None:
    world = World()
    for profile, seen in {"tie": "bbaa", "once": "ab", "often": "abb"}.items():
        world.profile(profile)
        for i, value in enumerate(seen):
            world.event(profile, "See", ago(days=10 - i), {"what": value})
    world.write(duckdb_warehouse)
    made = space(traits=[{"key": "seen", "kind": "most_frequent", "event": "See", "property": "what"}])
    build(duckdb_warehouse, made)
    assert values(duckdb_warehouse, made, "seen") == {"tie": "a", "often": "b"}


def test_AE6_2_a_30_day_counter_falls_to_zero_at_the_next_batch(duckdb_warehouse: Warehouse) -> None:
    world = World()
    world.profile("p")
    world.profile("never")
    world.event("p", "Login", ago(days=5))
    world.event("p", "Login", ago(days=5), received_at=ago(days=2))
    world.write(duckdb_warehouse)
    made = space(traits=[counter(within={"last": 30, "unit": "days"})])
    for later, expected in ((-3, {"p": 1}), (0, {"p": 2}), (25, {"p": 2}), (26, {"p": 0})):
        as_of = AS_OF + dt.timedelta(days=later)
        build(duckdb_warehouse, made, as_of)
        assert values(duckdb_warehouse, made, "logins", as_of) == expected, later


def sql_trait(query: str, **more: Any) -> dict[str, Any]:
    return {"key": "total", "kind": "sql", "identifier": "user_id", "query": query, "type": "number", **more}


def loans(*rows: tuple[Any, float | None]) -> World:
    world = World()
    world.profile("p", user_id=["1", "11"])
    world.profile("q", user_id="2")
    world.table("loans", {"client": "int64", "amount": "float64"}, [{"client": c, "amount": a} for c, a in rows])
    return world


SUMS = "SELECT client AS User_Id, SUM(amount) AS total FROM bank.loans GROUP BY client"


def test_a_sql_trait_follows_identifiers_and_counts_the_unknown(warehouse: Warehouse) -> None:
    loans((1, 5.0), (11, 7.0), (2, None), (99, 1.0)).write(warehouse)
    made = space(traits=[sql_trait(SUMS)])
    assert build(warehouse, made) == {"total": TraitResult(rows=1, unknown=1, changed=1)}
    assert values(warehouse, made, "total") == {"p": 7}, "the last seen of two user ids speaks"


def test_AE6_3_a_vanished_row_has_no_value_in_the_next_build(duckdb_warehouse: Warehouse) -> None:
    made = space(traits=[sql_trait(SUMS)])
    for rows, expected in (((1, 5.0), (2, 6.0)), {"p": 5, "q": 6}), (((2, 6.0),), {"q": 6}), (((2, 6.0),), {"q": 6}):
        loans(*rows).write(duckdb_warehouse)
        build(duckdb_warehouse, made)
        assert values(duckdb_warehouse, made, "total") == expected


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("SELECT client AS user_id, amount AS total FROM bank.loans", r"1 row\(s\) with a duplicate user_id"),
        (
            "SELECT NULLIF(client, 2) AS user_id, MAX(amount) AS total FROM bank.loans GROUP BY 1",
            r"1 row\(s\) with a null user_id",
        ),
        ("SELECT client AS user_id FROM bank.loans", "no column total"),
        ("SELECT client AS user_id, [1] AS total FROM bank.loans", "array"),
        ("SELECT 1 AS user_id, '' AS anonymous_id, 2 AS total", "both user_id and anonymous_id"),
        ("SELECT 1 AS user_id, 2 AS total; SELECT 2", "one SELECT"),
        ("SELECT 1 AS user_id, 2 AS total FROM secret.t", "schema secret is not declared"),
        ("SELECT client AS user_id, CAST(CAST(amount AS VARCHAR) || 'secret' AS INT) AS total FROM bank.loans", "Conversion"),
    ],
)
def test_AE6_4_a_query_that_breaks_a_rule_is_refused_alone_and_keeps_its_previous_rows(
    duckdb_warehouse: Warehouse, query: str, complaint: str
) -> None:
    world = loans((1, 5.0), (1, 5.0), (2, 1.0))
    world.event("p", "Login", ago(days=1))
    world.write(duckdb_warehouse)
    made = space(traits=[sql_trait(SUMS), counter()])
    build(duckdb_warehouse, made)
    broken = space(traits=[sql_trait(query), counter()])
    results = build(duckdb_warehouse, broken)
    assert re.search(complaint, results["total"].error or "")
    assert "secret'" not in (results["total"].error or "")
    assert (results["logins"].rows, results["logins"].error) == (1, None)
    assert values(duckdb_warehouse, broken, "total") == {"p": 10, "q": 1}


def test_one_event_trait_that_cannot_be_computed_fails_alone(warehouse: Warehouse) -> None:
    world = World()
    world.profile("p")
    world.event("p", "Login", ago(days=1), {"n": 1})
    world.write(warehouse)
    impossible = {"all": [{"property": "n", "operator": "before_date", "value": "not a date"}]}
    made = space(traits=[counter("bad", where=impossible), counter("good"), counter("fine")])
    results = build(warehouse, made)
    assert results["bad"].error == "property n: the value of before_date is not an ISO-8601 date or instant"
    assert (results["good"], results["fine"]) == (TraitResult(rows=1, changed=1), TraitResult(rows=1, changed=1))
    assert values(warehouse, made, "good") == {"p": 1}


def test_a_rebuild_replaces_its_partition_and_no_other(duckdb_warehouse: Warehouse) -> None:
    world = World()
    world.profile("p")
    world.event("p", "Login", ago(days=50))
    world.write(duckdb_warehouse)
    made = space(traits=[counter()])
    earlier = AS_OF - dt.timedelta(days=35)
    for as_of in (earlier, AS_OF, AS_OF):
        build(duckdb_warehouse, made, as_of)
    stored = duckdb_warehouse.table(TRAIT_VALUES.ref)
    assert [r["partition_key"] for r in duckdb_warehouse.rows(stored.order_by("partition_key"), 9)] == [
        "2025-11-01",
        "2025-12-01",
    ]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["p", "q", "gone"]),
        st.sampled_from(["A", "B"]),
        st.integers(0, 6),
        st.sampled_from([None, "x", "y", "É", "1.5", "2", "-3", "true"]),
        st.booleans(),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(EVENTS)
def test_traits_agree_with_counting_by_hand(duckdb_warehouse: Warehouse, events: list[tuple[Any, ...]]) -> None:
    world = World()
    for profile in ("p", "q", "gone"):
        world.profile(profile)
    world.merge("gone", "p")
    for profile, name, days, value, known in events:
        world.event(profile, name, ago(days=days), {"v": value}, received_at=None if known else ago(days=-1))
    world.write(duckdb_warehouse)
    a = {"event": "A", "property": "v", "within": {"last": 3, "unit": "days"}}
    made = space(
        traits=[
            {"key": "n", "kind": "event_counter", "event": "A", "within": a["within"]},
            {"key": "total", "kind": "aggregation", "function": "sum", **a},
            {"key": "first", "kind": "first", **a},
            {"key": "last", "kind": "last", **a},
            {"key": "mode", "kind": "most_frequent", **a},
            {"key": "list", "kind": "unique_list", **a},
            {"key": "distinct", "kind": "unique_list_count", **a},
        ]
    )
    build(duckdb_warehouse, made)
    expected: dict[str, dict[str, Any]] = {key: {} for key in made.traits}
    for profile in ("p", "q"):
        owned = {"p": ("p", "gone"), "q": ("q",)}[profile]
        ever = [(days, i, v) for i, (who, name, days, v, known) in enumerate(events) if who in owned and name == "A" and known]
        if not ever:
            continue
        inside = sorted(((-days, i, v) for days, i, v in ever if days <= 3))
        seen = [v for _, _, v in inside if v is not None]
        expected["n"][profile] = len(inside)
        expected["distinct"][profile] = len(set(seen))
        numbers = [float(v) for v in seen if v in ("1.5", "2", "-3")]
        if numbers:
            expected["total"][profile] = sum(numbers)
        if seen:
            expected["first"][profile], expected["last"][profile] = seen[0], seen[-1]
            expected["list"][profile] = json.dumps(sorted(set(seen)), ensure_ascii=False, separators=(",", ":"))
            times = Counter(seen)
            best = min(times, key=lambda v: (-times[v], v))
            if times[best] >= 2:
                expected["mode"][profile] = best
    assert {key: values(duckdb_warehouse, made, key) for key in made.traits} == expected
