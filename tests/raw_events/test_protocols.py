"""The tracking plan's stage: what the acceptance examples do not say."""

from __future__ import annotations

import json

import pyarrow as pa

from cdp_assets.raw_events.protocols import ROWS_AT_ONCE
from tests.raw_events.planned import batch, document, enforcing, judge, message, of_properties, rule, stage_of, violations

TOTAL = rule(key="Order Completed", **of_properties(properties={"total": {"type": "number", "minimum": 0}}))


def test_a_message_that_another_plan_judged_is_not_blocked_again_and_keeps_its_annotation() -> None:
    upstream = {"sourceId": "up", "event_version": 1, "violations": [{"type": "Required", "field": "a", "description": "b"}]}
    options = enforcing(allow_event_on_violations=False, allow_unplanned_events=False)["protocols"]
    stage = stage_of(TOTAL, protocols={**options, "judged_upstream": True})
    wrong = {"properties": {"total": "ten"}}
    found = judge(stage, message(**wrong, context={"protocols": upstream}), message(**wrong, context={"protocols": {}}))
    assert found.refused.column("line").to_pylist() == [2]
    protocols = document(found, "context")["protocols"]
    assert (protocols["sourceId"], protocols["event_version"]) == ("up", 1)
    assert [one["field"] for one in protocols["violations"]] == ["a", "properties.total"]


def test_a_client_cannot_say_that_another_plan_let_its_message_through() -> None:
    said = {"protocols": {"violations": [{"type": "Required", "field": "a", "description": "b"}]}}
    sources = {"web": {}, "hub": {"judged_upstream": True}}
    stage = stage_of(TOTAL, sources=sources, **enforcing(allow_event_on_violations=False))
    wrong = message(properties={"total": "ten"}, context=said)
    for source, refused in (("web", 1), (None, 1), ("hub", 0)):
        assert judge(stage, wrong, source=source).refused.num_rows == refused


def test_unplanned_properties_are_omitted_before_the_rule_is_asked_on_every_planned_level() -> None:
    address = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
    stage = stage_of(
        rule(key="Order Completed", **of_properties(properties={"address": address, "any": {"type": "object"}})),
        **enforcing(allow_unplanned_event_properties=False, allow_event_on_violations=False),
    )
    found = judge(stage, message(properties={"address": {"city": "Ghent", "street": 1}, "any": {"x": 1}, "more": {"y": 2}}))
    assert document(found, "properties") == {"address": {"city": "Ghent"}, "any": {"x": 1}}
    assert document(found, "context")["protocols"]["omitted"] == ["properties.address.street", "properties.more"]
    assert found.refused.num_rows == 0


def test_of_a_wrong_item_the_innermost_property_is_omitted() -> None:
    items = {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}}
    stage = stage_of(
        rule(key="Order Completed", **of_properties(properties={"items": items, "tags": {"items": {"type": "string"}}})),
        **enforcing(allow_properties_on_violations=False),
    )
    found = judge(stage, message(properties={"items": [{"price": 1}, {"price": "2", "sku": "s"}], "tags": ["a", 1]}))
    assert document(found, "properties") == {"items": [{"price": 1}, {"sku": "s"}]}
    assert document(found, "context")["protocols"]["omitted_on_violation"] == ["properties.items.$.price", "properties.tags"]


def test_the_consent_event_is_planned_once_there_are_categories() -> None:
    consent = message(
        event="Segment Consent Preference Updated",
        context={"consent": {"categoryPreferences": {"Ads": True}}},
        properties={"a": 1},
    )
    without = judge(stage_of(TOTAL), consent)
    assert violations(without) == [(1, "event", "Unplanned Event", "allowed")]
    categories = [{"id": "Ads", "name": "Ads"}]
    assert violations(judge(stage_of(TOTAL, consent_categories=categories), consent)) == []


def test_a_source_may_differ_from_the_space() -> None:
    stage = stage_of(
        TOTAL,
        sources={"web": {"enforcement": {"track": {"allow_event_on_violations": True}}}, "app": {}},
        **enforcing(allow_event_on_violations=False),
    )
    wrong = message(properties={"total": -1})
    assert [judge(stage, wrong, source=source).refused.num_rows for source in ("web", "app", None)] == [0, 1, 1]
    annotated = judge(stage, wrong, source="web")
    assert document(annotated, "context")["protocols"]["sourceId"] == "web"


def test_nothing_that_is_said_holds_a_value() -> None:
    secret = "ada@example.com"
    schema = of_properties(
        properties={
            "a": {"enum": ["x"]},
            "b": {"type": "integer"},
            "c": {"pattern": "^x"},
            "d": {"anyOf": [{"const": 1}, {"maxLength": 2}]},
            "e": {"format": "date-time", "type": "string"},
            "f": {"items": {"maxLength": 1}},
        }
    )
    stage = stage_of(rule(key="Order Completed", **schema), **enforcing(allow_event_on_violations=False))
    found = judge(stage, message(properties={**dict.fromkeys("abcde", secret), "f": [secret]}))
    assert found.violations.num_rows == 6
    assert secret not in json.dumps([found.violations.to_pylist(), found.refused.to_pylist()], default=str)


def test_values_that_are_nested_too_deeply_to_be_checked_are_violations() -> None:
    schema = of_properties(properties={"a": {"type": "object"}}, maxProperties=0)
    rows = batch([message(properties={}), message(properties={"a": {}})])
    texts = pa.array(['{"a":' * 400 + "{}" + "}" * 400, '{"a":{}}'])
    rows = rows.set_column(rows.column_names.index("properties"), "properties", texts)
    found = stage_of(rule(key="Order Completed", **schema)).apply(rows)
    assert found.violations.select(["line", "field", "description"]).to_pylist() == [
        {"line": 1, "field": "properties", "description": "is nested too deeply to be checked"},
        {"line": 2, "field": "properties", "description": "must have at most 0 keys"},
    ]


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {**of_properties(properties={"node": {"$ref": "#/definitions/node"}})}
    schema["definitions"] = {"node": {"type": "object", "properties": {"next": {"$ref": "#/definitions/node"}}}}
    found = judge(
        stage_of(rule(key="Order Completed", **schema)),
        message(properties={"node": {"next": {"next": {}}}}),
        message(properties={"node": {"next": {"next": 1, "odd": 2}}}),
    )
    assert violations(found) == [
        (2, "properties.node.next.next", "Invalid Type", "allowed"),
        (2, "properties.node.next.odd", "Unplanned Property", "allowed"),
    ]


def test_how_messages_are_cut_into_batches_does_not_matter() -> None:
    stage = stage_of(TOTAL, **enforcing(allow_properties_on_violations=False, allow_unplanned_events=False))
    few = batch(
        [message(properties={"total": one}, event=event) for one in (1, "x", -1) for event in ("Order Completed", "Other")]
    )
    many = pa.concat_tables([few] * (ROWS_AT_ONCE // few.num_rows + 2))
    whole, part = stage.apply(many), stage.apply(few)
    repeats = many.num_rows // few.num_rows
    for name in ("messages", "refused", "violations"):
        assert getattr(whole, name) == pa.concat_tables([getattr(part, name)] * repeats)
    assert stage.apply(few.slice(0, 0)).messages.num_rows == 0
