"""``cdp test``: the exact request of one profile, who may not be sent, and that nothing of it is remembered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cdp_assets import rehearsal
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.cli import app
from cdp_assets.cli_support import CommandError
from cdp_assets.destination_syncs.tables import DELIVERY_STATE, LEDGER
from cdp_assets.unified_profiles.tables import identifiers_as_of
from resources.space import load
from tests.e2e.conftest import Stage


def run(stage: Stage, *arguments: str) -> tuple[int, dict[str, Any]]:
    given = ["test", *arguments, "--space", str(stage.directory), "--home", str(stage.home.root), "--json"]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


def unit(stage: Stage, activation: str, verdict: str = "ok") -> dict[str, Any]:
    """The first built unit with a verdict."""
    with stage.warehouse() as warehouse:
        payloads = warehouse.table(PAYLOADS.ref)
        own = payloads.filter((payloads.activation == activation) & (payloads.verdict == verdict))
        return warehouse.rows(own.order_by("unit"), 1)[0]


def delivered_record(stage: Stage, key: str) -> dict[str, Any]:
    records = stage.twin("salesforce/records?object=Contact&limit=100000")["records"]
    return next(record for record in records if record["fields"].get("Cdp_Id__c") == key)["fields"]


def ledger(stage: Stage) -> list[int]:
    with stage.warehouse() as warehouse:
        return [warehouse.count(warehouse.table(table.ref)) for table in (LEDGER, DELIVERY_STATE)]


def test_the_request_is_shown_and_nothing_leaves(owl_bank: Stage) -> None:
    one = unit(owl_bank, "overdue_contacts")
    before = ledger(owl_bank)
    code, found = run(owl_bank, "overdue_contacts", one["canonical_segment_id"], "--unmask")
    assert (code, found["outcomes"], found["withheld"]) == (0, [], [])
    sign_in, write = found["exchanges"]
    assert sign_in["request"] == "POST /services/oauth2/token"
    assert sign_in["body"]["client_secret"] == write["headers"]["authorization"] == "***"
    assert write["request"] == "PATCH /services/data/v61.0/composite/sobjects/Contact/Cdp_Id__c"
    assert write["body"]["records"] == [{"attributes": {"type": "Contact"}, **json.loads(one["payload"])}]
    assert "answer" not in write
    assert owl_bank.new_calls() == 0
    assert ledger(owl_bank) == before


def test_personal_values_are_masked_unless_asked(owl_bank: Stage) -> None:
    one = unit(owl_bank, "overdue_contacts")
    payload = json.loads(one["payload"])
    _, found = run(owl_bank, "overdue_contacts", one["canonical_segment_id"], "--send")
    record = found["exchanges"][-1]["body"]["records"][0]
    assert record["attributes"] == {"type": "Contact"}
    assert record["Overdue_Checking__c"] is True
    text = json.dumps(found)
    assert [name for name in ("Cdp_Id__c", "Email", "FirstName", "LastName") if payload[name] in text] == []


def test_sent_it_arrives_and_the_ledger_does_not_know(owl_bank: Stage) -> None:
    one = unit(owl_bank, "overdue_contacts")
    with owl_bank.warehouse() as warehouse:
        known = identifiers_as_of(warehouse, _graph(owl_bank), owl_bank.now)
        mine = known.filter((known.canonical_segment_id == one["canonical_segment_id"]) & (known.type == "user_id"))
        user_id = warehouse.rows(mine, 1)[0]["value"]
    before = ledger(owl_bank)
    code, found = run(owl_bank, "overdue_contacts", f"user_id:{user_id}", "--send", "--leaves")
    assert (code, found["outcomes"]) == (0, ["delivered"])
    assert found["exchanges"][-1]["status"] == 200
    assert delivered_record(owl_bank, one["destination_key"])["Overdue_Checking__c"] is False
    assert ledger(owl_bank) == before


def test_who_does_not_consent_is_not_sent(owl_bank: Stage) -> None:
    one = unit(owl_bank, "overdue_contacts", "consent")
    code, found = run(owl_bank, "overdue_contacts", one["canonical_segment_id"], "--send")
    assert (code, found) == (1, {"exchanges": [], "outcomes": [], "withheld": ["consent"]})
    assert owl_bank.new_calls() == 0


def test_an_entity_of_a_profile_has_its_record(owl_bank: Stage) -> None:
    one = unit(owl_bank, "overdue_card_alerts")
    _, found = run(owl_bank, "overdue_card_alerts", one["canonical_segment_id"], "--unmask")
    assert one["entity_id"] in [record["Overdue_Card_Id__c"] for record in found["exchanges"][1]["body"]["input"]]


def test_units_beyond_the_first_are_not_left_out_in_silence(owl_bank: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "MOST_UNITS", 0)
    one = unit(owl_bank, "overdue_contacts")
    space = load(owl_bank.directory)
    with owl_bank.warehouse() as warehouse:
        found = rehearsal.rehearse(warehouse, space, "overdue_contacts", one["canonical_segment_id"], owl_bank.now)
    assert (found.more, found.operations) == (True, ())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("overdue_contacts", "email:nobody@example.com"), "nobody is known by that"),
        (("overdue_card_alerts", "{member}", "--leaves"), "sends nothing for who leaves: its trigger is enters"),
        (("overdue_contacts", "{stranger}"), "the profile is not in audience overdue_checking"),
        (("overdue_contact", "{member}"), "no activation overdue_contact; known: overdue_card_alerts, overdue_contacts"),
    ],
)
def test_what_cannot_be_sent_is_said(owl_bank: Stage, arguments: tuple[str, ...], said: str) -> None:
    member = unit(owl_bank, "overdue_contacts")["canonical_segment_id"]
    with owl_bank.warehouse() as warehouse:
        payloads = warehouse.table(PAYLOADS.ref)
        known = identifiers_as_of(warehouse, _graph(owl_bank), owl_bank.now)
        others = known.anti_join(payloads, "canonical_segment_id").order_by("canonical_segment_id")
        stranger = warehouse.rows(others, 1)[0]["canonical_segment_id"]
    with pytest.raises(CommandError, match=said):
        run(owl_bank, *(text.format(member=member, stranger=stranger) for text in arguments))


def _graph(stage: Stage) -> Any:
    return load(stage.directory).graph
