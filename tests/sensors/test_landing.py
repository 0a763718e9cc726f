"""New landing files ask once for the partitions that they may concern; anything doubtful is a skip with its reason."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest

from cdp_assets.dagster_support import asset_key
from cdp_assets.raw_events.landing import LandingFile
from cdp_assets.space.space import Space
from cdp_assets.space.time import windows
from resources.space import load
from sensors.landing import LandingDecision, built_partitions, decide, fingerprint
from tests.sensors.conftest import MINI, Stage, on_both_storages

NOW = dt.datetime(2026, 1, 5, 10, 30, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
MESSAGES = "raw_events/messages"


def file(name: str = "a.jsonl", size: int = 10, at: dt.datetime = NOW - HOUR) -> LandingFile:
    return LandingFile(name, Path(name), size, round(at.timestamp() * 1e9))


@pytest.fixture(scope="module")
def space() -> Space:
    return load(MINI)


def at_end(space: Space, *days: int) -> dict[str, dt.datetime]:
    return {w.key: min(w.end, NOW) for w in windows(space.config, NOW) if w.start.day in days}


def decision(space: Space, built: Mapping[str, dt.datetime], cursor: str | None = None, *files: LandingFile) -> LandingDecision:
    return decide(space, files or (file(),), cursor, built, NOW)


# -- decisions ---------------------------------------------------------------------------------------------------------------


def test_the_first_files_ask_for_every_partition_up_to_the_present(space: Space) -> None:
    assert decision(space, {}).partitions == ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05")


def test_a_new_file_asks_for_the_open_partition_when_all_others_are_complete(space: Space) -> None:
    assert decision(space, at_end(space, 1, 2, 3, 4, 5), "older").partitions == ("2026-01-05",)


def test_the_range_begins_at_the_first_incomplete_partition_and_has_no_gap(space: Space) -> None:
    assert decision(space, at_end(space, 1, 3, 4)).partitions == ("2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05")


def test_the_same_listing_is_not_asked_for_again(space: Space) -> None:
    built = at_end(space, 1, 2, 3, 4)
    first = decision(space, built)
    assert first.partitions
    again = decision(space, built, first.cursor)
    assert (again.partitions, again.skip) == ((), "no new landing file")


def test_a_window_that_closed_since_it_was_built_is_asked_for_without_a_new_file(space: Space) -> None:
    built = at_end(space, 1, 2, 3) | {"2026-01-04": dt.datetime(2026, 1, 4, 23, tzinfo=dt.UTC)}
    cursor = fingerprint([file()])
    assert decision(space, built, cursor).partitions == ("2026-01-04", "2026-01-05")


@pytest.mark.parametrize("ago", [0.0, 1.9, -1.0, -200.0])
def test_a_file_touched_just_now_is_waited_for_also_when_its_clock_is_ahead(space: Space, ago: float) -> None:
    files = (file("old.jsonl"), file("new.jsonl", at=NOW - dt.timedelta(seconds=ago)))
    assert decision(space, {}, "cursor", *files) == LandingDecision("cursor", (), "1 file(s) may still be written to")


@pytest.mark.parametrize("ago", [2.0, -86_400.0])
def test_a_settled_file_and_one_dated_far_ahead_are_taken(space: Space, ago: float) -> None:
    assert decision(space, {}, None, file(at=NOW - dt.timedelta(seconds=ago))).partitions


def test_an_empty_folder_and_a_space_yet_to_start_say_so(space: Space) -> None:
    assert decide(space, (), None, {}, NOW).skip == "the landing folder has no files"
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    early = decide(space, (file(at=start - 2 * HOUR),), "c", {}, start - HOUR)
    assert early == LandingDecision("c", (), "space mini starts on 2026-01-01")


def test_a_fingerprint_knows_names_sizes_and_times_but_no_order() -> None:
    one, two = file("a.jsonl"), file("b.jsonl")
    assert fingerprint([one, two]) == fingerprint([two, one])
    different = [[one], [one, file("c.jsonl")], [one, file("b.jsonl", size=11)], [one, file("b.jsonl", at=NOW)], [one, two]]
    assert len({fingerprint(files) for files in different}) == len(different)


# -- on an instance -----------------------------------------------------------------------------------------------------------


def land(stage: Stage, name: str, age: float = 3600.0) -> Path:
    folder = stage.home.landing("mini")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text('{"type": "track"}\n')
    when = dt.datetime.now(dt.UTC).timestamp() - age
    os.utime(path, (when, when))
    return path


@pytest.fixture
def mini(mini: Stage) -> Stage:
    """Started three days ago, for the sensor reads the real clock."""
    start = (dt.datetime.now(dt.UTC) - 3 * DAY).date()
    mini.edit("space.yaml", "start_date: 2026-01-01", f"start_date: {start}")
    return Stage(mini.directory, mini.home, mini.instance)


@pytest.fixture
def keys(mini: Stage) -> list[str]:
    """All partitions up to now."""
    return [window.key for window in windows(mini.space().config, dt.datetime.now(dt.UTC))]


def test_an_absent_folder_is_a_skip(mini: Stage) -> None:
    tick = mini.tick("landing")
    assert (tick.requests, tick.skip) == ([], "the landing folder has no files")


def test_a_first_file_asks_for_the_whole_range_of_raw_events_and_profiles_and_nothing_later(mini: Stage, keys: list[str]) -> None:
    land(mini, "a.jsonl")
    (request,) = mini.tick("landing").requests
    assert request.partition_key is None
    assert request.tags["dagster/asset_partition_range_start"] == keys[0]
    assert request.tags["dagster/asset_partition_range_end"] == keys[-1]
    assert {key.path[1] for key in request.asset_selection or ()} == {"raw_events", "unified_profiles"}
    assert (request.run_key or "").startswith("mini__landing:")


@on_both_storages
def test_a_new_file_asks_once_for_the_open_partition(mini: Stage, keys: list[str]) -> None:
    mini.build(MESSAGES, keys[:-1])
    land(mini, "a.jsonl")
    (request,) = mini.tick("landing").requests
    assert request.partition_key == keys[-1]
    assert not any("range" in tag for tag in request.tags)
    tick = mini.tick("landing")
    assert (tick.requests, tick.skip) == ([], "no new landing file")
    land(mini, "b.jsonl")
    (second,) = mini.tick("landing").requests
    assert second.run_key != request.run_key


@on_both_storages
def test_the_newest_build_of_each_partition_counts(mini: Stage, keys: list[str]) -> None:
    first, second = windows(mini.space().config, dt.datetime.now(dt.UTC))[:2]
    midday = second.start + 12 * HOUR
    mini.build(MESSAGES, keys[:1])
    mini.build(MESSAGES, keys[1:2], midday)
    key = asset_key("mini", "raw_events", "messages")
    assert built_partitions(mini.instance, key) == {keys[0]: first.end, keys[1]: midday}
    mini.build(MESSAGES, keys[1:2])
    assert built_partitions(mini.instance, key)[keys[1]] == second.end


def test_a_file_still_being_written_is_a_skip_that_remembers_nothing(mini: Stage, keys: list[str]) -> None:
    mini.build(MESSAGES, keys[:-1])
    land(mini, "a.jsonl")
    mini.tick("landing")
    path = land(mini, "b.jsonl", age=0.0)
    before = mini.cursors["mini__landing"]
    tick = mini.tick("landing")
    assert (tick.requests, tick.skip, tick.cursor) == ([], "1 file(s) may still be written to", before)
    os.utime(path, (path.stat().st_mtime - 60,) * 2)
    assert len(mini.tick("landing").requests) == 1


def test_one_run_waits_for_its_turn_however_many_files_come(mini: Stage, keys: list[str]) -> None:
    mini.build(MESSAGES, keys[:-1])
    land(mini, "a.jsonl")
    mini.tick("landing")
    before = mini.cursors["mini__landing"]
    waiting = mini.instance.create_run_for_job(_job, status=dg.DagsterRunStatus.NOT_STARTED, tags={"cdp/sensor": "mini__landing"})
    land(mini, "b.jsonl")
    tick = mini.tick("landing")
    assert (tick.requests, tick.cursor or before) == ([], before)
    assert tick.skip == "a run that will take in the new files is waiting for its turn"
    mini.instance.report_run_failed(waiting)
    assert len(mini.tick("landing").requests) == 1


@dg.op
def _nothing() -> None: ...


@dg.job
def _job() -> None:
    _nothing()


def test_hidden_files_are_half_written_ones_and_change_nothing(mini: Stage, keys: list[str]) -> None:
    mini.build(MESSAGES, keys[:-1])
    land(mini, "a.jsonl")
    mini.tick("landing")
    land(mini, ".b.jsonl")
    assert mini.tick("landing").skip == "no new landing file"


def test_a_broken_space_file_is_a_skip_with_the_located_error(mini: Stage, keys: list[str]) -> None:
    mini.build(MESSAGES, keys[:-1])
    land(mini, "a.jsonl")
    mini.tick("landing")
    before = mini.cursors["mini__landing"]
    land(mini, "b.jsonl")
    whole = (mini.directory / "space.yaml").read_text()
    (mini.directory / "space.yaml").write_text(whole.replace("start_date: ", "start_date: someday "))
    tick = mini.tick("landing")
    assert tick.requests == []
    assert tick.skip is not None and tick.skip.startswith("the space does not validate: ") and "space.yaml:4" in tick.skip
    assert tick.cursor == before
    (mini.directory / "space.yaml").write_text(whole)
    assert len(mini.tick("landing").requests) == 1
