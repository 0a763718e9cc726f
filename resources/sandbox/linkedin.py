"""The LinkedIn twin: sign-in by refresh token, and the DMP segments of one advertiser.

A batch is answered element by element with status 200 for the whole. Removing is an action, not a DELETE. One segment exists from the start.
Not here: companies, matching, the access rules of ad accounts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from resources.sandbox import CLIENT_ID, CLIENT_SECRET
from resources.sandbox.twin import Answer, Call, MalformedError, Twin, bearer

SEGMENT_ID: Final = "10001"
_TOKEN_SECONDS: Final = 60 * 86_400  # [M]
_MAX_ELEMENTS: Final = 5_000  # [D]
_ID_TYPES: Final = {
    "SHA256_EMAIL": re.compile(r"[0-9a-f]{64}"),
    "SHA512_EMAIL": re.compile(r"[0-9a-f]{128}"),
    "GOOGLE_AID": re.compile(r".+"),
}
_ABOUT: Final = {"firstName", "lastName", "title", "company", "country"}


class LinkedInTwin(Twin):
    system = "linkedin"
    title = "LinkedIn"
    sign_in = "/oauth/"
    limits = {"calls_per_minute": 600}
    routes = (
        ("POST", "/oauth/v2/accessToken", "token"),
        ("POST", "/rest/dmpSegments", "create"),
        ("GET", "/rest/dmpSegments", "find"),
        ("POST", "/rest/dmpSegments/{segment}/users", "users"),
    )

    def handle(self, call: Call) -> Answer:
        if self.signs_in(call.path):
            return self.dispatch(call) or _error(404, "Not found")
        if self.tokens().get(bearer(call), 0) <= call.at.timestamp():
            return _error(401, "The token used in the request has expired")
        if not re.fullmatch(r"20\d{4}", call.headers.get("linkedin-version", "")):
            return _error(426, "Requested version is not active")
        if call.headers.get("x-restli-protocol-version") != "2.0.0":
            return _error(400, "Invalid protocol version")
        if self.store.count(self.system, f"minute {call.at:%Y-%m-%dT%H:%M}") > self.limit("calls_per_minute"):
            return _error(429, "Resource level throttle limit for calls to this resource is reached")
        try:
            return self.dispatch(call) or _error(404, "No virtual resource found")
        except MalformedError:
            return _error(400, "The body is not what this resource expects")

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        if kind == "expired_token":
            return _error(401, "The token used in the request has expired")
        if kind in ("429", "quota_exhausted"):
            after = {"Retry-After": str(plan["retry_after"])} if "retry_after" in plan else {}
            return _error(429, "Resource level throttle limit for calls to this resource is reached", after)
        return _error(int(kind), "Internal error")

    def token(self, call: Call) -> Answer:
        form = call.form()
        if form.get("grant_type") != "refresh_token" or not form.get("refresh_token"):
            return Answer(400, {"error": "invalid_request", "error_description": "grant_type"})
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return Answer(401, {"error": "invalid_client", "error_description": "Client authentication failed"})
        if form["refresh_token"] != CLIENT_SECRET:
            return Answer(400, {"error": "invalid_grant", "error_description": "The provided refresh token is invalid"})
        return Answer(200, {"access_token": self.issue_token(call.at, _TOKEN_SECONDS), "expires_in": _TOKEN_SECONDS})

    def create(self, call: Call) -> Answer:
        body = call.json()
        wanted = ("name", "sourcePlatform", "sourceSegmentId", "account", "type", "destinations")
        if not isinstance(body, dict) or not all(body.get(name) for name in wanted) or body["type"] not in ("USER", "COMPANY"):
            return _error(400, "A required field is missing")
        if any(r.fields["sourceSegmentId"] == body["sourceSegmentId"] for r in self.store.records(self.system, "DmpSegment")):
            return _error(409, "A segment with this sourceSegmentId exists")
        id = str(int(SEGMENT_ID) + self.store.count(self.system, "segments"))
        self.store.put(self.system, "DmpSegment", [(id, body)], call.at)
        return Answer(201, None, {"x-restli-id": id})

    def find(self, call: Call) -> Answer:
        if call.arg("q") != "account":
            return _error(400, "Unknown finder")
        wanted = {name: call.arg(name) for name in ("account", "sourceSegmentId", "sourcePlatform") if call.arg(name)}
        found = [r for r in self.store.records(self.system, "DmpSegment") if all(r.fields.get(n) == v for n, v in wanted.items())]
        return Answer(200, {"elements": [{"id": record.id, **record.fields} for record in found]})

    def users(self, call: Call) -> Answer:
        segment = call.params["segment"]
        if segment != SEGMENT_ID and not self.store.get(self.system, "DmpSegment", [segment]):
            return _error(404, "The segment does not exist")
        body = call.json()
        elements = body.get("elements") if isinstance(body, dict) else None
        if call.headers.get("x-restli-method", "").upper() != "BATCH_CREATE" or not isinstance(elements, list):
            raise MalformedError("elements")
        if not 1 <= len(elements) <= _MAX_ELEMENTS:
            return _error(400, f"At most {_MAX_ELEMENTS} elements")
        object = f"segment/{segment}"
        results: list[dict[str, Any]] = []
        for element in elements:
            problem = _problem(element)
            if problem:
                results.append({"status": 400, "error": {"message": problem}})
                continue
            if call.row_fails(element):
                results.append({"status": int((call.fault or {}).get("code", 423)), "error": {"message": "Try again"}})
                continue
            id = element["userIds"][0]["idValue"]
            if element["action"] == "ADD":
                self.store.put(self.system, object, [(id, {n: v for n, v in element.items() if n != "action"})], call.at)
            else:
                self.store.delete(self.system, object, [id])
            results.append({"status": 201})
        return Answer(200, {"elements": results})


def _problem(element: Any) -> str:
    """Why an element is refused; '' for a good one."""
    if not isinstance(element, dict) or element.get("action") not in ("ADD", "REMOVE"):
        return "action is ADD or REMOVE"
    ids = element.get("userIds")
    if not isinstance(ids, list) or not ids or set(element) - _ABOUT - {"action", "userIds"}:
        return "userIds are required"
    for id in ids:
        shape = _ID_TYPES.get(id.get("idType", "")) if isinstance(id, dict) else None
        if shape is None or not shape.fullmatch(str(id.get("idValue", ""))):
            return "an id is not of its type"
    return ""


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, {"status": status, "serviceErrorCode": 100, "message": message}, headers or {})


def create(store: Any) -> Twin:
    """The twin over a store."""
    return LinkedInTwin(store)
