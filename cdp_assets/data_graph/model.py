"""A data graph as frozen values: entities, and a tree of relationships below the profile.

A *node* is a relationship-slug path from the profile, written ``accounts:credit-cards``. The same entity may stand at
several nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

MAX_DEPTH = 6  # nodes on a path, counting the profile [D]
MAX_DEPTH_V0 = 4


@dataclass(frozen=True)
class Entity:
    """A warehouse table in the graph. Column names are as written in the graph; compare them without case."""

    slug: str
    name: str
    table_ref: str
    primary_key: str
    description: str = ""
    enrichment_enabled: bool = False
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class ExternalIdJoin:
    """profile -> entity by an identifier: ``user_identifiers.type = type and value = entity.join_key``."""

    type: str
    join_key: str


@dataclass(frozen=True)
class TraitJoin:
    """profile -> entity by a trait: ``user_traits.name = name and value = entity.join_key``."""

    name: str
    join_key: str


@dataclass(frozen=True)
class ColumnJoin:
    """parent entity -> entity: ``parent.left = child.right``."""

    left: str
    right: str


@dataclass(frozen=True)
class JunctionJoin:
    """parent entity -> junction table -> entity, inner joins both."""

    table_ref: str
    primary_key: str
    parent_column: str
    junction_left: str
    junction_right: str
    child_column: str


Join = ExternalIdJoin | TraitJoin | ColumnJoin | JunctionJoin


@dataclass(frozen=True)
class Relationship:
    """An edge of the tree and the node below it."""

    slug: str
    name: str
    entity: str
    join: Join
    children: tuple[Relationship, ...] = ()
    description: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Node:
    """A node by its path, with its entity, the join to its parent, and the parent's path (None below the profile)."""

    path: str
    relationship: Relationship
    entity: Entity
    parent: str | None

    @property
    def join(self) -> Join:
        return self.relationship.join


class MissingNodeError(KeyError):
    """The graph has no such node, or no longer in the way in which its consumers knew it. The text says which and why."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class MissingNode:
    """A node of an earlier graph that its consumers can no longer use. ``reason``: what was done to it, and what to do."""

    path: str
    reason: str


@dataclass(frozen=True)
class ExternalProfiles:
    """The Profiles Sync tables are the company's own. ``categories``: consent categories of the space, to be found among the traits."""

    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataGraph:
    """The whole graph. ``profile_folder`` is the schema that holds the Profiles Sync tables.

    ``external`` is what the space says of these tables when they are not the project's, ``missing`` what it says of nodes that
    were taken away from their consumers: a path there is never found, although the text of the graph may have it again.
    """

    version: str
    profile_folder: str
    profile_type: Literal["segment:materialized", "segment:unmaterialized", "segment:dbt"]
    entities: tuple[Entity, ...]
    relationships: tuple[Relationship, ...]
    external: ExternalProfiles | None = None
    missing: tuple[MissingNode, ...] = ()

    @property
    def profile_schema(self) -> str:
        """The schema of the Profiles Sync tables: the last part of ``profile_folder``, lower case."""
        return self.profile_folder.split(".")[-1].strip().lower()

    def entity(self, slug: str) -> Entity:
        """Entity by slug. Raises KeyError."""
        return {entity.slug: entity for entity in self.entities}[slug]

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children, in file order."""

        def walk(relationships: tuple[Relationship, ...], parent: str | None) -> Iterator[Node]:
            for relationship in relationships:
                path = f"{parent}:{relationship.slug}" if parent else relationship.slug
                yield Node(path, relationship, self.entity(relationship.entity), parent)
                yield from walk(relationship.children, path)

        yield from walk(self.relationships, None)

    def node(self, path: str) -> Node:
        """Node by path. Raises MissingNodeError."""
        for gone in self.missing:
            if path == gone.path or path.startswith(f"{gone.path}:"):
                raise MissingNodeError(gone.reason)
        for node in self.nodes():
            if node.path == path:
                return node
        parent, _, slug = path.rpartition(":")
        raise MissingNodeError(
            f"the data graph has no relationship {slug} {f'below {parent}' if parent else 'below the profile'}"
        )

    def has(self, path: str) -> bool:
        """Whether :meth:`node` finds the path."""
        try:
            self.node(path)
        except MissingNodeError:
            return False
        return True

    def child(self, parent: str | None, slug: str) -> Node:
        """The node of relationship ``slug`` below ``parent`` (None: the profile). Raises MissingNodeError."""
        return self.node(f"{parent}:{slug}" if parent else slug)
