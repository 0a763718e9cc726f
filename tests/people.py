"""Builds the people and events of a test straight in the warehouse, without the rooms before.

``World`` collects rows in plain Python and writes them in one go; its rows are also what naive oracles read.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdp_assets.computed_traits.tables import TABLES as TRAIT_TABLES
from cdp_assets.data_graph.model import DataGraph, Entity, Relationship
from cdp_assets.linked_audiences.tables import TABLES as AUDIENCE_TABLES
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.models.settings import SpaceConfig, WarehouseConfig
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window, window_of
from cdp_assets.unified_profiles.tables import (
    EVENT_PROFILES,
    GROUP_MEMBERSHIPS,
    GROUP_TABLES,
    INTERNAL_TABLES,
    TRAIT_UPDATES,
    external_id_mapping_updates,
    id_graph_updates,
    profile_tables,
)
from resources.warehouse import TableRef, TableSpec, Warehouse

SCHEMA = "profiles"
AS_OF = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LONG_AGO = AS_OF - dt.timedelta(days=400)
REVISION = "r1"


def ago(**span: float) -> dt.datetime:
    """So long before AS_OF, naive as warehouse columns are."""
    return (AS_OF - dt.timedelta(**span)).replace(tzinfo=None)


@dataclass
class World:
    """People, their events, and the company's tables. Times are naive UTC; received long ago unless said otherwise."""

    profiles: list[dict[str, Any]] = field(default_factory=list)
    identifiers: list[dict[str, Any]] = field(default_factory=list)
    traits: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    memberships: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, tuple[dict[str, str], list[dict[str, Any]]]] = field(default_factory=dict)
    _seq: int = 0

    def _times(self, received_at: dt.datetime | None) -> dict[str, Any]:
        self._seq += 1
        return {"seq": self._seq, "received_at": received_at or LONG_AGO.replace(tzinfo=None)}

    def profile(self, segment_id: str, received_at: dt.datetime | None = None, **identifiers: str | list[str]) -> None:
        self.profiles.append({"segment_id": segment_id, "canonical_segment_id": segment_id, **self._times(received_at)})
        for kind, values in identifiers.items():
            for value in [values] if isinstance(values, str) else values:
                self.identify(segment_id, kind, value, received_at)

    def identify(self, segment_id: str, kind: str, value: str, received_at: dt.datetime | None = None) -> None:
        self.identifiers.append(
            {"segment_id": segment_id, "external_id_type": kind, "external_id_value": value, "__operation": "ADDED"}
            | self._times(received_at)
        )

    def merge(self, loser: str, winner: str, received_at: dt.datetime | None = None) -> None:
        """(loser, winner), and again for all that had merged into the loser."""
        current = {row["segment_id"]: row["canonical_segment_id"] for row in self.profiles}
        for segment_id, canonical in current.items():
            if canonical == loser:
                self.profiles.append({"segment_id": segment_id, "canonical_segment_id": winner, **self._times(received_at)})

    def trait(self, segment_id: str, name: str, value: str | None, received_at: dt.datetime | None = None) -> None:
        self.traits.append({"segment_id": segment_id, "name": name, "value": value, **self._times(received_at)})

    def member(self, segment_id: str, group_id: str, received_at: dt.datetime | None = None) -> None:
        number = f"g{len(self.memberships):05}"
        self.memberships.append(
            {"segment_id": segment_id, "group_id": group_id, "message_id": number, **self._times(received_at)}
        )

    def event(
        self,
        segment_id: str | None,
        name: str,
        at: dt.datetime,
        properties: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        received_at: dt.datetime | None = None,
    ) -> None:
        self.events.append(
            {
                "segment_id": segment_id,
                "event": name,
                "type": "track",
                "timestamp": at,
                "properties": properties or {},
                "context": context or {},
                "message_id": f"m{len(self.events):05}",
                **self._times(received_at or min(at, ago(hours=0) - dt.timedelta(microseconds=1))),
            }
        )

    def table(self, name: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> None:
        """A company table in schema ``bank``; ``columns`` are ibis type words."""
        self.tables[name] = (columns, rows)

    def write(self, warehouse: Warehouse) -> None:
        """All of it into the warehouse, replacing what was there."""
        specs = [*profile_tables(SCHEMA), *INTERNAL_TABLES, *GROUP_TABLES, MESSAGES]
        warehouse.ensure(*specs, *TRAIT_TABLES, *AUDIENCE_TABLES)
        _fill(warehouse, id_graph_updates(SCHEMA), self.profiles)
        _fill(warehouse, external_id_mapping_updates(SCHEMA), self.identifiers)
        _fill(warehouse, TRAIT_UPDATES, self.traits)
        _fill(warehouse, GROUP_MEMBERSHIPS, self.memberships)
        _fill(warehouse, EVENT_PROFILES, [_only(e, "message_id", "segment_id", "seq", "received_at") for e in self.events])
        names = ("message_id", "type", "event", "timestamp", "received_at")
        documents = [{p: json.dumps(e[p], default=str) for p in ("properties", "context")} for e in self.events]
        _fill(warehouse, MESSAGES, [_only(e, *names) | d for e, d in zip(self.events, documents, strict=True)])
        self.write_tables(warehouse)

    def write_tables(self, warehouse: Warehouse) -> None:
        """The company's tables only."""
        for name, (columns, rows) in self.tables.items():
            spec = TableSpec(TableRef("bank", name), columns, name, subject=None)
            warehouse.ensure(spec)
            _fill(warehouse, spec, rows)


def _only(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _fill(warehouse: Warehouse, spec: TableSpec, rows: list[dict[str, Any]]) -> None:
    warehouse.delete(spec.ref, [])
    if rows:
        schema = spec.schema.to_pyarrow()
        names = [name for name in schema.names if name in rows[0]]
        warehouse.append(
            spec.ref, pa.table({name: pa.array([row.get(name) for row in rows], schema.field(name).type) for name in names})
        )


def space(
    *relationships: Relationship,
    entities: tuple[Entity, ...] = (),
    traits: list[dict[str, Any]] | None = None,
    audiences: list[dict[str, Any]] | None = None,
) -> Space:
    """A space with monthly partitions from 2025 on; traits and audiences as their files say them."""
    graph = DataGraph("v1.0.0", f"db.{SCHEMA}", "segment:materialized", entities, relationships)
    config = SpaceConfig(
        name="test", start_date=dt.date(2024, 1, 1), partitions="monthly", warehouse=WarehouseConfig(schemas=("bank",))
    )
    made_traits = {t["key"]: Trait(**{"name": t["key"], **t}) for t in traits or []}
    made_audiences = {a["key"]: Audience(**{"name": a["key"], **a}) for a in audiences or []}
    return Space(Path("/nowhere"), config, graph, made_traits, made_audiences)


def revisions(space: Space) -> dict[str, str]:
    return dict.fromkeys([*space.traits, *space.audiences], REVISION)


def window(space: Space, as_of: dt.datetime = AS_OF) -> Window:
    return window_of(space.config, as_of)
