"""What the tables of the linked_audiences room must look like. Enforced by :mod:`cdp_assets.quality`."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import pandera.ibis as pa

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.quality import RowRule, not_in, schema_of
from cdp_assets.unified_profiles.tables import graph_log
from resources.warehouse import Warehouse

_MEMBER = ("audience", "partition_key", "canonical_segment_id")
_MEMBERS = schema_of(AUDIENCE_MEMBERS, not_null=("as_of", "revision"))
# parent_entity_id is NULL directly below the profile.
_CONTEXT = schema_of(AUDIENCE_CONTEXT, not_null=("as_of", "revision"), nullable_keys=("parent_entity_id",))


def members_schema() -> pa.DataFrameSchema:
    """Members: each once per audience and partition."""
    return _MEMBERS


def context_schema() -> pa.DataFrameSchema:
    """Context: each entity row once per member, path and parent."""
    return _CONTEXT


def member_rules(graph: DataGraph) -> list[RowRule]:
    """Every member is a canonical profile, at the as_of of its own row."""

    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        updates = graph_log(warehouse, graph)
        claims = table.select("canonical_segment_id", "as_of").distinct()
        known = updates.select("segment_id", "seq", "received_at", now="canonical_segment_id")
        seen = claims.join(known, [claims.canonical_segment_id == known.segment_id, known.received_at < claims.as_of])
        newest = ibis.row_number().over(ibis.window(group_by=["canonical_segment_id", "as_of"], order_by=ibis.desc("seq")))
        latest = seen.mutate(newest=newest).filter(ibis._.newest == 0)
        canonical = latest.filter(latest.now == latest.canonical_segment_id)
        return not_in(table, ["canonical_segment_id", "as_of"], canonical, ["canonical_segment_id", "as_of"])

    return [RowRule("members_are_profiles", "every member exists at as_of and was not merged into another profile", failing)]


def context_rules() -> list[RowRule]:
    """Every entity row belongs to a member of the same audience and partition."""

    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        return not_in(table, _MEMBER, warehouse.table(AUDIENCE_MEMBERS.ref), _MEMBER)

    return [RowRule("context_belongs_to_members", "every matched entity belongs to a member", failing)]
