"""Every rule of every schema fails on a table that breaks it, on both engines, and says how many rows and which."""

from __future__ import annotations

import ast
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.datatypes as ibis_types
import pandera.ibis as pa
import pyarrow as arrow
import pytest
from pandera.api.parsers import Parser

from cdp_assets import quality
from cdp_assets.computed_traits import schemas as traits
from cdp_assets.computed_traits.tables import TRAIT_VALUES
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.linked_audiences import schemas as audiences
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.quality import RowRule, RuleResult, UnsupportedRuleError, evaluate, evaluate_partitions, not_in, schema_of
from cdp_assets.raw_events import schemas as raw
from cdp_assets.raw_events.tables import DUPLICATES, MESSAGES, QUARANTINE, SUPPRESSIONS, VIOLATIONS
from cdp_assets.unified_profiles import schemas as profiles
from cdp_assets.unified_profiles import tables as profile_tables
from resources.warehouse import TableRef, TableSpec, Warehouse

T0 = dt.datetime(2026, 1, 1)
HOUR = dt.timedelta(hours=1)


def put(warehouse: Warehouse, spec: TableSpec, rows: Sequence[dict[str, Any]]) -> Any:
    """The table with these rows; what a row does not say is NULL."""
    warehouse.ensure(spec)
    target = spec.schema.to_pyarrow()
    if rows:
        warehouse.append(spec.ref, arrow.table({f.name: arrow.array([r.get(f.name) for r in rows], f.type) for f in target}))
    return warehouse.table(spec.ref)


def broken(results: Sequence[RuleResult]) -> dict[str, int]:
    """Failing rows by rule, of the rules that did not pass."""
    return {result.rule: result.failing for result in results if not result.passed}


# -- a schema with every kind of rule --------------------------------------------------------------------------------------

THINGS = TableSpec(
    TableRef("quality", "things"),
    {"id": "string", "kind": "string", "n": "int64", "share": "float64", "at": "timestamp", "email": "string"},
    "things",
    subject="id",
    keys=("id",),
    personal=("email",),
)
RULES = {
    "kind": [
        pa.Check.isin(["a1", "b2"]),
        pa.Check.notin(["zz"]),
        pa.Check.str_matches(r"[a-y]\d|b2"),
        pa.Check.str_contains("[12]"),
        pa.Check.str_startswith("a"),
        pa.Check.str_endswith("1"),
        pa.Check.str_length(2, 3),
    ],
    "n": [
        pa.Check.ge(1),
        pa.Check.gt(0),
        pa.Check.le(10),
        pa.Check.lt(11),
        pa.Check.in_range(0, 11, include_min=False),
        pa.Check.ne(13),
    ],
    "share": [pa.Check.eq(0.5)],
    "at": [pa.Check.ge(T0)],
}
THINGS_SCHEMA = schema_of(THINGS, not_null=("kind",), checks=RULES)
GOOD = {"id": "1", "kind": "a1", "n": 5, "share": 0.5, "at": T0, "email": "ada@example.com"}


def test_every_built_in_check_counts_the_rows_that_break_it(warehouse: Warehouse) -> None:
    rows = [
        GOOD,
        {**GOOD, "id": "2", "kind": "zz", "n": 13, "share": 0.25, "at": T0 - HOUR},
        {**GOOD, "id": "3", "kind": "xa1long", "n": 0},
        {**GOOD, "id": "4", "n": None, "share": None, "at": None},
        {**GOOD, "id": "4"},
        {"id": None, "kind": None},
    ]
    results = evaluate(warehouse, THINGS_SCHEMA, put(warehouse, THINGS, rows))
    assert broken(results) == {
        "id.not_null": 1,
        "kind.not_null": 1,
        "kind.isin": 2,
        "kind.notin": 1,
        "kind.str_matches": 2,
        "kind.str_contains": 1,
        "kind.str_startswith": 2,
        "kind.str_endswith": 2,
        "kind.str_length": 1,
        "n.greater_than_or_equal_to": 1,
        "n.greater_than": 1,
        "n.less_than_or_equal_to": 1,
        "n.less_than": 1,
        "n.in_range": 2,
        "n.not_equal_to": 1,
        "share.equal_to": 1,
        "at.greater_than_or_equal_to": 1,
        "unique(id)": 2,
    }
    assert {result.rows for result in results} == {6}


def test_a_null_breaks_a_value_rule_only_when_the_rule_says_so(duckdb_warehouse: Warehouse) -> None:
    spec = TableSpec(TableRef("quality", "nulls"), {"a": "string"}, "nulls", subject=None)
    table = put(duckdb_warehouse, spec, [{"a": None}])
    assert broken(evaluate(duckdb_warehouse, schema_of(spec, checks={"a": pa.Check.isin(["x"])}), table)) == {}
    strict = schema_of(spec, checks={"a": pa.Check.isin(["x"], ignore_na=False)})
    assert broken(evaluate(duckdb_warehouse, strict, table)) == {"a.isin": 1}


def test_an_empty_table_passes_value_rules_but_not_those_on_columns_and_types(warehouse: Warehouse) -> None:
    table = put(warehouse, THINGS, [])
    results = evaluate(warehouse, THINGS_SCHEMA, table)
    assert broken(results) == {}
    assert {result.rows for result in results} == {0}
    other = pa.DataFrameSchema(
        {
            "id": pa.Column(ibis.dtype("int64"), pa.Check.ge(1)),
            "absent": pa.Column(ibis.dtype("string"), pa.Check.isin(["a"])),
            "optional": pa.Column(ibis.dtype("string"), required=False),
            "at": pa.Column(ibis_types.Timestamp(scale=3)),
        },
        name="other",
        strict=True,
        unique=["id", "absent"],
    )
    rule = RowRule("known", "", _unknown)
    assert broken(evaluate(warehouse, other, table.select("id", "at", "kind"), extra_rules=[rule])) == {
        "known": 1,
        "id.type": 1,
        "absent.present": 1,
        "no_other_columns": 1,
        "unique(id, absent)": 1,
    }


@pytest.mark.parametrize(
    ("feature", "schema"),
    [
        ("unique=True", pa.DataFrameSchema({"a": pa.Column(unique=True)})),
        ("coerce=True", pa.DataFrameSchema({"a": pa.Column(ibis.dtype("string"), coerce=True)})),
        ("coerce=True", pa.DataFrameSchema({"a": pa.Column(ibis.dtype("string"))}, coerce=True)),
        ("regex=True", pa.DataFrameSchema({"a.*": pa.Column(regex=True)})),
        ("default='x'", pa.DataFrameSchema({"a": pa.Column(ibis.dtype("string"), default="x")})),
        ("ordered=True", pa.DataFrameSchema({"a": pa.Column()}, ordered=True)),
        ("strict='filter'", pa.DataFrameSchema({"a": pa.Column()}, strict="filter")),
        ("the check <lambda>", pa.DataFrameSchema({"a": pa.Column(checks=pa.Check(lambda data: data.table.a > 1))})),
        ("the check isin", pa.DataFrameSchema({"a": pa.Column(checks=pa.Check(lambda data: data.table.a > 1, name="isin"))})),
        ("the check unique_values_eq", pa.DataFrameSchema({"a": pa.Column(checks=pa.Check.unique_values_eq(["x"]))})),
        ("raise_warning", pa.DataFrameSchema({"a": pa.Column(checks=pa.Check.isin(["x"], raise_warning=True))})),
        ("the frame-wide check isin", pa.DataFrameSchema({"a": pa.Column()}, checks=pa.Check.isin(["x"]))),
        ("a parser", pa.DataFrameSchema({"a": pa.Column()}, parsers=Parser(lambda data: data))),
        ("drop_invalid_rows=True", pa.DataFrameSchema({"a": pa.Column()}, drop_invalid_rows=True)),
    ],
)
def test_a_feature_that_is_not_enforced_is_refused(duckdb_warehouse: Warehouse, feature: str, schema: pa.DataFrameSchema) -> None:
    table = put(duckdb_warehouse, TableSpec(TableRef("quality", "refused"), {"a": "string"}, "", subject=None), [{"a": "x"}])
    with pytest.raises(UnsupportedRuleError) as refused:
        evaluate(duckdb_warehouse, schema, table, name="mine")
    assert "schema mine" in str(refused.value)
    assert feature in str(refused.value)


def test_a_schema_cannot_name_a_column_that_its_table_does_not_have() -> None:
    with pytest.raises(ValueError, match="no column colour, nothing"):
        schema_of(THINGS, not_null=("nothing",), checks={"colour": pa.Check.isin(["red"])})


# -- rules across tables ---------------------------------------------------------------------------------------------------


OTHERS = TableSpec(TableRef("quality", "others"), {"id": "string"}, "others", subject=None)


def _unknown(warehouse: Warehouse, table: Any) -> Any:
    return not_in(table, "id", warehouse.table(OTHERS.ref), "id")


def test_a_null_on_the_other_side_lets_nothing_through(warehouse: Warehouse) -> None:
    table = put(warehouse, THINGS, [{**GOOD, "id": "1"}, {**GOOD, "id": "2"}, {**GOOD, "id": None}])
    put(warehouse, OTHERS, [{"id": "1"}, {"id": None}, {"id": "1"}])
    loose = pa.DataFrameSchema({"id": pa.Column(nullable=True)}, name="loose")
    (result,) = [r for r in evaluate(warehouse, loose, table, extra_rules=[RowRule("known", "", _unknown)]) if r.rule == "known"]
    assert (result.failing, result.rows, result.check) == (2, 3, "known")


def test_partitions_are_judged_apart_in_the_same_queries(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TableSpec(
        TableRef("quality", "parts"), {"id": "string", "day": "string", "kind": "string"}, "parts", subject=None, keys=("id",)
    )
    rows = [{"id": "1", "day": "a", "kind": "x"}, {"id": "1", "day": "b", "kind": "y"}]
    rows += [{"id": "2", "day": "b", "kind": "x"}, {"id": "2", "day": "b", "kind": "x"}, {"id": "9", "day": "other", "kind": "y"}]
    table = put(warehouse, spec, rows)
    put(warehouse, OTHERS, [{"id": "1"}])
    asked: list[str] = []
    arrow_of = type(warehouse).arrow
    monkeypatch.setattr(type(warehouse), "arrow", lambda self, e: asked.append("query") or arrow_of(self, e))
    schema = schema_of(spec, checks={"kind": pa.Check.isin(["x"])})
    found = evaluate_partitions(
        warehouse, schema, table, by="day", partitions=["a", "b", "c"], extra_rules=[RowRule("known", "", _unknown)]
    )
    assert {part: broken(results) for part, results in found.items()} == {
        "a": {},
        "b": {"kind.isin": 1, "unique(id)": 2, "known": 2},
        "c": {},
    }
    assert {part: results[0].rows for part, results in found.items()} == {"a": 1, "b": 3, "c": 0}
    assert len(asked) == 1 + 3  # one count for all, one sample per rule that fails


# -- samples -----------------------------------------------------------------------------------------------------------------


def test_a_sample_is_ten_masked_rows_in_a_total_order(warehouse: Warehouse) -> None:
    spec = TableSpec(
        TableRef("quality", "people"),
        {"id": "string", "email": "string", "note": "string", "n": "int64"},
        "people",
        subject="id",
        keys=("id",),
        personal=("email",),
    )
    rows = [{"id": f"p{i:02}", "email": "Ada@Example.com", "note": "call +49 170 1234567", "n": -i} for i in range(15, 0, -1)]
    schema = schema_of(spec, checks={"email": pa.Check.str_contains("[!]"), "note": pa.Check.eq("late"), "n": pa.Check.ge(0)})
    results = {result.rule: result for result in evaluate(warehouse, schema, put(warehouse, spec, rows))}
    assert list(results["email.str_contains"].sample) == [{"id": f"p{i:02}", "email": "Xxx@Xxxxxxx.xxx"} for i in range(1, 11)]
    assert results["note.equal_to"].sample[0] == {"id": "p01", "note": "xxxx +00 000 0000000"}
    assert [row["n"] for row in results["n.greater_than_or_equal_to"].sample] == [-i for i in range(1, 11)]
    assert results["id.not_null"].sample == ()


def test_without_a_list_of_personal_columns_every_text_is_masked(duckdb_warehouse: Warehouse) -> None:
    spec = TableSpec(TableRef("quality", "unsaid"), {"a": "string", "n": "int64"}, "unsaid", subject=None)
    table = put(duckdb_warehouse, spec, [{"a": "Ada", "n": 3}])
    rule = RowRule("never", "nothing is right", lambda warehouse, rows: rows)
    schema = pa.DataFrameSchema({"a": pa.Column(nullable=True)}, name="unsaid")
    assert evaluate(duckdb_warehouse, schema, table, extra_rules=[rule])[-1].sample == ({"a": "Xxx", "n": 3},)


# -- the rooms' own schemas ----------------------------------------------------------------------------------------------------

GRAPH = DataGraph("v1.0.0", "DB.PROFILES", "segment:materialized", (), ())
MESSAGE = {
    "partition_key": "2026-01-01",
    "message_id": "m1",
    "type": "track",
    "timestamp": T0,
    "received_at": T0,
    "file_hash": "h",
    "file": "f",
    "line": 1,
}


def test_raw_events_break_their_rules(warehouse: Warehouse) -> None:
    rows = [
        MESSAGE,
        {**MESSAGE, "type": "clap", "line": 0},
        {"type": None},
        {**MESSAGE, "message_id": "x" * 101},
        {**MESSAGE, "message_id": ""},
    ]
    assert broken(evaluate(warehouse, raw.MESSAGES_SCHEMA, put(warehouse, MESSAGES, rows))) == {
        "partition_key.not_null": 1,
        "message_id.not_null": 1,
        "message_id.str_length": 2,
        "type.not_null": 1,
        "type.isin": 1,
        "timestamp.not_null": 1,
        "received_at.not_null": 1,
        "file_hash.not_null": 1,
        "line.not_null": 1,
        "line.greater_than_or_equal_to": 1,
        "unique(message_id)": 2,
    }
    line = {"partition_key": "2026-01-01", "file_hash": "h", "file": "f", "line": 1, "reason": "invalid_json"}
    rows = [line, {**line, "reason": "because"}, {"line": 0}]
    rows.append({**line, "line": 2, "reason": "suppressed", "raw": "{}"})
    kept = raw.quarantine_rules()
    assert broken(evaluate(warehouse, raw.QUARANTINE_SCHEMA, put(warehouse, QUARANTINE, rows), extra_rules=kept)) == {
        "nothing_kept_of_the_suppressed": 1,
        "partition_key.not_null": 1,
        "file_hash.not_null": 1,
        "file.not_null": 1,
        "line.greater_than_or_equal_to": 1,
        "reason.not_null": 1,
        "reason.isin": 1,
        "unique(file_hash, line)": 2,
    }
    other = {"partition_key": "2026-01-01", "message_id": "m1", "received_at": T0, "file_hash": "h", "line": 1}
    assert broken(evaluate(warehouse, raw.DUPLICATES_SCHEMA, put(warehouse, DUPLICATES, [other, other, {}]))) == {
        "partition_key.not_null": 1,
        "message_id.not_null": 1,
        "received_at.not_null": 1,
        "file_hash.not_null": 1,
        "line.not_null": 1,
        "unique(file_hash, line)": 2,
    }


def test_violations_break_their_rules(warehouse: Warehouse) -> None:
    good = {
        "partition_key": "2026-01-01",
        "message_id": "m1",
        "type": "track",
        "violation_type": "Required",
        "field": "properties.a",
        "description": "is required",
        "action": "allowed",
        "received_at": T0,
        "line": 1,
    }
    bad = {**good, "type": "tack", "violation_type": "Odd", "action": "ignored", "line": 0}
    assert broken(evaluate(warehouse, raw.VIOLATIONS_SCHEMA, put(warehouse, VIOLATIONS, [good, bad, {}]))) == {
        **{f"{column}.not_null": 1 for column in good},
        "type.isin": 1,
        "violation_type.isin": 1,
        "action.isin": 1,
        "line.greater_than_or_equal_to": 1,
    }


def test_suppressions_break_their_rules(warehouse: Warehouse) -> None:
    good = {"suppression_id": "s1", "identifier_type": "email", "value_hash": "0" * 64, "suppressed_at": T0}
    rows = [
        good,
        {**good, "suppression_id": "s2"},
        {**good, "suppression_id": "s3", "lifted_at": T0 - HOUR},
        {**good, "suppression_id": "s4", "identifier_type": "", "value_hash": "ann@example.com", "lifted_at": T0},
        {"suppression_id": "s4", "lifted_at": T0},
    ]
    table = put(warehouse, SUPPRESSIONS, rows)
    assert broken(evaluate(warehouse, raw.SUPPRESSIONS_SCHEMA, table, extra_rules=raw.suppression_rules())) == {
        "lifted_after_it_began": 1,
        "in_force_once": 2,
        "identifier_type.not_null": 1,
        "identifier_type.str_length": 1,
        "value_hash.not_null": 1,
        "value_hash.str_matches": 1,
        "suppressed_at.not_null": 1,
        "unique(suppression_id)": 2,
    }


def test_the_known_reasons_and_types_are_those_that_the_parser_gives() -> None:
    room = Path(raw.__file__).parent
    given: set[str] = set()
    for module in ("parse.py", "landing.py"):
        for node in ast.walk(ast.parse((room / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Yield) and isinstance(node.value, ast.Constant):
                given.add(str(node.value.value))  # the reader of a file yields why it stops
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            place = {"Rejection": 0, "_Refused": 0, "RawLine": 2, "_required": 2}.get(node.func.id)
            if place is not None and len(node.args) > place:
                texts = [n.value for n in ast.walk(node.args[place]) if isinstance(n, ast.Constant)]
                given |= {text for text in texts if isinstance(text, str)}
    assert {"nul_byte", "not_gzip", "group_id_missing", "type_unknown"} <= given
    assert given - set(raw.QUARANTINE_REASONS) == set()


def test_unified_profiles_break_their_rules(warehouse: Warehouse) -> None:
    merges = put(
        warehouse,
        profile_tables.profile_merges("profiles"),
        [
            {"segment_id": "p1", "canonical_segment_id": "p1"},
            {"segment_id": "p2", "canonical_segment_id": "p1"},
            {"segment_id": "p2", "canonical_segment_id": None},
            {"segment_id": None, "canonical_segment_id": "p1"},
        ],
    )
    assert broken(evaluate(warehouse, profiles.PROFILE_MERGES_SCHEMA, merges)) == {
        "canonical_segment_id.not_null": 1,
        "segment_id.not_null": 1,
        "unique(segment_id)": 2,
    }
    known = {"canonical_segment_id": "p1", "type": "email", "value": "ada@example.com"}
    identifiers = put(
        warehouse,
        profile_tables.user_identifiers("profiles"),
        [known, {**known, "canonical_segment_id": "p2"}, {"type": "", "value": ""}, {"canonical_segment_id": "p9"}],
    )
    rule = profiles.canonical_profile_rule(GRAPH)
    results = evaluate(warehouse, profiles.USER_IDENTIFIERS_SCHEMA, identifiers, extra_rules=[rule])
    assert broken(results) == {
        "canonical_segment_id.not_null": 1,
        "type.not_null": 1,
        "type.str_length": 1,
        "value.not_null": 1,
        "value.str_length": 1,
        "unique(type, value)": 2,
        "profiles_are_canonical": 3,
    }
    (shared,) = [result for result in results if result.rule == "unique(type, value)"]
    assert list(shared.sample) == [{"type": "email", "value": "xxx@xxxxxxx.xxx", "canonical_segment_id": p} for p in ("p1", "p2")]
    trait = {"canonical_segment_id": "p1", "name": "plan", "value": "x"}
    held = put(
        warehouse,
        profile_tables.user_traits("profiles"),
        [trait, {**trait, "value": "y"}, {"name": ""}, {"canonical_segment_id": "p1"}],
    )
    assert broken(evaluate(warehouse, profiles.USER_TRAITS_SCHEMA, held)) == {
        "canonical_segment_id.not_null": 1,
        "name.not_null": 1,
        "name.str_length": 1,
        "unique(canonical_segment_id, name)": 2,
    }
    state = {"segment_id": "p1", "category": "Ads", "value": "true", "seq": 1, "received_at": T0}
    states = put(warehouse, profile_tables.CONSENT_STATES, [state, {**state, "value": "yes"}, {}])
    assert broken(evaluate(warehouse, profiles.CONSENT_STATES_SCHEMA, states)) == {
        "segment_id.not_null": 1,
        "category.not_null": 1,
        "value.not_null": 1,
        "value.isin": 1,
        "seq.not_null": 1,
        "received_at.not_null": 1,
        "unique(segment_id, category, seq)": 2,
    }
    checked_here = {"user_identifiers", "user_traits", "profile_merges", "consent_states"}
    assert set(profiles.CHECKED_TABLES) == checked_here | CHECKED_BELOW


CHECKED_BELOW = {
    *("profile_traits_updates", "id_graph", "external_id_mapping", "profile_traits"),
    *("group_memberships", "message_violations"),
}


def test_profiles_sync_tables_break_their_rules(warehouse: Warehouse) -> None:
    update = {"segment_id": "p1", "seq": 1, "received_at": T0, "triggering_event_id": "m1"}
    updates = put(warehouse, profile_tables.profile_traits_updates("profiles", ("plan",)), [update, {**update, "plan": "x"}, {}])
    assert broken(evaluate(warehouse, profiles.PROFILE_TRAITS_UPDATES_SCHEMA, updates)) == {
        "segment_id.not_null": 1,
        "seq.not_null": 1,
        "received_at.not_null": 1,
        "triggering_event_id.not_null": 1,
        "unique(segment_id, seq)": 2,
    }
    part = {"segment_id": "p1", "canonical_segment_id": "p1"}
    graph = put(warehouse, profile_tables.id_graph("profiles"), [part, {**part, "canonical_segment_id": "p2"}, {}])
    assert broken(evaluate(warehouse, profiles.ID_GRAPH_SCHEMA, graph)) == {
        "segment_id.not_null": 1,
        "canonical_segment_id.not_null": 1,
        "unique(segment_id)": 2,
    }
    held = {"canonical_segment_id": "p1", "external_id_hash": "h"}
    mapping = put(warehouse, profile_tables.external_id_mapping("profiles"), [held, {**held, "canonical_segment_id": "p2"}, {}])
    assert broken(evaluate(warehouse, profiles.EXTERNAL_ID_MAPPING_SCHEMA, mapping)) == {
        "canonical_segment_id.not_null": 1,
        "external_id_hash.not_null": 1,
        "unique(external_id_hash)": 2,
    }
    rows = [
        {"canonical_segment_id": "p1", "plan": "x"},
        {"canonical_segment_id": "p1"},
        {"canonical_segment_id": "p2", "merged_to": "p1"},
        {"canonical_segment_id": "p3", "merged_to": "p1", "plan": "x"},
        {},
    ]
    traits = put(warehouse, profile_tables.profile_traits("profiles", ("plan",)), rows)
    rules = profiles.ROW_RULES["profile_traits"]
    assert broken(evaluate(warehouse, profiles.PROFILE_TRAITS_SCHEMA, traits, extra_rules=rules)) == {
        "canonical_segment_id.not_null": 1,
        "unique(canonical_segment_id)": 2,
        "tombstones_have_no_traits": 1,
    }
    member = {"message_id": "m1", "group_id": "g"}
    members = put(warehouse, profile_tables.GROUP_MEMBERSHIPS, [member, {**member, "group_id": ""}, {"group_id": "x" * 501}])
    assert broken(evaluate(warehouse, profiles.GROUP_MEMBERSHIPS_SCHEMA, members)) == {
        "message_id.not_null": 1,
        "group_id.str_length": 2,
        "unique(message_id)": 2,
    }
    violation = {"message_id": "m1", "reason": "group_id_empty"}
    found = put(warehouse, profile_tables.MESSAGE_VIOLATIONS, [violation, violation, {"message_id": "m2", "reason": "odd"}, {}])
    assert broken(evaluate(warehouse, profiles.MESSAGE_VIOLATIONS_SCHEMA, found)) == {
        "message_id.not_null": 1,
        "reason.not_null": 1,
        "reason.isin": 1,
        "unique(message_id, reason)": 2,
    }


def test_traits_and_audiences_break_their_rules(warehouse: Warehouse) -> None:
    build = {"partition_key": "d", "as_of": T0 + 2 * HOUR, "revision": "r"}
    value = {**build, "trait": "t", "canonical_segment_id": "p1", "value_number": 1.0}
    rows = [
        value,
        {**value, "value_text": "x"},
        {**value, "canonical_segment_id": "p2", "value_number": None},
        {"value_number": 1.0},
    ]
    results = evaluate(warehouse, traits.TRAIT_VALUES_SCHEMA, put(warehouse, TRAIT_VALUES, rows), extra_rules=[traits.ONE_VALUE])
    missing = {f"{column}.not_null": 1 for column in ("partition_key", "as_of", "revision", "canonical_segment_id")}
    assert broken(results) == {
        **missing,
        "trait.not_null": 1,
        "unique(trait, partition_key, canonical_segment_id)": 2,
        "one_value": 2,
    }
    # p1 was there all along; p2 merged into p1 an hour in; p3 came later.
    updates = [("p1", "p1", 1, 0), ("p2", "p2", 2, 0), ("p2", "p1", 3, 1), ("p3", "p3", 4, 3)]
    put(
        warehouse,
        profile_tables.id_graph_updates("profiles"),
        [{"segment_id": s, "canonical_segment_id": c, "seq": n, "received_at": T0 + h * HOUR} for s, c, n, h in updates],
    )
    member = {**build, "audience": "a", "canonical_segment_id": "p1"}
    rows = [member, member, {**member, "canonical_segment_id": "p2"}, {**member, "canonical_segment_id": "p3"}]
    rows += [{**member, "canonical_segment_id": "p2", "partition_key": "early", "as_of": T0 + HOUR}, {}]
    members = put(warehouse, AUDIENCE_MEMBERS, rows)
    results = evaluate(warehouse, audiences.members_schema(), members, extra_rules=audiences.member_rules(GRAPH))
    assert broken(results) == {
        **missing,
        "audience.not_null": 1,
        "unique(audience, partition_key, canonical_segment_id)": 2,
        "members_are_profiles": 3,
    }
    matched = {**member, "path": "cards", "entity_id": "1"}
    rows = [matched, matched, {**matched, "canonical_segment_id": "p8"}, {**matched, "partition_key": "early"}, {}]
    context = put(warehouse, AUDIENCE_CONTEXT, rows)
    assert broken(evaluate(warehouse, audiences.context_schema(), context, extra_rules=audiences.context_rules())) == {
        **missing,
        "audience.not_null": 1,
        "path.not_null": 1,
        "entity_id.not_null": 1,
        "unique(audience, partition_key, canonical_segment_id, path, entity_id, parent_entity_id)": 2,
        "context_belongs_to_members": 3,
    }


def test_the_shape_of_a_table_is_told_with_whose_data_it_is() -> None:
    assert quality.column_schema(THINGS)[0] == ("id", "string", "key; whose data the row is")
    assert quality.column_schema(THINGS)[-1] == ("email", "string", "may hold personal values")
