"""The accounting of a sync: what was considered, and what became of each key. Every number is counted, none is a difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


class AccountingError(Exception):
    """The counts of a sync do not add up to what was considered: a defect of this room, never of the data."""


@dataclass(frozen=True)
class SyncResult:
    """What a sync did, in keys.

    ``considered = unchanged + delivered + rejected + waiting + unknown + sum(withheld) + sum(held)``. ``warnings`` are delivered keys
    whose answer warned. ``operations`` counts what was delivered, by kind. ``hold`` names the reason when the sync held. ``batches`` is the
    number of batches handed to the destination.
    """

    activation: str
    account: str
    seq: int
    considered: int
    unchanged: int
    delivered: int = 0
    warnings: int = 0
    rejected: int = 0
    waiting: int = 0
    unknown: int = 0
    withheld: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    operations: Mapping[str, int] = field(default_factory=dict)
    hold: str = ""
    hold_detail: str = ""
    batches: int = 0

    @property
    def accounted(self) -> int:
        parts = (self.unchanged, self.delivered, self.rejected, self.waiting, self.unknown)
        return sum(parts) + sum(self.withheld.values()) + sum(self.held.values())

    def check(self) -> SyncResult:
        """This result. Raises :class:`AccountingError` when a key is missing or counted twice."""
        if self.accounted != self.considered:
            raise AccountingError(
                f"sync {self.seq} of {self.activation}: considered {self.considered}, accounted {self.accounted}"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """The object of ``cdp run --json``."""
        return {
            "considered": self.considered,
            "unchanged": self.unchanged,
            "delivered": self.delivered,
            "rejected": self.rejected,
            "waiting": self.waiting,
            "unknown": self.unknown,
            "withheld": dict(self.withheld),
            "held": dict(self.held),
            "operations": {kind: self.operations.get(kind, 0) for kind in ("enter", "change", "exit", "retract")},
        }


def tally(groups: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by outcome from groups of intents: rows with outcome, reason, operation, warned and n."""
    totals: dict[str, Any] = {"delivered": 0, "warnings": 0, "rejected": 0, "waiting": 0, "unknown": 0}
    withheld: dict[str, int] = {}
    held: dict[str, int] = {}
    operations: dict[str, int] = {}
    for group in groups:
        outcome, n = group["outcome"], int(group["n"])
        if outcome in ("withheld", "held"):
            by_reason = withheld if outcome == "withheld" else held
            by_reason[group["reason"]] = by_reason.get(group["reason"], 0) + n
            continue
        if outcome not in totals:
            raise AccountingError(f"a key ended as {outcome!r}")
        totals[outcome] += n
        if outcome == "delivered":
            operations[group["operation"]] = operations.get(group["operation"], 0) + n
            totals["warnings"] += n if group["warned"] else 0
    ordered = {"withheld": withheld, "held": held, "operations": operations}
    return {**totals, **{name: dict(sorted(values.items())) for name, values in ordered.items()}}
