"""Tables of the raw_events room."""

from __future__ import annotations

import datetime as dt

import ibis.expr.types as ir

from cdp_assets.space.builds import builds_spec
from resources.warehouse import TableRef, TableSpec, Warehouse, timestamp_literal

SCHEMA = "raw_events"
EVENTS_SCHEMA = "events"

_MESSAGE = {
    "message_id": "string",
    "type": "string",
    "event": "string",
    # the name of a track event's own table
    "event_slug": "string",
    "user_id": "string",
    "anonymous_id": "string",
    "group_id": "string",
    "previous_id": "string",
    "name": "string",
    "category": "string",
    "timestamp": "timestamp",
    "original_timestamp": "timestamp",
    "sent_at": "timestamp",
    "received_at": "timestamp",
    # JSON texts; read with functions.json_text
    "properties": "string",
    "traits": "string",
    "context": "string",
    "integrations": "string",
}
# The configured source whose folder the file lies in.
_SOURCE = {"source": "string"}
_PLACE = {"file_hash": "string", "file": "string", "line": "int64"}
_PERSONAL = ("user_id", "anonymous_id", "previous_id", "properties", "traits", "context")

LANDING_FILES = TableSpec(
    TableRef(SCHEMA, "landing_files"),
    {
        "file_hash": "string",
        "file": "string",
        "lines": "int64",
        "first_received_at": "timestamp",
        "last_received_at": "timestamp",
        "loaded_at": "timestamp",
        # how many bytes the hash is of, and the number of the line that would come next if the file grew by whole lines
        "size": "int64",
        "next_line": "int64",
    },
    "Landing files taken in, once each by content hash. A file that grew by whole lines has a row for each part, with that part's lines.",
    subject=None,
    keys=("file_hash",),
)
LINE_COUNTS = TableSpec(
    TableRef(SCHEMA, "line_counts"),
    {"file_hash": "string", "partition_key": "string", "lines": "int64"},
    "Lines per file and window, counted as they were read. A row of no lines: the file took a message's place in that window.",
    subject=None,
    keys=("file_hash", "partition_key"),
)
MESSAGES = TableSpec(
    TableRef(SCHEMA, "messages"),
    # message_key: 64 bits of a hash of message_id, to find the few rows that may have one message_id
    {"partition_key": "string", **_SOURCE, **_MESSAGE, **_PLACE, "message_key": "int64"},
    "Accepted messages, one per message_id: the smallest (received_at, file_hash, line).",
    subject="anonymous_id",
    keys=("message_id",),
    personal=_PERSONAL,
)
DUPLICATES = TableSpec(
    TableRef(SCHEMA, "duplicates"),
    {"partition_key": "string", "message_id": "string", "received_at": "timestamp", **_PLACE},
    "Lines whose message_id another line had first.",
    subject="message_id",
)
QUARANTINE = TableSpec(
    TableRef(SCHEMA, "quarantine"),
    {
        "partition_key": "string",
        **_PLACE,
        "reason": "string",
        "detail": "string",
        "raw": "string",
        "message_id": "string",
        "window_at": "timestamp",
    },
    "Lines that are not messages, with their reason (a code), detail (names fields, never values) and the line itself. "
    "window_at is received_at, or for lines without one the first received_at of their file: it decides the partition.",
    subject="message_id",
    personal=("raw",),
)
VIOLATIONS = TableSpec(
    TableRef(SCHEMA, "violations"),
    {
        "partition_key": "string",
        "message_id": "string",
        **_SOURCE,
        "type": "string",
        "event": "string",
        "event_version": "int64",
        "violation_type": "string",
        "field": "string",
        "description": "string",
        "action": "string",
        "received_at": "timestamp",
        **_PLACE,
    },
    "What the tracking plan found wrong in a message: the field (dotted), the rule, and what was done: allowed, omitted, blocked. "
    "Descriptions name fields and expectations, never values.",
    subject="message_id",
)
EVENT_COLUMNS = TableSpec(
    TableRef(SCHEMA, "event_columns"),
    {"table_name": "string", "column_name": "string", "path": "string", "column_type": "string", "position": "int64"},
    "Columns of the event tables: the JSON path (array of keys) each comes from and the type of its first value.",
    subject=None,
    keys=("table_name", "column_name"),
)
SUPPRESSIONS = TableSpec(
    TableRef(SCHEMA, "suppressions"),
    {
        "suppression_id": "string",
        "identifier_type": "string",
        "value_hash": "string",
        "reason": "string",
        "suppressed_at": "timestamp",
        "lifted_at": "timestamp",
    },
    "Who asked not to be known any more: identifier type and SHA-256 of the value, never the value. In force from suppressed_at until "
    "lifted_at (NULL: not lifted). Rows are never deleted.",
    subject="value_hash",
    keys=("suppression_id",),
    personal=("value_hash", "reason"),
)
BUILDS = builds_spec(SCHEMA)

TABLES = (LANDING_FILES, LINE_COUNTS, MESSAGES, DUPLICATES, QUARANTINE, VIOLATIONS, EVENT_COLUMNS, SUPPRESSIONS, BUILDS)


def any_suppressions(warehouse: Warehouse) -> bool:
    """Whether anybody was ever suppressed. Until then nothing needs to look for it."""
    return warehouse.has(SUPPRESSIONS.ref) and warehouse.count(warehouse.table(SUPPRESSIONS.ref)) > 0


def suppressions_at(warehouse: Warehouse, at: dt.datetime) -> ir.Table:
    """(identifier_type, value_hash), distinct: what is suppressed at ``at``."""
    table, instant = warehouse.table(SUPPRESSIONS.ref), timestamp_literal(at)
    in_force = (table.suppressed_at <= instant) & (table.lifted_at.isnull() | (table.lifted_at > instant))
    return table.filter(in_force).select("identifier_type", "value_hash").distinct()
