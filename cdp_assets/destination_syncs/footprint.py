"""Footprint: whom an identifier stands for, and where that profile is now: in which audiences, and at which destinations."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ibis

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.destination_syncs.tables import LEDGER
from cdp_assets.linked_audiences.tables import AUDIENCE_MEMBERS, BUILDS
from cdp_assets.space.masking import mask_value
from cdp_assets.unified_profiles.tables import external_id_mapping_updates, identifiers_as_of, profile_schema
from resources.warehouse import Warehouse

_LATEST = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
_MOST = 10_000


@dataclass(frozen=True)
class Footprint:
    """Where a profile is. ``profile``: its canonical id, None when nobody has the identifier.

    identifiers: type -> masked values. audiences: those whose newest build has it. held: activation -> records that its
    destination holds of it.
    """

    profile: str | None = None
    identifiers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    audiences: Sequence[str] = ()
    held: Mapping[str, int] = field(default_factory=dict)


def footprint(warehouse: Warehouse, graph: DataGraph, kind: str, value: str) -> Footprint:
    """The footprint of the profile that has an identifier, as far as the space has been built. Values are masked."""
    if not warehouse.has(external_id_mapping_updates(profile_schema(graph)).ref):
        return Footprint()
    known = identifiers_as_of(warehouse, graph, _LATEST)
    owner = warehouse.rows(known.filter((known.type == kind) & (known.value == value)).select("canonical_segment_id"), 1)
    if not owner:
        return Footprint()
    profile = owner[0]["canonical_segment_id"]
    identifiers: dict[str, list[str]] = {}
    own = known.filter(known.canonical_segment_id == profile).order_by("type", "value").select("type", "value")
    for row in warehouse.rows(own, _MOST):
        identifiers.setdefault(row["type"], []).append(mask_value(row["value"]))
    return Footprint(profile, identifiers, _audiences(warehouse, profile), _held(warehouse, profile))


def _audiences(warehouse: Warehouse, profile: str) -> list[str]:
    if not (warehouse.has(BUILDS.ref) and warehouse.has(AUDIENCE_MEMBERS.ref)):
        return []
    builds = warehouse.table(BUILDS.ref)
    ranked = builds.mutate(_rank=ibis.row_number().over(group_by="asset", order_by=ibis.desc("as_of")))
    newest = ranked.filter(ranked["_rank"] == 0).select(audience="asset", partition_key="partition_key")
    members = warehouse.table(AUDIENCE_MEMBERS.ref)
    mine = members.filter(members.canonical_segment_id == profile).semi_join(newest, ["audience", "partition_key"])
    return [row["audience"] for row in warehouse.rows(mine.order_by("audience").select("audience"), _MOST)]


def _held(warehouse: Warehouse, profile: str) -> dict[str, int]:
    if not warehouse.has(LEDGER.ref):
        return {}
    ledger = warehouse.table(LEDGER.ref)
    mine = ledger.filter(ledger["held"] & (ledger.resolved_segment_id == profile))
    counted = mine.group_by("activation").aggregate(n=mine.count()).order_by("activation")
    return {row["activation"]: int(row["n"]) for row in warehouse.rows(counted, _MOST)}
