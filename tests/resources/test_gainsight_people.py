"""People in Gainsight: each upserted by e-mail address, one in a call, and one that is refused fails alone."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from resources.destinations import Action, Operation
from resources.destinations.registry import capabilities, connect
from tests.resources.conftest import Twins

PEOPLE = Action("person", {"object": "Person", "flag_field": "At_Risk__gc"})


def op(n: int, kind: str = "enter", key: str = "", **payload: Any) -> Operation:
    return Operation(str(n), kind, key or f"p{n}@example.com", payload, f"m{n}")  # type: ignore[arg-type]


def deliver(twins: Twins, *operations: Operation) -> dict[str, tuple[str, str]]:
    with closing(connect("gainsight", twins.connection("gainsight"))) as destination:
        return {outcome.id: (outcome.status, outcome.reason) for outcome in destination.deliver(PEOPLE, operations)}


def people(twins: Twins) -> dict[str, tuple[Any, Any]]:
    return {one["Email"]: (one.get("FirstName"), one.get("At_Risk__gc")) for one in twins.records("gainsight", "Person")}


def test_people_are_made_changed_and_flagged(twins: Twins) -> None:
    assert set(deliver(twins, op(1, FirstName="Ann"), op(2, FirstName="Bo")).values()) == {("delivered", "")}
    found = deliver(
        twins, op(1, "change", FirstName="Anna"), op(2, "retract", FirstName="never said"), op(3, "exit", FirstName="Cy")
    )
    assert set(found.values()) == {("delivered", "")}
    assert people(twins) == {"p1@example.com": ("Anna", True), "p2@example.com": ("Bo", False), "p3@example.com": ("Cy", False)}
    calls = [call for call in twins.calls("gainsight") if call["path"].endswith("/v1.0/api/people")]
    assert len(calls) == 5


def test_one_who_is_refused_fails_alone(twins: Twins) -> None:
    found = deliver(twins, op(1), op(2, key="no address"), op(3))
    assert found["2"][0] == "rejected"
    assert {found["1"], found["3"]} == {("delivered", "")}


@pytest.mark.parametrize(("kind", "outcome"), [("commit_then_drop", "unknown"), ("503", "waiting"), ("expired_token", "waiting")])
def test_a_call_that_goes_wrong_is_that_persons(twins: Twins, kind: str, outcome: str) -> None:
    twins.fault("gainsight", kind=kind, path="/v1.0/api/people")
    assert deliver(twins, op(1))["1"][0] == outcome
    twins.no_faults("gainsight")
    twins.account += "-later"
    assert deliver(twins, op(1)) == {"1": ("delivered", "")}
    assert list(people(twins)) == ["p1@example.com"]


def test_the_engine_is_told_that_people_go_one_by_one() -> None:
    assert capabilities("gainsight", "person").attribution == "positional"
    assert capabilities("gainsight", "upsert").attribution == "whole_batch"
