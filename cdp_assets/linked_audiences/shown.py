"""What an audience's asset shows of its newest build: who is left at each condition, size over time, overlap, reach, who came and went.

Read from what the build stored; only identifiers are looked up. Of people only masked examples.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.linked_audiences.funnel import funnel_text
from cdp_assets.linked_audiences.partition import AudienceResult
from cdp_assets.linked_audiences.tables import AUDIENCE_FUNNELS, AUDIENCE_MEMBERS, AUDIENCE_TRANSITIONS, BUILDS
from cdp_assets.space.documents import Place
from cdp_assets.space.masking import mask_value
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import identifiers_as_of
from resources.warehouse import Warehouse

PROFILE = "canonical_segment_id"
_POINTS, _OTHERS, _PER_PERSON, _MANY = 90, 10, 3, 100_000
Examples = Sequence[str]


@dataclass(frozen=True)
class Shown:
    """Of one audience. ``funnel``: text; None before one was counted. ``sizes``: members by as_of, oldest first. ``overlap``: other audiences
    of the partition, largest overlap first, with the members in both and theirs. ``reach``: members that have an identifier of each
    type. ``changes``: profiles since the partition before, by change and why. Examples: id and masked identifiers.
    """

    members: int
    funnel: str | None
    funnel_as_of: dt.datetime | None
    sizes: Sequence[tuple[dt.datetime, int]]
    overlap: Sequence[tuple[str, int, int]]
    reach: Sequence[tuple[str, int]]
    changes: Mapping[tuple[str, str], int]
    entered: Examples
    left: Examples


def shown(
    warehouse: Warehouse, space: Space, results: Mapping[str, AudienceResult], partition_key: str, as_of: dt.datetime
) -> dict[str, Shown]:
    """What to show of audiences that were just built in a partition. Queries are few, for all audiences together."""
    keys = sorted(key for key, result in results.items() if result.built)
    if not keys:
        return {}
    members = warehouse.table(AUDIENCE_MEMBERS.ref)
    members = members.filter(members.partition_key == partition_key)
    mine = members.filter(members.audience.isin(keys))
    known = identifiers_as_of(warehouse, space.graph, as_of).select(PROFILE, "type", "value")
    builds = warehouse.table(BUILDS.ref)
    history = _grouped(warehouse, builds.filter(builds.asset.isin(keys)).order_by("as_of", "partition_key"), "asset")
    sizes = {
        row["audience"]: row["n"] for row in warehouse.rows(members.group_by("audience").aggregate(n=members.count()), _MANY)
    }
    overlaps = _grouped(warehouse, _overlap(mine, members), "audience")
    reaches = _grouped(warehouse, _reach(mine, known), "audience")
    changes = _grouped(warehouse, _changes(warehouse, keys, partition_key), "audience")
    funnels = _grouped(warehouse, _funnels(warehouse, keys, partition_key), "audience")
    people = _people(warehouse, known, {one for key in keys for one in (*results[key].came, *results[key].went)})
    found = {}
    for key in keys:
        lines = funnels.get(key, [])
        left = {_place(row["place"]): row["profiles"] for row in lines}
        found[key] = Shown(
            results[key].members,
            funnel_text(space, space.audiences[key], left) if left else None,
            lines[0]["as_of"].replace(tzinfo=dt.UTC) if lines else None,
            [(row["as_of"].replace(tzinfo=dt.UTC), row["rows"]) for row in history.get(key, [])][-_POINTS:],
            [(row["other"], row["both"], sizes[row["other"]]) for row in overlaps.get(key, [])][:_OTHERS],
            [(row["type"], row["members"]) for row in reaches.get(key, [])],
            {(row["change"], row["why"]): row["n"] for row in changes.get(key, [])},
            [people[one] for one in results[key].came],
            [people[one] for one in results[key].went],
        )
    return found


def _grouped(warehouse: Warehouse, rows: ir.Table, by: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in warehouse.rows(rows, _MANY):
        found.setdefault(row[by], []).append(row)
    return found


def _overlap(mine: ir.Table, members: ir.Table) -> ir.Table:
    """(audience, other, both), largest first."""
    others = members.select(other="audience", other_id=PROFILE)
    pairs = mine.select("audience", PROFILE).join(others, [(PROFILE, "other_id")])
    pairs = pairs.filter(pairs.audience != pairs.other)
    return pairs.group_by("audience", "other").aggregate(both=pairs.count()).order_by("audience", ibis.desc("both"), "other")


def _reach(mine: ir.Table, known: ir.Table) -> ir.Table:
    """(audience, type, members): how many members have an identifier of the type, largest first."""
    reached = mine.select("audience", PROFILE).join(known.select(PROFILE, "type").distinct(), PROFILE)
    counted = reached.group_by("audience", "type").aggregate(members=reached.count())
    return counted.order_by("audience", ibis.desc("members"), "type")


def _changes(warehouse: Warehouse, keys: Sequence[str], partition_key: str) -> ir.Table:
    """(audience, change, why, n)"""
    rows = warehouse.table(AUDIENCE_TRANSITIONS.ref)
    rows = rows.filter(rows.audience.isin(keys), rows.partition_key == partition_key)
    return rows.group_by("audience", "change", "why").aggregate(n=rows.count()).order_by("audience", "change", "why")


def _funnels(warehouse: Warehouse, keys: Sequence[str], partition_key: str) -> ir.Table:
    rows = warehouse.table(AUDIENCE_FUNNELS.ref)
    return rows.filter(rows.audience.isin(keys), rows.partition_key == partition_key).order_by("audience", "position")


def _place(text: str) -> Place:
    return tuple(int(part) if part.isdigit() else part for part in text.split(".") if part)


def _people(warehouse: Warehouse, known: ir.Table, ids: set[str]) -> dict[str, str]:
    """Id -> the id with its identifiers, masked."""
    found: dict[str, list[str]] = {one: [] for one in ids}
    if ids:
        chosen = known.filter(known[PROFILE].isin(sorted(ids))).order_by(PROFILE, "type", "value")
        for row in warehouse.rows(chosen, _MANY):
            found[row[PROFILE]].append(f"{row['type']} {mask_value(row['value'])}")
    return {one: ", ".join([one, *said[:_PER_PERSON]]) for one, said in found.items()}


# -- as metadata -----------------------------------------------------------------------------------------------------------


def markdown(found: Shown) -> dict[str, str]:
    """Title -> Markdown, of everything but the counts."""
    parts = {}
    if found.funnel is not None and found.funnel_as_of is not None:
        parts["profiles left at each condition"] = f"as of {found.funnel_as_of:%Y-%m-%d %H:%M}\n\n```\n{found.funnel}\n```"
    if len(found.sizes) > 1:
        image = base64.b64encode(size_plot(found.sizes).encode()).decode()
        parts["size over time"] = f"![members](data:image/svg+xml;base64,{image})"
    if found.overlap:
        lines = [
            f"| {other} | {both:,} | {_share(both, found.members)} | {_share(both, size)} |"
            for other, both, size in found.overlap
        ]
        parts["overlap"] = "\n".join(["| audience | in both | of this one | of that one |", "|---|---:|---:|---:|", *lines])
    if found.reach:
        lines = [f"| {kind} | {count:,} | {_share(count, found.members)} |" for kind, count in found.reach]
        parts["members with an identifier"] = "\n".join(["| type | members | share |", "|---|---:|---:|", *lines])
    if found.changes:
        lines = [f"| {change} | {why} | {count:,} |" for (change, why), count in sorted(found.changes.items())]
        parts["changes since the partition before"] = "\n".join(["| | because of | profiles |", "|---|---|---:|", *lines])
    for title, examples in (
        ("entered since the last build, some", found.entered),
        ("left since the last build, some", found.left),
    ):
        if examples:
            parts[title] = "\n".join(f"- {one}" for one in examples)
    return parts


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""


def size_plot(sizes: Sequence[tuple[dt.datetime, int]]) -> str:
    """Members over time as SVG: a line through every build, over an axis that starts at 0."""
    width, height, left, bottom = 560, 170, 58, 24
    first, last = sizes[0][0], sizes[-1][0]
    span, top = max((last - first).total_seconds(), 1.0), max(max(count for _, count in sizes), 1)

    def at(instant: dt.datetime, count: int) -> tuple[float, float]:
        x = left + (instant - first).total_seconds() / span * (width - left - 12)
        return x, 12 + (1 - count / top) * (height - bottom - 12)

    points = [at(instant, count) for instant, count in sizes]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    floor = height - bottom
    parts = [
        f'<line x1="{left}" y1="{floor}" x2="{width - 12}" y2="{floor}" stroke="#9aa1b3"/>',
        f'<text x="{left - 6}" y="{floor}" text-anchor="end">0</text>',
        f'<text x="{left - 6}" y="18" text-anchor="end">{top:,}</text>',
        f'<text x="{left}" y="{height - 6}">{first:%Y-%m-%d}</text>',
        f'<text x="{width - 12}" y="{height - 6}" text-anchor="end">{last:%Y-%m-%d}</text>',
        f'<polyline points="{drawn}" fill="none" stroke="#4f63d2" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#4f63d2"/>' for x, y in points),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
        f"{''.join(parts)}</svg>"
    )
