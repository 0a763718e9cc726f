"""A space folder as Dagster definitions: the only file that knows every room.

``build_definitions`` serves the code locations of ``workspace.yaml``, the command line and the tests alike.
"""

import datetime as dt
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import dagster as dg

# The backfill_policy parameter is beta in this Dagster; one warning per asset at import helps nobody.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from cdp_assets.activation_payloads import assets as payloads  # noqa: E402 - after the warning filter, which import-time decorators need
from cdp_assets.activation_payloads.tables import DealtWith  # noqa: E402
from cdp_assets.computed_traits import assets as traits  # noqa: E402
from cdp_assets.dagster_support import (  # noqa: E402
    META_AS_OF,
    META_REVISION,
    WAREHOUSE_GROUP,
    asset_key,
    describe_partitions,
    format_instant,
    selected_windows,
    table_key,
    window_as_of,
)
from cdp_assets.data_graph.assets import build_data_graph  # noqa: E402
from cdp_assets.data_graph.model import Entity  # noqa: E402
from cdp_assets.destination_syncs import assets as syncs  # noqa: E402
from cdp_assets.destination_syncs.event_streams import dealt_with  # noqa: E402
from cdp_assets.graph_report import graph_report  # noqa: E402
from cdp_assets.linked_audiences import assets as audiences  # noqa: E402
from cdp_assets.linked_audiences import checks as audience_checks  # noqa: E402
from cdp_assets.linked_audiences.partition import AudienceResult  # noqa: E402
from cdp_assets.linked_audiences.sql import audience_sql  # noqa: E402
from cdp_assets.pulled_sources import assets as pulled  # noqa: E402
from cdp_assets.pulled_sources.tables import SCHEMA as PULLED_SCHEMA  # noqa: E402
from cdp_assets.raw_events.assets import build_raw_events, take_in_and_build  # noqa: E402
from cdp_assets.raw_events.landing import fingerprint, list_landing  # noqa: E402
from cdp_assets.raw_events.suppression import suppressed_among  # noqa: E402
from cdp_assets.reports import assets as reports  # noqa: E402
from cdp_assets.space.conditions import audience_references  # noqa: E402
from cdp_assets.space.home import Home  # noqa: E402
from cdp_assets.space.models.activations import Activation  # noqa: E402
from cdp_assets.space.revisions import audience_revision, trait_revision  # noqa: E402
from cdp_assets.space.space import Space  # noqa: E402
from cdp_assets.unified_profiles.assets import build_unified_profiles, external_profiles  # noqa: E402
from cdp_assets.unified_profiles.build import build_profiles  # noqa: E402
from cdp_assets.unified_profiles.sync_tables import build_sync_tables  # noqa: E402
from resources.destinations.open import account_of  # noqa: E402
from resources.instance import pool_of  # noqa: E402
from resources.space import SpaceResource, load  # noqa: E402
from resources.warehouse import TableRef, Warehouse  # noqa: E402
from schedules import build_schedules  # noqa: E402
from schedules.freshness import with_freshness  # noqa: E402
from sensors import build_sensors  # noqa: E402


def build_definitions(directory: Path | str, home: Path | str | None = None) -> dg.Definitions:
    """Definitions of the space in ``directory``, its state in ``home`` (default: CDP_HOME, else ``.cdp``).

    Raises SpaceError, with every located problem, when the space does not validate.
    """
    space = load(Path(directory))
    home_paths = Home.of(home)
    steps: list[dg.AssetsDefinition | dg.AssetSpec] = [
        *pulled.build_pulled_source_assets(space, suppressed_among),
        *company_tables(space),
        build_data_graph(space, lambda loaded, warehouse, as_of, rows: graph_report(loaded, warehouse, as_of, rows=rows)),
        build_raw_events(space.config),
        *people(space),
        *build_traits_and_audiences(space),
        *payloads.build_payload_assets(space, events_dealt_with),
        *syncs.build_sync_assets(space, syncs.Landing(take_in_landing, landing_state)),
        *reports.build_report_assets(space),
    ]
    definitions = dg.Definitions(
        assets=steps,
        # Its threshold is INFO; without it every step writes dozens of DEBUG lines to the terminal.
        loggers={"console": dg.colored_console_logger},
        resources={"space": SpaceResource(directory=str(Path(directory).resolve()), home=str(home_paths.root))},
        schedules=build_schedules(space),
        sensors=build_sensors(space, Path(directory).resolve(), home_paths),
        # One DuckDB file admits one process, and a process per step costs seconds; Snowflake takes many.
        executor=dg.in_process_executor if space.config.warehouse.type == "duckdb" else dg.multiprocess_executor,
    )
    return with_freshness(space, definitions)


def people(space: Space) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The room of profiles, or the company's own Profiles Sync tables in its place."""
    if space.graph.external:
        return [*external_profiles(space.config, space.graph)]
    return [build_unified_profiles(space.config, space.graph)]


def company_tables(space: Space) -> list[dg.AssetSpec]:
    """The company's own tables that the graph reads in place, as external assets, so that lineage is whole."""
    refs: set[TableRef] = set()
    for audience in space.audiences.values():
        refs |= audiences.entity_tables(space, audience)
    entities = {TableRef.parse(entity.table_ref): entity for entity in space.graph.entities}
    refs |= set(entities)
    return [
        dg.AssetSpec(
            table_key(space.name, ref),
            description=_company_table(entities.get(ref)),
            group_name=WAREHOUSE_GROUP,
            kinds={space.config.warehouse.type, "table"},
            owners=[space.config.owner],
            metadata={"dagster/table_name": str(ref)},
        )
        for ref in sorted(refs)
        if ref.schema != PULLED_SCHEMA
    ]


def _company_table(entity: Entity | None) -> str:
    lines = ["A table of the company's, read in place."]
    if entity:
        lines.append(
            f"Entity `{entity.slug}` of the data graph: one {entity.name} per `{entity.primary_key}`. {entity.description}".strip()
        )
    return "\n\n".join(lines)


def build_traits_and_audiences(space: Space) -> list[dg.AssetsDefinition]:
    """Traits and audiences in one step, so that they share scans and one that fails skips only what depends on it.

    They are one step rather than two because Dagster skips a whole step when one of its inputs was skipped: with two steps, a
    failing trait would keep every audience from being built.
    """
    specs = [*traits.specs(space), *audiences.specs(space)]
    if not specs:
        return []

    @dg.multi_asset(
        name=f"{space.name}__traits_and_audiences",
        specs=specs,
        check_specs=audience_checks.specs(space),
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=pool_of(space.name),
    )
    def _assets(context: dg.AssetExecutionContext, space: SpaceResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        loaded = space.load()
        trait_keys = _selected(context, {key: traits.key_of(loaded, key) for key in loaded.traits})
        # Dagster wants results after those that they depend on.
        references = {key: {name for _, name in audience_references(a)} for key, a in loaded.audiences.items()}
        order = TopologicalSorter(references).static_order()
        audience_keys = _selected(context, {key: audiences.key_of(loaded, key) for key in order})
        trait_runs: dict[str, list[dict]] = {key: [] for key in trait_keys}
        audience_runs: dict[str, list[dict]] = {key: [] for key in audience_keys}
        errors: dict[dg.AssetKey, dict[str, str]] = {}
        windows = selected_windows(context, loaded.config)
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            for window in windows:
                as_of = window_as_of(context, window)
                built = traits.compute(warehouse, loaded, trait_keys, window, as_of, context.run.run_id)
                for key, trait in built.items():
                    if trait.error:
                        errors.setdefault(traits.key_of(loaded, key), {})[window.key] = trait.error
                    else:
                        trait_runs[key].append({"window": window.key, "result": trait, "as_of": as_of})
                failed = frozenset(key for key, trait in built.items() if trait.error)
                last = window == windows[-1]
                found = audiences.compute(
                    warehouse, loaded, audience_keys, window, as_of, context.run.run_id, failed, funnels=last
                )
                for key, audience in found.items():
                    problem = audience.error or audience.skipped_because
                    if problem:
                        errors.setdefault(audiences.key_of(loaded, key), {})[window.key] = problem
                    else:
                        audience_runs[key].append({"window": window.key, "result": audience, "as_of": as_of})
            seen = audiences.seen(warehouse, loaded, found, windows[-1], as_of)
            queries = {
                key: audience_sql(loaded, key, warehouse.dialect, warehouse) for key in audience_keys if audience_runs[key]
            }
            verdicts = audience_checks.evaluate(warehouse, loaded, trait_keys, audience_keys, windows, errors)
        for key in trait_keys:
            runs = trait_runs[key]
            if runs and traits.key_of(loaded, key) not in errors:
                by_partition = {
                    run["window"]: traits.partition_metadata(loaded.traits[key], run["result"], run["as_of"]) for run in runs
                }
                describe_partitions(context, traits.key_of(loaded, key), by_partition)
                yield dg.MaterializeResult(traits.key_of(loaded, key), metadata={META_REVISION: trait_revision(loaded, key)})
        for key in audience_keys:
            runs = audience_runs[key]
            if runs and audiences.key_of(loaded, key) not in errors:
                describe_partitions(
                    context,
                    audiences.key_of(loaded, key),
                    {run["window"]: _audience_partition(run["result"], run["as_of"]) for run in runs},
                )
                yield dg.MaterializeResult(
                    audiences.key_of(loaded, key),
                    metadata={
                        **{title: dg.MetadataValue.md(text) for title, text in seen.get(key, {}).items()},
                        "compiled SQL": dg.MetadataValue.md(f"```sql\n{queries[key]}\n```"),
                        META_REVISION: audience_revision(loaded, key),
                    },
                )
        for asset, by_window in errors.items():
            context.log.error(f"{asset.to_user_string()} was not built: {json.dumps(by_window)}")
        yield from audience_checks.results(context, verdicts)

    return [_assets]


def _audience_partition(built: AudienceResult, as_of: dt.datetime) -> dict[str, Any]:
    target = {
        "target entities": built.target_entities,
        "target entities, each with its profiles": built.target_pairs,
    }
    return {
        "dagster/partition_row_count": built.members,
        "members": built.members,
        "entity rows in context": built.entities,
        **{name: count for name, count in target.items() if count is not None},
        "entity tables": f"as they stood then: {', '.join(built.histories)}; others as they are now"
        if built.histories
        else "as they are now",
        "entered since the last build": built.entered,
        "left since the last build": built.left,
        **({"partitions whose members retention let go": built.dropped} if built.dropped else {}),
        META_AS_OF: format_instant(as_of),
    }


def events_dealt_with(warehouse: Warehouse, space: Space, activation: Activation) -> DealtWith:
    """What the syncs of an event stream have dealt with at the account that it is sent to."""
    return dealt_with(warehouse, activation, account_of(space.config.destinations[activation.destination]))


def take_in_landing(context: dg.AssetExecutionContext, resource: SpaceResource, space: Space, warehouse: Warehouse) -> None:
    """Take in landing files that are listed but unread, up to identity, so that a sync knows every consent that has landed."""
    now = dt.datetime.now(dt.UTC)
    built = take_in_and_build(warehouse, space, resource.landing(space), [], now, context.run.run_id, affected_only=True)
    if not built.files:
        return
    if space.graph.external is None:
        build_profiles(warehouse, space.config, space.graph, as_of=now, loaded_at=now, run_id=context.run.run_id)
        build_sync_tables(warehouse, space.config, space.graph)
    messages = asset_key(space.name, "raw_events", "messages")
    for window in built.windows:
        metadata: dict[str, Any] = {
            META_AS_OF: format_instant(min(window.end, now)),
            "dagster/partition_row_count": built.counts[window.key].accepted,
        }
        context.log_event(dg.AssetMaterialization(messages, partition=window.key, metadata=metadata))
    context.log.info(f"took in {built.files} landing file(s) before sending")


def landing_state(resource: SpaceResource, space: Space) -> str:
    """Changes when a landing file comes or grows. Raises OSError where the folder cannot be listed."""
    return fingerprint(list_landing(resource.landing(space)))


def _selected(context: dg.AssetExecutionContext, keys: Mapping[str, dg.AssetKey]) -> Sequence[str]:
    return [name for name, key in keys.items() if key in context.selected_asset_keys]
