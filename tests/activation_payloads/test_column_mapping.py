"""Batches mapped by column are what the rows are when each is mapped by itself."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.activation_payloads.column_mapping import BatchMapper, fields_of
from cdp_assets.activation_payloads.mapping_kit import reads
from cdp_assets.activation_payloads.model_rows import ModelRows
from cdp_assets.activation_payloads.rules import Target
from cdp_assets.activation_payloads.unit_payload import UnitMapper, row_unit
from cdp_assets.space.models.activations import Activation
from resources.destinations import FieldRule

COLUMNS = ("id", "name", "count", "share", "price", "seen", "born", "on", "tags")
TYPES = (
    pa.string(),
    pa.string(),
    pa.int64(),
    pa.float64(),
    pa.decimal128(38, 9),
    pa.timestamp("us"),
    pa.date32(),
    pa.bool_(),
    pa.list_(pa.string()),
)
KINDS = ("string", "number", "integer", "boolean", "email", "datetime", "date", "any")

texts = st.text(max_size=12) | st.sampled_from(["", "7", "a@x.org", "2026-01-01", "true", 'q"\\', "\x00\n"])
rows = st.tuples(
    texts,
    st.none() | texts,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(width=64),
    st.none() | st.decimals(-(10**20), 10**20, places=9) | st.sampled_from([Decimal("1E-9"), Decimal(0), Decimal(10**18)]),
    st.none()
    | st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2040, 1, 1))
    | st.sampled_from([dt.datetime(1969, 12, 31, 23, 59, 59)]),
    st.none() | st.dates(),
    st.none() | st.booleans(),
    st.none() | st.lists(texts, max_size=2),
    st.none() | st.sampled_from(["person"]),
    st.booleans(),
    st.booleans(),
)
constants = st.sampled_from(
    [
        "warehouse",
        "",
        None,
        7,
        0.5,
        1.0,
        True,
        ["b", {"z": 1, "a": None}],
        {"@literal": "x"},
        {"@path": "$.type"},
        {"@path": "$.nothing"},
    ]
)
made = st.sampled_from(
    [
        {"@template": "{{properties.name}} of {{type}} {{properties.born}}"},
        {"@template": "{{properties.count}}{{{properties.price}}}{{nothing}}"},
        {"@case": {"operator": "upper", "value": {"@path": "$.properties.name"}}},
        {"@if": {"exists": {"@path": "$.properties.share"}, "then": {"@path": "$.properties.seen"}, "else": "never"}},
        {"@if": {"exists": {"@path": "$.properties.name"}, "then": {"@path": "$.properties.on"}}},
        {"@replace": {"pattern": "a", "replacement": "b", "value": {"@path": "$.properties.name"}}},
        {"first": {"@path": "$.properties.name"}, "more": [{"@path": "$.properties.count"}, {"@path": "$.type"}]},
    ]
)
values = st.sampled_from([{"@path": f"$.properties.{name}"} for name in COLUMNS[:8]]) | constants | made
rules = st.builds(FieldRule, st.sampled_from(KINDS), st.booleans(), st.none() | st.integers(1, 6))


def activation(mapping: dict[str, Any], subject: str | None) -> Activation:
    consent = (
        {"subject": {"column": subject, "identifier_type": "email"}, "categories": ["ads"]}
        if subject
        else {"subject": "none", "reason": "no person"}
    )
    return Activation(
        key="a",
        name="A",
        model="m",
        destination="crm",
        trigger={"unit": "row", "when": "upsert"},
        mapping=mapping,
        consent=consent,
        first_run="send",
    )


def batch_of(found: list[tuple[Any, ...]]) -> pa.RecordBatch:
    held = list(zip(*found, strict=True)) or [()] * (len(COLUMNS) + 3)
    arrays = {f"v{place}": pa.array(held[place], kind) for place, kind in enumerate(TYPES)}
    judged = {"subject": pa.string(), "consents": pa.bool_(), "suppressed": pa.bool_()}
    arrays |= {name: pa.array(held[len(COLUMNS) + place], kind) for place, (name, kind) in enumerate(judged.items())}
    return pa.RecordBatch.from_pydict({"row_key": pa.array([str(n) for n in range(len(found))], pa.string()), **arrays})


@settings(max_examples=400, deadline=None)
@given(
    found=st.lists(rows, max_size=6),
    mapping=st.dictionaries(st.sampled_from(["k", "Email", "é", "z", "a b"]), values, min_size=1, max_size=5),
    key_field=st.sampled_from(["k", "Email"]),
    flag=st.sampled_from([None, "flag", "k"]),
    fields=st.none() | st.dictionaries(st.sampled_from(["k", "Email", "é", "z", "*", "more"]), rules, max_size=6),
    subject=st.sampled_from([None, "name", "count"]),
)
def test_a_batch_is_what_its_rows_are(
    found: list[tuple[Any, ...]],
    mapping: dict[str, Any],
    key_field: str,
    flag: str | None,
    fields: dict[str, FieldRule] | None,
    subject: str | None,
) -> None:
    wanted, target = activation(mapping, subject), Target(key_field, flag, fields)
    if subject is None:
        found = [(*row[:9], None, True, False) for row in found]
    else:
        # Who is found has the identifier that it was found by.
        found = [(*row[:9], None if row[COLUMNS.index(subject)] is None else row[9], *row[10:]) for row in found]
    batch, columns = batch_of(found), COLUMNS[:8]
    one = UnitMapper(wanted, target)
    units = [row_unit(wanted, row) for row in ModelRows(0, columns, iter(())).each(batch)]
    expected = [one.map(unit) for unit in units]
    read = {path[1] for path in reads(mapping) or () if path[0] == "properties"}
    mapped = fields_of(mapping, columns, "crm")
    assert mapped is not None
    together = BatchMapper(wanted, target, mapped, columns).map(batch)
    # Whole numbers beyond 64 bits, and nothing else, send a batch the other way.
    beyond = any(
        type(said := row.message["properties"][name]) is int and not -(2**63) <= said < 2**64 for row in units for name in read
    )
    assert (together is None) == beyond
    if together is None:
        return
    names = together.rows.column_names
    assert together.rows.to_pylist() == [{name: unit.row[name] for name in names} for unit in expected]
    # What the warehouse adds is what it would have been.
    for row in (unit.row for unit in expected):
        assert (row["unit"], row["exit_payload"]) == (row["row_key"], row["payload"])
        assert row["path"] is row["entity_id"] is row["occurred_at"] is None
    assert together.verdicts == [unit.verdict for unit in expected]
    assert together.details == [unit.detail for unit in expected]


@pytest.mark.parametrize(
    "value",
    [
        {"@path": "$.properties.name.first"},
        {"@path": "$.properties.gone"},
        {"@path": "$.properties"},
        {"@path": {"@path": "$.properties.name"}},
        {"@template": "{{properties.name.first}}"},
        {"@case": {"operator": "lower", "value": {"@path": "$.properties"}}},
        {"@liquid": "{{ 'now' | date: '%Y' }}"},
        {"first": {"@path": "$.properties.gone"}},
        2**64,
    ],
)
def test_what_is_neither_a_column_nor_a_constant_goes_one_by_one(value: Any) -> None:
    assert fields_of({"k": "x", "Email": value}, COLUMNS, "crm") is None


@pytest.mark.parametrize("mapping", [{"@path": "$.properties.name"}, {"__segment_internal_directive": {"@merge": {}}, "k": "x"}])
def test_a_mapping_that_is_a_directive_goes_one_by_one(mapping: dict[str, Any]) -> None:
    assert fields_of(mapping, COLUMNS, "crm") is None


def test_a_batch_with_a_message_that_may_be_too_large_goes_one_by_one() -> None:
    wanted, target = activation({"k": {"@path": "$.properties.id"}}, None), Target("k", None, None)
    fields = fields_of(wanted.mapping, COLUMNS, "crm")
    assert fields is not None
    mapper = BatchMapper(wanted, target, fields, COLUMNS[:8])
    plain = ("1", "x", 1, 0.5, Decimal(1), dt.datetime(2026, 1, 1), dt.date(2026, 1, 1), True, [], None, True, False)
    small = mapper.map(batch_of([plain]))
    assert small is not None and small.verdicts == ["ok"]
    assert mapper.map(batch_of([plain, ("2", "x" * 6_000, *plain[2:])])) is None
    # Nor is anything known of the size of a list.
    assert BatchMapper(wanted, target, fields, COLUMNS).map(batch_of([plain])) is None
