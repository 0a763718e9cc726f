"""Tables of the activation_payloads room: what each unit should look like at the destination, or why it may not."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import ibis.expr.types as ir

from cdp_assets.space.builds import builds_spec
from resources.warehouse import TableRef, TableSpec

SCHEMA = "activation_payloads"

# Stand in for values that only the sync knows; it puts them in when it writes the intent. They keep payload hashes
# free of clocks and runs.
MESSAGE_ID_TOKEN = "cdp:message-id"
TIMESTAMP_TOKEN = "cdp:timestamp"

PAYLOADS = TableSpec(
    TableRef(SCHEMA, "payloads"),
    {
        "activation": "string",
        "unit": "string",
        "canonical_segment_id": "string",
        "path": "string",
        "entity_id": "string",
        "row_key": "string",
        "destination_key": "string",
        "payload": "string",
        "payload_hash": "string",
        "exit_payload": "string",
        "retract_payload": "string",
        "identifiers": "string",
        "verdict": "string",
        "detail": "string",
        "as_of": "timestamp",
        "definition_revision": "string",
        # of events: the order in which those of one person are sent
        "occurred_at": "timestamp",
    },
    "The desired state of an activation: one row per unit that is in (member, member-entity pair, model row), or per event that no sync "
    "has dealt with. unit: canonical id; canonical id, path and entity id joined by '|'; the model key; or the message id. payload, exit_payload and retract_payload are "
    "mapped JSON texts (retract holds key and flag only). verdict: ok, or a withheld reason: consent, suppressed, no_identifier, no_subject, "
    "too_large, filter, invalid. A withheld unit is still in: only its message may not go.",
    subject="canonical_segment_id",
    keys=("activation", "unit"),
    personal=("destination_key", "payload", "exit_payload", "retract_payload", "identifiers"),
)
PAYLOAD_BUILDS = TableSpec(
    TableRef(SCHEMA, "payload_builds"),
    {
        "activation": "string",
        "as_of": "timestamp",
        "definition_revision": "string",
        "source": "string",
        "source_partition": "string",
        "source_revision": "string",
        "source_run_id": "string",
        "source_kind": "string",
        "tables": "string",
        "rows": "int64",
        "run_id": "string",
        "loaded_at": "timestamp",
    },
    "The newest build of each activation's payloads and the very materialisation that it read. tables: JSON object of the row counts of "
    "the tables on its path at that build.",
    subject=None,
    keys=("activation",),
)
BUILDS = builds_spec(SCHEMA)

TABLES = (PAYLOADS, PAYLOAD_BUILDS, BUILDS)


class DealtWith(NamedTuple):
    """The events of a stream that need nothing more. ``settled`` and ``unresolved``: (unit), message ids. ``arrived_from``: of files taken in before, only the unresolved are left."""

    settled: ir.Table | None = None
    unresolved: ir.Table | None = None
    arrived_from: dt.datetime | None = None
