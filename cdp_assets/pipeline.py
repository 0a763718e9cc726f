"""Runs a whole space through Dagster, on the home's instance, and sums up what happened.

This is what ``cdp run`` and ``make demo`` call. It executes directly, past the queue, so it waits for the warehouse file by itself.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from cdp_assets.computed_traits.tables import ACCOUNT_VALUES, TRAIT_VALUES
from cdp_assets.dagster_support import TAG_AS_OF, asset_key, format_instant
from cdp_assets.data_graph.assets import key_of as graph_key
from cdp_assets.data_graph.assets import scan_is_due
from cdp_assets.definitions import build_definitions
from cdp_assets.destination_syncs.accounting import SyncResult
from cdp_assets.destination_syncs.assets import request_of, surroundings_of
from cdp_assets.destination_syncs.journal import open_journal
from cdp_assets.destination_syncs.retire import retire_with_exits
from cdp_assets.destination_syncs.tables import SYNCS
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.linked_audiences.tables import BUILDS as AUDIENCE_BUILDS
from cdp_assets.pulled_sources.tables import table_of
from cdp_assets.raw_events.tables import BUILDS as RAW_BUILDS
from cdp_assets.raw_events.tables import DUPLICATES, MESSAGES, QUARANTINE
from cdp_assets.space.home import Home
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window, window_of, windows
from cdp_assets.unified_profiles.tables import canonical_ids_as_of
from resources.destinations.open import DEFAULT_SANDBOX_URL
from resources.instance import open_instance, prepare_home
from resources.sandbox.server import is_up, sandbox
from resources.space import SpaceResource, load
from resources.warehouse import Warehouse, timestamp_literal
from resources.warehouse.open import open_warehouse

Progress = Callable[[str, int, int], None]


class RunError(Exception):
    """A run could not start or did not finish; the message says which and where to look."""


@dataclass(frozen=True)
class RunReport:
    """The summary of ``cdp run --json``, and the assets that failed, with their reason."""

    summary: dict[str, Any]
    failures: dict[str, str]


def run_space(
    directory: Path,
    home: Home,
    *,
    as_of: dt.datetime | None = None,
    progress: Progress | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> RunReport:
    """Build every raw partition not yet built up to ``as_of`` (default: now), then everything else, and deliver.

    The data graph is scanned when a scan is due, at most once a day.
    ``progress(label, done, total)`` is called after each step. Raises SpaceError and RunError.
    """
    space = load(directory)
    instant = as_of or dt.datetime.now(dt.UTC)
    try:
        target = window_of(space.config, instant)
    except ValueError as error:
        raise RunError(str(error)) from None
    prepare_home(home, [space.name])
    with open_warehouse(space, home, on_wait=on_wait) as warehouse:
        missing = incomplete_windows(warehouse, space, instant)
    definitions = build_definitions(directory, home.root)
    raw = [asset_key(space.name, "raw_events", name) for name in ("messages", "quarantine", "violations", "event_tables")]
    raw += [asset_key(space.name, "pulled_sources", key) for key, source in space.config.pulled_sources.items() if source.event]
    runs: list[tuple[list[Window], bool]] = [(missing, True)] if len(missing) > 1 else []
    runs.append(([target], not runs))
    failures: dict[str, str] = {}
    run_ids: list[str] = []
    with sandbox_at(home), open_instance(home) as instance:
        scans = scan_is_due(instance, space, instant)
        steps = _Steps(progress, total=_step_count(space) + scans)
        for chosen, with_raw in runs:
            everything = definitions.resolve_asset_graph().executable_asset_keys - (set() if scans else {graph_key(space)})
            selection = set(raw) if len(chosen) > 1 else set(everything) - (set() if with_raw else set(raw))
            run_ids.append(_execute(definitions, instance, selection, chosen, instant, steps))
        for run_id in run_ids:
            failures.update(_failures(instance, run_id))
    with open_warehouse(space, home, on_wait=on_wait) as warehouse:
        return RunReport(summarise(warehouse, space, instant, run_ids), failures)


def retire_activation(space: Space, home: Home, key: str) -> SyncResult:
    """End an activation and exit everybody who is in. Call it again while keys are waiting or unknown."""
    resource = SpaceResource(directory=str(space.directory), home=str(home.root))
    activation = space.activations[key]
    with sandbox_at(home), open_journal(home.journal_url(space.name)) as journal:
        request = request_of(space, activation, run_id="cdp retire")
        return retire_with_exits(request, surroundings_of(resource, space, activation, journal))


def incomplete_windows(warehouse: Warehouse, space: Space, instant: dt.datetime) -> list[Window]:
    """Windows from the first not completely built one up to the one of ``instant``: a contiguous range, never empty."""
    everything = windows(space.config, instant)
    if not warehouse.has(RAW_BUILDS.ref):
        return everything
    builds = warehouse.table(RAW_BUILDS.ref)
    rows = warehouse.rows(builds.filter(builds.asset == "messages").select("partition_key", "as_of"), 1_000_000)
    built = {row["partition_key"]: row["as_of"].replace(tzinfo=dt.UTC) for row in rows}
    for position, window in enumerate(everything):
        if window.key not in built or built[window.key] < min(window.end, instant):
            return everything[position:]
    return everything[-1:]


def _step_count(space: Space) -> int:
    rooms = 1 + (space.graph.external is None) + bool(space.traits or space.audiences)
    return rooms + len(space.config.pulled_sources) + 2 * len(space.activations)


class _Steps:
    """Counts finished steps for the progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def finished(self, name: str) -> None:
        self.done += 1
        if self.progress:
            self.progress(name, min(self.done, self.total), self.total)


def _execute(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: set[dg.AssetKey],
    chosen: Sequence[Window],
    instant: dt.datetime,
    steps: _Steps,
) -> str:
    @dg.success_hook(name="count_finished_step")
    def count_finished_step(context: dg.HookContext) -> None:
        steps.finished(context.op.name)

    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=selection)
    tags = {TAG_AS_OF: format_instant(instant)}
    partition_key = None
    if len(chosen) > 1:
        tags |= {"dagster/asset_partition_range_start": chosen[0].key, "dagster/asset_partition_range_end": chosen[-1].key}
    else:
        partition_key = chosen[0].key
    result = job.with_hooks({count_finished_step}).execute_in_process(
        instance=instance,
        partition_key=partition_key,
        tags=tags,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    return result.run_id


def _failures(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Steps that failed and checks that did not pass at ERROR level, by name, with their reason."""
    found: dict[str, str] = {}
    for event in instance.all_logs(run_id):
        entry = event.dagster_event
        if entry is None:
            continue
        if entry.is_step_failure:
            error = entry.step_failure_data.error
            cause = error.cause if error and error.cause else error
            found[str(entry.step_key)] = (cause.message.strip().splitlines() or ["failed"])[0] if cause else "failed"
        elif entry.event_type_value == "ASSET_CHECK_EVALUATION":
            check = entry.asset_check_evaluation_data
            if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR:
                found[f"{check.asset_key.to_user_string()}:{check.check_name}"] = check.description or "did not pass"
    return found


@contextlib.contextmanager
def sandbox_at(home: Home) -> Iterator[str]:
    """The twins: those already running at CDP_SANDBOX_URL, else started for the time being on a free port, on the home's state."""
    url = os.environ.get("CDP_SANDBOX_URL", DEFAULT_SANDBOX_URL)
    with _environment(CDP_SANDBOX_FOLDER=str(home.sandbox)):
        if is_up(url):
            yield url
            return
        with sandbox(home.sandbox) as started, _environment(CDP_SANDBOX_URL=started):
            yield started


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def summarise(warehouse: Warehouse, space: Space, as_of: dt.datetime, run_ids: Sequence[str]) -> dict[str, Any]:
    """The summary object of ``cdp run --json``: each number counted from its own rows."""
    known = timestamp_literal(as_of)
    partition = window_of(space.config, as_of).key
    messages = warehouse.table(MESSAGES.ref)
    duplicates, quarantine = warehouse.table(DUPLICATES.ref), warehouse.table(QUARANTINE.ref)
    ids = canonical_ids_as_of(warehouse, space.graph, as_of)
    summary: dict[str, Any] = {
        "as_of": format_instant(as_of),
        "raw_events": {
            "accepted": warehouse.count(messages.filter(messages.received_at < known)),
            "duplicates": warehouse.count(duplicates.filter(duplicates.received_at < known)),
            "quarantined": warehouse.count(quarantine.filter(quarantine.window_at.isnull() | (quarantine.window_at < known))),
        },
        "profiles": int(warehouse.scalar(ids.canonical_segment_id.nunique())),
        "merges": warehouse.count(ids.filter(ids.segment_id != ids.canonical_segment_id)),
        "traits": {},
        "audiences": {},
        "activations": {},
    }
    if space.config.pulled_sources:
        tables = {key: table_of(key, source).ref for key, source in space.config.pulled_sources.items()}
        summary["pulled_sources"] = {
            key: warehouse.count(warehouse.table(ref)) if warehouse.has(ref) else 0 for key, ref in tables.items()
        }
    if space.traits:
        rows: dict[str, int] = {}
        # Of a trait that members of accounts have, too, the members' rows count.
        for spec in (ACCOUNT_VALUES, TRAIT_VALUES):
            values = warehouse.table(spec.ref)
            counted = values.filter(values.partition_key == partition).group_by("trait").agg(rows=lambda t: t.count())
            rows |= {row["trait"]: row["rows"] for row in warehouse.rows(counted, 100_000)}
        summary["traits"] = {key: rows.get(key, 0) for key in space.traits}
    if space.audiences:
        members = warehouse.table(AUDIENCE_MEMBERS.ref)
        context = warehouse.table(AUDIENCE_CONTEXT.ref)
        builds = warehouse.table(AUDIENCE_BUILDS.ref)
        built = warehouse.rows(builds.filter(builds.partition_key == partition).select("asset"), 100_000)
        by_audience = members.filter(members.partition_key == partition).group_by("audience").agg(n=lambda t: t.count())
        distinct = context.filter(context.partition_key == partition).select("audience", "path", "entity_id").distinct()
        entities = distinct.group_by("audience").agg(n=lambda t: t.count())
        member_counts = {row["audience"]: row["n"] for row in warehouse.rows(by_audience, 100_000)}
        entity_counts = {row["audience"]: row["n"] for row in warehouse.rows(entities, 100_000)}
        for key in space.audiences:
            if key in {row["asset"] for row in built}:
                summary["audiences"][key] = {"members": member_counts.get(key, 0), "entities": entity_counts.get(key, 0)}
    if warehouse.has(SYNCS.ref):
        syncs = warehouse.table(SYNCS.ref)
        for row in warehouse.rows(syncs.filter(syncs.run_id.isin(list(run_ids))).order_by("activation"), 100_000):
            summary["activations"][row["activation"]] = sync_summary(row)
    return summary


def sync_summary(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the syncs table as the object of ``cdp run --json``."""
    operations = json.loads(row["operations"] or "{}")
    return {
        **{name: row[name] or 0 for name in ("considered", "unchanged", "delivered", "rejected", "waiting", "unknown")},
        "withheld": json.loads(row["withheld"] or "{}"),
        "held": json.loads(row["held"] or "{}"),
        "operations": {kind: operations.get(kind, 0) for kind in ("enter", "change", "exit", "retract")},
    }
