"""Audiences by the clock: their traits, themselves, and the activations that follow them, in one run as of the tick.

So time passing and changed warehouse rows count without a new landing file.
"""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from cdp_assets.dagster_support import asset_key
from cdp_assets.space.models import AudienceCondition, Schedule, TraitCondition
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window, window_of, windows
from schedules.ticks import built_as_of, cron_of, default_status, name_of, overlapping, request


def effective_schedule(space: Space, audience: str) -> Schedule:
    return space.audiences[audience].schedule or space.config.schedule


def required(space: Space, audience: str) -> tuple[set[str], set[str]]:
    """(traits, audiences) that building ``audience`` needs, itself included; references followed to the end."""
    traits: set[str] = set()
    audiences: set[str] = set()
    pending = [audience]
    while pending:
        key = pending.pop()
        if key in audiences:
            continue
        audiences.add(key)
        for group in space.audiences[key].groups:
            for condition in group.conditions:
                if isinstance(condition, AudienceCondition):
                    pending.append(condition.audience)
                elif isinstance(condition, TraitCondition) and condition.trait in space.traits:
                    traits.add(condition.trait)
    for activation in space.activations.values():
        if activation.audience in audiences:
            traits |= {trait for trait in activation.personalization.traits if trait in space.traits}
    return traits, audiences


def build_keys(space: Space, audiences: set[str]) -> list[dg.AssetKey]:
    """Asset keys of the audiences and of all that they need."""
    traits: set[str] = set()
    members: set[str] = set()
    for audience in audiences:
        more_traits, more = required(space, audience)
        traits |= more_traits
        members |= more
    return [
        *(asset_key(space.name, "computed_traits", key) for key in sorted(traits)),
        *(asset_key(space.name, "linked_audiences", key) for key in sorted(members)),
    ]


def followers(space: Space, audiences: set[str], models: bool) -> list[dg.AssetKey]:
    """Payloads and syncs that have no schedule of their own and follow these audiences (or, if ``models``, read models)."""
    found = []
    for key, activation in space.activations.items():
        follows = activation.audience in audiences if activation.audience else models
        if activation.enabled and activation.schedule is None and follows:
            found += [asset_key(space.name, "activation_payloads", key), asset_key(space.name, "destination_syncs", key)]
    return found


def window_to_close(space: Space, tick: dt.datetime, built: dict[str, dt.datetime | None]) -> Window | None:
    """The window before the tick's one, when it was built while open and not yet rebuilt at its end. ``built``: key -> as_of."""
    known = windows(space.config, tick)
    if len(known) < 2:
        return None
    previous = known[-2]
    as_of = built.get(previous.key)
    return previous if as_of is not None and as_of < previous.end else None


def build_audience_schedules(space: Space) -> list[dg.ScheduleDefinition]:
    """One schedule per distinct interval. Model activations without a schedule of their own follow the space's default."""
    groups: dict[str, tuple[Schedule, set[str]]] = {name_of(space.config.schedule): (space.config.schedule, set())}
    for key in space.audiences:
        schedule = effective_schedule(space, key)
        groups.setdefault(name_of(schedule), (schedule, set()))[1].add(key)
    default = name_of(space.config.schedule)
    return [
        _schedule(space, f"{space.name}__audiences_{name}", schedule, audiences, models=name == default)
        for name, (schedule, audiences) in groups.items()
        if audiences or followers(space, audiences, models=name == default)
    ]


def _schedule(space: Space, name: str, schedule: Schedule, audiences: set[str], *, models: bool) -> dg.ScheduleDefinition:
    build = build_keys(space, audiences)
    follow = followers(space, audiences, models)

    @dg.schedule(
        name=name,
        cron_schedule=cron_of(schedule),
        execution_timezone=schedule.timezone,
        target=dg.AssetSelection.assets(*build, *follow),
        default_status=default_status(space.config),
        description="Builds audiences with their traits as of the tick, then syncs the activations that follow them.",
    )
    def _tick(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        tick = context.scheduled_execution_time.astimezone(dt.UTC)
        running = overlapping(context, name)
        if running:
            yield dg.SkipReason(f"run {running} of this schedule has not ended; the next tick takes its place")
            return
        try:
            window = window_of(space.config, tick)
        except ValueError as error:
            yield dg.SkipReason(str(error))
            return
        audience_keys = [key for key in build if key.path[1] == "linked_audiences"]
        known = windows(space.config, tick)[-2:-1]
        built = {w.key: built_as_of(context.instance, audience_keys[0], w.key) for w in known} if audience_keys else {}
        closing = window_to_close(space, tick, built)
        if closing:
            yield request(name, tick, closing.end, build, closing.key, suffix=":close")
        yield request(name, tick, tick, [*build, *follow], window.key if build else None)

    return _tick
