"""The mini space in a folder of the test's own, a real Dagster instance, and builds recorded on it as the rooms record theirs."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from cdp_assets.dagster_support import META_AS_OF, META_REVISION, asset_key, format_instant, partitions_of
from cdp_assets.definitions import build_definitions
from cdp_assets.space.home import Home
from cdp_assets.space.space import Space
from cdp_assets.space.time import window_by_key
from resources.space import load
from sensors.data_graph import revisions

MINI = Path(__file__).parent.parent / "fixtures" / "spaces" / "mini"


@dataclass
class Tick:
    """What one evaluation of a sensor gave."""

    requests: list[dg.RunRequest]
    skip: str | None
    cursor: str | None

    @property
    def asked(self) -> dict[str, list[str]]:
        """Partitions by ``room/key`` of the one request."""
        (request,) = self.requests
        subset = request.asset_graph_subset
        assert subset is not None
        return {
            "/".join(key.path[1:]): sorted(subset.get_partitions_subset(key).get_partition_keys()) for key in subset.asset_keys
        }


class Stage:
    """Definitions loaded once, as a code location does; the space folder may change afterwards."""

    def __init__(self, directory: Path, home: Home, instance: dg.DagsterInstance) -> None:
        self.directory, self.home, self.instance = directory, home, instance
        self.definitions = build_definitions(directory, home.root)
        self.cursors: dict[str, str | None] = {}

    def space(self) -> Space:
        return load(self.directory)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.directory / name).read_text()
        assert old in text
        (self.directory / name).write_text(text.replace(old, new))

    def tick(self, sensor: str) -> Tick:
        """Evaluate a sensor with the cursor of its last tick, as the daemon does."""
        name = f"mini__{sensor}"
        context = dg.build_sensor_context(self.instance, cursor=self.cursors.get(name), definitions=self.definitions)
        with context:
            data = self.definitions.resolve_sensor_def(name).evaluate_tick(context)
        self.cursors[name] = data.cursor
        return Tick(list(data.run_requests or []), data.skip_message, data.cursor)

    def build(self, asset: str, partitions: Sequence[str], as_of: dt.datetime | None = None) -> None:
        """A run that materialises ``room/key`` for a contiguous range, with the metadata that the rooms give, as of its end."""
        space = self.space()
        key = asset_key("mini", *asset.split("/"))
        revision = revisions(space).get(asset)
        end = as_of or window_by_key(space.config, partitions[-1]).end

        @dg.multi_asset(
            specs=[dg.AssetSpec(key, partitions_def=partitions_of(space.config))],
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def room():
            metadata = {META_AS_OF: format_instant(end), **({META_REVISION: revision} if revision else {})}
            yield dg.MaterializeResult(key, metadata=metadata)

        range_tags = {"dagster/asset_partition_range_start": partitions[0], "dagster/asset_partition_range_end": partitions[-1]}
        assert dg.materialize([room], instance=self.instance, tags=range_tags).success


on_both_storages = pytest.mark.parametrize("instance", ["memory", "sqlite"], indirect=True)


@pytest.fixture
def instance(request: pytest.FixtureRequest) -> Iterator[dg.DagsterInstance]:
    """In memory, which is fast; on SQLite files as in a home where a test says ``on_both_storages``."""
    sqlite = getattr(request, "param", "memory") == "sqlite"
    made = dg.DagsterInstance.local_temp() if sqlite else dg.DagsterInstance.ephemeral()
    with made as instance:
        yield instance


@pytest.fixture
def mini(instance: dg.DagsterInstance, tmp_path: Path) -> Stage:
    shutil.copytree(MINI, tmp_path / "mini")
    return Stage(tmp_path / "mini", Home(tmp_path / "home"), instance)
