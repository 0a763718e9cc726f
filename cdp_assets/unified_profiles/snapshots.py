"""The materialized Profiles Sync tables, from the logs: identifiers, traits and merges as they are now, of the profiles touched."""

from __future__ import annotations

import ibis.expr.types as ir

from cdp_assets.unified_profiles.tables import (
    TRAIT_UPDATES,
    external_id_mapping_updates,
    id_graph_updates,
    latest,
    profile_merges,
    user_identifiers,
    user_traits,
)
from resources.warehouse import Warehouse

_TIMES = ("seq", "received_at", "uuid_ts", "timestamp")


def refresh(warehouse: Warehouse, schema: str, before: ir.Table, now: ir.Table) -> None:
    """Replace the rows of touched profiles. Call it inside the transaction that writes the logs, after them.

    ``before``: (segment_id) of the profiles touched, as they were. ``now``: (segment_id, canonical_segment_id) of those that exist.
    """
    old = before.select(canonical_segment_id="segment_id")
    for spec in (user_identifiers(schema), user_traits(schema)):
        warehouse.delete_matching(spec.ref, old, ["canonical_segment_id"])
    warehouse.delete_matching(profile_merges(schema).ref, before, ["segment_id"])
    warehouse.insert(user_identifiers(schema).ref, _identifiers(warehouse, schema, now))
    warehouse.insert(user_traits(schema).ref, _traits(warehouse, now))
    newest = latest(warehouse.table(id_graph_updates(schema).ref).semi_join(now, "segment_id"), ["segment_id"])
    warehouse.insert(profile_merges(schema).ref, newest.select("canonical_segment_id", "segment_id", *_TIMES))


def _identifiers(warehouse: Warehouse, schema: str, ids: ir.Table) -> ir.Table:
    updates = warehouse.table(external_id_mapping_updates(schema).ref).join(ids, "segment_id")
    newest = latest(updates, ["external_id_type", "external_id_value"])
    newest = newest.filter(newest["__operation"] != "REMOVED")
    return newest.select("canonical_segment_id", *_TIMES, type=newest.external_id_type, value=newest.external_id_value)


def _traits(warehouse: Warehouse, ids: ir.Table) -> ir.Table:
    updates = warehouse.table(TRAIT_UPDATES.ref).join(ids, "segment_id")
    newest = latest(updates, ["canonical_segment_id", "name"])
    return newest.filter(newest.value.notnull()).select("canonical_segment_id", "name", "value", *_TIMES)
