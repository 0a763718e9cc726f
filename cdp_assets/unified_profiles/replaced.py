"""Log rows that a build replaces: kept in ``corrections`` where what comes instead differs."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import ExitStack
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.unified_profiles.logs import log_specs
from cdp_assets.unified_profiles.tables import CORRECTIONS
from resources.warehouse import TableSpec, Warehouse, naive_utc


def take_out(warehouse: Warehouse, schema: str, replaced: ir.Table, stack: ExitStack) -> list[tuple[TableSpec, ir.Table]]:
    """Scratch copies of the log rows that go. DDL: call it outside a transaction."""
    found = []
    for spec in log_specs(schema):
        table = warehouse.table(spec.ref).select(*spec.columns)
        found.append((spec, stack.enter_context(warehouse.staged(table.filter(table.seq.isin(replaced.seq))))))
    return found


def keep_different(warehouse: Warehouse, old: list[tuple[TableSpec, ir.Table]], loaded_at: dt.datetime, run_id: str) -> int:
    """Append the old rows that are no longer in their tables to ``corrections``; how many. Call it after the new rows are in."""
    count = 0
    for spec, rows in old:
        now = warehouse.table(spec.ref).select(*spec.columns)
        now = now.filter(now.seq.isin(rows.seq))
        different = warehouse.arrow(rows.difference(now).order_by(*spec.columns)).to_pylist()
        texts = [json.dumps(row, default=_text, ensure_ascii=False) for row in different]
        count += warehouse.append(
            CORRECTIONS.ref,
            pa.table(
                {
                    "table_name": pa.array([str(spec.ref)] * len(different), pa.string()),
                    "row": pa.array(texts, pa.string()),
                    "segment_id": pa.array([row["segment_id"] for row in different], pa.string()),
                    "replaced_at": pa.array([naive_utc(loaded_at)] * len(different), pa.timestamp("us")),
                    "run_id": pa.array([run_id] * len(different), pa.string()),
                }
            ),
        )
    return count


def _text(value: Any) -> str:
    return value.isoformat(timespec="microseconds") + "Z" if isinstance(value, dt.datetime) else str(value)
