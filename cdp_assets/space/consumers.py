"""Who uses which node of the data graph: audiences and activations by path, models and SQL traits by the table that they read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from cdp_assets.space.conditions import audience_references, entity_paths
from cdp_assets.space.space import Space
from resources.warehouse import TableRef

ConsumerKind = Literal["audience", "activation", "model", "trait"]


@dataclass(frozen=True, order=True)
class Consumer:
    """Something that uses the graph. ``through``: the consumer by which it does, '' for one that names the node itself."""

    kind: ConsumerKind
    key: str
    through: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.key}" + (f" (through {self.through})" if self.through else "")


def path_consumers(space: Space) -> dict[Consumer, frozenset[str]]:
    """Audiences and activations -> the node paths that they name, those that the graph lacks included."""
    audiences = {Consumer("audience", key): frozenset(entity_paths(audience)) for key, audience in space.audiences.items()}
    activations = {Consumer("activation", key): frozenset(a.paths) for key, a in space.activations.items()}
    return {consumer: paths for consumer, paths in {**audiences, **activations}.items() if paths}


def table_consumers(space: Space) -> dict[Consumer, frozenset[TableRef]]:
    """Models and SQL traits -> the tables that their queries read."""
    models: dict[Consumer, str] = {Consumer("model", key): model.query for key, model in space.models.items()}
    traits = {Consumer("trait", key): trait.query for key, trait in space.traits.items() if trait.query}
    dialect = space.config.warehouse.type
    return {consumer: _tables(query, dialect) for consumer, query in {**models, **traits}.items()}


def consumers_by_node(space: Space) -> dict[str, tuple[Consumer, ...]]:
    """Node path -> everything that names it, or reads its entity's table, sorted. Every node of the graph is there."""
    paths, tables = path_consumers(space), table_consumers(space)
    return {
        node.path: tuple(
            sorted(
                {
                    *(consumer for consumer, named in paths.items() if node.path in named),
                    *(consumer for consumer, read in tables.items() if _reads(read, node.entity.table_ref)),
                }
            )
        )
        for node in space.graph.nodes()
    }


def consumers_by_entity(space: Space) -> dict[str, tuple[Consumer, ...]]:
    """Entity slug -> everything that names a node of it, or reads its table, sorted."""
    nodes = consumers_by_node(space)
    tables = table_consumers(space)
    return {
        entity.slug: tuple(
            sorted(
                {
                    *(c for node in space.graph.nodes() if node.entity.slug == entity.slug for c in nodes[node.path]),
                    *(consumer for consumer, read in tables.items() if _reads(read, entity.table_ref)),
                }
            )
        )
        for entity in space.graph.entities
    }


def users_of(space: Space, paths: Collection[str], tables: Collection[str] = ()) -> tuple[Consumer, ...]:
    """Who uses one of the node paths or what is below it, or reads one of the tables, and who uses those in turn; the former first."""
    direct = [
        *(c for c, named in path_consumers(space).items() if any(_at_or_below(path, above) for path in named for above in paths)),
        *(c for c, read in table_consumers(space).items() if any(_reads(read, table) for table in tables)),
    ]
    found: dict[tuple[ConsumerKind, str], Consumer] = {(c.kind, c.key): c for c in direct}
    waiting = list(direct)
    while waiting:
        used = waiting.pop(0)
        for kind, key in _followers(space, used):
            if (kind, key) not in found:
                found[kind, key] = Consumer(kind, key, f"{used.kind} {used.key}")
                waiting.append(found[kind, key])
    return tuple(sorted(found.values(), key=lambda one: (bool(one.through), one.kind, one.key)))


def _followers(space: Space, used: Consumer) -> Iterator[tuple[ConsumerKind, str]]:
    if used.kind == "audience":
        for key, audience in space.audiences.items():
            if used.key in {other for _, other in audience_references(audience)}:
                yield "audience", key
    if used.kind in ("audience", "trait"):
        for key, model in space.models.items():
            if used.key in model.depends_on:
                yield "model", key
    for key, activation in space.activations.items():
        if used.key == {"audience": activation.audience, "model": activation.model}.get(used.kind):
            yield "activation", key


def _at_or_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}:")


def _tables(query: str, dialect: str) -> frozenset[TableRef]:
    try:
        tree = sqlglot.parse_one(query, read=dialect)
    except SqlglotError:
        return frozenset()
    tables = [table for table in tree.find_all(exp.Table) if table.db]
    return frozenset(TableRef(t.db.lower(), t.name.lower(), t.catalog.lower() or None) for t in tables)


def _reads(read: Collection[TableRef], table_ref: str) -> bool:
    """Whether a table is among those read. A reference without a database may mean any."""
    wanted = TableRef.parse(table_ref)
    same = [ref for ref in read if (ref.schema, ref.name) == (wanted.schema, wanted.name)]
    return any(ref.database == wanted.database or None in (ref.database, wanted.database) for ref in same)
