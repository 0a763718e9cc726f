"""Identity resolution against what a bare engine needs for the same identifiers, and a day against a full rebuild."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.figures import Clock, Figure
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.unified_profiles.build import build_profiles
from cdp_assets.unified_profiles.free import resolve
from cdp_assets.unified_profiles.merges import Merges
from cdp_assets.unified_profiles.state import meet
from cdp_assets.unified_profiles.state_tables import STATE_TABLES
from cdp_assets.unified_profiles.tables import INTERNAL_TABLES, profile_schema, profile_tables
from cdp_assets.unified_profiles.work import Work, gather
from resources.warehouse import TableRef
from resources.warehouse.duckdb import DuckDBWarehouse, open_duckdb

TITLE = "Identity: identifiers to canonical ids, and a day after a history"
TEXT = """
A history of events of people who each have one user id, one or two e-mails and several devices; one device in twenty is shared by
two people. The product resolves it by all rules, limits included; the bare engines only connect. All on the same identifiers, in one
run: DuckDB finds the distinct pairs of identifiers that occur together, SciPy their components, and label propagation in SQL the same
without SciPy. A day is one per cent more events, most of them of people already known. The room is everything: extraction from the
messages, resolution, and all tables.
"""

EVENTS = 10_000_000
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HISTORY_DAYS = 100
GRAPH = DataGraph("v1.0.0", "BENCH.PROFILES", "segment:materialized", (), ())
CONFIG = SpaceConfig(name="bench", start_date=START.date())


def run(scale: float, folder: Path) -> list[Figure]:
    events = int(EVENTS * scale)
    day = events // HISTORY_DAYS
    end = START + dt.timedelta(days=HISTORY_DAYS)
    clock = Clock()
    with closing(open_duckdb(folder / "identity.duckdb", memory_limit="12GB")) as warehouse:
        warehouse.ensure(MESSAGES)
        _generate(warehouse, events + day)
        warehouse.ensure(*profile_tables(profile_schema(GRAPH)), *INTERNAL_TABLES, *STATE_TABLES)
        identifiers = _identifiers(warehouse, clock, end)
        with clock.part("room, all"):
            _build(warehouse, end)
        with _work(warehouse, end, end + dt.timedelta(days=1)) as (work, stack), clock.part("identifiers, day"):
            _resolve(warehouse, work, stack)
        with clock.part("room, day"):
            _build(warehouse, end + dt.timedelta(days=1))
    return _figures(clock.seconds, events, day, identifiers)


def _figures(s: dict[str, float], events: int, day: int, identifiers: int) -> list[Figure]:
    bare = s["edges"] + s["components"]
    full = s["identifiers, all"]
    return [
        Figure("DuckDB: distinct pairs of identifiers", s["edges"], events, note=f"{identifiers:,} identifiers"),
        Figure("SciPy: their components, numbering included", s["components"], events),
        Figure("SQL: labels propagated until stable", s["labels"], events),
        Figure("product: identifiers to canonical ids", full, events, "pairs + components", full / bare, 2.0),
        Figure("the same", full, events, "label propagation", full / s["labels"], 0.25),
        Figure("product: identifiers of a day", s["identifiers, day"], day, "all", s["identifiers, day"] / full, 0.05),
        Figure("whole room, full rebuild", s["room, all"], events),
        Figure("whole room, a day", s["room, day"], day, "full rebuild", s["room, day"] / s["room, all"], 0.05),
    ]


def _build(warehouse: DuckDBWarehouse, until: dt.datetime) -> None:
    build_profiles(warehouse, CONFIG, GRAPH, until, until, "bench")


def _generate(warehouse: DuckDBWarehouse, events: int) -> None:
    """``events`` messages of events // 8 people, one each 8.64 s at full size; a new device now and then."""
    people = max(events // 8, 1)
    step = HISTORY_DAYS * 86_400_000_000 // (events * HISTORY_DAYS // (HISTORY_DAYS + 1))
    warehouse._run(
        f"""
        INSERT INTO {warehouse.name(MESSAGES.ref)} (message_id, type, event, user_id, anonymous_id, received_at, timestamp, traits, context)
        WITH rolled AS (
            SELECT i, hash(i) AS h, hash(i + 7) AS g FROM range({events}) AS r(i)
        ), whose AS (
            SELECT i, h, g,
                -- People arrive over time, and those who came last are seen most.
                CAST(floor({people} * (i + 1) / {events} * sqrt((h % 1000003) / 1000003.0)) AS BIGINT) AS p,
                (g % 10) AS kind, (g // 10) % 3 AS device
            FROM rolled
        ), shown AS (
            SELECT *,
                -- One device in twenty is the second one of somebody else.
                CASE WHEN hash(p * 3 + device) % 40 = 0 THEN (p + 1 + hash(p) % 50) * 3 ELSE p * 3 + device END AS d
            FROM whose
        )
        SELECT
            printf('message-%012d-%08x', i, h % 4294967296), CASE WHEN kind = 0 THEN 'identify' ELSE 'track' END,
            CASE WHEN kind = 0 THEN NULL ELSE 'Seen' END,
            CASE WHEN kind < 4 THEN 'user-' || p END, 'device-' || d || '-' || (hash(d) % 1000000),
            received, received,
            CASE WHEN kind = 0 THEN '{{"email":"' || p || '.' || (CASE WHEN h % 8 = 0 THEN 2 ELSE 1 END) || '@example.com","plan":"gold"}}' END,
            '{{"page":{{"path":"/home"}},"locale":"en"}}'
        FROM (SELECT *, TIMESTAMP '2026-01-01' + to_microseconds(CAST(i AS BIGINT) * {step}) AS received FROM shown)
        """
    )


def _identifiers(warehouse: DuckDBWarehouse, clock: Clock, end: dt.datetime) -> int:
    """Time the product and the bare engines on the identifiers of the history; how many there are."""
    with _work(warehouse, None, end) as (work, stack):
        with clock.part("identifiers, all"):
            _resolve(warehouse, work, stack)
        warehouse.create(TableRef("cdp_scratch", "pairs"), work.identifiers.select("seq", "identifier_id"))
        identifiers = warehouse.count(work.dictionary)
    _bare(warehouse, clock)
    return identifiers


def _bare(warehouse: DuckDBWarehouse, clock: Clock) -> None:
    with clock.part("edges"):
        warehouse._run(
            """
            CREATE OR REPLACE TABLE cdp_scratch.edges AS SELECT DISTINCT a.low AS a, b.identifier_id AS b FROM cdp_scratch.pairs AS b
            JOIN (SELECT seq, min(identifier_id) AS low FROM cdp_scratch.pairs GROUP BY seq) AS a ON a.seq = b.seq
            WHERE a.low < b.identifier_id
            """
        )
    with clock.part("components"):
        edges = warehouse._arrow("SELECT a, b FROM cdp_scratch.edges")
        ends = np.concatenate([edges.column(0).to_numpy(), edges.column(1).to_numpy()])
        names, numbers = np.unique(ends, return_inverse=True)
        one, other = numbers[: len(edges)], numbers[len(edges) :]
        graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(names), len(names)))
        connected_components(graph, directed=False)
    with clock.part("labels"):
        _propagate(warehouse)


def _propagate(warehouse: DuckDBWarehouse) -> None:
    run = warehouse._run
    run(
        "CREATE OR REPLACE TABLE cdp_scratch.both AS SELECT a, b FROM cdp_scratch.edges UNION ALL SELECT b, a FROM cdp_scratch.edges"
    )
    run("CREATE OR REPLACE TABLE cdp_scratch.labels AS SELECT DISTINCT a AS node, a AS label FROM cdp_scratch.both")
    while True:
        run(
            """
            CREATE OR REPLACE TABLE cdp_scratch.next AS
            SELECT l.node, least(l.label, min(n.label)) AS label FROM cdp_scratch.labels AS l
            JOIN cdp_scratch.both AS e ON e.a = l.node JOIN cdp_scratch.labels AS n ON n.node = e.b GROUP BY l.node, l.label
            """
        )
        changed = warehouse._arrow(
            "SELECT count(*) FROM cdp_scratch.next AS n JOIN cdp_scratch.labels AS l ON n.node = l.node WHERE n.label <> l.label"
        )
        run("CREATE OR REPLACE TABLE cdp_scratch.labels AS SELECT * FROM cdp_scratch.next")
        if changed[0][0].as_py() == 0:
            return


@contextmanager
def _work(warehouse: DuckDBWarehouse, before: dt.datetime | None, until: dt.datetime) -> Iterator[tuple[Work, ExitStack]]:
    with ExitStack() as stack:
        yield gather(warehouse, CONFIG.identity, until, before, anew=False, stack=stack), stack


def _resolve(warehouse: DuckDBWarehouse, work: Work, stack: ExitStack) -> None:
    """From the identifiers of the entries, as staged numbers, to the canonical profile of each."""
    met = meet(warehouse, CONFIG.identity, work, stack)
    outcome = resolve(met.entries, met.state, met.policy)
    merges = Merges.of(met.parts, met.entries.seq[outcome.created], outcome.merged)
    pa.table({"profile": merges.profiles, "canonical": merges.canonical()})
