"""What became of each profile: a profile merges into an older one at most once, so all of it is one link per profile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cdp_assets.unified_profiles.numbers import Ints

_NEVER = np.iinfo(np.int64).max
_BEFORE = -1


@dataclass(frozen=True)
class Merges:
    """``profiles`` (numbers, ascending); ``into``: the place of the profile that each merged into (its own: none); ``at``: the entry."""

    profiles: Ints
    into: Ints
    at: Ints

    @classmethod
    def of(cls, parts: tuple[Ints, Ints], created: Ints, merged: tuple[Ints, Ints, Ints]) -> Merges:
        """``parts``: profiles that were there, and the canonical profile of each. ``created``: new profiles. ``merged``: entry, loser, winner."""
        profiles = np.sort(np.concatenate([parts[0], created]))
        into = np.arange(len(profiles), dtype=np.int64)
        at = np.full(len(profiles), _NEVER, dtype=np.int64)
        part = np.searchsorted(profiles, parts[0])
        into[part] = np.searchsorted(profiles, parts[1])
        at[part[into[part] != part]] = _BEFORE
        loser = np.searchsorted(profiles, merged[1])
        into[loser] = np.searchsorted(profiles, merged[2])
        at[loser] = merged[0]
        return cls(profiles, into, at)

    def places(self, profiles: Ints) -> Ints:
        return np.searchsorted(self.profiles, profiles)

    def canonical(self) -> Ints:
        """The number of the profile that each is part of at the end."""
        root = self.into
        while np.any(root != (further := self.into[root])):
            root = further
        return self.profiles[root]

    def rows(self) -> tuple[Ints, Ints, Ints]:
        """(entry, profile, canonical profile) for every merge, of the profile itself and of all that were part of it."""
        whose = np.flatnonzero(self.at != _NEVER)
        current = whose
        found: list[tuple[Ints, Ints, Ints]] = []
        while len(whose):
            new = self.at[current] != _BEFORE
            found.append((self.at[current][new], self.profiles[whose[new]], self.profiles[self.into[current[new]]]))
            current = self.into[current]
            goes_on = self.at[current] != _NEVER
            whose, current = whose[goes_on], current[goes_on]
        if not found:
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing, nothing
        entry, part, whole = (np.concatenate(columns) for columns in zip(*found, strict=True))
        return entry, part, whole
