"""Whether a profile is in an audience, judged from its evidence, and which of the evidence decides.

The evidence of a profile (``evidence.py``) is what the warehouse says about every row that a condition could count: which filters it
meets and what joins it. Here nothing is compared any more; rows are counted and verdicts joined. So the same tree can be judged again
as if some of the evidence were not there, or as if some leaves held:

- :func:`decisive`: a smallest part of the evidence on which a member's verdict still stands. Nothing can be left out of it.
- :func:`missing`: a smallest set of leaves that would have to hold for somebody to be a member.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdp_assets.linked_audiences.entities import yields
from cdp_assets.space.conditions import filters_of
from cdp_assets.space.documents import Place
from cdp_assets.space.models.audiences import (
    Audience,
    AudienceCondition,
    ColumnFilters,
    Condition,
    ConditionGroup,
    EntityCondition,
    EventCondition,
    ReferringEventFilters,
    TraitCondition,
)

Atom = tuple[str, ...]
"""A piece of evidence: ("row", table, key), ("link", junction table, left, right), ("identifier", type, value), ("trait", name) or
("event", message id)."""
Leaf = tuple[str, Place]
"""A leaf of an audience's tree: audience key, and the place in its file. A place that ends in ``count`` asks for more rows, one that
ends in ``window`` for rows within the window."""

WINDOW, COUNT, TARGET = "window", "count", "target_entity"
_TRIES = 3_000


@dataclass(frozen=True)
class Judgement:
    """What the warehouse says of one comparison. ``needs``: evidence without which it is ``without``. ``value``: what was compared."""

    holds: bool
    value: Any = None
    needs: Atom | None = None
    without: bool = False


@dataclass
class Row:
    """A row or event that a condition could count. ``joined_by``: evidence that joins it; ``below``: candidates of each nested condition;
    ``at``: of an event."""

    atom: Atom
    key: str
    filters: tuple[Judgement, ...]
    joined_by: tuple[Atom, ...] = ()
    in_window: bool = True
    at: dt.datetime | None = None
    below: dict[int, list[Row]] = field(default_factory=dict)


@dataclass
class Evidence:
    """All that an audience's conditions could count of one profile, by place. ``exists``: there is such a profile, not suppressed."""

    exists: bool
    traits: dict[Place, Judgement] = field(default_factory=dict)
    rows: dict[Place, list[Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge:
    """Judges a profile's evidence.

    ``audiences`` and ``evidence`` by audience key: the one in question and those that it refers to. ``have``: the evidence that counts as
    there (None: all). ``granted``: leaves that count as true, but not where something must not be.
    """

    audiences: Mapping[str, Audience]
    evidence: Mapping[str, Evidence]
    have: Collection[Atom] | None = None
    granted: Collection[Leaf] = ()

    # -- members -------------------------------------------------------------------------------------------------------

    def is_member(self, key: str) -> bool:
        audience = self.audiences[key]
        if not self.evidence[key].exists or not self.matches(key):
            return False
        if audience.target_entity is None or (key, (TARGET,)) in self.granted:
            return True
        return any(path == audience.target_entity for path, _ in self.context(key))

    def matches(self, key: str) -> bool:
        """Whether the conditions hold, whatever the audience is of."""
        audience = self.audiences[key]
        return joined(audience.match, (self.group(key, index, group) for index, group in enumerate(audience.groups)))

    def group(self, key: str, index: int, group: ConditionGroup) -> bool:
        places = ((("groups", index, "conditions", n), condition) for n, condition in enumerate(group.conditions))
        return joined(group.match, (self.condition(key, place, condition) for place, condition in places))

    def condition(self, key: str, place: Place, condition: Condition) -> bool:
        match condition:
            case TraitCondition():
                return (key, place) in self.granted or self.holds(self.evidence[key].traits[place])
            case AudienceCondition(part_of=None):
                return (key, place) in self.granted or not self.strict.is_member(condition.audience)
            case AudienceCondition():
                return self.is_member(condition.audience)
            case EventCondition() | EntityCondition():
                return self.enough(key, place, condition, self.evidence[key].rows[place])

    @property
    def strict(self) -> Judge:
        """Itself without granted leaves."""
        return Judge(self.audiences, self.evidence, self.have) if self.granted else self

    # -- rows ------------------------------------------------------------------------------------------------------------

    def holds(self, judgement: Judgement) -> bool:
        return judgement.holds if judgement.needs is None or self.there(judgement.needs) else judgement.without

    def there(self, atom: Atom) -> bool:
        return self.have is None or atom in self.have

    def enough(self, key: str, place: Place, condition: EntityCondition | EventCondition, rows: Sequence[Row]) -> bool:
        """Whether so many of the candidates pass."""
        if not positive(condition):
            return (key, place) in self.granted or amount(condition, len(self.strict.passing(key, place, condition, rows)))
        if (key, (*place, COUNT)) in self.granted:
            return True
        return amount(condition, len(self.passing(key, place, condition, rows)))

    def passing(
        self, key: str, place: Place, condition: EntityCondition | EventCondition, rows: Iterable[Row]
    ) -> dict[str, list[Row]]:
        """The candidates that pass, by their key: what repeats a key counts once."""
        found: dict[str, list[Row]] = {}
        for row in rows:
            if self.passes(key, place, condition, row):
                found.setdefault(row.key, []).append(row)
        return found

    def passes(self, key: str, place: Place, condition: EntityCondition | EventCondition, row: Row) -> bool:
        if not self.there(row.atom) or not all(map(self.there, row.joined_by)):
            return False
        if not row.in_window and (key, (*place, WINDOW)) not in self.granted:
            return False
        where = condition.where
        verdicts = (
            (key, leaf) in self.granted or self.holds(judgement)
            for leaf, judgement in zip(filter_places(place, where), row.filters, strict=True)
        )
        if not joined("any" if where is not None and where.any is not None else "all", verdicts):
            return False
        if isinstance(condition, EventCondition) or condition.nested is None:
            return True
        nested = (
            self.enough(key, nested_place(place, index), child, row.below[index])
            for index, child in enumerate(condition.nested.conditions)
        )
        return joined(condition.nested.match, nested)

    # -- context ---------------------------------------------------------------------------------------------------------

    def context(self, key: str) -> Iterator[tuple[str, Row]]:
        """(path, row): what made the profile match, as the audience's context has it."""
        for index, group in enumerate(self.audiences[key].groups):
            if not self.group(key, index, group):
                continue
            for number, condition in enumerate(group.conditions):
                place: Place = ("groups", index, "conditions", number)
                if isinstance(condition, EntityCondition) and yields(condition) and self.condition(key, place, condition):
                    rows = self.evidence[key].rows[place]
                    yield from self._context_rows(key, place, condition, condition.relationship, rows)

    def _context_rows(
        self, key: str, place: Place, condition: EntityCondition, path: str, rows: Sequence[Row]
    ) -> Iterator[tuple[str, Row]]:
        for row in (row for rows_of_key in self.passing(key, place, condition, rows).values() for row in rows_of_key):
            yield path, row
            for index, child in enumerate(condition.nested.conditions if condition.nested else ()):
                below = nested_place(place, index)
                if yields(child) and self.enough(key, below, child, row.below[index]):
                    yield from self._context_rows(key, below, child, f"{path}:{child.relationship}", row.below[index])


# -- what decides -----------------------------------------------------------------------------------------------------------


def decisive(judge: Judge, key: str) -> list[Atom]:
    """Of a member's evidence a set on which alone it is still a member; without any one piece of it, it is not. Sorted."""
    kept = sorted({atom for evidence in judge.evidence.values() for atom in atoms(evidence)})
    return _without_needless(kept, lambda some: Judge(judge.audiences, judge.evidence, frozenset(some)).is_member(key))


def missing(judge: Judge, key: str) -> list[Leaf]:
    """Of somebody who is no member, a smallest set of failing leaves such that, if they held, it would be one.

    Of sets of the same size the first in the order of the file. Of more sets than can be tried one that nothing can be left out of.
    """
    leaves = list(dict.fromkeys(failing(judge, key)))

    def suffices(some: Iterable[Leaf]) -> bool:
        return Judge(judge.audiences, judge.evidence, judge.have, frozenset(some)).is_member(key)

    tries = 0
    for size in range(1, len(leaves) + 1):
        for some in itertools.combinations(leaves, size):
            if suffices(some):
                return list(some)
            tries += 1
            if tries >= _TRIES:
                return _without_needless(leaves, suffices)
    return []


def _without_needless(kept: Sequence[Any], suffices: Callable[[Sequence[Any]], bool]) -> list[Any]:
    """What is left when everything without which it still suffices is taken out, large pieces first and from the end."""
    left = list(kept)
    size = len(left)
    while size:
        end, removed = len(left), False
        while end > 0:
            start = max(end - size, 0)
            fewer = left[:start] + left[end:]
            if suffices(fewer):
                left, removed = fewer, True
            end = start
        # To be let go, something may need another to have gone before: the last size is repeated until nothing goes.
        size = size if size == 1 and removed else size // 2
    return left


def failing(judge: Judge, key: str) -> Iterator[Leaf]:
    """The leaves that do not hold, of some candidate at least, in the order of the file; with those of audiences that it must be in."""
    audience = judge.audiences[key]
    for index, group in enumerate(audience.groups):
        for number, condition in enumerate(group.conditions):
            place: Place = ("groups", index, "conditions", number)
            match condition:
                case TraitCondition():
                    if not judge.holds(judge.evidence[key].traits[place]):
                        yield key, place
                case AudienceCondition(part_of=None):
                    if judge.is_member(condition.audience):
                        yield key, place
                case AudienceCondition():
                    if not judge.is_member(condition.audience):
                        yield from failing(judge, condition.audience)
                case EventCondition() | EntityCondition():
                    yield from _failing_rows(judge, key, place, condition, judge.evidence[key].rows[place])
    if audience.target_entity is not None:
        yield key, (TARGET,)


def _failing_rows(
    judge: Judge, key: str, place: Place, condition: EntityCondition | EventCondition, rows: Sequence[Row]
) -> Iterator[Leaf]:
    if judge.enough(key, place, condition, rows):
        return
    if not positive(condition):
        yield key, place
        return
    if not amount(condition, len({row.key for row in rows})):
        yield key, (*place, COUNT)
    if not all(row.in_window for row in rows):
        yield key, (*place, WINDOW)
    for number, leaf in enumerate(filter_places(place, condition.where)):
        if not all(judge.holds(row.filters[number]) for row in rows):
            yield key, leaf
    if isinstance(condition, EntityCondition) and condition.nested:
        for index, child in enumerate(condition.nested.conditions):
            for row in rows:
                yield from _failing_rows(judge, key, nested_place(place, index), child, row.below[index])


# -- the tree ----------------------------------------------------------------------------------------------------------------


def joined(match: str, verdicts: Iterable[bool]) -> bool:
    """All or any of the verdicts; of none at all, true."""
    found = list(verdicts)
    return not found or (all(found) if match == "all" else any(found))


def positive(condition: EntityCondition | EventCondition) -> bool:
    """Whether more rows can only help: at least so many. Of the others the whole condition is one leaf."""
    negated = condition.without_event if isinstance(condition, EventCondition) else condition.without_entity
    return negated is None and condition.quantifier[0] == "at_least"


def amount(condition: EntityCondition | EventCondition, count: int) -> bool:
    """Whether ``count``, 0 included, is what the condition asks for."""
    negated = condition.without_event if isinstance(condition, EventCondition) else condition.without_entity
    quantifier, number = condition.quantifier
    if negated is not None:
        return count == 0
    return {"at_least": count >= number, "at_most": count <= number, "exactly": count == number}[quantifier]


def filter_places(place: Place, where: ColumnFilters | ReferringEventFilters | None) -> list[Place]:
    """The place of each filter of a condition."""
    junction = "any" if where is not None and where.any is not None else "all"
    return [(*place, "where", junction, index) for index in range(len(filters_of(where)))]


def nested_place(place: Place, index: int) -> Place:
    return (*place, "nested", "conditions", index)


def atoms(evidence: Evidence) -> Iterator[Atom]:
    """All pieces of a profile's evidence."""
    yield from (judgement.needs for judgement in evidence.traits.values() if judgement.needs)
    for rows in evidence.rows.values():
        yield from _row_atoms(rows)


def _row_atoms(rows: Iterable[Row]) -> Iterator[Atom]:
    for row in rows:
        yield row.atom
        yield from row.joined_by
        yield from (judgement.needs for judgement in row.filters if judgement.needs)
        for below in row.below.values():
            yield from _row_atoms(below)
