"""Dagster side of the unified_profiles room: messages -> profiles, incremental and unpartitioned."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from cdp_assets.dagster_support import META_AS_OF, asset_key, format_instant, room_spec, run_instant
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.models import SpaceConfig
from cdp_assets.unified_profiles import checks, measure
from cdp_assets.unified_profiles.build import build_profiles
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
    specs = (*profile_tables(profile_schema(graph)), EVENT_PROFILES, CONSENT_STATES, VIOLATIONS)
    return {spec.ref.name: spec for spec in specs}


def build_unified_profiles(config: SpaceConfig, graph: DataGraph) -> dg.AssetsDefinition:
    """The room's one step: identity resolution writes all profile tables together."""
    tables = tables_of(graph)
    messages = asset_key(config.name, "raw_events", "messages")
    specs = [
        room_spec(config, ROOM, name, description=table.description, table=table, deps=[messages])
        for name, table in tables.items()
    ]

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
            counts = {name: warehouse.count(warehouse.table(table.ref)) for name, table in tables.items()}
            verdicts = checks.evaluate(warehouse, loaded.graph)
            measured = _beside_the_truth(warehouse, loaded.graph, space.paths().truth_file(loaded.config.name))
        summary: dict[str, Any] = {
            META_AS_OF: format_instant(instant),
            "profiles": built.profiles,
            "merges": built.merges,
            "identifiers refused": built.violations,
            "messages resolved": built.resolved,
            "messages without an identifier": built.unresolved,
        }
        for name in tables:
            if asset_key(config.name, ROOM, name) in context.selected_asset_keys:
                metadata = {**summary, "dagster/row_count": counts[name], **(measured if name == "user_identifiers" else {})}
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
