"""What a tracking plan must do, as the acceptance examples of Segment Protocols say it."""

from __future__ import annotations

from tests.raw_events.planned import document, enforcing, judge, message, of_properties, rule, stage_of, violations


def test_ae8_1_names_match_exactly_and_unplanned_events_are_blocked_when_not_allowed() -> None:
    rules = (rule(key="Order Completed", **of_properties(additionalProperties=True)),)
    found = judge(stage_of(*rules, **enforcing(allow_unplanned_events=False)), message(event="order completed"), message())
    assert violations(found) == [(1, "event", "Unplanned Event", "blocked")]
    assert found.refused.select(["line", "reason"]).to_pylist() == [{"line": 1, "reason": "plan_unplanned_event"}]
    assert found.messages.column("line").to_pylist() == [2]

    allowed = judge(stage_of(*rules), message(event="order completed"))
    assert violations(allowed) == [(1, "event", "Unplanned Event", "allowed")]
    assert allowed.refused.num_rows == 0
    assert document(allowed, "context")["protocols"]["violations"][0]["type"] == "Unplanned Event"


def test_ae8_2_a_string_in_an_integer_property_is_omitted_and_the_event_delivered() -> None:
    stage = stage_of(
        rule(key="Order Completed", **of_properties(properties={"items": {"type": "integer"}, "currency": {"type": "string"}})),
        **enforcing(allow_properties_on_violations=False),
    )
    found = judge(stage, message(properties={"items": "three", "currency": "EUR"}, context={"ip": "127.0.0.1"}))
    assert document(found, "properties") == {"currency": "EUR"}
    assert document(found, "context") == {
        "ip": "127.0.0.1",
        "protocols": {
            "sourceId": None,
            "omitted_on_violation": ["properties.items"],
            "violations": [{"type": "Invalid Type", "field": "properties.items", "description": "must be of type integer"}],
        },
    }
    assert violations(found) == [(1, "properties.items", "Invalid Type", "omitted")]


def test_ae8_3_a_version_that_is_no_integer_means_the_oldest() -> None:
    stage = stage_of(
        rule(key="Order Completed", version=2, **of_properties(properties={"a": True, "b": True}, required=["b"])),
        rule(key="Order Completed", version=1, **of_properties(properties={"a": True, "b": True}, required=["a"])),
    )
    versions = [3.2, 2, 1, "2", 7, True, None]
    found = judge(stage, *(message(properties={}, context={"protocols": {"event_version": one}}) for one in versions))
    by_line = {row["line"]: (row["field"], row["event_version"]) for row in found.violations.to_pylist()}
    first, second = ("properties.a", 1), ("properties.b", 2)
    assert by_line == {1: first, 2: second, 3: first, 4: first, 5: first, 6: first, 7: first}


def test_ae8_4_a_page_against_the_common_schema_passes_where_only_track_is_blocked() -> None:
    stage = stage_of(
        rule("COMMON", properties={"context": {"type": "object", "required": ["device"]}}, required=["context"]),
        rule(key="Order Completed", **of_properties()),
        **enforcing(common_event_on_violations="block"),
    )
    page = message("page", name="Home", context={"ip": "127.0.0.1"})
    found = judge(stage, page, message(context={}), message(context={"device": {"id": "d1"}}))
    assert violations(found) == [
        (1, "context.device", "Common Schema", "allowed"),
        (2, "context.device", "Common Schema", "blocked"),
    ]
    assert found.refused.select(["line", "reason"]).to_pylist() == [{"line": 2, "reason": "plan_common_violation"}]
    assert found.messages.column("line").to_pylist() == [1, 3]
    assert document(found, "context", 1) == {"device": {"id": "d1"}}
