"""Builds the desired state of an activation: what each unit should look like at the destination, or why it may not be sent.

Rows stream from the warehouse one batch at a time, ordered by unit, and go to a scratch table; only when all are there do
they replace the activation's rows, in one transaction. A build that fails or is killed leaves the old content.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

from cdp_assets.activation_payloads.audience_rows import Candidate, candidates, condition_nodes
from cdp_assets.activation_payloads.mapping_kit import MappingError, json_text, prepare, reads
from cdp_assets.activation_payloads.mapping_kit.values import text
from cdp_assets.activation_payloads.message import AudienceMessages, row_message
from cdp_assets.activation_payloads.model_rows import ModelRow, model_rows, table_rows, tables_of
from cdp_assets.activation_payloads.people import LATEST
from cdp_assets.activation_payloads.rules import PayloadError, Target, field_problems, target_of
from cdp_assets.activation_payloads.tables import BUILDS, PAYLOAD_BUILDS, PAYLOADS, SCHEMA
from cdp_assets.linked_audiences.tables import BUILDS as AUDIENCE_BUILDS
from cdp_assets.linked_audiences.tables import PATH_ROWS
from cdp_assets.raw_events.tables import any_suppressions
from cdp_assets.space.builds import KIND_CURRENT, record_build
from cdp_assets.space.masking import mask_record
from cdp_assets.space.models import Activation, ColumnSubject
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import suppressed_as_of
from resources.warehouse import TableRef, TableSpec, Warehouse, naive_utc

__all__ = ("PayloadError", "PayloadsResult", "build_payloads")

# A message above this size is not emitted (Segment's limit for audience events).
MAX_MESSAGE_BYTES = 32 * 1024
WRITE_ROWS = 5_000
SAMPLE_ROWS = 5

OK = "ok"
# Verdicts under which no content is kept: nothing of it may leave now or later, and a retract needs key and flag only.
_CONTENT_FREE = frozenset({"suppressed", "consent", "no_subject", "too_large"})


@dataclass(frozen=True)
class PayloadsResult:
    """What a build made. ``withheld``: reason -> units, by reason. ``sample``: masked payloads of the first units.
    ``problems``: withheld details (fields, never values) with their counts, most frequent first."""

    units: int
    ok: int
    withheld: dict[str, int]
    sample: list[dict[str, Any]]
    problems: list[str]


@dataclass(frozen=True)
class _Unit:
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


def build_payloads(
    warehouse: Warehouse,
    space: Space,
    activation_key: str,
    as_of: dt.datetime,
    window_key: str | None,
    definition_revision: str,
    run_id: str,
    loaded_at: dt.datetime,
    consent_as_of_instant: dt.datetime | None = None,
) -> PayloadsResult:
    """Replace the activation's rows of PAYLOADS and its row of PAYLOAD_BUILDS.

    ``window_key``: the audience's partition to read; None for a model. ``consent_as_of_instant``: consent and suppressions known
    before it count; default: all that is known. Raises PayloadError when nothing can be built (audience not built, model key
    not unique, unknown column); the old content then stays.
    """
    activation = space.activations[activation_key]
    warehouse.ensure(PAYLOADS, PAYLOAD_BUILDS, BUILDS)
    target = target_of(space, activation)
    instant = consent_as_of_instant or LATEST
    suppressed = suppressed_as_of(warehouse, space.graph, instant) if any_suppressions(warehouse) else None
    if activation.audience is not None:
        if window_key is None:
            raise PayloadError(f"activation {activation_key}: an audience's payloads need its partition")
        source = _audience_source(warehouse, activation, window_key)
        found = candidates(
            warehouse,
            space,
            activation,
            as_of=as_of,
            window_key=window_key,
            consent_as_of_instant=instant,
            suppressed=suppressed,
        )
        writer = _Writer(warehouse, space, activation, target, as_of, definition_revision)
        writer.write(_audience_units(space, activation, found))
        writer.swap(source, run_id, loaded_at)
        return writer.result()
    with model_rows(warehouse, space, activation, as_of=as_of, consent_as_of_instant=instant, suppressed=suppressed) as rows:
        source = _model_source(warehouse, space, activation, definition_revision, run_id)
        writer = _Writer(warehouse, space, activation, target, as_of, definition_revision)
        writer.write(_row_unit(activation, row) for row in rows.stream)
        writer.swap(source, run_id, loaded_at)
        return writer.result()


# -- where the rows come from ------------------------------------------------------------------------------------------


def _audience_source(warehouse: Warehouse, activation: Activation, window_key: str) -> dict[str, Any]:
    """The audience's materialisation, as PAYLOAD_BUILDS says it. Raises PayloadError when the partition is not built."""
    missing = PayloadError(f"audience {activation.audience} has no build of partition {window_key}; materialise it first")
    if not warehouse.has(AUDIENCE_BUILDS.ref):
        raise missing
    builds = warehouse.table(AUDIENCE_BUILDS.ref)
    own = builds.filter((builds.asset == activation.audience) & (builds.partition_key == window_key))
    rows = warehouse.rows(own, 1)
    if not rows:
        raise missing
    counted = warehouse.table(PATH_ROWS.ref)
    counted = counted.filter((counted.audience == activation.audience) & (counted.partition_key == window_key))
    tables = {row["table_name"]: row["rows"] for row in warehouse.rows(counted.select("table_name", "rows"), 10_000)}
    return {
        "source": activation.audience,
        "source_partition": window_key,
        "source_revision": rows[0]["revision"],
        "source_run_id": rows[0]["run_id"],
        "source_kind": rows[0]["kind"],
        "tables": json.dumps(tables, sort_keys=True),
    }


def _model_source(
    warehouse: Warehouse, space: Space, activation: Activation, definition_revision: str, run_id: str
) -> dict[str, Any]:
    model = space.models[str(activation.model)]
    return {
        "source": activation.model,
        "source_partition": None,
        "source_revision": definition_revision,
        "source_run_id": run_id,
        "source_kind": KIND_CURRENT,
        "tables": json.dumps(table_rows(warehouse, tables_of(model, warehouse.dialect)), sort_keys=True),
    }


def _audience_units(space: Space, activation: Activation, found: Iterator[Candidate]) -> Iterator[_Unit]:
    messages = AudienceMessages(space, activation, condition_nodes(space, activation))
    path = activation.trigger.path
    for candidate in found:
        member = candidate.member
        refused = _refusal(candidate.suppressed, candidate.consents)
        if not refused and activation.identifier not in member.identifiers:
            refused = "no_identifier"
        # Several parents, or several ways to match, still make one pair.
        pairs = list(dict.fromkeys(row.entity_id for row in member.context.get(path, ()))) if path else [None]
        for entity_id in pairs:
            message = messages.message(member, entity_id)
            unit = member.canonical_segment_id if entity_id is None else f"{member.canonical_segment_id}|{path}|{entity_id}"
            yield _Unit(
                unit,
                message,
                messages.exit_of(message),
                refused,
                canonical_segment_id=member.canonical_segment_id,
                path=path,
                entity_id=entity_id,
                identifiers=member.identifiers,
            )


def _row_unit(activation: Activation, row: ModelRow) -> _Unit:
    subject = activation.consent.subject
    about_a_person = isinstance(subject, ColumnSubject)
    refused = _refusal(row.suppressed, row.consents)
    if about_a_person and row.subject is None:
        refused = "no_subject"
    message = row_message(row.values, activation.destination)
    identifiers: dict[str, str] = {}
    if isinstance(subject, ColumnSubject) and row.subject is not None:
        identifiers[subject.identifier_type] = text(row.values[subject.column])
    return _Unit(
        row.row_key,
        message,
        message,
        refused,
        canonical_segment_id=row.subject,
        row_key=row.row_key,
        identifiers=identifiers,
    )


def _refusal(suppressed: bool, consents: bool) -> str:
    if suppressed:
        return "suppressed"
    return "" if consents else "consent"


# -- from a unit to a row ----------------------------------------------------------------------------------------------


class _Writer:
    """Maps units, judges them, writes them to a scratch table, and puts that in place of the activation's rows."""

    def __init__(
        self,
        warehouse: Warehouse,
        space: Space,
        activation: Activation,
        target: Target,
        as_of: dt.datetime,
        definition_revision: str,
    ) -> None:
        self.warehouse = warehouse
        self.activation = activation
        self.target = target
        self.as_of = naive_utc(as_of)
        self.revision = definition_revision
        try:
            self.apply = prepare(activation.mapping)
        except MappingError as error:
            raise PayloadError(f"activation {activation.key}: mapping: {'; '.join(error.errors)}") from None
        self.personal = personal_fields(activation, target.key_field)
        self.verdicts: Counter[str] = Counter()
        self.details: Counter[str] = Counter()
        self.sample: list[dict[str, Any]] = []
        self.scratch = TableRef("cdp_scratch", f"payloads_{activation.key}")

    def write(self, units: Iterator[_Unit]) -> None:
        """All units into the scratch table, a batch at a time."""
        self.warehouse.drop(self.scratch)
        self.warehouse.ensure(TableSpec(self.scratch, PAYLOADS.columns, "scratch", PAYLOADS.subject, personal=PAYLOADS.personal))
        schema = PAYLOADS.schema.to_pyarrow()
        waiting: list[dict[str, Any]] = []
        for unit in units:
            waiting.append(self._row(unit))
            if len(waiting) >= WRITE_ROWS:
                self.warehouse.append(self.scratch, pa.Table.from_pylist(waiting, schema=schema))
                waiting = []
        self.warehouse.append(self.scratch, pa.Table.from_pylist(waiting, schema=schema))

    def swap(self, source: Mapping[str, Any], run_id: str, loaded_at: dt.datetime) -> None:
        """The scratch table in place of the activation's rows, with the record of the build, in one transaction."""
        rows = self.warehouse.table(self.scratch)
        key = self.activation.key
        build = {
            "activation": key,
            "as_of": self.as_of,
            "definition_revision": self.revision,
            **source,
            "rows": self.units,
            "run_id": run_id,
            "loaded_at": naive_utc(loaded_at),
        }
        schema = PAYLOAD_BUILDS.schema.to_pyarrow()
        with self.warehouse.transaction():
            self.warehouse.delete(PAYLOADS.ref, [("activation", "=", key)])
            self.warehouse.insert(PAYLOADS.ref, rows)
            self.warehouse.delete(PAYLOAD_BUILDS.ref, [("activation", "=", key)])
            self.warehouse.append(PAYLOAD_BUILDS.ref, pa.Table.from_pylist([build], schema=schema))
            record_build(
                self.warehouse,
                SCHEMA,
                asset=key,
                partition_key=str(source["source_partition"] or ""),
                as_of=self.as_of.replace(tzinfo=dt.UTC),
                revision=self.revision,
                run_id=run_id,
                rows=self.units,
                loaded_at=loaded_at,
                kind=str(source["source_kind"]),
            )
        self.warehouse.drop(self.scratch)

    @property
    def units(self) -> int:
        return self.verdicts.total()

    def result(self) -> PayloadsResult:
        withheld = {verdict: count for verdict, count in sorted(self.verdicts.items()) if verdict != OK}
        details = sorted(self.details.items(), key=lambda item: (-item[1], item[0]))
        return PayloadsResult(
            self.units, self.verdicts[OK], withheld, self.sample, [f"{count} × {detail}" for detail, count in details]
        )

    def _row(self, unit: _Unit) -> dict[str, Any]:
        verdict, detail = unit.refused, ""
        payload: dict[str, Any] = {}
        exit_payload: dict[str, Any] = {}
        try:
            payload = self._mapped(unit.message)
            # A model's rows have no membership to take back: what leaves is what was there.
            exit_payload = payload if unit.exit_message is unit.message else self._mapped(unit.exit_message)
        except MappingError as error:
            verdict, detail = verdict or "invalid", f"mapping: {error.errors[0]}"
        size = len(_json(unit.message))
        if not verdict and size > MAX_MESSAGE_BYTES:
            verdict, detail = "too_large", f"message of {-(-size // 1024)} KB, at most {MAX_MESSAGE_BYTES // 1024} KB"
        key_value = payload.get(self.target.key_field)
        destination_key = None if key_value is None or key_value == "" else text(key_value)
        if not verdict and destination_key is None:
            verdict, detail = "no_identifier", f"{self.target.key_field} is empty"
        if not verdict:
            problems = field_problems(payload, self.target.fields)
            verdict, detail = ("invalid", "; ".join(problems)) if problems else (OK, "")
        self._count(verdict, detail, payload)
        keep = bool(payload) and verdict not in _CONTENT_FREE
        mapped = _json(payload).decode() if keep else None
        retract = {} if destination_key is None else {self.target.key_field: key_value}
        if retract and self.target.flag_field:
            retract[self.target.flag_field] = False
        return {
            "activation": self.activation.key,
            "unit": unit.unit,
            "canonical_segment_id": unit.canonical_segment_id,
            "path": unit.path,
            "entity_id": unit.entity_id,
            "row_key": unit.row_key,
            "destination_key": destination_key,
            "payload": mapped,
            "payload_hash": hashlib.sha256(mapped.encode()).hexdigest() if mapped is not None else None,
            "exit_payload": _json(exit_payload).decode() if keep else None,
            "retract_payload": _json(retract).decode() if retract else None,
            "identifiers": _json(dict(unit.identifiers)).decode() if keep else None,
            "verdict": verdict,
            "detail": detail,
            "as_of": self.as_of,
            "definition_revision": self.revision,
        }

    def _mapped(self, message: Mapping[str, Any]) -> dict[str, Any]:
        payload = self.apply(message)
        if not isinstance(payload, dict):
            raise MappingError("the mapping does not give an object")
        return payload

    def _count(self, verdict: str, detail: str, payload: Mapping[str, Any]) -> None:
        self.verdicts[verdict] += 1
        if detail:
            # Sizes differ from message to message; the problem is one.
            self.details["message is too large" if verdict == "too_large" else detail] += 1
        if verdict == OK and len(self.sample) < SAMPLE_ROWS:
            self.sample.append(mask_record(payload, self.personal))


def personal_fields(activation: Activation, key_field: str) -> frozenset[str]:
    """The destination fields that may hold what is known of a person: the key, identifiers and traits, and whatever cannot be traced."""
    if activation.model is not None and not isinstance(activation.consent.subject, ColumnSubject):
        return frozenset()
    traits = {*activation.personalization.traits, activation.identifier, "email"}

    def personal(value: Any) -> bool:
        paths = reads(value)
        if paths is None:
            return True
        if isinstance(activation.consent.subject, ColumnSubject):
            return any(path[-1] == activation.consent.subject.column for path in paths)
        return any(path[0] in ("userId", "anonymousId", "context") or len(path) == 1 or path[1] in traits for path in paths)

    return frozenset({key_field, *(name for name, value in activation.mapping.items() if personal(value))})


def _json(value: Any) -> bytes:
    """Canonical JSON: keys sorted, no spaces. Whole numbers too large for 64 bits keep their digits."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=_nothing)
    except TypeError:
        return json_text(value, sort_keys=True).encode()


def _nothing(_value: Any) -> None:
    return None
