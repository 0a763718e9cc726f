"""The Gainsight twin: Company and low-volume custom objects of one tenant.

Schema: the standard fields of Company below and any field ending in ``__gc``; every object whose name ends in ``__gc`` exists, with
``Name`` and any ``__gc`` field. A write is checked as a whole and refused as a whole. An insert looks at no key: two inserts of one
name are two companies, which is why a client must look first.
Not here: Person, the asynchronous bulk API.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from resources.sandbox import CLIENT_SECRET
from resources.sandbox.store import Record, fold
from resources.sandbox.twin import Answer, Call, MalformedError, Twin

_MAX_RECORDS: Final = 50  # [D]
_MAX_READ: Final = 5000  # [D]
_MAX_KEYS: Final = 3  # [D]
_COMPANY: Final[dict[str, tuple[str, int]]] = {
    "Name": ("string", 250),
    "Industry": ("string", 250),
    "Employees": ("number", 0),
    "Users": ("number", 0),
    "ARR": ("number", 0),
    "CustomerLifetimeInMonths": ("number", 0),
    "LifecycleInWeeks": ("number", 0),
    "OriginalContractDate": ("date", 0),
    "RenewalDate": ("date", 0),
    "Stage": ("string", 250),
    "Status": ("string", 250),
    "CompanyType": ("string", 250),
    "Summary": ("string", 32_000),
    "Tags": ("string", 4000),
    "TickerSymbol": ("string", 250),
    "BillingAddress": ("string", 4000),
    "CurrencyIsoCode": ("string", 3),
    "ParentCompany": ("string", 250),
    "Csm": ("string", 250),
    "SfdcAccountId": ("string", 18),
    "LogoURL": ("string", 2000),
}
_CUSTOM_OBJECT: Final[dict[str, tuple[str, int]]] = {"Name": ("string", 250)}
_CUSTOM_FIELD: Final = ("any", 4000)
_CUSTOM_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,90}__gc$")
_HTML: Final = b"<!DOCTYPE html><html><head><title>Gainsight</title></head><body>Something went wrong</body></html>"
# Codes and meanings of the vendor's list [D].
_DESCRIPTIONS: Final = {
    "GSOBJ_1001": "Field exceeds maximum allowed length",
    "GSOBJ_1002": "Invalid field, please re-check data mapping",
    "GSOBJ_1004": "Either the Gainsight ID is invalid or missing, please re-check your request.",
    "GSOBJ_1006": "Invalid dateTime format",
    "GSOBJ_1007": "Invalid field value",
    "GSOBJ_1008": "Generic data validation error",
}


class GainsightTwin(Twin):
    system = "gainsight"
    title = "Gainsight"
    limits = {"calls_per_minute": 100, "daily": 50_000}
    routes = (
        ("POST", "/v1/data/objects/query/{object}", "query"),
        ("POST", "/v1/data/objects/{object}", "insert"),
        ("PUT", "/v1/data/objects/{object}", "update"),
        ("DELETE", "/v1/data/objects/{object}/{id}", "delete"),
        ("PUT", "/v1.0/api/people", "person"),
    )

    def handle(self, call: Call) -> Answer:
        if call.headers.get("accesskey") != CLIENT_SECRET:
            return self._answer(call, _failure(401, "GU_1401", "Invalid access key"))  # the code is not documented [M]
        return self._answer(call, self._throttle(call) or self._respond(call))

    @staticmethod
    def _answer(call: Call, answer: Answer) -> Answer:
        """A client that does not ask for JSON gets a page, and status 200, where something went wrong [C]."""
        accepted = call.headers.get("accept", "")
        if answer.status >= 400 and "application/json" not in accepted:
            return Answer(200, _HTML, {"content-type": "text/html"})
        return answer

    def _respond(self, call: Call) -> Answer:
        try:
            if call.method in ("POST", "PUT") and call.content_type != "application/json":
                raise MalformedError("not JSON")
            answer = self.dispatch(call)
        except MalformedError:
            return _failure(400, "GSOBJ_1002", "The request body is not valid")
        return answer or _failure(404, "GU_1404", "Not found")

    def _throttle(self, call: Call) -> Answer | None:
        """Fixed windows, as documented: the minute and the day of the clock."""
        minute = self.store.count(self.system, f"minute {call.at:%Y-%m-%dT%H:%M}")
        if minute > self.limit("calls_per_minute"):
            return _failure(429, "GU_2400", "Too many request", {"Retry-After": str(60 - call.at.second)})
        if self.store.count(self.system, f"day {call.at:%Y-%m-%d}") > self.limit("daily"):
            return self.refuse(call, "quota_exhausted", {})
        return None

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        after = {"Retry-After": str(plan["retry_after"])} if "retry_after" in plan else {}
        if kind == "429":
            answer = _failure(429, "GU_2400", "Too many request", after)
        elif kind == "quota_exhausted":
            midnight = (call.at + dt.timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
            answer = _failure(429, "GU_2400", "Too many request", {"Retry-After": str(int((midnight - call.at).total_seconds()))})
        elif kind == "expired_token":  # an access key does not expire, but somebody may make a new one
            answer = _failure(401, "GU_1401", "Invalid access key")
        else:
            answer = _failure(int(kind), "GU_1101", "Internal error", after)
        return self._answer(call, answer)

    # -- objects -----------------------------------------------------------------------------------------------------

    def insert(self, call: Call) -> Answer:
        object = call.params["object"]
        schema = _schema_of(object)
        if schema is None:
            return _failure(400, "GSOBJ_1002")
        records = _records(call)
        if errors := self._errors(call, schema, records, inserting=True):
            return _refused(errors)
        last = self.store.count(self.system, "ids", len(records))
        ids = [f"1P02{number:032X}" for number in range(last - len(records) + 1, last + 1)]
        stored = [{**record, "Gsid": id} for id, record in zip(ids, records, strict=True)]
        self.store.put(self.system, object, zip(ids, stored, strict=True), call.at)
        return _success({"count": len(stored), "errors": None, "records": stored})

    def update(self, call: Call) -> Answer:
        object, keys = call.params["object"], call.args("keys")
        schema = _schema_of(object)
        if schema is None or not 1 <= len(keys) <= _MAX_KEYS or not all(_known(schema, key) for key in keys):
            return _failure(400, "GSOBJ_1002")
        records = _records(call)
        errors = self._errors(call, schema, records, inserting=False)
        found = self.store.find(self.system, object, keys[0], [r[keys[0]] for r in records if r.get(keys[0]) is not None])
        stored = []
        for record in records:
            matches = [
                old
                for old in found.get(fold(record.get(keys[0])), [])
                if all(fold(old.fields.get(key)) == fold(record.get(key)) for key in keys)
            ]
            if len(matches) != 1:  # the documented list has no code of its own for this [M]
                errors.append(
                    _field_error("GSOBJ_1008", keys[0], record.get(keys[0]), "No single record found for the given keys")
                )
            else:
                stored.append((matches[0].id, {**matches[0].fields, **record}))
        if errors:
            return _refused(errors)
        self.store.put(self.system, object, stored, call.at)
        return _success({"count": len(stored), "errors": None, "records": [fields for _, fields in stored]})

    def delete(self, call: Call) -> Answer:
        object, id = call.params["object"], call.params["id"]
        if _schema_of(object) is None or not self.store.get(self.system, object, [id]):
            return _failure(400, "GSOBJ_1004")
        self.store.delete(self.system, object, [id])
        return _success({"count": 1, "errors": None, "records": None})

    def _errors(
        self, call: Call, schema: dict[str, tuple[str, int]], records: list[dict[str, Any]], inserting: bool
    ) -> list[Any]:
        errors = []
        for record in records:
            if inserting and "Name" in schema and schema is _COMPANY and record.get("Name") in (None, ""):
                errors.append(_field_error("GSOBJ_1007", "Name", None))
            for name, value in record.items():
                if not _known(schema, name) or name == "Gsid":
                    errors.append(_field_error("GSOBJ_1002", name, value))
                elif code := _value_error(value, *schema.get(name, _CUSTOM_FIELD)):
                    errors.append(_field_error(code, name, value))
            if call.row_fails(record):
                errors.append(_field_error((call.fault or {}).get("code", "GSOBJ_1008"), next(iter(record), ""), None))
        return errors

    def query(self, call: Call) -> Answer:
        object, body = call.params["object"], call.json()
        schema = _schema_of(object)
        if schema is None or not isinstance(body, dict):
            return _failure(400, "GSOBJ_1002")
        names = body.get("select")
        if not isinstance(names, list) or not names:
            return _failure(400, "GSOBJ_1001", "select is required")  # [C]
        conditions = body.get("where", {}).get("conditions", [])
        if not all(_known(schema, name) for name in [*names, *(c.get("name", "") for c in conditions)]):
            return _failure(400, "GSOBJ_1002")
        found = self._where(object, conditions, body.get("where", {}).get("expression", ""))
        if found is None:
            return _failure(400, "GSOBJ_1008")
        offset, limit = int(body.get("offset", 0)), min(int(body.get("limit", _MAX_READ)), _MAX_READ)
        rows = [{name: record.fields.get(name) for name in names} for record in found[offset : offset + limit]]
        return _success({"count": len(rows), "errors": None, "records": rows})

    def _where(self, object: str, conditions: list[dict[str, Any]], expression: str) -> list[Record] | None:
        """The records that pass conditions joined by AND; None for a form that the twin does not know."""
        aliases = re.split(r"\s+AND\s+", expression) if expression else []
        if sorted(aliases) != sorted(c.get("alias", "") for c in conditions):
            return None
        found: list[Record] | None = None
        for condition in conditions:
            values = condition.get("value")
            operator = condition.get("operator")
            if not isinstance(values, list) or operator not in ("EQ", "IN") or (operator == "EQ" and len(values) != 1):
                return None
            wanted = {fold(value) for value in values}
            if found is None:
                groups = self.store.find(self.system, object, condition["name"], values)
                found = sorted((record for group in groups.values() for record in group), key=lambda record: record.id)
            else:
                found = [record for record in found if fold(record.fields.get(condition["name"])) in wanted]
        return self.store.records(self.system, object) if found is None else found

    # -- people ------------------------------------------------------------------------------------------------------

    def person(self, call: Call) -> Answer:
        """One person, flat; found by the e-mail address, without regard to its case, or made [C]."""
        body = call.json()
        if not isinstance(body, dict):
            raise MalformedError("a person is an object")
        if not _is_address(body.get("Email")) or call.row_fails(body):
            return _refused([_field_error("GSOBJ_1006", "Email", body.get("Email"))])
        id = str(body["Email"]).casefold()
        known = self.store.get(self.system, "Person", [id]).get(id)
        fields = {**(known.fields if known else {"Gsid": f"1P{self.store.count(self.system, 'people'):034}"}), **body}
        self.store.put(self.system, "Person", [(id, fields)], call.at)
        return _success({"id": fields["Gsid"]})


def _schema_of(object: str) -> dict[str, tuple[str, int]] | None:
    if object == "Company":
        return _COMPANY
    return _CUSTOM_OBJECT if _CUSTOM_NAME.match(object) else None


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value) is not None


def _known(schema: dict[str, tuple[str, int]], name: str) -> bool:
    return name == "Gsid" or name in schema or bool(_CUSTOM_NAME.match(name))


def _records(call: Call) -> list[dict[str, Any]]:
    body = call.json()
    records = body.get("records") if isinstance(body, dict) else None
    if not isinstance(records, list) or not 1 <= len(records) <= _MAX_RECORDS or not all(isinstance(r, dict) for r in records):
        raise MalformedError("records")
    return records


def _value_error(value: Any, kind: str, length: int) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | dict):
        return "GSOBJ_1008"
    if kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "GSOBJ_1008"
    if kind == "date":
        try:
            dt.datetime.fromisoformat(str(value))
        except ValueError:
            return "GSOBJ_1006"
        return None if isinstance(value, str) else "GSOBJ_1006"
    return "GSOBJ_1001" if length and len(str(value)) > length else None


def _field_error(code: str, name: str, value: Any, message: str = "") -> dict[str, Any]:
    return {
        "errorMessage": message or _DESCRIPTIONS.get(code, "Error"),
        "errorCode": code,
        "fieldName": name,
        "invalidValue": value,
    }


def _success(data: dict[str, Any]) -> Answer:
    body = {"result": True, "errorCode": None, "errorDesc": None, "requestId": str(uuid.uuid4()), "data": data, "message": None}
    return Answer(200, body)


def _failure(status: int, code: str, description: str = "", headers: Mapping[str, str] | None = None, data: Any = None) -> Answer:
    description = description or _DESCRIPTIONS.get(code, "Error")
    body = {
        "result": False,
        "errorCode": code,
        "errorDesc": description,
        "requestId": str(uuid.uuid4()),
        "data": data,
        "message": None,
    }
    return Answer(status, body, headers or {})


def _refused(errors: list[dict[str, Any]]) -> Answer:
    """The whole call is refused. Whether the outer list follows the records is not documented; here it does not [C]."""
    first = errors[0]
    nested = [[{"success": False, "parsedValue": e["invalidValue"], "errors": [e]} for e in errors]]
    return _failure(400, first["errorCode"], first["errorMessage"], data={"count": 0, "errors": nested, "records": None})


def create(store: Any) -> Twin:
    """The twin over a store."""
    return GainsightTwin(store)
