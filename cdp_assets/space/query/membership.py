"""Audiences that a query names as traits: ``trait('other_audience') = true`` is membership."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from cdp_assets.space.conditions import trait_conditions
from cdp_assets.space.models.audiences import Audience, AudienceCondition, Condition, Operator, TraitCondition
from cdp_assets.space.query.conditions import Place


def with_memberships(audience: Audience, audiences: Collection[str]) -> Audience:
    """The audience with conditions on membership where its query compares one of ``audiences`` with true.

    ``audiences``: keys that are those of audiences, and of no computed trait. An audience without a query stays as it is.
    """
    if audience.query is None:
        return audience
    groups = tuple(
        group.model_copy(update={"conditions": tuple(_membership(condition, audiences) for condition in group.conditions)})
        for group in audience.groups
    )
    return audience.model_copy(update={"groups": groups})


def _membership(condition: Condition, audiences: Collection[str]) -> Condition:
    if not isinstance(condition, TraitCondition) or condition.trait not in audiences or not _asks_for_true(condition):
        return condition
    side = "part_of" if condition.with_trait is not None else "not_part_of"
    return AudienceCondition(**{side: condition.trait})


def _asks_for_true(condition: TraitCondition) -> bool:
    return condition.operator is Operator.equals and condition.value is True


def misread_memberships(audience: Audience, audiences: Collection[str]) -> Iterator[tuple[Place, str]]:
    """Conditions of a query that ask of another audience what cannot be asked of one."""
    if audience.query is not None:
        for place, condition in trait_conditions(audience):
            if condition.trait in audiences and not _asks_for_true(condition):
                yield place, condition.trait
