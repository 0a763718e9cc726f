"""Sources are read from where they stood: nothing twice, nothing lost, whatever dies in between; what fits no row is kept with its reason."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cdp_assets.pulled_sources import take_in as room
from cdp_assets.pulled_sources.tables import CHECKPOINTS, UNREADABLE, table_of
from cdp_assets.pulled_sources.take_in import positions_of, take_in
from cdp_assets.raw_events.suppression import lift, suppress, suppressed_among
from cdp_assets.space.models.settings import IdentitySettings
from cdp_assets.space.pulled import PulledSource
from resources.sources import Page, Pulled
from resources.warehouse import Warehouse

LEADS = PulledSource.model_validate(
    {
        "type": "kinesis",
        "key": "message_id",
        "columns": {"message_id": "string", "email": "string", "visits": "number", "at": "timestamp", "vip": "boolean"},
        "fields": {"message_id": "messageId", "email": "user.email"},
    }
)
NPS = PulledSource.model_validate(
    {
        "type": "satismeter",
        "key": "response_id",
        "columns": {"response_id": "string", "user_id": "string", "rating": "number", "responded_at": "timestamp"},
        "fields": {"response_id": "id", "user_id": "user.userId", "responded_at": "created"},
        "event": {"name": "NPS Response Submitted", "user_id": "user_id", "timestamp": "responded_at", "properties": ["rating"]},
    }
)


class Listed:
    """A reader of records that a test holds, by shard."""

    def __init__(self, shards: dict[str, list[Any]], page: int = 2) -> None:
        self.held, self.page, self.reads = shards, page, 0

    def shards(self) -> list[str]:
        return sorted(self.held)

    def read(self, shard: str, position: str | None, limit: int) -> Page:
        self.reads += 1
        start = int(position or 0)
        found = self.held[shard][start : start + self.page]
        records = [
            Pulled(str(start + n), item if isinstance(item, dict) else None, str(item)) for n, item in enumerate(found, start=1)
        ]
        after = str(start + len(found)) if found else position or ""
        return Page(records, after, more=start + len(found) < len(self.held[shard]))

    def close(self) -> None: ...


def lead(n: int, **other: Any) -> dict[str, Any]:
    return {"messageId": f"m{n}", "user": {"email": f"p{n}@example.com"}, "visits": n, "at": "2026-10-01T10:00:00+02:00", **other}


def rows(warehouse: Warehouse, source: PulledSource = LEADS, key: str = "leads") -> list[dict[str, Any]]:
    table = warehouse.table(table_of(key, source).ref)
    return warehouse.arrow(table.order_by(source.key)).to_pylist()


def unreadable(warehouse: Warehouse) -> list[tuple[str, str]]:
    table = warehouse.table(UNREADABLE.ref)
    return [(row["reason"], row["record"]) for row in warehouse.arrow(table.order_by("shard", "position")).to_pylist()]


def test_records_become_typed_rows_and_the_checkpoint_says_how_far(duckdb_warehouse: Warehouse, tmp_path: Path) -> None:
    reader = Listed({"a": [lead(1), lead(2, vip=True), lead(3)], "b": [lead(4)], "c": []})
    taken = take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among)
    assert (taken.records, taken.new, taken.unreadable, taken.events) == (4, 4, 0, 0)
    assert positions_of(duckdb_warehouse, "leads") == taken.positions == {"a": "3", "b": "1"}
    found = rows(duckdb_warehouse)
    assert [(row["message_id"], row["email"], row["visits"], row["vip"]) for row in found] == [
        ("m1", "p1@example.com", 1.0, None),
        ("m2", "p2@example.com", 2.0, True),
        ("m3", "p3@example.com", 3.0, None),
        ("m4", "p4@example.com", 4.0, None),
    ]
    assert {row["at"] for row in found} == {dt.datetime(2026, 10, 1, 8)}
    reader.held["a"].append(lead(5))
    again = take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among)
    assert (again.records, again.new) == (1, 1)
    counts = duckdb_warehouse.arrow(duckdb_warehouse.table(CHECKPOINTS.ref)).to_pylist()
    assert {row["shard"]: row["records"] for row in counts} == {"a": 4, "b": 1}
    assert list(tmp_path.rglob("*.gz")) == []


def test_a_record_with_a_known_key_takes_the_place_of_the_older_one(duckdb_warehouse: Warehouse, tmp_path: Path) -> None:
    reader = Listed({"a": [lead(1), lead(1, visits=9), lead(2)]})
    take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among)
    reader.held["a"].append(lead(2, visits=7))
    taken = take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among)
    assert (taken.records, taken.new) == (1, 0)
    assert [(row["message_id"], row["visits"]) for row in rows(duckdb_warehouse)] == [("m1", 9.0), ("m2", 7.0)]


def test_what_fits_no_row_is_kept_with_its_reason(duckdb_warehouse: Warehouse, tmp_path: Path) -> None:
    bad = [
        "no json",
        lead(1, visits="many"),
        {"user": {"email": "x@y.z"}},
        lead(2, at="yesterday"),
        lead(3, at="2026-10-01"),
        lead(4),
    ]
    taken = take_in(duckdb_warehouse, "leads", LEADS, Listed({"a": bad}, page=10), tmp_path, suppressed_among)
    assert (taken.records, taken.unreadable, len(rows(duckdb_warehouse))) == (6, 5, 1)
    found = unreadable(duckdb_warehouse)
    assert [reason for reason, _ in found] == [
        "no JSON object",
        "visits is no number",
        "message_id is missing",
        "at is no timestamp",
        "at is no timestamp",
    ]
    assert found[0][1] == "no json"
    assert json.loads(found[1][1])["visits"] == "many"


class Dies(Exception):
    """The process ends here."""


@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    page=st.integers(1, 4),
    deaths=st.lists(st.integers(1, 12), max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_a_reading_that_dies_anywhere_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], page: int, deaths: list[int]
) -> None:
    from resources.warehouse.duckdb import open_duckdb

    folder = tmp_path_factory.mktemp("dies")
    shards = {
        f"s{n}": [
            {"id": f"{n}-{k}", "user": {"userId": f"u{k}"}, "rating": k, "created": f"2026-10-01T10:00:{k:02}.000Z"}
            for k in range(count)
        ]
        for n, count in enumerate(counts)
    }
    with open_duckdb(folder / "test.duckdb") as warehouse:
        for after in [*deaths, None]:
            steps = iter(range(1, 10_000))

            def dying(real: Any, after: int | None = after, steps: Iterator[int] = steps) -> Any:
                def call(*given: Any, **named: Any) -> Any:
                    if next(steps) == after:
                        raise Dies
                    return real(*given, **named)

                return call

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(room, "_land", dying(room._land))
                patch.setattr(type(warehouse), "delete", dying(type(warehouse).delete))
                patch.setattr(type(warehouse), "append", dying(type(warehouse).append))
                try:
                    take_in(warehouse, "nps", NPS, Listed(shards, page), folder / "landing", suppressed_among)
                except Dies:
                    continue
        expected = sorted(item["id"] for items in shards.values() for item in items)
        assert [row["response_id"] for row in rows(warehouse, NPS, "nps")] == expected
        table = warehouse.table(CHECKPOINTS.ref)
        counted = {row["shard"]: row["records"] for row in warehouse.arrow(table).to_pylist()}
        assert counted == {name: len(items) for name, items in shards.items() if items}
    assert sorted(set(landed(folder / "landing"))) == sorted(f"nps-{name}" for name in expected)


def landed(folder: Path) -> list[str]:
    """Message ids of all landing files."""
    return [message["messageId"] for message in messages(folder)]


def messages(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.rglob("*.gz")) for line in gzip.open(path, "rt")]


MONDAY = dt.datetime(2026, 10, 5, tzinfo=dt.UTC)


def test_of_who_is_suppressed_nothing_is_taken_in_until_the_undo(duckdb_warehouse: Warehouse, tmp_path: Path) -> None:
    suppress(duckdb_warehouse, IdentitySettings(), "email", "p2@example.com", MONDAY)
    reader = Listed({"a": [lead(1), lead(2), lead(2, visits="many"), lead(3)]})
    taken = take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among)
    assert (taken.records, taken.new, taken.unreadable, taken.suppressed) == (4, 2, 0, 2)
    assert [row["message_id"] for row in rows(duckdb_warehouse)] == ["m1", "m3"]
    assert unreadable(duckdb_warehouse) == [("suppressed", None)] * 2
    assert taken.positions == {"a": "4"}

    lift(duckdb_warehouse, IdentitySettings(), "email", "p2@example.com", MONDAY + dt.timedelta(days=1))
    reader.held["a"].append(lead(2, visits=5))
    again = take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among)
    assert (again.new, again.suppressed) == (1, 0)
    assert [row["message_id"] for row in rows(duckdb_warehouse)] == ["m1", "m2", "m3"]


@pytest.mark.parametrize(
    ("kind", "value", "barred"),
    [
        pytest.param("user_id", "u1", True, id="by the column of the events' user ids"),
        pytest.param("email", "u1", False, id="another type of identifier"),
        pytest.param("user_id", "r1", False, id="a column that holds none"),
    ],
)
def test_a_suppressed_record_is_no_event_either(
    duckdb_warehouse: Warehouse, tmp_path: Path, kind: str, value: str, barred: bool
) -> None:
    plain = NPS.model_dump_json(exclude_none=True).replace('"user_id":"string"', '"who":"string"')
    source = PulledSource.model_validate_json(
        plain.replace('"user_id":"user_id"', '"user_id":"who"').replace('"user_id":"user', '"who":"user')
    )
    suppress(duckdb_warehouse, IdentitySettings(), kind, value, MONDAY)
    response = {"id": "r1", "user": {"userId": "u1"}, "rating": 9, "created": "2026-10-01T10:00:00Z"}
    taken = take_in(duckdb_warehouse, "nps", source, Listed({"a": [response]}), tmp_path, suppressed_among)
    expected = (1, 0, 0) if barred else (0, 1, 1)
    assert (taken.suppressed, taken.events, len(rows(duckdb_warehouse, source, "nps"))) == expected


def test_a_page_that_is_read_again_writes_the_same_file(duckdb_warehouse: Warehouse, tmp_path: Path) -> None:
    response = {"id": "r1", "user": {"userId": "u1"}, "rating": 3, "created": "2026-10-01T10:00:00.000Z"}
    reader = Listed({"responses": [response, {**response, "id": "r2", "user": {}}]})
    first = take_in(duckdb_warehouse, "nps", NPS, reader, tmp_path, suppressed_among)
    assert (first.new, first.events) == (2, 1)
    (file,) = tmp_path.rglob("*.gz")
    content = file.read_bytes()
    duckdb_warehouse.delete(CHECKPOINTS.ref, [])
    duckdb_warehouse.delete(table_of("nps", NPS).ref, [])
    take_in(duckdb_warehouse, "nps", NPS, reader, tmp_path, suppressed_among)
    assert list(tmp_path.rglob("*.gz")) == [file]
    assert file.read_bytes() == content
    assert messages(tmp_path) == [
        {
            "type": "track",
            "event": "NPS Response Submitted",
            "messageId": "nps-r1",
            "userId": "u1",
            "timestamp": "2026-10-01T10:00:00.000Z",
            "receivedAt": "2026-10-01T10:00:00.000Z",
            "properties": {"rating": 3},
            "context": {"library": {"name": "cdp", "version": "nps"}},
        }
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "nothing"}, "'nothing' is not among 'columns'"),
        ({"type": "satismeter", "poll": "continuously"}, "only a stream can be looked at continuously"),
        ({"columns": {**LEADS.columns, "shard": "string"}}, "has a column shard already"),
        ({"event": {"name": "X", "timestamp": "at"}}, "name the column that says who did it"),
        ({"event": {"name": "X", "user_id": "email", "timestamp": "visits"}}, "'visits' is no timestamp"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PulledSource.model_validate({**LEADS.model_dump(exclude_none=True), **change})
