"""Marketo's bulk lead import: a CSV file that Marketo works through by itself, with an optional static list.

Create or update only. Marketo names the failed rows with words, not codes; those rows are sent again one call at a time, which gives the
codes. Evidence tags as in ``marketo``.

The request that uploads the rows also names the import, so one whose answer is lost has no number to ask about. It is noted before it is
sent, and as long as Marketo may still work through it nothing else is written: its older values would come last.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx

from resources.destinations import Bulk, JobBook, Operation, Outcome, bulk
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError, Judge

BULK: Final = Bulk(from_rows=3_000, batch_rows=30_000, batch_bytes=9_500_000)  # 10 MB [D], with a little room

_RUNNING: Final = frozenset({"Queued", "Importing"})
_NUMBERS: Final = {"failures": "numOfRowsFailed", "warnings": "numOfRowsWithWarning"}
_UNANSWERED: Final = dt.timedelta(hours=1)  # how long is not documented; imports of 10 MB are a matter of minutes
_SENT: Final = "sent "  # and when: in the book of jobs, an import that has no number yet
_LONGEST_PAUSE: Final = 30.0  # [D] ask every 5 to 30 seconds

Call = Callable[..., httpx.Response]
"""(method, path, **request) -> answer. Raises CallFailedError."""


def fits(record: Mapping[str, Any]) -> bool:
    """Whether CSV says what the record says. How an import clears a field is not documented, so a record that does is none for it."""
    return not any(
        value in (None, "") or isinstance(value, list | dict) or (isinstance(value, str) and value.strip().lower() == "null")
        for value in record.values()
    )


class Imports:
    """The imports of one subscription. Settings: ``bulk_wait_minutes``, ``bulk_unanswered_minutes``."""

    def __init__(self, call: Call, judge: Judge, jobs: JobBook, settings: Mapping[str, Any]) -> None:
        self._call, self._judge, self._jobs = call, judge, jobs
        self._patience = bulk.patience_of(settings)
        self._unanswered = dt.timedelta(minutes=float(settings.get("bulk_unanswered_minutes", _UNANSWERED.total_seconds() / 60)))

    def upsert(
        self, lookup: str, settings: Mapping[str, str], rows: Sequence[tuple[Operation, Mapping[str, Any]]]
    ) -> tuple[list[Outcome], list[Operation]]:
        """(outcomes, operations that the import refused and that go again by themselves). ``settings``: listId, partitionName."""
        operations = [operation for operation, _ in rows]
        content = bulk.csv_of([record for _, record in rows], lookup, null="")
        try:
            job = self._begin(lookup, settings, content)
        except CallFailedError as error:
            return ([], operations) if error.status == "rejected" else (wire.failed(operations, error), [])
        try:
            state = self._wait(job)
            if state in _RUNNING:
                later = CallFailedError("waiting", f"bulk:import {job} is under way", wire.now() + bulk.LATER)
                return wire.failed(operations, later), []
            if state == "Complete":
                failed, warned = (self._keys(job, what, lookup) for what in ("failures", "warnings"))
            else:
                failed, warned = {o.key for o in operations}, set()
        except CallFailedError as error:
            until = error.not_before or wire.now() + bulk.LATER
            return wire.failed(operations, CallFailedError("waiting", f"bulk:import {job}: {error.code}", until)), []
        self._jobs.ended(job)
        done = [o for o in operations if o.key not in failed]
        outcomes = [Outcome(o.id, "delivered", warning="import: row with a warning" if o.key in warned else "") for o in done]
        return outcomes, [o for o in operations if o.key in failed]

    def end_open(self) -> None:
        """See earlier imports through before anything else is written, or older values could follow newer ones. Raises CallFailedError."""
        for job in self._jobs.open():
            if job.startswith(_SENT):
                self._wait_unanswered(job)
                continue
            try:
                state = self._wait(job)
            except CallFailedError as error:
                if error.status != "rejected":
                    raise
                state = ""  # Marketo forgets an import seven days after it [D]
            if state in _RUNNING:
                wire.wait(f"bulk:import {job} is under way", wire.now() + bulk.LATER)
            self._jobs.ended(job)

    def _wait_unanswered(self, note: str) -> None:
        """Let go of an import without a number when it must be over. Raises CallFailedError before."""
        until = dt.datetime.fromisoformat(note.removeprefix(_SENT)) + self._unanswered
        if wire.now() < until:
            wire.wait("bulk:an import without an answer may be under way", until)
        self._jobs.ended(note)

    def _begin(self, lookup: str, settings: Mapping[str, str], content: bytes) -> str:
        note = f"{_SENT}{wire.now().isoformat()}"
        self._jobs.began(note)
        try:
            response = self._call(
                "POST",
                "bulk/v1/leads.json",
                writes=True,
                resend=False,
                params={"format": "csv", "lookupField": lookup, **settings},
                files={"file": ("leads.csv", content, "text/csv")},
            )
        except CallFailedError as error:
            if error.status != "unknown":
                self._jobs.ended(note)
            raise
        answer = wire.body_of(response)
        results = answer.get("result") if isinstance(answer, dict) else None
        job = results[0].get("batchId") if isinstance(results, list) and results and isinstance(results[0], dict) else None
        if not job:
            raise CallFailedError("unknown", "answer_not_understood")
        self._jobs.began(str(job))
        self._jobs.ended(note)
        return str(job)

    def _wait(self, job: str) -> str:
        return bulk.wait(lambda: str(self._shown(job).get("status")), _RUNNING, self._patience, _LONGEST_PAUSE)

    def _shown(self, job: str) -> Mapping[str, Any]:
        answer = wire.body_of(self._call("GET", f"bulk/v1/leads/batch/{job}.json", writes=False))
        results = answer.get("result") if isinstance(answer, dict) else None
        return results[0] if isinstance(results, list) and results and isinstance(results[0], dict) else {}

    def _keys(self, job: str, what: str, lookup: str) -> set[str]:
        """Keys of the rows of an import's failures or warnings, as many as it says there are. Raises CallFailedError for fewer."""
        told = int(self._shown(job).get(_NUMBERS[what]) or 0)
        answer = (
            self._call("GET", f"bulk/v1/leads/batch/{job}/{what}.json", writes=False, judge=self._judge_file) if told else None
        )
        rows = list(bulk.rows_of(answer.text)) if answer is not None else []
        if len(rows) != told:
            raise CallFailedError("waiting", f"{what}:answer_not_understood")
        return {row.get(lookup, "") for row in rows}

    def _judge_file(self, response: httpx.Response) -> None:
        """A file, or what went wrong, in JSON and with HTTP 200."""
        if response.status_code != 200 or response.content.lstrip()[:1] == b"{":
            self._judge(response)
