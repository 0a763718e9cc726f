"""A Delta table that was written here, read back by a Spark session.

The files of the table's newest version are read, as its log names them: a reader of the log itself is a jar that Spark does not bring.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import deltalake
from pyspark.sql import DataFrame, SparkSession

from resources.destinations import Action, Connection, Operation
from resources.destinations.registry import connect

ACTION = Action("merge", {"table": "product.activity", "key_field": "id", "partition_by": "day"})


def deliver(folder: Path, *operations: Operation) -> None:
    destination = connect("delta", Connection("sandbox", "sandbox", {}, {}, str(folder)))
    assert {outcome.status for outcome in destination.deliver(ACTION, operations)} == {"delivered"}


def op(n: int, kind: str = "enter", **payload: Any) -> Operation:
    said = {
        "day": f"2026-11-{n % 3 + 1:02}",
        "events": n,
        "share": n / 4,
        "known": n % 2 == 0,
        "name": None if n == 4 else f"Žofie {n}",
        **payload,
    }
    return Operation(str(n), kind, f"k{n}", said, f"message-{n}-{kind}-{sorted(payload.items())}")  # type: ignore[arg-type]


def table(spark: SparkSession, folder: Path) -> DataFrame:
    root = folder / "product" / "activity"
    files = deltalake.DeltaTable(root).file_uris()
    return spark.read.option("basePath", str(root)).parquet(*files)


def test_spark_reads_what_was_merged_and_not_what_was_taken_out(spark: SparkSession, tmp_path: Path) -> None:
    deliver(tmp_path, *(op(n) for n in range(1, 8)))
    deliver(tmp_path, op(1, "change", events=10), op(2, "exit"), op(3, "retract"), op(5, "change", day="2026-12-24"))
    found = table(spark, tmp_path)
    assert dict(found.dtypes) == {
        "id": "string",
        "events": "bigint",
        "share": "double",
        "known": "boolean",
        "name": "string",
        "day": "date",  # of the folder's name, so Spark's own reading of it
    }
    rows = {row["id"]: row for row in found.collect()}
    assert {key: (row["day"], row["events"], row["share"], row["known"], row["name"]) for key, row in rows.items()} == {
        "k1": (dt.date(2026, 11, 2), 10, 0.25, False, "Žofie 1"),
        "k4": (dt.date(2026, 11, 2), 4, 1.0, True, None),
        "k5": (dt.date(2026, 12, 24), 5, 1.25, False, "Žofie 5"),
        "k6": (dt.date(2026, 11, 1), 6, 1.5, True, "Žofie 6"),
        "k7": (dt.date(2026, 11, 2), 7, 1.75, False, "Žofie 7"),
    }
    by_day = {row["day"]: row["count"] for row in found.groupBy("day").count().collect()}
    assert by_day == {dt.date(2026, 11, 1): 1, dt.date(2026, 11, 2): 3, dt.date(2026, 12, 24): 1}


def test_a_batch_that_comes_twice_is_there_once(spark: SparkSession, tmp_path: Path) -> None:
    for _ in range(2):
        deliver(tmp_path, op(1), op(2))
    assert table(spark, tmp_path).count() == 2
