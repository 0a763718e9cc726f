"""Destination types and where their connectors and twins are. A new destination is one entry here.

Modules are named, not imported, so that loading definitions stays quick.
"""

from __future__ import annotations

import importlib
from typing import Final

from resources.destinations import Capabilities, Connection, Destination, DestinationConfigError

# type -> module with CAPABILITIES and connect(Connection) -> Destination. The twin is resources.sandbox.TYPE.
CONNECTORS: Final = {
    "salesforce": "resources.destinations.salesforce",
    "gainsight": "resources.destinations.gainsight",
    "marketo": "resources.destinations.marketo",
}


def _module(kind: str):
    if kind not in CONNECTORS:
        raise DestinationConfigError(f"unknown destination type {kind!r}; known: {', '.join(sorted(CONNECTORS))}")
    return importlib.import_module(CONNECTORS[kind])


def capabilities(kind: str) -> Capabilities:
    """What a destination type can do. Raises :class:`DestinationConfigError` for an unknown type."""
    return _module(kind).CAPABILITIES


def connect(kind: str, connection: Connection) -> Destination:
    """A connector bound to an account. Raises :class:`DestinationConfigError`."""
    return _module(kind).connect(connection)
