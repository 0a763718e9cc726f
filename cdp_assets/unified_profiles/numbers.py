"""Identity resolution in numbers: what it takes and what it tells. Identifiers, types and profiles are whole numbers here.

A profile's number is the seq of the entry that created it, so a smaller number is an older profile. An identifier's number is its
place in the arrays of :class:`State`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cdp_assets.unified_profiles.identifiers import Rules

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NO_PROFILE = -1
NO_IDENTIFIER = -1
MAX_MERGES = 100
MAX_MAPPINGS = 1_000

NO_IDENTIFIERS = "no_matching_identifiers"
BLOCKED = "id_value_blocked"
VALUE_LIMIT = "identifier_value_limit_exceeded"
TIME_LIMIT = "identifier_value_time_limit_exceeded"
MERGE_CAP = "profile_merge_limit_reached"
MAPPING_CAP = "profile_mapping_limit_reached"
SHARED_DEVICE = "shared_device"
SEPARATED = "separated"
REMOVAL_REFUSED = "removal_refused"
REASONS = (
    NO_IDENTIFIERS,
    BLOCKED,
    VALUE_LIMIT,
    TIME_LIMIT,
    MERGE_CAP,
    MAPPING_CAP,
    SHARED_DEVICE,
    SEPARATED,
    REMOVAL_REFUSED,
)


@dataclass(frozen=True)
class Entries:
    """Messages and removals in received order: ``seq`` ascending, ``at`` (received, microseconds), which of them are removals.

    ``members[starts[i] : starts[i + 1]]`` are the identifiers of entry i, in the order of extraction and without repetition.
    """

    seq: Ints
    at: Ints
    removes: Bools
    starts: Ints
    members: Ints

    def __len__(self) -> int:
        return len(self.seq)

    @property
    def entry_of_member(self) -> Ints:
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.starts))


@dataclass(frozen=True)
class State:
    """What the entries meet. Per identifier: its type's number, the canonical profile that holds it (or NO_PROFILE), since when
    (microseconds), and the number of the profile that it was attached to. Per canonical profile met: its number (``profiles``,
    ascending) and how many it took in (``merges``).
    """

    kinds: Ints
    owner: Ints
    attached: Ints
    profiles: Ints
    merges: Ints

    @classmethod
    def empty(cls, kinds: Ints) -> State:
        nothing = np.empty(0, dtype=np.int64)
        return cls(kinds, np.full(len(kinds), NO_PROFILE, dtype=np.int64), np.zeros(len(kinds), dtype=np.int64), nothing, nothing)


@dataclass(frozen=True)
class Policy:
    """The rules in numbers, by type number: rank (0 is the highest priority), limit, window (microseconds, -1: ever), device or person.

    ``separations``: pairs of sets of identifiers of which no profile may hold one of each.
    """

    types: tuple[str, ...]
    rank: tuple[int, ...]
    limit: tuple[int, ...]
    window: tuple[int, ...]
    device: tuple[bool, ...]
    separate_devices: bool = False
    separations: tuple[tuple[frozenset[int], frozenset[int]], ...] = ()
    max_merges: int = 100
    max_mappings: int = 1_000

    @classmethod
    def of(
        cls,
        rules: Rules,
        types: tuple[str, ...],
        *,
        devices: tuple[str, ...] = (),
        separate_devices: bool = False,
        separations: tuple[tuple[frozenset[int], frozenset[int]], ...] = (),
        max_merges: int | None = None,
        max_mappings: int | None = None,
    ) -> Policy:
        """The rules of the given types, with Segment's caps unless others are given."""
        found = [rules.rule(kind) for kind in types]
        order = sorted(range(len(types)), key=lambda code: found[code].rank)
        return cls(
            types,
            tuple(order.index(code) for code in range(len(types))),
            tuple(rule.limit for rule in found),
            tuple(-1 if rule.window is None else round(rule.window.total_seconds()) * 1_000_000 for rule in found),
            tuple(kind in devices for kind in types),
            separate_devices,
            separations,
            MAX_MERGES if max_merges is None else max_merges,
            MAX_MAPPINGS if max_mappings is None else max_mappings,
        )

    @property
    def user_id(self) -> int:
        """The number of the type user_id, or -1."""
        return self.types.index("user_id") if "user_id" in self.types else -1


def _none() -> Ints:
    return np.empty(0, dtype=np.int64)


@dataclass
class Outcome:
    """What the entries did.

    ``profile``: each entry's profile when it was taken (NO_PROFILE: unresolved, or a removal). ``kept``: per member, whether the
    profile owns it after the entry. The rest are columns of steps: entry, and profiles or identifiers; in ``merged`` the winner
    is canonical after the entry; ``refused`` has identifier (or NO_IDENTIFIER) and the place of the reason in REASONS.
    """

    profile: Ints
    kept: Bools
    created: Ints = field(default_factory=_none)
    merged: tuple[Ints, Ints, Ints] = field(default_factory=lambda: (_none(), _none(), _none()))
    attached: tuple[Ints, Ints, Ints] = field(default_factory=lambda: (_none(), _none(), _none()))
    removed: tuple[Ints, Ints, Ints] = field(default_factory=lambda: (_none(), _none(), _none()))
    refused: tuple[Ints, Ints, Ints] = field(default_factory=lambda: (_none(), _none(), _none()))
