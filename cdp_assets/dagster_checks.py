"""Rules of a schema as Dagster asset checks: which checks an asset has, and how a verdict is shown.

What belongs here: specs and results. What does not: the rules (``schemas.py`` of a room), counting (``quality.py``), and
writing verdicts by partition (``dagster_internals.py``). https://docs.dagster.io/guides/test/asset-checks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from cdp_assets.quality import SAMPLE_ROWS, SCHEMA_CHECK, RowRule, RuleResult


def check_specs(
    asset_key: dg.AssetKey,
    rules: Sequence[RowRule] = (),
    *,
    blocking: bool = False,
    partitions_def: dg.PartitionsDefinition | None = None,
    name: str = SCHEMA_CHECK,
    description: str = "Columns, types and values are what the table's schema says.",
) -> list[dg.AssetCheckSpec]:
    """One check for the schema as a whole, and one for each rule across rows or tables.

    A check costs an event per partition, so the rules of one schema share one. ``partitions_def``: the asset's own.
    """
    named = [(name, description), *((rule.name, rule.description) for rule in rules)]
    return [
        dg.AssetCheckSpec(check, asset=asset_key, description=text, blocking=blocking, partitions_def=partitions_def)
        for check, text in named
    ]


def by_check(results: Sequence[RuleResult], name: str = SCHEMA_CHECK) -> dict[str, list[RuleResult]]:
    """Results of one evaluation, by the check of :func:`check_specs` that reports them (``name`` for the schema's own)."""
    found: dict[str, list[RuleResult]] = {}
    for result in results:
        found.setdefault(name if result.check == SCHEMA_CHECK else result.check, []).append(result)
    return found


def check_result(
    asset_key: dg.AssetKey,
    check_name: str,
    results: Sequence[RuleResult],
    partition: str | None = None,
    *,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """The verdict on one table, or on one partition of it (``partition`` is only named in the description).

    Passing: the number of rows and rules. Failing: each broken rule with its count, the threshold (0), and masked rows.
    """
    broken = [result for result in results if not result.passed]
    metadata: dict[str, Any] = {"rows": max((result.rows for result in results), default=0), "rules": len(results)}
    if not broken:
        return dg.AssetCheckResult(asset_key=asset_key, check_name=check_name, passed=True, severity=severity, metadata=metadata)
    metadata["failing"] = sum(result.failing for result in broken)
    metadata["threshold"] = 0
    metadata["broken rules"] = dg.MetadataValue.md(
        markdown_table([{"rule": r.rule, "failing": r.failing, "of rows": r.rows, "meaning": r.detail} for r in broken])
    )
    for result in broken:
        if result.sample:
            metadata[f"sample: {result.rule}"] = dg.MetadataValue.md(markdown_table(result.sample[:SAMPLE_ROWS]))
    where = f" in partition {partition}" if partition else ""
    counted = "; ".join(f"{result.rule} ({result.failing} of {result.rows})" for result in broken)
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=check_name,
        passed=False,
        severity=severity,
        description=f"{len(broken)} of {len(results)} rules broken{where}: {counted}",
        metadata=metadata,
    )


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows (at least one) as a Markdown table. Columns are those of the first row."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = "NULL" if value is None else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("\r", " ")
