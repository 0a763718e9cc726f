"""Members of an audience by a mapping of columns and constants, many at a time: what ``UnitMapper`` makes of each, at a fraction of its cost.

What belongs here: one query with a row per unit, and the payloads made of its batches. What does not: what a field reads
(``audience_fields.py``); mappings that look at whole messages, and the few members whose message may be too large, go one by one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.activation_payloads.audience_fields import AudienceFields, MadeSource, Source, audience_fields, entity_key
from cdp_assets.activation_payloads.audience_rows import (
    BATCH_ROWS,
    KEY,
    Asked,
    Section,
    condition_nodes,
    entity_values,
    matched_rows,
    member_section,
)
from cdp_assets.activation_payloads.column_mapping import (
    MappedBatch,
    as_json,
    judge,
    key_text,
    longest,
    objects,
    values_of,
    written_of,
)
from cdp_assets.activation_payloads.mapping_kit import MappingError
from cdp_assets.activation_payloads.message import AudienceMessages, EntityRow, Member
from cdp_assets.activation_payloads.rules import Target
from cdp_assets.activation_payloads.unit_payload import CONTENT_FREE, MAX_MESSAGE_BYTES, canonical_json, refusal, unit_of
from cdp_assets.data_graph.model import Node
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse

_BOUND = "cdp_bound"
_ESCAPED = 6  # the most bytes of JSON that a character takes
_PUNCTUATION = 12  # quotes, colon, comma, brackets around a name, a value or a row
# The most bytes of JSON that a value takes, by the test for its type. A whole float is written with all of its digits.
_WIDEST = {"integer": 24, "boolean": 8, "date": 16, "timestamp": 48, "time": 24, "decimal": 90, "floating": 340}


@dataclass(frozen=True)
class AudienceColumns:
    """An audience's units with the columns that a mapping reads, fixed for the build.

    batches: by unit, of those whose message is surely small enough: ``canonical_segment_id``, ``unit_entity`` (of an entity's unit),
    ``consents``, ``suppressed``, and the columns of ``fields`` and ``identifiers`` (column -> type). ``large``: a table of the others'
    canonical ids; None: there are none.
    """

    fields: AudienceFields
    identifiers: Mapping[str, str]
    batches: Iterator[pa.RecordBatch]
    large: ir.Table | None


@contextlib.contextmanager
def audience_columns(
    warehouse: Warehouse, space: Space, activation: Activation, asked: Asked
) -> Iterator[AudienceColumns | None]:
    """None where the mapping has to look at each message. DDL: open it outside a transaction. Raises PayloadError for missing columns."""
    nodes = condition_nodes(space, activation)
    members = member_section(warehouse, space, activation, asked)
    entities = {path: entity_values(warehouse, activation, node) for path, node in nodes.items()}
    fields = audience_fields(space, activation, members, entities)
    if fields is None:
        yield None
        return
    matched = {path: matched_rows(warehouse, activation, path, asked.window_key) for path in nodes}
    own, widths = _own_width(space, activation, members, nodes), _widths(space, activation, entities, nodes, matched)
    if own is None or (nodes and widths is None):
        yield None
        return
    units = members.rows.mutate(**{_BOUND: own}).drop("entity_id", "parent_id")
    rows = _joined(activation, units, fields, entities, nodes, matched)
    if widths is not None:
        widths = widths.select(cdp_of=KEY, cdp_width="width")
        rows = rows.left_join(widths, rows[KEY] == widths["cdp_of"]).drop("cdp_of")
        rows = rows.mutate(**{_BOUND: rows[_BOUND] + ibis.coalesce(rows["cdp_width"], 0)})
    identifiers = {column: kind for column, kind in members.columns.items() if column[0] == "i"}
    wanted = {*identifiers, *(column for source in fields.sources.values() for column in source.columns())}
    keep = [KEY, "unit_entity", "consents", "suppressed", _BOUND, *sorted(wanted)]
    with warehouse.staged(rows.select(*keep)) as found:
        large = found.filter(found[_BOUND] > MAX_MESSAGE_BYTES).select(KEY).distinct()
        small = found.filter(found[_BOUND] <= MAX_MESSAGE_BYTES).drop(_BOUND).order_by([KEY, "unit_entity"])
        some = warehouse.count(large)
        yield AudienceColumns(fields, identifiers, warehouse.batches(small, BATCH_ROWS), large if some else None)


def _joined(
    activation: Activation,
    members: ir.Table,
    fields: AudienceFields,
    entities: Mapping[str, Section],
    nodes: Mapping[str, Node],
    matched: Mapping[str, ir.Table],
) -> ir.Table:
    """A row per unit: the member's columns, and those of the rows that fields read."""
    trigger = activation.trigger.path
    ids: dict[str, ir.Table] = {}
    if trigger is None:
        rows = members.mutate(unit_entity=ibis.null("string"))
        for path in fields.first:
            parent = nodes[path].parent
            below = matched[path]
            if parent is not None:
                above = ids[parent].select(cdp_of=KEY, cdp_id="id")
                below = below.join(above, (below[KEY] == above["cdp_of"]) & (below["parent_id"] == above["cdp_id"]))
            ids[path] = below.group_by(KEY).agg(id=below["entity_id"].min())
    else:
        pairs = matched[trigger].select(cdp_of=KEY, unit_entity="entity_id").distinct()
        rows = members.join(pairs, members[KEY] == pairs["cdp_of"]).drop("cdp_of")
    read = {column for source in fields.sources.values() for column in source.columns()}
    for path in fields.first if trigger is None else [trigger]:
        key = entity_key(path, nodes)
        columns = [column for column in entities[path].columns if f"{key}_{column}" in read]
        if not columns:
            continue
        if trigger is None:
            found = ids[path].select(cdp_of=KEY, **{key: ids[path]["id"]})
            rows = rows.left_join(found, rows[KEY] == found["cdp_of"]).drop("cdp_of")
        else:
            rows = rows.mutate(**{key: rows["unit_entity"]})
        named = entities[path].rows.select(cdp_key="_key", **{f"{key}_{column}": column for column in columns})
        rows = rows.left_join(named, rows[key] == named["cdp_key"]).drop("cdp_key")
    return rows


# -- how large a message may be ----------------------------------------------------------------------------------------------


def _own_width(space: Space, activation: Activation, members: Section, nodes: Mapping[str, Node]) -> ir.IntegerValue | None:
    """Bytes that a member's messages do not exceed without their entities; None where nothing limits a value."""
    messages = AudienceMessages(space, activation, nodes)
    said = {name: "" for column, name in members.columns.items() if column[0] != "i" and column[1:].isdigit()}
    known = {kind: "" for column, kind in members.columns.items() if column[0] == "i"}
    top = {path: (EntityRow("", "", {}),) for path, node in nodes.items() if node.parent is None}
    around = len(canonical_json(messages.message(Member("", known, said, top)))) + len(activation.event_name or "") * _ESCAPED
    own = _sum_of_widths(members.rows[column] for column in members.columns if column[1:].isdigit())
    return None if own is None else own + ibis.literal(around, "int64")


def _widths(
    space: Space,
    activation: Activation,
    entities: Mapping[str, Section],
    nodes: Mapping[str, Node],
    matched: Mapping[str, ir.Table],
) -> ir.Table | None:
    """(canonical_segment_id, width): bytes that what a member's messages say of entities does not exceed; None where nothing limits it."""
    messages = AudienceMessages(space, activation, nodes)
    parts = []
    for path, node in nodes.items():
        rows = matched[path]
        slug = node.relationship.slug
        names = sum(len(name) + len(slug) + 2 for name in entities[path].columns.values())
        inside = sum(len(child.relationship.slug) for child in messages.children.get(path, ()))
        fixed = _ESCAPED * (names + len(slug) + len(node.entity.slug) + inside)
        fixed += _PUNCTUATION * (len(entities[path].columns) + len(messages.children.get(path, ())) + 3)
        # The key of a row that is gone is said as the context has it.
        width = rows["entity_id"].length() * _ESCAPED + ibis.literal(fixed, "int64")
        columns = [column for column in entities[path].columns if column != "n0"]
        if columns:
            values = entities[path].rows
            wide = _sum_of_widths(values[column] for column in columns)
            if wide is None:
                return None
            wide_rows = values.select(cdp_key="_key", wide=wide)
            rows = rows.mutate(width=width)
            rows = rows.left_join(wide_rows, rows["entity_id"] == wide_rows["cdp_key"]).drop("cdp_key")
            per = rows.select(KEY, width=rows["width"] + ibis.coalesce(rows["wide"], 8 * len(columns)))
        else:
            per = rows.select(KEY, width=width)
        parts.append(_repeated(per, node, nodes, matched))
    if not parts:
        return None
    every = reduce(lambda left, right: left.union(right), [part.select(KEY, width=part["width"].cast("int64")) for part in parts])
    return every.group_by(KEY).agg(width=every["width"].sum().cast("int64"))


def _repeated(rows: ir.Table, node: Node, nodes: Mapping[str, Node], matched: Mapping[str, ir.Table]) -> ir.Table:
    """A row below an entity that a member has below several others is said below each of them."""
    above = node.parent
    while above is not None and nodes[above].parent is not None:
        held = matched[above]
        times = held.group_by(cdp_of=held[KEY]).agg(times=held.count() - held["entity_id"].nunique() + 1)
        rows = rows.left_join(times, rows[KEY] == times["cdp_of"])
        rows = rows.select(KEY, "width", "times")
        rows = rows.select(KEY, width=rows["width"] * ibis.coalesce(rows["times"], 1))
        above = nodes[above].parent
    return rows


def _sum_of_widths(values: Iterable[ir.Value]) -> ir.IntegerValue | None:
    widths = [_width(value) for value in values]
    known = [width for width in widths if width is not None]
    return reduce(lambda left, right: left + right, known) if len(known) == len(widths) else None


def _width(value: ir.Value) -> ir.IntegerValue | None:
    """The most bytes of JSON that values take."""
    kind = value.type()
    if kind.is_string():
        return ibis.coalesce(value.length() * _ESCAPED + 2, 4)
    known = (size for name, size in _WIDEST.items() if getattr(kind, f"is_{name}")())
    size = next(known, None)
    return None if size is None else ibis.literal(size, "int64")


# -- from a batch to rows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """A column in every row: its values, and as JSON, None where the message lacks it; ``textual``: bytes of the longest, of texts only."""

    values: list[Any]
    written: list[str | None]
    textual: int | None


class AudienceMapper:
    """Maps and judges batches of an audience's units."""

    def __init__(self, activation: Activation, target: Target, columns: AudienceColumns) -> None:
        self.activation, self.target = activation, target
        self.fields, self.identifiers = columns.fields, columns.identifiers

    def map(self, batch: pa.RecordBatch) -> MappedBatch | None:
        """The batch's rows, or None where a whole number is beyond 64 bits: such a row is written in another way."""
        rows = len(batch)
        try:
            plain = [source for field in self.fields.sources.values() for source in _sources(field)]
            found = {source: _read(batch, source) for source in {*plain, *map(Source, self.identifiers)}}
            read = {name: self._column(field, found, rows) for name, field in self.fields.sources.items()}
        except (TypeError, MappingError):
            return None
        known = {kind: found[Source(column)] for column, kind in self.identifiers.items()}
        values: dict[str, list[Any]] = {name: column.values for name, column in read.items()}
        values |= {name: [value] * rows for name, value in self.fields.constants.items()}
        written: dict[str, Sequence[str | None] | str] = {name: column.written for name, column in read.items()}
        enter, leave = (
            {name: as_json(value) for name, value in said.items()} for said in (self.fields.constants, self.fields.exit_constants)
        )
        key_field = self.target.key_field
        keys = [value if type(value) is str and value else key_text(value) for value in values.get(key_field, [None] * rows)]
        verdicts, details = self._refused(batch, known), [""] * rows
        textual = {name: column.textual for name, column in read.items() if column.textual is not None}
        judge(self.target, values, written | enter, textual, keys, verdicts, details)
        payloads = objects(written | enter, rows)
        exits = payloads if enter == leave else objects(written | leave, rows)
        flag = {self.target.flag_field: "false"} if self.target.flag_field else {}
        retracts = objects({key_field: (written | enter).get(key_field, "null"), **flag}, rows)
        said = objects({kind: column.written for kind, column in known.items()}, rows)
        kept = [mapped != "{}" and verdict not in CONTENT_FREE for mapped, verdict in zip(payloads, verdicts, strict=True)]
        made: dict[str, list[Any]] = {
            "unit": self.units_of(batch),
            "canonical_segment_id": batch.column(KEY).to_pylist(),
            "destination_key": keys,
            "payload": _where(kept, payloads),
            "exit_payload": _where(kept, exits),
            "retract_payload": _where([key is not None for key in keys], retracts),
            "identifiers": _where(kept, said),
            "verdict": verdicts,
            "detail": details,
        }
        path = self.activation.trigger.path
        if path is not None:
            made |= {"path": [path] * rows, "entity_id": batch.column("unit_entity").to_pylist()}
        return MappedBatch(pa.table({name: pa.array(found, pa.string()) for name, found in made.items()}), verdicts, details)

    @staticmethod
    def _column(field: Source | MadeSource, found: Mapping[Source, _Column], rows: int) -> _Column:
        if isinstance(field, Source):
            return found[field]
        inputs = [(found[source].values, found[source].written) for source in field.sources]
        return _Column(*field.made.column(inputs, rows), None)

    def units_of(self, batch: pa.RecordBatch) -> list[str]:
        people, entities = (batch.column(name).to_pylist() for name in (KEY, "unit_entity"))
        return [unit_of(person, self.activation.trigger.path, entity) for person, entity in zip(people, entities, strict=True)]

    def _refused(self, batch: pa.RecordBatch, known: Mapping[str, _Column]) -> list[str]:
        """The verdict of each unit that may not be sent, '' of others."""
        addressed = known[self.activation.identifier].values
        standing = zip(*(batch.column(name).to_pylist() for name in ("suppressed", "consents")), addressed, strict=True)
        return [
            refusal(bool(suppressed), bool(consents)) or ("no_identifier" if address is None else "")
            for suppressed, consents, address in standing
        ]


def _sources(field: Source | MadeSource) -> Sequence[Source]:
    return [field] if isinstance(field, Source) else field.sources


def _where(conditions: Sequence[bool], texts: Sequence[str]) -> list[str | None]:
    return [found if kept else None for kept, found in zip(conditions, texts, strict=True)]


def _read(batch: pa.RecordBatch, source: Source) -> _Column:
    """A field's values. Raises TypeError for a number beyond 64 bits."""
    array = batch.column(source.column)
    if source.read == "plain":
        values = values_of(array)
        written: list[str | None] = list(written_of(array, values))
    else:
        values = [None if v is None else v == "true" if source.read == "boolean" else json.loads(v) for v in array.to_pylist()]
        written = [as_json(value) for value in values]
    textual = longest(array) if pa.types.is_string(array.type) and source.read == "plain" else None
    if source.otherwise is not None:
        other = _read(batch, source.otherwise)
        if array.null_count:
            missing = array.is_null().to_pylist()
            values = [b if gone else a for a, b, gone in zip(values, other.values, missing, strict=True)]
            written = [b if gone else a for a, b, gone in zip(written, other.written, missing, strict=True)]
            textual = None if textual is None or other.textual is None else max(textual, other.textual)
        return _Column(values, written, textual)
    there = array if source.there is None else batch.column(source.there)
    if there.null_count:
        written = [None if gone else text for text, gone in zip(written, there.is_null().to_pylist(), strict=True)]
    return _Column(values, written, textual)
