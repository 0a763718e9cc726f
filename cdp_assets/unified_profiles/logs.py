"""The rows of the room's logs: what the entries did, joined in the warehouse with what the logs repeat of each message."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import orjson
import pyarrow as pa

from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.unified_profiles.consent import ConsentStates, preferences, state_rows
from cdp_assets.unified_profiles.merges import Merges
from cdp_assets.unified_profiles.numbers import BLOCKED, NO_IDENTIFIER, NO_PROFILE, REASONS, Ints, Outcome
from cdp_assets.unified_profiles.state import Met, column, fetch, ints
from cdp_assets.unified_profiles.tables import (
    CONSENT_STATES,
    CONSENT_UPDATES,
    EVENT_PROFILES,
    TRAIT_UPDATES,
    VIOLATIONS,
    external_id_mapping_updates,
    id_graph_updates,
)
from cdp_assets.unified_profiles.work import Work
from resources.warehouse import TableRef, TableSpec, Warehouse
from resources.warehouse import functions as fn

_BATCH_ROWS = 50_000
Rows = dict[TableRef, list[ir.Table | pa.Table]]


@dataclass
class Writing:
    """What the logs of one build are made from. ``names``: scratch table (profile, segment_id) of all profiles met or created.

    ``dictionary``: (identifier_id, identifier_type, identifier_value) of all identifiers.
    """

    warehouse: Warehouse
    schema: str
    config: SpaceConfig
    work: Work
    met: Met
    outcome: Outcome
    names: ir.Table
    dictionary: ir.Table
    stack: ExitStack

    def scratch(self, rows: pa.Table) -> ir.Table:
        return self.stack.enter_context(self.warehouse.scratch(rows))

    def seq(self, entries: Ints) -> Ints:
        return self.met.entries.seq[entries]


def log_specs(schema: str) -> tuple[TableSpec, ...]:
    """The logs: tables of rows that each name their entry by seq, and are replaced with it."""
    return (
        id_graph_updates(schema),
        external_id_mapping_updates(schema),
        TRAIT_UPDATES,
        EVENT_PROFILES,
        CONSENT_UPDATES,
        CONSENT_STATES,
        VIOLATIONS,
    )


def log_rows(w: Writing, mappings: tuple[Ints, Ints, Ints], merges: Merges) -> tuple[Rows, dict[int, str]]:
    """The new rows of every log, and the consent of each profile at the end. ``mappings``: entry, profile, identifier."""
    events = _events(w)
    updates, states, consent = _consent(w, events)
    return {
        id_graph_updates(w.schema).ref: [_graph_rows(w, merges)],
        external_id_mapping_updates(w.schema).ref: [_mapping_rows(w, mappings)],
        TRAIT_UPDATES.ref: list(_trait_rows(w, events)),
        EVENT_PROFILES.ref: [events.filter(~events.removes).select("message_id", "segment_id", "seq", "received_at")],
        CONSENT_UPDATES.ref: updates,
        CONSENT_STATES.ref: [states],
        VIOLATIONS.ref: _violation_rows(w, events),
    }, consent


def _events(w: Writing) -> ir.Table:
    """The entries with their profile: what a row repeats of its entry, under the names of the logs."""
    profile = w.outcome.profile
    found = w.scratch(pa.table({"seq": w.met.entries.seq, "profile": pa.array(profile, pa.int64(), mask=profile == NO_PROFILE)}))
    entries = w.work.entries.join(found, "seq").left_join(w.names, "profile")
    return w.stack.enter_context(
        w.warehouse.staged(entries.select(**_triggers(entries), removes=entries.removes, segment_id=entries.segment_id))
    )


def _triggers(entries: ir.Table) -> dict[str, ir.Value]:
    return {
        "seq": entries.seq,
        "message_id": entries.entry_id,
        "triggering_event_type": entries.type,
        "triggering_event_id": entries.entry_id,
        "triggering_event_name": entries.event,
        "received_at": entries.received_at,
        "uuid_ts": entries.received_at,
        "timestamp": entries.timestamp,
        "source": entries.source,
    }


def source_columns(source: ir.StringValue, config: SpaceConfig) -> Mapping[str, ir.Value]:
    """What a row says of the source of its event, from the source's key."""
    named = {key: settings.name for key, settings in config.sources.items() if settings.name}
    name = ibis.cases(*((source == key, name) for key, name in named.items()), else_=source) if named else source
    return {
        "triggering_event_source_id": source,
        "triggering_event_source_name": name,
        "triggering_event_source_slug": source,
    }


def _columns(table: ir.Table, spec: TableSpec, **own: ir.Value) -> ir.Table:
    """The columns of ``spec``: ``own`` ones, and those that ``table`` has."""
    return table.select(**{name: own[name] if name in own else table[name] for name in spec.columns})


def _named(w: Writing, rows: ir.Table) -> ir.Table:
    """Rows of (seq, profile, …) with the segment id and what they repeat of their entry."""
    joined = rows.left_join(w.names, "profile").join(w.work.entries, "seq")
    own = {name: joined[name] for name in rows.columns}
    return joined.select(**{**own, **_triggers(joined), "segment_id": joined.segment_id})


def _graph_rows(w: Writing, merges: Merges) -> ir.Table:
    spec = id_graph_updates(w.schema)
    entry, part, whole = merges.rows()
    created = w.outcome.created
    own = w.seq(created)
    rows = w.scratch(
        ints(
            seq=np.concatenate([own, w.seq(entry)]),
            profile=np.concatenate([own, part]),
            canonical=np.concatenate([own, whole]),
        )
    )
    canonical = w.names.select(canonical="profile", canonical_segment_id="segment_id")
    named = _named(w, rows).join(canonical, "canonical")
    key = named.segment_id + " " + named.canonical_segment_id + " " + named.seq.cast("string")
    return _columns(named, spec, **source_columns(named.source, w.config), id=fn.sha256(key).substr(0, 32))


def _mapping_rows(w: Writing, mappings: tuple[Ints, Ints, Ints]) -> ir.Table:
    spec = external_id_mapping_updates(w.schema)
    parts = ((mappings[0], mappings[1], mappings[2], "CREATED"), (*_swapped(w.outcome.removed), "REMOVED"))
    rows = w.scratch(
        pa.concat_tables(
            [
                ints(seq=w.seq(entry), profile=profile, identifier_id=w.met.identifier_id[identifier]).append_column(
                    "operation", pa.array([operation] * len(entry), pa.string())
                )
                for entry, profile, identifier, operation in parts
            ]
        )
    )
    named = _named(w, rows).join(w.dictionary, "identifier_id")
    named = named.mutate(external_id_hash=fn.sha256(named.identifier_type + ":" + named.identifier_value))
    return _columns(
        named,
        spec,
        **source_columns(named.source, w.config),
        external_id_type=named.identifier_type,
        external_id_value=named.identifier_value,
        id=fn.sha256(named.external_id_hash + " " + named.seq.cast("string")).substr(0, 32),
        __operation=named.operation,
    )


def _swapped(steps: tuple[Ints, Ints, Ints]) -> tuple[Ints, Ints, Ints]:
    entry, identifier, profile = steps
    return entry, profile, identifier


def _trait_rows(w: Writing, events: ir.Table) -> list[pa.Table]:
    messages = w.warehouse.table(MESSAGES.ref)
    identifies = messages.filter((messages.type == "identify") & messages.traits.notnull()).select("message_id", "traits")
    resolved = events.filter((events.triggering_event_type == "identify") & events.segment_id.notnull())
    shared = [name for name in TRAIT_UPDATES.columns if name not in ("name", "value")]
    parts = []
    for batch in w.warehouse.batches(resolved.join(identifies, "message_id").select(*shared, "traits"), _BATCH_ROWS):
        places, names, values = [], [], []
        for place, text in enumerate(batch.column("traits").to_pylist()):
            for name, value in orjson.loads(text).items():
                places.append(place)
                names.append(name)
                values.append(trait_text(value))
        taken = pa.Table.from_batches([batch]).select(shared).take(pa.array(places, pa.int64()))
        taken = taken.append_column("name", pa.array(names, pa.string()))
        parts.append(taken.append_column("value", pa.array(values, pa.string())))
    return parts


def trait_text(value: Any) -> str | None:
    """A trait's value as text: texts as they are, everything else as JSON, null as None (it removes the trait)."""
    if value is None or type(value) is str:
        return value
    return orjson.dumps(value).decode()


def _consent(w: Writing, events: ir.Table) -> tuple[list[ir.Table | pa.Table], ir.Table, dict[int, str]]:
    """Rows of consent_updates and consent_states, and the consent of each profile at the end."""
    entries = w.work.entries
    given = entries.filter(entries.preferences.notnull())
    texts = fetch(w.warehouse, given.select("preferences").distinct()).column(0).to_pylist()
    objects = {text: letters for text in sorted(texts) if (letters := preferences(text, w.config.category_ids)) is not None}
    distinct = sorted(set(objects.values()))
    number = {letters: place for place, letters in enumerate(distinct)}
    parsed = w.scratch(
        pa.table(
            {
                "preferences": pa.array(list(objects), pa.string()),
                "number": pa.array([number[letters] for letters in objects.values()], pa.int64()),
                "letters": pa.array(list(objects.values()), pa.string()),
            }
        )
    )
    read = given.join(parsed, "preferences").select("seq", "number", "letters")
    told = events.filter(events.segment_id.notnull()).join(read, "seq")
    updates: list[ir.Table | pa.Table] = [
        _columns(told, CONSENT_UPDATES, category=ibis.literal(category), value=told.letters.substr(place, 1) == "t")
        for place, category in enumerate(w.config.category_ids)
    ]
    rows = fetch(w.warehouse, told.select("seq", "number"))
    entry = np.searchsorted(w.met.entries.seq, column(rows, "seq"))
    states = ConsentStates(len(w.config.category_ids), dict(w.met.consent))
    at, profile, changes = state_rows(w.outcome, entry, column(rows, "number"), distinct, states)
    changed = w.scratch(
        ints(seq=w.seq(at), profile=profile)
        .append_column("category", pa.array([w.config.category_ids[number] for number, _ in changes], pa.string()))
        .append_column("value", pa.array([word for _, word in changes], pa.string()))
    )
    return updates, _columns(_named(w, changed), CONSENT_STATES), states.states


def _violation_rows(w: Writing, events: ir.Table) -> list[ir.Table | pa.Table]:
    entry, identifier, reason = w.outcome.refused
    profile = w.outcome.profile[entry]
    number = np.where(identifier == NO_IDENTIFIER, 0, identifier)
    ids = w.met.identifier_id[number] if len(w.met.identifier_id) else number
    refused = w.scratch(
        pa.table(
            {
                "seq": pa.array(w.seq(entry), pa.int64()),
                "profile": pa.array(profile, pa.int64(), mask=profile == NO_PROFILE),
                "identifier_id": pa.array(ids, pa.int64(), mask=identifier == NO_IDENTIFIER),
                "reason": pa.array(REASONS, pa.string()).take(pa.array(reason, pa.int64())),
            }
        )
    )
    named = _named(w, refused).left_join(w.dictionary, "identifier_id")
    pairs = w.work.identifiers
    carried = events.filter(~events.removes).join(pairs.filter(pairs.blocked).select("seq", "identifier_id"), "seq")
    blocked = carried.join(w.dictionary, "identifier_id").mutate(reason=ibis.literal(BLOCKED))
    return [_columns(rows, VIOLATIONS, value_hash=_value_hash(rows)) for rows in (named, blocked)]


def _value_hash(rows: ir.Table) -> ir.Value:
    return fn.sha256(rows.identifier_type + ":" + rows.identifier_value)
