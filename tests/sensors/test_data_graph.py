"""A changed definition asks once for the backfill of exactly what it makes stale."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from hypothesis import given
from hypothesis import strategies as st

from resources.space import load
from sensors import build_sensors
from sensors.data_graph import Memory, build_data_graph_sensor, changed_keys, revisions, stale
from tests.sensors.conftest import MINI, Stage, on_both_storages

OVERDUE, ACTIVE, LOGINS = "linked_audiences/overdue", "linked_audiences/active", "computed_traits/logins"
DAYS = [f"2026-01-{day:02d}" for day in range(1, 10)]


# -- decisions ---------------------------------------------------------------------------------------------------------------


def test_partitions_of_another_revision_are_stale_and_others_are_not() -> None:
    built = {"a": {"d1": "old", "d2": "new", "d3": "older"}, "b": {"d1": "same"}}
    assert stale(built, {"a": "new", "b": "same"}, {}) == {"a": ["d1", "d3"]}


def test_what_was_never_built_and_what_is_gone_is_not_stale() -> None:
    assert stale({"gone": {"d1": "old"}}, {"never_built": "new"}, {}) == {}


def test_a_partition_is_asked_for_once_in_a_revision() -> None:
    built = {"a": {"d1": "old", "d2": "old"}}
    assert stale(built, {"a": "new"}, {"a": {"d1": "new"}}) == {"a": ["d2"]}
    assert stale(built, {"a": "newer"}, {"a": {"d1": "new"}}) == {"a": ["d1", "d2"]}


REVISIONS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))
BY_PARTITION = st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from(DAYS), st.sampled_from("xyz")))


@given(BY_PARTITION, REVISIONS, BY_PARTITION)
def test_stale_is_what_a_look_at_each_partition_says(
    built: dict[str, dict[str, str]], current: dict[str, str], asked: dict[str, dict[str, str]]
) -> None:
    found = stale(built, current, asked)
    pairs = {(asset, partition) for asset, partitions in found.items() for partition in partitions}
    for asset in "abc":
        for partition in DAYS:
            built_as = built.get(asset, {}).get(partition)
            wanted = asset in current and built_as is not None and built_as != current[asset]
            assert ((asset, partition) in pairs) == (wanted and asked.get(asset, {}).get(partition) != current[asset])
    memory = Memory(asked=json.loads(json.dumps(asked)))
    memory.remember_request(found, current)
    assert stale(built, current, memory.asked) == {}


def test_memory_survives_the_cursor_and_an_unreadable_cursor_is_forgotten() -> None:
    memory = Memory({"a": 7}, {"a": {"d1": "x"}}, {"a": {"d1": "y"}})
    assert Memory.parse(memory.dump()) == memory
    for cursor in (None, "", "not json", "[]", '{"asked": 3}'):
        assert Memory.parse(cursor) == Memory()


def test_a_request_of_another_revision_is_forgotten() -> None:
    memory = Memory(asked={"a": {"d1": "old", "d2": "new"}, "b": {"d1": "x"}, "unloaded": {"d1": "z"}})
    memory.forget_other_requests({"a": "new", "b": "y"})
    assert memory.asked == {"a": {"d2": "new"}, "unloaded": {"d1": "z"}}


def test_added_and_removed_keys_are_told_apart_from_changed_ones() -> None:
    space = load(MINI)
    without = dataclasses.replace(space, traits={key: t for key, t in space.traits.items() if key != "logins"})
    assert changed_keys(space, space) == ([], [])
    assert changed_keys(without, space) == (["computed_traits/logins"], [])
    assert changed_keys(space, without) == ([], ["computed_traits/logins"])


# -- on an instance -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(mini: Stage) -> Stage:
    """Two audiences and a trait, each built for other days; everything else never."""
    mini.build(OVERDUE, DAYS[0:2])
    mini.build(OVERDUE, DAYS[4:5])
    mini.build(ACTIVE, DAYS[1:4])
    mini.build(LOGINS, DAYS[0:3])
    return mini


def test_nothing_is_asked_for_while_every_build_has_the_current_definition(built: Stage) -> None:
    tick = built.tick("data_graph")
    assert (tick.requests, tick.skip) == ([], "every built partition has the current definition")


@on_both_storages
def test_an_edit_on_disk_asks_for_the_gappy_stale_partitions_of_all_affected_assets_in_one_request(built: Stage) -> None:
    built.tick("data_graph")
    built.edit("audiences/overdue.yaml", "value: 0", "value: 100")
    tick = built.tick("data_graph")
    # ``active`` names ``overdue``; the trait is untouched.
    assert tick.asked == {OVERDUE: [DAYS[0], DAYS[1], DAYS[4]], ACTIVE: DAYS[1:4]}
    assert tick.requests[0].tags["cdp/sensor"] == "mini__data_graph"


def test_a_sensor_without_a_cursor_finds_the_same(built: Stage) -> None:
    built.edit("audiences/overdue.yaml", "value: 0", "value: 100")
    assert built.tick("data_graph").asked == {OVERDUE: [DAYS[0], DAYS[1], DAYS[4]], ACTIVE: DAYS[1:4]}


def test_a_join_key_concerns_only_the_audiences_on_its_path(built: Stage) -> None:
    built.edit("data_graph.hcl", 'join_key = "CODE"', 'join_key = "ID"')
    assert built.tick("data_graph").asked == {ACTIVE: DAYS[1:4]}


def test_a_trait_concerns_itself_and_the_audiences_that_read_it(built: Stage) -> None:
    built.edit("traits/logins.yaml", "last: 30", "last: 60")
    assert built.tick("data_graph").asked == {LOGINS: DAYS[0:3], ACTIVE: DAYS[1:4]}


def test_a_name_concerns_nothing(built: Stage) -> None:
    built.edit("audiences/overdue.yaml", "name: Overdue", "name: Overdue cards")
    assert built.tick("data_graph").requests == []


@on_both_storages
def test_the_request_is_not_repeated_whatever_becomes_of_it(built: Stage) -> None:
    built.edit("audiences/overdue.yaml", "value: 0", "value: 100")
    assert built.tick("data_graph").requests
    for _ in range(3):
        assert built.tick("data_graph").requests == []
    built.build(OVERDUE, DAYS[0:2])  # the backfill gets so far, and no further
    assert built.tick("data_graph").requests == []


def test_a_partition_that_a_late_run_builds_by_the_old_definition_is_asked_for_as_well(built: Stage) -> None:
    late = Stage(shutil.copytree(built.directory, built.directory.parent / "late"), built.home, built.instance)
    built.edit("data_graph.hcl", 'join_key = "CODE"', 'join_key = "ID"')
    assert built.tick("data_graph").asked == {ACTIVE: DAYS[1:4]}
    late.build(ACTIVE, DAYS[6:7])
    assert built.tick("data_graph").asked == {ACTIVE: [DAYS[6]]}


def test_a_further_edit_asks_again_and_so_does_a_return(built: Stage) -> None:
    built.edit("audiences/overdue.yaml", "value: 0", "value: 100")
    built.tick("data_graph")
    built.edit("audiences/overdue.yaml", "value: 100", "value: 200")
    assert built.tick("data_graph").asked[OVERDUE] == [DAYS[0], DAYS[1], DAYS[4]]
    built.build(OVERDUE, DAYS[0:1])
    built.edit("audiences/overdue.yaml", "value: 200", "value: 0")
    assert built.tick("data_graph").asked == {OVERDUE: [DAYS[0]]}
    built.build(OVERDUE, DAYS[0:1])
    built.edit("audiences/overdue.yaml", "value: 0", "value: 200")
    assert built.tick("data_graph").asked[OVERDUE] == [DAYS[0], DAYS[1], DAYS[4]]


@on_both_storages
def test_nothing_is_asked_for_while_its_own_backfill_runs(built: Stage) -> None:
    built.edit("audiences/overdue.yaml", "value: 0", "value: 100")
    (request,) = built.tick("data_graph").requests
    assert request.asset_graph_subset is not None
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id="first",
        dynamic_partitions_store=built.instance,
        backfill_timestamp=1_767_225_600.0,
        asset_graph_subset=request.asset_graph_subset,
        tags=dict(request.tags),
        title=None,
        description=None,
        run_config=None,
    )
    built.instance.add_backfill(backfill)
    built.edit("audiences/overdue.yaml", "value: 100", "value: 200")
    tick = built.tick("data_graph")
    assert (tick.requests, tick.skip) == ([], "the backfill asked for before has not ended")
    built.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert built.tick("data_graph").asked[OVERDUE] == [DAYS[0], DAYS[1], DAYS[4]]


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("audiences/overdue.yaml", "key: overdue\nname: Overdue\ngroups:\n  - conditions:\n      - with_entity: acc"),
        ("audiences/overdue.yaml", "key: overdue\nname: 'Over"),
        ("audiences/overdue.yaml", ""),
        ("data_graph.hcl", 'data_graph {\n  version = "v1.0.0"\n\n  entity "acc'),
        ("data_graph.hcl", ""),
        ("space.yaml", "name: mini\nwarehouse:\n  schemas: [ba"),
    ],
)
def test_a_half_written_file_is_a_skip_that_changes_nothing(built: Stage, name: str, half: str) -> None:
    before = built.tick("data_graph").cursor
    whole = (built.directory / name).read_text()
    (built.directory / name).write_text(half)
    tick = built.tick("data_graph")
    assert tick.requests == []
    assert tick.skip is not None and tick.skip.startswith("the space does not validate: ")
    assert tick.cursor == before
    (built.directory / name).write_text(whole)
    assert built.tick("data_graph").requests == []


def test_added_assets_need_a_reload_and_say_so(built: Stage) -> None:
    text = (built.directory / "traits/logins.yaml").read_text()
    (built.directory / "traits/visits.yaml").write_text(text.replace("key: logins", "key: visits"))
    tick = built.tick("data_graph")
    assert (tick.requests, tick.skip) == ([], "reload the location: added computed_traits/visits; removed none")


def test_builds_from_before_the_space_began_are_no_partitions_any_more(built: Stage) -> None:
    built.edit("space.yaml", "start_date: 2026-01-01", "start_date: 2026-01-03")
    built.edit("audiences/overdue.yaml", "value: 0", "value: 100")
    reloaded = Stage(built.directory, built.home, built.instance)
    assert reloaded.tick("data_graph").asked == {OVERDUE: [DAYS[4]], ACTIVE: DAYS[2:4]}


def test_partitions_that_retention_has_dropped_are_not_asked_for(built: Stage) -> None:
    built.edit("space.yaml", "start_date: 2026-01-01", "start_date: 2026-01-01\nretention_days: 2")
    built.edit("audiences/overdue.yaml", "value: 0", "value: 100")
    # OVERDUE's newest partition ends on the 6th, ACTIVE's on the 5th: kept is what ends within two days before.
    assert built.tick("data_graph").asked == {OVERDUE: [DAYS[4]], ACTIVE: DAYS[2:4]}


def test_its_selection_holds_every_trait_and_audience_and_nothing_that_sends(mini: Stage) -> None:
    sensor = mini.definitions.resolve_sensor_def("mini__data_graph")
    assert sensor.asset_selection is not None
    chosen = sensor.asset_selection.resolve(mini.definitions.resolve_asset_graph())
    assert {"/".join(key.path[1:]) for key in chosen} == set(revisions(mini.space()))
    assert {key.path[1] for key in chosen} == {"computed_traits", "linked_audiences"}


def test_a_space_without_definitions_has_no_such_sensor(mini: Stage) -> None:
    empty = dataclasses.replace(mini.space(), traits={}, audiences={}, activations={}, models={})
    assert build_data_graph_sensor(empty, Path("unused")) is None
    assert [sensor.name for sensor in build_sensors(empty, Path("unused"), mini.home)] == ["mini__landing"]


@pytest.mark.parametrize("automation", ["on", "off"])
def test_both_sensors_start_switched_on_unless_the_space_says_off(mini: Stage, automation: str) -> None:
    mini.edit("space.yaml", "schedule: {every: 1h}", f"schedule: {{every: 1h}}\nautomation: '{automation}'")
    sensors = build_sensors(mini.space(), mini.directory, mini.home)
    expected = dg.DefaultSensorStatus.RUNNING if automation == "on" else dg.DefaultSensorStatus.STOPPED
    assert [sensor.default_status for sensor in sensors] == [expected, expected]
