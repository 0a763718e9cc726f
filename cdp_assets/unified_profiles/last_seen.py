"""Which events of a profile are worth a row in ``external_id_mapping_updates``.

An identifier gets a row when it is attached, and again whenever that is needed for this to hold after every event: among the
identifiers of one type of a profile, those with the highest ``seq`` are those that the profile showed last. So a profile that
keeps showing the same e-mail has one row for it; one that goes back to an old e-mail gets another row for the old one; and
when profiles merge, the value that either of them showed last gets a row if its rows would place it behind the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cdp_assets.unified_profiles.resolve import Step


@dataclass
class _Shown:
    """The identifiers of one type that a profile showed last, the event that did, and the event of their newest rows (-1: too old)."""

    identifiers: tuple[int, ...]
    seen: int
    row: int


@dataclass
class LastSeen:
    """Follows the steps of a resolution in order. ``types``: the type of each identifier number."""

    types: Sequence[str]
    _shown: dict[int, dict[str, _Shown]] = field(default_factory=dict)

    def rows(self, event: int, step: Step) -> list[int]:
        """The identifiers that get a row at this event (numbered from 0), attached to the step's profile."""
        shown = self._shown.setdefault(step.profile, {})
        for loser in step.merged:
            for kind, theirs in self._shown.pop(loser, {}).items():
                shown[kind] = _newer(shown[kind], theirs) if kind in shown else theirs
        written: list[int] = []
        kinds = self._by_type(step.kept)
        for kind, identifiers in kinds.items():
            last = shown.get(kind)
            if last is not None and last.row >= 0 and last.identifiers == identifiers:
                last.seen = event
            else:
                shown[kind] = _Shown(identifiers, event, event)
                written += identifiers
        if step.merged:
            for last in shown.values():
                if last.row < 0:
                    last.row = event
                    written += last.identifiers
        return written

    def _by_type(self, identifiers: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for identifier in identifiers:
            kind = self.types[identifier]
            found[kind] = (*found.get(kind, ()), identifier)
        return found


def _newer(one: _Shown, other: _Shown) -> _Shown:
    newer, older = (one, other) if one.seen > other.seen else (other, one)
    return _Shown(newer.identifiers, newer.seen, newer.row if newer.row > older.row else -1)
