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
from cdp_assets.raw_events.tables import suppressions_at
from cdp_assets.space.builds import builds_spec
from resources.warehouse import TableRef, TableSpec, Warehouse, timestamp_literal
from resources.warehouse import functions as fn

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
    "What people corrected, an input: 'separate' (no profile holds identifiers of both sides a and b) and 'remove' (an identifier "
    "leaves its profile at effective_at). Rows of one correction share its id.",
    subject="identifier_value",
    personal=("identifier_value",),
)
CORRECTIONS = TableSpec(
    TableRef(SCHEMA, "corrections"),
    {"table_name": "string", "row": "string", "segment_id": "string", "replaced_at": "timestamp", "run_id": "string"},
    "Log rows that late data or a correction replaced by others, as they were (JSON), newest replacement last.",
    subject="segment_id",
    personal=("row",),
)
BUILDS = builds_spec(SCHEMA)

INTERNAL_TABLES = (
    TRAIT_UPDATES,
    EVENT_PROFILES,
    CONSENT_UPDATES,
    CONSENT_STATES,
    VIOLATIONS,
    ID_ALIASES,
    IDENTITY_CORRECTIONS,
    BUILDS,
)

# What the next build continues from. Profiles and identifiers are numbers here: a profile's is the seq of the entry that created
# it, an identifier's depends on when it arrived.
IDENTIFIERS = TableSpec(
    TableRef(SCHEMA, "identifiers"),
    {"identifier_id": "int64", "identifier_type": "string", "identifier_value": "string", "blocked": "boolean"},
    "Every identifier that any message ever carried, with its number, and whether its value is blocked.",
    subject="identifier_value",
    keys=("identifier_id",),
    personal=("identifier_value",),
)
ENTRIES = TableSpec(
    TableRef(SCHEMA, "entries"),
    {"seq": "int64", "entry_id": "string", "fingerprint": "int64"},
    "What was resolved: messages and removals by their place in received order. fingerprint tells a message from another of its id.",
    subject="entry_id",
    keys=("seq",),
)
EVENT_IDENTIFIERS = TableSpec(
    TableRef(SCHEMA, "event_identifiers"),
    {"seq": "int64", "position": "int64", "identifier_id": "int64"},
    "The identifiers of each entry, blocked and refused ones too; position orders them as they were found.",
    subject="identifier_id",
    keys=("seq", "identifier_id"),
)
HOLDINGS = TableSpec(
    TableRef(SCHEMA, "holdings"),
    {"identifier_id": "int64", "profile": "int64", "attached_seq": "int64", "attached_at": "timestamp"},
    "The profile that each identifier is attached to (which may have merged into another since).",
    subject="identifier_id",
    keys=("identifier_id",),
)
PROFILES = TableSpec(
    TableRef(SCHEMA, "profiles"),
    {"profile": "int64", "segment_id": "string", "canonical": "int64", "merges": "int64", "consent": "string"},
    "Every profile: the one that it is part of now, how many it took in, its consent (a letter t, f or c per category).",
    subject="segment_id",
    keys=("profile",),
)
LAST_SHOWN = TableSpec(
    TableRef(SCHEMA, "last_shown"),
    {
        "profile": "int64",
        "identifier_type": "string",
        "position": "int64",
        "identifier_id": "int64",
        "seen_seq": "int64",
        "row_seq": "int64",
    },
    "The identifiers of each type that a profile showed last, when, and the seq of their newest mapping rows.",
    subject="identifier_id",
    keys=("profile", "identifier_id"),
)
APPLIED_CORRECTIONS = TableSpec(
    TableRef(SCHEMA, "applied_corrections"),
    {
        "correction_id": "string",
        "kind": "string",
        "side": "string",
        "identifier_type": "string",
        "identifier_value": "string",
        "effective_at": "timestamp",
    },
    "The identity corrections that the tables honour.",
    subject="identifier_value",
    personal=("identifier_value",),
)
STATE_TABLES = (
    IDENTIFIERS,
    ENTRIES,
    EVENT_IDENTIFIERS,
    HOLDINGS,
    PROFILES,
    LAST_SHOWN,
    APPLIED_CORRECTIONS,
    CORRECTIONS,
)


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


def suppressed_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id), distinct: profiles that hold a suppressed identifier. Ask :func:`any_suppressions` first.

    A profile that merged is suppressed with the one that it is part of; after an unmerge only the side with the identifier is.
    """
    wanted = suppressions_at(warehouse, as_of)
    wanted = wanted.select(wanted_type=wanted.identifier_type, wanted_hash=wanted.value_hash)
    held = identifiers_as_of(warehouse, graph, as_of)
    # Hashing only the types that are suppressed at all.
    held = held.filter(held.type.isin(wanted.wanted_type))
    held = held.select("canonical_segment_id", held_type=held.type, held_hash=fn.sha256(held.value))
    found = held.join(wanted, [("held_type", "wanted_type"), ("held_hash", "wanted_hash")])
    return found.select("canonical_segment_id").distinct()
