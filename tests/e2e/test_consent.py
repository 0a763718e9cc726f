"""Consent of profiles from the landing file to the twins. The names AE9.x are the acceptance examples."""

from __future__ import annotations

import datetime as dt
from typing import Any

from cdp_assets.destination_syncs.assets import RETRACTED
from cdp_assets.destination_syncs.ledger import Selection, replay
from cdp_assets.destination_syncs.tables import INTENTS, LEDGER
from cdp_assets.raw_events.tables import QUARANTINE
from cdp_assets.unified_profiles.tables import consent_as_of
from resources.space import load
from tests.e2e.conftest import HOUR, Stage
from tests.e2e.test_definition_change import ALERTS, CONTACTS, NONE, edit, members, operations, record, rows
from tests.e2e.test_suppression import DAY, MINUTE, land, someone

CONSENT = {"type": "track", "event": "Segment Consent Preference Updated"}


def prefers(**categories: bool) -> dict[str, Any]:
    return {**CONSENT, "context": {"consent": {"categoryPreferences": categories}}}


def states(stage: Stage, person: str) -> dict[str, str]:
    with stage.warehouse() as warehouse:
        known = consent_as_of(warehouse, load(stage.directory).graph, stage.now + 10 * HOUR)
        found = warehouse.rows(known.filter(known.canonical_segment_id == person), 10)
    return {row["category"]: row["value"] for row in found}


def flags(stage: Stage, user_id: str, email: str) -> tuple[Any, Any]:
    contact, lead = record(stage, "salesforce", "Cdp_Id__c", user_id), record(stage, "marketo", "email", email)
    return contact["Overdue_Checking__c"], lead["Card_Overdue_Alert__c"]


def someone_not_alerted(stage: Stage) -> tuple[str, str]:
    """(canonical id, user id) of a person with a card to announce whom Salesforce holds, and Marketo not, for want of consent."""
    told = {row["segment_id"]: row["destination_key"] for row in rows(stage, LEDGER, activation=CONTACTS, held=True)}
    withheld = rows(stage, INTENTS, activation=ALERTS, outcome="withheld", reason="consent")
    person = min(told.keys() & {row["subject_id"] for row in withheld})
    return person, told[person]


def test_ae9_1_a_destination_in_both_categories_is_blocked_and_one_in_the_given_alone_delivered(owl_bank: Stage) -> None:
    person, user_id = someone_not_alerted(owl_bank)
    edit(
        owl_bank,
        f"activations/{CONTACTS}.yaml",
        "categories: [Functional]",
        "categories: [Advertising, Analytics]\non_definition_change: send",
    )
    given = prefers(Advertising=True, Analytics=False)
    land(owl_bank, "given", owl_bank.now + MINUTE, {**given, "userId": user_id})
    report = owl_bank.run(owl_bank.now + HOUR)
    assert report.failures == {}
    assert states(owl_bank, person) == {"Advertising": "true", "Analytics": "false", "Functional": "false"}
    assert person in members(owl_bank, DAY)
    sent = rows(owl_bank, LEDGER, segment_id=person, held=True)
    assert {row["activation"] for row in sent} == {ALERTS}
    assert flags(owl_bank, user_id, sent[0]["destination_key"]) == (False, True)


def test_ae9_2_a_consent_event_without_its_object_is_quarantined_and_changes_nothing(owl_bank: Stage) -> None:
    person, user_id, email = someone(owl_bank)
    before = states(owl_bank, person)
    other = {"type": "track", "event": "Login", "userId": user_id}
    land(owl_bank, "empty", owl_bank.now + MINUTE, {**CONSENT, "userId": user_id, "context": {"consent": {}}}, other)
    report = owl_bank.run(owl_bank.now + HOUR)
    (line,) = rows(owl_bank, QUARANTINE, file="empty.jsonl")
    assert (line["line"], line["reason"]) == (1, "consent_missing")
    assert states(owl_bank, person) == before
    assert operations(report) == {CONTACTS: NONE, ALERTS: NONE}
    assert flags(owl_bank, user_id, email) == (True, True)


def test_ae9_3_a_merge_of_yes_and_no_is_a_conflict_that_takes_back_until_the_next_yes(owl_bank: Stage) -> None:
    person, user_id, email = someone(owl_bank)
    announced = len(rows(owl_bank, LEDGER, activation=ALERTS, held=True, segment_id=person))
    refusal = prefers(Functional=False, Analytics=False, Advertising=False)
    land(owl_bank, "refusal", owl_bank.now + MINUTE, {**refusal, "anonymousId": "new-device"})
    both = {"type": "track", "event": "Login", "userId": user_id, "anonymousId": "new-device"}
    land(owl_bank, "merging", owl_bank.now + 2 * MINUTE, both)
    report = owl_bank.run(owl_bank.now + HOUR)
    found = states(owl_bank, person)
    assert (found["Functional"], found["Advertising"]) == ("conflict", "conflict")
    assert operations(report) == {CONTACTS: NONE | {"retract": 1}, ALERTS: NONE | {"retract": announced}}
    assert flags(owl_bank, user_id, email) == (False, False)

    land(owl_bank, "yes", owl_bank.now + HOUR + MINUTE, {**prefers(Functional=True, Advertising=True), "userId": user_id})
    report = owl_bank.run(owl_bank.now + 2 * HOUR)
    assert states(owl_bank, person) == {"Advertising": "true", "Analytics": "false", "Functional": "true"}
    assert operations(report) == {CONTACTS: NONE | {"enter": 1}, ALERTS: NONE | {"enter": announced}}
    assert flags(owl_bank, user_id, email) == (True, True)


def test_a_retract_that_the_destination_refuses_fails_its_check_until_it_is_taken(owl_bank: Stage) -> None:
    told = rows(owl_bank, LEDGER, activation=CONTACTS, held=True)
    user_id = min(row["destination_key"] for row in told)
    land(owl_bank, "refused", owl_bank.now + MINUTE, {**prefers(Functional=False), "userId": user_id})
    # A validation rule of the destination's own: no further try of the same record passes it.
    owl_bank.faults("salesforce", {"kind": "partial_failure", "rows": 1.0, "code": "FIELD_CUSTOM_VALIDATION_EXCEPTION"})
    check = f"owl_bank/destination_syncs/{CONTACTS}:{RETRACTED}"
    first = owl_bank.run(owl_bank.now + HOUR)
    owl_bank.no_faults("salesforce")
    again = owl_bank.run(owl_bank.now + 2 * HOUR)
    for report in (first, again):
        assert report.failures == {check: f"1 of 1 rules broken: no retract refused (1 of {len(told)})"}
    assert record(owl_bank, "salesforce", "Cdp_Id__c", user_id)["Overdue_Checking__c"] is True
    with owl_bank.warehouse() as warehouse:
        assert replay(warehouse, Selection(activation=CONTACTS), dt.datetime.now(dt.UTC)) == 1
    report = owl_bank.run(owl_bank.now + 3 * HOUR)
    assert (report.failures, operations(report)[CONTACTS]) == ({}, NONE | {"retract": 1})
    assert record(owl_bank, "salesforce", "Cdp_Id__c", user_id)["Overdue_Checking__c"] is False
