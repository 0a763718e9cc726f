"""Checks of the raw_events room: every landing line is accounted for, and messages are what the schema says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import dagster as dg

from cdp_assets.dagster_checks import check_result
from cdp_assets.dagster_internals import check_evaluations
from cdp_assets.dagster_support import asset_key, partitions_of
from cdp_assets.quality import RuleResult, evaluate_partitions
from cdp_assets.raw_events.build import Counts
from cdp_assets.raw_events.schemas import MESSAGES_SCHEMA, VIOLATIONS_SCHEMA
from cdp_assets.raw_events.tables import MESSAGES, VIOLATIONS
from cdp_assets.space.models import SpaceConfig
from resources.warehouse import Warehouse

ACCOUNTED = "accounted_for"
VALID = "valid_messages"
VALID_VIOLATIONS = "valid_violations"


def _key(config: SpaceConfig, check: str = VALID) -> dg.AssetKey:
    return asset_key(config.name, "raw_events", "violations" if check == VALID_VIOLATIONS else "messages")


def specs(config: SpaceConfig) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            ACCOUNTED,
            asset=_key(config),
            description="accepted + duplicates + quarantined = lines read, each counted from its own table.",
            partitions_def=partitions_of(config),
        ),
        dg.AssetCheckSpec(
            VALID, asset=_key(config), description="Messages obey the schema.", partitions_def=partitions_of(config)
        ),
        dg.AssetCheckSpec(
            VALID_VIOLATIONS,
            asset=_key(config, VALID_VIOLATIONS),
            description="Violations obey the schema.",
            partitions_def=partitions_of(config),
        ),
    ]


def evaluate(warehouse: Warehouse, counts: Mapping[str, Counts]) -> dict[str, dict[str, list[RuleResult]]]:
    """check name -> partition -> rule results, for the windows that were built."""
    accounted = {
        key: [
            RuleResult(
                rule="accepted + duplicates + quarantined = lines",
                passed=c.accepted + c.duplicates + c.quarantined == c.lines,
                failing=abs(c.lines - c.accepted - c.duplicates - c.quarantined),
                rows=c.lines,
                detail=f"{c.accepted} + {c.duplicates} + {c.quarantined} of {c.lines}",
            )
        ]
        for key, c in counts.items()
    }
    valid = evaluate_partitions(
        warehouse, MESSAGES_SCHEMA, warehouse.table(MESSAGES.ref), by="partition_key", partitions=sorted(counts), name="messages"
    )
    violations = evaluate_partitions(
        warehouse,
        VIOLATIONS_SCHEMA,
        warehouse.table(VIOLATIONS.ref),
        by="partition_key",
        partitions=sorted(counts),
        name="violations",
    )
    return {ACCOUNTED: accounted, VALID: valid, VALID_VIOLATIONS: violations}


def results(
    context: dg.AssetExecutionContext, config: SpaceConfig, verdicts: Mapping[str, Mapping[str, list[RuleResult]]]
) -> Iterator[dg.AssetCheckResult]:
    for name, by_partition in verdicts.items():
        key = _key(config, name)
        if dg.AssetCheckKey(key, name) in context.selected_asset_check_keys:
            yield check_evaluations(
                context,
                {partition: check_result(key, name, found) for partition, found in by_partition.items()},
                asset_key=key,
                check_name=name,
            )
