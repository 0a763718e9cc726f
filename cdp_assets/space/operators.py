"""Filter operators as Ibis expressions, with Segment's null and date semantics.

What belongs here: what ``equals``, ``within_next`` and the rest mean for a column of each type. Traits, properties of events
and columns of entities all compare through :func:`compare`. What does not: where the column comes from (rooms).

Rules that hold everywhere
- The result is never NULL, so that NOT means NOT. A null meets no operator but ``absent`` and ``omits`` (= NOT contains);
  ``differs`` and ``none_of`` are false on null.
- Relative dates speak about ``as_of``, and their edges are inclusive.
- A date is its midnight in UTC.
- A column of an entity takes the operators of its type (:data:`OPERATORS`) and constants of that type.
- Traits and properties have no type but their operand's: their text compares with numbers where it is one, and with instants
  where it is an ISO-8601 instant *with* its zone; other text does not participate (no operator holds). Two of them compare as
  numbers where both are, else as instants where both are, else, for equality only, as texts.
- A column or trait that something is compared with (a reference) is of the same type, and null meets nothing.
- Words of the configuration without a zone are UTC.
"""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

import ibis
import ibis.expr.types as ir

from cdp_assets.space.models.audiences import (
    DATES,
    LISTS,
    ORDERS,
    SPANS,
    TEXTS,
    UNARY,
    ColumnFilter,
    Comparison,
    EventFilter,
    EventFilters,
    Operator,
    TraitCondition,
    kind_of,
)
from resources.warehouse import functions as fn
from resources.warehouse import timestamp_literal

Family = Literal["number", "text", "boolean", "date", "timestamp", "time", "other"]

_EQUAL = frozenset({Operator.equals, Operator.differs})
# What a column of each type takes. Nothing is known of the inside of semi-structured values.
OPERATORS: dict[Family, frozenset[Operator]] = {
    "number": _EQUAL | ORDERS | LISTS | UNARY,
    "text": _EQUAL | TEXTS | LISTS | UNARY,
    "boolean": _EQUAL | UNARY,
    "date": _EQUAL | ORDERS | DATES | SPANS | UNARY,
    "timestamp": _EQUAL | ORDERS | DATES | SPANS | UNARY,
    "time": _EQUAL | ORDERS | UNARY,
    "other": UNARY,
}
# The same for comparisons with a reference.
REFERENCE_OPERATORS: dict[Family, frozenset[Operator]] = {
    "number": _EQUAL | ORDERS,
    "text": _EQUAL | TEXTS,
    "boolean": frozenset(),
    "date": _EQUAL | ORDERS,
    "timestamp": _EQUAL | ORDERS,
    "time": _EQUAL | ORDERS,
    "other": frozenset(),
}

# An instant with its zone. Character classes only: backslashes are written differently in each dialect's literals.
_ISO_INSTANT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?(Z|[+-][0-9]{2}:[0-9]{2})$"
# Engines read 'nan' and 'infinity' as numbers and order them above all others; nobody means those.
_LARGEST = 1e300

_ORDER: dict[Operator, Callable[[Any, Any], Any]] = {
    Operator.equals: operator.eq,
    Operator.differs: operator.ne,
    Operator.less_than: operator.lt,
    Operator.at_most: operator.le,
    Operator.greater_than: operator.gt,
    Operator.at_least: operator.ge,
}
_DATES: dict[Operator, Callable[[Any, Any], Any]] = {Operator.before_date: operator.lt, Operator.after_date: operator.gt}


class ConditionError(Exception):
    """A condition that cannot be computed: it names the column, operator, entity or audience, never values."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


def compare(column: ir.Value, comparison: Comparison, as_of: dt.datetime, other: ir.Value | None = None) -> ir.BooleanValue:
    """Whether ``column`` meets ``comparison`` at ``as_of`` (aware); never NULL.

    ``other``: what the comparison's reference names, in the same table. Raises :class:`ConditionError` for types that do not fit.
    """
    wanted = comparison.operator
    name = _name(column, comparison)
    if isinstance(comparison, ColumnFilter):
        _check_type(family(column), comparison, name)
    if wanted is Operator.exists:
        return column.notnull()
    if wanted is Operator.absent:
        return column.isnull()
    if wanted is Operator.omits:
        return ~compare(column, comparison.model_copy(update={"operator": Operator.contains}), as_of, other)
    if other is not None:
        return _holds_of_both(column, other, comparison, name).fill_null(False)
    return _holds(column, comparison, as_of, name)


def compares_numbers(comparison: Comparison) -> bool:
    """Whether a text without a type is read as a number, and as nothing else, to be compared."""
    values = comparison.value if isinstance(comparison.value, tuple) else (comparison.value,)
    known = comparison.operator in _ORDER or comparison.operator in LISTS
    return known and bool(values) and all(value is not None and kind_of(value) == "number" for value in values)


def _check_type(kind: Family, comparison: Comparison, name: str) -> None:
    referring = getattr(comparison, "reference", None) is not None
    known = (REFERENCE_OPERATORS if referring else OPERATORS)[kind]
    if comparison.operator not in known:
        what = f"a {kind} column compared with a reference" if referring else f"a {kind} column"
        takes = ", ".join(one for one in Operator if one in known)
        raise ConditionError(
            f"{name}: operator {comparison.operator} does not fit {what}",
            f"use one of {takes}, or give the column another type in a view"
            if known
            else "give the column another type in a view",
        )


def negates(comparison: Comparison) -> bool:
    """Whether the operator is true on null: such a comparison on rows that may be missing is the negation of :func:`positive`."""
    return comparison.operator in (Operator.absent, Operator.omits)


def positive(comparison: Comparison) -> Comparison:
    """``exists`` for ``absent``, ``contains`` for ``omits``, else the comparison itself."""
    twin = {Operator.absent: Operator.exists, Operator.omits: Operator.contains}.get(comparison.operator)
    return comparison.model_copy(update={"operator": twin}) if twin else comparison


def _holds(column: ir.Value, comparison: Comparison, as_of: dt.datetime, name: str) -> ir.BooleanValue:
    wanted, value = comparison.operator, comparison.value
    if wanted in SPANS:
        return _within(_instants(column, name, wanted), comparison, as_of).fill_null(False)
    if wanted in _DATES:
        return _DATES[wanted](_instants(column, name, wanted), _instant_literal(value, name, wanted)).fill_null(False)
    if wanted in TEXTS:
        return _matches(column, comparison, name).fill_null(False)
    if wanted in _ORDER:
        left, (right,) = _sides(column, (value,), name, wanted, typed=isinstance(comparison, ColumnFilter))
        return _ORDER[wanted](left, right).fill_null(False)
    if wanted in (Operator.one_of, Operator.none_of):
        if not isinstance(value, tuple):
            raise ConditionError(f"{name}: {wanted} needs a list of values")
        left, rights = _sides(column, value, name, wanted, typed=isinstance(comparison, ColumnFilter))
        listed = left.isin(rights) if rights else left != left
        return (listed if wanted is Operator.one_of else ~listed).fill_null(False)
    raise ConditionError(f"{name}: operator {wanted} is unknown")


def _name(column: ir.Value, comparison: Comparison) -> str:
    match comparison:
        case ColumnFilter():
            return f"column {comparison.column}"
        case EventFilter(property=None):
            return f"context {comparison.context}"
        case EventFilter():
            return f"property {comparison.property}"
        case TraitCondition():
            return f"trait {comparison.trait}"
    return f"column {column.get_name()}"


def family(column: ir.Value) -> Family:
    """The type family that decides which operators a column takes."""
    dtype = column.type()
    if dtype.is_numeric() and not dtype.is_boolean():
        return "number"
    if dtype.is_string():
        return "text"
    if dtype.is_boolean():
        return "boolean"
    if dtype.is_date():
        return "date"
    if dtype.is_timestamp():
        return "timestamp"
    if dtype.is_time():
        return "time"
    return "other"


def number_of(text: ir.StringValue) -> ir.FloatingValue:
    """Text as a finite float64, else NULL."""
    return finite(fn.try_double(text))


def finite(number: ir.FloatingValue) -> ir.FloatingValue:
    """A float64, NULL where it is infinite or not a number."""
    return ibis.ifelse(number.between(-_LARGEST, _LARGEST), number, ibis.null("float64"))


def instant_of(text: ir.StringValue) -> ir.TimestampValue:
    """Text as naive UTC timestamp where it is an ISO-8601 instant with a zone, else NULL."""
    return fn.try_timestamp(ibis.ifelse(text.re_search(_ISO_INSTANT), text, ibis.null("string")))


def _mismatch(name: str, wanted: Operator, kind: str, operand: str = "") -> ConditionError:
    return ConditionError(
        f"{name}: operator {wanted} does not fit a {kind} column{operand}",
        "write a value of the column's type, or give the column another type in a view",
    )


def _sides(
    column: ir.Value, values: tuple[Any, ...], name: str, wanted: Operator, *, typed: bool
) -> tuple[ir.Value, list[ir.Scalar]]:
    """The column and the operands in one comparable type, decided by the operands where the column is text without a type."""
    kinds: set[str] = {kind_of(value) for value in values}
    if len(kinds) > 1:
        raise ConditionError(f"{name}: the values of {wanted} have different types ({', '.join(sorted(kinds))})")
    kind, (operand,) = family(column), kinds or {"text"}
    if kind in ("date", "timestamp") and operand in ("text", "instant"):
        return _instants(column, name, wanted), [_instant_literal(value, name, wanted) for value in values]
    if kind == "time" and operand == "text":
        return column, [_time_literal(value, name, wanted) for value in values]
    untyped = kind == "text" and not typed
    if untyped and (operand == "instant" or (operand == "text" and wanted in ORDERS)):
        return instant_of(column), [_instant_literal(value, name, wanted) for value in values]
    if operand == "number" and (kind == "number" or untyped):
        return (number_of(column) if untyped else column), [ibis.literal(value) for value in values]
    if operand == "boolean" and untyped:
        return column.lower(), [ibis.literal(str(value).lower()) for value in values]
    if (operand, kind) in (("boolean", "boolean"), ("text", "text")):
        return column, [ibis.literal(value) for value in values]
    raise _mismatch(name, wanted, kind, f" and a{'n' if operand == 'instant' else ''} {operand} value")


def _holds_of_both(column: ir.Value, other: ir.Value, comparison: Comparison, name: str) -> ir.BooleanValue:
    """A comparison with a reference; NULL where either side is."""
    wanted = comparison.operator
    left, right = family(column), family(other)
    typed = isinstance(comparison, ColumnFilter)
    other_typed = right != "text" or (isinstance(comparison, ColumnFilter) and comparison.refers_to_column)
    if wanted in TEXTS:
        if (left, right) != ("text", "text"):
            raise _unlike(name, wanted, left, right)
        return _text_match(column, other, wanted)
    if not typed and not other_typed and left == "text":
        return _untyped(column, other, wanted)
    if not typed and left == "text":
        column, left = _read_as(column, right)
    elif not other_typed:
        other, right = _read_as(other, left)
    moments = ("date", "timestamp")
    if left in moments and right in moments:
        column, other = _instants(column, name, wanted), _instants(other, name, wanted)
    elif left != right or left in ("boolean", "other"):
        raise _unlike(name, wanted, left, right)
    return _ORDER[wanted](column, other)


def _untyped(column: ir.StringValue, other: ir.StringValue, wanted: Operator) -> ir.BooleanValue:
    apply = _ORDER[wanted]
    numbers, instants = (number_of(column), number_of(other)), (instant_of(column), instant_of(other))
    return ibis.cases(
        (numbers[0].notnull() & numbers[1].notnull(), apply(*numbers)),
        (instants[0].notnull() & instants[1].notnull(), apply(*instants)),
        else_=apply(column, other) if wanted in _EQUAL else ibis.literal(False),
    )


def _read_as(text: ir.StringValue, kind: Family) -> tuple[ir.Value, Family]:
    """Text without a type as what it is compared with, where text can be that."""
    if kind == "number":
        return number_of(text), kind
    return (instant_of(text), "timestamp") if kind in ("date", "timestamp") else (text, "text")


def _unlike(name: str, wanted: Operator, left: str, right: str) -> ConditionError:
    return ConditionError(
        f"{name}: operator {wanted} does not compare a {left} value with a {right} value",
        "compare values of one type: numbers, dates, times or texts",
    )


def _instants(column: ir.Value, name: str, wanted: Operator) -> ir.TimestampValue:
    kind = family(column)
    if kind == "text":
        return instant_of(column)
    if kind in ("date", "timestamp"):
        return column if column.type() == ibis.dtype("timestamp(6)") else column.cast("timestamp(6)")
    raise _mismatch(name, wanted, kind)


def _instant_literal(value: Any, name: str, wanted: Operator) -> ir.TimestampScalar:
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise ConditionError(
                f"{name}: the value of {wanted} is not an ISO-8601 date or instant", "write YYYY-MM-DD or an ISO-8601 instant"
            ) from None
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC)
    if isinstance(value, dt.datetime):
        return timestamp_literal(value if value.tzinfo else value.replace(tzinfo=dt.UTC))
    raise ConditionError(f"{name}: the value of {wanted} is not a date")


def _within(column: ir.TimestampValue, comparison: Comparison, as_of: dt.datetime) -> ir.BooleanValue:
    distance = dt.timedelta(**{comparison.unit.value: comparison.amount or 0})
    past, present, future = (timestamp_literal(instant) for instant in (as_of - distance, as_of, as_of + distance))
    match comparison.operator:
        case Operator.within_last:
            return (column >= past) & (column <= present)
        case Operator.within_next:
            return (column >= present) & (column <= future)
        case Operator.before_last:
            return column <= past
    return column >= future


def _time_literal(value: Any, name: str, wanted: Operator) -> ir.TimeScalar:
    try:
        return ibis.literal(dt.time.fromisoformat(value))
    except ValueError:
        raise ConditionError(f"{name}: the value of {wanted} is not a time of day", "write HH:MM:SS") from None


def _matches(column: ir.Value, comparison: Comparison, name: str) -> ir.BooleanValue:
    wanted, value = comparison.operator, comparison.value
    if family(column) != "text":
        raise _mismatch(name, wanted, family(column))
    pieces = value if isinstance(value, tuple) else (value,)
    # A null column has no substring; an empty list names none.
    return ibis.or_(*(_text_match(column, piece, wanted) for piece in pieces)) if pieces else ibis.literal(False)


def _text_match(column: ir.Value, piece: Any, wanted: Operator) -> ir.BooleanValue:
    if wanted is Operator.starts_with:
        return column.startswith(piece)
    if wanted is Operator.ends_with:
        return column.endswith(piece)
    return column.contains(piece)


def event_value(messages: ir.Table, wanted: EventFilter) -> ir.StringValue:
    """The property or context value that an event filter speaks about, as text. ``messages`` has the message columns."""
    if wanted.context is not None:
        return fn.json_text(messages.context, *path_keys(wanted.context))
    return property_text(messages, wanted.property or "")


def property_text(messages: ir.Table, path: str) -> ir.StringValue:
    """A property by dotted path, as text; ``page_name`` and ``screen_name`` are the name of a page or screen."""
    value = fn.json_text(messages.properties, *path_keys(path))
    return ibis.coalesce(value, messages["name"]) if path in ("page_name", "screen_name") else value


def event_filters(messages: ir.Table, filters: EventFilters | None, as_of: dt.datetime) -> ir.BooleanValue:
    """Whether a message passes the filters; never NULL. No filters: every message does."""
    if filters is None:
        return ibis.literal(True)
    joined = filters.all if filters.all is not None else filters.any or ()
    verdicts = [compare(event_value(messages, wanted), wanted, as_of) for wanted in joined]
    return joined_by("all" if filters.all is not None else "any", verdicts)


def joined_by(match: Literal["all", "any"], verdicts: Sequence[ir.BooleanValue]) -> ir.BooleanValue:
    """Verdicts joined by and (all) or or (any); an empty list filters nothing."""
    if not verdicts:
        return ibis.literal(True)
    return ibis.and_(*verdicts) if match == "all" else ibis.or_(*verdicts)


def path_keys(dotted: str) -> list[str]:
    """Keys of a dotted path into a JSON document: ``page.url``; ``\\.`` is a dot within a key."""
    return [part.replace("\0", ".") for part in dotted.replace("\\.", "\0").split(".")]
