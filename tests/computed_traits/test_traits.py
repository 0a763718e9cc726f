"""Computed and SQL traits: what each kind says, as of an instant, and that one that fails, fails alone."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pytest

from cdp_assets.computed_traits.build import TraitResult, build_traits
from cdp_assets.computed_traits.compile import event_rows
from cdp_assets.computed_traits.sql_traits import SqlTraitError, run_query
from cdp_assets.computed_traits.tables import ACCOUNT_VALUES, TRAIT_CHANGES, TRAIT_VALUES, stored_values
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from resources.warehouse.duckdb import open_duckdb
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


def changes(warehouse: Warehouse, trait: str) -> list[tuple[str, str, Any]]:
    """(partition, profile, value) of the changes of a trait."""
    table = warehouse.table(TRAIT_CHANGES.ref)
    rows = warehouse.rows(table.filter(table.trait == trait).order_by("partition_key", "canonical_segment_id"), 1000)
    return [
        (
            row["partition_key"],
            row["canonical_segment_id"],
            row["value_number"] if row["value_text"] is None else row["value_text"],
        )
        for row in rows
    ]


def account_values(warehouse: Warehouse, trait: str) -> dict[str, Any]:
    table = warehouse.table(ACCOUNT_VALUES.ref)
    rows = warehouse.rows(table.filter(table.trait == trait), 1000)
    return {row["group_id"]: row["value_number"] if row["value_text"] is None else row["value_text"] for row in rows}


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
    # The next partition says it once, the one after it has nothing to say.
    assert changes(duckdb_warehouse, "logins") == [("2026-01-01", "p", 0)]
    result = build(duckdb_warehouse, made, AS_OF + dt.timedelta(days=45))["logins"]
    assert (result.rows, result.changed) == (1, 0)
    assert changes(duckdb_warehouse, "logins") == [("2026-01-01", "p", 0)]


def test_AE6_6_a_session_starts_anew_after_its_gap(duckdb_warehouse: Warehouse) -> None:
    world = World()
    world.profile("p")
    for clock in ((10, 0), (10, 20), (11, 0)):
        world.event("p", "Login", dt.datetime(2025, 12, 30, *clock), {"page": clock[1]})
    world.write(duckdb_warehouse)
    session = {"session": {"gap": 30}}
    pages = {"kind": "unique_list", "event": "Login", "property": "page", **session}
    made = space(traits=[counter(**session), {"key": "pages", **pages}])
    for clock, count, listed in (
        ((10, 30), 2, {"p": '["0","20"]'}),
        ((10, 50), 2, {"p": '["0","20"]'}),
        ((10, 50, 1), 0, {}),
        ((11, 0, 1), 1, {"p": '["0"]'}),
        ((11, 31), 0, {}),
    ):
        as_of = dt.datetime(2025, 12, 30, *clock, tzinfo=dt.UTC)
        build(duckdb_warehouse, made, as_of)
        assert values(duckdb_warehouse, made, "logins", as_of) == {"p": count}, clock
        assert values(duckdb_warehouse, made, "pages", as_of) == listed, clock


def test_any_number_of_traits_read_the_messages_once(duckdb_warehouse: Warehouse) -> None:
    world = World()
    world.profile("p")
    world.event("p", "Login", ago(days=1), {"page": "x"})
    world.write(duckdb_warehouse)
    windows: list[dict[str, Any]] = [{}, {"within": {"last": 1}}, {"within": {"last": 30}}, {"session": {"gap": 30}}]
    levels: list[dict[str, Any]] = [{}, {"level": "account"}]
    made = space(
        traits=[
            {"key": f"{kind}_{i}", "kind": kind, "event": event, "property": "page", **window, **level}
            for kind in ("first", "most_frequent", "unique_list", "unique_list_count")
            for i, (event, window, level) in enumerate(itertools.product(("Login", "Pay"), windows, levels))
        ]
    )
    statements: list[str] = []
    with ExitStack() as stack:

        def keep(expression: ir.Table) -> ir.Table:
            statements.append(duckdb_warehouse.sql(expression))
            return stack.enter_context(duckdb_warehouse.staged(expression))

        found = event_rows(duckdb_warehouse, made, list(made.traits.values()), AS_OF, keep)
        statements += [duckdb_warehouse.sql(one.rows) for one in found]
    assert len(found) == 64
    assert sum(statement.count('"messages"') for statement in statements) == 1


def test_accounts_have_the_events_of_all_their_members_and_members_may_have_the_value(duckdb_warehouse: Warehouse) -> None:
    world = World()
    for person, joined in {"p": ["acme"], "q": ["acme", "blue"], "r": []}.items():
        world.profile(person)
        for days, group in enumerate(joined):
            world.member(person, group, ago(days=20 - days))
        world.event(person, "Login", ago(days=1), {"plan": "gold"})
        world.trait(person, "plan", "gold")
    world.event("q", "Login", ago(days=2), {"plan": "gold"})
    world.write(duckdb_warehouse)
    account = {"level": "account"}
    usual = {"key": "plan", "kind": "most_frequent", "user_trait": "plan", **account}
    made = space(traits=[counter(members=True, **account), counter("of_account", **account), usual])
    results = build(duckdb_warehouse, made)
    assert results["logins"] == TraitResult(rows=2, changed=2, accounts=2)
    assert results["of_account"] == TraitResult(rows=2, changed=2, accounts=2)
    assert values(duckdb_warehouse, made, "logins") == {"p": 3, "q": 2}, "q joined blue last"
    assert values(duckdb_warehouse, made, "of_account") == {}
    assert account_values(duckdb_warehouse, "logins") == account_values(duckdb_warehouse, "of_account") == {"acme": 3, "blue": 2}
    assert account_values(duckdb_warehouse, "plan") == {"acme": "gold"}, "one member is not often enough"


def test_changes_lead_from_each_partition_to_the_next_in_whatever_order_they_are_built(tmp_path: Path) -> None:
    world = World()
    for person in ("p", "q", "gone"):
        world.profile(person)
        world.event(person, "Login", ago(days=40))
    world.event("p", "Login", ago(days=10))
    world.merge("gone", "q", ago(days=20))
    made = space(
        traits=[counter(), {"key": "page", "kind": "last", "event": "Login", "property": "timestamp", "within": {"last": 30}}]
    )
    months = [AS_OF - dt.timedelta(days=days) for days in (31, 0, -31)]
    stored = []
    for number, order in enumerate(([0, 1, 2], [2, 1, 0], [2, 0, 1, 0], [2])):
        with open_duckdb(tmp_path / f"{number}.duckdb") as warehouse:
            world.write(warehouse)
            for place in order:
                build(warehouse, made, months[place])
            newest = values(warehouse, made, "logins", months[2]), values(warehouse, made, "page", months[2])
            stored.append((newest, changes(warehouse, "logins"), changes(warehouse, "page")))
    assert stored[0] == stored[1] == stored[2]
    assert stored[3] == (stored[0][0], [], []), "one go gives what day by day gives"
    january, february = "2025-12-01", "2026-01-01"
    assert stored[0][1] == [(january, "p", 2), (january, "q", 2)]
    assert stored[0][2] == [
        (january, "p", "2025-12-22T00:00:00.000000Z"),
        (january, "q", None),
        (february, "p", None),
    ], "a profile that merged away is not told that it has no value"


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
    for later, nulled in ((1, 0), (32, 1), (61, 0)):
        loans((2, 6.0), *([(1, 5.0)] if later == 1 else [])).write(duckdb_warehouse)
        result = build(duckdb_warehouse, made, AS_OF + dt.timedelta(days=later))["total"]
        assert (result.nulled, result.changed) == (nulled, 1 if later < 61 else 0)
    assert changes(duckdb_warehouse, "total") == [("2026-01-01", "p", 5), ("2026-02-01", "p", None)]


def test_a_query_may_have_several_columns_that_are_traits_and_runs_once(duckdb_warehouse: Warehouse) -> None:
    world = loans((1, 5.0), (2, 7.0))
    world.write(duckdb_warehouse)
    query = "SELECT client AS user_id, MAX(amount) AS largest, COUNT(*) AS loans, 'x' || MAX(amount) AS note FROM bank.loans GROUP BY 1"
    columns = {"largest": "number", "loans": "number", "note": "number", "missing": "string"}
    made = space(
        traits=[
            {"key": key, "kind": "sql", "identifier": "user_id", "query": query, "type": kind} for key, kind in columns.items()
        ]
    )
    results = build(duckdb_warehouse, made)
    assert {key: (result.rows, bool(result.error)) for key, result in results.items()} == {
        "largest": (2, False),
        "loans": (2, False),
        "note": (0, False),
        "missing": (0, True),
    }
    assert values(duckdb_warehouse, made, "largest") == {"p": 5, "q": 7}


def test_the_limits_of_a_sql_trait(duckdb_warehouse: Warehouse) -> None:
    loans((1, 5.0), (2, 7.0)).write(duckdb_warehouse)
    wide = "SELECT client AS user_id, MAX(amount) AS total, repeat('é', CASE WHEN client = 2 THEN 8191 ELSE 8190 END) AS pad FROM bank.loans GROUP BY 1"
    made = space(traits=[sql_trait(wide)])
    assert build(duckdb_warehouse, made) == {"total": TraitResult(rows=1, changed=1, oversized=1)}
    assert values(duckdb_warehouse, made, "total") == {"p": 5}, "2 bytes a letter, 16,384 in all are the most"
    many = ", ".join(f"{i} AS c{i}" for i in range(24))
    results = build(
        duckdb_warehouse, space(traits=[sql_trait(f"SELECT client AS user_id, amount AS total, {many} FROM bank.loans")])
    )
    assert results["total"].error == "the query returns 26 columns, more than 25"
    with pytest.raises(SqlTraitError, match="returned more than 1 rows"):
        run_query(duckdb_warehouse, made, [made.traits["total"]], AS_OF, lambda e: e, most_rows=1)


def test_a_sql_trait_of_accounts(duckdb_warehouse: Warehouse) -> None:
    world = loans((1, 5.0), (2, 7.0))
    world.member("p", "1")
    world.write(duckdb_warehouse)
    query = "SELECT client AS group_id, amount AS total FROM bank.loans"
    made = space(traits=[sql_trait(query, identifier="group_id", members=True)])
    assert build(duckdb_warehouse, made) == {"total": TraitResult(rows=1, unknown=1, changed=1, accounts=1)}
    assert (values(duckdb_warehouse, made, "total"), account_values(duckdb_warehouse, "total")) == ({"p": 5}, {"1": 5})


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
    early = {"all": [{"property": "n", "operator": "before_date", "value": "2026-01-01"}]}
    made = space(traits=[counter("bad", where=early), counter("good"), counter("fine")])
    (filtered,) = made.traits["bad"].where.all
    impossible = made.traits["bad"].where.model_copy(update={"all": (filtered.model_copy(update={"value": "not a date"}),)})
    made.traits["bad"] = made.traits["bad"].model_copy(update={"where": impossible})  # no file could say this
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
