"""Damaged graph files are read or refused with a place: never another error, never a silent loss."""

from __future__ import annotations

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.data_graph.hcl import parse_graph
from cdp_assets.data_graph.model import MAX_DEPTH
from cdp_assets.data_graph.printing import print_graph
from tests.data_graph.graphs import CREDIT_CARD, MINI, SEED, V1

# Small ones, for each is parsed some thousand times; together they have every construct of both versions.
ENTITY_A = 'entity "a" {\n name = "A"\n table_ref = "d.s.a"\n primary_key = "id"\n}\n'
ENTITY_B = 'entity "b" {\n name = "B"\n table_ref = "d.s.b"\n primary_key = "id"\n enrichment_enabled = true\n}\n'
BY_ID = 'external_id {\n type = "email"\n join_key = "mail"\n}\n'
BY_TRAIT = 'trait {\n name = "t"\n join_key = "k"\n}\n'
PROFILE = 'profile {\n profile_folder = "d.p"\n type = "segment:materialized"\n'
ROOT = 'relationship "r" {\n name = "R"\n related_entity = "a"\n'
CHILD = 'relationship "c" {\n name = "C"\n related_entity = "b"\n'
JUNCTION = 'junction_table {\n table_ref = "d.s.j"\n primary_key = "id"\n left_join_on = "a.id = a_id"\n right_join_on = "b_id = b.id"\n}\n'
HEAD = 'data_graph {\n version = "v1.0.0"\n'
EARLY = 'data_graph {\n version = "v0.0.4"\n profile {\n  profile_folder = "p"\n  type = segment\n  relationship: "The A" {\n'
SMALL = (
    f"{HEAD}# a comment\n{ENTITY_A}}}\n",
    f"{HEAD}{ENTITY_A}{PROFILE}{ROOT}{BY_ID}}}\n}}\n}}\n",
    f"{HEAD}{PROFILE}{ROOT}{BY_TRAIT}}}\n}}\n{ENTITY_A}}}\n",
    f'{HEAD}{ENTITY_A}{ENTITY_B}{PROFILE}{ROOT}{BY_ID}{CHILD} join_on = "a.id = b.a_id"\n}}\n}}\n}}\n}}\n',
    f"{HEAD}{ENTITY_A}{ENTITY_B}{PROFILE}{ROOT}{BY_ID}{CHILD}{JUNCTION}}}\n}}\n}}\n}}\n",
    f'{EARLY}   related_entity = "A"\n{BY_ID}}}\n}}\n entity "a" {{\n  table_ref = "s.a"\n  primary_key = "id"\n }}\n}}\n',
)
LARGE = (V1, MINI, SEED % CREDIT_CARD)
CHARACTERS = '{}"=:#\\$%[](),.\n\t \x00é\u2028' + "ab1-_/*<'"
WORDS = (
    "entity",
    "relationship",
    "profile",
    "trait",
    "join_on",
    "true",
    "null",
    '""',
    "{",
    "}",
    "=",
    "<<E",
    "${x}",
    "1.5",
    "[1]",
    "/*",
)
TOKEN = re.compile(r'"[^"\n]*"|\w+|\s+|.', re.DOTALL)


def mutated(text: str, chance: random.Random) -> str:
    """One edit of a character, a token or a line: dropped, doubled, moved, replaced, or the end cut off."""
    level = chance.choice(("character", "token", "line"))
    if level == "character":
        parts: list[str] = list(text)
        fresh = chance.choice(CHARACTERS)
    elif level == "token":
        parts = TOKEN.findall(text)
        fresh = chance.choice(WORDS)
    else:
        parts = text.splitlines(keepends=True)
        fresh = chance.choice(parts or [""])
    if not parts:
        return fresh
    at, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    match chance.choice(("drop", "double", "swap", "replace", "insert", "cut")):
        case "drop":
            del parts[at]
        case "double":
            parts.insert(other, parts[at])
        case "swap":
            parts[at], parts[other] = parts[other], parts[at]
        case "replace":
            parts[at] = fresh
        case "insert":
            parts.insert(at, fresh)
        case "cut":
            del parts[at:]
    return "".join(parts)


def read_or_refuse(text: str) -> bool:
    """Whether the text is a graph. Everything that must hold of either answer is asserted."""
    graph, problems = parse_graph(text)
    for problem in problems:
        assert 1 <= problem.line <= text.count("\n") + 1, (text, problem)
        assert problem.message, text
        assert problem.remedy, text
    assert (graph is None) == any(problem.level == "error" for problem in problems), text
    if graph is None:
        return False
    for node in graph.nodes():  # every reference leads somewhere
        assert node.entity.slug == node.relationship.entity
        assert node.path.count(":") + 2 <= MAX_DEPTH
    return True


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_ten_thousand_damaged_graphs_are_read_or_refused_with_a_place(seed: int) -> None:
    chance = random.Random(seed)
    read = 0
    for number in range(500):
        text = chance.choice(LARGE) if number % 100 == 0 else chance.choices(SMALL, (5, 3, 3, 1, 1, 2))[0]
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            text = mutated(text, chance)
        read += read_or_refuse(text)
    assert 0 < read < 500  # some edits leave a graph, most do not


def test_the_undamaged_texts_are_graphs_and_survive_the_printer() -> None:
    for text in (*SMALL, *LARGE):
        graph, _ = parse_graph(text)
        assert graph is not None
        again, problems = parse_graph(print_graph(graph))
        assert problems == ()
        assert again is not None
        assert (again.entities, again.relationships) == (graph.entities, graph.relationships)
