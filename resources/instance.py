"""The Dagster instance of a home: its ``dagster.yaml``, and the pool limits without which DuckDB runs would collide."""

from __future__ import annotations

import os
from collections.abc import Iterable

import dagster as dg

from cdp_assets.dagster_internals import keep_connections
from cdp_assets.space.home import Home
from resources.run_launcher import TAG_WORKER, pid_of

keep_connections()

_DAGSTER_YAML = """\
# Written when the home was made; edit freely, it is never overwritten.
telemetry:
  enabled: false

# A crashed run process is started again; a failed asset is not (its own retry policy decides that).
run_retries:
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false

run_monitoring:
  enabled: true
  start_timeout_seconds: 300
  max_runtime_seconds: 21600

concurrency:
  pools:
    # One DuckDB file admits one process: a run holds its space's pool as long as it lives.
    default_limit: 1
    granularity: run
  runs:
    max_concurrent_runs: 4

run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config:
    # A run that may start waits a second, not the usual five: events have seconds to arrive.
    dequeue_interval_seconds: 1

run_launcher:
  # Runs start in processes that wait with everything imported. Each takes 250 MB; 0 starts them when they are needed.
  module: resources.run_launcher
  class: WarmRunLauncher
  config:
    spares: 1

schedules:
  use_threads: true
  num_workers: 2
sensors:
  use_threads: true
  # A sensor that waits for landing files takes one of them for a few seconds.
  num_workers: 4

retention:
  schedule:
    purge_after_days: {skipped: 7, failure: 30, success: 90}
  sensor:
    purge_after_days: {skipped: 7, failure: 30, success: 90}
"""


def pool_of(space_name: str) -> str:
    """The pool that serialises everything that opens the space's DuckDB file."""
    return f"{space_name}_duckdb"


def prepare_home(home: Home, space_names: Iterable[str]) -> None:
    """Make the home's folders, its ``dagster.yaml``, and the pool limit of each space. Idempotent.

    A pool that the daemon has never seen is unlimited for its first lap, whatever ``default_limit`` says; so the limit is
    set here, before anything can be queued.
    """
    home.dagster.mkdir(parents=True, exist_ok=True)
    home.sandbox.mkdir(parents=True, exist_ok=True)
    settings = home.dagster / "dagster.yaml"
    if not settings.exists():
        settings.write_text(_DAGSTER_YAML, encoding="utf-8")
    with open_instance(home) as instance:
        for name in space_names:
            home.space(name).mkdir(parents=True, exist_ok=True)
            instance.event_log_storage.set_concurrency_slots(pool_of(name), 1)


# Runs that a code server started have it; those of a command run in the command's own process.
_OF_A_SERVER = ".dagster/grpc_info"


def end_orphans(instance: dg.DagsterInstance) -> list[str]:
    """Fail runs in progress that an earlier server started: call it where no server runs. Their ids.

    Stopping the UI in the middle of a run leaves it so; nobody would ever end it, and it holds its space's pool. A run whose own
    process still lives is left alone.
    """
    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    orphans = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=unfinished))
        if _OF_A_SERVER in run.tags or (TAG_WORKER in run.tags and pid_of(instance, run.run_id) is None)
    ]
    for run in orphans:
        instance.report_run_failed(run, "The server that ran it was stopped.")
    return [run.run_id for run in orphans]


def open_instance(home: Home) -> dg.DagsterInstance:
    """The home's instance; use as a context manager."""
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
    return dg.DagsterInstance.from_config(str(home.dagster))
