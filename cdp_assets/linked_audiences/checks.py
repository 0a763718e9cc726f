"""Checks of traits and audiences: built, of the current revision, nothing late, and every member a canonical profile.

None blocks the run: each payload and sync gates itself on the checks of its own path.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from cdp_assets.computed_traits.tables import SCHEMA as TRAITS_SCHEMA
from cdp_assets.dagster_checks import check_result
from cdp_assets.dagster_internals import check_evaluations
from cdp_assets.dagster_support import asset_key, format_instant, partitions_of
from cdp_assets.linked_audiences.schemas import member_rules, members_schema
from cdp_assets.linked_audiences.tables import AUDIENCE_MEMBERS
from cdp_assets.linked_audiences.tables import SCHEMA as AUDIENCES_SCHEMA
from cdp_assets.quality import RuleResult, evaluate_partitions
from cdp_assets.space.builds import builds_spec, built_with
from cdp_assets.space.revisions import audience_revision, audience_slice, explain_revision_change, trait_revision, trait_slice
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from cdp_assets.unified_profiles.tables import built_before_correction
from resources.warehouse import Warehouse

BUILT = "built"
REVISION = "revision"
LATE_DATA = "late_data"
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
        found.append(
            dg.AssetCheckSpec(
                LATE_DATA,
                asset=key,
                description="No late event or correction of people changed what a built partition had read. Warns, never blocks.",
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
    outdated = {schema: _outdated(warehouse, schema) for schema in (TRAITS_SCHEMA, AUDIENCES_SCHEMA)}
    for trait in traits:
        found.append((_trait(space, trait), LATE_DATA, {None: [outdated[TRAITS_SCHEMA](trait)]}, dg.AssetCheckSeverity.WARN))
        stale = _stale(warehouse, TRAITS_SCHEMA, trait, trait_revision(space, trait), trait_slice(space, trait))
        found.append((_trait(space, trait), REVISION, {None: [stale]}, dg.AssetCheckSeverity.WARN))
    for audience in audiences:
        late = outdated[AUDIENCES_SCHEMA](audience)
        found.append((_audience(space, audience), LATE_DATA, {None: [late]}, dg.AssetCheckSeverity.WARN))
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


def _outdated(warehouse: Warehouse, schema: str) -> Callable[[str], RuleResult]:
    """Of each asset of a room: its partitions that were built before late data, or a correction, reached into them."""
    spec = builds_spec(schema)
    warehouse.ensure(spec)
    builds = warehouse.table(spec.ref)
    built = {row["asset"]: row["n"] for row in warehouse.rows(builds.group_by("asset").aggregate(n=builds.count()), 100_000)}
    late: dict[str, list[dict[str, Any]]] = {}
    for row in warehouse.rows(built_before_correction(warehouse, builds).order_by("asset", "partition_key"), 100_000):
        late.setdefault(row["asset"], []).append(row)

    def of(asset: str) -> RuleResult:
        rows = late.get(asset, [])
        detail = ""
        if rows:
            first = min(row["corrected_from"] for row in rows).replace(tzinfo=dt.UTC)
            keys = rows[0]["partition_key"] if len(rows) == 1 else f"{rows[0]['partition_key']} to {rows[-1]['partition_key']}"
            detail = (
                f"{len(rows)} of {built[asset]} partitions ({keys}) were built before something received from "
                f"{format_instant(first)} on was corrected; materialize them again to take it in"
            )
        return RuleResult(
            rule="nothing late", passed=not rows, failing=len(rows), rows=built.get(asset, 0), sample=[], detail=detail
        )

    return of


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
