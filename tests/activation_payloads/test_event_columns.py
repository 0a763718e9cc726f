"""Events mapped together are what they are when each is mapped by itself."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.activation_payloads.event_columns import EventMapper
from cdp_assets.activation_payloads.rules import Target
from cdp_assets.activation_payloads.unit_payload import MAX_MESSAGE_BYTES, Unit, UnitMapper, event_unit
from cdp_assets.space.models.activations import Activation
from resources.destinations import FieldRule

texts = st.text(max_size=8) | st.sampled_from(["", "7", "a@x.org", "2026-01-01T00:00:00Z", 'q"\\', "\x00\n", "\u2028"])
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0", "é"]), inner, max_size=3)
)
messages = st.fixed_dictionaries(
    {"type": st.just("track"), "messageId": st.uuids().map(str)},
    optional={
        "event": texts,
        "userId": texts,
        "properties": documents,
        "context": st.dictionaries(st.sampled_from(["traits", "ip"]), documents, max_size=2),
    },
)
people = st.dictionaries(st.sampled_from(["user_id", "email", "plan"]), texts, max_size=3)
values = st.sampled_from(
    [
        *({"@path": path} for path in ("$.userId", "$.event", "$.properties", "$.properties.a", "properties.a.b", "$.properties.a[0]")),
        *({"@path": path} for path in ("$.context.traits.email", "$.context.traits.plan", "$.properties.a.length", "$.", "$.nothing.at.all")),
        *("bank", "", None, 7, 0.5, True, ["b", {"z": 1, "a": None}], {"@literal": "x"}),
        {"@template": "{{properties.a}} of {{type}} {{userId}}"},
        {"@case": {"operator": "upper", "value": {"@path": "$.properties.a"}}},
        {"@if": {"exists": {"@path": "$.properties.a"}, "then": {"@path": "$.userId"}, "else": "never"}},
        {"@if": {"blank": {"@path": "$.properties.b"}, "then": {"@path": "$.properties.a.b"}}},
        {"one": {"@path": "$.properties.a"}, "more": [{"@path": "$.properties.b"}, {"@path": "$.type"}]},
        {"@liquid": "{{ properties.a }}"},
    ]
)  # fmt: skip
rules = st.builds(
    FieldRule,
    st.sampled_from(["string", "number", "integer", "boolean", "email", "any"]),
    st.booleans(),
    st.none() | st.integers(1, 6),
)


def stream(mapping: dict[str, Any]) -> Activation:
    return Activation.model_validate(
        {
            "key": "stream",
            "name": "Stream",
            "events": {"where": 'type = "track"', "since": "2026-01-01T00:00:00Z"},
            "destination": "queue",
            "trigger": {"unit": "event", "when": "occurs"},
            "identifier": "email",
            "mapping": mapping,
            "consent": {"subject": "profile", "categories": ["ads"]},
            "first_run": "send",
        }
    )


def units_of(activation: Activation, events: list[tuple[dict[str, Any], dict[str, str], str]]) -> list[Unit]:
    return [
        event_unit(
            activation,
            message,
            person,
            subject=None if refused == "no_subject" else f"person {number}",
            refused=refused,
            detail="said" if refused == "filter" else "",
            occurred_at=dt.datetime(2026, 1, 2, 3, 4, 5, number),
        )
        for number, (message, person, refused) in enumerate(events)
    ]


def is_plain(value: Any) -> bool:
    """Whether a field is what is at a path below the message, or a constant."""
    return not isinstance(value, dict) or "@literal" in value or value.get("@path", "$.") != "$."


@settings(max_examples=400, deadline=None)
@given(
    events=st.lists(st.tuples(messages, people, st.sampled_from(["", "", "", "filter", "consent", "no_subject"])), max_size=5),
    mapping=st.dictionaries(st.sampled_from(["k", "Email", "é", "z"]), values, min_size=1, max_size=4),
    key_field=st.sampled_from(["k", "Email"]),
    fields=st.none() | st.dictionaries(st.sampled_from(["k", "Email", "é", "z", "*", "more"]), rules, max_size=6),
)
def test_events_together_are_what_each_is(
    events: list[tuple[dict[str, Any], dict[str, str], str]],
    mapping: dict[str, Any],
    key_field: str,
    fields: dict[str, FieldRule] | None,
) -> None:
    activation, target = stream(mapping), Target(key_field, None, fields)
    units = units_of(activation, events)
    together = EventMapper(activation, target).map(units)
    if together is None:  # never for paths and constants alone
        assert not all(is_plain(value) for value in mapping.values())
        return
    one = UnitMapper(activation, target)
    expected = [one.map(unit) for unit in units]
    left_out = ("path", "entity_id", "exit_payload", "retract_payload")
    assert [{**row, **dict.fromkeys(left_out)} for row in together.rows.to_pylist()] == [found.row for found in expected]
    assert (together.verdicts, together.details) == ([f.verdict for f in expected], [f.detail for f in expected])


def test_a_plain_mapping_is_for_columns() -> None:
    activation = stream({"k": {"@path": "$.userId"}, "amount": {"@path": "$.properties.a"}, "source": "bank"})
    mapper = EventMapper(activation, Target("k", None, None))
    message = {"type": "track", "messageId": "m", "userId": "u", "properties": {"a": 1.5}}
    found = mapper.map(units_of(activation, [(message, {"email": "a@x.org"}, "")]))
    assert found is not None
    assert found.rows["payload"].to_pylist() == ['{"amount":1.5,"k":"u","source":"bank"}']


@pytest.mark.parametrize(
    ("size", "refused", "verdict"),
    [(MAX_MESSAGE_BYTES - 1_000, "", "ok"), (MAX_MESSAGE_BYTES, "", "too_large"), (MAX_MESSAGE_BYTES, "consent", "consent")],
)
def test_an_event_that_is_too_large_stays(size: int, refused: str, verdict: str) -> None:
    activation = stream({"k": {"@path": "$.userId"}})
    message = {"type": "track", "messageId": "m", "userId": "u", "properties": {"a": "x" * size}}
    units = units_of(activation, [(message, {"email": "a@x.org"}, refused)])
    found = EventMapper(activation, Target("k", None, None)).map(units)
    assert found is not None
    assert found.verdicts == [verdict]
    assert found.rows["payload"].to_pylist() == ['{"k":"u"}' if verdict == "ok" else None]
