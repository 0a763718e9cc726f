"""How many profiles are left at every condition of an audience, read from top to bottom: which condition thins it out, or empties it.

Within "all" each line counts those that meet everything up to it; within "any" each line stands for itself, on top of what is above
the any. An entity condition counts first who has so many related rows at all, then filter by filter, then nested condition by nested
condition. One that more rows would break (at most, exactly, without) is counted whole: its parts have no order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ibis.expr.types as ir

from cdp_assets.linked_audiences.compile import PROFILE, Compiler, MembersOf, TraitValues, events_of
from cdp_assets.linked_audiences.describe import Line, condition_lines, drawn, trail_text
from cdp_assets.linked_audiences.people import People
from cdp_assets.linked_audiences.verdicts import filter_places, nested_place, positive
from cdp_assets.space.conditions import filters_of
from cdp_assets.space.documents import Place
from cdp_assets.space.models.audiences import Audience, Condition, EntityCondition, EventCondition
from cdp_assets.space.operators import joined_by
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse

_PER_QUERY = 12
Choices = tuple[tuple[Place, int], ...]


@dataclass(frozen=True)
class Stage:
    """A line of the tree: who is left there meets all of these conditions, and these groups as a whole.

    ``choices``: the places whose parts are joined by any, and the part that the line belongs to, outermost first.
    """

    place: Place
    met: tuple[Condition, ...]
    groups: tuple[int, ...] = ()
    choices: Choices = ()


def stages(audience: Audience) -> Iterator[Stage]:
    """The lines of an audience's tree, top to bottom."""
    for index, group in enumerate(audience.groups):
        place: Place = ("groups", index)
        above = tuple(range(index)) if audience.match == "all" else ()
        chosen = _choice(audience.match, len(audience.groups), (), index)
        before: tuple[Condition, ...] = ()
        for number, condition in enumerate(group.conditions):
            one = (*chosen, *_choice(group.match, len(group.conditions), place, number))
            for below, cut, choices in _cuts(condition, (*place, "conditions", number), one):
                yield Stage(below, (*before, cut), above, choices)
            if group.match == "all":
                before = (*before, condition)
        yield Stage(place, (), (*above, index), chosen)


def _choice(match: str, parts: int, place: Place, part: int) -> Choices:
    return ((place, part),) if match == "any" and parts > 1 else ()


def _cuts(condition: Condition, place: Place, chosen: Choices) -> Iterator[tuple[Place, Condition, Choices]]:
    """The condition cut off after each of its lines."""
    if not isinstance(condition, EntityCondition | EventCondition) or not positive(condition):
        yield place, condition, chosen
        return
    bare = condition.model_copy(update={"where": None, **({"nested": None} if isinstance(condition, EntityCondition) else {})})
    yield place, bare, chosen
    where, filters = condition.where, filters_of(condition.where)
    for number, leaf in enumerate(filter_places(place, where)):
        assert where is not None
        match = "all" if where.any is None else "any"
        kept = {"any": (filters[number],)} if match == "any" else {"all": filters[: number + 1]}
        filtered = bare.model_copy(update={"where": where.model_copy(update=kept)})
        yield leaf, filtered, (*chosen, *_choice(match, len(filters), (*place, "where"), number))
    nested = condition.nested if isinstance(condition, EntityCondition) else None
    for index, child in enumerate(nested.conditions if nested is not None else ()):
        assert nested is not None
        above = nested.conditions[:index] if nested.match == "all" else ()
        one = (*chosen, *_choice(nested.match, len(nested.conditions), (*place, "nested"), index))
        for below, cut, choices in _cuts(child, nested_place(place, index), one):
            group = nested.model_copy(update={"match": "all", "conditions": (*above, cut)})
            yield below, condition.model_copy(update={"nested": group}), choices


def survivors(
    warehouse: Warehouse,
    space: Space,
    audience: Audience,
    as_of: dt.datetime,
    *,
    members_of: MembersOf,
    trait_values: TraitValues,
    people: People | None = None,
) -> dict[Place, int]:
    """Profiles left at each line, in the order of the lines; () is everybody. Raises ConditionError, MissingTableError."""
    people = people or People(warehouse, space.graph, as_of, events=events_of(audience))
    compiler = Compiler(warehouse, space, as_of, people, members_of, trait_values)
    profiles = people.profiles
    known: dict[int, ir.BooleanValue] = {}

    def holds(condition: Condition) -> ir.BooleanValue:
        # Conditions above are met again and again: one expression each, so that the engine sees one query each.
        if id(condition) not in known:
            known[id(condition)] = compiler._condition(profiles[PROFILE], condition)
        return known[id(condition)]

    def met(stage: Stage) -> ir.BooleanValue:
        groups = [audience.groups[index] for index in stage.groups]
        whole = [joined_by(group.match, [holds(condition) for condition in group.conditions]) for group in groups]
        return joined_by("all", [*whole, *(holds(condition) for condition in stage.met)])

    made = list(stages(audience))
    found: dict[Place, int] = {(): warehouse.count(profiles)}
    for start in range(0, len(made), _PER_QUERY):
        some = made[start : start + _PER_QUERY]
        judged = profiles.select(**{f"v{number}": met(stage) for number, stage in enumerate(some)})
        counted = judged.aggregate(**{f"n{number}": judged.count(where=judged[f"v{number}"]) for number in range(len(some))})
        row = warehouse.rows(counted, 1)[0]
        found |= {stage.place: int(row[f"n{number}"]) for number, stage in enumerate(some)}
    return found


def emptied_by(space: Space, audience: Audience, left: Mapping[Place, int]) -> str | None:
    """The first condition at which nobody is left, in words; None where somebody is left, or nobody was there.

    One of several joined by any empties nothing as long as another leaves somebody.
    """
    if not left.get((), 0):
        return None
    made = list(stages(audience))
    ends: dict[Place, dict[int, int]] = {}
    for stage in made:
        for place, part in stage.choices:
            ends.setdefault(place, {})[part] = left[stage.place]
    for stage in made:
        # A group is said at its end, by its conditions.
        if len(stage.place) > 2 and not left[stage.place] and not any(any(ends[place].values()) for place, _ in stage.choices):
            return trail_text(condition_lines(space, audience), stage.place)
    return None


def funnel_text(space: Space, audience: Audience, left: Mapping[Place, int]) -> str:
    """The condition tree with the profiles left at each line; the first line is everybody."""

    def said(line: Line) -> str:
        if line.place == ():
            return f"{left[()]:,} profiles; {line.text}"
        return line.text if line.place is None or line.place not in left else f"{left[line.place]:,}  {line.text}"

    return "\n".join(drawn(condition_lines(space, audience), said))
