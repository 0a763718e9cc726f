"""``tracking_plan.json``: which messages are planned and what they must look like, in the form of Segment's Public API.

A rule's schema is JSON Schema draft-07 and describes the whole message: ``context``, ``properties``, ``traits`` and the fields
beside them. Regular expressions are those of RE2: without look-around, linear in the text's length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Literal

import jsonschema_rs
from pydantic import Field

from cdp_assets.space.base import Model
from cdp_assets.space.documents import Document, Place, read_json
from cdp_assets.space.located import did_you_mean, validate
from cdp_assets.space.space import Problem

PAGE_VIEWED, SCREEN_VIEWED = "Page Viewed", "Screen Viewed"
DRAFT_07 = re.compile(r"https?://json-schema\.org/draft-07/schema#?")
# What a message consists of, as far as it is kept.
MESSAGE_FIELDS = (
    "messageId",
    "type",
    "event",
    "userId",
    "anonymousId",
    "groupId",
    "previousId",
    "name",
    "category",
    "timestamp",
    "originalTimestamp",
    "sentAt",
    "receivedAt",
    "properties",
    "traits",
    "context",
    "integrations",
)


class RuleType(StrEnum):
    TRACK = "TRACK"
    IDENTIFY = "IDENTIFY"
    GROUP = "GROUP"
    PAGE = "PAGE"
    SCREEN = "SCREEN"
    COMMON = "COMMON"


class PlanRule(Model):
    """What one kind of message must look like."""

    type: RuleType = Field(description="The call; COMMON: every message.")
    key: str | None = Field(None, min_length=1, description="TRACK: the event's exact name. Others have none.")
    version: int = Field(1, ge=0, description="context.protocols.event_version selects it; the lowest is the default.")
    json_schema: dict[str, Any] = Field(alias="jsonSchema", description="JSON Schema, draft-07, of the whole message.")
    created_at: str | None = Field(None, alias="createdAt")
    updated_at: str | None = Field(None, alias="updatedAt")
    deprecated_at: str | None = Field(None, alias="deprecatedAt")


class TrackingPlan(Model):
    """The plan of a space. At most one rule per type, key and version."""

    id: str = Field(description="The plan's id, e.g. tp_….")
    name: str = ""
    slug: str | None = None
    description: str | None = None
    type: Literal["LIVE", "PROPERTY_LIBRARY", "RULE_LIBRARY", "TEMPLATE", "ENGAGE"] = Field(
        description="Only a LIVE plan can be used."
    )
    created_at: str | None = Field(None, alias="createdAt")
    updated_at: str | None = Field(None, alias="updatedAt")
    rules: tuple[PlanRule, ...] = Field(description="What is planned; events without a rule are unplanned.")


def compile_schema(schema: Any) -> jsonschema_rs.Draft7Validator:
    """A draft-07 validator that asserts formats, reads no other document, and takes no regular expression but RE2's."""
    return jsonschema_rs.Draft7Validator(
        schema, validate_formats=True, pattern_options=jsonschema_rs.RegexOptions(), offline=True
    )


def read_plan(text: str, file: str) -> tuple[TrackingPlan | None, list[Problem]]:
    """The plan of a file, or every reason why it is none. The answer of the API's *list rules* around it is unwrapped."""
    document, problems = read_json(text, file)
    if document is None:
        return None, problems
    if "data" in document.data:
        document, problems = _unwrapped(document)
        if problems:
            return None, problems
    plan, problems = validate(document, TrackingPlan)
    if plan is None:
        return None, problems
    problems = [*_plan_problems(document, plan), *_schema_problems(document, plan)]
    return (None if problems else plan), problems


def _unwrapped(document: Document) -> tuple[Document, list[Problem]]:
    """``{"data": {"trackingPlan": {…}, "rules": […]}}`` as the plan with its rules."""
    envelope = document.data["data"]
    if not isinstance(envelope, dict) or not isinstance(envelope.get("trackingPlan"), dict):
        remedy = 'write the plan itself, or {"data": {"trackingPlan": {…}, "rules": […]}}'
        return document, [Problem(document.file, document.line("data"), "'data' holds no 'trackingPlan'", remedy)]
    pagination = envelope.get("pagination")
    if isinstance(pagination, dict) and pagination.get("next"):
        line = document.line("data", "pagination")
        return document, [Problem(document.file, line, "these are not all rules of the plan", "fetch the pages that follow")]
    data = dict(envelope["trackingPlan"])
    if "rules" in envelope:
        data["rules"] = envelope["rules"]
    lines: dict[Place, int] = {(): document.line("data")}
    for place, line in document.lines.items():
        if place[:2] == ("data", "trackingPlan"):
            lines[place[2:]] = line
        elif place[:2] == ("data", "rules"):
            lines[place[1:]] = line
    return Document(document.file, data, lines), []


def _plan_problems(document: Document, plan: TrackingPlan) -> Iterator[Problem]:
    if plan.type != "LIVE":
        message = f"a plan of type {plan.type} cannot be used"
        yield Problem(document.file, document.line("type"), message, "export the LIVE plan that it belongs to")
    seen: dict[tuple[str, str | None, int], int] = {}
    for index, rule in enumerate(plan.rules):
        line = document.line("rules", index, "key") if rule.key else document.line("rules", index)
        fixed = {RuleType.PAGE: PAGE_VIEWED, RuleType.SCREEN: SCREEN_VIEWED}.get(rule.type)
        if rule.type is RuleType.TRACK and rule.key is None:
            yield Problem(document.file, line, "a TRACK rule has no key", "write the event's exact name")
        elif rule.type is not RuleType.TRACK and rule.key not in (None, fixed):
            remedy = "remove it; names of pages and screens are not planned one by one" if fixed else "remove it"
            yield Problem(document.file, line, f"a {rule.type} rule has a key", remedy)
        place = (rule.type, rule.key if rule.type is RuleType.TRACK else None, rule.version)
        if place in seen:
            named = f"'{rule.key}'" if rule.key else rule.type
            message = f"version {rule.version} of {named} is planned twice, first on line {seen[place]}"
            yield Problem(document.file, line, message, "give it another version, or keep one of them")
        seen.setdefault(place, line)


def _schema_problems(document: Document, plan: TrackingPlan) -> Iterator[Problem]:
    for index, rule in enumerate(plan.rules):
        place: Place = ("rules", index, "jsonSchema")
        problem = _dialect(document, place, rule.json_schema) or _uncompiled(document, place, rule.json_schema)
        if problem is not None:
            yield problem
            continue
        for position, name in enumerate(rule.json_schema.get("required", ())):
            if name not in MESSAGE_FIELDS:
                line = document.line(*place, "required", position)
                message = f"'{name}' is required of the message, but messages are kept without it"
                yield Problem(document.file, line, message, did_you_mean(name, MESSAGE_FIELDS))


def _dialect(document: Document, place: Place, schema: Mapping[str, Any]) -> Problem | None:
    written = schema.get("$schema")
    if written is None or (isinstance(written, str) and DRAFT_07.fullmatch(written)):
        return None
    return Problem(
        document.file,
        document.line(*place, "$schema"),
        "the schema is not of draft-07",
        'write "$schema": "http://json-schema.org/draft-07/schema#", or leave it out',
    )


def _uncompiled(document: Document, place: Place, schema: Mapping[str, Any]) -> Problem | None:
    try:
        compile_schema(schema)
    except jsonschema_rs.ValidationError as error:
        where = tuple(error.instance_path)
        return Problem(document.file, document.line(*place, *where), *_explained(error, schema, where))
    except (jsonschema_rs.ReferencingError, ValueError):
        return Problem(document.file, document.line(*place), "the schema cannot be read", "check its references")
    return None


def _explained(error: jsonschema_rs.ValidationError, schema: Any, where: Place) -> tuple[str, str]:
    written = _at(schema, where)
    called = f"'{where[-1]}'" if where else "the schema"
    if error.schema_path and error.schema_path[-1] in ("format", "pattern") and where:
        texts = [written] if isinstance(written, str) else list(written) if isinstance(written, dict) else []
        if any(re.search(r"\(\?<?[=!]", text) for text in texts):
            return f"{called} has a look-around, which is not supported", "write the expression without (?=, (?!, (?<= and (?<!"
        return f"{called} is not a regular expression", "correct it; RE2 says what is allowed"
    if (not where and "does not exist" in error.message) or "registry" in error.message:
        return "the schema refers to a definition that is not there", "write it below 'definitions'; other files are not read"
    remedy = "a type is one of array, boolean, integer, null, number, object, string" if where and where[-1] == "type" else ""
    return f"{called} is not valid in JSON Schema draft-07", remedy or "see https://json-schema.org/draft-07"


def _at(schema: Any, where: Place) -> Any:
    for part in where:
        try:
            schema = schema[part]
        except (KeyError, IndexError, TypeError):
            return json.dumps(schema)
    return schema
