"""The record that every room keeps of its builds: which asset, which partition, as of when, under which revision, by which run.

Later rooms gate themselves on the very materialisations that they consume; this is how a table says which those are.
"""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

from resources.warehouse import TableRef, TableSpec, Warehouse, naive_utc

KIND_CURRENT = "current"
KIND_HISTORY = "history"


def builds_spec(schema: str) -> TableSpec:
    """The builds table of a room."""
    return TableSpec(
        TableRef(schema, "builds"),
        {
            "asset": "string",
            "partition_key": "string",
            "as_of": "timestamp",
            "revision": "string",
            "kind": "string",
            "run_id": "string",
            "rows": "int64",
            "loaded_at": "timestamp",
        },
        "One row per built asset partition: the newest build.",
        subject=None,
        keys=("asset", "partition_key"),
    )


def record_build(
    warehouse: Warehouse,
    schema: str,
    *,
    asset: str,
    partition_key: str,
    as_of: dt.datetime,
    revision: str,
    run_id: str,
    rows: int,
    loaded_at: dt.datetime,
    kind: str = KIND_CURRENT,
) -> None:
    """Replace the build record of ``asset`` and ``partition_key``. ``kind``: entity tables read as they are now, or as they were."""
    spec = builds_spec(schema)
    warehouse.ensure(spec)
    with warehouse.transaction():
        warehouse.delete(spec.ref, [("asset", "=", asset), ("partition_key", "=", partition_key)])
        warehouse.append(
            spec.ref,
            pa.table(
                {
                    "asset": [asset],
                    "partition_key": [partition_key],
                    "as_of": [naive_utc(as_of)],
                    "revision": [revision],
                    "kind": [kind],
                    "run_id": [run_id],
                    "rows": [rows],
                    "loaded_at": [naive_utc(loaded_at)],
                }
            ),
        )
