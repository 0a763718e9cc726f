"""The rows of a model, its primary key checked, with the person that each speaks about where there is one."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import sqlglot
from sqlglot import exp

from cdp_assets.activation_payloads import people
from cdp_assets.activation_payloads.mapping_kit import reads
from cdp_assets.activation_payloads.message import plain
from cdp_assets.activation_payloads.rules import PayloadError
from cdp_assets.space.models.activations import Activation, ColumnSubject, SqlModel
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import identifiers_as_of
from resources.warehouse import TableRef, UserQueryError, Warehouse

KEY = people.KEY
BATCH_ROWS = 10_000


@dataclass(frozen=True)
class ModelRow:
    """One row of a model. ``subject``: the profile that it speaks about, None when nobody or not found."""

    row_key: str
    values: dict[str, Any]
    subject: str | None
    consents: bool
    suppressed: bool


@dataclass(frozen=True)
class ModelRows:
    """A model's rows by key, fixed for the build. ``batches``: of ``row_key``, ``v0`` … by place of ``columns``, ``subject``, ``consents``
    and ``suppressed``."""

    count: int
    columns: Sequence[str]
    batches: Iterator[pa.RecordBatch]

    def each(self, batch: pa.RecordBatch) -> Iterator[ModelRow]:
        for row in batch.to_pylist():
            values = {name: plain(row[f"v{n}"]) for n, name in enumerate(self.columns)}
            yield ModelRow(row["row_key"], values, row["subject"], bool(row["consents"]), bool(row["suppressed"]))


def model_of(space: Space, activation: Activation) -> SqlModel:
    return space.models[str(activation.model)]


def tables_of(model: SqlModel, dialect: str) -> list[TableRef]:
    """The tables that a model's query names, sorted."""
    tree = sqlglot.parse_one(model.query, read=dialect)
    tables = {
        TableRef.parse(".".join(part for part in (t.catalog, t.db, t.name) if part)) for t in tree.find_all(exp.Table) if t.db
    }
    return sorted(tables, key=str)


def table_rows(warehouse: Warehouse, tables: list[TableRef]) -> dict[str, int]:
    """Row counts by table name, in one statement."""
    if not tables:
        return {}
    counts = [warehouse.table(ref).aggregate(rows=ibis._.count()).mutate(name=ibis.literal(str(ref))) for ref in tables]
    merged = counts[0] if len(counts) == 1 else ibis.union(counts[0], *counts[1:], distinct=False)
    return {
        row["name"]: int(row["rows"]) for row in sorted(warehouse.rows(merged, len(tables)), key=lambda row: str(row["name"]))
    }


@contextlib.contextmanager
def model_rows(
    warehouse: Warehouse,
    space: Space,
    activation: Activation,
    *,
    as_of: dt.datetime,
    consent_as_of_instant: dt.datetime,
    suppressed: ir.Table | None,
) -> Iterator[ModelRows]:
    """The rows by key, read once. Raises PayloadError when the query is refused, or its key is not unique and never null."""
    model = model_of(space, activation)
    try:
        query = warehouse.user_query(model.query, schemas=space.readable_schemas, parameters={"as_of": as_of})
    except UserQueryError as error:
        raise PayloadError(f"model {model.key}: {error}") from None
    columns = _needed(query, model, activation)
    key = query[model.primary_key.lower()]
    if key.type().is_floating():
        raise PayloadError(
            f"model {model.key}: primary key {model.primary_key} is a floating-point number; cast it to text or integer"
        )
    with warehouse.staged(
        query.select(row_key=key.cast("string"), **{f"v{n}": query[name.lower()] for n, name in enumerate(columns)})
    ) as rows:
        count = _check_key(warehouse, model, rows)
        judged = _judged(warehouse, space, activation, rows, columns, as_of, consent_as_of_instant, suppressed)
        yield ModelRows(count, columns, warehouse.batches(judged.order_by("row_key"), BATCH_ROWS))


def _needed(query: ir.Table, model: SqlModel, activation: Activation) -> list[str]:
    """The columns that the message must carry, by the names that the mapping uses: key and subject, and what the mapping reads."""
    read = reads(activation.mapping)
    wanted = [model.primary_key]
    if read is None or ("properties",) in read:
        wanted += list(query.columns)
    else:
        wanted += sorted(path[1] for path in read if path[0] == "properties")
    if isinstance(activation.consent.subject, ColumnSubject):
        wanted.append(activation.consent.subject.column)
    for name in (model.primary_key, *wanted):
        if name.lower() not in query.columns:
            raise PayloadError(f"model {model.key} has no column {name}, which activation {activation.key} needs")
    return list(dict.fromkeys(wanted))


def _check_key(warehouse: Warehouse, model: SqlModel, rows: ir.Table) -> int:
    counted = warehouse.rows(rows.aggregate(rows=rows.count(), keys=rows.row_key.nunique(), present=rows.row_key.count()), 1)[0]
    total, present = int(counted["rows"]), int(counted["present"])
    nulls, duplicates = total - present, present - int(counted["keys"])
    if nulls or duplicates:
        raise PayloadError(
            f"model {model.key}: primary key {model.primary_key} has {duplicates} duplicate and {nulls} null values; "
            "make it unique and never null (nothing was written)"
        )
    return total


def _judged(
    warehouse: Warehouse,
    space: Space,
    activation: Activation,
    rows: ir.Table,
    columns: list[str],
    as_of: dt.datetime,
    instant: dt.datetime,
    suppressed: ir.Table | None,
) -> ir.Table:
    """The rows with ``subject``, ``consents`` and ``suppressed``."""
    subject = activation.consent.subject
    if not isinstance(subject, ColumnSubject):
        return rows.mutate(subject=ibis.null("string"), consents=ibis.literal(True), suppressed=ibis.literal(False))
    known = identifiers_as_of(warehouse, space.graph, as_of)
    known = known.filter(known.type == subject.identifier_type).select(_value=known.value, subject=known[KEY])
    named = rows.mutate(_named=rows[f"v{columns.index(subject.column)}"].cast("string"))
    found = named.left_join(known, [("_named", "_value")]).drop("_named", "_value")
    subjects = found.filter(found.subject.notnull()).select(**{KEY: found.subject}).distinct()
    categories = activation.consent.categories
    standing = people.standing(warehouse, space, subjects, categories, instant, suppressed).rename(_holder=KEY)
    return found.left_join(standing, [("subject", "_holder")]).drop("_holder")
