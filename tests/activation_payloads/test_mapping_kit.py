"""What the recorded vectors do not say: edge cases of the language, the deviations, and what a mapping reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_assets.activation_payloads.mapping_kit import (
    UNDEFINED,
    MappingError,
    json_text,
    map_line,
    prepare,
    reads,
    transform,
    validate_mapping,
    value_keys,
)
from cdp_assets.activation_payloads.mapping_kit.values import number_text

# -- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.a[0].b", 1),
        ("a.0.b", 1),
        ("$.q['x'].y", 2),
        ("$.q['x.y']", 2),
        ("$.s.length", 3),
        ("$.s.1", "t"),
        ("$.a.length", 1),
        ("$.zero.b", 0),
        ("$.none.b.c", None),
        ("$.empty.b", ""),
        ("$.one.b", UNDEFINED),
        ("$", UNDEFINED),
        ("$.a.01", UNDEFINED),
    ],
)
def test_a_path_walks_as_in_javascript(path: str, expected: object) -> None:
    payload = {"a": [{"b": 1}], "q": {"x": {"y": 2}}, "s": "str", "zero": 0, "none": None, "empty": "", "one": 1}
    assert transform({"@path": path}, payload) == expected


@pytest.mark.parametrize("path", ["$.constructor.name", "$.a.__proto__", "$.toString", "$.a.hasOwnProperty"])
def test_names_that_javascript_objects_inherit_are_not_there(path: str) -> None:
    assert transform({"@path": path}, {"a": {}}) is UNDEFINED


def test_a_null_differs_from_nothing() -> None:
    assert transform({"x": {"@path": "$.a"}, "y": {"@path": "$.b"}}, {"a": None}) == {"x": None}


# -- templates -------------------------------------------------------------------------------------------------------


def test_what_the_payload_says_is_never_read_as_a_template() -> None:
    payload = {"name": "{{secret}}", "secret": "s3"}
    assert transform({"@template": "{{{name}}} {{name}}"}, payload) == "{{secret}} {{secret}}"


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (True, "true"),
        (1.0, "1"),
        (1e21, "1e+21"),
        (0.5, "0.5"),
        ([1, None, "a"], "1,,a"),
        ({"a": 1}, "[object Object]"),
        (None, ""),
    ],
)
def test_a_template_prints_values_as_javascript_does(value: object, printed: str) -> None:
    assert transform({"@template": "{{v}}"}, {"v": value}) == printed


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        (1e-7, "1e-7"),
        (1e-6, "0.000001"),
        (123456789012345680000.0, "123456789012345680000"),
        (1.5e300, "1.5e+300"),
        (-0.0, "0"),
        (2**53 + 1, "9007199254740993"),
    ],
)
def test_numbers_print_as_in_javascript(number: float, printed: str) -> None:
    assert number_text(number) == printed


# -- directives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [0, False, "", None])
def test_if_refuses_a_condition_that_is_raw_and_falsy(raw: object) -> None:
    with pytest.raises(MappingError, match='requires an "exists" key or a "blank" key'):
        transform({"@if": {"exists": raw, "then": 1}}, {})


@pytest.mark.parametrize("value", [0, False, [], None, ""])
def test_blank_means_not_blank(value: object) -> None:
    assert transform({"@if": {"blank": {"@path": "$.v"}, "then": 1, "else": 2}}, {"v": value}) == 2
    assert transform({"@if": {"blank": {"@path": "$.v"}, "then": 1, "else": 2}}, {"v": " "}) == 1


def test_a_falsy_else_is_dropped_and_a_null_then_is_kept() -> None:
    assert transform({"@if": {"exists": {"@path": "$.v"}, "then": 1, "else": 0}}, {}) is UNDEFINED
    assert transform({"@if": {"exists": {"@path": "$.v"}, "then": None}}, {"v": 1}) is None


def test_replacements_expand_as_in_javascript() -> None:
    mapping = {"@replace": {"pattern": "b", "replacement": "[$&$$$1]", "value": {"@path": "$.v"}}}
    assert transform(mapping, {"v": "abc"}) == "a[b$$1]c"
    assert transform(mapping, {"v": ["b"]}) == ""


def test_the_second_pair_of_replace_is_limited_when_it_runs() -> None:
    mapping = {"@replace": {"pattern": "b", "pattern2": "x" * 11, "value": {"@path": "$.v"}}}
    assert validate_mapping(mapping) == []
    with pytest.raises(MappingError, match="pattern2"):
        transform(mapping, {"v": "b"})


def test_array_path_shapes_each_item_and_leaves_scalars() -> None:
    shape = {"n": {"@path": "$.a"}}
    assert transform({"@arrayPath": ["$.v", shape]}, {"v": [{"a": 1}, 5, None]}) == [{"n": 1}, {}, {"n": None}]
    assert transform({"@arrayPath": ["$.v", shape]}, {"v": 5}) == 5
    assert transform({"@arrayPath": ["$.v", {"@path": "$.a"}]}, {"v": [{"a": 1}]}) == [1]


def test_merge_lets_nothing_overwrite_something() -> None:
    mapping = {"@merge": {"direction": "right", "objects": [{"a": 1, "b": 2}, {"a": {"@path": "$.none"}}]}}
    assert transform(mapping, {}) == {"b": 2}
    assert transform({"@merge": {"direction": "LEFT", "objects": [{"a": 1}, {"a": 2}]}}, {}) == {"a": 2}


def test_flatten_loses_what_is_empty_and_keeps_null() -> None:
    mapping = {"@flatten": {"value": {"@path": "$.v"}, "separator": "_"}}
    assert transform(mapping, {"v": {"a": {}, "b": [], "c": None, "d": [{"e": 1}]}}) == {"c": None, "d_0_e": 1}
    assert transform(mapping, {"v": 5}) == {"": 5}
    assert transform(mapping, {}) == {}


def test_json_decodes_what_is_json_and_returns_the_rest() -> None:
    mapping = {"@json": {"mode": "decode", "value": {"@path": "$.v"}}}
    assert transform(mapping, {"v": "[1.5,null]"}) == [1.5, None]
    assert transform(mapping, {"v": "NaN"}) == "NaN"
    assert transform({"@json": {"mode": "ENCODE", "value": {"@path": "$.v"}}}, {"v": 1}) is UNDEFINED
    assert transform({"@json": {"mode": "encode", "value": {"@path": "$.v"}}}, {"v": None}) == "null"


def test_elements_of_lists_that_find_nothing_are_null_in_json() -> None:
    mapping = {"list": [{"@path": "$.a"}, {"@path": "$.b"}]}
    assert json_text(transform(mapping, {"a": 1})) == '{"list":[1,null]}'


def test_liquid_is_without_the_clock_and_its_errors_without_values() -> None:
    with pytest.raises(MappingError, match="the current time is disabled, line:1, col:4"):
        transform({"@liquid": "at {{ 'now' | date: '%Y' }}"}, {})
    with pytest.raises(MappingError) as raised:
        transform({"@liquid": "{{ email | divided_by: 0 }}"}, {"email": "a@b.example"})
    assert "a@b" not in str(raised.value)


def test_liquid_prints_whole_numbers_without_a_point() -> None:
    assert transform({"@liquid": "{{ n }}"}, {"n": 2.0}) == "2"


def test_liquid_of_more_than_a_thousand_characters_is_refused() -> None:
    with pytest.raises(MappingError, match="limited to 1000 characters"):
        transform({"@liquid": "x" * 1001}, {})


# -- validation and reading ------------------------------------------------------------------------------------------


def test_all_errors_are_reported_at_once() -> None:
    errors = validate_mapping({"a": {"@path": 1}, "b": {"c": {"@nope": 1}}, "d": {"@if": {"then": {"@template": 1}}}})
    assert errors == [
        "/a/@path should be a string or a mapping directive but it is a number.",
        "/b/c has an invalid directive: @nope.",
        "/d/@if/then/@template should be a string or a mapping directive but it is a number.",
    ]


def test_a_prepared_mapping_gives_what_transform_gives() -> None:
    mapping = {"a": {"@template": "{{x}}"}, "b": [{"@path": "$.y"}]}
    apply = prepare(mapping)
    for payload in ({"x": 1, "y": 2}, {}, {"y": None}):
        assert apply(payload) == transform(mapping, payload)


def test_value_keys_are_listed_as_written() -> None:
    mapping = {
        "a": {"@template": "{{x.y}}-{{{test}}}"},
        "b": {"@path": "$.properties.s"},
        "c": {"@arrayPath": [{"@template": "{{products}}"}, {"id": {"@path": "$.productId"}}]},
        "d": {"@literal": {"@path": "$.hidden"}},
        "e": {"@if": {"exists": {"@path": "$.e"}, "then": {"@case": {"operator": "lower", "value": {"@path": "$.f"}}}}},
        "f": {"@liquid": "{{ traits.z | upcase }}"},
    }
    keys = ["x.y", "test", "$.properties.s", "products", "$.productId", "$.e", "$.f", "traits.z"]
    assert value_keys(mapping) == keys


def test_reads_is_sound_where_value_keys_is_not() -> None:
    assert reads({"d": {"@literal": {"@path": "$.hidden"}}, "x": {"@excludeWhenNull": {"@path": "$.a.b"}}}) == frozenset(
        {("hidden",), ("a", "b")}
    )
    assert reads({"d": {"@path": {"@path": "$.which"}}}) is None
    assert reads({"d": {"@path": "$."}}) is None


# -- the command line ------------------------------------------------------------------------------------------------


def test_a_line_that_is_no_mapping_is_an_error_of_its_own() -> None:
    assert json.loads(map_line("{"))["error"] == "the line is not JSON"
    assert "mapping" in json.loads(map_line("[]"))["error"]
    assert map_line('{"mapping":{"@path":"$.a"},"payload":{}}') == '{"output":null}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text().filter(lambda k: not k.startswith("@")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1).filter(lambda k: k[0] not in "@_"), json_values, max_size=4))
def test_a_mapping_without_directives_is_itself(mapping: dict[str, object]) -> None:
    assert transform(mapping, {}) == mapping


@given(json_values)
def test_encoding_then_decoding_gives_the_value_back(value: object) -> None:
    encoded = transform({"@json": {"mode": "encode", "value": {"@path": "$.v"}}}, {"v": value})
    assert transform({"@json": {"mode": "decode", "value": {"@path": "$.v"}}}, {"v": encoded}) == value
