"""Ingest jobs of the Salesforce twin (Bulk API 2.0): strict states, work done some time after closing, result files in mixed order.

A job is worked through when its time has come and somebody calls, so a job that nobody asks for writes late, as a real one may.
CSV has no types: custom fields take ``true`` and ``false`` as booleans and what reads back the same as a number as one.
Not here: inserts by CSV without a key, hard deletes, multipart creation, and jobs of several internal batches.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from resources.sandbox.faults import fails_row
from resources.sandbox.store import Store, fold
from resources.sandbox.twin import Answer, Call, number_of

ROUTES: Final = (
    ("POST", "/services/data/{version}/jobs/ingest", "bulk_create"),
    ("GET", "/services/data/{version}/jobs/ingest", "bulk_list"),
    ("GET", "/services/data/{version}/jobs/ingest/{id}", "bulk_show"),
    ("PATCH", "/services/data/{version}/jobs/ingest/{id}", "bulk_change"),
    ("DELETE", "/services/data/{version}/jobs/ingest/{id}", "bulk_delete"),
    ("PUT", "/services/data/{version}/jobs/ingest/{id}/batches", "bulk_upload"),
    ("GET", "/services/data/{version}/jobs/ingest/{id}/{results}", "bulk_results"),
)
MOST_BYTES: Final = 100_000_000  # [D], before base64
_TERMINAL: Final = ("JobComplete", "Failed", "Aborted")
_KEPT: Final = "bulk jobs"
_DELIMITERS: Final = {"COMMA": ",", "SEMICOLON": ";", "TAB": "\t", "PIPE": "|"}
_RESULTS: Final = {"successfulResults": "succeeded", "failedResults": "failed", "unprocessedrecords": "unprocessed"}


@dataclass(frozen=True)
class RowResult:
    """What an upsert of one row came to: the record's id, or an error ``CODE:message:fields --``."""

    id: str = ""
    created: bool = False
    error: str = ""


Upsert = Callable[[str, str, list[dict[str, Any]], list[bool], dt.datetime], list[RowResult]]
"""(object, external id field, rows, whether a planned failure hits each, now) -> what each came to."""


class IngestJobs:
    """The jobs in a twin's store. ``known``: (object, key field) -> why there can be no job, or nothing."""

    def __init__(
        self,
        store: Store,
        system: str,
        upsert: Upsert,
        known: Callable[[str, str], str],
        field_type: Callable[[str, str], str | None],
    ) -> None:
        self._store, self._system = store, system
        self._upsert, self._known, self._field_type = upsert, known, field_type

    # -- the store ---------------------------------------------------------------------------------------------------

    def _ids(self) -> list[str]:
        return self._store.value(self._system, _KEPT, [])

    def _get(self, id: str) -> dict[str, Any] | None:
        return self._store.value(self._system, f"bulk job {id}")

    def _put(self, job: Mapping[str, Any]) -> None:
        self._store.set_value(self._system, f"bulk job {job['id']}", job)

    # -- resources ---------------------------------------------------------------------------------------------------

    def create(self, call: Call) -> Answer:
        body = call.json()
        if not isinstance(body, dict):
            return _error(400, "JSON_PARSER_ERROR", "not an object")
        object, key = str(body.get("object", "")), str(body.get("externalIdFieldName", ""))
        if body.get("operation") != "upsert" or body.get("contentType", "CSV") != "CSV":
            return _error(400, "INVALIDJOB", "This twin knows upserts of CSV")
        if body.get("columnDelimiter", "COMMA") not in _DELIMITERS or body.get("lineEnding", "LF") not in ("LF", "CRLF"):
            return _error(400, "INVALIDJOB", "Unknown delimiter or line ending")
        if problem := self._known(object, key):
            return _error(400, "INVALIDJOB", problem)
        number = self._store.count(self._system, "bulk job numbers")
        job = {
            "id": f"750000000{number:06d}AAA",
            "object": object,
            "operation": "upsert",
            "externalIdFieldName": key,
            "columnDelimiter": body.get("columnDelimiter", "COMMA"),
            "lineEnding": body.get("lineEnding", "LF"),
            "state": "Open",
            "createdDate": call.at.strftime("%Y-%m-%dT%H:%M:%S.000+0000"),
            "uploads": 0,
            "data": "",
            "due": 0.0,
            "fault": None,
            "succeeded": [],
            "failed": [],
            "unprocessed": [],
            "error": "",
        }
        self._put(job)
        self._store.set_value(self._system, _KEPT, [*self._ids(), job["id"]])
        return Answer(200, self._shown(job, call))

    def show(self, call: Call) -> Answer:
        job = self._get(call.params["id"])
        return Answer(200, self._shown(job, call)) if job else _missing()

    def list(self, call: Call) -> Answer:
        jobs = [job for id in self._ids() if (job := self._get(id))]
        return Answer(200, {"done": True, "records": [self._shown(job, call) for job in jobs], "nextRecordsUrl": None})

    def upload(self, call: Call) -> Answer:
        job = self._get(call.params["id"])
        if job is None:
            return _missing()
        if call.content_type != "text/csv":
            return _error(415, "UNSUPPORTED_MEDIA_TYPE", "The content type is not text/csv")
        if job["state"] != "Open":
            return _error(400, "INVALIDJOBSTATE", "The job takes no more data")
        if len(call.body) > MOST_BYTES:
            return _error(413, "EXCEEDED_SIZE_LIMIT", "The upload is too large")
        try:
            data = call.body.decode("utf-8")
        except UnicodeDecodeError:
            return _error(400, "INVALIDBATCH", "The data are not UTF-8")
        self._put({**job, "data": data, "uploads": job["uploads"] + 1, "fault": call.fault})
        return Answer(201)

    def change(self, call: Call, seconds: float) -> Answer:
        """``seconds``: between closing a job and its work."""
        job = self._get(call.params["id"])
        if job is None:
            return _missing()
        wanted = call.json().get("state") if isinstance(call.json(), dict) else None
        if wanted not in ("UploadComplete", "Aborted"):
            return _error(400, "INVALIDJOB", "state is UploadComplete or Aborted")
        if job["state"] in _TERMINAL or (wanted == "UploadComplete" and job["state"] != "Open"):
            return _error(400, "INVALIDJOBSTATE", f"A job that is {job['state']} cannot become {wanted}")
        if wanted == "UploadComplete" and job["uploads"] > 1:
            return _error(400, "INVALIDJOB", "Data were uploaded more than once")
        job = {**job, "state": wanted, "due": call.at.timestamp() + seconds}
        self._put(job)
        return Answer(200, self._shown(job, call))

    def delete(self, call: Call) -> Answer:
        job = self._get(call.params["id"])
        if job is None:
            return _missing()
        if job["state"] not in _TERMINAL:
            return _error(400, "INVALIDJOBSTATE", "Only a job that has ended can be deleted")
        self._store.set_value(self._system, _KEPT, [id for id in self._ids() if id != job["id"]])
        self._store.set_value(self._system, f"bulk job {job['id']}", None)
        return Answer(204)

    def results(self, call: Call) -> Answer:
        job, kind = self._get(call.params["id"]), _RESULTS.get(call.params["results"])
        if job is None or kind is None:
            return _missing()
        if job["state"] not in _TERMINAL:
            return _error(400, "INVALIDJOBSTATE", "The job has not ended")
        rows: list[dict[str, str]] = job[kind]
        columns = _columns(job)
        extra = {"succeeded": ["sf__Id", "sf__Created"], "failed": ["sf__Id", "sf__Error"], "unprocessed": []}[kind]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*extra, *columns], lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        # Not in the order of the upload.
        writer.writerows(sorted(rows, key=lambda row: hashlib.md5(repr(sorted(row.items())).encode()).hexdigest()))
        return Answer(200, text.getvalue().encode(), {"content-type": "text/csv"})

    def _shown(self, job: Mapping[str, Any], call: Call) -> dict[str, Any]:
        names = ("id", "object", "operation", "externalIdFieldName", "columnDelimiter", "lineEnding", "state", "createdDate")
        return {
            **{name: job[name] for name in names},
            "contentType": "CSV",
            "concurrencyMode": "Parallel",
            "jobType": "V2Ingest",
            "contentUrl": f"services/data/{call.params['version']}/jobs/ingest/{job['id']}/batches",
            "numberRecordsProcessed": len(job["succeeded"]) + len(job["failed"]),
            "numberRecordsFailed": len(job["failed"]),
            **({"errorMessage": job["error"]} if job["error"] else {}),
        }

    # -- work --------------------------------------------------------------------------------------------------------

    def work(self, at: dt.datetime) -> None:
        """Do what has come due. Called before anything else of a call."""
        for id in self._ids():
            job = self._get(id)
            if job and job["state"] == "UploadComplete":
                self._put({**job, "state": "InProgress"})
            elif job and job["state"] == "InProgress" and at.timestamp() >= job["due"]:
                self._put(self._worked(job, at))

    def _worked(self, job: dict[str, Any], at: dt.datetime) -> dict[str, Any]:
        rows = list(csv.DictReader(io.StringIO(job["data"], newline=""), delimiter=_DELIMITERS[job["columnDelimiter"]]))
        key, object = job["externalIdFieldName"], job["object"]
        columns = _columns(job)
        unknown = [name for name in columns if self._field_type(object, name) is None]
        twice = [name for name, n in Counter(columns).items() if n > 1]
        if unknown or twice or key not in columns:
            said = f"InvalidBatch : Field name not found : {unknown[0]}" if unknown else "InvalidBatch : Invalid header"
            return {**job, "state": "Failed", "error": said, "unprocessed": rows, "data": ""}
        records = [{name: self._typed(object, key, name, cell) for name, cell in row.items() if cell != ""} for row in rows]
        counts = Counter(fold(row.get(key, "")) for row in rows)
        blocked = [
            "DUPLICATE_VALUE:Duplicate external id specified" if counts[fold(row.get(key, ""))] > 1 else "" for row in rows
        ]
        hit = [fails_row(job["fault"], record) for record in records]
        open = [n for n, said in enumerate(blocked) if not said]
        came = self._upsert(object, key, [records[n] for n in open], [hit[n] for n in open], at)
        found = {n: RowResult(error=f"{said}:{key} --") for n, said in enumerate(blocked) if said} | dict(
            zip(open, came, strict=True)
        )
        good = [
            {"sf__Id": r.id, "sf__Created": str(r.created).lower(), **rows[n]} for n, r in sorted(found.items()) if not r.error
        ]
        bad = [{"sf__Id": r.id, "sf__Error": r.error, **rows[n]} for n, r in sorted(found.items()) if r.error]
        return {**job, "state": "JobComplete", "succeeded": good, "failed": bad, "data": job["data"].partition("\n")[0] + "\n"}

    def _typed(self, object: str, key: str, name: str, cell: str) -> Any:
        if cell == "#N/A":
            return None
        kind = self._field_type(object, name)
        if name != key and cell in ("true", "false") and kind in ("boolean", "any"):
            return cell == "true"
        number = number_of(cell) if name != key and kind in ("double", "any") else None
        return cell if number is None else number


def _columns(job: Mapping[str, Any]) -> list[str]:
    rows = csv.reader(io.StringIO(job["data"], newline=""), delimiter=_DELIMITERS[job["columnDelimiter"]])
    return next(rows, [])


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, [{"message": message, "errorCode": code}])


def _missing() -> Answer:
    return _error(404, "NOT_FOUND", "The requested resource does not exist")
