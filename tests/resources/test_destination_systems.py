"""What is particular to one connector: code tables, positions, halving, reading back, quotas, and where a live account is."""

from __future__ import annotations

import datetime as dt
import threading
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.destinations import (
    Action,
    Connection,
    DestinationConfigError,
    Operation,
    RateLimit,
    gainsight,
    marketo,
    salesforce,
)
from resources.destinations import http as wire

CONTACTS = Action("upsert", {"object": "Contact", "key_field": "CDP_Id__c", "flag_field": "Member__c"})
LEADS = Action("upsert", {"flag_field": "Member__c"})
COMPANIES = Action("upsert", {"object": "Company", "flag_field": "Member__gc"})


def operation(n: int, key: str = "", kind: Any = "enter", **payload: Any) -> Operation:
    return Operation(f"op{n}", kind, key or f"key{n}", payload, f"message{n}")


def by_id(outcomes: list[Any]) -> dict[str, Any]:
    return {outcome.id: (outcome.status, outcome.reason) for outcome in outcomes}


@pytest.fixture
def answering(monkeypatch):
    """Connectors talk to a function instead of a network: ``answering(lambda request: httpx.Response(...))``."""

    def install(handler) -> list[httpx.Request]:
        seen: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return handler(request)

        monkeypatch.setattr(wire.httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(handle)))
        monkeypatch.setattr(wire, "_accounts", {})
        return seen

    return install


# -- Salesforce -------------------------------------------------------------------------------------------------------


def test_a_rejected_contact_names_code_and_field_and_its_neighbours_go_through(twins) -> None:
    with salesforce.connect(twins.connection("salesforce")) as destination:
        outcomes = destination.deliver(
            CONTACTS,
            [
                operation(1, LastName="A"),
                operation(2, LastName="x" * 90, Email="nonsense"),
                operation(3),
                operation(4, LastName="D"),
            ],
        )
    assert by_id(outcomes) == {
        "op1": ("delivered", ""),
        "op2": ("rejected", "STRING_TOO_LONG, INVALID_EMAIL_ADDRESS (Email, LastName)"),
        "op3": ("rejected", "REQUIRED_FIELD_MISSING (LastName)"),
        "op4": ("delivered", ""),
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"statusCode": "UNABLE_TO_LOCK_ROW"}, "waiting"),
        ({"statusCode": "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "message": "... Too many SOQL queries: 101"}, "waiting"),
        ({"statusCode": "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "message": "trigger said no"}, "rejected"),
        ({"statusCode": "DUPLICATES_DETECTED"}, "rejected"),
        ({"statusCode": "SOMETHING_NEW"}, "rejected"),
    ],
)
def test_a_row_code_decides_whether_it_may_pass_later(error, status) -> None:
    assert salesforce._row_outcome(operation(1), {"success": False, "errors": [error]}).status == status


def test_a_row_that_failed_for_good_reason_too_does_not_wait() -> None:
    errors = [{"statusCode": "UNABLE_TO_LOCK_ROW"}, {"statusCode": "INVALID_FIELD", "fields": ["X"]}]
    assert salesforce._row_outcome(operation(1), {"success": False, "errors": errors}).status == "rejected"


def test_a_key_with_every_kind_of_character_is_retracted(twins) -> None:
    key = "a/b?c=d&e%20+ž#'"
    with salesforce.connect(twins.connection("salesforce")) as destination:
        destination.deliver(CONTACTS, [operation(1, key, LastName="A")])
        outcomes = destination.deliver(CONTACTS, [operation(1, key, "retract")])
    assert not outcomes[0].warning
    assert twins.records("salesforce") == [{"CDP_Id__c": key, "LastName": "A", "Member__c": False}]


def test_the_connector_stops_before_the_organisations_quota_is_gone(twins) -> None:
    twins.limit("salesforce", daily=10)
    with salesforce.connect(twins.connection("salesforce", quota_share=0.3)) as destination:
        statuses = [destination.deliver(CONTACTS, [operation(n, LastName="A")])[0] for n in range(6)]
    assert [o.status for o in statuses] == ["delivered"] * 3 + ["waiting"] * 3
    assert statuses[-1].reason == "quota:share"


LIVE = Connection(
    "live",
    "00D000000000001EAA",
    {"my_domain": "acme.my.salesforce.com", "retry_seconds": 0.2},
    {"client_id": "i", "client_secret": "s"},
)


def signed_in(**changes: str) -> httpx.Response:
    body = {
        "access_token": "t",
        "instance_url": "https://eu5.my.salesforce.com",
        "id": "https://login.salesforce.com/id/00D000000000001EAA/005",
    }
    return httpx.Response(200, json=body | changes)


def test_a_live_call_goes_where_the_sign_in_says(answering) -> None:
    seen = answering(
        lambda request: (
            signed_in() if "oauth2" in request.url.path else httpx.Response(200, json=[{"success": True, "id": "003"}])
        )
    )
    with salesforce.connect(LIVE) as destination:
        assert destination.deliver(CONTACTS, [operation(1, LastName="A")])[0].status == "delivered"
    assert [request.url.host for request in seen] == ["acme.my.salesforce.com", "eu5.my.salesforce.com"]


def test_credentials_of_another_organisation_write_nothing(answering) -> None:
    seen = answering(lambda request: signed_in(id="https://login.salesforce.com/id/00D000000000009EAA/005"))
    with salesforce.connect(LIVE) as destination, pytest.raises(DestinationConfigError, match="another organisation"):
        destination.deliver(CONTACTS, [operation(1, LastName="A")])
    assert len(seen) == 1


def test_a_live_sign_in_that_names_this_machine_is_refused(answering) -> None:
    answering(lambda request: signed_in(instance_url="https://127.0.0.1"))
    with salesforce.connect(LIVE) as destination, pytest.raises(DestinationConfigError, match="live"):
        destination.deliver(CONTACTS, [operation(1, LastName="A")])


def test_an_answer_of_the_wrong_length_is_unknown(answering) -> None:
    answering(lambda request: signed_in() if "oauth2" in request.url.path else httpx.Response(200, json=[]))
    with salesforce.connect(LIVE) as destination:
        assert destination.deliver(CONTACTS, [operation(1, LastName="A")])[0].status == "unknown"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "JSON_PARSER_ERROR", ("rejected", "400:JSON_PARSER_ERROR")),
        (404, "NOT_FOUND", ("rejected", "404:NOT_FOUND")),
        (403, "INSUFFICIENT_ACCESS", ("waiting", "auth:INSUFFICIENT_ACCESS")),
        (403, "REQUEST_LIMIT_EXCEEDED", ("waiting", "quota:REQUEST_LIMIT_EXCEEDED")),
        (401, "INVALID_SESSION_ID", ("waiting", "auth:INVALID_SESSION_ID")),
        (503, "SERVER_UNAVAILABLE", ("waiting", "503:SERVER_UNAVAILABLE")),
    ],
)
def test_a_refused_call_is_classed_by_status_and_code(answering, status, code, expected) -> None:
    refusal = httpx.Response(status, json=[{"errorCode": code, "message": "private@example.com"}])
    answering(lambda request: signed_in() if "oauth2" in request.url.path else refusal)
    with salesforce.connect(LIVE) as destination:
        assert by_id(destination.deliver(CONTACTS, [operation(1, LastName="A")])) == {"op1": expected}


# -- Marketo ----------------------------------------------------------------------------------------------------------


def test_each_lead_gets_its_own_outcome_by_code(twins) -> None:
    with marketo.connect(twins.connection("marketo")) as destination:
        outcomes = destination.deliver(
            LEADS,
            [
                operation(1, "a@example.com"),
                operation(2, "not an address"),
                operation(3, "c@example.com", nonsense=1),
                operation(4, "d@example.com", firstName="D"),
            ],
        )
    assert by_id(outcomes) == {
        "op1": ("delivered", ""),
        "op2": ("rejected", "1003"),
        "op3": ("rejected", "1006"),
        "op4": ("delivered", ""),
    }


@pytest.mark.parametrize(
    ("code", "status"), [("1007", "rejected"), ("1022", "waiting"), ("1014", "waiting"), ("1999", "waiting")]
)
def test_a_record_code_decides_and_an_unknown_one_waits(code, status) -> None:
    item = {"status": "skipped", "reasons": [{"code": code, "message": "private@example.com"}]}
    outcome = marketo._row_outcome(operation(1), item)
    assert (outcome.status, outcome.reason) == (status, code)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("610", ("rejected", "610")),
        ("1006", ("rejected", "1006")),
        ("603", ("waiting", "auth:603")),
        ("607", ("waiting", "quota:607")),
        ("615", ("waiting", "615")),
        ("799", ("waiting", "799")),
        ("601", ("waiting", "auth:601")),
    ],
)
def test_a_refused_call_with_status_200_is_classed_by_its_code(answering, code, expected) -> None:
    refusal = httpx.Response(200, json={"success": False, "errors": [{"code": code, "message": "private@example.com"}]})
    answering(lambda request: httpx.Response(200, json={"access_token": "t"}) if "oauth" in request.url.path else refusal)
    with marketo.connect(
        Connection("live", "123-ABC-456", {"retry_seconds": 0.2}, {"client_id": "i", "client_secret": "s"})
    ) as destination:
        assert by_id(destination.deliver(LEADS, [operation(1)])) == {"op1": expected}


def test_the_secret_and_the_token_are_never_in_a_url(answering) -> None:
    answer = httpx.Response(200, json={"success": True, "result": [{"id": 1, "status": "created"}]})
    seen = answering(
        lambda request: httpx.Response(200, json={"access_token": "t0ken"}) if "oauth" in request.url.path else answer
    )
    with marketo.connect(Connection("live", "123-ABC-456", {}, {"client_id": "i", "client_secret": "s3cret"})) as destination:
        assert destination.deliver(LEADS, [operation(1)])[0].status == "delivered"
    assert [str(request.url) for request in seen] == [
        "https://123-ABC-456.mktorest.com/identity/oauth/token".lower(),
        "https://123-ABC-456.mktorest.com/rest/v1/leads.json".lower(),
    ]


def test_a_batch_that_is_too_large_is_halved(twins) -> None:
    text = "x" * 1900
    operations = [operation(n, f"p{n}@example.com", **{f"Note{i}__c": text for i in range(4)}) for n in range(200)]
    with marketo.connect(twins.connection("marketo")) as destination:
        outcomes = destination.deliver(LEADS, operations)
    assert {outcome.status for outcome in outcomes} == {"delivered"}
    assert len(twins.records("marketo")) == 200
    assert [call["status"] for call in twins.calls("marketo")][1:] == [413, 200, 200]


def test_two_activations_never_have_two_calls_under_way(twins) -> None:
    twins.limit("marketo", concurrent=1)
    twins.fault("marketo", kind="slow", seconds=0.03)
    outcomes: list[Any] = []

    def run(n: int) -> None:
        with marketo.connect(twins.connection("marketo", timeout_seconds=5)) as destination:
            outcomes.extend(destination.deliver(LEADS, [operation(n, "same@example.com", leadScore=n)]))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.status for outcome in outcomes] == ["delivered"] * 4
    assert len(twins.records("marketo")) == 1
    assert sum("oauth" in call["path"] for call in twins.calls("marketo")) == 1  # and they share one token


@given(st.datetimes(dt.datetime(2024, 1, 1), dt.datetime(2030, 1, 1), timezones=st.just(dt.UTC)))
def test_the_quota_opens_at_the_next_midnight_in_chicago(at) -> None:
    opens = marketo.next_quota_day(at)
    local = opens.astimezone(ZoneInfo("America/Chicago"))
    assert (local.hour, local.minute, local.second) == (0, 0, 0)
    assert dt.timedelta(0) < opens - at <= dt.timedelta(hours=25)


# -- Gainsight --------------------------------------------------------------------------------------------------------


def test_known_companies_are_updated_and_new_ones_inserted(twins) -> None:
    with gainsight.connect(twins.connection("gainsight")) as destination:
        destination.deliver(COMPANIES, [operation(1, "Meridian", Employees=1, Stage="kept")])
        outcomes = destination.deliver(COMPANIES, [operation(1, "MERIDIAN", Employees=2), operation(2, "New", Employees=3)])
    assert {outcome.status for outcome in outcomes} == {"delivered"}
    assert [(r["Name"], r["Employees"], r.get("Stage")) for r in twins.records("gainsight")] == [
        ("MERIDIAN", 2, "kept"),
        ("New", 3, None),
    ]
    assert [(call["method"], call["path"].rsplit("/", 2)[1]) for call in twins.calls("gainsight")] == [
        ("POST", "query"),
        ("POST", "objects"),
        ("POST", "query"),
        ("PUT", "objects"),
        ("POST", "objects"),
    ]


def test_bad_records_are_found_by_halving_and_the_others_stored(twins) -> None:
    bad = {7, 31, 32}
    operations = [operation(n, Employees="many" if n in bad else n) for n in range(60)]
    with gainsight.connect(twins.connection("gainsight")) as destination:
        outcomes = destination.deliver(COMPANIES, operations)
    assert {int(o.id[2:]) for o in outcomes if o.status == "rejected"} == bad
    assert {o.reason for o in outcomes if o.status == "rejected"} == {"400:GSOBJ_1008"}
    assert len(twins.records("gainsight")) == 57
    assert len(twins.calls("gainsight")) < 40


def test_several_companies_of_one_name_are_not_guessed_between(twins) -> None:
    headers = {"accesskey": "sandbox-secret", "Accept": "application/json"}
    for _ in range(2):
        twins.http.post(
            f"{twins.base('gainsight')}/v1/data/objects/Company", json={"records": [{"Name": "Twice"}]}, headers=headers
        )
    with gainsight.connect(twins.connection("gainsight")) as destination:
        [outcome] = destination.deliver(COMPANIES, [operation(1, "Twice", Employees=2)])
    assert outcome.status == "rejected" and "several" in outcome.reason


def test_custom_objects_are_written_by_their_key_field(twins) -> None:
    action = Action("upsert", {"object": "User_Activity__gc", "key_field": "User_Id__gc"})
    with gainsight.connect(twins.connection("gainsight")) as destination:
        for sessions in (1, 2):
            assert destination.deliver(action, [operation(1, "u1", Sessions__gc=sessions)])[0].status == "delivered"
        with pytest.raises(DestinationConfigError, match="key_field"):
            destination.deliver(Action("upsert", {"object": "User_Activity__gc"}), [operation(1)])
    assert [(r["User_Id__gc"], r["Sessions__gc"]) for r in twins.records("gainsight")] == [("u1", 2)]


def test_an_insert_with_a_server_error_is_looked_up_and_not_repeated(twins) -> None:
    with gainsight.connect(twins.connection("gainsight")) as destination:
        twins.fault("gainsight", kind="500", path="objects/Company", times=1)
        [outcome] = destination.deliver(COMPANIES, [operation(1, Employees=1)])
        assert (outcome.status, outcome.reason) == ("waiting", "500:GU_1101")
        assert [call["path"].rsplit("/", 2)[1] for call in twins.calls("gainsight")] == ["query", "objects", "query"]
        assert destination.deliver(COMPANIES, [operation(1, Employees=1)])[0].status == "delivered"
    assert len(twins.records("gainsight")) == 1


def test_a_page_instead_of_an_answer_is_not_taken_for_success(answering) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "query" in request.url.path:
            return httpx.Response(200, json={"result": True, "data": {"records": []}})
        return httpx.Response(200, text="<html></html>")

    answering(answer)
    with gainsight.connect(Connection("live", "acme.gainsightcloud.com", {}, {"access_key": "k"})) as destination:
        assert destination.deliver(COMPANIES, [operation(1)])[0].status == "unknown"


# -- pace -------------------------------------------------------------------------------------------------------------


def test_a_full_rate_window_that_is_too_long_waits_for_the_next_sync(twins, monkeypatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_PACE", 10.0)
    connection = twins.connection("gainsight", calls_per_minute=3)
    with gainsight.connect(connection) as destination:
        assert destination.deliver(COMPANIES, [operation(1, Employees=1)])[0].status == "delivered"
        started = wire.now()
        outcomes = destination.deliver(COMPANIES, [operation(2, Employees=1)])
        with gainsight.connect(connection) as other:
            outcomes += other.deliver(COMPANIES, [operation(3, Employees=1)])
    assert [(o.status, o.reason) for o in outcomes] == [("waiting", "paced")] * 2
    assert all(started + dt.timedelta(seconds=50) < o.not_before <= started + dt.timedelta(seconds=62) for o in outcomes)
    assert wire.now() - started < dt.timedelta(seconds=5)
    assert len(twins.calls("gainsight")) == 3


def test_a_short_window_is_slept_through() -> None:
    account = wire.account_of("test", Connection("sandbox", "pace"), "http://127.0.0.1", (RateLimit(2, 0.2),))
    started = wire.now()
    for _ in range(5):
        account.enter()
    assert dt.timedelta(seconds=0.4) <= wire.now() - started < dt.timedelta(seconds=2)


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("", None), ("soon", None), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0), ("-3", None)]
)
def test_a_retry_after_is_read_in_both_its_forms(value, seconds) -> None:
    assert wire.retry_after(httpx.Response(429, headers={"Retry-After": value})) == seconds
