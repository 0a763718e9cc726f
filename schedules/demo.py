"""The demo's pulse: now and then another hour of generated events lands, so that a user sees the house alive.

Only spaces that the generator knows have it, and only where CDP_DEMO=1 (``make ui`` sets it).
"""

import datetime as dt
import os

import dagster as dg

from cdp_assets.generate import generate, stored_end
from cdp_assets.generate.generator import DATA_MODELS
from cdp_assets.space.space import Space
from resources.instance import pool_of
from resources.space import SpaceResource

HOUR = dt.timedelta(hours=1)


def build_demo_schedules(space: Space) -> list[dg.ScheduleDefinition]:
    if os.environ.get("CDP_DEMO") != "1" or space.name not in DATA_MODELS:
        return []

    @dg.op(name=f"{space.name}__land_an_hour", pool=pool_of(space.name))
    def land_an_hour(context: dg.OpExecutionContext, space: SpaceResource) -> None:
        loaded = space.load()
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            result = generate(
                loaded, warehouse, space.paths(), profiles=0, days=0, seed=0, end=dt.datetime.now(dt.UTC), more="1h"
            )
        context.log.info(f"landed events up to {result.end.isoformat()}")

    @dg.job(
        name=f"{space.name}__demo", description="Lands another hour of generated events.", executor_def=dg.in_process_executor
    )
    def demo() -> None:
        land_an_hour()

    space_name = space.name

    @dg.schedule(
        name=f"{space_name}__demo_pulse",
        job=demo,
        cron_schedule="*/5 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Lands another hour of generated events every five minutes, until they reach the present.",
    )
    def pulse(space: SpaceResource) -> dg.RunRequest | dg.SkipReason:
        reason = reason_to_rest(stored_end(space.paths(), space_name), dt.datetime.now(dt.UTC))
        return dg.SkipReason(reason) if reason else dg.RunRequest()

    return [pulse]


def reason_to_rest(end: dt.datetime | None, now: dt.datetime) -> str | None:
    """Why no further hour may land now: generated time never passes real time. ``end``: of the data generated so far."""
    if end is None:
        return "nothing was generated in this home: see cdp generate"
    if end + HOUR > now:
        return f"the generated events reach {end.isoformat()}; another hour would pass the present"
    return None
