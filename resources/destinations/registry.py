"""Destination types and where their connectors and twins are. A new destination is one entry here.

Modules are named, not imported, so that loading definitions stays quick.
"""

from __future__ import annotations

import importlib
from typing import Final

from resources.destinations import Capabilities, Connection, Destination, DestinationConfigError

# type -> module with CAPABILITIES and connect(Connection) -> Destination; with capabilities_of(action) where its actions differ.
# The twin is resources.sandbox.TYPE.
CONNECTORS: Final = {
    "salesforce": "resources.destinations.salesforce",
    "gainsight": "resources.destinations.gainsight",
    "marketo": "resources.destinations.marketo",
    "braze": "resources.destinations.braze",
}


def _module(kind: str):
    if kind not in CONNECTORS:
        raise DestinationConfigError(f"unknown destination type {kind!r}; known: {', '.join(sorted(CONNECTORS))}")
    return importlib.import_module(CONNECTORS[kind])


def capabilities(kind: str, action: str | None = None) -> Capabilities:
    """What a destination type, or one of its actions, can do. Raises :class:`DestinationConfigError` for an unknown type."""
    module = _module(kind)
    of_action = getattr(module, "capabilities_of", None)
    return of_action(action) if of_action is not None and action is not None else module.CAPABILITIES


def connect(kind: str, connection: Connection) -> Destination:
    """A connector bound to an account. Raises :class:`DestinationConfigError`."""
    return _module(kind).connect(connection)
