"""Consent of profiles: Segment's rules for ``context.consent.categoryPreferences`` and for merges.

An object sets every category of the space; a category that it lacks is false, one that the space does not know is ignored.
Profiles with different values that merge are in conflict until the next object; a category never collected counts as false there.

A profile's consent is a text with a letter per category (t, f, c); None: never collected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import orjson

from cdp_assets.unified_profiles.last_seen import merges_until
from cdp_assets.unified_profiles.numbers import Ints, Outcome

TRUE, FALSE, CONFLICT = "true", "false", "conflict"
WORDS = {"t": TRUE, "f": FALSE, "c": CONFLICT}


def preferences(text: str, categories: tuple[str, ...]) -> str | None:
    """A ``categoryPreferences`` text as a letter per category of the space; None when it is not an object."""
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(given, dict):
        return None
    return "".join("t" if given.get(category) is True else "f" for category in categories)


@dataclass
class ConsentStates:
    """Follows merges and objects in order. ``states``: the consent of each canonical profile."""

    categories: int
    states: dict[int, str] = field(default_factory=dict)

    def changes(self, profile: int, losers: list[int], given: str | None) -> list[tuple[int, str]]:
        """(category number, word) for each category of the profile that an event changed. ``given``: its object."""
        before = state = self.states.get(profile)
        for loser in losers:
            state = self._merged(state, self.states.pop(loser, None))
        if given is not None:
            state = given
        if state is None or state == before:
            return []
        self.states[profile] = state
        return [(number, WORDS[value]) for number, value in enumerate(state) if before is None or before[number] != value]

    def _merged(self, one: str | None, other: str | None) -> str | None:
        if one is None and other is None:
            return None
        never = "f" * self.categories
        return "".join(a if a == b else "c" for a, b in zip(one or never, other or never, strict=True))


def state_rows(
    outcome: Outcome, entry: Ints, given: Ints, objects: list[str], states: ConsentStates
) -> tuple[Ints, Ints, list[tuple[int, str]]]:
    """Changes of consent as (entries, profiles, (category, word)). ``objects[given[i]]`` came with ``entry[i]``, which is resolved.

    An object equal to the profile's one before it, with no merge between, changes nothing: only the others are followed in order.
    """
    profile = outcome.profile[entry]
    order = np.lexsort((entry, profile))
    entry, given, profile = entry[order], given[order], profile[order]
    epoch = merges_until(outcome, profile, entry)
    counts = np.ones(len(entry), dtype=np.bool_)
    counts[1:] = (profile[1:] != profile[:-1]) | (given[1:] != given[:-1]) | (epoch[1:] != epoch[:-1])
    objects_at = dict(zip(entry[counts].tolist(), given[counts].tolist(), strict=True))
    losers: dict[int, list[int]] = {}
    for at, loser, _ in zip(*(column.tolist() for column in outcome.merged), strict=True):
        losers.setdefault(at, []).append(loser)
    entries, profiles, changed = [], [], []
    for at in sorted({*objects_at, *losers}):
        whose = int(outcome.profile[at])
        number = objects_at.get(at)
        for change in states.changes(whose, losers.get(at, []), None if number is None else objects[number]):
            entries.append(at)
            profiles.append(whose)
            changed.append(change)
    return np.array(entries, dtype=np.int64), np.array(profiles, dtype=np.int64), changed
