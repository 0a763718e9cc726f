"""What a sync writes about the keys that it decided on: intents, and the ledger rows and delivery states that are recorded silently.

Expressions only; when they are written, and in which transaction, is in :mod:`plan`.
"""

from __future__ import annotations

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from cdp_assets.activation_payloads.tables import MESSAGE_ID_TOKEN, PAYLOADS, TIMESTAMP_TOKEN
from cdp_assets.destination_syncs import states
from cdp_assets.destination_syncs.keys import Reconciliation
from cdp_assets.destination_syncs.people import Scope
from cdp_assets.destination_syncs.states import RANK, Effect, Op, Outcome, Policy
from cdp_assets.destination_syncs.tables import DELIVERY_STATE, LEDGER
from resources.warehouse import Warehouse, timestamp_literal
from resources.warehouse import functions as fn


@dataclass(frozen=True)
class Intents:
    """What the sync is going to write, from the classified keys and the hold that it is under."""

    both: Reconciliation
    classified: ir.Table
    hold: str
    retracts_pass: bool

    def _decided(self) -> ir.Table:
        if not self.hold:
            return self.classified
        return states.under_hold(self.classified, self.hold, retracts_pass=self.retracts_pass)

    def intents(self) -> ir.Table:
        both = self.both
        build = lambda: _rows(both.warehouse, self._decided(), both.scope)  # noqa: E731
        return both.template("intents", build, self.hold, self.retracts_pass)

    def recorded(self, policy: Policy) -> ir.Table:
        both = self.both
        return both.template("recorded", lambda: _recorded(both.warehouse, self.classified, both.scope, policy), policy)

    def stored(self) -> ir.Table:
        both = self.both
        return both.template("stored", lambda: _recorded_states(both.warehouse, self.classified, both.scope))


def _rows(warehouse: Warehouse, decided: ir.Table, scope: Scope) -> ir.Table:
    """The rows of INTENTS: every key that is not unchanged, with the message of those that are to be sent."""
    keys = decided.filter((decided.outcome != Outcome.unchanged) & ~decided.shadow)
    payloads = warehouse.table(PAYLOADS.ref)
    newest = payloads.filter(payloads.activation == scope.activation).select(
        p_unit="unit",
        p_payload="payload",
        p_exit="exit_payload",
        p_retract="retract_payload",
        p_identifiers="identifiers",
        p_occurred_at="occurred_at",
    )
    stored = warehouse.table(DELIVERY_STATE.ref)
    mine = stored.filter(stored.activation == scope.activation, stored.account == scope.account)
    mine = mine.select(
        s_unit="unit",
        s_key="destination_key",
        s_exit="exit_payload",
        s_retract="retract_payload",
        s_identifiers="identifiers",
    )
    rows = keys.left_join(newest, [("now_unit", "p_unit")])
    rows = rows.left_join(mine, [("unit", "s_unit"), ("destination_key", "s_key")])
    adds, planned = rows.operation.isin([Op.enter, Op.change]), rows.outcome == Outcome.planned
    message = ibis.cases((adds, rows.p_payload), (rows.operation == Op.exit, rows.s_exit), else_=rows.s_retract)
    rows = rows.mutate(
        adds=adds,
        message=ibis.ifelse(planned, message, ibis.null("string")),
        # An erased person's exit has nothing left to say, and nowhere to go.
        empty=planned & message.isnull(),
        message_hash=ibis.ifelse(adds, rows.payload_hash, fn.sha256(message)),
    )
    rows = rows.mutate(message_id=message_id_expression(rows, scope.activation, scope.account))
    sent = rows.message.replace(MESSAGE_ID_TOKEN, rows.message_id).replace(TIMESTAMP_TOKEN, scope.instant)
    rank = ibis.cases(*((rows.operation == op, place) for op, place in RANK.items()), else_=9)
    turn = ibis.row_number().over(group_by=["operation", "destination_key"], order_by=["p_occurred_at", "unit"])
    only = lambda column: ibis.ifelse(planned, column, ibis.null("string"))  # noqa: E731
    return rows.select(
        activation=ibis.literal(scope.activation),
        account=ibis.literal(scope.account),
        unit=rows.unit,
        destination_key=rows.destination_key,
        segment_id=rows.segment_id,
        path=rows.path,
        entity_id=rows.entity_id,
        row_key=rows.row_key,
        seq=ibis.literal(scope.seq, type="int64"),
        subject_id=rows.subject_id,
        resolved_segment_id=rows.now_id,
        operation=rows.operation,
        outcome=ibis.ifelse(rows.empty, str(Outcome.withheld), rows.outcome),
        reason=ibis.ifelse(rows.empty, "no_identifier", ibis.ifelse(planned, "", rows.reason)),
        detail=ibis.ifelse(planned, rows.reason, rows.detail),
        message_id=ibis.ifelse(planned, rows.message_id, ibis.null("string")),
        episode=rows.next_episode,
        rank=rank,
        turn=turn,
        attempts=rows.attempts,
        payload=sent,
        payload_hash=ibis.ifelse(planned, rows.message_hash, rows.payload_hash),
        exit_payload=only(ibis.ifelse(rows.adds, rows.p_exit, rows.s_exit)),
        retract_payload=only(ibis.ifelse(rows.adds, rows.p_retract, rows.s_retract)),
        identifiers=only(ibis.ifelse(rows.adds, rows.p_identifiers, rows.s_identifiers)),
        definition_revision=ibis.literal(scope.definition_revision),
        as_of=timestamp_literal(scope.as_of),
        warning=ibis.null("string"),
        not_before=rows.not_before,
    )


def message_id_expression(rows: ir.Table, activation: str, account: str) -> ir.StringValue:
    """:func:`states.message_id` over rows with unit, destination_key, operation, next_episode and message_hash."""
    text = ibis.literal(activation).concat(
        "|",
        ibis.literal(account),
        "|",
        fn.sha256(rows.unit),
        "|",
        fn.sha256(rows.destination_key),
        "|",
        rows.operation,
        "|",
        rows.next_episode.cast("string"),
        ibis.ifelse(rows.operation == Op.change, ibis.literal("|").concat(ibis.coalesce(rows.message_hash, "")), ""),
    )
    return fn.sha256(text)


def _recorded(warehouse: Warehouse, decided: ir.Table, scope: Scope, policy: Policy) -> ir.Table:
    """Whole ledger rows of the keys that are recorded silently."""
    keys = decided.filter(decided.effect != "")
    keys = keys.select(
        **{
            f"k_{name}": keys[name]
            for name in (
                *("unit", "destination_key", "segment_id", "path", "entity_id", "row_key", "now_id", "effect", "payload_hash"),
                *("uncertain", "next_episode", "operation", "held", "outcome", "reason"),
            )
        },
        k_maybe=states.maybe(keys),
    )
    ledger = warehouse.table(LEDGER.ref)
    mine = ledger.filter(ledger.activation == scope.activation, ledger.account == scope.account)
    rows = keys.left_join(mine, [("k_unit", "unit"), ("k_destination_key", "destination_key")])
    arm, expire = rows.k_effect == Effect.arm, rows.k_effect == Effect.expire
    ends = rows.k_effect.isin([Effect.arm, Effect.disarm, Effect.drop])
    sends_enter = policy.reactions.enter is states.Reaction.send
    # An event that is not sent and never will be.
    passed_over = arm & (rows.k_outcome == Outcome.withheld)
    now = timestamp_literal(scope.now)
    return rows.select(
        activation=ibis.literal(scope.activation),
        account=ibis.literal(scope.account),
        unit=rows.k_unit,
        destination_key=rows.k_destination_key,
        segment_id=rows.k_segment_id,
        path=rows.k_path,
        entity_id=rows.k_entity_id,
        row_key=rows.k_row_key,
        resolved_segment_id=rows.k_now_id,
        present=ibis.cases((arm, True), (ends, False), else_=ibis.coalesce(rows.present, False)),
        held=ibis.cases(
            (rows.k_effect == Effect.drop, False),
            (arm, rows.k_held | (ibis.literal(sends_enter) & ~passed_over)),
            else_=rows.k_held | rows.k_maybe,
        ),
        episode=rows.k_next_episode,
        confirmed_hash=ibis.ifelse(arm, rows.k_payload_hash, rows.confirmed_hash),
        confirmed_at=ibis.ifelse(arm, now, rows.confirmed_at),
        attempted_hash=ibis.ifelse(expire, ibis.coalesce(rows.k_payload_hash, rows.attempted_hash), rows.attempted_hash),
        definition_revision=ibis.literal(scope.definition_revision),
        operation=ibis.ifelse(expire, rows.k_operation, ""),
        status=ibis.ifelse(expire, str(Outcome.rejected), "recorded"),
        uncertain=ibis.ifelse(expire, rows.k_uncertain, ""),
        reason=ibis.cases((expire, "expired"), (passed_over, rows.k_reason), else_=""),
        detail=ibis.null("string"),
        warning=ibis.null("string"),
        attempts=ibis.ifelse(expire, ibis.coalesce(rows.attempts, 0), 0),
        first_attempt_at=ibis.ifelse(expire, rows.first_attempt_at, ibis.null("timestamp(6)")),
        last_attempt_at=rows.last_attempt_at,
        not_before=ibis.null("timestamp(6)"),
        message_id=ibis.ifelse(expire, rows.message_id, ibis.null("string")),
        remote_id=rows.remote_id,
        as_of=timestamp_literal(scope.as_of),
        seq=ibis.literal(scope.seq, type="int64"),
    )


def _recorded_states(warehouse: Warehouse, decided: ir.Table, scope: Scope) -> ir.Table:
    """Delivery state of the keys that are recorded as in: what an exit or retract would need."""
    keys = decided.filter(decided.effect == Effect.arm)
    payloads = warehouse.table(PAYLOADS.ref)
    newest = payloads.filter(payloads.activation == scope.activation)
    newest = newest.select("exit_payload", "retract_payload", "identifiers", p_unit="unit")
    rows = keys.join(newest, [("now_unit", "p_unit")])
    return rows.select(
        activation=ibis.literal(scope.activation),
        account=ibis.literal(scope.account),
        unit=rows.unit,
        destination_key=rows.destination_key,
        segment_id=rows.segment_id,
        identifiers=rows.identifiers,
        exit_payload=rows.exit_payload,
        retract_payload=rows.retract_payload,
        attempted_payload=ibis.null("string"),
        seq=ibis.literal(scope.seq, type="int64"),
    )
