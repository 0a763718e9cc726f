"""Who entered audiences and who left since the build before, in numbers and a few examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.linked_audiences.compile import PROFILE
from cdp_assets.linked_audiences.gathered import Build, Gathered, Prepared
from cdp_assets.linked_audiences.history import Built, before
from cdp_assets.linked_audiences.people import NAME
from cdp_assets.linked_audiences.tables import AUDIENCE_MEMBERS
from resources.warehouse import Warehouse

EXAMPLES = 5


@dataclass(frozen=True)
class Changes:
    """Of one audience, in profiles; ``came`` and ``went``: the ids of the first of them."""

    members: int
    entered: int
    left: int
    came: tuple[str, ...]
    went: tuple[str, ...]


def changes(gathered: Gathered, some: Sequence[Prepared]) -> dict[str, Changes]:
    """The new members of audiences against those of the newest earlier build of each."""
    first: list[Prepared] = []
    former: dict[str, list[str]] = {}
    for one in some:
        earlier = _earlier_partition(gathered.build, one.builds)
        if earlier is None:
            first.append(one)
        else:
            former.setdefault(earlier, []).append(one.key)
    found = _first_changes(gathered, first) if first else {}
    return found | _changes_since(gathered, former) if former else found


def _first_changes(gathered: Gathered, some: Sequence[Prepared]) -> dict[str, Changes]:
    """Everybody entered."""
    # By number, and in the order of people's numbers, which is that of their ids.
    parts = [
        gathered.numbered_members([one.key]).order_by(PROFILE).limit(EXAMPLES).select(person=NAME, number="number")
        for one in some
        if one.members
    ]
    found = _examples(gathered.build.warehouse, parts)
    examples = {gathered.key_of(number): tuple(people) for (number,), people in found.items()}
    return {one.key: Changes(one.members, one.members, 0, examples.get(one.key, ()), ()) for one in some}


def _changes_since(gathered: Gathered, former: Mapping[str, Sequence[str]]) -> dict[str, Changes]:
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
        [
            changed.filter((changed["audience"] == key) & (changed["now"] == state))
            .order_by(PROFILE)
            .limit(EXAMPLES)
            .select(person=PROFILE, audience=ibis.literal(key), state=ibis.literal(state))
            for key, state in wanted
        ],
    )
    found = {}
    for key in keys:
        row = rows.get(key, {"members": 0, "entered": 0, "departed": 0})
        came, went = examples.get((key, 1), ()), examples.get((key, 0), ())
        found[key] = Changes(int(row["members"]), int(row["entered"]), int(row["departed"]), tuple(came), tuple(went))
    return found


def _examples(warehouse: Warehouse, parts: Sequence[ir.Table]) -> dict[tuple[Any, ...], list[str]]:
    """The few people of each part, in order, by the part's other columns. parts: (person, …), the others one value each."""
    if not parts:
        return {}
    found: dict[tuple[Any, ...], list[str]] = {}
    rows = warehouse.rows(reduce(lambda left, right: left.union(right), parts), EXAMPLES * len(parts))
    for row in sorted(rows, key=lambda row: row["person"]):
        found.setdefault(tuple(row[name] for name in parts[0].columns[1:]), []).append(row["person"])
    return found


def _earlier_partition(build: Build, builds: Sequence[Built]) -> str | None:
    """The partition of the audience's newest earlier build: this one when it is rebuilt, else the newest of an earlier as_of."""
    if any(built.partition_key == build.window.key for built in builds):
        return build.window.key
    earlier = before(builds, build.as_of)
    return earlier.partition_key if earlier else None
