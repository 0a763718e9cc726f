"""The Warehouse contract, on every engine: the same calls give the same rows."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pytest
from ibis.backends.sql import compilers

from resources.warehouse import (
    MissingTableError,
    TableRef,
    TableSpec,
    UserQueryError,
    Warehouse,
    WarehouseError,
    timestamp_literal,
)
from resources.warehouse import functions as fn
from resources.warehouse.compiling import CompilingWarehouse
from resources.warehouse.duckdb import open_duckdb

SPEC = TableSpec(
    TableRef("raw", "things"),
    {"id": "string", "at": "timestamp", "document": "string", "n": "int64", "share": "float64", "flag": "boolean"},
    "things",
    subject=None,
)
AT = dt.datetime(2026, 1, 1, 12, 30, 0, 123456)
DOCUMENT = '{"a":{"dotted.key":"q\'s \\\\ é"},"n":3.5,"t":"2026-01-01T02:00:00+02:00","list":[1,2],"no":null}'


@pytest.fixture
def things(warehouse: Warehouse) -> Warehouse:
    warehouse.ensure(SPEC)
    warehouse.append(
        SPEC.ref,
        pa.table({"id": ["a", "b"], "at": [AT, None], "document": [DOCUMENT, None], "n": [1, None], "flag": [True, None]}),
    )
    return warehouse


def ids(warehouse: Warehouse) -> list[str]:
    table = warehouse.table(SPEC.ref)
    return [row["id"] for row in warehouse.rows(table.order_by("id"), 100)]


def test_values_survive_the_round_trip_nulls_included(things: Warehouse) -> None:
    rows = things.rows(things.table(SPEC.ref).order_by("id"), 10)
    assert rows == [
        {"id": "a", "at": AT, "document": DOCUMENT, "n": 1, "share": None, "flag": True},
        {"id": "b", "at": None, "document": None, "n": None, "share": None, "flag": None},
    ]


def test_neutral_functions_mean_the_same_everywhere(things: Warehouse) -> None:
    table = things.table(SPEC.ref).filter(ibis._.id == "a")
    row = things.rows(
        table.select(
            hashed=fn.sha256(table.id),
            dotted=fn.json_text(table.document, "a", "dotted.key"),
            number=fn.try_double(fn.json_text(table.document, "n")),
            instant=fn.try_timestamp(fn.json_text(table.document, "t")),
            no_instant=fn.try_timestamp(fn.json_text(table.document, "n")),
            listed=fn.json_text(table.document, "list"),
            null=fn.json_text(table.document, "no"),
            absent=fn.json_text(table.document, "x", "y"),
            bytes=fn.byte_length(fn.json_text(table.document, "a", "dotted.key")) + fn.byte_length(table.id),
        ),
        1,
    )[0]
    assert row == {
        "hashed": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
        "dotted": "q's \\ é",
        "number": 3.5,
        "instant": dt.datetime(2026, 1, 1),
        "no_instant": None,
        "listed": "[1,2]",
        "null": None,
        "absent": None,
        "bytes": 9,
    }


def test_instants_and_sorted_lists_are_written_the_same_everywhere(things: Warehouse) -> None:
    things.append(SPEC.ref, pa.table({"id": ["B", "a", "é"]}))
    table = things.table(SPEC.ref)
    row = things.rows(table.aggregate(ids=fn.sorted_join(table.id, '","'), at=fn.iso_text(table.at.max())), 1)[0]
    assert row == {"ids": 'B","a","a","b","é', "at": "2026-01-01T12:30:00.123456Z"}


def test_a_sorted_list_holds_what_there_is_to_list(warehouse: Warehouse) -> None:
    rows = pa.table({"who": list("aaabbc"), "said": ["z", "y", "x", None, "w", None]})
    with warehouse.scratch(rows) as table:
        listed = table.group_by("who").aggregate(said=fn.sorted_join(table.said, "|"))
        found = {row["who"]: row["said"] or None for row in warehouse.rows(listed, 5)}
    assert found == {"a": "x|y|z", "b": "w", "c": None}


def test_a_text_stands_inside_a_json_string(warehouse: Warehouse) -> None:
    texts = ["plain", 'a "word"', "back\\slash", "two\nlines", "a\ttab\r", "bell\x07control\x7f", "é ☃ center :", ""]
    with warehouse.scratch(pa.table({"place": range(len(texts)), "said": texts})) as table:
        inside = [
            row["inside"]
            for row in warehouse.rows(table.select("place", inside=fn.json_inside(table.said)).order_by("place"), 20)
        ]
    assert [json.loads(f'"{text}"') for text in inside] == [text.replace("\x07", "").replace("\x7f", "") for text in texts]


def test_a_document_says_the_same_however_many_texts_are_read_of_it(warehouse: Warehouse) -> None:
    paths = [("a",), ("a", "b"), ("a*",), ("q\"'",), ("n",), ("list",), ("gone",)]
    documents = [
        {"a": {"b": 1}, "a*": "star", "q\"'": "quotes", "n": None, "list": [1, "x"]},
        {"a": "text", "n": 1.25, "list": {}},
        {"a": [{"b": 1}], "n": True, "list": "[1]"},
        [],
        None,
    ]
    texts = [json.dumps(document) for document in documents] + [None]
    with warehouse.scratch(pa.table({"place": range(len(texts)), "document": texts})) as table:
        read = {f"text_{i}": fn.json_text(table.document, *path) for i, path in enumerate(paths)}
        together = warehouse.rows(table.select("place", **read).order_by("place"), 10)
        for name, text in read.items():
            alone = warehouse.rows(table.select("place", text=text).order_by("place"), 10)
            assert [row[name] for row in together] == [row["text"] for row in alone]
        assert [row["text_0"] for row in together[1:2]] == ["text"]
        # Within a case, and beside one.
        case = ibis.ifelse(table.place == 0, read["text_2"], read["text_0"])
        mixed = warehouse.rows(table.select("place", case=case, **read).order_by("place"), 10)
        assert [row["case"] for row in mixed[:2]] == ["star", "text"]
        assert [{name: row[name] for name in read} for row in mixed] == [{name: row[name] for name in read} for row in together]


def test_the_newest_of_each_group_is_the_one_with_the_greatest_number(warehouse: Warehouse) -> None:
    rows = pa.table({"who": ["a", "a", "a", "b"], "said": ["one", "three", "two", "zero"], "seq": [1, 3, 2, 7]})
    with warehouse.scratch(rows) as table:
        newest = table.group_by("who").aggregate(said=fn.newest(table.said, table.seq))
        assert warehouse.rows(newest.order_by("who"), 5) == [{"who": "a", "said": "three"}, {"who": "b", "said": "zero"}]


def test_scratch_tables_never_reach_the_file(tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    with open_duckdb(file) as warehouse:
        warehouse.ensure(SPEC)
        with warehouse.scratch(pa.table({"word": ["sesame"]})) as rows, warehouse.staged(rows) as again:
            assert warehouse.rows(again, 5) == [{"word": "sesame"}]
            # Beside a stream of batches, which reads by a cursor of its own.
            assert [batch.to_pylist() for batch in warehouse.batches(again, 1)] == [[{"word": "sesame"}]]
            assert warehouse.list_tables("main") == []
        with pytest.raises(MissingTableError):
            warehouse.table(warehouse.scratch_ref("s1"))
    with closing(duckdb.connect(str(file), read_only=True)) as after:
        assert after.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall() == [("raw", "things")]
    assert b"sesame" not in file.read_bytes()


def test_how_a_text_is_said_to_be_stored_changes_nothing_else(tmp_path: Path) -> None:
    file, count = tmp_path / "w.duckdb", 20_000
    odd = {0: "", 1: None, 2: "é" * 200_000, 3: "nul \x00 inside"}
    texts = [odd.get(i % 5_000, f"{i * 7919 % count:08x}-{i:08x}") for i in range(count)]
    columns = {"number": "int64", "few": "string", "many": "string", "same": "string", "none": "string"}
    spec = TableSpec(
        TableRef("stored", "texts"), columns, "Texts.", subject=None, repeated=("few", "none"), varied=("many", "same")
    )
    plain = replace(spec, ref=TableRef("stored", "plain"), repeated=(), varied=())
    rows = {"number": range(count), "few": [f"part {i // 4_000}" for i in range(count)], "many": texts, "same": ["x"] * count}
    with open_duckdb(file) as warehouse:
        warehouse.ensure(spec, plain)
        for ref in (spec.ref, plain.ref):
            warehouse.append(ref, pa.table(rows))
    with open_duckdb(file) as warehouse:
        for ref in (spec.ref, plain.ref):
            stored = warehouse.arrow(warehouse.table(ref).order_by("number"))
            assert stored.to_pydict() == {**{name: list(values) for name, values in rows.items()}, "none": [None] * count}
    with closing(duckdb.connect(str(file), read_only=True)) as connection:
        ways = "SELECT DISTINCT column_name, compression FROM pragma_storage_info(?) WHERE column_name IN ('few', 'same') AND segment_type = 'VARCHAR'"
        assert dict(connection.execute(ways, ["stored.texts"]).fetchall()) == {"few": "Dictionary", "same": "FSST"}
        assert dict(connection.execute(ways, ["stored.plain"]).fetchall()) == {"few": "Dictionary", "same": "Dictionary"}


@pytest.mark.parametrize("version", ["v1.0.0", "v1.2.0", "v1.3.0", "v1.5.0"])
def test_files_of_other_versions_of_duckdb_are_written(tmp_path: Path, version: str) -> None:
    spec = TableSpec(
        TableRef("a", "b"), {"few": "string", "many": "string"}, "Texts.", subject=None, repeated=("few",), varied=("many",)
    )
    duckdb.connect(str(tmp_path / "w.duckdb"), config={"storage_compatibility_version": version}).close()
    with open_duckdb(tmp_path / "w.duckdb") as warehouse:
        warehouse.ensure(spec)
        warehouse.append(spec.ref, pa.table({"few": ["x"], "many": ["y"]}))
        assert warehouse.rows(warehouse.table(spec.ref), 2) == [{"few": "x", "many": "y"}]


def test_upsert_replaces_rows_by_key_and_may_read_its_target(things: Warehouse) -> None:
    table = things.table(SPEC.ref)
    changed = table.filter(table.id == "a").mutate(n=table.n + 1)
    added = table.filter(table.id == "b").mutate(id=ibis.literal("c"))
    things.upsert(SPEC.ref, changed.union(added), ["id"])
    assert [(r["id"], r["n"]) for r in things.rows(table.order_by("id"), 10)] == [("a", 2), ("b", None), ("c", None)]


def test_replace_swaps_a_window(things: Warehouse) -> None:
    table = things.table(SPEC.ref)
    things.replace(SPEC.ref, table.filter(table.id == "a").mutate(id=ibis.literal("z")), [("id", "in", ["a"])])
    assert ids(things) == ["b", "z"]
    things.delete(SPEC.ref, [("at", "<", dt.datetime(2027, 1, 1, tzinfo=dt.UTC))])
    assert ids(things) == ["b"]


def test_a_transaction_is_all_or_nothing(things: Warehouse) -> None:
    with pytest.raises(RuntimeError), things.transaction():
        things.delete(SPEC.ref, [])
        raise RuntimeError("crash")
    assert ids(things) == ["a", "b"]


def test_columns_are_added_as_they_appear(things: Warehouse) -> None:
    assert things.add_columns(SPEC.ref, {"n": "int64", "extra": "string"}) == ["extra"]
    assert "extra" in things.schema(SPEC.ref)


def test_what_is_known_of_a_new_table_is_what_the_catalogue_says(warehouse: Warehouse) -> None:
    words = ("string", "int64", "float64", "boolean", "timestamp", "date")
    specs = [
        TableSpec(TableRef("s", f"t{n}"), {f"c_{word}": word for word in words[n:]}, "A table.", subject=None) for n in range(3)
    ]
    warehouse.ensure(*specs)
    rows = pa.table({"n": pa.array([1], pa.int64()), "at": pa.array([None], pa.timestamp("us")), "ok": [True], "x": [1.5]})
    with warehouse.scratch(rows) as scratch:
        made = [*(spec.ref for spec in specs), warehouse.scratch_ref("s1")]
        known = {ref: warehouse.schema(ref) for ref in made}
        assert known == {ref: warehouse._catalogue(ref) for ref in made}
        assert {ref: known[ref] for ref in made[:-1]} == warehouse._catalogue_of("s")
        assert warehouse.arrow(scratch).to_pylist() == rows.to_pylist()


def test_tables_that_are_known_are_not_looked_up_again(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [TableSpec(TableRef("s", f"t{n}"), {"id": "string"}, "A table.", subject=None) for n in range(3)]
    warehouse.ensure(*specs)
    ran: list[str] = []
    monkeypatch.setattr(warehouse, "_run", ran.append)
    monkeypatch.setattr(warehouse, "_catalogue", ran.append)
    monkeypatch.setattr(warehouse, "_catalogue_of", ran.append)
    warehouse.ensure(*specs)
    warehouse.ensure_schema("s")
    assert ran == []


def test_a_table_that_a_rollback_took_back_is_made_again(duckdb_warehouse: Warehouse) -> None:
    spec = TableSpec(TableRef("s", "t"), {"id": "string"}, "A table.", subject=None)
    with pytest.raises(ZeroDivisionError), duckdb_warehouse.transaction():
        duckdb_warehouse.ensure(spec)
        raise ZeroDivisionError
    duckdb_warehouse.ensure(spec)
    assert duckdb_warehouse.count(duckdb_warehouse.table(spec.ref)) == 0


def test_batches_stream_every_row(things: Warehouse) -> None:
    assert sum(batch.num_rows for batch in things.batches(things.table(SPEC.ref), 1)) == 2


def test_arrow_rows_can_be_joined_from_a_scratch_table(things: Warehouse) -> None:
    table = things.table(SPEC.ref)
    given = pa.table({"id": ["a", "x"], "word": ["one", "none"], "until": [AT, None]})
    with things.scratch(given) as words:
        joined = table.join(words, "id").select("id", "word", "until")
        assert things.rows(joined, 5) == [{"id": "a", "word": "one", "until": AT}]


def test_a_missing_table_and_a_missing_column_are_named(things: Warehouse) -> None:
    with pytest.raises(MissingTableError, match=r"raw\.nothing"):
        things.table(TableRef("raw", "nothing"))
    with pytest.raises(WarehouseError, match="no column nonsense"):
        things.append(SPEC.ref, pa.table({"nonsense": [1]}))


def test_user_sql_is_one_select_over_declared_schemas(things: Warehouse) -> None:
    query = things.user_query(
        "WITH c AS (SELECT id, COUNT(*) AS n FROM raw.things GROUP BY id) SELECT id AS Who, n, :as_of AS at FROM c",
        schemas=["raw"],
        parameters={"as_of": AT.replace(tzinfo=dt.UTC)},
    )
    assert things.rows(query.order_by("who"), 5) == [{"who": "a", "n": 1, "at": AT}, {"who": "b", "n": 1, "at": AT}]


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELECT 1; SELECT 2", "found 2 statements"),
        ("DROP TABLE raw.things", "found DROP"),
        ("SELECT * FROM read_text('/etc/hostname')", "table function"),
        ("SELECT * FROM other.things", "schema other is not declared"),
        ("SELECT * FROM things", "needs its schema"),
        ("SELECT * FROM raw.things WHERE id = :nobody", "unknown parameter :nobody"),
        ("SELEC * FROM raw.things", "expected one SELECT|not valid SQL"),
        ("WITH d AS (DELETE FROM raw.things RETURNING *) SELECT * FROM d", "DELETE|not valid"),
    ],
)
def test_other_user_sql_is_refused(duckdb_warehouse: Warehouse, sql: str, complaint: str) -> None:
    duckdb_warehouse.ensure(SPEC)
    with pytest.raises(UserQueryError, match=complaint):
        duckdb_warehouse.user_query(sql, schemas=["raw"])


def test_duckdb_reads_no_files_for_anyone(duckdb_warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError, match=r"(?i)permission|disabled"):
        duckdb_warehouse._run("SELECT * FROM read_text('/etc/hostname')")
    with pytest.raises(WarehouseError, match=r"(?i)locked"):
        duckdb_warehouse._run("SET enable_external_access=true")


def test_an_expression_used_twice_is_localised_in_both_places(things: Warehouse) -> None:
    table = things.table(SPEC.ref)
    number = fn.try_double(fn.json_text(table.document, "n"))
    row = things.rows(table.filter(number.notnull()).select(a=number, b=number + 1).filter(ibis._.a < ibis._.b), 5)
    assert row == [{"a": 3.5, "b": 4.5}]


def test_what_is_asked_for_twice_is_kept_only_where_it_costs_more_than_reading(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.ensure(SPEC)
    duckdb_warehouse.append(SPEC.ref, pa.table({"id": ["a", "a", "b"], "n": [1, 2, 3]}))
    table = duckdb_warehouse.table(SPEC.ref)
    narrowed = table.filter(table.n > 1).select("id", "n")
    counted = narrowed.group_by("id").aggregate(n=narrowed.count())
    placed = narrowed.mutate(place=ibis.row_number().over(order_by="n"))
    found = {}
    for name, shared in (("narrowed", narrowed), ("counted", counted), ("placed", placed), ("distinct", narrowed.distinct())):
        twice = shared.join(shared.group_by("id").aggregate(most=shared.n.max()), "id")
        found[name] = duckdb_warehouse.sql(twice).count(" AS NOT MATERIALIZED (")
        assert duckdb_warehouse.count(twice) == 2
    assert found == {"narrowed": 1, "counted": 0, "placed": 0, "distinct": 0}


def test_people_read_fewer_selects_than_engines_run(duckdb_warehouse: Warehouse) -> None:
    duckdb_warehouse.ensure(SPEC)
    table = duckdb_warehouse.table(SPEC.ref)
    narrowed = table.filter(table.n > 1).select("id").filter(table.id != "a")
    read = CompilingWarehouse("duckdb", lambda ref: duckdb_warehouse.schema(ref))
    assert read.sql(narrowed).count("SELECT") == 1
    assert duckdb_warehouse.sql(narrowed).count("SELECT") > 1


def test_a_template_is_built_once_and_runs_with_other_values(things: Warehouse) -> None:
    mark, later = dt.datetime(1800, 1, 1, tzinfo=dt.UTC), dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    built = []

    def build() -> ir.Table:
        built.append(1)
        table = things.table(SPEC.ref)
        return table.select(
            "id", label=ibis.literal("cdp:label"), number=ibis.literal(987_654_321), early=table.at < timestamp_literal(mark)
        )

    def rows(label: str, number: int, at: dt.datetime) -> list[dict]:
        table = things.template((things.name(SPEC.ref), "labels"), build, {"cdp:label": label, 987_654_321: number, mark: at})
        with things.staged(table.filter(table.id == "a"), name="labels") as staged:
            return things.rows(staged, 5)

    assert rows("it's", 1, later) == [{"id": "a", "label": "it's", "number": 1, "early": True}]
    assert rows("cdp", 2, later.replace(year=2025)) == [{"id": "a", "label": "cdp", "number": 2, "early": False}]
    assert len(built) == 1


@pytest.mark.parametrize("dialect", ["duckdb", "snowflake", "databricks", "bigquery"])
@pytest.mark.parametrize(
    "rewritten",
    [
        pytest.param(lambda t: t.number, id="nothing"),
        pytest.param(lambda t: t.text.isin(["a", "b"]), id="among some"),
        pytest.param(lambda t: t.text.isin([]), id="among none"),
        pytest.param(lambda t: ibis.row_number().over(ibis.window(group_by=t.text)), id="numbered in any order"),
        pytest.param(lambda t: ibis.row_number().over(ibis.window(order_by=t.text)), id="numbered in order"),
        pytest.param(lambda t: t.number.sum().over(ibis.window(group_by=t.text)), id="summed"),
        pytest.param(lambda t: t.number.lag().over(ibis.window(order_by=t.text)), id="the one before"),
        pytest.param(lambda t: t.number.nth(1).over(ibis.window(order_by=t.text)), id="the second"),
        pytest.param(lambda t: ibis.ntile(4).over(ibis.window(order_by=t.text)), id="quartiles"),
        pytest.param(lambda t: t.text.find("a"), id="position"),
        pytest.param(lambda t: t.text.substr(1, 2), id="part"),
        pytest.param(lambda t: t.text.capitalize(), id="capitals"),
        pytest.param(lambda t: t.number.log2(), id="logarithm"),
        pytest.param(lambda t: t.number.bucket([0, 1, 2]), id="buckets"),
        pytest.param(lambda t: ibis.array([t.number]).map(lambda one: one + 1).length(), id="mapped"),
    ],
)
def test_a_compiler_without_rewrites_says_the_same_where_it_is_used(
    dialect: str, rewritten: Callable[[ir.Table], ir.Value]
) -> None:
    things = ibis.table({"number": "int64", "text": "string"}, name="things")
    within = things.filter(things.number > 1).mutate(found=rewritten(things)).limit(5)
    assert fn.compile_expression(within, dialect).sql(dialect) == getattr(compilers, dialect).compiler.to_sqlglot(within).sql(
        dialect
    )


def test_few_expressions_need_the_rewrites_of_a_compiler() -> None:
    things = ibis.table({"number": "int64", "text": "string"}, name="things")
    plain, empty = things.filter(things.text.isin(["a"])), things.filter(things.text.isin([]))
    assert [fn._compiler_of(one, "duckdb").rewrites == () for one in (plain, empty)] == [True, False]
