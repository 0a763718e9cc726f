"""Profiles Sync tables that a company already has, read as the logs of this room.

Each function gives a log with the columns that the readings of ``tables.py`` want, from whichever table says it: the raw
``*_updates`` where they are, else the materialized ones. Those know only what holds now, so an as_of before their newest row
is refused. Columns of other types than ours are cast; a wide table of traits is read by column, each trait under its column's name.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable
from functools import reduce
from typing import Final

import ibis
import ibis.expr.types as ir

from cdp_assets.data_graph import profiles_sync
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.data_graph.profiles_sync import SyncTable
from cdp_assets.space.naming import snake_case
from resources.warehouse import (
    STAND_INS_END,
    MissingTableError,
    TableRef,
    Warehouse,
    WarehouseError,
    naive_utc,
    timestamp_literal,
)

CONSENT_TRAIT: Final = "segment_consent_preference.categories."
EVENT_TABLES: Final = ("aliases", "groups", "identifies", "pages", "screens", "tracks")
# Columns of the wide tables that are no traits; those that start with one of the prefixes are none either.
_NO_TRAITS: Final = frozenset(
    {
        *("segment_id", "canonical_segment_id", "merged_to", "seq", "id", "user_id", "anonymous_id", "group_id"),
        *("received_at", "uuid_ts", "timestamp", "etl_ts", "loaded_at", "sent_at", "original_timestamp", "uuid"),
        "event_source_id",
    }
)
_NO_TRAIT_PREFIXES: Final = ("_", "context_", "triggering_event_")
# A table without a time of its own: its rows were known always.
_ALWAYS: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class PastError(WarehouseError):
    """The tables do not hold the past that was asked for; the message names the raw tables that would."""


def is_trait_column(column: str) -> bool:
    """Whether a column of a wide table holds a trait."""
    return column not in _NO_TRAITS and not column.startswith(_NO_TRAIT_PREFIXES)


def graph_log(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime | None = None) -> ir.Table:
    """(segment_id, canonical_segment_id, seq, received_at)."""
    table, rows = _chosen(warehouse, graph, profiles_sync.GRAPH, as_of)
    return rows.select("segment_id", "canonical_segment_id", seq=_seq(rows), received_at=_instant(rows[table.instant]))


def mapping_log(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime | None = None) -> ir.Table:
    """(segment_id, external_id_type, external_id_value, __operation, seq, received_at)."""
    table, rows = _chosen(warehouse, graph, profiles_sync.MAPPING, as_of)
    plain = table.name == "user_identifiers"
    operation = rows["__operation"] if "__operation" in rows.columns else ibis.null("string")
    received_at = _instant(rows[table.instant])
    return rows.select(
        segment_id=rows.segment_id if table.raw else rows.canonical_segment_id,
        external_id_type=rows.type if plain else rows.external_id_type,
        external_id_value=(rows.value if plain else rows.external_id_value).cast("string"),
        __operation=operation,
        seq=_seq(rows) if "seq" in rows.columns else received_at.epoch_seconds().cast("int64"),
        received_at=received_at,
    )


def trait_log(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime | None = None) -> ir.Table:
    """(segment_id, name, value, seq, received_at). A NULL in a wide table says nothing, so a trait once set is never removed there."""
    table, rows = _chosen(warehouse, graph, profiles_sync.TRAITS, as_of)
    if table.name == "user_traits":
        value = rows.value.cast("string")
        return rows.select(
            segment_id=rows.canonical_segment_id,
            name=rows.name,
            value=value,
            seq=_seq(rows),
            received_at=_instant(rows[table.instant]),
        )
    if table.raw:
        return _unpivoted(rows, {"segment_id": rows.segment_id, "seq": _seq(rows), "received_at": _instant(rows.received_at)})
    kept = rows.filter(rows.merged_to.isnull())
    always = timestamp_literal(_ALWAYS)
    return _unpivoted(
        kept, {"segment_id": kept.canonical_segment_id, "seq": ibis.literal(0, type="int64"), "received_at": always}
    )


def consent_log(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime | None = None) -> ir.Table:
    """(segment_id, category, value, seq, received_at) from the traits that hold consent; what is neither true nor conflict is false."""
    traits = trait_log(warehouse, graph, as_of)
    categories = graph.external.categories if graph.external else ()
    names = {f"{CONSENT_TRAIT}{category}": category for category in categories}
    names |= {snake_case(name): category for name, category in names.items()}
    kept = traits.filter(traits.name.isin(list(names) or [""]))
    category = ibis.cases(*((kept.name == name, category) for name, category in names.items() or {"": ""}.items()))
    value = kept.value.lower()
    value = value.isin(["true", "conflict"]).ifelse(value, "false")
    return kept.select("segment_id", "seq", "received_at", category=category, value=value)


def event_log(warehouse: Warehouse, graph: DataGraph) -> ir.Table | None:
    """(message_id, segment_id, received_at) of all event tables that say the profile; None when none is there."""
    found = []
    for name in EVENT_TABLES:
        ref = _ref(graph, name)
        if warehouse.has(ref) and {"id", "segment_id", "received_at"} <= set(warehouse.schema(ref)):
            rows = warehouse.table(ref)
            found.append(rows.select("segment_id", message_id=rows.id, received_at=_instant(rows.received_at)))
    return reduce(lambda a, b: a.union(b), found) if found else None


def membership_log(warehouse: Warehouse, graph: DataGraph) -> ir.Table:
    """(segment_id, group_id, received_at) from the table of group calls."""
    rows = warehouse.table(_ref(graph, "groups"))
    kept = rows.filter(rows.segment_id.notnull() & rows.group_id.notnull())
    return kept.select("segment_id", "group_id", received_at=_instant(kept.received_at))


def group_trait_log(warehouse: Warehouse, graph: DataGraph) -> ir.Table:
    """(group_id, name, value, seq, received_at) from the table of group calls; seq orders them by received time, then id."""
    rows = warehouse.table(_ref(graph, "groups"))
    kept = rows.filter(rows.group_id.notnull())
    numbered = kept.mutate(seq=ibis.row_number().over(order_by=["received_at", "id"]).cast("int64"))
    keys = {"group_id": numbered.group_id, "seq": numbered.seq, "received_at": _instant(numbered.received_at)}
    return _unpivoted(numbered, keys)


def sources(warehouse: Warehouse, graph: DataGraph | None) -> tuple[Hashable, ...]:
    """What decides how the logs read: each table that one is read from, with its columns. Empty for the project's own tables."""
    if graph is None or graph.external is None:
        return ()
    tables = [_table_of(warehouse, graph, log) for log in profiles_sync.LOGS]
    return tuple((table.name, tuple(warehouse.schema(_ref(graph, table.name)))) for table in tables)


# -- tables and columns --------------------------------------------------------------------------------------------------


def _ref(graph: DataGraph, name: str) -> TableRef:
    return TableRef(graph.profile_schema, name)


def _table_of(warehouse: Warehouse, graph: DataGraph, log: tuple[SyncTable, ...]) -> SyncTable:
    present = [table.name for table in log if warehouse.has(_ref(graph, table.name))]
    found = profiles_sync.chosen(log, present, graph.profile_type)
    if found is None:
        raise MissingTableError(f"schema {graph.profile_schema} has none of {', '.join(table.name for table in log)}")
    return found


def _chosen(
    warehouse: Warehouse, graph: DataGraph, log: tuple[SyncTable, ...], as_of: dt.datetime | None
) -> tuple[SyncTable, ir.Table]:
    table = _table_of(warehouse, graph, log)
    rows = warehouse.table(_ref(graph, table.name))
    # An instant that stands for others is judged where the others are.
    if as_of is not None and as_of >= STAND_INS_END and not warehouse.compiles_only:
        _refuse_past(warehouse, graph, table, rows, as_of)
    return table, rows


def _refuse_past(warehouse: Warehouse, graph: DataGraph, table: SyncTable, rows: ir.Table, as_of: dt.datetime) -> None:
    if table.raw or not rows[table.instant].type().is_timestamp():
        return
    newest = warehouse.scalar(_instant(rows[table.instant]).max())
    if newest is not None and newest >= naive_utc(as_of):
        needed = [log[0].name for log in profiles_sync.LOGS if not warehouse.has(_ref(graph, log[0].name))]
        raise PastError(
            f"{graph.profile_schema}.{table.name} holds rows of {newest:%Y-%m-%dT%H:%M:%SZ} and so says nothing of "
            f"{as_of.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}: a past as_of needs the raw tables {', '.join(needed)}, "
            f"which schema {graph.profile_schema} does not have"
        )


def _seq(rows: ir.Table) -> ir.IntegerValue:
    return rows.seq.cast("int64")


def _instant(column: ir.Value) -> ir.TimestampValue:
    """A time as naive UTC, whether or not the column has a zone."""
    return column.cast("timestamp(6)")


def _unpivoted(rows: ir.Table, keys: dict[str, ir.Value]) -> ir.Table:
    """A row per trait that has a value: one pass over each trait's column, which is what a columnar engine reads."""
    traits = [column for column in rows.columns if is_trait_column(column)]
    parts = [
        rows.filter(rows[column].notnull()).select(**keys, name=ibis.literal(column), value=rows[column].cast("string"))
        for column in traits
    ]
    nothing = rows.limit(0).select(**keys, name=ibis.null("string"), value=ibis.null("string"))
    return reduce(lambda a, b: a.union(b), parts) if parts else nothing
