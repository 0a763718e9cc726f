"""Segment's data graph language: text -> :class:`DataGraph`, with every broken rule located.

Two forms are read. v1.0.0 nests relationships and quotes every value. v0.0.x, of the early documentation, writes barewords,
free-text labels, aliases in any case, and relationships beside the one that they join to; it is read with warnings and
becomes the same graph. What any block must keep to is in :mod:`.reading`, rules that need a warehouse in :mod:`.warehouse_check`,
the way back to text in :mod:`.printing`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from cdp_assets.data_graph.blocks import Block, Document, HclSyntaxError, Word, read_blocks
from cdp_assets.data_graph.model import (
    MAX_DEPTH,
    MAX_DEPTH_V0,
    ColumnJoin,
    DataGraph,
    Entity,
    ExternalIdJoin,
    Join,
    JunctionJoin,
    Relationship,
    TraitJoin,
)
from cdp_assets.data_graph.reading import TABLE_PART, BlockReader, slugify
from cdp_assets.space.located import did_you_mean
from cdp_assets.space.space import Problem

CURRENT_VERSION = "v1.0.0"
DEFAULT_PROFILE_FOLDER = "profiles"  # of a graph without a profile block: entities only

ProfileType = Literal["segment:materialized", "segment:unmaterialized", "segment:dbt"]
PROFILE_TYPES: tuple[ProfileType, ...] = ("segment:materialized", "segment:unmaterialized", "segment:dbt")
_LEGACY_PROFILE_TYPES: Mapping[str, ProfileType] = {
    "segment": "segment:materialized",
    "none": "segment:unmaterialized",
    "dbt": "segment:dbt",
}

_LEGACY_VERSION = re.compile(r"v0\.0\.\d+")
_JOIN_ON = re.compile(r'\s*([^.=]+?)\.([^\s.="]+)\s*=\s*([^.=]+?)\.([^\s.="]+)\s*')
_LEFT_JOIN_ON = re.compile(r'\s*([^.=]+?)\.([^\s.="]+)\s*=\s*([^\s.="]+)\s*')
_RIGHT_JOIN_ON = re.compile(r'\s*([^\s.="]+)\s*=\s*([^.=]+?)\.([^\s.="]+)\s*')


def parse_graph(text: str, file: str = "data_graph.hcl") -> tuple[DataGraph | None, tuple[Problem, ...]]:
    """The graph of ``text`` and all problems, by line. With an error among them the graph is None; warnings keep it."""
    reader = _Reader(file)
    graph: DataGraph | None = None
    try:
        graph = reader.graph(read_blocks(text))
    except HclSyntaxError as error:
        reader.error(error.line, error.message, error.remedy)
    problems = tuple(sorted(set(reader.problems)))
    if any(problem.level == "error" for problem in problems):
        return None, problems
    return graph, problems


@dataclass
class _Edge:
    """A relationship as written, before its place in the tree is known."""

    block: Block
    slug: str
    name: str
    description: str
    entity: str | None
    identifiers: list[Block]
    junctions: list[Block]
    join_on: str | None
    children: list[_Edge] = field(default_factory=list)

    @property
    def line(self) -> int:
        return self.block.line


class _Reader(BlockReader):
    """Reads the blocks of a document into a graph."""

    def __init__(self, file: str) -> None:
        super().__init__(file)
        self.entities: dict[str, Entity] = {}

    # -- the file ------------------------------------------------------------------------------------------------

    def graph(self, document: Document) -> DataGraph | None:
        root = self._root(document.root)
        if root is None:
            return None
        version = self._version(root)
        for line in document.colons:
            self.deprecated(line, "'relationship:' has a colon", "write 'relationship \"slug\" {'")
        self.unknown(root, {"version"}, {"entity", "profile"})
        for block in root.blocks:
            if block.kind == "relationship":
                self.error(block.line, "a relationship outside of the profile", "move it into 'profile { … }'")
        for block in root.blocks:
            if block.kind == "entity":
                self._entity(block)
        self._same_names()
        profiles = [block for block in root.blocks if block.kind == "profile"]
        for extra in profiles[1:]:
            self.error(extra.line, f"a second profile block; the first is on line {profiles[0].line}", "keep one")
        if not profiles:
            return DataGraph(version, DEFAULT_PROFILE_FOLDER, PROFILE_TYPES[0], tuple(self.entities.values()), ())
        return self._profile(profiles[0], version)

    def _root(self, top: Block) -> Block | None:
        for attribute in top.attributes:
            remedy = "write 'data_graph {' without =" if attribute.name == "data_graph" else "put it inside 'data_graph { … }'"
            self.error(attribute.line, f"'{attribute.name}' outside of data_graph", remedy)
        graphs = [block for block in top.blocks if block.kind == "data_graph"]
        for block in top.blocks:
            if block.kind != "data_graph":
                self.error(block.line, f"block '{block.kind}' outside of data_graph", "put it inside 'data_graph { … }'")
        if not graphs:
            self.error(1, "there is no data_graph block", "write 'data_graph { version = \"v1.0.0\" … }'")
            return None
        for extra in graphs[1:]:
            self.error(extra.line, f"a second data_graph block; the first is on line {graphs[0].line}", "keep one")
        if graphs[0].labels:
            self.error(graphs[0].line, "data_graph takes no label", "write 'data_graph {'")
        return graphs[0]

    def _version(self, root: Block) -> str:
        written = self.attributes(root).get("version")
        if written is None:
            self.error(root.line, "data_graph has no version", f'add version = "{CURRENT_VERSION}"')
            return CURRENT_VERSION
        version = self.string(written)
        if version is None or version == CURRENT_VERSION:
            return CURRENT_VERSION
        if _LEGACY_VERSION.fullmatch(version):
            self.legacy = True
            self.warn(written.line, f"version {version} is an early form of the language", f"move to {CURRENT_VERSION}")
            return version
        self.error(written.line, f"unknown version {version!r}", f'write "{CURRENT_VERSION}"; "v0.0.N" is read too')
        return version

    # -- entities ------------------------------------------------------------------------------------------------

    def _entity(self, block: Block) -> None:
        self.unknown(block, {"name", "description", "table_ref", "primary_key", "enrichment_enabled"}, ())
        slug, label = self.label(block)
        entity = Entity(
            slug=slug,
            name=self.name(block, label),
            table_ref=self.table_ref(block),
            primary_key=self.column(block, "primary_key"),
            description=self.text(block, "description", required=False) or "",
            enrichment_enabled=self.flag(block, "enrichment_enabled"),
            line=block.line,
        )
        if slug in self.entities:
            self.error(block.line, f"entity '{slug}' is defined twice, first on line {self.entities[slug].line}", "rename one")
        elif slug:
            self.entities[slug] = entity

    def _same_names(self) -> None:
        first: dict[str, Entity] = {}
        for entity in self.entities.values():
            if entity.name in first:
                self.warn(entity.line, f"entity '{entity.slug}' has the same name as '{first[entity.name].slug}'", "rename one")
            first.setdefault(entity.name, entity)

    # -- the profile ----------------------------------------------------------------------------------------------

    def _profile(self, block: Block, version: str) -> DataGraph:
        attributes = {"profile_folder", "type"} | ({"materialization"} if self.legacy else set())
        self.unknown(block, attributes, {"relationship"})
        if block.labels:
            self.error(block.line, "profile takes no label", "write 'profile {'")
        folder = self.text(block, "profile_folder") or ""
        parts = folder.split(".")
        if folder and not (len(parts) <= 2 and all(TABLE_PART.fullmatch(part) for part in parts)):
            line = self.attributes(block)["profile_folder"].line
            self.error(line, f"profile_folder {folder!r} is not a schema", "write DB.SCHEMA or SCHEMA")
        kind = self._profile_type(block)
        edges = [self._edge(inner, 2) for inner in block.blocks if inner.kind == "relationship"]
        roots = self._reparented(edges) if self.legacy else edges
        self._unique(roots, {})
        relationships = tuple(self._relationship(edge, None, 2) for edge in roots)
        return DataGraph(version, folder, kind, tuple(self.entities.values()), relationships)

    def _profile_type(self, block: Block) -> ProfileType:
        attributes = self.attributes(block)
        written = attributes.get("type") or (attributes.get("materialization") if self.legacy else None)
        if written is None:
            if not self.legacy:
                self.error(block.line, "profile has no 'type'", f'add type = "{PROFILE_TYPES[0]}"')
            return PROFILE_TYPES[0]
        if isinstance(written.value, Word):
            self.deprecated(written.line, f"'{written.name}' is not quoted", f'write type = "{PROFILE_TYPES[0]}"')
            text: str | None = written.value.text
        else:
            text = self.string(written)
        if text is None:
            return PROFILE_TYPES[0]
        # A published sample has a space behind the colon.
        kind = re.sub(r"\s*:\s*", ":", text.strip())
        if self.legacy and kind in _LEGACY_PROFILE_TYPES:
            return _LEGACY_PROFILE_TYPES[kind]
        if kind not in PROFILE_TYPES:
            self.error(written.line, f"unknown profile type {text!r}", f"one of {', '.join(PROFILE_TYPES)}")
            return PROFILE_TYPES[0]
        return cast(ProfileType, kind)

    # -- relationships --------------------------------------------------------------------------------------------

    def _edge(self, block: Block, depth: int) -> _Edge:
        self.unknown(
            block,
            {"name", "description", "related_entity", "join_on"},
            {"external_id", "trait", "junction_table", "relationship"},
        )
        slug, label = self.label(block)
        attributes = self.attributes(block)
        return _Edge(
            block=block,
            slug=slug,
            name=self.name(block, label),
            description=self.text(block, "description", required=False) or "",
            entity=self._related_entity(block),
            identifiers=[inner for inner in block.blocks if inner.kind in ("external_id", "trait")],
            junctions=[inner for inner in block.blocks if inner.kind == "junction_table"],
            join_on=self.string(attributes["join_on"]) if "join_on" in attributes else None,
            children=[self._edge(inner, depth + 1) for inner in block.blocks if inner.kind == "relationship"],
        )

    def _related_entity(self, block: Block) -> str | None:
        text = self.text(block, "related_entity")
        if text is None:
            return None
        slug = self._alias(text)
        if slug not in self.entities:
            line = self.attributes(block)["related_entity"].line
            self.error(
                line, f"entity '{text}' is not defined", did_you_mean(slug, self.entities, "define it with 'entity \"slug\" {'")
            )
            return None
        return slug

    def _alias(self, text: str) -> str:
        """The slug that a reference means. Early versions of the language wrote it in any case."""
        return slugify(text) if self.legacy else text.strip()

    def _reparented(self, edges: list[_Edge]) -> list[_Edge]:
        """Early versions put a joined relationship beside the one that it joins to; here it goes below it."""
        roots = []
        for edge in edges:
            parent = self._sibling_parent(edge, edges)
            if parent is None:
                roots.append(edge)
            else:
                self.warn(
                    edge.line,
                    f"relationship '{edge.slug}' stands beside '{parent.slug}', which it joins to",
                    f"it is read as nested; move it into relationship '{parent.slug}'",
                )
                parent.children.append(edge)
        reached = set[int]()
        waiting = list(roots)
        while waiting:
            edge = waiting.pop()
            reached.add(id(edge))
            waiting.extend(edge.children)
        for edge in edges:
            if id(edge) not in reached:
                self.error(
                    edge.line, f"relationship '{edge.slug}' joins in a circle, never from the profile", "add an external_id"
                )
        return roots

    def _sibling_parent(self, edge: _Edge, edges: list[_Edge]) -> _Edge | None:
        if edge.join_on is None or edge.identifiers:
            return None
        match = _JOIN_ON.fullmatch(edge.join_on)
        if match is None:
            return None
        left = self._alias(match[1])
        found = [other for other in edges if other is not edge and other.entity == left]
        return found[0] if len(found) == 1 else None

    def _unique(self, edges: Iterable[_Edge], first: dict[str, int]) -> None:
        for edge in edges:
            if edge.slug and edge.slug in first:
                self.error(
                    edge.line, f"relationship slug '{edge.slug}' is used twice, first on line {first[edge.slug]}", "rename one"
                )
            first.setdefault(edge.slug, edge.line)
            self._unique(edge.children, first)

    def _relationship(self, edge: _Edge, parent: _Edge | None, depth: int) -> Relationship:
        limit = MAX_DEPTH_V0 if self.legacy else MAX_DEPTH
        if depth == limit + 1:
            self.error(
                edge.line,
                f"relationship '{edge.slug}' is node {depth} on its path, counting the profile; at most {limit} are allowed",
                "join in a view, or start a shorter branch",
            )
        join = self._profile_join(edge) if parent is None else self._entity_join(edge, parent)
        return Relationship(
            slug=edge.slug,
            name=edge.name,
            entity=edge.entity or "",
            join=join or ColumnJoin("", ""),
            children=tuple(self._relationship(child, edge, depth + 1) for child in edge.children),
            description=edge.description,
            line=edge.line,
        )

    def _profile_join(self, edge: _Edge) -> Join | None:
        called = f"relationship '{edge.slug}'"
        for wrong in edge.junctions:
            self.error(wrong.line, f"{called} is directly below the profile and has a junction_table", "use external_id or trait")
        if edge.join_on is not None:
            remedy = "join the profile with external_id or trait, or nest it in the relationship that it joins to"
            self.error(
                self.attributes(edge.block)["join_on"].line, f"{called} is directly below the profile and has join_on", remedy
            )
        elif not edge.identifiers:
            self.error(
                edge.line, f"{called} is directly below the profile and has no external_id or trait", "add exactly one of them"
            )
        for extra in edge.identifiers[1:]:
            self.error(extra.line, f"{called} has more than one of external_id and trait", "keep exactly one")
        if not edge.identifiers:
            return None
        block = edge.identifiers[0]
        key = "type" if block.kind == "external_id" else "name"
        self.unknown(block, {key, "join_key"}, ())
        value, column = self.text(block, key) or "", self.column(block, "join_key")
        return ExternalIdJoin(value, column) if block.kind == "external_id" else TraitJoin(value, column)

    def _entity_join(self, edge: _Edge, parent: _Edge) -> Join | None:
        called = f"relationship '{edge.slug}'"
        for wrong in edge.identifiers:
            self.error(wrong.line, f"{called} is nested and has {wrong.kind}", "join its parent with join_on or junction_table")
        for extra in edge.junctions[1:]:
            self.error(extra.line, f"{called} has two junction tables", "keep one")
        if edge.join_on is not None and edge.junctions:
            self.error(edge.junctions[0].line, f"{called} has join_on and junction_table", "keep one of them")
        elif "join_on" in self.attributes(edge.block):
            return self._column_join(edge, parent)
        elif edge.junctions:
            return self._junction_join(edge, edge.junctions[0], parent)
        else:
            self.error(edge.line, f"{called} is nested and has no join_on or junction_table", "add exactly one of them")
        return None

    def _column_join(self, edge: _Edge, parent: _Edge) -> Join | None:
        if edge.join_on is None:
            return None
        line = self.attributes(edge.block)["join_on"].line
        form = f"{parent.entity or 'parent'}.COLUMN = {edge.entity or 'child'}.COLUMN"
        match = _JOIN_ON.fullmatch(edge.join_on)
        if match is None:
            self.error(line, f"join_on {edge.join_on!r} is not of the form entity.column = entity.column", f'write "{form}"')
            return None
        left, right = self._alias(match[1]), self._alias(match[3])
        if left == edge.entity and right == parent.entity and left != right:
            self.error(line, "join_on has its sides swapped; the parent's is on the left", f'write "{form}"')
            return None
        self._side(line, "the left side of join_on", match[1], parent.entity, "the parent's")
        self._side(line, "the right side of join_on", match[3], edge.entity, "this relationship's")
        return ColumnJoin(match[2], match[4])

    def _side(self, line: int, what: str, written: str, expected: str | None, whose: str) -> None:
        if expected is None:  # reported where the entity is named
            return
        slug = self._alias(written)
        if slug not in self.entities:
            self.error(line, f"{what} names entity '{written.strip()}', which is not defined", did_you_mean(slug, self.entities))
        elif slug != expected:
            self.error(line, f"{what} names entity '{written.strip()}' instead of {whose}", f"write '{expected}'")

    def _junction_join(self, edge: _Edge, block: Block, parent: _Edge) -> Join | None:
        self.unknown(block, {"table_ref", "primary_key", "left_join_on", "right_join_on"}, ())
        table, key = self.table_ref(block), self.column(block, "primary_key")
        left_text, right_text = self.text(block, "left_join_on"), self.text(block, "right_join_on")
        attributes = self.attributes(block)
        left = right = None
        if left_text is not None:
            line, left = attributes["left_join_on"].line, _LEFT_JOIN_ON.fullmatch(left_text)
            if left is None:
                form = f"{parent.entity or 'parent'}.COLUMN = JUNCTION_COLUMN"
                self.error(line, f"left_join_on {left_text!r} is not of the form entity.column = column", f'write "{form}"')
            else:
                self._side(line, "left_join_on", left[1], parent.entity, "the parent's")
        if right_text is not None:
            line, right = attributes["right_join_on"].line, _RIGHT_JOIN_ON.fullmatch(right_text)
            if right is None:
                form = f"JUNCTION_COLUMN = {edge.entity or 'child'}.COLUMN"
                self.error(line, f"right_join_on {right_text!r} is not of the form column = entity.column", f'write "{form}"')
            else:
                self._side(line, "right_join_on", right[2], edge.entity, "this relationship's")
        if left is None or right is None:
            return None
        return JunctionJoin(table, key, left[2], left[3], right[1], right[3])
