"""An audience's conditions as query text: what :func:`.conditions.compile_query` reads back as the same conditions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from cdp_assets.space.conditions import filters_of
from cdp_assets.space.models.audiences import (
    DATES,
    ORDERS,
    SPANS,
    UNARY,
    Audience,
    AudienceCondition,
    ColumnFilter,
    ColumnFilters,
    Comparison,
    Condition,
    ConditionGroup,
    EntityCondition,
    EventCondition,
    Operator,
    Quantified,
    ReferringEventFilter,
    ReferringEventFilters,
    TraitCondition,
)
from cdp_assets.space.models.common import Between, Span
from cdp_assets.space.query.syntax import QueryError

_SIGNS = {
    Operator.equals: "=",
    Operator.differs: "!=",
    Operator.less_than: "<",
    Operator.at_most: "<=",
    Operator.greater_than: ">",
    Operator.at_least: ">=",
}
_COUNTS = {"at_least": ">=", "exactly": "=", "at_most": "<="}


def print_query(audience: Audience) -> str:
    """The conditions as text. Raises QueryError (without a place) for what the language cannot say; the targets of an
    audience of entities are no part of it."""
    if len(audience.groups) == 1:
        return _group(audience.groups[0])
    return _joined(audience.match, [f"({_group(group)})" for group in audience.groups])


def _joined(match: str, parts: Sequence[str]) -> str:
    return (" AND " if match == "all" else " OR ").join(parts)


def _group(group: ConditionGroup) -> str:
    return _joined(group.match, [_condition(condition) for condition in group.conditions])


def _condition(condition: Condition) -> str:
    match condition:
        case TraitCondition():
            text = f"trait({_text(condition.trait)}){_comparison(condition, None, ())}"
            return text if condition.with_trait is not None else f"NOT {text}"
        case EventCondition():
            where = _event_filters(condition.where)
            window = _window(condition.within or condition.between)
            return _counted(condition, f"event({_text(condition.event)}){where}{window}", condition.without_event is not None)
        case AudienceCondition():
            text = f"trait({_text(condition.audience)}) = true"
            return text if condition.part_of is not None else f"NOT {text}"
        case EntityCondition():
            return _entity(condition, ())


def _entity(condition: EntityCondition, above: tuple[str, ...]) -> str:
    branch = (*above, condition.relationship)
    parts = [_filters(condition.where, branch)] if filters_of(condition.where) else []
    if condition.nested:
        nested = [_entity(child, branch) for child in condition.nested.conditions]
        several = condition.nested.match == "any" and len(nested) > 1
        parts.append(f"({_joined('any', nested)})" if several and parts else _joined(condition.nested.match, nested))
        any_first = condition.where is not None and condition.where.any is not None and len(filters_of(condition.where)) > 1
        parts = [f"({part})" if index == 0 and any_first and len(parts) > 1 else part for index, part in enumerate(parts)]
    where = f".where({_joined('all', parts)})" if parts else ""
    return _counted(condition, f"entity({_text(condition.relationship)}){where}", condition.without_entity is not None)


def _counted(condition: Quantified, text: str, without: bool) -> str:
    quantifier, number = condition.quantifier
    return f"NOT {text}.count() >= 1" if without else f"{text}.count() {_COUNTS[quantifier]} {number}"


def _event_filters(filters: ReferringEventFilters | None) -> str:
    return f".where({_filters(filters, ())})" if filters_of(filters) else ""


def _filters(filters: ColumnFilters | ReferringEventFilters | None, branch: tuple[str, ...]) -> str:
    match = "any" if filters is not None and filters.any is not None else "all"
    return _joined(match, [_filter(wanted, branch) for wanted in filters_of(filters)])


def _filter(wanted: ColumnFilter | ReferringEventFilter, branch: tuple[str, ...]) -> str:
    reference = None
    if isinstance(wanted, ColumnFilter):
        subject = f"property({_text(wanted.column)})"
        if wanted.reference is not None:
            column = wanted.reference.column
            reference = f"trait({_text(wanted.reference.trait or '')})" if column is None else _column(column, wanted, branch)
    else:
        subject = (
            f"property({_text(wanted.property)})" if wanted.property is not None else f"context({_text(wanted.context or '')})"
        )
        reference = f"trait({_text(wanted.reference.trait)})" if wanted.reference is not None else None
    return subject + _comparison(wanted, reference, branch)


def _column(column: str, wanted: ColumnFilter, branch: tuple[str, ...]) -> str:
    of = wanted.reference.of if wanted.reference is not None else None
    if of is None or of == branch[-1]:
        return f"property({_text(column)})"
    if branch[-2:-1] == (of,):
        return f"property(parent: {_text(column)})"
    raise QueryError(
        f"column {wanted.column} is compared with a column of {of}, and the query language reaches the parent only",
        "keep this audience as conditions",
    )


def _comparison(wanted: Comparison, reference: str | None, branch: tuple[str, ...]) -> str:
    operator = wanted.operator
    if operator in UNARY:
        return f".{operator}()"
    if operator in SPANS:
        return f".{operator}({wanted.amount} {wanted.unit})"
    if reference is None:
        values = wanted.value if isinstance(wanted.value, tuple) else (wanted.value,)
        if not branch and operator not in DATES | ORDERS and any(isinstance(value, dt.date) for value in values):
            raise QueryError(
                f"{operator} with a date, which the query language can only compare as a text there",
                "use at_least and at_most, or keep this audience as conditions",
            )
        reference = ", ".join(_value(value) for value in values)
    return f" {_SIGNS[operator]} {reference}" if operator in _SIGNS else f".{operator}({reference})"


def _window(window: Span | Between | None) -> str:
    match window:
        case Span(last=last, unit=unit):
            return f".within({last} {unit})"
        case Between(from_=far, to=near, unit=unit):
            return f".between({near} {unit}, {far} {unit})"
    return ""


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime):
        return _text((value if value.tzinfo else value.replace(tzinfo=dt.UTC)).isoformat())
    if isinstance(value, dt.date):
        return _text(value.isoformat())
    return _text(value) if isinstance(value, str) else repr(value)


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
