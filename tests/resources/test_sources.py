"""The readers of sources against their twins: to the end and on, page by page, and clear words when a source cannot be read."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from pathlib import Path

import pytest

from cdp_assets.pulled_sources.take_in import take_in
from cdp_assets.raw_events.suppression import suppressed_among
from resources.destinations import Action, Operation
from resources.destinations.registry import connect
from resources.sandbox.satismeter import PROJECT, answer_surveys
from resources.sandbox.store import Store
from resources.sources import SourceError
from resources.sources.registry import open_reader
from resources.warehouse import Warehouse
from tests.pulled_sources.test_take_in import LEADS, NPS, landed, rows
from tests.resources.conftest import Twins


def put(twins: Twins, *numbers: int) -> None:
    operations = [
        Operation(str(n), "enter", f"p{n}@example.com", {"messageId": f"m{n}", "user": {"email": f"p{n}@example.com"}}, f"x{n}")
        for n in numbers
    ]
    with closing(connect("kinesis", twins.connection("kinesis"))) as destination:
        outcomes = destination.deliver(Action("put", {"stream": "leads", "key_field": "email"}), operations)
    assert {outcome.status for outcome in outcomes} == {"delivered"}


def test_a_kinesis_stream_is_read_to_its_end_and_on(duckdb_warehouse: Warehouse, twins: Twins, tmp_path: Path) -> None:
    put(twins, *range(25))
    with closing(open_reader("kinesis", twins.connection("kinesis", stream="leads"))) as reader:
        assert len(reader.shards()) == 2
        assert take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among).records == 25
        put(twins, 30, 31)
        assert take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among).records == 2
        assert take_in(duckdb_warehouse, "leads", LEADS, reader, tmp_path, suppressed_among).records == 0
    assert {row["message_id"] for row in rows(duckdb_warehouse)} == {f"m{n}" for n in (*range(25), 30, 31)}


def answered(twins: Twins, *numbers: int) -> None:
    found = [
        {"id": f"r{n}", "created": f"2026-03-01T{n // 60:02}:{n % 60:02}:00.000Z", "rating": n % 11, "user": {"userId": f"u{n}"}}
        for n in numbers
    ]
    with closing(Store(twins.folder)) as store:
        answer_surveys(store, found, twins.clock())


def test_satismeter_is_read_page_by_page_and_late_responses_are_found(
    duckdb_warehouse: Warehouse,
    twins: Twins,
    tmp_path: Path,
) -> None:
    answered(twins, *(n for n in range(250) if n != 240))
    with closing(open_reader("satismeter", twins.connection("satismeter", project=PROJECT))) as reader:
        first = take_in(duckdb_warehouse, "nps", NPS, reader, tmp_path, suppressed_among)
        assert (first.new, first.events) == (249, 249)
        answered(twins, 240, 250)  # one became visible after later ones
        second = take_in(duckdb_warehouse, "nps", NPS, reader, tmp_path, suppressed_among)
        assert (second.new, second.events) == (2, 2)
    assert len(rows(duckdb_warehouse, NPS, "nps")) == 251
    assert len(landed(tmp_path)) == len(set(landed(tmp_path))) == 251
    # Responses are older than thirty days; without a start the API would have said nothing.
    assert twins.clock() - dt.datetime(2026, 3, 1, tzinfo=dt.UTC) > dt.timedelta(days=30)


@pytest.mark.parametrize(
    ("kind", "source", "fault", "said"),
    [
        ("satismeter", {"project": PROJECT}, "500", "satismeter answers 500"),
        ("satismeter", {"project": PROJECT}, "expired_token", "satismeter answers auth:401"),
        ("satismeter", {"project": PROJECT}, "commit_then_drop", "satismeter answers connection_lost"),
        ("kinesis", {"stream": "leads"}, "429", "kinesis answers ProvisionedThroughputExceededException"),
        ("kinesis", {"stream": "leads"}, "commit_then_drop", "kinesis does not answer"),
    ],
)
def test_a_source_that_cannot_be_read_says_so_and_names_no_place(
    twins: Twins,
    kind: str,
    source: dict[str, str],
    fault: str,
    said: str,
) -> None:
    twins.fault(kind, kind=fault)
    with closing(open_reader(kind, twins.connection(kind, **source))) as reader, pytest.raises(SourceError, match=said) as error:
        reader.read(reader.shards()[0], None, 10)
    assert "127.0.0.1" not in str(error.value)
