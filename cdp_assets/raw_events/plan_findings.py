"""What is wrong in a message by its rule: which field, in which way, and what could be removed. Never a value.

The kinds of violation are Segment's where it names them: ``Required`` and ``Invalid Type``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jsonschema_rs

Path = tuple[str | int, ...]

REQUIRED, INVALID_TYPE = "Required", "Invalid Type"
PATTERN, ENUM, FORMAT, RANGE = "Pattern Mismatch", "Enum Mismatch", "Format Mismatch", "Range Mismatch"
CONDITION = "Condition Mismatch"
UNPLANNED_EVENT, UNPLANNED_PROPERTY, UNPLANNED_TRAIT = "Unplanned Event", "Unplanned Property", "Unplanned Trait"
UNPLANNED_FIELD = "Unplanned Field"
COMMON_SCHEMA = "Common Schema"
VIOLATION_TYPES = (
    REQUIRED,
    INVALID_TYPE,
    PATTERN,
    ENUM,
    FORMAT,
    RANGE,
    CONDITION,
    UNPLANNED_EVENT,
    UNPLANNED_PROPERTY,
    UNPLANNED_TRAIT,
    UNPLANNED_FIELD,
    COMMON_SCHEMA,
)

_KIND_OF_KEYWORD = {
    "required": REQUIRED,
    "type": INVALID_TYPE,
    "pattern": PATTERN,
    "enum": ENUM,
    "const": ENUM,
    "format": FORMAT,
}
_LIMITS = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} keys",
    "maxProperties": "must have at most {} keys",
}


class Finding(NamedTuple):
    """One thing that is wrong. ``removal``: the property or trait whose removal would mend it; None where none would."""

    field: str
    kind: str
    description: str
    # Found by looking for fields without a rule, not by the rule itself.
    unplanned: bool = False
    removal: Path | None = None


def dotted(path: Iterable[str | int]) -> str:
    """A path as the plan writes it: ``properties.products.$.price``, whatever the item's place in its list."""
    return ".".join("$" if isinstance(part, int) else part for part in path)


def unplanned_field(path: Path, *, by_rule: bool = False) -> Finding:
    """A field that the rule does not name. ``by_rule``: the rule's schema itself refuses others."""
    kind = {"properties": UNPLANNED_PROPERTY, "traits": UNPLANNED_TRAIT}.get(str(path[0]), UNPLANNED_FIELD)
    return Finding(dotted(path), kind, "is not planned", not by_rule, path)


def missing(path: Path) -> Finding:
    """A field that must be there."""
    return Finding(dotted(path), REQUIRED, "is required")


UNPLANNED = Finding("event", UNPLANNED_EVENT, "the event is not planned", True)


def findings_of(errors: Iterable[jsonschema_rs.ValidationError], place: Path) -> Iterator[Finding]:
    """The findings of a validator's errors. ``place``: where in the message the validated value stands."""
    for error in errors:
        path = (*place, *error.instance_path)
        detail: Any = error.kind  # each keyword's has attributes of its own
        keyword = detail.name
        if keyword == "required":
            yield missing((*path, detail.property))
        elif keyword == "additionalProperties":
            yield from (unplanned_field((*path, name), by_rule=True) for name in detail.unexpected)
        else:
            kind = RANGE if keyword in _LIMITS else _KIND_OF_KEYWORD.get(keyword, CONDITION)
            # A name that is refused is no value that could be removed by its path.
            removal = None if keyword == "propertyNames" else _innermost_key(path)
            yield Finding(dotted(path), kind, _described(keyword, detail), False, removal)


def nested_too_deeply(place: Path) -> Finding:
    """A value that the validator refuses to walk."""
    return Finding(dotted(place), CONDITION, "is nested too deeply to be checked")


def of_common_schema(finding: Finding) -> Finding:
    """The finding as one of the common schema's."""
    return finding._replace(kind=COMMON_SCHEMA, description=f"{finding.description} (common schema)", unplanned=False)


def _innermost_key(path: Path) -> Path | None:
    """The property that holds the value: removing an item would shift its neighbours."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return path if len(path) > 1 else None


def _described(keyword: str, kind: Any) -> str:
    if keyword in _LIMITS:
        return _LIMITS[keyword].format(kind.value)
    if keyword == "type":
        return f"must be of type {' or '.join(sorted(kind.types))}"
    if keyword == "format":
        return f"must have the format {kind.format}"
    if keyword == "pattern":
        return "must match the planned pattern"
    if keyword in ("enum", "const"):
        return "must be one of the planned values"
    return "must not be there" if keyword == "falseSchema" else f"must satisfy '{keyword}' of its schema"
