"""The real data set: the counts that its documentation and direct queries give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.czech_bank


# Written by hand over the data set's own files: (client_id, what of the client's is matched).
BY_HAND = {
    "loan_in_debt": "SELECT client_id, loan_id FROM owner JOIN loan USING (account_id) WHERE status = 'D'",
    "debt_and_card": """
        SELECT client_id, loan_id FROM owner JOIN loan USING (account_id) JOIN card USING (disposition_id) WHERE status = 'D'
    """,
    "loan_without_household": """
        SELECT client_id, order_id FROM owner JOIN permanent_order USING (account_id)
        WHERE purpose = 'loan_payment'
          AND account_id NOT IN (SELECT account_id FROM permanent_order WHERE purpose = 'household')
    """,
    "cash_without_card": """
        SELECT client_id, NULL FROM said
        WHERE event = 'Cash Withdrawal' AND amount >= 5000
          AND moment BETWEEN TIMESTAMP '1999-01-01' - INTERVAL 365 DAY AND TIMESTAMP '1999-01-01'
          AND client_id NOT IN (SELECT client_id FROM disposition JOIN card USING (disposition_id))
        GROUP BY client_id HAVING count(*) >= 3
    """,
    "loan_above_deposits": """
        SELECT client_id, loan_id FROM owner JOIN loan USING (account_id)
        JOIN (SELECT client_id, max(amount) AS largest FROM said WHERE event = 'Cash Deposit' GROUP BY client_id) USING (client_id)
        WHERE status IN ('C', 'D') AND loan.amount > largest
    """,
    "new_cards": """
        SELECT client_id, card_id FROM disposition JOIN card USING (disposition_id)
        WHERE card_type IN ('gold', 'classic') AND issued_date BETWEEN DATE '1999-01-01' - 183 AND DATE '1999-01-01'
          AND client_id NOT IN (SELECT client_id FROM owner JOIN loan USING (account_id) WHERE status = 'D')
    """,
}
LEAF = {
    **dict.fromkeys(("loan_in_debt", "debt_and_card", "loan_above_deposits"), "disposition:account:loan"),
    "loan_without_household": "disposition:account:permanent-order",
    "new_cards": "disposition:card",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("czech")


@pytest.fixture(scope="module")
def by_hand(czech_bank_data: Path) -> dict[str, list[tuple]]:
    """Answers of the queries. An event without a user id is of the client who named its anonymous id."""
    with duckdb.connect() as connection:
        for table in ("disposition", "card", "loan", "permanent_order"):
            connection.execute(f"CREATE VIEW {table} AS FROM '{czech_bank_data}/{table}.parquet'")
        connection.execute("CREATE VIEW owner AS FROM disposition WHERE role = 'owner'")
        connection.execute(f"""
            CREATE TABLE events AS SELECT type, event, "userId" AS u, CAST("anonymousId" AS VARCHAR) AS a, "timestamp" AS moment,
              properties.amount AS amount
            FROM read_json('{czech_bank_data}/events/*.jsonl.gz', union_by_name = true)
        """)
        connection.execute("""
            CREATE TABLE said AS SELECT CAST(coalesce(events.u, known.u) AS INTEGER) AS client_id, event, moment, amount
            FROM events LEFT JOIN (SELECT DISTINCT u, a FROM events WHERE type = 'identify') known USING (a) WHERE type = 'track'
        """)
        return {key: sorted(connection.sql(query).fetchall()) for key, query in BY_HAND.items()}


@pytest.fixture(scope="module")
def summary(czech_bank_data: Path, home: Path) -> dict:
    """What ``cdp run --json`` prints for the whole history, on a fresh home."""
    command = [
        "-m",
        "cdp_assets",
        "run",
        "--space",
        "spaces/czech_bank",
        "--as-of",
        "1999-01-01T00:00:00Z",
        "--json",
        "--home",
        str(home),
    ]
    environment = {**os.environ, "CZECH_BANK_DATA": str(czech_bank_data)}
    result = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_every_event_of_the_archive_is_accepted(summary: dict) -> None:
    assert summary["raw_events"] == {"accepted": 84_671, "duplicates": 0, "quarantined": 0}


def test_each_client_is_one_profile(summary: dict) -> None:
    assert summary["profiles"] == 5_369


def test_audiences_count_what_a_direct_query_counts(summary: dict) -> None:
    assert {key: audience["members"] for key, audience in summary["audiences"].items()} == {
        "cash_without_card": 85,
        "debt_and_card": 3,
        "loan_without_household": 261,
        "loan_above_deposits": 334,
        "loan_in_debt": 45,
        "new_cards": 237,
    }


@pytest.mark.parametrize("audience", list(BY_HAND))
def test_members_and_their_rows_are_those_of_the_query_written_by_hand(
    summary: dict, home: Path, by_hand: dict[str, list[tuple]], audience: str
) -> None:
    assert summary["audiences"][audience]["members"] > 0
    with duckdb.connect(str(home / "czech_bank" / "czech_bank.duckdb"), read_only=True) as connection:
        found = connection.execute(
            """
            SELECT CAST(i.value AS INTEGER), CAST(c.entity_id AS INTEGER)
            FROM linked_audiences.audience_members m
            JOIN profiles.user_identifiers i USING (canonical_segment_id)
            LEFT JOIN linked_audiences.audience_context c
              ON c.audience = m.audience AND c.canonical_segment_id = m.canonical_segment_id AND c.path = ?
            WHERE m.audience = ? AND i.type = 'user_id'
            """,
            [LEAF.get(audience, ""), audience],
        ).fetchall()
    assert sorted(found) == by_hand[audience]


def test_only_consenting_debtors_are_sent(summary: dict) -> None:
    activation = summary["activations"]["debt_contacts"]
    assert activation["considered"] == 45
    assert activation["delivered"] == 28
    assert activation["withheld"] == {"consent": 17}
    assert activation["operations"] == {"enter": 28, "change": 0, "exit": 0, "retract": 0}
