"""The materialized Profiles Sync tables, from the logs: identifiers, traits and merges as they are now."""

from __future__ import annotations

import datetime as dt

import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.unified_profiles.tables import (
    TRAIT_UPDATES,
    canonical_ids_as_of,
    external_id_mapping_updates,
    id_graph_updates,
    latest,
    profile_merges,
    profile_schema,
    user_identifiers,
    user_traits,
)
from resources.warehouse import Warehouse

_TIMES = ("seq", "received_at", "uuid_ts", "timestamp")


def write(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> None:
    """Fill the three (empty) snapshot tables from the logs. Call it inside the transaction that writes the logs."""
    schema = profile_schema(graph)
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    warehouse.insert(user_identifiers(schema).ref, _identifiers(warehouse, schema, ids))
    warehouse.insert(user_traits(schema).ref, _traits(warehouse, ids))
    newest = latest(warehouse.table(id_graph_updates(schema).ref), ["segment_id"])
    warehouse.insert(profile_merges(schema).ref, newest.select("canonical_segment_id", "segment_id", *_TIMES))


def _identifiers(warehouse: Warehouse, schema: str, ids: ir.Table) -> ir.Table:
    updates = warehouse.table(external_id_mapping_updates(schema).ref)
    newest = latest(updates, ["external_id_type", "external_id_value"])
    newest = newest.filter(newest["__operation"] != "REMOVED").join(ids, "segment_id")
    return newest.select("canonical_segment_id", *_TIMES, type=newest.external_id_type, value=newest.external_id_value)


def _traits(warehouse: Warehouse, ids: ir.Table) -> ir.Table:
    updates = warehouse.table(TRAIT_UPDATES.ref).join(ids, "segment_id")
    newest = latest(updates, ["canonical_segment_id", "name"])
    return newest.filter(newest.value.notnull()).select("canonical_segment_id", "name", "value", *_TIMES)
