"""Event tables: Segment's warehouse schema."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from cdp_assets.raw_events.build import build_window
from cdp_assets.raw_events.columns import event_slug, snake_case, value_type
from cdp_assets.raw_events.event_tables import build_event_tables
from cdp_assets.raw_events.filters import Transformations
from cdp_assets.raw_events.intake import take_in
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.time import windows
from cdp_assets.space.transformations import Transformation
from cdp_assets.space.transforming import transformers
from tests.raw_events.planned import enforcing, of_properties, rule, stage_of


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Card Withdrawal", "card_withdrawal"),
        ("cardNumber", "card_number"),
        ("HTTPServer", "http_server"),
        ("  a--b  ", "a_b"),
        ("2nd", "_2nd"),
        ("Příjem", "prijem"),
    ],
)
def test_names_become_snake_case(name: str, slug: str) -> None:
    assert snake_case(name) == slug


def test_a_name_without_letters_still_has_a_column_and_no_event_takes_the_table_of_a_call() -> None:
    assert snake_case("Ж").startswith("_") and snake_case("Ж") != snake_case("Б")
    assert event_slug("Tracks") == "_tracks"


def test_a_type_is_that_of_the_value_and_only_a_zoned_time_is_a_time() -> None:
    values = [True, 3, 3.5, "x", [1], "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01", 2**70]
    types = ["boolean", "int64", "float64", "string", "string", "timestamp", "string", "string", "float64"]
    assert [value_type(value) for value in values] == types


def test_columns_are_added_as_they_appear_and_keep_their_first_type(room, message) -> None:
    room.land("a.jsonl", message("m1", properties={"n": 1, "nothing": None}))
    room.run()
    room.event_tables()
    room.land("b.jsonl", message("m2", "2026-01-02T10:00:00Z", properties={"n": "text", "more": "x", "nothing": 1.5}))
    room.run("2026-01-02")
    assert room.event_tables("2026-01-02").conflicts == {"card_used.n": 1}
    assert room.rows("card_used", "id", "n", "more", "nothing", schema="events") == [
        ("m1", 1, None, None),
        ("m2", None, "x", 1.5),
    ]


def test_the_first_value_is_that_of_the_earliest_file_whatever_its_name(room, message) -> None:
    room.land("a.jsonl", message("m2", "2026-01-02T10:00:00Z", properties={"n": "text"}))
    room.land("b.jsonl", message("m1", "2026-01-01T10:00:00Z", properties={"n": 1}))
    room.run()
    assert room.rows("event_columns", "table_name", "column_name", "column_type", "path") == [
        ("card_used", "n", "int64", '["properties", "n"]')
    ]


def test_columns_are_those_of_the_messages_that_were_accepted_as_the_stages_left_them(room, message) -> None:
    plan = rule(key="Card Used", **of_properties(properties={"n": {"type": "integer"}, "old": {"type": "string"}}))
    options = enforcing(allow_properties_on_violations=False, allow_unplanned_events=False)
    rename = Transformation.model_validate(
        {"key": "r", "name": "r", "if": "type = 'track'", "rename": {"properties.old": "properties.new"}}
    )
    room.stages = [stage_of(plan, **options), Transformations(transformers({"r": rename}, None, None))]
    room.land(
        "a.jsonl",
        message("m1", event="Card Lost", properties={"refused": True}),
        message("m2", properties={"n": "omitted"}),
        message("m3", "2025-12-31T10:00:00Z", properties={"too_early": 1}),
        message("m4", properties={"n": 1, "old": "x"}, context={"page": {"path": "/"}}),
        message("m5", properties={"n": 2, "old": "y"}, context={"page": {"path": "/b"}}),
    )
    room.run()
    columns = {row[0]: row[1] for row in room.rows("event_columns", "column_name", "column_type") if row}
    of_plan = {name for name in columns if name.startswith("context_protocols")}
    assert of_plan
    assert {name: kind for name, kind in columns.items() if name not in of_plan} == {
        "n": "int64",
        "new": "string",
        "context_page_path": "string",
    }
    assert {row[0] for row in room.rows("event_columns", "table_name")} == {"tracks", "card_used"}


def test_a_message_that_became_a_duplicate_leaves_its_event_table(room, message) -> None:
    room.land("a.jsonl", message("m1", "2026-01-03T10:00:00Z", event="Only Once"))
    room.run()
    room.event_tables()
    room.land("late.jsonl", message("m1", "2026-01-01T10:00:00Z"))
    room.run("2026-01-01")
    room.event_tables(*sorted(room.affected))
    assert room.rows("only_once", "id", schema="events") == []
    assert room.rows("card_used", "id", schema="events") == [("m1",)]


@pytest.mark.czech_bank
@pytest.mark.czech_bank
def test_czech_bank_is_accepted_whole(duckdb_warehouse, czech_bank_data: Path) -> None:
    config = SpaceConfig(name="czech_bank", start_date=dt.date(1993, 1, 1), partitions="monthly")
    as_of = dt.datetime(1999, 1, 1, tzinfo=dt.UTC)
    take_in(duckdb_warehouse, config, czech_bank_data / "events", as_of)
    months = windows(config, as_of)
    counts = build_window(duckdb_warehouse, config, months, as_of).values()
    assert (sum(c.lines for c in counts), sum(c.accepted for c in counts)) == (84_671, 84_671)
    assert (sum(c.duplicates for c in counts), sum(c.quarantined for c in counts)) == (0, 0)
    tables = build_event_tables(duckdb_warehouse, config, months, as_of)
    assert (tables.rows["tracks"], tables.rows["identifies"], tables.rows["card_withdrawal"]) == (79_302, 5_369, 66)
    assert tables.conflicts == {}
