"""The recorded vectors of the original mapping-kit, read from the conformance folder beside the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cdp_assets.activation_payloads.mapping_kit import UNDEFINED, MappingError, map_line, transform, validate_mapping

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CDP_CONFORMANCE") or ROOT / "../shared/conformance").resolve()
FILE = FOLDER / "mapping_kit.jsonl"
COUNT = 184
# No vector deviates; what does is unsafe upstream, has no vector, and is in docs/deviations.md and test_mapping_kit.py.
DEVIATIONS: dict[str, str] = {}


def decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return UNDEFINED if value == {"$undefined": True} else {key: decoded(item) for key, item in value.items()}
    return [decoded(item) for item in value] if isinstance(value, list) else value


def vectors() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()] if FILE.exists() else []


def test_all_recorded_vectors_are_there() -> None:
    if not FILE.exists():
        message = f"conformance vectors are not at {FOLDER}: set CDP_CONFORMANCE to their folder"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    assert len(vectors()) == COUNT


def answer(vector: dict[str, Any]) -> dict[str, Any]:
    if vector["op"] == "validate":
        errors = validate_mapping(decoded(vector["mapping"]))
        return {"error": "\n".join(errors)} if errors else {"output": None}
    try:
        return {"output": transform(decoded(vector["mapping"]), decoded(vector["payload"]))}
    except MappingError as error:
        return {"error": str(error)}


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["id"])
def test_a_vector_gives_what_the_original_gave(vector: dict[str, Any]) -> None:
    if vector["id"] in DEVIATIONS:
        pytest.skip(DEVIATIONS[vector["id"]])
    expected = {"error": vector["error"]} if "error" in vector else {"output": decoded(vector["output"])}
    if vector["op"] == "validate" and "output" in expected:
        expected = {"output": None}
    assert answer(vector) == expected


@pytest.mark.parametrize("vector", [v for v in vectors() if v["op"] == "transform"], ids=lambda vector: vector["id"])
def test_the_command_line_function_gives_the_same(vector: dict[str, Any]) -> None:
    given = json.loads(map_line(json.dumps({"mapping": vector["mapping"], "payload": vector["payload"]})))
    if "error" in vector:
        assert given == {"error": vector["error"]}
    else:
        expected = vector["output"]
        assert given == {"output": None if expected == {"$undefined": True} else expected}
