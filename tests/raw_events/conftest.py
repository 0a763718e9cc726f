"""Landing folders and windows for the tests of the raw_events room."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_assets.raw_events.build import Counts, affected_windows, build_window
from cdp_assets.raw_events.event_tables import EventTablesResult, build_event_tables
from cdp_assets.raw_events.intake import take_in
from cdp_assets.raw_events.stages import Stage
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.time import window_by_key, windows
from resources.warehouse import TableRef, Warehouse

AS_OF = dt.datetime(2026, 1, 4, tzinfo=dt.UTC)
LOADED_AT = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)


def event(message_id: str | None = "m1", received_at: str = "2026-01-01T10:00:00Z", **fields: Any) -> dict[str, Any]:
    """A good track message, changed by ``fields``; None removes one."""
    message = {
        "type": "track",
        "event": "Card Used",
        "userId": "u1",
        "messageId": message_id,
        "receivedAt": received_at,
        "properties": {},
        **fields,
    }
    return {key: value for key, value in message.items() if value is not None}


class Room:
    """A space that starts on 2026-01-01 with daily windows, its landing folder, and a warehouse."""

    def __init__(self, warehouse: Warehouse, folder: Path) -> None:
        self.warehouse, self.folder = warehouse, folder
        self.config = SpaceConfig(name="test", start_date=dt.date(2026, 1, 1))
        self.stages: list[Stage] = []

    def land(self, name: str, *lines: Any) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n"
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    def run(self, *keys: str, as_of: dt.datetime = AS_OF) -> dict[str, Counts]:
        """Take in what landed and build the windows of ``keys``, or all windows."""
        self.intake = take_in(self.warehouse, self.config, self.folder, LOADED_AT, self.stages)
        self.affected = affected_windows(self.warehouse, self.intake)
        return build_window(self.warehouse, self.config, self.windows(*keys, as_of=as_of), as_of)

    def windows(self, *keys: str, as_of: dt.datetime = AS_OF):
        return [window_by_key(self.config, key) for key in keys] or windows(self.config, as_of)

    def event_tables(self, *keys: str) -> EventTablesResult:
        return build_event_tables(self.warehouse, self.config, self.windows(*keys), AS_OF)

    def rows(self, table: str, *columns: str, schema: str = "raw_events") -> list[tuple]:
        """The rows of a table, sorted."""
        found = self.warehouse.table(TableRef(schema, table)).select(*columns)
        return sorted((tuple(row.values()) for row in self.warehouse.rows(found, 10_000)), key=str)


@pytest.fixture
def room(duckdb_warehouse: Warehouse, tmp_path: Path) -> Room:
    return Room(duckdb_warehouse, tmp_path / "landing")


@pytest.fixture
def any_room(warehouse: Warehouse, tmp_path: Path) -> Room:
    """The room, once on each engine."""
    return Room(warehouse, tmp_path / "landing")


@pytest.fixture
def message() -> Callable[..., dict[str, Any]]:
    """The factory of messages."""
    return event
