"""Dagster side of the destination_syncs room: one asset per activation, reconciled with the ledger and delivered.

A sync sends only from materialisations whose checks passed: those of the very audience build and payload build that it reads. Missing,
planned, failed or older verdicts count as not passed.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from cdp_assets.activation_payloads import checks as payload_checks
from cdp_assets.activation_payloads.tables import PAYLOAD_BUILDS
from cdp_assets.dagster_checks import check_result
from cdp_assets.dagster_internals import latest_check
from cdp_assets.dagster_support import META_AS_OF, asset_key, format_instant, is_backfill, room_spec
from cdp_assets.destination_syncs.accounting import SyncResult
from cdp_assets.destination_syncs.alerts import sync_alert
from cdp_assets.destination_syncs.journal import Journal, open_journal
from cdp_assets.destination_syncs.ledger import outcomes, outcomes_plot, refused_retracts, syncs_of
from cdp_assets.destination_syncs.people import sendable
from cdp_assets.destination_syncs.plan import SyncRequest
from cdp_assets.destination_syncs.states import policy_of
from cdp_assets.destination_syncs.sync import Surroundings, sync_activation
from cdp_assets.destination_syncs.tables import LEDGER
from cdp_assets.linked_audiences import checks as audience_checks
from cdp_assets.plots import bars, image
from cdp_assets.quality import RuleResult
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.revisions import definition_revision
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles import checks as profile_checks
from resources.alerts import send_alert
from resources.destinations import exchanges
from resources.destinations.exchanges import Counted
from resources.destinations.open import account_of, open_destination
from resources.destinations.registry import capabilities
from resources.instance import pool_of
from resources.space import SpaceResource
from resources.warehouse import Warehouse, WarehouseError

ROOM = "destination_syncs"
ACCOUNTED = "every_key_accounted_for"
RETRACTED = "nobody_kept_by_a_refused_retract"
# Consent is read as of the latest accepted event, whatever the build's as_of.
END_OF_TIME = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Landing:
    """The landing folder, so that a withdrawal of consent that has landed is known before anything is sent.

    ``take_in`` reads files that are listed but unread; ``state`` changes when the listing does, and is cheap to ask for.
    """

    take_in: Callable[[dg.AssetExecutionContext, SpaceResource, Space, Warehouse], None]
    state: Callable[[SpaceResource, Space], str]


def build_sync_assets(space: Space, landing: Landing) -> list[dg.AssetsDefinition]:
    return [_asset(space, key, activation, landing) for key, activation in space.activations.items()]


def _asset(space: Space, key: str, activation: Activation, landing: Landing) -> dg.AssetsDefinition:
    asset = asset_key(space.name, ROOM, key)
    destination = space.config.destinations[activation.destination]
    spec = room_spec(
        space.config,
        ROOM,
        key,
        description=(
            f"{activation.description or activation.name}\n\nReconciles the payloads with the ledger and delivers to "
            f"`{activation.destination}`. First run: {activation.first_run}. On a changed definition: {activation.on_definition_change}."
        ),
        table=LEDGER,
        deps=[asset_key(space.name, "activation_payloads", key)],
        owner=activation.owner,
        code_version=definition_revision(space, key),
        kinds=[destination.type],
    )
    accounted = dg.AssetCheckSpec(
        ACCOUNTED,
        asset=asset,
        description="considered = unchanged + delivered + rejected + waiting + unknown + withheld + held, each counted from its own rows.",
    )

    retracted = dg.AssetCheckSpec(
        RETRACTED,
        asset=asset,
        description="Nobody whom the destination is to forget (consent withdrawn, suppressed, replaced, retired) is kept there because it refused.",
    )
    able = capabilities(destination.type, activation.action, destination.settings)
    can_retract = policy_of(activation.trigger.when, able).can_retract

    @dg.multi_asset(
        name=f"{space.name}__sync__{key}",
        specs=[spec],
        check_specs=[accounted, *([retracted] if can_retract else [])],
        pool=pool_of(space.name),
    )
    def _assets(context: dg.AssetExecutionContext, space: SpaceResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        loaded = space.load()
        current = loaded.activations[key]
        account = account_of(loaded.config.destinations[current.destination])
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            failed = failed_checks(context.instance, warehouse, loaded, current)
        request = request_of(
            loaded,
            current,
            run_id=context.run.run_id,
            backfill=is_backfill(context.run.tags),
            failed_checks=tuple(failed),
            history_knows=history_knows(context.instance, asset, account),
        )
        with open_journal(space.paths().journal_url(loaded.name)) as journal:
            unread = Unread(
                state=lambda: landing.state(space, loaded),
                take_in=lambda warehouse: landing.take_in(context, space, loaded, warehouse),
            )
            around = surroundings_of(space, loaded, current, journal, unread)
            with exchanges.counting() as counted:
                result = sync_activation(request, around)
        if result.hold:
            context.log.warning(f"held: {_hold(result, key)}")
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            ledger = warehouse.table(LEDGER.ref)
            rows = warehouse.count(ledger.filter(ledger.activation == key, ledger.account == account))
            plot = outcomes_plot(syncs_of(warehouse, key, account))
            newest = [row for row in outcomes(warehouse, activation=key) if row["account"] == account]
        refused = refused_retracts(newest)
        lines = sync_alert(result, loaded.config.alerts.thresholds, loaded.name, _reasons(newest), refused)
        if lines and loaded.config.alerts.any:
            for problem in send_alert(loaded.config.alerts, f"{loaded.name}: sync {key}", lines):
                context.log.warning(f"the alert did not get through: {problem}")
        metadata = {
            "dagster/row_count": rows,
            **_metadata(result, key, account),
            "outcomes of the last syncs": dg.MetadataValue.md(plot),
            **_quota(context.instance, asset, counted, request.capabilities.daily_calls),
        }
        yield dg.MaterializeResult(asset, metadata=metadata)
        yield check_result(asset, ACCOUNTED, [_accounting(result)])
        if can_retract:
            yield check_result(asset, RETRACTED, [_retracted(refused, rows, key)])

    return _assets


def request_of(loaded: Space, activation: Activation, *, run_id: str, **given: Any) -> SyncRequest:
    """The sync to make of an activation now; ``given`` are further fields of SyncRequest."""
    config = loaded.config.destinations[activation.destination]
    return SyncRequest(
        activation=activation,
        account=account_of(config),
        capabilities=capabilities(config.type, activation.action, config.settings),
        graph=loaded.graph,
        run_id=run_id,
        now=dt.datetime.now(dt.UTC),
        consent_at=END_OF_TIME,
        active=frozenset(loaded.activations),
        resend_unknown=activation.on_unknown == "resend",
        **given,
    )


@dataclass
class Unread:
    """Landing files that nothing has read yet: taken in when the listing is not what it was the last time."""

    state: Callable[[], str]
    take_in: Callable[[Warehouse], None]
    seen: str = ""

    def __call__(self, warehouse: Warehouse) -> None:
        now = self.state()
        if now != self.seen:
            self.take_in(warehouse)
            self.seen = now


def surroundings_of(
    space: SpaceResource, loaded: Space, activation: Activation, journal: Journal, unread: Unread | None = None
) -> Surroundings:
    """The warehouse, journal, destination and clock that a sync of the activation uses."""
    config = loaded.config.destinations[activation.destination]
    return Surroundings(
        open_warehouse=lambda: space.open(loaded),
        journal=journal,
        connect=lambda: open_destination(config),
        clock=lambda: dt.datetime.now(dt.UTC),
        before_plan=unread,
        consent_now=_consent_reader(space, loaded, activation, unread),
    )


def _reasons(newest: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Outcome and reason of the newest sync's keys that did not get through -> how many, the most frequent first."""
    ranked = sorted((row for row in newest if row["reason"]), key=lambda row: (-row["keys"], row["outcome"], row["reason"]))
    found: dict[str, int] = {}
    for row in ranked:
        name = f"{row['outcome']}: {row['reason']}"
        found[name] = found.get(name, 0) + row["keys"]
    return found


def _hold(result: SyncResult, key: str) -> str:
    return f"{result.hold}: {result.hold_detail} (lift it with: cdp release {key})" if result.hold else "none"


def _metadata(result: SyncResult, key: str, account: str) -> dict:
    summary = result.to_json()
    table = ["| outcome | keys |", "|---|---:|", f"| considered | {result.considered} |"]
    for outcome in ("unchanged", "delivered", "rejected", "waiting", "unknown"):
        table.append(f"| {outcome} | {summary[outcome]} |")
    for outcome in ("withheld", "held"):
        table += [f"| {outcome}: {reason} | {count} |" for reason, count in summary[outcome].items()] or [f"| {outcome} | 0 |"]
    return {
        "accounting": dg.MetadataValue.md("\n".join(table)),
        "account": account,
        "considered": result.considered,
        "delivered": result.delivered,
        "rejected": result.rejected,
        "operations": dg.MetadataValue.json(summary["operations"]),
        "hold": _hold(result, key),
        "batches": result.batches,
        META_AS_OF: format_instant(dt.datetime.now(dt.UTC)),
    }


# Metadata: calls that a sync made.
CALLS = "calls"
_PLOTTED = 30


def _quota(instance: dg.DagsterInstance, asset: dg.AssetKey, counted: Counted, daily: int | None) -> dict:
    """Calls of this sync and of the last ones, beside what the destination lets everybody make in a day."""
    records = instance.fetch_materializations(asset, limit=_PLOTTED - 1).records
    before = [record.asset_materialization.metadata.get(CALLS) for record in reversed(records) if record.asset_materialization]
    calls = [*(float(str(value.value)) for value in before if value is not None), float(counted.calls)]
    labels = [str(number - len(calls) + 1) for number in range(len(calls))]
    if counted.limit:
        use = f"{counted.used:,} of {counted.limit:,} calls of the account's day, as the destination says"
    else:
        use = (
            f"{counted.calls:,} calls in this sync, of {daily:,} a day"
            if daily
            else f"{counted.calls:,} calls; no quota is known"
        )
    return {
        CALLS: counted.calls,
        "quota use": use,
        "calls of the last syncs": dg.MetadataValue.md(image("calls", bars(labels, {"calls": calls}))),
    }


def _accounting(result: SyncResult) -> RuleResult:
    return RuleResult(
        rule="considered = sum of outcomes",
        passed=result.considered == result.accounted,
        failing=abs(result.considered - result.accounted),
        rows=result.considered,
        detail=f"considered {result.considered}, accounted {result.accounted}",
    )


def _retracted(refused: int, rows: int, key: str) -> RuleResult:
    return RuleResult(
        rule="no retract refused",
        passed=refused == 0,
        failing=refused,
        rows=rows,
        detail=f"{refused} retracts refused; see cdp ledger outcomes, mend the cause, then cdp ledger replay --activation {key}",
    )


def _consent_reader(
    space: SpaceResource, loaded: Space, activation: Activation, unread: Unread | None
) -> Callable[[Sequence[str]], set[str]] | None:
    """Reads consent and suppressions again before a batch, with what has landed since. When the warehouse or the landing folder
    cannot be read, nobody may be sent to: the batch is withheld until the next sync."""
    if activation.consent.subject == "none":
        return None

    def agreed(ids: Sequence[str]) -> set[str]:
        try:
            with space.open(loaded, wait=30) as warehouse:
                if unread:
                    unread(warehouse)
                return sendable(warehouse, loaded.graph, activation.consent.categories, END_OF_TIME, ids)
        except (WarehouseError, OSError):
            return set()

    return agreed


def failed_checks(instance: dg.DagsterInstance, warehouse: Warehouse, space: Space, activation: Activation) -> list[str]:
    """Checks on the activation's path that do not vouch for what would be sent, each with its state. Empty when all passed."""
    builds = warehouse.table(PAYLOAD_BUILDS.ref)
    rows = warehouse.rows(builds.filter(builds.activation == activation.key), 1)
    if not rows:
        return ["payloads were never built"]
    build = rows[0]
    wanted: list[tuple[dg.AssetKey, str, str | None, str | None]] = []
    if space.graph.external is None:
        wanted.append((asset_key(space.name, "unified_profiles", "user_identifiers"), profile_checks.ONE_PROFILE, None, None))
    if activation.audience:
        audience = asset_key(space.name, "linked_audiences", activation.audience)
        wanted.append((audience, audience_checks.MEMBERS, build["source_partition"], build["source_run_id"]))
    payloads = asset_key(space.name, "activation_payloads", activation.key)
    wanted += [(payloads, name, None, build["run_id"]) for name in payload_checks.names(space, activation.key)]
    failed = []
    for asset, name, partition, run_id in wanted:
        verdict = latest_check(instance, asset, name, partition)
        if not verdict.passed:
            failed.append(f"{asset.path[-1]}:{name} {verdict.status}")
        elif run_id is not None and not verdict.judged(run_id):
            failed.append(f"{asset.path[-1]}:{name} judged another build")
    return failed


def history_knows(instance: dg.DagsterInstance, asset: dg.AssetKey, account: str) -> bool:
    """Whether Dagster's history has an earlier sync of this activation at this account that considered anything."""
    cursor = None
    while True:
        found = instance.fetch_materializations(asset, limit=100, cursor=cursor)
        for record in found.records:
            metadata = record.asset_materialization.metadata if record.asset_materialization else {}
            considered = metadata.get("considered")
            known = metadata.get("account")
            if known is not None and known.value == account and considered is not None and considered.value:
                return True
        if not found.has_more:
            return False
        cursor = found.cursor
