"""A space's data graph as people want to see it: picture, numbers, first rows, and who uses which node.

Puts together what the data graph's own modules count and draw with who the people are (unified_profiles, computed_traits) and who
uses the graph (space). The command line and the graph's asset show it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import BUILDS as TRAIT_BUILDS
from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.data_graph.diff import join_text
from cdp_assets.data_graph.keys import key_text
from cdp_assets.data_graph.measure import Measured, People, first_rows, measure
from cdp_assets.data_graph.picture import Picture, draw, share_text
from cdp_assets.data_graph.warehouse_check import check_graph
from cdp_assets.space.consumers import Consumer, consumers_by_entity, consumers_by_node
from cdp_assets.space.space import Problem, Space
from cdp_assets.unified_profiles.tables import identifiers_as_of, profiles_as_of, traits_as_of
from resources.warehouse import MissingTableError, Warehouse, timestamp_literal

PROFILE = "canonical_segment_id"


@dataclass(frozen=True)
class GraphReport:
    """measured, rows (by entity slug), problems: of the warehouse; None and empty where it was not asked."""

    space: Space
    nodes: Mapping[str, tuple[Consumer, ...]]
    entities: Mapping[str, tuple[Consumer, ...]]
    as_of: dt.datetime | None = None
    measured: Measured | None = None
    rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def svg(self) -> str:
        """The picture."""
        as_of = f"as of {self.as_of.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC" if self.as_of else "without the warehouse"
        broken: dict[str, str] = {}
        for entity in self.space.graph.entities:
            missing = [p for p in self.problems if p.level == "error" and p.line == entity.line]
            if missing:
                broken[entity.slug] = "table missing" if "does not exist" in missing[0].message else "key column missing"
        picture = Picture(
            title=f"{self.space.name} · data graph",
            consumers={path: [str(one) for one in found] for path, found in self.nodes.items()},
            measured=self.measured,
            problems=broken,
            note=as_of,
        )
        return draw(self.space.graph, picture)

    def to_json(self) -> dict[str, Any]:
        """Everything but the picture, as plain values."""
        measured = self.measured
        return {
            "space": self.space.name,
            "as_of": self.as_of.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if self.as_of else None,
            "profiles": measured.profiles if measured else None,
            "entities": {
                entity.slug: {
                    "table": entity.table_ref,
                    "rows": measured.tables.get(entity.slug) if measured else None,
                    "consumers": [str(one) for one in self.entities[entity.slug]],
                    "first_rows": [dict(row) for row in self.rows.get(entity.slug, ())],
                }
                for entity in self.space.graph.entities
            },
            "nodes": {
                node.path: {
                    "entity": node.entity.slug,
                    "join": join_text(node.join),
                    "matches": vars(measured.joins[node.path]) if measured and node.path in measured.joins else None,
                    "consumers": [str(one) for one in self.nodes[node.path]],
                }
                for node in self.space.graph.nodes()
            },
            "problems": [str(problem) for problem in self.problems],
        }

    def to_text(self) -> str:
        """The tree with its numbers and consumers, for a terminal."""
        profiles = self.measured.profiles if self.measured else None
        return "\n".join([f"profile{f': {profiles:,}' if profiles is not None else ''}", *self._below(None, "")])

    def _below(self, parent: str | None, indent: str) -> Iterator[str]:
        children = [node for node in self.space.graph.nodes() if node.parent == parent]
        for index, node in enumerate(children):
            last = index == len(children) - 1
            yield f"{indent}{'└─ ' if last else '├─ '}{node.relationship.slug} → {node.entity.slug} ({node.entity.table_ref})"
            inner = indent + ("   " if last else "│  ")
            more = inner + ("│  " if any(child.parent == node.path for child in self.space.graph.nodes()) else "   ")
            counts = self.measured.joins.get(node.path) if self.measured else None
            yield f"{more}{join_text(node.join)}"
            if counts is not None:
                above = "profiles" if parent is None else "parents"
                rates = [
                    f"{share_text(counts.rows_matched, counts.rows)} of {counts.rows:,} rows match" if counts.rows else "no rows",
                    f"{share_text(counts.parents_matched, counts.parents)} of {counts.parents:,} {above} have some"
                    if counts.parents
                    else f"no {above}",
                ]
                yield f"{more}{', '.join(rates)}"
            used = ", ".join(str(one) for one in self.nodes[node.path])
            yield f"{more}{f'used by {used}' if used else 'not used'}"
            yield from self._below(node.path, inner)


def graph_report(
    space: Space,
    warehouse: Warehouse | None,
    as_of: dt.datetime,
    *,
    rows: int = 0,
    show_personal: bool = False,
    problems: tuple[Problem, ...] | None = None,
) -> GraphReport:
    """The report; with a warehouse counted in it, people as of ``as_of``, tables as they are now.

    ``rows``: so many first rows of each entity, masked unless ``show_personal``. ``problems``: of the check of the graph against the
    warehouse, which is otherwise made here.
    """
    by_node, by_entity = consumers_by_node(space), consumers_by_entity(space)
    if warehouse is None:
        return GraphReport(space, by_node, by_entity)
    found = check_graph(space.graph, warehouse) if problems is None else problems
    sample = first_rows(space.graph, warehouse, rows, show_personal=show_personal) if rows else {}
    measured = measure(space.graph, warehouse, people_of(space, warehouse, as_of))
    return GraphReport(space, by_node, by_entity, as_of, measured, sample, found)


def people_of(space: Space, warehouse: Warehouse, as_of: dt.datetime) -> People | None:
    """The people as the graph's joins see them; None where there are no profile tables yet."""
    try:
        profiles = profiles_as_of(warehouse, space.graph, as_of)
        known = identifiers_as_of(warehouse, space.graph, as_of)
    except MissingTableError:
        return None
    return People(
        profiles,
        lambda kind: known.filter(known["type"] == kind).select(PROFILE, "value"),
        lambda name: _trait(space, warehouse, as_of, name),
    )


def _trait(space: Space, warehouse: Warehouse, as_of: dt.datetime, name: str) -> ir.Table:
    """(canonical_segment_id, value): a computed trait of its newest build, which hides one of the same name from identify calls."""
    if name not in space.traits:
        said = traits_as_of(warehouse, space.graph, as_of)
        return said.filter(said["name"] == name).select(PROFILE, "value")
    builds = warehouse.table(TRAIT_BUILDS.ref)
    usable = builds.filter((builds.asset == name) & (builds.as_of <= timestamp_literal(as_of)))
    newest = warehouse.rows(usable.order_by(ibis.desc("as_of")).select("partition_key"), 1)
    if not newest:
        raise MissingTableError(f"trait {name} is not built")
    values = stored_values(warehouse, name, newest[0]["partition_key"])
    if space.traits[name].value_type != "number":
        return values.select(PROFILE, value=values["value_text"])
    # Of numbers only whole ones are keys.
    whole = values["value_number"].cast("int64")
    return values.filter(whole.cast("float64") == values["value_number"]).select(PROFILE, value=key_text(whole))
