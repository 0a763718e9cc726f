"""Validation against a tracking plan, next to parsing the same lines."""

from __future__ import annotations

import datetime as dt
import gc
import json
import random
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from benchmarks.figures import Clock, Figure
from cdp_assets.raw_events.parse import Message, parse_line
from cdp_assets.raw_events.protocols import PlanStage
from cdp_assets.raw_events.stages import MESSAGE_BATCH
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.tracking_plan import read_plan

TITLE = "Tracking plan"
TEXT = """
A million track messages of ten events against ten rules (types, required, enum, pattern, minimum, date-time, nothing unplanned)
and a common schema on the context. The texts are all different; one message in fifty violates its rule. Beside it: `orjson.loads`
of the same lines, and nothing else.
"""
MESSAGES = 1_000_000
MADE_AT_ONCE = 100_000


def run(scale: float, folder: Path) -> list[Figure]:
    """Messages are made, parsed and validated in portions, so that memory does not grow with the scale."""
    plan, _ = read_plan(json.dumps({"id": "tp_bench", "type": "LIVE", "rules": [*map(_rule, range(10)), _COMMON]}), "plan")
    assert plan is not None
    clock, rows, found = Clock(), round(MESSAGES * scale), 0
    plain = PlanStage(plan, SpaceConfig(name="bench", start_date=dt.date(2026, 1, 1)))
    for start in range(0, rows, MADE_AT_ONCE):
        lines = [_line(random.Random(number), number) for number in range(start, min(start + MADE_AT_ONCE, rows))]
        batch = _batch(lines)
        gc.collect()
        with clock.part("parse"):
            for line in lines:
                orjson.loads(line)
        with clock.part("plan"):
            result = plain.apply(batch)
        assert result.messages.num_rows == len(lines)
        found += result.violations.num_rows
    parse, validate = clock.seconds["parse"], clock.seconds["plan"]
    return [
        Figure("orjson.loads of each line", parse, rows),
        Figure("validate, annotate, list violations", validate, rows, "parse", validate / parse, note=f"{found:,} violations"),
    ]


def _rule(number: int) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "order_id": {"type": "string", "pattern": "^ORD-[0-9]+$"},
        "total": {"type": "number", "minimum": 0},
        "items": {"type": "integer"},
        "currency": {"enum": ["EUR", "USD", "GBP"]},
        "placed_at": {"type": "string", "format": "date-time"},
        "coupon": {"type": ["string", "null"]},
        "address": {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]},
    }
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "context": {},
            "traits": {"type": "object"},
            "properties": {"type": "object", "properties": properties, "required": ["order_id", "total"]},
        },
        "required": ["properties"],
    }
    return {"type": "TRACK", "key": f"Event {number}", "version": 1, "jsonSchema": schema}


_COMMON = {
    "type": "COMMON",
    "version": 1,
    "jsonSchema": {"properties": {"context": {"type": "object", "required": ["library"]}}, "required": ["context"]},
}


def _line(rng: random.Random, number: int) -> bytes:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number)
    body = {
        "type": "track",
        "event": f"Event {rng.randrange(10)}",
        "messageId": f"m{number}",
        "userId": f"u{rng.randrange(50_000)}",
        "anonymousId": f"{rng.getrandbits(64):016x}",
        "properties": {
            "order_id": f"ORD-{rng.getrandbits(40)}",
            "total": rng.randrange(100_000) / 100,
            "items": rng.randrange(20) if rng.random() > 0.02 else "many",
            "currency": rng.choice(("EUR", "USD", "GBP")),
            "placed_at": at.isoformat(),
            "coupon": None,
            "address": {"country": "NL"},
        },
        "context": {
            "library": {"name": "analytics.js", "version": "2.1.0"},
            "page": {"path": f"/orders/{rng.randrange(1000)}", "title": "Orders"},
            "device": {"id": f"{rng.getrandbits(64):016x}", "type": "ios"},
        },
        "originalTimestamp": at.isoformat(),
        "sentAt": at.isoformat(),
        "receivedAt": at.isoformat(),
    }
    return orjson.dumps(body)


def _batch(lines: list[bytes]) -> pa.Table:
    rows = []
    for number, line in enumerate(lines, 1):
        parsed = parse_line(line)
        assert isinstance(parsed, Message)
        rows.append((*parsed, "website", "f", "f.jsonl", number))
    names = (*Message._fields, "source", "file_hash", "file", "line")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return pa.table([pa.array(columns[f.name], f.type) for f in MESSAGE_BATCH], schema=MESSAGE_BATCH)
