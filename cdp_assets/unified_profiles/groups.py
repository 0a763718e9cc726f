"""Who belongs to which group, and what groups are: from group calls, and from ``context.groupId`` of other messages.

Messages are read again where their partition was built again, or where a correction moved them to another profile or place.
What Segment's profiles would drop in silence is counted in ``message_violations``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Final

import ibis
import ibis.expr.types as ir
import orjson
import pyarrow as pa

from cdp_assets.raw_events.tables import BUILDS as RAW_BUILDS
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.unified_profiles.logs import trait_text
from cdp_assets.unified_profiles.tables import (
    EVENT_PROFILES,
    GROUP_MEMBERSHIPS,
    GROUP_TABLES,
    GROUP_TRAITS_UPDATES,
    MESSAGE_VIOLATIONS,
    WINDOWS_READ,
)
from resources.warehouse import Warehouse, timestamp_literal
from resources.warehouse import functions as fn

MAX_GROUP_ID: Final = 500
MAX_KEYS: Final = 300
# An object of so many keys has at least this many characters: {"a":1,…
_LEAST_LENGTH: Final = MAX_KEYS * len('"a":1,')

EMPTY_GROUP_ID: Final = "group_id_empty"
LONG_GROUP_ID: Final = "group_id_too_long"
MANY_TRAITS: Final = "too_many_traits"
MANY_PROPERTIES: Final = "too_many_properties"
REASONS: Final = (EMPTY_GROUP_ID, LONG_GROUP_ID, MANY_TRAITS, MANY_PROPERTIES)

_BATCH_ROWS = 20_000
_PLACE = ("message_id", "seq", "received_at")


def build(warehouse: Warehouse, as_of: dt.datetime) -> None:
    """Bring the three tables up to the messages with received_at < ``as_of``."""
    warehouse.ensure(*GROUP_TABLES, WINDOWS_READ)
    windows = _unread_windows(warehouse)
    with warehouse.staged(_moved(warehouse)) as moved:
        if windows is None or warehouse.count(windows) or warehouse.count(moved):
            _take_in(warehouse, windows, moved, as_of)


def _take_in(warehouse: Warehouse, windows: ir.Table | None, moved: ir.Table, as_of: dt.datetime) -> None:
    with warehouse.staged(_read(warehouse, windows, moved, as_of)) as read:
        traits = pa.concat_tables(_group_traits(warehouse, read))
        violations = pa.concat_tables(_violations(warehouse, read))
        with warehouse.transaction():
            for spec in GROUP_TABLES:
                warehouse.delete_matching(spec.ref, moved, ["message_id"])
                warehouse.delete_matching(spec.ref, read, ["message_id"])
            warehouse.insert(GROUP_MEMBERSHIPS.ref, _memberships(read))
            warehouse.append(GROUP_TRAITS_UPDATES.ref, traits)
            warehouse.append(MESSAGE_VIOLATIONS.ref, violations)
            _remember(warehouse, windows, as_of)


# -- what to read --------------------------------------------------------------------------------------------------------


def _unread_windows(warehouse: Warehouse) -> ir.Table | None:
    """Builds of partitions that were not read, or not all of which was known then. None: there is no record, read all."""
    if not warehouse.has(RAW_BUILDS.ref):
        return None
    builds = warehouse.table(RAW_BUILDS.ref)
    builds = builds.filter(builds.asset == "messages").select(*WINDOWS_READ.columns)
    return builds.anti_join(warehouse.table(WINDOWS_READ.ref), list(WINDOWS_READ.columns))


def _remember(warehouse: Warehouse, windows: ir.Table | None, as_of: dt.datetime) -> None:
    if windows is None:
        return
    known = windows.filter(windows.as_of <= timestamp_literal(as_of))
    keys = [key for batch in warehouse.batches(known.select("partition_key")) for key in batch.column(0).to_pylist()]
    rows = warehouse.arrow(known)
    warehouse.delete(WINDOWS_READ.ref, [("partition_key", "in", keys)])
    warehouse.append(WINDOWS_READ.ref, rows)


def _moved(warehouse: Warehouse) -> ir.Table:
    """(message_id) of rows whose message now stands at another place, belongs to another profile, or is gone."""
    now = warehouse.table(EVENT_PROFILES.ref)
    members = warehouse.table(GROUP_MEMBERSHIPS.ref)
    nobody = ibis.literal("")
    right = now.select("message_id", "seq", whose=now.segment_id.fill_null(nobody))
    rows = members.select("message_id", "seq", whose=members.segment_id.fill_null(nobody))
    others = warehouse.table(MESSAGE_VIOLATIONS.ref).select("message_id", "seq")
    return (
        rows.anti_join(right, ["message_id", "seq", "whose"])
        .select("message_id")
        .union(others.anti_join(now, ["message_id", "seq"]).select("message_id"))
        .distinct()
    )


def _read(warehouse: Warehouse, windows: ir.Table | None, moved: ir.Table, as_of: dt.datetime) -> ir.Table:
    """The messages to read that say something: their group, its traits, and documents that may have too many keys."""
    messages = warehouse.table(MESSAGES.ref)
    known = messages.filter(messages.received_at < timestamp_literal(as_of))
    if windows is not None:
        again = known.semi_join(moved, "message_id").anti_join(windows, "partition_key")
        known = known.semi_join(windows, "partition_key").union(again)
    group_id = (known.type == "group").ifelse(known.group_id, fn.json_text(known.context, "groupId"))
    document = known.type.isin(["identify", "group"]).ifelse(known.traits, known.properties)
    said = known.select(
        "message_id",
        "type",
        "timestamp",
        # An object or an array is no id.
        group_id=(group_id.startswith("{") | group_id.startswith("[")).ifelse(None, group_id),
        traits=(known.type == "group").ifelse(known.traits, None),
        large=(document.length() >= _LEAST_LENGTH).ifelse(document, None),
    )
    places = warehouse.table(EVENT_PROFILES.ref)
    placed = said.filter(said.group_id.notnull() | said.large.notnull()).join(places, "message_id")
    length = placed.group_id.length()
    return placed.mutate(wrong=ibis.cases((length == 0, EMPTY_GROUP_ID), (length > MAX_GROUP_ID, LONG_GROUP_ID)))


# -- rows ----------------------------------------------------------------------------------------------------------------


def _memberships(read: ir.Table) -> ir.Table:
    kept = read.filter(read.group_id.notnull() & read.wrong.isnull())
    return kept.select("segment_id", "group_id", "message_id", "seq", "received_at", "timestamp", uuid_ts=kept.received_at)


def _group_traits(warehouse: Warehouse, read: ir.Table) -> Iterator[pa.Table]:
    kept = read.filter(read.traits.notnull() & read.group_id.notnull() & read.wrong.isnull())
    columns = ("group_id", *_PLACE, "timestamp")
    yield GROUP_TRAITS_UPDATES.schema.to_pyarrow().empty_table()
    for batch in warehouse.batches(kept.select(*columns, "traits"), _BATCH_ROWS):
        index, names, values = [], [], []
        for row, text in enumerate(batch.column("traits").to_pylist()):
            for name, value in orjson.loads(text).items():
                index.append(row)
                names.append(name)
                values.append(trait_text(value))
        taken = pa.Table.from_batches([batch]).select(columns).take(pa.array(index, pa.int64()))
        found = taken.append_column("name", pa.array(names, pa.string())).append_column("value", pa.array(values, pa.string()))
        yield _as(GROUP_TRAITS_UPDATES.schema.to_pyarrow(), found.append_column("uuid_ts", found.column("received_at")))


def _violations(warehouse: Warehouse, read: ir.Table) -> Iterator[pa.Table]:
    schema = MESSAGE_VIOLATIONS.schema.to_pyarrow()
    wrong = read.filter(read.wrong.notnull()).select(*_PLACE, reason="wrong")
    yield schema.empty_table()
    yield _as(schema, warehouse.arrow(wrong))
    large = read.filter(read.large.notnull()).select(*_PLACE, "type", "large")
    for batch in warehouse.batches(large, _BATCH_ROWS):
        many = [len(orjson.loads(text)) >= MAX_KEYS for text in batch.column("large").to_pylist()]
        found = pa.Table.from_batches([batch]).filter(pa.array(many, pa.bool_()))
        kinds = found.column("type").to_pylist()
        reasons = [MANY_TRAITS if kind in ("identify", "group") else MANY_PROPERTIES for kind in kinds]
        yield _as(schema, found.append_column("reason", pa.array(reasons, pa.string())))


def _as(schema: pa.Schema, table: pa.Table) -> pa.Table:
    return table.select(schema.names).cast(schema)
