"""Plan: reconcile the payloads with the ledger, and write down what this sync is going to do before anything is sent.

The warehouse is open. One statement classifies every key (:mod:`keys`, :mod:`states`), the holds are found
(:mod:`guardrails`), and one transaction writes the intents of the whole sync, what is recorded silently, and the sync's own row. Then the
operations go to the delivery journal.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.activation_payloads.tables import PAYLOAD_BUILDS, PAYLOADS
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.destination_syncs import guardrails, states
from cdp_assets.destination_syncs.activation_state import State, of_activation, read_states, write_state
from cdp_assets.destination_syncs.guardrails import Hold
from cdp_assets.destination_syncs.intents import Intents
from cdp_assets.destination_syncs.journal import Journal
from cdp_assets.destination_syncs.keys import Reconciliation, reconciliation
from cdp_assets.destination_syncs.people import Scope
from cdp_assets.destination_syncs.states import Effect, Op, Outcome, Policy
from cdp_assets.destination_syncs.tables import (
    DELIVERY_STATE,
    INTENTS,
    KEY,
    LEDGER,
    SYNCS,
)
from cdp_assets.space.models.activations import Activation
from resources.destinations import Capabilities
from resources.warehouse import Warehouse, naive_utc


class SyncError(Exception):
    """A sync could not be planned. The message says what is missing and what to do."""


@dataclass(frozen=True)
class SyncRequest:
    """A sync to make. Instants are aware UTC.

    ``account``: where the messages go, ledger rows count for no other (``sandbox``, or the live account's name).
    ``now``: when the sync starts. ``consent_at``: consent is read as of then (default ``now``).
    ``backfill``: the run is a backfill. ``failed_checks``: blocking checks of the consumed materialisations that did not pass, or are
    missing. ``history_knows``: Dagster's history has an earlier sync of this activation at this account.
    ``active``: keys of all activations of the space, to notice a renamed one. ``resend_unknown``: send appends without answer again.
    ``retiring``: exit everybody and end the activation.
    """

    activation: Activation
    account: str
    capabilities: Capabilities
    graph: DataGraph | None
    run_id: str
    now: dt.datetime
    consent_at: dt.datetime | None = None
    backfill: bool = False
    failed_checks: tuple[str, ...] = ()
    history_knows: bool = False
    active: Collection[str] | None = None
    resend_unknown: bool = False
    retiring: bool = False

    @property
    def policy(self) -> Policy:
        return states.policy_of(
            self.activation.trigger.when,
            self.capabilities,
            property_changes=self.activation.sync_property_changes,
            resend_unknown=self.resend_unknown,
            retiring=self.retiring,
        )


@dataclass(frozen=True)
class Build:
    """The newest build of the activation's payloads."""

    as_of: dt.datetime
    definition_revision: str
    source: str
    tables: Mapping[str, int]


@dataclass(frozen=True)
class PlannedSync:
    """A sync that is written down. ``operations``: how many the journal has to send. ``hold``: its reason, '' when none."""

    activation: str
    account: str
    seq: int
    token: str
    run_id: str
    hold: str
    hold_detail: str
    considered: int
    unchanged: int
    operations: int


def plan_sync(warehouse: Warehouse, journal: Journal, request: SyncRequest) -> PlannedSync:
    """Write the intents of a sync to the warehouse and its operations to the journal.

    Everything that earlier syncs left in the journal must be settled before (:func:`settle.settle_all`; :func:`sync.plan` does).
    Raises :class:`SyncError` when no payloads were built.
    """
    key, account = request.activation.key, request.account
    build = _build(warehouse, request)
    all_states = read_states(warehouse)
    known = all_states.get((key, account))
    state = known or State()
    rows = _ledger_rows(warehouse, key, account)
    early = _early_holds(request, build, known, all_states, rows, journal)
    seq = max(state.seq, journal.last_seq(key, account)) + 1
    scope = _scope(request, build, state, seq, first=known is None or state.revision is None, holds=early)
    can_retract = request.policy.can_retract

    with contextlib.ExitStack() as scratch:
        both = scratch.enter_context(reconciliation(warehouse, scope))
        considered = both.considered(can_retract=can_retract)
        classified = _classified(both, request.policy, can_retract=can_retract)
        decided = scratch.enter_context(warehouse.staged(classified, name="sync_decided"))
        numbers = _numbers(both, decided)
        standing = guardrails.standing([*early, *_exit_holds(request, numbers)], state.released)
        hold = standing[0].reason if standing else ""
        passes = all(h.reason in guardrails.LETS_RETRACTS_PASS for h in standing)
        sync = PlannedSync(
            activation=key,
            account=account,
            seq=seq,
            token=_token(key, account, seq, request.run_id),
            run_id=request.run_id,
            hold=hold,
            hold_detail="; ".join(h.detail for h in standing),
            considered=considered,
            unchanged=numbers["still_unchanged"] if hold else numbers["unchanged"],
            operations=0,
        )
        journal.begin(sync.token, key, account, seq)
        intents = Intents(both, decided, hold, passes)
        _write(warehouse, request, intents, sync, state, build, standing, numbers)
    return _journalled(warehouse, journal, request, sync, any_listed=numbers["listed"] > 0)


# -- what is known before ------------------------------------------------------------------------------------------------


def _build(warehouse: Warehouse, request: SyncRequest) -> Build:
    warehouse.ensure(PAYLOADS, PAYLOAD_BUILDS)
    table = warehouse.table(PAYLOAD_BUILDS.ref)
    rows = warehouse.rows(table.filter(table.activation == request.activation.key), 1)
    if not rows:
        raise SyncError(f"activation {request.activation.key} has no payloads; build them first")
    row = rows[0]
    return Build(
        as_of=row["as_of"].replace(tzinfo=dt.UTC),
        definition_revision=row["definition_revision"] or "",
        source=row["source"] or "",
        tables={name: int(n) for name, n in json.loads(row["tables"] or "{}").items()},
    )


def _ledger_rows(warehouse: Warehouse, activation: str, account: str) -> int:
    ledger = warehouse.table(LEDGER.ref)
    return warehouse.count(ledger.filter(ledger.activation == activation, ledger.account == account))


def _early_holds(
    request: SyncRequest,
    build: Build,
    known: State | None,
    all_states: Mapping[tuple[str, str], State],
    ledger_rows: int,
    journal: Journal,
) -> list[Hold]:
    """The holds that need no look at the keys."""
    if request.retiring:
        return []
    key, account = request.activation.key, request.account
    state = known or State()
    first = state.revision is None
    holds = []
    if request.backfill:
        holds.append(Hold(guardrails.BACKFILL, "backfill", "a backfill sends nothing"))
    if request.failed_checks:
        holds.append(Hold(guardrails.CHECKS, "checks", "checks not passed: " + ", ".join(sorted(request.failed_checks))))
    journalled = journal.last_seq(key, account)
    never_known = known is None and (request.history_knows or journalled > 0 or ledger_rows > 0)
    emptied = state.ledger_rows > 0 and ledger_rows == 0
    if never_known or emptied or state.seq < journalled or guardrails.LEDGER_LOST in state.held:
        holds.append(
            Hold(guardrails.LEDGER_LOST, guardrails.LEDGER_LOST, "earlier syncs are known, but the ledger does not have them")
        )
    if state.as_of is not None and build.as_of < state.as_of:
        detail = f"payloads as of {build.as_of.isoformat()}, reconciled as of {state.as_of.isoformat()}"
        holds.append(Hold(guardrails.OLDER_AS_OF, guardrails.OLDER_AS_OF, detail))
    if state.retired_at is not None:
        holds.append(Hold(guardrails.RETIRED, guardrails.RETIRED, "the activation was retired"))
    if first:
        holds += _unlike_before(request, build, all_states)
    elif state.destination != request.activation.destination:
        detail = f"destination was {state.destination}, is {request.activation.destination}"
        holds.append(Hold(guardrails.DESTINATION, f"destination:{request.activation.destination}", detail))
    if not first and state.revision != build.definition_revision and request.activation.on_definition_change == "hold":
        code = f"definition:{build.definition_revision}"
        holds.append(Hold(guardrails.DEFINITION, code, "audience, graph or mapping changed since the last reconciliation"))
    holds += guardrails.tables_guardrail(request.activation.guardrails, before=state.tables, now=build.tables)
    return holds


def _unlike_before(request: SyncRequest, build: Build, all_states: Mapping[tuple[str, str], State]) -> list[Hold]:
    """An activation without a past here: has it one under another destination, or under another name?"""
    key, account, destination = request.activation.key, request.account, request.activation.destination
    for (other, _), state in sorted(all_states.items()):
        if state.revision is None or state.retired_at is not None:
            continue
        if other == key and state.destination != destination:
            detail = f"destination was {state.destination}, is {destination}"
            return [Hold(guardrails.DESTINATION, f"destination:{destination}", detail)]
    for (other, where), state in sorted(all_states.items()):
        if state.revision is None or state.retired_at is not None or other == key or where != account:
            continue
        gone = request.active is not None and other not in request.active
        if gone and state.destination == destination and state.source == build.source:
            return [
                Hold(
                    guardrails.RENAMED, f"renamed:{other}", f"activation {other} is gone and had the same source and destination"
                )
            ]
    return []


def _scope(request: SyncRequest, build: Build, state: State, seq: int, *, first: bool, holds: Sequence[Hold]) -> Scope:
    activation = request.activation
    redefined = state.revision is not None and state.revision != build.definition_revision
    released = bool(state.release_action) and not guardrails.standing(holds, state.released)
    if released:
        rebase = state.release_action == "rebaseline"
    elif first:
        rebase = activation.first_run == "baseline"
    else:
        rebase = redefined and activation.on_definition_change == "rebaseline"
    return Scope(
        activation=activation.key,
        account=request.account,
        unit=activation.trigger.unit,
        consent=activation.consent,
        graph=request.graph,
        as_of=build.as_of,
        instant=build.as_of.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        consent_at=request.consent_at or request.now,
        now=request.now,
        gave_up=request.now - dt.timedelta(days=activation.retry_for_days),
        definition_revision=build.definition_revision,
        seq=seq,
        rebase=rebase and not request.retiring,
        desired=not request.retiring,
    )


# -- the keys ------------------------------------------------------------------------------------------------------------


def _classified(both: Reconciliation, policy: Policy, *, can_retract: bool) -> ir.Table:
    """Every key with its facts and what is decided about it."""
    splits = both.splits()

    def build() -> ir.Table:
        decided = states.decide(both.facts(can_retract=can_retract, splits=splits), policy)
        return decided.mutate(next_episode=states.episode_of(decided))

    return both.template("decided", build, policy, can_retract, splits)


def _numbers(both: Reconciliation, decided: ir.Table) -> dict[str, int]:
    """Counts of the classified keys. ``leaving``: in before and not now, whether that is sent or recorded; withdrawals not among them."""

    def build() -> ir.Table:
        counted = decided.filter(~decided.shadow)
        unchanged = counted.outcome == Outcome.unchanged
        moving = counted.effect.isin([Effect.arm, Effect.disarm, Effect.drop])
        row = counted.aggregate(
            present=(counted.present & ~counted.loser).sum(),
            leaving=(counted.present & ~counted.loser & ~counted.desired & ~counted.closed).sum(),
            unchanged=unchanged.sum(),
            still_unchanged=(unchanged & ~moving).sum(),
            listed=(~unchanged | moving).sum(),
        )
        return row.cross_join(decided.aggregate(recorded=(decided.effect != "").sum()))

    row = both.warehouse.rows(both.template("numbers", build), 1)[0]
    # What was set aside is in, and stays as it is.
    apart = dict.fromkeys(("present", "unchanged", "still_unchanged"), both.still)
    return {name: int(value or 0) + apart.get(name, 0) for name, value in row.items()}


def _exit_holds(request: SyncRequest, numbers: Mapping[str, int]) -> list[Hold]:
    if request.retiring or request.policy.once:
        return []
    return guardrails.exits_guardrail(request.activation.guardrails, present=numbers["present"], leaving=numbers["leaving"])


# -- writing -------------------------------------------------------------------------------------------------------------


def _write(
    warehouse: Warehouse,
    request: SyncRequest,
    planned: Intents,
    sync: PlannedSync,
    state: State,
    build: Build,
    standing: Sequence[Hold],
    numbers: Mapping[str, int],
) -> None:
    with contextlib.ExitStack() as scratch:
        staged = lambda rows: scratch.enter_context(warehouse.staged(rows))  # noqa: E731
        # A sync in which nothing happened, the usual one, writes nothing but its own row.
        intents = staged(planned.intents()) if numbers["listed"] else None
        drifted = recorded = stored = None
        if not sync.hold:
            drift = planned.both.drifted()
            drifted = staged(drift) if drift is not None else None
            if numbers["recorded"]:
                recorded, stored = staged(planned.recorded(request.policy)), staged(planned.stored())
        with warehouse.transaction():
            warehouse.delete(INTENTS.ref, of_activation(sync.activation, sync.account))
            if intents is not None:
                warehouse.insert(INTENTS.ref, intents)
            # First the rows that change only their person, so that those recorded anew win.
            for rows in (drifted, recorded):
                if rows is not None:
                    warehouse.delete_matching(LEDGER.ref, rows, KEY)
                    warehouse.insert(LEDGER.ref, rows)
            if recorded is not None and stored is not None:
                warehouse.delete_matching(DELIVERY_STATE.ref, recorded.filter(~recorded.held), KEY)
                warehouse.delete_matching(DELIVERY_STATE.ref, stored, KEY)
                warehouse.insert(DELIVERY_STATE.ref, stored)
            warehouse.append(SYNCS.ref, _sync_row(request, build, sync, state, numbers))
            write_state(warehouse, sync.activation, sync.account, _next_state(warehouse, request, build, sync, state, standing))


def _sync_row(request: SyncRequest, build: Build, sync: PlannedSync, state: State, numbers: Mapping[str, int]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "activation": sync.activation,
                "account": sync.account,
                "seq": sync.seq,
                "token": sync.token,
                "run_id": request.run_id,
                "as_of": naive_utc(build.as_of),
                "definition_revision": build.definition_revision,
                "state": "planned",
                "hold": sync.hold,
                "hold_detail": sync.hold_detail,
                "first_run": state.revision is None,
                "considered": sync.considered,
                "present": numbers["present"],
                "leaving": numbers["leaving"],
                "unchanged": sync.unchanged,
                # Counted when the sync settles.
                **dict.fromkeys(("delivered", "warnings", "rejected", "waiting", "unknown"), 0),
                "started_at": naive_utc(request.now),
            }
        ],
        schema=SYNCS.schema.to_pyarrow(),
    )


def _next_state(
    warehouse: Warehouse, request: SyncRequest, build: Build, sync: PlannedSync, state: State, standing: Sequence[Hold]
) -> State:
    """A held sync remembers what holds it, and what was released so far; another one has reconciled, and uses a release up."""
    if sync.hold:
        return State(
            **{
                **state.__dict__,
                "destination": state.destination or request.activation.destination,
                "source": state.source or build.source,
                "seq": sync.seq,
                "held": tuple(hold.code for hold in standing if hold.reason not in guardrails.NOT_RELEASABLE),
                "held_at": naive_utc(request.now),
            }
        )
    return State(
        destination=request.activation.destination,
        source=build.source,
        revision=build.definition_revision,
        as_of=build.as_of,
        tables=build.tables,
        seq=sync.seq,
        ledger_rows=_ledger_rows(warehouse, sync.activation, sync.account),
        retired_at=naive_utc(request.now) if request.retiring else None,
    )


def _journalled(
    warehouse: Warehouse, journal: Journal, request: SyncRequest, sync: PlannedSync, *, any_listed: bool
) -> PlannedSync:
    """Hand the operations to the journal, in sending order."""
    if not any_listed:
        journal.fill(sync.token, [])
        return sync
    intents = warehouse.table(INTENTS.ref)
    mine = intents.filter(
        intents.activation == sync.activation, intents.account == sync.account, intents.outcome == Outcome.planned
    )
    needs_consent = request.activation.consent.subject != "none"
    adds = mine.operation.isin([Op.enter, Op.change, Op.exit])
    ordered = mine.select(
        "message_id",
        "destination_key",
        "payload",
        "rank",
        "turn",
        "attempts",
        "unit",
        kind="operation",
        subject_id=ibis.ifelse(adds & needs_consent, mine.subject_id, ibis.null("string")),
    ).order_by("rank", "turn", "attempts", "destination_key", "unit")
    wanted = ("message_id", "kind", "destination_key", "subject_id", "payload")

    def pages() -> Iterator[list[dict[str, Any]]]:
        for batch in warehouse.batches(ordered, 20_000):
            yield batch.select(list(wanted)).to_pylist()

    count = journal.fill(sync.token, pages())
    return PlannedSync(**{**sync.__dict__, "operations": count})


def _token(activation: str, account: str, seq: int, run_id: str) -> str:
    return hashlib.sha256(f"{activation}|{account}|{seq}|{run_id}".encode()).hexdigest()
