"""Static lists of Marketo: who enters is a lead on the list, who leaves is off it, and no field of a leaving lead is written."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from resources.destinations import Action, Operation, Outcome
from resources.destinations.registry import capabilities, connect
from resources.sandbox.marketo import LIST_ID
from tests.resources.conftest import Twins

ACTION = Action("list", {"list_id": LIST_ID})


def op(n: int, kind: str = "enter", **payload: Any) -> Operation:
    return Operation(str(n), kind, f"p{n}@example.com", payload, f"message-{n}")  # type: ignore[arg-type]


def deliver(twins: Twins, *operations: Operation, action: Action = ACTION) -> dict[str, Outcome]:
    with closing(connect("marketo", twins.connection("marketo"))) as destination:
        return {outcome.id: outcome for outcome in destination.deliver(action, operations)}


def on_list(twins: Twins) -> set[str]:
    """Asked of the twin as another client would."""
    url = f"{twins.base('marketo')}/rest/v1/lists/{LIST_ID}/leads.json"
    return {lead["email"] for lead in twins.http.get(url, headers=twins.marketo()).json()["result"]}


def statuses(outcomes: dict[str, Outcome]) -> dict[str, tuple[str, str]]:
    return {id: (outcome.status, outcome.reason) for id, outcome in outcomes.items()}


def test_membership_is_kept_in_step(twins: Twins) -> None:
    first = deliver(twins, op(1, firstName="Ann"), op(2, firstName="Bo"), op(3))
    assert statuses(first) == dict.fromkeys("123", ("delivered", ""))
    assert on_list(twins) == {"p1@example.com", "p2@example.com", "p3@example.com"}
    again = deliver(twins, op(1, "exit", firstName="Other"), op(2, "retract"), op(3, "change"), op(4), op(9, "exit"))
    assert {outcome.status for outcome in again.values()} == {"delivered"}
    assert again["9"].warning == "nothing to retract: no such record"
    assert on_list(twins) == {"p3@example.com", "p4@example.com"}
    leads = {lead["email"]: lead for lead in twins.records("marketo", "leads")}
    assert leads["p1@example.com"]["firstName"] == "Ann"
    assert "p9@example.com" not in leads


def test_taking_off_twice_is_as_good_as_once(twins: Twins) -> None:
    deliver(twins, op(1))
    deliver(twins, op(1, "exit"))
    twice = deliver(twins, op(1, "exit"))["1"]
    assert (twice.status, twice.warning) == ("delivered", "nothing to take off: not on the list")


def test_a_list_that_is_not_there_waits_for_a_person(twins: Twins) -> None:
    missing = Action("list", {"list_id": "77"})
    outcome = deliver(twins, op(1), op(2), action=missing)
    assert statuses(outcome) == dict.fromkeys("12", ("waiting", "config:1013"))


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ({"kind": "commit_then_drop"}, ("unknown", "connection_lost")),
        ({"kind": "500"}, ("waiting", "502")),
        ({"kind": "quota_exhausted"}, ("waiting", "quota:607")),
    ],
)
def test_a_list_that_does_not_answer_leaves_its_leads_to_the_next_sync(
    twins: Twins, fault: dict[str, Any], outcome: tuple[str, str]
) -> None:
    twins.fault("marketo", path="/rest/v1/lists", **fault)
    assert statuses(deliver(twins, op(1), op(2))) == dict.fromkeys("12", outcome)
    twins.no_faults("marketo")
    twins.account += "-later"
    assert statuses(deliver(twins, op(1), op(2))) == dict.fromkeys("12", ("delivered", ""))
    assert on_list(twins) == {"p1@example.com", "p2@example.com"}


def test_a_bad_lead_does_not_keep_the_others_off(twins: Twins) -> None:
    found = deliver(twins, op(1, leadScore="many"), op(2))
    assert found["1"].status == "rejected"
    assert found["2"].status == "delivered"
    assert on_list(twins) == {"p2@example.com"}


def test_a_list_can_take_back_what_it_was_given() -> None:
    assert (capabilities("marketo", "list").retract, capabilities("marketo", "list").resend) == ("remove", "set")
    assert capabilities("marketo", "upsert").retract == "flag_false"
