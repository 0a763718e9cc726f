"""``subject: none``: an activation that says it speaks about nobody is held to it, by lineage and by value.

By lineage: no mapped column of its model may come from what is known of people. By value: nothing that it would send may
equal an identifier. Counting people is allowed: a count says nothing of one person.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any

import ibis
import ibis.expr.types as ir
import sqlglot
from sqlglot import exp
from sqlglot.lineage import Node as LineageNode
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

from cdp_assets.activation_payloads.mapping_kit import reads
from cdp_assets.activation_payloads.mapping_kit.validate import is_directive
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.computed_traits.tables import SCHEMA as TRAITS_SCHEMA
from cdp_assets.linked_audiences.tables import SCHEMA as AUDIENCES_SCHEMA
from cdp_assets.raw_events.tables import EVENTS_SCHEMA
from cdp_assets.raw_events.tables import SCHEMA as RAW_SCHEMA
from cdp_assets.space.models.activations import Activation, SqlModel
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import SCHEMA as PROFILES_SCHEMA
from cdp_assets.unified_profiles.tables import identifiers_as_of, profile_schema
from resources.warehouse import Warehouse
from resources.warehouse import functions as fn

# Columns of event tables that say who: identifiers, and what the context knows of the person and the device.
_PERSONAL_EVENT_COLUMNS = ("user_id", "anonymous_id", "previous_id", "email", "traits", "context", "properties")
_PERSONAL_EVENT_PREFIXES = ("context_traits", "context_ip", "context_device", "context_external_ids", "traits_")
_PEOPLE_EVENT_TABLES = ("identifies", "users", "aliases")
_COUNTS = (exp.Count, exp.ApproxDistinct, exp.CountIf)


def lineage_problems(space: Space, activation: Activation) -> list[str]:
    """Why an activation with ``subject: none`` may not say so; empty when it may (and for any other subject).

    Each text names a column of the model and where it comes from. A column that cannot be traced counts as personal when the
    query reads any table about people.
    """
    if activation.consent.subject != "none":
        return []
    if activation.model is None:
        return ["an audience's members are people; use consent subject profile"]
    model = space.models[activation.model]
    dialect = space.config.warehouse.type
    tree = sqlglot.parse_one(model.query, read=dialect)
    if not any(_about_people(space, table) for table in tree.find_all(exp.Table)):
        return []
    problems = []
    columns = _mapped_columns(activation, model, tree)
    # Of all columns at once: to qualify the query is most of the work.
    scope = _scope(tree, dialect)
    for column in columns:
        source = _personal_source(space, scope, column, dialect)
        if source is not None:
            problems.append(
                f"column {column} of model {model.key} {source}; use consent subject {{column, identifier_type}}, or leave it out"
            )
    return problems


def _mapped_columns(activation: Activation, model: SqlModel, tree: exp.Expr) -> list[str]:
    """The model's columns that can reach the destination; the primary key becomes the message's identity, so it always can."""
    read = reads(activation.mapping)
    if read is None or ("properties",) in read:
        outputs = [name.lower() for name in getattr(tree, "named_selects", [])]
        return sorted({*outputs, model.primary_key.lower()})
    return sorted({path[1].lower() for path in read if path[0] == "properties"} | {model.primary_key.lower()})


def _scope(tree: exp.Expr, dialect: str) -> Scope | None:
    """The query with every column qualified by its table; None when that cannot be done."""
    try:
        return build_scope(qualify(tree.copy(), dialect=dialect, schema={}, validate_qualify_columns=False, identify=False))
    except (sqlglot.errors.SqlglotError, ValueError, KeyError):
        return None


def _personal_source(space: Space, scope: Scope | None, column: str, dialect: str) -> str | None:
    """Where a column comes from, in words, when that is personal; None when it is not."""
    untraced = "cannot be traced to its tables (name it in the SELECT list instead of *)"
    if scope is None:
        return untraced
    try:
        root = lineage(column, scope.expression, {}, dialect=dialect, scope=scope, copy=False)
    except (sqlglot.errors.SqlglotError, ValueError, KeyError):
        return untraced
    for node in _traced(root):
        if isinstance(node.source, exp.Placeholder):
            return "cannot be traced to its tables (write TABLE.COLUMN)"
        if isinstance(node.source, exp.Table):
            name = node.name.split(".")[-1].strip('"').lower()
            if name == "*" and _about_people(space, node.source):
                return untraced
            if _personal_column(space, node.source, name):
                return f"comes from {node.source.db.lower()}.{node.source.name.lower()}.{name}, which speaks about people"
    return None


def _traced(node: LineageNode) -> Iterator[LineageNode]:
    """The node and all that it comes from, but for what is only counted."""
    yield node
    columns = list(node.expression.find_all(exp.Column)) if isinstance(node.expression, exp.Alias) else []
    if columns and all(column.find_ancestor(*_COUNTS) for column in columns):
        return
    for child in node.downstream:
        yield from _traced(child)


def _about_people(space: Space, table: exp.Table) -> bool:
    return table.db.lower() in (
        profile_schema(space.graph),
        PROFILES_SCHEMA,
        TRAITS_SCHEMA,
        AUDIENCES_SCHEMA,
        RAW_SCHEMA,
        EVENTS_SCHEMA,
    )


def _personal_column(space: Space, table: exp.Table, column: str) -> bool:
    if not _about_people(space, table):
        return False
    if table.db.lower() != EVENTS_SCHEMA:
        return True
    if table.name.lower() in _PEOPLE_EVENT_TABLES:
        return True
    return column in _PERSONAL_EVENT_COLUMNS or column.startswith(_PERSONAL_EVENT_PREFIXES)


def identifier_leaks(warehouse: Warehouse, space: Space, activation: Activation, as_of: dt.datetime) -> ir.Table:
    """(unit, field, identifier_type): texts of the activation's payloads that equal an identifier, whatever the letter case.

    Numbers are not compared: a count is no identifier, although some user id may read the same. Empty when nothing leaks.
    """
    payloads = warehouse.table(PAYLOADS.ref)
    payloads = payloads.filter((payloads.activation == activation.key) & payloads.payload.notnull())
    identifiers = identifiers_as_of(warehouse, space.graph, as_of)
    identifiers = identifiers.select(identifier_type=identifiers.type, known=identifiers.value.lower()).distinct()
    parts = [
        payloads.filter(payloads.payload.contains(json.dumps(path[-1], ensure_ascii=False) + ':"')).select(
            "unit", field=ibis.literal(".".join(path)), said=fn.json_text(payloads.payload, *path).lower()
        )
        for path in _field_paths(activation.mapping)
    ]
    if not parts:
        return payloads.filter(ibis.literal(False)).select("unit", field="unit", identifier_type="unit")
    said = parts[0] if len(parts) == 1 else ibis.union(parts[0], *parts[1:], distinct=False)
    return said.join(identifiers, said.said == identifiers.known).select("unit", "field", "identifier_type")


def _field_paths(mapping: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of the payload's fields, as far as the mapping's own shape gives them, sorted."""
    found: list[tuple[str, ...]] = []
    for key in sorted(mapping):
        value = mapping[key]
        if key.startswith("@") or key == "_metadata":
            continue
        if isinstance(value, dict) and not is_directive(value):
            found += _field_paths(value, (*prefix, key))
        else:
            found.append((*prefix, key))
    return found
