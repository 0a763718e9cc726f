"""Sources that are looked at continuously: a record that no reading has taken in starts one, and what is sent of it."""

import datetime as dt
import json
import time
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from cdp_assets.dagster_support import AHEAD, TAG_AS_OF, asset_key, format_instant
from cdp_assets.pulled_sources.assets import META_POSITIONS
from cdp_assets.space.space import Space, SpaceError
from resources.destinations import DestinationConfigError
from resources.destinations.open import open_source
from resources.sources import Reader, SourceError
from resources.space import load

# A tick looks for so long, and so often: the daemon comes round every five seconds.
LOOK = dt.timedelta(seconds=4)
PAUSE = dt.timedelta(seconds=1)
# A reading that failed is started again after so long, although nothing else has come.
AGAIN = dt.timedelta(minutes=1)
_UNFINISHED = dg.RunsFilter(
    statuses=[
        *(dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED),
        *(dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED),
    ]
)


def followers(space: Space, source: str) -> list[dg.AssetKey]:
    """The source's asset, and payloads and syncs of the activations whose model reads it."""
    keys = [
        key
        for key, activation in space.activations.items()
        if activation.enabled and activation.model and source in space.models[activation.model].depends_on
    ]
    sent = [asset_key(space.name, room, key) for key in keys for room in ("activation_payloads", "destination_syncs")]
    return [asset_key(space.name, "pulled_sources", source), *sent]


def continuous(space: Space) -> list[str]:
    """Sources that are looked at continuously."""
    return [key for key, source in space.config.pulled_sources.items() if source.poll == "continuously"]


def news(reader: Reader, positions: Mapping[str, str]) -> str:
    """Where the first record stands that comes after ``positions``; '' when there is none. Raises SourceError."""
    for shard in reader.shards():
        page = reader.read(shard, positions.get(shard), 1)
        if page.records:
            return f"{shard}:{page.records[0].position}"
    return ""


def _listen(reader: Reader, positions: Mapping[str, str]) -> str:
    """``news``, waited for a little."""
    until = time.monotonic() + LOOK.total_seconds()
    while not (first := news(reader, positions)) and time.monotonic() < until:
        time.sleep(PAUSE.total_seconds())
    return first


def positions_of(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, str]:
    """Up to where the newest reading came, from the event log."""
    event = instance.get_latest_materialization_event(asset)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    return json.loads(str(metadata[META_POSITIONS].value)) if META_POSITIONS in metadata else {}


def _reads(run: dg.DagsterRun, source: dg.AssetKey) -> bool:
    """Whether a sensor's run, this one's or that of new landing files, reads the source. Those end in any case: Dagster looks after them."""
    return "cdp/sensor" in run.tags and source in (run.asset_selection or ())


def build_pulled_source_sensors(space: Space, directory: Path) -> list[dg.SensorDefinition]:
    """One sensor for each source that is looked at continuously."""
    return [_sensor(space, directory, key) for key in continuous(space)]


def _sensor(space: Space, directory: Path, key: str) -> dg.SensorDefinition:
    name = f"{space.name}__pull_{key}"
    selection = followers(space, key)

    @dg.sensor(
        name=name,
        target=dg.AssetSelection.assets(*selection),
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING if space.config.automation == "on" else dg.DefaultSensorStatus.STOPPED,
        description=f"Takes in what is new in {key}, and sends what follows from it.",
    )
    def _tick(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if any(_reads(run, selection[0]) for run in context.instance.get_runs(_UNFINISHED)):
            return dg.SkipReason("a reading is under way")
        try:
            reader = open_source(load(directory).config.pulled_sources[key])
        except SpaceError as error:
            return dg.SkipReason(f"the space does not validate: {error.problems[0]}")
        except (KeyError, DestinationConfigError) as error:
            return dg.SkipReason(f"{key} cannot be opened: {error}")
        try:
            first = _listen(reader, positions_of(context.instance, selection[0]))
        except SourceError as error:
            return dg.SkipReason(str(error))
        finally:
            reader.close()
        if not first:
            return dg.SkipReason("nothing new")
        now = dt.datetime.now(dt.UTC)
        turn = int(now.timestamp() // AGAIN.total_seconds())
        return dg.RunRequest(
            run_key=f"{name}:{first}:{turn}",
            asset_selection=selection,
            tags={TAG_AS_OF: format_instant(now), "cdp/sensor": name, **AHEAD},
        )

    return _tick
