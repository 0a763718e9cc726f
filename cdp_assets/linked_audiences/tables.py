"""Tables of the linked_audiences room."""

from __future__ import annotations

import ibis.expr.types as ir

from cdp_assets.space.builds import builds_spec
from resources.warehouse import TableRef, TableSpec, Warehouse

SCHEMA = "linked_audiences"

_BUILD = {"audience": "string", "partition_key": "string", "as_of": "timestamp", "revision": "string"}
_REPEATED = ("audience", "partition_key", "revision")

AUDIENCE_MEMBERS = TableSpec(
    TableRef(SCHEMA, "audience_members"),
    {**_BUILD, "canonical_segment_id": "string"},
    "Members of each audience by partition.",
    subject="canonical_segment_id",
    keys=("audience", "partition_key", "canonical_segment_id"),
    repeated=_REPEATED,
    varied=("canonical_segment_id",),
)
AUDIENCE_CONTEXT = TableSpec(
    TableRef(SCHEMA, "audience_context"),
    {**_BUILD, "canonical_segment_id": "string", "path": "string", "entity_id": "string", "parent_entity_id": "string"},
    "The entity rows that made each member match, by node path. entity_id is the primary key as text; parent_entity_id that of "
    "the row one level up (NULL directly below the profile). One row per member, path, entity and parent.",
    subject="canonical_segment_id",
    keys=("audience", "partition_key", "canonical_segment_id", "path", "entity_id", "parent_entity_id"),
    repeated=(*_REPEATED, "path"),
    varied=("canonical_segment_id", "entity_id", "parent_entity_id"),
)
AUDIENCE_TRANSITIONS = TableSpec(
    TableRef(SCHEMA, "audience_transitions"),
    {**_BUILD, "canonical_segment_id": "string", "change": "string", "why": "string", "since": "timestamp"},
    "Who entered and left an audience (change: entered, left) with each of its partitions, since the partition built before it, as of "
    "since (NULL: the first, all entered), and why: data, identity (profiles merged or were told apart) or definition. Kept when "
    "members and context are dropped after the space's retention.",
    subject="canonical_segment_id",
    keys=("audience", "partition_key", "canonical_segment_id"),
    repeated=(*_REPEATED, "change", "why"),
    varied=("canonical_segment_id",),
)
AUDIENCE_FUNNELS = TableSpec(
    TableRef(SCHEMA, "audience_funnels"),
    {**_BUILD, "position": "int64", "place": "string", "profiles": "int64"},
    "Profiles left at each condition of an audience, top to bottom. place is the condition's place in the audience's file, its parts "
    "joined by dots; empty: everybody. Counted once in an open partition for each definition, and when it closes; of a backfill only in its newest partition.",
    subject=None,
    keys=("audience", "partition_key", "position"),
)
PATH_ROWS = TableSpec(
    TableRef(SCHEMA, "path_rows"),
    {**_BUILD, "table_name": "string", "rows": "int64"},
    "Row count of every entity and junction table on an audience's paths at build time; syncs hold when one is empty or shrank sharply.",
    subject=None,
    keys=("audience", "partition_key", "table_name"),
)
ENTITY_SNAPSHOTS = TableSpec(
    TableRef(SCHEMA, "entity_snapshots"),
    {"entity": "string", "as_of": "timestamp", "rows": "int64", "added": "int64", "closed": "int64"},
    "One row per snapshot of an entity's table: its distinct rows, those that were new or other since the last one, those that went.",
    subject=None,
    keys=("entity", "as_of"),
)
BUILDS = builds_spec(SCHEMA)

TABLES = (AUDIENCE_MEMBERS, AUDIENCE_CONTEXT, AUDIENCE_TRANSITIONS, AUDIENCE_FUNNELS, PATH_ROWS, ENTITY_SNAPSHOTS, BUILDS)


def stored_members(warehouse: Warehouse, audience: str, partition_key: str) -> ir.Table:
    """(canonical_segment_id): the members of an audience in one partition."""
    members = warehouse.table(AUDIENCE_MEMBERS.ref)
    kept = members.filter((members.audience == audience) & (members.partition_key == partition_key))
    return kept.select("canonical_segment_id")
