"""Launches runs in processes that wait with everything imported, so that a run starts at once instead of after seconds.

Importing Dagster, the rooms and the connectors is most of what a run of a few events costs. Each run still has a process of its
own, used once: it reads the space's folder and its ``definitions.py`` when the run starts. A process whose Python code has been
edited since it started is not used.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import dagster as dg

from cdp_assets.dagster_internals import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
    execute_run_command,
)

# Runs that this launcher started have it.
TAG_WORKER: Final = "cdp/worker"
# What the names of the threads begin with that wait for a run's process.
WATCH: Final = "watch run"
# How often a run begins in another process when the one that was told died before it had begun: not for ever, code may not import.
_BEGUN_AGAIN: Final = 2
_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("cdp_assets", "resources", "sensors", "schedules")


class WarmRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """The run launcher of a home's ``dagster.yaml``. ``spares``: how many processes wait while nothing runs."""

    def __init__(self, spares: int = 1, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._wanted = spares
        self._spares: collections.deque[tuple[str, subprocess.Popen[bytes]]] = collections.deque()
        self._lock = threading.Lock()
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:
        return {"spares": dg.Field(int, default_value=1, description="How many processes wait while nothing runs.")}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> WarmRunLauncher:
        return cls(inst_data=inst_data, **config_value)

    # -- launching -----------------------------------------------------------------------------------------------------

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        lock = lock_of(self._instance, run.run_id)
        lock.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"lock": str(lock), "arguments": execute_run_command(self._instance, run)}) + "\n"
        # Before anybody could ask for its health: a run without its file counts as ended.
        lock.touch()
        self._instance.add_run_tags(run.run_id, {TAG_WORKER: "own process"})
        told = (self._instance, run.run_id, line.encode(), self._begin(line.encode()))
        threading.Thread(target=self._watch, args=told, name=f"{WATCH} {run.run_id}", daemon=True).start()

    def _begin(self, line: bytes) -> subprocess.Popen[bytes]:
        """Tell a waiting process what to run, and have another one wait in its place."""
        with self._lock:
            try:
                while True:
                    worker = self._take()
                    assert worker.stdin is not None
                    # One that was killed while it waited is passed over.
                    with contextlib.suppress(BrokenPipeError):
                        worker.stdin.write(line)
                        worker.stdin.close()
                        return worker
            finally:
                while len(self._spares) < self._wanted:
                    self._spares.append((code_state(), _start()))

    def _take(self) -> subprocess.Popen[bytes]:
        now = code_state()
        while self._spares:
            state, worker = self._spares.popleft()
            if state == now and worker.poll() is None:
                return worker
            _dismiss(worker)
        return _start()

    def _watch(self, instance: dg.DagsterInstance, run_id: str, line: bytes, worker: subprocess.Popen[bytes]) -> None:
        """Wait for the process; a run that it leaves unfinished has failed, one that it never began begins in another one."""
        code = worker.wait()
        for _ in range(_BEGUN_AGAIN):
            run = instance.get_run_by_id(run_id)
            # A dying process still takes a line; nobody else reads it.
            if run is None or run.status is not dg.DagsterRunStatus.STARTING or _begun(instance, run_id):
                break
            code = self._begin(line).wait()
        lock_of(instance, run_id).unlink(missing_ok=True)
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            instance.report_run_failed(run, f"The process of the run ended with exit code {code} before the run did.")

    # -- what runs -----------------------------------------------------------------------------------------------------

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or TAG_WORKER not in run.tags:
            return False
        self._instance.report_run_canceling(run)
        pid = pid_of(self._instance, run_id)
        if pid is None:
            self._instance.report_run_canceled(run, "The run has no process on this machine.")
            return True
        os.kill(pid, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        # Of a run in the process of a command nothing is known here; it is no business of the monitor's.
        if TAG_WORKER not in run.tags or lives(self._instance, run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its process has ended")

    def dispose(self) -> None:
        with self._lock:
            while self._spares:
                _dismiss(self._spares.popleft()[1])


def lock_of(instance: dg.DagsterInstance, run_id: str) -> Path:
    """The file that a run's process holds locked as long as it lives; its content is the process's id."""
    return Path(instance.root_directory) / "workers" / run_id


def pid_of(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process of a run; None when it has ended, or has not begun yet."""
    lock = lock_of(instance, run_id)
    with contextlib.suppress(FileNotFoundError, ValueError), lock.open("r+", encoding="ascii") as file:
        return None if _unlocked(file) else int(file.read())
    return None


def lives(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the process of a run has not ended; one that was told to run and has not begun yet lives."""
    with contextlib.suppress(FileNotFoundError), lock_of(instance, run_id).open("r+", encoding="ascii") as file:
        return not _unlocked(file) or not file.read()
    return False


def _begun(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a process has taken the run up, even if it has ended since."""
    lock = lock_of(instance, run_id)
    return not lock.exists() or lock.stat().st_size > 0


def _unlocked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def code_state() -> str:
    """A fingerprint of the project's Python files as they are now: names, sizes and times."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "resources.run_worker"], cwd=_ROOT, stdin=subprocess.PIPE)


def _dismiss(worker: subprocess.Popen[bytes]) -> None:
    """End a process that waits."""
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.close()
    worker.terminate()
    threading.Thread(target=worker.wait, daemon=True).start()
