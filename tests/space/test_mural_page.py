"""docs/mural.md names every integration of the space, with its destination and the consent that it asks for."""

from __future__ import annotations

import re
from pathlib import Path

from resources.space import load

ROOT = Path(__file__).parents[2]


def rows() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "mural.md").read_text(encoding="utf-8")
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"`([a-z_]+/[a-z_]+)`", cells[0]):
            found[match[1]] = cells
    return found


def test_every_integration_has_its_row() -> None:
    space, written = load(ROOT / "spaces" / "mural"), rows()
    expected = {
        *(f"destination_syncs/{key}" for key in space.activations),
        *(f"pulled_sources/{key}" for key in space.config.pulled_sources),
        *(f"reports/{key}" for key, model in space.models.items() if model.report),
    }
    assert set(written) == expected


def test_destination_and_consent_are_those_of_the_activation() -> None:
    space, written = load(ROOT / "spaces" / "mural"), rows()
    for key, activation in space.activations.items():
        _, _, destination, _, consent = written[f"destination_syncs/{key}"]
        assert destination == activation.destination
        assert consent.startswith(", ".join(activation.consent.categories) or "none")
