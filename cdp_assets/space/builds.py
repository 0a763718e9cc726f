"""The record that every room keeps of its builds: which asset, which partition, as of when, under which revision, by which run.

Later rooms gate themselves on the very materialisations that they consume; this is how a table says which those are.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class BuildRecord:
    """What a builds table says of an asset. ``kind``: entity tables read as they are now, or as they were."""

    asset: str
    revision: str
    rows: int
    kind: str = KIND_CURRENT


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
    record_builds(warehouse, schema, [BuildRecord(asset, revision, rows, kind)], partition_key, as_of, run_id, loaded_at)


def record_builds(
    warehouse: Warehouse,
    schema: str,
    builds: Sequence[BuildRecord],
    partition_key: str,
    as_of: dt.datetime,
    run_id: str,
    loaded_at: dt.datetime,
) -> None:
    """Replace the build records of several assets in one partition."""
    spec = builds_spec(schema)
    warehouse.ensure(spec)
    shared = {"partition_key": partition_key, "as_of": naive_utc(as_of), "run_id": run_id, "loaded_at": naive_utc(loaded_at)}
    rows = [{**dataclasses.asdict(build), **shared} for build in builds]
    with warehouse.transaction():
        warehouse.delete(spec.ref, [("asset", "in", [build.asset for build in builds]), ("partition_key", "=", partition_key)])
        warehouse.append(spec.ref, pa.Table.from_pylist(rows, schema=spec.schema.to_pyarrow()))


def revisions_spec(schema: str) -> TableSpec:
    """The table in which a room remembers what a revision stood for, so that a change can be named."""
    return TableSpec(
        TableRef(schema, "revisions"),
        {"asset": "string", "revision": "string", "slice": "string"},
        "The slice of configuration (JSON) behind each revision that was ever built.",
        subject=None,
        keys=("asset", "revision"),
    )


def record_revision(warehouse: Warehouse, schema: str, asset: str, revision: str, content: Mapping[str, Any]) -> None:
    """Remember the slice behind a revision; a revision already known is left as it is."""
    spec = revisions_spec(schema)
    warehouse.ensure(spec)
    known = warehouse.table(spec.ref)
    if warehouse.count(known.filter((known.asset == asset) & (known.revision == revision))):
        return
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    warehouse.append(spec.ref, pa.table({"asset": [asset], "revision": [revision], "slice": [text]}))


def built_with(warehouse: Warehouse, schema: str, asset: str) -> list[dict[str, Any]]:
    """(partition_key, revision, slice) of every built partition of an asset, by partition; slice is parsed or None."""
    spec, kept = builds_spec(schema), revisions_spec(schema)
    warehouse.ensure(spec, kept)
    builds = warehouse.table(spec.ref)
    builds = builds.filter(builds.asset == asset)
    slices = warehouse.table(kept.ref)
    joined = builds.left_join(slices, [builds.asset == slices.asset, builds.revision == slices.revision])
    rows = warehouse.rows(joined.select(builds.partition_key, builds.revision, slices.slice).order_by("partition_key"), 100_000)
    return [{**row, "slice": json.loads(row["slice"]) if row["slice"] else None} for row in rows]
