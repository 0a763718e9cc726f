"""Records of a page that name an identifier which is suppressed now: they are not taken in.

A column holds an identifier of the type that it is called after (``email``), and the columns from which the source's events take their
user and anonymous ids hold those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from cdp_assets.space.pulled import PulledSource, value_at
from resources.sources import Pulled
from resources.warehouse import Warehouse

SuppressedAmong = Callable[[Warehouse, Collection[tuple[str, str]]], set[tuple[str, str]]]
"""(type, value) of identifiers -> those that are suppressed now. A later room knows."""


def positions_of_suppressed(
    warehouse: Warehouse, source: PulledSource, records: Sequence[Pulled], suppressed_among: SuppressedAmong
) -> set[str]:
    """The positions of those records."""
    types = _identifier_types(source)
    named: dict[tuple[str, str], set[str]] = {}
    for record in records:
        for column, kind in types:
            value = value_at(record.content, source.fields.get(column, column)) if record.content is not None else None
            if isinstance(value, str | int) and not isinstance(value, bool):
                named.setdefault((kind, str(value)), set()).add(record.position)
    return {position for pair in suppressed_among(warehouse, named) for position in named[pair]}


def _identifier_types(source: PulledSource) -> list[tuple[str, str]]:
    """Columns with the types of the identifiers that they may hold."""
    types = [(column, column) for column, kind in source.columns.items() if kind == "string"]
    if source.event is not None:
        told = {"user_id": source.event.user_id, "anonymous_id": source.event.anonymous_id}
        types += [(column, kind) for kind, column in told.items() if column]
    return sorted(set(types))
