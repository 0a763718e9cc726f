"""An audience's condition tree as expressions: its members, and the entity rows that made each member match.

What belongs here: what conditions, quantifiers and groups mean. What does not: running and storing (``build.py``), what an
operator means (``space/operators.py``), who a person is (``unified_profiles``).

How it reads
- A condition is a predicate over profiles (or over rows of a parent entity): "its key is among those with so many passing
  rows". Nothing is joined to a profile but what a relationship joins, so a profile without rows meets ``at most`` and
  ``without`` by not being among those with more.
- An instance is a primary key: rows that repeat it count once, and rows without it do not count. Joins are inner.
- Below an entity the key is the *value* of the parent's join column, so children are counted per parent row.
- Groups are evaluated by themselves; context is the union over the groups that a member satisfies, of the rows of the
  ``with`` conditions that it satisfies there.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import performed_as_of
from cdp_assets.data_graph.keys import comparable, key_text
from cdp_assets.data_graph.model import ColumnJoin, DataGraph, ExternalIdJoin, JunctionJoin, MissingNodeError, Node, TraitJoin
from cdp_assets.raw_events.tables import any_suppressions
from cdp_assets.space.models import (
    Audience,
    AudienceCondition,
    ColumnFilters,
    Comparison,
    Condition,
    ConditionGroup,
    EntityCondition,
    EventCondition,
    Operator,
    Trait,
    TraitCondition,
)
from cdp_assets.space.operators import ConditionError, compare, event_filters, joined_by, negates, positive
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import identifiers_as_of, profiles_as_of, suppressed_as_of, traits_as_of
from resources.warehouse import TableRef, Warehouse, timestamp_literal

PROFILE = "canonical_segment_id"

MembersOf = Callable[[str], ir.Table]
"""Audience key -> (canonical_segment_id): the members of another audience at the same as_of."""
TraitValues = Callable[[str], ir.Table]
"""Computed trait key -> (canonical_segment_id, value_text, value_number) at the same as_of."""


@dataclass(frozen=True)
class CompiledAudience:
    """An audience as expressions.

    members: (canonical_segment_id), unique. tables: entity and junction tables on its paths, sorted.
    """

    members: ir.Table
    tables: tuple[TableRef, ...]
    _context_of: Callable[[ir.Table], ir.Table]

    def context_of(self, members: ir.Table) -> ir.Table:
        """(canonical_segment_id, path, entity_id, parent_entity_id), distinct, of ``members``: (canonical_segment_id), all of them members."""
        return self._context_of(members)

    @property
    def context(self) -> ir.Table:
        """Context of all members."""
        return self.context_of(self.members)


class People:
    """The people as of an instant, read once for any number of audiences.

    ``keep`` turns an expression into what is read from then on: itself, or the table that it was staged into.
    ``events``: names of the events that the audiences speak about. ``suppressions``: whether anybody may be suppressed; without it
    the warehouse is asked.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        graph: DataGraph,
        as_of: dt.datetime,
        *,
        events: Iterable[str] = (),
        keep: Callable[[ir.Table], ir.Table] = lambda expression: expression,
        suppressions: bool | None = None,
    ) -> None:
        self._source = (warehouse, graph, as_of)
        self._names = sorted(set(events))
        self._keep = keep
        self._suppressions = suppressions

    @cached_property
    def profiles(self) -> ir.Table:
        """(canonical_segment_id): everybody who can be a member. Who is suppressed cannot, whatever an audience says."""
        profiles = profiles_as_of(*self._source)
        barring = any_suppressions(self._source[0]) if self._suppressions is None else self._suppressions
        if barring:
            profiles = profiles.anti_join(suppressed_as_of(*self._source), PROFILE)
        return self._keep(profiles)

    @cached_property
    def identifiers(self) -> ir.Table:
        """(canonical_segment_id, type, value)"""
        return self._keep(identifiers_as_of(*self._source).select(PROFILE, "type", "value"))

    @cached_property
    def traits(self) -> ir.Table:
        """(canonical_segment_id, name, value) from identify calls"""
        return self._keep(traits_as_of(*self._source))

    @cached_property
    def events(self) -> ir.Table:
        """(canonical_segment_id, message_id, event, timestamp, properties, context, name)"""
        performed = performed_as_of(*self._source)
        performed = performed.filter(performed.event.isin(self._names))
        return self._keep(performed.select(PROFILE, "message_id", "event", "timestamp", "properties", "context", "name"))


def compile_audience(
    warehouse: Warehouse,
    space: Space,
    audience: Audience,
    as_of: dt.datetime,
    *,
    members_of: MembersOf,
    trait_values: TraitValues,
    people: People | None = None,
) -> CompiledAudience:
    """The audience as expressions at ``as_of``. Raises ConditionError for what does not fit graph, tables or types, MissingTableError."""
    people = people or People(warehouse, space.graph, as_of, events=events_of(audience))
    compiler = _Compiler(warehouse, space, as_of, people, members_of, trait_values)
    return CompiledAudience(
        compiler.members(audience),
        tuple(sorted(tables_of(space.graph, audience))),
        lambda members: compiler.context(audience, members),
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


def events_of(audience: Audience) -> set[str]:
    """Events that the audience speaks about."""
    return {c.event for group in audience.groups for c in group.conditions if isinstance(c, EventCondition)}


def tables_of(graph: DataGraph, audience: Audience) -> set[TableRef]:
    """Entity and junction tables on the audience's paths. Raises ConditionError for a relationship that the graph lacks."""
    return {
        TableRef.parse(text)
        for node in nodes_of(graph, audience)
        for text in (node.entity.table_ref, *([node.join.table_ref] if isinstance(node.join, JunctionJoin) else []))
    }


def nodes_of(graph: DataGraph, audience: Audience) -> list[Node]:
    """Nodes that the audience's conditions speak about, parents first. Raises ConditionError for a relationship that the graph lacks."""

    def walk(conditions: Iterable[Condition], parent: str | None) -> Iterator[Node]:
        for condition in conditions:
            if isinstance(condition, EntityCondition):
                node = child_node(graph, parent, condition.relationship)
                yield node
                yield from walk(condition.nested.conditions if condition.nested else (), node.path)

    return [node for group in audience.groups for node in walk(group.conditions, None)]


def child_node(graph: DataGraph, parent: str | None, slug: str) -> Node:
    """The node of relationship ``slug`` below ``parent`` (None: the profile). Raises ConditionError."""
    try:
        return graph.child(parent, slug)
    except MissingNodeError as error:
        raise ConditionError(str(error)) from None


class _Compiler:
    def __init__(
        self,
        warehouse: Warehouse,
        space: Space,
        as_of: dt.datetime,
        people: People,
        members_of: MembersOf,
        trait_values: TraitValues,
    ) -> None:
        self.warehouse = warehouse
        self.graph = space.graph
        self.traits = space.traits
        self.as_of = as_of
        self.people = people
        self.members_of = members_of
        self.trait_values = trait_values

    # -- members ---------------------------------------------------------------------------------------------------

    def members(self, audience: Audience) -> ir.Table:
        profiles = self.people.profiles
        verdicts = [self._group(profiles[PROFILE], group) for group in audience.groups]
        return profiles.filter(joined_by(audience.match, verdicts))

    def _group(self, profile: ir.StringValue, group: ConditionGroup) -> ir.BooleanValue:
        return joined_by(group.match, [self._condition(profile, condition) for condition in group.conditions])

    def _condition(self, profile: ir.StringValue, condition: Condition) -> ir.BooleanValue:
        match condition:
            case EntityCondition():
                node = child_node(self.graph, None, condition.relationship)
                rows = self._of_profiles(node, condition)
                keyed = rows.select(cdp_key=rows["cdp_profile"], cdp_id=_column(rows, node.entity.primary_key, node))
                return _quantified(profile, keyed, condition, negated=condition.without_entity is not None)
            case TraitCondition():
                return self._trait(profile, condition)
            case EventCondition():
                rows = self._events(condition)
                keyed = rows.select(cdp_key=rows[PROFILE], cdp_id=rows["message_id"])
                return _quantified(profile, keyed, condition, negated=condition.without_event is not None)
            case AudienceCondition():
                inside = profile.isin(self.members_of(condition.audience)[PROFILE])
                return ~inside if condition.not_part_of else inside

    # -- entities --------------------------------------------------------------------------------------------------

    def _passing(self, node: Node, condition: EntityCondition) -> ir.Table:
        """Rows of the node's entity that pass the condition's filters and nested conditions; all its columns."""
        table = self.warehouse.table(TableRef.parse(node.entity.table_ref))
        verdicts = [_column(table, node.entity.primary_key, node).notnull(), self._filters(table, node, condition.where)]
        if condition.nested:
            nested = [self._nested(table, node, child) for child in condition.nested.conditions]
            verdicts.append(joined_by(condition.nested.match, nested))
        return table.filter(ibis.and_(*verdicts))

    def _filters(self, table: ir.Table, node: Node, filters: ColumnFilters | None) -> ir.BooleanValue:
        if filters is None:
            return ibis.literal(True)
        joined = filters.all if filters.all is not None else filters.any or ()
        verdicts = [compare(_column(table, wanted.column, node), wanted, self.as_of) for wanted in joined]
        return joined_by("all" if filters.all is not None else "any", verdicts)

    def _nested(self, rows: ir.Table, parent: Node, condition: EntityCondition) -> ir.BooleanValue:
        """Whether rows of a parent entity have so many children that pass."""
        node = child_node(self.graph, parent.path, condition.relationship)
        children = self._of_parents(node, condition)
        value, key = comparable(self._parent_value(rows, parent, node), children["cdp_key"])
        keyed = children.select(cdp_key=key, cdp_id=_column(children, node.entity.primary_key, node))
        return _quantified(value, keyed, condition, negated=condition.without_entity is not None)

    def _parent_value(self, rows: ir.Table, parent: Node, node: Node) -> ir.Value:
        """The value by which a parent row is joined to its children."""
        join = _join_between_entities(node)
        return _column(rows, join.left if isinstance(join, ColumnJoin) else join.parent_column, parent)

    def _of_parents(self, node: Node, condition: EntityCondition) -> ir.Table:
        """Passing rows of a nested node with ``cdp_key``, the parent's join value; a row as often as it has parents' values."""
        rows, join = self._passing(node, condition), _join_between_entities(node)
        if isinstance(join, ColumnJoin):
            return rows.mutate(cdp_key=_column(rows, join.right, node))
        junction = self.warehouse.table(TableRef.parse(join.table_ref))
        left, right = (_column(junction, name, node) for name in (join.junction_left, join.junction_right))
        value, key = comparable(right, _column(rows, join.child_column, node))
        links = junction.select(cdp_key=left, cdp_link=value)
        return links.join(rows, links["cdp_link"] == key).drop("cdp_link")

    def _of_profiles(self, node: Node, condition: EntityCondition) -> ir.Table:
        """Passing rows of a node below the profile with ``cdp_profile``; a row as often as it has profiles."""
        rows, join = self._passing(node, condition), node.join
        if isinstance(join, ExternalIdJoin):
            found = self.people.identifiers.filter(self.people.identifiers["type"] == join.type)
            links = found.select(cdp_profile=found[PROFILE], cdp_value=found["value"])
        elif isinstance(join, TraitJoin):
            links = self._trait_texts(join.name)
        else:
            raise ConditionError(f"relationship {node.path} is below the profile and needs external_id or trait")
        key = key_text(_column(rows, join.join_key, node))
        return links.join(rows, links["cdp_value"] == key).drop("cdp_value")

    # -- traits and events -----------------------------------------------------------------------------------------

    def _trait_rows(self, name: str) -> tuple[ir.Table, ir.Value, Trait | None]:
        """(rows, value, definition) of a trait. A computed trait hides one of the same name from identify calls."""
        trait = self.traits.get(name)
        if trait is None:
            rows = self.people.traits.filter(self.people.traits["name"] == name)
            return rows, rows["value"], None
        rows = self.trait_values(name)
        return rows, rows["value_number" if trait.value_type == "number" else "value_text"], trait

    def _trait(self, profile: ir.StringValue, condition: TraitCondition) -> ir.BooleanValue:
        rows, value, trait = self._trait_rows(condition.trait)
        wanted = positive(condition)
        listed = trait is not None and trait.value_type == "list" and wanted.operator is not Operator.exists
        hits = rows.filter(_list_holds(value, wanted, condition.trait) if listed else compare(value, wanted, self.as_of))
        inside = profile.isin(hits[PROFILE])
        return ~inside if negates(condition) != (condition.without_trait is not None) else inside

    def _trait_texts(self, name: str) -> ir.Table:
        """(cdp_profile, cdp_value): a trait as text, to be joined with; of numbers only the whole ones."""
        rows, value, _ = self._trait_rows(name)
        if not value.type().is_string():
            whole = value.cast("int64")
            value = ibis.ifelse(whole.cast("float64") == value, whole.cast("string"), ibis.null("string"))
        return rows.select(cdp_profile=rows[PROFILE], cdp_value=value)

    def _events(self, condition: EventCondition) -> ir.Table:
        rows = self.people.events
        verdicts = [rows["event"] == condition.event, event_filters(rows, condition.where, self.as_of)]
        if condition.within:
            edges = self.as_of - condition.within.delta, self.as_of
            verdicts.append(rows["timestamp"].between(*map(timestamp_literal, edges)))
        if condition.between:
            far, near = (
                dt.timedelta(**{condition.between.unit.value: n}) for n in (condition.between.from_, condition.between.to)
            )
            verdicts.append(rows["timestamp"].between(*map(timestamp_literal, (self.as_of - far, self.as_of - near))))
        return rows.filter(ibis.and_(*verdicts))

    # -- context ---------------------------------------------------------------------------------------------------

    def context(self, audience: Audience, members: ir.Table) -> ir.Table:
        pieces = [
            piece
            for group in audience.groups
            for condition in group.conditions
            if isinstance(condition, EntityCondition) and _yields(condition)
            for piece in self._context_of_condition(audience, group, condition, members)
        ]
        if not pieces:
            nothing = ibis.null("string")
            return members.filter(ibis.literal(False)).select(PROFILE, path=nothing, entity_id=nothing, parent_entity_id=nothing)
        return reduce(lambda left, right: left.union(right), pieces).distinct()

    def _context_of_condition(
        self, audience: Audience, group: ConditionGroup, condition: EntityCondition, members: ir.Table
    ) -> Iterator[ir.Table]:
        node = child_node(self.graph, None, condition.relationship)
        satisfied = members
        # All of an "all" group hold for a member of an "all" audience. Of an "any" group a condition must hold by itself,
        # which having a row already says when one is enough.
        if group.match == "any" and len(group.conditions) > 1:
            if condition.quantifier != ("at_least", 1):
                satisfied = satisfied.filter(self._condition(satisfied[PROFILE], condition))
        elif audience.match == "any" and len(audience.groups) > 1:
            satisfied = satisfied.filter(self._group(satisfied[PROFILE], group))
        rows = self._of_profiles(node, condition)
        rows = rows.semi_join(satisfied, rows["cdp_profile"] == satisfied[PROFILE]).mutate(cdp_parent=ibis.null("string"))
        yield from self._context_rows(node, condition, rows)

    def _context_rows(self, node: Node, condition: EntityCondition, rows: ir.Table) -> Iterator[ir.Table]:
        """Of rows with ``cdp_profile`` and ``cdp_parent``: themselves, then the children that nested conditions name."""
        identity = key_text(_column(rows, node.entity.primary_key, node))
        yield rows.select(
            **{PROFILE: rows["cdp_profile"]},
            path=ibis.literal(node.path),
            entity_id=identity,
            parent_entity_id=rows["cdp_parent"],
        )
        if condition.nested is None:
            return
        several = condition.nested.match == "any" and len(condition.nested.conditions) > 1
        for nested in condition.nested.conditions:
            if not _yields(nested):
                continue
            kept = rows
            if several and nested.quantifier != ("at_least", 1):
                kept = rows.filter(self._nested(rows, node, nested))
            child = child_node(self.graph, node.path, nested.relationship)
            children = self._of_parents(child, nested)
            value, key = comparable(self._parent_value(kept, node, child), children["cdp_key"])
            kept_identity = key_text(_column(kept, node.entity.primary_key, node))
            parents = kept.select("cdp_profile", cdp_value=value, cdp_parent=kept_identity)
            joined = parents.join(children, parents["cdp_value"] == key).drop("cdp_value", "cdp_key")
            yield from self._context_rows(child, nested, joined)


def _join_between_entities(node: Node) -> ColumnJoin | JunctionJoin:
    if isinstance(node.join, ColumnJoin | JunctionJoin):
        return node.join
    raise ConditionError(f"relationship {node.path} is below an entity and needs join_on or junction_table")


def _yields(condition: EntityCondition) -> bool:
    """Whether rows make the condition hold, rather than their absence."""
    return condition.with_entity is not None and not condition.zero


def _quantified(key: ir.Value, keyed: ir.Table, condition: EntityCondition | EventCondition, *, negated: bool) -> ir.BooleanValue:
    """Whether ``key`` has so many distinct ``cdp_id`` in ``keyed``: (cdp_key, cdp_id). A null key has none. Never NULL."""
    keyed = keyed.filter(keyed["cdp_key"].notnull())

    def among(found: ir.Table) -> ir.BooleanValue:
        return key.notnull() & key.isin(found["cdp_key"])

    def counted(verdict: Callable[[ir.IntegerValue], ir.BooleanValue]) -> ir.BooleanValue:
        counts = keyed.group_by("cdp_key").aggregate(cdp_count=keyed["cdp_id"].nunique())
        return among(counts.filter(verdict(counts["cdp_count"])))

    quantifier, number = condition.quantifier
    if negated or condition.zero:
        return ~among(keyed)
    if quantifier == "at_most":
        return ~counted(lambda count: count > number)
    if quantifier == "exactly":
        return counted(lambda count: count == number)
    return among(keyed) if number == 1 else counted(lambda count: count >= number)


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


def _column(table: ir.Table, name: str, node: Node) -> ir.Value:
    """A column by name in any case. Raises ConditionError."""
    if name.lower() not in table.columns:
        raise ConditionError(f"entity {node.entity.slug} ({node.path}): no column {name}")
    return table[name.lower()]
