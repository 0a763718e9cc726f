"""The Marketo twin: identity, leads, describe, static lists and bulk imports of one subscription.

Schema: the standard lead fields below, fields whose name ends in ``__c`` (as those synced from a CRM), and fields made through
``leads/schema/fields.json``. Almost every answer is HTTP 200; what went wrong is in the body, in string codes.
Not here: custom objects, programs, partitions.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from resources.sandbox import CLIENT_ID, CLIENT_SECRET
from resources.sandbox.marketo_bulk import MOST_BYTES, NUMBERS, ROUTES, Imports, from_text
from resources.sandbox.store import Record, Store, fold
from resources.sandbox.twin import Answer, Call, MalformedError, Twin, bearer

LIST_ID: Final = "900"
_TOKEN_SECONDS: Final = 3600  # [D]
_MAX_RECORDS: Final = 300  # [D]
_MAX_BYTES: Final = 1024 * 1024  # [D]
_MAX_URI: Final = 8 * 1024  # [D]
_MAX_MATCHES: Final = 1000  # [D]
_QUOTA_ZONE: Final = ZoneInfo("America/Chicago")  # the quota's day begins at 00:00 US Central [D]
_LEAD_FIELDS: Final[dict[str, tuple[str, int]]] = {
    "id": ("integer", 0),
    "email": ("email", 255),
    "firstName": ("string", 255),
    "lastName": ("string", 255),
    "title": ("string", 255),
    "phone": ("phone", 255),
    "mobilePhone": ("phone", 255),
    "website": ("url", 255),
    "address": ("text", 2000),
    "city": ("string", 255),
    "state": ("string", 255),
    "country": ("string", 255),
    "postalCode": ("string", 255),
    "leadScore": ("integer", 0),
    "leadSource": ("string", 255),
    "leadStatus": ("string", 255),
    "unsubscribed": ("boolean", 0),
    "dateOfBirth": ("date", 0),
    "externalCompanyId": ("string", 255),
}
# These belong to the company record and cannot be changed through a lead [D].
_COMPANY_FIELDS: Final = {"company", "industry", "annualRevenue", "numberOfEmployees", "billingCity", "billingCountry"}
_ACTIONS: Final = ("createOrUpdate", "createOnly", "updateOnly", "createDuplicate")
_CUSTOM_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,250}__c$")
_EMAIL_SHAPE = re.compile(r"^[^@\s]+@[^@\s.]+(\.[^@\s.]+)+$")
_MESSAGES: Final = {
    "1001": "Invalid value of a field's type",
    "1002": "Missing value for a required parameter",
    "1003": "Invalid data",
    "1004": "Lead not found",
    "1005": "Lead already exists",
    "1006": "Field not found",
    "1007": "Multiple leads match the lookup criteria",
    "1011": "Lookup field is not supported",
    "1013": "Object not found",
    "1015": "Lead is not a member of the list",
    "1021": "Company fields cannot be updated",
    "1022": "Object in use",
    "1036": "Duplicate object found in input",
}


class MarketoTwin(Twin):
    system = "marketo"
    title = "Marketo"
    sign_in = "/identity/"
    # import_milliseconds: from the upload of an import to its work.
    limits = {"daily": 50_000, "calls_per_20_seconds": 100, "concurrent": 10, "import_milliseconds": 300}
    routes = (
        ("GET", "/identity/oauth/token", "token"),
        ("POST", "/identity/oauth/token", "token"),
        ("POST", "/rest/v1/leads.json", "sync_leads"),
        ("GET", "/rest/v1/leads.json", "find_leads"),
        ("GET", "/rest/v1/lead/{id:int}.json", "read_lead"),
        ("POST", "/rest/v1/leads/delete.json", "delete_leads"),
        ("GET", "/rest/v1/leads/describe.json", "describe"),
        ("POST", "/rest/v1/leads/schema/fields.json", "create_fields"),
        ("POST", "/rest/asset/v1/staticLists.json", "create_list"),
        ("GET", "/rest/asset/v1/staticList/{id:int}.json", "read_list"),
        ("POST", "/rest/v1/lists/{id:int}/leads.json", "add_to_list"),
        ("DELETE", "/rest/v1/lists/{id:int}/leads.json", "remove_from_list"),
        ("GET", "/rest/v1/lists/{id:int}/leads.json", "list_members"),
        ("GET", "/rest/v1/lists/{id:int}/leads/ismember.json", "is_member"),
        *ROUTES,
    )

    def __init__(self, store: Store) -> None:
        self._imports = Imports(store, self.system, self._import_rows, self._join_list)
        super().__init__(store)

    def handle(self, call: Call) -> Answer:
        if self.signs_in(call.path):
            return self.dispatch(call) or Answer(404)
        # Sizes are the only thing refused by status [D].
        if len(call.body) > (MOST_BYTES if call.path.startswith("/bulk/") else _MAX_BYTES):
            return Answer(413)
        if len(call.path) + len(urlencode(call.query)) > _MAX_URI:
            return Answer(414)
        if refusal := self._token_refusal(call) or self._throttle(call):
            return self._failure(refusal)
        self._imports.work(call.at, asked=call.path.startswith("/bulk/v1/leads/batch/"))
        try:
            answer = self.dispatch(_as_get(call))
        except MalformedError:
            return self._failure("609")
        if answer is None:
            return self._failure("610")
        if isinstance(answer.body, bytes) or answer.body.get("success"):
            self.store.count(self.system, self._quota_day(call.at))  # calls that failed do not count against the quota [D]
        return answer

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        codes = {"429": "606", "503": "608", "expired_token": "602", "quota_exhausted": "607"}
        if kind == "500":
            return Answer(502, b"<html><body>Bad Gateway</body></html>", {"content-type": "text/html"})
        after = {"Retry-After": str(plan["retry_after"])} if "retry_after" in plan else {}
        answer = self._failure(codes[kind])
        return Answer(answer.status, answer.body, after)

    def _token_refusal(self, call: Call) -> str | None:
        # The access_token query parameter is withdrawn [D]: a token counts in the header only.
        token = bearer(call)
        expires = self.tokens().get(token)
        if not token or expires is None:
            return "601"
        return "602" if expires <= call.at.timestamp() else None

    def _throttle(self, call: Call) -> str | None:
        if call.in_flight > self.limit("concurrent"):
            return "615"
        if self.store.calls_since(self.system, call.at - dt.timedelta(seconds=20)) >= self.limit("calls_per_20_seconds"):
            return "606"
        return "607" if self.store.count(self.system, self._quota_day(call.at), 0) >= self.limit("daily") else None

    @staticmethod
    def _quota_day(at: dt.datetime) -> str:
        return f"day {at.astimezone(_QUOTA_ZONE):%Y-%m-%d}"

    def _request_id(self) -> str:
        number = self.store.count(self.system, "requests")
        return f"{number & 0xFFFF:x}#{0x14272D07D78 + number:x}"

    def _success(self, result: list[dict[str, Any]], **more: Any) -> Answer:
        return Answer(200, {"requestId": self._request_id(), "result": result, "success": True, **more})

    def _failure(self, code: str, message: str = "") -> Answer:
        message = message or _MESSAGES.get(code) or _REQUEST_MESSAGES.get(code, "Error")
        return Answer(200, {"requestId": self._request_id(), "success": False, "errors": [{"code": code, "message": message}]})

    # -- identity ----------------------------------------------------------------------------------------------------

    def token(self, call: Call) -> Answer:
        given = {**dict(call.query), **(call.form() if call.content_type == "application/x-www-form-urlencoded" else {})}
        if given.get("grant_type") != "client_credentials":
            return Answer(400, {"error": "unsupported_grant_type", "error_description": "Unsupported grant type"})
        if (given.get("client_id"), given.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return Answer(401, {"error": "invalid_client", "error_description": "Bad client credentials"})
        # Asked again early, the same token comes back with the rest of its life [D].
        alive = [(token, end) for token, end in self.tokens().items() if end > call.at.timestamp() + 1]
        token, end = alive[0] if alive else (self.issue_token(call.at, _TOKEN_SECONDS), call.at.timestamp() + _TOKEN_SECONDS)
        seconds = min(_TOKEN_SECONDS - 1, int(end - call.at.timestamp()))
        return Answer(200, {"access_token": token, "token_type": "bearer", "expires_in": seconds, "scope": "sandbox@example.com"})

    # -- leads -------------------------------------------------------------------------------------------------------

    def _fields(self) -> dict[str, tuple[str, int]]:
        made = {name: (kind, length) for name, (kind, length) in self.store.value(self.system, "fields", {}).items()}
        return {**_LEAD_FIELDS, **made}

    def sync_leads(self, call: Call) -> Answer:
        if call.content_type != "application/json":
            return self._failure("612")
        body = call.json()
        if not isinstance(body, dict) or not isinstance(body.get("input"), list):
            return self._failure("609")
        rows, action, lookup = body["input"], body.get("action", "createOrUpdate"), body.get("lookupField", "email")
        if not rows:
            return self._failure("609", "Input is empty")
        if len(rows) > _MAX_RECORDS:
            return self._failure("1003", f"At most {_MAX_RECORDS} leads in one call")
        if action not in _ACTIONS or not all(isinstance(row, dict) for row in rows):
            return self._failure("1003")
        fields = self._fields()
        if lookup not in fields and not _CUSTOM_NAME.match(lookup):
            return self._failure("1006", f"Field '{lookup}' not found")
        if lookup == "id" and action != "updateOnly":
            return self._failure("1011")
        return self._success(self._sync(call, rows, action, lookup, fields))

    def _sync(
        self, call: Call, rows: list[dict[str, Any]], action: str, lookup: str, fields: dict[str, tuple[str, int]]
    ) -> list[dict[str, Any]]:
        keys = [fold(row[lookup]) if row.get(lookup) not in (None, "") else None for row in rows]
        wanted = [key for key in keys if key is not None]
        found = (
            {id: [record] for id, record in self.store.get(self.system, "leads", wanted).items()}
            if lookup == "id"
            else self.store.find(self.system, "leads", lookup, wanted)
        )
        counts = Counter(wanted)
        results: list[dict[str, Any]] = []
        writes: list[tuple[int, str | None, dict[str, Any]]] = []
        for n, (row, key) in enumerate(zip(rows, keys, strict=True)):
            matches = found.get(key, []) if key is not None else []
            reason = "1002" if key is None else self._lead_error(row, fields, action, matches)
            if reason is None and key is not None and counts[key] > 1 and action != "createDuplicate" and keys.index(key) != n:
                reason = "1036"
            if reason is None and call.row_fails(row):
                reason = (call.fault or {}).get("code", "1022")
            if reason:
                results.append(_skipped(reason))
                continue
            old = matches[0] if matches and action != "createDuplicate" else None
            values = {name: value for name, value in row.items() if name != "id"}
            writes.append((n, old.id if old else None, {**(old.fields if old else {}), **values}))
            results.append({"status": "updated" if old else "created"})
        self._write(call, writes, results)
        return results

    def _write(self, call: Call, writes: list[tuple[int, str | None, dict[str, Any]]], results: list[dict[str, Any]]) -> None:
        new = sum(id is None for _, id, _ in writes)
        number = self.store.count(self.system, "leads", new) - new
        documents = []
        for n, id, document in writes:
            if id is None:
                number += 1
                id = str(number)
            results[n] = {"id": int(id), **results[n]}
            documents.append((id, {**document, "id": int(id)}))
        self.store.put(self.system, "leads", documents, call.at)

    def _lead_error(
        self, row: dict[str, Any], fields: dict[str, tuple[str, int]], action: str, matches: list[Record]
    ) -> str | None:
        for name, value in row.items():
            if name in _COMPANY_FIELDS:
                return "1021"
            if name not in fields and not _CUSTOM_NAME.match(name):
                return "1006"
            if error := _value_error(value, *fields.get(name, ("any", 2000))):
                return error
        if action == "createDuplicate":
            return None
        if len(matches) > 1:
            return "1007"
        if action == "createOnly" and matches:
            return "1005"
        return "1004" if action == "updateOnly" and not matches else None

    def find_leads(self, call: Call) -> Answer:
        kind, values = call.arg("filterType"), call.args("filterValues")
        if not kind or not values:
            return self._failure("1003", "filterType and filterValues are required")
        if len(values) > _MAX_RECORDS:
            return self._failure("1003", f"At most {_MAX_RECORDS} filter values")
        if kind not in self._fields() and not _CUSTOM_NAME.match(kind):
            return self._failure("1006", f"Field '{kind}' not found")
        if kind == "id":
            found = list(self.store.get(self.system, "leads", values).values())
        else:
            found = [record for group in self.store.find(self.system, "leads", kind, values).values() for record in group]
        if len(found) > _MAX_MATCHES:
            return self._failure("1003", "Too many results match the filter")
        names = call.args("fields") or ["id", "email", "updatedAt", "createdAt", "firstName", "lastName"]
        return self._success([_lead(record, names) for record in sorted(found, key=lambda r: int(r.id))])

    def read_lead(self, call: Call) -> Answer:
        record = self.store.get(self.system, "leads", [call.params["id"]]).get(call.params["id"])
        if record is None:
            return self._failure("1004")
        return self._success([_lead(record, call.args("fields") or list(record.fields))])

    def delete_leads(self, call: Call) -> Answer:
        results = []
        for id, record in self._given_leads(call):
            results.append({"id": id, "status": "deleted"} if record else {"id": id, **_skipped("1004")})
            self.store.delete(self.system, "leads", [str(id)])
        return self._success(results)

    def describe(self, call: Call) -> Answer:
        return self._success(
            [
                {
                    "id": number,
                    "displayName": name,
                    "dataType": kind,
                    **({"length": length} if length else {}),
                    "rest": {"name": name, "readOnly": name == "id"},
                }
                for number, (name, (kind, length)) in enumerate(self._fields().items(), 1)
            ]
        )

    def create_fields(self, call: Call) -> Answer:
        body = call.json()
        if not isinstance(body, dict) or not isinstance(body.get("input"), list):
            return self._failure("609")
        made = self.store.value(self.system, "fields", {})
        results = []
        for field in body["input"]:
            name = field.get("name", "") if isinstance(field, dict) else ""
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or not field.get("dataType") or not field.get("displayName"):
                results.append(_skipped("1003"))
            elif name in self._fields():
                results.append(_skipped("1005"))
            else:
                made[name] = (field["dataType"], 255 if field["dataType"] == "string" else 0)
                results.append({"name": name, "status": "created"})
        self.store.set_value(self.system, "fields", made)
        return self._success(results)

    # -- static lists ------------------------------------------------------------------------------------------------

    def _lists(self) -> dict[str, str]:
        """Names by id. One is there from the beginning, for spaces that name it."""
        return {LIST_ID: "People of the sandbox", **self.store.value(self.system, "lists", {})}

    def create_list(self, call: Call) -> Answer:
        name = call.form().get("name", "")
        if not name:
            return self._failure("702", "name is required")
        id = 1000 + self.store.count(self.system, "lists")
        self.store.set_value(self.system, "lists", {**self._lists(), str(id): name})
        return self._success([{"id": id, "name": name}], errors=[], warnings=[])

    def read_list(self, call: Call) -> Answer:
        name = self._lists().get(call.params["id"])
        if name is None:
            return self._success([], errors=[], warnings=["No assets found for the given search criteria."])
        return self._success([{"id": int(call.params["id"]), "name": name}], errors=[], warnings=[])

    def _given_leads(self, call: Call) -> list[tuple[int, Record | None]]:
        """The leads that a call names, in any of the accepted forms: id=1&id=2, id=1,2, or a JSON body [P, C]."""
        ids = call.args("id")
        if not ids and call.body:
            body = call.json()
            rows = body.get("input") if isinstance(body, dict) else None
            if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
                raise MalformedError("no ids")
            ids = [str(row["id"]) for row in rows]
        if not ids or len(ids) > _MAX_RECORDS or not all(id.isdigit() for id in ids):
            raise MalformedError("no ids")
        records = self.store.get(self.system, "leads", ids)
        return [(int(id), records.get(id)) for id in ids]

    def _list(self, call: Call) -> tuple[str, set[str]] | None:
        if call.params["id"] not in self._lists():
            return None
        object = f"lists/{call.params['id']}"
        return object, {record.id for record in self.store.records(self.system, object)}

    def add_to_list(self, call: Call) -> Answer:
        return self._change_list(call, adding=True)

    def remove_from_list(self, call: Call) -> Answer:
        return self._change_list(call, adding=False)

    def _change_list(self, call: Call, adding: bool) -> Answer:
        known = self._list(call)
        if known is None:
            return self._failure("1013")
        object, members = known
        results = []
        for id, record in self._given_leads(call):
            if record is None:
                results.append({"id": id, **_skipped("1004")})
            elif adding:
                self.store.put(self.system, object, [(str(id), {"id": id})], call.at)
                results.append({"id": id, "status": "added"})
            elif str(id) in members:
                self.store.delete(self.system, object, [str(id)])
                results.append({"id": id, "status": "removed"})
            else:
                results.append({"id": id, **_skipped("1015")})
        return self._success(results)

    def list_members(self, call: Call) -> Answer:
        known = self._list(call)
        if known is None:
            return self._failure("1013")
        records = self.store.get(self.system, "leads", known[1])
        names = call.args("fields") or ["id", "email"]
        return self._success([_lead(record, names) for _, record in sorted(records.items(), key=lambda item: int(item[0]))])

    def is_member(self, call: Call) -> Answer:
        known = self._list(call)
        if known is None:
            return self._failure("1013")
        return self._success(
            [
                {"id": id, **({"status": "memberof" if str(id) in known[1] else "notmemberof"} if record else _skipped("1004"))}
                for id, record in self._given_leads(call)
            ]
        )

    # -- bulk imports ------------------------------------------------------------------------------------------------

    def import_leads(self, call: Call) -> Answer:
        lookup, list_id = call.arg("lookupField", "email"), call.arg("listId")
        if lookup not in self._fields() and not _CUSTOM_NAME.match(lookup):
            return self._failure("1006", f"Field '{lookup}' not found")
        if list_id and list_id not in self._lists():
            return self._failure("1013")
        begun = self._imports.begin(call, lookup, list_id, self.limit("import_milliseconds") / 1000)
        return self._failure(begun) if isinstance(begun, str) else self._success([begun])

    def read_import(self, call: Call) -> Answer:
        job = self._imports.get(call.params["id"])
        return self._success([self._imports.show(job)]) if job else self._failure("1013")

    def read_import_rows(self, call: Call) -> Answer:
        job, what = self._imports.get(call.params["id"]), call.params["what"]
        if job is None or what not in ("failures", "warnings"):
            return self._failure("1013")
        return Answer(200, self._imports.rows(job, what), {"content-type": "text/csv"})

    def _import_rows(
        self, lookup: str, rows: list[dict[str, Any]], fault: dict[str, Any] | None, at: dt.datetime
    ) -> list[tuple[str, str]]:
        fields = self._fields()
        typed = [{name: from_text(name, text, lookup, fields) for name, text in row.items()} for row in rows]
        as_call = Call("POST", "", [], {}, b"", at, "", fault=fault)
        results = self._sync(as_call, typed, "createOrUpdate", lookup, fields)
        # In words, without a code [D].
        return [
            ("", _MESSAGES.get(r["reasons"][0]["code"], "Error")) if r["status"] == "skipped" else (str(r["id"]), "")
            for r in results
        ]

    def _join_list(self, list_id: str, leads: list[str], at: dt.datetime) -> None:
        self.store.put(self.system, f"lists/{list_id}", [(id, {"id": int(id)}) for id in leads], at)


_REQUEST_MESSAGES: Final = {
    "601": "Access token invalid",
    "602": "Access token expired",
    "606": "Max rate limit '100' exceeded with in '20' secs",
    "607": "Daily quota reached",
    "608": "API Temporarily Unavailable",
    "609": "Invalid JSON",
    "610": "Requested resource not found",
    "612": "Invalid Content Type",
    "615": "Concurrent access limit reached",
}


def _as_get(call: Call) -> Call:
    """A POST with ``_method=GET`` is a GET whose form is the query: for filters that do not fit into a URI [D]."""
    form = call.form() if call.content_type == "application/x-www-form-urlencoded" else {}
    given = [*call.query, *form.items()]
    if call.method != "POST" or ("_method", "GET") not in given:
        return call
    return Call(**{**call.__dict__, "method": "GET", "query": given})


def _value_error(value: Any, kind: str, length: int) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | dict):
        return "1001"
    if kind in NUMBERS:
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "1001"
    if kind == "boolean":
        return None if isinstance(value, bool) or value in (0, 1, "true", "false", "0", "1") else "1001"
    if kind in ("date", "datetime"):
        try:
            dt.datetime.fromisoformat(str(value))
        except ValueError:
            return "1001"
        return None
    if kind == "email" and value and not (isinstance(value, str) and value.isascii() and _EMAIL_SHAPE.match(value)):
        return "1003"
    return "1003" if length and len(str(value)) > length else None


def _skipped(code: str) -> dict[str, Any]:
    return {"status": "skipped", "reasons": [{"code": code, "message": _MESSAGES.get(code, "Error")}]}


def _lead(record: Record, names: list[str]) -> dict[str, Any]:
    known = {**record.fields, "id": int(record.id), "createdAt": record.created_at, "updatedAt": record.updated_at}
    return {name: known.get(name) for name in dict.fromkeys(["id", *names])}


def create(store: Any) -> Twin:
    """The twin over a store."""
    return MarketoTwin(store)
