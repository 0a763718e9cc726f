"""What the twins remember, in one SQLite file: records, calls, tokens, counters and fault plans survive a restart.

Twins speak to this class only, never SQL. A request is one transaction, so a connection dropped before commit leaves nothing.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    system TEXT, object TEXT, id TEXT, document TEXT, created_at TEXT, updated_at TEXT,
    PRIMARY KEY (system, object, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY, system TEXT, time TEXT, method TEXT, path TEXT, size INTEGER, status INTEGER,
    idempotency_key TEXT, fault TEXT);
CREATE INDEX IF NOT EXISTS calls_by_time ON calls (system, time);
CREATE TABLE IF NOT EXISTS faults (id INTEGER PRIMARY KEY, system TEXT, plan TEXT, seen INTEGER, fired INTEGER);
CREATE TABLE IF NOT EXISTS "values" (system TEXT, name TEXT, value TEXT, PRIMARY KEY (system, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (system TEXT, name TEXT, value INTEGER, PRIMARY KEY (system, name)) WITHOUT ROWID;
"""

_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_/]{0,120}$")
_ASCII_LOWER = {ord(c): ord(c.lower()) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_VALUES_PER_QUERY = 500


def fold(value: Any) -> str:
    """A value as it is compared for identity: as text, without ASCII case (SQLite's lower() knows no other letters)."""
    return str(value).translate(_ASCII_LOWER)


@dataclass(frozen=True)
class Record:
    """A record that a twin holds."""

    object: str
    id: str
    fields: dict[str, Any]
    created_at: str
    updated_at: str


def _stamp(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Store:
    """The file ``twins.sqlite`` in a folder, which is made when missing. Calls are serialised by the caller or by ``lock``."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # isolation_level None: transactions are begun and ended below, explicitly.
        self._db = sqlite3.connect(folder / "twins.sqlite", check_same_thread=False, isolation_level=None, timeout=30)
        self._db.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; only a power cut may cost the last calls, which a double can bear.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        self._indexed: set[tuple[str, str, str]] = set()
        self.lock = threading.RLock()

    def close(self) -> None:
        with self.lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Not reentrant."""
        with self.lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # -- records -----------------------------------------------------------------------------------------------------

    def get(self, system: str, object: str, ids: Iterable[str]) -> dict[str, Record]:
        """Records by id; unknown ids are absent."""
        found: dict[str, Record] = {}
        for chunk in _chunks(list(ids)):
            marks = ",".join("?" * len(chunk))
            rows = self._db.execute(
                f"SELECT object, id, document, created_at, updated_at FROM records WHERE system = ? AND object = ? AND id IN ({marks})",
                (system, object, *chunk),
            )
            found |= {row[1]: _record(row) for row in rows}
        return found

    def find(self, system: str, object: str, field: str, values: Iterable[Any]) -> dict[str, list[Record]]:
        """Records whose field has one of the values, without regard to ASCII case: folded value -> records, oldest first."""
        expression, scope = self._index(system, object, field)
        found: dict[str, list[Record]] = {}
        for chunk in _chunks(sorted({fold(value) for value in values})):
            marks = ",".join("?" * len(chunk))
            rows = self._db.execute(
                f"SELECT object, id, document, created_at, updated_at, {expression} FROM records "
                f"WHERE {scope} AND {expression} IN ({marks}) ORDER BY length(id), id",
                chunk,
            )
            for row in rows:
                found.setdefault(row[5], []).append(_record(row))
        return found

    def _index(self, system: str, object: str, field: str) -> tuple[str, str]:
        """The expression of a field and the condition of its partial index, which is made on first use."""
        if not all(_NAME.match(name) for name in (system, object, field)):
            raise ValueError("not a name")
        # The planner uses the index only where the query repeats both literally.
        expression = f"lower(json_extract(document, '$.\"{field}\"'))"
        scope = f"system = '{system}' AND object = '{object}'"
        if (system, object, field) not in self._indexed:
            name = f"by_{system}_{object}_{field}".replace("/", "_")
            self._db.execute(f'CREATE INDEX IF NOT EXISTS "{name}" ON records ({expression}) WHERE {scope}')
            self._indexed.add((system, object, field))
        return expression, scope

    def put(self, system: str, object: str, documents: Iterable[tuple[str, Mapping[str, Any]]], at: dt.datetime) -> None:
        """Insert or replace whole documents by id."""
        stamp = _stamp(at)
        self._db.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET document = excluded.document, updated_at = excluded.updated_at",
            [(system, object, id, orjson.dumps(document).decode(), stamp, stamp) for id, document in documents],
        )

    def delete(self, system: str, object: str, ids: Iterable[str]) -> None:
        self._db.executemany("DELETE FROM records WHERE system = ? AND object = ? AND id = ?", [(system, object, i) for i in ids])

    def records(self, system: str, object: str | None = None, limit: int = -1) -> list[Record]:
        """Records of a system by object, oldest first (ids grow); ``limit`` -1 is all of them."""
        rows = self._db.execute(
            "SELECT object, id, document, created_at, updated_at FROM records "
            "WHERE system = ? AND (? IS NULL OR object = ?) ORDER BY object, length(id), id LIMIT ?",
            (system, object, object, limit),
        )
        return [_record(row) for row in rows]

    def sizes(self, system: str) -> dict[str, int]:
        """Object -> number of records."""
        return dict(
            self._db.execute("SELECT object, count(*) FROM records WHERE system = ? GROUP BY 1 ORDER BY 1", (system,)).fetchall()
        )

    # -- counters and values -----------------------------------------------------------------------------------------

    def count(self, system: str, name: str, by: int = 1) -> int:
        """Add to a counter and return it. Counters are windows of a quota (named by their start) and sequences of ids."""
        return self._db.execute(
            "INSERT INTO counters VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value RETURNING value",
            (system, name, by),
        ).fetchone()[0]

    def value(self, system: str, name: str, default: Any = None) -> Any:
        row = self._db.execute('SELECT value FROM "values" WHERE system = ? AND name = ?', (system, name)).fetchone()
        return json.loads(row[0]) if row else default

    def set_value(self, system: str, name: str, value: Any) -> None:
        self._db.execute('INSERT OR REPLACE INTO "values" VALUES (?, ?, ?)', (system, name, json.dumps(value)))

    # -- calls -------------------------------------------------------------------------------------------------------

    def log_call(
        self,
        system: str,
        at: dt.datetime,
        method: str,
        path: str,
        size: int,
        status: int | None,
        idempotency_key: str | None,
        fault: str | None,
    ) -> None:
        self._db.execute(
            "INSERT INTO calls (system, time, method, path, size, status, idempotency_key, fault) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (system, _stamp(at), method, path, size, status, idempotency_key, fault),
        )

    def calls(self, system: str, after: int = 0, limit: int = -1, newest_first: bool = False) -> list[dict[str, Any]]:
        order = "DESC" if newest_first else "ASC"
        rows = self._db.execute(
            "SELECT id, time, method, path, size, status, idempotency_key, fault FROM calls "
            f"WHERE system = ? AND id > ? ORDER BY id {order} LIMIT ?",
            (system, after, limit),
        )
        names = ("id", "time", "method", "path", "size", "status", "idempotency_key", "fault")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def calls_since(self, system: str, since: dt.datetime) -> int:
        return self._db.execute("SELECT count(*) FROM calls WHERE system = ? AND time > ?", (system, _stamp(since))).fetchone()[0]

    def call_count(self, system: str) -> int:
        return self._db.execute("SELECT count(*) FROM calls WHERE system = ?", (system,)).fetchone()[0]

    # -- faults ------------------------------------------------------------------------------------------------------

    def add_fault(self, system: str, plan: Mapping[str, Any]) -> int:
        cursor = self._db.execute(
            "INSERT INTO faults (system, plan, seen, fired) VALUES (?, ?, 0, 0)", (system, json.dumps(plan))
        )
        return int(cursor.lastrowid or 0)

    def faults(self, system: str) -> list[tuple[int, dict[str, Any], int, int]]:
        """(id, plan, matching calls seen, times fired), oldest first."""
        rows = self._db.execute("SELECT id, plan, seen, fired FROM faults WHERE system = ? ORDER BY id", (system,))
        return [(id, json.loads(plan), seen, fired) for id, plan, seen, fired in rows]

    def fault_seen(self, id: int, fired: bool) -> None:
        self._db.execute("UPDATE faults SET seen = seen + 1, fired = fired + ? WHERE id = ?", (int(fired), id))

    def clear_faults(self, system: str) -> None:
        self._db.execute("DELETE FROM faults WHERE system = ?", (system,))

    def reset(self, system: str | None = None) -> None:
        """Forget everything, of one system or of all."""
        for table in ("records", "calls", "faults", "values", "counters"):
            self._db.execute(f'DELETE FROM "{table}" WHERE ? IS NULL OR system = ?', (system, system))


def _record(row: Sequence[Any]) -> Record:
    return Record(row[0], row[1], orjson.loads(row[2]), row[3], row[4])


def _chunks(values: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), _VALUES_PER_QUERY):
        yield values[start : start + _VALUES_PER_QUERY]
