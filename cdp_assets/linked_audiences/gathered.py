"""Audiences that are built together: what all of them share, and the rows of some, in scratch tables until they are written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.data_graph.model import Entity
from cdp_assets.linked_audiences.compile import PROFILE, CompiledAudience, Keep, compile_audience, nodes_of
from cdp_assets.linked_audiences.entity_history import has_history
from cdp_assets.linked_audiences.history import Built, Earlier, moved_people
from cdp_assets.linked_audiences.people import NAME, People
from cdp_assets.linked_audiences.tables import stored_members
from cdp_assets.space.builds import KIND_CURRENT, KIND_HISTORY
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from cdp_assets.unified_profiles.tables import canonical_ids_as_of
from resources.warehouse import TableRef, Warehouse


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
    builds: Mapping[str, Sequence[Built]]
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
    """An audience that is computed and not written. ``members``: how many it has."""

    key: str
    members: int
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
    _names: ir.Table | None = None

    def number_of(self, key: str) -> int:
        """The number by which an audience goes in the scratch tables."""
        if key not in self._keys:
            self._keys.append(key)
        return self._keys.index(key)

    def key_of(self, number: int) -> str:
        return self._keys[number]

    def name_all(self) -> None:
        """Write down what the numbers of all that are prepared stand for. DDL: call it outside a transaction.

        In a table, so that the same queries serve the next audiences, which have the same numbers.
        """
        if not self.prepared:
            return
        keys = [one.key for one in self.prepared]
        numbers = pa.array([self.number_of(key) for key in keys], pa.int32())
        rows = pa.table({"number": numbers, "audience": keys, "revision": [self.build.revisions[key] for key in keys]})
        self._names = self.scratch.enter_context(self.build.warehouse.scratch(rows))

    def numbered_members(self, keys: Sequence[str]) -> ir.Table:
        """(number, canonical_segment_id, NAME)"""
        return self._of(self.members, keys)

    def numbered_context(self, keys: Sequence[str]) -> ir.Table:
        """(number, canonical_segment_id, path_number, entity_id, parent_entity_id)"""
        return self._of(self.context, keys)

    def members_of(self, keys: Sequence[str]) -> ir.Table:
        """(audience, revision, canonical_segment_id, NAME), when all are named."""
        return self._named(self.numbered_members(keys)).select("audience", "revision", PROFILE, NAME)

    def context_of(self, keys: Sequence[str]) -> ir.Table:
        """(audience, revision, canonical_segment_id, path, entity_id, parent_entity_id), when all are named."""
        rows = self._named(self.numbered_context(keys))
        path = rows["path_number"].cases(*enumerate(self._paths))
        return rows.select("audience", "revision", PROFILE, "entity_id", "parent_entity_id", path=path)

    def _named(self, rows: ir.Table) -> ir.Table:
        assert self._names is not None
        return rows.join(self._names, "number")

    def _of(self, ref: TableRef, keys: Sequence[str]) -> ir.Table:
        rows = self.build.warehouse.table(ref)
        return rows.filter(rows["number"].isin([self.number_of(key) for key in keys]))

    @cached_property
    def _paths(self) -> list[str]:
        return [node.path for node in self.build.space.graph.nodes()]

    def path_number(self, path: str) -> ir.IntegerScalar:
        """The number by which a path goes in the scratch tables."""
        return ibis.literal(self._paths.index(path), type="int32")


@contextmanager
def gathering(build: Build) -> Iterator[Gathered]:
    """Room for the rows of some audiences. DDL: open it outside a transaction."""
    mine = {"number": "int32", PROFILE: "int64"}
    with ExitStack() as scratch:
        members = scratch.enter_context(build.warehouse.scratch_table({**mine, NAME: "string"}))
        entities = {"path_number": "int32", "entity_id": "string", "parent_entity_id": "string"}
        context = scratch.enter_context(build.warehouse.scratch_table({**mine, **entities}))
        yield Gathered(build, members, context, scratch)
