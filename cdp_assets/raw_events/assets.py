"""Dagster side of the raw_events room: landing files -> messages, quarantine, event tables, by window of received time."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from cdp_assets.dagster_support import (
    META_AS_OF,
    asset_key,
    describe_partitions,
    format_instant,
    room_spec,
    run_instant,
    selected_windows,
    window_as_of,
)
from cdp_assets.raw_events import checks
from cdp_assets.raw_events.build import Counts, affected_windows, build_window
from cdp_assets.raw_events.event_tables import EventTablesResult, build_event_tables
from cdp_assets.raw_events.intake import take_in
from cdp_assets.raw_events.policies import build_stages
from cdp_assets.raw_events.tables import EVENT_COLUMNS, MESSAGES, QUARANTINE, SCHEMA, VIOLATIONS
from cdp_assets.raw_events.violations import as_markdown, violations_by_event
from cdp_assets.space.builds import builds_spec, record_build
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window, window_by_key
from resources.instance import pool_of
from resources.space import SpaceResource
from resources.warehouse import Warehouse

ROOM = "raw_events"


def build_raw_events(config: SpaceConfig) -> dg.AssetsDefinition:
    """The room's one step: all its assets come from one pass over the landing files."""
    key = asset_key(config.name, ROOM, "messages")
    specs = [
        room_spec(
            config,
            ROOM,
            "messages",
            description="Accepted messages, one per messageId, in the partition of their received time.",
            table=MESSAGES,
            # What lands from there is in time for the same run.
            deps=[
                asset_key(config.name, "pulled_sources", name) for name, source in config.pulled_sources.items() if source.event
            ],
            partitioned=True,
        ),
        room_spec(
            config,
            ROOM,
            "quarantine",
            description="Landing lines that are not messages, each with file, line number and reason.",
            table=QUARANTINE,
            partitioned=True,
        ),
        room_spec(
            config,
            ROOM,
            "violations",
            description="What the tracking plan found wrong in messages: the field, the rule, and whether it was allowed, omitted or blocked.",
            table=VIOLATIONS,
            deps=[key],
            partitioned=True,
        ),
        room_spec(
            config,
            ROOM,
            "event_tables",
            description="One table per event in Segment's warehouse schema (schema `events`).",
            table=EVENT_COLUMNS,
            deps=[key],
            partitioned=True,
        ),
    ]

    @dg.multi_asset(
        name=f"{config.name}__raw_events",
        specs=specs,
        check_specs=checks.specs(config),
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=pool_of(config.name),
    )
    def _assets(context: dg.AssetExecutionContext, space: SpaceResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        loaded = space.load()
        instant = run_instant(context)
        windows = selected_windows(context, loaded.config)
        if windows:
            window_as_of(context, windows[-1])
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            built = take_in_and_build(warehouse, loaded, space.landing(loaded), windows, instant, context.run.run_id)
            verdicts = checks.evaluate(warehouse, built.counts)
            suppressed = checks.evaluate_suppressions(warehouse)
            violated = violations_by_event(warehouse, sorted(built.counts))
        windows, counts, tables = built.windows, built.counts, built.tables
        late = [window for window in windows if window.key not in context.partition_keys]
        for window in late:
            # A late file reached a window that this run did not select: it was rebuilt, so it is said.
            metadata = {"cdp/late_file": True, **_partition(window, counts[window.key], instant)}
            context.log_event(dg.AssetMaterialization(key, partition=window.key, metadata=metadata))
        describe_partitions(context, key, {w.key: _partition(w, counts[w.key], instant) for w in windows})
        refused = {w.key: {"dagster/partition_row_count": counts[w.key].quarantined} for w in windows}
        describe_partitions(context, asset_key(config.name, ROOM, "quarantine"), refused)
        found = {
            window: {
                "dagster/partition_row_count": sum(row[3] for row in rows),
                "violations": dg.MetadataValue.md(as_markdown(rows)),
            }
            for window, rows in violated.items()
        }
        describe_partitions(context, asset_key(config.name, ROOM, "violations"), found)
        common = {META_AS_OF: format_instant(min(windows[-1].end, instant))} if windows else {}
        results: dict[str, dict[str, Any]] = {
            "messages": {"files taken in": built.files, "late partitions rebuilt": len(late)},
            "quarantine": {},
            "violations": {},
            "event_tables": {
                # The tables are written for all windows together.
                **({"dagster/partition_row_count": sum(tables.rows.values())} if len(windows) == 1 else {}),
                "rows written by this run": dg.MetadataValue.md(_table("table", tables.rows)),
                "values of another type than the column's, stored as NULL": dg.MetadataValue.md(
                    _table("column", tables.conflicts) if tables.conflicts else "none"
                ),
            },
        }
        for name, metadata in results.items():
            if asset_key(config.name, ROOM, name) in context.selected_asset_keys:
                yield dg.MaterializeResult(asset_key(config.name, ROOM, name), metadata={**common, **metadata})
        yield from checks.results(context, config, verdicts)
        yield from checks.suppression_result(context, config, suppressed)

    return _assets


def _partition(window: Window, counts: Counts, instant: dt.datetime) -> dict[str, Any]:
    """What the UI shows of one partition of the messages."""
    return {
        META_AS_OF: format_instant(min(window.end, instant)),
        "dagster/partition_row_count": counts.accepted,
        "lines read": counts.lines,
        "accepted": counts.accepted,
        "duplicates": counts.duplicates,
        "quarantined": counts.quarantined,
    }


@dataclass(frozen=True)
class RawBuild:
    """What a build of the room made: the windows (late ones included), their counts, the event tables, the files taken in."""

    windows: list[Window]
    counts: dict[str, Counts]
    tables: EventTablesResult
    files: int


def take_in_and_build(
    warehouse: Warehouse,
    space: Space,
    landing: Path,
    selected: Sequence[Window],
    instant: dt.datetime,
    run_id: str,
    *,
    affected_only: bool = False,
) -> RawBuild:
    """Take in unread landing files, then build the selected windows and those that a late file reaches.

    ``affected_only``: no window is selected; every window that an unread file reaches is built, also one never built before.
    """
    now = dt.datetime.now(dt.UTC)
    config = space.config
    intake = take_in(warehouse, config, landing, loaded_at=now, stages=build_stages(space, warehouse))
    affected = affected_windows(warehouse, intake)
    if affected_only:
        windows = sorted(w for w in (window_by_key(config, key) for key in affected) if w.start < instant)
    else:
        windows = with_late_windows(warehouse, config, list(selected), affected)
    counts = build_window(warehouse, config, windows, instant) if windows else {}
    tables = build_event_tables(warehouse, config, windows, instant) if windows else EventTablesResult()
    for window in windows:
        record_build(
            warehouse,
            SCHEMA,
            asset="messages",
            partition_key=window.key,
            as_of=min(window.end, instant),
            revision="",
            run_id=run_id,
            rows=counts[window.key].accepted,
            loaded_at=now,
        )
    return RawBuild(windows, counts, tables, intake.files)


def with_late_windows(warehouse: Warehouse, config: SpaceConfig, selected: list[Window], affected: set[str]) -> list[Window]:
    """The selected windows and those already built ones that a late file reaches, in time order."""
    spec = builds_spec(SCHEMA)
    if not warehouse.has(spec.ref):
        return selected
    builds = warehouse.table(spec.ref)
    keys = {window.key for window in selected}
    rows = warehouse.rows(builds.filter(builds.asset == "messages").select("partition_key"), 100_000)
    late = sorted(window_by_key(config, key) for key in (affected & {row["partition_key"] for row in rows}) - keys)
    return sorted([*selected, *late])


def _table(head: str, rows: Mapping[str, int]) -> str:
    lines = [f"| {head} | rows |", "|---|---:|"]
    return "\n".join(lines + [f"| {name} | {count} |" for name, count in sorted(rows.items())])
