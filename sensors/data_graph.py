"""A changed definition (data graph, trait, audience) requests the backfill of exactly what it makes stale, once.

Only traits and audiences are ever backfilled, never payloads or syncs: nothing is sent by it.
"""

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import dagster as dg

from cdp_assets.dagster_internals import running_backfills, subset_run_request
from cdp_assets.dagster_support import META_REVISION, asset_key, partitions_of
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.revisions import audience_revision, trait_revision
from cdp_assets.space.space import Space, SpaceError
from cdp_assets.space.time import window_by_key
from resources.space import load

TAG_SENSOR = "cdp/sensor"
ROOMS_OF_DEFINITIONS = ("computed_traits", "linked_audiences")


@dataclass
class Memory:
    """What the sensor remembers per asset (``room/key``): the last event read, the revision of each built partition, and what it asked for.

    ``asked``: the revision that was asked for, of each partition that is still to reach it or has reached it.
    """

    last: dict[str, int] = field(default_factory=dict)
    partitions: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        """From a cursor; an unreadable one is forgotten, which costs one full read."""
        try:
            stored = json.loads(cursor or "{}")
            parts = [stored.get(name, {}) for name in ("last", "partitions", "asked")]
        except (ValueError, AttributeError):
            return cls()
        return cls(*parts) if all(isinstance(part, dict) for part in parts) else cls()

    def dump(self) -> str:
        return json.dumps({"last": self.last, "partitions": self.partitions, "asked": self.asked}, sort_keys=True)

    def forget_other_requests(self, current: Mapping[str, str]) -> None:
        """Keep what was asked for of the current revisions only, so that a later return to an older one is asked for anew."""
        for asset, revision in current.items():
            kept = {partition: other for partition, other in self.asked.pop(asset, {}).items() if other == revision}
            if kept:
                self.asked[asset] = kept

    def remember_request(self, wanted: Mapping[str, Sequence[str]], current: Mapping[str, str]) -> None:
        for asset, partitions in wanted.items():
            self.asked.setdefault(asset, {}).update(dict.fromkeys(partitions, current[asset]))


def revisions(space: Space) -> dict[str, str]:
    """Current revision of every trait and audience, by ``room/key``."""
    return {
        **{f"computed_traits/{key}": trait_revision(space, key) for key in space.traits},
        **{f"linked_audiences/{key}": audience_revision(space, key) for key in space.audiences},
    }


def stale(
    built: Mapping[str, Mapping[str, str]], current: Mapping[str, str], asked: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Partitions built with another revision than the current one, per asset, unless already asked for in that revision.

    ``built`` and ``asked``: asset -> partition -> revision. Assets that are gone, or were never built, are not stale.
    """
    found = {}
    for asset, revision in current.items():
        requested = asked.get(asset, {})
        partitions = sorted(p for p, other in built.get(asset, {}).items() if revision not in (other, requested.get(p)))
        if partitions:
            found[asset] = partitions
    return found


def kept(config: SpaceConfig, asset: str, partitions: Iterable[str]) -> list[str]:
    """Those of an asset's built partitions that retention has not dropped: a build of an older one would be refused."""
    found = sorted(partitions)
    if config.retention_days is None or not asset.startswith("linked_audiences/") or not found:
        return found
    # The newest build may have been made at any instant of its window, at the latest at its end.
    windows = [window_by_key(config, key) for key in found]
    oldest = max(window.end for window in windows) - dt.timedelta(days=config.retention_days)
    return [window.key for window in windows if window.end > oldest]


def changed_keys(loaded: Space, current: Space) -> tuple[list[str], list[str]]:
    """(added, removed) trait, audience and activation keys since the location was loaded; they need a reload."""

    def keys(space: Space) -> set[str]:
        return {
            *(f"computed_traits/{key}" for key in space.traits),
            *(f"linked_audiences/{key}" for key in space.audiences),
            *(f"destination_syncs/{key}" for key in space.activations),
        }

    return sorted(keys(current) - keys(loaded)), sorted(keys(loaded) - keys(current))


def build_data_graph_sensor(space: Space, directory: Path) -> dg.SensorDefinition | None:
    """The sensor of a space; None when it has neither traits nor audiences."""
    name = f"{space.name}__data_graph"
    keys = [
        *(asset_key(space.name, "computed_traits", key) for key in space.traits),
        *(asset_key(space.name, "linked_audiences", key) for key in space.audiences),
    ]

    partitions = partitions_of(space.config)
    if not keys:
        return None

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.assets(*keys),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if space.config.automation == "on" else dg.DefaultSensorStatus.STOPPED,
        description="Backfills exactly the partitions that a changed definition makes stale. Sends nothing.",
    )
    def _tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            current = load(directory)
        except SpaceError as error:
            return dg.SkipReason(f"the space does not validate: {error.problems[0]}")
        added, removed = changed_keys(space, current)
        known = {"/".join(key.path[1:]) for key in keys}
        now = {asset: revision for asset, revision in revisions(current).items() if asset in known}
        memory = Memory.parse(context.cursor)
        read_builds(context.instance, space.name, now, memory)
        memory.forget_other_requests(now)
        # After a change of the space's partitions, keys of the former kind are no partitions any more.
        built = {}
        for asset, found in memory.partitions.items():
            standing = kept(current.config, asset, (key for key in found if partitions.has_partition_key(key)))
            built[asset] = {key: found[key] for key in standing}
        wanted = stale(built, now, memory.asked)
        note = (
            f"reload the location: added {', '.join(added) or 'none'}; removed {', '.join(removed) or 'none'}"
            if added or removed
            else ""
        )
        if not wanted:
            return dg.SensorResult(skip_reason=note or "every built partition has the current definition", cursor=memory.dump())
        if running_backfills(context.instance, {TAG_SENSOR: name}):
            return dg.SensorResult(skip_reason="the backfill asked for before has not ended", cursor=memory.dump())
        request = subset_run_request(
            {asset_key(space.name, *asset.split("/", 1)): (partitions, chosen) for asset, chosen in wanted.items()},
            tags={TAG_SENSOR: name},
        )
        memory.remember_request(wanted, now)
        return dg.SensorResult(run_requests=[request], cursor=memory.dump())

    return _tick


def read_builds(instance: dg.DagsterInstance, space_name: str, current: Mapping[str, str], memory: Memory) -> None:
    """Bring ``memory`` up to date with materialisations since the last tick. Cost: what is new, not the history."""
    for asset in current:
        key = asset_key(space_name, *asset.split("/", 1))
        while True:
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=key, after_storage_id=memory.last.get(asset)), limit=1000, ascending=True
            ).records
            for record in records:
                materialization = record.asset_materialization
                revision = materialization.metadata.get(META_REVISION) if materialization else None
                if materialization and materialization.partition and revision:
                    memory.partitions.setdefault(asset, {})[materialization.partition] = str(revision.value)
                memory.last[asset] = record.storage_id
            if len(records) < 1000:
                break
