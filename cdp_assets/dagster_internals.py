"""The only module that imports private Dagster names, each behind one function with the reason why.

Checked against dagster 1.13. When Dagster offers a public way, the function keeps its signature and its body becomes one line.
What belongs here: writing check verdicts by partition, reading them back, requesting a backfill of exact partitions, seeing
whether one is under way, what a run launcher is made of, and keeping connections to Dagster's own files. What does not: what is checked (``dagster_checks.py``) and when (``sensors/``).
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus
from dagster._core.launcher.base import CheckRunHealthResult as CheckRunHealthResult
from dagster._core.launcher.base import LaunchRunContext as LaunchRunContext
from dagster._core.launcher.base import RunLauncher as RunLauncher
from dagster._core.launcher.base import WorkerStatus as WorkerStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord, AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass as ConfigurableClass
from dagster._serdes.config_class import ConfigurableClassData as ConfigurableClassData

# Says which partitions a verdict speaks about when Dagster stores it without one.
META_PARTITIONS: Final = "cdp/partitions"
_NAMED: Final = 10


# -- writing verdicts --------------------------------------------------------------------------------------------------


def check_evaluations(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
    results_by_partition: Mapping[str, dg.AssetCheckResult],
    *,
    asset_key: dg.AssetKey,
    check_name: str,
    blocking: bool | None = None,
) -> dg.AssetCheckResult:
    """Record one verdict per partition, and return the one result for the caller to yield.

    The result of a range run is stored without a partition, and every partition of it then stays *planned* for ever. So each
    partition's verdict is logged beside it. Only the yielded result blocks; it passes when all partitions do, and its severity
    is that of the worst partition that fails. Raises ValueError when there is nothing to report.
    """
    if not results_by_partition:
        raise ValueError(f"check {check_name} of {asset_key.to_user_string()} has no partition to report")
    own = context.partition_key if context.has_partition_key else None
    logger: Any = context.op_execution_context  # takes evaluations, but is not typed to
    for partition, result in results_by_partition.items():
        if partition == own:
            continue  # Dagster stores the yielded result for the run's own partition
        logger.log_event(
            AssetCheckEvaluation(
                asset_key=asset_key,
                check_name=check_name,
                passed=result.passed,
                metadata=result.metadata,
                severity=result.severity,
                description=result.description,
                blocking=blocking,
                partition=partition,
            )
        )
    return _combined(results_by_partition, asset_key, check_name)


def _combined(results: Mapping[str, dg.AssetCheckResult], asset_key: dg.AssetKey, check_name: str) -> dg.AssetCheckResult:
    failing = [partition for partition, result in results.items() if not result.passed]
    covered = {META_PARTITIONS: dg.MetadataValue.json(list(results))}
    if len(results) == 1:
        only = next(iter(results.values()))
        return dg.AssetCheckResult(
            asset_key=asset_key,
            check_name=check_name,
            passed=only.passed,
            severity=only.severity,
            description=only.description,
            metadata={**only.metadata, **covered},
        )
    shown: dict[str, Any] = {}
    severity = next(iter(results.values())).severity
    if failing:
        severities = {results[partition].severity for partition in failing}
        severity = dg.AssetCheckSeverity.ERROR if dg.AssetCheckSeverity.ERROR in severities else dg.AssetCheckSeverity.WARN
        shown = {**results[failing[0]].metadata, "failing partitions": len(failing)}
    named = ", ".join(failing[:_NAMED]) + (", …" if len(failing) > _NAMED else "")
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=check_name,
        passed=not failing,
        severity=severity,
        description=f"{len(failing)} of {len(results)} partitions fail: {named}" if failing else None,
        metadata={**shown, **covered},
    )


# -- reading verdicts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckVerdict:
    """The newest verdict on one partition of an asset (or on an unpartitioned asset).

    ``planned``: a run that intended the check has not reported, and perhaps never will. ``event_id``: storage id of its event,
    comparable with that of a materialisation; 0 when missing. ``timestamp``: seconds since the epoch, UTC.
    """

    status: Literal["passed", "failed", "planned", "missing"]
    event_id: int = 0
    run_id: str = ""
    timestamp: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def judged(self, run_id: str, event_id: int | None = None) -> bool:
        """Whether it speaks about the materialisation of that run (or event) or a later one.

        A step reports its checks before or after its materialisations, so within one run the order of events says nothing.
        """
        return self.status != "missing" and (self.run_id == run_id or (event_id is not None and self.event_id > event_id))


_STATUS: Final[dict[AssetCheckExecutionRecordStatus, Literal["passed", "failed", "planned"]]] = {
    AssetCheckExecutionRecordStatus.SUCCEEDED: "passed",
    AssetCheckExecutionRecordStatus.FAILED: "failed",
    AssetCheckExecutionRecordStatus.PLANNED: "planned",
}


def latest_check(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, check_name: str, partition: str | None = None
) -> CheckVerdict:
    """The newest verdict of a check on ``partition`` (None: of an unpartitioned asset).

    A partition's own record decides. A newer record without a partition counts when it says that it covers the partition; one
    that says nothing can close, never open: a pass of other partitions is no pass of this one.
    """
    key = dg.AssetCheckKey(asset_key, check_name)
    storage = instance.event_log_storage
    whole = storage.get_latest_asset_check_execution_by_key([key], PartitionKeyFilter(key=None)).get(key)
    own = None
    if partition is not None:
        own = storage.get_latest_asset_check_execution_by_key([key], PartitionKeyFilter(key=partition)).get(key)
    record = whole if partition is None else _newest(own, whole, partition)
    if record is None:
        return CheckVerdict("missing")
    events = {info.partition_key: info for info in storage.get_asset_check_partition_info([key])}
    stored = events.get(record.partition)
    event_id = stored.latest_check_event_storage_id if stored is not None else 0
    timestamp = record.event.timestamp if record.event else record.create_timestamp
    return CheckVerdict(_STATUS[record.status], event_id, record.run_id, timestamp)


def _newest(
    own: AssetCheckExecutionRecord | None, whole: AssetCheckExecutionRecord | None, partition: str
) -> AssetCheckExecutionRecord | None:
    if whole is None or not _concerns(whole, partition):
        return own
    if own is None:
        return whole
    if own.run_id == whole.run_id:
        # One run: the partition's own verdict is the exact one, unless it never came.
        return whole if own.status is AssetCheckExecutionRecordStatus.PLANNED else own
    return max(own, whole, key=lambda record: record.id)


def _concerns(record: AssetCheckExecutionRecord, partition: str) -> bool:
    covered = record.evaluation.metadata.get(META_PARTITIONS) if _evaluated(record) and record.evaluation else None
    if covered is not None:
        return partition in (covered.value if isinstance(covered.value, list) else ())
    return record.status is AssetCheckExecutionRecordStatus.FAILED


def _evaluated(record: AssetCheckExecutionRecord) -> bool:
    return record.status is not AssetCheckExecutionRecordStatus.PLANNED


# -- backfills ---------------------------------------------------------------------------------------------------------


def subset_run_request(
    keys_by_asset: Mapping[dg.AssetKey, tuple[dg.PartitionsDefinition | None, Sequence[str]]], tags: Mapping[str, str]
) -> dg.RunRequest:
    """A request that the sensor daemon turns into one backfill of exactly these partitions, different and gappy ones included.

    ``keys_by_asset``: asset -> its partitions definition and keys (None and no keys for an unpartitioned asset). The sensor must
    be declared with ``asset_selection=`` that holds every asset; a run key is not honoured, so the sensor remembers in its cursor.
    Raises ValueError when no partition is asked for.
    """
    subsets = {
        key: definition.subset_with_partition_keys(list(keys))
        for key, (definition, keys) in keys_by_asset.items()
        if definition is not None and keys
    }
    whole = {key for key, (definition, _) in keys_by_asset.items() if definition is None}
    if not subsets and not whole:
        raise ValueError("a backfill needs at least one partition")
    subset = AssetGraphSubset(subsets, whole)  # type: ignore[call-arg]
    return dg.RunRequest.for_asset_graph_subset(subset, tags=dict(tags))


def running_backfills(instance: dg.DagsterInstance, tags: Mapping[str, str]) -> list[str]:
    """Ids of the backfills with all of these tags that have not ended."""
    under_way = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]
    # Tags are compared here: an in-memory instance does not find backfills by tag.
    found = instance.get_backfills(filters=BulkActionsFilter(statuses=under_way))
    return [backfill.backfill_id for backfill in found if tags.items() <= backfill.tags.items()]


# -- launching runs ----------------------------------------------------------------------------------------------------


def execute_run_command(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """The arguments of the ``dagster`` command that executes a run which has been created. Raises ValueError without an origin."""
    if run.job_code_origin is None:
        raise ValueError(f"run {run.run_id} does not say where its code is")
    told = ExecuteRunArgs(
        job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=instance.get_ref(), set_exit_code_on_failure=True
    )
    command = list(told.get_command_args())
    return command[command.index("api") :]


# -- storage -----------------------------------------------------------------------------------------------------------

_MOST_KEPT: Final = 16


class _KeptEngines:
    """Engines on SQLite files. One of another process, or on a file that is another now, is not used again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: OrderedDict[str, tuple[tuple[int, ...], sa.Engine]] = OrderedDict()

    def engine(self, url: str, *, connected: bool = True) -> sa.Engine:
        """``connected``: with a connection that stays open."""
        pool: dict[str, Any] = {"poolclass": sa.NullPool}
        if connected:
            pool = {"poolclass": sa.QueuePool, "pool_size": 1, "max_overflow": -1}
        with self._lock:
            known = self._engines.pop(url, None)
            if known is None or known[0] != self._identity(url):
                made = sa.create_engine(
                    url, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}, **pool
                )
                with made.connect():
                    known = (self._identity(url), made)
            self._engines[url] = known
            while len(self._engines) > _MOST_KEPT:
                self._engines.popitem(last=False)[1][1].dispose()
            return known[1]

    @staticmethod
    def _identity(url: str) -> tuple[int, ...]:
        try:
            found = _file_of(url).stat()
        except FileNotFoundError:
            return ()
        return os.getpid(), found.st_dev, found.st_ino


@functools.lru_cache(maxsize=4 * _MOST_KEPT)
def _file_of(url: str) -> Path:
    return Path(sa.make_url(url).database or "")


_kept = _KeptEngines()


def keep_connections() -> None:
    """From now on this process keeps its connections to the SQLite files of Dagster's event log and runs. Idempotent.

    Dagster makes an engine for every statement: to connect, to compile the statement anew, and to let SQLite tidy up behind a last
    connection takes a quarter of a small run. The file of a run's own events keeps its engine only: whoever looks at a run waits for
    that file to change, which it does when the last connection is closed.
    """

    @contextlib.contextmanager
    def connect_to_shard(storage: Any, shard: str) -> Iterator[sa.Connection]:
        with storage._db_lock:
            engine = _kept.engine(storage.conn_string_for_shard(shard), connected=shard == INDEX_SHARD_NAME)
            if shard not in storage._initialized_dbs:
                storage._initdb(engine)
                storage._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    @contextlib.contextmanager
    def connect(storage: Any) -> Iterator[sa.Connection]:
        with _kept.engine(storage._conn_string).begin() as connection:
            yield connection

    SqliteEventLogStorage._connect = connect_to_shard  # type: ignore[assignment]
    SqliteRunStorage.connect = connect  # type: ignore[assignment]
