"""A million rows of a model to payloads by a mapping of ten fields, beside the SQL that an engineer would write for them."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from pathlib import Path

from benchmarks.figures import Clock, Figure
from cdp_assets.activation_payloads.payloads import build_payloads
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.models.activations import Activation, SqlModel
from cdp_assets.space.models.settings import DestinationConfig, SpaceConfig, WarehouseConfig
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import INTERNAL_TABLES, profile_schema, profile_tables
from resources.warehouse.duckdb import DuckDBWarehouse, open_duckdb

TITLE = "Payloads: a mapping of ten fields"
TEXT = """
A model of users to payloads: eight columns of every type, a constant and a constant list, mapped, judged, hashed, written with what takes
each row back. By hand is one statement that writes the same rows with DuckDB's own JSON functions; the benchmark checks that they are
the same.
"""

ROWS = 1_000_000
NOW = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
GRAPH = DataGraph("v1.0.0", "BENCH.PROFILES", "segment:materialized", (), ())
MODEL = SqlModel(
    key="users",
    name="Users",
    primary_key="id",
    query="SELECT id, email, first_name, plan, seats, balance, signed_up, active, country FROM bench.users",
)
ACTIVATION = Activation(
    key="users_to_crm",
    name="Users to CRM",
    model="users",
    destination="crm",
    settings={"path": "users", "key_field": "id"},
    trigger={"unit": "row", "when": "upsert"},
    mapping={
        "id": {"@path": "$.properties.id"},
        "Email": {"@path": "$.properties.email"},
        "FirstName": {"@path": "$.properties.first_name"},
        "Plan": {"@path": "$.properties.plan"},
        "Seats": {"@path": "$.properties.seats"},
        "Balance": {"@path": "$.properties.balance"},
        "SignedUp": {"@path": "$.properties.signed_up"},
        "Active": {"@path": "$.properties.active"},
        "Source": "warehouse",
        "Tags": ["crm", "daily"],
    },
    consent={"subject": "none", "reason": "rows of a benchmark"},
    first_run="send",
)


def run(scale: float, folder: Path) -> list[Figure]:
    rows = int(ROWS * scale)
    clock = Clock()
    with closing(open_duckdb(folder / "mapping.duckdb", memory_limit="12GB")) as warehouse:
        warehouse.ensure(*profile_tables(profile_schema(GRAPH)), *INTERNAL_TABLES)
        _generate(warehouse, rows)
        # The first pass over a file that was just written is not the one to time.
        _by_hand(warehouse)
        with clock.part("by hand"):
            _by_hand(warehouse)
        with clock.part("mapped"):
            _map(warehouse, rows)
        _check(warehouse)
    s = clock.seconds
    return [
        Figure("by hand", s["by hand"], rows),
        Figure("mapped payloads", s["mapped"], rows, "by hand", s["mapped"] / s["by hand"], 3.0),
    ]


def _map(warehouse: DuckDBWarehouse, rows: int) -> None:
    config = SpaceConfig(
        name="bench",
        start_date=NOW.date(),
        warehouse=WarehouseConfig(schemas=("bench",)),
        destinations={"crm": DestinationConfig(type="http")},
    )
    space = Space(Path("/nowhere"), config, GRAPH, models={MODEL.key: MODEL}, activations={ACTIVATION.key: ACTIVATION})
    result = build_payloads(warehouse, space, ACTIVATION.key, NOW, None, "r1", "bench", NOW)
    assert (result.units, result.ok) == (rows, rows), result


def _generate(warehouse: DuckDBWarehouse, rows: int) -> None:
    warehouse._run("CREATE SCHEMA IF NOT EXISTS bench")
    warehouse._run(
        f"""
        CREATE TABLE bench.users AS SELECT
            printf('user-%08d', i) AS id, 'person' || i || '@example.com' AS email, (['Ada', 'Zoë', 'O''Hara', NULL])[1 + h % 4] AS first_name,
            (['free', 'team', 'business'])[1 + (h // 7) % 3] AS plan, CAST(h % 500 AS INTEGER) AS seats,
            (h // 11) % 100000 + 0.25 AS balance, TIMESTAMP '2020-01-01' + to_seconds(CAST(h % 150000000 AS BIGINT)) AS signed_up,
            h % 2 = 0 AS active, (['CZ', 'DE', 'FR'])[1 + (h // 13) % 3] AS country
        FROM (SELECT i, CAST(hash(i) // 2 AS BIGINT) AS h FROM range({rows}) AS r(i))
        """
    )


def _by_hand(warehouse: DuckDBWarehouse) -> None:
    warehouse._run("DROP TABLE IF EXISTS bench.by_hand")
    warehouse._run(
        """
        CREATE TABLE bench.by_hand AS
        SELECT
            'users_to_crm' AS activation, id AS unit, CAST(NULL AS VARCHAR) AS canonical_segment_id, CAST(NULL AS VARCHAR) AS path,
            CAST(NULL AS VARCHAR) AS entity_id, id AS row_key, id AS destination_key, payload, sha256(payload) AS payload_hash,
            payload AS exit_payload, CAST(json_object('id', id) AS VARCHAR) AS retract_payload, '{}' AS identifiers, 'ok' AS verdict,
            '' AS detail, TIMESTAMP '2026-04-01' AS as_of, 'r1' AS definition_revision, CAST(NULL AS TIMESTAMP) AS occurred_at
        FROM (
            SELECT id, CAST(json_object(
                'Active', active, 'Balance', balance, 'Email', email, 'FirstName', first_name, 'Plan', plan, 'Seats', seats,
                'SignedUp', strftime(signed_up, '%Y-%m-%dT%H:%M:%SZ'), 'Source', 'warehouse', 'Tags', ['crm', 'daily'], 'id', id
            ) AS VARCHAR) AS payload
            FROM bench.users
        )
        """
    )


def _check(warehouse: DuckDBWarehouse) -> None:
    mapped = f"FROM {warehouse.name(PAYLOADS.ref)}"
    for one, other in ((mapped, "FROM bench.by_hand"), ("FROM bench.by_hand", mapped)):
        rows = warehouse._connection.execute(f"SELECT * FROM (({one}) EXCEPT ALL ({other})) LIMIT 2").fetchall()
        assert not rows, rows
