"""The Dagster resource of a space: which folder, which home, and how to open its warehouse.

Asset bodies read the space from disk through it, so that an edit takes effect in the next run without a reload.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from pydantic import Field

from cdp_assets.space.home import Home
from cdp_assets.space.space import Space
from resources.space_folder import landing_folder, load
from resources.warehouse import Warehouse
from resources.warehouse.open import open_warehouse
from resources.warehouse.resting import LINGER

__all__ = ["SpaceResource", "landing_folder", "load"]


class SpaceResource(dg.ConfigurableResource):
    """A space folder and its home."""

    directory: str = Field(description="The space folder.")
    home: str = Field(description="The home that holds the space's state.")

    def load(self) -> Space:
        """The space as it is on disk now. Raises SpaceError with every located problem."""
        return load(Path(self.directory))

    def paths(self) -> Home:
        return Home.of(self.home)

    def open(self, space: Space, *, wait: float = 600.0, on_wait: Callable[[str], None] | None = None) -> Warehouse:
        """The open warehouse; use as a context manager. Waits for a DuckDB file that another process holds."""
        return open_warehouse(space, self.paths(), wait=wait, on_wait=on_wait, connect=_through_dagster, linger=LINGER)

    def landing(self, space: Space) -> Path:
        return landing_folder(space, self.paths())


@contextlib.contextmanager
def _through_dagster(path: str, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    config = {"access_mode": "read_only"} if read_only else {}
    # The resource retries a lock by itself, silently. This one fails at once, so that whoever opens can say that they wait; and it
    # has the file open already when the resource opens it, with the configuration that it uses.
    first = duckdb.connect(path, config={"custom_user_agent": "dagster", **config})
    with contextlib.closing(first), DuckDBResource(database=path, connection_config=config).get_connection() as connection:
        first.close()
        yield connection
