"""The people that audiences are about, as of an instant: who there is, what they are known by, what they did.

What belongs here: reading them once for any number of audiences, and by numbers where that is faster. What does not: what a condition
says of them (``compile.py``), who a person is (``unified_profiles``).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import performed_as_of
from cdp_assets.data_graph.model import DataGraph, Node
from cdp_assets.linked_audiences.entities import PROFILE
from cdp_assets.raw_events.tables import any_suppressions
from cdp_assets.unified_profiles.tables import (
    canonical_ids_as_of,
    identifiers_as_of,
    profiles_as_of,
    suppressed_as_of,
    traits_as_of,
)
from resources.warehouse import Warehouse, timestamp_literal

NAME = "cdp_name"
"""The canonical id of who goes by a number."""
Edges = tuple[dt.datetime, dt.datetime]
"""The first and last instant of a window, both within it."""


class People:
    """The people as of an instant, read once for any number of audiences.

    ``keep`` turns an expression into what is read from then on: itself, or the table that it was staged into.
    ``events``: names of the events that the audiences speak about; ``filtered``: those of which more than when and by whom is asked,
    which are then without message ids (None: all). ``joined``: nodes below the profile whose rows are joined to it once, and the columns
    that are asked for (:func:`compile.joined_columns`). ``reach``: how far back before ``as_of`` events of a name are asked for; further without. ``suppressions``: whether anybody may be suppressed; without it the warehouse is asked.
    ``identifiers``: their types that joins ask for (None: all). ``counted``: events that are counted once for many conditions, with the
    windows in which they are (:func:`compile.counted_events`).
    ``numbered``: canonical ids are numbers of this object, which engines join and group by at a fraction of what texts cost, in all but
    ``ids``; :meth:`by_number` gives them to rows that have the ids themselves, and members know them as NAME.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        graph: DataGraph,
        as_of: dt.datetime,
        *,
        events: Iterable[str] = (),
        filtered: Iterable[str] | None = None,
        keep: Callable[[ir.Table], ir.Table] = lambda expression: expression,
        suppressions: bool | None = None,
        joined: Mapping[str, Collection[str]] | None = None,
        reach: Mapping[str, dt.timedelta] | None = None,
        identifiers: Iterable[str] | None = None,
        counted: Mapping[str, Sequence[Edges | None]] | None = None,
        numbered: bool = False,
    ) -> None:
        self._numbered = numbered
        self._types = None if identifiers is None else sorted(set(identifiers))
        self._reach = reach or {}
        self._joined, self._rows = joined or {}, dict[str, ir.Table]()
        self._counted, self._counts = counted or {}, dict[str, ir.Table]()
        self._source = (warehouse, graph, as_of)
        self._events = sorted(set(events))
        self._told = filtered is None
        self._filtered = self._events if filtered is None else sorted(set(filtered))
        self._keep = keep
        self._suppressions = suppressions

    def rows_of(self, node: Node, make: Callable[[], ir.Table]) -> ir.Table | None:
        """A node's rows with ``cdp_profile``, where many ask for them."""
        if node.path not in self._joined:
            return None
        if node.path not in self._rows:
            rows = make()
            columns = [name for name in rows.columns if name in self._joined[node.path]]
            self._rows[node.path] = self._keep(rows.select("cdp_profile", *columns))
        return self._rows[node.path]

    @cached_property
    def ids(self) -> ir.Table:
        """(segment_id, canonical_segment_id): who is part of whom."""
        return self._keep(canonical_ids_as_of(*self._source))

    @cached_property
    def names(self) -> ir.Table:
        """(canonical_segment_id: number, NAME: the id itself) of everybody, where people are numbered."""
        distinct = profiles_as_of(*self._source, self.ids).rename(**{NAME: PROFILE})
        return self._keep(distinct.mutate(**{PROFILE: ibis.row_number().over(ibis.window(order_by=NAME)).cast("int64")}))

    @cached_property
    def _ids(self) -> ir.Table:
        """``ids`` as everything else is read by."""
        return self._keep(self.by_number(self.ids)) if self._numbered else self.ids

    def by_number(self, rows: ir.Table) -> ir.Table:
        """Rows by canonical id, as they are compared with people: of those who are here, by their numbers, where these are numbered."""
        if not self._numbered:
            return rows
        numbers = self.names.rename(cdp_number=PROFILE)
        others = [name for name in rows.columns if name != PROFILE]
        joined = rows.join(numbers, rows[PROFILE] == numbers[NAME])
        return joined.select(*others, **{PROFILE: joined["cdp_number"]})

    @cached_property
    def profiles(self) -> ir.Table:
        """(canonical_segment_id): everybody who can be a member. Who is suppressed cannot, whatever an audience says.

        With NAME, where people are numbered.
        """
        profiles = self.names if self._numbered else profiles_as_of(*self._source, self.ids)
        barring = any_suppressions(self._source[0]) if self._suppressions is None else self._suppressions
        if barring:
            profiles = profiles.anti_join(suppressed_as_of(*self._source, self._ids), PROFILE)
        return profiles if self._numbered and not barring else self._keep(profiles)

    @cached_property
    def identifiers(self) -> ir.Table:
        """(canonical_segment_id, type, value)"""
        found = identifiers_as_of(*self._source, self._ids).select(PROFILE, "type", "value")
        return self._keep(found if self._types is None else found.filter(found["type"].isin(self._types)))

    @cached_property
    def traits(self) -> ir.Table:
        """(canonical_segment_id, name, value) from identify calls"""
        return self._keep(traits_as_of(*self._source, self._ids).select(PROFILE, "name", "value"))

    @cached_property
    def events(self) -> ir.Table:
        """(canonical_segment_id, message_id, event, timestamp, properties, context, name); the last three only where they are asked for."""
        performed = performed_as_of(*self._source, self._ids)
        performed = performed.filter(performed.event.isin(self._events))
        # What no window reaches is most of a long history.
        for span in sorted(set(self._reach.values())):
            names = sorted(name for name, far in self._reach.items() if far == span)
            since = timestamp_literal(self._source[2] - span)
            performed = performed.filter(performed.event.notin(names) | (performed["timestamp"] >= since))
        asked = performed.event.isin(self._filtered) if self._filtered else ibis.literal(False)
        # Documents are most of an event's bytes.
        documents = {
            name: performed[name] if self._filtered == self._events else ibis.ifelse(asked, performed[name], ibis.null("string"))
            for name in ("properties", "context", "name")
        }
        # Where nothing but their number counts, nobody asks for their ids either.
        ids = performed["message_id"] if self._told else ibis.null("string")
        return self._keep(performed.select(PROFILE, "event", "timestamp", message_id=ids, **documents))

    def counts_of(self, event: str, window: Edges | None) -> ir.Table | None:
        """(cdp_key: canonical_segment_id, cdp_count) of those who performed an event within a window, where many ask for it."""
        windows = list(self._counted.get(event, ()))
        if window not in windows:
            return None
        if event not in self._counts:
            rows = self.events.filter(self.events["event"] == event)
            within = [None if edges is None else rows["timestamp"].between(*map(timestamp_literal, edges)) for edges in windows]
            counts = {f"count_{number}": rows.count(where=inside) for number, inside in enumerate(within)}
            self._counts[event] = self._keep(rows.group_by(PROFILE).aggregate(**counts))
        counts_now = self._counts[event]
        found = counts_now.select(cdp_key=counts_now[PROFILE], cdp_count=counts_now[f"count_{windows.index(window)}"])
        return found.filter(found["cdp_key"].notnull() & (found["cdp_count"] > 0))


def named_members(members: ir.Table, *others: str) -> ir.Table:
    """(canonical_segment_id, …) of members among people who are numbered, with ``others`` of their columns."""
    return members.select(*others, **{PROFILE: members[NAME]})


def named_context(context: ir.Table, names: ir.Table, *others: str) -> ir.Table:
    """Context of people who are numbered, by their ids, with ``others`` of its columns. names: (canonical_segment_id: number, NAME)."""
    joined = context.join(names.select(PROFILE, NAME), PROFILE)
    return joined.select(*others, "path", "entity_id", "parent_entity_id", **{PROFILE: joined[NAME]})
