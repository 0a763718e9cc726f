"""YAML as data that knows its lines, whatever the text is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.space.documents import read_yaml
from cdp_assets.space.located import validate
from cdp_assets.space.models.audiences import Audience

AUDIENCE = (Path(__file__).parents[1] / "fixtures/spaces/mini/audiences/active.yaml").read_text()
TOKENS = (
    "{",
    "}",
    "[",
    "]",
    ":",
    "- ",
    '"',
    "'",
    "\t",
    "&a",
    "*a",
    "#",
    "|",
    "null",
    "\n",
    "  ",
    "with_entity: x",
    "!t ",
    "2026-13-40",
)


def test_every_key_and_item_has_its_line() -> None:
    document, problems = read_yaml("a:\n  - b: 1\n  - {c: 2,\n     d: 3}\n", "x.yaml", first_line=10)
    assert problems == []
    assert document is not None
    assert document.data == {"a": [{"b": 1}, {"c": 2, "d": 3}]}
    assert [document.line(*path) for path in [(), ("a",), ("a", 0), ("a", 1, "c"), ("a", 1, "d"), ("a", 9)]] == [
        10,
        10,
        11,
        12,
        13,
        10,
    ]


@pytest.mark.parametrize(
    ("text", "line", "phrase"),
    [
        ("", 1, "empty"),
        ("a: 1\nb: 2\na: 3", 3, "first on line 1"),
        ("a: 'x", 1, "quote is not closed"),
        ("a: 1\n---\nb: 2", 2, "more than one"),
        ("a: *b", 1, "alias"),
        ("a: &x [*x]", 1, "contains itself"),
        ("a: !secret x", 1, "tag"),
        ("1: x", 1, "not text"),
        ("a: 2026-02-31", 1, "looks like a date"),
        ("a:\n  b: 1\n c: 2", 3, "indentation"),
        ("a: b: c", 1, "':'"),
        ("[" * 5000, 1, "deeply"),
        ("\x00", 1, "characters"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, phrase: str) -> None:
    document, problems = read_yaml(text, "x.yaml")
    assert document is None
    assert [(problem.line, phrase in problem.message) for problem in problems] == [(line, True)]


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    _, problems = read_yaml("\n".join(lines), "x.yaml")
    assert [problem.message for problem in problems] == ["the file has too many values"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(AUDIENCE)), st.integers(0, 12), st.sampled_from(["", *TOKENS])), min_size=1, max_size=4)
)
def test_a_mutilated_audience_is_read_or_located(edits: list[tuple[int, int, str]]) -> None:
    text = AUDIENCE
    for position, length, token in edits:
        text = text[:position] + token + text[position + length :]
    document, problems = read_yaml(text, "active.yaml")
    if document is not None:
        audience, problems = validate(document, Audience)
        assert (audience is None) == bool(problems)
    lines = text.count("\n") + 1
    assert all(1 <= problem.line <= lines and problem.message and problem.remedy for problem in problems)
    assert document is not None or problems
