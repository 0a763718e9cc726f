"""Event tables in Segment's warehouse schema: one for each call type and one for each track event.

Columns come from ``event_columns``; the types there are those of first values. A later value of another type is NULL in the
table and counted; a fraction in an integer column is truncated and counted. No value fails a batch.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ibis
import ibis.expr.types as ir

from cdp_assets.raw_events.columns import TABLE_OF_TYPE, Column
from cdp_assets.raw_events.intake import known_columns
from cdp_assets.raw_events.tables import EVENTS_SCHEMA, MESSAGES
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.time import Window
from resources.warehouse import TableRef, TableSpec, Warehouse, timestamp_literal
from resources.warehouse import functions as fn

_COMMON = {
    "id": "string",
    "anonymous_id": "string",
    "user_id": "string",
    "received_at": "timestamp",
    "sent_at": "timestamp",
    "timestamp": "timestamp",
    "original_timestamp": "timestamp",
    "uuid_ts": "timestamp",
}
# The message's own fields that a table has besides the common ones.
_OWN = {
    "tracks": {"event": "string", "event_text": "string"},
    "pages": {"name": "string", "category": "string"},
    "screens": {"name": "string", "category": "string"},
    "groups": {"group_id": "string"},
    "aliases": {"previous_id": "string"},
}
_EVENT_OWN = {"event": "string", "event_text": "string"}
_BASE = {table: kind for kind, (table, _) in TABLE_OF_TYPE.items()}
_CONFLICT = "conflict__"


@dataclass(frozen=True)
class EventTablesResult:
    """Rows written per table, and values per ``table.column`` that were not of the column's type (only where there are any)."""

    rows: Mapping[str, int] = field(default_factory=dict)
    conflicts: Mapping[str, int] = field(default_factory=dict)


def event_table_spec(table: str, columns: Sequence[Column]) -> TableSpec:
    """An event table with the columns known so far."""
    own = _OWN.get(table, {}) if table in _BASE else _EVENT_OWN
    seen = {column.column_name: column.column_type for column in columns}
    return TableSpec(
        TableRef(EVENTS_SCHEMA, table),
        {**_COMMON, **own, **seen},
        f"{table}: one row per message, in Segment's warehouse schema.",
        subject="anonymous_id",
        keys=("id",),
        personal=("anonymous_id", "user_id", "previous_id", *seen),
    )


def build_event_tables(
    warehouse: Warehouse, config: SpaceConfig, windows: Sequence[Window], as_of: dt.datetime
) -> EventTablesResult:
    """Replace ``windows`` in the event tables by the accepted messages with received_at < ``as_of``."""
    if not windows:
        return EventTablesResult()
    columns: dict[str, list[Column]] = {}
    for column in known_columns(warehouse):
        columns.setdefault(column.table_name, []).append(column)
    messages = warehouse.table(MESSAGES.ref)
    messages = messages.filter(
        messages.partition_key.isin([window.key for window in windows]), messages.received_at < timestamp_literal(as_of)
    )
    present = {ref.name for ref in warehouse.list_tables(EVENTS_SCHEMA)}
    rows: dict[str, int] = {}
    conflicts: dict[str, int] = {}
    for table in _tables_of(warehouse, messages, windows, present):
        spec = event_table_spec(table, columns.get(table, []))
        warehouse.ensure(spec)
        count, found = _replace(warehouse, spec, _messages_of(messages, table), columns.get(table, []), windows)
        rows[table] = count
        conflicts.update({f"{table}.{name}": number for name, number in found.items()})
    return EventTablesResult(rows, conflicts)


def _tables_of(warehouse: Warehouse, messages: ir.Table, windows: Sequence[Window], present: set[str]) -> list[str]:
    """Tables of the messages of the windows, and those that hold rows of these windows from an earlier build."""
    kinds = messages.select("type", "event_slug").distinct()
    found: set[str] = set()
    for batch in warehouse.batches(kinds):
        for row in batch.to_pylist():
            found.update({TABLE_OF_TYPE[row["type"]][0], row["event_slug"]} - {None})
    stale = present & set(_BASE)
    if "tracks" in present:
        tracks = warehouse.table(TableRef(EVENTS_SCHEMA, "tracks"))
        earlier = tracks.filter(_within(tracks, windows)).select("event").distinct()
        stale |= {value for batch in warehouse.batches(earlier) for value in batch.column(0).to_pylist()}
    return sorted(found | stale)


def _spans(windows: Sequence[Window]) -> list[tuple[dt.datetime, dt.datetime]]:
    """The windows as few spans of received time: neighbours joined."""
    spans: list[tuple[dt.datetime, dt.datetime]] = []
    for window in sorted(windows):
        if spans and spans[-1][1] == window.start:
            spans[-1] = (spans[-1][0], window.end)
        else:
            spans.append((window.start, window.end))
    return spans


def _within(table: ir.Table, windows: Sequence[Window]) -> ir.BooleanValue:
    return ibis.or_(
        *(
            (table.received_at >= timestamp_literal(start)) & (table.received_at < timestamp_literal(end))
            for start, end in _spans(windows)
        )
    )


def _messages_of(messages: ir.Table, table: str) -> ir.Table:
    if table in _BASE:
        return messages.filter(messages.type == _BASE[table])
    return messages.filter(messages.event_slug == table)


def _replace(
    warehouse: Warehouse, spec: TableSpec, messages: ir.Table, columns: Sequence[Column], windows: Sequence[Window]
) -> tuple[int, dict[str, int]]:
    """Rows written and conflicting values per column."""
    typed = [column for column in columns if column.column_type != "string"]
    with warehouse.staged(_rows(spec, messages, columns)) as rows:
        with warehouse.transaction():
            for start, end in _spans(windows):
                warehouse.delete(spec.ref, [("received_at", ">=", start), ("received_at", "<", end)])
            warehouse.insert(spec.ref, rows.select(*spec.columns))
        flags = {column.column_name: rows[f"{_CONFLICT}{column.position}"].sum() for column in typed}
        counted = warehouse.rows(rows.aggregate(rows.count().name("rows__"), **flags), 1)[0]
    count = int(counted.pop("rows__"))
    return count, {name: int(number) for name, number in counted.items() if number}


def _rows(spec: TableSpec, messages: ir.Table, columns: Sequence[Column]) -> ir.Table:
    own = {
        "id": messages.message_id,
        "uuid_ts": messages.received_at,
        "event": messages.event_slug,
        "event_text": messages.event,
    }
    by_name = {column.column_name: column for column in columns}
    selected: dict[str, ir.Value] = {}
    for name in spec.columns:
        column = by_name.get(name)
        if column is None:
            selected[name] = own[name] if name in own else messages[name]
            continue
        document, *keys = json.loads(column.path)
        value, conflict = _typed(fn.json_text(messages[document], *keys), column.column_type)
        selected[name] = value
        if conflict is not None:
            selected[f"{_CONFLICT}{column.position}"] = conflict.ifelse(1, 0)
    return messages.select(**selected)


def _typed(text: ir.StringValue, kind: str) -> tuple[ir.Value, ir.BooleanValue | None]:
    """A JSON value's text as a column value, and whether that lost something."""
    if kind == "string":
        return text, None
    if kind == "boolean":
        value = ibis.cases((text == "true", True), (text == "false", False))
        return value, text.notnull() & value.isnull()
    if kind == "float64":
        value = fn.try_double(text)
        return value, text.notnull() & value.isnull()
    if kind == "timestamp":
        value = fn.try_timestamp(text)
        return value, text.notnull() & value.isnull()
    # Whole numbers: what stands before the point, so that no engine rounds.
    point = text.find(".")
    exponent = text.lower().contains("e")
    whole = (point >= 0).ifelse(text.substr(0, point), text)
    value = exponent.ifelse(ibis.null("int64"), fn.try_bigint(whole))
    lost = value.isnull() | (fn.try_double(text) != value.cast("float64"))
    return value, text.notnull() & lost
