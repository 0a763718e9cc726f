"""Trait values computed in place, for previews that must not depend on a build."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import ibis.expr.types as ir

from cdp_assets.computed_traits.compile import event_scan, event_trait_rows
from cdp_assets.computed_traits.sql_traits import checked_rows, query_of
from cdp_assets.space.models import TraitKind
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse


def inline_values(warehouse: Warehouse, space: Space, as_of: dt.datetime) -> Callable[[str], ir.Table]:
    """Trait key -> expression (canonical_segment_id, value_text, value_number) at ``as_of``. Writes nothing.

    The function raises ConditionError, SqlTraitError or UserQueryError for a trait that cannot be computed.
    """

    def values(key: str) -> ir.Table:
        trait = space.traits[key]
        if trait.kind is TraitKind.sql:
            rows = checked_rows(warehouse, space, trait, as_of, query_of(warehouse, space, trait, as_of)).rows
        else:
            rows = event_trait_rows(event_scan(warehouse, space, [trait], as_of), [trait])
        return rows.select("canonical_segment_id", "value_text", "value_number")

    return values
