"""Tracking plans and messages for the tests of the plan's stage."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import pyarrow as pa

from cdp_assets.raw_events.parse import Message, parse_line
from cdp_assets.raw_events.protocols import PlanStage
from cdp_assets.raw_events.stages import MESSAGE_BATCH, StageResult
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.tracking_plan import TrackingPlan, read_plan


def rule(kind: str = "TRACK", key: str | None = None, version: int = 1, **schema: Any) -> dict[str, Any]:
    """A rule; ``schema`` is its JSON Schema."""
    return {"type": kind, "key": key, "version": version, "jsonSchema": schema}


def of_properties(**schema: Any) -> dict[str, Any]:
    """The part of a message's schema that speaks about its properties."""
    return {"properties": {"properties": {"type": "object", **schema}}}


def plan_of(*rules: Mapping[str, Any]) -> TrackingPlan:
    text = json.dumps({"id": "tp_1", "name": "Plan", "type": "LIVE", "rules": rules})
    plan, problems = read_plan(text, "tracking_plan.json")
    assert plan is not None, problems
    return plan


def stage_of(*rules: Mapping[str, Any], **settings: Any) -> PlanStage:
    """A stage of a space with the rules; ``settings`` are keys of space.yaml."""
    return PlanStage(plan_of(*rules), SpaceConfig(name="test", start_date=dt.date(2026, 1, 1), **settings))


def enforcing(**options: Any) -> dict[str, Any]:
    """Settings of a space whose default options for track calls are these."""
    return {"protocols": {"enforcement": {"track": options}}}


def message(kind: str = "track", **fields: Any) -> dict[str, Any]:
    """A message as it lands."""
    base = {"type": kind, "userId": "u1", "messageId": "m1", "receivedAt": "2026-01-01T10:00:00Z"}
    return {**base, **({"event": "Order Completed"} if kind == "track" else {}), **fields}


def batch(messages: Iterable[Mapping[str, Any]], source: str | None = None) -> pa.Table:
    """Landed messages as the rows that a stage sees. The line is the place in the list, from 1."""
    rows = []
    for number, one in enumerate(messages, 1):
        parsed = parse_line(orjson.dumps(one))
        assert isinstance(parsed, Message), parsed
        rows.append({"source": source, "file_hash": "f", "file": "f.jsonl", "line": number, **parsed._asdict()})
    return pa.Table.from_pylist(rows, schema=MESSAGE_BATCH)


def judge(stage: PlanStage, *messages: Mapping[str, Any], source: str | None = None) -> StageResult:
    return stage.apply(batch(messages, source))


def document(result: StageResult, name: str, row: int = 0) -> Any:
    """A JSON document of a message that goes on."""
    text = result.messages.column(name)[row].as_py()
    return None if text is None else orjson.loads(text)


def violations(result: StageResult) -> list[tuple[int, str, str, str]]:
    """(line, field, type, action) of each violation."""
    return [(row["line"], row["field"], row["violation_type"], row["action"]) for row in result.violations.to_pylist()]
