"""An audience's conditions in plain words, as a tree drawn with box characters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.conditions import filters_of
from cdp_assets.space.documents import Place
from cdp_assets.space.models.audiences import (
    Audience,
    AudienceCondition,
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
    TraitCondition,
    TraitReference,
)
from cdp_assets.space.models.common import Between, Span
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
    """A condition in words, where it stands in the file, and what stands below it. () is the whole audience; None: no condition."""

    text: str
    place: Place | None
    below: tuple[Line, ...] = ()


def condition_tree(space: Space, audience: Audience) -> str:
    """The conditions of an audience as a box-drawing tree, one line per condition and filter."""
    return "\n".join(drawn(condition_lines(space, audience), lambda line: line.text))


def condition_lines(space: Space, audience: Audience) -> Line:
    """The conditions of an audience in words. The filters of one condition, or its nested ones, joined by any, have a line above them."""
    groups = []
    for index, group in enumerate(audience.groups):
        place: Place = ("groups", index)
        conditions = tuple(
            _condition(space.graph, condition, None, (*place, "conditions", n)) for n, condition in enumerate(group.conditions)
        )
        groups.append(Line(f"group {index + 1}: {_joined(group.match)}", place, conditions))
    target = f"an audience of {audience.target_entity}\n" if audience.target_entity else ""
    if len(groups) == 1:
        return Line(target + _joined(audience.groups[0].match), (), groups[0].below)
    return Line(target + _joined(audience.match).replace("conditions", "groups"), (), tuple(groups))


class Tree(Protocol):
    """Anything with more of its kind below it."""

    @property
    def below(self) -> Sequence[Self]: ...


T = TypeVar("T", bound=Tree)


def drawn(root: T, text: Callable[[T], str]) -> Iterator[str]:
    """The lines of a tree with box characters before them; ``text`` is what is written of each."""

    def walk(lines: Sequence[T], indent: str) -> Iterator[str]:
        for index, line in enumerate(lines):
            last = index == len(lines) - 1
            yield f"{indent}{'└─ ' if last else '├─ '}{text(line)}"
            yield from walk(line.below, indent + ("   " if last else "│  "))

    yield text(root)
    yield from walk(root.below, "")


def lines_of(root: Line) -> Iterator[Line]:
    """All lines of a tree, top to bottom."""
    yield root
    for line in root.below:
        yield from lines_of(line)


def trail_text(root: Line, place: Place) -> str:
    """The condition at a place, with those that it stands below."""
    trail = [line for line in lines_of(root) if line.place and len(line.place) > 2 and place[: len(line.place)] == line.place]
    return " › ".join(line.text.removesuffix(" where") for line in trail)


def _joined(match: str) -> str:
    return "all of these conditions" if match == "all" else "any of these conditions"


def _condition(graph: DataGraph, condition: Condition, parent: str | None, place: Place) -> Line:
    match condition:
        case EntityCondition():
            return _entity(graph, condition, parent, place)
        case TraitCondition():
            words = f"trait {condition.trait} {_comparison(condition)}"
            return Line(words if condition.with_trait else f"not: {words}", place)
        case EventCondition():
            verb = "did not perform" if condition.without_event else "performed"
            often = "" if condition.without_event else f" {_times(condition)}"
            return Line(f"{verb} {condition.event}{often}{_window(condition)}", place, _filters(condition.where, place))
        case AudienceCondition():
            return Line(f"{'is' if condition.part_of else 'is not'} in audience {condition.audience}", place)


def _entity(graph: DataGraph, condition: EntityCondition, parent: str | None, place: Place) -> Line:
    path = f"{parent}:{condition.relationship}" if parent else condition.relationship
    name = next((node.relationship.name for node in graph.nodes() if node.path == path), condition.relationship)
    called = name if name == condition.relationship else f"{name} ({condition.relationship})"
    below = list(_filters(condition.where, place))
    if condition.nested:
        nested = tuple(
            _condition(graph, child, path, (*place, "nested", "conditions", n))
            for n, child in enumerate(condition.nested.conditions)
        )
        several = len(nested) > 1 and condition.nested.match == "any"
        below += [Line(_joined("any"), None, nested)] if several else nested
    text = f"without {called}" if condition.without_entity else f"with {_number(condition)} {called}"
    return Line(f"{text} where" if below else text, place, tuple(below))


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


def _filters(filters: ColumnFilters | ReferringEventFilters | None, place: Place) -> tuple[Line, ...]:
    joined = "any" if filters is not None and filters.any is not None else "all"
    lines = tuple(
        Line(f"{_subject(one)} {_comparison(one)}", (*place, "where", joined, n)) for n, one in enumerate(filters_of(filters))
    )
    return (Line(_joined("any"), None, lines),) if joined == "any" and len(lines) > 1 else lines


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
