"""owl_bank gives the same tables on DuckDB and on Snowflake.

Snowflake is the real connector, over HTTP, to a local server; every statement that it was sent also parses under sqlglot's
Snowflake dialect. With ``--live-snowflake`` the same runs on a real account.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from ruamel.yaml import YAML

from cdp_assets.generate import generate
from cdp_assets.pipeline import run_space
from cdp_assets.space.home import Home
from cdp_assets.unified_profiles.tables import profile_schema
from resources.sandbox.server import sandbox
from resources.space import load
from resources.warehouse import TableRef, Warehouse
from resources.warehouse.open import open_warehouse
from resources.warehouse.snowflake import SnowflakeWarehouse
from tests.e2e.conftest import END, ROOT
from tests.e2e.test_event_streams import STREAM

VARIABLES = (
    "SNOWFLAKE_ACCOUNT",
    "SNOWFLAKE_USER",
    "SNOWFLAKE_PASSWORD",
    "SNOWFLAKE_WAREHOUSE",
    "SNOWFLAKE_ROLE",
    "SNOWFLAKE_DATABASE",
)
# The clock, the run, and the scratch of one engine are outside the comparison.
OUTSIDE = {
    *("loaded_at", "run_id", "source_run_id", "token", "started_at", "ended_at", "held_at", "released_at", "retired_at"),
    *("confirmed_at", "first_attempt_at", "last_attempt_at", "attempted_at"),
}
SCHEMAS = (
    "pulled_sources",
    "raw_events",
    "events",
    "unified_profiles",
    "computed_traits",
    "linked_audiences",
    "activation_payloads",
    "destination_syncs",
    "reports",
)
# A stream of raw events, its consumer, and a report, which the space itself does not have.
PULLED = {
    "type": "kinesis",
    "settings": {"stream": "payments"},
    "key": "message_id",
    "columns": {"message_id": "string", "email": "string", "amount": "number", "occurred_at": "timestamp"},
    "fields": {"message_id": "messageId"},
    "poll": "continuously",
}
REPORT = """/*---
name: Events by name
primary_key: event
report: {plot: {label: event, values: [events]}}
---*/
SELECT event, COUNT(*) AS events, MAX(received_at) AS last_at FROM events.tracks WHERE received_at < :as_of GROUP BY event
"""


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Snowflake settings of the local server, or of the real account."""
    if not request.config.getoption("--live-snowflake"):
        local: dict[str, Any] = request.getfixturevalue("snowflake_server")
        return {**local, "database": "OWL_BANK", "schema": "PUBLIC"}
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        pytest.skip(f"did not run on a real account: {', '.join(missing)} not set")
    account, user, password, warehouse, role, database = (os.environ[name] for name in VARIABLES)
    return {"account": account, "user": user, "password": password, "warehouse": warehouse, "role": role, "database": database}


def space_folder(folder: Path, settings: dict[str, Any] | None) -> Path:
    shutil.copytree(ROOT / "spaces" / "owl_bank", folder)
    (folder / "activations" / "payments.yaml").write_text(STREAM)
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "events_by_name.sql").write_text(REPORT)
    yaml = YAML()
    document = yaml.load(folder / "space.yaml")
    document["destinations"]["kinesis"] = {"type": "kinesis"}
    document["pulled_sources"] = {"payments": PULLED}
    if settings is not None:
        document["warehouse"] = {"type": "snowflake", "schemas": ["bank"], "settings": settings}
    yaml.dump(document, folder / "space.yaml")
    if settings is not None:
        graph = folder / "data_graph.hcl"
        database = str(settings["database"]).lower()
        graph.write_text(graph.read_text().replace("owl_bank.", f"{database}."))
    return folder


def tables(warehouse: Warehouse, schemas: tuple[str, ...]) -> Iterator[tuple[str, list[tuple]]]:
    """Every table of the schemas, columns by name, rows sorted."""
    for schema in schemas:
        for ref in warehouse.list_tables(schema):
            table = warehouse.table(TableRef(ref.schema, ref.name))
            # A report's revision is that of its query as the engine's dialect writes it.
            outside = {*OUTSIDE, "revision"} if schema == "reports" else OUTSIDE
            columns = sorted(set(table.columns) - outside)
            rows = warehouse.arrow(table.select(*columns)).to_pylist()
            yield str(ref), sorted((tuple(row[c] for c in columns) for row in rows), key=repr)


@pytest.mark.snowflake
def test_owl_bank_gives_identical_tables_on_both_engines(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    execute = SnowflakeWarehouse._execute

    def recorded(self: SnowflakeWarehouse, sql: str):
        statements.append(sql)
        return execute(self, sql)

    monkeypatch.setattr(SnowflakeWarehouse, "_execute", recorded)
    found: dict[str, dict[str, list[tuple]]] = {}
    summaries = {}
    for engine, chosen in (("duckdb", None), ("snowflake", settings)):
        directory = space_folder(tmp_path / engine / "space", chosen)
        home = Home(tmp_path / engine / "home")
        space = load(directory)
        with open_warehouse(space, home) as warehouse:
            generate(space, warehouse, home, profiles=40, days=3, seed=11, end=END)
        with sandbox(home.sandbox) as url:
            monkeypatch.setenv("CDP_SANDBOX_URL", url)
            report = run_space(directory, home, as_of=END)
        assert report.failures == {}
        summaries[engine] = report.summary
        with open_warehouse(space, home) as warehouse:
            found[engine] = dict(tables(warehouse, (*SCHEMAS, profile_schema(space.graph))))
    assert summaries["duckdb"] == summaries["snowflake"]
    assert summaries["duckdb"]["audiences"]["overdue_checking"]["members"] > 0
    assert found["duckdb"].keys() == found["snowflake"].keys()
    for name, rows in found["duckdb"].items():
        assert rows == found["snowflake"][name], name
    assert len(statements) > 50
    for statement in statements:
        sqlglot.parse_one(statement, read="snowflake")
