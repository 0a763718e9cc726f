"""Rows of MESSAGE_BATCH as the message documents that FQL reads, each JSON text parsed when it is first asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events.stages import REFUSED
from cdp_assets.space.message_rows import COLUMNS, RowDocument
from cdp_assets.space.transforming import Judge, Withheld


def met(messages: pa.Table, judge: Judge, sources: frozenset[str] = frozenset()) -> pa.ChunkedArray:
    """Mask of the rows that may meet a condition, as far as its text fixes type and event: no JSON is parsed for it."""
    mask = pa.chunked_array([pa.repeat(pa.scalar(True), messages.num_rows)])
    if sources:
        mask = pc.and_(mask, _among(messages["source"], sources))
    for field, texts in judge.fixed.items():
        if field in ("type", "event"):
            mask = pc.and_(mask, _among(messages[field], texts))
    return mask


def _among(column: pa.ChunkedArray, texts: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(sorted(texts), pa.string()))


def documents(
    messages: pa.Table, masks: Iterable[pa.ChunkedArray], fields: Iterable[str]
) -> Iterator[tuple[int, str | None, RowDocument]]:
    """(row number, source, document) of each row that any of ``masks`` holds, with these fields of it."""
    mask = functools.reduce(pc.or_, masks)
    names = {COLUMNS[field] for field in fields if field in COLUMNS} | {"type", "source"}
    chosen = messages.select(sorted(names)).filter(mask)
    numbers = iter(pc.indices_nonzero(mask).to_pylist())
    for batch in chosen.to_batches():
        for row in batch.to_pylist():
            yield next(numbers), row["source"], RowDocument(row)


def without(messages: pa.Table, withheld: Mapping[int, Withheld]) -> tuple[pa.Table, pa.Table]:
    """The rows that go on, and those of REFUSED that do not, by row number."""
    numbers = sorted(withheld)
    places = messages.select(["file_hash", "line"]).take(pa.array(numbers, pa.int64()))
    reasons = [withheld[number].reason for number in numbers]
    details = [withheld[number].detail for number in numbers]
    refused = pa.table([*places.columns, pa.array(reasons, pa.string()), pa.array(details, pa.string())], schema=REFUSED)
    goes_on = [True] * messages.num_rows
    for number in numbers:
        goes_on[number] = False
    return messages.filter(pa.array(goes_on, pa.bool_())), refused
