"""The Facebook twin: custom audiences of one ad account, by the Graph API.

Members are rows of hashed particulars, found again by any of their identifiers. Takes what the vendor's own client sends [P]: forms with
``payload`` and ``session`` as JSON texts, and on DELETE the payload in the query; and JSON bodies as other connectors send them [C].
Invalid entries are counted, never named. One audience exists from the start.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from resources.sandbox import CLIENT_SECRET
from resources.sandbox.twin import Answer, Call, MalformedError, Twin

AUDIENCE_ID: Final = "23840000000000001"
_MAX_ROWS: Final = 10_000  # [D]
_HASHED: Final = {"EMAIL", "PHONE", "GEN", "DOBY", "DOBM", "DOBD", "LN", "FN", "FI", "CT", "ST", "ZIP", "COUNTRY"}
_PLAIN: Final = {"EXTERN_ID", "MADID"}
# The names that the vendor's own client gives to single particulars [P].
_ALSO: Final = {"EMAIL_SHA256": "EMAIL", "PHONE_SHA256": "PHONE", "MOBILE_ADVERTISER_ID": "MADID"}
_IDENTIFIERS: Final = ("EXTERN_ID", "EMAIL", "PHONE", "MADID")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SUBTYPES: Final = ("USER_PROVIDED_ONLY", "PARTNER_PROVIDED_ONLY", "BOTH_USER_AND_PARTNER_PROVIDED")


class FacebookTwin(Twin):
    system = "facebook"
    title = "Facebook"
    limits = {"calls_per_hour": 100_000}
    routes = (
        ("POST", "/{version}/{account}/customaudiences", "create"),
        ("GET", "/{version}/{audience}", "read"),
        ("GET", "/{version}/{audience}/", "read"),
        ("POST", "/{version}/{audience}/users", "add"),
        ("DELETE", "/{version}/{audience}/users", "remove"),
    )

    def handle(self, call: Call) -> Answer:
        if not re.match(r"/v\d{2}\.\d/", call.path):
            return _error(400, 2635, "You are calling a deprecated version of the Ads API")
        try:
            given = _given(call)
        except MalformedError:
            return _error(400, 100, "Invalid parameter")
        if given.get("access_token") != CLIENT_SECRET:
            return _error(400, 190, "Invalid OAuth access token", "OAuthException")
        if self.store.count(self.system, f"hour {call.at:%Y-%m-%dT%H}") > self.limit("calls_per_hour"):
            return _error(400, 80003, "There have been too many calls to this ad-account")
        return self.dispatch(call) or _error(400, 2500, "Unknown path components")

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        if kind == "expired_token":
            return _error(400, 190, "Error validating access token: session has expired", "OAuthException", 463)
        if kind in ("429", "quota_exhausted"):
            return _error(400, 80003, "There have been too many calls to this ad-account")
        return _error(int(kind), 2 if kind == "503" else 1, "An unexpected error has occurred")

    def create(self, call: Call) -> Answer:
        given = _given(call)
        if not call.params["account"].startswith("act_") or not given.get("name") or given.get("subtype") != "CUSTOM":
            return _error(400, 100, "Invalid parameter")
        if given.get("customer_file_source") not in _SUBTYPES:
            return _error(400, 100, "Invalid parameter: customer_file_source", subcode=1870053)
        number = self.store.count(self.system, "audiences")
        id = str(int(AUDIENCE_ID) + number)
        self.store.put(
            self.system, "CustomAudience", [(id, {"name": given["name"], "description": given.get("description", "")})], call.at
        )
        return Answer(200, {"id": id})

    def read(self, call: Call) -> Answer:
        id = call.params["audience"]
        if not self._exists(id):
            return _missing()
        known = self.store.get(self.system, "CustomAudience", [id])
        name = known[id].fields["name"] if known else "Sandbox"
        return Answer(200, {"id": id, "name": name, "operation_status": {"code": 200, "description": "Normal"}})

    def add(self, call: Call) -> Answer:
        return self._change(call, adds=True)

    def remove(self, call: Call) -> Answer:
        return self._change(call, adds=False)

    def _exists(self, id: str) -> bool:
        return id == AUDIENCE_ID or bool(self.store.get(self.system, "CustomAudience", [id]))

    def _change(self, call: Call, adds: bool) -> Answer:
        audience, given = call.params["audience"], _given(call)
        if not self._exists(audience):
            return _missing()
        payload = given.get("payload")
        schema, data = (payload.get("schema"), payload.get("data")) if isinstance(payload, dict) else (None, None)
        schema = [_ALSO.get(schema, schema)] if isinstance(schema, str) else schema
        if not isinstance(schema, list) or not schema or not set(schema) <= _HASHED | _PLAIN or not isinstance(data, list):
            return _error(400, 100, "Invalid parameter: payload")
        if not 1 <= len(data) <= _MAX_ROWS:
            return _error(400, 100, "Invalid parameter: too many rows")
        rows = [row if isinstance(row, list) else [row] for row in data]
        if any(len(row) != len(schema) for row in rows):
            return _error(400, 100, "Invalid parameter: a row does not have the schema's length")
        good = [dict(zip(schema, row, strict=True)) for row in rows]
        good = [row for row in good if _is_valid(row) and not call.row_fails(row)]
        object = f"audience/{audience}"
        if adds:
            self.store.put(self.system, object, [(_id(row), {k: v for k, v in row.items() if v != ""}) for row in good], call.at)
        else:
            for row in good:
                name, value = next((n, row[n]) for n in _IDENTIFIERS if row.get(n))
                found = self.store.find(self.system, object, name, [value])
                self.store.delete(self.system, object, [record.id for group in found.values() for record in group])
        said = given.get("session")
        session: dict[str, Any] = said if isinstance(said, dict) else {}
        return Answer(
            200,
            {
                "audience_id": audience,
                "session_id": str(session.get("session_id", "")),
                "num_received": len(rows),
                "num_invalid_entries": len(rows) - len(good),
                "invalid_entry_samples": {},
            },
        )


def _given(call: Call) -> dict[str, Any]:
    """Query, form or JSON body as one; ``payload`` and ``session`` unfolded. Raises :class:`MalformedError`."""
    given: dict[str, Any] = dict(call.query)
    if call.content_type == "application/json" and call.body:
        body = call.json()
        if not isinstance(body, dict):
            raise MalformedError("not an object")
        given |= body
    elif call.body:
        given |= call.form()
    for name in ("payload", "session"):
        if isinstance(given.get(name), str):
            try:
                given[name] = orjson.loads(given[name])
            except orjson.JSONDecodeError as error:
                raise MalformedError(name) from error
    return given


def _is_valid(row: Mapping[str, Any]) -> bool:
    if not any(row.get(name) for name in _IDENTIFIERS):
        return False
    return all(isinstance(v, str) and (v == "" or n in _PLAIN or _HASH.fullmatch(v)) for n, v in row.items())


def _id(row: Mapping[str, str]) -> str:
    name = next(name for name in _IDENTIFIERS if row.get(name))
    return hashlib.sha256(f"{name}={row[name]}".encode()).hexdigest()[:24]


def _missing() -> Answer:
    return _error(400, 100, "Unsupported request. Object does not exist or permissions are missing", subcode=33)


def _error(status: int, code: int, message: str, kind: str = "FacebookApiException", subcode: int | None = None) -> Answer:
    error = {"message": message, "type": kind, "code": code, "fbtrace_id": "AsandboxTrace"}
    return Answer(status, {"error": error | ({"error_subcode": subcode} if subcode else {})})


def create(store: Any) -> Twin:
    """The twin over a store."""
    return FacebookTwin(store)
