"""Identity resolution: a history of events with identifiers -> the profile of each event. Knows no warehouse.

The rules are Segment's: an event belongs to the profile that owns one of its identifiers; events that connect profiles merge
them into the oldest; a profile may not exceed the limit of any identifier type, so the event loses its identifier of lowest
priority and is looked at again. The outcome depends on the order of events.

It is computed exactly and mostly cheaply: identifiers that ever occur together form components. In a component that holds no
more values of any type than its limit, no limit can ever bite, and a repeated set of identifiers changes nothing. Only the
events of the other components are checked against the limits one by one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cdp_assets.unified_profiles.identifiers import Identifier, Rules

MAX_MERGES = 100
MAX_MAPPINGS = 1_000

NO_IDENTIFIERS = "no_matching_identifiers"
BLOCKED = "id_value_blocked"
VALUE_LIMIT = "identifier_value_limit_exceeded"
TIME_LIMIT = "identifier_value_time_limit_exceeded"
MERGE_CAP = "profile_merge_limit_reached"
MAPPING_CAP = "profile_mapping_limit_reached"

UNRESOLVED = -1


class Refusal(NamedTuple):
    """An identifier (its number) that did not count, or a merge through it that was not made, and the rule."""

    identifier: int
    reason: str


class Step(NamedTuple):
    """What one event did. Profiles and identifiers are numbers; a smaller profile number is an older profile.

    ``profile``: the event's profile, or UNRESOLVED. ``kept``: the event's identifiers that the profile owns. ``attached``: those
    of them that are new to it. ``created``: the profile is new. ``merged``: profiles that became part of it, oldest first.
    """

    profile: int
    kept: tuple[int, ...] = ()
    attached: tuple[int, ...] = ()
    created: bool = False
    merged: tuple[int, ...] = ()
    refused: tuple[Refusal, ...] = ()


@dataclass
class History:
    """Events in received order, compactly: identifiers and distinct sets of identifiers are numbered.

    ``sets``: distinct identifier tuples, each in the order of extraction. ``events``: the set of each event.
    ``received``: its received time.
    """

    identifiers: list[Identifier] = field(default_factory=list)
    sets: list[tuple[int, ...]] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    received: list[dt.datetime] = field(default_factory=list)
    _numbers: dict[Identifier, int] = field(default_factory=dict)
    _set_numbers: dict[tuple[Identifier, ...], int] = field(default_factory=dict)

    def add(self, identifiers: tuple[Identifier, ...], received_at: dt.datetime) -> None:
        """Append an event; its identifiers must not repeat. Raises ValueError when it is received before the last one."""
        if self.received and received_at < self.received[-1]:
            raise ValueError("events must be added in received order")
        number = self._set_numbers.get(identifiers)
        if number is None:
            number = self._set_numbers[identifiers] = len(self.sets)
            self.sets.append(tuple(self.number(identifier) for identifier in identifiers))
        self.events.append(number)
        self.received.append(received_at)

    def number(self, identifier: Identifier) -> int:
        """The number of an identifier, a new one for a new identifier."""
        number = self._numbers.get(identifier)
        if number is None:
            number = self._numbers[identifier] = len(self.identifiers)
            self.identifiers.append(identifier)
        return number


def resolve(history: History, rules: Rules, *, max_merges: int = MAX_MERGES, max_mappings: int = MAX_MAPPINGS) -> Iterator[Step]:
    """One step per event, in order."""
    profiles = _Profiles(history, rules, max_merges, max_mappings)
    conflicting = _conflicting_sets(history, rules, min(max_merges, max_mappings))
    settled: dict[int, int] = {}
    for number, received_at in zip(history.events, history.received, strict=True):
        identifiers = history.sets[number]
        if not identifiers:
            yield Step(UNRESOLVED)
        elif conflicting[number]:
            yield profiles.checked_step(identifiers, received_at)
        elif number in settled:
            yield Step(profiles.find(settled[number]), identifiers)
        else:
            step = profiles.free_step(identifiers)
            settled[number] = step.profile
            yield step


def _conflicting_sets(history: History, rules: Rules, cap: int) -> list[bool]:
    """Whether each set lies in a component where a limit or cap could bite."""
    count = len(history.identifiers)
    if not count:
        return [False] * len(history.sets)
    left = [a for members in history.sets for a in members[:-1]]
    right = [b for members in history.sets for b in members[1:]]
    edges = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    components, labels = connected_components(edges, directed=False)
    # A component of n identifiers makes at most n profiles and n mappings, so fewer than n merges.
    conflicting = np.bincount(labels, minlength=components) > cap
    kinds = np.array([identifier.type for identifier in history.identifiers])
    for kind in np.unique(kinds):
        values = np.bincount(labels[kinds == kind], minlength=components)
        conflicting |= values > rules.rule(str(kind)).limit
    return [bool(members) and bool(conflicting[labels[members[0]]]) for members in history.sets]


class _Profiles:
    """The state of resolution: who owns which identifier, and which profiles became part of which."""

    def __init__(self, history: History, rules: Rules, max_merges: int, max_mappings: int) -> None:
        self._rules = {kind: rules.rule(kind) for kind in {identifier.type for identifier in history.identifiers}}
        self._types = [identifier.type for identifier in history.identifiers]
        self._owner: list[int | None] = [None] * len(history.identifiers)
        self._parent: list[int] = []
        self._max_merges, self._max_mappings = max_merges, max_mappings
        # Only of profiles in conflicting components: type -> identifier -> when it was attached.
        self._attached: dict[int, dict[str, dict[int, dt.datetime]]] = {}
        self._merges: dict[int, int] = {}

    def find(self, profile: int) -> int:
        """The profile that ``profile`` is part of now."""
        root = profile
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[profile] != root:
            self._parent[profile], profile = root, self._parent[profile]
        return root

    def _owners(self, identifiers: Sequence[int]) -> list[int]:
        owners = {self.find(owner) for i in identifiers if (owner := self._owner[i]) is not None}
        return sorted(owners)

    def _create(self) -> int:
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def free_step(self, identifiers: tuple[int, ...]) -> Step:
        """An event whose component no limit touches."""
        owners = self._owners(identifiers)
        created = not owners
        profile = owners[0] if owners else self._create()
        merged = tuple(owners[1:])
        for loser in merged:
            self._parent[loser] = profile
        attached = tuple(i for i in identifiers if self._owner[i] is None)
        for i in attached:
            self._owner[i] = profile
        return Step(profile, identifiers, attached, created, merged)

    def checked_step(self, identifiers: tuple[int, ...], received_at: dt.datetime) -> Step:
        """An event whose component may exceed a limit or a cap."""
        left, refused = list(identifiers), []
        while (reason := self._excess(left, received_at)) is not None:
            # Of two of the same type the later one is the lower.
            lowest = max(range(len(left)), key=lambda at: (self._rules[self._types[left[at]]].rank, at))
            refused.append(Refusal(left.pop(lowest), reason))
        owners = self._owners(left)
        created = not owners
        profile = owners[0] if owners else self._create()
        merged = self._merge(profile, owners[1:], left, refused)
        attached = self._attach(profile, left, received_at, refused)
        kept = tuple(i for i in left if (owner := self._owner[i]) is not None and self.find(owner) == profile)
        return Step(profile, kept, attached, created, merged, tuple(refused))

    def _excess(self, identifiers: list[int], received_at: dt.datetime) -> str | None:
        """The reason why the profiles of these identifiers may not become one with them, or None."""
        owners = self._owners(identifiers)
        fresh = [i for i in identifiers if self._owner[i] is None]
        if not fresh and len(owners) <= 1:
            return None
        kinds = {self._types[i] for i in fresh}
        for owner in owners:
            kinds.update(self._attached[owner])
        for kind in sorted(kinds, key=lambda kind: self._rules[kind].rank):
            rule = self._rules[kind]
            values = sum(self._types[i] == kind for i in fresh)
            for owner in owners:
                times = self._attached[owner].get(kind, {})
                if rule.window is None:
                    values += len(times)
                else:
                    values += sum(received_at - at < rule.window for at in times.values())
            if values > rule.limit:
                return VALUE_LIMIT if rule.window is None else TIME_LIMIT
        return None

    def _merge(self, profile: int, others: list[int], identifiers: list[int], refused: list[Refusal]) -> tuple[int, ...]:
        merged = []
        for other in others:
            if self._full(profile) or self._full(other):
                link = next(i for i in identifiers if (owner := self._owner[i]) is not None and self.find(owner) == other)
                refused.append(Refusal(link, MERGE_CAP))
                continue
            self._parent[other] = profile
            self._merges[profile] = self._merges.get(profile, 0) + self._merges.pop(other, 0) + 1
            for kind, times in self._attached.pop(other).items():
                self._attached[profile].setdefault(kind, {}).update(times)
            merged.append(other)
        return tuple(merged)

    def _full(self, profile: int) -> bool:
        return self._merges.get(profile, 0) >= self._max_merges or self._mappings(profile) >= self._max_mappings

    def _mappings(self, profile: int) -> int:
        return sum(map(len, self._attached.get(profile, {}).values()))

    def _attach(self, profile: int, identifiers: list[int], received_at: dt.datetime, refused: list[Refusal]) -> tuple[int, ...]:
        own = self._attached.setdefault(profile, {})
        attached = []
        fresh = [i for i in identifiers if self._owner[i] is None]
        for i in sorted(fresh, key=lambda i: self._rules[self._types[i]].rank):
            if self._mappings(profile) >= self._max_mappings:
                refused.append(Refusal(i, MAPPING_CAP))
                continue
            self._owner[i] = profile
            own.setdefault(self._types[i], {})[i] = received_at
            attached.append(i)
        return tuple(attached)
