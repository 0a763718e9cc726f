"""What a destination accepts: its key field, and the rules of its fields. Details name fields, never values."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cdp_assets.activation_payloads.tables import TIMESTAMP_TOKEN
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space
from resources.destinations import DestinationConfigError, FieldRule, registry

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_T = TypeVar("_T")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class PayloadError(Exception):
    """The payloads of an activation cannot be built; nothing was written. The message names what to change, never values."""


@dataclass(frozen=True)
class Target:
    """Where an activation's records go. ``fields`` None: the destination checks nothing beforehand."""

    key_field: str
    flag_field: str | None
    fields: Mapping[str, FieldRule] | None


def target_of(space: Space, activation: Activation) -> Target:
    """The activation's target. Raises PayloadError when no field is the destination key."""
    destination = space.config.destinations[activation.destination]
    kind = destination.type
    try:
        capabilities = registry.capabilities(kind, activation.action, destination.settings)
    except DestinationConfigError as error:
        raise PayloadError(f"destination {activation.destination}: {error}") from None
    thing = str(activation.settings.get("object", ""))
    key_field = activation.settings.get("key_field") or _of_object(capabilities.default_key_fields, thing)
    if not key_field:
        raise PayloadError(
            f"activation {activation.key}: {kind} has no default key field for object {thing or '(none)'}; name it in settings.key_field"
        )
    return Target(str(key_field), activation.settings.get("flag_field"), _of_object(capabilities.fields, thing))


def _of_object(known: Mapping[str, _T], thing: str) -> _T | None:
    """What is known of an object; destinations name objects without regard to case."""
    return {name.lower(): value for name, value in known.items()}.get(thing.lower())


def field_problems(payload: Mapping[str, Any], fields: Mapping[str, FieldRule] | None) -> list[str]:
    """What is wrong with a payload for its object, one text per field, in field order. ``"*"`` admits unknown fields."""
    if fields is None:
        return []
    problems = [f"{name} is required" for name in sorted(fields) if fields[name].required and payload.get(name) in (None, "")]
    for name in sorted(payload):
        rule = fields.get(name)
        value = payload[name]
        if rule is None:
            if "*" not in fields:
                problems.append(f"{name} is not a field of the object")
        elif value is not None and not (rule.required and value == ""):
            if not fits(rule.kind, value):
                problems.append(f"{name} is not {_article(rule.kind)}")
            elif rule.max_length is not None and isinstance(value, str) and len(value) > rule.max_length:
                problems.append(f"{name} is longer than {rule.max_length} characters")
    return problems


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def fits(kind: str, value: Any) -> bool:
    """Whether a value is of a kind. Traits from identify calls are texts, so a text that spells the value is one."""
    if kind == "any":
        return True
    if kind == "boolean":
        return isinstance(value, bool) or value in ("true", "false")
    if isinstance(value, bool):
        return False
    if kind in ("number", "integer"):
        try:
            number = float(value)
        except (TypeError, ValueError):
            return False
        return kind == "number" or number.is_integer()
    if kind == "string":
        return isinstance(value, (str, int, float))
    if not isinstance(value, str):
        return False
    if value == TIMESTAMP_TOKEN:
        # What stands there until the message is sent, when it becomes the instant.
        return kind in ("datetime", "date")
    if kind == "email":
        return _EMAIL.fullmatch(value) is not None
    try:
        dt.datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return False
    return kind != "date" or _DATE.match(value) is not None
