"""Profiles that a correction renamed: ids are named by content, so a correction of a profile's first event changes its id."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.unified_profiles.tables import ID_ALIASES, external_id_mapping_updates
from resources.warehouse import Warehouse, naive_utc


def renamed(
    warehouse: Warehouse,
    schema: str,
    replaced: ir.Table,
    gone: set[str],
    made: Iterable[str],
    new: ir.Table,
    loaded_at: dt.datetime,
) -> pa.Table | None:
    """All rows of ``id_aliases`` after a correction, or None when nothing changes.

    ``replaced``: (seq) of the entries whose rows go, and still stand. ``gone``: profiles among them; ``made``: those that come.
    ``new``: the mapping rows that come. A profile that is gone is now the one to which the first of its identifiers that still
    exists was attached first.
    """
    present = set(made)
    gone = gone - present
    kept = {row["old_segment_id"]: (row["new_segment_id"], row["loaded_at"]) for row in _rows(warehouse, ID_ALIASES.ref)}
    if not gone and not present & set(kept):
        return None
    successors = _successors(warehouse, schema, replaced, gone, new)
    found = {old: (successors.get(name, name), at) for old, (name, at) in kept.items() if old not in present}
    found.update({old: (name, naive_utc(loaded_at)) for old, name in successors.items()})
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


def _successors(warehouse: Warehouse, schema: str, replaced: ir.Table, gone: set[str], new: ir.Table) -> dict[str, str]:
    columns = ("external_id_type", "external_id_value", "segment_id", "seq")
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for batch in warehouse.batches(new.filter(new["__operation"] == "CREATED").select(*columns)):
        for kind, value, segment, seq in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            first[kind, value] = min(first.get((kind, value), (seq, segment)), (seq, segment))
    updates = warehouse.table(external_id_mapping_updates(schema).ref)
    found: dict[str, tuple[int, str, str, str]] = {}
    for batch in warehouse.batches(updates.filter(updates.seq.isin(replaced.seq)).select(*columns)):
        for kind, value, segment, seq in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if segment in gone and (kind, value) in first:
                candidate = (seq, kind, value, first[kind, value][1])
                found[segment] = min(found.get(segment, candidate), candidate)
    return {old: candidate[-1] for old, candidate in found.items()}
