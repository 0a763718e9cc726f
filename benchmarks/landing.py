"""Landing files to accepted messages, against bare DuckDB on the same files."""

from __future__ import annotations

import datetime as dt
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import duckdb

from benchmarks.figures import Figure
from cdp_assets.raw_events.intake import take_in
from cdp_assets.space.models.settings import SpaceConfig, WarehouseConfig
from resources.warehouse.duckdb import open_duckdb

TITLE = "Landing"
TEXT = """
Gzip files of a million events of about 700 bytes, 1 % of them sent twice. *Landing* is what an intake does: hash, unzip, parse, check
every rule, place in windows, discover columns, settle duplicates against all history, write. *Bare* is DuckDB's `read_json` with explicit columns
into a table and one `row_number` over it into a second one, by as many threads. A day is 100,000 more events in one file.
"""
Result = TypeVar("Result")
MEMORY_LIMIT = "2GB"
_PER_FILE, _FULL, _DAY = 1_000_000, 10_000_000, 100_000
_LOADED_AT = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
_COLUMNS = {
    **dict.fromkeys(
        ["messageId", "type", "event", "userId", "anonymousId", "groupId", "previousId", "name", "category"], "VARCHAR"
    ),
    **dict.fromkeys(["timestamp", "originalTimestamp", "sentAt", "receivedAt"], "TIMESTAMP"),
    **dict.fromkeys(["properties", "traits", "context", "integrations"], "JSON"),
}
_EVENTS = """
    SELECT '{"type":"track","event":"' || (['Card Used', 'Order Completed', 'Page Opened', 'Balance Checked'])[1 + i % 4]
        || '","messageId":"' || md5('m' || CASE WHEN i % 100 = 99 THEN i - 1 ELSE i END)
        || '","userId":"u' || hash(i) % 100000 || '","anonymousId":"' || md5('a' || hash(i) % 200000)
        || '","receivedAt":"' || moment || '","sentAt":"' || moment || '","originalTimestamp":"' || moment
        || '","properties":{"amount":' || (i % 1000) / 10 || ',"currency":"EUR","card":{"type":"gold","number":"' || hash(i)
        || '"},"items":[1,2,3],"merchant":"Shop ' || i % 500 || '"},"context":{"ip":"10.0.0.' || i % 256
        || '","library":{"name":"analytics.js","version":"4.1.0"},"page":{"path":"/p/' || i % 100
        || '","url":"https://example.com/p/' || i % 100 || '","title":"A page of the bank"},'
        || '"userAgent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",'
        || '"consent":{"categoryPreferences":{"Advertising":true,"Analytics":false}}},"integrations":{"All":true}}'
    FROM (SELECT i, strftime(TIMESTAMP '2026-01-01' + INTERVAL (i * 300) MILLISECOND, '%Y-%m-%dT%H:%M:%S.%gZ') AS moment
          FROM range({first}, {last}) AS r(i))
"""


def generate(folder: Path, name: str, first: int, last: int) -> None:
    """Write the events of a range of numbers as one gzip file."""
    folder.mkdir(parents=True, exist_ok=True)
    query = _EVENTS.replace("{first}", str(first)).replace("{last}", str(last))
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar=false")
        options = "FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER E'\\x01', COMPRESSION gzip"
        connection.execute(f"COPY ({query}) TO '{folder / name}' ({options})")


def _apart(work: Callable[..., Result], *arguments: object) -> Result:
    """The result of a function in a fresh process, so that no part leaves memory or warmth to the next."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _landing(folder: Path, database: Path, loaded_at: dt.datetime) -> tuple[float, int, float]:
    """Seconds of an intake, the lines that it took in, and the most memory that the process had, in MB."""
    config = SpaceConfig(name="bench", start_date=dt.date(2026, 1, 1), warehouse=WarehouseConfig(memory_limit=MEMORY_LIMIT))
    with open_duckdb(database, memory_limit=MEMORY_LIMIT) as warehouse:
        start = time.perf_counter()
        lines = take_in(warehouse, config, folder, loaded_at).lines
        seconds = time.perf_counter() - start
    return seconds, lines, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _bare(folder: Path, database: Path) -> float:
    start = time.perf_counter()
    with duckdb.connect(str(database), config={"memory_limit": MEMORY_LIMIT}) as connection:
        connection.execute("SET preserve_insertion_order=false")
        connection.execute("SET enable_progress_bar=false")
        source = f"read_json('{folder}/*.gz', format='newline_delimited', columns={_COLUMNS})"
        connection.execute(f"CREATE TABLE lines AS SELECT * FROM {source}")
        ranked = 'SELECT *, row_number() OVER (PARTITION BY "messageId" ORDER BY "receivedAt") AS place FROM lines'
        connection.execute(f"CREATE TABLE messages AS SELECT * EXCLUDE (place) FROM ({ranked}) WHERE place = 1")
    return time.perf_counter() - start


def _day_after(folder: Path, events: int, database: Path) -> float:
    """Seconds of taking in one day more, when so many events were taken in before."""
    generate(folder, "day.jsonl.gz", events, events + _DAY)
    return _apart(_landing, folder, database, _LOADED_AT + dt.timedelta(days=1))[0]


def run(scale: float, folder: Path) -> list[Figure]:
    """Measure at ``scale`` times ten million events."""
    events = int(_FULL * scale)
    per_file = min(_PER_FILE, events)
    for first in range(0, events, per_file):
        generate(folder / "all", f"{first:09}.jsonl.gz", first, min(first + per_file, events))
    generate(folder / "tenth", "0.jsonl.gz", 0, events // 10)
    bare = _apart(_bare, folder / "all", folder / "bare.duckdb")
    seconds, lines, megabytes = _apart(_landing, folder / "all", folder / "all.duckdb", _LOADED_AT)
    _apart(_landing, folder / "tenth", folder / "tenth.duckdb", _LOADED_AT)
    on_tenth = _day_after(folder / "tenth", events // 10, folder / "tenth.duckdb")
    on_all = _day_after(folder / "all", events, folder / "all.duckdb")
    note = f"peak memory {megabytes:,.0f} MB under memory_limit {MEMORY_LIMIT}"
    return [
        Figure("bare read_json and row_number", bare, events),
        Figure("landing", seconds, lines, "bare", seconds / bare, 2.5, note),
        Figure(f"a day on {events // 10:,} events", on_tenth, _DAY),
        Figure(f"a day on {events:,} events", on_all, _DAY, "a day on a tenth", on_all / on_tenth, 1.5),
    ]
