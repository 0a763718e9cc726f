"""What a partition has of one audience: computed, compared with the build before it, and written in place of what was there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.data_graph.model import Entity
from cdp_assets.linked_audiences.compile import PROFILE, CompiledAudience, compile_audience, nodes_of
from cdp_assets.linked_audiences.entity_history import has_history
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
from cdp_assets.linked_audiences.people import People, named_context, named_members
from cdp_assets.linked_audiences.tables import (
    AUDIENCE_CONTEXT,
    AUDIENCE_FUNNELS,
    AUDIENCE_MEMBERS,
    PATH_ROWS,
    SCHEMA,
    stored_members,
)
from cdp_assets.space.builds import KIND_CURRENT, KIND_HISTORY, record_build
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from cdp_assets.unified_profiles.tables import canonical_ids_as_of
from resources.warehouse import TableRef, Warehouse, naive_utc, timestamp_literal

EXAMPLES = 5
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


@dataclass
class Build:
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
            members_of=self.members_of,
            trait_values=self.trait_values,
            people=self.people,
        )

    def members_of(self, key: str) -> ir.Table:
        """The members that the window's partition has of an audience."""
        return self.people.by_number(stored_members(self.warehouse, key, self.window.key))

    def trait_values(self, key: str) -> ir.Table:
        """The values that the window's partition has of a trait."""
        return self.people.by_number(stored_values(self.warehouse, key, self.window.key))

    def built(self, key: str) -> Built:
        """What this build makes of an audience."""
        return Built(self.window.key, self.as_of, self.revisions[key], KIND_HISTORY if self.histories(key) else KIND_CURRENT)

    def histories(self, key: str) -> tuple[str, ...]:
        """Entities of an audience that are read as they stood."""
        return tuple(e.slug for e in entities_of(self.space, [key]) if has_history(self.space.config, e))

    def ids_at(self, as_of: dt.datetime) -> ir.Table:
        """Who is part of whom at an instant."""
        return self.people.ids if as_of == self.as_of else canonical_ids_as_of(self.warehouse, self.space.graph, as_of)

    def moved(self, since: dt.datetime, until: dt.datetime) -> ir.Table:
        """:func:`history.moved_people`, computed once for all audiences."""
        if (since, until) not in self.moves:
            moved = moved_people(self.warehouse, self.space.graph, since, until)
            self.moves[since, until] = self.scratch.enter_context(self.warehouse.staged(moved))
        return self.moves[since, until]


def entities_of(space: Space, keys: Iterable[str]) -> list[Entity]:
    """Entities on the paths of audiences, of paths that the graph has."""
    found: dict[str, Entity] = {}
    for key in keys:
        try:
            found |= {node.entity.slug: node.entity for node in nodes_of(space.graph, space.audiences[key])}
        except ConditionError:
            continue  # that audience fails by itself, with this error
    return [found[slug] for slug in sorted(found)]


@dataclass(frozen=True)
class Prepared:
    """An audience that is computed and not written: ``members`` and ``context`` are expressions over members that are staged."""

    key: str
    builds: Sequence[Built]
    members: ir.Table
    context: ir.Table
    path_rows: Mapping[TableRef, int]
    changes: _Changes
    recording: Sequence[tuple[Built, Earlier | None, ir.Table | None]]
    funnel: pa.Table | None


def prepare(build: Build, key: str, scratch: ExitStack) -> Prepared:
    warehouse = build.warehouse
    builds = builds_of(warehouse, key)
    refuse_dropped(builds, build.as_of, build.space.config.retention_days)
    compiled = build.compiled(key)
    numbered = scratch.enter_context(warehouse.staged(compiled.members))
    members = named_members(numbered)
    earlier = scratch.enter_context(members_before(warehouse, key, builds, build.window.key, build.as_of))
    return Prepared(
        key,
        builds,
        members,
        named_context(compiled.context_of(numbered), numbered),
        _path_rows(build, compiled.tables),
        _changes(build, key, members, builds),
        _transitions(build, key, builds, earlier),
        _funnel(build, key) if build.funnels and _funnel_wanted(build, key) else None,
    )


def write(build: Build, one: Prepared) -> AudienceResult:
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
    build: Build, key: str, builds: Sequence[Built], earlier: Earlier | None
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


def _others(build: Build, builds: Sequence[Built]) -> list[Built]:
    """The builds of other partitions."""
    return [built for built in builds if built.partition_key != build.window.key]


@dataclass(frozen=True)
class _Changes:
    members: int
    entered: int
    left: int
    came: tuple[str, ...]
    went: tuple[str, ...]


def _changes(build: Build, key: str, members: ir.Table, builds: Sequence[Built]) -> _Changes:
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


def _earlier_partition(build: Build, builds: Sequence[Built]) -> str | None:
    """The partition of the audience's newest earlier build: this one when it is rebuilt, else the newest of an earlier as_of."""
    if any(built.partition_key == build.window.key for built in builds):
        return build.window.key
    earlier = before(builds, build.as_of)
    return earlier.partition_key if earlier else None


def _funnel_wanted(build: Build, key: str) -> bool:
    """Counting costs several times what the audience does: an open partition is counted once in a definition, and when it closes."""
    if build.as_of >= build.window.end:
        return True
    counted = build.warehouse.table(AUDIENCE_FUNNELS.ref)
    same = (counted.audience == key) & (counted.partition_key == build.window.key) & (counted.revision == build.revisions[key])
    return build.warehouse.count(counted.filter(same)) == 0


def _funnel(build: Build, key: str) -> pa.Table:
    left = survivors(
        build.warehouse,
        build.space,
        build.space.audiences[key],
        build.as_of,
        members_of=build.members_of,
        trait_values=build.trait_values,
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


def _path_rows(build: Build, tables: Sequence[TableRef]) -> dict[TableRef, int]:
    """Row counts, one query for those that no audience of this build had asked for."""
    unknown = [ref for ref in tables if ref not in build.counts]
    if unknown:
        sized = [
            build.warehouse.table(ref).aggregate(rows=ibis._.count()).mutate(at=ibis.literal(i)) for i, ref in enumerate(unknown)
        ]
        rows = build.warehouse.rows(reduce(lambda left, right: left.union(right), sized), len(unknown))
        build.counts.update({unknown[row["at"]]: int(row["rows"]) for row in rows})
    return {ref: build.counts[ref] for ref in tables}


def _path_row_table(build: Build, key: str, path_rows: Mapping[TableRef, int]) -> pa.Table:
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


def _entities(build: Build, key: str) -> int:
    """Distinct (profile, path, entity). Context is distinct, so that only rows below other rows may have one twice."""
    context = _context(build, key)
    below = context.filter(context.parent_entity_id.notnull())
    top = build.warehouse.count(context.filter(context.parent_entity_id.isnull()))
    return top + build.warehouse.count(below.select(PROFILE, "path", "entity_id").distinct())


def _target(build: Build, key: str) -> tuple[int, int] | None:
    """(distinct entities, distinct entities of each profile) of an audience of entities."""
    path = build.space.audiences[key].target_entity
    if path is None:
        return None
    matched = _context(build, key)
    pairs = matched.filter(matched.path == path).select(PROFILE, "entity_id").distinct()
    row = build.warehouse.rows(pairs.aggregate(entities=pairs.entity_id.nunique(), pairs=pairs.count()), 1)[0]
    return int(row["entities"]), int(row["pairs"])


def _context(build: Build, key: str) -> ir.Table:
    context = build.warehouse.table(AUDIENCE_CONTEXT.ref)
    return context.filter((context.audience == key) & (context.partition_key == build.window.key))
