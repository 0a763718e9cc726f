"""The connectors of advertising and analytics systems against their twins, and the twins against independent requests."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from facebook_business.adobjects.adaccount import AdAccount
from facebook_business.adobjects.customaudience import CustomAudience
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession

from resources.destinations import Action, Destination, DestinationConfigError, Operation, facebook, normalise
from resources.destinations.http import CallFailedError, TryAgainError
from resources.destinations.registry import capabilities, connect
from resources.sandbox import CLIENT_ID, CLIENT_SECRET
from resources.sandbox.facebook import AUDIENCE_ID
from resources.sandbox.linkedin import SEGMENT_ID
from tests.resources.conftest import Twins

ACTIONS = {
    "facebook": Action("members", {"audience": AUDIENCE_ID}),
    "linkedin": Action("members", {"segment": SEGMENT_ID}),
    "optimizely": Action("profiles", {"flag_field": "at_risk"}),
    "google_analytics": Action("events", {}),
}


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _op(n: int, kind: str = "enter", key: str = "", **payload: Any) -> Operation:
    return Operation(str(n), kind, key or f"p{n}@example.com", payload, f"message-{n}")  # type: ignore[arg-type]


def _event(n: int, **payload: Any) -> Operation:
    return _op(n, key=f"client.{n}", **{"name": "board_created", "params": {"boards": n}, **payload})


def _members(twins: Twins, system: str) -> set[str]:
    """What identifies each record that the system holds."""
    if system == "facebook":
        return {fields["EMAIL"] for fields in twins.records(system, f"audience/{AUDIENCE_ID}")}
    if system == "linkedin":
        return {fields["userIds"][0]["idValue"] for fields in twins.records(system, f"segment/{SEGMENT_ID}")}
    if system == "optimizely":
        return {fields["email"] for fields in twins.records(system, "profiles") if fields["at_risk"]}
    return {fields["client_id"] for fields in twins.records(system, "Event")}


@contextmanager
def _connected(twins: Twins, system: str, **settings: Any) -> Iterator[Destination]:
    destination = connect(system, twins.connection(system, **settings))
    try:
        yield destination
    finally:
        destination.close()


def _deliver(twins: Twins, system: str, *operations: Operation, **settings: Any) -> dict[str, str]:
    with _connected(twins, system, **settings) as destination:
        return {outcome.id: outcome.status for outcome in destination.deliver(ACTIONS[system], operations)}


# -- normalisation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "given", "expected"),
    [
        (normalise.email, "  Ann.Lee@Example.COM ", "ann.lee@example.com"),
        (normalise.email, "nobody", ""),
        (normalise.phone, "+1 (650) 555-0100", "16505550100"),
        (normalise.phone, "0044 20 7946 0000", "442079460000"),
        (normalise.phone, "000-000", ""),
        (normalise.name, " O'Brien-Müller ", "obrienmüller"),
        (normalise.name, "李明", "李明"),
        (normalise.place, "Saint-Étienne 2", "saintétienne"),
        (normalise.postcode, "94105-1234", "94105"),
        (normalise.postcode, "SW1A 1AA", "sw1a1aa"),
        (normalise.country, "US", "us"),
        (normalise.country, "Germany", ""),
        (normalise.gender, "Female", "f"),
        (normalise.gender, "unknown", ""),
        (normalise.email, None, ""),
    ],
)
def test_particulars_have_one_form(rule: Callable[[Any], str], given: Any, expected: str) -> None:
    assert rule(given) == expected
    assert normalise.sha256(expected) == (_sha(expected) if expected else "")


def test_a_hash_stays_what_it_is() -> None:
    assert normalise.sha256(normalise.email(_sha("a@b.c").upper())) == _sha("a@b.c")


# -- membership -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["facebook", "linkedin", "optimizely"])
def test_membership_is_kept_in_step(twins: Twins, system: str) -> None:
    hashed = system != "optimizely"
    name = _sha if hashed else str
    assert _deliver(twins, system, _op(1), _op(2), _op(3)) == {"1": "delivered", "2": "delivered", "3": "delivered"}
    assert _members(twins, system) == {name(f"p{n}@example.com") for n in (1, 2, 3)}
    again = _deliver(twins, system, _op(1, "exit"), _op(2, "retract"), _op(3), _op(4))
    assert set(again.values()) == {"delivered"}
    assert _members(twins, system) == {name("p3@example.com"), name("p4@example.com")}


@pytest.mark.parametrize("system", sorted(ACTIONS))
def test_a_token_or_key_that_is_refused_waits_for_a_person(twins: Twins, system: str) -> None:
    twins.fault(system, kind="expired_token")
    operation = _event(1) if system == "google_analytics" else _op(1)
    # Google Analytics has no token that ends: its twin answers as a server in trouble, which an event is not sent to twice.
    assert _deliver(twins, system, operation) == {"1": "unknown" if system == "google_analytics" else "waiting"}
    assert not _members(twins, system)


@pytest.mark.parametrize("system", ["facebook", "linkedin", "optimizely"])
@pytest.mark.parametrize("kind", ["429", "500", "503", "timeout_before_commit", "commit_then_drop", "quota_exhausted"])
def test_a_failure_loses_nothing(twins: Twins, system: str, kind: str) -> None:
    twins.fault(system, kind=kind, seconds=10)
    silent = kind in ("timeout_before_commit", "commit_then_drop")
    assert _deliver(twins, system, _op(1), timeout_seconds=0.5) == {"1": "unknown" if silent else "waiting"}
    twins.no_faults(system)
    twins.account += "-again"
    assert _deliver(twins, system, _op(1)) == {"1": "delivered"}
    assert len(_members(twins, system)) == 1


@pytest.mark.parametrize("system", ["facebook", "linkedin", "optimizely"])
def test_a_bad_record_does_not_sink_its_neighbours(twins: Twins, system: str) -> None:
    if system == "optimizely":
        twins.limit(system, calls_per_second=1000)  # the clock of the twins stands still
    twins.fault(system, kind="partial_failure", rows=0.3, seed=5)
    given = [_op(n) for n in range(20)]
    found = _deliver(twins, system, *given)
    bad = {id for id, status in found.items() if status != "delivered"}
    assert 0 < len(bad) < 20
    assert len(_members(twins, system)) == 20 - len(bad)
    assert {found[id] for id in bad} == {"waiting" if system == "linkedin" else "rejected"}


@pytest.mark.parametrize("system", ["facebook", "linkedin"])
def test_who_cannot_be_named_is_refused_before_anything_is_sent(twins: Twins, system: str) -> None:
    found = _deliver(twins, system, _op(1, key="   "), _op(2))
    assert found == {"1": "rejected", "2": "delivered"}


def test_facebook_rows_have_the_documented_form(twins: Twins) -> None:
    said = {"first_name": "Ann", "phone": "000", "country": "US", "zip": "94105-1"}
    assert _deliver(twins, "facebook", _op(1, key=" Ann@Example.com", **said)) == {"1": "delivered"}
    held = twins.records("facebook", f"audience/{AUDIENCE_ID}")
    assert held == [{"EMAIL": _sha("ann@example.com"), "FN": _sha("ann"), "COUNTRY": _sha("us"), "ZIP": _sha("94105")}]


def test_an_audience_that_does_not_exist_waits_for_a_person(twins: Twins) -> None:
    with _connected(twins, "facebook") as destination:
        outcome = destination.deliver(Action("members", {"audience": "77"}), [_op(1)])[0]
    assert (outcome.status, outcome.reason) == ("waiting", "config:100/33")
    with _connected(twins, "linkedin") as destination:
        outcome = destination.deliver(Action("members", {"segment": "77"}), [_op(1)])[0]
    assert (outcome.status, outcome.reason) == ("waiting", "config:404")


@pytest.mark.parametrize(
    ("status", "error"), [(400, {"code": 99, "is_transient": True}), (500, {"code": 99}), (400, {"code": 2})]
)
def test_an_error_of_facebooks_that_passes_is_no_refusal(status: int, error: dict[str, Any]) -> None:
    with pytest.raises(TryAgainError, match=f"{status}:{error['code']}"):
        facebook._judge(httpx.Response(status, json={"error": error}))
    with pytest.raises(CallFailedError, match="100") as refused:
        facebook._judge(httpx.Response(400, json={"error": {"code": 100, "is_transient": False}}))
    assert refused.value.status == "rejected"


@pytest.mark.parametrize("system", ["facebook", "linkedin", "optimizely"])
def test_a_key_field_that_the_system_does_not_know_is_an_error(twins: Twins, system: str) -> None:
    settings = {**ACTIONS[system].settings, "key_field": "shoe_size"}
    with _connected(twins, system) as destination, pytest.raises(DestinationConfigError, match=r"settings\.key_field"):
        destination.deliver(Action(ACTIONS[system].name, settings), [_op(1)])


@pytest.fixture
def facebook_api(twins: Twins) -> FacebookAdsApi:
    """The vendor's own client."""
    session = FacebookSession(access_token=CLIENT_SECRET)
    session.GRAPH = twins.base("facebook")
    session.requests.trust_env = False
    return FacebookAdsApi(session, api_version="v24.0")


def test_facebook_takes_what_the_vendors_client_sends(twins: Twins, facebook_api: FacebookAdsApi) -> None:
    audience, schema = CustomAudience(AUDIENCE_ID, api=facebook_api), CustomAudience.Schema.email_hash
    assert audience.add_users(schema, ["a@b.c", " D@E.f "]).json()["num_received"] == 2
    assert _members(twins, "facebook") == {_sha("a@b.c"), _sha("d@e.f")}
    assert audience.remove_users(schema, ["a@b.c"]).json()["num_invalid_entries"] == 0
    assert _members(twins, "facebook") == {_sha("d@e.f")}
    assert audience.add_users(schema, ["not hashed"], is_raw=False, pre_hashed=True).json()["num_invalid_entries"] == 1


def test_facebooks_client_hears_why_it_is_refused(twins: Twins, facebook_api: FacebookAdsApi) -> None:
    schema = CustomAudience.Schema.email_hash
    with pytest.raises(FacebookRequestError) as error:
        CustomAudience("1", api=facebook_api).add_users(schema, ["a@b.c"])
    assert (error.value.http_status(), error.value.api_error_code(), error.value.api_error_subcode()) == (400, 100, 33)
    twins.fault("facebook", kind="expired_token")
    with pytest.raises(FacebookRequestError) as error:
        CustomAudience(AUDIENCE_ID, api=facebook_api).add_users(schema, ["a@b.c"])
    assert (error.value.api_error_type(), error.value.api_error_code()) == ("OAuthException", 190)


def test_facebook_audiences_are_made_with_their_source(twins: Twins, facebook_api: FacebookAdsApi) -> None:
    account = AdAccount("act_1", api=facebook_api)
    what = {"name": "At risk", "subtype": CustomAudience.Subtype.custom}
    with pytest.raises(FacebookRequestError) as error:
        account.create_custom_audience(params=what)
    assert error.value.api_error_code() == 100
    made = account.create_custom_audience(params={**what, "customer_file_source": "USER_PROVIDED_ONLY"})
    assert CustomAudience(made["id"], api=facebook_api).api_get(fields=["name"])["name"] == "At risk"


def test_linkedin_demands_its_headers(twins: Twins) -> None:
    base = twins.base("linkedin")
    grant = {
        "grant_type": "refresh_token",
        "refresh_token": CLIENT_SECRET,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    token = twins.http.post(f"{base}/oauth/v2/accessToken", data=grant).json()["access_token"]
    element = {"action": "ADD", "userIds": [{"idType": "SHA256_EMAIL", "idValue": _sha("a@b.c")}]}
    url, body = f"{base}/rest/dmpSegments/{SEGMENT_ID}/users", {"elements": [element, {"action": "ADD", "userIds": []}]}
    headers = {"Authorization": f"Bearer {token}", "X-Restli-Protocol-Version": "2.0.0", "X-RestLi-Method": "BATCH_CREATE"}
    assert twins.http.post(url, json=body, headers=headers).status_code == 426
    answer = twins.http.post(url, json=body, headers={**headers, "LinkedIn-Version": "202510"})
    assert [item["status"] for item in answer.json()["elements"]] == [201, 400]
    assert twins.http.post(url, json=body, headers={**headers, "Authorization": "Bearer x"}).status_code == 401


# -- Google Analytics -----------------------------------------------------------------------------------------------------


def test_an_event_arrives_once_and_says_that_nobody_verified_it(twins: Twins) -> None:
    with _connected(twins, "google_analytics", measurement_id="G-1") as destination:
        outcome = destination.deliver(ACTIONS["google_analytics"], [_event(1, user_id="u1", user_properties={"plan": "team"})])[0]
    assert (outcome.status, outcome.warning) == ("delivered", "accepted; the protocol verifies nothing")
    assert twins.records("google_analytics", "Event") == [
        {"client_id": "client.1", "user_id": "u1", "event": {"name": "board_created", "params": {"boards": 1}}}
    ]
    assert not twins.records("google_analytics", "Dropped")


@pytest.mark.parametrize(
    "payload",
    [
        {"name": "ga_event"},
        {"name": "session_start"},
        {"name": "has space"},
        {"params": {"a": None}},
        {"params": {"a": [1]}},
        {"params": {"a": "x" * 101}},
        {"params": {f"p{n}": n for n in range(26)}},
        {"user_properties": {"x" * 25: "1"}},
        {"time": "2020-01-01T00:00:00Z"},
        {"time": "yesterday"},
    ],
)
def test_what_the_protocol_would_drop_in_silence_is_rejected_with_its_reason(twins: Twins, payload: dict[str, Any]) -> None:
    assert _deliver(twins, "google_analytics", _event(1, **payload)) == {"1": "rejected"}
    assert not twins.calls("google_analytics")


@pytest.mark.parametrize("kind", ["500", "timeout_before_commit", "commit_then_drop"])
def test_an_event_without_an_answer_is_unknown_and_sent_once(twins: Twins, kind: str) -> None:
    twins.fault("google_analytics", kind=kind, seconds=10)
    assert _deliver(twins, "google_analytics", _event(1), timeout_seconds=0.5) == {"1": "unknown"}
    assert len(twins.calls("google_analytics")) == 1
    assert capabilities("google_analytics").resend == "append"


def test_the_debug_validator_says_what_production_drops(twins: Twins) -> None:
    base = twins.base("google_analytics")
    query = {"api_secret": CLIENT_SECRET, "measurement_id": "G-1"}
    bad = {"client_id": "c", "events": [{"name": "ga_x", "params": {}}]}
    assert twins.http.post(f"{base}/debug/mp/collect", params=query, json=bad).json()["validationMessages"][0][
        "validationCode"
    ] == ("NAME_RESERVED")
    assert twins.http.post(f"{base}/mp/collect", params=query, json=bad).status_code == 204
    assert twins.http.post(f"{base}/mp/collect", params={**query, "api_secret": "x"}, json={"client_id": "c"}).status_code == 204
    assert [fields["reason"] for fields in twins.records("google_analytics", "Dropped")] == ["NAME_RESERVED", "VALUE_INVALID"]


def test_the_time_of_an_event_becomes_microseconds(twins: Twins) -> None:
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    assert _deliver(twins, "google_analytics", _event(1, time=moment.isoformat())) == {"1": "delivered"}
    assert twins.records("google_analytics")[0]["timestamp_micros"] == int(moment.timestamp() * 1_000_000)
