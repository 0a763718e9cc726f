"""Snowflake: the warehouse at scale.

Connections come from ``dagster_snowflake.SnowflakeResource``, so the same settings serve Dagster and the command line.
Logical lower-case names are stored in upper case, as Snowflake folds them, so that users query without quotes.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import ibis
import ibis.expr.datatypes as ibis_types
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
import snowflake.connector
from dagster_snowflake import SnowflakeResource
from ibis.backends.sql.datatypes import SnowflakeType

from resources.warehouse import TableRef, Warehouse, WarehouseError

# A statement's text may hold 1 MB; leave room for the rest of the statement.
_LITERAL_BYTES = 700_000
_NULL = "__is_null"


@dataclass
class SnowflakeWarehouse(Warehouse):
    """An open Snowflake session. ``settings`` are fields of ``SnowflakeResource`` (account, user, password, database, …)."""

    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dialect = "snowflake"
        self._stack = ExitStack()
        resource = SnowflakeResource(**{"timezone": "UTC", **self.settings})
        self._connection = self._stack.enter_context(resource.get_connection())

    def _cursor(self) -> snowflake.connector.cursor.SnowflakeCursor:
        return self._connection.cursor()

    def _fold(self, name: str) -> str:
        return name.upper()

    def _execute(self, sql: str) -> snowflake.connector.cursor.SnowflakeCursor:
        try:
            cursor = self._cursor()
            cursor.execute(sql)
            return cursor
        except snowflake.connector.errors.Error as error:
            raise WarehouseError(f"Snowflake error {error.errno}: {_cause(error)}") from None

    def _run(self, sql: str) -> int | None:
        return self._execute(sql).rowcount

    def _arrow(self, sql: str) -> pa.Table:
        return self._execute(sql).fetch_arrow_all(force_return_table=True)

    def _arrow_batches(self, sql: str, rows: int) -> Iterator[pa.RecordBatch]:
        for table in self._execute(sql).fetch_arrow_batches():
            yield from table.to_batches(max_chunksize=rows)

    def sql_of_result(self, expression: ir.Table) -> str:
        """The query of a result set: each timestamp has a null flag beside it, because a result's NULL timestamps
        arrive as the epoch from servers that send Arrow without a validity mask (fakesnow does)."""
        flags = {f"{name}{_NULL}": expression[name].isnull() for name in _timestamps(expression)}
        return self.sql(expression.mutate(**flags) if flags else expression)

    def arrow(self, expression: ir.Table) -> pa.Table:
        return self._named(self._arrow(self.sql_of_result(expression)), expression)

    def batches(self, expression: ir.Table, rows: int = 10_000) -> Iterator[pa.RecordBatch]:
        for batch in self._arrow_batches(self.sql_of_result(expression), rows):
            yield from self._named(pa.Table.from_batches([batch]), expression).to_batches(max_chunksize=rows)

    def _named(self, table: pa.Table, expression: ir.Table) -> pa.Table:
        # The connector narrows integers and widens timestamps by content; the expression says what they are.
        schema = expression.schema().to_pyarrow()
        flags = dict(zip(_timestamps(expression), range(len(schema), table.num_columns), strict=False))
        columns = []
        for index, target in enumerate(schema):
            column = table.column(index).cast(target.type, safe=False)
            if target.name in flags:
                column = pc.if_else(table.column(flags[target.name]), pa.scalar(None, target.type), column)
            columns.append(column)
        return pa.table(columns, schema=schema)

    def _append(self, ref: TableRef, rows: pa.Table) -> None:
        schema = self.schema(ref)
        picks = ", ".join(f"{_pick(i, dtype)}" for i, dtype in enumerate(schema.values()))
        columns = ", ".join(self._identifier(name).sql(self.dialect) for name in schema)
        for literal in _json_chunks(rows):
            self._run(
                f"INSERT INTO {self.name(ref)} ({columns}) SELECT {picks} FROM TABLE(FLATTEN(INPUT => PARSE_JSON('{literal}'))) AS f"
            )

    def _catalogue(self, ref: TableRef) -> ibis.Schema | None:
        where = f"TABLE_SCHEMA = '{_text(ref.schema.upper())}' AND TABLE_NAME = '{_text(ref.name.upper())}'"
        source = f"{self._identifier(ref.database).sql(self.dialect)}." if ref.database else ""
        rows = self._execute(
            "SELECT COLUMN_NAME, DATA_TYPE, NUMERIC_PRECISION, NUMERIC_SCALE "
            f"FROM {source}INFORMATION_SCHEMA.COLUMNS WHERE {where} ORDER BY ORDINAL_POSITION"
        ).fetchall()
        if not rows:
            return None
        return ibis.schema({str(name).lower(): _ibis_type(kind, precision, scale) for name, kind, precision, scale in rows})

    def _catalogue_of(self, schema: str) -> dict[TableRef, ibis.Schema]:
        rows = self._execute(
            "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, NUMERIC_PRECISION, NUMERIC_SCALE FROM INFORMATION_SCHEMA.COLUMNS "
            f"WHERE TABLE_SCHEMA = '{_text(schema.upper())}' ORDER BY TABLE_NAME, ORDINAL_POSITION"
        ).fetchall()
        found: dict[TableRef, dict[str, ibis_types.DataType]] = {}
        for table, name, kind, precision, scale in rows:
            columns = found.setdefault(TableRef(schema, str(table).lower()), {})
            columns[str(name).lower()] = _ibis_type(kind, precision, scale)
        return {ref: ibis.schema(columns) for ref, columns in found.items()}

    def list_tables(self, schema: str) -> list[TableRef]:
        where = f"WHERE TABLE_SCHEMA = '{_text(schema.upper())}'"
        # Local servers that speak Snowflake's protocol list views only as views.
        rows = self._execute(
            f"SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES {where} "
            f"UNION SELECT TABLE_NAME FROM INFORMATION_SCHEMA.VIEWS {where} ORDER BY 1"
        ).fetchall()
        return [TableRef(schema, str(row[0]).lower()) for row in rows]

    def close(self) -> None:
        self._stack.close()


def _timestamps(expression: ir.Table) -> list[str]:
    return [name for name, dtype in expression.schema().items() if dtype.is_timestamp()]


def _text(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _cause(error: snowflake.connector.errors.Error) -> str:
    # The second line names the object; what follows can quote the statement, and so row values.
    lines = [line for line in str(error.raw_msg or error.msg or "").splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]


def _ibis_type(kind: str, precision: int | None, scale: int | None) -> ibis_types.DataType:
    kind = kind.upper()
    if kind in ("NUMBER", "DECIMAL", "NUMERIC", "INT", "BIGINT"):
        # Whole numbers are int64 on every engine, so that tables compare equal.
        return ibis_types.int64 if not scale else ibis_types.Decimal(precision or 38, scale)
    if kind == "TIMESTAMP_NTZ":
        return ibis_types.Timestamp(scale=6)
    return SnowflakeType.from_string(kind)


def _pick(index: int, dtype: ibis_types.DataType) -> str:
    return f"CAST(f.VALUE[{index}] AS {SnowflakeType.from_ibis(dtype).sql('snowflake')})"


def _json_chunks(rows: pa.Table) -> Iterator[str]:
    """JSON arrays of row arrays, each under the literal limit, escaped for a SQL string."""
    chunk: list[str] = []
    size = 0
    for batch in rows.to_batches(max_chunksize=2_000):
        columns = [column.to_pylist() for column in batch.columns]
        for values in zip(*columns, strict=True):
            text = _text(json.dumps([_plain(v) for v in values], ensure_ascii=False, separators=(",", ":")))
            if chunk and size + len(text) > _LITERAL_BYTES:
                yield "[" + ",".join(chunk) + "]"
                chunk, size = [], 0
            chunk.append(text)
            size += len(text.encode()) + 1
    if chunk:
        yield "[" + ",".join(chunk) + "]"


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ", timespec="microseconds")
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value) if type(value).__name__ == "Decimal" else value


def open_snowflake(settings: Mapping[str, Any]) -> SnowflakeWarehouse:
    """Open a Snowflake session with ``SnowflakeResource`` settings."""
    return SnowflakeWarehouse(settings=dict(settings))
