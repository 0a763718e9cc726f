"""What a message passes between the parser and the messages table: suppression, event filters, tracking plan, transformations.

A stage sees messages in bulk, as Arrow rows, and says of each row whether it goes on, and as what. It is a function of the rows and
of the space's configuration alone: the same rows give the same result, however they are cut into batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from cdp_assets.raw_events.tables import MESSAGES, VIOLATIONS

# The rows that stages see: the columns of the messages table but those that intake derives.
MESSAGE_BATCH = pa.schema([c for c in MESSAGES.schema.to_pyarrow() if c.name not in ("partition_key", "message_key")])
# Rows that do not go on: where they stand, why (a code of QUARANTINE_REASONS), and a detail that names fields, never values.
REFUSED = pa.schema([("file_hash", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
VIOLATION_BATCH = pa.schema([column for column in VIOLATIONS.schema.to_pyarrow() if column.name != "partition_key"])


@dataclass(frozen=True)
class StageResult:
    """``messages``: rows of MESSAGE_BATCH that go on, in their order, changed or not. ``refused``: the others, by REFUSED.

    ``violations``: rows of VIOLATION_BATCH, of messages that go on as well as of those that do not.
    """

    messages: pa.Table
    refused: pa.Table = field(default_factory=REFUSED.empty_table)
    violations: pa.Table = field(default_factory=VIOLATION_BATCH.empty_table)


class Stage(Protocol):
    """One step. It never raises for what a message holds."""

    def apply(self, messages: pa.Table) -> StageResult:
        """Judge rows of MESSAGE_BATCH: each is in ``messages`` or in ``refused`` of the result, never in both or neither."""
        ...
