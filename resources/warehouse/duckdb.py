"""DuckDB: the embedded warehouse. One file per space, one process at a time.

Runs connect through ``dagster_duckdb.DuckDBResource`` (``resources/space.py``), commands directly: they do without Dagster's import.
External access is off but for the folders that the space declares, and the configuration is locked, so that user SQL cannot read or
write files.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import duckdb
import ibis
import ibis.expr.datatypes as ibis_types
import pyarrow as pa
from ibis.backends.sql.datatypes import DuckDBType

from resources.warehouse import TableRef, TableSpec, Warehouse, WarehouseError
from resources.warehouse.resting import Rested, rest, take

Connect = Callable[[str, bool], AbstractContextManager[duckdb.DuckDBPyConnection]]
"""(path, read only) -> a connection that is closed at the end."""


# Of scratch tables: in memory, and beyond its limit in files beside the database. What is gone at the end need not be written into the
# file first. No temporary tables: a connection's cursors do not see those.
_MEMORY = "cdp_memory"


def connect_directly(path: str, read_only: bool) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    return closing(duckdb.connect(path, read_only=read_only))


class WarehouseBusyError(WarehouseError):
    """Another process holds the DuckDB file and did not let go in time."""


@dataclass
class DuckDBWarehouse(Warehouse):
    """An open DuckDB file (``:memory:`` for none). ``views``: schema -> folder of Parquet files, read in place.

    Waits up to ``wait`` seconds for the file's lock; ``on_wait`` is told once that it waits. ``linger``: seconds that the file stays open
    in this process after the warehouse was closed, unless an error ended its use.
    """

    quick_scratch: ClassVar[bool] = True

    path: str = ":memory:"
    views: Mapping[str, Path] = field(default_factory=dict)
    memory_limit: str | None = None
    wait: float = 60.0
    on_wait: Callable[[str], None] | None = None
    read_only: bool = False
    connect: Connect = connect_directly
    linger: float = 0.0

    def __post_init__(self) -> None:
        self.dialect = "duckdb"
        rested = take(self.path, self._setup)
        if rested is not None:
            self._connection, self._stack = rested.connection, rested.stack
            self._create_views()
            return
        self._stack = ExitStack()
        self._connection = self._open()
        self._connection.execute("SET TimeZone='UTC'")
        self._connection.execute("SET preserve_insertion_order=false")
        # It would write into logs and between the lines of a command's own bar.
        self._connection.execute("SET enable_progress_bar=false")
        if self.memory_limit:
            self._connection.execute(f"SET memory_limit='{self.memory_limit}'")
        self._connection.execute(f"ATTACH ':memory:' AS {_MEMORY}")
        self._create_views()
        self._fence()

    @property
    def _setup(self) -> Hashable:
        return self.read_only, self.memory_limit, tuple(sorted((schema, str(folder)) for schema, folder in self.views.items()))

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self.path != ":memory:":
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.wait
        told = False
        while True:
            try:
                return self._stack.enter_context(self.connect(self.path, self.read_only))
            except duckdb.IOException as error:
                if "lock" not in str(error).lower():
                    raise WarehouseError(f"cannot open the DuckDB file: {_first_line(error)}") from None
                if time.monotonic() > deadline:
                    raise WarehouseBusyError(
                        f"{Path(self.path).name} is held by another process after {self.wait:.0f} s; wait for that run to end, or stop it"
                    ) from None
                if not told and self.on_wait:
                    self.on_wait(f"waiting for {Path(self.path).name}: another process is using it")
                    told = True
                time.sleep(0.25)

    def _create_views(self) -> None:
        if self.read_only:
            return
        for schema, folder in sorted(self.views.items()):
            self._connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
            for file in sorted(Path(folder).glob("*.parquet")):
                literal = str(file.resolve()).replace("'", "''")
                statement = (
                    f'CREATE OR REPLACE VIEW "{schema}"."{file.stem.lower()}" AS SELECT * FROM read_parquet(\'{literal}\')'
                )
                self._connection.execute(statement)

    def _fence(self) -> None:
        folders = ", ".join("'" + str(Path(f).resolve()).replace("'", "''") + "'" for f in self.views.values())
        if folders:
            self._connection.execute(f"SET allowed_directories=[{folders}]")
        self._connection.execute("SET enable_external_access=false")
        self._connection.execute("SET lock_configuration=true")

    def scratch_ref(self, name: str) -> TableRef:
        return TableRef("main", name, _MEMORY)

    def _fold(self, name: str) -> str:
        return name

    def _storage(self, spec: TableSpec, column: str) -> str:
        # Else it tries all ways on all rows, which costs more than writing them. Where the named one does not do, it takes another.
        ways = (("dictionary", spec.repeated), ("fsst", spec.varied))
        found = [f" USING COMPRESSION {way}" for way, columns in ways if column in columns]
        return found[0] if found and self._takes_ways else ""

    @functools.cached_property
    def _takes_ways(self) -> bool:
        """Whether the file is of a version that these ways of storing a text are written in; newer ones have another, and refuse them."""
        version = "SELECT tags['storage_version'] FROM duckdb_databases() WHERE database_name = current_database()"
        row = self._connection.execute(version).fetchone()
        return row is None or row[0] is None or str(row[0]).startswith(("v1.0.", "v1.1.", "v1.2."))

    def _run(self, sql: str) -> int | None:
        try:
            result = self._connection.execute(sql)
            if sql[:6] in ("INSERT", "DELETE", "UPDATE"):
                row = result.fetchone()
                return int(row[0]) if row else None
        except duckdb.Error as error:
            raise WarehouseError(_first_line(error)) from None
        return None

    def _arrow(self, sql: str) -> pa.Table:
        try:
            return self._connection.execute(sql).to_arrow_table()
        except duckdb.Error as error:
            raise WarehouseError(_first_line(error)) from None

    def _arrow_batches(self, sql: str, rows: int) -> Iterator[pa.RecordBatch]:
        try:
            # A cursor of its own: other statements may run while the stream is open.
            reader = self._connection.cursor().execute(sql).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise WarehouseError(_first_line(error)) from None
        yield from reader

    def _append(self, ref: TableRef, rows: pa.Table) -> None:
        # Not a registered view: a transaction keeps the rows of every view that was dropped in it until it ends.
        try:
            self._connection.from_arrow(rows).insert_into(self.name(ref))
        except duckdb.Error as error:
            raise WarehouseError(_first_line(error)) from None

    def _catalogue(self, ref: TableRef) -> ibis.Schema | None:
        try:
            described = self._connection.execute(f"DESCRIBE {self.name(ref)}").fetchall()
        except (duckdb.CatalogException, duckdb.BinderException):
            return None
        except duckdb.Error as error:
            # A view whose files are gone exists, and cannot be read.
            raise WarehouseError(f"table {ref}: {_first_line(error)}") from None
        return ibis.schema({str(row[0]).lower(): _type(row[1]) for row in described})

    def _catalogue_of(self, schema: str) -> dict[TableRef, ibis.Schema]:
        rows = self._connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() "
            "WHERE lower(schema_name) = ? AND database_name = current_database() ORDER BY table_name, column_index",
            [schema],
        ).fetchall()
        found: dict[TableRef, dict[str, ibis_types.DataType]] = {}
        for table, name, kind in rows:
            found.setdefault(TableRef(schema, str(table).lower()), {})[str(name).lower()] = _type(kind)
        return {ref: ibis.schema(columns) for ref, columns in found.items()}

    def list_tables(self, schema: str) -> list[TableRef]:
        found = self._connection.execute(
            "SELECT table_name FROM information_schema.tables "
            "WHERE lower(table_schema) = ? AND table_catalog = current_database() ORDER BY 1",
            [schema],
        ).fetchall()
        return [TableRef(schema, str(row[0]).lower()) for row in found]

    def __exit__(self, *exc: object) -> None:
        if any(exc):
            self.linger = 0.0
        self.close()

    def close(self) -> None:
        # Closing once more must not touch a connection that somebody else may have by then.
        stack, self._stack = self._stack, ExitStack()
        linger, self.linger = self.linger, 0.0
        if linger and not self._depth:
            rest(self.path, Rested(self._connection, stack, self._setup), linger)
        else:
            stack.close()


@functools.cache
def _type(name: str) -> ibis_types.DataType:
    """A column's type by its name in the catalogue. Parsing one takes longer than reading it."""
    return DuckDBType.from_string(name)


def _first_line(error: Exception) -> str:
    # Later lines of DuckDB's messages quote row values and the statement's text.
    return str(error).splitlines()[0]


def open_duckdb(path: Path | str, *, views: Mapping[str, Path] | None = None, wait: float = 60.0, **options) -> DuckDBWarehouse:
    """Open (and create) the DuckDB warehouse of a space."""
    return DuckDBWarehouse(path=str(path), views=views or {}, wait=wait, **options)


__all__: Sequence[str] = ("DuckDBWarehouse", "WarehouseBusyError", "open_duckdb")
