"""What the warehouse says about every row that an audience's conditions could count of some profiles.

Compiled from the same tree, with the same joins and comparisons, as the audience's members (``compile.py``, ``entities.py``). But
nothing is filtered: of each row it says which filters it meets. What follows from that is judged in ``verdicts.py``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.data_graph.keys import comparable, key_text
from cdp_assets.data_graph.model import ExternalIdJoin, JunctionJoin, Node, TraitJoin
from cdp_assets.linked_audiences.compile import Compiler, TraitValues, events_of, flips
from cdp_assets.linked_audiences.entities import PROFILE, child_node, column_of
from cdp_assets.linked_audiences.people import People
from cdp_assets.linked_audiences.verdicts import Atom, Evidence, Judgement, Row
from cdp_assets.space.conditions import audience_references, filters_of
from cdp_assets.space.documents import Place
from cdp_assets.space.models.audiences import (
    Audience,
    AudienceCondition,
    Comparison,
    EntityCondition,
    EventCondition,
    Operator,
    TraitCondition,
)
from cdp_assets.space.operators import ConditionError, event_value
from cdp_assets.space.space import Space
from resources.warehouse import TableRef, Warehouse

MOST_ROWS = 200_000
ByProfile = dict[str, dict[str, Evidence]]
"""Profile -> audience key -> its evidence."""


class Chosen(People):
    """Some people only. ``ids``: canonical ids; None for everybody."""

    def __init__(
        self,
        warehouse: Warehouse,
        space: Space,
        as_of: dt.datetime,
        ids: Collection[str] | None,
        events: Collection[str],
        stack: ExitStack,
        suppressions: bool | None,
    ) -> None:
        def keep(expression: ir.Table) -> ir.Table:
            chosen = expression if ids is None else expression.filter(expression[PROFILE].isin(sorted(ids)))
            return stack.enter_context(warehouse.staged(chosen))

        super().__init__(warehouse, space.graph, as_of, events=events, keep=keep, suppressions=suppressions)
        self.keep = keep


def gather(
    warehouse: Warehouse,
    space: Space,
    key: str,
    as_of: dt.datetime,
    ids: Collection[str] | None,
    *,
    trait_values: TraitValues,
    suppressions: bool | None = None,
) -> ByProfile:
    """The evidence about ``ids`` (canonical at ``as_of``; None: everybody) for an audience and those that it refers to.

    Profiles that nobody knows, or that are suppressed, are not in the result. Raises ConditionError for what does not fit graph, tables
    or types, and for more than 200,000 rows of one condition; MissingTableError.
    """
    wanted = _with_referred(space, key)
    with ExitStack() as stack:
        events = {event for one in wanted for event in events_of(space.audiences[one])}
        people = Chosen(warehouse, space, as_of, ids, events, stack, suppressions)
        staged: dict[str, ir.Table] = {}

        def values(trait: str) -> ir.Table:
            if trait not in staged:
                staged[trait] = people.keep(trait_values(trait))
            return staged[trait]

        everybody = [row[PROFILE] for row in warehouse.rows(people.profiles.order_by(PROFILE), MOST_ROWS)]
        found: ByProfile = {one: {other: Evidence(exists=True) for other in wanted} for one in everybody}
        compiler = _Gatherer(warehouse, space, as_of, people, values, stack)
        for one in wanted:
            compiler.audience(one, space.audiences[one], found)
    return found


def counting_query(
    warehouse: Warehouse, space: Space, key: str, place: Place, as_of: dt.datetime, profile: str, *, trait_values: TraitValues
) -> ir.Table:
    """(key): of one profile the distinct rows or events that pass the condition at ``place``; below other rows, of all of them."""
    people = People(warehouse, space.graph, as_of, events=events_of(space.audiences[key]))
    compiler = Compiler(warehouse, space, as_of, people, _not_asked, trait_values)
    condition = space.audiences[key].groups[int(place[1])].conditions[int(place[3])]
    if isinstance(condition, EventCondition):
        events = compiler._events(condition)
        return events.filter(events[PROFILE] == profile).select(key="message_id").distinct()
    assert isinstance(condition, EntityCondition)
    return compiler.entities.passing_below(condition, [int(step) for step in place[6::3]], profile).distinct()


def _with_referred(space: Space, key: str) -> list[str]:
    """The audience and all that it refers to. Raises ConditionError for one that is not there; a circle was refused when the space loaded."""
    found: list[str] = []
    waiting = [key]
    while waiting:
        one = waiting.pop()
        if one not in space.audiences:
            raise ConditionError(f"the space has no audience {one}")
        if one not in found:
            found.append(one)
            waiting += [other for _, other in audience_references(space.audiences[one])]
    return found


@dataclass(frozen=True)
class _Level:
    """The candidates of one condition: their table, computed, and what was made of each of its rows, by number."""

    table: ir.Table
    rows: dict[int, Row] = field(default_factory=dict)


class _Gatherer(Compiler):
    def __init__(
        self,
        warehouse: Warehouse,
        space: Space,
        as_of: dt.datetime,
        people: People,
        trait_values: TraitValues,
        stack: ExitStack,
    ) -> None:
        super().__init__(warehouse, space, as_of, people, _not_asked, trait_values)
        self.stack = stack

    def audience(self, key: str, audience: Audience, found: ByProfile) -> None:
        for index, group in enumerate(audience.groups):
            for number, condition in enumerate(group.conditions):
                place: Place = ("groups", index, "conditions", number)
                match condition:
                    case TraitCondition():
                        self._gather_trait(key, place, condition, found)
                    case EventCondition():
                        self._gather_events(key, place, condition, found)
                    case EntityCondition():
                        self._gather_entities(key, place, condition, found)
                    case AudienceCondition():
                        pass

    def _gather_trait(self, key: str, place: Place, condition: TraitCondition, found: ByProfile) -> None:
        rows = self._trait_rows(condition.trait)
        known = {
            row["profile"]: row
            for row in self._read(rows.select(profile=rows[PROFILE], value="value", hit=self._trait_hit(rows, condition)))
        }
        flipped = flips(condition)
        for profile, evidence in found.items():
            row = known.get(profile)
            if row is None or row["value"] is None:
                evidence[key].traits[place] = Judgement(flipped)
            else:
                atom = ("trait", condition.trait)
                evidence[key].traits[place] = Judgement(bool(row["hit"]) != flipped, row["value"], atom, without=flipped)

    def _gather_events(self, key: str, place: Place, condition: EventCondition, found: ByProfile) -> None:
        rows, verdicts, window = self._judged_events(condition)
        filters = filters_of(condition.where)
        values = [event_value(rows, wanted) for wanted in filters]
        chosen = rows.select(
            profile=rows[PROFILE],
            id="message_id",
            at="timestamp",
            window=window,
            **{f"v{n}": value for n, value in enumerate(values)},
            **{f"f{n}": verdict for n, verdict in enumerate(verdicts)},
        )
        for evidence in found.values():
            evidence[key].rows[place] = []
        for row in self._read(chosen.order_by("profile", "at", "id")):
            if row["profile"] in found:
                judgements = tuple(_judgement(row, n, wanted) for n, wanted in enumerate(filters))
                event = Row(("event", row["id"]), row["id"], judgements, in_window=bool(row["window"]), at=row["at"])
                found[row["profile"]][key].rows[place].append(event)

    # -- entities --------------------------------------------------------------------------------------------------------

    def _gather_entities(self, key: str, place: Place, condition: EntityCondition, found: ByProfile) -> None:
        for evidence in found.values():
            evidence[key].rows[place] = []
        node = child_node(self.entities.graph, None, condition.relationship)
        table = self.entities._table(node)
        rows = self.entities._joined_to_profiles(node, table, condition)
        rows = rows.mutate(cdp_up=ibis.null("int64")).rename(cdp_link_left="cdp_value").mutate(cdp_link_right=ibis.null("string"))
        level = self._level(rows, node)
        for profile, row in self._rows_of(level, node, condition):
            if profile in found:
                found[profile][key].rows[place].append(row)
        self._below(level, node, condition)

    def _below(self, level: _Level, parent: Node, condition: EntityCondition) -> None:
        """Candidates of the nested conditions, below all candidates of their parent."""
        for index, child in enumerate(condition.nested.conditions if condition.nested else ()):
            for row in level.rows.values():
                row.below[index] = []
            node = child_node(self.entities.graph, parent.path, child.relationship)
            below = self._level(self._children(level.table, parent, node, child), node)
            for up, row in self._rows_of(below, node, child):
                level.rows[int(up)].below[index].append(row)
            self._below(below, node, child)

    def _children(self, rows: ir.Table, parent: Node, node: Node, condition: EntityCondition) -> ir.Table:
        entities, join = self.entities, node.join
        carried = entities._carried(rows, parent, condition)
        children = entities._of_parents(node, entities._table(node))
        right = ibis.null("string")
        if isinstance(join, JunctionJoin):
            right = key_text(column_of(children, join.child_column, node))
        children = children.mutate(cdp_link_right=right)
        own = entities._parent_value(rows, parent, node)
        value, joined_key = comparable(own, children["cdp_key"])
        parents = rows.select("cdp_profile", cdp_value=value, cdp_up=rows["cdp_row"], cdp_link_left=key_text(own), **carried)
        return parents.join(children, parents["cdp_value"] == joined_key).drop("cdp_value", "cdp_key")

    def _level(self, rows: ir.Table, node: Node) -> _Level:
        """The candidates with a number each; rows without a primary key never count."""
        rows = rows.filter(column_of(rows, node.entity.primary_key, node).notnull())
        order = ["cdp_profile", key_text(column_of(rows, node.entity.primary_key, node))]
        numbered = rows.mutate(cdp_row=ibis.row_number().over(order_by=order))
        return _Level(self.stack.enter_context(self.entities.warehouse.staged(numbered)))

    def _rows_of(self, level: _Level, node: Node, condition: EntityCondition) -> list[tuple[str, Row]]:
        """(profile, or number of the parent's row, candidate), in the order of keys. Fills ``level.rows``."""
        rows = level.table
        filters = filters_of(condition.where)
        verdicts = self.entities._filter_verdicts(rows, node, condition)
        chosen = rows.select(
            number="cdp_row",
            up="cdp_up",
            profile="cdp_profile",
            key=key_text(column_of(rows, node.entity.primary_key, node)),
            left="cdp_link_left",
            right="cdp_link_right",
            **{f"v{n}": column_of(rows, wanted.column, node) for n, wanted in enumerate(filters)},
            **{f"f{n}": verdict for n, verdict in enumerate(verdicts)},
        )
        table = str(TableRef.parse(node.entity.table_ref))
        found = []
        for row in self._read(chosen.order_by("number")):
            judgements = tuple(_judgement(row, n, wanted) for n, wanted in enumerate(filters))
            made = Row(("row", table, row["key"]), row["key"], judgements, _joined_by(node, row["left"], row["right"]))
            level.rows[row["number"]] = made
            found.append((row["profile"] if row["up"] is None else row["up"], made))
        return found

    # -- reading ---------------------------------------------------------------------------------------------------------

    def _read(self, expression: ir.Table) -> Sequence[Mapping[str, Any]]:
        rows = self.entities.warehouse.rows(expression, MOST_ROWS + 1)
        if len(rows) > MOST_ROWS:
            raise ConditionError(f"more than {MOST_ROWS:,} rows belong to one condition; too many to explain one by one")
        return rows


def _not_asked(audience: str) -> ir.Table:
    raise AssertionError(f"audience {audience} is judged, not compiled")


def _judgement(row: Mapping[str, Any], number: int, wanted: Comparison) -> Judgement:
    reference = getattr(wanted, "reference", None)
    trait = reference.trait if reference is not None else None
    # Without the trait nothing compares with it, and what does not contain it holds.
    needs: Atom | None = ("trait", trait) if trait is not None else None
    return Judgement(bool(row[f"f{number}"]), row[f"v{number}"], needs, without=wanted.operator is Operator.omits)


def _joined_by(node: Node, left: str, right: str | None) -> tuple[Atom, ...]:
    match node.join:
        case ExternalIdJoin(type=kind):
            return (("identifier", kind, left),)
        case TraitJoin(name=name):
            return (("trait", name),)
        case JunctionJoin():
            return (("link", str(TableRef.parse(node.join.table_ref)), left, right or ""),)
    return ()
