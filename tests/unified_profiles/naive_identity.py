"""Segment's identity rules event by event, written as they read, slow and without tricks. Shares no code with the product.

A profile is a dict: when it was created (number of its event), its identifiers with their times, how many profiles it took in.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

DAYS = {"annually": 365, "monthly": 30, "weekly": 7, "daily": 1}


@dataclass
class NaiveProfile:
    created: int
    identifiers: dict[tuple[str, str], dt.datetime] = field(default_factory=dict)
    merges: int = 0


@dataclass
class NaiveIdentity:
    """``order``: identifier types from highest to lowest priority. ``limits``: type -> (most values, window word)."""

    order: list[str]
    limits: dict[str, tuple[int, str]]
    max_merges: int = 100
    max_mappings: int = 1000
    profiles: list[NaiveProfile] = field(default_factory=list)
    violations: list[tuple[int, tuple[str, str], str]] = field(default_factory=list)
    resolved: list[int | None] = field(default_factory=list)
    merges: list[tuple[int, int, int]] = field(default_factory=list)

    def take(self, received_at: dt.datetime, identifiers: list[tuple[str, str]]) -> None:
        number = len(self.resolved)
        if not identifiers:
            self.resolved.append(None)
            return
        left = list(identifiers)
        while True:
            owners = [p for p in self.profiles if any(i in p.identifiers for i in left)]
            fresh = [i for i in left if not any(i in p.identifiers for p in owners)]
            excess = self.excess(owners, fresh, received_at)
            if excess is None:
                break
            lowest = left[0]
            for identifier in left:
                if self.order.index(identifier[0]) >= self.order.index(lowest[0]):
                    lowest = identifier
            left.remove(lowest)
            self.violations.append((number, lowest, excess))
        if not owners:
            owners = [NaiveProfile(number)]
            self.profiles.append(owners[0])
        owners.sort(key=lambda p: p.created)
        target = owners[0]
        for other in owners[1:]:
            full = [p for p in (target, other) if p.merges >= self.max_merges or len(p.identifiers) >= self.max_mappings]
            if full:
                link = next(i for i in left if i in other.identifiers)
                self.violations.append((number, link, "merge cap"))
                continue
            target.merges += other.merges + 1
            target.identifiers.update(other.identifiers)
            self.profiles.remove(other)
            self.merges.append((number, other.created, target.created))
        for kind in self.order:
            for identifier in fresh:
                if identifier[0] != kind:
                    continue
                if len(target.identifiers) >= self.max_mappings:
                    self.violations.append((number, identifier, "mapping cap"))
                else:
                    target.identifiers[identifier] = received_at
        self.resolved.append(target.created)

    def excess(self, owners: list[NaiveProfile], fresh: list[tuple[str, str]], now: dt.datetime) -> str | None:
        if len(owners) == 1 and not fresh:
            return None  # nothing changes
        for kind in self.order:
            most, window = self.limits[kind]
            values = [i for i in fresh if i[0] == kind]
            for owner in owners:
                for identifier, at in owner.identifiers.items():
                    if identifier[0] == kind and (window == "ever" or now - at < dt.timedelta(days=DAYS[window])):
                        values.append(identifier)
            if len(values) > most:
                return "value limit" if window == "ever" else "time limit"
        return None

    def partition(self) -> dict[tuple[str, str], int]:
        """Identifier -> the event that created its profile."""
        return {identifier: p.created for p in self.profiles for identifier in p.identifiers}
