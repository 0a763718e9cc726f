"""Delivery from the journal, without a warehouse: batches, answers, crashes."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cdp_assets.destination_syncs.deliver import Delivery, DeliveryReport, deliver
from cdp_assets.destination_syncs.journal import Journal
from resources.destinations import Action, Bulk, DestinationConfigError, Operation, Outcome
from tests.destination_syncs.lab import START, Crash, FakeDestination, all_answer, capabilities, crash, no_answer

TOKEN = "sync-1"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(f"sqlite:///{tmp_path / 'deep' / 'journal.sqlite'}") as journal:
        yield journal


def fill(journal: Journal, keys: list[str], kind: str = "enter") -> None:
    journal.begin(TOKEN, "act", "sandbox", 1)
    rows = [
        {
            "message_id": f"m{n}",
            "kind": kind,
            "destination_key": key,
            "subject_id": f"person-{key}",
            "payload": f'{{"key":"{key}"}}',
        }
        for n, key in enumerate(keys)
    ]
    journal.fill(TOKEN, [rows])


def send(journal: Journal, destination: FakeDestination, **options: Any) -> DeliveryReport:
    return deliver(Delivery(journal, TOKEN, destination, Action("upsert", {}), clock=lambda: START, **options))


def statuses(journal: Journal) -> list[tuple[str, str]]:
    return [(row["status"], row["reason"]) for page in journal.answers(TOKEN) for row in page.to_pylist()]


def test_batches_keep_order_size_and_one_key_once(journal: Journal) -> None:
    fill(journal, ["a", "b", "a", "c", "d", "e"])
    destination = FakeDestination(capabilities(rows=3))
    report = send(journal, destination)
    assert destination.batches == [["a", "b"], ["a", "c", "d"], ["e"]]
    assert (report.batches, report.statuses) == (3, {"delivered": 6})


@pytest.mark.parametrize(("pending", "batches"), [(3, [2, 1]), (4, [4]), (9, [5, 4])])
def test_many_operations_are_cut_into_the_batches_of_bulk(journal: Journal, pending: int, batches: list[int]) -> None:
    fill(journal, [f"k{n}" for n in range(pending)])
    asked: list[int] = []

    def consent_now(people: Sequence[str]) -> Sequence[str]:
        asked.append(len(people))
        return people

    limits = dataclasses.replace(capabilities(rows=2), bulk=Bulk(from_rows=4, batch_rows=5, batch_bytes=10_000))
    destination = FakeDestination(limits)
    send(journal, destination, consent_now=consent_now)
    assert [len(batch) for batch in destination.batches] == batches
    # Consent is asked for each of them, right before it goes.
    assert asked == batches


def test_the_book_of_jobs_outlives_the_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'journal.sqlite'}"
    with Journal(url) as journal:
        book = journal.jobs("acme")
        for job in ("b", "a", "c"):
            book.began(job)
        book.ended("a")
        journal.jobs("other").began("z")
    with Journal(url) as journal:
        assert journal.jobs("acme").open() == ["b", "c"]


def test_a_batch_ends_before_it_is_too_large(journal: Journal) -> None:
    fill(journal, ["a", "b", "c"])
    limits = capabilities()
    destination = FakeDestination(type(limits)(**{**limits.__dict__, "batch_bytes": 25}))
    send(journal, destination)
    assert destination.batches == [["a", "b"], ["c"]]


def test_a_batch_refused_as_a_whole_is_split_until_the_bad_record_stands_alone(journal: Journal) -> None:
    fill(journal, list("abcdefgh"))
    destination = FakeDestination(capabilities(attribution="none"))

    def refuse_d(fake: FakeDestination, operations: Any) -> list[Outcome]:
        fake.script.insert(0, refuse_d)
        if any(operation.key == "d" for operation in operations):
            return [Outcome(o.id, "rejected", "batch: 400") for o in operations]
        return [fake.take(operation) for operation in operations]

    destination.script = [refuse_d]
    report = send(journal, destination)
    assert report.statuses == {"delivered": 7, "rejected": 1}
    assert sorted(destination.records) == list("abcefgh")
    assert statuses(journal)[3] == ("rejected", "batch: 400")


def test_a_refused_batch_whose_answer_names_records_is_not_split(journal: Journal) -> None:
    fill(journal, list("ab"))
    destination = FakeDestination(capabilities(attribution="keyed"), script=[all_answer("rejected", "batch: 400")])
    send(journal, destination)
    assert len(destination.batches) == 1


def test_a_quota_parks_the_rest_and_nobody_waits_for_it(journal: Journal) -> None:
    fill(journal, list("abcdef"))
    later = START + dt.timedelta(hours=5)
    destination = FakeDestination(capabilities(rows=2), script=[None, all_answer("waiting", "quota", later)])
    report = send(journal, destination)
    assert report.parked == "quota"
    assert report.statuses == {"delivered": 2, "waiting": 4}
    answers = [row for page in journal.answers(TOKEN) for row in page.to_pylist()]
    assert {row["not_before"] for row in answers[2:]} == {later.replace(tzinfo=None)}
    assert [row["attempted_at"] is not None for row in answers] == [True] * 4 + [False] * 2


def test_one_record_that_waits_does_not_park_its_neighbours(journal: Journal) -> None:
    fill(journal, list("abcd"))

    def locked(fake: FakeDestination, operations: list[Operation]) -> list[Outcome]:
        row = Outcome(operations[0].id, "waiting", "UNABLE_TO_LOCK_ROW", START + dt.timedelta(minutes=1))
        return [row, *(fake.take(operation) for operation in operations[1:])]

    destination = FakeDestination(capabilities(rows=2), script=[locked])
    report = send(journal, destination)
    assert report.parked == ""
    assert report.statuses == {"waiting": 1, "delivered": 3}


def test_a_dead_destination_is_left_after_three_batches(journal: Journal) -> None:
    fill(journal, list("abcdefgh"))
    destination = FakeDestination(capabilities(rows=1), script=[no_answer(arrived=False)] * 8)
    report = send(journal, destination)
    assert len(destination.batches) == 3
    assert report.statuses == {"unknown": 3, "waiting": 5}


def test_a_connector_that_fails_loses_its_batch_to_unknown_and_not_its_neighbours(journal: Journal) -> None:
    fill(journal, list("abc"))

    def fail(fake: FakeDestination, operations: Any) -> list[Outcome]:
        raise ValueError("a secret value")

    def misconfigured(fake: FakeDestination, operations: Any) -> list[Outcome]:
        raise DestinationConfigError("no such object")

    destination = FakeDestination(capabilities(rows=1), script=[fail, misconfigured])
    send(journal, destination)
    assert statuses(journal) == [
        ("unknown", "connector failed: ValueError"),
        ("waiting", "the destination's configuration does not work"),
        ("delivered", ""),
    ]


def test_an_operation_without_exactly_one_outcome_is_unknown(journal: Journal) -> None:
    fill(journal, list("abc"))

    def careless(fake: FakeDestination, operations: Any) -> list[Outcome]:
        first, second, _ = operations
        return [Outcome(first.id, "delivered"), Outcome(second.id, "delivered"), Outcome(second.id, "rejected")]

    send(journal, FakeDestination(capabilities(), script=[careless]))
    assert [status for status, _ in statuses(journal)] == ["delivered", "unknown", "unknown"]


def test_consent_is_asked_before_each_batch(journal: Journal) -> None:
    fill(journal, list("abcdef"))
    agreed = {f"person-{key}" for key in "abcdef"}

    def withdraw_f(fake: FakeDestination, operations: Any) -> list[Outcome]:
        agreed.discard("person-f")
        return [fake.take(operation) for operation in operations]

    destination = FakeDestination(capabilities(rows=2), script=[withdraw_f])
    report = send(journal, destination, consent_now=lambda ids: agreed & set(ids))
    assert sorted(destination.records) == list("abcde")
    assert report.statuses == {"delivered": 5, "withheld": 1}
    assert statuses(journal)[5] == ("withheld", "consent")


def test_later_operations_of_a_key_wait_behind_one_that_is_not_through(journal: Journal) -> None:
    fill(journal, ["a", "b", "a"])
    destination = FakeDestination(capabilities(), script=[lambda fake, ops: [Outcome(ops[0].id, "waiting"), fake.take(ops[1])]])
    send(journal, destination)
    assert statuses(journal)[2] == ("waiting", "behind an earlier operation of its key")


def test_a_crash_leaves_what_was_out_unknown_and_the_rest_interrupted(journal: Journal) -> None:
    fill(journal, list("abcd"))
    destination = FakeDestination(capabilities(rows=1), script=[None, crash(arrived=True)])
    with pytest.raises(Crash):
        send(journal, destination)
    assert statuses(journal) == [
        ("delivered", ""),
        ("unknown", "interrupted while sending"),
        ("waiting", "interrupted"),
        ("waiting", "interrupted"),
    ]
    # Starting again sends only what was never out.
    destination.script = []
    send(journal, destination)
    assert destination.batches[2:] == [["c"], ["d"]]


def test_the_journal_is_durable_and_forgets_messages_when_settled(journal: Journal) -> None:
    with journal._engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2
    assert journal.state(TOKEN) is None
    journal.begin(TOKEN, "act", "sandbox", 7)
    assert (journal.state(TOKEN), journal.last_seq("act", "sandbox")) == ("planning", 0)
    journal.fill(TOKEN, [])
    assert (journal.state(TOKEN), journal.last_seq("act", "sandbox")) == ("ready", 7)
    assert [sync.token for sync in journal.unsettled()] == [TOKEN]
    journal.settled(TOKEN)
    assert journal.unsettled() == []
    assert journal.last_seq("act", "sandbox") == 7
    assert journal.last_seq("act", "live") == 0


def test_errors_of_the_journal_show_no_values(journal: Journal) -> None:
    fill(journal, ["secret@x"])
    row = {"message_id": "m", "kind": "enter", "destination_key": "secret@x", "subject_id": None, "payload": "secret"}
    with pytest.raises(sa.exc.IntegrityError) as caught:
        journal.fill(TOKEN, [[row]])
    assert "secret" not in str(caught.value)
