"""What the tables of the computed_traits room must look like. Enforced by :mod:`cdp_assets.quality`."""

from __future__ import annotations

import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import TRAIT_VALUES
from cdp_assets.quality import RowRule, schema_of
from resources.warehouse import Warehouse

TRAIT_VALUES_SCHEMA = schema_of(TRAIT_VALUES, not_null=("as_of", "revision"))


def _not_one_value(warehouse: Warehouse, table: ir.Table) -> ir.Table:
    return table.filter(table.value_text.isnull() == table.value_number.isnull())


ONE_VALUE = RowRule("one_value", "exactly one of value_text and value_number is set", _not_one_value)
