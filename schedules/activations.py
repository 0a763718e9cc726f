"""Activations that have a schedule of their own. One whose audience is too old builds it first, in the same run.

In one run, what fails upstream keeps the sync from sending.
"""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from cdp_assets.dagster_support import asset_key
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space
from cdp_assets.space.time import window_of
from schedules.audiences import build_keys, effective_schedule, pulled_hourly
from schedules.ticks import built_as_of, cron_of, default_status, interval_minutes, overlapping, request


def max_age(space: Space, activation: Activation) -> dt.timedelta:
    """How old an audience may be when it is synced: the activation's own limit, else twice the audience's interval."""
    if activation.max_age_minutes:
        return dt.timedelta(minutes=activation.max_age_minutes)
    return 2 * dt.timedelta(minutes=interval_minutes(effective_schedule(space, str(activation.audience))))


def needs_build(space: Space, activation: Activation, tick: dt.datetime, built: dt.datetime | None) -> bool:
    """Whether the audience must be built before this sync. ``built``: as_of of its newest build."""
    if activation.audience is None:
        return False
    return built is None or tick - built > max_age(space, activation)


def build_activation_schedules(space: Space) -> list[dg.ScheduleDefinition]:
    return [_schedule(space, key, a) for key, a in space.activations.items() if a.schedule and a.enabled]


def _pulled(space: Space, activation: Activation) -> list[dg.AssetKey]:
    """Sources that the activation's model reads and no sensor looks at: what they hold now is what is sent, or nothing is."""
    read = space.models[activation.model].depends_on if activation.model else ()
    return [key for key in pulled_hourly(space) if key.path[-1] in read]


def _schedule(space: Space, key: str, activation: Activation) -> dg.ScheduleDefinition:
    assert activation.schedule is not None
    name = f"{space.name}__sync_{key}"
    deliver = [asset_key(space.name, "activation_payloads", key), asset_key(space.name, "destination_syncs", key)]
    build = build_keys(space, {activation.audience}) if activation.audience else []
    pulled = _pulled(space, activation)

    @dg.schedule(
        name=name,
        cron_schedule=cron_of(activation.schedule),
        execution_timezone=activation.schedule.timezone,
        target=dg.AssetSelection.assets(*pulled, *build, *deliver),
        default_status=default_status(space.config),
        description=f"Syncs {key}; builds its audience first when that is older than its max_age, and reads the sources of its model.",
    )
    def _tick(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        tick = context.scheduled_execution_time.astimezone(dt.UTC)
        if running := overlapping(context, name):
            yield running
            return
        try:
            window = window_of(space.config, tick)
        except ValueError as error:
            yield dg.SkipReason(str(error))
            return
        audience = activation.audience
        built = built_as_of(context.instance, asset_key(space.name, "linked_audiences", audience)) if audience else None
        if needs_build(space, activation, tick, built):
            yield request(name, tick, tick, [*build, *deliver], window.key)
        else:
            yield request(name, tick, tick, [*pulled, *deliver], None)

    return _tick
