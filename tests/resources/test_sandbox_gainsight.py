"""The Gainsight twin against documented exchanges: no public Python client exists."""

from __future__ import annotations

import datetime as dt

import httpx
import pytest

HEADERS = {"accesskey": "sandbox-secret", "Accept": "application/json"}
COMPANY = "/v1/data/objects/Company"


def send(twins, method: str, path: str, headers: dict | None = None, **more) -> httpx.Response:
    return twins.http.request(method, twins.base("gainsight") + path, headers=HEADERS if headers is None else headers, **more)


def insert(twins, *records: dict, object: str = "Company") -> httpx.Response:
    return send(twins, "POST", f"/v1/data/objects/{object}", json={"records": list(records)})


def query(twins, **body) -> httpx.Response:
    return send(twins, "POST", "/v1/data/objects/query/Company", json=body)


def where(**values) -> dict:
    letters = "ABC"[: len(values)]
    conditions = [
        {"name": name, "alias": alias, "value": value, "operator": "IN" if len(value) > 1 else "EQ"}
        for alias, (name, value) in zip(letters, values.items(), strict=True)
    ]
    return {"conditions": conditions, "expression": " AND ".join(letters)}


def test_an_insert_answers_with_the_stored_records(twins) -> None:
    answer = insert(twins, {"Name": "Meridian", "Employees": 10, "Tier__gc": "gold"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["result"], body["errorCode"], body["errorDesc"], body["message"]) == (True, None, None, None)
    assert body["requestId"]
    assert (body["data"]["count"], body["data"]["errors"]) == (1, None)
    [record] = body["data"]["records"]
    assert record["Gsid"].startswith("1P02") and record["Tier__gc"] == "gold"


def test_an_insert_looks_at_no_key(twins) -> None:
    insert(twins, {"Name": "Twice"})
    insert(twins, {"Name": "Twice"})
    assert [record["Name"] for record in twins.records("gainsight")] == ["Twice", "Twice"]


@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        ({"Name": "B", "Nonsense": 1}, "GSOBJ_1002", "Nonsense"),
        ({"Name": "B" * 251}, "GSOBJ_1001", "Name"),
        ({"Name": "B", "OriginalContractDate": "210318"}, "GSOBJ_1006", "OriginalContractDate"),
        ({"Name": "B", "Employees": "many"}, "GSOBJ_1008", "Employees"),
        ({"Industry": "Banks"}, "GSOBJ_1007", "Name"),
    ],
)
def test_one_bad_record_refuses_the_whole_call(twins, bad, code, field) -> None:
    answer = insert(twins, {"Name": "A"}, bad)
    assert answer.status_code == 400
    body = answer.json()
    assert (body["result"], body["errorCode"]) == (False, code)
    assert (body["data"]["count"], body["data"]["records"]) == (0, None)
    [[error]] = body["data"]["errors"]
    assert error["success"] is False
    assert set(error["errors"][0]) == {"errorMessage", "errorCode", "fieldName", "invalidValue"}
    assert error["errors"][0]["fieldName"] == field
    assert twins.records("gainsight") == []


def test_an_update_finds_its_records_by_up_to_three_keys(twins) -> None:
    insert(twins, {"Name": "A", "Stage": "x", "Employees": 1}, {"Name": "A", "Stage": "y", "Employees": 2})
    answer = send(twins, "PUT", f"{COMPANY}?keys=Name,Stage", json={"records": [{"Name": "A", "Stage": "y", "Employees": 9}]})
    assert answer.status_code == 200
    assert [record["Employees"] for record in twins.records("gainsight")] == [1, 9]
    one = {"records": [{"Name": "A", "Employees": 5}]}
    assert send(twins, "PUT", f"{COMPANY}?keys=Name", json=one).status_code == 400  # ambiguous
    assert send(twins, "PUT", f"{COMPANY}?keys=Name", json={"records": [{"Name": "None"}]}).status_code == 400
    assert send(twins, "PUT", COMPANY, json=one).status_code == 400
    assert send(twins, "PUT", f"{COMPANY}?keys=Name,Stage,Status,Tags", json=one).status_code == 400


def test_a_query_selects_filters_and_pages(twins) -> None:
    insert(twins, *({"Name": f"C{n}", "Stage": "x" if n < 3 else "y"} for n in range(5)))
    body = query(twins, select=["Name", "Gsid"], where=where(Stage=["X"])).json()
    assert [row["Name"] for row in body["data"]["records"]] == ["C0", "C1", "C2"]
    assert all(row["Gsid"] for row in body["data"]["records"])
    both = query(twins, select=["Name"], where=where(Name=["C1", "C4"], Stage=["y"])).json()
    assert [row["Name"] for row in both["data"]["records"]] == ["C4"]
    page = query(twins, select=["Name"], limit=2, offset=3).json()
    assert [row["Name"] for row in page["data"]["records"]] == ["C3", "C4"]


def test_a_query_without_select_is_gsobj_1001(twins) -> None:
    answer = query(twins)
    assert (answer.status_code, answer.json()["errorCode"], answer.json()["result"]) == (400, "GSOBJ_1001", False)


def test_a_record_is_deleted_by_its_id(twins) -> None:
    id = insert(twins, {"Name": "A"}).json()["data"]["records"][0]["Gsid"]
    assert send(twins, "DELETE", f"{COMPANY}/{id}").status_code == 200
    answer = send(twins, "DELETE", f"{COMPANY}/{id}")
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "GSOBJ_1004")
    assert twins.records("gainsight") == []


def test_custom_objects_are_those_with_the_suffix(twins) -> None:
    assert insert(twins, {"Key__gc": "1", "Sessions__gc": 4}, object="User_Activity__gc").status_code == 200
    assert insert(twins, {"Name": "A"}, object="Relationship").status_code == 400


def test_a_write_has_at_most_50_records(twins) -> None:
    rows = [{"Name": f"C{n}"} for n in range(51)]
    assert insert(twins, *rows).status_code == 400
    assert insert(twins, *rows[:50]).json()["data"]["count"] == 50
    assert insert(twins).status_code == 400


def test_a_wrong_access_key_is_401(twins) -> None:
    for headers in ({"Accept": "application/json"}, {**HEADERS, "accesskey": "wrong"}):
        assert send(twins, "POST", COMPANY, headers, json={"records": [{"Name": "A"}]}).status_code == 401
    assert send(twins, "POST", COMPANY, {**HEADERS, "Accesskey": "sandbox-secret"}, json={"records": [{"Name": "A"}]}).is_success


def test_who_does_not_ask_for_json_gets_a_page_and_200_for_an_error(twins) -> None:
    answer = send(twins, "POST", COMPANY, {"accesskey": "wrong", "Accept": "*/*"}, json={"records": []})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html"


def test_the_rate_is_100_calls_in_a_fixed_minute(twins, clock) -> None:
    clock.at = dt.datetime(2026, 6, 15, 12, 0, 50, tzinfo=dt.UTC)
    statuses = [query(twins, select=["Name"]).status_code for _ in range(101)]
    assert statuses == [200] * 100 + [429]
    refused = query(twins, select=["Name"])
    assert (refused.json()["errorCode"], refused.headers["retry-after"]) == ("GU_2400", "10")
    clock.pass_(seconds=10)  # a burst at the edge of the window is legal
    assert query(twins, select=["Name"]).status_code == 200


def test_the_day_has_its_quota_too(twins, clock) -> None:
    twins.limit("gainsight", daily=1)
    assert query(twins, select=["Name"]).status_code == 200
    refused = query(twins, select=["Name"])
    assert (refused.status_code, refused.headers["retry-after"]) == (429, str(12 * 3600))
    clock.pass_(days=1)
    assert query(twins, select=["Name"]).status_code == 200
