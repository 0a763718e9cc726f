"""Which Profiles Sync tables say what, for spaces that bring their own: names, columns, and which is read first.

Each *log* (who a profile is, its identifiers, its traits) can be read from several tables. The raw ones hold the past; those
that were materialized from them only say what holds now.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

MATERIALIZED: Final = "segment:materialized"
UNMATERIALIZED: Final = "segment:unmaterialized"
DBT: Final = "segment:dbt"


@dataclass(frozen=True)
class SyncTable:
    """A Profiles Sync table and the columns that are read. ``instant``: the column that says when a row was known."""

    name: str
    type: str
    columns: tuple[str, ...]
    instant: str = "received_at"

    @property
    def raw(self) -> bool:
        return self.type == UNMATERIALIZED

    @property
    def all_columns(self) -> tuple[str, ...]:
        return (*self.columns, self.instant)


GRAPH: Final = (
    SyncTable("id_graph_updates", UNMATERIALIZED, ("segment_id", "canonical_segment_id", "seq")),
    SyncTable("profile_merges", MATERIALIZED, ("segment_id", "canonical_segment_id", "seq")),
    SyncTable("id_graph", DBT, ("segment_id", "canonical_segment_id", "seq"), "uuid_ts"),
)
MAPPING: Final = (
    SyncTable("external_id_mapping_updates", UNMATERIALIZED, ("segment_id", "external_id_type", "external_id_value", "seq")),
    SyncTable("user_identifiers", MATERIALIZED, ("canonical_segment_id", "type", "value", "seq")),
    SyncTable("external_id_mapping", DBT, ("canonical_segment_id", "external_id_type", "external_id_value"), "uuid_ts"),
)
TRAITS: Final = (
    SyncTable("profile_traits_updates", UNMATERIALIZED, ("segment_id", "seq")),
    SyncTable("user_traits", MATERIALIZED, ("canonical_segment_id", "name", "value", "seq")),
    # It has no time of its own; the graph's says how new it is.
    SyncTable("profile_traits", DBT, ("canonical_segment_id",), "merged_to"),
)
LOGS: Final = (GRAPH, MAPPING, TRAITS)


def tables_of(profile_type: str) -> tuple[str, ...]:
    """The tables that a graph of this profile type speaks of, one per log."""
    return tuple(table.name for log in LOGS for table in log if table.type == profile_type)


def chosen(log: tuple[SyncTable, ...], present: Collection[str], profile_type: str) -> SyncTable | None:
    """The table that a log is read from: the raw one where there is one, else the profile type's, else any that is there."""
    order = sorted(log, key=lambda table: (not table.raw, table.type != profile_type))
    return next((table for table in order if table.name in present), None)
