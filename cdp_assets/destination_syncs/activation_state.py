"""What an activation last reconciled at an account, and what holds it: one row of ``activation_state`` each."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from cdp_assets.destination_syncs.tables import ACTIVATION_STATE
from resources.warehouse import Condition, Warehouse, naive_utc


@dataclass(frozen=True)
class State:
    """What the activation last reconciled at the account. ``revision`` is None before the first reconciliation."""

    destination: str = ""
    source: str = ""
    revision: str | None = None
    as_of: dt.datetime | None = None
    tables: Mapping[str, int] = field(default_factory=dict)
    seq: int = 0
    ledger_rows: int = 0
    held: tuple[str, ...] = ()
    held_at: dt.datetime | None = None
    released: tuple[str, ...] = ()
    release_action: str | None = None
    released_at: dt.datetime | None = None
    retired_at: dt.datetime | None = None


def of_activation(activation: str, account: str) -> list[Condition]:
    """Condition on the rows of an activation at an account."""
    return [("activation", "=", activation), ("account", "=", account)]


def read_states(warehouse: Warehouse) -> dict[tuple[str, str], State]:
    """State of every activation at every account, by (activation, account)."""
    warehouse.ensure(ACTIVATION_STATE)
    found = {}
    for row in warehouse.arrow(warehouse.table(ACTIVATION_STATE.ref)).to_pylist():
        found[row["activation"], row["account"]] = State(
            destination=row["destination"] or "",
            source=row["source"] or "",
            revision=row["definition_revision"],
            as_of=row["as_of"].replace(tzinfo=dt.UTC) if row["as_of"] else None,
            tables=json.loads(row["tables"] or "{}"),
            seq=row["seq"] or 0,
            ledger_rows=row["ledger_rows"] or 0,
            held=tuple(json.loads(row["held"] or "[]")),
            held_at=row["held_at"],
            released=tuple(json.loads(row["released"] or "[]")),
            release_action=row["release_action"],
            released_at=row["released_at"],
            retired_at=row["retired_at"],
        )
    return found


def write_state(warehouse: Warehouse, activation: str, account: str, state: State) -> None:
    """Replace the activation's state at the account. Call it within a transaction."""
    warehouse.delete(ACTIVATION_STATE.ref, of_activation(activation, account))
    row = {
        "activation": activation,
        "account": account,
        "destination": state.destination,
        "source": state.source,
        "definition_revision": state.revision,
        "as_of": naive_utc(state.as_of) if state.as_of else None,
        "tables": json.dumps(dict(state.tables), sort_keys=True),
        "seq": state.seq,
        "ledger_rows": state.ledger_rows,
        "held": json.dumps(list(state.held)),
        "held_at": state.held_at,
        "released": json.dumps(list(state.released)),
        "release_action": state.release_action,
        "released_at": state.released_at,
        "retired_at": state.retired_at,
    }
    warehouse.append(ACTIVATION_STATE.ref, pa.Table.from_pylist([row], schema=ACTIVATION_STATE.schema.to_pyarrow()))
