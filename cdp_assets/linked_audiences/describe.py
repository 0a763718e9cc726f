"""An audience's conditions in plain words, as a tree drawn with box characters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.conditions import filters_of
from cdp_assets.space.models import (
    Audience,
    AudienceCondition,
    Between,
    ColumnFilters,
    ColumnReference,
    Comparison,
    Condition,
    EntityCondition,
    EventCondition,
    EventFilter,
    Operator,
    Quantified,
    ReferringEventFilters,
    Span,
    TraitCondition,
    TraitReference,
)
from cdp_assets.space.space import Space

_WORDS = {
    Operator.equals: "is",
    Operator.differs: "is set and is not",
    Operator.less_than: "is less than",
    Operator.at_most: "is at most",
    Operator.greater_than: "is greater than",
    Operator.at_least: "is at least",
    Operator.one_of: "is one of",
    Operator.none_of: "is set and is none of",
    Operator.contains: "contains",
    Operator.omits: "does not contain",
    Operator.starts_with: "starts with",
    Operator.ends_with: "ends with",
    Operator.exists: "is set",
    Operator.absent: "is not set",
    Operator.before_date: "is before",
    Operator.after_date: "is after",
    Operator.within_last: "is within the last",
    Operator.within_next: "is within the next",
    Operator.before_last: "is before the last",
    Operator.after_next: "is after the next",
}
_QUANTIFIERS = {"at_least": "at least", "exactly": "exactly", "at_most": "at most"}


@dataclass(frozen=True)
class Line:
    """A condition in words and what stands below it."""

    text: str
    below: tuple[Line, ...] = ()


def condition_tree(space: Space, audience: Audience) -> str:
    """The conditions of an audience as a box-drawing tree, one line per condition and filter."""
    groups = tuple(
        Line(f"group {number}: {_joined(group.match)}", tuple(_condition(space.graph, c, None) for c in group.conditions))
        for number, group in enumerate(audience.groups, 1)
    )
    if len(groups) == 1:
        root = Line(_joined(audience.groups[0].match), groups[0].below)
    else:
        root = Line(_joined(audience.match).replace("conditions", "groups"), groups)
    target = [f"an audience of {audience.target_entity}"] if audience.target_entity else []
    return "\n".join([*target, root.text, *_drawn(root.below, "")])


def _drawn(lines: Sequence[Line], indent: str) -> Iterator[str]:
    for index, line in enumerate(lines):
        last = index == len(lines) - 1
        yield f"{indent}{'└─ ' if last else '├─ '}{line.text}"
        yield from _drawn(line.below, indent + ("   " if last else "│  "))


def _joined(match: str) -> str:
    return "all of these conditions" if match == "all" else "any of these conditions"


def _condition(graph: DataGraph, condition: Condition, parent: str | None) -> Line:
    match condition:
        case EntityCondition():
            return _entity(graph, condition, parent)
        case TraitCondition():
            words = f"trait {condition.trait} {_comparison(condition)}"
            return Line(words if condition.with_trait else f"not: {words}")
        case EventCondition():
            verb = "did not perform" if condition.without_event else "performed"
            often = "" if condition.without_event else f" {_times(condition)}"
            return Line(f"{verb} {condition.event}{often}{_window(condition)}", _filters(condition.where))
        case AudienceCondition():
            return Line(f"{'is' if condition.part_of else 'is not'} in audience {condition.audience}")


def _entity(graph: DataGraph, condition: EntityCondition, parent: str | None) -> Line:
    path = f"{parent}:{condition.relationship}" if parent else condition.relationship
    name = next((node.relationship.name for node in graph.nodes() if node.path == path), condition.relationship)
    called = name if name == condition.relationship else f"{name} ({condition.relationship})"
    below = list(_filters(condition.where))
    if condition.nested:
        nested = tuple(_condition(graph, child, path) for child in condition.nested.conditions)
        several = len(nested) > 1 and condition.nested.match == "any"
        below += [Line(_joined("any"), nested)] if several else nested
    text = f"without {called}" if condition.without_entity else f"with {_number(condition)} {called}"
    return Line(f"{text} where" if below else text, tuple(below))


def _number(condition: Quantified) -> str:
    quantifier, number = condition.quantifier
    return f"{_QUANTIFIERS[quantifier]} {number}"


def _times(condition: Quantified) -> str:
    return f"{_number(condition)} {'time' if condition.quantifier[1] == 1 else 'times'}"


def _window(condition: EventCondition) -> str:
    match condition.within or condition.between:
        case Span(last=last, unit=unit):
            return f" within the last {last} {unit}"
        case Between(from_=far, to=near, unit=unit):
            return f" between {far} and {near} {unit} before"
    return ""


def _filters(filters: ColumnFilters | ReferringEventFilters | None) -> tuple[Line, ...]:
    lines = tuple(Line(f"{_subject(one)} {_comparison(one)}") for one in filters_of(filters))
    return (Line(_joined("any"), lines),) if filters is not None and filters.any is not None and len(lines) > 1 else lines


def _subject(wanted: Any) -> str:
    if isinstance(wanted, EventFilter):
        return f"property {wanted.property}" if wanted.property is not None else f"context {wanted.context}"
    return str(wanted.column)


def _comparison(comparison: Comparison) -> str:
    words = _WORDS[comparison.operator]
    if comparison.amount is not None:
        return f"{words} {comparison.amount} {comparison.unit}"
    reference = getattr(comparison, "reference", None)
    if reference is not None:
        return f"{words} {_referred(reference)}"
    if comparison.value is None:
        return words
    values = comparison.value if isinstance(comparison.value, tuple) else (comparison.value,)
    return f"{words} {' or '.join(_value(value) for value in values)}"


def _referred(reference: ColumnReference | TraitReference) -> str:
    if reference.trait is not None or isinstance(reference, TraitReference):
        return f"trait {reference.trait}"
    return f"column {reference.column} of {reference.of}" if reference.of else f"column {reference.column}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    return f'"{value}"' if isinstance(value, str) else str(value)
