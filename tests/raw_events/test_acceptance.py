"""The acceptance examples of landing and event tables, by their numbers, and what stages may do."""

from __future__ import annotations

import datetime as dt
import json

import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events.build import Counts
from cdp_assets.raw_events.parse import Message, parse_line
from cdp_assets.raw_events.stages import REFUSED, VIOLATION_BATCH, StageResult
from resources.warehouse import TableRef

DAY_1, DAY_2 = "2026-01-01", "2026-01-02"


def test_ae5_1_a_message_id_counts_once_whatever_its_age(room, message) -> None:
    room.land("a.jsonl", message("m1", f"{DAY_1}T10:00:00Z"), message("m1", f"{DAY_1}T11:00:00Z"))
    room.run()
    room.land("b.jsonl", message("m1", f"{DAY_2}T17:00:00Z"))
    room.run(DAY_2)
    assert room.rows("messages", "received_at") == [(dt.datetime(2026, 1, 1, 10),)]
    assert len(room.rows("duplicates", "line")) == 2


def test_ae5_2_a_property_with_a_reserved_name_is_discarded(room, message) -> None:
    room.land(
        "a.jsonl", message("m1", userId="real", properties={"user_id": "other", "userId": "third", "context_x": 1, "ok": 1})
    )
    room.run()
    room.event_tables()
    assert room.rows("card_used", "user_id", "ok", schema="events") == [("real", 1)]
    assert "context_x" not in room.warehouse.schema(TableRef("events", "card_used"))


def test_ae5_3_objects_flatten_and_arrays_are_text(any_room, message) -> None:
    context = {"page": {"url": "/x"}}
    any_room.land(
        "a.jsonl",
        message("m1", properties={"a": {"b": 1}, "c": [1, 2], "when": "2026-01-01T02:00:00+02:00"}, context=context),
        message("m2", type="identify", event=None, traits={"firstName": "A", "vip": True}),
        message("m3", type="page", event=None, name="Home", properties={"name": "other", "width": 2.5}),
    )
    any_room.run()
    result = any_room.event_tables()
    assert result.rows == {"card_used": 1, "identifies": 1, "pages": 1, "tracks": 1}
    assert result.conflicts == {}
    assert any_room.rows("card_used", "id", "event", "event_text", "a_b", "c", "when", "context_page_url", schema="events") == [
        ("m1", "card_used", "Card Used", 1, "[1,2]", dt.datetime(2026, 1, 1), "/x")
    ]
    assert any_room.rows("identifies", "id", "first_name", "vip", schema="events") == [("m2", "A", True)]
    assert any_room.rows("pages", "name", "width", schema="events") == [("Home", 2.5)]
    assert "a_b" not in any_room.warehouse.schema(TableRef("events", "tracks"))
    assert any_room.event_tables() == result


def test_ae5_4_a_later_value_of_another_type_never_fails_and_is_counted(any_room, message) -> None:
    values = [3, 3.7, "x", 4.0, 10**17, True, None]
    any_room.land(
        "a.jsonl",
        *(
            message(f"m{n}", f"2026-01-01T10:00:0{n}Z", properties={"n": value, "flag": n == 0 or "maybe", "late": value})
            for n, value in enumerate(values)
        ),
    )
    any_room.run()
    result = any_room.event_tables()
    assert any_room.rows("card_used", "id", "n", schema="events") == [
        ("m0", 3),
        ("m1", 3),
        ("m2", None),
        ("m3", 4),
        ("m4", 10**17),
        ("m5", None),
        ("m6", None),
    ]
    assert result.conflicts == {"card_used.n": 3, "card_used.flag": 6, "card_used.late": 3}


def test_ae5_5_the_clients_clock_counts_only_for_distances(message) -> None:
    ahead = message(originalTimestamp="2026-01-02T10:00:00Z", sentAt="2026-01-02T10:00:01Z", timestamp="2020-01-01T00:00:00Z")
    parsed = parse_line(json.dumps(ahead).encode())
    assert isinstance(parsed, Message) and parsed.timestamp == dt.datetime(2026, 1, 1, 9, 59, 59)


class NoSecrets:
    """Refuses events named Secret, notes a violation of each, and gives all others another name."""

    def apply(self, messages: pa.Table) -> StageResult:
        secret = pc.equal(messages["event"], "Secret")
        bad, good = messages.filter(secret), messages.filter(pc.invert(secret))
        refused = pa.table([bad["file_hash"], bad["line"], ["blocked_event"] * len(bad), ["event"] * len(bad)], schema=REFUSED)
        known = {name: bad[name] for name in VIOLATION_BATCH.names if name in bad.column_names}
        columns = [known.get(field.name, pa.nulls(len(bad), field.type)) for field in VIOLATION_BATCH]
        violations = pa.table(columns, schema=VIOLATION_BATCH)
        place = good.column_names.index("name")
        return StageResult(good.set_column(place, "name", pa.array(["seen"] * len(good), pa.string())), refused, violations)


def test_a_stage_refuses_changes_and_notes(room, message) -> None:
    room.stages = [NoSecrets()]
    room.land("a.jsonl", message("m1"), message("m2", event="Secret"), message("m3"))
    assert room.run() == {DAY_1: Counts(3, 2, 0, 1), DAY_2: Counts(), "2026-01-03": Counts()}
    assert room.rows("messages", "message_id", "name") == [("m1", "seen"), ("m3", "seen")]
    raw = json.dumps(message("m2", event="Secret"))
    assert room.rows("quarantine", "line", "reason", "detail", "message_id", "raw") == [(2, "blocked_event", "event", "m2", raw)]
    assert room.rows("violations", "message_id", "partition_key", "line") == [("m2", DAY_1, 2)]
