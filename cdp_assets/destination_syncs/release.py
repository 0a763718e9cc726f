"""Release: let a held activation go on, by sending what it holds or by taking it as sent."""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import Literal

from cdp_assets.destination_syncs.activation_state import read_states, write_state
from resources.warehouse import Warehouse, naive_utc

ReleaseAction = Literal["send", "rebaseline"]


class NothingHeldError(Exception):
    """The activation is not held by anything that a release lifts."""


@dataclass(frozen=True)
class Release:
    """What was lifted at an account: the codes of the holds."""

    activation: str
    account: str
    action: ReleaseAction
    lifted: tuple[str, ...]


def release(
    warehouse: Warehouse, activation: str, action: ReleaseAction, at: dt.datetime, *, account: str | None = None
) -> list[Release]:
    """Lift what held the activation's newest sync, at every account or the given one, for its next sync.

    ``send``: the next sync sends the differences. ``rebaseline``: it records them as confirmed and sends none of them. A release lifts
    exactly what was held, so a table that empties afterwards holds again, and it is used up by the first sync that is not held.
    Raises :class:`NothingHeldError`; holds for a backfill or for checks end by themselves.
    """
    released = []
    with warehouse.transaction():
        for (key, where), state in sorted(read_states(warehouse).items()):
            if key != activation or (account is not None and where != account) or not state.held:
                continue
            lifted = tuple(sorted({*state.released, *state.held}))
            updated = dataclasses.replace(state, released=lifted, release_action=action, released_at=naive_utc(at))
            write_state(warehouse, key, where, updated)
            released.append(Release(key, where, action, state.held))
    if not released:
        raise NothingHeldError(
            f"nothing holds {activation} that a release lifts (a backfill or failed checks end by themselves; see `cdp ledger`)"
        )
    return released
