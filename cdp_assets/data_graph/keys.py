"""How the two sides of a join are made comparable, wherever rows of the graph are joined."""

from __future__ import annotations

import ibis.expr.types as ir

from cdp_assets.space.operators import family


def comparable(left: ir.Value, right: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Both sides of a join in one type: as they are when both are numbers, texts, …, else as texts."""
    return (left, right) if family(left) == family(right) else (key_text(left), key_text(right))


def key_text(column: ir.Value) -> ir.StringValue:
    """A key as text: whole numbers in digits, texts as they are, others as the engine writes them."""
    dtype = column.type()
    if dtype.is_string():
        return column
    if dtype.is_integer() or (dtype.is_decimal() and not dtype.scale):
        column = column.cast("int64")
    return column.cast("string")
