"""Fault plans: which calls of a twin go wrong, and how. A plan is data, deterministic for its seed, and survives a restart.

A plan: ``{"kind": …, "nth": 3 | [1, 3], "rate": 0.2, "seed": 7, "times": 1, "path": "composite", "method": "POST",
"seconds": 1.5, "retry_after": 30, "rows": 0.5, "code": "…"}``. Only ``kind`` is required; without ``nth`` and ``rate`` every
matching call is hit. Calls that sign in are never hit unless ``path`` names them.
"""

from __future__ import annotations

import random
from typing import Any, Final

import orjson

from resources.sandbox.store import Store

KINDS: Final = (
    "429",  # the system's own "too many requests"
    "500",
    "503",
    "timeout_before_commit",  # nothing is stored, and no answer comes for `seconds`
    "commit_then_drop",  # everything is stored, and the connection closes without an answer
    "partial_failure",  # a share of the records (`rows`) fails with a retryable code (`code`)
    "expired_token",  # every token of the system expires before the call
    "quota_exhausted",  # the daily quota is used up
    "slow",  # a good answer, after `seconds`
)
_KEYS: Final = {"kind", "nth", "rate", "seed", "times", "path", "method", "seconds", "retry_after", "rows", "code"}


class FaultPlanError(ValueError):
    """A plan that says nothing clear. The message is for the person who wrote it."""


def check(plan: Any) -> dict[str, Any]:
    """The plan, if it is one. Raises :class:`FaultPlanError`."""
    if not isinstance(plan, dict):
        raise FaultPlanError("a fault plan is an object")
    plan = {**plan, "kind": str(plan.get("kind"))}
    if plan["kind"] not in KINDS:
        raise FaultPlanError(f"kind is one of {', '.join(KINDS)}")
    if unknown := sorted(set(plan) - _KEYS):
        raise FaultPlanError(f"unknown keys: {', '.join(unknown)}; known: {', '.join(sorted(_KEYS))}")
    if "nth" in plan and "rate" in plan:
        raise FaultPlanError("give nth or rate, not both")
    nth = plan.get("nth", [])
    if not all(isinstance(n, int) and n > 0 for n in (nth if isinstance(nth, list) else [nth])):
        raise FaultPlanError("nth is a positive integer or a list of them; 1 is the next matching call")
    for name in ("rate", "rows"):
        if name in plan and not (isinstance(plan[name], int | float) and 0 <= plan[name] <= 1):
            raise FaultPlanError(f"{name} is a share from 0 to 1")
    return plan


def next_fault(store: Store, system: str, method: str, path: str, signs_in: bool) -> dict[str, Any] | None:
    """The plan that hits this call, if any; every plan that the call matches counts it."""
    hit = None
    for id, plan, seen, fired in store.faults(system):
        if not _matches(plan, method, path, signs_in):
            continue
        fires = hit is None and _fires(plan, seen + 1, fired)
        store.fault_seen(id, fires)
        if fires:
            hit = plan
    return hit


def _matches(plan: dict[str, Any], method: str, path: str, signs_in: bool) -> bool:
    if plan.get("method", method) != method:
        return False
    return plan["path"] in path if "path" in plan else not signs_in


def _fires(plan: dict[str, Any], number: int, fired: int) -> bool:
    if fired >= plan.get("times", float("inf")):
        return False
    if "nth" in plan:
        return number in (plan["nth"] if isinstance(plan["nth"], list) else [plan["nth"]])
    if "rate" in plan:
        return random.Random(f"{plan.get('seed', 0)}:{number}").random() < plan["rate"]
    return True


def fails_row(plan: dict[str, Any] | None, record: Any) -> bool:
    """Does this record fail under a plan of partial failure? The same record always does, so that bisection finds it."""
    if plan is None or plan["kind"] != "partial_failure":
        return False
    content = orjson.dumps(record, option=orjson.OPT_SORT_KEYS).decode()
    return random.Random(f"{plan.get('seed', 0)}:{content}").random() < plan.get("rows", 0.5)
