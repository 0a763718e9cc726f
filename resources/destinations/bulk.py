"""What connectors with asynchronous jobs share: records as CSV, and waiting for the end of a job."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import tenacity

from resources.destinations import Capabilities, DestinationConfigError

PATIENCE: Final = dt.timedelta(minutes=15)
LATER: Final = dt.timedelta(minutes=5)


def with_threshold(known: Capabilities, settings: Mapping[str, Any]) -> Capabilities:
    """The capabilities with the connection's own ``bulk_from_rows``, 0 for never. Raises DestinationConfigError for no number."""
    from_rows = settings.get("bulk_from_rows", known.bulk.from_rows if known.bulk else 0)
    if not isinstance(from_rows, int) or isinstance(from_rows, bool) or from_rows < 0:
        raise DestinationConfigError("settings.bulk_from_rows is a number of rows, 0 for never")
    return replace(known, bulk=replace(known.bulk, from_rows=from_rows) if known.bulk and from_rows else None)


def patience_of(settings: Mapping[str, Any]) -> dt.timedelta:
    """How long a sync waits for the end of a job: ``bulk_wait_minutes``."""
    return dt.timedelta(minutes=float(settings.get("bulk_wait_minutes", PATIENCE.total_seconds() / 60)))


def csv_of(records: Sequence[Mapping[str, Any]], key_field: str, null: str) -> bytes:
    """Key first, then all other names in order; ``null`` stands for no value, an empty cell for a field that is not there."""
    names = sorted({name for record in records for name in record} - {key_field})
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([key_field, *names])
    for record in records:
        cells = (_cell(record[name], null) if name in record else "" for name in names)
        writer.writerow([_cell(record[key_field], null), *cells])
    return text.getvalue().encode()


def rows_of(text: str) -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header."""
    yield from csv.DictReader(io.StringIO(text, newline=""))


def wait(ask: Callable[[], str], running: Collection[str], patience: dt.timedelta, longest_pause: float) -> str:
    """The state of a job when it is none of ``running`` any more, or after all patience."""
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda state: state in running),
        wait=tenacity.wait_exponential(multiplier=0.1, max=longest_pause),
        stop=tenacity.stop_after_delay(patience),
        retry_error_callback=lambda last: last.outcome.result() if last.outcome else "",
    )
    return tries(ask)


def _cell(value: Any, null: str) -> str:
    if value is None or value == "":
        return null
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
