"""Bulk imports against the twin: the same leads as single calls leave, an outcome for each row, and imports that outlive a sync."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from typing import Any

import pytest

from resources.destinations import Action, Operation, Outcome
from resources.destinations import http as wire
from resources.destinations.marketo import MarketoDestination
from resources.destinations.registry import capabilities, connect
from tests.resources.conftest import Clock, Twins
from tests.resources.test_salesforce_bulk import Book

LEADS = Action("upsert", {"key_field": "email", "flag_field": "member__c"})
LIST = Action("list", {"list_id": 900})


def leads(*payloads: dict[str, Any], kind: str = "enter") -> list[Operation]:
    return [
        Operation(str(n), kind, f"u{n}@acme.example", payload, f"m{n}")  # type: ignore[arg-type]
        for n, payload in enumerate(payloads)
    ]


def deliver(
    twins: Twins, operations: list[Operation], book: Book | None = None, action: Action = LEADS, **settings: Any
) -> list[Outcome]:
    with closing(connect("marketo", twins.connection("marketo", **{"bulk_from_rows": 2, **settings}))) as destination:
        destination.remember(book if book is not None else Book())
        return sorted(destination.deliver(action, operations), key=lambda o: int(o.id))


def held(twins: Twins) -> dict[str, dict[str, Any]]:
    return {str(record["email"]): record for record in twins.records("marketo", "leads")}


def asked(twins: Twins) -> list[str]:
    return [f"{c['method']} {c['path']}" for c in twins.calls("marketo") if "/identity/" not in c["path"]]


@pytest.fixture(autouse=True)
def at_once(twins: Twins) -> None:
    twins.limit("marketo", import_milliseconds=0)


ODD = (
    {"firstName": 'Anna "A", Maria', "title": "two\nlines", "leadScore": 7, "share__c": 0.25},
    {"firstName": "Žofie", "unsubscribed": True, "code__c": "0123"},
    {"firstName": "Lee", "city": ""},
    {"firstName": "null"},
)


def test_an_import_leaves_what_single_calls_leave(twins: Twins) -> None:
    assert {o.status for o in deliver(twins, leads(*ODD), bulk_from_rows=0)} == {"delivered"}
    by_calls = held(twins)
    twins.http.post(f"{twins.url}/__twin/reset")
    twins.limit("marketo", import_milliseconds=0)
    twins.account += " bulk"
    assert {o.status for o in deliver(twins, leads(*ODD))} == {"delivered"}
    plain = {key: {n: v for n, v in lead.items() if n != "id"} for key, lead in held(twins).items()}
    assert plain == {key: {n: v for n, v in lead.items() if n != "id"} for key, lead in by_calls.items()}
    # What an import cannot say went by a call of its own.
    assert [line for line in asked(twins) if line.startswith("POST")] == ["POST /bulk/v1/leads.json", "POST /rest/v1/leads.json"]


def test_each_row_that_fails_gets_its_code_and_the_others_arrive(twins: Twins) -> None:
    found = deliver(twins, leads({}, {"leadScore": "many"}, {"nonsense": "x"}, {"firstName": "Ann"}))
    assert [(o.status, o.reason) for o in found] == [
        ("delivered", ""),
        ("rejected", "1001"),
        ("rejected", "1006"),
        ("delivered", ""),
    ]
    assert set(held(twins)) == {"u0@acme.example", "u3@acme.example"}


def test_an_import_puts_leads_on_a_list_and_who_leaves_is_taken_off_it(twins: Twins) -> None:
    assert {o.status for o in deliver(twins, leads({}, {}, {}), action=LIST)} == {"delivered"}
    assert {record["id"] for record in twins.records("marketo", "lists/900")} == {1, 2, 3}
    assert "POST /rest/v1/lists/900/leads.json" not in asked(twins)
    mixed = [*leads({}, kind="exit"), *(Operation(f"{n}", "enter", f"n{n}@acme.example", {}, f"n{n}") for n in (7, 8))]
    assert {o.status for o in deliver(twins, mixed, action=LIST)} == {"delivered"}
    assert {record["id"] for record in twins.records("marketo", "lists/900")} == {2, 3, 4, 5}


def test_retracts_and_small_batches_are_single_calls(twins: Twins) -> None:
    deliver(twins, leads({}))
    deliver(twins, leads({}, {}, {}, kind="retract"))
    assert not any("bulk" in line for line in asked(twins))
    assert {key: lead["member__c"] for key, lead in held(twins).items()} == {"u0@acme.example": False}
    known = capabilities("marketo", "list", {}).bulk
    assert known is not None and known.from_rows == 3_000
    assert capabilities("marketo", "upsert", {"bulk_from_rows": 0}).bulk is None


def test_an_import_that_lasts_is_seen_through_before_newer_values_are_sent(twins: Twins, clock: Clock) -> None:
    twins.limit("marketo", import_milliseconds=60_000)
    book, hurry = Book(), {"bulk_wait_minutes": 0.003}
    found = deliver(twins, leads({"firstName": "old"}, {"firstName": "x"}), book, **hurry)
    assert {(o.status, o.reason) for o in found} == {("waiting", "bulk:import 1001 is under way")}
    found = deliver(twins, leads({"firstName": "new"}, {"firstName": "x"}), book, **hurry)
    assert {o.reason for o in found} == {"bulk:import 1001 is under way"}
    # Nor may a few leads overtake it by single calls, in either action.
    for action in (LEADS, LIST):
        found = deliver(twins, leads({"firstName": "new"}), book, action, **hurry)
        assert [o.reason for o in found] == ["bulk:import 1001 is under way"]
    assert [line for line in asked(twins) if line.startswith("POST")] == ["POST /bulk/v1/leads.json"]
    clock.pass_(minutes=2)
    twins.limit("marketo", import_milliseconds=0)
    assert {o.status for o in deliver(twins, leads({"firstName": "new"}, {"firstName": "x"}), book)} == {"delivered"}
    assert held(twins)["u0@acme.example"]["firstName"] == "new"
    assert book.jobs == []


def test_nothing_overtakes_an_upload_without_an_answer(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    twins.fault("marketo", kind="commit_then_drop", path="bulk", times=1)
    book, started = Book(), wire.now()
    assert {o.status for o in deliver(twins, leads({"firstName": "old"}, {}), book)} == {"unknown"}
    # It stands in the queue of the system's, and nobody knows its number.
    for kind in ("exit", "retract"):
        (found,) = deliver(twins, leads({"firstName": "new"}, kind=kind), book)
        assert (found.status, found.reason) == ("waiting", "bulk:an import without an answer may be under way")
        assert found.not_before is not None and dt.timedelta(minutes=59) < found.not_before - started <= dt.timedelta(minutes=61)
    assert len([line for line in asked(twins) if line.startswith("POST")]) == 1
    twins.clock.pass_(minutes=61)
    monkeypatch.setattr(wire, "now", lambda: started + dt.timedelta(minutes=61))
    assert [o.status for o in deliver(twins, leads({"firstName": "new"}), book)] == ["delivered"]
    deliver(twins, leads({}))
    assert held(twins)["u0@acme.example"]["firstName"] == "new"
    assert book.jobs == []


def test_an_upload_that_was_refused_waits_and_is_no_import(twins: Twins) -> None:
    twins.fault("marketo", kind="429", path="bulk", times=20)
    book = Book()
    assert {o.status for o in deliver(twins, leads({}, {}), book)} == {"waiting"}
    assert book.jobs == []


def test_an_upload_that_was_cut_off_is_noted_before_it_is_sent(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book()

    def killed(*_: Any, **__: Any) -> Any:
        assert [job[:5] for job in book.jobs] == ["sent "]
        raise KeyboardInterrupt

    monkeypatch.setattr(MarketoDestination, "_call", killed)
    with pytest.raises(KeyboardInterrupt):
        deliver(twins, leads({}, {}), book)
    assert len(book.jobs) == 1


@pytest.mark.parametrize("kind", ["500", "429", "503", "expired_token"])
def test_failures_that_cannot_be_read_are_not_taken_for_none(twins: Twins, kind: str) -> None:
    """Most refusals come with HTTP 200, as the file itself does."""
    twins.fault("marketo", kind=kind, path="failures")
    book, mixed = Book(), leads({}, {"leadScore": "many"})
    assert {o.status for o in deliver(twins, mixed, book)} == {"waiting"}
    assert book.jobs == ["1001"]
    twins.no_faults("marketo")
    assert [o.status for o in deliver(twins, mixed, book)] == ["delivered", "rejected"]
    assert book.jobs == []


def test_a_file_of_fewer_failures_than_were_told_of_is_not_believed(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.sandbox.marketo_bulk.Imports.rows", lambda *_: b"email,Import Failure Reason\n")
    found = deliver(twins, leads({}, {"leadScore": "many"}))
    assert {(o.status, o.reason) for o in found} == {("waiting", "bulk:import 1001: failures:answer_not_understood")}


def test_an_import_that_marketo_has_forgotten_holds_nothing_up(twins: Twins) -> None:
    book = Book("77")
    assert {o.status for o in deliver(twins, leads({}, {}), book)} == {"delivered"}
    assert book.jobs == []


def test_the_queue_and_a_list_take_no_more_than_they_can(twins: Twins, clock: Clock) -> None:
    twins.limit("marketo", import_milliseconds=60_000)
    headers = twins.marketo()

    def upload(**query: str) -> str:
        answer = twins.http.post(
            f"{twins.base('marketo')}/bulk/v1/leads.json",
            params={"format": "csv", **query},
            files={"file": ("leads.csv", b"email\na@acme.example\n", "text/csv")},
            headers=headers,
        ).json()
        return answer["errors"][0]["code"] if not answer["success"] else "Queued"

    assert upload(listId="900") == "Queued"
    assert upload(listId="900") == "1019"
    assert [upload() for _ in range(9)] == ["Queued"] * 9
    assert upload() == "1016"
    assert upload(listId="5") == "1013"
    clock.pass_(minutes=2)
