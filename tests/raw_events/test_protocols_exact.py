"""The plan in bulk does to every message what the plan does to it alone, on random plans and messages."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.raw_events import naive_plan
from tests.raw_events.planned import batch, message, rule, stage_of

NAMES = ("a", "b", "c d")
values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 2.0, 2.5, -3, "", "x", "xy", "2026-01-01T00:00:00Z", 2**63, "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from((*NAMES, "other")), values, max_size=4)
leaf_schemas = st.sampled_from(
    [
        True,
        False,
        {},
        {"type": "string"},
        {"type": "integer"},
        {"type": ["number", "null"]},
        {"type": "boolean"},
        {"enum": ["x", 1, None]},
        {"const": True},
        {"type": "string", "pattern": "^x"},
        {"minimum": 1},
        {"type": "string", "format": "date-time"},
        {"type": "string", "maxLength": 1},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}},
        {"uniqueItems": True, "minItems": 2},
        {"not": {"type": "string"}},
        {"anyOf": [{"type": "string"}, {"minimum": 2}]},
    ]
)


@st.composite
def object_schemas(draw: Any, depth: int = 2) -> dict[str, Any]:
    inner = leaf_schemas if depth == 0 else leaf_schemas | object_schemas(depth - 1)
    schema: dict[str, Any] = {}
    if draw(st.booleans()):
        schema["type"] = "object"
    if draw(st.integers(0, 3)):
        schema["properties"] = draw(st.dictionaries(st.sampled_from(NAMES), inner, max_size=3))
    if draw(st.booleans()):
        schema["required"] = draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True))
    if draw(st.integers(0, 3)) == 0:
        schema["additionalProperties"] = draw(st.sampled_from([True, False, {"type": "string"}]))
    if depth and draw(st.integers(0, 4)) == 0:
        schema["if"] = {"properties": {"a": draw(leaf_schemas)}}
        schema["then"] = {"required": ["b"]}
    if depth and draw(st.integers(0, 4)) == 0:
        schema["allOf"] = [draw(object_schemas(0))]
    return schema


@st.composite
def message_schemas(draw: Any) -> dict[str, Any]:
    fields = st.sampled_from(["properties", "traits", "context"])
    schema: dict[str, Any] = {"type": "object", "properties": draw(st.dictionaries(fields, object_schemas(), max_size=3))}
    if draw(st.integers(0, 3)) == 0:
        schema["properties"]["userId"] = draw(st.sampled_from([{"type": "string"}, {"pattern": "^u"}, {"enum": ["u1"]}, False]))
    if draw(st.booleans()):
        schema["required"] = draw(
            st.lists(st.sampled_from(["properties", "traits", "context", "anonymousId"]), max_size=2, unique=True)
        )
    if draw(st.integers(0, 4)) == 0:  # conditions across fields
        schema["if"] = {"required": ["anonymousId"]}
        schema["then"] = {"properties": {"context": draw(object_schemas(0))}}
    if draw(st.integers(0, 6)) == 0:
        schema["minProperties"] = 7
    return schema


KEYS = st.sampled_from(
    [
        ("TRACK", "A"),
        ("TRACK", "B"),
        ("TRACK", "Page Viewed"),
        ("IDENTIFY", None),
        ("GROUP", None),
        ("PAGE", None),
        ("COMMON", None),
    ]
)


@st.composite
def plans(draw: Any) -> list[dict[str, Any]]:
    chosen = draw(st.dictionaries(st.tuples(KEYS, st.integers(1, 2)), message_schemas(), max_size=6))
    return [rule(kind, key, version, **schema) for ((kind, key), version), schema in chosen.items()]


def options_of(**choices: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in choices.items()})


flags = [True, False]
trait_options = options_of(
    allow_unplanned_traits=flags, allow_traits_on_violations=flags, common_event_on_violations=["allow", "block", "omit_traits"]
)
enforcements = st.fixed_dictionaries(
    {
        "track": options_of(
            allow_unplanned_events=flags,
            allow_unplanned_event_properties=flags,
            allow_event_on_violations=flags,
            allow_properties_on_violations=flags,
            common_event_on_violations=["allow", "block", "omit_properties"],
        ),
        "identify": trait_options,
        "group": trait_options,
    }
)
protocols = st.fixed_dictionaries(
    {},
    optional={
        "event_version": st.sampled_from([1, 2, 3, 1.5, "2"]),
        "violations": st.just([{"type": "Required"}]),
        "sourceId": st.just("up"),
    },
)


@st.composite
def messages(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["track", "track", "track", "identify", "group", "page", "screen", "alias"]))
    fields: dict[str, Any] = {"userId": draw(st.sampled_from(["u1", "v2"]))}
    if kind == "track":
        fields["event"] = draw(st.sampled_from(["A", "B", "a", "C"]))
    fields |= {"group": {"groupId": "g"}, "alias": {"previousId": "p"}}.get(kind, {})
    for name in ("properties", "traits"):
        if draw(st.integers(0, 4)):
            fields[name] = draw(objects)
    if draw(st.integers(0, 3)):
        fields["context"] = draw(objects)
        if draw(st.integers(0, 2)) == 0:
            fields["context"]["protocols"] = draw(protocols | st.sampled_from([None, "x", []]))
    if draw(st.booleans()):
        fields["anonymousId"] = "n1"
    return message(kind, **fields)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plans(), enforcements, st.lists(messages(), min_size=1, max_size=12))
def test_in_bulk_as_one_by_one(rules: list[dict[str, Any]], options: dict[str, Any], landed: list[dict[str, Any]]) -> None:
    rows = batch(landed)
    result = stage_of(*rules, protocols={"enforcement": options, "judged_upstream": True}).apply(rows)
    kept = {row["line"]: row for row in result.messages.to_pylist()}
    refused = {row["line"]: row["reason"] for row in result.refused.to_pylist()}
    found: dict[int, set[tuple[str, str, str]]] = {}
    for row in result.violations.to_pylist():
        found.setdefault(row["line"], set()).add((row["field"], row["violation_type"], row["action"]))
    assert [*sorted([*kept, *refused])] == [*range(1, len(landed) + 1)]
    for line, (one, before) in enumerate(zip(landed, rows.to_pylist(), strict=True), 1):
        expected = naive_plan.judge(rules, options, whole(one, before))
        assert refused.get(line) == expected["reason"]
        assert found.get(line, set()) == expected["violations"]
        if expected["reason"] is None:
            compare(kept[line], expected, before)


def whole(landed: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The message as its row keeps it: with all its times, as texts."""
    times = {
        "timestamp": "timestamp",
        "originalTimestamp": "original_timestamp",
        "sentAt": "sent_at",
        "receivedAt": "received_at",
    }
    return {**landed, **{name: row[column].isoformat() + "Z" for name, column in times.items() if row[column] is not None}}


def compare(row: dict[str, Any], expected: dict[str, Any], before: dict[str, Any]) -> None:
    for name in ("properties", "traits"):
        text = row[name]
        assert (None if text is None else orjson.loads(text)) == expected["message"].get(name)
    if expected["said"] is None:
        assert row == before
        return
    context = orjson.loads(row["context"])
    annotation = context.pop("protocols")
    assert context == {k: v for k, v in (expected["message"].get("context") or {}).items() if k != "protocols"}
    there, said = expected["there"], expected["said"]
    assert annotation["sourceId"] == there.get("sourceId")
    assert annotation.get("event_version") == there.get("event_version")
    reported = {(one["type"], one["field"]) for one in annotation["violations"] if "field" in one}
    assert reported == said["violations"]
    assert len(annotation["violations"]) >= len(there.get("violations", ()))
    assert set(annotation.get("omitted", ())) == said["omitted"]
    assert set(annotation.get("omitted_on_violation", ())) == said["omitted_on_violation"]
