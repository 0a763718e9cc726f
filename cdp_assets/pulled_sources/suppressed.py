"""Records of a page that name an identifier which is suppressed now: they are not taken in.

A column holds an identifier of the type that it is called after (``email``), and the columns from which the source's events take their
user and anonymous ids hold those.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from cdp_assets.raw_events.tables import any_suppressions, suppressions_at, value_hash
from cdp_assets.space.pulled import PulledSource, value_at
from resources.sources import Pulled
from resources.warehouse import Warehouse

_NOW = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)  # after all that is recorded


def positions_of_suppressed(warehouse: Warehouse, source: PulledSource, records: Sequence[Pulled]) -> set[str]:
    """The positions of those records."""
    types = _identifier_types(source)
    named: dict[tuple[str, str], set[str]] = {}
    for record in records:
        for column, kind in types:
            value = value_at(record.content, source.fields.get(column, column)) if record.content is not None else None
            if isinstance(value, str | int) and not isinstance(value, bool):
                named.setdefault((kind, value_hash(str(value))), set()).add(record.position)
    if not named or not any_suppressions(warehouse):
        return set()
    table = suppressions_at(warehouse, _NOW)
    asked = table.filter(table.value_hash.isin(sorted({hashed for _, hashed in named})))
    found = {(row["identifier_type"], row["value_hash"]) for row in warehouse.arrow(asked).to_pylist()}
    return {position for pair, positions in named.items() if pair in found for position in positions}


def _identifier_types(source: PulledSource) -> list[tuple[str, str]]:
    """Columns with the types of the identifiers that they may hold."""
    types = [(column, column) for column, kind in source.columns.items() if kind == "string"]
    if source.event is not None:
        told = {"user_id": source.event.user_id, "anonymous_id": source.event.anonymous_id}
        types += [(column, kind) for kind, column in told.items() if column]
    return sorted(set(types))
