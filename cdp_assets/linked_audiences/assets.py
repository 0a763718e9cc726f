"""Dagster side of the linked_audiences room: one asset per audience, all computed together.

The traits and the audiences of a space share one step (see :mod:`cdp_assets.definitions`); this module says what the
audiences are and computes the selected ones for one window.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from cdp_assets.dagster_support import asset_key, profile_deps, room_spec, table_key
from cdp_assets.data_graph.model import JunctionJoin
from cdp_assets.linked_audiences.build import build_audiences
from cdp_assets.linked_audiences.describe import condition_tree
from cdp_assets.linked_audiences.partition import AudienceResult
from cdp_assets.linked_audiences.shown import markdown, shown
from cdp_assets.linked_audiences.tables import AUDIENCE_MEMBERS, SCHEMA
from cdp_assets.space.builds import record_revision
from cdp_assets.space.conditions import audience_references, entity_paths, trait_references
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.revisions import audience_revision, audience_slice
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from resources.warehouse import TableRef, Warehouse

ROOM = "linked_audiences"


def key_of(space: Space, audience: str) -> dg.AssetKey:
    return asset_key(space.name, ROOM, audience)


def entity_tables(space: Space, audience: Audience) -> set[TableRef]:
    """Company tables on the audience's own paths, junctions included; of paths that the graph still has."""
    nodes = [space.graph.node(path) for path in entity_paths(audience) if space.graph.has(path)]
    junctions = [node.join for node in nodes if isinstance(node.join, JunctionJoin)]
    return {TableRef.parse(table) for table in (*(n.entity.table_ref for n in nodes), *(j.table_ref for j in junctions))}


def _dependencies(space: Space, audience: Audience) -> Iterator[dg.AssetKey]:
    yield from profile_deps(space.name, space.graph, "user_identifiers")
    for ref in sorted(entity_tables(space, audience)):
        yield table_key(space.name, ref)
    for _, trait in trait_references(audience):
        if trait in space.traits:
            yield asset_key(space.name, "computed_traits", trait)
    for _, other in audience_references(audience):
        yield key_of(space, other)


def specs(space: Space) -> list[dg.AssetSpec]:
    found = []
    for key, audience in space.audiences.items():
        tree = condition_tree(space, audience)
        found.append(
            room_spec(
                space.config,
                ROOM,
                key,
                description=f"{audience.description or audience.name}\n\n```\n{tree}\n```",
                table=AUDIENCE_MEMBERS,
                deps=sorted(set(_dependencies(space, audience))),
                owner=audience.owner,
                code_version=audience_revision(space, key),
                partitioned=True,
                skippable=True,
            )
        )
    return found


def compute(
    warehouse: Warehouse,
    space: Space,
    keys: Sequence[str],
    window: Window,
    as_of: dt.datetime,
    run_id: str,
    failed_traits: frozenset[str],
    *,
    funnels: bool,
) -> dict[str, AudienceResult]:
    """Compute the audiences of one window; one that fails, or whose trait failed, keeps its previous partition. ``funnels``: of build_audiences."""
    if not keys:
        return {}
    revisions = {key: audience_revision(space, key) for key in keys}
    results = build_audiences(
        warehouse,
        space,
        list(keys),
        window,
        as_of,
        loaded_at=dt.datetime.now(dt.UTC),
        run_id=run_id,
        revisions=revisions,
        failed_traits=failed_traits,
        funnels=funnels,
    )
    for key in keys:
        record_revision(warehouse, SCHEMA, key, revisions[key], audience_slice(space, key))
    return results


def seen(
    warehouse: Warehouse, space: Space, results: Mapping[str, AudienceResult], window: Window, as_of: dt.datetime
) -> dict[str, dict[str, str]]:
    """Audience -> title -> Markdown: what the assets show of the newest partition of a run."""
    return {key: markdown(found) for key, found in shown(warehouse, space, results, window.key, as_of).items()}
