"""What the tables of the unified_profiles room must look like. Enforced by :mod:`cdp_assets.quality`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import ibis
import ibis.expr.types as ir
import pandera.ibis as pa

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.quality import RowRule, not_in, schema_of
from cdp_assets.unified_profiles.groups import MAX_GROUP_ID
from cdp_assets.unified_profiles.groups import REASONS as MESSAGE_REASONS
from cdp_assets.unified_profiles.tables import (
    CONSENT_STATES,
    GROUP_MEMBERSHIPS,
    MESSAGE_VIOLATIONS,
    SCHEMA,
    external_id_mapping,
    id_graph,
    profile_merges,
    profile_schema,
    profile_traits,
    profile_traits_updates,
    user_identifiers,
    user_traits,
)
from resources.warehouse import Warehouse

CONSENT_VALUES: Final = ("true", "false", "conflict")
_NOT_EMPTY = pa.Check.str_length(min_value=1)

# An identifier belongs to one profile: no two rows of one type and value.
USER_IDENTIFIERS_SCHEMA = schema_of(
    user_identifiers(SCHEMA), not_null=("canonical_segment_id",), checks={"type": _NOT_EMPTY, "value": _NOT_EMPTY}
)
USER_TRAITS_SCHEMA = schema_of(user_traits(SCHEMA), checks={"name": _NOT_EMPTY})
PROFILE_MERGES_SCHEMA = schema_of(profile_merges(SCHEMA), not_null=("canonical_segment_id",))
CONSENT_STATES_SCHEMA = schema_of(
    CONSENT_STATES,
    not_null=("segment_id", "category", "value", "seq", "received_at"),
    unique=("segment_id", "category", "seq"),
    checks={"value": pa.Check.isin(CONSENT_VALUES)},
)

PROFILE_TRAITS_UPDATES_SCHEMA = schema_of(profile_traits_updates(SCHEMA), not_null=("received_at", "triggering_event_id"))
ID_GRAPH_SCHEMA = schema_of(id_graph(SCHEMA), not_null=("canonical_segment_id",))
EXTERNAL_ID_MAPPING_SCHEMA = schema_of(external_id_mapping(SCHEMA), not_null=("canonical_segment_id",))
PROFILE_TRAITS_SCHEMA = schema_of(profile_traits(SCHEMA))
GROUP_MEMBERSHIPS_SCHEMA = schema_of(GROUP_MEMBERSHIPS, checks={"group_id": pa.Check.str_length(1, MAX_GROUP_ID)})
MESSAGE_VIOLATIONS_SCHEMA = schema_of(MESSAGE_VIOLATIONS, checks={"reason": pa.Check.isin(MESSAGE_REASONS)})

# By table name; the Profiles Sync tables have these shapes in whatever schema the data graph names.
CHECKED_TABLES: Mapping[str, pa.DataFrameSchema] = {
    "user_identifiers": USER_IDENTIFIERS_SCHEMA,
    "user_traits": USER_TRAITS_SCHEMA,
    "profile_merges": PROFILE_MERGES_SCHEMA,
    "consent_states": CONSENT_STATES_SCHEMA,
    "profile_traits_updates": PROFILE_TRAITS_UPDATES_SCHEMA,
    "id_graph": ID_GRAPH_SCHEMA,
    "external_id_mapping": EXTERNAL_ID_MAPPING_SCHEMA,
    "profile_traits": PROFILE_TRAITS_SCHEMA,
    "group_memberships": GROUP_MEMBERSHIPS_SCHEMA,
    "message_violations": MESSAGE_VIOLATIONS_SCHEMA,
}


def _tombstones_with_traits(warehouse: Warehouse, table: ir.Table) -> ir.Table:
    merged = table.filter(table.merged_to.notnull())
    traits = [merged[name] for name in table.columns if name not in profile_traits(SCHEMA).columns]
    return merged.filter(ibis.or_(*(trait.notnull() for trait in traits))) if traits else merged.limit(0)


TOMBSTONES = RowRule("tombstones_have_no_traits", "a profile that was merged has only merged_to", _tombstones_with_traits)
# Rules that look at more than one column, by table name.
ROW_RULES: Mapping[str, Sequence[RowRule]] = {"profile_traits": (TOMBSTONES,)}


def canonical_profile_rule(graph: DataGraph) -> RowRule:
    """Rows of identifiers, traits or merges whose profile does not exist, or was merged into another."""

    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        merges = warehouse.table(profile_merges(profile_schema(graph)).ref)
        canonical = merges.filter(merges.segment_id == merges.canonical_segment_id)
        return not_in(table, "canonical_segment_id", canonical, "segment_id")

    return RowRule("profiles_are_canonical", "every row belongs to a profile that is not merged away", failing)
