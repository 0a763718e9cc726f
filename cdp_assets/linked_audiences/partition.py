"""What a partition has of one audience: computed, compared with the build before it, and written in place of what was there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, reduce

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.data_graph.model import Entity
from cdp_assets.linked_audiences.compile import PROFILE, CompiledAudience, Keep, compile_audience, nodes_of
from cdp_assets.linked_audiences.entity_history import has_history
from cdp_assets.linked_audiences.funnel import survivors
from cdp_assets.linked_audiences.history import (
    Built,
    Earlier,
    after,
    before,
    builds_of,
    drop_old,
    first_transitions,
    members_before,
    moved_people,
    refuse_dropped,
    transitions,
)
from cdp_assets.linked_audiences.people import NAME, People, named_context, named_members
from cdp_assets.linked_audiences.tables import (
    AUDIENCE_CONTEXT,
    AUDIENCE_FUNNELS,
    AUDIENCE_MEMBERS,
    AUDIENCE_TRANSITIONS,
    PATH_ROWS,
    SCHEMA,
    stored_members,
)
from cdp_assets.space.builds import KIND_CURRENT, KIND_HISTORY, BuildRecord, record_builds
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from cdp_assets.unified_profiles.tables import canonical_ids_as_of
from resources.warehouse import Condition, TableRef, Warehouse, naive_utc, timestamp_literal

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

    def compiled(self, key: str, keep: Keep | None) -> CompiledAudience:
        return compile_audience(
            self.warehouse,
            self.space,
            self.space.audiences[key],
            self.as_of,
            members_of=self.members_of,
            trait_values=self.trait_values,
            people=self.people,
            keep=keep,
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
class Recording:
    """Transitions to record: of a partition with members ``now``, against those of an earlier one; None: the first, all entered.

    moved: :func:`history.moved_people` between the two.
    """

    built: Built
    now: ir.Table
    earlier: Earlier | None
    moved: ir.Table | None


@dataclass(frozen=True)
class Prepared:
    """An audience that is computed and not written."""

    key: str
    builds: Sequence[Built]
    path_rows: Mapping[TableRef, int]
    recording: Sequence[Recording]
    funnel: pa.Table | None


@dataclass
class Gathered:
    """Audiences that are written together, and their rows, in scratch tables until then. People, audiences and paths are numbers there.

    Engines write one large table by all their threads, and many small ones one after the other.
    """

    build: Build
    members: TableRef
    context: TableRef
    scratch: ExitStack
    prepared: list[Prepared] = field(default_factory=list)
    rows: int = 0
    _keys: list[str] = field(default_factory=list)

    def number_of(self, key: str) -> int:
        """The number by which an audience goes in the scratch tables."""
        if key not in self._keys:
            self._keys.append(key)
        return self._keys.index(key)

    def members_of(self, keys: Sequence[str]) -> ir.Table:
        """(audience, revision, canonical_segment_id, NAME)"""
        return self._of(self.build.warehouse.table(self.members), keys).select("audience", "revision", PROFILE, NAME)

    def context_of(self, keys: Sequence[str]) -> ir.Table:
        """(audience, revision, canonical_segment_id, path, entity_id, parent_entity_id)"""
        rows = self._of(self.build.warehouse.table(self.context), keys)
        path = _text_of(rows["path_number"], dict(enumerate(self._paths)))
        return rows.select("audience", "revision", PROFILE, "entity_id", "parent_entity_id", path=path)

    def _of(self, rows: ir.Table, keys: Sequence[str]) -> ir.Table:
        """The rows of some audiences, with ``audience`` and ``revision``."""
        numbers = {self.number_of(key): key for key in keys}
        mine, revisions = rows.filter(rows["number"].isin(list(numbers))), self.build.revisions
        return mine.mutate(
            audience=_text_of(mine["number"], numbers),
            revision=_text_of(mine["number"], {number: revisions[key] for number, key in numbers.items()}),
        )

    @cached_property
    def _paths(self) -> list[str]:
        return [node.path for node in self.build.space.graph.nodes()]

    def path_number(self, path: ir.StringValue) -> ir.IntegerValue:
        """The number by which a path goes in the scratch tables."""
        return path.cases(*((one, number) for number, one in enumerate(self._paths)))


@contextmanager
def gathering(build: Build) -> Iterator[Gathered]:
    """Room for the rows of some audiences. DDL: open it outside a transaction."""
    mine = {"number": "int32", PROFILE: "int64"}
    with ExitStack() as scratch:
        members = scratch.enter_context(build.warehouse.scratch_table({**mine, NAME: "string"}))
        entities = {"path_number": "int32", "entity_id": "string", "parent_entity_id": "string"}
        context = scratch.enter_context(build.warehouse.scratch_table({**mine, **entities}))
        yield Gathered(build, members, context, scratch)


def prepare(gathered: Gathered, key: str) -> None:
    """Compute an audience, to be written with the others."""
    build, warehouse = gathered.build, gathered.build.warehouse
    builds = builds_of(warehouse, key)
    refuse_dropped(builds, build.as_of, build.space.config.retention_days)
    number = ibis.literal(gathered.number_of(key), type="int32")
    members = gathered.members_of([key]).select(PROFILE, NAME)
    with ExitStack() as scratch:
        keep = (lambda rows: scratch.enter_context(warehouse.staged(rows))) if warehouse.quick_scratch else None
        compiled = build.compiled(key, keep)
        found = warehouse.insert(gathered.members, compiled.members.select(PROFILE, NAME, number=number))
        context = compiled.context_of(members)
        context = context.select(
            PROFILE, "entity_id", "parent_entity_id", number=number, path_number=gathered.path_number(context["path"])
        )
        matched = warehouse.insert(gathered.context, context)
    gathered.rows += (found or 0) + (matched or 0)
    earlier = gathered.scratch.enter_context(members_before(warehouse, key, builds, build.window.key, build.as_of))
    paths = _path_rows(build, compiled.tables)
    funnel = _funnel(build, key) if build.funnels and _funnel_wanted(build, key) else None
    recording = _recording(build, key, named_members(members), builds, earlier)
    gathered.prepared.append(Prepared(key, builds, paths, recording, funnel))


def write(gathered: Gathered, some: Sequence[Prepared]) -> dict[str, AudienceResult]:
    """Replace what the partition has of some of the audiences. Called within a transaction."""
    build, keys = gathered.build, [one.key for one in some]
    warehouse, partition = build.warehouse, build.window.key
    changes = _changes(gathered, some)
    entities = _entities(gathered, keys)
    for key in keys:
        _check_size(changes[key].members + entities.get(key, 0))
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
    records = [BuildRecord(key, build.revisions[key], changes[key].members, build.built(key).kind) for key in keys]
    record_builds(warehouse, SCHEMA, records, partition, build.as_of, build.run_id, build.loaded_at)
    return {
        key: AudienceResult(
            changes[key].members,
            entities.get(key, 0),
            changes[key].entered,
            changes[key].left,
            target_entities=target[0] if target else None,
            target_pairs=target[1] if target else None,
            dropped=dropped[key],
            came=changes[key].came,
            went=changes[key].went,
            histories=build.histories(key),
        )
        for key, target in targets.items()
    }


def _text_of(number: ir.IntegerValue, texts: Mapping[int, str]) -> ir.StringValue:
    return number.cases(*texts.items())


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


@dataclass(frozen=True)
class _Changes:
    members: int
    entered: int
    left: int
    came: tuple[str, ...]
    went: tuple[str, ...]


def _changes(gathered: Gathered, some: Sequence[Prepared]) -> dict[str, _Changes]:
    """The new members of audiences against those of the newest earlier build of each."""
    first: list[str] = []
    former: dict[str, list[str]] = {}
    for one in some:
        earlier = _earlier_partition(gathered.build, one.builds)
        if earlier is None:
            first.append(one.key)
        else:
            former.setdefault(earlier, []).append(one.key)
    found = _first_changes(gathered, first) if first else {}
    return found | _changes_since(gathered, former) if former else found


def _first_changes(gathered: Gathered, keys: Sequence[str]) -> dict[str, _Changes]:
    """Everybody entered."""
    members = gathered.members_of(keys)
    counted = members.group_by("audience").aggregate(entered=members.count())
    rows = gathered.build.warehouse.rows(counted, len(keys))
    entered = {row["audience"]: int(row["entered"]) for row in rows}
    # People's numbers are in order of their ids.
    examples = _examples(
        gathered.build.warehouse,
        {(key, 1): gathered.members_of([key]).order_by(PROFILE).limit(EXAMPLES).select(person=NAME) for key in entered},
    )
    return {key: _Changes(entered.get(key, 0), entered.get(key, 0), 0, tuple(examples.get((key, 1), ())), ()) for key in keys}


def _changes_since(gathered: Gathered, former: Mapping[str, Sequence[str]]) -> dict[str, _Changes]:
    """Against members of other builds: partition -> audiences."""
    build, warehouse = gathered.build, gathered.build.warehouse
    keys = [key for some in former.values() for key in some]
    now = gathered.members_of(keys)
    now = now.select("audience", **{PROFILE: now[NAME]}, was=ibis.literal(0), now=ibis.literal(1))
    stored = warehouse.table(AUDIENCE_MEMBERS.ref)
    old = stored.filter(ibis.or_(*((stored.partition_key == at) & stored.audience.isin(some) for at, some in former.items())))
    ids = build.people.ids
    # A profile that merged since is, for the comparison, who it is part of now.
    then = old.left_join(ids, old[PROFILE] == ids["segment_id"])
    person = ibis.coalesce(then["canonical_segment_id_right"], then["canonical_segment_id"])
    both = now.union(then.select("audience", **{PROFILE: person}, was=ibis.literal(1), now=ibis.literal(0)))
    merged = both.group_by("audience", PROFILE).aggregate(was=both["was"].max(), now=both["now"].max())
    counted = merged.group_by("audience").aggregate(
        members=merged.count(where=merged["now"] == 1),
        entered=merged.count(where=(merged["now"] == 1) & (merged["was"] == 0)),
        departed=merged.count(where=(merged["now"] == 0) & (merged["was"] == 1)),
    )
    rows = {row["audience"]: row for row in warehouse.rows(counted, len(keys))}
    changed = merged.filter(merged["now"] != merged["was"])
    wanted = [(key, state) for key, row in rows.items() for state, name in ((1, "entered"), (0, "departed")) if row[name]]
    examples = _examples(
        warehouse,
        {
            (key, state): changed.filter((changed["audience"] == key) & (changed["now"] == state))
            .order_by(PROFILE)
            .limit(EXAMPLES)
            .select(person=PROFILE)
            for key, state in wanted
        },
    )
    found = {}
    for key in keys:
        row = rows.get(key, {"members": 0, "entered": 0, "departed": 0})
        came, went = examples.get((key, 1), ()), examples.get((key, 0), ())
        found[key] = _Changes(int(row["members"]), int(row["entered"]), int(row["departed"]), tuple(came), tuple(went))
    return found


def _examples(warehouse: Warehouse, wanted: Mapping[tuple[str, int], ir.Table]) -> dict[tuple[str, int], list[str]]:
    """A few of those who entered (1) and left (0) each audience, in order. wanted: (person), at most that many."""
    if not wanted:
        return {}
    parts = [people.mutate(audience=ibis.literal(key), state=ibis.literal(state)) for (key, state), people in wanted.items()]
    found: dict[tuple[str, int], list[str]] = {}
    rows = warehouse.rows(reduce(lambda left, right: left.union(right), parts), EXAMPLES * len(parts))
    for row in sorted(rows, key=lambda row: row["person"]):
        found.setdefault((row["audience"], row["state"]), []).append(row["person"])
    return found


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
    context = gathered.context_of(keys)
    top = context.filter(context.parent_entity_id.isnull()).select("audience")
    below = context.filter(context.parent_entity_id.notnull()).select("audience", PROFILE, "path", "entity_id").distinct()
    both = top.union(below.select("audience"))
    rows = gathered.build.warehouse.rows(both.group_by("audience").aggregate(rows=both.count()), len(keys))
    return {row["audience"]: int(row["rows"]) for row in rows}


def _target(gathered: Gathered, key: str) -> tuple[int, int] | None:
    """(distinct entities, distinct entities of each profile) of an audience of entities."""
    path = gathered.build.space.audiences[key].target_entity
    if path is None:
        return None
    matched = gathered.context_of([key])
    pairs = matched.filter(matched.path == path).select(PROFILE, "entity_id").distinct()
    row = gathered.build.warehouse.rows(pairs.aggregate(entities=pairs.entity_id.nunique(), pairs=pairs.count()), 1)[0]
    return int(row["entities"]), int(row["pairs"])
