"""Traits as expressions: from a trait's definition to (trait, profile, value) rows.

What belongs here: what each kind of trait means. What does not: running, storing, or what happens when one fails
(``build.py``). Event traits are compiled together: :func:`event_scan` reads the messages once, and keeps of each message
only what some trait needs; every trait is then an aggregate of that scan.

Rules of the kinds (Segment's, with ours where its pages are silent)
- Counters and unique counts: a profile that ever performed the event has a row, 0 when nothing is within the window.
- Sums and averages are exact decimal sums of nine places, so that a rebuild gives the same bits; amounts beyond 1e18 are no amounts.
- First and last go by the event's timestamp, then by message id. An event without the property (or,
  where the trait is a number, without a number in it) is passed over.
- Most frequent needs ``min_frequency`` occurrences; a tie goes to the alphabetically first.
- A unique list is a JSON array of its distinct values as texts, sorted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import reduce
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import performed_as_of
from cdp_assets.space.models import Trait, TraitKind
from cdp_assets.space.operators import event_filters, number_of, property_text
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse, timestamp_literal
from resources.warehouse import functions as fn

PROFILE = "canonical_segment_id"
_PER_VALUE = (TraitKind.most_frequent, TraitKind.unique_list)
_LARGEST_AMOUNT = 1e18


def event_scan(warehouse: Warehouse, space: Space, traits: Sequence[Trait], as_of: dt.datetime) -> ir.Table:
    """One row per message of any of the traits' events.

    Columns: ``canonical_segment_id``, ``event``, ``at``, ``place`` (rank of the message in its profile's history), ``counts_KEY``
    per trait (whether the message is one that the trait looks at), ``value_N`` per distinct property, in the order of
    :func:`_properties`, as text.
    """
    messages = performed_as_of(warehouse, space.graph, as_of)
    messages = messages.filter(messages.event.isin(sorted({trait.event for trait in traits if trait.event})))
    ordered = ibis.window(group_by=PROFILE, order_by=["timestamp", "message_id"])
    return messages.select(
        PROFILE,
        "event",
        at=messages.timestamp,
        place=ibis.row_number().over(ordered),
        **{f"counts_{trait.key}": _looks_at(messages, trait, as_of) for trait in traits},
        **{f"value_{i}": property_text(messages, name) for i, name in enumerate(_properties(traits))},
    )


def _properties(traits: Sequence[Trait]) -> list[str]:
    return sorted({trait.property for trait in traits if trait.property and not _of_timestamp(trait)})


def _of_timestamp(trait: Trait) -> bool:
    return trait.property == "timestamp" and trait.kind in (TraitKind.first, TraitKind.last)


def _looks_at(messages: ir.Table, trait: Trait, as_of: dt.datetime) -> ir.BooleanValue:
    verdict = (messages.event == trait.event) & event_filters(messages, trait.where, as_of)
    if trait.within:
        edges = timestamp_literal(as_of - trait.within.delta), timestamp_literal(as_of)
        verdict = verdict & messages.timestamp.between(*edges)
    return verdict


def event_trait_rows(scan: ir.Table, traits: Sequence[Trait]) -> ir.Table:
    """(trait, canonical_segment_id, value_text, value_number) of event traits over their :func:`event_scan` (an expression or its table)."""
    values = {name: f"value_{i}" for i, name in enumerate(_properties(traits))}
    plain = [trait for trait in traits if trait.kind not in _PER_VALUE]
    branches = []
    if plain:
        wide = scan.group_by(PROFILE).aggregate(**{trait.key: _aggregate(scan, trait, values) for trait in plain})
        branches += [_rows(wide.filter(wide[trait.key].notnull()), trait, wide[trait.key]) for trait in plain]
    for trait in traits:
        if trait.kind in _PER_VALUE:
            branches.append(_per_value(scan, trait, values[trait.property or ""]))
    return reduce(lambda left, right: left.union(right), branches)


def _aggregate(scan: ir.Table, trait: Trait, values: dict[str, str]) -> ir.Scalar:
    """The value of a trait over one profile's rows of the scan, NULL for none."""
    counted = scan[f"counts_{trait.key}"]
    if trait.kind is TraitKind.event_counter:
        return _from_zero(scan, trait, scan.count(where=counted))
    if _of_timestamp(trait):
        moment = scan["at"].min(where=counted) if trait.kind is TraitKind.first else scan["at"].max(where=counted)
        return fn.iso_text(moment)
    value = scan[values[trait.property or ""]]
    if trait.kind is TraitKind.unique_list_count:
        return _from_zero(scan, trait, value.nunique(where=counted & value.notnull()))
    if trait.kind in (TraitKind.first, TraitKind.last) and trait.value_type == "number":
        value = number_of(value)
    if trait.kind is TraitKind.first:
        return value.argmin(scan["place"], where=counted & value.notnull())
    if trait.kind is TraitKind.last:
        return value.argmax(scan["place"], where=counted & value.notnull())
    number = number_of(value)
    if trait.function == "min":
        return number.min(where=counted)
    if trait.function == "max":
        return number.max(where=counted)
    amount = ibis.ifelse(number.between(-_LARGEST_AMOUNT, _LARGEST_AMOUNT), number, ibis.null("float64")).cast("decimal(38, 9)")
    total = amount.sum(where=counted).cast("float64")
    return total if trait.function == "sum" else total / amount.count(where=counted).nullif(0)


def _from_zero(scan: ir.Table, trait: Trait, count: ir.IntegerScalar) -> ir.IntegerScalar:
    ever = scan.count(where=scan["event"] == trait.event)
    return ibis.ifelse(ever > 0, count, ibis.null("int64"))


def _per_value(scan: ir.Table, trait: Trait, column: str) -> ir.Table:
    """Kinds that look at how often each value occurs."""
    kept = scan.filter(scan[f"counts_{trait.key}"] & scan[column].notnull())
    counts = kept.group_by(PROFILE, value=kept[column]).aggregate(times=kept.count())
    if trait.kind is TraitKind.unique_list:
        lists = counts.mutate(escaped=_json_escaped(counts["value"]))
        lists = lists.group_by(PROFILE).aggregate(joined=fn.sorted_join(lists["escaped"], '","'))
        return _rows(lists, trait, ibis.literal('["') + lists["joined"] + ibis.literal('"]'))
    often = counts.filter(counts["times"] >= trait.min_frequency)
    ranked = often.mutate(rank=ibis.row_number().over(group_by=PROFILE, order_by=[ibis.desc("times"), "value"]))
    best = ranked.filter(ranked["rank"] == 0)
    return _rows(best, trait, best["value"])


def _json_escaped(text: ir.StringValue) -> ir.StringValue:
    """The inside of a JSON string. Control characters other than the common ones are left out."""
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(character, escaped)
    return text.re_replace("[[:cntrl:]]", "")


def _rows(table: ir.Table, trait: Trait, value: ir.Value) -> ir.Table:
    """Rows of one trait in the form of TRAIT_VALUES, by the trait's type."""
    columns: dict[str, Any] = {"value_text": ibis.null("string"), "value_number": ibis.null("float64")}
    if trait.value_type == "number":
        columns["value_number"] = number_of(value) if value.type().is_string() else value.cast("float64")
    elif trait.value_type == "boolean" and value.type().is_string():
        columns["value_text"] = value.lower()
    else:
        columns["value_text"] = value if value.type().is_string() else value.cast("int64").cast("string")
    rows = table.select(trait=ibis.literal(trait.key), **{PROFILE: table[PROFILE]}, **columns)
    return rows.filter(rows["value_text"].notnull() | rows["value_number"].notnull())
