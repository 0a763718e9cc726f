"""An audience's condition tree as expressions: its members, and the entity rows that made each member match.

What belongs here: groups, traits, events, other audiences, and who is a member. What does not: the rows of entity conditions
(``entities.py``), who there is to ask about (``people.py``), running and storing (``build.py``), what an operator means (``space/operators.py``), who a person is
(``unified_profiles``).

How it reads
- A condition is a predicate over profiles: "it is among those with so many passing rows". Nothing is joined to a profile but what
  a relationship joins, so a profile without rows meets ``at most`` and ``without`` by not being among those with more.
- Groups are evaluated by themselves; context is the union over the groups that a member satisfies, of the rows of the
  ``with`` conditions that it satisfies there.
- The members of an audience of entities (``target_entity``) are the profiles with a matched row there.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from cdp_assets.data_graph.model import ColumnJoin, DataGraph, ExternalIdJoin, JunctionJoin, Node
from cdp_assets.linked_audiences.entities import PROFILE, EntityRows, Label, child_node, counted, quantified, yields
from cdp_assets.linked_audiences.entity_history import entity_table
from cdp_assets.linked_audiences.people import Edges, People
from cdp_assets.space.conditions import entity_references, filters_of
from cdp_assets.space.models.audiences import (
    Audience,
    AudienceCondition,
    Comparison,
    Condition,
    ConditionGroup,
    EntityCondition,
    EventCondition,
    Operator,
    TraitCondition,
)
from cdp_assets.space.operators import ConditionError, compare, event_value, joined_by, negates, positive
from cdp_assets.space.space import Space
from resources.warehouse import TableRef, Warehouse, timestamp_literal

MembersOf = Callable[[str], ir.Table]
"""Audience key -> (canonical_segment_id): the members of another audience at the same as_of."""
TraitValues = Callable[[str], ir.Table]
"""Computed trait key -> (canonical_segment_id, value_text, value_number) at the same as_of."""
Keep = Callable[[ir.Table], ir.Table]
"""What is read several times -> the table that it was computed into."""
_ANY_INSTANT = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class CompiledAudience:
    """An audience as expressions.

    members: (canonical_segment_id), unique. tables: entity and junction tables on its paths, sorted.
    """

    members: ir.Table
    tables: tuple[TableRef, ...]
    _context_of: Callable[[ir.Table, Label], ir.Table]

    def context_of(self, members: ir.Table, label: Label = ibis.literal) -> ir.Table:
        """(canonical_segment_id, path, entity_id, parent_entity_id), distinct, of ``members``: (canonical_segment_id), all of them members.

        ``label`` says how a path is written.
        """
        return self._context_of(members, label)

    @property
    def context(self) -> ir.Table:
        """Context of all members."""
        return self.context_of(self.members)


def compile_audience(
    warehouse: Warehouse,
    space: Space,
    audience: Audience,
    as_of: dt.datetime,
    *,
    members_of: MembersOf,
    trait_values: TraitValues,
    people: People | None = None,
    keep: Keep | None = None,
) -> CompiledAudience:
    """The audience as expressions at ``as_of``. Raises ConditionError for what does not fit graph, tables or types, MissingTableError.

    ``keep`` computes what members and context share into a table and returns that.
    """
    people = people or People(warehouse, space.graph, as_of, events=events_of(audience))
    compiler = Compiler(warehouse, space, as_of, people, members_of, trait_values, keep)
    return CompiledAudience(
        compiler.members(audience),
        tuple(sorted(tables_of(space.graph, audience))),
        lambda members, label: compiler.context(audience, members, label),
    )


def compile_inline(
    warehouse: Warehouse,
    space: Space,
    key: str,
    as_of: dt.datetime,
    *,
    trait_values: TraitValues,
    suppressions: bool | None = None,
) -> CompiledAudience:
    """An audience with those that it refers to compiled in place, so that it needs no build of them. Raises ConditionError for a circle.

    ``suppressions``: as of :class:`People`.
    """
    events = {e for audience in space.audiences.values() for e in events_of(audience)}
    people = People(warehouse, space.graph, as_of, events=events, suppressions=suppressions)

    def compiled(wanted: str, above: tuple[str, ...]) -> CompiledAudience:
        if wanted in above:
            raise ConditionError(f"audiences refer to each other in a circle: {' -> '.join((*above, wanted))}")
        if wanted not in space.audiences:
            raise ConditionError(f"the space has no audience {wanted}")
        return compile_audience(
            warehouse,
            space,
            space.audiences[wanted],
            as_of,
            members_of=lambda other: compiled(other, (*above, wanted)).members,
            trait_values=trait_values,
            people=people,
        )

    return compiled(key, ())


def _event_conditions(audience: Audience) -> list[EventCondition]:
    return [c for group in audience.groups for c in group.conditions if isinstance(c, EventCondition)]


def events_of(audience: Audience) -> set[str]:
    """Events that the audience speaks about."""
    return {condition.event for condition in _event_conditions(audience)}


def reach_of(audiences: Iterable[Audience]) -> dict[str, dt.timedelta]:
    """Events that are only asked for within windows, with the farthest of these."""
    found: dict[str, dt.timedelta | None] = {}
    for audience in audiences:
        for condition in _event_conditions(audience):
            edges = window_edges(condition, _ANY_INSTANT)
            span = _ANY_INSTANT - edges[0] if edges else None
            known = found.get(condition.event, dt.timedelta(0))
            found[condition.event] = None if span is None or known is None else max(known, span)
    return {event: span for event, span in found.items() if span is not None}


def counted_events(audiences: Iterable[Audience], as_of: dt.datetime) -> dict[str, list[Edges | None]]:
    """Events of which several conditions ask how often they happened and nothing else, with the windows that these ask about."""
    found: dict[str, list[Edges | None]] = {}
    for audience in audiences:
        for condition in _event_conditions(audience):
            if condition.where is None:
                found.setdefault(condition.event, []).append(window_edges(condition, as_of))
    return {event: list(dict.fromkeys(windows)) for event, windows in found.items() if len(windows) > 1}


def filtered_events_of(audience: Audience) -> set[str]:
    """Those of which the audience asks more than when they happened."""
    return {condition.event for condition in _event_conditions(audience) if condition.where is not None}


def joined_columns(graph: DataGraph, audiences: Iterable[Audience]) -> dict[str, set[str]]:
    """Nodes below the profile that several conditions speak about, with the columns that any of them could ask for, lower case."""
    times: dict[str, int] = {}
    named: dict[str, set[str]] = {}
    for audience in audiences:
        for reference in entity_references(audience):
            top = reference.path.split(":")[0]
            columns = named.setdefault(top, set())
            times[top] = times.get(top, 0) + (reference.parent is None)
            for _, wanted in reference.filters:
                columns |= {wanted.column.lower()} if reference.parent is None else set()
                columns |= {wanted.reference.column.lower()} if wanted.reference and wanted.reference.column else set()
    found = {}
    for node in graph.nodes():
        if node.path in times and times[node.path] > 1:
            below = [child.join for child in graph.nodes() if child.parent == node.path]
            keys = {
                join.left if isinstance(join, ColumnJoin) else join.parent_column
                for join in below
                if isinstance(join, ColumnJoin | JunctionJoin)
            }
            found[node.path] = {name.lower() for name in (node.entity.primary_key, *keys)} | named[node.path]
    return found


def tables_of(graph: DataGraph, audience: Audience) -> set[TableRef]:
    """Entity and junction tables on the audience's paths. Raises ConditionError for a relationship that the graph lacks."""
    return {
        TableRef.parse(text)
        for node in nodes_of(graph, audience)
        for text in (node.entity.table_ref, *([node.join.table_ref] if isinstance(node.join, JunctionJoin) else []))
    }


def identifier_types_of(graph: DataGraph, audiences: Iterable[Audience]) -> set[str]:
    """Types of identifiers by which rows that the audiences speak about are joined to profiles."""
    tops = {reference.path.split(":")[0] for audience in audiences for reference in entity_references(audience)}
    return {node.join.type for node in graph.nodes() if node.path in tops and isinstance(node.join, ExternalIdJoin)}


def nodes_of(graph: DataGraph, audience: Audience) -> list[Node]:
    """Nodes that the audience's conditions speak about, parents first. Raises ConditionError for a relationship that the graph lacks."""

    def walk(conditions: Iterable[Condition], parent: str | None) -> Iterator[Node]:
        for condition in conditions:
            if isinstance(condition, EntityCondition):
                node = child_node(graph, parent, condition.relationship)
                yield node
                yield from walk(condition.nested.conditions if condition.nested else (), node.path)

    return [node for group in audience.groups for node in walk(group.conditions, None)]


class Compiler:
    """Conditions as expressions over the people of one instant."""

    def __init__(
        self,
        warehouse: Warehouse,
        space: Space,
        as_of: dt.datetime,
        people: People,
        members_of: MembersOf,
        trait_values: TraitValues,
        keep: Keep | None = None,
    ) -> None:
        self.traits = space.traits
        self.as_of = as_of
        self.people = people
        self.members_of = members_of
        self.trait_values = trait_values
        self.entities = EntityRows(
            warehouse,
            space.graph,
            as_of,
            lambda: people.identifiers,
            self._trait_rows,
            lambda entity: entity_table(warehouse, space.config, entity, as_of),
            people.rows_of,
            keep,
        )

    # -- members ---------------------------------------------------------------------------------------------------

    def members(self, audience: Audience) -> ir.Table:
        matched = self._matched(audience)
        if audience.target_entity is None:
            return matched
        context = self.context(audience, matched, ibis.literal)
        return matched.semi_join(context.filter(context["path"] == audience.target_entity), PROFILE)

    def _matched(self, audience: Audience) -> ir.Table:
        """Profiles that satisfy the conditions."""
        profiles = self.people.profiles
        verdicts = [self._group(profiles[PROFILE], group) for group in audience.groups]
        return profiles.filter(joined_by(audience.match, verdicts))

    def _group(self, profile: ir.StringValue, group: ConditionGroup) -> ir.BooleanValue:
        # What has a row for each person goes first: engines then look for entities' rows, of which there are more, of fewer people.
        ordered = sorted(group.conditions, key=lambda condition: isinstance(condition, EntityCondition))
        return joined_by(group.match, [self._condition(profile, condition) for condition in ordered])

    def _condition(self, profile: ir.StringValue, condition: Condition) -> ir.BooleanValue:
        match condition:
            case EntityCondition():
                return self.entities.holds(profile, condition)
            case TraitCondition():
                return self._trait(profile, condition)
            case EventCondition():
                return self._performed(profile, condition)
            case AudienceCondition():
                inside = profile.isin(self.members_of(condition.audience)[PROFILE])
                return ~inside if condition.not_part_of else inside

    # -- traits and events -----------------------------------------------------------------------------------------

    def _trait_rows(self, name: str) -> ir.Table:
        """(canonical_segment_id, value) of a trait, text or number. A computed trait hides one of the same name from identify calls."""
        trait = self.traits.get(name)
        if trait is None:
            rows = self.people.traits.filter(self.people.traits["name"] == name)
            return rows.select(PROFILE, "value")
        rows = self.trait_values(name)
        return rows.select(PROFILE, value=rows["value_number" if trait.value_type == "number" else "value_text"])

    def _trait(self, profile: ir.StringValue, condition: TraitCondition) -> ir.BooleanValue:
        rows = self._trait_rows(condition.trait)
        hits = rows.filter(self._trait_hit(rows, condition))
        inside = profile.isin(hits[PROFILE])
        return ~inside if flips(condition) else inside

    def _trait_hit(self, rows: ir.Table, condition: TraitCondition) -> ir.BooleanValue:
        """Whether a trait's value meets the comparison, or its opposite where that is true of a missing trait."""
        trait, wanted = self.traits.get(condition.trait), positive(condition)
        if trait is not None and trait.value_type == "list" and wanted.operator is not Operator.exists:
            return _list_holds(rows["value"], wanted, condition.trait)
        return compare(rows["value"], wanted, self.as_of)

    def _performed(self, profile: ir.StringValue, condition: EventCondition) -> ir.BooleanValue:
        negated = condition.without_event is not None
        if condition.where is None:
            counts = self.people.counts_of(condition.event, window_edges(condition, self.as_of))
            if counts is not None:
                return counted(profile, counts, condition, negated=negated)
        rows = self._events(condition)
        keyed = rows.select(cdp_key=rows[PROFILE], cdp_id=rows["message_id"])
        return quantified(profile, keyed, condition, negated=negated, unique=True)

    def _events(self, condition: EventCondition) -> ir.Table:
        rows, verdicts, window = self._judged_events(condition)
        joined = joined_by("any" if condition.where is not None and condition.where.any is not None else "all", verdicts)
        return rows.filter(joined & window)

    def _judged_events(self, condition: EventCondition) -> tuple[ir.Table, list[ir.BooleanValue], ir.BooleanValue]:
        """Events of the condition's name, whether they meet each of its filters, and whether they are within its window."""
        rows = self.people.events
        rows = rows.filter(rows["event"] == condition.event)
        filters = filters_of(condition.where)
        referred = sorted({wanted.reference.trait for wanted in filters if wanted.reference is not None})
        names = {trait: f"cdp_trait_{index}" for index, trait in enumerate(referred)}
        for trait, name in names.items():
            values = self._trait_rows(trait)
            values = values.select(cdp_of=values[PROFILE], **{name: values["value"]})
            rows = rows.left_join(values, rows[PROFILE] == values["cdp_of"]).drop("cdp_of")
        verdicts = [
            compare(
                event_value(rows, wanted),
                wanted,
                self.as_of,
                None if wanted.reference is None else rows[names[wanted.reference.trait]],
            )
            for wanted in filters
        ]
        edges = window_edges(condition, self.as_of)
        window = rows["timestamp"].between(*map(timestamp_literal, edges)) if edges else ibis.literal(True)
        return rows, verdicts, window

    # -- context ---------------------------------------------------------------------------------------------------

    def context(self, audience: Audience, members: ir.Table, label: Label) -> ir.Table:
        pieces: dict[str, list[ir.Table]] = {}
        for group in audience.groups:
            for condition in group.conditions:
                if isinstance(condition, EntityCondition) and yields(condition):
                    satisfied = self._satisfying(audience, group, condition, members)
                    for path, piece in self.entities.context(condition, satisfied, label):
                        pieces.setdefault(path, []).append(piece)
        if not pieces:
            nothing = ibis.null("string")
            return members.filter(ibis.literal(False)).select(PROFILE, path=nothing, entity_id=nothing, parent_entity_id=nothing)
        # Each piece is distinct, so only a path that several conditions speak about can have a row twice.
        return _united([same[0] if len(same) == 1 else _united(same).distinct() for same in pieces.values()])

    def _satisfying(self, audience: Audience, group: ConditionGroup, condition: EntityCondition, members: ir.Table) -> ir.Table:
        """The members that satisfy the condition within a group that they satisfy."""
        # All of an "all" group hold for a member of an "all" audience. Of an "any" group a condition must hold by itself,
        # which having a row already says when one is enough.
        if group.match == "any" and len(group.conditions) > 1:
            if condition.quantifier != ("at_least", 1):
                return members.filter(self._condition(members[PROFILE], condition))
        elif audience.match == "any" and len(audience.groups) > 1:
            return members.filter(self._group(members[PROFILE], group))
        return members


def flips(condition: TraitCondition) -> bool:
    """Whether the condition holds of a profile without the trait: then it holds where the opposite comparison does not."""
    return negates(condition) != (condition.without_trait is not None)


def window_edges(condition: EventCondition, as_of: dt.datetime) -> Edges | None:
    """The first and last instant of the condition's window, both within it; None without one."""
    if condition.within:
        return as_of - condition.within.delta, as_of
    if condition.between:
        far, near = (dt.timedelta(**{condition.between.unit.value: n}) for n in (condition.between.from_, condition.between.to))
        return as_of - far, as_of - near
    return None


def _united(pieces: Sequence[ir.Table]) -> ir.Table:
    """All rows of the pieces. Halved, not chained: each link of a chain is a level of the query, and of the compiler's recursion."""
    if len(pieces) == 1:
        return pieces[0]
    middle = len(pieces) // 2
    return _united(pieces[:middle]).union(_united(pieces[middle:]))


def _list_holds(value: ir.StringValue, wanted: Comparison, name: str) -> ir.BooleanValue:
    """``contains`` on a list: it holds one of the values. ``value`` is a JSON array of texts."""
    values = wanted.value if isinstance(wanted.value, tuple) else (wanted.value,)
    if wanted.operator is not Operator.contains or not all(isinstance(one, str) for one in values):
        raise ConditionError(
            f"trait {name}: a list takes contains and omits with texts, exists and absent; not {wanted.operator}"
        )
    # An element begins after the bracket or a comma; quotes inside elements are escaped.
    written = [json.dumps(one, ensure_ascii=False) for one in values]
    return ibis.or_(*(value.contains(before + one) for one in written for before in ("[", ","))).fill_null(False)
