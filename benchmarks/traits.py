"""Fifty computed traits against one of them, over the same events, in one run."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.figures import Clock, Figure
from cdp_assets.computed_traits.build import build_traits
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.space import Space
from cdp_assets.space.time import window_of
from cdp_assets.unified_profiles.tables import EVENT_PROFILES, INTERNAL_TABLES, id_graph_updates, profile_schema, profile_tables
from resources.warehouse.duckdb import DuckDBWarehouse, open_duckdb

TITLE = "Computed traits: fifty against one"
TEXT = """
Events of one name, of people with two hundred each, properties as JSON. The fifty traits are of every kind, with windows of
7 to 90 days and sessions, with filters and without; the one is the first of them, a sum over 30 days with a filter. Both are whole
builds: messages read and joined with their profiles as of the instant, values computed, stored, compared with the partition before.
Both are timed in a process that has built the fifty once. A day later is the same fifty again, with a hundredth more events and a
partition before to compare with.
"""

EVENTS = 10_000_000
EVENTS_PER_PERSON = 200
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HISTORY_DAYS = 100
GRAPH = DataGraph("v1.0.0", "BENCH.PROFILES", "segment:materialized", (), ())
EVENT = "Order Completed"


def run(scale: float, folder: Path) -> list[Figure]:
    events = int(EVENTS * scale)
    day = events // HISTORY_DAYS
    clock = Clock()
    end = START + dt.timedelta(days=HISTORY_DAYS)
    fifty = [Trait(**trait) for trait in _definitions()]
    assert len({trait.key for trait in fifty}) == 50
    with closing(open_duckdb(folder / "traits.duckdb", memory_limit="12GB")) as warehouse:
        warehouse.ensure(MESSAGES, *profile_tables(profile_schema(GRAPH)), *INTERNAL_TABLES)
        _generate(warehouse, events + day)
        # The first pass over a file that was just written, in a process that has no memory yet, is not the one to time.
        _build(warehouse, fifty, end)
        with clock.part("one"):
            _build(warehouse, fifty[:1], end)
        with clock.part("fifty"):
            _build(warehouse, fifty, end)
        with clock.part("day"):
            _build(warehouse, fifty, end + dt.timedelta(days=1))
    s = clock.seconds
    return [
        Figure("one trait", s["one"], events),
        Figure("fifty traits", s["fifty"], events, "one trait", s["fifty"] / s["one"], 3.0),
        Figure("fifty traits, a day later", s["day"], events + day, "one trait", s["day"] / s["one"]),
    ]


def _build(warehouse: DuckDBWarehouse, traits: list[Trait], as_of: dt.datetime) -> None:
    space = Space(Path("/nowhere"), SpaceConfig(name="bench", start_date=START.date()), GRAPH, {t.key: t for t in traits})
    revisions = dict.fromkeys(space.traits, "bench")
    window = window_of(space.config, as_of)
    results = build_traits(warehouse, space, list(space.traits), window, as_of, as_of, "bench", revisions)
    failed = {key: result.error for key, result in results.items() if result.error}
    assert not failed, failed


def _definitions() -> list[dict[str, Any]]:
    """Fifty traits: ten looks at the events, and five kinds of value in each."""
    euro = {"where": {"all": [{"property": "currency", "operator": "equals", "value": "EUR"}]}}
    large = {"where": {"all": [{"property": "amount", "operator": "at_least", "value": 50}]}}
    mobile = {"where": {"any": [{"context": "library.name", "operator": "contains", "value": "ios"}]}}
    looks: list[tuple[str, dict[str, Any]]] = [
        ("euro_30d", {"event": EVENT, "within": {"last": 30}, **euro}),
        ("ever", {"event": EVENT}),
        ("viewed_7d", {"event": EVENT, "within": {"last": 7}}),
        ("viewed_90d", {"event": EVENT, "within": {"last": 90}}),
        ("viewed_mobile", {"event": EVENT, **mobile}),
        ("login_session", {"event": EVENT, "session": {"gap": 30}}),
        ("login_30d", {"event": EVENT, "within": {"last": 30}}),
        ("support", {"event": EVENT}),
        ("large_60d", {"event": EVENT, "within": {"last": 60}, **large}),
        ("shared", {"event": EVENT, **mobile}),
    ]
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("total", {"kind": "aggregation", "function": "sum", "property": "amount"}),
        ("count", {"kind": "event_counter"}),
        ("last", {"kind": "last", "property": "category"}),
        ("usual", {"kind": "most_frequent", "property": "category"}),
        ("kinds", {"kind": "unique_list_count", "property": "category"}),
    ]
    others: list[tuple[str, dict[str, Any]]] = [
        ("average", {"kind": "aggregation", "function": "avg", "property": "amount"}),
        ("largest", {"kind": "aggregation", "function": "max", "property": "amount"}),
        ("first", {"kind": "first", "property": "category"}),
        ("since", {"kind": "first", "property": "timestamp"}),
        ("list", {"kind": "unique_list", "property": "category"}),
    ]
    return [
        {"key": f"{kind}_{look}", "name": f"{kind} {look}", **what, **which}
        for number, (look, which) in enumerate(looks)
        for kind, what in (kinds if number % 2 == 0 else others)
    ]


def _generate(warehouse: DuckDBWarehouse, events: int) -> None:
    """``events`` messages, evenly over the history and one day more, and the profile of each."""
    people = max(events // EVENTS_PER_PERSON, 1)
    step = HISTORY_DAYS * 86_400_000_000 // (events * HISTORY_DAYS // (HISTORY_DAYS + 1))
    rolled = f"""
        SELECT i, CAST(hash(i) % 9000000000000 AS BIGINT) AS h, md5('p' || hash(i * 31) % {people}) AS person, printf('message-%012d-%08x', i, hash(i) % 4294967296) AS id,
            TIMESTAMP '2026-01-01' + to_microseconds(CAST(i AS BIGINT) * {step}) AS moment
        FROM range({events}) AS r(i)
    """
    warehouse._run(
        f"""
        INSERT INTO {warehouse.name(MESSAGES.ref)} (message_id, type, event, user_id, received_at, timestamp, properties, context)
        SELECT id, 'track', '{EVENT}', person, moment, moment,
            '{{"amount":' || (h % 10000) / 100 || ',"currency":"' || (['EUR', 'USD', 'GBP'])[1 + (h // 7) % 3]
                || '","category":"category ' || (h // 11) % 12 || '","order":"ORD-' || h || '","items":[1,2,3]}}',
            '{{"library":{{"name":"' || (['analytics.js', 'analytics-ios'])[1 + (h // 13) % 2] || '"}},"locale":"en"}}'
        FROM ({rolled})
        """
    )
    warehouse._run(
        f"INSERT INTO {warehouse.name(EVENT_PROFILES.ref)} (message_id, segment_id, seq, received_at) SELECT id, person, i, moment FROM ({rolled})"
    )
    warehouse._run(
        f"""
        INSERT INTO {warehouse.name(id_graph_updates(profile_schema(GRAPH)).ref)} (segment_id, canonical_segment_id, seq, received_at)
        SELECT md5('p' || i), md5('p' || i), i, TIMESTAMP '2025-12-31' FROM range({people}) AS r(i)
        """
    )
