"""Company tables as they stood at an instant, for entities of which the space keeps or declares history.

Two kinds of history (``entities:`` in space.yaml). A table may have its own: two columns that say from when until when a row holds.
Or the project keeps it: at each build that is newer than all before it, rows that changed since the last snapshot are written down,
those that went are closed. All other tables are read as they are now, whatever the instant.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.data_graph.model import Entity
from cdp_assets.linked_audiences.tables import ENTITY_SNAPSHOTS
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.operators import ConditionError, family
from resources.warehouse import MissingTableError, TableRef, Warehouse, naive_utc, timestamp_literal
from resources.warehouse import functions as fn

SCHEMA: Final = "entity_snapshots"
SINCE, UNTIL, ROW = "cdp_valid_from", "cdp_valid_to", "cdp_row"
# The first snapshot stands for all that was before: it is the oldest that is known.
ALWAYS: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
STILL: Final = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)


def snapshot_ref(entity: Entity) -> TableRef:
    """Where an entity's row versions are kept: its columns, from when until when (STILL: open), and a hash of the row."""
    return TableRef(SCHEMA, entity.slug.replace("-", "_"))


def entity_table(warehouse: Warehouse, config: SpaceConfig, entity: Entity, as_of: dt.datetime) -> ir.Table:
    """The entity's rows as they stood at ``as_of``, or as they are where there is no history of them. Raises ConditionError."""
    history = config.entities.get(entity.slug)
    instant = timestamp_literal(as_of)
    if history is not None and history.snapshots:
        try:
            kept = warehouse.table(snapshot_ref(entity))
        except MissingTableError:
            return warehouse.table(TableRef.parse(entity.table_ref))
        stood = kept.filter((kept[SINCE] <= instant) & (kept[UNTIL] > instant))
        return stood.drop(SINCE, UNTIL, ROW)
    table = warehouse.table(TableRef.parse(entity.table_ref))
    if history is None:
        return table
    since, until = (_instants(table, name, entity) for name in (history.valid_from, history.valid_to))
    return table.filter((since <= instant) & (until.isnull() | (until > instant)))


def _instants(table: ir.Table, name: str | None, entity: Entity) -> ir.TimestampValue:
    column = str(name).lower()
    if column not in table.columns:
        raise ConditionError(
            f"entity {entity.slug}: no column {name}, which space.yaml names for its history",
            f"columns: {', '.join(table.columns)}",
        )
    if family(table[column]) not in ("date", "timestamp"):
        raise ConditionError(f"entity {entity.slug}: column {name} is neither a date nor a timestamp", "cast it in a view")
    return table[column].cast("timestamp(6)")


def has_history(config: SpaceConfig, entity: Entity) -> bool:
    """Whether the entity is read as it stood."""
    return entity.slug in config.entities


def take_snapshots(warehouse: Warehouse, config: SpaceConfig, entities: Iterable[Entity], as_of: dt.datetime) -> None:
    """Write down what changed in the tables of ``entities`` (those that keep snapshots) since their last snapshot.

    Nothing is done for an instant that is not after the last one: a table cannot be asked how it was.
    """
    warehouse.ensure(ENTITY_SNAPSHOTS)
    for entity in entities:
        history = config.entities.get(entity.slug)
        if history is not None and history.snapshots and _is_news(warehouse, entity, as_of):
            _take(warehouse, entity, as_of)


def _is_news(warehouse: Warehouse, entity: Entity, as_of: dt.datetime) -> bool:
    taken = warehouse.table(ENTITY_SNAPSHOTS.ref)
    return warehouse.count(taken.filter((taken.entity == entity.slug) & (taken.as_of >= timestamp_literal(as_of)))) == 0


def _take(warehouse: Warehouse, entity: Entity, as_of: dt.datetime) -> None:
    ref = snapshot_ref(entity)
    table = warehouse.table(TableRef.parse(entity.table_ref))
    now = table.distinct()
    now = now.mutate(**{ROW: _row_hash(now)})
    first = not warehouse.has(ref)
    if first:
        warehouse.create(ref, _from(now, ALWAYS).limit(0))
    else:
        warehouse.add_columns(ref, {name: str(dtype) for name, dtype in now.schema().items()})
    kept = warehouse.table(ref)
    standing = kept.filter(kept[UNTIL] == timestamp_literal(STILL))
    with (
        warehouse.staged(_from(now.anti_join(standing, ROW), ALWAYS if first else as_of)) as new,
        warehouse.staged(standing.anti_join(now, ROW).mutate(**{UNTIL: timestamp_literal(as_of)})) as gone,
    ):
        counts = {"rows": warehouse.count(now), "added": warehouse.count(new), "closed": warehouse.count(gone)}
        with warehouse.transaction():
            if counts["closed"]:
                warehouse.delete_matching(ref, gone, [ROW], [(UNTIL, "=", STILL)])
                warehouse.insert(ref, gone)
            warehouse.insert(ref, new)
            row = {"entity": entity.slug, "as_of": naive_utc(as_of), **counts}
            warehouse.append(ENTITY_SNAPSHOTS.ref, pa.Table.from_pylist([row], ENTITY_SNAPSHOTS.schema.to_pyarrow()))


def _from(rows: ir.Table, since: dt.datetime) -> ir.Table:
    return rows.mutate(**{SINCE: timestamp_literal(since), UNTIL: timestamp_literal(STILL)})


def _row_hash(rows: ir.Table) -> ir.StringValue:
    """A hash of all columns, the length of each before it (of a null a dash), so that no two rows read alike."""
    parts: list[ir.StringValue] = []
    for name in rows.columns:
        text = rows[name].cast("string")
        parts += [ibis.coalesce(text.length().cast("string"), "-"), ibis.literal(":"), ibis.coalesce(text, "")]
    return fn.sha256(parts[0].concat(*parts[1:]))
