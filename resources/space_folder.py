"""A space folder as everything outside the rooms reads it, without Dagster, whose import costs a command half a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cdp_assets.activation_payloads.consent import lineage_problems
from cdp_assets.activation_payloads.mapping_kit import validate_mapping
from cdp_assets.space.confirmed import ConfirmedChange
from cdp_assets.space.home import Home
from cdp_assets.space.load import Draft, load_space
from cdp_assets.space.space import Problem, Space, SpaceError
from resources.warehouse.open import expand


def load(directory: Path, *, judged: Sequence[ConfirmedChange] = (), draft: Draft | None = None) -> Space:
    """The space in ``directory``; mappings, and what activations say of consent, checked as well. Raises SpaceError.

    ``judged`` and ``draft``: as of ``load_space``.
    """
    space = load_space(directory, mapping_validator=validate_mapping, judged=judged, draft=draft)
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
