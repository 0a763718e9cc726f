"""Audiences against the warehouse: columns and types that their files alone cannot know. Reads the catalogue, never a row."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping

import ibis
import ibis.expr.types as ir

from cdp_assets.data_graph.model import Node
from cdp_assets.linked_audiences.entities import column_of
from cdp_assets.linked_audiences.entity_history import entity_table, has_history
from cdp_assets.space.conditions import EntityReference, entity_references
from cdp_assets.space.documents import Document, read_text, read_yaml
from cdp_assets.space.load import SPACE_FILE
from cdp_assets.space.models.audiences import Audience, ColumnFilter
from cdp_assets.space.operators import ConditionError, compare
from cdp_assets.space.space import Problem, Space
from resources.warehouse import MissingTableError, TableRef, Warehouse


def check_audiences(space: Space, warehouse: Warehouse) -> tuple[Problem, ...]:
    """Every filter on a column that is not there, or whose type does not take the filter's operator, value or reference.

    A missing table is the data graph's problem and is not repeated here.
    """
    nodes = {node.path: node for node in space.graph.nodes()}
    problems = list(_histories(space, warehouse))
    for key, audience in space.audiences.items():
        problems += _Check(space, warehouse, nodes, _document(space, key)).run(audience)
    return tuple(sorted(set(problems)))


def _histories(space: Space, warehouse: Warehouse) -> Iterator[Problem]:
    """Columns that space.yaml names for the history of entities."""
    text, _ = read_text(space.directory / SPACE_FILE, SPACE_FILE)
    document, _ = read_yaml(text or "", SPACE_FILE)
    for entity in space.graph.entities:
        if not has_history(space.config, entity):
            continue
        try:
            entity_table(warehouse, space.config, entity, dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
        except MissingTableError:
            continue
        except ConditionError as error:
            line = document.line("entities", entity.slug) if document is not None else 1
            yield Problem(SPACE_FILE, line, str(error), error.remedy)


def _document(space: Space, key: str) -> Document:
    """The audience's file, for its lines: the space was loaded from it, so it reads."""
    file = f"audiences/{key}.yaml"
    text, _ = read_text(space.directory / file, file)
    document, _ = read_yaml(text or "", file)
    return document or Document(file, {})


class _Check:
    def __init__(self, space: Space, warehouse: Warehouse, nodes: Mapping[str, Node], document: Document) -> None:
        self.space = space
        self.warehouse = warehouse
        self.nodes = nodes
        self.document = document
        # Whether types fit does not depend on the instant.
        self.as_of = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)

    def run(self, audience: Audience) -> Iterator[Problem]:
        for reference in entity_references(audience):
            table = self._table(reference.path)
            if table is None:
                continue
            for place, wanted in reference.filters:
                try:
                    column = column_of(table, wanted.column, self.nodes[reference.path])
                    compare(column, wanted, self.as_of, self._other(reference, wanted))
                except ConditionError as error:
                    key = "column" if wanted.column.lower() not in table.columns else "operator"
                    line = self.document.line(*place, key)
                    yield Problem(self.document.file, line, str(error), error.remedy or "correct the condition")

    def _table(self, path: str) -> ir.Table | None:
        try:
            return self.warehouse.table(TableRef.parse(self.nodes[path].entity.table_ref))
        except MissingTableError:
            return None

    def _other(self, reference: EntityReference, wanted: ColumnFilter) -> ir.Value | None:
        """What the filter compares with, as far as its type goes."""
        referred = wanted.reference
        if referred is None:
            return None
        if referred.trait is not None:
            trait = self.space.traits.get(referred.trait)
            return ibis.null("float64" if trait is not None and trait.value_type == "number" else "string")
        slugs = reference.path.split(":")
        path = ":".join(slugs[: slugs.index(referred.of) + 1]) if referred.of else reference.path
        table = self._table(path)
        return column_of(table, referred.column or "", self.nodes[path]) if table is not None else None
