"""Which entries of a profile are worth a row in ``external_id_mapping_updates``.

An identifier gets a row when it is attached, and again whenever that is needed for this to hold after every event: among the
identifiers of one type of a profile, those with the highest ``seq`` are those that the profile showed last. So a profile that
keeps showing the same e-mail has one row for it; one that goes back to an old e-mail gets another row for the old one; and
when profiles merge, the value that either of them showed last gets a row if its rows would place it behind the other's.

:class:`LastSeen` is the rule, in order. Only *runs* pass through it: events of one profile in a row, between its merges, that
show the same identifiers of a type. Runs of profiles that never merge need no order among each other and are done in bulk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cdp_assets.unified_profiles.numbers import NO_IDENTIFIER, NO_PROFILE, Entries, Ints, Outcome, Policy, State


@dataclass
class Shown:
    """The identifiers of one type that a profile showed last, the seq of the event that did, and of their newest rows (-1: too old).

    Without identifiers, for those shown were removed: ``row`` is then that of the newest row of the others (0: there is none).
    """

    identifiers: tuple[int, ...]
    seen: int
    row: int


@dataclass
class LastSeen:
    """Follows merges and shows in order. ``shown``: profile -> type -> what it showed last.

    ``rows``: profile -> identifier -> seq of its newest row; kept only where identifiers are removed.
    """

    shown: dict[int, dict[int, Shown]] = field(default_factory=dict)
    rows: dict[int, dict[int, int]] = field(default_factory=dict)

    def merge(self, profile: int, losers: list[int]) -> None:
        shown = self.shown.setdefault(profile, {})
        for loser in losers:
            self.rows.setdefault(profile, {}).update(self.rows.pop(loser, {}))
            for kind, theirs in self.shown.pop(loser, {}).items():
                shown[kind] = _newer(shown[kind], theirs) if kind in shown else theirs

    def show(self, profile: int, kind: int, identifiers: tuple[int, ...], seq: int, until: int) -> tuple[int, ...]:
        """The identifiers that get a row: shown from the event ``seq`` on, last at ``until``."""
        shown = self.shown.setdefault(profile, {})
        last = shown.get(kind)
        if last is not None and last.row >= 0 and last.identifiers == identifiers:
            last.seen = until
            return ()
        shown[kind] = Shown(identifiers, until, seq)
        return identifiers

    def settle(self, profile: int, seq: int) -> list[int]:
        """After the shows of a merging event: the identifiers that get a row because the other profile's rows are newer."""
        written: list[int] = []
        for last in self.shown.get(profile, {}).values():
            if last.row < 0:
                last.row = seq
                written += last.identifiers
        return written

    def remove(self, profile: int, kinds: Ints, identifier: int) -> None:
        """An identifier left the profile. When it was all that the profile showed last of its type, the next show writes rows."""
        kind = kinds[identifier]
        rows = self.rows.get(profile, {})
        rows.pop(identifier, None)
        last = self.shown.get(profile, {}).get(int(kind))
        if last is not None and identifier in last.identifiers:
            last.identifiers = tuple(i for i in last.identifiers if i != identifier)
            if not last.identifiers:
                last.row = max((row for i, row in rows.items() if kinds[i] == kind), default=0)


def _newer(one: Shown, other: Shown) -> Shown:
    newer, older = (one, other) if one.seen > other.seen else (other, one)
    if not newer.identifiers:
        return Shown((), newer.seen, max(newer.row, older.row))
    return Shown(newer.identifiers, newer.seen, newer.row if newer.row > older.row else -1)


class ShownRows(NamedTuple):
    """What profiles showed last, one row per identifier: profile, type, position, identifier, seen and row.

    NO_IDENTIFIER stands for what was shown last and removed since.
    """

    profile: Ints
    kind: Ints
    position: Ints
    identifier: Ints
    seen: Ints
    row: Ints

    @classmethod
    def empty(cls) -> ShownRows:
        return cls(*(np.empty(0, dtype=np.int64) for _ in cls._fields))


class Runs(NamedTuple):
    """Shows in a row: profile, type, the code of what was shown, first and last entry. Sorted by profile, type and entry."""

    profile: Ints
    kind: Ints
    code: Ints
    first: Ints
    last: Ints


@dataclass
class _Codes:
    """Tuples of identifiers as numbers: a single identifier is its own code, tuples get negative ones."""

    numbers: dict[tuple[int, ...], int] = field(default_factory=dict)
    tuples: list[tuple[int, ...]] = field(default_factory=list)

    def of_groups(self, identifiers: Ints, starts: Ints) -> Ints:
        """The code of each group of ``identifiers``; group g begins at ``starts[g]``."""
        codes = identifiers[starts]
        ends = np.append(starts[1:], len(identifiers))
        for group in np.flatnonzero(ends - starts > 1).tolist():
            codes[group] = self.code(tuple(identifiers[starts[group] : ends[group]].tolist()))
        return codes

    def code(self, members: tuple[int, ...]) -> int:
        number = self.numbers.get(members)
        if number is None:
            self.tuples.append(members)
            number = self.numbers[members] = -len(self.tuples)
        return number

    def members(self, code: int) -> tuple[int, ...]:
        return (code,) if code >= 0 else self.tuples[-code - 1]


def mapping_rows(
    entries: Entries, outcome: Outcome, state: State, policy: Policy, before: ShownRows, newest: Ints | None = None
) -> tuple[tuple[Ints, Ints, Ints], ShownRows]:
    """The rows (entry, profile, identifier), and what the profiles met show at the end. ``before``: what they showed.

    ``newest``: the seq of each identifier's newest row so far (0: none); needed where entries remove identifiers.
    """
    codes = _Codes()
    runs = _runs(entries, outcome, state, len(policy.types), codes)
    moving = np.unique(np.concatenate([outcome.merged[1], outcome.merged[2], outcome.removed[2]]))
    in_order = np.isin(runs.profile, moving)
    old_moves = np.isin(before.profile, moving)
    quiet, quiet_after = _in_bulk(
        entries, Runs(*(c[~in_order] for c in runs)), codes, ShownRows(*(c[~old_moves] for c in before))
    )
    moved, moved_after = _in_order(
        entries, outcome, state, Runs(*(c[in_order] for c in runs)), codes, ShownRows(*(c[old_moves] for c in before)), newest
    )
    rows = tuple(np.concatenate(pair) for pair in zip(quiet, moved, strict=True))
    after = ShownRows(*(np.concatenate(pair) for pair in zip(quiet_after, moved_after, strict=True)))
    return rows, after  # type: ignore[return-value]


def _runs(entries: Entries, outcome: Outcome, state: State, kinds: int, codes: _Codes) -> Runs:
    entry, identifier = entries.entry_of_member[outcome.kept], entries.members[outcome.kept]
    if not len(entry):
        return Runs(*(np.empty(0, dtype=np.int64) for _ in Runs._fields))
    key = entry * kinds + state.kinds[identifier]
    if np.any(key[1:] < key[:-1]):
        order = np.argsort(key, kind="stable")
        key, identifier = key[order], identifier[order]
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    code = codes.of_groups(identifier, starts)
    entry, kind = key[starts] // kinds, key[starts] % kinds
    profile = outcome.profile[entry]
    order = np.lexsort((kind, profile)) if np.any(profile[1:] != profile[:-1]) else np.argsort(kind, kind="stable")
    profile, kind, code, entry = profile[order], kind[order], code[order], entry[order]
    epoch = merges_until(outcome, profile, entry)
    begins = np.append(
        True,
        (profile[1:] != profile[:-1]) | (kind[1:] != kind[:-1]) | (code[1:] != code[:-1]) | (epoch[1:] != epoch[:-1]),
    )
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(entry)) - 1
    return Runs(profile[first], kind[first], code[first], entry[first], entry[last])


def merges_until(outcome: Outcome, profile: Ints, entry: Ints) -> Ints:
    """How many merges and removals each profile had seen at an entry, that one included."""
    happened = np.concatenate([outcome.merged[0], outcome.removed[0]])
    whose = np.concatenate([outcome.merged[2], outcome.removed[2]])
    if not len(happened):
        return np.zeros(len(profile), dtype=np.int64)
    profiles, place = np.unique(whose, return_inverse=True)
    width = max(int(happened.max()), int(entry.max(initial=0))) + 2
    times = np.sort(place * width + happened)
    found = np.searchsorted(profiles, profile)
    found[found == len(profiles)] = 0
    concerned = profiles[found] == profile
    counts = np.searchsorted(times, found * width + entry, side="right") - np.searchsorted(times, found * width)
    return np.where(concerned, counts, 0)


def _in_bulk(entries: Entries, runs: Runs, codes: _Codes, before: ShownRows) -> tuple[tuple[Ints, Ints, Ints], ShownRows]:
    """Profiles that neither merge nor lose identifiers: each run has its row, but for a first one that goes on with what was shown."""
    size = len(runs.profile)
    opens = np.ones(size, dtype=np.bool_)
    opens[1:] = (runs.profile[1:] != runs.profile[:-1]) | (runs.kind[1:] != runs.kind[:-1])
    rows = entries.seq[runs.first] if size else np.empty(0, dtype=np.int64)
    writes = np.ones(size, dtype=np.bool_)
    known = _shown(before)
    kept = np.ones(len(before.profile), dtype=np.bool_)
    if size and known:
        replaced = set()
        heads = np.flatnonzero(opens)
        for run, profile, kind, code in zip(
            heads.tolist(), runs.profile[heads].tolist(), runs.kind[heads].tolist(), runs.code[heads].tolist(), strict=True
        ):
            last = known.get(profile, {}).get(kind)
            if last is None:
                continue
            replaced.add((profile, kind))
            if codes.members(code) == last.identifiers:
                writes[run], rows[run] = False, last.row
        pairs = zip(before.profile.tolist(), before.kind.tolist(), strict=True)
        kept = np.array([pair not in replaced for pair in pairs], dtype=np.bool_)
    written = _expanded(codes, runs.code[writes], runs.first[writes], runs.profile[writes])
    closes = np.append(opens[1:], True) if size else opens
    seen = entries.seq[runs.last[closes]] if size else np.empty(0, dtype=np.int64)
    place, identifier, position = _members(codes, runs.code[closes])
    now = ShownRows(runs.profile[closes][place], runs.kind[closes][place], position, identifier, seen[place], rows[closes][place])
    after = ShownRows(*(np.concatenate([old[kept], new]) for old, new in zip(before, now, strict=True)))
    return (written[1], written[2], written[0]), after


def _members(codes: _Codes, found: Ints) -> tuple[Ints, Ints, Ints]:
    """(place in ``found``, identifier, position) of every member of every code."""
    if not np.any(found < 0):
        return np.arange(len(found)), found, np.zeros(len(found), dtype=np.int64)
    members = [codes.members(code) for code in found.tolist()]
    sizes = np.array([len(m) for m in members], dtype=np.int64)
    identifiers = np.array([i for m in members for i in m], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    return np.repeat(np.arange(len(found)), sizes), identifiers, np.arange(len(identifiers)) - np.repeat(starts, sizes)


def _expanded(codes: _Codes, found: Ints, *columns: Ints) -> tuple[Ints, ...]:
    place, identifier, _ = _members(codes, found)
    return (identifier, *(column[place] for column in columns))


def _shown(before: ShownRows) -> dict[int, dict[int, Shown]]:
    found: dict[int, dict[int, Shown]] = {}
    order = np.lexsort((before.position, before.kind, before.profile))
    for profile, kind, _, identifier, seen, row in zip(*(column[order].tolist() for column in before), strict=True):
        last = found.setdefault(profile, {}).get(kind)
        if last is None:
            found[profile][kind] = Shown(() if identifier == NO_IDENTIFIER else (identifier,), seen, row)
        else:
            last.identifiers = (*last.identifiers, identifier)
    return found


def _in_order(
    entries: Entries, outcome: Outcome, state: State, runs: Runs, codes: _Codes, before: ShownRows, newest: Ints | None
) -> tuple[tuple[Ints, Ints, Ints], ShownRows]:
    """Profiles that merge or lose identifiers, entry by entry."""
    seen = LastSeen(_shown(before), _rows_by_profile(state, newest))
    removals = len(outcome.removed[0]) > 0
    written: list[tuple[int, int, int]] = []
    order = np.argsort(runs.first, kind="stable")
    shows = list(zip(*(column[order].tolist() for column in runs), strict=True))
    changes: dict[int, list[tuple[int, int, bool]]] = {}
    for entry, loser, winner in zip(*(column.tolist() for column in outcome.merged), strict=True):
        changes.setdefault(entry, []).append((loser, winner, True))
    for entry, identifier, profile in zip(*(column.tolist() for column in outcome.removed), strict=True):
        changes.setdefault(entry, []).append((identifier, profile, False))
    seq_of = entries.seq
    at, size = 0, len(shows)
    for entry in sorted({*changes, *(show[3] for show in shows)}):
        merged = changes.get(entry, ())
        seq = int(seq_of[entry])
        for number, profile, is_merge in merged:
            if is_merge:
                seen.merge(profile, [number])
            else:
                seen.remove(profile, state.kinds, number)
        new: list[tuple[int, int, int]] = []
        while at < size and shows[at][3] == entry:
            profile, kind, code, _, until = shows[at]
            new += [(entry, profile, i) for i in seen.show(profile, kind, codes.members(code), seq, int(seq_of[until]))]
            at += 1
        for profile in {profile for _, profile, is_merge in merged if is_merge}:
            new += [(entry, profile, i) for i in seen.settle(profile, seq)]
        if removals:
            for _, profile, identifier in new:
                seen.rows.setdefault(profile, {})[identifier] = seq
        written += new
    found = np.array(written, dtype=np.int64).reshape(-1, 3)
    return (found[:, 0], found[:, 1], found[:, 2]), _rows_of(seen.shown)


def _rows_by_profile(state: State, newest: Ints | None) -> dict[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = {}
    if newest is not None:
        for identifier in np.flatnonzero(state.owner != NO_PROFILE).tolist():
            found.setdefault(int(state.owner[identifier]), {})[identifier] = int(newest[identifier])
    return found


def _rows_of(shown: dict[int, dict[int, Shown]]) -> ShownRows:
    rows = [
        (profile, kind, position, identifier, last.seen, last.row)
        for profile, kinds in shown.items()
        for kind, last in kinds.items()
        for position, identifier in enumerate(last.identifiers or (NO_IDENTIFIER,))
    ]
    found = np.array(rows, dtype=np.int64).reshape(-1, 6)
    return ShownRows(*(found[:, column] for column in range(6)))
