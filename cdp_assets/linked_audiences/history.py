"""Who entered and left an audience between its partitions and why, and which partitions keep their members.

The transitions of a partition say how its members differ from those of the partition built before it. They follow from the two:
when one of them is built again they are written again, so that a backfill in any order leaves what one pass in order leaves.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.linked_audiences.tables import (
    AUDIENCE_CONTEXT,
    AUDIENCE_FUNNELS,
    AUDIENCE_MEMBERS,
    AUDIENCE_TRANSITIONS,
    BUILDS,
    PATH_ROWS,
    stored_members,
)
from cdp_assets.space.operators import ConditionError
from cdp_assets.unified_profiles.tables import canonical_ids_as_of
from resources.warehouse import Warehouse, timestamp_literal

PROFILE = "canonical_segment_id"
_MOST_BUILDS = 100_000  # of an audience


@dataclass(frozen=True)
class Built:
    """A built partition of an audience. ``kind``: whether entity tables were read as they are, or as they were."""

    partition_key: str
    as_of: dt.datetime
    revision: str
    kind: str

    def defined_as(self, other: Built) -> bool:
        """Whether both mean the same by the audience."""
        return (self.revision, self.kind) == (other.revision, other.kind)


@dataclass(frozen=True)
class Earlier:
    """The partition that a later one is compared with, and its members: (canonical_segment_id)."""

    built: Built
    members: ir.Table


def builds_of(warehouse: Warehouse, audiences: Sequence[str]) -> dict[str, list[Built]]:
    """The built partitions of audiences that have their members, oldest first."""
    found: dict[str, list[Built]] = {audience: [] for audience in audiences}
    builds = warehouse.table(BUILDS.ref)
    theirs = builds.filter(builds.asset.isin(list(found))).order_by("as_of", "partition_key")
    for row in warehouse.rows(theirs, _MOST_BUILDS * len(found)):
        built = Built(row["partition_key"], row["as_of"].replace(tzinfo=dt.UTC), row["revision"], row["kind"])
        found[row["asset"]].append(built)
    return found


def before(builds: Sequence[Built], as_of: dt.datetime) -> Built | None:
    """The newest of an earlier as_of."""
    return next((built for built in reversed(builds) if built.as_of < as_of), None)


def after(builds: Sequence[Built], as_of: dt.datetime) -> Built | None:
    """The oldest of a later as_of."""
    return next((built for built in builds if built.as_of > as_of), None)


def moved_people(warehouse: Warehouse, graph: DataGraph, since: dt.datetime, until: dt.datetime) -> ir.Table:
    """(moved_id): profiles that merged, or took in or gave away another one, between two instants."""
    then = canonical_ids_as_of(warehouse, graph, since).select("segment_id", former="canonical_segment_id")
    now = canonical_ids_as_of(warehouse, graph, until).select(now_segment="segment_id", latter="canonical_segment_id")
    both = then.join(now, then["segment_id"] == now["now_segment"])
    both = both.filter(both["former"] != both["latter"])
    return both.select(moved_id=both["former"]).union(both.select(moved_id=both["latter"])).distinct()


@contextmanager
def members_before(
    warehouse: Warehouse, audience: str, builds: Sequence[Built], partition_key: str, as_of: dt.datetime
) -> Iterator[Earlier | None]:
    """The partition that transitions of ``partition_key`` are counted from, with its members; None when it is the first.

    Where retention dropped that one, the members are those of the partition as it is stored, with its transitions undone. Read it
    before the partition is replaced.
    """
    others = [built for built in builds if built.partition_key != partition_key]
    earlier = before(others, as_of)
    if earlier is not None:
        yield Earlier(earlier, stored_members(warehouse, audience, earlier.partition_key))
        return
    mine = next((built for built in builds if built.partition_key == partition_key), None)
    if mine is None:
        yield None
        return
    recorded = warehouse.table(AUDIENCE_TRANSITIONS.ref)
    recorded = recorded.filter((recorded.audience == audience) & (recorded.partition_key == partition_key))
    since = warehouse.rows(recorded.aggregate(changes=recorded.count(), since=recorded["since"].max()), 1)[0]
    if since["changes"] and since["since"] is None:
        yield None
        return
    left = recorded.filter(recorded.change == "left").select(PROFILE)
    kept = stored_members(warehouse, audience, partition_key).anti_join(recorded.filter(recorded.change == "entered"), PROFILE)
    then = since["since"].replace(tzinfo=dt.UTC) if since["since"] else mine.as_of
    with warehouse.staged(kept.union(left)) as members:
        yield Earlier(dataclasses.replace(mine, as_of=then), members)


def first_transitions(members: ir.Table) -> ir.Table:
    """The transitions of a partition without one before: everybody entered."""
    return members.mutate(change=ibis.literal("entered"), why=ibis.literal("data"), since=ibis.null("timestamp(6)"))


def transitions(ids: ir.Table, audience: str, built: Built, now: ir.Table, earlier: Earlier, moved: ir.Table) -> ir.Table:
    """The transitions of a partition: its members ``now`` against those of ``earlier``.

    ``ids``: canonical ids at the partition's as_of. ``moved``: :func:`moved_people` between the two. Why: ``identity`` where a person is
    a member under another id, or became a member or stopped being one with the profiles that it consists of; ``definition`` where the
    two partitions mean different things by the audience; else ``data``, which includes what passing time alone does.
    """
    people = ids.select("segment_id", person="canonical_segment_id")
    old = earlier.members
    then = old.left_join(people, old[PROFILE] == people["segment_id"])
    then = then.select(PROFILE, person=ibis.coalesce(then["person"], then[PROFILE]))
    entered, left = now.anti_join(then, PROFILE), then.anti_join(now, PROFILE)
    entered = entered.select(PROFILE, change=ibis.literal("entered"), same_person=entered[PROFILE].isin(then["person"]))
    left = left.select(PROFILE, change=ibis.literal("left"), same_person=left["person"].isin(now[PROFILE]))
    changed = entered.union(left)
    by_identity, other = changed["same_person"], "definition"
    if built.defined_as(earlier.built):
        by_identity, other = by_identity | changed[PROFILE].isin(moved["moved_id"]), "data"
    return changed.select(
        PROFILE,
        "change",
        why=ibis.ifelse(by_identity, "identity", other),
        audience=ibis.literal(audience),
        partition_key=ibis.literal(built.partition_key),
        as_of=timestamp_literal(built.as_of),
        revision=ibis.literal(built.revision),
        since=timestamp_literal(earlier.built.as_of),
    )


def refuse_dropped(builds: Sequence[Built], as_of: dt.datetime, retention_days: int | None) -> None:
    """Raises ConditionError for a partition so old that it would be dropped at once."""
    if retention_days is None or not builds:
        return
    newest = builds[-1].as_of
    if as_of <= newest - dt.timedelta(days=retention_days):
        raise ConditionError(
            f"as of {as_of:%Y-%m-%d %H:%M} is more than retention_days ({retention_days}) before the newest build "
            f"({newest:%Y-%m-%d %H:%M}); such partitions keep transitions only, so raise retention_days in space.yaml to build it"
        )


def drop_old(warehouse: Warehouse, audience: str, builds: Sequence[Built], as_of: dt.datetime, retention_days: int | None) -> int:
    """Drop members and context of those ``builds`` that are older than the retention, counted from ``as_of``; their transitions stay.

    How many partitions were dropped. Call it within a transaction.
    """
    if retention_days is None:
        return 0
    old = [built.partition_key for built in builds if built.as_of <= as_of - dt.timedelta(days=retention_days)]
    if old:
        for spec in (AUDIENCE_MEMBERS, AUDIENCE_CONTEXT, AUDIENCE_FUNNELS, PATH_ROWS):
            warehouse.delete(spec.ref, [("audience", "=", audience), ("partition_key", "in", old)])
        warehouse.delete(BUILDS.ref, [("asset", "=", audience), ("partition_key", "in", old)])
    return len(old)
