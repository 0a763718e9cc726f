"""Taking in landing files: every line of every new file becomes one row of ``landing_lines``, message or not.

Files are known by content hash. A file that grew has a new hash and is read again; its earlier lines are then duplicates.
Python sees the rows here because here they enter; they leave in Arrow chunks, so memory does not grow with the files.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdp_assets.raw_events.columns import Column, FirstValues, new_columns
from cdp_assets.raw_events.landing import LandingFile, RawLine, content_hash, list_landing, read_lines
from cdp_assets.raw_events.parse import Message, Rejection, parse_line
from cdp_assets.raw_events.tables import EVENT_COLUMNS, LANDING_FILES, LANDING_LINES, TABLES
from resources.warehouse import Warehouse, naive_utc

CHUNK_ROWS = 20_000
_NO_MESSAGE = (None,) * len(Message._fields)
_RECEIVED_AT = Message._fields.index("received_at")
_MESSAGE_ID = Message._fields.index("message_id")
_LINE_SCHEMA = LANDING_LINES.schema.to_pyarrow()


@dataclass(frozen=True)
class TakenFile:
    """A file taken in: its lines (messages and others), and the span of received time of its messages."""

    file_hash: str
    file: str
    lines: int
    first_received_at: dt.datetime | None
    last_received_at: dt.datetime | None


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


def take_in(warehouse: Warehouse, folder: Path, loaded_at: dt.datetime) -> IntakeResult:
    """Read the files of ``folder`` that are not yet taken in. All of them or, when it breaks off, none. Idempotent."""
    warehouse.ensure(*TABLES)
    hashes = _known_hashes(warehouse)
    taken: list[TakenFile] = []
    values: dict[str, FirstValues] = {}
    known, unreadable = 0, []
    chunk = _Chunk(warehouse)
    with warehouse.transaction():
        for file in list_landing(Path(folder)):
            try:
                file_hash, size = content_hash(file.path)
            except OSError:
                unreadable.append(file.relative_name)
                continue
            if file_hash in hashes:
                known += 1
                continue
            reading = _Reading(file, file_hash, size)
            try:
                for row in reading.rows():
                    chunk.add(row)
            except OSError:
                chunk.flush()
                warehouse.delete(LANDING_LINES.ref, [("file_hash", "=", file_hash)])
                unreadable.append(file.relative_name)
                continue
            hashes.add(file_hash)
            taken.append(reading.result())
            values[file_hash] = reading.values
        chunk.flush()
        _append_files(warehouse, taken, loaded_at)
        _append_columns(warehouse, taken, values)
    return IntakeResult(tuple(taken), known, tuple(unreadable))


def _known_hashes(warehouse: Warehouse) -> set[str]:
    files = warehouse.table(LANDING_FILES.ref).select("file_hash")
    return {value for batch in warehouse.batches(files) for value in batch.column(0).to_pylist()}


@dataclass
class _Chunk:
    """Rows on their way to ``landing_lines``."""

    warehouse: Warehouse
    rows: list[tuple] = field(default_factory=list)

    def add(self, row: tuple) -> None:
        self.rows.append(row)
        if len(self.rows) >= CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            columns = zip(*self.rows, strict=True)
            arrays = [pa.array(column, target.type) for column, target in zip(columns, _LINE_SCHEMA, strict=True)]
            self.warehouse.append(LANDING_LINES.ref, pa.table(arrays, schema=_LINE_SCHEMA))
            self.rows = []


@dataclass
class _Reading:
    """One file being read: its rows, in the order of the columns of ``landing_lines``, and what there is to say about it."""

    file: LandingFile
    file_hash: str
    size: int
    lines: int = 0
    first: dt.datetime | None = None
    last: dt.datetime | None = None
    values: FirstValues = field(default_factory=FirstValues)

    def rows(self) -> Iterator[tuple]:
        # A line without a received time goes to the partition of the file's first one; those before it wait for it.
        waiting: list[tuple[RawLine, Rejection]] = []
        window_at: dt.datetime | None = None
        for line in read_lines(self.file.path, self.size):
            self.lines += 1
            row = self._row(line)
            received_at = row.received_at
            if isinstance(row, Rejection) and received_at is None and window_at is None and len(waiting) < CHUNK_ROWS:
                waiting.append((line, row))
                continue
            if window_at is None:
                window_at = received_at
                yield from (self._rejected(early, rejection, window_at) for early, rejection in waiting)
                waiting = []
            if isinstance(row, Message):
                yield (self.file_hash, self.file.relative_name, line.number, received_at, None, None, None, None, *row)
            else:
                yield self._rejected(line, row, received_at or window_at)
        yield from (self._rejected(early, rejection, None) for early, rejection in waiting)

    def _row(self, line: RawLine) -> Message | Rejection:
        parsed = Rejection(line.reason) if line.reason else parse_line(line.content)
        if isinstance(parsed, Rejection):
            return parsed
        message, document = parsed
        self.values.observe(message.type, message.event_slug, message.context, document)
        received_at = message.received_at
        if self.first is None or received_at < self.first:
            self.first = received_at
        if self.last is None or received_at > self.last:
            self.last = received_at
        return message

    def _rejected(self, line: RawLine, rejection: Rejection, window_at: dt.datetime | None) -> tuple:
        fields: list[Any] = list(_NO_MESSAGE)
        fields[_MESSAGE_ID], fields[_RECEIVED_AT] = rejection.message_id, rejection.received_at
        place = (self.file_hash, self.file.relative_name, line.number)
        return (*place, window_at, rejection.reason, rejection.detail, _readable(line.content), None, *fields)

    def result(self) -> TakenFile:
        return TakenFile(self.file_hash, self.file.relative_name, self.lines, self.first, self.last)


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
    }
    if taken:
        warehouse.append(LANDING_FILES.ref, pa.table(rows))


def _append_columns(warehouse: Warehouse, taken: list[TakenFile], values: dict[str, FirstValues]) -> None:
    """First values count in the order of the files' received time, however the files are named or listed."""
    with_messages = [file for file in taken if file.first_received_at is not None]
    order = sorted(with_messages, key=lambda file: (file.first_received_at, file.file_hash))
    added = new_columns(known_columns(warehouse), [values[file.file_hash] for file in order])
    if added:
        columns = dict(zip(Column._fields, map(list, zip(*added, strict=True)), strict=True))
        warehouse.append(EVENT_COLUMNS.ref, pa.table(columns))


def known_columns(warehouse: Warehouse) -> list[Column]:
    """The columns of all event tables, by table and position."""
    table = warehouse.table(EVENT_COLUMNS.ref).select(*Column._fields)
    rows = [Column(**row) for batch in warehouse.batches(table) for row in batch.to_pylist()]
    return sorted(rows, key=lambda column: (column.table_name, column.position))
