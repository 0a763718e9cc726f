"""A stored message as the document that FQL reads, for every room that meets messages as rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

# Field of a message -> its column. Fields that the messages table does not keep are null to FQL.
COLUMNS: Final = {
    "type": "type",
    "event": "event",
    "name": "name",
    "category": "category",
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
    "previousId": "previous_id",
    "messageId": "message_id",
    "timestamp": "timestamp",
    "originalTimestamp": "original_timestamp",
    "sentAt": "sent_at",
    "receivedAt": "received_at",
    "properties": "properties",
    "traits": "traits",
    "context": "context",
    "integrations": "integrations",
}
_JSON: Final = frozenset({"properties", "traits", "context", "integrations"})


class RowDocument(Mapping[str, Any]):
    """A row as a message document."""

    def __init__(self, row: dict[str, Any]) -> None:
        self._row = row
        self._parsed: dict[str, Any] = {}

    def __getitem__(self, field: str) -> Any:
        if field not in _JSON:
            return self._scalar(field)
        if field not in self._parsed:
            text = self._row[field]
            self._parsed[field] = None if text is None else orjson.loads(text)
        return self._parsed[field]

    def _scalar(self, field: str) -> Any:
        if field == "event" and self._row["type"] != "track":
            # The table names pages and screens "… Viewed"; their messages have no event.
            return None
        value = self._row[COLUMNS[field]]
        return f"{value.isoformat(timespec='milliseconds')}Z" if isinstance(value, dt.datetime) else value

    def __iter__(self) -> Iterator[str]:
        return (field for field, column in COLUMNS.items() if column in self._row)

    def __len__(self) -> int:
        return sum(1 for _ in self)
