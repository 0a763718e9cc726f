"""One unit of an activation, from its message to its row: mapped, judged, and with what takes it back. Pure: no warehouse, no clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cdp_assets.activation_payloads.audience_rows import Candidate, condition_nodes
from cdp_assets.activation_payloads.mapping_kit import MappingError, json_text, prepare, reads
from cdp_assets.activation_payloads.mapping_kit.values import text
from cdp_assets.activation_payloads.message import AudienceMessages, row_message
from cdp_assets.activation_payloads.model_rows import ModelRow
from cdp_assets.activation_payloads.rules import PayloadError, Target, field_problems
from cdp_assets.space.models.activations import Activation, ColumnSubject
from cdp_assets.space.space import Space

# A message above this size is not emitted (Segment's limit for audience events).
MAX_MESSAGE_BYTES = 32 * 1024

OK = "ok"
# Verdicts under which no content is kept: nothing of it may leave now or later, and a retract needs key and flag only.
CONTENT_FREE = frozenset({"suppressed", "consent", "no_subject", "too_large"})


@dataclass(frozen=True)
class Unit:
    """A unit before it is mapped. ``refused``: the verdict that needs no mapping, '' for none."""

    unit: str
    message: Mapping[str, Any]
    exit_message: Mapping[str, Any]
    refused: str
    canonical_segment_id: str | None = None
    path: str | None = None
    entity_id: str | None = None
    row_key: str | None = None
    identifiers: Mapping[str, str] = field(default_factory=dict)
    occurred_at: dt.datetime | None = None
    detail: str = ""


@dataclass(frozen=True)
class UnitPayload:
    """What became of a unit. ``row``: its row of PAYLOADS, but for what the warehouse adds. ``payload``: as mapped, also where the verdict forbids to keep it."""

    row: dict[str, Any]
    payload: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        return self.row["verdict"]

    @property
    def detail(self) -> str:
        return self.row["detail"]


def audience_units(space: Space, activation: Activation, found: Iterable[Candidate]) -> Iterator[Unit]:
    messages = AudienceMessages(space, activation, condition_nodes(space, activation))
    path = activation.trigger.path
    for candidate in found:
        member = candidate.member
        refused = refusal(candidate.suppressed, candidate.consents)
        if not refused and activation.identifier not in member.identifiers:
            refused = "no_identifier"
        # Several parents, or several ways to match, still make one pair.
        pairs = list(dict.fromkeys(row.entity_id for row in member.context.get(path, ()))) if path else [None]
        for entity_id in pairs:
            message = messages.message(member, entity_id)
            yield Unit(
                unit_of(member.canonical_segment_id, path, entity_id),
                message,
                messages.exit_of(message),
                refused,
                canonical_segment_id=member.canonical_segment_id,
                path=path,
                entity_id=entity_id,
                identifiers=member.identifiers,
            )


def unit_of(person: str, path: str | None, entity_id: str | None) -> str:
    """The unit of a member, or of a member's entity at a path."""
    return person if entity_id is None else f"{person}|{path}|{entity_id}"


def row_unit(activation: Activation, row: ModelRow) -> Unit:
    subject = activation.consent.subject
    about_a_person = isinstance(subject, ColumnSubject)
    refused = refusal(row.suppressed, row.consents)
    if about_a_person and row.subject is None:
        refused = "no_subject"
    message = row_message(row.values, activation.destination)
    identifiers: dict[str, str] = {}
    if isinstance(subject, ColumnSubject) and row.subject is not None:
        identifiers[subject.identifier_type] = text(row.values[subject.column])
    return Unit(
        row.row_key,
        message,
        message,
        refused,
        canonical_segment_id=row.subject,
        row_key=row.row_key,
        identifiers=identifiers,
    )


def event_unit(
    activation: Activation,
    message: Mapping[str, Any],
    person: Mapping[str, str],
    *,
    subject: str | None,
    refused: str = "",
    detail: str = "",
    occurred_at: dt.datetime | None = None,
) -> Unit:
    """The unit of a raw event. ``person``: identifiers and traits of its profile, by name; the message gets those that it lacks."""
    context = message.get("context")
    context = context if isinstance(context, dict) else {}
    own = context.get("traits")
    said = {**person, **(own if isinstance(own, dict) else {})}
    known = {**message, "context": {**context, "traits": said}}
    if "userId" not in known and "user_id" in person:
        known["userId"] = person["user_id"]
    if not refused and activation.identifier not in person:
        refused = "no_identifier"
    message_id = text(message["messageId"])
    return Unit(
        message_id,
        known,
        known,
        refused,
        canonical_segment_id=subject,
        row_key=message_id,
        identifiers={kind: person[kind] for kind in ("user_id", "email", activation.identifier) if kind in person},
        occurred_at=occurred_at,
        detail=detail,
    )


def refusal(suppressed: bool, consents: bool) -> str:
    """The verdict of a person who may not be sent to, '' of others."""
    if suppressed:
        return "suppressed"
    return "" if consents else "consent"


def too_large(message: Mapping[str, Any]) -> str:
    """Why a message may not be emitted for its size, '' where it may."""
    size = len(canonical_json(message))
    return f"message of {-(-size // 1024)} KB, at most {MAX_MESSAGE_BYTES // 1024} KB" if size > MAX_MESSAGE_BYTES else ""


class UnitMapper:
    """Maps and judges the units of one activation. Raises PayloadError for a mapping that is none."""

    def __init__(self, activation: Activation, target: Target) -> None:
        self.activation, self.target = activation, target
        try:
            self._apply = prepare(activation.mapping)
        except MappingError as error:
            raise PayloadError(f"activation {activation.key}: mapping: {'; '.join(error.errors)}") from None

    def map(self, unit: Unit) -> UnitPayload:
        """The unit's row. Never raises for what a unit holds: that is its verdict."""
        verdict, detail = unit.refused, unit.detail
        payload: dict[str, Any] = {}
        exit_payload: dict[str, Any] = {}
        try:
            payload = self._mapped(unit.message)
            # A model's rows have no membership to take back: what leaves is what was there.
            exit_payload = payload if unit.exit_message is unit.message else self._mapped(unit.exit_message)
        except MappingError as error:
            verdict, detail = verdict or "invalid", f"mapping: {error.errors[0]}"
        if not verdict and (why := too_large(unit.message)):
            verdict, detail = "too_large", why
        key_value = payload.get(self.target.key_field)
        destination_key = None if key_value is None or key_value == "" else text(key_value)
        if not verdict and destination_key is None:
            verdict, detail = "no_identifier", f"{self.target.key_field} is empty"
        if not verdict:
            problems = field_problems(payload, self.target.fields)
            verdict, detail = ("invalid", "; ".join(problems)) if problems else (OK, "")
        keep = bool(payload) and verdict not in CONTENT_FREE
        mapped = canonical_json(payload).decode() if keep else None
        # What has happened cannot be taken back.
        retract = {} if destination_key is None or self.activation.events else {self.target.key_field: key_value}
        if retract and self.target.flag_field:
            retract[self.target.flag_field] = False
        row = {
            "unit": unit.unit,
            "canonical_segment_id": unit.canonical_segment_id,
            "path": unit.path,
            "entity_id": unit.entity_id,
            "row_key": unit.row_key,
            "destination_key": destination_key,
            "payload": mapped,
            "exit_payload": canonical_json(exit_payload).decode() if keep and not self.activation.events else None,
            "retract_payload": canonical_json(retract).decode() if retract else None,
            "identifiers": canonical_json(dict(unit.identifiers)).decode() if keep else None,
            "verdict": verdict,
            "detail": detail,
            "occurred_at": unit.occurred_at,
        }
        return UnitPayload(row, payload)

    def _mapped(self, message: Mapping[str, Any]) -> dict[str, Any]:
        payload = self._apply(message)
        if not isinstance(payload, dict):
            raise MappingError("the mapping does not give an object")
        return payload


def personal_fields(activation: Activation, key_field: str) -> frozenset[str]:
    """The destination fields that may hold what is known of a person: the key, identifiers and traits, and whatever cannot be traced."""
    if activation.model is not None and not isinstance(activation.consent.subject, ColumnSubject):
        return frozenset()
    if activation.events is not None:  # anything that an event says may be about its person
        return frozenset({key_field, *(name for name, value in activation.mapping.items() if reads(value) != frozenset())})
    traits = {*activation.personalization.traits, activation.identifier, "email"}

    def personal(value: Any) -> bool:
        paths = reads(value)
        if paths is None:
            return True
        if isinstance(activation.consent.subject, ColumnSubject):
            return any(path[-1] == activation.consent.subject.column for path in paths)
        return any(path[0] in ("userId", "anonymousId", "context") or len(path) == 1 or path[1] in traits for path in paths)

    return frozenset({key_field, *(name for name, value in activation.mapping.items() if personal(value))})


def canonical_json(value: Any) -> bytes:
    """Canonical JSON: keys sorted, no spaces. Whole numbers too large for 64 bits keep their digits."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=_nothing)
    except TypeError:
        return json_text(value, sort_keys=True).encode()


def _nothing(_value: Any) -> None:
    return None
