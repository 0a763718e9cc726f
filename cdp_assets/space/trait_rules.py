"""What a trait's definition may say, kind by kind. The fields are in :mod:`.models`; what the kinds mean is in the room of traits."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from cdp_assets.space.models.traits import Trait

ValueType = Literal["number", "string", "boolean", "timestamp", "list"]
SHORTEST_SESSION: Final = dt.timedelta(minutes=30)
LONGEST_SESSION: Final = dt.timedelta(days=90)


class TraitKind(StrEnum):
    event_counter = "event_counter"
    aggregation = "aggregation"
    first = "first"
    last = "last"
    most_frequent = "most_frequent"
    unique_list = "unique_list"
    unique_list_count = "unique_list_count"
    sql = "sql"


_ONE_VALUE: Final[tuple[ValueType, ...]] = ("string", "number", "boolean", "timestamp")
# The first is the default.
_TYPES: Final[dict[TraitKind, tuple[ValueType, ...]]] = {
    TraitKind.event_counter: ("number",),
    TraitKind.aggregation: ("number",),
    TraitKind.first: _ONE_VALUE,
    TraitKind.last: _ONE_VALUE,
    TraitKind.most_frequent: _ONE_VALUE,
    TraitKind.unique_list: ("list",),
    TraitKind.unique_list_count: ("number",),
    TraitKind.sql: _ONE_VALUE,
}
# Fields that some kinds do not take, by what they are called in the file.
_OF_EVENTS: Final = (
    "event",
    "property",
    "where",
    "within",
    "session",
    "level",
    "user_trait",
    "members",
    "function",
    "min_frequency",
)
_OF_SQL: Final = ("query", "identifier", "columns")


def types_of(trait: Trait) -> tuple[ValueType, ...]:
    """The types that the trait's value may have, the default first."""
    if trait.property == "timestamp" and trait.kind in (TraitKind.first, TraitKind.last):
        return ("timestamp",)
    if trait.kind is TraitKind.aggregation and trait.function in ("min", "max"):
        return ("number", "string")
    return _TYPES[trait.kind]


class Complaint(NamedTuple):
    """What is wrong with a definition: the field whose line is at fault, the cause, and what to do."""

    field: str
    cause: str
    remedy: str


def complaint(trait: Trait) -> Complaint | None:
    """What is wrong with a definition, or None."""
    found = _of_sql(trait) if trait.kind is TraitKind.sql else _of_events(trait)
    if found or trait.type is None or trait.type in types_of(trait):
        return found
    kinds = " or ".join(types_of(trait))
    return Complaint("type", f"this trait of kind {trait.kind} cannot be a {trait.type}", f"write type: {kinds}, or leave it out")


def _of_sql(trait: Trait) -> Complaint | None:
    given = trait.model_fields_set
    for name in ("identifier", "query"):
        if not getattr(trait, name):
            return Complaint("kind", f"kind sql needs '{name}'", "add it")
    allowed = ("members",) if trait.identifier == "group_id" else ()
    stray = [name for name in _OF_EVENTS if name in given and name not in allowed]
    if stray:
        return Complaint(stray[0], f"kind sql takes no '{stray[0]}'", "remove it; the query says which rows count")
    if trait.columns is not None and "type" in given:
        return Complaint("type", "'type' does not go together with 'columns'", "give each column its type in 'columns'")
    if trait.columns is not None and not trait.columns:
        return Complaint(
            "columns", "'columns' is empty", "name at least one column, or leave it out for the column of the trait's key"
        )
    return None


def _of_events(trait: Trait) -> Complaint | None:
    given = trait.model_fields_set
    stray = [name for name in _OF_SQL if name in given]
    if stray:
        return Complaint(stray[0], f"kind {trait.kind} takes no '{stray[0]}'", "remove it, or write kind: sql")
    if "members" in given and not trait.of_accounts:
        return Complaint("members", "'members' goes with level account", "add level: account, or remove it")
    if "min_frequency" in given and trait.kind is not TraitKind.most_frequent:
        return Complaint("min_frequency", "'min_frequency' goes with kind most_frequent", "remove it")
    if trait.user_trait is not None:
        return _of_user_trait(trait)
    if not trait.event:
        return Complaint("kind", f"kind {trait.kind} needs an 'event'", "name the event that it looks at")
    if trait.kind is TraitKind.event_counter and trait.property:
        return Complaint("property", "kind event_counter takes no 'property'", "remove it, or filter by it in 'where'")
    if trait.kind is not TraitKind.event_counter and not trait.property:
        return Complaint("kind", f"kind {trait.kind} needs a 'property'", "name the property whose values it looks at")
    if (trait.kind is TraitKind.aggregation) != (trait.function is not None):
        field = "kind" if trait.function is None else "function"
        return Complaint(
            field, "'function' goes with kind aggregation, and is needed there", "write function: sum, avg, min or max"
        )
    if trait.within and trait.session:
        return Complaint("session", "'within' does not go together with 'session'", "keep one of the two windows")
    return None


def _of_user_trait(trait: Trait) -> Complaint | None:
    if trait.kind is not TraitKind.most_frequent or trait.level != "account":
        cause = "'user_trait' goes with kind most_frequent and level account"
        return Complaint("user_trait", cause, "name an event and a property instead")
    stray = [name for name in ("event", "property", "where", "within", "session") if name in trait.model_fields_set]
    if stray:
        return Complaint(stray[0], f"'{stray[0]}' does not go together with 'user_trait'", "keep one of the two")
    return None
