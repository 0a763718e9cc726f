"""Tables of the pulled_sources room."""

from __future__ import annotations

from cdp_assets.space.pulled import PulledSource
from resources.warehouse import TableRef, TableSpec

SCHEMA = "pulled_sources"
_TYPES = {"string": "string", "number": "float64", "boolean": "boolean", "timestamp": "timestamp"}

CHECKPOINTS = TableSpec(
    TableRef(SCHEMA, "checkpoints"),
    {"source": "string", "shard": "string", "position": "string", "records": "int64"},
    "Up to where each shard of a source has been read: position and, since the first, how many records. Written with the records, in one "
    "transaction.",
    subject=None,
    keys=("source", "shard"),
)
UNREADABLE = TableSpec(
    TableRef(SCHEMA, "unreadable"),
    {"source": "string", "shard": "string", "position": "string", "reason": "string", "record": "string"},
    "Records that became no row, with their reason (it names columns, never values) and the record itself; of one that names who is "
    "suppressed (reason: suppressed) nothing is kept.",
    subject=None,
    keys=("source", "shard", "position"),
    personal=("record",),
)
TABLES = (CHECKPOINTS, UNREADABLE)


def table_of(key: str, source: PulledSource) -> TableSpec:
    """The table of a source: its columns, and where each record stood."""
    columns = {name: _TYPES[kind] for name, kind in source.columns.items()}
    subject = source.event.user_id if source.event and source.event.user_id else None
    return TableSpec(
        TableRef(SCHEMA, key),
        {**columns, "shard": "string", "position": "string"},
        source.description or f"Records of {source.type}, one per {source.key}: the newest.",
        subject=subject,
        keys=(source.key,),
        personal=source.personal,
    )
