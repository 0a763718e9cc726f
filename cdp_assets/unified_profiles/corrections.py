"""What people decide about identity: that two profiles are not one person, or that an identifier is not a profile's.

A correction is a row of the room's input beside the messages: every later build honours it, a full rebuild as well. Nothing is
changed here but ``identity_corrections``; the next build recomputes the profiles concerned.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.unified_profiles.explain import canonical_id, parts_of
from cdp_assets.unified_profiles.identifiers import Identifier
from cdp_assets.unified_profiles.tables import (
    IDENTITY_CORRECTIONS,
    external_id_mapping_updates,
    id_graph_updates,
    profile_schema,
    user_identifiers,
)
from resources.warehouse import TableRef, Warehouse, naive_utc

SEPARATE, REMOVE = "separate", "remove"
_MANY = 1_000_000


class CorrectionError(Exception):
    """A correction cannot be made; the message says why and what to do. It names no value."""


@dataclass(frozen=True)
class Correction:
    """A recorded correction. ``known``: it had been recorded before, nothing was written."""

    correction_id: str
    kind: str
    identifiers: tuple[tuple[str | None, Identifier], ...]
    known: bool = False


def unmerge(warehouse: Warehouse, graph: DataGraph, part: str, *, reason: str, loaded_at: dt.datetime) -> Correction:
    """Keep a profile that was merged away apart from the one that took it in. Raises :class:`CorrectionError`, and
    UnknownProfileError where nobody is known by that id.

    ``part``: the segment_id that was merged. Side a: the identifiers that it held, with all that had merged into it before; side
    b: those of the profile that it merged into. What came to the merged profile later goes where the events take it.
    """
    warehouse.ensure(IDENTITY_CORRECTIONS)
    segments = parts_of(warehouse, graph, canonical_id(warehouse, graph, part))
    graph_rows = _log(warehouse, id_graph_updates(profile_schema(graph)).ref, segments, ("segment_id", "canonical_segment_id"))
    merges = [row for row in graph_rows if row["segment_id"] == part and row["canonical_segment_id"] != part]
    if not merges:
        raise CorrectionError("this profile was not merged into another; name the part that should leave")
    merge = merges[0]
    before = [row for row in graph_rows if row["seq"] < merge["seq"]]
    held = _log(
        warehouse,
        external_id_mapping_updates(profile_schema(graph)).ref,
        segments,
        ("segment_id", "external_id_type", "external_id_value"),
    )
    sides = {
        side: {
            Identifier(row["external_id_type"], row["external_id_value"])
            for row in held
            if row["seq"] < merge["seq"] and row["segment_id"] in _parts(before, profile)
        }
        for side, profile in (("a", part), ("b", merge["canonical_segment_id"]))
    }
    both = sides["a"] & sides["b"]
    rows: list[tuple[str | None, Identifier]] = [(side, i) for side in sides for i in sorted(sides[side] - both)]
    if {side for side, _ in rows} != {"a", "b"}:
        raise CorrectionError("one of the two profiles held no identifier of its own, so there is nothing to keep apart")
    return _record(warehouse, SEPARATE, rows, None, reason, loaded_at)


def remove_identifier(
    warehouse: Warehouse, graph: DataGraph, identifier: Identifier, *, reason: str, effective_at: dt.datetime
) -> Correction:
    """Take an identifier from its profile from ``effective_at`` on. Raises :class:`CorrectionError`.

    Segment's rules: group_id cannot be removed, nor a profile's last user_id. An event that shows it later attaches it again.
    """
    warehouse.ensure(IDENTITY_CORRECTIONS)
    if identifier.type == "group_id":
        raise CorrectionError("group_id cannot be removed: it names an account")
    table = warehouse.table(user_identifiers(profile_schema(graph)).ref)
    owner = warehouse.rows(table.filter(table.type == identifier.type, table.value == identifier.value), 1)
    if not owner:
        raise CorrectionError(f"no profile has this {identifier.type}")
    same = table.filter(table.canonical_segment_id == owner[0]["canonical_segment_id"], table.type == identifier.type)
    if identifier.type == "user_id" and warehouse.count(same) == 1:
        raise CorrectionError("this is the profile's last user_id, which cannot be removed")
    return _record(warehouse, REMOVE, [(None, identifier)], effective_at, reason, effective_at)


def withdraw(warehouse: Warehouse, correction_id: str) -> int:
    """Take a correction back; how many rows it had. Raises :class:`CorrectionError` when there is none."""
    warehouse.ensure(IDENTITY_CORRECTIONS)
    table = warehouse.table(IDENTITY_CORRECTIONS.ref)
    count = warehouse.count(table.filter(table.correction_id == correction_id))
    if not count:
        raise CorrectionError("no such correction; `cdp unmerge --list` shows them")
    warehouse.delete(IDENTITY_CORRECTIONS.ref, [("correction_id", "=", correction_id)])
    return count


def listed(warehouse: Warehouse) -> list[dict[str, Any]]:
    """Corrections in force: id, kind, how many identifiers, reason, when; no values."""
    warehouse.ensure(IDENTITY_CORRECTIONS)
    table = warehouse.table(IDENTITY_CORRECTIONS.ref)
    grouped = table.group_by("correction_id", "kind", "reason", "loaded_at").agg(identifiers=table.count())
    return warehouse.rows(grouped.order_by("loaded_at", "correction_id"), _MANY)


def _log(warehouse: Warehouse, ref: TableRef, segments: list[str], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """A log's rows about some profiles, in received order."""
    table = warehouse.table(ref)
    return warehouse.rows(table.filter(table.segment_id.isin(segments)).select("seq", *columns).order_by("seq", *columns), _MANY)


def _parts(rows: Iterable[dict[str, Any]], profile: str) -> set[str]:
    """The profiles that were part of ``profile`` after these rows of the graph, itself included."""
    newest = {row["segment_id"]: row["canonical_segment_id"] for row in rows}
    return {segment for segment, canonical in newest.items() if canonical == profile}


def _record(
    warehouse: Warehouse,
    kind: str,
    rows: list[tuple[str | None, Identifier]],
    effective_at: dt.datetime | None,
    reason: str,
    loaded_at: dt.datetime,
) -> Correction:
    named = [[side, *identifier] for side, identifier in rows]
    content = json.dumps([kind, named, effective_at.isoformat() if effective_at else None], ensure_ascii=False)
    correction_id = f"{kind}_{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    table = warehouse.table(IDENTITY_CORRECTIONS.ref)
    if warehouse.count(table.filter(table.correction_id == correction_id)):
        return Correction(correction_id, kind, tuple(rows), known=True)
    instants = [naive_utc(effective_at) if effective_at else None] * len(rows)
    columns = {
        "correction_id": [correction_id] * len(rows),
        "kind": [kind] * len(rows),
        "side": pa.array([side for side, _ in rows], pa.string()),
        "identifier_type": [identifier.type for _, identifier in rows],
        "identifier_value": [identifier.value for _, identifier in rows],
        "effective_at": pa.array(instants, pa.timestamp("us")),
        "reason": [reason] * len(rows),
        "loaded_at": pa.array([naive_utc(loaded_at)] * len(rows), pa.timestamp("us")),
    }
    warehouse.append(IDENTITY_CORRECTIONS.ref, pa.table(columns))
    return Correction(correction_id, kind, tuple(rows))
