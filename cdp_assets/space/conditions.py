"""Walks over an audience's condition tree: what it refers to, and where in the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdp_assets.space.documents import Place
from cdp_assets.space.models import Audience, AudienceCondition, EntityCondition, TraitCondition


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
    """Traits that the conditions name, from identify calls, computed, or SQL."""
    for place, condition in _top_level(audience):
        if isinstance(condition, TraitCondition):
            yield place, condition.trait


def _top_level(audience: Audience) -> Iterator[tuple[Place, object]]:
    for group_index, group in enumerate(audience.groups):
        for index, condition in enumerate(group.conditions):
            yield ("groups", group_index, "conditions", index), condition
