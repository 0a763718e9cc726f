"""The recorded vectors of the original subscription language, read from the conformance folder beside the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cdp_assets.space.fql import FqlError, generate_subscription, matches, parse_subscription

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(os.environ.get("CDP_CONFORMANCE") or ROOT / "../shared/conformance").resolve()
FILE = FOLDER / "fql.jsonl"
COUNT = 238
# Vectors whose recorded answer is unsafe: refused here, as docs/deviations.md says.
DEVIATIONS = {"fql-parse-005": "a condition that breaks off is read as a comparison with the text 'eos'"}


class Missing:
    """JavaScript's undefined."""


def decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if value == {"$undefined": True}:
            return Missing
        if "$error" in value:
            return FqlError(value["$error"]["message"], "")
        return {key: decoded(item) for key, item in value.items()}
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


def answer(vector: dict[str, Any]) -> Any:
    if vector["op"] == "match":
        return matches(decoded(vector["ast"]), decoded(vector["event"]))
    if vector["op"] == "parse":
        return parse_subscription(vector["fql"])
    return generate_subscription(decoded(vector["ast"]))


def agrees(vector: dict[str, Any]) -> bool:
    try:
        given = answer(vector)
    except FqlError as error:
        # The texts of a TypeError are the JavaScript engine's own.
        return "error" in vector and (vector["error_name"] == "TypeError" or vector["error"] in str(error))
    return "output" in vector and given == vector["output"]


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["id"])
def test_a_vector_gives_what_the_original_gave(vector: dict[str, Any]) -> None:
    if vector["id"] in DEVIATIONS:
        with pytest.raises(FqlError) as caught:
            answer(vector)
        assert caught.value.cause
        assert caught.value.remedy
        assert caught.value.position
    else:
        assert agrees(vector)


def test_exactly_the_listed_vectors_deviate_and_the_documentation_says_so() -> None:
    assert {vector["id"] for vector in vectors() if not agrees(vector)} == (set(DEVIATIONS) if vectors() else set())
    documented = (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8")
    assert all(f"`{identifier}`" in documented for identifier in DEVIATIONS)
