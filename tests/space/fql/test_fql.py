"""FQL as a language: what texts mean, what is refused, and that nothing else than FqlError ever comes out."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.space.fql import (
    FqlError,
    compile,
    compile_value,
    fixed,
    generate,
    generate_subscription,
    matches,
    parse,
    parse_subscription,
    parse_value,
    paths,
)
from cdp_assets.space.fql.tree import And, Call, Compare, ListOf, Literal, Not, Or, Path

CLICK = {
    "event": "Button Clicked",
    "type": "track",
    "context": {"library": {"name": "analytics.js", "version": "1.0"}},
    "properties": {
        "features": ["discounts", "dark-mode"],
        "product 1": {"price": "19.99"},
        "count": 5,
        "vip": True,
        "word": "yes",
        "kana": "ア",
        "none": None,
    },
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the examples of Segment's own page
        ("event = 'Button Clicked'", True),
        ("event = 'Screen Tapped'", False),
        ("context.path.path = '/login'", False),
        ("type = 'identify' or type = 'track'", True),
        ("event = 'Button Clicked' and type = 'track'", True),
        ("match( context.library.version, '1.*' )", True),
        ("match( context.library.version, '2.*' )", False),
        ("type = 'track' and ( event = 'Click' or match( event, 'Button *' ) )", True),
        ("!contains( context.library.name, 'js' )", False),
        ("'dark-mode' in properties.features", True),
        ("'blink' in properties.features", False),
        (r"properties.product\ 1.price = '19.99'", True),
        ("!( type in ['track', 'identify'] )", False),
        ("( type = 'track' or type = 'identify' ) and ( properties.enabled or match( traits.email, '*@company.com' ) )", False),
        # strict by type
        ('properties.count = "5"', False),
        ("properties.count = 5.0", True),
        ('properties.count != "5"', True),
        ("properties.vip = 1", False),
        ("properties.vip = true", True),
        ("properties.vip", True),
        ("!properties.vip", False),
        ("properties.vip != true", False),
        ("properties.features = ['discounts', 'dark-mode']", True),
        ("properties.features = ['dark-mode']", False),
        ("true in [1]", False),
        ('string(properties.count) = "5"', True),
        ('number("5") = properties.count', True),
        ('number("five") = null', True),
        ("bool('TRUE')", True),
        ("bool('perhaps')", False),
        # numbers only
        ("properties.count >= 5", True),
        ("properties.count < 5", False),
        ("number(context.library.version) > 0.5", True),
        ("context.library.version > 0", False),
        # null-safe
        ("contains(properties.nothing, 'x')", False),
        ("length(userId) > 0", False),
        ("length(userId) = 0", True),
        ("lowercase(userId) = null", True),
        ("typeof(userId) = 'null'", True),
        ("match(userId, '*')", False),
        ("properties.none = null", True),
        ("properties.count.deeper.still = null", True),
        ("properties.nothing < 5", False),
        ("null in [null]", True),
        # functions
        ("length(properties.kana) = 3", True),
        ("length(properties.features) = 2", True),
        ("length(context) = null", True),
        ("uppercase(type) = 'TRACK'", True),
        ("snakecase(event) = 'Button_Clicked'", True),
        ("kebabcase(lowercase(event)) = 'button-clicked'", True),
        ("titlecase('test string') = 'Test String'", True),
        ("typeof(properties.features) = 'list'", True),
        ("typeof(properties.vip) = 'bool'", True),
        ("properties.features.1 = 'dark-mode'", True),
        ("properties.features.2 = null", True),
    ],
)
def test_what_a_text_means(text: str, expected: bool) -> None:
    assert compile(text)(CLICK) is expected
    assert compile(generate(parse(text)))(CLICK) is expected


@pytest.mark.parametrize(
    ("value", "pattern", "expected"),
    [
        ("abcd", "a*d", True),
        ("", "*", True),
        ("abc", "ab", False),
        ("abcd", "a??d", True),
        ("abcd", "*d", True),
        ("ab*d", r"ab\*d", True),
        ("abxd", r"ab\*d", False),
        ("abCd", "ab[cC]d", True),
        ("abcd", "ab[a-z]d", True),
        ("abcd", "ab[A-Z]d", False),
        ("a-c", "a[a-]c", True),
        ("a\nb", "a*b", True),
        ("a.c", "a.c", True),
        ("abc", "a.c", False),
        ("abab", "*ab", True),
        ("aab", "*a*b*", True),
        ("ab", "b*a", False),
    ],
)
def test_globs(value: str, pattern: str, expected: bool) -> None:
    assert compile(f'match(properties.x, "{pattern}")')({"properties": {"x": value}}) is expected
    dynamic = {"properties": {"x": value, "p": pattern}}
    assert compile("match(properties.x, properties.p)")(dynamic) is expected


def test_a_glob_does_not_get_slow_on_a_text_that_nearly_matches() -> None:
    predicate = compile('match(properties.x, "*a*a*a*a*a*a*a*a*b")')
    start = time.perf_counter()
    assert predicate({"properties": {"x": "a" * 2_000}}) is False
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("text", "cause", "position"),
    [
        ("", "ends where a value should be", 1),
        ("type", "Value token is missing", 1),
        ("type = ", "ends where a value should be", 8),
        ("typo = 'x'", "unknown field 'typo'", 1),
        ("userId.x = 1", "no fields of its own", 1),
        ('type * "a"', "cannot stand here", 6),
        ('event = "a', "not closed", 9),
        ('event = oops"', "not closed", 13),
        ("event = 'a' and type = 'b' or name = 'c'", "mixed", 28),
        ("(event = 'a' or type = 'b' and name = 'c')", "mixed", 28),
        ("event = 'a' AND type = 'b'", "'AND' cannot stand here", 13),
        ("event = 'a' type = 'b'", "belongs to nothing", 13),
        ("(event = 'a'", "')' is missing", 13),
        ("event = 'a')", "belongs to nothing", 12),
        ("! event = 'a'", "'!' before a comparison", 3),
        ("event > 'a'", "compares numbers only", 7),
        ("[1] < 2", "compares numbers only", 5),
        ("type in 'a'", "'in' without a list", 9),
        ("len(event) > 1", "unknown function 'len'", 1),
        ("contains(event)", "takes 2 values, not 1", 1),
        ("length()", "takes 1 values, not 0", 1),
        ("length(event)", "Value token is missing", 1),
        ("'a'", "Value token is missing", 1),
        ("event = 1e999", "too large", 9),
        ('match(event, "[a")', "class that is open", 1),
        ('match(event, "[z-a]")', "runs backwards", 1),
        ('match(event, "a\\")', "ends with a backslash", 1),
        ("match(event, 5)", "not a text", 1),
        ("event = 'a' && type = 'b'", "a sign that FQL does not have", 13),
        ("properties.größe = 1", "cannot stand here", 14),
        ("!" * 60 + "properties.x", "nested more than 50", 51),
        ("(" * 60 + "properties.x" + ")" * 60, "nested more than 50", 51),
        ("properties.x = " + "lowercase(" * 60 + "'a'" + ")" * 60, "nested more than 50", None),
        ("event = '" + "a" * 10_000 + "'", "more than 10000", 10_000),
    ],
)
def test_what_is_refused_says_where_why_and_what_to_do(text: str, cause: str, position: int | None) -> None:
    with pytest.raises(FqlError) as caught:
        parse(text)
    assert cause in caught.value.cause
    assert caught.value.remedy
    assert caught.value.position == position if position else caught.value.position


def test_a_misspelt_word_gets_the_nearest_one() -> None:
    with pytest.raises(FqlError, match="did you mean 'properties'"):
        parse("propeties.x = 1")
    with pytest.raises(FqlError, match="did you mean 'contains'"):
        parse("contain(event, 'x')")


@pytest.mark.parametrize("text", ["properties.word", "!properties.count", "properties.features and type = 'track'"])
def test_a_condition_without_an_answer_is_an_error_that_does_not_quote_the_value(text: str) -> None:
    predicate = compile(text)
    with pytest.raises(FqlError) as caught:
        predicate(CLICK)
    assert "yes" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lowercase(event)", "button clicked"),
        ("properties.count", 5),
        ("event = 'Button Clicked'", True),
        ("(type = 'x')", False),
        ("!properties.vip", False),
        ("'fixed'", "fixed"),
        ("length(properties.nothing)", 0),
    ],
)
def test_a_value_may_be_any_expression(text: str, expected: Any) -> None:
    assert compile_value(text)(CLICK) == expected


@pytest.mark.parametrize("text", ["", "lowercase(event", "event event", "nothing(event)"])
def test_a_value_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FqlError):
        compile_value(text)


def test_negation_binds_tighter_than_and_and_or() -> None:
    assert parse("!properties.a and properties.b") == And((Not(Path(("properties", "a"))), Path(("properties", "b"))))
    assert parse("!(properties.a and properties.b)") == Not(And((Path(("properties", "a")), Path(("properties", "b")))))
    assert parse("!!properties.a") == Not(Not(Path(("properties", "a"))))


def test_comparisons_bind_tighter_than_and_and_or() -> None:
    one, two = Compare("=", Path(("type",)), Literal("a")), Compare("!=", Path(("event",)), Literal(None))
    assert parse("type = 'a' or event != null") == Or((one, two))
    assert parse("(type = 'a') or (event != null)") == Or((one, two))


def test_parentheses_nest_and_keep_their_groups() -> None:
    text = "type = 'a' and (event = 'b' or (event = 'c' and contains(name, 'd')))"
    found = parse(text)
    assert isinstance(found, And)
    assert isinstance(found.of[1], Or)
    assert isinstance(found.of[1].of[1], And)
    assert isinstance(parse("type = 'a' and (type = 'b' and type = 'c')").of[1], And)  # type: ignore[union-attr]


def test_the_paths_that_a_text_reads() -> None:
    found = paths(parse(r"length(properties.a\.b.c) > 1 and ('x' in traits.t or !(userId = context.page.url))"))
    assert found == {("properties", "a.b", "c"), ("traits", "t"), ("userId",), ("context", "page", "url")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type = 'track' and event = 'a'", {"type": {"track"}, "event": {"a"}}),
        ("'track' = type", {"type": {"track"}}),
        ("event in ['a', 'b'] and event = 'a'", {"event": {"a"}}),
        ("event = 'a' and event in ['a', 'b']", {"event": {"a"}}),
        ("event = 'a' and event = 'b'", {"event": set()}),
        ("(type = 'track' and event = 'a') or (type = 'track' and event = 'b')", {"type": {"track"}, "event": {"a", "b"}}),
        ("type = 'track' or event = 'a'", {}),
        ("!(type = 'track')", {}),
        ("type != 'track'", {}),
        ("event in ['a', null]", {}),
        ("lowercase(event) = 'a'", {}),
        ("event = properties.x", {}),
    ],
)
def test_what_a_text_fixes(text: str, expected: dict[str, set[str]]) -> None:
    assert fixed(parse(text)) == expected


# -- random trees and texts ----------------------------------------------------------------------------------------------

KEYS = st.text(min_size=1, max_size=6)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
# A text with both kinds of quotes is the one that FQL cannot write.
TEXTS = st.text(max_size=8).filter(lambda text: not ('"' in text and "'" in text))
LITERALS = st.builds(Literal, st.none() | st.booleans() | NUMBERS | TEXTS)
DEEP_PATHS = st.builds(
    lambda top, below: Path((top, *below)),
    st.sampled_from(["properties", "traits", "context", "integrations"]),
    st.lists(KEYS, min_size=1, max_size=3),
)
PATHS = DEEP_PATHS | st.sampled_from([Path((name,)) for name in ("type", "event", "name", "userId", "properties", "messageId")])
LISTS = st.builds(ListOf, st.lists(LITERALS, max_size=3).map(tuple))
ONE = ("length", "lowercase", "uppercase", "snakecase", "kebabcase", "titlecase", "typeof", "string", "number", "bool")
VALUES = st.recursive(
    LITERALS | PATHS | LISTS,
    lambda inner: (
        st.builds(lambda name, value: Call(name, (value,)), st.sampled_from(ONE), inner)
        | st.builds(lambda left, right: Call("contains", (left, right)), inner, inner)
    ),
    max_leaves=4,
)
NUMERIC = PATHS | st.builds(Literal, NUMBERS) | st.builds(lambda value: Call("number", (value,)), PATHS)
PLAIN = (
    st.builds(Compare, st.sampled_from(["=", "!="]), VALUES, VALUES)
    | st.builds(Compare, st.sampled_from(["<", "<=", ">", ">="]), NUMERIC, NUMERIC)
    | st.builds(Compare, st.just("in"), VALUES, LISTS | PATHS)
    | DEEP_PATHS
    | st.builds(Literal, st.booleans())
    | st.builds(lambda left, right: Call("contains", (left, right)), VALUES, VALUES)
    | st.builds(lambda value: Call("bool", (value,)), VALUES)
    | st.builds(lambda path: Call("match", (path, Literal("a*[b-d]\\*?"))), PATHS)
)


def joined(inner: st.SearchStrategy) -> st.SearchStrategy:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(Not, inner) | st.builds(And, several) | st.builds(Or, several)


CONDITIONS = st.recursive(PLAIN, joined, max_leaves=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "true", "5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries({}, optional=dict.fromkeys(("type", "event", "userId", "properties", "traits", "context"), JSON))


@settings(max_examples=200, deadline=None)
@given(CONDITIONS)
def test_every_tree_is_the_tree_of_its_text(tree: Any) -> None:
    # By repr, which tells true from 1; 5.0 is written as 5.
    again = parse(generate(tree))
    assert again == tree
    assert parse(generate(again)) == again
    assert repr(again) == repr(parse(generate(again)))


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_every_value_is_the_value_of_its_text(tree: Any) -> None:
    assert parse_value(generate(tree)) == tree


@pytest.mark.parametrize("tree", [Literal("a\"b'c"), Path(("properties", "")), Literal(float("nan"))])
def test_what_no_text_says_is_refused(tree: Any) -> None:
    with pytest.raises(FqlError):
        generate(tree)


WORDS = """and or in ! ( ) [ ] , = != < >= ' " 'a' "b" 1 -2.5e3 1e999 null true type event properties.a traits.b\\ contains length
match typo \\ . * ä"""
FRAGMENTS = st.lists(st.sampled_from(WORDS.split()), max_size=14).map(" ".join)


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=40) | FRAGMENTS, MESSAGES)
def test_no_text_and_no_message_raises_anything_but_fql_error(text: str, message: Any) -> None:
    for read in (compile, compile_value, parse_subscription):
        try:
            found = read(text)
            if callable(found):
                found(message)
        except FqlError as error:
            assert error.cause
            assert error.remedy


@settings(max_examples=200, deadline=None)
@given(CONDITIONS, MESSAGES)
def test_every_tree_has_an_answer_or_an_fql_error_and_fixed_fields_hold(tree: Any, message: Any) -> None:
    try:
        answer = compile(generate(tree))(message)
    except FqlError:
        return
    assert isinstance(answer, bool)
    if answer:
        assert all(message.get(field) in texts for field, texts in fixed(tree).items())


# -- the subscription form -----------------------------------------------------------------------------------------------

NAMES = st.lists(st.text(min_size=1, max_size=4).filter(lambda key: "." not in key), min_size=1, max_size=3).map(".".join)
SUBJECTS = st.builds(
    lambda kind, name: {"type": kind, "name": name}, st.sampled_from(["event-property", "event-trait", "event-context"]), NAMES
)
TOPS = st.sampled_from([{"type": kind} for kind in ("event-type", "event", "name", "userId")])
LEAVES = (
    st.builds(
        lambda subject, sign, text: {**subject, "operator": sign, "value": text},
        SUBJECTS | TOPS,
        st.sampled_from(["=", "!=", "contains", "not_contains"]),
        TEXTS,
    )
    | st.builds(
        lambda subject, sign, text: {**subject, "operator": sign, "value": text},
        SUBJECTS | TOPS,
        st.sampled_from(["starts_with", "ends_with", "not_starts_with", "not_ends_with"]),
        TEXTS.filter(bool),
    )
    | st.builds(
        lambda subject, sign, number: {**subject, "operator": sign, "value": number},
        SUBJECTS,
        st.sampled_from(["<", "<=", ">", ">=", "number_equals", "number_not_equals"]),
        NUMBERS,
    )
    | st.builds(
        lambda subject, sign: {**subject, "operator": sign},
        SUBJECTS | TOPS,
        st.sampled_from(["exists", "not_exists", "is_true", "is_false"]),
    )
)


def group(children: st.SearchStrategy, least: int = 2) -> st.SearchStrategy:
    return st.builds(
        lambda operator, parts: {"type": "group", "operator": operator, "children": parts},
        st.sampled_from(["and", "or"]),
        st.lists(children, min_size=least, max_size=3),
    )


SUBSCRIPTIONS = st.builds(lambda leaf: {"type": "group", "operator": "and", "children": [leaf]}, LEAVES) | group(
    st.recursive(LEAVES, group, max_leaves=6)
)


@settings(max_examples=200, deadline=None)
@given(SUBSCRIPTIONS, MESSAGES)
def test_every_subscription_is_the_subscription_of_its_text(tree: Any, message: Any) -> None:
    again = parse_subscription(generate_subscription(tree))
    assert again == tree
    assert matches(again, message) is matches(tree, message)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("properties.x != true", "write = with the other word"),
        ("userId = 5", "put the number in quotes"),
        ("event in ['a']", "compare with one value"),
        ("!(event = 'a')", "comparisons, contains and match"),
        ("properties.vip", "comparisons, contains and match"),
        ("match(event, 'a?c')", "'start\\*' or '\\*end'"),
        ("match(event, '*a*')", "'start\\*' or '\\*end'"),
        ("match(event, 'abc')", "'start\\*' or '\\*end'"),
        ("length(properties.x) = 1", "put a field on the left"),
        ("anonymousId = 'a'", "put a field on the left"),
        ("'a' = event", "put a field on the left"),
        (r"properties.a\.b = 'a'", "without a dot"),
        ("contains(event, properties.x)", "a text in quotes"),
        ("event = properties.x", "compare with one value"),
    ],
)
def test_what_the_subscription_form_cannot_say_is_refused(text: str, remedy: str) -> None:
    with pytest.raises(FqlError, match=remedy):
        parse_subscription(text)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        None,
        {"type": "group", "operator": "and", "children": []},
        {"type": "group", "operator": "xor", "children": [{"type": "event", "operator": "exists"}]},
        {"type": "group", "operator": "and", "children": [{"type": "event", "operator": "like", "value": "a"}]},
        {"type": "group", "operator": "and", "children": [{"type": "event", "operator": "=", "value": None}]},
        {"type": "group", "operator": "and", "children": [{"type": "event-property", "operator": "exists"}]},
        {
            "type": "group",
            "operator": "and",
            "children": [{"type": "event-property", "name": "x", "operator": "<", "value": "many"}],
        },
        {
            "type": "group",
            "operator": "and",
            "children": [{"type": "event-property", "name": "x", "operator": "<", "value": "9" * 500}],
        },
    ],
)
def test_a_tree_that_is_none_matches_nothing(tree: Any) -> None:
    assert matches(tree, {"event": "a", "properties": {"x": 1}}) is False
    with pytest.raises(FqlError):
        generate_subscription(tree)


@pytest.mark.parametrize("operator", ["not_contains", "not_starts_with", "not_ends_with"])
def test_a_negated_condition_of_a_subscription_needs_a_text(operator: str) -> None:
    tree = {
        "type": "group",
        "operator": "and",
        "children": [{"type": "event-property", "name": "x", "operator": operator, "value": "b"}],
    }
    assert matches(tree, {"properties": {"x": "a"}}) is True
    assert matches(tree, {"properties": {}}) is False
    assert matches(tree, {"properties": {"x": 5}}) is False
    assert compile(generate_subscription(tree))({"properties": {}}) is True  # as a filter it does not
