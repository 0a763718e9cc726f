"""Reports once a day, when the day before is complete."""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from cdp_assets.dagster_support import asset_key
from cdp_assets.reports.assets import reports_of
from cdp_assets.space.space import Space
from schedules.ticks import default_status, overlapping, request

DAILY = "30 4 * * *"


def build_report_schedules(space: Space) -> list[dg.ScheduleDefinition]:
    """One schedule for all reports of a space; none where there are none."""
    keys = [asset_key(space.name, "reports", key) for key in reports_of(space)]
    if not keys:
        return []
    name = f"{space.name}__reports"

    @dg.schedule(
        name=name,
        cron_schedule=DAILY,
        execution_timezone="UTC",
        target=dg.AssetSelection.assets(*keys),
        default_status=default_status(space.config),
        description="Builds the reports as of the tick.",
    )
    def _tick(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        if running := overlapping(context, name):
            yield running
            return
        tick = context.scheduled_execution_time.astimezone(dt.UTC)
        yield request(name, tick, tick, keys, None)

    return [_tick]
