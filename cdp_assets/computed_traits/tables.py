"""Tables of the computed_traits room, and how later rooms read them."""

from __future__ import annotations

import datetime as dt

import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.builds import builds_spec
from cdp_assets.unified_profiles.tables import events_as_of
from resources.warehouse import TableRef, TableSpec, Warehouse

SCHEMA = "computed_traits"
PROFILE = "canonical_segment_id"
ACCOUNT = "group_id"


def _spec(name: str, owner: str, description: str) -> TableSpec:
    return TableSpec(
        TableRef(SCHEMA, name),
        {
            "trait": "string",
            "partition_key": "string",
            "as_of": "timestamp",
            "revision": "string",
            owner: "string",
            "value_text": "string",
            "value_number": "float64",
        },
        description,
        subject=owner,
        keys=("trait", "partition_key", owner),
        personal=("value_text",),
        repeated=("trait", "partition_key", "revision"),
        varied=(owner,),
    )


TRAIT_VALUES = _spec(
    "trait_values",
    PROFILE,
    "Computed and SQL traits by partition. Numbers are in value_number; texts, booleans ('true'/'false'), ISO timestamps and "
    "lists (JSON arrays) in value_text. A profile without a row has no value.",
)
TRAIT_CHANGES = _spec(
    "trait_changes",
    PROFILE,
    "What each partition changed: the value of every profile whose value is another than in the trait's partition before. "
    "Without a value: it had one, and has none any more. A trait's first partition has no rows here: all of its values are new.",
)
ACCOUNT_VALUES = _spec("account_trait_values", ACCOUNT, "Traits of accounts by partition, in the form of trait_values.")
ACCOUNT_CHANGES = _spec("account_trait_changes", ACCOUNT, "What each partition changed, in the form of trait_changes.")
BUILDS = builds_spec(SCHEMA)

TABLES = (TRAIT_VALUES, TRAIT_CHANGES, ACCOUNT_VALUES, ACCOUNT_CHANGES, BUILDS)


def performed_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, ids: ir.Table | None = None) -> ir.Table:
    """Messages known by then, each with the canonical profile of its person: the message columns and ``canonical_segment_id``."""
    messages = warehouse.table(MESSAGES.ref)
    return messages.join(events_as_of(warehouse, graph, as_of, ids), "message_id")


def stored_values(warehouse: Warehouse, trait: str, partition_key: str) -> ir.Table:
    """(canonical_segment_id, value_text, value_number) of a computed trait in one partition."""
    values = warehouse.table(TRAIT_VALUES.ref)
    kept = values.filter((values.trait == trait) & (values.partition_key == partition_key))
    return kept.select(PROFILE, "value_text", "value_number")
