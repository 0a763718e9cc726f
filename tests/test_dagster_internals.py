"""Verdicts by partition and exact backfills, on real instances: in memory and on SQLite files."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from cdp_assets.dagster_checks import by_check, check_result, check_specs
from cdp_assets.dagster_internals import (
    META_PARTITIONS,
    CheckVerdict,
    _kept,
    check_evaluations,
    keep_connections,
    latest_check,
    running_backfills,
    subset_run_request,
)
from cdp_assets.quality import RowRule, RuleResult

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-11")
MEMBERS = dg.AssetKey(["space", "linked_audiences", "members"])
TRAIT = dg.AssetKey(["space", "computed_traits", "trait"])
SYNC = dg.AssetKey(["space", "destination_syncs", "sync"])
CHECK = "members_are_profiles"


@pytest.fixture(params=["memory", "sqlite"])
def instance(request: pytest.FixtureRequest) -> Iterator[dg.DagsterInstance]:
    made = dg.DagsterInstance.ephemeral() if request.param == "memory" else dg.DagsterInstance.local_temp()
    with made as instance:
        yield instance


def rule(passed: bool) -> list[RuleResult]:
    return [RuleResult("profiles", passed, 0 if passed else 2, 10, [] if passed else [{"id": "p1"}], "every member is a profile")]


def run(
    instance: dg.DagsterInstance,
    passing: Mapping[str, bool],
    *,
    blocking: bool = False,
    separate: bool = False,
    logs: bool = True,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.ExecuteInProcessResult:
    """Build members for the partitions of ``passing`` (one: by key, more: as a range), check them, then sync."""
    keys = list(passing)
    spec = dg.AssetCheckSpec(CHECK, asset=MEMBERS, partitions_def=DAYS, blocking=blocking)

    def verdict(context: Any) -> dg.AssetCheckResult:
        made = {key: check_result(MEMBERS, CHECK, rule(passing[key]), key, severity=severity) for key in context.partition_keys}
        if not logs:
            return dg.AssetCheckResult(asset_key=MEMBERS, check_name=CHECK, passed=all(passing.values()))
        return check_evaluations(context, made, asset_key=MEMBERS, check_name=CHECK, blocking=blocking)

    @dg.multi_asset(
        specs=[dg.AssetSpec(MEMBERS, partitions_def=DAYS)],
        check_specs=[] if separate else [spec],
        partitions_def=DAYS,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def build(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield dg.MaterializeResult(asset_key=MEMBERS)
        if not separate:
            yield verdict(context)

    @dg.multi_asset_check(specs=[spec])
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        yield verdict(context)

    @dg.asset(key=SYNC, deps=[dg.AssetDep(MEMBERS, partition_mapping=dg.LastPartitionMapping())])
    def sync() -> None: ...

    range_tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    return dg.materialize(
        [build, sync, *([check] if separate else [])],
        instance=instance,
        partition_key=keys[0] if len(keys) == 1 else None,
        tags=range_tags if len(keys) > 1 else None,
        raise_on_error=False,
    )


def status(instance: dg.DagsterInstance, partition: str | None) -> str:
    return latest_check(instance, MEMBERS, CHECK, partition).status


@pytest.mark.parametrize("separate", [False, True], ids=["in the asset's step", "in a step of its own"])
def test_a_range_run_leaves_one_right_verdict_per_partition(instance: dg.DagsterInstance, separate: bool) -> None:
    result = run(instance, {"2026-01-02": True, "2026-01-03": False, "2026-01-04": True}, separate=separate)
    assert result.success  # a check that does not block fails nothing
    assert [status(instance, f"2026-01-0{day}") for day in range(1, 6)] == ["missing", "passed", "failed", "passed", "missing"]
    assert latest_check(instance, MEMBERS, CHECK).status == "failed"
    (whole,) = result.get_asset_check_evaluations()[-1:]
    assert whole.partition is None
    assert whole.metadata[META_PARTITIONS].value == ["2026-01-02", "2026-01-03", "2026-01-04"]
    assert whole.description == "1 of 3 partitions fail: 2026-01-03"


@pytest.mark.parametrize("separate", [False, True], ids=["in the asset's step", "in a step of its own"])
def test_one_failing_partition_of_a_range_blocks_what_is_downstream(instance: dg.DagsterInstance, separate: bool) -> None:
    bad = run(instance, {"2026-01-02": True, "2026-01-03": False}, blocking=True, separate=separate)
    assert not bad.success
    assert instance.get_latest_materialization_event(SYNC) is None
    assert [status(instance, "2026-01-02"), status(instance, "2026-01-03")] == ["passed", "failed"]
    good = run(instance, {"2026-01-02": True, "2026-01-03": True}, blocking=True, separate=separate)
    assert good.success
    assert instance.get_latest_materialization_event(SYNC) is not None
    assert [status(instance, "2026-01-02"), status(instance, "2026-01-03")] == ["passed", "passed"]


def test_a_warning_does_not_block(instance: dg.DagsterInstance) -> None:
    result = run(instance, {"2026-01-02": False, "2026-01-03": False}, blocking=True, severity=dg.AssetCheckSeverity.WARN)
    assert result.success
    assert status(instance, "2026-01-03") == "failed"


def test_a_run_of_one_partition_records_that_partition_only(instance: dg.DagsterInstance) -> None:
    result = run(instance, {"2026-01-02": True})
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.partition == "2026-01-02"
    assert status(instance, "2026-01-02") == "passed"
    assert latest_check(instance, MEMBERS, CHECK).status == "missing"


def test_a_later_run_replaces_the_verdict(instance: dg.DagsterInstance) -> None:
    run(instance, {"2026-01-02": True, "2026-01-03": True})
    run(instance, {"2026-01-02": False})
    assert [status(instance, "2026-01-02"), status(instance, "2026-01-03")] == ["failed", "passed"]
    run(instance, {"2026-01-02": True, "2026-01-03": True})
    assert status(instance, "2026-01-02") == "passed"


def test_a_pass_of_other_partitions_opens_nothing(instance: dg.DagsterInstance) -> None:
    run(instance, {"2026-01-02": False})
    run(instance, {"2026-01-05": True, "2026-01-06": True})
    assert status(instance, "2026-01-02") == "failed"
    assert status(instance, "2026-01-09") == "missing"


def test_a_range_run_that_logs_no_partition_leaves_them_planned_and_not_passed(instance: dg.DagsterInstance) -> None:
    run(instance, {"2026-01-02": True, "2026-01-03": True}, logs=False)
    assert status(instance, "2026-01-02") == "planned"
    assert not latest_check(instance, MEMBERS, CHECK, "2026-01-02").passed
    run(instance, {"2026-01-02": False, "2026-01-03": False}, logs=False)
    assert status(instance, "2026-01-02") == "failed"


def test_a_verdict_judges_its_own_run_and_older_materialisations(instance: dg.DagsterInstance) -> None:
    run(instance, {"2026-01-02": True, "2026-01-03": True})
    old = latest_check(instance, MEMBERS, CHECK, "2026-01-03")

    def built() -> tuple[str, int]:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(MEMBERS, asset_partitions=["2026-01-03"]), limit=1
        ).records
        return records[0].run_id, records[0].storage_id

    assert old.judged(*built())
    assert (old.run_id, old.event_id > 0, old.timestamp > 0) == (built()[0], True, True)
    instance.report_runless_asset_event(dg.AssetMaterialization(MEMBERS, partition="2026-01-03"))
    assert not latest_check(instance, MEMBERS, CHECK, "2026-01-03").judged(*built())
    assert not CheckVerdict("missing").judged("")


def test_an_unpartitioned_check_is_read_without_a_partition(instance: dg.DagsterInstance) -> None:
    @dg.asset(key=SYNC, check_specs=check_specs(SYNC, blocking=True))
    def sync() -> Iterator[Any]:
        yield dg.MaterializeResult(asset_key=SYNC)
        yield check_result(SYNC, "schema", rule(False))

    assert not dg.materialize([sync], instance=instance, raise_on_error=False).success
    assert latest_check(instance, SYNC, "schema").status == "failed"
    assert latest_check(instance, SYNC, "other").status == "missing"


# -- backfills ---------------------------------------------------------------------------------------------------------------


def definitions(request: dg.RunRequest, **sensor: Any) -> tuple[dg.Definitions, dg.SensorDefinition]:
    @dg.multi_asset(
        specs=[dg.AssetSpec(key, partitions_def=DAYS) for key in (MEMBERS, TRAIT)],
        partitions_def=DAYS,
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def build(): ...

    @dg.sensor(name="data_graph", **sensor)
    def changed() -> dg.RunRequest:
        return request

    return dg.Definitions([build], sensors=[changed]), changed


def test_gappy_ranges_of_several_assets_are_one_request_that_a_sensor_may_yield(instance: dg.DagsterInstance) -> None:
    request = subset_run_request(
        {MEMBERS: (DAYS, ["2026-01-02", "2026-01-05"]), TRAIT: (DAYS, ["2026-01-03"])}, {"cdp/sensor": "space__data_graph"}
    )
    defs, sensor = definitions(request, asset_selection=dg.AssetSelection.assets(MEMBERS, TRAIT))
    tick = sensor.evaluate_tick(dg.build_sensor_context(instance=instance, definitions=defs))
    (made,) = tick.run_requests
    assert made.tags["cdp/sensor"] == "space__data_graph"
    subset = made.asset_graph_subset
    assert subset is not None
    assert {key: sorted(subset.get_partitions_subset(key).get_partition_keys()) for key in subset.asset_keys} == {
        MEMBERS: ["2026-01-02", "2026-01-05"],
        TRAIT: ["2026-01-03"],
    }


def test_a_sensor_with_a_target_may_not_yield_it(instance: dg.DagsterInstance) -> None:
    request = subset_run_request({MEMBERS: (DAYS, ["2026-01-02"])}, {})
    defs, sensor = definitions(request, target=dg.AssetSelection.assets(MEMBERS))
    with pytest.raises(Exception, match="asset_selection"):
        sensor.evaluate_tick(dg.build_sensor_context(instance=instance, definitions=defs))


def test_a_backfill_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        subset_run_request({MEMBERS: (DAYS, [])}, {})


def test_a_backfill_counts_as_running_until_it_ends(instance: dg.DagsterInstance) -> None:
    request = subset_run_request({MEMBERS: (DAYS, ["2026-01-02"])}, {"cdp/sensor": "a"})
    assert request.asset_graph_subset is not None
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id="b1",
        dynamic_partitions_store=instance,
        backfill_timestamp=1_767_225_600.0,
        asset_graph_subset=request.asset_graph_subset,
        tags=dict(request.tags),
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    assert running_backfills(instance, {"cdp/sensor": "a"}) == ["b1"]
    assert running_backfills(instance, {"cdp/sensor": "b"}) == []
    instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert running_backfills(instance, {"cdp/sensor": "a"}) == []


# -- how a verdict is shown ----------------------------------------------------------------------------------------------------


def test_a_passing_check_is_quiet_and_a_failing_one_says_what_and_how_many() -> None:
    passing = check_result(MEMBERS, CHECK, rule(True))
    assert passing.passed
    assert set(passing.metadata) == {"rows", "rules"}
    broken = [*rule(True), RuleResult("kind.isin", False, 12, 40, [{"id": "p|1", "kind": None}] * 12, "isin(['a'])")]
    failing = check_result(MEMBERS, CHECK, broken, "2026-01-02")
    assert failing.description == "1 of 2 rules broken in partition 2026-01-02: kind.isin (12 of 40)"
    assert (failing.metadata["failing"].value, failing.metadata["threshold"].value) == (12, 0)
    sample = str(failing.metadata["sample: kind.isin"].value).splitlines()
    assert sample[:3] == ["| id | kind |", "| --- | --- |", "| p\\|1 | NULL |"]
    assert len(sample) == 12


def test_a_schema_has_one_check_and_each_rule_across_tables_its_own() -> None:
    across = RowRule(CHECK, "every member is a profile", lambda warehouse, table: table)
    specs = check_specs(MEMBERS, [across], blocking=True, partitions_def=DAYS, name="valid")
    assert [(spec.name, spec.blocking, spec.partitions_def) for spec in specs] == [("valid", True, DAYS), (CHECK, True, DAYS)]
    results = [RuleResult("id.not_null", True, 0, 1), RuleResult(CHECK, True, 0, 1, check=CHECK)]
    assert {name: [r.rule for r in found] for name, found in by_check(results, "valid").items()} == {
        "valid": ["id.not_null"],
        CHECK: [CHECK],
    }


# -- connections to Dagster's files ------------------------------------------------------------------------------------


def tag(folder: Path, run_id: str) -> None:
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        instance.add_run(dg.DagsterRun("job", run_id=run_id))
        instance.report_engine_event("here", run_id=run_id, job_name="job")


def known(folder: Path) -> dict[str, int]:
    """Events by run, as another process sees them, which knows nothing of this one's connections."""
    program = (
        "import sys, json, dagster as dg\n"
        "with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:\n"
        "    print(json.dumps({run.run_id: len(instance.all_logs(run.run_id)) for run in instance.get_runs()}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_what_is_stored_through_kept_connections_is_there_for_others(tmp_path: Path) -> None:
    keep_connections()
    ids = [str(uuid.UUID(int=number)) for number in range(3)]
    for run_id in ids:
        tag(tmp_path, run_id)
    assert known(tmp_path) == dict.fromkeys(ids, 1)


def test_the_file_of_a_run_changes_with_every_event_for_those_who_watch_it(tmp_path: Path) -> None:
    keep_connections()
    run_id = str(uuid.UUID(int=7))
    tag(tmp_path, run_id)
    file = tmp_path / "history" / "runs" / f"{run_id}.db"
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for _ in range(3):
            before = hashlib.sha256(file.read_bytes()).digest()
            instance.report_engine_event("here", run_id=run_id, job_name="job")
            assert hashlib.sha256(file.read_bytes()).digest() != before


def test_a_folder_that_is_made_anew_is_not_written_through_old_connections(tmp_path: Path) -> None:
    keep_connections()
    folder, one, other = tmp_path / "home", str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
    folder.mkdir()
    tag(folder, one)
    shutil.rmtree(folder)
    folder.mkdir()
    tag(folder, other)
    assert known(folder) == {other: 1}


def test_connections_of_a_parent_are_not_used_by_its_child(tmp_path: Path) -> None:
    keep_connections()
    ids = [str(uuid.UUID(int=number)) for number in range(2)]
    tag(tmp_path, ids[0])
    engine = _kept.engine(f"sqlite:///{tmp_path / 'history' / 'runs.db'}")
    child = os.fork()
    if child == 0:
        os._exit(0 if _kept.engine(str(engine.url)) is not engine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _kept.engine(str(engine.url)) is engine


def test_connections_are_let_go_when_there_are_many(tmp_path: Path) -> None:
    keep_connections()
    for number in range(40):
        tag(tmp_path, str(uuid.UUID(int=number)))
    opened = [
        link for link in Path("/proc/self/fd").iterdir() if link.exists() and str(link.readlink()).startswith(str(tmp_path))
    ]
    assert 0 < len({link.readlink() for link in opened if str(link.readlink()).endswith(".db")}) <= 16
