"""The Dagster resource of a space: which folder, which home, and how to open its warehouse.

Asset bodies read the space from disk through it, so that an edit takes effect in the next run without a reload.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
from pydantic import Field

from cdp_assets.activation_payloads.mapping_kit import validate_mapping
from cdp_assets.space.home import Home
from cdp_assets.space.load import load_space
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from resources.warehouse.open import expand, open_warehouse


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
        return open_warehouse(space, self.paths(), wait=wait, on_wait=on_wait)

    def landing(self, space: Space) -> Path:
        return landing_folder(space, self.paths())


def load(directory: Path) -> Space:
    """The space in ``directory``, mappings checked as well. Raises SpaceError."""
    return load_space(directory, mapping_validator=validate_mapping)


def landing_folder(space: Space, home: Home) -> Path:
    """Where the space's landing files lie: the folder that space.yaml names, else ``landing/`` in its home."""
    if space.config.landing:
        return space.path(expand(space.config.landing))
    return home.landing(space.name)
