"""Checks of the unified_profiles room. That an identifier belongs to one profile is an invariant of the whole space: it blocks."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from cdp_assets.dagster_checks import check_result
from cdp_assets.dagster_support import asset_key
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.quality import RuleResult
from cdp_assets.quality import evaluate as evaluate_schema
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.unified_profiles.schemas import CHECKED_TABLES, ROW_RULES
from cdp_assets.unified_profiles.sync_tables import sync_specs
from cdp_assets.unified_profiles.tables import CONSENT_STATES, profile_schema, profile_tables
from resources.warehouse import Warehouse

ONE_PROFILE = "an_identifier_belongs_to_one_profile"
_CHECKS = {
    "user_identifiers": (ONE_PROFILE, True, "Every (type, value) belongs to exactly one profile."),
    "user_traits": ("one_value_per_trait", False, "Every profile has one value per trait."),
    "profile_merges": ("one_canonical_profile", False, "Every profile is part of exactly one canonical profile."),
    "consent_states": ("known_states", False, "Consent is true, false or conflict."),
    "profile_traits_updates": ("one_row_per_event", False, "Every event of a profile has one row."),
    "id_graph": ("one_row_per_profile", False, "Every profile is part of exactly one canonical profile."),
    "external_id_mapping": ("one_row_per_identifier", False, "Every identifier belongs to one profile."),
    "profile_traits": ("one_row_per_profile", False, "Every profile has one row; those that were merged have no traits."),
    "group_memberships": ("group_ids", False, "Every message names one group, by an id of at most 500 characters."),
    "message_violations": ("known_reasons", False, "Every violation has a reason that is known."),
}


def specs(config: SpaceConfig) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(name, asset=asset_key(config.name, "unified_profiles", table), description=text, blocking=blocking)
        for table, (name, blocking, text) in _CHECKS.items()
    ]


def evaluate(warehouse: Warehouse, graph: DataGraph) -> dict[str, list[RuleResult]]:
    """Table -> rule results."""
    specs = (*profile_tables(profile_schema(graph)), CONSENT_STATES, *sync_specs(graph))
    by_name = {spec.ref.name: spec for spec in specs}
    return {
        table: evaluate_schema(
            warehouse,
            CHECKED_TABLES[table],
            warehouse.table(by_name[table].ref),
            name=table,
            # Columns that are not declared are traits.
            personal={*by_name[table].personal, *(set(warehouse.schema(by_name[table].ref)) - set(by_name[table].columns))},
            extra_rules=ROW_RULES.get(table, ()),
        )
        for table in _CHECKS
    }


def results(
    context: dg.AssetExecutionContext, config: SpaceConfig, verdicts: dict[str, list[RuleResult]]
) -> Iterator[dg.AssetCheckResult]:
    for table, found in verdicts.items():
        key = asset_key(config.name, "unified_profiles", table)
        name = _CHECKS[table][0]
        if dg.AssetCheckKey(key, name) in context.selected_asset_check_keys:
            yield check_result(key, name, found)
