"""Retire: end an activation for good. Deleting its file only stops it; its key stays taken, and a successor with its source and
destination is held as renamed until it is retired."""

from __future__ import annotations

import dataclasses
import datetime as dt

from cdp_assets.destination_syncs.accounting import SyncResult
from cdp_assets.destination_syncs.activation_state import read_states, write_state
from cdp_assets.destination_syncs.plan import SyncRequest
from cdp_assets.destination_syncs.sync import Surroundings, sync_activation
from resources.warehouse import Warehouse, naive_utc


class UnknownActivationError(Exception):
    """No sync of such an activation is known."""


def retire(warehouse: Warehouse, activation: str, at: dt.datetime, *, account: str | None = None) -> list[str]:
    """End the activation and exit nobody: what the destination holds stays there. The accounts where it ended.

    Raises :class:`UnknownActivationError`.
    """
    ended = []
    with warehouse.transaction():
        for (key, where), state in sorted(read_states(warehouse).items()):
            if key == activation and (account is None or where == account):
                write_state(warehouse, key, where, dataclasses.replace(state, retired_at=naive_utc(at)))
                ended.append(where)
    if not ended:
        raise UnknownActivationError(f"no sync of {activation} is known; nothing to retire")
    return ended


def retire_with_exits(request: SyncRequest, around: Surroundings) -> SyncResult:
    """End the activation and exit everybody who is in: by an exit message where the trigger has one, else by a retract.

    No guardrail holds it. Call it again while the result has ``waiting`` or ``unknown`` keys.
    """
    return sync_activation(dataclasses.replace(request, retiring=True), around)
