"""Lines in chunks: as they are read, and as they are parsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cdp_assets.raw_events.landing import Chunk
from cdp_assets.raw_events.parse import Message, Rejection
from cdp_assets.raw_events.stages import MESSAGE_BATCH

# A parsed message: the number of its line and its fields.
PARSED_BATCH = pa.schema([("line", pa.int64()), *(MESSAGE_BATCH.field(name) for name in Message._fields)])
# The shape of messages that were parsed one by one: nothing is known of it.
UNSHAPED = -1


class Rejected(NamedTuple):
    """A line that is no message: its number, why, and what is kept of it."""

    line: int
    rejection: Rejection
    content: bytes


@dataclass(frozen=True)
class Parsed:
    """A chunk's lines, each either in ``messages`` (rows of PARSED_BATCH) or in ``rejected``; both in the order of the lines.

    ``shapes``: a number for each message; those of one number have the same keys and types of values. UNSHAPED: not known.
    """

    messages: pa.Table
    shapes: np.ndarray
    rejected: list[Rejected]


def batch_of(lines: Sequence[int], messages: Sequence[Message]) -> pa.Table:
    """Messages that were parsed one by one, as rows of PARSED_BATCH."""
    columns = zip(*messages, strict=True) if messages else ([] for _ in Message._fields)
    arrays = [pa.array(lines, pa.int64())]
    arrays += [pa.array(column, field.type) for column, field in zip(columns, list(PARSED_BATCH)[1:], strict=True)]
    return pa.table(arrays, schema=PARSED_BATCH)


def contents_of(chunk: Chunk, lines: np.ndarray) -> list[bytes]:
    """The lines of the given numbers as they stand in the file."""
    return [chunk.content(int(place)) for place in np.searchsorted(chunk.numbers, lines)]
