"""The tracking plan message by message, as its documentation says it, written only to compare with. Shares no code with the product."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from typing import Any

import jsonschema_rs

DOCUMENT = {"track": "properties", "page": "properties", "screen": "properties", "identify": "traits", "group": "traits"}
KINDS = {"required": "Required", "type": "Invalid Type", "pattern": "Pattern Mismatch", "enum": "Enum Mismatch"}
KINDS |= {"const": "Enum Mismatch", "format": "Format Mismatch"}
RANGES = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
KINDS |= dict.fromkeys(
    (*RANGES, *(f"{end}{what}" for end in ("min", "max") for what in ("Length", "Items", "Properties"))), "Range Mismatch"
)


def judge(rules: list[dict[str, Any]], options: dict[str, dict[str, Any]], message: dict[str, Any]) -> dict[str, Any]:
    """What happens to a message: its reason if it does not go on, its violations, and how it looks afterwards."""
    message = copy.deepcopy(message)
    kind, given = message["type"], options.get(message["type"], {})
    protocols = (message.get("context") or {}).get("protocols")
    protocols = protocols if isinstance(protocols, dict) else {}
    before = any(isinstance(protocols.get(n), list) and protocols[n] for n in ("violations", "omitted", "omitted_on_violation"))
    version = protocols.get("event_version")
    original, found, reason = copy.deepcopy(message), [], None
    versions = [r for r in rules if r["type"] == kind.upper() and (kind != "track" or r["key"] == message["event"])]
    if kind in ("page", "screen") and not versions:
        key = "Page Viewed" if kind == "page" else "Screen Viewed"
        versions = [r for r in rules if r["type"] == "TRACK" and r["key"] == key]
    omitted: set[str] = set()
    on_violation: set[str] = set()
    if not versions:
        if kind == "track":
            found.append(("event", "Unplanned Event", "allowed"))
            if given.get("allow_unplanned_events") is False and not before:
                reason = "plan_unplanned_event"
    else:
        schema = _version(versions, version)["jsonSchema"]
        name = DOCUMENT[kind]
        omit = given.get("allow_unplanned_event_properties", given.get("allow_unplanned_traits")) is False
        said = (schema.get("properties") or {}).get(name, True)
        for path in _unplanned(said, message.get(name) or {}, (name,), top=True):
            label = "Unplanned Property" if name == "properties" else "Unplanned Trait"
            found.append((_dotted(path), label, "omitted" if omit else "allowed"))
            if omit:
                omitted.add(_dotted(path))
                _remove(message, path)
        errors = _errors(schema, message)
        fields = {field for field, what, _ in errors if what.startswith("Unplanned")}
        found = [one for one in found if one[0] not in fields]
        if errors and given.get("allow_event_on_violations") is False and not before:
            reason = "plan_violation"
        omit = given.get("allow_properties_on_violations", given.get("allow_traits_on_violations")) is False
        for field, what, path in errors:
            gone = omit and path is not None and path[0] == name and kind in ("track", "identify", "group")
            found.append((field, what, "omitted" if gone else "allowed"))
            if gone:
                on_violation.add(_dotted(path))
        for _, _, path in errors:
            if reason is None and omit and path is not None and path[0] == name and kind in ("track", "identify", "group"):
                _remove(message, path)
    common = [r for r in rules if r["type"] == "COMMON"]
    if common and reason is None:
        errors = _errors(_version(common, version)["jsonSchema"], message)
        option = given.get("common_event_on_violations", "allow")
        if errors and option == "block" and not before:
            reason = "plan_common_violation"
        for field, _, path in errors:
            gone = (
                option.startswith("omit")
                and path is not None
                and path[0] == DOCUMENT.get(kind)
                and kind in ("track", "identify", "group")
            )
            found.append((field, "Common Schema", "omitted" if gone else "allowed"))
            if gone:
                on_violation.add(_dotted(path))
                _remove(message, path)
    if reason is not None:
        return {"reason": reason, "violations": {(f, w, "blocked") for f, w, _ in found}, "message": None}
    if found:
        context = message.get("context") or {}
        there = context.get("protocols") if isinstance(context.get("protocols"), dict) else {}
        said = {"violations": {(w, f) for f, w, _ in found}, "omitted": omitted, "omitted_on_violation": on_violation}
        assert message.get("context", {}) == original.get("context", {})
        return {"reason": None, "violations": set(found), "message": message, "said": said, "there": there}
    return {"reason": None, "violations": set(), "message": original, "said": None, "there": None}


def _version(versions: list[dict[str, Any]], wanted: Any) -> dict[str, Any]:
    ordered = sorted(versions, key=lambda r: r["version"])
    return next((r for r in ordered if type(wanted) is int and r["version"] == wanted), ordered[0])


def _unplanned(schema: Any, value: dict[str, Any], path: tuple, *, top: bool) -> list[tuple]:
    members = _members(schema)
    named: dict[str, list[Any]] = {}
    for member in members:
        for key, child in member.get("properties", {}).items():
            named.setdefault(key, []).append(child)
    loose = any(member.get("additionalProperties", False) is not False for member in members)
    if loose and not named:
        return []
    if not top and not named:
        return []
    found = []
    for key, item in value.items():
        if key not in named:
            if not loose:
                found.append((*path, key))
        elif isinstance(item, dict):
            found += _unplanned({"allOf": named[key]}, item, (*path, key), top=False)
    return found


def _members(schema: Any) -> list[dict[str, Any]]:
    if not isinstance(schema, dict):
        return []
    inner = [*schema.get("allOf", []), *schema.get("anyOf", []), *(schema[k] for k in ("if", "then", "else") if k in schema)]
    return [schema, *(member for one in inner for member in _members(one))]


@lru_cache(maxsize=1000)
def _validator(schema: str) -> jsonschema_rs.Draft7Validator:
    return jsonschema_rs.Draft7Validator(json.loads(schema), validate_formats=True)


def _errors(schema: dict[str, Any], message: dict[str, Any]) -> set[tuple[str, str, tuple | None]]:
    found: set[tuple[str, str, tuple | None]] = set()
    for error in _validator(json.dumps(schema)).iter_errors(json.loads(json.dumps(message))):
        path, word = tuple(error.instance_path), error.kind.name
        if word == "required":
            found.add((_dotted((*path, error.kind.property)), "Required", None))
        elif word == "additionalProperties":
            for name in error.kind.unexpected:
                what = {"properties": "Property", "traits": "Trait"}.get((*path, name)[0], "Field")
                found.add((_dotted((*path, name)), f"Unplanned {what}", (*path, name)))
        else:
            holder = path
            while holder and isinstance(holder[-1], int):
                holder = holder[:-1]
            found.add((_dotted(path), KINDS.get(word, "Condition Mismatch"), holder if len(holder) > 1 else None))
    return found


def _dotted(path: tuple) -> str:
    return ".".join("$" if isinstance(part, int) else part for part in path)


def _remove(value: Any, path: tuple) -> None:
    for part in path[:-1]:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and part < len(value)):
            value = value[part]
        else:
            return
    if isinstance(value, dict):
        value.pop(path[-1], None)
