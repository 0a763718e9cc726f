"""Dagster side of the unified_profiles room: messages -> profiles, incremental and unpartitioned."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from cdp_assets.dagster_support import META_AS_OF, asset_key, format_instant, room_spec, row_counts, run_instant
from cdp_assets.data_graph import profiles_sync
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.unified_profiles import checks, measure
from cdp_assets.unified_profiles.build import build_profiles
from cdp_assets.unified_profiles.sync_tables import (
    EVENT_TABLES,
    build_sync_tables,
    counted,
    event_rows,
    sync_specs,
    traits_without_column,
)
from cdp_assets.unified_profiles.tables import (
    CONSENT_STATES,
    EVENT_PROFILES,
    VIOLATIONS,
    profile_schema,
    profile_tables,
    user_identifiers,
)
from resources.instance import pool_of
from resources.space import SpaceResource
from resources.warehouse import TableSpec, Warehouse

ROOM = "unified_profiles"


def tables_of(graph: DataGraph) -> dict[str, TableSpec]:
    """Asset name -> table of the room."""
    specs = (*profile_tables(profile_schema(graph)), EVENT_PROFILES, CONSENT_STATES, VIOLATIONS, *sync_specs(graph))
    return {spec.ref.name: spec for spec in specs}


def asset_names(graph: DataGraph) -> tuple[str, ...]:
    """What a run of the room builds; nothing where the company brings its own tables."""
    return () if graph.external else (*tables_of(graph), EVENT_TABLES)


def event_tables_spec(config: SpaceConfig) -> dg.AssetSpec:
    return room_spec(
        config,
        ROOM,
        EVENT_TABLES,
        description="The event tables with the profile at event time (`segment_id`) and the source (`event_source_id`): views.",
        table=None,
        deps=[asset_key(config.name, "raw_events", "event_tables"), asset_key(config.name, "raw_events", "messages")],
    )


def external_profiles(config: SpaceConfig, graph: DataGraph) -> list[dg.AssetSpec]:
    """The company's own Profiles Sync tables, in place of the room: nothing builds them here."""
    return [
        room_spec(
            config, ROOM, name, description="A Profiles Sync table of the company's, read in place.", table=None
        ).replace_attributes(metadata={"dagster/table_name": f"{profile_schema(graph)}.{name}"})
        for name in profiles_sync.tables_of(graph.profile_type)
    ]


def build_unified_profiles(config: SpaceConfig, graph: DataGraph) -> dg.AssetsDefinition:
    """The room's one step: identity resolution writes all profile tables together."""
    tables = tables_of(graph)
    messages = asset_key(config.name, "raw_events", "messages")
    specs = [
        room_spec(config, ROOM, name, description=table.description, table=table, deps=[messages])
        for name, table in tables.items()
    ]
    specs.append(event_tables_spec(config))

    @dg.multi_asset(
        name=f"{config.name}__unified_profiles",
        specs=specs,
        check_specs=checks.specs(config),
        can_subset=True,
        pool=pool_of(config.name),
    )
    def _assets(context: dg.AssetExecutionContext, space: SpaceResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        loaded = space.load()
        instant = run_instant(context)
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            built = build_profiles(
                warehouse,
                loaded.config,
                loaded.graph,
                as_of=instant,
                loaded_at=dt.datetime.now(dt.UTC),
                run_id=context.run.run_id,
            )
            build_sync_tables(warehouse, loaded.config, loaded.graph)
            counts = counted(warehouse, tables)
            event_counts, left_out = event_rows(warehouse, loaded.graph), traits_without_column(warehouse)
            verdicts = checks.evaluate(warehouse, loaded.graph)
            measured = _beside_the_truth(warehouse, loaded.graph, space.paths().truth_file(loaded.config.name))
        summary: dict[str, Any] = {
            META_AS_OF: format_instant(instant),
            "profiles": built.profiles,
            "merges": built.merges,
            "identifiers refused": built.violations,
            "messages resolved": built.resolved,
            "messages without an identifier": built.unresolved,
            **({"corrected from": format_instant(built.corrected_from)} if built.corrected_from else {}),
        }
        counts[EVENT_TABLES] = sum(event_counts.values())
        own: dict[str, dict[str, Any]] = {
            "profile_traits_updates": {"traits without a column": left_out},
            "user_identifiers": measured,
            EVENT_TABLES: {"rows of each table": dg.MetadataValue.md(row_counts("table", event_counts))},
        }
        for name in counts:
            if asset_key(config.name, ROOM, name) in context.selected_asset_keys:
                metadata = {**summary, "dagster/row_count": counts[name], **own.get(name, {})}
                yield dg.MaterializeResult(asset_key(config.name, ROOM, name), metadata=metadata)
        yield from checks.results(context, config, verdicts)

    return _assets


def _beside_the_truth(warehouse: Warehouse, graph: DataGraph, truth_file: Path) -> dict[str, Any]:
    """Precision and recall as metadata, where the home holds generated data with its truth; else nothing."""
    truth = measure.read_truth(truth_file)
    if truth is None:
        return {}
    held = warehouse.table(user_identifiers(profile_schema(graph)).ref).select("type", "value", "canonical_segment_id")
    batches = (batch.to_pydict().values() for batch in warehouse.batches(held))
    measured = measure.measure((row for columns in batches for row in zip(*columns, strict=True)), truth)
    return {
        "pairwise precision": measured.precision,
        "pairwise recall": measured.recall,
        "reachable recall": measured.reachable_recall,
        "beside the truth": dg.MetadataValue.md(measure.markdown(measured)),
    }
