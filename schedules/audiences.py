"""Audiences by the clock: their traits, themselves, and the activations that follow them, in one run as of the tick.

So time passing and changed warehouse rows count without a new landing file.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence

import dagster as dg

from cdp_assets.dagster_support import asset_key
from cdp_assets.data_graph.model import TraitJoin
from cdp_assets.space.conditions import audience_references, entity_paths, trait_references
from cdp_assets.space.models.common import Schedule
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window, window_of, windows
from schedules.ticks import built_as_of, closed_before, cron_of, default_status, name_of, overlapping, request


def effective_schedule(space: Space, audience: str) -> Schedule:
    return space.audiences[audience].schedule or space.config.schedule


def required(space: Space, audience: str) -> tuple[set[str], set[str]]:
    """(traits, audiences) that building ``audience`` and what is sent of it needs, itself included; references followed to the end."""
    traits: set[str] = set()
    audiences: set[str] = set()
    pending = [audience]
    while pending:
        key = pending.pop()
        if key in audiences:
            continue
        audiences.add(key)
        found = space.audiences[key]
        pending += [name for _, name in audience_references(found)]
        paths = entity_paths(found)
        traits |= {name for _, name in trait_references(found)}
        traits |= {node.join.name for node in space.graph.nodes() if node.path in paths and isinstance(node.join, TraitJoin)}
    for activation in space.activations.values():
        if activation.audience in audiences:
            traits |= set(activation.personalization.traits)
    # Traits that identify calls set are not computed.
    return traits & set(space.traits), audiences


def unclaimed_traits(space: Space) -> set[str]:
    """Traits that no audience needs: the space's default schedule builds them, or nothing would."""
    return set(space.traits).difference(*(required(space, key)[0] for key in space.audiences))


def build_keys(space: Space, audiences: set[str], more_traits: Iterable[str] = ()) -> list[dg.AssetKey]:
    """Asset keys of the audiences, of all that they need, and of further traits."""
    traits = set(more_traits)
    members: set[str] = set()
    for audience in audiences:
        needed_traits, needed = required(space, audience)
        traits |= needed_traits
        members |= needed
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


def pulled_hourly(space: Space) -> list[dg.AssetKey]:
    """Sources that the space's default schedule reads; sensors look at the others."""
    return [asset_key(space.name, "pulled_sources", key) for key, s in space.config.pulled_sources.items() if s.poll == "hourly"]


def window_to_close(space: Space, tick: dt.datetime, built: Mapping[str, Sequence[dt.datetime | None]]) -> Window | None:
    """The window before the tick's one, when something was built in it while it was open and not yet again at its end.

    ``built``: partition key -> as_of of the newest build of each audience; None for one that was never built.
    """
    known = windows(space.config, tick)
    if len(known) < 2:
        return None
    previous = known[-2]
    unfinished = [as_of for as_of in built.get(previous.key, ()) if as_of is not None and as_of < previous.end]
    return previous if unfinished else None


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
        if audiences or (name == default and (unclaimed_traits(space) or followers(space, audiences, models=True)))
    ]


def _schedule(space: Space, name: str, schedule: Schedule, audiences: set[str], *, models: bool) -> dg.ScheduleDefinition:
    build = build_keys(space, audiences, unclaimed_traits(space) if models else ())
    own = [asset_key(space.name, "linked_audiences", key) for key in sorted(audiences)]
    follow = followers(space, audiences, models)
    pulled = pulled_hourly(space) if models else []

    @dg.schedule(
        name=name,
        cron_schedule=cron_of(schedule),
        execution_timezone=schedule.timezone,
        target=dg.AssetSelection.assets(*pulled, *build, *follow),
        default_status=default_status(space.config),
        description="Builds audiences with their traits as of the tick, then syncs the activations that follow them.",
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
        built = {w.key: [built_as_of(context.instance, key, w.key) for key in own] for w in windows(space.config, tick)[-2:-1]}
        closing = window_to_close(space, tick, built)
        # An audience that fails whenever the window is closed keeps its older build; that is no reason to close it at every tick.
        if closing and not closed_before(context, name, closing.key):
            yield request(name, tick, closing.end, build, closing.key, closes=True)
        yield request(name, tick, tick, [*pulled, *build, *follow], window.key if build else None)

    return _tick
