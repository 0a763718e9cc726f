"""Writes generated entity rows to the warehouse."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from resources.warehouse import TableSpec, Warehouse

Row = dict[str, Any]


def as_arrow(spec: TableSpec, rows: Sequence[Row]) -> pa.Table:
    """Rows as Arrow in the columns of the table. Dates and timestamps are ISO texts in rows, naive UTC in the table."""
    schema = spec.schema.to_pyarrow()
    arrays = []
    for column in schema:
        values = [row[column.name] for row in rows]
        if pa.types.is_date(column.type):
            values = [dt.date.fromisoformat(value) for value in values]
        elif pa.types.is_timestamp(column.type):
            values = [dt.datetime.fromisoformat(value) for value in values]
        arrays.append(pa.array(values, column.type))
    return pa.table(arrays, schema=schema)


def write_new(warehouse: Warehouse, tables: Mapping[str, TableSpec], rows: Mapping[str, Sequence[Row]]) -> None:
    """Append rows by table name, creating the tables that are missing."""
    warehouse.ensure(*tables.values())
    with warehouse.transaction():
        for name, found in rows.items():
            if found:
                warehouse.append(tables[name].ref, as_arrow(tables[name], found))


def replace_rows(warehouse: Warehouse, tables: Mapping[str, TableSpec], rows: Mapping[str, Sequence[Row]]) -> None:
    """Put rows in place of those with the same key, in one transaction, so that no reader sees a table without them."""
    with warehouse.transaction():
        for name, found in rows.items():
            if found:
                spec = tables[name]
                (key,) = spec.keys
                warehouse.delete(spec.ref, [(key, "in", [row[key] for row in found])])
                warehouse.append(spec.ref, as_arrow(spec, found))
