"""Runs in processes that waited for them, by a real instance: what they do, and what becomes of one that is killed."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from cdp_assets.dagster_internals import LaunchRunContext, WorkerStatus
from cdp_assets.space.home import Home
from resources import run_launcher
from resources.instance import end_orphans, open_instance, prepare_home
from resources.run_launcher import TAG_WORKER, WarmRunLauncher, lives, lock_of, pid_of


@dg.op(config_schema={"file": dg.Field(str, default_value=""), "seconds": dg.Field(int, default_value=0)})
def rest(context: dg.OpExecutionContext) -> None:
    Path(context.op_config["file"]).write_text(str(os.getpid()), encoding="ascii")
    time.sleep(context.op_config["seconds"])


@dg.job(executor_def=dg.in_process_executor)
def resting() -> None:
    rest()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = Home(tmp_path / "home")
    prepare_home(home, ["mini"])
    with open_instance(home) as opened:
        yield opened
        for thread in threading.enumerate():
            if thread.name.startswith(run_launcher.WATCH):
                thread.join(60)


def _launch(instance: dg.DagsterInstance, file: Path, seconds: int = 0) -> str:
    run = instance.create_run_for_job(
        resting,
        run_config={"ops": {"rest": {"config": {"file": str(file), "seconds": seconds}}}},
        job_code_origin=dg.reconstructable(resting).get_python_origin(),
        status=dg.DagsterRunStatus.STARTING,
    )
    instance.run_launcher.launch_run(LaunchRunContext(run, None))
    return run.run_id


def _until(true: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


def _status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def _waiting(launcher: object) -> list[int]:
    assert isinstance(launcher, WarmRunLauncher)
    return [worker.pid for _, worker in launcher._spares]


def test_a_run_starts_in_the_process_that_waited_and_another_one_waits_after_it(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    first = _launch(instance, tmp_path / "first")
    _until(lambda: _status(instance, first) is dg.DagsterRunStatus.SUCCESS)
    waiting = _waiting(instance.run_launcher)
    assert len(waiting) == 1
    second = _launch(instance, tmp_path / "second")
    _until(lambda: _status(instance, second) is dg.DagsterRunStatus.SUCCESS)
    assert int((tmp_path / "second").read_text()) == waiting[0]
    assert int((tmp_path / "first").read_text()) not in (waiting[0], os.getpid())
    assert len(_waiting(instance.run_launcher)) == 1
    assert _waiting(instance.run_launcher) != waiting
    _until(lambda: not lock_of(instance, second).exists())


def test_a_process_from_before_an_edit_of_the_code_is_not_used(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _launch(instance, tmp_path / "first")
    waiting = _waiting(instance.run_launcher)
    monkeypatch.setattr(run_launcher, "code_state", lambda: "edited")
    second = _launch(instance, tmp_path / "second")
    _until(lambda: all(_status(instance, run) is dg.DagsterRunStatus.SUCCESS for run in (first, second)))
    assert int((tmp_path / "second").read_text()) not in waiting


def test_a_process_that_was_killed_while_it_waited_is_passed_over(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    first = _launch(instance, tmp_path / "first")
    for pid in _waiting(instance.run_launcher):
        os.kill(pid, signal.SIGKILL)
    second = _launch(instance, tmp_path / "second")
    _until(lambda: all(_status(instance, run) is dg.DagsterRunStatus.SUCCESS for run in (first, second)))


def test_a_run_whose_process_is_killed_before_it_has_begun_begins_in_another_one(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, begin, told = WarmRunLauncher._take, WarmRunLauncher._begin, []

    def take_and_stop(launcher: WarmRunLauncher) -> subprocess.Popen[bytes]:
        worker = take(launcher)
        told.append(worker.pid)
        if len(told) <= deaths:
            worker.send_signal(signal.SIGSTOP)
        return worker

    def begin_and_kill(launcher: WarmRunLauncher, line: bytes) -> subprocess.Popen[bytes]:
        worker = begin(launcher, line)
        if len(told) <= deaths:
            worker.kill()
        return worker

    monkeypatch.setattr(WarmRunLauncher, "_take", take_and_stop)
    monkeypatch.setattr(WarmRunLauncher, "_begin", begin_and_kill)
    deaths = 2
    run_id = _launch(instance, tmp_path / "pid")
    _until(lambda: _status(instance, run_id) is dg.DagsterRunStatus.SUCCESS)
    assert int((tmp_path / "pid").read_text()) == told[2]
    assert len(told) == 3
    told.clear()
    deaths = 99
    run_id = _launch(instance, tmp_path / "never")
    _until(lambda: _status(instance, run_id) is dg.DagsterRunStatus.FAILURE)
    assert len(told) == 3
    assert not (tmp_path / "never").exists()


def test_a_run_whose_process_is_killed_has_failed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run_id = _launch(instance, tmp_path / "pid", seconds=300)
    _until((tmp_path / "pid").exists)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    pid = pid_of(instance, run_id)
    assert pid == int((tmp_path / "pid").read_text())
    # A server that starts meanwhile leaves it alone.
    assert end_orphans(instance) == []
    os.kill(pid, signal.SIGKILL)
    _until(lambda: _status(instance, run_id) is dg.DagsterRunStatus.FAILURE)
    assert any("exit code -9" in (entry.message or "") for entry in instance.all_logs(run_id))
    assert not lives(instance, run_id)
    assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.NOT_FOUND


def test_a_run_can_be_cancelled(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run_id = _launch(instance, tmp_path / "pid", seconds=300)
    _until((tmp_path / "pid").exists)
    assert instance.run_launcher.terminate(run_id)
    _until(lambda: _status(instance, run_id) is dg.DagsterRunStatus.CANCELED)
    assert not instance.run_launcher.terminate(run_id)


def test_a_run_that_lost_its_process_with_the_server_is_ended_at_the_next_start(instance: dg.DagsterInstance) -> None:
    tags = {TAG_WORKER: "own process"}
    lost = instance.create_run_for_job(resting, status=dg.DagsterRunStatus.STARTED, tags=tags).run_id
    lock = lock_of(instance, lost)
    lock.parent.mkdir(parents=True)
    lock.write_text(str(os.getpid()), encoding="ascii")  # nobody holds it: the number belongs to somebody else by now
    assert pid_of(instance, lost) is None
    assert end_orphans(instance) == [lost]


def test_a_run_in_the_process_of_a_command_is_no_business_of_the_launcher(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(resting, status=dg.DagsterRunStatus.STARTED)
    assert instance.run_launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run.run_id)
    assert end_orphans(instance) == []
