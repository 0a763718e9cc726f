"""Every rule of every schema fails on a table that breaks it, on both engines, and says how many rows and which."""

from __future__ import annotations

import ast
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as ibis_types
import pandera.ibis as pa
import pyarrow as arrow
import pytest

from cdp_assets import quality
from cdp_assets.computed_traits import schemas as traits
from cdp_assets.computed_traits.tables import TRAIT_VALUES
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.linked_audiences import schemas as audiences
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.quality import RowRule, RuleResult, UnsupportedRuleError, evaluate, evaluate_partitions, not_in, schema_of
from cdp_assets.raw_events import schemas as raw
from cdp_assets.raw_events.tables import DUPLICATES, MESSAGES, QUARANTINE
from cdp_assets.unified_profiles import schemas as profiles
from cdp_assets.unified_profiles import tables as profile_tables
from resources.warehouse import TableRef, TableSpec, Warehouse

T0 = dt.datetime(2026, 1, 1)
HOUR = dt.timedelta(hours=1)


def put(warehouse: Warehouse, spec: TableSpec, rows: Sequence[dict[str, Any]]) -> Any:
    """The table with these rows; what a row does not say is NULL."""
    warehouse.ensure(spec)
    target = spec.schema.to_pyarrow()
    if rows:
        warehouse.append(spec.ref, arrow.table({f.name: arrow.array([r.get(f.name) for r in rows], f.type) for f in target}))
    return warehouse.table(spec.ref)


def broken(results: Sequence[RuleResult]) -> dict[str, int]:
    """Failing rows by rule, of the rules that did not pass."""
    return {result.rule: result.failing for result in results if not result.passed}


# -- a schema with every kind of rule --------------------------------------------------------------------------------------

THINGS = TableSpec(
    TableRef("quality", "things"),
    {"id": "string", "kind": "string", "n": "int64", "share": "float64", "at": "timestamp", "email": "string"},
    "things",
    subject="id",
    keys=("id",),
    personal=("email",),
)
RULES = {
    "kind": [
        pa.Check.isin(["a1", "b2"]),
        pa.Check.notin(["zz"]),
        pa.Check.str_matches(r"[a-y]\d|b2"),
        pa.Check.str_contains("[12]"),
        pa.Check.str_startswith("a"),
        pa.Check.str_endswith("1"),
        pa.Check.str_length(2, 3),
    ],
    "n": [
        pa.Check.ge(1),
        pa.Check.gt(0),
        pa.Check.le(10),
        pa.Check.lt(11),
        pa.Check.in_range(0, 11, include_min=False),
        pa.Check.ne(13),
    ],
    "share": [pa.Check.eq(0.5)],
    "at": [pa.Check.ge(T0)],
}
THINGS_SCHEMA = schema_of(THINGS, not_null=("kind",), checks=RULES)
GOOD = {"id": "1", "kind": "a1", "n": 5, "share": 0.5, "at": T0, "email": "ada@example.com"}


def test_every_built_in_check_counts_the_rows_that_break_it(warehouse: Warehouse) -> None:
    rows = [
        GOOD,
        {**GOOD, "id": "2", "kind": "zz", "n": 13, "share": 0.25, "at": T0 - HOUR},
        {**GOOD, "id": "3", "kind": "xa1long", "n": 0},
        {**GOOD, "id": "4", "n": None, "share": None, "at": None},
        {**GOOD, "id": "4"},
        {"id": None, "kind": None},
    ]
    results = evaluate(warehouse, THINGS_SCHEMA, put(warehouse, THINGS, rows))
    assert broken(results) == {
        "id.not_null": 1,
        "kind.not_null": 1,
        "kind.isin": 2,
        "kind.notin": 1,
        "kind.str_matches": 2,
        "kind.str_contains": 1,
        "kind.str_startswith": 2,
        "kind.str_endswith": 2,
        "kind.str_length": 1,
        "n.greater_than_or_equal_to": 1,
        "n.greater_than": 1,
        "n.less_than_or_equal_to": 1,
        "n.less_than": 1,
        "n.in_range": 2,
        "n.not_equal_to": 1,
        "share.equal_to": 1,
        "at.greater_than_or_equal_to": 1,
        "unique(id)": 2,
    }
    assert {result.rows for result in results} == {6}
