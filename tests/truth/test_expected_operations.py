"""The rules of the expectation itself, on states small enough to check by hand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb
import pytest

from tests.truth import expected_operations as expected
from tests.truth.expected_operations import CONSENT, NO_IDENTIFIER, OK, Snapshot, Unit

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)


def contacts(**units: Unit) -> Snapshot:
    return Snapshot({}, {}, {"overdue_contacts": dict(units), "overdue_card_alerts": {}})


def alerts(**units: Unit) -> Snapshot:
    return Snapshot({}, {}, {"overdue_contacts": {}, "overdue_card_alerts": dict(units)})


def contact(key: str, verdict: str = OK, **fields: object) -> Unit:
    return Unit(key, verdict, {"Cdp_Id__c": key, "Overdue_Checking__c": True, **fields})


def alert(key: str, verdict: str = OK) -> Unit:
    return Unit(key, verdict, {"email": key, "Card_Overdue_Alert__c": True})


def run(*snapshots: Snapshot, activation: str = "overdue_contacts"):
    """The last sync's accounting of an activation, and the ledger after it."""
    ledger: expected.Ledger = {}
    for desired in snapshots:
        accounts, ledger = expected.sync("owl_bank", ledger, desired)
    return accounts[activation], ledger


def test_the_first_sync_sends_those_who_may_be_sent() -> None:
    found, _ = run(contacts(a=contact("a"), b=contact("b", CONSENT), c=contact("", NO_IDENTIFIER)))
    assert found.operations["enter"] == found.delivered == 1
    assert found.withheld == {CONSENT: 1, NO_IDENTIFIER: 1}
    assert found.considered == 3


def test_the_same_state_again_sends_nothing() -> None:
    state = contacts(a=contact("a"), b=contact("b", CONSENT))
    found, _ = run(state, state)
    assert (found.delivered, found.unchanged, found.withheld) == (0, 1, {CONSENT: 1})


def test_changes_exits_and_withdrawals_are_told_apart() -> None:
    before = contacts(a=contact("a"), b=contact("b"), c=contact("c"), d=contact("d", CONSENT))
    after = contacts(a=contact("a", LastName="new"), b=contact("b", CONSENT), d=contact("d"))
    found, ledger = run(before, after)
    assert found.operations == {"enter": 1, "change": 1, "exit": 1, "retract": 1}
    assert [ledger["overdue_contacts"][unit].fields["Overdue_Checking__c"] for unit in "abcd"] == [True, False, False, True]


def test_a_retracted_unit_is_withheld_from_then_on_and_enters_again_with_consent() -> None:
    held, withdrawn = contacts(a=contact("a")), contacts(a=contact("a", CONSENT))
    found, _ = run(held, withdrawn, withdrawn)
    assert (found.delivered, found.withheld) == (0, {CONSENT: 1})
    found, _ = run(held, withdrawn, held)
    assert found.operations["enter"] == 1


def test_an_exit_that_the_trigger_does_not_announce_is_silent_and_re_arms() -> None:
    card, gone = alerts(a=alert("a@example.com")), alerts()
    found, _ = run(card, gone, activation="overdue_card_alerts")
    assert (found.delivered, found.unchanged) == (0, 1)
    found, _ = run(card, gone, card, activation="overdue_card_alerts")
    assert found.operations["enter"] == 1


def test_records_are_compared_by_field_and_values_are_not_told() -> None:
    _, ledger = run(
        contacts(a=contact("a", LastName="Lindqvist"), b=contact("b")), contacts(a=contact("a", LastName="Lindqvist"))
    )
    right = [
        {"Cdp_Id__c": "a", "Overdue_Checking__c": True, "LastName": "Lindqvist"},
        {"Cdp_Id__c": "b", "Overdue_Checking__c": False},
        {"Cdp_Id__c": "other", "LastName": "of another activation"},
    ]
    assert expected.differences("owl_bank", "overdue_contacts", ledger, right) == []
    wrong = [
        {"Cdp_Id__c": "a", "Overdue_Checking__c": False, "LastName": "Boateng"},
        {"Cdp_Id__c": "x", "Overdue_Checking__c": True},
    ]
    problems = expected.differences("owl_bank", "overdue_contacts", ledger, wrong)
    assert problems == [
        "1 keys are missing",
        "1 keys should not be there",
        "Overdue_Checking__c is False, expected True",
        "LastName differs",
    ]
    assert "Lindqvist" not in str(problems)


def test_a_lead_with_several_cards_keeps_its_flag_until_the_last_is_retracted() -> None:
    both = alerts(a=alert("a@example.com"), b=alert("a@example.com"))
    _, ledger = run(both, alerts(a=alert("a@example.com", CONSENT), b=alert("a@example.com")))
    record = {"email": "A@example.com", "Card_Overdue_Alert__c": True}
    assert expected.differences("owl_bank", "overdue_card_alerts", ledger, [record]) == []
    _, ledger = run(both, alerts(a=alert("a@example.com", CONSENT), b=alert("a@example.com", CONSENT)))
    assert expected.differences("owl_bank", "overdue_card_alerts", ledger, [record])


@pytest.fixture
def truth() -> dict[str, object]:
    def at(hour: int) -> str:
        return f"2026-11-22T{hour:02d}:00:00.000Z"

    on, off, torn = (dict.fromkeys(("Functional", "Analytics", "Advertising"), v) for v in ("true", "false", "conflict"))

    def person(*consent: tuple[int, dict[str, str]]) -> dict[str, object]:
        return {
            "known_at": at(9),
            "consent": [{"at": at(hour), "state": state} for hour, state in consent],
            "traits": [{"at": at(9), "email": "x@example.com", "first_name": "X", "last_name": "Y"}],
        }

    names = {"p1": "one", "p2": "two", "p3": "three", "p4": "four"}
    return {
        "persons": {"p1": person((9, on)), "p2": person((9, on), (11, torn)), "p3": person((9, off), (13, on)), "p4": person()},
        "identifiers": [
            {"type": kind, "value": name + suffix, "person": person_id, "known_at": at(9)}
            for person_id, name in names.items()
            for kind, suffix in (("email", "@example.com"), ("user_id", ""))
        ]
        + [{"type": "email", "value": "late@example.com", "person": "p1", "known_at": at(12)}],
        "devices": {
            "d1": {"alone_at": at(8), "linked_at": None},
            "d2": {"alone_at": at(8), "linked_at": at(9)},
            "d3": {"alone_at": at(8), "linked_at": at(12)},
            "d4": {"alone_at": None, "linked_at": at(9)},
        },
        "merges": [{"at": at(9)}, {"at": at(12)}],
    }


def test_only_what_was_received_before_the_instant_is_known(truth) -> None:
    people = expected.People(truth, NOON)
    assert people.last("p1", "email") == "one@example.com"
    assert expected.People(truth, NOON + dt.timedelta(seconds=1)).last("p1", "email") == "late@example.com"
    assert [people.consents(p, ("Advertising",)) for p in ("p1", "p2", "p3", "p4")] == [True, False, False, False]
    # Four persons; d1 is nobody's, d2 is linked, d3 is linked at noon itself, d4 was never alone.
    assert (expected.profiles_at(truth, NOON), expected.merges_at(truth, NOON)) == (6, 1)


def test_owl_bank_takes_checking_accounts_with_an_overdue_card(truth, tmp_path: Path) -> None:
    file = tmp_path / "owl_bank.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            """
            CREATE SCHEMA bank;
            CREATE TABLE bank.accounts AS SELECT * FROM (VALUES
                ('A1', 'one@example.com', 'checking'), ('A2', 'one@example.com', 'savings'),
                ('A3', 'two@example.com', 'checking'), ('A4', 'stranger@example.com', 'checking'),
                ('A5', 'late@example.com', 'checking')
            ) AS t(account_id, customer_email, account_type);
            CREATE TABLE bank.credit_cards AS SELECT * FROM (VALUES
                ('C1', 'A1', 'gold', 10.0), ('C2', 'A1', 'gold', 0.0), ('C3', 'A1', 'gold', NULL), ('C4', 'A2', 'gold', 5.0),
                ('C5', 'A3', 'gold', 7.5), ('C6', 'A4', 'gold', 7.5), ('C7', 'A5', 'gold', 7.5)
            ) AS t(card_id, account_id, product, overdue_amount);
            """
        )
    found = expected.owl_bank(expected.People(truth, NOON), file)
    assert found.members == {"overdue_checking": {"p1", "p2"}}
    assert found.entities == {"overdue_checking": 4}
    assert {unit: row.verdict for unit, row in found.units["overdue_card_alerts"].items()} == {"p1|C1": OK, "p2|C5": CONSENT}
    assert found.units["overdue_contacts"]["p1"].fields["Overdue_Account__c"] == "A1"


def test_mural_takes_large_accounts_whose_term_ends_within_90_days_inclusive(truth, tmp_path: Path) -> None:
    file = tmp_path / "mural.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            """
            CREATE SCHEMA product; CREATE SCHEMA billing;
            CREATE TABLE product.workspace_roles AS SELECT * FROM (VALUES
                ('R1', 'one', 'admin', 'W1'), ('R2', 'two', 'admin', 'W2'), ('R3', 'three', 'admin', 'W3'), ('R4', 'four', 'admin', 'W4'),
                ('R5', 'one', 'guest', 'W1')
            ) AS t(role_id, user_id, role, workspace_id);
            CREATE TABLE product.workspaces AS SELECT 'W' || i AS workspace_id, 'A' || i AS account_id FROM range(1, 5) AS t(i);
            CREATE TABLE billing.accounts AS SELECT * FROM (VALUES
                ('A1', 90000.0, 40, DATE '2027-02-20'), ('A2', 90000.0, 40, DATE '2027-02-21'),
                ('A3', 90000.0, 40, DATE '2026-11-21'), ('A4', 50000.0, 40, DATE '2026-12-01')
            ) AS t(account_id, arr, engagement, term_end);
            """
        )
    midnight = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
    people = expected.People(truth, NOON)
    assert expected.mural(people, file, midnight).members == {"renewal_at_risk": {"p1"}}
    assert expected.mural(people, file, midnight).entities == {"renewal_at_risk": 4}
    assert expected.mural(people, file, midnight - dt.timedelta(days=1)).members == {"renewal_at_risk": {"p3"}}
    assert expected.mural(people, file, midnight + dt.timedelta(days=1)).members == {"renewal_at_risk": {"p1", "p2"}}
