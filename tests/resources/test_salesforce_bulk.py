"""Bulk API 2.0 against the twin: the same state as Collections leaves, an outcome for each row, and jobs that outlive a sync."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from typing import Any

import pytest

from resources.destinations import Action, Operation, Outcome
from resources.destinations import http as wire
from resources.destinations.registry import capabilities, connect
from tests.resources.conftest import Clock, Twins

CONTACTS = Action("upsert", {"object": "Contact", "key_field": "Cdp_Id__c", "flag_field": "In__c"})
SOON = dt.timedelta(seconds=5)


class Book:
    """Jobs in memory."""

    def __init__(self, *jobs: str) -> None:
        self.jobs = list(jobs)

    def open(self) -> list[str]:
        return list(self.jobs)

    def began(self, job: str) -> None:
        self.jobs.append(job)

    def ended(self, job: str) -> None:
        self.jobs.remove(job)


def contacts(*payloads: dict[str, Any], kind: str = "enter") -> list[Operation]:
    return [
        Operation(str(n), kind, f"u{n}", {"LastName": f"Lee {n}", **payload}, f"m{n}")  # type: ignore[arg-type]
        for n, payload in enumerate(payloads)
    ]


def deliver(twins: Twins, operations: list[Operation], book: Book | None = None, **settings: Any) -> list[Outcome]:
    with closing(connect("salesforce", twins.connection("salesforce", **{"bulk_from_rows": 2, **settings}))) as destination:
        destination.remember(book if book is not None else Book())
        return sorted(destination.deliver(CONTACTS, operations), key=lambda o: int(o.id))


def held(twins: Twins) -> dict[str, dict[str, Any]]:
    return {str(record["Cdp_Id__c"]): record for record in twins.records("salesforce", "Contact")}


def paths(twins: Twins) -> list[str]:
    return [f"{c['method']} {c['path'].partition('/data/v61.0/')[2]}" for c in twins.calls("salesforce") if "/data/" in c["path"]]


@pytest.fixture(autouse=True)
def at_once(twins: Twins) -> None:
    twins.limit("salesforce", bulk_milliseconds=0)


ODD = (
    {"FirstName": 'Anna "A", Maria', "Title": "two\nlines", "Score__c": 7, "Share__c": 0.25},
    {"FirstName": "Žofie", "DoNotCall": True, "Code__c": "0123", "Beta__c": False},
    {"FirstName": None, "Department": "", "Phone": "+420 123", "Email": "lee@acme.example"},
)


def test_a_job_leaves_what_collections_leave(twins: Twins) -> None:
    for payloads in (ODD, ({"FirstName": "Old", "Title": "kept"}, {"FirstName": None}, {"Phone": ""})):
        assert {o.status for o in deliver(twins, contacts(*payloads), bulk_from_rows=0)} == {"delivered"}
    by_collections = held(twins)
    twins.http.post(f"{twins.url}/__twin/reset")
    twins.limit("salesforce", bulk_milliseconds=0)
    twins.account += " bulk"
    for payloads in (ODD, ({"FirstName": "Old", "Title": "kept"}, {"FirstName": None}, {"Phone": ""})):
        found = deliver(twins, contacts(*payloads))
        assert {o.status for o in found} == {"delivered"}
        assert all(o.remote_id.startswith("003") for o in found)
    # Salesforce knows no empty text: it is no value.
    plain = {key: {name: value or None for name, value in record.items()} for key, record in by_collections.items()}
    assert {key: {name: value or None for name, value in record.items()} for key, record in held(twins).items()} == plain
    assert not any("composite" in path for path in paths(twins))


def test_each_row_that_fails_is_named_with_its_code_and_the_others_arrive(twins: Twins) -> None:
    found = deliver(twins, contacts({"Email": "lee@acme.example"}, {"Email": "none"}, {"LastName": ""}, {}))
    assert [(o.status, o.reason) for o in found] == [
        ("delivered", ""),
        ("rejected", "INVALID_EMAIL_ADDRESS (Email)"),
        ("rejected", "REQUIRED_FIELD_MISSING (LastName)"),
        ("delivered", ""),
    ]
    assert set(held(twins)) == {"u0", "u3"}


def test_rows_that_are_locked_wait(twins: Twins) -> None:
    twins.fault("salesforce", kind="partial_failure", path="batches", rows=0.5, seed=3)
    found = deliver(twins, contacts(*[{}] * 12))
    assert {(o.status, o.reason) for o in found} == {("delivered", ""), ("waiting", "UNABLE_TO_LOCK_ROW")}
    assert set(held(twins)) == {f"u{o.id}" for o in found if o.status == "delivered"}


def test_a_field_that_nobody_knows_costs_its_own_row_alone(twins: Twins) -> None:
    found = deliver(twins, contacts({}, {"Nonsense": "x"}, {"FirstName": "Ann"}))
    assert [(o.status, o.reason) for o in found] == [
        ("delivered", ""),
        ("rejected", "INVALID_FIELD (Nonsense)"),
        ("delivered", ""),
    ]
    assert "PATCH composite/sobjects/Contact/Cdp_Id__c" in paths(twins)


def test_what_csv_cannot_say_goes_by_collections(twins: Twins) -> None:
    found = deliver(twins, contacts({}, {"FirstName": "#N/A"}, {"Notes__c": "x" * 32_001}, {}))
    assert {o.status for o in found} == {"delivered"}
    assert held(twins)["u1"]["FirstName"] == "#N/A"
    assert len(held(twins)["u2"]["Notes__c"]) == 32_001


def test_a_flag_says_who_is_in_and_a_retract_makes_no_row(twins: Twins) -> None:
    deliver(twins, contacts({}, {}))
    gone = contacts({}, {}, kind="exit")
    strangers = [Operation("8", "retract", "u1", {}, "m8"), Operation("9", "retract", "u9", {}, "m9")]
    assert {o.status for o in deliver(twins, [*gone[:1], *strangers])} == {"delivered"}
    assert {key: record["In__c"] for key, record in held(twins).items()} == {"u0": False, "u1": False}


def test_a_small_batch_and_a_connection_that_wants_none_go_by_collections(twins: Twins) -> None:
    deliver(twins, contacts({}), bulk_from_rows=2)
    deliver(twins, contacts({}, {}, {}), bulk_from_rows=0)
    assert not any("jobs" in path for path in paths(twins))
    known = capabilities("salesforce", "upsert", {}).bulk
    assert known is not None and (known.from_rows, known.batch_rows) == (2_000, 10_000)
    assert capabilities("salesforce", "upsert", {"bulk_from_rows": 0}).bulk is None


# -- jobs that last ----------------------------------------------------------------------------------------------------------


def test_a_job_that_lasts_is_seen_through_before_newer_values_are_sent(twins: Twins, clock: Clock) -> None:
    twins.limit("salesforce", bulk_milliseconds=60_000)
    book, hurry = Book(), {"bulk_wait_minutes": 0.003}
    found = deliver(twins, contacts({"FirstName": "old"}, {}), book, **hurry)
    assert {o.status for o in found} == {"waiting"}
    assert all(o.reason.startswith("bulk:job 750") and o.not_before is not None for o in found)
    (job,) = book.jobs
    # The next sync may not begin another job while this one may still write.
    found = deliver(twins, contacts({"FirstName": "new"}, {}), book, **hurry)
    assert {o.reason for o in found} == {f"bulk:job {job} is under way"}
    # Nor may a few rows overtake it by Collections.
    assert [o.reason for o in deliver(twins, contacts({"FirstName": "new"}), book, **hurry)] == [f"bulk:job {job} is under way"]
    assert held(twins) == {}
    assert [path for path in paths(twins) if path == "POST jobs/ingest"] == ["POST jobs/ingest"]
    clock.pass_(minutes=2)
    twins.limit("salesforce", bulk_milliseconds=0)
    assert {o.status for o in deliver(twins, contacts({"FirstName": "new"}, {}), book)} == {"delivered"}
    assert held(twins)["u0"]["FirstName"] == "new"
    assert book.jobs == []


def test_a_job_that_salesforce_has_forgotten_holds_nothing_up(twins: Twins) -> None:
    book = Book("750000000999999AAA")
    assert {o.status for o in deliver(twins, contacts({}, {}), book)} == {"delivered"}
    assert book.jobs == []


def test_a_job_that_was_never_closed_is_aborted_before_the_next(twins: Twins) -> None:
    headers = {**twins.salesforce(), "Content-Type": "application/json"}
    url = f"{twins.base('salesforce')}/services/data/v61.0/jobs/ingest"
    wanted = {"object": "Contact", "operation": "upsert", "externalIdFieldName": "Cdp_Id__c", "contentType": "CSV"}
    job = twins.http.post(url, json=wanted, headers=headers).json()["id"]
    twins.http.put(
        f"{url}/{job}/batches", content=b"Cdp_Id__c,LastName\nu0,Stale\n", headers={**headers, "Content-Type": "text/csv"}
    )
    book = Book(job)
    assert {o.status for o in deliver(twins, contacts({}, {}), book)} == {"delivered"}
    assert twins.http.get(f"{url}/{job}", headers=headers).json()["state"] == "Aborted"
    assert held(twins)["u0"]["LastName"] == "Lee 0"


@pytest.mark.parametrize("kind", ["commit_then_drop", "timeout_before_commit", "500"])
def test_an_upload_without_an_answer_writes_nothing(twins: Twins, kind: str) -> None:
    twins.fault("salesforce", kind=kind, path="batches", **({"seconds": 10} if kind.startswith("timeout") else {}))
    book = Book()
    found = deliver(twins, contacts({}, {}), book, timeout_seconds=0.5)
    assert {o.status for o in found} == {"waiting"}
    assert held(twins) == {}
    assert book.jobs == []  # aborted


@pytest.mark.parametrize("place", ["jobs/ingest", "batches", "closing"])
def test_rows_of_a_job_that_is_refused_go_by_collections(twins: Twins, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """An organisation or user that may not use the resource: no row is at fault."""
    from resources.destinations.salesforce_bulk import IngestJobs

    def refusing(self: IngestJobs, method: str, path: str, **request: Any) -> Any:
        at = "closing" if b"UploadComplete" in request.get("content", b"") else path.rpartition("/")[2]
        if at == place.rpartition("/")[2] and method != "GET":
            wire.refuse("400:INVALIDJOB")
        return self._given(method, path, **request)  # type: ignore[attr-defined]

    begin = IngestJobs.__init__

    def watched(self: IngestJobs, call: Any, *others: Any) -> None:
        begin(self, lambda *a, **k: refusing(self, *a, **k), *others)
        self._given = call  # type: ignore[attr-defined]

    monkeypatch.setattr(IngestJobs, "__init__", watched)
    book = Book()
    found = deliver(twins, contacts({}, {"Email": "none"}), book)
    assert [(o.status, o.reason) for o in found] == [("delivered", ""), ("rejected", "INVALID_EMAIL_ADDRESS (Email)")]
    assert book.jobs == []


def test_a_closing_whose_answer_was_lost_is_looked_up(twins: Twins) -> None:
    twins.fault("salesforce", kind="commit_then_drop", path="jobs/ingest/", method="PATCH", times=1)
    assert {o.status for o in deliver(twins, contacts({}, {}))} == {"delivered"}


def test_a_closing_that_was_not_heard_sends_nothing(twins: Twins) -> None:
    twins.fault("salesforce", kind="timeout_before_commit", path="jobs/ingest/", method="PATCH", times=1, seconds=10)
    found = deliver(twins, contacts({}, {}), timeout_seconds=0.5)
    assert {(o.status, o.reason) for o in found} == {("waiting", "bulk:job was not closed")}
    assert held(twins) == {}


def test_results_that_cannot_be_read_leave_the_job_in_the_book(twins: Twins) -> None:
    twins.fault("salesforce", kind="503", path="Results")
    book = Book()
    found = deliver(twins, contacts({}, {}), book)
    assert {o.status for o in found} == {"waiting"}
    assert len(book.jobs) == 1
    twins.no_faults("salesforce")
    assert {o.status for o in deliver(twins, contacts({}, {}), book)} == {"delivered"}
    assert book.jobs == []


def test_a_job_that_somebody_aborts_is_not_carried_out_by_another_way(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    from resources.destinations.salesforce_bulk import IngestJobs

    twins.limit("salesforce", bulk_milliseconds=60_000)
    ask = IngestJobs._wait

    def abort_first(self: IngestJobs, job: str) -> str:
        self._change(job, "Aborted")
        return ask(self, job)

    monkeypatch.setattr(IngestJobs, "_wait", abort_first)
    found = deliver(twins, contacts({}, {}))
    assert {o.status for o in found} == {"waiting"}
    assert all(o.reason.endswith("was aborted") for o in found)
    assert held(twins) == {}


def test_expired_tokens_and_throttles_on_the_way_cost_nothing(twins: Twins) -> None:
    twins.fault("salesforce", kind="expired_token", path="jobs", nth=[2, 4])
    twins.fault("salesforce", kind="429", path="jobs", nth=[7], retry_after=0)
    assert {o.status for o in deliver(twins, contacts({}, {}, {}))} == {"delivered"}


def test_a_threshold_that_is_none_is_refused() -> None:
    from resources.destinations import DestinationConfigError

    with pytest.raises(DestinationConfigError, match="bulk_from_rows is a number of rows"):
        capabilities("salesforce", "upsert", {"bulk_from_rows": "many"})
    for wrong in (-1, True, 2.5):
        with pytest.raises(DestinationConfigError, match="0 for never"):
            capabilities("salesforce", "upsert", {"bulk_from_rows": wrong})
