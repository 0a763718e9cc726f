"""A space folder as everything outside the rooms reads it, without Dagster, whose import costs a command half a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cdp_assets.activation_payloads.consent import lineage_problems
from cdp_assets.activation_payloads.mapping_kit import validate_mapping
from cdp_assets.space.confirmed import ConfirmedChange
from cdp_assets.space.documents import read_text, read_yaml
from cdp_assets.space.home import Home
from cdp_assets.space.load import SPACE_FILE, Draft, load_space
from cdp_assets.space.space import Problem, Space, SpaceError
from resources.destinations import DestinationConfigError
from resources.destinations.registry import capabilities
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
    problems += _unfit_destinations(space)
    if problems:
        raise SpaceError(tuple(sorted(problems)))
    return space


def _unfit_destinations(space: Space) -> list[Problem]:
    """Destinations that an activation uses and whose type is unknown, or whose settings cannot work."""
    found = {}
    for activation in space.activations.values():
        config = space.config.destinations[activation.destination]
        try:
            capabilities(config.type, activation.action, config.settings)
        except DestinationConfigError as error:
            text, _ = read_text(space.directory / SPACE_FILE, SPACE_FILE)
            document, _ = read_yaml(text or "", SPACE_FILE)
            line = document.line("destinations", activation.destination) if document is not None else 1
            said = f"destination '{activation.destination}': {error}"
            found[activation.destination] = Problem(SPACE_FILE, line, said, "correct its type or settings")
    return list(found.values())


def landing_folder(space: Space, home: Home) -> Path:
    """Where the space's landing files lie: the folder that space.yaml names, else ``landing/`` in its home."""
    if space.config.landing:
        return space.path(expand(space.config.landing))
    return home.landing(space.name)
