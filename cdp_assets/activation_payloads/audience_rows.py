"""The members of an audience with all that their messages may say, as one ordered query that streams.

The query is a union of sections with one set of columns: section 0 is the member, section i the matched rows of the i-th
node. Ordered by member and section, it gives each member's rows together, whatever the size of the audience.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.datatypes as ibis_types
import ibis.expr.types as ir

from cdp_assets.activation_payloads import people
from cdp_assets.activation_payloads.message import EntityRow, Member, plain
from cdp_assets.activation_payloads.rules import PayloadError
from cdp_assets.data_graph.model import MissingNodeError, Node
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.space.conditions import entity_paths
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space
from resources.warehouse import MissingTableError, TableRef, Warehouse

KEY = people.KEY
BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Candidate:
    """A member and whether a message may go."""

    member: Member
    consents: bool
    suppressed: bool


@dataclass(frozen=True)
class Asked:
    """Which members to read and how: the audience's partition and its instant; the instant whose consent counts, and who is suppressed then
    (a table with canonical_segment_id; None: nobody)."""

    as_of: dt.datetime
    window_key: str
    consent_as_of: dt.datetime
    suppressed: ir.Table | None


@dataclass(frozen=True)
class Section:
    """Rows with a column for each of what messages say of them: under its own name here, and the one under which messages know it."""

    rows: ir.Table
    columns: Mapping[str, str]


def condition_nodes(space: Space, activation: Activation) -> dict[str, Node]:
    """The nodes that the audience's conditions name, by path, parents before children.

    Raises PayloadError when the graph lacks one of them, or one that the activation itself names.
    """
    conditions = entity_paths(space.audiences[str(activation.audience)])
    try:
        found = {path: space.graph.node(path) for path in sorted({*conditions, *activation.paths})}
    except MissingNodeError as error:
        raise PayloadError(str(error)) from None
    return {path: node for path, node in found.items() if path in conditions}


def candidates(
    warehouse: Warehouse,
    space: Space,
    activation: Activation,
    asked: Asked,
    among: ir.Table | None = None,
) -> Iterator[Candidate]:
    """The members of the audience's partition, by canonical id. ``among``: a table of the canonical ids to look at; None: all.

    Raises PayloadError for columns that do not exist.
    """
    nodes = condition_nodes(space, activation)
    members = member_section(warehouse, space, activation, asked)
    sections = [members, *(_node_section(warehouse, activation, node, asked.window_key) for node in nodes.values())]
    if among is not None:
        sections = [Section(section.rows.semi_join(among, KEY), section.columns) for section in sections]
    return _grouped(warehouse, _union(sections), sections, list(nodes), space, activation)


# -- the sections ------------------------------------------------------------------------------------------------------


def partition_of(warehouse: Warehouse, ref: TableRef, activation: Activation, window_key: str) -> ir.Table:
    table = warehouse.table(ref)
    return table.filter((table.audience == activation.audience) & (table.partition_key == window_key))


def member_section(
    warehouse: Warehouse,
    space: Space,
    activation: Activation,
    asked: Asked,
) -> Section:
    members = partition_of(warehouse, AUDIENCE_MEMBERS.ref, activation, asked.window_key).select(KEY).distinct()
    kinds = ["user_id", "anonymous_id", "email"]
    kinds += [activation.identifier] if activation.identifier not in kinds else []
    identifiers = {f"i{n}": kind for n, kind in enumerate(kinds)}
    traits = list(dict.fromkeys(activation.personalization.traits))
    computed = [trait for trait in traits if trait in space.traits]
    numeric = [trait for trait in computed if space.traits[trait].value_type == "number"]
    said = {f"t{traits.index(trait)}": trait for trait in traits}
    texts = {f"c{traits.index(trait)}": trait for trait in computed if trait not in numeric}
    numbers = {f"d{traits.index(trait)}": trait for trait in numeric}

    parts = [people.last_identifiers(warehouse, space, asked.as_of, identifiers)]
    if said:
        parts.append(people.identify_traits(warehouse, space, asked.as_of, said))
    if computed:
        parts.append(people.computed_traits(warehouse, asked.window_key, texts, numbers))
    categories = activation.consent.categories
    parts.append(people.standing(warehouse, space, members, categories, asked.consent_as_of, asked.suppressed))
    rows = members
    for part in parts:
        part = part.rename(_right=KEY)
        rows = rows.left_join(part, [(KEY, "_right")]).drop("_right")
    columns = {**identifiers, **said, **texts, **numbers, "consents": "consents", "suppressed": "suppressed"}
    return Section(rows.mutate(entity_id=ibis.literal(""), parent_id=ibis.literal("")), columns)


def _node_section(warehouse: Warehouse, activation: Activation, node: Node, window_key: str) -> Section:
    matched = matched_rows(warehouse, activation, node.path, window_key)
    values = entity_values(warehouse, activation, node)
    return Section(matched.left_join(values.rows, [("entity_id", "_key")]).drop("_key"), values.columns)


def matched_rows(warehouse: Warehouse, activation: Activation, path: str, window_key: str) -> ir.Table:
    """(canonical_segment_id, entity_id, parent_id) of the rows of a node in the audience's context; parent_id is '' below the profile."""
    matched = partition_of(warehouse, AUDIENCE_CONTEXT.ref, activation, window_key)
    return matched.filter(matched.path == path).select(
        KEY, matched.entity_id, parent_id=ibis.coalesce(matched.parent_entity_id, "")
    )


def entity_values(warehouse: Warehouse, activation: Activation, node: Node) -> Section:
    """What messages say of a node's rows, by ``_key``, their primary key as text: that, and the columns of the personalization.

    Of rows with one key the first stands. Raises PayloadError for a table or a column that does not exist.
    """
    reference = TableRef.parse(node.entity.table_ref)
    try:
        entity = warehouse.table(reference)
    except MissingTableError as error:
        raise PayloadError(f"activation {activation.key}: {error}") from None
    columns: dict[str, str] = {"n0": node.entity.primary_key}
    for chosen in activation.personalization.entities:
        if chosen.path == node.path:
            extra = [name for name in chosen.columns if name.lower() != node.entity.primary_key.lower()]
            columns.update({f"n{n}": name for n, name in enumerate(dict.fromkeys(extra), start=1)})
    for name in columns.values():
        if name.lower() not in entity.columns:
            raise PayloadError(f"activation {activation.key}: table {reference} has no column {name}")
    key = entity[node.entity.primary_key.lower()]
    values = entity.select(_key=key.cast("string"), **{c: entity[n.lower()] for c, n in columns.items()})
    counted = warehouse.rows(entity.aggregate(keys=key.count(), different=key.nunique()), 1)[0]
    if counted["keys"] != counted["different"]:
        ranked = values.mutate(
            _rank=ibis.row_number().over(group_by="_key", order_by=[values[c].cast("string") for c in columns])
        )
        values = ranked.filter(ranked["_rank"] == 0).drop("_rank")
    return Section(values, columns)


def _union(sections: Sequence[Section]) -> ir.Table:
    """All sections under one set of columns: those of section i get the prefix ``si_``, the others NULL there."""
    types: dict[str, ibis_types.DataType] = {}
    for number, section in enumerate(sections):
        types.update({f"s{number}_{column}": section.rows[column].type() for column in section.columns})
    padded = []
    for number, section in enumerate(sections):
        own = {f"s{number}_{column}": section.rows[column] for column in section.columns}
        padded.append(
            section.rows.select(
                member=section.rows[KEY],
                section=ibis.literal(number, "int64"),
                entity_id=section.rows.entity_id,
                parent_id=section.rows.parent_id,
                **{name: own.get(name, ibis.null(dtype)) for name, dtype in types.items()},
            )
        )
    rows = padded[0] if len(padded) == 1 else ibis.union(padded[0], *padded[1:], distinct=False)
    return rows.order_by(["member", "section", "entity_id", "parent_id"])


# -- from rows to members ----------------------------------------------------------------------------------------------


def _grouped(
    warehouse: Warehouse, rows: ir.Table, sections: Sequence[Section], paths: list[str], space: Space, activation: Activation
) -> Iterator[Candidate]:
    stream = (row for batch in warehouse.batches(rows, BATCH_ROWS) for row in batch.to_pylist())
    for member_id, group in itertools.groupby(stream, key=lambda row: row["member"]):
        first = next(group)
        if first["section"] != 0:
            continue  # context of somebody who is not a member: a check of the audience says so
        own = {name: first[f"s0_{column}"] for column, name in sections[0].columns.items() if column[0] == "i"}
        context: dict[str, list[EntityRow]] = {}
        seen: set[tuple[int, str, str]] = set()
        for row in group:  # noqa: B031 - the first row was taken from the same group
            place = (row["section"], row["entity_id"], row["parent_id"])
            if row["section"] == 0 or place in seen:
                continue  # a row that the context has twice
            seen.add(place)
            context.setdefault(paths[row["section"] - 1], []).append(_entity_row(row, sections[row["section"]]))
        yield Candidate(
            Member(
                member_id,
                {kind: value for kind, value in own.items() if value is not None},
                _traits(first, sections[0], space, activation),
                {path: tuple(found) for path, found in context.items()},
            ),
            consents=bool(first["s0_consents"]),
            suppressed=bool(first["s0_suppressed"]),
        )


def _entity_row(row: Mapping[str, Any], section: Section) -> EntityRow:
    number = row["section"]
    values = {name: plain(row[f"s{number}_{column}"]) for column, name in section.columns.items()}
    key = section.columns["n0"]
    if values[key] is None:
        values[key] = row["entity_id"]  # the row is gone from its table since the audience was built
    return EntityRow(row["entity_id"], row["parent_id"], values)


def _traits(row: Mapping[str, Any], section: Section, space: Space, activation: Activation) -> dict[str, Any]:
    """The personalised traits that the member has, in the order of the configuration; a computed one wins over an identify call's."""
    found: dict[str, Any] = {}
    for prefix in ("t", "c", "d"):
        for column, name in section.columns.items():
            value = row[f"s0_{column}"] if column[0] == prefix and column[1:].isdigit() else None
            if value is not None:
                found[name] = plain(value) if prefix == "t" else _computed(value, space.traits[name].value_type)
    return {name: found[name] for name in activation.personalization.traits if name in found}


def _computed(value: Any, kind: str) -> Any:
    if kind == "boolean":
        return value == "true"
    if kind == "list":
        return json.loads(value)
    return plain(value)
