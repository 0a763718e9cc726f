"""How old an asset may grow before the UI says so: derived from the schedules that build it, so that the two never differ.

Dagster's freshness is of an asset, not of a partition: a backfill of an old day makes it look fresh.
"""

import datetime as dt
from collections.abc import Sequence

import dagster as dg

from cdp_assets.space.models.common import PartitionKind, Schedule
from cdp_assets.space.space import Space
from schedules.ticks import interval_minutes

HOUR = dt.timedelta(hours=1)
_PARTITION = {
    PartitionKind.hourly: HOUR,
    PartitionKind.daily: dt.timedelta(days=1),
    PartitionKind.weekly: dt.timedelta(days=7),
    PartitionKind.monthly: dt.timedelta(days=31),
}


def with_freshness(space: Space, definitions: dg.Definitions) -> dg.Definitions:
    """The definitions with a policy on each asset that starts by itself; as they are where the space's automation is off.

    A warning after the interval and as much again, an hour at most; a failure after one interval more.
    """
    if space.config.automation == "off":
        return definitions
    intervals = _intervals(space, definitions)
    return definitions.map_resolved_asset_specs(
        func=lambda spec: dg.apply_freshness_policy(spec, _policy(intervals[spec.key])) if spec.key in intervals else spec
    )


def _intervals(space: Space, definitions: dg.Definitions) -> dict[dg.AssetKey, dt.timedelta]:
    """How often each asset is built at least: as its most frequent schedule says; raw events and profiles once a partition."""
    assets: Sequence[dg.AssetsDefinition] = [a for a in definitions.assets or () if isinstance(a, dg.AssetsDefinition)]
    rooms = {(space.name, "raw_events"), (space.name, "unified_profiles")}
    found = {key: _PARTITION[space.config.partitions] for a in assets for key in a.keys if tuple(key.path[:2]) in rooms}
    for schedule in definitions.schedules or ():
        assert isinstance(schedule, dg.ScheduleDefinition)  # the other kind is of jobs with partitions
        selection = getattr(schedule.job, "selection", None)
        if selection is None:
            continue  # the demo's pulse runs no asset
        interval = dt.timedelta(minutes=interval_minutes(Schedule(cron=str(schedule.cron_schedule))))
        for key in selection.resolve(assets):
            found[key] = min(interval, found.get(key, interval))
    return found


def _policy(interval: dt.timedelta) -> dg.FreshnessPolicy:
    grace = min(interval, HOUR)
    return dg.FreshnessPolicy.time_window(warn_window=interval + grace, fail_window=2 * interval + grace)
