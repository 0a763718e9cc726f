"""Reads a source from where it stands to its end. Records, checkpoint and, before them, events are written page by page.

Rows and checkpoint are one transaction; the events' landing file is written before it, under a name and with a content that only the page
decides. So a reader that is killed anywhere reads the same page again, and nothing is lost or there twice.
"""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from cdp_assets.pulled_sources.suppressed import SuppressedAmong, positions_of_suppressed
from cdp_assets.pulled_sources.tables import CHECKPOINTS, UNREADABLE, table_of
from cdp_assets.space.pulled import PulledEvent, PulledSource, value_at
from resources.sources import Page, Pulled, Reader
from resources.warehouse import TableSpec, Warehouse

PAGE_RECORDS = 1_000
SUPPRESSED = "suppressed"

Progress = Callable[[int], None]


@dataclass
class TakenIn:
    """What a reading took in. ``suppressed``: records that name who is suppressed. ``positions``: shard -> where it stands now."""

    records: int = 0
    new: int = 0
    unreadable: int = 0
    suppressed: int = 0
    events: int = 0
    positions: dict[str, str] = field(default_factory=dict)


def take_in(
    warehouse: Warehouse,
    key: str,
    source: PulledSource,
    reader: Reader,
    landing: Path,
    suppressed_among: SuppressedAmong,
    progress: Progress | None = None,
) -> TakenIn:
    """Read every shard to its present end. Raises :class:`resources.sources.SourceError`; pages that were read stay."""
    spec = table_of(key, source)
    warehouse.ensure(spec, CHECKPOINTS, UNREADABLE)
    taken = TakenIn(positions=positions_of(warehouse, key))
    for shard in reader.shards():
        more = True
        while more:
            page = reader.read(shard, taken.positions.get(shard), PAGE_RECORDS)
            more = page.more
            if page.records or page.position != taken.positions.get(shard, ""):
                barred = positions_of_suppressed(warehouse, source, page.records, suppressed_among)
                _write(warehouse, key, source, spec, shard, page, barred, landing, taken)
            if progress:
                progress(taken.records)
    return taken


def positions_of(warehouse: Warehouse, key: str) -> dict[str, str]:
    """Where each shard of a source stands."""
    if not warehouse.has(CHECKPOINTS.ref):
        return {}
    table = warehouse.table(CHECKPOINTS.ref)
    rows = warehouse.arrow(table.filter(table.source == key).select("shard", "position")).to_pylist()
    return {row["shard"]: row["position"] for row in rows}


def _write(
    warehouse: Warehouse,
    key: str,
    source: PulledSource,
    spec: TableSpec,
    shard: str,
    page: Page,
    barred: Collection[str],
    landing: Path,
    taken: TakenIn,
) -> None:
    rows: dict[Any, dict[str, Any]] = {}
    unreadable: list[dict[str, Any]] = []
    for record in page.records:
        if record.position in barred:
            # Nothing of the person is kept but that there was something.
            place = {"source": key, "shard": shard, "position": record.position}
            unreadable.append({**place, "reason": SUPPRESSED, "record": None})
            continue
        row, reason = _row(source, record)
        if row is None:
            text = record.text if record.content is None else orjson.dumps(record.content).decode()
            unreadable.append({"source": key, "shard": shard, "position": record.position, "reason": reason, "record": text})
        else:
            rows[row[source.key]] = {**row, "shard": shard, "position": record.position}
    found = pa.Table.from_pylist(list(rows.values()), schema=spec.schema.to_pyarrow())
    known = _known(warehouse, spec, source.key, list(rows))
    new = [row for name, row in rows.items() if name not in known]
    if source.event is not None:
        taken.events += _land(landing, key, source.event, source.key, new)
    with warehouse.transaction():
        if rows:
            warehouse.delete(spec.ref, [(source.key, "in", list(rows))])
            warehouse.append(spec.ref, found)
        if unreadable:
            places = [one["position"] for one in unreadable]
            warehouse.delete(UNREADABLE.ref, [("source", "=", key), ("shard", "=", shard), ("position", "in", places)])
            warehouse.append(UNREADABLE.ref, pa.Table.from_pylist(unreadable, schema=UNREADABLE.schema.to_pyarrow()))
        table = warehouse.table(CHECKPOINTS.ref)
        before = warehouse.rows(table.filter((table.source == key) & (table.shard == shard)).select("records"), 1)
        count = len(page.records) + (int(before[0]["records"]) if before else 0)
        checkpoint = {"source": key, "shard": shard, "position": page.position, "records": count}
        warehouse.delete(CHECKPOINTS.ref, [("source", "=", key), ("shard", "=", shard)])
        warehouse.append(CHECKPOINTS.ref, pa.Table.from_pylist([checkpoint], schema=CHECKPOINTS.schema.to_pyarrow()))
    taken.records += len(page.records)
    taken.new += len(new)
    taken.unreadable += len(unreadable) - len(barred)
    taken.suppressed += len(barred)
    taken.positions[shard] = page.position


def _known(warehouse: Warehouse, spec: TableSpec, key: str, values: Sequence[Any]) -> set[Any]:
    if not values:
        return set()
    table = warehouse.table(spec.ref)
    return {row[key] for row in warehouse.rows(table.filter(table[key].isin(values)).select(key), len(values))}


# -- from a record to a row --------------------------------------------------------------------------------------------


def _row(source: PulledSource, record: Pulled) -> tuple[dict[str, Any] | None, str]:
    """The row, or why there is none."""
    if record.content is None:
        return None, "no JSON object"
    row = {}
    for name, kind in source.columns.items():
        value = value_at(record.content, source.fields.get(name, name))
        typed = _typed(value, kind)
        if value is not None and typed is None:
            return None, f"{name} is no {kind}"
        row[name] = typed
    if row[source.key] is None:
        return None, f"{source.key} is missing"
    if source.event is not None and row[source.event.timestamp] is None:
        return None, f"{source.event.timestamp} is missing"
    return row, ""


def _typed(value: Any, kind: str) -> Any:
    """The value as its column's type; None where it is none."""
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "number":
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind == "timestamp":
        return _instant(value)
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return None if value is None else str(value)


def _instant(value: Any) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else None
    except ValueError:
        return None
    if found is None or found.tzinfo is None:
        return None
    return found.astimezone(dt.UTC).replace(tzinfo=None)


# -- events -----------------------------------------------------------------------------------------------------------


def _land(landing: Path, source: str, event: PulledEvent, key: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Write the page's events as one landing file. How many."""
    messages = [_message(source, event, key, row) for row in rows]
    messages = [message for message in messages if "userId" in message or "anonymousId" in message]
    if not messages:
        return 0
    content = b"".join(orjson.dumps(message, option=orjson.OPT_SORT_KEYS) + b"\n" for message in messages)
    folder = landing / "pulled_sources"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{source}-{hashlib.sha256(content).hexdigest()[:16]}.jsonl.gz"
    # Whole or not at all, and the same bytes whenever it is written.
    waiting = folder / f".{name}"
    waiting.write_bytes(gzip.compress(content, mtime=0))
    waiting.replace(folder / name)
    return len(messages)


def _message(source: str, event: PulledEvent, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
    at = row[event.timestamp].isoformat(timespec="milliseconds") + "Z"
    properties = {name: _said(row[name]) for name in event.properties if row[name] is not None}
    message = {
        "type": "track",
        "event": event.name,
        "messageId": f"{source}-{row[key]}",
        "timestamp": at,
        "receivedAt": at,
        "properties": properties,
        "context": {"library": {"name": "cdp", "version": source}},
    }
    if event.user_id and row[event.user_id]:
        message["userId"] = row[event.user_id]
    if event.anonymous_id and row[event.anonymous_id]:
        message["anonymousId"] = row[event.anonymous_id]
    return message


def _said(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="milliseconds") + "Z"
    return int(value) if isinstance(value, float) and value.is_integer() else value
