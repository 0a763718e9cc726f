"""Segment's query language, as far as it defines audiences: text to condition tree and back.

``compile_query(text)`` gives the conditions as an audience's file would say them, ``printer.print_query(audience)`` the text. What belongs
here: the language. What does not: what conditions mean, which is that of the tree, and whether names exist, which is checked like
that of any audience.
"""

from __future__ import annotations

from cdp_assets.space.query.conditions import Compiled, compile_query
from cdp_assets.space.query.syntax import MAX_COMPARISONS, QueryError

__all__ = ("MAX_COMPARISONS", "Compiled", "QueryError", "compile_query")
