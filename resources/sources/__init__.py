"""Systems that are asked for their records, a page at a time, from a position on.

A reader knows no warehouse and keeps nothing: where it stands is the caller's to remember, with the records and in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class SourceError(Exception):
    """The system cannot be read now. The message says why, and holds no credentials and no data."""


@dataclass(frozen=True)
class Pulled:
    """One record. ``position``: where it stands in its shard. ``content``: its JSON object; None where it is none, then ``text``."""

    position: str
    content: Mapping[str, Any] | None
    text: str = ""


@dataclass(frozen=True)
class Page:
    """Records in order, the position after them, and whether there may be more now."""

    records: Sequence[Pulled]
    position: str
    more: bool


class Reader(Protocol):
    """Reads one stream or collection of an account."""

    def shards(self) -> list[str]:
        """The parts that are read each by itself, in order."""
        ...

    def read(self, shard: str, position: str | None, limit: int) -> Page:
        """At most ``limit`` records after ``position`` (None: from the beginning). Raises :class:`SourceError`."""
        ...

    def close(self) -> None: ...
