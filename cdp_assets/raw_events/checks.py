"""Checks of the raw_events room: every landing line is accounted for, and messages are what the schema says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import dagster as dg

from cdp_assets.dagster_checks import check_result
from cdp_assets.dagster_internals import check_evaluations
from cdp_assets.dagster_support import asset_key, partitions_of
from cdp_assets.quality import RuleResult, evaluate_partitions
from cdp_assets.quality import evaluate as evaluate_schema
from cdp_assets.raw_events.build import Counts
from cdp_assets.raw_events.schemas import (
    MESSAGES_SCHEMA,
    QUARANTINE_SCHEMA,
    SUPPRESSIONS_SCHEMA,
    VIOLATIONS_SCHEMA,
    quarantine_rules,
    suppression_rules,
)
from cdp_assets.raw_events.stages import WITHOUT_RAW
from cdp_assets.raw_events.tables import MESSAGES, QUARANTINE, SUPPRESSIONS, VIOLATIONS
from cdp_assets.space.models.settings import SpaceConfig
from resources.warehouse import Warehouse

ACCOUNTED = "accounted_for"
VALID = "valid_messages"
SUPPRESSED = "nothing_kept_of_the_suppressed"
VALID_VIOLATIONS = "valid_violations"


def _key(config: SpaceConfig, check: str = VALID) -> dg.AssetKey:
    return asset_key(config.name, "raw_events", "violations" if check == VALID_VIOLATIONS else "messages")


def _quarantine(config: SpaceConfig) -> dg.AssetKey:
    return asset_key(config.name, "raw_events", "quarantine")


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
            SUPPRESSED,
            asset=_quarantine(config),
            description="Suppressions hold hashes only, one in force per identifier; nothing is kept of the messages that they refused.",
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


def evaluate_suppressions(warehouse: Warehouse) -> list[RuleResult]:
    """Rule results of the suppressions table and of the lines that suppressions refused."""
    spec = SUPPRESSIONS
    known = evaluate_schema(
        warehouse,
        SUPPRESSIONS_SCHEMA,
        warehouse.table(spec.ref),
        name="suppressions",
        personal=spec.personal,
        extra_rules=suppression_rules(),
    )
    quarantine = warehouse.table(QUARANTINE.ref)
    refused = quarantine.filter(quarantine.reason.isin(sorted(WITHOUT_RAW)))
    rules = quarantine_rules()
    return known + evaluate_schema(
        warehouse, QUARANTINE_SCHEMA, refused, name="quarantine", personal=QUARANTINE.personal, extra_rules=rules
    )


def suppression_result(
    context: dg.AssetExecutionContext, config: SpaceConfig, found: list[RuleResult]
) -> Iterator[dg.AssetCheckResult]:
    if dg.AssetCheckKey(_quarantine(config), SUPPRESSED) in context.selected_asset_check_keys:
        yield check_result(_quarantine(config), SUPPRESSED, found)


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
