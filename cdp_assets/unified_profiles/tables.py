"""Tables of the unified_profiles room, and how they read as of an instant.

The Profiles Sync tables have Segment's documented shapes and live in the schema that the data graph's ``profile_folder``
names; the rest is in ``unified_profiles``. Later rooms read people only through the ``*_as_of`` expressions here, which speak
about what was known then: rows with ``received_at < as_of``.
"""

from __future__ import annotations

import datetime as dt

import ibis
import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.builds import builds_spec
from resources.warehouse import TableRef, TableSpec, Warehouse, timestamp_literal

SCHEMA = "unified_profiles"

_TRIGGER = {
    "triggering_event_type": "string",
    "triggering_event_id": "string",
    "triggering_event_name": "string",
}
_TIMES = {"seq": "int64", "received_at": "timestamp", "uuid_ts": "timestamp", "timestamp": "timestamp"}


def profile_schema(graph: DataGraph) -> str:
    """The schema of the Profiles Sync tables: the last part of ``profile_folder``, lower case."""
    return graph.profile_folder.split(".")[-1].strip().lower()


def id_graph_updates(schema: str) -> TableSpec:
    return TableSpec(
        TableRef(schema, "id_graph_updates"),
        {"segment_id": "string", "canonical_segment_id": "string", **_TRIGGER, **_TIMES, "id": "string"},
        "Append-only: (p, p) when a profile is created, (p, q) when p merges into q, and again for all that had merged into p.",
        subject="segment_id",
    )


def external_id_mapping_updates(schema: str) -> TableSpec:
    return TableSpec(
        TableRef(schema, "external_id_mapping_updates"),
        {
            "segment_id": "string",
            "external_id_type": "string",
            "external_id_value": "string",
            "external_id_hash": "string",
            **_TRIGGER,
            **_TIMES,
            "id": "string",
            "__operation": "string",
        },
        "Append-only: an identifier is attached to the profile of its event, or shown again after another of its type.",
        subject="segment_id",
        personal=("external_id_value",),
    )


def user_identifiers(schema: str) -> TableSpec:
    return TableSpec(
        TableRef(schema, "user_identifiers"),
        {"canonical_segment_id": "string", "type": "string", "value": "string", **_TIMES},
        "Identifiers of each profile now; one row per type and value.",
        subject="canonical_segment_id",
        keys=("type", "value"),
        personal=("value",),
    )


def user_traits(schema: str) -> TableSpec:
    return TableSpec(
        TableRef(schema, "user_traits"),
        {"canonical_segment_id": "string", "name": "string", "value": "string", **_TIMES},
        "Traits of each profile now, one row per name; the newest value wins.",
        subject="canonical_segment_id",
        keys=("canonical_segment_id", "name"),
        personal=("value",),
    )


def profile_merges(schema: str) -> TableSpec:
    return TableSpec(
        TableRef(schema, "profile_merges"),
        {"canonical_segment_id": "string", "segment_id": "string", **_TIMES},
        "For every profile ever created, the profile that it is part of now (itself when not merged).",
        subject="canonical_segment_id",
        keys=("segment_id",),
    )


TRAIT_UPDATES = TableSpec(
    TableRef(SCHEMA, "trait_updates"),
    {"segment_id": "string", "name": "string", "value": "string", "message_id": "string", **_TIMES},
    "Append-only long form of profile_traits_updates: a trait set by an identify call; NULL removes it.",
    subject="segment_id",
    personal=("value",),
)
EVENT_PROFILES = TableSpec(
    TableRef(SCHEMA, "event_profiles"),
    {"message_id": "string", "segment_id": "string", "seq": "int64", "received_at": "timestamp"},
    "The profile of each accepted message at event time; NULL when no identifier was left.",
    subject="segment_id",
    keys=("message_id",),
)
CONSENT_UPDATES = TableSpec(
    TableRef(SCHEMA, "consent_updates"),
    {
        "segment_id": "string",
        "category": "string",
        "value": "boolean",
        "message_id": "string",
        "seq": "int64",
        "received_at": "timestamp",
    },
    "Append-only: a consent object of an event, one row per category of the space (missing is false).",
    subject="segment_id",
)
CONSENT_STATES = TableSpec(
    TableRef(SCHEMA, "consent_states"),
    {"segment_id": "string", "category": "string", "value": "string", "seq": "int64", "received_at": "timestamp"},
    "Append-only: the consent of a profile after each change: 'true', 'false' or 'conflict' (a merge of profiles that differ).",
    subject="segment_id",
)
VIOLATIONS = TableSpec(
    TableRef(SCHEMA, "identity_violations"),
    {
        "message_id": "string",
        "segment_id": "string",
        "identifier_type": "string",
        "value_hash": "string",
        "reason": "string",
        "seq": "int64",
        "received_at": "timestamp",
    },
    "Identifiers that were blocked, dropped by a limit, or refused by a cap, with the rule.",
    subject="segment_id",
)
ID_ALIASES = TableSpec(
    TableRef(SCHEMA, "id_aliases"),
    {"old_segment_id": "string", "new_segment_id": "string", "loaded_at": "timestamp"},
    "Profiles that a correction renamed.",
    subject="new_segment_id",
    keys=("old_segment_id",),
)
IDENTITY_CORRECTIONS = TableSpec(
    TableRef(SCHEMA, "identity_corrections"),
    {
        "correction_id": "string",
        "kind": "string",
        "side": "string",
        "identifier_type": "string",
        "identifier_value": "string",
        "effective_at": "timestamp",
        "reason": "string",
        "loaded_at": "timestamp",
    },
    "What people decided about identity, an input of resolution: 'separate' keeps the identifiers of side a and of side b in different "
    "profiles, in the whole history; 'remove' takes an identifier from its profile at effective_at.",
    subject="identifier_value",
    personal=("identifier_value",),
)
BUILDS = builds_spec(SCHEMA)

INTERNAL_TABLES = (TRAIT_UPDATES, EVENT_PROFILES, CONSENT_UPDATES, CONSENT_STATES, VIOLATIONS, ID_ALIASES, BUILDS)


def profile_tables(schema: str) -> tuple[TableSpec, ...]:
    """The Profiles Sync tables in ``schema``."""
    return (
        id_graph_updates(schema),
        external_id_mapping_updates(schema),
        user_identifiers(schema),
        user_traits(schema),
        profile_merges(schema),
    )


# -- readings as of an instant ---------------------------------------------------------------------------------------


def _known(table: ir.Table, as_of: dt.datetime) -> ir.Table:
    return table.filter(table.received_at < timestamp_literal(as_of))


def latest(table: ir.Table, by: list[str]) -> ir.Table:
    """The row with the highest seq per key."""
    ranked = table.mutate(_rank=ibis.row_number().over(group_by=by, order_by=ibis.desc("seq")))
    return ranked.filter(ranked._rank == 0).drop("_rank")


def canonical_ids_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(segment_id, canonical_segment_id): every profile created by then and the profile that it was part of."""
    updates = warehouse.table(id_graph_updates(profile_schema(graph)).ref)
    return latest(_known(updates, as_of), ["segment_id"]).select("segment_id", "canonical_segment_id")


def profiles_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id): the profiles that existed and were not merged away."""
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    return ids.select("canonical_segment_id").distinct()


def identifiers_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id, type, value, seq): one row per type and value; seq of the last event that carried it to the profile."""
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    updates = _known(warehouse.table(external_id_mapping_updates(profile_schema(graph)).ref), as_of)
    newest = latest(updates, ["external_id_type", "external_id_value"])
    newest = newest.filter(newest["__operation"].fill_null("CREATED") != "REMOVED")
    joined = newest.join(ids, "segment_id")
    return joined.select("canonical_segment_id", type=joined.external_id_type, value=joined.external_id_value, seq=joined.seq)


def traits_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id, name, value): traits from identify calls, the newest value per name, removed ones left out."""
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    updates = _known(warehouse.table(TRAIT_UPDATES.ref), as_of).join(ids, "segment_id")
    newest = latest(updates, ["canonical_segment_id", "name"])
    return newest.filter(newest.value.notnull()).select("canonical_segment_id", "name", "value")


def consent_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id, category, value): 'true', 'false' or 'conflict'. A category without a row was never collected: false."""
    states = _known(warehouse.table(CONSENT_STATES.ref), as_of)
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    newest = latest(states, ["segment_id", "category"])
    canonical = ids.select("canonical_segment_id").distinct()
    return newest.join(canonical, newest.segment_id == canonical.canonical_segment_id).select(
        "canonical_segment_id", "category", "value"
    )


def events_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(message_id, canonical_segment_id): the canonical profile of each resolved message known by then."""
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    events = _known(warehouse.table(EVENT_PROFILES.ref), as_of)
    return events.join(ids, "segment_id").select("message_id", "canonical_segment_id")
