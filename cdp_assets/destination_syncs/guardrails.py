"""What makes a sync hold instead of sending. Pure functions over a few numbers and words.

A hold has a *reason* (a word of docs/design.md) and a *code*, which says exactly what it is about: a release lifts the codes that
held the sync, so that another table that empties afterwards holds again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from cdp_assets.space.models.activations import Guardrails

BACKFILL: Final = "backfill"
CHECKS: Final = "checks"
LEDGER_LOST: Final = "ledger lost"
OLDER_AS_OF: Final = "older as_of"
RETIRED: Final = "retired key"
RENAMED: Final = "renamed"
DESTINATION: Final = "destination changed"
DEFINITION: Final = "definition changed"
GUARDRAIL: Final = "guardrail"

# In order of precedence: the first one names the hold.
ORDER: Final = (BACKFILL, CHECKS, LEDGER_LOST, OLDER_AS_OF, RETIRED, RENAMED, DESTINATION, DEFINITION, GUARDRAIL)

# These end by themselves, with the next ordinary run or when the checks pass; no release lifts them.
NOT_RELEASABLE: Final = frozenset({BACKFILL, CHECKS})

# Consent's own retracts need neither the definition nor the tables that a hold of these kinds doubts.
LETS_RETRACTS_PASS: Final = frozenset({DEFINITION, GUARDRAIL})


@dataclass(frozen=True)
class Hold:
    """Why a sync holds. ``code`` identifies the case for a release; ``detail`` is for people and holds no values."""

    reason: str
    code: str
    detail: str


def exits_guardrail(guardrails: Guardrails, *, present: int, leaving: int) -> list[Hold]:
    """Holds when more leave than ``max_exit_share`` of those present, and more than ``max_exits``. A share of null switches it off."""
    share = guardrails.max_exit_share
    if share is None or leaving <= present * share or leaving <= (guardrails.max_exits or 0):
        return []
    return [Hold(GUARDRAIL, "exits", f"{leaving} of {present} would leave, more than {share:.0%}")]


def tables_guardrail(guardrails: Guardrails, *, before: Mapping[str, int], now: Mapping[str, int]) -> list[Hold]:
    """Holds for each table on the path that is empty and was not, or lost more than ``max_table_loss`` of its rows since ``before``."""
    holds = []
    for table in sorted(before):
        rows_before, rows_now = before[table], now.get(table)
        if rows_now is None or rows_before == 0:
            continue
        if guardrails.empty_table and rows_now == 0:
            holds.append(Hold(GUARDRAIL, f"table:{table}", f"table {table} is empty, it had {rows_before} rows"))
        elif guardrails.max_table_loss is not None and rows_now < rows_before * (1 - guardrails.max_table_loss):
            holds.append(Hold(GUARDRAIL, f"table:{table}", f"table {table} has {rows_now} rows, it had {rows_before}"))
    return holds


def standing(holds: Collection[Hold], released: Collection[str]) -> list[Hold]:
    """The holds that no release lifted, the one that names the hold first."""
    left = [hold for hold in holds if hold.reason in NOT_RELEASABLE or hold.code not in released]
    return sorted(left, key=lambda hold: (ORDER.index(hold.reason), hold.code))
