"""One line as a message: Segment's spec, and a reason for everything that breaks it."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_assets.raw_events.parse import Message, Rejection, parse_line

CONSENT = "Segment Consent Preference Updated"


def parsed(document: Any) -> Message:
    result = parse_line(json.dumps(document).encode())
    assert not isinstance(result, Rejection), result
    return result


def rejected(document: Any) -> Rejection:
    result = parse_line(json.dumps(document).encode())
    assert isinstance(result, Rejection)
    return result


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": None}, "type_missing"),
        ({"type": "click"}, "type_unknown"),
        ({"type": ["track"]}, "type_unknown"),
        ({"messageId": None}, "message_id_missing"),
        ({"messageId": ""}, "message_id_missing"),
        ({"messageId": "m" * 101}, "message_id_too_long"),
        ({"messageId": {"a": 1}}, "field_invalid"),
        ({"userId": None}, "identity_missing"),
        ({"userId": True}, "field_invalid"),
        ({"event": None}, "event_missing"),
        ({"type": "group"}, "group_id_missing"),
        ({"type": "alias"}, "previous_id_missing"),
        ({"receivedAt": None}, "received_at_missing"),
        ({"receivedAt": "2026-01-01T10:00:00"}, "received_at_invalid"),
        ({"receivedAt": "yesterday"}, "received_at_invalid"),
        ({"receivedAt": 1_700_000_000}, "received_at_invalid"),
        ({"receivedAt": "9999-12-31T23:59:59-12:00"}, "received_at_invalid"),
        ({"sentAt": "soon"}, "timestamp_invalid"),
        ({"sentAt": "0001-01-01T00:00:00Z", "originalTimestamp": "9999-01-01T00:00:00Z"}, "timestamp_invalid"),
        ({"properties": []}, "field_invalid"),
        ({"context": "web"}, "field_invalid"),
        ({"context": {"consent": []}}, "consent_invalid"),
        ({"context": {"consent": {"categoryPreferences": {"ad": "yes"}}}}, "consent_invalid"),
        ({"event": CONSENT}, "consent_missing"),
        ({"event": CONSENT, "context": {"consent": {}}}, "consent_missing"),
    ],
)
def test_a_violation_of_the_spec_has_its_reason(message, fields: dict[str, Any], reason: str) -> None:
    assert rejected(message(**{"message_id": "m1", **renamed(fields)})).reason == reason


def renamed(fields: dict[str, Any]) -> dict[str, Any]:
    names = {"messageId": "message_id", "receivedAt": "received_at"}
    return {names.get(key, key): value for key, value in fields.items()}


def test_a_detail_names_the_field_and_never_its_value(message) -> None:
    rejection = rejected(message("m7", userId={"secret": "s3cret"}))
    assert rejection.detail == "userId is not a text"
    assert (rejection.message_id, rejection.received_at) == ("m7", dt.datetime(2026, 1, 1, 10))


def test_without_both_client_times_the_given_one_counts(message) -> None:
    assert parsed(message(originalTimestamp="2025-12-31T12:00:00+02:00")).timestamp == dt.datetime(2025, 12, 31, 10)
    assert parsed(message(timestamp="2025-12-31T12:00:00Z")).timestamp == dt.datetime(2025, 12, 31, 12)
    assert parsed(message()).timestamp == dt.datetime(2026, 1, 1, 10)


def test_documents_keep_their_key_order_as_compact_text(message) -> None:
    assert parsed(message(properties={"b": 1, "a": [1.0, "ž"]})).properties == '{"b":1,"a":[1.0,"ž"]}'


def test_pages_and_screens_are_events_with_a_name(message) -> None:
    page = parsed(message(type="page", event=None, name="Home"))
    assert (page.event, page.event_slug, page.name) == ("Page Viewed", None, "Home")
    assert parsed(message(type="screen", event=None)).event == "Screen Viewed"


def test_whole_numbers_are_texts_and_empty_texts_are_absent(message) -> None:
    assert parsed(message(userId=7, anonymousId="")).user_id == "7"
    assert parsed(message(userId="", anonymousId="a")).user_id is None


def test_AE9_2_the_consent_event_needs_its_object(message) -> None:
    assert rejected(message(event=CONSENT)).reason == "consent_missing"
    assert parsed(message(event=CONSENT, context={"consent": {"categoryPreferences": {}}})).event == CONSENT


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
names = ("type", "messageId", "userId", "receivedAt", "sentAt", "context", "properties", "event")


@given(st.binary() | st.dictionaries(st.sampled_from(names), json_values).map(lambda d: json.dumps(d).encode()))
def test_no_line_raises(line: bytes) -> None:
    result = parse_line(line)
    assert isinstance(result, Rejection | Message)
