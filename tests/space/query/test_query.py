"""The query language: what a text means, that text and conditions say the same, and that what cannot be said is refused with its place."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.space.load import load_space
from cdp_assets.space.models.audiences import Audience, AudienceCondition
from cdp_assets.space.query import MAX_COMPARISONS, QueryError, compile_query
from cdp_assets.space.query.membership import with_memberships
from cdp_assets.space.query.printer import print_query
from tests.space.query.trees import audiences, plain

MINI = Path(__file__).parents[2] / "fixtures" / "spaces" / "mini"


def read(text: str) -> Audience:
    return Audience(key="a", name="A", query=text)


def conditions(text: str) -> list[dict[str, Any]]:
    compiled = compile_query(text)
    assert compiled.match == "all" and len(compiled.groups) == 1
    return compiled.groups[0]["conditions"]


TRAITS = {
    "trait('n') = 5": {"operator": "equals", "value": 5},
    "trait('n') == 5": {"operator": "equals", "value": 5},
    "trait('n').equals(literal(5))": {"operator": "equals", "value": 5},
    'trait("n") != "it\'s"': {"operator": "differs", "value": "it's"},
    r"trait('n') = 'it\'s \\ and \n'": {"operator": "equals", "value": r"it's \ and \n"},
    "trait('n') >= -1.5e2": {"operator": "at_least", "value": -150.0},
    "trait('n').less_than(1)": {"operator": "less_than", "value": 1},
    "trait('n') = true": {"operator": "equals", "value": True},
    "trait('n').one_of('a', 'b')": {"operator": "one_of", "value": ["a", "b"]},
    "trait('n').none_of([1, 2])": {"operator": "none_of", "value": [1, 2]},
    "trait('n').contains('a')": {"operator": "contains", "value": "a"},
    "trait('n').contains('a', 'b')": {"operator": "contains", "value": ["a", "b"]},
    "trait('n').omits('a')": {"operator": "omits", "value": "a"},
    "trait('n').starts_with('a')": {"operator": "starts_with", "value": "a"},
    "trait('n').ends_with('a')": {"operator": "ends_with", "value": "a"},
    "trait('n').exists()": {"operator": "exists"},
    "trait('n').absent()": {"operator": "absent"},
    "trait('n').before_date('2026-01-01')": {"operator": "before_date", "value": "2026-01-01"},
    "trait('n').within_last(1 hour)": {"operator": "within_last", "amount": 1, "unit": "hours"},
    "trait('n').after_next(7 days)": {"operator": "after_next", "amount": 7, "unit": "days"},
}


@pytest.mark.parametrize("text", TRAITS)
def test_every_comparison_of_a_trait(text: str) -> None:
    assert conditions(text) == [{"with_trait": "n", **TRAITS[text]}]
    assert conditions(f"NOT {text}") == [{"without_trait": "n", **TRAITS[text]}]
    assert conditions(f"not (Not ({text}))") == [{"with_trait": "n", **TRAITS[text]}]


COUNTS = {
    ">= 1": {"with_event": "e"},
    "> 1": {"with_event": "e", "at_least": 2},
    "= 2": {"with_event": "e", "exactly": 2},
    "<= 2": {"with_event": "e", "at_most": 2},
    "< 2": {"with_event": "e", "at_most": 1},
    "< 1": {"without_event": "e"},
    "= 0": {"with_event": "e", "exactly": 0},
    "<= 0": {"with_event": "e", "at_most": 0},
    "!= 0": {"with_event": "e"},
}


@pytest.mark.parametrize("count", COUNTS)
def test_every_comparison_of_a_count(count: str) -> None:
    assert conditions(f"event('e').count() {count}") == [COUNTS[count]]
    filtered = conditions(f"event('e').within(7 days).where(property('p') = 1).count() {count}")
    said = {"within": {"last": 7, "unit": "days"}, "where": {"all": [{"property": "p", "operator": "equals", "value": 1}]}}
    # A quantifier of 0 takes no filters: that none passes is said by "without".
    wanted = {"without_event": "e"} if 0 in COUNTS[count].values() else COUNTS[count]
    assert filtered == [{**wanted, **said}]


@pytest.mark.parametrize(
    ("text", "opposite"),
    [
        (">= 1", [{"without_entity": "x"}]),
        (">= 3", [{"with_entity": "x", "at_most": 2}]),
        ("<= 3", [{"with_entity": "x", "at_least": 4}]),
        ("< 1", [{"with_entity": "x"}]),
        ("= 0", [{"with_entity": "x"}]),
        ("= 1", [{"without_entity": "x"}, {"with_entity": "x", "at_least": 2}]),
        ("= 3", [{"with_entity": "x", "at_most": 2}, {"with_entity": "x", "at_least": 4}]),
    ],
)
def test_the_opposite_of_a_count(text: str, opposite: list[dict[str, Any]]) -> None:
    compiled = compile_query(f"NOT entity('x').count() {text}")
    assert compiled.groups == [{"match": "any" if len(opposite) > 1 else "all", "conditions": opposite}]


def test_where_of_an_entity_filters_nests_and_refers() -> None:
    text = """
    entity('accounts').where(
        property('BALANCE') > trait('limit') AND property('a') = property('b')
        AND (entity('cards').where(property('due') >= property(parent: 'opened')).count() >= 2
             OR NOT entity('cards').count() >= 1)
    ).count() >= 1"""
    assert conditions(text) == [
        {
            "with_entity": "accounts",
            "where": {
                "all": [
                    {"column": "BALANCE", "operator": "greater_than", "reference": {"trait": "limit"}},
                    {"column": "a", "operator": "equals", "reference": {"column": "b"}},
                ]
            },
            "nested": {
                "match": "any",
                "conditions": [
                    {
                        "with_entity": "cards",
                        "at_least": 2,
                        "where": {
                            "all": [
                                {"column": "due", "operator": "at_least", "reference": {"column": "opened", "of": "accounts"}}
                            ]
                        },
                    },
                    {"without_entity": "cards"},
                ],
            },
        }
    ]


def test_not_in_where_includes_nulls() -> None:
    (said,) = conditions("entity('x').where(NOT property('a') < 1 OR NOT property('b').contains('c')).count() >= 1")
    assert said["where"] == {
        "any": [
            {"column": "a", "operator": "at_least", "value": 1},
            {"column": "a", "operator": "absent"},
            {"column": "b", "operator": "omits", "value": "c"},
        ]
    }


def test_windows_of_events_and_references_to_traits() -> None:
    (said,) = conditions(
        "event('Pay').where(property('price') >= trait('spend') OR context('page.url') = 'x').between(36 hours, 1 day).count() >= 1"
    )
    assert said == {
        "with_event": "Pay",
        "where": {
            "any": [
                {"property": "price", "operator": "at_least", "reference": {"trait": "spend"}},
                {"context": "page.url", "operator": "equals", "value": "x"},
            ]
        },
        "between": {"from": 36, "to": 24, "unit": "hours"},
    }


def test_and_binds_tighter_parentheses_are_groups_and_loose_conditions_are_one() -> None:
    a, b, c = ({"with_trait": name, "operator": "exists"} for name in "abc")
    x, y, z = (f"trait('{name}').exists()" for name in "abc")
    both = {"match": "all", "conditions": [a, b]}
    assert compile_query(f"{x} AND {y} OR {z}").groups == [both, {"match": "all", "conditions": [c]}]
    assert compile_query(f"({x} AND {y}) AND ({z})").groups == [both, {"match": "all", "conditions": [c]}]
    either = compile_query(f"{x} AND ({y} OR {z})")
    assert (either.match, either.groups[1]) == ("all", {"match": "any", "conditions": [b, c]})
    assert compile_query(f"(({x} AND (({y})) AND {z}))").groups == [
        {"match": "all", "conditions": [a, c]},
        {"match": "all", "conditions": [b]},
    ]


def truth(value: Any, holds: Callable[[Any], bool]) -> bool:
    verdicts = [holds(one) for one in value["conditions"]]
    return all(verdicts) if value["match"] == "all" else any(verdicts)


@st.composite
def formulas(draw: Any, depth: int = 4) -> tuple[str, Callable[[dict[str, bool]], bool]]:
    """(text, its truth) of a formula over four traits."""
    kind = draw(st.sampled_from(["leaf", "leaf", "not", "and", "or"])) if depth else "leaf"
    if kind == "leaf":
        name = draw(st.sampled_from("pqrs"))
        return f"trait('{name}').exists()", lambda facts: facts[name]
    if kind == "not":
        text, inner = draw(formulas(depth - 1))
        return f"NOT ({text})", lambda facts: not inner(facts)
    parts = draw(st.lists(formulas(depth - 1), min_size=2, max_size=3))
    joined = (all if kind == "and" else any, f" {kind.upper()} ".join(f"({text})" for text, _ in parts))
    return joined[1], lambda facts: joined[0]([inner(facts) for _, inner in parts])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(formula=formulas())
def test_groups_are_true_where_the_text_is(formula: tuple[str, Callable[[dict[str, bool]], bool]]) -> None:
    text, wanted = formula
    try:
        compiled = compile_query(text)
    except QueryError as error:
        assert f"more than {MAX_COMPARISONS}" in error.cause
        return
    for values in itertools.product([False, True], repeat=4):
        facts = dict(zip("pqrs", values, strict=True))

        def holds(condition: dict[str, Any], facts: dict[str, bool] = facts) -> bool:
            return facts[condition["with_trait"]] if "with_trait" in condition else not facts[condition["without_trait"]]

        verdicts = [truth(group, holds) for group in compiled.groups]
        assert (all(verdicts) if compiled.match == "all" else any(verdicts)) == wanted(facts)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(said=audiences())
def test_conditions_and_their_text_are_the_same(said: dict[str, Any]) -> None:
    audience = Audience(key="a", name="A", **said)
    again = with_memberships(read(print_query(audience)), {"other"})
    assert plain(again) == plain(audience)
    assert print_query(again) == print_query(Audience(key="a", name="A", match=again.match, groups=again.groups))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"column": "a", "operator": "equals", "reference": {"column": "b", "of": "accounts"}}, "reaches the parent only"),
        ({"property": "a", "operator": "equals", "value": "2026-01-01T00:00:00Z"}, None),
    ],
)
def test_what_the_language_cannot_say_is_refused(said: dict[str, Any], complaint: str | None) -> None:
    if "column" in said:
        leaf = {"with_entity": "payments", "where": {"all": [said]}}
        card = {"with_entity": "cards", "nested": {"conditions": [leaf]}}
        audience = Audience(
            key="a", name="A", groups=[{"conditions": [{"with_entity": "accounts", "nested": {"conditions": [card]}}]}]
        )
    else:
        audience = Audience(key="a", name="A", groups=[{"conditions": [{"with_event": "e", "where": {"all": [said]}}]}])
    if complaint is None:
        assert "'2026-01-01T00:00:00Z'" in print_query(audience)
        return
    with pytest.raises(QueryError, match=complaint):
        print_query(audience)


E = "event('e')"
REFUSED = {
    "": "the query ends where a condition should be (line 1, column 1",
    "trait('a'": "')' is missing (line 1, column 10",
    "trait('a') = 'b": "a text is not closed (line 1, column 14",
    "trait('a') = 1 trait('b')": "what follows belongs to nothing (line 1, column 16",
    "trait('a')\n AND\n  trait(b) = 1": "'(' is missing (line 3, column 10",
    "trait('a') = 1 AND": "the query ends where a condition should be (line 1, column 19",
    "trait('a') & 1": "a character that cannot stand here (line 1, column 12",
    "trait('a')": "a condition without a comparison (line 1, column 1",
    "trait('a').exists().exists()": "exists() after a comparison (line 1, column 21",
    "trait('a') = trait('b')": "a trait is compared with a trait (line 1, column 1",
    "trait('a').within_last(7)": "within_last() takes a length of time (line 1, column 12",
    "trait('a').within_last(7 weeks)": "a length of time without its unit (line 1, column 26",
    "trait('a').like('b')": "like() cannot stand here (line 1, column 12",
    "trait('a').omits('b', 'c')": "omits() takes one value (line 1, column 12",
    "trait() = 1": "trait() takes one value (line 1, column 1",
    "property('a') = 1": "property() outside of where() (line 1, column 1",
    "ANY(trait('a') = 1)": "ANY(…) is about accounts (line 1, column 1",
    f"{E}.count()": "a count without a comparison (line 1, column 12",
    f"{E}.count() >= 1.5": "a count is compared with whole numbers from 0 on (line 1, column 12",
    f"{E}.count() >= 0": "a count is always so (line 1, column 12",
    f"{E}.count() < 0": "a count is never so (line 1, column 12",
    f"{E} >= 1": "event() is not counted (line 1, column 1",
    f"{E}.sum(property('a')) > 3": "sum() is no condition of an audience here (line 1, column 12",
    f"{E}.sources(exclude: 'a').count() >= 1": "'exclude:' is not known here (line 1, column 20",
    f"{E}.sources('a').count() >= 1": "sources() is not supported in audiences (line 1, column 12",
    f"{E}.within(parent: 5 days).count() >= 1": "a window counted from another event (a funnel) (line 1, column 12",
    f"{E}.where({E}.count() >= 1).count() >= 1": "an event within an event (a funnel) (line 1, column 18",
    f"{E}.where(trait('a') = 1).count() >= 1": "a trait on the left side (line 1, column 18",
    f"{E}.where(property('a') = property('b')).count() >= 1": "property() on the right side of equals (line 1, column 34",
    f"{E}.where(NOT property('a') < 1).count() >= 1": "NOT before less_than in where() (line 1, column 22",
    f"{E}.within(1 day).between(1 day, 2 days).count() >= 1": "between() is given twice (line 1, column 26",
    "entity('x').where(property('a') = property(parent: 'b')).count() >= 1": "parent: where there is no entity above",
    "entity('x').where(property('a') = 1 AND (property('b') = 1 OR property('c') = 1)).count() >= 1": "AND and OR are mixed",
    "entity('x').where(property('a') = 1 OR entity('y').count() >= 1).count() >= 1": "properties and entities are joined by OR",
    "entity('x').within(1 day).count() >= 1": "within() cannot stand here (line 1, column 13",
    " AND ".join(["trait('a') = 1"] * 51): "more than 50 primary expressions (line 1, column 951",
    "(" * 40 + "trait('a') = 1" + ")" * 40: "nested more than 30 deep",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_query_is_refused_with_its_place_and_a_remedy(text: str) -> None:
    with pytest.raises(QueryError) as caught:
        compile_query(text)
    assert str(caught.value).startswith(REFUSED[text])
    assert caught.value.remedy


def test_fifty_primary_expressions_are_read() -> None:
    assert len(conditions(" AND ".join(["trait('a') = 1"] * 50))) == 50


def test_a_space_takes_audiences_as_queries_and_locates_what_is_wrong_in_them(tmp_path: Path) -> None:
    import shutil

    from cdp_assets.space.space import SpaceError

    folder = Path(shutil.copytree(MINI, tmp_path / "mini"))
    file = folder / "audiences" / "asked.yaml"
    file.write_text(
        "key: asked\nname: Asked\nquery: |\n  trait('overdue') = true\n  AND NOT trait('active') = true\n  AND trait('logins') > 3\n"
    )
    found = load_space(folder).audiences["asked"].groups[0].conditions
    assert found[:2] == (AudienceCondition(part_of="overdue"), AudienceCondition(not_part_of="active"))
    file.write_text(
        "key: asked\nname: Asked\nquery: |\n  trait('overdue') = false\n  AND trait('asked') = true\n"
        "  AND entity('account').count() >= 1\n  AND trait('logins').contains('a')\n"
    )
    with pytest.raises(SpaceError) as caught:
        load_space(folder)
    assert [str(problem).split(" (")[0] for problem in caught.value.problems] == [
        "audiences/asked.yaml:4: 'overdue' is an audience",
        "audiences/asked.yaml:5: audience 'asked' refers to itself",
        "audiences/asked.yaml:6: there is no relationship 'account' directly below the profile",
        "audiences/asked.yaml:7: operator contains with this value does not fit trait 'logins', which is a number",
    ]
    file.write_text("key: asked\nname: Asked\nquery: |\n  trait('a') = 1\n  AND foo('b') = 1\n")
    with pytest.raises(SpaceError) as caught:
        load_space(folder)
    assert str(caught.value) == (
        "audiences/asked.yaml:5: 'query': foo() cannot stand here (line 2, column 5 of the query) (known here: entity, event, trait)"
    )
    file.write_text("key: asked\nname: Asked\nmatch: all\nquery: trait('a') = 1\n")
    with pytest.raises(SpaceError, match="not both"):
        load_space(folder)
    file.write_text("key: asked\nname: Asked\n")
    with pytest.raises(SpaceError, match="give the conditions, as 'groups' or as 'query'"):
        load_space(folder)
