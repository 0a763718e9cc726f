"""The Warehouse contract: where all tables live and all expressions run.

A room builds Ibis expressions over ``warehouse.table(ref)`` and hands them back with a verb (``create``, ``insert``,
``replace``, ``upsert``, ``batches``, …). The warehouse compiles for its dialect and runs the SQL; DDL, transactions and name
folding are its own affair. Rooms use lower-case names only. Timestamps are naive UTC with microseconds. JSON documents
are text columns (read with :mod:`resources.warehouse.functions`).

What belongs here: the contract and what all engines share. What does not: anything of one engine (``duckdb.py``,
``snowflake.py``), Dagster, or the meaning of a table (rooms).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

import ibis
import ibis.expr.datatypes as ibis_types
import ibis.expr.types as ir
import pyarrow as pa
import sqlglot
from ibis.backends.sql.datatypes import DuckDBType, SnowflakeType
from sqlglot import exp

from resources.warehouse.errors import MissingTableError, UserQueryError, WarehouseError
from resources.warehouse.functions import compile_expression
from resources.warehouse.tables import TableRef, TableSpec
from resources.warehouse.user_queries import parse_user_query
from resources.warehouse.values import dtype_of, naive_utc, timestamp_literal

Comparison = Literal["=", "<", "<=", ">", ">=", "in"]
Condition = tuple[str, Comparison, Any]

# A query nests as deep as an audience's branches and the comparisons along them, and compiler and printer recurse through it,
# a dozen frames a level: six nodes with references exceed Python's 1,000.
sys.setrecursionlimit(max(sys.getrecursionlimit(), 5_000))


# (dialect, whether for people, expression) -> compiled query. The same expression comes again with the next build, and compiling it costs more than small
# tables do.
_COMPILED: dict[tuple[str, bool, Hashable], str] = {}
_MOST_COMPILED = 1_000
# Instants before this one stand for others in templates (Warehouse.template).
STAND_INS_END = dt.datetime(1900, 1, 1, tzinfo=dt.UTC)
# (dialect, key) -> compiled query with marks, and its columns.
_TEMPLATES: dict[tuple[str, Hashable], tuple[str, ibis.Schema]] = {}
# A template's stand-in, as compiled statements name it.
_TEMPLATE_NAME = re.compile('"(cdp_template_[0-9a-f]{16})"')


@lru_cache(maxsize=4096)
def _literal_sql(value: str | int | dt.datetime, dialect: str) -> str:
    """A value as the compiler of ``dialect`` writes it."""
    literal = timestamp_literal(value) if isinstance(value, dt.datetime) else ibis.literal(value)
    select = compile_expression(literal, dialect)
    return select.expressions[0].unalias().sql(dialect)


@dataclass
class Warehouse(ABC):
    """One open connection to a warehouse. Not thread-safe; close it (or use it as a context manager)."""

    # Whether it has a catalogue and nothing to run statements on.
    compiles_only: ClassVar[bool] = False
    # Whether a scratch table costs less than a large join: without a round trip to the engine for making and dropping it.
    quick_scratch: ClassVar[bool] = False

    dialect: str = field(init=False, default="")
    # What this connection knows of the catalogue, so that it asks once: columns of tables, schemas that are there.
    _schemas: dict[TableRef, ibis.Schema] = field(init=False, default_factory=dict)
    _made: set[str] = field(init=False, default_factory=set)
    _user_queries: dict[str, exp.Expr] = field(init=False, default_factory=dict)
    _templates: dict[str, str] = field(init=False, default_factory=dict)
    _depth: int = field(init=False, default=0)
    _scratch: set[int] = field(init=False, default_factory=set)

    # -- what an engine supplies -------------------------------------------------------------------------------

    @abstractmethod
    def _run(self, sql: str) -> int | None:
        """Run a statement; the number of rows it changed where the engine says so."""

    @abstractmethod
    def _arrow(self, sql: str) -> pa.Table:
        """Run a query, whole result as Arrow. Column names and types as the engine gives them."""

    @abstractmethod
    def _arrow_batches(self, sql: str, rows: int) -> Iterator[pa.RecordBatch]:
        """Run a query, result as a stream of Arrow batches of at most ``rows`` rows."""

    @abstractmethod
    def _append(self, ref: TableRef, rows: pa.Table) -> None:
        """Append Arrow rows (columns named and typed as the table's) to an existing table."""

    @abstractmethod
    def _catalogue(self, ref: TableRef) -> ibis.Schema | None:
        """Columns of a table in lower case, or None when the table is not there."""

    @abstractmethod
    def _catalogue_of(self, schema: str) -> dict[TableRef, ibis.Schema]:
        """Columns, as of ``_catalogue``, of all tables and views of a schema that can be read."""

    @abstractmethod
    def list_tables(self, schema: str) -> list[TableRef]:
        """Tables and views of a schema, sorted by name."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; idempotent."""

    @abstractmethod
    def _fold(self, name: str) -> str:
        """A lower-case logical name in the case that the catalogue stores."""

    # -- names and compilation ---------------------------------------------------------------------------------

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _identifier(self, name: str) -> exp.Identifier:
        return exp.to_identifier(self._fold(name), quoted=True)

    def _table_node(self, ref: TableRef) -> exp.Table:
        return exp.Table(
            this=self._identifier(ref.name),
            db=self._identifier(ref.schema),
            catalog=self._identifier(ref.database) if ref.database else None,
        )

    def name(self, ref: TableRef) -> str:
        """The table's name as SQL of this engine."""
        return self._table_node(ref).sql(self.dialect)

    def sql(self, expression: ir.Expr) -> str:
        """The compiled query of an expression, runnable as it stands."""
        key = (self.dialect, self.compiles_only, expression.op())
        text = _COMPILED.get(key)
        if text is None:
            text = self._tree(expression).sql(self.dialect)
            if len(_COMPILED) >= _MOST_COMPILED:
                _COMPILED.pop(next(iter(_COMPILED)))
            _COMPILED[key] = text
        if _TEMPLATE_NAME.search(text):
            text = _TEMPLATE_NAME.sub(lambda match: f"({self._templates[match[1]]})", text)
        return text

    def _tree(self, expression: ir.Expr) -> exp.Expr:
        return compile_expression(expression, self.dialect, self._user_queries, merged=self.compiles_only)

    # -- schema ------------------------------------------------------------------------------------------------

    def schema(self, ref: TableRef) -> ibis.Schema:
        """Lower-case columns and types of a table. Raises :class:`MissingTableError`."""
        found = self._schemas.get(ref)
        if found is None:
            found = self._catalogue(ref)
            if found is None:
                raise MissingTableError(f"table {ref} does not exist in the {self.dialect} warehouse")
            self._schemas[ref] = found
        return found

    def has(self, ref: TableRef) -> bool:
        """Whether the table is in the catalogue now."""
        self._schemas.pop(ref, None)
        found = self._catalogue(ref)
        if found is not None:
            self._schemas[ref] = found
        return found is not None

    def table(self, ref: TableRef) -> ir.Table:
        """The table as an expression with lower-case columns. Raises :class:`MissingTableError`."""
        columns = self.schema(ref)
        folded = {self._fold(name): kind for name, kind in columns.items()}
        catalog = self._fold(ref.database) if ref.database else None
        bound = ibis.table(folded, name=self._fold(ref.name), catalog=catalog, database=self._fold(ref.schema))
        if all(self._fold(name) == name for name in columns):
            return bound
        return bound.select(**{name: bound[self._fold(name)] for name in columns})

    def ensure_schema(self, schema: str) -> None:
        if schema not in self._made:
            self._run(f"CREATE SCHEMA IF NOT EXISTS {self._identifier(schema).sql(self.dialect)}")
            self._made.add(schema)

    def ensure(self, *specs: TableSpec) -> None:
        """Create the tables that are missing, empty, with the declared columns; add declared columns that a table lacks."""
        unknown = [spec.ref for spec in specs if spec.ref not in self._schemas]
        if len(unknown) == 1:
            self.has(unknown[0])
        else:
            for schema in sorted({ref.schema for ref in unknown}):
                self._schemas |= {ref: found for ref, found in self._catalogue_of(schema).items() if ref in unknown}
        for spec in specs:
            if spec.ref in self._schemas:
                self.add_columns(spec.ref, dict(spec.columns))
            else:
                self._create_empty(spec, "CREATE TABLE")

    def _create_empty(self, spec: TableSpec, how: str) -> None:
        self.ensure_schema(spec.ref.schema)
        columns = ", ".join(self._column_ddl(name, dtype) + self._storage(spec, name) for name, dtype in spec.schema.items())
        self._run(f"{how} {self.name(spec.ref)} ({columns})")
        self._schemas[spec.ref] = spec.schema

    def _column_ddl(self, name: str, dtype: ibis_types.DataType) -> str:
        return f"{self._identifier(name).sql(self.dialect)} {self._type_sql(dtype)}"

    def _storage(self, spec: TableSpec, column: str) -> str:
        """What the declaration of a new table's column says about how it is stored."""
        return ""

    def _type_sql(self, dtype: ibis_types.DataType) -> str:
        mapper = {"duckdb": DuckDBType, "snowflake": SnowflakeType}[self.dialect]
        return mapper.from_ibis(dtype).sql(self.dialect)

    def add_columns(self, ref: TableRef, columns: Mapping[str, str]) -> list[str]:
        """Add the columns that the table lacks (nullable); the names that were added, in order."""
        present = self.schema(ref)
        missing = [name for name in columns if name not in present]
        for name in missing:
            self._run(f"ALTER TABLE {self.name(ref)} ADD COLUMN {self._column_ddl(name, dtype_of(columns[name]))}")
        if missing:
            self._schemas.pop(ref, None)
        return missing

    def drop(self, ref: TableRef) -> None:
        self._run(f"DROP TABLE IF EXISTS {self.name(ref)}")
        self._schemas.pop(ref, None)

    # -- writes ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Nested uses join the outer transaction."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        self._run("BEGIN")
        self._depth = 1
        try:
            yield
        except BaseException:
            self._depth = 0
            self._run("ROLLBACK")
            self._schemas.clear()
            self._made.clear()
            raise
        self._depth = 0
        self._run("COMMIT")

    def create(self, ref: TableRef, expression: ir.Table) -> None:
        """Create or replace the table with the rows of ``expression`` (which may read the table itself)."""
        self.ensure_schema(ref.schema)
        self._run(f"CREATE OR REPLACE TABLE {self.name(ref)} AS {self._folded_select(expression)}")
        self._schemas.pop(ref, None)

    def create_view(self, ref: TableRef, expression: ir.Table) -> None:
        """Create or replace a view: the query is kept, no rows. DDL: call it outside a transaction."""
        self.ensure_schema(ref.schema)
        self._run(f"CREATE OR REPLACE VIEW {self.name(ref)} AS {self._folded_select(expression)}")
        self._schemas.pop(ref, None)

    def _folded_select(self, expression: ir.Table, columns: Sequence[str] | None = None) -> str:
        names = list(columns or expression.columns)
        renamed = {self._fold(name): expression[name] for name in names}
        # Every projection costs when it is compiled, whether or not it changes anything.
        return self.sql(expression if list(renamed) == list(expression.columns) else expression.select(**renamed))

    def insert(self, ref: TableRef, expression: ir.Table) -> int | None:
        """Append rows. Columns are matched by name; columns that the expression lacks become NULL."""
        schema = self.schema(ref)
        unknown = [name for name in expression.columns if name not in schema]
        if unknown:
            raise WarehouseError(f"table {ref} has no column {', '.join(unknown)}")
        names = [name for name in schema if name in expression.columns]
        casts = {name: expression[name].cast(schema[name]) for name in names if expression[name].type() != schema[name]}
        casted = expression.mutate(**casts) if casts else expression
        columns = ", ".join(self._identifier(name).sql(self.dialect) for name in names)
        return self._run(f"INSERT INTO {self.name(ref)} ({columns}) {self._folded_select(casted, names)}")

    def append(self, ref: TableRef, rows: pa.Table) -> int:
        """Append Arrow rows; columns by name, missing ones NULL, types cast to the table's. The number of rows."""
        schema = self.schema(ref)
        unknown = [name for name in rows.column_names if name not in schema]
        if unknown:
            raise WarehouseError(f"table {ref} has no column {', '.join(unknown)}")
        target = schema.to_pyarrow()
        arrays = []
        for column in target:
            if column.name in rows.column_names:
                arrays.append(rows.column(column.name).cast(column.type))
            else:
                arrays.append(pa.nulls(rows.num_rows, column.type))
        if rows.num_rows:
            self._append(ref, pa.table(arrays, names=target.names))
        return rows.num_rows

    def delete(self, ref: TableRef, conditions: Sequence[Condition]) -> int | None:
        """Delete rows that meet all conditions, e.g. ``[("partition_key", "in", keys)]``. An empty list deletes all."""
        where = exp.and_(*(self._condition(c) for c in conditions)) if conditions else exp.true()
        return self._run(f"DELETE FROM {self.name(ref)} WHERE {where.sql(self.dialect)}")

    def _condition(self, condition: Condition, table: exp.Table | None = None) -> exp.Expr:
        column, operator, value = condition
        parts = {"table": table.args["this"].copy(), "db": table.args["db"].copy()} if table is not None else {}
        left = exp.Column(this=self._identifier(column), **parts)
        if operator == "in":
            return exp.In(this=left, expressions=[self._literal(v) for v in value]) if value else exp.false()
        kinds = {"=": exp.EQ, "<": exp.LT, "<=": exp.LTE, ">": exp.GT, ">=": exp.GTE}
        return kinds[operator](this=left, expression=self._literal(value))

    def _literal(self, value: Any) -> exp.Expr:
        if isinstance(value, dt.datetime):
            instant = naive_utc(value) if value.tzinfo else value
            return exp.cast(exp.Literal.string(instant.isoformat(sep=" ", timespec="microseconds")), "timestamp")
        return exp.convert(value)

    def replace(self, ref: TableRef, expression: ir.Table, conditions: Sequence[Condition]) -> None:
        """Delete the rows that meet ``conditions`` and insert ``expression`` (which may read the table), in one transaction."""
        with self.staged(expression) as rows, self.transaction():
            self.delete(ref, conditions)
            self.insert(ref, rows)

    def upsert(self, ref: TableRef, expression: ir.Table, keys: Sequence[str]) -> None:
        """Replace whole rows by key and insert new ones, in one transaction. ``expression`` must be unique on ``keys``, keys not NULL."""
        with self.staged(expression) as rows, self.transaction():
            self.delete_matching(ref, rows, keys)
            self.insert(ref, rows)

    def delete_matching(
        self, ref: TableRef, expression: ir.Table, keys: Sequence[str], conditions: Sequence[Condition] = ()
    ) -> int | None:
        """Delete rows whose ``keys`` equal those of some row of ``expression``, of those that meet ``conditions``."""
        subquery = self._folded_select(expression.select(*keys), list(keys))
        target, source = self._table_node(ref), "cdp_matched"
        on = " AND ".join(
            f"{target.sql(self.dialect)}.{self._identifier(k).sql(self.dialect)} = {source}.{self._identifier(k).sql(self.dialect)}"
            for k in keys
        )
        for condition in conditions:
            on += f" AND {self._condition(condition, target).sql(self.dialect)}"
        return self._run(f"DELETE FROM {target.sql(self.dialect)} USING ({subquery}) AS {source} WHERE {on}")

    def scratch_ref(self, name: str) -> TableRef:
        """A table that lasts no longer than the work it is part of."""
        return TableRef("cdp_scratch", name)

    @contextlib.contextmanager
    def staged(self, expression: ir.Table, name: str | None = None) -> Iterator[ir.Table]:
        """The rows of ``expression`` computed once into a scratch table, dropped at the end. DDL: open it outside a transaction.

        ``name`` for a table that templates read (:meth:`template`): they need it under the same name each time.
        """
        number = self._free_number()
        ref = self.scratch_ref(name or f"s{number}")
        self.create(ref, expression)
        try:
            yield self.table(ref)
        finally:
            self._scratch.discard(number)
            with contextlib.suppress(WarehouseError):
                self.drop(ref)

    def _free_number(self) -> int:
        """The smallest number that no scratch table has: the same work uses the same names, and so the same compiled queries."""
        number = next(n for n in range(1, len(self._scratch) + 2) if n not in self._scratch)
        self._scratch.add(number)
        return number

    @contextlib.contextmanager
    def scratch_table(self, columns: Mapping[str, str]) -> Iterator[TableRef]:
        """An empty scratch table to write into, dropped at the end. DDL: open it outside a transaction."""
        number = self._free_number()
        ref = self.scratch_ref(f"s{number}")
        self._create_empty(TableSpec(ref, columns, "Rows to work with.", subject=None), "CREATE OR REPLACE TABLE")
        try:
            yield ref
        finally:
            self._scratch.discard(number)
            with contextlib.suppress(WarehouseError):
                self.drop(ref)

    @contextlib.contextmanager
    def scratch(self, rows: pa.Table) -> Iterator[ir.Table]:
        """Arrow rows as a scratch table to join with, dropped at the end. DDL: open it outside a transaction."""
        kinds = {
            name: "timestamp" if dtype.is_timestamp() else str(dtype)
            for name, dtype in ibis.Schema.from_pyarrow(rows.schema).items()
        }
        with self.scratch_table(kinds) as ref:
            self.append(ref, rows)
            yield self.table(ref)

    # -- reads -------------------------------------------------------------------------------------------------

    def arrow(self, expression: ir.Table) -> pa.Table:
        """Whole result as Arrow with the expression's names and types. For results known to be small: else :meth:`batches`."""
        return self._named(self._arrow(self.sql(expression)), expression)

    def batches(self, expression: ir.Table, rows: int = 10_000) -> Iterator[pa.RecordBatch]:
        """Stream of Arrow batches of at most ``rows`` rows. No other statement may run until it is exhausted or closed."""
        for batch in self._arrow_batches(self.sql(expression), rows):
            table = self._named(pa.Table.from_batches([batch]), expression)
            yield from table.to_batches()

    def rows(self, expression: ir.Table, limit: int) -> list[dict[str, Any]]:
        """At most ``limit`` rows as dicts, for previews and small reports."""
        return self.arrow(expression.limit(limit)).to_pylist()

    def scalar(self, expression: ir.Scalar) -> Any:
        """The value of a scalar expression (an aggregate)."""
        return self._arrow(self.sql(expression.as_table()))[0][0].as_py()

    def count(self, expression: ir.Table) -> int:
        """Number of rows."""
        return int(self.scalar(expression.count()))

    def _named(self, table: pa.Table, expression: ir.Table) -> pa.Table:
        return table.rename_columns(list(expression.columns)).cast(expression.schema().to_pyarrow())

    # -- templates ---------------------------------------------------------------------------------------------

    def template(self, key: Hashable, build: Callable[[], ir.Table], values: Mapping[Any, Any]) -> ir.Table:
        """An expression that is built and compiled once per process and ``key``, and runs with other values each time.

        Compiling a large expression costs more than running it on small tables. ``build`` writes marks instead of what varies:
        texts, whole numbers and aware instants that occur nowhere else; ``values`` maps each mark to its value now. ``key`` must hold
        all else that the expression depends on.
        """
        known = _TEMPLATES.get((self.dialect, key))
        if known is None:
            expression = build()
            known = (self.sql(expression), expression.schema())
            _TEMPLATES[self.dialect, key] = known
        text, schema = known
        for mark, value in values.items():
            text = text.replace(_literal_sql(mark, self.dialect), _literal_sql(value, self.dialect))
        name = "cdp_template_" + hashlib.sha256(text.encode()).hexdigest()[:16]
        self._templates[name] = text
        return ibis.table(schema, name=name)

    # -- user SQL ----------------------------------------------------------------------------------------------

    def user_query(
        self, sql: str, *, schemas: Sequence[str], parameters: Mapping[str, Any] | None = None, dialect: str | None = None
    ) -> ir.Table:
        """One SELECT of the user's as an expression with lower-case columns.

        It is parsed, must be a single SELECT whose every table is qualified with one of ``schemas`` (CTE names aside), and
        must call no table function. ``:name`` stands for a value of ``parameters``. ``dialect``: the one that the
        text is written in, default this engine's. Raises :class:`UserQueryError`.
        """
        tree = parse_user_query(sql, schemas=schemas, parameters=parameters, dialect=dialect or self.dialect)
        if dialect and dialect != self.dialect:
            tree = sqlglot.parse_one(tree.sql(self.dialect), read=self.dialect)
        name = "cdp_user_query_" + hashlib.sha256(tree.sql(self.dialect).encode()).hexdigest()[:16]
        self._user_queries[name] = tree
        probe = exp.select("*").from_(exp.Subquery(this=tree.copy(), alias=exp.TableAlias(this=exp.to_identifier("q")))).limit(0)
        try:
            schema = ibis.Schema.from_pyarrow(self._arrow(probe.sql(self.dialect)).schema)
        except WarehouseError as error:
            raise UserQueryError(str(error)) from None
        microseconds = {name: dtype_of("timestamp") if dtype.is_timestamp() else dtype for name, dtype in schema.items()}
        schema = ibis.schema(microseconds)
        bound = ibis.table(schema, name=name)
        return bound.select(**{column.lower(): bound[column] for column in schema})


__all__ = (
    "STAND_INS_END",
    "Comparison",
    "Condition",
    "MissingTableError",
    "TableRef",
    "TableSpec",
    "UserQueryError",
    "Warehouse",
    "WarehouseError",
    "dtype_of",
    "naive_utc",
    "timestamp_literal",
)
