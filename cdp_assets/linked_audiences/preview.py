"""What an audience would be: its size and a sample of members with the rows that made them match. Writes nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import BUILDS as TRAIT_BUILDS
from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.data_graph.keys import key_text
from cdp_assets.linked_audiences.compile import PROFILE, CompiledAudience, compile_inline
from cdp_assets.linked_audiences.describe import condition_tree
from cdp_assets.linked_audiences.entities import column_of
from cdp_assets.linked_audiences.funnel import emptied_by, funnel_text, survivors
from cdp_assets.linked_audiences.sql import audience_sql
from cdp_assets.space.conditions import entity_references
from cdp_assets.space.masking import looks_personal, mask_value
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import identifiers_as_of
from resources.warehouse import TableRef, Warehouse, timestamp_literal

PER_LEVEL = 10
MOST_SAMPLED = 3000
_CONTEXT_ROWS = 10_000


@dataclass(frozen=True)
class Preview:
    """A previewed audience.

    count: all members. members: a sample by canonical id, each ``{"id", "identifiers": {type: [values]}, "entities": {slug: [{"id",
    "properties", "entities"}]}}``, values masked unless shown, at most ten entities per level; ``properties`` are the columns that
    the conditions filter by. target_entities: distinct entities of an audience of entities, else None. tree: the conditions in
    words; where nobody is a member, with the profiles left at each, and emptied_by is the first that leaves nobody. sql: the query.
    """

    audience: str
    as_of: dt.datetime
    count: int
    members: Sequence[Mapping[str, Any]]
    tree: str
    sql: str
    target_entities: int | None = None
    emptied_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, for one JSON object."""
        return {
            "audience": self.audience,
            "as_of": self.as_of.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "count": self.count,
            **({} if self.emptied_by is None else {"emptied_by": self.emptied_by}),
            **({} if self.target_entities is None else {"target_entities": self.target_entities}),
            "members": list(self.members),
            "conditions": self.tree,
            "sql": self.sql,
        }

    def to_text(self) -> str:
        """For a terminal."""
        target = "" if self.target_entities is None else f" of {self.target_entities:,} entities"
        lines = [f"{self.audience}: {self.count:,} member(s){target} as of {self.as_of.isoformat()}", "", self.tree, ""]
        if self.emptied_by is not None:
            lines.append(f"nobody is left at: {self.emptied_by}")
        for member in self.members:
            known = ", ".join(f"{kind} {value}" for kind, values in member["identifiers"].items() for value in values)
            lines.append(f"{member['id']}  {known}".rstrip())
            lines += _entity_lines(member["entities"], "  ")
        if self.count > len(self.members):
            lines.append(f"… and {self.count - len(self.members):,} more")
        return "\n".join(lines)


def _entity_lines(entities: Mapping[str, Sequence[Mapping[str, Any]]], indent: str) -> Iterator[str]:
    for slug, rows in entities.items():
        for row in rows:
            said = ", ".join(f"{name} {value}" for name, value in row["properties"].items())
            yield f"{indent}{slug} {row['id']}" + (f" ({said})" if said else "")
            yield from _entity_lines(row["entities"], indent + "  ")


def preview(
    warehouse: Warehouse,
    space: Space,
    audience_key: str,
    as_of: dt.datetime,
    sample: int = 10,
    show_personal: bool = False,
    *,
    inline_traits: Callable[[str], ir.Table] | None = None,
) -> Preview:
    """Count and sample an audience at ``as_of``; audiences that it refers to are computed in place. ``sample``: at most 3,000.

    A computed trait is read from its newest build of an as_of no later than ``as_of``; one without such a build comes from
    ``inline_traits`` (key -> canonical_segment_id, value_text, value_number) or is a ConditionError. Raises ConditionError,
    MissingTableError.
    """
    if sample > MOST_SAMPLED:
        raise ConditionError(f"a preview shows at most {MOST_SAMPLED:,} members, not {sample:,}", "ask for fewer")
    audience = space.audiences[audience_key]
    values = lambda trait: trait_at(warehouse, trait, as_of, inline_traits)  # noqa: E731
    compiled = compile_inline(warehouse, space, audience_key, as_of, trait_values=values)
    # One query for size and sample: compiling and running a large tree twice would double the wait.
    counted = compiled.members.mutate(total=compiled.members.count().over())
    rows = warehouse.rows(counted.order_by(PROFILE), max(sample, 1))
    count, ids = (int(rows[0]["total"]) if rows else 0), [row[PROFILE] for row in rows][:sample]
    target = None
    if audience.target_entity is not None:
        matched = compiled.context.filter(compiled.context["path"] == audience.target_entity)
        target = warehouse.count(matched.select("entity_id").distinct())
    tree, emptied = condition_tree(space, audience), None
    if not count:
        left = survivors(
            warehouse,
            space,
            audience,
            as_of,
            members_of=lambda other: compile_inline(warehouse, space, other, as_of, trait_values=values).members,
            trait_values=values,
        )
        tree, emptied = funnel_text(space, audience, left), emptied_by(space, audience, left)
    return Preview(
        audience_key,
        as_of,
        count,
        _sampled(warehouse, space, audience, as_of, compiled, ids, show_personal) if ids else [],
        tree,
        audience_sql(space, audience_key, warehouse.dialect, warehouse, as_of=as_of),
        target,
        emptied,
    )


def _masked(value: str) -> str:
    return mask_value(value) if looks_personal(value) else value


def plain(value: Any, named: Collection[Any], show_personal: bool) -> Any:
    """A column's value for JSON; instants are naive UTC."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value if show_personal or value in named else mask_value(str(value))


def trait_at(warehouse: Warehouse, trait: str, as_of: dt.datetime, inline: Callable[[str], ir.Table] | None) -> ir.Table:
    """A computed trait from its newest build of an as_of no later than ``as_of``, else in place. Raises ConditionError without either."""
    if warehouse.has(TRAIT_BUILDS.ref):
        builds = warehouse.table(TRAIT_BUILDS.ref)
        usable = builds.filter((builds.asset == trait) & (builds.as_of <= timestamp_literal(as_of)))
        rows = warehouse.rows(usable.order_by(ibis.desc("as_of")).select("partition_key"), 1)
        if rows:
            return stored_values(warehouse, trait, rows[0]["partition_key"])
    if inline is None:
        raise ConditionError(f"trait {trait} has no build as of {as_of.isoformat()} or before; run the space first")
    return inline(trait)


def _sampled(
    warehouse: Warehouse,
    space: Space,
    audience: Audience,
    as_of: dt.datetime,
    compiled: CompiledAudience,
    ids: Sequence[str],
    show_personal: bool,
) -> list[dict[str, Any]]:
    shown = (lambda value: value) if show_personal else _masked
    known = identifiers_as_of(warehouse, space.graph, as_of)
    known = known.filter(known[PROFILE].isin(ids)).order_by(PROFILE, "type", "value")
    identifiers: dict[str, dict[str, list[str]]] = {one: {} for one in ids}
    for row in warehouse.rows(known, _CONTEXT_ROWS):
        value = row["value"] if show_personal else mask_value(row["value"])
        identifiers[row[PROFILE]].setdefault(row["type"], []).append(value)
    context = compiled.context_of(compiled.members.filter(compiled.members[PROFILE].isin(ids)))
    rows = warehouse.rows(context.order_by(PROFILE, "path", "entity_id", "parent_entity_id"), _CONTEXT_ROWS)
    properties = _properties(warehouse, space, audience, rows, show_personal)
    return [
        {
            "id": one,
            "identifiers": identifiers[one],
            "entities": _tree([row for row in rows if row[PROFILE] == one], None, None, shown, properties),
        }
        for one in ids
    ]


Properties = Mapping[tuple[str, str], Mapping[str, Any]]


def _properties(
    warehouse: Warehouse, space: Space, audience: Audience, rows: Sequence[Mapping[str, Any]], show_personal: bool
) -> dict[tuple[str, str], dict[str, Any]]:
    """(path, entity_id) -> the columns that the conditions filter by, of matched rows. Of rows with one key the first in order stands.

    Texts are masked, but for those that the conditions themselves name: nobody can tell what else a column holds.
    """
    used: dict[str, list[str]] = {}
    named: set[Any] = set()
    for reference in entity_references(audience):
        for _, wanted in reference.filters:
            used.setdefault(reference.path, []).append(wanted.column.lower())
            named |= set(wanted.value) if isinstance(wanted.value, tuple) else {wanted.value}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path, columns in used.items():
        ids = sorted({row["entity_id"] for row in rows if row["path"] == path})
        if not ids or not columns:
            continue
        node = space.graph.node(path)
        table = warehouse.table(TableRef.parse(node.entity.table_ref))
        key = key_text(column_of(table, node.entity.primary_key, node))
        names = {f"p{index}": name for index, name in enumerate(dict.fromkeys(columns))}
        values = table.filter(key.isin(ids)).select(id=key, **{short: table[name] for short, name in names.items()}).distinct()
        for row in warehouse.rows(values.order_by("id", *names), _CONTEXT_ROWS):
            shown = {name: plain(row[short], named, show_personal) for short, name in names.items()}
            found.setdefault((path, row["id"]), shown)
    return found


def _tree(
    rows: Sequence[Mapping[str, Any]],
    path: str | None,
    parent: str | None,
    shown: Callable[[str], str],
    properties: Properties,
) -> dict[str, list[dict[str, Any]]]:
    """Context rows below an entity as {slug: [{"id", "properties", "entities"}]}, at most ten per slug."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        above, _, slug = row["path"].rpartition(":")
        if (above or None) != path or row["parent_entity_id"] != parent:
            continue
        siblings = found.setdefault(slug, [])
        if len(siblings) < PER_LEVEL:
            known = properties.get((row["path"], row["entity_id"]), {})
            siblings.append(
                {
                    "id": shown(row["entity_id"]),
                    "properties": known,
                    "entities": _tree(rows, row["path"], row["entity_id"], shown, properties),
                }
            )
    return found
