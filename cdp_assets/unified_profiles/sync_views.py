"""Profiles Sync tables that are views: the user-materialized ones over the logs, and the event tables with their profiles.

They cost nothing per day, and are written again only where their columns change.
"""

from __future__ import annotations

from collections.abc import Collection

import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import EVENTS_SCHEMA, MESSAGES
from cdp_assets.unified_profiles.external import is_trait_column
from cdp_assets.unified_profiles.tables import (
    EVENT_PROFILES,
    external_id_mapping,
    external_id_mapping_updates,
    id_graph,
    id_graph_updates,
    latest,
    profile_schema,
    profile_tables,
    profile_traits,
    profile_traits_updates,
    profile_views,
)
from resources.warehouse import TableRef, Warehouse


def build(warehouse: Warehouse, graph: DataGraph) -> None:
    """Create the views that are missing, and those whose columns are not what they should be."""
    schema = profile_schema(graph)
    _view(warehouse, id_graph(schema).ref, _id_graph(warehouse, schema))
    _view(warehouse, external_id_mapping(schema).ref, _external_id_mapping(warehouse, schema))
    _view(warehouse, profile_traits(schema).ref, _profile_traits(warehouse, schema))
    for source, ref in event_views(warehouse, graph).items():
        _view(warehouse, ref, _event_table(warehouse, source))


def event_views(warehouse: Warehouse, graph: DataGraph) -> dict[TableRef, TableRef]:
    """Event table -> the view that adds its profiles. One with the name of a profile table gets a leading underscore."""
    schema = profile_schema(graph)
    if schema == EVENTS_SCHEMA:
        return {}
    taken = {spec.ref.name for spec in (*profile_tables(schema), *profile_views(schema), profile_traits_updates(schema))}
    found: dict[TableRef, TableRef] = {}
    for ref in warehouse.list_tables(EVENTS_SCHEMA):
        name = _free_name(ref.name, taken)
        taken.add(name)
        found[ref] = TableRef(schema, name)
    return found


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"_{name}"
    return name


def _view(warehouse: Warehouse, ref: TableRef, expression: ir.Table) -> None:
    if not warehouse.has(ref) or tuple(warehouse.schema(ref)) != tuple(expression.columns):
        warehouse.create_view(ref, expression)


def _id_graph(warehouse: Warehouse, schema: str) -> ir.Table:
    newest = latest(warehouse.table(id_graph_updates(schema).ref), ["segment_id"])
    return newest.select("segment_id", "canonical_segment_id", "timestamp", "uuid_ts", "seq", etl_ts=newest.uuid_ts).select(
        *id_graph(schema).columns
    )


def _external_id_mapping(warehouse: Warehouse, schema: str) -> ir.Table:
    newest = latest(warehouse.table(external_id_mapping_updates(schema).ref), ["external_id_hash"])
    kept = newest.filter(newest["__operation"] != "REMOVED")
    ids = _id_graph(warehouse, schema).select("segment_id", "canonical_segment_id")
    return kept.join(ids, "segment_id").select(*external_id_mapping(schema).columns)


def _profile_traits(warehouse: Warehouse, schema: str) -> ir.Table:
    updates = warehouse.table(profile_traits_updates(schema).ref)
    fixed = set(profile_traits_updates(schema).columns)
    columns = [name for name in updates.columns if name not in fixed and is_trait_column(name)]
    ids = _id_graph(warehouse, schema).select("segment_id", "canonical_segment_id")
    said = updates.join(ids, "segment_id").select("canonical_segment_id", "seq", *columns)
    newest = said.group_by("canonical_segment_id").aggregate(
        **{name: said[name].argmax(said.seq, where=said[name].notnull()) for name in columns}
    )
    profiles = ids.select(
        whole="canonical_segment_id",
        canonical_segment_id="segment_id",
        merged_to=(ids.segment_id != ids.canonical_segment_id).ifelse(ids.canonical_segment_id, None),
    )
    # Of a profile that was merged nothing is left: the values are with the one that it merged into.
    return profiles.left_join(newest, "canonical_segment_id").select("canonical_segment_id", "merged_to", *columns)


def _event_table(warehouse: Warehouse, source: TableRef) -> ir.Table:
    events = warehouse.table(source)
    profiles = warehouse.table(EVENT_PROFILES.ref).select("segment_id", id="message_id")
    sources = warehouse.table(MESSAGES.ref).select(id="message_id", event_source_id="source")
    joined = events.left_join(profiles, "id").left_join(sources, "id")
    return joined.select(*events.columns, "segment_id", "event_source_id")
