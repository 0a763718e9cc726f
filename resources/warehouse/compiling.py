"""A warehouse that only compiles: another engine's SQL over the tables that a catalogue knows. It runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from resources.warehouse import MissingTableError, TableRef, Warehouse, WarehouseError

DIALECTS = ("duckdb", "snowflake", "databricks", "bigquery")


@dataclass
class CompilingWarehouse(Warehouse):
    """Compiles for ``target``. ``catalogue`` gives a table's lower-case schema and raises MissingTableError."""

    compiles_only: ClassVar[bool] = True

    target: str = "duckdb"
    catalogue: Callable[[TableRef], ibis.Schema] = lambda ref: _missing(ref)

    def __post_init__(self) -> None:
        if self.target not in DIALECTS:
            raise WarehouseError(f"dialect {self.target} is unknown; known: {', '.join(DIALECTS)}")
        self.dialect = self.target

    def pretty_sql(self, expression: ir.Expr) -> str:
        """The compiled query over several lines, for people."""
        return self._tree(expression).sql(self.dialect, pretty=True)

    def _catalogue(self, ref: TableRef) -> ibis.Schema | None:
        try:
            return self.catalogue(ref)
        except MissingTableError:
            return None

    def _catalogue_of(self, schema: str) -> dict[TableRef, ibis.Schema]:
        return {}

    def _fold(self, name: str) -> str:
        return name.upper() if self.dialect == "snowflake" else name

    def _run(self, sql: str) -> int | None:
        self._refuse()

    def _arrow(self, sql: str) -> pa.Table:
        self._refuse()

    def _arrow_batches(self, sql: str, rows: int) -> Iterator[pa.RecordBatch]:
        self._refuse()

    def _append(self, ref: TableRef, rows: pa.Table) -> None:
        self._refuse()

    def list_tables(self, schema: str) -> list[TableRef]:
        self._refuse()

    def close(self) -> None:
        """Nothing is open."""

    def _refuse(self) -> NoReturn:
        raise WarehouseError(f"this {self.dialect} warehouse only compiles; it runs nothing")


def _missing(ref: TableRef) -> Any:
    raise MissingTableError(f"table {ref} is not in the catalogue")
