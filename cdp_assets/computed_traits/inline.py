"""Trait values computed in place, for previews that must not depend on a build."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import ibis.expr.types as ir

from cdp_assets.computed_traits.compile import event_rows, of_members
from cdp_assets.computed_traits.scan import OWNER
from cdp_assets.computed_traits.sql_traits import run_query
from cdp_assets.computed_traits.tables import PROFILE
from cdp_assets.space.space import Space
from cdp_assets.space.trait_rules import TraitKind
from resources.warehouse import Warehouse


def inline_values(warehouse: Warehouse, space: Space, as_of: dt.datetime) -> Callable[[str], ir.Table]:
    """Trait key -> expression (canonical_segment_id, value_text, value_number) at ``as_of``. Writes nothing.

    The function raises ConditionError, SqlTraitError or UserQueryError for a trait that cannot be computed.
    """

    def values(key: str) -> ir.Table:
        trait = space.traits[key]
        if trait.kind is TraitKind.sql:
            rows = run_query(warehouse, space, [trait], as_of, keep=lambda e: e).rows_of(trait).rows
        else:
            (found,) = event_rows(warehouse, space, [trait], as_of, keep=lambda e: e)
            rows = found.rows
        if trait.of_accounts:
            rows = of_members(warehouse, space, rows, as_of)
        return rows.rename(**{PROFILE: OWNER}).select(PROFILE, "value_text", "value_number")

    return values
