"""Taking in landing files: each line of each new file becomes exactly one of message, duplicate, or quarantined line.

Files are known by content hash. Lines pass in chunks, so memory does not grow with the files: parsed, judged by the space's stages,
written; at the end of the intake duplicates are settled against all history. One transaction: all of it or nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events import dedup
from cdp_assets.raw_events.bulk import Parser
from cdp_assets.raw_events.calendar import Calendar
from cdp_assets.raw_events.columns import Column, new_columns
from cdp_assets.raw_events.first_values import FirstValues
from cdp_assets.raw_events.landing import Chunk, LandingFile, content_hash, list_landing, read_chunks
from cdp_assets.raw_events.parse import Rejection
from cdp_assets.raw_events.parsed import Parsed, Rejected, contents_of
from cdp_assets.raw_events.stages import MESSAGE_BATCH, VIOLATION_BATCH, WITHOUT_RAW, Stage
from cdp_assets.raw_events.suppression import SuppressionStage
from cdp_assets.raw_events.tables import (
    DUPLICATES,
    EVENT_COLUMNS,
    LANDING_FILES,
    LINE_COUNTS,
    MESSAGES,
    QUARANTINE,
    TABLES,
    VIOLATIONS,
)
from cdp_assets.space.models.settings import SpaceConfig
from resources.warehouse import Warehouse, naive_utc

Item = TypeVar("Item")
BEFORE_START = "before_start"
# Lines without a time, before the first line with one, that may wait for it.
_MAX_WAITING = 20_000
_QUARANTINE = pa.schema([column for column in QUARANTINE.schema.to_pyarrow() if column.name != "partition_key"])


@dataclass(frozen=True)
class TakenFile:
    """A file taken in: its lines (messages and others), and the span of received time of its messages. Of one that grew, the new part."""

    file_hash: str
    file: str
    lines: int
    first_received_at: dt.datetime | None
    last_received_at: dt.datetime | None
    size: int
    next_line: int | None


@dataclass(frozen=True)
class IntakeResult:
    """What an intake did. ``known``: files whose content had been taken in before. ``unreadable``: left for the next time."""

    taken: tuple[TakenFile, ...] = ()
    known: int = 0
    unreadable: tuple[str, ...] = ()

    @property
    def files(self) -> int:
        """Number of files taken in."""
        return len(self.taken)

    @property
    def lines(self) -> int:
        """Number of lines taken in."""
        return sum(file.lines for file in self.taken)


def take_in(
    warehouse: Warehouse, config: SpaceConfig, folder: Path, loaded_at: dt.datetime, stages: Sequence[Stage] = ()
) -> IntakeResult:
    """Read the files of ``folder`` that are not yet taken in. All of them or, when it breaks off, none. Idempotent.

    ``stages`` judge the parsed messages, in this order, before duplicates are settled.
    """
    warehouse.ensure(*TABLES)
    dedup.prepare(warehouse)
    earlier = _Earlier(warehouse)
    calendar, parser = Calendar(config), Parser(config.warehouse.memory_limit)
    taken: list[TakenFile] = []
    values: dict[str, FirstValues] = {}
    known, unreadable = 0, []
    with parser, warehouse.transaction():
        for file in list_landing(Path(folder)):
            try:
                part = earlier.part_of(file)
            except OSError:
                unreadable.append(file.relative_name)
                continue
            if part is None:
                known += 1
                continue
            reading = _Reading(warehouse, parser, calendar, stages, file, part, config.source_of(file.relative_name))
            try:
                taken.append(reading.run())
            except OSError:
                reading.undo()
                unreadable.append(file.relative_name)
                continue
            earlier.hashes.add(part.file_hash)
            values[part.file_hash] = reading.values
        if taken:
            _append_files(warehouse, taken, loaded_at)
            _append_columns(warehouse, taken, values)
            dedup.settle_duplicates(warehouse, [file.file_hash for file in taken])
    return IntakeResult(tuple(taken), known, tuple(unreadable))


@dataclass(frozen=True)
class _Part:
    """What is to be read of a file: the bytes from ``start`` to ``size``, whose first line has the number ``first_line``."""

    file_hash: str
    size: int
    start: int = 0
    first_line: int = 1


class _Earlier:
    """The files taken in before: their hashes, and what they were when they ended with a whole line."""

    def __init__(self, warehouse: Warehouse) -> None:
        files = warehouse.table(LANDING_FILES.ref)
        self.hashes: set[str] = set()
        self._ends: dict[str, list[tuple[int, str, int]]] = {}
        for batch in warehouse.batches(files.select("file", "size", "file_hash", "next_line")):
            for row in batch.to_pylist():
                self.hashes.add(row["file_hash"])
                if row["next_line"] is not None:
                    self._ends.setdefault(row["file"], []).append((row["size"], row["file_hash"], row["next_line"]))

    def part_of(self, file: LandingFile) -> _Part | None:
        """What of a file is new; None when its content is known. Of a file that grew by whole lines only the new ones. Raises OSError."""
        ends = sorted(self._ends.get(file.relative_name, ()), reverse=True)
        file_hash, size, hashes = content_hash(file.path, [end[0] for end in ends])
        if file_hash in self.hashes:
            return None
        for start, hashed, next_line in ends:
            if hashes.get(start) == hashed:
                return _Part(file_hash, size, start, next_line)
        return _Part(file_hash, size)


@dataclass
class _Reading:
    """One file on its way into the tables, chunk by chunk, and what there is to say about it."""

    warehouse: Warehouse
    parser: Parser
    calendar: Calendar
    stages: Sequence[Stage]
    file: LandingFile
    part: _Part
    source: str | None
    lines: int = 0
    first: dt.datetime | None = None
    last: dt.datetime | None = None
    values: FirstValues = field(default_factory=FirstValues)
    # A line without a received time goes to the partition of the file's first one; those before it wait for it.
    _window_at: dt.datetime | None = None
    _waiting: list[Rejected] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def file_hash(self) -> str:
        return self.part.file_hash

    def run(self) -> TakenFile:
        """Write all lines. Raises OSError where the file cannot be read on."""
        part, next_line = self.part, None
        chunks = _ahead(read_chunks(self.file.path, part.size, part.start, part.first_line))
        # Reading, parsing and writing each have a thread: most of their time they compute outside of Python.
        for chunk, parsed in _ahead((chunk, self.parser.parse(chunk)) for chunk in chunks):
            next_line = chunk.next_line
            self.lines += len(chunk.numbers) + len(chunk.broken)
            self._take(chunk, parsed)
        self._refuse(self._waiting, self._window_at)
        counted = {"file_hash": [self.file_hash] * len(self._counts), "partition_key": list(self._counts)}
        self.warehouse.append(LINE_COUNTS.ref, pa.table({**counted, "lines": list(self._counts.values())}))
        return TakenFile(self.file_hash, self.file.relative_name, self.lines, self.first, self.last, part.size, next_line)

    def undo(self) -> None:
        """Take back what was written of a file that could not be read to its end."""
        for spec in (MESSAGES, DUPLICATES, QUARANTINE, VIOLATIONS, LINE_COUNTS):
            self.warehouse.delete(spec.ref, [("file_hash", "=", self.file_hash)])

    def _take(self, chunk: Chunk, parsed: Parsed) -> None:
        messages, rejected = parsed.messages, parsed.rejected
        rejected += [Rejected(line.number, Rejection(line.reason), line.content) for line in chunk.broken if line.reason]
        rejected.sort(key=lambda one: one.line)
        self._find_window_at(messages, rejected)
        if self._window_at is None and len(self._waiting) + len(rejected) <= _MAX_WAITING:
            self._waiting += rejected
        else:
            self._refuse([*self._waiting, *rejected], self._window_at)
            self._waiting = []
        if messages.num_rows:
            self._accept(chunk, Parsed(self._placed(messages), parsed.shapes, []))

    def _find_window_at(self, messages: pa.Table, rejected: list[Rejected]) -> None:
        dated = [(one.line, one.rejection.received_at) for one in rejected if one.rejection.received_at is not None]
        if messages.num_rows:
            dated.append((messages["line"][0].as_py(), messages["received_at"][0].as_py()))
            span = pc.min_max(messages["received_at"]).as_py()
            self.first = min(self.first or span["min"], span["min"])
            self.last = max(self.last or span["max"], span["max"])
        if self._window_at is None and dated:
            self._window_at = min(dated)[1]

    def _placed(self, messages: pa.Table) -> pa.Table:
        """The messages as stages see them."""
        rows = messages.num_rows
        place = {
            "source": pa.repeat(pa.scalar(self.source, pa.string()), rows),
            "file_hash": pa.repeat(pa.scalar(self.file_hash, pa.string()), rows),
            "file": pa.repeat(pa.scalar(self.file.relative_name, pa.string()), rows),
        }
        columns = [place[name] if name in place else messages[name] for name in MESSAGE_BATCH.names]
        return pa.table(columns, schema=MESSAGE_BATCH)

    def _accept(self, chunk: Chunk, parsed: Parsed) -> None:
        messages = parsed.messages
        for key, number in _numbers(self.calendar.keys(messages["received_at"])):
            self._counts[key] = self._counts.get(key, 0) + number
        early = pc.less(messages["received_at"], pa.scalar(naive_utc(self.calendar.start), pa.timestamp("us")))
        if pc.any(early).as_py():
            refused = messages.filter(early).select(["line"])
            reasons = pa.repeat(pa.scalar(BEFORE_START), refused.num_rows)
            self._quarantine(chunk, messages, refused.append_column("reason", reasons))
            messages = messages.filter(pc.invert(early))
        for stage in self.stages:
            result = stage.apply(messages)
            self._quarantine(chunk, messages, result.refused)
            self._note(result.violations)
            messages = result.messages
        self.values.observe(messages, parsed)
        if messages.num_rows:
            derived = messages.append_column("partition_key", self.calendar.keys(messages["received_at"]))
            derived = derived.append_column("message_key", dedup.message_keys(messages["message_id"]))
            self.warehouse.append(MESSAGES.ref, derived)

    def _note(self, violations: pa.Table) -> None:
        if violations.num_rows:
            keys = self.calendar.keys(violations["received_at"])
            self.warehouse.append(VIOLATIONS.ref, violations.cast(VIOLATION_BATCH).append_column("partition_key", keys))

    def _quarantine(self, chunk: Chunk, messages: pa.Table, refused: pa.Table) -> None:
        """Messages that do not go on: (line, reason) and maybe more of REFUSED."""
        if not refused.num_rows:
            return
        lines = refused["line"].to_numpy()
        known = messages.take(pc.index_in(refused["line"], messages["line"].combine_chunks()))
        detail = refused["detail"] if "detail" in refused.column_names else pa.nulls(len(lines), pa.string())
        rows = {
            "file_hash": known["file_hash"],
            "file": known["file"],
            "line": refused["line"],
            "reason": refused["reason"],
            "detail": detail,
            "raw": _kept(refused["reason"].to_pylist(), contents_of(chunk, lines)),
            "message_id": known["message_id"],
            "window_at": known["received_at"],
            "partition_key": self.calendar.keys(known["received_at"]),
        }
        self.warehouse.append(QUARANTINE.ref, pa.table(rows))

    def _hides(self, one: Rejected) -> bool:
        """Whether nothing is kept of a line that is no message, because of whom it names."""
        at = one.rejection.received_at
        return any(stage.names(one.content, at) for stage in self.stages if isinstance(stage, SuppressionStage))

    def _refuse(self, rejected: list[Rejected], window_at: dt.datetime | None) -> None:
        """Lines that are no messages, each in the window of its own received time or else of the file's first one."""
        if not rejected:
            return
        at = [one.rejection.received_at or window_at for one in rejected]
        keys = [self.calendar.key_of(instant) for instant in at]
        for key, number in _numbers(pa.array(keys)):
            self._counts[key] = self._counts.get(key, 0) + number
        rows = {
            "file_hash": [self.file_hash] * len(rejected),
            "file": [self.file.relative_name] * len(rejected),
            "line": [one.line for one in rejected],
            "reason": [one.rejection.reason for one in rejected],
            "detail": pa.array([one.rejection.detail for one in rejected], pa.string()),
            "raw": pa.array([None if self._hides(one) else _readable(one.content) for one in rejected], pa.string()),
            "message_id": pa.array([one.rejection.message_id for one in rejected], pa.string()),
            "window_at": pa.array(at, pa.timestamp("us")),
            "partition_key": keys,
        }
        self.warehouse.append(QUARANTINE.ref, pa.table(rows))


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made in a thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _numbers(keys: pa.Array) -> Iterator[tuple[str, int]]:
    for one in keys.value_counts().to_pylist():
        yield one["values"], one["counts"]


def _kept(reasons: Sequence[str], contents: Sequence[bytes]) -> pa.Array:
    """The lines as quarantine keeps them: as texts, but for those of which nothing is kept."""
    pairs = zip(reasons, contents, strict=True)
    return pa.array([None if reason in WITHOUT_RAW else _readable(content) for reason, content in pairs], pa.string())


def _readable(content: bytes) -> str | None:
    """The line as text that every warehouse can store: bytes that are not UTF-8, and NUL, as escapes."""
    return content.decode(errors="backslashreplace").replace("\x00", "\\x00") or None


def _append_files(warehouse: Warehouse, taken: list[TakenFile], loaded_at: dt.datetime) -> None:
    rows = {
        "file_hash": [file.file_hash for file in taken],
        "file": [file.file for file in taken],
        "lines": [file.lines for file in taken],
        "first_received_at": pa.array([file.first_received_at for file in taken], pa.timestamp("us")),
        "last_received_at": pa.array([file.last_received_at for file in taken], pa.timestamp("us")),
        "loaded_at": pa.array([naive_utc(loaded_at)] * len(taken), pa.timestamp("us")),
        "size": [file.size for file in taken],
        "next_line": pa.array([file.next_line for file in taken], pa.int64()),
    }
    warehouse.append(LANDING_FILES.ref, pa.table(rows))


def _append_columns(warehouse: Warehouse, taken: list[TakenFile], values: dict[str, FirstValues]) -> None:
    """First values count in the order of the files' received time, however the files are named or listed."""
    with_messages = [file for file in taken if file.first_received_at is not None]
    order = sorted(with_messages, key=lambda file: (file.first_received_at, file.file_hash))
    added = new_columns(known_columns(warehouse), [values[file.file_hash].found for file in order])
    if added:
        columns = dict(zip(Column._fields, map(list, zip(*added, strict=True)), strict=True))
        warehouse.append(EVENT_COLUMNS.ref, pa.table(columns))


def known_columns(warehouse: Warehouse) -> list[Column]:
    """The columns of all event tables, by table and position."""
    table = warehouse.table(EVENT_COLUMNS.ref).select(*Column._fields)
    rows = [Column(**row) for batch in warehouse.batches(table) for row in batch.to_pylist()]
    return sorted(rows, key=lambda column: (column.table_name, column.position))
