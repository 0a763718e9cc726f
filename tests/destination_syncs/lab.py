"""A small world to sync in: payloads and people set by hand, a destination in memory, a journal, and a clock that obeys."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdp_assets.activation_payloads.tables import MESSAGE_ID_TOKEN, PAYLOAD_BUILDS, PAYLOADS
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.destination_syncs.accounting import SyncResult
from cdp_assets.destination_syncs.journal import Journal
from cdp_assets.destination_syncs.plan import SyncRequest
from cdp_assets.destination_syncs.sync import Surroundings, sync_activation
from cdp_assets.destination_syncs.tables import LEDGER, OUTCOMES, ROOM_TABLES
from cdp_assets.space.models.activations import Activation
from cdp_assets.unified_profiles.tables import (
    CONSENT_STATES,
    ID_ALIASES,
    external_id_mapping_updates,
    id_graph_updates,
)
from resources.destinations import Action, Capabilities, JobBook, Operation, Outcome
from resources.warehouse import Warehouse, naive_utc

START = dt.datetime(2026, 3, 1, 6, 0, tzinfo=dt.UTC)
GRAPH = DataGraph(
    version="v1.0.0", entities=(), relationships=(), profile_folder="lab.people", profile_type="segment:materialized"
)


class Crash(BaseException):
    """The process dies here."""


@dataclass
class FakeDestination:
    """A destination in memory. ``script`` holds answers or exceptions for the next batches; without one everything is delivered.

    ``records``: what it holds by key, for destinations that set; ``log``: every operation that arrived, in order.
    """

    capabilities: Capabilities
    script: list[Any] = field(default_factory=list)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: list[Operation] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        keys = [operation.key for operation in operations]
        assert len(set(keys)) == len(keys), "a key twice in one batch"
        bulk = self.capabilities.bulk
        assert len(operations) <= (bulk.batch_rows if bulk else self.capabilities.batch_rows)
        self.batches.append(keys)
        step = self.script.pop(0) if self.script else None
        if step is not None:
            return step(self, operations)
        return [self.take(operation) for operation in operations]

    def take(self, operation: Operation) -> Outcome:
        self.log.append(operation)
        if operation.kind in ("exit", "retract"):
            self.records.pop(operation.key, None)
        else:
            self.records[operation.key] = dict(operation.payload)
        return Outcome(operation.id, "delivered")

    def remember(self, jobs: JobBook) -> None:
        pass

    def close(self) -> None:
        pass

    def sent(self) -> list[tuple[str, str]]:
        """(kind, key) of everything that arrived, and forget it."""
        found = [(operation.kind, operation.key) for operation in self.log]
        self.log.clear()
        return found


def all_answer(status: str, reason: str = "", not_before: dt.datetime | None = None) -> Any:
    """A step of a script: nothing arrives, every operation has this outcome."""
    return lambda destination, operations: [Outcome(o.id, status, reason, not_before) for o in operations]


def no_answer(arrived: bool) -> Any:
    """A step: the connection drops, after or before the destination took the batch."""

    def step(destination: FakeDestination, operations: Sequence[Operation]) -> list[Outcome]:
        for operation in operations if arrived else ():
            destination.take(operation)
        return [Outcome(o.id, "unknown", "timeout") for o in operations]

    return step


def crash(arrived: bool) -> Any:
    """A step: the process dies while the request is out."""

    def step(destination: FakeDestination, operations: Sequence[Operation]) -> list[Outcome]:
        for operation in operations if arrived else ():
            destination.take(operation)
        raise Crash

    return step


def capabilities(
    resend: str = "upsert", *, retract: str | None = None, rows: int = 100, attribution: str = "keyed"
) -> Capabilities:
    return Capabilities(
        type="fake",
        actions=("upsert",),
        batch_rows=rows,
        batch_bytes=1_000_000,
        resend=resend,  # type: ignore[arg-type]
        attribution=attribution,  # type: ignore[arg-type]
        retract=(retract or ("none" if resend == "append" else "remove")),  # type: ignore[arg-type]
    )


def activation(when: str = "enters_or_exits", **given: Any) -> Activation:
    unit = given.pop("unit", "row" if when in ("upsert", "mirror") else "profile")
    trigger = {"unit": unit, "when": when, **({"path": "accounts:cards"} if unit == "entity" else {})}
    source = {"model": "rows"} if unit == "row" else {"audience": "overdue"}
    consent = {"subject": "none", "reason": "companies"} if unit == "row" else {"subject": "profile", "categories": ["ads"]}
    settings = {"first_run": "send", "consent": consent, "mapping": {}, "destination": "crm", "key": "act", "name": "Act"}
    return Activation.model_validate({**settings, **source, "trigger": trigger, **given})


@dataclass
class Lab:
    """``want`` sets the desired state, ``sync`` runs one sync; people are made by ``people``, ``consent``, ``merge``, ``unmerge``."""

    warehouse: Warehouse
    journal: Journal
    destination: FakeDestination
    activation: Activation
    now: dt.datetime = START
    account: str = "sandbox"
    revision: str = "rev-1"
    tables: dict[str, int] = field(default_factory=dict)
    seq: int = 0
    runs: int = 0
    canonical: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    consent_now: Any = None

    def __post_init__(self) -> None:
        self.warehouse.ensure(
            PAYLOADS,
            PAYLOAD_BUILDS,
            *ROOM_TABLES,
            id_graph_updates("people"),
            external_id_mapping_updates("people"),
            CONSENT_STATES,
            ID_ALIASES,
        )

    # -- people ------------------------------------------------------------------------------------------------

    def _append(self, spec: Any, rows: list[dict[str, Any]]) -> None:
        types = spec.schema.to_pyarrow()
        known = pa.schema([column for column in types if rows and column.name in rows[0]])
        self.warehouse.append(spec.ref, pa.Table.from_pylist(rows, schema=known))

    def people(self, *ids: str, ads: str = "true") -> None:
        self._points({person: person for person in ids})
        self.consent(dict.fromkeys(ids, ads))

    def _points(self, pairs: dict[str, str]) -> None:
        rows = []
        for person, canonical in pairs.items():
            self.canonical[person] = canonical
            self.seq += 1
            times = {"seq": self.seq, "received_at": naive_utc(self.now - dt.timedelta(minutes=1))}
            rows.append({"segment_id": person, "canonical_segment_id": canonical, **times})
        self._append(id_graph_updates("people"), rows)

    def merge(self, loser: str, winner: str) -> None:
        """A merge says anew who everybody is that had merged into the loser."""
        self._points({person: winner for person, canonical in self.canonical.items() if canonical == loser} | {loser: winner})

    def unmerge(self, person: str) -> None:
        self._points({person: person})

    def consent(self, values: dict[str, str]) -> None:
        rows = []
        for person, value in values.items():
            self.seq += 1
            times = {"seq": self.seq, "received_at": naive_utc(self.now - dt.timedelta(minutes=1))}
            rows.append({"segment_id": person, "category": "ads", "value": value, **times})
        self._append(CONSENT_STATES, rows)

    # -- desired state -----------------------------------------------------------------------------------------

    def want(self, *units: str | dict[str, Any]) -> None:
        """Payloads of these units: 'p1' (key p1@x), or a dict of unit and what differs (key, value, verdict, person)."""
        rows = [self._payload({"unit": unit} if isinstance(unit, str) else unit) for unit in units]
        with self.warehouse.transaction():
            self.warehouse.delete(PAYLOADS.ref, [("activation", "=", self.activation.key)])
            self.warehouse.delete(PAYLOAD_BUILDS.ref, [("activation", "=", self.activation.key)])
            if rows:
                self.warehouse.append(PAYLOADS.ref, pa.Table.from_pylist(rows, schema=PAYLOADS.schema.to_pyarrow()))
            build = {
                "activation": self.activation.key,
                "as_of": naive_utc(self.now),
                "definition_revision": self.revision,
                "source": self.activation.audience or self.activation.model,
                "tables": json.dumps(self.tables),
            }
            self._append(PAYLOAD_BUILDS, [build])

    def _payload(self, unit: dict[str, Any]) -> dict[str, Any]:
        name = unit["unit"]
        kind = self.activation.trigger.unit
        person = unit.get("person", name.split("|")[0] if kind != "row" else None)
        key = unit.get("key", f"{name}@x")
        body = {"key": key, "value": unit.get("value", 1), "in": True, "id": MESSAGE_ID_TOKEN}
        payload = json.dumps(body)
        parts = name.split("|")
        return {
            "activation": self.activation.key,
            "unit": name,
            "canonical_segment_id": person,
            "path": parts[1] if kind == "entity" else None,
            "entity_id": parts[2] if kind == "entity" else None,
            "row_key": name if kind == "row" else None,
            "destination_key": key,
            "payload": payload,
            "payload_hash": hashlib.sha256(payload.encode()).hexdigest(),
            "exit_payload": json.dumps({**body, "in": False}),
            "retract_payload": json.dumps({"key": key, "in": False}),
            "identifiers": json.dumps({"email": key}),
            "verdict": unit.get("verdict", "ok"),
            "detail": None,
            "as_of": naive_utc(self.now),
            "definition_revision": self.revision,
        }

    # -- syncing -----------------------------------------------------------------------------------------------

    def request(self, **options: Any) -> SyncRequest:
        self.runs += 1
        settings = {"run_id": f"run-{self.runs}", "now": self.now, **self.options, **options}
        return SyncRequest(
            activation=self.activation,
            account=self.account,
            capabilities=self.destination.capabilities,
            graph=GRAPH,
            **settings,
        )

    @property
    def around(self) -> Surroundings:
        return Surroundings(
            open_warehouse=lambda: contextlib.nullcontext(self.warehouse),
            journal=self.journal,
            connect=lambda: self.destination,
            clock=lambda: self.now,
            consent_now=self.consent_now,
        )

    def sync(self, **options: Any) -> SyncResult:
        result = sync_activation(self.request(**options), self.around)
        self.now += dt.timedelta(hours=1)
        return result

    def sync_after_want(self, *units: str | dict[str, Any]) -> SyncResult:
        self.want(*units)
        return self.sync()

    def crash_in_sync(self, **options: Any) -> None:
        try:
            sync_activation(self.request(**options), self.around)
        except Crash:
            self.now += dt.timedelta(hours=1)
            return
        raise AssertionError("the sync did not crash")

    # -- looking -----------------------------------------------------------------------------------------------

    def ledger(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows = self.warehouse.arrow(self.warehouse.table(LEDGER.ref)).to_pylist()
        return {(row["unit"], row["destination_key"]): row for row in rows}

    def history_of(self, unit: str) -> list[tuple[Any, ...]]:
        """Every attempt at a unit, for messages of failing tests."""
        rows = self.warehouse.arrow(self.warehouse.table(OUTCOMES.ref)).to_pylist()
        mine = sorted((row for row in rows if row["unit"] == unit), key=lambda row: row["seq"])
        return [(row["seq"], row["operation"], row["status"], row["reason"]) for row in mine]

    def present(self) -> set[str]:
        return {key for (_, key), row in self.ledger().items() if row["present"]}


@contextlib.contextmanager
def lab_in(
    folder: Path, warehouse: Warehouse, when: str = "enters_or_exits", resend: str = "upsert", **given: Any
) -> Iterator[Lab]:
    limits = {name: given.pop(name) for name in ("retract", "rows", "attribution") if name in given}
    with Journal(f"sqlite:///{folder / 'journal.sqlite'}") as journal:
        yield Lab(warehouse, journal, FakeDestination(capabilities(resend, **limits)), activation(when, **given))
