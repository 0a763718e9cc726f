"""The data graph as people want to see it: picture, numbers, first rows, and who uses which node; as SVG, as text, and as plain values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdp_assets.data_graph.diff import join_text
from cdp_assets.data_graph.measure import Measured
from cdp_assets.data_graph.picture import Picture, draw, share_text
from cdp_assets.space.consumers import Consumer
from cdp_assets.space.space import Problem, Space


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

    def svg(self, *, fluid: bool = False) -> str:
        """The picture; ``fluid``: as wide as the page that shows it."""
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
        return draw(self.space.graph, picture, fluid=fluid)

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
