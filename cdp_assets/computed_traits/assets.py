"""Dagster side of the computed_traits room: one asset per trait, all computed together.

The traits and the audiences of a space share one step (see :mod:`cdp_assets.definitions`); this module says what the
traits are and computes the selected ones for one window.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import dagster as dg

from cdp_assets.computed_traits.build import TraitResult, build_traits
from cdp_assets.computed_traits.tables import ACCOUNT_VALUES, SCHEMA, TRAIT_VALUES
from cdp_assets.dagster_support import META_AS_OF, asset_key, format_instant, profile_deps, room_spec
from cdp_assets.space.builds import record_revision
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.revisions import trait_revision, trait_slice
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from cdp_assets.space.trait_rules import TraitKind
from resources.warehouse import Warehouse

ROOM = "computed_traits"


def key_of(space: Space, trait: str) -> dg.AssetKey:
    return asset_key(space.name, ROOM, trait)


def specs(space: Space) -> list[dg.AssetSpec]:
    deps = [asset_key(space.name, "raw_events", "messages"), *profile_deps(space.name, space.graph, "event_profiles")]
    groups = profile_deps(space.name, space.graph, "group_memberships")
    found = []
    for key, trait in space.traits.items():
        lines = [trait.description or trait.name, "", f"Kind: {trait.kind}."]
        if trait.kind is TraitKind.sql:
            lines += ["", "```sql", (trait.query or "").strip(), "```"]
        found.append(
            room_spec(
                space.config,
                ROOM,
                key,
                description="\n".join(lines),
                table=TRAIT_VALUES if trait.of_profiles else ACCOUNT_VALUES,
                deps=sorted({*deps, *groups}) if trait.of_accounts else deps,
                owner=trait.owner,
                code_version=trait_revision(space, key),
                kinds=["sql"] if trait.kind is TraitKind.sql else [],
                partitioned=True,
                skippable=True,
            )
        )
    return found


def partition_metadata(trait: Trait, built: TraitResult, as_of: dt.datetime) -> dict[str, Any]:
    """What the UI shows of one partition of a trait."""
    owners = "profiles" if trait.of_profiles else "accounts"
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": built.rows,
        f"{owners} with a value": built.rows,
        "changed since the partition before": built.changed,
        "of these without a value now": built.nulled,
        META_AS_OF: format_instant(as_of),
    }
    if trait.of_profiles and trait.of_accounts:
        metadata["accounts with a value"] = built.accounts
    if trait.kind is TraitKind.sql:
        metadata["rows of unknown identifiers"] = built.unknown
        metadata["rows beyond 16 KB, left out"] = built.oversized
    return metadata


def compute(
    warehouse: Warehouse, space: Space, keys: Sequence[str], window: Window, as_of: dt.datetime, run_id: str
) -> dict[str, TraitResult]:
    """Compute the traits of one window; each either has rows or an error, never neither."""
    if not keys:
        return {}
    revisions = {key: trait_revision(space, key) for key in keys}
    results = build_traits(
        warehouse,
        space,
        list(keys),
        window,
        as_of,
        loaded_at=dt.datetime.now(dt.UTC),
        run_id=run_id,
        revisions=revisions,
    )
    for key in keys:
        record_revision(warehouse, SCHEMA, key, revisions[key], trait_slice(space, key))
    return results
