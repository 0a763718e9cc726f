"""The Profiles Sync tables and group tables that follow from the logs of identity resolution."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.unified_profiles import groups, sync_views, wide_traits
from cdp_assets.unified_profiles.tables import (
    BUILDS,
    GROUP_TABLES,
    TRAIT_COLUMNS,
    profile_schema,
    profile_traits_updates,
    profile_views,
)
from resources.warehouse import TableSpec, Warehouse

EVENT_TABLES = "profile_event_tables"
# A view of so many rows as a table, which is counted instead.
_COUNTED_AS = {"id_graph": "profile_merges", "profile_traits": "profile_merges", "external_id_mapping": "user_identifiers"}


def build_sync_tables(warehouse: Warehouse, config: SpaceConfig, graph: DataGraph) -> None:
    """Bring them up to the logs. Call it after identity resolution. Idempotent: what is there and right is left as it is."""
    wide_traits.build(warehouse, config, graph)
    as_of = _known_until(warehouse)
    if as_of is not None:
        groups.build(warehouse, as_of)
    sync_views.build(warehouse, graph)


def _known_until(warehouse: Warehouse) -> dt.datetime | None:
    """The instant up to which the logs know the messages."""
    builds = warehouse.table(BUILDS.ref)
    last = warehouse.scalar(builds.filter(builds.asset == "profiles").as_of.max())
    return last.replace(tzinfo=dt.UTC) if last else None


def sync_specs(graph: DataGraph) -> tuple[TableSpec, ...]:
    """The tables, but for the event tables."""
    schema = profile_schema(graph)
    return (profile_traits_updates(schema), *profile_views(schema), *GROUP_TABLES)


def event_rows(warehouse: Warehouse, graph: DataGraph) -> dict[str, int]:
    """Rows of each event table with profiles; those of the table below it, as each has one profile at most."""
    views = sync_views.event_views(warehouse, graph)
    return {view.name: warehouse.count(warehouse.table(source)) for source, view in views.items()}


def counted(warehouse: Warehouse, tables: Mapping[str, TableSpec]) -> dict[str, int]:
    """Rows of each of the room's tables."""
    return {name: warehouse.count(warehouse.table(tables[_COUNTED_AS.get(name, name)].ref)) for name in tables}


def traits_without_column(warehouse: Warehouse) -> int:
    """Traits that profile_traits_updates leaves out, because their name is reserved or they are too many."""
    names = warehouse.table(TRAIT_COLUMNS.ref)
    return warehouse.count(names.filter(names.column_name.isnull()))
