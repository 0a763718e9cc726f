"""Dagster side of the pulled_sources room: one asset per source, its table."""

import json

import dagster as dg

from cdp_assets.dagster_support import META_AS_OF, asset_key, format_instant, room_spec, run_instant
from cdp_assets.pulled_sources.suppressed import SuppressedAmong
from cdp_assets.pulled_sources.tables import table_of
from cdp_assets.pulled_sources.take_in import take_in
from cdp_assets.space.pulled import PulledSource
from cdp_assets.space.space import Space
from resources.destinations.open import open_source
from resources.instance import pool_of
from resources.space import SpaceResource

ROOM = "pulled_sources"
META_POSITIONS = "positions"


def fed_by(space: Space, key: str) -> list[str]:
    """Activations of events that put into the very stream that the source reads; none when the source makes events itself."""
    source = space.config.pulled_sources[key]
    if source.event:
        return []
    found = []
    for name, activation in space.activations.items():
        destination = space.config.destinations[activation.destination]
        said = {**destination.settings, **activation.settings}
        same = (destination.type, destination.account) == (source.type, source.account)
        if activation.events and same and all(said.get(setting) == value for setting, value in source.settings.items()):
            found.append(name)
    return found


def build_pulled_source_assets(space: Space, suppressed_among: SuppressedAmong) -> list[dg.AssetsDefinition]:
    return [_asset(space, key, source, suppressed_among) for key, source in space.config.pulled_sources.items()]


def _asset(space: Space, key: str, source: PulledSource, suppressed_among: SuppressedAmong) -> dg.AssetsDefinition:
    asset = asset_key(space.name, ROOM, key)
    table = table_of(key, source)
    lines = [
        table.description,
        "",
        f"- from `{source.type}`, looked at {source.poll}",
        *([f"- each new record lands as the event `{source.event.name}`"] if source.event else []),
    ]
    spec = room_spec(
        space.config,
        ROOM,
        key,
        description="\n".join(lines),
        table=table,
        # What is put into a stream is there for a reading in the same run.
        deps=[asset_key(space.name, "destination_syncs", name) for name in fed_by(space, key)],
        kinds=[source.type],
    )

    @dg.multi_asset(name=f"{space.name}__pull__{key}", specs=[spec], pool=pool_of(space.name))
    def _assets(context: dg.AssetExecutionContext, space: SpaceResource) -> dg.MaterializeResult:
        loaded = space.load()
        current = loaded.config.pulled_sources[key]
        reader = open_source(current)
        try:
            with space.open(loaded, on_wait=context.log.info) as warehouse:
                taken = take_in(warehouse, key, current, reader, space.landing(loaded), suppressed_among)
                rows = warehouse.count(warehouse.table(table_of(key, current).ref))
        finally:
            reader.close()
        if taken.unreadable:
            context.log.warning(f"{taken.unreadable} record(s) fit no row; see pulled_sources.unreadable")
        return dg.MaterializeResult(
            asset,
            metadata={
                "dagster/row_count": rows,
                "records read": taken.records,
                "new": taken.new,
                "unreadable": taken.unreadable,
                "suppressed": taken.suppressed,
                "events landed": taken.events,
                META_POSITIONS: json.dumps(taken.positions, sort_keys=True),
                META_AS_OF: format_instant(run_instant(context)),
            },
        )

    return _assets
