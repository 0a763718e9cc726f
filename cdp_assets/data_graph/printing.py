"""A data graph back to canonical text of the current version of the language."""

from __future__ import annotations

from cdp_assets.data_graph.blocks import quoted
from cdp_assets.data_graph.hcl import CURRENT_VERSION
from cdp_assets.data_graph.model import ColumnJoin, DataGraph, Entity, ExternalIdJoin, Relationship, TraitJoin


def print_graph(graph: DataGraph) -> str:
    """Canonical v1.0.0 text: reading it gives the same graph (an early version's graph with ``version`` moved on)."""
    lines = ["data_graph {", f"  version = {quoted(CURRENT_VERSION)}"]
    for entity in graph.entities:
        lines += ["", f"  entity {quoted(entity.slug)} {{", *_labels(entity, "    ")]
        lines += [f"    table_ref = {quoted(entity.table_ref)}", f"    primary_key = {quoted(entity.primary_key)}"]
        if entity.enrichment_enabled:
            lines.append("    enrichment_enabled = true")
        lines.append("  }")
    lines += [
        "",
        "  profile {",
        f"    profile_folder = {quoted(graph.profile_folder)}",
        f"    type = {quoted(graph.profile_type)}",
    ]
    for relationship in graph.relationships:
        lines += ["", *_printed(relationship, None, graph, "    ")]
    return "\n".join([*lines, "  }", "}", ""])


def _labels(thing: Entity | Relationship, indent: str) -> list[str]:
    description = [f"{indent}description = {quoted(thing.description)}"] if thing.description else []
    return [f"{indent}name = {quoted(thing.name)}", *description]


def _printed(relationship: Relationship, parent: Relationship | None, graph: DataGraph, indent: str) -> list[str]:
    inner = indent + "  "
    lines = [f"{indent}relationship {quoted(relationship.slug)} {{", *_labels(relationship, inner)]
    lines.append(f"{inner}related_entity = {quoted(relationship.entity)}")
    lines += [inner + line for line in _printed_join(relationship, parent)]
    for child in relationship.children:
        lines += ["", *_printed(child, relationship, graph, inner)]
    return [*lines, f"{indent}}}"]


def _printed_join(relationship: Relationship, parent: Relationship | None) -> list[str]:
    join, above = relationship.join, parent.entity if parent else ""
    if isinstance(join, ExternalIdJoin):
        return ["external_id {", f"  type = {quoted(join.type)}", f"  join_key = {quoted(join.join_key)}", "}"]
    if isinstance(join, TraitJoin):
        return ["trait {", f"  name = {quoted(join.name)}", f"  join_key = {quoted(join.join_key)}", "}"]
    if isinstance(join, ColumnJoin):
        return [f"join_on = {quoted(f'{above}.{join.left} = {relationship.entity}.{join.right}')}"]
    return [
        "junction_table {",
        f"  table_ref = {quoted(join.table_ref)}",
        f"  primary_key = {quoted(join.primary_key)}",
        f"  left_join_on = {quoted(f'{above}.{join.parent_column} = {join.junction_left}')}",
        f"  right_join_on = {quoted(f'{join.junction_right} = {relationship.entity}.{join.child_column}')}",
        "}",
    ]
