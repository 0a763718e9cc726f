"""Builds the audiences of a space for one window, those that others refer to first; one that fails, fails alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

from cdp_assets.computed_traits.tables import BUILDS as TRAIT_BUILDS
from cdp_assets.data_graph.model import TraitJoin
from cdp_assets.linked_audiences.compile import (
    counted_events,
    events_of,
    filtered_events_of,
    identifier_types_of,
    joined_columns,
    nodes_of,
    reach_of,
)
from cdp_assets.linked_audiences.entity_history import take_snapshots
from cdp_assets.linked_audiences.gathered import Build, Gathered, Prepared, entities_of, gathering
from cdp_assets.linked_audiences.history import builds_of
from cdp_assets.linked_audiences.partition import AudienceResult, prepare, write
from cdp_assets.linked_audiences.people import People
from cdp_assets.linked_audiences.tables import BUILDS, TABLES
from cdp_assets.space.conditions import audience_references, trait_references
from cdp_assets.space.errors import cause
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from resources.warehouse import Warehouse

TOGETHER = 10  # audiences of a transaction
ROWS_TOGETHER = 10_000_000  # of members and context, after which a transaction takes no further audience


def audiences_of(audience: Audience) -> list[str]:
    """Audiences that an audience refers to, in order of mention."""
    return _mentioned(other for _, other in audience_references(audience))


def traits_of(space: Space, audience: Audience) -> list[str]:
    """Computed traits that an audience reads, in conditions, comparisons or joins. Raises ConditionError."""
    named = [name for _, name in trait_references(audience)]
    named += [node.join.name for node in nodes_of(space.graph, audience) if isinstance(node.join, TraitJoin)]
    return _mentioned(name for name in named if name in space.traits)


def _mentioned(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def in_order(space: Space, keys: Iterable[str]) -> list[str]:
    """``keys`` with those that others refer to first. Raises ConditionError for a circle."""
    wanted = list(keys)
    done: list[str] = []

    def visit(key: str, above: tuple[str, ...]) -> None:
        if key in above:
            raise ConditionError(f"audiences refer to each other in a circle: {' -> '.join((*above[above.index(key) :], key))}")
        if key in done or key not in space.audiences:
            return
        for other in audiences_of(space.audiences[key]):
            visit(other, (*above, key))
        done.append(key)

    for key in wanted:
        visit(key, ())
    return [key for key in done if key in wanted]


def build_audiences(
    warehouse: Warehouse,
    space: Space,
    keys: Sequence[str],
    window: Window,
    as_of: dt.datetime,
    loaded_at: dt.datetime,
    run_id: str,
    revisions: Mapping[str, str],
    failed_traits: frozenset[str] = frozenset(),
    *,
    funnels: bool = True,
) -> dict[str, AudienceResult]:
    """Compute the audiences ``keys`` as of ``as_of`` and replace their rows of the window's partition, a few in each transaction.

    Members and context, the row counts of the tables on each audience's paths, and the record of the build. An audience that
    fails keeps its previous partition; one that refers to an audience or a computed trait that failed now, or that the partition
    does not have, is skipped with that reason. Results are in the order of ``keys``. ``funnels``: count who is left at each condition, too.
    Raises ConditionError for audiences in a circle.
    """
    warehouse.ensure(*TABLES)
    ordered = in_order(space, keys)
    results: dict[str, AudienceResult] = {}
    with ExitStack() as stack:
        people = People(
            warehouse,
            space.graph,
            as_of,
            events=[event for key in ordered for event in events_of(space.audiences[key])],
            filtered=[event for key in ordered for event in filtered_events_of(space.audiences[key])],
            keep=lambda e: stack.enter_context(warehouse.staged(e)),
            joined=joined_columns(space.graph, [space.audiences[key] for key in ordered]),
            counted=counted_events((space.audiences[key] for key in ordered), as_of),
            reach=reach_of(space.audiences[key] for key in ordered),
            identifiers=identifier_types_of(space.graph, [space.audiences[key] for key in ordered]),
            numbered=True,
        )
        build = Build(
            warehouse, space, window, as_of, loaded_at, run_id, revisions, people, stack, funnels, builds_of(warehouse, ordered)
        )
        there = _built_already(warehouse, window)
        take_snapshots(warehouse, space.config, entities_of(space, ordered), as_of)
        waiting = ordered
        while waiting:
            with gathering(build) as gathered:
                waiting = _gather(gathered, waiting, results, failed_traits, there)
                gathered.name_all()
                results |= _write_all(gathered, gathered.prepared)
    return {key: results[key] for key in keys}


def _built_already(warehouse: Warehouse, window: Window) -> set[tuple[str, str]]:
    """("trait" | "audience", key) of what the partition has, from this build or an earlier one."""
    found = set()
    for kind, spec in (("trait", TRAIT_BUILDS), ("audience", BUILDS)):
        if not warehouse.has(spec.ref):
            continue
        builds = warehouse.table(spec.ref)
        rows = warehouse.rows(builds.filter(builds.partition_key == window.key).select("asset"), 100_000)
        found |= {(kind, row["asset"]) for row in rows}
    return found


def _missing(
    space: Space,
    key: str,
    results: Mapping[str, AudienceResult],
    failed_traits: frozenset[str],
    there: set[tuple[str, str]],
) -> str | None:
    """Why the audience cannot be built now, or None."""
    for trait in traits_of(space, space.audiences[key]):
        if trait in failed_traits:
            return f"trait {trait} failed"
        if ("trait", trait) not in there:
            return f"trait {trait} is not built for this partition"
    for other in audiences_of(space.audiences[key]):
        if other in results:
            if not results[other].built:
                return f"audience {other} {'failed' if results[other].error else 'was skipped'}"
        elif ("audience", other) not in there:
            return f"audience {other} is not built for this partition"
    return None


def _gather(
    gathered: Gathered,
    keys: Sequence[str],
    results: dict[str, AudienceResult],
    failed_traits: frozenset[str],
    there: set[tuple[str, str]],
) -> list[str]:
    """Compute the first of ``keys``, and as many more as are written together; those that are left.

    None refers to another one of them, for a reference reads what is written.
    """
    space, begun = gathered.build.space, set[str]()
    for position, key in enumerate(keys):
        full = len(begun) >= TOGETHER or gathered.rows >= ROWS_TOGETHER
        if full or not begun.isdisjoint(audiences_of(space.audiences[key])):
            return list(keys[position:])
        begun.add(key)
        try:
            reason = _missing(space, key, results, failed_traits, there)
            if reason:
                results[key] = AudienceResult(skipped_because=reason)
            else:
                prepare(gathered, key)
        except Exception as error:  # noqa: BLE001 - whatever one audience raises must not reach the others
            results[key] = AudienceResult(error=cause(error))
    return []


def _write_all(gathered: Gathered, some: Sequence[Prepared]) -> dict[str, AudienceResult]:
    """All in one transaction, for a commit costs as much as a small audience; when that fails, each in its own, so that only those at
    fault fail."""
    if not some:
        return {}
    try:
        with gathered.build.warehouse.transaction():
            return write(gathered, some)
    except Exception as error:  # noqa: BLE001 - whatever one audience raises must not reach the others
        if len(some) == 1:
            return {some[0].key: AudienceResult(error=cause(error))}
        return {key: result for one in some for key, result in _write_all(gathered, [one]).items()}
