"""Bulk lead imports of the Marketo twin: a queue, work done some time after the upload, failures and warnings as CSV.

An import is worked through when its time has come and somebody calls; who asks about imports sees each state. CSV has no types: what a
field's type wants is read from the text.
Not here: other formats than CSV, imports of custom objects and program members.
"""

from __future__ import annotations

import csv
import datetime as dt
import email
import email.policy
import io
from collections.abc import Callable, Mapping
from typing import Any, Final

from resources.sandbox.store import Store
from resources.sandbox.twin import Call, number_of

ROUTES: Final = (
    ("POST", "/bulk/v1/leads.json", "import_leads"),
    ("GET", "/bulk/v1/leads/batch/{id:int}.json", "read_import"),
    ("GET", "/bulk/v1/leads/batch/{id:int}/{what}.json", "read_import_rows"),
)
MOST_BYTES: Final = 10 * 1024 * 1024  # [D]
_QUEUE: Final = 10  # [D] running ones included
_KEPT: Final = "imports"
# Types of fields that hold numbers.
NUMBERS: Final = ("integer", "float", "currency", "score", "percent")

Upsert = Callable[[str, list[dict[str, Any]], dict[str, Any] | None, dt.datetime], list[tuple[str, str]]]
"""(lookup field, rows, the fault that was planned for the upload, now) -> (id, '') or ('', reason) of each row."""


class Imports:
    """The imports in a twin's store. ``join``: (list, lead ids, now) puts leads on a static list."""

    def __init__(self, store: Store, system: str, upsert: Upsert, join: Callable[[str, list[str], dt.datetime], None]) -> None:
        self._store, self._system, self._upsert, self._join = store, system, upsert, join

    def _ids(self) -> list[str]:
        return self._store.value(self._system, _KEPT, [])

    def get(self, id: str) -> dict[str, Any] | None:
        return self._store.value(self._system, f"import {id}")

    def _put(self, job: dict[str, Any]) -> None:
        self._store.set_value(self._system, f"import {job['batchId']}", job)

    def begin(self, call: Call, lookup: str, list_id: str, seconds: float) -> dict[str, Any] | str:
        """The import as first shown, or the code of a refusal. ``seconds``: between the upload and its work."""
        content = _file_of(call)
        if content is None or call.arg("format", "csv") != "csv":
            return "1003"
        waiting = [job for id in self._ids() if (job := self.get(id)) and job["status"] in ("Queued", "Importing")]
        if len(waiting) >= _QUEUE:
            return "1016"
        if list_id and any(job["list"] == list_id for job in waiting):
            return "1019"
        id = str(1000 + self._store.count(self._system, "import numbers"))
        job = {
            "batchId": int(id),
            "importId": str(int(id)),
            "status": "Queued",
            "data": content,
            "lookup": lookup,
            "list": list_id,
            "due": call.at.timestamp() + seconds,
            "fault": call.fault,
            "processed": 0,
            "failures": [],
        }
        self._put(job)
        self._store.set_value(self._system, _KEPT, [*self._ids(), id])
        return {"batchId": job["batchId"], "importId": job["importId"], "status": "Queued"}

    def show(self, job: dict[str, Any]) -> dict[str, Any]:
        return {
            "batchId": job["batchId"],
            "importId": job["importId"],
            "status": job["status"],
            "numOfLeadsProcessed": job["processed"],
            "numOfRowsFailed": len(job["failures"]),
            "numOfRowsWithWarning": 0,
            "message": "Import completed" if job["status"] == "Complete" else "",
        }

    def rows(self, job: dict[str, Any], what: str) -> bytes:
        """The failures or warnings: the columns of the upload and a reason."""
        columns = next(csv.reader(io.StringIO(job["data"], newline="")), [])
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*columns, f"Import {what.removesuffix('s').capitalize()} Reason"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(job["failures"] if what == "failures" else [])
        return text.getvalue().encode()

    def work(self, at: dt.datetime, asked: bool) -> None:
        """Do what has come due. Called before anything else of a call; ``asked``: whether the call asks about an import."""
        for id in self._ids():
            job = self.get(id)
            if job and job["status"] == "Queued":
                job = {**job, "status": "Importing"}
                self._put(job)
                if asked:
                    continue
            if job and job["status"] == "Importing" and at.timestamp() >= job["due"]:
                self._put(self._worked(job, at))

    def _worked(self, job: dict[str, Any], at: dt.datetime) -> dict[str, Any]:
        rows = list(csv.DictReader(io.StringIO(job["data"], newline="")))
        came = self._upsert(job["lookup"], [{n: v for n, v in row.items() if v != ""} for row in rows], job["fault"], at)
        if job["list"]:
            self._join(job["list"], [id for id, reason in came if not reason], at)
        failures = [{**row, "Import Failure Reason": reason} for row, (_, reason) in zip(rows, came, strict=True) if reason]
        head = job["data"].partition("\n")[0] + "\n"
        return {**job, "status": "Complete", "processed": len(rows) - len(failures), "failures": failures, "data": head}


def _file_of(call: Call) -> str | None:
    """The part named ``file`` of a multipart form, as text; None where there is none."""
    if call.content_type != "multipart/form-data":
        return None
    head = f"Content-Type: {call.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + call.body, policy=email.policy.HTTP)
    for part in message.iter_parts() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") == "file":
            content = part.get_payload(decode=True)
            try:
                return content.decode("utf-8") if isinstance(content, bytes) else None
            except UnicodeDecodeError:
                return None
    return None


def from_text(name: str, text: str, lookup: str, fields: Mapping[str, tuple[str, int]]) -> Any:
    """A value as an import reads it from its text; custom fields take what reads back the same."""
    kind = fields.get(name, ("any", 0))[0]
    if name == lookup:
        return text
    if kind in ("boolean", "any") and text in ("true", "false"):
        return text == "true"
    number = number_of(text) if kind in ("any", *NUMBERS) else None
    return text if number is None else number
