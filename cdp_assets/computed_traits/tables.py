"""Tables of the computed_traits room."""

from __future__ import annotations

import datetime as dt

import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.builds import builds_spec
from cdp_assets.unified_profiles.tables import events_as_of
from resources.warehouse import TableRef, TableSpec, Warehouse

SCHEMA = "computed_traits"

TRAIT_VALUES = TableSpec(
    TableRef(SCHEMA, "trait_values"),
    {
        "trait": "string",
        "partition_key": "string",
        "as_of": "timestamp",
        "revision": "string",
        "canonical_segment_id": "string",
        "value_text": "string",
        "value_number": "float64",
    },
    "Computed and SQL traits by partition. Numbers are in value_number; texts, booleans ('true'/'false'), ISO timestamps and "
    "lists (JSON arrays) in value_text. A profile without a row has no value.",
    subject="canonical_segment_id",
    keys=("trait", "partition_key", "canonical_segment_id"),
    personal=("value_text",),
)
BUILDS = builds_spec(SCHEMA)

TABLES = (TRAIT_VALUES, BUILDS)


def performed_as_of(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime) -> ir.Table:
    """Messages known by then, each with the canonical profile of its person: the message columns and ``canonical_segment_id``."""
    messages = warehouse.table(MESSAGES.ref)
    return messages.join(events_as_of(warehouse, graph, as_of), "message_id")


def stored_values(warehouse: Warehouse, trait: str, partition_key: str) -> ir.Table:
    """(canonical_segment_id, value_text, value_number) of a computed trait in one partition."""
    values = warehouse.table(TRAIT_VALUES.ref)
    kept = values.filter((values.trait == trait) & (values.partition_key == partition_key))
    return kept.select("canonical_segment_id", "value_text", "value_number")
