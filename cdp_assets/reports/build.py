"""Builds a report: the rows of its query as of an instant in place of the rows before, and what to show of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.reports.tables import BUILDS, SCHEMA, report_ref
from cdp_assets.space.builds import KIND_CURRENT, record_build
from cdp_assets.space.masking import mask_record
from cdp_assets.space.models.activations import SqlModel
from cdp_assets.space.space import Space
from resources.warehouse import TableSpec, UserQueryError, Warehouse

SAMPLE_ROWS = 5
# More bars than these nobody reads.
BARS = 30


class ReportError(Exception):
    """The report cannot be built; its old rows stay. The message names no values."""


@dataclass(frozen=True)
class Report:
    """``rows_before``: of the build before, None for the first. ``labels`` and ``series``: what is plotted. ``sample``: masked rows."""

    rows: int
    rows_before: int | None
    labels: tuple[str, ...]
    series: Mapping[str, tuple[float, ...]]
    sample: list[dict[str, Any]]


def build_report(
    warehouse: Warehouse, space: Space, key: str, *, as_of: dt.datetime, revision: str, run_id: str, loaded_at: dt.datetime
) -> Report:
    """Replace the report's rows. Raises ReportError for a query that is refused, or a primary key with duplicates or nulls."""
    model = space.models[key]
    try:
        query = warehouse.user_query(model.query, schemas=space.readable_schemas, parameters={"as_of": as_of})
    except UserQueryError as error:
        raise ReportError(f"model {key}: {error}") from None
    _check_columns(model, query)
    warehouse.ensure(BUILDS)
    builds = warehouse.table(BUILDS.ref)
    before = warehouse.rows(builds.filter(builds.asset == key).select("rows"), 1)
    name = model.primary_key.lower()
    with warehouse.staged(query) as rows:
        _check_key(warehouse, model, rows)
        spec = TableSpec(report_ref(key), {c: _kind(t) for c, t in rows.schema().items()}, model.description, None, keys=(name,))
        _make(warehouse, spec)
        with warehouse.transaction():
            warehouse.delete(spec.ref, [])
            warehouse.insert(spec.ref, rows)
            count = warehouse.count(rows)
            record_build(
                warehouse,
                SCHEMA,
                asset=key,
                partition_key="",
                as_of=as_of,
                revision=revision,
                run_id=run_id,
                rows=count,
                loaded_at=loaded_at,
                kind=KIND_CURRENT,
            )
    labels, series = _plotted(warehouse, model)
    return Report(count, int(before[0]["rows"]) if before else None, labels, series, _sample(warehouse, model))


def _make(warehouse: Warehouse, spec: TableSpec) -> None:
    """The table with these very columns. One that had others is made anew: there is no transaction around that on every engine."""
    if warehouse.has(spec.ref) and warehouse.schema(spec.ref) != spec.schema:
        warehouse.drop(spec.ref)
    warehouse.ensure(spec)


def _kind(dtype: Any) -> str:
    """A column's type; decimals are kept as numbers."""
    return "float64" if dtype.is_decimal() else str(dtype).removeprefix("!")


def _check_columns(model: SqlModel, query: ir.Table) -> None:
    report = model.report
    assert report is not None
    for name in (model.primary_key, *report.columns, *report.personal):
        if name.lower() not in query.columns:
            raise ReportError(f"model {model.key} has no column {name}, which its front matter names")


def _check_key(warehouse: Warehouse, model: SqlModel, rows: ir.Table) -> None:
    key = rows[model.primary_key.lower()]
    counted = warehouse.rows(rows.aggregate(rows=rows.count(), keys=key.nunique(), present=key.count()), 1)[0]
    total, present = int(counted["rows"]), int(counted["present"])
    duplicates, nulls = present - int(counted["keys"]), total - present
    if duplicates or nulls:
        raise ReportError(
            f"model {model.key}: primary key {model.primary_key} has {duplicates} duplicate and {nulls} null values; "
            "make it unique and never null (the rows before stay)"
        )


def _plotted(warehouse: Warehouse, model: SqlModel) -> tuple[tuple[str, ...], dict[str, tuple[float, ...]]]:
    """Labels with one number each and series; the last of them where there are more than can be read."""
    plot = model.report.plot if model.report else None
    if plot is None:
        return (), {}
    table = warehouse.table(report_ref(model.key))
    if plot.count_by is not None:
        grouped = table.group_by(label=table[plot.count_by.lower()].cast("string")).aggregate(rows=lambda t: t.count())
        found = warehouse.rows(grouped.order_by("label"), 100_000)
        return _series(found, ["rows"])
    values = [name.lower() for name in plot.values]
    label = table[str(plot.label).lower()].cast("string")
    chosen = table.select(label=label, **{f"v{n}": table[name].cast("float64") for n, name in enumerate(values)})
    found = warehouse.rows(chosen.order_by(ibis.desc("label")), BARS)[::-1]
    labels, series = _series(found, [f"v{n}" for n in range(len(values))])
    return labels, {name: series[f"v{n}"] for n, name in enumerate(values)}


def _series(rows: list[dict[str, Any]], names: list[str]) -> tuple[tuple[str, ...], dict[str, tuple[float, ...]]]:
    rows = rows[-BARS:]
    labels = tuple("none" if row["label"] is None else str(row["label"])[:10] for row in rows)
    return labels, {name: tuple(float(row[name] or 0) for row in rows) for name in names}


def _sample(warehouse: Warehouse, model: SqlModel) -> list[dict[str, Any]]:
    table = warehouse.table(report_ref(model.key))
    personal = frozenset(name.lower() for name in (model.report.personal if model.report else ()))
    rows = warehouse.rows(table.order_by(model.primary_key.lower()), SAMPLE_ROWS)
    return [{name: _plain(value) for name, value in mask_record(row, personal).items()} for row in rows]


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value
