"""Checks of an activation's payloads. None blocks the run: the activation's own sync gates itself on all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import dagster as dg

from cdp_assets.activation_payloads.schemas import payload_rules, payloads_schema
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.dagster_checks import by_check, check_result, check_specs
from cdp_assets.dagster_support import asset_key
from cdp_assets.quality import RuleResult
from cdp_assets.quality import evaluate as evaluate_schema
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse


def specs(space: Space, key: str) -> list[dg.AssetCheckSpec]:
    return check_specs(asset_key(space.name, "activation_payloads", key), payload_rules(space, space.activations[key]))


def names(space: Space, key: str) -> list[str]:
    """Names of the checks that the sync gates itself on."""
    return [spec.name for spec in specs(space, key)]


def evaluate(warehouse: Warehouse, space: Space, key: str) -> dict[str, list[RuleResult]]:
    """Check name -> rule results."""
    payloads = warehouse.table(PAYLOADS.ref)
    results = evaluate_schema(
        warehouse,
        payloads_schema(),
        payloads.filter(payloads.activation == key),
        name=key,
        extra_rules=payload_rules(space, space.activations[key]),
    )
    return by_check(results)


def results(
    context: dg.AssetExecutionContext, asset: dg.AssetKey, verdicts: Mapping[str, list[RuleResult]]
) -> Iterator[dg.AssetCheckResult]:
    for name, found in verdicts.items():
        if dg.AssetCheckKey(asset, name) in context.selected_asset_check_keys:
            yield check_result(asset, name, found)
