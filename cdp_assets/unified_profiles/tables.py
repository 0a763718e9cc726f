"""Tables of the unified_profiles room, and how they read as of an instant.

The Profiles Sync tables have Segment's documented shapes and live in the schema that the data graph's ``profile_folder``
names; the rest is in ``unified_profiles``. Later rooms read people only through the ``*_as_of`` expressions here, which speak
about what was known then: rows with ``received_at < as_of``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable, Sequence

import ibis
import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES, suppressions_at
from cdp_assets.space.builds import builds_spec
from cdp_assets.unified_profiles import external
from resources.warehouse import TableRef, TableSpec, Warehouse, timestamp_literal
from resources.warehouse import functions as fn

SCHEMA = "unified_profiles"

_TRIGGER = {
    "triggering_event_type": "string",
    "triggering_event_id": "string",
    "triggering_event_name": "string",
}
_SOURCE = {
    "triggering_event_source_id": "string",
    "triggering_event_source_name": "string",
    "triggering_event_source_slug": "string",
}
_TIMES = {"seq": "int64", "received_at": "timestamp", "uuid_ts": "timestamp", "timestamp": "timestamp"}


def profile_schema(graph: DataGraph) -> str:
    """The schema of the Profiles Sync tables: the last part of ``profile_folder``, lower case."""
    return graph.profile_schema


def id_graph_updates(schema: str) -> TableSpec:
    return TableSpec(
        TableRef(schema, "id_graph_updates"),
        {"segment_id": "string", "canonical_segment_id": "string", **_TRIGGER, **_SOURCE, **_TIMES, "id": "string"},
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
            **_SOURCE,
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


def profile_traits_updates(schema: str, columns: Sequence[str] = ()) -> TableSpec:
    """``columns``: those of the traits known so far; all are text, so that a trait may change its type."""
    traits = dict.fromkeys(columns, "string")
    return TableSpec(
        TableRef(schema, "profile_traits_updates"),
        {"segment_id": "string", **_TRIGGER, **_SOURCE, **_TIMES, **traits},
        "Append-only: the traits that an identify call set, where it changed any; and all that a profile has after a merge. "
        "One column per trait, added as traits appear. NULL says nothing of a trait.",
        subject="segment_id",
        keys=("segment_id", "seq"),
        personal=tuple(traits),
    )


def id_graph(schema: str) -> TableSpec:
    return TableSpec(
        TableRef(schema, "id_graph"),
        {
            "segment_id": "string",
            "canonical_segment_id": "string",
            "timestamp": "timestamp",
            "uuid_ts": "timestamp",
            "etl_ts": "timestamp",
            "seq": "int64",
        },
        "View: for every profile ever created, the profile that it is part of now (itself when not merged).",
        subject="segment_id",
        keys=("segment_id",),
    )


def external_id_mapping(schema: str) -> TableSpec:
    return TableSpec(
        TableRef(schema, "external_id_mapping"),
        {
            "canonical_segment_id": "string",
            "external_id_value": "string",
            "external_id_type": "string",
            "external_id_hash": "string",
            "timestamp": "timestamp",
            "uuid_ts": "timestamp",
        },
        "View: each identifier that belongs to a profile now, and the profile.",
        subject="canonical_segment_id",
        keys=("external_id_hash",),
        personal=("external_id_value",),
    )


def profile_traits(schema: str, columns: Sequence[str] = ()) -> TableSpec:
    """``columns``: those of the traits."""
    traits = dict.fromkeys(columns, "string")
    return TableSpec(
        TableRef(schema, "profile_traits"),
        {"canonical_segment_id": "string", "merged_to": "string", **traits},
        "View: one row per profile ever, with the newest value of each trait. One that was merged has only merged_to.",
        subject="canonical_segment_id",
        keys=("canonical_segment_id",),
        personal=tuple(traits),
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
CORRECTED_BUILDS = TableSpec(
    TableRef(SCHEMA, "corrected_builds"),
    {"corrected_from": "timestamp", "run_id": "string", "loaded_at": "timestamp"},
    "Builds that corrected what earlier ones had said of events received at corrected_from or later.",
    subject=None,
)
TRAIT_COLUMNS = TableSpec(
    TableRef(SCHEMA, "trait_columns"),
    {"name": "string", "column_name": "string"},
    "The column of profile_traits_updates that holds a trait; NULL for one whose name is reserved or that is one too many.",
    subject=None,
    keys=("name",),
)
TRAIT_ENTRIES = TableSpec(
    TableRef(SCHEMA, "trait_entries"),
    {"segment_id": "string", "seq": "int64", "message_id": "string"},
    "The identify calls and merges that profile_traits_updates has taken in, whether or not they changed a trait.",
    subject="segment_id",
    keys=("segment_id", "seq", "message_id"),
)
GROUP_MEMBERSHIPS = TableSpec(
    TableRef(SCHEMA, "group_memberships"),
    {"segment_id": "string", "group_id": "string", "message_id": "string", **_TIMES},
    "Append-only: a group call, or another message with context.groupId, put the profile into the group. segment_id is NULL "
    "where no identifier was left.",
    subject="segment_id",
    keys=("message_id",),
)
GROUP_TRAITS_UPDATES = TableSpec(
    TableRef(SCHEMA, "group_traits_updates"),
    {"group_id": "string", "name": "string", "value": "string", "message_id": "string", **_TIMES},
    "Append-only: a trait of the group set by a group call; NULL removes it.",
    subject="message_id",
    keys=("message_id", "name"),
    personal=("value",),
)
MESSAGE_VIOLATIONS = TableSpec(
    TableRef(SCHEMA, "message_violations"),
    {"message_id": "string", "reason": "string", "seq": "int64", "received_at": "timestamp"},
    "What Segment's profiles would not take from an accepted message, with the rule: a group id that is empty or too long, "
    "too many traits or properties.",
    subject="message_id",
    keys=("message_id", "reason"),
)
WINDOWS_READ = TableSpec(
    TableRef(SCHEMA, "windows_read"),
    {"partition_key": "string", "as_of": "timestamp", "run_id": "string", "loaded_at": "timestamp"},
    "The build of each partition of the messages whose groups were taken in.",
    subject=None,
    keys=("partition_key",),
)
GROUP_TABLES = (GROUP_MEMBERSHIPS, GROUP_TRAITS_UPDATES, MESSAGE_VIOLATIONS)
BUILDS = builds_spec(SCHEMA)

INTERNAL_TABLES = (
    TRAIT_UPDATES,
    EVENT_PROFILES,
    CONSENT_UPDATES,
    CONSENT_STATES,
    VIOLATIONS,
    ID_ALIASES,
    IDENTITY_CORRECTIONS,
    CORRECTED_BUILDS,
    BUILDS,
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


def profile_views(schema: str) -> tuple[TableSpec, ...]:
    """The user-materialized Profiles Sync tables in ``schema``: views over the logs. Columns of traits are left out."""
    return id_graph(schema), external_id_mapping(schema), profile_traits(schema)


# -- readings as of an instant ---------------------------------------------------------------------------------------


def _known(table: ir.Table, as_of: dt.datetime) -> ir.Table:
    return table.filter(table.received_at < timestamp_literal(as_of))


def latest(table: ir.Table, by: list[str]) -> ir.Table:
    """The row with the highest seq per key."""
    ranked = table.mutate(_rank=ibis.row_number().over(group_by=by, order_by=ibis.desc("seq")))
    return ranked.filter(ranked._rank == 0).drop("_rank")


def profile_sources(warehouse: Warehouse, graph: DataGraph | None) -> tuple[Hashable, ...]:
    """What the readings' SQL depends on besides the graph: the tables and columns found, for Profiles Sync tables of the company's own."""
    return external.sources(warehouse, graph)


def graph_log(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime | None = None) -> ir.Table:
    """(segment_id, canonical_segment_id, seq, received_at, …): creations and merges. ``as_of``: the instant that is read for."""
    if graph.external:
        return external.graph_log(warehouse, graph, as_of)
    return warehouse.table(id_graph_updates(profile_schema(graph)).ref)


def canonical_ids_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(segment_id, canonical_segment_id): every profile created by then and the profile that it was part of.

    Raises :class:`external.PastError` (as all readings do) for Profiles Sync tables of the company's own that do not hold the past.
    """
    updates = _known(graph_log(warehouse, graph, as_of), as_of)
    # As an aggregate: ranking whole rows takes engines several times as long.
    return updates.group_by("segment_id").aggregate(canonical_segment_id=fn.newest(updates.canonical_segment_id, updates.seq))


def merged_ids_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """Of canonical_ids_as_of those who are part of somebody else; found without a look at all others."""
    updates = _known(graph_log(warehouse, graph, as_of), as_of)
    touched = updates.filter(updates.segment_id != updates.canonical_segment_id).select("segment_id").distinct()
    ids = latest(updates.semi_join(touched, "segment_id"), ["segment_id"])
    return ids.filter(ids.segment_id != ids.canonical_segment_id).select("segment_id", "canonical_segment_id")


def profiles_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, ids: ir.Table | None = None) -> ir.Table:
    """(canonical_segment_id): the profiles that existed and were not merged away."""
    ids = canonical_ids_as_of(warehouse, graph, as_of) if ids is None else ids
    return ids.select("canonical_segment_id").distinct()


def identifiers_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, ids: ir.Table | None = None) -> ir.Table:
    """(canonical_segment_id, segment_id, type, value, seq): one row per type and value; seq of the last event that carried it there.

    In all readings ``segment_id`` is the profile that the row belonged to before merges, and ``ids`` are canonical_ids_as_of, for those
    who read several.
    """
    ids = canonical_ids_as_of(warehouse, graph, as_of) if ids is None else ids
    if graph.external:
        log = external.mapping_log(warehouse, graph, as_of)
    else:
        log = warehouse.table(external_id_mapping_updates(profile_schema(graph)).ref)
    known = _known(log, as_of)
    newest = known.group_by("external_id_type", "external_id_value").aggregate(
        segment_id=fn.newest(known.segment_id, known.seq),
        operation=fn.newest(known["__operation"].fill_null("CREATED"), known.seq),
        seq=known.seq.max(),
    )
    joined = newest.filter(newest["operation"] != "REMOVED").join(ids, "segment_id")
    return joined.select(
        "canonical_segment_id", "segment_id", type=joined.external_id_type, value=joined.external_id_value, seq=joined.seq
    )


def traits_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, ids: ir.Table | None = None) -> ir.Table:
    """(canonical_segment_id, segment_id, name, value): traits from identify calls, the newest value per name, removed ones left out."""
    ids = canonical_ids_as_of(warehouse, graph, as_of) if ids is None else ids
    log = external.trait_log(warehouse, graph, as_of) if graph.external else warehouse.table(TRAIT_UPDATES.ref)
    newest = latest(_known(log, as_of).join(ids, "segment_id"), ["canonical_segment_id", "name"])
    return newest.filter(newest.value.notnull()).select("canonical_segment_id", "segment_id", "name", "value")


def consent_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id, category, value): 'true', 'false' or 'conflict'. A category without a row was never collected: false."""
    if graph.external:
        ids = canonical_ids_as_of(warehouse, graph, as_of)
        states = _known(external.consent_log(warehouse, graph, as_of), as_of).join(ids, "segment_id")
        return latest(states, ["canonical_segment_id", "category"]).select("canonical_segment_id", "category", "value")
    known = _known(warehouse.table(CONSENT_STATES.ref), as_of)
    newest = known.group_by("segment_id", "category").aggregate(value=fn.newest(known.value, known.seq))
    # A profile's state after a merge is that of the one that it is part of.
    own = newest.anti_join(merged_ids_as_of(warehouse, graph, as_of), "segment_id")
    return own.select("category", "value", canonical_segment_id="segment_id").select("canonical_segment_id", "category", "value")


def consenting_as_of(warehouse: Warehouse, graph: DataGraph, categories: Sequence[str], as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id): those for whom all of the categories are 'true' in :func:`consent_as_of`; some may be there twice."""
    wanted = sorted(set(categories))
    if graph.external:
        states = consent_as_of(warehouse, graph, as_of)
        agreed = states.filter(states.category.isin(wanted), states.value == "true")
        counted = agreed.group_by("canonical_segment_id").aggregate(n=agreed.count())
        return counted.filter(counted.n == len(wanted)).select("canonical_segment_id")
    known = _known(warehouse.table(CONSENT_STATES.ref), as_of)
    agreed = None
    for category in wanted:
        states = known.filter(known.category == category).select("segment_id", "value", "seq")
        # Only of those who ever said something else does the newest state have to be found.
        wavering = states.semi_join(states.filter(states.value != "true"), "segment_id")
        newest = wavering.group_by("segment_id").aggregate(value=fn.newest(wavering.value, wavering.seq))
        yes = states.filter(states.value == "true").anti_join(newest.filter(newest.value != "true"), "segment_id")
        yes = yes.select("segment_id")
        agreed = yes if agreed is None else agreed.semi_join(yes, "segment_id")
    assert agreed is not None, "somebody consents to something"
    own = agreed.anti_join(merged_ids_as_of(warehouse, graph, as_of), "segment_id")
    return own.select(canonical_segment_id="segment_id")


def find_profile(warehouse: Warehouse, graph: DataGraph, text: str, as_of: dt.datetime) -> str | None:
    """The canonical id of ``text`` (a segment_id or TYPE:VALUE) as it was known at ``as_of``; None when nobody was known by that."""
    segment = text
    if graph.external is None and warehouse.has(ID_ALIASES.ref):
        aliases = warehouse.table(ID_ALIASES.ref)
        renamed = warehouse.rows(aliases.filter(aliases.old_segment_id == text).select("new_segment_id"), 1)
        segment = renamed[0]["new_segment_id"] if renamed else text
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    found = warehouse.rows(ids.filter(ids.segment_id == segment).select("canonical_segment_id"), 1)
    kind, colon, value = text.partition(":")
    if not found and colon:
        known = identifiers_as_of(warehouse, graph, as_of)
        found = warehouse.rows(known.filter((known.type == kind) & (known.value == value)).select("canonical_segment_id"), 1)
    return str(found[0]["canonical_segment_id"]) if found else None


def events_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, ids: ir.Table | None = None) -> ir.Table:
    """(message_id, canonical_segment_id, segment_id): the canonical profile of each resolved message known by then."""
    return placed_events_as_of(warehouse, graph, as_of, ids).drop("place")


def placed_events_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, ids: ir.Table | None = None) -> ir.Table:
    """As :func:`events_as_of`, and ``place``, unique: what sorts as the messages came, by received time, then by message id.

    A number, which costs engines a fraction of what the message's id does; a text where somebody else resolved the messages.
    """
    ids = canonical_ids_as_of(warehouse, graph, as_of) if ids is None else ids
    if graph.external:
        events = external.event_log(warehouse, graph)
        if events is None:
            return _events_of_identifiers(warehouse, graph, as_of, ids)
        events = events.mutate(place=_place(events))
    else:
        events = warehouse.table(EVENT_PROFILES.ref)
        events = events.mutate(place=events.seq)
    return _known(events, as_of).join(ids, "segment_id").select("message_id", "canonical_segment_id", "segment_id", "place")


def _events_of_identifiers(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, ids: ir.Table) -> ir.Table:
    """Messages of profiles that nobody resolved at event time: by their user id, and those without one by their anonymous id."""
    identifiers = identifiers_as_of(warehouse, graph, as_of, ids)
    messages = _known(warehouse.table(MESSAGES.ref), as_of)
    named = messages.select(
        "message_id",
        type=messages.user_id.notnull().ifelse("user_id", "anonymous_id"),
        value=ibis.coalesce(messages.user_id, messages.anonymous_id),
        place=_place(messages),
    )
    return named.join(identifiers, ["type", "value"]).select("message_id", "canonical_segment_id", "segment_id", "place")


def _place(messages: ir.Table) -> ir.StringValue:
    return fn.iso_text(messages.received_at) + messages.message_id


def suppressed_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, ids: ir.Table | None = None) -> ir.Table:
    """(canonical_segment_id), distinct: profiles that hold a suppressed identifier. Ask :func:`any_suppressions` first.

    A profile that merged is suppressed with the one that it is part of; after an unmerge only the side with the identifier is.
    """
    wanted = suppressions_at(warehouse, as_of)
    wanted = wanted.select(wanted_type=wanted.identifier_type, wanted_hash=wanted.value_hash)
    held = identifiers_as_of(warehouse, graph, as_of, ids)
    # Hashing only the types that are suppressed at all.
    held = held.filter(held.type.isin(wanted.wanted_type))
    held = held.select("canonical_segment_id", held_type=held.type, held_hash=fn.sha256(held.value))
    found = held.join(wanted, [("held_type", "wanted_type"), ("held_hash", "wanted_hash")])
    return found.select("canonical_segment_id").distinct()


def built_before_correction(warehouse: Warehouse, builds: ir.Table) -> ir.Table:
    """The rows of a room's builds table that a correction of people made since then may have outdated, with its ``corrected_from``.

    One row per build, with the earliest instant from which on something was corrected.
    """
    if not warehouse.has(CORRECTED_BUILDS.ref):
        return builds.select("asset", "partition_key", corrected_from="as_of").limit(0)
    made = warehouse.table(CORRECTED_BUILDS.ref).select("corrected_from", corrected_at="loaded_at")
    found = builds.join(made, [builds.loaded_at < made.corrected_at, builds.as_of > made.corrected_from])
    return found.group_by("asset", "partition_key").aggregate(corrected_from=found.corrected_from.min())


def memberships_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id, group_id): the groups that the profile, or one that it took in, had been put into by then."""
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    log = external.membership_log(warehouse, graph) if graph.external else warehouse.table(GROUP_MEMBERSHIPS.ref)
    return _known(log, as_of).join(ids, "segment_id").select("canonical_segment_id", "group_id").distinct()


def newest_memberships_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(canonical_segment_id, group_id): one row per profile with any group, the one that it was put into last; of one instant the first by id."""
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    log = external.membership_log(warehouse, graph) if graph.external else warehouse.table(GROUP_MEMBERSHIPS.ref)
    joined = _known(log, as_of).join(ids, "segment_id").select("canonical_segment_id", "group_id", "received_at")
    order = ibis.window(group_by="canonical_segment_id", order_by=[ibis.desc("received_at"), "group_id"])
    ranked = joined.mutate(_rank=ibis.row_number().over(order))
    return ranked.filter(ranked._rank == 0).select("canonical_segment_id", "group_id")


def group_traits_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """(group_id, name, value): traits of groups from group calls, the newest value per name, removed ones left out."""
    log = external.group_trait_log(warehouse, graph) if graph.external else warehouse.table(GROUP_TRAITS_UPDATES.ref)
    newest = latest(_known(log, as_of), ["group_id", "name"])
    return newest.filter(newest.value.notnull()).select("group_id", "name", "value")
