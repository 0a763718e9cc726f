"""The Marketo twin against documented exchanges, and with marketorestpython as an independent client."""

from __future__ import annotations

import datetime as dt

import httpx
import pytest
from marketorestpython.client import MarketoClient

EMAIL = "jan.novak@example.com"


def send(twins, method: str, path: str, headers: dict | None = None, **more) -> httpx.Response:
    return twins.http.request(
        method, twins.base("marketo") + path, headers=twins.marketo() if headers is None else headers, **more
    )


def sync(twins, *rows: dict, headers: dict | None = None, **body) -> dict:
    answer = send(twins, "POST", "/rest/v1/leads.json", headers, json={**body, "input": list(rows)})
    assert answer.status_code == 200
    return answer.json()


def outcomes(answer: dict) -> list[str]:
    """Per record its status, or the code of why it was skipped."""
    return [item["reasons"][0]["code"] if item["status"] == "skipped" else item["status"] for item in answer["result"]]


def code(answer: dict) -> str:
    assert answer["success"] is False
    assert "result" not in answer
    return answer["errors"][0]["code"]


# -- identity ---------------------------------------------------------------------------------------------------------


def token(twins, **given) -> httpx.Response:
    query = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret", **given}
    return twins.http.get(f"{twins.base('marketo')}/identity/oauth/token", params=query)


def test_asked_early_the_same_token_comes_with_the_rest_of_its_life(twins, clock) -> None:
    first = token(twins).json()
    assert first["token_type"] == "bearer" and 3590 <= first["expires_in"] <= 3599
    clock.pass_(minutes=30)
    again = token(twins).json()
    assert again["access_token"] == first["access_token"]
    assert again["expires_in"] == 1800
    clock.pass_(minutes=31)
    assert token(twins).json()["access_token"] != first["access_token"]


def test_a_wrong_client_is_401_from_identity_only(twins) -> None:
    answer = token(twins, client_secret="wrong")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert token(twins, grant_type="password").status_code == 400


def test_a_bad_token_is_601_and_a_spent_one_602_with_status_200(twins, clock) -> None:
    assert code(sync(twins, {"email": EMAIL}, headers={})) == "601"
    assert code(sync(twins, {"email": EMAIL}, headers={"Authorization": "Bearer wrong"})) == "601"
    headers = twins.marketo()
    clock.pass_(hours=1)
    assert code(sync(twins, {"email": EMAIL}, headers=headers)) == "602"


def test_a_token_in_the_query_is_refused(twins) -> None:
    spent = twins.marketo()["Authorization"].split()[1]
    answer = send(twins, "GET", f"/rest/v1/leads.json?filterType=email&filterValues=a&access_token={spent}", {})
    assert code(answer.json()) == "601"


# -- leads ------------------------------------------------------------------------------------------------------------


def test_leads_are_created_and_updated_in_input_order(twins) -> None:
    first = sync(twins, {"email": EMAIL, "firstName": "Jan"})
    assert first["success"] is True and first["requestId"]
    second = sync(twins, {"email": "new@example.com"}, {"email": EMAIL.upper(), "lastName": "Novák"})
    assert second["result"] == [{"id": 2, "status": "created"}, {"id": 1, "status": "updated"}]
    assert twins.records("marketo")[0] == {"id": 1, "email": EMAIL.upper(), "firstName": "Jan", "lastName": "Novák"}


def test_a_bad_record_is_skipped_with_a_string_code(twins) -> None:
    answer = sync(
        twins,
        {"email": EMAIL},
        {"email": "not an address"},
        {"email": "ž@example.com"},
        {"firstName": "no key"},
        {"email": "a@example.com", "nonsense": 1},
        {"email": "b@example.com", "company": "ACME"},
        {"email": "c@example.com", "leadScore": "high"},
        {"email": "d@example.com", "firstName": "x" * 256},
        {"email": EMAIL},
        {"email": "e@example.com", "Anything__c": 1},
    )
    assert answer["success"] is True
    assert outcomes(answer) == ["created", "1003", "1003", "1002", "1006", "1021", "1001", "1003", "1036", "created"]
    assert len(twins.records("marketo")) == 2


def test_each_action_does_only_what_it_says(twins) -> None:
    assert outcomes(sync(twins, {"email": EMAIL}, action="updateOnly")) == ["1004"]
    assert outcomes(sync(twins, {"email": EMAIL}, action="createOnly")) == ["created"]
    assert outcomes(sync(twins, {"email": EMAIL}, action="createOnly")) == ["1005"]
    assert outcomes(sync(twins, {"email": EMAIL}, action="updateOnly")) == ["updated"]
    assert outcomes(sync(twins, {"email": EMAIL}, action="createDuplicate")) == ["created"]
    assert outcomes(sync(twins, {"email": EMAIL})) == ["1007"]


def test_an_id_looks_up_with_update_only(twins) -> None:
    sync(twins, {"email": EMAIL})
    assert outcomes(sync(twins, {"id": 1, "firstName": "Jan"}, action="updateOnly", lookupField="id")) == ["updated"]
    assert code(sync(twins, {"id": 1}, lookupField="id")) == "1011"
    assert code(sync(twins, {"nonsense": 1}, lookupField="nonsense")) == "1006"


def test_a_call_has_at_most_300_leads_and_one_megabyte(twins) -> None:
    rows = [{"email": f"p{n}@example.com"} for n in range(301)]
    assert code(sync(twins, *rows)) == "1003"
    assert len(sync(twins, *rows[:300])["result"]) == 300
    answer = send(twins, "POST", "/rest/v1/leads.json", json={"input": [{"email": EMAIL, "Note__c": "x" * 1024 * 1024}]})
    assert answer.status_code == 413


def test_a_malformed_call_has_its_own_codes(twins) -> None:
    headers = {**twins.marketo(), "Content-Type": "application/json"}
    assert code(send(twins, "POST", "/rest/v1/leads.json", headers, content=b"{").json()) == "609"
    headers["Content-Type"] = "text/plain"
    assert code(send(twins, "POST", "/rest/v1/leads.json", headers, content=b"{}").json()) == "612"
    assert code(send(twins, "GET", "/rest/v1/nonsense.json").json()) == "610"


def test_leads_are_found_by_a_filter_and_deleted(twins) -> None:
    sync(twins, {"email": EMAIL, "firstName": "Jan"}, {"email": "b@example.com"})
    found = send(
        twins, "GET", f"/rest/v1/leads.json?filterType=email&filterValues={EMAIL},none@example.com&fields=firstName"
    ).json()
    assert found["result"] == [{"id": 1, "firstName": "Jan"}]
    assert code(send(twins, "GET", "/rest/v1/leads.json?filterType=email").json()) == "1003"
    assert send(twins, "GET", "/rest/v1/leads.json?filterType=email&filterValues=" + "x" * 9000).status_code == 414
    deleted = send(twins, "POST", "/rest/v1/leads/delete.json?id=2,9").json()
    assert outcomes(deleted) == ["deleted", "1004"]


def test_a_field_can_be_made_and_is_then_described(twins) -> None:
    assert outcomes(sync(twins, {"email": EMAIL, "overdueBalance": 3.5})) == ["1006"]
    field = {"name": "overdueBalance", "displayName": "Overdue balance", "dataType": "currency"}
    send(twins, "POST", "/rest/v1/leads/schema/fields.json", json={"input": [field]})
    assert outcomes(sync(twins, {"email": EMAIL, "overdueBalance": 3.5})) == ["created"]
    described = {f["rest"]["name"]: f["dataType"] for f in send(twins, "GET", "/rest/v1/leads/describe.json").json()["result"]}
    assert described["overdueBalance"] == "currency" and described["email"] == "email"


# -- static lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [{"params": [("id", "1"), ("id", "2")]}, {"params": {"id": "1,2"}}, {"json": {"input": [{"id": 1}, {"id": 2}]}}]
)
def test_a_list_takes_ids_in_all_three_forms(twins, given) -> None:
    sync(twins, {"email": EMAIL})
    id = send(twins, "POST", "/rest/asset/v1/staticLists.json", data={"name": "Overdue"}).json()["result"][0]["id"]
    path = f"/rest/v1/lists/{id}/leads.json"
    assert outcomes(send(twins, "POST", path, **given).json()) == ["added", "1004"]
    assert [lead["email"] for lead in send(twins, "GET", path).json()["result"]] == [EMAIL]
    assert outcomes(send(twins, "DELETE", path, **given).json()) == ["removed", "1004"]
    assert outcomes(send(twins, "DELETE", path, **given).json()) == ["1015", "1004"]


def test_an_unknown_list_is_not_found(twins) -> None:
    assert code(send(twins, "POST", "/rest/v1/lists/7/leads.json?id=1").json()) == "1013"


# -- quotas -----------------------------------------------------------------------------------------------------------


def test_more_than_100_calls_in_20_seconds_are_606(twins, clock) -> None:
    headers = twins.marketo()
    codes = [sync(twins, {"email": EMAIL}, headers=headers).get("errors", [{}])[0].get("code") for _ in range(101)]
    assert codes[:99] == [None] * 99 and codes[-1] == "606"
    clock.pass_(seconds=20)
    assert sync(twins, {"email": EMAIL}, headers=headers)["success"]


def test_the_daily_quota_is_607_until_midnight_us_central(twins, clock) -> None:
    twins.limit("marketo", daily=1)
    clock.at = dt.datetime(2026, 6, 15, 12, tzinfo=dt.UTC)
    assert sync(twins, {"email": EMAIL})["success"]
    assert code(sync(twins, {"email": EMAIL})) == "607"
    clock.at = dt.datetime(2026, 6, 16, 4, 59, 59, tzinfo=dt.UTC)  # 23:59:59 in Chicago, summer time
    assert code(sync(twins, {"email": EMAIL})) == "607"
    clock.at = dt.datetime(2026, 6, 16, 5, 0, 0, tzinfo=dt.UTC)
    assert sync(twins, {"email": EMAIL})["success"]


def test_more_calls_at_once_than_allowed_are_615(twins) -> None:
    headers = twins.marketo()
    twins.limit("marketo", concurrent=0)
    assert code(sync(twins, {"email": EMAIL}, headers=headers)) == "615"


# -- an independent client --------------------------------------------------------------------------------------------


@pytest.fixture
def client(twins, monkeypatch) -> MarketoClient:
    monkeypatch.setenv("NO_PROXY", "*")
    client = MarketoClient("000-AAA-000", "sandbox", "sandbox-secret", max_retry_time=1)
    client.host = twins.base("marketo")
    return client


def test_marketorestpython_writes_and_reads_leads(client) -> None:
    leads = [{"email": EMAIL, "firstName": "Jan"}, {"email": "bad"}]
    result = client.execute(method="create_update_leads", leads=leads, action="createOrUpdate", lookupField="email")
    assert [item["status"] for item in result] == ["created", "skipped"]
    found = client.execute(
        method="get_multiple_leads_by_filter_type", filterType="email", filterValues=[EMAIL], fields=["firstName"]
    )
    assert found == [{"id": 1, "firstName": "Jan"}]


def test_marketorestpython_changes_a_list(client, twins) -> None:
    client.execute(method="create_update_leads", leads=[{"email": EMAIL}])
    made = client.execute(method="create_list", name="Overdue", folderId=1, folderType="Folder")
    id = made[0]["id"]
    assert client.execute(method="add_leads_to_list", listId=id, id=[1])[0]["status"] == "added"
    assert client.execute(method="member_of_list", listId=id, id=[1])[0]["status"] == "memberof"
    assert client.execute(method="remove_leads_from_list", listId=id, id=[1])[0]["status"] == "removed"


def test_marketorestpython_waits_out_606_and_signs_in_again_after_602(client, twins) -> None:
    client.execute(method="create_update_leads", leads=[{"email": EMAIL}])
    twins.fault("marketo", kind="429", times=1)
    assert client.execute(method="create_update_leads", leads=[{"email": EMAIL}])[0]["status"] == "updated"
    twins.fault("marketo", kind="expired_token", times=1)
    assert code(sync(twins, {"email": EMAIL})) == "602"
    client.valid_until = None  # it trusts its own clock, and would ask with the spent token ten times
    assert client.execute(method="create_update_leads", leads=[{"email": EMAIL}])[0]["status"] == "updated"


def test_marketorestpython_imports_leads_in_bulk(client, twins, tmp_path) -> None:
    twins.limit("marketo", import_milliseconds=0)
    file = tmp_path / "leads.csv"
    file.write_text(f"email,firstName,leadScore\n{EMAIL},Jan,7\nother@example.com,Eva,many\n")
    # The client asks with the token in the query, which the vendor has withdrawn; so it signs in by header here.
    (begun,) = send(
        twins,
        "POST",
        "/bulk/v1/leads.json?format=csv&lookupField=email",
        files={"file": ("l.csv", file.read_bytes(), "text/csv")},
    ).json()["result"]
    assert begun["status"] == "Queued"
    for _ in range(2):
        (status,) = client.execute(method="get_import_lead_status", id=begun["batchId"])
    assert (status["status"], status["numOfLeadsProcessed"], status["numOfRowsFailed"]) == ("Complete", 1, 1)
    failures = client.execute(method="get_import_failure_file", id=begun["batchId"])
    assert "other@example.com" in failures
    assert [lead["leadScore"] for lead in twins.records("marketo", "leads")] == [7]
