"""Quarantined lines through intake again: after a plan, a filter or a setting was corrected, what passes now becomes a message.

A line that passes leaves the quarantine; another one stays, with the reason of today. The files of the lines that passed count as
taken in again at this instant: duplicates are settled against all history, and the windows they reach are built as for late files.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ibis.expr.types as ir
import orjson
import pyarrow as pa

from cdp_assets.raw_events import dedup
from cdp_assets.raw_events.calendar import Calendar
from cdp_assets.raw_events.columns import Column, new_columns
from cdp_assets.raw_events.first_values import FirstValues
from cdp_assets.raw_events.intake import BEFORE_START, known_columns
from cdp_assets.raw_events.parse import Message, Rejection, parse_line
from cdp_assets.raw_events.stages import MESSAGE_BATCH, VIOLATION_BATCH, WITHOUT_RAW, Stage
from cdp_assets.raw_events.tables import (
    EVENT_COLUMNS,
    LANDING_FILES,
    LINE_COUNTS,
    MESSAGES,
    QUARANTINE,
    TABLES,
    VIOLATIONS,
)
from cdp_assets.space.models.settings import SpaceConfig
from resources.warehouse import TableRef, TableSpec, Warehouse, naive_utc

# What the quarantine keeps of such lines is not the line as it came.
NOT_KEPT_WHOLE = ("gzip_corrupt", "gzip_truncated", "invalid_utf8", "line_too_long", "not_gzip", "nul_byte", "utf16")
_REPLAYED = TableSpec(
    TableRef("cdp_scratch", "replayed_lines"),
    {"file_hash": "string", "line": "int64"},
    "Lines that were judged again.",
    subject=None,
)


@dataclass(frozen=True)
class Selection:
    """Which quarantined lines: all conditions that are given."""

    reason: str | None = None
    event: str | None = None
    file: str | None = None


@dataclass
class ReplayResult:
    """Lines that were judged again: ``accepted`` became messages, ``duplicates`` of them had been a message before, the others
    stay, by their reason of today. ``windows``: keys of the windows that hold new messages.
    """

    accepted: int = 0
    duplicates: int = 0
    stayed: Counter[str] = field(default_factory=Counter)
    windows: set[str] = field(default_factory=set)

    @property
    def considered(self) -> int:
        return self.accepted + self.stayed.total()


def replay_quarantine(
    warehouse: Warehouse,
    config: SpaceConfig,
    stages: Sequence[Stage],
    selection: Selection,
    loaded_at: dt.datetime,
    *,
    dry_run: bool = False,
) -> ReplayResult:
    """Judge the selected lines again, all or nothing. ``dry_run``: say what would happen and change nothing. Idempotent."""
    warehouse.ensure(*TABLES, _REPLAYED)
    dedup.prepare(warehouse)
    warehouse.delete(_REPLAYED.ref, [])
    run = _Replay(warehouse, Calendar(config), config, stages, dry_run)
    for batch in warehouse.batches(_selected(warehouse, selection)):
        lines = batch.to_pylist()
        run.judge([line for line in lines if selection.event is None or _event_of(line["raw"]) == selection.event])
    if not dry_run:
        with warehouse.transaction():
            run.write(loaded_at)
    return run.result


def _selected(warehouse: Warehouse, selection: Selection) -> ir.Table:
    rows = warehouse.table(QUARANTINE.ref)
    rows = rows.filter(rows.raw.notnull(), rows.reason.notin(NOT_KEPT_WHOLE))
    if selection.reason is not None:
        rows = rows.filter(rows.reason == selection.reason)
    if selection.file is not None:
        rows = rows.filter(rows.file == selection.file)
    return rows.order_by(["file_hash", "line"])


def _event_of(raw: str) -> str | None:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return document.get("event") if isinstance(document, dict) else None


@dataclass
class _Replay:
    """The lines that pass and those that do not, collected before anything is written."""

    warehouse: Warehouse
    calendar: Calendar
    config: SpaceConfig
    stages: Sequence[Stage]
    dry_run: bool
    result: ReplayResult = field(default_factory=ReplayResult)
    _messages: list[pa.Table] = field(default_factory=list)
    _violations: list[pa.Table] = field(default_factory=list)
    _stayed: list[dict[str, Any]] = field(default_factory=list)
    _places: list[tuple[str, int]] = field(default_factory=list)
    _moved: Counter[tuple[str, str]] = field(default_factory=Counter)
    _values: FirstValues = field(default_factory=FirstValues)

    def judge(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Parse lines and send them through the stages."""
        known = {(line["file_hash"], line["line"]): line for line in lines}
        parsed = []
        for line in lines:
            found = parse_line(line["raw"].encode())
            if isinstance(found, Rejection):
                self._stay(line, found.reason, found.detail)
            elif found.received_at < naive_utc(self.calendar.start):
                self._stay(line, BEFORE_START, None)
            else:
                parsed.append(self._row(line, found))
        messages = pa.Table.from_pylist(parsed, schema=MESSAGE_BATCH)
        for stage in self.stages if parsed else ():
            judged = stage.apply(messages)
            for row in judged.refused.to_pylist():
                self._stay(known[row["file_hash"], row["line"]], row["reason"], row["detail"])
            self._violations.append(judged.violations.cast(VIOLATION_BATCH))
            messages = judged.messages
        self._places += known
        self._accept(messages, known)

    def _row(self, line: Mapping[str, Any], message: Message) -> dict[str, Any]:
        place = {name: line[name] for name in ("file_hash", "file", "line")}
        return {"source": self.config.source_of(line["file"]), **place, **message._asdict()}

    def _stay(self, line: Mapping[str, Any], reason: str, detail: str | None) -> None:
        self.result.stayed[reason] += 1
        raw = None if reason in WITHOUT_RAW else line["raw"]
        self._stayed.append({**line, "reason": reason, "detail": detail, "raw": raw})

    def _accept(self, messages: pa.Table, known: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
        if not messages.num_rows:
            return
        self._values.observe(messages)
        keys = self.calendar.keys(messages["received_at"])
        self.result.accepted += messages.num_rows
        self.result.windows |= set(keys.to_pylist())
        for file_hash, number, key in zip(
            *(messages[c].to_pylist() for c in ("file_hash", "line")), keys.to_pylist(), strict=True
        ):
            before = known[file_hash, number]["partition_key"]
            if before != key:
                self._moved[file_hash, before] -= 1
                self._moved[file_hash, key] += 1
        keyed = messages.append_column("partition_key", keys)
        self._messages.append(keyed.append_column("message_key", dedup.message_keys(messages["message_id"])))

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, loaded_at: dt.datetime) -> None:
        """Everything that was judged, in one transaction that the caller opened."""
        if not self._places:
            return
        hashes, numbers = zip(*self._places, strict=True)
        self.warehouse.append(_REPLAYED.ref, pa.table({"file_hash": list(hashes), "line": pa.array(numbers, pa.int64())}))
        places = self.warehouse.table(_REPLAYED.ref)
        for spec in (QUARANTINE, VIOLATIONS):
            self.warehouse.delete_matching(spec.ref, places, ["file_hash", "line"])
        if self._stayed:
            self.warehouse.append(QUARANTINE.ref, pa.Table.from_pylist(self._stayed, schema=QUARANTINE.schema.to_pyarrow()))
        for violations in self._violations:
            if violations.num_rows:
                keys = self.calendar.keys(violations["received_at"])
                self.warehouse.append(VIOLATIONS.ref, violations.append_column("partition_key", keys))
        if self._messages:
            messages = pa.concat_tables(self._messages)
            self.warehouse.append(MESSAGES.ref, messages)
            self._move_counts()
            self._add_columns()
            hashes_of_messages = sorted(set(messages["file_hash"].to_pylist()))
            self._take_in_again(hashes_of_messages, loaded_at)
            self.result.duplicates = dedup.settle_duplicates(self.warehouse, hashes_of_messages)
        self.warehouse.delete(_REPLAYED.ref, [])

    def _move_counts(self) -> None:
        """Lines whose window is another one now that they can be read."""
        moved = {place: number for place, number in self._moved.items() if number}
        if not moved:
            return
        hashes = sorted({file_hash for file_hash, _ in moved})
        counts = self.warehouse.table(LINE_COUNTS.ref)
        rows = self.warehouse.arrow(counts.filter(counts.file_hash.isin(hashes))).to_pylist()
        total = Counter({(row["file_hash"], row["partition_key"]): row["lines"] for row in rows})
        total.update(moved)
        self.warehouse.delete(LINE_COUNTS.ref, [("file_hash", "in", hashes)])
        kept = [{"file_hash": f, "partition_key": key, "lines": number} for (f, key), number in sorted(total.items())]
        self.warehouse.append(LINE_COUNTS.ref, pa.Table.from_pylist(kept, schema=LINE_COUNTS.schema.to_pyarrow()))

    def _add_columns(self) -> None:
        added = new_columns(known_columns(self.warehouse), [self._values.found])
        if added:
            columns = dict(zip(Column._fields, map(list, zip(*added, strict=True)), strict=True))
            self.warehouse.append(EVENT_COLUMNS.ref, pa.table(columns))

    def _take_in_again(self, hashes: list[str], loaded_at: dt.datetime) -> None:
        files = self.warehouse.table(LANDING_FILES.ref)
        rows = self.warehouse.rows(files.filter(files.file_hash.isin(hashes)), len(hashes))
        self.warehouse.delete(LANDING_FILES.ref, [("file_hash", "in", hashes)])
        again = [{**row, "loaded_at": naive_utc(loaded_at)} for row in rows]
        self.warehouse.append(LANDING_FILES.ref, pa.Table.from_pylist(again, schema=LANDING_FILES.schema.to_pyarrow()))
