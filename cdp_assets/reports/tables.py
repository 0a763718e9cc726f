"""Tables of the reports room."""

from __future__ import annotations

from cdp_assets.space.builds import builds_spec
from resources.warehouse import TableRef

SCHEMA = "reports"
BUILDS = builds_spec(SCHEMA)
TABLES = (BUILDS,)


def report_ref(key: str) -> TableRef:
    """The table of a report: the columns of its query, one row per primary key."""
    return TableRef(SCHEMA, key)
