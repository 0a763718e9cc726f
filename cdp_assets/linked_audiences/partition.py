"""What a partition has of one audience: computed, compared with the build before it, and written in place of what was there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.linked_audiences.changes import changes
from cdp_assets.linked_audiences.compile import PROFILE
from cdp_assets.linked_audiences.funnel import survivors
from cdp_assets.linked_audiences.gathered import Build, Gathered, Prepared, Recording
from cdp_assets.linked_audiences.history import (
    Built,
    Earlier,
    after,
    drop_old,
    first_transitions,
    members_before,
    refuse_dropped,
    transitions,
)
from cdp_assets.linked_audiences.people import NAME, named_context, named_members
from cdp_assets.linked_audiences.tables import (
    AUDIENCE_CONTEXT,
    AUDIENCE_FUNNELS,
    AUDIENCE_MEMBERS,
    AUDIENCE_TRANSITIONS,
    PATH_ROWS,
    SCHEMA,
    stored_members,
)
from cdp_assets.space.builds import BuildRecord, record_builds
from cdp_assets.space.operators import ConditionError
from resources.warehouse import Condition, TableRef, naive_utc, timestamp_literal

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


def prepare(gathered: Gathered, key: str) -> None:
    """Compute an audience, to be written with the others."""
    build, warehouse = gathered.build, gathered.build.warehouse
    builds = build.builds[key]
    refuse_dropped(builds, build.as_of, build.space.config.retention_days)
    number = ibis.literal(gathered.number_of(key), type="int32")
    members = gathered.numbered_members([key])
    with ExitStack() as scratch:
        keep = (lambda rows: scratch.enter_context(warehouse.staged(rows))) if warehouse.quick_scratch else None
        compiled = build.compiled(key, keep)
        found = warehouse.insert(gathered.members, compiled.members.select(number.name("number"), PROFILE, NAME))
        context = compiled.context_of(members, gathered.path_number)
        path = context["path"].name("path_number")
        context = context.select(number.name("number"), PROFILE, path, "entity_id", "parent_entity_id")
        matched = warehouse.insert(gathered.context, context)
    if found is None:
        found = warehouse.count(members)
    gathered.rows += found + (matched or 0)
    earlier = gathered.scratch.enter_context(members_before(warehouse, key, builds, build.window.key, build.as_of))
    paths = _path_rows(build, compiled.tables)
    funnel = _funnel(build, key) if build.funnels and _funnel_wanted(build, key) else None
    recording = _recording(build, key, named_members(members), builds, earlier)
    gathered.prepared.append(Prepared(key, found, builds, paths, recording, funnel))


def write(gathered: Gathered, some: Sequence[Prepared]) -> dict[str, AudienceResult]:
    """Replace what the partition has of some of the audiences. Called within a transaction."""
    build, keys = gathered.build, [one.key for one in some]
    warehouse, partition = build.warehouse, build.window.key
    changed = changes(gathered, some)
    entities = _entities(gathered, keys)
    for key in keys:
        _check_size(changed[key].members + entities.get(key, 0))
    mine: list[Condition] = [("audience", "in", keys), ("partition_key", "=", partition)]
    for spec in (AUDIENCE_MEMBERS, AUDIENCE_CONTEXT, PATH_ROWS):
        warehouse.delete(spec.ref, mine)
    at = {"partition_key": ibis.literal(partition), "as_of": timestamp_literal(build.as_of)}
    members = gathered.members_of(keys)
    warehouse.insert(AUDIENCE_MEMBERS.ref, named_members(members, "audience", "revision").mutate(**at))
    context = gathered.context_of(keys)
    warehouse.insert(AUDIENCE_CONTEXT.ref, named_context(context, build.people.names, "audience", "revision").mutate(**at))
    warehouse.append(PATH_ROWS.ref, _path_row_table(build, some))
    funnels = {one.key: one.funnel for one in some if one.funnel is not None}
    if funnels:
        warehouse.delete(AUDIENCE_FUNNELS.ref, [("audience", "in", list(funnels)), ("partition_key", "=", partition)])
        warehouse.append(AUDIENCE_FUNNELS.ref, pa.concat_tables(funnels.values()))
    _record_transitions(gathered, some)
    targets = {key: _target(gathered, key) for key in keys}
    days = build.space.config.retention_days
    dropped = {one.key: drop_old(warehouse, one.key, _others(build, one.builds), build.as_of, days) for one in some}
    records = [BuildRecord(key, build.revisions[key], changed[key].members, build.built(key).kind) for key in keys]
    record_builds(warehouse, SCHEMA, records, partition, build.as_of, build.run_id, build.loaded_at)
    return {
        key: AudienceResult(
            changed[key].members,
            entities.get(key, 0),
            changed[key].entered,
            changed[key].left,
            target_entities=target[0] if target else None,
            target_pairs=target[1] if target else None,
            dropped=dropped[key],
            came=changed[key].came,
            went=changed[key].went,
            histories=build.histories(key),
        )
        for key, target in targets.items()
    }


def _recording(build: Build, key: str, members: ir.Table, builds: Sequence[Built], earlier: Earlier | None) -> list[Recording]:
    """Transitions of this partition, and of the next, which stands on it."""
    mine = build.built(key)
    found = [Recording(mine, members, earlier, build.moved(earlier.built.as_of, mine.as_of) if earlier else None)]
    later = after(_others(build, builds), mine.as_of)
    if later is not None:
        stored = stored_members(build.warehouse, key, later.partition_key)
        found.append(Recording(later, stored, Earlier(mine, members), build.moved(mine.as_of, later.as_of)))
    return found


def _record_transitions(gathered: Gathered, some: Sequence[Prepared]) -> None:
    build, warehouse = gathered.build, gathered.build.warehouse
    replaced: dict[str, list[str]] = {}
    first: list[str] = []
    changed: list[ir.Table] = []
    for one in some:
        for due in one.recording:
            replaced.setdefault(due.built.partition_key, []).append(one.key)
            if due.earlier is None or due.moved is None:
                first.append(one.key)
            else:
                ids = build.ids_at(due.built.as_of)
                changed.append(transitions(ids, one.key, due.built, due.now, due.earlier, due.moved))
    for partition, keys in replaced.items():
        warehouse.delete(AUDIENCE_TRANSITIONS.ref, [("audience", "in", keys), ("partition_key", "=", partition)])
    if first:
        entered = first_transitions(named_members(gathered.members_of(first), "audience", "revision"))
        at = {"partition_key": ibis.literal(build.window.key), "as_of": timestamp_literal(build.as_of)}
        warehouse.insert(AUDIENCE_TRANSITIONS.ref, entered.mutate(**at))
    for rows in changed:
        warehouse.insert(AUDIENCE_TRANSITIONS.ref, rows)


def _check_size(rows: int) -> None:
    if rows > MAX_ROWS:
        raise ConditionError(
            f"members and matched entities are {rows:,} rows together, of which at most {MAX_ROWS:,} are allowed; "
            "narrow the conditions, or split the audience"
        )


def _others(build: Build, builds: Sequence[Built]) -> list[Built]:
    """The builds of other partitions."""
    return [built for built in builds if built.partition_key != build.window.key]


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


def _path_row_table(build: Build, some: Sequence[Prepared]) -> pa.Table:
    rows = [
        {
            "audience": one.key,
            "partition_key": build.window.key,
            "as_of": naive_utc(build.as_of),
            "revision": build.revisions[one.key],
            "table_name": str(ref),
            "rows": count,
        }
        for one in some
        for ref, count in one.path_rows.items()
    ]
    return pa.Table.from_pylist(rows, PATH_ROWS.schema.to_pyarrow())


def _entities(gathered: Gathered, keys: Sequence[str]) -> dict[str, int]:
    """Distinct (profile, path, entity) of audiences. Context is distinct, so that only rows below other rows may have one twice."""
    context = gathered.numbered_context(keys)
    top = context.filter(context.parent_entity_id.isnull()).select("number")
    below = context.filter(context.parent_entity_id.notnull()).select("number", PROFILE, "path_number", "entity_id").distinct()
    both = top.union(below.select("number"))
    rows = gathered.build.warehouse.rows(both.group_by("number").aggregate(rows=both.count()), len(keys))
    return {gathered.key_of(row["number"]): int(row["rows"]) for row in rows}


def _target(gathered: Gathered, key: str) -> tuple[int, int] | None:
    """(distinct entities, distinct entities of each profile) of an audience of entities."""
    path = gathered.build.space.audiences[key].target_entity
    if path is None:
        return None
    matched = gathered.context_of([key])
    pairs = matched.filter(matched.path == path).select(PROFILE, "entity_id").distinct()
    row = gathered.build.warehouse.rows(pairs.aggregate(entities=pairs.entity_id.nunique(), pairs=pairs.count()), 1)[0]
    return int(row["entities"]), int(row["pairs"])
