"""The twin of any declared HTTP API: takes JSON records at every path and keeps them by their key.

A record is kept below its path as object, under its ``id``, ``key``, ``email`` or ``external_id``, the first that it has; without one it
is kept as one more. A list may stand bare or below any key. The answer names each record's fate in ``results``, in order; a record with
``"refuse": true`` is refused. Whoever sends credentials must send the twins' own.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from resources.sandbox import CLIENT_ID, CLIENT_SECRET
from resources.sandbox.twin import Answer, Call, MalformedError, Twin

_KEYS: Final = ("id", "key", "email", "external_id")
_BASIC: Final = "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
_GOOD: Final = (f"Bearer {CLIENT_SECRET}", _BASIC)


class HttpTwin(Twin):
    system = "http"
    title = "HTTP API"
    limits = {"calls_per_second": 1000, "daily": 1_000_000}
    routes = ()

    def handle(self, call: Call) -> Answer:
        signed = call.headers.get("authorization")
        if (signed is not None and signed not in _GOOD) or call.headers.get("x-api-key", CLIENT_SECRET) != CLIENT_SECRET:
            return Answer(401, {"error": "unauthorized"})
        if self.store.count(self.system, f"second {call.at:%Y-%m-%dT%H:%M:%S}") > self.limit("calls_per_second"):
            return Answer(429, {"error": "too many requests"}, {"Retry-After": "1"})
        if self.store.count(self.system, f"day {call.at:%Y-%m-%d}") > self.limit("daily"):
            return self.refuse(call, "quota_exhausted", {})
        if call.method not in ("POST", "PUT", "PATCH"):
            return Answer(405, {"error": "method not allowed"})
        try:
            records, many = _records(call)
        except MalformedError:
            return Answer(400, {"error": "not a record, nor a list of them"})
        fine = [not record.get("refuse") and not call.row_fails(record) for record in records]
        if not many and not fine[0]:
            return Answer(422, {"error": "refused"})
        self._keep(call, [record for record, good in zip(records, fine, strict=True) if good])
        return Answer(200, {"results": [{"ok": good} for good in fine]})

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        if kind in ("429", "quota_exhausted"):
            seconds = 3600 if kind == "quota_exhausted" else plan.get("retry_after")
            return Answer(429, {"error": "too many requests"}, {} if seconds is None else {"Retry-After": str(seconds)})
        return Answer(401 if kind == "expired_token" else int(kind), {"error": kind})

    def _keep(self, call: Call, records: list[dict[str, Any]]) -> None:
        object = call.path.strip("/") or "records"
        documents = []
        for record in records:
            key = next((record[name] for name in _KEYS if record.get(name) not in (None, "")), None)
            id = str(key) if key is not None else f"{self.store.count(self.system, f'ids {object}'):012}"
            known = self.store.get(self.system, object, [id])
            documents.append((id, {**(known[id].fields if known else {}), **record}))
        self.store.put(self.system, object, documents, call.at)


def _records(call: Call) -> tuple[list[dict[str, Any]], bool]:
    """The records of a call, and whether they came as a list. Raises :class:`MalformedError`."""
    body = call.json()
    if isinstance(body, dict) and len(body) == 1 and isinstance(next(iter(body.values())), list):
        body = next(iter(body.values()))
    if isinstance(body, dict):
        return [body], False
    if not isinstance(body, list) or not body or not all(isinstance(record, dict) for record in body):
        raise MalformedError("records")
    return body, True


def create(store: Any) -> Twin:
    """The twin over a store."""
    return HttpTwin(store)
