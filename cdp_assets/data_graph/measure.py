"""The data graph in numbers: rows of each table, and how well each join matches. One aggregate query per table and per join.

What belongs here: counting, and the first rows of each node. What does not: who the people are, which the caller hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ibis.expr.types as ir

from cdp_assets.data_graph.keys import comparable, key_text
from cdp_assets.data_graph.model import ColumnJoin, DataGraph, Entity, ExternalIdJoin, JunctionJoin, Node
from cdp_assets.space.masking import mask_record
from resources.warehouse import MissingTableError, TableRef, Warehouse

MOST_COLUMNS = 1000  # of an entity that are ever shown [D]


@dataclass(frozen=True)
class People:
    """The people whom the graph starts from.

    profiles: (canonical_segment_id), unique. identifiers: type -> (canonical_segment_id, value), distinct. traits: name ->
    (canonical_segment_id, value as text), at most one value each. Both may raise MissingTableError.
    """

    profiles: ir.Table
    identifiers: Callable[[str], ir.Table]
    traits: Callable[[str], ir.Table]


@dataclass(frozen=True)
class JoinCounts:
    """How a node is joined to what is above it (the profiles, or the rows of the parent's table).

    parents, rows: of both sides. parents_matched, rows_matched: those that find at least one partner. pairs: rows that the join gives.
    """

    parents: int
    parents_matched: int
    rows: int
    rows_matched: int
    pairs: int


@dataclass(frozen=True)
class Measured:
    """profiles: how many, None where there are none yet. tables: entity slug -> rows. joins: by node path.

    What a missing table or column makes uncountable is left out.
    """

    profiles: int | None
    tables: Mapping[str, int]
    joins: Mapping[str, JoinCounts]


def measure(graph: DataGraph, warehouse: Warehouse, people: People | None) -> Measured:
    """Count the whole graph. ``people``: None where no profiles are built yet."""
    profiles = warehouse.count(people.profiles) if people is not None else None
    tables = {
        entity.slug: warehouse.count(table)
        for entity in graph.entities
        if (table := _table(warehouse, entity.table_ref)) is not None
    }
    joins: dict[str, JoinCounts] = {}
    entities = {node.path: node.entity for node in graph.nodes()}
    for node in graph.nodes():
        above = entities.get(node.parent) if node.parent else None
        parents = tables.get(above.slug) if above else profiles
        rows = tables.get(node.entity.slug)
        sides = _sides(warehouse, node, above, people)
        if sides is not None and parents is not None and rows is not None:
            joins[node.path] = JoinCounts(parents=parents, rows=rows, **_counted(warehouse, sides))
    return Measured(profiles, tables, joins)


def first_rows(
    graph: DataGraph, warehouse: Warehouse, limit: int, *, show_personal: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Entity slug -> its first rows by primary key, columns in table order, values masked unless shown. Missing tables are left out."""
    found = {}
    for entity in graph.entities:
        table = _table(warehouse, entity.table_ref)
        if table is None:
            continue
        key = entity.primary_key.lower()
        ordered = table.order_by(key) if key in table.columns else table
        rows = warehouse.rows(ordered.select(*table.columns[:MOST_COLUMNS]), limit)
        found[entity.slug] = rows if show_personal else [mask_record(row) for row in rows]
    return found


def _table(warehouse: Warehouse, table_ref: str) -> ir.Table | None:
    try:
        return warehouse.table(TableRef.parse(table_ref))
    except MissingTableError:
        return None


@dataclass(frozen=True)
class _Sides:
    """A join as two lists of keys and, between them, the pairs of keys that meet.

    above, below: (key), a row for each row of the side. links: (above, below), None where equal keys meet. units: where one thing
    above has several keys, (unit, key); it counts once.
    """

    above: ir.Table
    below: ir.Table
    links: ir.Table | None = None
    units: ir.Table | None = None


def _sides(warehouse: Warehouse, node: Node, above: Entity | None, people: People | None) -> _Sides | None:
    """What a node's join compares, or None when a table or column of it is missing."""
    table = _table(warehouse, node.entity.table_ref)
    if table is None:
        return None
    try:
        if isinstance(node.join, ColumnJoin | JunctionJoin):
            parent = _table(warehouse, above.table_ref) if above else None
            return _between_tables(warehouse, node.join, parent, table) if parent is not None else None
        if people is None:
            return None
        known = people.identifiers(node.join.type) if isinstance(node.join, ExternalIdJoin) else people.traits(node.join.name)
        units = known.select(unit=known["canonical_segment_id"], key=known["value"])
        return _Sides(units.select("key"), table.select(key=key_text(_column(table, node.join.join_key))), units=units)
    except (MissingTableError, _MissingColumnError):
        return None


class _MissingColumnError(Exception):
    """A join names a column that its table lacks; the check of the warehouse says so."""


def _column(table: ir.Table, name: str) -> ir.Value:
    if name.lower() not in table.columns:
        raise _MissingColumnError(name)
    return table[name.lower()]


def _between_tables(warehouse: Warehouse, join: ColumnJoin | JunctionJoin, parent: ir.Table, table: ir.Table) -> _Sides:
    if isinstance(join, ColumnJoin):
        left, right = comparable(_column(parent, join.left), _column(table, join.right))
        return _Sides(parent.select(key=left), table.select(key=right))
    junction = warehouse.table(TableRef.parse(join.table_ref))
    left, from_left = comparable(_column(parent, join.parent_column), _column(junction, join.junction_left))
    to_right, right = comparable(_column(junction, join.junction_right), _column(table, join.child_column))
    links = junction.select(above=from_left, below=to_right)
    return _Sides(parent.select(key=left), table.select(key=right), links)


def _counted(warehouse: Warehouse, sides: _Sides) -> dict[str, int]:
    """parents_matched, rows_matched, pairs: one query over the keys and how often each side has them. Null keys meet nothing."""
    above = sides.above.filter(sides.above["key"].notnull()).group_by("key").aggregate(above_rows=lambda t: t.count())
    below = sides.below.filter(sides.below["key"].notnull()).group_by("key").aggregate(below_rows=lambda t: t.count())
    below = below.rename(below_key="key")
    if sides.links is None:
        met = above.join(below, above["key"] == below["below_key"]).mutate(times=1)
    else:
        links = sides.links.group_by("above", "below").aggregate(times=lambda t: t.count())
        met = links.join(above, links["above"] == above["key"])
        met = met.join(below, met["below"] == below["below_key"])
    pairs = met.aggregate(pairs=(met["above_rows"] * met["below_rows"] * met["times"]).sum())
    rows = met.select("below_key", "below_rows").distinct()
    rows_matched = rows.aggregate(rows_matched=rows["below_rows"].sum())
    if sides.units is not None:
        matched = sides.units.semi_join(met, sides.units["key"] == met["key"])
        parents_matched = matched.aggregate(parents_matched=matched["unit"].nunique())
    else:
        parents = met.select("key", "above_rows").distinct()
        parents_matched = parents.aggregate(parents_matched=parents["above_rows"].sum())
    (found,) = warehouse.rows(pairs.cross_join(rows_matched).cross_join(parents_matched), 1)
    return {name: int(value or 0) for name, value in found.items()}
