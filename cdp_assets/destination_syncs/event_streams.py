"""Which events of an activation's stream a sync has dealt with: those the next payloads leave out."""

from __future__ import annotations

import datetime as dt

from cdp_assets.activation_payloads.tables import DealtWith
from cdp_assets.destination_syncs.states import Outcome
from cdp_assets.destination_syncs.tables import ACTIVATION_STATE, LEDGER
from cdp_assets.space.models.activations import Activation
from resources.warehouse import Warehouse


def dealt_with(warehouse: Warehouse, activation: Activation, account: str) -> DealtWith:
    """What syncs of the activation at the account have dealt with. Everything that is not, comes again."""
    if not (warehouse.has(LEDGER.ref) and warehouse.has(ACTIVATION_STATE.ref)):
        return DealtWith()
    ledger = warehouse.table(LEDGER.ref)
    own = ledger.filter(ledger.activation == activation.key, ledger.account == account)
    unresolved = own.status.isin([Outcome.waiting, Outcome.unknown, Outcome.rejected]) | (own.uncertain != "")
    done = (own.present | own.held) & ~unresolved
    states = warehouse.table(ACTIVATION_STATE.ref)
    state = warehouse.rows(states.filter(states.activation == activation.key, states.account == account).select("as_of"), 1)
    reconciled = state[0]["as_of"] if state else None
    days = dt.timedelta(days=activation.retry_for_days)
    return DealtWith(
        own.filter(done).select("unit"),
        own.filter(~done).select("unit"),
        None if reconciled is None else reconciled.replace(tzinfo=dt.UTC) - days,
    )
