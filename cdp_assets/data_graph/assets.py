"""Dagster side of the data graph: its picture, its numbers, and the check of the graph against the warehouse.

Nothing depends on it, so nothing waits for it. What it shows is made by the report that the composition hands in; it is scanned once a
day, and when the graph or its consumers changed.
"""

import base64
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

from cdp_assets.dagster_checks import markdown_table
from cdp_assets.dagster_support import (
    META_AS_OF,
    META_REVISION,
    WAREHOUSE_GROUP,
    asset_key,
    format_instant,
    parse_instant,
    profile_deps,
    run_instant,
    table_key,
)
from cdp_assets.data_graph.diff import join_text
from cdp_assets.data_graph.picture import share_text
from cdp_assets.data_graph.report import GraphReport
from cdp_assets.space.consumers import consumers_by_entity, consumers_by_node
from cdp_assets.space.revisions import graph_revision
from cdp_assets.space.space import Problem, Space
from resources.instance import pool_of
from resources.space import SpaceResource
from resources.warehouse import TableRef, Warehouse

ROOM, NAME = "data_graph", "graph"
FITS, KEYS = "fits_the_warehouse", "keys_are_sound"
FIRST_ROWS, FIRST_COLUMNS = 5, 8
SCAN_EVERY = dt.timedelta(days=1)

Report = Callable[[Space, Warehouse, dt.datetime, int], GraphReport]
"""(space, warehouse, as_of, first rows of each entity) -> report, values masked."""


def key_of(space: Space) -> dg.AssetKey:
    return asset_key(space.name, ROOM, NAME)


def build_data_graph(space: Space, report: Report) -> dg.AssetsDefinition:
    """The asset of the space's data graph."""
    key = key_of(space)
    tables = {TableRef.parse(entity.table_ref) for entity in space.graph.entities}
    spec = dg.AssetSpec(
        key,
        deps=[
            *(table_key(space.name, ref) for ref in sorted(tables)),
            *profile_deps(space.name, space.graph, "user_identifiers"),
        ],
        description=_description(space),
        group_name=WAREHOUSE_GROUP,
        owners=[space.config.owner],
        code_version=graph_revision(space),
        kinds={space.config.warehouse.type},
        tags={"cdp/space": space.name, "cdp/room": ROOM},
    )
    checks = [
        dg.AssetCheckSpec(
            FITS, asset=key, description="Every table and column that the graph names is there, and its joins compare."
        ),
        dg.AssetCheckSpec(KEYS, asset=key, description="Primary keys are unique and not null, join keys of one type. Warns."),
    ]

    @dg.multi_asset(name=f"{space.name}__data_graph", specs=[spec], check_specs=checks, pool=pool_of(space.name))
    def _assets(context: dg.AssetExecutionContext, space: SpaceResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        loaded = space.load()
        instant = run_instant(context)
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            found = report(loaded, warehouse, instant, FIRST_ROWS)
        metadata = {**shown(found), META_AS_OF: format_instant(instant), META_REVISION: graph_revision(loaded)}
        yield dg.MaterializeResult(key, metadata=metadata)
        yield _verdict(key, FITS, [p for p in found.problems if p.level == "error"], dg.AssetCheckSeverity.ERROR)
        yield _verdict(key, KEYS, [p for p in found.problems if p.level == "warning"], dg.AssetCheckSeverity.WARN)

    return _assets


def _description(space: Space) -> str:
    """What a definition can say without the warehouse. The UI shows a picture at once only here; metadata opens it in a dialog."""
    drawn = GraphReport(space, consumers_by_node(space), consumers_by_entity(space))
    return f"Profile, entities, and who uses which node; the newest scan's metadata has the numbers.\n\n{_image(drawn)}"


def _image(report: GraphReport) -> str:
    encoded = base64.b64encode(report.svg(fluid=True).encode()).decode()
    return f"![data graph](data:image/svg+xml;base64,{encoded})"


def scan_is_due(instance: dg.DagsterInstance, space: Space, instant: dt.datetime) -> bool:
    """Whether the newest scan is of another graph, or a day older than ``instant``, or there is none."""
    event = instance.get_latest_materialization_event(key_of(space))
    materialization = event.asset_materialization if event else None
    if materialization is None:
        return True
    revision, as_of = (materialization.metadata.get(name) for name in (META_REVISION, META_AS_OF))
    if revision is None or as_of is None or revision.value != graph_revision(space):
        return True
    return instant - parse_instant(str(as_of.value)) >= SCAN_EVERY


def shown(report: GraphReport) -> dict[str, Any]:
    """The report as metadata: picture, a line for each node, masked first rows."""
    metadata: dict[str, Any] = {"picture": dg.MetadataValue.md(_image(report))}
    nodes = _nodes(report)
    if nodes:
        metadata["nodes"] = dg.MetadataValue.md(markdown_table(nodes))
    metadata["consumers"] = len({(one.kind, one.key) for found in report.nodes.values() for one in found})
    for slug, rows in report.rows.items():
        if rows:
            cut = [dict(list(row.items())[:FIRST_COLUMNS]) for row in rows]
            metadata[f"first rows of {slug}, masked"] = dg.MetadataValue.md(markdown_table(cut))
    return metadata


def _nodes(report: GraphReport) -> list[dict[str, Any]]:
    measured = report.measured
    lines = []
    for node in report.space.graph.nodes():
        counts = measured.joins.get(node.path) if measured else None
        lines.append(
            {
                "node": node.path,
                "entity": node.entity.slug,
                "rows": measured.tables.get(node.entity.slug) if measured else None,
                "join": join_text(node.join),
                "rows that match": share_text(counts.rows_matched, counts.rows) if counts and counts.rows else "",
                "above that match": share_text(counts.parents_matched, counts.parents) if counts and counts.parents else "",
                "pairs": counts.pairs if counts else None,
                "used by": ", ".join(str(one) for one in report.nodes[node.path]),
            }
        )
    return lines


def _verdict(key: dg.AssetKey, name: str, problems: Sequence[Problem], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {"problems": len(problems)}
    if problems:
        told = [{"line": p.line, "problem": p.message, "remedy": p.remedy} for p in problems]
        metadata["what is wrong"] = dg.MetadataValue.md(markdown_table(told))
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=not problems,
        severity=severity,
        description=str(problems[0]) + (f", and {len(problems) - 1} more" if problems[1:] else "") if problems else None,
        metadata=metadata,
    )
