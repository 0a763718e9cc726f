"""``profile_traits_updates``: the trait log as one row per event, with a column per trait.

An identify call has a row where it changed a trait of its profile, with all that it set; a merge has one on the side that
remains, with all that the profile then has. Only profiles with entries that are new, or gone by a correction, are written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.naming import snake_case
from cdp_assets.unified_profiles.external import is_trait_column
from cdp_assets.unified_profiles.logs import source_columns
from cdp_assets.unified_profiles.tables import (
    TRAIT_COLUMNS,
    TRAIT_ENTRIES,
    TRAIT_UPDATES,
    id_graph_updates,
    profile_schema,
    profile_traits_updates,
)
from resources.warehouse import TableSpec, Warehouse

MAX_COLUMNS = 1_000
_ENTRY = ("segment_id", "seq", "message_id")
_ROW = ("segment_id", "seq")


def build(warehouse: Warehouse, config: SpaceConfig, graph: DataGraph) -> None:
    """Bring the table up to the logs of the room."""
    schema = profile_schema(graph)
    warehouse.ensure(TRAIT_COLUMNS, TRAIT_ENTRIES)
    entries, taken = _entries(warehouse, schema), warehouse.table(TRAIT_ENTRIES.ref)
    with (
        warehouse.staged(entries.anti_join(taken, list(_ENTRY))) as fresh,
        warehouse.staged(taken.anti_join(entries, list(_ENTRY))) as gone,
    ):
        columns = _take_in_names(warehouse, fresh)
        spec = profile_traits_updates(schema, list(dict.fromkeys(columns.values())))
        warehouse.ensure(spec)
        if not warehouse.count(fresh) and not warehouse.count(gone):
            return
        with warehouse.staged(_written_again(warehouse, schema, fresh, gone)) as segments:
            work = _Work(warehouse, config, schema, segments)
            with warehouse.staged(work.cells()) as cells, warehouse.staged(work.events(cells)) as events, warehouse.transaction():
                warehouse.delete_matching(spec.ref, segments, ["segment_id"])
                warehouse.insert(spec.ref, work.rows(spec, cells, events))
                warehouse.delete_matching(TRAIT_ENTRIES.ref, gone, list(_ENTRY))
                warehouse.insert(TRAIT_ENTRIES.ref, fresh)


def trait_columns(warehouse: Warehouse) -> list[str]:
    """The columns of traits, by name."""
    names = warehouse.table(TRAIT_COLUMNS.ref)
    held = names.filter(names.column_name.notnull()).select("column_name").distinct().order_by("column_name")
    return [name for batch in warehouse.batches(held) for name in batch.column(0).to_pylist()]


def column_of(trait: str) -> str | None:
    """The column of a trait; None where the name is one of the table's own, or Segment's."""
    name = snake_case(trait)
    own = profile_traits_updates("any").columns
    return None if name in own or (not is_trait_column(name) and not name.startswith("_")) else name


# -- names ---------------------------------------------------------------------------------------------------------------


def _take_in_names(warehouse: Warehouse, fresh: ir.Table) -> dict[str, str]:
    """trait -> column, after the names of the new entries were given columns in the order of their first entry."""
    updates, known = warehouse.table(TRAIT_UPDATES.ref), warehouse.table(TRAIT_COLUMNS.ref)
    seen = updates.semi_join(fresh, list(_ENTRY)).anti_join(known, "name")
    first = seen.group_by("name").agg(seq=seen.seq.min()).order_by("seq", "name").select("name")
    names = [name for batch in warehouse.batches(first) for name in batch.column(0).to_pylist()]
    kept = {row["name"]: row["column_name"] for batch in warehouse.batches(known) for row in batch.to_pylist()}
    taken = {column for column in kept.values() if column is not None}
    added: dict[str, str | None] = {}
    for name in names:
        column = column_of(name)
        if column is not None and column not in taken and len(taken) >= MAX_COLUMNS:
            column = None
        added[name] = column
        taken |= {column} - {None}  # type: ignore[arg-type]
    if added:
        rows = {"name": list(added), "column_name": pa.array(added.values(), pa.string())}
        warehouse.append(TRAIT_COLUMNS.ref, pa.table(rows))
    return {name: column for name, column in (kept | added).items() if column is not None}


# -- entries -------------------------------------------------------------------------------------------------------------


def _merges(warehouse: Warehouse, schema: str) -> ir.Table:
    """One row per merge event and profile that remains: (segment_id, seq, message_id)."""
    log = warehouse.table(id_graph_updates(schema).ref)
    merged = log.filter(log.segment_id != log.canonical_segment_id)
    return merged.select(segment_id=merged.canonical_segment_id, seq=merged.seq, message_id=merged.triggering_event_id).distinct()


def _entries(warehouse: Warehouse, schema: str) -> ir.Table:
    """(segment_id, seq, message_id) of every identify call with traits, and of every merge."""
    updates = warehouse.table(TRAIT_UPDATES.ref).select(*_ENTRY)
    return updates.union(_merges(warehouse, schema)).distinct()


def _written_again(warehouse: Warehouse, schema: str, fresh: ir.Table, gone: ir.Table) -> ir.Table:
    """(segment_id): profiles with an entry that is new or gone, and those that had taken one of them in."""
    touched = fresh.select("segment_id").union(gone.select("segment_id")).distinct()
    log = warehouse.table(id_graph_updates(schema).ref)
    took_in = log.semi_join(touched, "segment_id").select(segment_id="canonical_segment_id")
    return touched.union(took_in).distinct()


# -- rows ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """The rows of some profiles (``segments``), from the logs alone."""

    warehouse: Warehouse
    config: SpaceConfig
    schema: str
    segments: ir.Table

    def cells(self) -> ir.Table:
        """(segment_id, seq, message_id, column_name, value, merge, changed) of their events."""
        merges = _merges(self.warehouse, self.schema).semi_join(self.segments, "segment_id")
        said = self._updates().semi_join(self.segments, "segment_id")
        said = _last_by_name(said, [*_ROW, "column_name"]).anti_join(merges, list(_ROW))
        said = said.select(*_ENTRY, "column_name", "value", merge=ibis.literal(False))
        both = said.union(self._after(merges))
        before = both.value.lag().over(group_by=["segment_id", "column_name"], order_by="seq")
        compared = both.mutate(before=before)
        changed = ibis.coalesce(compared.value != compared.before, compared.value.notnull() | compared.before.notnull())
        return compared.mutate(changed=changed).drop("before")

    def _updates(self) -> ir.Table:
        """The trait log by column: (segment_id, seq, message_id, name, column_name, value)."""
        updates, columns = self.warehouse.table(TRAIT_UPDATES.ref), self.warehouse.table(TRAIT_COLUMNS.ref)
        held = columns.filter(columns.column_name.notnull())
        return updates.join(held, "name").select(*_ENTRY, "name", "column_name", "value")

    def _after(self, merges: ir.Table) -> ir.Table:
        """All that a profile has after each of its merges, its own and that of all profiles that it had taken in by then."""
        log = self.warehouse.table(id_graph_updates(self.schema).ref)
        parts = log.select(whole="canonical_segment_id", part="segment_id", since="seq")
        held = merges.join(parts, [merges.segment_id == parts.whole, merges.seq >= parts.since])
        held = held.select("segment_id", "seq", "message_id", "part")
        updates = self._updates().select("name", "column_name", "value", said_by="segment_id", said="seq")
        found = held.join(updates, [held.part == updates.said_by, held.seq >= updates.said])
        rank = ibis.row_number().over(group_by=[*_ROW, "column_name"], order_by=[ibis.desc("said"), ibis.desc("name")])
        newest = found.mutate(_rank=rank).filter(ibis._._rank == 0)
        return newest.select(*_ENTRY, "column_name", "value", merge=ibis.literal(True))

    def events(self, cells: ir.Table) -> ir.Table:
        """(segment_id, seq, message_id) of the rows: merges, and calls that changed something."""
        changing = cells.filter(cells.changed & ~cells.merge).select(*_ENTRY)
        merges = _merges(self.warehouse, self.schema).semi_join(self.segments, "segment_id")
        return changing.union(merges).distinct()

    def rows(self, spec: TableSpec, cells: ir.Table, events: ir.Table) -> ir.Table:
        columns = [name for name in spec.columns if name in spec.personal]
        wide = cells.group_by(list(_ROW)).aggregate(
            **{column: cells.value.max(where=cells.column_name == column) for column in columns}
        )
        messages = self.warehouse.table(MESSAGES.ref)
        told = messages.select(
            "message_id", "type", "event", "received_at", "timestamp", **source_columns(messages.source, self.config)
        )
        joined = events.join(told, "message_id").left_join(wide, list(_ROW))
        return joined.select(
            "segment_id",
            "seq",
            "received_at",
            "timestamp",
            *source_columns(messages.source, self.config),
            *columns,
            uuid_ts=joined.received_at,
            triggering_event_type=joined.type,
            triggering_event_id=joined.message_id,
            triggering_event_name=joined.event,
        )


def _last_by_name(updates: ir.Table, by: Sequence[str]) -> ir.Table:
    """Of several traits of one event that share a column, the last by name."""
    ranked = updates.mutate(_rank=ibis.row_number().over(group_by=list(by), order_by=ibis.desc("name")))
    return ranked.filter(ranked._rank == 0).drop("_rank")
