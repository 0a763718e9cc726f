"""Runs that were cut off with their server are ended when the next one starts; runs of commands are left alone."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import yaml

from cdp_assets.space.home import Home
from resources.instance import end_orphans, open_instance, prepare_home


@dg.op
def nothing() -> None: ...


@dg.job
def job() -> None:
    nothing()


def test_runs_that_lost_their_server_are_ended(tmp_path: Path) -> None:
    home = Home(tmp_path)
    prepare_home(home, ["mini"])
    status, served = dg.DagsterRunStatus, {".dagster/grpc_info": "{}"}
    with open_instance(home) as instance:
        made = {
            name: instance.create_run_for_job(job, status=state, tags=tags).run_id
            for name, state, tags in (
                ("cut off", status.STARTED, served),
                ("starting", status.STARTING, served),
                ("of a command", status.STARTED, {}),
                ("done", status.SUCCESS, served),
            )
        }
        assert set(end_orphans(instance)) == {made["cut off"], made["starting"]}
        found = {name: instance.get_run_by_id(run_id) for name, run_id in made.items()}
        assert {name: run.status for name, run in found.items() if run is not None} == {
            "cut off": status.FAILURE,
            "starting": status.FAILURE,
            "of a command": status.STARTED,
            "done": status.SUCCESS,
        }
        assert end_orphans(instance) == []


def test_queued_runs_are_looked_at_every_second(tmp_path: Path) -> None:
    home = Home(tmp_path)
    prepare_home(home, ["mini"])
    with open_instance(home) as instance:
        assert instance.run_coordinator.dequeue_interval_seconds == 1
    assert yaml.safe_load((home.dagster / "dagster.yaml").read_text())["concurrency"]["runs"]["max_concurrent_runs"] == 4
