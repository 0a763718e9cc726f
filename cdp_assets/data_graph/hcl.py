"""Segment's data graph language: text -> :class:`DataGraph`, with every broken rule located, and back to canonical text.

Two forms are read. v1.0.0 nests relationships and quotes every value. v0.0.x, of the early documentation, writes barewords,
free-text labels, aliases in any case, and relationships beside the one that they join to; it is read with warnings and
becomes the same graph. Rules that need a warehouse are in :mod:`.warehouse_check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from cdp_assets.data_graph.blocks import Attribute, Block, Document, HclSyntaxError, Unsupported, Value, Word, quoted, read_blocks
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
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]*")
_COLUMN = re.compile(r'[^\s.=",()]+')
_TABLE_PART = re.compile(r'[^\s.=",();]+')
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


def slugify(label: str) -> str:
    """The stable id of a free-text label of the v0.0.x language: lower case, runs of other characters become ``-``."""
    return re.sub(r"[^a-z0-9_-]+", "-", label.strip().lower()).strip("-")


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


class _Reader:
    """Collects problems while it reads; every method returns what it can, so that one error hides no other."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.legacy = False
        self.entities: dict[str, Entity] = {}

    def error(self, line: int, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, line, message, remedy))

    def warn(self, line: int, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, line, message, remedy, "warning"))

    # -- the file ------------------------------------------------------------------------------------------------

    def graph(self, document: Document) -> DataGraph | None:
        root = self._root(document.root)
        if root is None:
            return None
        version = self._version(root)
        for line in document.colons:
            self._deprecated(line, "'relationship:' has a colon", "write 'relationship \"slug\" {'")
        self._unknown(root, {"version"}, {"entity", "profile"})
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
        written = self._attributes(root).get("version")
        if written is None:
            self.error(root.line, "data_graph has no version", f'add version = "{CURRENT_VERSION}"')
            return CURRENT_VERSION
        version = self._string(written)
        if version is None or version == CURRENT_VERSION:
            return CURRENT_VERSION
        if _LEGACY_VERSION.fullmatch(version):
            self.legacy = True
            self.warn(written.line, f"version {version} is an early form of the language", f"move to {CURRENT_VERSION}")
            return version
        self.error(written.line, f"unknown version {version!r}", f'write "{CURRENT_VERSION}"; "v0.0.N" is read too')
        return version

    # -- blocks and attributes ------------------------------------------------------------------------------------

    def _attributes(self, block: Block) -> dict[str, Attribute]:
        return {attribute.name: attribute for attribute in reversed(block.attributes)}

    def _unknown(self, block: Block, attributes: Iterable[str], blocks: Iterable[str]) -> None:
        """Report what a block must not contain, and what it says twice."""
        known, kinds, first = sorted(attributes), sorted(blocks), dict[str, int]()
        place = block.kind
        for attribute in block.attributes:
            if attribute.name in kinds:
                self.error(attribute.line, f"'{attribute.name}' is a block", f"write '{attribute.name} {{ … }}' without =")
            elif attribute.name not in known:
                self.error(
                    attribute.line, f"unknown attribute '{attribute.name}' in {place}", did_you_mean(attribute.name, known)
                )
            elif attribute.name in first:
                self.error(
                    attribute.line, f"'{attribute.name}' is set twice, first on line {first[attribute.name]}", "keep one of them"
                )
            first.setdefault(attribute.name, attribute.line)
        for inner in block.blocks:
            if inner.kind in known:
                self.error(inner.line, f"'{inner.kind}' is not a block", f"write '{inner.kind} = …'")
            elif inner.kind not in kinds and not (place == "data_graph" and inner.kind == "relationship"):
                self.error(inner.line, f"unknown block '{inner.kind}' in {place}", did_you_mean(inner.kind, kinds))

    def _string(self, attribute: Attribute) -> str | None:
        value: Value = attribute.value
        if isinstance(value, str):
            if value.strip():
                return value
            self.error(attribute.line, f"'{attribute.name}' is empty", "give it a value or remove the line")
        elif isinstance(value, Word):
            self.error(attribute.line, f"'{attribute.name}' is not quoted", f'write {attribute.name} = "{value.text}"')
        else:
            what = value.what if isinstance(value, Unsupported) else "true or false"
            self.error(attribute.line, f"'{attribute.name}' is {what}", "write plain text in double quotes, on one line")
        return None

    def _text(self, block: Block, name: str, *, required: bool = True) -> str | None:
        """A text attribute, or None when it is missing or wrong (which is reported)."""
        attribute = self._attributes(block).get(name)
        if attribute is not None:
            return self._string(attribute)
        if required:
            self.error(block.line, f"{self._called(block)} has no '{name}'", f'add {name} = "…"')
        return None

    def _called(self, block: Block) -> str:
        return f"{block.kind} {block.labels[0]!r}" if block.labels and isinstance(block.labels[0], str) else block.kind

    def _column(self, block: Block, name: str) -> str:
        """A column name, or '' when it is missing or wrong (which is reported)."""
        column = self._text(block, name)
        if column is None:
            return ""
        if not _COLUMN.fullmatch(column.strip()):
            self.error(
                self._attributes(block)[name].line,
                f"'{name}' of {self._called(block)} must be one column, without table and commas",
                "for a key of several columns, build a view with one",
            )
        return column.strip()

    def _table_ref(self, block: Block) -> str:
        text = self._text(block, "table_ref")
        if text is None:
            return ""
        parts = text.split(".")
        if not (2 <= len(parts) <= 3 and all(_TABLE_PART.fullmatch(part) for part in parts)):
            self.error(
                self._attributes(block)["table_ref"].line,
                f"table_ref {text!r} is not a qualified table",
                "write DB.SCHEMA.TABLE, or SCHEMA.TABLE in the connection's own database",
            )
        return text

    def _label(self, block: Block) -> tuple[str, str]:
        """Slug and display label of a block; the slug is '' when there is none."""
        if len(block.labels) != 1:
            self.error(block.line, f"{block.kind} needs one label", f"write '{block.kind} \"slug\" {{'")
            return "", ""
        label = block.labels[0]
        if not isinstance(label, str):
            text = label.text if isinstance(label, Word) else "slug"
            self.error(block.line, f"the label of this {block.kind} is not quoted text", f"write '{block.kind} \"{text}\" {{'")
            return slugify(text), text
        if _SLUG.fullmatch(label):
            return label, label
        slug = slugify(label)
        if self.legacy and _SLUG.fullmatch(slug):
            self._deprecated(
                block.line, f"label {label!r} is free text", f"it is known as '{slug}'; write that, and keep the label as name"
            )
            return slug, label
        self.error(
            block.line,
            f"{block.kind} slug {label!r} must be lower-case letters, digits, - and _",
            f"write {slug!r}" if _SLUG.fullmatch(slug) else "start with a letter or digit",
        )
        return slug, label

    def _name(self, block: Block, label: str) -> str:
        return self._text(block, "name", required=not self.legacy) or label

    def _deprecated(self, line: int, message: str, remedy: str) -> None:
        if self.legacy:
            self.warn(line, message, remedy)
        else:
            self.error(line, message, remedy)

    # -- entities ------------------------------------------------------------------------------------------------

    def _entity(self, block: Block) -> None:
        self._unknown(block, {"name", "description", "table_ref", "primary_key", "enrichment_enabled"}, ())
        slug, label = self._label(block)
        entity = Entity(
            slug=slug,
            name=self._name(block, label),
            table_ref=self._table_ref(block),
            primary_key=self._column(block, "primary_key"),
            description=self._text(block, "description", required=False) or "",
            enrichment_enabled=self._flag(block, "enrichment_enabled"),
            line=block.line,
        )
        if slug in self.entities:
            self.error(block.line, f"entity '{slug}' is defined twice, first on line {self.entities[slug].line}", "rename one")
        elif slug:
            self.entities[slug] = entity

    def _flag(self, block: Block, name: str) -> bool:
        attribute = self._attributes(block).get(name)
        if attribute is None:
            return False
        if not isinstance(attribute.value, bool):
            self.error(attribute.line, f"'{name}' must be true or false", f"write {name} = true, without quotes")
            return False
        return attribute.value

    def _same_names(self) -> None:
        first: dict[str, Entity] = {}
        for entity in self.entities.values():
            if entity.name in first:
                self.warn(entity.line, f"entity '{entity.slug}' has the same name as '{first[entity.name].slug}'", "rename one")
            first.setdefault(entity.name, entity)

    # -- the profile ----------------------------------------------------------------------------------------------

    def _profile(self, block: Block, version: str) -> DataGraph:
        attributes = {"profile_folder", "type"} | ({"materialization"} if self.legacy else set())
        self._unknown(block, attributes, {"relationship"})
        if block.labels:
            self.error(block.line, "profile takes no label", "write 'profile {'")
        folder = self._text(block, "profile_folder") or ""
        parts = folder.split(".")
        if folder and not (len(parts) <= 2 and all(_TABLE_PART.fullmatch(part) for part in parts)):
            line = self._attributes(block)["profile_folder"].line
            self.error(line, f"profile_folder {folder!r} is not a schema", "write DB.SCHEMA or SCHEMA")
        kind = self._profile_type(block)
        edges = [self._edge(inner, 2) for inner in block.blocks if inner.kind == "relationship"]
        roots = self._reparented(edges) if self.legacy else edges
        self._unique(roots, {})
        relationships = tuple(self._relationship(edge, None, 2) for edge in roots)
        return DataGraph(version, folder, kind, tuple(self.entities.values()), relationships)

    def _profile_type(self, block: Block) -> ProfileType:
        attributes = self._attributes(block)
        written = attributes.get("type") or (attributes.get("materialization") if self.legacy else None)
        if written is None:
            if not self.legacy:
                self.error(block.line, "profile has no 'type'", f'add type = "{PROFILE_TYPES[0]}"')
            return PROFILE_TYPES[0]
        if isinstance(written.value, Word):
            self._deprecated(written.line, f"'{written.name}' is not quoted", f'write type = "{PROFILE_TYPES[0]}"')
            text: str | None = written.value.text
        else:
            text = self._string(written)
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
        self._unknown(
            block,
            {"name", "description", "related_entity", "join_on"},
            {"external_id", "trait", "junction_table", "relationship"},
        )
        slug, label = self._label(block)
        attributes = self._attributes(block)
        return _Edge(
            block=block,
            slug=slug,
            name=self._name(block, label),
            description=self._text(block, "description", required=False) or "",
            entity=self._related_entity(block),
            identifiers=[inner for inner in block.blocks if inner.kind in ("external_id", "trait")],
            junctions=[inner for inner in block.blocks if inner.kind == "junction_table"],
            join_on=self._string(attributes["join_on"]) if "join_on" in attributes else None,
            children=[self._edge(inner, depth + 1) for inner in block.blocks if inner.kind == "relationship"],
        )

    def _related_entity(self, block: Block) -> str | None:
        text = self._text(block, "related_entity")
        if text is None:
            return None
        slug = self._alias(text)
        if slug not in self.entities:
            line = self._attributes(block)["related_entity"].line
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
                self._attributes(edge.block)["join_on"].line, f"{called} is directly below the profile and has join_on", remedy
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
        self._unknown(block, {key, "join_key"}, ())
        value, column = self._text(block, key) or "", self._column(block, "join_key")
        return ExternalIdJoin(value, column) if block.kind == "external_id" else TraitJoin(value, column)

    def _entity_join(self, edge: _Edge, parent: _Edge) -> Join | None:
        called = f"relationship '{edge.slug}'"
        for wrong in edge.identifiers:
            self.error(wrong.line, f"{called} is nested and has {wrong.kind}", "join its parent with join_on or junction_table")
        for extra in edge.junctions[1:]:
            self.error(extra.line, f"{called} has two junction tables", "keep one")
        if edge.join_on is not None and edge.junctions:
            self.error(edge.junctions[0].line, f"{called} has join_on and junction_table", "keep one of them")
        elif "join_on" in self._attributes(edge.block):
            return self._column_join(edge, parent)
        elif edge.junctions:
            return self._junction_join(edge, edge.junctions[0], parent)
        else:
            self.error(edge.line, f"{called} is nested and has no join_on or junction_table", "add exactly one of them")
        return None

    def _column_join(self, edge: _Edge, parent: _Edge) -> Join | None:
        if edge.join_on is None:
            return None
        line = self._attributes(edge.block)["join_on"].line
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
        self._unknown(block, {"table_ref", "primary_key", "left_join_on", "right_join_on"}, ())
        table, key = self._table_ref(block), self._column(block, "primary_key")
        left_text, right_text = self._text(block, "left_join_on"), self._text(block, "right_join_on")
        attributes = self._attributes(block)
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


# -- back to text ----------------------------------------------------------------------------------------------------


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
