"""A sync from end to end: plan, deliver, settle. The warehouse is open only while planning and settling.

Each phase can be run alone, since they take different pools: :func:`plan` and :func:`settle` the warehouse's, :func:`deliver` the
destination account's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from cdp_assets.destination_syncs import deliver as delivering
from cdp_assets.destination_syncs.accounting import SyncResult
from cdp_assets.destination_syncs.deliver import ConsentNow, Delivery, DeliveryReport
from cdp_assets.destination_syncs.journal import Journal
from cdp_assets.destination_syncs.plan import PlannedSync, SyncRequest, plan_sync
from cdp_assets.destination_syncs.settle import open_syncs, settle_all, settle_sync
from resources.destinations import Action, Destination
from resources.warehouse import Warehouse


@dataclass(frozen=True)
class Surroundings:
    """What a sync needs from outside.

    ``open_warehouse`` and ``connect`` open the warehouse and the destination; ``clock`` says the time of each attempt.
    ``before_plan`` takes in landing files that are listed but unread. ``consent_now`` is asked before each batch.
    ``progress`` hears the number of operations done.
    """

    open_warehouse: Callable[[], AbstractContextManager[Warehouse]]
    journal: Journal
    connect: Callable[[], Destination]
    clock: Callable[[], dt.datetime]
    before_plan: Callable[[Warehouse], None] | None = None
    consent_now: ConsentNow | None = None
    progress: Callable[[int], None] | None = None


def sync_activation(request: SyncRequest, around: Surroundings) -> SyncResult:
    """One sync of one activation. Raises :class:`plan.SyncError` when there is nothing to sync from."""
    with around.open_warehouse() as warehouse:
        if around.before_plan:
            around.before_plan(warehouse)
        planned = plan(warehouse, around.journal, request)
    report = deliver(request, planned, around)
    with around.open_warehouse() as warehouse:
        return settle(warehouse, around.journal, planned, around.clock(), report)


def plan(warehouse: Warehouse, journal: Journal, request: SyncRequest) -> PlannedSync:
    """Settle what earlier syncs of the activation left, then plan this one."""
    settle_all(warehouse, journal, request.now, activation=request.activation.key, account=request.account)
    return plan_sync(warehouse, journal, request)


def deliver(request: SyncRequest, planned: PlannedSync, around: Surroundings) -> DeliveryReport:
    """Send what was planned. The destination is not even connected to when there is nothing to send."""
    if planned.operations == 0:
        return DeliveryReport()
    action = Action(request.activation.action, request.activation.settings)
    destination = around.connect()
    try:
        # Sandbox accounts of different systems share a name.
        destination.remember(around.journal.jobs(f"{request.capabilities.type}:{request.account}"))
        return delivering.deliver(
            Delivery(
                journal=around.journal,
                token=planned.token,
                destination=destination,
                action=action,
                clock=around.clock,
                consent_now=around.consent_now,
                progress=around.progress,
            )
        )
    finally:
        destination.close()


def settle(
    warehouse: Warehouse, journal: Journal, planned: PlannedSync, now: dt.datetime, report: DeliveryReport | None = None
) -> SyncResult:
    """Merge the planned sync's outcomes into the ledger, and count it."""
    for sync in open_syncs(warehouse, planned.activation, planned.account):
        if sync.token == planned.token:
            return settle_sync(warehouse, journal, sync, now, report.batches if report else 0)
    raise LookupError(f"sync {planned.seq} of {planned.activation} is settled already, or was never planned")
