"""Column types by their words, and instants as columns hold them."""

from __future__ import annotations

import datetime as dt

import ibis
import ibis.expr.datatypes as ibis_types
import ibis.expr.types as ir


def dtype_of(kind: str) -> ibis_types.DataType:
    """Ibis type of a column type word; ``timestamp`` means naive UTC with microseconds."""
    return ibis.dtype("timestamp(6)" if kind == "timestamp" else kind)


def naive_utc(instant: dt.datetime) -> dt.datetime:
    """Aware instant as the naive UTC value that warehouse columns hold. Raises ValueError for a naive one."""
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone; use datetime(..., tzinfo=UTC)")
    return instant.astimezone(dt.UTC).replace(tzinfo=None)


def timestamp_literal(instant: dt.datetime) -> ir.TimestampScalar:
    """Ibis literal of an aware instant, comparable with warehouse timestamp columns."""
    return ibis.literal(naive_utc(instant), type="timestamp(6)")
