"""The JSON Schemas in the documentation are those of the models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_assets.space.schemas import json_schemas

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize("kind", sorted(json_schemas()))
def test_the_written_schema_is_current(kind: str) -> None:
    written = (FOLDER / f"{kind}.json").read_text(encoding="utf-8")
    assert written == json.dumps(json_schemas()[kind], indent=2) + "\n", "run `cdp schema`"


def test_no_schema_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(json_schemas())


def test_the_front_matter_of_a_model_has_no_key_and_no_query() -> None:
    schema = json_schemas()["model"]
    assert not {"key", "query"} & set(schema["properties"])
    assert schema["required"] == ["name", "primary_key"]
