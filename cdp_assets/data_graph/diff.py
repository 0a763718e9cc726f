"""What changed between two data graphs that can break those who use them. Labels and order never do.

A change is *definite* when what consumers name is gone: a deleted entity or relationship, or one with another slug. It is
*potential* when the name still leads somewhere, to other rows: another table, primary key, join, or profile schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from cdp_assets.data_graph.model import ColumnJoin, DataGraph, ExternalIdJoin, Join, JunctionJoin, Node

ChangeKind = Literal["removed", "related_entity", "table_ref", "primary_key", "join", "profile_folder", "profile_type"]


@dataclass(frozen=True)
class GraphChange:
    """One change. Of an ``entity`` (slug), of a ``relationship`` (its node path in the old graph), or, with neither, of the profile.

    before, after: what the graph said and says, '' where it says nothing. nodes: paths of the old graph that it touches, with those
    below them. kept: for a removed entity, paths that stood on it and are still there. hint: what may have been meant.
    """

    kind: ChangeKind
    entity: str | None = None
    relationship: str | None = None
    before: str = ""
    after: str = ""
    nodes: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    hint: str = ""

    @property
    def definite(self) -> bool:
        return self.kind == "removed"

    @property
    def subject(self) -> str:
        """What changed, in words."""
        if self.entity is not None:
            return f"entity '{self.entity}'"
        return f"relationship '{self.relationship}'" if self.relationship is not None else "the profile"

    def __str__(self) -> str:
        if self.definite:
            return f"{self.subject} was removed{f' ({self.hint})' if self.hint else ''}"
        what = {"profile_folder": "profile_folder", "profile_type": "type"}.get(self.kind, self.kind)
        return f"{what} of {self.subject} changed from {self.before} to {self.after}"


def compare(old: DataGraph, new: DataGraph) -> tuple[GraphChange, ...]:
    """All changes from ``old`` to ``new`` that can break a consumer: of the profile, of entities, of relationships, in the old order."""
    return (*_profile(old, new), *_entities(old, new), *_relationships(old, new))


def join_text(join: Join) -> str:
    """A join in one line: what equals what."""
    if isinstance(join, ExternalIdJoin):
        return f"external_id {join.type} = {join.join_key}"
    if isinstance(join, ColumnJoin):
        return f"{join.left} = {join.right}"
    if isinstance(join, JunctionJoin):
        return f"{join.parent_column} = {join.table_ref}.{join.junction_left}, {join.junction_right} = {join.child_column}"
    return f"trait {join.name} = {join.join_key}"


def _profile(old: DataGraph, new: DataGraph) -> Iterator[GraphChange]:
    everything = tuple(node.path for node in old.nodes())
    if _folded(old.profile_folder) != _folded(new.profile_folder):
        yield GraphChange("profile_folder", before=old.profile_folder, after=new.profile_folder, nodes=everything)
    if old.profile_type != new.profile_type:
        yield GraphChange("profile_type", before=old.profile_type, after=new.profile_type, nodes=everything)


def _entities(old: DataGraph, new: DataGraph) -> Iterator[GraphChange]:
    present = {entity.slug: entity for entity in new.entities}
    kept = {node.path: node for node in new.nodes()}
    for entity in old.entities:
        nodes = tuple(node.path for node in old.nodes() if node.entity.slug == entity.slug)
        other = present.get(entity.slug)
        if other is None:
            still = tuple(path for path in nodes if path in kept)
            # An entity whose relationships are all gone is gone with them, and they are reported.
            if still:
                names = sorted({kept[path].entity.slug for path in still})
                hint = f"its relationships now name '{', '.join(names)}'; a slug never changes, only a name does"
                yield GraphChange("removed", entity=entity.slug, nodes=nodes, kept=still, hint=hint)
            continue
        if _folded(entity.table_ref) != _folded(other.table_ref):
            yield GraphChange("table_ref", entity.slug, before=entity.table_ref, after=other.table_ref, nodes=nodes)
        if _folded(entity.primary_key) != _folded(other.primary_key):
            yield GraphChange("primary_key", entity.slug, before=entity.primary_key, after=other.primary_key, nodes=nodes)


def _relationships(old: DataGraph, new: DataGraph) -> Iterator[GraphChange]:
    present = {node.path: node for node in new.nodes()}
    slugs = {entity.slug for entity in new.entities}
    paths = [node.path for node in old.nodes()]
    for node in old.nodes():
        other = present.get(node.path)
        if other is None:
            if node.parent is None or node.parent in present:
                nodes = tuple(path for path in paths if path == node.path or path.startswith(f"{node.path}:"))
                yield GraphChange("removed", relationship=node.path, nodes=nodes, hint=_renamed(node, old, new))
            continue
        if node.entity.slug != other.entity.slug and node.entity.slug in slugs:
            yield GraphChange("related_entity", None, node.path, node.entity.slug, other.entity.slug, (node.path,))
        if _join_key(node.join) != _join_key(other.join):
            yield GraphChange("join", None, node.path, join_text(node.join), join_text(other.join), (node.path,))


def _renamed(node: Node, old: DataGraph, new: DataGraph) -> str:
    """The new sibling that joins the same table in the same way, in words; '' when there is none."""
    earlier = {other.path for other in old.nodes()}
    for other in new.nodes():
        same = other.parent == node.parent and _join_key(other.join) == _join_key(node.join)
        if same and other.path not in earlier and _folded(other.entity.table_ref) == _folded(node.entity.table_ref):
            return f"'{other.path}' joins the same table; a slug never changes, only a name does"
    return ""


def _join_key(join: Join) -> Join:
    """A join for comparison: columns and tables without case, identifier types and trait names as they are."""
    if isinstance(join, ColumnJoin):
        return ColumnJoin(_folded(join.left), _folded(join.right))
    if isinstance(join, JunctionJoin):
        return JunctionJoin(*(_folded(part) for part in vars(join).values()))
    return replace(join, join_key=_folded(join.join_key))


def _folded(name: str) -> str:
    """Names of columns and tables mean the same in any case."""
    return name.strip().lower()
