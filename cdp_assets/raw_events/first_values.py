"""What the columns of the event tables come from: the paths that accepted messages hold, each with the type of its first value.

Messages count as the stages left them: what a plan omits, or a transformation renames, makes no column under its old name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events.columns import MAX_DEPTH, TABLE_OF_TYPE, Path, value_type
from cdp_assets.raw_events.parsed import UNSHAPED, Parsed

_OBSERVED = ["type", "event_slug", "properties", "traits", "context"]


@dataclass
class _Branch:
    leaves: set[str] = field(default_factory=set)
    children: dict[str, _Branch] = field(default_factory=dict)


@dataclass
class FirstValues:
    """Which paths the messages of one file hold, each with the type of its first value, in the order of appearance."""

    found: dict[Path, str] = field(default_factory=dict)
    _trees: dict[str, _Branch] = field(default_factory=dict)
    _contexts: set[tuple[str, str]] = field(default_factory=set)
    _shapes: set[tuple[int, str, str | None]] = field(default_factory=set)

    def observe(self, messages: pa.Table, parsed: Parsed | None = None) -> None:
        """Take in accepted messages, in their order; all of them are of ``parsed``, if that is given.

        Of the messages of one shape that are still as they were parsed the first one is looked at for all: it has whatever they have.
        """
        if not messages.num_rows:
            return
        rows = np.arange(messages.num_rows) if parsed is None else self._unseen(messages, parsed)
        for row in messages.select(_OBSERVED).take(rows).to_pylist() if len(rows) else ():
            self._observe_message(row)

    def _unseen(self, messages: pa.Table, parsed: Parsed) -> np.ndarray:
        """The rows that may hold something new."""
        shapes = _shapes_of(messages, parsed)
        types, slugs = (messages[name].combine_chunks().dictionary_encode("encode") for name in ("type", "event_slug"))
        kinds = (shapes * len(types.dictionary) + types.indices.to_numpy()) * len(slugs.dictionary) + slugs.indices.to_numpy()
        kinds[shapes == UNSHAPED] = UNSHAPED
        unseen = np.flatnonzero(kinds == UNSHAPED).tolist()
        for kind, row in zip(*(found.tolist() for found in np.unique(kinds, return_index=True)), strict=True):
            key = (int(shapes[row]), messages["type"][row].as_py(), messages["event_slug"][row].as_py())
            if kind != UNSHAPED and key not in self._shapes:
                self._shapes.add(key)
                unseen.append(row)
        return np.sort(np.array(unseen, np.int64))

    def _observe_message(self, row: Mapping[str, Any]) -> None:
        table, root = TABLE_OF_TYPE[row["type"]]
        self._observe_context(table, row["context"])
        if row["event_slug"] is not None:
            self._observe_context(row["event_slug"], row["context"])
            table, root = row["event_slug"], "properties"
        if root is not None and row[root] is not None:
            self._observe(table, root, orjson.loads(row[root]))

    def _observe_context(self, table: str, text: str | None) -> None:
        # Most messages of a device carry the same context: look at each only once.
        if text is None or (table, text) in self._contexts:
            return
        if len(self._contexts) < 10_000:
            self._contexts.add((table, text))
        self._observe(table, "context", orjson.loads(text))

    def _observe(self, table: str, root: str, value: dict[str, Any]) -> None:
        if value:
            tree = self._trees.setdefault(table, _Branch()).children.setdefault(root, _Branch())
            self._walk(table, (root,), tree, value)

    def _walk(self, table: str, path: tuple[str, ...], branch: _Branch, value: dict[str, Any]) -> None:
        for key, item in value.items():
            if type(item) is dict and len(path) < MAX_DEPTH:
                child = branch.children.get(key)
                if child is None:
                    child = branch.children[key] = _Branch()
                self._walk(table, (*path, key), child, item)
            elif item is not None and key not in branch.leaves:
                branch.leaves.add(key)
                self.found[table, (*path, key)] = value_type(item)


def _shapes_of(messages: pa.Table, parsed: Parsed) -> np.ndarray:
    """The shapes of messages, as far as they are still as they were parsed."""
    if messages is parsed.messages:
        return parsed.shapes
    places = np.searchsorted(parsed.messages["line"].to_numpy(), messages["line"].to_numpy())
    before, shapes = parsed.messages.select(_OBSERVED).take(places), parsed.shapes[places]
    for name in _OBSERVED:
        same = pc.fill_null(pc.equal(messages[name], before[name]), False)
        both_absent = pc.and_(pc.is_null(messages[name]), pc.is_null(before[name]))
        shapes[~pc.or_(same, both_absent).to_numpy()] = UNSHAPED
    return shapes
