"""A million members of an audience to payloads by a mapping of ten fields, beside the SQL that an engineer would write for them."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from pathlib import Path

from benchmarks.figures import Clock, Figure
from cdp_assets.activation_payloads.payloads import build_payloads
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.data_graph.model import DataGraph, Entity, ExternalIdJoin, Relationship
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS, SCHEMA
from cdp_assets.linked_audiences.tables import TABLES as AUDIENCE_TABLES
from cdp_assets.space.builds import record_build
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.models.settings import ConsentCategory, DestinationConfig, SpaceConfig, WarehouseConfig
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import INTERNAL_TABLES, profile_schema, profile_tables
from resources.warehouse.duckdb import DuckDBWarehouse, open_duckdb

TITLE = "Payloads of an audience: a mapping of ten fields"
TEXT = """
Members with an e-mail and a user id, two traits of identify calls, consent, and one or two accounts by which they match, to payloads of
entering and of leaving: identifiers, traits, the first account's columns, the audience's flag and constants, judged by consent, hashed,
written with what takes each back. By hand is the SQL that writes the same rows with DuckDB's own JSON functions; the benchmark checks
that they are the same.
"""

MEMBERS = 1_000_000
NOW = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
WINDOW = "2026-03-31"
GRAPH = DataGraph(
    "v1.0.0",
    "BENCH.PROFILES",
    "segment:materialized",
    (Entity("account", "Account", "bank.accounts", "id"),),
    (Relationship("accounts", "Accounts", "account", ExternalIdJoin("email", "owner")),),
)
AUDIENCE = Audience(key="owners", name="Owners", groups=({"conditions": ({"with_entity": "accounts"},)},))
ACTIVATION = Activation(
    key="owners_to_crm",
    name="Owners to CRM",
    audience="owners",
    destination="crm",
    settings={"path": "users", "key_field": "id"},
    trigger={"unit": "profile", "when": "enters_or_exits"},
    identifier="user_id",
    personalization={"traits": ["first_name", "plan"], "entities": [{"path": "accounts", "columns": ["balance", "opened"]}]},
    mapping={
        "id": {"@path": "$.userId"},
        "Email": {"@path": "$.traits.email"},
        "FirstName": {"@path": "$.traits.first_name"},
        "Plan": {"@path": "$.traits.plan"},
        "Account": {"@path": "$.traits.accounts[0].id"},
        "Balance": {"@path": "$.traits.accounts[0].balance"},
        "Opened": {"@path": "$.traits.accounts[0].opened"},
        "Owner": {"@path": "$.traits.owners"},
        "Source": "warehouse",
        "Tags": ["crm", "daily"],
    },
    consent={"subject": "profile", "categories": ["ads"]},
    first_run="send",
)


def run(scale: float, folder: Path) -> list[Figure]:
    members = int(MEMBERS * scale)
    clock = Clock()
    with closing(open_duckdb(folder / "audience_mapping.duckdb", memory_limit="12GB")) as warehouse:
        warehouse.ensure(*profile_tables(profile_schema(GRAPH)), *INTERNAL_TABLES, *AUDIENCE_TABLES)
        _generate(warehouse, members)
        # The first pass over a file that was just written is not the one to time.
        _by_hand(warehouse)
        with clock.part("by hand"):
            _by_hand(warehouse)
        with clock.part("mapped"):
            _map(warehouse, members)
        _check(warehouse)
    s = clock.seconds
    return [
        Figure("by hand", s["by hand"], members),
        Figure("mapped payloads", s["mapped"], members, "by hand", s["mapped"] / s["by hand"], 3.0),
    ]


def _map(warehouse: DuckDBWarehouse, members: int) -> None:
    config = SpaceConfig(
        name="bench",
        start_date=NOW.date(),
        warehouse=WarehouseConfig(schemas=("bank",)),
        consent_categories=(ConsentCategory(id="ads", name="Ads"),),
        destinations={"crm": DestinationConfig(type="http")},
    )
    space = Space(Path("/nowhere"), config, GRAPH, audiences={"owners": AUDIENCE}, activations={ACTIVATION.key: ACTIVATION})
    result = build_payloads(warehouse, space, ACTIVATION.key, NOW, WINDOW, "r1", "bench", NOW)
    assert (result.units, result.units - result.ok) == (members, result.withheld.get("consent", 0)), result
    assert result.ok > members / 2


def _generate(warehouse: DuckDBWarehouse, members: int) -> None:
    execute = warehouse._run
    execute(
        "INSERT INTO profiles.id_graph_updates (segment_id, canonical_segment_id, seq, received_at) "
        f"SELECT md5('p' || i), md5('p' || i), i, TIMESTAMP '2026-01-01' FROM range({members}) AS r(i)"
    )
    for kind, prefix, step in (("email", "e", 0), ("user_id", "u", 1)):
        execute(
            "INSERT INTO profiles.external_id_mapping_updates "
            "(segment_id, external_id_type, external_id_value, __operation, seq, received_at) "
            f"SELECT md5('p' || i), '{kind}', '{prefix}' || i || '@x.org', 'ADDED', 2 * i + {step}, TIMESTAMP '2026-01-01' "
            f"FROM range({members}) AS r(i)"
        )
    for name, value, step in (("first_name", "(['Ada', 'Zoë', 'O''Hara'])[1 + i % 3]", 0), ("plan", "'plan ' || i % 4", 1)):
        execute(
            "INSERT INTO unified_profiles.trait_updates (segment_id, name, value, seq, received_at) "
            f"SELECT md5('p' || i), '{name}', {value}, 2 * i + {step}, TIMESTAMP '2026-01-01' FROM range({members}) AS r(i) WHERE i % 5 > 0"
        )
    execute(
        "INSERT INTO unified_profiles.consent_states (segment_id, category, value, seq, received_at) SELECT md5('p' || i), 'ads', "
        f"CASE WHEN i % 10 = 0 THEN 'false' ELSE 'true' END, i, TIMESTAMP '2026-01-01' FROM range({members}) AS r(i)"
    )
    execute("CREATE SCHEMA IF NOT EXISTS bank")
    execute(
        "CREATE TABLE bank.accounts AS SELECT 1000000 + i AS id, 'e' || i % "
        f"{members} || '@x.org' AS owner, (i * 7919) % 100000 + 0.25 AS balance, DATE '2020-01-01' + CAST(i % 2000 AS INTEGER) AS opened "
        f"FROM range({members * 3 // 2}) AS r(i)"
    )
    execute(
        f"INSERT INTO {warehouse.name(AUDIENCE_MEMBERS.ref)} (audience, partition_key, as_of, revision, canonical_segment_id) "
        f"SELECT 'owners', '{WINDOW}', TIMESTAMP '2026-04-01', 'r1', md5('p' || i) FROM range({members}) AS r(i)"
    )
    execute(
        f"INSERT INTO {warehouse.name(AUDIENCE_CONTEXT.ref)} (audience, partition_key, as_of, revision, canonical_segment_id, path, entity_id) "
        f"SELECT 'owners', '{WINDOW}', TIMESTAMP '2026-04-01', 'r1', md5('p' || i % {members}), 'accounts', CAST(1000000 + i AS VARCHAR) "
        f"FROM range({members * 3 // 2}) AS r(i)"
    )
    record_build(
        warehouse,
        SCHEMA,
        asset="owners",
        partition_key=WINDOW,
        as_of=NOW,
        revision="r1",
        run_id="bench",
        rows=members,
        loaded_at=NOW,
    )


def _by_hand(warehouse: DuckDBWarehouse) -> None:
    warehouse._run("DROP TABLE IF EXISTS bank.by_hand")
    warehouse._run(
        f"""
        CREATE TABLE bank.by_hand AS
        WITH who AS (
            SELECT segment_id, arg_max(canonical_segment_id, seq) AS person FROM profiles.id_graph_updates
            WHERE received_at < TIMESTAMP '2026-04-01' GROUP BY segment_id
        ), held AS (
            SELECT person, external_id_type AS kind, external_id_value AS value, max(seq) AS seq, arg_max(__operation, seq) AS op
            FROM profiles.external_id_mapping_updates JOIN who USING (segment_id)
            WHERE received_at < TIMESTAMP '2026-04-01' GROUP BY ALL
        ), known AS (
            SELECT person, arg_max(value, seq) FILTER (kind = 'user_id') AS user_id, arg_max(value, seq) FILTER (kind = 'email') AS email,
                arg_max(value, seq) FILTER (kind = 'anonymous_id') AS anonymous_id
            FROM held WHERE op <> 'REMOVED' GROUP BY person
        ), said AS (
            SELECT person, arg_max(value, seq) FILTER (name = 'first_name') AS first_name, arg_max(value, seq) FILTER (name = 'plan') AS plan
            FROM unified_profiles.trait_updates JOIN who USING (segment_id) WHERE received_at < TIMESTAMP '2026-04-01' GROUP BY person
        ), agreed AS (
            SELECT person, arg_max(value, seq) = 'true' AS ads FROM unified_profiles.consent_states JOIN who USING (segment_id)
            WHERE category = 'ads' GROUP BY person
        ), first AS (
            SELECT canonical_segment_id AS person, min(entity_id) AS id FROM {warehouse.name(AUDIENCE_CONTEXT.ref)}
            WHERE audience = 'owners' AND partition_key = '{WINDOW}' AND path = 'accounts' GROUP BY 1
        ), members AS (
            SELECT m.canonical_segment_id AS person, k.user_id, k.email, k.anonymous_id, s.first_name, s.plan, a.id, a.balance, a.opened,
                coalesce(ads, false) AS ads,
                '"Account":' || a.id || ',"Balance":' || a.balance || ',"Email":' || to_json(k.email)
                    || CASE WHEN s.first_name IS NULL THEN '' ELSE ',"FirstName":' || to_json(s.first_name) END
                    || ',"Opened":' || to_json(CAST(a.opened AS VARCHAR)) || ',"Owner":' AS before,
                CASE WHEN s.plan IS NULL THEN '' ELSE ',"Plan":' || to_json(s.plan) END
                    || ',"Source":"warehouse","Tags":["crm","daily"],"id":' || to_json(k.user_id) AS after
            FROM {warehouse.name(AUDIENCE_MEMBERS.ref)} m
            LEFT JOIN known k ON k.person = m.canonical_segment_id LEFT JOIN said s ON s.person = m.canonical_segment_id
            LEFT JOIN agreed g ON g.person = m.canonical_segment_id LEFT JOIN first f ON f.person = m.canonical_segment_id
            LEFT JOIN bank.accounts a ON CAST(a.id AS VARCHAR) = f.id
            WHERE m.audience = 'owners' AND m.partition_key = '{WINDOW}'
        ), made AS (
            SELECT *, CASE WHEN ads THEN '{{' || before || 'true' || after || '}}' END AS payload,
                CASE WHEN ads THEN '{{' || before || 'false' || after || '}}' END AS exit_payload
            FROM members
        )
        SELECT 'owners_to_crm' AS activation, person AS unit, person AS canonical_segment_id, CAST(NULL AS VARCHAR) AS path,
            CAST(NULL AS VARCHAR) AS entity_id, CAST(NULL AS VARCHAR) AS row_key, user_id AS destination_key, payload,
            sha256(payload) AS payload_hash, exit_payload, CAST(json_object('id', user_id) AS VARCHAR) AS retract_payload,
            CASE WHEN ads THEN CAST(json_object('email', email, 'user_id', user_id) AS VARCHAR) END AS identifiers,
            CASE WHEN ads THEN 'ok' ELSE 'consent' END AS verdict, '' AS detail, TIMESTAMP '2026-04-01' AS as_of,
            'r1' AS definition_revision, CAST(NULL AS TIMESTAMP) AS occurred_at
        FROM made
        """
    )


def _check(warehouse: DuckDBWarehouse) -> None:
    names = ", ".join(PAYLOADS.columns)
    mapped, by_hand = f"SELECT {names} FROM {warehouse.name(PAYLOADS.ref)}", f"SELECT {names} FROM bank.by_hand"
    for one, other in ((mapped, by_hand), (by_hand, mapped)):
        rows = warehouse._connection.execute(f"SELECT * FROM (({one}) EXCEPT ALL ({other})) LIMIT 2").fetchall()
        assert not rows, rows
