"""Windows of received time: landing lines become messages, duplicates or quarantine, each line exactly one of the three.

All set-based in the warehouse. A window is replaced as a whole, so that building it again changes nothing.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.raw_events.intake import IntakeResult
from cdp_assets.raw_events.tables import BUILDS, DUPLICATES, LANDING_FILES, LANDING_LINES, MESSAGES, QUARANTINE, TABLES
from cdp_assets.space.models import SpaceConfig
from cdp_assets.space.time import Window
from cdp_assets.space.time import windows as windows_until
from resources.warehouse import TableSpec, Warehouse, naive_utc, timestamp_literal

BEFORE_START = "before_start"
_PLACE = ("file_hash", "line")
_ORDER = ("received_at", "file_hash", "line")


@dataclass(frozen=True)
class Counts:
    """Rows of one window, each number counted in its own table."""

    lines: int = 0
    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0


def build_window(warehouse: Warehouse, config: SpaceConfig, windows: Sequence[Window], as_of: dt.datetime) -> dict[str, Counts]:
    """Replace ``windows`` in messages, duplicates and quarantine by what is known at ``as_of``; the counts by window key.

    Of all lines with one message_id, in whichever window, the smallest (received_at, file_hash, line) is the message.
    Where that takes the place of a line accepted in another window, the other one moves to that window's duplicates.
    Lines before the space's start date are quarantined in the first window, as are lines of files without any time.
    """
    if not windows:
        return {}
    warehouse.ensure(*TABLES)
    keys = [window.key for window in windows]
    with warehouse.scratch(_bounds(config, windows)) as bounds:
        known = _known(warehouse.table(LANDING_LINES.ref), as_of)
        placed = _placed(config, known, bounds)
        with warehouse.staged(_verdicts(config, known, placed)) as verdicts, warehouse.transaction():
            for table in (MESSAGES, DUPLICATES, QUARANTINE):
                warehouse.delete(table.ref, [("partition_key", "in", keys)])
            lines = known.join(verdicts, list(_PLACE))
            warehouse.insert(MESSAGES.ref, _columns(lines.filter(lines.verdict == "message"), MESSAGES))
            warehouse.insert(DUPLICATES.ref, _columns(lines.filter(lines.verdict == "duplicate"), DUPLICATES))
            refused = lines.filter(lines.verdict == "quarantine")
            refused = refused.mutate(reason=ibis.coalesce(refused.reason, ibis.literal(BEFORE_START)))
            warehouse.insert(QUARANTINE.ref, _columns(refused, QUARANTINE))
            _move_displaced(warehouse, keys)
        return _counts(warehouse, keys, placed)


def _columns(rows: ir.Table, spec: TableSpec) -> ir.Table:
    return rows.select(*spec.columns)


def first_window(config: SpaceConfig) -> Window:
    """The first partition of the space."""
    start = dt.datetime(config.start_date.year, config.start_date.month, config.start_date.day, tzinfo=dt.UTC)
    return windows_until(config, start + dt.timedelta(microseconds=1))[0]


def _start_of(config: SpaceConfig) -> ir.TimestampScalar:
    start = dt.datetime(config.start_date.year, config.start_date.month, config.start_date.day, tzinfo=dt.UTC)
    return timestamp_literal(start)


def _bounds(config: SpaceConfig, windows: Sequence[Window]) -> pa.Table:
    """Key and span of each window. The first window of the space reaches back to the beginning of time."""
    first = first_window(config)
    beginning = dt.datetime.min.replace(tzinfo=dt.UTC)
    starts = [naive_utc(beginning if window.key == first.key else window.start) for window in windows]
    return pa.table(
        {
            "partition_key": [window.key for window in windows],
            "starts": pa.array(starts, pa.timestamp("us")),
            "ends": pa.array([naive_utc(window.end) for window in windows], pa.timestamp("us")),
        }
    )


def _known(lines: ir.Table, as_of: dt.datetime) -> ir.Table:
    return lines.filter(lines.window_at.isnull() | (lines.window_at < timestamp_literal(as_of)))


def _placed(config: SpaceConfig, known: ir.Table, bounds: ir.Table) -> ir.Table:
    """(file_hash, line, message_id, received_at, reason, window_at, partition_key): the known lines of the windows."""
    at = ibis.coalesce(known.window_at, timestamp_literal(first_window(config).start))
    dated = known.select("file_hash", "line", "message_id", "received_at", "reason", "window_at", at=at)
    joined = dated.join(bounds, [dated.at >= bounds.starts, dated.at < bounds.ends])
    return joined.select(*(column for column in dated.columns if column != "at"), "partition_key")


def _competes(config: SpaceConfig, lines: ir.Table) -> ir.BooleanValue:
    """Whether a line is a message as far as it alone can say."""
    return lines.reason.isnull() & (lines.received_at >= _start_of(config))


def _verdicts(config: SpaceConfig, known: ir.Table, placed: ir.Table) -> ir.Table:
    """(file_hash, line, partition_key, verdict) of every line of the windows."""
    candidates = placed.filter(_competes(config, placed))
    rivals = known.filter(_competes(config, known)).select("message_id", *_ORDER)
    rivals = rivals.semi_join(candidates, "message_id")
    ranked = rivals.mutate(_rank=ibis.row_number().over(group_by="message_id", order_by=list(_ORDER)))
    firsts = ranked.filter(ranked._rank == 0).select("file_hash", "line", first=ibis.literal(True))
    judged = placed.left_join(firsts, list(_PLACE))
    verdict = ibis.cases(
        (~_competes(config, judged), "quarantine"),
        (judged.first.isnull(), "duplicate"),
        else_="message",
    )
    # reason and received_at decide together; a line without either never competes.
    return judged.select("file_hash", "line", "partition_key", verdict=verdict.fill_null("quarantine"))


def _move_displaced(warehouse: Warehouse, keys: list[str]) -> None:
    """Messages of other windows that a line of these windows precedes become duplicates of their own window."""
    messages = warehouse.table(MESSAGES.ref)
    ours = messages.filter(messages.partition_key.isin(keys)).select("message_id")
    displaced = messages.filter(messages.partition_key.notin(keys)).semi_join(ours, "message_id")
    if not warehouse.count(displaced):
        return
    warehouse.insert(DUPLICATES.ref, _columns(displaced, DUPLICATES))
    # By place: the message_id alone would also delete the line that took it.
    warehouse.delete_matching(MESSAGES.ref, displaced, list(_PLACE))


def _counts(warehouse: Warehouse, keys: list[str], placed: ir.Table) -> dict[str, Counts]:
    def per_window(table: ir.Table) -> dict[str, int]:
        chosen = table.filter(table.partition_key.isin(keys))
        counted = chosen.group_by("partition_key").agg(n=chosen.count())
        return dict(zip(*warehouse.arrow(counted).to_pydict().values(), strict=True))

    lines = per_window(placed)
    accepted, duplicates, quarantined = (per_window(warehouse.table(t.ref)) for t in (MESSAGES, DUPLICATES, QUARANTINE))
    return {key: Counts(lines.get(key, 0), accepted.get(key, 0), duplicates.get(key, 0), quarantined.get(key, 0)) for key in keys}


# -- late files ------------------------------------------------------------------------------------------------------


def affected_windows(warehouse: Warehouse, config: SpaceConfig, intake: IntakeResult) -> set[str]:
    """Keys of the windows whose content the intake's files can change: those of their lines, and those that hold a message
    which one of their lines precedes. Files of an intake that no build followed (a run that broke off) count as well.
    """
    hashes = sorted({file.file_hash for file in intake.taken} | _unbuilt_files(warehouse))
    if not hashes:
        return set()
    lines = warehouse.table(LANDING_LINES.ref)
    new = lines.filter(lines.file_hash.isin(hashes))
    hours = new.select(hour=new.window_at.truncate("h")).distinct()
    found = {value for batch in warehouse.batches(hours) for value in batch.column(0).to_pylist()}
    return _keys_of(config, found) | _displaced_windows(warehouse, config, new)


def _unbuilt_files(warehouse: Warehouse) -> set[str]:
    warehouse.ensure(LANDING_FILES, BUILDS)
    last = warehouse.scalar(warehouse.table(BUILDS.ref).loaded_at.max())
    files = warehouse.table(LANDING_FILES.ref)
    if last is None:
        return set()
    late = files.filter(files.loaded_at > timestamp_literal(last.replace(tzinfo=dt.UTC))).select("file_hash")
    return {value for batch in warehouse.batches(late) for value in batch.column(0).to_pylist()}


def _keys_of(config: SpaceConfig, instants: Iterable[dt.datetime | None]) -> set[str]:
    first = first_window(config)
    aware = [first.start if at is None else at.replace(tzinfo=dt.UTC) for at in instants]
    if not aware:
        return set()
    all_windows = windows_until(config, max(*aware, first.start) + dt.timedelta(hours=1)) or [first]
    starts = [window.start for window in all_windows]
    return {all_windows[max(bisect_right(starts, at) - 1, 0)].key for at in aware}


def _displaced_windows(warehouse: Warehouse, config: SpaceConfig, new: ir.Table) -> set[str]:
    arrivals = new.filter(_competes(config, new)).select(
        "message_id", new_received_at="received_at", new_file_hash="file_hash", new_line="line"
    )
    messages = warehouse.table(MESSAGES.ref)
    pairs = messages.join(arrivals, "message_id")
    same_file = (pairs.new_received_at == pairs.received_at) & (pairs.new_file_hash == pairs.file_hash)
    earlier = (
        (pairs.new_received_at < pairs.received_at)
        | ((pairs.new_received_at == pairs.received_at) & (pairs.new_file_hash < pairs.file_hash))
        | (same_file & (pairs.new_line < pairs.line))
    )
    keys = pairs.filter(earlier).select("partition_key").distinct()
    return {value for batch in warehouse.batches(keys) for value in batch.column(0).to_pylist()}


__all__ = ("BEFORE_START", "Counts", "affected_windows", "build_window", "first_window")
