"""One message per message_id, against all history: the smallest (received_at, file_hash, line) is the message.

New lines stand in ``messages`` already when they are judged. Few of them have a rival, and a rival has the same 64-bit key: only rows
with such a key are compared by their whole message_id. So the history costs one pass over one integer column.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from cdp_assets.raw_events.tables import DUPLICATES, LANDING_FILES, LINE_COUNTS, MESSAGES, VIOLATIONS
from resources.warehouse import TableRef, TableSpec, Warehouse, timestamp_literal

_ORDER = ("received_at", "file_hash", "line")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MASKS = np.array([(1 << 8 * kept) - 1 for kept in range(9)], np.uint64)
_NEW_FILES = TableSpec(
    TableRef("cdp_scratch", "intake_files"), {"file_hash": "string"}, "Files that this intake takes in.", subject=None
)
_CANDIDATES = TableSpec(
    TableRef("cdp_scratch", "intake_candidates"),
    {"message_key": "int64", "first_at": "timestamp", "last_at": "timestamp"},
    "Keys that several messages have.",
    subject=None,
)
_LOSERS = TableSpec(
    TableRef("cdp_scratch", "intake_losers"),
    {**DUPLICATES.columns, "message_key": "int64", "winner": "string"},
    "Messages that another one precedes, with the file of that one.",
    subject="message_id",
)


def prepare(warehouse: Warehouse) -> None:
    """Make the scratch tables. DDL: call it before the transaction."""
    for spec in (_NEW_FILES, _CANDIDATES, _LOSERS):
        warehouse.ensure(spec)
        warehouse.delete(spec.ref, [])


def settle_duplicates(warehouse: Warehouse, file_hashes: Sequence[str]) -> int:
    """Move every message that another one precedes to the duplicates of its own window; how many.

    ``file_hashes``: the files that are new. A message of an earlier file that gives way marks its window: the file that
    took its place has a row of no lines there in ``line_counts``.
    """
    warehouse.append(_NEW_FILES.ref, pa.table({"file_hash": list(file_hashes)}))
    warehouse.insert(_CANDIDATES.ref, _shared_keys(warehouse))
    candidates = warehouse.table(_CANDIDATES.ref)
    bounds = warehouse.rows(
        candidates.agg(n=candidates.count(), first=candidates.first_at.min(), last=candidates.last_at.max()), 1
    )[0]
    if not bounds["n"]:
        return 0
    first, last = (bounds[name].replace(tzinfo=dt.UTC) for name in ("first", "last"))
    warehouse.insert(_LOSERS.ref, _preceded(warehouse, candidates, first, last))
    losers = warehouse.table(_LOSERS.ref)
    moved = warehouse.insert(DUPLICATES.ref, losers.select(*DUPLICATES.columns))
    # By place: the message_id alone would also delete the line that took it.
    warehouse.delete_matching(
        MESSAGES.ref,
        losers,
        ["message_key", "file_hash", "line"],
        [("received_at", ">=", first), ("received_at", "<=", last)],
    )
    warehouse.delete_matching(VIOLATIONS.ref, losers, ["message_id", "file_hash", "line"])
    warehouse.insert(LINE_COUNTS.ref, _marked(warehouse, losers))
    warehouse.delete(_LOSERS.ref, [])
    warehouse.delete(_CANDIDATES.ref, [])
    return int(moved or 0)


def _shared_keys(warehouse: Warehouse) -> ir.Table:
    """Keys of new messages that more than one message has, with the span of those messages."""
    messages = warehouse.table(MESSAGES.ref)
    files, new_files = warehouse.table(LANDING_FILES.ref), warehouse.table(_NEW_FILES.ref)
    pool = messages.select("message_key", "received_at")
    if warehouse.count(files.anti_join(new_files, "file_hash")):
        new = messages.semi_join(new_files, "file_hash").select("message_key")
        pool = pool.semi_join(new, "message_key")
    grouped = pool.group_by("message_key").agg(n=pool.count(), first_at=pool.received_at.min(), last_at=pool.received_at.max())
    return grouped.filter(grouped.n > 1).select(*_CANDIDATES.columns)


def _preceded(warehouse: Warehouse, candidates: ir.Table, first: dt.datetime, last: dt.datetime) -> ir.Table:
    messages = warehouse.table(MESSAGES.ref)
    span = messages.received_at.between(timestamp_literal(first), timestamp_literal(last))
    rivals = messages.filter(span).select(*DUPLICATES.columns, "message_key").semi_join(candidates, "message_key")
    window = ibis.window(group_by="message_id", order_by=list(_ORDER))
    ranked = rivals.mutate(_rank=ibis.row_number().over(window), winner=rivals.file_hash.first().over(window))
    return ranked.filter(ranked._rank > 0).select(*_LOSERS.columns)


def _marked(warehouse: Warehouse, losers: ir.Table) -> ir.Table:
    earlier = losers.anti_join(warehouse.table(_NEW_FILES.ref), "file_hash")
    marks = earlier.select(file_hash="winner", partition_key="partition_key").distinct()
    marks = marks.anti_join(warehouse.table(LINE_COUNTS.ref), ["file_hash", "partition_key"])
    return marks.mutate(lines=ibis.literal(0, "int64"))


def message_keys(message_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The key of each message_id, 64 bits: the same on every engine, machine and release, because tables keep it."""
    ids = message_ids.combine_chunks() if isinstance(message_ids, pa.ChunkedArray) else message_ids
    ids = pa.concat_arrays([ids.cast(pa.large_binary())])
    _, offsets, content = ids.buffers()
    ends = np.frombuffer(offsets, np.int64, len(ids) + 1)
    # Eight more bytes, so that the last word can be read whole.
    data = bytes(content or b"") + bytes(8)
    words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
    starts, lengths = ends[:-1], np.diff(ends)
    keys = lengths.astype(np.uint64) * _FACTOR
    for step in range(0, int(lengths.max(initial=0)), 8):
        longer = np.flatnonzero(lengths > step)
        kept = _MASKS[np.minimum(lengths[longer] - step, 8)]
        mixed = (keys[longer] ^ (words[starts[longer] + step] & kept)) * _FACTOR
        keys[longer] = mixed ^ (mixed >> np.uint64(29))
    return pa.array((keys ^ (keys >> np.uint64(32))).view(np.int64))
