"""Identity resolution in bulk, where no rule can refuse anything: the same outcome as entry by entry, on whole arrays.

An identifier is attached at its first entry: to a new profile when all of that entry are new, else to the profile of an older
one. So each identifier has a *birth profile*, found by following older ones. Entries whose identifiers have several birth
profiles connect them; the first such entry of any two merges them. All else repeats what is known.

Which components are *free* of refusals is judged on this outcome: no type exceeds its limit, no cap can be reached, no separation,
removal or shared device lies inside. The others are replayed by :mod:`cdp_assets.unified_profiles.resolve`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cdp_assets.unified_profiles.numbers import (
    NO_IDENTIFIER,
    NO_IDENTIFIERS,
    NO_PROFILE,
    REASONS,
    Bools,
    Entries,
    Ints,
    Outcome,
    Policy,
    State,
)
from cdp_assets.unified_profiles.resolve import replay

_NEVER = np.iinfo(np.int64).max
_UNRESOLVED = REASONS.index(NO_IDENTIFIERS)
# Merges of a component are done in rounds, the n-th of all components at once; what is left after so many is done one by one.
_ROUNDS = 40


@dataclass
class _Births:
    """Profiles that were there (by place in the state), then one place per entry that could create one.

    ``of_member``: the birth profile of each member. ``fresh``: members attached here. ``creates``: entries that create.
    ``number``: each place's profile number.
    """

    members: Ints
    of_member: Ints
    of_identifier: Ints
    fresh: Bools
    creates: Bools
    number: Ints
    entry: Ints


def resolve(entries: Entries, state: State, policy: Policy) -> Outcome:
    """The outcome of the entries."""
    if not len(entries):
        return replay(entries, state, policy)
    births = _births(entries, state)
    links = _links(births)
    component = _components(births, links)
    merges = _merge(births, links, component)
    free = _free(entries, state, policy, births, component, merges)
    checked = _checked_entries(entries, births, component, free)
    outcome = _free_outcome(entries, births, merges, checked)
    if len(checked):
        _add(outcome, replay(entries, state, policy, checked), checked)
    return outcome


# -- birth profiles --------------------------------------------------------------------------------------------------


def _births(entries: Entries, state: State) -> _Births:
    members, entry = entries.members, entries.entry_of_member
    old, size = len(state.profiles), len(state.kinds)
    first = np.full(size, len(entries), dtype=np.int64)
    # Of several writes to one place the last one stays: the earliest entry.
    first[members[::-1]] = entry[::-1]
    held = state.owner != NO_PROFILE
    fresh = ~held[members] & (first[members] == entry)
    birth = np.full(size, NO_PROFILE, dtype=np.int64)
    birth[held] = np.searchsorted(state.profiles, state.owner[held])
    # An older member of each entry, if it has one: the first.
    older = np.full(len(entries), NO_IDENTIFIER, dtype=np.int64)
    was = np.flatnonzero(~fresh)[::-1]
    older[entry[was]] = members[was]
    filled = np.diff(entries.starts) > 0
    creates = filled & (older == NO_IDENTIFIER)
    new, its_entry = members[fresh], entry[fresh]
    founds = creates[its_entry]
    birth[new[founds]] = old + its_entry[founds]
    _follow(birth, new[~founds], older[its_entry[~founds]])
    return _Births(members, birth[members], birth, fresh, creates, np.concatenate([state.profiles, entries.seq]), entry)


def _follow(birth: Ints, whose: Ints, older: Ints) -> None:
    """Fill in the births of identifiers that were attached beside an older one, whose birth may be open as well."""
    target = np.arange(len(birth), dtype=np.int64)
    target[whose] = older
    while True:
        further = target[target[whose]]
        if np.array_equal(further, target[whose]):
            break
        target[whose] = further
    birth[whose] = birth[target[whose]]


# -- components and merges -------------------------------------------------------------------------------------------


@dataclass
class _Links:
    """Pairs of birth profiles that an entry connects, each pair at its first entry, by entry."""

    entry: Ints
    one: Ints
    other: Ints


def _links(births: _Births) -> _Links:
    birth, entry = births.of_member, births.entry
    meets = np.flatnonzero((entry[1:] == entry[:-1]) & (birth[1:] != birth[:-1]))
    one, other = np.minimum(birth[meets], birth[meets + 1]), np.maximum(birth[meets], birth[meets + 1])
    key = one * len(births.number) + other
    _, first = np.unique(key, return_index=True)
    first.sort()
    return _Links(entry[meets[first]], one[first], other[first])


def _components(births: _Births, links: _Links) -> Ints:
    """The component of each profile place."""
    size = len(births.number)
    edges = coo_array((np.ones(len(links.one), dtype=np.int8), (links.one, links.other)), shape=(size, size))
    return connected_components(edges, directed=False)[1].astype(np.int64)


@dataclass
class _Merged:
    """The entry at which each profile place merged (_NEVER), and the place that it merged into (itself)."""

    at: Ints
    into: Ints

    def as_of(self, place: Ints, entry: Ints) -> Ints:
        """The profile that each place was part of after the entry."""
        place = place.copy()
        going = np.flatnonzero(self.at[place] <= entry)
        while len(going):
            place[going] = self.into[place[going]]
            going = going[self.at[place[going]] <= entry[going]]
        return place


def _merge(births: _Births, links: _Links, component: Ints) -> _Merged:
    size = len(births.number)
    merged = _Merged(np.full(size, _NEVER, dtype=np.int64), np.arange(size, dtype=np.int64))
    of = component[links.one]
    order = np.argsort(of, kind="stable")
    sorted_of = of[order]
    starts = np.flatnonzero(np.append(True, sorted_of[1:] != sorted_of[:-1])) if len(order) else order
    sizes = np.diff(np.append(starts, len(order)))
    parent = np.arange(size, dtype=np.int64)
    for turn in range(min(int(sizes.max(initial=0)), _ROUNDS)):
        links_now = order[starts[sizes > turn] + turn]
        one, other = _roots(parent, links.one[links_now]), _roots(parent, links.other[links_now])
        joins = one != other
        _join(merged, parent, births.number, links.entry[links_now][joins], one[joins], other[joins])
    late = sizes > _ROUNDS
    for start, count in zip(starts[late].tolist(), sizes[late].tolist(), strict=True):
        for link in order[start + _ROUNDS : start + count]:
            one, other = _roots(parent, links.one[link : link + 1]), _roots(parent, links.other[link : link + 1])
            if one[0] != other[0]:
                _join(merged, parent, births.number, links.entry[link : link + 1], one, other)
    _through(merged)
    return merged


def _roots(parent: Ints, place: Ints) -> Ints:
    root = parent[place]
    while not np.array_equal(root, further := parent[root]):
        root = further
    parent[place] = root
    return root


def _join(merged: _Merged, parent: Ints, number: Ints, entry: Ints, one: Ints, other: Ints) -> None:
    younger = np.where(number[one] > number[other], one, other)
    older = np.where(number[one] > number[other], other, one)
    parent[younger] = older
    merged.into[younger] = older
    merged.at[younger] = entry


def _through(merged: _Merged) -> None:
    """An entry that connects several profiles merges each straight into the oldest."""
    losers = np.flatnonzero(merged.at != _NEVER)
    while True:
        winner = merged.into[losers]
        goes_on = merged.at[winner] == merged.at[losers]
        if not goes_on.any():
            return
        merged.into[losers[goes_on]] = merged.into[winner[goes_on]]


# -- which components are free ---------------------------------------------------------------------------------------


def _free(entries: Entries, state: State, policy: Policy, births: _Births, component: Ints, merges: _Merged) -> Bools:
    """Whether no rule can refuse anything in each component."""
    count = int(component.max(initial=-1)) + 1
    inside = births.of_identifier != NO_PROFILE
    own = component[births.of_identifier[inside]]
    kinds = state.kinds[inside]
    free = np.ones(count, dtype=np.bool_)
    for kind, limit in enumerate(policy.limit):
        free &= np.bincount(own[kinds == kind], minlength=count) <= limit
    # n identifiers make at most n profiles, so fewer than n merges, beside those that were.
    merged_before = np.bincount(component[: len(state.profiles)], weights=state.merges, minlength=count)
    free &= np.bincount(own, minlength=count) + merged_before < min(policy.max_merges, policy.max_mappings)
    for separation in policy.separations:
        for identifier in (*separation[0], *separation[1]):
            if inside[identifier]:
                free[component[births.of_identifier[identifier]]] = False
    removed = births.of_member[np.isin(births.entry, np.flatnonzero(entries.removes))]
    free[component[removed]] = False
    if policy.separate_devices:
        free[_shared_devices(state, policy, births, component, merges)] = False
    return free


def _shared_devices(state: State, policy: Policy, births: _Births, component: Ints, merges: _Merged) -> Ints:
    """Components in which an entry carries a device of a profile that was known before, without one of its persons."""
    device = np.array(policy.device, dtype=np.bool_)[state.kinds]
    known = _known_since(state, births, device, merges)
    carried, entry = births.of_member, births.entry
    before = merges.as_of(carried, entry - 1)
    is_device = device[births.members]
    old = ~births.fresh
    whose_device = old & is_device & (known[before] < entry)
    width = len(births.number)
    # (entry, profile) of the persons carried, and entries with any person.
    persons = np.unique((entry * width + before)[old & ~is_device])
    has_person = np.zeros(int(entry.max(initial=-1)) + 1, dtype=np.bool_)
    has_person[entry[~is_device]] = True
    device_at = np.flatnonzero(whose_device)
    alone = ~np.isin(entry[device_at] * width + before[device_at], persons)
    bites = device_at[alone & has_person[entry[device_at]]]
    without = device_at[~has_person[entry[device_at]]]
    several = _several(entry[without], before[without])
    return np.unique(np.concatenate([component[carried[bites]], component[carried[without[several]]]]))


def _several(entry: Ints, profile: Ints) -> Bools:
    """Whether an entry has more than one of the profiles."""
    if not len(entry):
        return np.zeros(0, dtype=np.bool_)
    starts = np.flatnonzero(np.append(True, entry[1:] != entry[:-1]))
    differs = np.minimum.reduceat(profile, starts) != np.maximum.reduceat(profile, starts)
    return np.repeat(differs, np.diff(np.append(starts, len(entry))))


def _known_since(state: State, births: _Births, device: Bools, merges: _Merged) -> Ints:
    """The entry at which each profile place first held a person's identifier (-1: it did before)."""
    since = np.full(len(births.number), _NEVER, dtype=np.int64)
    persons = births.fresh & ~device[births.members]
    np.minimum.at(since, births.of_member[persons], births.entry[persons])
    held = (state.owner != NO_PROFILE) & ~device
    since[np.searchsorted(state.profiles, state.owner[held])] = -1
    losers = np.flatnonzero(merges.at != _NEVER)
    losers = losers[np.argsort(merges.at[losers], kind="stable")]
    for loser, winner, at in zip(losers.tolist(), merges.into[losers].tolist(), merges.at[losers].tolist(), strict=True):
        since[winner] = min(since[winner], max(at, since[loser]))
    return since


# -- outcome ---------------------------------------------------------------------------------------------------------


def _checked_entries(entries: Entries, births: _Births, component: Ints, free: Bools) -> Ints:
    """The entries of components that are not free, component by component: what is looked at together lies together in memory."""
    filled = np.flatnonzero(np.diff(entries.starts) > 0)
    of = component[births.of_member[entries.starts[filled]]]
    checked = np.flatnonzero(~free[of])
    return filled[checked[np.argsort(of[checked], kind="stable")]]


def _free_outcome(entries: Entries, births: _Births, merges: _Merged, checked: Ints) -> Outcome:
    counts = np.ones(len(entries), dtype=np.bool_)
    counts[checked] = False
    filled = np.diff(entries.starts) > 0
    resolved = np.flatnonzero(counts & filled)
    profile = np.full(len(entries), NO_PROFILE, dtype=np.int64)
    profile[resolved] = births.number[merges.as_of(births.of_member[entries.starts[resolved]], resolved)]
    losers = np.flatnonzero(merges.at != _NEVER)
    losers = losers[counts[merges.at[losers]]]
    losers = losers[np.lexsort((births.number[losers], merges.at[losers]))]
    attached = np.flatnonzero(births.fresh & counts[births.entry])
    entry = births.entry[attached]
    unresolved = np.flatnonzero(~filled & ~entries.removes)
    return Outcome(
        profile=profile,
        kept=counts[births.entry],
        created=np.flatnonzero(births.creates & counts),
        merged=(merges.at[losers], births.number[losers], births.number[merges.into[losers]]),
        attached=(entry, entries.members[attached], profile[entry]),
        refused=(unresolved, np.full(len(unresolved), NO_IDENTIFIER), np.full(len(unresolved), _UNRESOLVED)),
    )


def _add(outcome: Outcome, replayed: Outcome, places: Ints) -> None:
    """Add what the entries at ``places`` did, of which the outcome says nothing yet. Steps by entry."""
    outcome.profile[places] = replayed.profile[places]
    outcome.kept |= replayed.kept
    outcome.created = np.sort(np.concatenate([outcome.created, replayed.created]))
    for name in ("merged", "attached", "removed", "refused"):
        columns = [np.concatenate(pair) for pair in zip(getattr(outcome, name), getattr(replayed, name), strict=True)]
        order = np.argsort(columns[0], kind="stable")
        setattr(outcome, name, tuple(column[order] for column in columns))
