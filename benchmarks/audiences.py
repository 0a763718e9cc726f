"""A hundred linked audiences against ten, and one and ten against SQL written by hand, over the same tables in one run."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from benchmarks.audiences_by_hand import by_hand
from benchmarks.figures import Clock, Figure
from cdp_assets.data_graph.model import ColumnJoin, DataGraph, Entity, ExternalIdJoin, JunctionJoin, Relationship
from cdp_assets.linked_audiences.build import build_audiences
from cdp_assets.linked_audiences.tables import TABLES as AUDIENCE_TABLES
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.space import Space
from cdp_assets.space.time import window_of
from cdp_assets.unified_profiles.tables import (
    EVENT_PROFILES,
    INTERNAL_TABLES,
    external_id_mapping_updates,
    id_graph_updates,
    profile_schema,
    profile_tables,
)
from resources.warehouse.duckdb import DuckDBWarehouse, open_duckdb

TITLE = "Linked audiences: a hundred against ten, and against SQL by hand"
TEXT = """
People with an e-mail and a user id, one in twenty merged into another; accounts, cards, payments, products through a junction, and
tickets; events of eight names. The hundred audiences differ in join path (5), window (4), quantifier (3), nesting depth and event, and
in constants; the ten are every eleventh of them. Each is a whole build on a copy of the same file: people read as of the instant, members and the rows that made them
match computed and stored, compared with the partition before, transitions written. By hand is what an engineer would write for the same
ten (`benchmarks/audiences_by_hand.py`): people staged once, then members and context of each by joins, into tables. Both give the same
members and context, which the benchmark checks.
"""

PROFILES = 1_000_000
AS_OF = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
HISTORY_DAYS = 120
EVENT_NAMES = ("Login", "Pay", "View", "Search", "Call", "Chat", "Open", "Click")

ENTITIES = (
    Entity("account", "Account", "bank.accounts", "id"),
    Entity("card", "Card", "bank.cards", "id"),
    Entity("payment", "Payment", "bank.payments", "id"),
    Entity("product", "Product", "bank.products", "id"),
    Entity("ticket", "Ticket", "bank.tickets", "id"),
)
GRAPH = DataGraph(
    "v1.0.0",
    "BENCH.PROFILES",
    "segment:materialized",
    ENTITIES,
    (
        Relationship(
            "accounts",
            "Accounts",
            "account",
            ExternalIdJoin("email", "owner"),
            (
                Relationship(
                    "cards",
                    "Cards",
                    "card",
                    ColumnJoin("id", "account_id"),
                    (Relationship("payments", "Payments", "payment", ColumnJoin("id", "card_id")),),
                ),
                Relationship(
                    "products", "Products", "product", JunctionJoin("bank.holdings", "id", "id", "account_id", "product_id", "id")
                ),
            ),
        ),
        Relationship("tickets", "Tickets", "ticket", ExternalIdJoin("user_id", "client")),
    ),
)
PATHS = ("accounts", "accounts:cards", "accounts:cards:payments", "accounts:products", "tickets")
WINDOWS = (7, 14, 30, 90)
QUANTIFIERS: tuple[dict[str, int], ...] = ({"at_least": 1}, {"at_least": 2}, {"at_most": 1})
FILTERED = {
    "accounts": lambda n: ("balance", "greater_than", 400 + n),
    "cards": lambda n: ("overdue", "greater_than", 100 + 7 * n),
    "payments": lambda n: ("amount", "at_least", 300 + 3 * n),
    "products": lambda n: ("kind", "equals", f"kind {n % 7}"),
    "tickets": lambda n: ("status", "equals", ("open", "waiting", "closed")[n % 3]),
}


def run(scale: float, folder: Path) -> list[Figure]:
    profiles = int(PROFILES * scale)
    clock = Clock()
    hundred = definitions()
    generated = folder / "audiences.duckdb"
    with _opened(generated) as warehouse:
        warehouse.ensure(MESSAGES, *profile_tables(profile_schema(GRAPH)), *INTERNAL_TABLES, *AUDIENCE_TABLES)
        generate(warehouse, profiles)
    rows = 0
    for name, some in (("one", hundred[:1]), ("ten", hundred[::11]), ("hundred", hundred)):
        # Each begins with what was generated: replacing what another one left is not its work.
        with _opened(Path(shutil.copy(generated, folder / f"{name}.duckdb"))) as warehouse:
            # The first pass over a file that was just written is not the one to time.
            build(warehouse, hundred[:1])
            with clock.part(name):
                build(warehouse, some)
            if name != "hundred":
                with clock.part(f"{name} by hand"):
                    by_hand(warehouse._connection, [audience.key for audience in some], AS_OF)
                rows = check(warehouse, [audience.key for audience in some])
    s = clock.seconds
    return [
        Figure("one by hand", s["one by hand"], profiles),
        Figure("one audience", s["one"], profiles, "by hand", s["one"] / s["one by hand"], 1.2),
        Figure("ten by hand", s["ten by hand"], profiles, note=f"{rows:,} members and context rows"),
        Figure("ten audiences", s["ten"], profiles, "by hand", s["ten"] / s["ten by hand"], 1.2),
        Figure("a hundred audiences", s["hundred"], profiles, "ten", s["hundred"] / s["ten"], 4.0),
    ]


def _opened(file: Path) -> AbstractContextManager[DuckDBWarehouse]:
    return closing(open_duckdb(file, memory_limit="12GB"))


def build(warehouse: DuckDBWarehouse, audiences: Sequence[Audience]) -> None:
    space = Space(
        Path("/nowhere"),
        SpaceConfig(name="bench", start_date=dt.date(2026, 1, 1)),
        GRAPH,
        audiences={audience.key: audience for audience in audiences},
    )
    revisions = dict.fromkeys(space.audiences, "bench")
    window = window_of(space.config, AS_OF)
    results = build_audiences(warehouse, space, list(space.audiences), window, AS_OF, AS_OF, "bench", revisions, funnels=False)
    failed = {key: result.error for key, result in results.items() if result.error}
    assert not failed, failed


def check(warehouse: DuckDBWarehouse, keys: Sequence[str]) -> int:
    """Rows of both sides' members and context, which must be the same."""
    wanted = ", ".join(f"'{key}'" for key in keys)
    sides = [
        f"SELECT audience, canonical_segment_id, '' AS path, '' AS id, '' AS up FROM linked_audiences.audience_members WHERE audience IN ({wanted})"
        " UNION ALL SELECT audience, canonical_segment_id, path, entity_id, coalesce(parent_entity_id, '') "
        f"FROM linked_audiences.audience_context WHERE audience IN ({wanted})",
        "SELECT audience, person, '', '', '' FROM by_hand.members UNION ALL "
        "SELECT audience, person, path, entity_id, coalesce(parent_entity_id, '') FROM by_hand.context",
    ]
    execute = warehouse._connection.execute
    for one, other in (sides, sides[::-1]):
        row = execute(f"SELECT audience, count(*) FROM (({one}) EXCEPT ALL ({other})) GROUP BY 1 ORDER BY 1").fetchall()
        assert not row, row
    found = execute(f"SELECT count(*) FROM ({sides[1]})").fetchone()
    return int(found[0]) if found else 0


def definitions() -> list[Audience]:
    """A hundred of all combinations, neighbours unlike each other."""
    combinations = list(itertools.product(PATHS, WINDOWS, QUANTIFIERS, (False, True)))
    chosen = [combinations[number * 37 % len(combinations)] for number in range(100)]
    return [_audience(number, *parts) for number, parts in enumerate(chosen)]


def _audience(number: int, path: str, window: int, quantifier: dict[str, int], deep: bool) -> Audience:
    """People with so many rows on a path who performed an event in a window. ``deep``: quantified is the top of the path, not its end."""
    slugs = path.split(":")
    condition: dict[str, Any] = {}
    for depth, slug in reversed(list(enumerate(slugs))):
        column, operator, value = FILTERED[slug](number)
        own = {"where": {"all": [{"column": column, "operator": operator, "value": value}]}} if depth == len(slugs) - 1 else {}
        below = {"nested": {"conditions": [condition]}} if condition else {}
        counted = quantifier if depth == (0 if deep else len(slugs) - 1) else {}
        condition = {"with_entity": slug, **counted, **own, **below}
    event = {"with_event": EVENT_NAMES[number % len(EVENT_NAMES)], "within": {"last": window}, "at_least": 1 + number % 2}
    return Audience(key=f"a{number:03}", name=f"audience {number}", groups=({"conditions": (condition, event)},))


# -- data --------------------------------------------------------------------------------------------------------------------


def generate(warehouse: DuckDBWarehouse, profiles: int) -> None:
    """Ten events and five rows of the company's for each profile."""
    schema = profile_schema(GRAPH)
    execute, name = warehouse._run, warehouse.name
    graph, mapping = name(id_graph_updates(schema).ref), name(external_id_mapping_updates(schema).ref)
    execute(
        f"INSERT INTO {graph} (segment_id, canonical_segment_id, seq, received_at) "
        f"SELECT md5('p' || i), md5('p' || i), i, TIMESTAMP '2025-12-01' FROM range({profiles}) AS r(i)"
    )
    execute(
        f"INSERT INTO {graph} (segment_id, canonical_segment_id, seq, received_at) "
        f"SELECT md5('p' || i), md5('p' || (i - 1)), {profiles} + i, TIMESTAMP '2026-02-01' FROM range({profiles}) AS r(i) WHERE i % 20 = 7"
    )
    for kind, prefix, step in (("email", "e", 0), ("user_id", "u", 1)):
        execute(
            f"INSERT INTO {mapping} (segment_id, external_id_type, external_id_value, __operation, seq, received_at) "
            f"SELECT md5('p' || i), '{kind}', '{prefix}' || i, 'ADDED', 2 * i + {step}, TIMESTAMP '2025-12-01' FROM range({profiles}) AS r(i)"
        )
    step = HISTORY_DAYS * 86_400_000_000 // (profiles * 10)
    names = ", ".join(f"'{one}'" for one in EVENT_NAMES)
    rolled = f"""
        SELECT i, hash(i) AS h, md5('p' || hash(i * 31) % {profiles}) AS person, printf('message-%012d', i) AS id,
            TIMESTAMP '2025-12-02' + to_microseconds(CAST(i AS BIGINT) * {step}) AS moment
        FROM range({profiles * 10}) AS r(i)
    """
    execute(
        f"INSERT INTO {name(MESSAGES.ref)} (message_id, type, event, received_at, timestamp, properties, context) "
        f"SELECT id, 'track', ([{names}])[1 + CAST(h % {len(EVENT_NAMES)} AS INTEGER)], moment, moment, '{{\"v\":' || h % 100 || '}}', '{{}}' FROM ({rolled})"
    )
    execute(
        f"INSERT INTO {name(EVENT_PROFILES.ref)} (message_id, segment_id, seq, received_at) SELECT id, person, i, moment FROM ({rolled})"
    )
    execute("CREATE SCHEMA IF NOT EXISTS bank")
    tables = {
        "accounts": (1.5, f"i AS id, 'e' || hash(i) % {profiles} AS owner, CAST(hash(i * 3) % 1000 AS DOUBLE) AS balance"),
        "cards": (
            1.5,
            f"i AS id, CAST(hash(i * 5) % {int(profiles * 1.5)} AS BIGINT) AS account_id, CAST(hash(i * 7) % 1000 AS DOUBLE) AS overdue",
        ),
        "payments": (
            1.0,
            f"i AS id, CAST(hash(i * 11) % {int(profiles * 1.5)} AS BIGINT) AS card_id, CAST(hash(i * 13) % 1000 AS DOUBLE) AS amount",
        ),
        "holdings": (
            0.6,
            f"i AS id, CAST(hash(i * 17) % {int(profiles * 1.5)} AS BIGINT) AS account_id, CAST(hash(i * 19) % 1000 AS BIGINT) AS product_id",
        ),
        "tickets": (
            0.4,
            f"i AS id, 'u' || hash(i * 23) % {profiles} AS client, (['open', 'waiting', 'closed'])[1 + CAST(hash(i * 29) % 3 AS INTEGER)] AS status",
        ),
    }
    for table, (share, columns) in tables.items():
        execute(f"CREATE TABLE bank.{table} AS SELECT {columns} FROM range({int(profiles * share)}) AS r(i)")
    execute("CREATE TABLE bank.products AS SELECT i AS id, 'kind ' || i % 7 AS kind FROM range(1000) AS r(i)")
