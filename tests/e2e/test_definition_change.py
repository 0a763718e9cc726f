"""A changed definition is backfilled and sends nothing until it is released; a withdrawn consent is retracted at the next sync."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from typing import Any

import dagster as dg

from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.dagster_support import asset_key
from cdp_assets.definitions import build_definitions
from cdp_assets.destination_syncs.release import ReleaseAction, release
from cdp_assets.destination_syncs.tables import LEDGER, SYNCS
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.unified_profiles.tables import identifiers_as_of
from resources.instance import open_instance
from resources.space import load
from tests.e2e.conftest import HOUR, Stage

CONTACTS, ALERTS = "overdue_contacts", "overdue_card_alerts"
AUDIENCES = {"linked_audiences/overdue_checking", "linked_audiences/overdue_and_active"}
DAY = "2026-10-07"  # of the stage's one run
CARDS = "accounts:credit-cards"


class Location:
    """The code location, loaded before any edit, and the data-graph sensor's cursor."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.definitions = build_definitions(stage.directory, stage.home.root)
        self.cursor: str | None = None

    def asked(self) -> tuple[dict[str, list[str]], dict[str, str]]:
        """What one tick of the data-graph sensor requests: partitions by ``room/key``, and the tags."""
        with open_instance(self.stage.home) as instance:
            context = dg.build_sensor_context(instance, cursor=self.cursor, definitions=self.definitions)
            with context:
                data = self.definitions.resolve_sensor_def("owl_bank__data_graph").evaluate_tick(context)
        self.cursor = data.cursor
        if not data.run_requests:
            return {}, {}
        (request,) = data.run_requests
        subset = request.asset_graph_subset
        assert subset is not None
        found = {"/".join(k.path[1:]): sorted(subset.get_partitions_subset(k).get_partition_keys()) for k in subset.asset_keys}
        return found, dict(request.tags)

    def backfill(self, assets: Iterable[str], partition: str, tags: dict[str, str]) -> None:
        """A run as the backfill daemon launches it: a fresh process, so definitions loaded anew."""
        keys = {asset_key("owl_bank", *asset.split("/")) for asset in assets}
        fresh = build_definitions(self.stage.directory, self.stage.home.root)
        job = fresh.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys)
        with open_instance(self.stage.home) as instance:
            result = job.execute_in_process(
                instance=instance,
                partition_key=partition,
                tags={**tags, "dagster/backfill": "of_a_test"},
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        assert result.success


def edit(stage: Stage, name: str, old: str, new: str) -> None:
    path = stage.directory / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def other_accounts(stage: Stage) -> None:
    """The audience is of savings accounts now: some leave, some enter, some stay with another account."""
    edit(stage, "audiences/overdue_checking.yaml", "operator: equals, value: checking", "operator: equals, value: savings")


def rows(stage: Stage, spec: Any, **where: Any) -> list[dict[str, Any]]:
    with stage.warehouse() as warehouse:
        table = warehouse.table(spec.ref)
        for name, value in where.items():
            table = table.filter(table[name] == value)
        return warehouse.rows(table, 100_000)


def members(stage: Stage, partition: str) -> set[str]:
    found = rows(stage, AUDIENCE_MEMBERS, audience="overdue_checking", partition_key=partition)
    return {row["canonical_segment_id"] for row in found}


def cards(stage: Stage, partition: str) -> set[tuple[str, str]]:
    found = rows(stage, AUDIENCE_CONTEXT, audience="overdue_checking", partition_key=partition, path=CARDS)
    return {(row["canonical_segment_id"], row["entity_id"]) for row in found}


def consenting(stage: Stage, category: str) -> set[str]:
    """Canonical ids of those who consent, as the generator knows it, not as the product does."""
    truth = json.loads(stage.home.truth_file("owl_bank").read_text())
    stated = [person for person in truth["persons"].values() if person["consent"]]
    agreed = [person for person in stated if person["consent"][-1]["state"][category] == "true"]
    # Some are known by an address only.
    values = {value for person in agreed for value in (person["user_id"], *person["emails"]) if value}
    with stage.warehouse() as warehouse:
        ids = identifiers_as_of(warehouse, load(stage.directory).graph, stage.now + HOUR)
        found = warehouse.rows(ids.filter(ids.type.isin(["user_id", "email"])), 100_000)
    return {row["canonical_segment_id"] for row in found if row["value"] in values}


def known_by(stage: Stage, identifier: str) -> set[str]:
    """Canonical ids that have an identifier of the type: others cannot be sent where it is the key."""
    with stage.warehouse() as warehouse:
        ids = identifiers_as_of(warehouse, load(stage.directory).graph, stage.now + HOUR)
        return {row["canonical_segment_id"] for row in warehouse.rows(ids.filter(ids.type == identifier), 100_000)}


def payloads(stage: Stage, activation: str) -> dict[str, str]:
    """What each unit that may be sent should look like at the destination."""
    return {row["unit"]: row["payload"] for row in rows(stage, PAYLOADS, activation=activation, verdict="ok")}


def lift(stage: Stage, action: ReleaseAction) -> None:
    with stage.warehouse() as warehouse:
        for activation in (CONTACTS, ALERTS):
            release(warehouse, activation, action, dt.datetime(2026, 10, 8, 3, tzinfo=dt.UTC))


def operations(report: Any) -> dict[str, dict[str, int]]:
    return {key: activation["operations"] for key, activation in report.summary["activations"].items()}


NONE = {"enter": 0, "change": 0, "exit": 0, "retract": 0}


def test_only_the_audiences_on_the_path_of_an_edited_join_key_are_backfilled(owl_bank: Stage) -> None:
    location = Location(owl_bank)
    assert location.asked() == ({}, {})
    edit(owl_bank, "data_graph.hcl", "credit_card.card_id = transaction.card_id", "credit_card.account_id = transaction.card_id")
    assert location.asked() == ({}, {})  # no audience walks to transactions
    edit(owl_bank, "data_graph.hcl", "account.account_id = credit_card.account_id", "account.account_id = credit_card.card_id")
    wanted, tags = location.asked()
    assert wanted == {key: [DAY] for key in AUDIENCES}
    assert tags["cdp/sensor"] == "owl_bank__data_graph"
    assert location.asked() == ({}, {})


def test_a_changed_condition_sends_nothing_until_released_and_then_exactly_the_difference(owl_bank: Stage) -> None:
    location = Location(owl_bank)
    before, sent = members(owl_bank, DAY), payloads(owl_bank, CONTACTS)
    cards_before = cards(owl_bank, DAY)
    location.asked()
    other_accounts(owl_bank)
    wanted, tags = location.asked()
    assert wanted == {key: [DAY] for key in AUDIENCES}

    location.backfill(wanted, DAY, tags)
    after = members(owl_bank, DAY)
    assert before - after and after - before
    assert location.asked() == ({}, {})
    assert owl_bank.new_calls() == 0

    for hours in (1, 2):
        report = owl_bank.run(owl_bank.now + hours * HOUR)
        assert operations(report) == {CONTACTS: NONE, ALERTS: NONE}
        for activation in report.summary["activations"].values():
            assert set(activation["held"]) == {"definition changed"}
    assert owl_bank.new_calls() == 0

    rooms = ("computed_traits", "linked_audiences", "activation_payloads", "destination_syncs")
    graph = location.definitions.resolve_asset_graph()
    everything = ["/".join(k.path[1:]) for k in graph.executable_asset_keys if k.path[1] in rooms]
    location.backfill(everything, DAY, {})
    assert owl_bank.new_calls() == 0
    newest = {row["activation"]: row["hold"] for row in sorted(rows(owl_bank, SYNCS), key=lambda row: row["seq"])}
    assert newest == {CONTACTS: "backfill", ALERTS: "backfill"}

    lift(owl_bank, "send")
    report = owl_bank.run(owl_bank.now + 3 * HOUR)
    today = members(owl_bank, "2026-10-08")
    assert today == after
    functional, advertising = consenting(owl_bank, "Functional"), consenting(owl_bank, "Advertising")
    users = known_by(owl_bank, "user_id")
    shown = payloads(owl_bank, CONTACTS)
    assert operations(report) == {
        CONTACTS: {
            "enter": len((today - before) & functional & users),
            "exit": len((before - today) & functional & users),
            "change": sum(sent[unit] != shown[unit] for unit in sent.keys() & shown.keys()),
            "retract": 0,
        },
        # Announces cards that enter, and nothing else.
        ALERTS: NONE | {"enter": sum(p in advertising for p, _ in cards(owl_bank, "2026-10-08") - cards_before)},
    }
    assert operations(report)[CONTACTS]["enter"] > 0 and operations(report)[CONTACTS]["exit"] > 0
    owl_bank.forget_calls()
    again = owl_bank.run(owl_bank.now + 4 * HOUR)
    assert operations(again) == {CONTACTS: NONE, ALERTS: NONE}
    assert owl_bank.new_calls() == 0


def test_a_rebaseline_takes_the_difference_as_sent(owl_bank: Stage) -> None:
    other_accounts(owl_bank)
    assert set(owl_bank.run(owl_bank.now + HOUR).summary["activations"][CONTACTS]["held"]) == {"definition changed"}
    lift(owl_bank, "rebaseline")
    for hours in (2, 3):
        report = owl_bank.run(owl_bank.now + hours * HOUR)
        assert operations(report) == {CONTACTS: NONE, ALERTS: NONE}
        assert all(activation["held"] == {} for activation in report.summary["activations"].values())
    assert owl_bank.new_calls() == 0


def record(stage: Stage, system: str, key_field: str, key: str) -> dict[str, Any]:
    """The fields that a twin holds of one record, its own timestamps left out."""
    (found,) = [r["fields"] for r in stage.twin(f"{system}/records")["records"] if r["fields"].get(key_field) == key]
    return {name: value for name, value in found.items() if name not in ("LastModifiedDate", "SystemModstamp", "updatedAt")}


def test_a_withdrawn_consent_is_retracted_with_key_and_flag_only(owl_bank: Stage) -> None:
    alerted = {row["segment_id"]: row["destination_key"] for row in rows(owl_bank, LEDGER, activation=ALERTS, held=True)}
    told = {row["segment_id"]: row["destination_key"] for row in rows(owl_bank, LEDGER, activation=CONTACTS, held=True)}
    person = min(told.keys() & alerted.keys())
    user_id, email = told[person], alerted[person]
    contact = record(owl_bank, "salesforce", "Cdp_Id__c", user_id)
    lead = record(owl_bank, "marketo", "email", email)
    assert contact["Overdue_Checking__c"] is True and lead["Card_Overdue_Alert__c"] is True
    at = (owl_bank.now + HOUR / 2).isoformat().replace("+00:00", "Z")
    common = {"userId": user_id, **dict.fromkeys(("originalTimestamp", "sentAt", "receivedAt", "timestamp"), at)}
    refusal = {"categoryPreferences": {"Functional": False, "Analytics": False, "Advertising": False}}
    # The name changes as well: a message with more than key and flag would show it.
    renamed = {"type": "identify", "messageId": "renamed-1", "traits": {"first_name": "Another"}, **common}
    withdrawn = {
        "type": "track",
        "event": "Segment Consent Preference Updated",
        "messageId": "withdrawn-1",
        "context": {"consent": refusal},
        **common,
    }
    lines = [json.dumps(event) + "\n" for event in (renamed, withdrawn)]
    (owl_bank.home.landing("owl_bank") / "withdrawn.jsonl").write_text("".join(lines))

    report = owl_bank.run(owl_bank.now + HOUR)
    assert report.failures == {}
    assert operations(report) == {CONTACTS: NONE | {"retract": 1}, ALERTS: NONE | {"retract": 1}}
    assert person in members(owl_bank, "2026-10-08")
    assert record(owl_bank, "salesforce", "Cdp_Id__c", user_id) == {**contact, "Overdue_Checking__c": False}
    assert record(owl_bank, "marketo", "email", email) == {**lead, "Card_Overdue_Alert__c": False}
    owl_bank.forget_calls()
    assert operations(owl_bank.run(owl_bank.now + 2 * HOUR)) == {CONTACTS: NONE, ALERTS: NONE}
    assert owl_bank.new_calls() == 0
