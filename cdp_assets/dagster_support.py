"""What every room's Dagster side shares: asset keys, the run's instant, windows of a context, metadata.

Belongs here: small translations between Dagster and the rooms' plain functions. Private Dagster calls are in
:mod:`cdp_assets.dagster_internals`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from cdp_assets.data_graph import profiles_sync
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.models.activations import SqlModel
from cdp_assets.space.models.common import PartitionKind
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window, as_of_of, window_by_key
from resources.warehouse import TableRef, TableSpec

ROOMS = (
    "pulled_sources",
    "raw_events",
    "unified_profiles",
    "computed_traits",
    "linked_audiences",
    "activation_payloads",
    "destination_syncs",
    "reports",
)
# Groups sort by name in the UI; the number keeps the rooms in the order in which data flows.
GROUPS = {room: f"{number}_{room}" for number, room in enumerate(ROOMS)}
WAREHOUSE_GROUP = "0_warehouse_tables"

TAG_AS_OF = "cdp/as_of"
# Of a run whose events have seconds to arrive: among those that wait for the warehouse it is the next one.
AHEAD = {"dagster/priority": "1"}
META_AS_OF = "cdp/as_of"
META_REVISION = "cdp/revision"


def asset_key(space: str, room: str, name: str) -> dg.AssetKey:
    return dg.AssetKey([space, room, name])


def partitions_of(config: SpaceConfig) -> dg.TimeWindowPartitionsDefinition:
    """The space's partitions. The open window is a partition too (``end_offset``)."""
    start = config.start_date.isoformat()
    if config.partitions is PartitionKind.hourly:
        return dg.HourlyPartitionsDefinition(start_date=f"{start}-00:00", timezone="UTC", end_offset=1)
    if config.partitions is PartitionKind.weekly:
        return dg.WeeklyPartitionsDefinition(start_date=start, timezone="UTC", end_offset=1)
    if config.partitions is PartitionKind.monthly:
        return dg.MonthlyPartitionsDefinition(start_date=start, timezone="UTC", end_offset=1)
    return dg.DailyPartitionsDefinition(start_date=start, timezone="UTC", end_offset=1)


def run_instant(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> dt.datetime:
    """The instant that a run speaks about: its ``cdp/as_of`` tag, else the time when the run was created. Fixed for the run."""
    tag = context.run.tags.get(TAG_AS_OF)
    if tag:
        return parse_instant(tag)
    record = context.instance.get_run_record_by_id(context.run.run_id)
    if record is None:
        raise dg.Failure(f"run {context.run.run_id} is not in the instance; give it the tag {TAG_AS_OF}")
    return record.create_timestamp.astimezone(dt.UTC)


def parse_instant(text: str) -> dt.datetime:
    """ISO-8601 text with a zone as aware UTC. Raises ValueError, saying so, without one."""
    instant = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if instant.tzinfo is None:
        raise ValueError(f"{text} has no time zone; write it as {text}Z")
    return instant.astimezone(dt.UTC)


def format_instant(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def selected_windows(context: dg.AssetExecutionContext, config: SpaceConfig) -> list[Window]:
    """The windows of the run's partitions, in time order. Works for a single partition and for a range.

    Raises dg.Failure for a run without a partition, which the UI starts when a user executes checks alone.
    """
    if not context.has_partition_key and not context.has_partition_key_range:
        raise dg.Failure(
            "The checks of a partitioned asset are judged while a partition is built: materialize the partition instead.",
            allow_retries=False,
        )
    return sorted(window_by_key(config, key) for key in context.partition_keys)


def window_as_of(context: dg.AssetExecutionContext, window: Window) -> dt.datetime:
    """The as_of of a window in this run. Raises dg.Failure for a window that has not begun."""
    instant = run_instant(context)
    if instant <= window.start:
        raise dg.Failure(
            f"partition {window.key} begins after the run's instant {format_instant(instant)}; choose an earlier partition"
        )
    return as_of_of(window, instant)


def describe_partitions(
    context: dg.AssetExecutionContext, asset: dg.AssetKey, by_partition: Mapping[str, Mapping[str, Any]]
) -> None:
    """Metadata of each of the run's partitions of an asset. What a MaterializeResult says, Dagster repeats for all of them."""
    if asset not in context.selected_asset_keys:
        return
    own = set(context.partition_keys)
    for partition, metadata in by_partition.items():
        if partition in own:
            context.add_asset_metadata(metadata, asset_key=asset, partition_key=partition)


def is_backfill(tags: Mapping[str, str]) -> bool:
    """Whether a run is a backfill or a range run; neither ever sends."""
    return any(tag == "dagster/backfill" or tag.startswith("dagster/asset_partition_range_") for tag in tags)


def column_schema(spec: TableSpec) -> dg.TableSchema:
    columns = [
        dg.TableColumn(name, kind, description="personal data" if name in spec.personal else None)
        for name, kind in spec.columns.items()
    ]
    return dg.TableSchema(columns=columns)


def table_metadata(spec: TableSpec) -> dict[str, Any]:
    """Definition metadata of an asset that is a table."""
    return {"dagster/table_name": str(spec.ref), "dagster/column_schema": column_schema(spec)}


def row_counts(head: str, rows: Mapping[str, int]) -> str:
    """Rows by name as a Markdown table."""
    lines = [f"| {head} | rows |", "|---|---:|"]
    return "\n".join(lines + [f"| {name} | {count} |" for name, count in sorted(rows.items())])


def profile_deps(space: str, graph: DataGraph, table: str) -> list[dg.AssetKey]:
    """What a reader of people depends on: ``table`` of the profiles' room, or the company's own Profiles Sync tables."""
    names = profiles_sync.tables_of(graph.profile_type) if graph.external else (table,)
    return [asset_key(space, "unified_profiles", name) for name in names]


def model_deps(space: Space, model: SqlModel) -> list[dg.AssetKey]:
    """What a model's query reads: people, event tables, and the traits, audiences and pulled sources that it names."""
    rooms = {
        **dict.fromkeys(space.config.pulled_sources, "pulled_sources"),
        **dict.fromkeys(space.traits, "computed_traits"),
        **dict.fromkeys(space.audiences, "linked_audiences"),
    }
    return [
        *profile_deps(space.name, space.graph, "user_identifiers"),
        asset_key(space.name, "raw_events", "event_tables"),
        *(asset_key(space.name, rooms[key], key) for key in model.depends_on if key in rooms),
    ]


def room_spec(
    config: SpaceConfig,
    room: str,
    name: str,
    *,
    description: str,
    table: TableSpec | None,
    deps: Sequence[dg.AssetKey] = (),
    owner: str | None = None,
    code_version: str | None = None,
    kinds: Sequence[str] = (),
    partitioned: bool = False,
    skippable: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> dg.AssetSpec:
    """An asset of a room, with everything that every asset must say about itself."""
    return dg.AssetSpec(
        asset_key(config.name, room, name),
        deps=list(deps),
        description=description,
        group_name=GROUPS[room],
        owners=[owner or config.owner],
        code_version=code_version,
        kinds={config.warehouse.type, *kinds},
        partitions_def=partitions_of(config) if partitioned else None,
        skippable=skippable,
        metadata={**(table_metadata(table) if table else {}), **(metadata or {})},
        tags={"cdp/space": config.name, "cdp/room": room},
    )


def table_key(space: str, ref: TableRef) -> dg.AssetKey:
    """Key of a table that a space reads: one of a pulled source, or the company's own, read in place."""
    if ref.schema == "pulled_sources":
        return asset_key(space, ref.schema, ref.name)
    return dg.AssetKey([space, "warehouse", ref.schema, ref.name])
