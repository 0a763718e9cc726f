"""Tables of the computed_traits room."""

from __future__ import annotations

from cdp_assets.space.builds import builds_spec
from resources.warehouse import TableRef, TableSpec

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
