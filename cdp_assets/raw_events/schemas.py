"""What the tables of the raw_events room must look like. Enforced by :mod:`cdp_assets.quality`."""

from __future__ import annotations

from typing import Final

import ibis.expr.types as ir
import pandera.ibis as pa

from cdp_assets.quality import RowRule, schema_of
from cdp_assets.raw_events.plan_findings import VIOLATION_TYPES
from cdp_assets.raw_events.plan_verdicts import ACTIONS
from cdp_assets.raw_events.stages import WITHOUT_RAW
from cdp_assets.raw_events.tables import DUPLICATES, MESSAGES, QUARANTINE, SUPPRESSIONS, VIOLATIONS
from resources.warehouse import Warehouse

MESSAGE_TYPES: Final = ("identify", "track", "page", "screen", "group", "alias")

# Why a line is not a message, or a message does not go on: what landing files, the parser and the stages can say.
QUARANTINE_REASONS: Final = (
    "consent_invalid",
    "consent_missing",
    "event_filter",
    "event_missing",
    "field_invalid",
    "fql_invalid",
    "gzip_corrupt",
    "gzip_truncated",
    "group_id_missing",
    "identity_missing",
    "invalid_json",
    "invalid_utf8",
    "line_too_long",
    "message_id_missing",
    "message_id_too_long",
    "not_gzip",
    "not_object",
    "nul_byte",
    "plan_common_violation",
    "plan_unplanned_event",
    "plan_violation",
    "previous_id_missing",
    "received_at_invalid",
    "received_at_missing",
    "suppressed",
    "timestamp_invalid",
    "too_deep",
    "transformation_dropped",
    "type_missing",
    "type_unknown",
    "utf16",
)

MESSAGES_SCHEMA = schema_of(
    MESSAGES,
    not_null=("partition_key", "type", "timestamp", "received_at", "file_hash", "line"),
    checks={
        "message_id": pa.Check.str_length(1, 100),
        "type": pa.Check.isin(MESSAGE_TYPES),
        "line": pa.Check.ge(1),
    },
)
QUARANTINE_SCHEMA = schema_of(
    QUARANTINE,
    not_null=("partition_key", "file_hash", "file", "line", "reason"),
    unique=("file_hash", "line"),
    checks={"reason": pa.Check.isin(QUARANTINE_REASONS), "line": pa.Check.ge(1)},
)
DUPLICATES_SCHEMA = schema_of(
    DUPLICATES,
    not_null=("partition_key", "message_id", "received_at", "file_hash", "line"),
    unique=("file_hash", "line"),
)
VIOLATIONS_SCHEMA = schema_of(
    VIOLATIONS,
    not_null=("partition_key", "message_id", "type", "violation_type", "field", "description", "action", "received_at", "line"),
    checks={
        "type": pa.Check.isin(MESSAGE_TYPES),
        "violation_type": pa.Check.isin(VIOLATION_TYPES),
        "action": pa.Check.isin(ACTIONS),
        "line": pa.Check.ge(1),
    },
)
SUPPRESSIONS_SCHEMA = schema_of(
    SUPPRESSIONS,
    not_null=("identifier_type", "value_hash", "suppressed_at"),
    checks={"identifier_type": pa.Check.str_length(min_value=1), "value_hash": pa.Check.str_matches("[0-9a-f]{64}")},
)


def quarantine_rules() -> list[RowRule]:
    """Nothing is kept of a line whose reason says so."""

    def failing(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        return table.filter(table.reason.isin(sorted(WITHOUT_RAW)) & table.raw.notnull())

    return [RowRule("nothing_kept_of_the_suppressed", "a suppressed line has no text", failing)]


def suppression_rules() -> list[RowRule]:
    """A suppression ends after it began, and an identifier has one in force at most."""

    def backwards(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        return table.filter(table.lifted_at < table.suppressed_at)

    def twice(warehouse: Warehouse, table: ir.Table) -> ir.Table:
        open_ones = table.filter(table.lifted_at.isnull())
        counted = open_ones.group_by("identifier_type", "value_hash").aggregate(n=open_ones.count())
        return open_ones.semi_join(counted.filter(counted.n > 1), ["identifier_type", "value_hash"])

    return [
        RowRule("lifted_after_it_began", "lifted_at is not before suppressed_at", backwards),
        RowRule("in_force_once", "an identifier is suppressed once at a time", twice),
    ]
