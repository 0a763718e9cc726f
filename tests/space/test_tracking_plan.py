"""Reading ``tracking_plan.json``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdp_assets.space.documents import read_json
from cdp_assets.space.tracking_plan import read_plan

PLAN = {"id": "tp_1", "name": "Plan", "type": "LIVE"}
RULE = {"type": "TRACK", "key": "Order Completed", "version": 1, "jsonSchema": {"required": ["properties"]}}


def read(document: Any) -> tuple[Any, list[str]]:
    plan, problems = read_plan(json.dumps(document, indent=1), "tracking_plan.json")
    return plan, [str(problem) for problem in problems]


def test_the_answer_of_the_api_is_read_as_the_plan_itself() -> None:
    plain, _ = read({**PLAN, "rules": [RULE]})
    wrapped, problems = read({"data": {"trackingPlan": PLAN, "rules": [RULE], "pagination": {"current": "a"}}})
    assert problems == [] and wrapped == plain and len(plain.rules) == 1


def test_one_page_of_several_is_not_the_plan() -> None:
    plan, problems = read({"data": {"trackingPlan": PLAN, "rules": [RULE], "pagination": {"current": "a", "next": "b"}}})
    assert plan is None
    assert problems == ["tracking_plan.json:20: these are not all rules of the plan (fetch the pages that follow)"]


def test_misspelt_keys_and_types_name_their_line() -> None:
    _, problems = read({**PLAN, "rules": [{**RULE, "type": "TRAK", "jsonschema": {}}]})
    assert problems == [
        "tracking_plan.json:7: 'type' has an unknown value (did you mean 'TRACK'?)",
        "tracking_plan.json:15: unknown key 'jsonschema' (did you mean 'jsonSchema'?)",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,\n "b": {"c": 1,\n  "c": 2}}', "f:3: 'c' is given twice, first on line 2 (keep one of them)"),
        (
            '{"a": [1,\n]}',
            "f:2: this is not JSON: illegal trailing comma before end of array (check commas, quotes and brackets here)",
        ),
        ("[1]", "f:1: the file does not hold a JSON object (write { … })"),
        ("[" * 200_000, "f:1: values are nested too deeply (write fewer levels)"),
    ],
)
def test_text_that_is_no_json_object_says_where(text: str, said: str) -> None:
    found = str(read_json(text, "f")[1][0])
    assert found.split(":")[:2] == said.split(":")[:2]


def test_every_key_and_item_knows_its_line() -> None:
    document, _ = read_json('{\n "a": [\n  {"x": "]{,:",\n   "y": [1,\n 2]}\n ], "b\\n": {}\n}', "f")
    assert document is not None
    assert {place: line for place, line in document.lines.items() if place} == {
        ("a",): 2,
        ("a", 0): 3,
        ("a", 0, "x"): 3,
        ("a", 0, "y"): 4,
        ("a", 0, "y", 0): 4,
        ("a", 0, "y", 1): 5,
        ("b\n",): 6,
    }
