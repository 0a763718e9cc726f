"""What the tables of the unified_profiles room must look like. Enforced by :mod:`cdp_assets.quality`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import ibis.expr.types as ir
import pandera.ibis as pa

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.quality import RowRule, not_in, schema_of
from cdp_assets.unified_profiles.tables import (
    CONSENT_STATES,
    SCHEMA,
    profile_merges,
    profile_schema,
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

# By table name; the Profiles Sync tables have these shapes in whatever schema the data graph names.
CHECKED_TABLES: Mapping[str, pa.DataFrameSchema] = {
    "user_identifiers": USER_IDENTIFIERS_SCHEMA,
    "user_traits": USER_TRAITS_SCHEMA,
    "profile_merges": PROFILE_MERGES_SCHEMA,
    "consent_states": CONSENT_STATES_SCHEMA,
}


def canonical_profile_rule(graph: DataGraph) -> RowRule:
    """Rows of identifiers, traits or merges whose profile does not exist, or was merged into another."""

    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        merges = warehouse.table(profile_merges(profile_schema(graph)).ref)
        canonical = merges.filter(merges.segment_id == merges.canonical_segment_id)
        return not_in(table, "canonical_segment_id", canonical, "segment_id")

    return RowRule("profiles_are_canonical", "every row belongs to a profile that is not merged away", failing)
