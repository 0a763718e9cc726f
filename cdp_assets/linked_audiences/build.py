"""Builds the audiences of a space for one window, those that others refer to first; one that fails, fails alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.computed_traits.tables import BUILDS as TRAIT_BUILDS
from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.data_graph.model import Entity, TraitJoin
from cdp_assets.linked_audiences.compile import (
    PROFILE,
    CompiledAudience,
    People,
    compile_audience,
    events_of,
    filtered_events_of,
    joined_columns,
    nodes_of,
    reach_of,
)
from cdp_assets.linked_audiences.entity_history import has_history, take_snapshots
from cdp_assets.linked_audiences.funnel import survivors
from cdp_assets.linked_audiences.history import (
    Built,
    Earlier,
    after,
    before,
    builds_of,
    drop_old,
    members_before,
    moved_people,
    record_transitions,
    refuse_dropped,
)
from cdp_assets.linked_audiences.tables import (
    AUDIENCE_CONTEXT,
    AUDIENCE_FUNNELS,
    AUDIENCE_MEMBERS,
    BUILDS,
    PATH_ROWS,
    SCHEMA,
    TABLES,
    stored_members,
)
from cdp_assets.space.builds import KIND_CURRENT, KIND_HISTORY, record_build
from cdp_assets.space.conditions import audience_references, trait_references
from cdp_assets.space.errors import cause
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from cdp_assets.unified_profiles.tables import canonical_ids_as_of
from resources.warehouse import TableRef, Warehouse, naive_utc, timestamp_literal

EXAMPLES = 5
TOGETHER = 10  # audiences of a transaction
MAX_ROWS = 150_000_000  # members and their matched entities, Segment's limit of a run


@dataclass(frozen=True)
class AudienceResult:
    """What became of an audience.

    members: profiles; entities: distinct (profile, path, entity) of its context; entered and left: profiles since its newest
    earlier build (the previous build of the same partition, or else of an earlier as_of; everybody at the first), a profile that
    merged counting as the one that it is part of now. ``error``: why it failed; ``skipped_because``: what it needed and did not
    get. In both cases its previous partition is kept and the counts are 0. Of an audience of entities ``target_entities`` counts the
    distinct entities and ``target_pairs`` those with each of their profiles; else they are None. ``dropped``: partitions whose members
    and context the space's retention let go. ``came`` and ``went``: a few of those who entered and left.
    ``histories``: entities whose rows were read as they stood, not as they are.
    """

    members: int = 0
    entities: int = 0
    entered: int = 0
    left: int = 0
    error: str | None = None
    skipped_because: str | None = None
    target_entities: int | None = None
    target_pairs: int | None = None
    dropped: int = 0
    came: tuple[str, ...] = field(default=(), compare=False)
    went: tuple[str, ...] = field(default=(), compare=False)
    histories: tuple[str, ...] = ()

    @property
    def built(self) -> bool:
        return self.error is None and self.skipped_because is None


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


@dataclass
class _Build:
    """What all audiences of one build share."""

    warehouse: Warehouse
    space: Space
    window: Window
    as_of: dt.datetime
    loaded_at: dt.datetime
    run_id: str
    revisions: Mapping[str, str]
    people: People
    scratch: ExitStack
    funnels: bool
    counts: dict[TableRef, int] = field(default_factory=dict)
    moves: dict[tuple[dt.datetime, dt.datetime], ir.Table] = field(default_factory=dict)

    def compiled(self, key: str) -> CompiledAudience:
        return compile_audience(
            self.warehouse,
            self.space,
            self.space.audiences[key],
            self.as_of,
            members_of=lambda other: stored_members(self.warehouse, other, self.window.key),
            trait_values=lambda trait: stored_values(self.warehouse, trait, self.window.key),
            people=self.people,
        )

    def built(self, key: str) -> Built:
        """What this build makes of an audience."""
        return Built(self.window.key, self.as_of, self.revisions[key], KIND_HISTORY if self.histories(key) else KIND_CURRENT)

    def histories(self, key: str) -> tuple[str, ...]:
        """Entities of an audience that are read as they stood."""
        return tuple(e.slug for e in _entities_of(self.space, [key]) if has_history(self.space.config, e))

    def ids_at(self, as_of: dt.datetime) -> ir.Table:
        """Who is part of whom at an instant."""
        return self.people.ids if as_of == self.as_of else canonical_ids_as_of(self.warehouse, self.space.graph, as_of)

    def moved(self, since: dt.datetime, until: dt.datetime) -> ir.Table:
        """:func:`history.moved_people`, computed once for all audiences."""
        if (since, until) not in self.moves:
            moved = moved_people(self.warehouse, self.space.graph, since, until)
            self.moves[since, until] = self.scratch.enter_context(self.warehouse.staged(moved))
        return self.moves[since, until]


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
            reach=reach_of(space.audiences[key] for key in ordered),
        )
        build = _Build(warehouse, space, window, as_of, loaded_at, run_id, revisions, people, stack, funnels)
        there = _built_already(warehouse, window)
        take_snapshots(warehouse, space.config, _entities_of(space, ordered), as_of)
        for together in _runs_of(space, ordered):
            prepared: list[_Prepared] = []
            with ExitStack() as scratch:
                for key in together:
                    try:
                        reason = _missing(space, key, results, failed_traits, there)
                        if reason:
                            results[key] = AudienceResult(skipped_because=reason)
                        else:
                            prepared.append(_prepare(build, key, scratch))
                    except Exception as error:  # noqa: BLE001 - whatever one audience raises must not reach the others
                        results[key] = AudienceResult(error=cause(error))
                results |= _write_all(build, prepared)
    return {key: results[key] for key in keys}


def _entities_of(space: Space, keys: Iterable[str]) -> list[Entity]:
    """Entities on the paths of audiences, of paths that the graph has."""
    found: dict[str, Entity] = {}
    for key in keys:
        try:
            found |= {node.entity.slug: node.entity for node in nodes_of(space.graph, space.audiences[key])}
        except ConditionError:
            continue  # that audience fails by itself, with this error
    return [found[slug] for slug in sorted(found)]


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


def _runs_of(space: Space, ordered: Sequence[str]) -> Iterator[list[str]]:
    """Audiences that are written together: none of a run refers to another one of it, for a reference reads what is written."""
    run: list[str] = []
    for key in ordered:
        if len(run) == TOGETHER or not set(audiences_of(space.audiences[key])).isdisjoint(run):
            yield run
            run = []
        run.append(key)
    if run:
        yield run


@dataclass(frozen=True)
class _Prepared:
    """An audience that is computed and not written: ``members`` are staged, ``context`` is an expression over them."""

    key: str
    builds: Sequence[Built]
    members: ir.Table
    context: ir.Table
    path_rows: Mapping[TableRef, int]
    changes: _Changes
    recording: Sequence[tuple[Built, Earlier | None, ir.Table | None]]
    funnel: pa.Table | None


def _prepare(build: _Build, key: str, scratch: ExitStack) -> _Prepared:
    warehouse = build.warehouse
    builds = builds_of(warehouse, key)
    refuse_dropped(builds, build.as_of, build.space.config.retention_days)
    compiled = build.compiled(key)
    members = scratch.enter_context(warehouse.staged(compiled.members))
    earlier = scratch.enter_context(members_before(warehouse, key, builds, build.window.key, build.as_of))
    return _Prepared(
        key,
        builds,
        members,
        compiled.context_of(members),
        _path_rows(build, compiled.tables),
        _changes(build, key, members, builds),
        _transitions(build, key, builds, earlier),
        _funnel(build, key) if build.funnels and _funnel_wanted(build, key) else None,
    )


def _write_all(build: _Build, prepared: Sequence[_Prepared]) -> dict[str, AudienceResult]:
    """All in one transaction, for a commit costs as much as a small audience; when that fails, each in its own, so that only those at
    fault fail."""
    try:
        with build.warehouse.transaction():
            return {one.key: _write(build, one) for one in prepared}
    except Exception as error:  # noqa: BLE001 - whatever one audience raises must not reach the others
        if len(prepared) == 1:
            return {prepared[0].key: AudienceResult(error=cause(error))}
        return {key: result for one in prepared for key, result in _write_all(build, [one]).items()}


def _write(build: _Build, one: _Prepared) -> AudienceResult:
    """Replace what the partition has of the audience. Called within a transaction."""
    warehouse, key, changes = build.warehouse, one.key, one.changes
    stamp = {
        "audience": ibis.literal(key),
        "partition_key": ibis.literal(build.window.key),
        "as_of": timestamp_literal(build.as_of),
        "revision": ibis.literal(build.revisions[key]),
    }
    for spec in (AUDIENCE_MEMBERS, AUDIENCE_CONTEXT, PATH_ROWS):
        warehouse.delete(spec.ref, [("audience", "=", key), ("partition_key", "=", build.window.key)])
    warehouse.insert(AUDIENCE_MEMBERS.ref, one.members.mutate(**stamp))
    warehouse.insert(AUDIENCE_CONTEXT.ref, one.context.mutate(**stamp))
    warehouse.append(PATH_ROWS.ref, _path_row_table(build, key, one.path_rows))
    if one.funnel is not None:
        warehouse.delete(AUDIENCE_FUNNELS.ref, [("audience", "=", key), ("partition_key", "=", build.window.key)])
        warehouse.append(AUDIENCE_FUNNELS.ref, one.funnel)
    entities = _entities(build, key)
    target = _target(build, key)
    for partition, since, moved in one.recording:
        record_transitions(warehouse, build.ids_at(partition.as_of), key, partition, since, moved)
    dropped = drop_old(warehouse, key, _others(build, one.builds), build.as_of, build.space.config.retention_days)
    _check_size(changes.members + entities)
    record_build(
        warehouse,
        SCHEMA,
        asset=key,
        partition_key=build.window.key,
        as_of=build.as_of,
        revision=build.revisions[key],
        run_id=build.run_id,
        rows=changes.members,
        loaded_at=build.loaded_at,
        kind=build.built(key).kind,
    )
    return AudienceResult(
        changes.members,
        entities,
        changes.entered,
        changes.left,
        target_entities=target[0] if target else None,
        target_pairs=target[1] if target else None,
        dropped=dropped,
        came=changes.came,
        went=changes.went,
        histories=build.histories(key),
    )


def _transitions(
    build: _Build, key: str, builds: Sequence[Built], earlier: Earlier | None
) -> list[tuple[Built, Earlier | None, ir.Table | None]]:
    """(partition, what it is compared with, who moved between): this partition's, and those of the next, which stands on it."""
    mine = build.built(key)
    found = [(mine, earlier, build.moved(earlier.built.as_of, mine.as_of) if earlier else None)]
    later = after(_others(build, builds), mine.as_of)
    if later is not None:
        members = stored_members(build.warehouse, key, mine.partition_key)
        found.append((later, Earlier(mine, members), build.moved(mine.as_of, later.as_of)))
    return found


def _check_size(rows: int) -> None:
    if rows > MAX_ROWS:
        raise ConditionError(
            f"members and matched entities are {rows:,} rows together, of which at most {MAX_ROWS:,} are allowed; "
            "narrow the conditions, or split the audience"
        )


def _others(build: _Build, builds: Sequence[Built]) -> list[Built]:
    """The builds of other partitions."""
    return [built for built in builds if built.partition_key != build.window.key]


@dataclass(frozen=True)
class _Changes:
    members: int
    entered: int
    left: int
    came: tuple[str, ...]
    went: tuple[str, ...]


def _changes(build: _Build, key: str, members: ir.Table, builds: Sequence[Built]) -> _Changes:
    """The new members against those of the newest earlier build."""
    warehouse = build.warehouse
    now = members.select(PROFILE, was=ibis.literal(0), now=ibis.literal(1))
    merged = now
    earlier = _earlier_partition(build, builds)
    if earlier is not None:
        old = stored_members(warehouse, key, earlier)
        ids = build.people.ids
        # A profile that merged since is, for the comparison, who it is part of now.
        then = old.left_join(ids, old[PROFILE] == ids["segment_id"])
        person = ibis.coalesce(then["canonical_segment_id_right"], then["canonical_segment_id"])
        now = now.union(then.select(**{PROFILE: person}, was=ibis.literal(1), now=ibis.literal(0)))
        merged = now.group_by(PROFILE).aggregate(was=now["was"].max(), now=now["now"].max())
    counted = merged.aggregate(
        members=merged.count(where=merged["now"] == 1),
        entered=merged.count(where=(merged["now"] == 1) & (merged["was"] == 0)),
        departed=merged.count(where=(merged["now"] == 0) & (merged["was"] == 1)),
    )
    row = warehouse.rows(counted, 1)[0]
    some = {}
    for name, state in (("entered", 1), ("departed", 0)):
        some[name] = ()
        if row[name]:
            chosen = merged.filter((merged["now"] == state) & (merged["was"] == 1 - state)).select(PROFILE).order_by(PROFILE)
            some[name] = tuple(one[PROFILE] for one in warehouse.rows(chosen, EXAMPLES))
    return _Changes(
        int(row["members"] or 0), int(row["entered"] or 0), int(row["departed"] or 0), some["entered"], some["departed"]
    )


def _earlier_partition(build: _Build, builds: Sequence[Built]) -> str | None:
    """The partition of the audience's newest earlier build: this one when it is rebuilt, else the newest of an earlier as_of."""
    if any(built.partition_key == build.window.key for built in builds):
        return build.window.key
    earlier = before(builds, build.as_of)
    return earlier.partition_key if earlier else None


def _funnel_wanted(build: _Build, key: str) -> bool:
    """Counting costs several times what the audience does: an open partition is counted once in a definition, and when it closes."""
    if build.as_of >= build.window.end:
        return True
    counted = build.warehouse.table(AUDIENCE_FUNNELS.ref)
    same = (counted.audience == key) & (counted.partition_key == build.window.key) & (counted.revision == build.revisions[key])
    return build.warehouse.count(counted.filter(same)) == 0


def _funnel(build: _Build, key: str) -> pa.Table:
    left = survivors(
        build.warehouse,
        build.space,
        build.space.audiences[key],
        build.as_of,
        members_of=lambda other: stored_members(build.warehouse, other, build.window.key),
        trait_values=lambda trait: stored_values(build.warehouse, trait, build.window.key),
        people=build.people,
    )
    rows = [
        {
            "audience": key,
            "partition_key": build.window.key,
            "as_of": naive_utc(build.as_of),
            "revision": build.revisions[key],
            "position": position,
            "place": ".".join(map(str, place)),
            "profiles": profiles,
        }
        for position, (place, profiles) in enumerate(left.items())
    ]
    return pa.Table.from_pylist(rows, AUDIENCE_FUNNELS.schema.to_pyarrow())


def _path_rows(build: _Build, tables: Sequence[TableRef]) -> dict[TableRef, int]:
    """Row counts, one query for those that no audience of this build had asked for."""
    unknown = [ref for ref in tables if ref not in build.counts]
    if unknown:
        sized = [
            build.warehouse.table(ref).aggregate(rows=ibis._.count()).mutate(at=ibis.literal(i)) for i, ref in enumerate(unknown)
        ]
        rows = build.warehouse.rows(reduce(lambda left, right: left.union(right), sized), len(unknown))
        build.counts.update({unknown[row["at"]]: int(row["rows"]) for row in rows})
    return {ref: build.counts[ref] for ref in tables}


def _path_row_table(build: _Build, key: str, path_rows: Mapping[TableRef, int]) -> pa.Table:
    rows = [
        {
            "audience": key,
            "partition_key": build.window.key,
            "as_of": naive_utc(build.as_of),
            "revision": build.revisions[key],
            "table_name": str(ref),
            "rows": count,
        }
        for ref, count in path_rows.items()
    ]
    return pa.Table.from_pylist(rows, PATH_ROWS.schema.to_pyarrow())


def _entities(build: _Build, key: str) -> int:
    """Distinct (profile, path, entity). Context is distinct, so that only rows below other rows may have one twice."""
    context = _context(build, key)
    below = context.filter(context.parent_entity_id.notnull())
    top = build.warehouse.count(context.filter(context.parent_entity_id.isnull()))
    return top + build.warehouse.count(below.select(PROFILE, "path", "entity_id").distinct())


def _target(build: _Build, key: str) -> tuple[int, int] | None:
    """(distinct entities, distinct entities of each profile) of an audience of entities."""
    path = build.space.audiences[key].target_entity
    if path is None:
        return None
    matched = _context(build, key)
    pairs = matched.filter(matched.path == path).select(PROFILE, "entity_id").distinct()
    row = build.warehouse.rows(pairs.aggregate(entities=pairs.entity_id.nunique(), pairs=pairs.count()), 1)[0]
    return int(row["entities"]), int(row["pairs"])


def _context(build: _Build, key: str) -> ir.Table:
    context = build.warehouse.table(AUDIENCE_CONTEXT.ref)
    return context.filter((context.audience == key) & (context.partition_key == build.window.key))
