"""The rules of identity resolution, entry by entry: the one statement of what an event does. Knows no warehouse.

An event belongs to the profile that owns one of its identifiers; events that connect profiles merge them into the oldest; a
profile may not exceed the limit of any identifier type, so the event loses its identifier of lowest priority and is looked at
again. The outcome depends on the order. :mod:`cdp_assets.unified_profiles.free` finds the events for which none of the
refusals can happen, and does those in bulk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add, gt

import numpy as np

from cdp_assets.unified_profiles.numbers import (
    MAPPING_CAP,
    MERGE_CAP,
    NO_IDENTIFIER,
    NO_IDENTIFIERS,
    NO_PROFILE,
    REASONS,
    REMOVAL_REFUSED,
    SEPARATED,
    SHARED_DEVICE,
    TIME_LIMIT,
    VALUE_LIMIT,
    Entries,
    Outcome,
    Policy,
    State,
)

_REASON = {reason: number for number, reason in enumerate(REASONS)}
# Entry, and two numbers more, one after another.
Steps = list[int]


@dataclass(slots=True)
class _Profile:
    """A canonical profile: how many identifiers of each type it holds, and how many profiles it took in.

    ``since``: of types whose limit has a window, when each identifier was attached.
    """

    counts: list[int]
    since: dict[int, dict[int, int]]
    merges: int = 0

    def mappings(self) -> int:
        return sum(self.counts)

    def hold(self, identifier: int, kind: int, at: int, windowed: bool) -> None:
        self.counts[kind] += 1
        if windowed:
            self.since.setdefault(kind, {})[identifier] = at


class Replay:
    """Follows entries one by one from a state. Collects what they do, in order."""

    def __init__(self, state: State, policy: Policy, identifiers: np.ndarray) -> None:
        """``identifiers``: those that the entries carry, and all that the profiles met hold."""
        self._policy = policy
        self._windowed = tuple(window >= 0 for window in policy.window)
        self._none = [0] * len(policy.types)
        carried = identifiers.tolist()
        self._kind: dict[int, int] = dict(zip(carried, state.kinds[identifiers].tolist(), strict=True))
        self._parent: dict[int, int] = {}
        self._owner: dict[int, int] = {}
        self._profiles: dict[int, _Profile] = {}
        merges = dict(zip(state.profiles.tolist(), state.merges.tolist(), strict=True))
        owned = identifiers[state.owner[identifiers] != NO_PROFILE]
        for i, owner, at in zip(*(column.tolist() for column in (owned, state.owner[owned], state.attached[owned])), strict=True):
            self._owner[i], kind = owner, self._kind[i]
            profile = self._profiles.get(owner)
            if profile is None:
                profile = self._profiles[owner] = _Profile(self._none.copy(), {}, merges[owner])
            profile.hold(i, kind, at, self._windowed[kind])
        self._settled: dict[tuple[int, ...], int] = {}
        self.created: list[int] = []
        self.merged: Steps = []
        self.attached: Steps = []
        self.removed: Steps = []
        self.refused: Steps = []

    # -- state -------------------------------------------------------------------------------------------------------

    def _find(self, profile: int) -> int:
        parent = self._parent
        root = profile
        while root in parent:
            root = parent[root]
        while profile != root:
            parent[profile], profile = root, parent[profile]
        return root

    def _owner_of(self, identifier: int) -> int:
        owner = self._owner.get(identifier)
        return NO_PROFILE if owner is None else self._find(owner)

    def _look(self, identifiers: Sequence[int]) -> tuple[list[int], list[int]]:
        """The profiles that own some of the identifiers, oldest first, and the identifiers that nobody owns."""
        owners, fresh = set(), []
        for i in identifiers:
            owner = self._owner.get(i)
            if owner is None:
                fresh.append(i)
            else:
                owners.add(self._find(owner) if owner in self._parent else owner)
        return sorted(owners) if len(owners) > 1 else list(owners), fresh

    # -- one entry ---------------------------------------------------------------------------------------------------

    def event(self, entry: int, seq: int, at: int, identifiers: tuple[int, ...]) -> tuple[int, Sequence[int]]:
        """(profile or NO_PROFILE, identifiers of the event that it owns afterwards)."""
        settled = self._settled.get(identifiers)
        if settled is not None:
            return self._find(settled), identifiers
        left = list(identifiers)
        while True:
            owners, fresh = self._look(left)
            reason = self._refusal(left, owners, fresh, at, entry)
            if reason is None:
                break
            if reason:
                # Of two of the same type the later one is the lower.
                lowest = max(range(len(left)), key=lambda place: (self._policy.rank[self._kind[left[place]]], place))
                self.refused += (entry, left.pop(lowest), _REASON[reason])
        if not left:
            self.refused += (entry, NO_IDENTIFIER, _REASON[NO_IDENTIFIERS])
            return NO_PROFILE, ()
        if owners:
            profile = owners[0]
        else:
            profile = seq
            self._profiles[profile] = _Profile(self._none.copy(), {})
            self.created.append(entry)
        whole = self._merge(entry, profile, owners[1:], left) if len(owners) > 1 else True
        if fresh:
            whole &= self._attach(entry, profile, fresh, at)
        kept = left if whole else [i for i in left if self._owner_of(i) == profile]
        if len(kept) == len(identifiers):
            # All of one profile: the same identifiers change nothing again, whatever else happens.
            self._settled[identifiers] = profile
        return profile, kept

    def remove(self, entry: int, identifier: int) -> int:
        """Take an identifier from its profile; the profile, NO_PROFILE when nobody holds it or it must stay."""
        profile = self._owner_of(identifier)
        if profile == NO_PROFILE:
            return NO_PROFILE
        kind = self._kind[identifier]
        own = self._profiles[profile]
        if kind == self._policy.user_id and own.counts[kind] == 1:
            self.refused += (entry, identifier, _REASON[REMOVAL_REFUSED])
            return profile
        own.counts[kind] -= 1
        if self._windowed[kind]:
            del own.since[kind][identifier]
        del self._owner[identifier]
        self.removed += (entry, identifier, profile)
        self._settled = {members: profile for members, profile in self._settled.items() if identifier not in members}
        return profile

    # -- what an event may not do ------------------------------------------------------------------------------------

    def _refusal(self, left: list[int], owners: list[int], fresh: list[int], at: int, entry: int) -> str | None:
        """Why the event must lose its lowest identifier; "" when it lost shared devices and is to be looked at again; None: it may go on."""
        if not left:
            return None
        if self._policy.separate_devices and self._drop_shared_devices(left, entry):
            return ""
        if not fresh and len(owners) <= 1:
            return None
        if self._policy.separations and self._separated(owners, fresh):
            return SEPARATED
        return self._excess(owners, fresh, at)

    def _drop_shared_devices(self, left: list[int], entry: int) -> bool:
        device, rank = self._policy.device, self._policy.rank
        persons = [i for i in left if not device[self._kind[i]]]
        known = {i: owner for i in left if device[self._kind[i]] and self._known(owner := self._owner_of(i))}
        if persons:
            own = set(self._look(persons)[0])
            shared = [i for i, owner in known.items() if owner not in own]
        elif known:
            anchor = known[min(known, key=lambda i: (rank[self._kind[i]], left.index(i)))]
            shared = [i for i, owner in known.items() if owner != anchor]
        else:
            shared = []
        for i in shared:
            left.remove(i)
            self.refused += (entry, i, _REASON[SHARED_DEVICE])
        return bool(shared)

    def _known(self, profile: int) -> bool:
        if profile == NO_PROFILE:
            return False
        return any(
            count and not device for count, device in zip(self._profiles[profile].counts, self._policy.device, strict=True)
        )

    def _separated(self, owners: list[int], fresh: list[int]) -> bool:
        for one, other in self._policy.separations:
            if self._holds(one, owners, fresh) and self._holds(other, owners, fresh):
                return True
        return False

    def _holds(self, side: frozenset[int], owners: list[int], fresh: list[int]) -> bool:
        return any(i in fresh or (i in self._owner and self._owner_of(i) in owners) for i in side)

    def _excess(self, owners: list[int], fresh: list[int], at: int) -> str | None:
        """The limit that the profiles of these identifiers would exceed as one with them, or None."""
        policy, kind_of = self._policy, self._kind
        counts = self._none
        for owner in owners:
            counts = list(map(add, counts, self._held(self._profiles[owner], at)))
        if not owners:
            counts = counts.copy()
        for i in fresh:
            counts[kind_of[i]] += 1
        if not any(map(gt, counts, policy.limit)):
            return None
        over = [kind for kind, count in enumerate(counts) if count > policy.limit[kind]]
        return VALUE_LIMIT if policy.window[min(over, key=policy.rank.__getitem__)] < 0 else TIME_LIMIT

    def _held(self, profile: _Profile, at: int) -> list[int]:
        """How many identifiers of each type count against its limit at the instant."""
        if not profile.since:
            return profile.counts
        counts = profile.counts.copy()
        for kind, times in profile.since.items():
            counts[kind] = sum(at - since < self._policy.window[kind] for since in times.values())
        return counts

    # -- what it does ------------------------------------------------------------------------------------------------

    def _full(self, profile: _Profile) -> bool:
        return profile.merges >= self._policy.max_merges or profile.mappings() >= self._policy.max_mappings

    def _merge(self, entry: int, profile: int, others: list[int], left: list[int]) -> bool:
        """Merge the others into the profile; whether none was refused."""
        refused = len(self.refused)
        winner = self._profiles[profile]
        for other in others:
            loser = self._profiles[other]
            if self._full(winner) or self._full(loser):
                link = next(i for i in left if self._owner_of(i) == other)
                self.refused += (entry, link, _REASON[MERGE_CAP])
                continue
            self._parent[other] = profile
            winner.merges += loser.merges + 1
            winner.counts = list(map(add, winner.counts, loser.counts))
            for kind, times in loser.since.items():
                winner.since.setdefault(kind, {}).update(times)
            del self._profiles[other]
            self.merged += (entry, other, profile)
        return len(self.refused) == refused

    def _attach(self, entry: int, profile: int, fresh: list[int], at: int) -> bool:
        """Attach what nobody owns to the profile, by rank; whether none was refused."""
        refused = len(self.refused)
        own, kind_of = self._profiles[profile], self._kind
        for i in fresh if len(fresh) == 1 else sorted(fresh, key=lambda i: self._policy.rank[kind_of[i]]):
            if own.mappings() >= self._policy.max_mappings:
                self.refused += (entry, i, _REASON[MAPPING_CAP])
                continue
            self._owner[i], kind = profile, kind_of[i]
            own.hold(i, kind, at, self._windowed[kind])
            self.attached += (entry, i, profile)
        return len(self.refused) == refused


def replay(entries: Entries, state: State, policy: Policy, chosen: np.ndarray | None = None) -> Outcome:
    """The outcome of the entries, one by one; with ``chosen``, of these places only, and the rest of the outcome is empty.

    ``chosen`` ascends within each component of identifiers; entries of different ones have nothing to do with each other.
    """
    places = np.arange(len(entries)) if chosen is None else chosen
    outcome = Outcome(np.full(len(entries), NO_PROFILE, dtype=np.int64), np.zeros(len(entries.members), dtype=np.bool_))
    sizes = np.diff(entries.starts)[places]
    member_at = np.repeat(entries.starts[places] - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
    outcome.kept[member_at] = True
    everyone = entries.members[member_at]
    follower = Replay(state, policy, _concerned(everyone, state))
    carried = everyone.tolist()
    lost: list[int] = []
    columns = (places, entries.seq[places], entries.at[places], entries.removes[places], sizes)
    end = 0
    for place, seq, at, removes, size in zip(*(column.tolist() for column in columns), strict=True):
        start, end = end, end + size
        members = tuple(carried[start:end])
        if removes:
            lost += range(start, end)
            if members:  # else a blocked value, which nobody holds
                outcome.profile[place] = follower.remove(place, members[0])
            continue
        if not members:
            follower.refused += (place, NO_IDENTIFIER, _REASON[NO_IDENTIFIERS])
            continue
        profile, kept = follower.event(place, seq, at, members)
        outcome.profile[place] = profile
        if len(kept) < len(members):
            lost += (start + offset for offset, identifier in enumerate(members) if identifier not in kept)
    outcome.kept[member_at[np.array(lost, dtype=np.int64)]] = False
    outcome.created = np.array(follower.created, dtype=np.int64)
    outcome.merged = columns_of(follower.merged)
    outcome.attached = columns_of(follower.attached)
    outcome.removed = columns_of(follower.removed)
    outcome.refused = columns_of(follower.refused)
    return outcome


def _concerned(members: np.ndarray, state: State) -> np.ndarray:
    """The identifiers that the entries carry, and all that their profiles hold."""
    concerned = np.zeros(len(state.kinds), dtype=np.bool_)
    concerned[members] = True
    owners = np.unique(state.owner[concerned & (state.owner != NO_PROFILE)])
    concerned |= np.isin(state.owner, owners)
    return np.flatnonzero(concerned)


def columns_of(steps: Steps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps as columns."""
    found = np.array(steps, dtype=np.int64).reshape(-1, 3)
    return found[:, 0].copy(), found[:, 1].copy(), found[:, 2].copy()
