"""Who is meant by what a person types: a segment id, also a merged one, or an identifier."""

from __future__ import annotations

import datetime as dt

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.unified_profiles.tables import ID_ALIASES, canonical_ids_as_of, identifiers_as_of
from resources.warehouse import Warehouse

_ID = "canonical_segment_id"


def find_profile(warehouse: Warehouse, graph: DataGraph, text: str, as_of: dt.datetime) -> str | None:
    """The canonical id of ``text`` (a segment_id or TYPE:VALUE) as it was known at ``as_of``; None when nobody was known by that."""
    segment = text
    if graph.external is None and warehouse.has(ID_ALIASES.ref):
        aliases = warehouse.table(ID_ALIASES.ref)
        renamed = warehouse.rows(aliases.filter(aliases.old_segment_id == text).select("new_segment_id"), 1)
        segment = renamed[0]["new_segment_id"] if renamed else text
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    found = warehouse.rows(ids.filter(ids.segment_id == segment).select(_ID), 1)
    kind, colon, value = text.partition(":")
    if not found and colon:
        known = identifiers_as_of(warehouse, graph, as_of)
        found = warehouse.rows(known.filter((known.type == kind) & (known.value == value)).select(_ID), 1)
    return str(found[0][_ID]) if found else None
