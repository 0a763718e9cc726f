"""The data graph against the warehouse: what its text alone cannot say.

Reads the catalogue, and one aggregate query per entity for its primary key. Messages carry counts, never values.
"""

from __future__ import annotations

from dataclasses import dataclass

import ibis
import ibis.expr.datatypes as ibis_types

from cdp_assets.data_graph import profiles_sync
from cdp_assets.data_graph.model import (
    ColumnJoin,
    DataGraph,
    Entity,
    ExternalIdJoin,
    JunctionJoin,
    Node,
    TraitJoin,
)
from cdp_assets.space.space import Problem
from resources.warehouse import MissingTableError, TableRef, Warehouse


def check_graph(graph: DataGraph, warehouse: Warehouse, file: str = "data_graph.hcl") -> tuple[Problem, ...]:
    """All problems of ``graph`` in ``warehouse``, by line.

    Errors: a missing table, a missing primary key or join column, join keys of types that cannot be compared. Warnings: a
    primary key with duplicates or nulls, and a numeric key that is cast to be compared with a text (identifiers and traits are texts).
    """
    return _Check(warehouse, file).run(graph)


@dataclass(frozen=True)
class _Key:
    """One side of a join: how a message calls it, and its type (None where that is already reported)."""

    called: str
    family: str | None


class _Check:
    def __init__(self, warehouse: Warehouse, file: str) -> None:
        self.warehouse = warehouse
        self.file = file
        self.problems: list[Problem] = []

    def run(self, graph: DataGraph) -> tuple[Problem, ...]:
        for entity in graph.entities:
            if self._schema(entity.table_ref) is None:
                self._missing_table(entity.line, f"entity '{entity.slug}'", entity.table_ref)
            elif self._column(entity.line, f"primary key of entity '{entity.slug}'", entity.table_ref, entity.primary_key):
                self._primary_key(entity)
        if graph.external:
            self._profiles(graph)
        nodes = {node.path: node for node in graph.nodes()}
        for node in nodes.values():
            self._join(node, nodes[node.parent].entity if node.parent else None)
        return tuple(sorted(set(self.problems)))

    def _error(self, line: int, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, line, message, remedy))

    def _warn(self, line: int, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, line, message, remedy, "warning"))

    # -- the catalogue ---------------------------------------------------------------------------------------------

    def _schema(self, table_ref: str) -> ibis.Schema | None:
        try:
            return self.warehouse.schema(TableRef.parse(table_ref))
        except MissingTableError:
            return None

    def _missing_table(self, line: int, owner: str, table_ref: str) -> None:
        self._error(
            line,
            f"table {table_ref} of {owner} does not exist in the {self.warehouse.dialect} warehouse",
            "create it, correct table_ref, or grant access to it",
        )

    def _column(self, line: int, what: str, table_ref: str, column: str) -> bool:
        """Whether the column is there. False without a word when its table is missing, which is reported once."""
        schema = self._schema(table_ref)
        if schema is None:
            return False
        if column.lower() in schema:
            return True
        self._error(line, f"{what}: table {table_ref} has no column {column}", f"columns: {', '.join(schema)}")
        return False

    def _key(self, line: int, what: str, table_ref: str, column: str) -> _Key:
        called = f"{table_ref}.{column}"
        if not self._column(line, what, table_ref, column):
            return _Key(called, None)
        schema = self._schema(table_ref)
        assert schema is not None
        return _Key(called, family(schema[column.lower()]))

    # -- Profiles Sync tables of the company's own -----------------------------------------------------------------

    def _profiles(self, graph: DataGraph) -> None:
        for log in profiles_sync.LOGS:
            present = [table.name for table in log if self._schema(f"{graph.profile_schema}.{table.name}") is not None]
            table = profiles_sync.chosen(log, present, graph.profile_type)
            if table is None:
                names = ", ".join(table.name for table in log)
                self._error(
                    1,
                    f"profile_folder {graph.profile_folder} has none of the tables {names}",
                    "sync one of them, or grant access to it",
                )
                continue
            schema = self._schema(f"{graph.profile_schema}.{table.name}") or {}
            missing = [column for column in table.all_columns if column not in schema]
            if missing:
                self._error(
                    1,
                    f"table {graph.profile_schema}.{table.name} has no column {', '.join(missing)}",
                    "sync the table with all its columns",
                )
            if not table.raw:
                self._warn(
                    1,
                    f"profile_folder {graph.profile_folder} has no {log[0].name}: {table.name} is read, which does not hold the past",
                    "sync the raw table for an as_of in the past",
                )

    # -- primary keys ----------------------------------------------------------------------------------------------

    def _primary_key(self, entity: Entity) -> None:
        table = self.warehouse.table(TableRef.parse(entity.table_ref))
        key = table[entity.primary_key.lower()]
        found = self.warehouse.rows(table.aggregate(rows=table.count(), present=key.count(), distinct=key.nunique()), 1)[0]
        nulls, duplicates = found["rows"] - found["present"], found["present"] - found["distinct"]
        called = f"primary key {entity.primary_key} of entity '{entity.slug}'"
        if duplicates:
            self._warn(
                entity.line,
                f"{called} is not unique: {found['present']} rows have {found['distinct']} values",
                "choose a unique column, or point table_ref to a view with one row for each value",
            )
        if nulls:
            self._warn(entity.line, f"{called} is null in {nulls} rows", "those rows cannot be told apart; filter them in a view")

    # -- joins -----------------------------------------------------------------------------------------------------

    def _join(self, node: Node, parent: Entity | None) -> None:
        line, join, table = node.relationship.line, node.join, node.entity.table_ref
        what = f"relationship '{node.relationship.slug}'"
        if isinstance(join, ExternalIdJoin | TraitJoin):
            source = f"identifier {join.type}" if isinstance(join, ExternalIdJoin) else f"trait {join.name}"
            self._text_key(line, what, source, self._key(line, what, table, join.join_key))
        elif isinstance(join, ColumnJoin) and parent is not None:
            left = self._key(line, what, parent.table_ref, join.left)
            self._same_type(line, what, left, self._key(line, what, table, join.right))
        elif isinstance(join, JunctionJoin) and parent is not None:
            self._junction(line, what, join, parent, table)

    def _junction(self, line: int, what: str, join: JunctionJoin, parent: Entity, table: str) -> None:
        if self._schema(join.table_ref) is None:
            self._missing_table(line, f"{what} (junction)", join.table_ref)
        self._column(line, f"{what}, junction primary key", join.table_ref, join.primary_key)
        above = self._key(line, what, parent.table_ref, join.parent_column)
        left = self._key(line, what, join.table_ref, join.junction_left)
        right = self._key(line, what, join.table_ref, join.junction_right)
        below = self._key(line, what, table, join.child_column)
        self._same_type(line, what, above, left)
        self._same_type(line, what, right, below)

    def _text_key(self, line: int, what: str, source: str, key: _Key) -> None:
        if key.family == "number":
            self._warn(
                line,
                f"{what} compares {source}, which is text, with {key.called}, which is a number; it is cast to text explicitly",
                "make the column text in a view to control how it is written",
            )
        elif key.family not in (None, "text"):
            self._error(
                line,
                f"{what} compares {source}, which is text, with {key.called}, which is {key.family}",
                "join on a text column",
            )

    def _same_type(self, line: int, what: str, left: _Key, right: _Key) -> None:
        if {left.family, right.family} == {"text", "number"}:
            self._warn(
                line,
                f"{what} joins {left.called}, which is {left.family}, with {right.called}, which is {right.family}; "
                "the number is cast to text",
                "give both columns the same type, with a cast in a view, to control how it is written",
            )
        elif left.family and right.family and left.family != right.family:
            self._error(
                line,
                f"{what} joins {left.called}, which is {left.family}, with {right.called}, which is {right.family}",
                "give both columns the same type, with a cast in a view",
            )


def family(dtype: ibis_types.DataType) -> str:
    """What a join key is, in a word: two keys compare when their words are the same."""
    if dtype.is_numeric() and not dtype.is_boolean():
        return "number"
    if dtype.is_string():
        return "text"
    if dtype.is_boolean():
        return "boolean"
    if dtype.is_date() or dtype.is_timestamp():
        return "date"
    return type(dtype).__name__.lower()
