"""Operators: what each means for each type, for null, and at the edges of time; the same on every engine."""

from __future__ import annotations

import datetime as dt
from typing import Any

import ibis
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cdp_assets.space.models.audiences import ColumnFilter, Comparison, Operator, ReferringEventFilter
from cdp_assets.space.operators import ConditionError, compare
from resources.warehouse import TableRef, TableSpec, Warehouse

AS_OF = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SPEC = TableSpec(
    TableRef("raw", "values"),
    {"id": "string", "n": "int64", "x": "float64", "t": "string", "b": "boolean", "d": "date", "at": "timestamp"},
    "one row per value",
    subject=None,
)

ONE_OF_EACH = ibis.table({**SPEC.schema, "w": "time", "j": "array<string>"}, name="values")


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
        ("b", ColumnFilter(column="b", operator="one_of", value=(True,)), r"operator one_of .* boolean column"),
        ("t", ColumnFilter(column="t", operator="equals", value=1), r"text column and a number value"),
        ("t", ColumnFilter(column="t", operator="at_least", value=1), r"operator at_least .* text column"),
        ("t", ColumnFilter(column="t", operator="before_date", value="2026-01-01"), r"operator before_date .* text column"),
        ("d", ColumnFilter(column="d", operator="equals", value="soon"), r"not an ISO-8601"),
        ("w", ColumnFilter(column="w", operator="equals", value="soon"), r"not a time of day"),
        ("w", ColumnFilter(column="w", operator="one_of", value=("08:00",)), r"operator one_of .* time column"),
        ("j", ColumnFilter(column="j", operator="equals", value="a"), r"operator equals .* other column"),
    ],
)
def test_an_operator_that_does_not_fit_names_column_and_operator(column: str, comparison: ColumnFilter, complaint: str) -> None:
    with pytest.raises(ConditionError, match=complaint) as caught:
        compare(ONE_OF_EACH[column], comparison, AS_OF)
    assert caught.value.remedy


# What a column of each type takes, and what with a reference, written out once more.
ORDER = "equals differs less_than at_most greater_than at_least"
DATES = f"{ORDER} before_date after_date within_last within_next before_last after_next exists absent"
TAKES = {
    "n": f"{ORDER} one_of none_of exists absent",
    "t": "equals differs contains omits starts_with ends_with one_of none_of exists absent",
    "b": "equals differs exists absent",
    "d": DATES,
    "at": DATES,
    "w": f"{ORDER} exists absent",
    "j": "exists absent",
}
REFERS = {
    "n": ORDER,
    "t": "equals differs contains omits starts_with ends_with",
    "b": "",
    "d": ORDER,
    "at": ORDER,
    "w": ORDER,
    "j": "",
}
CONSTANTS = {"n": 1, "t": "a", "b": True, "d": "2026-01-01", "at": "2026-01-01T00:00:00Z", "w": "08:00:00", "j": "a"}


def filtered(column: str, operator: str, **more: Any) -> ColumnFilter | None:
    """A filter, None where the model refuses it whatever the column is."""
    value = CONSTANTS[column]
    needs_value = operator not in ("exists", "absent") and not operator.startswith(("within", "before_l", "after_n"))
    if operator.startswith(("within", "before_l", "after_n")):
        more.setdefault("amount", 1)
    elif needs_value and "reference" not in more:
        more["value"] = (value,) if operator in ("one_of", "none_of") else value
    try:
        return ColumnFilter(column=column, operator=operator, **more)
    except ValidationError:
        return None


@pytest.mark.parametrize("column", TAKES)
def test_the_matrix_of_operators_and_types(column: str) -> None:
    taken, referring = set(), set()
    for operator in Operator:
        for found, other in ((taken, None), (referring, ONE_OF_EACH[column])):
            more = {"reference": {"column": column}} if other is not None else {}
            if more and operator.startswith(("within", "before_l", "after_n")):
                more["amount"] = None
            wanted = filtered(column, operator, **more)
            if wanted is None:
                continue
            try:
                compare(ONE_OF_EACH[column], wanted, AS_OF, other)
                found.add(str(operator))
            except ConditionError as error:
                assert f"column {column}: operator {operator} does not fit" in str(error)
    assert taken == set(TAKES[column].split())
    assert referring == set(REFERS[column].split())


@pytest.mark.parametrize(
    ("comparison", "complaint"),
    [
        ({"operator": "less_than", "value": True}, "compares numbers, dates and times, not a boolean"),
        ({"operator": "at_least", "value": "many"}, "compares numbers, dates and times, not text"),
        ({"operator": "before_date", "value": "soon"}, "is not a date"),
        ({"operator": "one_of", "value": ("a", 1)}, "different types"),
        ({"operator": "contains", "value": 1}, "takes text, not a number"),
        ({"operator": "exists", "reference": {"trait": "a"}}, "exists takes no reference"),
        ({"operator": "one_of", "reference": {"trait": "a"}}, "one_of takes no reference"),
        ({"operator": "equals", "value": 1, "reference": {"trait": "a"}}, "one of 'value' and 'reference'"),
        ({"operator": "equals", "reference": {"trait": "a", "column": "b"}}, "exactly one of 'column' and 'trait'"),
        ({"operator": "equals", "reference": {"trait": "a", "of": "b"}}, "'of' goes with 'column'"),
    ],
)
def test_what_fits_no_column_is_refused_when_it_is_read(comparison: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ColumnFilter(column="c", **comparison)


PAIRS = TableSpec(
    TableRef("raw", "pairs"),
    {"id": "string", "n": "int64", "m": "float64", "t": "string", "u": "string", "d": "date", "at": "timestamp", "w": "time"},
    "two values beside each other",
    subject=None,
)


def test_references_compare_values_of_one_type_and_null_meets_nothing_but_omits(warehouse: Warehouse) -> None:
    day, noon = dt.date(2026, 1, 1), dt.datetime(2026, 1, 1, 12)
    rows = [
        ("0", 2, 2.0, "gold", "ol", day, noon, dt.time(8)),
        ("1", 1, 1.5, "10", "9.5", day, dt.datetime(2026, 1, 1), dt.time(9)),
        ("2", None, 1.0, None, "a", None, noon, None),
        ("3", 1, None, "2026-01-01T00:00:00Z", "2025-12-31T23:00:00-02:00", dt.date(2026, 1, 2), noon, dt.time(8, 30)),
    ]
    warehouse.ensure(PAIRS)
    schema = PAIRS.schema.to_pyarrow()
    columns = {f.name: pa.array(values, f.type) for f, values in zip(schema, zip(*rows, strict=True), strict=True)}
    warehouse.append(PAIRS.ref, pa.table(columns))
    table = warehouse.table(PAIRS.ref)

    def column(name: str, operator: str, **reference: str) -> ColumnFilter:
        return ColumnFilter(column=name, operator=operator, reference=reference)

    def prop(operator: str) -> ReferringEventFilter:
        return ReferringEventFilter(property="p", operator=operator, reference={"trait": "x"})

    asked = {
        "equal numbers": compare(table.n, column("n", "equals", column="m"), AS_OF, table.m),
        "smaller numbers": compare(table.n, column("n", "less_than", column="m"), AS_OF, table.m),
        "differing numbers": compare(table.n, column("n", "differs", column="m"), AS_OF, table.m),
        "contained": compare(table.t, column("t", "contains", column="u"), AS_OF, table.u),
        "omitted": compare(table.t, column("t", "omits", column="u"), AS_OF, table.u),
        "later than its day": compare(table["at"], column("at", "greater_than", column="d"), AS_OF, table.d),
        "number and text of a trait": compare(table.m, column("m", "less_than", trait="x"), AS_OF, table.u),
        "date and text of a trait": compare(table.d, column("d", "less_than", trait="x"), AS_OF, table.u),
        "late": compare(table.w, column("w", "greater_than", column="w"), AS_OF, ibis.literal(dt.time(8))),
        "property and trait in order": compare(table.t, prop("greater_than"), AS_OF, table.u),
        "property before trait": compare(table.t, prop("less_than"), AS_OF, table.u),
        "property and trait equal": compare(table.u, prop("equals"), AS_OF, table.u),
        "property and number": compare(table.u, prop("greater_than"), AS_OF, table.n),
    }
    found = warehouse.rows(table.select("id", **{f"c{i}": verdict for i, verdict in enumerate(asked.values())}), 9)
    held = {name: "".join(sorted(row["id"] for row in found if row[f"c{i}"])) for i, name in enumerate(asked)}
    assert all(row[f"c{i}"] is not None for row in found for i in range(len(asked)))
    assert held == {
        "equal numbers": "0",
        "smaller numbers": "1",
        "differing numbers": "1",
        "contained": "0",
        "omitted": "123",
        "later than its day": "0",
        "number and text of a trait": "1",
        "date and text of a trait": "",
        "late": "13",
        "property and trait in order": "1",
        "property before trait": "3",
        "property and trait equal": "0123",
        "property and number": "1",
    }


@pytest.mark.parametrize(
    ("left", "right", "operator"), [("n", "t", "equals"), ("t", "n", "equals"), ("d", "w", "equals"), ("w", "t", "at_least")]
)
def test_references_of_different_types_are_refused(left: str, right: str, operator: str) -> None:
    wanted = ColumnFilter(column=left, operator=operator, reference={"column": right})
    with pytest.raises(ConditionError, match=f"column {left}: operator {operator} does not compare a .* with a .* value"):
        compare(ONE_OF_EACH[left], wanted, AS_OF, ONE_OF_EACH[right])
