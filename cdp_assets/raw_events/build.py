"""Windows of received time: how many lines each holds, what became of them, and which ones an intake changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import ibis.expr.types as ir

from cdp_assets.raw_events.calendar import Calendar
from cdp_assets.raw_events.intake import BEFORE_START, IntakeResult
from cdp_assets.raw_events.tables import BUILDS, DUPLICATES, LANDING_FILES, LINE_COUNTS, MESSAGES, QUARANTINE, TABLES
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.time import Window
from resources.warehouse import Warehouse, timestamp_literal


@dataclass(frozen=True)
class Counts:
    """Rows of one window, each number counted in its own table."""

    lines: int = 0
    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0


def build_window(warehouse: Warehouse, config: SpaceConfig, windows: Sequence[Window], as_of: dt.datetime) -> dict[str, Counts]:
    """What ``windows`` hold as known at ``as_of``; the counts by window key.

    The intake has placed and judged every line. ``lines`` is what it counted while reading, less what is not yet known at ``as_of``.
    """
    if not windows:
        return {}
    warehouse.ensure(*TABLES)
    keys = [window.key for window in windows]
    counted = warehouse.table(LINE_COUNTS.ref)
    counted = counted.filter(counted.partition_key.isin(keys))
    lines = _by_key(warehouse, counted.group_by("partition_key").agg(n=counted.lines.sum()))
    found = []
    for spec, at in ((MESSAGES, "received_at"), (DUPLICATES, "received_at"), (QUARANTINE, "window_at")):
        rows = warehouse.table(spec.ref)
        rows = rows.filter(rows.partition_key.isin(keys))
        later = rows[at] >= timestamp_literal(as_of)
        known, unknown = (
            _by_key(warehouse, part.group_by("partition_key").agg(n=part.count()))
            for part in (rows.filter(~later.fill_null(False)), rows.filter(later))
        )
        for key, number in unknown.items():
            lines[key] = lines.get(key, 0) - number
        found.append(known)
    accepted, duplicates, quarantined = found
    return {key: Counts(lines.get(key, 0), accepted.get(key, 0), duplicates.get(key, 0), quarantined.get(key, 0)) for key in keys}


def _by_key(warehouse: Warehouse, counted: ir.Table) -> dict[str, int]:
    return {key: int(number) for key, number in zip(*warehouse.arrow(counted).to_pydict().values(), strict=True)}


def first_window(config: SpaceConfig) -> Window:
    """The first partition of the space."""
    return Calendar(config).first


# -- late files ------------------------------------------------------------------------------------------------------


def affected_windows(warehouse: Warehouse, intake: IntakeResult) -> set[str]:
    """Keys of the windows whose content the intake's files changed: those of their lines, and those that held a message
    which one of their lines precedes. Files of an intake that no build followed (a run that broke off) count as well.
    """
    hashes = sorted({file.file_hash for file in intake.taken} | _unbuilt_files(warehouse))
    if not hashes:
        return set()
    counts = warehouse.table(LINE_COUNTS.ref)
    keys = counts.filter(counts.file_hash.isin(hashes)).select("partition_key").distinct()
    return {value for batch in warehouse.batches(keys) for value in batch.column(0).to_pylist()}


def _unbuilt_files(warehouse: Warehouse) -> set[str]:
    warehouse.ensure(LANDING_FILES, BUILDS)
    last = warehouse.scalar(warehouse.table(BUILDS.ref).loaded_at.max())
    files = warehouse.table(LANDING_FILES.ref)
    if last is None:
        return set()
    late = files.filter(files.loaded_at > timestamp_literal(last.replace(tzinfo=dt.UTC))).select("file_hash")
    return {value for batch in warehouse.batches(late) for value in batch.column(0).to_pylist()}


__all__ = ("BEFORE_START", "Counts", "affected_windows", "build_window", "first_window")
