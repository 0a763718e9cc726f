"""The Dagster resource of a space: which folder, which home, and how to open its warehouse.

Asset bodies read the space from disk through it, so that an edit takes effect in the next run without a reload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from cdp_assets.activation_payloads.consent import lineage_problems
from cdp_assets.activation_payloads.mapping_kit import validate_mapping
from cdp_assets.space.confirmed import ConfirmedChange
from cdp_assets.space.home import Home
from cdp_assets.space.load import load_space
from cdp_assets.space.space import Problem, Space, SpaceError
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


def load(directory: Path, *, judged: Sequence[ConfirmedChange] = ()) -> Space:
    """The space in ``directory``; mappings, and what activations say of consent, checked as well. Raises SpaceError.

    ``judged``: as of ``load_space``.
    """
    space = load_space(directory, mapping_validator=validate_mapping, judged=judged)
    problems = [
        Problem(f"activations/{key}.yaml", 1, text, "map no such column, or name whose consent the rows need")
        for key, activation in space.activations.items()
        for text in lineage_problems(space, activation)
    ]
    if problems:
        raise SpaceError(tuple(sorted(problems)))
    return space


def landing_folder(space: Space, home: Home) -> Path:
    """Where the space's landing files lie: the folder that space.yaml names, else ``landing/`` in its home."""
    if space.config.landing:
        return space.path(expand(space.config.landing))
    return home.landing(space.name)
