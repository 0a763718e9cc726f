"""Breaking changes of the data graph with the consumers that they hit, and whether space.yaml confirms them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cdp_assets.data_graph.diff import GraphChange, compare, join_text
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.confirmed import ConfirmedChange, confirmation
from cdp_assets.space.consumers import Consumer, users_of
from cdp_assets.space.documents import Document
from cdp_assets.space.space import Problem, Space

GRAPH_FILE = "data_graph.hcl"


@dataclass(frozen=True)
class BreakingChange:
    """A change that hits somebody. Definite: the consumers fail until it is undone or they are adapted; potential: they may read other rows."""

    change: GraphChange
    consumers: tuple[Consumer, ...]
    line: int

    @property
    def severity(self) -> str:
        return "definite" if self.change.definite else "potential"

    def __str__(self) -> str:
        return f"{self.severity} breaking change: {self.change}; it hits {', '.join(map(str, self.consumers))}"


def breaking_changes(old: DataGraph, space: Space) -> tuple[BreakingChange, ...]:
    """What the space's graph changed since ``old`` that hits a consumer which the space has now, definite changes first."""
    found = []
    for change in compare(old, space.graph):
        tables = [change.before] if change.kind == "table_ref" else []
        consumers = users_of(space, change.nodes, tables)
        if consumers:
            found.append(BreakingChange(change, consumers, _line(change, space.graph)))
    return tuple(sorted(found, key=lambda one: not one.change.definite))


def judge(changes: Sequence[BreakingChange], confirmed: Sequence[ConfirmedChange], document: Document) -> list[Problem]:
    """An error for each change that is not confirmed, a warning for each one that is, and for each confirmation of no change.

    ``document``: space.yaml, for lines.
    """
    problems = []
    for one in changes:
        wanted = confirmation(one.change)
        known = wanted in confirmed
        if known:
            then = "they fail at their next run" if one.change.definite else "look at what they give"
            remedy = f"confirmed in space.yaml; {then}"
        else:
            remedy = f"undo it, or add to confirmed_breaking_changes in space.yaml: {wanted.text()}"
        problems.append(Problem(GRAPH_FILE, one.line, str(one), remedy, "warning" if known else "error"))
    changed = [confirmation(one.change) for one in changes]
    for index, one_confirmed in enumerate(confirmed):
        if one_confirmed not in changed:
            line = document.line("confirmed_breaking_changes", index)
            problems.append(
                Problem(document.file, line, "this confirms no breaking change of the data graph", "take it out", "warning")
            )
    return problems


def check_confirmed(document: Document, confirmed: Sequence[ConfirmedChange], graph: DataGraph) -> Iterator[Problem]:
    """Warnings for confirmations that the graph itself contradicts. Whether the others are changes, only the old graph says."""
    for index, one in enumerate(confirmed):
        now = _now(one, graph)
        expected = None if one.change == "removed" else one.to
        if now != expected:
            says = "has it" if one.change == "removed" else f"says {now or 'nothing of the kind'}"
            yield Problem(
                document.file,
                document.line("confirmed_breaking_changes", index),
                f"this confirms a change that is none: the data graph {says}",
                "take it out",
                "warning",
            )


def _now(one: ConfirmedChange, graph: DataGraph) -> str | None:
    """What the graph says of what a confirmation names; None for nothing."""
    if one.change == "profile_folder":
        return graph.profile_folder
    if one.change == "profile_type":
        return graph.profile_type
    if one.entity is not None:
        entity = next((entity for entity in graph.entities if entity.slug == one.entity), None)
        if entity is None:
            return None
        return {"table_ref": entity.table_ref, "primary_key": entity.primary_key}.get(one.change, entity.slug)
    node = next((node for node in graph.nodes() if node.path == one.relationship), None)
    if node is None:
        return None
    return {"join": join_text(node.join), "related_entity": node.entity.slug}.get(one.change, node.path)


def _line(change: GraphChange, graph: DataGraph) -> int:
    """Where the graph's text speaks of what changed, or of what stands there now; 1 where it speaks of nothing of the kind."""
    for entity in graph.entities:
        if entity.slug == change.entity:
            return entity.line
    wanted = change.relationship or next(iter(change.kept), "")
    lines = {node.path: node.relationship.line for node in graph.nodes()}
    while wanted and wanted not in lines:
        wanted = wanted.rpartition(":")[0]
    return lines.get(wanted, 1)
