"""Cron texts, run requests and the overlap rule shared by the schedules."""

import datetime as dt
import itertools
from collections.abc import Sequence

import dagster as dg

from cdp_assets.dagster_support import META_AS_OF, TAG_AS_OF, format_instant, parse_instant
from cdp_assets.space.models.common import Schedule
from cdp_assets.space.models.settings import SpaceConfig

TAG_SCHEDULE = "cdp/schedule"
# The partition that a run builds once more because it has ended.
TAG_CLOSES = "cdp/closes"

_CRON = {
    "15m": "*/15 * * * *",
    "30m": "*/30 * * * *",
    "1h": "0 * * * *",
    "2h": "0 */2 * * *",
    "4h": "0 */4 * * *",
    "6h": "0 */6 * * *",
    "8h": "0 */8 * * *",
    "12h": "0 */12 * * *",
    "1d": "0 0 * * *",
}
_MINUTES = {"15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360, "8h": 480, "12h": 720, "1d": 1440}


def cron_of(schedule: Schedule) -> str:
    """The five-field cron expression of a schedule."""
    return _CRON[schedule.every] if schedule.every else str(schedule.cron)


def name_of(schedule: Schedule) -> str:
    """A word for a schedule that Dagster accepts in names, unique per cron expression and zone."""
    if schedule.every:
        return f"every_{schedule.every}"
    text = f"{schedule.cron}_{schedule.timezone}"
    return "cron_" + "".join(c if c.isalnum() else {"*": "x", "/": "per", ",": "and", "-": "to"}.get(c, "_") for c in text)


def interval_minutes(schedule: Schedule) -> int:
    """The schedule's interval; of a cron expression, the shortest gap between two of its ticks within a week."""
    if schedule.every:
        return _MINUTES[schedule.every]
    from croniter import croniter

    ticks = croniter(str(schedule.cron), dt.datetime(2026, 1, 4, tzinfo=dt.UTC))
    times = [ticks.get_next(dt.datetime) for _ in range(200)]
    gaps = [(later - earlier).total_seconds() / 60 for earlier, later in itertools.pairwise(times)]
    return int(min(gaps))


def default_status(config: SpaceConfig) -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if config.automation == "on" else dg.DefaultScheduleStatus.STOPPED


def overlapping(context: dg.ScheduleEvaluationContext, name: str) -> dg.SkipReason | None:
    """Why the tick is skipped while a run of this schedule has not ended: a schedule never overlaps itself."""
    unfinished = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
    runs = context.instance.get_runs(dg.RunsFilter(tags={TAG_SCHEDULE: name}, statuses=unfinished), limit=1)
    return dg.SkipReason(f"run {runs[0].run_id} of this schedule has not ended; the next tick takes its place") if runs else None


def closed_before(context: dg.ScheduleEvaluationContext, name: str, partition: str) -> bool:
    """Whether a run of this schedule that closes the window has succeeded."""
    tags = {TAG_SCHEDULE: name, TAG_CLOSES: partition}
    return bool(context.instance.get_runs(dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1))


def request(
    name: str,
    tick: dt.datetime,
    as_of: dt.datetime,
    selection: Sequence[dg.AssetKey],
    partition: str | None,
    *,
    closes: bool = False,
) -> dg.RunRequest:
    """A run at ``as_of``; the run key is the schedule and its tick, so a tick starts at most one run, and one that closes a window."""
    tags = {TAG_SCHEDULE: name, TAG_AS_OF: format_instant(as_of)}
    if closes and partition:
        tags[TAG_CLOSES] = partition
    return dg.RunRequest(
        run_key=f"{name}:{format_instant(tick)}{':close' if closes else ''}",
        asset_selection=list(selection),
        partition_key=partition,
        tags=tags,
    )


def built_as_of(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None = None) -> dt.datetime | None:
    """The as_of of the newest materialisation of an asset (or of one of its partitions); None when there is none."""
    filters = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(filters, limit=1).records
    materialization = records[0].asset_materialization if records else None
    value = materialization.metadata.get(META_AS_OF) if materialization else None
    return parse_instant(str(value.value)) if value else None
