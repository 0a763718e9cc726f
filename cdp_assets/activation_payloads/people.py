"""What the warehouse knows about people, as expressions: last seen identifiers, traits, consent and suppression.

Every function takes or gives tables keyed by ``canonical_segment_id`` and runs nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import TRAIT_VALUES
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import canonical_ids_as_of, consent_as_of, identifiers_as_of, traits_as_of
from resources.warehouse import Warehouse
from resources.warehouse import functions as fn

# Consent is read as of the latest accepted event, whatever the payloads' own as_of.
LATEST = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)

KEY = "canonical_segment_id"


def last_identifiers(warehouse: Warehouse, space: Space, as_of: dt.datetime, types: Mapping[str, str]) -> ir.Table:
    """The last seen value of each type: one row per profile with any, one text column per entry of ``types`` (column -> type)."""
    known = identifiers_as_of(warehouse, space.graph, as_of)
    known = known.filter(known.type.isin(sorted(set(types.values()))))
    if space.graph.external:
        # Rows of tables of the company's own may be of one instant, which is then all that orders them.
        order = [ibis.desc(known.seq), known.value]
        ranked = known.mutate(_rank=ibis.row_number().over(group_by=[KEY, "type"], order_by=order))
        last = ranked.filter(ranked["_rank"] == 0)
    else:
        last = known.group_by(KEY, "type").aggregate(value=fn.newest(known.value, known.seq))
    return last.group_by(KEY).agg(**{column: _where(last.type == kind, last.value).max() for column, kind in types.items()})


def identify_traits(warehouse: Warehouse, space: Space, as_of: dt.datetime, names: Mapping[str, str]) -> ir.Table:
    """Traits from identify calls: one row per profile with any, one text column per entry of ``names`` (column -> trait)."""
    known = traits_as_of(warehouse, space.graph, as_of)
    known = known.filter(known.name.isin(sorted(set(names.values()))))
    return known.group_by(KEY).agg(**{column: _where(known.name == name, known.value).max() for column, name in names.items()})


def computed_traits(warehouse: Warehouse, window_key: str, texts: Mapping[str, str], numbers: Mapping[str, str]) -> ir.Table:
    """Computed traits of a partition: one row per profile with any; ``texts`` and ``numbers`` are column -> trait."""
    values = warehouse.table(TRAIT_VALUES.ref)
    wanted = sorted({*texts.values(), *numbers.values()})
    values = values.filter((values.partition_key == window_key) & values.trait.isin(wanted))
    return values.group_by(KEY).agg(
        **{column: _where(values.trait == trait, values.value_text).max() for column, trait in texts.items()},
        **{column: _where(values.trait == trait, values.value_number).max() for column, trait in numbers.items()},
    )


def standing(
    warehouse: Warehouse,
    space: Space,
    people: ir.Table,
    categories: Sequence[str],
    instant: dt.datetime,
    suppressed: ir.Table | None,
) -> ir.Table:
    """(canonical_segment_id, consents, suppressed) of every row of ``people``, at ``instant``.

    A profile that merged after the payloads' as_of is judged by the one that it is part of now. ``consents``: all
    categories are true; false, conflict and never collected are not. ``suppressed``: a table with canonical_segment_id.
    """
    now = canonical_ids_as_of(warehouse, space.graph, instant).select(old="segment_id", holder=KEY)
    # Computed columns are added after a join, not in its SELECT: Ibis would extend the join and lose them.
    held = people.select(KEY).left_join(now, [(KEY, "old")]).select(KEY, "holder")
    held = held.mutate(current=ibis.coalesce(held.holder, held[KEY])).drop("holder")
    consent = consent_as_of(warehouse, space.graph, instant)
    consent = consent.filter(consent.category.isin(sorted(categories)) & (consent.value == "true"))
    granted = consent.group_by(giver=consent[KEY]).agg(granted=consent.category.nunique())
    judged = held.left_join(granted, [("current", "giver")]).select(KEY, "current", "granted")
    judged = judged.mutate(consents=ibis.coalesce(judged.granted, 0) >= len(set(categories))).drop("granted")
    if suppressed is None:
        return judged.select(KEY, "consents", suppressed=ibis.literal(False))
    blocked = suppressed.select(named=KEY).left_join(now, [("named", "old")]).select("named", "holder")
    blocked = blocked.mutate(blocked=ibis.coalesce(blocked.holder, blocked.named)).select("blocked").distinct()
    marked = judged.left_join(blocked, [("current", "blocked")]).select(KEY, "consents", "blocked")
    return marked.mutate(suppressed=marked.blocked.notnull()).drop("blocked")


def _where(condition: ir.BooleanValue, value: ir.Value) -> ir.Value:
    return ibis.ifelse(condition, value, ibis.null(value.type()))
