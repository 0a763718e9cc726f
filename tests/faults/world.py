"""A space's delivery side with nothing replaced: a DuckDB file, a journal, a connector, and its twin in another process."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from cdp_assets.destination_syncs.accounting import SyncResult
from cdp_assets.destination_syncs.journal import open_journal
from cdp_assets.destination_syncs.plan import SyncRequest
from cdp_assets.destination_syncs.sync import Surroundings, sync_activation
from resources.destinations import Connection, Destination
from resources.destinations import http as wire
from resources.destinations.registry import capabilities, connect
from resources.warehouse.duckdb import open_duckdb
from resources.warehouse.resting import LINGER, release
from tests.destination_syncs.lab import GRAPH, FakeDestination, Lab, activation
from tests.faults.killing import copy_of

_accounts = itertools.count(1)


@dataclass(frozen=True)
class System:
    """How the world speaks to one destination.

    ``body``: the destination record of (key, value, is a member); ``bad``: fields that the system refuses; ``held``: the members of
    what the twin holds, key -> value.
    """

    type: str
    settings: Mapping[str, Any]
    body: Callable[[str, int, bool], dict[str, Any]]
    bad: Mapping[str, Any]
    held: Callable[[list[dict[str, Any]]], dict[str, int]]
    when: str = "enters_or_exits"
    action: str = "upsert"
    connection: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 2  # of a batch


def _members(key: str, value: str, flag: str) -> Callable[[list[dict[str, Any]]], dict[str, int]]:
    """Reads records of one object: those with the flag up. Raises AssertionError for a key that is there twice."""

    def read(records: list[dict[str, Any]]) -> dict[str, int]:
        keys = [record[key] for record in records]
        assert len(keys) == len(set(keys)), "a key is there twice"
        return {record[key]: int(record[value]) for record in records if record[flag]}

    return read


def _happened(key: str) -> Callable[[list[dict[str, Any]]], dict[str, int]]:
    """Reads events: key -> how often its event is there."""
    return lambda records: dict(Counter(record[key] for record in records))


BAD = -1  # a value that stands for a record that the system refuses

SYSTEMS = {
    system.type: system
    for system in (
        System(
            "salesforce",
            {"object": "Contact", "key_field": "CDP_Id__c", "flag_field": "Member__c"},
            lambda key, value, member: {"CDP_Id__c": key, "LastName": "L", "Value__c": value, "Member__c": member},
            {"LastName": "L" * 90},
            _members("CDP_Id__c", "Value__c", "Member__c"),
        ),
        System(
            "marketo",
            {"object": "lead", "key_field": "email", "flag_field": "Member__c"},
            lambda key, value, member: {"email": key, "Value__c": str(value), "Member__c": member},
            {"firstName": "F" * 300},
            _members("email", "Value__c", "Member__c"),
        ),
        System(
            "gainsight",
            {"object": "Company", "key_field": "Name", "flag_field": "Member__gc"},
            lambda key, value, member: {"Name": key, "Value__gc": value, "Member__gc": member},
            {"Industry": "I" * 300},
            _members("Name", "Value__gc", "Member__gc"),
            connection={"calls_per_minute": 1_000},
        ),
        System(
            "braze",
            {"object": "User", "flag_field": "member"},
            lambda key, value, member: {"external_id": key, "value": value, "member": member},
            {"first_name": "F" * 300},
            _members("external_id", "value", "member"),
            action="attributes",
        ),
    )
}
# As asynchronous jobs, from the second row on.
BULK = {
    f"{name} in bulk": dataclasses.replace(SYSTEMS[name], connection={"bulk_from_rows": 2}, rows=rows)
    for name, rows in (("salesforce", 60), ("marketo", 15))
}
# Hours of the world are moments of the twins: their jobs are done at once, and a minute has the calls of many syncs.
_LIMITS = {
    "salesforce": {"bulk_milliseconds": 0},
    "marketo": {"import_milliseconds": 0, "calls_per_20_seconds": 1_000},
    "gainsight": {"calls_per_minute": 1_000},
}
# A declared API knows no refusal that passes, so a storm of them is not for it.
HTTP = System(
    "http",
    {"path": "contacts", "key_field": "id", "flag_field": "member"},
    lambda key, value, member: {"id": key, "value": value, "member": member},
    {"refuse": True},
    _members("id", "value", "member"),
    connection={"results": "results"},
)
APPENDING = {
    system.type: system
    for system in (
        System(
            "braze",
            {"object": "Event"},
            lambda key, value, member: {"name": "Entered", "time": "2026-01-01T00:00:00Z", "properties": {"value": value}},
            {"name": ""},
            _happened("external_id"),
            when="enters",
            action="events",
        ),
        System(
            "kinesis",
            {"stream": "entered", "key_field": "email"},
            lambda key, value, member: {"value": value},
            {},
            _happened("PartitionKey"),
            when="enters",
            action="put",
        ),
    )
}


class RealLab(Lab):
    """A lab whose payloads are records of a system."""

    system: System

    def _payload(self, unit: dict[str, Any]) -> dict[str, Any]:
        row = super()._payload(unit)
        key, value = row["destination_key"], unit.get("value", 1)
        row["payload"] = json.dumps({**self.system.body(key, value, True), **(self.system.bad if value == BAD else {})})
        row["exit_payload"] = json.dumps(self.system.body(key, value, False))
        return row


@dataclass
class World:
    """One activation of one destination. Every phase opens and closes the files as runs do, with the moment that they stay open."""

    folder: Path
    twins: str
    system: System
    rows: int | None = None
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))  # also the clock of the connectors' waits
    settings: Mapping[str, Any] = field(default_factory=lambda: {"timeout_seconds": 2.0, "retry_seconds": 0.3})
    account: str = field(default_factory=lambda: f"account-{next(_accounts)}")
    wanted: dict[str, int] = field(default_factory=dict)
    seq: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows = self.rows or self.system.rows
        # The twins outlive a world; what another one left there is none of this one's.
        reset = f"{self.twins}/__twin/reset?system={self.system.type}"
        assert httpx.post(reset, trust_env=False, verify=False).status_code == 200
        if self.system.type in _LIMITS:
            self._set_limits(**_LIMITS[self.system.type])
        self.activation = activation(
            self.system.when,
            destination=self.system.type,
            settings=dict(self.system.settings),
            action=self.system.action,
            sync_property_changes=True,
            guardrails={"max_exit_share": None, "max_exits": None},
        )

    @property
    def warehouse_file(self) -> Path:
        return self.folder / "space.duckdb"

    def change(self, wanted: Mapping[str, int], consent: Mapping[str, bool] | None = None) -> None:
        """Who is in, with which value, and who consents from now on."""
        with open_duckdb(self.warehouse_file) as warehouse, open_journal(self._journal) as journal:
            lab = RealLab(warehouse, journal, FakeDestination(self._capabilities), self.activation, now=self.now, seq=self.seq)
            lab.system = self.system
            new = [person for person in consent or {} if person not in self.wanted]
            lab.people(*new)
            lab.consent({person: str(yes).lower() for person, yes in (consent or {}).items()})
            lab.want(*({"unit": person, "key": f"{person}@x.org", "value": value} for person, value in wanted.items()))
            self.seq = lab.seq
        self.wanted = dict(wanted)

    def sync(self, run_id: str) -> SyncResult:
        """One sync, as of an hour after the one before."""
        self.now += dt.timedelta(hours=1)
        request = SyncRequest(
            activation=self.activation,
            account=self.account,
            capabilities=self._capabilities,
            graph=GRAPH,
            run_id=run_id,
            now=self.now,
        )
        with open_journal(self._journal) as journal, mock.patch.object(wire, "now", lambda: self.now):
            return sync_activation(
                request,
                Surroundings(
                    open_warehouse=lambda: open_duckdb(self.warehouse_file, linger=LINGER),
                    journal=journal,
                    connect=self._connect,
                    clock=lambda: self.now,
                ),
            )

    def held(self) -> dict[str, int]:
        """Key -> value of the members that the twin holds now."""
        return self.system.held([record["fields"] for record in self._twin("records")["records"]])

    def fault(self, *plans: Mapping[str, Any]) -> None:
        """Let calls go wrong by these plans, and no others."""
        url = f"{self.twins}/__twin/{self.system.type}/faults"
        httpx.delete(url, trust_env=False, verify=False)
        assert httpx.post(url, json=plans, trust_env=False, verify=False).status_code == 201

    def _set_limits(self, **limits: int) -> None:
        url = f"{self.twins}/__twin/{self.system.type}/limits"
        assert httpx.post(url, json=limits, trust_env=False, verify=False).status_code == 200

    def calls(self) -> list[dict[str, Any]]:
        return self._twin("calls")["calls"]

    def _twin(self, what: str) -> Any:
        return httpx.get(f"{self.twins}/__twin/{self.system.type}/{what}", trust_env=False, verify=False).json()

    @property
    def _capabilities(self) -> Any:
        known = capabilities(self.system.type, self.activation.action, self.system.connection)
        rows = self.rows or self.system.rows
        # Batches of a few rows are no jobs, but where the world is about jobs.
        bulk = dataclasses.replace(known.bulk, batch_rows=rows) if known.bulk and self.system.connection else None
        return dataclasses.replace(known, batch_rows=rows, bulk=bulk)

    def _connect(self) -> Destination:
        connection = Connection(
            "sandbox", self.account, {**self.settings, **self.system.connection}, {}, f"{self.twins}/{self.system.type}"
        )
        destination = connect(self.system.type, connection)
        destination.capabilities = self._capabilities
        return destination

    @property
    def _journal(self) -> str:
        return f"sqlite:///{self.folder / 'journal.sqlite'}"

    # -- keeping and taking back a state ---------------------------------------------------------------------------------

    def keep(self, twins_file: Path, kept: Path) -> None:
        """Copy the files as they are now."""
        release()
        kept.mkdir()
        shutil.copy(self.warehouse_file, kept)
        for source in (self.folder / "journal.sqlite", twins_file):
            with sqlite3.connect(source) as database, sqlite3.connect(kept / source.name) as target:
                database.backup(target)
            database.close()
            target.close()

    def take_back(self, kept: Path, twins_file: Path) -> None:
        """Make the files what they were when they were kept."""
        release()
        for left in self.folder.glob("space.duckdb*"):
            left.unlink()
        for left in self.folder.glob("journal.sqlite*"):
            left.unlink()
        shutil.copy(kept / "space.duckdb", self.warehouse_file)
        shutil.copy(kept / "journal.sqlite", self.folder)
        copy_of(kept / twins_file.name, twins_file)
