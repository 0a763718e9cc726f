"""Settle: merge the journal's answers into the warehouse ledger, in bulk.

Idempotent: a sync that is settled is not open any more, and replaying the same answers writes the same rows. What an answer does to a
key's ledger row is in :func:`_ledger`, next to nothing else.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.destination_syncs.accounting import SyncResult, tally
from cdp_assets.destination_syncs.activation_state import of_activation
from cdp_assets.destination_syncs.journal import ANSWERS, Journal
from cdp_assets.destination_syncs.states import Op, Outcome
from cdp_assets.destination_syncs.tables import (
    ACTIVATION_STATE,
    DELIVERY_STATE,
    INTENTS,
    KEY,
    LEDGER,
    OUTCOMES,
    ROOM_TABLES,
    SCHEMA,
    SYNCS,
)
from resources.warehouse import TableRef, TableSpec, Warehouse, naive_utc, timestamp_literal

# Where the journal's answers land before they are merged.
ANSWERS_TABLE = TableSpec(
    TableRef(SCHEMA, "settling"),
    {
        "token": "string",
        **dict.fromkeys(("message_id", "status", "reason", "warning", "remote_id"), "string"),
        "attempted_at": "timestamp",
        "not_before": "timestamp",
    },
    "Answers of the delivery journal on their way into the ledger; empty between syncs.",
    subject=None,
)


@dataclass(frozen=True)
class OpenSync:
    """A sync whose outcomes the ledger does not have yet."""

    activation: str
    account: str
    seq: int
    token: str
    run_id: str
    row: Mapping[str, Any]


def open_syncs(warehouse: Warehouse, activation: str | None = None, account: str | None = None) -> list[OpenSync]:
    """Syncs that were planned and not settled, oldest first."""
    table = warehouse.table(SYNCS.ref)
    rows = table.filter(table.state == "planned")
    if activation is not None:
        rows = rows.filter(rows.activation == activation)
    if account is not None:
        rows = rows.filter(rows.account == account)
    found = warehouse.arrow(rows.order_by("activation", "account", "seq")).to_pylist()
    return [OpenSync(row["activation"], row["account"], row["seq"], row["token"], row["run_id"], row) for row in found]


def settle_all(
    warehouse: Warehouse, journal: Journal, now: dt.datetime, *, activation: str | None = None, account: str | None = None
) -> list[SyncResult]:
    """Settle every open sync (of one activation and account, when given), and clear journal entries that no sync belongs to."""
    warehouse.ensure(*ROOM_TABLES, ANSWERS_TABLE)
    results = [settle_sync(warehouse, journal, sync, now) for sync in open_syncs(warehouse, activation, account)]
    for entry in journal.unsettled(activation, account):
        if entry.state == "planning":
            journal.forget(entry.token)  # the warehouse never had it
        else:
            journal.settled(entry.token)  # the warehouse has it settled, or lost it: then the next plan holds
    return results


def settle_sync(warehouse: Warehouse, journal: Journal, sync: OpenSync, now: dt.datetime, batches: int = 0) -> SyncResult:
    """Merge the answers of one sync, and count it. Raises :class:`accounting.AccountingError` when the counts do not add up."""
    if not _sends(warehouse, sync):
        with warehouse.transaction():
            result = _count(warehouse, sync, now, batches)
        journal.settled(sync.token)
        return result
    state = journal.state(sync.token)
    # Only a journal that never heard of the sync, or has forgotten its operations, leaves open what was sent.
    if state in ("planning", "ready"):
        missing, reason = Outcome.waiting, "interrupted"
    else:
        missing, reason = Outcome.unknown, "journal lost"
    warehouse.delete(ANSWERS_TABLE.ref, [("token", "=", sync.token)])
    if state == "ready":
        for page in journal.answers(sync.token):
            warehouse.append(ANSWERS_TABLE.ref, page.append_column("token", pa.array([sync.token] * page.num_rows, pa.string())))
    statements = _Statements(warehouse, sync, now)
    with (
        warehouse.staged(statements.answered(missing, reason), name="sync_answered") as answered,
        warehouse.staged(statements.ledger(answered)) as ledger,
        warehouse.staged(statements.stored(answered)) as stored,
        warehouse.transaction(),
    ):
        _merge(warehouse, sync, answered, ledger, stored)
        result = _count(warehouse, sync, now, batches)
        warehouse.delete(ANSWERS_TABLE.ref, [("token", "=", sync.token)])
    journal.settled(sync.token)
    return result


def _sends(warehouse: Warehouse, sync: OpenSync) -> bool:
    intents = warehouse.table(INTENTS.ref)
    mine = intents.filter(intents.activation == sync.activation, intents.account == sync.account)
    return warehouse.count(mine.filter(mine.outcome == Outcome.planned)) > 0


# Stand for what varies between two settlements (Warehouse.template).
_MARK = OpenSync("cdp:activation", "cdp:account", 987_654_321_987_001, "cdp:token", "cdp:run", {})
_MARKED_NOW = dt.datetime(1800, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class _Statements:
    """The statements of one settlement."""

    warehouse: Warehouse
    sync: OpenSync
    now: dt.datetime

    def _template(self, name: str, build: Callable[[], ir.Table], *shape: Hashable) -> ir.Table:
        values: dict[Any, Any] = {
            getattr(_MARK, part): getattr(self.sync, part) for part in ("activation", "account", "seq", "token")
        }
        return self.warehouse.template(("destination_syncs.settle", name, shape), build, {**values, _MARKED_NOW: self.now})

    def answered(self, missing: Outcome, reason: str) -> ir.Table:
        return self._template("answered", lambda: _answered(self.warehouse, _MARK, missing, reason, _MARKED_NOW), missing, reason)

    def ledger(self, answered: ir.Table) -> ir.Table:
        return self._template("ledger", lambda: _ledger(self.warehouse, answered, _MARK))

    def stored(self, answered: ir.Table) -> ir.Table:
        return self._template("stored", lambda: _delivery_state(self.warehouse, answered, _MARK))


def _answered(warehouse: Warehouse, sync: OpenSync, missing: Outcome, reason: str, now: dt.datetime) -> ir.Table:
    """The sync's operations with ``status``, ``reason``, ``attempted`` and what else the answer said."""
    intents = warehouse.table(INTENTS.ref)
    planned = intents.filter(
        intents.activation == sync.activation,
        intents.account == sync.account,
        intents.seq == sync.seq,
        intents.outcome == Outcome.planned,
    ).drop("reason", "warning", "not_before", "outcome")
    answers = warehouse.table(ANSWERS_TABLE.ref)
    answers = answers.filter(answers.token == sync.token)
    answers = answers.select(**{f"a_{name}": answers[name] for name in ANSWERS.names})
    rows = planned.left_join(answers, [("message_id", "a_message_id")])
    lost = rows.a_status.isnull()
    # Whether it was sent is not known either when the journal is lost: count it as an attempt.
    attempted = ibis.ifelse(lost, ibis.literal(missing is Outcome.unknown), rows.a_attempted_at.notnull())
    return rows.mutate(
        status=ibis.coalesce(rows.a_status, str(missing)),
        reason=ibis.ifelse(lost, reason, ibis.coalesce(rows.a_reason, "")),
        warning=ibis.coalesce(rows.a_warning, ""),
        remote_id=ibis.coalesce(rows.a_remote_id, ""),
        not_before=rows.a_not_before,
        attempted=attempted,
        attempted_at=ibis.ifelse(
            attempted, ibis.coalesce(rows.a_attempted_at, timestamp_literal(now)), ibis.null("timestamp(6)")
        ),
        settled_at=timestamp_literal(now),
    ).drop(*(f"a_{name}" for name in ANSWERS.names))


def _ledger(warehouse: Warehouse, answered: ir.Table, sync: OpenSync) -> ir.Table:
    """Whole ledger rows after the answers.

    delivered: what was sent is confirmed. unknown: its effect is in doubt until something is confirmed. rejected and waiting: nothing
    moved, and an older doubt stays. withheld at the last moment: no trace here, the key is evaluated anew.
    """
    a = answered.filter(answered.status != Outcome.withheld)
    a = a.select(**{f"n_{name}": a[name] for name in a.columns})
    ledger = warehouse.table(LEDGER.ref)
    mine = ledger.filter(ledger.activation == sync.activation, ledger.account == sync.account)
    rows = a.left_join(mine, [("n_unit", "unit"), ("n_destination_key", "destination_key")])
    adds, removes = rows.n_operation.isin([Op.enter, Op.change]), rows.n_operation.isin([Op.exit, Op.retract])
    delivered, unknown = rows.n_status == Outcome.delivered, rows.n_status == Outcome.unknown
    was_in, doubt = ibis.coalesce(rows.present, False), ibis.coalesce(rows.uncertain, "")
    # A move to another key keeps its episode even before it gets through.
    keeps_episode = (rows.n_operation == Op.change) & ~was_in
    unresolved = ibis.coalesce(rows.status, "").isin([Outcome.waiting, Outcome.unknown])
    since = ibis.ifelse(unresolved, rows.first_attempt_at, ibis.null("timestamp(6)"))
    return rows.select(
        activation=rows.n_activation,
        account=rows.n_account,
        unit=rows.n_unit,
        destination_key=rows.n_destination_key,
        segment_id=ibis.coalesce(rows.segment_id, rows.n_segment_id),
        path=rows.n_path,
        entity_id=rows.n_entity_id,
        row_key=rows.n_row_key,
        resolved_segment_id=ibis.coalesce(rows.resolved_segment_id, rows.n_resolved_segment_id),
        present=ibis.cases((delivered & adds, True), (delivered & removes, False), else_=was_in),
        held=ibis.cases((delivered & adds, True), (delivered & removes, False), else_=ibis.coalesce(rows.held, False)),
        episode=ibis.ifelse(delivered | keeps_episode, rows.n_episode, ibis.coalesce(rows.episode, 0)),
        confirmed_hash=ibis.ifelse(delivered & adds, rows.n_payload_hash, rows.confirmed_hash),
        confirmed_at=ibis.ifelse(delivered, rows.n_attempted_at, rows.confirmed_at),
        attempted_hash=rows.n_payload_hash,
        definition_revision=rows.n_definition_revision,
        operation=rows.n_operation,
        status=rows.n_status,
        # Removing who may or may not be there leaves that question open.
        uncertain=ibis.cases((delivered, ""), (unknown & removes & ~was_in, doubt), (unknown, rows.n_operation), else_=doubt),
        reason=rows.n_reason,
        detail=rows.n_detail,
        warning=rows.n_warning,
        attempts=ibis.ifelse(unresolved, ibis.coalesce(rows.attempts, 0), 0) + rows.n_attempted.cast("int64"),
        first_attempt_at=ibis.coalesce(since, rows.n_attempted_at, rows.n_settled_at),
        last_attempt_at=ibis.coalesce(rows.n_attempted_at, rows.last_attempt_at),
        not_before=rows.n_not_before,
        message_id=rows.n_message_id,
        remote_id=rows.n_remote_id,
        as_of=rows.n_as_of,
        seq=ibis.literal(sync.seq, type="int64"),
    )


def _delivery_state(warehouse: Warehouse, answered: ir.Table, sync: OpenSync) -> ir.Table:
    """Whole delivery-state rows after the answers; a delivered exit or retract leaves none."""
    gone = (answered.status == Outcome.delivered) & answered.operation.isin([Op.exit, Op.retract])
    a = answered.filter((answered.status != Outcome.withheld) & ~gone)
    a = a.select(
        **{
            f"n_{name}": a[name]
            for name in (*KEY, "segment_id", "status", "payload", "exit_payload", "retract_payload", "identifiers")
        }
    )
    stored = warehouse.table(DELIVERY_STATE.ref)
    mine = stored.filter(stored.activation == sync.activation, stored.account == sync.account)
    rows = a.left_join(mine, [("n_unit", "unit"), ("n_destination_key", "destination_key")])
    delivered = rows.n_status == Outcome.delivered
    # What may have arrived decides where an exit goes; what surely did not, does not.
    arrived = delivered | (rows.n_status == Outcome.unknown)
    return rows.select(
        activation=rows.n_activation,
        account=rows.n_account,
        unit=rows.n_unit,
        destination_key=rows.n_destination_key,
        segment_id=ibis.coalesce(rows.segment_id, rows.n_segment_id),
        identifiers=ibis.ifelse(arrived, rows.n_identifiers, rows.identifiers),
        exit_payload=ibis.ifelse(arrived, rows.n_exit_payload, rows.exit_payload),
        retract_payload=ibis.ifelse(arrived, rows.n_retract_payload, rows.retract_payload),
        attempted_payload=ibis.ifelse(delivered, ibis.null("string"), rows.n_payload),
        seq=ibis.literal(sync.seq, type="int64"),
    )


def _merge(warehouse: Warehouse, sync: OpenSync, answered: ir.Table, ledger: ir.Table, stored: ir.Table) -> None:
    acted = answered.filter(answered.status != Outcome.withheld)
    warehouse.delete_matching(LEDGER.ref, ledger, KEY)
    warehouse.insert(LEDGER.ref, ledger)
    warehouse.delete_matching(DELIVERY_STATE.ref, acted, KEY)
    warehouse.insert(DELIVERY_STATE.ref, stored)
    warehouse.delete(OUTCOMES.ref, [*of_activation(sync.activation, sync.account), ("seq", "=", sync.seq)])
    outcomes = answered.mutate(run_id=ibis.literal(sync.run_id, type="string"))
    warehouse.insert(OUTCOMES.ref, outcomes.select(*OUTCOMES.columns))
    # The messages themselves have served; what an exit or a dead letter needs is in the delivery state.
    done = answered.mutate(
        outcome=answered.status,
        **dict.fromkeys(("payload", "exit_payload", "retract_payload", "identifiers"), ibis.null("string")),
    )
    warehouse.delete_matching(INTENTS.ref, done, KEY)
    warehouse.insert(INTENTS.ref, done.select(*INTENTS.columns))


def _count(warehouse: Warehouse, sync: OpenSync, now: dt.datetime, batches: int) -> SyncResult:
    """Count the sync from its rows, close it, and check the accounting identity."""
    intents = warehouse.table(INTENTS.ref)
    mine = intents.filter(intents.activation == sync.activation, intents.account == sync.account)
    keyed = mine.mutate(warned=ibis.coalesce(mine.warning, "") != "")
    groups = keyed.group_by("outcome", "reason", "operation", "warned").aggregate(n=keyed.count())
    totals = tally(warehouse.arrow(groups).to_pylist())
    closed = {
        **sync.row,
        **{name: json.dumps(value) if isinstance(value, dict) else value for name, value in totals.items()},
        "state": "settled",
        "ended_at": naive_utc(now),
    }
    warehouse.delete(SYNCS.ref, [*of_activation(sync.activation, sync.account), ("seq", "=", sync.seq)])
    warehouse.append(SYNCS.ref, pa.Table.from_pylist([closed], schema=SYNCS.schema.to_pyarrow()))
    _remember_size(warehouse, sync)
    return SyncResult(
        activation=sync.activation,
        account=sync.account,
        seq=sync.seq,
        considered=sync.row["considered"],
        unchanged=sync.row["unchanged"],
        hold=sync.row["hold"] or "",
        hold_detail=sync.row["hold_detail"] or "",
        batches=batches,
        **totals,
    ).check()


def _remember_size(warehouse: Warehouse, sync: OpenSync) -> None:
    """The ledger's size goes to the activation's state: a ledger that is empty later was lost."""
    ledger = warehouse.table(LEDGER.ref)
    size = warehouse.count(ledger.filter(ledger.activation == sync.activation, ledger.account == sync.account))
    states = warehouse.table(ACTIVATION_STATE.ref)
    rows = warehouse.arrow(states.filter(states.activation == sync.activation, states.account == sync.account))
    if rows.num_rows:
        index = rows.schema.get_field_index("ledger_rows")
        updated = rows.set_column(index, "ledger_rows", pa.array([size] * rows.num_rows, pa.int64()))
        warehouse.delete(ACTIVATION_STATE.ref, of_activation(sync.activation, sync.account))
        warehouse.append(ACTIVATION_STATE.ref, updated)
