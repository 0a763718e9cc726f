"""The Salesforce twin: OAuth, sObject rows, Collections, ingest jobs, describe, limits and simple SOQL of one organisation.

Schema (``salesforce_schema``): the standard fields of Account, Contact and Lead; every other field must end in ``__c``, and every object whose name
ends in ``__c`` exists, with ``Name``, ``OwnerId`` and any ``__c`` field. Any ``__c`` field can be an external id and is then unique.
Not here: SOAP, relationships by external id.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import orjson

from resources.sandbox import CLIENT_ID, CLIENT_SECRET
from resources.sandbox.salesforce_bulk import ROUTES, IngestJobs, RowResult
from resources.sandbox.salesforce_schema import (
    KEY_PREFIX,
    SCHEMA,
    Error,
    Field,
    field_type,
    is_key_field,
    item_error,
    known_field,
    no_job_for,
    record_id,
    schema_of,
    validate,
)
from resources.sandbox.store import Record, Store, fold
from resources.sandbox.twin import Answer, Call, MalformedError, Twin, bearer

ORGANISATION_ID: Final = "00D000000000001EAA"
_USER_ID: Final = "005000000000001AAA"
_SESSION_SECONDS: Final = 2 * 3600  # an org's default session timeout [M]
_MAX_RECORDS: Final = 200  # [D]
_VERSION = re.compile(r"^/services/data/v(\d+)\.0(?=/|$)")


class SalesforceTwin(Twin):
    system = "salesforce"
    title = "Salesforce"
    sign_in = "/services/oauth2/"
    # bulk_milliseconds: from closing an ingest job to its work.
    limits = {"daily": 100_000, "bulk_milliseconds": 300}
    routes = (
        ("POST", "/services/oauth2/token", "token"),
        ("GET", "/services/data/{version}/limits", "show_limits"),
        ("GET", "/services/data/{version}/query", "query"),
        ("GET", "/services/data/{version}/sobjects", "objects"),
        ("GET", "/services/data/{version}/sobjects/{object}/describe", "describe"),
        ("POST", "/services/data/{version}/sobjects/{object}", "create"),
        ("GET", "/services/data/{version}/sobjects/{object}/{id}", "read"),
        ("PATCH", "/services/data/{version}/sobjects/{object}/{id}", "update"),
        ("DELETE", "/services/data/{version}/sobjects/{object}/{id}", "delete"),
        ("GET", "/services/data/{version}/sobjects/{object}/{field}/{value:path}", "read_by_key"),
        ("PATCH", "/services/data/{version}/sobjects/{object}/{field}/{value:path}", "upsert"),
        ("POST", "/services/data/{version}/composite/sobjects", "collections_create"),
        ("PATCH", "/services/data/{version}/composite/sobjects", "collections_update"),
        ("PATCH", "/services/data/{version}/composite/sobjects/{object}/{field}", "collections_upsert"),
        *ROUTES,
    )

    def __init__(self, store: Store) -> None:
        self._jobs = IngestJobs(store, self.system, self._upsert_rows, no_job_for, field_type)
        super().__init__(store)

    def handle(self, call: Call) -> Answer:
        if len(call.path) > 1 and call.path.endswith(
            "/"
        ):  # simple-salesforce ends its describe and limits paths with a slash [P]
            call = Call(**{**call.__dict__, "path": call.path.rstrip("/")})
        if self.signs_in(call.path):
            return self.dispatch(call) or _error(404, "NOT_FOUND", "The requested resource does not exist")
        if call.path == "/services/data" and call.method == "GET":
            return Answer(200, [{"label": "Spring '26", "url": "/services/data/v66.0", "version": "66.0"}])
        if not self._session_is_alive(call):
            return _error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        version = _VERSION.match(call.path)
        if not version or not 20 <= int(version[1]) <= 66:
            return _error(404, "NOT_FOUND", "The requested resource does not exist")
        used = self.store.count(self.system, f"day {call.at:%Y-%m-%d}")
        if used > self.limit("daily"):
            return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        answer = self._answer(call)
        return Answer(
            answer.status, answer.body, {"Sforce-Limit-Info": f"api-usage={used}/{self.limit('daily')}", **answer.headers}
        )

    def _answer(self, call: Call) -> Answer:
        if call.method in ("POST", "PATCH") and call.content_type != "application/json":
            return _error(415, "UNSUPPORTED_MEDIA_TYPE", "The content type is not supported")
        self._jobs.work(call.at)
        try:
            answer = self.dispatch(call)
        except MalformedError:
            return _error(400, "JSON_PARSER_ERROR", "The body is not what this resource expects")
        return answer or _error(404, "NOT_FOUND", "The requested resource does not exist")

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        after = {"Retry-After": str(plan["retry_after"])} if "retry_after" in plan else {}
        if kind == "expired_token":
            return _error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if kind == "quota_exhausted":
            return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        if kind == "429":
            return _error(429, "REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded.", after)
        if kind == "503":
            return _error(503, "SERVER_UNAVAILABLE", "The server is unavailable. Try again later.", after)
        return _error(500, "UNKNOWN_EXCEPTION", "An unexpected error occurred.")

    def _session_is_alive(self, call: Call) -> bool:
        return self.tokens().get(bearer(call, ("bearer", "oauth")), 0) > call.at.timestamp()

    # -- OAuth -------------------------------------------------------------------------------------------------------

    def token(self, call: Call) -> Answer:
        if call.content_type != "application/x-www-form-urlencoded":
            return _oauth_error("invalid_request", "the body must be form encoded")
        form = call.form()
        grant = form.get("grant_type", "")
        if grant == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            refusal = _assertion_refusal(form.get("assertion", ""), call.at)
        elif grant in ("client_credentials", "password"):
            refusal = _client_refusal(*_client(call, form))
            if not refusal and grant == "password" and not _user_is_known(form):
                refusal = ("invalid_grant", "authentication failure")
        else:
            refusal = ("unsupported_grant_type", "grant type not supported")
        if refusal:
            return _oauth_error(*refusal)
        url = f"{call.base_url}/{self.system}"
        return Answer(
            200,
            {
                "access_token": self.issue_token(call.at, _SESSION_SECONDS, prefix=f"{ORGANISATION_ID[:15]}!"),
                "instance_url": url,
                "id": f"{url}/id/{ORGANISATION_ID}/{_USER_ID}",
                "token_type": "Bearer",
                "issued_at": str(int(call.at.timestamp() * 1000)),
                "signature": base64.b64encode(b"sandbox").decode(),
                "scope": "api",
            },
        )

    # -- read --------------------------------------------------------------------------------------------------------

    def show_limits(self, call: Call) -> Answer:
        used = self.store.count(self.system, f"day {call.at:%Y-%m-%d}", 0)
        most = self.limit("daily")
        return Answer(200, {"DailyApiRequests": {"Max": most, "Remaining": max(0, most - used)}})

    def objects(self, call: Call) -> Answer:
        names = sorted({*SCHEMA, *self.store.sizes(self.system)})
        return Answer(200, {"encoding": "UTF-8", "sobjects": [{"name": n, "custom": n.endswith("__c")} for n in names]})

    def describe(self, call: Call) -> Answer:
        object = call.params["object"]
        schema = schema_of(object)
        if schema is None:
            return _error(404, "NOT_FOUND", "The requested resource does not exist")
        custom = sorted(
            {name for record in self.store.records(self.system, object, 1000) for name in record.fields} - set(schema)
        )
        fields = {"Id": Field("id", 18), **schema, **dict.fromkeys(custom, Field("string", 255))}
        return Answer(
            200,
            {
                "name": object,
                "label": object,
                "custom": object.endswith("__c"),
                "keyPrefix": KEY_PREFIX.get(object, "a00"),
                "createable": True,
                "updateable": True,
                "fields": [
                    {
                        "name": name,
                        "type": field.type,
                        "length": field.length,
                        "nillable": not field.required,
                        "custom": name.endswith("__c"),
                        "externalId": name.endswith("__c"),
                        "idLookup": name == "Id" or is_key_field(object, name),
                        "createable": name != "Id",
                        "updateable": name != "Id",
                    }
                    for name, field in fields.items()
                ],
            },
        )

    def query(self, call: Call) -> Answer:
        parsed = _parse_soql(call.arg("q"))
        if parsed is None:
            return _error(400, "MALFORMED_QUERY", "unexpected token")
        names, object, conditions, limit = parsed
        schema = schema_of(object)
        if schema is None:
            return _error(400, "INVALID_TYPE", f"sObject type '{object}' is not supported.")
        for name in [*names, *(field for field, _ in conditions)]:
            if not known_field(schema, name):
                return _error(400, "INVALID_FIELD", f"No such column '{name}' on entity '{object}'.")
        found = self._select(object, conditions)[:limit]
        rows = [
            {
                "attributes": _attributes(object, record.id, call),
                **{n: record.id if n == "Id" else record.fields.get(n) for n in names},
            }
            for record in found
        ]
        return Answer(200, {"totalSize": len(rows), "done": True, "records": rows})

    def _select(self, object: str, conditions: list[tuple[str, list[str]]]) -> list[Record]:
        if not conditions:
            return self.store.records(self.system, object)
        (first, values), *others = conditions
        if first == "Id":
            found = list(self.store.get(self.system, object, values).values())
        else:
            found = [record for group in self.store.find(self.system, object, first, values).values() for record in group]
        for name, values in others:
            wanted = {fold(value) for value in values}
            found = [r for r in found if fold(r.id if name == "Id" else r.fields.get(name, "")) in wanted]
        return sorted(found, key=lambda record: record.id)

    def read(self, call: Call) -> Answer:
        object, id = call.params["object"], call.params["id"]
        record = self.store.get(self.system, object, [id]).get(id)
        return _not_found() if record is None else Answer(200, _row(record, call))

    def read_by_key(self, call: Call) -> Answer:
        object, field, value = call.params["object"], call.params["field"], call.params["value"]
        if schema_of(object) is None or not is_key_field(object, field):
            return _not_found()
        found = self.store.find(self.system, object, field, [value]).get(fold(value), [])
        if len(found) > 1:
            return _several(found, call)
        return Answer(200, _row(found[0], call)) if found else _not_found()

    # -- write one ---------------------------------------------------------------------------------------------------

    def create(self, call: Call) -> Answer:
        object, fields = call.params["object"], _object(call.json())
        schema = schema_of(object)
        if schema is None:
            return _not_found()
        if errors := validate(schema, fields, creating=True):
            return _top_level(errors)
        id = self._insert(object, [fields], call.at)[0]
        return Answer(201, {"id": id, "success": True, "errors": []})

    def update(self, call: Call) -> Answer:
        object, id, fields = call.params["object"], call.params["id"], _object(call.json())
        schema = schema_of(object)
        record = self.store.get(self.system, object, [id]).get(id)
        if schema is None or record is None:
            return _not_found()
        if errors := validate(schema, fields, creating=False):
            return _top_level(errors)
        self.store.put(self.system, object, [(id, {**record.fields, **fields})], call.at)
        return Answer(204)

    def delete(self, call: Call) -> Answer:
        object, id = call.params["object"], call.params["id"]
        if not self.store.get(self.system, object, [id]):
            return _not_found()
        self.store.delete(self.system, object, [id])
        return Answer(204)

    def upsert(self, call: Call) -> Answer:
        object, field, value = call.params["object"], call.params["field"], call.params["value"]
        fields = _object(call.json())
        schema = schema_of(object)
        if schema is None:
            return _not_found()
        if not is_key_field(object, field):
            return _not_a_key(object, field)
        found = self.store.find(self.system, object, field, [value]).get(fold(value), [])
        if len(found) > 1:
            return _several(found, call)
        if not found and call.arg("updateOnly").lower() == "true":
            return _not_found()
        fields = {**fields, field: value}
        if errors := validate(schema, fields, creating=not found):
            return _top_level(errors)
        if call.row_fails(fields):
            return _top_level([_lock_error(call)])
        if found:
            self.store.put(self.system, object, [(found[0].id, {**found[0].fields, **fields})], call.at)
            return Answer(200, {"id": found[0].id, "success": True, "errors": [], "created": False})
        id = self._insert(object, [fields], call.at)[0]
        return Answer(201, {"id": id, "success": True, "errors": [], "created": True})

    def _insert(self, object: str, rows: list[dict[str, Any]], at: dt.datetime) -> list[str]:
        last = self.store.count(self.system, "ids", len(rows))
        ids = [record_id(KEY_PREFIX.get(object, "a00"), number) for number in range(last - len(rows) + 1, last + 1)]
        self.store.put(self.system, object, zip(ids, rows, strict=True), at)
        return ids

    # -- write many --------------------------------------------------------------------------------------------------

    def collections_upsert(self, call: Call) -> Answer:
        object, field = call.params["object"], call.params["field"]
        if schema_of(object) is None:
            return _not_found()
        if not is_key_field(object, field):
            return _not_a_key(object, field)
        records, all_or_none = _collection(call)
        if len(records) > _MAX_RECORDS:
            return _too_many()
        keys = [fold(r[field]) if r.get(field) not in (None, "") else None for r in records]
        found = self.store.find(self.system, object, field, [key for key in keys if key is not None])
        twice = {key for key, n in Counter(keys).items() if n > 1}
        items: list[dict[str, Any]] = []
        writes: list[tuple[int, str | None, dict[str, Any]]] = []
        for n, (record, key) in enumerate(zip(records, keys, strict=True)):
            fields = {name: value for name, value in record.items() if name != "attributes"}
            matches = found.get(key, []) if key is not None else []
            errors = self._upsert_errors(call, object, field, record, fields, key, key in twice, matches)
            items.append({"success": not errors, "errors": errors})
            if not errors:
                writes.append((n, matches[0].id if matches else None, {**(matches[0].fields if matches else {}), **fields}))
        return self._collection_answer(call, object, items, writes, all_or_none, tells_created=True)

    def _upsert_errors(
        self,
        call: Call,
        object: str,
        field: str,
        record: dict[str, Any],
        fields: dict[str, Any],
        key: str | None,
        twice: bool,
        matches: list[Record],
    ) -> list[Error]:
        if record.get("attributes", {}).get("type") != object:
            return [item_error("INVALID_TYPE", "The record's type is not the resource's")]
        if any(name.lower() == "id" for name in fields):
            return [item_error("INVALID_FIELD", "The Id field should not be specified in an upsert", ["Id"])]
        if key is None:
            return [item_error("MISSING_ARGUMENT", f"{field} not specified", [field])]
        if twice:
            return [item_error("DUPLICATE_VALUE", "Duplicate external id specified", [field])]
        if len(matches) > 1:
            return [item_error("DUPLICATE_EXTERNAL_ID", "A user-specified external id matches several records", [field])]
        errors = validate(schema_of(object) or {}, fields, creating=not matches)
        return errors or ([_lock_error(call)] if call.row_fails(fields) else [])

    def collections_create(self, call: Call) -> Answer:
        return self._collections_by_id(call, creating=True)

    def collections_update(self, call: Call) -> Answer:
        return self._collections_by_id(call, creating=False)

    def _collections_by_id(self, call: Call, creating: bool) -> Answer:
        records, all_or_none = _collection(call)
        if len(records) > _MAX_RECORDS:
            return _too_many()
        types = {record.get("attributes", {}).get("type") for record in records}
        if len(types) != 1 or schema_of(object := str(types.pop())) is None:
            return _error(400, "INVALID_TYPE", "Records must all be of one known type")
        existing = {} if creating else self.store.get(self.system, object, [str(r.get("id", r.get("Id"))) for r in records])
        items, writes = [], []
        for n, record in enumerate(records):
            fields = {name: value for name, value in record.items() if name not in ("attributes", "id", "Id")}
            old = existing.get(str(record.get("id", record.get("Id"))))
            errors = validate(schema_of(object) or {}, fields, creating=creating)
            if not creating and old is None:
                errors = [item_error("ENTITY_IS_DELETED", "entity is deleted")]
            if not errors and call.row_fails(fields):
                errors = [_lock_error(call)]
            items.append({"success": not errors, "errors": errors})
            if not errors:
                writes.append((n, old.id if old else None, {**(old.fields if old else {}), **fields}))
        return self._collection_answer(call, object, items, writes, all_or_none, tells_created=False)

    def _collection_answer(
        self,
        call: Call,
        object: str,
        items: list[dict[str, Any]],
        writes: list[tuple[int, str | None, dict[str, Any]]],
        all_or_none: bool,
        tells_created: bool,
    ) -> Answer:
        if all_or_none and len(writes) < len(items):
            rolled_back = item_error("ALL_OR_NONE_OPERATION_ROLLED_BACK", "Record rolled back because not all records were valid")
            return Answer(200, [item if item["errors"] else {"success": False, "errors": [rolled_back]} for item in items])
        new = iter(self._insert(object, [fields for _, id, fields in writes if id is None], call.at))
        self.store.put(self.system, object, [(id, fields) for _, id, fields in writes if id is not None], call.at)
        for n, id, _ in writes:
            created = {"created": id is None} if tells_created else {}
            items[n] = {"id": id or next(new), "success": True, "errors": [], **created}
        return Answer(200, items)

    # -- ingest jobs -------------------------------------------------------------------------------------------------

    def bulk_create(self, call: Call) -> Answer:
        return self._jobs.create(call)

    def bulk_list(self, call: Call) -> Answer:
        return self._jobs.list(call)

    def bulk_show(self, call: Call) -> Answer:
        return self._jobs.show(call)

    def bulk_change(self, call: Call) -> Answer:
        return self._jobs.change(call, self.limit("bulk_milliseconds") / 1000)

    def bulk_delete(self, call: Call) -> Answer:
        return self._jobs.delete(call)

    def bulk_upload(self, call: Call) -> Answer:
        return self._jobs.upload(call)

    def bulk_results(self, call: Call) -> Answer:
        return self._jobs.results(call)

    def _upsert_rows(
        self, object: str, field: str, rows: list[dict[str, Any]], hit: list[bool], at: dt.datetime
    ) -> list[RowResult]:
        """Upsert of rows with different keys, as a job does it."""
        found = self.store.find(self.system, object, field, [row[field] for row in rows if row.get(field)])
        results: list[RowResult] = []
        for row, fails in zip(rows, hit, strict=True):
            matches = found.get(fold(row[field]), []) if row.get(field) else []
            errors = [] if row.get(field) else [item_error("MISSING_ARGUMENT", f"{field} not specified", [field])]
            if len(matches) > 1:
                errors = [item_error("DUPLICATE_EXTERNAL_ID", "A user-specified external id matches several records", [field])]
            errors = errors or validate(schema_of(object) or {}, row, creating=not matches)
            if fails and not errors:
                errors = [item_error("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")]
            if errors:
                first = errors[0]
                results.append(RowResult(error=f"{first['statusCode']}:{first['message']}:{','.join(first['fields'])} --"))
            elif matches:
                self.store.put(self.system, object, [(matches[0].id, {**matches[0].fields, **row})], at)
                results.append(RowResult(id=matches[0].id))
            else:
                results.append(RowResult(id=self._insert(object, [row], at)[0], created=True))
        return results


# -- requests ---------------------------------------------------------------------------------------------------------


def _client(call: Call, form: Mapping[str, str]) -> tuple[str, str]:
    scheme, _, encoded = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return id, secret
    return form.get("client_id", ""), form.get("client_secret", "")


def _client_refusal(id: str, secret: str) -> tuple[str, str] | None:
    if id != CLIENT_ID:
        return "invalid_client_id", "client identifier invalid"
    return None if secret == CLIENT_SECRET else ("invalid_client", "invalid client credentials")


def _user_is_known(form: Mapping[str, str]) -> bool:
    # A security token may follow the password.
    return form.get("username") == CLIENT_ID and form.get("password", "").startswith(CLIENT_SECRET)


def _assertion_refusal(assertion: str, at: dt.datetime) -> tuple[str, str] | None:
    """The twin knows no certificate, so it judges the claims and the algorithm, not the signature."""
    try:
        head, middle, _ = assertion.split(".")
        header, claims = (orjson.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, middle))
        expires = float(claims["exp"])
        known = header["alg"] == "RS256" and claims["iss"] == CLIENT_ID and claims["sub"] and claims["aud"]
    except (ValueError, KeyError, TypeError):
        return "invalid_grant", "invalid assertion"
    if expires <= at.timestamp():
        return "invalid_grant", "expired authorization code"
    return None if known else ("invalid_grant", "invalid assertion")


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise MalformedError("not an object")
    return {name: value for name, value in body.items() if name != "attributes"}


def _collection(call: Call) -> tuple[list[dict[str, Any]], bool]:
    body = call.json()
    if not isinstance(body, dict) or set(body) - {"allOrNone", "records"} or not isinstance(body.get("records"), list):
        raise MalformedError("not a collection")
    if not all(isinstance(r, dict) and isinstance(r.get("attributes"), dict) for r in body["records"]):
        raise MalformedError("a record without attributes")
    return body["records"], body.get("allOrNone") is True


_SOQL = re.compile(r"^\s*SELECT\s+(.+?)\s+FROM\s+(\w+)(?:\s+WHERE\s+(.+?))?(?:\s+LIMIT\s+(\d+))?\s*$", re.IGNORECASE | re.DOTALL)
_STRING = r"'(?:[^'\\]|\\.)*'"
_CONDITION = re.compile(rf"\s*(\w+)\s*(?:=\s*({_STRING})|IN\s*\(\s*({_STRING}(?:\s*,\s*{_STRING})*)\s*\))\s*", re.IGNORECASE)


def _parse_soql(text: str) -> tuple[list[str], str, list[tuple[str, list[str]]], int | None] | None:
    """(columns, object, conditions joined by AND, limit) of the simple form; None for anything else."""
    match = _SOQL.match(text)
    if not match:
        return None
    conditions: list[tuple[str, list[str]]] = []
    rest = match[3] or ""
    while rest:
        condition = _CONDITION.match(rest)
        if not condition:
            return None
        strings = re.findall(_STRING, condition[2] or condition[3])
        conditions.append((condition[1], [re.sub(r"\\(.)", r"\1", s[1:-1]) for s in strings]))
        rest = rest[condition.end() :]
        if rest:
            joined = re.match(r"AND\s", rest, re.IGNORECASE)
            if not joined:
                return None
            rest = rest[joined.end() :]
    return [name.strip() for name in match[1].split(",")], match[2], conditions, int(match[4]) if match[4] else None


# -- answers ----------------------------------------------------------------------------------------------------------


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, [{"message": message, "errorCode": code}], headers or {})


def _oauth_error(code: str, description: str) -> Answer:
    return Answer(400, {"error": code, "error_description": description})


def _lock_error(call: Call) -> Error:
    code = (call.fault or {}).get("code", "UNABLE_TO_LOCK_ROW")
    return item_error(code, "unable to obtain exclusive access to this record")


def _top_level(errors: list[Error]) -> Answer:
    """Errors of one row, in the form of the resources that take one row: errorCode instead of statusCode."""
    return Answer(400, [{"message": e["message"], "errorCode": e["statusCode"], "fields": e["fields"]} for e in errors])


def _not_found() -> Answer:
    return _error(404, "NOT_FOUND", "The requested resource does not exist")


def _not_a_key(object: str, field: str) -> Answer:
    return _error(400, "INVALID_FIELD", f"Field name provided, {field} does not match an External ID for {object}")


def _too_many() -> Answer:
    return _error(
        400, "EXCEEDED_ID_LIMIT", f"record limit reached. cannot submit more than {_MAX_RECORDS} records in this call"
    )  # [M]


def _several(found: list[Record], call: Call) -> Answer:
    return Answer(300, [_attributes(record.object, record.id, call)["url"] for record in found])


def _attributes(object: str, id: str, call: Call) -> dict[str, str]:
    return {"type": object, "url": f"/services/data/{call.params['version']}/sobjects/{object}/{id}"}


def _row(record: Record, call: Call) -> dict[str, Any]:
    return {"attributes": _attributes(record.object, record.id, call), "Id": record.id, **record.fields}


def create(store: Any) -> Twin:
    """The twin over a store."""
    return SalesforceTwin(store)
