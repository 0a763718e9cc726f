"""Operators: what each means for each type, for null, and at the edges of time; the same on every engine."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from cdp_assets.space.models import ColumnFilter, Comparison
from cdp_assets.space.operators import ConditionError, compare
from resources.warehouse import TableRef, TableSpec, Warehouse

AS_OF = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SPEC = TableSpec(
    TableRef("raw", "values"),
    {"id": "string", "n": "int64", "x": "float64", "t": "string", "b": "boolean", "d": "date", "at": "timestamp"},
    "one row per value",
    subject=None,
)


def rows_of(**columns: list[Any]) -> pa.Table:
    ((name, values),) = columns.items()
    schema = SPEC.schema.to_pyarrow()
    return pa.table({"id": [str(i) for i in range(len(values))], name: pa.array(values, schema.field(name).type)})


def holding(warehouse: Warehouse, column: str, values: list[Any], *comparisons: Comparison) -> list[list[Any]]:
    """For each comparison, the values that meet it; fails when a result is NULL."""
    warehouse.ensure(SPEC)
    warehouse.delete(SPEC.ref, [])
    warehouse.append(SPEC.ref, rows_of(**{column: values}))
    table = warehouse.table(SPEC.ref)
    outcome = warehouse.rows(
        table.select("id", **{f"c{i}": compare(table[column], c, AS_OF) for i, c in enumerate(comparisons)}), len(values)
    )
    found = []
    for i in range(len(comparisons)):
        assert all(row[f"c{i}"] is not None for row in outcome), comparisons[i]
        kept = {int(row["id"]) for row in outcome if row[f"c{i}"]}
        found.append([value for position, value in enumerate(values) if position in kept])
    return found


def c(operator: str, value: Any = None, **kwargs: Any) -> Comparison:
    return Comparison(operator=operator, value=value, **kwargs)


def test_numbers_compare_and_null_meets_nothing_but_absent(warehouse: Warehouse) -> None:
    assert holding(
        warehouse,
        "n",
        [1, 2, 3, None],
        c("equals", 2),
        c("differs", 2),
        c("less_than", 2),
        c("at_most", 2.5),
        c("greater_than", 2),
        c("at_least", 2),
        c("one_of", (1, 3)),
        c("none_of", (1, 3)),
        c("exists"),
        c("absent"),
    ) == [[2], [1, 3], [1], [1, 2], [3], [2, 3], [1, 3], [2], [1, 2, 3], [None]]


def test_text_is_case_sensitive_and_omits_is_not_contains(warehouse: Warehouse) -> None:
    assert holding(
        warehouse,
        "t",
        ["free", "Free", "a%b_c", None],
        c("equals", "free"),
        c("differs", "free"),
        c("contains", "re"),
        c("contains", ("%b", "Fr")),
        c("omits", "re"),
        c("starts_with", "Fr"),
        c("ends_with", "_c"),
        c("one_of", ("free", "x")),
        c("none_of", ("free", "x")),
    ) == [
        ["free"],
        ["Free", "a%b_c"],
        ["free", "Free"],
        ["Free", "a%b_c"],
        ["a%b_c", None],
        ["Free"],
        ["a%b_c"],
        ["free"],
        ["Free", "a%b_c"],
    ]


def test_text_compares_with_numbers_booleans_and_instants_where_it_is_one(warehouse: Warehouse) -> None:
    zoned, early, bare, date = "2026-01-01T02:00:00+02:00", "2025-12-31T23:00:00Z", "2026-01-01T00:00:00", "2026-01-01"
    assert holding(
        warehouse,
        "t",
        ["10", "9.5", "nan", "Infinity", "ten", "true", zoned, early, bare, date, None],
        c("greater_than", 9),
        c("differs", 10),
        c("one_of", (10, 11)),
        c("equals", True),
        c("equals", AS_OF),
        c("before_date", "2026-01-01T00:00:00Z"),
        c("within_last", amount=1, unit="hours"),
        c("at_least", dt.date(2025, 12, 31)),
    ) == [["10", "9.5"], ["9.5"], ["10"], ["true"], [zoned], [early], [zoned, early], [zoned, early]]


def test_booleans_are_equal_or_not(warehouse: Warehouse) -> None:
    assert holding(warehouse, "b", [True, False, None], c("equals", True), c("differs", True), c("one_of", (False,))) == [
        [True],
        [False],
        [False],
    ]


def test_AE2_3_a_renewal_within_the_next_90_days_includes_its_last_day(warehouse: Warehouse) -> None:
    inside, beyond, past, today = dt.date(2026, 4, 1), dt.date(2026, 4, 2), dt.date(2025, 12, 31), dt.date(2026, 1, 1)
    assert holding(
        warehouse,
        "d",
        [inside, beyond, past, today, None],
        c("within_next", amount=90),
        c("after_next", amount=90),
        c("within_last", amount=1),
        c("before_last", amount=1),
        c("equals", "2026-04-01"),
        c("after_date", dt.date(2026, 4, 1)),
    ) == [[inside, today], [inside, beyond], [past, today], [past], [inside], [beyond]]


def test_windows_of_instants_include_both_edges(warehouse: Warehouse) -> None:
    now = AS_OF.replace(tzinfo=None)
    tick, hour = dt.timedelta(microseconds=1), dt.timedelta(hours=1)
    values = [now - hour - tick, now - hour, now, now + tick, now + hour, now + hour + tick, None]
    assert holding(
        warehouse,
        "at",
        values,
        c("within_last", amount=1, unit="hours"),
        c("within_next", amount=1, unit="hours"),
        c("before_last", amount=1, unit="hours"),
        c("after_next", amount=1, unit="hours"),
        c("before_date", AS_OF),
        c("at_most", "2026-01-01T01:00:00+01:00"),
    ) == [values[1:3], values[2:5], values[0:2], values[4:6], values[0:2], values[0:3]]


@pytest.mark.parametrize(
    ("column", "comparison", "complaint"),
    [
        ("b", ColumnFilter(column="B", operator="greater_than", value=1), r"column B: operator greater_than .* boolean column"),
        ("n", ColumnFilter(column="n", operator="contains", value="1"), r"column n: operator contains .* number column"),
        ("n", ColumnFilter(column="n", operator="equals", value="1"), r"number column and a text value"),
        ("n", ColumnFilter(column="n", operator="within_last", amount=1), r"operator within_last .* number column"),
        ("b", ColumnFilter(column="b", operator="less_than", value=True), r"less_than .* boolean"),
        ("d", ColumnFilter(column="d", operator="before_date", value="soon"), r"not an ISO-8601"),
        ("t", ColumnFilter(column="t", operator="one_of", value=("a", 1)), r"different types"),
    ],
)
def test_an_operator_that_does_not_fit_names_column_and_operator(
    duckdb_warehouse: Warehouse, column: str, comparison: ColumnFilter, complaint: str
) -> None:
    duckdb_warehouse.ensure(SPEC)
    with pytest.raises(ConditionError, match=complaint):
        compare(duckdb_warehouse.table(SPEC.ref)[column], comparison, AS_OF)
