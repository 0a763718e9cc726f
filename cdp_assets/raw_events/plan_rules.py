"""A tracking plan's rules, compiled: each schema once, taken apart into what it says about each field of a message.

Most schemas are a conjunction over the message's fields (``properties``, ``context``, ``userId``, …). Each field's part is then
judged on the field's distinct values alone, and a field of which the rule says nothing is never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jsonschema_rs
import orjson

from cdp_assets.raw_events.plan_findings import Finding, Path, findings_of, nested_too_deeply, unplanned_field
from cdp_assets.space.tracking_plan import MESSAGE_FIELDS, PlanRule, RuleType, TrackingPlan, compile_schema

# Fields that are JSON objects, kept as text.
DOCUMENTS = ("properties", "traits", "context", "integrations")
# The document whose fields a rule of the type plans.
DOCUMENT_OF_TYPE = {
    "track": "properties",
    "page": "properties",
    "screen": "properties",
    "identify": "traits",
    "group": "traits",
}
_ANNOTATIONS = frozenset({"$schema", "$id", "$comment", "title", "description", "labels", "default", "examples", "definitions"})
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf")
_SCHEMAS = ("if", "then", "else")
_MAX_DEPTH = 8


class Planned:
    """Which keys of an object some schemas name; one level of a document, the levels below on demand."""

    def __init__(self, schemas: Sequence[Any], root: Mapping[str, Any], *, document: bool) -> None:
        self._root = root
        self._children: dict[str, list[Any]] = {}
        self._patterns: dict[str, jsonschema_rs.Draft7Validator] = {}
        self._opened = False
        for schema in schemas:
            self._take(schema, set())
        # An object of which no schema says anything may hold anything; a document itself holds only what is named.
        self.open = self._opened or not (document or self._children or self._patterns)
        self._known: dict[str, Planned] = {}

    def _take(self, schema: Any, seen: set[str]) -> None:
        if not isinstance(schema, dict):
            return
        reference = schema.get("$ref")
        if isinstance(reference, str):
            # In draft-07 nothing counts beside a reference.
            if reference not in seen:
                self._take(_resolved(self._root, reference), seen | {reference})
            return
        for key, child in schema.get("properties", {}).items():
            self._children.setdefault(key, []).append(child)
        self._patterns |= {pattern: compile_schema({"pattern": pattern}) for pattern in schema.get("patternProperties", {})}
        if schema.get("additionalProperties", False) is not False:
            self._opened = True
        for keyword in _SCHEMA_LISTS:
            for member in schema.get(keyword, ()):
                self._take(member, seen)
        for keyword in _SCHEMAS:
            self._take(schema.get(keyword), seen)
        for member in schema.get("dependencies", {}).values():
            self._take(member, seen)

    @property
    def anything(self) -> bool:
        """Whether every key is planned, on every level."""
        return self.open and not self._children

    def as_schema(self, depth: int = 0) -> dict[str, Any] | bool:
        """A schema that refuses exactly the objects with keys that are not planned. Raises RecursionError where there is no end."""
        if self.anything:
            return True
        if depth > _MAX_DEPTH:
            raise RecursionError
        schema: dict[str, Any] = {
            "properties": {key: self._below(key).as_schema(depth + 1) for key in self._children},
            "patternProperties": dict.fromkeys(self._patterns, True),
        }
        return schema if self.open else {**schema, "additionalProperties": False}

    def _below(self, key: str) -> Planned:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Planned(self._children[key], self._root, document=False)
        return known

    def unplanned(self, value: Mapping[str, Any], place: Path) -> Iterator[Path]:
        """Paths of the outermost keys that are not named. Objects in lists are not looked into."""
        for key, item in value.items():
            if key in self._children:
                if type(item) is dict:
                    yield from self._below(key).unplanned(item, (*place, key))
            elif not self.open and not any(pattern.is_valid(key) for pattern in self._patterns.values()):
                yield (*place, key)


def _resolved(root: Any, reference: str) -> Any:
    """What a local reference names; None for anything else."""
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict):
            found = found.get(key)
        else:
            return None
    return found if reference.startswith("#") else None


@dataclass
class Part:
    """What a rule says about ``fields`` of the message: about the value of one, or about an object of several.

    ``planned``: which keys of ``document`` are planned; None if that is not this part's to say.
    """

    fields: tuple[str, ...]
    schema: Any
    planned: Planned | None = None
    document: str = ""

    @property
    def whole(self) -> bool:
        """Whether the part speaks about the message and not about one of its fields."""
        return len(self.fields) > 1

    @property
    def _place(self) -> Path:
        return () if self.whole else self.fields

    @cached_property
    def validator(self) -> jsonschema_rs.Draft7Validator:
        """The schema, compiled."""
        return compile_schema(self.schema)

    @cached_property
    def strict(self) -> jsonschema_rs.Draft7Validator | None:
        """The schema that refuses unplanned keys too; None where that cannot be said as a schema."""
        if self.planned is None:
            return self.validator
        if _has_references(self.schema):
            return None  # they would point elsewhere
        try:
            planned = self.planned.as_schema()
        except RecursionError:
            return None
        return compile_schema({"allOf": [self.schema, {"properties": {self.document: planned}} if self.whole else planned]})

    def accepts(self, value: Any) -> bool:
        """Whether nothing is wrong, as fast as can be said. False for what only :meth:`findings` can tell."""
        try:
            return self.strict is not None and self.strict.is_valid(value)
        except ValueError:  # nested too deeply
            return False

    def findings(self, value: Any, *, omit_unplanned: bool) -> tuple[Finding, ...]:
        """What is wrong, in the order of the fields. ``omit_unplanned``: judge the value without its unplanned keys."""
        found: set[Finding] = set()
        if self.planned is not None:
            place = (self.document,)
            unplanned = list(self.planned.unplanned(value.get(self.document, {}) if self.whole else value, place))
            found.update(unplanned_field(path) for path in unplanned)
            if omit_unplanned:
                remove(value if self.whole else {self.document: value}, unplanned)
        try:
            errors = list(findings_of(self.validator.iter_errors(value), self._place))
        except ValueError:
            errors = [nested_too_deeply(self._place or (self.document,))]
        # What the schema itself refuses is the rule's to judge.
        refused = {error.field for error in errors if error.removal and error.description == "is not planned"}
        return tuple(sorted({*errors, *(one for one in found if one.field not in refused)}, key=finding_order))


def finding_order(finding: Finding) -> tuple[str, ...]:
    """Findings by field, then by what is said of it."""
    return (finding.field, finding.kind, finding.description, repr(finding.removal))


def remove(message: dict[str, Any], paths: Sequence[Path]) -> None:
    """Take the keys at ``paths`` out of a message. A path that another one already took away is passed over."""
    for path in paths:
        holder: Any = message
        for part in path[:-1]:
            try:
                holder = holder[part]
            except (KeyError, IndexError, TypeError):
                holder = None
                break
        if isinstance(holder, dict):
            holder.pop(path[-1], None)


@dataclass(frozen=True)
class CompiledRule:
    """A rule of one version: its parts, and the fields that a message must have. ``version`` None: not of the plan's file."""

    version: int | None = None
    parts: tuple[Part, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def fields(self) -> frozenset[str]:
        """The fields that the rule reads."""
        return frozenset(self.required).union(*(part.fields for part in self.parts))


def compile_rule(rule: PlanRule) -> CompiledRule:
    """The rule's schema, validators built once."""
    schema = rule.json_schema
    document = DOCUMENT_OF_TYPE.get(rule.type.lower(), "") if rule.type is not RuleType.COMMON else ""
    planned = Planned(_of_document(schema, document), schema, document=True) if document else None
    if planned is not None and planned.anything:
        planned = None
    if not _separable(schema):
        return CompiledRule(rule.version, (Part(MESSAGE_FIELDS, schema, planned, document),))
    parts = []
    said = dict(schema.get("properties", {}))
    if planned is not None:
        said.setdefault(document, True)
    for name, part in said.items():
        plans = planned if name == document else None
        if name in MESSAGE_FIELDS and (plans is not None or not _says_nothing(name, part)):
            parts.append(Part((name,), part, plans, document))
    return CompiledRule(rule.version, tuple(parts), tuple(schema.get("required", ())))


def _of_document(schema: Any, document: str, depth: int = 0) -> list[Any]:
    """What a message's schema says about one of its documents, wherever in its conditions it says it."""
    if not isinstance(schema, dict) or depth > 8:
        return []
    found = [schema["properties"][document]] if document in schema.get("properties", {}) else []
    for keyword in _SCHEMA_LISTS:
        for member in schema.get(keyword, ()):
            found += _of_document(member, document, depth + 1)
    for keyword in _SCHEMAS:
        found += _of_document(schema.get(keyword), document, depth + 1)
    return found


def _separable(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is the conjunction of what it says about each field."""
    types = schema.get("type", "object")
    known = set(schema) <= _ANNOTATIONS | {"type", "properties", "required"}
    return known and "object" in ([types] if isinstance(types, str) else types) and not _has_references(schema)


def _has_references(schema: Any) -> bool:
    return b'"$ref"' in orjson.dumps(schema)


def _says_nothing(name: str, schema: Any) -> bool:
    """Whether every message that was accepted obeys: documents are objects and other fields texts by then."""
    if isinstance(schema, bool):
        return schema
    types = schema.get("type")
    kind = "object" if name in DOCUMENTS else "string"
    return set(schema) <= _ANNOTATIONS | {"type"} and (types is None or kind in ([types] if isinstance(types, str) else types))


@dataclass(frozen=True)
class CompiledPlan:
    """The rules by call type and event name, oldest version first; and those of the common schema."""

    rules: Mapping[tuple[str, str | None], Mapping[int, CompiledRule]] = field(default_factory=dict)
    common: Mapping[int, CompiledRule] = field(default_factory=dict)

    def versions(self, kind: str, event: str | None) -> Mapping[int, CompiledRule] | None:
        """The versions of the rule for a message; None if there is none."""
        if kind in ("page", "screen"):
            return self.rules.get((kind, None)) or self.rules.get(("track", event))
        return self.rules.get((kind, event if kind == "track" else None))

    @property
    def versioned(self) -> bool:
        """Whether a message's event_version ever matters."""
        return any(len(versions) > 1 for versions in (*self.rules.values(), self.common))


def select(versions: Mapping[int, CompiledRule], version: int) -> CompiledRule:
    """The rule of the version; without it, the oldest."""
    return versions.get(version) or versions[min(versions)]


def compile_plan(plan: TrackingPlan, planned_events: Sequence[str] = ()) -> CompiledPlan:
    """The plan, with ``planned_events`` planned as they come where it does not plan them itself."""
    rules: dict[tuple[str, str | None], dict[int, CompiledRule]] = {}
    common: dict[int, CompiledRule] = {}
    for rule in plan.rules:
        if rule.type is RuleType.COMMON:
            common[rule.version] = compile_rule(rule)
        else:
            key = (rule.type.lower(), rule.key if rule.type is RuleType.TRACK else None)
            rules.setdefault(key, {})[rule.version] = compile_rule(rule)
    for event in planned_events:
        rules.setdefault(("track", event), {0: CompiledRule()})
    return CompiledPlan(rules, common)
