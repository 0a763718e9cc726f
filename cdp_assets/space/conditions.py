"""Walks over an audience's condition tree: what it refers to, and where in the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

from cdp_assets.space.documents import Place
from cdp_assets.space.models.audiences import (
    Audience,
    AudienceCondition,
    ColumnFilter,
    ColumnFilters,
    EntityCondition,
    EventCondition,
    ReferringEventFilter,
    ReferringEventFilters,
    TraitCondition,
)


@dataclass(frozen=True)
class EntityReference:
    """An entity condition: where it stands in the file, the node path that it means, and whether its rows become context.

    ``yields`` is False for ``without_entity`` and quantifiers of 0, and below them: they hold because rows are missing.
    """

    place: Place
    parent: str | None
    condition: EntityCondition
    yields: bool

    @property
    def path(self) -> str:
        slug = self.condition.relationship
        return f"{self.parent}:{slug}" if self.parent else slug

    @property
    def depth(self) -> int:
        """Nodes on the path, counting the profile."""
        return self.path.count(":") + 2

    @property
    def filters(self) -> Iterator[tuple[Place, ColumnFilter]]:
        """The condition's own filters, each with its place in the file."""
        junction = _junction(self.condition.where)
        for index, wanted in enumerate(filters_of(self.condition.where)):
            yield (*self.place, "where", junction, index), wanted


def entity_references(audience: Audience) -> Iterator[EntityReference]:
    """All entity conditions, parents before children, in file order."""

    def walk(condition: EntityCondition, parent: str | None, place: Place, yields: bool) -> Iterator[EntityReference]:
        here = EntityReference(place, parent, condition, yields and not condition.without_entity and not condition.zero)
        yield here
        for index, child in enumerate(condition.nested.conditions if condition.nested else ()):
            yield from walk(child, here.path, (*place, "nested", "conditions", index), here.yields)

    for place, condition in _top_level(audience):
        if isinstance(condition, EntityCondition):
            yield from walk(condition, None, place, True)


def entity_paths(audience: Audience) -> tuple[str, ...]:
    """The node paths that the audience's conditions speak about, without repetition, in file order."""
    return tuple(dict.fromkeys(reference.path for reference in entity_references(audience)))


def audience_references(audience: Audience) -> Iterator[tuple[Place, str]]:
    """Audiences that the conditions name."""
    for place, condition in _top_level(audience):
        if isinstance(condition, AudienceCondition):
            yield place, condition.audience


def trait_references(audience: Audience) -> Iterator[tuple[Place, str]]:
    """Traits that the conditions name, themselves or as what something is compared with; from identify calls, computed, or SQL."""
    yield from ((place, condition.trait) for place, condition in trait_conditions(audience))
    yield from compared_traits(audience)


def trait_conditions(audience: Audience) -> Iterator[tuple[Place, TraitCondition]]:
    """Conditions on a trait."""
    for place, condition in _top_level(audience):
        if isinstance(condition, TraitCondition):
            yield place, condition


def compared_traits(audience: Audience) -> Iterator[tuple[Place, str]]:
    """Traits that columns and properties are compared with."""
    for reference in entity_references(audience):
        for place, wanted in reference.filters:
            if wanted.reference is not None and wanted.reference.trait is not None:
                yield (*place, "reference", "trait"), wanted.reference.trait
    for place, condition in _top_level(audience):
        if isinstance(condition, EventCondition):
            for index, filtered in enumerate(filters_of(condition.where)):
                if filtered.reference is not None:
                    yield (*place, "where", _junction(condition.where), index, "reference", "trait"), filtered.reference.trait


@overload
def filters_of(filters: ColumnFilters) -> tuple[ColumnFilter, ...]: ...
@overload
def filters_of(filters: ReferringEventFilters) -> tuple[ReferringEventFilter, ...]: ...
@overload
def filters_of(filters: None) -> tuple[()]: ...
def filters_of(filters: ColumnFilters | ReferringEventFilters | None) -> tuple[ColumnFilter | ReferringEventFilter, ...]:
    """The filters of a condition, however they are joined."""
    if filters is None:
        return ()
    return filters.all if filters.all is not None else filters.any or ()


def _junction(filters: ColumnFilters | ReferringEventFilters | None) -> str:
    return "all" if filters is None or filters.all is not None else "any"


def _top_level(audience: Audience) -> Iterator[tuple[Place, object]]:
    for group_index, group in enumerate(audience.groups):
        for index, condition in enumerate(group.conditions):
            yield ("groups", group_index, "conditions", index), condition
