"""What an organisation of the Salesforce twin knows: standard fields, custom names, key fields, checks of values, and ids."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_MAX_CUSTOM_TEXT: Final = 131_072  # the longest long text area [M]


@dataclass(frozen=True)
class Field:
    type: str
    length: int = 0
    required: bool = False


_TEXT, _NUMBER, _BOOLEAN = (lambda n, required=False: Field("string", n, required)), Field("double"), Field("boolean")
_REFERENCE, _DATE, _EMAIL = Field("reference", 18), Field("date"), Field("email", 80)
_ADDRESS = {"Street": _TEXT(255), "City": _TEXT(40), "State": _TEXT(80), "PostalCode": _TEXT(20), "Country": _TEXT(80)}
_COMMON = {"OwnerId": _REFERENCE, "Description": _TEXT(32_000)}
_PERSON = {
    "LastName": _TEXT(80, True),
    "FirstName": _TEXT(40),
    "Salutation": _TEXT(40),
    "Title": _TEXT(128),
    "Email": _EMAIL,
    "Phone": _TEXT(40),
    "MobilePhone": _TEXT(40),
    "LeadSource": _TEXT(255),
    "HasOptedOutOfEmail": _BOOLEAN,
    "DoNotCall": _BOOLEAN,
}
SCHEMA: Final[dict[str, dict[str, Field]]] = {
    "Account": {
        **_COMMON,
        "Name": _TEXT(255, True),
        "AccountNumber": _TEXT(40),
        "AccountSource": _TEXT(255),
        "AnnualRevenue": _NUMBER,
        "Industry": _TEXT(255),
        "NumberOfEmployees": _NUMBER,
        "ParentId": _REFERENCE,
        "Phone": _TEXT(40),
        "Rating": _TEXT(255),
        "Site": _TEXT(80),
        "Type": _TEXT(255),
        "Website": _TEXT(255),
        **{f"Billing{part}": field for part, field in _ADDRESS.items()},
    },
    "Contact": {
        **_COMMON,
        **_PERSON,
        "AccountId": _REFERENCE,
        "Birthdate": _DATE,
        "Department": _TEXT(80),
        **{f"Mailing{part}": field for part, field in _ADDRESS.items()},
    },
    "Lead": {
        **_COMMON,
        **_PERSON,
        **_ADDRESS,
        "Company": _TEXT(255, True),
        "Industry": _TEXT(255),
        "Status": _TEXT(255),
        "Website": _TEXT(255),
    },
}
_CUSTOM_OBJECT: Final = {"Name": _TEXT(80), "OwnerId": _REFERENCE}
KEY_PREFIX: Final = {"Account": "001", "Contact": "003", "Lead": "00Q"}
# Fields besides custom ones that an upsert accepts as key: those with the idLookup property [M].
_ID_LOOKUP: Final = {"Contact": {"Email"}, "Lead": {"Email"}}
CUSTOM_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,76}__c$")
_EMAIL_SHAPE = re.compile(r"^[^@\s]+@[^@\s.]+(\.[^@\s.]+)+$")

Error = dict[str, Any]  # {"statusCode", "message", "fields"}, as in an item of a Collections answer


def no_job_for(object: str, field: str) -> str:
    """Why an upsert job of this object by this field cannot be; nothing when it can."""
    if schema_of(object) is None:
        return f"Unable to find object: {object}"
    return "" if is_key_field(object, field) else f"InvalidIdField: {field} is no external id"


def field_type(object: str, name: str) -> str | None:
    """Type of a field as CSV needs it: any of custom fields, None of one that the object does not have."""
    schema = schema_of(object) or {}
    if name in schema:
        return schema[name].type
    return "any" if CUSTOM_NAME.match(name) else None


def schema_of(object: str) -> dict[str, Field] | None:
    return _CUSTOM_OBJECT if CUSTOM_NAME.match(object) else SCHEMA.get(object)


def known_field(schema: dict[str, Field], name: str) -> bool:
    return name == "Id" or name in schema or bool(CUSTOM_NAME.match(name))


def is_key_field(object: str, name: str) -> bool:
    return bool(CUSTOM_NAME.match(name)) or name in _ID_LOOKUP.get(object, ())


def validate(schema: dict[str, Field], fields: Mapping[str, Any], creating: bool) -> list[Error]:
    errors = []
    for name, value in fields.items():
        if name == "Id" or not known_field(schema, name):
            errors.append(item_error("INVALID_FIELD", f"No such column '{name}' on this sobject", [name]))
        elif value is not None and (error := _value_error(name, value, schema.get(name))):
            errors.append(error)
    missing = [n for n, f in schema.items() if f.required and (fields.get(n) in (None, "") if creating or n in fields else False)]
    if missing:
        errors.append(item_error("REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", missing))
    return errors


def _value_error(name: str, value: Any, field: Field | None) -> Error | None:
    if field is None:
        if isinstance(value, list | dict):
            return _type_error(name)
        return _length_error(name, value, _MAX_CUSTOM_TEXT)
    if field.type == "boolean":
        return None if isinstance(value, bool) else _type_error(name)
    if field.type == "double":
        return None if isinstance(value, int | float) and not isinstance(value, bool) else _type_error(name)
    if not isinstance(value, str):
        return _type_error(name)
    if field.type == "date":
        return None if _is_date(value) else _type_error(name)
    if field.type == "email" and value and not (_EMAIL_SHAPE.match(value) and value.isascii()):
        return item_error("INVALID_EMAIL_ADDRESS", f"{name}: invalid email address", [name])
    if field.type == "reference" and not re.fullmatch(r"[A-Za-z0-9]{15}([A-Za-z0-9]{3})?", value):
        return item_error("MALFORMED_ID", f"{name}: id value of incorrect type", [name])
    return _length_error(name, value, field.length)


def _length_error(name: str, value: Any, most: int) -> Error | None:
    if isinstance(value, str) and len(value) > most:
        return item_error("STRING_TOO_LONG", f"{name}: data value too large (max length={most})", [name])
    return None


def _type_error(name: str) -> Error:
    return item_error("INVALID_TYPE_ON_FIELD_IN_RECORD", f"{name}: value not of required type", [name])  # [M]


def _is_date(value: str) -> bool:
    try:
        dt.date.fromisoformat(value)
    except ValueError:
        return False
    return True


def record_id(prefix: str, number: int) -> str:
    """An 18-character id: prefix, number in base 62, and the checksum of the upper-case letters that the last three carry."""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = alphabet[digit] + digits
    id = prefix + digits.rjust(12, "0")
    sums = (sum(1 << n for n, c in enumerate(id[start : start + 5]) if c.isupper()) for start in (0, 5, 10))
    return id + "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"[s] for s in sums)


def item_error(code: str, message: str, fields: list[str] | None = None) -> Error:
    return {"statusCode": code, "message": message, "fields": fields or []}
