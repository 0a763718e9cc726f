"""Profiles that a rebuild renamed: ids are named by content, so a correction of a profile's first event changes its id."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

from cdp_assets.unified_profiles.tables import ID_ALIASES, external_id_mapping_updates, id_graph_updates
from resources.warehouse import Warehouse, naive_utc


def renamed(
    warehouse: Warehouse, schema: str, segment_ids: list[str], mappings: pa.Table, loaded_at: dt.datetime
) -> pa.Table | None:
    """All rows of ``id_aliases`` after a rebuild, or None when nothing changes.

    ``segment_ids`` and ``mappings`` are what the rebuild is about to write; the warehouse still holds the previous build. A
    profile that is gone is now the one to which the first of its identifiers that still exists was attached first.
    """
    present = set(segment_ids)
    kept = {row["old_segment_id"]: (row["new_segment_id"], row["loaded_at"]) for row in _rows(warehouse, ID_ALIASES.ref)}
    previous = warehouse.table(id_graph_updates(schema).ref).select("segment_id").distinct()
    gone = {name for batch in warehouse.batches(previous) for name in batch.column(0).to_pylist()} - present
    returned = present & set(kept)
    if not gone and not returned:
        return None
    successors = _successors(warehouse, schema, gone, mappings)
    found = {old: (successors.get(new, new), at) for old, (new, at) in kept.items() if old not in present}
    found.update({old: (new, naive_utc(loaded_at)) for old, new in successors.items()})
    old = sorted(found)
    return pa.table(
        {
            "old_segment_id": pa.array(old, pa.string()),
            "new_segment_id": pa.array([found[name][0] for name in old], pa.string()),
            "loaded_at": pa.array([found[name][1] for name in old], pa.timestamp("us")),
        }
    )


def _rows(warehouse: Warehouse, ref) -> list[dict]:
    return [row for batch in warehouse.batches(warehouse.table(ref)) for row in batch.to_pylist()]


def _successors(warehouse: Warehouse, schema: str, gone: set[str], mappings: pa.Table) -> dict[str, str]:
    columns = ("external_id_type", "external_id_value", "segment_id", "seq")
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for kind, value, segment, seq in zip(*(mappings.column(name).to_pylist() for name in columns), strict=True):
        first[kind, value] = min(first.get((kind, value), (seq, segment)), (seq, segment))
    updates = warehouse.table(external_id_mapping_updates(schema).ref).select(*columns)
    found: dict[str, tuple[int, str, str, str]] = {}
    for batch in warehouse.batches(updates):
        for row in batch.to_pylist():
            kind, value, segment, seq = (row[name] for name in columns)
            if segment in gone and (kind, value) in first:
                candidate = (seq, kind, value, first[kind, value][1])
                found[segment] = min(found.get(segment, candidate), candidate)
    return {old: candidate[-1] for old, candidate in found.items()}
