"""The Braze twin: ``POST /users/track`` of one workspace, attributes and events.

Users are found by external_id; attributes are set one by one, null removes one. Every event object is a new occurrence: nothing is told
apart by content or by name. "success" with ``errors`` means that those of the named positions were dropped and the rest was taken.
Not here: purchases, aliases, and the other ways of naming a user.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import orjson

from resources.sandbox import CLIENT_SECRET
from resources.sandbox.twin import Answer, Call, MalformedError, Twin, bearer

_MAX_ITEMS: Final = 75  # of each array [D]
_MAX_BYTES: Final = 4_000_000  # [D]
_MAX_ITEM_BYTES: Final = 100_000  # [C]
_ARRAYS: Final = ("attributes", "events", "purchases")
_OWN: Final = ("external_id", "_update_existing_only")


class BrazeTwin(Twin):
    system = "braze"
    title = "Braze"
    limits = {"calls": 3000, "window_seconds": 3}
    routes = (("POST", "/users/track", "track"),)

    def handle(self, call: Call) -> Answer:
        if bearer(call) != CLIENT_SECRET:
            return Answer(401, {"message": "Invalid API key"})
        window = self.limit("window_seconds")
        start = int(call.at.timestamp()) // window * window
        used = self.store.count(self.system, f"window {start}")
        headers = {
            "X-RateLimit-Limit": str(self.limit("calls")),
            "X-RateLimit-Remaining": str(max(self.limit("calls") - used, 0)),
            "X-RateLimit-Reset": str(start + window),
        }
        if used > self.limit("calls"):
            return Answer(429, {"message": "You have exceeded your limit"}, headers)
        try:
            answer = self.dispatch(call) or Answer(404, {"message": "Not found"})
        except MalformedError:
            answer = Answer(400, {"message": "Invalid JSON"})
        return Answer(answer.status, answer.body, {**headers, **answer.headers})

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        if kind in ("429", "quota_exhausted"):
            seconds = 3600 if kind == "quota_exhausted" else plan.get("retry_after", 1)
            reset = int(call.at.timestamp()) + int(seconds)
            return Answer(429, {"message": "You have exceeded your limit"}, {"X-RateLimit-Reset": str(reset)})
        if kind == "expired_token":  # a key does not expire, but somebody may take it away
            return Answer(401, {"message": "Invalid API key"})
        return Answer(int(kind), {"message": "Internal error"})

    def track(self, call: Call) -> Answer:
        if call.content_type != "application/json":
            raise MalformedError("not JSON")
        body = call.json()
        if not isinstance(body, dict) or not any(body.get(name) for name in _ARRAYS):
            return Answer(400, {"message": "You must provide attributes, events or purchases"})
        if len(call.body) > _MAX_BYTES or any(len(body.get(name) or []) > _MAX_ITEMS for name in _ARRAYS):
            return Answer(400, {"message": "Max input length exceeded"})
        errors: list[dict[str, Any]] = []
        taken = {name: self._taken(call, name, body.get(name) or [], errors) for name in _ARRAYS}
        self._set_attributes(call, taken["attributes"])
        if taken["events"]:
            last = self.store.count(self.system, "events", len(taken["events"]))
            numbers = range(last - len(taken["events"]) + 1, last + 1)
            self.store.put(
                self.system, "Event", ((f"{n:012}", event) for n, event in zip(numbers, taken["events"], strict=True)), call.at
            )
        processed = {f"{name}_processed": len(items) for name, items in taken.items() if body.get(name)}
        return Answer(201, {"message": "success", **processed, **({"errors": errors} if errors else {})})

    def _taken(self, call: Call, array: str, items: list[Any], errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
        good = []
        for index, item in enumerate(items):
            problem = _problem(array, item) or (_failure(call) if call.row_fails(item) else "")
            if problem:
                errors.append({"type": problem, "input_array": array, "index": index})
            else:
                good.append(item)
        return good

    def _set_attributes(self, call: Call, items: list[dict[str, Any]]) -> None:
        for item in items:
            id = str(item["external_id"])
            known = self.store.get(self.system, "User", [id])
            if not known and item.get("_update_existing_only"):
                continue
            fields = {**(known[id].fields if known else {}), "external_id": id}
            for name, value in item.items():
                if name in _OWN:
                    continue
                if value is None:
                    fields.pop(name, None)
                else:
                    fields[name] = value
            self.store.put(self.system, "User", [(id, fields)], call.at)


def _failure(call: Call) -> str:
    return str((call.fault or {}).get("code", "An internal error occurred"))


def _problem(array: str, item: Any) -> str:
    """Why an item is dropped; nothing for a good one."""
    if not isinstance(item, dict) or not item.get("external_id"):
        return "'external_id', 'braze_id', 'user_alias', 'email' or 'phone' is required"
    if len(orjson.dumps(item)) > _MAX_ITEM_BYTES:
        return "Max item size exceeded"
    if array == "events":
        if not isinstance(item.get("name"), str) or not item["name"] or len(item["name"]) > 255:
            return "'name' is required"
        try:
            moment = dt.datetime.fromisoformat(str(item.get("time", "")).replace("Z", "+00:00"))
        except ValueError:
            return "'time' is not a valid datetime"
        if moment.tzinfo is None or not isinstance(item.get("properties", {}), dict):
            return "'time' is not a valid datetime" if moment.tzinfo is None else "'properties' is not an object"
    elif array == "purchases":
        return "purchases are not known here"
    elif any(isinstance(value, str) and len(value) > 255 for value in item.values()):
        return "Attribute value exceeds 255 characters"
    return ""


def create(store: Any) -> Twin:
    """The twin over a store."""
    return BrazeTwin(store)
