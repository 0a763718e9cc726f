"""Computed traits by hand: one definition, one owner, one event at a time, over the rows of a :class:`tests.people.World`.

Nothing of the product is used here: definitions are the plain dicts that their files hold.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from decimal import Decimal
from typing import Any

from tests.people import World

Value = str | float | list[str]

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def canonical(world: World, as_of: dt.datetime) -> dict[str, str]:
    """Profile -> who it is part of at ``as_of`` (naive UTC)."""
    found: dict[str, str] = {}
    for row in sorted(world.profiles, key=lambda row: row["seq"]):
        if row["received_at"] < as_of:
            found[row["segment_id"]] = row["canonical_segment_id"]
    return found


def groups(world: World, as_of: dt.datetime) -> dict[str, list[str]]:
    """Canonical profile -> its groups, the one that was joined last in front; of one instant the first by name."""
    ids, joined = canonical(world, as_of), {}
    for row in world.memberships:
        if row["received_at"] < as_of and row["segment_id"] in ids:
            joined.setdefault(ids[row["segment_id"]], []).append((row["received_at"], row["group_id"]))
    found = {}
    for person, rows in joined.items():
        newest = max(at for at, _ in rows)
        first = min(name for at, name in rows if at == newest)
        found[person] = [first, *sorted({name for _, name in rows} - {first})]
    return found


def expected(world: World, trait: dict[str, Any], as_of: dt.datetime) -> tuple[dict[str, Value], dict[str, Value]]:
    """The trait's values of profiles, and of accounts."""
    ids = canonical(world, as_of)
    belongs = groups(world, as_of)
    histories: dict[str, list[dict[str, Any]]] = {}
    for event in world.events:
        if event["received_at"] >= as_of or event["segment_id"] not in ids or event["event"] != trait.get("event"):
            continue
        person = ids[event["segment_id"]]
        for owner in belongs.get(person, []) if trait.get("level") == "account" else [person]:
            histories.setdefault(owner, []).append(event)
    found = {owner: value for owner, events in histories.items() if (value := of_history(trait, events, as_of)) is not None}
    if trait.get("user_trait"):
        found = most_usual_of_members(world, trait, ids, belongs, as_of)
    if trait.get("level") != "account":
        return found, {}
    members = {person: found[names[0]] for person, names in belongs.items() if names[0] in found}
    return (members if trait.get("members") else {}), found


def most_usual_of_members(
    world: World, trait: dict[str, Any], ids: dict[str, str], belongs: dict[str, list[str]], as_of: dt.datetime
) -> dict[str, Value]:
    newest: dict[str, str | None] = {}
    for row in sorted(world.traits, key=lambda row: row["seq"]):
        if row["received_at"] < as_of and row["segment_id"] in ids and row["name"] == trait["user_trait"]:
            newest[ids[row["segment_id"]]] = row["value"]
    values: dict[str, list[Any]] = {}
    for person, text in newest.items():
        for group in belongs.get(person, []):
            values.setdefault(group, []).append(as_type(text, trait.get("type", "string")))
    found = {}
    for group, listed in values.items():
        value = most_usual([value for value in listed if value is not None], trait)
        if value is not None:
            found[group] = value
    return found


def of_history(trait: dict[str, Any], events: list[dict[str, Any]], as_of: dt.datetime) -> Value | None:
    """The value over one owner's events of the trait's name; None for none."""
    looked = [event for event in events if passes(trait.get("where"), event, as_of)]
    looked.sort(key=lambda event: (event["timestamp"], event["seq"]))
    if "within" in trait:
        span = length(trait["within"]["last"], trait["within"].get("unit", "days"))
        looked = [event for event in looked if as_of - span <= event["timestamp"] <= as_of]
    if "session" in trait:
        looked = session(looked, length(trait["session"]["gap"], trait["session"].get("unit", "minutes")), as_of)
    kind = trait["kind"]
    if kind == "event_counter":
        return float(len(looked))
    if trait["property"] == "timestamp" and kind in ("first", "last"):
        if not looked:
            return None
        return looked[0 if kind == "first" else -1]["timestamp"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    default = "number" if kind == "aggregation" else "string"
    wanted = "string" if kind in ("unique_list", "unique_list_count") else trait.get("type", default)
    values = [
        value for event in looked if (value := as_type(text_of(event["properties"], trait["property"]), wanted)) is not None
    ]
    if kind == "unique_list_count":
        return float(len(set(values)))
    if not values:
        return None
    if kind in ("first", "last"):
        return values[0 if kind == "first" else -1]
    if kind == "unique_list":
        return sorted(set(values), key=lambda value: json.dumps(value, ensure_ascii=False)[1:-1])
    if kind == "most_frequent":
        return most_usual(values, trait)
    return aggregated(trait["function"], values)


def aggregated(function: str, values: list[Any]) -> Any:
    if function in ("min", "max"):
        return min(values) if function == "min" else max(values)
    amounts = [Decimal(repr(value)).quantize(Decimal("1e-9")) for value in values if abs(value) <= 1e18]
    if not amounts:
        return None
    total = float(sum(amounts))
    return total if function == "sum" else total / len(amounts)


def most_usual(values: list[Any], trait: dict[str, Any]) -> Any:
    times = Counter(values)
    often = [value for value in times if times[value] == max(times.values())]
    return min(often) if often and times[often[0]] >= trait.get("min_frequency", 2) else None


def session(events: list[dict[str, Any]], gap: dt.timedelta, as_of: dt.datetime) -> list[dict[str, Any]]:
    """The events of the running session, walking back from now."""
    found: list[dict[str, Any]] = []
    later = as_of
    for event in reversed([event for event in events if event["timestamp"] <= as_of]):
        if later - event["timestamp"] > gap:
            break
        found.insert(0, event)
        later = event["timestamp"]
    return found


def length(amount: int, unit: str) -> dt.timedelta:
    return amount * {"minutes": dt.timedelta(minutes=1), "hours": dt.timedelta(hours=1), "days": dt.timedelta(days=1)}[unit]


def text_of(document: Any, path: str) -> str | None:
    for key in path.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    if document is None or isinstance(document, str):
        return document
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def as_type(text: str | None, wanted: str) -> Any:
    """A text as a value of the type; None where it is none."""
    if text is None or wanted == "string":
        return text
    if wanted == "number":
        return float(text) if NUMBER.fullmatch(text) else None
    if wanted == "boolean":
        return text.lower() if text.lower() in ("true", "false") else None
    instant = instant_of(text)
    return instant and instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def instant_of(text: str | None) -> dt.datetime | None:
    if text is None or not ISO.fullmatch(text):
        return None
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(dt.UTC).replace(tzinfo=None)


def passes(where: dict[str, Any] | None, event: dict[str, Any], as_of: dt.datetime) -> bool:
    if not where:
        return True
    verdicts = [holds(item, event, as_of) for item in where.get("all", where.get("any"))]
    return all(verdicts) if "all" in where else any(verdicts)


def holds(item: dict[str, Any], event: dict[str, Any], as_of: dt.datetime) -> bool:
    context = "context" in item
    text = text_of(event["context" if context else "properties"], item["context" if context else "property"])
    operator, value = item["operator"], item.get("value")
    if operator in ("exists", "absent"):
        return (text is not None) == (operator == "exists")
    if operator == "omits":
        return text is None or value not in text
    if text is None:
        return False
    if operator in ("contains", "starts_with", "ends_with"):
        return {"contains": value in text, "starts_with": text.startswith(value), "ends_with": text.endswith(value)}[operator]
    if operator in ("before_date", "after_date"):
        instant, edge = instant_of(text), instant_of(value)
        assert edge is not None
        return instant is not None and (instant < edge if operator == "before_date" else instant > edge)
    if operator == "within_last":
        instant = instant_of(text)
        return instant is not None and as_of - length(item["amount"], item["unit"]) <= instant <= as_of
    if operator in ("one_of", "none_of"):
        return (text in value) == (operator == "one_of")
    if isinstance(value, bool):
        same = text.lower() == str(value).lower()
        return same == (operator == "equals")
    left: Any = text
    if isinstance(value, int | float):
        left = as_type(text, "number")
        if left is None:
            return False
    elif operator not in ("equals", "differs"):
        left, value = instant_of(text), dt.datetime.fromisoformat(value).replace(tzinfo=None)
        if left is None:
            return False
    return {
        "equals": left == value,
        "differs": left != value,
        "less_than": left < value,
        "at_most": left <= value,
        "greater_than": left > value,
        "at_least": left >= value,
    }[operator]
