"""A small world for payload tests: three entities in a row, upstream tables filled by hand, and a destination that checks fields."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdp_assets.activation_payloads.payloads import PayloadsResult, build_payloads
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.computed_traits.tables import TRAIT_VALUES
from cdp_assets.data_graph.model import ColumnJoin, DataGraph, Entity, ExternalIdJoin, Relationship
from cdp_assets.linked_audiences import tables as audiences
from cdp_assets.space.builds import record_build
from cdp_assets.space.models.activations import Activation, SqlModel
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.models.settings import ConsentCategory, SpaceConfig
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles import tables as profiles
from resources.destinations import Capabilities, FieldRule
from resources.warehouse import TableRef, TableSpec, Warehouse

AS_OF = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
WINDOW = "2026-03-01"
SEEN = dt.datetime(2026, 3, 1, 12)
LOADED = dt.datetime(2026, 3, 2, 1, tzinfo=dt.UTC)

CAPABILITIES = Capabilities(
    type="crm",
    actions=("upsert",),
    batch_rows=10,
    batch_bytes=100_000,
    resend="upsert",
    attribution="positional",
    retract="flag_false",
    fields={
        "contact": {
            "email": FieldRule("email", required=True),
            "limit": FieldRule("number"),
            "code": FieldRule("string", max_length=4),
            "*": FieldRule(),
        }
    },
    default_key_fields={"contact": "email"},
)

ACCOUNTS = TableSpec(
    TableRef("bank", "accounts"), {"id": "int64", "email": "string", "kind": "string"}, "accounts", subject="email"
)
CARDS = TableSpec(
    TableRef("bank", "cards"),
    {"card_id": "string", "account_id": "int64", "balance": "decimal(12, 2)", "due": "date", "note": "string"},
    "cards",
    subject=None,
)

GRAPH = DataGraph(
    version="v1.0.0",
    profile_folder="db.profiles",
    profile_type="segment:materialized",
    entities=(
        Entity("account", "Account", "bank.accounts", "ID"),
        Entity("card", "Card", "bank.cards", "CARD_ID"),
    ),
    relationships=(
        Relationship(
            "Accounts",
            "Accounts",
            "account",
            ExternalIdJoin("email", "email"),
            (Relationship("cards", "Cards", "card", ColumnJoin("id", "account_id")),),
        ),
    ),
)

AUDIENCE = Audience.model_validate(
    {
        "key": "overdue",
        "name": "Overdue",
        "groups": [{"conditions": [{"with_entity": "Accounts", "nested": {"conditions": [{"with_entity": "cards"}]}}]}],
    }
)
TRAITS = {
    "logins": Trait.model_validate({"key": "logins", "name": "Logins", "kind": "event_counter", "event": "Login"}),
    "channels": Trait.model_validate(
        {"key": "channels", "name": "C", "kind": "unique_list", "event": "Login", "property": "channel"}
    ),
}
IDENTITY: dict[str, Any] = {"@path": "$."}


def activation(**changes: Any) -> Activation:
    """An activation of the audience, profile enters, the whole message mapped; ``changes`` replace fields."""
    return Activation.model_validate(
        {
            "key": "notify",
            "name": "Notify",
            "audience": "overdue",
            "destination": "crm",
            "settings": {"object": "contact", "flag_field": "overdue"},
            "trigger": {"unit": "profile", "when": "enters"},
            "mapping": {"email": {"@path": "$.context.traits.email"}, "overdue": {"@path": "$.properties.overdue"}},
            "consent": {"subject": "profile", "categories": ["ads"]},
            "first_run": "send",
        }
        | changes
    )


def space(*activations: Activation, models: Mapping[str, SqlModel] | None = None) -> Space:
    config = SpaceConfig.model_validate(
        {
            "name": "bank",
            "start_date": "2026-01-01",
            "warehouse": {"schemas": ["bank"]},
            "consent_categories": [ConsentCategory(id="ads", name="Ads"), ConsentCategory(id="analytics", name="Analytics")],
            "destinations": {"crm": {"type": "crm"}},
        }
    )
    return Space(
        Path("/nowhere"), config, GRAPH, TRAITS, {"overdue": AUDIENCE}, models or {}, {one.key: one for one in activations}
    )


class World:
    """Fills the tables of earlier rooms. Identifiers, traits and consent get the order in which they are given."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.seq = 0
        self.rows: dict[TableRef, list[dict[str, Any]]] = {}
        self.specs = [
            ACCOUNTS,
            CARDS,
            *profiles.profile_tables("profiles"),
            *profiles.INTERNAL_TABLES,
            TRAIT_VALUES,
            *audiences.TABLES,
        ]
        warehouse.ensure(*self.specs)
        record_build(
            warehouse,
            audiences.SCHEMA,
            asset="overdue",
            partition_key=WINDOW,
            as_of=AS_OF,
            revision="rev-1",
            run_id="run-1",
            rows=0,
            loaded_at=LOADED,
        )
        self._add(audiences.PATH_ROWS, audience="overdue", partition_key=WINDOW, table_name="bank.cards", rows=7)

    def _add(self, spec: TableSpec, **row: Any) -> None:
        self.rows.setdefault(spec.ref, []).append(row)

    def _timed(self, spec: TableSpec, at: dt.datetime, **row: Any) -> None:
        self.seq += 1
        known = {"seq": self.seq, "received_at": at, "uuid_ts": at, "timestamp": at}
        self._add(spec, **row, **{name: value for name, value in known.items() if name in spec.columns})

    def profile(self, name: str, *, consent: Mapping[str, str] | None = None, at: dt.datetime = SEEN, **identifiers: str) -> None:
        """A profile with identifiers (in order) and consent per category; default: ads is true."""
        self._timed(profiles.id_graph_updates("profiles"), at, segment_id=name, canonical_segment_id=name)
        for kind, value in identifiers.items():
            self.identifier(name, kind, value, at)
        for category, value in ({"ads": "true"} if consent is None else consent).items():
            self._timed(profiles.CONSENT_STATES, at, segment_id=name, category=category, value=value)

    def identifier(self, name: str, kind: str, value: str, at: dt.datetime = SEEN) -> None:
        spec = profiles.external_id_mapping_updates("profiles")
        self._timed(spec, at, segment_id=name, external_id_type=kind, external_id_value=value, __operation="ADDED")

    def merge(self, name: str, into: str, at: dt.datetime) -> None:
        self._timed(profiles.id_graph_updates("profiles"), at, segment_id=name, canonical_segment_id=into)

    def consent(self, name: str, category: str, value: str, at: dt.datetime) -> None:
        self._timed(profiles.CONSENT_STATES, at, segment_id=name, category=category, value=value)

    def trait(self, name: str, trait: str, value: str) -> None:
        self._timed(profiles.TRAIT_UPDATES, SEEN, segment_id=name, name=trait, value=value)

    def computed(self, name: str, trait: str, *, text: str | None = None, number: float | None = None) -> None:
        self._add(
            TRAIT_VALUES, trait=trait, partition_key=WINDOW, canonical_segment_id=name, value_text=text, value_number=number
        )

    def member(self, name: str, cards: Sequence[tuple[int, str]] = ()) -> None:
        """A member with matched (account, card) pairs."""
        own = {"audience": "overdue", "partition_key": WINDOW, "canonical_segment_id": name}
        self._add(audiences.AUDIENCE_MEMBERS, **own)
        for account in sorted({account for account, _ in cards}):
            self._add(audiences.AUDIENCE_CONTEXT, **own, path="Accounts", entity_id=str(account))
        for account, card in cards:
            self._add(audiences.AUDIENCE_CONTEXT, **own, path="Accounts:cards", entity_id=card, parent_entity_id=str(account))

    def account(self, key: int, kind: str = "checking") -> None:
        self._add(ACCOUNTS, id=key, kind=kind)

    def card(self, key: str, account: int, balance: str = "1.50", note: str = "") -> None:
        from decimal import Decimal

        self._add(CARDS, card_id=key, account_id=account, balance=Decimal(balance), due=dt.date(2026, 4, 1), note=note)

    def save(self) -> None:
        """Write what was added, replacing what an earlier save wrote."""
        for spec in self.specs:
            if spec.ref in self.rows:
                self.warehouse.delete(spec.ref, [])
                known = spec.schema.to_pyarrow()
                schema = pa.schema([known.field(name) for name in spec.columns])
                self.warehouse.append(spec.ref, pa.Table.from_pylist(self.rows[spec.ref], schema=schema))

    # -- building and reading ------------------------------------------------------------------------------------------

    def build(self, one: Activation, *, models: Mapping[str, SqlModel] | None = None, **options: Any) -> PayloadsResult:
        self.save()
        arguments: dict[str, Any] = {
            "as_of": AS_OF,
            "window_key": WINDOW if one.audience else None,
            "definition_revision": "def-1",
            "run_id": "run-2",
            "loaded_at": LOADED,
        }
        return build_payloads(self.warehouse, space(one, models=models), one.key, **(arguments | options))

    def stored(self, key: str = "notify") -> list[dict[str, Any]]:
        """The activation's rows by unit, JSON texts parsed."""
        table = self.warehouse.table(PAYLOADS.ref)
        rows = self.warehouse.rows(table.filter(table.activation == key).order_by("unit"), 1000)
        for row in rows:
            for name in ("payload", "exit_payload", "retract_payload", "identifiers"):
                row[name] = json.loads(row[name]) if row[name] is not None else None
        return rows

    def verdicts(self, key: str = "notify") -> dict[str, str]:
        return {row["unit"]: row["verdict"] for row in self.stored(key)}
