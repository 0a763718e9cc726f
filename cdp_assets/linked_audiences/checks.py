"""Checks of traits and audiences: built, of the current revision, and every member a canonical profile.

None blocks the run: each payload and sync gates itself on the checks of its own path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from cdp_assets.computed_traits.tables import SCHEMA as TRAITS_SCHEMA
from cdp_assets.dagster_checks import check_result
from cdp_assets.dagster_internals import check_evaluations
from cdp_assets.dagster_support import asset_key, partitions_of
from cdp_assets.linked_audiences.schemas import member_rules, members_schema
from cdp_assets.linked_audiences.tables import AUDIENCE_MEMBERS
from cdp_assets.linked_audiences.tables import SCHEMA as AUDIENCES_SCHEMA
from cdp_assets.quality import RuleResult, evaluate_partitions
from cdp_assets.space.builds import built_with
from cdp_assets.space.revisions import audience_revision, audience_slice, explain_revision_change, trait_revision, trait_slice
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from resources.warehouse import Warehouse

BUILT = "built"
REVISION = "revision"
MEMBERS = "members_are_profiles"

Verdict = tuple[dg.AssetKey, str, dict[str | None, list[RuleResult]], dg.AssetCheckSeverity]


def _trait(space: Space, key: str) -> dg.AssetKey:
    return asset_key(space.name, "computed_traits", key)


def _audience(space: Space, key: str) -> dg.AssetKey:
    return asset_key(space.name, "linked_audiences", key)


def specs(space: Space) -> list[dg.AssetCheckSpec]:
    partitions = partitions_of(space.config)
    found = []
    for key in [*(_trait(space, t) for t in space.traits), *(_audience(space, a) for a in space.audiences)]:
        found.append(
            dg.AssetCheckSpec(
                BUILT,
                asset=key,
                description="It was computed; when not, its previous partition is kept.",
                partitions_def=partitions,
            )
        )
        found.append(
            dg.AssetCheckSpec(
                REVISION, asset=key, description="All built partitions have the current definition. Warns, never blocks."
            )
        )
    for audience in space.audiences:
        found.append(
            dg.AssetCheckSpec(
                MEMBERS,
                asset=_audience(space, audience),
                description="Every member is a canonical profile, once; syncs gate themselves on it.",
                partitions_def=partitions,
            )
        )
    return found


def evaluate(
    warehouse: Warehouse,
    space: Space,
    traits: Sequence[str],
    audiences: Sequence[str],
    windows: Sequence[Window],
    errors: Mapping[dg.AssetKey, Mapping[str, str]],
) -> list[Verdict]:
    """Verdicts of everything that the step tried to build."""
    found: list[Verdict] = []
    for asset in [*(_trait(space, t) for t in traits), *(_audience(space, a) for a in audiences)]:
        failed = errors.get(asset, {})
        by_window: dict[str | None, list[RuleResult]] = {
            window.key: [
                RuleResult(
                    rule=failed.get(window.key, "computed"),
                    passed=window.key not in failed,
                    failing=int(window.key in failed),
                    rows=1,
                    detail="computed, or its previous partition kept",
                )
            ]
            for window in windows
        }
        found.append((asset, BUILT, by_window, dg.AssetCheckSeverity.ERROR))
    for trait in traits:
        stale = _stale(warehouse, TRAITS_SCHEMA, trait, trait_revision(space, trait), trait_slice(space, trait))
        found.append((_trait(space, trait), REVISION, {None: [stale]}, dg.AssetCheckSeverity.WARN))
    for audience in audiences:
        stale = _stale(warehouse, AUDIENCES_SCHEMA, audience, audience_revision(space, audience), audience_slice(space, audience))
        found.append((_audience(space, audience), REVISION, {None: [stale]}, dg.AssetCheckSeverity.WARN))
        members = warehouse.table(AUDIENCE_MEMBERS.ref)
        found_by_window = evaluate_partitions(
            warehouse,
            members_schema(),
            members.filter(members.audience == audience),
            by="partition_key",
            partitions=[window.key for window in windows],
            name=audience,
            extra_rules=member_rules(space.graph),
        )
        found.append((_audience(space, audience), MEMBERS, dict(found_by_window.items()), dg.AssetCheckSeverity.ERROR))
    return found


def _stale(warehouse: Warehouse, schema: str, asset: str, revision: str, content: dict) -> RuleResult:
    built = built_with(warehouse, schema, asset)
    others = [row for row in built if row["revision"] != revision]
    changes = sorted({change for row in others if row["slice"] for change in explain_revision_change(row["slice"], content)})
    detail = f"{len(others)} of {len(built)} partitions were built with another definition" if others else ""
    if changes:
        detail += ": " + "; ".join(changes[:5])
    return RuleResult(
        rule="current definition", passed=not others, failing=len(others), rows=len(built), sample=[], detail=detail
    )


def results(context: dg.AssetExecutionContext, verdicts: Sequence[Verdict]) -> Iterator[dg.AssetCheckResult]:
    for asset, name, by_partition, severity in verdicts:
        if dg.AssetCheckKey(asset, name) not in context.selected_asset_check_keys:
            continue
        made = {partition: check_result(asset, name, rules, severity=severity) for partition, rules in by_partition.items()}
        if None in made:
            yield made[None]
        else:
            by_key = {partition: result for partition, result in made.items() if partition is not None}
            yield check_evaluations(context, by_key, asset_key=asset, check_name=name)
