"""Partitions as windows [start, end) of received time in UTC, without Dagster.

The partition of an instant T is the one with start < T <= end, so that a closed partition's own as_of, its end, belongs
to it. Keys are those of Dagster's time-window partitions.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cdp_assets.space.models.common import PartitionKind
from cdp_assets.space.models.settings import SpaceConfig

_FORMATS = {
    PartitionKind.hourly: "%Y-%m-%d-%H:%M",
    PartitionKind.daily: "%Y-%m-%d",
    PartitionKind.weekly: "%Y-%m-%d",
    PartitionKind.monthly: "%Y-%m-%d",
}


@dataclass(frozen=True, order=True)
class Window:
    """A partition: key and its half-open window of received time, aware UTC."""

    start: dt.datetime
    end: dt.datetime
    key: str


def _first(config: SpaceConfig) -> dt.datetime:
    start = dt.datetime(config.start_date.year, config.start_date.month, config.start_date.day, tzinfo=dt.UTC)
    if config.partitions is PartitionKind.weekly:
        start -= dt.timedelta(days=(start.weekday() + 1) % 7)  # Dagster's weeks start on Sunday
    if config.partitions is PartitionKind.monthly:
        start = start.replace(day=1)
    return start


def _next(kind: PartitionKind, start: dt.datetime) -> dt.datetime:
    if kind is PartitionKind.hourly:
        return start + dt.timedelta(hours=1)
    if kind is PartitionKind.daily:
        return start + dt.timedelta(days=1)
    if kind is PartitionKind.weekly:
        return start + dt.timedelta(days=7)
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def window_at(config: SpaceConfig, start: dt.datetime) -> Window:
    return Window(start, _next(config.partitions, start), start.strftime(_FORMATS[config.partitions]))


def windows(config: SpaceConfig, as_of: dt.datetime) -> list[Window]:
    """All windows from the space's start up to the one that holds ``as_of``, in order. Empty when as_of is not after the start."""
    found = []
    start = _first(config)
    while start < as_of:
        window = window_at(config, start)
        found.append(window)
        start = window.end
    return found


def window_of(config: SpaceConfig, as_of: dt.datetime) -> Window:
    """The window with start < as_of <= end. Raises ValueError when as_of is not after the space's start."""
    found = windows(config, as_of)
    if not found:
        raise ValueError(f"{as_of.isoformat()} is not after the start of space {config.name}, {config.start_date}")
    return found[-1]


def window_by_key(config: SpaceConfig, key: str) -> Window:
    """The window of a partition key. Raises ValueError for a key of another kind."""
    start = dt.datetime.strptime(key, _FORMATS[config.partitions]).replace(tzinfo=dt.UTC)
    return window_at(config, start)


def as_of_of(window: Window, now: dt.datetime) -> dt.datetime:
    """The as_of of a build of a window: its end once closed, else ``now``."""
    return min(window.end, now)
