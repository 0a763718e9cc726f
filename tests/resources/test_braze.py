"""Braze: the twin's contract by documented exchanges and by braze-client, and the connector against the twin."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from braze.client import BrazeClient, BrazeClientError, BrazeInternalServerError, BrazeRateLimitError

from resources.destinations import Action, Connection, DestinationConfigError, Operation, Outcome, braze, registry
from resources.sandbox import CLIENT_SECRET
from tests.resources.conftest import Twins

ATTRIBUTES = Action("attributes", {"flag_field": "overdue"})
EVENTS = Action("events", {})
PAID = {"name": "Card Overdue", "time": "2026-06-15T12:00:00Z", "properties": {"amount": 12.5}}


def operations(count: int, payload: dict[str, Any], kind: Any = "enter", start: int = 0) -> list[Operation]:
    return [Operation(f"op{n}", kind, f"user{n}", payload, f"message{n}") for n in range(start, start + count)]


@pytest.fixture
def destination(twins: Twins) -> Iterator[braze.BrazeDestination]:
    with braze.connect(twins.connection("braze")) as made:
        yield made


def track(twins: Twins, **body: Any) -> Any:
    headers = {"Authorization": f"Bearer {CLIENT_SECRET}"}
    return twins.http.post(f"{twins.base('braze')}/users/track", json=body, headers=headers)


def said(outcomes: list[Outcome]) -> list[tuple[str, str, str]]:
    return [(outcome.id, outcome.status, outcome.reason) for outcome in sorted(outcomes, key=lambda o: int(o.id[2:]))]


# -- the twin --------------------------------------------------------------------------------------------------------------


def test_the_documented_exchange(twins: Twins) -> None:
    answer = track(
        twins,
        attributes=[{"external_id": "u1", "first_name": "Jon", "plan": "gold"}],
        events=[{"external_id": "u1", "name": "Watched Trailer", "time": "2013-07-16T19:20:30+01:00"}],
    )
    assert answer.status_code == 201
    assert answer.json() == {"message": "success", "attributes_processed": 1, "events_processed": 1}
    assert int(answer.headers["x-ratelimit-remaining"]) == 2999
    assert twins.records("braze", "User") == [{"external_id": "u1", "first_name": "Jon", "plan": "gold"}]
    track(twins, attributes=[{"external_id": "u1", "plan": None, "city": "Brno"}])
    assert twins.records("braze", "User") == [{"external_id": "u1", "first_name": "Jon", "city": "Brno"}]


def test_the_same_event_twice_is_two_events(twins: Twins) -> None:
    for _ in range(2):
        track(twins, events=[{"external_id": "u1", **PAID}])
    assert len(twins.records("braze", "Event")) == 2


def test_what_is_wrong_is_named_by_position_and_the_rest_is_taken(twins: Twins) -> None:
    events = [{"external_id": "u1", **PAID}, {**PAID}, {"external_id": "u2", "name": "x", "time": "yesterday"}]
    answer = track(twins, events=events).json()
    assert answer["message"] == "success"
    assert [(error["input_array"], error["index"]) for error in answer["errors"]] == [("events", 1), ("events", 2)]
    assert len(twins.records("braze", "Event")) == 1


def test_keys_sizes_and_bodies_are_checked(twins: Twins) -> None:
    assert twins.http.post(f"{twins.base('braze')}/users/track", json={"events": []}).status_code == 401
    assert track(twins).status_code == 400
    assert track(twins, attributes=[{"external_id": f"u{n}"} for n in range(76)]).json() == {
        "message": "Max input length exceeded"
    }
    assert twins.records("braze") == []


def test_over_its_limit_it_says_when_the_window_ends(twins: Twins) -> None:
    twins.limit("braze", calls=1)
    assert track(twins, attributes=[{"external_id": "u1"}]).status_code == 201
    refused = track(twins, attributes=[{"external_id": "u1"}])
    assert refused.status_code == 429
    assert 0 <= int(refused.headers["x-ratelimit-reset"]) - twins.clock.at.timestamp() <= 3


# -- the twin, by an independent client --------------------------------------------------------------------------------------


def client(twins: Twins, key: str = CLIENT_SECRET) -> BrazeClient:
    made = BrazeClient(key, api_url=twins.base("braze"))
    made.session.trust_env = False
    return made


def test_an_independent_client_sets_attributes_and_tracks_events(twins: Twins) -> None:
    answer = client(twins).user_track(
        attributes=[{"external_id": f"u{n}", "plan": "gold"} for n in range(75)], events=[{"external_id": "u1", **PAID}]
    )
    assert (answer["success"], answer["status_code"]) == (True, 201)
    assert (answer["attributes_processed"], answer["events_processed"]) == (75, 1)
    assert {user["external_id"] for user in twins.records("braze", "User")} == {f"u{n}" for n in range(75)}
    assert twins.records("braze", "Event") == [{"external_id": "u1", **PAID}]


def test_an_independent_client_hears_which_items_were_dropped(twins: Twins) -> None:
    answer = client(twins).user_track(events=[{"external_id": "u1", **PAID}, dict(PAID)], attributes=[{"plan": "gold"}])
    assert (answer["success"], answer["message"]) == (False, "success")
    assert [(error["input_array"], error["index"]) for error in answer["errors"]] == [("attributes", 0), ("events", 1)]
    assert len(twins.records("braze", "Event")) == 1


def test_an_independent_client_knows_each_refusal(twins: Twins) -> None:
    one = [{"external_id": "u1"}]
    with pytest.raises(BrazeClientError, match="Max input length exceeded"):
        client(twins).user_track(attributes=[{"external_id": f"u{n}"} for n in range(76)])
    with pytest.raises(BrazeClientError, match="Invalid API key"):
        client(twins, "stranger").user_track(attributes=one)
    assert len(twins.calls("braze")) == 2, "neither is tried again"
    twins.fault("braze", kind="503")
    with pytest.raises(BrazeInternalServerError):
        client(twins).user_track(attributes=one)
    twins.no_faults("braze")
    twins.limit("braze", calls=0)
    with pytest.raises(BrazeRateLimitError) as error:
        client(twins).user_track(attributes=one)
    assert 0 <= error.value.reset_epoch_s - twins.clock.at.timestamp() <= 3
    assert twins.records("braze") == []


# -- the connector ---------------------------------------------------------------------------------------------------------


def test_attributes_are_set_with_the_flag_and_set_again_without_harm(twins: Twins, destination: braze.BrazeDestination) -> None:
    for _ in range(2):
        outcomes = destination.deliver(ATTRIBUTES, operations(80, {"plan": "gold"}))
        assert {outcome.status for outcome in outcomes} == {"delivered"}
    users = twins.records("braze", "User")
    assert len(users) == 80
    assert all(user == {"external_id": user["external_id"], "plan": "gold", "overdue": True} for user in users)
    assert [call["status"] for call in twins.calls("braze")] == [201] * 4, "75 at a time"
    destination.deliver(ATTRIBUTES, operations(1, {"plan": "gold"}, "exit"))
    assert twins.records("braze", "User")[0]["overdue"] is False


def test_a_retract_sets_the_flag_of_those_who_are_there_and_makes_nobody(
    twins: Twins, destination: braze.BrazeDestination
) -> None:
    destination.deliver(ATTRIBUTES, operations(1, {"plan": "gold"}))
    outcomes = destination.deliver(ATTRIBUTES, operations(2, {"plan": "leaked"}, "retract"))
    assert {outcome.status for outcome in outcomes} == {"delivered"}
    assert twins.records("braze", "User") == [{"external_id": "user0", "plan": "gold", "overdue": False}]


def test_refused_items_are_rejected_by_position_without_their_words(twins: Twins, destination: braze.BrazeDestination) -> None:
    given = operations(3, PAID)
    given[1] = Operation("op1", "enter", "user1", {**PAID, "time": "a secret"}, "m")
    outcomes = destination.deliver(EVENTS, given)
    assert said(outcomes) == [("op0", "delivered", ""), ("op1", "rejected", "item_refused"), ("op2", "delivered", "")]
    assert [event["external_id"] for event in twins.records("braze", "Event")] == ["user0", "user2"]


@pytest.mark.parametrize(("action", "status"), [(ATTRIBUTES, "delivered"), (EVENTS, "unknown")])
def test_a_server_error_is_tried_again_only_where_that_makes_no_second_event(
    twins: Twins, destination: braze.BrazeDestination, action: Action, status: str
) -> None:
    twins.fault("braze", kind="500", times=1)
    outcomes = destination.deliver(action, operations(2, PAID if action is EVENTS else {}))
    assert {outcome.status for outcome in outcomes} == {status}
    assert len(twins.calls("braze")) == (2 if action is ATTRIBUTES else 1)


@pytest.mark.parametrize("kind", ["commit_then_drop", "timeout_before_commit"])
def test_no_answer_is_unknown(twins: Twins, kind: str) -> None:
    twins.fault("braze", kind=kind, seconds=10, times=1)
    with braze.connect(twins.connection("braze", timeout_seconds=0.5)) as destination:
        assert {outcome.status for outcome in destination.deliver(EVENTS, operations(2, PAID))} == {"unknown"}
    assert len(twins.records("braze", "Event")) == (2 if kind == "commit_then_drop" else 0)


def test_a_throttle_is_waited_for_as_long_as_the_system_says(twins: Twins, destination: braze.BrazeDestination) -> None:
    twins.clock.at = dt.datetime.now(dt.UTC)
    twins.fault("braze", kind="429", times=1, retry_after=60)
    outcomes = destination.deliver(EVENTS, operations(2, PAID))
    assert {outcome.status for outcome in outcomes} == {"waiting"}
    assert all(outcome.not_before and 50 < (outcome.not_before - twins.clock.at).total_seconds() < 70 for outcome in outcomes)
    assert destination.deliver(EVENTS, operations(1, PAID))[0].status == "waiting"
    assert len(twins.calls("braze")) == 1, "until then nobody asks"


def test_a_batch_that_is_refused_whole_is_halved_until_the_culprit_is_alone(
    twins: Twins, destination: braze.BrazeDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.sandbox.braze._MAX_BYTES", 700)
    given = operations(4, PAID)
    given[2] = Operation("op2", "enter", "user2", {**PAID, "properties": {"text": "x" * 900}}, "m")
    outcomes = destination.deliver(EVENTS, given)
    assert said(outcomes) == [
        ("op0", "delivered", ""),
        ("op1", "delivered", ""),
        ("op2", "rejected", "400"),
        ("op3", "delivered", ""),
    ]


def test_a_key_that_is_taken_away_waits_for_a_person(twins: Twins, destination: braze.BrazeDestination) -> None:
    twins.fault("braze", kind="expired_token", times=1)
    (outcome,) = destination.deliver(EVENTS, operations(1, PAID))
    assert (outcome.status, outcome.reason) == ("waiting", "auth:401")


def test_events_are_another_kind_of_sending_than_attributes() -> None:
    assert (registry.capabilities("braze", "attributes").resend, registry.capabilities("braze", "attributes").retract) == (
        "set",
        "flag_false",
    )
    assert (registry.capabilities("braze", "events").resend, registry.capabilities("braze", "events").retract) == (
        "append",
        "none",
    )


def test_a_live_connection_needs_its_cluster_and_its_key() -> None:
    with pytest.raises(DestinationConfigError, match=r"settings\.endpoint"):
        braze.connect(Connection("live", "workspace", {}, {"api_key": "k"}))
    with pytest.raises(DestinationConfigError, match="credentials are missing: api_key"):
        braze.connect(Connection("live", "workspace", {"endpoint": "rest.iad-01.braze.com"}, {}))
    with pytest.raises(DestinationConfigError, match="remote host"):
        braze.connect(Connection("live", "workspace", {"endpoint": "localhost"}, {"api_key": "k"}))
    with braze.connect(Connection("live", "workspace", {"endpoint": "rest.iad-01.braze.com"}, {"api_key": "k"})):
        pass
