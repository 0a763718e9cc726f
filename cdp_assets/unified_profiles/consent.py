"""Consent of profiles: Segment's rules for ``context.consent.categoryPreferences`` and for merges.

An object sets every category of the space; a category that it lacks is false, one that the space does not know is ignored.
Profiles with different values that merge are in conflict until the next object; a category never collected counts as false there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import orjson

from cdp_assets.unified_profiles.resolve import Step

TRUE, FALSE, CONFLICT = "true", "false", "conflict"


@lru_cache(maxsize=10_000)
def preferences(text: str, categories: tuple[str, ...]) -> tuple[bool, ...] | None:
    """A ``categoryPreferences`` text as one value per category of the space; None when it is not an object."""
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(given, dict):
        return None
    return tuple(given.get(category) is True for category in categories)


@dataclass
class ConsentStates:
    """Follows the steps of a resolution in order and tells each change of a profile's consent."""

    categories: tuple[str, ...]
    _states: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def changes(self, step: Step, given: tuple[bool, ...] | None) -> list[tuple[int, str]]:
        """(category number, state) for each category of the step's profile that this event changed. ``given``: its object."""
        before = state = self._states.get(step.profile)
        for loser in step.merged:
            state = self._merged(state, self._states.pop(loser, None))
        if given is not None:
            state = tuple(TRUE if value else FALSE for value in given)
        if state is None or state == before:
            return []
        self._states[step.profile] = state
        return [(number, value) for number, value in enumerate(state) if before is None or before[number] != value]

    def _merged(self, one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if one is None and other is None:
            return None
        never = (FALSE,) * len(self.categories)
        return tuple(a if a == b else CONFLICT for a, b in zip(one or never, other or never, strict=True))
