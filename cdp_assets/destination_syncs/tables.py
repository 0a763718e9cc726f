"""Tables of the destination_syncs room: what each destination holds, what was tried, and what every sync did.

``LEDGER`` says where each key stands; ``DELIVERY_STATE`` keeps, apart and erasable, what an exit or a retract needs; ``INTENTS`` is the
newest sync of each activation, key by key; ``OUTCOMES`` is every attempt ever made; ``SYNCS`` counts. A key is
(activation, account, unit, destination_key).
"""

from __future__ import annotations

from cdp_assets.space.builds import builds_spec
from resources.warehouse import TableRef, TableSpec

SCHEMA = "destination_syncs"

KEY = ("activation", "account", "unit", "destination_key")

_KEY = dict.fromkeys(KEY, "string")
_PARTS = {"segment_id": "string", "path": "string", "entity_id": "string", "row_key": "string"}

LEDGER = TableSpec(
    TableRef(SCHEMA, "ledger"),
    {
        **_KEY,
        # segment_id: the canonical id when the unit was first delivered, never rewritten.
        **_PARTS,
        # The canonical id that segment_id stood for at the last reconciliation. An unmerge shows as a change of it.
        "resolved_segment_id": "string",
        # In the audience or model, as far as this activation was told or silently recorded.
        "present": "boolean",
        # The destination has our record with the flag up: the last thing that it confirmed was an enter or a change.
        "held": "boolean",
        # Number of enters, confirmed or silently recorded.
        "episode": "int64",
        "confirmed_hash": "string",
        "confirmed_at": "timestamp",
        "attempted_hash": "string",
        # Definition revision of the newest attempt or silent record.
        "definition_revision": "string",
        # Operation of the newest attempt: enter, change, exit, retract.
        "operation": "string",
        # recorded (silently), delivered, rejected, waiting or unknown.
        "status": "string",
        # Operation whose effect at the destination is not known; '' when none. Survives a later waiting or rejected answer.
        "uncertain": "string",
        "reason": "string",
        "detail": "string",
        "warning": "string",
        "attempts": "int64",
        "first_attempt_at": "timestamp",
        "last_attempt_at": "timestamp",
        "not_before": "timestamp",
        "message_id": "string",
        "remote_id": "string",
        # as_of of the payloads that the row was last changed from, and the sync that changed it.
        "as_of": "timestamp",
        "seq": "int64",
    },
    "Where each key of an activation stands at a destination account: what is confirmed there (confirmed_hash, held), what was tried last "
    "(operation, status, reason, attempts, not_before), and how often the unit entered (episode). Rows are never deleted by a sync.",
    subject="segment_id",
    keys=KEY,
    personal=("destination_key",),
)
DELIVERY_STATE = TableSpec(
    TableRef(SCHEMA, "delivery_state"),
    {
        **_KEY,
        "segment_id": "string",
        "identifiers": "string",
        "exit_payload": "string",
        "retract_payload": "string",
        "attempted_payload": "string",
        "seq": "int64",
    },
    "What the destination was last sent for a key: identifiers and the exit and retract payloads that belong to the last enter or change, "
    "so that an exit goes where the enter went. attempted_payload: the newest message that was not delivered (dead letters). Erasable.",
    subject="segment_id",
    keys=KEY,
    personal=("destination_key", "identifiers", "exit_payload", "retract_payload", "attempted_payload"),
)
INTENTS = TableSpec(
    TableRef(SCHEMA, "intents"),
    {
        **_KEY,
        **_PARTS,
        "seq": "int64",
        # Canonical id now; its consent is what the message needs.
        "subject_id": "string",
        "resolved_segment_id": "string",
        # What is sent, or under a hold would be: enter, change, exit, retract, or '' for a silent change.
        "operation": "string",
        # planned until settled, then the outcome.
        "outcome": "string",
        "reason": "string",
        "detail": "string",
        "message_id": "string",
        "episode": "int64",
        # Order of sending: rank by operation (retract, exit, change, enter), then turn of the key.
        "rank": "int64",
        "turn": "int64",
        "attempts": "int64",
        "payload": "string",
        "payload_hash": "string",
        "exit_payload": "string",
        "retract_payload": "string",
        "identifiers": "string",
        "definition_revision": "string",
        "as_of": "timestamp",
        "warning": "string",
        "not_before": "timestamp",
    },
    "The newest sync of each activation and account: one row per key that is not unchanged, with its operation and outcome.",
    subject="segment_id",
    keys=KEY,
    personal=("destination_key", "payload", "exit_payload", "retract_payload", "identifiers"),
)
OUTCOMES = TableSpec(
    TableRef(SCHEMA, "outcomes"),
    {
        **_KEY,
        "segment_id": "string",
        "seq": "int64",
        "run_id": "string",
        "message_id": "string",
        "operation": "string",
        "episode": "int64",
        "payload_hash": "string",
        "status": "string",
        "reason": "string",
        "warning": "string",
        "attempted": "boolean",
        "attempted_at": "timestamp",
        "not_before": "timestamp",
        "remote_id": "string",
    },
    "Append-only: what became of every operation of every sync. attempted is false when it was never handed to the destination "
    "(parked, interrupted, consent withdrawn before its batch).",
    subject="segment_id",
    keys=("activation", "account", "seq", "message_id"),
    personal=("destination_key",),
)
SYNCS = TableSpec(
    TableRef(SCHEMA, "syncs"),
    {
        "activation": "string",
        "account": "string",
        "seq": "int64",
        "token": "string",
        "run_id": "string",
        "as_of": "timestamp",
        "definition_revision": "string",
        # planned, or settled.
        "state": "string",
        "hold": "string",
        "hold_detail": "string",
        "first_run": "boolean",
        "considered": "int64",
        "present": "int64",
        "leaving": "int64",
        "unchanged": "int64",
        "delivered": "int64",
        "warnings": "int64",
        "rejected": "int64",
        "waiting": "int64",
        "unknown": "int64",
        # JSON objects: reason -> count.
        "withheld": "string",
        "held": "string",
        # JSON object: operation -> count, of what was delivered.
        "operations": "string",
        "started_at": "timestamp",
        "ended_at": "timestamp",
    },
    "One row per sync with its accounting: considered = unchanged + delivered + rejected + waiting + unknown + withheld + held.",
    subject=None,
    keys=("activation", "account", "seq"),
)
ACTIVATION_STATE = TableSpec(
    TableRef(SCHEMA, "activation_state"),
    {
        "activation": "string",
        "account": "string",
        "destination": "string",
        "source": "string",
        # Of the last reconciliation; NULL before the first.
        "definition_revision": "string",
        "as_of": "timestamp",
        "tables": "string",
        "seq": "int64",
        "ledger_rows": "int64",
        # JSON list of the reasons that hold the newest sync, and those that a release lifted for the next one.
        "held": "string",
        "held_at": "timestamp",
        "released": "string",
        "release_action": "string",
        "released_at": "timestamp",
        "retired_at": "timestamp",
    },
    "What an activation last reconciled at an account: definition revision, as_of, row counts of the tables on its path; and what holds it.",
    subject=None,
    keys=("activation", "account"),
)
BUILDS = builds_spec(SCHEMA)

ROOM_TABLES = (LEDGER, DELIVERY_STATE, INTENTS, OUTCOMES, SYNCS, ACTIVATION_STATE)
TABLES = (*ROOM_TABLES, BUILDS)
