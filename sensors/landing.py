"""New landing files start raw_events and unified_profiles, and what is sent of raw events; never an audience."""

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from cdp_assets.dagster_support import AHEAD, META_AS_OF, TAG_AS_OF, asset_key, format_instant, parse_instant
from cdp_assets.pulled_sources.assets import fed_by
from cdp_assets.raw_events.landing import LandingFile, fingerprint, list_landing
from cdp_assets.space.home import Home
from cdp_assets.space.space import Space, SpaceError
from cdp_assets.space.time import windows
from cdp_assets.unified_profiles.assets import asset_names
from resources.space import landing_folder, load
from resources.warehouse import WarehouseError
from sensors.pulled_sources import continuous, followers

# A file touched this recently may still be written to; the next tick looks again.
SETTLE = dt.timedelta(seconds=2)
# Where events have seconds to arrive, a tick looks for so long, and so often: the daemon comes round every five seconds.
LOOK = dt.timedelta(seconds=4)
AGAIN = dt.timedelta(seconds=0.5)
# A file server's clock may be ahead by so much. A time further in the future was set by hand and says nothing about writing.
SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True)
class LandingDecision:
    """Either a reason to do nothing, or the partitions to build; and the cursor to remember."""

    cursor: str
    partitions: tuple[str, ...] = ()
    skip: str = ""


def decide(
    space: Space, files: Sequence[LandingFile], cursor: str | None, built: Mapping[str, dt.datetime], now: dt.datetime
) -> LandingDecision:
    """``built``: raw partition -> as_of of its newest build.

    Asks for the contiguous partitions from the first one not completely built up to the present one, when the listing changed or a
    window closed since it was last built. Which lines belong to which partition only the intake knows; late lines of built
    partitions are its affair.
    """
    if not files:
        return LandingDecision(cursor or "", skip="the landing folder has no files")
    unsettled = [f for f in files if -SKEW < now - dt.datetime.fromtimestamp(f.mtime_ns / 1e9, dt.UTC) < SETTLE]
    if unsettled:
        return LandingDecision(cursor or "", skip=f"{len(unsettled)} file(s) may still be written to")
    known = windows(space.config, now)
    if not known:
        return LandingDecision(cursor or "", skip=f"space {space.name} starts on {space.config.start_date}")
    current = fingerprint(files)
    incomplete = next(
        (i for i, w in enumerate(known[:-1]) if w.key not in built or built[w.key] < w.end),
        len(known) - 1,
    )
    if current == cursor and incomplete == len(known) - 1:
        return LandingDecision(current, skip="no new landing file")
    return LandingDecision(current, partitions=tuple(w.key for w in known[incomplete:]))


def event_streams(space: Space) -> list[dg.AssetKey]:
    """Payloads and syncs of the activations that send raw events, and the readings of the streams that they put into, with what
    follows from those: in the same run, since a second one takes seconds to start."""
    enabled = [key for key, activation in space.activations.items() if activation.events and activation.enabled]
    sent = [asset_key(space.name, room, key) for key in enabled for room in ("activation_payloads", "destination_syncs")]
    read = [source for source in continuous(space) if set(fed_by(space, source)) & set(enabled)]
    return [*sent, *(key for source in read for key in followers(space, source))]


def build_landing_sensor(space: Space, directory: Path, home: Home) -> dg.SensorDefinition:
    name = f"{space.name}__landing"
    messages = asset_key(space.name, "raw_events", "messages")
    selection = [
        *(asset_key(space.name, "raw_events", table) for table in ("messages", "quarantine", "violations", "event_tables")),
        *(asset_key(space.name, "unified_profiles", table) for table in asset_names(space.graph)),
        *event_streams(space),
    ]

    @dg.sensor(
        name=name,
        target=dg.AssetSelection.assets(*selection),
        minimum_interval_seconds=1 if event_streams(space) else 30,
        default_status=dg.DefaultSensorStatus.RUNNING if space.config.automation == "on" else dg.DefaultSensorStatus.STOPPED,
        description="Takes in new landing files and resolves identities.",
    )
    def _tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        # A run that has not begun takes in what has come since it was asked for; one that has begun may have missed it.
        waiting = dg.RunsFilter(tags={"cdp/sensor": name}, statuses=[dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED])
        if context.instance.get_runs_count(waiting):
            return dg.SkipReason("a run that will take in the new files is waiting for its turn")
        built = built_partitions(context.instance, messages)
        until = time.monotonic() + (LOOK.total_seconds() if event_streams(space) else 0)
        while True:
            try:
                loaded = load(directory)
                files = list_landing(landing_folder(loaded, home))
            except SpaceError as error:
                return dg.SkipReason(f"the space does not validate: {error.problems[0]}")
            except (OSError, WarehouseError) as error:
                return dg.SkipReason(f"the landing folder cannot be listed: {type(error).__name__}")
            now = dt.datetime.now(dt.UTC)
            decision = decide(loaded, files, context.cursor, built, now)
            if not decision.skip:
                break
            if time.monotonic() >= until:
                return dg.SkipReason(decision.skip)
            time.sleep(AGAIN.total_seconds())
        tags = {TAG_AS_OF: format_instant(now), "cdp/sensor": name, **(AHEAD if event_streams(space) else {})}
        partition_key: str | None = decision.partitions[0]
        if len(decision.partitions) > 1:
            tags |= {
                "dagster/asset_partition_range_start": decision.partitions[0],
                "dagster/asset_partition_range_end": decision.partitions[-1],
            }
            partition_key = None
        request = dg.RunRequest(
            run_key=f"{name}:{decision.cursor}:{decision.partitions[-1]}",
            asset_selection=selection,
            partition_key=partition_key,
            tags=tags,
        )
        return dg.SensorResult(run_requests=[request], cursor=decision.cursor)

    return _tick


def built_partitions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, dt.datetime]:
    """partition -> as_of of its newest build, from the event log."""
    ids = instance.event_log_storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    if not ids:
        return {}
    found: dict[str, dt.datetime] = {}
    wanted = sorted(ids.values())
    for start in range(0, len(wanted), 500):
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, storage_ids=wanted[start : start + 500]), limit=500
        ).records
        for record in records:
            materialization = record.asset_materialization
            if materialization is None or materialization.partition is None:
                continue
            value = materialization.metadata.get(META_AS_OF)
            if value is not None:
                found[materialization.partition] = parse_instant(str(value.value))
    return found
