"""Questions to the ledger, and second chances: what became of whom, dead letters, replay. What `cdp ledger` prints.

Destination keys are personal: they leave here masked, and a key is looked up by its plain value or by the hash that is shown.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ibis
import ibis.expr.types as ir

from cdp_assets.destination_syncs.states import Op, Outcome
from cdp_assets.destination_syncs.tables import DELIVERY_STATE, INTENTS, KEY, LEDGER, OUTCOMES, ROOM_TABLES, SYNCS
from cdp_assets.plots import bars, image
from resources.warehouse import Warehouse, naive_utc, timestamp_literal
from resources.warehouse import functions as fn

MASK = "•••"


@dataclass(frozen=True)
class Selection:
    """Which ledger rows. Everything given must hold; ``key`` is a destination key or the hash that is shown for it."""

    activation: str | None = None
    account: str | None = None
    key: str | None = None
    status: str | None = None
    reason: str | None = None
    run_id: str | None = None
    since: dt.datetime | None = None


def key_hash(key: str) -> str:
    """What is shown instead of a destination key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def masked(value: Any) -> Any:
    """A message with its field names and shape, and without its values. Booleans and nulls stay: they say what was wrong."""
    if isinstance(value, dict):
        return {name: masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return value if value is None or isinstance(value, bool) else MASK


def syncs(warehouse: Warehouse, *, activation: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """The newest syncs with their accounting, as rows of SYNCS with the JSON columns read."""
    warehouse.ensure(*ROOM_TABLES)
    table = warehouse.table(SYNCS.ref)
    if activation is not None:
        table = table.filter(table.activation == activation)
    rows = warehouse.rows(table.order_by(ibis.desc("started_at"), "activation", "account", ibis.desc("seq")), limit)
    for row in rows:
        for name in ("withheld", "held", "operations"):
            row[name] = json.loads(row[name] or "{}")
    return rows


# What a plot can show.
PLOTTED = 30


def syncs_of(warehouse: Warehouse, activation: str, account: str) -> list[dict[str, Any]]:
    """The newest settled syncs of an activation at an account, oldest first: seq, delivered, rejected, waiting and unknown."""
    table = warehouse.table(SYNCS.ref)
    own = table.filter(table.activation == activation, table.account == account, table.state == "settled")
    columns = ("seq", "delivered", "rejected", "waiting", "unknown")
    return warehouse.rows(own.select(*columns).order_by(ibis.desc("seq")), PLOTTED)[::-1]


def outcomes_plot(syncs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown with bars for each sync."""
    series = {name: [float(row[name] or 0) for row in syncs] for name in ("delivered", "rejected", "waiting", "unknown")}
    return image("outcomes", bars([f"#{row['seq']}" for row in syncs], series))


def outcomes(warehouse: Warehouse, *, activation: str | None = None) -> list[dict[str, Any]]:
    """Keys of each activation's newest sync by outcome, reason and operation, as rows with ``keys``. Unchanged keys are counted too."""
    warehouse.ensure(*ROOM_TABLES)
    intents, all_syncs = warehouse.table(INTENTS.ref), warehouse.table(SYNCS.ref)
    if activation is not None:
        intents = intents.filter(intents.activation == activation)
        all_syncs = all_syncs.filter(all_syncs.activation == activation)
    named = intents.mutate(reason=ibis.coalesce(intents.reason, ""))
    groups = named.group_by("activation", "account", "outcome", "reason", "operation").aggregate(keys=named.count())
    latest = all_syncs.group_by("activation", "account").aggregate(seq=all_syncs.seq.max())
    newest = all_syncs.join(latest, ["activation", "account", "seq"])
    same = newest.select(
        "activation",
        "account",
        outcome=ibis.literal("unchanged"),
        reason=ibis.literal(""),
        operation=ibis.literal(""),
        keys=newest.unchanged,
    )
    rows = warehouse.arrow(groups.union(same.filter(same["keys"] > 0))).to_pylist()
    return sorted(
        rows, key=lambda row: tuple(str(row[name]) for name in ("activation", "account", "outcome", "reason", "operation"))
    )


def refused_retracts(found: Iterable[Mapping[str, Any]]) -> int:
    """Of the rows of :func:`outcomes`, keys that the destination has refused to let go, in the newest sync or before."""
    return sum(row["keys"] for row in found if (row["outcome"], row["operation"]) == (Outcome.rejected, Op.retract))


def _selected(warehouse: Warehouse, selection: Selection) -> ir.Table:
    warehouse.ensure(*ROOM_TABLES)
    rows = warehouse.table(LEDGER.ref)
    if selection.activation is not None:
        rows = rows.filter(rows.activation == selection.activation)
    if selection.account is not None:
        rows = rows.filter(rows.account == selection.account)
    if selection.key is not None:
        rows = rows.filter(
            (rows.destination_key == selection.key) | (fn.sha256(rows.destination_key).substr(0, 16) == selection.key)
        )
    if selection.status is not None:
        rows = rows.filter(rows.status == selection.status)
    if selection.reason is not None:
        rows = rows.filter(rows.reason == selection.reason)
    if selection.since is not None:
        rows = rows.filter(rows.last_attempt_at >= timestamp_literal(selection.since))
    if selection.run_id is not None:
        attempts = warehouse.table(OUTCOMES.ref)
        of_run = attempts.filter(attempts.run_id == selection.run_id).select(*KEY).distinct()
        rows = rows.semi_join(of_run, list(KEY))
    return rows


def show(warehouse: Warehouse, selection: Selection, *, limit: int = 50) -> list[dict[str, Any]]:
    """Ledger rows with their newest undelivered message, keys and values masked: ``key`` holds the hash, ``request`` the message."""
    rows = _selected(warehouse, selection)
    stored = warehouse.table(DELIVERY_STATE.ref).select(*KEY, "attempted_payload")
    joined = rows.left_join(stored, list(KEY), rname="{name}_right")
    columns = [name for name in LEDGER.columns if name != "destination_key"]
    shown = joined.select(*columns, "destination_key", "attempted_payload").order_by(
        ibis.desc("last_attempt_at"), "activation", "account", "unit", "destination_key"
    )
    found = []
    for row in warehouse.rows(shown, limit):
        payload = row.pop("attempted_payload")
        key = key_hash(row.pop("destination_key"))
        found.append({**row, "key": key, "request": masked(json.loads(payload)) if payload else None})
    return found


def dead_letters(warehouse: Warehouse, selection: Selection | None = None, *, limit: int = 50) -> list[dict[str, Any]]:
    """Rejected keys, newest first, as :func:`show` gives them."""
    return show(warehouse, dataclasses.replace(selection or Selection(), status=Outcome.rejected), limit=limit)


def history(warehouse: Warehouse, selection: Selection, *, limit: int = 100) -> list[dict[str, Any]]:
    """Every attempt at the selected keys, newest first, keys as hashes."""
    rows = _selected(warehouse, selection).select(*KEY)
    attempts = warehouse.table(OUTCOMES.ref).semi_join(rows, list(KEY))
    ordered = attempts.order_by(ibis.desc("seq"), "activation", "account", "unit", "destination_key")
    found = warehouse.rows(ordered, limit)
    return [{**row, "key": key_hash(row.pop("destination_key"))} for row in found]


def replay(warehouse: Warehouse, selection: Selection, at: dt.datetime) -> int:
    """Let the next sync try the selected rejected keys again, and those that wait try at once. The number of keys."""
    rows = _selected(warehouse, selection)
    again = rows.filter(rows.status.isin([Outcome.rejected, Outcome.waiting]))
    # A rejected row keeps what was tried, so that a move to another key stays one.
    freed = again.mutate(
        status=ibis.literal(str(Outcome.waiting)),
        reason=ibis.literal("replay"),
        not_before=ibis.null("timestamp(6)"),
        first_attempt_at=timestamp_literal(at),
    )
    count = warehouse.count(again)
    if count:
        warehouse.upsert(LEDGER.ref, freed, list(KEY))
    return count


def resolve_unknown(
    warehouse: Warehouse, selection: Selection, decision: Literal["delivered", "not_delivered"], at: dt.datetime
) -> int:
    """Say what became of appends without an answer, after looking at the destination. The number of keys.

    ``delivered`` takes the newest attempt as confirmed; ``not_delivered`` frees the key, and the next sync sends what is due.
    """
    rows = _selected(warehouse, selection)
    open_ = rows.filter(rows.uncertain != "")
    count = warehouse.count(open_)
    if not count:
        return 0
    delivered = ibis.literal(decision == "delivered")
    adds = delivered & open_.uncertain.isin([Op.enter, Op.change])
    removes = delivered & open_.uncertain.isin([Op.exit, Op.retract])
    status = "delivered" if decision == "delivered" else "recorded"
    resolved = open_.mutate(
        present=ibis.cases((adds, True), (removes, False), else_=open_.present),
        held=ibis.cases((adds, True), (removes, False), else_=open_.held),
        episode=open_.episode + (delivered & (open_.uncertain == Op.enter)).cast("int64"),
        confirmed_hash=ibis.ifelse(adds, open_.attempted_hash, open_.confirmed_hash),
        confirmed_at=ibis.ifelse(delivered, ibis.literal(naive_utc(at), type="timestamp(6)"), open_.confirmed_at),
        status=ibis.literal(status),
        uncertain=ibis.literal(""),
        reason=ibis.literal("resolved by hand"),
    )
    warehouse.upsert(LEDGER.ref, resolved, list(KEY))
    return count
