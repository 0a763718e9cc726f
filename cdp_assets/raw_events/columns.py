"""Names and types of the event tables' columns, in Segment's warehouse schema.

Names become snake_case, nested objects flatten with ``_``, arrays are one text; a column's type is that of its first value.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from cdp_assets.space.naming import snake_case

# Tables of all calls of one type, and the document whose keys become their columns.
TABLE_OF_TYPE = {
    "track": ("tracks", None),
    "identify": ("identifies", "traits"),
    "page": ("pages", "properties"),
    "screen": ("screens", "properties"),
    "group": ("groups", "traits"),
    "alias": ("aliases", "traits"),
}
BASE_TABLES = frozenset(table for table, _ in TABLE_OF_TYPE.values()) | {"users", "accounts"}
RESERVED = frozenset(
    {
        "id",
        "anonymous_id",
        "user_id",
        "group_id",
        "previous_id",
        "name",
        "category",
        "event",
        "event_text",
        "received_at",
        "sent_at",
        "timestamp",
        "original_timestamp",
        "uuid",
        "uuid_ts",
        "loaded_at",
        "segment_id",
        "event_source_id",
    }
)
# Names that are the message's own only in some tables; elsewhere a property may have them.
_OWN_ELSEWHERE = {
    "group_id": {"groups"},
    "previous_id": {"aliases"},
    "name": {"pages", "screens"},
    "category": {"pages", "screens"},
}
MAX_COLUMNS = 1_000
MAX_DEPTH = 16
_DATE_HEAD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")


# A table, and document and keys of a value in its messages.
Path = tuple[str, tuple[str, ...]]


class Column(NamedTuple):
    """A column of an event table: the path (document, then keys) it comes from and its type."""

    table_name: str
    column_name: str
    path: str
    column_type: str
    position: int


@lru_cache(maxsize=10_000)
def event_slug(event: str) -> str:
    """Table name of a track event. One that would be the table of a whole call type gets a leading underscore."""
    slug = snake_case(event)
    return "_" + slug if slug in BASE_TABLES else slug


def is_reserved(table: str, column: str) -> bool:
    """Whether a property of that column name is discarded, because the message's own field has the name."""
    if column in _OWN_ELSEWHERE:
        return table in _OWN_ELSEWHERE[column]
    return column in RESERVED or column.startswith("context_")


def value_type(value: Any) -> str:
    """Column type word of a JSON value that is not null."""
    if type(value) is bool:
        return "boolean"
    if type(value) is int:
        return "int64" if -(2**63) <= value < 2**63 else "float64"
    if type(value) is float:
        return "float64"
    return "timestamp" if type(value) is str and _is_instant(value) else "string"


def _is_instant(text: str) -> bool:
    if not _DATE_HEAD.match(text):
        return False
    try:
        return dt.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def new_columns(existing: Iterable[Column], files: Iterable[Mapping[Path, str]]) -> list[Column]:
    """Columns that the first values of ``files``, in order, add to the existing ones. Existing columns and their types stay as they are.

    Of several paths with one column name the first has the column; reserved names, and columns beyond ``MAX_COLUMNS`` of a
    table, are discarded.
    """
    taken: dict[str, set[str]] = {}
    for column in existing:
        taken.setdefault(column.table_name, set()).add(column.column_name)
    added = []
    for values in files:
        for (table, path), kind in values.items():
            name = _column_name(path)
            names = taken.setdefault(table, set())
            if name is None or name in names or len(names) >= MAX_COLUMNS or (path[0] != "context" and is_reserved(table, name)):
                continue
            added.append(Column(table, name, json.dumps(path, ensure_ascii=False), kind, len(names) + 1))
            names.add(name)
    return added


def _column_name(path: tuple[str, ...]) -> str | None:
    root, *keys = path
    # No engine's path syntax agrees with another's on these two characters.
    if any('"' in key or "\\" in key or not key for key in keys):
        return None
    name = snake_case("_".join(snake_case(key) for key in keys))
    return f"context_{name}" if root == "context" else name
