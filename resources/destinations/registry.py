"""Destination types and where their connectors and twins are. A new destination is one entry here.

Modules are named, not imported, so that loading definitions stays quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from resources.destinations import Capabilities, Connection, Destination, DestinationConfigError

# type -> module with CAPABILITIES and connect(Connection) -> Destination; capabilities_of(action, settings)
# where actions or connections differ.
# The twin is resources.sandbox.TYPE.
CONNECTORS: Final = {
    "salesforce": "resources.destinations.salesforce",
    "gainsight": "resources.destinations.gainsight",
    "marketo": "resources.destinations.marketo",
    "braze": "resources.destinations.braze",
    "kinesis": "resources.destinations.kinesis",
    "http": "resources.destinations.http_api",
    "facebook": "resources.destinations.facebook",
    "linkedin": "resources.destinations.linkedin",
    "optimizely": "resources.destinations.optimizely",
    "google_analytics": "resources.destinations.google_analytics",
    "delta": "resources.destinations.delta",
}
# Types that write files: in sandbox mode into the home, and there is no twin.
FILES: Final = frozenset({"delta"})


def _module(kind: str):
    if kind not in CONNECTORS:
        raise DestinationConfigError(f"unknown destination type {kind!r}; known: {', '.join(sorted(CONNECTORS))}")
    return importlib.import_module(CONNECTORS[kind])


def capabilities(kind: str, action: str | None = None, settings: Mapping[str, Any] | None = None) -> Capabilities:
    """What a destination type can do; with ``action``, what that action of a connection with ``settings`` can.

    Raises :class:`DestinationConfigError` for an unknown type, and for settings that cannot work.
    """
    module = _module(kind)
    of_action = getattr(module, "capabilities_of", None)
    return of_action(action, settings or {}) if of_action is not None and action is not None else module.CAPABILITIES


def connect(kind: str, connection: Connection) -> Destination:
    """A connector bound to an account. Raises :class:`DestinationConfigError`."""
    return _module(kind).connect(connection)
