"""The raw events that an activation sends and that no sync has dealt with, each with its person, as units.

The condition's fixed types and names are asked of the warehouse; the rest of it is judged message by message, as the conditions of
filters and transformations are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.activation_payloads import people
from cdp_assets.activation_payloads.message import plain
from cdp_assets.activation_payloads.rules import PayloadError
from cdp_assets.activation_payloads.tables import DealtWith
from cdp_assets.activation_payloads.unit_payload import Unit, event_unit, refusal
from cdp_assets.raw_events.tables import LANDING_FILES, MESSAGES
from cdp_assets.space.fql import FqlError
from cdp_assets.space.message_rows import COLUMNS, RowDocument
from cdp_assets.space.models.activations import Activation, EventStream
from cdp_assets.space.space import Space
from cdp_assets.space.transforming import Judge, TransformationError, Withheld, for_destination
from cdp_assets.unified_profiles.tables import events_as_of
from resources.warehouse import Warehouse, timestamp_literal

BATCH_ROWS = 10_000


def event_units(
    warehouse: Warehouse,
    space: Space,
    activation: Activation,
    *,
    as_of: dt.datetime,
    consent_as_of_instant: dt.datetime,
    suppressed: ir.Table | None,
    dealt_with: DealtWith,
) -> Iterator[Unit]:
    """The units, in order of their messages, without those that are dealt with.

    A message without a person yet is withheld (no_subject), and comes again. Raises PayloadError when a transformation of the
    destination cannot run.
    """
    stream = activation.events
    assert stream is not None
    judge = Judge(stream.where)
    sent = sent_messages(space, activation, judge)
    rows = _messages(warehouse, stream, judge, as_of, dealt_with)
    rows, traits = _with_people(warehouse, space, activation, rows, as_of, consent_as_of_instant, suppressed)
    for batch in warehouse.batches(rows.order_by("occurred_at", "received_at", "message_id"), BATCH_ROWS):
        for row in batch.to_pylist():
            found = sent(RowDocument(row), row["source"])
            if found is None:
                continue
            message, detail = found
            person = {name: row[column] for column, name in traits.items() if row[column] is not None}
            yield event_unit(
                activation,
                message,
                person,
                subject=row["subject"],
                refused="filter" if detail else _refusal(row),
                detail=detail,
                occurred_at=row["occurred_at"],
            )


def sent_messages(
    space: Space, activation: Activation, judge: Judge
) -> Callable[[Mapping[str, Any], str | None], tuple[Mapping[str, Any], str] | None]:
    """(message, source) -> the message as the destination gets it, and why it is held back ('': it is not); None for one that is not meant.

    Raises PayloadError when a transformation of the destination cannot run.
    """
    try:
        transformed = for_destination(space.transformations, activation.destination)
    except TransformationError as error:
        raise PayloadError(f"activation {activation.key}: {error}") from None

    def sent(document: Mapping[str, Any], source: str | None) -> tuple[Mapping[str, Any], str] | None:
        try:
            if not judge(document):
                return None
            held_back = ""
        except FqlError as error:
            held_back = f"the condition has no answer: {error.cause}"
        said = {field: document.get(field) for field in COLUMNS}
        message = {field: plain(value) for field, value in said.items() if value is not None}
        if held_back:
            return message, held_back
        changed = transformed(message, source)
        return (message, changed.detail) if isinstance(changed, Withheld) else (changed, "")

    return sent


def _refusal(row: Mapping[str, Any]) -> str:
    """Why the person may not be sent of, '' when they may."""
    if row["subject"] is None:
        return "no_subject"
    return refusal(bool(row["suppressed"]), bool(row["consents"]))


def _messages(
    warehouse: Warehouse,
    stream: EventStream,
    judge: Judge,
    as_of: dt.datetime,
    dealt_with: DealtWith,
) -> ir.Table:
    """The messages that may meet the condition and are not settled, as the condition's text fixes type and event."""
    rows = warehouse.table(MESSAGES.ref)
    rows = rows.filter(rows.received_at < timestamp_literal(as_of), rows.received_at >= timestamp_literal(stream.since))
    for field, texts in judge.fixed.items():
        if field in ("type", "event"):
            rows = rows.filter(rows[field].isin(sorted(texts)))
    rows = rows.select(
        *COLUMNS.values(), "source", "file_hash", occurred_at=ibis.coalesce(rows.timestamp, rows.received_at)
    ).view()
    if dealt_with.arrived_from is not None:
        files = warehouse.table(LANDING_FILES.ref)
        new = files.filter(files.loaded_at >= timestamp_literal(dealt_with.arrived_from)).select("file_hash").distinct()
        fresh = rows.semi_join(new, "file_hash")
        if dealt_with.unresolved is not None:
            fresh = fresh.union(rows.anti_join(new, "file_hash").semi_join(dealt_with.unresolved, [("message_id", "unit")]))
        rows = fresh
    if dealt_with.settled is not None:
        rows = rows.anti_join(dealt_with.settled, [("message_id", "unit")])
    return rows.view()


def _with_people(
    warehouse: Warehouse,
    space: Space,
    activation: Activation,
    rows: ir.Table,
    as_of: dt.datetime,
    instant: dt.datetime,
    suppressed: ir.Table | None,
) -> tuple[ir.Table, dict[str, str]]:
    """The messages with ``subject``, ``consents``, ``suppressed``, and what is known of the person: column -> identifier or trait."""
    owners = events_as_of(warehouse, space.graph, as_of).select(_message="message_id", subject="canonical_segment_id")
    rows = rows.left_join(owners, [("message_id", "_message")]).drop("_message")
    subjects = rows.filter(rows.subject.notnull()).select(canonical_segment_id=rows.subject).distinct()
    identifiers = {f"i{n}": kind for n, kind in enumerate(dict.fromkeys(("user_id", "email", activation.identifier)))}
    traits = {f"t{n}": name for n, name in enumerate(dict.fromkeys(activation.personalization.traits))}
    parts = [
        people.standing(warehouse, space, subjects, activation.consent.categories, instant, suppressed),
        people.last_identifiers(warehouse, space, as_of, identifiers),
    ]
    if traits:
        parts.append(people.identify_traits(warehouse, space, as_of, traits))
    for part in parts:
        # Columns are added after a join, not in its SELECT: Ibis would extend the join and lose them.
        rows = rows.view().left_join(part.rename(_person=people.KEY), [("subject", "_person")]).drop("_person")
    return rows, {**traits, **identifiers}
