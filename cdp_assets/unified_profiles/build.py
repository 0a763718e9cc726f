"""Messages -> profiles: resolves the whole history in received order and writes the room's tables, all in one transaction.

Content, ids and ``seq`` derive from the messages alone, so that two builds of the same messages write the same rows.
Nothing goes back in time: a build as of an earlier instant than the last one keeps what the last one knew, and later rooms
read the logs as of their own instant.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.builds import record_build
from cdp_assets.space.models import SpaceConfig
from cdp_assets.unified_profiles import aliases, snapshots
from cdp_assets.unified_profiles.consent import ConsentStates, preferences
from cdp_assets.unified_profiles.identifiers import Extractor, Identifier, Rules, candidates
from cdp_assets.unified_profiles.last_seen import LastSeen
from cdp_assets.unified_profiles.resolve import BLOCKED, NO_IDENTIFIERS, UNRESOLVED, History, resolve
from cdp_assets.unified_profiles.tables import (
    BUILDS,
    CONSENT_STATES,
    CONSENT_UPDATES,
    EVENT_PROFILES,
    ID_ALIASES,
    INTERNAL_TABLES,
    SCHEMA,
    TRAIT_UPDATES,
    VIOLATIONS,
    external_id_mapping_updates,
    id_graph_updates,
    profile_schema,
    profile_tables,
)
from resources.warehouse import TableSpec, Warehouse, naive_utc, timestamp_literal
from resources.warehouse import functions as fn

ASSET = "profiles"
_BATCH_ROWS = 20_000
_EVENT_COLUMNS = ("message_id", "type", "event", "received_at", "timestamp")


@dataclass(frozen=True)
class ProfilesResult:
    """What is known at the build's as_of. ``profiles``: canonical ones. ``violations``: identifiers refused by a rule."""

    profiles: int
    merges: int
    violations: int
    resolved: int
    unresolved: int


def build_profiles(
    warehouse: Warehouse,
    config: SpaceConfig,
    graph: DataGraph,
    as_of: dt.datetime,
    loaded_at: dt.datetime,
    run_id: str,
) -> ProfilesResult:
    """Rebuild all tables of the room from the messages with received_at < ``as_of``."""
    schema = profile_schema(graph)
    warehouse.ensure(*profile_tables(schema), *INTERNAL_TABLES)
    known_until = max(as_of, _last_as_of(warehouse) or as_of)
    messages = _read(warehouse, config, known_until)
    logs = _resolved(messages, config)
    tables = _tables(messages, logs, config, schema)
    renamed = aliases.renamed(warehouse, schema, logs.segment_ids, tables[external_id_mapping_updates(schema).ref], loaded_at)
    with warehouse.transaction():
        for spec in (*profile_tables(schema), *INTERNAL_TABLES):
            if spec not in (BUILDS, ID_ALIASES):
                warehouse.delete(spec.ref, [])
        for ref, rows in tables.items():
            for part in rows if isinstance(rows, list) else [rows]:
                warehouse.append(ref, part)
        snapshots.write(warehouse, graph, known_until)
        if renamed is not None:
            warehouse.delete(ID_ALIASES.ref, [])
            warehouse.append(ID_ALIASES.ref, renamed)
        record_build(
            warehouse,
            SCHEMA,
            asset=ASSET,
            partition_key="",
            as_of=known_until,
            revision=identity_revision(config),
            run_id=run_id,
            rows=_result(logs, messages, known_until).profiles,
            loaded_at=loaded_at,
        )
    return _result(logs, messages, as_of)


def identity_revision(config: SpaceConfig) -> str:
    """Hash of the configuration that decides the content of this room."""
    content = {"identity": config.identity.model_dump(mode="json"), "categories": config.category_ids}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _last_as_of(warehouse: Warehouse) -> dt.datetime | None:
    builds = warehouse.table(BUILDS.ref)
    last = warehouse.scalar(builds.filter(builds.asset == ASSET).as_of.max())
    return last.replace(tzinfo=dt.UTC) if last else None


# -- reading ---------------------------------------------------------------------------------------------------------


@dataclass
class _Messages:
    """The messages in received order: their history of identifiers, and what the logs repeat of each."""

    history: History = field(default_factory=History)
    columns: pa.Table = field(default_factory=lambda: pa.table({}))
    blocked: list[tuple[int, Identifier]] = field(default_factory=list)
    traits: list[tuple[int, str]] = field(default_factory=list)
    consent: list[tuple[bool, ...] | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.history.events)


def _read(warehouse: Warehouse, config: SpaceConfig, as_of: dt.datetime) -> _Messages:
    messages = warehouse.table(MESSAGES.ref)
    known = messages.filter(messages.received_at < timestamp_literal(as_of))
    found = candidates(known, config.identity)
    query = known.select(
        *_EVENT_COLUMNS,
        **found,
        identify_traits=(known.type == "identify").ifelse(known.traits, None),
        preferences=fn.json_text(known.context, "consent", "categoryPreferences"),
    ).order_by("received_at", "message_id")
    extractor = Extractor(config.identity)
    read, parts = _Messages(), []
    for batch in warehouse.batches(query, _BATCH_ROWS):
        parts.append(pa.Table.from_batches([batch]).select(list(_EVENT_COLUMNS)))
        columns = {name: batch.column(name).to_pylist() for name in (*found, "received_at", "identify_traits", "preferences")}
        start = len(read)
        for offset, (good, bad) in enumerate(extractor.of_columns(columns, batch.num_rows)):
            read.history.add(good, columns["received_at"][offset])
            read.blocked += [(start + offset, identifier) for identifier in bad]
        read.traits += [(start + i, text) for i, text in enumerate(columns["identify_traits"]) if text is not None]
        read.consent += [None if text is None else preferences(text, config.category_ids) for text in columns["preferences"]]
    schema = known.select(*_EVENT_COLUMNS).schema().to_pyarrow()
    read.columns = pa.concat_tables(parts).cast(schema) if parts else schema.empty_table()
    return read


# -- resolving -------------------------------------------------------------------------------------------------------


@dataclass
class _Logs:
    """Rows of the append-only logs as numbers: of events (from 0), profiles, identifiers and categories."""

    segment_ids: list[str] = field(default_factory=list)
    event_profiles: list[int] = field(default_factory=list)
    created: list[int] = field(default_factory=list)
    merged: list[int] = field(default_factory=list)
    graph: list[tuple[int, int, int]] = field(default_factory=list)
    mappings: list[tuple[int, int, int]] = field(default_factory=list)
    states: list[tuple[int, int, int, str]] = field(default_factory=list)
    violations: list[tuple[int, int, Identifier | None, str]] = field(default_factory=list)


def _resolved(messages: _Messages, config: SpaceConfig) -> _Logs:
    history, rules = messages.history, Rules.of(config.identity)
    message_ids = messages.columns.column("message_id")
    logs = _Logs()
    last_seen = LastSeen([identifier.type for identifier in history.identifiers])
    consent = ConsentStates(config.category_ids)
    parts: dict[int, list[int]] = {}  # all profiles that a profile took in
    for event, step in enumerate(resolve(history, rules)):
        profile = step.profile
        logs.event_profiles.append(profile)
        if profile == UNRESOLVED:
            logs.violations.append((event, profile, None, NO_IDENTIFIERS))
            continue
        if step.created:
            logs.segment_ids.append(_segment_id(history, rules, step.kept, message_ids[event].as_py()))
            logs.created.append(event)
            logs.graph.append((event, profile, profile))
        for loser in step.merged:
            logs.merged.append(event)
            moved = [loser, *parts.pop(loser, ())]
            parts.setdefault(profile, []).extend(moved)
            logs.graph += [(event, part, profile) for part in moved]
        logs.mappings += [(event, profile, identifier) for identifier in last_seen.rows(event, step)]
        given = messages.consent[event]
        if given is not None or step.merged:
            logs.states += [(event, profile, number, state) for number, state in consent.changes(step, given)]
        logs.violations += [(event, profile, history.identifiers[number], reason) for number, reason in step.refused]
    logs.violations += [(event, logs.event_profiles[event], identifier, BLOCKED) for event, identifier in messages.blocked]
    return logs


def _segment_id(history: History, rules: Rules, kept: Sequence[int], message_id: str) -> str:
    """Named by content: the first identifier, by priority, and the message that created the profile."""
    identifiers = [history.identifiers[number] for number in kept]
    first = min(identifiers, key=lambda identifier: rules.rule(identifier.type).rank)
    name = json.dumps([first.type, first.value, message_id], ensure_ascii=False)
    return "use_" + _hash(name)[:27]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- writing ---------------------------------------------------------------------------------------------------------


def _tables(messages: _Messages, logs: _Logs, config: SpaceConfig, schema: str) -> dict[Any, pa.Table | list[pa.Table]]:
    """The rows of every log, by table. Each names its event; what it repeats of the event is looked up at once."""
    return {
        id_graph_updates(schema).ref: _graph_rows(messages, logs, id_graph_updates(schema)),
        external_id_mapping_updates(schema).ref: _mapping_rows(messages, logs, external_id_mapping_updates(schema)),
        TRAIT_UPDATES.ref: _trait_rows(messages, logs),
        EVENT_PROFILES.ref: _event_rows(messages, logs),
        CONSENT_UPDATES.ref: list(_consent_rows(messages, logs, config)),
        CONSENT_STATES.ref: _state_rows(messages, logs, config),
        VIOLATIONS.ref: _violation_rows(messages, logs),
    }


def _of_events(messages: _Messages, events: Sequence[int], spec: TableSpec) -> dict[str, Any]:
    """The columns of ``spec`` that say which event a row comes from."""
    index = pa.array(events, pa.int64())
    taken = messages.columns.take(index)
    columns = {
        "message_id": taken.column("message_id"),
        "triggering_event_type": taken.column("type"),
        "triggering_event_id": taken.column("message_id"),
        "triggering_event_name": taken.column("event"),
        "seq": pc.add(index, 1),
        "received_at": taken.column("received_at"),
        "uuid_ts": taken.column("received_at"),
        "timestamp": taken.column("timestamp"),
    }
    return {name: column for name, column in columns.items() if name in spec.columns}


def _segments(logs: _Logs, profiles: Sequence[int]) -> pa.Array:
    names = pa.array(logs.segment_ids, pa.string())
    return names.take(pa.array([None if profile == UNRESOLVED else profile for profile in profiles], pa.int64()))


def _columns_of(rows: Sequence[tuple], width: int) -> list[list]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _graph_rows(messages: _Messages, logs: _Logs, spec: TableSpec) -> pa.Table:
    events, parts, wholes = _columns_of(logs.graph, 3)
    segments, canonical = _segments(logs, parts), _segments(logs, wholes)
    ids = [
        _hash(f"{a} {b} {event}")[:32] for event, a, b in zip(events, segments.to_pylist(), canonical.to_pylist(), strict=True)
    ]
    return pa.table(
        {
            "segment_id": segments,
            "canonical_segment_id": canonical,
            "id": pa.array(ids, pa.string()),
            **_of_events(messages, events, spec),
        }
    )


def _mapping_rows(messages: _Messages, logs: _Logs, spec: TableSpec) -> pa.Table:
    events, profiles, numbers = _columns_of(logs.mappings, 3)
    identifiers = [messages.history.identifiers[number] for number in numbers]
    hashes = [_hash(f"{kind}:{value}") for kind, value in identifiers]
    ids = [_hash(f"{name} {event}")[:32] for name, event in zip(hashes, events, strict=True)]
    return pa.table(
        {
            "segment_id": _segments(logs, profiles),
            "external_id_type": pa.array([kind for kind, _ in identifiers], pa.string()),
            "external_id_value": pa.array([value for _, value in identifiers], pa.string()),
            "external_id_hash": pa.array(hashes, pa.string()),
            "id": pa.array(ids, pa.string()),
            "__operation": pa.array(["CREATED"] * len(ids), pa.string()),
            **_of_events(messages, events, spec),
        }
    )


def _trait_rows(messages: _Messages, logs: _Logs) -> pa.Table:
    events, names, values = [], [], []
    for event, text in messages.traits:
        if logs.event_profiles[event] == UNRESOLVED:
            continue
        for name, value in orjson.loads(text).items():
            events.append(event)
            names.append(name)
            values.append(trait_text(value))
    return pa.table(
        {
            "segment_id": _segments(logs, [logs.event_profiles[event] for event in events]),
            "name": pa.array(names, pa.string()),
            "value": pa.array(values, pa.string()),
            **_of_events(messages, events, TRAIT_UPDATES),
        }
    )


def trait_text(value: Any) -> str | None:
    """A trait's value as text: texts as they are, everything else as JSON, null as None (it removes the trait)."""
    if value is None or type(value) is str:
        return value
    return orjson.dumps(value).decode()


def _event_rows(messages: _Messages, logs: _Logs) -> pa.Table:
    columns = messages.columns
    return pa.table(
        {
            "message_id": columns.column("message_id"),
            "segment_id": _segments(logs, logs.event_profiles),
            "seq": pa.array(range(1, len(messages) + 1), pa.int64()),
            "received_at": columns.column("received_at"),
        }
    )


def _consent_rows(messages: _Messages, logs: _Logs, config: SpaceConfig) -> Iterator[pa.Table]:
    """One table of rows per category."""
    resolved = [
        (event, given)
        for event, (given, profile) in enumerate(zip(messages.consent, logs.event_profiles, strict=True))
        if given is not None and profile != UNRESOLVED
    ]
    events, objects = [event for event, _ in resolved], [given for _, given in resolved]
    shared = {
        "segment_id": _segments(logs, [logs.event_profiles[event] for event in events]),
        **_of_events(messages, events, CONSENT_UPDATES),
    }
    for number, category in enumerate(config.category_ids):
        values = [given[number] for given in objects]
        yield pa.table(
            {**shared, "category": pa.array([category] * len(events), pa.string()), "value": pa.array(values, pa.bool_())}
        )


def _state_rows(messages: _Messages, logs: _Logs, config: SpaceConfig) -> pa.Table:
    events, profiles, categories, states = _columns_of(logs.states, 4)
    return pa.table(
        {
            "segment_id": _segments(logs, profiles),
            "category": pa.array([config.category_ids[number] for number in categories], pa.string()),
            "value": pa.array(states, pa.string()),
            **_of_events(messages, events, CONSENT_STATES),
        }
    )


def _violation_rows(messages: _Messages, logs: _Logs) -> pa.Table:
    events, profiles, identifiers, reasons = _columns_of(sorted(logs.violations, key=lambda row: row[0]), 4)
    return pa.table(
        {
            "segment_id": _segments(logs, profiles),
            "identifier_type": pa.array([i.type if i else None for i in identifiers], pa.string()),
            "value_hash": pa.array([_hash(f"{i.type}:{i.value}") if i else None for i in identifiers], pa.string()),
            "reason": pa.array(reasons, pa.string()),
            **_of_events(messages, events, VIOLATIONS),
        }
    )


def _result(logs: _Logs, messages: _Messages, as_of: dt.datetime) -> ProfilesResult:
    """Counts of what was known at ``as_of``, which may be earlier than what the logs reach."""
    received_at = messages.columns.column("received_at")
    known = pc.sum(pc.less(received_at, pa.scalar(naive_utc(as_of), received_at.type))).as_py() or 0
    created = sum(event < known for event in logs.created)
    merges = sum(event < known for event in logs.merged)
    refused = sum(event < known and reason != NO_IDENTIFIERS for event, _, _, reason in logs.violations)
    unresolved = sum(profile == UNRESOLVED for profile in logs.event_profiles[:known])
    return ProfilesResult(created - merges, merges, refused, known - unresolved, unresolved)
