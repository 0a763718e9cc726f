"""Marketo's bulk lead import: a CSV file that Marketo works through by itself, with an optional static list.

Create or update only. Marketo names the failed rows with words, not codes; those rows are sent again one call at a time, which gives the
codes. Evidence tags as in ``marketo``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx

from resources.destinations import Bulk, JobBook, Operation, Outcome, bulk
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError

BULK: Final = Bulk(from_rows=3_000, batch_rows=30_000, batch_bytes=9_500_000)  # 10 MB [D], with a little room

_RUNNING: Final = frozenset({"Queued", "Importing"})
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
    """The imports of one subscription."""

    def __init__(self, call: Call, jobs: JobBook, patience: dt.timedelta) -> None:
        self._call, self._jobs, self._patience = call, jobs, patience

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
            failed = self._keys(job, "failures", lookup) if state == "Complete" else {o.key for o in operations}
            warned = self._keys(job, "warnings", lookup) if state == "Complete" else set()
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
            try:
                state = self._wait(job)
            except CallFailedError as error:
                if error.status != "rejected":
                    raise
                state = ""  # Marketo forgets an import seven days after it [D]
            if state in _RUNNING:
                wire.wait(f"bulk:import {job} is under way", wire.now() + bulk.LATER)
            self._jobs.ended(job)

    def _begin(self, lookup: str, settings: Mapping[str, str], content: bytes) -> str:
        answer = wire.body_of(
            self._call(
                "POST",
                "bulk/v1/leads.json",
                writes=True,
                resend=False,
                params={"format": "csv", "lookupField": lookup, **settings},
                files={"file": ("leads.csv", content, "text/csv")},
            )
        )
        results = answer.get("result") if isinstance(answer, dict) else None
        job = results[0].get("batchId") if isinstance(results, list) and results and isinstance(results[0], dict) else None
        if not job:
            raise CallFailedError("unknown", "answer_not_understood")
        self._jobs.began(str(job))
        return str(job)

    def _wait(self, job: str) -> str:
        return bulk.wait(lambda: self._state(job), _RUNNING, self._patience, _LONGEST_PAUSE)

    def _state(self, job: str) -> str:
        answer = wire.body_of(self._call("GET", f"bulk/v1/leads/batch/{job}.json", writes=False))
        results = answer.get("result") if isinstance(answer, dict) else None
        return str(results[0].get("status")) if isinstance(results, list) and results else ""

    def _keys(self, job: str, what: str, lookup: str) -> set[str]:
        """Keys of the rows of an import's failures or warnings."""
        answer = self._call("GET", f"bulk/v1/leads/batch/{job}/{what}.json", writes=False, judge=wire.judge_status)
        return {row.get(lookup, "") for row in bulk.rows_of(answer.text)}
