"""How often the tracking plan was violated, by event and kind."""

from __future__ import annotations

from collections.abc import Sequence

from cdp_assets.raw_events.plan_findings import UNPLANNED_EVENT
from cdp_assets.raw_events.tables import VIOLATIONS
from resources.warehouse import Warehouse

Counted = tuple[str, str, str, int]


def violations_by_event(warehouse: Warehouse, keys: Sequence[str]) -> dict[str, list[Counted]]:
    """(event or call, kind, action, rows) of each window, most frequent first.

    Names of unplanned events come from outside and may hold anything: they are counted together, without a name.
    """
    table = warehouse.table(VIOLATIONS.ref)
    planned = (table.violation_type != UNPLANNED_EVENT) & table.event.notnull()
    named = table.filter(table.partition_key.isin(list(keys))).mutate(called=planned.ifelse(table.event, table.type))
    counted = named.group_by("partition_key", "called", "violation_type", "action").agg(rows=named.count())
    found: dict[str, list[Counted]] = {key: [] for key in keys}
    for row in warehouse.arrow(counted).to_pylist():
        found[row["partition_key"]].append((row["called"], row["violation_type"], row["action"], row["rows"]))
    return {key: sorted(rows, key=lambda row: (-row[3], row)) for key, rows in found.items()}


def as_markdown(rows: Sequence[Counted], most: int = 50) -> str:
    """A table of the most frequent violations; the rest in its last line."""
    lines = ["| event | violation | action | rows |", "|---|---|---|---:|"]
    lines += [f"| {event.replace('|', ' ')} | {kind} | {action} | {count} |" for event, kind, action, count in rows[:most]]
    if len(rows) > most:
        lines.append(f"| … | | | {sum(row[3] for row in rows[most:])} |")
    return "\n".join(lines) if rows else "none"
