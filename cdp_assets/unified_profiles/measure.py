"""How well profiles are persons, where somebody knows who is who: pairwise precision and recall of identifiers.

A pair of identifiers is *joined* when one profile holds both, and *right* when one person uses both. An identifier that several
persons use (a shared device) is right beside those of any of them. Recall looks at identifiers of one person alone; what it can
reach at most are the pairs that this person's own messages connect. Everything is counted in groups, never pair by pair.
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path

import orjson

Identifier = tuple[str, str]


@dataclass(frozen=True)
class Truth:
    """``persons``: who uses an identifier. ``parts``: for each person, sets of identifiers that the person's messages connect."""

    persons: Mapping[Identifier, frozenset[str]]
    parts: Mapping[str, tuple[frozenset[Identifier], ...]]

    @classmethod
    def of(cls, parts: Mapping[str, Iterable[Iterable[Identifier]]]) -> Truth:
        found = {person: tuple(frozenset(part) for part in of_person) for person, of_person in parts.items()}
        persons: dict[Identifier, set[str]] = defaultdict(set)
        for person, of_person in found.items():
            for part in of_person:
                for identifier in part:
                    persons[identifier].add(person)
        return cls({identifier: frozenset(users) for identifier, users in persons.items()}, found)


@dataclass(frozen=True)
class Measure:
    """Counts of pairs. ``joined`` and ``right``: of all identifiers. ``true``, ``found``, ``reachable``: of those of one person alone.

    ``wrong_profiles``: profiles with a pair that is not right. ``identifiers``: how many were measured.
    """

    identifiers: int
    joined: int
    right: int
    true: int
    found: int
    reachable: int
    wrong_profiles: int

    @property
    def precision(self) -> float:
        return self.right / self.joined if self.joined else 1.0

    @property
    def recall(self) -> float:
        return self.found / self.true if self.true else 1.0

    @property
    def reachable_recall(self) -> float:
        return self.reachable / self.true if self.true else 1.0


def read_truth(path: Path) -> Truth | None:
    """The truth beside generated data: ``{"persons": {person: {"parts": [[[type, value], …], …]}}}``; None where there is none."""
    if not path.exists():
        return None
    persons = orjson.loads(path.read_bytes())["persons"]
    return Truth.of({name: [[(k, v) for k, v in part] for part in person["parts"]] for name, person in persons.items()})


def measure(held: Iterable[tuple[str, str, str]], truth: Truth) -> Measure:
    """``held``: (type, value, profile), each identifier once. Those that the truth does not know are left out."""
    of_profile: dict[str, Counter[frozenset[str]]] = defaultdict(Counter)
    present: set[Identifier] = set()
    for kind, value, profile in held:
        users = truth.persons.get((kind, value))
        if users:
            present.add((kind, value))
            of_profile[profile][users] += 1
    joined = wrong = wrong_profiles = found = 0
    true: Counter[str] = Counter()
    for groups in of_profile.values():
        joined += comb(groups.total(), 2)
        strange = _strange_pairs(groups)
        wrong += strange
        wrong_profiles += strange > 0
        for users, count in groups.items():
            if len(users) == 1:
                found += comb(count, 2)
                true[next(iter(users))] += count
    own = {identifier for identifier in present if len(truth.persons[identifier]) == 1}
    reachable = sum(comb(len(part & own), 2) for parts in truth.parts.values() for part in parts)
    pairs = sum(comb(count, 2) for count in true.values())
    return Measure(len(present), joined, joined - wrong, pairs, found, reachable, wrong_profiles)


def _strange_pairs(groups: Counter[frozenset[str]]) -> int:
    """Pairs of identifiers that have no person in common, by the sizes of the groups of equal persons."""
    items = list(groups.items())
    return sum(
        count * other
        for position, (users, count) in enumerate(items)
        for others, other in items[position + 1 :]
        if not users & others
    )


def markdown(measured: Measure) -> str:
    """The numbers as a table and a plot."""
    rows = [
        ("precision", measured.precision, f"{measured.right:,} of {measured.joined:,} pairs in one profile"),
        ("recall", measured.recall, f"{measured.found:,} of {measured.true:,} pairs of one person"),
        ("reachable", measured.reachable_recall, f"{measured.reachable:,} of them are connected by the person's own messages"),
    ]
    table = "\n".join(f"| {name} | {value:.4f} | {text} |" for name, value, text in rows)
    image = base64.b64encode(_svg([(name, value) for name, value, _ in rows]).encode()).decode()
    return (
        f"![precision and recall](data:image/svg+xml;base64,{image})\n\n| | | |\n|---|---|---|\n{table}\n\n"
        f"{measured.identifiers:,} identifiers; {measured.wrong_profiles:,} profiles hold identifiers of several persons."
    )


def _svg(bars: list[tuple[str, float]]) -> str:
    """Horizontal bars from 0 to 1."""
    parts = []
    for row, (name, value) in enumerate(bars):
        y = 10 + row * 30
        parts.append(f'<text x="78" y="{y + 15}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="86" y="{y}" width="240" height="20" fill="#e4e7ee"/>')
        parts.append(f'<rect x="86" y="{y}" width="{value * 240:.1f}" height="20" fill="#4f63d2"/>')
        parts.append(f'<text x="334" y="{y + 15}">{value:.4f}</text>')
    height = 20 + len(bars) * 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="{height}" font-family="sans-serif" font-size="13">'
        f"{''.join(parts)}</svg>"
    )
