"""A space folder as everything outside the rooms reads it, without Dagster, whose import costs a command half a second."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cdp_assets.activation_payloads.consent import lineage_problems
from cdp_assets.activation_payloads.mapping_kit import validate_mapping
from cdp_assets.space.confirmed import ConfirmedChange
from cdp_assets.space.documents import read_text, read_yaml
from cdp_assets.space.home import Home
from cdp_assets.space.load import FOLDERS, SPACE_FILE, Draft, load_space
from cdp_assets.space.space import Problem, Space, SpaceError
from resources.destinations import DestinationConfigError
from resources.destinations.registry import capabilities
from resources.warehouse.open import expand

# Of files with other endings loading sees the name alone.
_READ = {*FOLDERS.values(), ".yaml", ".hcl", ".json"}
# The newest reading of each folder, with the fingerprint of the bytes it was read from.
_readings: dict[Path, tuple[str, Space]] = {}


def load(directory: Path, *, judged: Sequence[ConfirmedChange] = (), draft: Draft | None = None) -> Space:
    """The space in ``directory``; mappings, and what activations say of consent, checked as well. Raises SpaceError.

    ``judged`` and ``draft``: as of ``load_space``. A folder in which no byte has changed since the process last read it is not
    read again: sensors look at it every few seconds, and every step of a run.
    """
    if judged or draft:
        return _read(directory, judged, draft)
    before = fingerprint(directory)
    known, space = _readings.get(directory, ("", None))
    if space is not None and known == before:
        return space
    space = _read(directory, judged, draft)
    if fingerprint(directory) == before:
        _readings[directory] = (before, space)
    return space


def fingerprint(directory: Path) -> str:
    """Of the names of everything that loading looks at, and of the bytes of the files; '' for a folder that is not there."""
    if not directory.is_dir():
        return ""
    digest = hashlib.sha256()
    folders = [directory, *(directory / name for name in FOLDERS if (directory / name).is_dir())]
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        content = path.read_bytes() if path.suffix in _READ and path.is_file() else b""
        digest.update(f"{path.relative_to(directory)}\0{path.is_dir()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _read(directory: Path, judged: Sequence[ConfirmedChange], draft: Draft | None) -> Space:
    space = load_space(directory, mapping_validator=validate_mapping, judged=judged, draft=draft)
    problems = [
        Problem(f"activations/{key}.yaml", 1, text, "map no such column, or name whose consent the rows need")
        for key, activation in space.activations.items()
        for text in lineage_problems(space, activation)
    ]
    problems += _unfit_destinations(space)
    if not problems:
        problems += _without_a_way_back(space)
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


def _without_a_way_back(space: Space) -> list[Problem]:
    """Activations about people whose destination takes them back by a flag, and that name none: a withdrawal would change nothing."""
    found = []
    for key, activation in space.activations.items():
        config = space.config.destinations[activation.destination]
        retract = capabilities(config.type, activation.action, config.settings).retract
        about_people = activation.consent.subject != "none" and activation.trigger.when != "occurs"
        if retract == "flag_false" and about_people and not activation.settings.get("flag_field"):
            file = f"activations/{key}.yaml"
            text, _ = read_text(space.directory / file, file)
            document, _ = read_yaml(text or "", file)
            line = document.line("settings") if document is not None else 1
            said = f"{config.type} takes people back by a flag, and settings name no flag_field: who withdraws consent would stay as they are"
            found.append(Problem(file, line, said, "name a boolean field of the destination as flag_field"))
    return found


def landing_folder(space: Space, home: Home) -> Path:
    """Where the space's landing files lie: the folder that space.yaml names, else ``landing/`` in its home."""
    if space.config.landing:
        return space.path(expand(space.config.landing))
    return home.landing(space.name)
