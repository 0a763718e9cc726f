"""The data graph's daily scan: a table that went away, or a key that broke, is seen although nobody ran the space."""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from cdp_assets.data_graph.assets import key_of
from cdp_assets.space.space import Space
from schedules.ticks import default_status, overlapping, request

# Between the midnight builds and the working day.
DAILY = "0 4 * * *"


def build_data_graph_schedule(space: Space) -> dg.ScheduleDefinition:
    name = f"{space.name}__data_graph_scan"

    @dg.schedule(
        name=name,
        cron_schedule=DAILY,
        execution_timezone="UTC",
        target=dg.AssetSelection.assets(key_of(space)),
        default_status=default_status(space.config),
        description="Scans the data graph once a day: picture, counts, and the check of the graph against the warehouse.",
    )
    def _tick(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        tick = context.scheduled_execution_time.astimezone(dt.UTC)
        if running := overlapping(context, name):
            yield running
            return
        yield request(name, tick, tick, [key_of(space)], None)

    return _tick
