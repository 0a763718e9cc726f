"""The pages of the destinations are those of the connectors, and say what a person who sets one up has to know."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from cdp_assets.destination_docs import destination_pages
from resources.destinations.registry import CONNECTORS, capabilities

FOLDER = Path(__file__).parents[1] / "docs" / "destinations"


@pytest.mark.parametrize("kind", sorted(CONNECTORS))
def test_the_written_page_is_current(kind: str) -> None:
    assert (FOLDER / f"{kind}.md").read_text(encoding="utf-8") == destination_pages()[kind], "run `cdp docs`"


def test_no_page_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(CONNECTORS)


@pytest.mark.parametrize("kind", sorted(CONNECTORS))
def test_a_page_names_every_credential_action_and_field(kind: str) -> None:
    page = destination_pages()[kind]
    source = Path(str(importlib.import_module(CONNECTORS[kind]).__file__)).read_text()
    asked = re.findall(r"wire\.credentials\((?:connection|self\._connection), ([^)]*)\)", source)
    asked += re.findall(r"wanted = (.*)", source)
    names = {name for text in asked for name in re.findall(r"[\"'](\w+)[\"']", text)} - {"jwt"}
    assert names or kind == "delta"  # passes on whatever the object store asks for
    assert [name for name in names if name not in page] == []
    found = capabilities(kind)
    assert [action for action in found.actions if f"## Action `{action}`" not in page] == []
    assert [name for rules in found.fields.values() for name in rules if name != "*" and f"| `{name}` |" not in page] == []
    assert "Evidence tags" not in page
