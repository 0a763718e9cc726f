"""What changes only our knowledge of who is who enters nobody and exits nobody: late data, a rebuild, an unmerge, a changed address."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from typing import Any

import dagster as dg
import pytest
from ruamel.yaml import YAML

from cdp_assets.dagster_support import asset_key
from cdp_assets.unified_profiles.corrections import unmerge
from cdp_assets.unified_profiles.tables import external_id_mapping_updates, id_graph_updates, profile_schema
from resources.instance import open_instance
from resources.space import load
from resources.warehouse import TableRef
from tests.e2e.conftest import HOUR, Stage

LEDGER = TableRef("destination_syncs", "ledger")
START = dt.datetime(2026, 10, 2, tzinfo=dt.UTC)


def land(stage: Stage, *messages: dict[str, Any]) -> None:
    folder = stage.home.landing("owl_bank")
    (folder / f"more-{len(list(folder.glob('more-*')))}.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(message) + "\n" for message in messages).encode())
    )


def message(at: dt.datetime, message_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "track", "event": "Login", "messageId": message_id, "receivedAt": at.isoformat(), **fields}


def members(stage: Stage) -> dict[str, dict[str, list[str]]]:
    """canonical id -> identifier type -> values, of the profiles that a destination holds."""
    space = load(stage.directory)
    schema = profile_schema(space.graph)
    with stage.warehouse() as warehouse:
        ledger = warehouse.table(LEDGER)
        present = ledger.filter(ledger.present).select("segment_id").distinct()
        identifiers = warehouse.table(TableRef(schema, "user_identifiers"))
        held = identifiers.semi_join(present, [identifiers.canonical_segment_id == present.segment_id])
        found: dict[str, dict[str, list[str]]] = {}
        for row in warehouse.rows(held.order_by("canonical_segment_id", "type", "value"), 10_000):
            found.setdefault(row["canonical_segment_id"], {}).setdefault(row["type"], []).append(row["value"])
    return found


def enters_and_exits(summary: dict[str, Any]) -> int:
    return sum(a["operations"]["enter"] + a["operations"]["exit"] for a in summary["activations"].values())


def run(stage: Stage, at: dt.datetime) -> dict[str, Any]:
    report = stage.run(at)
    assert report.failures == {}
    return report.summary


@pytest.mark.slow
def test_a_late_earliest_event_renames_profiles_and_sends_nothing(owl_bank: Stage) -> None:
    people = [held for _, held in sorted(members(owl_bank).items()) if "user_id" in held][:5]
    assert len(people) == 5
    late = [message(START + dt.timedelta(seconds=n), f"late{n}", userId=held["user_id"][0]) for n, held in enumerate(people)]
    land(owl_bank, *late)
    summary = run(owl_bank, owl_bank.now + HOUR)
    with owl_bank.warehouse() as warehouse:
        assert warehouse.count(warehouse.table(TableRef("unified_profiles", "id_aliases"))) >= 1
    assert enters_and_exits(summary) == 0
    assert owl_bank.new_calls() == 0
    with open_instance(owl_bank.home) as instance:
        for audience in load(owl_bank.directory).audiences:
            check = dg.AssetCheckKey(asset_key("owl_bank", "linked_audiences", audience), "late_data")
            execution = instance.event_log_storage.get_latest_asset_check_execution_by_key([check])[check]
            evaluation = execution.event.dagster_event.asset_check_evaluation_data
            assert not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.WARN


@pytest.mark.slow
def test_a_rebuild_under_other_identity_settings_sends_nothing(owl_bank: Stage) -> None:
    yaml = YAML()
    path = owl_bank.directory / "space.yaml"
    document = yaml.load(path)
    document["identity"]["custom"] = {"loyalty_number": "loyaltyNumber"}
    yaml.dump(document, path)
    summary = run(owl_bank, owl_bank.now + HOUR)
    assert enters_and_exits(summary) == 0
    assert owl_bank.new_calls() == 0


@pytest.mark.slow
def test_an_unmerge_of_members_enters_nobody_and_exits_nobody(owl_bank: Stage) -> None:
    space = load(owl_bank.directory)
    schema = profile_schema(space.graph)
    held = members(owl_bank)
    with owl_bank.warehouse() as warehouse:
        updates = warehouse.table(id_graph_updates(schema).ref)
        merged = updates.filter(updates.segment_id != updates.canonical_segment_id)
        merged = merged.filter(merged.canonical_segment_id.isin(sorted(held))).order_by("seq")
        losers = [row["segment_id"] for row in warehouse.rows(merged, 100)]
        assert losers
        assert warehouse.has(external_id_mapping_updates(schema).ref)
        for loser in losers[:5]:
            unmerge(warehouse, space.graph, loser, reason="test", loaded_at=owl_bank.now)
    summary = run(owl_bank, owl_bank.now + HOUR)
    assert enters_and_exits(summary) == 0


@pytest.mark.slow
def test_a_changed_address_moves_the_record_and_enters_nobody(owl_bank: Stage) -> None:
    before = members(owl_bank)
    person = next(held for _, held in sorted(before.items()) if held.get("email") and held.get("user_id"))
    at = owl_bank.now + dt.timedelta(minutes=5)
    land(
        owl_bank,
        message(at, "moved", userId=person["user_id"][0])
        | {"type": "identify", "traits": {"email": "somewhere.else@example.com"}},
    )
    summary = run(owl_bank, owl_bank.now + HOUR)
    assert enters_and_exits(summary) == 0
    assert sum(a["operations"]["change"] + a["operations"]["retract"] for a in summary["activations"].values()) > 0
