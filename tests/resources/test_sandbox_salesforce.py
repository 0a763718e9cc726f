"""The Salesforce twin against documented exchanges, and with simple-salesforce as an independent client."""

from __future__ import annotations

import base64
import datetime as dt
import json
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from requests.adapters import HTTPAdapter
from simple_salesforce import Salesforce
from simple_salesforce.exceptions import SalesforceExpiredSession, SalesforceMalformedRequest

from resources.sandbox.salesforce_schema import record_id

DATA = "/services/data/v61.0"
COLLECTION = f"{DATA}/composite/sobjects/Contact/CDP_Id__c"


def sign_in(twins, form: dict, **more):
    return twins.http.post(f"{twins.base('salesforce')}/services/oauth2/token", data=form, **more)


def send(twins, method: str, path: str, headers: dict | None = None, **more):
    return twins.http.request(
        method, twins.base("salesforce") + path, headers=twins.salesforce() if headers is None else headers, **more
    )


def contacts(*records: dict) -> dict:
    return {"allOrNone": False, "records": [{"attributes": {"type": "Contact"}, **record} for record in records]}


def assertion(**claims) -> str:
    def part(content: dict) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    given = {"iss": "sandbox", "sub": "me", "aud": "https://login.salesforce.com", "exp": 1781524980, **claims}
    return f"{part({'alg': 'RS256'})}.{part(given)}.signature"


# -- sign-in ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}, {}),
        (
            {"grant_type": "client_credentials"},
            {"Authorization": "Basic " + base64.b64encode(b"sandbox:sandbox-secret").decode()},
        ),
        (
            {"grant_type": "password", "client_id": "sandbox", "client_secret": "sandbox-secret"}
            | {"username": "sandbox", "password": "sandbox-secretSECURITYTOKEN"},
            {},
        ),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion()}, {}),
    ],
)
def test_a_grant_gives_a_token_and_the_url_for_later_calls(twins, form, headers) -> None:
    answer = sign_in(twins, form, headers=headers)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) >= {"access_token", "instance_url", "id", "token_type", "issued_at", "signature"}
    assert "expires_in" not in body  # the session's length is the organisation's
    assert body["instance_url"] == twins.base("salesforce")
    assert send(twins, "GET", f"{DATA}/limits", {"Authorization": f"Bearer {body['access_token']}"}).status_code == 200


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"grant_type": "client_credentials", "client_id": "x", "client_secret": "sandbox-secret"}, "invalid_client_id"),
        ({"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "x"}, "invalid_client"),
        (
            {
                "grant_type": "password",
                "client_id": "sandbox",
                "client_secret": "sandbox-secret",
                "username": "x",
                "password": "y",
            },
            "invalid_grant",
        ),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion(exp=1)}, "invalid_grant"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "nonsense"}, "invalid_grant"),
        ({"grant_type": "magic"}, "unsupported_grant_type"),
    ],
)
def test_a_wrong_grant_is_400_with_its_error(twins, form, code) -> None:
    answer = sign_in(twins, form)
    assert answer.status_code == 400
    assert answer.json()["error"] == code
    assert answer.json()["error_description"]


def test_a_token_request_must_be_form_encoded(twins) -> None:
    answer = twins.http.post(f"{twins.base('salesforce')}/services/oauth2/token", json={"grant_type": "client_credentials"})
    assert answer.status_code == 400


def test_without_a_live_session_every_call_is_401_invalid_session_id(twins, clock) -> None:
    headers = twins.salesforce()
    for given in ({}, {"Authorization": "Bearer wrong"}):
        answer = send(twins, "GET", f"{DATA}/limits", given)
        assert answer.status_code == 401
        assert answer.json()[0]["errorCode"] == "INVALID_SESSION_ID"
    assert send(twins, "GET", f"{DATA}/limits", headers).status_code == 200
    clock.pass_(hours=3)
    assert send(twins, "GET", f"{DATA}/limits", headers).status_code == 401


# -- Collections ------------------------------------------------------------------------------------------------------


def test_a_collection_answers_in_the_order_of_the_records(twins) -> None:
    send(twins, "PATCH", COLLECTION, json=contacts({"CDP_Id__c": "b", "LastName": "B"}))
    answer = send(
        twins, "PATCH", COLLECTION, json=contacts({"CDP_Id__c": "a", "LastName": "A"}, {"CDP_Id__c": "B", "FirstName": "Bob"})
    )
    assert answer.status_code == 200
    first, second = answer.json()
    assert (first["success"], first["created"], first["errors"]) == (True, True, [])
    assert (second["success"], second["created"], second["errors"]) == (True, False, [])  # external ids ignore case
    assert first["id"] != second["id"]
    assert len(first["id"]) == 18
    assert {"CDP_Id__c": "B", "LastName": "B", "FirstName": "Bob"} in twins.records("salesforce")


def test_a_bad_record_fails_alone_with_status_code_and_fields(twins) -> None:
    answer = send(
        twins,
        "PATCH",
        COLLECTION,
        json=contacts(
            {"CDP_Id__c": "ok", "LastName": "Good"},
            {"CDP_Id__c": "1", "LastName": "X", "Nonsense": 1},
            {"CDP_Id__c": "2"},
            {"CDP_Id__c": "3", "LastName": "x" * 81},
            {"CDP_Id__c": "4", "LastName": "X", "Email": "not an address"},
            {"CDP_Id__c": "twice", "LastName": "X"},
            {"CDP_Id__c": "TWICE", "LastName": "X"},
            {"LastName": "X"},
            {"CDP_Id__c": "5", "LastName": "X", "HasOptedOutOfEmail": "yes"},
            {"CDP_Id__c": "6", "LastName": "X", "Id": "003000000000001AAA"},
        ),
    )
    assert answer.status_code == 200
    errors = [[(e["statusCode"], e["fields"]) for e in item["errors"]] for item in answer.json()]
    assert errors == [
        [],
        [("INVALID_FIELD", ["Nonsense"])],
        [("REQUIRED_FIELD_MISSING", ["LastName"])],
        [("STRING_TOO_LONG", ["LastName"])],
        [("INVALID_EMAIL_ADDRESS", ["Email"])],
        [("DUPLICATE_VALUE", ["CDP_Id__c"])],
        [("DUPLICATE_VALUE", ["CDP_Id__c"])],
        [("MISSING_ARGUMENT", ["CDP_Id__c"])],
        [("INVALID_TYPE_ON_FIELD_IN_RECORD", ["HasOptedOutOfEmail"])],
        [("INVALID_FIELD", ["Id"])],
    ]
    assert [item["success"] for item in answer.json()] == [True] + [False] * 9
    assert len(twins.records("salesforce")) == 1


def test_all_or_none_stores_nothing_when_one_fails(twins) -> None:
    body = {**contacts({"CDP_Id__c": "a", "LastName": "A"}, {"CDP_Id__c": "b"}), "allOrNone": True}
    items = send(twins, "PATCH", COLLECTION, json=body).json()
    assert [item["errors"][0]["statusCode"] for item in items] == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUIRED_FIELD_MISSING"]
    assert twins.records("salesforce") == []


def test_a_collection_has_at_most_200_records(twins) -> None:
    rows = [{"CDP_Id__c": str(n), "LastName": "X"} for n in range(201)]
    assert send(twins, "PATCH", COLLECTION, json=contacts(*rows)).status_code == 400
    assert send(twins, "PATCH", COLLECTION, json=contacts(*rows[:200])).status_code == 200


def test_a_key_must_be_an_external_id_field(twins) -> None:
    answer = send(twins, "PATCH", f"{DATA}/composite/sobjects/Contact/LastName", json=contacts({"LastName": "X"}))
    assert answer.status_code == 400
    assert answer.json()[0]["errorCode"] == "INVALID_FIELD"


def test_what_is_not_json_is_refused_as_a_whole(twins) -> None:
    headers = {**twins.salesforce(), "Content-Type": "application/json"}
    answer = send(twins, "PATCH", COLLECTION, headers, content=b"{")
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (400, "JSON_PARSER_ERROR")
    answer = send(twins, "PATCH", COLLECTION, {**headers, "Content-Type": "text/plain"}, content=b"{}")
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    answer = send(twins, "PATCH", COLLECTION, json={"records": [{"CDP_Id__c": "no attributes"}]})
    assert answer.status_code == 400


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_is_created_with_201_and_updated_with_200(twins) -> None:
    path = f"{DATA}/sobjects/Contact/CDP_Id__c/k%2F1"
    created, updated = (send(twins, "PATCH", path, json={"LastName": name}) for name in ("A", "B"))
    assert (created.status_code, created.json()["created"]) == (201, True)
    assert (updated.status_code, updated.json()["created"]) == (200, False)
    assert created.json()["id"] == updated.json()["id"]
    assert twins.records("salesforce") == [{"CDP_Id__c": "k/1", "LastName": "B"}]


def test_several_matches_are_300_and_change_nothing(twins) -> None:
    for name in ("A", "B"):
        assert (
            send(twins, "POST", f"{DATA}/sobjects/Contact", json={"LastName": name, "Email": "same@example.com"}).status_code
            == 201
        )
    answer = send(twins, "PATCH", f"{DATA}/sobjects/Contact/Email/same@example.com", json={"LastName": "C"})
    assert answer.status_code == 300
    assert len(answer.json()) == 2
    assert [record["LastName"] for record in twins.records("salesforce")] == ["A", "B"]


def test_update_only_never_creates(twins) -> None:
    path = f"{DATA}/sobjects/Contact/CDP_Id__c/new?updateOnly=true"
    answer = send(twins, "PATCH", path, json={"LastName": "A"})
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (404, "NOT_FOUND")
    assert twins.records("salesforce") == []


def test_errors_of_one_row_carry_error_code_instead(twins) -> None:
    answer = send(twins, "POST", f"{DATA}/sobjects/Account", json={"Industry": "Banks"})
    assert answer.status_code == 400
    assert answer.json()[0]["errorCode"] == "REQUIRED_FIELD_MISSING"
    assert answer.json()[0]["fields"] == ["Name"]


def test_any_custom_object_exists_and_no_other(twins) -> None:
    assert send(twins, "PATCH", f"{DATA}/sobjects/Usage__c/Key__c/1", json={"Total__c": 3}).status_code == 201
    assert send(twins, "PATCH", f"{DATA}/sobjects/Usage/Key__c/1", json={}).status_code == 404


def test_ids_carry_the_documented_checksum() -> None:
    assert record_id("001", 1) == "001000000000001AAA"
    # 001A0000006Vm9r is 001A0000006Vm9rIAC wherever it is shown with 18 characters.
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for letter in "A0000006Vm9r":
        number = number * 62 + alphabet.index(letter)
    assert record_id("001", number) == "001A0000006Vm9rIAC"


# -- quota ------------------------------------------------------------------------------------------------------------


def test_every_answer_tells_the_usage_and_past_the_limit_is_403_until_the_next_day(twins, clock) -> None:
    twins.limit("salesforce", daily=2)
    headers = twins.salesforce()
    first = send(twins, "GET", f"{DATA}/limits", headers)
    assert first.headers["sforce-limit-info"] == "api-usage=1/2"
    assert first.json()["DailyApiRequests"] == {"Max": 2, "Remaining": 1}
    send(twins, "GET", f"{DATA}/limits", headers)
    refused = send(twins, "GET", f"{DATA}/limits", headers)
    assert (refused.status_code, refused.json()[0]["errorCode"]) == (403, "REQUEST_LIMIT_EXCEEDED")
    clock.at = dt.datetime(2026, 6, 16, 0, 0, 1, tzinfo=dt.UTC)
    assert send(twins, "GET", f"{DATA}/limits").status_code == 200


# -- an independent client --------------------------------------------------------------------------------------------


class ToTwin(HTTPAdapter):
    """simple-salesforce insists on https and on its own hosts; this sends them all to the twin."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = urlsplit(base)

    def send(self, request, **kwargs):
        url = urlsplit(request.url)
        path = url.path if url.path.startswith(self.base.path + "/") else self.base.path + url.path
        request.url = urlunsplit(("http", self.base.netloc, path, url.query, ""))
        return super().send(request, **kwargs)


@pytest.fixture
def client(twins) -> Salesforce:
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", ToTwin(twins.base("salesforce")))
    return Salesforce(domain="acme.my", consumer_key="sandbox", consumer_secret="sandbox-secret", session=session, version="61.0")


def test_simple_salesforce_signs_in_and_upserts_rows(client, twins) -> None:
    assert client.Contact.upsert("CDP_Id__c/k1", {"LastName": "Nováková", "Email": "n@example.com"}) == 201
    assert client.Contact.upsert("CDP_Id__c/k1", {"FirstName": "Jana"}) == 200
    assert client.Contact.get_by_custom_id("CDP_Id__c", "k1")["FirstName"] == "Jana"
    client.limits()
    assert client.api_usage["api-usage"].used == 4


def test_simple_salesforce_queries_describes_and_reads_limits(client) -> None:
    client.Contact.upsert("CDP_Id__c/k1", {"LastName": "O'Neil"})
    client.Contact.upsert("CDP_Id__c/k2", {"LastName": "Other"})
    found = client.query("SELECT Id, CDP_Id__c FROM Contact WHERE LastName = 'O\\'Neil'")
    assert (found["totalSize"], found["done"]) == (1, True)
    assert found["records"][0]["CDP_Id__c"] == "k1"
    assert len(client.query_all("SELECT Id FROM Contact WHERE CDP_Id__c IN ('k1', 'k2')")["records"]) == 2
    fields = {field["name"]: field for field in client.Contact.describe()["fields"]}
    assert fields["LastName"]["nillable"] is False and fields["CDP_Id__c"]["externalId"] is True
    assert client.limits()["DailyApiRequests"]["Remaining"] > 0


def test_simple_salesforce_sends_a_collection(client) -> None:
    body = contacts({"CDP_Id__c": "a", "LastName": "A"}, {"CDP_Id__c": "b"})
    items = client.restful("composite/sobjects/Contact/CDP_Id__c", method="PATCH", json=body)
    assert [item["success"] for item in items] == [True, False]


def test_simple_salesforce_recognises_the_errors(client) -> None:
    with pytest.raises(SalesforceMalformedRequest) as refused:
        client.Contact.create({"FirstName": "no last name"})
    assert refused.value.content[0]["errorCode"] == "REQUIRED_FIELD_MISSING"
    with pytest.raises(SalesforceMalformedRequest):
        client.query("SELEKT Id FROM Contact")


def test_simple_salesforce_signs_in_again_when_its_session_is_gone(client, twins) -> None:
    twins.fault("salesforce", kind="expired_token", times=1)
    assert client.query("SELECT Id FROM Contact")["totalSize"] == 0
    assert [call["path"] for call in twins.calls("salesforce")].count("/services/oauth2/token") == 2


def test_simple_salesforce_recognises_an_expired_session(client, twins) -> None:
    stranger = Salesforce(session_id="spent", instance_url="https://sandbox.local", session=client.session, version="61.0")
    with pytest.raises(SalesforceExpiredSession):
        stranger.query("SELECT Id FROM Contact")


def test_simple_salesforce_carries_out_a_bulk_job(client, twins) -> None:
    twins.limit("salesforce", bulk_milliseconds=0)
    rows = [
        {"CDP_Id__c": "k1", "LastName": "Nováková, J."},
        {"CDP_Id__c": "k2", "LastName": ""},
        {"CDP_Id__c": "k3", "LastName": "#N/A"},
    ]
    (result,) = client.bulk2.Contact.upsert(records=rows, external_id_field="CDP_Id__c", wait=0.01)
    assert (result["numberRecordsTotal"], result["numberRecordsFailed"]) == (3, 2)
    job = result["job_id"]
    assert "k1" in client.bulk2.Contact.get_successful_records(job)
    failed = client.bulk2.Contact.get_failed_records(job)
    assert "REQUIRED_FIELD_MISSING" in failed
    assert "k2" in failed
    assert client.Contact.get_by_custom_id("CDP_Id__c", "k1")["LastName"] == "Nováková, J."


def test_an_ingest_job_keeps_to_its_states(twins) -> None:
    twins.limit("salesforce", bulk_milliseconds=0)
    jobs = f"{DATA}/jobs/ingest"
    wanted = {"object": "Contact", "operation": "upsert", "externalIdFieldName": "CDP_Id__c", "contentType": "CSV"}
    csv = {**twins.salesforce(), "Content-Type": "text/csv"}
    made = send(twins, "POST", jobs, json=wanted).json()
    assert (made["state"], made["id"][:3]) == ("Open", "750")
    one = f"{jobs}/{made['id']}"
    assert send(twins, "PUT", f"{one}/batches", json={}).status_code == 415
    assert send(twins, "GET", f"{one}/successfulResults").status_code == 400
    assert send(twins, "DELETE", one).status_code == 400
    uploaded = send(twins, "PUT", f"{one}/batches", headers=csv, content=b"CDP_Id__c,LastName\nk1,Lee\n")
    assert (uploaded.status_code, uploaded.content) == (201, b"")
    # Exactly once: a second upload spoils the job.
    assert send(twins, "PUT", f"{one}/batches", headers=csv, content=b"CDP_Id__c,LastName\nk1,Lee\n").status_code == 201
    spoilt = send(twins, "PATCH", one, json={"state": "UploadComplete"})
    assert (spoilt.status_code, spoilt.json()[0]["errorCode"]) == (400, "INVALIDJOB")
    assert send(twins, "PATCH", one, json={"state": "Aborted"}).json()["state"] == "Aborted"
    assert send(twins, "PATCH", one, json={"state": "UploadComplete"}).status_code == 400
    assert send(twins, "DELETE", one).status_code == 204
    assert send(twins, "GET", one).status_code == 404
    assert send(twins, "POST", jobs, json={**wanted, "externalIdFieldName": "FirstName"}).status_code == 400
    assert twins.records("salesforce", "Contact") == []
