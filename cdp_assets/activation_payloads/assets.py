"""Dagster side of the activation_payloads room: per activation, what each unit should look like at the destination."""

import datetime as dt
import json
from collections.abc import Callable, Iterator

import dagster as dg

from cdp_assets.activation_payloads import checks
from cdp_assets.activation_payloads.payloads import build_payloads
from cdp_assets.activation_payloads.tables import PAYLOADS, DealtWith
from cdp_assets.dagster_support import (
    META_AS_OF,
    META_REVISION,
    asset_key,
    format_instant,
    model_deps,
    profile_deps,
    room_spec,
    run_instant,
    table_key,
)
from cdp_assets.linked_audiences.tables import BUILDS as AUDIENCE_BUILDS
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.revisions import definition_revision
from cdp_assets.space.space import Space
from resources.instance import pool_of
from resources.space import SpaceResource
from resources.warehouse import TableRef, Warehouse

ROOM = "activation_payloads"


class NotBuiltError(Exception):
    """The activation's audience has never been built."""


EventsDealtWith = Callable[[Warehouse, Space, Activation], DealtWith]
"""The events of an activation's stream that its syncs have dealt with."""


def build_payload_assets(space: Space, events_dealt_with: EventsDealtWith) -> list[dg.AssetsDefinition]:
    return [_asset(space, key, activation, events_dealt_with) for key, activation in space.activations.items()]


def source_of(warehouse: Warehouse, activation: Activation, instant: dt.datetime) -> tuple[dt.datetime, str | None]:
    """(as_of, partition) that the payloads read: the newest build of the audience; a model is read as of the run.

    Raises NotBuiltError.
    """
    if activation.audience is None:
        return instant, None
    if not warehouse.has(AUDIENCE_BUILDS.ref):
        raise NotBuiltError(f"audience {activation.audience} has not been built; materialise it first")
    builds = warehouse.table(AUDIENCE_BUILDS.ref)
    newest = warehouse.rows(builds.filter(builds.asset == activation.audience).order_by(builds.as_of.desc()), 1)
    if not newest:
        raise NotBuiltError(f"audience {activation.audience} has not been built; materialise it first")
    return newest[0]["as_of"].replace(tzinfo=dt.UTC), newest[0]["partition_key"]


def _dependencies(space: Space, activation: Activation) -> list[dg.AssetKey]:
    if activation.audience:
        traits = [
            asset_key(space.name, "computed_traits", key) for key in activation.personalization.traits if key in space.traits
        ]
        entities = [
            table_key(space.name, TableRef.parse(space.graph.node(chosen.path).entity.table_ref))
            for chosen in activation.personalization.entities
            if space.graph.has(chosen.path)
        ]
        return [asset_key(space.name, "linked_audiences", activation.audience), *traits, *entities]
    if activation.events:
        return [*profile_deps(space.name, space.graph, "user_identifiers"), asset_key(space.name, "raw_events", "messages")]
    return model_deps(space, space.models[str(activation.model)])


def _description(space: Space, activation: Activation) -> str:
    source = f"audience `{activation.audience}`" if activation.audience else f"model `{activation.model}`"
    if activation.events:
        source = f"events `{activation.events.where}` received from {format_instant(activation.events.since)} on"
    path = f" at `{activation.trigger.path}`" if activation.trigger.path else ""
    consent = activation.consent
    subject = consent.subject if isinstance(consent.subject, str) else f"column {consent.subject.column}"
    lines = [
        activation.description or activation.name,
        "",
        f"- from {source}, one message per {activation.trigger.unit}{path}, on {activation.trigger.when}",
        f"- to `{activation.destination}` ({space.config.destinations[activation.destination].type}), action {activation.action}",
        f"- consent of {subject}: {', '.join(consent.categories) or consent.reason}",
        "",
        "```json",
        json.dumps(activation.mapping, indent=2, ensure_ascii=False),
        "```",
    ]
    if activation.model:
        lines += ["", "```sql", space.models[activation.model].query.strip(), "```"]
    return "\n".join(lines)


def _asset(space: Space, key: str, activation: Activation, events_dealt_with: EventsDealtWith) -> dg.AssetsDefinition:
    asset = asset_key(space.name, ROOM, key)
    spec = room_spec(
        space.config,
        ROOM,
        key,
        description=_description(space, activation),
        table=PAYLOADS,
        deps=sorted(set(_dependencies(space, activation))),
        owner=activation.owner,
        code_version=definition_revision(space, key),
        kinds=[space.config.destinations[activation.destination].type],
    )

    @dg.multi_asset(
        name=f"{space.name}__payloads__{key}", specs=[spec], check_specs=checks.specs(space, key), pool=pool_of(space.name)
    )
    def _assets(context: dg.AssetExecutionContext, space: SpaceResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        loaded = space.load()
        current = loaded.activations[key]
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            as_of, window_key = source_of(warehouse, current, run_instant(context))
            revision = definition_revision(loaded, key)
            built = build_payloads(
                warehouse,
                loaded,
                key,
                as_of=as_of,
                window_key=window_key,
                definition_revision=revision,
                run_id=context.run.run_id,
                loaded_at=dt.datetime.now(dt.UTC),
                dealt_with=events_dealt_with(warehouse, loaded, current) if current.events else None,
            )
            verdicts = checks.evaluate(warehouse, loaded, key)
        yield dg.MaterializeResult(
            asset,
            metadata={
                "dagster/row_count": built.units,
                "may be sent": built.ok,
                "withheld": dg.MetadataValue.json(built.withheld),
                "masked sample": dg.MetadataValue.json(built.sample),
                META_AS_OF: format_instant(as_of),
                META_REVISION: revision,
            },
        )
        yield from checks.results(context, asset, verdicts)

    return _assets
