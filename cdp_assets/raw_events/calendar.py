"""The window of a received time, for many at once and for any year.

Unlike a list of windows up to an instant this costs nothing for times far from the space's start: a line may say any year.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from cdp_assets.space.models.common import PartitionKind
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.time import Window, window_at, windows


class Calendar:
    """Partition keys of a space by received time (naive UTC). Times before the space's start belong to its first window."""

    def __init__(self, config: SpaceConfig) -> None:
        self._config = config
        start = config.start_date
        self.start = dt.datetime(start.year, start.month, start.day, tzinfo=dt.UTC)
        self.first: Window = windows(config, self.start + dt.timedelta(microseconds=1))[0]
        self._keys: dict[int, str] = {}

    def key_of(self, at: dt.datetime | None) -> str:
        """Partition key of one received time; that of the first window for none."""
        if at is None:
            return self.first.key
        start = self._start_of(at.replace(minute=0, second=0, microsecond=0, tzinfo=dt.UTC))
        return self.first.key if start <= self.first.start else window_at(self._config, start).key

    def keys(self, received_at: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Partition key of each received time of an array of timestamps without nulls."""
        hours = np.asarray(received_at).astype("datetime64[h]").astype(np.int64)
        distinct, place = np.unique(hours, return_inverse=True)
        names = pa.array([self._key_of_hour(int(hour)) for hour in distinct], pa.string())
        return names.take(pa.array(place))

    def _key_of_hour(self, hour: int) -> str:
        known = self._keys.get(hour)
        if known is None:
            known = self._keys[hour] = self.key_of(dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=hour))
        return known

    def _start_of(self, hour: dt.datetime) -> dt.datetime:
        kind = self._config.partitions
        if kind is PartitionKind.hourly:
            return hour
        day = hour.replace(hour=0)
        if kind is PartitionKind.daily:
            return day
        if kind is PartitionKind.monthly:
            return day.replace(day=1)
        # A week that would begin before the year 1 is before any space's start.
        back = (day.weekday() - self.first.start.weekday()) % 7
        return day - dt.timedelta(days=back) if day.toordinal() > back else self.first.start
