"""Tables of the room that only the room itself reads: what the next build continues from.

Profiles and identifiers are numbers here: a profile's is the seq of the entry that created it, an identifier's depends on when it
arrived.
"""

from __future__ import annotations

from cdp_assets.unified_profiles.tables import CORRECTIONS, SCHEMA
from resources.warehouse import TableRef, TableSpec

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
    "The identifiers of each type that a profile showed last, when, and the seq of their newest mapping rows. "
    "Without an identifier: it was removed since.",
    subject="identifier_id",
    keys=("profile", "identifier_type", "position"),
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
