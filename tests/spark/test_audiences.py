"""Audiences compiled for Databricks, run by Spark, against the same naive interpreter as on the other engines."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import ibis
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from resources.warehouse import Warehouse
from resources.warehouse import functions as fn
from resources.warehouse.duckdb import open_duckdb
from resources.warehouse.functions import compile_expression
from tests.linked_audiences.test_oracle import Found, by_the_oracle, compiled_for, differing, store_logins
from tests.linked_audiences.worlds import Town, town

SCHEMAS = ("raw_events", "events", "unified_profiles", "profiles", "computed_traits", "bank")

# Spark looks at a query for seconds before it runs it, and for minutes at a long one.
LONGEST = 16_000


def copy_to(spark: SparkSession, warehouse: Warehouse, folder: Path) -> None:
    """Every table of the warehouse as a table of the session. Instants are UTC, as Databricks' TIMESTAMP is."""
    for schema in SCHEMAS:
        refs = warehouse.list_tables(schema)
        if refs:
            spark.sql(f"CREATE DATABASE IF NOT EXISTS {schema}")
        for ref in refs:
            file = folder / f"{ref.schema}.{ref.name}.parquet"
            table = warehouse.table(ref)
            # Spark has no times of day.
            times = {name: table[name].cast("string") for name, kind in table.schema().items() if kind.is_time()}
            pq.write_table(warehouse.arrow(table.mutate(**times)), file)
            spark.sql(f"CREATE TABLE {ref.schema}.{ref.name} USING parquet LOCATION '{file}'")


def by_spark(spark: SparkSession, local: Warehouse, drawn: Town) -> Found:
    found: Found = {}
    for key, warehouse, compiled in compiled_for("databricks", local, drawn):
        queries = [warehouse.sql(expression) for expression in (compiled.members, compiled.context)]
        if max(map(len, queries)) > LONGEST:
            continue
        members, context = (spark.sql(query).collect() for query in queries)
        names = ("canonical_segment_id", "path", "entity_id", "parent_entity_id")
        found[key] = (
            sorted(row["canonical_segment_id"] for row in members),
            sorted((tuple(row[name] for name in names) for row in context), key=str),
        )
    return found


def test_audiences_agree_with_the_oracle_on_spark(spark: SparkSession, tmp_path: Path) -> None:
    drawn = town(Random(7), households=12, audiences=8)
    wanted, logins = by_the_oracle(drawn)
    with open_duckdb(":memory:") as local:
        drawn.world.write(local)
        store_logins(local, logins)
        copy_to(spark, local, tmp_path)
        found = by_spark(spark, local, drawn)
    assert len(found) >= 5
    assert not differing(drawn, {key: wanted[key] for key in found}, found)
    assert sum(bool(who) for who, _ in found.values()) >= 3


def test_lists_of_texts_are_written_on_spark_as_elsewhere(spark: SparkSession) -> None:
    texts = ['say "hi"', "back\\slash", "two\nlines", "bell\x07", "center, control", None]
    spark.createDataFrame([(text,) for text in texts], "said string").createOrReplaceTempView("texts")
    rows = ibis.table({"said": "string"}, name="texts")
    listed = rows.aggregate(listed=fn.sorted_join(fn.json_inside(rows.said), '","'))
    found = spark.sql(compile_expression(listed, "databricks").sql("databricks")).collect()[0]["listed"]
    assert json.loads(f'["{found}"]') == ["back\\slash", "bell", "center, control", 'say "hi"', "two\nlines"]
