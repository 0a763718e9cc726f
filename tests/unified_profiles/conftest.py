"""People built from messages: write messages, build, and read the room's tables."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pytest

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.settings import ConsentCategory, IdentitySettings, SpaceConfig
from cdp_assets.unified_profiles.build import ProfilesResult, build_profiles
from cdp_assets.unified_profiles.tables import INTERNAL_TABLES, profile_tables
from resources.warehouse import TableRef, Warehouse

START = dt.datetime(2026, 1, 1)
AS_OF = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)


class People:
    """A space with two consent categories whose messages come from ``say``, one a minute."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.identity = IdentitySettings()
        self.graph = DataGraph("v1.0.0", "DB.PEOPLE", "segment:materialized", (), ())
        self.messages: list[dict[str, Any]] = []
        warehouse.ensure(MESSAGES)

    @property
    def config(self) -> SpaceConfig:
        categories = (ConsentCategory(id="ad", name="Ads"), ConsentCategory(id="stats", name="Statistics"))
        return SpaceConfig(name="test", start_date=START.date(), identity=self.identity, consent_categories=categories)

    def say(
        self,
        user: str | None = None,
        anonymous: str | None = None,
        *,
        minute: int | None = None,
        message_id: str | None = None,
        consent: dict[str, bool] | None = None,
        context: dict[str, Any] | None = None,
        traits: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> str:
        """A message (identify where it has traits); its id."""
        number = len(self.messages)
        at = START + dt.timedelta(minutes=number if minute is None else minute)
        context = {**(context or {}), **({"consent": {"categoryPreferences": consent}} if consent is not None else {})}
        row = {
            "message_id": message_id or f"m{number:03}",
            "type": "track" if traits is None else "identify",
            "event": "Seen" if traits is None else None,
            "user_id": user,
            "anonymous_id": anonymous,
            "received_at": at,
            "timestamp": at,
            "properties": None if properties is None else json.dumps(properties),
            "traits": None if traits is None else json.dumps(traits),
            "context": json.dumps(context) if context else None,
        }
        self.messages.append(row)
        return row["message_id"]

    def build(self, as_of: dt.datetime = AS_OF) -> ProfilesResult:
        self.warehouse.delete(MESSAGES.ref, [])
        columns = {name: [row[name] for row in self.messages] for name in self.messages[0]} if self.messages else {}
        schema = MESSAGES.schema.to_pyarrow()
        self.warehouse.append(MESSAGES.ref, pa.table({n: pa.array(v, schema.field(n).type) for n, v in columns.items()}))
        return build_profiles(self.warehouse, self.config, self.graph, as_of, AS_OF, "run")

    def rows(self, table: str, *columns: str) -> list[tuple]:
        """Rows of one of the room's tables, sorted."""
        schema = "unified_profiles" if table in {spec.ref.name for spec in INTERNAL_TABLES} else "people"
        found = self.warehouse.table(TableRef(schema, table))
        return sorted((tuple(row.values()) for row in self.warehouse.rows(found.select(*columns), 10_000)), key=str)

    def all_tables(self) -> dict[str, list[tuple]]:
        specs = (*profile_tables("people"), *INTERNAL_TABLES)
        return {spec.ref.name: self.rows(spec.ref.name, *spec.columns) for spec in specs}

    def profile_of(self, message_id: str) -> str | None:
        return dict(self.rows("event_profiles", "message_id", "segment_id"))[message_id]


@pytest.fixture
def people(duckdb_warehouse: Warehouse) -> People:
    return People(duckdb_warehouse)


@pytest.fixture
def any_people(warehouse: Warehouse) -> People:
    """People, once on each engine."""
    return People(warehouse)


@pytest.fixture
def both_people(duckdb_warehouse: Warehouse, snowflake_warehouse: Warehouse) -> tuple[People, People]:
    """The same people on both engines."""
    return People(duckdb_warehouse), People(snowflake_warehouse)
