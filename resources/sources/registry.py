"""Types of sources and where their readers are. A new source is one entry here; its twin is resources.sandbox.TYPE."""

from __future__ import annotations

import importlib
from typing import Final

from resources.destinations import Connection, DestinationConfigError
from resources.sources import Reader

# type -> module with open_reader(Connection) -> Reader
READERS: Final = {
    "kinesis": "resources.sources.kinesis",
    "satismeter": "resources.sources.satismeter",
}


def open_reader(kind: str, connection: Connection) -> Reader:
    """A reader bound to an account. Raises :class:`DestinationConfigError` for an unknown type or settings that cannot work."""
    if kind not in READERS:
        raise DestinationConfigError(f"unknown source type {kind!r}; known: {', '.join(sorted(READERS))}")
    return importlib.import_module(READERS[kind]).open_reader(connection)
