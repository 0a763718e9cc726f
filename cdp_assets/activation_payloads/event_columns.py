"""Raw events by a mapping of paths and constants, many at a time: what ``UnitMapper`` makes of each, at a fraction of its cost.

What belongs here: mappings whose fields are each what the message says at a path, the same for every message, or made of such by a
directive. All others, and the few lots that :meth:`EventMapper.map` refuses, go one event at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

import orjson
import pyarrow as pa

from cdp_assets.activation_payloads.column_mapping import (
    Made,
    MappedBatch,
    as_json,
    constant_of,
    judge,
    key_text,
    made_of,
    objects,
    path_of,
)
from cdp_assets.activation_payloads.mapping_kit import UNDEFINED, MappingError
from cdp_assets.activation_payloads.mapping_kit.paths import get
from cdp_assets.activation_payloads.rules import Target
from cdp_assets.activation_payloads.unit_payload import CONTENT_FREE, Unit, too_large
from cdp_assets.space.models.activations import Activation

Column = tuple[list[Any], list[str | None]]
"""A value for each event, and the same as JSON; None: the message lacks it."""


@dataclass(frozen=True)
class _Fields:
    """A mapping's fields: the path that each is read at, its value in every payload, or how it is made."""

    paths: Mapping[str, str]
    constants: Mapping[str, Any]
    made: Mapping[str, Made]


def _fields_of(mapping: Mapping[str, Any]) -> _Fields | None:
    """The fields of a mapping, or None where one is none of them."""
    if any(name.startswith(("@", "__segment")) for name in mapping):
        return None
    paths: dict[str, str] = {}
    constants: dict[str, Any] = {}
    made: dict[str, Made] = {}
    for name, value in mapping.items():
        path = path_of(value)
        if path:
            paths[name] = ".".join(path)
            continue
        try:
            found = constant_of(value)
        except (MappingError, TypeError):
            return None
        if found is not None:
            constants |= {} if found[0] is UNDEFINED else {name: found[0]}
            continue
        how = made_of(value, lambda _path: (False, UNDEFINED))
        if how is None or not all(how.reads):
            return None
        made[name] = how
    return _Fields(paths, constants, made)


class EventMapper:
    """Maps and judges the events of a stream."""

    def __init__(self, activation: Activation, target: Target) -> None:
        self.target = target
        self.fields = _fields_of(activation.mapping)

    def map(self, units: Sequence[Unit]) -> MappedBatch | None:
        """The rows of ``units``, or None where the mapping or a value of these is not for columns."""
        if self.fields is None:
            return None
        rows = len(units)
        messages = [unit.message for unit in units]
        try:
            columns = {name: _read(messages, path) for name, path in self.fields.paths.items()}
            for name, how in self.fields.made.items():
                columns[name] = how.column([_read(messages, ".".join(path)) for path in how.reads], rows)
        except (TypeError, MappingError):
            return None
        values: dict[str, Sequence[Any]] = {name: found for name, (found, _) in columns.items()}
        written: dict[str, Sequence[str | None] | str] = {name: found for name, (_, found) in columns.items()}
        values |= {name: [value] * rows for name, value in self.fields.constants.items()}
        written |= {name: as_json(value) for name, value in self.fields.constants.items()}
        keys = [key_text(value) for value in values.get(self.target.key_field, [None] * rows)]
        verdicts, details = [unit.refused for unit in units], [unit.detail for unit in units]
        for place, unit in enumerate(units):
            if not verdicts[place] and (why := too_large(unit.message)):
                verdicts[place], details[place] = "too_large", why
        judge(self.target, values, written, {}, keys, verdicts, details)
        payloads = [
            None if payload == "{}" or verdict in CONTENT_FREE else payload
            for payload, verdict in zip(objects(written, rows), verdicts, strict=True)
        ]
        texts: dict[str, list[str | None]] = {
            "unit": [unit.unit for unit in units],
            "canonical_segment_id": [unit.canonical_segment_id for unit in units],
            "row_key": [unit.row_key for unit in units],
            "destination_key": keys,
            "payload": payloads,
            "identifiers": [
                None if payload is None else as_json(unit.identifiers) for payload, unit in zip(payloads, units, strict=True)
            ],
            "verdict": [*verdicts],
            "detail": [*details],
        }
        made = {name: pa.array(found, pa.string()) for name, found in texts.items()}
        made["occurred_at"] = pa.array([unit.occurred_at for unit in units], pa.timestamp("us"))
        return MappedBatch(pa.table(made), verdicts, details)


def _read(messages: Sequence[Mapping[str, Any]], path: str) -> Column:
    """What each message says at a path. Raises TypeError for a number beyond 64 bits."""
    found = [get(message, path) for message in messages]
    return [None if value is UNDEFINED else value for value in found], [_written(value) for value in found]


def _written(value: Any) -> str | None:
    if type(value) is str:
        return encode_basestring(value)
    return None if value is UNDEFINED else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
