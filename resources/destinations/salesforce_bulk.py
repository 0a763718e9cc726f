"""Salesforce Bulk API 2.0: many rows as one ingest job, a CSV file that Salesforce works through by itself.

A job is noted in the book before its rows are uploaded. Nothing of it is written before it is closed (``UploadComplete``), so what
fails earlier was not sent. Results name rows by their external id, in no order [D]. Evidence tags as in ``salesforce``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import httpx
import orjson

from resources.destinations import Bulk, JobBook, Operation, Outcome, bulk
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError

# The vendor's own threshold is about two thousand rows [D]; a job is one internal batch of Salesforce's [D].
BULK: Final = Bulk(from_rows=2_000, batch_rows=10_000, batch_bytes=50_000_000)

_RUNNING: Final = frozenset({"UploadComplete", "InProgress"})
_ENDED: Final = frozenset({"JobComplete", "Failed", "Aborted"})
_NULL: Final = "#N/A"  # [C]; an empty cell leaves the field as it is
_LONGEST_CELL: Final = 32_000  # [D]
_LONGEST_PAUSE: Final = 15.0

Call = Callable[..., httpx.Response]
"""(method, path below the API's version, **request) -> answer. Raises CallFailedError."""
RowOutcome = Callable[[Operation, str, str], Outcome]
"""(operation, code, message) of a row that failed -> its outcome."""


def fits(record: Mapping[str, Any]) -> bool:
    """Whether CSV says what the record says: no nested value, none too long, no text that would be read as null."""
    return all(
        not isinstance(value, list | dict) and value != _NULL and not (isinstance(value, str) and len(value) > _LONGEST_CELL)
        for value in record.values()
    )


class IngestJobs:
    """The jobs of one organisation."""

    def __init__(self, call: Call, jobs: JobBook, row_outcome: RowOutcome, patience: dt.timedelta) -> None:
        self._call, self._jobs, self._row_outcome = call, jobs, row_outcome
        self._patience = patience

    def upsert(
        self, object: str, key_field: str, rows: Sequence[tuple[Operation, Mapping[str, Any]]]
    ) -> tuple[list[Outcome], list[Operation]]:
        """(outcomes, operations of which the job says nothing because it was refused as a whole: nothing of them was written)."""
        operations = [operation for operation, _ in rows]
        try:
            job = self._create(object, key_field)
        except CallFailedError as error:
            return _not_sent(operations, error)
        try:
            self._call(
                "PUT",
                f"jobs/ingest/{job}/batches",
                writes=True,
                content=bulk.csv_of([record for _, record in rows], key_field, _NULL),
                headers={"Content-Type": "text/csv; charset=UTF-8"},
            )
        except CallFailedError as error:
            self._abort(job)
            return _not_sent(operations, error)
        return self._finish(job, key_field, operations)

    def end_open(self) -> None:
        """See earlier jobs through before anything else is written, or older values could follow newer ones. Raises CallFailedError."""
        for job in self._jobs.open():
            try:
                state = self._state(job)
            except CallFailedError as error:
                if not error.code.startswith("404"):
                    raise
                state = "Aborted"  # Salesforce forgets a job seven days after its end [D]
            if state == "Open":
                self._abort(job)
            elif state in _ENDED or self._wait(job) in _ENDED:
                self._jobs.ended(job)
            else:
                wire.wait(f"bulk:job {job} is under way", wire.now() + bulk.LATER)

    def _create(self, object: str, key_field: str) -> str:
        wanted = {
            "object": object,
            "operation": "upsert",
            "externalIdFieldName": key_field,
            "contentType": "CSV",
            "columnDelimiter": "COMMA",
            "lineEnding": "LF",
        }
        content = orjson.dumps(wanted)
        headers = {"Content-Type": "application/json"}
        answer = wire.body_of(self._call("POST", "jobs/ingest", writes=True, resend=False, content=content, headers=headers))
        job = answer.get("id") if isinstance(answer, dict) else None
        if not job:
            raise CallFailedError("waiting", "bulk:answer_not_understood", wire.now() + wire.AFTER_A_LOOK)
        self._jobs.began(str(job))
        return str(job)

    def _finish(self, job: str, key_field: str, operations: Sequence[Operation]) -> tuple[list[Outcome], list[Operation]]:
        """Close the job, wait for its end, and read what became of each row."""
        try:
            self._change(job, "UploadComplete")
        except CallFailedError as error:
            # Its state says whether it was heard.
            if error.status == "rejected":
                self._abort(job)
                return _not_sent(operations, error)
        try:
            state = self._wait(job)
            if state == "Open":
                self._abort(job)
                return wire.failed(operations, CallFailedError("waiting", "bulk:job was not closed")), []
            if state not in _ENDED:
                later = CallFailedError("waiting", f"bulk:job {job} is under way", wire.now() + bulk.LATER)
                return wire.failed(operations, later), []
            found = self._results(job, key_field, operations)
        except CallFailedError as error:
            # The rows may be written by now. They are upserts: after the job has ended they go again.
            until = error.not_before or wire.now() + bulk.LATER
            return wire.failed(operations, CallFailedError("waiting", f"bulk:job {job}: {error.code}", until)), []
        self._jobs.ended(job)
        outcomes = [found[o.key] for o in operations if o.key in found]
        rest = [o for o in operations if o.key not in found]
        if state == "Aborted":  # somebody stopped it; the same rows by another way are not what they wanted
            stopped = CallFailedError("waiting", f"bulk:job {job} was aborted", wire.now() + wire.AFTER_A_LOOK)
            return [*outcomes, *wire.failed(rest, stopped)], []
        return outcomes, rest

    def _results(self, job: str, key_field: str, operations: Sequence[Operation]) -> dict[str, Outcome]:
        """key -> outcome, of the rows that the job worked on."""
        by_key = {operation.key: operation for operation in operations}
        found: dict[str, Outcome] = {}
        for row in self._rows(job, "successfulResults"):
            if operation := by_key.get(row.get(key_field, "")):
                found[operation.key] = Outcome(operation.id, "delivered", remote_id=row.get("sf__Id", ""))
        for row in self._rows(job, "failedResults"):
            if operation := by_key.get(row.get(key_field, "")):
                code, _, message = row.get("sf__Error", "").partition(":")
                found[operation.key] = self._row_outcome(operation, code.strip() or "NO_CODE", message)
        return found

    def _rows(self, job: str, name: str) -> Iterator[dict[str, str]]:
        text = self._call("GET", f"jobs/ingest/{job}/{name}", writes=False, headers={"Accept": "text/csv"}).text
        yield from bulk.rows_of(text)

    def _wait(self, job: str) -> str:
        """The job's state when it has ended, or after all patience."""
        return bulk.wait(lambda: self._state(job), _RUNNING, self._patience, _LONGEST_PAUSE)

    def _state(self, job: str) -> str:
        answer = wire.body_of(self._call("GET", f"jobs/ingest/{job}", writes=False))
        return str(answer.get("state")) if isinstance(answer, dict) else ""

    def _change(self, job: str, state: str) -> None:
        headers = {"Content-Type": "application/json"}
        self._call("PATCH", f"jobs/ingest/{job}", writes=True, content=orjson.dumps({"state": state}), headers=headers)

    def _abort(self, job: str) -> None:
        """End a job that was not closed. Where that fails it stays in the book, and is ended before the next one."""
        try:
            self._change(job, "Aborted")
        except CallFailedError:
            return
        self._jobs.ended(job)


def _not_sent(operations: Sequence[Operation], error: CallFailedError) -> tuple[list[Outcome], list[Operation]]:
    """A job that was not closed writes nothing, whatever became of the call. One that was refused says nothing of its rows."""
    if error.status == "rejected":
        return [], list(operations)
    return wire.failed(operations, CallFailedError("waiting", error.code, error.not_before)), []
