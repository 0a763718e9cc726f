"""Ten of the benchmark's audiences as an engineer would write them for DuckDB: people staged once, then joins.

Each has a query of the accounts or tickets that count (``rows``), how many of them somebody needs (``having``), an event, and what is
below the rows as context. ``{…}`` are filled with the audience's own constants where it is defined below.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

# -- people, once ------------------------------------------------------------------------------------------------------------

PEOPLE = """
CREATE OR REPLACE TEMP TABLE who AS
  SELECT segment_id, arg_max(canonical_segment_id, seq) AS person
  FROM profiles.id_graph_updates WHERE received_at < $as_of GROUP BY segment_id;
CREATE OR REPLACE TEMP TABLE held AS
  SELECT person, kind, value FROM (
    SELECT external_id_type AS kind, external_id_value AS value, arg_max(segment_id, seq) AS segment_id, arg_max(__operation, seq) AS op
    FROM profiles.external_id_mapping_updates WHERE received_at < $as_of GROUP BY ALL
  ) JOIN who USING (segment_id) WHERE op IS DISTINCT FROM 'REMOVED';
CREATE OR REPLACE TEMP TABLE did AS
  SELECT person, event, timestamp AS moment
  FROM raw_events.messages JOIN unified_profiles.event_profiles p USING (message_id) JOIN who USING (segment_id)
  WHERE event IN ($events) AND p.received_at < $as_of;
"""
OWNED = """
CREATE OR REPLACE TEMP TABLE owned AS
  SELECT person, a.* FROM held JOIN bank.accounts a ON a.owner = held.value WHERE held.kind = 'email';
"""
RAISED = """
CREATE OR REPLACE TEMP TABLE raised AS
  SELECT person, t.* FROM held JOIN bank.tickets t ON t.client = held.value WHERE held.kind = 'user_id';
"""


@dataclass(frozen=True)
class ByHand:
    """rows: (person, id) that count; at_least or at_most so many; then an event so often within days; context below the rows."""

    path: str
    rows: str
    event: str
    times: int
    days: int
    at_least: int = 1
    at_most: int | None = None
    below: tuple[tuple[str, str], ...] = ()

    @property
    def members(self) -> str:
        if self.at_most is not None:
            counted = f"person NOT IN (SELECT person FROM counted GROUP BY person HAVING count(DISTINCT id) > {self.at_most})"
        elif self.at_least > 1:
            counted = f"person IN (SELECT person FROM counted GROUP BY person HAVING count(DISTINCT id) >= {self.at_least})"
        else:
            counted = "person IN (SELECT person FROM counted)"
        window = f"moment BETWEEN $as_of - INTERVAL {self.days} DAY AND $as_of"
        return (
            f"SELECT DISTINCT person FROM who WHERE {counted} AND person IN (SELECT person FROM did "
            f"WHERE event = '{self.event}' AND {window} GROUP BY person HAVING count(*) >= {self.times})"
        )


CARDS = "SELECT id, account_id FROM bank.cards WHERE overdue > {over}"
PAID = "SELECT card_id FROM bank.payments WHERE amount >= {amount} GROUP BY card_id HAVING count(DISTINCT id) >= {least}"
HOLDS = "SELECT h.account_id, p.id FROM bank.holdings h JOIN bank.products p ON p.id = h.product_id WHERE p.kind = '{kind}'"


def _cards(over: int) -> str:
    return CARDS.format(over=over)


def _paid_cards(amount: int, least: int) -> str:
    return f"SELECT id, account_id FROM bank.cards WHERE id IN ({PAID.format(amount=amount, least=least)})"


AUDIENCES = {
    "a000": ByHand("accounts", "SELECT person, id FROM owned WHERE balance > 400", "Login", 1, 7),
    "a011": ByHand(
        "accounts",
        f"SELECT person, id FROM owned WHERE id IN (SELECT account_id FROM ({_cards(177)}))",
        "Search",
        2,
        90,
        at_most=1,
        below=(("accounts:cards", f"SELECT account_id AS up, id FROM ({_cards(177)})"),),
    ),
    "a022": ByHand(
        "accounts",
        f"SELECT person, id FROM owned WHERE id NOT IN (SELECT account_id FROM ({HOLDS.format(kind='kind 1')}) "
        "WHERE account_id IS NOT NULL GROUP BY account_id HAVING count(DISTINCT id) > 1)",
        "Open",
        1,
        90,
        below=(("accounts:products", f"SELECT account_id AS up, id FROM ({HOLDS.format(kind='kind 1')})"),),
    ),
    "a033": ByHand("accounts", "SELECT person, id FROM owned WHERE balance > 433", "Pay", 2, 90, at_least=2),
    "a044": ByHand(
        "accounts",
        f"SELECT person, id FROM owned WHERE id IN (SELECT account_id FROM ({_paid_cards(432, 2)}))",
        "Call",
        1,
        90,
        below=(
            ("accounts:cards", f"SELECT account_id AS up, id FROM ({_paid_cards(432, 2)})"),
            ("accounts:cards:payments", "SELECT card_id AS up, id FROM bank.payments WHERE amount >= 432"),
        ),
    ),
    "a055": ByHand("tickets", "SELECT person, id FROM raised WHERE status = 'waiting'", "Click", 2, 90),
    "a066": ByHand(
        "accounts",
        f"SELECT person, id FROM owned WHERE id IN (SELECT account_id FROM ({_cards(562)}))",
        "View",
        1,
        90,
        below=(("accounts:cards", f"SELECT account_id AS up, id FROM ({_cards(562)})"),),
    ),
    "a077": ByHand(
        "accounts",
        f"SELECT person, id FROM owned WHERE id IN (SELECT account_id FROM ({HOLDS.format(kind='kind 0')}))",
        "Chat",
        2,
        30,
        at_most=1,
        below=(("accounts:products", f"SELECT account_id AS up, id FROM ({HOLDS.format(kind='kind 0')})"),),
    ),
    "a088": ByHand("accounts", "SELECT person, id FROM owned WHERE balance > 488", "Login", 1, 30, at_most=1),
    "a099": ByHand(
        "accounts",
        f"SELECT person, id FROM owned WHERE id IN (SELECT account_id FROM ({_paid_cards(597, 1)}))",
        "Search",
        2,
        30,
        at_least=2,
        below=(
            ("accounts:cards", f"SELECT account_id AS up, id FROM ({_paid_cards(597, 1)})"),
            ("accounts:cards:payments", "SELECT card_id AS up, id FROM bank.payments WHERE amount >= 597"),
        ),
    ),
}


def by_hand(connection: duckdb.DuckDBPyConnection, keys: Sequence[str], as_of: dt.datetime) -> None:
    """Members and context of ``keys`` into the tables ``by_hand.members`` and ``by_hand.context``."""
    instant = f"TIMESTAMP '{as_of:%Y-%m-%d %H:%M:%S}'"
    chosen = {key: AUDIENCES[key] for key in keys}
    events = ", ".join(f"'{one}'" for one in sorted({made.event for made in chosen.values()}))
    paths = {made.path for made in chosen.values()}
    staged = PEOPLE + (OWNED if "accounts" in paths else "") + (RAISED if "tickets" in paths else "")
    connection.execute(staged.replace("$as_of", instant).replace("$events", events))
    connection.execute("CREATE SCHEMA IF NOT EXISTS by_hand")
    connection.execute("CREATE OR REPLACE TABLE by_hand.members (audience VARCHAR, person VARCHAR)")
    connection.execute(
        "CREATE OR REPLACE TABLE by_hand.context (audience VARCHAR, person VARCHAR, path VARCHAR, entity_id VARCHAR, parent_entity_id VARCHAR)"
    )
    for key, made in chosen.items():
        connection.execute(f"CREATE OR REPLACE TEMP TABLE counted AS {made.rows}")
        connection.execute(f"CREATE OR REPLACE TEMP TABLE inside AS {made.members.replace('$as_of', instant)}")
        connection.execute("BEGIN")
        connection.execute(f"INSERT INTO by_hand.members SELECT '{key}', person FROM inside")
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE level AS SELECT person, id, NULL AS up FROM counted JOIN inside USING (person)"
        )
        connection.execute(f"INSERT INTO by_hand.context SELECT DISTINCT '{key}', person, '{made.path}', id, NULL FROM level")
        for path, rows in made.below:
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE level AS SELECT DISTINCT level.person, below.id, level.id AS up FROM level JOIN ({rows}) below ON below.up = level.id"
            )
            connection.execute(f"INSERT INTO by_hand.context SELECT '{key}', person, '{path}', id, up FROM level")
        connection.execute("COMMIT")
