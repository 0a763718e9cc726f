"""Builds the desired state of an activation: what each unit should look like at the destination, or why it may not be sent.

Rows stream from the warehouse one batch at a time, ordered by unit, and go to a scratch table; only when all are there do
they replace the activation's rows, in one transaction. A build that fails or is killed leaves the old content.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ibis
import ibis.expr.types as ir
import orjson
import pyarrow as pa

from cdp_assets.activation_payloads.audience_columns import AudienceColumns, AudienceMapper, audience_columns
from cdp_assets.activation_payloads.audience_rows import KEY, Asked, candidates
from cdp_assets.activation_payloads.column_mapping import BatchMapper, MappedBatch, fields_of
from cdp_assets.activation_payloads.event_columns import EventMapper
from cdp_assets.activation_payloads.event_rows import event_units
from cdp_assets.activation_payloads.model_rows import ModelRows, model_rows, table_rows, tables_of
from cdp_assets.activation_payloads.people import LATEST
from cdp_assets.activation_payloads.rules import PayloadError, Target, target_of
from cdp_assets.activation_payloads.tables import BUILDS, PAYLOAD_BUILDS, PAYLOADS, SCHEMA, DealtWith
from cdp_assets.activation_payloads.unit_payload import (
    OK,
    Unit,
    UnitMapper,
    UnitPayload,
    audience_units,
    personal_fields,
    row_unit,
)
from cdp_assets.linked_audiences.tables import BUILDS as AUDIENCE_BUILDS
from cdp_assets.linked_audiences.tables import PATH_ROWS
from cdp_assets.raw_events.tables import any_suppressions
from cdp_assets.space.builds import KIND_CURRENT, record_build
from cdp_assets.space.masking import mask_record
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import suppressed_as_of
from resources.warehouse import TableSpec, Warehouse, naive_utc, timestamp_literal
from resources.warehouse import functions as fn

__all__ = ("PayloadError", "PayloadsResult", "build_payloads")

# Columns that the warehouse adds: the same for all, or made of others; the last two in a model's payloads.
_ADDED = ("activation", "as_of", "definition_revision", "payload_hash")
_ADDED_TO_ROWS = ("unit", "exit_payload")
WRITE_ROWS = 5_000
SAMPLE_ROWS = 5


@dataclass(frozen=True)
class PayloadsResult:
    """What a build made. ``withheld``: reason -> units, by reason. ``sample``: masked payloads of the first units.
    ``problems``: withheld details (fields, never values) with their counts, most frequent first."""

    units: int
    ok: int
    withheld: dict[str, int]
    sample: list[dict[str, Any]]
    problems: list[str]


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
    dealt_with: DealtWith | None = None,
) -> PayloadsResult:
    """Replace the activation's rows of PAYLOADS and its row of PAYLOAD_BUILDS.

    ``window_key``: the audience's partition to read; None for a model. ``consent_as_of_instant``: consent and suppressions known
    before it count; default: all that is known. ``dealt_with``: the events of a stream that need nothing more. Raises PayloadError when nothing can be built (audience not built, model key
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
        asked = Asked(as_of, window_key, instant, suppressed)
        writer = _Writer(warehouse, space, activation, target, as_of, definition_revision)
        with audience_columns(warehouse, space, activation, asked) as columns:
            if columns is None:
                writer.write(audience_units(space, activation, candidates(warehouse, space, activation, asked)))
            else:
                writer.write_members(
                    columns, lambda some: audience_units(space, activation, candidates(warehouse, space, activation, asked, some))
                )
        writer.swap(source, run_id, loaded_at)
        return writer.result()
    if activation.events is not None:
        units = event_units(
            warehouse,
            space,
            activation,
            as_of=as_of,
            consent_as_of_instant=instant,
            suppressed=suppressed,
            dealt_with=dealt_with or DealtWith(),
        )
        writer = _Writer(warehouse, space, activation, target, as_of, definition_revision)
        writer.write_events(units)
        writer.swap(_current_source("events", definition_revision, run_id, {}), run_id, loaded_at)
        return writer.result()
    with model_rows(warehouse, space, activation, as_of=as_of, consent_as_of_instant=instant, suppressed=suppressed) as rows:
        source = _model_source(warehouse, space, activation, definition_revision, run_id)
        writer = _Writer(warehouse, space, activation, target, as_of, definition_revision)
        writer.write_rows(rows)
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
    return _current_source(model.key, definition_revision, run_id, table_rows(warehouse, tables_of(model, warehouse.dialect)))


def _current_source(source: str, definition_revision: str, run_id: str, tables: Mapping[str, int]) -> dict[str, Any]:
    """A source that is read by the build itself."""
    return {
        "source": source,
        "source_partition": None,
        "source_revision": definition_revision,
        "source_run_id": run_id,
        "source_kind": KIND_CURRENT,
        "tables": json.dumps(tables, sort_keys=True),
    }


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
        self.as_of = naive_utc(as_of)
        self.revision = definition_revision
        self.target = target
        self.mapper = UnitMapper(activation, target)
        self.personal = personal_fields(activation, target.key_field)
        self.verdicts: Counter[str] = Counter()
        self.details: Counter[str] = Counter()
        self.sample: list[dict[str, Any]] = []
        self.scratch = warehouse.scratch_ref(f"payloads_{activation.key}")
        added = {*_ADDED, *(_ADDED_TO_ROWS if activation.model else ())}
        self.written = {name: kind for name, kind in PAYLOADS.columns.items() if name not in added}

    def write(self, units: Iterator[Unit]) -> None:
        """All units into the scratch table, a batch at a time."""
        self._begin()
        self._append(units)

    def write_events(self, units: Iterator[Unit]) -> None:
        """All events into the scratch table: by column where the mapping allows, else one at a time."""
        self._begin()
        mapper = EventMapper(self.activation, self.target)
        while waiting := list(islice(units, WRITE_ROWS)):
            mapped = mapper.map(waiting)
            if mapped is None:
                self._append(iter(waiting))
            else:
                self.warehouse.append(self.scratch, mapped.rows)
                self._count(mapped)

    def write_rows(self, rows: ModelRows) -> None:
        """All rows of a model into the scratch table: by column where the mapping allows, else one at a time."""
        self._begin()
        activation = self.activation
        fields = fields_of(activation.mapping, rows.columns, activation.destination)
        mapper = BatchMapper(activation, self.target, fields, rows.columns) if fields else None
        for batch in rows.batches:
            mapped = mapper.map(batch) if mapper else None
            if mapped is None:
                self._append(row_unit(activation, row) for row in rows.each(batch))
            else:
                self.warehouse.append(self.scratch, mapped.rows)
                self._count(mapped)

    def write_members(self, columns: AudienceColumns, each: Callable[[ir.Table], Iterator[Unit]]) -> None:
        """All units of an audience: by column, and one at a time those of which only a look at the message tells. ``each``: the units of
        the canonical ids of a table."""
        self._begin()
        mapper = AudienceMapper(self.activation, self.target, columns)
        people, units = set[str](), set[str]()
        for batch in columns.batches:
            mapped = mapper.map(batch)
            if mapped is None:
                people.update(batch.column(KEY).to_pylist())
                units.update(mapper.units_of(batch))
            else:
                self.warehouse.append(self.scratch, mapped.rows)
                self._count(mapped)
        if people:
            with self.warehouse.scratch(pa.table({KEY: sorted(people)})) as some:
                self._append(unit for unit in each(some) if unit.unit in units)
        if columns.large is not None:
            self._append(each(columns.large))

    def _begin(self) -> None:
        self.warehouse.drop(self.scratch)
        self.warehouse.ensure(TableSpec(self.scratch, self.written, "scratch", PAYLOADS.subject, personal=PAYLOADS.personal))

    def _append(self, units: Iterator[Unit]) -> None:
        schema = ibis.schema(self.written).to_pyarrow()
        while waiting := [self._row(self.mapper.map(unit)) for unit in islice(units, WRITE_ROWS)]:
            self.warehouse.append(self.scratch, pa.Table.from_pylist(waiting, schema=schema))

    def swap(self, source: Mapping[str, Any], run_id: str, loaded_at: dt.datetime) -> None:
        """The scratch table in place of the activation's rows, with the record of the build, in one transaction."""
        rows = self.warehouse.table(self.scratch)
        key = self.activation.key
        # Of a model's row there is no membership to take back: what leaves is what was there.
        follows = {"unit": rows.row_key, "exit_payload": rows.payload} if self.activation.model else {}
        rows = rows.mutate(
            activation=ibis.literal(key),
            as_of=timestamp_literal(self.as_of.replace(tzinfo=dt.UTC)),
            definition_revision=ibis.literal(self.revision),
            payload_hash=fn.sha256(rows.payload),
            **follows,
        )
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

    def _row(self, mapped: UnitPayload) -> dict[str, Any]:
        """The row, counted."""
        self._judged([mapped.verdict], [mapped.detail])
        if mapped.verdict == OK and len(self.sample) < SAMPLE_ROWS:
            self.sample.append(mask_record(mapped.payload, self.personal))
        return mapped.row

    def _judged(self, verdicts: Sequence[str], details: Sequence[str]) -> None:
        self.verdicts.update(verdicts)
        # Sizes differ from message to message; the problem is one.
        said = zip(verdicts, details, strict=True)
        self.details.update("message is too large" if verdict == "too_large" else detail for verdict, detail in said if detail)

    def _count(self, mapped: MappedBatch) -> None:
        self._judged(mapped.verdicts, mapped.details)
        good = (place for place, verdict in enumerate(mapped.verdicts) if verdict == OK)
        for place in islice(good, SAMPLE_ROWS - len(self.sample)):
            self.sample.append(mask_record(orjson.loads(mapped.payload(place)), self.personal))
