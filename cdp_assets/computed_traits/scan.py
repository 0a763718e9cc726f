"""The messages as the event traits of a space look at them: each message once, each thing about it once.

What belongs here: which messages a trait looks at (event, filters, window), and which of their values, as its type. What does
not: what becomes of the values (``compile.py``).

However many traits there are, the table of messages is read once, and a property or a filter that several of them name is
evaluated once. A trait's *look* is its event, filters and window; traits with the same look share a column.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import PROFILE
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.audiences import EventFilter, Operator
from cdp_assets.space.models.traits import Session, Trait
from cdp_assets.space.operators import compare, compares_numbers, event_value, finite, instant_of, joined_by, number_of
from cdp_assets.space.space import Space
from cdp_assets.space.trait_rules import TraitKind, ValueType
from cdp_assets.unified_profiles.tables import placed_events_as_of
from resources.warehouse import Warehouse, timestamp_literal
from resources.warehouse import functions as fn

OWNER = "owner"
"""Whose value a row is about: a profile's canonical id, or an account's group id."""
NUMBER = "number"
"""The owner as a number of this build, which engines group by at a fraction of what texts cost."""

PLACE = "place"
"""The message's place in received order, which decides between messages of one instant."""

COUNTS_VALUES = frozenset({TraitKind.most_frequent, TraitKind.unique_list, TraitKind.unique_list_count})
"""Kinds that look at how often each value occurs."""

_LARGEST_AMOUNT = 1e18

FROM_ZERO = frozenset({TraitKind.event_counter, TraitKind.unique_list_count})
"""Kinds whose value is 0 for an owner that performed the event, though not within the look."""


def of_timestamp(trait: Trait) -> bool:
    """Whether the trait's value is the time of the event, not a property."""
    return trait.property == "timestamp" and trait.kind in (TraitKind.first, TraitKind.last)


def at_an_end(trait: Trait) -> bool:
    """Whether the trait's value is a property of its first or last event."""
    return trait.kind in (TraitKind.first, TraitKind.last) and not of_timestamp(trait)


@dataclass(frozen=True)
class Needs:
    """What event traits need of the messages, each thing once and in a fixed order."""

    traits: tuple[Trait, ...]

    @cached_property
    def events(self) -> list[str]:
        return sorted({trait.event for trait in self.traits if trait.event})

    @cached_property
    def looks(self) -> dict[str, Trait]:
        """A trait for each look, by the column that says whether a message is one of its."""
        found: dict[str, Trait] = {}
        for trait in self.traits:
            found.setdefault(_look(trait), trait)
        return {f"looks_{i}": trait for i, trait in enumerate(found.values())}

    @cached_property
    def values(self) -> dict[tuple[str, ValueType], str]:
        """The column of each property and type."""
        found = sorted({key for trait in self.traits if (key := _value(trait))})
        return {key: f"value_{i}" for i, key in enumerate(found)}

    @cached_property
    def texts(self) -> dict[str, tuple[str, Callable[[ir.Table], ir.StringValue]]]:
        """The column of each text that a value or a filter needs, and how it is read from the messages."""
        names = [*(name for name, _ in self.values), *self.amounts]
        wanted = [_property(name) for name in names]
        wanted += [item for trait in self.traits for item in _filters(trait)]
        found = {_place(item): partial(event_value, wanted=item) for item in wanted}
        return {place: (f"text_{i}", found[place]) for i, place in enumerate(sorted(found))}

    def text_of(self, name: str) -> str:
        return self.filtered(_property(name))

    @cached_property
    def numbers(self) -> dict[str, tuple[str, str]]:
        """The column of each text that is read as a number, and that number's: a text becomes one once, whatever is done with it."""
        wanted = [_property(name) for name in (*self.amounts, *(name for name, kind in self.values if kind == "number"))]
        wanted += [item for trait in self.traits for item in _filters(trait) if compares_numbers(item)]
        return {place: (self.texts[place][0], f"number_{i}") for i, place in enumerate(sorted({_place(item) for item in wanted}))}

    def number_of(self, name: str) -> str:
        return self.numbers[_place(_property(name))][1]

    def filtered(self, wanted: EventFilter) -> str:
        return self.texts[_place(wanted)][0]

    @cached_property
    def _look_columns(self) -> dict[str, str]:
        return {_look(trait): column for column, trait in self.looks.items()}

    def look_of(self, trait: Trait) -> str:
        return self._look_columns[_look(trait)]

    @cached_property
    def amounts(self) -> dict[str, str]:
        """The column of each property that is summed."""
        names = sorted({trait.property for trait in self.traits if trait.property and trait.function in ("sum", "avg")})
        return {name: f"amount_{i}" for i, name in enumerate(names)}

    def value_of(self, trait: Trait) -> str | None:
        """The column of the trait's values; None for one that looks at no property."""
        key = _value(trait)
        return self.values[key] if key else None

    @property
    def in_order(self) -> bool:
        """Whether the order of a history's messages matters."""
        return any(at_an_end(trait) for trait in self.traits)

    @cached_property
    def performed(self) -> dict[str, str]:
        """The column that says whether a message is of an event, for each event of a trait that counts from zero."""
        events = sorted({trait.event for trait in self.traits if trait.event and trait.kind in FROM_ZERO})
        return {event: f"performed_{i}" for i, event in enumerate(events)}


def _look(trait: Trait) -> str:
    # As text: the values 1 and true of a filter are equal to Python and not to a trait.
    return trait.model_dump_json(include={"event", "where", "within", "session"})


def _filters(trait: Trait) -> tuple[EventFilter, ...]:
    if trait.where is None:
        return ()
    return trait.where.all if trait.where.all is not None else trait.where.any or ()


def _property(name: str) -> EventFilter:
    return EventFilter(property=name, operator=Operator.exists)


def _place(wanted: EventFilter) -> str:
    return f"context {wanted.context}" if wanted.context is not None else f"property {wanted.property}"


def _value(trait: Trait) -> tuple[str, ValueType] | None:
    if trait.property is None or of_timestamp(trait) or trait.function in ("sum", "avg"):
        return None
    texts = trait.kind in (TraitKind.unique_list, TraitKind.unique_list_count)
    return trait.property, "string" if texts else trait.value_type


def numbered(ids: ir.Table, column: str) -> ir.Table:
    """(owner, number) of the distinct values of a column."""
    distinct = ids.select(**{OWNER: ids[column]}).distinct()
    return distinct.mutate(**{NUMBER: ibis.row_number().over(ibis.window(order_by=OWNER)).cast("int64")})


def scan(warehouse: Warehouse, space: Space, needs: Needs, profiles: ir.Table, as_of: dt.datetime) -> ir.Table:
    """One row per message of any of the events, of the profile that sent it. ``profiles``: :func:`numbered`.

    Columns: ``number`` (of the profile), ``at``, ``place`` in received order if it may decide, a boolean ``looks_N`` per look, ``performed_N``
    per event that is counted from zero, ``amount_N`` per property that is summed, and ``value_N`` per property and type. Sessions are not told apart: see
    :func:`running_session`.
    """
    messages = warehouse.table(MESSAGES.ref)
    messages = messages.filter((messages.received_at < timestamp_literal(as_of)) & messages.event.isin(needs.events))
    # Documents are opened once, and stay behind: a join that carries them, or a filter that opens them again, costs more than
    # all the rest.
    texts = {column: text_of(messages) for column, text_of in needs.texts.values()}
    numbers = {number: fn.try_double(texts[text]) for text, number in needs.numbers.values()}
    opened = messages.select("message_id", "event", "timestamp", **texts, **numbers)
    people = placed_events_as_of(warehouse, space.graph, as_of).join(profiles, [(PROFILE, OWNER)])
    people = people.select("message_id", PLACE, NUMBER)
    messages = opened.join(people, "message_id")
    return messages.select(
        NUMBER,
        at=messages.timestamp,
        **({PLACE: messages.place} if needs.in_order else {}),
        **{column: _is_event(messages, event, needs) for event, column in needs.performed.items()},
        **{column: _exact(messages[needs.number_of(name)]) for name, column in needs.amounts.items()},
        **{column: _looks_at(messages, trait, needs, as_of) for column, trait in needs.looks.items()},
        **{column: _value_in(messages, name, kind, needs) for (name, kind), column in needs.values.items()},
    )


def _value_in(messages: ir.Table, name: str, kind: ValueType, needs: Needs) -> ir.Value:
    return finite(messages[needs.number_of(name)]) if kind == "number" else typed(messages[needs.text_of(name)], kind)


def _is_event(messages: ir.Table, event: str, needs: Needs) -> ir.BooleanValue:
    return messages.event == event if len(needs.events) > 1 else ibis.literal(True)


def _exact(number: ir.FloatingValue) -> ir.DecimalValue:
    """An amount as a decimal of nine places, so that sums are the same in any order; beyond 1e18, or not a number, it is no amount."""
    amount = ibis.ifelse(number.between(-_LARGEST_AMOUNT, _LARGEST_AMOUNT), number, ibis.null("float64"))
    return amount.cast("decimal(38, 9)")


def _looks_at(messages: ir.Table, trait: Trait, needs: Needs, as_of: dt.datetime) -> ir.BooleanValue:
    verdicts = [compare(_compared(messages, wanted, needs), wanted, as_of) for wanted in _filters(trait)]
    match: Literal["all", "any"] = "any" if trait.where is not None and trait.where.any is not None else "all"
    verdict = joined_by(match, verdicts)
    if len(needs.events) > 1:
        verdict = _is_event(messages, trait.event or "", needs) & verdict
    if trait.within:
        edges = timestamp_literal(as_of - trait.within.delta), timestamp_literal(as_of)
        verdict = verdict & messages.timestamp.between(*edges)
    return verdict


def _compared(messages: ir.Table, wanted: EventFilter, needs: Needs) -> ir.Value:
    if compares_numbers(wanted):
        return finite(messages[needs.numbers[_place(wanted)][1]])
    return messages[needs.filtered(wanted)]


def typed(text: ir.StringValue, kind: ValueType) -> ir.Value:
    """A text as a value of the type, NULL where it is none: a finite number, ``true`` or ``false``, an ISO-8601 instant as text in UTC."""
    if kind == "number":
        return number_of(text)
    if kind == "boolean":
        lower = text.lower()
        return ibis.ifelse(lower.isin(["true", "false"]), lower, ibis.null("string"))
    if kind == "timestamp":
        return fn.iso_text(instant_of(text))
    return text


def of_accounts(scanned: ir.Table, memberships: ir.Table) -> ir.Table:
    """The scan with each message once for every account of its profile. ``memberships``: (member, account), numbers, distinct."""
    joined = scanned.join(memberships, scanned[NUMBER] == memberships["member"])
    return joined.drop(NUMBER, "member").rename(**{NUMBER: "account"})


def running_session(rows: ir.Table, look: str, session: Session, as_of: dt.datetime) -> ir.Table:
    """The rows of the scan that one look sees, of each owner's running session.

    A session goes on as long as each event follows the one before within the gap, inclusive; it is over when the gap has passed
    since its last event at ``as_of``. Events after ``as_of`` belong to none.
    """
    seen = rows.filter(rows[look] & (rows["at"] <= timestamp_literal(as_of)))
    moments = seen.select(NUMBER, "at")
    lasts = moments.group_by(NUMBER).aggregate(newest=moments["at"].max())
    alive = lasts.filter(lasts["newest"] >= timestamp_literal(as_of - session.delta))
    moments = moments.semi_join(alive, NUMBER)
    before = moments["at"].lag().over(ibis.window(group_by=NUMBER, order_by="at"))
    moments = moments.mutate(before=before)
    pause = moments["at"].delta(moments["before"], unit="microsecond")
    opens = moments["before"].isnull() | (pause > session.delta // dt.timedelta(microseconds=1))
    starts = moments.group_by(whose=moments[NUMBER]).aggregate(start=moments["at"].max(where=opens))
    joined = seen.join(starts, seen[NUMBER] == starts["whose"])
    return joined.filter(joined["at"] >= joined["start"]).select(*rows.columns)
