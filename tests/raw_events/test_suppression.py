"""Suppression: what is recorded of it, and which messages the stage refuses."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.parse import Message, parse_line
from cdp_assets.raw_events.replay import Selection, replay_quarantine
from cdp_assets.raw_events.stages import MESSAGE_BATCH, REFUSED, StageResult
from cdp_assets.raw_events.suppression import (
    Span,
    SuppressionError,
    SuppressionStage,
    lift,
    suppress,
    suppression_stage,
    value_hash,
)
from cdp_assets.raw_events.tables import MESSAGES, SUPPRESSIONS, suppressions_at
from cdp_assets.space.models.settings import IdentitySettings, SpaceConfig
from cdp_assets.unified_profiles.build import build_profiles
from cdp_assets.unified_profiles.tables import identifiers_as_of
from resources.warehouse import Warehouse

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
IDENTITY = IdentitySettings(custom={"owl_card": "cardNumber"})


def batch(*messages: dict[str, Any]) -> pa.Table:
    """Messages as intake hands them to stages: parsed, with their place."""
    rows = []
    for line, message in enumerate(messages, start=1):
        given = {"type": "track", "event": "E", "messageId": f"m{line}", "receivedAt": NOON.isoformat(), "userId": "someone"}
        parsed = parse_line(json.dumps(given | message).encode())
        assert isinstance(parsed, Message), parsed
        rows.append({**parsed._asdict(), "file_hash": "f", "file": "f.jsonl", "line": line})
    return pa.Table.from_pylist(rows, schema=MESSAGE_BATCH)


def refused(result: StageResult) -> dict[int, str]:
    return {row["line"]: row["detail"] for row in result.refused.to_pylist()}


def stage(warehouse: Warehouse) -> SuppressionStage:
    found = suppression_stage(warehouse, IDENTITY)
    assert found is not None
    return found


def stored(warehouse: Warehouse) -> list[dict[str, Any]]:
    return warehouse.rows(warehouse.table(SUPPRESSIONS.ref).order_by("suppressed_at"), 100)


# -- what is recorded ------------------------------------------------------------------------------------------------------


def test_a_suppression_is_recorded_once_and_without_the_value(warehouse: Warehouse) -> None:
    first = suppress(warehouse, IDENTITY, "email", "ann@example.com", NOON, "asked by letter")
    again = suppress(warehouse, IDENTITY, "email", "ann@example.com", NOON + HOUR, "asked again")
    assert (first.changed, first.in_force, again.changed, again.suppressed_at) == (True, True, False, NOON)
    (row,) = stored(warehouse)
    assert (row["identifier_type"], row["value_hash"], row["reason"], row["lifted_at"]) == (
        "email",
        value_hash("ann@example.com"),
        "asked by letter",
        None,
    )
    assert "ann" not in json.dumps(row, default=str)


def test_an_undo_ends_it_and_a_later_suppression_begins_anew(warehouse: Warehouse) -> None:
    assert lift(warehouse, IDENTITY, "user_id", "u1", NOON).changed is False
    suppress(warehouse, IDENTITY, "user_id", "u1", NOON, "asked")
    ended = lift(warehouse, IDENTITY, "user_id", "u1", NOON + HOUR)
    assert (ended.changed, ended.in_force, ended.lifted_at) == (True, False, NOON + HOUR)
    assert lift(warehouse, IDENTITY, "user_id", "u1", NOON + 2 * HOUR).changed is False
    suppress(warehouse, IDENTITY, "user_id", "u1", NOON + 3 * HOUR)
    spans = [(row["suppressed_at"].hour, row["lifted_at"] and row["lifted_at"].hour, row["reason"]) for row in stored(warehouse)]
    assert spans == [(12, 13, "asked"), (15, None, None)]
    in_force = {h: warehouse.count(suppressions_at(warehouse, NOON.replace(hour=h))) for h in (11, 12, 13, 14, 15)}
    assert in_force == {11: 0, 12: 1, 13: 0, 14: 0, 15: 1}


@pytest.mark.parametrize(
    ("kind", "value", "at", "says"),
    [
        ("emial", "ann@example.com", NOON, "no identifier type emial; known: .*email.*owl_card"),
        ("email", "", NOON, "identifies nobody"),
        ("user_id", "u1", NOON - HOUR, "until 2026-01-01T13"),
    ],
)
def test_what_cannot_be_recorded_is_said_without_the_value(
    duckdb_warehouse: Warehouse, kind: str, value: str, at: dt.datetime, says: str
) -> None:
    suppress(duckdb_warehouse, IDENTITY, "user_id", "u1", NOON)
    with pytest.raises(SuppressionError, match="since 2026-01-01T12"):
        lift(duckdb_warehouse, IDENTITY, "user_id", "u1", NOON - HOUR)
    lift(duckdb_warehouse, IDENTITY, "user_id", "u1", NOON + HOUR)
    with pytest.raises(SuppressionError, match=says) as error:
        suppress(duckdb_warehouse, IDENTITY, kind, value, at)
    assert "ann@" not in str(error.value)
    assert len(stored(duckdb_warehouse)) == 1


# -- which messages are refused --------------------------------------------------------------------------------------------


def test_a_space_without_suppressions_has_no_stage(duckdb_warehouse: Warehouse) -> None:
    assert suppression_stage(duckdb_warehouse, IDENTITY) is None
    duckdb_warehouse.ensure(SUPPRESSIONS)
    assert suppression_stage(duckdb_warehouse, IDENTITY) is None


def test_received_time_decides_whenever_the_message_comes(duckdb_warehouse: Warehouse) -> None:
    suppress(duckdb_warehouse, IDENTITY, "user_id", "u1", NOON)
    lift(duckdb_warehouse, IDENTITY, "user_id", "u1", NOON + HOUR)
    suppress(duckdb_warehouse, IDENTITY, "user_id", "u1", NOON + 2 * HOUR)
    late = dt.timedelta(microseconds=1)
    times = [NOON - late, NOON, NOON + HOUR - late, NOON + HOUR, NOON + 2 * HOUR, NOON + 30 * HOUR]
    rows = batch(*({"userId": "u1", "receivedAt": at.isoformat()} for at in times))
    result = stage(duckdb_warehouse).apply(rows)
    assert refused(result) == dict.fromkeys((2, 3, 5, 6), "user_id is suppressed")
    assert result.messages.equals(rows.take([0, 3]))
    assert result.refused.column("reason").unique().to_pylist() == ["suppressed"]


def test_other_messages_of_the_person_are_accepted_and_the_same_text_of_another_type_is_another_identifier(
    duckdb_warehouse: Warehouse,
) -> None:
    suppress(duckdb_warehouse, IDENTITY, "user_id", "u1", NOON)
    rows = batch(
        {"userId": None, "anonymousId": "a1"},
        {"userId": None, "anonymousId": "u1"},
        {"type": "group", "groupId": "u1"},
        {"properties": {"friend": "u1"}, "userId": "U1"},
        {"userId": "u1"},
        {"type": "alias", "previousId": "u1"},
    )
    assert set(refused(stage(duckdb_warehouse).apply(rows))) == {5, 6}


PLACES = [
    ("email", "ann@example.com", {"type": "identify", "traits": {"email": "ann@example.com"}}),
    ("email", "ann@example.com", {"context": {"traits": {"email": "ann@example.com"}}}),
    ("email", "ann@example.com", {"properties": {"email": "ann@example.com"}}),
    ("anonymous_id", "a1", {"userId": None, "anonymousId": "a1"}),
    ("android.id", "d1", {"context": {"device": {"type": "Android", "id": "d1"}}}),
    ("ios.push_token", "t1", {"context": {"device": {"type": "ios", "token": "t1"}}}),
    ("ios.idfa", "t1", {"context": {"device": {"type": "ios", "advertisingId": "t1", "adTrackingEnabled": True}}}),
    ("ga_client_id", "g1", {"context": {"integrations": {"Google Analytics": {"clientId": "g1"}}}}),
    ("owl_card", "123", {"properties": {"cardNumber": 123}}),
    ("owl_card", "123", {"type": "identify", "traits": {"card_number": "123"}}),
    (
        "user_id",
        "u1",
        {
            "userId": None,
            "anonymousId": "a2",
            "context": {"externalIds": [{"id": "u1", "type": "user_id", "collection": "users", "encoding": "none"}]},
        },
    ),
    ("owl_card", "7", {"context": {"externalIds": [{"id": "7", "type": "owl_card", "collection": "users", "encoding": "none"}]}}),
]


def test_an_identifier_is_found_wherever_identity_finds_it(duckdb_warehouse: Warehouse) -> None:
    rows = batch(*(message for _, _, message in PLACES), {})
    duckdb_warehouse.ensure(MESSAGES)
    duckdb_warehouse.append(MESSAGES.ref, rows)
    config = SpaceConfig(name="test", start_date=NOON.date(), identity=IDENTITY)
    graph = DataGraph("v1.0.0", "DB.PEOPLE", "segment:materialized", (), ())
    build_profiles(duckdb_warehouse, config, graph, as_of=NOON + HOUR, loaded_at=NOON, run_id="run")
    held = duckdb_warehouse.rows(identifiers_as_of(duckdb_warehouse, graph, NOON + HOUR), 100)
    named = [(kind, value) for kind, value, _ in PLACES]
    assert set(named) <= {(row["type"], row["value"]) for row in held}
    for kind, value in set(named):
        made = SuppressionStage({kind: {value_hash(value): (Span(NOON.replace(tzinfo=None), None),)}}, IDENTITY.custom)
        expected = {line for line, one in enumerate(named, start=1) if one == (kind, value)}
        assert refused(made.apply(rows)) == dict.fromkeys(expected, f"{kind} is suppressed")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["u1", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["email", "traits", "device", "externalIds", "id", "type", "cardNumber"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
OBJECT = st.dictionaries(
    st.sampled_from(["email", "traits", "device", "externalIds", "cardNumber", "integrations"]), JSON, max_size=4
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.fixed_dictionaries({"properties": OBJECT, "context": OBJECT, "traits": OBJECT}), min_size=1, max_size=6))
def test_the_stage_never_raises_keeps_every_row_and_does_not_depend_on_batches(documents: list[dict[str, Any]]) -> None:
    since = Span(NOON.replace(tzinfo=None), None)
    made = SuppressionStage(
        {kind: {value_hash("u1"): (since,)} for kind in ("email", "android.id", "owl_card", "other")}, IDENTITY.custom
    )
    rows = batch(*documents)
    whole = made.apply(rows)
    assert sorted([*lines(whole.messages), *lines(whole.refused)]) == list(range(1, len(documents) + 1))
    parts = [made.apply(rows.slice(i, 1)) for i in range(rows.num_rows)]
    assert [line for part in parts for line in lines(part.messages)] == lines(whole.messages)
    assert [line for part in parts for line in lines(part.refused)] == lines(whole.refused)


def lines(table: pa.Table) -> list[int]:
    return table["line"].to_pylist()


def test_quarantine_keeps_place_reason_and_id_of_a_suppressed_line_and_no_text(any_room, message) -> None:
    room = any_room
    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    suppress(room.warehouse, room.config.identity, "user_id", "gone", at)
    room.stages = [suppression_stage(room.warehouse, room.config.identity)]
    late = {"receivedAt": "2026-01-02T10:00:00Z", "userId": "gone"}
    broken = message("m5", type="clap", **late)
    del broken["receivedAt"]
    room.land(
        "a.jsonl",
        message("m1", userId="gone"),
        message("m2", **late),
        message("m3", userId="here", receivedAt="2026-01-02T10:00:00Z"),
        message("m4", type="clap", **late),
        broken,
        message("m6", type="clap", userId="here", receivedAt="2026-01-02T10:00:00Z"),
    )
    counts = room.run()
    assert [row[0] for row in room.rows("messages", "message_id")] == ["m1", "m3"]
    found = room.rows("quarantine", "line", "reason", "message_id", "raw")
    assert [row[:3] for row in found] == [
        (2, "suppressed", "m2"),
        (4, "type_unknown", "m4"),
        (5, "type_unknown", "m5"),
        (6, "type_unknown", "m6"),
    ]
    assert [row[3] is None for row in found] == [True, True, True, False]
    assert sum(count.lines for count in counts.values()) == 6
    assert sum(count.quarantined for count in counts.values()) == 4


def test_a_replay_brings_nothing_back_and_keeps_nothing_of_who_is_suppressed(any_room, message) -> None:
    room = any_room
    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    room.land("a.jsonl", message("m1", userId="gone", receivedAt="2026-01-02T10:00:00Z"), message("m2", userId="gone"))
    room.stages = [_RefusesAll()]
    room.run()
    assert room.rows("quarantine", "message_id", "reason") == [("m1", "plan_violation"), ("m2", "plan_violation")]
    suppress(room.warehouse, room.config.identity, "user_id", "gone", at)
    room.stages = [suppression_stage(room.warehouse, room.config.identity)]
    result = replay_quarantine(room.warehouse, room.config, room.stages, Selection(), NOON + 999 * HOUR)
    assert (result.accepted, dict(result.stayed)) == (1, {"suppressed": 1})  # m2 came before
    assert room.rows("quarantine", "message_id", "reason", "raw") == [("m1", "suppressed", None)]
    lift(room.warehouse, room.config.identity, "user_id", "gone", at + 99 * HOUR)
    assert replay_quarantine(room.warehouse, room.config, [], Selection(), NOON + 1000 * HOUR).considered == 0
    assert room.rows("quarantine", "message_id", "reason", "raw") == [("m1", "suppressed", None)]


class _RefusesAll:
    def apply(self, messages: pa.Table) -> StageResult:
        reasons = pa.array(["plan_violation"] * messages.num_rows)
        places = messages.select(["file_hash", "line"])
        out = pa.table([*places.columns, reasons, pa.nulls(messages.num_rows, pa.string())], schema=REFUSED)
        return StageResult(messages.slice(0, 0), out)
